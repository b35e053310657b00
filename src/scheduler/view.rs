//! What the ledger says now, as every node keeps it by watching, so that a takeover begins with nothing to read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::run::{Known, Open, Version, Watermark};
use crate::fence::Fence;
use crate::job::{JobName, RunId};
use crate::time::Wall;

/// One change of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Watermark(Watermark),
    /// A person brought the watermark back: occurrences that start up to here may have been decided before.
    Rewound(Wall),
    Job(JobName, Option<Known>),
    /// What starts before this is skipped, of a job or (`None`) of all; without an instant: not any more.
    Paused(Option<JobName>, Option<Wall>),
    Open(RunId, Option<Open>),
    /// The session of this lease began or ended.
    Session {
        lease: u64,
        alive: bool,
    },
    /// A person asks for a run to be cancelled; `None`: that has been seen to.
    Cancel(RunId, Option<Cancel>),
    /// A person said that a run which was in doubt has succeeded, and nothing follows it yet; `false`: it does.
    Resolved(RunId, bool),
    /// A person asks the leader of this fence to step down; `None`: that has been seen to.
    StepDown(Option<Fence>),
}

/// That a person asks for a run to be cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    pub by: String,
    /// If the run has begun, it goes on: its backfill was stopped.
    pub unless_begun: bool,
}

/// An open run with the version of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    pub open: Open,
    pub version: Version,
}

/// The ledger as far as it has been seen. Open runs carry versions, since this node's own writes are known from their
/// answers before (or after) the watch reports them.
#[derive(Debug, Default)]
pub struct LedgerView {
    pub watermark: Option<Watermark>,
    /// The version of the watermark's key; 0: there is none.
    pub watermark_version: Version,
    /// Up to where occurrences may have been decided although the watermark is before them.
    pub rewound: Option<Wall>,
    pub jobs: HashMap<JobName, Known>,
    /// Until when jobs are paused.
    pub paused: BTreeMap<JobName, Wall>,
    /// Until when all are.
    pub all_paused: Option<Wall>,
    pub open: BTreeMap<RunId, Versioned>,
    by_job: HashMap<JobName, BTreeSet<RunId>>,
    pub sessions: BTreeSet<u64>,
    pub cancels: BTreeMap<RunId, Cancel>,
    pub resolved: BTreeSet<RunId>,
    pub step_down: Option<Fence>,
    /// Open runs known to be gone since a revision that the watch has not reached: what it still reports of them is
    /// old.
    gone: HashMap<RunId, Version>,
    gone_order: BTreeSet<(Version, RunId)>,
}

impl LedgerView {
    /// Takes in what the watch reports, in its order. Says whether it was news.
    pub fn apply(&mut self, change: Change, version: Version) -> bool {
        self.forget_gone_before(version);
        match change {
            Change::Watermark(mark) => self.put_watermark(mark, version),
            Change::Rewound(upto) => self.rewound.replace(upto) != Some(upto),
            Change::Job(job, Some(known)) => self.jobs.insert(job, known.clone()).is_none_or(|old| old != known),
            Change::Job(job, None) => self.jobs.remove(&job).is_some(),
            Change::Paused(None, until) => std::mem::replace(&mut self.all_paused, until) != until,
            Change::Paused(Some(job), Some(until)) => self.paused.insert(job, until) != Some(until),
            Change::Paused(Some(job), None) => self.paused.remove(&job).is_some(),
            Change::Open(id, Some(open)) => self.put_open(id, open, version),
            Change::Open(id, None) => self.drop_open(&id, version),
            Change::Session { lease, alive: true } => self.sessions.insert(lease),
            Change::Session { lease, alive: false } => self.sessions.remove(&lease),
            Change::Cancel(id, Some(asked)) => self.cancels.insert(id, asked.clone()) != Some(asked),
            Change::Cancel(id, None) => self.cancels.remove(&id).is_some(),
            Change::Resolved(id, true) => self.resolved.insert(id),
            Change::Resolved(id, false) => self.resolved.remove(&id),
            Change::StepDown(fence) => std::mem::replace(&mut self.step_down, fence) != fence,
        }
    }

    /// The person that asks for a run to be cancelled; `None`: none does, or the run has begun and was only to be
    /// cancelled unless it had.
    pub fn cancelled_by(&self, open: &Open) -> Option<&str> {
        let asked = self.cancels.get(&open.id)?;
        (!asked.unless_begun || !open.has_begun()).then_some(asked.by.as_str())
    }

