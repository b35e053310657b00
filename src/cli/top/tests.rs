use ratatui::Terminal as Drawn;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::ask::Answer;
use super::state::Screen;
use super::*;
use crate::board::Leader;
use crate::config::{Sources, parse};
use crate::fence::Fence;
use crate::job::{JobName, Verdict};
use crate::ledger::{NodeRecord, RunRow, TermEnd, TermRow};
use crate::page::changes::Recorded;
use crate::page::leadership::Queue;
use crate::scheduler::run::{Claimant, Done, Last, Open, Watermark};
use crate::time::{Boot, Wall};

const NOW: &str = "2026-11-27T07:00:00Z";

const JOBS: &str = "
  backup: {schedule: '0 6 * * *', command: [echo, x]}
  nightly: {schedule: '30 2 * * *', timezone: Europe/Berlin, description: Counts the stock, command: [echo, x]}
  report: {after: {job: nightly}, command: [echo, x]}
";

fn at(text: &str) -> Wall {
    text.parse().unwrap()
}

fn now() -> (Boot, Wall) {
    (Boot::default(), at(NOW))
}

fn node(name: &str) -> NodeRecord {
    NodeRecord {
        node: name.to_owned(),
        version: "0.1.0".to_owned(),
        config_digest: "d".to_owned(),
        config_since: None,
        started_at: at("2026-11-27T05:00:00Z"),
        address: None,
        clock: at("2026-11-27T06:59:57Z"),
        stands_back: None,
        hands_over: None,
        drained: false,
        heard: 0,
        troubles: Vec::new(),
    }
}

fn open(run: &str) -> Open {
    let id: crate::job::RunId = run.parse().unwrap();
    let claimant = Claimant { node: "b".to_owned(), lease: 2, fence: Fence::new(7).unwrap() };
    Open { claimant: Some(claimant), started_at: Some(id.at()), ..Open::claimed(id) }
}

fn done(run: &str, verdict: Verdict, output: &str) -> Done {
    let open = open(run);
    Done { output: output.to_owned(), ..Done::of(&open, verdict, "exit code 3", at("2026-11-27T06:01:00Z")) }
}

/// A cluster of two nodes that `b` leads, in which the last run of `backup` failed.
fn filled(mut board: Board) -> Board {
    board.node(1, Some(node("a")), at(NOW));
    board.node(2, Some(node("b")), at(NOW));
    board.led_by(Some(Leader { lease: 2, created: 7, since: at("2026-11-27T06:30:00Z") }));
    board.decided(Watermark { instant: at(NOW), job: None });
    let failed = done("backup@2026-11-27T06:00:00Z", Verdict::Failed, "");
    board.last(&failed.job.clone(), Some(Last::after(None, &failed)), 9);
    while board.plan(at(NOW), PLANNED_AT_ONCE) {}
    board.is_current(at(NOW));
    board
}

fn top() -> Top {
    let config = parse(&format!("version: 1\njobs:{JOBS}"), &Sources::none()).unwrap();
    let mut board = Board::default();
    board.configured(&config.jobs);
    let mut top = Top::new(filled(board), true, false);
    top.namespace = "shop".to_owned();
    top.store = "sqlite:/var/lib/fencron/state.db".to_owned();
    top.said(Said::Answer(Answer::Unknown(Vec::new(), false, Recorded::default()), at(NOW)));
    top
}

fn press(top: &mut Top, code: KeyCode) -> Act {
    top.key(KeyEvent::new(code, KeyModifiers::NONE), now())
}

fn write(top: &mut Top, text: &str) {
    text.chars().for_each(|c| assert_eq!(press(top, KeyCode::Char(c)), Act::Show));
}

fn drawn_at(top: &mut Top, (width, height): (u16, u16), now: (Boot, Wall)) -> String {
    let mut terminal = Drawn::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, top, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    (0..height).map(line).collect()
}

fn drawn(top: &mut Top) -> String {
    drawn_at(top, (80, 24), now())
}

#[track_caller]
fn says(screen: &str, texts: &[&str]) {
    for text in texts {
        assert!(screen.contains(text), "`{text}` is not on:\n{screen}");
    }
}

