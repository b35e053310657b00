//! What becomes of the runs of a leader that is lost, and who may still speak for them.

use super::bench::{after, run};
use super::*;
use crate::job::{On, Retry};

fn again() -> Job {
    Job { guarantee: Guarantee::AtLeastOnce, on_lost_leadership: OnLostLeadership::Finish, ..job("a") }
}

/// Two nodes; the first leads, and runs `a@60`.
fn running(job: Job) -> Bench {
    let mut bench = Bench::with(2, [job]);
    bench.elect(0);
    bench.pass(secs(60));
    assert_eq!(bench.running(), ["a@60 #1"]);
    bench
}

/// The first node is cut off: its session ends, and the second leads.
fn cut_off(bench: &mut Bench) {
    bench.end_session(0);
    bench.elect(1);
    while bench.nodes[1].requests.is_empty() {
        bench.apply(1);
        bench.answer(1);
    }
}

#[test]
fn at_most_once_ends_as_unknown_when_its_leader_is_lost() {
    let mut bench = running(job("a"));
    bench.crash(0);
    bench.elect(1);
    bench.settle();
    let reason = "leader lost: n0 (fence 3) claimed it and did not say how it ended";
    assert_eq!(bench.verdicts(), [format!("a@60 unknown: {reason}")]);
}

#[test]
fn what_follows_a_failure_follows_an_unknown_end_too() {
    let mut bench = Bench::with(2, [job("a"), Job { trigger: after("a", On::Failure), ..job("b") }]);
    bench.elect(0);
    bench.pass(secs(60));
    bench.crash(0);
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.running_on(1), ["b@60 #1"]);
}

#[test]
fn at_least_once_is_run_again_under_a_higher_fence() {
    let mut bench = running(again());
    bench.crash(0);
    bench.elect(1);
    bench.settle();
    assert_eq!((bench.open(), bench.running_on(1)), (vec!["a@60 retrying".to_owned()], Vec::new()), "not at once");
    bench.pass(secs(1));
    assert_eq!(bench.running_on(1), ["a@60 #2"]);
}

#[test]
fn exactly_once_is_asked_of_its_target_again_under_a_higher_fence() {
    let mut bench = running(Job { guarantee: Guarantee::ExactlyOnce, ..job("a") });
    bench.crash(0);
    bench.elect(1);
    bench.pass(secs(1));
    assert_eq!(bench.running_on(1), ["a@60 #2"]);
    bench.ends(1, &run("a", 60), Outcome::AlreadyApplied);
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 succeeded: already applied"]);
}

#[test]
fn a_run_that_takes_its_leader_down_each_time_does_not_take_all_of_them() {
    let mut bench = running(again());
    for round in 0..=ATTEMPTS_LOST_MOST {
        let (lost, next) = (round as usize % 2, (round as usize + 1) % 2);
        bench.crash(lost);
        bench.elect(next);
        bench.settle();
        let before = bench.starts(&run("a", 60));
        bench.pass(secs(if round < 6 { 1 << round } else { 60 }));
        assert_eq!(bench.starts(&run("a", 60)), (before + 1).min(ATTEMPTS_LOST_MOST as usize), "after {round} losses");
    }
    assert_eq!(bench.starts(&run("a", 60)), ATTEMPTS_LOST_MOST as usize);
    assert_eq!(bench.ledger.verdict("a@2026-11-21T00:01:00Z"), Some(Verdict::Unknown));
}

#[test]
fn a_run_is_left_to_the_node_that_runs_it_while_its_session_lives() {
    let mut bench = running(Job { on_lost_leadership: OnLostLeadership::Finish, ..job("a") });
    bench.resign(0);
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.open(), ["a@60 claimed"]);
    bench.succeeds(&run("a", 60));
    assert_eq!(bench.verdicts(), ["a@60 succeeded"], "a replaced leader may say how its run ended");
}

#[test]
fn a_leader_decides_the_runs_of_a_session_that_ends_later() {
    let mut bench = running(Job { on_lost_leadership: OnLostLeadership::Finish, ..job("a") });
    bench.resign(0);
    bench.elect(1);
    bench.settle();
    bench.end_session(0);
    bench.settle();
    assert_eq!(bench.ledger.verdict("a@2026-11-21T00:01:00Z"), Some(Verdict::Unknown));
}

