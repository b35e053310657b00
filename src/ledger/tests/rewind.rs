use super::*;
use crate::ledger::RewindError;
use crate::scheduler::run::Many;
use crate::scheduler::view::Change as LedgerChange;

fn eve() -> Acting {
    Acting::fresh(Asked::new("eve", T0))
}

impl Desk<MemoryStore> {
    fn anew(&self, number: u64, seconds: &[u64]) -> Batch {
        Batch { anew: true, ..self.batch(number, seconds) }
    }

    /// A verdict on the occurrence at this second, decided by a claim.
    fn skip_at(&self, second: u64) -> Done {
        let mut done = Done::of(&self.open(second), Verdict::Skipped, "missed", T0);
        done.attempt = 0;
        done
    }

    async fn runs(&self) -> Vec<String> {
        let find = crate::ledger::Find { open: true, done: true, limit: 1000, ..Default::default() };
        let mut rows: Vec<_> = self.ledger.runs(&find, |_| true).await.unwrap();
        rows.sort_by_key(|row| row.id().clone());
        let word = |row: &crate::ledger::RunRow| row.verdict().map_or("open".to_owned(), |verdict| verdict.to_string());
        rows.iter().map(|row| format!("{} {}", row.id(), word(row))).collect()
    }
}

#[tokio::test]
async fn after_a_rewind_nothing_is_claimed_that_has_a_claim_or_a_verdict() {
    let desk = Desk::new().await;
    let mut claims = desk.claims();
    desk.ledger.claim(&mut claims, &desk.batch(1, &[100, 110])).await.unwrap();
    desk.ledger.rewind(&eve(), None, at(50)).await.unwrap();
    assert_eq!(desk.ledger.watermark().await.unwrap().unwrap().instant, at(50));
    // A leader that has not heard of it yet is told, and claims nothing.
    let Claim::Rewound { version } = desk.ledger.claim(&mut claims, &desk.batch(2, &[120])).await.unwrap() else {
        panic!("it was claimed")
    };
    claims.rewound(version);
    let claim = desk.ledger.claim(&mut claims, &desk.anew(3, &[60, 100])).await.unwrap();
    assert_eq!(claim, Claim::Decided { decided: vec![desk.open(100).id], forgotten: Vec::new() });
    assert_eq!(desk.ledger.watermark().await.unwrap().unwrap().instant, at(50), "nothing was claimed");
    desk.meets([Fault::AnswerLost]);
    let claim = desk.ledger.claim(&mut claims, &desk.anew(4, &[60])).await.unwrap();
    assert!(matches!(claim, Claim::Made { .. }), "{claim:?}");
    assert_eq!(desk.ledger.watermark().await.unwrap().unwrap().instant, at(60));
}

#[tokio::test]
async fn a_rewind_brings_back_since_and_says_up_to_where_verdicts_may_be() {
    let desk = Desk::new().await;
    let mut claims = desk.claims();
    let known = Known { fingerprint: "x".into(), since: at(200) };
    assert!(desk.ledger.register(&desk.hold, &[(job(), known)], &[]).await.unwrap());
    desk.ledger.claim(&mut claims, &desk.batch(1, &[100])).await.unwrap();
    desk.meets([Fault::AnswerLost; 3]);
    let done = desk.ledger.rewind(&eve(), None, at(50)).await.unwrap();
    assert_eq!((done.from, done.to, done.jobs), (Some(at(100)), at(50), 1));
    assert_eq!(desk.ledger.known_jobs().await.unwrap()[0].1.since, at(50));
    let mut follow = desk.ledger.follow().await.unwrap();
    let News::Reread(all, _) = follow.next().await.unwrap() else { panic!("it is read first") };
    let upto = |told: &Followed| matches!(told, Followed::Ledger(LedgerChange::Rewound(upto), _) if *upto == at(200));
    assert!(all.iter().any(upto), "{all:?}");
    assert_eq!(desk.ledger.rewinds().await.unwrap(), [done]);
    let again = desk.ledger.rewind(&eve(), None, at(50)).await;
    assert!(matches!(again, Err(RewindError::NothingToDo(mark)) if mark == at(50)), "{again:?}");
}

