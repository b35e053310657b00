use super::*;

fn presence() -> Presence {
    Presence { node: "a".into(), record: b"one".to_vec() }
}

fn key(node: &Node) -> String {
    Namespace::new("test").unwrap().session_key(node.session.lease())
}

#[tokio::test(start_paused = true)]
async fn a_session_lives_for_as_long_as_it_is_kept() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    for _ in 0..100 {
        tokio::time::sleep(TTL / 3).await;
        assert!(node.session.trust().borrow().holds(cluster.clock.boot()));
    }
    assert!(cluster.entry(&key(&node)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn slow_answers_shorten_trust() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    cluster.store.delay_keep_alives(Duration::from_secs(4));
    let mut trust = node.session.trust();
    trust.mark_unchanged();
    trust.changed().await.unwrap();
    let left = trust.borrow().trusted_until.since(cluster.clock.boot());
    let timing = Timing::from_ttl(TTL).unwrap();
    assert_eq!(left, TTL - timing.margin() - Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn trust_lapses_before_the_lease_ends_and_comes_back_with_an_answer() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let term = node.lead(1).await;
    cluster.store.lose_keep_alives(true);
    tokio::time::sleep(Duration::from_millis(9_000)).await;
    let trust = node.session.trust();
    assert!(!trust.borrow().holds(cluster.clock.boot()));
    assert!(node.still_leads(&term).await, "the lease still stands");
    cluster.store.lose_keep_alives(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(trust.borrow().ended.is_none(), "one of the questions was in time");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ran_out_ends_the_session() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    cluster.store.lose_keep_alives(true);
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(node.session.trust().borrow().ended, None, "nobody has said so yet");
    cluster.store.lose_keep_alives(false);
    assert_eq!(timeout(LONG, node.session.ended()).await.unwrap(), SessionEnd::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_lease_ends_the_session_at_the_next_keep_alive() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let start = Instant::now();
    cluster.store.revoke(node.session.lease()).await.unwrap();
    assert_eq!(timeout(LONG, node.session.ended()).await.unwrap(), SessionEnd::Refused);
    assert!(start.elapsed() <= TTL / 3);
    assert!(!node.session.trust().borrow().holds(cluster.clock.boot()));
}

#[tokio::test(start_paused = true)]
async fn a_closed_session_leaves_at_once() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let (key, trust, start) = (key(&node), node.session.trust(), Instant::now());
    node.session.close().await.unwrap();
    assert_eq!((cluster.entry(&key).await, start.elapsed()), (None, Duration::ZERO));
    assert_eq!(trust.borrow().ended, Some(SessionEnd::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_session_leaves_when_its_lease_runs_out() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let key = key(&node);
    drop(node);
    tokio::time::sleep(TTL - Duration::from_millis(1)).await;
    assert!(cluster.entry(&key).await.is_some());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(cluster.entry(&key).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_publication_replaces_the_record_under_the_same_key() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let before = cluster.entry(&key(&node)).await.unwrap();
    node.session.publish(b"two".to_vec()).await.unwrap();
    let after = cluster.entry(&key(&node)).await.unwrap();
    assert_eq!((after.value.as_slice(), after.created, after.lease), (&b"two"[..], before.created, before.lease));
    node.lead(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_publication_that_arrives_late_does_not_undo_a_later_one() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    cluster.store.expect(Kind::Register, Fault::Late);
    node.session.publish(b"two".to_vec()).await.unwrap();
    node.session.publish(b"three".to_vec()).await.unwrap();
    assert_eq!(cluster.store.deliver().await, 0);
    assert_eq!(cluster.entry(&key(&node)).await.unwrap().value, b"three");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_session_key_is_not_published_again() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    cluster.delete(&key(&node)).await;
    let published = node.session.publish(b"two".to_vec()).await;
    assert!(matches!(published, Err(SessionError::Ended { why: SessionEnd::KeyGone, .. })), "{published:?}");
    assert_eq!(cluster.entry(&key(&node)).await, None);
}

/// In real time: what is tested is that one thread's stall does not reach the other.
#[tokio::test]
async fn a_blocked_runtime_does_not_cost_a_session_with_a_thread_of_its_own() {
    let clock = Clock::system();
    let store = MemoryStore::new(clock.clone());
    let locks = Locks::new(store.clone(), clock.clone(), Namespace::new("test").unwrap(), Seen::default());
    let timing = Timing::from_ttl(Timing::SHORTEST_TTL).unwrap();
    let session = locks.open_session(presence(), timing, Driver::Thread).await.unwrap();
    std::thread::sleep(timing.ttl() * 2);
    assert!(session.trust().borrow().holds(clock.boot()));
    let key = locks.namespace().session_key(session.lease());
    session.close().await.unwrap();
    assert!(store.range(Range::of(Keys::one(key))).await.unwrap().entries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_node_was_attended_and_hangs_is_left_to_run_out() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    for _ in 0..10 {
        node.session.attend(cluster.clock.boot());
        tokio::time::sleep(TTL).await;
        assert!(node.session.trust().borrow().holds(cluster.clock.boot()));
    }
    tokio::time::sleep(TTL * 3).await;
    assert!(!node.session.trust().borrow().holds(cluster.clock.boot()));
    assert!(cluster.entry(&key(&node)).await.is_none());
    node.session.attend(cluster.clock.boot());
    assert_eq!(node.session.ended().await, SessionEnd::Refused, "a node that recovers learns of it");
}
