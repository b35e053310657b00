//! Leases: they end by themselves, with their keys, and never come back.

use fencron::store::{Change, Compare, Keys, LeaseId, Op, Range, Store, StoreError, Txn};
use fencron::time::Clock;

use crate::fixture::{Fixture, assert_refused, commit, get, keys, next_changes, put};

/// A lease that does not end during a test, however slow the machine.
async fn grant<F: Fixture>(store: &F::Store) -> LeaseId {
    store.grant(F::TTL * 60).await.unwrap().0
}

async fn put_leased(store: &impl Store, key: &str, lease: LeaseId) {
    commit(store, Txn::new().then(Op::put_leased(key, "1", lease))).await;
}

fn assert_ended<T: std::fmt::Debug>(answer: Result<T, StoreError>, lease: LeaseId) {
    assert!(matches!(answer, Err(StoreError::LeaseEnded(ended)) if ended == lease), "{answer:?}");
}

pub async fn a_lease_ends_with_its_keys<F: Fixture>(fixture: &F) {
    let (store, clock) = (fixture.store(), Clock::system());
    let granted_at = clock.boot();
    let (lease, ttl) = store.grant(F::TTL).await.unwrap();
    assert_eq!(ttl, F::TTL);
    let txn = Txn::new().then(Op::put_leased("a/1", "1", lease)).then(Op::put_leased("a/2", "1", lease));
    let revision = commit(&store, txn.then(Op::put("a/3", "1"))).await.revision;
    let mut watch = store.watch(Keys::prefix("a/"), revision.next()).await.unwrap();
    let gone = next_changes(&mut watch).await;
    assert!(clock.boot().since(granted_at) >= ttl, "it ended early");
    let deleted = |key: &str| Change::Deleted { key: key.into(), revision: revision.next() };
    assert_eq!(gone, [deleted("a/1"), deleted("a/2")], "one lease's keys vanish together");
    assert_eq!(keys(&store, Range::of(Keys::prefix("a/"))).await, ["a/3"]);
    assert_ended(store.keep_alive(lease).await, lease);
}

pub async fn a_lease_that_is_kept_alive_goes_on<F: Fixture>(fixture: &F) {
    let (store, clock) = (fixture.store(), Clock::system());
    let (lease, _) = store.grant(F::TTL).await.unwrap();
    put_leased(&store, "a", lease).await;
    let until = clock.boot().plus(F::TTL * 5 / 2);
    let mut beat = tokio::time::interval(F::TTL / 6);
    while clock.boot() < until {
        beat.tick().await;
        assert_eq!(store.keep_alive(lease).await.unwrap(), F::TTL);
    }
    assert!(get(&store, "a").await.is_some());
}

pub async fn a_revoked_lease_ends_at_once<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let lease = grant::<F>(&store).await;
    put_leased(&store, "a", lease).await;
    store.revoke(lease).await.unwrap();
    assert_eq!(get(&store, "a").await, None);
    store.revoke(lease).await.expect("what has ended can be revoked");
}

pub async fn what_ended_is_not_kept_alive<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let lease = grant::<F>(&store).await;
    store.revoke(lease).await.unwrap();
    assert_ended(store.keep_alive(lease).await, lease);
    let never = LeaseId(0x7777.try_into().unwrap());
    assert_ended(store.keep_alive(never).await, never);
}

pub async fn a_put_with_an_ended_lease_is_refused<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let lease = grant::<F>(&store).await;
    store.revoke(lease).await.unwrap();
    let txn = Txn::new().then(Op::put("a", "1")).then(Op::put_leased("b", "1", lease));
    assert_ended(store.commit(txn).await, lease);
    assert_eq!(get(&store, "a").await, None, "nothing of the transaction was applied");
    let twice = Txn::new().then(Op::put_leased("b", "1", lease)).then(Op::put("b", "2"));
    assert_refused(&store, twice).await;
}

pub async fn an_ended_lease_in_the_other_branch_does_no_harm<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let lease = grant::<F>(&store).await;
    store.revoke(lease).await.unwrap();
    let txn = Txn::new().when(Compare::absent(Keys::one("a"))).then(Op::put("a", "1"));
    assert!(commit(&store, txn.otherwise(Op::put_leased("b", "1", lease))).await.succeeded);
}

pub async fn a_put_without_a_lease_takes_the_key_off<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let lease = grant::<F>(&store).await;
    put_leased(&store, "a", lease).await;
    put(&store, "a", "mine").await;
    assert_eq!(get(&store, "a").await.unwrap().lease, None);
    store.revoke(lease).await.unwrap();
    assert_eq!(get(&store, "a").await.unwrap().value, b"mine");
}

pub async fn a_put_with_another_lease_moves_the_key<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    let (first, second) = (grant::<F>(&store).await, grant::<F>(&store).await);
    assert_ne!(first, second);
    put_leased(&store, "a", first).await;
    put_leased(&store, "a", second).await;
    store.revoke(first).await.unwrap();
    assert_eq!(get(&store, "a").await.unwrap().lease, Some(second));
    store.revoke(second).await.unwrap();
    assert_eq!(get(&store, "a").await, None);
}
