//! PURE: the transactions of a lock, and what one hold of it is.
//!
//! Written `c` for a key's creation revision, `m` for its modification revision:
//!
//! | transaction | if | then |
//! | --- | --- | --- |
//! | enqueue | c(wait/call) = 0, c(sess) = as opened, c(owner) as read, m(settled/call) ≤ q | put wait/call, read the one before it and barred |
//! | grant | c(owner) = c(barred) = c(refused) = 0, m(base) as read, c(wait/call) = w, every c(wait/…) > w - 1, c(sess) as opened | put owner and mark, delete wait/call |
//! | seize | c(owner) = c(barred) = c(refused) = 0, m(base) as read, nothing in wait/, m(settled/call) ≤ q, c(sess) as opened | put owner and mark |
//! | release | c(owner) = the hold's, lease(owner) = the hold's | delete owner, put settled/call |
//! | withdraw | | delete wait/call, put settled/call |
//! | unbar | c(owner) = 0, barred is the hold's, its session's key is there | delete barred |
//!
//! `q` is a revision at which the call was still wanted: that of the look on which an *enqueue* or a *seize* was decided.
//! A *seize* needs no look. Everything that it compares may be known or assumed beforehand: the base and a revision that
//! the store has reached since the process read them (`Locks::opening`), the rest because most locks are free. Where one
//! of these is wrong, the transaction reads the line instead, and the call goes on from there.
//!
//! Any of them may be applied late, or twice, by a network that repeats abandoned requests. None does harm: a late
//! *grant* finds its place in the queue gone (`w` is unique for ever); a late *enqueue* or *seize* finds the owner
//! changed or the call settled, so that no abandoned call waits or holds; a late *release* finds another creation
//! revision. A lock with a delay puts `barred` when it is granted, under a lease that outlives the holder's by the
//! delay, and deletes it when it is released. Where an operator has deleted the owner's key alone, the call that had won
//! takes `barred` away as soon as it notices (*unbar*): its session, which lives, would keep that as well.
//!
//! An election never seizes: if a hand deletes the owner's key, a seizure that is still on its way could make an owner
//! that does not know of it. A [`FencedLock`](super::FencedLock) settles the call as soon as it notices, also where all
//! that it does is to release what it believes to hold; and `force_unlock` settles the call whose hold it ends.
//!
//! A process that has seen the mark also compares in a grant that m(mark) is no less (`lock/lineage.rs`).
//!
//! Comparing the session's key in the grant is what etcd's own `Election.Campaign` lacks (etcd #19597): a lease that
//! was lost while waiting never wins.

use serde::{Deserialize, Serialize};

use super::keys::{CallId, LockKeys, mark_of};
use crate::fence::{Fence, Scope, Stamp};
use crate::store::{Compare, Entry, Keys, LeaseId, Op, Order, Range, Revision, Sort, Test, Txn};
use crate::time::Wall;

/// The version of the records below. Another one is not read.
pub(super) const RECORD: u32 = 1;

/// Fences stay below this (2^53), so that JSON readers keep them exact.
pub const FENCE_LIMIT: u64 = 1 << 53;

/// What fences are counted from: `fence = base + revision of the grant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Base {
    pub value: u64,
    pub modified: Revision,
}

/// What fences are counted from is not there, so that a new fence could be lower than an old one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FenceBaseError {
    /// It was deleted, or never written.
    #[error(
        "the fence base `{key}` is missing, so new fences could be lower than old ones: no lock of \
         this namespace is granted until `fencron fence repair` was run"
    )]
    Missing { key: String },
    /// It was overwritten with something else.
    #[error(
        "the fence base `{key}` cannot be used ({why}), so new fences could be lower than old ones: no lock of \
         this namespace is granted until `fencron fence repair` was run"
    )]
    Unreadable { key: String, why: String },
}

impl Base {
    /// A greater base leaves no room for the revisions that are added to it.
    pub const LIMIT: u64 = FENCE_LIMIT / 2;

    pub fn read(key: &str, entry: Option<&Entry>) -> Result<Base, FenceBaseError> {
        let entry = entry.ok_or_else(|| FenceBaseError::Missing { key: key.to_owned() })?;
        let unreadable = |why: String| FenceBaseError::Unreadable { key: key.to_owned(), why };
        if let Some(lease) = entry.lease {
            return Err(unreadable(format!("it hangs on the lease {lease} and would vanish with it")));
        }
        let value = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
        match value.filter(|value| *value < Base::LIMIT) {
            Some(value) => Ok(Base { value, modified: entry.modified }),
            None => Err(unreadable("its value is not a number below 2^52".to_owned())),
        }
    }
}

