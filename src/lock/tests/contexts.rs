//! Every method of a lock, and every error: what Hazelcast's table has, and what it lacks.

use std::num::NonZeroU32;

use super::*;
use crate::fence::Fence;

/// A store with one lock in it, and the sessions whose contexts contend.
pub struct Door {
    pub cluster: Cluster,
    pub config: Config,
}

impl Door {
    pub fn new() -> Door {
        Door::with(Config::default())
    }

    pub fn with(config: Config) -> Door {
        Door { cluster: Cluster::new(), config }
    }

    pub fn lock(&self) -> FencedLock<Faulty> {
        self.cluster.locks().fenced(LockName::new("door").unwrap(), self.config)
    }

    pub async fn session(&self, node: &str) -> Session<Faulty> {
        self.cluster.node(node).await.session
    }

    pub async fn end(&self, session: &Session<Faulty>) {
        self.cluster.store.revoke(session.lease()).await.unwrap();
        assert_eq!(timeout(LONG, session.ended()).await.unwrap(), SessionEnd::Refused);
    }

    /// How many keys the store has of locks.
    pub async fn keys(&self) -> Vec<String> {
        let keys = Namespace::new("test").unwrap().locks();
        let (entries, _) = self.cluster.store.inner().range_all(keys).await.unwrap();
        entries.into_iter().map(|entry| entry.key).collect()
    }
}

/// Locks in the background; on return it is in the queue.
pub async fn queue_up(door: &Door, mut context: LockContext) -> JoinHandle<(LockContext, Result<Fence, LockError>)> {
    let lock = door.lock();
    let waits = |keys: Vec<String>| keys.iter().filter(|key| key.contains("/wait/")).count();
    let before = waits(door.keys().await);
    let task = tokio::spawn(async move {
        let fence = lock.lock_and_get_fence(&mut context).await;
        (context, fence)
    });
    while waits(door.keys().await) == before {
        tokio::task::yield_now().await;
    }
    task
}

pub async fn locked(
    task: JoinHandle<(LockContext, Result<Fence, LockError>)>,
) -> (LockContext, Result<Fence, LockError>) {
    timeout(LONG, task).await.expect("it ends in time").unwrap()
}

#[tokio::test(start_paused = true)]
async fn lock_and_get_fence_answers_the_same_fence_again_and_a_greater_one_for_a_new_hold() {
    let door = Door::new();
    let (session, lock) = (door.session("a").await, door.lock());
    let mut context = session.context();
    let first = lock.lock_and_get_fence(&mut context).await.unwrap();
    assert_eq!(lock.lock_and_get_fence(&mut context).await.unwrap(), first);
    assert_eq!(lock.try_lock_and_get_fence(&mut context).await.unwrap(), Some(first));
    assert_eq!(lock.try_lock_for_and_get_fence(&mut context, TTL).await.unwrap(), Some(first));
    for _ in 0..4 {
        lock.unlock(&mut context).await.unwrap();
    }
    assert!(lock.lock_and_get_fence(&mut context).await.unwrap() > first);
}

