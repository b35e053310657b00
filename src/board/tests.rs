use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::config::{Sources, parse};
use crate::job::Verdict;
use crate::ledger::HandOver;
use crate::scheduler::run::OpenState;

fn at(text: &str) -> Wall {
    text.parse().unwrap()
}

fn name(text: &str) -> JobName {
    JobName::new(text).unwrap()
}

fn jobs(text: &str) -> BTreeMap<JobName, Arc<Job>> {
    parse(&format!("version: 1\njobs:\n{text}"), &Sources::none()).unwrap().jobs
}

/// A board of these jobs, which a leader has seen at midnight.
fn board(text: &str) -> Board {
    let mut board = Board::default();
    let jobs = jobs(text);
    board.configured(&jobs);
    for job in jobs.keys() {
        board.known(job, Some(&known("2026-11-27T00:00:00Z")));
    }
    board
}

fn known(since: &str) -> Known {
    Known { fingerprint: String::new(), since: at(since) }
}

fn planned(mut board: Board, now: Wall) -> Board {
    while board.plan(now, 3) {}
    board
}

fn mark(instant: &str, job: Option<&str>) -> Watermark {
    Watermark { instant: at(instant), job: job.map(name) }
}

fn last(run: &str, verdict: Verdict) -> Last {
    let open = open(run);
    Last::after(None, &crate::scheduler::run::Done::of(&open, verdict, "", open.at))
}

fn open(run: &str) -> Open {
    Open::claimed(run.parse().unwrap())
}

fn paused() -> Paused {
    Paused { by: "eve".to_owned(), at: at("2026-11-27T00:10:00Z"), until: None, reason: String::new() }
}

fn next(board: &Board, job: &str, now: Wall) -> String {
    board.job(&name(job), now).unwrap().next_fire.map_or("never".to_owned(), |at| at.to_string())
}

fn names(page: &JobsPage) -> Vec<&str> {
    page.jobs.iter().map(|row| row.name.as_str()).collect()
}

fn listed(board: &Board, find: &FindJobs, now: Wall) -> Vec<String> {
    names(&board.jobs(&FindJobs { limit: PAGE_MOST, ..find.clone() }, now)).into_iter().map(str::to_owned).collect()
}

const TWO: &str = "  a: {schedule: '@hourly', shell: 'true'}\n  b: {schedule: '30 * * * *', shell: 'true'}\n";

#[test]
fn what_is_decided_is_not_next_any_more_and_what_is_not_is_late() {
    let mut board = board(TWO);
    let now = at("2026-11-27T01:00:30Z");
    board.decided(mark("2026-11-27T00:30:00Z", Some("b")));
    assert!(!board.plan(now, 10));
    let fires: Vec<_> = board.next_fires().map(|(start, job)| (start, job.as_str())).collect();
    assert_eq!(fires, [(at("2026-11-27T01:00:00Z"), "a"), (at("2026-11-27T01:30:00Z"), "b")]);
    assert_eq!(board.job(&name("a"), now).unwrap().state, JobState::Late);
    assert_eq!(board.counts(now).late, 1);
    board.decided(mark("2026-11-27T01:00:00Z", Some("a")));
    board.plan(now, 10);
    assert_eq!(next(&board, "a", now), "2026-11-27T02:00:00Z");
    assert_eq!(board.counts(now).late, 0);
}

#[test]
fn a_node_whose_clock_is_off_judges_what_is_late_by_the_others_clocks() {
    let mut board = board(TWO);
    board.decided(mark("2026-11-27T00:30:00Z", Some("b")));
    // Its clock is an hour ahead of the others': nothing is late by theirs.
    let now = at("2026-11-27T01:00:30Z");
    board.plan(now, 10);
    board.own(Own { clock_off_ms: -3_600_000, ..Own::default() });
    let find = FindJobs { state: Some(Filter::Late), ..FindJobs::default() };
    assert_eq!((board.counts(now).late, listed(&board, &find, now).len()), (0, 0));
    assert_ne!(board.job(&name("a"), now).unwrap().state, JobState::Late);
    // And what is late by theirs is, where this one is behind.
    let now = at("2026-11-27T00:00:30Z");
    board.own(Own { clock_off_ms: 3_600_000, ..Own::default() });
    assert_eq!((board.counts(now).late, listed(&board, &find, now)), (1, vec!["a".to_owned()]));
}