/// The fence of the hold that was granted at `created` over `base`; `None` where it would leave what JSON keeps exact.
pub(crate) fn fence(base: u64, created: Revision) -> Option<Fence> {
    base.checked_add(created.0).filter(|fence| *fence < FENCE_LIMIT).and_then(Fence::new)
}

/// The caller of a lock: one call of one session.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub call: CallId,
    pub node: String,
    pub lease: LeaseId,
    pub session_key: String,
    /// When the session's key came to be: proof that it is this session's, and still there.
    pub session_created: Revision,
    /// The lease that bars the lock for a while after this session's has run out.
    pub delay: Option<LeaseId>,
}

/// How a call contends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Manner {
    /// An election's: the only call of its session, always through the queue.
    Candidate,
    /// A lock's: one of many of its session, past the queue where that is empty.
    Context,
}

/// How much of the queue a look reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueRead {
    Whole,
    /// The call's own place and the one before it, where it is known since when the call waits; else the last.
    Near {
        queued: Option<Revision>,
    },
}

/// A key that exists for as long as what it proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub key: String,
    pub created: Revision,
    pub lease: LeaseId,
}

impl Proof {
    /// That the key is still the one that was put, and hangs on its lease.
    pub fn still_stands(&self) -> [Compare; 2] {
        [Compare::created_at(self.key.as_str(), self.created), Compare::lease(self.key.as_str(), self.lease)]
    }

    pub fn is_shown_by(&self, entry: &Entry) -> bool {
        entry.key == self.key && entry.created == self.created && entry.lease == Some(self.lease)
    }
}

/// One hold of a lock. It proves itself in the transaction that acts on it ([`Hold::still_held`]), never by a bool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    owner_key: String,
    scope: Scope,
    created: Revision,
    lease: LeaseId,
    call: CallId,
    fence: Fence,
    delayed: bool,
}

impl Hold {
    /// The two comparisons that every write made under this hold carries in its own transaction: the owner's key is
    /// still the one that this hold created, and hangs on its lease.
    ///
    /// ```
    /// # use fencron::lock::Hold;
    /// use fencron::store::{Op, Txn};
    /// fn mark_done(hold: &Hold) -> Txn {
    ///     hold.still_held().into_iter().fold(Txn::new(), Txn::when).then(Op::put("/fencron/v1/shop/done", "yes"))
    /// }
    /// ```
    pub fn still_held(&self) -> [Compare; 2] {
        self.proof().still_stands()
    }

    /// The number to stamp on effects.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// What the fence is comparable within.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// When the hold began, in the store's history.
    pub fn created(&self) -> Revision {
        self.created
    }

    /// The lease it hangs on.
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// The call that won it.
    pub fn call(&self) -> CallId {
        self.call
    }

    /// Whether the lock is barred for a while where its session ends before it is released.
    pub(super) fn is_delayed(&self) -> bool {
        self.delayed
    }

    /// What everything that is claimed under this hold puts in its own transaction: by it a store that was restored from
    /// before is known.
    pub(crate) fn mark(&self) -> Op {
        Op::put(mark_of(&self.scope), self.base().to_string())
    }

    /// What its fence was counted from.
    pub(crate) fn base(&self) -> u64 {
        self.fence.get() - self.created.0
    }

    /// Whether `owner`, as it was read under [`Hold::owner_key`], shows this hold.
    pub(crate) fn is_shown_by(&self, owner: &Entry) -> bool {
        self.proof().is_shown_by(owner)
    }

    /// The key that shows the hold.
    pub(crate) fn proof(&self) -> Proof {
        Proof { key: self.owner_key.clone(), created: self.created, lease: self.lease }
    }

    /// What an effect under this hold carries, for the guard at its target: `operation` names the effect and stays the
    /// same when the effect is repeated; `at` is the instant that it is for.
    ///
    /// ```
    /// # use fencron::lock::Hold;
    /// # use fencron::time::Wall;
    /// fn fence_of_a_child(hold: &Hold, at: Wall) -> Vec<(&'static str, String)> {
    ///     hold.stamp("node-1", "deploy-4711", at).variables().collect()
    /// }
    /// ```
    pub fn stamp(&self, node: &str, operation: &str, at: Wall) -> Stamp {
        let namespace = self.scope.as_str().split('/').next().unwrap_or_default().to_owned();
        Stamp {
            namespace,
            scope: self.scope.clone(),
            fence: self.fence,
            job: operation.to_owned(),
            run_id: operation.to_owned(),
            scheduled_at: at,
            attempt: 1,
            node: node.to_owned(),
            after: None,
        }
    }

