//! The seam: a small transactional key-value store with leases.
//!
//! Locks, claims and the ledger are written once above this; a backend only translates. What every backend promises,
//! and what `tests/contract` holds it to:
//!
//! - **Revisions** are global and only grow: every transaction that changes something gets a new one, and all that it
//!   changes carries it. A transaction that changes nothing answers with the current one.
//! - **A transaction** ([`Txn`]) is atomic: all its comparisons are made, and all of one branch is applied, at one
//!   revision. No key may be put twice in one transaction, nor put and deleted.
//! - **A lease** ends when nothing keeps it alive for its TTL, or when it is revoked; its keys vanish with it, each
//!   deletion at a revision of its own or of the batch. A lease that ended never comes back.
//! - **A watch** is a hint: it may be late, break and be resumed, or be compacted away ([`Watched::Compacted`]). Within
//!   one watch every change arrives once and in order. What it says is confirmed by a transaction before anyone acts
//!   on it.
//! - **An answer that did not arrive** is [`StoreError::Unknown`], never "failed": the write may have been applied, or
//!   may yet be. Read back before repeating, and repeat only what a comparison makes harmless.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::time::Wall;

#[cfg(feature = "etcd")]
pub mod etcd;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod boot;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod contents;
mod rules;
#[cfg(any(feature = "etcd", feature = "postgres"))]
mod secret;
#[cfg(any(feature = "etcd", feature = "postgres"))]
mod url;
mod watching;

mod any;
pub use any::{AnyStore, NotAStore, StoreUrl};

/// A point in the store's history. 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a lease, unique in its store for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub NonZeroU64);

impl fmt::Display for LeaseId {
    /// Hexadecimal, as etcd's own tools write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A key with its value, as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// When the key came to be (after its last deletion).
    pub created: Revision,
    /// When its value was last put.
    pub modified: Revision,
    /// The lease it vanishes with.
    pub lease: Option<LeaseId>,
}

/// One key, or the keys from `start` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Keys {
    One(String),
    Range { start: String, end: String },
}

impl Keys {
    /// The key `key`.
    pub fn one(key: impl Into<String>) -> Keys {
        Keys::One(key.into())
    }

    /// Every key that begins with `prefix`, which is not empty and ends in an ASCII character (ours end in `/`).
    ///
    /// ```
    /// use fencron::store::Keys;
    /// assert_eq!(Keys::prefix("a/"), Keys::Range { start: "a/".into(), end: "a0".into() });
    /// ```
    pub fn prefix(prefix: impl Into<String>) -> Keys {
        let start = prefix.into();
        let mut end = start.clone();
        let last = end.pop().filter(|last| *last < '\u{7f}').expect("a prefix ends in an ASCII character");
        end.push(char::from(last as u8 + 1));
        Keys::Range { start, end }
    }

    /// Whether `key` is one of these.
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Keys::One(one) => one == key,
            Keys::Range { start, end } => start.as_str() <= key && key < end.as_str(),
        }
    }
}

/// What a transaction asks of the keys before it acts. For a [`Keys::Range`], every key in it must answer; a range or
/// key with nothing in it answers like a key with creation and modification revision 0 and no lease, and its value
/// equals nothing (a [`Test::Value`] on it is false).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub keys: Keys,
    pub test: Test,
}

/// The comparison that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    Created(Order, Revision),
    Modified(Order, Revision),
    /// `None`: the key has no lease (or does not exist).
    Lease(Option<LeaseId>),
    /// The value is, to the byte, this one.
    Value(Vec<u8>),
}

/// How the revision found relates to the one given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Equal,
    NotEqual,
    Less,
    Greater,
}

impl Order {
    /// Whether `found` stands in this relation to `given`.
    pub fn holds(self, found: Revision, given: Revision) -> bool {
        match self {
            Order::Equal => found == given,
            Order::NotEqual => found != given,
            Order::Less => found < given,
            Order::Greater => found > given,
        }
    }
}

impl Compare {
    /// No such key, or none in the range.
    pub fn absent(keys: Keys) -> Compare {
        Compare { keys, test: Test::Created(Order::Equal, Revision(0)) }
    }

