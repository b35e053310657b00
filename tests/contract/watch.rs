//! Watches: every change once and in order, from where they are told.

use fencron::store::{Change, Keys, Op, Revision, Store, Txn, Watch, Watched};

use crate::fixture::{Fixture, commit, delete, get, next_changes, next_many, put, soon};

fn keys_of(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(Change::key).collect()
}

pub async fn changes_come_in_order_and_once(fixture: &impl Fixture) {
    let store = fixture.store();
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    let first = put(&store, "a/1", "1").await;
    put(&store, "a/1", "2").await;
    let deleted = delete(&store, "a/1").await;
    let again = put(&store, "a/1", "3").await;
    let changes = next_many(&mut watch, 4).await;
    let entry = |change: &Change| match change {
        Change::Put(entry) => (entry.created, entry.modified, entry.value.clone()),
        Change::Deleted { .. } => panic!("not a put: {change:?}"),
    };
    assert_eq!(entry(&changes[0]), (first, first, b"1".to_vec()));
    assert_eq!(entry(&changes[1]), (first, first.next(), b"2".to_vec()));
    assert_eq!(changes[2], Change::Deleted { key: "a/1".into(), revision: deleted });
    assert_eq!(changes[3], Change::Put(get(&store, "a/1").await.unwrap()));
    assert_eq!(changes[3].revision(), again);
    put(&store, "a/last", "1").await;
    assert_eq!(keys_of(&next_changes(&mut watch).await), ["a/last"], "nothing came twice");
}

pub async fn what_changed_at_one_revision_is_in_one_report(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "a/x", "1").await;
    let mut watch = store.watch(Keys::prefix("a/"), Revision(3)).await.unwrap();
    let puts = (0..100).fold(Txn::new(), |txn, n| txn.then(Op::put(format!("a/{n:03}"), vec![b'x'; 1000])));
    let revision = commit(&store, puts.then(Op::delete("a/x"))).await.revision;
    let changes = next_changes(&mut watch).await;
    assert_eq!(changes.len(), 101);
    assert!(changes.iter().all(|change| change.revision() == revision));
}

pub async fn a_revision_with_very_many_changes_is_in_one_report(fixture: &impl Fixture) {
    const BATCHES: usize = 12;
    let store = fixture.store();
    for batch in 0..BATCHES {
        let puts = (0..100).fold(Txn::new(), |txn, n| txn.then(Op::put(format!("a/{batch:02}{n:02}"), "1")));
        commit(&store, puts).await;
    }
    let gone = commit(&store, Txn::new().then(Op::Delete(Keys::prefix("a/")))).await.revision;
    put(&store, "a/last", "1").await;
    let mut watch = store.watch(Keys::prefix("a/"), gone).await.unwrap();
    let changes = next_changes(&mut watch).await;
    assert_eq!(changes.iter().filter(|change| change.revision() == gone).count(), 100 * BATCHES);
}

pub async fn a_watch_begins_where_it_is_told(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "a/1", "1").await;
    let from = put(&store, "a/2", "1").await;
    put(&store, "a/3", "1").await;
    for (from, expected) in [(from, &["a/2", "a/3"][..]), (Revision(0), &["a/1", "a/2", "a/3"])] {
        let mut watch = store.watch(Keys::prefix("a/"), from).await.unwrap();
        assert_eq!(keys_of(&next_many(&mut watch, expected.len()).await), expected);
    }
}

pub async fn a_watch_from_the_future_waits_for_it(fixture: &impl Fixture) {
    let store = fixture.store();
    let mut watch = store.watch(Keys::prefix("a/"), Revision(4)).await.unwrap();
    for key in ["a/2", "a/3", "a/4", "a/5"] {
        put(&store, key, "1").await;
    }
    assert_eq!(keys_of(&next_many(&mut watch, 2).await), ["a/4", "a/5"]);
}

pub async fn a_watch_hears_of_its_keys_alone(fixture: &impl Fixture) {
    let store = fixture.store();
    let mut one = store.watch(Keys::one("b"), Revision(2)).await.unwrap();
    let mut range = store.watch(Keys::prefix("b/"), Revision(2)).await.unwrap();
    let puts = ["a", "b", "b/1", "b0", "c"].into_iter().fold(Txn::new(), |txn, key| txn.then(Op::put(key, "1")));
    commit(&store, puts).await;
    put(&store, "c", "2").await;
    commit(&store, Txn::new().then(Op::delete("b")).then(Op::delete("b/1"))).await;
    assert_eq!(keys_of(&next_many(&mut one, 2).await), ["b", "b"]);
    assert_eq!(keys_of(&next_many(&mut range, 2).await), ["b/1", "b/1"]);
}

pub async fn the_end_of_a_lease_is_reported_without_traffic<F: Fixture>(fixture: &F) {
    let store = fixture.store();
    // Granted while the watch is already waiting for a later end.
    store.grant(F::TTL * 100).await.unwrap();
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    let (lease, _) = store.grant(F::TTL).await.unwrap();
    commit(&store, Txn::new().then(Op::put_leased("a/1", "1", lease))).await;
    assert_eq!(keys_of(&next_changes(&mut watch).await), ["a/1"]);
    assert!(matches!(&next_changes(&mut watch).await[..], [Change::Deleted { key, .. }] if key == "a/1"));
}

pub async fn a_slow_reader_misses_nothing(fixture: &impl Fixture) {
    const PUTS: usize = 4 * Watch::BUFFER;
    let store = fixture.store();
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    for n in 0..PUTS {
        put(&store, "a/1", &n.to_string()).await;
    }
    let changes = next_many(&mut watch, PUTS).await;
    let revisions: Vec<_> = changes.iter().map(|change| change.revision().0).collect();
    assert_eq!(revisions, (2..2 + PUTS as u64).collect::<Vec<_>>());
}

pub async fn a_compacted_past_is_said_and_ends_the_watch(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "a/1", "1").await;
    put(&store, "a/1", "2").await;
    let third = put(&store, "a/1", "3").await;
    fixture.compact(third).await;
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    assert_eq!(soon(watch.next()).await, Some(Watched::Compacted(third)));
    assert_eq!(soon(watch.next()).await, None);
    let mut watch = store.watch(Keys::prefix("a/"), third.next()).await.unwrap();
    put(&store, "a/2", "1").await;
    assert_eq!(keys_of(&next_changes(&mut watch).await), ["a/2"]);
}

pub async fn a_handle_apart_is_the_same_store(fixture: &impl Fixture) {
    let store = fixture.store();
    let apart = store.apart().await.unwrap();
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    let revision = put(&apart, "a/1", "1").await;
    assert_eq!(next_changes(&mut watch).await[0].revision(), revision);
    assert_eq!(get(&store, "a/1").await.unwrap().modified, revision);
}

pub async fn a_dropped_watch_leaves_the_others(fixture: &impl Fixture) {
    let store = fixture.store();
    let dropped = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    let mut kept = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    put(&store, "a/1", "1").await;
    drop(dropped);
    put(&store, "a/2", "1").await;
    assert_eq!(keys_of(&next_many(&mut kept, 2).await), ["a/1", "a/2"]);
}
