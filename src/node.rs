//! A node: the shell around the pure scheduler. One loop owns everything; whatever takes time is a task that comes
//! back with an answer.
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
//! 3. The leadership is resigned, so that the successor starts at once; the session is closed.
//!
//! # Who may act
//!
//! The loop compares the boot clock with the session's trust before it tells the scheduler that it may act, and the
//! executor compares them again right before a process is started. Neither is what safety rests on: every write
//! compares the owner's key in its own transaction.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

mod clocks;
pub mod housekeeping;
mod leadership;
mod migrations;
mod news;
mod status;
mod troubles;
mod work;

pub use status::{Role, Status};

use clocks::{Clocks, Steps};
use housekeeping::{Chore, Pruning};
use migrations::Gate;
use news::follow;
use troubles::{Publications, Troubles};

use crate::config::Config;
use crate::execute::{Execute, Outputs, Stopper};
use crate::fence::Fence;
use crate::job::{Ended, JobName, RunId};
use crate::ledger::{Claim, Claims, Ledger, News, NodeRecord};
use crate::lock::{
    CallId, CampaignError, Driver, Election, Hold, LockName, Locks, Reopening, Session, SessionError, StoreWentBack,
    Term, Timing, Trust,
};
use crate::once::{OnceError, Settled};
use crate::scheduler::run::Version;
use crate::scheduler::{Event, Scheduler, Transition, Transitioned};
use crate::store::{Revision, Store, StoreError};
use crate::time::{Boot, Clock, Wall};

/// How long the loop sleeps at most before it looks at the clocks again: they may have been set, or the machine may
/// have slept.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often a node publishes its record, with what its clock says.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);

/// After the grace, how long stopped runs are waited for beyond the longest `kill_after`, and how long the last writes
/// may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

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

/// What a node is told to do while it runs.
#[derive(Debug)]
pub enum Order {
    /// Take this configuration in place of the one before.
    Reload(Box<Config>),
    /// The jobs file was refused, for this reason.
    Refused(String),
    /// Drain, resign, and end.
    Stop,
    /// End now: what runs is killed.
    StopNow,
}

/// A node that is to run.
#[derive(Debug)]
pub struct Node<S, E> {
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub execute: E,
    pub outputs: Outputs,
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
}

impl Status {
    /// The status of a node that has not begun.
    pub fn starting(node: &str, config: &Config) -> Status {
        Status {
            node: node.to_owned(),
            role: Role::Starting,
            fence: None,
            ready: false,
            reasons: vec!["starting".to_owned()],
            config_digest: config.digest.clone(),
            jobs: config.jobs.len(),
            running: 0,
        }
    }
}

