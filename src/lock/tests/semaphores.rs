use super::queues::commits_in_20_s;
use super::*;

struct Pool {
    cluster: Cluster,
    session: Session<Faulty>,
}

impl Pool {
    async fn new() -> Pool {
        let cluster = Cluster::new();
        let session = cluster.node("a").await.session;
        Pool { cluster, session }
    }

    fn semaphore(&self, permits: u32) -> Semaphore<Faulty> {
        self.cluster.locks().semaphore(LockName::new("gpu").unwrap(), permits)
    }

    /// Asks for permits in the background; on return it is in the queue.
    async fn queue_up(&self, permits: u32) -> JoinHandle<Permits<Faulty>> {
        let session = self.cluster.node("waiter").await.session;
        let semaphore = self.semaphore(1);
        let before = semaphore.state().await.unwrap().waiting.len();
        let asking = semaphore.clone();
        let task = tokio::spawn(async move {
            let permits = asking.acquire(&session, permits).await.unwrap();
            // The session lives as long as the test.
            std::mem::forget(session);
            permits
        });
        while semaphore.state().await.unwrap().waiting.len() == before {
            tokio::task::yield_now().await;
        }
        task
    }
}

async fn got(task: JoinHandle<Permits<Faulty>>) -> Permits<Faulty> {
    timeout(LONG, task).await.expect("it gets them in time").unwrap()
}

