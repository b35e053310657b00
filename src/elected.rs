//! Work that only one instance of a service does at a time.
//!
//! Every instance [starts](Elected::start) the same [`Elected`], which keeps a session open, stands for election, and
//! goes on with both by itself for as long as the service runs: a session that ended is opened again, and it waits for
//! a store that is unavailable. Work that is done once for all instances is a **job** with **occurrences**:
//! [`ElectedJob::claim`] answers the elected instance, once for each, with what the work needs: its fence, its instant,
//! its proof and a signal.
//!
//! ```
//! use std::time::Duration;
//! use fencron::elected::Elected;
//! use fencron::lock::{LockName, Locks, Namespace, Seen, Timing};
//! use fencron::store::memory::MemoryStore; // or sqlite::SqliteStore, etcd::EtcdStore
//! use fencron::time::Clock;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let clock = Clock::system();
//! let locks = Locks::new(MemoryStore::new(clock.clone()), clock, Namespace::new("shop")?, Seen::default());
//! let timing = Timing::from_ttl(Duration::from_secs(10))?;
//! let elected = Elected::start(&locks, LockName::new("reports")?, "instance-1", timing);
//!
//! let nightly = elected.job("nightly")?;
//! let due = "2026-11-21T02:00:00Z".parse()?;
//! let claimed = nightly.claim(due).await?.expect("there is no other instance");
//! println!("{} under fence {}", claimed.scheduled_at(), claimed.fence());
//! drop(claimed);
//! assert!(nightly.claim(due).await?.is_none(), "each occurrence once, whichever instance asks");
//!
//! elected.stop(Duration::from_secs(30)).await;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With the feature `tokio-cron-scheduler`, `Elected::cron` makes a job of that scheduler which does all this at each of
//! its ticks; `examples/nightly_job.rs` is a whole service.
//!
//! # What is promised
//!
//! - **One instance at a time**, as far as a lock can promise that: see [`crate::lock`]. What is written elsewhere
//!   carries [`Claimed::stamp`] or compares [`Claimed::hold`], so that an instance which was replaced without knowing
//!   it is turned away.
//! - **Each occurrence once at most.** It is claimed in one transaction that compares the hold and the last instant which
//!   was claimed, before anything is done. Two instances on both sides of a hand-over, a tick that comes twice, and clocks
//!   that disagree or go back claim nothing twice. What was claimed by an instance that then crashed is not done again.
//! - **Fences grow** from term to term, and instants from claim to claim.
//! - **A hand-over loses little.** A claim that is made while no instance is elected waits for the end of the
//!   hand-over, for [`Elected::patience`] at most, and the new elected instance claims it then, late. Of several
//!   instants of one job that pass meanwhile only the last is done.
//! - **Work ends with its term**, if it obeys [`Claimed::signal`].
//!
//! # What is not
//!
//! There is no ledger: no record shows afterwards what ran and how it ended, and nothing is tried again. Occurrences
//! that pass while no instance is there (or none is elected for longer than the patience) are not made up, and not
//! reported. Runs of one job may overlap. The store keeps one key per job, with the last instant. If that is too little
//! use `fencron run`, which keeps a record of every occurrence until its verdict.
//!
//! An instance whose clock is ahead claims ahead of time, and holds up the job on all others until their clocks have come
//! there: keep clocks synchronized. The log says so, with the name of the key to delete.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::fence::{Fence, Stamp};
use crate::lock::{
    CallId, Candidate, Claim, Claims, Driver, Election, Hold, HoldSignal, LockName, Locks, Lookout, News, Presence,
    Term, Timing,
};
use crate::store::{Store, StoreError};
use crate::time::Wall;

#[cfg(feature = "tokio-cron-scheduler")]
mod cron;
#[cfg(feature = "tokio-cron-scheduler")]
pub use cron::CronError;

/// How many TTLs an occurrence waits for the end of a hand-over: a crashed holder is replaced within one.
const PATIENCE_TTLS: u32 = 2;

/// How long an instance that stops waits for work that was asked to end.
const HEEDED_WITHIN: Duration = Duration::from_secs(1);

/// How far ahead of this machine's clock a claimed instant may be before it is warned of.
const AHEAD: Duration = Duration::from_secs(60);

