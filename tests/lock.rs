//! Elections, locks and semaphores in real time: over the SQLite store, every node with a connection, a keep-alive thread
//! and a session of its own, as the processes of one machine share it; and over a real etcd.

#[path = "lock/promises.rs"]
mod promises;
mod support;

use std::path::Path;
use std::time::Duration;

use fencron::fence::Fence;
use fencron::lock::{
    CallId, Config, Driver, LockError, LockName, Locks, Lost, Namespace, Presence, Seen, Session, Term, Timing,
};
use fencron::store::etcd::EtcdStore;
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Keys, Op, Range, Revision, Store, Txn};
use fencron::time::Clock;
use support::etcd::{Etcd, EtcdOptions};
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// Nothing waits for such a lease to end, and no machine is so busy that it does.
const TTL: Duration = Duration::from_secs(60);
/// Of sessions that are to end. A busy machine keeps them alive for as long as they are wanted.
const SHORT_TTL: Duration = Duration::from_secs(6);
const COUNTER: &str = "/counter";

async fn node(file: &Path, name: &str, ttl: Duration) -> (SqliteStore, Locks<SqliteStore>, Session<SqliteStore>) {
    let store = SqliteStore::open(file, Clock::system()).await.unwrap();
    let (locks, session) = node_for(&store, name, ttl).await;
    (store, locks, session)
}

async fn node_of<S: Store>(store: &S, name: &str) -> (Locks<S>, Session<S>) {
    node_for(store, name, TTL).await
}

async fn node_for<S: Store>(store: &S, name: &str, ttl: Duration) -> (Locks<S>, Session<S>) {
    let locks = Locks::new(store.clone(), Clock::system(), Namespace::new("test").unwrap(), Seen::default());
    let presence = Presence { node: name.into(), record: b"{}".to_vec() };
    let session = locks.open_session(presence, Timing::from_ttl(ttl).unwrap(), Driver::Thread).await.unwrap();
    (locks, session)
}

