//! What is in the file, within one SQLite transaction: keys, leases, history, and the rules by which they change.
//!
//! The contents at an older revision are the current entries, with every key that changed since put back to what the
//! log says it was before its first change after that revision. So compaction only drops rows of the log.

use std::collections::btree_map::{BTreeMap, Entry as Slot};
use std::time::Duration;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::file::{Failure, File};
use crate::store::{
    Answer, Change, Committed, Compare, Entry, Keys, LeaseId, Op, Page, Range, Revision, Sort, StoreError, Test, Txn,
    rules,
};
use crate::time::Boot;

/// How many revisions of history are kept: what a watcher may be behind before it lists again.
pub const HISTORY: u64 = 10_000;

/// How far history may outgrow [`HISTORY`] before it is cut: so that not every transaction cuts.
const HISTORY_SLACK: u64 = 200;

/// About how many changes go into one report of a watch; a revision's changes are never parted.
const REPORT_CHANGES: usize = 1000;

/// The contents, as one SQLite transaction sees them.
pub(super) struct Contents<'c> {
    connection: &'c Connection,
    revision: Revision,
    kept_from: Revision,
    saved: (Revision, Revision),
    /// How many changes the current revision has so far.
    nth: i64,
    /// A lease was granted, kept alive or ended, which has no revision.
    leases_changed: bool,
    now: Boot,
}

/// The next changes of a watch.
pub(super) enum WatchBatch {
    /// Changes, and the revision to go on from. May be empty.
    Changes(Vec<Change>, Revision),
    Compacted(Revision),
}

