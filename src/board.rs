//! The read model: what one node knows of its whole cluster, ready to be read in pages.
//!
//! The node's loop writes a [`Board`] from the news of the ledger that it receives anyway; the API, the page, the
//! metrics and the commands read it. A page of a list costs its rows and the rows that its filter passes over, and
//! never a question to the store: the lists that people ask for first (what fails, what is late, what comes next) are
//! kept in order.
//!
//! Pure: it knows no clock, no store and no runtime. The writer says what happened, and the reader says what time it is.

mod follow;
mod job;
mod list;
mod plan;
mod search;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

pub use job::{JobRow, JobState, LateJob, Paused};
pub use list::{Cursor, Filter, FindJobs, JobsPage, NotACursor, Order, PAGE_MOST};

use crate::config::Migration;
use crate::fence::Fence;
use crate::job::{Expect, Job, JobName, Notify, Overlap, RunId, Trigger};
use crate::ledger::NodeRecord;
use crate::scheduler::alert::{self, Alert};
use crate::scheduler::late::{Late, late_from};
use crate::scheduler::run::{Known, Last, Open, OpenState, Version, Watermark};
use crate::time::{Boot, Wall};
use search::Texts;

/// How long after its start an occurrence that has not been decided makes its job late.
pub const LATE_AFTER: Duration = Duration::from_secs(10);

/// How many jobs one call of [`Board::plan`] plans: the loop that calls it has other things to do.
pub const PLANNED_AT_ONCE: usize = 500;

/// How many of the nodes are kept that went last.
const GONE_KEPT: usize = 20;

/// A board that one node's loop writes and all others read. Clones are the same board.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<RwLock<Board>>);

impl Shared {
    /// The board, to read. Held for as long as a page takes, and never across an `await`: the loop waits for it.
    pub fn read(&self) -> RwLockReadGuard<'_, Board> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The board, to write.
    pub fn write(&self) -> RwLockWriteGuard<'_, Board> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one node knows of the cluster.
#[derive(Debug, Default)]
pub struct Board {
    /// Grows with every change: what a reader saw before is unchanged where this is.
    version: u64,
    jobs: BTreeMap<JobName, Entry>,
    /// The jobs by the start of their first occurrence that has not been decided, with what lists are filtered by.
    by_start: BTreeMap<(Wall, JobName), Marks>,
    /// The jobs whose first occurrence is still to be computed.
    unplanned: BTreeSet<JobName>,
    /// The jobs with open runs that will be late, or are, by what is expected of them: from when on.
    overdue: BTreeSet<(Wall, JobName)>,
    /// The configured jobs whose last run ended badly.
    failing: BTreeSet<JobName>,
    /// The jobs without a schedule, those among them that are not configured.
    unscheduled: BTreeSet<JobName>,
    /// The jobs with a record of their last run that are not configured any more.
    left_over: BTreeSet<JobName>,
    paused: BTreeMap<JobName, Paused>,
    /// All jobs are paused.
    all_paused: Option<Paused>,
    open: BTreeMap<RunId, Open>,
    open_of: BTreeMap<JobName, BTreeSet<RunId>>,
    nodes: BTreeMap<u64, NodeRecord>,
    /// The nodes that went while this one looked, the last one last.
    gone: VecDeque<Gone>,
    watermark: Option<Watermark>,
    leader: Option<Leader>,
    /// What fences are counted from.
    base: u64,
    own: Own,
    /// The migrations of the jobs file that this node has read last; `None`: it has read none yet.
    migrations: Option<Arc<[Migration]>>,
    /// No jobs file is known here: that a job is in none says nothing of the job.
    has_no_file: bool,
    /// What is searched for texts; made again by the first search after the jobs have changed.
    texts: OnceLock<Texts>,
    /// When the store last confirmed that the board is up to date; `None`: it has not read the ledger yet.
    current_at: Option<Wall>,
}

/// A node that is not there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    pub node: String,
    /// When its process started.
    pub started_at: Wall,
    /// What its clock said when it published last.
    pub last_sign: Wall,
    /// When this node learned that it is gone.
    pub at: Wall,
}

/// The leader, by the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub lease: u64,
    /// The revision at which its owner key was created.
    pub created: u64,
    /// When it was elected, by its own clock.
    pub since: Wall,
}