#[tokio::test(start_paused = true)]
async fn no_more_permits_are_held_than_there_are() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(3);
    let one = semaphore.acquire(&pool.session, 1).await.unwrap();
    let two = semaphore.try_acquire(&pool.session, 2).await.unwrap().expect("they are free");
    assert_eq!((one.count(), two.count(), semaphore.state().await.unwrap().available()), (1, 2, 0));
    assert!(semaphore.try_acquire(&pool.session, 1).await.unwrap().is_none());
    let start = Instant::now();
    assert!(semaphore.acquire_within(&pool.session, 1, TTL).await.unwrap().is_none());
    assert_eq!(start.elapsed(), TTL);
    assert_eq!(two.release().await.unwrap(), Resigned::Released);
    assert!(semaphore.try_acquire(&pool.session, 2).await.unwrap().is_some());
    assert!(semaphore.state().await.unwrap().waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_many_is_not_overtaken_by_those_who_ask_for_few() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(3);
    let one = semaphore.acquire(&pool.session, 1).await.unwrap();
    let many = pool.queue_up(3).await;
    let few = pool.queue_up(1).await;
    assert!(semaphore.try_acquire(&pool.session, 1).await.unwrap().is_none(), "though two are free");
    one.release().await.unwrap();
    let many = got(many).await;
    tokio::time::sleep(TTL).await;
    assert!(!few.is_finished());
    let start = Instant::now();
    many.release().await.unwrap();
    got(few).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_a_crashed_session_held_is_freed() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(2);
    let crashing = pool.cluster.node("b").await.session;
    let held = semaphore.acquire(&crashing, 2).await.unwrap();
    let signal = held.signal();
    let waiter = pool.queue_up(2).await;
    let start = Instant::now();
    drop(crashing);
    got(waiter).await;
    assert!(start.elapsed() <= TTL, "{:?}", start.elapsed());
    assert!(timeout(LONG, signal.lost()).await.is_ok());
    let proof = held.still_held().into_iter().fold(Txn::new(), Txn::when).then(Op::put("/effect", ""));
    assert!(!pool.cluster.store.commit(proof).await.unwrap().succeeded);
    assert_eq!(held.release().await.unwrap(), Resigned::HadEnded);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_permits_changes_while_they_are_held() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(1);
    let first = semaphore.acquire(&pool.session, 1).await.unwrap();
    let waiter = pool.queue_up(1).await;
    semaphore.set_permits(2).await.unwrap();
    let second = got(waiter).await;
    semaphore.set_permits(1).await.unwrap();
    assert_eq!(semaphore.state().await.unwrap().available(), -1, "whoever holds some keeps them");
    first.release().await.unwrap();
    assert!(pool.semaphore(9).try_acquire(&pool.session, 1).await.unwrap().is_none(), "the first number is kept");
    second.release().await.unwrap();
    assert!(semaphore.try_acquire(&pool.session, 1).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn more_permits_than_there_are_is_an_error() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(2);
    let refused = semaphore.acquire(&pool.session, 3).await;
    assert!(matches!(refused, Err(SemaphoreError::MoreThanThereAre { asked: 3, permits: 2, .. })), "{refused:?}");
    for permits in [0, PERMITS_MOST + 1] {
        assert!(matches!(semaphore.acquire(&pool.session, permits).await, Err(SemaphoreError::OutOfBounds(_))));
        assert!(matches!(semaphore.set_permits(permits).await, Err(SemaphoreError::OutOfBounds(_))));
    }
    let held = semaphore.acquire(&pool.session, 1).await.unwrap();
    let asking = semaphore.acquire(&pool.session, 2);
    let lower = async {
        tokio::time::sleep(TTL).await;
        semaphore.set_permits(1).await.unwrap();
    };
    let (asked, ()) = tokio::join!(asking, lower);
    assert!(matches!(asked, Err(SemaphoreError::MoreThanThereAre { permits: 1, .. })), "{asked:?}");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_neither_take_permits_twice_nor_keep_them() {
    let faults = [Fault::AnswerLost, Fault::Lost, Fault::Late, Fault::Unavailable];
    for first in faults {
        for second in faults {
            let pool = Pool::new().await;
            let semaphore = pool.semaphore(2);
            pool.cluster.store.expect(Kind::Grant, first);
            pool.cluster.store.expect(Kind::Grant, second);
            pool.cluster.store.expect(Kind::Release, first);
            let permits = semaphore.acquire(&pool.session, 1).await.unwrap();
            pool.cluster.store.deliver().await;
            pool.cluster.store.replay().await;
            assert_eq!(semaphore.state().await.unwrap().available(), 1, "{first:?} {second:?}");
            assert_eq!(permits.release().await.unwrap(), Resigned::Released);
            pool.cluster.store.deliver().await;
            pool.cluster.store.replay().await;
            let state = semaphore.state().await.unwrap();
            assert_eq!((state.available(), state.waiting.len()), (2, 0), "{first:?} {second:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_who_read_the_same_do_not_both_take_the_last_permit() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(1);
    semaphore.acquire(&pool.session, 1).await.unwrap().release().await.unwrap();
    // Every request gives the other a turn: both read, then both take.
    let (one, other) = tokio::join!(semaphore.try_acquire(&pool.session, 1), semaphore.try_acquire(&pool.session, 1));
    assert!(one.unwrap().is_some() ^ other.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_after_the_call_was_given_up_takes_nothing() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(1);
    pool.cluster.store.expect(Kind::Grant, Fault::Late);
    let dropped = timeout(Duration::from_millis(1), semaphore.acquire(&pool.session, 1)).await;
    assert!(dropped.is_err(), "it hears nothing yet");
    tokio::time::sleep(TTL).await;
    assert_eq!(pool.cluster.store.deliver().await, 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_permits_and_dropped_futures_give_back() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(1);
    let held = semaphore.acquire(&pool.session, 1).await.unwrap();
    assert!(timeout(TTL, semaphore.acquire(&pool.session, 1)).await.is_err(), "it waits");
    let waiter = pool.queue_up(1).await;
    drop(held);
    got(waiter).await.release().await.unwrap();
    semaphore.destroy().await.unwrap();
    assert_eq!(semaphore.state().await.unwrap().permits, None);
}

#[tokio::test(start_paused = true)]
async fn a_session_lost_while_waiting_gets_no_permits() {
    let pool = Pool::new().await;
    let semaphore = pool.semaphore(1);
    let _held = semaphore.acquire(&pool.session, 1).await.unwrap();
    let other = pool.cluster.node("b").await.session;
    let revoke = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        pool.cluster.store.revoke(other.lease()).await.unwrap();
    };
    let (asked, ()) = tokio::join!(semaphore.acquire(&other, 1), revoke);
    assert!(matches!(asked, Err(SemaphoreError::SessionLost { .. })), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_answer_is_lost_is_known_for_done_though_another_was_settled_in_its_place() {
    let pool = Pool::new().await;
    let permits = pool.semaphore(1).acquire(&pool.session, 1).await.unwrap();
    pool.cluster.store.expect(Kind::Release, Fault::AnswerLost);
    // While it pauses, before it asks again, a call of the same last byte is settled.
    let other = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let keys = Keys::prefix("/fencron/v1/test/settled/");
        let (entries, _) = pool.cluster.store.inner().range_all(keys).await.unwrap();
        for entry in entries {
            pool.cluster.put(&entry.key, r#"{"v":1,"call":"another"}"#).await;
        }
    };
    let (released, ()) = tokio::join!(permits.release(), other);
    assert_eq!(released.unwrap(), Resigned::Released);
}

#[tokio::test(start_paused = true)]
async fn a_place_for_permits_that_a_hand_has_written_over_is_waited_for_without_haste() {
    let pool = Pool::new().await;
    let held = pool.semaphore(1).acquire(&pool.session, 1).await.unwrap();
    let stray = "/fencron/v1/test/sem/gpu/wait/by-hand";
    pool.cluster.put(stray, "").await;
    let waiting = pool.queue_up(1).await;
    pool.cluster.put(stray, "").await;
    held.release().await.unwrap();
    let commits = commits_in_20_s(&pool.cluster).await;
    assert!(commits <= 20, "{commits} in 20 s");
    assert!(!waiting.is_finished(), "somebody is before it");
    pool.cluster.delete(stray).await;
    got(waiting).await;
}

#[tokio::test(start_paused = true)]
async fn acquire_within_no_time_takes_what_is_free() {
    let pool = Pool::new().await;
    let permits = pool.semaphore(1).acquire_within(&pool.session, 1, Duration::ZERO).await.unwrap();
    assert!(permits.is_some(), "nobody has it");
    assert!(pool.semaphore(1).acquire_within(&pool.session, 1, Duration::ZERO).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_not_mistaken_for_permits_that_are_taken() {
    let pool = Pool::new().await;
    for _ in 0..100 {
        pool.cluster.store.expect(Kind::Look, Fault::Unavailable);
    }
    let answer = pool.semaphore(1).try_acquire(&pool.session, 1).await;
    assert!(matches!(answer, Err(SemaphoreError::Store(StoreError::Unavailable { .. }))), "{answer:?}");
}
