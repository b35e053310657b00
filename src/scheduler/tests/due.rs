//! What is due is claimed once, in order, in batches, and starts when its claim is acknowledged.

use super::bench::{Request, after, config, every, name, run};
use super::*;
use crate::job::On;
use crate::scheduler::claims::GROWS_AFTER;

#[test]
fn a_due_occurrence_is_claimed_and_starts_when_its_claim_is_acknowledged() {
    let mut bench = Bench::leading([job("a")]);
    bench.now = at(60);
    bench.tick();
    assert!(bench.running().is_empty(), "its claim is not even sent");
    bench.apply(0);
    assert!(bench.running().is_empty(), "its claim is in the store, but nobody has said so");
    bench.answer(0);
    assert_eq!(bench.running(), ["a@60 #1"]);
}

#[test]
fn the_watch_does_not_stand_for_the_acknowledgement() {
    let mut bench = Bench::leading([job("a")]);
    bench.now = at(60);
    bench.tick();
    bench.apply(0);
    bench.watch(0);
    bench.watch(0);
    assert!(bench.running().is_empty());
    bench.settle();
    assert_eq!(bench.running(), ["a@60 #1"]);
}

#[test]
fn a_job_is_not_due_for_instants_before_it_was_first_seen() {
    let mut bench = Bench::with(1, [job("a")]);
    bench.now = at(3600);
    bench.elect(0);
    bench.pass(secs(1));
    assert!(bench.verdicts().is_empty() && bench.open().is_empty());
    bench.pass(secs(60));
    assert_eq!(bench.running(), ["a@3660 #1"]);
}

#[test]
fn nothing_is_claimed_before_new_jobs_are_known_to_the_ledger() {
    let mut bench = Bench::with(1, [job("a")]);
    bench.elect(0);
    bench.now = at(60);
    bench.tick();
    assert!(bench.nodes[0].requests.iter().all(|request| matches!(request, Request::Register(..))));
    bench.settle();
    assert_eq!(bench.running(), ["a@60 #1"], "it counts from when it was seen, not from when that was acknowledged");
}

#[test]
fn a_batch_holds_no_more_than_its_most_and_the_next_one_follows() {
    let mut bench = Bench::leading((0..BATCH + 5).map(|number| job(&format!("j{number:03}"))));
    bench.now = at(60);
    bench.tick();
    let sizes = |bench: &Bench| -> Vec<usize> { bench.nodes[0].told.iter().filter_map(claimed).collect() };
    assert_eq!(sizes(&bench), [BATCH]);
    bench.settle();
    assert_eq!(sizes(&bench), [BATCH, 5]);
    assert_eq!(bench.running().len(), BATCH + 5);
}

#[test]
fn a_batch_that_is_too_large_is_claimed_in_smaller_ones() {
    let mut bench = Bench::leading((0..9).map(|number| job(&format!("j{number}"))));
    bench.now = at(60);
    bench.tick();
    for most in [4, 400] {
        bench.nodes[0].requests.clear();
        bench.tell(0, Event::BatchTooLarge { most });
    }
    let Some(Request::Claim(batch, _)) = bench.nodes[0].requests.front() else { panic!("it claims again") };
    assert_eq!(batch.opens.len(), 3, "fewer than those of the batch that was refused, whatever the store says");
    bench.settle();
    assert_eq!(bench.running().len(), 9);
}

#[test]
fn batches_grow_again_when_the_store_has_taken_many() {
    let mut bench = Bench::leading((0..4).map(|number| job(&format!("j{number}"))));
    bench.now = at(60);
    bench.tick();
    bench.nodes[0].requests.clear();
    bench.tell(0, Event::BatchTooLarge { most: 1 });
    let mut sizes = Vec::new();
    for minute in 1..=GROWS_AFTER / 4 + 2 {
        bench.settle();
        bench.now = at(60 * (minute + 1));
        bench.nodes[0].told.clear();
        bench.tick();
        bench.settle();
        sizes = bench.nodes[0].told.iter().filter_map(claimed).collect();
    }
    // Each of the four is skipped, and takes the place of the verdict before.
    assert_eq!(sizes, [2, 2, 2, 2]);
}