/// Adds one to a counter, which only the leadership protects: it is read outside of the transaction that writes it.
async fn count_up(store: &impl Store, term: &Term) {
    let page = store.range(Range::of(Keys::one(COUNTER))).await.unwrap();
    let count = page.entries.first().map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
    let count: u64 = count;
    let write = term.hold.still_held().into_iter().fold(Txn::new(), Txn::when);
    let written = store.commit(write.then(Op::put(COUNTER, (count + 1).to_string()))).await.unwrap();
    assert!(written.succeeded, "nobody took the lead away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contenders_take_turns_under_growing_fences() {
    const NODES: u64 = 4;
    const TURNS: u64 = 5;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let mut contenders = Vec::new();
    for number in 0..NODES {
        let file = file.clone();
        contenders.push(tokio::spawn(async move {
            let (store, locks, session) = node(&file, &number.to_string(), TTL).await;
            let election = locks.election(LockName::leader());
            let mut led: Vec<(Revision, Fence)> = Vec::new();
            for _ in 0..TURNS {
                let term = election.campaign(&session, CallId::random()).await.unwrap();
                count_up(&store, &term).await;
                led.push((term.hold.created(), term.fence()));
                election.resign(&term).await.unwrap();
            }
            session.close().await.unwrap();
            led
        }));
    }
    let mut led = Vec::new();
    for contender in contenders {
        led.extend(timeout(LONG, contender).await.expect("all take their turns in time").unwrap());
    }
    led.sort();
    assert_eq!(led.len() as u64, NODES * TURNS);
    assert!(led.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{led:?}");
    let store = SqliteStore::open(&file, Clock::system()).await.unwrap();
    let page = store.range(Range::of(Keys::one(COUNTER))).await.unwrap();
    assert_eq!(page.entries[0].value, (NODES * TURNS).to_string().into_bytes(), "no update was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_dropped_is_followed_after_its_ttl() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let (store, locks, session) = node(&file, "a", SHORT_TTL).await;
    let term = locks.election(LockName::leader()).campaign(&session, CallId::random()).await.unwrap();
    let (_, others, follower) = node(&file, "b", TTL).await;
    drop(session);
    let next = others.election(LockName::leader());
    let next = timeout(LONG, next.campaign(&follower, CallId::random())).await.expect("it follows in time").unwrap();
    assert!(next.fence() > term.fence());
    let write = term.hold.still_held().into_iter().fold(Txn::new(), Txn::when);
    assert!(!store.commit(write.then(Op::put(COUNTER, "9"))).await.unwrap().succeeded, "the first is fenced off");
}

/// Contexts of several sessions add to a counter that only their lock protects, each hold entered twice.
async fn contexts_take_turns<S: Store>(stores: Vec<S>) {
    const TURNS: u64 = 5;
    let mut contenders = Vec::new();
    for (number, store) in stores.iter().enumerate() {
        let (locks, session) = node_of(store, &number.to_string()).await;
        for mut context in [session.context(), session.context()] {
            let lock = locks.fenced(LockName::new("a/counter").unwrap(), Config::default());
            let store = store.clone();
            contenders.push(tokio::spawn(async move {
                let mut fences = Vec::new();
                for _ in 0..TURNS {
                    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
                    assert_eq!(lock.lock_and_get_fence(&mut context).await.unwrap(), fence);
                    let hold = lock.hold(&mut context).await.unwrap();
                    count_up(&store, &Term { hold }).await;
                    lock.unlock(&mut context).await.unwrap();
                    lock.unlock(&mut context).await.unwrap();
                    fences.push(fence);
                }
                fences
            }));
        }
        // Sessions end with the test.
        std::mem::forget(session);
    }
    let turns = contenders.len() as u64 * TURNS;
    let mut fences = Vec::new();
    for contender in contenders {
        let led = timeout(LONG, contender).await.expect("all take their turns in time").unwrap();
        assert!(led.is_sorted_by(|one, other| one < other), "{led:?}");
        fences.extend(led);
    }
    fences.sort();
    assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}");
    let page = stores[0].range(Range::of(Keys::one(COUNTER))).await.unwrap();
    assert_eq!(page.entries[0].value, turns.to_string().into_bytes(), "no update was lost");
    let left = stores[0].range(Range::of(Keys::prefix("/fencron/v1/test/lock/"))).await.unwrap();
    assert!(left.entries.is_empty(), "{left:?}");
}

/// A holder is cut off by its lease's end, the next follows after the delay; permits are shared.
async fn holds_end_with_their_lease<S: Store>(store: S) {
    let delay = Duration::from_secs(2);
    let config = Config { lock_delay: Some(delay), ..Config::default() };
    let ((locks, a), (_, b)) = (node_for(&store, "a", SHORT_TTL).await, node_of(&store, "b").await);
    let lock = locks.fenced(LockName::new("deploy").unwrap(), config);
    let (mut context, mut next) = (a.context(), b.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    let signal = lock.signal(&context).unwrap();
    let semaphore = locks.semaphore(LockName::new("slots").unwrap(), 2);
    let mut permits = Vec::new();
    for session in [&a, &b] {
        permits.push(timeout(LONG, semaphore.acquire(session, 1)).await.unwrap().unwrap());
    }
    assert!(!semaphore.acquire_within(&b, 1, Duration::from_millis(50)).await.unwrap().is_some_and(|_| true));
    assert!(!lock.try_lock_for(&mut next, Duration::from_millis(50)).await.unwrap());
    store.revoke(a.lease()).await.unwrap();
    let revoked = Clock::system().boot();
    assert!(timeout(LONG, signal.lost()).await.is_ok());
    assert!(timeout(LONG, semaphore.acquire(&b, 1)).await.unwrap().is_ok(), "what a held is free");
    let followed = timeout(LONG, lock.lock_and_get_fence(&mut next)).await.unwrap().unwrap();
    assert!(followed > fence && Clock::system().boot().since(revoked) >= delay);
    let told = lock.unlock(&mut context).await;
    assert!(matches!(told, Err(LockError::OwnershipLost { why: Lost::SessionEnded(_) | Lost::Taken, .. })), "{told:?}");
    lock.unlock(&mut next).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_of_processes_of_one_machine_take_turns() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(SqliteStore::open(&file, Clock::system()).await.unwrap());
    }
    contexts_take_turns(stores).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_over_etcd_take_turns() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let stores: Vec<EtcdStore> = vec![etcd.store().await, etcd.store().await];
    contexts_take_turns(stores).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_end_with_their_lease_over_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("state.db"), Clock::system()).await.unwrap();
    holds_end_with_their_lease(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_end_with_their_lease_over_etcd() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    holds_end_with_their_lease(etcd.store().await).await;
}
