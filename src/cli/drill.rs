//! `fencron drill`: the proof, on the user's own store, that a leader that is lost is followed, and that nothing is lost or
//! done twice by that. It plays with nodes, jobs and a namespace of its own.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::place::open_store;
use super::spread::Spread;
use super::terminal::Terminal;
use super::{Exit, Failure, Global};
use crate::job::{JobName, RunId};
use crate::lock::Timing;
use crate::store::{Store as _, StoreUrl};
use crate::time::{Clock, Wall, written};
use cut::Network;
use judge::{Expected, Fact, Finding, Judgement, judge};
use log::Log;
use nodes::{Cast, Node};
use play::{Play, Stuck};
use room::Room;
use sink::Sink;

mod cut;
mod judge;
mod log;
mod nodes;
mod play;
mod room;
mod sink;
mod witness;

/// The job that is due each second, and whose occurrences are counted.
const CANARY: &str = "canary";

/// The job whose requests are held back until they are stale.
const LATE: &str = "late";

const NODES: [&str; 3] = ["a", "b", "c"];

/// What no TTL of a drill is above: it would take hours.
const TTL_MOST: Duration = Duration::from_secs(60);

/// How much later than the lease can end the next leader may act: the next occurrence is due within a second, and the
/// rest is for stores and machines that are busy.
const GAP_BEYOND: Duration = Duration::from_secs(5);

/// How long the last occurrences have to end.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// How long a drill may take, beside its rounds, and how long each of them may beside two TTLs and the gap.
const FRAME_MOST: Duration = Duration::from_secs(300);
const ROUND_MOST: Duration = Duration::from_secs(120);

#[derive(Args)]
pub(super) struct DrillArgs {
    #[command(subcommand)]
    command: DrillCommand,
}

#[derive(Subcommand)]
enum DrillCommand {
    /// Take the leader away again and again, and count what is lost, done twice, and accepted though it is stale
    #[command(after_help = "Example: fencron drill failover --runs 10 --store etcd://10.0.0.1:2379")]
    Failover(FailoverArgs),
    /// Let the leader stand still for longer than its TTL, and check that what it sends afterwards is turned away
    #[command(after_help = "Example: fencron drill zombie --ttl 3s --store etcd://10.0.0.1:2379")]
    Zombie(RoundArgs),
}

#[derive(Args)]
struct FailoverArgs {
    /// How the leader is taken away
    #[arg(long, value_name = "HOW", default_value = "kill")]
    how: How,
    #[command(flatten)]
    rounds: RoundArgs,
}

#[derive(Args)]
struct RoundArgs {
    /// How many times
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// How long the leadership lasts after its node was lost; at most a minute
    #[arg(long, default_value = "10s", value_parser = super::duration)]
    ttl: Duration,
    /// How long there may be no effect after a fault [default: 5s after a kill or a step-down, the TTL and 5s otherwise]
    #[arg(long, value_name = "D", value_parser = super::duration)]
    gap_most: Option<Duration>,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// SIGKILL, as the out-of-memory killer sends it
    Kill,
    /// SIGSTOP until another leads, then SIGCONT
    Stop,
    /// Nothing passes between the node and etcd, or PostgreSQL, until another leads
    Cut,
    /// Ask the leader to step down
    StepDown,
}

impl How {
    /// Whether the lease has to run out before another can lead.
    fn waits_for_the_ttl(self) -> bool {
        matches!(self, How::Stop | How::Cut)
    }

    /// Whether a request of the leader can arrive after the next leader has acted. One that steps down waits for its own.
    fn brings_stale(self) -> bool {
        self != How::StepDown
    }

    /// What was done to the leader, for a person.
    fn done(self) -> &'static str {
        match self {
            How::Kill => "killed",
            How::Stop => "stopped",
            How::Cut => "cut off",
            How::StepDown => "asked to step down",
        }
    }
}

/// What a drill came to.
#[derive(Serialize)]
struct DrillView {
    passed: bool,
    how: How,
    rounds: u32,
    store: String,
    ttl_ms: u64,
    /// From the fault until another led.
    leaderless_ms: Option<Spread>,
    /// From the fault until the guard let in an effect of another leader.
    gap_ms: Option<Spread>,
    gap_most_ms: u64,
    occurrences: Occurrences,
    stale: Stale,
    store_latency_ms: Option<Spread>,
    findings: Vec<Finding>,
    /// The directory with the logs of the nodes, where the drill failed.
    logs: Option<PathBuf>,
}