#[test]
fn now_shows_at_80_by_24_whether_jobs_are_fired_what_fails_and_what_comes() {
    let mut top = top();
    let screen = drawn(&mut top);
    let lines: Vec<&str> = screen.lines().collect();
    assert_eq!(lines[0], format!("{:<71}07:00:00Z", "fencron shop  ● firing  b, fence 7"));
    says(lines[1], &["[1 Now] 2 Jobs  3 Run  4 Leadership", "sqlite:/var/lib/fencron/state.db"]);
    assert_eq!(lines[2], " NEEDS A PERSON");
    assert_eq!(lines[3], ">  ✗ failed     backup                1 in a row, ended 59 min ago, next in 23 h");
    says(&screen, &["Nothing: no job is late, and none is paused.", "No run is open."]);
    says(&screen, &["in 18 h", "02:30:00 +01:00 Europe/Berlin", "b became the leader under fence 7"]);
    assert_eq!(lines[23], "/ find  Enter open  j/k ↓↑ move  Esc back  1-4 screens  ? help  q quit");
}

#[test]
fn keys_lead_to_every_screen_and_back() {
    let mut top = top();
    for (key, tab) in [('2', "[2 Jobs]"), ('3', "[3 Run]"), ('4', "[4 Leadership]"), ('1', "[1 Now]")] {
        press(&mut top, KeyCode::Char(key));
        says(&drawn(&mut top), &[tab]);
    }
    press(&mut top, KeyCode::Tab);
    says(&drawn(&mut top), &["[2 Jobs]"]);
    press(&mut top, KeyCode::BackTab);
    press(&mut top, KeyCode::BackTab);
    says(&drawn(&mut top), &["[4 Leadership]"]);
    press(&mut top, KeyCode::Esc);
    says(&drawn(&mut top), &["[1 Now]"]);
    press(&mut top, KeyCode::Char('?'));
    says(&drawn(&mut top), &["find jobs by a text", "It only reads."]);
    press(&mut top, KeyCode::Esc);
    says(&drawn(&mut top), &["NEEDS A PERSON"]);
    assert_eq!(press(&mut top, KeyCode::Char('q')), Act::Quit);
    assert_eq!(top.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), now()), Act::Quit);
    assert_eq!(top.key(KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL), now()), Act::Stop);
}

#[test]
fn jobs_are_found_by_a_text_and_by_their_state() {
    let mut top = top();
    press(&mut top, KeyCode::Char('/'));
    write(&mut top, "stock");
    let screen = drawn(&mut top);
    says(&screen, &["Find: stock_", "Only jobs with “stock”", "○ never ran  nightly"]);
    assert!(!screen.contains("backup"), "{screen}");
    press(&mut top, KeyCode::Esc);
    says(&drawn(&mut top), &["3 jobs: 1 failing", "backup", "nightly", "after nightly"]);
    press(&mut top, KeyCode::Char('f'));
    let screen = drawn(&mut top);
    says(&screen, &["in the state failing", "✗ failing    backup", "✗ failed 59 min ago"]);
    assert!(!screen.contains("nightly"), "{screen}");
    // While a text is written, letters are no commands.
    press(&mut top, KeyCode::Char('/'));
    write(&mut top, "q");
    says(&drawn(&mut top), &["Find: q_", "No job matches."]);
}

#[test]
fn the_chosen_row_stays_the_same_job_when_others_come_before_it() {
    let mut top = top();
    press(&mut top, KeyCode::Char('2'));
    drawn(&mut top);
    press(&mut top, KeyCode::Char('j'));
    let chosen = |screen: &str| screen.lines().find(|line| line.starts_with('>')).unwrap().to_owned();
    says(&chosen(&drawn(&mut top)), &["nightly"]);
    // It fails too, and stands before the others then.
    let failed = done("report@2026-11-27T06:00:00Z", Verdict::Failed, "");
    top.board.last(&failed.job.clone(), Some(Last::after(None, &failed)), 10);
    says(&chosen(&drawn(&mut top)), &["nightly"]);
    press(&mut top, KeyCode::Char('k'));
    says(&chosen(&drawn(&mut top)), &["report"]);
}

