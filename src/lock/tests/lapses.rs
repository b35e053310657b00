//! A process stands still between the store's answer and the step that hands out what was won. By the time that it goes on,
//! its trust is over, and neither its keep-alive nor its signals have had a turn to say so.

use std::path::Path;
use std::task::Poll;

use super::contexts::Door;
use super::*;
use crate::elected::Elected;

/// Which transaction of a call for a lock is answered while the process stands still.
const TURNS: [&[(Kind, Fault)]; 2] = [
    &[(Kind::Grant, Fault::StandsStill)],
    // Its own earlier request has won already.
    &[(Kind::Grant, Fault::AnswerLost), (Kind::Look, Fault::StandsStill)],
];

fn expect(cluster: &Cluster, turns: &[(Kind, Fault)]) {
    // The first look is the one before the grant.
    let looks = turns.iter().filter(|(kind, _)| *kind == Kind::Look).count();
    assert!(looks <= 1);
    for (kind, fault) in turns {
        cluster.store.expect(*kind, *fault);
    }
}

/// Until the keep-alive has had its turn again, and is acknowledged.
async fn trust_comes_back(cluster: &Cluster, session: &Session<Faulty>) {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(session.trust().borrow().holds(cluster.clock.boot()), "a lapse is no end");
}

/// The lock is free, and the session goes on: the same context locks again.
async fn is_free_again(door: &Door, session: &Session<Faulty>) {
    assert_eq!(door.keys().await, [""; 0]);
    trust_comes_back(&door.cluster, session).await;
    let lock = door.lock();
    let mut context = session.context();
    lock.lock(&mut context).await.unwrap();
    lock.unlock(&mut context).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_not_handed_out_after_its_trust_has_ended() {
    for turns in TURNS {
        for way in 0..6 {
            let door = Door::new();
            let session = door.session("a").await;
            let (lock, mut context) = (door.lock(), session.context());
            if turns.len() > 1 {
                door.cluster.store.expect(Kind::Look, Fault::Lost);
            }
            expect(&door.cluster, turns);
            let answered = match way {
                0 => lock.lock_and_get_fence(&mut context).await.map(drop),
                1 => lock.try_lock_for_and_get_fence(&mut context, LONG).await.map(drop),
                2 => lock.try_lock_and_get_fence(&mut context).await.map(drop),
                3 => lock.guard(&mut context).await.map(drop),
                4 => lock.try_guard_for(&mut context, LONG).await.map(drop),
                _ => lock.with_lock(&mut context, async |_: &HeldLock| panic!("it is not run")).await,
            };
            let lost = matches!(answered, Err(LockError::SessionLost { why: Lost::TrustLapsed }));
            assert!(lost && door.cluster.store.all_met(), "{turns:?}, {way}: {answered:?}");
            assert!(lock.signal(&context).is_none());
            is_free_again(&door, &session).await;
            assert!(lock.try_lock(&mut context).await.unwrap(), "the context is as good as before");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_not_said_to_be_held_after_its_trust_has_ended() {
    for way in 0..8 {
        let door = Door::new();
        let session = door.session("a").await;
        let (lock, mut context) = (door.lock(), session.context());
        let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
        lock.lock(&mut context).await.unwrap();
        door.cluster.store.expect(Kind::Look, Fault::StandsStill);
        let answered = match way {
            0 => lock.lock(&mut context).await,
            1 => lock.try_lock(&mut context).await.map(drop),
            2 => lock.try_lock_for(&mut context, LONG).await.map(drop),
            3 => lock.unlock(&mut context).await,
            4 => lock.fence(&mut context).await.map(drop),
            5 => lock.hold(&mut context).await.map(drop),
            6 => lock.is_locked_by(&mut context).await.map(drop),
            _ => lock.lock_count(&mut context).await.map(drop),
        };
        assert!(
            matches!(answered, Err(LockError::OwnershipLost { fence: of, why: Lost::TrustLapsed, .. }) if of == fence),
            "{way}: {answered:?}"
        );
        is_free_again(&door, &session).await;
        assert_eq!(lock.lock_count(&mut context).await.unwrap(), 0, "it is told once");
        assert!(lock.lock_and_get_fence(&mut context).await.unwrap() > fence);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_by_a_lapse_is_given_back_though_the_store_is_away_or_the_future_is_dropped() {
    for dropped in [false, true] {
        let door = Door::new();
        let (session, other) = (door.session("a").await, door.session("b").await);
        let (lock, mut context) = (door.lock(), session.context());
        lock.lock(&mut context).await.unwrap();
        door.cluster.store.expect(Kind::Look, Fault::StandsStill);
        for _ in 0..5 {
            door.cluster.store.expect(Kind::Withdraw, Fault::Unavailable);
        }
        let asked = timeout(Duration::from_millis(if dropped { 10 } else { 60_000 }), lock.fence(&mut context)).await;
        assert_eq!(asked.is_err(), dropped, "{asked:?}");
        trust_comes_back(&door.cluster, &other).await;
        assert!(lock.try_lock_for(&mut other.context(), Duration::from_secs(5)).await.unwrap(), "{dropped}");
        if dropped {
            let told = lock.lock(&mut context).await;
            assert!(matches!(told, Err(LockError::OwnershipLost { why: Lost::TrustLapsed, .. })), "{told:?}");
        }
        assert_eq!(lock.lock_count(&mut context).await.unwrap(), 0, "it is told once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_term_is_not_handed_out_after_its_trust_has_ended() {
    for turns in TURNS {
        let cluster = Cluster::new();
        let node = cluster.node("a").await;
        if turns.len() > 1 {
            cluster.store.expect(Kind::Look, Fault::Lost);
        }
        expect(&cluster, turns);
        let refused = node.fails(1).await;
        assert!(matches!(refused, CampaignError::TrustLapsed) && cluster.store.all_met(), "{turns:?}: {refused:?}");
        assert_eq!(cluster.entry(OWNER).await, None, "{turns:?}");
        trust_comes_back(&cluster, &node.session).await;
        cluster.store.expect(Kind::Grant, Fault::StandsStill);
        let led = node.election.lead(&node.session, async |_: &Term, _: &HoldSignal| panic!("it does not lead"));
        let led: Result<(), _> = timeout(LONG, led).await.unwrap();
        assert!(matches!(led, Err(CampaignError::TrustLapsed)), "{led:?}");
        trust_comes_back(&cluster, &node.session).await;
        node.lead(2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn permits_are_not_handed_out_after_their_trust_has_ended() {
    for way in 0..3 {
        for turns in TURNS {
            let cluster = Cluster::new();
            let session = cluster.node("a").await.session;
            let semaphore = cluster.locks().semaphore(LockName::new("gpu").unwrap(), 2);
            semaphore.acquire(&session, 1).await.unwrap().release().await.unwrap();
            if turns.len() > 1 {
                cluster.store.expect(Kind::Look, Fault::Lost);
            }
            expect(&cluster, turns);
            let answered = match way {
                0 => semaphore.acquire(&session, 2).await.map(Some),
                1 => semaphore.try_acquire(&session, 2).await,
                _ => semaphore.acquire_within(&session, 2, LONG).await,
            };
            let lost = matches!(answered, Err(SemaphoreError::SessionLost { why: Lost::TrustLapsed }));
            assert!(lost && cluster.store.all_met(), "{way}, {turns:?}: {answered:?}");
            assert_eq!(semaphore.state().await.unwrap().available(), 2);
            trust_comes_back(&cluster, &session).await;
            assert_eq!(semaphore.acquire(&session, 2).await.unwrap().count(), 2);
        }
    }
}

/// The disk takes its time, and by the time that what was seen is saved the trust is over.
#[tokio::test(start_paused = true)]
async fn what_is_saved_before_a_hold_is_handed_out_is_no_reason_to_hand_it_out_late() {
    let state = tempfile::tempdir().unwrap();
    let written = |state: &Path| state.read_dir().is_ok_and(|mut files| files.next().is_some());
    let (start, watched) = (Instant::now(), state.path().to_owned());
    let clock = Clock::from_fn(move || {
        let slow = if written(&watched) { faulty::STANDSTILL } else { Duration::ZERO };
        (Boot::from_duration(start.elapsed() + slow), Wall::EPOCH)
    });
    let cluster = Cluster { store: Faulty::new(MemoryStore::new(clock.clone())), clock };
    let namespace = Namespace::new("test").unwrap();
    for way in 0..2 {
        let locks = cluster.locks().kept_in(SeenFile::new(state.path(), &format!("memory:{way}"), &namespace));
        for file in state.path().read_dir().unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        let node = Node::open(&locks, "a").await;
        if way == 0 {
            assert!(matches!(node.fails(1).await, CampaignError::TrustLapsed));
        } else {
            let lock = locks.fenced(LockName::new("door").unwrap(), Config::default());
            let refused = lock.lock(&mut node.session.context()).await;
            assert!(matches!(refused, Err(LockError::SessionLost { why: Lost::TrustLapsed })), "{refused:?}");
        }
        assert!(written(state.path()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_is_asked_tells_of_a_lapse_at_once_and_for_good() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let signal = lock.signal(&context).unwrap();
    assert_eq!(signal.is_lost(), None);
    door.cluster.store.stand_still();
    assert_eq!((signal.is_lost(), signal.token().is_cancelled()), (Some(Lost::TrustLapsed), true));
    trust_comes_back(&door.cluster, &session).await;
    assert_eq!(signal.is_lost(), Some(Lost::TrustLapsed));
    assert_eq!(timeout(LONG, signal.lost()).await.unwrap(), Lost::TrustLapsed);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_signal_is_answered_at_once_after_a_lapse() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let signal = lock.signal(&context).unwrap();
    let mut waiting = std::pin::pin!(signal.lost());
    assert_eq!(futures_util::poll!(&mut waiting), Poll::Pending);
    door.cluster.store.stand_still();
    // Nothing that watches the hold has had a turn.
    assert_eq!(futures_util::poll!(std::pin::pin!(signal.lost())), Poll::Ready(Lost::TrustLapsed));
}

/// In real time, with the keep-alive on its thread, as services have it.
#[tokio::test]
async fn an_occurrence_is_not_handed_out_after_its_trust_has_ended_and_is_not_lost_by_that() {
    let standstill = Arc::new(AtomicU64::new(0));
    let (system, added) = (Clock::system(), Arc::clone(&standstill));
    let clock = Clock::from_fn(move || {
        let added = Duration::from_millis(added.load(Ordering::SeqCst));
        (system.boot().plus(added), system.wall())
    });
    let store = Faulty::standing_still(MemoryStore::new(clock.clone()), standstill);
    let locks = Locks::new(store.clone(), clock, Namespace::new("test").unwrap(), Seen::default());
    let instance = Elected::start(&locks, LockName::new("reports").unwrap(), "a", Timing::from_ttl(TTL).unwrap());
    let mut terms = instance.terms();
    let before = timeout(LONG, terms.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    let job = instance.job("nightly").unwrap();
    store.expect(Kind::Other, Fault::StandsStill);
    let claimed = job.claim(Wall::EPOCH).await.unwrap().expect("no other instance can have done it");
    assert!(before.signal.is_cancelled());
    assert!(claimed.fence() > before.term.fence(), "it is done under a term that may be acted on");
    assert!(!claimed.signal().is_cancelled());
    drop(claimed);
    assert!(job.claim(Wall::EPOCH).await.unwrap().is_none());
    instance.stop(TTL).await;
}

#[test]
fn whoever_got_nothing_for_a_lapse_is_told_to_try_again_and_not_to_open_another_session() {
    let lapsed = [
        LockError::SessionLost { why: Lost::TrustLapsed }.to_string(),
        SemaphoreError::SessionLost { why: Lost::TrustLapsed }.to_string(),
    ];
    for told in lapsed {
        assert!(told.ends_with("the session may go on, so try again"), "{told}");
    }
}
