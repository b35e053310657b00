//! A store whose requests are counted and timed: the one place that all calls of a node pass.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Histogram;
use crate::store::{About, Committed, Keys, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch};
use crate::time::{Boot, Clock};

/// What a store is asked for. A watch counts until it has begun.
pub const OPS: [&str; 7] = ["grant", "keep_alive", "revoke", "commit", "range", "watch", "about"];

/// How requests end: answered, certainly refused or not made (`refused`), unreachable, or without an answer.
pub const OUTCOMES: [&str; 4] = ["ok", "refused", "unavailable", "unknown"];

/// Upper bounds of how long requests take, in seconds.
const REQUEST: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// What was asked of a store by one process.
#[derive(Debug)]
pub struct Requests {
    /// By what was asked for, and how it ended.
    took: Vec<[Histogram; OUTCOMES.len()]>,
    /// Whether the last request that ended was answered.
    answers: AtomicBool,
    /// What the store last said of itself, and when.
    about: Mutex<Option<(Boot, Sizes)>>,
}

/// How large a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// In bytes, if the store reports it.
    pub size: Option<u64>,
    /// How many bytes it may have, if it has a limit and reports it.
    pub quota: Option<u64>,
}

/// How long it counts what a store said of its size. The leader asks every ten minutes, and another node has an old answer.
const SIZE_KNOWN_FOR: Duration = Duration::from_secs(15 * 60);

impl Default for Requests {
    fn default() -> Requests {
        let of_op = || OUTCOMES.map(|_| Histogram::new(REQUEST));
        Requests { took: OPS.map(|_| of_op()).into(), answers: AtomicBool::new(false), about: Mutex::default() }
    }
}

impl Requests {
    fn ended<T>(&self, op: Op, result: &Result<T, StoreError>, took: Duration) {
        let outcome = match result {
            Ok(_) => Outcome::Ok,
            Err(StoreError::Unknown { .. }) => Outcome::Unknown,
            Err(StoreError::Unavailable { .. }) => Outcome::Unavailable,
            Err(_) => Outcome::Refused,
        };
        self.took[op as usize][outcome as usize].observe(took);
        self.answers.store(matches!(outcome, Outcome::Ok | Outcome::Refused), Ordering::Relaxed);
    }

    fn heard(&self, about: &About, now: Boot) {
        let sizes = Sizes { size: about.size, quota: about.quota };
        *self.about.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, sizes));
    }

    /// How long requests took, by what was asked for and how it ended.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, &'static str, &Histogram)> {
        OPS.iter()
            .zip(&self.took)
            .flat_map(|(op, by_outcome)| OUTCOMES.iter().zip(by_outcome).map(|(outcome, took)| (*op, *outcome, took)))
    }

    /// Whether the last request that ended was answered.
    pub fn is_answered(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// How large the store is, if this process has asked for it lately.
    pub fn sizes(&self, now: Boot) -> Option<Sizes> {
        let about = *self.about.lock().unwrap_or_else(PoisonError::into_inner);
        about.filter(|(heard, _)| now.since(*heard) < SIZE_KNOWN_FOR).map(|(_, sizes)| sizes)
    }
}

/// In the order of [`OPS`].
#[derive(Clone, Copy)]
enum Op {
    Grant,
    KeepAlive,
    Revoke,
    Commit,
    Range,
    Watch,
    About,
}

/// In the order of [`OUTCOMES`].
#[derive(Clone, Copy)]
enum Outcome {
    Ok,
    Refused,
    Unavailable,
    Unknown,
}

/// A store whose requests are counted and timed.
#[derive(Clone, Debug)]
pub struct Measured<S> {
    store: S,
    clock: Clock,
    requests: Arc<Requests>,
}

impl<S: Store> Measured<S> {
    /// `store`, whose requests are added to `requests`.
    pub fn new(store: S, clock: Clock, requests: Arc<Requests>) -> Measured<S> {
        Measured { store, clock, requests }
    }

    async fn time<T>(&self, op: Op, request: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let asked = self.clock.boot();
        let result = request.await;
        self.requests.ended(op, &result, self.clock.boot().since(asked));
        result
    }
}

impl<S: Store> Store for Measured<S> {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.time(Op::Grant, self.store.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.time(Op::KeepAlive, self.store.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.time(Op::Revoke, self.store.revoke(lease)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.time(Op::Commit, self.store.commit(txn)).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.time(Op::Range, self.store.range(range)).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        self.time(Op::Watch, self.store.watch(keys, from)).await
    }

    async fn about(&self) -> Result<About, StoreError> {
        let about = self.time(Op::About, self.store.about()).await;
        if let Ok(about) = &about {
            self.requests.heard(about, self.clock.boot());
        }
        about
    }

    async fn apart(&self) -> Result<Measured<S>, StoreError> {
        let store = self.store.apart().await?;
        Ok(Measured { store, clock: self.clock.clone(), requests: Arc::clone(&self.requests) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Op as Does;
    use crate::store::memory::MemoryStore;

    fn counted(requests: &Requests) -> Vec<(&'static str, &'static str, u64)> {
        let read = requests.read().map(|(op, outcome, took)| (op, outcome, took.read().count));
        read.filter(|(_, _, count)| *count > 0).collect()
    }

    #[tokio::test]
    async fn requests_are_counted_by_what_was_asked_and_how_it_ended() {
        let (clock, requests) = (Clock::system(), Arc::new(Requests::default()));
        let store = Measured::new(MemoryStore::new(clock.clone()), clock, Arc::clone(&requests));
        assert!(!requests.is_answered(), "nothing was asked yet");
        store.commit(Txn::new().then(Does::put("/a", "1"))).await.unwrap();
        let twice = Txn::new().then(Does::put("/a", "1")).then(Does::put("/a", "2"));
        store.apart().await.unwrap().commit(twice).await.unwrap_err();
        store.about().await.unwrap();
        assert_eq!(counted(&requests), [("commit", "ok", 1), ("commit", "refused", 1), ("about", "ok", 1)]);
        assert!(requests.is_answered());
    }

    #[test]
    fn what_a_store_said_of_its_size_is_forgotten() {
        let requests = Requests::default();
        let at = |secs| Boot::from_duration(Duration::from_secs(secs));
        let (kind, version, warnings) = ("etcd", String::new(), Vec::new());
        requests.heard(&About { kind, version, size: Some(5), quota: Some(9), warnings, clock: None }, at(100));
        assert_eq!(requests.sizes(at(999)), Some(Sizes { size: Some(5), quota: Some(9) }));
        assert_eq!(requests.sizes(at(1_000)), None);
    }

    #[test]
    fn a_store_that_cannot_be_reached_does_not_answer() {
        let requests = Requests::default();
        let (store, why) = ("etcd".to_owned(), "refused".to_owned());
        requests.ended(Op::Range, &Ok(()), Duration::ZERO);
        let away = Err::<(), _>(StoreError::Unavailable { store, why });
        requests.ended(Op::KeepAlive, &away, Duration::from_secs(3));
        assert_eq!(counted(&requests), [("keep_alive", "unavailable", 1), ("range", "ok", 1)]);
        assert!(!requests.is_answered());
    }
}
