//! What locks, elections and semaphores promise, kept over each real store by the same test.

use std::any::Any;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fencron::fence::Fence;
use fencron::lock::{
    CallId, Config, Driver, FencedLock, LockContext, LockError, LockName, Locks, Lost, Namespace, Presence, Resigned,
    Session, SessionEnd, SessionError, StepDownError, Timing,
};
use fencron::store::etcd::{EtcdConfig, EtcdStore};
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Entry, Keys, Op, Store, Txn};
use fencron::time::Clock;
use tokio::task::JoinHandle;

use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::{over_both, until};
use crate::{SHORT_TTL, TTL, node_for, node_of};

const ALL: &str = "/fencron/v1/test/";
const LOCKS: &str = "/fencron/v1/test/lock/";

/// A store, what another process finds it by, and what it lies in.
struct Place<S> {
    store: S,
    url: String,
    _within: Box<dyn Any + Send>,
}

impl Place<SqliteStore> {
    async fn over_sqlite() -> Place<SqliteStore> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state.db");
        let store = SqliteStore::open(&file, Clock::system()).await.unwrap();
        Place { store, url: format!("sqlite:{}", file.display()), _within: Box::new(directory) }
    }
}

impl Place<EtcdStore> {
    async fn over_etcd() -> Place<EtcdStore> {
        let etcd = Etcd::start(EtcdOptions::default()).await;
        Place { store: etcd.store().await, url: format!("etcd:{}", etcd.endpoint()), _within: Box::new(etcd) }
    }
}

over_both!(
    sqlite: super::Place::over_sqlite().await, etcd: super::Place::over_etcd().await;
    a_lock_taken_by_force_goes_to_the_next_and_its_holder_is_told,
    a_destroyed_lock_is_told_to_all_and_leaves_its_bar,
    a_waiter_is_told_who_holds_the_lock_and_how_many_are_before_it,
    a_hold_that_has_lasted_too_long_goes_to_the_next,
    permits_are_changed_while_they_are_held_and_waited_for,
    an_observer_hears_of_each_leader,
    a_leader_steps_down_for_one_that_waits_behind_another,
    many_who_come_at_once_are_served_one_after_the_other,
    a_session_whose_key_is_gone_ends_for_all_when_one_call_finds_it,
    a_session_whose_key_is_gone_ends_for_all_when_it_is_published,
    a_killed_process_leaves_nothing_past_its_leases,
);

type Waiting = JoinHandle<(LockContext, Result<Fence, LockError>)>;

/// All that the store has under `prefix`.
async fn found(store: &impl Store, prefix: &str) -> Vec<Entry> {
    store.range_all(Keys::prefix(prefix)).await.unwrap().0
}

/// How many wait, for whatever it may be.
async fn waiting(store: &impl Store) -> usize {
    found(store, ALL).await.iter().filter(|entry| entry.key.contains("/wait/")).count()
}

/// Begins what is going to wait; on return it does.
async fn queue_up<T>(store: &impl Store, begin: impl FnOnce() -> JoinHandle<T>) -> JoinHandle<T> {
    let before = waiting(store).await;
    let task = begin();
    until("it waits", async || (waiting(store).await > before).then_some(())).await;
    task
}

async fn waits_for<S: Store>(store: &S, lock: &FencedLock<S>, mut context: LockContext) -> Waiting {
    let lock = lock.clone();
    let begin = || {
        tokio::spawn(async move {
            let fence = lock.lock_and_get_fence(&mut context).await;
            (context, fence)
        })
    };
    queue_up(store, begin).await
}

fn door<S: Store>(locks: &Locks<S>, config: Config) -> FencedLock<S> {
    locks.fenced(LockName::new("door").unwrap(), config)
}

