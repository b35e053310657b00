//! Sessions, locks and leadership: which node may act, under which fence, and for how long.
//!
//! A program opens a session ([`Locks::open_session`]) and contends with it: for a [`FencedLock`] by a [`LockContext`],
//! for the leadership of an [`Election`], for the permits of a [`Semaphore`]. `docs/locks.md` describes what each of
//! them promises.
//!
//! ```
//! use std::time::Duration;
//! use fencron::lock::{Config, Driver, LockName, Locks, Namespace, Presence, Seen, Timing};
//! use fencron::store::memory::MemoryStore;
//! use fencron::time::Clock;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let clock = Clock::system();
//! let store = MemoryStore::new(clock.clone());
//! let locks = Locks::new(store, clock, Namespace::new("shop")?, Seen::default());
//! let presence = Presence { node: "a".into(), record: b"{}".to_vec() };
//! let session = locks.open_session(presence, Timing::from_ttl(Duration::from_secs(10))?, Driver::Thread).await?;
//!
//! // One at a time, in the order of arrival; every write outside of the store carries the fence.
//! let lock = locks.fenced(LockName::new("orders/4711")?, Config::default());
//! let mut context = session.context();
//! let fence = lock.lock_and_get_fence(&mut context).await?;
//! assert_eq!(lock.lock_and_get_fence(&mut context).await?, fence, "the same hold, entered again");
//! lock.unlock(&mut context).await?;
//! lock.unlock(&mut context).await?;
//!
//! // At most two at a time.
//! let semaphore = locks.semaphore(LockName::new("exports")?, 2);
//! let permits = semaphore.acquire(&session, 1).await?;
//! assert_eq!(semaphore.state().await?.available(), 1);
//! permits.release().await?;
//!
//! // Leading: again and again, until the session ends or the closure answers a value.
//! let election = locks.election(LockName::new("reports")?);
//! let led = election.lead(&session, async |term, _signal| Some(term.fence() > fence)).await?;
//! assert!(led, "revisions only grow, so do the fences that are made of them");
//! session.close().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Model
//!
//! A node opens a [`Session`]: a lease in the store, kept alive, and a key under it that shows the other nodes its
//! presence. With the session the node contends for locks; the lock named `leader` is the leadership ([`Election`]).
//! The waiters of a lock form a queue, first come, first served. Each waiter watches only the place before its own, so
//! that a change wakes one waiter. The first waiter is granted the lock while it has no holder, in one transaction, and
//! the revision of that transaction makes the **fence**:
//!
//! ```text
//! fence = base + creation revision of the owner's key
//! ```
//!
//! `base` is a key of the namespace that every grant compares. Revisions only grow, so a later hold has a greater
//! fence, under any holder, and also after keys were deleted in between.
//!
//! A hold is not a belief. It is a comparison ([`Hold::still_held`]) that every write made under it carries in its own
//! transaction. No code asks "am I the leader?" and then acts.
//!
//! # States of a session's leadership
//!
//! ```text
//!               campaign                first, and it has no holder
//!   follower ──────────────▶ waiting ──────────────────────────────▶ leading ◀──────────┐
//!      ▲                        │                                     │   │             │ acknowledged, and the
//!      │   withdraw, or the     │                    no keep-alive    │   │             │ owner's key still stands
//!      ├──── session ended ─────┘                    acknowledged     │   │             │
//!      │                                             in time          │   └──────▶ untrusted
//!      │      resign, or the session ended, or an operator            │                 │
//!      └────────────── deleted the owner's key ───────────────────────┴─────────────────┘
//! ```
//!
//! *untrusted* is a lapse, not a loss: nothing new is started and nothing is written off. The store may have given the
//! lock away, or may just be slow to say that it has not.
//!
//! # Trust window
//!
//! ```text
//! trusted until = when the last acknowledged keep-alive was SENT + TTL - margin        on the boot clock
//! ```
//!
//! The window is counted from the request, so that a slow answer never lengthens it. It runs on the boot clock, so that
//! a machine that was suspended does not trust a lease that ended meanwhile. It is shorter by a margin
//! ([`Timing::margin`]), for clocks that run at different rates and for the time that stopping takes. Within the window
//! a node may start what needs no transaction. After it, the fence protects the target of the effect. `lock/lease.rs`,
//! which knows no clock and no store, decides the window and when to send keep-alives. [`Driver::Thread`] sends them
//! from a thread of their own, which a busy runtime cannot starve.
//!
//! # What goes wrong, and what happens then
//!
//! | what | then |
//! | --- | --- |
//! | an answer is lost | the call looks again: its id in the queue or in the owner's record shows how far it came. A call takes effect once |
//! | a request is applied late, or twice | its comparisons fail (table in `lock/hold.rs`) |
//! | a campaign is dropped half-way | it may still win: [`Election::withdraw`] it, or campaign again under the same [`CallId`], which adopts what was won |
//! | the lease ends while its owner waits | the grant compares the session's key: it never wins |
//! | the process stands still past its trust, then reads what it was granted | the clock is checked last (`lock/handout.rs`): the lock is given back, and the call reports it as lost |
//! | the process dies | its lease ends, and everything under it goes |
//! | an operator deletes the owner's key | the hold is over: its writes fail, it is never put again; the next waiter gets a greater fence |
//! | an operator deletes `base` | nothing is granted: [`FenceBaseError`], `fencron fence repair` |
//! | the same, and a context held the lock | its next operation says [`LockError::OwnershipLost`], once |
//! | a future or a guard of a lock is dropped | the call is taken back in the background, and by the context's next operation at the latest |
//! | an operator deletes the session's key | the first call that misses it ends the session for all its users: [`Trust::ended`], and all signals |
//! | a key without a lease lies in the way | it is reported, in the log and as an [`Obstacle`] of [`Election::observe`], until it is deleted |
//! | the store was restored from a backup | a process that has [`Seen`] more refuses it, and makes all others refuse it: [`StoreWentBack`], `fencron fence repair` |
//! | the store is unavailable | calls go on trying, with pauses; trust lapses by itself |
//!
//! # Failure handling by the caller
//!
//! A session that ended ([`Trust::ended`]) does not come back: stop what runs, drop it, and open another. A session
//! that is dropped without [`Session::close`] leaves its lease to run out, as a crash would.

