//! What is listed, and what is pruned.

use super::*;
use crate::ledger::pages::SEARCHED_MOST;
use crate::ledger::prune::FAILURES_KEPT;
use crate::scheduler::run::Many;

async fn seconds<S: Store>(desk: &Desk<S>, find: &Find) -> Vec<u64> {
    let rows = desk.ledger.runs(find, |_| true).await.unwrap();
    rows.iter().map(|row| row.id().at().since(T0).as_secs()).collect()
}

fn all() -> Find {
    Find { open: true, done: true, limit: 1000, ..Find::default() }
}

#[tokio::test]
async fn runs_are_listed_newest_first_open_ones_and_verdicts_together() {
    let desk = Desk::new().await;
    let version = desk.claimed(&[1, 2, 3]).await;
    desk.ledger.transition(None, vec![desk.ends(2, version, Verdict::Failed)], &mut LastRuns::default()).await.unwrap();
    assert_eq!(seconds(&desk, &all()).await, [3, 2, 1]);
    assert_eq!(seconds(&desk, &Find { limit: 2, ..all() }).await, [3, 2]);
    assert_eq!(seconds(&desk, &Find { open: false, ..all() }).await, [2]);
    assert_eq!(seconds(&desk, &Find { done: false, ..all() }).await, [3, 1]);
    assert_eq!(seconds(&desk, &Find { verdict: Some(Verdict::Failed), ..all() }).await, [2]);
    assert_eq!(seconds(&desk, &Find { verdict: Some(Verdict::Skipped), ..all() }).await, [0; 0]);
    assert_eq!(seconds(&desk, &Find { job: JobName::new("b").ok(), ..all() }).await, [0; 0]);
}

#[tokio::test]
async fn a_long_history_is_listed_page_by_page_with_nothing_twice_and_nothing_left_out() {
    let desk = Desk::new().await;
    // Transactions of many verdicts, so that pages end in the middle of one.
    for batch in 0..6_u64 {
        let mut txn = Txn::new();
        for second in batch * 110..(batch + 1) * 110 {
            let done = Done::of(&desk.open(second), Verdict::Skipped, "", at(second));
            txn = txn.then(Op::put(desk.ledger.keys.done(&done.id), encode(DoneRecord::from(&done))));
        }
        desk.ledger.store.inner.commit(txn).await.unwrap();
    }
    let listed = seconds(&desk, &all()).await;
    assert_eq!(listed, (0..660).rev().collect::<Vec<_>>());
    assert_eq!(seconds(&desk, &Find { limit: 300, ..all() }).await, listed[..300]);
    let odd = |row: &RunRow| row.id().at().since(T0).as_secs() % 2 == 1;
    assert_eq!(desk.ledger.runs(&all(), odd).await.unwrap().len(), 330);
}

/// Verdicts at `count` seconds, so many in one transaction.
async fn written<S: Store>(desk: &Desk<S>, count: u64, at_once: u64) {
    for first in (0..count).step_by(usize::try_from(at_once).unwrap()) {
        let mut txn = Txn::new();
        for second in first..(first + at_once).min(count) {
            let verdict = if second % 7 == 0 { Verdict::Failed } else { Verdict::Skipped };
            let done = Done::of(&desk.open(second), verdict, "", at(second));
            txn = txn.then(Op::put(desk.ledger.keys.verdict(&done), encode(DoneRecord::from(&done))));
        }
        desk.ledger.store.inner.commit(txn).await.unwrap();
    }
}

/// All pages of a search, each begun where the one before ended.
async fn pages<S: Store>(desk: &Desk<S>, find: FindDone) -> (Vec<u64>, usize) {
    let (mut all, mut find, mut asked) = (Vec::new(), find, 0);
    loop {
        let page = desk.ledger.done_page(&find, |_| true).await.unwrap();
        assert!(page.rows.len() <= find.limit);
        assert!(page.searched_to.is_none() || (page.rows.len() < find.limit && page.next.is_some()), "{page:?}");
        all.extend(page.rows.iter().map(|(done, _)| done.at.since(T0).as_secs()));
        asked += 1;
        let Some(next) = page.next else { return (all, asked) };
        find.after = Some(next);
    }
}

