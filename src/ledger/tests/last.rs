//! How the last run of each job ended: beside its verdict, whoever writes that, and never back.

use super::*;
use crate::scheduler::run::Last;

impl<S: Store> Desk<S> {
    async fn last(&self) -> Option<Last> {
        self.ledger.last_runs().await.unwrap().remove(&job())
    }

    /// The claimed occurrences of these seconds end so, in one transaction, by a writer who knows this of the last one.
    async fn end(&self, version: Version, ends: &[(u64, Verdict)], known: &mut LastRuns) {
        let ends = ends.iter().map(|(second, verdict)| self.ends(*second, version, *verdict)).collect();
        let answers = self.ledger.transition(None, ends, known).await.unwrap().answers;
        assert!(answers.iter().all(|(_, answer)| matches!(answer, Transitioned::Applied { .. })), "{answers:?}");
    }

    async fn last_version(&self) -> Version {
        let page = self.ledger.store.range(Range::of(Keys::one(self.ledger.keys.last(&job())))).await.unwrap();
        page.entries.first().map_or(0, |entry| entry.modified.0)
    }
}

/// What is known, in short: the second of the run, how it ended, and how those before it did.
fn short(last: Option<&Last>) -> String {
    last.map_or("none".to_owned(), |last| {
        let second = last.run.at().since(T0).as_secs();
        format!("{second} {} {} bad: {}", last.verdict, last.strip, last.bad_in_a_row)
    })
}

#[tokio::test]
async fn verdicts_of_one_transaction_leave_one_record_of_the_last_of_them() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2, 3]).await;
    let mut known = LastRuns::default();
    let ends = [(1, Verdict::Succeeded), (3, Verdict::Failed), (2, Verdict::Succeeded)];
    desk.end(version, &ends, &mut known).await;
    let last = desk.last().await.unwrap();
    assert_eq!(short(Some(&last)), "3 failed sfs bad: 1");
    assert_eq!(last.succeeded_at, Some(at(3)), "the second run ended a second after its instant");
    let (of, kept, at_version) = known.known().next().unwrap();
    assert_eq!((of, kept), (&job(), Some(&last)));
    assert_eq!(at_version, desk.last_version().await, "what the writer knows afterwards is what is there");
}

#[tokio::test]
async fn a_writer_who_knows_an_older_record_adds_to_the_one_that_is_there() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2, 3]).await;
    let (mut ours, mut theirs) = (LastRuns::default(), LastRuns::default());
    desk.end(version, &[(3, Verdict::Failed)], &mut theirs).await;
    desk.end(version, &[(1, Verdict::Succeeded)], &mut ours).await;
    assert_eq!(short(desk.last().await.as_ref()), "3 failed fs bad: 1", "it does not move back");
    desk.end(version, &[(2, Verdict::Failed)], &mut theirs).await;
    assert_eq!(short(desk.last().await.as_ref()), "3 failed fsf bad: 1");
}

#[tokio::test]
async fn an_answer_that_was_lost_adds_nothing_a_second_time() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2]).await;
    let mut known = LastRuns::default();
    desk.meets([Fault::AnswerLost]);
    desk.end(version, &[(1, Verdict::Failed)], &mut known).await;
    assert_eq!(short(desk.last().await.as_ref()), "1 failed f bad: 1");
    assert_eq!(known.known().next().unwrap().2, desk.last_version().await);
    desk.meets([Fault::Lost, Fault::AnswerLost]);
    desk.end(version, &[(2, Verdict::Failed)], &mut known).await;
    assert_eq!(short(desk.last().await.as_ref()), "2 failed ff bad: 2");
}

#[tokio::test]
async fn changes_that_are_refused_together_leave_the_record_that_they_leave_one_by_one() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2]).await;
    let mut known = LastRuns::default();
    desk.meets([Fault::Refused]);
    desk.end(version, &[(1, Verdict::Failed), (2, Verdict::TimedOut)], &mut known).await;
    assert_eq!(short(desk.last().await.as_ref()), "2 timed_out ft bad: 2");
}

#[tokio::test]
async fn what_was_never_begun_is_no_last_run_and_a_run_in_doubt_is_one() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2]).await;
    let mut skipped = desk.ends(1, version, Verdict::Skipped);
    if let To::Done { done, .. } = &mut skipped.to {
        done.attempt = 0;
    }
    desk.ledger.transition(None, vec![skipped], &mut LastRuns::default()).await.unwrap();
    assert_eq!(desk.last().await, None);
    desk.ledger.doubt_open_runs("restored", at(10)).await.unwrap();
    assert_eq!(short(desk.last().await.as_ref()), "2 unknown u bad: 1");
}

