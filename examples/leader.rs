//! Elects a leader, keeps it elected, and follows it: `cargo run --example leader [STORE]`
//!
//! The leader's lease is renewed in the background for as long as its program lives; when it stops, the next one leads
//! at once, under a greater fence. After a crash that takes a TTL.

use std::time::Duration;

use fencron::Client;
use fencron::elected::{Elected, Led};
use fencron::store::AnyStore;

const TTL: Duration = Duration::from_secs(2);

async fn leads(instance: &Elected<AnyStore>) -> Led {
    let mut terms = instance.terms();
    let led = terms.wait_for(Option::is_some).await.expect("it stands until it is stopped");
    led.clone().expect("waited for")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = format!("sqlite:{}/state.db", directory.path().display());
    let store = std::env::args().nth(1).unwrap_or(file); // or etcd://10.0.0.1:2379
    let stand = async |node| Client::builder().node(node).ttl(TTL).connect(&store).await?.elected("reports");

    let first = stand("first").await?;
    let term = leads(&first).await;
    println!("first leads under fence {}", term.term.fence());
    let second = stand("second").await?;
    tokio::time::sleep(TTL * 2).await;
    println!("two TTLs later its lease was renewed: {}", !term.signal.is_cancelled());

    first.stop(Duration::from_secs(10)).await;
    let next = leads(&second).await;
    println!("second leads under a greater fence: {}", next.term.fence() > term.term.fence());
    second.stop(Duration::from_secs(10)).await;
    Ok(())
}
