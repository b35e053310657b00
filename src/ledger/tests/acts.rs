//! Acts of people: each with its record, in one transaction, once.

use super::*;
use crate::job::Params;
use crate::store::{Change, Watched};

/// Acts of every kind that the ledger makes by itself, in an order in which each can be made.
const ACTS: [Act; 9] = [
    Act::Trigger,
    Act::Pause,
    Act::Resume,
    Act::PauseAll,
    Act::ResumeAll,
    Act::Cancel,
    Act::Resolve,
    Act::Backfill,
    Act::StepDown,
];

impl<S: Store> Desk<S> {
    async fn make(&self, act: Act, acting: &Acting) -> Result<Deed, AskError> {
        let (ledger, job) = (&self.ledger, job());
        match act {
            Act::Trigger => ledger.trigger(acting, &job, Params::default()).await,
            Act::Pause => ledger.pause(acting, Some(&job), None).await,
            Act::Resume => ledger.resume(acting, Some(&job)).await,
            Act::PauseAll => ledger.pause(acting, None, None).await,
            Act::ResumeAll => ledger.resume(acting, None).await,
            Act::Cancel => ledger.ask_to_cancel(acting, &run(1)).await,
            Act::Resolve => ledger.resolve(acting, &run(2), Resolution::Succeeded).await,
            Act::Backfill => {
                let runs = [3, 4].map(|second| RunId::asked_for(&job, at(second), &acting.call('b')));
                ledger.backfill(acting, &job, runs.to_vec()).await
            }
            Act::StepDown => ledger.ask_to_step_down(acting, self.hold.fence(), "n").await,
            other => panic!("{other:?} is made elsewhere"),
        }
    }

    async fn audit_all(&self) -> Vec<AuditRow> {
        self.ledger.audit(&FindAudit { limit: 100, ..FindAudit::default() }, |_| true).await.unwrap().rows
    }

    /// What was written since this revision, in the order of the revisions: the keys of each.
    async fn written_since(&self, from: Revision) -> Vec<Vec<String>> {
        let now = self.ledger.store.range(Range::of(Keys::one("x"))).await.unwrap().revision;
        let mut watch = self.ledger.store.watch(Keys::prefix("/"), from.next()).await.unwrap();
        let mut written: std::collections::BTreeMap<Revision, Vec<String>> = std::collections::BTreeMap::new();
        while written.last_key_value().is_none_or(|(last, _)| *last < now) && now > from {
            let Some(Watched::Changes(changes)) = watch.next().await else { panic!("the watch broke") };
            for change in changes {
                let key = match &change {
                    Change::Put(entry) => entry.key.clone(),
                    Change::Deleted { key, .. } => key.clone(),
                };
                written.entry(change.revision()).or_default().push(key);
            }
        }
        written.into_values().collect()
    }

    async fn now(&self) -> Revision {
        self.ledger.store.range(Range::of(Keys::one("x"))).await.unwrap().revision
    }
}

