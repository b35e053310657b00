//! Contending for one lock: the shell around [`Line`] and the transactions of `lock/hold.rs`, for elections and locks.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::context::Progress;
use super::election::CampaignError;
use super::hold::{Base, Caller, FenceBaseError, Hold, Manner, Opening, Proof, QueueRead, is_settled};
use super::keys::{CallId, LockKeys, LockName};
use super::line::{Line, Obstacle, Step};
use super::seen::{Seen, StoreWentBack};
use super::session::SessionEnd;
use super::{Backoff, Locks};
use crate::store::{Change, Committed, Compare, Keys, Op, Range, Revision, Store, StoreError, Txn, Watch, Watched};

/// How long a waiter trusts its watches before it looks for itself.
pub(super) const RECHECK_EVERY: Duration = Duration::from_secs(5);

/// How often in a row a waiter reads the line again, instead of waiting, when the store was written to before the
/// waiter began to listen. Without this bound it would never wait in a store that is written to all the time.
const LOOKS_IN_A_ROW: u32 = 4;

/// How often, at most, a transaction that may be repeated is sent until its answer arrives.
const SETTLE_ATTEMPTS: u32 = 10;

/// How long after the first time it is sent again: a store may take seconds to say that it does not answer.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);

/// How long the history of a lock is waited for.
const HISTORY_WITHIN: Duration = Duration::from_secs(5);

/// One lock, and in which manner its calls contend.
#[derive(Clone, Debug)]
pub(super) struct Contest<S> {
    pub locks: Locks<S>,
    pub keys: LockKeys,
    manner: Manner,
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contended {
    Won(Hold),
    /// It would have to wait, and was not to. Where it has `asked` for the lock before, that request may yet arrive, and
    /// has to be taken back.
    Busy {
        asked: bool,
    },
    /// The lock was destroyed a moment ago.
    Destroyed,
}

/// Whether a call waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask<'a> {
    AtOnce,
    /// Waits, and reports how the lock stands meanwhile if the caller listens.
    Wait(Option<&'a watch::Sender<Option<Progress>>>),
}

impl Ask<'_> {
    fn listened_to(&self) -> Option<&watch::Sender<Option<Progress>>> {
        match self {
            Ask::Wait(Some(progress)) if progress.receiver_count() > 0 => Some(progress),
            _ => None,
        }
    }
}

/// What a release found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freed {
    Released,
    HadEnded,
    /// The hold is over, and the store no longer knows whether by its release.
    Unknown,
}

/// The result of a conditional transaction.
enum Attempt {
    Applied(Committed),
    /// Its comparisons failed, or its answer was lost: this is how the line stands now.
    Look(Box<Line>),
}

impl<S: Store> Contest<S> {
    pub fn new(locks: Locks<S>, name: &LockName, manner: Manner) -> Contest<S> {
        let keys = LockKeys::new(&locks.namespace, name);
        Contest { locks, keys, manner }
    }

    /// Contends until the call has won; it goes on trying while the store is away. Dropping the future leaves the call
    /// where it is: in the queue, or even the owner.
    pub async fn contend(&self, caller: &Caller, ask: Ask<'_>) -> Result<Contended, CampaignError> {
        let contended = self.contend_here(caller, ask).await;
        if let Err(CampaignError::StoreWentBack(_)) = &contended
            && let Err(error) = self.locks.verify().await
        {
            tracing::warn!(%error, "cannot report to the other nodes that the store went back");
        }
        contended
    }

