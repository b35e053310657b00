//! From just before a lock is unlocked until the one who waits for it holds it, each with a connection of its own;
//! beside the least that this takes on the same store: a transaction, word of it, and a transaction.

use std::time::Duration;

use etcd_client::LockOptions;
use fencron::store::etcd::EtcdStore;
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Keys, Op, Store, Txn, Watched};
use fencron::time::Clock;

use crate::figures::{Figures, Spread};
use crate::recipe::Recipe;
use crate::support::etcd::{Etcd, EtcdOptions};
use crate::{TURN, calls, door, node, ratio, until_they_wait, wait_for};

pub async fn measure(figures: &mut Figures) {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let stores: [EtcdStore; 2] = [etcd.store().await, etcd.store().await];
    let (mut in_go, mut of_go) = (Recipe::start(&etcd), Vec::new());
    let (ours, least) = on_store(&stores, || {
        in_go.iter_mut().for_each(|program| of_go.extend(program.times("handover", TURN)));
    })
    .await;
    let recipe = recipe(&etcd).await;
    tell(figures, "etcd", &ours, &least);
    figures.note("hand-over by etcd's own recipe, inside the server", recipe.to_string());
    if !of_go.is_empty() {
        figures.note("hand-over by etcd's own recipe, in Go", Spread::of(of_go).to_string());
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let open = async || SqliteStore::open(&file, Clock::system()).await.unwrap();
    let (ours, least) = on_store(&[open().await, open().await], || {}).await;
    tell(figures, "SQLite", &ours, &least);
    let met = ours.percent(50) < Duration::from_millis(2) && ours.percent(99) < Duration::from_millis(10);
    figures.judge("hand-over, SQLite", ours.to_string(), "p50 under 2 ms, p99 under 10 ms", met);
}

fn tell(figures: &mut Figures, store: &str, ours: &Spread, least: &Spread) {
    let ratio = ratio(ours, least);
    figures.note(format!("hand-over, {store}"), ours.to_string());
    figures.note(format!("a transaction, word of it, a transaction, {store}"), least.to_string());
    figures.judge(format!("the two, {store}"), format!("{ratio:.2} times"), "at most 2 times", ratio <= 2.0);
}

/// Between two hand-overs, so that they do not fall into step with anything.
async fn pause(round: usize) {
    tokio::time::sleep(Duration::from_micros(5000 + (round * 7919 % 10_000) as u64)).await;
}

/// `then` is called after so many hand-overs as a turn has.
async fn on_store<S: Store>(stores: &[S; 2], mut then: impl FnMut()) -> (Spread, Spread) {
    let ((locks, a), (others, b)) = (node(&stores[0]).await, node(&stores[1]).await);
    let doors = [door(&locks, "door"), door(&others, "door")];
    let (mut holder, mut next) = (a.context(), Some(b.context()));
    doors[0].lock(&mut holder).await.unwrap();
    let (mut ours, mut least) = (Vec::new(), Vec::new());
    for round in 0..calls() {
        let waiter = wait_for(&doors[(round + 1) % 2], next.take().unwrap());
        until_they_wait(&stores[0], 1).await;
        pause(round).await;
        let begun = Clock::system().boot();
        doors[round % 2].unlock(&mut holder).await.unwrap();
        let (followed, _, granted) = waiter.await.unwrap();
        ours.push(granted.since(begun));
        next = Some(std::mem::replace(&mut holder, followed));
        least.push(word_of_it(stores, round).await);
        if (round + 1) % TURN == 0 {
            then();
        }
    }
    (Spread::of(ours), Spread::of(least))
}

/// One node deletes a key, the other hears of it and puts one.
async fn word_of_it<S: Store>(stores: &[S; 2], round: usize) -> Duration {
    let put = stores[0].commit(Txn::new().then(Op::put("/bench/held", "1"))).await.unwrap();
    let other = stores[1].clone();
    let mut watch = other.watch(Keys::one("/bench/held"), put.revision.next()).await.unwrap();
    let follows = tokio::spawn(async move {
        assert!(matches!(watch.next().await, Some(Watched::Changes(_))));
        other.commit(Txn::new().then(Op::put("/bench/next", "1"))).await.unwrap();
        Clock::system().boot()
    });
    pause(round).await;
    let begun = Clock::system().boot();
    stores[0].commit(Txn::new().then(Op::delete("/bench/held"))).await.unwrap();
    follows.await.unwrap().since(begun)
}

async fn recipe(etcd: &Etcd) -> Spread {
    let mut clients = [etcd.client().await, etcd.client().await];
    let mut leases = Vec::new();
    for client in &mut clients {
        leases.push(client.lease_grant(600, None).await.unwrap().id());
    }
    let mut held = clients[0].lock("recipe", Some(LockOptions::new().with_lease(leases[0]))).await.unwrap();
    let mut times = Vec::new();
    for round in 0..calls() {
        let (mut other, lease) = (clients[(round + 1) % 2].clone(), leases[(round + 1) % 2]);
        let waiter = tokio::spawn(async move {
            let held = other.lock("recipe", Some(LockOptions::new().with_lease(lease))).await.unwrap();
            (held, Clock::system().boot())
        });
        pause(round).await;
        let begun = Clock::system().boot();
        clients[round % 2].unlock(held.key()).await.unwrap();
        let granted;
        (held, granted) = waiter.await.unwrap();
        times.push(granted.since(begun));
    }
    Spread::of(times)
}
