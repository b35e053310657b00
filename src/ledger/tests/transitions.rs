//! Changes of open runs: together, one by one, twice, too late.

use super::*;

fn applied(answer: &Transitioned) -> bool {
    matches!(answer, Transitioned::Applied { .. })
}

fn follow_up(of: u64, name: &str) -> Open {
    let job = JobName::new(name).unwrap();
    let id = run(of).followed_by(&job);
    Open {
        id,
        job,
        source: Source::After(Box::new(Predecessor { run: run(of), end: None })),
        ..open(of, OpenState::Waiting { not_before: at(of) }, None)
    }
}

impl<S: Store> Desk<S> {
    fn ends_with(&self, second: u64, expect: Version, follow: Vec<Open>) -> Transition {
        let mut ends = self.ends(second, expect, Verdict::Succeeded);
        if let To::Done { follow: next, .. } = &mut ends.to {
            *next = follow;
        }
        ends
    }
}

#[tokio::test]
async fn changes_are_made_together_and_each_is_answered() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2, 3, 4]).await;
    let waits = open(4, OpenState::Waiting { not_before: at(9) }, None);
    let changes = vec![
        desk.ends(1, version, Verdict::Succeeded),
        desk.ends(2, version - 1, Verdict::Succeeded), // not as it was
        desk.ends(7, version, Verdict::Succeeded),     // not there
        Transition { run: run(4), expect: version, fence: None, to: To::Open(waits.clone()), notify: None },
    ];
    let answers: std::collections::BTreeMap<_, _> =
        desk.ledger.transition(None, changes, &mut LastRuns::default()).await.unwrap().answers.into_iter().collect();
    assert!(applied(&answers[&run(1)]) && applied(&answers[&run(4)]));
    assert_eq!(answers[&run(2)], Transitioned::Refused { now: Some(Box::new(desk.open(2))), version });
    assert!(matches!(answers[&run(7)], Transitioned::Refused { now: None, .. }));
    assert_eq!(desk.ledger.run(&run(4)).await.unwrap(), Some(RunRow::Open(waits)));
    assert!(desk.is_open(&run(2)).await && desk.verdict(&run(7)).await.is_none());
}

#[tokio::test]
async fn a_leader_that_was_replaced_begins_nothing_and_may_still_say_how_its_run_ended() {
    let mut desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    let (old, open) = (desk.hold.clone(), desk.open(1));
    let ends = desk.ends(1, version, Verdict::Succeeded);
    desk.replaced().await;
    let change =
        Transition { run: run(1), expect: version, fence: Some(old.fence()), to: To::Open(open), notify: None };
    assert_eq!(
        desk.ledger.transition(Some(&old), vec![change], &mut LastRuns::default()).await.unwrap().answers[0].1,
        Transitioned::Fenced
    );
    assert!(applied(&desk.ledger.transition(None, vec![ends], &mut LastRuns::default()).await.unwrap().answers[0].1));
    assert_eq!(desk.verdict(&run(1)).await, Some(Verdict::Succeeded));
}

