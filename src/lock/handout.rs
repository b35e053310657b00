//! Handing out what was won: the last look at the clock, and how a call is taken back that is not to have it.
//!
//! A process may stand still between any two of its steps, and find the answer of before in its socket when it goes on.
//! So whatever is handed out under a session (a hold, a term, permits, another entry, "it is still held") is handed out by
//! a look at the boot clock **after** everything that takes time, saving to the disk among it: [`Trust::lost`] is the one
//! judgement, and no `await` lies between it and the caller. That the keep-alive has published no end proves nothing, for
//! it stood still as well.
//!
//! [`Trust::lost`]: super::Trust::lost

use std::time::Duration;

use tokio::time::timeout;

use super::contest::{Ask, Contended, Contest};
use super::election::CampaignError;
use super::hold::Caller;
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
        let abandoned = Abandoned::new(self, caller);
        match timeout(WITHDRAW_WITHIN, self.withdraw(caller)).await {
            Ok(Ok(())) => {
                abandoned.settled();
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

/// Takes a call back whose future was dropped, in the background: otherwise its place in the queue, or what it won, would
/// keep everybody waiting.
pub(super) struct Abandoned<'a, S: Store> {
    contest: &'a Contest<S>,
    caller: Option<Caller>,
}

impl<'a, S: Store> Abandoned<'a, S> {
    pub fn new(contest: &'a Contest<S>, caller: &Caller) -> Abandoned<'a, S> {
        Abandoned { contest, caller: Some(caller.clone()) }
    }

    pub fn settled(mut self) {
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
