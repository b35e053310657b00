//! How many occurrences a second a whole node brings from due to verdict, where the tasks themselves do nothing.

use fencron::store::{Keys, Store};
use fencron::time::Clock;
use tokio::sync::mpsc;

use crate::figures::{Figures, Spread};
use crate::node::{self, Nothing};
use crate::support::etcd::{Etcd, EtcdOptions};

const TARGET: f64 = 8_000.0;

pub async fn measure(figures: &mut Figures) {
    let etcd = Etcd::start(EtcdOptions::with(&["--quota-backend-bytes", "8589934592"])).await;
    let (rate, lateness) = rate(&etcd.store().await).await;
    let reached = format!("{rate:.0} a second");
    figures.judge("claims with their verdicts, a whole node, etcd", reached, "at least 8,000 a second", rate >= TARGET);
    figures.note("lateness meanwhile, until handed to the executor", lateness.to_string());
}

/// `FENCRON_BENCH_OFFERED` occurrences are due every second: those that succeed, a second, from the first one on until
/// the last verdict is written; and how late they were.
async fn rate<S: Store>(store: &S) -> (f64, Spread) {
    let offered = crate::number("FENCRON_BENCH_OFFERED", 10_000);
    let mut text = "version: 1\njobs:\n".to_owned();
    (0..offered)
        .for_each(|job| text.push_str(&format!("  job-{job}: {{schedule: '@every 1s', command: [x], jitter: 1s}}\n")));
    let (begun, mut heard) = mpsc::unbounded_channel();
    let clock = Clock::system();
    let node = node::start(store, Nothing { begun }, &text).await;
    let first = heard.recv().await.expect("the node runs");
    let began = clock.boot();
    tokio::time::sleep(crate::lasts(15)).await;
    node.stop().await;
    let took = clock.boot().since(began);
    let mut lateness = vec![first.1];
    while let Some((_, late)) = heard.recv().await {
        lateness.push(late);
    }
    let done = succeeded(store).await;
    assert_eq!(done, lateness.len(), "every attempt has its verdict");
    (done as f64 / took.as_secs_f64(), Spread::of(lateness))
}

async fn succeeded<S: Store>(store: &S) -> usize {
    let (entries, _) = store.range_all(Keys::prefix(format!("{}~done/", node::namespace().prefix()))).await.unwrap();
    let is_success = |value: &[u8]| value.windows(SUCCEEDED.len()).any(|part| part == SUCCEEDED);
    entries.iter().filter(|entry| is_success(&entry.value)).count()
}

const SUCCEEDED: &[u8] = br#""verdict":"succeeded""#;
