//! What people do to a store: delete keys, leave keys, restore backups.

use super::*;
use crate::lock::line::Reason;

#[tokio::test(start_paused = true)]
async fn a_deleted_owner_key_ends_the_term_and_is_never_put_again() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    cluster.delete(OWNER).await;
    assert!(!a.still_leads(&term).await);
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(cluster.entry(OWNER).await, None);
    assert_eq!(a.election.resign(&term).await.unwrap(), Resigned::HadEnded);
    assert!(b.lead(2).await.fence() > term.fence());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_place_in_the_queue_is_taken_again() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    let b = b.queue_up(2).await;
    cluster.delete(&wait_key(2)).await;
    a.election.resign(&term).await.unwrap();
    assert!(finished(b).await.1.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_session_key_ends_the_campaign() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.lead(1).await;
    let key = Namespace::new("test").unwrap().session_key(b.session.lease());
    let b = b.queue_up(2).await;
    cluster.delete(&key).await;
    let (_, result) = finished(b).await;
    assert!(matches!(result, Err(CampaignError::SessionEnded(SessionEnd::KeyGone))), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_granted_without_a_base() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    let b = b.queue_up(2).await;
    cluster.delete(BASE).await;
    a.election.resign(&term).await.unwrap();
    let (b, result) = finished(b).await;
    let error = result.expect_err("there is no base");
    assert!(matches!(error, CampaignError::FenceBase(FenceBaseError::Missing { .. })), "{error:?}");
    assert!(error.to_string().contains("fencron fence repair"), "{error}");
    assert!(b.election.observe().await.unwrap().base.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_base_that_was_deleted_is_not_written_by_whoever_comes_next() {
    let cluster = Cluster::new();
    let _a = cluster.node("a").await;
    cluster.delete(BASE).await;
    let b = cluster.node("b").await;
    assert!(matches!(b.fails(1).await, CampaignError::FenceBase(FenceBaseError::Missing { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_base_that_changed_is_counted_from() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    let b = b.queue_up(2).await;
    cluster.put(BASE, "1000").await;
    a.election.resign(&term).await.unwrap();
    assert!(finished(b).await.1.unwrap().fence().get() > 1000);
}

#[tokio::test(start_paused = true)]
async fn a_base_that_is_no_number_is_refused() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    cluster.put(BASE, "many").await;
    assert!(matches!(a.fails(1).await, CampaignError::FenceBase(FenceBaseError::Unreadable { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_repaired_base_makes_greater_fences() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    let term = a.lead(1).await;
    cluster.delete(BASE).await;
    let locks = cluster.locks();
    let repaired = locks.repair(None).await.unwrap();
    assert_eq!((repaired.base_before, repaired.removed.len()), (None, 2), "{repaired:?}");
    assert!(!a.still_leads(&term).await, "every hold has ended");
    let b = Node::open(&locks, "b").await;
    let next = b.lead(2).await;
    assert!(next.fence() > term.fence() && next.fence().get() > repaired.base);
}

#[tokio::test(start_paused = true)]
async fn a_repair_whose_answer_is_lost_is_done_once() {
    let cluster = Cluster::new();
    let _a = cluster.node("a").await;
    cluster.store.expect(Kind::Repair, Fault::AnswerLost);
    let repaired = cluster.locks().repair(None).await.unwrap();
    assert_eq!(cluster.entry(BASE).await.unwrap().value, repaired.base.to_string().into_bytes());
    assert_eq!((repaired.base_before, repaired.removed.len()), (Some(0), 1));
}

#[tokio::test(start_paused = true)]
async fn a_key_without_a_lease_in_the_queue_is_reported() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    let stray = "/fencron/v1/test/lock/leader/wait/by-hand";
    cluster.put(stray, "").await;
    a.waits(1).await;
    let obstacles = a.election.observe().await.unwrap().obstacles;
    assert_eq!(obstacles, [Obstacle { key: stray.into(), reason: Reason::NoLease }]);
    assert!(obstacles[0].to_string().contains(&format!("etcdctl del {stray}")));
    cluster.delete(stray).await;
    a.lead(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_without_a_lease_is_reported() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    cluster.put(OWNER, "me").await;
    a.waits(1).await;
    let standing = a.election.observe().await.unwrap();
    assert_eq!(standing.obstacles, [Obstacle { key: OWNER.into(), reason: Reason::NoLease }]);
    assert_eq!(standing.leader, None);
}

/// A store that was restored from before the second leader, with what the nodes had before.
async fn restored() -> (Cluster, Locks<Faulty>, Term) {
    let cluster = Cluster::new();
    let locks = cluster.locks();
    let mut last = None;
    for number in 0..10 {
        let node = Node::open(&locks, "a").await;
        last = Some(node.lead(number).await);
        node.session.close().await.unwrap();
    }
    let older = MemoryStore::new(cluster.clock.clone());
    for value in ["0", "0"] {
        older.commit(Txn::new().then(Op::put(BASE, value))).await.unwrap();
    }
    cluster.store.become_store(older);
    (cluster, locks, last.expect("ten have led"))
}

#[tokio::test(start_paused = true)]
async fn a_restored_store_is_refused() {
    let (cluster, locks, _) = restored().await;
    let node = Node::open(&locks, "a").await;
    let error = node.fails(1).await;
    assert!(matches!(error, CampaignError::StoreWentBack(_)), "{error:?}");
    assert!(error.to_string().contains("fencron fence repair"), "{error}");
    assert_eq!(cluster.entry(OWNER).await, None);
    assert!(node.election.observe().await.unwrap().age.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_restored_store_is_refused_after_a_restart() {
    let (cluster, locks, _) = restored().await;
    let remembered = *locks.seen().borrow();
    let node = Node::open(&cluster.locks_that_saw(remembered), "a").await;
    assert!(matches!(node.fails(1).await, CampaignError::StoreWentBack(_)));
}

#[tokio::test(start_paused = true)]
async fn a_repaired_store_makes_greater_fences_than_before_it_was_restored() {
    let (cluster, locks, last) = restored().await;
    let elsewhere = cluster.locks_that_saw(*locks.seen().borrow());
    locks.repair(None).await.unwrap();
    let node = Node::open(&locks, "a").await;
    let next = node.lead(20).await;
    assert!(next.fence() > last.fence());
    node.session.close().await.unwrap();
    let other = Node::open(&elsewhere, "b").await;
    assert!(other.lead(21).await.fence() > next.fence(), "a node that only hears of the repair goes on, too");
}

#[tokio::test(start_paused = true)]
async fn an_emptied_store_is_not_taken_for_a_new_one() {
    let (cluster, locks, _) = restored().await;
    cluster.store.become_store(MemoryStore::new(cluster.clock.clone()));
    let node = Node::open(&locks, "a").await;
    assert!(matches!(node.fails(1).await, CampaignError::StoreWentBack(_)));
    assert_eq!(cluster.entry(BASE).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_term_won_in_a_store_that_just_went_back_is_given_back() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    let term = a.lead(1).await;
    let locks = cluster.locks();
    let b = Node::open(&locks, "b").await.queue_up(2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // It learns elsewhere that the store was further, while it waits: it takes its turn without another look.
    locks.seen.send_replace(Seen { revision: Revision(1000), fence: 900, ..Seen::default() });
    a.election.resign(&term).await.unwrap();
    let (_, result) = finished(b).await;
    assert!(matches!(result, Err(CampaignError::StoreWentBack(_))), "{result:?}");
    assert_eq!(cluster.entry(OWNER).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_repair_counts_from_the_highest_fence_seen_where_that_is_ahead_of_the_clock() {
    let cluster = Cluster::new();
    let seen = Seen { revision: Revision(1), fence: 1 << 50, ..Seen::default() };
    let locks = cluster.locks_that_saw(seen);
    assert!(cluster.clock.wall().as_millis() < 1 << 50);
    assert_eq!(locks.repair(None).await.unwrap().base, 1 << 50);
    let full = cluster.locks_that_saw(Seen { fence: 1 << 52, ..seen });
    assert!(matches!(full.repair(None).await, Err(StoreError::Refused(_))));
}