#[test]
fn a_run_is_opened_with_its_timeline_and_its_output_and_the_older_one_is_beside_it() {
    let mut top = top();
    drawn(&mut top);
    press(&mut top, KeyCode::Enter);
    let job = JobName::new("backup").unwrap();
    assert_eq!(top.wanted(), ask::Wanted::Runs(job.clone(), Some("backup@2026-11-27T06:00:00Z".parse().unwrap())));
    says(&drawn(&mut top), &["The runs of backup are being read."]);
    let newer = done("backup@2026-11-27T06:00:00Z", Verdict::Failed, "one\n\u{1b}[31mtwo\u{1b}[0m\n");
    let older = done("backup@2026-11-26T06:00:00Z", Verdict::Succeeded, "");
    let rows = vec![RunRow::Done(newer), RunRow::Done(older), RunRow::Open(open("backup@2026-11-25T06:00:00Z"))];
    top.said(Said::Answer(Answer::Runs(job, rows), at(NOW)));
    let screen = drawn(&mut top);
    says(&screen, &["Run backup@2026-11-27T06:00:00Z", "1 of the last 3 of backup", "✗ failed: exit code 3"]);
    says(&screen, &["started   2026-11-27 06:00:00.000Z", "by b, fence 7", "OUTPUT\n   one\n   two\n"]);
    press(&mut top, KeyCode::Right);
    says(&drawn(&mut top), &["Run backup@2026-11-26T06:00:00Z", "2 of the last 3", "It wrote nothing."]);
    press(&mut top, KeyCode::Char('l'));
    press(&mut top, KeyCode::Char('l'));
    says(&drawn(&mut top), &["▸ running, attempt 1", "`fencron logs -f backup@2026-11-25T06:00:00Z`"]);
    press(&mut top, KeyCode::Char('h'));
    says(&drawn(&mut top), &["Run backup@2026-11-26T06:00:00Z"]);
    // Another one than was chosen is not shown in its place.
    top.run = Some("backup@2026-11-01T06:00:00Z".parse().unwrap());
    says(&drawn(&mut top), &["backup@2026-11-01T06:00:00Z is being read, or it is not there any more."]);
    press(&mut top, KeyCode::Esc);
    assert_eq!(top.screen, Screen::Now);
}

#[test]
fn the_run_of_a_job_that_is_read_stays_when_a_newer_one_begins() {
    let mut top = top();
    press(&mut top, KeyCode::Char('2'));
    drawn(&mut top);
    press(&mut top, KeyCode::Enter);
    let job = JobName::new("backup").unwrap();
    assert_eq!(top.wanted(), ask::Wanted::Runs(job.clone(), None));
    let older = RunRow::Done(done("backup@2026-11-26T06:00:00Z", Verdict::Succeeded, "one\n"));
    top.said(Said::Answer(Answer::Runs(job.clone(), vec![older.clone()]), at(NOW)));
    says(&drawn(&mut top), &["Run backup@2026-11-26T06:00:00Z", "1 of the last 1"]);
    let newer = RunRow::Open(open("backup@2026-11-27T06:00:00Z"));
    top.said(Said::Answer(Answer::Runs(job, vec![newer, older]), at(NOW)));
    says(&drawn(&mut top), &["Run backup@2026-11-26T06:00:00Z", "2 of the last 2"]);
    press(&mut top, KeyCode::Left);
    says(&drawn(&mut top), &["Run backup@2026-11-27T06:00:00Z", "1 of the last 2"]);
}

#[test]
fn what_fires_next_is_marked_by_a_key_only() {
    let config = parse(&format!("version: 1\njobs:{JOBS}"), &Sources::none()).unwrap();
    let mut board = Board::default();
    board.configured(&config.jobs);
    while board.plan(at(NOW), PLANNED_AT_ONCE) {}
    board.is_current(at(NOW));
    let mut top = Top::new(board, true, false);
    top.said(Said::Answer(Answer::Unknown(Vec::new(), false, Recorded::default()), at(NOW)));
    let marked = |top: &mut Top| drawn(top).lines().find(|line| line.starts_with('>')).map(str::to_owned);
    assert_eq!(marked(&mut top), None);
    press(&mut top, KeyCode::Enter);
    assert_eq!((top.screen, marked(&mut top)), (Screen::Now, None), "there is nothing to open");
    press(&mut top, KeyCode::Down);
    says(&marked(&mut top).unwrap(), &["nightly"]);
    press(&mut top, KeyCode::Down);
    says(&marked(&mut top).unwrap(), &["backup"]);
}

#[test]
fn nothing_that_has_room_is_cut() {
    let mut top = top();
    for screen in ['1', '2', '3', '4'] {
        press(&mut top, KeyCode::Char(screen));
        for width in [72, 80] {
            let screen = drawn_at(&mut top, (width, 24), now());
            says(screen.lines().last().unwrap(), &["Esc back  1-4 screens  ? help  q quit"]);
        }
    }
    press(&mut top, KeyCode::Char('?'));
    says(&drawn(&mut top), &["find jobs by a text in their names or descriptions, owner:…", "or label:…"]);
    press(&mut top, KeyCode::Esc);
    let name = "a-job-of-32-letters-has-this-nam";
    let jobs = format!("version: 1\njobs:{JOBS}  {name}: {{schedule: '0 6 * * *', command: [echo, x]}}\n");
    top.board.configured(&parse(&jobs, &Sources::none()).unwrap().jobs);
    let failed = done(&format!("{name}@2026-11-27T06:00:00Z"), Verdict::Failed, "");
    top.board.last(&failed.job.clone(), Some(Last::after(None, &failed)), 10);
    press(&mut top, KeyCode::Char('1'));
    says(&drawn_at(&mut top, (84, 24), now()), &[&format!("{name} 1 in a row, ended 59 min ago")]);
    press(&mut top, KeyCode::Char('2'));
    says(&drawn_at(&mut top, (90, 24), now()), &[&format!("{name} ✗ failed 59 min ago")]);
}