use std::sync::Arc;

use tokio::sync::watch;

use crate::store::Store;
use crate::time::Clock;

mod backoff;
mod candidacy;
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "nodes and commands use all of it"))]
mod candidate;
mod claim;
mod contest;
mod context;
mod election;
mod errands;
mod fenced;
mod guard;
mod handout;
mod hold;
mod kept;
mod keys;
mod lease;
mod line;
mod lineage;
mod list;
mod memory;
mod permits;
mod repair;
mod seen;
mod semaphore;
mod session;
mod signal;
#[cfg(feature = "cli")]
mod tally;

#[cfg(test)]
mod tests;

pub(crate) use backoff::Backoff;
#[cfg(feature = "jobs")]
pub(crate) use backoff::{Outage, Reports};
pub(crate) use candidate::{Candidate, News};
pub(crate) use claim::{Claim, Claims};
pub use context::{HeldBy, LockContext, Progress, WaitCanceller};
pub use election::{CampaignError, Election, ElectionState, Leader, MOST_SET_BACK, Resigned, StepDownError, Term};
pub use fenced::{Config, DESTROYED_SHOWS, FencedLock, LockError, Reentrancy};
pub use guard::{HeldLock, LockGuard};
#[cfg(feature = "jobs")]
pub(crate) use hold::owned_since;
pub use hold::{FENCE_LIMIT, FenceBaseError, Hold};
pub use kept::KeptSession;
pub use keys::{CallId, LockKind, LockName, NAMESPACES_LISTED, Namespace, NotALockName, NotANamespace};
#[cfg(feature = "jobs")]
pub(crate) use keys::{escaped, unescaped};
pub use lease::{BadTtl, Lease, Renewal, Timing};
pub use line::{Obstacle, Reason, Waiter};
pub use lineage::Link;
pub use list::{Bar, LOCKS_LISTED, Listing, LockListed, SemaphoreListed};
pub use permits::PERMITS_MOST;
pub use repair::Repaired;
pub use seen::{Seen, SeenFile, SeenFileError, StoreWentBack};
pub use semaphore::{Permits, PermitsHeld, Semaphore, SemaphoreError, SemaphoreState};
pub use session::{Driver, Presence, Session, SessionEnd, SessionError, Trust};
pub use signal::{HoldSignal, Lost};
pub(crate) use signal::{Lookout, SignalSource};
#[cfg(feature = "cli")]
pub(crate) use tally::{Tallied, Tally};

