//! A store as the models have it.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::{Answer, Committed, Compare, Entry, Keys, LeaseId, Op, Order, Page, Revision, Sort, Test, Txn};

/// Value, created, modified, lease.
pub type Fields = (Vec<u8>, u64, u64, Option<LeaseId>);

/// The contents of a store, small enough to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contents {
    pub revision: u64,
    pub entries: BTreeMap<String, Fields>,
    pub ended: BTreeSet<LeaseId>,
}

impl Contents {
    pub fn new() -> Contents {
        Contents { revision: 1, entries: BTreeMap::new(), ended: BTreeSet::new() }
    }

    pub fn find(&self, keys: &Keys) -> Vec<Entry> {
        let entry = |(key, (value, created, modified, lease)): (&String, &Fields)| Entry {
            key: key.clone(),
            value: value.clone(),
            created: Revision(*created),
            modified: Revision(*modified),
            lease: *lease,
        };
        self.entries.iter().filter(|(key, _)| keys.contains(key)).map(entry).collect()
    }

    pub fn holds(&self, compare: &Compare) -> bool {
        let nothing =
            Entry { key: String::new(), value: vec![], created: Revision(0), modified: Revision(0), lease: None };
        let mut found = self.find(&compare.keys);
        if found.is_empty() {
            found.push(nothing);
        }
        found.iter().all(|entry| match &compare.test {
            Test::Created(order, given) => Order::holds(*order, entry.created, *given),
            Test::Modified(order, given) => Order::holds(*order, entry.modified, *given),
            Test::Lease(lease) => entry.lease == *lease,
            Test::Value(value) => entry.value == *value,
        })
    }

    /// `None`: refused, because of a lease that has ended.
    pub fn commit(&mut self, txn: &Txn) -> Option<Committed> {
        let succeeded = txn.when.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if ops.iter().any(|op| matches!(op, Op::Put { lease: Some(lease), .. } if self.ended.contains(lease))) {
            return None;
        }
        let next = self.revision + 1;
        let mut answers = Vec::new();
        for op in ops {
            answers.push(match op {
                Op::Put { key, value, lease } => {
                    let created = self.entries.get(key).map_or(next, |entry| entry.1);
                    self.entries.insert(key.clone(), (value.clone(), created, next, *lease));
                    self.revision = next;
                    Answer::Put
                }
                Op::Delete(keys) => Answer::Deleted(self.delete(keys, next)),
                Op::Get(range) => {
                    let mut entries = self.find(&range.keys);
                    if range.order == Sort::NewestFirst {
                        entries.retain(|entry| range.modified_before.is_none_or(|before| entry.modified < before));
                        entries.sort_by_key(|entry| std::cmp::Reverse(entry.modified));
                        entries.truncate(range.limit);
                    }
                    Answer::Got(Page { entries, ..Page::default() })
                }
            });
        }
        Some(Committed { succeeded, revision: Revision(self.revision), answers })
    }

    fn delete(&mut self, keys: &Keys, at: u64) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|key, _| !keys.contains(key));
        let deleted = before - self.entries.len();
        if deleted > 0 {
            self.revision = at;
        }
        deleted as u64
    }

    pub fn end(&mut self, lease: LeaseId) {
        self.ended.insert(lease);
        self.entries.retain(|_, entry| entry.3 != Some(lease));
        self.revision += 1;
    }
}
