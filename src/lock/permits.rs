//! PURE: the transactions of a semaphore, and what a call for permits does next.
//!
//! How many permits are held is not counted in a key of its own: no lease that ends could count it down. It is the sum
//! over the keys of the holders, as read at one revision. The sum stays an upper bound as long as no such key is
//! created after that revision, which is what every grant compares. A key is never put twice.
//!
//! | transaction | if | then |
//! | --- | --- | --- |
//! | enqueue | c(wait/call) = c(held/call) = 0, m(settled/call) as read, c(sess) as opened | put wait/call |
//! | take | m(permits) as read, every c(held/…) ≤ the revision of the reading, m(settled/call) as read, c(sess) as opened; waiting since w: c(wait/call) = w, every c(wait/…) > w - 1; else: nothing in wait/ | put held/call, delete wait/call |
//! | release | c(held/call) and its lease as taken | delete held/call, put settled/call |
//! | withdraw | | delete wait/call, delete held/call, put settled/call |

use serde::{Deserialize, Serialize};

use super::hold::{Caller, Proof, QueueRead, RECORD, json, settle};
use super::keys::{CallId, SemaphoreKeys};
use super::lineage::Past;
use crate::store::{Answer, Committed, Compare, Entry, Keys, Op, Order, Range, Revision, Sort, Test, Txn};
use crate::time::Wall;

/// How many permits a semaphore may have: every call reads all their holders.
pub const PERMITS_MOST: u32 = 1000;

/// The value of `permits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PermitsRecord {
    v: u32,
    permits: u32,
}

/// How many permits this entry says that there are; `None` where it cannot be read.
pub(crate) fn permits_of(entry: &Entry) -> Option<u32> {
    let record: Option<PermitsRecord> = serde_json::from_slice(&entry.value).ok();
    record.filter(|record| record.v == RECORD).map(|record| record.permits)
}

/// The value of `held/<call>` and of `wait/<call>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShareRecord {
    v: u32,
    pub node: String,
    pub permits: u32,
    pub since: Wall,
}

impl ShareRecord {
    pub fn read(value: &[u8]) -> Option<ShareRecord> {
        serde_json::from_slice(value).ok().filter(|record: &ShareRecord| record.v == RECORD)
    }
}

/// A semaphore at one revision.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub revision: Revision,
    pub past: Past,
    permits: Option<Entry>,
    pub holding: Vec<Entry>,
    /// In the order of their arrival; of a caller's view, those that matter to it.
    pub waiting: Vec<Entry>,
    session_created: Revision,
    settled_modified: Revision,
}

/// What a call for permits does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PermitStep {
    /// It has them already.
    Adopt(Proof),
    /// The number of permits was not set yet.
    Found,
    Enqueue(Txn),
    Take(Txn),
    /// It waits for one of these to go.
    Wait {
        behind: Keys,
    },
    SessionGone,
    /// There are fewer permits than it asks for.
    TooMany {
        permits: u32,
    },
    /// How many permits there are was written by another hand, or by a newer version.
    Unreadable,
}

/// A call for permits.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub caller: Caller,
    pub permits: u32,
}

impl Pool {
    /// Reads what [`Pool::read`] expects.
    pub fn look(keys: &SemaphoreKeys, caller: Option<&Caller>, view: QueueRead) -> Vec<Op> {
        let all = Range::of(keys.waiting());
        let waiting = match view {
            QueueRead::Whole => all,
            QueueRead::Near { queued } => Range { limit: 1, order: Sort::NewestFirst, modified_before: queued, ..all },
        };
        let mut gets = keys.past.look().to_vec();
        gets.extend([Op::get(&keys.permits), Op::Get(Range::of(keys.holding())), Op::Get(waiting)]);
        if let Some(caller) = caller {
            gets.push(Op::get(&caller.session_key));
            gets.push(Op::get(keys.settled(caller.call)));
            gets.push(Op::get(keys.wait(caller.call)));
        }
        gets
    }

    /// What a committed [`Pool::look`] answered. `None` where the answers are not those of a look.
    pub fn read(keys: &SemaphoreKeys, committed: Committed) -> Option<Pool> {
        let mut pages = committed.answers.into_iter().map(|answer| match answer {
            Answer::Got(page) => Some(page.entries),
            Answer::Put | Answer::Deleted(_) => None,
        });
        let past = keys.past.read(&mut pages)?;
        let permits = pages.next()??.pop();
        let holding = pages.next()??;
        let mut waiting = pages.next()??;
        let session = pages.next().flatten().unwrap_or_default();
        let settled = pages.next().flatten().unwrap_or_default();
        waiting.extend(pages.next().flatten().unwrap_or_default());
        waiting.sort_by(|one, other| (one.created, &one.key).cmp(&(other.created, &other.key)));
        waiting.dedup_by(|one, other| one.key == other.key);
        Some(Pool {
            revision: committed.revision,
            past,
            permits,
            holding,
            waiting,
            session_created: session.first().map_or(Revision(0), |entry| entry.created),
            settled_modified: settled.first().map_or(Revision(0), |entry| entry.modified),
        })
    }

    /// How many permits there are; `None` if the number was not set yet, or cannot be read.
    pub fn permits(&self) -> Option<u32> {
        self.permits.as_ref().and_then(permits_of)
    }

