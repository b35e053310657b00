//! The transactions themselves, applied where no honest caller would send them: as a late or repeated request is.

use super::*;
use crate::lock::hold::{Base, Caller, Entrance, QueuePlace, QueueRead};
use crate::lock::keys::LockKeys;

const BEGINNING: Entrance = Entrance { owner_created: Revision(0), wanted_at: Revision(0) };

struct Bench {
    cluster: Cluster,
    keys: LockKeys,
    base: Base,
    callers: Vec<Caller>,
    _nodes: Vec<Node>,
}

impl Bench {
    /// A lock with as many sessions that may call for it.
    async fn new(sessions: u128) -> Bench {
        let cluster = Cluster::new();
        let keys = LockKeys::new(&Namespace::new("test").unwrap(), &LockName::leader());
        let (mut nodes, mut callers) = (Vec::new(), Vec::new());
        for number in 0..sessions {
            let node = cluster.node("n").await;
            callers.push(node.session.caller(call(number)));
            nodes.push(node);
        }
        let base = Base { value: 0, modified: cluster.entry(BASE).await.unwrap().modified };
        Bench { cluster, keys, base, callers, _nodes: nodes }
    }

    async fn applies(&self, txn: Txn) -> Option<Revision> {
        let committed = self.cluster.store.inner().commit(txn).await.unwrap();
        committed.succeeded.then_some(committed.revision)
    }

    async fn enqueue(&self, caller: usize) -> Revision {
        let enqueue = self.keys.enqueue(&self.callers[caller], BEGINNING, Wall::EPOCH, QueueRead::Whole);
        self.applies(enqueue).await.expect("the queue is open")
    }

    fn grant(&self, caller: usize, queued: Revision) -> Txn {
        self.keys.grant(&self.callers[caller], QueuePlace { queued, base: self.base }, Wall::EPOCH)
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_granted_the_lock_before_an_earlier_waiter() {
    let bench = Bench::new(2).await;
    let (_, second) = (bench.enqueue(0).await, bench.enqueue(1).await);
    assert_eq!(bench.applies(bench.grant(1, second)).await, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_granted_the_lock_beside_an_owner() {
    let bench = Bench::new(1).await;
    let queued = bench.enqueue(0).await;
    bench.cluster.put(OWNER, "somebody").await;
    assert_eq!(bench.applies(bench.grant(0, queued)).await, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_granted_the_lock_for_a_place_that_was_given_up() {
    let bench = Bench::new(2).await;
    let (first, _) = (bench.enqueue(0).await, bench.enqueue(1).await);
    bench.applies(bench.keys.withdraw(call(0))).await.expect("it always applies");
    assert_eq!(bench.applies(bench.grant(0, first)).await, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_granted_the_lock_without_its_session() {
    let bench = Bench::new(1).await;
    let queued = bench.enqueue(0).await;
    bench.cluster.delete(&bench.callers[0].session_key).await;
    assert_eq!(bench.applies(bench.grant(0, queued)).await, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_granted_the_lock_over_another_base() {
    let bench = Bench::new(1).await;
    let queued = bench.enqueue(0).await;
    bench.cluster.put(BASE, "0").await;
    assert_eq!(bench.applies(bench.grant(0, queued)).await, None, "the same value, written again");
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_applied_once() {
    let bench = Bench::new(1).await;
    let queued = bench.enqueue(0).await;
    let created = bench.applies(bench.grant(0, queued)).await.expect("its turn has come");
    assert_eq!(bench.applies(bench.grant(0, queued)).await, None);
    let hold = bench.keys.hold(&bench.callers[0], 0, created).unwrap();
    bench.applies(bench.keys.release(&hold)).await.expect("it is held");
    assert_eq!(bench.applies(bench.grant(0, queued)).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_settled_is_not_enqueued_again() {
    let bench = Bench::new(1).await;
    let queued = bench.enqueue(0).await;
    let enqueue = bench.keys.enqueue(&bench.callers[0], BEGINNING, Wall::EPOCH, QueueRead::Whole);
    let created = bench.applies(bench.grant(0, queued)).await.expect("its turn has come");
    assert_eq!(bench.applies(enqueue.clone()).await, None, "while it holds");
    let hold = bench.keys.hold(&bench.callers[0], 0, created).unwrap();
    bench.applies(bench.keys.release(&hold)).await.expect("it is held");
    assert_eq!(bench.applies(enqueue).await, None, "nor afterwards");
}
