//! `fencron once`: a command that is run only once for its key, in the whole cluster.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::hold::by_signal;
use super::outage::{self, BACK, say_away};
use super::place::Place;
use super::steer::{Why, acting};
use super::terminal::Terminal;
use super::{Exit, Failure, Global, handover, run};
use crate::execute::{Executor, Outputs, Reads, Stop, Stopper, SupervisorProgram};
use crate::job::{StopReason, Task, Text};
use crate::ledger::{Once, OnceKey, OnceState, Recorded};
use crate::lock::{CampaignError, Driver, SessionError, Timing};
use crate::once::{How, Notice, OnceError, Reporter, Runner, Settled, Step};
use crate::store::{AnyStore, StoreError};

/// How many hexadecimal digits of a checksum are shown.
pub(super) const CHECKSUM_SHOWN: usize = 12;

#[derive(Args)]
pub(super) struct OnceArgs {
    /// The key of the command: 1 to 195 bytes of text
    key: String,
    /// Run the command again if it has failed before
    #[arg(long)]
    retry_failed: bool,
    /// Run the command again if an earlier process was lost in the middle of it
    #[arg(long)]
    idempotent: bool,
    /// If an earlier process was lost in the middle, this shell text finds out: exit 0, it was done; 1, it was not
    #[arg(long, value_name = "TEXT", conflicts_with = "idempotent")]
    verify: Option<String>,
    /// How long the command may take
    #[arg(long, env = "FENCRON_ONCE_TIMEOUT", value_parser = super::duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    patience: Patience,
    /// Forget that the command was run
    #[arg(long, conflicts_with_all = ["command", "resolve"])]
    forget: bool,
    /// Settle a key that is unknown or has failed: record it as done, or have it run again
    #[arg(long, value_name = "HOW", conflicts_with = "command")]
    resolve: Option<As>,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present_any = ["forget", "resolve"])]
    command: Vec<String>,
}

/// How long to wait, and how fast the loss of another process is noticed.
#[derive(Args)]
pub(super) struct Patience {
    /// How long to wait while another process runs it [default: without limit]
    #[arg(long, env = "FENCRON_WAIT", value_parser = super::duration)]
    pub wait: Option<Duration>,
    /// How long the lock stays held after its process was lost
    #[arg(long, env = "FENCRON_TTL", default_value = "10s", value_parser = super::duration)]
    pub ttl: Duration,
    /// The name of this process, for people to read [default: host name and process id]
    #[arg(long, env = "FENCRON_NODE", value_parser = run::node_name)]
    pub node: Option<String>,
}

/// A person's decision about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum As {
    /// It was done.
    Done,
    /// It was not done, and the next call does it.
    Retry,
}

/// Runs the command, or returns the verdict of the process that did.
pub(super) async fn once(args: OnceArgs, global: &Global) -> anyhow::Result<Exit> {
    let key = OnceKey::once(&args.key).map_err(|error| Failure::wrong(error.to_string()))?;
    let terminal = Terminal::new(global.output);
    if args.forget || args.resolve.is_some() {
        let place = global.open(None).await?;
        return settle_by_hand(&place, &key, args.resolve, &terminal).await;
    }
    let patience = (args.patience.wait, false);
    let place = outage::opened(global, patience, async || global.open_found_or_make(None).await).await?;
    let step = step(&key, &args);
    let runner = runner(&place, &args.patience, global)?;
    let reported_end = Arc::new(AtomicBool::new(false));
    let lost = Lost::default();
    let report = reporter(&args.key, Arc::clone(&reported_end), lost.clone());
    let (stopper, stop) = Stop::channel();
    let signals = StopsOnSignals::listen(stopper)?;
    let how = How { retry_failed: args.retry_failed, wait: args.patience.wait, stop };
    let settled = runner.run(std::slice::from_ref(&step), how, &report).await;
    let settled = settled.map_err(|error| signals.failure(error))?;
    drop(signals);
    let (records, _) = place.ledger().once(&key).await?;
    let recorded = records.first().map(|recorded| &recorded.once);
    if let Some(once) = recorded.filter(|_| !reported_end.load(Ordering::SeqCst)) {
        repeat(once, &step, &terminal, &lost);
    }
    lost.end(&args.key, exit(&settled, &args.key))
}

