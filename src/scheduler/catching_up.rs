//! Room for what comes due while missed occurrences are made up for: `missed` costs nothing of what is due now.

use std::time::Duration;

use super::run::{CatchUp, Done, Open, OpenState};
use super::{Scheduler, WAITING_MOST};
use crate::job::{Job, JobName, Overlap, RunId, Verdict};
use crate::time::Wall;

/// An occurrence that a batch is about to open: the ledger does not show it yet.
pub(super) struct Fresh {
    pub(super) id: RunId,
    pub(super) catch_up: Option<CatchUp>,
}

/// Whether an occurrence may start beside the runs that are open.
pub(super) enum Room {
    Free,
    Wait,
    /// As [`Room::Wait`], where it would be skipped if the job were not catching up.
    Behind,
    None(String),
}

impl Scheduler {
    /// Whether an occurrence of `job` may start beside the runs that are open. One that was missed and is to run all
    /// the same waits where one in time would be skipped: catching up is what was asked for. One in time waits, too,
    /// where only the catching up is in its way.
    pub(super) fn room_for(&self, job: &Job, fresh: &[Fresh], is_missed: bool) -> Room {
        let open = self.view.open_of(&job.name).map(|run| (run, self.view.open[run].open.catch_up));
        let fresh = fresh.iter().map(|fresh| (&fresh.id, fresh.catch_up));
        let left = self.left_running(&job.name).map(|run| (run, None));
        let before: Vec<(&RunId, Option<CatchUp>)> = open.chain(fresh).chain(left).collect();
        let Some((last, _)) = before.last() else { return Room::Free };
        let in_time = before.iter().filter(|(_, catch_up)| *catch_up != Some(CatchUp::Missed)).count();
        let too_many = in_time > WAITING_MOST;
        let catching_up = match job.overlap {
            // Those that run beside each other are behind no longer than the missed ones.
            Overlap::Allow { .. } => in_time < before.len(),
            _ => before.iter().any(|(_, catch_up)| catch_up.is_some()),
        };
        // Where the node itself has no room, it is that which is in the way, and what waited would be one more of many.
        let catching_up = catching_up && self.crowd.is_empty();
        match job.overlap {
            Overlap::Allow { max_running } if before.len() < max_running as usize => Room::Free,
            Overlap::Queue if !is_missed && too_many => Room::None(waiting_already()),
            Overlap::Queue | Overlap::Replace => Room::Wait,
            Overlap::Skip | Overlap::Allow { .. } if is_missed => Room::Wait,
            Overlap::Skip | Overlap::Allow { .. } if catching_up && too_many => Room::None(waiting_already()),
            Overlap::Skip | Overlap::Allow { .. } if catching_up => Room::Behind,
            Overlap::Skip => Room::None(format!("overlap: {last} has not ended")),
            Overlap::Allow { max_running } => {
                Room::None(format!("overlap: {max_running} runs are open (`max_running`)"))
            }
        }
    }

    /// A run has ended whose job skips what overlaps: those that waited behind a job that was catching up, and that this
    /// run would have overlapped had it begun in time, are skipped after all. A job that takes longer than from one
    /// occurrence to the next so comes to rest.
    pub(super) fn skip_overlapped(&mut self, ended: &Open, done: &Done, now: Wall) {
        let skips = self.jobs.get(&ended.job).is_some_and(|job| job.overlap == Overlap::Skip);
        let Some(lateness) = done.lateness.filter(|_| skips && ended.catch_up != Some(CatchUp::Missed)) else { return };
        let took = done.finished_at.since(ended.starts.plus(lateness));
        for open in self.waiting_behind(&ended.job) {
            if open.starts > ended.starts && open.starts.since(ended.starts) < took {
                let reason = format!("overlap: {} lasted beyond its instant", ended.id);
                self.conclude(&open, Verdict::Skipped, reason, now);
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

/// Whether an earlier run of a queue waits: nothing overtakes it, even where it has to wait for longer.
pub(super) fn is_queued_behind(opens: &[Open], index: usize) -> bool {
    opens[..index].iter().any(|earlier| matches!(earlier.state, OpenState::Waiting { .. }))
}

/// How many runs wait before the one at `index`, beside those that were missed.
pub(super) fn in_time_before(opens: &[Open], index: usize) -> usize {
    opens[..index].iter().filter(|open| open.catch_up != Some(CatchUp::Missed)).count()
}

pub(super) fn waiting_already() -> String {
    format!("overlap: {WAITING_MOST} runs wait already")
}

/// From now until the `nth` of the missed occurrences may start.
pub(super) fn pause_of((nth, every): (u32, Duration)) -> Duration {
    every.saturating_mul(nth)
}
