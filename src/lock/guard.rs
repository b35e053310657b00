//! Holds that end by themselves: guards, and bodies that run under a lock.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::context::LockContext;
use super::fenced::{FencedLock, LockError, Patience};
use super::hold::Hold;
use super::signal::{HoldSignal, SignalSource};
use crate::fence::Fence;
use crate::store::Store;

/// One `lock` of a context, unlocked when this is dropped.
///
/// What dropping can and cannot promise: it cannot wait, so it only leaves the release to the task or thread that keeps
/// the session alive, and no error is returned. A guard may be dropped in any runtime, or outside of one. The lock is free
/// a little later; the context's next operation on it settles it before anything else. When the store refuses the release
/// again and again, an error is logged, and the lock is held until the session ends. If you must know that the lock is
/// free, call [`LockGuard::unlock`] and check its answer.
#[derive(Debug)]
pub struct LockGuard<'a, S: Store> {
    lock: FencedLock<S>,
    context: Owner<'a>,
    hold: Hold,
    /// The context may have lost the hold, or unlocked it, by the time that it is asked for its signal.
    signals: SignalSource<S>,
    open: bool,
}

/// The context that holds the lock.
#[derive(Debug)]
enum Owner<'a> {
    Borrowed(&'a mut LockContext),
    /// It does nothing else, and goes with the guard.
    Owned(Box<LockContext>),
}

impl Deref for Owner<'_> {
    type Target = LockContext;

    fn deref(&self) -> &LockContext {
        match self {
            Owner::Borrowed(context) => context,
            Owner::Owned(context) => context,
        }
    }
}

impl DerefMut for Owner<'_> {
    fn deref_mut(&mut self) -> &mut LockContext {
        match self {
            Owner::Borrowed(context) => context,
            Owner::Owned(context) => context,
        }
    }
}

/// What a body that runs under a lock is given.
#[derive(Debug)]
#[non_exhaustive]
pub struct HeldLock {
    /// The proof and the fence: what writes compare, and what effects are stamped with.
    pub hold: Hold,
    /// By which the body can pass on that it is to stop: to a child process, or to a task that it has spawned.
    pub signal: HoldSignal,
}

impl<S: Store> LockGuard<'_, S> {
    /// The fence of the hold.
    pub fn fence(&self) -> Fence {
        self.hold.fence()
    }

    /// What a write to the same store compares, and an effect elsewhere is stamped with.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// The signal by which the hold ends.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn signal(&self) -> HoldSignal {
        self.signals.signal()
    }

    pub(crate) fn signals(&self) -> SignalSource<S> {
        self.signals.clone()
    }

    /// The context, to take other locks with while this one is held.
    pub fn context(&mut self) -> &mut LockContext {
        &mut self.context
    }

    /// Unlocks, and answers whether it succeeded.
    ///
    /// # Errors
    ///
    /// As [`FencedLock::unlock`]; and [`LockError::NotTheOwner`] when the context has locked again meanwhile.
    pub async fn unlock(mut self) -> Result<(), LockError> {
        self.open = false;
        if self.context.held.get(self.lock.key()).is_some_and(|held| held.hold != self.hold) {
            return Err(LockError::NotTheOwner { lock: self.lock.name().clone() });
        }
        let unlocked = self.lock.unlock(&mut self.context).await;
        if let (Err(LockError::OutcomeUnknown { .. }), Owner::Owned(_)) = (&unlocked, &self.context) {
            // This context has no next operation that would settle it.
            drop(self.lock.contest.unreleased(&self.context.member, self.hold.clone()));
        }
        unlocked
    }
}

impl<S: Store> Drop for LockGuard<'_, S> {
    fn drop(&mut self) {
        let held = self.context.held.get_mut(self.lock.key()).filter(|held| held.hold == self.hold);
        let Some(held) = held.filter(|_| self.open) else { return };
        if held.count > 1 {
            held.count -= 1;
            return;
        }
        held.releasing = true;
        drop(self.lock.contest.unreleased(&held.member, self.hold.clone()));
    }
}

