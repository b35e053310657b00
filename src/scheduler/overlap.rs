//! Whether a run of a job may begin beside the job's other runs, for an occurrence that is claimed as for a run that
//! waits.

use std::time::Duration;

use super::run::{CatchUp, Done, Open, OpenState, Source};
use super::{Scheduler, WAITING_MOST};
use crate::job::{Code, Job, JobName, Overlap, Reason, RunId, Verdict};
use crate::time::Wall;

/// An occurrence that a batch is about to open: the ledger does not show it yet.
pub(super) struct Fresh {
    pub(super) id: RunId,
    pub(super) catch_up: Option<CatchUp>,
}

/// What becomes of a run for now.
#[derive(Debug)]
pub(super) enum Place {
    Begin,
    Wait,
    /// As [`Place::Wait`], where it would be skipped if the job were not catching up on missed occurrences.
    Behind,
    /// It waits for these, which are asked to stop.
    Replace(Vec<RunId>),
    Never(Verdict, Reason),
}

/// Why a run asks for its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Its occurrence is due. `catching_up`: only what its job makes up for is in its way.
    InTime { catching_up: bool },
    /// Its occurrence was missed and is to run all the same: it waits where one in time would be skipped, since catching
    /// up is what was asked for.
    Missed,
    /// A person, or the end of another run, asks for it.
    Asked,
    /// It waits for its turn, which it has been given.
    Turn,
    /// As [`Asks::Turn`], for an instant of the past: it replaces nothing, and nothing replaces it.
    Past,
    /// Its last attempt failed: it has kept its place.
    Again,
}

/// The other runs of its job, as far as they matter to the one that asks.
struct Beside<'a> {
    /// Those that it may not begin beside, unless `max_running` says so.
    runs: Vec<&'a RunId>,
    /// How many stand before it, beside those that were missed.
    in_time: usize,
    /// An earlier run waits, which it does not overtake in a queue.
    queued: bool,
    /// The last of those that came after it.
    later: Option<&'a RunId>,
}

/// The place of a run that asks, by its job's `overlap:`.
fn place(overlap: Overlap, asks: Asks, beside: &Beside<'_>) -> Place {
    let skip = |text: String| Place::Never(Verdict::Skipped, Code::Overlap.because(text));
    let full = || format!("overlap: {WAITING_MOST} runs wait already");
    let too_many = beside.in_time > WAITING_MOST;
    let gives_way = overlap == Overlap::Replace && asks != Asks::Past;
    match (overlap, asks) {
        _ if gives_way && beside.later.is_some() => {
            let later = beside.later.map(RunId::to_string).unwrap_or_default();
            Place::Never(Verdict::Cancelled, Code::Replaced.because(format!("replaced by {later}")))
        }
        _ if beside.runs.len() < overlap.most() && !(overlap == Overlap::Queue && beside.queued) => Place::Begin,
        (Overlap::Replace, Asks::Asked | Asks::Turn) => Place::Replace(beside.runs.iter().copied().cloned().collect()),
        (Overlap::Queue, Asks::InTime { .. } | Asks::Asked) if too_many => skip(full()),
        (Overlap::Queue | Overlap::Replace, _) | (_, Asks::Missed | Asks::Turn | Asks::Past | Asks::Again) => {
            Place::Wait
        }
        (_, Asks::InTime { catching_up: true }) if too_many => skip(full()),
        (_, Asks::InTime { catching_up: true }) => Place::Behind,
        (Overlap::Allow { max_running }, _) => skip(format!("overlap: {max_running} runs are open (`max_running`)")),
        (Overlap::Skip, _) => {
            let other = beside.runs.last().map(|run| run.to_string()).unwrap_or_default();
            skip(format!("overlap: {other} has not ended"))
        }
    }
}

