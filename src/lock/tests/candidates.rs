//! The driver of a candidacy: sessions, campaigns and terms, in paused time.

use super::*;

/// A candidate for the leadership, named `a`.
fn candidate(cluster: &Cluster) -> Candidate<Faulty> {
    keeping(cluster).campaigning_for(LockName::leader())
}

/// A candidate that only wants a session.
fn keeping(cluster: &Cluster) -> Candidate<Faulty> {
    let presence = Presence { node: "a".into(), record: b"{}".to_vec() };
    Candidate::new(&cluster.locks(), presence, Timing::from_ttl(TTL).unwrap(), Driver::Task)
}

/// The first of what happens that `wanted` takes.
async fn next_change<T>(candidate: &mut Candidate<Faulty>, wanted: impl Fn(&News<Faulty>) -> Option<T>) -> T {
    let heard = async {
        loop {
            if let Some(found) = wanted(&candidate.next().await) {
                return found;
            }
        }
    };
    timeout(LONG, heard).await.expect("it happens in time")
}

async fn session(candidate: &mut Candidate<Faulty>) -> Arc<Session<Faulty>> {
    let opened = |news: &News<Faulty>| match news {
        News::Session(session) => Some(Arc::clone(session)),
        _ => None,
    };
    next_change(candidate, opened).await
}

async fn term(candidate: &mut Candidate<Faulty>) -> Term {
    let won = |news: &News<Faulty>| match news {
        News::Won(term) => Some(term.clone()),
        _ => None,
    };
    next_change(candidate, won).await
}

async fn end_of_session(candidate: &mut Candidate<Faulty>) -> SessionEnd {
    let over = |news: &News<Faulty>| match news {
        News::SessionOver(why) => Some(*why),
        _ => None,
    };
    next_change(candidate, over).await
}

async fn end_of_term(candidate: &mut Candidate<Faulty>) -> Lost {
    let over = |news: &News<Faulty>| match news {
        News::TermOver(why) => Some(*why),
        _ => None,
    };
    next_change(candidate, over).await
}

async fn sessions_there(cluster: &Cluster) -> usize {
    let all = Range::of(Namespace::new("test").unwrap().sessions());
    cluster.store.inner().range(all).await.unwrap().entries.len()
}