/// The longest name of a job, in bytes.
const JOB_BYTES: usize = 100;

/// One instance's candidacy for as long as the service runs. Cheap to clone: clones are the same candidacy.
///
/// When the last clone is dropped, jobs among them, the session is left to run out, as a crash would;
/// [`Elected::stop`] ends in order.
#[derive(Clone, Debug)]
#[must_use = "dropped, it stands for election no more: keep it for as long as the service runs"]
pub struct Elected<S> {
    shared: Arc<Shared<S>>,
    _driver: Arc<AbortOnDropHandle<()>>,
}

/// A term of this instance, while it lasts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Led {
    /// The proof and the fence.
    pub term: Term,
    /// Cancelled when the term is over, or may be.
    pub signal: CancellationToken,
    lookout: Lookout,
}

/// A job of which each occurrence is done once, by the elected instance. See [`Elected::job`].
#[derive(Debug)]
pub struct ElectedJob<S> {
    /// A job keeps the candidacy up.
    elected: Elected<S>,
    name: Arc<str>,
    claims: Claims<S>,
    /// The latest instant that was asked for, in milliseconds since the epoch.
    latest: AtomicI64,
}

/// A text that cannot be the name of a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the name of a job: use 1 to {JOB_BYTES} letters, digits, `.`, `_` or `-`, beginning with a letter or a \
     digit"
)]
pub struct NotAJobName(String);

/// An occurrence that this instance alone does. While it lives, [`Elected::stop`] waits for it.
#[derive(Debug)]
pub struct Claimed {
    job: Arc<str>,
    scheduled_at: Wall,
    node: Arc<str>,
    led: Led,
    _running: TaskTrackerToken,
}

#[derive(Debug)]
struct Shared<S> {
    locks: Locks<S>,
    lock: LockName,
    node: Arc<str>,
    timing: Timing,
    led: watch::Sender<Option<Led>>,
    /// What is claimed or about to be.
    running: TaskTracker,
    /// Nothing more is claimed.
    stopping: CancellationToken,
    /// Nothing runs any more that is waited for.
    drained: CancellationToken,
    /// The session is closed.
    stopped: CancellationToken,
}

impl<S: Store> Elected<S> {
    /// Stands for election for the lock `lock`, in the background, as the instance `node`, from now until
    /// [`Elected::stop`]. An instance that crashes is replaced within the TTL of `timing`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(locks: &Locks<S>, lock: LockName, node: &str, timing: Timing) -> Elected<S> {
        Elected::driven_by(Driver::Thread, locks, lock, node, timing)
    }

    /// As [`Elected::start`], and has the session kept alive by `driver`: a simulation, whose time is its runtime's, keeps
    /// it by a task.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn driven_by(driver: Driver, locks: &Locks<S>, lock: LockName, node: &str, timing: Timing) -> Elected<S> {
        let shared = Arc::new(Shared {
            locks: locks.clone(),
            lock,
            node: node.into(),
            timing,
            led: watch::Sender::new(None),
            running: TaskTracker::new(),
            stopping: CancellationToken::new(),
            drained: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        let driver = AbortOnDropHandle::new(tokio::spawn(stand(Arc::clone(&shared), driver)));
        Elected { shared, _driver: Arc::new(driver) }
    }

    /// The terms of this instance, as they begin and end: `None` while another instance is elected, or none.
    ///
    /// To look whether this instance is elected and then to act proves nothing: compare the term's hold in the
    /// transaction that acts, or claim.
    pub fn terms(&self) -> watch::Receiver<Option<Led>> {
        self.shared.led.subscribe()
    }

    /// The election of this candidacy: the elected instance, and the waiters.
    pub fn election(&self) -> Election<S> {
        self.shared.locks.election(self.shared.lock.clone())
    }

    /// For how long a claim that is made while no instance is elected waits for the end of the hand-over: two TTLs.
    pub fn patience(&self) -> Duration {
        self.shared.timing.ttl() * PATIENCE_TTLS
    }

    /// The job `name`, the same on all instances: it distinguishes its occurrences from those of other jobs.
    ///
    /// # Errors
    ///
    /// Where `name` is not 1 to 100 letters, digits, `.`, `_` or `-`, beginning with a letter or a digit.
    pub fn job(&self, name: &str) -> Result<ElectedJob<S>, NotAJobName> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if name.len() > JOB_BYTES || !begins_well || !name.chars().all(plain) {
            return Err(NotAJobName(name.chars().take(JOB_BYTES + 1).collect()));
        }
        Ok(ElectedJob {
            elected: self.clone(),
            name: name.into(),
            claims: Claims::new(self.shared.locks.clone(), &self.shared.lock, name),
            latest: AtomicI64::new(i64::MIN),
        })
    }

    /// Claims nothing more, waits for what runs, for `grace` at most, and resigns: another instance is elected at once.
    /// Work that still runs after `grace` is asked to end, by its signal, and `stop` waits a moment longer for it.
    ///
    /// Called again, it goes on where it was.
    pub async fn stop(&self, grace: Duration) {
        let shared = &self.shared;
        shared.stopping.cancel();
        shared.running.close();
        if tokio::time::timeout(grace, shared.running.wait()).await.is_err() {
            let runs = shared.running.len();
            tracing::warn!(node = %shared.node, runs, "what still runs after {grace:?} is asked to end");
            if let Some(led) = &*shared.led.borrow() {
                led.signal.cancel();
            }
            if tokio::time::timeout(HEEDED_WITHIN, shared.running.wait()).await.is_err() {
                tracing::warn!(node = %shared.node, "resigning although something runs on");
            }
        }
        shared.drained.cancel();
        shared.stopped.cancelled().await;
    }
}

