//! How operations on a lock fail.

use super::DESTROYED_SHOWS;
use crate::fence::Fence;
use crate::lock::election::CampaignError;
use crate::lock::hold::FenceBaseError;
use crate::lock::keys::LockName;
use crate::lock::seen::StoreWentBack;
use crate::lock::signal::Lost;
use crate::store::StoreError;

/// Why an operation on a lock failed. Which of these leave the context holding the lock is said at each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// It holds the lock as often as it may. It goes on holding it.
    #[error("`{lock}` is held {limit} times by this context, which is its limit: unlock it first")]
    LimitReached { lock: LockName, limit: u32 },
    /// The context believed that it held the lock, and does not. It gets this error once; after that it can lock again.
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
    /// The context's session is over, and it held nothing here: move it to another session
    /// ([`LockContext::move_to`](crate::lock::LockContext::move_to)). With [`Lost::TrustLapsed`] the lock was granted too
    /// late to be acted on, and was given back; the session may go on, and then the context may lock again.
    #[error(
        "nothing can be had under the context's session ({why}): {}",
        why.remedy("open another, and move the context to it")
    )]
    SessionLost { why: Lost },
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

impl From<CampaignError> for LockError {
    fn from(error: CampaignError) -> LockError {
        match error {
            CampaignError::SessionEnded(why) => LockError::SessionLost { why: Lost::SessionEnded(why) },
            CampaignError::TrustLapsed => LockError::SessionLost { why: Lost::TrustLapsed },
            CampaignError::FenceBase(error) => LockError::FenceBase(error),
            CampaignError::StoreWentBack(error) => LockError::StoreWentBack(error),
            CampaignError::Store(error) => LockError::Store(error),
            CampaignError::OtherCall(call) => {
                LockError::Store(StoreError::Unusable(format!("call {call} stands in the way")))
            }
        }
    }
}
