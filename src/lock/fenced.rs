//! A lock for programs: reentrant, fair, each hold with a fence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Locks;
use super::contest::Contest;
use super::context::{HeldBy, LockContext};
use super::hold::{Hold, Manner, QueueRead};
use super::keys::{CallId, LockName};
use super::signal::{HoldSignal, Lost};
use crate::fence::Fence;
use crate::store::{Compare, Op, Store, StoreError, Txn};

mod attempt;
mod config;
mod error;
mod standing;

pub use config::{Config, Reentrancy};
pub use error::LockError;

/// For how long calls for a destroyed lock, those that wait and new ones, fail with [`LockError::LockDestroyed`]. After
/// that the name can be used again; its fences go on growing.
pub const DESTROYED_SHOWS: Duration = Duration::from_secs(60);

/// How long a call that is not to wait for its turn waits for the store.
pub(super) const TRY_WITHIN: Duration = Duration::from_secs(10);

/// How long a call waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Forever,
    For(Duration),
    None,
}

impl Patience {
    /// That of a call which waits for so long; zero: not at all, `None`: as long as it takes.
    pub fn of(wait: Option<Duration>) -> Patience {
        match wait {
            None => Patience::Forever,
            Some(Duration::ZERO) => Patience::None,
            Some(wait) => Patience::For(wait),
        }
    }
}

/// A lock of one name. Cheap to clone.
///
/// Every new hold has a fence that is strictly greater than that of every earlier hold of the lock, by any holder.
/// First come, first served: a `try_lock`, too, does not overtake the waiters.
///
/// A future of these methods may be dropped at any point: a call to lock is then taken back in the background, one to
/// unlock is carried out there, and by the context's next operation on this lock at the latest.
#[derive(Clone, Debug)]
pub struct FencedLock<S> {
    pub(super) contest: Contest<S>,
    name: LockName,
    config: Config,
    destroyed: Arc<AtomicBool>,
}

impl<S: Store> FencedLock<S> {
    pub(super) fn new(locks: Locks<S>, name: LockName, config: Config) -> FencedLock<S> {
        let contest = Contest::new(locks, &name, Manner::Context);
        FencedLock { contest, name, config, destroyed: Arc::default() }
    }

    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// Waits until the context holds the lock; where it does already, counts once more.
    ///
    /// # Errors
    ///
    /// At once, without waiting: [`LockError::LimitReached`], [`LockError::OwnershipLost`], [`LockError::SessionLost`],
    /// [`LockError::LockDestroyed`]. While it waits: the last two, and [`LockError::WaitCancelled`]. A store that is away
    /// is no error: it goes on trying until the session ends. A lock that is granted when the session's trust has lapsed is
    /// given back, and answered as [`LockError::SessionLost`].
    pub async fn lock(&self, context: &mut LockContext) -> Result<(), LockError> {
        self.lock_and_get_fence(context).await.map(drop)
    }

    /// As [`FencedLock::lock`], and answers the fence: the same for every lock within one hold.
    pub async fn lock_and_get_fence(&self, context: &mut LockContext) -> Result<Fence, LockError> {
        let cancelled = || LockError::WaitCancelled { lock: self.name.clone() };
        self.enter(context, Patience::Forever).await?.ok_or_else(cancelled)
    }

    /// Locks without waiting, if the lock has no holder and no waiter. Answers whether it did; `false` also when the
    /// context has entered it as often as it may.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnershipLost`], [`LockError::SessionLost`], [`LockError::LockDestroyed`]; and
    /// [`LockError::OutcomeUnknown`] where the store does not answer in about ten seconds.
    pub async fn try_lock(&self, context: &mut LockContext) -> Result<bool, LockError> {
        self.try_lock_and_get_fence(context).await.map(|fence| fence.is_some())
    }

    /// As [`FencedLock::try_lock`]; `None` where that answers `false`.
    pub async fn try_lock_and_get_fence(&self, context: &mut LockContext) -> Result<Option<Fence>, LockError> {
        or_none(self.enter(context, Patience::None).await)
    }

