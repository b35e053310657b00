//! Jobs of a service of several instances, as closures with the whole scheduler: `cargo run --example closures [STORE]`
//!
//! Start it twice over one store (`sqlite:PATH`, `etcd://HOST:PORT`): one instance leads, the other follows it when it is
//! killed. `fencron --store STORE jobs` and `runs` show what they do. Without a store it runs for four seconds, and ends.

use std::time::Duration;

use fencron::Client;
use fencron::jobs::{Missed, Run, after};

async fn report(run: Run) -> Result<(), std::io::Error> {
    run.log(format_args!("the report of {}", run.scheduled_at()));
    println!("{} under fence {}", run.id(), run.fence());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = std::env::args().nth(1);
    let fencron = Client::connect(store.as_deref().unwrap_or("memory:")).await?;
    let jobs = fencron
        .jobs()
        .job("report", "* * * * * *", report) // `0 2 * * *`, for the nights
        .zone("Europe/Berlin")
        .retry(3)
        .missed(Missed::Latest)
        .done()
        .job("send", after("report"), async |run: Run| println!("{} is sent", run.id()))
        .done()
        .start()
        .await?;
    if store.is_some() {
        return Ok(jobs.ended().await?);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let run = jobs.trigger("send", &[]).await?;
    println!("asked for: {} {}", run.job(), jobs.verdict(&run).await?.verdict);
    Ok(jobs.stop(Duration::from_secs(30)).await?)
}
