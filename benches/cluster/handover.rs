//! From the signal to the leader until the first process that its successor starts, with real processes: after SIGTERM,
//! with which a leader resigns, and after SIGKILL, after which its lease has to end.

use std::time::Duration;

use fencron::store::{AnyStore, StoreUrl};
use fencron::time::Clock;
use nix::sys::signal::Signal;

use crate::figures::{Figures, Spread};
use crate::node::wall;
use crate::process::{Observer, Process, dense_jobs};
use crate::support::etcd::{Etcd, EtcdOptions};

const TTL: Duration = Duration::from_secs(3);
const RESIGNED: Duration = Duration::from_millis(200);
const CRASHED: Duration = Duration::from_secs(TTL.as_secs() + 1);

/// How many jobs are due each second, at moments of their own: the successor waits ten milliseconds for one on average.
const JOBS: usize = 100;

pub async fn measure(figures: &mut Figures) {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", directory.path().join("state.db").display());
    for (name, url) in [("SQLite", sqlite), ("etcd", format!("etcd://{}", etcd.endpoint()))] {
        let (resigned, crashed) = on_store(&url).await;
        let what = format!("SIGTERM until the successor's first start, {name}");
        figures.judge(what, resigned.to_string(), "within 200 ms", resigned.most() < RESIGNED);
        let what = format!("SIGKILL until the successor's first start, {name}, TTL 3 s");
        figures.judge(what, crashed.to_string(), "within the TTL + 1 s", crashed.most() < CRASHED);
    }
}

async fn on_store(url: &str) -> (Spread, Spread) {
    let directory = tempfile::tempdir().unwrap();
    let jobs = format!("version: 1\nnamespace: bench\njobs:\n{}", dense_jobs(JOBS));
    std::fs::write(directory.path().join("jobs.yaml"), jobs).unwrap();
    let parsed: StoreUrl = url.parse().unwrap();
    let observer = Observer::new(AnyStore::open(&parsed, Clock::system()).await.unwrap());

    let start = |number: u64| (format!("n{number}"), Process::start(directory.path(), &format!("n{number}"), url, TTL));
    let mut leader = start(0);
    observer.leads(&leader.0, 0).await;
    let (mut resigned, mut crashed) = (Vec::new(), Vec::new());
    for round in 1..=2 * crate::number("FENCRON_BENCH_ROUNDS", 5) {
        let successor = start(round);
        let fence = observer.leads(&leader.0, 1).await;
        // Wherever in the lease's time that is.
        tokio::time::sleep(Duration::from_millis(1000 + 130 * round)).await;
        let (signal, noted) =
            if round % 2 == 1 { (Signal::SIGTERM, &mut resigned) } else { (Signal::SIGKILL, &mut crashed) };
        let sent = wall();
        leader.1.signal(signal);
        noted.push(observer.first_start_after(fence).await.saturating_sub(sent));
        leader.1.ended().await;
        leader = successor;
    }
    (Spread::of(resigned), Spread::of(crashed))
}