#[tokio::test]
async fn a_leader_that_was_replaced_never_overwrites_what_its_successor_decided() {
    let mut desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    let late = desk.ends(1, version, Verdict::Succeeded);
    desk.replaced().await;
    let decided = Transition { fence: Some(desk.hold.fence()), ..desk.ends(1, version, Verdict::Unknown) };
    assert!(applied(
        &desk.ledger.transition(Some(&desk.hold), vec![decided], &mut LastRuns::default()).await.unwrap().answers[0].1
    ));
    let answer = desk.ledger.transition(None, vec![late], &mut LastRuns::default()).await.unwrap().answers.remove(0).1;
    assert!(matches!(answer, Transitioned::Refused { now: None, .. }), "{answer:?}");
    assert_eq!(desk.verdict(&run(1)).await, Some(Verdict::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_is_lost_is_made_once_and_said_to_be_made() {
    for faults in [vec![Fault::AnswerLost], vec![Fault::Lost], vec![Fault::AnswerLost, Fault::Lost]] {
        let desk = Desk::new().await;
        let version = desk.claimed(&[1, 2]).await;
        desk.meets(faults.clone());
        let waits = open(2, OpenState::Waiting { not_before: at(9) }, None);
        let changes = vec![
            desk.ends_with(1, version, vec![follow_up(1, "b")]),
            Transition { run: run(2), expect: version, fence: None, to: To::Open(waits), notify: None },
        ];
        let answers = desk.ledger.transition(None, changes, &mut LastRuns::default()).await.unwrap().answers;
        assert!(answers.iter().all(|(_, answer)| applied(answer)), "{faults:?}: {answers:?}");
        assert!(desk.is_open(&follow_up(1, "b").id).await);
    }
}

#[tokio::test]
async fn a_follow_up_that_exists_is_not_made_again_and_takes_no_other_with_it() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2]).await;
    let (open_before, done_before, fresh, of_other) =
        (follow_up(1, "b"), follow_up(1, "c"), follow_up(1, "d"), follow_up(2, "b"));
    let begun = Open { attempt: 7, ..open_before.clone() };
    let done = Done::of(&done_before, Verdict::Failed, "", at(1));
    let before = Txn::new()
        .then(Op::put(desk.ledger.keys.open(&begun.id), encode(OpenRecord::from(&begun))))
        .then(Op::put(desk.ledger.keys.done(&done.id), encode(DoneRecord::from(&done))));
    desk.ledger.store.inner.commit(before).await.unwrap();

    let changes = vec![
        desk.ends_with(1, version, vec![open_before, done_before, fresh.clone()]),
        desk.ends_with(2, version, vec![of_other.clone()]),
    ];
    let answers = desk.ledger.transition(None, changes, &mut LastRuns::default()).await.unwrap().answers;
    assert!(answers.iter().all(|(_, answer)| applied(answer)));
    assert_eq!(desk.ledger.run(&begun.id).await.unwrap(), Some(RunRow::Open(begun)));
    assert_eq!(desk.verdict(&done.id).await, Some(Verdict::Failed));
    assert!(desk.is_open(&fresh.id).await && desk.is_open(&of_other.id).await);
}

#[tokio::test]
async fn changes_that_the_store_finds_too_large_together_are_made_one_by_one() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2]).await;
    desk.meets([Fault::Refused]);
    let changes = [1, 2].map(|second| desk.ends(second, version, Verdict::Succeeded));
    let answers = desk.ledger.transition(None, changes.to_vec(), &mut LastRuns::default()).await.unwrap().answers;
    assert!(answers.iter().all(|(_, answer)| applied(answer)) && answers.len() == 2);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_with_more_following_it_than_one_transaction_takes_is_written_and_all_of_them_come_to_be() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    let follow: Vec<Open> = (0..200).map(|number| follow_up(1, &format!("f{number:03}"))).collect();
    let before = Op::put(desk.ledger.keys.open(&follow[7].id), encode(OpenRecord::from(&follow[7])));
    desk.ledger.store.inner.commit(Txn::new().then(before)).await.unwrap();
    desk.meets([Fault::Refused, Fault::Refused, Fault::AnswerLost, Fault::Lost]);
    let change = Transition { fence: Some(desk.hold.fence()), ..desk.ends_with(1, version, follow.clone()) };
    let answers =
        desk.ledger.transition(Some(&desk.hold), vec![change], &mut LastRuns::default()).await.unwrap().answers;
    assert!(applied(&answers[0].1), "{answers:?}");
    assert_eq!(desk.verdict(&run(1)).await, Some(Verdict::Succeeded));
    for open in &follow {
        assert!(desk.is_open(&open.id).await, "{}", open.id);
    }
}

