//! Commands: what they receive, how they end, and the messages when they cannot be started.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use nix::errno::Errno;
use tokio::net::unix::pipe;

use super::bounds::{self, Account, Resolved};
use super::group::{Leader, Reach};
use super::output::{OutputSink, Stream};
use super::room::{Tries, is_lacking};
use super::spawn::{Image, NotStarted, StartError, Starter, Ties, candidates};
use super::supervise::Life;
use super::whole::Whole;
use super::{Attempt, Reads};
use crate::fence::{OUR_VARIABLES, PARAM_VARIABLES};
use crate::job::{Job, OnLostLeadership, Outcome, Params, StopReason, Text};
use crate::time::Wall;

/// How much is read at once. Also how much is read, at most, after the last process of the group has ended, from a pipe
/// that a process outside the group still holds: what the group wrote fits, as a pipe holds 64 KiB (pipe(7)).
const READ_AT_ONCE: usize = 16 * 1024;
const READS_AFTER_END: usize = 4 + 1;

/// What a command is run with.
pub(super) struct Command<'a> {
    pub argv: &'a [Text],
    pub params: &'a Params,
    /// What is passed on to it about the store.
    pub handed: &'a [(OsString, OsString)],
    pub reads: Reads,
}

/// Runs a command until its whole process group is gone.
pub(super) async fn run(
    attempt: Attempt<'_>,
    command: &Command<'_>,
    starter: &Starter,
    output: &mut OutputSink,
) -> Outcome {
    let Begun { mut leader, at, mut pipes } = match begin(attempt, command, starter, output.whole()).await {
        Ok(begun) => begun,
        Err(outcome) => return outcome,
    };
    attempt.gate.began(at);
    let outcome = {
        let mut ending = std::pin::pin!(attend(&mut leader, attempt));
        tokio::select! {
            biased;
            outcome = &mut ending => outcome,
            () = pipes.read(output) => ending.await,
        }
    };
    pipes.read_rest(output).await;
    outcome
}

/// A command that was started.
struct Begun {
    leader: Leader,
    at: Wall,
    pipes: Pipes,
}

/// Why a command was not started.
enum NotBegun {
    Stopped(StopReason),
    /// The system had no room for it.
    NoRoom(String),
    Failed(String),
}

/// Starts it, if need be once there is room for it.
async fn begin(
    attempt: Attempt<'_>,
    command: &Command<'_>,
    starter: &Starter,
    whole: Option<&Whole>,
) -> Result<Begun, Outcome> {
    let mut tries = Tries::new(attempt.job.name.as_str(), attempt.job.timeout, attempt.gate);
    loop {
        match try_to_begin(attempt, command, starter, whole).await {
            Ok(begun) => {
                tries.end();
                return Ok(begun);
            }
            Err(NotBegun::Stopped(reason)) => return Err(Outcome::Stopped(reason)),
            Err(NotBegun::Failed(why)) => return Err(Outcome::NotStarted(why)),
            Err(NotBegun::NoRoom(why)) => tries.pause(&why).await?,
        }
    }
}

async fn try_to_begin(
    attempt: Attempt<'_>,
    command: &Command<'_>,
    starter: &Starter,
    whole: Option<&Whole>,
) -> Result<Begun, NotBegun> {
    let resolved = resolved(attempt.job).await?;
    let (image, files, pipes) = prepare(attempt, command, resolved, whole)?;
    // Asked by the starting thread, for the request may wait in its queue.
    match starter.start((image, files), attempt.gate.clone()).await {
        Ok((leader, at)) => Ok(Begun { leader, at, pipes }),
        Err(NotStarted::Refused(reason)) => Err(NotBegun::Stopped(reason)),
        Err(NotStarted::Failed(error)) => {
            let why = not_started(attempt.job, command, error);
            Err(if error.is_lack_of_room() { NotBegun::NoRoom(why) } else { NotBegun::Failed(why) })
        }
    }
}

/// From the start to the end of the group. Why it was ended decides, not how the command answers that.
async fn attend(leader: &mut Leader, attempt: Attempt<'_>) -> Outcome {
    let job = attempt.job;
    let why = tokio::select! {
        biased;
        () = leader.exited() => None,
        why = attempt.gate.interrupted(job.timeout) => Some(why),
    };
    // Perhaps this node stood still meanwhile, or was about to say so itself.
    let why = why.or_else(|| {
        let by_supervisor = leader.charge().was_ended_by_supervisor();
        by_supervisor.then(|| {
            tracing::warn!(job = %job.name, "ended by the supervisor: the leadership could not be trusted any more");
            Outcome::Stopped(StopReason::LostLeadership)
        })
    });
    let reach = if why.is_some() { Reach::Session } else { Reach::Group };
    // Under any `on_lost_leadership`: another node may lead once the lease has passed.
    let at_most = match why {
        Some(Outcome::Stopped(StopReason::LostLeadership)) => leader.charge().time_left(),
        _ => None,
    };
    let kill_after = at_most.map_or(job.kill_after, |at_most| job.kill_after.min(at_most));
    // A node that stood still learns of everything at once: a command that had ended by then was not ended by a later
    // event.
    let by_itself = leader.has_exited() && !leader.charge().was_ended_by_supervisor();
    let status = leader.end(kill_after, reach).await;
    why.filter(|_| !by_itself).unwrap_or_else(|| outcome(status))
}

