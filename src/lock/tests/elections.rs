//! Elections as programs use them: one term after the other, and stepping down for another.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_program_leads_again_after_its_term_was_taken_away() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let mut fences = Vec::new();
    let lead = async |term: &Term, signal: &HoldSignal| {
        fences.push(term.fence());
        if fences.len() == 3 {
            return Some("done");
        }
        cluster.delete(OWNER).await;
        signal.lost().await;
        std::future::pending().await
    };
    let led = timeout(LONG, node.election.lead(&node.session, lead)).await.unwrap();
    assert_eq!(led.unwrap(), "done");
    assert!(fences.is_sorted_by(|one, other| one < other));
    assert_eq!(cluster.entry(OWNER).await, None, "the last term was resigned");
}

#[tokio::test(start_paused = true)]
async fn a_program_stops_leading_when_its_session_ends() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let lead = async |_: &Term, _: &HoldSignal| -> Option<()> {
        cluster.store.revoke(node.session.lease()).await.unwrap();
        std::future::pending().await
    };
    let led = timeout(LONG, node.election.lead(&node.session, lead)).await.unwrap();
    assert!(matches!(led, Err(CampaignError::SessionEnded(_))), "{led:?}");
}

#[tokio::test(start_paused = true)]
async fn observers_are_told_one_leader_after_the_other() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let observer = cluster.locks().election(LockName::leader());
    let (term, leader) = tokio::join!(a.lead(1), observer.next_leader(None));
    let leader = leader.unwrap();
    assert_eq!((leader.node.as_str(), leader.fence), ("a", term.fence()));
    let b = b.queue_up(2).await;
    let (resigned, next) = tokio::join!(a.election.resign(&term), observer.next_leader(Some(leader.fence)));
    resigned.unwrap();
    assert_eq!(next.unwrap().node, "b");
    finished(b).await.1.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_steps_down_in_favour_of_a_node_that_waits_behind_others() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    let term = a.lead(0).await;
    let b = cluster.node("b").await.queue_up(1).await;
    let c = cluster.node("c").await.queue_up(2).await;
    let refused = a.election.step_down_for(&term, "nobody").await;
    assert!(matches!(refused, Err(StepDownError::NotWaiting { .. })), "{refused:?}");
    assert!(a.still_leads(&term).await);
    assert_eq!(a.election.step_down_for(&term, "c").await.unwrap(), Resigned::Released);
    let (c, term) = finished(c).await;
    let term = term.unwrap();
    assert_eq!(c.session.node(), "c");
    c.election.resign(&term).await.unwrap();
    finished(b).await.1.expect("who was set back queues up again");
}

#[tokio::test(start_paused = true)]
async fn a_program_leads_again_after_the_store_was_away_when_its_term_ended() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    for _ in 0..25 {
        cluster.store.expect(Kind::Release, Fault::Unavailable);
    }
    let mut terms = 0;
    let lead = async |_: &Term, signal: &HoldSignal| {
        terms += 1;
        if terms == 2 {
            return Some(());
        }
        cluster.delete(OWNER).await;
        assert_eq!(signal.lost().await, Lost::Taken);
        std::future::pending().await
    };
    let led = timeout(LONG, node.election.lead(&node.session, lead)).await.unwrap();
    assert!(led.is_ok() && cluster.store.all_met(), "{led:?}");
}
