//! Leadership: the shell around [`Line`] and the transactions of `lock/hold.rs`.

use std::time::Duration;

use super::hold::{Base, Caller, FenceBaseError, Hold, OwnerRecord};
use super::keys::{CallId, LockKeys, LockName};
use super::line::{Line, Obstacle, Step, Waiter};
use super::seen::{Seen, StoreWentBack};
use super::session::{Ended, Session};
use super::{Backoff, Locks};
use crate::fence::Fence;
use crate::store::{Change, Committed, Keys, LeaseId, Range, Revision, Store, StoreError, Txn, Watch, Watched};
use crate::time::Wall;

/// How long a waiter trusts its watches before it looks for itself.
const RECHECK_EVERY: Duration = Duration::from_secs(5);

/// How often a transaction that may be repeated is sent until its answer arrives: about ten seconds.
const SETTLE_ATTEMPTS: u32 = 10;

/// Contends for one lock, and tells who holds it. See [`Locks::election`].
#[derive(Clone, Debug)]
pub struct Election<S> {
    locks: Locks<S>,
    keys: LockKeys,
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
pub enum CampaignError {
    /// Open another session and campaign with that.
    #[error("the session is over ({0}), so it cannot win")]
    SessionEnded(Ended),
    #[error(transparent)]
    FenceBase(#[from] FenceBaseError),
    #[error(transparent)]
    StoreWentBack(#[from] StoreWentBack),
    /// The session would wait for itself.
    #[error("call {0} of the same session holds the lock or waits for it already: resign or withdraw it first")]
    OtherCall(CallId),
    /// An error that repeating does not help. The call may stand in the queue: withdraw it.
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

/// Who leads, who waits, and what stands in the way, at one revision.
#[derive(Clone, Debug)]
pub struct Standing {
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

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub node: String,
    pub session: LeaseId,
    pub fence: Fence,
    pub since: Wall,
    /// What the session published of its node; `None` where its key is gone.
    pub record: Option<Vec<u8>>,
}

/// What came of a conditional transaction.
enum Attempt {
    Applied(Revision),
    /// Its comparisons failed, or its answer was lost: this is how the line stands now.
    Look(Line),
}

impl<S: Store> Election<S> {
    pub(super) fn new(locks: Locks<S>, name: &LockName) -> Election<S> {
        let keys = LockKeys::new(&locks.namespace, name);
        Election { locks, keys }
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &S {
        &self.locks.store
    }

    /// The key whose changes are the changes of leadership: what to watch.
    pub fn owner_key(&self) -> &str {
        &self.keys.owner
    }

    /// Stands in the queue until the lock is granted. It goes on trying while the store is away, until the session
    /// ends.
    ///
    /// Dropping the future leaves the call in the queue, where it may still win: [`Election::withdraw`] it, or campaign
    /// again with the same session and call, which goes on where this one was, and adopts what it won.
    pub async fn campaign(&self, session: &Session<S>, call: CallId) -> Result<Term, CampaignError> {
        let caller = session.caller(call);
        let term = tokio::select! {
            biased;
            why = session.ended() => Err(CampaignError::SessionEnded(why)),
            term = self.contend(&caller) => term,
        }?;
        self.locks.save_seen().await;
        Ok(term)
    }

    async fn contend(&self, caller: &Caller) -> Result<Term, CampaignError> {
        let mut backoff = Backoff::new();
        let mut reported = Vec::new();
        let mut line = self.look(caller, &mut backoff).await?;
        loop {
            report_new(line.obstacles(), &mut reported);
            if let Some(other) = line.other_call(&self.keys, caller) {
                return Err(CampaignError::OtherCall(other));
            }
            let now = self.locks.clock.wall();
            line = match line.step(&self.keys, caller) {
                Step::SessionGone => return Err(CampaignError::SessionEnded(Ended::KeyGone)),
                Step::NoBase(error) => return Err(error.into()),
                Step::Adopt(hold) => return Ok(Term { hold }),
                Step::Wait { behind } => self.wait(caller, line, &behind, &mut backoff).await?,
                Step::Enqueue(entrance) => {
                    match self.attempt(caller, self.keys.enqueue(caller, entrance, now), &mut backoff).await? {
                        Attempt::Applied(revision) => line.joined(&self.keys, caller, revision),
                        Attempt::Look(line) => line,
                    }
                }
                Step::Take(turn) => {
                    let seen = self.locks.current();
                    match self.attempt(caller, self.keys.grant(caller, turn, now), &mut backoff).await? {
                        Attempt::Applied(revision) => return self.granted(caller, turn.base, revision, seen).await,
                        Attempt::Look(line) => line,
                    }
                }
            };
        }
    }

    /// What was granted is only a term if the store has not gone back since the line was looked at.
    async fn granted(&self, caller: &Caller, base: Base, created: Revision, seen: Seen) -> Result<Term, CampaignError> {
        let Some(hold) = self.keys.hold(caller, base.value, created) else {
            let why = "the fences counted from it have reached their end".to_owned();
            return Err(FenceBaseError::Unreadable { key: self.keys.base.clone(), why }.into());
        };
        if let Err(went_back) = seen.check(base.value, created) {
            self.locks.distrust(seen.base);
            self.settle(self.keys.release(&hold)).await?;
            return Err(went_back.into());
        }
        self.locks.note(base.value, created, Some(hold.fence()));
        tracing::info!(lock.scope = %hold.scope(), lock.fence = %hold.fence(), lock.node = %caller.node, "granted");
        Ok(Term { hold })
    }

    async fn attempt(&self, caller: &Caller, txn: Txn, backoff: &mut Backoff) -> Result<Attempt, CampaignError> {
        let seen = self.locks.current();
        match self.locks.store.commit(txn).await {
            Ok(committed) => {
                backoff.reset();
                if committed.succeeded {
                    return Ok(Attempt::Applied(committed.revision));
                }
                Ok(Attempt::Look(self.read(committed, &seen)?))
            }
            Err(StoreError::LeaseEnded(_)) => Err(CampaignError::SessionEnded(Ended::Refused)),
            Err(error) if error.is_passing() => {
                tracing::debug!(%error, call = %caller.call, "looking what became of the request");
                backoff.wait().await;
                Ok(Attempt::Look(self.look(caller, backoff).await?))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How the line stands now, however long it takes to learn it.
    async fn look(&self, caller: &Caller, backoff: &mut Backoff) -> Result<Line, CampaignError> {
        loop {
            let seen = self.locks.current();
            let look = Txn { then: self.keys.look(Some(&caller.session_key)), ..Txn::new() };
            match self.locks.store.commit(look).await {
                Ok(committed) => return self.read(committed, &seen),
                Err(error) if error.is_passing() => {
                    tracing::debug!(%error, call = %caller.call, "the store does not say how the lock stands");
                }
                Err(error) => return Err(error.into()),
            }
            backoff.wait().await;
        }
    }

    /// `seen` is from before the question was sent: answers may overtake each other.
    fn read(&self, committed: Committed, seen: &Seen) -> Result<Line, CampaignError> {
        let line = self.parse(committed)?;
        self.locks.check(&line, seen)?;
        Ok(line)
    }

    fn parse(&self, committed: Committed) -> Result<Line, StoreError> {
        let other = || StoreError::Unusable("the store answered something else than was asked".to_owned());
        Line::read(&self.keys, committed).ok_or_else(other)
    }

    /// Waits until the key before the call changes, or its own, or some time has passed; then looks again.
    async fn wait(
        &self,
        caller: &Caller,
        line: Line,
        behind: &str,
        backoff: &mut Backoff,
    ) -> Result<Line, CampaignError> {
        let from = line.revision.next();
        let store = &self.locks.store;
        let watches = async {
            let before = store.watch(Keys::one(behind), from).await?;
            Ok((before, store.watch(Keys::one(self.keys.wait(caller.call)), from).await?))
        };
        let (mut before, mut own) = match watches.await {
            Ok(watches) => watches,
            Err(error) if StoreError::is_passing(&error) => {
                backoff.wait().await;
                return self.look(caller, backoff).await;
            }
            Err(error) => return Err(error.into()),
        };
        let heard = tokio::select! {
            biased;
            heard = hear(&mut before) => heard,
            heard = hear(&mut own) => heard,
            () = tokio::time::sleep(RECHECK_EVERY) => Heard::Changed,
        };
        match heard {
            // Taken at its word, for speed: the grant confirms it.
            Heard::Deleted { key, at } if key == self.keys.owner => return Ok(line.vacated(at)),
            Heard::Deleted { .. } | Heard::Changed => backoff.reset(),
            Heard::Nothing => backoff.wait().await,
        }
        self.look(caller, backoff).await
    }

    /// Ends the term, so that the next in the queue follows at once. Drain first: what still runs loses its proof.
    ///
    /// # Errors
    ///
    /// Where the store does not answer in about ten seconds. Resigning again is harmless; closing the session ends the
    /// term as well.
    pub async fn resign(&self, term: &Term) -> Result<Resigned, StoreError> {
        let committed = self.settle(self.keys.release(&term.hold)).await?;
        if committed.succeeded || LockKeys::was_released(committed.got(0), term.hold.call()) {
            return Ok(Resigned::Released);
        }
        Ok(Resigned::HadEnded)
    }

    /// Takes back a call whose campaign was dropped or failed: afterwards it neither waits nor holds, and no request of
    /// it that is still under way can change that.
    ///
    /// # Errors
    ///
    /// Where the store does not answer in about ten seconds. Withdrawing again is harmless; closing the session ends
    /// the call as well.
    pub async fn withdraw(&self, session: &Session<S>, call: CallId) -> Result<(), StoreError> {
        let committed = self.settle(self.keys.withdraw(call)).await?;
        let caller = session.caller(call);
        let owner = committed.got(WITHDRAW_READS_OWNER).and_then(|owner| owner.first());
        let won = owner.filter(|owner| owner.lease == Some(caller.lease)).and_then(|owner| {
            let record = OwnerRecord::read(&owner.value).filter(|record| record.call == call.to_string())?;
            self.keys.hold(&caller, record.base, owner.created)
        });
        if let Some(hold) = won {
            self.settle(self.keys.release(&hold)).await?;
        }
        Ok(())
    }

    /// Who leads, who waits, and what stands in the way, now.
    pub async fn observe(&self) -> Result<Standing, StoreError> {
        let seen = self.locks.current();
        let look = Txn { then: self.keys.look(None), ..Txn::new() };
        let line = self.parse(self.locks.store.commit(look).await?)?;
        let age = self.locks.check(&line, &seen);
        let leader = match line.holder() {
            None => None,
            Some(holder) => {
                let session = Keys::one(self.locks.namespace.session_key(holder.lease));
                let record = self.locks.store.range(Range::of(session)).await?.entries.pop().map(|entry| entry.value);
                let (node, session, fence, since) = (holder.node, holder.lease, holder.fence, holder.since);
                Some(Leader { node, session, fence, since, record })
            }
        };
        Ok(Standing {
            leader,
            waiting: line.waiters(),
            obstacles: line.obstacles(),
            base: line.base.as_ref().map(drop).map_err(Clone::clone),
            age,
            revision: line.revision,
        })
    }

    /// Sends a transaction that may be applied more than once, until there is an answer.
    async fn settle(&self, txn: Txn) -> Result<Committed, StoreError> {
        let mut backoff = Backoff::new();
        let mut attempt = 1;
        loop {
            match self.locks.store.commit(txn.clone()).await {
                Err(error) if error.is_passing() && attempt < SETTLE_ATTEMPTS => attempt += 1,
                result => return result,
            }
            backoff.wait().await;
        }
    }
}

/// Which answer of [`LockKeys::withdraw`] is the owner.
const WITHDRAW_READS_OWNER: usize = 2;

/// What a watch of one key said.
enum Heard {
    Deleted {
        key: String,
        at: Revision,
    },
    Changed,
    /// It broke.
    Nothing,
}

async fn hear(watch: &mut Watch) -> Heard {
    match watch.next().await {
        Some(Watched::Changes(changes)) => match changes.into_iter().next_back() {
            Some(Change::Deleted { key, revision }) => Heard::Deleted { key, at: revision },
            Some(Change::Put(_)) | None => Heard::Changed,
        },
        Some(Watched::Compacted(_)) => Heard::Changed,
        None => Heard::Nothing,
    }
}

/// Warns of every obstacle once for as long as it lasts.
fn report_new(obstacles: Vec<Obstacle>, reported: &mut Vec<Obstacle>) {
    for obstacle in obstacles.iter().filter(|obstacle| !reported.contains(obstacle)) {
        tracing::warn!(lock.key = %obstacle.key, "waiting in vain: {obstacle}");
    }
    *reported = obstacles;
}

impl<S: Store> Locks<S> {
    /// What has been seen so far: to be read before a question is sent, and held against its answer.
    fn current(&self) -> Seen {
        *self.seen.borrow()
    }

    fn note(&self, base: u64, revision: Revision, fence: Option<Fence>) {
        let noted = |seen: &mut Seen| {
            let before = *seen;
            seen.note(base, revision, fence);
            *seen != before
        };
        self.seen.send_if_modified(noted);
    }

    /// Notes a revision that the store was seen at since the last election or observation: what is below it later is an
    /// older store.
    pub fn saw(&self, revision: Revision) {
        // Read before it is written: the two lock.
        let base = self.seen.borrow().base;
        self.note(base, revision, None);
    }

    /// Notes that the store was found older than it had been, as counted from `base`: from here on nothing is taken from
    /// it, however far it grows, until it is repaired.
    fn distrust(&self, base: u64) {
        self.seen.send_if_modified(|seen| seen.base == base && !std::mem::replace(&mut seen.went_back, true));
    }

    /// Notes that a follower of the store was shown a revision below one it had been shown before.
    pub fn saw_it_go_back(&self) {
        let base = self.seen.borrow().base;
        self.distrust(base);
    }

    /// Refuses a line of a store that is older than `seen`, and notes what it shows otherwise.
    fn check(&self, line: &Line, seen: &Seen) -> Result<(), StoreWentBack> {
        match &line.base {
            Ok(base) => {
                seen.check(base.value, line.revision).inspect_err(|_| self.distrust(seen.base))?;
                self.note(base.value, line.revision, line.holder().map(|holder| holder.fence));
            }
            // Without its base a store that is behind is still behind: say that, rather than that the base is missing.
            Err(_) if line.revision < seen.revision || seen.went_back => {
                self.distrust(seen.base);
                let found = Seen { revision: line.revision, ..Seen::default() };
                return Err(StoreWentBack { seen: *seen, found });
            }
            Err(_) => {}
        }
        Ok(())
    }
}
