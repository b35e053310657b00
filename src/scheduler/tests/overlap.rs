//! Runs of one job that come due while another is open.

use super::bench::{Answer, after, every, run};
use super::*;
use crate::job::On;

fn with(overlap: Overlap) -> Job {
    Job { overlap, ..job("a") }
}

#[test]
fn skip_skips_what_is_due_while_a_run_is_open() {
    let mut bench = Bench::leading([with(Overlap::Skip)]);
    bench.pass(secs(120));
    assert_eq!(bench.running(), ["a@60 #1"]);
    assert_eq!(bench.verdicts(), ["a@120 skipped: overlap: a@2026-11-21T00:01:00Z has not ended"]);
}

#[test]
fn skip_skips_what_a_person_asks_for_while_a_run_is_open() {
    let mut bench = Bench::leading([with(Overlap::Skip)]);
    bench.pass(secs(60));
    bench.trigger("a", "t");
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60~t skipped: overlap: a@2026-11-21T00:01:00Z has not ended"]);
}

#[test]
fn skip_lets_a_backfill_wait() {
    let mut bench = Bench::leading([with(Overlap::Skip)]);
    bench.pass(secs(60));
    bench.backfill("a", T0.minus(secs(60)), "b1");
    bench.settle();
    assert_eq!(bench.running(), ["a@60 #1"]);
    bench.succeeds(&run("a", 60));
    assert_eq!(bench.running(), ["a@0~b1 #1"], "shown by its distance from the start, which does not go below zero");
}

#[test]
fn a_run_that_is_asked_for_while_a_claim_is_under_way_does_not_start_beside_it() {
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Replace] {
        let mut bench = Bench::leading([with(overlap)]);
        bench.now = at(60);
        bench.tick();
        bench.trigger("a", "t");
        bench.watch(0); // it is seen before the claim is acknowledged
        bench.settle();
        assert_eq!(bench.running(), ["a@60 #1"], "{overlap:?}");
    }
}

#[test]
fn queue_starts_one_after_the_other_in_order() {
    let mut bench = Bench::leading([with(Overlap::Queue)]);
    bench.pass(secs(180));
    assert_eq!(bench.open(), ["a@60 claimed", "a@120 waiting", "a@180 waiting"]);
    bench.succeeds(&run("a", 60));
    assert_eq!(bench.running(), ["a@120 #1"]);
    bench.succeeds(&run("a", 120));
    assert_eq!(bench.running(), ["a@180 #1"]);
}

#[test]
fn queue_skips_what_is_due_while_too_many_wait() {
    let mut bench = Bench::leading([with(Overlap::Queue)]);
    bench.pass(secs(60 * (WAITING_MOST as u64 + 2)));
    assert_eq!(bench.open().len(), WAITING_MOST + 1);
    assert_eq!(bench.verdicts(), [format!("a@{} skipped: overlap: 100 runs wait already", 60 * 102)]);
}

#[test]
fn replace_stops_the_open_run_and_starts_once_that_has_ended() {
    let mut bench = Bench::leading([with(Overlap::Replace)]);
    bench.pass(secs(120));
    assert_eq!(bench.running(), ["a@60 #1"]);
    assert_eq!(bench.nodes[0].running[&run("a", 60)].stop, Some(StopReason::Replaced));
    bench.ends(0, &run("a", 60), stopped(StopReason::Replaced));
    bench.settle();
    assert_eq!(bench.running(), ["a@120 #1"]);
    assert_eq!(bench.verdicts(), ["a@60 cancelled: replaced by a later occurrence"]);
}

#[test]
fn replace_lets_only_the_last_of_those_that_wait_run() {
    let mut bench = Bench::leading([with(Overlap::Replace)]);
    bench.pass(secs(180));
    assert_eq!(bench.open(), ["a@60 claimed", "a@180 waiting"]);
    assert_eq!(bench.verdicts(), ["a@120 cancelled: replaced by a@2026-11-21T00:03:00Z"]);
}

#[test]
fn replace_ends_a_run_that_waits_for_its_next_attempt() {
    let retry = crate::job::Retry { attempts: 3, initial: secs(100), max: secs(100) };
    let mut bench = Bench::leading([Job { retry, ..with(Overlap::Replace) }]);
    bench.pass(secs(60));
    bench.ends(0, &run("a", 60), failed());
    bench.pass(secs(60));
    assert_eq!(bench.verdicts(), ["a@60 cancelled: replaced by a@2026-11-21T00:02:00Z"]);
    assert_eq!(bench.running(), ["a@120 #1"]);
}

#[test]
fn replace_reaches_a_run_whose_start_was_under_way() {
    let mut bench = Bench::leading([with(Overlap::Replace)]);
    bench.trigger("a", "t");
    bench.watch(0);
    bench.apply(0); // the trigger is begun, which nobody has said yet
    bench.now = at(60);
    bench.tick();
    bench.settle();
    let stops: Vec<_> = bench.nodes[0].running.values().map(|process| process.stop).collect();
    assert_eq!(stops, [Some(StopReason::Replaced)]);
}

