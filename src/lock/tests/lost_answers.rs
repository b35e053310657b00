use super::*;

/// One node campaigns while its requests meet these faults, and leads; whatever was late arrives then, and everything
/// arrives once more; then the next node follows.
async fn leads_through(faults: &[(Kind, Fault)]) -> Cluster {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    for (kind, fault) in faults {
        cluster.store.expect(*kind, *fault);
    }
    let term = a.lead(1).await;
    cluster.store.deliver().await;
    cluster.store.replay().await;
    assert!(a.still_leads(&term).await, "{faults:?}");
    assert!(a.election.observe().await.unwrap().waiting.is_empty(), "{faults:?}: nothing waits that nobody waits for");
    assert_eq!(a.election.resign(&term).await.unwrap(), Resigned::Released, "{faults:?}");
    cluster.store.deliver().await;
    cluster.store.replay().await;
    assert!(b.lead(2).await.fence() > term.fence(), "{faults:?}");
    cluster
}

#[tokio::test(start_paused = true)]
async fn one_lost_answer_changes_nothing() {
    for kind in [Kind::Look, Kind::Enqueue, Kind::Grant, Kind::Release] {
        for fault in [Fault::AnswerLost, Fault::Lost, Fault::Late, Fault::Unavailable] {
            let cluster = leads_through(&[(kind, fault)]).await;
            assert!(cluster.store.all_met(), "{kind:?} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn several_lost_answers_change_nothing() {
    let faults = [Fault::AnswerLost, Fault::Lost, Fault::Late, Fault::Unavailable];
    for first in faults {
        for second in faults {
            leads_through(&[(Kind::Enqueue, first), (Kind::Grant, second)]).await;
            leads_through(&[(Kind::Grant, first), (Kind::Grant, second), (Kind::Look, second)]).await;
            leads_through(&[(Kind::Enqueue, first), (Kind::Enqueue, second), (Kind::Release, first)]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_enqueue_after_the_term_leaves_nothing_in_the_queue() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    cluster.store.expect(Kind::Enqueue, Fault::Late);
    let term = a.lead(1).await;
    a.election.resign(&term).await.unwrap();
    assert_eq!(cluster.store.deliver().await, 0);
    assert_eq!(cluster.entry(&wait_key(1)).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_late_enqueue_or_grant_after_a_withdrawal_does_nothing() {
    for kind in [Kind::Enqueue, Kind::Grant] {
        let cluster = Cluster::new();
        let a = cluster.node("a").await;
        cluster.store.expect(kind, Fault::Late);
        let campaign = timeout(Duration::from_millis(10), a.election.campaign(&a.session, call(1)));
        assert!(campaign.await.is_err(), "it hears nothing yet");
        a.election.withdraw(&a.session, call(1)).await.unwrap();
        assert_eq!(cluster.store.deliver().await, 0, "{kind:?}");
        assert_eq!((cluster.entry(&wait_key(1)).await, cluster.entry(OWNER).await), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_arrives_before_the_withdrawal_is_given_back() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    cluster.store.expect(Kind::Grant, Fault::AnswerLost);
    let campaign = timeout(Duration::from_millis(10), a.election.campaign(&a.session, call(1)));
    assert!(campaign.await.is_err(), "it hears nothing yet");
    assert!(cluster.entry(OWNER).await.is_some());
    cluster.store.expect(Kind::Withdraw, Fault::AnswerLost);
    a.election.withdraw(&a.session, call(1)).await.unwrap();
    assert_eq!(cluster.entry(OWNER).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_resignation_whose_answer_is_lost_is_known_for_done_after_the_next_has_followed() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    let b = b.queue_up(2).await;
    cluster.store.expect(Kind::Release, Fault::AnswerLost);
    assert_eq!(a.election.resign(&term).await.unwrap(), Resigned::Released);
    let (b, next) = finished(b).await;
    assert!(b.still_leads(&next.unwrap()).await);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_outlasts_a_store_that_is_away() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    for _ in 0..20 {
        cluster.store.expect(Kind::Look, Fault::Unavailable);
    }
    let start = Instant::now();
    a.lead(1).await;
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    assert!(cluster.store.all_met());
}

#[tokio::test(start_paused = true)]
async fn a_session_registers_once_through_lost_answers() {
    for fault in [Fault::AnswerLost, Fault::Lost, Fault::Late, Fault::Unavailable] {
        let cluster = Cluster::new();
        cluster.store.expect(Kind::Register, fault);
        let a = cluster.node("a").await;
        cluster.store.deliver().await;
        cluster.store.replay().await;
        a.lead(1).await;
    }
}