impl Scheduler {
    /// The place of an occurrence of `job` that is due, or that was missed and is to run all the same: beside all that is
    /// open, and what its batch opens before it.
    pub(super) fn place_of_due(&self, job: &Job, fresh: &[Fresh], is_missed: bool) -> Place {
        let open = self.view.open_of(&job.name).map(|run| (run, self.view.open[run].open.catch_up));
        let fresh = fresh.iter().map(|fresh| (&fresh.id, fresh.catch_up));
        let left = self.left_running(&job.name).map(|run| (run, None));
        let before: Vec<(&RunId, Option<CatchUp>)> = open.chain(fresh).chain(left).collect();
        let in_time = before.iter().filter(|(_, catch_up)| *catch_up != Some(CatchUp::Missed)).count();
        let catching_up = match job.overlap {
            // Those that run beside each other are behind no longer than the missed ones.
            Overlap::Allow { .. } => in_time < before.len(),
            _ => before.iter().any(|(_, catch_up)| catch_up.is_some()),
        };
        // Where the node itself has no room, it is that which is in the way, and what waited would be one more of many.
        let catching_up = catching_up && !self.work.is_crowded();
        let runs = before.into_iter().map(|(run, _)| run).collect();
        let asks = if is_missed { Asks::Missed } else { Asks::InTime { catching_up } };
        place(job.overlap, asks, &Beside { runs, in_time, queued: false, later: None })
    }

    /// The place of the run at `index` of the open runs of its job, which are in order: one that waits, or waits to be
    /// repeated.
    pub(super) fn place_of_open(&self, job: &Job, opens: &[Open], index: usize) -> Place {
        let open = &opens[index];
        let before = &opens[..index];
        let retries = matches!(open.state, OpenState::Retrying { .. });
        let asks = match &open.source {
            _ if retries => Asks::Again,
            Source::Backfill { .. } => Asks::Past,
            // What was begun once is not skipped any more.
            Source::Trigger { .. } | Source::After(_) if open.attempt == 0 => Asks::Asked,
            Source::Schedule | Source::Trigger { .. } | Source::After(_) => Asks::Turn,
        };
        let is_busy = |other: &&Open| {
            let runs_here = self.work.is_beginning(&other.id) || self.work.is_active(&other.id);
            open.waits_behind(other) || (runs_here && other.id != open.id)
        };
        let busy = opens.iter().filter(is_busy).map(|other| &other.id);
        let mut runs: Vec<&RunId> = busy.chain(self.left_running(&job.name)).collect();
        if runs.is_empty() && job.overlap == Overlap::Skip && asks == Asks::Asked {
            // An occurrence would be skipped for them as well.
            runs.extend(before.last().map(|earlier| &earlier.id));
        }
        let in_time = before.iter().filter(|open| open.catch_up != Some(CatchUp::Missed)).count();
        let queued = before.iter().any(|earlier| open.queues_behind(earlier));
        let later = opens[index + 1..].last().map(|later| &later.id);
        place(job.overlap, asks, &Beside { runs, in_time, queued, later })
    }

    /// What runs here of a job although the ledger does not show it as open any more: another node has decided it, and
    /// it has not ended yet.
    fn left_running(&self, job: &JobName) -> impl Iterator<Item = &RunId> {
        self.work.active_of_job(job).filter(|run| !self.view.open.contains_key(run))
    }

    /// A run has ended whose job skips what overlaps: those that waited behind a job that was catching up, and that this
    /// run would have overlapped had it begun in time, are skipped after all. A job that takes longer than from one
    /// occurrence to the next so comes to rest.
    pub(super) fn skip_overlapped(&mut self, ended: &Open, done: &Done, now: Wall) {
        let skips = self.configuration.job(&ended.job).is_some_and(|job| job.overlap == Overlap::Skip);
        let Some(lateness) = done.lateness.filter(|_| skips && ended.catch_up != Some(CatchUp::Missed)) else { return };
        let took = done.finished_at.since(ended.starts.plus(lateness));
        for open in self.waiting_behind(&ended.job) {
            if open.starts > ended.starts && open.starts.since(ended.starts) < took {
                let text = format!("overlap: {} lasted beyond its instant", ended.id);
                self.conclude(&open, Verdict::Skipped, Code::Overlap.because(text), now);
            }
        }
    }

    fn waiting_behind(&self, job: &JobName) -> Vec<Open> {
        let waits = |open: &&Open| {
            open.catch_up == Some(CatchUp::Behind)
                && open.attempt == 0
                && matches!(open.state, OpenState::Waiting { .. })
        };
        self.view.open_of(job).map(|run| &self.view.open[run].open).filter(waits).cloned().collect()
    }
}

/// From now until the `nth` of the missed occurrences may start.
pub(super) fn pause_of((nth, every): (u32, Duration)) -> Duration {
    every.saturating_mul(nth)
}
