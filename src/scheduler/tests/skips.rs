//! Skips of one reason in a row.

use super::bench::run;
use super::*;

#[test]
fn skips_of_one_reason_in_a_row_are_one_verdict_with_their_number() {
    let mut bench = Bench::leading([job("a")]);
    bench.pause("a", true);
    bench.pass(secs(180));
    assert_eq!(bench.verdicts(), ["a@180 skipped: the job is paused (3 since 60)"]);
    bench.assert_complete();
    bench.pause("a", false);
    bench.pass(secs(60));
    bench.pass(secs(120));
    let overlap = "overlap: a@2026-11-21T00:04:00Z has not ended (2 since 300)";
    assert_eq!(
        bench.verdicts(),
        ["a@180 skipped: the job is paused (3 since 60)", &format!("a@360 skipped: {overlap}")]
    );
    bench.succeeds(&run("a", 240));
    bench.pause("a", true);
    bench.pass(secs(60));
    assert_eq!(
        bench.verdicts().last().unwrap(),
        "a@420 skipped: the job is paused",
        "another row, after another reason"
    );
    bench.assert_complete();
}

#[test]
fn a_run_in_between_begins_another_row() {
    let mut bench = Bench::leading([job("a")]);
    for paused in [true, false, true] {
        bench.pause("a", paused);
        bench.pass(secs(60));
        if !paused {
            bench.succeeds(&run("a", 120));
        }
    }
    let paused = "skipped: the job is paused";
    assert_eq!(bench.verdicts(), [format!("a@60 {paused}"), "a@120 succeeded".to_owned(), format!("a@180 {paused}")]);
}

#[test]
fn the_next_leader_begins_its_own_row_and_leaves_that_of_the_last() {
    let mut bench = Bench::with(2, [job("a")]);
    bench.elect(0);
    bench.settle();
    bench.pause("a", true);
    bench.pass(secs(120));
    bench.resign(0);
    bench.elect(1);
    bench.pass(secs(120));
    let paused = "skipped: the job is paused";
    assert_eq!(bench.verdicts(), [format!("a@120 {paused} (2 since 60)"), format!("a@240 {paused} (2 since 180)")]);
    bench.assert_complete();
}

#[test]
fn a_claim_that_is_not_acknowledged_extends_no_row() {
    let mut bench = Bench::with(2, [job("a")]);
    bench.elect(0);
    bench.settle();
    bench.pause("a", true);
    bench.pass(secs(120));
    bench.now = at(180);
    bench.tick();
    // The store refuses it as too large, and the batch is decided anew.
    bench.nodes[0].requests.clear();
    bench.tell(0, Event::BatchTooLarge { most: 1 });
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@180 skipped: the job is paused (3 since 60)"]);
    bench.assert_complete();
}

#[test]
fn a_pause_ends_with_what_starts_at_its_end_whether_it_is_of_one_job_or_of_all() {
    for (which, why) in [(Some("a"), "the job is paused"), (None, "all jobs are paused")] {
        let mut bench = Bench::leading([job("a")]);
        bench.pause_until(which, Some(at(180)));
        bench.pass(secs(180));
        assert_eq!(bench.verdicts(), [format!("a@120 skipped: {why} (2 since 60)")]);
        bench.succeeds(&run("a", 180));
        bench.pause_until(which, Some(Wall::MAX));
        bench.pass(secs(60));
        bench.pause_until(which, None);
        bench.pass(secs(60));
        bench.succeeds(&run("a", 300));
        assert_eq!(bench.verdicts().len(), 4, "{:?}", bench.verdicts());
    }
}
