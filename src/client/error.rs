//! One error for all that a client does.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::elected::NotAJobName;
#[cfg(feature = "jobs")]
use crate::jobs::JobsError;
#[cfg(feature = "jobs")]
use crate::ledger::NotAKey;
use crate::lock::{
    BadTtl, CampaignError, FenceBaseError, HeldBy, LockError, LockName, Lost, NotALockName, NotANamespace,
    SeenFileError, SemaphoreError, SessionError, StoreWentBack,
};
#[cfg(feature = "jobs")]
use crate::once::OnceError;
use crate::store::{NotAStore, StoreError};

/// Why a [`Client`](crate::Client) did not do what it was asked to do.
///
/// The message says what happened, to what, and what to do. `Debug` prints the same message, and below it the causes,
/// so that a `main` that answers `Result<(), fencron::Error>` ends with a text for people. A program decides by the
/// `is_…` methods; every error is one of these kinds:
///
/// | kind | what it means for the caller |
/// | --- | --- |
/// | [`is_not_acquired`](Error::is_not_acquired) | Another caller holds it, and the wait is over. Nothing was begun. |
/// | [`is_deadlock`](Error::is_deadlock) | The call would wait for the flow that makes it. A mistake in the program. |
/// | [`is_lost`](Error::is_lost) | The hold ended before the work under it did. Another may hold the lock now. |
/// | [`is_unknown`](Error::is_unknown) | No answer came: a write may or may not have been applied. |
/// | [`is_unavailable`](Error::is_unavailable) | The store does not answer. Nothing has changed; try again later. |
/// | [`is_refused`](Error::is_refused) | A person has to act: rights, a restored store, a store that is full. |
/// | [`is_failed`](Error::is_failed) | The caller's own work has failed. |
/// | [`is_closed`](Error::is_closed) | The client was closed. |
/// | [`is_invalid`](Error::is_invalid) | A name, a URL or a setting that cannot be used. |
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let error = fencron::Client::connect("redis://10.0.0.1").await.expect_err("no such store");
/// assert!(error.is_invalid());
/// assert_eq!(
///     format!("{error:?}"),
///     "a URL that begins with `redis:` is no store: write sqlite:PATH, etcd://HOST:PORT[,…], etcds://…, postgres://HOST/DATABASE or memory:"
/// );
/// # });
/// ```
pub struct Error {
    kind: Kind,
    source: Box<dyn StdError + Send + Sync>,
}

/// The kind, by which a program decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    NotAcquired,
    Deadlock,
    Lost,
    Unknown,
    Unavailable,
    Refused,
    Failed,
    Closed,
    Invalid,
}

/// Errors of the client itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Said {
    #[error("`{name}` was not acquired in {waited:?}{}", held_by(.holder.as_ref()))]
    NotAcquired { name: LockName, waited: Duration, holder: Option<HeldBy> },
    #[error(
        "`{name}` is held by this very flow, under a guard that it acquired (fence {fence}): it would wait for itself. \
         Drop the guard first, run the work by `Guard::with`, or run branches that go on at the same time in \
         `fencron::isolated` or a task each; a guard that is given to another task needs `Guard::detached`"
    )]
    HeldByGuard { name: LockName, fence: crate::fence::Fence },
    #[error(
        "`{name}` is held by this very flow, in a `with` around this call: it would wait for itself. Call `with`, which \
         enters the hold again, or do it after the `with` around it"
    )]
    HeldAround { name: LockName },
    #[error("`{name}` was entered {limit} times by this flow, which is its limit: it would wait for itself")]
    LimitReached { name: LockName, limit: u32 },
    #[error("the permits of `{name}` are lost ({why}): stop what ran under them, others may have them")]
    PermitsLost { name: LockName, why: Lost },
    #[cfg(feature = "jobs")]
    #[error("`{key}` has failed: {why}")]
    OnceFailed { key: String, why: String },
    #[cfg(feature = "jobs")]
    #[error(
        "it is unknown whether `{key}` was done: {why}. Find out, and record it: `fencron once {key} --resolve done` or \
         `--resolve retry`"
    )]
    OnceUnknown { key: String, why: String },
    #[error("the client was closed: nothing can be acquired by it any more")]
    Closed,
    #[error("{0}")]
    Invalid(String),
}