async fn a_lock_taken_by_force_goes_to_the_next_and_its_holder_is_told(place: Place<impl Store>) {
    let ((locks, a), (_, b)) = (node_of(&place.store, "a").await, node_of(&place.store, "b").await);
    let (lock, mut context) = (door(&locks, Config::default()), a.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    let signal = lock.signal(&context).unwrap();
    let next = waits_for(&place.store, &lock, b.context()).await;
    let taken = lock.force_unlock().await.unwrap().expect("it was held");
    assert_eq!((taken.node.as_str(), taken.fence), ("a", fence));
    let (mut next, followed) = next.await.unwrap();
    assert!(followed.unwrap() > fence);
    assert_eq!(signal.lost().await, Lost::Taken);
    let told = lock.unlock(&mut context).await;
    assert!(matches!(told, Err(LockError::OwnershipLost { why: Lost::Taken, .. })), "{told:?}");
    assert!(lock.is_locked_by(&mut next).await.unwrap());
    lock.unlock(&mut next).await.unwrap();
    assert!(lock.try_lock(&mut context).await.unwrap(), "its session goes on");
    lock.unlock(&mut context).await.unwrap();
    assert_eq!(lock.force_unlock().await.unwrap(), None);
}

async fn a_destroyed_lock_is_told_to_all_and_leaves_its_bar(place: Place<impl Store>) {
    let ((locks, a), (_, b)) = (node_of(&place.store, "a").await, node_of(&place.store, "b").await);
    let (lock, mut context) = (door(&locks, Config::default()), a.context());
    lock.lock(&mut context).await.unwrap();
    let next = waits_for(&place.store, &door(&locks, Config::default()), b.context()).await;
    door(&locks, Config::default()).destroy().await.unwrap();
    let destroyed = |told: Result<Fence, LockError>| matches!(told, Err(LockError::LockDestroyed { .. }));
    assert!(destroyed(next.await.unwrap().1), "who waits");
    assert!(destroyed(lock.fence(&mut context).await), "who holds it");
    assert!(destroyed(door(&locks, Config::default()).lock_and_get_fence(&mut context).await), "who comes");
    let left = found(&place.store, LOCKS).await;
    assert!(left.len() == 1 && left[0].key.ends_with("/barred") && left[0].lease.is_some(), "{left:?}");
}

async fn a_waiter_is_told_who_holds_the_lock_and_how_many_are_before_it(place: Place<impl Store>) {
    let ((locks, a), (_, b)) = (node_of(&place.store, "a").await, node_of(&place.store, "b").await);
    let (lock, mut context) = (door(&locks, Config::default()), a.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    let first = waits_for(&place.store, &lock, b.context()).await;
    let last = b.context();
    let mut progress = last.progress();
    let last = waits_for(&place.store, &lock, last).await;
    let told = progress.wait_for(|told| told.as_ref().is_some_and(|told| told.ahead == Some(1))).await;
    let told = told.unwrap().clone().unwrap();
    let holder = told.holder.unwrap();
    assert_eq!((holder.node.as_str(), holder.fence, told.waiting), ("a", fence, 2));
    lock.unlock(&mut context).await.unwrap();
    let (mut first, followed) = first.await.unwrap();
    let followed = followed.unwrap();
    let told = progress.wait_for(|told| {
        let holder = told.as_ref().and_then(|told| told.holder.as_ref().map(|holder| (holder.fence, told.ahead)));
        holder == Some((followed, Some(0)))
    });
    assert_eq!(told.await.unwrap().as_ref().unwrap().holder.as_ref().unwrap().node, "b");
    lock.unlock(&mut first).await.unwrap();
    assert!(last.await.unwrap().1.unwrap() > followed);
}

async fn a_hold_that_has_lasted_too_long_goes_to_the_next(place: Place<impl Store>) {
    let most = Duration::from_secs(1);
    let ((locks, a), (_, b)) = (node_of(&place.store, "a").await, node_of(&place.store, "b").await);
    let (lock, mut context) = (door(&locks, Config { max_hold: Some(most), ..Config::default() }), a.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    let (signal, clock) = (lock.signal(&context).unwrap(), Clock::system());
    let since = clock.boot();
    let next = waits_for(&place.store, &lock, b.context()).await;
    assert!(next.await.unwrap().1.unwrap() > fence);
    // The hold began a moment before its fence was heard of.
    assert!(clock.boot().since(since) + Duration::from_millis(500) > most);
    assert_eq!(signal.lost().await, Lost::HeldTooLong);
    let told = lock.unlock(&mut context).await;
    assert!(matches!(told, Err(LockError::OwnershipLost { why: Lost::HeldTooLong, .. })), "{told:?}");
}

async fn permits_are_changed_while_they_are_held_and_waited_for(place: Place<impl Store>) {
    let ((locks, a), (_, b)) = (node_of(&place.store, "a").await, node_of(&place.store, "b").await);
    let semaphore = locks.semaphore(LockName::new("slots").unwrap(), 1);
    let first = semaphore.acquire(&a, 1).await.unwrap();
    let asking = semaphore.clone();
    let second =
        queue_up(&place.store, || tokio::spawn(async move { (asking.acquire(&b, 1).await.unwrap(), b) })).await;
    semaphore.set_permits(2).await.unwrap();
    let (second, _b) = second.await.unwrap();
    semaphore.set_permits(1).await.unwrap();
    assert_eq!(semaphore.state().await.unwrap().available(), -1, "whoever holds some keeps them");
    assert_eq!(first.release().await.unwrap(), Resigned::Released);
    assert!(semaphore.try_acquire(&a, 1).await.unwrap().is_none());
    assert_eq!(second.release().await.unwrap(), Resigned::Released);
    assert!(semaphore.try_acquire(&a, 1).await.unwrap().is_some());
}

async fn an_observer_hears_of_each_leader(place: Place<impl Store>) {
    let ((locks, a), (_, b)) = (node_of(&place.store, "a").await, node_of(&place.store, "b").await);
    let (election, observer) = (locks.election(LockName::leader()), locks.election(LockName::leader()));
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut after = None;
        loop {
            let leader = observer.next_leader(after).await.unwrap();
            after = Some(leader.fence);
            if tell.send((leader.node, leader.fence)).is_err() {
                return;
            }
        }
    });
    let term = election.campaign(&a, CallId::random()).await.unwrap();
    let candidate = election.clone();
    let campaign = || tokio::spawn(async move { (candidate.campaign(&b, CallId::random()).await.unwrap(), b) });
    let campaign = queue_up(&place.store, campaign).await;
    assert_eq!(heard.recv().await.unwrap(), ("a".into(), term.fence()));
    election.resign(&term).await.unwrap();
    let (next, _b) = campaign.await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), ("b".into(), next.fence()));
}

