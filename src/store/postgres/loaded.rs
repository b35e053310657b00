//! The rows that a group of requests may touch, loaded before the requests are evaluated, and what that makes of them.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry as Slot};

use super::writer::Write;
use crate::store::contents::{self, Before, Rows, Written, bounds, lease_sql, sql};
use crate::store::{Entry, Keys, LeaseId, Op, Range, Revision, StoreError, Test, rules};

/// What a group of requests may touch, whichever branches are applied.
#[derive(Default)]
pub(super) struct Wants {
    pub keys: Vec<Vec<u8>>,
    /// Ranges, by their starts and ends.
    pub starts: Vec<Vec<u8>>,
    pub ends: Vec<Vec<u8>>,
    /// Ranges of which no value is needed.
    pub bare_starts: Vec<Vec<u8>>,
    pub bare_ends: Vec<Vec<u8>>,
    /// The leases that have to stand.
    pub leases: Vec<i64>,
    /// The leases whose keys may vanish.
    pub held: Vec<i64>,
    /// Ranges as they were at older revisions.
    pub past: Vec<(Keys, i64)>,
}

impl Wants {
    pub fn of(writes: &[&Write]) -> Wants {
        let mut wants = Wants::default();
        for write in writes {
            match write {
                Write::Commit(txn) => {
                    for compare in &txn.when {
                        wants.want(&compare.keys, matches!(compare.test, Test::Value(_)));
                    }
                    txn.then.iter().chain(&txn.otherwise).for_each(|op| wants.want_for(op));
                }
                Write::Revoke(lease) => {
                    wants.leases.push(lease_sql(*lease));
                    wants.held.push(lease_sql(*lease));
                }
                Write::Compact(_) | Write::Expire => {}
            }
        }
        wants
    }

    fn want_for(&mut self, op: &Op) {
        match op {
            Op::Put { key, lease, .. } => {
                self.keys.push(key.clone().into_bytes());
                self.leases.extend(lease.map(lease_sql));
            }
            Op::Delete(keys) => self.want(keys, true),
            Op::Get(range) => {
                self.want(&range.keys, !range.keys_only);
                if let Some(at) = range.at {
                    self.past.push((range.keys.clone(), sql(at)));
                }
            }
        }
    }

    fn want(&mut self, keys: &Keys, with_values: bool) {
        match keys {
            Keys::One(key) => self.keys.push(key.clone().into_bytes()),
            Keys::Range { start, end } => {
                let (starts, ends) = match with_values {
                    true => (&mut self.starts, &mut self.ends),
                    false => (&mut self.bare_starts, &mut self.bare_ends),
                };
                starts.push(start.clone().into_bytes());
                ends.push(end.clone().into_bytes());
            }
        }
    }
}

/// A change, as the log keeps it.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub key: String,
    pub new: Option<Entry>,
    pub old: Option<Entry>,
}

/// The rows, as far as they were asked for, with the changes so far.
#[derive(Default)]
pub(super) struct Loaded {
    entries: BTreeMap<String, Entry>,
    leases: BTreeSet<LeaseId>,
    /// By revision and number within it. What was loaded has no `new`.
    log: BTreeMap<(Revision, i64), Logged>,
    /// The keys that were written or removed.
    changed: BTreeSet<String>,
    ended: Vec<LeaseId>,
    /// From where on the log is of these requests.
    logged_from: Option<Revision>,
}

impl Loaded {
    /// Entries without their values, to be loaded before those with them.
    pub fn add(&mut self, entry: Entry) {
        self.entries.insert(entry.key.clone(), entry);
    }

    pub fn add_lease(&mut self, lease: LeaseId) {
        self.leases.insert(lease);
    }