#[tokio::test(start_paused = true)]
async fn lock_waits_until_the_last_unlock_and_follows_at_once() {
    let door = Door::new();
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    lock.lock(&mut context).await.unwrap();
    let first = lock.lock_and_get_fence(&mut context).await.unwrap();
    let waiter = queue_up(&door, b.context()).await;
    lock.unlock(&mut context).await.unwrap();
    tokio::time::sleep(TTL).await;
    assert!(!waiter.is_finished(), "it is still locked once");
    let start = Instant::now();
    lock.unlock(&mut context).await.unwrap();
    assert!(locked(waiter).await.1.unwrap() > first);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn two_contexts_of_one_session_keep_each_other_out() {
    let door = Door::new();
    let (session, lock) = (door.session("a").await, door.lock());
    let (mut one, mut other) = (session.context(), session.context());
    lock.lock(&mut one).await.unwrap();
    assert!(!lock.try_lock(&mut other).await.unwrap());
    assert!(matches!(lock.unlock(&mut other).await, Err(LockError::NotTheOwner { .. })));
    assert!(!lock.is_locked_by(&mut other).await.unwrap());
    assert!(lock.is_locked_by(&mut one).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_came_first_locks_first() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let mut queue = Vec::new();
    for _ in 0..5 {
        queue.push(queue_up(&door, session.context()).await);
    }
    for waiter in queue {
        assert!(!lock.try_lock(&mut session.context()).await.unwrap(), "nobody gets ahead");
        lock.unlock(&mut context).await.unwrap();
        context = locked(waiter).await.0;
    }
}

#[tokio::test(start_paused = true)]
async fn try_lock_does_not_wait_and_does_not_get_ahead_of_those_who_do() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut one, mut other) = (door.lock(), session.context(), session.context());
    let start = Instant::now();
    assert!(lock.try_lock(&mut one).await.unwrap());
    assert!(!lock.try_lock(&mut other).await.unwrap());
    assert_eq!(lock.try_lock_and_get_fence(&mut other).await.unwrap(), None);
    assert!(!lock.try_lock_for(&mut other, Duration::ZERO).await.unwrap());
    assert_eq!(start.elapsed(), Duration::ZERO);
    lock.unlock(&mut one).await.unwrap();
    // A place in the queue, as of somebody who is about to take the lock.
    let key = format!("/fencron/v1/test/lock/door/wait/{}", call(9));
    let put = Txn::new().then(Op::put_leased(key, "{}", session.lease()));
    door.cluster.store.inner().commit(put).await.unwrap();
    assert!(!lock.try_lock(&mut other).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn try_lock_for_waits_so_long_and_leaves_the_queue() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut one, mut other) = (door.lock(), session.context(), session.context());
    lock.lock(&mut one).await.unwrap();
    let start = Instant::now();
    assert!(!lock.try_lock_for(&mut other, Duration::from_secs(7)).await.unwrap());
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    assert_eq!(door.keys().await, ["/fencron/v1/test/lock/door/owner"]);
    let held = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        lock.unlock(&mut one).await.unwrap();
    });
    assert!(door.lock().try_lock_for_and_get_fence(&mut other, TTL).await.unwrap().is_some());
    held.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn unlock_by_who_does_not_hold_the_lock_says_not_the_owner() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    assert!(matches!(lock.unlock(&mut context).await, Err(LockError::NotTheOwner { .. })), "never locked");
    lock.lock(&mut context).await.unwrap();
    lock.unlock(&mut context).await.unwrap();
    assert!(matches!(lock.unlock(&mut context).await, Err(LockError::NotTheOwner { .. })), "unlocked twice");
}

#[tokio::test(start_paused = true)]
async fn fence_is_that_of_the_hold_or_says_not_the_owner() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    assert!(matches!(lock.fence(&mut context).await, Err(LockError::NotTheOwner { .. })));
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    assert_eq!(lock.fence(&mut context).await.unwrap(), fence);
    let hold = lock.hold(&mut context).await.unwrap();
    assert_eq!((hold.fence(), hold.scope().as_str()), (fence, "test/lock/door"));
    let stamp = hold.stamp("a", "deploy-7", Wall::EPOCH);
    assert_eq!((stamp.namespace.as_str(), stamp.fence, stamp.scope), ("test", fence, hold.scope().clone()));
}

