//! The errands of a session: the abandoned calls that it takes back, and the dropped holds that it releases.
//!
//! A guard or a future may be dropped in a runtime that ends next, or outside of any runtime. It leaves an errand here,
//! which takes no runtime, and the task or thread that keeps the session alive does it. When that has ended, the session
//! ends as well, and with it all that the errand is about.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::Backoff;
use super::contest::{free, settle, withdraw};
use super::handout::WITHDRAW_WITHIN;
use super::hold::{Caller, Hold};
use super::keys::{CallId, LockKeys};
use crate::store::{Store, StoreError, Txn};

/// How many errands of one session are under way at once; more of them wait.
pub(super) const ERRANDS_AT_ONCE: usize = 16;

/// How often an errand is tried that the store refuses. (One that it does not answer is tried until the session ends.)
const REFUSED_TRIES: u32 = 8;

/// One of them. Each may be done more than once.
#[derive(Debug)]
pub(super) enum Errand {
    /// Takes back a call for a lock: it neither waits nor holds after that.
    Withdraw { keys: LockKeys, caller: Box<Caller> },
    /// Releases a lock.
    Release { keys: LockKeys, hold: Hold, session_key: String },
    /// Takes back a call for permits, and gives back those that it has.
    Permits { call: CallId, withdraw: Txn },
}

impl Errand {
    /// Does it, however long the store is unavailable. An errand that the store refuses each time is reported, and its
    /// object is left to the end of the session.
    pub async fn run<S: Store>(self, store: S) {
        let (mut backoff, mut refused) = (Backoff::new(), 0);
        while let Err(error) = self.attempt(&store).await {
            if !error.is_passing() {
                refused += 1;
                if refused == REFUSED_TRIES {
                    tracing::error!(%error, "{self}, until its session ends: the store refuses to release it");
                    return;
                }
            }
            tracing::warn!(%error, "{self}; trying again");
            backoff.wait().await;
        }
    }

    async fn attempt<S: Store>(&self, store: &S) -> Result<(), StoreError> {
        match self {
            Errand::Withdraw { keys, caller } => withdraw(store, keys, caller).await,
            Errand::Release { keys, hold, session_key } => free(store, keys, hold, session_key).await.map(drop),
            Errand::Permits { withdraw, .. } => settle(store, withdraw.clone()).await.map(drop),
        }
    }
}

/// What may be the case until it is done.
impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Errand::Withdraw { keys, caller } => {
                write!(f, "the abandoned call {} may be left in the queue of {}", caller.call, keys.scope)
            }
            Errand::Release { hold, .. } => {
                write!(f, "the lock {} that was given up may still be held, under fence {}", hold.scope(), hold.fence())
            }
            Errand::Permits { call, .. } => write!(f, "the abandoned call {call} may hold permits"),
        }
    }
}

/// The errands of one session. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Errands(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    errands: Mutex<VecDeque<Errand>>,
    more: Notify,
}

impl Errands {
    /// Has it done by the task or thread that keeps the session alive.
    pub fn leave(&self, errand: Errand) {
        self.0.errands.lock().expect("no code panics while it holds this").push_back(errand);
        self.0.more.notify_one();
    }

    /// The next one. Cancel safe.
    pub async fn next(&self) -> Errand {
        loop {
            let more = self.0.more.notified();
            if let Some(errand) = self.take() {
                return errand;
            }
            more.await;
        }
    }

    /// The next one, where there is one now.
    pub fn take(&self) -> Option<Errand> {
        self.0.errands.lock().expect("no code panics while it holds this").pop_front()
    }

    /// Leaves the errand where this is dropped before it was settled.
    pub fn unless_settled(&self, errand: Errand) -> Unsettled {
        // On the heap: it lies in every future of a call.
        Unsettled { errands: self.clone(), errand: Some(Box::new(errand)) }
    }
}

/// An errand that is left to the session when this is dropped without having been settled, as a cancelled future is.
/// Otherwise the place of its call in the queue, or the lock that the call won, would keep all others waiting.
pub(super) struct Unsettled {
    errands: Errands,
    errand: Option<Box<Errand>>,
}

impl Unsettled {
    /// There is nothing left to do.
    pub fn settled(mut self) {
        self.errand = None;
    }

    /// Waits a moment for what settles it.
    pub async fn settle<T>(self, settling: impl Future<Output = Result<T, StoreError>>) -> Result<(), StoreError> {
        match timeout(WITHDRAW_WITHIN, settling).await {
            Ok(Ok(_)) => {
                self.settled();
                Ok(())
            }
            Ok(Err(source)) => Err(source),
            Err(_) => {
                let why = format!("no answer in {WITHDRAW_WITHIN:?}");
                Err(StoreError::Unknown { store: "the store".to_owned(), why })
            }
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(errand) = self.errand.take() {
            self.errands.leave(*errand);
        }
    }
}