#[test]
fn allow_runs_so_many_at_once_and_skips_the_next() {
    let mut bench = Bench::leading([with(Overlap::Allow { max_running: 2 })]);
    bench.pass(secs(180));
    assert_eq!(bench.running().len(), 2);
    assert_eq!(bench.verdicts(), ["a@180 skipped: overlap: 2 runs are open (`max_running`)"]);
}

#[test]
fn one_job_due_twice_in_one_batch_overlaps_itself() {
    let mut bench = Bench::leading([Job { trigger: every("a", "@every 1s", secs(0)), ..with(Overlap::Skip) }]);
    bench.now = at(2);
    bench.tick();
    bench.settle();
    assert_eq!(bench.running().len(), 1);
    assert_eq!(bench.open().len() + bench.verdicts().len(), 2);
}

#[test]
fn a_run_that_was_begun_once_is_not_skipped_when_it_is_begun_again() {
    let again = Job { guarantee: Guarantee::AtLeastOnce, ..with(Overlap::Skip) };
    let mut bench = Bench::with(2, [again]);
    bench.elect(0);
    bench.now = at(10);
    let asked = bench.trigger("a", "t");
    bench.settle();
    bench.backfill("a", at(5), "b"); // waits, and is of an earlier instant
    bench.settle();
    bench.crash(0);
    bench.elect(1);
    bench.pass(secs(1));
    assert_eq!(bench.verdicts(), [""; 0]);
    while let Some(run) = bench.nodes[1].running.keys().next().cloned() {
        bench.succeeds(&run);
    }
    assert_eq!(bench.starts(&asked), 2);
}

#[test]
fn what_still_runs_here_counts_although_a_successor_has_decided_it() {
    for overlap in [Overlap::Skip, Overlap::Queue] {
        let finish = Job { on_lost_leadership: OnLostLeadership::Finish, ..with(overlap) };
        let mut bench = Bench::with(2, [finish]);
        bench.elect(0);
        bench.pass(secs(60));
        bench.end_session(0);
        bench.depose(0);
        bench.elect(1);
        bench.settle();
        assert_eq!(bench.ledger.verdict("a@2026-11-21T00:01:00Z"), Some(Verdict::Unknown));
        bench.resign(1);
        bench.open_session(0);
        bench.elect(0);
        bench.pass(secs(60));
        assert_eq!(bench.running(), ["a@60 #1"], "{overlap:?}");
        bench.ends(0, &run("a", 60), succeeded());
        bench.settle();
        assert_eq!(bench.running().len(), usize::from(overlap == Overlap::Queue));
    }
}

#[test]
fn a_run_after_another_obeys_the_overlap_of_its_own_job() {
    let mut bench = Bench::leading([job("a"), Job { trigger: after("a", On::Success), ..job("b") }]);
    bench.pass(secs(60));
    bench.succeeds(&run("a", 60));
    bench.pass(secs(60));
    bench.succeeds(&run("a", 120));
    assert_eq!(bench.running(), ["b@60 #1"]);
    assert!(bench.verdicts().contains(&"b@120 skipped: overlap: b@2026-11-21T00:01:00Z has not ended".to_owned()));
}

#[test]
fn an_answer_of_the_store_says_that_a_run_is_over_before_the_watch_does() {
    let mut bench = Bench::leading([with(Overlap::Skip)]);
    bench.pass(secs(60));
    bench.ends(0, &run("a", 60), succeeded());
    bench.apply(0);
    assert!(matches!(bench.nodes[0].answers.front(), Some(Answer::Transitioned(..))));
    bench.answer(0);
    bench.now = at(120);
    bench.tick();
    bench.apply(0);
    bench.answer(0);
    assert_eq!(bench.running(), ["a@120 #1"]);
    bench.settle(); // now the watch tells all of it, from the beginning
    assert_eq!(bench.open(), ["a@120 claimed"]);
}

#[test]
fn what_has_no_room_is_claimed_in_time_and_begun_in_order_once_there_is_room() {
    let jobs = ["a", "b", "c"].map(|name| Job { guarantee: Guarantee::AtMostOnce, ..job(name) });
    let mut bench = Bench::crowded(2, 1, jobs);
    bench.elect(0);
    bench.pass(secs(60));
    assert_eq!(bench.running(), ["a@60 #1"]);
    assert_eq!(bench.open(), ["a@60 claimed", "b@60 waiting", "c@60 waiting"]);
    bench.succeeds(&run("a", 60));
    bench.settle();
    assert_eq!(bench.running(), ["b@60 #1"]);
    // What was never begun is in no doubt when its leader is lost.
    bench.crash(0);
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.running_on(1), ["c@60 #1"]);
    let doubtful: Vec<String> = bench.verdicts().into_iter().filter(|verdict| verdict.contains("unknown")).collect();
    assert_eq!(doubtful.len(), 1, "{doubtful:?}");
}

#[test]
fn what_waits_for_room_is_begun_by_whoever_leads_next_and_not_while_trust_has_lapsed() {
    let mut bench = Bench::crowded(1, 1, [job("a"), job("b")]);
    bench.elect(0);
    bench.pass(secs(60));
    bench.trust(0, false);
    bench.ends(0, &run("a", 60), stopped(StopReason::LostLeadership));
    bench.settle();
    assert!(bench.running().is_empty());
    bench.trust(0, true);
    bench.settle();
    assert_eq!(bench.running(), ["b@60 #1"]);
}