#[tokio::test(start_paused = true)]
async fn is_locked_is_locked_by_and_lock_count_tell_how_it_is() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut one, mut other) = (door.lock(), session.context(), session.context());
    assert!(!lock.is_locked().await.unwrap() && !lock.is_locked_by(&mut one).await.unwrap());
    assert_eq!(lock.lock_count(&mut one).await.unwrap(), 0);
    lock.lock(&mut one).await.unwrap();
    lock.lock(&mut one).await.unwrap();
    assert!(lock.is_locked().await.unwrap() && lock.is_locked_by(&mut one).await.unwrap());
    assert_eq!(lock.lock_count(&mut one).await.unwrap(), 2);
    assert_eq!(lock.lock_count(&mut other).await.unwrap(), 0, "what the context itself has");
    lock.unlock(&mut one).await.unwrap();
    assert_eq!(lock.lock_count(&mut one).await.unwrap(), 1);
    assert_eq!(lock.holder().await.unwrap().unwrap().node, "a");
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_reached_at_once_and_the_lock_stays_held() {
    for (reentrancy, limit) in [(Reentrancy::Limit(NonZeroU32::new(2).unwrap()), 2), (Reentrancy::No, 1)] {
        let door = Door::with(Config { reentrancy, ..Config::default() });
        let session = door.session("a").await;
        let (lock, mut context) = (door.lock(), session.context());
        for _ in 0..limit {
            lock.lock(&mut context).await.unwrap();
        }
        let start = Instant::now();
        let refused = lock.lock(&mut context).await;
        assert!(matches!(refused, Err(LockError::LimitReached { limit: found, .. }) if found == limit), "{refused:?}");
        assert!(!lock.try_lock(&mut context).await.unwrap());
        assert!(!lock.try_lock_for(&mut context, LONG).await.unwrap());
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(lock.lock_count(&mut context).await.unwrap(), limit);
    }
}

/// What a context may do that believes it holds the lock.
async fn operation(number: u8, lock: &FencedLock<Faulty>, context: &mut LockContext) -> Result<(), LockError> {
    match number {
        0 => lock.lock(context).await,
        1 => lock.try_lock(context).await.map(drop),
        2 => lock.try_lock_for(context, TTL).await.map(drop),
        3 => lock.unlock(context).await,
        4 => lock.fence(context).await.map(drop),
        5 => lock.is_locked_by(context).await.map(drop),
        6 => lock.lock_count(context).await.map(drop),
        _ => lock.lock_and_get_fence(context).await.map(drop),
    }
}

