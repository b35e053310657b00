//! Sessions: a lease that is kept alive (by `keeper`, the shell around [`Lease`]), and what is done under it.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::contest::commit;
use super::context::LockContext;
use super::errands::Errands;
use super::hold::Caller;
use super::keys::CallId;
use super::lease::{Lease, Timing};
use super::signal::{Lost, Over};
use super::{Backoff, Locks};
use crate::store::{Compare, Entry, Keys, LeaseId, Op, Range, Revision, Store, StoreError, Txn};
use crate::time::{Boot, Clock};

mod keeper;

use keeper::{Attendance, Keeper, Kept};

/// How long a sleep may be before the boot clock is read again: timers stand still while the machine is suspended.
pub(super) const RECHECK: Duration = Duration::from_secs(1);

/// How often a closing session tries to revoke its lease, before it is left to run out.
const REVOKE_ATTEMPTS: u32 = 4;

/// How often one publication reads and writes again because of another writer or a lost answer.
const PUBLISH_ATTEMPTS: u32 = 8;

/// How many delays the locks of one session may have.
const DELAYS_MOST: usize = 64;

/// The node that opens a session.
#[derive(Clone, Debug)]
pub struct Presence {
    /// The node's name, which its holds and its place in queues show.
    pub node: String,
    /// What the session's key holds for the others to read.
    pub record: Vec<u8>,
}

/// What keeps a session alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A thread of its own, with a runtime and a connection of its own: a busy process cannot starve it.
    Thread,
    /// A task of the calling runtime: for simulations, whose time is that runtime's.
    Task,
}

/// Until when a session may be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    pub lease: LeaseId,
    /// Past this instant of the boot clock nothing new may be started. It moves on with every acknowledged keep-alive,
    /// also after it has passed: a lapse is not an end.
    pub trusted_until: Boot,
    /// The session is over, for good.
    pub ended: Option<SessionEnd>,
}

impl Trust {
    /// Whether the session may be acted on at `now`.
    pub fn holds(&self, now: Boot) -> bool {
        self.lost(now).is_none()
    }

    /// Why nothing may be done under the session at `now`, if so. The caller compares the clock: the thread that keeps
    /// the session alive may not have run yet to publish it, and is late by as much as the machine is busy.
    pub fn lost(&self, now: Boot) -> Option<Lost> {
        match self.ended {
            Some(why) => Some(Lost::SessionEnded(why)),
            None => (now >= self.trusted_until).then_some(Lost::TrustLapsed),
        }
    }
}

/// Called with every change of a session's trust by the thread that keeps it alive.
#[derive(Clone, Default)]
pub(super) struct TrustListener(Option<Arc<Listener>>);

type Listener = dyn Fn(&Trust) + Send + Sync;

impl TrustListener {
    pub(super) fn new(listener: impl Fn(&Trust) + Send + Sync + 'static) -> TrustListener {
        TrustListener(Some(Arc::new(listener)))
    }

    fn notify(&self, trust: &Trust) {
        if let Some(listener) = &self.0 {
            listener(trust);
        }
    }
}

impl fmt::Debug for TrustListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustListener").field(&self.0.is_some()).finish()
    }
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionEnd {
    #[error("the store says that its lease has ended")]
    Refused,
    #[error("its key was deleted from the store")]
    KeyGone,
    #[error("it was closed")]
    Closed,
    #[error("what kept it alive has stopped")]
    Unattended,
}

/// Why a session could not be opened or used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    #[error("the session (lease {lease}) is over: {why}")]
    Ended { lease: LeaseId, why: SessionEnd },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot start the thread that keeps the session alive: {0}")]
    Thread(#[source] Arc<io::Error>),
}

impl SessionError {
    /// Whether another attempt, unchanged, may open a session: the store is away, or was so slow that the session ended as
    /// it began.
    pub fn is_passing(&self) -> bool {
        match self {
            SessionError::Store(error) => error.is_passing(),
            SessionError::Ended { .. } => true,
            SessionError::Thread(_) => false,
        }
    }
}