#[test]
fn leadership_shows_who_leads_who_waits_and_the_last_terms() {
    let mut top = top();
    press(&mut top, KeyCode::Char('4'));
    assert_eq!(top.wanted(), ask::Wanted::Leadership);
    says(&drawn(&mut top), &["b leads under fence 7", "The queue is not known now: the store has not been asked yet."]);
    let term = |node: &str, fence, from: &str, to: Option<&str>| TermRow {
        fence: Fence::new(fence).unwrap(),
        node: node.to_owned(),
        from: at(from),
        first_claim: None,
        to: to.map(at),
        end: to.map(|_| TermEnd::Lapsed),
        last_sign: None,
    };
    let terms = vec![
        term("b", 7, "2026-11-27T06:30:00Z", None),
        term("a", 3, "2026-11-27T06:00:00Z", Some("2026-11-27T06:29:50Z")),
    ];
    let queue = Queue { waiting: vec!["a".to_owned()], obstacles: Vec::new() };
    top.said(Said::Answer(Answer::Leadership(queue, terms), at(NOW)));
    let screen = drawn(&mut top);
    says(&screen, &["Since           06:30:00Z (30 min ago)", "Last sign       06:59:57Z (3 s ago)", "1. a"]);
    says(
        &screen,
        &[
            "▸ leader     b",
            "○ follower   a",
            "▸ leads      b",
            "✗ lapsed     a",
            "fence 7, 30 min, gap 10.0 s, from 06:30:00Z",
        ],
    );
    top.board.led_by(None);
    says(&drawn(&mut top), &["■ NOT firing  no leader", "No node leads", "■ NOT firing"]);
}

#[test]
fn a_store_that_is_away_is_said_with_how_old_all_is() {
    let mut top = top();
    top.said(Said::Unanswered("connection refused".to_owned()));
    let later = (Boot::default(), at("2026-11-27T07:00:12Z"));
    let screen = drawn_at(&mut top, (80, 24), later);
    says(&screen, &["? The store does not answer: connection refused.", "07:00:00Z, 12 s ago."]);
    says(&screen, &["Trying again.", "NEEDS A PERSON", "backup"]);
    let much_later = (Boot::default(), at("2026-11-27T07:01:00Z"));
    says(&drawn_at(&mut top, (80, 24), much_later), &["? not known"]);
    top.said(Said::Answer(Answer::Unknown(Vec::new(), false, Recorded::default()), at("2026-11-27T07:01:00Z")));
    let screen = drawn_at(&mut top, (80, 24), much_later);
    assert!(!screen.contains("does not answer") && screen.contains("● firing"), "{screen}");
    // While no news come, what it answers beside them makes what is shown no newer.
    top.said(Said::Unheard("the watch broke".to_owned()));
    let later = at("2026-11-27T07:02:00Z");
    top.said(Said::Answer(Answer::Unknown(Vec::new(), false, Recorded::default()), later));
    says(&drawn_at(&mut top, (80, 24), (Boot::default(), later)), &["the watch broke", "07:01:00Z, 1 min ago."]);
}

#[test]
fn each_row_is_seen_by_going_on_behind_the_last_that_can_be_chosen_and_before_the_first() {
    for screen in ['1', '2', '4'] {
        let mut top = top();
        press(&mut top, KeyCode::Char(screen));
        drawn_at(&mut top, (80, 12), now());
        let text = |row: Option<&rows::Row>| row.unwrap().line.to_string().trim().to_owned();
        for _ in 0..100 {
            press(&mut top, KeyCode::Down);
        }
        let last = text(top.rows(now()).last());
        assert!(drawn_at(&mut top, (80, 12), now()).contains(&last), "{screen}: `{last}`");
        for _ in 0..100 {
            press(&mut top, KeyCode::Up);
        }
        let first = text(top.rows(now()).first());
        assert!(drawn_at(&mut top, (80, 12), now()).contains(&first), "{screen}: `{first}`");
    }
}