impl<'c> Contents<'c> {
    /// The contents as of the transaction that is open on `connection`, at `now`, which was read inside it. `ours` is the
    /// boot whose clock that is.
    pub(super) fn load(
        connection: &'c Connection,
        file: &File,
        ours: &str,
        now: Boot,
    ) -> Result<Contents<'c>, Failure> {
        let (revision, kept_from, boot) = connection
            .prepare_cached("SELECT revision, kept_from, boot FROM meta")?
            .query_row([], |row| Ok((revision(row, 0)?, revision(row, 1)?, row.get::<_, String>(2)?)))?;
        if boot != ours {
            return Err(StoreError::Unusable(format!(
                "{} is now used by a process with another boot id or time namespace than this one: a SQLite store is \
                 for the processes of one machine that see the same clock; use etcd",
                file.path().display()
            ))
            .into());
        }
        Ok(Contents {
            connection,
            revision,
            kept_from,
            saved: (revision, kept_from),
            nth: 0,
            leases_changed: false,
            now,
        })
    }

    /// Records the new revision and cuts the history. To be called before the transaction is committed. Answers whether
    /// anything has changed.
    pub(super) fn save(mut self) -> rusqlite::Result<bool> {
        if self.revision.0 > self.kept_from.0 + HISTORY + HISTORY_SLACK {
            self.compact(Revision(self.revision.0 - HISTORY))?;
        }
        let moved_on = self.saved != (self.revision, self.kept_from);
        if moved_on {
            self.connection
                .prepare_cached("UPDATE meta SET revision = ?1, kept_from = ?2")?
                .execute([sql(self.revision), sql(self.kept_from)])?;
        }
        Ok(moved_on || self.leases_changed)
    }

    /// Forgets the history before `revision`.
    pub(super) fn compact(&mut self, revision: Revision) -> rusqlite::Result<()> {
        self.kept_from = self.kept_from.max(revision.min(self.revision));
        self.connection.prepare_cached("DELETE FROM log WHERE revision < ?1")?.execute([sql(self.kept_from)])?;
        Ok(())
    }

    /// When the next lease ends, if nothing keeps it alive.
    pub(super) fn next_deadline(&self) -> rusqlite::Result<Option<Boot>> {
        let first: Option<i64> =
            self.connection.prepare_cached("SELECT min(deadline) FROM leases")?.query_row([], |row| row.get(0))?;
        Ok(first.map(|nanos| Boot::from_duration(Duration::from_nanos(nanos.unsigned_abs()))))
    }

    /// Whether a lease's time is up, though its keys are still there.
    pub(super) fn is_due(&self) -> rusqlite::Result<bool> {
        Ok(self.next_deadline()?.is_some_and(|deadline| deadline <= self.now))
    }

    /// Ends the leases whose time is up, each with its keys at a revision of its own.
    pub(super) fn expire(&mut self) -> rusqlite::Result<()> {
        let due: Vec<i64> = self
            .connection
            .prepare_cached("SELECT id FROM leases WHERE deadline <= ?1 ORDER BY deadline, nth")?
            .query_map([nanos(self.now)], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        due.into_iter().try_for_each(|lease| self.end(lease))
    }

    pub(super) fn grant(&mut self, asked: Duration) -> Result<(LeaseId, Duration), Failure> {
        let ttl = rules::ttl(asked)?;
        // Random, not counted: a file restored from a backup must not grant again an id that is still held.
        let random = Uuid::new_v4().as_u64_pair();
        let id = ((random.0 ^ random.1) >> 1).max(1);
        self.connection.prepare_cached("INSERT INTO leases (id, ttl, deadline) VALUES (?1, ?2, ?3)")?.execute([
            id as i64,
            ttl.as_nanos() as i64,
            nanos(self.now.plus(ttl)),
        ])?;
        self.leases_changed = true;
        Ok((LeaseId(id.try_into().expect("at least 1")), ttl))
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId) -> Result<Duration, Failure> {
        let ttl: Option<i64> = self
            .connection
            .prepare_cached("UPDATE leases SET deadline = ttl + ?2 WHERE id = ?1 RETURNING ttl")?
            .query_row([lease_sql(id), nanos(self.now)], |row| row.get(0))
            .optional()?;
        let ttl = ttl.ok_or(StoreError::LeaseEnded(id))?;
        self.leases_changed = true;
        Ok(Duration::from_nanos(ttl.unsigned_abs()))
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<(), Failure> {
        if self.lease_stands(id)? {
            self.end(lease_sql(id))?;
        }
        Ok(())
    }

    fn lease_stands(&self, id: LeaseId) -> rusqlite::Result<bool> {
        self.connection.prepare_cached("SELECT 1 FROM leases WHERE id = ?1")?.exists([lease_sql(id)])
    }

    /// Ends a lease with its keys.
    fn end(&mut self, lease: i64) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([lease])?;
        self.leases_changed = true;
        let gone = entries(
            self.connection,
            "SELECT key, value, created, modified, lease FROM entries WHERE lease = ?1 ORDER BY key",
            &[&lease],
        )?;
        let revision = self.revision.next();
        for entry in &gone {
            self.delete(entry, revision)?;
        }
        self.settle();
        Ok(())
    }

    pub(super) fn commit(&mut self, txn: &Txn) -> Result<Committed, Failure> {
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
                    let gone = self.find(keys)?;
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

    pub(super) fn range(&self, range: &Range) -> Result<Page, Failure> {
        if let Some(at) = range.at {
            rules::check_at(at, self.kept_from, self.revision)?;
        }
        Ok(self.read(range)?)
    }

    /// What changed of `keys` from `from` on.
    pub(super) fn changes(&self, keys: &Keys, from: Revision) -> rusqlite::Result<WatchBatch> {
        if from < self.kept_from {
            return Ok(WatchBatch::Compacted(self.kept_from));
        }
        let (start, end) = bounds(keys);
        let mut statement = self.connection.prepare_cached(
            "SELECT key, value, created, revision, lease FROM log
             WHERE revision >= ?1 AND key >= ?2 AND key < ?3 ORDER BY revision, nth",
        )?;
        let mut rows = statement.query(params![sql(from), start, end])?;
        let mut changes: Vec<Change> = Vec::new();
        while let Some(row) = rows.next()? {
            let revision = revision(row, 3)?;
            if let Some(last) = changes.last()
                && changes.len() >= REPORT_CHANGES
                && last.revision() < revision
            {
                return Ok(WatchBatch::Changes(changes, revision));
            }
            changes.push(match row.get_ref(1)? {
                rusqlite::types::ValueRef::Null => Change::Deleted { key: row.get(0)?, revision },
                _ => Change::Put(entry(row)?),
            });
        }
        Ok(WatchBatch::Changes(changes, from.max(self.revision.next())))
    }

    fn holds(&self, compare: &Compare) -> rusqlite::Result<bool> {
        let value = if matches!(compare.test, Test::Value(_)) { "value" } else { "x''" };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT key, {value}, created, modified, lease FROM entries WHERE key >= ?1 AND key < ?2"
        ))?;
        let (start, end) = bounds(&compare.keys);
        let mut rows = statement.query([start, &end])?;
        let mut any = false;
        while let Some(row) = rows.next()? {
            any = true;
            if !rules::holds(&compare.test, Some(&entry(row)?)) {
                return Ok(false);
            }
        }
        Ok(any || rules::holds(&compare.test, None))
    }

    /// What would refuse the applied branch: found before anything of it is done.
    fn check_ops(&self, ops: &[Op]) -> Result<(), Failure> {
        for op in ops {
            match op {
                Op::Put { lease: Some(lease), .. } if !self.lease_stands(*lease)? => {
                    return Err(StoreError::LeaseEnded(*lease).into());
                }
                Op::Get(Range { at: Some(at), .. }) => rules::check_at(*at, self.kept_from, self.revision)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn find(&self, keys: &Keys) -> rusqlite::Result<Vec<Entry>> {
        let (start, end) = bounds(keys);
        entries(
            self.connection,
            "SELECT key, value, created, modified, lease FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key",
            &[&start, &end],
        )
    }

    fn put(&mut self, key: &str, value: &[u8], lease: Option<LeaseId>, at: Revision) -> rusqlite::Result<()> {
        let old = self.find(&Keys::one(key))?.pop();
        let created = old.as_ref().map_or(at, |old| old.created);
        let lease = lease.map(lease_sql);
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![key, value, sql(created), sql(at), lease])?;
        self.record(at, key, Some((value, created, lease)), old.as_ref())
    }

    fn delete(&mut self, entry: &Entry, at: Revision) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([&entry.key])?;
        self.record(at, &entry.key, None, Some(entry))
    }

    fn record(
        &mut self,
        at: Revision,
        key: &str,
        new: Option<(&[u8], Revision, Option<i64>)>,
        old: Option<&Entry>,
    ) -> rusqlite::Result<()> {
        self.connection.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?.execute(
            params![
                sql(at),
                self.nth,
                key,
                new.map(|new| new.0),
                new.map(|new| sql(new.1)),
                new.and_then(|new| new.2),
                old.map(|old| &old.value),
                old.map(|old| sql(old.created)),
                old.map(|old| sql(old.modified)),
                old.and_then(|old| old.lease).map(lease_sql),
            ],
        )?;
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

    fn read(&self, range: &Range) -> rusqlite::Result<Page> {
        let mut found = match range.at {
            Some(at) if at < self.revision => self.read_at(range, at)?,
            _ => self.select(range, None)?,
        };
        let more = range.limit > 0 && found.len() > range.limit;
        if more {
            found.truncate(range.limit);
        }
        Ok(Page { entries: found, more, revision: self.revision })
    }

    /// The entries of the range that were last put at or before `at`, one more than its limit.
    fn select(&self, range: &Range, at: Option<Revision>) -> rusqlite::Result<Vec<Entry>> {
        let (start, end) = bounds(&range.keys);
        let value = if range.keys_only { "x''" } else { "value" };
        let order = match range.order {
            Sort::Key => "key",
            Sort::NewestFirst => "modified DESC, key",
        };
        let newest = at.map_or(i64::MAX, sql);
        let before = range.modified_before.map_or(i64::MAX, sql);
        let limit = if range.limit == 0 { -1 } else { i64::try_from(range.limit).unwrap_or(i64::MAX - 1) + 1 };
        entries(
            self.connection,
            &format!(
                "SELECT key, {value}, created, modified, lease FROM entries
                 WHERE key >= ?1 AND key < ?2 AND modified <= ?3 AND modified < ?4 ORDER BY {order} LIMIT ?5"
            ),
            &[&start, &end, &newest, &before, &limit],
        )
    }

    /// The range as it was at `at`: what has not changed since, and what was before the first change since. One more
    /// than the limit of each is enough to find the first of both.
    fn read_at(&self, range: &Range, at: Revision) -> rusqlite::Result<Vec<Entry>> {
        let (start, end) = bounds(&range.keys);
        let value = if range.keys_only { "x''" } else { "old_value" };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT key, {value}, old_created, old_modified, old_lease FROM log
             WHERE revision > ?1 AND key >= ?2 AND key < ?3 ORDER BY revision, nth"
        ))?;
        let mut rows = statement.query(params![sql(at), start, end])?;
        let mut put_back: BTreeMap<String, Option<Entry>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            if let Slot::Vacant(slot) = put_back.entry(row.get(0)?) {
                let existed = row.get::<_, Option<i64>>(3)?.is_some();
                slot.insert(if existed { Some(entry(row)?) } else { None });
            }
        }
        let mut found = self.select(range, Some(at))?;
        let listed = |entry: &Entry| range.modified_before.is_none_or(|before| entry.modified < before);
        found.extend(put_back.into_values().flatten().filter(listed));
        match range.order {
            Sort::Key => found.sort_by(|a, b| a.key.cmp(&b.key)),
            Sort::NewestFirst => found.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.key.cmp(&b.key))),
        }
        Ok(found)
    }
}