    /// How many permits are held. What cannot be read holds all of them.
    pub fn held(&self) -> u64 {
        let share = |entry: &Entry| ShareRecord::read(&entry.value).map_or(PERMITS_MOST, |record| record.permits);
        self.holding.iter().map(|entry| u64::from(share(entry))).sum()
    }

    /// Since when the call waits, as far as this shows it.
    pub fn queued(&self, keys: &SemaphoreKeys, call: CallId) -> Option<Revision> {
        let own = keys.wait(call);
        self.waiting.iter().find(|entry| entry.key == own).map(|entry| entry.created)
    }

    /// What the call does next.
    pub fn next(&self, keys: &SemaphoreKeys, claim: &Claim, now: Wall) -> PermitStep {
        let caller = &claim.caller;
        if self.session_created != caller.session_created {
            return PermitStep::SessionGone;
        }
        let (own, held) = (keys.wait(caller.call), keys.held(caller.call));
        if let Some(entry) = self.holding.iter().find(|entry| entry.key == held) {
            return PermitStep::Adopt(Proof { key: held, created: entry.created, lease: caller.lease });
        }
        let Some(permits) = self.permits() else {
            return if self.permits.is_some() { PermitStep::Unreadable } else { PermitStep::Found };
        };
        if claim.permits > permits {
            return PermitStep::TooMany { permits };
        }
        let are_free = self.held() + u64::from(claim.permits) <= u64::from(permits);
        let place = self.waiting.iter().position(|entry| entry.key == own);
        match place.map(|place| place.checked_sub(1)) {
            None if are_free && self.waiting.is_empty() => PermitStep::Take(self.take(keys, claim, now, None)),
            None => PermitStep::Enqueue(self.enqueue(keys, claim, now)),
            Some(Some(before)) => PermitStep::Wait { behind: Keys::one(self.waiting[before].key.as_str()) },
            Some(None) if are_free => {
                PermitStep::Take(self.take(keys, claim, now, place.map(|place| self.waiting[place].created)))
            }
            Some(None) => PermitStep::Wait { behind: keys.freeing() },
        }
    }

    fn record(claim: &Claim, now: Wall) -> Vec<u8> {
        json(&ShareRecord { v: RECORD, node: claim.caller.node.clone(), permits: claim.permits, since: now })
    }

    fn enqueue(&self, keys: &SemaphoreKeys, claim: &Claim, now: Wall) -> Txn {
        let caller = &claim.caller;
        let wait = keys.wait(caller.call);
        Txn {
            when: vec![
                Compare::absent(Keys::one(wait.as_str())),
                Compare::absent(Keys::one(keys.held(caller.call))),
                Compare::created_at(caller.session_key.as_str(), caller.session_created),
                Compare::modified_at(keys.settled(caller.call), self.settled_modified),
            ],
            then: vec![Op::put_leased(wait, Pool::record(claim, now), caller.lease)],
            otherwise: Pool::look(keys, Some(caller), QueueRead::Near { queued: None }),
        }
    }

    fn take(&self, keys: &SemaphoreKeys, claim: &Claim, now: Wall, queued: Option<Revision>) -> Txn {
        let caller = &claim.caller;
        let (wait, held) = (keys.wait(caller.call), keys.held(caller.call));
        let permits = self.permits.as_ref().map_or(Revision(0), |entry| entry.modified);
        let nobody_since = Test::Created(Order::Less, self.revision.next());
        let mut when = vec![
            Compare::modified_at(keys.permits.as_str(), permits),
            Compare { keys: keys.holding(), test: nobody_since },
            Compare::modified_at(keys.settled(caller.call), self.settled_modified),
            Compare::created_at(caller.session_key.as_str(), caller.session_created),
            keys.past.trusted(),
        ];
        let mark = keys.past.marked(self.past.base.as_ref().map_or(0, |base| base.value));
        let mut then = vec![Op::put_leased(held, Pool::record(claim, now), caller.lease), mark];
        match queued {
            None => when.push(Compare::absent(keys.waiting())),
            Some(queued) => {
                let nobody_before = Test::Created(Order::Greater, Revision(queued.0 - 1));
                when.push(Compare::created_at(wait.as_str(), queued));
                when.push(Compare { keys: keys.waiting(), test: nobody_before });
                then.push(Op::delete(wait));
            }
        }
        // All of them, in case that a near read has not shown the place before it: one that a person has overwritten.
        Txn { when, then, otherwise: Pool::look(keys, Some(caller), QueueRead::Whole) }
    }
}

impl SemaphoreKeys {
    /// Sets how many permits there are, if the number was not set yet.
    pub fn found(&self, permits: u32) -> Txn {
        Txn::new().when(Compare::absent(Keys::one(self.permits.as_str()))).then(self.number(permits))
    }

    /// Says how many permits there are.
    pub fn number(&self, permits: u32) -> Op {
        Op::put(&self.permits, json(&PermitsRecord { v: RECORD, permits }))
    }

    /// Gives back what the call holds.
    pub fn release(&self, call: CallId, proof: &Proof) -> Txn {
        Txn {
            when: proof.still_stands().into(),
            then: vec![Op::delete(&proof.key), settle(self.settled(call), call)],
            otherwise: vec![Op::get(self.settled(call))],
        }
    }

    /// Takes the call back: it neither waits nor holds, and nothing of it can take effect any more.
    pub fn withdraw(&self, call: CallId) -> Txn {
        let txn = Txn::new().then(Op::delete(self.wait(call))).then(Op::delete(self.held(call)));
        txn.then(settle(self.settled(call), call))
    }
}
