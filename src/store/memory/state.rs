//! The contents of a [`MemoryStore`](super::MemoryStore) and its rules: synchronous, and without a clock of its own.
//!
//! Current entries are kept as they are; a log keeps every change with what the key was before it. The contents at an
//! older revision are the current ones, with every key that changed since put back to what it was before its first
//! change after that revision.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::store::watching::WatchBatch;
use crate::store::{
    Answer, Change, Committed, Compare, Entry, Keys, LeaseId, Op, Page, Range, Revision, Sort, StoreError, Txn, rules,
};
use crate::time::Boot;

/// How many revisions of history are kept. As with every store, a watcher that is further behind lists again.
pub const HISTORY: usize = 10_000;

/// About how many changes go into one report of a watch; a revision's changes are never parted.
const REPORT_CHANGES: usize = 1000;

#[derive(Clone, Debug)]
pub(super) struct State {
    revision: Revision,
    /// History begins here: reads and watches from before it are refused.
    kept_from: Revision,
    entries: BTreeMap<String, Entry>,
    log: BTreeMap<Revision, Vec<Logged>>,
    leases: BTreeMap<LeaseId, Lease>,
    /// The leases in the order in which they end.
    deadlines: BTreeSet<(Boot, LeaseId)>,
    last_lease: u64,
    /// How often it was put back: what was watched before that is not what is there now.
    restorations: u64,
}

#[derive(Clone, Debug)]
struct Logged {
    change: Change,
    before: Option<Entry>,
}

#[derive(Clone, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Boot,
    keys: BTreeSet<String>,
}