#[test]
fn what_a_run_waits_for_is_its_instant_its_turn_or_room() {
    let mut board = board(TWO);
    let now = at("2026-11-27T01:00:30Z");
    let add = |board: &mut Board, run: &str, state: OpenState| {
        let open = Open { state, ..open(run) };
        board.open(&open.id.clone(), Some(open.clone()));
        open
    };
    let waits = |not_before: &str| OpenState::Waiting { not_before: at(not_before) };
    let first = add(&mut board, "a@2026-11-27T01:00:00Z", waits("2026-11-27T01:00:00Z"));
    let later = add(&mut board, "b@2026-11-27T01:00:00Z", waits("2026-11-27T01:01:00Z"));
    assert_eq!((board.waits_for(&first, now), board.waits_for(&later, now)), (Some(Wait::Room), Some(Wait::Instant)));
    let running = add(&mut board, "a@2026-11-27T00:00:00Z", OpenState::Claimed);
    assert_eq!((board.waits_for(&first, now), board.waits_for(&running, now)), (Some(Wait::Turn), None));
    assert_eq!(board.waiting(now), [(Wait::Instant, 1), (Wait::Turn, 1), (Wait::Room, 0), (Wait::Leader, 0)]);
    // One that waits to be repeated keeps its place; and what the time is, the other nodes' clocks say.
    add(&mut board, "a@2026-11-27T00:00:00Z", OpenState::Retrying { not_before: at("2026-11-27T00:30:00Z") });
    assert_eq!(board.waits_for(&first, now), Some(Wait::Turn));
    board.own(Own { clock_off_ms: 3_600_000, ..Own::default() });
    assert_eq!(board.waits_for(&later, now), Some(Wait::Room));
}

#[test]
fn a_run_waits_for_its_turn_by_the_overlap_of_its_job() {
    let text = "  two: {schedule: '@hourly', shell: 'true', overlap: allow, max_running: 2}\n  \
                line: {schedule: '@hourly', shell: 'true', overlap: queue}\n";
    let (mut board, now) = (board(text), at("2026-11-27T05:00:30Z"));
    let mut add = |run: &str, state: OpenState| {
        let open = Open { state, ..open(run) };
        board.open(&open.id.clone(), Some(open.clone()));
        board.waits_for(&open, now)
    };
    let waits = OpenState::Waiting { not_before: at("2026-11-27T01:00:00Z") };
    add("two@2026-11-27T01:00:00Z", OpenState::Claimed);
    assert_eq!(add("two@2026-11-27T02:00:00Z", waits), Some(Wait::Room), "two may run beside each other");
    add("two@2026-11-27T03:00:00Z", OpenState::Claimed);
    assert_eq!(add("two@2026-11-27T02:00:00Z", waits), Some(Wait::Turn));
    assert_eq!(add("line@2026-11-27T01:00:00Z", waits), Some(Wait::Room), "it is the first in its queue");
    assert_eq!(add("line@2026-11-27T02:00:00Z", waits), Some(Wait::Turn));
}

#[test]
fn by_how_much_a_clock_is_off_is_no_news_for_a_reader() {
    let mut board = board(TWO);
    board.own(Own { clock_off_ms: 1, running: 1, ..Own::default() });
    let before = board.version();
    board.own(Own { clock_off_ms: 2, running: 1, ..Own::default() });
    assert_eq!(board.version(), before);
    board.own(Own { clock_off_ms: 2, running: 2, ..Own::default() });
    assert_ne!(board.version(), before);
}