    /// Some of the keys exist.
    pub fn present(keys: Keys) -> Compare {
        Compare { keys, test: Test::Created(Order::Greater, Revision(0)) }
    }

    /// The key exists and came to be at `revision`.
    pub fn created_at(key: impl Into<String>, revision: Revision) -> Compare {
        Compare { keys: Keys::one(key), test: Test::Created(Order::Equal, revision) }
    }

    /// The key was last put at `revision`; 0: it does not exist.
    pub fn modified_at(key: impl Into<String>, revision: Revision) -> Compare {
        Compare { keys: Keys::one(key), test: Test::Modified(Order::Equal, revision) }
    }

    /// Whether the comparison holds for `entry`, what its key holds, and would not once the key is put.
    #[cfg(feature = "jobs")]
    pub(crate) fn is_undone_by_a_put(&self, entry: Option<&Entry>) -> bool {
        let is_undone = matches!(self.test, Test::Modified(Order::Equal, _) | Test::Created(Order::Equal, Revision(0)));
        is_undone && rules::holds(&self.test, entry)
    }

    /// The key hangs on this lease.
    pub fn lease(key: impl Into<String>, lease: LeaseId) -> Compare {
        Compare { keys: Keys::one(key), test: Test::Lease(Some(lease)) }
    }
}

/// One thing a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key. With a lease, the key vanishes with it; putting without one takes a key off its lease.
    Put {
        key: String,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    },
    Delete(Keys),
    Get(Range),
}

impl Op {
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Op {
        Op::Put { key: key.into(), value: value.into(), lease: None }
    }

    pub fn put_leased(key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Op {
        Op::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    pub fn delete(key: impl Into<String>) -> Op {
        Op::Delete(Keys::one(key))
    }

    pub fn get(key: impl Into<String>) -> Op {
        Op::Get(Range::of(Keys::one(key)))
    }
}

/// If every comparison of `when` holds, all of `then`; otherwise all of `otherwise`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct Txn {
    pub when: Vec<Compare>,
    pub then: Vec<Op>,
    pub otherwise: Vec<Op>,
}

impl Txn {
    pub fn new() -> Txn {
        Txn::default()
    }

    pub fn when(mut self, compare: Compare) -> Txn {
        self.when.push(compare);
        self
    }

    pub fn then(mut self, op: Op) -> Txn {
        self.then.push(op);
        self
    }

    pub fn otherwise(mut self, op: Op) -> Txn {
        self.otherwise.push(op);
        self
    }
}

#[cfg(feature = "postgres")]
impl Txn {
    /// Whether it looks, and neither changes nor decides anything.
    fn only_looks(&self) -> bool {
        self.when.is_empty() && self.then.iter().all(|op| matches!(op, Op::Get(_)))
    }
}

/// What a committed transaction answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Whether the comparisons held, so that `then` was applied.
    pub succeeded: bool,
    /// The store's revision after the transaction: its own, where it changed something.
    pub revision: Revision,
    /// What each operation of the applied branch answers, in order.
    pub answers: Vec<Answer>,
}

/// What one operation answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Put,
    /// How many keys were deleted.
    Deleted(u64),
    Got(Page),
}

impl Committed {
    /// What the `index`th operation got; `None` where it was not a get.
    pub fn got(&self, index: usize) -> Option<&[Entry]> {
        match self.answers.get(index) {
            Some(Answer::Got(page)) => Some(&page.entries),
            _ => None,
        }
    }
}

/// A question for keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub keys: Keys,
    /// At most so many entries; 0: as many as there are. Ask for large ranges through [`Store::range_all`].
    pub limit: usize,
    /// As the store was at this revision; `None`: as it is now, confirmed by a majority of its members.
    pub at: Option<Revision>,
    pub order: Sort,
    /// Only entries last put before this revision: where the page before a newest-first page ended.
    pub modified_before: Option<Revision>,
    /// Leave the values out.
    pub keys_only: bool,
}

/// The order of a range's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Key,
    /// The last put first. The store may have to look at the whole range for it.
    NewestFirst,
}

