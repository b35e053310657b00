//! A lock for programs: reentrant, fair, each hold with a fence.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::contest::{Ask, Contended, Contest, Freed};
use super::context::{Held, HeldBy, LockContext};
use super::election::CampaignError;
use super::hold::{Caller, FenceBaseError, Hold, Manner, View};
use super::keys::{CallId, LockName};
use super::seen::StoreWentBack;
use super::session::{Ended, RECHECK};
use super::signal::{HoldOver, HoldSignal, Lost};
use super::{Backoff, Locks};
use crate::fence::Fence;
use crate::store::{Compare, Op, Store, StoreError, Txn};

/// How long those who wait for a destroyed lock, or come for it, are told that it was destroyed. After that its name is
/// as good as new; its fences go on growing.
pub const DESTROYED_SHOWS: Duration = Duration::from_secs(60);

/// How long a call that is not to wait for the lock waits for the store.
const TRY_WITHIN: Duration = Duration::from_secs(10);

/// How long a call whose time is up waits to be taken out of the queue, before it is left to be taken out later.
pub(super) const WITHDRAW_WITHIN: Duration = Duration::from_secs(2);

/// How long it may take to learn whether a hold still stands.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);

/// How a lock behaves for those who use this configuration. It is not kept in the store: others may use another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How often a context may lock what it holds already.
    pub reentrancy: Reentrancy,
    /// After this time a hold ends by itself, though its session lives: it is released, and its holder is told.
    /// The holder's own process sees to that; one that stands still is bound by its session's TTL.
    pub max_hold: Option<Duration>,
    /// For how long nobody is granted the lock after its holder's lease has run out (not after a release): time for what
    /// the holder may still have under way to arrive, at a resource that checks no fence. It is at least this, and at
    /// most one and a third TTL longer.
    pub lock_delay: Option<Duration>,
}

/// How often a context may lock what it holds already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reentrancy {
    #[default]
    Unlimited,
    /// So often altogether: with a limit of 2, the third lock is refused.
    Limit(NonZeroU32),
    /// Not at all.
    No,
}

impl Reentrancy {
    fn limit(self) -> u32 {
        match self {
            Reentrancy::Unlimited => u32::MAX,
            Reentrancy::Limit(limit) => limit.get(),
            Reentrancy::No => 1,
        }
    }
}

/// Why an operation on a lock failed. Which of these leave the context holding the lock is said at each.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It holds the lock as often as it may. It goes on holding it.
    #[error("`{lock}` is held {limit} times by this context, which is its limit: unlock it first")]
    LimitReached { lock: LockName, limit: u32 },
    /// The context believed that it held the lock, and does not. It is told once; after that it is as fresh as any other.
    #[error(
        "the hold of `{lock}` under fence {fence} is over ({why}): stop what ran under it, another may hold the lock"
    )]
    OwnershipLost { lock: LockName, fence: Fence, why: Lost },
    /// The context does not hold the lock.
    #[error("`{lock}` is not held by this context: nothing to unlock, and no fence")]
    NotTheOwner { lock: LockName },
    /// The wait was cancelled; the call neither holds nor waits.
    #[error("the wait for `{lock}` was cancelled")]
    WaitCancelled { lock: LockName },
    /// The context's session is over, and it held nothing here: [`LockContext::move_to`] another session.
    #[error("the context's session is over ({why}): open another, and move the context to it")]
    SessionLost { why: Ended },
    /// What became of the call is not known yet. The context remembers it: its next operation on this lock settles it
    /// first, and the session's end does in any case.
    #[error("it is not known whether the request for `{lock}` took effect ({source}): the next call settles it")]
    OutcomeUnknown { lock: LockName, source: StoreError },
    /// The lock was destroyed: this handle is of no use any more.
    #[error("`{lock}` was destroyed; a new handle may create it again in {DESTROYED_SHOWS:?}")]
    LockDestroyed { lock: LockName },
    #[error(transparent)]
    FenceBase(#[from] FenceBaseError),
    #[error(transparent)]
    StoreWentBack(#[from] StoreWentBack),
    /// The store answered nothing useful; nothing has changed.
    #[error(transparent)]
    Store(StoreError),
}

/// How long a call waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Forever,
    For(Duration),
    None,
}

/// How an attempt to lock ended, before it was put in order.
enum End {
    Contended(Result<Contended, CampaignError>),
    SessionEnded(Ended),
    Cancelled,
    TimeUp,
}

