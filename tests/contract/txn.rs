//! Transactions: revisions, comparisons, branches, limits.

use fencron::store::{Answer, Committed, Compare, Entry, Keys, Op, Order, Range, Revision, Store, TXN_OPS, Test, Txn};

use crate::fixture::{Fixture, assert_refused, commit, delete, get, put};

pub async fn a_change_has_a_revision_of_its_own(fixture: &impl Fixture) {
    let store = fixture.store();
    let (first, second) = (put(&store, "a", "1").await, put(&store, "a", "2").await);
    assert_eq!((first, second), (Revision(2), Revision(3)));
    let entry = Entry { key: "a".into(), value: b"2".into(), created: first, modified: second, lease: None };
    assert_eq!(get(&store, "a").await, Some(entry));
}

pub async fn a_transaction_is_at_one_revision(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "c", "0").await;
    let txn = Txn::new().then(Op::put("b", "1")).then(Op::put("a", "1")).then(Op::delete("c"));
    let committed = commit(&store, txn).await;
    assert_eq!(committed.revision, Revision(3));
    assert_eq!(committed.answers, [Answer::Put, Answer::Put, Answer::Deleted(1)]);
    for key in ["a", "b"] {
        assert_eq!(get(&store, key).await.unwrap().created, Revision(3));
    }
    assert_eq!(get(&store, "c").await, None);
}

pub async fn a_transaction_that_changes_nothing_has_no_revision_of_its_own(fixture: &impl Fixture) {
    let store = fixture.store();
    let at = put(&store, "a", "1").await;
    for txn in [
        Txn::new(),
        Txn::new().then(Op::get("a")),
        Txn::new().then(Op::delete("b")),
        Txn::new().when(Compare::absent(Keys::one("a"))).then(Op::put("a", "2")),
    ] {
        assert_eq!(commit(&store, txn).await.revision, at);
    }
    assert_eq!(put(&store, "a", "1").await, at.next(), "putting the same value again is a change");
}

pub async fn a_key_that_comes_again_is_created_anew(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "a", "1").await;
    delete(&store, "a").await;
    let again = put(&store, "a", "1").await;
    assert_eq!(get(&store, "a").await.unwrap().created, again);
}

const ORDERS: [Order; 4] = [Order::Equal, Order::NotEqual, Order::Less, Order::Greater];

async fn holds(store: &impl Store, keys: Keys, test: Test) -> bool {
    commit(store, Txn::new().when(Compare { keys, test })).await.succeeded
}

pub async fn a_comparison_of_a_key_answers_as_its_order_says(fixture: &impl Fixture) {
    let store = fixture.store();
    let created = put(&store, "a", "1").await;
    let modified = put(&store, "a", "2").await;
    for order in ORDERS {
        for given in [0, 1, created.0, modified.0, modified.0 + 1, i64::MAX as u64].map(Revision) {
            let expected = order.holds(created, given);
            assert_eq!(holds(&store, Keys::one("a"), Test::Created(order, given)).await, expected, "{order:?} {given}");
            let expected = order.holds(modified, given);
            assert_eq!(
                holds(&store, Keys::one("a"), Test::Modified(order, given)).await,
                expected,
                "{order:?} {given}"
            );
        }
    }
}

pub async fn a_comparison_of_a_missing_key_sees_revision_0(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "b", "1").await;
    delete(&store, "b").await;
    for key in ["a", "b"].map(Keys::one) {
        sees_revision_0(&store, key).await;
    }
}

async fn sees_revision_0(store: &impl Store, keys: Keys) {
    for order in ORDERS {
        for given in [Revision(0), Revision(1)] {
            let expected = order.holds(Revision(0), given);
            assert_eq!(holds(store, keys.clone(), Test::Created(order, given)).await, expected, "{order:?} {given}");
            assert_eq!(holds(store, keys.clone(), Test::Modified(order, given)).await, expected, "{order:?} {given}");
        }
    }
    let (lease, _) = store.grant(std::time::Duration::from_secs(60)).await.unwrap();
    assert!(holds(store, keys.clone(), Test::Lease(None)).await);
    assert!(!holds(store, keys.clone(), Test::Lease(Some(lease))).await);
    assert!(!holds(store, keys, Test::Value(Vec::new())).await, "what is not there has no value, not even none");
}

pub async fn a_comparison_of_a_range_holds_for_every_key_in_it(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "a/1", "x").await;
    let second = put(&store, "a/2", "x").await;
    put(&store, "b/1", "y").await;
    let range = Keys::prefix("a/");
    assert!(holds(&store, range.clone(), Test::Created(Order::Less, second.next())).await);
    assert!(!holds(&store, range.clone(), Test::Created(Order::Less, second)).await);
    assert!(!holds(&store, range.clone(), Test::Modified(Order::Equal, second)).await);
    assert!(holds(&store, range.clone(), Test::Modified(Order::Greater, Revision(0))).await);
    assert!(holds(&store, range.clone(), Test::Value(b"x".into())).await);
    assert!(holds(&store, range.clone(), Test::Lease(None)).await);
    put(&store, "a/3", "z").await;
    assert!(!holds(&store, range, Test::Value(b"x".into())).await);
}

pub async fn a_comparison_of_an_empty_range_sees_revision_0(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "a", "1").await;
    put(&store, "a0", "1").await;
    sees_revision_0(&store, Keys::prefix("a/")).await;
}