impl Range {
    /// All of these keys, as they are now, in the order of their names.
    pub fn of(keys: Keys) -> Range {
        Range { keys, limit: 0, at: None, order: Sort::Key, modified_before: None, keys_only: false }
    }
}

/// A part of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// There are more than `limit`.
    pub more: bool,
    /// The store's revision when this was answered (the newest, also where the question asked for an older one).
    pub revision: Revision,
}

/// What a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// What changed at these revisions, in order. All changes of one revision are in one report.
    Changes(Vec<Change>),
    /// The store no longer has the changes that come next, up to this revision (or it was restored from a backup and
    /// stands at this revision, before what was reported): list again, and watch from there. The watch ends with it.
    Compacted(Revision),
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Deleted { key: String, revision: Revision },
}

impl Change {
    /// When it happened.
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put(entry) => entry.modified,
            Change::Deleted { revision, .. } => *revision,
        }
    }

    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Deleted { key, .. } => key,
        }
    }
}

/// A stream of changes. Dropping it ends the watch.
///
/// The backend resumes it by itself after a break; when it cannot (the changes were compacted away) it says so and
/// ends.
#[derive(Debug)]
pub struct Watch {
    reports: mpsc::Receiver<Watched>,
    behind: bool,
}

impl Watch {
    /// How many reports may wait to be read before the backend stops reading on.
    pub const BUFFER: usize = 256;

    /// A watch, and where its backend sends the reports.
    pub fn channel() -> (mpsc::Sender<Watched>, Watch) {
        let (sender, reports) = mpsc::channel(Watch::BUFFER);
        (sender, Watch { reports, behind: false })
    }

    /// The same, begun by a store that reports what is past later than what happens now, after something was past.
    #[must_use]
    pub fn begun_behind(self) -> Watch {
        Watch { behind: true, ..self }
    }

    /// Whether the store had been written to since the revision asked for when the watch began, and takes its time to
    /// report that (etcd: up to 100 ms). A caller that cannot wait reads for itself.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// The next report; `None` when the watch has ended.
    pub async fn next(&mut self) -> Option<Watched> {
        self.reports.recv().await
    }
}

/// What went wrong, sorted by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No answer came. A write may have been applied, or may yet be: read back before repeating it.
    #[error("no answer from {store} ({why}): a write may or may not have been applied")]
    Unknown { store: String, why: String },
    /// The request was certainly not applied: the store could not be reached, or said that it cannot serve now.
    #[error("{store} cannot be reached: {why}")]
    Unavailable { store: String, why: String },
    /// The lease has ended (or never was).
    #[error("lease {0} has ended")]
    LeaseEnded(LeaseId),
    /// The revision asked for is no longer kept.
    #[error("the store no longer keeps revision {asked}: its history begins at {kept_from}")]
    Compacted { asked: Revision, kept_from: Revision },
    /// The request breaks one of the store's rules or limits. Repeating it cannot help.
    #[error("the store refused the request: {0}")]
    Refused(String),
    /// Wrong or missing credentials, or a right that they lack.
    #[error("{store} denies access: {why}")]
    Denied { store: String, why: String },
    /// The store's contents cannot be used: not ours, damaged, or from a newer version.
    #[error("{0}")]
    Unusable(String),
}

impl StoreError {
    /// Whether a write that got this answer may have been applied, or may yet be.
    pub fn is_unknown(&self) -> bool {
        matches!(self, StoreError::Unknown { .. })
    }

    /// Whether the store has no room for what would be written. Of a single write that is not known to be refused:
    /// [`FULL`].
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, StoreError::Unknown { why, .. } if why == FULL)
    }

    /// Whether the same request may succeed later, unchanged.
    pub fn is_passing(&self) -> bool {
        matches!(self, StoreError::Unknown { .. } | StoreError::Unavailable { .. })
    }
}

/// Why a store has no answer that has no room. etcd applies the first transaction over its quota and answers it with the
/// same error (its `quotaApplierV3`) as those after it, which it refuses.
pub(crate) const FULL: &str = "etcd's database is full: compact and defragment it, then `etcdctl alarm disarm`";