    async fn contend_here(&self, caller: &Caller, ask: Ask<'_>) -> Result<Contended, CampaignError> {
        let (mut backoff, mut looks, mut asked) = (Backoff::new(), 0, false);
        let mut reported = Vec::new();
        let view = self.view(None, caller, ask);
        let mut line = match self.locks.opening().filter(|_| self.seizes_unseen(ask)) {
            Some(opening) => match self.seize(caller, opening, view, &mut backoff).await? {
                Ok(hold) => return Ok(Contended::Won(hold)),
                Err(line) => line,
            },
            None => self.look(caller, view, &mut backoff).await?,
        };
        loop {
            report_new(line.obstacles(), &mut reported);
            if self.manner == Manner::Candidate
                && let Some(other) = line.other_call(&self.keys, caller)
            {
                return Err(CampaignError::OtherCall(other));
            }
            if let Some(progress) = ask.listened_to() {
                progress.send_replace(Some(Progress::of(&line, &self.keys, caller.call)));
            }
            let now = self.locks.clock.wall();
            let view = self.view(Some(&line), caller, ask);
            line = match line.step(&self.keys, caller, self.manner) {
                Step::SessionGone => return Err(CampaignError::SessionEnded(SessionEnd::KeyGone)),
                Step::NoBase(error) => return Err(error.into()),
                Step::Destroyed => return Ok(Contended::Destroyed),
                Step::Adopt(hold) => return Ok(Contended::Won(hold)),
                Step::Wait { .. } | Step::Enqueue(_) if matches!(ask, Ask::AtOnce) => {
                    return Ok(Contended::Busy { asked });
                }
                Step::Wait { behind } => {
                    self.wait(caller, line, &behind, (ask, view), (&mut backoff, &mut looks)).await?
                }
                Step::Enqueue(entrance) => {
                    let enqueue = self.keys.enqueue(caller, entrance, now, view);
                    match self.attempt(caller, enqueue, view, &mut backoff).await? {
                        Attempt::Applied(committed) => line.joined(committed),
                        Attempt::Look(line) => *line,
                    }
                }
                Step::Take(turn) => {
                    let grant = self.keys.grant(caller, turn, now);
                    match self.take(caller, turn.base, grant, view, &mut backoff).await? {
                        Ok(hold) => return Ok(Contended::Won(hold)),
                        Err(line) => line,
                    }
                }
                Step::Seize(opening) => {
                    asked = true;
                    match self.seize(caller, opening, view, &mut backoff).await? {
                        Ok(hold) => return Ok(Contended::Won(hold)),
                        Err(line) => line,
                    }
                }
            };
        }
    }

    /// Whether the call tries to seize the lock before it has looked at the line. A call that does not wait looks first:
    /// where the lock is held, a look is all that it costs, and a seizure would have to be taken back.
    fn seizes_unseen(&self, ask: Ask<'_>) -> bool {
        self.manner == Manner::Context && matches!(ask, Ask::Wait(_))
    }

    /// As [`Contest::take`], past the queue.
    async fn seize(
        &self,
        caller: &Caller,
        opening: Opening,
        view: QueueRead,
        backoff: &mut Backoff,
    ) -> Result<Result<Hold, Line>, CampaignError> {
        let seize = self.keys.seize(caller, opening, self.locks.clock.wall(), view);
        self.take(caller, opening.base, seize, view, backoff).await
    }

    /// A candidate has to see whether another call of its session is before it, and a listener receives the holder and
    /// the waiters. No other call reads the queue, which may be long.
    fn view(&self, line: Option<&Line>, caller: &Caller, ask: Ask<'_>) -> QueueRead {
        if self.manner == Manner::Candidate || ask.listened_to().is_some() {
            return QueueRead::Whole;
        }
        QueueRead::Near { queued: line.and_then(|line| line.queued(&self.keys, caller.call)) }
    }

    /// The hold, where the grant was applied; otherwise the line as it stands.
    async fn take(
        &self,
        caller: &Caller,
        base: Base,
        mut grant: Txn,
        view: QueueRead,
        backoff: &mut Backoff,
    ) -> Result<Result<Hold, Line>, CampaignError> {
        let seen = self.locks.current();
        // The line, or the end of its owner, may have been read before the store went back.
        grant.when.extend(self.keys.past.unforgotten(seen.marked).filter(|_| base.value == seen.base));
        match self.attempt(caller, grant, view, backoff).await? {
            Attempt::Applied(committed) => self.granted(caller, base, committed.revision, seen).await.map(Ok),
            Attempt::Look(line) => Ok(Err(*line)),
        }
    }

    /// What was granted is only a hold if the store has not gone back since the line was looked at.
    async fn granted(&self, caller: &Caller, base: Base, created: Revision, seen: Seen) -> Result<Hold, CampaignError> {
        let Some(hold) = self.keys.hold(caller, base.value, created) else {
            let why = "the fences counted from it have reached their end".to_owned();
            return Err(FenceBaseError::Unreadable { key: self.keys.past.base.clone(), why }.into());
        };
        if let Err(went_back) = seen.check(base.value, created) {
            self.locks.distrust(seen.base);
            self.settle(self.keys.release(&hold)).await?;
            return Err(went_back.into());
        }
        self.locks.note(base.value, created, Some(hold.fence()));
        self.locks.saw_mark(base.value, created);
        self.locks.renew_beside(hold.still_held(), self.keys.is_leaders());
        tracing::info!(lock.scope = %hold.scope(), lock.fence = %hold.fence(), lock.node = %caller.node, "granted");
        Ok(hold)
    }