/// A node's leased presence in the store. See [`Locks::open_session`].
///
/// Dropping it stops the keep-alive and leaves the lease to run out, as a crash would.
#[derive(Debug)]
pub struct Session<S> {
    locks: Locks<S>,
    node: String,
    lease: LeaseId,
    key: String,
    created: Revision,
    trust: watch::Receiver<Trust>,
    attendance: Attendance,
    timing: Timing,
    delays: Delays,
    errands: Errands,
    over: Over<SessionEnd>,
}

impl<S: Store> Session<S> {
    pub(super) async fn open(
        locks: &Locks<S>,
        presence: Presence,
        timing: Timing,
        driver: Driver,
    ) -> Result<Session<S>, SessionError> {
        locks.found().await?;
        // A call for a hold under it fails with the reason; the node is visible all the same.
        locks.verify().await?.ok();
        let asked_at = locks.clock.boot();
        let (id, ttl) = Box::pin(locks.store.grant(timing.ttl())).await?;
        let lease = Lease::granted(timing, asked_at, ttl);
        let key = locks.namespace.session_key(id);
        let registered = register(locks, &key, presence.record, (id, &lease)).await;
        if registered.is_err() {
            revoke_unused(locks, id).await;
        }
        let created = registered?;
        let trust = watch::Sender::new(Trust { lease: id, trusted_until: lease.trusted_until(), ended: None });
        let receiver = trust.subscribe();
        let attendance = Attendance::default();
        let (store, clock) = (locks.store.clone(), locks.clock.clone());
        // What ends with the trust must learn of it before anything is begun under it.
        locks.trust_listener.notify(&receiver.borrow());
        let (listener, over) = (locks.trust_listener.clone(), Over::default());
        let (delays, errands) = (Delays::default(), Errands::default());
        let kept = Kept {
            attendance: attendance.clone(),
            delays: delays.clone(),
            errands: errands.clone(),
            over: over.clone(),
        };
        let keeper = Keeper { store, clock, id, timing, lease, trust, listener, kept };
        match driver {
            Driver::Thread => keeper.on_a_thread().map_err(|error| SessionError::Thread(Arc::new(error)))?,
            Driver::Task => drop(tokio::spawn(keeper.run())),
        }
        tracing::debug!(session.lease = %id, session.node = %presence.node, "opened a session");
        let (locks, node) = (locks.clone(), presence.node);
        Ok(Session { locks, node, lease: id, key, created, trust: receiver, attendance, timing, delays, errands, over })
    }

    /// The lease that everything of this session hangs on.
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Reports that the user of the session is alive, as of `now`. Once this was called, the session is kept alive only
    /// as long as the calls go on: after twice the TTL without one the lease is left to run out. So a node that hangs
    /// while its keep-alive thread runs on does not keep the others out.
    pub fn attend(&self, now: Boot) {
        self.attendance.note(now);
    }

    /// The session's trust, as it changes. Where the channel closes without [`Trust::ended`], the driver has died:
    /// trust then lapses by itself.
    pub fn trust(&self) -> watch::Receiver<Trust> {
        self.trust.clone()
    }

    /// Waits until the session is over.
    pub async fn ended(&self) -> SessionEnd {
        ended(self.trust.clone()).await
    }