fn exit(settled: &Settled, key: &str) -> anyhow::Result<Exit> {
    match settled {
        Settled::Done => Ok(Exit::Done),
        Settled::Failed(once) => match once.exit_code.and_then(|code| u8::try_from(code).ok()) {
            Some(code) if code != 0 => Ok(Exit::Command(code)),
            _ => {
                let why = format!("{key} failed: {}: `--retry-failed` runs it again", once.reason);
                Err(Failure::new(Exit::Failed, why).into())
            }
        },
        Settled::Unknown(once) => {
            let why = format!(
                "it is unknown whether {key} was done: {}. Find out, and record it: `fencron once {key} --resolve done` \
                 or `--resolve retry`",
                once.reason
            );
            Err(Failure::new(Exit::OutcomeUnknown, why).into())
        }
    }
}

/// Returns what was recorded before.
fn repeat(once: &Once, step: &Step, terminal: &Terminal, lost: &Lost) {
    let by = once.claimed_by.as_ref().map_or(String::new(), |by| format!(" by {} (fence {})", by.node, by.fence));
    let on = once.finished_at.unwrap_or(once.started_at);
    let state = once.state.as_str();
    let again = if once.state == OnceState::Failed { " without `--retry-failed`" } else { "" };
    terminal
        .say(format_args!("fencron: {} was run before: {state} on {on}{by}; it is not run again{again}", once.name));
    if once.checksum != step.checksum {
        terminal.say(format_args!("fencron: that was another command than this one"));
    }
    let unkept = once.output_bytes.saturating_sub(once.output.len() as u64);
    if unkept > 0 {
        terminal.say(format_args!("fencron: the first {unkept} bytes of its output are not kept"));
    }
    lost.write(&mut io::stdout(), once.output.as_bytes());
}

fn step(key: &OnceKey, args: &OnceArgs) -> Step {
    let plain = |text: &String| Text::plain(text.as_str());
    let checksum = Sha256::digest(args.command.join("\0")).iter().map(|byte| format!("{byte:02x}")).collect();
    let task = Task::Command(args.command.iter().map(plain).collect());
    let step = Step::of_key(key.clone(), checksum, task, args.timeout, args.idempotent);
    let step = Step { reads: Reads::OurInput, ..step };
    match &args.verify {
        Some(text) => step.verified_by(Task::Command(["/bin/sh", "-c", text.as_str()].map(Text::plain).into())),
        None => step,
    }
}

/// The output of the command is this command's output; what is said about it goes to stderr.
fn reporter(key: &str, reported_end: Arc<AtomicBool>, lost: Lost) -> Reporter {
    let key = key.to_owned();
    Arc::new(move |notice| match notice {
        Notice::Waits { holder } => say(&format!("fencron: {holder} runs {key}: waiting for it")),
        Notice::Away { why } => say_away(&why),
        Notice::Back => say(BACK),
        Notice::Starts { .. } => {}
        Notice::Output { text, .. } => lost.write(&mut io::stdout(), text.as_bytes()),
        Notice::Missed { bytes, .. } => say(&format!("fencron: {bytes} bytes of its output are not shown")),
        Notice::Ended { here, .. } => {
            reported_end.store(true, Ordering::SeqCst);
            if !here {
                say(&format!("fencron: {key} was run elsewhere meanwhile; it is not run again"));
            }
        }
    })
}

pub(super) fn say(message: &str) {
    // A closed stderr has no reader.
    writeln!(io::stderr(), "{message}").ok();
}

/// The first error in passing on what a command wrote.
#[derive(Clone, Default)]
pub(super) struct Lost(Arc<OnceLock<io::Error>>);

impl Lost {
    /// Writes as long as that is possible. A reader that has stopped reading is no error.
    pub fn write(&self, out: &mut impl io::Write, bytes: &[u8]) {
        if self.0.get().is_some() {
            return;
        }
        if let Err(error) = out.write_all(bytes).and_then(|()| out.flush())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            // Another thread may have met an error as well: the first one is reported.
            self.0.set(error).ok();
        }
    }

    /// How the program ends that wrote for `what`.
    pub fn end(&self, what: &str, ended: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
        let (Some(error), Ok(exit)) = (self.0.get(), &ended) else { return ended };
        let exit = match exit {
            Exit::Done | Exit::Command(0) => Exit::Failed,
            exit => *exit,
        };
        let why = format!("{what} has ended, and what it wrote could not be written here: {error}");
        Err(Failure::new(exit, why).into())
    }
}

