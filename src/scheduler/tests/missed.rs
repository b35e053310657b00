//! Occurrences whose instant passed with no leader.

use super::bench::{every, run};
use super::run::Done;
use super::*;
use crate::job::Missed;

fn with(missed: Missed) -> Job {
    Job { missed, ..job("a") }
}

fn missed(run: MissedRun) -> Missed {
    Missed { run, within: None, limit: 3, every: secs(0) }
}

/// Nobody led for so long; what the leader after that decided.
fn after_a_gap(job: Job, gap: u64) -> Bench {
    let mut bench = Bench::leading([job]);
    bench.resign(0);
    bench.now = at(gap);
    bench.elect(0);
    bench.settle();
    bench.assert_complete();
    bench
}

#[test]
fn a_hand_over_within_two_seconds_misses_nothing() {
    let bench = after_a_gap(with(missed(MissedRun::Skip)), 61);
    assert_eq!(bench.running(), ["a@60 #1"]);
}

#[test]
fn skip_runs_none_of_those_missed() {
    let bench = after_a_gap(with(missed(MissedRun::Skip)), 150);
    assert!(bench.running().is_empty());
    let reason = "skipped: missed: no leader when it was due (`missed.run: skip`)";
    assert_eq!(bench.verdicts(), [format!("a@120 {reason} (2 since 60)")]);
}

#[test]
fn latest_runs_the_last_of_those_missed() {
    let bench = after_a_gap(with(missed(MissedRun::Latest)), 200);
    assert_eq!(bench.running(), ["a@180 #1"]);
    let reason = "skipped: missed: a later occurrence takes its place (`missed.run: latest`)";
    assert_eq!(bench.verdicts(), [format!("a@120 {reason} (2 since 60)")]);
}

#[test]
fn latest_runs_none_where_the_next_is_due_in_time() {
    let bench = after_a_gap(with(missed(MissedRun::Latest)), 121);
    assert_eq!(bench.running(), ["a@120 #1"]);
    assert_eq!(bench.verdicts().len(), 1);
}

#[test]
fn all_runs_the_newest_up_to_the_limit_one_after_the_other() {
    let mut bench = after_a_gap(with(missed(MissedRun::All)), 310);
    assert_eq!(bench.running(), ["a@180 #1"]);
    assert_eq!(bench.verdicts(), ["a@120 skipped: missed: more than 3 were (`missed.limit`) (2 since 60)"]);
    for second in [180, 240, 300] {
        bench.succeeds(&run("a", second));
    }
    assert_eq!(bench.all_starts(), 3);
}

#[test]
fn all_keeps_the_time_from_one_start_to_the_next() {
    let mut bench = after_a_gap(
        Job {
            overlap: Overlap::Allow { max_running: 5 },
            ..with(Missed { every: secs(20), ..missed(MissedRun::All) })
        },
        190,
    );
    assert_eq!(bench.running(), ["a@60 #1"]);
    bench.pass(secs(20));
    assert_eq!(bench.running(), ["a@60 #1", "a@120 #1"]);
    bench.pass(secs(20));
    assert_eq!(bench.running().len(), 3);
}

#[test]
fn those_older_than_within_are_skipped_with_that_reason() {
    let bench = after_a_gap(with(Missed { within: Some(secs(100)), ..missed(MissedRun::All) }), 200);
    assert_eq!(bench.verdicts(), ["a@60 skipped: missed: no leader within 1m 40s (`missed.within`)"]);
    assert_eq!(bench.open(), ["a@120 claimed", "a@180 waiting"]);
}

#[test]
fn too_many_to_be_told_one_by_one_are_told_together() {
    let bench = after_a_gap(Job { trigger: every("a", "@every 1s", secs(0)), ..job("a") }, 1000);
    let many: Vec<_> = bench.ledger.done.values().filter_map(|done| Some((done.many?, done.at))).collect();
    let [(oldest, last), (listed, _)] = many[..] else { panic!("one verdict covers the oldest: {many:?}") };
    // The two of the last two seconds are in time (or nearly); of the others a hundred are looked at one by one.
    assert_eq!((oldest.from, oldest.at_least), (at(1), false));
    assert_eq!(oldest.count, last.since(oldest.from).as_secs() + 1);
    assert_eq!(listed.count + (bench.ledger.done.len() + bench.ledger.open.len()) as u64 - 2, 100);
}

