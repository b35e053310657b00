//! What the ledger knows of runs, as plain data: the open ones, and how the others ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fence::Fence;
pub use crate::job::End;
use crate::job::{Code, Job, JobName, Params, Reason, RunId, Trigger, Verdict};
use crate::time::Wall;

/// The version of a key: the store's revision at which it was last put. Compared, never computed with.
pub type Version = u64;

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub id: RunId,
    pub job: JobName,
    /// The instant it is scheduled for.
    pub at: Wall,
    /// The instant it is to start at: `at`, moved by the job's jitter.
    pub starts: Wall,
    pub source: Source,
    pub state: OpenState,
    /// The attempt that runs, or ran last; 0: none yet.
    pub attempt: u32,
    /// Its claimant, for [`OpenState::Claimed`] and what follows; `None` before.
    pub claimant: Option<Claimant>,
    /// When it was claimed or asked for.
    pub claimed_at: Wall,
    /// When the running attempt was seen to start. Published a little late, and only for runs that last.
    pub started_at: Option<Wall>,
    /// From `starts` until the first attempt was started, once that is known.
    pub lateness: Option<Duration>,
    /// Why it is unknown how the last attempt that began has ended; `None`: that is known, or none began.
    pub doubt: Option<Box<str>>,
    /// What it has to do with a job's catching up on missed occurrences; `None`: nothing.
    pub catch_up: Option<CatchUp>,
}

#[cfg(test)]
impl Open {
    /// The first attempt of a run by the schedule, claimed at its instant and not started.
    pub(crate) fn claimed(id: RunId) -> Open {
        Open {
            job: id.job(),
            at: id.at(),
            starts: id.at(),
            source: Source::Schedule,
            state: OpenState::Claimed,
            attempt: 1,
            claimant: None,
            claimed_at: id.at(),
            started_at: None,
            lateness: None,
            doubt: None,
            catch_up: None,
            id,
        }
    }
}

impl Open {
    /// Whether an attempt of it is known to have begun.
    pub fn has_begun(&self) -> bool {
        let before = if self.state == OpenState::Claimed { self.attempt.saturating_sub(1) } else { self.attempt };
        self.started_at.is_some() || before > 0
    }

    /// Whether `other`, a run of the same job, holds a place that this one waits for (`overlap`): it has begun, and has not
    /// ended. Of two that wait to be repeated neither does, since they would wait for each other.
    pub(crate) fn waits_behind(&self, other: &Open) -> bool {
        let holds = match other.state {
            OpenState::Claimed => true,
            OpenState::Retrying { .. } => !matches!(self.state, OpenState::Retrying { .. }),
            OpenState::Waiting { .. } => false,
        };
        holds && other.id != self.id
    }

    /// Whether `earlier`, a run of the same job with `overlap: queue`, is before this one in the queue.
    pub(crate) fn queues_behind(&self, earlier: &Open) -> bool {
        let waits = |open: &Open| matches!(open.state, OpenState::Waiting { .. });
        waits(earlier) && !matches!(self.state, OpenState::Retrying { .. })
    }
}

/// A run's part in the catching up of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// It was missed, and is made up for.
    Missed,
    /// It was due in time, and waits because the job is catching up; otherwise it would have been skipped.
    Behind,
}

/// Where an open run stands. The difference that matters after a crash: only a claimed one may have had an unknown
/// effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenState {
    /// Not started, for certain; to start at `not_before` or when what it waits for has ended.
    Waiting { not_before: Wall },
    /// Taken by a leader: it may be running.
    Claimed,
    /// Its last attempt ended badly, for certain; the next is to start at `not_before`.
    Retrying { not_before: Wall },
}

/// The leader that claimed a run: which node, in which session, under which fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    pub node: String,
    pub fence: Fence,
    /// The lease of its session, as the store numbers it: while that lives, the run is in its hands.
    pub lease: u64,
}

/// What made a run due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Schedule,
    /// The end of another run (`after:`).
    After(Box<Predecessor>),
    /// A person (`fencron trigger`).
    Trigger {
        by: String,
        /// What the person gives the run.
        params: Params,
    },
    /// A person, for instants of the past (`fencron backfill`).
    Backfill {
        by: String,
    },
}