/// The runner of a command line.
pub(super) fn runner(
    place: &Place,
    patience: &Patience,
    global: &Global,
) -> anyhow::Result<Runner<AnyStore, Executor>> {
    let timing = Timing::from_ttl(patience.ttl).map_err(|error| Failure::wrong(format!("--ttl: {error}")))?;
    let execute = SupervisorProgram::this()
        .and_then(|supervisor| Executor::new(place.clock.clone(), 1, supervisor))
        .context("cannot prepare to start commands")?
        .handing(place.handed_over(&handover::passing_dir()).0);
    let on_trust = place.published(&execute, timing);
    Ok(Runner {
        ledger: place.ledger(),
        locks: place.remembering(global)?.on_trust(on_trust),
        execute,
        outputs: Outputs::new(place.clock.clone()),
        clock: place.clock.clone(),
        node: patience.node.clone().unwrap_or_else(crate::client::default_node),
        timing,
        driver: Driver::Thread,
    })
}

/// Stops what runs on SIGTERM and SIGINT, until this is dropped.
pub(super) struct StopsOnSignals {
    /// The number of the signal that has arrived.
    arrived: Arc<OnceLock<i32>>,
    _listener: AbortOnDropHandle<()>,
}

impl StopsOnSignals {
    pub fn listen(stopper: Stopper) -> io::Result<StopsOnSignals> {
        let (terminated, interrupted) = (SignalKind::terminate(), SignalKind::interrupt());
        let (mut terminate, mut interrupt) = (signal(terminated)?, signal(interrupted)?);
        let arrived = Arc::new(OnceLock::new());
        let noted = Arc::clone(&arrived);
        let listener = tokio::spawn(async move {
            let kind = tokio::select! {
                _ = terminate.recv() => terminated,
                _ = interrupt.recv() => interrupted,
            };
            noted.get_or_init(|| kind.as_raw_value());
            stopper.stop(StopReason::Asked);
        });
        Ok(StopsOnSignals { arrived, _listener: AbortOnDropHandle::new(listener) })
    }

    /// How the program ends where it did not come to a verdict: where a signal has stopped it, as that signal would have.
    pub fn failure(&self, error: OnceError) -> anyhow::Error {
        match (&error, self.arrived.get()) {
            (OnceError::Stopped(_), Some(number)) => Failure::new(by_signal(*number), error.to_string()).into(),
            _ => failure(error),
        }
    }
}

fn failure(error: OnceError) -> anyhow::Error {
    let exit = match &error {
        OnceError::Different(_) => Exit::Wrong,
        OnceError::NotInTime { .. } => Exit::NotAcquired,
        OnceError::Lost { .. } => Exit::Lost,
        OnceError::Stopped(_) => Exit::Failed,
        OnceError::Campaign(CampaignError::SessionEnded(_) | CampaignError::TrustLapsed)
        | OnceError::Session(SessionError::Ended { .. }) => Exit::Lost,
        OnceError::Campaign(CampaignError::Store(store))
        | OnceError::Session(SessionError::Store(store))
        | OnceError::Store(store) => match store {
            StoreError::Refused(_) | StoreError::LeaseEnded(_) => Exit::Failed,
            _ => Exit::StoreUnreachable,
        },
        OnceError::Campaign(_) => Exit::StoreUnreachable,
        OnceError::Session(SessionError::Thread(_)) => Exit::Failed,
    };
    Failure::new(exit, error.to_string()).into()
}

/// `--forget` and `--resolve`.
async fn settle_by_hand(
    place: &Place,
    key: &OnceKey,
    resolve: Option<As>,
    terminal: &Terminal,
) -> anyhow::Result<Exit> {
    let ledger = place.ledger();
    let (records, _) = ledger.once(key).await?;
    let Some(recorded) = records.first() else {
        let why = format!("nothing was ever run under {} in the namespace {}", key.name(), place.namespace);
        return Err(Failure::new(Exit::Failed, why).into());
    };
    match resolve {
        Some(resolution) => resolve_as(place, key, recorded, resolution).await?,
        None => {
            ledger.forget_once(&acting(place, &Why::default()), key, recorded).await?;
        }
    }
    terminal.say(format_args!(
        "fencron: {}: {}",
        key.name(),
        match resolve {
            None => "forgotten",
            Some(As::Done) => "recorded as done",
            Some(As::Retry) => "to be run again",
        }
    ));
    Ok(Exit::Done)
}

/// Records a person's decision.
pub(super) async fn resolve_as(
    place: &Place,
    key: &OnceKey,
    recorded: &Recorded,
    resolution: As,
) -> anyhow::Result<()> {
    let state = match resolution {
        As::Done => OnceState::Done,
        As::Retry => OnceState::Pending,
    };
    place.ledger().resolve_once(&acting(place, &Why::default()), key, recorded, state).await?;
    Ok(())
}