#[test]
fn at_one_instant_the_jobs_up_to_the_one_that_is_named_are_decided_and_all_where_none_is() {
    let text = "  a: {schedule: '@hourly', shell: 'true'}\n  b: {schedule: '@hourly', shell: 'true'}\n";
    let now = at("2026-11-27T01:00:30Z");
    let after = |job| {
        let mut board = planned(board(text), now);
        board.decided(mark("2026-11-27T01:00:00Z", job));
        let board = planned(board, now);
        (next(&board, "a", now), next(&board, "b", now))
    };
    let (one, two) = ("2026-11-27T01:00:00Z".to_owned(), "2026-11-27T02:00:00Z".to_owned());
    assert_eq!(after(Some("a")), (two.clone(), one));
    assert_eq!(after(None), (two.clone(), two));
}

#[test]
fn a_rewind_brings_back_what_was_decided() {
    let now = at("2026-11-27T03:10:00Z");
    let mut board = planned(board(TWO), now);
    board.decided(mark("2026-11-27T03:00:00Z", Some("a")));
    board = planned(board, now);
    assert_eq!(next(&board, "a", now), "2026-11-27T04:00:00Z");
    board.decided(mark("2026-11-27T01:00:00Z", None));
    assert_eq!(next(&board, "a", now), "2026-11-27T02:00:00Z", "before it is planned");
    board = planned(board, now);
    assert_eq!((next(&board, "a", now), next(&board, "b", now)).1, "2026-11-27T01:30:00Z");
    assert_eq!(board.counts(now).late, 2);
}

#[test]
fn a_job_is_not_due_before_a_leader_has_seen_it_nor_before_its_rule_was_changed() {
    let now = at("2026-11-27T03:10:00Z");
    let mut board = Board::default();
    board.configured(&jobs(TWO));
    board.decided(mark("2026-11-27T01:00:00Z", None));
    board = planned(board, now);
    assert_eq!(next(&board, "a", now), "2026-11-27T04:00:00Z", "no leader has seen it");
    board.known(&name("a"), Some(&known("2026-11-27T02:30:00Z")));
    board = planned(board, now);
    assert_eq!(next(&board, "a", now), "2026-11-27T03:00:00Z");
    board.known(&name("a"), None);
    board = planned(board, now);
    assert_eq!(next(&board, "a", now), "2026-11-27T04:00:00Z");
}

#[test]
fn another_configuration_replaces_adds_and_removes_jobs_and_leaves_the_others_alone() {
    let now = at("2026-11-27T00:10:00Z");
    let mut board = planned(board(TWO), now);
    board.last(&name("b"), Some(last("b@2026-11-27T00:00:00Z", Verdict::Failed)), 1);
    assert_eq!(board.counts(now).failing, 1);
    let mut other = jobs("  a: {schedule: '45 * * * *', shell: 'true'}\n  c: {after: a, shell: 'true'}\n");
    board.configured(&other);
    assert_eq!(board.counts(now).failing, 0, "what is not there any more needs no attention");
    board = planned(board, now);
    assert_eq!(next(&board, "a", now), "2026-11-27T00:45:00Z");
    assert_eq!(board.next_fires().count(), 1);
    let row = board.job(&name("c"), now).unwrap();
    assert_eq!((row.state, row.after, row.next_fire), (JobState::OnDemand, Some(name("a")), None));
    assert_eq!(board.job(&name("b"), now).unwrap().state, JobState::Unconfigured);
    // Of a job of which the ledger knows nothing either, nothing is left.
    board.known(&name("b"), None);
    board.last(&name("b"), None, 2);
    assert!(board.job(&name("b"), now).is_none());
    other.remove(&name("c"));
    board.configured(&other);
    assert!(!board.has_unplanned(), "`a` is the same object as before");
    board.known(&name("c"), None);
    assert_eq!(board.counts(now).jobs, 1);
}