async fn a_leader_steps_down_for_one_that_waits_behind_another(place: Place<impl Store>) {
    let (locks, a) = node_of(&place.store, "a").await;
    let election = locks.election(LockName::leader());
    let term = election.campaign(&a, CallId::random()).await.unwrap();
    let mut waiting = Vec::new();
    for name in ["b", "c"] {
        let (election, (_, session)) = (election.clone(), node_of(&place.store, name).await);
        let campaign = || tokio::spawn(async move { (election.campaign(&session, CallId::random()).await, session) });
        waiting.push(queue_up(&place.store, campaign).await);
    }
    let refused = election.step_down_for(&term, "nobody").await;
    assert!(matches!(refused, Err(StepDownError::NotWaiting { .. })), "{refused:?}");
    assert_eq!(election.step_down_for(&term, "c").await.unwrap(), Resigned::Released);
    let (next, c) = waiting.pop().unwrap().await.unwrap();
    let next = next.unwrap();
    assert!(next.fence() > term.fence() && c.node() == "c");
    election.resign(&next).await.unwrap();
    let (last, b) = waiting.pop().unwrap().await.unwrap();
    assert!(last.unwrap().fence() > next.fence() && b.node() == "b", "who was set back queues up again");
}

/// None waits for another's look: they all arrive together.
async fn many_who_come_at_once_are_served_one_after_the_other(place: Place<impl Store>) {
    const MANY: usize = 50;
    let (locks, a) = node_of(&place.store, "a").await;
    let (lock, mut context) = (door(&locks, Config::default()), a.context());
    let mut last = lock.lock_and_get_fence(&mut context).await.unwrap();
    let (took, mut turns) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..MANY {
        let (lock, took, mut context) = (lock.clone(), took.clone(), a.context());
        tokio::spawn(async move {
            took.send(lock.lock_and_get_fence(&mut context).await.unwrap()).unwrap();
            lock.unlock(&mut context).await.unwrap();
        });
    }
    drop(took);
    until("all wait", async || (waiting(&place.store).await == MANY).then_some(())).await;
    let held = lock.try_lock_for(&mut a.context(), Duration::ZERO).await.unwrap();
    assert!(!held);
    lock.unlock(&mut context).await.unwrap();
    let mut served = 0;
    while let Some(fence) = turns.recv().await {
        assert!(fence > last, "one after the other");
        (last, served) = (fence, served + 1);
    }
    assert_eq!(served, MANY);
    assert!(found(&place.store, LOCKS).await.is_empty());
}

