//! Acquiring a lock or permits, reports while it waits, and the release.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::signals::Signals;
use super::{Invocation, What};
use crate::cli::once::say;
use crate::cli::outage::outage;
use crate::cli::terminal::visible;
use crate::cli::{Exit, Failure};
use crate::fence::{Fence, Scope};
use crate::lock::{
    Config, FencedLock, HoldSignal, LockContext, LockError, Permits, Reentrancy, Resigned, SemaphoreError, Session,
    SessionError, Waiter,
};
use crate::store::{AnyStore, LeaseId, StoreError};

/// After this time of waiting, the holder is reported.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// How often the queue is read for a verbose wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The result of waiting.
pub(super) enum Acquired {
    Held(Box<Held>),
    NotInTime,
    Cancelled(Signal),
    /// The session ended meanwhile, and the place in the queue with it.
    SessionOver,
}

/// What is held.
pub(super) enum Held {
    Lock { lock: FencedLock<AnyStore>, context: Box<LockContext>, scope: Scope, fence: Fence },
    Permits(Permits<AnyStore>),
}

/// What a release found.
pub(super) enum Released {
    Now,
    /// It had been lost before.
    HadEnded(String),
    /// The store did not say.
    Unknown(String),
}

impl Invocation {
    /// Waits for it: for as long as it takes, or `wait`, or (zero) not at all.
    pub(super) async fn acquire(
        &self,
        session: &Session<AnyStore>,
        wait: Option<Duration>,
        signals: &mut Signals,
    ) -> anyhow::Result<Acquired> {
        if let What::Permits { permits, .. } = self.what {
            self.compare_permits(permits).await;
        }
        let held = tokio::select! {
            biased;
            // The call is taken back with the session, which ends next.
            signal = signals.ending() => return Ok(Acquired::Cancelled(signal)),
            held = self.enter(session, wait) => held,
            () = self.narrate(session) => return Ok(Acquired::NotInTime),
        };
        match held {
            Ok(Some(held)) => Ok(Acquired::Held(Box::new(held))),
            Ok(None) => Ok(Acquired::NotInTime),
            Err(Refused::SessionOver) => Ok(Acquired::SessionOver),
            Err(Refused::Failed(failure)) => Err(failure),
        }
    }

    async fn enter(&self, session: &Session<AnyStore>, wait: Option<Duration>) -> Result<Option<Held>, Refused> {
        let (delay, take, permits) = match self.what {
            What::Lock { delay } => (delay, 0, 0),
            What::Lead { .. } => (None, 0, 0),
            What::Permits { permits, take } => (None, take, permits),
        };
        if take > 0 {
            let semaphore = self.locks.semaphore(self.name.clone(), permits);
            let permits = match wait {
                None => semaphore.acquire(session, take).await.map(Some),
                Some(wait) => semaphore.acquire_within(session, take, wait).await,
            };
            return Ok(permits?.map(Held::Permits));
        }
        let config = Config { reentrancy: Reentrancy::No, max_hold: None, lock_delay: delay };
        let lock = self.locks.fenced(self.name.clone(), config);
        let mut context = Box::new(session.context());
        let fence = match wait {
            None => Some(lock.lock_and_get_fence(&mut context).await?),
            Some(wait) => lock.try_lock_for_and_get_fence(&mut context, wait).await?,
        };
        let scope = Scope::lock(self.place.namespace.as_str(), self.name.as_str());
        Ok(fence.map(|fence| Held::Lock { lock, context, scope, fence }))
    }

    /// The number of permits is that of the store.
    async fn compare_permits(&self, permits: u32) {
        // Where it cannot be read, the call itself says why.
        let Ok(state) = self.locks.semaphore(self.name.clone(), permits).state().await else { return };
        if let Some(stored) = state.permits.filter(|stored| *stored != permits) {
            let name = self.shown();
            say(&format!(
                "fencron: {name} has {stored} permits, not {permits}: that holds. `--set-permits` changes it for all"
            ));
        }
    }

    /// Reports the holder: once after a while, or each change if that is wanted. Never ends.
    async fn narrate(&self, session: &Session<AnyStore>) {
        if self.args.quiet || self.args.at_once {
            return std::future::pending().await;
        }
        let (mut reported, mut outage) = (String::new(), outage(false));
        let mut pause = if self.args.verbose { Duration::ZERO } else { TOLD_AFTER };
        loop {
            tokio::time::sleep(pause).await;
            pause = LOOK_EVERY;
            let standing = match self.look(session).await {
                Ok(standing) => standing,
                Err(error) => {
                    outage.goes_on(&error);
                    continue;
                }
            };
            outage.is_over();
            let Some(standing) = standing else { continue };
            if standing != reported {
                say(&format!("fencron: waiting: {standing}"));
                reported = standing;
            }
            if !self.args.verbose {
                return std::future::pending().await;
            }
        }
    }