impl<S: Store> ElectedJob<S> {
    /// The name of the job.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Claims the occurrence of the instant `at`, which has to be the same for all instances: what a schedule names, not
    /// what time it is now.
    ///
    /// `None` where it is not this instance's to do: another is elected; it or a later one was claimed before; a later
    /// one was asked for meanwhile; or the instance is stopping. Only the elected instance is answered at once: all
    /// others might come to be it, so they wait, for [`Elected::patience`] at most. Dropping the future earlier may
    /// leave the occurrence claimed, and not done; so may a store that does not answer for as long as that.
    ///
    /// # Errors
    ///
    /// Where the store refuses. A store that does not answer is asked again, for as long as the patience lasts.
    pub async fn claim(&self, at: Wall) -> Result<Option<Claimed>, StoreError> {
        let shared = &self.elected.shared;
        let running = shared.running.token();
        self.latest.fetch_max(at.as_millis(), Ordering::Relaxed);
        let Ok(taken) = tokio::time::timeout(self.elected.patience(), self.take(at)).await else {
            if shared.led.borrow().is_some() {
                tracing::warn!(job = %self.name, %at, "not run here: the store has not answered the claim in time");
            } else {
                tracing::debug!(job = %self.name, %at, "another instance is elected, or none");
            }
            return Ok(None);
        };
        Ok(taken?.map(|led| Claimed {
            job: Arc::clone(&self.name),
            scheduled_at: at,
            node: Arc::clone(&shared.node),
            led,
            _running: running,
        }))
    }

    async fn take(&self, at: Wall) -> Result<Option<Led>, StoreError> {
        let mut terms = self.elected.terms();
        let call = CallId::random();
        loop {
            let Some(led) = self.elected.shared.elected(&mut terms).await else { return Ok(None) };
            if self.latest.load(Ordering::Relaxed) > at.as_millis() {
                tracing::debug!(job = %self.name, %at, "passed over: a later one is due by now");
                return Ok(None);
            }
            let claim = tokio::select! {
                biased;
                () = led.signal.cancelled() => {
                    tracing::warn!(job = %self.name, %at, "the term ended during the claim");
                    continue;
                }
                claim = self.claims.claim(call, &led.term.hold, at) => claim?,
            };
            match claim {
                Claim::Taken if led.lookout.lost().is_none() => return Ok(Some(led)),
                Claim::Decided(until) => {
                    self.note_decided(at, until);
                    return Ok(None);
                }
                // What was claimed too late to be begun is this call's still, under the next term of this instance.
                Claim::Taken => led.signal.cancelled().await,
                // The job learns of it a little later.
                Claim::NotHeld => led.signal.cancelled().await,
            }
        }
    }

