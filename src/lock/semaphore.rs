//! A semaphore: so many at once, over all sessions.

use std::time::Duration;

use super::contest::{Freed, Noticed, commit, history_of, next_change_of, settle};
use super::context::LockContext;
use super::election::Resigned;
use super::errands::{Errand, Unsettled};
use super::fenced::TRY_WITHIN;
use super::hold::{Proof, QueueRead, is_settled, void};
use super::keys::{CallId, LockName, SemaphoreKeys};
use super::permits::{Claim, PERMITS_MOST, PermitStep, Pool, ShareRecord};
use super::seen::{Seen, StoreWentBack};
use super::session::{Member, Session, SessionEnd};
use super::signal::{HoldOver, HoldSignal, Lost};
use super::{Backoff, Locks, Waiter};
use crate::store::{Committed, Compare, Entry, LeaseId, Op, Revision, Store, StoreError, Txn};
use crate::time::Wall;

/// A number of permits that sessions hold, at most so many altogether. Cheap to clone.
///
/// First come, first served: a call for many permits is not overtaken by calls for few. What a session holds is freed
/// when it ends, by itself or by a crash.
///
/// **A semaphore gives no fence.** A fence turns away a holder that was replaced by a later one. But several sessions
/// hold permits at the same time, and which of them came later does not say which may still act. To protect a resource
/// from holders that have lost their permits without knowing it, give each part of the resource (each slot, each shard)
/// a lock of its own, whose holds have fences.
#[derive(Clone, Debug)]
pub struct Semaphore<S> {
    locks: Locks<S>,
    keys: SemaphoreKeys,
    name: LockName,
    initially: u32,
}

/// Why permits were not got.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SemaphoreError {
    /// More than there are altogether: it would wait for ever, and keep all others waiting.
    #[error("{asked} permits of `{semaphore}` were asked for, which has {permits}: ask for fewer, or give it more")]
    MoreThanThereAre { semaphore: LockName, asked: u32, permits: u32 },
    #[error("a semaphore has 1 to {PERMITS_MOST} permits, and so many may be asked for; not {0}")]
    OutOfBounds(u32),
    /// With [`Lost::TrustLapsed`] the permits were granted too late to be acted on, and were given back; the session may go
    /// on, and then permits may be asked for again.
    #[error("nothing can be had under the session ({why}): {}", why.remedy("open another"))]
    SessionLost { why: Lost },
    /// It may hold permits or wait for them: that is taken back in the background, and ends with the session at last.
    #[error("it is not known whether the request for permits of `{semaphore}` took effect ({source})")]
    OutcomeUnknown { semaphore: LockName, source: StoreError },
    #[error(transparent)]
    StoreWentBack(#[from] StoreWentBack),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The holders and the waiters of a semaphore, at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SemaphoreState {
    /// How many there are; `None`: the semaphore was never used.
    pub permits: Option<u32>,
    pub held: Vec<PermitsHeld>,
    /// In the order in which they will get theirs.
    pub waiting: Vec<Waiter>,
    pub revision: Revision,
}

impl SemaphoreState {
    /// How many permits are free. Negative after their number was lowered, until enough were given back.
    pub fn available(&self) -> i64 {
        let held: i64 = self.held.iter().map(|held| i64::from(held.permits)).sum();
        self.permits.map_or(0, i64::from) - held
    }
}

/// A holder of permits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PermitsHeld {
    pub node: String,
    pub session: Option<LeaseId>,
    pub permits: u32,
    /// By the wall clock of the holder.
    pub since: Wall,
}

/// Permits that are held until this is released or dropped, or the session ends.
///
/// Dropping it cannot wait for the store, so the release is only sent, by the task or thread that keeps the session alive;
/// no error is returned. If you must know that they are free, call [`Permits::release`].
#[derive(Debug)]
pub struct Permits<S: Store> {
    semaphore: Semaphore<S>,
    member: Member,
    call: CallId,
    proof: Proof,
    permits: u32,
    over: HoldOver,
    open: bool,
}

impl<S: Store> Semaphore<S> {
    pub(super) fn new(locks: Locks<S>, name: LockName, initially: u32) -> Semaphore<S> {
        let keys = SemaphoreKeys::new(&locks.namespace, &name);
        Semaphore { locks, keys, name, initially }
    }

    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// Waits for `permits` permits. It goes on trying while the store is away, until the session ends. Dropping the future
    /// takes the call back, in the background.
    ///
    /// # Errors
    ///
    /// [`SemaphoreError::MoreThanThereAre`] also where their number is lowered while it waits, as soon as it is its turn.
    pub async fn acquire(&self, session: &Session<S>, permits: u32) -> Result<Permits<S>, SemaphoreError> {
        let got = self.enter(session.member(), permits, None, true).await?;
        got.ok_or_else(|| StoreError::Unusable("a call without a time limit ran out of time".to_owned()).into())
    }

