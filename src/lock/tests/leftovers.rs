//! What stays in the store: nothing of locks that were used, and nothing of clients that crashed, once their leases have
//! run out.

use super::contexts::{Door, queue_up};
use super::*;

/// The base, the mark and the lineage, a semaphore's number of permits, and the places where calls are settled.
const MAY_STAY: usize = 3 + 1 + 256;

/// All keys of the namespace, and of them those that may not be there when nobody is.
async fn left(cluster: &Cluster) -> (usize, Vec<String>) {
    let all = Keys::prefix(Namespace::new("test").unwrap().prefix());
    let (entries, _) = cluster.store.inner().range_all(all).await.unwrap();
    let of_past = ["/base", "/mark", "/lineage"];
    let is_of_past = |key: &str| of_past.iter().any(|name| key == format!("/fencron/v1/test{name}"));
    let may_stay = |key: &str| is_of_past(key) || key.contains("/settled/") || key.ends_with("/permits");
    let stray = entries.iter().map(|entry| entry.key.clone()).filter(|key| !may_stay(key)).collect();
    (entries.len(), stray)
}

#[tokio::test(start_paused = true)]
async fn locks_used_once_leave_nothing_behind() {
    let door = Door::new();
    let session = door.session("a").await;
    let mut context = session.context();
    for number in 0..20_000 {
        let lock = door.cluster.locks().fenced(LockName::new(&format!("item/{number}")).unwrap(), Config::default());
        lock.lock(&mut context).await.unwrap();
        lock.unlock(&mut context).await.unwrap();
    }
    assert!(context.held.is_empty() && context.pending.is_empty(), "nor in the process");
    session.close().await.unwrap();
    let (keys, stray) = left(&door.cluster).await;
    assert_eq!(stray, [""; 0]);
    assert!(keys <= MAY_STAY, "{keys}");
}

#[tokio::test(start_paused = true)]
async fn crashed_clients_leave_nothing_past_their_leases() {
    let delay = Duration::from_secs(30);
    let door = Door::with(Config { lock_delay: Some(delay), max_hold: Some(LONG), ..Config::default() });
    let (a, b) = (door.cluster.node("a").await, door.cluster.node("b").await);
    // Of each kind one that holds and one that waits.
    let mut context = a.session.context();
    door.lock().lock(&mut context).await.unwrap();
    let waits_for_lock = queue_up(&door, b.session.context()).await;
    let semaphore = door.cluster.locks().semaphore(LockName::new("gpu").unwrap(), 1);
    let permits = semaphore.acquire(&a.session, 1).await.unwrap();
    let asking = tokio::spawn({
        let (semaphore, session) = (semaphore.clone(), door.session("c").await);
        async move { semaphore.acquire(&session, 1).await.map(drop) }
    });
    let term = a.lead(1).await;
    let crashing = b.session.lease();
    let waits_to_lead = b.queue_up(2).await;
    let (_, before) = left(&door.cluster).await;
    assert!(before.iter().any(|key| key.ends_with("/owner")) && before.iter().any(|key| key.ends_with("/barred")));
    let waiting = before.iter().filter(|key| key.contains("/wait/")).count();
    assert_eq!(waiting, 3, "{before:?}");

    // Nobody gives anything back or takes a call back, and nobody keeps a lease alive.
    door.cluster.store.lose_keep_alives(true);
    for _ in 0..1000 {
        door.cluster.store.expect(Kind::Withdraw, Fault::Lost);
    }
    std::mem::forget((permits, term));
    drop((a, context));
    waits_for_lock.abort();
    waits_to_lead.abort();
    asking.abort();
    let start = Instant::now();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(left(&door.cluster).await.1, before, "nothing is given back");
    tokio::time::sleep(TTL).await;
    assert_eq!(left(&door.cluster).await.1, ["/fencron/v1/test/lock/door/barred"], "for its delay");
    assert!(door.cluster.entry(&Namespace::new("test").unwrap().session_key(crashing)).await.is_none());
    tokio::time::sleep(delay + Duration::from_millis(3330)).await;
    assert_eq!(left(&door.cluster).await.1, [""; 0], "{:?} after the crash", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_right_before_its_session_is_released_before_the_lease_ends() {
    let door = Door::new();
    let semaphore = door.cluster.locks().semaphore(LockName::new("gpu").unwrap(), 1);
    let (a, b) = (door.session("a").await, door.session("b").await);
    drop(semaphore.acquire(&a, 1).await.unwrap());
    drop(a);
    timeout(TTL / 2, semaphore.acquire(&b, 1)).await.expect("the permit is free").unwrap();
}
