//! A crowd that waits for one lock, each of whom unlocks it as soon as it has it: how long each hand-over takes.

use std::time::Duration;

use etcd_client::{GetOptions, LockOptions};
use fencron::store::Store;
use fencron::store::etcd::EtcdStore;
use fencron::store::sqlite::SqliteStore;
use fencron::time::Clock;

use crate::figures::{Figures, millis};
use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::{soon, until};
use crate::{door, node, until_they_wait};

const CROWDS: [usize; 3] = [10, 100, 1000];
/// How many sessions, each with a connection of its own, they share.
const NODES: usize = 4;

pub async fn measure(figures: &mut Figures) {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let mut stores: Vec<EtcdStore> = Vec::new();
    for _ in 0..NODES {
        stores.push(etcd.store().await);
    }
    on_store(figures, "etcd", &stores).await;
    for waiters in CROWDS {
        let each = recipe(&etcd, waiters).await;
        figures.note(format!("a hand-over among {waiters}, by etcd's own recipe"), millis(each));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let mut stores: Vec<SqliteStore> = Vec::new();
    for _ in 0..NODES {
        stores.push(SqliteStore::open(&file, Clock::system()).await.unwrap());
    }
    on_store(figures, "SQLite", &stores).await;
}

async fn on_store<S: Store>(figures: &mut Figures, what: &str, stores: &[S]) {
    let mut all = Vec::new();
    for waiters in CROWDS {
        let each = served(stores, waiters).await;
        figures.note(format!("a hand-over among {waiters}, {what}"), millis(each));
        all.push(each);
    }
    let ratio = all[2].as_secs_f64() / all[0].as_secs_f64();
    // As many requests, and as much is sent; but etcd goes through all who wait to compare that none came before.
    let met = ratio <= 5.0;
    figures.judge(
        format!("among 1,000, to that among 10, {what}"),
        format!("{ratio:.2} times"),
        "at most 5 times",
        met,
    );
}

/// How long each waits for the one before it, on average.
async fn served<S: Store>(stores: &[S], waiters: usize) -> Duration {
    let mut nodes = Vec::new();
    for store in stores {
        nodes.push(node(store).await);
    }
    let mut holder = nodes[0].1.context();
    let first = door(&nodes[0].0, "crowd");
    first.lock(&mut holder).await.unwrap();
    let mut queue = tokio::task::JoinSet::new();
    for (locks, session) in nodes.iter().cycle().take(waiters) {
        let (lock, mut context) = (door(locks, "crowd"), session.context());
        queue.spawn(async move {
            lock.lock(&mut context).await.unwrap();
            lock.unlock(&mut context).await.unwrap();
        });
    }
    until_they_wait(&stores[0], waiters).await;
    // Until they listen.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Clock::system().boot();
    first.unlock(&mut holder).await.unwrap();
    soon("all have their turn", queue.join_all()).await;
    let took = Clock::system().boot().since(begun);
    for (_, session) in nodes {
        session.close().await.unwrap();
    }
    took / u32::try_from(waiters).unwrap()
}

async fn recipe(etcd: &Etcd, waiters: usize) -> Duration {
    let mut clients = Vec::new();
    for _ in 0..NODES {
        clients.push(etcd.client().await);
    }
    let lease = clients[0].lease_grant(600, None).await.unwrap().id();
    let first = clients[0].lock("crowd", Some(LockOptions::new().with_lease(lease))).await.unwrap();
    let mut queue = tokio::task::JoinSet::new();
    for mut client in clients.iter().cloned().cycle().take(waiters) {
        // The recipe's owners are leases.
        let lease = client.lease_grant(600, None).await.unwrap().id();
        queue.spawn(async move {
            let held = client.lock("crowd", Some(LockOptions::new().with_lease(lease))).await.unwrap();
            client.unlock(held.key()).await.unwrap();
        });
    }
    // The owner's key, and one for each that waits; then until they listen, as above.
    until("all wait", async || {
        let count = Some(GetOptions::new().with_prefix().with_count_only());
        let standing = clients[0].kv_client().get("crowd/", count).await.unwrap().count();
        (standing == i64::try_from(waiters + 1).unwrap()).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Clock::system().boot();
    clients[0].unlock(first.key()).await.unwrap();
    soon("all have their turn", queue.join_all()).await;
    Clock::system().boot().since(begun) / u32::try_from(waiters).unwrap()
}
