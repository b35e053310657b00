//! Jobs of a service as closures, with the whole scheduler: every instance starts the same jobs, one of them leads, claims
//! each due occurrence in the store before it calls anything, and keeps a record of each until its verdict.
//!
//! ```no_run
//! use fencron::Client;
//! use fencron::jobs::{Missed, Run};
//!
//! async fn nightly(run: Run) -> Result<(), std::io::Error> {
//!     run.log(format_args!("{} under fence {}", run.id(), run.fence()));
//!     Ok(())
//! }
//!
//! # async fn start() -> Result<(), fencron::Error> {
//! let fencron = Client::connect("etcd://10.0.0.1:2379").await?;
//! let jobs = fencron.jobs()
//!     .job("nightly", "0 2 * * *", nightly).zone("Europe/Berlin").retry(3).missed(Missed::Latest).done()
//!     .start().await?;
//! # Ok(()) }
//! ```
//!
//! `docs/closures.md` explains it; what each setting means stands in `docs/configuration.md`, for they are those of the
//! jobs file. `fencron --store … runs`, `jobs`, `logs`, `status`, `trigger`, `pause`, `cancel` and `resolve` show and steer
//! these jobs as they do those of a file.
//!
//! The builder writes the keys of the jobs file; `config` gives each job of a program the task [`crate::job::Task::Call`];
//! when a run starts, `jobs::calls` finds the closure by the job's name.
//!
//! # What is promised
//!
//! - **One claim per occurrence**, whichever instances crash, pause or are cut off; each ends in a verdict that anyone can
//!   read. What was claimed by an instance that was lost in the middle is `unknown`, or is run again, as the job's
//!   [`Guarantee`] says.
//! - **A closure is called only while the leadership may be trusted**, which is looked at right before the call. What it
//!   does later carries [`Run::stamp`] or is put in [`Run::txn`]: a closure cannot be ended by force, and an instance that
//!   stood still goes on where it was.
//! - **A run is over when nothing of its closure runs any more**: one that has to stop learns so by [`Run::cancelled`],
//!   and is dropped after its `kill_after`, at its next `await`. What it has spawned is its own to end: see
//!   [`Run::signal`].

mod builder;
pub(crate) mod calls;
mod run;
mod running;
#[cfg(test)]
mod tests;

pub use builder::{JobBuilder, JobsBuilder, When, after};
pub use run::{Cancelled, IntoOutcome, Run};
pub use running::Jobs;
pub(crate) use running::Service;

pub use crate::job::{Guarantee, MissedRun as Missed, On, OnLostLeadership, Outcome, Overlap, Params};

use std::fmt;
use std::sync::Arc;

use crate::config::Problems;
use crate::job::BadParam;
use crate::ledger::AskError;
use crate::store::StoreError;

/// Why jobs do not start, do not go on, or do not do what was asked for.
///
/// `Debug` prints the message as well, so that a `main` that answers `Result<(), JobsError>` ends with a text for people.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JobsError {
    /// Nothing would ever be called.
    #[error("there are no jobs to start: add one with `job(…).done()` before `start`")]
    NoJobs,
    /// Everything that is wrong with the jobs, each with the path of its key.
    #[error("the jobs cannot be started:\n{0}")]
    Wrong(Problems),
    #[error("there is no job `{0}` in this service")]
    NoSuchJob(String),
    #[error(transparent)]
    Param(#[from] BadParam),
    /// There is no such run, or it does not stand as the request supposes.
    #[error("{0}")]
    Asked(String),
    #[error(transparent)]
    Store(StoreError),
    /// The chores of a leader have no timer.
    #[error("the housekeeping cannot be started: {0}")]
    Chores(String),
    /// The node itself has panicked: a defect of fencron.
    #[error("the node {0}: this is a defect of fencron, please report it")]
    Node(String),
    #[error("the jobs have been stopped")]
    Stopped,
    /// Of one client only one set of jobs runs at a time: a second one would follow the first for ever.
    #[error("jobs of this client are running already: give all jobs to one `start`, or stop those first")]
    Running,
    /// Something else that the service asked of its client was not done.
    #[error(transparent)]
    Client(Arc<dyn std::error::Error + Send + Sync>),
}

impl fmt::Debug for JobsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobsError::Client(error) => fmt::Debug::fmt(error, f),
            error => fmt::Display::fmt(error, f),
        }
    }
}

impl From<StoreError> for JobsError {
    fn from(error: StoreError) -> JobsError {
        JobsError::Store(error)
    }
}

impl From<AskError> for JobsError {
    fn from(error: AskError) -> JobsError {
        match error {
            AskError::Store(error) => JobsError::Store(error),
            other => JobsError::Asked(other.to_string()),
        }
    }
}