#[tokio::test(start_paused = true)]
async fn ownership_lost_is_told_once_by_whatever_comes_first() {
    for number in 0..8 {
        for count in 1..3 {
            let door = Door::new();
            let session = door.session("a").await;
            let (lock, mut context) = (door.lock(), session.context());
            for _ in 0..count {
                lock.lock(&mut context).await.unwrap();
            }
            door.cluster.delete("/fencron/v1/test/lock/door/owner").await;
            let lost = operation(number, &lock, &mut context).await;
            assert!(matches!(lost, Err(LockError::OwnershipLost { why: Lost::Taken, .. })), "{number}: {lost:?}");
            assert!(!lock.is_locked_by(&mut context).await.unwrap(), "{number}: it is told once");
            assert!(lock.try_lock(&mut context).await.unwrap(), "{number}: as fresh as any other");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ownership_lost_with_the_session_is_told_once_and_then_session_lost() {
    for number in 0..8 {
        let door = Door::new();
        let (session, next) = (door.session("a").await, door.session("b").await);
        let (lock, mut context) = (door.lock(), session.context());
        let first = lock.lock_and_get_fence(&mut context).await.unwrap();
        door.end(&session).await;
        let lost = operation(number, &lock, &mut context).await;
        let Err(LockError::OwnershipLost { fence, why, .. }) = lost else { panic!("{number}: {lost:?}") };
        assert_eq!((fence, why), (first, Lost::SessionEnded(SessionEnd::Refused)));
        let refused = lock.lock(&mut context).await;
        assert!(
            matches!(refused, Err(LockError::SessionLost { why: Lost::SessionEnded(SessionEnd::Refused) })),
            "{number}: {refused:?}"
        );
        context.move_to(&next);
        assert!(lock.lock_and_get_fence(&mut context).await.unwrap() > first, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_context_moved_before_it_was_told_is_told_all_the_same() {
    let door = Door::new();
    let (session, next) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    door.end(&session).await;
    context.move_to(&next);
    assert!(matches!(lock.lock(&mut context).await, Err(LockError::OwnershipLost { .. })));
    lock.lock(&mut context).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_lost_while_waiting_ends_the_wait() {
    let door = Door::new();
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    lock.lock(&mut context).await.unwrap();
    let waiter = queue_up(&door, b.context()).await;
    door.cluster.store.revoke(b.lease()).await.unwrap();
    let (mut waiter, result) = locked(waiter).await;
    assert!(matches!(result, Err(LockError::SessionLost { .. })), "{result:?}");
    assert!(!matches!(lock.unlock(&mut waiter).await, Ok(())));
    assert!(lock.is_locked_by(&mut context).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_says_so_and_leaves_the_queue() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let waiting = session.context();
    let canceller = waiting.canceller();
    let waiter = queue_up(&door, waiting).await;
    canceller.cancel();
    let (mut waiting, result) = locked(waiter).await;
    assert!(matches!(result, Err(LockError::WaitCancelled { .. })), "{result:?}");
    assert_eq!(door.keys().await.len(), 1);
    waiting.canceller().cancel();
    assert!(!lock.try_lock_for(&mut waiting, LONG).await.unwrap(), "one that is to come is cancelled as well");
    lock.unlock(&mut context).await.unwrap();
    assert!(lock.try_lock(&mut waiting).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn destroy_is_told_to_holders_waiters_and_later_calls_and_leaves_nothing() {
    let door = Door::new();
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    let waiter = queue_up(&door, b.context()).await;
    let destroyer = door.lock();
    destroyer.destroy().await.unwrap();
    let destroyed = |result: Result<Fence, LockError>| matches!(result, Err(LockError::LockDestroyed { .. }));
    assert!(destroyed(locked(waiter).await.1), "who waits");
    assert!(destroyed(lock.fence(&mut context).await), "who holds it");
    assert!(destroyed(lock.lock_and_get_fence(&mut context).await), "for good");
    assert!(destroyed(destroyer.lock_and_get_fence(&mut context).await));
    assert!(destroyed(door.lock().lock_and_get_fence(&mut b.context()).await), "who comes soon after");
    assert!(matches!(lock.is_locked().await, Err(LockError::LockDestroyed { .. })));
    tokio::time::sleep(DESTROYED_SHOWS).await;
    assert_eq!(door.keys().await, [""; 0]);
    assert!(door.lock().lock_and_get_fence(&mut b.context()).await.unwrap() > fence, "a new lock of the same name");
    assert!(destroyed(lock.lock_and_get_fence(&mut context).await), "the old handle");
}

#[tokio::test(start_paused = true)]
async fn a_lock_taken_away_by_force_is_free_and_its_holder_is_told() {
    let door = Door::with(Config { lock_delay: Some(LONG), ..Config::default() });
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    assert_eq!(lock.force_unlock().await.unwrap().map(|holder| holder.fence), Some(fence));
    assert_eq!(lock.force_unlock().await.unwrap(), None);
    assert!(matches!(lock.unlock(&mut context).await, Err(LockError::OwnershipLost { .. })));
    assert!(lock.try_lock_and_get_fence(&mut session.context()).await.unwrap().unwrap() > fence);
}

#[tokio::test(start_paused = true)]
async fn progress_tells_who_holds_the_lock_and_how_many_are_before() {
    let door = Door::new();
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    let first = queue_up(&door, b.context()).await;
    let waiting = b.context();
    let mut progress = waiting.progress();
    let second = queue_up(&door, waiting).await;
    let told = |ahead, fence: Fence| {
        move |told: &Option<Progress>| {
            let holder = |told: &Progress| told.holder.as_ref().is_some_and(|holder| holder.fence == fence);
            told.as_ref().is_some_and(|told| told.ahead == Some(ahead) && holder(told))
        }
    };
    let seen = timeout(LONG, progress.wait_for(told(1, fence))).await.unwrap().unwrap().clone().unwrap();
    assert_eq!((seen.waiting, seen.holder.unwrap().node.as_str()), (2, "a"));
    lock.unlock(&mut context).await.unwrap();
    let (mut context, next) = locked(first).await;
    timeout(LONG, progress.wait_for(told(0, next.unwrap()))).await.unwrap().unwrap();
    lock.unlock(&mut context).await.unwrap();
    locked(second).await.1.unwrap();
}