#[test]
fn states_are_counted_and_the_most_pressing_is_shown() {
    let now = at("2026-11-27T00:10:00Z");
    let mut board = planned(board(TWO), now);
    assert_eq!(board.job(&name("a"), now).unwrap().state, JobState::New);
    board.last(&name("a"), Some(last("a@2026-11-27T00:00:00Z", Verdict::Succeeded)), 1);
    assert_eq!(board.job(&name("a"), now).unwrap().state, JobState::Fine);
    board.paused(&name("a"), Some(paused()));
    assert_eq!(board.job(&name("a"), now).unwrap().state, JobState::Paused);
    let run = open("a@2026-11-27T00:05:00Z~t-1");
    board.open(&run.id, Some(run.clone()));
    assert_eq!(board.job(&name("a"), now).unwrap().state, JobState::Running);
    board.last(&name("a"), Some(last("a@2026-11-27T00:00:00Z", Verdict::Unknown)), 2);
    let row = board.job(&name("a"), now).unwrap();
    assert_eq!((row.state, row.open_count, row.open), (JobState::Failing, 1, vec![run.id.clone()]));
    assert_eq!(board.counts(now), Counts { jobs: 2, failing: 1, late: 0, overdue: 0, running: 1, paused: 1 });
    board.open(&run.id, None);
    board.paused(&name("a"), None);
    board.last(&name("a"), Some(last("a@2026-11-27T00:00:00Z", Verdict::Succeeded)), 3);
    assert_eq!(board.counts(now), Counts { jobs: 2, failing: 0, late: 0, overdue: 0, running: 0, paused: 0 });
}

#[test]
fn what_is_heard_late_of_a_last_run_does_not_replace_what_is_newer() {
    let mut board = board(TWO);
    board.last(&name("a"), Some(last("a@2026-11-27T01:00:00Z", Verdict::Succeeded)), 9);
    board.last(&name("a"), Some(last("a@2026-11-27T00:00:00Z", Verdict::Failed)), 8);
    board.last(&name("a"), None, 8);
    let (last, version) = board.last_of(&name("a"));
    assert_eq!((last.unwrap().verdict, version), (Verdict::Succeeded, 9));
}

#[test]
fn after_a_reread_only_what_is_told_anew_is_there() {
    let now = at("2026-11-27T00:10:00Z");
    let mut board = planned(board(TWO), now);
    let gone = name("gone");
    board.known(&gone, Some(&known("2026-11-27T00:00:00Z")));
    let run = open("a@2026-11-27T00:05:00Z~t-1");
    board.open(&run.id, Some(run.clone()));
    board.paused(&name("b"), Some(paused()));
    board.last(&name("b"), Some(last("b@2026-11-27T00:00:00Z", Verdict::Failed)), 7);
    board.led_by(Some(Leader { lease: 1, created: 2, since: now }));
    board.base(5);
    let before = board.version();
    drop(board.forget_ledger());
    assert!(board.version() > before);
    assert_eq!(board.counts(now), Counts { jobs: 2, failing: 0, late: 0, overdue: 0, running: 0, paused: 0 });
    assert!(board.leader().is_none() && board.open_run(&run.id).is_none() && board.job(&gone, now).is_none());
    board.last(&name("b"), Some(last("b@2026-11-27T00:00:00Z", Verdict::Failed)), 3);
    board = planned(board, now);
    assert_eq!(board.counts(now).failing, 1, "a store that went back tells of smaller versions");
    assert_eq!(board.next_fires().count(), 2);
    board.led_by(Some(Leader { lease: 1, created: 2, since: now }));
    assert_eq!(board.fence().map(Fence::get), Some(7));
}

#[test]
fn every_change_that_a_list_shows_has_another_tag() {
    let now = at("2026-11-27T00:59:00Z");
    let mut board = board(TWO);
    let mut seen = vec![board.tag(now)];
    let mut note = |board: &Board, what: &str| {
        assert!(!seen.contains(&board.tag(now)), "{what}");
        seen.push(board.tag(now));
    };
    board.plan(now, 10);
    note(&board, "planned");
    board.decided(mark("2026-11-27T00:30:00Z", Some("b")));
    note(&board, "decided");
    board.plan(now, 10);
    note(&board, "planned again");
    board.paused(&name("a"), Some(paused()));
    note(&board, "paused");
    board.last(&name("a"), Some(last("a@2026-11-27T00:00:00Z", Verdict::Succeeded)), 1);
    note(&board, "a run ended");
    let run = open("a@2026-11-27T00:05:00Z~t-1");
    board.open(&run.id, Some(run.clone()));
    note(&board, "a run is open");
    board.base(7);
    note(&board, "the fences are counted from another base");
    // The keep-alive is no news.
    let own = Own { trusted_until: Some(Boot::default()), ..Own::default() };
    let tag = board.tag(now);
    board.own(own.clone());
    assert_eq!(board.tag(now), tag);
    board.own(Own { running: 1, ..own });
    note(&board, "a run is begun here");
    assert_ne!(board.tag(at("2026-11-27T01:00:11Z")), board.tag(now), "`a` is late, with nothing else having happened");
}

