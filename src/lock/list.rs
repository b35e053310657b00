//! The holders and waiters of a namespace, by the name of their lock.

use super::Locks;
use super::context::HeldBy;
use super::hold::Barred;
use super::keys::LockName;
use super::line::Holder;
use super::permits::{ShareRecord, permits_of};
use super::semaphore::PermitsHeld;
use crate::store::{Entry, Keys, PAGE, Range, Revision, Store, StoreError};

/// How many names of locks, and of semaphores, are listed at once.
pub const LOCKS_LISTED: usize = 1000;

/// What is held or waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// Also those of elections, which are the same, the leader's, and those that are used inside; by their names.
    pub locks: Vec<LockListed>,
    /// Also those without holders and waiters, whose number of permits stays.
    pub semaphores: Vec<SemaphoreListed>,
    /// There are more than [`LOCKS_LISTED`].
    pub more: bool,
}

/// A lock that is held, waited for, or barred.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockListed {
    pub name: LockName,
    /// `None`: it has no holder, or the holder's record cannot be read.
    pub holder: Option<HeldBy>,
    /// How many wait.
    pub waiting: usize,
    /// Why it is not granted for now, even once it has no holder.
    pub barred: Option<Bar>,
}

/// Why a lock is not granted for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Should its holder be lost, for as long as that has said.
    Delay,
    /// It was destroyed a moment ago.
    Destroyed,
}

/// A semaphore.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SemaphoreListed {
    pub name: LockName,
    /// How many permits there are; `None`: that cannot be read.
    pub permits: Option<u32>,
    pub held: Vec<PermitsHeld>,
    /// How many wait.
    pub waiting: usize,
}

impl<S: Store> Locks<S> {
    /// Lists the locks and semaphores whose names begin with `prefix`, those that come first by name. Every place in
    /// their queues is read, a page at a time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use fencron::lock::{Config, Driver, LockName, Locks, Namespace, Presence, Seen, Timing};
    /// # use fencron::store::memory::MemoryStore;
    /// # use fencron::time::Clock;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let clock = Clock::system();
    /// # let locks = Locks::new(MemoryStore::new(clock.clone()), clock, Namespace::new("shop")?, Seen::default());
    /// # let timing = Timing::from_ttl(Duration::from_secs(10))?;
    /// # let presence = Presence { node: "a".into(), record: b"{}".to_vec() };
    /// # let session = locks.open_session(presence, timing, Driver::Thread).await?;
    /// let lock = locks.fenced(LockName::new("orders/4711")?, Config::default());
    /// lock.lock(&mut session.context()).await?;
    /// let listing = locks.list("orders/").await?;
    /// assert_eq!(listing.locks[0].holder.as_ref().map(|holder| holder.node.as_str()), Some("a"));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        let namespace = self.namespace();
        // Without a prefix those that are used inside are among the others.
        let inside = if prefix.is_empty() { Vec::new() } else { namespace.inner_locks_of(prefix) };
        let mut more_locks = false;
        for start in [namespace.locks_of(prefix)].into_iter().chain(inside) {
            more_locks |= self
                .visit(&start, &namespace.locks_of(""), |name, part, entry| listing.note_lock(name, part, entry))
                .await?;
        }
        let more_semaphores = self
            .visit(&namespace.semaphores_of(prefix), &namespace.semaphores_of(""), |name, part, entry| {
                listing.note_permits(name, part, entry)
            })
            .await?;
        // In the order of what people read, not of how it is escaped.
        listing.locks.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
        listing.semaphores.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
        listing.more = more_locks || more_semaphores;
        Ok(listing)
    }

    /// Passes each entry that begins with `start` to `note`, with the name and the part of the lock that its key shows,
    /// until `note` has enough. Answers whether it had.
    pub(super) async fn visit(
        &self,
        start: &str,
        root: &str,
        mut note: impl FnMut(LockName, &str, &Entry) -> bool,
    ) -> Result<bool, StoreError> {
        let Keys::Range { mut start, end } = Keys::prefix(start) else { return Ok(false) };
        let mut at: Option<Revision> = None;
        loop {
            let keys = Keys::Range { start, end: end.clone() };
            let page = self.store.range(Range { limit: PAGE, at, ..Range::of(keys) }).await?;
            at.get_or_insert(page.revision);
            for entry in &page.entries {
                let place = entry.key.strip_prefix(root).and_then(|rest| rest.split_once('/'));
                // What was written by another hand is not ours to name.
                let named = place.and_then(|(name, part)| Some((LockName::at_place(name)?, part)));
                if let Some((name, part)) = named
                    && !note(name, part, entry)
                {
                    return Ok(true);
                }
            }
            match page.entries.last() {
                Some(last) if page.more => start = format!("{}\0", last.key),
                _ => return Ok(false),
            }
        }
    }
}

