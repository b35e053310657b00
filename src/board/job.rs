//! A job as people look at it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Board, Entry, LATE_AFTER};
use crate::job::{About, JobName, RunId, Trigger};
use crate::ledger::Pause;
use crate::scheduler::late::Late;
use crate::scheduler::run::Last;
use crate::time::Wall;

/// A job is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paused {
    pub by: String,
    pub at: Wall,
    /// When it ends by itself.
    pub until: Option<Wall>,
    /// Why, as the person wrote it.
    pub reason: String,
}

impl From<Pause> for Paused {
    fn from(Pause { asked, until }: Pause) -> Paused {
        Paused { by: asked.by, at: asked.at, until, reason: asked.reason }
    }
}

/// The most pressing of a job's states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its last run ended badly.
    Failing,
    /// An occurrence is due for more than 10 s and no leader has decided it, or a run takes longer than is expected.
    Late,
    /// A run of it is open.
    Running,
    Paused,
    /// Its last run did not end badly.
    Fine,
    /// No run of it has ended yet.
    New,
    /// It runs only when a person asks for it, or after another job.
    OnDemand,
    /// The ledger knows it, and the jobs file of this node does not.
    Unconfigured,
}

/// Why a job is late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct LateJob {
    /// Of an occurrence that is not decided: since it was to start. Of a run: since the end of the time that is expected.
    pub since: Wall,
    pub why: Late,
    /// The run that is late.
    pub run: Option<RunId>,
}

/// How many open runs are named with their job.
const OPEN_NAMED: usize = 10;

/// A job, as lists show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobRow {
    pub name: JobName,
    pub description: Option<String>,
    /// The people who answer for it.
    pub owner: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub state: JobState,
    /// Why it is late; `None`: it is not.
    pub late: Option<LateJob>,
    pub paused: Option<Paused>,
    /// Its expressions as the file has them; `null`: it has no schedule.
    pub schedule: Option<String>,
    pub timezone: Option<&'static str>,
    /// The job whose runs it follows.
    pub after: Option<JobName>,
    /// The instant of the occurrence that is decided next; of a late job, that is in the past.
    pub next_fire: Option<Wall>,
    /// When that is to start, jitter included.
    pub next_start: Option<Wall>,
    pub last: Option<Last>,
    /// The first of its open runs.
    pub open: Vec<RunId>,
    /// How many runs of it are open.
    pub open_count: usize,
    /// Since when it is due, for the leader.
    pub due_since: Option<Wall>,
}

impl Board {
    /// One job, as of `now`.
    pub fn job(&self, name: &JobName, now: Wall) -> Option<JobRow> {
        self.jobs.get(name).map(|entry| self.row(name, entry, now))
    }

    pub(super) fn row(&self, name: &JobName, entry: &Entry, now: Wall) -> JobRow {
        let open = self.open_of.get(name);
        let (schedule, timezone, after) = match entry.job.as_deref().map(|job| &job.trigger) {
            Some(Trigger::Schedule { schedule, .. }) => {
                (Some(schedule.text().to_owned()), Some(schedule.timezone()), None)
            }
            Some(Trigger::After { job, .. }) => (None, None, Some(job.clone())),
            Some(Trigger::Disabled) | None => (None, None, None),
        };
        let next = self.next_of(name, entry, now);
        let about = entry.job.as_ref().map(|job| &*job.about);
        JobRow {
            name: name.clone(),
            description: entry.job.as_ref().and_then(|job| job.description.as_ref()).map(ToString::to_string),
            owner: about.and_then(|about| about.owner.as_ref()).map(ToString::to_string),
            labels: about.map(About::shown_labels).unwrap_or_default(),
            state: self.state(name, entry, now),
            late: self.late_by(name, next, entry, now),
            paused: self.paused.get(name).cloned(),
            schedule,
            timezone,
            after,
            next_fire: next.map(|(at, _)| at),
            next_start: next.map(|(_, starts)| starts),
            last: entry.last.clone(),
            open: open.into_iter().flatten().take(OPEN_NAMED).cloned().collect(),
            open_count: open.map_or(0, std::collections::BTreeSet::len),
            due_since: entry.known_since,
        }
    }

    fn late_by(&self, name: &JobName, next: Option<(Wall, Wall)>, entry: &Entry, now: Wall) -> Option<LateJob> {
        let now = self.judged(now);
        if let Some((_, since)) = next.filter(|(_, starts)| *starts < now.minus(LATE_AFTER)) {
            return Some(LateJob { since, why: Late::Undecided, run: None });
        }
        let (since, why, run) = entry.marks.is_overdue(now).then(|| self.late_run(name)).flatten()?;
        Some(LateJob { since, why, run: Some(run.clone()) })
    }

    pub(super) fn state(&self, name: &JobName, entry: &Entry, now: Wall) -> JobState {
        if entry.marks.failing {
            JobState::Failing
        } else if self.next_of(name, entry, now).is_some_and(|(_, starts)| starts < self.judged(now).minus(LATE_AFTER))
            || entry.marks.is_overdue(self.judged(now))
        {
            JobState::Late
        } else if entry.marks.running {
            JobState::Running
        } else if entry.marks.paused {
            JobState::Paused
        } else if entry.job.is_none() && !self.has_no_file {
            JobState::Unconfigured
        } else if entry.last.is_some() {
            JobState::Fine
        } else if entry.is_scheduled() || (self.has_no_file && entry.known_since.is_some()) {
            JobState::New
        } else {
            JobState::OnDemand
        }
    }
}
