//! A node: the shell around the pure scheduler. One loop owns everything; each operation that takes time is a task that
//! returns an answer.
//!
//! # Order of starting
//!
//! 1. Follow the ledger: read it whole, then watch.
//! 2. Open a session, whose lease is kept alive on a thread of its own.
//! 3. Have the migrations of the jobs file made, by whichever node comes first. Until they are, nothing is fired.
//! 4. Campaign. When the election is won *and* the ledger has been seen up to that point: act as leader.
//!
//! # Order of stopping (`Order::Stop`)
//!
//! 1. Nothing new is claimed or begun; what runs may end within the grace.
//! 2. What is left is stopped (TERM, then KILL after the job's `kill_after`), and every verdict is written.
//! 3. What was counted since the last minute is added to the record of the hour.
//! 4. The leadership is resigned, so that the successor starts at once; the session is closed.
//!
//! # When a node may act
//!
//! The loop compares the boot clock with the session's trust before it lets the scheduler act, and the executor
//! compares them again right before a process is started. Neither is what safety rests on: every write compares the
//! owner's key in its own transaction.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

mod clocks;
pub mod housekeeping;
mod leadership;
mod migrations;
mod news;
mod publishing;
mod showing;
mod status;
mod stopping;
mod tally;
mod troubles;
mod work;

pub use status::{Reason, Role, Status};

use housekeeping::Chore;
use leadership::Leadership;
use migrations::Gate;
use news::Observed;
use publishing::Publishing;
use stopping::Stopping;
use troubles::Troubles;
use work::Work;

use crate::board::Shared;
use crate::config::Config;
use crate::execute::{Execute, Outputs};
use crate::fence::Fence;
use crate::job::{AttemptResult, JobName, Ping, RunId};
use crate::ledger::{Changed, Claim, Claims, LastRuns, Ledger, News, pass_on};
use crate::lock::{
    Backoff, Candidate, Driver, Hold, LockName, Locks, News as Candidacy, Presence, SessionError, StoreWentBack, Timing,
};
use crate::metrics::{Decided, Metrics};
use crate::once::{OnceError, Settled};
use crate::scheduler::{Event, Scheduler, Transition};
use crate::store::{Store, StoreError};
use crate::time::{Boot, Clock, Wall};

/// How long the loop sleeps at most before it looks at the clocks again: they may have been set, or the machine may
/// have slept.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often a node publishes its record, with what its clock says.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);

/// The longest pause before the ledger is followed again, where that has failed: nothing is fired meanwhile.
const FOLLOW_AGAIN: Duration = Duration::from_millis(200);

/// What a node is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's name: unique among the replicas.
    pub name: String,
    pub timing: Timing,
    /// How many runs it begins at once.
    pub room: usize,
    /// How long a stopping node waits for what runs.
    pub shutdown_grace: Duration,
    /// How far its clock may be from the others'.
    pub max_clock_skew: Duration,
    /// Where its HTTP listener is reached.
    pub address: Option<String>,
    pub driver: Driver,
    pub clock: Clock,
}

/// The orders to a node while it runs.
#[derive(Debug)]
pub enum Order {
    /// Take this configuration in place of the one before.
    Reload(Box<Config>),
    /// The jobs file was refused, for this reason.
    Refused(String),
    /// A file that the owner of the node reads was read again: it was refused, for this reason, or (`None`) taken.
    Read(Beside, Option<String>),
    /// Drain, resign, and end.
    Stop,
    /// The same, waiting for what runs for this long and not for what the options say.
    StopWithin(Duration),
    /// End now: what runs is killed.
    StopNow,
}

/// How the jobs file is called where it is refused.
pub(crate) const JOBS_FILE: &str = "the jobs file";

/// A file that a node works with beside its jobs file. The node reports that it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Beside {
    /// The rules of who may look.
    Auth,
    /// The certificate of the listener.
    Tls,
}

impl Beside {
    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Beside::Auth => "auth",
            Beside::Tls => "tls",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Beside::Auth => "the file of --auth",
            Beside::Tls => "the certificate of --tls-cert",
        }
    }
}

/// A node that is to run.
#[derive(Debug)]
pub struct Node<S, E> {
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub execute: E,
    pub outputs: Outputs,
    /// What the node shows of what it knows.
    pub board: Shared,
    /// What the node counts of itself.
    pub metrics: Arc<Metrics>,
    pub options: Options,
}