#[derive(Serialize)]
struct Occurrences {
    due: usize,
    lost: usize,
    claimed_twice: usize,
    accepted_twice: usize,
}

#[derive(Serialize)]
struct Stale {
    sent: usize,
    accepted: usize,
}

/// A drill that is wanted.
struct Wanted {
    how: How,
    rounds: u32,
    ttl: Duration,
    gap_most: Duration,
}

impl Wanted {
    fn of(how: How, args: &RoundArgs, url: &StoreUrl) -> Result<Wanted, Failure> {
        Timing::from_ttl(args.ttl).map_err(|error| Failure::wrong(format!("--ttl: {error}")))?;
        if args.ttl > TTL_MOST {
            return Err(Failure::wrong(format!("--ttl: a drill has at most {}", written(TTL_MOST))));
        }
        if how == How::Cut {
            network_of(url)?;
        }
        let waits = if how.waits_for_the_ttl() { args.ttl } else { Duration::ZERO };
        let gap_most = args.gap_most.unwrap_or(waits + GAP_BEYOND);
        Ok(Wanted { how, rounds: args.runs, ttl: args.ttl, gap_most })
    }

    /// How long after a fault its leader may begin attempts, for the judge.
    fn begins_until(&self) -> Option<u64> {
        let stood_still = self.how == How::Stop;
        (!stood_still).then(|| u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX))
    }

    fn longest(&self) -> Duration {
        FRAME_MOST + (ROUND_MOST + self.ttl * 2 + self.gap_most) * self.rounds
    }
}

/// The servers whose network can be cut, each as host and port.
fn network_of(url: &StoreUrl) -> Result<&[String], Failure> {
    match url {
        StoreUrl::Etcd(config) if config.has_tls() => Err(Failure::wrong(
            "--how cut stands between the nodes and etcd, where the certificates of the members do not name it: use \
             --how stop, which ends a leadership in the same way",
        )),
        StoreUrl::Etcd(config) => Ok(config.endpoints()),
        StoreUrl::Postgres(config) if config.names_its_server() => Err(Failure::wrong(
            "--how cut stands between the nodes and PostgreSQL, where the certificate of the server does not name it: use \
             --how stop, which ends a leadership in the same way",
        )),
        StoreUrl::Postgres(config) if config.hosts().iter().any(|host| host.starts_with("%2")) => {
            Err(Failure::wrong(format!(
                "--how cut has no meaning for {url}: there is no network between a node and a socket: use --how stop"
            )))
        }
        StoreUrl::Postgres(config) => Ok(config.hosts()),
        _ => Err(Failure::wrong(format!(
            "--how cut has no meaning for {url}: there is no network between a node and a file: use --how stop"
        ))),
    }
}

