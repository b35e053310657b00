//! Requests: sent once an attempt, stamped, and what their answers mean.

use super::output::OutputSink;
use super::{MayStart, Started, Stop};
use crate::fence::Stamp;
use crate::job::{Again, Http, Job, Outcome};
use crate::time::{Clock, Wall};

/// What a request is made with.
pub(super) struct Run<'a> {
    pub job: &'a Job,
    pub http: &'a Http,
    pub stamp: &'a Stamp,
    pub stop: Stop,
    pub may_start: MayStart,
    pub started: Started,
    pub clock: &'a Clock,
}

/// Makes the request. Returns how it ended and when it was sent.
pub(super) async fn run(run: Run<'_>, _output: &mut OutputSink) -> (Outcome, Option<Wall>) {
    let _ = (run.job, run.http, run.stamp, run.stop, run.may_start, run.started, run.clock);
    (Outcome::Failed { why: "requests come with the next change".to_owned(), again: Again::Never }, None)
}
