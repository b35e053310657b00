use super::*;

fn at(second: u64) -> Wall {
    "2026-11-21T02:00:00Z".parse::<Wall>().unwrap().plus(Duration::from_secs(second))
}

fn claims(cluster: &Cluster, job: &str) -> Claims<Faulty> {
    Claims::new(cluster.locks(), &LockName::leader(), job)
}

#[tokio::test(start_paused = true)]
async fn an_occurrence_is_claimed_once_and_nothing_before_it() {
    let cluster = Cluster::new();
    let term = cluster.node("a").await.lead(1).await;
    let (here, there) = (claims(&cluster, "report"), claims(&cluster, "report"));
    assert_eq!(here.claim(CallId::random(), &term.hold, at(1)).await.unwrap(), Claim::Taken);
    for again in [&here, &there] {
        assert_eq!(again.claim(CallId::random(), &term.hold, at(1)).await.unwrap(), Claim::Decided(at(1)));
        assert_eq!(again.claim(CallId::random(), &term.hold, at(0)).await.unwrap(), Claim::Decided(at(1)));
    }
    assert_eq!(there.claim(CallId::random(), &term.hold, at(2)).await.unwrap(), Claim::Taken);
    assert_eq!(
        here.claim(CallId::random(), &term.hold, at(3)).await.unwrap(),
        Claim::Taken,
        "what is remembered may be out of date"
    );
    assert_eq!(
        claims(&cluster, "other").claim(CallId::random(), &term.hold, at(1)).await.unwrap(),
        Claim::Taken,
        "jobs are apart"
    );
}

#[tokio::test(start_paused = true)]
async fn a_replaced_holder_claims_nothing() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let old = a.lead(1).await;
    let (here, there) = (claims(&cluster, "report"), claims(&cluster, "report"));
    assert_eq!(here.claim(CallId::random(), &old.hold, at(1)).await.unwrap(), Claim::Taken);
    cluster.delete(OWNER).await;
    assert_eq!(here.claim(CallId::random(), &old.hold, at(2)).await.unwrap(), Claim::NotHeld);
    let new = b.lead(2).await;
    assert_eq!(
        there.claim(CallId::random(), &new.hold, at(1)).await.unwrap(),
        Claim::Decided(at(1)),
        "the other has done it"
    );
    assert_eq!(there.claim(CallId::random(), &new.hold, at(2)).await.unwrap(), Claim::Taken);
    assert_eq!(here.claim(CallId::random(), &old.hold, at(3)).await.unwrap(), Claim::NotHeld);
    assert_eq!(claims(&cluster, "never-run").claim(CallId::random(), &old.hold, at(1)).await.unwrap(), Claim::NotHeld);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_neither_claims_twice_nor_loses_the_claim() {
    for fault in [Fault::AnswerLost, Fault::Lost, Fault::Late, Fault::Unavailable] {
        let cluster = Cluster::new();
        let term = cluster.node("a").await.lead(1).await;
        let claims = claims(&cluster, "report");
        assert_eq!(claims.claim(CallId::random(), &term.hold, at(1)).await.unwrap(), Claim::Taken);
        cluster.store.expect(Kind::Other, fault);
        cluster.store.expect(Kind::Other, fault);
        assert_eq!(claims.claim(CallId::random(), &term.hold, at(2)).await.unwrap(), Claim::Taken, "{fault:?}");
        assert!(cluster.store.all_met(), "{fault:?}");
        cluster.store.deliver().await;
        cluster.store.replay().await;
        assert_eq!(
            claims.claim(CallId::random(), &term.hold, at(2)).await.unwrap(),
            Claim::Decided(at(2)),
            "{fault:?}"
        );
        assert_eq!(claims.claim(CallId::random(), &term.hold, at(3)).await.unwrap(), Claim::Taken, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_not_written_over() {
    let cluster = Cluster::new();
    let term = cluster.node("a").await.lead(1).await;
    let claims = claims(&cluster, "report");
    cluster.put(claims.key(), r#"{"v":2}"#).await;
    let error = claims.claim(CallId::random(), &term.hold, at(1)).await.expect_err("it is of another version");
    assert!(error.to_string().contains("/fencron/v1/test/claimed/leader/report"), "{error}");
    assert_eq!(cluster.entry(claims.key()).await.unwrap().value, br#"{"v":2}"#);
}

#[tokio::test(start_paused = true)]
async fn claims_begin_anew_where_an_operator_deletes_their_key() {
    let cluster = Cluster::new();
    let term = cluster.node("a").await.lead(1).await;
    let claims = claims(&cluster, "report");
    let far = at(1_000_000_000);
    assert_eq!(
        claims.claim(CallId::random(), &term.hold, far).await.unwrap(),
        Claim::Taken,
        "by a clock that was ahead"
    );
    assert_eq!(claims.claim(CallId::random(), &term.hold, at(1)).await.unwrap(), Claim::Decided(far));
    cluster.delete(claims.key()).await;
    assert_eq!(claims.claim(CallId::random(), &term.hold, at(1)).await.unwrap(), Claim::Taken);
}

#[tokio::test(start_paused = true)]
async fn claims_leave_one_key_for_each_job() {
    let cluster = Cluster::new();
    let term = cluster.node("a").await.lead(1).await;
    let claims = claims(&cluster, "report");
    for second in 0..50 {
        assert_eq!(claims.claim(CallId::random(), &term.hold, at(second)).await.unwrap(), Claim::Taken);
    }
    let kept = cluster.store.range(Range::of(Keys::prefix("/fencron/v1/test/claimed/"))).await.unwrap();
    assert_eq!(kept.entries.len(), 1, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_its_own_claim_over_under_a_later_hold_and_no_other_does() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let old = node.lead(1).await;
    let claims = claims(&cluster, "report");
    assert_eq!(claims.claim(call(7), &old.hold, at(1)).await.unwrap(), Claim::Taken);
    node.election.resign(&old).await.unwrap();
    assert_eq!(claims.claim(call(7), &old.hold, at(1)).await.unwrap(), Claim::Taken, "told again what was done");
    let new = node.lead(2).await;
    assert_eq!(claims.claim(call(8), &new.hold, at(1)).await.unwrap(), Claim::Decided(at(1)));
    assert_eq!(claims.claim(call(7), &new.hold, at(1)).await.unwrap(), Claim::Taken);
    let record = String::from_utf8(cluster.entry(claims.key()).await.unwrap().value).unwrap();
    assert!(record.contains(&format!("\"fence\":{}", new.fence())), "{record}");
    node.election.resign(&new).await.unwrap();
    assert_eq!(
        claims.claim(call(7), &old.hold, at(1)).await.unwrap(),
        Claim::NotHeld,
        "an earlier hold takes nothing over"
    );
}

/// A hold that is over claims nothing, whatever the same call has put before: it asks as often as it takes to see that.
#[tokio::test(start_paused = true)]
async fn a_call_that_has_claimed_before_ends_under_a_hold_that_is_over() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let first = node.lead(1).await;
    let claims = claims(&cluster, "report");
    assert_eq!(claims.claim(call(7), &first.hold, at(1)).await.unwrap(), Claim::Taken);
    node.election.resign(&first).await.unwrap();
    let second = node.lead(2).await;
    node.election.resign(&second).await.unwrap();
    let asked = claims.claim(call(7), &second.hold, at(1));
    let ended = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it ends");
    assert_eq!(ended.unwrap(), Claim::NotHeld);
}
