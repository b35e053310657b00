//! Which of a job's open runs begins next, and which waits, gives way or is never run.

use std::time::Duration;

use super::overlap::Place;
use super::run::{Open, OpenState, Source};
use super::work::By;
use super::{SHOWN_AS_RUNNING_AFTER, Scheduler, To};
use crate::fence::Fence;
use crate::job::{
    Code, Guarantee, Job, JobName, LOST_PAUSE_LONGEST, MissedRun, PUT_OFF_MOST, RunId, StopReason, Task, Verdict,
    cancelled,
};
use crate::time::Wall;

/// How far the clocks of two leaders may differ without either being wrong.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

impl Scheduler {
    pub(super) fn advance_all(&mut self, now: Wall) {
        let jobs: std::collections::BTreeSet<JobName> =
            self.view.open.values().map(|known| known.open.job.clone()).collect();
        jobs.iter().for_each(|job| self.advance(job, now));
    }

    /// Something about a run is due: to publish that it runs, or to begin it.
    pub(super) fn look_again(&mut self, run: &RunId, now: Wall) {
        let Some(open) = self.view.open.get(run).map(|known| &known.open) else { return };
        if let Some((started_at, attempt)) =
            self.work.active_of(run).and_then(|active| Some((active.started_at?, active.attempt.clone())))
        {
            if open.started_at.is_none() && now.since(started_at) >= SHOWN_AS_RUNNING_AFTER {
                let lateness = open.lateness.or(Some(started_at.since(open.starts)));
                let to = To::Open(Open { started_at: Some(started_at), lateness, ..open.clone() });
                self.change(run, to, By::Attempt(attempt));
            }
            return;
        }
        let job = open.job.clone();
        self.advance(&job, now);
    }

    /// Begins what may begin of a job's open runs, in the order of their instants.
    pub(super) fn advance(&mut self, job: &JobName, now: Wall) {
        let Some(fence) = self.authority.term().filter(|_| self.authority.may_act()) else { return };
        let mut opens: Vec<Open> = self.view.open_of(job).map(|run| self.view.open[run].open.clone()).collect();
        opens.extend(
            self.claims.opening().filter(|open| open.job == *job && !self.view.open.contains_key(&open.id)).cloned(),
        );
        opens.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        let definition = self.configuration.job(job).cloned();
        for (index, open) in opens.iter().enumerate() {
            let (OpenState::Waiting { not_before } | OpenState::Retrying { not_before }) = open.state else { continue };
            let acknowledged = self.view.open.contains_key(&open.id);
            if !acknowledged || self.work.is_in_flight(&open.id) || self.work.is_active(&open.id) {
                continue;
            }
            let Some(definition) = &definition else {
                let why = Code::Unconfigured.because("the job is not configured any more");
                self.conclude(open, Verdict::Cancelled, why, now);
                continue;
            };
            if let Some(why) = self.view.cancelled_by(open).map(|by| cancelled(Some(by))) {
                self.conclude(open, Verdict::Cancelled, Code::Cancelled.because(why), now);
                continue;
            }
            let early = is_early(definition, open, not_before, now);
            let retries = matches!(open.state, OpenState::Retrying { .. });
            if early && !retries {
                self.work.wake_at(not_before, open.id.clone());
                continue;
            }
            if open.attempt == 0
                && matches!(open.source, Source::After(_))
                && let Some(why) = self.view.paused_at(job, now)
            {
                self.conclude(open, Verdict::Skipped, Code::Paused.because(why), now);
                continue;
            }
            match self.place_of_open(definition, &opens, index) {
                Place::Never(verdict, reason) => self.conclude(open, verdict, reason, now),
                _ if early => self.work.wake_at(not_before, open.id.clone()),
                Place::Begin => self.begin(open, fence),
                Place::Replace(runs) => runs.iter().for_each(|run| self.stop(run, StopReason::Replaced)),
                Place::Wait | Place::Behind => {}
            }
        }
    }

    fn begin(&mut self, open: &Open, fence: Fence) {
        if self.room_left() == 0 {
            // What follows a run is to start when a leader said so, whose clock may have been ahead.
            let turn = if matches!(open.source, Source::After(_)) { open.at } else { open.starts };
            self.work.wait_for_room(turn, open.id.clone());
            return;
        }
        let to = Open {
            state: OpenState::Claimed,
            attempt: open.attempt + 1,
            claimant: Some(self.authority.claimant(fence)),
            started_at: None,
            ..open.clone()
        };
        self.change(&open.id, To::Open(to), By::Term(fence));
    }
}

/// Whether a run is to wait until `not_before`. One that would wait for longer than any pause of its job was put off by
/// a leader whose clock was ahead: it is due, unless its own instant is still to come.
fn is_early(job: &Job, open: &Open, not_before: Wall, now: Wall) -> bool {
    let repeats = job.retry.attempts > 1 || job.guarantee == Guarantee::ExactlyOnce;
    let retries = if repeats { job.retry.max } else { Duration::ZERO };
    let catches_up = match job.missed.run {
        MissedRun::All => job.missed.every.saturating_mul(job.missed.limit),
        MissedRun::Latest | MissedRun::Skip => Duration::ZERO,
    };
    // What was given back has not been lost: it waits for nothing but a leader.
    let is_lost = matches!(open.state, OpenState::Retrying { .. }) && job.guarantee.may_repeat();
    let lost = if is_lost { LOST_PAUSE_LONGEST } else { Duration::ZERO };
    let asked = if matches!(job.task, Task::Http(_)) { PUT_OFF_MOST } else { Duration::ZERO };
    let longest = retries.max(catches_up).max(asked).max(lost).saturating_add(CLOCKS_DIFFER);
    let due = if open.source == Source::Schedule { open.starts } else { open.at };
    not_before > now && (due > now || not_before.since(now) <= longest)
}
