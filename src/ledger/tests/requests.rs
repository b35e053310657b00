//! What people ask for.

use super::*;

#[tokio::test(start_paused = true)]
async fn runs_that_are_asked_for_twice_are_asked_for_once() {
    let desk = Desk::new().await;
    let runs: Vec<RunId> = (0..150).map(|second| RunId::asked_for(&job(), at(second), "b-1")).collect();
    desk.meets([Fault::AnswerLost]);
    let first = desk.ledger.backfill(&acting(), &job(), runs.clone()).await.unwrap();
    let later = Acting::fresh(Asked::new("eve", at(10)));
    let second = desk.ledger.backfill(&later, &job(), runs).await.unwrap();
    assert_ne!(first.backfill, second.backfill);
    let find = Find { open: true, limit: 1000, ..Find::default() };
    let rows = desk.ledger.runs(&find, |_| true).await.unwrap();
    assert_eq!(rows.len(), 150);
    assert!(rows.iter().all(|row| matches!(row, RunRow::Open(open) if open.claimed_at == at(9))));
}

#[tokio::test]
async fn a_job_is_paused_once_and_resumed_once() {
    let desk = Desk::new().await;
    let refused = |answer: Result<Deed, AskError>| answer.unwrap_err().to_string();
    let not_paused = refused(desk.ledger.resume(&acting(), Some(&job())).await);
    assert_eq!(not_paused, "a is not paused: there is nothing to resume");
    assert_eq!(
        refused(desk.ledger.resume(&acting(), None).await),
        "all jobs are not paused: there is nothing to resume"
    );
    desk.ledger.pause(&acting(), Some(&job()), None).await.unwrap();
    assert_eq!(desk.ledger.paused().await.unwrap(), [(job(), Pause { asked: asked(), until: None })]);
    let bob = Asked::new("bob", at(10));
    let again = desk.ledger.pause(&Acting::fresh(bob.clone()), Some(&job()), None).await;
    assert_eq!(refused(again), "a is paused already");
    // Another end takes the place of the one before.
    let until = Some(at(100));
    desk.ledger.pause(&Acting::fresh(bob.clone()), Some(&job()), until).await.unwrap();
    assert_eq!(desk.ledger.paused().await.unwrap(), [(job(), Pause { asked: bob, until })]);
    desk.ledger.end_pause(&desk.hold, Some(&job()), at(99)).await.unwrap();
    assert_eq!(desk.ledger.paused().await.unwrap().len(), 1, "its end has not come");
    desk.ledger.resume(&acting(), Some(&job())).await.unwrap();
    desk.ledger.pause(&acting(), Some(&job()), until).await.unwrap();
    desk.ledger.end_pause(&desk.hold, Some(&job()), at(100)).await.unwrap();
    assert!(desk.ledger.paused().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_pause_or_resume_is_no_error() {
    let desk = Desk::new().await;
    desk.meets([Fault::AnswerLost]);
    desk.ledger.pause(&acting(), Some(&job()), None).await.unwrap();
    assert_eq!(desk.ledger.paused().await.unwrap().len(), 1);
    desk.meets([Fault::AnswerLost]);
    desk.ledger.resume(&acting(), Some(&job())).await.unwrap();
    assert_eq!(desk.ledger.paused().await.unwrap().len(), 0);
}

#[tokio::test]
async fn only_an_open_run_can_be_cancelled() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2]).await;
    desk.ledger
        .transition(None, vec![desk.ends(1, version, Verdict::TimedOut)], &mut LastRuns::default())
        .await
        .unwrap();
    let ended = desk.ledger.ask_to_cancel(&acting(), &run(1)).await.unwrap_err();
    assert_eq!(ended.to_string(), "a@2026-11-21T00:00:01Z has ended already: timed_out");
    let none = desk.ledger.ask_to_cancel(&acting(), &run(7)).await.unwrap_err();
    assert!(matches!(none, AskError::NoSuchRun(_)));
    desk.ledger.ask_to_cancel(&acting(), &run(2)).await.unwrap();
}

#[tokio::test]
async fn the_first_to_cancel_a_run_stays_the_one_that_did() {
    let desk = Desk::new().await;
    desk.claimed(&[1]).await;
    desk.ledger.ask_to_cancel(&acting(), &run(1)).await.unwrap();
    let bob = || Acting::fresh(Asked::new("bob", at(9)));
    let second = desk.ledger.ask_to_cancel(&bob(), &run(1)).await.unwrap_err();
    assert!(matches!(&second, AskError::CancelAsked { by, .. } if by == "eve"), "{second}");
    assert_eq!(desk.cancelled_by(1).await.as_deref(), Some("eve"));
}

/// A node that is slow to take a request back does so after a person has had the run run once more.
#[tokio::test]
async fn a_request_to_cancel_is_taken_back_only_where_the_run_has_ended() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    desk.ledger.ask_to_cancel(&acting(), &run(1)).await.unwrap();
    let ends = vec![desk.ends(1, version, Verdict::Unknown)];
    desk.ledger.transition(None, ends, &mut LastRuns::default()).await.unwrap();
    desk.ledger.resolve(&acting(), &run(1), Resolution::Retry).await.unwrap();
    assert_eq!(desk.cancelled_by(1).await, None, "the next attempt is not asked to be cancelled");
    desk.ledger.ask_to_cancel(&acting(), &run(1)).await.unwrap();
    desk.ledger.forget_cancel(&run(1)).await.unwrap();
    assert_eq!(desk.cancelled_by(1).await.as_deref(), Some("eve"));
}

