//! A command in the place of this process, as env(1) and flock(1) run theirs: it has the same input, output and open files,
//! and the environment of its caller. What makes it another matter than a job's:
//!
//! - Without a terminal, it has a session of its own, as a job's command has. But not where this process itself runs
//!   under something that is held, or as a job: the process that ends it finds its members by their session.
//! - There, and with a terminal, it leads a group in the session of its caller, as programs have to that use the terminal.
//!   What it has started in other groups is found by descent only, which breaks where a parent ends first.
//! - Where this process is in the foreground of a terminal that is both its stdin and its stdout, so is the command from
//!   its start. Otherwise it might be part of a pipeline, whose other members may want the terminal; then it gets it when
//!   it asks for it, which the system shows by stopping it (SIGTTIN, SIGTTOU).
//! - It is not left stopped by a key (Ctrl-Z): it holds something that others wait for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::bounds::Bound;
use super::command::{assignment, c_strings};
use super::group::{Leader, Reach};
use super::room::Tries;
use super::spawn::{Image, NotStarted, StartError, Ties, candidates};
use super::supervise::Life;
use super::{Executor, Gate, MayStart, Started, Stop};
use crate::job::{Outcome, StopReason};

/// How often a command that was stopped for want of a terminal is offered it again.
const OFFER_EVERY: Duration = Duration::from_secs(1);

/// How many stops may wait to be looked at.
const STOPS: usize = 16;

/// How long such a start is tried. Others wait for what is held meanwhile.
const TRIED_MOST: Duration = Duration::from_secs(10);

/// A command that is to take the place of this process for its user.
#[derive(Clone, Debug)]
pub struct Wrapped {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// What is put in its environment beside that of this process.
    pub env: Vec<(OsString, OsString)>,
    /// What it does not get of the environment of this process.
    pub without: Vec<OsString>,
    /// How long it has from TERM to KILL when it is ended, where it has so much time.
    pub kill_after: Duration,
    /// Also without a terminal it stays in the session of this process, by which another process may end both.
    pub keeps_session: bool,
    /// Asked right before the start; and the lease that it is not to outlive.
    pub may_start: MayStart,
    /// Ends the tries to start it. What runs is ended by [`Running::end`].
    pub stop: Stop,
}

/// Why a command did not run.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    /// [`MayStart`] said no.
    #[error("it was not to be started any more")]
    Refused,
    /// It was stopped before it was started.
    #[error("it was stopped before it was started: {}", .0.as_str())]
    Stopped(StopReason),
    #[error("cannot execute `{program}`: it is in no directory of PATH, or the path is wrong")]
    NotFound { program: String },
    #[error("cannot execute `{program}`: {why}")]
    NotExecutable { program: String, why: &'static str },
    #[error("`{program}` was not started: {why}")]
    Failed { program: String, why: String },
}

/// How a command is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It has exited: what it left is ended, in its session where that is its own, otherwise in its group.
    ByItself,
    /// Against its will, and within this time at the latest. `None`: within its `kill_after`.
    Forced(Option<Duration>),
}

/// A command that runs. Dropped before [`Running::end`] is through, it is killed with its group.
#[derive(Debug)]
pub struct Running {
    leader: Leader,
    kill_after: Duration,
    terminal: Option<Terminal>,
    /// Its session is that of this process.
    keeps_session: bool,
    stops: mpsc::Receiver<Signal>,
    /// It was stopped for want of the terminal, which this process did not have to give.
    wants_terminal: bool,
    /// A signal was passed on that it may not have received: it may have been stopped already, and that not reported yet.
    unheard: bool,
    _room: OwnedSemaphorePermit,
}