    /// The key that exists for as long as the hold: watch it to learn of the hold's end.
    pub fn owner_key(&self) -> &str {
        &self.owner_key
    }
}

/// The value of `owner`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnerRecord {
    v: u32,
    pub node: String,
    pub call: String,
    pub since: Wall,
    pub base: u64,
    /// The holder put `barred` as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    delayed: bool,
}

/// The value of `wait/<call>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitRecord {
    v: u32,
    pub node: String,
    pub since: Wall,
}

/// The value of `settled/…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SettledRecord {
    v: u32,
    call: String,
}

/// The value of `barred`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BarredRecord {
    v: u32,
    why: Barred,
    /// The call that put it; absent: that of no call, or of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call: Option<String>,
}

/// The value of `barred` that a call with a delay puts.
fn bar_of(call: CallId) -> Vec<u8> {
    json(&BarredRecord { v: RECORD, why: Barred::Delay, call: Some(call.to_string()) })
}

/// Why the lock is not granted for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Barred {
    /// Its holder has set a delay, which counts from the end of its lease.
    Delay,
    /// It was destroyed a moment ago.
    Destroyed,
}

impl Barred {
    /// Why the lock is barred. What cannot be read bars it as well.
    pub fn read(value: &[u8]) -> Barred {
        let record = serde_json::from_slice(value).ok().filter(|record: &BarredRecord| record.v == RECORD);
        record.map_or(Barred::Delay, |record| record.why)
    }
}

impl OwnerRecord {
    /// The record, where this version can read it.
    pub fn read(value: &[u8]) -> Option<OwnerRecord> {
        serde_json::from_slice(value).ok().filter(|record: &OwnerRecord| record.v == RECORD)
    }
}

/// When the lock was granted whose owner's key has this value, by the owner's clock; `None`: it is no owner's.
#[cfg(feature = "jobs")]
pub(crate) fn owned_since(value: &[u8]) -> Option<Wall> {
    OwnerRecord::read(value).map(|owner| owner.since)
}

impl WaitRecord {
    pub fn read(value: &[u8]) -> Option<WaitRecord> {
        serde_json::from_slice(value).ok().filter(|record: &WaitRecord| record.v == RECORD)
    }
}

pub(super) fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record of texts and numbers can be written")
}

/// The state of the lock that an enqueue was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entrance {
    pub owner_created: Revision,
    /// A revision at which the call was still wanted. A later settlement of the call makes the request void.
    pub wanted_at: Revision,
}

/// What a seizure is made on: the base that its fence is counted from, and when the call was still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Opening {
    pub base: Base,
    /// As [`Entrance::wanted_at`].
    pub wanted_at: Revision,
}

/// A call's turn: where it stands in the queue, and the base its fence will be counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueuePlace {
    pub queued: Revision,
    pub base: Base,
}

impl LockKeys {
    /// Reads everything that a decision of `caller` needs, or what an observer sees, in the order that
    /// [`Line::read`](super::line::Line::read) expects.
    pub fn look(&self, caller: Option<&Caller>, view: QueueRead) -> Vec<Op> {
        let all = Range::of(self.waiting());
        let waiting = match view {
            QueueRead::Whole => all,
            // A place in the queue is never put again, so that the place that was put last is the last in the queue.
            QueueRead::Near { queued } => Range { limit: 1, order: Sort::NewestFirst, modified_before: queued, ..all },
        };
        let mut gets = self.past.look().to_vec();
        gets.extend([Op::get(&self.owner), Op::get(&self.barred), Op::Get(waiting)]);
        if let Some(caller) = caller {
            gets.push(Op::get(&caller.session_key));
            gets.push(Op::get(self.wait(caller.call)));
        }
        gets
    }

    /// Puts the call at the end of the queue, once, and reads the place before it: of many calls that come at the same
    /// time each waits for another one. It also reads whether the lock is barred, which may have ended since the last
    /// look.
    pub fn enqueue(&self, caller: &Caller, entrance: Entrance, now: Wall, view: QueueRead) -> Txn {
        let wait = self.wait(caller.call);
        let record = WaitRecord { v: RECORD, node: caller.node.clone(), since: now };
        let all = Range::of(self.waiting());
        let waiting = match view {
            QueueRead::Whole => all,
            QueueRead::Near { .. } => Range { limit: 2, order: Sort::NewestFirst, ..all },
        };
        Txn {
            when: vec![
                Compare::absent(Keys::one(wait.as_str())),
                Compare::created_at(caller.session_key.as_str(), caller.session_created),
                Compare::created_at(self.owner.as_str(), entrance.owner_created),
                self.unsettled_since(caller.call, entrance.wanted_at),
            ],
            then: vec![Op::put_leased(wait, json(&record), caller.lease), Op::Get(waiting), Op::get(&self.barred)],
            otherwise: self.look(Some(caller), view),
        }
    }

