//! `fencron run`: a node, its signals, and its jobs file as it changes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::asking::{self, WITH_TLS};
use super::file::{self, Footprint, Pipe, Reading};
use super::memory::Memory;
use super::place::{Place, made, open_store};
use super::{Exit, Failure, Global, handover, listener, outage};
use crate::api::access::Access;
use crate::api::metrics::{Counted, JOBS_MOST};
use crate::api::streams::Streams;
use crate::api::{self, Api, Glance};
use crate::board::Shared;
use crate::client::{default_node, host_name};
use crate::config::Config;
use crate::execute::{Executor, MAX_RUNNING, Outputs, SupervisorProgram};
use crate::job::{Job, Ping, Trigger};
use crate::ledger::Ledger;
use crate::listen::{self, Tls};
use crate::lock::{Driver, Locks, Namespace, Seen, Timing};
use crate::metrics::{Measured, Metrics};
use crate::node::housekeeping::Housekeeping;
use crate::node::{Ends, Node, Options, Order, Status};
use crate::notify::{Notifier, PINGS_MOST, Pings, Sender};
use crate::store::etcd::EtcdStore;
use crate::store::postgres::PostgresStore;
use crate::store::{AnyStore, Store, StoreUrl};
use crate::time::{Clock, Wall, written};

mod access;
mod outputs;
mod relay;
mod reload;
mod service;
pub(super) mod tls;
mod traces;

/// How many orders and chores may wait for the node.
const QUEUE: usize = 16;

/// How often what was seen of the store is saved, beside every new term.
const SAVE_SEEN_EVERY: Duration = Duration::from_secs(1);

/// How long the last signs of life of runs are waited for, at the end.
const LAST_PINGS: Duration = Duration::from_secs(5);

/// How long the listener waits, at the end, for clients that still read.
const LAST_READERS: Duration = Duration::from_secs(2);

/// How many of the next fires are logged at the start, and how many jobs are looked at for them.
const NEXT_TOLD: usize = 3;
const NEXT_LOOKED_AT: usize = 10_000;

/// How long a start may take until a leader has seen the jobs, from when on they are due: nothing earlier is promised.
const START_TAKES: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct RunArgs {
    /// The jobs files, or directories of them: together one configuration; read again on SIGHUP, and when they or a file
    /// that they name change
    #[arg(value_name = "FILE", env = "FENCRON_FILE", default_value = file::DEFAULT)]
    file: Vec<PathBuf>,
    /// The node's name, unique among the replicas [default: host name and process id]
    #[arg(long, env = "FENCRON_NODE", value_parser = node_name)]
    node: Option<String>,
    /// How long the leadership lasts after its node was lost or cut off
    #[arg(long, env = "FENCRON_TTL", default_value = "10s", value_parser = super::duration)]
    ttl: Duration,
    /// The address of the HTTP listener; port 0 is any free port
    #[arg(long, value_name = "ADDR", env = "FENCRON_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// HOST:PORT by which other machines reach the listener [default: the address of --listen]
    #[arg(long, value_name = "ADDR", env = "FENCRON_ADVERTISE", value_parser = host_and_port)]
    advertise: Option<String>,
    #[command(flatten)]
    access: access::AccessArgs,
    #[command(flatten)]
    tls: tls::TlsArgs,
    /// How long running jobs may go on after the node was asked to stop, to step down, or was drained; nothing new
    /// starts on it meanwhile
    #[arg(long, env = "FENCRON_SHUTDOWN_GRACE", default_value = "30s", value_parser = super::duration)]
    shutdown_grace: Duration,
    /// The largest difference between the node's clock and the others' with which it may lead
    #[arg(long, env = "FENCRON_MAX_CLOCK_SKEW", default_value = "2s", value_parser = super::duration)]
    max_clock_skew: Duration,
    /// How many commands run at the same time; the others wait
    #[arg(long, value_name = "N", env = "FENCRON_MAX_RUNNING", default_value_t = MAX_RUNNING)]
    max_running: usize,
    /// How many jobs have series of their own in /metrics, the first by name; 0: none
    #[arg(long, value_name = "N", env = "FENCRON_METRICS_JOBS_MOST", default_value_t = JOBS_MOST)]
    metrics_jobs_most: usize,
}

impl RunArgs {
    /// The options of the node, but for its address.
    fn options(&self, name: String, timing: Timing, clock: Clock) -> Options {
        Options {
            name,
            timing,
            room: self.max_running,
            shutdown_grace: self.shutdown_grace,
            max_clock_skew: self.max_clock_skew,
            address: None,
            driver: Driver::Thread,
            clock,
        }
    }
}

