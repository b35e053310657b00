//! Limits how many do something at once, over all instances: `cargo run --example limit_concurrency`
//!
//! Three instances make two exports each; a semaphore lets two of the six run at a time. Permits belong to sessions: those
//! of an instance that crashes come back by themselves.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fencron::lock::{Driver, LockName, Locks, Namespace, Presence, Seen, Timing};
use fencron::store::sqlite::SqliteStore;
use fencron::time::Clock;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const AT_ONCE: u32 = 2;

/// How many exports run, and how many ran at most: for the output, and seen only because the instances are tasks here.
#[derive(Default)]
struct Running {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("state.db");
    let running = Arc::new(Running::default());
    let mut instances = tokio::task::JoinSet::new();
    for name in ["a", "b", "c"] {
        instances.spawn(instance(name, file.clone(), Arc::clone(&running)));
    }
    while let Some(instance) = instances.join_next().await {
        instance??;
    }
    println!("6 exports, at most {} at once", running.most.load(Ordering::Relaxed));
    Ok(())
}

async fn instance(name: &'static str, file: PathBuf, running: Arc<Running>) -> Result<(), Failure> {
    let clock = Clock::system();
    let locks =
        Locks::new(SqliteStore::open(&file, clock.clone()).await?, clock, Namespace::new("shop")?, Seen::default());
    let me = Presence { node: name.into(), record: Vec::new() };
    let session = locks.open_session(me, Timing::from_ttl(Duration::from_secs(10))?, Driver::Thread).await?;
    // The number counts for who comes first; later it is what the store says, and `Semaphore::set_permits` changes it.
    let exports = locks.semaphore(LockName::new("exports")?, AT_ONCE);
    let export = async |number: u32| -> Result<(), Failure> {
        let permit = exports.acquire(&session, 1).await?;
        let now = running.now.fetch_add(1, Ordering::Relaxed) + 1;
        running.most.fetch_max(now, Ordering::Relaxed);
        println!("export {name}{number} runs, with {} other", now - 1);
        tokio::time::sleep(Duration::from_millis(100)).await; // the export
        running.now.fetch_sub(1, Ordering::Relaxed);
        permit.release().await?;
        Ok(())
    };
    tokio::try_join!(export(1), export(2))?;
    session.close().await?;
    Ok(())
}
