//! The program itself, as a process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fencron::ledger::{Find, RunRow};
use fencron::lock::{LockName, Locks, Seen};
use fencron::scheduler::run::Done;
use fencron::store::Store;
use fencron::time::Clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{self, since_epoch};
use crate::support::until;

/// The program that is measured.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_fencron");

/// The clock ticks in which Linux tells processor time.
const TICKS_A_SECOND: f64 = 100.0;

/// A node in a process of its own. Killed when it is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `fencron run` in `directory`, on the file `jobs.yaml` there. Its log is the file `NAME.log` there.
    pub fn start(directory: &Path, name: &str, store: &str, ttl: Duration) -> Process {
        let log = directory.join(format!("{name}.log"));
        let child = Command::new(PROGRAM)
            .args(["run", "jobs.yaml", "--node", name, "--store", store])
            .args(["--state-dir", name, "--ttl", &format!("{}s", ttl.as_secs())])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        let what = format!("the process ends (its log: {})", self.log.display());
        until(&what, || std::future::ready(self.child.try_wait().unwrap())).await;
    }

    /// The processor time it has taken so far, in seconds.
    pub fn processor_time(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        let times = after_name.split_whitespace().skip(11).take(2);
        times.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS_A_SECOND
    }

    /// What it has in memory now, and the most it had, in MB.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024 / 1_000_000
        };
        (value("VmRSS:"), value("VmHWM:"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

/// Jobs of which one is due at almost every moment: so many, each once a second, spread over the second.
pub fn dense_jobs(many: usize) -> String {
    let job =
        |job| format!("  dense-{job}: {{schedule: '@every 1s', command: [/bin/true], jitter: 1s, overlap: queue}}\n");
    (0..many).map(job).collect()
}

/// What the store says of who leads and who waits.
pub struct Observer<S> {
    store: S,
}

impl<S: Store> Observer<S> {
    pub fn new(store: S) -> Observer<S> {
        Observer { store }
    }

    /// Waits until this node leads, and so many others stand in the queue; answers its fence.
    pub async fn leads(&self, name: &str, waiting: usize) -> u64 {
        let locks = Locks::new(self.store.clone(), Clock::system(), node::namespace(), Seen::default());
        let election = locks.election(LockName::leader());
        until(&format!("{name} leads"), async || {
            let standing = election.observe().await.unwrap();
            let leader = standing.leader.filter(|leader| leader.node == name && standing.waiting.len() == waiting);
            leader.map(|leader| leader.fence.get())
        })
        .await
    }

    /// When the first process was started under a fence above this one.
    pub async fn first_start_after(&self, fence: u64) -> Duration {
        let first = until("the successor starts something", async || {
            let later = |done: &Done| done.claimant.as_ref().is_some_and(|claimant| claimant.fence.get() > fence);
            self.verdicts().await.into_iter().filter(later).filter_map(|done| done.started_at).min()
        })
        .await;
        since_epoch(first)
    }

    /// The last verdicts, the newest first.
    pub async fn verdicts(&self) -> Vec<Done> {
        let find = Find { done: true, limit: 3_000, ..Find::default() };
        let rows = node::ledger(&self.store).runs(&find, |_| true).await.unwrap();
        let done = rows.into_iter().filter_map(|row| match row {
            RunRow::Done(done) => Some(done),
            RunRow::Open(_) => None,
        });
        done.collect()
    }
}
