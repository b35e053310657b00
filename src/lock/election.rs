//! Leadership: campaigns and terms.

use super::contest::{Ask, Contended, Contest, RECHECK_EVERY, next_change};
use super::hold::{FenceBaseError, Hold, Manner, QueueRead};
use super::keys::{CallId, LockKeys, LockName};
use super::line::{Obstacle, Waiter};
use super::seen::StoreWentBack;
use super::session::{Session, SessionEnd};
use super::signal::{HoldOver, HoldSignal};
use super::{Backoff, Locks};
use crate::fence::Fence;
use crate::store::{Keys, LeaseId, Op, Range, Revision, Store, StoreError};
use crate::time::Wall;

/// How many places in a queue one step-down may set back.
pub const MOST_SET_BACK: usize = 100;

/// Contends for one lock, and observes its holder and waiters. See [`Locks::election`].
#[derive(Clone, Debug)]
pub struct Election<S> {
    contest: Contest<S>,
}

/// One node's leadership under one fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The proof: what every write of this term compares.
    pub hold: Hold,
}

impl Term {
    /// The number that every effect of this term is stamped with.
    pub fn fence(&self) -> Fence {
        self.hold.fence()
    }
}

/// Why a campaign ended without a term.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CampaignError {
    /// Open another session and campaign with that.
    #[error("the session is over ({0}), so it cannot win")]
    SessionEnded(SessionEnd),
    #[error(transparent)]
    FenceBase(#[from] FenceBaseError),
    #[error(transparent)]
    StoreWentBack(#[from] StoreWentBack),
    /// The lock was granted, but not before the session's trust had lapsed: another may hold it by now, so it was given
    /// back. The session may go on: campaign again, with another call.
    #[error(
        "the lock was granted after the session's trust had lapsed (no keep-alive was acknowledged in time), and was given \
         back: campaign again"
    )]
    TrustLapsed,
    /// The session would wait for itself.
    #[error("call {0} of the same session holds the lock or waits for it already: resign or withdraw it first")]
    OtherCall(CallId),
    /// An error that repeating does not help. The call may stand in the queue: withdraw it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a term was not ended in favour of a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepDownError {
    #[error("node `{node}` does not wait for the lock (or more than {MOST_SET_BACK} wait before it): the term goes on")]
    NotWaiting { node: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a resignation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resigned {
    /// The hold ended by this resignation (or by an earlier one of the same term).
    Released,
    /// It had ended before: the session's lease, or an operator's hand.
    HadEnded,
}

/// The leader, the waiters, and the obstacles, at one revision.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ElectionState {
    pub leader: Option<Leader>,
    /// In the order in which they will be granted the lock.
    pub waiting: Vec<Waiter>,
    pub obstacles: Vec<Obstacle>,
    /// Why nothing can be granted, where the fence base is damaged.
    pub base: Result<(), FenceBaseError>,
    /// Why nothing will be granted to this node, where the store is older than it was.
    pub age: Result<(), StoreWentBack>,
    pub revision: Revision,
}

/// The holder of the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    pub node: String,
    pub session: LeaseId,
    pub fence: Fence,
    pub since: Wall,
    /// What the session published of its node; `None` where its key is gone.
    pub record: Option<Vec<u8>>,
}

