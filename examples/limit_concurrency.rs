//! Runs so many exports at once over several programs, and no more: `cargo run --example limit_concurrency [STORE]`

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fencron::{Client, Error};

static RUNNING: AtomicU32 = AtomicU32::new(0);
static MOST: AtomicU32 = AtomicU32::new(0);

async fn export(name: &str, fencron: Client) -> Result<(), Error> {
    // The number counts for the first program; later it is what the store says, until `set_permits` changes it.
    let exports = fencron.semaphore("exports", 2);
    for number in 1..=2 {
        let body = async |_| {
            let others = RUNNING.fetch_add(1, Ordering::Relaxed);
            MOST.fetch_max(others + 1, Ordering::Relaxed);
            println!("export {name}{number} runs, with {others} other");
            tokio::time::sleep(Duration::from_millis(100)).await; // the export
            RUNNING.fetch_sub(1, Ordering::Relaxed);
        };
        exports.with(body).await?;
    }
    fencron.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = format!("sqlite:{}/state.db", directory.path().display());
    let store = std::env::args().nth(1).unwrap_or(file); // or etcd://10.0.0.1:2379
    let programs = ["a", "b", "c"].map(async |name| export(name, Client::connect(&store).await?).await);
    futures_util::future::try_join_all(programs).await?;
    println!("6 exports, at most {} at once", MOST.load(Ordering::Relaxed));
    Ok(())
}
