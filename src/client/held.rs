//! What the holder of a lock has: the fence, the proof for its writes, and the signal of the hold's end.

use std::sync::{Arc, OnceLock};

use super::error::Error;
use crate::fence::{Fence, Stamp};
use crate::lock::{Hold, HoldSignal, LockName, Locks, Lost, SignalSource};
use crate::store::{AnyStore, Committed, Op, Store, Txn};

/// A lock that is held: what the body of [`Lock::with`](super::Lock::with) is given, and what a [`Guard`](super::Guard)
/// stands for. Cheap to clone; a clone keeps nothing held.
#[derive(Clone, Debug)]
pub struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lock: LockName,
    hold: Hold,
    node: Arc<str>,
    store: AnyStore,
    locks: Locks<AnyStore>,
    source: SignalSource<AnyStore>,
    /// Created on the first request: it watches the lock for as long as it lives.
    signal: OnceLock<HoldSignal>,
}

impl Held {
    pub(super) fn new(
        (lock, hold): (LockName, Hold),
        node: Arc<str>,
        (store, locks): (AnyStore, Locks<AnyStore>),
        source: SignalSource<AnyStore>,
    ) -> Held {
        Held(Arc::new(Inner { lock, hold, node, store, locks, source, signal: OnceLock::new() }))
    }

    /// The name of the lock.
    pub fn name(&self) -> &LockName {
        &self.0.lock
    }

    /// The fence of the hold: greater for every later hold of this lock, by any holder.
    pub fn fence(&self) -> Fence {
        self.0.hold.fence()
    }

    /// The proof of the hold, for the parts of this crate beneath the client.
    pub fn hold(&self) -> &Hold {
        &self.0.hold
    }

    /// What an effect elsewhere carries for the [guard](crate::guard) at its receiving end, as headers, environment
    /// variables or parameters. `operation` names the effect, the same however often it is repeated.
    pub fn stamp(&self, operation: &str) -> Stamp {
        self.0.hold.stamp(&self.0.node, operation, self.0.locks.clock().wall())
    }

    /// The signal by which the hold ends: to wait for, or as a token to pass on.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn signal(&self) -> &HoldSignal {
        self.0.signal.get_or_init(|| self.0.source.signal())
    }

    /// Why the hold is over or may be, as far as this process knows now. `None` proves nothing: a write proves the hold
    /// by [`Held::commit`], an effect elsewhere by its fence. In a runtime the first call begins to watch the lock, as
    /// [`Held::signal`] does, so that a loop which calls this learns that an operator revoked the lock.
    pub fn is_lost(&self) -> Option<Lost> {
        if tokio::runtime::Handle::try_current().is_ok() {
            return self.signal().is_lost();
        }
        self.known_lost()
    }

    /// The same without beginning to watch the lock.
    pub(super) fn known_lost(&self) -> Option<Lost> {
        self.0.signal.get().map_or_else(|| self.0.source.lost(), HoldSignal::is_lost)
    }

    /// Begins a transaction that compares the hold: it changes nothing once the hold is over. [`Held::commit`] commits it.
    ///
    /// ```
    /// # use fencron::store::Op;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # let fencron = fencron::Client::connect("memory:").await?;
    /// let guard = fencron.lock("config").acquire().await?;
    /// let before = guard.commit(guard.txn().then(Op::get("/shop/config"))).await?;
    /// assert!(before.got(0).is_some_and(|found| found.is_empty()));
    /// let written = guard.commit(guard.txn().then(Op::put("/shop/config", "dark-mode"))).await?;
    /// assert!(written.succeeded);
    /// # guard.release().await }).unwrap();
    /// ```
    pub fn txn(&self) -> Txn {
        self.0.hold.still_held().into_iter().fold(Txn::new(), Txn::when)
    }

    /// Commits a transaction under the hold; the comparisons of [`Held::txn`] are added where `txn` has none. The
    /// keys of a program are its own, outside of `/fencron/`.
    ///
    /// Where [`Committed::succeeded`] is false, the hold stands, and one of the caller's own comparisons has failed.
    ///
    /// # Errors
    ///
    /// [`Error::is_lost`] where the hold is over: nothing was changed. [`Error::is_unknown`] where no answer came. Else
    /// as the store says.
    pub async fn commit(&self, mut txn: Txn) -> Result<Committed, Error> {
        for compare in self.0.hold.still_held() {
            if !txn.when.contains(&compare) {
                txn.when.push(compare);
            }
        }
        let asked = txn.otherwise.len();
        txn.otherwise.push(Op::get(self.0.hold.owner_key()));
        let mut committed = Box::pin(self.0.store.commit(txn)).await?;
        if !committed.succeeded {
            let owner = committed.got(asked).and_then(<[_]>::first);
            if !owner.is_some_and(|owner| self.0.hold.is_shown_by(owner)) {
                return Err(self.lost(self.known_lost().unwrap_or(Lost::Taken)));
            }
            committed.answers.truncate(asked);
        }
        Ok(committed)
    }

    pub(super) fn lost(&self, why: Lost) -> Error {
        Error::lost(self.0.lock.clone(), self.fence(), why)
    }
}