#[test]
fn jobs_are_found_by_their_names_and_descriptions_in_either_case() {
    let now = at("2026-11-27T00:10:00Z");
    let text = "  Bill-eu: {schedule: '@hourly', shell: 'true', description: 'Pays the ÄRZTE'}
  bill-us: {after: c, shell: 'true'}
  c: {schedule: '@hourly', shell: 'true', description: 'like bill'}\n";
    let mut board = planned(board(text), now);
    let found = |board: &Board, text: &str, order| {
        listed(board, &FindJobs { text: Some(text.to_owned()), order, ..FindJobs::default() }, now)
    };
    assert_eq!(found(&board, "BILL", Order::Name), ["Bill-eu", "bill-us", "c"]);
    assert_eq!(found(&board, "bill", Order::Next), ["Bill-eu", "c", "bill-us"]);
    assert_eq!(found(&board, "ärzte", Order::Name), ["Bill-eu"]);
    assert_eq!(found(&board, "us\nc", Order::Name), Vec::<String>::new());
    assert_eq!(found(&board, "", Order::Name).len(), 3);
    board.configured(&jobs("  d: {schedule: '@hourly', shell: 'true', description: 'no bill'}\n"));
    board.known(&name("c"), None);
    assert_eq!(found(&board, "bill", Order::Name), ["Bill-eu", "bill-us", "d"], "the ledger knows the first two");
}

