//! What locks cost the store, counted: round trips, what is watched and what is read.

use tokio::sync::mpsc;

use super::contexts::{Door, locked, queue_up};
use super::faulty::Traffic;
use super::*;
use crate::fence::Fence;

/// How many wait, and over how many hand-overs the work is counted.
const CROWDS: [usize; 3] = [10, 100, 1000];
const HAND_OVERS: usize = 5;

#[tokio::test(start_paused = true)]
async fn an_uncontended_lock_takes_two_round_trips_and_its_unlock_one() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    for _ in 0..3 {
        door.cluster.store.traffic();
        lock.lock(&mut context).await.unwrap();
        let locking = door.cluster.store.traffic();
        assert_eq!((locking.commits, locking.watches), (2, 0));
        lock.unlock(&mut context).await.unwrap();
        let unlocking = door.cluster.store.traffic();
        assert_eq!((unlocking.commits, unlocking.watches), (1, 0));
    }
}

/// Waits until nobody has anything to do any more but to wait: each turn of this task gives all others one.
async fn at_rest(cluster: &Cluster) {
    const TURNS: usize = 50;
    loop {
        let before = cluster.store.peek();
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        if cluster.store.peek() == before {
            return;
        }
    }
}

/// Counts what hand-overs cost among so many who wait.
async fn hand_overs_of_a_lock(waiters: usize) -> Traffic {
    let door = Door::new();
    let (session, lock) = (door.session("a").await, door.lock());
    let mut context = session.context();
    lock.lock(&mut context).await.unwrap();
    let (got, mut next) = mpsc::unbounded_channel::<(LockContext, Fence)>();
    for _ in 0..waiters {
        let (got, lock, mut context) = (got.clone(), lock.clone(), session.context());
        tokio::spawn(async move {
            // Those whose turn does not come end with their session.
            let Ok(fence) = lock.lock_and_get_fence(&mut context).await else { return };
            got.send((context, fence)).ok();
        });
    }
    let (start, mut last) = (Instant::now(), lock.fence(&mut context).await.unwrap());
    at_rest(&door.cluster).await;
    let arriving = door.cluster.store.traffic();
    assert!(arriving.watches >= 2 * waiters, "all listen");
    for _ in 0..HAND_OVERS {
        lock.unlock(&mut context).await.unwrap();
        let (followed, fence) = next.recv().await.unwrap();
        assert!(fence > last);
        (context, last) = (followed, fence);
        at_rest(&door.cluster).await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "no timer had to run out");
    door.cluster.store.traffic()
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_reads_as_little_among_many_waiters_as_among_few() {
    let mut work = Vec::new();
    for waiters in CROWDS {
        work.push(hand_overs_of_a_lock(waiters).await);
    }
    // The release, the grant, and a look of the one that comes next, who then watches two keys: each hand-over.
    assert!(work.iter().all(|work| (work.commits, work.watches) == (3 * HAND_OVERS, 2 * HAND_OVERS)), "{work:?}");
    // That look reads the base, the mark, the owner, the session, its own place, and that of settled calls, if it is taken.
    assert!(work.iter().all(|work| work.entries <= 6 * HAND_OVERS && work.bytes <= 500 * HAND_OVERS), "{work:?}");
}

/// As [`hand_overs_of_a_lock`], for a semaphore of one permit.
async fn hand_overs_of_a_semaphore(waiters: usize) -> Traffic {
    let cluster = Cluster::new();
    let session = std::sync::Arc::new(cluster.node("a").await.session);
    let semaphore = cluster.locks().semaphore(LockName::new("gpu").unwrap(), 1);
    let mut permits = semaphore.acquire(&session, 1).await.unwrap();
    let (got, mut next) = mpsc::unbounded_channel();
    for _ in 0..waiters {
        let (got, semaphore, session) = (got.clone(), semaphore.clone(), session.clone());
        tokio::spawn(async move {
            let Ok(permits) = semaphore.acquire(&session, 1).await else { return };
            got.send(permits).ok();
        });
    }
    let start = Instant::now();
    at_rest(&cluster).await;
    assert!(cluster.store.traffic().watches >= 2 * waiters, "all listen");
    for _ in 0..HAND_OVERS {
        permits.release().await.unwrap();
        permits = next.recv().await.unwrap();
        at_rest(&cluster).await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "no timer had to run out");
    cluster.store.traffic()
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_handed_over_with_as_little_among_many_waiters_as_among_few() {
    let mut work = Vec::new();
    for waiters in CROWDS {
        work.push(hand_overs_of_a_semaphore(waiters).await);
    }
    // As for a lock; and a look of who is first, when the permit is free. Each reads the base and the mark as well.
    assert!(work.iter().all(|work| (work.commits, work.watches) == (4 * HAND_OVERS, 2 * HAND_OVERS)), "{work:?}");
    assert!(work.iter().all(|work| work.entries <= 12 * HAND_OVERS && work.bytes <= 1000 * HAND_OVERS), "{work:?}");
}

/// etcd tells those who watch from a past revision only every 100 ms what they have missed.
#[tokio::test(start_paused = true)]
async fn a_store_that_tells_the_past_late_does_not_slow_a_crowd() {
    const CROWD: usize = 30;
    let door = Door::new();
    door.cluster.store.tell_the_past_after(Duration::from_millis(100));
    let (session, lock) = (door.session("a").await, door.lock());
    let mut context = session.context();
    lock.lock(&mut context).await.unwrap();
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..CROWD {
        let (lock, mut context) = (lock.clone(), session.context());
        crowd.spawn(async move {
            lock.lock(&mut context).await.unwrap();
            lock.unlock(&mut context).await.unwrap();
        });
    }
    at_rest(&door.cluster).await;
    // What they heard of late as they came is told by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    lock.unlock(&mut context).await.unwrap();
    crowd.join_all().await;
    assert_eq!(start.elapsed(), Duration::ZERO, "no timer had to run out");
}

#[tokio::test(start_paused = true)]
async fn who_hears_nothing_looks_for_itself_now_and_then_at_three_keys() {
    const EVERY: Duration = Duration::from_secs(5);
    let door = Door::new();
    door.cluster.store.silence_watches();
    let (session, lock) = (door.session("a").await, door.lock());
    let mut context = session.context();
    lock.lock(&mut context).await.unwrap();
    let waiter = queue_up(&door, session.context()).await;
    at_rest(&door.cluster).await;
    door.cluster.store.traffic();
    tokio::time::sleep(EVERY * 10 + EVERY / 2).await;
    let waiting = door.cluster.store.traffic();
    assert_eq!((waiting.commits, waiting.entries, waiting.watches), (10, 30, 0));
    let start = Instant::now();
    lock.unlock(&mut context).await.unwrap();
    locked(waiter).await.1.unwrap();
    assert!(start.elapsed() <= EVERY, "{:?}", start.elapsed());
}
