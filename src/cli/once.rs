//! `fencron once`: a command that is run once for its key, ever, in the whole cluster.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::outage::{self, BACK, say_away};
use super::place::Place;
use super::terminal::Terminal;
use super::{Exit, Failure, Global, handover, run, steer};
use crate::execute::{Executor, Outputs, Reads, Stop, Stopper, SupervisorProgram};
use crate::job::{StopReason, Task, Text};
use crate::ledger::{Once, OnceKey, OnceState, Recorded};
use crate::lock::{CampaignError, Driver, SessionError, Timing, Trust};
use crate::once::{How, OnceError, Runner, Settled, Step, Tell, Told};
use crate::store::{AnyStore, StoreError};

/// How many hexadecimal digits of a checksum are shown.
pub(super) const CHECKSUM_SHOWN: usize = 12;

#[derive(Args)]
pub(super) struct OnceArgs {
    /// What it is known by: 1 to 195 bytes of text
    key: String,
    /// Run it again where it has failed before
    #[arg(long)]
    retry_failed: bool,
    /// Where somebody was lost in the middle of it, run it again
    #[arg(long)]
    idempotent: bool,
    /// Where somebody was lost in the middle of it, a shell text tells: exit 0, it was done; 1, it was not
    #[arg(long, value_name = "TEXT", conflicts_with = "idempotent")]
    verify: Option<String>,
    /// How long the command may take
    #[arg(long, env = "FENCRON_ONCE_TIMEOUT", value_parser = super::duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    patience: Patience,
    /// Forget that it was ever run
    #[arg(long, conflicts_with_all = ["command", "resolve"])]
    forget: bool,
    /// Settle what is unknown or has failed: it was done, or it is to be run again
    #[arg(long, value_name = "HOW", conflicts_with = "command")]
    resolve: Option<As>,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present_any = ["forget", "resolve"])]
    command: Vec<String>,
}

/// How long, and how fast it is noticed that somebody else is gone.
#[derive(Args)]
pub(super) struct Patience {
    /// How long to wait while another is at it [default: as long as it takes]
    #[arg(long, env = "FENCRON_WAIT", value_parser = super::duration)]
    pub wait: Option<Duration>,
    /// How long the lock outlives a process that is lost
    #[arg(long, env = "FENCRON_TTL", default_value = "10s", value_parser = super::duration)]
    pub ttl: Duration,
    /// Who it is done by, for others to read [default: host name and process id]
    #[arg(long, env = "FENCRON_NODE", value_parser = run::node_name)]
    pub node: Option<String>,
}

/// What a person decides about something that is done once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum As {
    /// It was done.
    Done,
    /// It was not, and is to be done.
    Retry,
}

/// Runs the command, or brings the verdict of whoever did.
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
    let told_of_end = Arc::new(AtomicBool::new(false));
    let lost = Lost::default();
    let tell = teller(&args.key, Arc::clone(&told_of_end), lost.clone());
    let (stopper, stop) = Stop::channel();
    let signals = tokio::spawn(stop_on_signals(stopper)?);
    let how = How { retry_failed: args.retry_failed, wait: args.patience.wait, stop };
    let settled = runner.run(std::slice::from_ref(&step), how, &tell).await;
    signals.abort();
    let settled = settled.map_err(failure)?;
    let (records, _) = place.ledger().once(&key).await?;
    let recorded = records.first().map(|recorded| &recorded.once);
    if let Some(once) = recorded.filter(|_| !told_of_end.load(Ordering::SeqCst)) {
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
                "nobody can say whether {key} was done: {}. Find out, and say so: `fencron once {key} --resolve done` \
                 or `--resolve retry`",
                once.reason
            );
            Err(Failure::new(Exit::OutcomeUnknown, why).into())
        }
    }
}

