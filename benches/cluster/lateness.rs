//! From the due instant until the process is there: one job a second, on SQLite, on etcd, and, beside them and in the
//! same seconds, on tokio-cron-scheduler alone.

use std::process::Stdio;
use std::time::Duration;

use fencron::execute::{Execute, Executor, MAX_RUNNING, Started, SupervisorProgram, Work};
use fencron::job::AttemptResult;
use fencron::store::Store;
use fencron::store::sqlite::SqliteStore;
use fencron::time::Clock;
use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::figures::{Figures, Spread, millis};
use crate::node::{self, since_epoch, wall};
use crate::support::etcd::{Etcd, EtcdOptions};

const EVERY_SECOND: &str = "version: 1\njobs: {tick: {schedule: '* * * * * *', command: [/bin/true]}}\n";

const TARGET: Duration = Duration::from_millis(15);

pub async fn measure(figures: &mut Figures) {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(directory.path().join("state.db"), Clock::system()).await.unwrap();
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let in_etcd = etcd.store().await;
    let (on_sqlite, on_etcd, alone) = tokio::join!(on_store(&sqlite), on_store(&in_etcd), alone());
    for (store, spread) in [("SQLite", &on_sqlite), ("etcd", &on_etcd)] {
        let met = spread.percent(99) < TARGET;
        figures.judge(format!("lateness of a process, {store}"), spread.to_string(), "p99 < 15 ms", met);
    }
    figures.note("lateness of a process, tokio-cron-scheduler alone", alone.to_string());
    let ratio = alone.percent(50).as_secs_f64() / on_etcd.percent(50).as_secs_f64();
    let difference = millis(alone.percent(50).saturating_sub(on_etcd.percent(50)));
    figures.note("the same, its median to that on etcd", format!("{ratio:.1} times; {difference} more"));
}

/// An executor, and a note of when its processes were there.
#[derive(Clone)]
struct Timed {
    executor: Executor,
    lateness: mpsc::UnboundedSender<Duration>,
}

impl Execute for Timed {
    async fn run(&self, work: Work) -> AttemptResult {
        let (started, when) = Started::channel();
        let due = since_epoch(work.stamp.scheduled_at);
        let Work { job, stamp, params, hold, stop, may_start, output, started: told, reads } = work;
        let note = async {
            if let Ok(at) = when.await {
                self.lateness.send(wall().saturating_sub(due)).ok();
                told.at(at);
            }
        };
        let work = Work { job, stamp, params, hold, stop, may_start, output, started, reads };
        let (ended, ()) = tokio::join!(self.executor.run(work), note);
        ended
    }
}

async fn on_store<S: Store>(store: &S) -> Spread {
    let (lateness, noted) = mpsc::unbounded_channel();
    let execute = Timed {
        executor: Executor::new(Clock::system(), MAX_RUNNING, SupervisorProgram::at(env!("CARGO_BIN_EXE_fencron")))
            .unwrap(),
        lateness,
    };
    let node = node::start(store, execute, EVERY_SECOND).await;
    let spread = collect(noted).await;
    node.stop().await;
    spread
}

async fn alone() -> Spread {
    let (lateness, noted) = mpsc::unbounded_channel();
    let mut scheduler = JobScheduler::new().await.unwrap();
    let job = Job::new_async("* * * * * *", move |_, _| {
        let lateness = lateness.clone();
        Box::pin(async move {
            let mut command = tokio::process::Command::new("/bin/true");
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let now = wall();
            lateness.send(now - Duration::from_secs(now.as_secs())).ok();
            child.wait().await.unwrap();
        })
    });
    scheduler.add(job.unwrap()).await.unwrap();
    scheduler.start().await.unwrap();
    let spread = collect(noted).await;
    scheduler.shutdown().await.unwrap();
    spread
}

async fn collect(mut noted: mpsc::UnboundedReceiver<Duration>) -> Spread {
    let mut samples = Vec::new();
    while samples.len() < crate::lasts(60).as_secs() as usize {
        samples.push(noted.recv().await.expect("the job goes on"));
    }
    Spread::of(samples)
}