    /// Makes the call the owner, if the lock has no owner and no call waits before this one. If one does that a near
    /// read has not shown (a place that a person has overwritten), the transaction reads the whole queue.
    pub fn grant(&self, caller: &Caller, turn: QueuePlace, now: Wall) -> Txn {
        let wait = self.wait(caller.call);
        let nobody_before = Test::Created(Order::Greater, Revision(turn.queued.0 - 1));
        let mut grant = self.own(caller, turn.base, now, QueueRead::Whole);
        grant.when.push(Compare::created_at(wait.as_str(), turn.queued));
        grant.when.push(Compare { keys: self.waiting(), test: nobody_before });
        grant.then(Op::delete(wait))
    }

    /// Makes the call the owner, if the lock has no owner and no waiter.
    pub fn seize(&self, caller: &Caller, opening: Opening, now: Wall, view: QueueRead) -> Txn {
        let mut seize = self.own(caller, opening.base, now, view);
        seize.when.push(Compare::absent(self.waiting()));
        seize.when(self.unsettled_since(caller.call, opening.wanted_at))
    }

    /// Nothing has settled the call since `wanted_at`, nor another call that is noted in the same place.
    fn unsettled_since(&self, call: CallId, wanted_at: Revision) -> Compare {
        let test = Test::Modified(Order::Less, wanted_at.next());
        Compare { keys: Keys::one(self.settled(call)), test }
    }

    fn own(&self, caller: &Caller, base: Base, now: Wall, view: QueueRead) -> Txn {
        let record = OwnerRecord {
            v: RECORD,
            node: caller.node.clone(),
            call: caller.call.to_string(),
            since: now,
            base: base.value,
            delayed: caller.delay.is_some(),
        };
        let mut then = vec![Op::put_leased(&self.owner, json(&record), caller.lease), self.past.marked(base.value)];
        then.extend(caller.delay.map(|lease| Op::put_leased(&self.barred, bar_of(caller.call), lease)));
        Txn {
            when: vec![
                Compare::absent(Keys::one(self.owner.as_str())),
                Compare::absent(Keys::one(self.barred.as_str())),
                self.past.trusted(),
                Compare::modified_at(self.past.base.as_str(), base.modified),
                Compare::created_at(caller.session_key.as_str(), caller.session_created),
            ],
            then,
            otherwise: self.look(Some(caller), view),
        }
    }

    /// The hold that a grant which was applied at `created` gave; `None` where its fence would be too great.
    pub fn hold(&self, caller: &Caller, base: u64, created: Revision) -> Option<Hold> {
        Some(Hold {
            owner_key: self.owner.clone(),
            scope: self.scope.clone(),
            created,
            lease: caller.lease,
            call: caller.call,
            fence: fence(base, created)?,
            delayed: caller.delay.is_some(),
        })
    }

    /// The hold that the owner's key shows, where it is one of this very call.
    pub fn hold_in(&self, owner: &Entry, caller: &Caller) -> Option<Hold> {
        let record = OwnerRecord::read(&owner.value).filter(|record| record.call == caller.call.to_string())?;
        let hold = self.hold(caller, record.base, owner.created).filter(|_| owner.lease == Some(caller.lease))?;
        Some(Hold { delayed: record.delayed, ..hold })
    }

    /// Ends the hold, and remembers which call it was.
    pub fn release(&self, hold: &Hold) -> Txn {
        let mut then = vec![Op::delete(&self.owner), self.settle(hold.call)];
        then.extend(hold.delayed.then(|| Op::delete(&self.barred)));
        Txn { when: hold.still_held().into(), then, otherwise: vec![Op::get(self.settled(hold.call))] }
    }

    /// Withdraws the call of a hold that another hand has ended: the call itself released nothing.
    pub fn disown(&self, call: CallId) -> Txn {
        Txn::new().then(Op::delete(self.wait(call))).then(self.void(call)).then(Op::get(&self.owner))
    }

    /// Notes that another hand has ended what the call had.
    pub fn void(&self, call: CallId) -> Op {
        void(self.settled(call), call)
    }

    /// What the owner's key shows where the call of `hold` was granted the lock once more.
    pub fn again(&self, owner: &Entry, hold: &Hold) -> Option<Hold> {
        let record = OwnerRecord::read(&owner.value).filter(|record| record.call == hold.call.to_string())?;
        let fence = fence(record.base, owner.created).filter(|_| owner.lease == Some(hold.lease))?;
        Some(Hold { created: owner.created, fence, delayed: record.delayed, ..hold.clone() })
    }