fn held_by(holder: Option<&HeldBy>) -> String {
    let said = |holder: &HeldBy| format!(": {} (fence {}) holds it since {}", holder.node, holder.fence, holder.since);
    holder.map(said).unwrap_or_default()
}

impl Error {
    fn new(kind: Kind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error { kind, source: source.into() }
    }

    pub(super) fn lost(lock: LockName, fence: crate::fence::Fence, why: Lost) -> Error {
        LockError::OwnershipLost { lock, fence, why }.into()
    }

    /// The wait is over, and another caller holds it.
    pub fn is_not_acquired(&self) -> bool {
        self.kind == Kind::NotAcquired
    }

    /// The call would have waited for something that the flow which makes it holds itself: see
    /// [`isolated`](crate::isolated).
    pub fn is_deadlock(&self) -> bool {
        self.kind == Kind::Deadlock
    }

    /// A hold ended before the work under it did: its session is over, an operator took it, or it lasted for as long as it
    /// may. The work may have been done in part; another may hold the lock by now, under a greater fence.
    pub fn is_lost(&self) -> bool {
        self.kind == Kind::Lost
    }

    /// It is unknown whether it was done: no answer came to a write, or a process was lost in the middle of it.
    pub fn is_unknown(&self) -> bool {
        self.kind == Kind::Unknown
    }

    /// The store did not answer. Nothing has changed, and the same may succeed later.
    pub fn is_unavailable(&self) -> bool {
        self.kind == Kind::Unavailable
    }

    /// The store, or this library for its sake, refuses: missing rights, a store that was restored from a backup, contents
    /// that cannot be used. To repeat it does not help; a person has to act.
    pub fn is_refused(&self) -> bool {
        self.kind == Kind::Refused
    }

    /// What the caller wanted done has failed by itself.
    pub fn is_failed(&self) -> bool {
        self.kind == Kind::Failed
    }

    /// The client was [closed](crate::Client::close).
    pub fn is_closed(&self) -> bool {
        self.kind == Kind::Closed
    }

    /// A name, a URL or a setting that cannot be used: a mistake in the program or its configuration.
    pub fn is_invalid(&self) -> bool {
        self.kind == Kind::Invalid
    }

