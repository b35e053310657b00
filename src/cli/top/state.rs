//! What is known, and what of it the user looks at. Pure: the time comes with each call.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::ask::{Answer, Said, Wanted};
use super::rows::{self, Row, Target};
use crate::board::{Board, Filter};
use crate::job::{JobName, RunId};
use crate::ledger::{News, RunRow, TermRow};
use crate::page::Looker;
use crate::page::changes::Recorded;
use crate::page::frame::Frame;
use crate::page::leadership::Queue;
use crate::time::{Boot, Wall};

/// The longest text that is searched for, in characters.
const TEXT_MOST: usize = 100;

/// How many rows a key for pages moves by, beside the height of the list.
const OVERLAP: u16 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    Now,
    Jobs,
    Run,
    Leadership,
}

impl Screen {
    pub const ALL: [(Screen, &'static str); 4] =
        [(Screen::Now, "Now"), (Screen::Jobs, "Jobs"), (Screen::Run, "Run"), (Screen::Leadership, "Leadership")];

    fn index(self) -> usize {
        Screen::ALL.iter().position(|(screen, _)| *screen == self).unwrap_or(0)
    }

    fn beside(self, by: isize) -> Screen {
        let count = Screen::ALL.len() as isize;
        Screen::ALL[(self.index() as isize + by).rem_euclid(count) as usize].0
    }
}

/// The states that a list of jobs is narrowed to, in the order in which a key chooses them.
const FILTERS: [Option<Filter>; 5] =
    [None, Some(Filter::Failing), Some(Filter::Late), Some(Filter::Running), Some(Filter::Paused)];

/// What has to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Show,
    /// Stop the process, as a shell does.
    Stop,
    Quit,
}

/// What the store has answered beside what is followed.
#[derive(Debug)]
pub(super) struct Seen {
    /// The runs in doubt, and whether there are more; or why that is not known.
    pub unknown: Result<(Vec<RunId>, bool), String>,
    pub recorded: Result<Recorded, String>,
    pub queue: Result<Queue, String>,
    pub terms: Result<Vec<TermRow>, String>,
    /// Runs of a job, the newest first.
    pub runs: Option<(JobName, Vec<RunRow>)>,
    /// Why it does not answer what it is asked; `None`: it does.
    pub unanswered: Option<String>,
    /// Why it cannot be followed; `None`: it can.
    pub unheard: Option<String>,
}

impl Seen {
    /// Why the store is away, or what is shown may be old; `None`: neither.
    pub fn away(&self) -> Option<&String> {
        self.unheard.as_ref().or(self.unanswered.as_ref())
    }
}

/// Where the user is in a list.
#[derive(Clone, Debug, Default)]
struct Place {
    /// The row that is chosen: what it is about, and where it was.
    target: Option<Target>,
    row: usize,
    /// The first row that is shown.
    first: usize,
    /// A key has chosen a row. Before that, the screen that is looked at first marks a run that is at its top, and nothing
    /// where there is none: what fires next changes by itself.
    is_chosen: bool,
}

pub(super) struct Top {
    pub board: Board,
    pub namespace: String,
    /// The store, as people name it.
    pub store: String,
    /// The key of the owner of the leadership.
    pub owner_key: String,
    /// A jobs file says when jobs are due.
    pub has_file: bool,
    pub is_coloured: bool,
    pub seen: Seen,
    pub screen: Screen,
    /// The screen that a run was opened from.
    from: Screen,
    pub job: Option<JobName>,
    pub run: Option<RunId>,
    /// The text in the names or descriptions of the jobs that are listed.
    pub text: String,
    /// The text is being written.
    pub is_finding: bool,
    pub filter: Option<Filter>,
    pub shows_help: bool,
    places: [Place; Screen::ALL.len()],
    /// The width of a row and the height of the list, as it was last drawn.
    pub size: (u16, u16),
}

impl Top {
    pub fn new(board: Board, has_file: bool, is_coloured: bool) -> Top {
        let not_asked = || "the store has not been asked yet".to_owned();
        Top {
            board,
            namespace: String::new(),
            store: String::new(),
            owner_key: String::new(),
            has_file,
            is_coloured,
            seen: Seen {
                unknown: Err(not_asked()),
                recorded: Err(not_asked()),
                queue: Err(not_asked()),
                terms: Err(not_asked()),
                runs: None,
                unanswered: None,
                unheard: None,
            },
            screen: Screen::Now,
            from: Screen::Jobs,
            job: None,
            run: None,
            text: String::new(),
            is_finding: false,
            filter: None,
            shows_help: false,
            places: Default::default(),
            size: (80, 20),
        }
    }

    pub fn frame(&self, now: (Boot, Wall)) -> Frame {
        Frame::of(&self.board, None, &self.namespace, now, Looker::of_store())
    }