#[test]
fn many_are_told_once_and_the_others_one_by_one_whoever_leads_then() {
    let often = |name: &str, jitter| Job { trigger: every(name, "@every 10s", secs(jitter)), ..job(name) };
    for claims in 0..5 {
        let mut bench = Bench::with(2, [often("a", 0), often("b", 9), often("c", 9)]);
        bench.elect(0);
        bench.settle();
        bench.resign(0);
        bench.now = at(5000);
        bench.elect(0);
        bench.nodes[0].requests.clear();
        bench.tell(0, Event::BatchTooLarge { most: 3 });
        for _ in 0..claims {
            bench.apply(0);
            bench.answer(0);
        }
        bench.crash(0);
        bench.elect(1);
        bench.settle();
        bench.assert_complete();
        let of = |job: &str, many: bool| {
            let too_many = |done: &&Done| done.reason.contains("too many to decide") == many;
            let done = bench.ledger.done.values().filter(|done| done.job.as_str() == job).filter(too_many);
            let rows = done.clone().count();
            let open = bench.ledger.open.values().filter(|(open, _)| open.job.as_str() == job).count() as u64;
            let told: u64 = done.map(|done| done.many.map_or(1, |many| many.count)).sum();
            if many { rows as u64 } else { told + open }
        };
        for job in ["a", "b", "c"] {
            assert_eq!((of(job, true), of(job, false)), (1, 100), "{job} after {claims} claims");
        }
    }
}

#[test]
fn more_than_can_be_counted_are_told_as_at_least_so_many() {
    let bench = after_a_gap(Job { trigger: every("a", "@every 1s", secs(0)), ..job("a") }, 86_400);
    let many = bench.ledger.done.values().find_map(|done| done.many).expect("one verdict covers the oldest");
    assert!(many.at_least && many.count == crate::schedule::MOST_COUNTED);
}

#[test]
fn a_clock_that_jumps_ahead_has_missed_the_time_between() {
    let mut bench = Bench::leading([with(missed(MissedRun::Latest))]);
    bench.now = at(200);
    bench.tick();
    bench.settle();
    assert_eq!(bench.running(), ["a@180 #1"]);
    assert!(bench.verdicts()[0].ends_with("(2 since 60)"), "{:?}", bench.verdicts());
}

#[test]
fn a_lapse_of_trust_misses_what_was_due_in_it() {
    let mut bench = Bench::leading([with(missed(MissedRun::Latest))]);
    bench.trust(0, false);
    bench.pass(secs(200));
    assert!(bench.open().is_empty() && bench.verdicts().is_empty());
    bench.trust(0, true);
    bench.settle();
    assert_eq!(bench.running(), ["a@180 #1"]);
}

#[test]
fn those_of_many_jobs_are_decided_in_the_order_in_which_they_were_to_start() {
    let jobs = ["a", "b", "c"].map(|name| Job { trigger: every(name, "@every 7s", secs(5)), ..job(name) });
    let mut bench = Bench::leading(jobs);
    bench.resign(0);
    bench.now = at(2000);
    bench.elect(0);
    bench.settle(); // the ledger checks that the watermark only grows
    bench.assert_complete();
    let told: u64 = bench.ledger.done.values().map(|done| done.many.map_or(1, |many| many.count)).sum();
    assert!(told > 300, "{told}");
}

/// A job that runs every three seconds and was missed for so long is led again, and each of its runs takes `took`, for
/// `led` more seconds. What began, in that order.
fn made_up_for(job: Job, gap: u64, took: Duration, led: u64) -> (Bench, Vec<u64>) {
    let job = Job { trigger: every("a", "@every 3s", secs(0)), ..job };
    made_up_on(after_a_gap(job, gap), gap, took, led)
}

fn made_up_on(mut bench: Bench, gap: u64, took: Duration, led: u64) -> (Bench, Vec<u64>) {
    let until = at(gap + led);
    while bench.now < until {
        let over = bench.nodes[0].running.iter().find(|(_, process)| bench.now.since(process.started_at) >= took);
        match over.map(|(run, _)| run.clone()) {
            Some(run) => bench.succeeds(&run),
            None => bench.pass(Duration::from_millis(100)),
        }
    }
    let began = bench.nodes[0].told.iter().filter_map(|action| match action {
        Action::Start { open, .. } => Some(open.at.since(T0).as_secs()),
        _ => None,
    });
    let began = began.collect();
    (bench, began)
}