    /// Permits that are free now and have no waiter; `None` if there are not so many.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::acquire`]; and the store's, where it does not answer in about ten seconds.
    pub async fn try_acquire(&self, session: &Session<S>, permits: u32) -> Result<Option<Permits<S>>, SemaphoreError> {
        self.enter(session.member(), permits, Some(TRY_WITHIN), false).await
    }

    /// As [`Semaphore::acquire`], but not for longer than `wait` (zero: as [`Semaphore::try_acquire`]); `None` where that
    /// was not enough.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::acquire`], and [`SemaphoreError::OutcomeUnknown`] where the store does not answer at the end.
    pub async fn acquire_within(
        &self,
        session: &Session<S>,
        permits: u32,
        wait: Duration,
    ) -> Result<Option<Permits<S>>, SemaphoreError> {
        if wait.is_zero() {
            return self.try_acquire(session, permits).await;
        }
        self.enter(session.member(), permits, Some(wait), true).await
    }

    /// The holders and the waiters, now.
    pub async fn state(&self) -> Result<SemaphoreState, SemaphoreError> {
        let pool = self.parse(settle(&self.locks.store, self.look(None, QueueRead::Whole)).await?)?;
        let waiter = |entry: &Entry| {
            let (node, since) = ShareRecord::read(&entry.value).map(|record| (record.node, record.since)).unzip();
            Waiter { node, session: entry.lease, since }
        };
        Ok(SemaphoreState {
            permits: pool.permits(),
            held: pool.holding.iter().filter_map(PermitsHeld::of).collect(),
            waiting: pool.waiting.iter().map(waiter).collect(),
            revision: pool.revision,
        })
    }

    /// Changes how many permits there are, for all callers and from now on. Holders keep theirs: after lowering the
    /// number, no permit is granted until enough were given back.
    ///
    /// # Errors
    ///
    /// [`SemaphoreError::OutOfBounds`].
    pub async fn set_permits(&self, permits: u32) -> Result<(), SemaphoreError> {
        check(permits)?;
        settle(&self.locks.store, Txn::new().then(self.keys.number(permits))).await?;
        Ok(())
    }

    /// For operators: revokes the permits of a session without asking it, and answers which they were. The session goes
    /// on, and learns of it by the signals of its permits. What it still does cannot be stopped from here, and no fence
    /// turns it away.
    pub async fn take_from(&self, session: LeaseId) -> Result<Vec<PermitsHeld>, SemaphoreError> {
        let mut taken = Vec::new();
        for (held, take) in self.revocations(session).await? {
            // Sent again, it finds what it was to take gone: by itself, or otherwise.
            settle(&self.locks.store, take).await?;
            taken.push(held);
        }
        Ok(taken)
    }

    /// What a session holds of the permits, and the transactions that revoke them.
    pub(crate) async fn revocations(&self, session: LeaseId) -> Result<Vec<(PermitsHeld, Txn)>, SemaphoreError> {
        let pool = self.parse(settle(&self.locks.store, self.look(None, QueueRead::Whole)).await?)?;
        let its = pool.holding.iter().filter(|entry| entry.lease == Some(session));
        let mut revocations = Vec::new();
        for entry in its {
            let key = entry.key.as_str();
            let mut take = Txn::new().when(Compare::created_at(key, entry.created)).then(Op::delete(key));
            let call = key.rsplit('/').next().and_then(CallId::parse);
            take.then.extend(call.map(|call| void(self.keys.settled(call), call)));
            revocations.extend(PermitsHeld::of(entry).map(|held| (held, take)));
        }
        Ok(revocations)
    }

    /// Removes the semaphore with its number of permits. Its holders lose their permits. Its waiters go on waiting, for
    /// a semaphore with the number of permits that they asked for it themselves.
    pub async fn destroy(&self) -> Result<(), SemaphoreError> {
        settle(&self.locks.store, Txn::new().then(Op::Delete(self.keys.all()))).await?;
        Ok(())
    }

    /// As [`Semaphore::acquire_within`], for a caller that has a context and no session; without `wait`, as long as it
    /// takes.
    pub(crate) async fn acquire_as(
        &self,
        context: &LockContext,
        permits: u32,
        wait: Option<Duration>,
    ) -> Result<Option<Permits<S>>, SemaphoreError> {
        let waits = wait != Some(Duration::ZERO);
        self.enter(context.member.clone(), permits, if waits { wait } else { Some(TRY_WITHIN) }, waits).await
    }

