//! Holds with an end that cannot be forgotten: guards, and bodies that run under a lock.

use std::time::Duration;

use tokio::sync::watch;

use super::context::LockContext;
use super::fenced::{FencedLock, LockError, Patience, Unanswered};
use super::hold::Hold;
use super::session::Trust;
use super::signal::{HoldOver, HoldSignal};
use crate::fence::Fence;
use crate::store::Store;

/// One `lock` of a context, unlocked when this is dropped.
///
/// What dropping can and cannot promise: it cannot wait, so it only *sends* the release, from a task of the runtime that it
/// is dropped in, and nobody hears whether it succeeded. The lock is free a little later; the context's next operation on
/// it settles it before anything else. Where it is dropped outside of a runtime, or while that shuts down, the lock
/// is held until that next operation, or until the session ends. Where it matters, call [`LockGuard::unlock`] and look at
/// what it answers.
#[derive(Debug)]
pub struct LockGuard<'a, S: Store> {
    lock: FencedLock<S>,
    context: &'a mut LockContext,
    hold: Hold,
    /// The context may have lost the hold, or unlocked it, by the time that it is asked for its signal.
    trust: watch::Receiver<Trust>,
    over: HoldOver,
    open: bool,
}

/// What a body that runs under a lock is given.
#[derive(Debug)]
pub struct Holding {
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
        HoldSignal::of(&self.lock.contest.locks, self.hold.proof(), self.trust.clone(), self.over.clone())
    }

    /// The context, to take other locks with while this one is held.
    pub fn context(&mut self) -> &mut LockContext {
        self.context
    }

    /// Unlocks, and says what came of it.
    ///
    /// # Errors
    ///
    /// As [`FencedLock::unlock`]; and [`LockError::NotTheOwner`] where the context has meanwhile locked anew.
    pub async fn unlock(mut self) -> Result<(), LockError> {
        self.open = false;
        if self.context.held.get(self.lock.key()).is_some_and(|held| held.hold != self.hold) {
            return Err(LockError::NotTheOwner { lock: self.lock.name().clone() });
        }
        self.lock.unlock(self.context).await
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
        drop(Unanswered { contest: &self.lock.contest, hold: Some(self.hold.clone()) });
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
        self.guarded(context)
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
        let patience = if wait.is_zero() { Patience::None } else { Patience::For(wait) };
        match self.enter(context, patience).await {
            Ok(Some(_)) => self.guarded(context).map(Some),
            Ok(None) | Err(LockError::LimitReached { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn guarded<'a>(&self, context: &'a mut LockContext) -> Result<LockGuard<'a, S>, LockError> {
        let Some(held) = context.held.get(self.key()) else {
            return Err(LockError::NotTheOwner { lock: self.name().clone() });
        };
        let (hold, trust, over) = (held.hold.clone(), held.member.trust.clone(), held.over.clone());
        Ok(LockGuard { lock: self.clone(), context, hold, trust, over, open: true })
    }

    /// Runs `body` under the lock, and unlocks. As soon as the hold is over, or may be, `body` is cancelled: it is dropped
    /// at its next `await`. What it has spawned or started elsewhere it has to stop by [`Holding::signal`].
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
        body: impl AsyncFnOnce(&Holding) -> T,
    ) -> Result<T, LockError> {
        let guard = self.guard(context).await?;
        let holding = Holding { hold: guard.hold.clone(), signal: guard.signal() };
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
                    held.told = held.count == 1;
                }
                drop(guard);
                Err(self.lost(holding.hold.fence(), why))
            }
        }
    }
}
