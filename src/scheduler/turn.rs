//! Which of a job's open runs begins next, and which waits, gives way or is never run.

use std::time::Duration;

use super::catching_up::{in_time_before, is_queued_behind, waiting_already};
use super::lifecycle::begins;
use super::run::{Open, OpenState, Source};
use super::{Active, By, SHOWN_AS_RUNNING_AFTER, Scheduler, To, WAITING_MOST};
use crate::fence::Fence;
use crate::job::{
    Guarantee, Job, JobName, MissedRun, Overlap, PUT_OFF_MOST, RunId, StopReason, Task, Verdict, cancelled,
};
use crate::time::Wall;

/// How far the clocks of two leaders may differ without either being wrong.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

impl Scheduler {
    /// What runs here of a job although the ledger does not show it as open any more: somebody else has decided it, and
    /// it has not ended yet.
    pub(super) fn left_running(&self, job: &JobName) -> impl Iterator<Item = &RunId> {
        let first = (!self.active.is_empty()).then(|| RunId::of(job, Wall::from_millis(i64::MIN)));
        let running = first.into_iter().flat_map(|first| self.active.range(first..));
        let is_of = move |active: &Active| active.job.name == *job;
        running
            .take_while(move |(_, active)| is_of(active))
            .map(|(run, _)| run)
            .filter(|run| !self.view.open.contains_key(run))
    }

    pub(super) fn advance_all(&mut self, now: Wall) {
        let jobs: std::collections::BTreeSet<JobName> =
            self.view.open.values().map(|known| known.open.job.clone()).collect();
        jobs.iter().for_each(|job| self.advance(job, now));
    }

    /// Something about a run is due: to publish that it runs, or to begin it.
    pub(super) fn look_again(&mut self, run: &RunId, now: Wall) {
        let Some(open) = self.view.open.get(run).map(|known| &known.open) else { return };
        if let Some(started_at) = self.active.get(run).and_then(|active| active.started_at) {
            if open.started_at.is_none() && now.since(started_at) >= SHOWN_AS_RUNNING_AFTER {
                let lateness = open.lateness.or(Some(started_at.since(open.starts)));
                let to = To::Open(Open { started_at: Some(started_at), lateness, ..open.clone() });
                let attempt = self.active[run].attempt.clone();
                self.change(run, to, By::Attempt(attempt));
            }
            return;
        }
        let job = open.job.clone();
        self.advance(&job, now);
    }

    /// Begins what may begin of a job's open runs, in the order of their instants.
    pub(super) fn advance(&mut self, job: &JobName, now: Wall) {
        let Some(fence) = self.term.filter(|_| self.may_act()) else { return };
        let mut opens: Vec<Open> = self.view.open_of(job).map(|run| self.view.open[run].open.clone()).collect();
        let claiming = self.claiming.iter().flat_map(|batch| &batch.opens);
        opens.extend(claiming.filter(|open| open.job == *job && !self.view.open.contains_key(&open.id)).cloned());
        opens.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        let definition = self.jobs.get(job).cloned();
        for (index, open) in opens.iter().enumerate() {
            let (OpenState::Waiting { not_before } | OpenState::Retrying { not_before }) = open.state else { continue };
            let acknowledged = self.view.open.contains_key(&open.id);
            if !acknowledged || self.flights.contains_key(&open.id) || self.active.contains_key(&open.id) {
                continue;
            }
            let Some(definition) = &definition else {
                self.conclude(open, Verdict::Cancelled, "the job is not configured any more", now);
                continue;
            };
            if let Some(by) = self.view.cancels.get(&open.id).cloned() {
                self.conclude(open, Verdict::Cancelled, cancelled(Some(&by)), now);
                continue;
            }
            let retrying = matches!(open.state, OpenState::Retrying { .. });
            let later = opens[index + 1..].last().filter(|_| retrying && definition.overlap == Overlap::Replace);
            if let Some(later) = later {
                self.conclude(open, Verdict::Cancelled, format!("replaced by {}", later.id), now);
            } else if is_early(definition, open, not_before, now) {
                self.timers.insert((not_before, open.id.clone()));
            } else if retrying {
                if self.may_repeat_beside(definition, &opens, open) {
                    self.begin(open, fence);
                }
            } else {
                self.begin_or_decide(definition, &opens, index, fence, now);
            }
        }
    }