pub(super) fn node_name(text: &str) -> Result<String, crate::job::NotAName> {
    crate::job::check_name(text).map(|()| text.to_owned())
}

fn host_and_port(text: &str) -> Result<String, String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    port.map(|_| text.to_owned()).ok_or_else(|| "write it as HOST:PORT".to_owned())
}

/// Runs a node until it is asked to stop.
pub(super) async fn run(args: RunArgs, global: &Global) -> anyhow::Result<Exit> {
    // First of all: until it is listened for, this signal ends a process.
    let hangup = signal(SignalKind::hangup())?;
    let Reading { config, files, .. } = file::look(&args.file, Pipe::Wait);
    let config = config?;
    let timing = Timing::from_ttl(args.ttl).map_err(|error| Failure::wrong(format!("--ttl: {error}")))?;
    let url = global.url()?;
    let named = global.namespace()?;
    refuse_inside_of_itself(global)?;
    let namespace = named.clone().map_or_else(|| Namespace::new(&config.namespace), Ok)?;
    let clock = Clock::system();
    let made = made(&url);
    let store = open_or_begin_without(&url, &clock).await?;
    if let Some(path) = made {
        tracing::info!("made the store {}", path.display());
        if let Some(other) = global.passed_over() {
            tracing::warn!("{other}");
        }
    }
    let place = Place::new(url, store, namespace, clock);
    let kept_name = named.is_none().then(|| place.namespace.clone());
    let memory = Memory::of(&place, global)?;
    let tls_ca = global.tls_ca.clone();
    start(args, Begun { timing, config, files, place, memory, kept_name, tls_ca, hangup }).await
}

/// A node starts without a cluster that does not answer now: it is ready when that does.
async fn open_or_begin_without(url: &StoreUrl, clock: &Clock) -> anyhow::Result<AnyStore> {
    match (open_store(url, clock).await, url) {
        (Err(error), StoreUrl::Etcd(config)) if outage::is_away(&error) => {
            tracing::warn!("{error:#}: starting without it, and not ready until it answers");
            Ok(AnyStore::Etcd(EtcdStore::connect_later(config.clone())))
        }
        (Err(error), StoreUrl::Postgres(config)) if outage::is_away(&error) => {
            tracing::warn!("{error:#}: starting without it, and not ready until it answers");
            Ok(AnyStore::Postgres(PostgresStore::connect_later(config.clone(), clock.clone())))
        }
        (opened, _) => opened,
    }
}

/// A job's environment has its node's store and namespace. A node that used them would contend for the leadership of
/// the cluster that runs it, with another file.
fn refuse_inside_of_itself(global: &Global) -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let is_inherited = variable("FENCRON_JOB").is_some() && global.store.is_some() && global.namespace.is_some();
    if is_inherited && global.store == variable(handover::STORE) && global.namespace == variable("FENCRON_NAMESPACE") {
        let job = variable("FENCRON_JOB").unwrap_or_default();
        let why = format!(
            "this is a command of the job {job}, and a node here would contend for the leadership of the node that runs \
             it: name another store with --store, or another namespace with --namespace"
        );
        return Err(Failure::wrong(why));
    }
    Ok(())
}

/// What a node has before it begins.
struct Begun {
    timing: Timing,
    config: Config,
    /// What it was read from.
    files: Footprint,
    place: Place,
    memory: Memory,
    /// The namespace that the file names and has to go on naming, where it does.
    kept_name: Option<Namespace>,
    /// The authorities of the certificates of other nodes.
    tls_ca: Option<PathBuf>,
    hangup: Signal,
}

