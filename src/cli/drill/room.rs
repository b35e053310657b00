//! The throw-away namespace of a drill, and what a drill that was killed has left of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::cli::DRILLS;
use crate::cli::spread::Spread;
use crate::lock::Namespace;
use crate::store::{AnyStore, Keys, Op, Range, Revision, Store as _, StoreError, Txn};
use crate::time::Clock;

/// Where drills have keys of their own, after [`DRILLS`]: in the namespace of the nodes there is nothing but theirs.
const BOOK: &str = "book";

/// The key that says that the drill goes on, under its lease; and the one that the latency of the store is measured with.
const ALIVE: &str = "alive";
const PROBE: &str = "probe";

/// How long a namespace outlives a drill that was killed, until another drill removes it; and how often the lease is kept
/// alive.
const LEFT_AFTER: Duration = Duration::from_secs(60);
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// How often the latency of the store is measured.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// How often the namespace is emptied until nothing is in it.
const REMOVE_TRIES: u32 = 5;

/// A namespace of this drill alone.
pub(super) struct Room {
    pub store: AnyStore,
    pub namespace: Namespace,
    /// From where on its history is this drill's.
    pub since: Revision,
    _keeping: AbortOnDropHandle<()>,
}

impl Room {
    /// Makes one that no other drill has.
    pub async fn make(store: AnyStore) -> anyhow::Result<Room> {
        let id = Uuid::new_v4().simple().to_string();
        let namespace = Namespace::new(&format!("{DRILLS}{}", &id[..12]))?;
        let (lease, _) = store.grant(LEFT_AFTER).await.context("cannot make the namespace of the drill")?;
        let alive = Op::put_leased(format!("{}{ALIVE}", book(&namespace)?), "", lease);
        let made = store.commit(Txn::new().then(alive)).await;
        let made = made.with_context(|| format!("cannot make the namespace {namespace} of the drill"))?;
        let kept = store.clone();
        let keeping = tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEEP_EVERY).await;
                if let Err(error) = kept.keep_alive(lease).await {
                    tracing::debug!(%error, "the lease of the drill is not kept alive");
                }
            }
        });
        Ok(Room { store, namespace, since: made.revision, _keeping: AbortOnDropHandle::new(keeping) })
    }

    /// Writes a key, as the nodes do with each of their claims.
    pub async fn probe(&self) -> Result<(), StoreError> {
        write(&self.store, &self.namespace).await
    }

    /// Measures from now on how long the store takes for a write.
    pub fn measure(&self, clock: &Clock) -> Latency {
        let (store, namespace, clock) = (self.store.clone(), self.namespace.clone(), clock.clone());
        let measured = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&measured);
        let measuring = tokio::spawn(async move {
            loop {
                let asked = clock.boot();
                if write(&store, &namespace).await.is_ok() {
                    let took = clock.boot().since(asked).as_secs_f64() * 1000.0;
                    into.lock().unwrap_or_else(PoisonError::into_inner).push(took);
                }
                tokio::time::sleep(PROBE_EVERY).await;
            }
        });
        Latency { measured, _measuring: AbortOnDropHandle::new(measuring) }
    }

    /// Removes all that is in it. No node of the drill may run any more.
    pub async fn remove(self) -> anyhow::Result<()> {
        let Room { store, namespace, _keeping: keeping, .. } = self;
        drop(keeping);
        empty(&store, &namespace).await.with_context(|| {
            format!("the namespace {namespace} was left: the next drill removes it, a minute from now or later")
        })
    }
}

/// What the drill's own keys begin with.
fn book(namespace: &Namespace) -> Result<String, StoreError> {
    let book = Namespace::new(&format!("{DRILLS}{BOOK}")).map_err(|error| StoreError::Unusable(error.to_string()))?;
    Ok(format!("{}{namespace}/", book.prefix()))
}

async fn write(store: &AnyStore, namespace: &Namespace) -> Result<(), StoreError> {
    let key = format!("{}{PROBE}", book(namespace)?);
    store.commit(Txn::new().then(Op::put(key, ""))).await.map(drop)
}

/// How long the store takes, as far as it was measured. The measuring ends when this is dropped.
pub(super) struct Latency {
    measured: Arc<Mutex<Vec<f64>>>,
    _measuring: AbortOnDropHandle<()>,
}

impl Latency {
    pub fn spread(&self) -> Option<Spread> {
        Spread::of(self.measured.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Removes what drills have left that were killed, and answers the names.
pub(super) async fn sweep(store: &AnyStore) -> anyhow::Result<Vec<String>> {
    let mut swept = Vec::new();
    let is_drill = |namespace: &Namespace| namespace.as_str().strip_prefix(DRILLS).is_some_and(|rest| rest != BOOK);
    for namespace in Namespace::all(store).await?.into_iter().filter(is_drill) {
        let alive = Range::of(Keys::one(format!("{}{ALIVE}", book(&namespace)?)));
        if store.range(alive).await?.entries.is_empty() {
            empty(store, &namespace).await?;
            swept.push(namespace.to_string());
        }
    }
    Ok(swept)
}

/// What was on its way when the nodes ended may arrive after the first time.
async fn empty(store: &AnyStore, namespace: &Namespace) -> Result<(), StoreError> {
    for _ in 0..REMOVE_TRIES {
        let own = Op::Delete(Keys::prefix(book(namespace)?));
        store.commit(Txn::new().then(Op::Delete(Keys::prefix(namespace.prefix()))).then(own)).await?;
        let left = Range { keys_only: true, limit: 1, ..Range::of(Keys::prefix(namespace.prefix())) };
        if store.range(left).await?.entries.is_empty() {
            return Ok(());
        }
    }
    Err(StoreError::Unusable(format!("something goes on writing to the namespace {namespace}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreUrl;

    #[tokio::test]
    async fn what_a_killed_drill_left_is_swept_and_nothing_else() {
        let store = AnyStore::open(&StoreUrl::Memory, Clock::system()).await.unwrap();
        let room = Room::make(store.clone()).await.unwrap();
        room.probe().await.unwrap();
        let (own, left) = (room.namespace.to_string(), format!("{DRILLS}0123456789ab"));
        let keys =
            [format!("{left}/open/x"), format!("{DRILLS}{BOOK}/{left}/{PROBE}"), format!("{own}/x"), "shop/x".into()];
        for key in keys {
            store.commit(Txn::new().then(Op::put(format!("/fencron/v1/{key}"), ""))).await.unwrap();
        }
        assert_eq!(sweep(&store).await.unwrap(), [left]);
        let keys = async || {
            let (all, _) = store.range_all(Keys::prefix("/fencron/v1/")).await.unwrap();
            all.into_iter().map(|entry| entry.key["/fencron/v1/".len()..].to_owned()).collect::<Vec<_>>()
        };
        let mut expected = [ALIVE, PROBE].map(|key| format!("{DRILLS}{BOOK}/{own}/{key}")).to_vec();
        expected.extend([format!("{own}/x"), "shop/x".to_owned()]);
        expected.sort_unstable();
        let mut found = keys().await;
        found.sort_unstable();
        assert_eq!(found, expected);
        room.remove().await.unwrap();
        assert_eq!(keys().await, ["shop/x"]);
    }
}