    /// Decides about one waiting run, given all of its job's open runs in order.
    fn begin_or_decide(&mut self, job: &Job, opens: &[Open], index: usize, fence: Fence, now: Wall) {
        let open = &opens[index];
        match self.fit(job, opens, index) {
            Fit::Begin => self.begin(open, fence),
            Fit::Wait => {}
            Fit::Stop(runs) => runs.iter().for_each(|run| self.stop(run, StopReason::Replaced)),
            Fit::Never(verdict, reason) => self.conclude(open, verdict, reason, now),
        }
    }

    /// The runs of a job that are under way beside `open`, those included that somebody else has decided.
    fn busy_beside<'a>(&'a self, open: &Open, opens: &'a [Open], job: &JobName) -> Vec<&'a RunId> {
        let is_busy = |other: &&Open| {
            let waits = matches!(other.state, OpenState::Waiting { .. });
            other.id != open.id && (!waits || self.is_beginning(other) || self.active.contains_key(&other.id))
        };
        opens.iter().filter(is_busy).map(|other| &other.id).chain(self.left_running(job)).collect()
    }

    /// Whether the next attempt of a run that failed has room. It has kept its place among the open runs of its job;
    /// but one that another term has decided, or given back, may still run here.
    fn may_repeat_beside(&self, job: &Job, opens: &[Open], open: &Open) -> bool {
        // Others that are to be repeated do not count: each would wait for the other.
        let runs = |other: &&Open| {
            let begun = other.state == OpenState::Claimed || self.is_beginning(other);
            other.id != open.id && (begun || self.active.contains_key(&other.id))
        };
        let beside = opens.iter().filter(runs).count() + self.left_running(&job.name).count();
        let most = if let Overlap::Allow { max_running } = job.overlap { max_running as usize } else { 1 };
        beside < most
    }

    /// How a waiting run fits beside the other open runs of its job.
    fn fit(&self, job: &Job, opens: &[Open], index: usize) -> Fit {
        let open = &opens[index];
        let busy = self.busy_beside(open, opens, &job.name);
        // What was begun once is not skipped any more.
        let unbegun = open.attempt == 0;
        let asked_for = unbegun && matches!(open.source, Source::Trigger { .. } | Source::After(_));
        let skip = |reason: String| Fit::Never(Verdict::Skipped, reason);
        if unbegun && matches!(open.source, Source::After(_)) && self.view.paused.contains(&open.job) {
            return skip("the job is paused".to_owned());
        }
        match job.overlap {
            Overlap::Replace if !matches!(open.source, Source::Backfill { .. }) => {
                if let Some(later) = opens[index + 1..].last() {
                    return Fit::Never(Verdict::Cancelled, format!("replaced by {}", later.id));
                }
                if busy.is_empty() { Fit::Begin } else { Fit::Stop(busy.into_iter().cloned().collect()) }
            }
            Overlap::Skip if asked_for && (!busy.is_empty() || index > 0) => {
                let other = busy.first().map_or(&opens[0].id, |busy| busy);
                skip(format!("overlap: {other} has not ended"))
            }
            Overlap::Queue if asked_for && in_time_before(opens, index) > WAITING_MOST => skip(waiting_already()),
            Overlap::Queue if is_queued_behind(opens, index) => Fit::Wait,
            Overlap::Allow { max_running } if busy.len() < max_running as usize => Fit::Begin,
            Overlap::Allow { max_running } if asked_for => {
                skip(format!("overlap: {max_running} runs are open (`max_running`)"))
            }
            Overlap::Skip | Overlap::Queue | Overlap::Replace if busy.is_empty() => Fit::Begin,
            _ => Fit::Wait,
        }
    }

    /// Whether its transition into `Claimed` is under way.
    fn is_beginning(&self, open: &Open) -> bool {
        self.flights.get(&open.id).is_some_and(|flight| begins(&flight.sent.to))
    }

    fn begin(&mut self, open: &Open, fence: Fence) {
        if self.room_left() == 0 {
            // What follows a run is to start when a leader said so, whose clock may have been ahead.
            let turn = if matches!(open.source, Source::After(_)) { open.at } else { open.starts };
            self.crowd.insert((turn, open.id.clone()));
            return;
        }
        let to = Open {
            state: OpenState::Claimed,
            attempt: open.attempt + 1,
            claimant: Some(self.claimant(fence)),
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
    let asked = if matches!(job.task, Task::Http(_)) { PUT_OFF_MOST } else { Duration::ZERO };
    let longest = retries.max(catches_up).max(asked).saturating_add(CLOCKS_DIFFER);
    let due = if open.source == Source::Schedule { open.starts } else { open.at };
    not_before > now && (due > now || not_before.since(now) <= longest)
}

enum Fit {
    Begin,
    Wait,
    /// These are to be stopped first.
    Stop(Vec<RunId>),
    Never(Verdict, String),
}
