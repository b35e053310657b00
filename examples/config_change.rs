//! Changes a configuration from one instance at a time: `cargo run --example config_change`
//!
//! Three instances add a flag each to one document, which they have to read, change and write back. The lock keeps them
//! apart; and where the document is in the lock's own store, the write compares the hold in its transaction, so that an
//! instance whose lock was taken away meanwhile changes nothing. No update is lost.

use std::path::PathBuf;
use std::time::Duration;

use fencron::lock::{Config, Driver, Hold, LockName, Locks, Namespace, Presence, Seen, Session, Timing};
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Keys, Op, Range, Store, Txn};
use fencron::time::Clock;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where the configuration stands: outside of what belongs to fencron (`/fencron/`).
const DOCUMENT: &str = "/shop/config";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("state.db");
    let mut instances = tokio::task::JoinSet::new();
    for flag in ["dark-mode", "new-checkout", "holiday-prices"] {
        instances.spawn(add_flag(flag, file.clone()));
    }
    while let Some(instance) = instances.join_next().await {
        instance??;
    }

    let (store, locks, session) = instance("operator", file).await?;
    let lock = locks.fenced(LockName::new("config")?, Config::default());
    let mut context = session.context();
    lock.lock(&mut context).await?;
    let hold = lock.hold(&mut context).await?;
    lock.force_unlock().await?; // somebody takes it away
    let written = write(&store, &hold, "overwritten").await?;
    println!("a write under a lock that was taken away: {}", if written { "done!" } else { "refused" });

    println!("the configuration: {}", read(&store).await?);
    session.close().await?;
    Ok(())
}

/// One instance, which wants to change the configuration.
async fn add_flag(flag: &'static str, file: PathBuf) -> Result<(), Failure> {
    let (store, locks, session) = instance(flag, file).await?;
    let lock = locks.fenced(LockName::new("config")?, Config::default());
    let mut context = session.context();
    // Cancelled at its next await, should the lock be lost.
    let written = lock.with_lock(&mut context, async |held| -> Result<bool, Failure> {
        let before = read(&store).await?;
        tokio::time::sleep(Duration::from_millis(50)).await; // time enough for another to write in between
        let flags = if before.is_empty() { flag.to_owned() } else { format!("{before}, {flag}") };
        println!("fence {}: {flags}", held.hold.fence());
        write(&store, &held.hold, &flags).await
    });
    if !written.await?? {
        println!("{flag}: the lock was taken away");
    }
    session.close().await?;
    Ok(())
}

async fn read(store: &SqliteStore) -> Result<String, Failure> {
    let found = store.range(Range::of(Keys::one(DOCUMENT))).await?.entries.pop();
    Ok(String::from_utf8(found.map_or_else(Vec::new, |entry| entry.value))?)
}

/// Writes in one transaction with the proof that `hold` still stands; answers whether it did.
async fn write(store: &SqliteStore, hold: &Hold, flags: &str) -> Result<bool, Failure> {
    let proven = hold.still_held().into_iter().fold(Txn::new(), Txn::when);
    Ok(store.commit(proven.then(Op::put(DOCUMENT, flags))).await?.succeeded)
}

async fn instance(
    name: &str,
    file: PathBuf,
) -> Result<(SqliteStore, Locks<SqliteStore>, Session<SqliteStore>), Failure> {
    let clock = Clock::system();
    let store = SqliteStore::open(&file, clock.clone()).await?;
    let locks = Locks::new(store.clone(), clock, Namespace::new("shop")?, Seen::default());
    let me = Presence { node: name.into(), record: Vec::new() };
    let session = locks.open_session(me, Timing::from_ttl(Duration::from_secs(10))?, Driver::Thread).await?;
    Ok((store, locks, session))
}
