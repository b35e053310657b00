//! `/metrics`: what a node has counted, and what its board says, for Prometheus.
//!
//! Everything is read when it is asked for, from memory: a scrape costs no request to the store, and a job that is gone
//! leaves no series behind. `docs/metrics.md` explains each metric.

mod requests;
mod sheet;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::{Registry, Unit};

use super::Api;
use super::routes::{self, Chosen};
use crate::board::{Board, Counts, Cursor, FindJobs, JobRow, Leader, Order, Own, PAGE_MOST, Shared};
use crate::job::Verdict;
use crate::lock::{Tallied, Tally};
use crate::metrics::{Exemplar, Metrics};
use crate::node::Status;
use crate::scheduler::run::{Last, OpenState};
use crate::store::Store;
use crate::time::{Boot, Wall};
use requests::Requests;
use sheet::Sheet;

/// How many jobs have series of their own unless configured otherwise: each has [`SERIES_PER_JOB`].
pub const JOBS_MOST: usize = 1_000;

/// How many series a job has of its own.
pub const SERIES_PER_JOB: usize = 5;

/// The media type of OpenMetrics, which Prometheus prefers.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text";

const OPEN_METRICS_ANSWER: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What metrics are made of, beside the board and the status.
#[derive(Clone, Debug)]
pub struct Counted {
    pub metrics: Arc<Metrics>,
    /// How many jobs have series of their own: the first by name.
    pub jobs_most: usize,
    /// Whether the supervisor of commands is there; `None`: this node has none.
    pub supervised: Option<Arc<AtomicBool>>,
    requests: Arc<Requests>,
}

impl Counted {
    /// What this node counts; as many jobs have series of their own.
    pub fn new(metrics: Arc<Metrics>, jobs_most: usize) -> Counted {
        Counted { metrics, jobs_most, supervised: None, requests: Arc::default() }
    }

    /// The same of a node with a supervisor, which is there while this is true.
    #[must_use]
    pub fn supervised(self, is_up: Arc<AtomicBool>) -> Counted {
        Counted { supervised: Some(is_up), ..self }
    }

    /// A request was answered.
    pub(super) fn answered(&self, answer: &Response) {
        self.requests.answered(answer);
    }
}

impl Default for Counted {
    fn default() -> Counted {
        Counted::new(Arc::default(), JOBS_MOST)
    }
}

/// The metrics of this node: as OpenMetrics where the client prefers that, otherwise in Prometheus' own format.
pub(super) async fn metrics<S: Store>(
    State(api): State<Api<S>>,
    Extension(Chosen(media)): Extension<Chosen>,
) -> Response {
    let (boot, wall) = api.clock.both();
    api.glance.scraped(boot);
    let seen = api.glance.seen();
    let unknown = seen.last.map(|(seen, _)| seen.unknown.count);
    let (routes, streams) = (routes::paths::<S>(), api.streams.count());
    let listener = Listener { routes, streams, unknown, locks: seen.tally };
    let status = api.status.borrow().clone();
    let scrape = Scrape::new(status, &api.board, (api.counted.clone(), listener), (boot, wall));
    let is_open = media == OPEN_METRICS;
    let content_type = if is_open { OPEN_METRICS_ANSWER } else { prometheus_text::CONTENT_TYPE };
    ([(header::CONTENT_TYPE, content_type)], written(scrape, api.ledger.namespace().as_str(), is_open)).into_response()
}

fn written(scrape: Scrape, namespace: &str, is_open: bool) -> String {
    let labels = [("fencron_namespace".into(), namespace.to_owned().into())];
    let exemplars: Vec<_> = scrape.counted.metrics.lateness.exemplars().collect();
    let mut registry = Registry::with_prefix_and_labels("fencron", labels.into_iter());
    registry.register_collector(Box::new(scrape));
    let mut page = String::new();
    let written =
        if is_open { text::encode(&mut page, &registry) } else { prometheus_text::encode(&mut page, &registry) };
    written.expect("a String takes all that is written");
    if is_open { with_exemplars(&page, LATENESS_BUCKET, &exemplars) } else { page }
}

/// How a line begins that holds a bucket of the lateness of starts.
const LATENESS_BUCKET: &str = "fencron_run_lateness_seconds_bucket{";