/// The ends of a running node that its owner holds.
#[derive(Debug)]
pub struct Ends {
    pub orders: mpsc::Receiver<Order>,
    pub chores: mpsc::Receiver<Chore>,
    pub status: watch::Sender<Status>,
    /// When the loop last turned: at least once in a second, unless something hangs.
    pub turned: watch::Sender<Boot>,
    /// The hold of the term under which the node acts as the leader.
    pub leads: watch::Sender<Option<Hold>>,
    /// Where signs of life of runs go; `None`: they go nowhere.
    pub pings: Option<mpsc::Sender<Ping>>,
}

impl Status {
    /// The status of a node that has not begun.
    pub fn starting(node: &str, config: &Config) -> Status {
        Status {
            node: node.to_owned(),
            role: Role::Starting,
            fence: None,
            ready: false,
            reasons: vec![Reason::new("starting")],
            config_digest: config.digest.clone(),
            jobs: config.jobs.len(),
            running: 0,
        }
    }
}

/// Something that came back.
#[derive(Debug)]
enum Answer {
    Claim {
        claims: Claims,
        batch: u64,
        size: usize,
        decided: Decided,
        result: Result<Claim, StoreError>,
    },
    Register {
        hold: Hold,
        result: Result<bool, StoreError>,
    },
    Transitions {
        sent: Vec<Transition>,
        last: LastRuns,
        result: Result<Changed, StoreError>,
    },
    /// It is time to send these changes again, which the store has refused.
    Again(Vec<Transition>),
    Run {
        run: RunId,
        attempt: u32,
        ended: AttemptResult,
    },
    Published(Result<(), SessionError>),
    Migrated(Result<Settled, OnceError>),
    MigrationsMoved(u64),
    /// Whether this term still stood, asked after a target turned its fence away.
    Looked {
        hold: Hold,
        seen: Option<Fence>,
        result: Result<bool, StoreError>,
    },
    Pruned(Result<Option<Vec<JobName>>, StoreError>),
    Bounded(Result<(), StoreError>),
    /// What was counted is added to the record of its hour; `false`: the term is over.
    Added(Result<bool, StoreError>),
    Verified(Result<Result<(), StoreWentBack>, StoreError>),
    Done(&'static str, Result<(), StoreError>),
}

/// Something that happened, to the loop.
#[derive(Debug)]
enum Happened<S> {
    Ordered(Option<Order>),
    Answered(Answer),
    Started(RunId, u32, Wall),
    Observed(News),
    /// The ledger cannot be followed any more.
    Deaf(StoreError),
    Candidacy(Candidacy<S>),
    Chore(Chore),
    Time,
}

/// A node that runs: the loop and all that it owns, in parts whose fields are their own.
struct Running<S, E> {
    node: Node<S, E>,
    started_at: Wall,
    config_digest: String,
    /// When another jobs file was taken than that of the start.
    config_since: Option<Wall>,
    scheduler: Scheduler,
    leadership: Leadership<S>,
    observed: Observed,
    troubles: Troubles,
    publishing: Publishing,
    work: Work,
    gate: Gate,
    stopping: Option<Stopping>,
    /// Why the node stops by itself.
    failed: Option<StoreError>,
    status: watch::Sender<Status>,
}

impl<S: Store, E: Execute> Node<S, E> {
    /// Runs until it is asked to stop.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be followed for a reason that does not pass (denied, unusable).
    pub async fn run(self, config: Config, ends: Ends) -> Result<(), StoreError> {
        let Ends { mut orders, mut chores, status, turned, leads, pings } = ends;
        let (news, mut observed) = mpsc::channel(16);
        let (started, mut starts) = mpsc::channel(1024);
        // Once all senders are gone, the channel has nothing else to say.
        let mut can_be_ordered = true;
        let mut follower = JoinSet::new();
        follower.spawn(pass_on(self.ledger.clone(), news, Backoff::up_to(FOLLOW_AGAIN), |error| {
            tracing::warn!(%error, "the ledger cannot be followed right now; trying again");
        }));
        let mut running = Running::new(self, config, status, started);
        running.work.pings = pings;
        running.node.board.write().configured(running.scheduler.jobs());
        running.present();
        running.make_migrations();
        loop {
            turned.send_replace(running.node.options.clock.boot());
            running.report();
            running.show_hold(&leads);
            let is_planning = running.show_self();
            let pause = if is_planning { Duration::ZERO } else { running.pause() };
            let happened = tokio::select! {
                biased; // Orders and the lease outrank traffic.
                order = orders.recv(), if can_be_ordered => {
                    can_be_ordered = order.is_some();
                    Happened::Ordered(order)
                }
                news = running.leadership.next() => Happened::Candidacy(news),
                Some(news) = observed.recv() => Happened::Observed(news),
                answer = running.work.next() => Happened::Answered(answer),
                Some((run, attempt, at)) = starts.recv() => Happened::Started(run, attempt, at),
                Some(error) = follower.join_next() => match error {
                    Ok(error) => Happened::Deaf(error),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some(chore) = chores.recv() => Happened::Chore(chore),
                () = tokio::time::sleep(pause) => Happened::Time,
            };
            running.happened(happened);
            if running.may_leave() {
                let failed = running.failed.take();
                running.leave().await;
                return failed.map_or(Ok(()), Err);
            }
        }
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    fn new(
        node: Node<S, E>,
        config: Config,
        status: watch::Sender<Status>,
        started: mpsc::Sender<(RunId, u32, Wall)>,
    ) -> Running<S, E> {
        node.board.write().reads_migrations(&config.migrations);
        let options = &node.options;
        let presence = Presence { node: options.name.clone(), record: Vec::new() };
        let owner_key = node.locks.election(LockName::leader()).owner_key().to_owned();
        // A lapse of trust is no loss: whether the term stands, the ledger says.
        let candidate = Candidate::new(&node.locks, presence, options.timing, options.driver)
            .campaigning_for(LockName::leader())
            .heeding_no_signal();
        Running {
            started_at: options.clock.wall(),
            config_digest: config.digest,
            config_since: None,
            scheduler: Scheduler::new(options.name.clone(), config.jobs).with_room(options.room),
            leadership: Leadership::new(candidate, owner_key),
            observed: Observed::default(),
            troubles: Troubles::default(),
            publishing: Publishing::default(),
            work: Work::new(started),
            gate: Gate::new(&config.migrations),
            stopping: None,
            failed: None,
            status,
            node,
        }
    }

    fn happened(&mut self, happened: Happened<S>) {
        match happened {
            Happened::Ordered(order) => self.ordered(order),
            Happened::Answered(answer) => self.answered(answer),
            Happened::Started(run, attempt, at) => self.feed(Event::Started { run, attempt, at }),
            Happened::Observed(news) => self.observed(news),
            Happened::Deaf(error) => {
                tracing::error!(%error, "the ledger cannot be followed: stopping");
                self.failed = Some(error);
                self.drain(true);
            }
            Happened::Candidacy(news) => self.candidacy(news),
            Happened::Chore(chore) => self.chore(chore),
            Happened::Time => {}
        }
        self.look_at_trust();
        self.look_at_silence();
        self.attend();
        self.feed(Event::Tick);
        self.look_at_watermark();
        self.campaign();
        self.send_transitions();
        self.publish_in_time();
        self.push_on_stopping();
    }

    /// Passes an event to the scheduler, and does what it answers.
    fn feed(&mut self, event: Event) {
        let now = self.look_at_own_clock();
        for action in self.scheduler.handle(event, now) {
            self.act(action);
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Claim { claims, batch, size, decided, result } => {
                if matches!(result, Ok(Claim::Made { .. })) {
                    self.work.tally().decided(&decided, self.node.options.clock.wall());
                    self.node.metrics.decided(decided);
                }
                self.claim_answered(claims, batch, size, result);
            }
            Answer::Register { hold, result } => self.register_answered(&hold, result),
            Answer::Transitions { sent, last, result } => self.transitions_answered(sent, &last, result),
            Answer::Again(refused) => self.work.send_again(refused),
            Answer::Run { run, attempt, ended } => self.run_ended(run, attempt, ended),
            Answer::Published(result) => self.published(result),
            Answer::Migrated(result) => self.migrated(result),
            Answer::MigrationsMoved(turn) => self.migrations_moved(turn),
            Answer::Looked { hold, seen, result } => self.looked_at_own_term(&hold, seen, result),
            Answer::Pruned(result) => self.pruned(result),
            Answer::Bounded(result) => self.bounded(result),
            Answer::Added(result) => self.counts_added(&result),
            Answer::Verified(result) => self.verified(result),
            Answer::Done(what, Err(error)) => tracing::warn!(%error, "could not {what}"),
            Answer::Done(..) => {}
        }
    }

    fn ordered(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Reload(config)) => {
                self.troubles.file_taken(JOBS_FILE);
                self.publishing.soon();
                self.offered(config);
            }
            Some(Order::Refused(why)) => {
                self.node.metrics.jobs_file(true);
                self.troubles.file_refused(JOBS_FILE, &why, self.node.options.clock.wall());
                self.publishing.soon();
            }
            Some(Order::Read(file, refused)) => {
                self.node.metrics.other_file(file.word(), refused.is_some());
                match refused {
                    Some(why) => self.troubles.file_refused(file.what(), &why, self.node.options.clock.wall()),
                    None => self.troubles.file_taken(file.what()),
                }
                self.publishing.soon();
            }
            Some(Order::Stop) | None if !self.is_leaving() => {
                tracing::info!(running = self.work.running(), "stopping: nothing new is started");
                self.drain(true);
            }
            Some(Order::Stop) | None => {}
            Some(Order::StopWithin(grace)) => {
                self.node.options.shutdown_grace = grace;
                self.ordered(Some(Order::Stop));
            }
            Some(Order::StopNow) => {
                tracing::warn!(running = self.work.running(), "stopping now: what runs is killed");
                self.stopping = Some(Stopping::now(self.node.options.clock.boot()));
            }
        }
    }

