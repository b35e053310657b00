//! How much is held and waited for in a namespace, as numbers.

use std::collections::BTreeMap;

use super::Locks;
use super::hold::{OwnerRecord, WaitRecord};
use super::keys::LockName;
use super::permits::ShareRecord;
use crate::store::{Entry, Store, StoreError};
use crate::time::Wall;

/// How many holds and places in queues are counted at most, of the locks and of the semaphores.
pub(crate) const TALLIED_MOST: usize = 10_000;

/// The word for a semaphore; those for locks are `LockName::kind_word`'s.
const SEMAPHORE: &str = "semaphore";

/// What there are holds of and queues for.
const KINDS: [&str; 5] = ["leader", "lock", "migrations", "once", SEMAPHORE];

/// How much is held and waited for, by the word for what it is; every word is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    kinds: BTreeMap<&'static str, Tallied>,
    /// What may still be counted of the locks, or of the semaphores.
    left: usize,
}

/// How much of one kind is held and waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tallied {
    /// How many holds there are: a semaphore has one for each holder.
    pub held: usize,
    pub waiting: usize,
    /// When the oldest hold began, by its holder's clock.
    pub held_since: Option<Wall>,
    /// When the oldest waiter came, by its own clock.
    pub waits_since: Option<Wall>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { kinds: KINDS.map(|kind| (kind, Tallied::default())).into(), left: TALLIED_MOST }
    }
}

impl<S: Store> Locks<S> {
    /// Counts what is held and waited for in the namespace, [`TALLIED_MOST`] of the locks and of the semaphores at most.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(crate) async fn tally(&self) -> Result<Tally, StoreError> {
        let mut tally = Tally::default();
        let (locks, semaphores) = (self.namespace().locks_of(""), self.namespace().semaphores_of(""));
        self.visit(&locks, &locks, |name, part, entry| tally.note_lock(&name, part, entry)).await?;
        tally.left = TALLIED_MOST;
        self.visit(&semaphores, &semaphores, |_, part, entry| tally.note_permits(part, entry)).await?;
        Ok(tally)
    }
}

impl Tally {
    /// What was counted, by the word for what it is.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, Tallied)> {
        self.kinds.iter().map(|(kind, tallied)| (*kind, *tallied))
    }

    fn note_lock(&mut self, name: &LockName, part: &str, entry: &Entry) -> bool {
        let tallied = self.kinds.entry(name.kind_word()).or_default();
        if part == "owner" {
            tallied.holds(OwnerRecord::read(&entry.value).map(|owner| owner.since));
        } else if part.starts_with("wait/") {
            tallied.waits(WaitRecord::read(&entry.value).map(|waiter| waiter.since));
        } else {
            return true;
        }
        self.counts_on()
    }

    fn note_permits(&mut self, part: &str, entry: &Entry) -> bool {
        let since = ShareRecord::read(&entry.value).map(|share| share.since);
        let tallied = self.kinds.entry(SEMAPHORE).or_default();
        if part.starts_with("held/") {
            tallied.holds(since);
        } else if part.starts_with("wait/") {
            tallied.waits(since);
        } else {
            return true;
        }
        self.counts_on()
    }

    fn counts_on(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }
}

impl Tallied {
    fn holds(&mut self, since: Option<Wall>) {
        self.held += 1;
        self.held_since = self.held_since.into_iter().chain(since).min();
    }

    fn waits(&mut self, since: Option<Wall>) {
        self.waiting += 1;
        self.waits_since = self.waits_since.into_iter().chain(since).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{Namespace, Seen};
    use crate::store::memory::MemoryStore;
    use crate::store::{Op, TXN_OPS, Txn};
    use crate::time::Clock;

    async fn tally(entries: impl IntoIterator<Item = (String, String)>) -> Tally {
        let (clock, namespace) = (Clock::system(), Namespace::new("shop").unwrap());
        let store = MemoryStore::new(clock.clone());
        let entries: Vec<_> = entries.into_iter().collect();
        for entries in entries.chunks(TXN_OPS) {
            let put = entries.iter().fold(Txn::new(), |txn, (key, value)| {
                txn.then(Op::put(format!("{}{key}", namespace.prefix()), value.as_str()))
            });
            store.commit(put).await.unwrap();
        }
        Locks::new(store, clock, namespace, Seen::default()).tally().await.unwrap()
    }

    fn of(tally: &Tally, word: &str) -> Tallied {
        tally.kinds().find(|(kind, _)| *kind == word).unwrap().1
    }

    #[tokio::test]
    async fn holds_and_waiters_are_counted_by_their_kind_and_the_oldest_is_known() {
        let wait = |at: &str| format!(r#"{{"v":1,"node":"a","since":"{at}"}}"#);
        let share = |at: &str| format!(r#"{{"v":1,"node":"a","permits":2,"since":"{at}"}}"#);
        let entries = [
            ("lock/leader/owner", String::new()),
            ("lock/x/wait/1", wait("2026-11-28T10:00:07Z")),
            ("lock/x/wait/2", wait("2026-11-28T10:00:05Z")),
            ("lock/x/barred", String::new()),
            ("lock/y/wait/1", "of another version".to_owned()),
            ("sem/s/permits", "2".to_owned()),
            ("sem/s/held/1", share("2026-11-28T09:00:00Z")),
            ("sem/t/held/1", share("2026-11-28T08:00:00Z")),
        ];
        let tally = tally(entries.map(|(key, value)| (key.to_owned(), value))).await;
        let waits_since = "2026-11-28T10:00:05Z".parse().ok();
        assert_eq!(of(&tally, "lock"), Tallied { waiting: 3, waits_since, ..Tallied::default() });
        assert_eq!(of(&tally, "leader"), Tallied { held: 1, ..Tallied::default() });
        let held_since = "2026-11-28T08:00:00Z".parse().ok();
        assert_eq!(of(&tally, "semaphore"), Tallied { held: 2, held_since, ..Tallied::default() });
        assert_eq!(tally.kinds().map(|(kind, _)| kind).collect::<Vec<_>>(), KINDS);
    }

    #[tokio::test]
    async fn no_more_places_are_counted_than_that() {
        let places = (0..=TALLIED_MOST).map(|number| (format!("lock/a/wait/{number:06}"), String::new()));
        let tally = tally(places.chain([("sem/s/held/1".to_owned(), String::new())])).await;
        assert_eq!((of(&tally, "lock").waiting, of(&tally, "semaphore").held), (TALLIED_MOST, 1));
    }
}