/// The sessions and locks of one namespace of one store, and what this process has seen of them. Cheap to clone; clones
/// share what they have seen.
///
/// ```
/// use std::time::Duration;
/// use fencron::lock::{CallId, Driver, LockName, Locks, Namespace, Presence, Seen, Timing};
/// use fencron::store::{Op, Store, Txn, memory::MemoryStore};
/// use fencron::time::Clock;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let clock = Clock::system();
/// let store = MemoryStore::new(clock.clone());
/// let locks = Locks::new(store.clone(), clock.clone(), Namespace::new("shop")?, Seen::default());
///
/// let timing = Timing::from_ttl(Duration::from_secs(10))?;
/// let presence = Presence { node: "a".into(), record: b"{}".to_vec() };
/// let session = locks.open_session(presence, timing, Driver::Thread).await?;
///
/// let election = locks.election(LockName::new("report")?);
/// let term = election.campaign(&session, CallId::random()).await?;
/// assert!(session.trust().borrow().holds(clock.boot()));
///
/// let write = term.hold.still_held().into_iter().fold(Txn::new(), Txn::when).then(Op::put("/my/key", "done"));
/// assert!(store.commit(write).await?.succeeded);
///
/// election.resign(&term).await?;
/// session.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Locks<S> {
    store: S,
    clock: Clock,
    namespace: Namespace,
    seen: watch::Sender<Seen>,
    /// The fence base as it was last read.
    base: watch::Sender<Option<hold::Base>>,
    kept_in: Option<Arc<memory::Kept>>,
    trust_listener: session::TrustListener,
    calls: keys::Calls,
}

impl<S: Store> Locks<S> {
    /// The locks of `namespace` in `store`, for a node that remembers `seen` of it (from its [`SeenFile`]).
    pub fn new(store: S, clock: Clock, namespace: Namespace, seen: Seen) -> Locks<S> {
        let (seen, base) = (watch::Sender::new(seen), watch::Sender::new(None));
        let (trust_listener, calls) = (session::TrustListener::default(), keys::Calls::default());
        Locks { store, clock, namespace, seen, base, kept_in: None, trust_listener, calls }
    }

    /// Numbers the calls that are made through this and its clones from `first` on, instead of drawing each number at
    /// random: for a simulation, which has to go the same way when it is repeated. No other process may use the same
    /// numbers.
    #[must_use]
    pub fn numbering_calls_from(mut self, first: CallId) -> Locks<S> {
        self.calls = keys::Calls::from(first);
        self
    }

    /// Saves what was seen in `file` whenever something was granted, before it is handed out.
    #[must_use]
    pub fn kept_in(mut self, file: SeenFile) -> Locks<S> {
        self.kept_in = Some(Arc::new(memory::Kept::new(file)));
        self
    }

    /// Calls `listener` with every change of a session's trust, from the first one on and before anything else learns
    /// of the change. The call comes from the thread that keeps the session alive, so that no extension is missed or
    /// delayed while the process is busy. The listener must return quickly.
    #[must_use]
    pub fn on_trust(mut self, listener: impl Fn(&Trust) + Send + Sync + 'static) -> Locks<S> {
        self.trust_listener = session::TrustListener::new(listener);
        self
    }

    /// The same locks through another handle of the same store, made of the one before: one that counts, for example.
    pub fn through<T: Store>(self, handle: impl FnOnce(S) -> T) -> Locks<T> {
        let Locks { store, clock, namespace, seen, base, kept_in, trust_listener, calls } = self;
        Locks { store: handle(store), clock, namespace, seen, base, kept_in, trust_listener, calls }
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The clock that sessions and holds are timed by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The highest state that this process has seen of the store, as it grows. Save it in a [`SeenFile`] before you act
    /// under a fence that it did not have, and now and then for the revision.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Grants a lease, registers the node under it, and keeps it alive from then on.
    ///
    /// # Errors
    ///
    /// [`SessionError::Store`] when the store does not answer. A lease may then be left, which ends by itself.
    pub async fn open_session(
        &self,
        presence: Presence,
        timing: Timing,
        driver: Driver,
    ) -> Result<Session<S>, SessionError> {
        Session::open(self, presence, timing, driver).await
    }

    /// The election whose winner holds the lock `name`.
    pub fn election(&self, name: LockName) -> Election<S> {
        Election::new(self.clone(), &name)
    }

    /// The lock `name`, for contexts of this namespace's sessions.
    pub fn fenced(&self, name: LockName, config: Config) -> FencedLock<S> {
        FencedLock::new(self.clone(), name, config)
    }

    /// The semaphore `name`, which has `permits` permits if this is the first time that it is used: what it has after that
    /// is kept in the store, and changed by [`Semaphore::set_permits`].
    pub fn semaphore(&self, name: LockName, permits: u32) -> Semaphore<S> {
        Semaphore::new(self.clone(), name, permits)
    }
}