async fn start(args: RunArgs, begun: Begun) -> anyhow::Result<Exit> {
    let Begun { timing, config, files, place, memory, kept_name, tls_ca, hangup } = begun;
    let ((order, orders), (chore, chores)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    let (ending, mut beside) = (CancellationToken::new(), JoinSet::new());
    // Before anything is held, so that a signal from then on is received.
    let asked_to_stop = signals(&order, &mut beside)?;

    let name = args.node.clone().unwrap_or_else(default_node);
    let mut options = args.options(name.clone(), timing, place.clock.clone());
    let beside_memory = memory.directory();
    let locks = memory.try_out(&place).await?;
    let execute = executor(&place.clock, args.max_running)?.handing(place.handed_over(&beside_memory).0);
    let (on_trust, is_supervised) = (place.published(&execute, timing), execute.supervised());
    let (wholes, (execute, sending_spans)) = (execute.wholes().clone(), traces::traced(execute)?);
    let metrics = Arc::new(Metrics::default());
    let measured = |store| Measured::new(store, place.clock.clone(), Arc::clone(&metrics.requests));
    let locks = locks.on_trust(on_trust).through(measured);
    let (rules, news) = ((args.access, args.tls), (&order, &metrics));
    let door = Door::open(args.listen, args.advertise, rules, news, &mut beside).await?;
    let Door { listener, local, address, tls, access, served } = door;
    let relay = relay::open(tls_ca.as_deref(), &mut beside)?;
    let _published = listener::publish(&beside_memory, &name, &place, local, tls.is_some());
    introduce(&name, &place, &file::shown(&args.file), &config);
    tracing::info!("listening on {} ({served})", asking::url(&address, ""));

    let status = watch::Sender::new(Status::starting(&name, &config));
    let turned = watch::Sender::new(place.clock.boot());
    let (clock, outputs, board) = (place.clock.clone(), Outputs::new(place.clock.clone()), Shared::default());
    let ledger = Ledger::new(measured(place.store.clone()), place.namespace.clone());
    let api = Api {
        status: status.subscribe(),
        store: place.url.for_others().unwrap_or_else(|_| place.url.to_string()).into(),
        turned: turned.subscribe(),
        ledger: ledger.clone(),
        locks: locks.clone(),
        outputs: outputs.clone(),
        board: board.clone(),
        counted: Counted::new(Arc::clone(&metrics), args.metrics_jobs_most).supervised(is_supervised),
        glance: Glance::default(),
        clock,
        access,
        relay,
        streams: Streams::default(),
    };
    let service = service::Service::beside(&mut beside, status.subscribe(), turned.subscribe());
    let serving = tokio::spawn(api::serve(listener, tls, api, ending.clone()));
    beside.spawn(save_seen(locks.clone()));
    beside.spawn(outputs::sweep(wholes, board.clone(), ledger.namespace().to_string(), place.clock.clone()));
    let (notices, leads) = (watch::Sender::new(Arc::clone(&config.notices)), watch::Sender::default());
    let (clock, measures, known) = (place.clock.clone(), Arc::clone(&metrics), board.clone());
    let (sender, pings, pinging) = pinging(&metrics)?;
    let notifier = Notifier { ledger: ledger.clone(), node: name, clock, metrics: measures, sender, board: known };
    beside.spawn(notifier.run(leads.subscribe(), notices.subscribe(), 2 * timing.ttl()));
    let reload = reload::Reload::new(args.file, kept_name, (&config, files), order.clone()).noticing(notices);
    beside.spawn(reload.reporting(service.clone()).run(hangup));
    let housekeeping = Housekeeping::start(chore).await.context("cannot start the housekeeping")?;

    options.address = Some(address);
    let node = Node { ledger, locks: locks.clone(), execute, outputs, board, metrics, options };
    // On a worker: there its timers are, and what answers it. Here each of them would have to wake another thread.
    let running = tokio::spawn(node.run(config, Ends { orders, chores, status, turned, leads, pings: Some(pings) }));
    let ended = service.until_ended(running).await;
    housekeeping.stop().await;
    wait_for_pings(pinging).await;
    beside.shutdown().await;
    locks.save_seen().await;
    ending.cancel();
    wait_for_readers(serving).await;
    traces::sent(sending_spans).await;
    ended?;
    tracing::info!("ended");
    Ok(if *asked_to_stop.borrow() > 1 { Exit::Failed } else { Exit::Done })
}

fn executor(clock: &Clock, max_running: usize) -> anyhow::Result<Executor> {
    SupervisorProgram::this()
        .and_then(|supervisor| Executor::new(clock.clone(), max_running, supervisor))
        .context("cannot prepare to start commands")
}

/// What sends messages over HTTP, what takes the signs of life of runs, and the task that sends those.
fn pinging(metrics: &Arc<Metrics>) -> anyhow::Result<(Sender, mpsc::Sender<Ping>, JoinHandle<()>)> {
    let sender = Sender::new().context("cannot use HTTP")?;
    let (pings, pinged) = mpsc::channel(PINGS_MOST);
    let pinging = tokio::spawn(Pings::new(sender.clone(), Arc::clone(metrics)).run(pinged));
    Ok((sender, pings, pinging))
}

async fn wait_for_pings(pinging: JoinHandle<()>) {
    if tokio::time::timeout(LAST_PINGS, pinging).await.is_err() {
        tracing::warn!("the last signs of life of runs were not taken in time");
    }
}

async fn wait_for_readers(serving: JoinHandle<()>) {
    if tokio::time::timeout(LAST_READERS, serving).await.is_err() {
        tracing::debug!("a client still reads from the listener: left open");
    }
}

/// The listener of a node, before it serves.
struct Door {
    listener: TcpListener,
    /// The address that it is bound to.
    local: SocketAddr,
    /// The address by which others reach it.
    address: String,
    tls: Option<Tls>,
    access: Access,
    /// What callers get, for a person.
    served: &'static str,
}

impl Door {
    /// Binds the listener, and reads the files that say who may look and what it speaks. `beside` reads them again.
    async fn open(
        listen: SocketAddr,
        advertise: Option<String>,
        (access, tls): (access::AccessArgs, tls::TlsArgs),
        (order, metrics): (&mpsc::Sender<Order>, &Arc<Metrics>),
        beside: &mut JoinSet<()>,
    ) -> anyhow::Result<Door> {
        let listener = listen::bind(listen).with_context(|| {
            format!("cannot listen on {listen}: choose another address with --listen (port 0 is any free one)")
        })?;
        let local = listener.local_addr()?;
        let address = advertise.unwrap_or_else(|| reachable(local));
        access.warn(local);
        let served = access.served(local);
        let rules = access.auth.clone();
        let access::Opened { access, watch } = access.open(&address, tls.is_given())?;
        let (tls, certificate) = tls.open(rules.map(|rules| (rules, access.clone())))?.unzip();
        watch.map(|rules| beside.spawn(rules.run(order.clone())));
        certificate.map(|certificate| beside.spawn(certificate.run(order.clone(), Arc::clone(metrics))));
        let address = if tls.is_some() { format!("{WITH_TLS}{address}") } else { address };
        Ok(Door { listener, local, address, tls, access, served })
    }
}

/// What others reach a listener by: one that listens everywhere is found by the machine's name.
fn reachable(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => format!("{}:{}", host_name(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("{}:{}", host_name(), address.port()),
        _ => address.to_string(),
    }
}

/// The first SIGTERM or SIGINT lets what runs end, the second does not. Answers how many have come.
fn signals(order: &mpsc::Sender<Order>, beside: &mut JoinSet<()>) -> anyhow::Result<watch::Receiver<u32>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (count, counted) = watch::channel(0);
    let order = order.clone();
    beside.spawn(async move {
        loop {
            let name = next_signal(&mut terminate, &mut interrupt).await;
            count.send_modify(|count| *count += 1);
            tracing::info!(signal = name, "asked to stop{}", if *count.borrow() > 1 { ", again: now" } else { "" });
            let next = if *count.borrow() > 1 { Order::StopNow } else { Order::Stop };
            if order.send(next).await.is_err() {
                return;
            }
        }
    });
    Ok(counted)
}

pub(super) async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Saves what is seen of the store as it grows. A new term is saved by the campaign that won it.
async fn save_seen<S: Store>(locks: Locks<S>) {
    let mut seen: watch::Receiver<Seen> = locks.seen();
    while seen.changed().await.is_ok() {
        locks.save_seen().await;
        tokio::time::sleep(SAVE_SEEN_EVERY).await;
    }
}

/// Logs for a new user what is going to happen.
fn introduce(node: &str, place: &Place, files: &str, config: &Config) {
    let Place { url: store, namespace, clock, .. } = place;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node, %namespace, %store, "fencron starts");
    if *store == StoreUrl::Memory {
        tracing::warn!("the store is in memory: this node is alone, and what it did is forgotten when it ends");
    }
    for warning in config.warnings.list() {
        tracing::warn!("{}: {}", warning.place(files), warning.message);
    }
    tracing::info!(digest = config.digest, jobs = config.jobs.len(), "read {files}");
    for line in next_fires(config, clock.wall()) {
        tracing::info!("{line}");
    }
}

fn next_fires(config: &Config, now: Wall) -> Vec<String> {
    let after = now.plus(START_TAKES);
    let next = |job: &Arc<Job>| match &job.trigger {
        Trigger::Schedule { schedule, jitter } => Some((schedule.next_start(*jitter, after)?.starts, job.name.clone())),
        Trigger::After { .. } | Trigger::Disabled => None,
    };
    let mut next: Vec<_> = config.jobs.values().take(NEXT_LOOKED_AT).filter_map(next).collect();
    next.sort();
    let shown = next.iter().take(NEXT_TOLD).map(|(at, job)| {
        let wait = written(Duration::from_secs(at.since(now).as_secs()));
        format!("{job} is due next at {at}, in {wait}")
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};

    #[test]
    fn what_is_due_before_the_node_can_lead_is_not_announced() {
        let text = "version: 1\njobs:\n  often: {schedule: '@every 1s', shell: 'true'}\n  \
                    once: {schedule: '@at 2026-01-01T00:00:01Z', shell: 'true'}\n";
        let config = parse(text, &Sources::none()).unwrap();
        let lines = next_fires(&config, "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(lines, ["often is due next at 2026-01-01T00:00:03Z, in 3s"]);
    }
}
