//! Files that are not what they should be, and what happens to a file while it is used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fencron::store::sqlite::SqliteStore;
use fencron::store::{Keys, Op, Range, Revision, Store, StoreError, Txn};
use fencron::time::Clock;
use rusqlite::Connection;

use crate::fixture::{commit, get, keys, put, soon};

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, Clock::system()).await
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    (directory, path)
}

async fn unusable(path: &Path) -> String {
    match open(path).await {
        Err(StoreError::Unusable(why)) => why,
        other => panic!("not unusable: {other:?}"),
    }
}

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    let (_directory, path) = place();
    let revision = put(&open(&path).await.unwrap(), "a", "1").await;
    let again = open(&path).await.unwrap();
    assert_eq!(get(&again, "a").await.unwrap().modified, revision);
    assert_eq!(put(&again, "a", "2").await, revision.next());
}

#[tokio::test]
async fn a_missing_directory_is_made_and_nobody_else_may_read() {
    let (directory, _) = place();
    let path = directory.path().join("x/y/state.db");
    put(&open(&path).await.unwrap(), "a", "1").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(mode(&path.with_extension("db-wal")), 0o600);
}

/// Two names have two write-ahead logs: who opens the one does not see what was written by the other.
#[tokio::test]
async fn a_file_with_two_names_is_refused_under_both() {
    let (directory, path) = place();
    drop(open(&path).await.unwrap());
    let other = directory.path().join("other.db");
    fs::hard_link(&path, &other).unwrap();
    for path in [&path, &other] {
        let why = unusable(path).await;
        assert!(why.contains("2 names"), "{why}");
    }
    fs::remove_file(&other).unwrap();
    open(&path).await.unwrap();
}

#[tokio::test]
async fn a_place_where_no_file_can_be_is_denied() {
    let (directory, _) = place();
    fs::write(directory.path().join("file"), "").unwrap();
    let opened = open(&directory.path().join("file/state.db")).await;
    assert!(matches!(opened, Err(StoreError::Denied { .. })), "{opened:?}");
    let opened = open(directory.path()).await;
    assert!(matches!(opened, Err(StoreError::Denied { .. })), "{opened:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_as_it_is() {
    let (_directory, path) = place();
    let text = "version: 1\n".repeat(100);
    fs::write(&path, &text).unwrap();
    assert!(unusable(&path).await.contains("not a SQLite database"));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_database_of_another_application_is_left_as_it_is() {
    let (_directory, path) = place();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE meta (x); CREATE TABLE theirs (x);").unwrap();
    let before = fs::read(&path).unwrap();
    assert!(unusable(&path).await.contains("another application"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_left_as_it_is() {
    let (_directory, path) = place();
    drop(open(&path).await.unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(unusable(&path).await.contains("newer fencron"));
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let (_directory, path) = place();
    fs::write(&path, "").unwrap();
    assert_eq!(put(&open(&path).await.unwrap(), "a", "1").await, Revision(2));
}

#[tokio::test]
async fn leases_of_another_boot_have_ended_with_their_keys() {
    let (_directory, path) = place();
    let before = open(&path).await.unwrap();
    let (lease, _) = before.grant(Duration::from_secs(3600)).await.unwrap();
    commit(&before, Txn::new().then(Op::put_leased("a/1", "1", lease)).then(Op::put("a/2", "1"))).await;
    drop(before);
    Connection::open(&path).unwrap().execute_batch("UPDATE meta SET boot = 'another'").unwrap();
    let after = open(&path).await.unwrap();
    assert_eq!(keys(&after, Range::of(Keys::prefix("a/"))).await, ["a/2"]);
    let kept = after.keep_alive(lease).await;
    assert!(matches!(kept, Err(StoreError::LeaseEnded(_))), "{kept:?}");
}

#[tokio::test]
async fn who_sees_another_boot_than_the_one_that_opened_last_is_turned_away() {
    let (_directory, path) = place();
    let store = open(&path).await.unwrap();
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    let (lease, _) = store.grant(Duration::from_secs(3600)).await.unwrap();
    Connection::open(&path).unwrap().execute_batch("UPDATE meta SET boot = 'another'").unwrap();
    for answer in [store.keep_alive(lease).await.err(), store.range(Range::of(Keys::one("a"))).await.err()] {
        assert!(matches!(&answer, Some(StoreError::Unusable(why)) if why.contains("boot")), "{answer:?}");
    }
    assert_eq!(soon(watch.next()).await, None, "its watches end");
}

#[tokio::test]
async fn a_file_that_is_deleted_or_replaced_in_use_is_written_no_more() {
    let (_directory, path) = place();
    let store = open(&path).await.unwrap();
    put(&store, "a", "1").await;
    fs::rename(&path, path.with_extension("old")).unwrap();
    let gone = store.commit(Txn::new().then(Op::put("a", "2"))).await;
    assert!(matches!(&gone, Err(StoreError::Unusable(why)) if why.contains("replaced")), "{gone:?}");
    fs::write(&path, "").unwrap();
    let replaced = store.commit(Txn::new().then(Op::put("a", "2"))).await;
    assert!(matches!(&replaced, Err(StoreError::Unusable(_))), "{replaced:?}");
}

/// Another connection that holds the file's write lock.
fn lock(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

#[tokio::test]
async fn a_lock_that_is_not_let_go_of_is_unavailable_and_nothing_was_written() {
    let (_directory, path) = place();
    let store = open(&path).await.unwrap();
    let locked = lock(&path);
    let answer = store.commit(Txn::new().then(Op::put("a", "1"))).await;
    assert!(matches!(&answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
    drop(locked);
    assert_eq!(put(&store, "b", "1").await, Revision(2));
    assert_eq!(get(&store, "a").await, None);
}

#[tokio::test]
async fn a_write_that_was_not_answered_in_time_is_unknown_until_it_is_read_back() {
    let (_directory, path) = place();
    let store = open(&path).await.unwrap();
    let locked = lock(&path);
    // Time runs ahead to the time-out, while the file is still locked.
    tokio::time::pause();
    let answer = store.commit(Txn::new().then(Op::put("a", "1"))).await;
    tokio::time::resume();
    assert!(answer.as_ref().is_err_and(StoreError::is_unknown), "{answer:?}");
    drop(locked);
    // Writes are done in their order: behind this one, it is settled whether the other was.
    let next = put(&store, "b", "1").await;
    match get(&store, "a").await {
        Some(entry) => assert_eq!((entry.modified, next), (Revision(2), Revision(3))),
        None => assert_eq!(next, Revision(2)),
    }
}

#[tokio::test]
async fn history_is_bounded() {
    use fencron::store::sqlite::HISTORY;
    let (_directory, path) = place();
    let store = open(&path).await.unwrap();
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..HISTORY / 64 + 10 {
                    put(&store, &format!("a/{n}"), "1").await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let read = store.range(Range { at: Some(Revision(5)), ..Range::of(Keys::one("a/1")) }).await;
    assert!(matches!(read, Err(StoreError::Compacted { .. })), "{read:?}");
    drop(store);
    let rows = Connection::open(&path).unwrap().query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0));
    assert!(rows.unwrap().unsigned_abs() <= HISTORY + 300);
}

#[tokio::test]
async fn it_says_what_it_is() {
    let (_directory, path) = place();
    let about = open(&path).await.unwrap().about().await.unwrap();
    assert_eq!((about.kind, about.warnings.len()), ("sqlite", 0));
    assert!(about.size.unwrap() > 0);
}
