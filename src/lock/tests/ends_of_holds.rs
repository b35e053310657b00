//! How holds end when nobody unlocks as planned: lost answers, dropped futures and guards, signals, limits and delays.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use super::contexts::{Door, locked, queue_up};
use super::*;

/// Locks and unlocks while requests meet these faults; whatever was late arrives, and everything arrives once more.
async fn locks_through(faults: &[(Kind, Fault)]) {
    let door = Door::new();
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    for (kind, fault) in faults {
        door.cluster.store.expect(*kind, *fault);
    }
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    door.cluster.store.deliver().await;
    door.cluster.store.replay().await;
    assert_eq!(lock.lock_and_get_fence(&mut context).await.unwrap(), fence, "{faults:?}");
    lock.unlock(&mut context).await.unwrap();
    lock.unlock(&mut context).await.unwrap();
    door.cluster.store.deliver().await;
    door.cluster.store.replay().await;
    assert!(door.keys().await.is_empty(), "{faults:?}: {:?}", door.keys().await);
    let mut next = b.context();
    assert!(lock.lock_and_get_fence(&mut next).await.unwrap() > fence, "{faults:?}");
    door.cluster.store.replay().await;
    assert!(lock.is_locked_by(&mut next).await.unwrap(), "{faults:?}: another's hold is left alone");
}

const FAULTS: [Fault; 4] = [Fault::AnswerLost, Fault::Lost, Fault::Late, Fault::Unavailable];