#[tokio::test]
async fn the_pages_of_the_history_are_all_of_it_and_a_search_looks_at_so_much_and_no_more() {
    let desk = Desk::new().await;
    let count = SEARCHED_MOST as u64 + 500;
    written(&desk, count, 50).await;
    let find = |limit| FindDone { limit, ..FindDone::default() };
    let (mut all, _) = pages(&desk, find(97)).await;
    assert_eq!((all.first(), all.len() as u64), (Some(&(count - 50)), count), "the last written come first");
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len() as u64, count, "nothing is there twice");

    let (failed, _) = pages(&desk, FindDone { verdict: Some(Verdict::Failed), ..find(50) }).await;
    assert_eq!(failed.len() as u64, count.div_ceil(7));
    let (none, asked) = pages(&desk, FindDone { verdict: Some(Verdict::Unknown), ..find(50) }).await;
    assert_eq!((none.len(), asked), (0, 2));
    let first =
        desk.ledger.done_page(&FindDone { verdict: Some(Verdict::Unknown), ..find(50) }, |_| true).await.unwrap();
    let looked_at = first.searched_to.unwrap().since(T0).as_secs();
    // The last transaction of a read may be cut, and counts with the next read.
    assert!((500..=1_100).contains(&looked_at), "it says where it has stopped: {looked_at}");

    for job in [None, Some(job())] {
        let within = FindDone { job, since: Some(at(100)), until: Some(at(102)), ..find(2) };
        let (mut within, _) = pages(&desk, within).await;
        within.sort_unstable();
        assert_eq!(within, [100, 101, 102]);
    }
    let turned = FindDone { since: Some(at(102)), until: Some(at(100)), ..find(2) };
    assert_eq!(pages(&desk, turned).await, (Vec::new(), 1));
    let kept = desk.ledger.done_page(&find(10), |done| done.at == at(7)).await.unwrap();
    assert!(kept.rows.is_empty() && kept.next.is_some(), "it lies beyond what one page looks at");
}

#[tokio::test]
async fn what_ended_badly_is_paged_by_its_list_and_from_before_that_began_by_the_history() {
    let desk = Desk::new().await;
    written(&desk, 300, 50).await;
    assert!(
        desk.ledger
            .begin_term(
                &desk.hold,
                &NewTerm { node: "a".to_owned(), from: at(300), vacant_since: None, last_signs: Vec::new() }
            )
            .await
            .unwrap()
    );
    for first in (300..500_u64).step_by(4) {
        let mut txn = Txn::new();
        for second in first..first + 4 {
            let verdict = if second % 3 == 0 { Verdict::Failed } else { Verdict::TimedOut };
            let done = Done { attempt: 1, ..Done::of(&desk.open(second), verdict, "", at(second)) };
            txn = txn.then(Op::put(desk.ledger.keys.verdict(&done), encode(DoneRecord::from(&done))));
            txn = desk.ledger.put_attention(txn, &done);
        }
        desk.ledger.store.inner.commit(txn).await.unwrap();
    }
    let (all, _) = pages(&desk, FindDone { limit: 1000, ..FindDone::default() }).await;
    let is_failed = |second: &u64| if *second < 300 { second.is_multiple_of(7) } else { second.is_multiple_of(3) };
    let failed: Vec<u64> = all.into_iter().filter(is_failed).collect();
    for limit in [1, 7, 500] {
        let find = FindDone { verdict: Some(Verdict::Failed), limit, ..FindDone::default() };
        let (paged, asked) = pages(&desk, find).await;
        assert_eq!(paged, failed, "{limit}");
        assert!(asked <= failed.len() / limit + 2, "no page is short before the last: {asked} of {limit}");
    }
    // What is on the list from before another term began is in the history as well.
    desk.ledger.begin_attention(&desk.hold).await.unwrap();
    let find = FindDone { verdict: Some(Verdict::Failed), limit: 500, ..FindDone::default() };
    assert_eq!(pages(&desk, find).await.0, failed);
}

#[tokio::test]
async fn pruning_keeps_so_many_verdicts_and_those_that_nobody_has_resolved() {
    let desk = Desk::new().await;
    for second in 0..450 {
        desk.ended(second, if second % 100 == 0 { Verdict::Unknown } else { Verdict::Succeeded }).await;
    }
    let bounds = History { keep: 10, age: Duration::from_secs(1_000_000) };
    let pruned = desk.ledger.prune(&desk.hold, &job(), bounds, at(450)).await.unwrap().deleted;
    let mut left = seconds(&desk, &all()).await;
    left.reverse();
    assert_eq!(left, [0, 100, 200, 300, 400].into_iter().chain(440..450).collect::<Vec<_>>());
    assert_eq!(pruned, 435);
}

#[tokio::test]
async fn pruning_deletes_what_is_too_old() {
    let desk = Desk::new().await;
    for second in 0..20 {
        desk.ended(second, Verdict::Succeeded).await;
    }
    let bounds = History { keep: 1000, age: Duration::from_secs(5) };
    assert_eq!(desk.ledger.prune(&desk.hold, &job(), bounds, at(20)).await.unwrap().deleted, 15);
    assert_eq!(seconds(&desk, &all()).await, [19, 18, 17, 16, 15]);
}