#[test]
fn a_replaced_leader_cannot_overwrite_what_its_successor_decided() {
    // It has not heard of its successor's decision, has heard of it, and hears of it while its own is under way.
    for heard in 0..3 {
        let mut bench = running(again());
        bench.end_session(0);
        bench.elect(1);
        bench.apply(1); // the run waits for the successor, which has not begun it yet
        assert_eq!(bench.open(), ["a@60 retrying"]);
        if heard == 1 {
            while bench.nodes[0].scheduler.view().open[&run("a", 60)].open.claimant.is_some() {
                bench.watch(0);
            }
        }
        bench.ends(0, &run("a", 60), succeeded());
        if heard == 2 {
            (0..20).for_each(|_| bench.watch(0));
        }
        bench.apply(0);
        assert_eq!(bench.open(), ["a@60 retrying"], "case {heard}");
        bench.pass(secs(1));
        assert_eq!(bench.running_on(1), ["a@60 #2"]);
    }
}

#[test]
fn what_is_left_to_finish_is_not_stopped_when_a_successor_decides_it() {
    let mut bench = running(Job { on_lost_leadership: OnLostLeadership::Finish, ..job("a") });
    cut_off(&mut bench);
    bench.settle();
    assert_eq!(bench.nodes[0].running[&run("a", 60)].stop, None);
    bench.ends(0, &run("a", 60), succeeded());
    bench.settle();
    assert_eq!(bench.ledger.verdict("a@2026-11-21T00:01:00Z"), Some(Verdict::Unknown));
}

#[test]
fn what_is_to_be_cancelled_is_stopped_when_a_successor_decides_it() {
    let mut bench = running(job("a"));
    cut_off(&mut bench);
    bench.settle();
    assert_eq!(bench.nodes[0].running[&run("a", 60)].stop, Some(StopReason::LostLeadership));
}

#[test]
fn the_end_of_an_older_attempt_does_not_end_the_one_that_its_own_node_is_to_run_next() {
    let mut bench = running(again());
    cut_off(&mut bench);
    bench.settle();
    bench.pass(secs(1));
    bench.crash(1); // which ran the second attempt
    bench.depose(0);
    bench.open_session(0);
    bench.elect(0);
    bench.settle();
    assert_eq!(bench.running(), ["a@60 #1"], "the third waits until the first has ended here");
    bench.ends(0, &run("a", 60), succeeded());
    bench.pass(secs(2));
    assert_eq!(bench.running(), ["a@60 #3"]);
    bench.succeeds(&run("a", 60));
    assert_eq!(bench.verdicts(), ["a@60 succeeded"]);
}

#[test]
fn what_was_claimed_and_never_started_is_given_back_by_a_leader_that_is_replaced() {
    let mut bench = Bench::with(2, [job("a")]);
    bench.elect(0);
    bench.settle();
    bench.now = at(60);
    bench.tick();
    bench.apply(0);
    bench.resign(0); // before it hears that its claim was made
    bench.settle();
    assert_eq!(bench.open(), ["a@60 waiting"]);
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.running_on(1), ["a@60 #1"]);
}

#[test]
fn what_was_claimed_on_a_former_session_and_never_started_is_known_not_to_have_run() {
    let mut bench = Bench::with(1, [job("a")]);
    bench.elect(0);
    bench.settle();
    bench.now = at(60);
    bench.tick();
    bench.apply(0);
    bench.end_session(0);
    bench.depose(0);
    bench.open_session(0);
    bench.elect(0);
    bench.settle();
    assert_eq!(bench.running(), ["a@60 #1"]);
}

#[test]
fn a_claim_that_is_acknowledged_when_trust_has_lapsed_is_given_back_and_begun_when_it_returns() {
    let mut bench = Bench::leading([job("a")]);
    bench.now = at(60);
    bench.tick();
    bench.trust(0, false);
    bench.settle();
    assert_eq!((bench.running().len(), bench.open()), (0, vec!["a@60 waiting".to_owned()]));
    bench.trust(0, true);
    bench.settle();
    assert_eq!(bench.running(), ["a@60 #1"]);
}

#[test]
fn what_a_leader_gives_back_whose_clock_was_ahead_is_begun_by_the_next_one() {
    let mut bench = Bench::with(2, [Job { guarantee: Guarantee::AtLeastOnce, ..job("a") }]);
    bench.elect(0);
    bench.settle();
    bench.now = at(60);
    bench.tick();
    bench.apply(0);
    bench.now = at(110); // its clock is set while the claim is answered
    bench.resign(0);
    bench.settle();
    assert_eq!(bench.open(), ["a@60 waiting"]);
    bench.now = at(61);
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.running_on(1), ["a@60 #1"]);
}

#[test]
fn a_run_that_was_given_back_unstarted_twice_is_still_begun() {
    let mut bench = Bench::leading([job("a")]);
    bench.pass(secs(60));
    for _ in 0..2 {
        bench.trust(0, false);
        bench.ends_unstarted(0, &run("a", 60), StopReason::LostLeadership);
        bench.settle();
        bench.trust(0, true);
        bench.apply(0); // it is begun, and trust lapses before that is known
        bench.trust(0, false);
        bench.settle();
        assert_eq!(bench.open(), ["a@60 waiting"]);
        bench.trust(0, true);
        bench.settle();
        assert_eq!(bench.running(), ["a@60 #1"]);
    }
}