fn all_of_them() -> Missed {
    Missed { limit: 100, every: Duration::from_millis(200), ..missed(MissedRun::All) }
}

fn every_third_from_to(from: u64, to: u64) -> Vec<u64> {
    (from..=to).step_by(3).collect()
}

#[test]
fn a_queue_is_made_up_for_oldest_first_and_what_comes_due_meanwhile_takes_its_place_at_the_end() {
    let queue = Job { overlap: Overlap::Queue, ..with(all_of_them()) };
    let (bench, began) = made_up_for(queue, 50, Duration::from_millis(100), 20);
    assert_eq!(began, every_third_from_to(3, 69));
    assert!(!bench.verdicts().iter().any(|verdict| verdict.contains("skipped")), "{:?}", bench.verdicts());
}

#[test]
fn missed_ones_take_no_place_in_a_queue_from_what_is_due_now() {
    let queue = Job { overlap: Overlap::Queue, ..with(Missed { limit: 150, ..all_of_them() }) };
    let (bench, began) = made_up_for(queue, 450, Duration::from_millis(500), 130);
    assert_eq!(began, every_third_from_to(3, 579));
    assert!(!bench.verdicts().iter().any(|verdict| verdict.contains("skipped")), "{:?}", bench.verdicts());
}

#[test]
fn what_comes_due_while_missed_ones_are_made_up_for_is_not_skipped() {
    for took in [100, 1_000, 2_500, 2_900] {
        let (bench, mut began) = made_up_for(with(all_of_them()), 50, Duration::from_millis(took), 600);
        began.sort_unstable();
        let last = began.len() as u64 * 3;
        assert_eq!(began, every_third_from_to(3, last), "runs of {took} ms");
        assert!(last >= 600, "runs of {took} ms are made up for: {last}");
        assert!(
            !bench.verdicts().iter().any(|verdict| verdict.contains("skipped")),
            "{took} ms: {:?}",
            bench.verdicts()
        );
    }
}

#[test]
fn a_job_that_overlaps_itself_comes_to_rest_once_it_has_caught_up() {
    let (bench, began) = made_up_for(with(all_of_them()), 50, secs(5), 600);
    assert!(every_third_from_to(3, 48).iter().all(|missed| began.contains(missed)), "{began:?}");
    let skipped = bench.verdicts().iter().filter(|verdict| verdict.contains("lasted beyond its instant")).count();
    assert!(skipped > 0 && bench.open().len() <= 2, "{skipped} skipped, open: {:?}", bench.open());
    let (late, last) = (bench.now.since(at(*began.last().unwrap())), began.last().unwrap());
    assert!(late < secs(15), "the last that began, {last}, is late by {late:?}");
}

#[test]
fn it_comes_to_rest_as_well_where_the_watch_reports_ends_before_they_are_answered() {
    let job = Job { trigger: every("a", "@every 3s", secs(0)), ..with(missed(MissedRun::Latest)) };
    let mut bench = after_a_gap(job, 50);
    bench.watch_ahead = true;
    let (bench, began) = made_up_on(bench, 50, secs(7), 300);
    let (late, last) = (bench.now.since(at(*began.last().unwrap())), began.last().unwrap());
    assert!(late < secs(15) && bench.open().len() <= 3, "{last} is late by {late:?}, open: {:?}", bench.open());
}

#[test]
fn missed_ones_that_wait_take_no_room_from_what_may_run_beside_others() {
    let beside =
        Job { overlap: Overlap::Allow { max_running: 2 }, ..with(Missed { every: secs(30), ..all_of_them() }) };
    let (bench, began) = made_up_for(beside, 50, secs(1), 20);
    assert!(every_third_from_to(51, 69).iter().all(|due| began.contains(due)), "{began:?}");
    assert!(!bench.verdicts().iter().any(|verdict| verdict.contains("skipped")), "{:?}", bench.verdicts());
}

#[test]
fn a_missed_occurrence_of_a_paused_job_is_skipped() {
    let mut bench = Bench::leading([with(missed(MissedRun::All))]);
    bench.pause("a", true);
    bench.resign(0);
    bench.now = at(100);
    bench.elect(0);
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 skipped: the job is paused"]);
}
