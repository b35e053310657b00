//! The executor of the program: commands, requests and statements, within one bound.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use super::spawn::Starter;
use super::{Attempt, Deadlines, Execute, Gate, SupervisorProgram, Wholes, Work, command, http, sql};
use crate::job::{Again, AttemptResult, NotGiven, Outcome, Task};
use crate::time::Clock;

/// Makes attempts for real. Clones share their bound and their starting thread.
///
/// ```standalone_crate
/// # use std::{sync::Arc, time::Duration};
/// # use fencron::{fence::{Fence, Scope, Stamp}, job::*, time::Clock};
/// use fencron::execute::{
///     Execute, Executor, MAX_RUNNING, MayStart, Outputs, Reads, Started, Stop, SupervisorProgram, Work,
///     supervise_if_asked,
/// };
///
/// supervise_if_asked(); // First of all: the program is its own supervisor.
///
/// # let task = Task::Command(vec![Text::plain("echo"), Text::plain("hello")]);
/// # let job = Job::new(JobName::new("greet").unwrap(), task);
/// # let job = Arc::new(Job { kill_after: Duration::from_secs(10), ..job });
/// # let run_id = RunId::of(&job.name, "2026-11-21T02:00:00Z".parse().unwrap());
/// # let stamp = Stamp {
/// #     namespace: "shop".into(), scope: Scope::leader("shop"), fence: Fence::new(7).unwrap(), job: "greet".into(),
/// #     run_id: run_id.to_string(), scheduled_at: run_id.at(), attempt: 1, node: "a".into(),
/// #     after: None,
/// # };
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let executor = Executor::new(Clock::system(), MAX_RUNNING, SupervisorProgram::this()?)?;
/// let output = Outputs::new(Clock::system()).open(&run_id);
/// let (_stopper, stop) = Stop::channel();
/// let (started, _when) = Started::channel();
/// let (may_start, reads) = (MayStart::always(), Reads::Nothing);
/// let (params, hold) = (Params::default(), None);
/// let ended = executor.run(Work { job, stamp, params, hold, stop, may_start, output, started, reads }).await;
/// assert_eq!((ended.outcome, ended.output.as_str()), (Outcome::Exited(0), "hello\n"));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Executor {
    pub(super) clock: Clock,
    pub(super) starter: Starter,
    roots: http::Roots,
    pub(super) room: Arc<Semaphore>,
    handed: Arc<Vec<(OsString, OsString)>>,
    wholes: Wholes,
}

impl Executor {
    /// An executor that runs at most `max_running` commands at once (at least one); the others wait in their order.
    ///
    /// It lets this process open as many files as the system allows, for a running command takes five; commands
    /// themselves get the limit that the process had.
    ///
    /// `supervisor` is started at once, which is waited for, and ends by itself after the last clone of this and the
    /// last of its commands.
    ///
    /// # Errors
    ///
    /// When the system gives it no thread, no `/dev/null`, or when `supervisor` is none.
    pub fn new(clock: Clock, max_running: usize, supervisor: SupervisorProgram) -> io::Result<Executor> {
        let room = Arc::new(Semaphore::new(max_running.clamp(1, Semaphore::MAX_PERMITS)));
        let (starter, handed) = (Starter::new(supervisor)?, Arc::default());
        let (roots, wholes) = (http::Roots::default(), Wholes::default());
        Ok(Executor { clock, starter, roots, room, handed, wholes })
    }

    /// Gives these variables to the commands of jobs, so that what is run there finds the store of this program.
    #[must_use]
    pub fn handing(self, variables: Vec<(OsString, OsString)>) -> Executor {
        Executor { handed: Arc::new(variables), ..self }
    }

    /// Where the executor learns how long the leases hold under which it starts commands: see
    /// [`MayStart::under`](super::MayStart::under).
    pub fn deadlines(&self) -> Deadlines {
        self.starter.supervision().deadlines()
    }

    /// What writes the whole outputs of attempts.
    pub fn wholes(&self) -> &Wholes {
        &self.wholes
    }

    /// Whether the supervisor of its commands is there, as it changes.
    pub fn supervised(&self) -> Arc<AtomicBool> {
        self.starter.supervision().is_up()
    }
}

/// A run that was given what its job does not take: the jobs file has changed since, or was not at hand.
fn never(why: NotGiven) -> Outcome {
    Outcome::Failed { why: why.to_string(), again: Again::Never }
}

impl Execute for Executor {
    async fn run(&self, work: Work) -> AttemptResult {
        let Work { job, stamp, params, hold: _, stop, may_start, mut output, started, reads } = work;
        let gate = Gate::new(stop, may_start, started, &self.clock);
        let attempt = Attempt { job: &job, stamp: &stamp, gate: &gate };
        let room = gate.room(&self.room).await;
        if let Some(whole) = job.output.as_ref().filter(|_| room.is_ok()) {
            output.keep_whole(self.wholes.begin(whole, &stamp, &self.clock).await);
        }
        let outcome = match (room, &job.task) {
            (Err(reason), _) => Outcome::Stopped(reason),
            (Ok(_room), Task::Command(argv)) => {
                let command = command::Command { argv, params: &params, handed: &self.handed, reads };
                command::run(attempt, &command, &self.starter, &mut output).await
            }
            (Ok(_room), Task::Http(http)) => match http.given(&params) {
                Ok(http) => http::run(attempt, &http, &self.roots, &mut output).await,
                Err(why) => never(why),
            },
            (Ok(_room), Task::Sql(sql)) => match sql.given(&params) {
                Ok(sql) => sql::run(attempt, &sql, &mut output).await,
                Err(why) => never(why),
            },
            (Ok(_room), Task::Call) => {
                Outcome::NotStarted("it is a closure of another program, and this one has none of it".to_owned())
            }
        };
        output.settle().await;
        gate.ended(outcome, output)
    }
}