impl Source {
    /// The parameters of a requested run; none for all others.
    pub fn params(&self) -> Params {
        match self {
            Source::Trigger { params, .. } => params.clone(),
            Source::Schedule | Source::After(_) | Source::Backfill { .. } => Params::default(),
        }
    }
}

impl Source {
    /// Whether the lateness of a run says something of the scheduler: a run for an instant of the past is late by design.
    pub fn has_lateness(&self) -> bool {
        !matches!(self, Source::Backfill { .. })
    }
}

/// The run that another follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    pub run: RunId,
    /// How it ended, with the beginning of the reason: at most [`FOLLOWED_REASON_MOST`] bytes. `None` where a node of an
    /// older version had a hand in it, which does not pass that on.
    pub end: Option<End>,
}

/// How much of the reason of a run is passed on to its followers, in bytes: each of them keeps it.
pub const FOLLOWED_REASON_MOST: usize = 400;

impl Predecessor {
    /// What the followers of `done` receive.
    pub fn of(done: &Done) -> Predecessor {
        let mut reason = done.reason.clone();
        reason.truncate(reason.floor_char_boundary(FOLLOWED_REASON_MOST));
        let end = End { verdict: done.verdict, reason, exit_code: done.exit_code, code: done.code };
        Predecessor { run: done.id.clone(), end: Some(end) }
    }
}

/// How a run ended, or why it never began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub id: RunId,
    pub job: JobName,
    pub at: Wall,
    pub source: Source,
    pub verdict: Verdict,
    /// Why, for a person.
    pub reason: String,
    /// Why, for a program; `None`: it ended well, as usual, or an older version wrote it.
    pub code: Option<Code>,
    pub attempt: u32,
    /// Its claimant; for a skipped occurrence, the leader that decided so.
    pub claimant: Option<Claimant>,
    pub claimed_at: Wall,
    pub started_at: Option<Wall>,
    pub finished_at: Wall,
    /// From the instant it was to start at until it did.
    pub lateness: Option<Duration>,
    pub exit_code: Option<i32>,
    /// The end of its output.
    pub output: String,
    /// For one verdict over many occurrences of the past: how many, from which on. `at` is the last of them.
    pub many: Option<Many>,
}

/// The occurrences, beside the one it stands at, that one verdict covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Many {
    /// The first of them.
    pub from: Wall,
    /// How many in all.
    pub count: u64,
    /// There may be more than `count`: they were not counted to the end.
    pub at_least: bool,
}

impl Done {
    /// The verdict on an open run, with nothing known of how it went.
    pub fn of(open: &Open, verdict: Verdict, reason: impl Into<String>, now: Wall) -> Done {
        Done {
            id: open.id.clone(),
            job: open.job.clone(),
            at: open.at,
            source: open.source.clone(),
            verdict,
            reason: reason.into(),
            code: None,
            attempt: open.attempt,
            claimant: open.claimant.clone(),
            claimed_at: open.claimed_at,
            started_at: open.started_at,
            finished_at: now,
            lateness: open.lateness,
            exit_code: None,
            output: String::new(),
            many: None,
        }
    }
}

impl Done {
    /// The same verdict, for this reason.
    #[must_use]
    pub fn because(self, why: Reason) -> Done {
        Done { reason: why.text, code: Some(why.code), ..self }
    }

    /// Whether an attempt of the run may have had an effect: what never began says nothing of how its job fares.
    pub fn was_begun(&self) -> bool {
        self.attempt > 0 || self.verdict == Verdict::Unknown
    }
}

/// How the last run of a job ended, with what lists show of the runs before it. It is kept beside the history, so that
/// a list needs not read the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    pub run: RunId,
    pub verdict: Verdict,
    /// Why, where it did not end well as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    pub started_at: Option<Wall>,
    pub finished_at: Wall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness_ms: Option<u64>,
    pub fence: Option<Fence>,
    /// How many runs in a row have ended badly, up to this one.
    pub bad_in_a_row: u32,
    /// When a failure or an exceeded timeout was last notified, since a run last ended well; `None`: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notified_at: Option<Wall>,
    /// Whether a run in doubt was notified since one last ended well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doubt_notified: bool,
    /// When a run last ended well.
    pub succeeded_at: Option<Wall>,
    /// How the last [`STRIP_MOST`] runs ended, the newest last: a letter each: `s`ucceeded, `f`ailed,
    /// `t`imed out, `c`ancelled, s`k`ipped, `u`nknown.
    pub strip: String,
}