    /// Waits for the lock, but not longer than `wait` (zero: not at all). `false` also where the wait was cancelled or
    /// the context holds the lock as often as it may.
    ///
    /// # Errors
    ///
    /// As [`FencedLock::try_lock`].
    pub async fn try_lock_for(&self, context: &mut LockContext, wait: Duration) -> Result<bool, LockError> {
        self.try_lock_for_and_get_fence(context, wait).await.map(|fence| fence.is_some())
    }

    /// As [`FencedLock::try_lock_for`]; `None` where that answers `false`.
    pub async fn try_lock_for_and_get_fence(
        &self,
        context: &mut LockContext,
        wait: Duration,
    ) -> Result<Option<Fence>, LockError> {
        or_none(self.enter(context, Patience::of(Some(wait))).await)
    }

    /// Takes back one `lock`; the last one frees the lock, and the next in the queue follows at once.
    ///
    /// # Errors
    ///
    /// [`LockError::NotTheOwner`]; [`LockError::OwnershipLost`] where the hold had ended before;
    /// [`LockError::OutcomeUnknown`] where the store does not answer: unlock again.
    pub async fn unlock(&self, context: &mut LockContext) -> Result<(), LockError> {
        if self.settle(context).await? {
            return Ok(());
        }
        let key = self.key();
        let Some(held) = context.held.get_mut(key) else { return Err(self.not_the_owner()) };
        if held.count == 1 && held.is_over().is_none() {
            held.releasing = true;
            let unreleased = self.contest.unreleased(&held.member, held.hold.clone());
            let settled = self.settle(context).await.map(drop);
            unreleased.settled();
            return settled;
        }
        if self.stands(context).await?
            && let Some(held) = context.held.get_mut(key)
        {
            held.count -= 1;
        }
        Ok(())
    }

    /// The fence of the context's hold, after asking the store whether it still stands. It may be over by the time the
    /// answer is read: the fence is there for that.
    ///
    /// # Errors
    ///
    /// [`LockError::NotTheOwner`], [`LockError::OwnershipLost`].
    pub async fn fence(&self, context: &mut LockContext) -> Result<Fence, LockError> {
        self.hold(context).await.map(|hold| hold.fence())
    }

    /// The context's hold, after asking the store whether it still stands: what a write to the same store compares
    /// ([`Hold::still_held`]), and what an effect elsewhere is stamped with.
    ///
    /// # Errors
    ///
    /// As [`FencedLock::fence`].
    pub async fn hold(&self, context: &mut LockContext) -> Result<Hold, LockError> {
        self.settle(context).await?;
        self.stands(context).await?;
        context.held.get(self.key()).map(|held| held.hold.clone()).ok_or_else(|| self.not_the_owner())
    }

    /// Whether the lock has a holder.
    pub async fn is_locked(&self) -> Result<bool, LockError> {
        Ok(self.holder().await?.is_some())
    }

    /// The holder of the lock.
    pub async fn holder(&self) -> Result<Option<HeldBy>, LockError> {
        self.check_destroyed()?;
        let (line, _) = self.contest.observe(QueueRead::Near { queued: None }).await.map_err(LockError::Store)?;
        Ok(line.holder().map(HeldBy::from))
    }

    /// Whether this context holds the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnershipLost`], once, where it believed that it did.
    pub async fn is_locked_by(&self, context: &mut LockContext) -> Result<bool, LockError> {
        self.settle(context).await?;
        self.stands(context).await
    }

    /// How often this context has locked the lock and not yet unlocked it. (The context keeps the count: no other
    /// context can enter its hold.)
    ///
    /// # Errors
    ///
    /// As [`FencedLock::is_locked_by`].
    pub async fn lock_count(&self, context: &mut LockContext) -> Result<u32, LockError> {
        self.is_locked_by(context).await?;
        Ok(context.held.get(self.key()).map_or(0, |held| held.count))
    }