/// What this node knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The lease of its session.
    pub lease: Option<u64>,
    /// The fence under which it acts as the leader.
    pub fence: Option<Fence>,
    /// Until when it trusts its session.
    pub trusted_until: Option<Boot>,
    pub config_digest: String,
    /// The attempts that run here.
    pub running: usize,
    /// By how much the other nodes' clocks are ahead of this one's, or (negative) behind, where that keeps this node from
    /// leading; otherwise 0.
    pub clock_off_ms: i64,
}

/// What a run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The instant at which it, or its next attempt, may begin.
    Instant,
    /// Another run of its job goes first (`overlap`).
    Turn,
    /// Room: its node runs as many attempts as `--max-running` allows.
    Room,
    /// The next leader: the one that leads lets its runs end, and starts nothing.
    Leader,
}

impl Wait {
    pub fn as_str(self) -> &'static str {
        match self {
            Wait::Instant => "instant",
            Wait::Turn => "turn",
            Wait::Room => "room",
            Wait::Leader => "leader",
        }
    }

    /// The same for a person.
    pub fn text(self) -> &'static str {
        match self {
            Wait::Instant => "for its instant",
            Wait::Turn => "for another run of its job, which goes first (`overlap`)",
            Wait::Room => "for room: as many attempts run as `--max-running` allows",
            Wait::Leader => "for the next leader: the one that leads steps down, and lets its runs end first",
        }
    }
}

/// What is known of one job.
#[derive(Debug, Default)]
struct Entry {
    /// As the jobs file of this node has it; `None`: only the ledger knows it.
    job: Option<Arc<Job>>,
    /// Since when the ledger knows it; all else that it knows of the job is for the scheduler.
    known_since: Option<Wall>,
    last: Option<Last>,
    /// The version of the record of that: what was read earlier is not taken any more.
    last_version: Version,
    /// The occurrence that is decided next: its instant, and its start.
    next: Option<(Wall, Wall)>,
    marks: Marks,
}

impl Entry {
    fn is_scheduled(&self) -> bool {
        matches!(self.job.as_deref().map(|job| &job.trigger), Some(Trigger::Schedule { .. }))
    }
}

/// The states of a job, as far as time does not change them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks {
    failing: bool,
    paused: bool,
    running: bool,
    /// From when on it is late by what is expected of its open runs.
    late_from: Option<Wall>,
}

impl Marks {
    fn is_overdue(&self, now: Wall) -> bool {
        self.late_from.is_some_and(|from| from < now)
    }
}

/// How many jobs are in a state; one job may be in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Counts {
    pub jobs: usize,
    pub failing: usize,
    pub late: usize,
    /// Those among the late ones whose runs take longer than is expected, and whose occurrences are decided.
    pub overdue: usize,
    pub running: usize,
    pub paused: usize,
}

impl Board {
    /// A board beside which there is no jobs file. What the ledger says of a job stands all the same; what only a file
    /// says, such as when a job is due, is not known.
    pub fn without_file() -> Board {
        Board { has_no_file: true, ..Board::default() }
    }

    /// Grows with every change of what the board says; starts anew with the process. What is late changes with the time
    /// alone: see [`Board::tag`].
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version, and how many jobs are late at `now`: where both are as they were, every list of this process is as it
    /// was.
    pub fn tag(&self, now: Wall) -> (u64, usize) {
        (self.version, self.late(now).count())
    }

