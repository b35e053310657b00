//! Trust, draining, stepping down, and what the view makes of reports that come late.

use super::bench::{Request, run};
use super::*;

fn running(job: Job) -> Bench {
    let mut bench = Bench::leading([job]);
    bench.pass(secs(60));
    bench
}

fn drained(bench: &Bench) -> usize {
    bench.nodes[0].told.iter().filter(|action| **action == Action::Drained).count()
}

#[test]
fn a_lapse_of_trust_stops_what_is_to_be_cancelled_and_leaves_what_is_to_finish() {
    for (policy, stop) in
        [(OnLostLeadership::Cancel, Some(StopReason::LostLeadership)), (OnLostLeadership::Finish, None)]
    {
        let mut bench = running(Job { on_lost_leadership: policy, ..job("a") });
        bench.trust(0, false);
        assert_eq!(bench.nodes[0].running[&run("a", 60)].stop, stop);
    }
}

#[test]
fn nothing_is_claimed_or_begun_while_trust_has_lapsed() {
    let mut bench = Bench::leading([job("a")]);
    bench.trust(0, false);
    bench.trigger("a", "t");
    bench.pass(secs(120));
    assert_eq!(bench.open(), ["a@0~t waiting"]);
    bench.trust(0, true);
    bench.settle();
    assert_eq!(bench.running(), ["a@0~t #1"]);
}

#[test]
fn a_node_that_drains_claims_nothing_and_says_when_nothing_runs() {
    let mut bench = running(job("a"));
    bench.drain(0, false);
    bench.pass(secs(60));
    assert_eq!(drained(&bench), 0);
    assert!(bench.verdicts().is_empty(), "the next occurrence is left to whoever leads next");
    bench.succeeds(&run("a", 60));
    assert_eq!(drained(&bench), 1);
}

#[test]
fn draining_waits_for_what_may_outlive_the_leadership_only_where_it_is_asked_to() {
    for wait_for_finish in [false, true] {
        let mut bench = running(Job { on_lost_leadership: OnLostLeadership::Finish, ..job("a") });
        bench.drain(0, wait_for_finish);
        bench.settle();
        assert_eq!(drained(&bench), usize::from(!wait_for_finish));
    }
}

#[test]
fn draining_waits_for_the_answer_to_a_claim_and_gives_back_what_it_claimed() {
    let mut bench = Bench::leading([job("a")]);
    bench.now = at(60);
    bench.tick();
    bench.drain(0, false);
    assert_eq!(drained(&bench), 0);
    bench.settle();
    assert_eq!(drained(&bench), 1);
    assert_eq!(bench.open(), ["a@60 waiting"]);
}

#[test]
fn what_was_drained_goes_on() {
    let mut bench = Bench::leading([job("a")]);
    bench.drain(0, false);
    bench.trigger("a", "t");
    bench.settle();
    assert!(bench.running().is_empty());
    bench.undrain(0);
    bench.settle();
    assert_eq!(bench.running(), ["a@0~t #1"]);
}

#[test]
fn only_the_term_that_is_meant_steps_down() {
    let mut bench = Bench::leading([job("a")]);
    let fence = bench.nodes[0].term.unwrap();
    let other = Fence::new(fence.get() - 1).unwrap();
    for (meant_for, version) in [(other, 100), (fence, 101)] {
        bench.tell(0, Event::Changed(Change::StepDown(Some(meant_for)), version));
        let resign = meant_for == fence;
        assert_eq!(bench.nodes[0].told.last(), Some(&Action::StepDown { fence: meant_for, resign }));
    }
}

#[test]
fn a_follower_acts_on_nothing() {
    let mut bench = Bench::with(2, [job("a")]);
    bench.elect(0);
    bench.pass(secs(60));
    bench.trigger("a", "t");
    bench.cancel(&run("a", 60));
    bench.pass(secs(60));
    assert_eq!(bench.nodes[1].told, []);
}

#[test]
fn registration_is_asked_for_once() {
    let mut bench = Bench::leading([job("a")]);
    let registered =
        |bench: &Bench| bench.nodes[0].told.iter().filter(|action| matches!(action, Action::Register { .. })).count();
    assert_eq!(registered(&bench), 1);
    bench.resign(0);
    bench.elect(0);
    bench.reload([job("a")]);
    bench.settle();
    assert_eq!(registered(&bench), 1, "nothing has changed");
}

#[test]
fn a_report_that_is_older_than_an_answer_changes_nothing() {
    let mut bench = running(job("a"));
    let (open, version) = bench.ledger.open[&run("a", 60)].clone();
    let mut view = LedgerView::default();
    assert!(view.drop_open(&open.id, version + 5) || view.open.is_empty());
    assert!(!view.apply(Change::Open(open.id.clone(), Some(open.clone())), version), "it is gone since");
    assert!(view.apply(Change::Open(open.id.clone(), Some(open.clone())), version + 6), "it came to be again");
    assert!(!view.apply(Change::Open(open.id.clone(), None), version + 5));
    assert_eq!(view.open_of(&open.job).count(), 1);
    bench.settle();
}

#[test]
fn an_acknowledged_claim_does_not_make_the_view_forget_what_is_gone() {
    let mut bench = Bench::leading([job("a")]);
    let answered = |bench: &mut Bench| {
        bench.apply(0);
        bench.answer(0);
    };
    bench.now = at(60);
    bench.tick();
    answered(&mut bench);
    bench.ends(0, &run("a", 60), succeeded());
    answered(&mut bench); // gone, and the watch has not even said that it was there
    bench.now = at(120);
    bench.tick();
    answered(&mut bench); // a claim, at a later version
    for _ in 0..10 {
        bench.watch(0);
        let view = bench.nodes[0].scheduler.view();
        assert_eq!(view.open.keys().collect::<Vec<_>>(), [&run("a", 120)]);
    }
}

#[test]
fn the_view_forgets_what_is_gone_once_the_watch_has_passed_it() {
    let mut bench = running(job("a"));
    for minute in 1..100 {
        bench.succeeds(&run("a", minute * 60));
        bench.pass(secs(60));
    }
    assert!(bench.nodes[0].scheduler.view().remembered_as_gone() <= 2);
}

#[test]
fn a_reread_keeps_what_this_node_has_written_since() {
    let mut bench = Bench::leading([job("a")]);
    let (before, version) = (bench.ledger.all(), bench.ledger.revision);
    bench.pass(secs(60));
    bench.tell(0, Event::Reread { changes: before, version });
    let view = bench.nodes[0].scheduler.view();
    assert!(view.open.contains_key(&run("a", 60)));
    assert_eq!(view.watermark.as_ref().map(|mark| mark.instant), Some(at(60)));
    bench.reread(0);
    bench.succeeds(&run("a", 60));
    assert_eq!(bench.verdicts(), ["a@60 succeeded"]);
}

#[test]
fn a_reread_shows_what_ended_unseen() {
    let mut bench = Bench::with(2, [job("a")]);
    bench.elect(0);
    bench.pass(secs(60));
    bench.ends(0, &run("a", 60), succeeded());
    while let Some(Request::Transition(_)) = bench.nodes[0].requests.front() {
        bench.apply(0);
    }
    bench.reread(1);
    assert!(bench.nodes[1].scheduler.view().open.is_empty());
    bench.reread(0);
    bench.settle();
    bench.nodes[0].scheduler.assert_forgets();
}