impl<S: Store> Election<S> {
    pub(super) fn new(locks: Locks<S>, name: &LockName) -> Election<S> {
        Election { contest: Contest::new(locks, name, Manner::Candidate) }
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &S {
        &self.contest.locks.store
    }

    /// The key whose changes are the changes of leadership: what to watch.
    pub fn owner_key(&self) -> &str {
        &self.contest.keys.owner
    }

    /// Stands in the queue until the lock is granted. It goes on trying while the store is away, until the session
    /// ends.
    ///
    /// Dropping the future leaves the call in the queue, where it may still win: [`Election::withdraw`] it, or campaign
    /// again with the same session and call, which goes on where this one was, and adopts what it won.
    pub async fn campaign(&self, session: &Session<S>, call: CallId) -> Result<Term, CampaignError> {
        let (member, caller) = (session.member(), session.caller(call));
        let contended = tokio::select! {
            biased;
            why = session.ended() => Err(CampaignError::SessionEnded(why)),
            contended = self.contest.win(&member, &caller, Ask::Wait(None)) => contended,
        };
        match contended {
            Ok(Contended::Won(hold)) => Ok(Term { hold }),
            Err(CampaignError::TrustLapsed) => {
                if let Err(error) = self.contest.take_back(&member, &caller).await {
                    tracing::warn!(%error, %call, "a lock that was won too late is given back in the background");
                }
                Err(CampaignError::TrustLapsed)
            }
            Err(error) => Err(error),
            Ok(Contended::Busy { .. } | Contended::Destroyed) => {
                let why = format!("a candidate for `{}` was asked not to wait", self.contest.keys.owner);
                Err(StoreError::Unusable(why).into())
            }
        }
    }

    /// Ends the term, so that the next in the queue follows at once. Drain first: what still runs loses its proof.
    ///
    /// # Errors
    ///
    /// Where the store does not answer in about ten seconds. Resigning again is harmless; closing the session ends the
    /// term as well.
    pub async fn resign(&self, term: &Term) -> Result<Resigned, StoreError> {
        Ok(if self.contest.free(&term.hold).await? { Resigned::Released } else { Resigned::HadEnded })
    }

    /// Ends the term in favour of the first waiter of the node `node`. The waiters before it have to join the queue again.
    ///
    /// # Errors
    ///
    /// [`StepDownError::NotWaiting`] where no such node waits: the term goes on then.
    pub async fn step_down_for(&self, term: &Term, node: &str) -> Result<Resigned, StepDownError> {
        let (line, _) = self.contest.observe(QueueRead::Whole).await?;
        let before = line.places_before(node).filter(|before| before.len() <= MOST_SET_BACK);
        let before = before.ok_or_else(|| StepDownError::NotWaiting { node: node.to_owned() })?;
        let keys = &self.contest.keys;
        let release = before.into_iter().fold(keys.release(&term.hold), |txn, place| txn.then(Op::delete(place)));
        let committed = self.contest.settle(release).await?;
        let released = committed.succeeded || LockKeys::was_settled(committed.got(0), term.hold.call());
        Ok(if released { Resigned::Released } else { Resigned::HadEnded })
    }

    /// Leads again and again, until the session ends or `lead` answers something: each time the lock is won, `lead` is
    /// called with the term, and with the signal by which the term ends. It is cancelled (dropped at its next `await`)
    /// as soon as the term ends or may have ended; when it returns by itself, the term is resigned. Dropping the future
    /// leaves the term to end with the session.
    ///
    /// # Errors
    ///
    /// As [`Election::campaign`]; the first one ends the loop.
    pub async fn lead<T>(
        &self,
        session: &Session<S>,
        mut lead: impl AsyncFnMut(&Term, &HoldSignal) -> Option<T>,
    ) -> Result<T, CampaignError> {
        loop {
            let term = self.campaign(session, self.contest.locks.calls.next()).await?;
            let signal = self.signal(session, &term);
            let led = tokio::select! {
                biased;
                _ = signal.lost() => None,
                led = lead(&term, &signal) => led,
            };
            self.end(session, &term).await?;
            if let Some(led) = led {
                return Ok(led);
            }
        }
    }

    /// The signal by which a term of the session ends.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn signal(&self, session: &Session<S>, term: &Term) -> HoldSignal {
        HoldSignal::of(&self.contest.locks, term.hold.proof(), session.trust(), HoldOver::default())
    }

    /// Resigns, and goes on trying while the store is unavailable: as long as the old term may stand, the session
    /// cannot campaign again.
    async fn end(&self, session: &Session<S>, term: &Term) -> Result<(), CampaignError> {
        loop {
            let resigned = tokio::select! {
                biased;
                why = session.ended() => return Err(CampaignError::SessionEnded(why)),
                resigned = self.resign(term) => resigned,
            };
            match resigned {
                Err(error) if error.is_passing() => tracing::debug!(%error, "resigning again"),
                resigned => return Ok(resigned.map(drop)?),
            }
        }
    }

    /// The next leader: waits until the lock is held under another fence than `after`. Called again with the fence that
    /// it answered, it reports one term after the other, except for terms that begin and end between two calls.
    pub async fn next_leader(&self, after: Option<Fence>) -> Result<Leader, StoreError> {
        let mut backoff = Backoff::new();
        loop {
            let state = match self.observe().await {
                Ok(state) => state,
                Err(error) if error.is_passing() => {
                    backoff.wait().await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(leader) = state.leader.filter(|leader| Some(leader.fence) != after) {
                return Ok(leader);
            }
            let owner = Keys::one(self.owner_key());
            match Box::pin(self.contest.locks.store.watch(owner, state.revision.next())).await {
                Ok(mut watch) => {
                    tokio::select! {
                        _ = next_change(&mut watch) => {}
                        () = tokio::time::sleep(RECHECK_EVERY) => {}
                    }
                }
                Err(error) if error.is_passing() => backoff.wait().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes back a call whose campaign was dropped or failed: afterwards it neither waits nor holds, and no request of
    /// it that is still under way can change that.
    ///
    /// # Errors
    ///
    /// Where the store does not answer in about ten seconds. Withdrawing again is harmless; closing the session ends
    /// the call as well.
    pub async fn withdraw(&self, session: &Session<S>, call: CallId) -> Result<(), StoreError> {
        self.contest.withdraw(&session.caller(call)).await
    }

    /// The leader, the waiters, and the obstacles, now.
    pub async fn observe(&self) -> Result<ElectionState, StoreError> {
        let (line, age) = self.contest.observe(QueueRead::Whole).await?;
        let leader = match line.holder() {
            None => None,
            Some(holder) => {
                let session = Keys::one(self.contest.locks.namespace.session_key(holder.lease));
                let mut page = Box::pin(self.contest.locks.store.range(Range::of(session))).await?;
                let record = page.entries.pop().map(|entry| entry.value);
                let (node, session, fence, since) = (holder.node, holder.lease, holder.fence, holder.since);
                Some(Leader { node, session, fence, since, record })
            }
        };
        let base = match line.past.base.as_ref() {
            // A namespace without keys has no obstacle: its first session creates the fence base.
            Err(FenceBaseError::Missing { .. }) if self.contest.locks.is_new().await? => Ok(()),
            base => base.map(drop).map_err(Clone::clone),
        };
        Ok(ElectionState {
            leader,
            waiting: line.waiters(),
            obstacles: line.obstacles(),
            base,
            age,
            revision: line.revision,
        })
    }
}