#[tokio::test]
async fn a_rewind_takes_back_what_was_skipped_before_its_time_and_nothing_that_ran() {
    let desk = Desk::new().await;
    let mut claims = desk.claims();
    let mut many = desk.skip_at(400);
    many.many = Some(Many { from: at(10), count: 40, at_least: false });
    let dones = vec![desk.skip_at(20), desk.skip_at(60), many];
    let batch = Batch { dones, ..desk.batch(1, &[500]) };
    desk.ledger.claim(&mut claims, &batch).await.unwrap();
    let done = desk.ledger.rewind(&eve(), None, at(50)).await.unwrap();
    assert_eq!(done.taken_back, 2);
    let instant = |second| desk.open(second).id.to_string();
    let left =
        [format!("{} skipped", instant(10)), format!("{} skipped", instant(20)), format!("{} open", instant(500))];
    assert_eq!(desk.runs().await, left);
}

#[tokio::test]
async fn what_was_pruned_is_not_claimed_again() {
    let desk = Desk::new().await;
    let mut claims = desk.claims();
    for (number, second) in (1..).zip([100, 110, 120, 130]) {
        let batch = desk.batch(number, &[second]);
        let Claim::Made { version } = desk.ledger.claim(&mut claims, &batch).await.unwrap() else { panic!("made") };
        let done = Done::of(&batch.opens[0], Verdict::Succeeded, "", at(second));
        let to = To::Done { done, follow: Vec::new() };
        let ended = Transition { run: batch.opens[0].id.clone(), expect: version, fence: None, to, notify: None };
        desk.ledger.transition(None, vec![ended], &mut LastRuns::default()).await.unwrap();
    }
    let bounds = History { keep: 1, age: Duration::from_secs(1_000_000) };
    assert_eq!(desk.ledger.prune(&desk.hold, &job(), bounds, at(140)).await.unwrap().deleted, 3);
    let plan = desk.ledger.look_at_rewind(None, at(50)).await.unwrap();
    assert_eq!(plan.pruned, [job()], "it is said");
    desk.ledger.rewind(&eve(), None, at(50)).await.unwrap();
    let page = desk.ledger.store.range(Range::of(Keys::one(desk.ledger.keys.watermark()))).await.unwrap();
    let mut claims = Claims::new(desk.hold.clone(), page.entries[0].modified.0);
    let claim = desk.ledger.claim(&mut claims, &desk.anew(9, &[110])).await.unwrap();
    assert_eq!(claim, Claim::Decided { decided: Vec::new(), forgotten: vec![desk.open(110).id] });
    let claim = desk.ledger.claim(&mut claims, &desk.anew(10, &[130])).await.unwrap();
    assert_eq!(claim, Claim::Decided { decided: vec![desk.open(130).id], forgotten: Vec::new() });
    let claim = desk.ledger.claim(&mut claims, &desk.anew(11, &[90])).await.unwrap();
    assert!(matches!(claim, Claim::Made { .. }), "{claim:?}");
}

#[tokio::test]
async fn a_watermark_that_cannot_be_read_or_is_gone_is_brought_to_where_a_person_says() {
    for value in [Some("garbage"), None] {
        let desk = Desk::new().await;
        let mut claims = desk.claims();
        desk.ledger.claim(&mut claims, &desk.batch(1, &[100])).await.unwrap();
        let key = desk.ledger.keys.watermark();
        let damage = value.map_or_else(|| Op::delete(&key), |value| Op::put(&key, value));
        desk.ledger.store.inner.commit(Txn::new().then(damage)).await.unwrap();
        let refused = desk.ledger.rewind(&eve(), None, at(50)).await;
        assert!(matches!(refused, Err(RewindError::ToIsMissing)), "{refused:?}");
        let done = desk.ledger.rewind(&eve(), Some(at(40)), at(50)).await.unwrap();
        assert_eq!((done.from, done.to), (None, at(40)));
        assert_eq!(desk.ledger.watermark().await.unwrap().unwrap().instant, at(40));
    }
}

#[tokio::test]
async fn a_watermark_is_missed_however_much_was_asked_for_since() {
    let desk = Desk::new().await;
    let mut claims = desk.claims();
    desk.ledger.claim(&mut claims, &desk.batch(1, &[100])).await.unwrap();
    for second in 0..150 {
        let asked = RunId::asked_for(&job(), at(second), "t-1");
        let put = Op::put(desk.ledger.keys.open(&asked), "{}");
        desk.ledger.store.inner.commit(Txn::new().then(put)).await.unwrap();
    }
    let gone = Op::delete(desk.ledger.keys.watermark());
    desk.ledger.store.inner.commit(Txn::new().then(gone)).await.unwrap();
    let damage = desk.ledger.watermark_damage().await.unwrap();
    assert!(damage.as_ref().is_some_and(|why| why.contains("was deleted")), "{damage:?}");
}