pub async fn values_and_leases_are_compared(fixture: &impl Fixture) {
    let store = fixture.store();
    let (lease, _) = store.grant(std::time::Duration::from_secs(60)).await.unwrap();
    let (other, _) = store.grant(std::time::Duration::from_secs(60)).await.unwrap();
    let bytes = vec![0, 255, 0];
    commit(&store, Txn::new().then(Op::put_leased("a", bytes.clone(), lease)).then(Op::put("b", ""))).await;
    for (key, test, expected) in [
        ("a", Test::Value(bytes), true),
        ("a", Test::Value(vec![0, 255]), false),
        ("b", Test::Value(Vec::new()), true),
        ("a", Test::Lease(Some(lease)), true),
        ("a", Test::Lease(Some(other)), false),
        ("a", Test::Lease(None), false),
        ("b", Test::Lease(None), true),
        ("b", Test::Lease(Some(lease)), false),
    ] {
        assert_eq!(holds(&store, Keys::one(key), test.clone()).await, expected, "{key} {test:?}");
    }
}

pub async fn one_failed_comparison_decides_for_the_other_branch(fixture: &impl Fixture) {
    let store = fixture.store();
    let txn = Txn::new()
        .when(Compare::absent(Keys::one("a")))
        .when(Compare::created_at("b", Revision(7)))
        .then(Op::put("a", "then"))
        .otherwise(Op::put("b", "otherwise"))
        .otherwise(Op::get("a"));
    let committed = commit(&store, txn).await;
    assert!(!committed.succeeded);
    assert_eq!(committed.got(1), Some(&[][..]));
    assert_eq!(get(&store, "b").await.unwrap().value, b"otherwise");
}

pub async fn operations_see_what_the_ones_before_did(fixture: &impl Fixture) {
    let store = fixture.store();
    put(&store, "a/1", "old").await;
    let all = || Op::Get(Range::of(Keys::prefix("a/")));
    let txn = Txn::new().then(all()).then(Op::put("a/2", "new")).then(all()).then(Op::delete("a/1")).then(all());
    let committed = commit(&store, txn).await;
    let found = |index: usize| committed.got(index).unwrap().iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>();
    assert_eq!([found(0), found(2), found(4)], [vec!["a/1"], vec!["a/1", "a/2"], vec!["a/2"]]);
    assert_eq!(committed.got(2).unwrap()[1].modified, committed.revision);
}

pub async fn a_range_is_deleted_and_counted(fixture: &impl Fixture) {
    let store = fixture.store();
    for key in ["a/1", "a/2", "a0", "a"] {
        put(&store, key, "1").await;
    }
    let txn = Txn::new().then(Op::Delete(Keys::prefix("a/"))).then(Op::delete("a/1")).then(Op::delete("none"));
    let Committed { answers, .. } = commit(&store, txn).await;
    assert_eq!(answers, [Answer::Deleted(2), Answer::Deleted(0), Answer::Deleted(0)]);
    assert!(get(&store, "a").await.is_some() && get(&store, "a0").await.is_some());
}

pub async fn a_key_is_not_put_twice(fixture: &impl Fixture) {
    let store = fixture.store();
    assert_refused(&store, Txn::new().then(Op::put("b", "0")).then(Op::put("a", "1")).then(Op::put("a", "2"))).await;
    commit(&store, Txn::new().then(Op::put("a", "1")).otherwise(Op::put("a", "2"))).await;
}

pub async fn a_key_is_not_put_and_deleted(fixture: &impl Fixture) {
    let store = fixture.store();
    assert_refused(&store, Txn::new().then(Op::put("a", "1")).then(Op::delete("a"))).await;
    assert_refused(&store, Txn::new().then(Op::Delete(Keys::prefix("a/"))).then(Op::put("a/1", "1"))).await;
}

pub async fn as_many_operations_as_allowed_are_done_and_no_more(fixture: &impl Fixture) {
    let store = fixture.store();
    let puts = |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.then(Op::put(format!("a/{n:03}"), "1")));
    let compares =
        |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.when(Compare::absent(Keys::one(format!("b/{n}")))));
    assert_eq!(commit(&store, puts(TXN_OPS)).await.answers.len(), TXN_OPS);
    assert!(commit(&store, compares(TXN_OPS)).await.succeeded);
    assert_refused(&store, puts(TXN_OPS + 1)).await;
    assert_refused(&store, compares(TXN_OPS + 1)).await;
}

pub async fn an_oversized_value_is_refused(fixture: &impl Fixture) {
    let store = fixture.store();
    commit(&store, Txn::new().then(Op::put("a", vec![b'x'; 1 << 20]))).await;
    assert_eq!(get(&store, "a").await.unwrap().value.len(), 1 << 20);
    assert_refused(&store, Txn::new().then(Op::put("b", vec![b'x'; 8 << 18]))).await;
}

pub async fn of_many_who_take_a_key_one_gets_it(fixture: &impl Fixture) {
    let store = fixture.store();
    let takers: Vec<_> = (0..32)
        .map(|n| {
            let store = store.clone();
            let take = Txn::new().when(Compare::absent(Keys::one("lock"))).then(Op::put("lock", format!("{n}")));
            tokio::spawn(async move { commit(&store, take).await.succeeded })
        })
        .collect();
    let mut takes = 0;
    for taker in takers {
        takes += usize::from(taker.await.unwrap());
    }
    assert_eq!(takes, 1);
}
