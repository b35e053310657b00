//! A thousand jobs that are due at one instant: until the last of them has been claimed and handed to its executor.

use std::collections::BTreeMap;
use std::time::Duration;

use fencron::store::Store;
use fencron::store::sqlite::SqliteStore;
use fencron::time::{Clock, Wall};
use tokio::sync::mpsc;

use crate::figures::{Figures, Spread};
use crate::node::{self, Nothing};
use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::soon;

const JOBS: usize = 1000;
const BURSTS: usize = 10;
const TARGET: Duration = Duration::from_millis(150);

pub async fn measure(figures: &mut Figures) {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let all = on_store(&etcd.store().await).await;
    let what = format!("{JOBS} jobs due at once, etcd: until the last is claimed");
    figures.judge(what, all.to_string(), "all within 150 ms", all.most() < TARGET);
    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(directory.path().join("state.db"), Clock::system()).await.unwrap();
    figures.note(format!("{JOBS} jobs due at once, SQLite"), on_store(&sqlite).await.to_string());
}

async fn on_store<S: Store>(store: &S) -> Spread {
    let mut text = "version: 1\njobs:\n".to_owned();
    (0..JOBS).for_each(|job| text.push_str(&format!("  job-{job}: {{schedule: '*/2 * * * * *', command: [x]}}\n")));
    let (begun, mut heard) = mpsc::unbounded_channel();
    let node = node::start(store, Nothing { begun }, &text).await;
    let mut bursts: BTreeMap<Wall, Vec<Duration>> = BTreeMap::new();
    let mut whole = Vec::new();
    while whole.len() <= BURSTS {
        let (due, lateness) = soon("a burst goes on", heard.recv()).await.expect("the node runs");
        let burst = bursts.entry(due).or_default();
        burst.push(lateness);
        if burst.len() == JOBS {
            whole.push(lateness);
        }
    }
    node.stop().await;
    // The first may have been due while the node was taking the lead.
    Spread::of(whole.split_off(1))
}