#[tokio::test]
async fn nothing_follows_ahead_of_a_verdict_that_another_decided() {
    let mut desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    let follow: Vec<Open> = (0..100).map(|number| follow_up(1, &format!("f{number:03}"))).collect();
    let late = desk.ends_with(1, version, follow.clone());
    let old = desk.hold.clone();
    let fenced = Transition { fence: Some(old.fence()), ..late.clone() };
    desk.replaced().await;
    assert_eq!(
        desk.ledger.transition(Some(&old), vec![fenced], &mut LastRuns::default()).await.unwrap().answers[0].1,
        Transitioned::Fenced
    );
    desk.ledger
        .transition(None, vec![desk.ends(1, version, Verdict::Unknown)], &mut LastRuns::default())
        .await
        .unwrap();
    let answers = desk.ledger.transition(None, vec![late], &mut LastRuns::default()).await.unwrap().answers;
    assert!(matches!(answers[0].1, Transitioned::Refused { now: None, .. }), "{answers:?}");
    assert!(!desk.is_open(&follow[0].id).await);
}

#[tokio::test]
async fn a_verdict_that_is_refused_with_its_output_is_written_without_and_says_so() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    let mut change = desk.ends(1, version, Verdict::Failed);
    if let To::Done { done, .. } = &mut change.to {
        (done.reason, done.output) = ("exit code 1".into(), "much".into());
    }
    desk.meets([Fault::Refused]);
    assert!(applied(&desk.ledger.transition(None, vec![change], &mut LastRuns::default()).await.unwrap().answers[0].1));
    let Some(RunRow::Done(done)) = desk.ledger.run(&run(1)).await.unwrap() else { panic!("no verdict") };
    assert_eq!((done.output.as_str(), done.verdict), ("", Verdict::Failed));
    assert_eq!(done.reason, "exit code 1; its output was cut: the store refused it");
}

#[tokio::test]
async fn a_change_that_cannot_be_made_smaller_is_refused_at_last() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    desk.meets([Fault::Refused]);
    let change = desk.ends(1, version, Verdict::Failed);
    let changed = desk.ledger.transition(None, vec![change.clone()], &mut LastRuns::default()).await.unwrap();
    assert!(changed.answers.is_empty(), "{:?}", changed.answers);
    assert!(matches!(&changed.refused[..], [(refused, StoreError::Refused(_))] if *refused == change));
}

#[tokio::test]
async fn a_change_that_is_refused_alone_holds_up_none_of_those_sent_with_it() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2, 3]).await;
    // Together, and the second of them alone.
    desk.meets([Fault::Refused, Fault::Passes, Fault::Refused]);
    let changes: Vec<_> = [1, 2, 3].map(|second| desk.ends(second, version, Verdict::Failed)).to_vec();
    let changed = desk.ledger.transition(None, changes.clone(), &mut LastRuns::default()).await.unwrap();
    assert_eq!(changed.answers.iter().map(|(run, _)| run).collect::<Vec<_>>(), [&run(1), &run(3)]);
    assert!(changed.answers.iter().all(|(_, answer)| applied(answer)), "{:?}", changed.answers);
    assert!(matches!(&changed.refused[..], [(refused, StoreError::Refused(_))] if *refused == changes[1]));
    assert!(desk.is_open(&run(2)).await && desk.verdict(&run(3)).await == Some(Verdict::Failed));
}

#[tokio::test]
async fn one_transaction_holds_changes_on_one_authority_and_no_more_than_fit() {
    let desk = Desk::new().await;
    let fence = Fence::new(7);
    let change = |second, fence| Transition { fence, ..desk.ends(second, 1, Verdict::Failed) };
    let mut waiting: VecDeque<_> =
        (0..100).map(|second| change(second, None)).chain([change(200, fence), change(201, None)]).collect();
    let mut sizes = Vec::new();
    while !waiting.is_empty() {
        sizes.push(Ledger::<MemoryStore>::next_transitions(&mut waiting, |_| false).len());
    }
    assert_eq!(sizes, [39, 39, 22, 1, 1]);
}
