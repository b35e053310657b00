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

use super::contest::{Ask, Contended, Contest};
use super::election::CampaignError;
use super::errands::{Errand, Unsettled};
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
    pub async fn take_back(&self, member: &Member, caller: &Caller) -> Result<(), StoreError> {
        self.abandoned(member, caller.clone()).settle(Box::pin(self.withdraw(caller))).await
    }

    /// Takes the call back in the background, unless that is settled.
    pub fn abandoned(&self, member: &Member, caller: Caller) -> Unsettled {
        member.errands.unless_settled(Errand::Withdraw { keys: self.keys.clone(), caller: Box::new(caller) })
    }

    /// Releases the hold in the background, unless that is settled.
    pub fn unreleased(&self, member: &Member, hold: Hold) -> Unsettled {
        let session_key = self.locks.namespace.session_key(hold.lease());
        member.errands.unless_settled(Errand::Release { keys: self.keys.clone(), hold, session_key })
    }
}
