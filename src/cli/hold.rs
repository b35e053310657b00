//! `fencron lock`, `semaphore` and `elect`: a command that runs while something is held.

mod acquire;
mod signals;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nix::sys::signal::Signal;

pub(super) use self::acquire::semaphore_failure;
use self::acquire::{Acquired, Held, Released};
pub(super) use self::signals::Signals;
use super::once::say;
use super::outage;
use super::place::{ETCD_PASSWORD, ETCD_USER, POSTGRES_PASSWORD, Place};
use super::terminal::visible;
use super::{Exit, Failure, Global, handover, run};
use crate::execute::{Ending, Executor, MayStart, NotRun, Running, Stop, SupervisorProgram, Wrapped};
use crate::fence::{HoldEnvironment, UNDER_ANOTHER};
use crate::job::StopReason;
use crate::lock::{Candidate, Driver, LockName, Locks, Lost, News, PERMITS_MOST, Presence, Session, Timing};
use crate::store::AnyStore;
use crate::time::{Boot, Clock, written};

/// The record of the session of a command: it is no node.
const NO_NODE: &[u8] = b"{}";

/// How many signals are received while the command is being started; more of them wait.
const RECEIVED_MOST: usize = 16;

/// How long the program waits for its session to end; after that it runs out by itself.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How long the program waits for the store to acknowledge a release. After that the end of the session releases the lock.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// How long it may take to learn the holder of a lock that could not be acquired.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// The longest `--lock-delay`. (A store has a bound of its own, a little above.)
const LOCK_DELAY_MOST_DAYS: u64 = 365;

/// What shells add to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// The exit code for a command that was not run, as shells have it.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

#[derive(Args)]
pub(super) struct LockArgs {
    /// The lock: 1 to 200 bytes of any text but `leader`
    name: String,
    /// How long the lock stays barred after its holder was lost (not after a release)
    #[arg(long, value_name = "D", env = "FENCRON_LOCK_DELAY", value_parser = super::duration)]
    lock_delay: Option<Duration>,
    #[command(flatten)]
    hold: HoldArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Args)]
pub(super) struct ElectArgs {
    /// The election: 1 to 200 bytes of any text but `leader`. Its leader holds the lock of that name
    name: String,
    /// After the leadership was lost, contend for it again, and run the command again
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    hold: HoldArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Args)]
pub(super) struct SemaphoreArgs {
    /// The semaphore: 1 to 200 bytes of any text
    name: String,
    /// How many permits there are; only the first use of a semaphore and --set-permits set the number
    #[arg(long, value_name = "N", env = "FENCRON_PERMITS", value_parser = permits())]
    permits: u32,
    /// How many of them to take
    #[arg(long, value_name = "N", env = "FENCRON_TAKE", default_value_t = 1, value_parser = permits())]
    take: u32,
    /// Change the number to --permits for all from now on; alone, or before the command is run
    #[arg(long)]
    set_permits: bool,
    #[command(flatten)]
    hold: HoldArgs,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present = "set_permits")]
    command: Vec<OsString>,
}

fn permits() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(PERMITS_MOST))
}