impl State {
    /// An empty store. Its revision is 1, as in etcd, so that revision 0 is before everything.
    pub(super) fn new() -> State {
        State {
            revision: Revision(1),
            kept_from: Revision(0),
            entries: BTreeMap::new(),
            log: BTreeMap::new(),
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            last_lease: 0,
            restorations: 0,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn restorations(&self) -> u64 {
        self.restorations
    }

    /// Becomes `before` again. Each lease has its whole TTL from `now` on, as in an etcd that is restored; ids of leases
    /// are not given out twice.
    pub(super) fn restore(&mut self, before: &State, now: Boot) {
        let (last_lease, restorations) = (self.last_lease, self.restorations + 1);
        *self = State { last_lease, restorations, ..before.clone() };
        for lease in self.leases.values_mut() {
            lease.deadline = now.plus(lease.ttl);
        }
        self.deadlines = self.leases.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
    }

    /// When the next lease ends, if nothing keeps it alive.
    pub(super) fn next_deadline(&self) -> Option<Boot> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends the leases whose time is up, each with its keys at a revision of its own.
    pub(super) fn expire(&mut self, now: Boot) {
        while let Some((deadline, lease)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.revoke(lease);
        }
    }

    pub(super) fn grant(&mut self, asked: Duration, now: Boot) -> Result<(LeaseId, Duration), StoreError> {
        let ttl = rules::ttl(asked)?;
        self.last_lease += 1;
        let id = LeaseId(self.last_lease.try_into().expect("counted up from 0"));
        let deadline = now.plus(ttl);
        self.leases.insert(id, Lease { ttl, deadline, keys: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
        Ok((id, ttl))
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Boot) -> Result<Duration, StoreError> {
        let lease = self.leases.get_mut(&id).ok_or(StoreError::LeaseEnded(id))?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now.plus(lease.ttl);
        self.deadlines.insert((lease.deadline, id));
        Ok(lease.ttl)
    }

    pub(super) fn revoke(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(&id) else { return };
        self.deadlines.remove(&(lease.deadline, id));
        let revision = self.revision.next();
        for key in &lease.keys {
            self.delete(key, revision);
        }
        self.settle(revision);
    }

    pub(super) fn commit(&mut self, txn: &Txn) -> Result<Committed, StoreError> {
        rules::check(txn)?;
        let succeeded = txn.when.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        self.check_ops(ops)?;
        let revision = self.revision.next();
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(match op {
                Op::Put { key, value, lease } => {
                    self.put(key, value, *lease, revision);
                    Answer::Put
                }
                Op::Delete(keys) => {
                    let found: Vec<String> = self.find(keys).map(|entry| entry.key.clone()).collect();
                    found.iter().for_each(|key| self.delete(key, revision));
                    Answer::Deleted(found.len() as u64)
                }
                Op::Get(range) => Answer::Got(self.read(range)),
            });
        }
        self.settle(revision);
        for answer in &mut answers {
            if let Answer::Got(page) = answer {
                page.revision = self.revision;
            }
        }
        Ok(Committed { succeeded, revision: self.revision, answers })
    }

    pub(super) fn range(&self, range: &Range) -> Result<Page, StoreError> {
        rules::check_keys(&range.keys)?;
        if let Some(at) = range.at {
            rules::check_at(at, self.kept_from, self.revision)?;
        }
        Ok(self.read(range))
    }

    /// What changed of `keys` from `from` on.
    pub(super) fn changes(&self, keys: &Keys, from: Revision) -> WatchBatch {
        if from < self.kept_from {
            return WatchBatch::Compacted(self.kept_from);
        }
        let mut changes = Vec::new();
        for (revision, logged) in self.log.range(from..) {
            changes.extend(logged.iter().map(|logged| &logged.change).filter(|c| keys.contains(c.key())).cloned());
            if changes.len() >= REPORT_CHANGES {
                return WatchBatch::Changes(changes, revision.next());
            }
        }
        WatchBatch::Changes(changes, from.max(self.revision.next()))
    }

    /// Forgets the history before `revision`.
    pub(super) fn compact(&mut self, revision: Revision) {
        self.kept_from = self.kept_from.max(revision.min(self.revision));
        self.log = self.log.split_off(&self.kept_from);
    }

    /// What would refuse the applied branch: found before anything of it is done.
    fn check_ops(&self, ops: &[Op]) -> Result<(), StoreError> {
        for op in ops {
            match op {
                Op::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease) => {
                    return Err(StoreError::LeaseEnded(*lease));
                }
                Op::Get(Range { at: Some(at), .. }) => rules::check_at(*at, self.kept_from, self.revision)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn find<'a>(&'a self, keys: &Keys) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let bounds = match keys {
            Keys::One(key) => key.clone()..=key.clone(),
            // The end does not belong to it: taken away below.
            Keys::Range { start, end } => start.clone()..=end.clone(),
        };
        let end = if let Keys::Range { end, .. } = keys { Some(end.clone()) } else { None };
        self.entries.range(bounds).map(|(_, entry)| entry).filter(move |entry| end.as_ref() != Some(&entry.key))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut found = self.find(&compare.keys).peekable();
        match found.peek() {
            None => rules::holds(&compare.test, None),
            Some(_) => found.all(|entry| rules::holds(&compare.test, Some(entry))),
        }
    }

    fn put(&mut self, key: &str, value: &[u8], lease: Option<LeaseId>, revision: Revision) {
        let before = self.entries.get(key).cloned();
        let created = before.as_ref().map_or(revision, |before| before.created);
        let entry = Entry { key: key.to_owned(), value: value.to_vec(), created, modified: revision, lease };
        self.detach(before.as_ref());
        if let Some(lease) = lease {
            let lease = self.leases.get_mut(&lease).expect("the branch was checked for ended leases");
            lease.keys.insert(key.to_owned());
        }
        self.entries.insert(key.to_owned(), entry.clone());
        self.log.entry(revision).or_default().push(Logged { change: Change::Put(entry), before });
    }

    fn delete(&mut self, key: &str, revision: Revision) {
        let Some(before) = self.entries.remove(key) else { return };
        self.detach(Some(&before));
        let change = Change::Deleted { key: key.to_owned(), revision };
        self.log.entry(revision).or_default().push(Logged { change, before: Some(before) });
    }

    fn detach(&mut self, entry: Option<&Entry>) {
        if let Some(Entry { key, lease: Some(lease), .. }) = entry
            && let Some(lease) = self.leases.get_mut(lease)
        {
            lease.keys.remove(key);
        }
    }

    /// Moves on to `revision`, where something changed at it, and drops the history beyond its bound.
    fn settle(&mut self, revision: Revision) {
        if !self.log.contains_key(&revision) {
            return;
        }
        self.revision = revision;
        while self.log.len() > HISTORY {
            self.log.pop_first();
            self.kept_from = *self.log.keys().next().expect("a bound above 0 keeps one");
        }
    }

    fn read(&self, range: &Range) -> Page {
        let mut entries: Vec<&Entry> = match range.at {
            Some(at) if at < self.revision => self.at(&range.keys, at),
            _ => self.find(&range.keys).collect(),
        };
        if let Some(before) = range.modified_before {
            entries.retain(|entry| entry.modified < before);
        }
        if range.order == Sort::NewestFirst {
            entries.sort_by_key(|entry| Reverse(entry.modified));
        }
        let more = range.limit > 0 && entries.len() > range.limit;
        if more {
            entries.truncate(range.limit);
        }
        let value = |entry: &Entry| if range.keys_only { Vec::new() } else { entry.value.clone() };
        let copy = |entry: &Entry| Entry { key: entry.key.clone(), value: value(entry), ..*entry };
        Page { entries: entries.into_iter().map(copy).collect(), more, revision: self.revision }
    }

    /// The entries of `keys` as they were at revision `at`.
    fn at(&self, keys: &Keys, at: Revision) -> Vec<&Entry> {
        let mut found: BTreeMap<&str, &Entry> =
            self.find(keys).filter(|entry| entry.modified <= at).map(|entry| (entry.key.as_str(), entry)).collect();
        let mut put_back = BTreeSet::new();
        for logged in self.log.range(at.next()..).flat_map(|(_, logged)| logged) {
            let key = logged.change.key();
            if keys.contains(key) && put_back.insert(key) {
                found.extend(logged.before.as_ref().map(|before| (key, before)));
            }
        }
        found.into_values().collect()
    }
}
