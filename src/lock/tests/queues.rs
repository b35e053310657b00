//! Those who wait next_change at once of whoever goes before them.

use std::future::poll_fn;
use std::task::Poll;

use super::contexts::{Door, locked, queue_up};
use super::*;

/// As long as nothing waits for [`RECHECK_EVERY`](crate::lock::contest::RECHECK_EVERY).
const AT_ONCE: Duration = Duration::from_secs(1);

/// How many requests are sent, in steps, so that who never pauses cannot keep the time from going on.
pub async fn commits_in_20_s(cluster: &Cluster) -> usize {
    cluster.store.traffic();
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    cluster.store.traffic().commits
}

#[tokio::test(start_paused = true)]
async fn who_went_before_it_was_in_the_queue_does_not_keep_a_waiter() {
    let door = Door::new();
    let (holder, waiter, late) = (door.session("a").await, door.session("b").await, door.session("c").await);
    let (lock, mut held) = (door.lock(), holder.context());
    lock.lock(&mut held).await.unwrap();
    let waiting = queue_up(&door, waiter.context()).await;
    door.cluster.store.traffic();

    // It has looked who is before it, and what puts it into the queue is on its way.
    let mut context = late.context();
    let mut locking = Box::pin(lock.lock_and_get_fence(&mut context));
    while door.cluster.store.traffic().commits == 0 {
        let done = poll_fn(|cx| Poll::Ready(locking.as_mut().poll(cx).is_ready())).await;
        assert!(!done, "somebody is before it");
    }
    let queue: Vec<_> = door.keys().await.into_iter().filter(|key| key.contains("/wait/")).collect();
    assert_eq!(queue.len(), 1, "{queue:?}");
    door.cluster.delete(&queue[0]).await;
    waiting.abort();

    let began = Instant::now();
    let (fence, unlocked) = tokio::join!(locking, lock.unlock(&mut held));
    unlocked.unwrap();
    fence.unwrap();
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_bar_that_ended_before_it_was_in_the_queue_does_not_keep_a_waiter() {
    let lock_delay = Some(Duration::from_secs(60));
    let door = Door::with(Config { lock_delay, ..Config::default() });
    let (crashed, late) = (door.session("a").await, door.session("b").await);
    let (lock, mut held) = (door.lock(), crashed.context());
    lock.lock(&mut held).await.unwrap();
    door.end(&crashed).await;
    door.cluster.store.traffic();

    // It has looked, and what puts it into the queue is on its way.
    let mut context = late.context();
    let mut locking = Box::pin(lock.lock_and_get_fence(&mut context));
    while door.cluster.store.traffic().commits == 0 {
        let done = poll_fn(|cx| Poll::Ready(locking.as_mut().poll(cx).is_ready())).await;
        assert!(!done, "the lock is barred");
    }
    let keys = door.keys().await;
    assert!(keys.len() == 1 && keys[0].ends_with("/barred"), "{keys:?}");
    door.cluster.delete(&keys[0]).await;

    let began = Instant::now();
    locking.await.unwrap();
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_place_that_a_hand_has_written_over_is_waited_for_without_haste() {
    let door = Door::new();
    let (holder, waiter) = (door.session("a").await, door.session("b").await);
    let (lock, mut held) = (door.lock(), holder.context());
    lock.lock(&mut held).await.unwrap();
    let stray = "/fencron/v1/test/lock/door/wait/by-hand";
    door.cluster.put(stray, "").await;
    let waiting = queue_up(&door, waiter.context()).await;
    // It stands where it stood, and was written later than the place behind it.
    door.cluster.put(stray, "").await;
    lock.unlock(&mut held).await.unwrap();
    let commits = commits_in_20_s(&door.cluster).await;
    assert!(commits <= 20, "{commits} in 20 s");
    assert!(!waiting.is_finished(), "somebody is before it");
    door.cluster.delete(stray).await;
    locked(waiting).await.1.unwrap();
}
