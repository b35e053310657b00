//! The read model: what one node knows of its whole cluster, ready to be read in pages.
//!
//! The node's loop writes a [`Board`] from what it hears of the ledger anyway; the API, the page, the metrics and the
//! commands read it. A page of a list costs its rows and the rows that its filter passes over, and never a question to
//! the store: the lists that people ask for first (what fails, what is late, what comes next) are kept in order.
//!
//! Pure: it knows no clock, no store and no runtime. Whoever writes it says what happened, and whoever reads it says what
//! time it is.

mod job;
mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

pub use job::{JobRow, JobState, Paused};
pub use list::{Cursor, Filter, FindJobs, JobsPage, NotACursor, Order, PAGE_MOST};

use crate::fence::Fence;
use crate::job::{Job, JobName, RunId, Trigger};
use crate::ledger::NodeRecord;
use crate::scheduler::run::{Known, Last, Open, Watermark};
use crate::time::{Boot, Wall};

/// How long after its start an occurrence that has not been decided makes its job late.
pub const LATE_AFTER: Duration = Duration::from_secs(10);

/// How many jobs one call of [`Board::plan`] plans: the loop that calls it has other things to do.
pub const PLANNED_AT_ONCE: usize = 2_000;

/// A board that the loop writes and everybody else reads. Clones are the same board.
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
    /// The jobs by the start of their first occurrence that has not been decided.
    by_start: BTreeSet<(Wall, JobName)>,
    /// The jobs whose first occurrence is still to be computed.
    unplanned: BTreeSet<JobName>,
    failing: BTreeSet<JobName>,
    paused: BTreeMap<JobName, Paused>,
    open: BTreeMap<RunId, Open>,
    open_of: BTreeMap<JobName, BTreeSet<RunId>>,
    nodes: BTreeMap<u64, NodeRecord>,
    watermark: Option<Watermark>,
    leader: Option<Leader>,
    /// What fences are counted from.
    base: u64,
    own: Own,
    /// When the node last heard that the board is what the store says; `None`: it has not read the ledger yet.
    current_at: Option<Wall>,
}

/// Who leads, as the ledger says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub lease: u64,
    /// The revision at which its owner key was created.
    pub created: u64,
    /// When this node first heard of the term.
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
}

/// What is known of one job.
#[derive(Debug, Default)]
struct Entry {
    /// As the jobs file of this node has it; `None`: only the ledger knows it.
    job: Option<Arc<Job>>,
    known: Option<Known>,
    last: Option<Last>,
    /// The occurrence that is decided next: its instant, and its start.
    next: Option<(Wall, Wall)>,
}

/// How many jobs are in a state; one job may be in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub jobs: usize,
    pub failing: usize,
    pub late: usize,
    pub running: usize,
    pub paused: usize,
}

impl Board {
    /// Grows with every change of what the board says; starts anew with the process.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Takes the jobs of a configuration in place of those before.
    pub fn configured(&mut self, jobs: &BTreeMap<JobName, Arc<Job>>) {
        self.version += 1;
        let gone: Vec<JobName> = self
            .jobs
            .iter()
            .filter(|(name, e)| e.job.is_some() && !jobs.contains_key(*name))
            .map(|(n, _)| n.clone())
            .collect();
        for name in gone {
            self.change(&name, |entry| entry.job = None);
        }
        for (name, job) in jobs {
            self.change(name, |entry| entry.job = Some(Arc::clone(job)));
        }
    }

    /// What the ledger knows of a job.
    pub fn known(&mut self, name: &JobName, known: Option<Known>) {
        self.change(name, |entry| entry.known = known);
    }

    /// How the last run of a job ended.
    pub fn last(&mut self, name: &JobName, last: Option<Last>) {
        if last.as_ref().is_some_and(Last::is_bad) {
            self.failing.insert(name.clone());
        } else {
            self.failing.remove(name);
        }
        self.version += 1;
        self.jobs.entry(name.clone()).or_default().last = last;
        self.drop_empty(name);
    }

    /// A job is paused, or (`None`) not any more.
    pub fn paused(&mut self, name: &JobName, paused: Option<Paused>) {
        self.version += 1;
        match paused {
            Some(paused) => drop(self.paused.insert(name.clone(), paused)),
            None => drop(self.paused.remove(name)),
        }
        self.jobs.entry(name.clone()).or_default();
        self.drop_empty(name);
    }

    /// A run is open, or (`None`) not any more.
    pub fn open(&mut self, run: &RunId, open: Option<Open>) {
        self.version += 1;
        let job = run.job();
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
        self.jobs.entry(job.clone()).or_default();
        self.drop_empty(&job);
    }

    /// A node is there with what it last published, or (`None`) gone.
    pub fn node(&mut self, lease: u64, record: Option<NodeRecord>) {
        self.version += 1;
        match record {
            Some(record) => drop(self.nodes.insert(lease, record)),
            None => drop(self.nodes.remove(&lease)),
        }
    }

    /// How far the schedules have been decided. Occurrences up to there are not next any more.
    pub fn decided(&mut self, mark: Watermark) {
        self.version += 1;
        if self.watermark.as_ref().is_some_and(|before| mark < *before) {
            // A person brought it back.
            self.watermark = Some(mark);
            return self.plan_anew();
        }
        while let Some((start, name)) = self.by_start.first().cloned().filter(|first| is_decided(first, &mark)) {
            self.by_start.remove(&(start, name.clone()));
            self.jobs.entry(name.clone()).or_default().next = None;
            self.unplanned.insert(name);
        }
        self.watermark = Some(mark);
    }

    /// Who leads; `None`: nobody.
    pub fn led_by(&mut self, leader: Option<Leader>) {
        if self.leader != leader {
            self.version += 1;
            self.leader = leader;
        }
    }