    /// Replaces the record that the others see of this node.
    ///
    /// # Errors
    ///
    /// [`SessionError::Ended`] where the session's key is no longer there: it is never put again, and the session's
    /// trust ends for all that rely on it.
    pub async fn publish(&self, record: Vec<u8>) -> Result<(), SessionError> {
        let mut backoff = Backoff::new();
        let mut failed =
            StoreError::Refused(format!("the record `{}` keeps changing under this publication", self.key));
        for _ in 0..PUBLISH_ATTEMPTS {
            match self.publish_once(&record).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(SessionError::Store(error)) if error.is_passing() => failed = error,
                Err(error) => {
                    if let SessionError::Ended { why, .. } = error {
                        self.over.end(why);
                    }
                    return Err(error);
                }
            }
            backoff.wait().await;
        }
        Err(SessionError::Store(failed))
    }

    /// Reads what the record replaces first, so that a publication that arrives late cannot undo a later one.
    async fn publish_once(&self, record: &[u8]) -> Result<bool, SessionError> {
        let page = Box::pin(self.locks.store.range(Range::of(Keys::one(self.key.as_str())))).await?;
        let standing = page.entries.first().filter(|entry| entry.created == self.created);
        let Some(Entry { value, modified, .. }) = standing else {
            return Err(SessionError::Ended { lease: self.lease, why: SessionEnd::KeyGone });
        };
        if value == record {
            return Ok(true);
        }
        let put = Txn::new().when(Compare::modified_at(self.key.as_str(), *modified)).then(Op::put_leased(
            self.key.as_str(),
            record,
            self.lease,
        ));
        match commit(&self.locks.store, put).await {
            Ok(committed) => Ok(committed.succeeded),
            Err(StoreError::LeaseEnded(lease)) => Err(SessionError::Ended { lease, why: SessionEnd::Refused }),
            Err(error) => Err(SessionError::Store(error)),
        }
    }

    /// Ends the session now: stops the keep-alive, then revokes the lease, so that no waiter has to wait for it to run
    /// out. What the session held goes with it.
    ///
    /// # Errors
    ///
    /// Where the store does not answer: the lease then ends by itself, within its TTL.
    pub async fn close(&self) -> Result<(), StoreError> {
        let Session { locks, lease, delays, .. } = self;
        self.over.end(SessionEnd::Closed);
        let mut trust = self.trust.clone();
        // The channel closes when the driver is gone: no keep-alive can follow the revocation.
        while trust.changed().await.is_ok() {}
        for delay in delays.leases() {
            revoke_unused(locks, delay).await;
        }
        let mut backoff = Backoff::new();
        let mut attempt = 1;
        loop {
            match Box::pin(locks.store.revoke(*lease)).await {
                Err(error) if error.is_passing() && attempt < REVOKE_ATTEMPTS => attempt += 1,
                result => return result,
            }
            backoff.wait().await;
        }
    }

    pub(super) fn caller(&self, call: CallId) -> Caller {
        self.member().caller(call)
    }

    /// A new owner of locks: see [`LockContext`]. Two contexts of one session keep each other out as those of two
    /// sessions do.
    pub fn context(&self) -> LockContext {
        LockContext::new(self.member())
    }

    pub(super) fn member(&self) -> Member {
        Member {
            node: self.node.clone(),
            lease: self.lease,
            session_key: self.key.clone(),
            session_created: self.created,
            trust: self.trust.clone(),
            timing: self.timing,
            delays: self.delays.clone(),
            errands: self.errands.clone(),
            over: self.over.clone(),
        }
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        self.over.end(SessionEnd::Closed);
    }
}

/// What acts in the name of a session: everything that there is to know of it, without what keeps it alive.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub node: String,
    pub lease: LeaseId,
    pub trust: watch::Receiver<Trust>,
    /// What is left to do in its name.
    pub errands: Errands,
    session_key: String,
    session_created: Revision,
    timing: Timing,
    delays: Delays,
    over: Over<SessionEnd>,
}

impl Member {
    /// The store has shown that the session is over, although its keep-alives may be answered: its key or its lease is
    /// gone. All that relies on the session's trust ends with this, not only the call that found it.
    pub fn end(&self, why: SessionEnd) {
        if self.is_over().is_none() {
            tracing::warn!(session.lease = %self.lease, "the session is over: {why}");
        }
        self.over.end(why);
    }

    pub fn caller(&self, call: CallId) -> Caller {
        Caller {
            call,
            node: self.node.clone(),
            lease: self.lease,
            session_key: self.session_key.clone(),
            session_created: self.session_created,
            delay: None,
        }
    }

    /// Why nothing may be handed out under the session at this moment, where that is so.
    pub fn lost(&self, clock: &Clock) -> Option<Lost> {
        self.trust.borrow().lost(clock.boot())
    }

