//! How earlier calls of a context ended, and whether its hold still stands.

use std::time::Duration;

use tokio::time::timeout;

use super::{FencedLock, LockError};
use crate::lock::Backoff;
use crate::lock::contest::Freed;
use crate::lock::context::{Held, LockContext};
use crate::lock::handout::WITHDRAW_WITHIN;
use crate::lock::hold::QueueRead;
use crate::lock::session::SessionEnd;
use crate::lock::signal::Lost;
use crate::store::{Store, StoreError};

/// How long it may take to learn whether a hold still stands.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);

impl<S: Store> FencedLock<S> {
    /// Settles what earlier calls of the context have left open on this lock. Answers whether that was a release.
    pub(super) async fn settle(&self, context: &mut LockContext) -> Result<bool, LockError> {
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
            Freed::Released if held.over.why().is_none() => {
                held.over.end(Lost::Released);
                context.held.remove(key);
                Ok(true)
            }
            _ if held.reported => {
                context.held.remove(key);
                Ok(false)
            }
            Freed::Unknown => {
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
    pub(super) async fn stands(&self, context: &mut LockContext) -> Result<bool, LockError> {
        let Some(held) = context.held.get(self.key()) else { return Ok(false) };
        if let Some(why) = held.is_over() {
            return Err(self.lose(context, why).await);
        }
        let (mut backoff, near) = (Backoff::new(), QueueRead::Near { queued: None });
        let look = timeout(CONFIRM_WITHIN, self.contest.look(&held.caller, near, &mut backoff));
        let line = tokio::select! {
            biased;
            why = held.member.ended() => Err(Some(why)),
            line = look => line.map_err(|_| None),
        };
        match line {
            // The answer may have come late: what is held no longer is not to be answered as held.
            Ok(Ok(line)) if line.shows(&held.hold) => match held.member.lost(&self.contest.locks.clock) {
                None => Ok(true),
                Some(why) => Err(self.lose(context, why).await),
            },
            Ok(Ok(line)) if !line.has_session_of(&held.caller) => {
                held.member.end(SessionEnd::KeyGone);
                Err(self.lose(context, Lost::SessionEnded(SessionEnd::KeyGone)).await)
            }
            Ok(Ok(_)) => Err(self.lose(context, Lost::Taken).await),
            Ok(Err(error)) => Err(error.into()),
            Err(Some(why)) => Err(self.lose(context, Lost::SessionEnded(why)).await),
            Err(None) => {
                let why = format!("no answer in {CONFIRM_WITHIN:?}");
                Err(LockError::Store(StoreError::Unavailable { store: "the store".to_owned(), why }))
            }
        }
    }

    /// The error for a context whose hold is over. The call is settled, so that no request of it that is still under
    /// way takes the lock once more.
    async fn lose(&self, context: &mut LockContext, why: Lost) -> LockError {
        let Some(held) = context.held.get(self.key()) else { return self.not_the_owner() };
        held.over.end(why);
        let (caller, member, fence) = (held.caller.clone(), held.member.clone(), held.hold.fence());
        let scope = held.hold.scope().clone();
        // Everything that the session held is gone with it.
        if !matches!(why, Lost::SessionEnded(_)) {
            // Remembered first, since this may be dropped: after a lapse of trust the store may still show the hold.
            context.pending.insert(self.key().to_owned(), caller.clone());
            match self.contest.take_back(&member, &caller).await {
                Ok(()) => drop(context.pending.remove(self.key())),
                Err(error) => {
                    tracing::debug!(%error, lock.scope = %scope, "the lost hold's call is settled later");
                }
            }
            let observed = timeout(WITHDRAW_WITHIN, self.contest.observe(QueueRead::Near { queued: None }));
            if !context.pending.contains_key(self.key())
                && let Ok(Ok((line, _))) = observed.await
                && line.is_destroyed()
            {
                self.forget(context);
                return self.was_destroyed();
            }
        }
        // Not before it is reported: if this future was dropped, the next operation reports it.
        self.forget(context);
        LockError::OwnershipLost { lock: self.name.clone(), fence, why }
    }

    fn forget(&self, context: &mut LockContext) -> Option<Held> {
        context.held.remove(self.key())
    }
}
