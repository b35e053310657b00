//! PURE: the transactions of a lock, and what one hold of it is.
//!
//! Written `c` for a key's creation revision, `m` for its modification revision:
//!
//! | transaction | if | then |
//! | --- | --- | --- |
//! | enqueue | c(wait/call) = 0, c(sess) = as opened, c(owner) and m(last) as read | put wait/call |
//! | grant | c(owner) = 0, m(base) as read, c(wait/call) = w, every c(wait/…) > w - 1, c(sess) as opened | put owner, delete wait/call |
//! | release | c(owner) = the hold's, lease(owner) = the hold's | delete owner, put last |
//! | withdraw | | delete wait/call, put last |
//!
//! Any of them may be applied late, or twice, by a network that repeats what nobody waits for any more. None does harm:
//! a late *grant* finds its place in the queue gone (`w` is unique for ever); a late *enqueue* finds the owner or the
//! last call changed, so that nothing waits that nobody waits for; a late *release* finds another creation revision.
//! Comparing the session's key in the grant is what etcd's own `Election.Campaign` lacks (etcd #19597): a lease that
//! was lost while waiting never wins.

use serde::{Deserialize, Serialize};

use super::keys::{CallId, LockKeys};
use crate::fence::{Fence, Scope};
use crate::store::{Compare, Entry, Keys, LeaseId, Op, Order, Range, Revision, Test, Txn};
use crate::time::Wall;

/// The version of the records below. Another one is not read.
const RECORD: u32 = 1;

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
pub enum FenceBaseError {
    /// Somebody deleted it, or it was never written.
    #[error(
        "the fence base `{key}` is missing, so new fences could be lower than old ones: nobody is granted a lock of \
         this namespace until `fencron fence repair` was run"
    )]
    Missing { key: String },
    /// Somebody wrote something else.
    #[error(
        "the fence base `{key}` cannot be used ({why}), so new fences could be lower than old ones: nobody is granted \
         a lock of this namespace until `fencron fence repair` was run"
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

/// Who calls for a lock: one call of one session.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub call: CallId,
    pub node: String,
    pub lease: LeaseId,
    pub session_key: String,
    /// When the session's key came to be: proof that it is this session's, and still there.
    pub session_created: Revision,
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
        [
            Compare::created_at(self.owner_key.as_str(), self.created),
            Compare::lease(self.owner_key.as_str(), self.lease),
        ]
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

    /// The key that exists for as long as the hold: what to watch to hear of its end.
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
}

/// The value of `wait/<call>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitRecord {
    v: u32,
    pub node: String,
    pub since: Wall,
}

/// The value of `last`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LastRecord {
    v: u32,
    call: String,
}

impl OwnerRecord {
    /// The record, where this version can read it.
    pub fn read(value: &[u8]) -> Option<OwnerRecord> {
        serde_json::from_slice(value).ok().filter(|record: &OwnerRecord| record.v == RECORD)
    }
}

impl WaitRecord {
    pub fn read(value: &[u8]) -> Option<WaitRecord> {
        serde_json::from_slice(value).ok().filter(|record: &WaitRecord| record.v == RECORD)
    }
}

fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record of texts and numbers can be written")
}

/// The state of the queue that an enqueue was decided on: as long as it stands, the call has not been settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entrance {
    pub owner_created: Revision,
    pub last_modified: Revision,
}

/// A call's turn: where it stands in the queue, and the base its fence will be counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Turn {
    pub queued: Revision,
    pub base: Base,
}

impl LockKeys {
    /// Reads everything that a decision needs, in the order that [`Line::read`](super::line::Line::read) expects.
    pub fn look(&self, session_key: Option<&str>) -> Vec<Op> {
        let mut gets =
            vec![Op::get(&self.base), Op::get(&self.owner), Op::get(&self.last), Op::Get(Range::of(self.waiting()))];
        gets.extend(session_key.map(Op::get));
        gets
    }

    /// Puts the call at the end of the queue, once.
    pub fn enqueue(&self, caller: &Caller, entrance: Entrance, now: Wall) -> Txn {
        let wait = self.wait(caller.call);
        let record = WaitRecord { v: RECORD, node: caller.node.clone(), since: now };
        Txn {
            when: vec![
                Compare::absent(Keys::one(wait.as_str())),
                Compare::created_at(caller.session_key.as_str(), caller.session_created),
                Compare::created_at(self.owner.as_str(), entrance.owner_created),
                Compare::modified_at(self.last.as_str(), entrance.last_modified),
            ],
            then: vec![Op::put_leased(wait, json(&record), caller.lease)],
            otherwise: self.look(Some(&caller.session_key)),
        }
    }

    /// Makes the call the owner, where nobody is and nobody waits before it.
    pub fn grant(&self, caller: &Caller, turn: Turn, now: Wall) -> Txn {
        let wait = self.wait(caller.call);
        let record = OwnerRecord {
            v: RECORD,
            node: caller.node.clone(),
            call: caller.call.to_string(),
            since: now,
            base: turn.base.value,
        };
        let nobody_before = Test::Created(Order::Greater, Revision(turn.queued.0 - 1));
        Txn {
            when: vec![
                Compare::absent(Keys::one(self.owner.as_str())),
                Compare::modified_at(self.base.as_str(), turn.base.modified),
                Compare::created_at(wait.as_str(), turn.queued),
                Compare { keys: self.waiting(), test: nobody_before },
                Compare::created_at(caller.session_key.as_str(), caller.session_created),
            ],
            then: vec![Op::put_leased(&self.owner, json(&record), caller.lease), Op::delete(wait)],
            otherwise: self.look(Some(&caller.session_key)),
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
        })
    }

    /// Ends the hold, and remembers which call it was.
    pub fn release(&self, hold: &Hold) -> Txn {
        Txn {
            when: hold.still_held().into(),
            then: vec![Op::delete(&self.owner), self.remember(hold.call)],
            otherwise: vec![Op::get(&self.last)],
        }
    }

    /// Whether what a refused [`LockKeys::release`] read says that an earlier one of the same call was applied.
    pub fn was_released(last: Option<&[Entry]>, call: CallId) -> bool {
        let last = last.and_then(|entries| entries.first());
        let record = last.and_then(|entry| serde_json::from_slice::<LastRecord>(&entry.value).ok());
        record.is_some_and(|record| record.v == RECORD && record.call == call.to_string())
    }

    /// Takes the call out of the queue for good, and reads who the owner is: it may be this very call.
    pub fn withdraw(&self, call: CallId) -> Txn {
        Txn::new().then(Op::delete(self.wait(call))).then(self.remember(call)).then(Op::get(&self.owner))
    }

    fn remember(&self, call: CallId) -> Op {
        Op::put(&self.last, json(&LastRecord { v: RECORD, call: call.to_string() }))
    }
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