#[tokio::test(start_paused = true)]
async fn it_opens_a_session_wins_and_leaves_nothing_behind() {
    let cluster = Cluster::new();
    let mut candidate = candidate(&cluster);
    let start = Instant::now();
    let won = term(&mut candidate).await;
    assert_eq!((candidate.term(), candidate.signal().and_then(HoldSignal::is_lost)), (Some(&won), None));
    assert_eq!(start.elapsed(), Duration::ZERO, "nothing is waited for");
    candidate.leave().await.unwrap();
    assert_eq!((cluster.entry(OWNER).await, sessions_there(&cluster).await), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_is_followed_by_another_without_any_campaign() {
    let cluster = Cluster::new();
    let mut candidate = keeping(&cluster);
    let first = session(&mut candidate).await;
    cluster.store.revoke(first.lease()).await.unwrap();
    assert_eq!(end_of_session(&mut candidate).await, SessionEnd::Refused);
    let second = session(&mut candidate).await;
    assert_ne!(first.lease(), second.lease());
    assert_eq!(sessions_there(&cluster).await, 1);
    candidate.leave().await.unwrap();
    assert_eq!((second.ended().await, sessions_there(&cluster).await), (SessionEnd::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_key_somebody_found_gone_is_closed_and_followed() {
    let cluster = Cluster::new();
    let mut candidate = candidate(&cluster);
    let first = term(&mut candidate).await;
    let session_of_first = Arc::clone(candidate.session().unwrap());
    let signal = cluster.locks().election(LockName::leader()).signal(&session_of_first, &first);
    cluster.delete(&Namespace::new("test").unwrap().session_key(session_of_first.lease())).await;
    session_of_first.publish(b"{}".to_vec()).await.unwrap_err();
    assert_eq!(end_of_session(&mut candidate).await, SessionEnd::KeyGone);
    assert_eq!(signal.lost().await, Lost::SessionEnded(SessionEnd::KeyGone));
    assert!(candidate.term().is_none());
    let start = Instant::now();
    let second = term(&mut candidate).await;
    assert!(second.fence() > first.fence() && start.elapsed() < TTL / 2, "the old lease was not waited for");
}

#[tokio::test(start_paused = true)]
async fn a_term_that_was_taken_away_is_followed_by_another_of_the_same_session() {
    let cluster = Cluster::new();
    let mut candidate = candidate(&cluster);
    let first = term(&mut candidate).await;
    cluster.delete(OWNER).await;
    assert_eq!(end_of_term(&mut candidate).await, Lost::Taken);
    assert!(candidate.term().is_none() && candidate.signal().is_none());
    let second = term(&mut candidate).await;
    assert!(second.fence() > first.fence());
    assert_eq!(second.hold.lease(), first.hold.lease());
}

#[tokio::test(start_paused = true)]
async fn a_term_whose_trust_has_lapsed_is_given_to_the_next() {
    let cluster = Cluster::new();
    let mut candidate = candidate(&cluster);
    term(&mut candidate).await;
    // Of another machine, whose keep-alives are answered.
    let store = Faulty::new(cluster.store.inner());
    let namespace = Namespace::new("test").unwrap();
    let locks = Locks::new(store, cluster.clock.clone(), namespace, Seen::default());
    let other = Node::open(&locks, "b").await.queue_up(2).await;
    cluster.store.lose_keep_alives(true);
    assert_eq!(end_of_term(&mut candidate).await, Lost::TrustLapsed);
    cluster.store.lose_keep_alives(false);
    let attended = async {
        loop {
            candidate.next().await;
        }
    };
    let followed = tokio::select! {
        never = attended => never,
        followed = finished(other) => followed.1,
    };
    followed.expect("the other leads");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_bears_lapses_keeps_its_term() {
    let cluster = Cluster::new();
    let mut candidate = candidate(&cluster).heeding_no_signal();
    let won = term(&mut candidate).await;
    cluster.store.lose_keep_alives(true);
    let lapse = Duration::from_millis(9_000);
    assert!(timeout(lapse, end_of_term(&mut candidate)).await.is_err());
    assert!(!candidate.trust().unwrap().borrow().holds(cluster.clock.boot()));
    cluster.store.lose_keep_alives(false);
    next_change(&mut candidate, |news| matches!(news, News::Trust).then_some(())).await;
    assert!(candidate.trust().unwrap().borrow().holds(cluster.clock.boot()));
    assert_eq!(candidate.term(), Some(&won));
    candidate.give_up();
    assert_eq!(candidate.term(), None);
    assert!(term(&mut candidate).await.fence() > won.fence());
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_closes_takes_the_candidate_out_of_the_queue() {
    let cluster = Cluster::new();
    let leader = cluster.node("b").await;
    let led = leader.lead(1).await;
    let mut candidate = candidate(&cluster);
    let waits = async || leader.election.observe().await.unwrap().waiting.len();
    let looked = async {
        while waits().await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = looked => {}
        news = term(&mut candidate) => panic!("{news:?}"),
    }
    candidate.set_gate(false);
    let left = async {
        while waits().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = left => {}
        news = term(&mut candidate) => panic!("{news:?}"),
    }
    leader.election.resign(&led).await.unwrap();
    assert!(timeout(TTL * 2, term(&mut candidate)).await.is_err(), "it does not campaign");
    candidate.set_gate(true);
    term(&mut candidate).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_renewed_frees_what_was_held_under_the_old_one() {
    let cluster = Cluster::new();
    let mut candidate = keeping(&cluster);
    let (locks, first) = (cluster.locks(), session(&mut candidate).await);
    let lock = locks.fenced(LockName::new("door").unwrap(), Config::default());
    let fence = lock.lock_and_get_fence(&mut first.context()).await.unwrap();
    candidate.renew();
    let second = session(&mut candidate).await;
    let mut context = second.context();
    let attended = async {
        loop {
            candidate.next().await;
        }
    };
    let again = tokio::select! {
        never = attended => never,
        again = lock.lock_and_get_fence(&mut context) => again.unwrap(),
    };
    assert!(again > fence);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_fence_base_is_told_and_tried_again_until_it_is_repaired() {
    let cluster = Cluster::new();
    drop(cluster.node("b").await.lead(1).await);
    cluster.delete(BASE).await;
    let mut candidate = candidate(&cluster);
    let refused = |news: &News<Faulty>| matches!(news, News::NotWon(CampaignError::FenceBase(_))).then_some(());
    next_change(&mut candidate, refused).await;
    assert!(candidate.obstacle().is_some_and(|what| what.contains("repair")), "{:?}", candidate.obstacle());
    let start = Instant::now();
    next_change(&mut candidate, refused).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "not as fast as the store can refuse it");
    cluster.locks().repair(None).await.unwrap();
    term(&mut candidate).await;
    assert_eq!(candidate.obstacle(), None);
}
