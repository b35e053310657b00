//! Workers take the items of a queue, each once: `cargo run --example queue_item [STORE]`
//!
//! An item is removed in a transaction that compares the hold, so that a worker which lost its lock removes nothing.

use fencron::store::{Compare, Keys, Op, Store, Txn};
use fencron::{Client, Error};
const QUEUE: &str = "/shop/queue/";

async fn work(worker: usize, fencron: Client) -> Result<usize, Error> {
    let mut done = 0;
    loop {
        let (items, _) = fencron.store().range_all(Keys::prefix(QUEUE)).await?;
        if items.is_empty() {
            return Ok(done);
        }
        for item in items {
            let Some(guard) = fencron.lock(&item.key).try_acquire().await? else { continue };
            let stands = || guard.txn().when(Compare::created_at(&item.key, item.created)); // not done yet
            if guard.commit(stands()).await?.succeeded {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await; // the work
                done += usize::from(guard.commit(stands().then(Op::delete(&item.key))).await?.succeeded);
                println!("worker {worker} has done {} under fence {}", item.key, guard.fence());
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = format!("sqlite:{}/state.db", directory.path().display());
    let store = std::env::args().nth(1).unwrap_or(file); // or etcd://10.0.0.1:2379
    let items = (1..=9).fold(Txn::new(), |txn, item| txn.then(Op::put(format!("{QUEUE}{item}"), "")));
    Client::connect(&store).await?.store().commit(items).await?;
    let workers = (1..=3).map(async |worker| work(worker, Client::connect(&store).await?).await);
    let done = futures_util::future::try_join_all(workers).await?;
    println!("{} items done, each once", done.iter().sum::<usize>());
    Ok(())
}
