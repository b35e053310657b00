//! What is in a store of tables, keys and history, and the rules by which they change: written once for SQLite and
//! PostgreSQL, over the rows that each of them has ([`Rows`]).
//!
//! The contents at an older revision are the current entries, with every key that changed since put back to what the
//! log says it was before its first change after that revision. So compaction only drops rows of the log.

use super::{
    Answer, Committed, Compare, Entry, Keys, LeaseId, Op, Page, Range, Revision, Sort, StoreError, Test, Txn, rules,
};

/// How many revisions of history are kept: what a watcher may be behind before it lists again.
pub const HISTORY: u64 = 10_000;

/// How far history may outgrow [`HISTORY`] before it is cut: so that not every transaction cuts.
pub(super) const HISTORY_SLACK: u64 = 200;

/// About how many changes go into one report of a watch; a revision's changes are never parted.
pub(super) const REPORT_CHANGES: usize = 1000;

/// What a key was before a change. `None`: there was no such key.
pub(super) type Before = (String, Option<Entry>);

/// The rows of a store, as one transaction of its database sees and changes them.
pub(super) trait Rows {
    /// Why a request fails: for the store's own reasons, or for those of the database.
    type Failure: From<StoreError>;

    /// Whether the test holds for every key, and whether there is one.
    fn holds(&self, keys: &Keys, test: &Test) -> Result<(bool, bool), Self::Failure>;

    /// The entries of these keys, in the order of their keys.
    fn find(&self, keys: &Keys) -> Result<Vec<Entry>, Self::Failure>;

    /// The entries that hang on a lease, in the order of their keys.
    fn held_by(&self, lease: LeaseId) -> Result<Vec<Entry>, Self::Failure>;

    /// The entries of the range that were last put at or before `at`, in its order, one more than its limit.
    fn select(&self, range: &Range, at: Option<Revision>) -> Result<Vec<Entry>, Self::Failure>;

    /// What each key of the range that has changed since `at` was before the first change since.
    fn befores(&self, range: &Range, at: Revision) -> Result<Vec<Before>, Self::Failure>;

    fn lease_stands(&self, lease: LeaseId) -> Result<bool, Self::Failure>;

    /// Removes the lease. Its keys are removed one by one.
    fn end_lease(&mut self, lease: LeaseId) -> Result<(), Self::Failure>;

    /// Writes the entry that a key has now, or removes it; and the `nth` change of its revision into the log, with what
    /// the key was before.
    fn write(&mut self, change: Written<'_>) -> Result<(), Self::Failure>;
}

/// A change of one key.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    pub at: Revision,
    pub nth: i64,
    pub key: &'a str,
    pub new: Option<&'a Entry>,
    pub old: Option<&'a Entry>,
}

/// The contents, as one transaction of the database sees them.
pub(super) struct Contents<R> {
    pub rows: R,
    pub revision: Revision,
    pub kept_from: Revision,
    /// How many changes the next revision has so far.
    nth: i64,
}

impl<R: Rows> Contents<R> {
    pub fn new(rows: R, revision: Revision, kept_from: Revision) -> Contents<R> {
        Contents { rows, revision, kept_from, nth: 0 }
    }

    /// Forgets the history before `revision`, or the current one where that is less.
    pub fn compact(&mut self, revision: Revision) {
        self.kept_from = self.kept_from.max(revision.min(self.revision));
    }

    /// Cuts the history, where it has outgrown its bound.
    pub fn bound_history(&mut self) {
        if self.revision.0 > self.kept_from.0.saturating_add(HISTORY + HISTORY_SLACK) {
            self.compact(Revision(self.revision.0 - HISTORY));
        }
    }

    pub fn revoke(&mut self, lease: LeaseId) -> Result<(), R::Failure> {
        if self.rows.lease_stands(lease)? { self.end(lease) } else { Ok(()) }
    }

    /// Ends a lease with its keys, which vanish at a revision of their own.
    pub fn end(&mut self, lease: LeaseId) -> Result<(), R::Failure> {
        self.rows.end_lease(lease)?;
        let gone = self.rows.held_by(lease)?;
        let revision = self.revision.next();
        gone.iter().try_for_each(|entry| self.delete(entry, revision))?;
        self.settle();
        Ok(())
    }