    async fn enter(
        &self,
        member: Member,
        permits: u32,
        within: Option<Duration>,
        waits: bool,
    ) -> Result<Option<Permits<S>>, SemaphoreError> {
        check(permits)?;
        check(self.initially)?;
        let claim = Claim { caller: member.caller(self.locks.calls.next()), permits };
        let abandoned = self.abandoned(&member, claim.caller.call);
        let clock = &self.locks.clock;
        let time_up = clock.reached(within.map(|within| clock.boot().plus(within)));
        let contended = tokio::select! {
            biased;
            why = member.ended() => {
                abandoned.settled();
                return Err(SemaphoreError::SessionLost { why: Lost::SessionEnded(why) });
            }
            contended = self.contend(&claim, waits) => contended,
            () = time_up => if waits { Ok(None) } else { Err(no_answer().into()) },
        };
        let failed = match contended {
            // The last look at the clock, as `handout` has it for locks.
            Ok(Some(proof)) => match member.lost(&self.locks.clock) {
                None => {
                    abandoned.settled();
                    let (call, over) = (claim.caller.call, HoldOver::default());
                    return Ok(Some(Permits {
                        semaphore: self.clone(),
                        member,
                        call,
                        proof,
                        permits,
                        over,
                        open: true,
                    }));
                }
                Some(why) => Some(SemaphoreError::SessionLost { why }),
            },
            Ok(None) => None,
            Err(error) => {
                if let SemaphoreError::SessionLost { why: Lost::SessionEnded(why) } = &error {
                    member.end(*why);
                }
                Some(error)
            }
        };
        let withdraw = Box::pin(settle(&self.locks.store, self.keys.withdraw(claim.caller.call)));
        let source = match abandoned.settle(withdraw).await {
            Ok(()) => return failed.map_or(Ok(None), Err),
            Err(source) => source,
        };
        Err(failed.unwrap_or_else(|| SemaphoreError::OutcomeUnknown { semaphore: self.name.clone(), source }))
    }

    /// `None`: it would have to wait, and is not to.
    async fn contend(&self, claim: &Claim, waits: bool) -> Result<Option<Proof>, SemaphoreError> {
        let contended = self.contend_here(claim, waits).await;
        if let Ok(Some(proof)) = &contended {
            self.locks.renew_beside(proof.still_stands(), false);
            self.locks.save_seen().await;
        }
        if let Err(SemaphoreError::StoreWentBack(_)) = &contended
            && let Err(error) = self.locks.verify().await
        {
            tracing::warn!(%error, "cannot report to the other nodes that the store went back");
        }
        contended
    }