/// A lock of one name. Cheap to clone.
///
/// Every new hold has a fence that is strictly greater than that of every earlier hold of the lock, whoever had it. First
/// come, first served: also a `try_lock` does not get ahead of those who wait.
///
/// A future of these methods may be dropped at any point: the call is then taken back in the background, and by the
/// context's next operation on this lock at the latest.
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
    /// is no error: it goes on trying until the session ends.
    pub async fn lock(&self, context: &mut LockContext) -> Result<(), LockError> {
        self.lock_and_get_fence(context).await.map(drop)
    }

    /// As [`FencedLock::lock`], and answers the fence: the same for every lock within one hold.
    pub async fn lock_and_get_fence(&self, context: &mut LockContext) -> Result<Fence, LockError> {
        let cancelled = || LockError::WaitCancelled { lock: self.name.clone() };
        self.enter(context, Patience::Forever).await?.ok_or_else(cancelled)
    }

    /// Locks where nobody holds the lock or waits for it, without waiting. Answers whether it did; `false` also where the
    /// context holds it as often as it may.
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
        let patience = if wait.is_zero() { Patience::None } else { Patience::For(wait) };
        or_none(self.enter(context, patience).await)
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
            return self.settle(context).await.map(drop);
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

    /// Whether anybody holds the lock.
    pub async fn is_locked(&self) -> Result<bool, LockError> {
        Ok(self.holder().await?.is_some())
    }

    /// Who holds the lock.
    pub async fn holder(&self) -> Result<Option<HeldBy>, LockError> {
        self.check_destroyed()?;
        let (line, _) = self.contest.observe(View::Near { queued: None }).await.map_err(LockError::Store)?;
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

    /// How often this context has locked the lock and not yet unlocked it. (The count lives in the context: nobody else
    /// can enter its hold.)
    ///
    /// # Errors
    ///
    /// As [`FencedLock::is_locked_by`].
    pub async fn lock_count(&self, context: &mut LockContext) -> Result<u32, LockError> {
        self.is_locked_by(context).await?;
        Ok(context.held.get(self.key()).map_or(0, |held| held.count))
    }

    /// The signal by which the context's hold ends; `None` where it holds nothing here.
    pub fn signal(&self, context: &LockContext) -> Option<HoldSignal> {
        let held = context.held.get(self.key())?;
        Some(held.signal(&self.contest.locks))
    }

    /// Ends the lock for everybody: who holds it loses it, who waits is told that it was destroyed, and so is who comes
    /// in the next [`DESTROYED_SHOWS`], and this handle and its clones for good. Nothing of it stays in the store.
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

    /// For operators: takes the lock away from whoever holds it, without asking, and answers who that was. Its session
    /// goes on. What it still does under the hold cannot be stopped from here: a fence that is checked where it takes
    /// effect turns it away.
    pub async fn force_unlock(&self) -> Result<Option<HeldBy>, LockError> {
        let (line, _) = self.contest.observe(View::Near { queued: None }).await.map_err(LockError::Store)?;
        let Some(holder) = line.holder() else { return Ok(None) };
        let keys = &self.contest.keys;
        let mut take = Txn::new().when(Compare::created_at(&keys.owner, holder.created)).then(Op::delete(&keys.owner));
        if line.is_barred() {
            take = take.then(Op::delete(&keys.barred));
        }
        // Sent again, it finds what it was to take gone: by itself, or otherwise.
        self.contest.settle(take).await.map_err(LockError::Store)?;
        Ok(Some(holder.into()))
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
            return Err(LockError::SessionLost { why });
        }
        self.acquire(context, patience).await
    }

    /// Makes the context, which does not hold the lock, hold it. `None`: its time was up, or it was cancelled.
    async fn acquire(&self, context: &mut LockContext, patience: Patience) -> Result<Option<Fence>, LockError> {
        let mut caller = context.member.caller(CallId::random());
        context.pending.insert(self.key().to_owned(), caller.clone());
        let abandoned = Abandoned { contest: &self.contest, caller: Some(caller.clone()) };
        let time_up = async {
            match patience {
                Patience::Forever => std::future::pending().await,
                Patience::For(wait) => tokio::time::sleep(wait).await,
                Patience::None => tokio::time::sleep(TRY_WITHIN).await,
            }
        };
        let end = tokio::select! {
            biased;
            why = context.member.ended() => End::SessionEnded(why),
            () = context.stop.cancelled() => End::Cancelled,
            contended = self.contend(context, &mut caller, patience) => End::Contended(contended),
            () = time_up => End::TimeUp,
        };
        let result = self.conclude(context, caller, end, patience).await;
        if !context.pending.contains_key(self.key()) {
            abandoned.settled();
        }
        result
    }

    async fn contend(
        &self,
        context: &LockContext,
        caller: &mut Caller,
        patience: Patience,
    ) -> Result<Contended, CampaignError> {
        let ask = match patience {
            Patience::None => Ask::AtOnce,
            Patience::Forever | Patience::For(_) => Ask::Wait(Some(&context.progress)),
        };
        let mut backoff = Backoff::new();
        loop {
            if let Some(delay) = self.config.lock_delay {
                match context.member.delayed(&self.contest.locks.store, delay).await {
                    Ok(lease) => caller.delay = Some(lease),
                    Err(error) if error.is_passing() => {
                        backoff.wait().await;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            match self.contest.contend(caller, ask).await {
                Err(CampaignError::Store(StoreError::LeaseEnded(lease))) if caller.delay == Some(lease) => {
                    context.member.forget_delay(lease);
                }
                contended => return contended,
            }
        }
    }

    /// Puts in order what an attempt to lock has left.
    async fn conclude(
        &self,
        context: &mut LockContext,
        caller: Caller,
        end: End,
        patience: Patience,
    ) -> Result<Option<Fence>, LockError> {
        let key = self.key();
        let refused = match end {
            End::Contended(Ok(Contended::Won(hold))) => {
                self.contest.locks.save_seen().await;
                context.pending.remove(key);
                return Ok(Some(self.hold_on(context, caller, hold)));
            }
            // What the session had of this call goes with it.
            End::SessionEnded(why) | End::Contended(Err(CampaignError::SessionEnded(why))) => {
                context.pending.remove(key);
                return Err(LockError::SessionLost { why });
            }
            // Without waiting, nothing was put in the queue.
            End::Contended(Ok(Contended::Busy)) => {
                context.pending.remove(key);
                return Ok(None);
            }
            End::Contended(Ok(Contended::Destroyed)) => Some(self.was_destroyed()),
            End::Contended(Err(error)) => Some(error.into()),
            End::TimeUp if matches!(patience, Patience::None) => {
                let why = format!("no answer in {TRY_WITHIN:?}");
                Some(LockError::Store(StoreError::Unavailable { store: "the store".to_owned(), why }))
            }
            End::Cancelled => {
                context.stop = tokio_util::sync::CancellationToken::new();
                None
            }
            End::TimeUp => None,
        };
        match timeout(WITHDRAW_WITHIN, self.contest.withdraw(&caller)).await {
            Ok(Ok(())) => {
                context.pending.remove(key);
                refused.map_or(Ok(None), Err)
            }
            Ok(Err(source)) => Err(refused.unwrap_or_else(|| self.unknown(source))),
            Err(_) => {
                let why = format!("no answer in {WITHDRAW_WITHIN:?}");
                let source = StoreError::Unknown { store: "the store".to_owned(), why };
                Err(refused.unwrap_or_else(|| self.unknown(source)))
            }
        }
    }

    fn hold_on(&self, context: &mut LockContext, caller: Caller, hold: Hold) -> Fence {
        let (fence, over, member) = (hold.fence(), HoldOver::default(), context.member.clone());
        if let Some(most) = self.config.max_hold {
            self.limit(hold.clone(), over.clone(), most);
        }
        let held = Held { hold, count: 1, caller, member, over, releasing: false, told: false };
        context.held.insert(self.key().to_owned(), held);
        fence
    }

    /// Ends the hold when it has lasted `most`.
    fn limit(&self, hold: Hold, over: HoldOver, most: Duration) {
        let contest = self.contest.clone();
        let ends_at = contest.locks.clock.boot().plus(most);
        tokio::spawn(async move {
            let too_long = async {
                loop {
                    let now = contest.locks.clock.boot();
                    if now >= ends_at {
                        return;
                    }
                    tokio::time::sleep(ends_at.since(now).min(RECHECK)).await;
                }
            };
            tokio::select! {
                biased;
                _ = over.ended() => return,
                () = too_long => over.end(Lost::HeldTooLong),
            }
            tracing::warn!(lock.scope = %hold.scope(), lock.fence = %hold.fence(), "held for as long as it may be");
            if let Err(error) = contest.release(&hold).await {
                tracing::warn!(%error, lock.scope = %hold.scope(), "it ends with its session, or when its holder asks");
            }
        });
    }

    /// Settles what earlier calls of the context have left open on this lock. Answers whether that was a release.
    async fn settle(&self, context: &mut LockContext) -> Result<bool, LockError> {
        let key = self.key();
        if let Err(destroyed) = self.check_destroyed() {
            context.pending.remove(key);
            self.forget(context);
            return Err(destroyed);
        }
        if let Some(caller) = context.pending.get(key) {
            self.contest.withdraw(caller).await.map_err(|source| self.unknown(source))?;
            context.pending.remove(key);
        }
        let Some(held) = context.held.get(key).filter(|held| held.releasing) else { return Ok(false) };
        let freed = match held.is_over() {
            Some(Lost::SessionEnded(_)) => Freed::HadEnded,
            _ => self.contest.release(&held.hold).await.map_err(|source| self.unknown(source))?,
        };
        match freed {
            Freed::Released if !held.over.why().is_some_and(|why| why == Lost::HeldTooLong) => {
                held.over.end(Lost::Released);
                context.held.remove(key);
                Ok(true)
            }
            _ if held.told => {
                context.held.remove(key);
                Ok(false)
            }
            Freed::Untold => {
                context.held.remove(key);
                let why = "the store has forgotten when the hold ended".to_owned();
                Err(self.unknown(StoreError::Unknown { store: "the store".to_owned(), why }))
            }
            Freed::Released | Freed::HadEnded => {
                let why = held.is_over().unwrap_or(Lost::Taken);
                Err(self.lose(context, why).await)
            }
        }
    }

    /// Whether the context holds the lock, as the store says now; where it only believed so, that is an error, once.
    async fn stands(&self, context: &mut LockContext) -> Result<bool, LockError> {
        let Some(held) = context.held.get(self.key()) else { return Ok(false) };
        if let Some(why) = held.is_over() {
            return Err(self.lose(context, why).await);
        }
        let (mut backoff, near) = (Backoff::new(), View::Near { queued: None });
        let look = timeout(CONFIRM_WITHIN, self.contest.look(&held.caller, near, &mut backoff));
        let line = tokio::select! {
            biased;
            why = held.member.ended() => Err(Some(why)),
            line = look => line.map_err(|_| None),
        };
        match line {
            Ok(Ok(line)) if line.shows(&held.hold) => Ok(true),
            Ok(Ok(_)) => Err(self.lose(context, Lost::Taken).await),
            Ok(Err(error)) => Err(error.into()),
            Err(Some(why)) => Err(self.lose(context, Lost::SessionEnded(why)).await),
            Err(None) => {
                let why = format!("no answer in {CONFIRM_WITHIN:?}");
                Err(LockError::Store(StoreError::Unavailable { store: "the store".to_owned(), why }))
            }
        }
    }

    /// The context's hold is over: what to tell it. The call is settled, so that no request of it that is still under way
    /// takes the lock once more.
    async fn lose(&self, context: &mut LockContext, why: Lost) -> LockError {
        let Some(held) = self.forget(context) else { return self.not_the_owner() };
        held.over.end(why);
        // Whatever the session had is gone with it.
        if !matches!(why, Lost::SessionEnded(_)) {
            match self.contest.observe(View::Near { queued: None }).await {
                Ok((line, _)) if line.is_destroyed() => return self.was_destroyed(),
                Ok(_) | Err(_) => {}
            }
            if let Err(error) = self.contest.withdraw(&held.caller).await {
                tracing::debug!(%error, lock.scope = %held.hold.scope(), "the lost hold's call is settled later");
                context.pending.insert(self.key().to_owned(), held.caller.clone());
            }
        }
        LockError::OwnershipLost { lock: self.name.clone(), fence: held.hold.fence(), why }
    }

    fn forget(&self, context: &mut LockContext) -> Option<Held> {
        context.held.remove(self.key())
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

impl From<CampaignError> for LockError {
    fn from(error: CampaignError) -> LockError {
        match error {
            CampaignError::SessionEnded(why) => LockError::SessionLost { why },
            CampaignError::FenceBase(error) => LockError::FenceBase(error),
            CampaignError::StoreWentBack(error) => LockError::StoreWentBack(error),
            CampaignError::Store(error) => LockError::Store(error),
            CampaignError::OtherCall(call) => {
                LockError::Store(StoreError::Unusable(format!("call {call} stands in the way")))
            }
        }
    }
}

/// Takes a call back whose future was dropped, in the background: otherwise its place in the queue would keep everybody
/// waiting.
struct Abandoned<'a, S: Store> {
    contest: &'a Contest<S>,
    caller: Option<Caller>,
}

impl<S: Store> Abandoned<'_, S> {
    fn settled(mut self) {
        self.caller = None;
    }
}

impl<S: Store> Drop for Abandoned<'_, S> {
    fn drop(&mut self) {
        // Where the runtime is gone already, the context's next operation or the session's end does it.
        let (Some(caller), Ok(runtime)) = (self.caller.take(), tokio::runtime::Handle::try_current()) else { return };
        let contest = self.contest.clone();
        runtime.spawn(async move {
            if let Err(error) = contest.withdraw(&caller).await {
                tracing::warn!(%error, call = %caller.call, "a call that nobody waits for may stand in the queue");
            }
        });
    }
}