    /// What the store has to be asked for what is shown.
    pub fn wanted(&self) -> Wanted {
        match (self.screen, &self.job) {
            (Screen::Leadership, _) => Wanted::Leadership,
            (Screen::Run, Some(job)) => Wanted::Runs(job.clone(), self.run.clone()),
            _ => Wanted::Unknown,
        }
    }

    /// News of the ledger.
    pub fn heard(&mut self, news: &News, now: Wall) {
        self.board.take(news, &self.owner_key, now);
        self.seen.unheard = None;
    }

    pub fn said(&mut self, said: Said) {
        match said {
            Said::Unanswered(why) => self.seen.unanswered = Some(why),
            Said::Unheard(why) => self.seen.unheard = Some(why),
            Said::Ended(error) => self.seen.unheard = Some(error.to_string()),
            Said::Answer(answer, asked_at) => {
                self.seen.unanswered = None;
                // Nothing may have happened for long: the answer shows that nothing was missed, where news come. Before the
                // ledger has been read there is nothing that it could confirm.
                if self.board.current_at().is_some() && self.seen.unheard.is_none() {
                    self.board.is_current(asked_at);
                }
                match answer {
                    Answer::Unknown(runs, more, recorded) => {
                        (self.seen.unknown, self.seen.recorded) = (Ok((runs, more)), Ok(recorded));
                    }
                    Answer::Leadership(queue, terms) => {
                        (self.seen.queue, self.seen.terms) = (Ok(queue), Ok(terms));
                    }
                    Answer::Runs(job, rows) => {
                        // The run that is read stays: a newer one does not take its place.
                        if self.run.is_none() && self.job.as_ref() == Some(&job) {
                            self.run = rows.first().map(|row| row.id().clone());
                        }
                        self.seen.runs = Some((job, rows));
                    }
                }
            }
        }
    }

    /// The runs of the job that is looked at, the newest first; `None`: they are not known yet.
    pub fn runs(&self) -> Option<&[RunRow]> {
        self.seen.runs.as_ref().filter(|(job, _)| Some(job) == self.job.as_ref()).map(|(_, rows)| rows.as_slice())
    }

    /// The run that is looked at, by its place among them; where none was chosen, the newest. `None`: it has not been read,
    /// or is not there any more: no other one is shown in its place.
    pub fn run_shown(&self) -> Option<(usize, &RunRow)> {
        let rows = self.runs()?;
        let at = match &self.run {
            Some(run) => rows.iter().position(|row| row.id() == run)?,
            None => 0,
        };
        rows.get(at).map(|row| (at, row))
    }

    pub fn rows(&self, now: (Boot, Wall)) -> Vec<Row> {
        rows::rows(self, &self.frame(now), usize::from(self.size.0))
    }