impl Executor {
    /// Starts a command in the place of this process, supervised like a job's: it does not outlive this process, nor
    /// the trust in the lease of its [`MayStart`], also when this process is lost.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// use fencron::execute::{Ending, Executor, MayStart, Stop, SupervisorProgram, Wrapped, supervise_if_asked};
    /// # use fencron::time::Clock;
    ///
    /// supervise_if_asked(); // First of all: the program is its own supervisor.
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let executor = Executor::new(Clock::system(), 1, SupervisorProgram::this()?)?;
    /// let argv = ["vi", "notes"].map(Into::into).into();
    /// let kill_after = Duration::from_secs(10);
    /// let (_stopper, stop) = Stop::channel();
    /// let (may_start, keeps_session) = (MayStart::always(), false);
    /// let wrapped = Wrapped { argv, env: Vec::new(), without: Vec::new(), kill_after, keeps_session, may_start, stop };
    /// let mut running = executor.wrap(wrapped).await?;
    /// running.exited().await;
    /// let status = running.end(Ending::ByItself).await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where it does not run; then nothing of it is left.
    pub async fn wrap(&self, wrapped: Wrapped) -> Result<Running, NotRun> {
        let room = self.room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let program = wrapped.argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
        let gate = Gate::new(wrapped.stop.clone(), wrapped.may_start.clone(), Started::channel().0, &self.clock);
        let mut tries = Tries::new(&program, Some(TRIED_MOST), &gate);
        loop {
            let failed = |why: String| NotRun::Failed { program: program.clone(), why };
            let mut terminal = Terminal::controlling();
            let ties = match &mut terminal {
                Some(terminal) => terminal.ties().map_err(|error| failed(error.to_string()))?,
                None if wrapped.keeps_session => Ties::Session { terminal: None },
                None => Ties::Files,
            };
            let keeps_session = matches!(ties, Ties::Session { .. });
            let image = image(&wrapped, ties).map_err(failed)?;
            let error = match self.starter.start((image, Vec::new()), gate.clone()).await {
                Ok((leader, _)) => {
                    tries.end();
                    let stops = watch_stops(leader.pid()).map_err(|error| failed(error.to_string()))?;
                    return Ok(Running {
                        leader,
                        kill_after: wrapped.kill_after,
                        terminal,
                        keeps_session,
                        stops,
                        wants_terminal: false,
                        unheard: false,
                        _room: room,
                    });
                }
                Err(NotStarted::Failed(error)) if error.is_lack_of_room() => error,
                // The terminal drops here, which takes it back: the child may have had it for a moment.
                Err(not_started) => return Err(not_run(program.clone(), not_started)),
            };
            drop(terminal);
            tries.pause(error.errno().desc()).await.map_err(|over| match over {
                Outcome::Stopped(reason) => NotRun::Stopped(reason),
                _ => not_run(program.clone(), NotStarted::Failed(error)),
            })?;
        }
    }
}

fn image(wrapped: &Wrapped, ties: Ties) -> Result<Image, String> {
    let Wrapped { argv, env, without, kill_after, may_start, .. } = wrapped.clone();
    let mut all: std::collections::BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    all.retain(|name, _| !without.contains(name));
    all.extend(env);
    let path = all.get(OsStr::new("PATH")).map(OsString::as_os_str);
    let program = argv.first().map(OsString::as_os_str).unwrap_or_default();
    Ok(Image {
        candidates: c_strings(candidates(program, path), "the program's name")?,
        args: c_strings(argv, "an argument")?,
        env: c_strings(all.into_iter().map(assignment), "a variable of the environment")?,
        dir: None,
        ties,
        life: Life { lease: may_start.lease(), kill_after, finish: false, keeps: 0 },
        bound: Bound::default(),
    })
}

fn not_run(program: String, error: NotStarted) -> NotRun {
    match error {
        NotStarted::Refused(StopReason::LostLeadership) => NotRun::Refused,
        NotStarted::Refused(reason) => NotRun::Stopped(reason),
        NotStarted::Failed(StartError::Program(Errno::ENOENT | Errno::ENOTDIR)) => NotRun::NotFound { program },
        NotStarted::Failed(StartError::Program(errno)) => NotRun::NotExecutable { program, why: errno.desc() },
        NotStarted::Failed(StartError::Unsupervised(errno)) => {
            let why =
                format!("the supervisor, which would end it should this process die, cannot be informed ({errno})");
            NotRun::Failed { program, why }
        }
        NotStarted::Failed(StartError::NoRoom(errno) | StartError::Dir(errno) | StartError::Bound(_, errno)) => {
            NotRun::Failed { program, why: errno.desc().to_owned() }
        }
    }
}