/// Brings what was recorded before.
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
fn teller(key: &str, told_of_end: Arc<AtomicBool>, lost: Lost) -> Tell {
    let key = key.to_owned();
    Arc::new(move |told| match told {
        Told::Waits { holder } => say(&format!("fencron: {holder} is at {key}: waiting for it")),
        Told::Away { why } => say_away(&why),
        Told::Back => say(BACK),
        Told::Starts { .. } => {}
        Told::Output { text, .. } => lost.write(&mut io::stdout(), text.as_bytes()),
        Told::Missed { bytes, .. } => say(&format!("fencron: {bytes} bytes of its output are not shown")),
        Told::Ended { here, .. } => {
            told_of_end.store(true, Ordering::SeqCst);
            if !here {
                say(&format!("fencron: {key} was run elsewhere meanwhile; it is not run again"));
            }
        }
    })
}

pub(super) fn say(message: &str) {
    // Where stderr is closed, nobody wants to know.
    writeln!(io::stderr(), "{message}").ok();
}

/// Whether what a command wrote could be written: why not, the first time.
#[derive(Clone, Default)]
pub(super) struct Lost(Arc<OnceLock<io::Error>>);

impl Lost {
    /// Writes, as long as that can be. Whoever has stopped reading has stopped reading: that is no error.
    pub fn write(&self, out: &mut impl io::Write, bytes: &[u8]) {
        if self.0.get().is_some() {
            return;
        }
        if let Err(error) = out.write_all(bytes).and_then(|()| out.flush())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            // Another thread may have met one as well: the first is told.
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

/// What does things once, from a command line.
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
    let deadlines = execute.deadlines();
    let tell = move |trust: &Trust| deadlines.tell(trust.lease.0, trust.trusted_until, timing.killed_after());
    Ok(Runner {
        ledger: place.ledger(),
        locks: place.remembering(global)?.on_trust(tell),
        execute,
        outputs: Outputs::new(place.clock.clone()),
        clock: place.clock.clone(),
        node: patience.node.clone().unwrap_or_else(crate::client::default_node),
        timing,
        driver: Driver::Thread,
    })
}

/// What is to be awaited so that SIGTERM and SIGINT stop what runs.
pub(super) fn stop_on_signals(stopper: Stopper) -> io::Result<impl Future<Output = ()> + Send> {
    let (mut terminate, mut interrupt): (Signal, Signal) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        run::next_signal(&mut terminate, &mut interrupt).await;
        stopper.stop(StopReason::Asked);
    })
}

/// How the program ends where it did not come to a verdict.
pub(super) fn failure(error: OnceError) -> anyhow::Error {
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
            refuse_under_way(place, &recorded.once).await?;
            if !ledger.forget_once(key, recorded).await? {
                return Err(changed(key).into());
            }
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

fn changed(key: &OnceKey) -> Failure {
    Failure::new(Exit::Failed, format!("{} was changed by somebody else meanwhile: look, and ask again", key.name()))
}

async fn refuse_under_way(place: &Place, once: &Once) -> anyhow::Result<()> {
    if place.ledger().may_be_under_way(once).await? {
        let by = once.claimed_by.as_ref().map_or("somebody", |by| by.node.as_str());
        let why = format!("{} is under way: {by} is at it. Wait for it to end, or stop it there", once.name);
        return Err(Failure::new(Exit::Failed, why).into());
    }
    Ok(())
}

/// Records what a person decides.
pub(super) async fn resolve_as(
    place: &Place,
    key: &OnceKey,
    recorded: &Recorded,
    resolution: As,
) -> anyhow::Result<()> {
    let once = &recorded.once;
    refuse_under_way(place, once).await?;
    if once.state == OnceState::Done {
        return Err(Failure::new(Exit::Failed, format!("{} is done: there is nothing to resolve", once.name)).into());
    }
    let asked = steer::asked(place);
    let was = match once.reason.as_str() {
        "" => once.state.as_str().to_owned(),
        reason => format!("{} ({reason})", once.state.as_str()),
    };
    let state = match resolution {
        As::Done => OnceState::Done,
        As::Retry => OnceState::Pending,
    };
    let reason = format!("resolved by {} on {}; was: {was}", asked.by, asked.at);
    let resolved = Once { state, reason, finished_at: Some(asked.at), ..once.clone() };
    match place.ledger().settle_once(key, recorded.modified, &resolved).await? {
        Some(_) => Ok(()),
        None => Err(changed(key).into()),
    }
}
