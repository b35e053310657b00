//! PURE: a lock and its queue as they were at one revision, and what a call does next.
//!
//! A call never remembers how far it got. It looks, and the whole of its next step follows from what it sees and from
//! its call id; so a lost answer, a restart of the call, and a watch that said nothing all end in the same place.

use std::fmt;

use super::hold::{
    Barred, Caller, Entrance, FenceBaseError, Hold, Manner, Opening, OwnerRecord, QueuePlace, WaitRecord, fence,
};
use super::keys::{CallId, LockKeys};
use super::lineage::Past;
use crate::fence::Fence;
use crate::store::{Answer, Committed, Entry, LeaseId, Revision};
use crate::time::Wall;

/// A lock and its queue at one revision.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub revision: Revision,
    pub past: Past,
    owner: Option<Entry>,
    barred: Option<Entry>,
    /// In the order of their arrival; of a near view, those that matter to the caller.
    waiting: Vec<Entry>,
    /// When the caller's session key came to be; 0: there is none.
    session_created: Revision,
}

/// What a call does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has won already.
    Adopt(Hold),
    /// It gets into the queue.
    Enqueue(Entrance),
    /// It is first, and the lock has no holder.
    Take(QueuePlace),
    /// The lock has no holder and no waiter.
    Seize(Opening),
    /// The lock was destroyed a moment ago.
    Destroyed,
    /// It waits for this key to go.
    Wait { behind: String },
    /// Its session's key is gone: it can never win.
    SessionGone,
    /// Nothing can be granted.
    NoBase(FenceBaseError),
}

/// A key that keeps the lock from all callers and does not go away by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Obstacle {
    pub key: String,
    pub reason: Reason,
}

/// Why a key stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It hangs on no lease. Only a hand that wrote it could have done that.
    NoLease,
    /// It is not a record of a version that this program can read. It goes with its lease.
    Unreadable,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match self.reason {
            Reason::NoLease => write!(
                f,
                "`{key}` hangs on no lease, so it was written by hand and never goes away: the lock is granted \
                 to no caller until it is deleted (etcd: `etcdctl del {key}`; any store: `fencron fence repair`)"
            ),
            Reason::Unreadable => write!(
                f,
                "`{key}` is no record that this version can read: written by hand, or by a newer fencron; the lock is \
                 held for as long as its lease lives"
            ),
        }
    }
}

/// The holder of a lock, by its owner's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub node: String,
    pub lease: LeaseId,
    pub fence: Fence,
    pub since: Wall,
    pub call: String,
    pub created: Revision,
}

impl Holder {
    /// The holder of the lock by its owner's key, if that can be read.
    pub fn of(owner: &Entry) -> Option<Holder> {
        let record = OwnerRecord::read(&owner.value)?;
        Some(Holder {
            node: record.node,
            lease: owner.lease?,
            fence: fence(record.base, owner.created)?,
            since: record.since,
            call: record.call,
            created: owner.created,
        })
    }
}

/// A place in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// The node's name; `None` where it cannot be read.
    pub node: Option<String>,
    pub session: Option<LeaseId>,
    pub since: Option<Wall>,
}

/// As they came.
fn put_in_order(waiting: &mut [Entry]) {
    waiting.sort_by(|one, other| (one.created, &one.key).cmp(&(other.created, &other.key)));
}

impl Line {
    /// What a committed [`LockKeys::look`] answered. `None` where the answers are not those of a look.
    pub fn read(keys: &LockKeys, committed: Committed) -> Option<Line> {
        let mut pages = committed.answers.into_iter().map(|answer| match answer {
            Answer::Got(page) => Some(page.entries),
            Answer::Put | Answer::Deleted(_) => None,
        });
        let past = keys.past.read(&mut pages)?;
        let owner = pages.next()??.pop();
        let barred = pages.next()??.pop();
        let mut waiting = pages.next()??;
        let session = pages.next().flatten().unwrap_or_default();
        waiting.extend(pages.next().flatten().unwrap_or_default());
        put_in_order(&mut waiting);
        waiting.dedup_by(|one, other| one.key == other.key);
        Some(Line {
            revision: committed.revision,
            past,
            owner,
            barred,
            waiting,
            session_created: session.first().map_or(Revision(0), |entry| entry.created),
        })
    }

    /// The same queue after the call was put at its end, by a [`LockKeys::enqueue`] that was applied.
    pub fn joined(mut self, committed: Committed) -> Line {
        self.revision = committed.revision;
        let mut pages = committed.answers.into_iter().filter_map(|answer| match answer {
            Answer::Got(page) => Some(page.entries),
            Answer::Put | Answer::Deleted(_) => None,
        });
        self.waiting = pages.next().unwrap_or_default();
        put_in_order(&mut self.waiting);
        self.barred = pages.next().unwrap_or_default().pop();
        self
    }

    /// The same queue after the owner's key was deleted, at `revision`.
    pub fn vacated(mut self, revision: Revision) -> Line {
        self.owner = None;
        self.revision = revision;
        self
    }

    /// Whether the key of the caller's session stands.
    pub fn has_session_of(&self, caller: &Caller) -> bool {
        self.session_created == caller.session_created
    }

