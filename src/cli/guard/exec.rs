//! `fencron guard exec`: a command that is run unless its fence is stale or it was run before.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::RuleArgs;
use crate::cli::once::Lost;
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure};
use crate::fence::Fence;
use crate::guard::{Answer, Digest, Refusal, Request, StateUrl, Ticket, Verdict};

/// How long, after the command has ended, its output is waited for: what it left in the background may hold it open.
const OUTPUT_AFTER: Duration = Duration::from_secs(1);

/// How much of what a command writes is read at once.
const CHUNK: usize = 16 << 10;

/// How much of stderr is kept to be replayed: less than headers may have, for it is kept as one.
const STDERR_MOST: usize = 8 << 10;

/// The name under which stderr is kept beside the answer.
const STDERR: &str = "stderr";

#[derive(Args)]
pub(super) struct ExecArgs {
    /// What is guarded, like the name of a machine or a file: every resource counts fences and keys of its own
    resource: String,
    #[command(flatten)]
    rules: RuleArgs,
    /// The fence of the caller
    #[arg(long, value_name = "N", env = "FENCRON_FENCE")]
    fence: u64,
    /// The scope within which the fence can be compared
    #[arg(long, env = "FENCRON_SCOPE")]
    scope: String,
    /// The key that is the same for every repetition; without it, only the fence is checked
    #[arg(long, env = "FENCRON_RUN_ID")]
    key: Option<String>,
    /// Exit codes beside 0 after which the command is not to be repeated: its output is kept and replayed
    #[arg(long = "final", value_name = "CODE", value_delimiter = ',')]
    final_codes: Vec<u8>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<std::ffi::OsString>,
}

/// Runs the command, or says why not.
pub(super) async fn exec(args: &ExecArgs, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let state = args.rules.state()?;
    if matches!(state, StateUrl::Memory) {
        return Err(Failure::wrong("--state: memory is gone with this command: write sqlite:PATH").into());
    }
    let fence = Fence::new(args.fence).ok_or_else(|| Failure::wrong("--fence: a fence is a number from 1 on"))?;
    let digest = Digest::of(args.command.iter().map(|part| part.as_bytes()));
    let request = Request::new(&args.scope, fence, args.key.as_deref(), digest);
    let request = request.map_err(|refusal| refused(&refusal))?;
    // From here on a signal is the command's: its end is ours.
    let terminated =
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?);
    let guard = args.rules.open(&state, args.rules.options(&args.resource)).await?;
    match guard.ask(request).await {
        Verdict::Admitted(ticket) => {
            ticket.lives_as_long_as_children()?;
            let exit = run(args, ticket, guard.options().answer_most, terminated).await?;
            Ok(exit)
        }
        Verdict::Replay(answer) => replay(&answer, terminal),
        Verdict::Refused(refusal) => Err(refused(&refusal).into()),
    }
}

fn refused(refusal: &Refusal) -> Failure {
    let exit = match refusal {
        Refusal::Stale { .. } => Exit::Lost,
        Refusal::InFlight | Refusal::OlderInFlight { .. } | Refusal::Busy | Refusal::Full => Exit::NotAcquired,
        Refusal::InDoubt => Exit::OutcomeUnknown,
        Refusal::StateUnavailable(_) => Exit::StoreUnreachable,
        Refusal::Malformed(_)
        | Refusal::NoFence
        | Refusal::TooFar { .. }
        | Refusal::TooLarge { .. }
        | Refusal::OtherPayload => Exit::Wrong,
        // A command has no body that comes slowly.
        Refusal::TooSlow { .. } => Exit::Failed,
    };
    Failure::new(exit, format!("not run: {refusal}"))
}

/// Prints what was printed before.
fn replay(answer: &Answer, terminal: &Terminal) -> anyhow::Result<Exit> {
    let stderr = answer.headers.iter().find(|(name, _)| name == STDERR).map(|(_, text)| text);
    let unwritten = Lost::default();
    unwritten.write(&mut io::stdout(), &answer.body);
    unwritten.write(&mut io::stderr(), stderr.map_or(&[][..], |text| text));
    let lost = if answer.whole { "" } else { "; what it printed was too much to be kept" };
    terminal.say(format_args!("fencron: not run: it was run before{lost}"));
    unwritten.end("the command", Ok(Exit::Command(u8::try_from(answer.status).unwrap_or(u8::MAX))))
}

