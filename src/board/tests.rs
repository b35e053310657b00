use std::collections::BTreeMap;

use super::*;
use crate::config::{Sources, parse};

fn at(text: &str) -> Wall {
    text.parse().unwrap()
}

fn name(text: &str) -> JobName {
    JobName::new(text).unwrap()
}

fn board(jobs: &str) -> Board {
    let config = parse(&format!("version: 1\njobs:\n{jobs}"), &Sources::none()).unwrap();
    let mut board = Board::default();
    let jobs: BTreeMap<_, _> = config.jobs;
    board.configured(&jobs);
    board
}

#[test]
fn what_is_decided_is_not_next_any_more_and_what_is_not_is_late() {
    let mut board = board("  a: {schedule: '@hourly', shell: 'true'}\n  b: {schedule: '30 * * * *', shell: 'true'}\n");
    let now = at("2026-11-27T01:00:30Z");
    for job in ["a", "b"] {
        let known = Known { fingerprint: String::new(), since: at("2026-11-27T00:00:00Z") };
        board.known(&name(job), Some(known));
    }
    board.decided(Watermark { instant: at("2026-11-27T00:30:00Z"), job: Some(name("b")) });
    assert!(!board.plan(now, 10));
    let next: Vec<_> = board.next_fires().map(|(start, job)| (start, job.as_str())).collect();
    assert_eq!(next, [(at("2026-11-27T01:00:00Z"), "a"), (at("2026-11-27T01:30:00Z"), "b")]);
    assert_eq!(board.job(&name("a"), now).unwrap().state, JobState::Late);
    board.decided(Watermark { instant: at("2026-11-27T01:00:00Z"), job: Some(name("a")) });
    board.plan(now, 10);
    assert_eq!(board.job(&name("a"), now).unwrap().next_fire, Some(at("2026-11-27T02:00:00Z")));
    assert_eq!(board.counts(now).late, 0);
}
