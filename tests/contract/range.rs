//! Reading: order, pages, older revisions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fencron::store::{Keys, Op, PAGE, Range, Revision, Sort, Store, StoreError, Txn};

use crate::fixture::{Fixture, commit, delete, keys, put};

async fn filled(fixture: &impl Fixture) -> impl Store {
    let store = fixture.store();
    for key in ["b/2", "b/1", "a", "b", "c", "b/3", "b0"] {
        put(&store, key, key).await;
    }
    store
}

pub async fn a_range_is_in_order_and_without_its_end(fixture: &impl Fixture) {
    let store = filled(fixture).await;
    assert_eq!(keys(&store, Range::of(Keys::prefix("b/"))).await, ["b/1", "b/2", "b/3"]);
    let range = Keys::Range { start: "b".into(), end: "b0".into() };
    assert_eq!(keys(&store, Range::of(range)).await, ["b", "b/1", "b/2", "b/3"]);
    assert_eq!(keys(&store, Range::of(Keys::one("b"))).await, ["b"]);
}

pub async fn a_limit_cuts_and_says_so(fixture: &impl Fixture) {
    let store = filled(fixture).await;
    for (limit, expected, more) in [(2, 2, true), (3, 3, false), (4, 3, false), (0, 3, false)] {
        let page = store.range(Range { limit, ..Range::of(Keys::prefix("b/")) }).await.unwrap();
        assert_eq!((page.entries.len(), page.more), (expected, more), "limit {limit}");
    }
}

pub async fn newest_first_pages_go_back_in_time(fixture: &impl Fixture) {
    let store = filled(fixture).await;
    put(&store, "b/1", "again").await;
    let newest = Range { limit: 2, order: Sort::NewestFirst, ..Range::of(Keys::prefix("b/")) };
    let page = store.range(newest.clone()).await.unwrap();
    assert_eq!(page.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["b/1", "b/3"]);
    assert!(page.more);
    let modified_before = page.entries.last().map(|entry| entry.modified);
    let page = store.range(Range { modified_before, ..newest }).await.unwrap();
    assert_eq!(page.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["b/2"]);
    assert!(!page.more);
}

pub async fn values_can_be_left_out(fixture: &impl Fixture) {
    let store = filled(fixture).await;
    let now = store.range(Range { keys_only: true, ..Range::of(Keys::prefix("b/")) }).await.unwrap();
    put(&store, "b/1", "new").await;
    let then = Range { keys_only: true, at: Some(now.revision), ..Range::of(Keys::prefix("b/")) };
    let then = store.range(then).await.unwrap();
    assert_eq!(now.entries, then.entries);
    assert!(now.entries.len() == 3 && now.entries.iter().all(|entry| entry.value.is_empty() && entry.modified.0 > 0));
}

pub async fn an_older_revision_is_read_as_it_was(fixture: &impl Fixture) {
    let store = filled(fixture).await;
    let range = Range::of(Keys::prefix("b/"));
    let then = store.range(range.clone()).await.unwrap();
    put(&store, "b/0", "new").await;
    delete(&store, "b/2").await;
    put(&store, "b/3", "changed").await;
    put(&store, "b/2", "again").await;
    let now = put(&store, "c", "elsewhere").await;
    let at = Range { at: Some(then.revision), ..range.clone() };
    let read = store.range(at.clone()).await.unwrap();
    assert_eq!(read.entries, then.entries);
    assert_eq!(read.revision, now, "a page says where the store is, not where it was asked for");
    let first = store.range(Range { limit: 2, ..at.clone() }).await.unwrap();
    assert_eq!((&first.entries[..], first.more), (&then.entries[..2], true));
    let newest = store.range(Range { limit: 1, order: Sort::NewestFirst, ..at }).await.unwrap();
    assert_eq!((newest.entries[0].key.as_str(), newest.more), ("b/3", true));
    let before = Range { at: Some(Revision(1)), ..range };
    assert_eq!(keys(&store, before).await, Vec::<String>::new());
}

pub async fn a_future_revision_is_refused(fixture: &impl Fixture) {
    let store = fixture.store();
    let at = put(&store, "a", "1").await;
    let read = store.range(Range { at: Some(at.next()), ..Range::of(Keys::one("a")) }).await;
    assert!(matches!(read, Err(StoreError::Refused(_))), "{read:?}");
}

pub async fn a_compacted_revision_is_refused(fixture: &impl Fixture) {
    let store = fixture.store();
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    put(&store, "a", "3").await;
    fixture.compact(second).await;
    let at = |revision| Range { at: Some(revision), ..Range::of(Keys::one("a")) };
    match store.range(at(first)).await {
        Err(StoreError::Compacted { asked, .. }) => assert_eq!(asked, first),
        other => panic!("not compacted: {other:?}"),
    }
    assert_eq!(store.range(at(second)).await.unwrap().entries[0].value, b"2");
}

pub async fn all_of_a_large_range_is_at_one_revision(fixture: &impl Fixture) {
    const ENTRIES: usize = 2 * PAGE + PAGE / 2;
    let store = fixture.store();
    for batch in (0..ENTRIES).collect::<Vec<_>>().chunks(125) {
        let puts = batch.iter().fold(Txn::new(), |txn, n| txn.then(Op::put(format!("a/{n:05}"), "old")));
        commit(&store, puts).await;
    }
    let stopped = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stopped) = (store.clone(), Arc::clone(&stopped));
        async move {
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) {
                // Backwards through the range, so that what is yet to be read changes.
                let at = ENTRIES - 1 - (n % ENTRIES);
                let txn =
                    Txn::new().then(Op::put(format!("a/{at:05}"), "new")).then(Op::put(format!("a/{at:05}x"), "new"));
                commit(&store, txn).await;
                n += 1;
            }
            n
        }
    });
    for _ in 0..3 {
        let (entries, revision) = store.range_all(Keys::prefix("a/")).await.unwrap();
        assert!(entries.iter().all(|entry| entry.modified <= revision));
        let new = entries.iter().filter(|entry| entry.value == b"new").count();
        assert_eq!(entries.len(), ENTRIES + new / 2, "each write adds one key as it changes one");
    }
    stopped.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0, "it was written to in the meantime");
}