#[tokio::test(start_paused = true)]
async fn lost_answers_neither_lock_twice_nor_release_another() {
    for first in FAULTS {
        for kind in [Kind::Look, Kind::Grant, Kind::Release] {
            locks_through(&[(kind, first)]).await;
        }
        for second in FAULTS {
            locks_through(&[(Kind::Grant, first), (Kind::Grant, second)]).await;
            locks_through(&[(Kind::Grant, first), (Kind::Look, second), (Kind::Release, first)]).await;
            locks_through(&[(Kind::Release, first), (Kind::Release, second)]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unlock_whose_answer_is_lost_is_known_for_done_though_another_was_settled_in_its_place() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let unlocking = async {
        door.cluster.store.expect(Kind::Release, Fault::AnswerLost);
        lock.unlock(&mut context).await
    };
    // While it pauses, before it asks again, a call of the same last byte is settled.
    let other = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let keys = Keys::prefix("/fencron/v1/test/settled/");
        let (entries, _) = door.cluster.store.inner().range_all(keys).await.unwrap();
        for entry in entries {
            door.cluster.put(&entry.key, r#"{"v":1,"call":"another"}"#).await;
        }
    };
    let (unlocked, ()) = tokio::join!(unlocking, other);
    unlocked.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unlock_that_was_taken_away_is_not_mistaken_for_done() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    door.cluster.store.expect(Kind::Release, Fault::Lost);
    let taken = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        door.cluster.delete("/fencron/v1/test/lock/door/owner").await;
    };
    let (unlocked, ()) = tokio::join!(lock.unlock(&mut context), taken);
    assert!(matches!(unlocked, Err(LockError::OwnershipLost { why: Lost::Taken, .. })), "{unlocked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_after_the_loss_takes_nothing() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    door.cluster.store.expect(Kind::Grant, Fault::Late);
    lock.lock(&mut context).await.unwrap();
    door.cluster.delete("/fencron/v1/test/lock/door/owner").await;
    assert!(matches!(lock.fence(&mut context).await, Err(LockError::OwnershipLost { .. })));
    assert_eq!(door.cluster.store.deliver().await, 0);
    assert!(!lock.is_locked().await.unwrap());
}

/// Otherwise the lock would be held by nobody, for as long as that session lives.
#[tokio::test(start_paused = true)]
async fn a_try_that_was_answered_no_does_not_lock_later() {
    for way in 0..2 {
        let door = Door::new();
        let (session, other) = (door.session("a").await, door.session("b").await);
        let (lock, mut context, mut holder) = (door.lock(), session.context(), other.context());
        door.cluster.store.expect(Kind::Grant, Fault::Late);
        let tries = async {
            if way == 0 {
                lock.try_lock(&mut context).await
            } else {
                lock.try_lock_for(&mut context, Duration::ZERO).await
            }
        };
        // While it pauses, before it looks again, another locks.
        let locks = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            door.lock().lock(&mut holder).await
        };
        let (tried, locked) = tokio::join!(tries, locks);
        locked.unwrap();
        assert!(!tried.unwrap() && door.cluster.store.all_met());
        lock.unlock(&mut holder).await.unwrap();
        assert_eq!(door.cluster.store.deliver().await, 0, "the late request takes nothing");
        assert!(!lock.is_locked().await.unwrap());
        assert!(door.keys().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_of_unlock_is_settled_by_the_next_call() {
    let door = Door::new();
    let (session, lock) = (door.session("a").await, door.lock());
    for again in 0..3 {
        let mut context = session.context();
        let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
        for _ in 0..10 {
            door.cluster.store.expect(Kind::Release, Fault::Late);
        }
        let unknown = lock.unlock(&mut context).await;
        assert!(matches!(unknown, Err(LockError::OutcomeUnknown { .. })), "{unknown:?}");
        match again {
            0 => lock.unlock(&mut context).await.unwrap(),
            1 => assert!(lock.lock_and_get_fence(&mut context).await.unwrap() > fence, "never the hold that ends"),
            _ => assert!(!lock.is_locked_by(&mut context).await.unwrap()),
        }
        door.cluster.store.deliver().await;
        assert_eq!(lock.lock_count(&mut context).await.unwrap(), u32::from(again == 1));
        if again == 1 {
            lock.unlock(&mut context).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_of_a_timed_lock_is_settled_by_the_next_call() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut one, mut other) = (door.lock(), session.context(), session.context());
    lock.lock(&mut one).await.unwrap();
    for _ in 0..40 {
        door.cluster.store.expect(Kind::Withdraw, Fault::Unavailable);
    }
    let unknown = lock.try_lock_for(&mut other, TTL).await;
    assert!(matches!(unknown, Err(LockError::OutcomeUnknown { .. })), "{unknown:?}");
    tokio::time::sleep(LONG).await;
    let settled = loop {
        match lock.is_locked_by(&mut other).await {
            Err(LockError::OutcomeUnknown { .. }) => {}
            settled => break settled,
        }
    };
    assert!(!settled.unwrap());
    assert_eq!(door.keys().await.len(), 1, "it does not wait any more");
}

#[tokio::test(start_paused = true)]
async fn try_lock_does_not_wait_for_a_store_that_is_away() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    for _ in 0..1000 {
        door.cluster.store.expect(Kind::Look, Fault::Unavailable);
    }
    let start = Instant::now();
    let refused = lock.try_lock(&mut context).await;
    assert!(matches!(refused, Err(LockError::Store(_))), "{refused:?}");
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lock_future_does_not_stay_in_the_queue() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut one, mut other) = (door.lock(), session.context(), session.context());
    lock.lock(&mut one).await.unwrap();
    assert!(timeout(TTL, lock.lock(&mut other)).await.is_err(), "it waits");
    let third = queue_up(&door, session.context()).await;
    lock.unlock(&mut one).await.unwrap();
    let (mut third, result) = locked(third).await;
    result.unwrap();
    lock.unlock(&mut third).await.unwrap();
    assert!(lock.try_lock(&mut other).await.unwrap(), "its context is as good as before");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_unlocks_and_one_that_is_unlocked_says_so() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    let guard = lock.guard(&mut context).await.unwrap();
    let first = guard.fence();
    drop(guard);
    let second = lock.guard(&mut context).await.unwrap();
    assert!(second.fence() > first && second.hold().fence() == second.fence());
    second.unlock().await.unwrap();
    assert!(!lock.is_locked_by(&mut context).await.unwrap());
    drop(lock.try_guard_for(&mut context, Duration::ZERO).await.unwrap().unwrap());
    let mut other = session.context();
    assert!(lock.try_lock_for(&mut other, TTL).await.unwrap());
    assert!(lock.try_guard_for(&mut context, TTL).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_unlock_whose_future_is_dropped_unlocks_all_the_same() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    {
        let mut unlocking = Box::pin(lock.unlock(&mut context));
        let done = poll_fn(|cx| Poll::Ready(unlocking.as_mut().poll(cx).is_ready())).await;
        assert!(!done, "a store takes longer than that");
    }
    assert!(lock.try_lock_for(&mut session.context(), TTL).await.unwrap(), "though the first does nothing any more");
    assert!(!lock.is_locked_by(&mut context).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_release_that_the_store_refuses_is_tried_again() {
    for (refusals, is_released) in [(3, true), (8, false)] {
        let door = Door::new();
        let session = door.session("a").await;
        let (lock, mut context) = (door.lock(), session.context());
        let guard = lock.guard(&mut context).await.unwrap();
        for _ in 0..refusals {
            door.cluster.store.expect(Kind::Release, Fault::Refused);
        }
        drop(guard);
        drop(context);
        let locked = lock.try_lock_for(&mut session.context(), TTL * 10).await.unwrap();
        assert_eq!(locked, is_released, "after {refusals} refusals");
        assert!(door.cluster.store.all_met());
    }
}

/// Where a hand has ended a hold, and all that was ever sent arrives once more: nobody holds the lock for good.
#[tokio::test(start_paused = true)]
async fn a_seizure_that_arrives_twice_holds_nothing_for_a_guard_that_was_dropped() {
    for by_force in [true, false] {
        let door = Door::new();
        let session = door.session("a").await;
        let (lock, mut context) = (door.lock(), session.context());
        let guard = lock.guard(&mut context).await.unwrap();
        match by_force {
            true => drop(lock.force_unlock().await.unwrap()),
            false => door.cluster.delete("/fencron/v1/test/lock/door/owner").await,
        }
        door.cluster.store.replay().await;
        assert_eq!(lock.is_locked().await.unwrap(), !by_force, "what was taken by force is over");
        drop(guard);
        drop(context);
        assert!(lock.try_lock_for(&mut session.context(), TTL).await.unwrap(), "by force: {by_force}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_is_not_said_to_be_released_however_often_that_is_asked() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let hold = lock.hold(&mut context).await.unwrap();
    lock.force_unlock().await.unwrap();
    for _ in 0..2 {
        assert!(!lock.contest.free(&hold).await.unwrap());
    }
    let lost = lock.unlock(&mut context).await;
    assert!(matches!(lost, Err(LockError::OwnershipLost { why: Lost::Taken, .. })), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_takes_back_its_own_lock_only() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    drop(lock.guard(&mut context).await.unwrap());
    assert_eq!(lock.lock_count(&mut context).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_signal_tells_why_a_hold_is_over() {
    for blow in 0..4 {
        let door = Door::with(Config { max_hold: Some(TTL * 10), ..Config::default() });
        let session = door.session("a").await;
        let (lock, mut context) = (door.lock(), session.context());
        assert!(lock.signal(&context).is_none());
        lock.lock(&mut context).await.unwrap();
        let signal = lock.signal(&context).unwrap();
        tokio::time::sleep(TTL).await;
        assert_eq!((signal.is_lost(), signal.token().is_cancelled()), (None, false));
        let start = Instant::now();
        let (expected, most) = match blow {
            0 => {
                lock.unlock(&mut context).await.unwrap();
                (Lost::Released, Duration::ZERO)
            }
            1 => {
                door.cluster.delete("/fencron/v1/test/lock/door/owner").await;
                (Lost::Taken, Duration::ZERO)
            }
            2 => {
                door.cluster.store.lose_keep_alives(true);
                (Lost::TrustLapsed, TTL - Timing::from_ttl(TTL).unwrap().margin())
            }
            _ => (Lost::HeldTooLong, TTL * 9),
        };
        assert_eq!(timeout(LONG, signal.lost()).await.unwrap(), expected);
        assert!(start.elapsed() <= most, "{expected:?} after {:?}", start.elapsed());
        timeout(LONG, signal.token().cancelled()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_lasts_too_long_is_released_and_its_holder_is_told_once() {
    let door = Door::with(Config { max_hold: Some(TTL), ..Config::default() });
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    let start = Instant::now();
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    let next = queue_up(&door, session.context()).await;
    assert!(locked(next).await.1.unwrap() > fence);
    assert_eq!(start.elapsed(), TTL);
    let lost = lock.unlock(&mut context).await;
    assert!(matches!(lost, Err(LockError::OwnershipLost { why: Lost::HeldTooLong, .. })), "{lost:?}");
    assert!(!lock.is_locked_by(&mut context).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_body_is_cancelled_when_its_lock_is_lost() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    let fence = lock.with_lock(&mut context, async |held| held.hold.fence()).await.unwrap();
    assert_eq!(lock.holder().await.unwrap(), None);
    assert!(lock.lock_and_get_fence(&mut context).await.unwrap() > fence);
    lock.unlock(&mut context).await.unwrap();
    assert!(!lock.is_locked().await.unwrap());
    let finished = Arc::new(AtomicBool::new(false));
    let body = async |_: &HeldLock| {
        door.cluster.delete("/fencron/v1/test/lock/door/owner").await;
        tokio::time::sleep(TTL).await;
        finished.store(true, Ordering::Relaxed);
    };
    let lost = lock.with_lock(&mut context, body).await;
    assert!(matches!(lost, Err(LockError::OwnershipLost { why: Lost::Taken, .. })), "{lost:?}");
    assert!(!finished.load(Ordering::Relaxed));
    assert!(!lock.is_locked_by(&mut context).await.unwrap(), "it is told once");
    lock.lock(&mut context).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crashed_holder_bars_the_lock_for_its_delay_and_leaves_nothing() {
    let delay = Duration::from_secs(30);
    let door = Door::with(Config { lock_delay: Some(delay), ..Config::default() });
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    lock.lock(&mut context).await.unwrap();
    tokio::time::sleep(TTL * 7).await;
    let waiter = queue_up(&door, b.context()).await;
    let start = Instant::now();
    drop(a);
    let (mut next, result) = locked(waiter).await;
    result.unwrap();
    let barred = start.elapsed().saturating_sub(TTL);
    assert!(
        barred >= delay - Duration::from_millis(3330),
        "{barred:?}: from when the lease can have ended at the latest"
    );
    assert!(start.elapsed() <= TTL + delay + Duration::from_millis(3330), "{:?}", start.elapsed());
    lock.unlock(&mut next).await.unwrap();
    assert!(door.keys().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_released_is_not_barred() {
    let door = Door::with(Config { lock_delay: Some(LONG), ..Config::default() });
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    lock.lock(&mut context).await.unwrap();
    let waiter = queue_up(&door, b.context()).await;
    let start = Instant::now();
    lock.unlock(&mut context).await.unwrap();
    locked(waiter).await.1.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    b.close().await.unwrap();
    assert!(lock.try_lock(&mut context).await.unwrap(), "nor after its session was closed");
}

/// Deletes the owner's key of a lock with a delay by hand, has `notice` called, and another session lock it.
async fn owner_deleted_under_a_delay(notice: impl AsyncFnOnce(FencedLock<Faulty>, &mut LockContext)) {
    let door = Door::with(Config { lock_delay: Some(Duration::from_secs(30)), ..Config::default() });
    let (a, b) = (door.session("a").await, door.session("b").await);
    let mut context = a.context();
    door.lock().lock(&mut context).await.unwrap();
    let waiter = queue_up(&door, b.context()).await;
    door.cluster.delete("/fencron/v1/test/lock/door/owner").await;
    notice(door.lock(), &mut context).await;
    locked(waiter).await.1.unwrap();
    assert!(a.trust().borrow().holds(door.cluster.clock.boot()), "its session goes on");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_deleted_by_hand_does_not_bar_the_lock_once_its_holder_notices() {
    owner_deleted_under_a_delay(async |lock, context| {
        let lost = lock.fence(context).await;
        assert!(matches!(lost, Err(LockError::OwnershipLost { why: Lost::Taken, .. })), "{lost:?}");
    })
    .await;
    owner_deleted_under_a_delay(async |lock, context| {
        let lost = lock.unlock(context).await;
        assert!(matches!(lost, Err(LockError::OwnershipLost { .. })), "{lost:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_withdrawn_takes_its_own_bar_away_and_no_other_of_its_session() {
    const BARRED: &str = "/fencron/v1/test/lock/door/barred";
    let door = Door::with(Config { lock_delay: Some(Duration::from_secs(30)), ..Config::default() });
    let (a, lock) = (door.session("a").await, door.lock());
    let (mut holds, mut asks) = (a.context(), a.context());
    lock.lock(&mut holds).await.unwrap();
    door.cluster.delete("/fencron/v1/test/lock/door/owner").await;
    assert!(!lock.try_lock_for(&mut asks, Duration::from_millis(100)).await.unwrap(), "it waits, and is withdrawn");
    assert!(door.cluster.entry(BARRED).await.is_some(), "the holder has not noticed yet");
    let lost = lock.fence(&mut holds).await;
    assert!(matches!(lost, Err(LockError::OwnershipLost { why: Lost::Taken, .. })), "{lost:?}");
    assert_eq!(door.cluster.entry(BARRED).await, None);

    // One that has won, and was lost before it was handed out, takes its own away.
    lock.lock(&mut holds).await.unwrap();
    let caller = holds.held[lock.key()].caller.clone();
    door.cluster.delete("/fencron/v1/test/lock/door/owner").await;
    lock.contest.withdraw(&caller).await.unwrap();
    assert_eq!(door.cluster.entry(BARRED).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_late_look_at_a_lost_hold_leaves_the_bar_of_a_session_that_has_ended() {
    let door = Door::with(Config { lock_delay: Some(Duration::from_secs(30)), ..Config::default() });
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    lock.lock(&mut context).await.unwrap();
    let hold = lock.hold(&mut context).await.unwrap();
    door.end(&a).await;
    lock.contest.free(&hold).await.unwrap();
    assert!(!lock.try_lock(&mut b.context()).await.unwrap(), "its delay counts from the end of the session");
}

#[tokio::test(start_paused = true)]
async fn a_delay_whose_lease_has_ended_is_made_anew() {
    let delay = Duration::from_secs(30);
    let door = Door::with(Config { lock_delay: Some(delay), ..Config::default() });
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let lease = door.cluster.entry("/fencron/v1/test/lock/door/barred").await.unwrap().lease.unwrap();
    lock.unlock(&mut context).await.unwrap();
    door.cluster.store.revoke(lease).await.unwrap();
    lock.lock(&mut context).await.unwrap();
    assert_ne!(door.cluster.entry("/fencron/v1/test/lock/door/barred").await.unwrap().lease, Some(lease));
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_older_than_the_history_is_watched_without_haste() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let signal = lock.signal(&context).expect("it holds the lock");
    let store = door.cluster.store.inner();
    for _ in 0..3 {
        door.cluster.put("/other", "").await;
    }
    store.compact(store.range(Range::of(Keys::one("/other"))).await.unwrap().revision);
    tokio::task::yield_now().await;
    door.cluster.store.traffic();
    // In steps, so that a watcher in a hurry cannot keep the time from going on.
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    let watches = door.cluster.store.traffic().watches;
    assert!((2..=6).contains(&watches), "{watches} in 20 s");
    lock.force_unlock().await.unwrap();
    assert_eq!(timeout(LONG, signal.lost()).await.unwrap(), Lost::Taken);
}
