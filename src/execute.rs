//! Doing what jobs say: an attempt from the permission to start to the end of its last process.
//!
//! - [`Execute`] is what a node runs attempts through; a simulation puts its own in the place of [`Executor`].
//! - [`Outputs`] is where what they write can be followed while they run.
//! - [`Wrapped`] is a command that takes the place of the program which starts it, with its files and its terminal.
//!
//! What is promised about a command:
//!
//! - It is started only while [`MayStart`] says so, asked right before the start, and not when it was stopped before.
//! - It runs in a session and process group of its own, with nothing to read on stdin unless it is given that of this
//!   process ([`Reads`]). The attempt ends when **no
//!   process of that group is left**: what a command leaves in the background is ended (TERM, and KILL after the job's
//!   `kill_after`) like a command that takes too long or is stopped. When it is ended so, the other groups of its
//!   session, as timeout(1) makes one, are ended and waited for too. A process that makes itself a session of its own
//!   is out of reach, and does not keep the attempt open, even where it holds on to the output.
//! - It inherits the node's environment without the variables that begin with `FENCRON_`: the store's address may hold
//!   a password. [`Executor::handing`] sets what it receives about the store instead.
//! - Why it was ended decides the outcome: a command that is stopped and then exits with 0 was stopped.
//! - When the future of [`Execute::run`] is dropped, its group is killed at once.
//! - When the node is killed or stands still, a [supervisor](SupervisorProgram) ends the command and what it has
//!   started, before the lease can pass under which it was started.
//!
//! [`Executor`], [`Wrapped`] and the supervisor have the feature `cli` and are for Linux. The rest has the feature `jobs`
//! and is for every system.

#[cfg(feature = "cli")]
#[expect(unsafe_code, reason = "what a child does before its exec has no safe wrapper")]
pub(crate) mod bounds;
#[cfg(feature = "cli")]
#[expect(unsafe_code, reason = "pidfds have no safe wrapper")]
mod census;
#[cfg(feature = "cli")]
mod command;
#[cfg(feature = "cli")]
mod executor;
mod gate;
#[cfg(feature = "cli")]
#[expect(unsafe_code, reason = "process groups by pidfd: the system calls have no safe wrapper")]
mod group;
#[cfg(feature = "cli")]
mod http;
mod output;
#[cfg(feature = "cli")]
mod room;
#[cfg(feature = "cli")]
#[expect(unsafe_code, reason = "a child is started by clone(CLONE_VFORK), which has no safe wrapper")]
mod spawn;
#[cfg(feature = "cli")]
mod sql;
#[cfg(feature = "cli")]
#[expect(unsafe_code, reason = "shared memory, pidfds and messages from a child before its exec have no safe wrapper")]
mod supervise;
#[cfg(feature = "cli")]
mod whole;
#[cfg(feature = "cli")]
mod wrapped;

use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

#[cfg(feature = "cli")]
pub use self::executor::Executor;
#[cfg(feature = "cli")]
pub(crate) use self::gate::Attempt;
pub(crate) use self::gate::Gate;
#[cfg(feature = "cli")]
pub(crate) use self::http::{certificates, even_without_authorities, retry_after};
pub use self::output::{
    FOLLOW_KEPT, Follow, Heard, LINE_LOGGED, LINES_LOGGED_BURST, LINES_LOGGED_PER_SECOND, OutputSink, Outputs, Stream,
};
#[cfg(feature = "cli")]
pub(crate) use self::sql::{Fitness, examine};
#[cfg(feature = "cli")]
pub use self::supervise::{Deadlines, SupervisorProgram, hide, supervise_if_asked};
#[cfg(feature = "cli")]
pub use self::whole::{Place, Wholes};
#[cfg(feature = "cli")]
pub use self::wrapped::{Ending, NotRun, Running, Wrapped};
use crate::fence::Stamp;
use crate::job::{AttemptResult, Job, Params, StopReason};
use crate::lock::Hold;
use crate::time::Wall;

/// How many attempts a node makes at once by default. The others wait, first come, first served.
pub const MAX_RUNNING: usize = 1_000;

/// One attempt to be made.
#[derive(Debug)]
pub struct Work {
    pub job: Arc<Job>,
    pub stamp: Stamp,
    /// The parameters of a requested run.
    pub params: Params,
    /// The hold under which it is made, for what is written in the same store.
    pub hold: Option<Hold>,
    pub stop: Stop,
    pub may_start: MayStart,
    pub output: OutputSink,
    pub started: Started,
    pub reads: Reads,
}

/// What a command finds on its stdin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    #[default]
    Nothing,
    /// What this process was given to read.
    OurInput,
}

/// What attempts are made by.
pub trait Execute: Clone + Send + Sync + 'static {
    /// Makes the attempt and waits until nothing of it is left. Dropping the future ends it at once, by force.
    fn run(&self, work: Work) -> impl Future<Output = AttemptResult> + Send;
}

/// Asks an attempt to stop. Dropping it means that no request will come.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<Option<StopReason>>);

impl Stopper {
    /// Stops the attempt for this reason, unless it was stopped before: the first reason stays.
    pub fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(reason);
            first
        });
    }
}

/// How an attempt learns that it is to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<StopReason>>);

impl Stop {
    /// The two ends of it.
    pub fn channel() -> (Stopper, Stop) {
        let (stopper, stop) = watch::channel(None);
        (Stopper(stopper), Stop(stop))
    }

    /// Why it is to stop, if it is.
    pub fn asked(&self) -> Option<StopReason> {
        *self.0.borrow()
    }

    /// Waits until it is to stop. Cancel safe.
    pub async fn requested(&mut self) -> StopReason {
        if let Ok(reason) = self.0.wait_for(Option::is_some).await {
            return reason.expect("waited for a reason");
        }
        std::future::pending().await
    }
}

/// Whether a node may still start something: asked, by the deadline of its trust, at the last moment.
#[derive(Clone)]
pub struct MayStart {
    answer: Arc<dyn Fn() -> bool + Send + Sync>,
    lease: Option<NonZeroU64>,
}

impl MayStart {
    /// Asks `answer`, which must be quick: the starting of all commands waits for it.
    pub fn new(answer: impl Fn() -> bool + Send + Sync + 'static) -> MayStart {
        MayStart { answer: Arc::new(answer), lease: None }
    }

    /// The same for an attempt that lives no longer than `lease` may be trusted, as [`Deadlines::set`] reports, also
    /// when this process is lost.
    #[must_use]
    pub fn under(self, lease: NonZeroU64) -> MayStart {
        MayStart { lease: Some(lease), ..self }
    }

    /// The lease that what is started hangs on, if on any.
    pub fn lease(&self) -> Option<NonZeroU64> {
        self.lease
    }

    /// For what depends on no leadership.
    pub fn always() -> MayStart {
        MayStart::new(|| true)
    }

    /// Whether it may now.
    pub fn now(&self) -> bool {
        (self.answer)()
    }
}

impl fmt::Debug for MayStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MayStart").field(&self.now()).finish()
    }
}

/// Reports that an attempt was started, and when.
#[derive(Debug)]
pub struct Started(oneshot::Sender<Wall>);

impl Started {
    /// The report, and where it arrives: an error there means that the attempt ended without having been started.
    pub fn channel() -> (Started, oneshot::Receiver<Wall>) {
        let (started, when) = oneshot::channel();
        (Started(started), when)
    }

    /// To be called by an executor, once the start is done.
    pub fn at(self, at: Wall) {
        // A caller that is not interested has dropped the receiver.
        self.0.send(at).ok();
    }
}