impl Running {
    /// Waits until the command itself has exited; what it has started may go on. Cancel safe.
    ///
    /// Meanwhile a command that was stopped by a key goes on, and one that was stopped since it wants the terminal gets
    /// it as soon as this process has it to give. One that was stopped by SIGSTOP is left to the sender of that signal.
    pub async fn exited(&mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.leader.exited() => return,
                Some(signal) = self.stops.recv() => match signal {
                    Signal::SIGTSTP => self.leader.signal(Signal::SIGCONT),
                    Signal::SIGTTIN | Signal::SIGTTOU => {
                        self.wants_terminal = !self.give_terminal();
                        if std::mem::take(&mut self.unheard) && self.wants_terminal {
                            self.leader.signal(Signal::SIGCONT);
                        }
                    }
                    _ => {}
                },
                () = tokio::time::sleep(OFFER_EVERY), if self.wants_terminal => {
                    self.wants_terminal = !self.give_terminal();
                }
            }
        }
    }

    /// Puts the command in the foreground, if this process is, and lets it go on.
    fn give_terminal(&mut self) -> bool {
        let group = self.leader.pid();
        let given = self.terminal.as_mut().is_some_and(|terminal| terminal.give(group));
        if given {
            self.leader.signal(Signal::SIGCONT);
        }
        given
    }

    /// Sends a signal to all of its group. One that was stopped for want of the terminal goes on, as it would not
    /// receive it otherwise; should it want the terminal still, it is stopped again.
    pub fn pass_on(&mut self, signal: Signal) {
        self.leader.signal(signal);
        self.unheard = !self.wants_terminal;
        if self.wants_terminal {
            self.leader.signal(Signal::SIGCONT);
        }
    }

    /// Whether the supervisor asked it to end, since its lease could not be trusted any more: this process stood still.
    pub fn was_ended_by_supervisor(&self) -> bool {
        self.leader.charge().was_ended_by_supervisor()
    }

    /// Ends what there is of it, by TERM and KILL, and returns how it exited once nothing is left; before the lease can
    /// pass, where it hangs on one. The terminal is this process's again.
    pub async fn end(mut self, how: Ending) -> ExitStatus {
        let within = match how {
            Ending::ByItself => None,
            Ending::Forced(within) => Some(within.unwrap_or(self.kill_after)),
        };
        let reach = match how {
            // It is one command, not one of many: there is time to look for the last of it.
            _ if !self.keeps_session => Reach::Session,
            // Nothing descends any more from what has exited.
            Ending::ByItself => Reach::Group,
            Ending::Forced(_) => Reach::Descendants,
        };
        let lease_passes = within.and_then(|_| self.leader.charge().time_left());
        let kill_after = [within, lease_passes].into_iter().flatten().fold(self.kill_after, Duration::min);
        let status = self.leader.end(kill_after, reach).await;
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back(how != Ending::ByItself || status.code().is_none());
        }
        status
    }
}

/// Reports by which signals a child is stopped, for as long as it lives. A parent learns that only by waiting: SIGCHLD
/// may be blocked, or merged with another.
fn watch_stops(child: Pid) -> io::Result<mpsc::Receiver<Signal>> {
    let (report, stops) = mpsc::channel(STOPS);
    thread::Builder::new().name("fencron-stops".into()).spawn(move || {
        // Looks at its end without taking it: the code that ends the group reaps it.
        let either = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        loop {
            match waitid(Id::Pid(child), either) {
                Ok(WaitStatus::Stopped(_, signal)) => {
                    // Now it is taken, so that the next one is another.
                    waitid(Id::Pid(child), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG).ok();
                    report.try_send(signal).ok();
                }
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    })?;
    Ok(stops)
}

/// The terminal of this process's session.
#[derive(Debug)]
struct Terminal {
    file: File,
    /// The group of this process.
    ours: Pid,
    /// How it was set when it was given away; `None`: it was not.
    given: Option<Option<Termios>>,
}

impl Terminal {
    fn controlling() -> Option<Terminal> {
        let file = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Terminal { file, ours: getpgrp(), given: None })
    }

    fn is_foreground(&self) -> bool {
        tcgetpgrp(&self.file) == Ok(self.ours)
    }

    /// Whether no other process can be in the foreground, as far as can be seen.
    fn is_ours_alone(&self) -> bool {
        self.is_foreground() && io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// What a command has in common with this process: the foreground too, if no other process can be in it.
    fn ties(&mut self) -> io::Result<Ties> {
        let terminal = if self.is_ours_alone() { Some(self.file.as_fd().try_clone_to_owned()?) } else { None };
        if terminal.is_some() {
            self.prepare();
        }
        Ok(Ties::Session { terminal })
    }

    fn prepare(&mut self) {
        self.given = Some(tcgetattr(&self.file).ok());
    }

    fn give(&mut self, group: Pid) -> bool {
        if !self.is_foreground() {
            // Perhaps it has it by now.
            return tcgetpgrp(&self.file) == Ok(group);
        }
        self.prepare();
        tcsetpgrp(&self.file, group).is_ok()
    }

    /// Takes it back; with the settings that it had, where a program was killed and has left its own.
    fn take_back(&mut self, with_settings: bool) {
        let Some(settings) = self.given.take() else { return };
        // A process that does this from the background is stopped for it, unless the signal is blocked.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTOU);
        let blocked = stop.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        // A terminal that has gone away is of no use.
        if tcsetpgrp(&self.file, self.ours).is_ok() {
            if let Some(settings) = settings.filter(|_| with_settings) {
                tcsetattr(&self.file, SetArg::TCSADRAIN, &settings).ok();
            }
            // The other members of a pipeline may have been stopped for reading meanwhile.
            killpg(self.ours, Signal::SIGCONT).ok();
        }
        if let Ok(before) = blocked {
            before.thread_set_mask().ok();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back(true);
    }
}