    pub fn commit(&mut self, txn: &Txn) -> Result<Committed, R::Failure> {
        let mut succeeded = true;
        for compare in &txn.when {
            succeeded = succeeded && self.holds(compare)?;
        }
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        self.check_ops(ops)?;
        let revision = self.revision.next();
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(match op {
                Op::Put { key, value, lease } => {
                    self.put(key, value, *lease, revision)?;
                    Answer::Put
                }
                Op::Delete(keys) => {
                    let gone = self.rows.find(keys)?;
                    gone.iter().try_for_each(|entry| self.delete(entry, revision))?;
                    Answer::Deleted(gone.len() as u64)
                }
                Op::Get(range) => Answer::Got(self.read(range)?),
            });
        }
        self.settle();
        for answer in &mut answers {
            if let Answer::Got(page) = answer {
                page.revision = self.revision;
            }
        }
        Ok(Committed { succeeded, revision: self.revision, answers })
    }

    /// The answer to a question that was asked outside of a transaction. PostgreSQL answers one by a statement of its own.
    #[cfg(feature = "sqlite")]
    pub fn range(&self, range: &Range) -> Result<Page, R::Failure> {
        if let Some(at) = range.at {
            rules::check_at(at, self.kept_from, self.revision)?;
        }
        self.read(range)
    }

    fn holds(&self, compare: &Compare) -> Result<bool, R::Failure> {
        let (holds, any) = self.rows.holds(&compare.keys, &compare.test)?;
        Ok(holds && (any || rules::holds(&compare.test, None)))
    }

    /// What would refuse the applied branch: found before anything of it is done.
    fn check_ops(&self, ops: &[Op]) -> Result<(), R::Failure> {
        for op in ops {
            match op {
                Op::Put { lease: Some(lease), .. } if !self.rows.lease_stands(*lease)? => {
                    return Err(StoreError::LeaseEnded(*lease).into());
                }
                Op::Get(Range { at: Some(at), .. }) => rules::check_at(*at, self.kept_from, self.revision)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn put(&mut self, key: &str, value: &[u8], lease: Option<LeaseId>, at: Revision) -> Result<(), R::Failure> {
        let old = self.rows.find(&Keys::one(key))?.pop();
        let created = old.as_ref().map_or(at, |old| old.created);
        let new = Entry { key: key.to_owned(), value: value.to_vec(), created, modified: at, lease };
        self.write(at, key, Some(&new), old.as_ref())
    }

    fn delete(&mut self, entry: &Entry, at: Revision) -> Result<(), R::Failure> {
        self.write(at, &entry.key, None, Some(entry))
    }

    fn write(&mut self, at: Revision, key: &str, new: Option<&Entry>, old: Option<&Entry>) -> Result<(), R::Failure> {
        self.rows.write(Written { at, nth: self.nth, key, new, old })?;
        self.nth += 1;
        Ok(())
    }

    /// Moves on to the next revision, where something changed at it.
    fn settle(&mut self) {
        if self.nth > 0 {
            self.revision = self.revision.next();
            self.nth = 0;
        }
    }

    fn read(&self, range: &Range) -> Result<Page, R::Failure> {
        let found = match range.at {
            Some(at) if at < self.revision => {
                as_it_was(range, self.rows.select(range, Some(at))?, self.rows.befores(range, at)?)
            }
            _ => self.rows.select(range, None)?,
        };
        Ok(page(range, found, self.revision))
    }
}

/// A page of what was found, one more than the range's limit where there is more.
pub(super) fn page(range: &Range, mut found: Vec<Entry>, revision: Revision) -> Page {
    let more = range.limit > 0 && found.len() > range.limit;
    if more {
        found.truncate(range.limit);
    }
    Page { entries: found, more, revision }
}

/// A range as it was: what has not changed since, and what was before the first change since. One more than the limit of
/// each is enough to find the first of both.
pub(super) fn as_it_was(range: &Range, unchanged: Vec<Entry>, put_back: Vec<Before>) -> Vec<Entry> {
    let mut found = unchanged;
    let listed = |entry: &Entry| range.modified_before.is_none_or(|before| entry.modified < before);
    found.extend(put_back.into_iter().filter_map(|(_, entry)| entry).filter(listed));
    sort(range.order, &mut found);
    found
}

pub(super) fn sort(order: Sort, entries: &mut [Entry]) {
    match order {
        Sort::Key => entries.sort_by(|a, b| a.key.cmp(&b.key)),
        Sort::NewestFirst => entries.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.key.cmp(&b.key))),
    }
}

/// Every set of keys as a range. The least text after a key is the key with a NUL behind it.
pub(super) fn bounds(keys: &Keys) -> (&str, String) {
    match keys {
        Keys::One(key) => (key, format!("{key}\0")),
        Keys::Range { start, end } => (start, end.clone()),
    }
}

/// For databases, whose integers are signed. What is beyond them is beyond every revision.
pub(super) fn sql(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// Ours are below 2^63. What is not, is not ours: -1 names no lease.
pub(super) fn lease_sql(lease: LeaseId) -> i64 {
    i64::try_from(lease.0.get()).unwrap_or(-1)
}

/// The lease of a row. What is below 1 was never ours.
pub(super) fn lease_of(id: i64) -> Option<LeaseId> {
    u64::try_from(id).ok()?.try_into().ok().map(LeaseId)
}

/// A new lease. Random, not counted: a store restored from a backup must not grant again an id that is still held.
pub(super) fn new_lease() -> LeaseId {
    let random = uuid::Uuid::new_v4().as_u64_pair();
    LeaseId((((random.0 ^ random.1) >> 1).max(1)).try_into().expect("at least 1"))
}
