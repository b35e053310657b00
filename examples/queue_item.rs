//! Protects the items of a queue: `cargo run --example queue_item`
//!
//! Three workers take items from a table. Each item is done by whoever holds its lock, and the write that completes it
//! carries the fence of that hold, which the table compares: a worker that stood still for longer than its lease, while
//! another took the item over, is turned away.
//!
//! The workers are tasks here, each with a store and a session of its own, as they would be processes of one machine. For
//! several machines open an `EtcdStore` instead; the table would stand in a database server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fencron::fence::Fence;
use fencron::lock::{Config, Driver, LockName, Locks, Namespace, Presence, Seen, Timing};
use fencron::store::sqlite::SqliteStore;
use fencron::time::Clock;
use rusqlite::Connection;
use tokio::sync::oneshot;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const ITEMS: i64 = 9;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let queue = open_queue(directory.path())?;
    queue
        .execute_batch("CREATE TABLE items (id INTEGER PRIMARY KEY, done_by TEXT, fence INTEGER NOT NULL DEFAULT 0)")?;
    for id in 1..=ITEMS {
        queue.execute("INSERT INTO items (id) VALUES (?1)", [id])?;
    }

    let mut workers = tokio::task::JoinSet::new();
    let (stopped, stands_still) = oneshot::channel();
    workers.spawn(work("worker-1", directory.path().to_owned(), Some(stopped)));
    stands_still.await?;
    for name in ["worker-2", "worker-3"] {
        workers.spawn(work(name, directory.path().to_owned(), None));
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }

    let done: i64 = queue.query_row("SELECT count(*) FROM items WHERE done_by IS NOT NULL", [], |row| row.get(0))?;
    println!("{done} of {ITEMS} items done, each once");
    Ok(())
}

/// One worker: does items until none is left; or stands still with the first, and says when.
async fn work(
    name: &'static str,
    directory: PathBuf,
    mut stand_still: Option<oneshot::Sender<()>>,
) -> Result<(), Failure> {
    let clock = Clock::system();
    let store = SqliteStore::open(&directory.join("locks.db"), clock.clone()).await?;
    let locks = Locks::new(store, clock, Namespace::new("shop")?, Seen::default());
    let me = Presence { node: name.into(), record: Vec::new() };
    let session = locks.open_session(me, Timing::from_ttl(Duration::from_secs(5))?, Driver::Thread).await?;
    let mut context = session.context();
    let queue = open_queue(&directory)?;

    while let Some(items) = open_items(&queue)? {
        for item in items {
            // One lock per item: its name is used once, and nothing of it stays in the store.
            let lock = locks.fenced(LockName::new(&format!("items/{item}"))?, Config::default());
            let Some(fence) = lock.try_lock_and_get_fence(&mut context).await? else { continue };
            if let Some(stopped) = stand_still.take() {
                // As if the process stood still: nothing keeps its session alive any more.
                println!("{name} takes item {item} under fence {fence}, and stands still");
                drop(session);
                stopped.send(()).map_err(|()| "nobody waits for it")?;
                while open_items(&queue)?.is_some_and(|open| open.contains(&item)) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let late = complete(&queue, item, name, fence)?;
                println!("{name} goes on with item {item} under fence {fence}: {}", said(late));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // the work
            if complete(&queue, item, name, fence)? {
                println!("{name} has done item {item} under fence {fence}");
            }
            lock.unlock(&mut context).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    session.close().await?;
    Ok(())
}

/// Writes the result, unless it was written before or under a later fence. All in the one statement: to look first and to
/// write afterwards would leave time in between.
fn complete(queue: &Connection, item: i64, by: &str, fence: Fence) -> Result<bool, Failure> {
    let fence = i64::try_from(fence.get())?; // they stay below 2^53
    let sql = "UPDATE items SET done_by = ?2, fence = ?3 WHERE id = ?1 AND done_by IS NULL AND fence <= ?3";
    Ok(queue.execute(sql, rusqlite::params![item, by, fence])? == 1)
}

fn said(written: bool) -> &'static str {
    if written { "written a second time!" } else { "turned away" }
}

/// The items that are not done yet; `None` where all are.
fn open_items(queue: &Connection) -> rusqlite::Result<Option<Vec<i64>>> {
    let mut items = queue.prepare("SELECT id FROM items WHERE done_by IS NULL ORDER BY id")?;
    let items: Vec<i64> = items.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Some(items).filter(|items| !items.is_empty()))
}

fn open_queue(directory: &Path) -> rusqlite::Result<Connection> {
    let queue = Connection::open(directory.join("queue.db"))?;
    queue.busy_timeout(Duration::from_secs(10))?;
    Ok(queue)
}