pub(super) async fn drill(args: &DrillArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let url = global.url_to_drill()?;
    let wanted = match &args.command {
        DrillCommand::Failover(args) => Wanted::of(args.how, &args.rounds, &url)?,
        DrillCommand::Zombie(args) => Wanted::of(How::Stop, args, &url)?,
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let clock = Clock::system();
    let store = open_store(&url, &clock).await?;
    match room::sweep(&store).await {
        Ok(swept) => {
            swept.iter().for_each(|name| terminal.say(format_args!("fencron: removed {name}, left by a drill")))
        }
        Err(error) => {
            terminal.say(format_args!("fencron: what other drills may have left is not looked for: {error:#}"))
        }
    }
    let room = Room::make(store).await?;
    let directory = directory()?;
    let played = tokio::select! {
        played = play(&wanted, &url, &room, &directory, terminal) => Some(played),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    // Whatever has become of it, its nodes are gone by now.
    let removed = room.remove().await;
    let Some(played) = played else {
        removed?;
        discard(&directory);
        return Err(
            Failure::new(Exit::Failed, "the drill was interrupted: its nodes are gone, and its namespace too").into()
        );
    };
    let mut view = played?;
    removed?;
    let passed = view.passed;
    if passed {
        discard(&directory)
    } else {
        view.logs = Some(directory)
    }
    terminal.show(&view, table)?;
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

/// A directory of this user alone.
fn directory() -> anyhow::Result<PathBuf> {
    let id = Uuid::new_v4().simple().to_string();
    let path = std::env::temp_dir().join(format!("{}{}", super::DRILLS, &id[..12]));
    let made = DirBuilder::new().mode(0o700).create(&path);
    made.with_context(|| format!("cannot make the directory {}", path.display()))?;
    Ok(path)
}

fn discard(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::warn!(%error, "{} was left", directory.display());
    }
}

/// All of it, with its nodes ended when it answers or is dropped.
async fn play(
    wanted: &Wanted,
    url: &StoreUrl,
    room: &Room,
    directory: &Path,
    terminal: &Terminal,
) -> anyhow::Result<DrillView> {
    let log = Log::new(Clock::system());
    let canary = JobName::new(CANARY)?;
    let sink = Sink::open(log.clone()).await.context("cannot listen on loopback for the effects")?;
    let prefix = room.namespace.prefix();
    let watch = room.store.watch(crate::store::Keys::prefix(prefix.clone()), room.since.next()).await?;
    let watching = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(witness::look_on(watch, prefix, log.clone())));
    let latency = room.measure(log.clock());
    let file = directory.join("jobs.yaml");
    std::fs::write(&file, jobs(room.namespace.as_str(), &format!("http://{}/", sink.address)))?;
    let namespace = room.namespace.to_string();
    let cast = Cast { directory: directory.to_owned(), file, namespace, ttl: wanted.ttl };
    let (mut nodes, mut networks) = (Vec::new(), Vec::new());
    for name in NODES {
        let (reached, network) = reached(wanted.how, url).await?;
        networks.extend(network);
        nodes.push(Node::new(name, &cast, &reached).with_context(|| format!("cannot prepare the node {name}"))?);
    }
    let how = wanted.how;
    terminal.say(format_args!("fencron: drill on {url}: three nodes, a TTL of {}", written(wanted.ttl)));
    let (ttl, gap_most) = (wanted.ttl, wanted.gap_most);
    let mut play = Play { how, ttl, gap_most, room, sink: &sink, log: log.clone(), nodes, networks };
    let played = tokio::time::timeout(wanted.longest(), rounds(&mut play, wanted.rounds, terminal)).await;
    let stuck = match played {
        Ok(Ok(())) => None,
        Ok(Err(Stuck(why))) => Some(why),
        Err(_) => Some(format!("the drill was not over within {}", written(wanted.longest()))),
    };
    if let Some(why) = stuck {
        log.add(Fact::Stuck { why });
    }
    let (expected, judgement) = settled(wanted, canary, &log).await;
    play.end().await;
    drop(watching);
    tracing::debug!(?expected, "judged");
    Ok(view(wanted, url, judgement, latency.spread()))
}

/// The store as a node reaches it: as it is, or through a network that can be cut.
async fn reached(how: How, url: &StoreUrl) -> anyhow::Result<(StoreUrl, Option<Network>)> {
    if how != How::Cut {
        return Ok((url.clone(), None));
    }
    let network = Network::open(network_of(url)?).await.context("cannot listen on loopback for the network")?;
    let ways = network.addresses.iter().map(ToString::to_string);
    let through = match url {
        StoreUrl::Etcd(config) => StoreUrl::Etcd(config.clone().through(ways)?),
        StoreUrl::Postgres(config) => StoreUrl::Postgres(config.clone().through(ways).map_err(anyhow::Error::msg)?),
        other => other.clone(),
    };
    Ok((through, Some(network)))
}

async fn rounds(play: &mut Play<'_>, rounds: u32, terminal: &Terminal) -> Result<(), Stuck> {
    play.begin().await?;
    for round in 1..=rounds {
        let happened = play.round().await?;
        terminal.say(format_args!("{round:>4}/{rounds} {happened}"));
    }
    play.ready().await.map(drop)
}

/// Waits until all that was due until now has ended, and judges.
async fn settled(wanted: &Wanted, canary: JobName, log: &Log) -> (Expected, Judgement) {
    let last = Wall::from_millis(log.clock().wall().as_millis() / 1000 * 1000);
    let deadline = log.clock().boot().plus(SETTLE_WITHIN);
    loop {
        let record = log.record();
        let expected = Expected {
            canary: canary.clone(),
            first: first_claimed(&record).unwrap_or(last),
            last,
            faults: wanted.rounds as usize,
            gap_most: u64::try_from(wanted.gap_most.as_millis()).unwrap_or(u64::MAX),
            with_stale: wanted.how.brings_stale(),
            begins_until: wanted.begins_until(),
        };
        let judgement = judge(&record, &expected);
        if judgement.lost == 0 || log.clock().boot() >= deadline {
            return (expected, judgement);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// From this occurrence on each one has to be there.
fn first_claimed(record: &judge::Record) -> Option<Wall> {
    let claimed = record.iter().filter_map(|(_, fact)| match fact {
        Fact::Claimed { run, .. } => run.parse::<RunId>().ok(),
        _ => None,
    });
    claimed.filter(|run| run.job().as_str() == CANARY).map(|run| run.at()).min()
}

/// Each is due every second. What was missed is made up for, and what was lost is repeated.
fn jobs(namespace: &str, url: &str) -> String {
    let job = |name: &str, more: &str| {
        format!(
            "  {name}:\n    schedule: \"* * * * * *\"\n    guarantee: at_least_once\n    timeout: 1h\n{more}    \
             retry: {{attempts: 5}}\n    http: {{method: POST, url: \"{url}\", body: {name}}}\n"
        )
    };
    let canary = "    overlap: queue\n    missed: {run: all, within: none, limit: 1000, rate: 1000/s}\n";
    let late = "    overlap: skip\n    missed: skip\n";
    format!("version: 1\nnamespace: {namespace}\njobs:\n{}{}", job(CANARY, canary), job(LATE, late))
}

fn view(wanted: &Wanted, url: &StoreUrl, judgement: Judgement, latency: Option<Spread>) -> DrillView {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let spread = |of: fn(&judge::TakeOver) -> u64| {
        Spread::of(judgement.take_overs.iter().map(|take_over| of(take_over) as f64).collect())
    };
    DrillView {
        passed: judgement.has_passed(),
        how: wanted.how,
        rounds: wanted.rounds,
        store: url.to_string(),
        ttl_ms: millis(wanted.ttl),
        leaderless_ms: spread(|take_over| take_over.leaderless),
        gap_ms: spread(|take_over| take_over.gap),
        gap_most_ms: millis(wanted.gap_most),
        occurrences: Occurrences {
            due: judgement.due,
            lost: judgement.lost,
            claimed_twice: judgement.claimed_twice,
            accepted_twice: judgement.accepted_twice,
        },
        stale: Stale { sent: judgement.stale_sent, accepted: judgement.stale_accepted },
        store_latency_ms: latency,
        findings: judge::shown(&judgement.findings),
        logs: None,
    }
}

fn table(view: &DrillView) -> String {
    let spread = |of: Option<Spread>| match of {
        Some(Spread { p50, p95, max, .. }) => format!("p50 {p50:>6.0} ms   p95 {p95:>6.0} ms   max {max:>6.0} ms"),
        None => "not known".to_owned(),
    };
    let latency = match view.store_latency_ms {
        Some(Spread { p50, p95, max, .. }) => format!("p50 {p50:>6.1} ms   p95 {p95:>6.1} ms   max {max:>6.1} ms"),
        None => "not known".to_owned(),
    };
    let Occurrences { due, lost, claimed_twice, accepted_twice } = view.occurrences;
    let Stale { sent, accepted } = view.stale;
    let most = view.gap_most_ms;
    let mut lines = vec![
        format!("without a leader  {}", spread(view.leaderless_ms)),
        format!("without an effect {}  (allowed: {most} ms)", spread(view.gap_ms)),
        format!("store latency     {latency}"),
        format!("occurrences       {due} due, {lost} lost, {claimed_twice} claimed twice, {accepted_twice} done twice"),
        format!("stale effects     {sent} sent, {accepted} accepted"),
    ];
    lines.extend(view.findings.iter().map(|finding| format!("FAILED            {}", finding.what)));
    match &view.logs {
        Some(logs) => lines.push(format!("failed: the logs of its nodes are in {}", logs.display())),
        None => lines.push("passed".to_owned()),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests;