/// A client's requests are futures of tens of kilobytes. A program that makes many calls in one function, or one within
/// another, is not to hold as many of these on its stack.
/// The end of a session whose key was deleted by hand.
const KEY_GONE: Lost = Lost::SessionEnded(SessionEnd::KeyGone);

async fn delete_key_of<S: Store>(store: &S, session: &Session<S>) {
    let namespace = Namespace::new("test").unwrap();
    let sessions = store.range_all(namespace.sessions()).await.unwrap().0;
    let its = sessions.iter().find(|entry| namespace.session_of(&entry.key) == Some(session.lease())).unwrap();
    store.commit(Txn::new().then(Op::delete(&its.key))).await.unwrap();
}

async fn a_session_whose_key_is_gone_ends_for_all_when_one_call_finds_it(place: Place<impl Store>) {
    let (locks, a) = node_of(&place.store, "a").await;
    let (lock, mut context) = (door(&locks, Config::default()), a.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    let permits = locks.semaphore(LockName::new("seats").unwrap(), 1).acquire(&a, 1).await.unwrap();
    let election = locks.election(LockName::new("report").unwrap());
    let term = election.campaign(&a, CallId::random()).await.unwrap();
    let signals = [lock.signal(&context).unwrap(), permits.signal(), election.signal(&a, &term)];
    delete_key_of(&place.store, &a).await;
    assert!(signals.iter().all(|signal| signal.is_lost().is_none()), "nobody has looked yet");
    let other = locks.fenced(LockName::new("another").unwrap(), Config::default());
    let found = other.lock(&mut a.context()).await;
    assert!(matches!(found, Err(LockError::SessionLost { why: KEY_GONE })), "{found:?}");
    for signal in &signals {
        assert_eq!(signal.lost().await, KEY_GONE);
    }
    assert!(matches!(lock.fence(&mut context).await, Err(LockError::OwnershipLost { why: KEY_GONE, .. })));
    // Its lease lives on, until it is closed: then what it held is free at once, though its TTL is long.
    a.close().await.unwrap();
    let (_, next) = node_of(&place.store, "b").await;
    assert!(lock.lock_and_get_fence(&mut next.context()).await.unwrap() > fence);
}

async fn a_session_whose_key_is_gone_ends_for_all_when_it_is_published(place: Place<impl Store>) {
    let (locks, a) = node_of(&place.store, "a").await;
    let (lock, mut context) = (door(&locks, Config::default()), a.context());
    lock.lock(&mut context).await.unwrap();
    let signal = lock.signal(&context).unwrap();
    delete_key_of(&place.store, &a).await;
    let published = a.publish(b"{}".to_vec()).await;
    assert!(matches!(published, Err(SessionError::Ended { why: SessionEnd::KeyGone, .. })), "{published:?}");
    assert_eq!((signal.lost().await, a.ended().await), (KEY_GONE, SessionEnd::KeyGone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_take_little_of_a_stack_over_etcd() {
    const MOST: usize = 4096;
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let store = etcd.store().await;
    fn size<T>(_: T) -> usize {
        size_of::<T>()
    }
    assert!(size(store.range_all(Keys::prefix(ALL))) > 2 * MOST, "these are the ones to box");
    let (locks, session) = node_of(&store, "a").await;
    let lock = door(&locks, Config::default());
    let mut context = session.context();
    let semaphore = locks.semaphore(LockName::new("slots").unwrap(), 1);
    let election = locks.election(LockName::leader());
    let presence = Presence { node: "b".into(), record: Vec::new() };
    let sizes = [
        ("lock", size(lock.lock(&mut context))),
        ("unlock", size(lock.unlock(&mut context))),
        ("with_lock", size(lock.with_lock(&mut context, async |_| {}))),
        ("force_unlock", size(lock.force_unlock())),
        ("destroy", size(lock.destroy())),
        ("acquire", size(semaphore.acquire(&session, 1))),
        ("campaign", size(election.campaign(&session, CallId::random()))),
        ("next_leader", size(election.next_leader(None))),
        ("observe", size(election.observe())),
        ("open_session", size(locks.open_session(presence, Timing::from_ttl(TTL).unwrap(), Driver::Thread))),
        ("close", size(session.close())),
    ];
    assert!(sizes.iter().all(|(_, size)| *size <= MOST), "{sizes:?}");
}

const PLACE: &str = "FENCRON_TEST_PLACE";
const READY: &str = "holds and waits";

/// Of each kind one that holds and one that waits, until the process is killed.
async fn hold_and_wait<S: Store>(store: S) {
    let ((locks, a), (_, b)) = (node_for(&store, "a", SHORT_TTL).await, node_for(&store, "b", SHORT_TTL).await);
    let lock = door(&locks, Config { lock_delay: Some(Duration::from_secs(2)), ..Config::default() });
    let mut context = a.context();
    lock.lock(&mut context).await.unwrap();
    let semaphore = locks.semaphore(LockName::new("slots").unwrap(), 1);
    let _permits = semaphore.acquire(&a, 1).await.unwrap();
    let election = locks.election(LockName::leader());
    election.campaign(&a, CallId::random()).await.unwrap();
    let mut waits = b.context();
    let ready = async {
        until("all wait", async || (waiting(&store).await == 3).then_some(())).await;
        println!("\n{READY}");
        std::future::pending::<()>().await;
    };
    // None of these ends.
    tokio::select! {
        _ = lock.lock(&mut waits) => panic!("the lock is held"),
        _ = semaphore.acquire(&b, 1) => panic!("there is one permit"),
        _ = election.campaign(&b, CallId::random()) => panic!("there is a leader"),
        () = ready => {}
    }
}

/// The part of another process. Run by itself it has none to play.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_process() {
    let Ok(place) = std::env::var(PLACE) else { return };
    match place.split_once(':').unwrap() {
        ("sqlite", file) => hold_and_wait(SqliteStore::open(file, Clock::system()).await.unwrap()).await,
        (_, endpoint) => hold_and_wait(EtcdStore::connect(EtcdConfig::new([endpoint]).unwrap()).await.unwrap()).await,
    }
}

/// Killed when it is dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or_default();
    }
}

async fn a_killed_process_leaves_nothing_past_its_leases(place: Place<impl Store>) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "promises::another_process", "--nocapture"]).env(PLACE, &place.url);
    let mut child = Other(child.stdout(Stdio::piped()).spawn().unwrap());
    let said = BufReader::new(child.0.stdout.take().unwrap());
    let ready = || said.lines().map_while(Result::ok).any(|line| line == READY);
    assert!(tokio::task::block_in_place(ready), "it says when it holds and waits");
    let kinds = ["/owner", "/barred", "/held/", "/wait/", "/sess/"];
    let before = found(&place.store, ALL).await;
    for kind in kinds {
        assert!(before.iter().any(|entry| entry.key.contains(kind)), "{kind}");
    }
    drop(child);
    let left = |entries: Vec<Entry>| -> Vec<String> {
        let stay = ["/base", "/mark", "/lineage", "/permits"];
        let may_stay = |key: &str| key.contains("/settled/") || stay.iter().any(|end| key.ends_with(end));
        entries.into_iter().map(|entry| entry.key).filter(|key| !may_stay(key)).collect()
    };
    until("its leases run out", async || left(found(&place.store, ALL).await).is_empty().then_some(())).await;
    // And whoever comes is served at once.
    let (locks, session) = node_of(&place.store, "c").await;
    assert!(door(&locks, Config::default()).try_lock(&mut session.context()).await.unwrap());
    assert!(locks.semaphore(LockName::new("slots").unwrap(), 1).try_acquire(&session, 1).await.unwrap().is_some());
}