    /// The error of the layer below, such as [`StoreError`] or [`LockError`], where it is one of this type.
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.source.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, "\n  caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

fn kind_of_store(error: &StoreError) -> Kind {
    match error {
        StoreError::Unknown { .. } => Kind::Unknown,
        StoreError::Unavailable { .. } => Kind::Unavailable,
        StoreError::LeaseEnded(_) => Kind::Lost,
        StoreError::Compacted { .. } | StoreError::Refused(_) | StoreError::Denied { .. } | StoreError::Unusable(_) => {
            Kind::Refused
        }
    }
}

fn kind_of_lock(error: &LockError) -> Kind {
    match error {
        LockError::LimitReached { .. } => Kind::Deadlock,
        LockError::OwnershipLost { .. } => Kind::Lost,
        // Nothing was held yet.
        LockError::SessionLost { .. } => Kind::Unavailable,
        LockError::WaitCancelled { .. } => Kind::NotAcquired,
        LockError::NotTheOwner { .. } => Kind::Invalid,
        LockError::OutcomeUnknown { .. } => Kind::Unknown,
        LockError::LockDestroyed { .. } | LockError::FenceBase(_) | LockError::StoreWentBack(_) => Kind::Refused,
        LockError::Store(error) => kind_of_store(error),
    }
}

fn kind_of_semaphore(error: &SemaphoreError) -> Kind {
    match error {
        SemaphoreError::MoreThanThereAre { .. } | SemaphoreError::OutOfBounds(_) => Kind::Invalid,
        SemaphoreError::SessionLost { .. } => Kind::Unavailable,
        SemaphoreError::OutcomeUnknown { .. } => Kind::Unknown,
        SemaphoreError::StoreWentBack(_) => Kind::Refused,
        SemaphoreError::Store(error) => kind_of_store(error),
    }
}

fn kind_of_session(error: &SessionError) -> Kind {
    match error {
        SessionError::Ended { .. } => Kind::Unavailable,
        SessionError::Store(error) => kind_of_store(error),
        SessionError::Thread(_) => Kind::Refused,
    }
}

fn kind_of_campaign(error: &CampaignError) -> Kind {
    match error {
        CampaignError::SessionEnded(_) | CampaignError::TrustLapsed => Kind::Lost,
        CampaignError::OtherCall(_) => Kind::Deadlock,
        CampaignError::FenceBase(_) | CampaignError::StoreWentBack(_) => Kind::Refused,
        CampaignError::Store(error) => kind_of_store(error),
    }
}

fn kind_of_said(said: &Said) -> Kind {
    match said {
        Said::NotAcquired { .. } => Kind::NotAcquired,
        Said::HeldByGuard { .. } | Said::HeldAround { .. } | Said::LimitReached { .. } => Kind::Deadlock,
        Said::PermitsLost { .. } => Kind::Lost,
        #[cfg(feature = "jobs")]
        Said::OnceFailed { .. } => Kind::Failed,
        #[cfg(feature = "jobs")]
        Said::OnceUnknown { .. } => Kind::Unknown,
        Said::Closed => Kind::Closed,
        Said::Invalid(_) => Kind::Invalid,
    }
}

#[cfg(feature = "jobs")]
fn kind_of_once(error: &OnceError) -> Kind {
    match error {
        OnceError::Different(_) => Kind::Invalid,
        OnceError::NotInTime { .. } => Kind::NotAcquired,
        OnceError::Stopped(_) => Kind::Failed,
        OnceError::Lost { .. } => Kind::Lost,
        OnceError::Session(error) => kind_of_session(error),
        OnceError::Campaign(error) => kind_of_campaign(error),
        OnceError::Store(error) => kind_of_store(error),
    }
}

#[cfg(feature = "jobs")]
fn kind_of_jobs(error: &JobsError) -> Kind {
    match error {
        JobsError::Client(error) => error.downcast_ref::<Error>().map_or(Kind::Failed, |error| error.kind),
        JobsError::NoJobs
        | JobsError::Wrong(_)
        | JobsError::NoSuchJob(_)
        | JobsError::Param(_)
        | JobsError::Asked(_) => Kind::Invalid,
        JobsError::Store(error) => kind_of_store(error),
        JobsError::Chores(_) => Kind::Refused,
        JobsError::Running => Kind::Invalid,
        JobsError::Node(_) => Kind::Failed,
        JobsError::Stopped => Kind::Closed,
    }
}

/// A service that answers what went wrong with its jobs connects as well.
#[cfg(feature = "jobs")]
impl From<Error> for JobsError {
    fn from(error: Error) -> JobsError {
        JobsError::Client(std::sync::Arc::new(error))
    }
}

macro_rules! converts {
    ($($error:ty => $kind:expr),* $(,)?) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Error {
                let kind: fn(&$error) -> Kind = $kind;
                Error::new(kind(&error), error)
            }
        })*
    };
}

#[cfg(feature = "jobs")]
converts! {
    OnceError => kind_of_once,
    JobsError => kind_of_jobs,
    NotAKey => |_| Kind::Invalid,
}

converts! {
    Said => kind_of_said,
    StoreError => kind_of_store,
    LockError => kind_of_lock,
    SemaphoreError => kind_of_semaphore,
    SessionError => kind_of_session,
    CampaignError => kind_of_campaign,
    FenceBaseError => |_| Kind::Refused,
    StoreWentBack => |_| Kind::Refused,
    SeenFileError => |_| Kind::Refused,
    NotALockName => |_| Kind::Invalid,
    NotANamespace => |_| Kind::Invalid,
    NotAJobName => |_| Kind::Invalid,
    NotAStore => |_| Kind::Invalid,
    BadTtl => |_| Kind::Invalid,
}