impl Listing {
    fn note_lock(&mut self, name: LockName, part: &str, entry: &Entry) -> bool {
        if self.locks.last().is_none_or(|last| last.name != name) {
            if self.locks.len() == LOCKS_LISTED {
                return false;
            }
            self.locks.push(LockListed { name, holder: None, waiting: 0, barred: None });
        }
        let Some(lock) = self.locks.last_mut() else { return false };
        match part {
            "owner" => lock.holder = Holder::of(entry).map(HeldBy::from),
            "barred" => {
                lock.barred = Some(match Barred::read(&entry.value) {
                    Barred::Delay => Bar::Delay,
                    Barred::Destroyed => Bar::Destroyed,
                });
            }
            part if part.starts_with("wait/") => lock.waiting += 1,
            _ => {}
        }
        true
    }

    fn note_permits(&mut self, name: LockName, part: &str, entry: &Entry) -> bool {
        if self.semaphores.last().is_none_or(|last| last.name != name) {
            if self.semaphores.len() == LOCKS_LISTED {
                return false;
            }
            self.semaphores.push(SemaphoreListed { name, permits: None, held: Vec::new(), waiting: 0 });
        }
        let Some(semaphore) = self.semaphores.last_mut() else { return false };
        match part {
            "permits" => semaphore.permits = permits_of(entry),
            part if part.starts_with("held/") => semaphore.held.extend(PermitsHeld::of(entry)),
            part if part.starts_with("wait/") => semaphore.waiting += 1,
            _ => {}
        }
        true
    }
}

impl PermitsHeld {
    /// The holder of permits by this entry, if it can be read.
    pub(super) fn of(entry: &Entry) -> Option<PermitsHeld> {
        let ShareRecord { node, permits, since, .. } = ShareRecord::read(&entry.value)?;
        Some(PermitsHeld { node, session: entry.lease, permits, since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{Namespace, Seen};
    use crate::store::memory::MemoryStore;
    use crate::store::{Op, TXN_OPS, Txn};
    use crate::time::Clock;

    async fn locks_with(keys: impl IntoIterator<Item = String>) -> Locks<MemoryStore> {
        let (clock, namespace) = (Clock::system(), Namespace::new("shop").unwrap());
        let store = MemoryStore::new(clock.clone());
        let keys: Vec<String> = keys.into_iter().map(|key| format!("{}{key}", namespace.prefix())).collect();
        for keys in keys.chunks(TXN_OPS) {
            let put = keys.iter().fold(Txn::new(), |txn, key| txn.then(Op::put(key, "")));
            store.commit(put).await.unwrap();
        }
        Locks::new(store, clock, namespace, Seen::default())
    }

    #[tokio::test]
    async fn a_queue_is_counted_over_pages() {
        let waiting = (0..=PAGE).map(|number| format!("lock/a%2Fb/wait/{number:06}"));
        let locks = locks_with(waiting.chain(["lock/a%2Fb/owner".to_owned()])).await;
        let listing = locks.list("a/").await.unwrap();
        let [lock] = &listing.locks[..] else { panic!("{listing:?}") };
        assert_eq!((lock.name.as_str(), lock.waiting, listing.more), ("a/b", PAGE + 1, false));
        assert_eq!(locks.list("b").await.unwrap(), Listing::default());
    }

    #[tokio::test]
    async fn no_more_names_are_listed_than_that() {
        let names =
            |most: usize| (0..most).flat_map(|n| [format!("lock/n{n:05}/barred"), format!("lock/n{n:05}/owner")]);
        let all = locks_with(names(LOCKS_LISTED)).await.list("").await.unwrap();
        assert_eq!((all.locks.len(), all.more), (LOCKS_LISTED, false));
        let first = locks_with(names(LOCKS_LISTED + 1)).await.list("").await.unwrap();
        assert_eq!((first.locks.len(), first.more), (LOCKS_LISTED, true));
    }

    #[tokio::test]
    async fn what_another_hand_wrote_is_left_out() {
        let locks = locks_with(["lock/%zz/owner", "lock/x", "sem/%/permits"].map(str::to_owned)).await;
        assert_eq!(locks.list("").await.unwrap(), Listing::default());
    }
}