/// How many verdicts and runs a claim puts, or takes away.
fn claimed(action: &Action) -> Option<usize> {
    match action {
        Action::Claim(batch) => Some(batch.opens.len() + batch.dones.len() + batch.replaced.len()),
        _ => None,
    }
}

#[test]
fn jobs_of_one_instant_are_claimed_in_the_order_of_their_names() {
    let mut bench = Bench::leading(["c", "a", "b"].map(job));
    bench.pass(secs(60));
    let Some((mark, _)) = &bench.ledger.watermark else { panic!("something was claimed") };
    assert_eq!((mark.instant, mark.job.as_ref()), (at(60), Some(&name("c"))));
}

#[test]
fn a_leader_goes_on_within_an_instant_that_its_predecessor_decided_in_part() {
    let mut bench = Bench::with(2, ["a", "b", "c"].map(job));
    bench.elect(0);
    bench.settle();
    bench.now = at(60);
    bench.tick();
    bench.nodes[0].requests.clear();
    bench.tell(0, Event::BatchTooLarge { most: 2 });
    bench.apply(0);
    bench.crash(0);
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.running_on(1), ["c@60 #1"], "the two others may have run on the leader that was lost");
    assert_eq!(bench.ledger.verdict("a@2026-11-21T00:01:00Z"), Some(Verdict::Unknown));
}

#[test]
fn jitter_moves_the_start_and_not_the_occurrence() {
    let mut bench = Bench::leading([Job { trigger: every("a", "@every 1m", secs(30)), ..job("a") }]);
    bench.pass(secs(119));
    let (open, _) = &bench.ledger.open[&run("a", 60)];
    assert!(open.starts > at(60) && open.starts < at(90));
    assert_eq!(bench.nodes[0].running[&open.id].started_at, open.starts);
}

#[test]
fn an_instant_that_was_decided_is_not_due_again_under_another_jitter() {
    let jittered = |most| Job { trigger: every("a", "@every 1m", secs(most)), ..job("a") };
    for most in 2..60 {
        let mut bench = Bench::leading([jittered(1)]);
        bench.pass(secs(61));
        assert_eq!(bench.running(), ["a@60 #1"]);
        bench.reload([jittered(most)]);
        bench.pass(secs(58));
        bench.assert_complete();
        assert_eq!(bench.all_starts(), 1);
    }
}

#[test]
fn an_occurrence_that_is_due_when_the_configuration_is_read_again_is_decided_under_the_old_one() {
    let mut bench = Bench::leading([job("a")]);
    bench.now = at(60);
    bench.reload([job("b")]);
    bench.settle();
    assert_eq!(bench.running(), ["a@60 #1"]);
    bench.succeeds(&run("a", 60));
    bench.pass(secs(60));
    assert_eq!(bench.running(), ["b@120 #1"]);
    assert!(!bench.ledger.known.contains_key(&name("a")), "what is not configured any more is forgotten");
}

#[test]
fn a_follower_takes_a_configuration_at_once() {
    let mut bench = Bench::with(1, [job("a")]);
    bench.reload([job("b")]);
    assert!(bench.nodes[0].scheduler.jobs().contains_key(&name("b")));
}

#[test]
fn a_job_whose_rule_changed_is_due_from_then_on_only() {
    let mut bench = Bench::leading([Job { trigger: every("a", "@every 1h", secs(0)), ..job("a") }]);
    bench.pass(secs(600));
    bench.reload([job("a")]);
    bench.pass(secs(59));
    assert!(bench.verdicts().is_empty() && bench.running().is_empty());
    bench.pass(secs(1));
    assert_eq!(bench.running(), ["a@660 #1"]);
}