    /// Takes the jobs of a configuration in place of those before. Costs the difference: a job that is the same object
    /// is not looked at.
    pub fn configured(&mut self, jobs: &BTreeMap<JobName, Arc<Job>>) {
        let is_gone = |(name, entry): &(&JobName, &Entry)| entry.job.is_some() && !jobs.contains_key(*name);
        let gone: Vec<JobName> = self.jobs.iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.change(&name, |entry| entry.job = None);
        }
        for (name, job) in jobs {
            let before = self.jobs.get(name).and_then(|entry| entry.job.as_ref());
            if before.is_none_or(|before| !Arc::ptr_eq(before, job)) {
                self.change(name, |entry| entry.job = Some(Arc::clone(job)));
            }
        }
        self.texts = OnceLock::new();
    }

    /// What the ledger knows of a job.
    pub fn known(&mut self, name: &JobName, known: Option<&Known>) {
        self.change(name, |entry| entry.known_since = known.map(|known| known.since));
    }

    /// How the last run of a job ended, by its record of this version; `None`: the record is gone. What is known of a
    /// same version or a later one stands.
    pub fn last(&mut self, name: &JobName, last: Option<Last>, version: Version) {
        // The node hears of its own writes twice.
        if self.last_of(name).1 >= version {
            return;
        }
        let entry = self.entry(name);
        (entry.last, entry.last_version) = (last, version);
        self.mark(name);
    }

    /// A job is paused, or (`None`) not any more.
    pub fn paused(&mut self, name: &JobName, paused: Option<Paused>) {
        self.entry(name);
        match paused {
            Some(paused) => drop(self.paused.insert(name.clone(), paused)),
            None => drop(self.paused.remove(name)),
        }
        self.mark(name);
    }

    /// All jobs are paused, or (`None`) not any more. Those that are paused for themselves stay so.
    pub fn all_paused(&mut self, paused: Option<Paused>) {
        self.version += 1;
        self.all_paused = paused;
    }

    /// A run is open, or (`None`) not any more.
    pub fn open(&mut self, run: &RunId, open: Option<Open>) {
        let job = open.as_ref().map_or_else(|| run.job(), |open| open.job.clone());
        self.entry(&job);
        match open {
            Some(open) => {
                self.open_of.entry(job.clone()).or_default().insert(run.clone());
                self.open.insert(run.clone(), open);
            }
            None => {
                self.open.remove(run);
                if let Some(runs) = self.open_of.get_mut(&job) {
                    runs.remove(run);
                    if runs.is_empty() {
                        self.open_of.remove(&job);
                    }
                }
            }
        }
        self.mark(&job);
    }

    /// A node is there with what it last published, or (`None`) gone, as it was learned at `now`.
    pub fn node(&mut self, lease: u64, record: Option<NodeRecord>, now: Wall) {
        self.version += 1;
        match record {
            Some(record) => drop(self.nodes.insert(lease, record)),
            None => {
                if let Some(record) = self.nodes.remove(&lease) {
                    self.is_gone(record, now);
                }
            }
        }
    }

    fn is_gone(&mut self, record: NodeRecord, at: Wall) {
        if self.gone.len() == GONE_KEPT {
            self.gone.pop_front();
        }
        self.gone.push_back(Gone { node: record.node, started_at: record.started_at, last_sign: record.clock, at });
    }

    /// The leader; `None`: no node leads.
    pub fn led_by(&mut self, leader: Option<Leader>) {
        if self.leader != leader {
            self.version += 1;
            self.leader = leader;
        }
    }

    /// What fences are counted from, as grants and claims say it.
    pub fn base(&mut self, base: u64) {
        if self.base != base {
            self.version += 1;
            self.base = base;
        }
    }

    /// What this node knows of itself.
    pub fn own(&mut self, own: Own) {
        // The trust moves with every keep-alive, and by how much a clock is off with every sign of another: neither changes
        // anything that a reader would have to fetch again.
        let Own { trusted_until, clock_off_ms, .. } = self.own;
        let is_news = Own { trusted_until, clock_off_ms, ..own.clone() } != self.own;
        self.version += u64::from(is_news);
        self.own = own;
    }

    /// The migrations of the jobs file that this node has read.
    pub fn reads_migrations(&mut self, migrations: &[Migration]) {
        self.version += 1;
        self.migrations = Some(migrations.into());
    }

    /// All that is known of the ledger is out of date: it is read again, and what follows is complete. Answers the nodes
    /// that were there.
    fn forget_ledger(&mut self) -> BTreeMap<u64, NodeRecord> {
        self.version += 1;
        let (own, texts, base) = (std::mem::take(&mut self.own), std::mem::take(&mut self.texts), self.base);
        let (jobs, migrations) = (std::mem::take(&mut self.jobs), self.migrations.take());
        let (has_no_file, gone) = (self.has_no_file, std::mem::take(&mut self.gone));
        let nodes = std::mem::take(&mut self.nodes);
        *self = Board { own, texts, base, migrations, has_no_file, gone, version: self.version, ..Board::default() };
        let configured = jobs.into_iter().filter(|(_, entry)| entry.job.is_some());
        self.jobs = configured.map(|(name, entry)| (name, Entry { job: entry.job, ..Entry::default() })).collect();
        self.unplanned = self.jobs.keys().cloned().collect();
        let unscheduled = self.jobs.iter().filter(|(_, entry)| !entry.is_scheduled());
        self.unscheduled = unscheduled.map(|(name, _)| name.clone()).collect();
        nodes
    }

    /// The board is what the store says, as of now.
    pub fn is_current(&mut self, now: Wall) {
        self.current_at = Some(now);
    }

    /// The entry of a job, to change, which comes to be where there was none.
    fn entry(&mut self, name: &JobName) -> &mut Entry {
        self.version += 1;
        // Nearly always it is there, and then no name is cloned.
        if !self.jobs.contains_key(name) {
            self.texts = OnceLock::new();
            self.jobs.insert(name.clone(), Entry::default());
        }
        self.jobs.get_mut(name).expect("it was put where it was not there")
    }

    /// Changes what decides when a job is due.
    fn change(&mut self, name: &JobName, change: impl FnOnce(&mut Entry)) {
        let entry = self.entry(name);
        change(entry);
        if let Some((_, starts)) = entry.next.take() {
            self.by_start.remove(&(starts, name.clone()));
        }
        self.unplanned.insert(name.clone());
        self.mark(name);
    }

    /// Sees to it that a job stands in all lists to which it belongs, and in no others. One of which neither the file nor
    /// the ledger says anything is none.
    fn mark(&mut self, name: &JobName) {
        let late_from = self.late_run(name).map(|(from, ..)| from);
        let Some(entry) = self.jobs.get_mut(name) else { return };
        let marks = Marks {
            // What a job did that is not there any more needs no attention.
            failing: (entry.job.is_some() || self.has_no_file) && entry.last.as_ref().is_some_and(Last::is_bad),
            paused: self.paused.contains_key(name),
            running: self.open_of.contains_key(name),
            late_from,
        };
        if late_from != entry.marks.late_from {
            if let Some(from) = entry.marks.late_from {
                self.overdue.remove(&(from, name.clone()));
            }
            self.overdue.extend(late_from.map(|from| (from, name.clone())));
        }
        if entry.job.is_none() && entry.known_since.is_none() && entry.last.is_none() && marks == Marks::default() {
            self.jobs.remove(name);
            self.unplanned.remove(name);
            self.failing.remove(name);
            self.left_over.remove(name);
            self.unscheduled.remove(name);
            self.texts = OnceLock::new();
            return;
        }
        if !entry.is_scheduled() {
            self.unscheduled.insert(name.clone());
        } else if !self.unscheduled.is_empty() {
            self.unscheduled.remove(name);
        }
        if entry.job.is_none() && entry.last.is_some() {
            self.left_over.insert(name.clone());
        } else if !self.left_over.is_empty() {
            self.left_over.remove(name);
        }
        if marks == entry.marks {
            return;
        }
        if marks.failing != entry.marks.failing {
            if marks.failing {
                self.failing.insert(name.clone())
            } else {
                self.failing.remove(name)
            };
        }
        entry.marks = marks;
        if let Some((_, starts)) = entry.next {
            self.by_start.insert((starts, name.clone()), marks);
        }
    }

    /// How many jobs there are, and in which states.
    pub fn counts(&self, now: Wall) -> Counts {
        Counts {
            jobs: self.jobs.len(),
            failing: self.failing.len(),
            late: self.late(now).count(),
            overdue: self.overdue_only(now).count(),
            running: self.open_of.len(),
            paused: self.paused.len(),
        }
    }

    /// The same of the jobs that a reader sees; `None`: it sees all.
    pub fn counts_of(&self, now: Wall, sees: Option<impl Fn(&JobName) -> bool>) -> Counts {
        let Some(sees) = sees else { return self.counts(now) };
        Counts {
            jobs: self.jobs.keys().filter(|job| sees(job)).count(),
            failing: self.failing.iter().filter(|job| sees(job)).count(),
            late: self.late(now).filter(|(_, job)| sees(job)).count(),
            overdue: self.overdue_only(now).filter(|(_, job)| sees(job)).count(),
            running: self.open_of.keys().filter(|job| sees(job)).count(),
            paused: self.paused.keys().filter(|job| sees(job)).count(),
        }
    }

    /// The jobs that are late, each with since when: those with an occurrence that no leader has decided, and then those
    /// with a run that takes longer than is expected; of both the longest first.
    pub fn late(&self, now: Wall) -> impl Iterator<Item = (Wall, &JobName)> {
        let until = self.judged(now).minus(LATE_AFTER);
        let undecided = self.next_fires().take_while(move |(start, _)| *start < until);
        undecided.chain(self.overdue_only(now))
    }

    /// Those among the late jobs whose occurrences are decided.
    fn overdue_only(&self, now: Wall) -> impl Iterator<Item = (Wall, &JobName)> {
        let until = self.judged(now).minus(LATE_AFTER);
        let starts = |name: &JobName| self.jobs.get(name).and_then(|entry| entry.next).map(|(_, starts)| starts);
        self.overdue(now).filter(move |(_, name)| starts(name).is_none_or(|starts| starts >= until))
    }

    /// The jobs with a run that takes longer than is expected, the longest first.
    fn overdue(&self, now: Wall) -> impl Iterator<Item = (Wall, &JobName)> {
        let now = self.judged(now);
        self.overdue.iter().take_while(move |(from, _)| *from < now).map(|(from, name)| (*from, name))
    }

    /// The open run of a job that is late first, by what is expected of them: from when on, and with what.
    fn late_run(&self, name: &JobName) -> Option<(Wall, Late, &RunId)> {
        let expect = &self.jobs.get(name)?.job.as_ref()?.about.expect;
        if *expect == Expect::default() {
            return None;
        }
        let late = |open: &'_ Open| late_from(expect, open);
        self.open_runs_of(name).filter_map(|open| late(open).map(|(from, what)| (from, what, &open.id))).min()
    }

    /// What is notified of the open runs that are late; of jobs that are paused, nothing is.
    pub fn late_alerts(&self, now: Wall) -> BTreeMap<RunId, (Arc<Notify>, Alert)> {
        let at = self.judged(now);
        let jobs = self.overdue(now).filter_map(|(_, name)| self.definition(name));
        let jobs = jobs.filter(|job| !self.is_paused_at(&job.name, at));
        let late = jobs.flat_map(|job| self.open_runs_of(&job.name).filter_map(move |open| alert::late(job, open, at)));
        late.map(|late| (late.1.run.clone(), late)).collect()
    }

    /// The time by which lateness is judged: that of the other nodes, where the clock of this one is off.
    fn judged(&self, now: Wall) -> Wall {
        Wall::from_millis(now.as_millis().saturating_add(self.own.clock_off_ms))
    }

    /// The next fires, in their order: each job's first, once.
    pub fn next_fires(&self) -> impl Iterator<Item = (Wall, &JobName)> {
        self.by_start.keys().map(|(start, name)| (*start, name))
    }

    /// The jobs that fail, by their names.
    pub fn failing(&self) -> impl Iterator<Item = &JobName> {
        self.failing.iter()
    }

    /// The jobs with a record of their last run that are not configured any more, by their names, from behind `after` on.
    pub fn left_over(&self, after: Option<&JobName>) -> impl Iterator<Item = &JobName> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        self.left_over.range((from, Bound::Unbounded))
    }

    /// How the last run of a job ended, and the version of the record of that; 0: there is none.
    pub fn last_of(&self, job: &JobName) -> (Option<&Last>, Version) {
        self.jobs.get(job).map_or((None, 0), |entry| (entry.last.as_ref(), entry.last_version))
    }

    /// The runs that have not ended, by their names.
    pub fn open_runs(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    pub fn open_run(&self, run: &RunId) -> Option<&Open> {
        self.open.get(run)
    }

    /// The runs of a job that have not ended, by their instants.
    pub fn open_runs_of(&self, job: &JobName) -> impl Iterator<Item = &Open> {
        self.open_of.get(job).into_iter().flatten().filter_map(|run| self.open.get(run))
    }

    /// What a run that waits waits for, at `now`; `None`: it does not wait.
    pub fn waits_for(&self, open: &Open, now: Wall) -> Option<Wait> {
        let not_before = match open.state {
            OpenState::Waiting { not_before } => not_before,
            OpenState::Retrying { not_before } => not_before,
            OpenState::Claimed => return None,
        };
        // The overlap of a job that is in no file here is not known: as if its runs went one after the other.
        let overlap = self.definition(&open.job).map_or(Overlap::Skip, |job| job.overlap);
        let holders = self.open_runs_of(&open.job).filter(|other| open.waits_behind(other)).count();
        let mut earlier = self.open_runs_of(&open.job).take_while(|earlier| earlier.id != open.id);
        let queued = overlap == Overlap::Queue && earlier.any(|earlier| open.queues_behind(earlier));
        Some(match () {
            () if not_before > self.judged(now) => Wait::Instant,
            () if self.is_handed_over() => Wait::Leader,
            () if holders >= overlap.most() || queued => Wait::Turn,
            () => Wait::Room,
        })
    }

    /// Whether the leader starts nothing new, since it steps down or shuts down.
    fn is_handed_over(&self) -> bool {
        let leader = self.leader.as_ref().and_then(|leader| self.nodes.get(&leader.lease));
        leader.is_some_and(|record| record.hands_over.is_some())
    }

    /// How many runs wait, by what for.
    pub fn waiting(&self, now: Wall) -> [(Wait, u64); 4] {
        let mut counts = [Wait::Instant, Wait::Turn, Wait::Room, Wait::Leader].map(|wait| (wait, 0));
        for wait in self.open.values().filter_map(|open| self.waits_for(open, now)) {
            counts.iter_mut().filter(|(other, _)| *other == wait).for_each(|(_, count)| *count += 1);
        }
        counts
    }

    /// The nodes that are there, by the lease of their session.
    pub fn nodes(&self) -> impl Iterator<Item = (u64, &NodeRecord)> {
        self.nodes.iter().map(|(lease, record)| (*lease, record))
    }

    /// The sessions of nodes that ended while this one looked, the last one first, only the last few. A node whose
    /// session was lost may be back with another.
    pub fn gone(&self) -> impl Iterator<Item = &Gone> {
        self.gone.iter().rev()
    }

    pub fn watermark(&self) -> Option<&Watermark> {
        self.watermark.as_ref()
    }

    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// The fence of the leader.
    pub fn fence(&self) -> Option<Fence> {
        Fence::new(self.base.checked_add(self.leader.as_ref()?.created)?)
    }

    /// What this node knows of itself.
    pub fn this_node(&self) -> &Own {
        &self.own
    }

    /// The migrations of the jobs file that this node has read last; `None`: it has read none yet.
    pub fn migrations(&self) -> Option<&Arc<[Migration]>> {
        self.migrations.as_ref()
    }

    /// When the store last confirmed that the board is up to date; `None`: it has not read the ledger yet.
    pub fn current_at(&self) -> Option<Wall> {
        self.current_at
    }

    /// Who has paused all jobs; `None`: they are not.
    pub fn are_all_paused(&self) -> Option<&Paused> {
        self.all_paused.as_ref()
    }

    /// Whether an occurrence of this job that starts then is skipped, since the job is paused, or all are.
    pub fn is_paused_at(&self, job: &JobName, starts: Wall) -> bool {
        let holds = |paused: &Paused| paused.until.is_none_or(|until| starts < until);
        self.paused.get(job).into_iter().chain(&self.all_paused).any(holds)
    }

    /// The pauses whose end has come by `now`: of jobs, and (`None`) of all.
    pub fn pauses_over(&self, now: Wall) -> Vec<Option<JobName>> {
        let is_over = |paused: &Paused| paused.until.is_some_and(|until| until <= now);
        let of_jobs = self.paused.iter().filter(|(_, paused)| is_over(paused)).map(|(job, _)| Some(job.clone()));
        of_jobs.chain(self.all_paused.as_ref().filter(|paused| is_over(paused)).map(|_| None)).collect()
    }

    /// The paused jobs, by their names.
    pub fn paused_jobs(&self) -> impl Iterator<Item = (&JobName, &Paused)> {
        self.paused.iter()
    }

    /// The jobs of the jobs file of this node, by their names.
    pub fn definitions(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values().filter_map(|entry| entry.job.as_ref())
    }

    /// The definition of a job, as the jobs file of this node has it.
    pub fn definition(&self, job: &JobName) -> Option<&Arc<Job>> {
        self.jobs.get(job)?.job.as_ref()
    }
}

#[cfg(test)]
mod tests;