/// Every set of keys as a range. The least text after a key is the key with a NUL behind it.
fn bounds(keys: &Keys) -> (&str, String) {
    match keys {
        Keys::One(key) => (key, format!("{key}\0")),
        Keys::Range { start, end } => (start, end.clone()),
    }
}

fn entries(connection: &Connection, query: &str, given: &[&dyn ToSql]) -> rusqlite::Result<Vec<Entry>> {
    connection.prepare_cached(query)?.query_map(given, entry)?.collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let lease: Option<i64> = row.get(4)?;
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        created: revision(row, 2)?,
        modified: revision(row, 3)?,
        lease: lease.and_then(|lease| u64::try_from(lease).ok()?.try_into().ok()).map(LeaseId),
    })
}

fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    Ok(Revision(row.get::<_, i64>(column)?.unsigned_abs()))
}

/// For SQLite, whose integers are signed. What is beyond them is beyond every revision.
fn sql(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// Ours are below 2^63. What is not, is not ours: -1 names no lease.
fn lease_sql(lease: LeaseId) -> i64 {
    i64::try_from(lease.0.get()).unwrap_or(-1)
}

fn nanos(at: Boot) -> i64 {
    i64::try_from(at.since_boot().as_nanos()).unwrap_or(i64::MAX)
}