/// How a lock or a permit is waited for and held.
#[derive(Args)]
pub(super) struct HoldArgs {
    /// How long to wait [default: without limit]
    #[arg(long, value_name = "D", env = "FENCRON_WAIT", value_parser = super::duration)]
    wait: Option<Duration>,
    /// Do not wait: exit 3 if it cannot be acquired at once
    #[arg(long = "try")]
    at_once: bool,
    /// How long it stays held after its process was lost
    #[arg(long, value_name = "D", env = "FENCRON_TTL", default_value = "10s", value_parser = super::duration)]
    ttl: Duration,
    /// The name of the holder, for people to read [default: host name and process id]
    #[arg(long, env = "FENCRON_NODE", value_parser = run::node_name)]
    node: Option<String>,
    /// End the command when it has been held for this long
    #[arg(long, value_name = "D", env = "FENCRON_MAX_HOLD", value_parser = super::duration)]
    max_hold: Option<Duration>,
    /// How long the command has from TERM to KILL when it is ended, if there is so much time
    #[arg(long, value_name = "D", env = "FENCRON_KILL_AFTER", default_value = "10s")]
    #[arg(value_parser = super::duration)]
    kill_after: Duration,
    /// Print the holder and the place in the queue, and when it was acquired and released
    #[arg(short, long)]
    verbose: bool,
    /// Print nothing while it waits
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

/// What the command needs to hold.
enum What {
    Lock { delay: Option<Duration> },
    Lead { again: bool },
    Permits { permits: u32, take: u32 },
}

/// Runs the command under the lock.
pub(super) async fn lock(args: LockArgs, global: &Global) -> anyhow::Result<Exit> {
    let name = lock_name(&args.name)?;
    if args.lock_delay.is_some_and(|delay| delay > Duration::from_secs(LOCK_DELAY_MOST_DAYS * 24 * 3600)) {
        return Err(Failure::wrong(format!("--lock-delay: choose one of at most {LOCK_DELAY_MOST_DAYS} days")).into());
    }
    hold(What::Lock { delay: args.lock_delay }, name, (args.hold, args.command), global).await
}

/// Runs the command while this leads.
pub(super) async fn elect(args: ElectArgs, global: &Global) -> anyhow::Result<Exit> {
    let name = lock_name(&args.name)?;
    hold(What::Lead { again: args.again }, name, (args.hold, args.command), global).await
}

/// Runs the command while permits are held.
pub(super) async fn semaphore(args: SemaphoreArgs, global: &Global) -> anyhow::Result<Exit> {
    let name = LockName::new(&args.name).map_err(|_| bad_name(&args.name))?;
    let SemaphoreArgs { permits, take, .. } = args;
    if args.set_permits {
        let place =
            outage::opened(global, args.hold.patience(), async || global.open_found_or_make(None).await).await?;
        let locks = place.recalling(global);
        locks.found().await?;
        locks.semaphore(name.clone(), permits).set_permits(permits).await.map_err(semaphore_failure)?;
        if args.command.is_empty() {
            say(&format!("fencron: {} has {permits} permits now", visible(name.as_str())));
            return Ok(Exit::Done);
        }
    }
    hold(What::Permits { permits, take }, name, (args.hold, args.command), global).await
}

/// The name of a lock that a person may hold.
pub(super) fn lock_name(name: &str) -> Result<LockName, Failure> {
    if name == LockName::leader().as_str() {
        let why = "`leader` is the lock by which the nodes elect their leader: another holder would stop the \
                   scheduler. Choose another name";
        return Err(Failure::wrong(why));
    }
    LockName::new(name).map_err(|_| bad_name(name))
}

pub(super) fn bad_name(name: &str) -> Failure {
    let most = LockName::MOST_BYTES;
    Failure::wrong(format!("a name is 1 to {most} bytes long; this one has {}: choose another", name.len()))
}

async fn hold(what: What, name: LockName, command: (HoldArgs, Vec<OsString>), global: &Global) -> anyhow::Result<Exit> {
    let (args, command) = command;
    let timing = Timing::from_ttl(args.ttl).map_err(|error| Failure::wrong(format!("--ttl: {error}")))?;
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let begun = Clock::system().boot();
    let place = tokio::select! {
        biased;
        signal = signals.ending() => return Ok(by_signal(signal as i32)),
        place = outage::opened(global, args.patience(), async || global.open_found_or_make(None).await) => place?,
    };
    let execute = SupervisorProgram::this()
        .and_then(|supervisor| Executor::new(place.clock.clone(), 1, supervisor))
        .context("cannot prepare to start commands")?;
    let locks = place.remembering(global)?.on_trust(place.published(&execute, timing));
    let node = args.node.clone().unwrap_or_else(crate::client::default_node);
    let invocation = Invocation { what, name, args, command, node, timing, place, locks, execute, begun };
    invocation.take(&mut signals).await
}

/// One call of the program.
struct Invocation {
    what: What,
    name: LockName,
    args: HoldArgs,
    command: Vec<OsString>,
    node: String,
    timing: Timing,
    place: Place,
    locks: Locks<AnyStore>,
    execute: Executor,
    begun: Boot,
}

/// Why the command was ended.
enum Over {
    Lost(Lost),
    HeldTooLong(Duration),
}

impl Invocation {
    async fn take(&self, signals: &mut Signals) -> anyhow::Result<Exit> {
        let presence = Presence { node: self.node.clone(), record: NO_NODE.to_vec() };
        let mut candidate = Candidate::new(&self.locks, presence, self.timing, Driver::Thread);
        let exit = self.contend(&mut candidate, signals).await;
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_WITHIN, candidate.leave()).await {
            tracing::warn!(%error, "the session is left to run out");
        }
        exit
    }