/// Something that came back.
#[derive(Debug)]
enum Answer<S> {
    Session(Result<Session<S>, SessionError>),
    Campaign(CallId, Result<Term, CampaignError>),
    Withdrawn(CallId),
    Resigned,
    Claim {
        claims: Claims,
        batch: u64,
        size: usize,
        result: Result<Claim, StoreError>,
    },
    Register {
        hold: Hold,
        result: Result<bool, StoreError>,
    },
    Transitions {
        sent: Vec<Transition>,
        result: Result<Vec<(RunId, Transitioned)>, StoreError>,
    },
    Run {
        run: RunId,
        attempt: u32,
        ended: Ended,
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
    Verified(Result<Result<(), StoreWentBack>, StoreError>),
    Done(&'static str, Result<(), StoreError>),
}

/// Something that happened, to the loop.
#[derive(Debug)]
enum Happened<S> {
    Ordered(Option<Order>),
    Answered(Answer<S>),
    Started(RunId, u32, Wall),
    Heard(News),
    /// The ledger cannot be followed any more.
    Deaf(StoreError),
    TrustMoved,
    Chore(Chore),
    Time,
}

/// How the node stands towards leadership.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// No session: one is being opened.
    Away,
    /// In the queue.
    Campaigning(CallId),
    /// Neither in the queue nor holding.
    Idle,
    /// Leaving the queue.
    Withdrawing(CallId),
    /// Won; acting once the ledger has been seen up to then.
    Won(Hold),
    Leading(Hold),
    /// The hold is being given back.
    Resigning,
}

/// A node that runs: the loop and all that it owns.
struct Running<S, E> {
    ledger: Ledger<S>,
    locks: Locks<S>,
    election: Election<S>,
    execute: E,
    outputs: Outputs,
    options: Options,
    config_digest: String,
    started_at: Wall,
    scheduler: Scheduler,
    standing: Standing,
    session: Option<Arc<Session<S>>>,
    trust: Option<watch::Receiver<Trust>>,
    /// When the last election was won.
    won_at: Boot,
    /// When the session was opened.
    present_since: Boot,
    /// What the scheduler was last told of the trust.
    told_trust: bool,
    /// The fence under which starting is allowed; 0: none. Read by the executor right before it starts something.
    acting: Arc<AtomicU64>,
    campaign: Option<AbortHandle>,
    claims: Option<Claims>,
    /// The version at which a person last brought the watermark back.
    rewound_at: Version,
    position: Option<Revision>,
    clocks: Clocks,
    steps: Steps,
    troubles: Troubles,
    publications: Publications,
    /// When the store last answered, where it has not for so long that the session may have ended.
    silent_since: Option<Boot>,
    nodes: BTreeMap<u64, NodeRecord>,
    /// The key of the leader's owner, as last heard of: when it came to be, and its lease.
    owner: Option<(Revision, Option<u64>)>,
    stands_back: Option<String>,
    /// Why the watermark cannot be gone by.
    damage: Option<String>,
    /// What the last attempt to take part met, and when.
    obstacle: Option<(String, Boot)>,
    /// When this node last lost a term.
    lost_at: Option<Boot>,
    reopening: Reopening,
    transitions: VecDeque<Transition>,
    transitions_under_way: usize,
    pruning: Pruning,
    gate: Gate,
    runs: BTreeMap<RunId, Stopper>,
    tasks: JoinSet<Answer<S>>,
    started: mpsc::Sender<(RunId, u32, Wall)>,
    published_at: Option<Wall>,
    publishing: bool,
    stopping: Option<Stopping>,
    /// Why the node stops by itself.
    failed: Option<StoreError>,
    status: watch::Sender<Status>,
}

/// How far the node is with going.
#[derive(Clone, Copy, Debug)]
struct Stopping {
    /// When what still runs is told to stop.
    patience_until: Boot,
    /// When the node gives up waiting for it.
    give_up_at: Boot,
    told: bool,
    drained: bool,
    /// The node ends; otherwise it steps down and goes on as a follower.
    leave: bool,
}

impl<S: Store, E: Execute> Node<S, E> {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be followed for a reason that does not pass (denied, unusable).
    pub async fn run(self, config: Config, ends: Ends) -> Result<(), StoreError> {
        let Ends { mut orders, mut chores, status, turned } = ends;
        let (news, mut heard) = mpsc::channel(16);
        let (started, mut starts) = mpsc::channel(1024);
        let mut follower = JoinSet::new();
        follower.spawn(follow(self.ledger.clone(), news));
        let mut running = Running::new(self, config, status, started);
        running.open_session();
        running.make_migrations();
        loop {
            turned.send_replace(running.options.clock.boot());
            running.report();
            let pause = running.pause();
            let trust = running.trust.as_mut();
            let happened = tokio::select! {
                biased; // Orders and the lease outrank traffic.
                order = orders.recv() => Happened::Ordered(order),
                () = moved(trust) => Happened::TrustMoved,
                Some(news) = heard.recv() => Happened::Heard(news),
                Some(answer) = running.tasks.join_next() => match answer {
                    Ok(answer) => Happened::Answered(answer),
                    Err(error) if error.is_cancelled() => continue,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
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

/// Resolves when the trust has changed, or will not any more; never, without a session.
async fn moved(trust: Option<&mut watch::Receiver<Trust>>) {
    match trust {
        Some(trust) => drop(trust.changed().await),
        None => std::future::pending().await,
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    fn new(
        node: Node<S, E>,
        config: Config,
        status: watch::Sender<Status>,
        started: mpsc::Sender<(RunId, u32, Wall)>,
    ) -> Running<S, E> {
        let Node { ledger, locks, execute, outputs, options } = node;
        Running {
            election: locks.election(LockName::leader()),
            gate: Gate::new(&config.migrations),
            scheduler: Scheduler::new(options.name.clone(), config.jobs).with_room(options.room),
            config_digest: config.digest,
            started_at: options.clock.wall(),
            ledger,
            locks,
            execute,
            outputs,
            options,
            standing: Standing::Away,
            session: None,
            trust: None,
            won_at: Boot::default(),
            present_since: Boot::default(),
            told_trust: false,
            acting: Arc::new(AtomicU64::new(0)),
            campaign: None,
            claims: None,
            rewound_at: 0,
            position: None,
            clocks: Clocks::default(),
            steps: Steps::default(),
            troubles: Troubles::default(),
            publications: Publications::default(),
            silent_since: None,
            nodes: BTreeMap::new(),
            owner: None,
            stands_back: None,
            damage: None,
            obstacle: None,
            lost_at: None,
            reopening: Reopening::new(),
            transitions: VecDeque::new(),
            transitions_under_way: 0,
            pruning: Pruning::default(),
            runs: BTreeMap::new(),
            tasks: JoinSet::new(),
            started,
            published_at: None,
            publishing: false,
            stopping: None,
            failed: None,
            status,
        }
    }

    fn happened(&mut self, happened: Happened<S>) {
        match happened {
            Happened::Ordered(order) => self.ordered(order),
            Happened::Answered(answer) => self.answered(answer),
            Happened::Started(run, attempt, at) => self.tell(Event::Started { run, attempt, at }),
            Happened::Heard(news) => self.heard(news),
            Happened::Deaf(error) => {
                tracing::error!(%error, "the ledger cannot be followed: stopping");
                self.failed = Some(error);
                self.drain(true);
            }
            Happened::TrustMoved => self.trust_moved(),
            Happened::Chore(chore) => self.chore(chore),
            Happened::Time => {}
        }
        self.look_at_trust();
        self.look_at_silence();
        self.attend();
        self.tell(Event::Tick);
        self.look_at_watermark();
        self.campaign();
        self.send_transitions();
        self.publish_in_time();
        self.push_on_stopping();
    }

    /// Tells the scheduler, and does what it answers.
    fn tell(&mut self, event: Event) {
        let now = self.look_at_own_clock();
        for action in self.scheduler.handle(event, now) {
            self.act(action);
        }
    }

    fn answered(&mut self, answer: Answer<S>) {
        match answer {
            Answer::Session(result) => self.session_opened(result),
            Answer::Campaign(call, result) => self.campaigned(call, result),
            Answer::Withdrawn(call) => self.withdrawn(call),
            Answer::Resigned => self.resigned(),
            Answer::Claim { claims, batch, size, result } => self.claim_answered(claims, batch, size, result),
            Answer::Register { hold, result } => self.register_answered(&hold, result),
            Answer::Transitions { sent, result } => self.transitions_answered(sent, result),
            Answer::Run { run, attempt, ended } => self.run_ended(run, attempt, ended),
            Answer::Published(result) => self.published(result),
            Answer::Migrated(result) => self.migrated(result),
            Answer::MigrationsMoved(turn) => self.migrations_moved(turn),
            Answer::Looked { hold, seen, result } => self.looked_at_own_term(&hold, seen, result),
            Answer::Pruned(result) => self.pruned(result),
            Answer::Verified(result) => self.verified(result),
            Answer::Done(what, Err(error)) => tracing::warn!(%error, "could not {what}"),
            Answer::Done(..) => {}
        }
    }

    fn ordered(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Reload(config)) => {
                self.troubles.file_taken();
                self.published_at = None;
                self.offered(config);
            }
            Some(Order::Refused(why)) => {
                self.troubles.file_refused(&why, self.options.clock.wall());
                self.published_at = None;
            }
            Some(Order::Stop) | None if self.stopping.is_none_or(|stopping| !stopping.leave) => {
                tracing::info!(running = self.runs.len(), "stopping: nothing new is started");
                self.drain(true);
            }
            Some(Order::Stop) | None => {}
            Some(Order::StopNow) => {
                tracing::warn!(running = self.runs.len(), "stopping now: what runs is killed");
                let now = self.options.clock.boot();
                self.stopping =
                    Some(Stopping { patience_until: now, give_up_at: now, told: true, drained: false, leave: true });
            }
        }
    }

    /// How long the loop may sleep.
    fn pause(&mut self) -> Duration {
        let (now, boot) = (self.options.clock.wall(), self.options.clock.boot());
        let wanted = self.scheduler.wake_at().map_or(LOOK_AGAIN, |at| at.since(now));
        let trust =
            self.trust.as_ref().filter(|_| self.told_trust).map(|trust| trust.borrow().trusted_until.since(boot));
        let stopping = self.stopping.map(|stopping| match stopping.told {
            false => stopping.patience_until.since(boot),
            true => stopping.give_up_at.since(boot),
        });
        [Some(wanted), trust, stopping].into_iter().flatten().min().unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)
    }

    /// Publishes the node's status, where it changed.
    fn report(&self) {
        let trusted = self.trust.as_ref().is_some_and(|trust| trust.borrow().holds(self.options.clock.boot()));
        let mut reasons = Vec::new();
        if self.session.is_none() {
            reasons.push("no session with the store yet".to_owned());
        } else if !trusted {
            reasons.push("the store has not answered for so long that the session may have ended".to_owned());
        }
        if self.position.is_none() {
            reasons.push("the ledger has not been read yet".to_owned());
        }
        if self.stopping.is_some_and(|stopping| stopping.leave) {
            reasons.push("stopping".to_owned());
        }
        reasons.extend(self.stands_back.clone());
        reasons.extend(self.damage.clone());
        reasons.extend(self.gate.closed());
        reasons.extend(self.obstacle().map(str::to_owned));
        reasons.extend(self.troubles.in_the_way().cloned());
        let ready = reasons.is_empty();
        reasons.extend(self.gate.refused());
        reasons.extend(self.troubles.beside(self.options.clock.boot()).cloned());
        let leading = matches!(self.standing, Standing::Leading(_));
        let status = Status {
            node: self.options.name.clone(),
            role: match &self.standing {
                _ if self.stopping.is_some() => Role::Draining,
                Standing::Away => Role::Starting,
                Standing::Leading(_) => Role::Leader,
                _ => Role::Follower,
            },
            fence: self.hold().filter(|_| leading).map(Hold::fence),
            ready,
            reasons,
            config_digest: self.config_digest.clone(),
            jobs: self.scheduler.jobs().len(),
            running: self.runs.len(),
        };
        self.status.send_if_modified(|shown| std::mem::replace(shown, status.clone()) != status);
    }

    fn hold(&self) -> Option<&Hold> {
        match &self.standing {
            Standing::Won(hold) | Standing::Leading(hold) => Some(hold),
            _ => None,
        }
    }
}