    async fn contend_here(&self, claim: &Claim, waits: bool) -> Result<Option<Proof>, SemaphoreError> {
        let (mut backoff, mut looks) = (Backoff::new(), 0);
        let caller = &claim.caller;
        let (mut txn, mut sent, mut base) =
            (self.look(Some(claim), QueueRead::Near { queued: None }), Sent::Look, None);
        loop {
            let seen = self.locks.current();
            if sent == Sent::Take {
                txn.when.extend(self.keys.past.unforgotten(seen.marked).filter(|_| base == Some(seen.base)));
            }
            let looked = commit(&self.locks.store, std::mem::take(&mut txn)).await;
            let sent_before = std::mem::replace(&mut sent, Sent::Look);
            let pool = match looked {
                Ok(committed) if committed.succeeded && sent_before == Sent::Take => {
                    let (key, created) = (self.keys.held(caller.call), committed.revision);
                    self.locks.saw_mark(seen.base, created);
                    return Ok(Some(Proof { key, created, lease: caller.lease }));
                }
                Ok(committed) if sent_before == Sent::Found || committed.succeeded && sent_before == Sent::Enqueue => {
                    backoff.reset();
                    let queued = Some(committed.revision).filter(|_| sent_before == Sent::Enqueue);
                    txn = self.look(Some(claim), QueueRead::Near { queued });
                    continue;
                }
                Ok(committed) => self.read(committed, &seen)?,
                Err(StoreError::LeaseEnded(_)) => return Err(session_over(SessionEnd::Refused)),
                Err(error) if error.is_passing() => {
                    tracing::debug!(%error, call = %caller.call, "looking what became of the request");
                    backoff.wait().await;
                    txn = self.look(Some(claim), QueueRead::Near { queued: None });
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let queued = pool.queued(&self.keys, caller.call);
            base = pool.past.base.as_ref().ok().map(|base| base.value);
            (txn, sent) = match pool.next(&self.keys, claim, self.locks.clock.wall()) {
                PermitStep::Adopt(proof) => return Ok(Some(proof)),
                PermitStep::SessionGone => return Err(session_over(SessionEnd::KeyGone)),
                PermitStep::TooMany { permits } => {
                    let (semaphore, asked) = (self.name.clone(), claim.permits);
                    return Err(SemaphoreError::MoreThanThereAre { semaphore, asked, permits });
                }
                PermitStep::Unreadable => {
                    let why = format!("`{}` is no number of permits that this version can read", self.keys.permits);
                    return Err(StoreError::Unusable(why).into());
                }
                PermitStep::Found => (self.keys.found(self.initially), Sent::Found),
                PermitStep::Take(take) => (take, Sent::Take),
                PermitStep::Enqueue(_) | PermitStep::Wait { .. } if !waits => return Ok(None),
                PermitStep::Enqueue(enqueue) => (enqueue, Sent::Enqueue),
                PermitStep::Wait { behind } => {
                    let own = (self.keys.wait(caller.call), caller.session_key.as_str());
                    match next_change_of(&self.locks.store, behind, own, pool.revision.next(), &mut looks).await {
                        Ok(Noticed::Nothing) => backoff.wait().await,
                        Ok(Noticed::Deleted { .. } | Noticed::Changed) => {}
                        Err(error) if error.is_passing() => backoff.wait().await,
                        Err(error) => return Err(error.into()),
                    }
                    (self.look(Some(claim), QueueRead::Near { queued }), Sent::Look)
                }
            };
        }
    }

    /// Takes the call back in the background, unless that is settled.
    fn abandoned(&self, member: &Member, call: CallId) -> Unsettled {
        member.errands.unless_settled(Errand::Permits { call, withdraw: self.keys.withdraw(call) })
    }

    fn look(&self, claim: Option<&Claim>, view: QueueRead) -> Txn {
        Txn { then: Pool::look(&self.keys, claim.map(|claim| &claim.caller), view), ..Txn::new() }
    }

    fn parse(&self, committed: Committed) -> Result<Pool, StoreError> {
        let other = || StoreError::Unusable("the store answered something else than was asked".to_owned());
        Pool::read(&self.keys, committed).ok_or_else(other)
    }

    /// `seen` is from before the question was sent.
    fn read(&self, committed: Committed, seen: &Seen) -> Result<Pool, SemaphoreError> {
        let pool = self.parse(committed)?;
        self.locks.check(&pool.past, pool.revision, None, seen)?;
        Ok(pool)
    }
}

/// What a call for permits has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Look,
    Found,
    Enqueue,
    Take,
}

fn session_over(why: SessionEnd) -> SemaphoreError {
    SemaphoreError::SessionLost { why: Lost::SessionEnded(why) }
}

fn no_answer() -> StoreError {
    StoreError::Unavailable { store: "the store".to_owned(), why: format!("no answer in {TRY_WITHIN:?}") }
}

fn check(permits: u32) -> Result<(), SemaphoreError> {
    if (1..=PERMITS_MOST).contains(&permits) { Ok(()) } else { Err(SemaphoreError::OutOfBounds(permits)) }
}

impl<S: Store> Permits<S> {
    /// How many these are.
    pub fn count(&self) -> u32 {
        self.permits
    }

    /// What a write to the same store compares, so that it is only made while these are held.
    pub fn still_held(&self) -> [Compare; 2] {
        self.proof.still_stands()
    }

    /// The signal by which these are lost.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn signal(&self) -> HoldSignal {
        let (proof, trust) = (self.proof.clone(), self.member.trust.clone());
        HoldSignal::of(&self.semaphore.locks, proof, trust, self.over.clone())
    }

    /// Gives them back, and says whether they were still held.
    ///
    /// # Errors
    ///
    /// Where the store does not answer in about ten seconds: they are given back in the background then, or when the
    /// session ends. And where an answer was lost, and the store has forgotten since how they ended: they are not held
    /// any more then.
    pub async fn release(mut self) -> Result<Resigned, StoreError> {
        let Semaphore { locks: Locks { store, .. }, keys, .. } = &self.semaphore;
        let committed = settle(store, keys.release(self.call, &self.proof)).await?;
        self.open = false;
        self.over.end(Lost::Released);
        let settled = committed.got(0).and_then(<[Entry]>::first).is_some_and(|entry| is_settled(entry, self.call));
        if committed.succeeded || settled {
            return Ok(Resigned::Released);
        }
        match history_of(store, &self.proof, keys.settled(self.call), self.call).await? {
            Freed::Released => Ok(Resigned::Released),
            Freed::HadEnded => Ok(Resigned::HadEnded),
            Freed::Unknown => {
                let why = "it has forgotten when the permits ended".to_owned();
                Err(StoreError::Unknown { store: "the store".to_owned(), why })
            }
        }
    }
}

impl<S: Store> Drop for Permits<S> {
    fn drop(&mut self) {
        self.over.end(Lost::Released);
        if self.open {
            drop(self.semaphore.abandoned(&self.member, self.call));
        }
    }
}
