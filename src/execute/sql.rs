//! Statements: run in a database, with the guard that lets them through once.

use super::output::OutputSink;
use super::{MayStart, Started, Stop};
use crate::fence::Stamp;
use crate::job::{Again, Job, Outcome, Sql};
use crate::time::{Clock, Wall};

/// What statements are run with.
pub(super) struct Run<'a> {
    pub job: &'a Job,
    pub sql: &'a Sql,
    pub stamp: &'a Stamp,
    pub stop: Stop,
    pub may_start: MayStart,
    pub started: Started,
    pub clock: &'a Clock,
}

/// Runs the statements. Returns how they ended and when they began.
pub(super) async fn run(run: Run<'_>, _output: &mut OutputSink) -> (Outcome, Option<Wall>) {
    let _ = (run.job, run.sql, run.stamp, run.stop, run.may_start, run.started, run.clock);
    (Outcome::Failed { why: "statements come with the next change".to_owned(), again: Again::Never }, None)
}