    /// The person that asks for a run to be cancelled although it has begun.
    pub fn stopped_by(&self, run: &RunId) -> Option<&str> {
        self.cancels.get(run).filter(|asked| !asked.unless_begun).map(|asked| asked.by.as_str())
    }

    /// Whether what a job starts then is skipped, and why.
    pub fn paused_at(&self, job: &JobName, starts: Wall) -> Option<&'static str> {
        let holds = |until: Option<Wall>| until.is_some_and(|until| starts < until);
        if holds(self.paused.get(job).copied()) {
            return Some("the job is paused");
        }
        holds(self.all_paused).then_some("all jobs are paused")
    }

    /// Whether what starts then may have been decided although the watermark is before it.
    pub fn may_be_decided(&self, starts: Wall) -> bool {
        self.rewound.is_some_and(|upto| starts <= upto)
    }

    /// The watermark as moved at `version`, unless it is known to have moved on. Says whether that was news.
    pub fn put_watermark(&mut self, mark: Watermark, version: Version) -> bool {
        let news = self.watermark_version < version;
        if news {
            (self.watermark, self.watermark_version) = (Some(mark), version);
        }
        news
    }

    /// An open run as put at `version`, unless something newer is known of it.
    pub fn put_open(&mut self, id: RunId, open: Open, version: Version) -> bool {
        let newest = self.gone.get(&id).copied().max(self.open.get(&id).map(|known| known.version));
        if newest.is_some_and(|newest| newest >= version) {
            return false;
        }
        self.by_job.entry(open.job.clone()).or_default().insert(id.clone());
        self.open.insert(id, Versioned { open, version });
        true
    }

    /// An open run as it stands at `version`, where it was expected to be at `expected`. If that is the later one, it
    /// was a mistake: a following run that existed already was thought to be new.
    pub fn found_open(&mut self, id: RunId, open: Open, version: Version, expected: Version) {
        match self.open.get_mut(&id).filter(|known| known.version == expected && version < expected) {
            Some(known) => *known = Versioned { open, version },
            None => drop(self.put_open(id, open, version)),
        }
    }

    /// The open runs of a job, by instant.
    pub fn open_of(&self, job: &JobName) -> impl Iterator<Item = &RunId> {
        self.by_job.get(job).into_iter().flatten()
    }

    /// An open run as gone at `version`, unless it was put again since. Says whether it was there.
    pub fn drop_open(&mut self, id: &RunId, version: Version) -> bool {
        if self.open.get(id).is_some_and(|known| known.version > version) {
            return false;
        }
        if self.gone.get(id).is_none_or(|before| *before < version) {
            self.gone.insert(id.clone(), version);
            self.gone_order.insert((version, id.clone()));
        }
        let Some(known) = self.open.remove(id) else { return false };
        if let Some(runs) = self.by_job.get_mut(&known.open.job) {
            runs.remove(id);
            if runs.is_empty() {
                self.by_job.remove(&known.open.job);
            }
        }
        true
    }

    /// Takes in the whole ledger, as it was at `version`: what it does not name is no more, but for what this node has
    /// itself written since.
    pub fn reread(&mut self, changes: Vec<(Change, Version)>, version: Version) {
        let newer: Vec<(RunId, Versioned)> = self
            .open
            .iter()
            .filter(|(_, known)| known.version > version)
            .map(|(id, k)| (id.clone(), k.clone()))
            .collect();
        let gone: Vec<(RunId, Version)> =
            self.gone.iter().filter(|(_, at)| **at > version).map(|(id, at)| (id.clone(), *at)).collect();
        let (mark, mark_at) = (self.watermark.take(), self.watermark_version);
        *self = LedgerView::default();
        if mark_at > version {
            (self.watermark, self.watermark_version) = (mark, mark_at);
        }
        for (id, at) in gone {
            self.drop_open(&id, at);
        }
        for (change, at) in changes {
            self.apply(change, at);
        }
        for (id, known) in newer {
            self.put_open(id, known.open, known.version);
        }
    }

    #[cfg(test)]
    pub(super) fn remembered_as_gone(&self) -> usize {
        self.gone.len().max(self.gone_order.len())
    }

    fn forget_gone_before(&mut self, version: Version) {
        while let Some((gone_at, _)) = self.gone_order.first() {
            if *gone_at >= version {
                return;
            }
            let (gone_at, id) = self.gone_order.pop_first().expect("it was just seen");
            if self.gone.get(&id) == Some(&gone_at) {
                self.gone.remove(&id);
            }
        }
    }
}
