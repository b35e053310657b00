//! Handing out what was won: the last check of the clock, and how a call is withdrawn that fails it.
//!
//! A process may stand still between any two of its steps, and find an old answer in its socket when it goes on. So
//! everything that is handed out under a session (a hold, a term, permits, another entry, "it is still held") is handed
//! out after a check of the boot clock, **after** everything that takes time, such as saving to the disk.
//! [`Trust::lost`] is the one judgement, and no `await` lies between it and the caller. A keep-alive that has published
//! no end proves nothing, for it stood still as well.
//!
//! [`Trust::lost`]: super::Trust::lost

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::Backoff;
use super::contest::{Ask, Contended, Contest};
use super::election::CampaignError;
use super::hold::{Caller, Hold};
use super::session::Member;
use super::signal::Lost;
use crate::store::{Store, StoreError};

/// How long a call that is taken back waits for that, before it is taken back in the background.
pub(super) const WITHDRAW_WITHIN: Duration = Duration::from_secs(2);

impl<S: Store> Contest<S> {
    /// As [`Contest::contend`], and answers what was won only where it may still be acted on. On
    /// [`CampaignError::TrustLapsed`] the call has to be taken back.
    pub async fn win(&self, member: &Member, caller: &Caller, ask: Ask<'_>) -> Result<Contended, CampaignError> {
        let contended = self.contend(caller, ask).await.inspect_err(|error| {
            if let CampaignError::SessionEnded(why) = error {
                member.end(*why);
            }
        })?;
        if !matches!(contended, Contended::Won(_)) {
            return Ok(contended);
        }
        self.locks.save_seen().await;
        match member.lost(&self.locks.clock) {
            None => Ok(contended),
            Some(Lost::SessionEnded(why)) => Err(CampaignError::SessionEnded(why)),
            Some(_) => Err(CampaignError::TrustLapsed),
        }
    }

    /// Takes the call back, as [`Contest::withdraw`], and waits a moment for that.
    ///
    /// # Errors
    ///
    /// Where the store does not answer so soon, and where this is dropped: it is taken back in the background then.
    pub async fn take_back(&self, caller: &Caller) -> Result<(), StoreError> {
        self.abandoned(caller.clone()).settle(Box::pin(self.withdraw(caller))).await
    }

    /// Takes the call back in the background, unless that is settled.
    pub fn abandoned(&self, caller: Caller) -> Unsettled<impl FnOnce(&Handle)> {
        // On the heap: it lies in every future of a call.
        let caller = Box::new(caller);
        Unsettled::new(move |runtime| {
            let contest = self.clone();
            runtime.spawn(async move {
                let mut backoff = Backoff::new();
                // Until the store has answered: nothing else does it, and the session may go on for long.
                while let Err(error) = contest.withdraw(&caller).await {
                    tracing::warn!(%error, call = %caller.call, "an abandoned call may be left in the queue");
                    if !error.is_passing() {
                        return;
                    }
                    backoff.wait().await;
                }
            });
        })
    }

    /// Releases the hold in the background, unless that is settled.
    pub fn unreleased(&self, hold: Hold) -> Unsettled<impl FnOnce(&Handle)> {
        Unsettled::new(move |runtime| {
            let contest = self.clone();
            runtime.spawn(async move {
                let mut backoff = Backoff::new();
                while let Err(error) = contest.release(&hold).await {
                    tracing::warn!(%error, lock.scope = %hold.scope(), "a lock that was given up may still be held");
                    if !error.is_passing() {
                        return;
                    }
                    backoff.wait().await;
                }
            });
        })
    }
}

/// An action that is done in the background when this is dropped without having been settled, as a cancelled future is.
/// Otherwise the place of its call in the queue, or the lock that the call won, would keep all others waiting.
pub(super) struct Unsettled<W: FnOnce(&Handle)>(Option<W>);

impl<W: FnOnce(&Handle)> Unsettled<W> {
    /// `work` spawns what is done in the background.
    pub fn new(work: W) -> Unsettled<W> {
        Unsettled(Some(work))
    }

    /// There is nothing left to do.
    pub fn settled(mut self) {
        self.0 = None;
    }

    /// Waits a moment for what settles it.
    pub async fn settle<T>(self, settling: impl Future<Output = Result<T, StoreError>>) -> Result<(), StoreError> {
        match timeout(WITHDRAW_WITHIN, settling).await {
            Ok(Ok(_)) => {
                self.settled();
                Ok(())
            }
            Ok(Err(source)) => Err(source),
            Err(_) => {
                let why = format!("no answer in {WITHDRAW_WITHIN:?}");
                Err(StoreError::Unknown { store: "the store".to_owned(), why })
            }
        }
    }
}

impl<W: FnOnce(&Handle)> Drop for Unsettled<W> {
    fn drop(&mut self) {
        // Where the runtime is gone already, the context's next operation or the session's end does it.
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            work(&runtime);
        }
    }
}
