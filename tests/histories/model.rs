//! What locks and semaphores do when they are used by one at a time: the five models that Hazelcast's own suite over
//! Jepsen has for its CP data structures (`OwnerAwareMutex`, `ReentrantMutex`, `FencedMutex`, `ReentrantFencedMutex`,
//! `AcquiredPermits`), with one step more: the end of a session, which ends what it holds.

use std::collections::{BTreeMap, BTreeSet};

use crate::linear::Model;

/// Who calls: the same number for the same context of the same process.
pub type Context = u32;

/// The lease of a session.
pub type Session = u64;

/// What a call did, as its answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It locked, for the first time or again. The fence, where it was told.
    Entered {
        context: Context,
        session: Session,
        fence: Option<u64>,
    },
    /// It may not lock more often.
    LimitReached {
        context: Context,
    },
    /// A try came to nothing.
    Refused {
        context: Context,
    },
    /// It unlocked once.
    Left {
        context: Context,
    },
    /// It was told that it does not hold the lock: at all, or any more.
    NotOwner {
        context: Context,
    },
    /// It was told that it does not hold the lock any more, and if it did, then its session's trust had lapsed: it was
    /// given back.
    GivenBack {
        context: Context,
    },
    /// It holds the lock under this fence.
    Shown {
        context: Context,
        fence: u64,
    },
    /// It holds the lock so many times.
    Counted {
        context: Context,
        count: u32,
    },
    /// The session is over.
    Ended {
        session: Session,
    },
    /// It got permits. `claim`: what they are given back under.
    Acquired {
        claim: Claim,
        session: Session,
        permits: u32,
    },
    Released {
        claim: Claim,
    },
    /// They were gone when they were to be given back.
    HadEnded {
        claim: Claim,
    },
}

/// The call by which a context got permits.
pub type Claim = (Context, u64);

/// A mutex that knows its owner.
#[derive(Clone, Copy, Debug)]
pub struct Mutex {
    /// How often its owner may lock it.
    limit: u32,
    /// Whether every hold has a fence, and a greater one than all before.
    fenced: bool,
}

impl Mutex {
    pub const OWNER_AWARE: Mutex = Mutex { limit: 1, fenced: false };
    pub const REENTRANT: Mutex = Mutex { limit: 2, fenced: false };
    pub const FENCED: Mutex = Mutex { limit: 1, fenced: true };
    pub const REENTRANT_FENCED: Mutex = Mutex { limit: 2, fenced: true };
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Held {
    holder: Option<Holder>,
    /// The highest fence that was granted.
    highest: u64,
    ended: BTreeSet<Session>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    context: Context,
    session: Session,
    count: u32,
    fence: Option<u64>,
}

impl Mutex {
    fn enter(self, held: &Held, (context, session): (Context, Session), fence: Option<u64>) -> Option<Held> {
        let fence = fence.filter(|_| self.fenced);
        if let Some(holder) = held.holder {
            let again = holder.context == context && holder.count < self.limit;
            let same = fence.is_none() || holder.fence.is_none() || fence == holder.fence;
            let holder = Holder { count: holder.count + 1, fence: holder.fence.or(fence), ..holder };
            return (again && same).then(|| Held { holder: Some(holder), ..held.clone() });
        }
        let may = !held.ended.contains(&session) && fence.is_none_or(|fence| fence > held.highest);
        let holder = Holder { context, session, count: 1, fence };
        may.then(|| Held { holder: Some(holder), highest: fence.unwrap_or(held.highest), ended: held.ended.clone() })
    }
}

impl Model for Mutex {
    type State = Held;
    type Step = Step;

    fn start(&self) -> Held {
        Held::default()
    }

    fn apply(&self, held: &Held, step: &Step) -> Option<Held> {
        let holder_if = |context: Context| held.holder.filter(|holder| holder.context == context);
        let same_if = |holds: bool| holds.then(|| held.clone());
        match *step {
            Step::Entered { context, session, fence } => self.enter(held, (context, session), fence),
            Step::LimitReached { context } => same_if(holder_if(context)?.count == self.limit),
            Step::Refused { context } => same_if(holder_if(context).is_none_or(|holder| holder.count == self.limit)),
            Step::Left { context } => {
                let holder = holder_if(context)?;
                let left = Holder { count: holder.count - 1, ..holder };
                Some(Held { holder: Some(left).filter(|left| left.count > 0), ..held.clone() })
            }
            Step::NotOwner { context } => same_if(holder_if(context).is_none()),
            Step::GivenBack { context } => {
                let holder = held.holder.filter(|holder| holder.context != context);
                Some(Held { holder, ..held.clone() })
            }
            Step::Shown { context, fence } => {
                let holder = holder_if(context)?;
                same_if(!self.fenced || holder.fence.is_none_or(|found| found == fence))
            }
            Step::Counted { context, count } => same_if(holder_if(context).map_or(0, |holder| holder.count) == count),
            Step::Ended { session } => {
                let mut after = held.clone();
                after.holder = held.holder.filter(|holder| holder.session != session);
                after.ended.insert(session);
                Some(after)
            }
            Step::Acquired { .. } | Step::Released { .. } | Step::HadEnded { .. } => None,
        }
    }

    fn is_idle(&self, before: &Held, after: &Held) -> bool {
        before.holder == after.holder
    }
}

/// A semaphore.
#[derive(Clone, Copy, Debug)]
pub struct Permits {
    pub permits: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shares {
    held: BTreeMap<Claim, (Session, u32)>,
    ended: BTreeSet<Session>,
}

impl Model for Permits {
    type State = Shares;
    type Step = Step;

    fn start(&self) -> Shares {
        Shares::default()
    }

    fn apply(&self, shares: &Shares, step: &Step) -> Option<Shares> {
        let mut after = shares.clone();
        let possible = match *step {
            Step::Acquired { claim, session, permits } => {
                let taken: u32 = shares.held.values().map(|(_, permits)| permits).sum();
                let are_free = taken + permits <= self.permits;
                are_free && !shares.ended.contains(&session) && after.held.insert(claim, (session, permits)).is_none()
            }
            Step::Released { claim } => after.held.remove(&claim).is_some(),
            Step::HadEnded { claim } => !shares.held.contains_key(&claim),
            Step::Ended { session } => {
                after.held.retain(|_, (holder, _)| *holder != session);
                after.ended.insert(session);
                true
            }
            _ => false,
        };
        possible.then_some(after)
    }

    fn is_idle(&self, before: &Shares, after: &Shares) -> bool {
        before.held == after.held
    }
}