/// The page in OpenMetrics, with an exemplar at each bucket that has one: the buckets are the lines which begin with
/// `bucket`, in their order. prometheus-client writes exemplars of its own histograms only.
fn with_exemplars(page: &str, bucket: &str, exemplars: &[Option<Exemplar>]) -> String {
    let mut exemplars = exemplars.iter();
    let mut written = String::with_capacity(page.len() + 128 * exemplars.len());
    for line in page.split_inclusive('\n') {
        let exemplar = line.starts_with(bucket).then(|| exemplars.next()).flatten();
        let Some(Exemplar { took, trace, at }) = exemplar.and_then(Option::as_ref) else {
            written.push_str(line);
            continue;
        };
        let (trace, took, at) = (format!("{:032x}", u128::from_be_bytes(*trace)), took.as_secs_f64(), seconds(*at));
        written.push_str(line.trim_end());
        writeln!(written, r#" # {{trace_id="{trace}"}} {took} {at}"#).expect("a String takes all that is written");
    }
    written
}

/// What the listener has beside the board.
#[derive(Debug, Default)]
struct Listener {
    /// The paths of its routes.
    routes: &'static [&'static str],
    /// How many answers go on.
    streams: usize,
    /// How many runs were in doubt when the node last looked; `None`: it has not looked yet.
    unknown: Option<usize>,
    /// What was held and waited for then; `None`: no scrape had asked for it before.
    locks: Option<Tally>,
}

