//! What a closure receives: its occurrence, its fence, its output, and the signal to stop.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::execute::{OutputSink, Stream};
use crate::fence::{Fence, Stamp};
use crate::job::{Again, JobName, Outcome, Params, StopReason};
use crate::lock::Hold;
use crate::store::Txn;
use crate::time::Wall;

/// One attempt of one run, as its closure sees it. Cheap to clone; clones are the same attempt.
///
/// ```
/// use fencron::jobs::Run;
///
/// async fn nightly(run: Run) -> Result<(), std::io::Error> {
///     run.log(format_args!("the report of {} under fence {}", run.scheduled_at(), run.fence()));
///     for page in 0..100 {
///         if run.is_cancelled() {
///             return Err(std::io::Error::other("stopped half-way"));
///         }
///         run.log(page);
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Run(Arc<Attempt>);

/// What an attempt has.
pub(super) struct Attempt {
    pub job: JobName,
    pub stamp: Stamp,
    pub params: Params,
    pub hold: Option<Hold>,
    pub signal: CancellationToken,
    pub why: watch::Receiver<Option<Cancelled>>,
    pub output: Output,
}

/// Why an attempt is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancelled {
    /// It has taken longer than the job's `timeout`.
    TimedOut,
    /// A person asked for it (`fencron cancel`, [`Jobs::cancel`](super::Jobs::cancel)).
    Asked,
    /// A later occurrence takes its place ([`Overlap::Replace`](crate::job::Overlap::Replace)).
    Replaced,
    /// The service is stopping, or steps down from its leadership, and the grace is over.
    Shutdown,
    /// This instance may no longer trust its leadership.
    LostLeadership,
}

impl From<StopReason> for Cancelled {
    fn from(reason: StopReason) -> Cancelled {
        match reason {
            StopReason::Asked => Cancelled::Asked,
            StopReason::Replaced => Cancelled::Replaced,
            StopReason::Shutdown | StopReason::StepDown => Cancelled::Shutdown,
            StopReason::LostLeadership => Cancelled::LostLeadership,
        }
    }
}

impl Run {
    pub(super) fn new(attempt: Attempt) -> Run {
        Run(Arc::new(attempt))
    }

    /// The name of the job.
    pub fn job(&self) -> &str {
        self.0.job.as_str()
    }

    /// The identity of the run, the same for every attempt and every leader: `nightly@2026-11-21T02:00:00Z`. What is
    /// recorded elsewhere under it is there once, however often the run is repeated.
    pub fn id(&self) -> &str {
        &self.0.stamp.run_id
    }

    /// The instant for which the run was scheduled; of a run that a person asked for, when.
    pub fn scheduled_at(&self) -> Wall {
        self.0.stamp.scheduled_at
    }

    /// The attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.stamp.attempt
    }

    /// The fence of the leadership under which the attempt is made: greater than that of every leader before.
    pub fn fence(&self) -> Fence {
        self.0.stamp.fence
    }

    /// What an effect carries, so that its receiver can turn away a leader that was replaced: as headers, as variables,
    /// or its parts.
    pub fn stamp(&self) -> &Stamp {
        &self.0.stamp
    }

    /// The parameters of a requested run; none for a run of the schedule.
    pub fn params(&self) -> &Params {
        &self.0.params
    }

    /// The value of the parameter `name`, if the request gave it one.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.0.params.get(name)
    }

    /// A transaction on the service's own store that takes effect only while this leadership stands. Where it has ended,
    /// the store refuses: [`Committed::succeeded`](crate::store::Committed::succeeded) is `false`.
    ///
    /// ```
    /// # use fencron::jobs::Run;
    /// # use fencron::store::{Op, Store, StoreError};
    /// async fn nightly(run: Run, store: impl Store) -> Result<(), Box<dyn std::error::Error>> {
    ///     let put = run.txn().then(Op::put("/shop/report", format!("of {}", run.scheduled_at())));
    ///     if !store.commit(put).await?.succeeded {
    ///         return Err("another instance leads".into());
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn txn(&self) -> Txn {
        self.0.hold.iter().flat_map(Hold::still_held).fold(Txn::new(), Txn::when)
    }

    /// Waits until the attempt is to stop, and says why. What it returns afterwards does not count: it is recorded as
    /// timed out or cancelled. After the job's `kill_after` it is dropped, at its next `await`. Cancel safe.
    pub async fn cancelled(&self) -> Cancelled {
        let mut why = self.0.why.clone();
        let reason = why.wait_for(Option::is_some).await.map(|reason| *reason);
        match reason {
            Ok(Some(reason)) => reason,
            // The attempt is over.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Whether the attempt is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.why_cancelled().is_some()
    }

    /// Why the attempt is to stop, where it is.
    pub fn why_cancelled(&self) -> Option<Cancelled> {
        *self.0.why.borrow()
    }

    /// A token that is cancelled when the attempt is to stop, and when it is over: for what it starts elsewhere.
    pub fn signal(&self) -> CancellationToken {
        self.0.signal.child_token()
    }

    /// Writes a line that `fencron logs` shows. Of all that an attempt writes, the last 8 KiB are kept with its verdict;
    /// it is logged too, under the target `fencron::output`.
    pub fn log(&self, line: impl fmt::Display) {
        self.0.output.write(Stream::Stdout, format!("{line}\n").as_bytes());
    }

    /// Writes bytes as they are, as [`Run::log`] does with a line.
    pub fn write(&self, bytes: &[u8]) {
        self.0.output.write(Stream::Stdout, bytes);
    }
}

/// For `writeln!` and other writers: as [`Run::write`]. It never fails.
impl io::Write for Run {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Run::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("id", &self.id()).field("attempt", &self.attempt()).finish_non_exhaustive()
    }
}

/// Where an attempt writes. What is written after its end, by something that it has left running, is dropped.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Option<OutputSink>>>);

impl Output {
    pub fn new(sink: OutputSink) -> Output {
        Output(Arc::new(Mutex::new(Some(sink))))
    }

    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        if let Some(sink) = &mut *self.lock() {
            sink.write(stream, bytes);
        }
    }

    /// Takes the sink away; `None`: it was taken before.
    pub fn take(&self) -> Option<OutputSink> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<OutputSink>> {
        // A panic within a write leaves a text that is cut, and nothing worse.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a closure may answer: nothing, a `Result` whose error is the reason of a failed run, or an [`Outcome`] of one's own
/// choice, such as [`Outcome::InDoubt`] where it is not known whether it was done.
pub trait IntoOutcome {
    /// How the attempt ended.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Done
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<T: IntoOutcome, E: fmt::Display> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => value.into_outcome(),
            // `#` has errors that know their causes write them too.
            Err(error) => Outcome::Failed { why: bounded(format!("{error:#}")), again: Again::AsConfigured },
        }
    }
}

/// How much of an error's or a panic's message is kept, in bytes: it stands in the run's record.
pub(super) const REASON_MOST: usize = 2 * 1024;

pub(super) fn bounded(mut reason: String) -> String {
    if reason.len() > REASON_MOST {
        reason.truncate(reason.floor_char_boundary(REASON_MOST));
        reason.push('…');
    }
    reason
}
