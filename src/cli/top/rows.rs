//! The rows of each screen. Pure: what is known, and the time, decide them.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::draw::counts;
use super::state::{Screen, Top};
use crate::board::{FindJobs, JobRow, JobState, PAGE_MOST, Paused};
use crate::job::definition::Definition;
use crate::job::{JobName, RunId, Verdict};
use crate::ledger::{HandOver, RunRow, TermRow};
use crate::page::ansi;
use crate::page::frame::Frame;
use crate::page::leadership::{Leadership, role_word, term_word};
use crate::page::now::{NEEDS_NOTHING, NONE_FIRES, NONE_LATE, NONE_OPEN, Now, needs_nothing};
use crate::page::run::steps;
use crate::page::words::{Look, close_distance, grouped, job_word, nothing_kept, open_word, shown, took, verdict_word};
use crate::scheduler::run::Open;
use crate::time::Wall;

/// How many lines of what a run wrote are shown, the last ones.
const OUTPUT_LINES: usize = 2_000;

/// How many rows a wrapped text takes at most.
const WRAPPED_MOST: usize = 6;

/// How wide the column of a state is.
const STATE: usize = 13;

/// How wide that of a name is, at least and at most: as wide as the longest name takes, where what is said behind it is
/// left so much.
const NAME: (usize, usize) = (22, 102);
const SAID: usize = 34;

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Its last run, or the one that runs.
    Job(JobName),
    Run(RunId),
}

/// A line of a list.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub line: Line<'static>,
    /// `None`: it cannot be chosen.
    pub target: Option<Target>,
}

impl Row {
    fn said(line: impl Into<Line<'static>>) -> Row {
        Row { line: line.into(), target: None }
    }
}

/// How things look. A state has its word and its sign; a colour comes on top, where colours are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ink {
    pub is_coloured: bool,
}

impl Ink {
    pub fn of(self, look: Look) -> Style {
        let colour = match look {
            Look::Good => Color::Green,
            Look::Bad | Look::TimedOut => Color::Red,
            Look::Unknown => Color::Magenta,
            Look::Late => Color::Yellow,
            Look::Running => Color::Cyan,
            Look::Waiting | Look::Cancelled | Look::Skipped | Look::Paused | Look::Idle => return self.muted(),
        };
        if self.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }

    /// Of what matters less.
    pub fn muted(self) -> Style {
        if self.is_coloured { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn heading(self, text: &str) -> Row {
        Row::said(Line::styled(text.to_uppercase(), self.strong()))
    }

    fn note(self, text: &str) -> Row {
        Row::said(Line::styled(format!("  {text}"), self.muted()))
    }

    fn state(self, (word, look): (&str, Look)) -> Span<'static> {
        Span::styled(format!("{} {word}", look.sign()), self.of(look))
    }
}

/// The rows of the screen that is looked at, `width` columns wide.
pub(super) fn rows(top: &Top, frame: &Frame, width: usize) -> Vec<Row> {
    let mut sheet = Sheet { top, frame, ink: Ink { is_coloured: top.is_coloured }, width, name_width: NAME.0 };
    match top.screen {
        Screen::Now => sheet.now(),
        Screen::Jobs => sheet.jobs(),
        Screen::Run => sheet.run(),
        Screen::Leadership => sheet.leadership(),
    }
}

struct Sheet<'a> {
    top: &'a Top,
    frame: &'a Frame,
    ink: Ink,
    width: usize,
    /// How wide the column of a name is.
    name_width: usize,
}

/// How wide a column of these names is, where what is beside it takes so much of `width`.
fn name_width<'a>(names: impl Iterator<Item = &'a str>, width: usize, beside: usize) -> usize {
    let longest = names.map(|name| Span::raw(name).width() + 1).max().unwrap_or_default();
    longest.min(width.saturating_sub(2 + beside)).clamp(NAME.0, NAME.1)
}