    /// How long the loop may sleep.
    fn pause(&mut self) -> Duration {
        let (now, boot) = (self.node.options.clock.wall(), self.node.options.clock.boot());
        let wanted = self.scheduler.wake_at().map_or(LOOK_AGAIN, |at| at.since(now));
        let trust = self.leadership.trusted_until().map(|until| until.since(boot));
        let stopping = self.stopping.map(|stopping| stopping.next().since(boot));
        [Some(wanted), trust, stopping].into_iter().flatten().min().unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)
    }

    /// Shows the hold under which this node acts, where it changed.
    fn show_hold(&self, leads: &watch::Sender<Option<Hold>>) {
        let leading = self.leadership.leading();
        leads.send_if_modified(|shown| {
            let changed = shown.as_ref() != leading;
            if changed {
                *shown = leading.cloned();
            }
            changed
        });
    }

    /// Publishes the node's status, where it changed.
    fn report(&self) {
        let boot = self.node.options.clock.boot();
        let mut reasons = Vec::new();
        if self.leadership.session().is_none() {
            reasons.push(Reason::new("no session with the store yet"));
        } else if !self.leadership.is_trusted(boot) {
            reasons.push(Reason::new("the store has not answered for so long that the session may have ended"));
        }
        if self.observed.position().is_none() {
            reasons.push(Reason::new("the ledger has not been read yet"));
        }
        if self.is_leaving() {
            reasons.push(Reason::new("stopping"));
        }
        reasons.extend(self.observed.in_the_way().map(Reason::new));
        reasons.extend(self.gate.closed());
        reasons.extend(self.leadership.obstacle().map(Reason::new));
        reasons.extend(self.troubles.in_the_way().cloned().map(Reason::new));
        let ready = reasons.is_empty();
        // Others may take from this whether they reach the node, which a drain does not change.
        reasons.extend(self.observed.drained().map(Reason::new));
        reasons.extend(self.gate.refused());
        reasons.extend(self.troubles.beside(boot));
        let leading = self.leadership.leading();
        let status = Status {
            node: self.node.options.name.clone(),
            role: match leading {
                _ if self.stopping.is_some() => Role::Draining,
                _ if self.leadership.session().is_none() => Role::Starting,
                Some(_) => Role::Leader,
                None => Role::Follower,
            },
            fence: leading.map(Hold::fence),
            ready,
            reasons,
            config_digest: self.config_digest.clone(),
            jobs: self.scheduler.jobs().len(),
            running: self.work.running(),
        };
        self.status.send_if_modified(|shown| std::mem::replace(shown, status.clone()) != status);
    }
}