/// One scrape: what is written, taken from the board in one go.
#[derive(Debug)]
struct Scrape {
    status: Status,
    counted: Counted,
    listener: Listener,
    own: Own,
    leader: Option<Leader>,
    fence: Option<u64>,
    nodes: usize,
    /// How many of them are drained.
    drained: usize,
    counts: Counts,
    /// How many jobs the jobs file has.
    configured: usize,
    /// The open runs, by state.
    open: [(&'static str, u64); 4],
    /// The runs that wait, by what for.
    waiting: [(&'static str, u64); 4],
    /// Since when the first occurrence is due that has not been decided; in the future where none is.
    due: Option<Wall>,
    jobs: Vec<JobSeries>,
    now: (Boot, Wall),
}

/// What the series of one job say.
#[derive(Debug)]
struct JobSeries {
    name: String,
    next: Option<f64>,
    succeeded: Option<f64>,
    took: Option<f64>,
    is_failing: bool,
    is_paused: bool,
}

impl Scrape {
    fn new(status: Status, board: &Shared, counted: (Counted, Listener), now: (Boot, Wall)) -> Scrape {
        let (counted, listener) = counted;
        let jobs = series(board, counted.jobs_most, now.1);
        let board = board.read();
        Scrape {
            own: board.this_node().clone(),
            leader: board.leader().cloned(),
            fence: board.fence().map(crate::fence::Fence::get),
            nodes: board.nodes().count(),
            drained: board.nodes().filter(|(_, node)| node.drained).count(),
            counts: board.counts(now.1),
            configured: status.jobs,
            open: open_runs(&board),
            waiting: board.waiting(now.1).map(|(wait, count)| (wait.as_str(), count)),
            due: board.next_fires().next().map(|(start, _)| start),
            status,
            counted,
            listener,
            jobs,
            now,
        }
    }
}

/// The series of the first jobs of the jobs file, by name. The board is not held between two pages: the loop waits for it.
fn series(board: &Shared, most: usize, now: Wall) -> Vec<JobSeries> {
    let mut series: Vec<JobSeries> = Vec::new();
    let mut after: Option<Cursor> = None;
    while series.len() < most {
        let find = FindJobs { order: Order::Name, after, limit: PAGE_MOST, ..FindJobs::default() };
        let board = board.read();
        let page = board.jobs(&find, now);
        let configured = page.jobs.into_iter().filter(|row| board.definition(&row.name).is_some());
        series.extend(configured.take(most - series.len()).map(JobSeries::of));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    series
}

impl JobSeries {
    fn of(row: JobRow) -> JobSeries {
        let last = row.last.as_ref();
        let took = last.filter(|last| !matches!(last.verdict, Verdict::Unknown | Verdict::Skipped));
        let took = took.and_then(|last| Some(last.finished_at.since(last.started_at?).as_secs_f64()));
        JobSeries {
            name: row.name.to_string(),
            next: row.next_start.map(seconds),
            succeeded: last.and_then(|last| last.succeeded_at).map(seconds),
            took,
            is_failing: last.is_some_and(Last::is_bad),
            is_paused: row.paused.is_some(),
        }
    }
}

fn open_runs(board: &Board) -> [(&'static str, u64); 4] {
    let (mut waiting, mut claimed, mut running, mut retrying) = (0, 0, 0, 0);
    for open in board.open_runs() {
        match open.state {
            OpenState::Waiting { .. } => waiting += 1,
            OpenState::Claimed if open.started_at.is_some() => running += 1,
            OpenState::Claimed => claimed += 1,
            OpenState::Retrying { .. } => retrying += 1,
        }
    }
    [("waiting", waiting), ("claimed", claimed), ("running", running), ("retrying", retrying)]
}

/// An instant as Prometheus has it.
fn seconds(at: Wall) -> f64 {
    let millis = i32::try_from(at.as_millis().rem_euclid(1_000)).unwrap_or_default();
    // Exact: a double holds all whole seconds of any calendar.
    at.as_millis().div_euclid(1_000) as f64 + f64::from(millis) / 1_000.0
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut sheet = Sheet::new(encoder);
        self.node(&mut sheet)?;
        self.leadership(&mut sheet)?;
        self.schedules(&mut sheet)?;
        self.runs(&mut sheet)?;
        self.store(&mut sheet)?;
        self.locks(&mut sheet)?;
        self.http(&mut sheet)?;
        self.each_job(&mut sheet)
    }
}

impl Scrape {
    fn node(&self, sheet: &mut Sheet<'_>) -> std::fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        let build = [("version", version), ("node", self.status.node.as_str())];
        sheet.info("build", "The program, and the name of its node", &build)?;
        sheet.info("config", "The jobs file of this node", &[("digest", self.status.config_digest.as_str())])?;
        let ready = f64::from(self.status.ready);
        sheet.gauge("ready", None, "1 while the node can take part, as /readyz says", ready)?;
        sheet.gauge("nodes", None, "Nodes of the namespace that this node knows of", self.nodes as f64)?;
        let help = "Nodes among them that a person has drained: they do not lead";
        sheet.gauge("nodes_drained", None, help, self.drained as f64)?;
        let metrics = &self.counted.metrics;
        let skew = metrics.furthest_clock().as_secs_f64();
        let help = "Difference between this node's clock and that of the node furthest from it";
        sheet.gauge("clock_skew", Some(&Unit::Seconds), help, skew)?;
        if let Some(is_up) = &self.counted.supervised {
            let is_up = f64::from(is_up.load(Ordering::Relaxed));
            sheet.gauge(
                "supervisor_up",
                None,
                "1 while the supervisor is there without which no command starts",
                is_up,
            )?;
        }
        let reloads = metrics.config_reloads.read().map(|(result, count)| ([("result", *result)], count));
        sheet.counters("config_reloads", "New jobs files that this node read", reloads)?;
        let files = metrics.file_reloads.read();
        let files = files.map(|((file, result), count)| ([("file", *file), ("result", *result)], count));
        sheet.counters("file_reloads", "Rules of --auth, and certificates, that this node read again", files)?;
        let refused = metrics.refused_files().map(|(file, is_refused)| ([("file", file)], f64::from(is_refused)));
        let help = "1 while the last content of a file was refused, so that an older one is in force";
        sheet.gauges("file_refused", None, help, refused)?;
        if let Some(ends) = metrics.end_of_certificate() {
            let help = "When the certificate of the listener ends";
            sheet.gauge("tls_certificate_not_after_timestamp", Some(&Unit::Seconds), help, seconds(ends))?;
        }
        let alerts = metrics.alerts.read();
        let alerts = alerts.map(|((channel, result), count)| ([("channel", *channel), ("result", *result)], count));
        sheet.counters("alerts", "Messages of alerts that this node sent, by the kind of their channel", alerts)?;
        let queue = metrics.alert_queue();
        let help = "Alerts that wait to be sent; 0 on nodes that do not lead";
        sheet.gauge("alert_queue", None, help, queue.alerts as f64)?;
        let bound = [("channel", queue.bound_channels), ("job", queue.bound_jobs)];
        let bound = bound.map(|(of, count)| ([("of", of)], count as f64)).into_iter();
        let help = "Channels, and jobs of each, that have had all messages of alerts of this hour: the rest is counted";
        sheet.gauges("alerts_at_bound", None, help, bound)?;
        let heartbeats = metrics.heartbeats.read().map(|(result, count)| ([("result", *result)], count));
        sheet.counters("heartbeats", "Heartbeats that this node made as the leader", heartbeats)?;
        let pings = metrics.pings.read().map(|(result, count)| ([("result", *result)], count));
        sheet.counters("pings", "Signs of life of runs that this node sent to what watches their jobs", pings)
    }

    fn leadership(&self, sheet: &mut Sheet<'_>) -> std::fmt::Result {
        let is_trusted = self.own.trusted_until.is_some_and(|until| until > self.now.0);
        let acts = f64::from(self.own.fence.is_some() && is_trusted);
        sheet.gauge("leader", None, "1 on the node that leads and may act: it can trust its lease", acts)?;
        let known = f64::from(self.leader.is_some());
        sheet.gauge("leader_known", None, "1 while this node knows of a leader", known)?;
        if let Some(fence) = self.fence {
            sheet.gauge("fence", None, "Fence of the leader that this node knows of", fence as f64)?;
        }
        if let Some(leader) = &self.leader {
            let help = "When this node saw the present leader first";
            sheet.gauge("term_start_timestamp", Some(&Unit::Seconds), help, seconds(leader.since))?;
        }
        let left = self.own.trusted_until.map(|until| until.since(self.now.0).as_secs_f64()).unwrap_or_default();
        let help = "For how long the leader may act without an answer of the store; 0 on other nodes";
        sheet.gauge("trust_remaining", Some(&Unit::Seconds), help, left)?;
        let metrics = &self.counted.metrics;
        for (name, help, counter) in [
            ("terms_lost", "Terms that this node lost without resigning", &metrics.terms_lost),
            ("trust_lapses", "Times at which this node led and could not trust its lease", &metrics.trust_lapses),
        ] {
            sheet.counter(name, help, counter.load(Ordering::Relaxed))?;
        }
        let takeovers = metrics.takeovers.read().map(|(end, count)| ([("end", *end)], count));
        sheet.counters(
            "takeovers",
            "Terms that this node began to act under, by the end of the one before",
            takeovers,
        )?;
        let help = "From when this node learned that no node leads until it led";
        sheet.histogram("takeover_gap", help, [([], &metrics.takeover_gap)])
    }

    fn schedules(&self, sheet: &mut Sheet<'_>) -> std::fmt::Result {
        let lag = self.due.map(|due| self.now.1.since(due).as_secs_f64()).unwrap_or_default();
        let help = "Age of the first due occurrence that no leader has decided; 0 where none is due";
        sheet.gauge("decided_lag", Some(&Unit::Seconds), help, lag)?;
        let Counts { failing, late, overdue, running, paused, .. } = self.counts;
        let undecided = late.saturating_sub(overdue);
        let without = self.configured.saturating_sub(self.jobs.len());
        for (name, help, count) in [
            ("jobs", "Jobs in the jobs file of this node", self.configured),
            ("jobs_failing", "Jobs whose last run ended badly", failing),
            ("jobs_late", "Jobs with an occurrence that is due and not decided", undecided),
            ("jobs_overdue", "Jobs with a run that takes longer than is expected", overdue),
            ("jobs_running", "Jobs with an open run", running),
            ("jobs_paused", "Jobs that are paused", paused),
            ("jobs_without_series", "Jobs beyond --metrics-jobs-most, which have no series of their own", without),
        ] {
            sheet.gauge(name, None, help, count as f64)?;
        }
        let decided = self.counted.metrics.occurrences.read();
        let decided =
            decided.map(|((decision, reason), count)| ([("decision", *decision), ("reason", *reason)], count));
        sheet.counters("occurrences", "Due occurrences that this node decided as the leader", decided)
    }

    fn runs(&self, sheet: &mut Sheet<'_>) -> std::fmt::Result {
        let metrics = &self.counted.metrics;
        let open = self.open.iter().map(|(state, count)| ([("state", *state)], *count as f64));
        sheet.gauges("runs_open", None, "Runs that have not ended, in the whole namespace", open)?;
        let waiting = self.waiting.iter().map(|(what, count)| ([("for", *what)], *count as f64));
        sheet.gauges("runs_waiting", None, "Runs that wait to begin, in the whole namespace, by what for", waiting)?;
        if let Some(unknown) = self.listener.unknown {
            let help = "Runs in doubt, which wait for a person, as this node last looked; at most 1000 are counted";
            sheet.gauge("runs_unknown", None, help, unknown as f64)?;
        }
        let here = self.own.running as f64;
        sheet.gauge("attempts_running", None, "Attempts that run on this node, or wait for a place", here)?;
        let ended = metrics.runs.read().map(|((executor, verdict, source), count)| {
            ([("executor", *executor), ("verdict", *verdict), ("source", *source)], count)
        });
        sheet.counters("runs", "Runs whose verdict this node wrote", ended)?;
        let help = "From when a run was to start until its first attempt started on this node";
        sheet.histogram("run_lateness", help, [([], metrics.lateness.durations())])?;
        let took = metrics.durations.iter().map(|(executor, took)| ([("executor", *executor)], took));
        sheet.histogram("run_duration", "From the start of a run's last attempt to its end", took)?;
        let stale = metrics.stale_effects.read().map(|(executor, count)| ([("executor", *executor)], count));
        sheet.counters("stale_effects", "Attempts that their target turned away for a greater fence", stale)
    }

    fn store(&self, sheet: &mut Sheet<'_>) -> std::fmt::Result {
        let requests = &self.counted.metrics.requests;
        let answers = f64::from(requests.is_answered());
        sheet.gauge("store_up", None, "1 while the store answers what this node asks of it", answers)?;
        let sizes = requests.sizes(self.now.0);
        for (name, help, bytes) in [
            ("store_size", "Size of the store, where this node has lately asked", sizes.and_then(|sizes| sizes.size)),
            (
                "store_quota",
                "How large the store may become, where it has a limit",
                sizes.and_then(|sizes| sizes.quota),
            ),
        ] {
            if let Some(bytes) = bytes {
                sheet.gauge(name, Some(&Unit::Bytes), help, bytes as f64)?;
            }
        }
        let took = requests.read().map(|(op, outcome, took)| ([("op", op), ("outcome", outcome)], took));
        sheet.histogram("store_request", "How long requests to the store took", took)
    }

    fn locks(&self, sheet: &mut Sheet<'_>) -> std::fmt::Result {
        let Some(tally) = &self.listener.locks else { return Ok(()) };
        let series =
            |of: fn(Tallied) -> usize| tally.kinds().map(move |(kind, one)| ([("kind", kind)], of(one) as f64));
        let ages = |of: fn(Tallied) -> Option<Wall>| {
            let age = move |one| of(one).map(|since| self.now.1.since(since).as_secs_f64()).unwrap_or_default();
            tally.kinds().map(move |(kind, one)| ([("kind", kind)], age(one)))
        };
        let unit = Some(&Unit::Seconds);
        sheet.gauges(
            "locks_held",
            None,
            "Holds of locks and of semaphores, in the whole namespace",
            series(|of| of.held),
        )?;
        sheet.gauges("lock_waiters", None, "Calls that wait for a lock or a semaphore", series(|of| of.waiting))?;
        let help = "For how long the oldest hold has been held; 0 where nothing is held";
        sheet.gauges("lock_oldest_hold", unit, help, ages(|of| of.held_since))?;
        let help = "For how long the first waiter has been waiting; 0 where none waits";
        sheet.gauges("lock_oldest_wait", unit, help, ages(|of| of.waits_since))
    }

    fn http(&self, sheet: &mut Sheet<'_>) -> std::fmt::Result {
        let answered = self.counted.requests.read(self.listener.routes);
        let series = answered.iter().map(|(route, code, count)| ([("route", *route), ("code", code.as_str())], *count));
        sheet.counters("http_requests", "Requests that the listener answered", series)?;
        let denied = self.counted.requests.denied().map(|(reason, count)| ([("reason", reason)], count));
        sheet.counters("http_denied", "Requests whose caller was refused", denied)?;
        let help = "Answers that go on, as of followers of output";
        sheet.gauge("http_streams", None, help, self.listener.streams as f64)
    }

    fn each_job(&self, sheet: &mut Sheet<'_>) -> std::fmt::Result {
        let seconds = Some(&Unit::Seconds);
        let all = |value: fn(&JobSeries) -> Option<f64>| {
            self.jobs.iter().filter_map(move |job| Some(([("job_name", job.name.as_str())], value(job)?)))
        };
        sheet.gauges(
            "job_next_due_timestamp",
            seconds,
            "When the job's first occurrence starts that is not decided",
            all(|job| job.next),
        )?;
        let help = "When a run of the job last succeeded";
        sheet.gauges("job_last_success_timestamp", seconds, help, all(|job| job.succeeded))?;
        sheet.gauges("job_last_duration", seconds, "How long the job's last run took", all(|job| job.took))?;
        let help = "1 where the job's last run ended badly";
        sheet.gauges("job_failing", None, help, all(|job| Some(f64::from(job.is_failing))))?;
        sheet.gauges("job_paused", None, "1 while the job is paused", all(|job| Some(f64::from(job.is_paused))))
    }
}

#[cfg(test)]
mod tests;