    /// What the call does next.
    pub fn step(&self, keys: &LockKeys, caller: &Caller, manner: Manner) -> Step {
        if !self.has_session_of(caller) {
            return Step::SessionGone;
        }
        if let Some(hold) = self.owner.as_ref().and_then(|owner| keys.hold_in(owner, caller)) {
            return Step::Adopt(hold);
        }
        if manner == Manner::Context && self.is_destroyed() {
            return Step::Destroyed;
        }
        let base = match &self.past.base {
            Ok(base) => *base,
            Err(error) => return Step::NoBase(error.clone()),
        };
        let own = keys.wait(caller.call);
        let wanted_at = self.revision;
        let Some(place) = self.waiting.iter().position(|entry| entry.key == own) else {
            let is_free = self.owner.is_none() && self.barred.is_none() && self.waiting.is_empty();
            if manner == Manner::Context && is_free {
                return Step::Seize(Opening { base, wanted_at });
            }
            let owner_created = self.owner.as_ref().map_or(Revision(0), |owner| owner.created);
            return Step::Enqueue(Entrance { owner_created, wanted_at });
        };
        let queued = &self.waiting[place];
        match (place.checked_sub(1), self.owner.as_ref().or(self.barred.as_ref())) {
            // An earlier session made the same call: it goes with that session's lease, and then this one enqueues.
            _ if queued.lease != Some(caller.lease) => Step::Wait { behind: own },
            (Some(before), _) => Step::Wait { behind: self.waiting[before].key.clone() },
            (None, Some(entry)) => Step::Wait { behind: entry.key.clone() },
            (None, None) => Step::Take(QueuePlace { queued: queued.created, base }),
        }
    }

    /// Since when the call waits, as far as this shows it.
    pub fn queued(&self, keys: &LockKeys, call: CallId) -> Option<Revision> {
        let own = keys.wait(call);
        self.waiting.iter().find(|entry| entry.key == own).map(|entry| entry.created)
    }

    /// How many wait before the call, in a view of the whole queue.
    pub fn ahead_of(&self, keys: &LockKeys, call: CallId) -> Option<usize> {
        let own = keys.wait(call);
        self.waiting.iter().position(|entry| entry.key == own)
    }

    /// The places in the queue before the first one of `node`; `None` where it does not wait.
    pub fn places_before(&self, node: &str) -> Option<Vec<String>> {
        let is_its = |entry: &Entry| WaitRecord::read(&entry.value).is_some_and(|record| record.node == node);
        let place = self.waiting.iter().position(is_its)?;
        Some(self.waiting[..place].iter().map(|entry| entry.key.clone()).collect())
    }

    /// Whether the lock can be granted to no caller for now, apart from having a holder.
    pub fn is_barred(&self) -> bool {
        self.barred.is_some()
    }

    /// Whether the lock was destroyed a moment ago.
    pub fn is_destroyed(&self) -> bool {
        self.barred.as_ref().is_some_and(|barred| Barred::read(&barred.value) == Barred::Destroyed)
    }

    /// Whether the hold still stands.
    pub fn shows(&self, hold: &Hold) -> bool {
        self.owner.as_ref().is_some_and(|owner| hold.proof().is_shown_by(owner))
    }

    /// Another call of the same session that holds the lock or waits before this one. For an election that is a mistake
    /// of its caller, which would wait for itself.
    pub fn other_call(&self, keys: &LockKeys, caller: &Caller) -> Option<CallId> {
        let ours = |entry: &&Entry| entry.lease == Some(caller.lease);
        let holds = self.owner.as_ref().filter(ours).and_then(|owner| OwnerRecord::read(&owner.value));
        let holds = holds.and_then(|record| CallId::parse(&record.call));
        let own = keys.wait(caller.call);
        let before = self.waiting.iter().take_while(|entry| entry.key != own).filter(ours);
        holds.into_iter().chain(before.filter_map(|entry| keys.call_of(&entry.key))).find(|call| *call != caller.call)
    }

    /// The holder of the lock; `None` also when the owner's record cannot be read, which is an [`Obstacle`].
    pub fn holder(&self) -> Option<Holder> {
        self.owner.as_ref().and_then(Holder::of)
    }

    /// All waiters, in the order of arrival.
    pub fn waiters(&self) -> Vec<Waiter> {
        let waiter = |entry: &Entry| {
            let (node, since) = WaitRecord::read(&entry.value).map(|record| (record.node, record.since)).unzip();
            Waiter { node, session: entry.lease, since }
        };
        self.waiting.iter().map(waiter).collect()
    }

    /// What keeps the lock from all callers.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let leaseless = self.owner.iter().chain(&self.barred).chain(&self.waiting);
        let leaseless = leaseless.filter(|entry| entry.lease.is_none());
        let leaseless = leaseless.map(|entry| Obstacle { key: entry.key.clone(), reason: Reason::NoLease });
        let unreadable = self.owner.iter().filter(|owner| owner.lease.is_some() && self.holder().is_none());
        let unreadable = unreadable.map(|owner| Obstacle { key: owner.key.clone(), reason: Reason::Unreadable });
        leaseless.chain(unreadable).collect()
    }
}