    /// That the lock is barred by this very call, and not by another one of its session.
    pub fn barred_by(&self, call: CallId) -> Compare {
        Compare { keys: Keys::one(self.barred.as_str()), test: Test::Value(bar_of(call)) }
    }

    /// Takes away the bar that a hold of the session with this key has left, where that hold is gone though the session is
    /// not. `bar` proves whose it is.
    pub fn unbar(&self, bar: Compare, session_key: &str) -> Txn {
        let absent = Compare::absent(Keys::one(self.owner.as_str()));
        let lives = Compare::present(Keys::one(session_key));
        Txn::new().when(absent).when(bar).when(lives).then(Op::delete(&self.barred))
    }

    /// Whether what a refused [`LockKeys::release`] read says that an earlier one of the same call was applied.
    pub fn was_settled(settled: Option<&[Entry]>, call: CallId) -> bool {
        settled.and_then(|entries| entries.first()).is_some_and(|entry| is_settled(entry, call))
    }

    /// Removes the call from the queue for good, and reads the owner, which may be this very call.
    pub fn withdraw(&self, call: CallId) -> Txn {
        Txn::new().then(Op::delete(self.wait(call))).then(self.settle(call)).then(Op::get(&self.owner))
    }

    /// Ends everything of the lock, and bars it under `lease`, so that new calls learn that it was destroyed.
    pub fn destroy(&self, lease: LeaseId) -> Txn {
        let bar = json(&BarredRecord { v: RECORD, why: Barred::Destroyed, call: None });
        Txn::new().then(Op::delete(&self.owner)).then(Op::Delete(self.waiting())).then(Op::put_leased(
            &self.barred,
            bar,
            lease,
        ))
    }

    fn settle(&self, call: CallId) -> Op {
        settle(self.settled(call), call)
    }
}

/// Whether what stands where the call is noted says that it is over.
pub(crate) fn is_settled(entry: &Entry, call: CallId) -> bool {
    let record: Option<SettledRecord> = serde_json::from_slice(&entry.value).ok();
    record.is_some_and(|record| record.v == RECORD && record.call == call.to_string())
}

/// Notes at `key` that the call is over: nothing of it can take effect any more.
pub(crate) fn settle(key: String, call: CallId) -> Op {
    Op::put(key, json(&SettledRecord { v: RECORD, call: call.to_string() }))
}

/// As [`settle`], for a call of which another hand has ended what it had: that differs from its own release.
pub(crate) fn void(key: String, call: CallId) -> Op {
    Op::put(key, json(&SettledRecord { v: RECORD, call: format!("{call}, by another hand") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base_entry(value: &str, lease: Option<u64>) -> Entry {
        let lease = lease.map(|id| LeaseId(id.try_into().unwrap()));
        Entry { key: "base".into(), value: value.into(), created: Revision(2), modified: Revision(3), lease }
    }

    #[test]
    fn a_base_is_a_number_that_leaves_room() {
        let read = |value: &str| Base::read("base", Some(&base_entry(value, None))).map(|base| base.value);
        assert_eq!(read("0"), Ok(0));
        assert_eq!(read("4503599627370495"), Ok((1 << 52) - 1));
        for value in ["", "-1", "x", "4503599627370496", "1 "] {
            assert!(matches!(read(value), Err(FenceBaseError::Unreadable { .. })), "{value}");
        }
    }

    #[test]
    fn a_base_that_can_vanish_is_not_used() {
        let read = Base::read("base", Some(&base_entry("0", Some(7))));
        assert!(matches!(read, Err(FenceBaseError::Unreadable { .. })));
        assert!(matches!(Base::read("base", None), Err(FenceBaseError::Missing { .. })));
    }

    #[test]
    fn a_fence_stays_where_json_is_exact() {
        assert_eq!(fence(0, Revision(7)).map(Fence::get), Some(7));
        assert_eq!(fence(FENCE_LIMIT - 8, Revision(7)).map(Fence::get), Some(FENCE_LIMIT - 1));
        assert_eq!(fence(FENCE_LIMIT - 7, Revision(7)), None);
        assert_eq!(fence(u64::MAX, Revision(7)), None);
    }

    #[test]
    fn a_record_of_another_version_is_not_read() {
        let record = br#"{"v":2,"node":"a","call":"0","since":"2026-11-21T02:00:00Z","base":0}"#;
        assert_eq!(OwnerRecord::read(record), None);
    }
}
