//! The owners of locks: explicit contexts, tied to no thread and no task.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Locks;
use super::hold::{Caller, Hold};
use super::keys::{CallId, LockKeys};
use super::line::{Holder, Line};
use super::session::{Member, Session, SessionEnd};
use super::signal::{HoldOver, Lost, SignalSource};
use crate::fence::Fence;
use crate::store::{LeaseId, Revision, Store};
use crate::time::Wall;

/// An owner of locks, made by [`Session::context`].
///
/// A lock belongs to the context that locked it, wherever that is used: contexts may be moved between threads and tasks,
/// and two of them keep each other out, also in one session. Every operation borrows its context mutably, so that two
/// tasks cannot race on one.
///
/// Dropping a context releases nothing: what it holds is held until its session ends. A [`LockGuard`](super::LockGuard)
/// releases.
#[derive(Debug)]
pub struct LockContext {
    pub(super) member: Member,
    /// What the context believes to hold, by the owner's key.
    pub(super) held: BTreeMap<String, Held>,
    /// Calls of which it is not known what became of them: a dropped future's, or one whose answers were lost.
    pub(super) pending: BTreeMap<String, Caller>,
    pub(super) stop: CancellationToken,
    pub(super) progress: watch::Sender<Option<Progress>>,
}

/// A hold that a context believes in.
#[derive(Debug)]
pub(super) struct Held {
    pub hold: Hold,
    /// How often it was locked and not yet unlocked.
    pub count: u32,
    pub caller: Caller,
    /// The session under which it was won.
    pub member: Member,
    pub over: HoldOver,
    /// Its release was sent, and not answered.
    pub releasing: bool,
    /// The context has received the error that says so.
    pub reported: bool,
}

impl Held {
    /// Why the hold is certainly over, as far as is known without asking.
    pub fn is_over(&self) -> Option<Lost> {
        self.over.why().or_else(|| self.member.is_over().map(Lost::SessionEnded))
    }

    pub fn signals<S: Store>(&self, locks: &Locks<S>) -> SignalSource<S> {
        SignalSource::new(locks, self.hold.proof(), self.member.trust.clone(), self.over.clone())
    }
}

impl LockContext {
    pub(super) fn new(member: Member) -> LockContext {
        LockContext {
            member,
            held: BTreeMap::new(),
            pending: BTreeMap::new(),
            stop: CancellationToken::new(),
            progress: watch::Sender::new(None),
        }
    }

    /// The session's lease.
    pub fn session(&self) -> LeaseId {
        self.member.lease
    }

    /// Goes on under another session, after the first one ended. What was held under that is lost, and each lock says so
    /// once.
    pub fn move_to<S: Store>(&mut self, session: &Session<S>) {
        self.member = session.member();
    }

    /// Why the context's session is over, where it is: then it locks nothing until it was moved to another.
    pub fn session_ended(&self) -> Option<SessionEnd> {
        self.member.is_over()
    }

    /// Ends, from elsewhere, the wait that the context is in, or the next one where it waits for nothing.
    pub fn canceller(&self) -> WaitCanceller {
        WaitCanceller(self.stop.clone())
    }

    /// How the lock stands that the context waits for, as it changes. Waiting costs more while a receiver exists: the
    /// whole queue is read after every change of the lock.
    pub fn progress(&self) -> watch::Receiver<Option<Progress>> {
        self.progress.subscribe()
    }
}

/// Ends a wait. See [`LockContext::canceller`].
#[derive(Clone, Debug)]
pub struct WaitCanceller(CancellationToken);

impl WaitCanceller {
    /// The wait ends as cancelled; it holds nothing afterwards.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// How a lock stands that a context waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The holder; `None`: it has no holder, or the holder's record cannot be read.
    pub holder: Option<HeldBy>,
    /// How many wait before this call; `None`: it is not in the queue yet.
    pub ahead: Option<usize>,
    /// How many wait altogether.
    pub waiting: usize,
    pub revision: Revision,
}

impl Progress {
    pub(super) fn of(line: &Line, keys: &LockKeys, call: CallId) -> Progress {
        Progress {
            holder: line.holder().map(HeldBy::from),
            ahead: line.ahead_of(keys, call),
            waiting: line.waiters().len(),
            revision: line.revision,
        }
    }
}

/// The holder of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldBy {
    pub node: String,
    pub session: LeaseId,
    pub fence: Fence,
    /// By the wall clock of the holder.
    pub since: Wall,
}

impl From<Holder> for HeldBy {
    fn from(holder: Holder) -> HeldBy {
        HeldBy { node: holder.node, session: holder.lease, fence: holder.fence, since: holder.since }
    }
}
