//! Several processes on one SQLite file. A test starts this binary again, with a part to play in its environment.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use fencron::store::sqlite::SqliteStore;
use fencron::store::{Change, Compare, Keys, Op, Revision, Store, Txn};
use fencron::time::Clock;
use rusqlite::Connection;

use crate::fixture::{commit, get, next_changes, put};

const PART: &str = "FENCRON_TEST_PART";
const FILE: &str = "FENCRON_TEST_FILE";

/// How often each of the contending processes increments the counter.
const INCREMENTS: u64 = 150;

/// The part of another process. Run by itself it has none to play.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_process() {
    let (Ok(part), Some(file)) = (std::env::var(PART), std::env::var_os(FILE).map(PathBuf::from)) else { return };
    let store = SqliteStore::open(&file, Clock::system()).await.unwrap();
    match part.as_str() {
        "put" => drop(put(&store, "a/theirs", "1").await),
        "increment" => increment(&store).await,
        "hold" => hold(&store).await,
        "write" => write(&store).await,
        other => panic!("no such part: {other}"),
    }
}

/// Increments the counter as a fenced write is made: on the condition that nobody did in the meantime.
async fn increment(store: &SqliteStore) {
    for _ in 0..INCREMENTS {
        loop {
            let found = get(store, "counter").await.unwrap();
            let count: u64 = String::from_utf8(found.value).unwrap().parse().unwrap();
            let unchanged = Compare::modified_at("counter", found.modified);
            let txn = Txn::new().when(unchanged).then(Op::put("counter", (count + 1).to_string()));
            if commit(store, txn).await.succeeded {
                break;
            }
        }
    }
}

/// Holds a key under a lease of two seconds, kept alive until the process is killed.
async fn hold(store: &SqliteStore) {
    let (lease, ttl) = store.grant(Duration::from_secs(2)).await.unwrap();
    commit(store, Txn::new().then(Op::put_leased("a/held", "1", lease))).await;
    loop {
        tokio::time::sleep(ttl / 8).await;
        store.keep_alive(lease).await.unwrap();
    }
}

/// Writes a number to two keys at once, says so when it is answered, and goes on until it is killed.
async fn write(store: &SqliteStore) {
    for n in 1u64.. {
        commit(store, Txn::new().then(Op::put("left", n.to_string())).then(Op::put("right", n.to_string()))).await;
        println!("\nwritten {n}");
    }
}

/// A started process, killed when it is dropped.
struct Other(Child);

impl Other {
    fn start(part: &str, file: &Path) -> Other {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::another_process", "--nocapture"])
            .env(PART, part)
            .env(FILE, file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Other(child)
    }

    fn lines(&mut self) -> Lines<BufReader<ChildStdout>> {
        BufReader::new(self.0.stdout.take().unwrap()).lines()
    }

    fn assert_done(mut self) {
        assert!(self.0.wait().unwrap().success());
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or_default();
    }
}

async fn fresh() -> (tempfile::TempDir, PathBuf, SqliteStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = SqliteStore::open(&path, Clock::system()).await.unwrap();
    (directory, path, store)
}

#[tokio::test]
async fn contending_processes_lose_no_write() {
    let (_directory, path, store) = fresh().await;
    put(&store, "counter", "0").await;
    let others: Vec<_> = (0..4).map(|_| Other::start("increment", &path)).collect();
    others.into_iter().for_each(Other::assert_done);
    let counter = get(&store, "counter").await.unwrap();
    assert_eq!(counter.value, (4 * INCREMENTS).to_string().as_bytes());
    assert_eq!(counter.modified, Revision(2 + 4 * INCREMENTS), "only what changed something has a revision");
}

#[tokio::test]
async fn processes_that_create_the_file_at_once_share_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let others: Vec<_> = (0..6).map(|_| Other::start("put", &path)).collect();
    others.into_iter().for_each(Other::assert_done);
    let store = SqliteStore::open(&path, Clock::system()).await.unwrap();
    assert_eq!(get(&store, "a/theirs").await.unwrap().modified, Revision(7));
}

#[tokio::test]
async fn a_watch_hears_what_another_process_puts() {
    let (_directory, path, store) = fresh().await;
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    let other = Other::start("put", &path);
    assert_eq!(next_changes(&mut watch).await[0].key(), "a/theirs");
    other.assert_done();
}

#[tokio::test]
async fn the_lease_of_a_killed_process_ends_for_the_others() {
    let (_directory, path, store) = fresh().await;
    let mut watch = store.watch(Keys::prefix("a/"), Revision(2)).await.unwrap();
    let clock = Clock::system();
    let mut other = Other::start("hold", &path);
    assert_eq!(next_changes(&mut watch).await[0].key(), "a/held");
    let held = get(&store, "a/held").await.unwrap();
    // Past its first end: what keeps it is being kept alive.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(get(&store, "a/held").await, Some(held));
    other.kill();
    let killed_at = clock.boot();
    assert!(matches!(&next_changes(&mut watch).await[..], [Change::Deleted { key, .. }] if key == "a/held"));
    let ended_after = clock.boot().since(killed_at);
    assert!(ended_after <= Duration::from_secs(10), "it took {ended_after:?}");
    assert_eq!(get(&store, "a/held").await, None);
}

#[tokio::test]
async fn a_process_killed_amid_its_commits_leaves_the_file_right() {
    let (_directory, path, store) = fresh().await;
    for round in 0..8 {
        let mut other = Other::start("write", &path);
        let mut lines = other.lines();
        let mut number = || loop {
            let line = lines.next()?.unwrap();
            if let Some(number) = line.strip_prefix("written ") {
                return Some(number.parse::<u64>().unwrap());
            }
        };
        (0..20 + 7 * round).for_each(|_| assert!(number().is_some()));
        other.kill();
        let answered = std::iter::from_fn(number).last();
        let (left, right) = (get(&store, "left").await.unwrap(), get(&store, "right").await.unwrap());
        assert_eq!((&left.value, left.modified), (&right.value, right.modified), "both keys or none");
        let found: u64 = String::from_utf8(left.value).unwrap().parse().unwrap();
        assert!(answered.is_none_or(|answered| answered <= found), "{answered:?} was answered, {found} is there");
    }
    let check: String =
        Connection::open(&path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