    /// The signal by which the context's hold ends; `None` where it holds nothing here.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn signal(&self, context: &LockContext) -> Option<HoldSignal> {
        let held = context.held.get(self.key())?;
        Some(held.signals(&self.contest.locks).signal())
    }

    /// Ends the lock for all contexts. Its holder loses it. Its waiters fail with [`LockError::LockDestroyed`]; so do new
    /// calls within [`DESTROYED_SHOWS`], and all later calls of this handle and its clones. Nothing of the lock stays
    /// in the store.
    pub async fn destroy(&self) -> Result<(), LockError> {
        let store = &self.contest.locks.store;
        let (lease, _) = Box::pin(store.grant(DESTROYED_SHOWS)).await.map_err(LockError::Store)?;
        match self.contest.settle(self.contest.keys.destroy(lease)).await {
            Ok(_) => {}
            Err(source) if source.is_unknown() => {
                return Err(LockError::OutcomeUnknown { lock: self.name.clone(), source });
            }
            Err(error) => return Err(LockError::Store(error)),
        }
        self.destroyed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// For operators: revokes the lock without asking its holder, and answers its former holder. The holder's session
    /// goes on. What the holder still does under the lock cannot be stopped from here: a target that checks the fence
    /// turns it away.
    pub async fn force_unlock(&self) -> Result<Option<HeldBy>, LockError> {
        let Some((holder, take)) = self.revocation().await? else { return Ok(None) };
        // Sent again, it finds what it was to take gone: by itself, or otherwise.
        self.contest.settle(take).await.map_err(LockError::Store)?;
        Ok(Some(holder))
    }

    /// The holder, and the transaction that revokes the lock from this holder; `None`: it is free.
    pub(crate) async fn revocation(&self) -> Result<Option<(HeldBy, Txn)>, LockError> {
        let (line, _) = self.contest.observe(QueueRead::Near { queued: None }).await.map_err(LockError::Store)?;
        let Some(holder) = line.holder() else { return Ok(None) };
        let keys = &self.contest.keys;
        let mut take = Txn::new().when(Compare::created_at(&keys.owner, holder.created)).then(Op::delete(&keys.owner));
        take.then.extend(CallId::parse(&holder.call).map(|call| keys.void(call)));
        if line.is_barred() {
            take = take.then(Op::delete(&keys.barred));
        }
        Ok(Some((holder.into(), take)))
    }

    pub(super) async fn enter(
        &self,
        context: &mut LockContext,
        patience: Patience,
    ) -> Result<Option<Fence>, LockError> {
        self.settle(context).await?;
        if self.stands(context).await?
            && let Some(held) = context.held.get_mut(self.key())
        {
            let limit = self.config.reentrancy.limit();
            if held.count >= limit {
                return Err(LockError::LimitReached { lock: self.name.clone(), limit });
            }
            held.count += 1;
            return Ok(Some(held.hold.fence()));
        }
        if let Some(why) = context.member.is_over() {
            return Err(LockError::SessionLost { why: Lost::SessionEnded(why) });
        }
        self.acquire(context, patience).await
    }

    pub(super) fn key(&self) -> &str {
        &self.contest.keys.owner
    }

    pub(super) fn lost(&self, fence: Fence, why: Lost) -> LockError {
        LockError::OwnershipLost { lock: self.name.clone(), fence, why }
    }

    fn not_the_owner(&self) -> LockError {
        LockError::NotTheOwner { lock: self.name.clone() }
    }

    /// What a store's silence or refusal means for a call that may have taken effect.
    fn unknown(&self, source: StoreError) -> LockError {
        if source.is_passing() {
            LockError::OutcomeUnknown { lock: self.name.clone(), source }
        } else {
            LockError::Store(source)
        }
    }

    fn check_destroyed(&self) -> Result<(), LockError> {
        if self.destroyed.load(Ordering::Relaxed) { Err(self.was_destroyed()) } else { Ok(()) }
    }

    fn was_destroyed(&self) -> LockError {
        self.destroyed.store(true, Ordering::Relaxed);
        LockError::LockDestroyed { lock: self.name.clone() }
    }
}

/// What a call that is not to fail on these answers: that it did not lock.
fn or_none(entered: Result<Option<Fence>, LockError>) -> Result<Option<Fence>, LockError> {
    match entered {
        Err(LockError::LimitReached { .. }) => Ok(None),
        entered => entered,
    }
}