impl<S: Store> FencedLock<S> {
    /// As [`FencedLock::lock`], with a guard that unlocks when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`FencedLock::lock`].
    pub async fn guard<'a>(&self, context: &'a mut LockContext) -> Result<LockGuard<'a, S>, LockError> {
        self.lock(context).await?;
        self.guarded(Owner::Borrowed(context))
    }

    /// As [`FencedLock::try_lock_for`], with a guard that unlocks when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`FencedLock::try_lock_for`].
    pub async fn try_guard_for<'a>(
        &self,
        context: &'a mut LockContext,
        wait: Duration,
    ) -> Result<Option<LockGuard<'a, S>>, LockError> {
        match self.enter(context, Patience::of(Some(wait))).await {
            Ok(Some(_)) => self.guarded(Owner::Borrowed(context)).map(Some),
            Ok(None) | Err(LockError::LimitReached { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A guard that has its context to itself, so that it can be kept and moved. `None`: not within `wait` (zero: without
    /// waiting; `None`: as long as it takes).
    ///
    /// # Errors
    ///
    /// As [`FencedLock::lock`].
    pub(crate) async fn guard_owned(
        &self,
        mut context: LockContext,
        wait: Option<Duration>,
    ) -> Result<Option<LockGuard<'static, S>>, LockError> {
        match self.enter(&mut context, Patience::of(wait)).await? {
            Some(_) => self.guarded(Owner::Owned(Box::new(context))).map(Some),
            None => Ok(None),
        }
    }

    fn guarded<'a>(&self, context: Owner<'a>) -> Result<LockGuard<'a, S>, LockError> {
        let Some(held) = context.held.get(self.key()) else {
            return Err(LockError::NotTheOwner { lock: self.name().clone() });
        };
        let (hold, signals) = (held.hold.clone(), held.signals(&self.contest.locks));
        Ok(LockGuard { lock: self.clone(), context, hold, signals, open: true })
    }

    /// Runs `body` under the lock, and unlocks. As soon as the hold is over, or may be, `body` is cancelled: it is dropped
    /// at its next `await`. What it has spawned or started elsewhere it has to stop by [`HeldLock::signal`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use fencron::lock::{Config, Driver, LockName, Locks, Namespace, Presence, Seen, Timing};
    /// # use fencron::store::memory::MemoryStore;
    /// # use fencron::time::Clock;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let clock = Clock::system();
    /// # let locks = Locks::new(MemoryStore::new(clock.clone()), clock, Namespace::new("shop")?, Seen::default());
    /// # let timing = Timing::from_ttl(Duration::from_secs(10))?;
    /// # let presence = Presence { node: "a".into(), record: b"{}".to_vec() };
    /// # let session = locks.open_session(presence, timing, Driver::Thread).await?;
    /// let lock = locks.fenced(LockName::new("invoices")?, Config::default());
    /// let mut context = session.context();
    /// let sent = lock.with_lock(&mut context, async |held| {
    ///     println!("sending under fence {}", held.hold.fence());
    ///     7
    /// }).await?;
    /// assert_eq!(sent, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`FencedLock::lock`]; and [`LockError::OwnershipLost`] where the hold ended before `body` did, which may have
    /// done everything by then, or nothing. A lost answer to the unlocking alone is no error: it is settled later.
    pub async fn with_lock<T>(
        &self,
        context: &mut LockContext,
        body: impl AsyncFnOnce(&HeldLock) -> T,
    ) -> Result<T, LockError> {
        let mut guard = self.guard(context).await?;
        let holding = HeldLock { hold: guard.hold.clone(), signal: guard.signal() };
        let done = tokio::select! {
            biased;
            why = holding.signal.lost() => Err(why),
            value = body(&holding) => Ok(value),
        };
        match done {
            Ok(value) => match guard.unlock().await {
                Ok(()) => Ok(value),
                Err(LockError::OutcomeUnknown { source, .. }) => {
                    tracing::warn!(error = %source, lock.scope = %holding.hold.scope(), "the unlocking is settled later");
                    Ok(value)
                }
                Err(error) => Err(error),
            },
            Err(why) => {
                if let Some(held) = guard.context.held.get_mut(self.key()) {
                    // An outer lock of the same context has lost the same hold.
                    held.reported = held.count == 1;
                }
                drop(guard);
                Err(self.lost(holding.hold.fence(), why))
            }
        }
    }
}