    pub fn add_past(&mut self, revision: Revision, nth: i64, key: String, old: Option<Entry>) {
        self.log.insert((revision, nth), Logged { key, new: None, old });
    }

    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty() || !self.ended.is_empty()
    }

    /// The leases that were ended.
    pub fn ended(&self) -> &[LeaseId] {
        &self.ended
    }

    /// What was put, and which keys were removed.
    pub fn changes(&self) -> (Vec<&Entry>, Vec<&str>) {
        let (put, gone): (Vec<&String>, Vec<&String>) =
            self.changed.iter().partition(|key| self.entries.contains_key(*key));
        (
            put.into_iter().filter_map(|key| self.entries.get(key)).collect(),
            gone.into_iter().map(String::as_str).collect(),
        )
    }

    /// What is new in the log.
    pub fn logged(&self) -> impl Iterator<Item = (Revision, i64, &Logged)> {
        let from = self.logged_from.unwrap_or(Revision(u64::MAX));
        self.log.range((from, 0)..).map(|((revision, nth), logged)| (*revision, *nth, logged))
    }

    fn of<'a>(&'a self, keys: &Keys) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let (start, end) = bounds(keys);
        self.entries.range(start.to_owned()..end).map(|(_, entry)| entry)
    }
}

fn shown(entry: &Entry, keys_only: bool) -> Entry {
    let value = if keys_only { Vec::new() } else { entry.value.clone() };
    Entry { key: entry.key.clone(), value, ..*entry }
}

impl Rows for Loaded {
    type Failure = StoreError;

    fn holds(&self, keys: &Keys, test: &Test) -> Result<(bool, bool), StoreError> {
        let mut found = self.of(keys).peekable();
        let any = found.peek().is_some();
        Ok((found.all(|entry| rules::holds(test, Some(entry))), any))
    }

    fn find(&self, keys: &Keys) -> Result<Vec<Entry>, StoreError> {
        Ok(self.of(keys).cloned().collect())
    }

    fn held_by(&self, lease: LeaseId) -> Result<Vec<Entry>, StoreError> {
        Ok(self.entries.values().filter(|entry| entry.lease == Some(lease)).cloned().collect())
    }

    fn select(&self, range: &Range, at: Option<Revision>) -> Result<Vec<Entry>, StoreError> {
        let is_meant = |entry: &&Entry| {
            at.is_none_or(|at| entry.modified <= at)
                && range.modified_before.is_none_or(|before| entry.modified < before)
        };
        let mut found: Vec<Entry> =
            self.of(&range.keys).filter(is_meant).map(|entry| shown(entry, range.keys_only)).collect();
        contents::sort(range.order, &mut found);
        if range.limit > 0 {
            found.truncate(range.limit.saturating_add(1));
        }
        Ok(found)
    }

    fn befores(&self, range: &Range, at: Revision) -> Result<Vec<Before>, StoreError> {
        let mut befores = BTreeMap::new();
        for logged in self.log.range((at.next(), 0)..).map(|(_, logged)| logged) {
            if range.keys.contains(&logged.key)
                && let Slot::Vacant(slot) = befores.entry(logged.key.clone())
            {
                slot.insert(logged.old.as_ref().map(|old| shown(old, range.keys_only)));
            }
        }
        Ok(befores.into_iter().collect())
    }

    fn lease_stands(&self, lease: LeaseId) -> Result<bool, StoreError> {
        Ok(self.leases.contains(&lease))
    }

    fn end_lease(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases.remove(&lease);
        self.ended.push(lease);
        Ok(())
    }

    fn write(&mut self, change: Written<'_>) -> Result<(), StoreError> {
        let Written { at, nth, key, new, old } = change;
        match new {
            Some(new) => drop(self.entries.insert(key.to_owned(), new.clone())),
            None => drop(self.entries.remove(key)),
        }
        self.changed.insert(key.to_owned());
        self.logged_from.get_or_insert(at);
        self.log.insert((at, nth), Logged { key: key.to_owned(), new: new.cloned(), old: old.cloned() });
        Ok(())
    }
}
