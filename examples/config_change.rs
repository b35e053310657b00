//! Changes one document from several programs, one at a time: `cargo run --example config_change [STORE]`
//!
//! Each reads the document, changes it and writes it back under one lock. The write compares the hold in its transaction,
//! so that a program which lost the lock in between changes nothing: no update is lost.

use fencron::store::Op;
use fencron::{Client, Error};
const DOCUMENT: &str = "/shop/flags"; // outside of what belongs to fencron (`/fencron/`)

async fn add(flag: &str, fencron: Client) -> Result<(), Error> {
    let change = async |held: fencron::client::Held| {
        let found = held.commit(held.txn().then(Op::get(DOCUMENT))).await?;
        let before =
            found.got(0).and_then(<[_]>::first).map_or("".into(), |entry| String::from_utf8_lossy(&entry.value));
        let after = format!("{before} {flag}");
        println!("fence {}:{after}", held.fence());
        held.commit(held.txn().then(Op::put(DOCUMENT, after))).await
    };
    fencron.lock("flags").with(change).await??; // the lock's, then the body's
    fencron.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = format!("sqlite:{}/state.db", directory.path().display());
    let store = std::env::args().nth(1).unwrap_or(file); // or etcd://10.0.0.1:2379
    let programs = ["dark-mode", "new-checkout", "holiday-prices"].map(async |flag| {
        add(flag, Client::connect(&store).await?).await // each with a session of its own
    });
    futures_util::future::try_join_all(programs).await?;

    let fencron = Client::connect(&store).await?;
    let late = fencron.lock("flags").acquire().await?;
    fencron.locks().fenced(late.name().clone(), Default::default()).force_unlock().await?; // an operator takes it away
    println!("{}", late.commit(late.txn().then(Op::put(DOCUMENT, "overwritten"))).await.unwrap_err());
    Ok(())
}