impl<S: Store> Desk<S> {
    /// Runs at these seconds that a person asked for have ended at `finished`.
    async fn backfilled(&self, seconds: std::ops::Range<u64>, finished: Wall) {
        for second in seconds {
            let id = RunId::asked_for(&job(), at(second), &format!("b-{second}"));
            let open = Open { id, ..self.open(second) };
            let done = Done::of(&open, Verdict::Succeeded, "", finished);
            let put = Op::put(self.ledger.keys.done(&done.id), encode(DoneRecord::from(&done)));
            self.ledger.store.inner.commit(Txn::new().then(put)).await.unwrap();
        }
    }
}

const HOUR: u64 = 3600;

#[tokio::test]
async fn what_a_person_asked_for_stays_for_an_hour_however_old_its_instant_is() {
    let desk = Desk::new().await;
    let now = 1000 * HOUR;
    desk.backfilled(0..3, at(now)).await;
    for second in now - 20..now {
        desk.ended(second, Verdict::Succeeded).await;
    }
    let bounds = History { keep: 10, age: Duration::from_secs(24 * HOUR) };
    let pruned = desk.ledger.prune(&desk.hold, &job(), bounds, at(now + HOUR - 1)).await.unwrap();
    assert_eq!(pruned.deleted, 10);
    let mut left = seconds(&desk, &all()).await;
    left.sort_unstable();
    assert_eq!(left, (0..3).chain(now - 10..now).collect::<Vec<_>>());
    let pruned = desk.ledger.prune(&desk.hold, &job(), bounds, at(now + HOUR + 1)).await.unwrap();
    assert_eq!(pruned.deleted, 3);
}

#[tokio::test]
async fn of_what_persons_asked_for_only_so_much_is_safe_and_the_lowest_instants_go_first() {
    let desk = Desk::new().await;
    desk.backfilled(0..1250, at(2000)).await;
    let bounds = History { keep: 10, age: Duration::from_secs(1_000_000) };
    assert_eq!(desk.ledger.prune(&desk.hold, &job(), bounds, at(2001)).await.unwrap().deleted, 150);
    let left = seconds(&desk, &Find { limit: 5000, ..all() }).await;
    assert_eq!((left.len(), left.iter().min()), (1100, Some(&150)));
}

#[tokio::test]
async fn a_verdict_is_as_old_as_its_run_ended_long_ago() {
    let desk = Desk::new().await;
    for (second, finished) in [(0, 0), (1, 900), (2, 2), (3, 901)] {
        let done = Done::of(&desk.open(second), Verdict::Succeeded, "", at(finished));
        let put = Op::put(desk.ledger.keys.done(&done.id), encode(DoneRecord::from(&done)));
        desk.ledger.store.inner.commit(Txn::new().then(put)).await.unwrap();
    }
    let bounds = History { keep: 10, age: Duration::from_secs(500) };
    assert_eq!(desk.ledger.prune(&desk.hold, &job(), bounds, at(1000)).await.unwrap().deleted, 2);
    let mut left = seconds(&desk, &all()).await;
    left.sort_unstable();
    assert_eq!(left, [1, 3]);
}

