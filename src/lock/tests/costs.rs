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
async fn an_uncontended_lock_takes_one_round_trip_and_so_does_its_unlock() {
    let cluster = Cluster::new();
    let locks = cluster.locks();
    let session = Node::open(&locks, "a").await.session;
    let mut context = session.context();
    for name in ["door", "door", "gate"] {
        let lock = locks.fenced(LockName::new(name).unwrap(), Config::default());
        cluster.store.traffic();
        lock.lock(&mut context).await.unwrap();
        let locking = cluster.store.traffic();
        assert_eq!((locking.commits, locking.watches), (1, 0));
        lock.unlock(&mut context).await.unwrap();
        let unlocking = cluster.store.traffic();
        assert_eq!((unlocking.commits, unlocking.watches), (1, 0));
    }
}

/// Whatever it does not know, it learns from the transaction that it tried.
#[tokio::test(start_paused = true)]
async fn a_lock_whose_first_transaction_is_refused_takes_no_more_than_with_a_look() {
    let cluster = Cluster::new();
    let locks = cluster.locks();
    let (session, other) = (Node::open(&locks, "a").await.session, cluster.node("b").await.session);
    let (name, mut context, mut others) = (LockName::new("door").unwrap(), session.context(), other.context());
    let (lock, theirs) =
        (locks.fenced(name.clone(), Config::default()), cluster.locks().fenced(name, Config::default()));
    // Another process settles so many calls that every place has been written since this one has looked.
    for _ in 0..4000 {
        theirs.lock(&mut others).await.unwrap();
        theirs.unlock(&mut others).await.unwrap();
    }
    cluster.store.traffic();
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    assert_eq!(cluster.store.traffic().commits, 2, "refused, and granted on what that read");
    lock.unlock(&mut context).await.unwrap();
    cluster.store.traffic();
    assert!(lock.lock_and_get_fence(&mut context).await.unwrap() > fence);
    assert_eq!(cluster.store.traffic().commits, 1);
    // Held by another: refused, in the queue, granted.
    lock.unlock(&mut context).await.unwrap();
    theirs.lock(&mut others).await.unwrap();
    let frees = async {
        at_rest(&cluster).await;
        assert_eq!(cluster.store.traffic().commits, 2, "refused, and in the queue");
        theirs.unlock(&mut others).await.unwrap();
    };
    cluster.store.traffic();
    let (locked, ()) = tokio::join!(lock.lock(&mut context), frees);
    locked.unwrap();
}

/// It does not wait, so that it has nothing to take back.
#[tokio::test(start_paused = true)]
async fn a_try_at_a_lock_that_is_held_is_one_look() {
    let cluster = Cluster::new();
    let locks = cluster.locks();
    let session = Node::open(&locks, "a").await.session;
    let (mut holder, mut context) = (session.context(), session.context());
    let lock = locks.fenced(LockName::new("door").unwrap(), Config::default());
    lock.lock(&mut holder).await.unwrap();
    let before = cluster.store.inner().range(Range::of(Keys::one("/"))).await.unwrap().revision;
    cluster.store.traffic();
    assert!(!lock.try_lock(&mut context).await.unwrap());
    assert_eq!(cluster.store.traffic().commits, 1);
    assert_eq!(cluster.store.inner().range(Range::of(Keys::one("/"))).await.unwrap().revision, before);
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
    // That look reads the base, the mark, the owner, the session and its own place.
    assert!(work.iter().all(|work| work.entries <= 5 * HAND_OVERS && work.bytes <= 500 * HAND_OVERS), "{work:?}");
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