/// What the store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// `sqlite`, `etcd`, `postgres` or `memory`.
    pub kind: &'static str,
    /// The version of the server or library.
    pub version: String,
    /// Bytes on disk, if the store reports them.
    pub size: Option<u64>,
    /// How many bytes it may have, if it has a limit and reports it (etcd: from 3.6 on).
    pub quota: Option<u64>,
    /// What an operator ought to know: a version with known defects, a size near its limit.
    pub warnings: Vec<String>,
    /// What the server's clock says, where it has one of its own and says so (PostgreSQL). No lease depends on it.
    pub clock: Option<Wall>,
}

/// The most operations a transaction may have in one branch, and the most comparisons. etcd's default limit.
pub const TXN_OPS: usize = 128;

/// The most bytes of keys and values a transaction should carry: etcd refuses requests over 1.5 MiB.
pub const TXN_BYTES: usize = 1 << 20;

/// How many entries [`Store::range_all`] asks for at a time.
pub const PAGE: usize = 5000;

/// A store. Cloning gives another handle to the same one; every call may run concurrently with every other.
///
/// Every call ends: a backend bounds each with a time-out of its own.
pub trait Store: Clone + Send + Sync + fmt::Debug + 'static {
    /// Grants a lease of `ttl`. A store may round it up (etcd: to whole seconds, at least 2); the answer says the TTL
    /// in force. On [`StoreError::Unknown`] a lease may have been granted whose id is lost: it ends by itself.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<(LeaseId, Duration), StoreError>> + Send;

    /// Extends the lease by its TTL from the moment the store receives the call, and answers the TTL.
    /// [`StoreError::LeaseEnded`] if there is nothing to extend.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<Duration, StoreError>> + Send;

    /// Ends the lease now, with its keys. A lease that has already ended is no error.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Applies the transaction.
    ///
    /// [`StoreError::Refused`] where it breaks a rule (over [`TXN_OPS`], a key put twice, an oversized value) and
    /// [`StoreError::LeaseEnded`] where it puts with a lease that is no more: nothing was applied then.
    fn commit(&self, txn: Txn) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// Reads keys.
    fn range(&self, range: Range) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Reports every change of `keys` from revision `from` on, including it.
    fn watch(&self, keys: Keys, from: Revision) -> impl Future<Output = Result<Watch, StoreError>> + Send;

    /// Asks the store about itself; also the check that it answers.
    fn about(&self) -> impl Future<Output = Result<About, StoreError>> + Send;

    /// A handle that shares no connection, task or runtime with this one, to be used on the calling runtime: for the
    /// keep-alive thread, which must go on when the rest of the process is busy.
    fn apart(&self) -> impl Future<Output = Result<Self, StoreError>> + Send;

    /// All entries of `keys` at one revision, read in pages of [`PAGE`], with that revision.
    fn range_all(&self, keys: Keys) -> impl Future<Output = Result<(Vec<Entry>, Revision), StoreError>> + Send {
        async move {
            let (mut start, end) = match keys {
                Keys::Range { start, end } => (start, end),
                one => {
                    let page = self.range(Range::of(one)).await?;
                    return Ok((page.entries, page.revision));
                }
            };
            let mut entries = Vec::new();
            let mut at = None;
            loop {
                let keys = Keys::Range { start: start.clone(), end: end.clone() };
                let page = self.range(Range { limit: PAGE, at, ..Range::of(keys) }).await?;
                let revision = *at.get_or_insert(page.revision);
                entries.extend(page.entries);
                match entries.last() {
                    // The next key in order is the last one with a NUL behind it.
                    Some(last) if page.more => start = format!("{}\0", last.key),
                    _ => return Ok((entries, revision)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_begins_with_it_and_nothing_else() {
        let keys = Keys::prefix("a/b/");
        assert!(keys.contains("a/b/") && keys.contains("a/b/\u{10ffff}"));
        assert!(!keys.contains("a/b") && !keys.contains("a/b0") && !keys.contains("a/c/"));
    }
}