async fn acts_have_their_records<S: Store>(desk: Desk<S>, faults: &[Fault]) {
    desk.claimed(&[1]).await;
    desk.ended(2, Verdict::Unknown).await;
    for (nth, act) in ACTS.into_iter().enumerate() {
        let before = desk.now().await;
        desk.meets(faults.iter().copied());
        let deed = desk.make(act, &acting()).await.unwrap_or_else(|error| panic!("{act:?}: {error}"));
        let rows = desk.audit_all().await;
        assert_eq!((rows.len(), &rows[0].deed, &*rows[0].asked.by), (nth + 1, &deed, "eve"), "{act:?}");
        assert_eq!(deed.act, act);
        // The first transaction is the act, and has its record beside what it changes.
        let written = desk.written_since(before).await;
        let is_record = |key: &String| key.contains("/~audit/");
        assert!(written[0].iter().any(is_record), "{act:?} changed {written:?} without its record");
        assert!(written[0].iter().any(|key| !is_record(key)), "{act:?}: a record of nothing: {written:?}");
        assert!(!written[1..].iter().flatten().any(is_record), "{act:?} has two records: {written:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_is_there_if_and_only_if_the_act_was_made() {
    for faults in [&[][..], &[Fault::AnswerLost], &[Fault::Lost], &[Fault::AnswerLost, Fault::AnswerLost]] {
        acts_have_their_records(Desk::new().await, faults).await;
    }
    // What cannot be made leaves no record, and neither does what never arrives.
    let desk = Desk::new().await;
    for act in [Act::Resume, Act::ResumeAll, Act::Cancel, Act::Resolve] {
        desk.make(act, &acting()).await.unwrap_err();
    }
    desk.meets([Fault::Lost; 6]);
    let lost = desk.make(Act::Pause, &acting()).await.unwrap_err();
    assert!(matches!(lost, AskError::Store(StoreError::Unknown { .. })), "{lost}");
    assert_eq!((desk.audit_all().await, desk.ledger.paused().await.unwrap()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn acts_have_their_records_in_a_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("state.db"), Clock::system()).await.unwrap();
    acts_have_their_records(Desk::over(store).await, &[Fault::AnswerLost]).await;
}

fn keyed(key: &str, request: &str) -> Acting {
    acting().once(Some(OnceAsked::new("ci", key, request.as_bytes())))
}

#[tokio::test(start_paused = true)]
async fn the_same_request_with_the_same_key_is_one_act_whatever_becomes_of_the_answers() {
    let desk = Desk::new().await;
    desk.claimed(&[1]).await;
    desk.ended(2, Verdict::Unknown).await;
    for (nth, act) in ACTS.into_iter().enumerate() {
        let key = format!("k{nth}");
        // So often is the answer lost that the first caller gives up.
        desk.meets([Fault::AnswerLost; 6]);
        let lost = desk.make(act, &keyed(&key, "x")).await.unwrap_err();
        assert!(matches!(lost, AskError::Store(StoreError::Unknown { .. })), "{act:?}: {lost}");
        let again = keyed(&key, "x");
        let known = desk.ledger.acted(&again).await.unwrap().expect("it was made").deed;
        let deed = match act {
            // These do not even look right any more, so that what was done is looked for first.
            Act::Resolve => known.clone(),
            _ => desk.make(act, &again).await.unwrap_or_else(|error| panic!("{act:?}: {error}")),
        };
        assert_eq!((&deed, deed.act), (&known, act));
        assert_eq!(desk.audit_all().await.len(), nth + 1, "{act:?} was made twice");
        let other = desk.ledger.acted(&keyed(&key, "y")).await.unwrap_err();
        assert!(matches!(other, AskError::OtherRequest), "{act:?}: {other}");
        if act != Act::Resolve {
            let other = desk.make(act, &keyed(&key, "y")).await.unwrap_err();
            assert!(matches!(other, AskError::OtherRequest), "{act:?}: {other}");
        }
    }
}

#[tokio::test]
async fn two_nodes_that_get_the_same_request_at_once_make_one_act() {
    let desk = Desk::new().await;
    for _ in 0..20 {
        let key = uuid::Uuid::new_v4().to_string();
        let (one, other) = (keyed(&key, "x"), keyed(&key, "x"));
        let (one, other) = tokio::join!(desk.make(Act::Trigger, &one), desk.make(Act::Trigger, &other));
        assert_eq!(one.unwrap().run, other.unwrap().run);
    }
    let find = Find { open: true, limit: 1000, ..Find::default() };
    assert_eq!(desk.ledger.runs(&find, |_| true).await.unwrap().len(), 20);
    assert_eq!(desk.audit_all().await.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_backfill_that_broke_off_goes_on_with_its_key_and_can_be_stopped() {
    let desk = Desk::new().await;
    let runs: Vec<RunId> = (0..100).map(|second| RunId::asked_for(&job(), at(second), "b-1")).collect();
    // The record is made, and then the store is away.
    let mut away = vec![Fault::Lost; 7];
    away[0] = Fault::AnswerLost;
    away.insert(1, Fault::AnswerLost);
    desk.meets(away);
    desk.ledger.backfill(&keyed("k", "x"), &job(), runs.clone()).await.unwrap_err();
    desk.ledger.store.faults.lock().unwrap().clear();
    let deed = desk.ledger.backfill(&keyed("k", "x"), &job(), runs.clone()).await.unwrap();
    let id = deed.backfill.unwrap();
    let progress = desk.ledger.backfill_progress(&id).await.unwrap().unwrap();
    assert_eq!(progress.counts, std::collections::BTreeMap::from([("waiting", 100)]));
    assert_eq!(desk.ledger.backfills(10).await.unwrap(), [progress.backfill]);
    desk.ledger.stop_backfill(&acting(), &id).await.unwrap();
    let mut follow = desk.ledger.follow().await.unwrap();
    let News::Reread(all, _) = follow.next().await.unwrap() else { panic!("it is read first") };
    let cancels =
        all.iter().filter(|one| matches!(one, Followed::Ledger(crate::scheduler::view::Change::Cancel(_, Some(_)), _)));
    assert_eq!(cancels.count(), 100);
    let none = desk.ledger.stop_backfill(&acting(), "x").await.unwrap_err();
    assert!(matches!(none, AskError::NoSuchBackfill(_)));
}

#[tokio::test]
async fn acts_are_listed_in_pages_and_kept_within_their_bounds() {
    let desk = Desk::new().await;
    let act = async |second, key: &str| {
        let asked = Asked::new(format!("p{second}"), at(second));
        let once = OnceAsked::new("ci", key, b"x");
        desk.ledger.trigger(&Acting::fresh(asked).once(Some(once)), &job(), Params::default()).await.unwrap();
    };
    for second in 1..=5 {
        act(second, &second.to_string()).await;
    }
    let page = async |before| {
        let find = FindAudit { before, limit: 2, ..FindAudit::default() };
        let page = desk.ledger.audit(&find, |row| row.asked.by != "p4").await.unwrap();
        (page.rows.iter().map(|row| row.asked.by.clone()).collect::<Vec<_>>(), page.next)
    };
    let (first, next) = page(None).await;
    assert_eq!(first, ["p5", "p3"]);
    let (second, next) = page(next).await;
    assert_eq!((second, next.is_some()), (vec!["p2".to_owned(), "p1".to_owned()], false));
    let is_kept = async |key: &str| desk.ledger.acted(&keyed(key, "x")).await.unwrap().is_some();
    desk.ledger.bound_acts(&desk.hold, at(3).plus(ONCE_AGE)).await.unwrap();
    assert_eq!((is_kept("2").await, is_kept("3").await, desk.audit_all().await.len()), (false, true, 5));
    desk.ledger.bound_acts(&desk.hold, at(3).plus(AUDIT_AGE)).await.unwrap();
    assert_eq!((is_kept("5").await, desk.audit_all().await.len()), (false, 3));
}

impl<S: Store> Desk<S> {
    /// The runs that are open.
    async fn open_runs(&self) -> Vec<Entry> {
        self.ledger.store.range_all(self.ledger.keys.opens()).await.unwrap().0
    }

    async fn cancels(&self) -> usize {
        let (all, _) = self.ledger.store.range_all(Keys::prefix("/")).await.unwrap();
        all.iter().filter(|entry| entry.key.contains("/ask/cancel/")).count()
    }

    async fn counts_of(&self, id: &str) -> Vec<(&'static str, usize)> {
        self.ledger.backfill_progress(id).await.unwrap().unwrap().counts.into_iter().collect()
    }
}

fn some_runs(count: u64) -> Vec<RunId> {
    (0..count).map(|second| RunId::asked_for(&job(), at(second), "b-1")).collect()
}

/// The runs may be pruned an hour after they ended, and the key lives for a day.
#[tokio::test]
async fn a_backfill_is_not_asked_for_again_once_all_of_it_was() {
    let desk = Desk::new().await;
    let (runs, keyed) = (some_runs(100), || keyed("k", "x"));
    let id = desk.ledger.backfill(&keyed(), &job(), runs.clone()).await.unwrap().backfill.unwrap();
    assert_eq!(desk.counts_of(&id).await, [("waiting", 100)]);
    let gone = desk.open_runs().await.into_iter().fold(Txn::new(), |txn, entry| txn.then(Op::delete(&entry.key)));
    desk.ledger.store.commit(gone).await.unwrap();
    assert_eq!(desk.ledger.backfill(&keyed(), &job(), runs).await.unwrap().backfill, Some(id.clone()));
    desk.ledger.go_on_with(&id).await.unwrap();
    desk.ledger.finish_backfills(&desk.hold, at(1_000_000)).await.unwrap();
    assert_eq!((desk.open_runs().await.len(), desk.counts_of(&id).await), (0, vec![("gone", 100)]));
}

#[tokio::test(start_paused = true)]
async fn a_backfill_that_is_stopped_amid_the_asking_asks_for_nothing_more() {
    let desk = Desk::new().await;
    let runs = some_runs(100);
    let mut away = vec![Fault::Lost; 7];
    away.insert(0, Fault::AnswerLost);
    desk.meets(away);
    desk.ledger.backfill(&keyed("k", "x"), &job(), runs.clone()).await.unwrap_err();
    desk.ledger.store.faults.lock().unwrap().clear();
    let [before] = &desk.ledger.backfills(10).await.unwrap()[..] else { panic!("it was recorded") };
    assert_eq!(desk.counts_of(&before.id).await, [("not_asked", 100)]);
    let asking = desk.ledger.store.range(Range::of(desk.ledger.keys.all_backfilling())).await.unwrap().entries;
    desk.ledger.stop_backfill(&acting(), &before.id).await.unwrap();
    // What asked for it was slow, and knows nothing of that.
    desk.ledger.ask_for(before, &asking[0], None).await.unwrap();
    desk.ledger.backfill(&keyed("k", "x"), &job(), runs).await.unwrap();
    assert_eq!((desk.open_runs().await.len(), desk.counts_of(&before.id).await), (0, vec![("gone", 100)]));
}

/// By the same request, or by the leader, which leaves a request alone for a while.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_backfill_or_of_its_stop_is_done_by_the_leader() {
    let desk = Desk::new().await;
    let mut away = vec![Fault::Lost; 7];
    away.insert(0, Fault::AnswerLost);
    desk.meets(away.clone());
    desk.ledger.backfill(&acting(), &job(), some_runs(100)).await.unwrap_err();
    desk.ledger.store.faults.lock().unwrap().clear();
    let id = desk.ledger.backfills(10).await.unwrap()[0].id.clone();
    assert_eq!(desk.ledger.finish_backfills(&desk.hold, Wall::EPOCH).await.unwrap(), 0);
    assert_eq!(desk.ledger.finish_backfills(&desk.hold, at(1_000_000)).await.unwrap(), 1);
    assert_eq!(desk.counts_of(&id).await, [("waiting", 100)]);
    assert_eq!(desk.ledger.finish_backfills(&desk.hold, at(1_000_000)).await.unwrap(), 0, "nothing is left");

    desk.meets(away);
    desk.ledger.stop_backfill(&acting(), &id).await.unwrap_err();
    desk.ledger.store.faults.lock().unwrap().clear();
    assert_eq!(desk.cancels().await, 0);
    assert_eq!(desk.ledger.finish_backfills(&desk.hold, at(1_000_000)).await.unwrap(), 1);
    assert_eq!(
        (desk.cancels().await, desk.ledger.finish_backfills(&desk.hold, at(1_000_000)).await.unwrap()),
        (100, 0)
    );
}

/// Whether a run that is claimed has begun, only its node knows: it may be given back.
#[tokio::test]
async fn the_stop_of_a_backfill_reaches_the_runs_that_are_claimed() {
    let desk = Desk::new().await;
    let id = desk.ledger.backfill(&acting(), &job(), some_runs(3)).await.unwrap().backfill.unwrap();
    let mut runs = Vec::new();
    for entry in desk.open_runs().await {
        let Some(super::super::keys::About::Open(run)) = desk.ledger.keys.about(&entry.key) else {
            panic!("{entry:?}")
        };
        runs.push((desk.ledger.open_of(&run, &entry).unwrap(), entry.modified.0));
    }
    let mut changes = Vec::new();
    for (nth, (open, version)) in runs[..2].iter().enumerate() {
        let started_at = (nth == 1).then(|| at(2));
        let claimed = Open { state: OpenState::Claimed, attempt: 1, started_at, ..open.clone() };
        let (run, expect, to) = (open.id.clone(), *version, crate::scheduler::To::Open(claimed));
        changes.push(crate::scheduler::Transition { run, expect, fence: None, to, notify: None });
    }
    desk.ledger.transition(None, changes, &mut LastRuns::default()).await.unwrap();
    desk.ledger.stop_backfill(&acting(), &id).await.unwrap();
    let mut follow = desk.ledger.follow().await.unwrap();
    let News::Reread(all, _) = follow.next().await.unwrap() else { panic!("it is read first") };
    let cancels = all.iter().filter_map(|one| match one {
        Followed::Ledger(crate::scheduler::view::Change::Cancel(run, Some(asked)), _) => {
            Some((run, asked.unless_begun))
        }
        _ => None,
    });
    let cancels: Vec<(&RunId, bool)> = cancels.collect();
    assert_eq!(cancels, [(&runs[0].0.id, true), (&runs[2].0.id, true)], "one that has begun goes on");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_replaced_finishes_no_backfill() {
    let mut desk = Desk::new().await;
    let mut away = vec![Fault::Lost; 7];
    away.insert(0, Fault::AnswerLost);
    desk.meets(away.clone());
    desk.ledger.backfill(&acting(), &job(), some_runs(100)).await.unwrap_err();
    desk.ledger.store.faults.lock().unwrap().clear();
    let replaced = desk.hold.clone();
    desk.replaced().await;
    assert_eq!(desk.ledger.finish_backfills(&replaced, at(1_000_000)).await.unwrap(), 0);
    assert_eq!(desk.open_runs().await.len(), 0);
    assert_eq!(desk.ledger.finish_backfills(&desk.hold, at(1_000_000)).await.unwrap(), 1);
    assert_eq!(desk.open_runs().await.len(), 100);

    let id = desk.ledger.backfills(10).await.unwrap()[0].id.clone();
    desk.meets(away);
    desk.ledger.stop_backfill(&acting(), &id).await.unwrap_err();
    desk.ledger.store.faults.lock().unwrap().clear();
    assert_eq!(desk.ledger.finish_backfills(&replaced, at(1_000_000)).await.unwrap(), 0);
    assert_eq!(desk.cancels().await, 0);
}

#[tokio::test]
async fn a_key_of_a_newer_version_is_kept_for_its_time() {
    #[derive(serde::Serialize)]
    struct Newer {
        at: Wall,
        what: &'static str,
    }
    let desk = Desk::new().await;
    let key = desk.ledger.keys.once_asked("x");
    let put = |value: Vec<u8>| desk.ledger.store.commit(Txn::new().then(Op::put(&key, value)));
    let is_there = async || desk.ledger.store.range(Range::of(Keys::one(&key))).await.unwrap().entries.len() == 1;
    put(crate::ledger::record::encode(Newer { at: at(5), what: "what nobody knows yet" })).await.unwrap();
    for (now, kept) in [(at(5).plus(ONCE_AGE), true), (at(6).plus(ONCE_AGE), false)] {
        desk.ledger.bound_acts(&desk.hold, now).await.unwrap();
        assert_eq!(is_there().await, kept);
    }
    put(b"damaged".to_vec()).await.unwrap();
    desk.ledger.bound_acts(&desk.hold, at(6).plus(ONCE_AGE)).await.unwrap();
    assert!(is_there().await, "it goes where there are too many");
}

/// After a restore, what the backup says is left may have been asked for since, and have run.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_backfill_in_a_backup_is_dropped_by_a_repair() {
    let desk = Desk::new().await;
    let mut away = vec![Fault::Lost; 7];
    away.insert(0, Fault::AnswerLost);
    desk.meets(away);
    desk.ledger.backfill(&keyed("k", "x"), &job(), some_runs(100)).await.unwrap_err();
    desk.ledger.store.faults.lock().unwrap().clear();
    desk.ledger.skip_to(at(10)).await.unwrap();
    assert_eq!(desk.ledger.finish_backfills(&desk.hold, at(1_000_000)).await.unwrap(), 0);
    desk.ledger.backfill(&keyed("k", "x"), &job(), some_runs(100)).await.unwrap();
    assert_eq!(desk.open_runs().await.len(), 0);
}

/// 40 calls mostly share one of 256 places, in which it is noted that they are over.
#[tokio::test]
async fn permits_of_many_calls_are_revoked_at_once_also_where_calls_share_a_place() {
    let desk = Desk::new().await;
    let name = LockName::new("slots").unwrap();
    let semaphore = desk.locks.semaphore(name.clone(), 50);
    let mut kept = Vec::new();
    for _ in 0..40 {
        kept.push(semaphore.try_acquire(&desk.session, 1).await.unwrap().unwrap());
    }
    let mut held = semaphore.revocations(desk.session.lease()).await.unwrap();
    let shared = |last: u64| Op::put("/fencron/v1/test/settled/shared", last.to_string());
    for (nth, (_, take)) in (0..).zip(&mut held) {
        take.then.push(shared(nth));
    }
    desk.ledger.take_permits(&acting(), &name, held).await.unwrap();
    assert!(semaphore.try_acquire(&desk.session, 50).await.unwrap().is_some(), "all are free");
    let note = desk.ledger.store.range(Range::of(Keys::one("/fencron/v1/test/settled/shared"))).await.unwrap();
    assert_eq!(note.entries[0].value, b"39");
}