    /// The holder, and the number of waiters before this one.
    pub(super) async fn look(&self, session: &Session<AnyStore>) -> Result<Option<String>, StoreError> {
        let name = self.shown();
        if let What::Permits { permits, take } = self.what {
            let state = match self.locks.semaphore(self.name.clone(), permits).state().await {
                Ok(state) => state,
                Err(SemaphoreError::Store(error)) => return Err(error),
                Err(_) => return Ok(None),
            };
            if state.held.iter().any(|held| held.session == Some(session.lease())) {
                return Ok(None);
            }
            let (all, free) = (state.permits.unwrap_or(permits), state.available().max(0));
            let mut holders: Vec<String> = state.held.iter().map(|held| visible(&held.node)).collect();
            let more = holders.len().saturating_sub(HOLDERS_SHOWN);
            holders.truncate(HOLDERS_SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let wanted = if take > 1 { format!(", {take} are asked for") } else { String::new() };
            let ahead = ahead(&state.waiting, session.lease());
            let by = if holders.is_empty() { String::new() } else { format!(", held by {}{more}", holders.join(", ")) };
            return Ok(Some(format!("{name} has {free} of {all} permits free{wanted}{by}{ahead}")));
        }
        let standing = self.locks.election(self.name.clone()).observe().await?;
        let ahead = ahead(&standing.waiting, session.lease());
        if let Some(obstacle) = standing.obstacles.first() {
            return Ok(Some(format!("{name}: {obstacle}{ahead}")));
        }
        let Some(leader) = standing.leader else { return Ok(Some(format!("{name} has no holder yet{ahead}"))) };
        // It was granted just now, and its answer is still on its way here.
        if leader.session == session.lease() {
            return Ok(None);
        }
        let (node, fence, since) = (visible(&leader.node), leader.fence, leader.since);
        let itself = if self.is_inside(fence) {
            "; that is the command by which this one was started, so this may wait for ever"
        } else {
            ""
        };
        Ok(Some(format!("{name} is held by {node} (fence {fence}) since {since}{ahead}{itself}")))
    }

    /// Whether this runs under the very hold that it waits for.
    fn is_inside(&self, fence: Fence) -> bool {
        let scope = Scope::lock(self.place.namespace.as_str(), self.name.as_str());
        let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
        is("FENCRON_SCOPE", scope.as_str()) && is("FENCRON_FENCE", &fence.to_string())
    }
}

/// Of a semaphore, so many holders are named in a report.
const HOLDERS_SHOWN: usize = 5;

fn ahead(waiting: &[Waiter], own: LeaseId) -> String {
    match waiting.iter().position(|waiter| waiter.session == Some(own)) {
        None if waiting.is_empty() => String::new(),
        None => format!("; {} waiting", waiting.len()),
        Some(0) => "; next is this one".to_owned(),
        Some(ahead) => format!("; {ahead} before this one"),
    }
}

impl Held {
    /// The hold, where it has a fence.
    pub fn hold(&self) -> Option<(Scope, Fence)> {
        match self {
            Held::Lock { scope, fence, .. } => Some((scope.clone(), *fence)),
            Held::Permits(_) => None,
        }
    }

    /// The signal by which it ends.
    pub fn signal(&self) -> HoldSignal {
        match self {
            Held::Lock { lock, context, .. } => lock.signal(context).expect("the context has just locked it"),
            Held::Permits(permits) => permits.signal(),
        }
    }

    pub async fn release(self) -> Released {
        match self {
            Held::Lock { lock, mut context, .. } => match lock.unlock(&mut context).await {
                Ok(()) => Released::Now,
                Err(LockError::OwnershipLost { why, .. }) => Released::HadEnded(why.to_string()),
                Err(error @ (LockError::LockDestroyed { .. } | LockError::NotTheOwner { .. })) => {
                    Released::HadEnded(error.to_string())
                }
                Err(error) => Released::Unknown(error.to_string()),
            },
            Held::Permits(permits) => match permits.release().await {
                Ok(Resigned::Released) => Released::Now,
                Ok(Resigned::HadEnded) => Released::HadEnded("they were revoked".to_owned()),
                Err(error) => Released::Unknown(error.to_string()),
            },
        }
    }
}

/// Why it was not acquired.
enum Refused {
    SessionOver,
    Failed(anyhow::Error),
}

impl Refused {
    /// The call ends with the session, which is closed next, also if it took effect.
    fn unanswered(name: &str, source: &StoreError) -> Refused {
        let why = format!("{} was not acquired in time, and the store does not answer: {source}", visible(name));
        Refused::Failed(Failure::new(Exit::StoreUnreachable, why).into())
    }
}

impl From<LockError> for Refused {
    fn from(error: LockError) -> Refused {
        match error {
            LockError::SessionLost { .. } => Refused::SessionOver,
            LockError::OutcomeUnknown { lock, source } => Refused::unanswered(lock.as_str(), &source),
            error => Refused::Failed(lock_failure(error)),
        }
    }
}

impl From<SemaphoreError> for Refused {
    fn from(error: SemaphoreError) -> Refused {
        match error {
            SemaphoreError::SessionLost { .. } => Refused::SessionOver,
            SemaphoreError::OutcomeUnknown { semaphore, source } => Refused::unanswered(semaphore.as_str(), &source),
            error => Refused::Failed(semaphore_failure(error)),
        }
    }
}

fn lock_failure(error: LockError) -> anyhow::Error {
    let exit = match error {
        LockError::Store(error) => return error.into(),
        LockError::FenceBase(_) | LockError::StoreWentBack(_) => Exit::StoreUnreachable,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string()).into()
}

pub(in crate::cli) fn semaphore_failure(error: SemaphoreError) -> anyhow::Error {
    let exit = match error {
        SemaphoreError::Store(error) => return error.into(),
        SemaphoreError::MoreThanThereAre { .. } | SemaphoreError::OutOfBounds(_) => Exit::Wrong,
        SemaphoreError::OutcomeUnknown { .. } | SemaphoreError::StoreWentBack(_) => Exit::StoreUnreachable,
        SemaphoreError::SessionLost { .. } => Exit::Lost,
    };
    Failure::new(exit, error.to_string()).into()
}

pub(super) fn session_failure(error: SessionError) -> anyhow::Error {
    match error {
        SessionError::Store(error) => error.into(),
        error @ SessionError::Thread(_) => Failure::new(Exit::Failed, error.to_string()).into(),
        error @ SessionError::Ended { .. } => Failure::new(Exit::StoreUnreachable, error.to_string()).into(),
    }
}
