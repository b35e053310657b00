//! What a node counts of itself while it runs, for its metrics.
//!
//! Pure counting: atomic numbers that the node's loop and the store's callers add to, and that a scrape reads. Nothing
//! here is global, asks a clock or a store, or knows in which format metrics are written (`api::metrics` does). What a
//! scrape can read from the board or the node's status is not counted a second time.
//!
//! Every combination of labels is there from the start, as 0: the rate of what has not happened yet is 0, and not absent.

mod counted;
mod measured;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use counted::{Counters, Exemplar, Histogram, Reading, Traced};
pub use measured::{Measured, OPS, OUTCOMES, Requests, Sizes};

use crate::job::{Channel, Code, Job, Outcome, Task, Verdict};
use crate::ledger::{TermEnd, TermRow};
use crate::scheduler::Batch;
use crate::scheduler::hour::{LATENESS_MS, OTHER};
use crate::scheduler::run::{Done, Source};
use crate::time::Wall;

/// What a job's runs are made by.
pub const EXECUTORS: [&str; 5] = ["command", "http", "sql", "call", REMOVED];

/// The executor of a run whose job the jobs file does not have any more.
pub const REMOVED: &str = "removed";

/// What makes a run due.
pub const SOURCES: [&str; 4] = ["schedule", "after", "trigger", "backfill"];

/// Upper bounds of the lateness of starts, in seconds.
const LATENESS: &[f64] = &in_seconds(LATENESS_MS);

const fn in_seconds<const N: usize>(millis: [u64; N]) -> [f64; N] {
    let (mut seconds, mut nth) = ([0.0; N], 0);
    while nth < N {
        seconds[nth] = millis[nth] as f64 / 1_000.0;
        nth += 1;
    }
    seconds
}

/// Upper bounds of how long runs take, in seconds.
const DURATION: &[f64] = &[0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0];

/// Upper bounds of the time without a leader, in seconds.
const GAP: &[f64] = &[0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0];

/// What waits in channels for alerts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    pub alerts: u64,
    /// How many channels have sent as many messages as they may in this hour.
    pub bound_channels: u64,
    /// How many jobs have had as many messages of a channel as they may in this hour.
    pub bound_jobs: u64,
}