#[test]
fn of_a_configuration_that_shares_jobs_with_the_one_before_the_others_are_looked_at() {
    let mut bench = Bench::leading(["a", "c", "d", "e"].map(job));
    let mut jobs = bench.nodes[0].scheduler.jobs().clone();
    jobs.retain(|job, _| ![name("a"), name("e")].contains(job));
    jobs.extend(config([job("b"), Job { trigger: every("d", "@every 30s", secs(0)), ..job("d") }]));
    bench.tell(0, Event::Reloaded(jobs));
    let registered = bench.nodes[0].told.iter().rev().find_map(|action| match action {
        Action::Register { known, forget, .. } => Some((known.clone(), forget.clone())),
        _ => None,
    });
    let (known, forget) = registered.expect("something has changed");
    assert_eq!(known.into_iter().map(|(job, _)| job).collect::<Vec<_>>(), ["b", "d"].map(name));
    assert_eq!(forget, ["a", "e"].map(name));
    bench.settle();
    bench.pass(secs(60));
    assert_eq!(bench.running(), ["b@60 #1", "c@60 #1", "d@30 #1"]);
}

#[test]
fn time_that_goes_back_fires_nothing_again() {
    let mut bench = Bench::leading([job("a")]);
    bench.pass(secs(60));
    bench.succeeds(&run("a", 60));
    bench.now = at(0);
    bench.pass(secs(90));
    assert_eq!(bench.all_starts(), 1);
    bench.pass(secs(30));
    assert_eq!(bench.running(), ["a@120 #1"]);
}

#[test]
fn a_job_seen_while_the_clock_is_behind_the_watermark_is_due_after_the_watermark() {
    let mut bench = Bench::leading([job("a")]);
    bench.pass(secs(60));
    bench.now = at(0);
    bench.reload([job("a"), job("b")]);
    bench.pass(secs(60));
    assert_eq!(bench.ledger.known[&name("b")].since, at(60));
}

#[test]
fn an_idle_scheduler_wants_to_be_told_the_time_when_the_next_start_is() {
    let mut bench = Bench::leading([job("a")]);
    assert_eq!(bench.nodes[0].scheduler.wake_at(), Some(at(60)));
    bench.trust(0, false);
    assert_eq!(bench.nodes[0].scheduler.wake_at(), None, "it may not claim");
}

#[test]
fn a_paused_job_is_skipped_with_that_reason_until_it_is_resumed() {
    let mut bench = Bench::leading([job("a"), Job { trigger: after("b", On::End), ..job("z") }, job("b")]);
    bench.pause("a", true);
    bench.pause("z", true);
    bench.pass(secs(60));
    bench.succeeds(&run("b", 60));
    assert_eq!(
        bench.verdicts(),
        ["a@60 skipped: the job is paused", "b@60 succeeded", "z@60 skipped: the job is paused"]
    );
    bench.pause("a", false);
    bench.pass(secs(60));
    assert_eq!(bench.running(), ["a@120 #1", "b@120 #1"]);
}

#[test]
fn what_a_person_asks_for_runs_although_the_job_is_paused() {
    let mut bench = Bench::leading([job("a")]);
    bench.pause("a", true);
    bench.trigger("a", "t");
    bench.settle();
    assert_eq!(bench.running(), ["a@0~t #1"]);
}

#[test]
fn a_reload_keeps_what_was_due_and_jitter_has_not_started_yet() {
    let jittered = |most| Job { trigger: every("a", "@every 1m", secs(most)), ..job("a") };
    let mut bench = Bench::leading([jittered(58)]);
    bench.pass(Duration::from_millis(60_001));
    assert!(bench.running().is_empty(), "its start has been moved");
    bench.reload([jittered(57)]);
    bench.pass(secs(58));
    assert_eq!(bench.running(), ["a@60 #1"]);
}