    async fn attempt(
        &self,
        caller: &Caller,
        txn: Txn,
        view: QueueRead,
        backoff: &mut Backoff,
    ) -> Result<Attempt, CampaignError> {
        let seen = self.locks.current();
        match commit(&self.locks.store, txn).await {
            Ok(committed) => {
                backoff.reset();
                if committed.succeeded {
                    return Ok(Attempt::Applied(committed));
                }
                Ok(Attempt::Look(Box::new(self.read(committed, &seen)?)))
            }
            // Of two leases the store may name either. Whether the session's has ended, its keep-alive finds out.
            Err(StoreError::LeaseEnded(lease)) if caller.delay.is_some() => {
                backoff.wait().await;
                Err(StoreError::LeaseEnded(caller.delay.unwrap_or(lease)).into())
            }
            Err(StoreError::LeaseEnded(lease)) if lease == caller.lease => {
                Err(CampaignError::SessionEnded(SessionEnd::Refused))
            }
            Err(error) if error.is_passing() => {
                tracing::debug!(%error, call = %caller.call, "looking what became of the request");
                backoff.wait().await;
                Ok(Attempt::Look(Box::new(self.look(caller, view, backoff).await?)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How the line stands now, however long it takes to learn it.
    pub async fn look(&self, caller: &Caller, view: QueueRead, backoff: &mut Backoff) -> Result<Line, CampaignError> {
        loop {
            let seen = self.locks.current();
            let look = Txn { then: self.keys.look(Some(caller), view), ..Txn::new() };
            match commit(&self.locks.store, look).await {
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
        self.check(&line, seen)?;
        Ok(line)
    }

    fn parse(&self, committed: Committed) -> Result<Line, StoreError> {
        let other = || StoreError::Unusable("the store answered something else than was asked".to_owned());
        Line::read(&self.keys, committed).ok_or_else(other)
    }

    fn check(&self, line: &Line, seen: &Seen) -> Result<(), StoreWentBack> {
        self.locks.check(&line.past, line.revision, line.holder().map(|holder| holder.fence), seen)
    }

    /// The line, for a caller that only reads; and whether the store is the one that was seen before.
    pub async fn observe(&self, view: QueueRead) -> Result<(Line, Result<(), StoreWentBack>), StoreError> {
        let seen = self.locks.current();
        let look = Txn { then: self.keys.look(None, view), ..Txn::new() };
        let line = self.parse(commit(&self.locks.store, look).await?)?;
        let age = self.check(&line, &seen);
        Ok((line, age))
    }

    /// Waits until the key before the call changes, or its own, or some time has passed; then looks again.
    async fn wait(
        &self,
        caller: &Caller,
        line: Line,
        behind: &str,
        (ask, view): (Ask<'_>, QueueRead),
        (backoff, looks): (&mut Backoff, &mut u32),
    ) -> Result<Line, CampaignError> {
        // A listener receives every change of the lock.
        let before = ask.listened_to().map_or_else(|| Keys::one(behind), |_| self.keys.all());
        let own = (self.keys.wait(caller.call), caller.session_key.as_str());
        let noticed = match next_change_of(&self.locks.store, before, own, line.revision.next(), looks).await {
            Ok(noticed) => noticed,
            Err(error) if error.is_passing() => Noticed::Nothing,
            Err(error) => return Err(error.into()),
        };
        match noticed {
            // Taken at its word, for speed: the grant confirms it.
            Noticed::Deleted { key, at } if key == self.keys.owner && behind == key && !line.is_barred() => {
                return Ok(line.vacated(at));
            }
            Noticed::Deleted { .. } | Noticed::Changed => backoff.reset(),
            Noticed::Nothing => backoff.wait().await,
        }
        self.look(caller, view, backoff).await
    }

    /// Ends the hold, so that the next in the queue follows at once.
    ///
    /// # Errors
    ///
    /// Where the store does not answer in about ten seconds. Releasing again is harmless.
    pub async fn release(&self, hold: &Hold) -> Result<Freed, StoreError> {
        if self.free(hold).await? {
            return Ok(Freed::Released);
        }
        history_of(&self.locks.store, &hold.proof(), self.keys.settled(hold.call()), hold.call()).await
    }

    /// Ends the hold, and answers whether it is known that this did.
    pub async fn free(&self, hold: &Hold) -> Result<bool, StoreError> {
        let session_key = self.locks.namespace.session_key(hold.lease());
        let (revision, freed) = free(&self.locks.store, &self.keys, hold, &session_key).await?;
        // The next call is wanted after this: where it is settled in the same place, that is known to be older.
        self.locks.saw(revision);
        Ok(freed)
    }

    /// Takes back the call: afterwards it neither waits nor holds, and no request of it that is still under way can
    /// change that.
    ///
    /// # Errors
    ///
    /// Where the store does not answer in about ten seconds. Withdrawing again is harmless.
    pub async fn withdraw(&self, caller: &Caller) -> Result<(), StoreError> {
        withdraw(&self.locks.store, &self.keys, caller).await
    }

    /// Sends a transaction that may be applied more than once, until there is an answer.
    pub async fn settle(&self, txn: Txn) -> Result<Committed, StoreError> {
        settle(&self.locks.store, txn).await
    }
}

/// As the store's own. A request of a network client can be a future of many kilobytes. A function that takes several
/// locks would hold as many of them, and overflow the stack of its thread: boxed, it counts once.
pub(super) async fn commit<S: Store>(store: &S, txn: Txn) -> Result<Committed, StoreError> {
    Box::pin(store.commit(txn)).await
}

/// Sends a transaction that may be applied more than once, until there is an answer.
pub(super) async fn settle<S: Store>(store: &S, txn: Txn) -> Result<Committed, StoreError> {
    let mut backoff = Backoff::new();
    let mut attempt = 1;
    let began = Instant::now();
    loop {
        match commit(store, txn.clone()).await {
            Err(error) if error.is_passing() && attempt < SETTLE_ATTEMPTS && began.elapsed() < SETTLE_WITHIN => {
                attempt += 1
            }
            result => return result,
        }
        backoff.wait().await;
    }
}

/// Ends the hold of the session with this key. Answers at which revision of the store, and whether it is known that this
/// ended it.
pub(super) async fn free<S: Store>(
    store: &S,
    keys: &LockKeys,
    hold: &Hold,
    session_key: &str,
) -> Result<(Revision, bool), StoreError> {
    let committed = settle(store, keys.release(hold)).await?;
    let freed = committed.succeeded || LockKeys::was_settled(committed.got(0), hold.call());
    if !freed {
        // If another hand ended it, a request that arrived twice may have put it again, without a holder that knows.
        let disowned = settle(store, keys.disown(hold.call())).await?;
        let owner = disowned.got(WITHDRAW_READS_OWNER).and_then(|owner| owner.first());
        if let Some(again) = owner.and_then(|owner| keys.again(owner, hold)) {
            settle(store, keys.release(&again)).await?;
        }
        if owner.is_none() && hold.is_delayed() {
            settle(store, keys.unbar(Compare::created_at(&keys.barred, hold.created()), session_key)).await?;
        }
    }
    Ok((committed.revision, freed))
}

/// As [`Contest::withdraw`].
pub(super) async fn withdraw<S: Store>(store: &S, keys: &LockKeys, caller: &Caller) -> Result<(), StoreError> {
    let committed = settle(store, keys.withdraw(caller.call)).await?;
    let owner = committed.got(WITHDRAW_READS_OWNER).and_then(|owner| owner.first());
    if let Some(hold) = owner.and_then(|owner| keys.hold_in(owner, caller)) {
        settle(store, keys.release(&hold)).await?;
    }
    if owner.is_none() && caller.delay.is_some() {
        settle(store, keys.unbar(keys.barred_by(caller.call), &caller.session_key)).await?;
    }
    Ok(())
}

/// Whether what `proof` showed ended by its release, where another call has been settled in the same place since: the
/// end of its key and the mark of the release are of one revision.
pub(super) async fn history_of<S: Store>(
    store: &S,
    proof: &Proof,
    settled: String,
    call: CallId,
) -> Result<Freed, StoreError> {
    let mut watch = Box::pin(store.watch(Keys::one(proof.key.as_str()), proof.created.next())).await?;
    let ended = loop {
        match tokio::time::timeout(HISTORY_WITHIN, watch.next()).await {
            Ok(Some(Watched::Changes(changes))) => {
                if let Some(Change::Deleted { revision, .. }) =
                    changes.iter().find(|change| matches!(change, Change::Deleted { .. }))
                {
                    break *revision;
                }
            }
            Ok(Some(Watched::Compacted(_)) | None) | Err(_) => return Ok(Freed::Unknown),
        }
    };
    match Box::pin(store.range(Range { at: Some(ended), ..Range::of(Keys::one(settled)) })).await {
        Ok(page) => {
            let mark = page.entries.first().filter(|entry| entry.modified == ended);
            Ok(if mark.is_some_and(|mark| is_settled(mark, call)) { Freed::Released } else { Freed::HadEnded })
        }
        Err(StoreError::Compacted { .. }) => Ok(Freed::Unknown),
        Err(error) => Err(error),
    }
}

/// Which answer of [`LockKeys::withdraw`] and of [`LockKeys::disown`] is the owner.
const WITHDRAW_READS_OWNER: usize = 2;

/// What a watch said.
pub(super) enum Noticed {
    Deleted {
        key: String,
        at: Revision,
    },
    Changed,
    /// It broke.
    Nothing,
}

pub(super) async fn next_change(watch: &mut Watch) -> Noticed {
    match watch.next().await {
        Some(Watched::Changes(changes)) => match changes.into_iter().next_back() {
            Some(Change::Deleted { key, revision }) => Noticed::Deleted { key, at: revision },
            Some(Change::Put(_)) | None => Noticed::Changed,
        },
        Some(Watched::Compacted(_)) => Noticed::Changed,
        None => Noticed::Nothing,
    }
}

/// The first change of `before` or of `own` from this revision on. It answers [`Noticed::Changed`] as well when no
/// change arrives for a while, and when the watch would report changes since that revision late: `looks` counts how
/// often that was.
pub(super) async fn next_change_of<S: Store>(
    store: &S,
    before: Keys,
    (own, session): (String, &str),
    from: Revision,
    looks: &mut u32,
) -> Result<Noticed, StoreError> {
    let mut of_before = Box::pin(store.watch(before.clone(), from)).await?;
    let mut of_own = Box::pin(store.watch(Keys::one(own.as_str()), from)).await?;
    if (of_before.is_behind() || of_own.is_behind()) && *looks < LOOKS_IN_A_ROW {
        *looks += 1;
        return Ok(Noticed::Changed);
    }
    *looks = 0;
    loop {
        tokio::select! {
            biased;
            noticed = next_change(&mut of_before) => return Ok(noticed),
            noticed = next_change(&mut of_own) => return Ok(noticed),
            () = tokio::time::sleep(RECHECK_EVERY) => {}
        }
        if !still_waits(store, &before, [&own, session], from).await? {
            return Ok(Noticed::Changed);
        }
    }
}

/// Whether the key before the call, its own and its session's are there, and none is newer than `from`. This cannot be
/// answered for a range: keys that were deleted from it cannot be seen. Three keys are read, and not the queue: each of
/// many waiters reads them now and then.
async fn still_waits<S: Store>(store: &S, before: &Keys, own: [&str; 2], from: Revision) -> Result<bool, StoreError> {
    let Keys::One(before) = before else { return Ok(false) };
    let keys = [before.as_str(), own[0], own[1]];
    let found = commit(store, keys.into_iter().map(Op::get).fold(Txn::new(), Txn::then)).await?;
    let stands = |index| found.got(index).and_then(<[_]>::first).is_some_and(|entry| entry.created < from);
    Ok((0..keys.len()).all(stands) && found.revision.next() >= from)
}

/// Warns of every obstacle once for as long as it lasts.
fn report_new(obstacles: Vec<Obstacle>, reported: &mut Vec<Obstacle>) {
    for obstacle in obstacles.iter().filter(|obstacle| !reported.contains(obstacle)) {
        tracing::warn!(lock.key = %obstacle.key, "waiting without a chance: {obstacle}");
    }
    *reported = obstacles;
}
