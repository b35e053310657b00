//! Elections over the SQLite store: every node with a connection, a keep-alive thread and a session of its own, in real
//! time, as the processes of one machine share it.

use std::path::Path;
use std::time::Duration;

use fencron::fence::Fence;
use fencron::lock::{CallId, Driver, LockName, Locks, Namespace, Presence, Seen, Session, Term, Timing};
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Keys, Op, Range, Revision, Store, Txn};
use fencron::time::Clock;
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(3);
const COUNTER: &str = "/counter";

async fn node(file: &Path, name: &str) -> (SqliteStore, Locks<SqliteStore>, Session<SqliteStore>) {
    let clock = Clock::system();
    let store = SqliteStore::open(file, clock.clone()).await.unwrap();
    let locks = Locks::new(store.clone(), clock, Namespace::new("test").unwrap(), Seen::default());
    let presence = Presence { node: name.into(), record: b"{}".to_vec() };
    let session = locks.open_session(presence, Timing::from_ttl(TTL).unwrap(), Driver::Thread).await.unwrap();
    (store, locks, session)
}

/// Adds one to a counter, which only the leadership protects: it is read outside of the transaction that writes it.
async fn count_up(store: &SqliteStore, term: &Term) {
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
            let (store, locks, session) = node(&file, &number.to_string()).await;
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
    let (store, locks, session) = node(&file, "a").await;
    let term = locks.election(LockName::leader()).campaign(&session, CallId::random()).await.unwrap();
    let (_, others, follower) = node(&file, "b").await;
    drop(session);
    let next = others.election(LockName::leader());
    let next = timeout(LONG, next.campaign(&follower, CallId::random())).await.expect("it follows in time").unwrap();
    assert!(next.fence() > term.fence());
    let write = term.hold.still_held().into_iter().fold(Txn::new(), Txn::when);
    assert!(!store.commit(write.then(Op::put(COUNTER, "9"))).await.unwrap().succeeded, "the first is fenced off");
}