    /// Acquires it and runs the command under it, over as many sessions as that takes.
    async fn contend(&self, candidate: &mut Candidate<AnyStore>, signals: &mut Signals) -> anyhow::Result<Exit> {
        let (mut wait, _) = self.args.patience();
        loop {
            let left = || wait.map(|wait| wait.saturating_sub(self.place.clock.boot().since(self.begun)));
            let session = tokio::select! {
                biased;
                signal = signals.ending() => return Ok(by_signal(signal as i32)),
                session = self.session(candidate, left) => session?,
                () = until_over(left().filter(|left| !left.is_zero())) => return Err(self.unanswered().into()),
            };
            match self.acquire(&session, left(), signals).await? {
                Acquired::Held(held) => {
                    let exit = self.attend(*held, &session, signals).await?;
                    let again = matches!(self.what, What::Lead { again: true });
                    // A program that ends has no use for another term.
                    if exit != Exit::Lost || !again || signals.asked_to_end() {
                        return Ok(exit);
                    }
                    // The cause of the loss may be an outage of the store, which is waited through as well.
                    wait = None;
                }
                Acquired::NotInTime => return Err(self.not_in_time(&session).await.into()),
                Acquired::Cancelled(signal) => return Ok(by_signal(signal as i32)),
                // As long as it may wait, it goes to the end of the queue.
                Acquired::SessionOver if wait == Some(Duration::ZERO) => {
                    return Err(self.not_in_time(&session).await.into());
                }
                Acquired::SessionOver => {}
            }
            // What may be left of the hold or of the call goes with the session.
            candidate.renew();
        }
    }

    /// The session. While the store is unavailable, it is tried again for as long as there is time left.
    async fn session(
        &self,
        candidate: &mut Candidate<AnyStore>,
        left: impl Fn() -> Option<Duration>,
    ) -> anyhow::Result<Arc<Session<AnyStore>>> {
        let mut outage = outage::outage(self.args.quiet);
        loop {
            match candidate.next().await {
                News::Session(session) => {
                    outage.is_over();
                    return Ok(session);
                }
                // The store is unavailable; or this process stood still while it was opened, for longer than it lives
                // by itself.
                News::NoSession(error) if error.is_passing() && left() != Some(Duration::ZERO) => {
                    outage.goes_on(&error)
                }
                News::NoSession(error) => return Err(acquire::session_failure(error)),
                _ => {}
            }
        }
    }

    fn unanswered(&self) -> Failure {
        let within = written(self.args.wait.unwrap_or_default());
        let why = format!("{} could not be had within {within}, and the store does not answer", self.shown());
        Failure::new(Exit::StoreUnreachable, why)
    }

    /// Its name, for a person.
    fn shown(&self) -> String {
        visible(self.name.as_str())
    }