type Signals = (tokio::signal::unix::Signal, tokio::signal::unix::Signal, tokio::signal::unix::Signal);

async fn run(args: &ExecArgs, ticket: Ticket, most: usize, signals: Signals) -> anyhow::Result<Exit> {
    let (program, arguments) = args.command.split_first().expect("clap requires one");
    let mut command = Command::new(program);
    let started = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            ticket.again().await;
            let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            let why = format!("cannot start {}: {error}", program.display());
            return Err(Failure::new(Exit::Command(code), why).into());
        }
    };
    let lost = Lost::default();
    let stdout = copied(child.stdout.take().expect("it is piped"), (io::stdout(), lost.clone()), most);
    let stderr = copied(child.stderr.take().expect("it is piped"), (io::stderr(), lost.clone()), STDERR_MOST);
    let status = ended(child, signals).await?;
    let (stdout, stderr) = (stdout.all(), stderr.all());
    match status.code() {
        Some(code) if code == 0 || args.final_codes.iter().any(|last| i32::from(*last) == code) => {
            let status = u16::try_from(code).unwrap_or(u16::MAX);
            let headers = vec![(STDERR.to_owned(), stderr.unwrap_or_default())];
            let whole = stdout.map(|stdout| Answer { headers, ..Answer::new(status, stdout) });
            ticket.done(whole.unwrap_or_else(|| Answer::too_large(status))).await;
        }
        Some(_) => ticket.again().await,
        None => ticket.unknown().await,
    }
    /// What shells add to the number of the signal that ended a command.
    const BY_SIGNAL: i32 = 128;
    let code = status.code().or(status.signal().map(|signal| BY_SIGNAL + signal));
    lost.end("the command", Ok(Exit::Command(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))))
}

/// Waits for the command, and passes on to it the signals that this process receives.
async fn ended(mut child: Child, mut signals: Signals) -> anyhow::Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut ending = tokio::task::spawn_blocking(move || child.wait());
    loop {
        let signal = tokio::select! {
            ended = &mut ending => return Ok(ended??),
            _ = signals.0.recv() => Signal::SIGTERM,
            _ = signals.1.recv() => Signal::SIGHUP,
            // A terminal sends it to the command as well.
            _ = signals.2.recv() => continue,
        };
        kill(pid, signal).ok();
    }
}

/// What is being handed on.
struct Copied {
    ended: mpsc::Receiver<Option<Bytes>>,
    /// Its reader has not taken it yet.
    writing: Arc<AtomicBool>,
}

impl Copied {
    /// All of it, once the command has ended and it has been taken; `None` where it is too much, or has no end.
    fn all(self) -> Option<Bytes> {
        loop {
            match self.ended.recv_timeout(OUTPUT_AFTER) {
                Err(mpsc::RecvTimeoutError::Timeout) if self.writing.load(Ordering::SeqCst) => {}
                all => return all.ok().flatten(),
            }
        }
    }
}

/// Hands on what the command writes, and at the end answers with all of it, or `None` where it is more than `most`.
fn copied(
    mut from: impl Read + Send + 'static,
    (mut to, lost): (impl Write + Send + 'static, Lost),
    most: usize,
) -> Copied {
    let (done, ended) = mpsc::channel();
    let writing = Arc::new(AtomicBool::new(false));
    let copied = Copied { ended, writing: Arc::clone(&writing) };
    thread::spawn(move || {
        let (mut all, mut chunk) = (Some(Vec::new()), vec![0; CHUNK]);
        while let Ok(length @ 1..) = from.read(&mut chunk) {
            // When its reader is gone, or it cannot be written, the command goes on all the same.
            writing.store(true, Ordering::SeqCst);
            lost.write(&mut to, &chunk[..length]);
            writing.store(false, Ordering::SeqCst);
            all = all.filter(|all: &Vec<u8>| all.len() + length <= most);
            if let Some(all) = &mut all {
                all.extend_from_slice(&chunk[..length]);
            }
        }
        done.send(all.map(Bytes::from)).ok();
    });
    copied
}