    pub fn key(&mut self, key: KeyEvent, now: (Boot, Wall)) -> Act {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Act::Quit,
                KeyCode::Char('z') => return Act::Stop,
                KeyCode::Char('u') if self.is_finding => self.text.clear(),
                _ => {}
            }
            return Act::Show;
        }
        if self.shows_help {
            self.shows_help = false;
            return if key.code == KeyCode::Char('q') { Act::Quit } else { Act::Show };
        }
        if self.is_finding {
            self.write(key.code, now);
            return Act::Show;
        }
        match key.code {
            KeyCode::Char('q') => return Act::Quit,
            KeyCode::Char('?') => self.shows_help = true,
            KeyCode::Char('/') => {
                self.screen = Screen::Jobs;
                self.is_finding = true;
            }
            KeyCode::Char(digit @ '1'..='4') => self.screen = Screen::ALL[digit as usize - '1' as usize].0,
            KeyCode::Tab => self.screen = self.screen.beside(1),
            KeyCode::BackTab => self.screen = self.screen.beside(-1),
            KeyCode::Char('f') if self.screen == Screen::Jobs => {
                let at = FILTERS.iter().position(|filter| *filter == self.filter).unwrap_or(0);
                self.filter = FILTERS[(at + 1) % FILTERS.len()];
            }
            KeyCode::Left | KeyCode::Char('h') if self.screen == Screen::Run => self.other_run(-1),
            KeyCode::Right | KeyCode::Char('l') if self.screen == Screen::Run => self.other_run(1),
            KeyCode::Enter => self.open(now),
            KeyCode::Esc => self.back(),
            code => self.step(code, now),
        }
        Act::Show
    }

    /// A key while the text is written that jobs are found by.
    fn write(&mut self, code: KeyCode, now: (Boot, Wall)) {
        match code {
            KeyCode::Esc => {
                self.is_finding = false;
                self.text.clear();
            }
            KeyCode::Enter => self.is_finding = false,
            KeyCode::Backspace => drop(self.text.pop()),
            KeyCode::Char(c) if self.text.chars().count() < TEXT_MOST => self.text.push(c),
            KeyCode::Up | KeyCode::Down => self.step(code, now),
            _ => {}
        }
    }

    fn back(&mut self) {
        match self.screen {
            Screen::Run => self.screen = self.from,
            Screen::Jobs if !self.text.is_empty() || self.filter.is_some() => {
                self.text.clear();
                self.filter = None;
            }
            Screen::Jobs | Screen::Leadership | Screen::Now => self.screen = Screen::Now,
        }
    }

    /// Opens what the chosen row is about.
    fn open(&mut self, now: (Boot, Wall)) {
        let rows = self.rows(now);
        self.settle(&rows);
        let Some(target) = self.places[self.screen.index()].target.clone() else { return };
        let (job, run) = match target {
            Target::Run(run) => (run.job(), Some(run)),
            // The one that runs, or the last one; of both the store may know more.
            Target::Job(job) => (job, None),
        };
        self.from = self.screen;
        (self.job, self.run) = (Some(job), run);
        self.screen = Screen::Run;
        self.places[Screen::Run.index()] = Place::default();
    }

    /// Goes to a run before or after the one that is looked at, of the same job.
    fn other_run(&mut self, by: isize) {
        let Some((at, _)) = self.run_shown() else { return };
        let other = self.runs().and_then(|rows| rows.get(at.checked_add_signed(by)?)).map(|row| row.id().clone());
        if let Some(other) = other {
            self.run = Some(other);
            self.places[Screen::Run.index()] = Place::default();
        }
    }

    /// Moves in the list.
    fn step(&mut self, code: KeyCode, now: (Boot, Wall)) {
        let page = isize::try_from(self.size.1.saturating_sub(OVERLAP).max(1)).unwrap_or(1);
        let by = match code {
            KeyCode::Down | KeyCode::Char('j') => 1,
            KeyCode::Up | KeyCode::Char('k') => -1,
            KeyCode::PageDown | KeyCode::Char(' ') => page,
            KeyCode::PageUp => -page,
            KeyCode::Home => isize::MIN,
            KeyCode::End => isize::MAX,
            _ => return,
        };
        let rows = self.rows(now);
        let (_, marked) = self.settle(&rows);
        let stops = stops(&rows);
        let place = &mut self.places[self.screen.index()];
        if marked.is_none() && !stops.is_empty() {
            // The first key marks a row, and moves no further.
            place.is_chosen = true;
            place.row = if by == isize::MAX { stops[stops.len() - 1] } else { stops[0] };
            place.target.clone_from(&rows[place.row].target);
            self.settle(&rows);
            return;
        }
        place.is_chosen = true;
        match stops.iter().position(|row| *row == place.row) {
            Some(at) => {
                let next = at.saturating_add_signed(by).min(stops.len() - 1);
                place.row = stops[next];
                place.target = rows[place.row].target.clone();
                // What stands above the first row that can be chosen, and below the last one, is seen by going on.
                if next == at {
                    place.first = place.first.saturating_add_signed(by);
                } else if next == 0 {
                    place.first = 0;
                }
            }
            None => place.first = place.first.saturating_add_signed(by),
        }
        self.settle(&rows);
    }

    /// Finds the chosen row again, which may have moved, and sees to it that it is shown. Answers the first row that is
    /// shown, and the chosen one.
    pub fn settle(&mut self, rows: &[Row]) -> (usize, Option<usize>) {
        let height = usize::from(self.size.1).max(1);
        let place = &mut self.places[self.screen.index()];
        let stops = stops(rows);
        let is_of_a_run = |row: &usize| matches!(rows[*row].target, Some(Target::Run(_)));
        if self.screen == Screen::Now && !place.is_chosen && !stops.first().is_some_and(is_of_a_run) {
            (place.target, place.first) = (None, 0);
            return (0, None);
        }
        let near = |row: &&usize| row.abs_diff(place.row);
        let same = stops.iter().filter(|row| place.target.is_some() && rows[**row].target == place.target);
        let Some(chosen) = same.min_by_key(near).or_else(|| stops.iter().min_by_key(near)).copied() else {
            place.target = None;
            place.first = place.first.min(rows.len().saturating_sub(height));
            return (place.first, None);
        };
        place.row = chosen;
        place.target.clone_from(&rows[chosen].target);
        // The chosen one is shown, but for where what is looked at stands before the first or behind the last such row.
        let (least, most) = ((chosen + 1).saturating_sub(height), chosen);
        let least = if stops.first() == Some(&chosen) { 0 } else { least };
        let most = if stops.last() == Some(&chosen) { usize::MAX } else { most };
        place.first = place.first.clamp(least, most).min(rows.len().saturating_sub(height));
        (place.first, Some(chosen))
    }
}

/// The rows that can be chosen.
fn stops(rows: &[Row]) -> Vec<usize> {
    rows.iter().enumerate().filter(|(_, row)| row.target.is_some()).map(|(index, _)| index).collect()
}
