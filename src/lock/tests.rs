//! Sessions and elections over the memory store, in paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;
use crate::store::memory::MemoryStore;
use crate::store::{Entry, Keys, Op, Range, Revision, StoreError, Txn};
use crate::time::{Boot, Wall};

mod candidates;
mod claims;
mod contexts;
mod costs;
mod elections;
mod ends_of_holds;
mod faulty;
mod lapses;
mod leadership;
mod leftovers;
mod lineage;
mod lost_answers;
mod misuse;
mod model;
mod operators;
mod queues;
mod semaphores;
mod sessions;
mod transactions;

use faulty::{Fault, Faulty, Kind};

const TTL: Duration = Duration::from_secs(10);
/// Longer than anything here may take, in paused time.
const LONG: Duration = Duration::from_secs(600);

/// One store, and the nodes that contend in it.
struct Cluster {
    store: Faulty,
    clock: Clock,
}

/// A node with its session.
struct Node {
    session: Session<Faulty>,
    election: Election<Faulty>,
}

/// The clocks of a paused runtime: its own time and what it stood still for, and a wall clock that began in 2026.
fn paused_clock(standstill: Arc<AtomicU64>) -> Clock {
    let start = Instant::now();
    let epoch: Wall = "2026-11-21T00:00:00Z".parse().unwrap();
    Clock::from_fn(move || {
        let elapsed = start.elapsed() + Duration::from_millis(standstill.load(Ordering::SeqCst));
        (Boot::from_duration(elapsed), epoch.plus(elapsed))
    })
}

fn call(number: u128) -> CallId {
    CallId::from_u128(number)
}

impl Cluster {
    fn new() -> Cluster {
        let standstill = Arc::default();
        let clock = paused_clock(Arc::clone(&standstill));
        Cluster { store: Faulty::standing_still(MemoryStore::new(clock.clone()), standstill), clock }
    }

    fn locks(&self) -> Locks<Faulty> {
        self.locks_that_saw(Seen::default())
    }

    fn locks_that_saw(&self, seen: Seen) -> Locks<Faulty> {
        Locks::new(self.store.clone(), self.clock.clone(), Namespace::new("test").unwrap(), seen)
    }

    async fn node(&self, name: &str) -> Node {
        Node::open(&self.locks(), name).await
    }

    async fn entry(&self, key: &str) -> Option<Entry> {
        self.store.range(Range::of(Keys::one(key))).await.unwrap().entries.pop()
    }

    async fn delete(&self, key: &str) {
        self.store.inner().commit(Txn::new().then(Op::delete(key))).await.unwrap();
    }

    async fn put(&self, key: &str, value: &str) {
        self.store.inner().commit(Txn::new().then(Op::put(key, value))).await.unwrap();
    }
}

impl Node {
    async fn open(locks: &Locks<Faulty>, name: &str) -> Node {
        let presence = Presence { node: name.into(), record: name.into() };
        let timing = Timing::from_ttl(TTL).unwrap();
        let session = locks.open_session(presence, timing, Driver::Task).await.unwrap();
        Node { session, election: locks.election(LockName::leader()) }
    }

    /// Campaigns until it leads.
    async fn lead(&self, number: u128) -> Term {
        timeout(LONG, self.election.campaign(&self.session, call(number))).await.expect("it leads in time").unwrap()
    }

    /// Campaigns for as long as a waiter would notice anything, in vain.
    async fn waits(&self, number: u128) {
        let campaign = timeout(Duration::from_secs(15), self.election.campaign(&self.session, call(number)));
        assert!(campaign.await.is_err(), "it should wait");
    }

    /// How its campaign fails.
    async fn fails(&self, number: u128) -> CampaignError {
        timeout(LONG, self.election.campaign(&self.session, call(number)))
            .await
            .expect("it fails in time")
            .expect_err("it should not lead")
    }

    /// Campaigns in the background, and is in the queue on return.
    async fn queue_up(self, number: u128) -> JoinHandle<(Node, Result<Term, CampaignError>)> {
        let election = self.election.clone();
        let campaign = tokio::spawn(async move {
            let result = self.election.campaign(&self.session, call(number)).await;
            (self, result)
        });
        let ahead = election.observe().await.unwrap().waiting.len();
        while election.observe().await.unwrap().waiting.len() == ahead {
            tokio::task::yield_now().await;
        }
        campaign
    }

    async fn still_leads(&self, term: &Term) -> bool {
        let proof = term.hold.still_held().into_iter().fold(Txn::new(), Txn::when);
        self.election.store().commit(proof.then(Op::put("/effect", term.fence().to_string()))).await.unwrap().succeeded
    }
}

async fn finished(campaign: JoinHandle<(Node, Result<Term, CampaignError>)>) -> (Node, Result<Term, CampaignError>) {
    timeout(LONG, campaign).await.expect("the campaign ends in time").expect("it does not panic")
}

const OWNER: &str = "/fencron/v1/test/lock/leader/owner";
const BASE: &str = "/fencron/v1/test/base";

/// Where the call waits.
fn wait_key(number: u128) -> String {
    format!("/fencron/v1/test/lock/leader/wait/{}", call(number))
}