#[test]
fn jobs_are_found_by_their_owners_and_labels_and_by_these_in_a_text() {
    let now = at("2026-11-27T00:10:00Z");
    let text = "  a: {schedule: '@hourly', shell: 'true', owner: Team Ops, labels: {team: payments, tier: 1}}
  b: {schedule: '@hourly', shell: 'true', owner: ops, labels: {team: pay}, description: \"x\\nlabel:tier=1\\n\"}
  c: {schedule: '@hourly', shell: 'true', description: 'owner:ops of payments'}\n";
    let board = planned(board(text), now);
    let asked = |text: &str| listed(&board, &FindJobs::asked(text), now);
    assert_eq!(asked("label:team=payments"), ["a"]);
    assert_eq!(asked("label:TEAM=pay"), ["b"]);
    assert_eq!(asked("label:team"), ["a", "b"]);
    assert_eq!(asked("label:team label:tier=1"), ["a"]);
    assert_eq!(asked("owner:ops"), ["b"]);
    assert_eq!(asked("owner:\"team ops\" label:tier"), ["a"]);
    assert_eq!(asked("x owner:ops"), ["b"], "beside a text");
    assert_eq!(asked("a owner:ops"), ["b"], "which its description has");
    assert_eq!(asked("payments"), ["a", "c"], "a text is looked for in all of it");
    assert_eq!(asked("label:tea"), [""; 0]);
    assert_eq!(asked("label:"), ["b"], "a text, since it names no label");
    for (label, owner) in [("team=pay", "OPS"), ("Tier", "team ops"), ("team", "nemo"), ("tea", "ops")] {
        let has = |job: &&Arc<Job>| job.about.has_label(label);
        let by_label: Vec<String> = board.definitions().filter(has).map(|job| job.name.to_string()).collect();
        assert_eq!(asked(&format!("label:{label}")), by_label, "{label}");
        let is_of = |job: &&Arc<Job>| job.about.is_of(owner);
        let by_owner: Vec<String> = board.definitions().filter(is_of).map(|job| job.name.to_string()).collect();
        assert_eq!(asked(&format!("owner:\"{owner}\"")), by_owner, "{owner}");
    }
}

#[test]
fn a_job_is_late_while_a_run_of_it_takes_longer_than_is_expected() {
    let text = "  a: {schedule: '@hourly', shell: 'true'}
  b: {schedule: '@daily', shell: 'true', expect: {start_within: 1m, end_within: 1h}}
  c: {after: b, shell: 'true', expect: {end_within: 10m}}\n";
    let mut board = board(text);
    let now = at("2026-11-27T00:05:30Z");
    board.decided(mark("2026-11-27T00:00:00Z", None));
    board = planned(board, now);
    let run = open("b@2026-11-27T00:00:00Z");
    let waits = Open { state: OpenState::Waiting { not_before: run.at }, attempt: 0, ..run.clone() };
    board.open(&run.id, Some(waits));
    let late = |board: &Board, now| {
        let late = board.job(&name("b"), now).unwrap().late;
        late.map(|late| (late.why, late.since, late.run.unwrap()))
    };
    assert_eq!(late(&board, at("2026-11-27T00:01:00Z")), None, "it has until then");
    assert_eq!(late(&board, now), Some((Late::Start, at("2026-11-27T00:01:00Z"), run.id.clone())));
    assert_eq!(board.job(&name("b"), now).unwrap().state, JobState::Late);
    let counts = board.counts(now);
    assert_eq!((counts.late, counts.overdue), (1, 1));
    assert_eq!(listed(&board, &FindJobs::default(), now), ["b", "a", "c"], "it comes first");
    assert_eq!(listed(&board, &FindJobs { state: Some(Filter::Late), ..FindJobs::default() }, now), ["b"]);

    // It has started, and takes long.
    board.open(&run.id, Some(run.clone()));
    assert_eq!(late(&board, now), None);
    let now = at("2026-11-27T01:00:01Z");
    assert_eq!(late(&board, now), Some((Late::End, at("2026-11-27T01:00:00Z"), run.id.clone())));
    assert_eq!(board.counts(now).late, 1, "`a` is not late before it is so for ten seconds");
    let tag = board.tag(at("2026-11-27T00:59:59Z"));
    assert_ne!(board.tag(now), tag);

    // What is expected of it changes, and it ends.
    board.configured(&jobs(&text.replace("end_within: 1h", "end_within: 2h")));
    assert_eq!(late(&board, now), None);
    board.configured(&jobs(text));
    assert!(late(&board, now).is_some());
    board.open(&run.id, None);
    assert_eq!((late(&board, now), board.overdue.len()), (None, 0));

    // After the store was read anew, only what it says counts.
    board.open(&run.id, Some(run.clone()));
    board.forget_ledger();
    assert_eq!((late(&board, now), board.overdue.len()), (None, 0));
}

#[test]
fn a_cursor_reads_back_and_nothing_else_is_one() {
    let now = at("2026-11-27T00:10:00Z");
    let board = planned(board(TWO), now);
    let page = board.jobs(&FindJobs { limit: 1, ..FindJobs::default() }, now);
    let cursor = page.next.unwrap();
    assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
    for text in ["", "x", "c.1", "c..a", "z.1.a", "c.1.", "c.99999999999999999999.a", "c.1.a/b"] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}

#[derive(Clone, Debug)]
struct OneJob {
    kind: usize,
    minute: usize,
    is_paused: bool,
    is_failing: bool,
    is_running: bool,
    is_overdue: bool,
}

fn one_job() -> impl Strategy<Value = OneJob> {
    (0..4usize, 0..4usize, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(kind, minute, is_paused, is_failing, is_running, is_overdue)| OneJob {
            kind,
            minute,
            is_paused,
            is_failing,
            is_running,
            is_overdue: is_running && is_overdue,
        },
    )
}

fn board_of(made: &[OneJob], now: Wall) -> Board {
    let mut text = "  other: {schedule: '50 * * * *', shell: 'true'}\n".to_owned();
    for (nth, job) in made.iter().enumerate() {
        let expect =
            if job.is_overdue { format!(", expect: {{end_within: {}m}}", 1 + nth % 14) } else { String::new() };
        match job.kind {
            0 | 1 => {
                writeln!(text, "  j{nth}: {{schedule: '{} * * * *', shell: 'true'{expect}}}", job.minute * 15).unwrap()
            }
            2 => writeln!(text, "  j{nth}: {{after: other, shell: 'true'{expect}}}").unwrap(),
            _ => {}
        }
    }
    let mut board = board(&text);
    for (nth, job) in made.iter().enumerate() {
        let of = name(&format!("j{nth}"));
        board.known(&of, Some(&known("2026-11-27T00:00:00Z")));
        if job.is_paused {
            board.paused(&of, Some(paused()));
        }
        let run = open(&format!("{of}@2026-11-27T00:05:00Z"));
        if job.is_failing {
            board.last(&of, Some(last(run.id.as_str(), Verdict::Failed)), 1);
        }
        if job.is_running {
            board.open(&run.id, Some(run.clone()));
        }
    }
    planned(board, now)
}

/// All that is found, in order, by looking at each job.
fn model(board: &Board, find: &FindJobs, now: Wall) -> Vec<String> {
    let mut rows: Vec<JobRow> = board.jobs.keys().map(|name| board.job(name, now).unwrap()).collect();
    let is_failing = |row: &JobRow| row.state == JobState::Failing;
    rows.retain(|row| {
        find.text.as_ref().is_none_or(|text| row.name.as_str().contains(text.as_str()))
            && match find.state {
                None => true,
                Some(Filter::Failing) => is_failing(row),
                Some(Filter::Late) => row.late.is_some(),
                Some(Filter::Running) => row.open_count > 0,
                Some(Filter::Paused) => row.paused.is_some(),
                Some(Filter::OnDemand) => board.definition(&row.name).is_some() && row.schedule.is_none(),
                Some(Filter::Unconfigured) => board.definition(&row.name).is_none(),
            }
    });
    rows.sort_by_key(|row| {
        let start = row.next_start.filter(|_| find.order != Order::Name);
        let overdue = board.jobs[&row.name].marks.late_from.filter(|from| *from < now);
        let (group, at) = match find.order {
            Order::Attention if is_failing(row) => (0, None),
            Order::Attention if overdue.is_some() => (1, overdue),
            _ if start.is_some() => (2, start),
            _ => (3, None),
        };
        (group, at, row.name.clone())
    });
    rows.into_iter().map(|row| row.name.to_string()).collect()
}

const STATES: [Option<Filter>; 7] = [
    None,
    Some(Filter::Failing),
    Some(Filter::Late),
    Some(Filter::Running),
    Some(Filter::Paused),
    Some(Filter::OnDemand),
    Some(Filter::Unconfigured),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_page_and_those_behind_it_are_the_list_that_looking_at_each_job_makes(
        made in prop::collection::vec(one_job(), 0..24),
        limit in 1..6usize,
    ) {
        let now = at("2026-11-27T00:20:00Z");
        let board = board_of(&made, now);
        let is_overdue = |job: &&Entry| job.marks.is_overdue(now);
        prop_assert_eq!(board.jobs.values().filter(is_overdue).count(), board.overdue(now).count());
        for order in [Order::Attention, Order::Name, Order::Next] {
            for state in STATES {
                for text in [None, Some("1".to_owned())] {
                    let find = FindJobs { text, state, order, limit, ..FindJobs::default() };
                    let expected = model(&board, &find, now);
                    prop_assert_eq!(&listed(&board, &find, now), &expected, "{:?}", find);
                    let walked: Vec<String> = board
                        .walked(&find, now)
                        .filter(|place| list::is_in(place, state, board.judged(now)))
                        .filter(|place| find.text.as_ref().is_none_or(|text| board.says(place.job, text)))
                        .map(|place| place.job.to_string())
                        .collect();
                    prop_assert_eq!(&walked, &expected, "walked: {:?}", find);
                    let (mut paged, mut after) = (Vec::new(), None);
                    loop {
                        let page = board.jobs(&FindJobs { after, ..find.clone() }, now);
                        prop_assert!(page.jobs.len() <= limit);
                        paged.extend(names(&page).into_iter().map(str::to_owned));
                        let Some(next) = page.next else { break };
                        after = Some(next.to_string().parse().unwrap());
                    }
                    prop_assert_eq!(&paged, &expected, "in pages: {:?}", find);
                    let behind = expected.len() / 2;
                    if let Some(first) = expected.get(behind).map(|job| name(job)) {
                        let after = board.sorted(&[&first], &find, now).next().map(|place| place.cursor());
                        let find = FindJobs { after, ..find.clone() };
                        let walked = board.walked(&find, now).filter(|place| list::is_in(place, state, board.judged(now)));
                        let has_text = |job| find.text.as_ref().is_none_or(|text| board.says(job, text));
                        let walked = walked.filter(|place| has_text(place.job));
                        let walked: Vec<String> = walked.map(|place| place.job.to_string()).collect();
                        prop_assert_eq!(&walked, &expected[behind + 1..], "walked from behind {}: {:?}", first, find);
                    }
                }
            }
        }
    }
}

#[test]
fn a_pause_covers_the_occurrences_that_start_before_its_end() {
    let mut board = board(TWO);
    let (job, early, late) = (name("nightly"), at("2026-11-27T01:00:00Z"), at("2026-11-27T03:00:00Z"));
    assert!(!board.is_paused_at(&job, early));
    board.paused(&job, Some(Paused { until: Some(at("2026-11-27T02:00:00Z")), ..paused() }));
    assert_eq!([early, late].map(|starts| board.is_paused_at(&job, starts)), [true, false]);
    board.all_paused(Some(paused()));
    assert!(board.is_paused_at(&job, late) && board.is_paused_at(&name("another"), early));
}

/// The texts of all jobs stand one after the other: what goes over the end of one would spell out the next.
#[test]
fn a_text_is_found_within_one_job_only() {
    let board = board(TWO);
    let find = |text: &str| {
        listed(&board, &FindJobs { text: Some(text.to_owned()), ..FindJobs::default() }, at("2026-11-27T00:00:00Z"))
    };
    assert_eq!(find("b").len(), 1);
    for over in ["\0b", "\0", "a\0"] {
        assert_eq!(find(over), [""; 0], "{over:?}");
    }
}

#[test]
fn a_run_waits_for_the_next_leader_while_the_one_that_leads_lets_its_runs_end() {
    let mut board = board(TWO);
    let now = at("2026-11-27T01:00:30Z");
    let waits = |not_before: &str| OpenState::Waiting { not_before: at(not_before) };
    let due = Open { state: waits("2026-11-27T01:00:00Z"), ..open("a@2026-11-27T01:00:00Z") };
    let later = Open { state: waits("2026-11-27T01:01:00Z"), ..open("b@2026-11-27T01:00:00Z") };
    board.open(&due.id.clone(), Some(due.clone()));
    let until = at("2026-11-27T01:01:00Z");
    let hands_over = Some(HandOver { runs: 2, until, leaves: false });
    let text = "steps down: waits for 2 runs until 2026-11-27T01:01:00Z, and starts nothing meanwhile";
    assert_eq!(hands_over.as_ref().unwrap().text(), text);
    let record = |hands_over: Option<HandOver>| NodeRecord {
        node: "n".into(),
        version: "1.0.0".into(),
        config_digest: "d1".into(),
        config_since: None,
        started_at: now,
        address: None,
        clock: now,
        stands_back: None,
        hands_over,
        drained: false,
        heard: 0,
        troubles: Vec::new(),
    };
    board.node(7, Some(record(hands_over)), now);
    assert_eq!(board.waits_for(&due, now), Some(Wait::Room), "it does not lead");
    board.led_by(Some(Leader { lease: 7, created: 1, since: now }));
    assert_eq!(board.waits_for(&due, now), Some(Wait::Leader));
    assert_eq!(board.waits_for(&later, now), Some(Wait::Instant));
    board.node(7, Some(record(None)), now);
    assert_eq!(board.waits_for(&due, now), Some(Wait::Room));
}