#[test]
fn a_key_with_control_writes_nothing_into_the_text_that_is_searched() {
    let mut top = top();
    press(&mut top, KeyCode::Char('/'));
    press(&mut top, KeyCode::Char('b'));
    for key in ['a', 'w'] {
        top.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL), now());
    }
    assert_eq!(top.text, "b");
    top.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL), now());
    assert_eq!(top.text, "");
}

#[test]
fn without_a_jobs_file_what_the_ledger_says_stands_and_the_rest_is_said_to_be_missing() {
    let mut top = Top::new(filled(Board::without_file()), false, false);
    let screen = drawn(&mut top);
    says(&screen, &["✗ failed     backup", "name it with --file", "not known: the store has not been asked yet"]);
    assert!(!screen.contains("no job is late"), "{screen}");
    press(&mut top, KeyCode::Char('2'));
    says(&drawn(&mut top), &["1 job: 1 failing", "✗ failing    backup", "name it with --file"]);
}

#[test]
fn what_others_have_made_up_controls_no_terminal() {
    let mut top = top();
    top.namespace = "sh\u{1b}[2Jop".to_owned();
    top.board.node(
        3,
        Some(NodeRecord { troubles: vec!["a\u{1b}]0;t\u{7}\u{202e}b".to_owned()], ..node("e\u{1b}[31mvil") }),
        at(NOW),
    );
    let job = JobName::new("backup").unwrap();
    let hostile = done("backup@2026-11-27T06:00:00Z", Verdict::Failed, "x\u{1b}[2J\u{1b}]0;t\u{7}\u{202e}y\0z\n");
    let hostile = Done { reason: "no\u{1b}[2J\u{9b}1mway\n".to_owned(), ..hostile };
    drawn(&mut top);
    for screen in ['1', '2', '4'] {
        press(&mut top, KeyCode::Char(screen));
        calm(&drawn(&mut top));
    }
    press(&mut top, KeyCode::Char('1'));
    press(&mut top, KeyCode::Enter);
    top.said(Said::Answer(Answer::Runs(job, vec![RunRow::Done(hostile)]), at(NOW)));
    let screen = drawn(&mut top);
    calm(&screen);
    says(&screen, &["no␛[2J", "way"]);
    top.said(Said::Unheard("gone\u{1b}[2J".to_owned()));
    calm(&drawn(&mut top));
}

#[track_caller]
fn calm(screen: &str) {
    let found = screen.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
    assert_eq!(found, None, "{screen:?}");
}

#[test]
fn a_terminal_of_any_size_is_drawn_on_and_one_that_is_too_small_is_said_to_be() {
    let mut top = top();
    for screen in ['1', '2', '3', '4', '?'] {
        press(&mut top, KeyCode::Char(screen));
        for (width, height) in [(1, 1), (5, 2), (40, 10), (71, 24), (72, 12), (80, 24), (200, 60), (80, 12)] {
            let drawn = drawn_at(&mut top, (width, height), now());
            let is_small = width < 72 || height < 12;
            assert!(is_small != drawn.contains("firing"), "{width}×{height}:\n{drawn}");
        }
    }
    says(&drawn_at(&mut top, (60, 10), now()), &["This terminal has 60 columns and 10 lines.", "press q to quit."]);
}

#[test]
fn a_long_list_is_scrolled_to_the_chosen_row_and_back_to_its_head() {
    let jobs: String =
        (0..60).map(|n| format!("\n  job-{n:02}: {{schedule: '0 6 * * *', command: [echo, x]}}")).collect();
    let config = parse(&format!("version: 1\njobs:{jobs}\n"), &Sources::none()).unwrap();
    let mut board = Board::default();
    board.configured(&config.jobs);
    let mut top = Top::new(board, true, false);
    press(&mut top, KeyCode::Char('2'));
    drawn(&mut top);
    press(&mut top, KeyCode::End);
    let screen = drawn(&mut top);
    assert!(screen.contains("job-59") && !screen.contains("job-00"), "{screen}");
    press(&mut top, KeyCode::PageUp);
    says(&drawn(&mut top), &["job-59"]);
    press(&mut top, KeyCode::Home);
    says(&drawn(&mut top), &["60 jobs:", "STATE", "job-00"]);
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    for is_coloured in [false, true] {
        let mut top = top();
        top.is_coloured = is_coloured;
        let mut terminal = Drawn::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw::draw(frame, &mut top, now())).unwrap();
        let cells = terminal.backend().buffer().content();
        assert_eq!(cells.iter().any(|cell| cell.fg != ratatui::style::Color::Reset), is_coloured);
    }
}
