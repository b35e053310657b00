//! Mistakes of programs, and what they are told.

use std::num::NonZeroU32;

use super::contexts::Door;
use super::*;

/// What a mistake is answered with.
fn told<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.expect_err("it is a mistake").to_string()
}

const NOT_HELD: &str = "`door` is not held by this context: nothing to unlock, and no fence";

#[tokio::test(start_paused = true)]
async fn unlocking_twice_or_what_another_holds_is_told_and_changes_nothing() {
    let door = Door::new();
    let (a, b) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), a.context());
    lock.lock(&mut context).await.unwrap();
    for mut other in [a.context(), b.context()] {
        assert_eq!(told(lock.unlock(&mut other).await), NOT_HELD, "another's");
        assert_eq!(told(lock.fence(&mut other).await), NOT_HELD);
    }
    assert!(lock.is_locked_by(&mut context).await.unwrap());
    lock.unlock(&mut context).await.unwrap();
    let mut next = b.context();
    lock.lock(&mut next).await.unwrap();
    assert_eq!(told(lock.unlock(&mut context).await), NOT_HELD, "twice");
    assert!(lock.is_locked_by(&mut next).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_context_reused_after_its_loss_is_told_what_to_do() {
    let door = Door::new();
    let (session, next) = (door.session("a").await, door.session("b").await);
    let (lock, mut context) = (door.lock(), session.context());
    let fence = lock.lock_and_get_fence(&mut context).await.unwrap();
    door.end(&session).await;
    let lost = format!(
        "the hold of `door` under fence {fence} is over (the session is over: the store says that its lease has ended): \
         stop what ran under it, another may hold the lock"
    );
    assert_eq!(told(lock.unlock(&mut context).await), lost);
    assert_eq!(told(lock.unlock(&mut context).await), NOT_HELD, "it is told once");
    let over = "nothing can be had under the context's session (the session is over: the store says that its lease has \
                ended): open another, and move the context to it";
    assert_eq!(told(lock.lock(&mut context).await), over);
    assert_eq!(told(lock.try_lock(&mut context).await), over);
    context.move_to(&next);
    assert!(lock.try_lock(&mut context).await.unwrap(), "as it says");
}

#[tokio::test(start_paused = true)]
async fn locking_too_often_is_told() {
    let door = Door::with(Config { reentrancy: Reentrancy::Limit(NonZeroU32::MIN), ..Config::default() });
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    lock.lock(&mut context).await.unwrap();
    let limit = "`door` is held 1 times by this context, which is its limit: unlock it first";
    assert_eq!(told(lock.lock(&mut context).await), limit);
}

#[tokio::test(start_paused = true)]
async fn a_destroyed_lock_is_told_with_when_its_name_may_be_used_again() {
    let door = Door::new();
    let session = door.session("a").await;
    let lock = door.lock();
    lock.destroy().await.unwrap();
    let destroyed = "`door` was destroyed; a new handle may create it again in 60s";
    assert_eq!(told(lock.lock(&mut session.context()).await), destroyed);
}

#[tokio::test(start_paused = true)]
async fn any_text_is_a_name_and_no_two_meet_or_reach_into_each_other() {
    let door = Door::new();
    let session = door.session("a").await;
    let longest = "x".repeat(LockName::MOST_BYTES);
    let names = ["a/b", "a", "a%2Fb", "/", "..", "a/owner", "a/wait/", "ü ü\n\0", "leader/owner", longest.as_str()];
    let mut held = Vec::new();
    for name in names {
        let lock = door.cluster.locks().fenced(LockName::new(name).unwrap(), Config::default());
        let mut context = session.context();
        assert!(lock.try_lock(&mut context).await.unwrap(), "{name:?}: nobody else has it");
        held.push((lock, context));
    }
    for (lock, mut context) in held {
        lock.unlock(&mut context).await.unwrap();
    }
    assert!(door.keys().await.is_empty());
}

#[test]
fn an_empty_name_and_one_of_10_kb_are_told_how_long_it_may_be() {
    assert_eq!(told(LockName::new("")), "the name of a lock is 1 to 200 bytes long; this one has 0");
    assert_eq!(
        told(LockName::new(&"x".repeat(10_240))),
        "the name of a lock is 1 to 200 bytes long; this one has 10240"
    );
}

#[tokio::test(start_paused = true)]
async fn asking_for_permits_that_cannot_be_is_told() {
    let cluster = Cluster::new();
    let session = cluster.node("a").await.session;
    let semaphore = cluster.locks().semaphore(LockName::new("gpu").unwrap(), 2);
    let bounds = |permits| format!("a semaphore has 1 to 1000 permits, and so many may be asked for; not {permits}");
    for permits in [0, PERMITS_MOST + 1] {
        assert_eq!(told(semaphore.acquire(&session, permits).await), bounds(permits));
        assert_eq!(told(semaphore.set_permits(permits).await), bounds(permits));
        let other = cluster.locks().semaphore(LockName::new("other").unwrap(), permits);
        assert_eq!(told(other.acquire(&session, 1).await), bounds(permits));
    }
    let more = "3 permits of `gpu` were asked for, which has 2: ask for fewer, or give it more";
    assert_eq!(told(semaphore.acquire(&session, 3).await), more);
    let permits = semaphore.acquire(&session, 1).await.unwrap();
    cluster.store.revoke(session.lease()).await.unwrap();
    timeout(LONG, session.ended()).await.unwrap();
    assert_eq!(permits.release().await.unwrap(), Resigned::HadEnded);
    let over = "nothing can be had under the session (the session is over: the store says that its lease has ended): \
                open another";
    assert_eq!(told(semaphore.acquire(&session, 1).await), over);
}

#[tokio::test(start_paused = true)]
async fn resigning_twice_or_after_another_has_followed_changes_nothing() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let term = a.lead(1).await;
    assert_eq!(a.election.resign(&term).await.unwrap(), Resigned::Released);
    let next = b.lead(2).await;
    a.election.resign(&term).await.unwrap();
    assert!(b.still_leads(&next).await && !a.still_leads(&term).await);
    let nobody = told(b.election.step_down_for(&next, "c").await);
    assert!(nobody.contains("`c`"), "{nobody}");
    assert!(b.still_leads(&next).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_through_the_context_of_a_guard_is_told_to_the_guard() {
    let door = Door::new();
    let session = door.session("a").await;
    let (lock, mut context) = (door.lock(), session.context());
    let mut guard = lock.guard(&mut context).await.unwrap();
    lock.unlock(guard.context()).await.unwrap();
    assert_eq!(timeout(LONG, guard.signal().lost()).await.unwrap(), Lost::Released);
    let next = lock.lock_and_get_fence(guard.context()).await.unwrap();
    assert_eq!(timeout(LONG, guard.signal().lost()).await.unwrap(), Lost::Released, "it is the signal of its own hold");
    assert!(matches!(guard.unlock().await, Err(LockError::NotTheOwner { .. })), "it unlocks no other");
    assert_eq!(lock.fence(&mut context).await.unwrap(), next);
    lock.unlock(&mut context).await.unwrap();

    let mut guard = lock.guard(&mut context).await.unwrap();
    lock.force_unlock().await.unwrap();
    assert!(matches!(lock.fence(guard.context()).await, Err(LockError::OwnershipLost { .. })));
    assert_eq!(timeout(LONG, guard.signal().lost()).await.unwrap(), Lost::Taken);
}
