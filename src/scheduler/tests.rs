//! The scheduler over a ledger in memory, with time, answers and the watch moved by hand.

mod bench;
mod due;
mod judged;
mod lifecycle;
mod missed;
mod overlap;
mod property;
mod skips;
mod takeover;
mod terms;

use std::time::Duration;

use bench::{Bench, T0, at, ended, failed, job, stopped, succeeded};

use super::view::{Change, LedgerView};
use super::*;
use crate::job::{ATTEMPTS_LOST_MOST, Guarantee, MissedRun, OnLostLeadership, Outcome, Overlap, Verdict};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every reason that the scheduler gives has a code, and what has none to give has no code.
fn assert_has_code(done: &Done) {
    assert_eq!(done.code.is_some(), !done.reason.is_empty(), "{done:?}");
}

impl Scheduler {
    /// What it remembers of runs is about those that are open, or that run here.
    fn assert_forgets(&self) {
        self.work.assert_forgets(|run| self.view.open.contains_key(run));
    }
}