#[tokio::test]
async fn a_verdict_that_a_newer_version_wrote_is_not_pruned() {
    let desk = Desk::new().await;
    let key = desk.ledger.keys.done(&run(1));
    let put = Op::put(key.clone(), br#"{"v":99,"r":{}}"#);
    desk.ledger.store.inner.commit(Txn::new().then(put)).await.unwrap();
    desk.ended(2, Verdict::Succeeded).await;
    let none = History { keep: 0, age: Duration::ZERO };
    assert_eq!(desk.ledger.prune(&desk.hold, &job(), none, at(100)).await.unwrap().deleted, 1);
    let page = desk.ledger.store.range(Range::of(Keys::one(key))).await.unwrap();
    assert_eq!(page.entries.len(), 1);
}

#[tokio::test]
async fn a_leader_that_was_replaced_prunes_nothing() {
    let mut desk = Desk::new().await;
    desk.ended(1, Verdict::Succeeded).await;
    let old = desk.hold.clone();
    desk.replaced().await;
    let none = History { keep: 0, age: Duration::ZERO };
    let pruned = desk.ledger.prune(&old, &job(), none, at(100)).await.unwrap();
    assert_eq!(pruned, Pruned { deleted: 0, refused: true });
    assert_eq!(seconds(&desk, &all()).await, [1]);
}

#[tokio::test]
async fn jobs_with_a_history_are_told_page_by_page() {
    let desk = Desk::new().await;
    for name in ["a", "a.b", "a-b", "b"] {
        let open =
            Open { job: JobName::new(name).unwrap(), id: RunId::of(&JobName::new(name).unwrap(), T0), ..desk.open(0) };
        let done = Done::of(&open, Verdict::Succeeded, "", T0);
        let put = Op::put(desk.ledger.keys.done(&done.id), encode(DoneRecord::from(&done)));
        desk.ledger.store.inner.commit(Txn::new().then(put)).await.unwrap();
    }
    let (mut told, mut after) = (Vec::new(), None);
    loop {
        let page = desk.ledger.jobs_with_history(after.as_ref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        told.extend(page.iter().map(ToString::to_string));
    }
    told.sort();
    assert_eq!(told, ["a", "a-b", "a.b", "b"]);
}

impl<S: Store> Desk<S> {
    /// The claim `number` decides that the occurrences at these seconds, up to the last of them, were skipped, in the
    /// place of the verdict at `replaced`.
    async fn skipped(&self, claims: &mut Claims, number: u64, seconds: [u64; 2], replaced: Option<u64>) {
        let [from, last] = seconds;
        let many = Many { from: at(from), count: last - from + 1, at_least: false };
        let mut done = Done::of(&self.open(last), Verdict::Skipped, "the job is paused", at(last));
        (done.attempt, done.many) = (0, (from < last).then_some(many));
        let batch = Batch {
            opens: Vec::new(),
            dones: vec![done],
            replaced: replaced.map(run).into_iter().collect(),
            ..self.batch(number, &[last])
        };
        assert!(matches!(self.ledger.claim(claims, &batch).await.unwrap(), Claim::Made { .. }));
    }
}

#[tokio::test]
async fn a_row_of_skips_is_one_verdict_which_is_found_by_each_of_its_occurrences() {
    let desk = Desk::new().await;
    let mut claims = desk.claims();
    desk.skipped(&mut claims, 1, [5, 5], None).await;
    desk.skipped(&mut claims, 2, [5, 7], Some(5)).await;
    desk.skipped(&mut claims, 3, [5, 9], Some(7)).await;
    desk.ended(10, Verdict::Succeeded).await;
    assert_eq!(seconds(&desk, &Find { verdict: Some(Verdict::Skipped), ..all() }).await, [9]);
    for second in 5..=9 {
        let Some(RunRow::Done(done)) = desk.ledger.run(&run(second)).await.unwrap() else { panic!("{second}") };
        assert_eq!((done.at, done.many.map(|many| many.count)), (at(9), Some(5)), "{second}");
    }
    assert_eq!(desk.verdict(&run(4)).await, None);
    assert_eq!(desk.verdict(&run(10)).await, Some(Verdict::Succeeded));
    assert_eq!(desk.verdict(&run(11)).await, None);
}

#[tokio::test]
async fn a_lost_answer_extends_a_row_once() {
    let desk = Desk::new().await;
    let mut claims = desk.claims();
    desk.skipped(&mut claims, 1, [5, 5], None).await;
    desk.meets([Fault::AnswerLost]);
    desk.skipped(&mut claims, 2, [5, 6], Some(5)).await;
    assert_eq!(seconds(&desk, &all()).await, [6]);
}

#[tokio::test]
async fn what_was_never_begun_pushes_no_run_out_of_the_history_and_has_a_bound_of_its_own() {
    let desk = Desk::new().await;
    for second in 0..20 {
        desk.ended(second, Verdict::Succeeded).await;
    }
    let mut claims = desk.claims();
    for number in 0..30 {
        desk.skipped(&mut claims, number + 1, [100 + number, 100 + number], None).await;
    }
    let bounds = History { keep: 10, age: Duration::from_secs(1_000_000) };
    let pruned = desk.ledger.prune(&desk.hold, &job(), bounds, at(1000)).await.unwrap();
    assert_eq!(pruned.deleted, 30);
    let mut left = seconds(&desk, &all()).await;
    left.reverse();
    assert_eq!(left, (10..20).chain(120..130).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_last_failures_stay_however_much_ran_well_since() {
    let desk = Desk::new().await;
    for second in 0..700 {
        let verdict = match second {
            _ if second % 10 != 0 => Verdict::Succeeded,
            _ if second % 20 == 0 => Verdict::Failed,
            _ => Verdict::TimedOut,
        };
        desk.ended(second, verdict).await;
    }
    let bounds = History { keep: 10, age: Duration::from_secs(1_000_000) };
    let kept = FAILURES_KEPT as u64;
    let expected: Vec<u64> = (69 - kept..69).map(|nth| nth * 10).chain(690..700).collect();
    for _ in 0..2 {
        desk.ledger.prune(&desk.hold, &job(), bounds, at(700)).await.unwrap();
        let mut left = seconds(&desk, &all()).await;
        left.reverse();
        assert_eq!(left, expected);
    }
    // Age takes them like the others.
    let short = History { age: Duration::from_secs(50), ..bounds };
    desk.ledger.prune(&desk.hold, &job(), short, at(700)).await.unwrap();
    assert_eq!(seconds(&desk, &all()).await.len(), 10 + 4);
}