fn outcome(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited(code),
        (None, signal) => Outcome::Signalled(signal.expect("what ended without a code ended by a signal")),
    }
}

/// The reading ends of a command's output.
struct Pipes {
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

impl Pipes {
    /// Reads until the writing ends are closed. Cancel safe.
    async fn read(&self, output: &mut OutputSink) {
        let (mut stdout_open, mut stderr_open) = (true, true);
        while stdout_open || stderr_open {
            // A pipe that cannot be polled any more has nothing more for us.
            tokio::select! {
                ready = self.stdout.readable(), if stdout_open => {
                    stdout_open = ready.is_ok() && read_some(&self.stdout, Stream::Stdout, output) != Read::End;
                }
                ready = self.stderr.readable(), if stderr_open => {
                    stderr_open = ready.is_ok() && read_some(&self.stderr, Stream::Stderr, output) != Read::End;
                }
            }
            output.settle().await;
            // A command that writes without a pause must not keep its thread of the runtime to itself, and a follower
            // of its output in the same task has to see this piece before it is gone.
            tokio::task::yield_now().await;
        }
    }

    /// Reads what is there, without waiting for more.
    async fn read_rest(&mut self, output: &mut OutputSink) {
        for (pipe, stream) in [(&self.stdout, Stream::Stdout), (&self.stderr, Stream::Stderr)] {
            for _ in 0..READS_AFTER_END {
                if read_some(pipe, stream, output) != Read::Some {
                    break;
                }
                // As in `read`.
                output.settle().await;
                tokio::task::yield_now().await;
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Read {
    Some,
    NothingNow,
    End,
}

fn read_some(pipe: &pipe::Receiver, stream: Stream, output: &mut OutputSink) -> Read {
    let mut buffer = [0; READ_AT_ONCE];
    match pipe.try_read(&mut buffer) {
        Ok(0) => Read::End,
        Ok(length) => {
            output.write(stream, &buffer[..length]);
            Read::Some
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Read::NothingNow
        }
        Err(_) => Read::End,
    }
}

impl From<String> for NotBegun {
    fn from(why: String) -> NotBegun {
        NotBegun::Failed(why)
    }
}

/// The numbers of its bounds: the names in them are looked up for each start, as they may have changed.
async fn resolved(job: &Job) -> Result<Resolved, NotBegun> {
    let bounds = Arc::clone(&job.bounds);
    if bounds.user.is_none() && bounds.group.is_none() {
        return Ok(bounds::resolve(&bounds)?);
    }
    let looked = tokio::task::spawn_blocking(move || bounds::resolve(&bounds)).await;
    Ok(looked.map_err(|error| format!("its user could not be looked up: {error}"))??)
}

/// Makes everything ready that the start needs.
fn prepare(
    attempt: Attempt<'_>,
    command: &Command<'_>,
    Resolved { bound, account }: Resolved,
    whole: Option<&Whole>,
) -> Result<(Image, Vec<OwnedFd>, Pipes), NotBegun> {
    let Attempt { job, gate, .. } = attempt;
    let env = environment(attempt, command, account);
    let program = command.argv.first().map_or("", Text::expose);
    let path = env.get(&OsString::from("PATH")).map(OsString::as_os_str);
    let no_pipe = |error: io::Error| {
        let why = format!("no pipe for the output: {error}: raise the limit of open files");
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        if is_lacking(errno) { NotBegun::NoRoom(why) } else { NotBegun::Failed(why) }
    };
    let (stdout, stdout_writer) = io::pipe().map_err(no_pipe)?;
    let (stderr, stderr_writer) = io::pipe().map_err(no_pipe)?;
    let kept = whole.map(Whole::share).transpose().map_err(no_pipe)?;
    bound.give(&stdout_writer);
    bound.give(&stderr_writer);
    let stdin = match bounds::input(job.bounds.stdin.as_ref())? {
        None => input(command.reads).map_err(no_pipe)?,
        own => own,
    };
    let image = Image {
        candidates: c_strings(candidates(program, path), "the program's name")?,
        args: c_strings(command.argv.iter().map(|arg| arg.expose().into()), "an argument")?,
        env: c_strings(env.into_iter().map(assignment), "a variable of the environment")?,
        dir: c_strings(job.dir.iter().map(|dir| dir.expose().into()), "the name of its directory")?.pop(),
        ties: Ties::None { stdin, stdout: stdout_writer, stderr: stderr_writer },
        life: Life {
            lease: gate.may_start().lease(),
            kill_after: job.kill_after,
            finish: job.on_lost_leadership == OnLostLeadership::Finish,
            keeps: kept.as_ref().map_or(0, |(_, most)| *most),
        },
        bound,
    };
    let mut files = vec![stdout.try_clone().map_err(no_pipe)?.into(), stderr.try_clone().map_err(no_pipe)?.into()];
    files.extend(kept.map(|(file, _)| file));
    let receiver = |pipe| pipe::Receiver::from_owned_fd(OwnedFd::from(pipe)).map_err(no_pipe);
    Ok((image, files, Pipes { stdout: receiver(stdout)?, stderr: receiver(stderr)? }))
}

/// What the command reads; `None`: nothing. Where this process was started without a stdin, the standard library has put
/// `/dev/null` there.
fn input(reads: Reads) -> io::Result<Option<OwnedFd>> {
    match reads {
        Reads::Nothing => Ok(None),
        Reads::OurInput => io::stdin().as_fd().try_clone_to_owned().map(Some),
    }
}

/// What the service manager has said to the node alone: a command that answers it would speak for the node.
const OF_THE_SERVICE: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// Inherited, then those of its user, then the job's own, then the way to the store, the parameters of the run and the
/// stamp: the later wins.
/// The node's own settings are not inherited: there are passwords among them, and what the stamp of an outer fencron
/// says is not so here.
fn environment(attempt: Attempt<'_>, command: &Command<'_>, account: Option<Account>) -> BTreeMap<OsString, OsString> {
    let of_the_service = |name: &OsString| OF_THE_SERVICE.iter().any(|ours| name == ours);
    let ours = |name: &OsString| name.as_encoded_bytes().starts_with(OUR_VARIABLES.as_bytes()) || of_the_service(name);
    let wanted = attempt.job.bounds.inherit.as_ref();
    let is_wanted = |name: &OsString| wanted.is_none_or(|names| names.iter().any(|wanted| name == wanted.as_str()));
    let inherited = env::vars_os().filter(|(name, _)| !ours(name) && is_wanted(name));
    let inherited = inherited.chain(account.into_iter().flat_map(Account::variables));
    let own = attempt.job.env.iter().map(|(name, value)| (name.into(), value.expose().into()));
    let variable = |name: &str| format!("{PARAM_VARIABLES}{}", name.to_ascii_uppercase());
    let params = command.params.iter().map(|(name, value)| (variable(name).into(), value.into()));
    let stamped = attempt.stamp.variables().map(|(name, value)| (name.into(), value.into()));
    inherited.chain(own).chain(command.handed.iter().cloned()).chain(params).chain(stamped).collect()
}

pub(super) fn assignment((mut name, value): (OsString, OsString)) -> OsString {
    name.push("=");
    name.push(value);
    name
}

pub(super) fn c_strings(texts: impl IntoIterator<Item = OsString>, what: &str) -> Result<Vec<CString>, String> {
    let c_string = |text: OsString| CString::new(text.into_vec());
    let all: Result<_, _> = texts.into_iter().map(c_string).collect();
    all.map_err(|_| format!("{what} has a NUL character in it, which no command can be given: take it out"))
}

/// What happened, to what, and what to do.
fn not_started(job: &Job, command: &Command<'_>, error: StartError) -> String {
    let program = command.argv.first().map(Text::to_string).unwrap_or_default();
    let why = |errno: Errno| errno.desc();
    match error {
        StartError::Dir(errno) => {
            let dir = job.dir.as_ref().map_or_else(|| ".".to_owned(), Text::to_string);
            format!("cannot start in the directory `{dir}`: {}: create it, or correct `dir`", why(errno))
        }
        StartError::NoRoom(errno @ (Errno::EMFILE | Errno::ENFILE)) => {
            format!("`{program}` was not started: {}: raise the limit of open files (ulimit -n)", why(errno))
        }
        StartError::Unsupervised(errno) => format!(
            "`{program}` was not started: the supervisor, which would end it should the node die, could not be informed \
             of it ({}): is the process fencron-supervisor stopped, or are its starts failing (see the log)?",
            why(errno)
        ),
        StartError::NoRoom(errno) => format!(
            "`{program}` was not started: no further process can be made ({}): raise the limit of processes or \
             memory, or run fewer at once",
            why(errno)
        ),
        StartError::Bound(kept, errno) => bounds::not_started(kept, errno, &job.bounds),
        StartError::Program(errno) => {
            format!("cannot execute `{program}`: {}: {}", why(errno), advice(errno, &program))
        }
    }
}

fn advice(errno: Errno, program: &str) -> &'static str {
    match errno {
        Errno::ENOENT if program.contains('/') => {
            "is the path right, seen from `dir`, and does the interpreter in its first line exist?"
        }
        Errno::ENOENT | Errno::ENOTDIR => "it is in no directory of PATH: install it, or write its whole path",
        Errno::EACCES | Errno::EPERM => "make it executable for the user that the node runs as (chmod +x)",
        Errno::ENOEXEC => "it is no program of this machine; a script begins with a line like #!/bin/sh",
        Errno::E2BIG => "its arguments and variables are longer than the system takes: pass them in a file",
        Errno::ETXTBSY => "it is being written: replace programs by renaming the new one over the old",
        _ => "correct `command`, or what it names",
    }
}