    async fn not_in_time(&self, session: &Session<AnyStore>) -> Failure {
        let standing = tokio::time::timeout(LOOK_WITHIN, self.look(session)).await;
        let standing = standing.ok().and_then(Result::ok).flatten();
        let standing = standing.map_or(String::new(), |standing| format!(": {standing}"));
        let within = match self.args.wait.filter(|_| !self.args.at_once) {
            Some(wait) => format!("within {}", written(wait)),
            None => "at once".to_owned(),
        };
        Failure::new(Exit::NotAcquired, format!("{} could not be had {within}{standing}", self.shown()))
    }

    /// Runs the command while it is held.
    async fn attend(&self, held: Held, session: &Session<AnyStore>, signals: &mut Signals) -> anyhow::Result<Exit> {
        signals.stay_in_place()?;
        let since = self.place.clock.boot();
        self.report_acquired(&held, since);
        let (started, received) = self.start(&held, session, signals).await;
        let mut running = match started {
            Ok(running) => running,
            Err(NotRun::Stopped(_)) => {
                tokio::time::timeout(RELEASE_WITHIN, held.release()).await.ok();
                return Ok(received.last().map_or(Exit::Failed, |signal| by_signal(*signal as i32)));
            }
            Err(NotRun::Refused) => {
                let (name, why) = (self.shown(), Lost::TrustLapsed);
                say(&format!("fencron: {name} was lost ({why}) before the command was started: it was not run"));
                return Ok(Exit::Lost);
            }
            Err(error) => {
                tokio::time::timeout(RELEASE_WITHIN, held.release()).await.ok();
                let code = match error {
                    NotRun::NotFound { .. } => NOT_FOUND,
                    _ => NOT_EXECUTABLE,
                };
                return Err(Failure::new(Exit::Command(code), error.to_string()).into());
            }
        };
        received.into_iter().for_each(|signal| running.pass_on(signal));
        let (over, status) = self.until_over(&held, running, signals).await;
        if let Some(Over::Lost(_)) = over {
            return Ok(over.map_or(Exit::Lost, |over| self.report_lost(&over)));
        }
        let released = tokio::time::timeout(RELEASE_WITHIN, held.release()).await;
        let unanswered = |_| Released::Unknown(format!("the store has not answered in {RELEASE_WITHIN:?}"));
        let released = released.unwrap_or_else(unanswered);
        if let Some(over) = over {
            return Ok(self.report_lost(&over));
        }
        match released {
            Released::Now => {
                if self.args.verbose {
                    let lasted = seconds(self.place.clock.boot().since(since));
                    say(&format!("fencron: {} released after {lasted}", self.shown()));
                }
            }
            Released::HadEnded(why) => {
                let name = self.shown();
                let why = format!("fencron: {name} was lost before the command had ended ({why}): another may have it");
                say(&why);
                return Ok(Exit::Lost);
            }
            Released::Unknown(why) => {
                let (name, ttl) = (self.shown(), written(self.args.ttl));
                say(&format!(
                    "fencron: the release of {name} was not acknowledged ({why}): it is free in {ttl} at the latest"
                ));
            }
        }
        Ok(match status.code() {
            Some(code) => Exit::Command(u8::try_from(code).unwrap_or(u8::MAX)),
            None => by_signal(status.signal().unwrap_or_default()),
        })
    }

    /// Starts the command. Answers also the signals that came meanwhile. While the system has no room for a process, a
    /// signal to end stops the attempts.
    async fn start(
        &self,
        held: &Held,
        session: &Session<AnyStore>,
        signals: &mut Signals,
    ) -> (Result<Running, NotRun>, Vec<Signal>) {
        let (stopper, stop) = Stop::channel();
        let mut starting = std::pin::pin!(self.execute.wrap(self.wrapped((held, session), stop)));
        let mut received = Vec::new();
        loop {
            let listens = received.len() < RECEIVED_MOST;
            tokio::select! {
                biased;
                started = &mut starting => return (started, received),
                signal = signals.next(), if listens => {
                    received.push(signal);
                    if signals.asked_to_end() {
                        stopper.stop(StopReason::Asked);
                    }
                }
            }
        }
    }

