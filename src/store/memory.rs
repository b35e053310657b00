//! The reference model of a store, in memory: for the simulation, for tests, and for `memory:`.
//!
//! It is deterministic: on one thread, with a clock that is derived from tokio's, the same calls in the same order get
//! the same answers, down to the ids of leases. It obeys etcd's rules and limits, so that what etcd would refuse is
//! refused here too. The state is in one place, and its lock is only ever held inside synchronous functions.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::watching::WatchBatch;
use super::{About, Committed, Keys, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch, Watched, rules};
use crate::time::Clock;

mod state;
pub use state::HISTORY;
use state::State;

/// A store that lives as long as its handles.
///
/// ```
/// use fencron::store::{Compare, Keys, Op, Store, Txn, memory::MemoryStore};
/// use fencron::time::Clock;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = MemoryStore::new(Clock::system());
/// let take = Txn::new().when(Compare::absent(Keys::one("lock"))).then(Op::put("lock", "me"));
/// assert!(store.commit(take.clone()).await.unwrap().succeeded);
/// assert!(!store.commit(take).await.unwrap().succeeded);
/// # });
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// What a [`MemoryStore`] held at one moment, as a backup.
#[derive(Clone, Debug)]
pub struct Snapshot(State);

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// Notified whenever something changed: an entry, or when the next lease ends. Not a `watch`, whose receivers wake
    /// in an order drawn by chance.
    changed: Notify,
}

impl MemoryStore {
    /// An empty store whose leases are timed by `clock`.
    ///
    /// A watch reports the end of a lease when its time has come by tokio's timer as well as by `clock`: a clock that
    /// is moved by hand takes effect when something next asks the store.
    pub fn new(clock: Clock) -> MemoryStore {
        let shared = Shared { clock, state: Mutex::new(State::new()), changed: Notify::new() };
        MemoryStore { shared: Arc::new(shared) }
    }

    /// Forgets the history before `revision` (or the current one, where that is less): reads and watches from before
    /// it are answered as compacted.
    pub fn compact(&self, revision: Revision) {
        self.shared.with(|state| state.compact(revision));
    }

    /// All that the store holds now, its history and its leases included.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.shared.with(|state| state.clone()))
    }

    /// Puts a snapshot back, as an operator restores a store from a backup: revisions go on from those of the snapshot,
    /// its leases live for their whole TTL again, and all watches end.
    pub fn restore(&self, snapshot: &Snapshot) {
        let now = self.shared.clock.boot();
        self.shared.with(|state| state.restore(&snapshot.0, now));
        self.shared.changed.notify_waiters();
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("revision", &self.shared.lock().revision()).finish()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside would be a defect of this module: then nothing the state says can be trusted.
        self.state.lock().expect("no call panics while it holds the state")
    }

    /// Lets `act` at the state, after the leases whose time is up have ended, and wakes the watches where it changed.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let (answer, changed) = {
            let mut state = self.lock();
            let before = (state.revision(), state.next_deadline());
            state.expire(self.clock.boot());
            let answer = act(&mut state);
            (answer, before != (state.revision(), state.next_deadline()))
        };
        if changed {
            self.changed.notify_waiters();
        }
        answer
    }

    /// The next changes of a watch, and for how long no others can come without a call. `None`: the watched store is
    /// gone.
    fn next(&self, keys: &Keys, from: Revision, restorations: u64) -> Option<(WatchBatch, Option<Duration>)> {
        self.with(|state| {
            let idle = state.next_deadline().map(|deadline| deadline.since(self.clock.boot()));
            (state.restorations() == restorations).then(|| (state.changes(keys, from), idle))
        })
    }

    /// Reports to one watch until its receiver is dropped. It also is the timer by which leases end without traffic.
    async fn report(self: Arc<Shared>, keys: Keys, mut from: Revision, reports: mpsc::Sender<Watched>) {
        let restorations = self.with(|state| state.restorations());
        loop {
            // It receives all changes from here on.
            let changed = self.changed.notified();
            let Some((next, idle)) = self.next(&keys, from, restorations) else { return };
            let report = match next {
                WatchBatch::Compacted(revision) => Some(Watched::Compacted(revision)),
                WatchBatch::Changes(changes, next) => {
                    from = next;
                    Some(changes).filter(|changes| !changes.is_empty()).map(Watched::Changes)
                }
            };
            if let Some(report) = report {
                let ends = matches!(report, Watched::Compacted(_));
                if reports.send(report).await.is_err() || ends {
                    return;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = reports.closed() => return,
                () = changed => {}
                () = tokio::time::sleep(idle.unwrap_or(Duration::MAX)), if idle.is_some() => {}
            }
        }
    }
}