/// How many runs [`Last::strip`] has.
pub const STRIP_MOST: usize = 20;

impl Last {
    /// What is kept once `done` has ended after `before`. A run that ended out of order, as one of a backfill does, is
    /// counted and does not become the last one. The last run may end once more, where a person has resolved it.
    #[must_use]
    pub fn after(before: Option<&Last>, done: &Done) -> Last {
        let again = before.filter(|before| before.run == done.id);
        let mut strip = before.map_or(String::new(), |before| before.strip.clone());
        match again.and_then(|again| strip.rfind(letter(again.verdict))) {
            Some(place) => strip.replace_range(place..=place, letter(done.verdict).encode_utf8(&mut [0; 4])),
            None => strip.push(letter(done.verdict)),
        }
        strip.drain(..strip.len().saturating_sub(STRIP_MOST));
        let succeeded_at = match done.verdict {
            Verdict::Succeeded => before.and_then(|before| before.succeeded_at).max(Some(done.finished_at)),
            _ => before.and_then(|before| before.succeeded_at),
        };
        if let Some(later) = before.filter(|before| before.run.at() > done.at) {
            return Last { strip, succeeded_at, ..later.clone() };
        }
        let last = Last {
            run: done.id.clone(),
            verdict: done.verdict,
            code: done.code,
            started_at: done.started_at,
            finished_at: done.finished_at,
            lateness_ms: done.lateness.map(|late| u64::try_from(late.as_millis()).unwrap_or(u64::MAX)),
            fence: done.claimant.as_ref().map(|claimant| claimant.fence),
            bad_in_a_row: 0,
            notified_at: before.and_then(|before| before.notified_at),
            doubt_notified: before.is_some_and(|before| before.doubt_notified),
            succeeded_at,
            strip,
        };
        let counted = u32::from(again.is_some_and(Last::is_bad));
        let bad_before = before.map_or(0, |before| before.bad_in_a_row).saturating_sub(counted);
        Last { bad_in_a_row: if last.is_bad() { bad_before.saturating_add(1) } else { 0 }, ..last }
    }

    /// Whether it needs a person's attention.
    pub fn is_bad(&self) -> bool {
        self.verdict.is_bad()
    }
}

fn letter(verdict: Verdict) -> char {
    match verdict {
        Verdict::Succeeded => 's',
        Verdict::Failed => 'f',
        Verdict::TimedOut => 't',
        Verdict::Cancelled => 'c',
        Verdict::Skipped => 'k',
        Verdict::Unknown => 'u',
    }
}

/// How far the schedules have been decided: everything that was to start before `instant`, and at `instant` the jobs
/// up to and including `job`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark {
    pub instant: Wall,
    pub job: Option<JobName>,
}

impl Watermark {
    /// Up to which start the occurrences of this job are decided.
    pub fn of_job(&self, job: &JobName) -> Wall {
        match &self.job {
            Some(last) if job > last => self.instant.minus(Duration::from_millis(1)),
            _ => self.instant,
        }
    }

    /// Whether an occurrence of this job that starts then is decided.
    pub fn includes(&self, starts: Wall, job: &JobName) -> bool {
        starts <= self.of_job(job)
    }
}

/// After which start the first occurrence of `job` comes that no leader has decided, where the job is due `since` then and
/// the schedules are decided up to `mark`.
pub fn decided_until(job: &Job, since: Wall, mark: Option<&Watermark>) -> Wall {
    let after = mark.map_or(since, |mark| since.max(mark.of_job(&job.name)));
    // Due only after it was seen: with another jitter, an instant that was decided already may be to start again.
    let first = match &job.trigger {
        Trigger::Schedule { schedule, jitter } if !jitter.most.is_zero() => schedule.next_start(*jitter, after),
        _ => None,
    };
    first.filter(|first| first.at <= since).map_or(after, |first| first.starts)
}

/// What is known of a job across leaders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The rule that it had.
    pub fingerprint: String,
    /// It is due only after this: when it was first seen, its rule last changed, or up to where one verdict covers many
    /// of its occurrences.
    pub since: Wall,
}
