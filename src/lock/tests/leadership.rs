use proptest::test_runner::{Config, TestRunner};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lone_candidate_leads_at_once() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let start = Instant::now();
    let term = node.lead(1).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(node.still_leads(&term).await);
}

#[tokio::test(start_paused = true)]
async fn nobody_else_leads_while_one_does() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    b.waits(2).await;
    assert!(a.still_leads(&term).await);
}

#[tokio::test(start_paused = true)]
async fn a_resignation_lets_the_next_follow_at_once() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    let b = b.queue_up(2).await;
    let start = Instant::now();
    assert_eq!(a.election.resign(&term).await.unwrap(), Resigned::Released);
    let (_, next) = finished(b).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(next.unwrap().fence() > term.fence());
}

#[tokio::test(start_paused = true)]
async fn who_came_first_leads_first() {
    let cluster = Cluster::new();
    let first = cluster.node("first").await;
    let mut term = first.lead(0).await;
    let mut queue = Vec::new();
    for number in 1..=5 {
        queue.push(cluster.node(&number.to_string()).await.queue_up(number).await);
    }
    let mut leader = first;
    for campaign in queue {
        leader.election.resign(&term).await.unwrap();
        assert!(!leader.still_leads(&term).await);
        let (node, next) = finished(campaign).await;
        (leader, term) = (node, next.unwrap());
        let standing = leader.election.observe().await.unwrap();
        assert_eq!(standing.leader.unwrap().node, leader.session.node());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_followed_when_its_lease_ends() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    let b = b.queue_up(2).await;
    let (start, trust) = (Instant::now(), a.session.trust());
    drop(a);
    let (_, next) = finished(b).await;
    assert!(next.unwrap().fence() > term.fence());
    assert!(start.elapsed() <= TTL, "{:?}", start.elapsed());
    assert!(trust.borrow().trusted_until < cluster.clock.boot(), "its trust ended before");
}

#[tokio::test(start_paused = true)]
async fn a_session_lost_while_waiting_never_wins() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    let lease = b.session.lease();
    let b = b.queue_up(2).await;
    cluster.store.revoke(lease).await.unwrap();
    a.election.resign(&term).await.unwrap();
    let (_, result) = finished(b).await;
    assert!(matches!(result, Err(CampaignError::SessionEnded(_))), "{result:?}");
    assert_eq!(cluster.entry(OWNER).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_dies_is_passed_over() {
    let cluster = Cluster::new();
    let (a, b, c) = (cluster.node("a").await, cluster.node("b").await, cluster.node("c").await);
    let term = a.lead(1).await;
    let b = b.queue_up(2).await;
    let c = c.queue_up(3).await;
    b.abort();
    assert!(b.await.is_err(), "b is gone, with its session");
    a.election.resign(&term).await.unwrap();
    assert!(finished(c).await.1.is_ok());
}

#[tokio::test(start_paused = true)]
async fn resigning_twice_says_the_same() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    let term = a.lead(1).await;
    for _ in 0..2 {
        assert_eq!(a.election.resign(&term).await.unwrap(), Resigned::Released);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_resignation_does_not_end_a_later_term() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    let first = a.lead(1).await;
    a.election.resign(&first).await.unwrap();
    let second = a.lead(2).await;
    a.election.resign(&first).await.unwrap();
    assert!(a.still_leads(&second).await);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_campaign_goes_on_under_the_same_call() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    b.waits(2).await;
    assert_eq!(a.election.observe().await.unwrap().waiting.len(), 1, "the dropped campaign still waits");
    a.election.resign(&term).await.unwrap();
    let first = b.lead(2).await;
    assert_eq!(b.lead(2).await, first, "and what it won is adopted");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_call_neither_waits_nor_holds() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    b.waits(2).await;
    b.election.withdraw(&b.session, call(2)).await.unwrap();
    assert!(a.election.observe().await.unwrap().waiting.is_empty());
    assert!(a.still_leads(&term).await, "another's hold is left alone");
    a.election.withdraw(&a.session, call(1)).await.unwrap();
    assert!(!a.still_leads(&term).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_wait_for_itself() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    let term = a.lead(1).await;
    assert!(matches!(a.fails(2).await, CampaignError::OtherCall(other) if other == call(1)));
    assert!(a.still_leads(&term).await);
}

#[tokio::test(start_paused = true)]
async fn observers_see_the_leader_and_the_queue() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    let lease = b.session.lease();
    let _b = b.queue_up(2).await;
    let standing = cluster.locks().election(LockName::leader()).observe().await.unwrap();
    let leader = Leader {
        node: "a".into(),
        session: a.session.lease(),
        fence: term.fence(),
        since: cluster.clock.wall(),
        record: Some(b"a".to_vec()),
    };
    assert_eq!(standing.leader, Some(leader));
    let waiting: Vec<_> = standing.waiting.iter().map(|waiter| (waiter.node.as_deref(), waiter.session)).collect();
    assert_eq!(waiting, [(Some("b"), Some(lease))]);
    assert!(standing.obstacles.is_empty() && standing.base.is_ok() && standing.age.is_ok());
}

#[tokio::test(start_paused = true)]
async fn locks_of_different_names_do_not_meet() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    a.lead(1).await;
    let other = cluster.locks().election(LockName::new("leader/owner").unwrap());
    assert!(timeout(LONG, other.campaign(&a.session, call(1))).await.unwrap().is_ok());
}

/// What may happen to a leader.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Resign,
    Revoke,
    Delete,
    Die,
    LoseAnswer(Kind, Fault),
    Replay,
}