/// What one node has counted since its process started.
#[derive(Debug)]
pub struct Metrics {
    /// Occurrences that this node decided as the leader, by the decision, and for skipped ones by the code of the reason.
    pub occurrences: Counters<(&'static str, &'static str)>,
    /// Verdicts that this node wrote, by executor, verdict and source.
    pub runs: Counters<(&'static str, &'static str, &'static str)>,
    /// From when a run was to start until its first attempt did.
    pub lateness: Traced,
    /// How long the last attempts of runs took, by executor, for runs that were begun.
    pub durations: Vec<(&'static str, Histogram)>,
    /// Attempts that their target turned away because it had seen a greater fence, by executor.
    pub stale_effects: Counters<&'static str>,
    /// Terms that this node began to act under, by how the one before had ended.
    pub takeovers: Counters<&'static str>,
    /// Terms that this node lost: it did not resign.
    pub terms_lost: AtomicU64,
    /// How often the leader could not trust its lease any more.
    pub trust_lapses: AtomicU64,
    /// From when this node learned that there is no leader until it acted as one.
    pub takeover_gap: Histogram,
    /// New jobs files, by what became of them.
    pub config_reloads: Counters<&'static str>,
    /// The other files of the node that it has read again, by which it was and what became of it.
    pub file_reloads: Counters<(&'static str, &'static str)>,
    /// Whether the last content of a file of the node was refused, so that an older one is in force, by which file it is.
    refused: [(&'static str, AtomicBool); WATCHED.len()],
    /// When the certificate of the listener ends, in seconds of Unix; 0: there is none.
    certificate_ends: AtomicI64,
    /// Messages of alerts, by the kind of their channel and what became of them.
    pub alerts: Counters<(&'static str, &'static str)>,
    /// Heartbeats, by what became of them.
    pub heartbeats: Counters<&'static str>,
    /// What waits in each channel, by its name, as the leader has read it last.
    alert_queue: Mutex<BTreeMap<String, Queued>>,
    /// Signs of life of runs, by what became of them.
    pub pings: Counters<&'static str>,
    /// By how many milliseconds the clock of the node that is furthest away differs from this node's.
    clock_skew_ms: AtomicU64,
    /// What was asked of the store.
    pub requests: std::sync::Arc<Requests>,
}

/// The end of the term before the first one.
pub const FIRST: &str = "none";

/// The end of a term of which that is not known.
pub const NOT_KNOWN: &str = "unknown";

/// What becomes of a new jobs file.
pub const RELOADS: [&str; 2] = ["taken", "refused"];

/// The files that a node reads again beside its jobs file.
pub const FILES: [&str; 2] = ["auth", "tls"];

/// The jobs file, as metrics name it.
const JOBS_FILE: &str = "jobs";

/// All files that a node reads again.
const WATCHED: [&str; 3] = [JOBS_FILE, FILES[0], FILES[1]];

/// What becomes of a message of an alert.
pub const ALERTS: [&str; 3] = ["sent", "failed", "given_up"];

/// What becomes of a heartbeat.
pub const HEARTBEATS: [&str; 2] = ["sent", "failed"];

/// What becomes of a sign of life of a run.
pub const PINGS: [&str; 3] = ["sent", "failed", "dropped"];

impl Default for Metrics {
    fn default() -> Metrics {
        let runs = EXECUTORS.iter().flat_map(|executor| {
            let of_verdict = |verdict: &Verdict| SOURCES.map(|source| (*executor, verdict.as_str(), source));
            Verdict::ALL.iter().flat_map(of_verdict).collect::<Vec<_>>()
        });
        let skips = Code::OF_SKIPS.map(Code::as_str).into_iter().chain([OTHER]).map(|reason| ("skip", reason));
        Metrics {
            occurrences: Counters::new([("run", ""), ("wait", "")].into_iter().chain(skips)),
            runs: Counters::new(runs),
            lateness: Traced::new(LATENESS),
            durations: EXECUTORS.map(|executor| (executor, Histogram::new(DURATION))).into(),
            stale_effects: Counters::new(EXECUTORS),
            takeovers: Counters::new(TermEnd::ALL.map(TermEnd::as_str).into_iter().chain([FIRST, NOT_KNOWN])),
            terms_lost: AtomicU64::new(0),
            trust_lapses: AtomicU64::new(0),
            takeover_gap: Histogram::new(GAP),
            config_reloads: Counters::new(RELOADS),
            file_reloads: Counters::new(FILES.iter().flat_map(|file| RELOADS.map(|result| (*file, result)))),
            refused: WATCHED.map(|file| (file, AtomicBool::new(false))),
            certificate_ends: AtomicI64::new(0),
            alerts: Counters::new(Channel::KINDS.iter().flat_map(|kind| ALERTS.map(|result| (*kind, result)))),
            heartbeats: Counters::new(HEARTBEATS),
            alert_queue: Mutex::default(),
            pings: Counters::new(PINGS),
            clock_skew_ms: AtomicU64::new(0),
            requests: std::sync::Arc::default(),
        }
    }
}

/// How many occurrences a batch decides, by the decision: the batch itself is gone by the time it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    run: u64,
    wait: u64,
    /// By the reason.
    skip: BTreeMap<&'static str, u64>,
}

impl Decided {
    /// What `batch` decides. One verdict over many occurrences counts for all of them.
    pub fn by(batch: &Batch) -> Decided {
        let run = batch.opens.iter().filter(|open| open.claimant.is_some()).count();
        let mut skip = BTreeMap::new();
        for done in &batch.dones {
            let reason = done.code.filter(|code| Code::OF_SKIPS.contains(code)).map_or(OTHER, Code::as_str);
            *skip.entry(reason).or_default() += done.many.map_or(1, |many| many.count);
        }
        Decided { run: run as u64, wait: (batch.opens.len() - run) as u64, skip }
    }
}

impl Decided {
    /// How many occurrences are skipped, by the reason.
    pub fn skips(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.skip.iter().map(|(reason, count)| (*reason, *count))
    }
}

impl Metrics {
    /// The store acknowledged a batch.
    pub fn decided(&self, decided: Decided) {
        let Decided { run, wait, skip } = decided;
        self.occurrences.add(&("run", ""), run);
        self.occurrences.add(&("wait", ""), wait);
        for (reason, count) in skip {
            self.occurrences.add(&("skip", reason), count);
        }
    }

    /// The verdict `done` on a run of `job` is in the store (`None`: the jobs file does not have the job any more).
    pub fn ended(&self, job: Option<&Job>, done: &Done) {
        let executor = job.map_or(REMOVED, |job| executor(&job.task));
        self.runs.add(&(executor, done.verdict.as_str(), source(&done.source)), 1);
        let took = done.started_at.filter(|_| done.verdict != Verdict::Unknown).map(|at| done.finished_at.since(at));
        let of_executor = self.durations.iter().find(|(name, _)| *name == executor);
        if let (Some(took), Some((_, histogram))) = (took, of_executor) {
            histogram.observe(took);
        }
    }

    /// What waits in this channel.
    pub fn queued(&self, channel: &str, queued: Queued) {
        self.alert_queue.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.to_owned(), queued);
    }

    /// This node does not know any more how many alerts wait.
    pub fn nothing_queued(&self) {
        self.alert_queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What waits in all channels together; nothing where this node does not lead.
    pub fn alert_queue(&self) -> Queued {
        let queues = self.alert_queue.lock().unwrap_or_else(PoisonError::into_inner);
        queues.values().fold(Queued::default(), |sum, queued| Queued {
            alerts: sum.alerts + queued.alerts,
            bound_channels: sum.bound_channels + queued.bound_channels,
            bound_jobs: sum.bound_jobs + queued.bound_jobs,
        })
    }

    /// An attempt of a run of `job` ended.
    pub fn attempted(&self, job: Option<&Job>, outcome: &Outcome) {
        if matches!(outcome, Outcome::Fenced { .. }) {
            self.stale_effects.add(&job.map_or(REMOVED, |job| executor(&job.task)), 1);
        }
    }

    /// This node acts as the leader. Before, it knew of no leader for `gap`; `None`: it had not seen the end of a term.
    pub fn took_over(&self, gap: Option<Duration>) {
        if let Some(gap) = gap {
            self.takeover_gap.observe(gap);
        }
    }

    /// It acts under a term, and this is what is recorded of the one before; `None`: it could not be read.
    pub fn took_over_from(&self, before: Option<Option<&TermRow>>) {
        let end = match before {
            Some(Some(row)) => row.end.map_or(NOT_KNOWN, TermEnd::as_str),
            Some(None) => FIRST,
            None => NOT_KNOWN,
        };
        self.takeovers.add(&end, 1);
    }

    /// The jobs file was refused, or taken.
    pub fn jobs_file(&self, is_refused: bool) {
        self.config_reloads.add(&RELOADS[usize::from(is_refused)], 1);
        self.is_refused(JOBS_FILE, is_refused);
    }

    /// Another file of the node was read again, and refused or taken.
    pub fn other_file(&self, file: &'static str, is_refused: bool) {
        self.file_reloads.add(&(file, RELOADS[usize::from(is_refused)]), 1);
        self.is_refused(file, is_refused);
    }

    fn is_refused(&self, file: &str, is_refused: bool) {
        for (_, refused) in self.refused.iter().filter(|(name, _)| *name == file) {
            refused.store(is_refused, Ordering::Relaxed);
        }
    }

    /// The files of the node, and whether the last content of each was refused.
    pub fn refused_files(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.refused.iter().map(|(file, refused)| (*file, refused.load(Ordering::Relaxed)))
    }

    /// The certificate that the listener shows ends then.
    pub fn certificate_ends(&self, at: Option<Wall>) {
        self.certificate_ends.store(at.map_or(0, |at| at.as_millis().div_euclid(1_000)), Ordering::Relaxed);
    }

    /// When the certificate ends that the listener shows; `None`: it shows none, or that is not known.
    pub fn end_of_certificate(&self) -> Option<Wall> {
        let seconds = self.certificate_ends.load(Ordering::Relaxed);
        (seconds != 0).then(|| Wall::from_millis(seconds.saturating_mul(1_000)))
    }

    /// The clock of the node that is furthest away differs from this node's by so much.
    pub fn clock_skew(&self, skew: Duration) {
        self.clock_skew_ms.store(u64::try_from(skew.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// By how much the clock of the node that is furthest away differs from this node's.
    pub fn furthest_clock(&self) -> Duration {
        Duration::from_millis(self.clock_skew_ms.load(Ordering::Relaxed))
    }
}

fn executor(task: &Task) -> &'static str {
    match task {
        Task::Command(_) => "command",
        Task::Http(_) => "http",
        Task::Sql(_) => "sql",
        Task::Call => "call",
    }
}

fn source(source: &Source) -> &'static str {
    match source {
        Source::Schedule => "schedule",
        Source::After(_) => "after",
        Source::Trigger { .. } => "trigger",
        Source::Backfill { .. } => "backfill",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};
    use crate::fence::Fence;
    use crate::job::{JobName, RunId};
    use crate::scheduler::run::{Many, Open, Watermark};

    fn open(job: &str) -> Open {
        let (job, at) = (JobName::new(job).unwrap(), Wall::EPOCH);
        Open { started_at: Some(at), ..Open::claimed(RunId::of(&job, at)) }
    }

    #[test]
    fn every_label_is_there_before_anything_happens() {
        let metrics = Metrics::default();
        assert_eq!(metrics.runs.read().count(), EXECUTORS.len() * Verdict::ALL.len() * SOURCES.len());
        assert!(metrics.runs.read().all(|(_, count)| count == 0));
        assert_eq!(metrics.config_reloads.read().collect::<Vec<_>>(), [(&"refused", 0), (&"taken", 0)]);
    }

    #[test]
    fn one_verdict_over_many_occurrences_counts_for_all_of_them() {
        let mut skipped = Done::of(&open("a"), Verdict::Skipped, "paused", Wall::EPOCH);
        skipped.code = Some(Code::Paused);
        let many = Many { from: Wall::EPOCH, count: 40, at_least: false };
        let one = skipped.clone();
        skipped.many = Some(many);
        let batch = Batch {
            number: 1,
            fence: Fence::new(1).unwrap(),
            opens: vec![open("b")],
            dones: vec![skipped, one],
            replaced: Vec::new(),
            alerts: Vec::new(),
            known: Vec::new(),
            watermark: Watermark { instant: Wall::EPOCH, job: None },
            anew: false,
        };
        let metrics = Metrics::default();
        metrics.decided(Decided::by(&batch));
        let counted = metrics.occurrences.read().filter(|(_, count)| *count > 0);
        let counted: Vec<_> = counted.map(|(labels, count)| (*labels, count)).collect();
        assert_eq!(counted, [(("skip", "paused"), 41), (("wait", ""), 1)]);
    }

    #[test]
    fn a_run_is_counted_by_what_it_is_made_by_and_its_time_only_where_it_is_known() {
        let text = "version: 1\njobs:\n  a: {schedule: '@every 1s', shell: 'true'}\n";
        let config = parse(text, &Sources::none()).unwrap();
        let job = config.jobs.values().next().unwrap();
        let metrics = Metrics::default();
        let ended = |verdict, after| Done::of(&open("a"), verdict, "", Wall::from_millis(after));
        metrics.ended(Some(job), &ended(Verdict::Failed, 700));
        metrics.ended(Some(job), &ended(Verdict::Unknown, 9_000_000));
        metrics.ended(None, &ended(Verdict::Succeeded, 100));
        let counted: Vec<_> = metrics.runs.read().filter(|(_, count)| *count > 0).map(|(labels, _)| *labels).collect();
        let expected = [
            ("command", "failed", "schedule"),
            ("command", "unknown", "schedule"),
            ("removed", "succeeded", "schedule"),
        ];
        assert_eq!(counted, expected);
        let Reading { sum, count, .. } = metrics.durations[0].1.read();
        assert_eq!((sum, count), (0.7, 1));
    }
}