impl Sheet<'_> {
    fn ago(&self, at: Wall) -> String {
        close_distance(at, self.frame.now)
    }

    fn instant(&self, at: Wall) -> String {
        self.frame.view().written(at, false)
    }

    /// An instant, and how far it is.
    fn at(&self, at: Wall) -> String {
        format!("{} ({})", self.instant(at), self.ago(at))
    }

    /// A row of columns of these widths; the last one takes what is left.
    fn columns(&self, cells: Vec<Span<'static>>, widths: &[usize]) -> Line<'static> {
        let (mut spans, mut taken, last) = (vec![Span::raw("  ")], 2, cells.len() - 1);
        for (index, cell) in cells.into_iter().enumerate() {
            let left = self.width.saturating_sub(taken);
            let room = if index == last { left } else { widths[index].saturating_sub(1).min(left) };
            let text = fit(&cell.content, room);
            let used = Span::raw(text.as_str()).width();
            spans.push(Span::styled(text, cell.style));
            let gap = if index == last { 0 } else { widths[index].min(left).saturating_sub(used) };
            spans.push(Span::raw(" ".repeat(gap)));
            taken += used + gap;
        }
        Line::from(spans)
    }

    /// A state, a name, and what there is to say.
    fn row(&self, state: (&str, Look), name: &str, more: String, target: Option<Target>) -> Row {
        let cells = vec![self.ink.state(state), Span::raw(name.to_owned()), Span::raw(more)];
        Row { line: self.columns(cells, &[STATE, self.name_width]), target }
    }

    /// A text over as many rows as it takes, to a bound.
    fn text(&self, text: &str, style: Style) -> impl Iterator<Item = Row> {
        let lines = wrapped(text, self.width.saturating_sub(2));
        lines.into_iter().take(WRAPPED_MOST).map(move |line| Row::said(Line::styled(format!("  {line}"), style)))
    }

    fn now(&mut self) -> Vec<Row> {
        let seen = &self.top.seen;
        let view = Now::of(&self.top.board, self.frame.clone(), seen.unknown.clone(), seen.recorded.clone());
        let rows = view.failing.iter().chain(&view.late).chain(&view.paused).map(|row| row.name.as_str());
        let names = rows.chain(view.open.iter().map(|open| open.job.as_str()));
        let names = names.chain(view.next.iter().map(|next| next.job.as_str()));
        self.name_width = name_width(names, self.width, STATE + SAID);
        let mut rows = vec![self.ink.heading("Needs a person")];
        rows.extend(self.needs(&view));
        rows.push(self.ink.heading("Late, or will not run"));
        rows.extend(self.late(&view));
        rows.push(self.ink.heading("Running and waiting"));
        if view.open.is_empty() {
            rows.push(self.ink.note(NONE_OPEN));
        }
        rows.extend(view.open.iter().map(|open| self.open(open)));
        rows.push(self.ink.heading("Next"));
        if view.next.is_empty() {
            rows.push(self.ink.note(if self.top.has_file { NONE_FIRES } else { NO_FILE }));
        }
        rows.extend(view.next.iter().map(|next| {
            let cells = vec![
                Span::raw(self.ago(next.at)),
                Span::raw(next.job.to_string()),
                Span::raw(format!("{}  {}", next.local.as_deref().unwrap_or_default(), self.instant(next.at))),
            ];
            Row { line: self.columns(cells, &[STATE, self.name_width]), target: Some(Target::Job(next.job.clone())) }
        }));
        rows.push(self.ink.heading("Changed in the last hour"));
        if view.changes.is_empty() {
            rows.push(self.ink.note("Nothing that the store says."));
        }
        rows.extend(view.changes.iter().map(|change| {
            let target = change.about().map(|(job, run)| match run {
                Some(run) => Target::Run(run.clone()),
                None => Target::Job(job.clone()),
            });
            let cells = vec![Span::raw(self.ago(change.at)), Span::raw(change.said())];
            Row { line: self.columns(cells, &[STATE]), target }
        }));
        rows
    }

    fn needs(&self, view: &Now) -> Vec<Row> {
        let mut rows = Vec::new();
        match &view.unknown {
            Ok((runs, more)) => {
                for run in runs {
                    let cells = vec![
                        self.ink.state((verdict_word(Verdict::Unknown), Look::Unknown)),
                        Span::raw(run.to_string()),
                    ];
                    rows.push(Row { line: self.columns(cells, &[STATE]), target: Some(Target::Run(run.clone())) });
                }
                if *more {
                    rows.push(self.ink.note("There are more runs in doubt: `fencron runs --state unknown`"));
                }
                if !runs.is_empty() {
                    rows.push(self.ink.note("Settle each: `fencron resolve RUN --as succeeded`, failed or retry"));
                }
            }
            Err(why) => {
                rows.extend(self.text(&format!("Which runs are in doubt is not known: {why}."), self.ink.muted()))
            }
        }
        for row in &view.failing {
            let Some(last) = &row.last else { continue };
            let next = row.next_fire.map_or_else(String::new, |at| format!(", next {}", self.ago(at)));
            let more = format!("{} in a row, ended {}{next}", last.bad_in_a_row, self.ago(last.finished_at));
            let state = (verdict_word(last.verdict), last.verdict.into());
            rows.push(self.row(state, row.name.as_str(), more, Some(Target::Run(last.run.clone()))));
        }
        if self.frame.counts.failing > view.failing.len() {
            let all = grouped(self.frame.counts.failing);
            rows.push(self.ink.note(&format!("All {all} failing jobs: press 2, then f")));
        }
        for trouble in &self.frame.troubles {
            rows.extend(self.text(&format!("{} {}", Look::Late.sign(), shown(trouble)), self.ink.of(Look::Late)));
        }
        if needs_nothing(view) {
            rows.push(self.ink.note(NEEDS_NOTHING));
        }
        rows
    }

    fn late(&self, view: &Now) -> Vec<Row> {
        let mut rows = Vec::new();
        if let Some(paused) = self.top.board.are_all_paused() {
            rows.push(self.row(job_word(JobState::Paused), "all jobs", self.paused(paused), None));
        }
        for row in &view.late {
            let Some(late) = &row.late else { continue };
            let target = late.run.clone().map_or_else(|| Target::Job(row.name.clone()), Target::Run);
            let why = format!("{}: {}", self.ago(late.since), late.why.why());
            rows.push(self.row(job_word(JobState::Late), row.name.as_str(), why, Some(target)));
        }
        for row in &view.paused {
            let Some(paused) = &row.paused else { continue };
            let target = Some(Target::Job(row.name.clone()));
            rows.push(self.row(job_word(JobState::Paused), row.name.as_str(), self.paused(paused), target));
        }
        let counts = self.frame.counts;
        for (all, shown, what) in [(counts.late, view.late.len(), "late"), (counts.paused, view.paused.len(), "paused")]
        {
            if all > shown {
                rows.push(self.ink.note(&format!("All {} {what} jobs: press 2, then f", grouped(all))));
            }
        }
        if !self.top.has_file {
            rows.push(self.ink.note(NO_FILE));
        } else if rows.is_empty() {
            rows.push(self.ink.note(NONE_LATE));
        }
        rows
    }

    /// Who paused, when, until when and why.
    fn paused(&self, paused: &Paused) -> String {
        let by = if paused.by.is_empty() { String::new() } else { format!("by {} ", shown(&paused.by)) };
        let until = paused.until.map_or_else(String::new, |until| format!(", until {}", self.instant(until)));
        let why = if paused.reason.is_empty() { String::new() } else { format!(": {}", shown(&paused.reason)) };
        format!("{by}{}{until}{why}", self.ago(paused.at))
    }

    fn open(&self, open: &Open) -> Row {
        let node = open.claimant.as_ref().map_or_else(String::new, |claimant| format!(" on {}", shown(&claimant.node)));
        let attempt = if open.attempt > 1 { format!(", attempt {}", open.attempt) } else { String::new() };
        let since = self.ago(open.started_at.unwrap_or(open.claimed_at));
        let due = self.instant(open.at);
        let more = format!("{since}{node}{attempt}, due {due}");
        self.row(open_word(open), open.job.as_str(), more, Some(Target::Run(open.id.clone())))
    }

    fn jobs(&self) -> Vec<Row> {
        let top = self.top;
        let text = top.text.trim();
        let find = FindJobs { state: top.filter, limit: PAGE_MOST, ..FindJobs::asked(text) };
        let found = top.board.jobs(&find, self.frame.now);
        let mut rows = vec![self.ink.note(&counts(self.frame))];
        let filter = top.filter.map(|filter| format!("{filter:?}").to_lowercase());
        let narrowed: Vec<String> = [
            (!text.is_empty()).then(|| format!("with “{}” in what is said of them", shown(text))),
            filter.map(|filter| format!("in the state {filter}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !narrowed.is_empty() {
            rows.push(self.ink.note(&format!("Only jobs {}. Esc shows all.", narrowed.join(", "))));
        }
        if !top.has_file {
            rows.push(self.ink.note(NO_FILE));
        }
        if found.jobs.is_empty() {
            let nothing = if narrowed.is_empty() { "The store knows no job yet." } else { "No job matches." };
            rows.push(self.ink.note(nothing));
            return rows;
        }
        let head = ["STATE", "JOB", "LAST RUN", "NEXT FIRE"].map(|name| Span::styled(name, self.ink.muted()));
        let names = found.jobs.iter().map(|job| job.name.as_str());
        let columns = [STATE, name_width(names, self.width, STATE + LAST_RUN + NEXT_FIRE), LAST_RUN];
        rows.push(Row::said(self.columns(head.to_vec(), &columns)));
        rows.extend(found.jobs.iter().map(|job| self.job(job, &columns)));
        if found.next.is_some() {
            rows.push(self.ink.note(&format!("These are the first {PAGE_MOST}: find others with /")));
        }
        rows
    }

    fn job(&self, job: &JobRow, columns: &[usize]) -> Row {
        let last = match &job.last {
            Some(last) => Span::styled(
                format!(
                    "{} {} {}",
                    Look::from(last.verdict).sign(),
                    verdict_word(last.verdict),
                    self.ago(last.finished_at)
                ),
                self.ink.of(last.verdict.into()),
            ),
            None => Span::styled("-", self.ink.muted()),
        };
        let next = match (job.next_fire, &job.after) {
            (Some(at), _) => format!("{} {}", self.ago(at), self.instant(at)),
            (None, Some(after)) => format!("after {after}"),
            (None, None) => "-".to_owned(),
        };
        let cells = vec![self.ink.state(job_word(job.state)), Span::raw(job.name.to_string()), last, Span::raw(next)];
        Row { line: self.columns(cells, columns), target: Some(Target::Job(job.name.clone())) }
    }

    fn run(&self) -> Vec<Row> {
        let Some(job) = &self.top.job else {
            return vec![
                self.ink.note("No run is chosen: choose one on Now (1), or a job on Jobs (2), and press Enter."),
            ];
        };
        let Some(runs) = self.top.runs() else {
            return vec![self.ink.note(&format!("The runs of {job} are being read."))];
        };
        let Some((at, row)) = self.top.run_shown() else {
            let why = match &self.top.run {
                Some(run) => format!("{run} is being read, or it is not there any more."),
                None => format!("{job} has no run: none has begun yet, or its history was pruned."),
            };
            return vec![self.ink.note(&why)];
        };
        let mut rows = vec![
            Row::said(Line::styled(format!("Run {}", row.id()), self.ink.strong())),
            self.ink.note(&format!("{} of the last {} of {job}, the newest first", at + 1, runs.len())),
        ];
        rows.extend(self.how(row));
        rows.extend(self.answers_for(job));
        rows.push(self.ink.heading("Timeline"));
        let steps = steps(row);
        for (index, step) in steps.iter().enumerate() {
            let after = index.checked_sub(1).map(|before| format!("+{}", took(step.at.since(steps[before].at))));
            let more = step.verdict.map_or_else(|| shown(&step.more), |verdict| verdict_word(verdict).to_owned());
            let cells = vec![
                Span::raw(step.what),
                Span::raw(self.frame.view().written(step.at, true)),
                Span::raw(after.unwrap_or_default()),
                Span::raw(more),
            ];
            rows.push(Row::said(self.columns(cells, &[10, 26, 16])));
        }
        rows.push(self.ink.heading("Output"));
        rows.extend(self.output(row));
        rows
    }

    /// Who answers for a job, and what they do when it fails.
    fn answers_for(&self, job: &JobName) -> Vec<Row> {
        let Some(definition) = self.top.board.definition(job).map(|job| Definition::of(job)) else { return Vec::new() };
        let said = [("Owner", definition.owner), ("Runbook", definition.runbook)];
        let said = said.into_iter().filter_map(|(what, value)| Some(format!("{what}: {}", shown(&value?))));
        said.flat_map(|text| self.text(&text, self.ink.muted()).collect::<Vec<_>>()).collect()
    }

    /// How a run ended, or stands, and why.
    fn how(&self, row: &RunRow) -> Vec<Row> {
        match row {
            RunRow::Open(open) => {
                let doubt = open.doubt.as_ref().map_or_else(String::new, |doubt| {
                    format!(". How the attempt before ended is in doubt: {}", shown(doubt))
                });
                let (word, look) = open_word(open);
                let text = format!("{} {word}, attempt {}{doubt}", look.sign(), open.attempt.max(1));
                self.text(&text, self.ink.of(look)).collect()
            }
            RunRow::Done(done) => {
                let look = Look::from(done.verdict);
                let reason = if done.reason.is_empty() { String::new() } else { format!(": {}", shown(&done.reason)) };
                let many = done.many.map_or_else(String::new, |many| {
                    let more = if many.at_least { " or more" } else { "" };
                    format!(". This is one verdict over {}{more} occurrences", many.count)
                });
                let text = format!("{} {}{reason}{many}", look.sign(), verdict_word(done.verdict));
                let mut rows: Vec<Row> = self.text(&text, self.ink.of(look)).collect();
                if done.verdict == Verdict::Unknown {
                    rows.push(self.ink.note("Find out how it ended, then settle it: nothing repeats it."));
                    let resolve = format!("`fencron resolve {} --as succeeded`, failed or retry", row.id());
                    rows.extend(self.text(&resolve, self.ink.muted()));
                }
                rows
            }
        }
    }

    fn output(&self, row: &RunRow) -> Vec<Row> {
        let done = match row {
            RunRow::Done(done) if done.output.is_empty() => {
                return self.text(&nothing_kept(done), self.ink.muted()).collect();
            }
            RunRow::Done(done) => done,
            RunRow::Open(open) => {
                let node = open.claimant.as_ref().map(|claimant| shown(&claimant.node));
                let node = node.map_or_else(String::new, |node| format!(", which is with {node}"));
                let text = format!("The store has it when the run has ended. Follow it until then{node}:");
                let follow = format!("`fencron logs -f {}`", open.id);
                let muted = self.ink.muted();
                return self.text(&text, muted).chain(self.text(&follow, muted)).collect();
            }
        };
        let text = ansi::plain(&done.output);
        let lines: Vec<&str> = text.lines().collect();
        let before = lines.len().saturating_sub(OUTPUT_LINES);
        let cut = (before > 0)
            .then(|| self.ink.note(&format!("{} lines before these: `fencron logs {}`", grouped(before), done.id)));
        let lines =
            lines[before..].iter().map(|line| Row::said(format!("  {}", fit(line, self.width.saturating_sub(2)))));
        cut.into_iter().chain(lines).collect()
    }

    fn leadership(&self) -> Vec<Row> {
        let seen = &self.top.seen;
        // The queue and the terms are read from what was answered, where it is.
        let view = Leadership::of(&self.top.board, self.frame.clone(), seen.queue.clone(), seen.terms.clone());
        let mut rows = self.present();
        rows.push(self.ink.heading("Next to lead"));
        match &view.queue {
            Err(why) => rows.extend(self.text(&format!("The queue is not known now: {why}."), self.ink.muted())),
            Ok(queue) => {
                for obstacle in &queue.obstacles {
                    let text = format!("{} {}", Look::Late.sign(), shown(obstacle));
                    rows.extend(self.text(&text, self.ink.of(Look::Late)));
                }
                if queue.waiting.is_empty() {
                    let text = "No other node waits: if the leader is lost, nothing is fired until one is started.";
                    rows.extend(self.text(text, self.ink.muted()));
                }
                let waiting = queue.waiting.iter().enumerate();
                rows.extend(waiting.map(|(index, node)| Row::said(format!("  {}. {}", index + 1, shown(node)))));
            }
        }
        rows.push(self.ink.heading("Nodes"));
        if view.nodes.is_empty() {
            rows.push(self.ink.note("No node is there: start one with `fencron run FILE`."));
        }
        for node in &view.nodes {
            let record = &node.record;
            let sign = self.ago(record.clock.min(self.frame.now));
            let address = record.address.as_ref().map_or_else(String::new, |address| format!(", {}", shown(address)));
            let more = format!("last sign {sign}, started {}{address}", self.ago(record.started_at));
            rows.push(self.row(role_word(node), &shown(&record.node), more, None));
            let hand_over = record.hands_over.as_ref().map(HandOver::text);
            for remark in record.stands_back.iter().chain(&record.troubles).chain(&hand_over) {
                let text = format!("{} {}", Look::Late.sign(), shown(remark));
                rows.extend(self.text(&text, self.ink.of(Look::Late)));
            }
        }
        rows.push(self.ink.heading("Terms"));
        match &view.terms {
            Err(why) => rows.extend(self.text(&format!("The terms are not known now: {why}."), self.ink.muted())),
            Ok(terms) if terms.is_empty() => rows.push(self.ink.note("None is recorded.")),
            Ok(terms) => {
                let terms = terms.iter().enumerate().map(|(index, term)| self.term(term, terms.get(index + 1)));
                rows.extend(terms);
            }
        }
        rows
    }

    /// Who leads, and how far that can be relied on.
    fn present(&self) -> Vec<Row> {
        let Some(leader) = &self.frame.leader else {
            let text = "Nothing is fired until one does. When a leader was lost, the next one leads once its lease has \
                        expired.";
            let head = Row::said(Line::styled("No node leads", self.ink.strong()));
            return std::iter::once(head).chain(self.text(text, Style::new())).collect();
        };
        let node = leader.node.as_deref().map_or_else(|| "A node that is gone".to_owned(), shown);
        let fence = leader.fence.map_or_else(String::new, |fence| format!(" under fence {fence}"));
        let mut rows = vec![Row::said(Line::styled(format!("{node} leads{fence}"), self.ink.strong()))];
        let mut fact = |name: &'static str, value: String| {
            let cells = vec![Span::styled(name, self.ink.muted()), Span::raw(value)];
            rows.push(Row::said(self.columns(cells, &[16])));
        };
        fact("Since", self.at(leader.since));
        let sign = leader.last_sign.map(|sign| sign.min(self.frame.now));
        fact("Last sign", sign.map_or_else(|| "none".to_owned(), |sign| self.at(sign)));
        fact("Decided up to", self.frame.decided.map_or_else(|| "nothing yet".to_owned(), |at| self.at(at)));
        rows
    }

    fn term(&self, term: &TermRow, before: Option<&TermRow>) -> Row {
        let lasted = took(term.to.unwrap_or(self.frame.now).since(term.from));
        let gap = before.and_then(|before| before.to).map(|ended| format!(", gap {}", took(term.from.since(ended))));
        let from = self.instant(term.from);
        let more = format!("fence {}, {lasted}{}, from {from}", term.fence, gap.unwrap_or_default());
        let cells = vec![self.ink.state(term_word(term)), Span::raw(shown(&term.node)), Span::raw(more)];
        Row::said(self.columns(cells, &[STATE, TERM_NODE]))
    }
}

/// How wide the column of the node of a term is.
const TERM_NODE: usize = 16;

/// How wide the columns of the last run and of the next fire are in the list of jobs.
const LAST_RUN: usize = 22;
const NEXT_FIRE: usize = 18;

/// What stands where only a jobs file could say more.
const NO_FILE: &str = "When jobs are due is in the jobs file alone: name it with --file.";

/// `text`, cut where it is wider than `room` columns.
pub(super) fn fit(text: &str, room: usize) -> String {
    let width = |text: &str| Span::raw(text).width();
    if width(text) <= room {
        return text.to_owned();
    }
    let (mut kept, mut taken) = (String::new(), 0);
    for c in text.chars() {
        let next = width(c.encode_utf8(&mut [0; 4]));
        if taken + next >= room {
            break;
        }
        kept.push(c);
        taken += next;
    }
    if room > 0 {
        kept.push('…');
    }
    kept
}

/// `text` in lines of at most `room` columns, broken between words where that is possible.
pub(super) fn wrapped(text: &str, room: usize) -> Vec<String> {
    let room = room.max(1);
    let width = |text: &str| Span::raw(text).width();
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is one from the beginning");
        let gap = usize::from(!last.is_empty());
        if width(last) + gap + width(word) <= room {
            last.push_str(&" ".repeat(gap));
            last.push_str(word);
            continue;
        }
        let mut rest = word;
        if !last.is_empty() {
            lines.push(String::new());
        }
        while width(rest) > room {
            let cut = rest.char_indices().map(|(at, _)| at).take_while(|at| width(&rest[..*at]) <= room).last();
            let cut = cut.filter(|cut| *cut > 0).unwrap_or(rest.len());
            *lines.last_mut().expect("it was pushed") = rest[..cut].to_owned();
            rest = &rest[cut..];
            lines.push(String::new());
        }
        *lines.last_mut().expect("it was pushed") = rest.to_owned();
    }
    lines
}
