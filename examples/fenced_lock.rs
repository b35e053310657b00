//! A lock that is entered again, nested, and held by one owner at a time: `cargo run --example fenced_lock [STORE]`
//!
//! Every hold has a fence. Whatever is written to looks at it, so that an owner which lost the lock without knowing it is
//! turned away there.

use fencron::store::Store;
use fencron::{Client, Error};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = format!("sqlite:{}/state.db", directory.path().display());
    let store = std::env::args().nth(1).unwrap_or(file); // or etcd://10.0.0.1:2379
    let (fencron, other) = (Client::connect(&store).await?, Client::connect(&store).await?);
    let (lock, others) = (fencron.lock("accounts"), other.lock("accounts"));

    let inside = async |held: fencron::client::Held| -> Result<(), Error> {
        let again = lock.with(async |again| again.fence()).await?; // no wait, no request
        println!("entered again under the same fence: {}", again == held.fence());
        let both = fencron.lock("audit").with(async |_| lock.with(async |held| held.fence()).await).await??;
        println!("nested, under the same fence: {}", both == held.fence());
        println!("another owner gets it: {}", others.try_acquire().await?.is_some());
        Ok(())
    };
    lock.with(inside).await??;

    let mut newest = 0; // what a resource has to remember
    let mut write = |fence: u64| {
        newest = fence.max(newest);
        fence == newest
    };
    let late = lock.acquire().await?;
    fencron.store().revoke(late.hold().lease()).await?; // as if its process stood still for longer than its lease
    let next = others.acquire().await?;
    println!("the next owner writes: {}", write(next.fence().get()));
    println!("the late owner writes: {}", write(late.fence().get()));
    Ok(next.release().await?)
}