#[test]
fn a_beginning_that_is_fenced_is_made_again_in_the_next_term_of_the_same_node() {
    let mut bench = Bench::leading([job("a")]);
    bench.trigger("a", "t");
    bench.watch(0);
    bench.resign(0); // with the beginning on its way
    bench.elect(0);
    bench.settle();
    assert_eq!(bench.running(), ["a@0~t #1"]);
}

#[test]
fn a_beginning_that_is_fenced_is_not_repeated_in_the_same_term() {
    let mut bench = Bench::leading([job("a")]);
    let asked = bench.trigger("a", "t");
    bench.watch(0);
    bench.nodes[0].requests.clear();
    bench.tell(0, Event::Transitioned { run: asked, result: Transitioned::Fenced });
    assert!(bench.nodes[0].requests.is_empty());
}

#[test]
fn a_job_to_be_run_again_goes_to_the_successor_of_a_node_that_shuts_down() {
    let mut bench = running(again());
    bench.drain(0, true);
    bench.tell(0, Event::StopAll(StopReason::Shutdown));
    bench.ends(0, &run("a", 60), stopped(StopReason::Shutdown));
    bench.settle();
    bench.resign(0);
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.running_on(1), ["a@60 #2"]);
}

#[test]
fn a_job_not_to_be_run_again_is_cancelled_by_a_node_that_shuts_down() {
    let mut bench = running(job("a"));
    bench.tell(0, Event::StopAll(StopReason::Shutdown));
    bench.ends(0, &run("a", 60), stopped(StopReason::Shutdown));
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@60 cancelled: node shut down"]);
}

#[test]
fn requests_made_while_nobody_led_are_seen_to_by_the_next_leader() {
    let mut bench = Bench::with(1, [job("a")]);
    let asked = bench.trigger("a", "t");
    bench.cancel(&asked);
    bench.settle();
    bench.elect(0);
    bench.settle();
    assert_eq!(bench.verdicts(), ["a@0~t cancelled: cancelled by request, of eve"]);
    assert_eq!(bench.cancels(), 0);
}

#[test]
fn a_request_to_cancel_what_still_runs_after_it_was_decided_is_forgotten_when_it_has_ended() {
    let mut bench = running(Job { on_lost_leadership: OnLostLeadership::Finish, ..job("a") });
    bench.end_session(0);
    bench.elect(1);
    bench.cancel(&run("a", 60));
    bench.apply(1); // it is decided, and its leader goes before it could forget the request
    bench.end_session(1);
    bench.depose(0);
    bench.open_session(0);
    bench.elect(0);
    bench.settle();
    assert_eq!(bench.nodes[0].running[&run("a", 60)].stop, Some(StopReason::Asked));
    bench.ends(0, &run("a", 60), stopped(StopReason::Asked));
    bench.settle();
    assert_eq!(bench.cancels(), 0);
}

#[test]
fn an_attempt_is_not_begun_beside_an_older_one_of_the_same_run_that_still_runs_here() {
    let mut bench = running(again());
    bench.end_session(0);
    bench.elect(1);
    bench.apply(1); // the run waits to be run again
    bench.crash(1);
    bench.depose(0);
    bench.open_session(0);
    bench.elect(0);
    bench.pass(secs(1));
    assert_eq!((bench.running(), bench.open()), (vec!["a@60 #1".to_owned()], vec!["a@60 retrying".to_owned()]));
    bench.ends(0, &run("a", 60), succeeded());
    bench.settle();
    assert_eq!(bench.running(), ["a@60 #2"]);
}

#[test]
fn a_run_is_not_repeated_beside_one_of_a_former_term_that_still_runs_here() {
    let job = Job { overlap: Overlap::Queue, retry: Retry { attempts: 2, ..job("a").retry }, ..job("a") };
    let mut bench = running(job);
    bench.pass(secs(60));
    bench.end_session(0);
    bench.elect(1);
    bench.settle();
    assert_eq!(bench.running_on(1), ["a@120 #1"], "the first is decided, though it still runs on its node");
    bench.ends(1, &run("a", 120), failed());
    bench.settle();
    bench.resign(1);
    bench.open_session(0);
    bench.elect(0);
    bench.pass(secs(30));
    assert_eq!(bench.running_on(0), ["a@60 #1"]);
    bench.ends(0, &run("a", 60), stopped(StopReason::LostLeadership));
    bench.settle();
    assert_eq!(bench.running_on(0), ["a@120 #2"]);
}
