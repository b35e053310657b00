//! One attempt to lock: contending until it is won, over, or no longer wanted.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{FencedLock, LockError, Patience, TRY_WITHIN};
use crate::fence::Fence;
use crate::lock::Backoff;
use crate::lock::contest::{Ask, Contended};
use crate::lock::context::{Held, LockContext};
use crate::lock::election::CampaignError;
use crate::lock::hold::{Caller, Hold};
use crate::lock::session::SessionEnd;
use crate::lock::signal::{HoldOver, Lost};
use crate::store::{Store, StoreError};

/// How an attempt to lock ended, before it was put in order.
enum End {
    Contended(Result<Contended, CampaignError>),
    SessionEnded(SessionEnd),
    Cancelled,
    TimeUp,
}

impl<S: Store> FencedLock<S> {
    /// Makes the context, which does not hold the lock, hold it. `None`: its time was up, or it was cancelled.
    pub(super) async fn acquire(
        &self,
        context: &mut LockContext,
        patience: Patience,
    ) -> Result<Option<Fence>, LockError> {
        let mut caller = context.member.caller(self.contest.locks.calls.next());
        context.pending.insert(self.key().to_owned(), caller.clone());
        let abandoned = self.contest.abandoned(&context.member, caller.clone());
        let within = match patience {
            Patience::Forever => None,
            Patience::For(wait) => Some(wait),
            Patience::None => Some(TRY_WITHIN),
        };
        let clock = &self.contest.locks.clock;
        let time_up = clock.reached(within.map(|within| clock.boot().plus(within)));
        let end = tokio::select! {
            biased;
            why = context.member.ended() => End::SessionEnded(why),
            () = context.stop.cancelled() => End::Cancelled,
            contended = self.contend(context, &mut caller, patience) => End::Contended(contended),
            () = time_up => End::TimeUp,
        };
        // What is not handed out now is taken back there, also where that is not waited for.
        abandoned.settled();
        self.conclude(context, caller, end, patience).await
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
            match self.contest.win(&context.member, caller, ask).await {
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
            // Handed out without another `await`: the clock was looked at when it was won.
            End::Contended(Ok(Contended::Won(hold))) => {
                context.pending.remove(key);
                return Ok(Some(self.hold_on(context, caller, hold)));
            }
            // What the session had of this call goes with it.
            End::SessionEnded(why) | End::Contended(Err(CampaignError::SessionEnded(why))) => {
                context.pending.remove(key);
                return Err(LockError::SessionLost { why: Lost::SessionEnded(why) });
            }
            // Nothing was sent that could take effect.
            End::Contended(Ok(Contended::Busy { asked: false })) => {
                context.pending.remove(key);
                return Ok(None);
            }
            End::Contended(Ok(Contended::Busy { asked: true })) => None,
            End::Contended(Ok(Contended::Destroyed)) => Some(self.was_destroyed()),
            End::Contended(Err(error)) => Some(error.into()),
            End::TimeUp if matches!(patience, Patience::None) => {
                let why = format!("no answer in {TRY_WITHIN:?}");
                Some(LockError::Store(StoreError::Unavailable { store: "the store".to_owned(), why }))
            }
            End::Cancelled => {
                context.stop = CancellationToken::new();
                None
            }
            End::TimeUp => None,
        };
        match self.contest.take_back(&context.member, &caller).await {
            Ok(()) => {
                context.pending.remove(key);
                refused.map_or(Ok(None), Err)
            }
            Err(source) => Err(refused.unwrap_or_else(|| self.unknown(source))),
        }
    }

    fn hold_on(&self, context: &mut LockContext, caller: Caller, hold: Hold) -> Fence {
        let (fence, over, member) = (hold.fence(), HoldOver::default(), context.member.clone());
        if let Some(most) = self.config.max_hold {
            self.limit(hold.clone(), over.clone(), most);
        }
        let held = Held { hold, count: 1, caller, member, over, releasing: false, reported: false };
        context.held.insert(self.key().to_owned(), held);
        fence
    }

    /// Ends the hold when it has lasted `most`.
    fn limit(&self, hold: Hold, over: HoldOver, most: Duration) {
        let contest = self.contest.clone();
        let ends_at = contest.locks.clock.boot().plus(most);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = over.ended() => return,
                () = contest.locks.clock.reached(Some(ends_at)) => over.end(Lost::HeldTooLong),
            }
            tracing::warn!(lock.scope = %hold.scope(), lock.fence = %hold.fence(), "held for as long as it may be");
            if let Err(error) = contest.release(&hold).await {
                tracing::warn!(%error, lock.scope = %hold.scope(), "it ends with its session, or when its holder asks");
            }
        });
    }
}