#[tokio::test]
async fn what_a_person_resolves_is_the_last_run_as_the_person_says() {
    for (resolution, left) in
        [(Resolution::Succeeded, "2 succeeded fs bad: 0"), (Resolution::Failed, "2 failed ff bad: 2")]
    {
        let desk = Desk::new().await;
        let version = desk.claimed(&[1, 2]).await;
        let mut known = LastRuns::default();
        desk.end(version, &[(1, Verdict::Failed), (2, Verdict::Unknown)], &mut known).await;
        assert_eq!(short(desk.last().await.as_ref()), "2 unknown fu bad: 2");
        desk.ledger.resolve(&acting(), &run(2), resolution).await.unwrap();
        assert_eq!(short(desk.last().await.as_ref()), left);
    }
    // One that is run again stays what it was, until it ends.
    let desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    desk.end(version, &[(1, Verdict::Unknown)], &mut LastRuns::default()).await;
    desk.ledger.resolve(&acting(), &run(1), Resolution::Retry).await.unwrap();
    assert_eq!(short(desk.last().await.as_ref()), "1 unknown u bad: 1");
    let again = match desk.ledger.run(&run(1)).await.unwrap() {
        Some(RunRow::Open(open)) => Done::of(&open, Verdict::Succeeded, "", at(20)),
        other => panic!("{other:?}"),
    };
    let key = desk.ledger.keys.open(&run(1));
    let entry = desk.ledger.store.range(Range::of(Keys::one(key))).await.unwrap().entries.remove(0);
    let to = To::Done { done: again, follow: Vec::new() };
    let end = Transition { run: run(1), expect: entry.modified.0, fence: None, to, notify: None };
    desk.ledger.transition(None, vec![end], &mut LastRuns::default()).await.unwrap();
    assert_eq!(short(desk.last().await.as_ref()), "1 succeeded s bad: 0");
}

#[tokio::test]
async fn a_run_that_is_resolved_while_another_ends_loses_neither() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2]).await;
    desk.end(version, &[(1, Verdict::Unknown)], &mut LastRuns::default()).await;
    desk.end(version, &[(2, Verdict::Succeeded)], &mut LastRuns::default()).await;
    desk.ledger.resolve(&acting(), &run(1), Resolution::Failed).await.unwrap();
    assert_eq!(short(desk.last().await.as_ref()), "2 succeeded us bad: 0", "the last run is another one");
    assert_eq!(desk.verdict(&run(1)).await, Some(Verdict::Failed));
}

#[tokio::test]
async fn the_record_of_a_newer_version_is_left_alone() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2]).await;
    let newer = br#"{"v":9,"r":{}}"#.to_vec();
    let put = Op::put(desk.ledger.keys.last(&job()), newer.clone());
    desk.ledger.store.inner.commit(Txn::new().then(put)).await.unwrap();
    let mut known = LastRuns::default();
    desk.end(version, &[(1, Verdict::Succeeded)], &mut known).await;
    desk.end(version, &[(2, Verdict::Succeeded)], &mut known).await;
    let page = desk.ledger.store.range(Range::of(Keys::one(desk.ledger.keys.last(&job())))).await.unwrap();
    assert_eq!(page.entries[0].value, newer);
}

#[tokio::test]
async fn a_history_without_a_record_gets_one_and_a_record_without_a_history_goes() {
    let desk = Desk::new().await;
    for (second, verdict) in [(1, Verdict::Failed), (2, Verdict::Succeeded), (3, Verdict::Failed)] {
        desk.ended(second, verdict).await;
    }
    assert!(!desk.ledger.forget_last(&desk.hold, &job()).await.unwrap(), "there is a history");
    assert!(desk.ledger.make_last(&desk.hold, &job()).await.unwrap());
    assert_eq!(short(desk.last().await.as_ref()), "3 failed fsf bad: 1");
    assert!(!desk.ledger.make_last(&desk.hold, &job()).await.unwrap(), "there is a record");
    let all = Op::Delete(desk.ledger.keys.history());
    desk.ledger.store.inner.commit(Txn::new().then(all)).await.unwrap();
    assert!(desk.ledger.forget_last(&desk.hold, &job()).await.unwrap());
    assert_eq!(desk.last().await, None);
    assert!(!desk.ledger.make_last(&desk.hold, &job()).await.unwrap(), "there is no run");
}

#[tokio::test]
async fn those_who_follow_the_ledger_hear_of_it() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1]).await;
    let mut follow = desk.ledger.follow().await.unwrap();
    follow.next().await.unwrap();
    desk.end(version, &[(1, Verdict::Failed)], &mut LastRuns::default()).await;
    let at_version = desk.last_version().await;
    let heard = loop {
        let News::Changed(changes, _) = follow.next().await.unwrap() else { panic!("nothing was missed") };
        let last = changes.into_iter().find(|change| matches!(change, Followed::Last { .. }));
        if let Some(last) = last {
            break last;
        }
    };
    assert_eq!(heard, Followed::Last { job: job(), last: desk.last().await, version: at_version });
}

#[test]
fn verdicts_of_a_job_wait_for_the_one_that_is_under_way_and_let_others_pass() {
    let done = |name: &str, second: u64| {
        let of = JobName::new(name).unwrap();
        let open = Open { id: RunId::of(&of, at(second)), job: of, ..open(second, OpenState::Claimed, None) };
        let to = To::Done { done: Done::of(&open, Verdict::Succeeded, "", at(second)), follow: Vec::new() };
        Transition { run: open.id, expect: 1, fence: None, to, notify: None }
    };
    let mut waiting: VecDeque<Transition> =
        [done("a", 1), done("b", 2), done("a", 3), done("c", 4)].into_iter().collect();
    let mut next = |busy: &str| -> Vec<String> {
        let taken = Ledger::<MemoryStore>::next_transitions(&mut waiting, |job| job.as_str() == busy);
        taken.iter().map(|change| change.run.job().to_string()).collect()
    };
    assert_eq!(next("a"), ["b", "c"]);
    assert_eq!(next("a"), Vec::<String>::new());
    assert_eq!(next("none"), ["a", "a"]);
}