    /// What fences are counted from, as grants and claims say it.
    pub fn base(&mut self, base: u64) {
        self.base = base;
    }

    /// What this node knows of itself.
    pub fn own(&mut self, own: Own) {
        // The trust moves with every keep-alive, which changes nothing that a reader would have to fetch again.
        let is_news = Own { trusted_until: self.own.trusted_until, ..own.clone() } != self.own;
        self.version += u64::from(is_news);
        self.own = own;
    }

    /// All that was heard of the ledger is of the past: it is read anew, and what follows is all there is.
    pub fn forget_ledger(&mut self) {
        self.version += 1;
        let jobs = std::mem::take(&mut self.jobs);
        let (own, version) = (std::mem::take(&mut self.own), self.version);
        *self = Board { own, version, base: self.base, ..Board::default() };
        for (name, entry) in jobs.into_iter().filter(|(_, entry)| entry.job.is_some()) {
            self.unplanned.insert(name.clone());
            self.jobs.insert(name, Entry { job: entry.job, ..Entry::default() });
        }
    }

    /// The board is what the store says, as of now.
    pub fn is_current(&mut self, now: Wall) {
        self.current_at = Some(now);
    }

    /// Computes the next occurrence of jobs for which that is still to be done, at most `most` of them. Says whether
    /// some are left.
    pub fn plan(&mut self, now: Wall, most: usize) -> bool {
        for _ in 0..most {
            let Some(name) = self.unplanned.pop_first() else { return false };
            self.plan_one(&name, now);
        }
        !self.unplanned.is_empty()
    }

    fn plan_one(&mut self, name: &JobName, now: Wall) {
        let Some(entry) = self.jobs.get_mut(name) else { return };
        entry.next = match entry.job.as_deref().map(|job| &job.trigger) {
            Some(Trigger::Schedule { schedule, jitter }) => {
                let decided = self.watermark.as_ref().map(|mark| mark_for(name, mark));
                // A job that no leader has seen is not due before one does.
                let since = entry.known.as_ref().map_or(Some(now), |known| Some(known.since));
                let after = decided.max(since).unwrap_or(now);
                schedule.next_start(*jitter, after).map(|next| (next.at, next.starts))
            }
            Some(Trigger::After { .. } | Trigger::Disabled) | None => None,
        };
        if let Some((_, starts)) = entry.next {
            self.by_start.insert((starts, name.clone()));
        }
    }

    fn plan_anew(&mut self) {
        self.by_start.clear();
        for (name, entry) in &mut self.jobs {
            entry.next = None;
            self.unplanned.insert(name.clone());
        }
    }

    /// Changes what decides when a job is due.
    fn change(&mut self, name: &JobName, change: impl FnOnce(&mut Entry)) {
        self.version += 1;
        let entry = self.jobs.entry(name.clone()).or_default();
        change(entry);
        if let Some((_, starts)) = entry.next.take() {
            self.by_start.remove(&(starts, name.clone()));
        }
        self.unplanned.insert(name.clone());
        self.drop_empty(name);
    }

    /// A job of which neither the file nor the ledger says anything is none.
    fn drop_empty(&mut self, name: &JobName) {
        let is_empty = self.jobs.get(name).is_some_and(|e| e.job.is_none() && e.known.is_none() && e.last.is_none());
        if is_empty && !self.paused.contains_key(name) && !self.open_of.contains_key(name) {
            self.jobs.remove(name);
            self.unplanned.remove(name);
        }
    }

    /// How many jobs there are, and in which states.
    pub fn counts(&self, now: Wall) -> Counts {
        Counts {
            jobs: self.jobs.len(),
            failing: self.failing.len(),
            late: self.late(now).count(),
            running: self.open_of.len(),
            paused: self.paused.len(),
        }
    }

    /// The jobs that are late, the longest first.
    pub fn late(&self, now: Wall) -> impl Iterator<Item = (Wall, &JobName)> {
        let until = now.minus(LATE_AFTER);
        self.by_start.iter().take_while(move |(start, _)| *start < until).map(|(start, name)| (*start, name))
    }

    /// The next fires, in their order: each job's first, once.
    pub fn next_fires(&self) -> impl Iterator<Item = (Wall, &JobName)> {
        self.by_start.iter().map(|(start, name)| (*start, name))
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

    /// The nodes that are there, by the lease of their session.
    pub fn nodes(&self) -> impl Iterator<Item = (u64, &NodeRecord)> {
        self.nodes.iter().map(|(lease, record)| (*lease, record))
    }

    pub fn watermark(&self) -> Option<&Watermark> {
        self.watermark.as_ref()
    }

    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// The fence of whoever leads.
    pub fn fence(&self) -> Option<Fence> {
        Fence::new(self.base.checked_add(self.leader.as_ref()?.created)?)
    }

    /// What this node knows of itself.
    pub fn this_node(&self) -> &Own {
        &self.own
    }

    /// When the node last heard that the board is what the store says; `None`: it has not read the ledger yet.
    pub fn current_at(&self) -> Option<Wall> {
        self.current_at
    }

    /// The definition of a job, as the jobs file of this node has it.
    pub fn definition(&self, job: &JobName) -> Option<&Arc<Job>> {
        self.jobs.get(job)?.job.as_ref()
    }
}

/// Up to where a job's occurrences have been decided, by their starts.
fn mark_for(name: &JobName, mark: &Watermark) -> Wall {
    let is_included = mark.job.as_ref().is_some_and(|last| name <= last);
    if is_included { mark.instant } else { Wall::from_millis(mark.instant.as_millis() - 1) }
}

fn is_decided((start, name): &(Wall, JobName), mark: &Watermark) -> bool {
    *start <= mark_for(name, mark)
}

#[cfg(test)]
mod tests;
