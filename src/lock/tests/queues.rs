//! Those who wait hear at once of whoever goes before them.

use std::future::poll_fn;
use std::task::Poll;

use super::contexts::{Door, queue_up};
use super::*;

/// As long as nothing waits for [`RECHECK_EVERY`](crate::lock::contest::RECHECK_EVERY).
const AT_ONCE: Duration = Duration::from_secs(1);

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