    /// Why the session is over, where it is.
    pub fn is_over(&self) -> Option<SessionEnd> {
        let ended = self.trust.borrow().ended;
        ended.or_else(|| self.trust.has_changed().is_err().then_some(SessionEnd::Unattended))
    }

    /// Waits until the session is over.
    pub async fn ended(&self) -> SessionEnd {
        ended(self.trust.clone()).await
    }

    /// A lease that is kept alive together with the session's, and that runs out `delay` after it, or a little later.
    pub async fn delayed<S: Store>(&self, store: &S, delay: Duration) -> Result<LeaseId, StoreError> {
        if let Some(lease) = self.delays.of(delay) {
            return Ok(lease);
        }
        // It may have been kept alive one question earlier than the session's lease was.
        let (lease, _) = Box::pin(store.grant(self.timing.ttl() + delay + self.timing.renew_every())).await?;
        if self.delays.add(delay, lease) {
            return Ok(lease);
        }
        Err(StoreError::Refused(format!("the locks of one session may have {DELAYS_MOST} different delays, no more")))
    }

    /// The lease has ended all the same: the next hold gets another.
    pub fn forget_delay(&self, lease: LeaseId) {
        self.delays.forget(lease);
    }
}

async fn ended(mut trust: watch::Receiver<Trust>) -> SessionEnd {
    match trust.wait_for(|trust| trust.ended.is_some()).await {
        Ok(trust) => trust.ended.unwrap_or(SessionEnd::Unattended),
        Err(_) => SessionEnd::Unattended,
    }
}

/// The leases that outlive a session that crashes, each by its delay.
#[derive(Clone, Debug, Default)]
struct Delays(Arc<Mutex<Vec<(Duration, LeaseId)>>>);

impl Delays {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<(Duration, LeaseId)>) -> T) -> T {
        act(&mut self.0.lock().expect("no code panics while it holds this"))
    }

    fn of(&self, delay: Duration) -> Option<LeaseId> {
        self.with(|delays| delays.iter().find(|(found, _)| *found == delay).map(|(_, lease)| *lease))
    }

    fn add(&self, delay: Duration, lease: LeaseId) -> bool {
        self.with(|delays| {
            let has_room = delays.len() < DELAYS_MOST;
            delays.extend(has_room.then_some((delay, lease)));
            has_room
        })
    }

    fn leases(&self) -> Vec<LeaseId> {
        self.with(|delays| delays.iter().map(|(_, lease)| *lease).collect())
    }

    fn forget(&self, lease: LeaseId) {
        self.with(|delays| delays.retain(|(_, found)| *found != lease));
    }
}

/// Puts the session's key, once, and answers when it came to be.
async fn register<S: Store>(
    locks: &Locks<S>,
    key: &str,
    record: Vec<u8>,
    (id, lease): (LeaseId, &Lease),
) -> Result<Revision, SessionError> {
    let put =
        Txn::new().when(Compare::absent(Keys::one(key))).then(Op::put_leased(key, record, id)).otherwise(Op::get(key));
    let mut backoff = Backoff::new();
    loop {
        match commit(&locks.store, put.clone()).await {
            Ok(committed) if committed.succeeded => return Ok(committed.revision),
            // The lease is ours alone, so what stands there is what an attempt whose answer was lost has put.
            Ok(committed) => match committed.got(0).and_then(<[Entry]>::first) {
                Some(entry) if entry.lease == Some(id) => return Ok(entry.created),
                _ => return Err(StoreError::Unusable(format!("`{key}` was written by another hand")).into()),
            },
            Err(StoreError::LeaseEnded(lease)) => return Err(SessionError::Ended { lease, why: SessionEnd::Refused }),
            Err(error) if error.is_passing() && locks.clock.boot() < lease.trusted_until() => {
                tracing::debug!(%error, "registering the session again");
            }
            Err(error) => return Err(error.into()),
        }
        backoff.wait().await;
    }
}

async fn revoke_unused<S: Store>(locks: &Locks<S>, lease: LeaseId) {
    if let Err(error) = Box::pin(locks.store.revoke(lease)).await {
        tracing::debug!(%error, session.lease = %lease, "a lease that is not used is left to run out");
    }
}