    fn note_decided(&self, at: Wall, until: Wall) {
        let now = self.elected.shared.locks.clock().wall();
        if until.since(now) > AHEAD {
            let key = self.claims.key();
            let why = "claimed by a clock that is ahead: delete the key to begin again";
            tracing::warn!(job = %self.name, %at, %until, key, why, "not run");
        } else {
            tracing::debug!(job = %self.name, %at, %until, "was claimed before");
        }
    }
}

impl Claimed {
    /// The name of the job.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// The instant of the occurrence: what the schedule named, however late it is.
    pub fn scheduled_at(&self) -> Wall {
        self.scheduled_at
    }

    /// The fence of the term: greater for every later one.
    pub fn fence(&self) -> Fence {
        self.led.term.fence()
    }

    /// What a write to the same store compares in its transaction.
    pub fn hold(&self) -> &Hold {
        &self.led.term.hold
    }

    /// Cancelled when the term is over, or may be, and when the instance stops without patience for this.
    pub fn signal(&self) -> CancellationToken {
        self.led.signal.clone()
    }

    /// What an effect carries for the guard at its target: as headers, environment variables or parameters. Its run is
    /// `<job>@<instant>`, the same on every instance.
    pub fn stamp(&self) -> Stamp {
        let run_id = format!("{}@{}", self.job, self.scheduled_at);
        let stamp = self.hold().stamp(&self.node, &run_id, self.scheduled_at);
        Stamp { job: self.job.as_ref().to_owned(), ..stamp }
    }
}

impl<S: Store> Shared<S> {
    /// The term of this instance, as soon as it has one; `None` when it stops.
    async fn elected(&self, terms: &mut watch::Receiver<Option<Led>>) -> Option<Led> {
        let lasts = |led: &Option<Led>| led.as_ref().is_some_and(|led| !led.signal.is_cancelled());
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            led = terms.wait_for(lasts) => led.ok().and_then(|led| led.clone()),
        }
    }
}

/// A term that is published until this is dropped.
struct Published {
    to: watch::Sender<Option<Led>>,
    led: Led,
    node: Arc<str>,
}

impl Published {
    fn new(to: &watch::Sender<Option<Led>>, term: &Term, signal: &HoldSignal, node: &Arc<str>) -> Published {
        let (signal, lookout) = (signal.token().child_token(), signal.lookout());
        let led = Led { term: term.clone(), signal, lookout };
        tracing::info!(lock.scope = %term.hold.scope(), lock.fence = %term.fence(), %node, "elected");
        to.send_replace(Some(led.clone()));
        Published { to: to.clone(), led, node: Arc::clone(node) }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.led.signal.cancel();
        self.to.send_replace(None);
        tracing::info!(lock.fence = %self.led.term.fence(), node = %self.node, "no longer elected");
    }
}

/// Stands for election until the instance stops.
async fn stand<S: Store>(shared: Arc<Shared<S>>, driver: Driver) {
    let _stopped = shared.stopped.clone().drop_guard();
    let presence = Presence { node: shared.node.as_ref().to_owned(), record: b"{}".to_vec() };
    let mut candidate =
        Candidate::new(&shared.locks, presence, shared.timing, driver).campaigning_for(shared.lock.clone());
    let mut published = None;
    let mut report = |candidate: &Candidate<S>, news| match news {
        News::Won(term) => {
            published = candidate.signal().map(|signal| Published::new(&shared.led, &term, signal, &shared.node));
        }
        News::TermOver(why) => {
            tracing::debug!(%why, node = %shared.node, "the term is over");
            published = None;
        }
        News::SessionOver(_) => published = None,
        News::Session(_) | News::NoSession(_) | News::Trust | News::NotWon(_) => {}
    };
    candidate.run(shared.stopping.cancelled(), &mut report).await;
    // What it leads it leads until its work has ended; another term would be of no use.
    candidate.set_gate(false);
    candidate.run(shared.drained.cancelled(), &mut report).await;
    drop(published);
    if let Err(error) = candidate.leave().await {
        tracing::debug!(%error, node = %shared.node, "the session is left to run out");
    }
}