impl<S: Store> Desk<S> {
    async fn cancelled_by(&self, second: u64) -> Option<String> {
        let key = self.ledger.keys.cancel(&run(second));
        let page = self.ledger.store.range(Range::of(Keys::one(key))).await.unwrap();
        let record = page.entries.first().map(|entry| crate::ledger::record::decode(&entry.value).unwrap());
        record.map(|record: crate::ledger::record::CancelRecord| record.asked.by)
    }
}

#[tokio::test]
async fn only_a_run_in_doubt_can_be_resolved() {
    let desk = Desk::new().await;
    desk.ended(3, Verdict::Unknown).await;
    desk.ledger.resolve(&acting(), &run(3), Resolution::Retry).await.unwrap();
    let open = desk.ledger.resolve(&acting(), &run(3), Resolution::Retry).await.unwrap_err();
    assert!(matches!(open, AskError::NotEnded(_)), "{open}");
    let none = desk.ledger.resolve(&acting(), &run(7), Resolution::Retry).await.unwrap_err();
    assert!(matches!(none, AskError::NoSuchRun(_)));
    desk.ended(1, Verdict::TimedOut).await;
    let certain = desk.ledger.resolve(&acting(), &run(1), Resolution::Succeeded).await.unwrap_err();
    let text = "a@2026-11-21T00:00:01Z is not in doubt: it ended as `timed_out`, and only what ended as `unknown` can \
                be resolved";
    assert_eq!(certain.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn a_run_in_doubt_is_resolved_each_way_whatever_becomes_of_the_answer() {
    for (resolution, verdict) in [
        (Resolution::Succeeded, Some(Verdict::Succeeded)),
        (Resolution::Failed, Some(Verdict::Failed)),
        (Resolution::Retry, None),
    ] {
        for faults in [vec![], vec![Fault::AnswerLost], vec![Fault::Lost]] {
            let desk = Desk::new().await;
            desk.ended(1, Verdict::Unknown).await;
            desk.meets(faults);
            desk.ledger.resolve(&acting(), &run(1), resolution).await.unwrap();
            assert_eq!(desk.verdict(&run(1)).await, verdict);
            assert_eq!(desk.is_open(&run(1)).await, verdict.is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_run_that_was_resolved_is_made_once_and_by_who_leads() {
    let desk = Desk::new().await;
    desk.ended(1, Verdict::Unknown).await;
    desk.ledger.resolve(&acting(), &run(1), Resolution::Succeeded).await.unwrap();
    let asked_for = async || {
        let page = desk.ledger.store.range(Range::of(Keys::one(desk.ledger.keys.resolved(&run(1))))).await.unwrap();
        !page.entries.is_empty()
    };
    assert!(asked_for().await, "a leader hears of it");
    let waiting = |second| open(second, OpenState::Waiting { not_before: at(9) }, None);
    desk.ended(3, Verdict::Succeeded).await;
    desk.meets([Fault::AnswerLost]);
    assert!(desk.ledger.follow_resolved(&desk.hold, &run(1), &[waiting(2), waiting(3)]).await.unwrap());
    assert_eq!((desk.is_open(&run(2)).await, desk.is_open(&run(3)).await), (true, false), "one has followed before");
    assert!(!asked_for().await);
}

#[tokio::test]
async fn a_request_to_step_down_is_forgotten_for_the_term_it_was_meant_for_and_earlier_ones() {
    let desk = Desk::new().await;
    let key = || Range::of(Keys::one(desk.ledger.keys.step_down()));
    let [early, meant] = [5, 6].map(|fence| Fence::new(fence).unwrap());
    desk.ledger.ask_to_step_down(&acting(), meant, "n1").await.unwrap();
    desk.ledger.forget_step_down(early).await.unwrap();
    assert_eq!(desk.ledger.store.range(key()).await.unwrap().entries.len(), 1);
    desk.ledger.forget_step_down(meant).await.unwrap();
    assert!(desk.ledger.store.range(key()).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn what_a_restored_store_left_open_ends_in_doubt() {
    let desk = Desk::new().await;
    let runs = [1, 2].map(|second| RunId::asked_for(&job(), at(second), "b-1"));
    desk.ledger.backfill(&acting(), &job(), runs.to_vec()).await.unwrap();
    assert_eq!(desk.ledger.doubt_open_runs("restored", at(10)).await.unwrap(), 2);
    for run in &runs {
        let Some(RunRow::Done(done)) = desk.ledger.run(run).await.unwrap() else { panic!("{run} is open") };
        assert_eq!((done.verdict, done.reason.as_str()), (Verdict::Unknown, "restored"));
    }
    desk.ledger.resolve(&acting(), &runs[0], Resolution::Retry).await.unwrap();
    assert_eq!(desk.ledger.doubt_open_runs("restored", at(11)).await.unwrap(), 1);
}