    /// From the start of the command to the end of the last process of its group.
    async fn until_over(&self, held: &Held, mut running: Running, signals: &mut Signals) -> (Option<Over>, ExitStatus) {
        let lost = held.signal();
        let mut too_long = std::pin::pin!(self.too_long());
        let over = loop {
            tokio::select! {
                biased;
                () = running.exited() => break None,
                why = lost.lost() => break Some(Over::Lost(why)),
                most = &mut too_long => break Some(Over::HeldTooLong(most)),
                signal = signals.next() => running.pass_on(signal),
            }
        };
        // Perhaps this process stood still meanwhile.
        let by_supervisor = running.was_ended_by_supervisor().then_some(Over::Lost(Lost::TrustLapsed));
        let over = over.or(by_supervisor);
        let ending = match over {
            None => Ending::ByItself,
            // Another holder may have it already: there is only time to kill.
            Some(Over::Lost(Lost::Taken | Lost::SessionEnded(_))) => Ending::Forced(Some(self.timing.killed_after())),
            Some(_) => Ending::Forced(None),
        };
        let mut ended = std::pin::pin!(running.end(ending));
        // What is left of a command is as exclusive as the command was.
        let status = tokio::select! {
            biased;
            status = &mut ended => return (over, status),
            why = lost.lost(), if over.is_none() => (Over::Lost(why), ended.await),
        };
        (Some(status.0), status.1)
    }

    async fn too_long(&self) -> Duration {
        match self.args.max_hold {
            Some(most) => {
                tokio::time::sleep(most).await;
                most
            }
            None => std::future::pending().await,
        }
    }

    fn wrapped(&self, (held, session): (&Held, &Session<AnyStore>), stop: Stop) -> Wrapped {
        let (trust, clock) = (session.trust(), self.place.clock.clone());
        let may_start = MayStart::new(move || trust.borrow().holds(clock.boot())).under(session.lease().0);
        let holding = HoldEnvironment {
            namespace: self.place.namespace.as_str().to_owned(),
            node: self.node.clone(),
            name: self.name.as_str().to_owned(),
            hold: held.hold(),
        };
        // So that a lock inside of this one is a lock of the same store.
        let (mut env, has_access) = self.place.handed_over(&handover::passing_dir());
        env.extend(holding.variables().into_iter().map(|(name, value)| (name.into(), value.into())));
        let without =
            if has_access { [ETCD_USER, ETCD_PASSWORD, POSTGRES_PASSWORD].map(Into::into).into() } else { Vec::new() };
        let keeps_session = UNDER_ANOTHER.iter().any(|name| std::env::var_os(name).is_some());
        let (argv, kill_after) = (self.command.clone(), self.args.kill_after);
        Wrapped { argv, env, without, kill_after, keeps_session, may_start, stop }
    }

    fn report_acquired(&self, held: &Held, since: Boot) {
        if self.args.verbose {
            let fence = held.hold().map_or(String::new(), |(_, fence)| format!(" under fence {fence}"));
            say(&format!("fencron: {} acquired{fence} after {}", self.shown(), seconds(since.since(self.begun))));
        }
    }

    fn report_lost(&self, over: &Over) -> Exit {
        let name = self.shown();
        say(&match over {
            Over::Lost(why) => format!("fencron: {name} was lost ({why}): the command was ended"),
            Over::HeldTooLong(most) => {
                let most = written(*most);
                format!("fencron: {name} was held for {most}, as long as it may be: the command was ended")
            }
        });
        Exit::Lost
    }
}

impl HoldArgs {
    /// How long to wait, and whether to print nothing about it.
    fn patience(&self) -> (Option<Duration>, bool) {
        (if self.at_once { Some(Duration::ZERO) } else { self.wait }, self.quiet)
    }
}

async fn until_over(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// How a program ends that this signal has ended, as shells have it.
pub(super) fn by_signal(number: i32) -> Exit {
    Exit::Command(u8::try_from(BY_SIGNAL + number).unwrap_or(u8::MAX))
}