impl Store for MemoryStore {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.shared.with(|state| state.grant(ttl, self.shared.clock.boot()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.shared.with(|state| state.keep_alive(lease, self.shared.clock.boot()))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.with(|state| state.revoke(lease));
        Ok(())
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.shared.with(|state| state.commit(&txn))
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.shared.with(|state| state.range(&range))
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        rules::check_keys(&keys)?;
        let (reports, watch) = Watch::channel();
        tokio::spawn(Arc::clone(&self.shared).report(keys, from, reports));
        Ok(watch)
    }

    async fn about(&self) -> Result<About, StoreError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(About { kind: "memory", version, size: None, quota: None, warnings: Vec::new(), clock: None })
    }

    /// Another handle to the same state: memory has nothing to set apart.
    async fn apart(&self) -> Result<MemoryStore, StoreError> {
        Ok(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Op};
    use super::*;
    use crate::time::{Boot, Wall};

    /// A clock that goes with tokio's, which a paused runtime moves on by itself.
    fn tokio_clock() -> Clock {
        let start = tokio::time::Instant::now();
        Clock::from_fn(move || (Boot::from_duration(start.elapsed()), Wall::EPOCH))
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_hears_of_a_leases_end_without_traffic() {
        let store = MemoryStore::new(tokio_clock());
        let start = tokio::time::Instant::now();
        let (lease, _) = store.grant(Duration::from_secs(10)).await.unwrap();
        store.commit(Txn::new().then(Op::put_leased("a/x", "1", lease))).await.unwrap();
        let mut watch = store.watch(Keys::prefix("a/"), Revision(3)).await.unwrap();
        let deleted = Change::Deleted { key: "a/x".into(), revision: Revision(3) };
        assert_eq!(watch.next().await, Some(Watched::Changes(vec![deleted])));
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_granted_while_a_watch_sleeps_wakes_it_in_time() {
        let store = MemoryStore::new(tokio_clock());
        let start = tokio::time::Instant::now();
        store.grant(Duration::from_secs(100)).await.unwrap();
        let mut watch = store.watch(Keys::prefix("a/"), Revision(3)).await.unwrap();
        tokio::task::yield_now().await;
        let (lease, _) = store.grant(Duration::from_secs(1)).await.unwrap();
        store.commit(Txn::new().then(Op::put_leased("a/x", "1", lease))).await.unwrap();
        watch.next().await.expect("the deletion is reported");
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_is_put_back_is_what_the_store_was_and_its_leases_live_anew() {
        let store = MemoryStore::new(tokio_clock());
        let (lease, _) = store.grant(Duration::from_secs(10)).await.unwrap();
        store.commit(Txn::new().then(Op::put_leased("a/x", "1", lease))).await.unwrap();
        let snapshot = store.snapshot();
        let mut watch = store.watch(Keys::prefix("a/"), Revision(3)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(matches!(watch.next().await, Some(Watched::Changes(_))), "the lease has ended");
        let later = store.commit(Txn::new().then(Op::put("a/y", "1"))).await.unwrap().revision;
        store.restore(&snapshot);
        let page = store.range(Range::of(Keys::prefix("a/"))).await.unwrap();
        assert_eq!((page.entries.len(), page.entries[0].key.as_str(), page.revision), (1, "a/x", Revision(2)));
        assert!(page.revision < later);
        while watch.next().await.is_some() {}
        tokio::time::sleep(Duration::from_secs(9)).await;
        store.keep_alive(lease).await.unwrap();
        let (next, _) = store.grant(Duration::from_secs(10)).await.unwrap();
        assert_ne!(next, lease);
    }

    #[tokio::test]
    async fn history_is_bounded() {
        let store = MemoryStore::new(Clock::system());
        for _ in 0..HISTORY + 10 {
            store.commit(Txn::new().then(Op::put("a", ""))).await.unwrap();
        }
        let read = store.range(Range { at: Some(Revision(5)), ..Range::of(Keys::one("a")) }).await;
        assert!(matches!(read, Err(StoreError::Compacted { asked: Revision(5), .. })), "{read:?}");
        let mut watch = store.watch(Keys::one("a"), Revision(5)).await.unwrap();
        assert!(matches!(watch.next().await, Some(Watched::Compacted(_))));
        assert_eq!(watch.next().await, None);
    }
}