fn blow(number: u8) -> Blow {
    match number % 12 {
        0..=2 => Blow::Resign,
        3 => Blow::Revoke,
        4 => Blow::Delete,
        5 => Blow::Die,
        6 => Blow::LoseAnswer(Kind::Grant, Fault::AnswerLost),
        7 => Blow::LoseAnswer(Kind::Grant, Fault::Late),
        8 => Blow::LoseAnswer(Kind::Enqueue, Fault::Late),
        9 => Blow::LoseAnswer(Kind::Enqueue, Fault::AnswerLost),
        10 => Blow::LoseAnswer(Kind::Release, Fault::AnswerLost),
        _ => Blow::Replay,
    }
}

/// Handovers under blows: what every one of them must keep true.
async fn handovers(blows: &[u8]) {
    let cluster = Cluster::new();
    let mut fences = Vec::new();
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(cluster.node(name).await);
    }
    let mut standing: Option<(Node, Term)> = None;
    for (round, number) in blows.iter().enumerate() {
        let number_of_call = round as u128;
        let (node, term) = match standing.take() {
            Some(led) => led,
            None => {
                let node = nodes.remove(0);
                let term = node.lead(number_of_call).await;
                fences.push(term.fence());
                (node, term)
            }
        };
        assert!(node.still_leads(&term).await, "round {round}");
        match blow(*number) {
            Blow::Resign => {
                node.election.resign(&term).await.unwrap();
                nodes.push(node);
            }
            Blow::Revoke => {
                cluster.store.revoke(node.session.lease()).await.unwrap();
                assert!(!node.still_leads(&term).await);
                nodes.push(cluster.node("again").await);
            }
            Blow::Delete => {
                cluster.delete(OWNER).await;
                assert!(!node.still_leads(&term).await);
                nodes.push(node);
            }
            Blow::Die => {
                drop(node);
                nodes.push(cluster.node("new").await);
            }
            Blow::LoseAnswer(kind, fault) => {
                cluster.store.expect(kind, fault);
                standing = Some((node, term));
            }
            Blow::Replay => {
                cluster.store.deliver().await;
                cluster.store.replay().await;
                standing = Some((node, term));
            }
        }
    }
    assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}");
    assert!(!fences.is_empty());
}

#[test]
fn fences_only_grow_whatever_ends_a_term_and_whatever_is_repeated() {
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let blows = proptest::collection::vec(proptest::num::u8::ANY, 1..60);
    let run = |blows: Vec<u8>| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(handovers(&blows));
        Ok(())
    };
    runner.run(&blows, run).unwrap();
}
