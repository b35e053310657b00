//! Attempts that are closures: each a task of the runtime, until it has ended or was dropped.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::run::{Attempt, Cancelled, IntoOutcome, Output, Run, bounded};
use crate::execute::{Execute, Gate, Stream, Work};
use crate::job::{Again, AttemptResult, Job, JobName, Outcome, StopReason};
use crate::time::Clock;

/// How long a closure that was dropped may go on without an `await` before the log says so.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);

/// A closure that is called for every attempt of a job.
pub(crate) type Body = Arc<dyn Fn(Run) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// The closure of a job as it is kept.
pub(crate) fn body<F, R>(call: F) -> Body
where
    F: Fn(Run) -> R + Send + Sync + 'static,
    R: Future<Output: IntoOutcome> + Send + 'static,
{
    Arc::new(move |run| {
        let called = call(run);
        Box::pin(async move { called.await.into_outcome() })
    })
}

/// The closures of a program, by the names of their jobs. Clones share them.
#[derive(Clone)]
pub(crate) struct Calls {
    clock: Clock,
    /// How long after the end of trust something of an attempt may be left.
    killed_after: Duration,
    bodies: Arc<RwLock<BTreeMap<JobName, Body>>>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bodies = self.bodies.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(bodies.keys()).finish()
    }
}

/// How the task of an attempt came to its end.
type Joined = Result<Result<Outcome, StopReason>, JoinError>;

impl Calls {
    pub fn new(clock: Clock, killed_after: Duration, bodies: BTreeMap<JobName, Body>) -> Calls {
        Calls { clock, killed_after, bodies: Arc::new(RwLock::new(bodies)) }
    }

    /// Has attempts that begin from now on call these. A job that is gone keeps its closure: a run of it may be about to
    /// begin.
    pub fn replace(&self, bodies: BTreeMap<JobName, Body>) {
        self.bodies.write().unwrap_or_else(PoisonError::into_inner).extend(bodies);
    }

    fn body(&self, job: &JobName) -> Option<Body> {
        self.bodies.read().unwrap_or_else(PoisonError::into_inner).get(job).cloned()
    }

    /// From the start to the end of the task. Why it was stopped decides, not what it answers to that.
    async fn attend(&self, job: &Job, gate: &Gate, mut task: Task) -> Outcome {
        // It is polled soon, and then begins or is turned away.
        if (&mut task.begins).await.is_err() {
            return outcome((&mut task.handle).await);
        }
        let interrupted = tokio::select! {
            biased;
            joined = &mut task.handle => return outcome(joined),
            interrupted = gate.interrupted(job.timeout) => interrupted,
        };
        let why = match interrupted {
            Outcome::Stopped(reason) => Cancelled::from(reason),
            _ => Cancelled::TimedOut,
        };
        task.why.send_replace(Some(why));
        task.signal.cancel();
        // Under any `on_lost_leadership`: another instance may lead once the lease has passed.
        let lost = (why == Cancelled::LostLeadership).then_some(self.killed_after);
        let kill_after = lost.map_or(job.kill_after, |most| job.kill_after.min(most));
        if tokio::time::timeout(kill_after, &mut task.handle).await.is_err() {
            tracing::warn!(job = %job.name, ?why, "dropped: it went on for longer than `kill_after`");
            task.handle.abort();
            if tokio::time::timeout(LET_GO_WITHIN, &mut task.handle).await.is_err() {
                tracing::error!(
                    job = %job.name,
                    "it blocks its thread, so that it cannot be dropped: no other run of the job begins before it \
                     ends. Let it await, or look at `is_cancelled`, where it takes long"
                );
                // Nothing of it may be left when the attempt is said to have ended.
                (&mut task.handle).await.ok();
            }
        }
        interrupted
    }
}

/// The running task of an attempt, and the senders of its signals.
struct Task {
    handle: AbortOnDropHandle<Result<Outcome, StopReason>>,
    begins: oneshot::Receiver<()>,
    why: watch::Sender<Option<Cancelled>>,
    signal: CancellationToken,
}

impl Execute for Calls {
    async fn run(&self, work: Work) -> AttemptResult {
        let Work { job, stamp, params, hold, stop, may_start, output, started, .. } = work;
        let gate = Gate::new(stop, may_start, started, &self.clock);
        let output = Closing(Output::new(output));
        let outcome = match self.body(&job.name) {
            None => Outcome::NotStarted("this program has no closure of that name".to_owned()),
            Some(body) => {
                let (why, cancelled) = watch::channel(None);
                let signal = CancellationToken::new();
                let run = Run::new(Attempt {
                    job: job.name.clone(),
                    stamp,
                    params,
                    hold,
                    signal: signal.clone(),
                    why: cancelled,
                    output: output.0.clone(),
                });
                let (begun, begins) = oneshot::channel();
                let _over = signal.clone().drop_guard();
                // A task of its own: it can be dropped apart from the caller, and its panic ends nothing else. The gate is
                // passed within it, right before the call, since the task may wait for its turn.
                let passed = gate.clone();
                let handle = AbortOnDropHandle::new(tokio::spawn(async move {
                    passed.pass()?;
                    // Without a receiver, the task is being dropped.
                    begun.send(()).ok();
                    Ok(body(run).await)
                }));
                self.attend(&job, &gate, Task { handle, begins, why, signal }).await
            }
        };
        if let Outcome::Failed { why, .. } = &outcome {
            output.0.write(Stream::Stderr, format!("{why}\n").as_bytes());
        }
        gate.ended(outcome, output.0.take().expect("nothing else takes it while this runs"))
    }
}

/// Ends the output also where the attempt is dropped.
struct Closing(Output);

impl Drop for Closing {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

fn outcome(joined: Joined) -> Outcome {
    match joined {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(reason)) => Outcome::Stopped(reason),
        Err(error) => match error.try_into_panic() {
            Ok(payload) => Outcome::Failed { why: panicked(&*payload), again: Again::AsConfigured },
            // Only the runtime cancels it, when it shuts down.
            Err(_) => Outcome::Stopped(StopReason::Shutdown),
        },
    }
}

/// What a panic says.
pub(super) fn panicked(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.map_or("panicked".to_owned(), |text| bounded(format!("panicked: {text}")))
}
