//! What is in the file, within one SQLite transaction: the rows that [`contents`](crate::store::contents) decides over,
//! and the leases with their deadlines.

use std::collections::btree_map::{BTreeMap, Entry as Slot};
use std::time::Duration;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::file::{Failure, File};
use crate::store::contents::{
    self, Before, REPORT_CHANGES, Rows, Written, bounds, lease_of, lease_sql, new_lease, sql,
};
use crate::store::watching::WatchBatch;
use crate::store::{
    Change, Committed, Entry, Keys, LeaseId, Page, Range, Revision, Sort, StoreError, Test, Txn, rules,
};
use crate::time::Boot;

/// The contents, as one SQLite transaction sees them.
pub(super) struct Contents<'c> {
    connection: &'c Connection,
    contents: contents::Contents<InFile<'c>>,
    saved: (Revision, Revision),
    now: Boot,
}

/// The rows of the file.
struct InFile<'c> {
    connection: &'c Connection,
    /// A lease was granted, kept alive or ended, which has no revision.
    leases_changed: bool,
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
        let rows = InFile { connection, leases_changed: false };
        let contents = contents::Contents::new(rows, revision, kept_from);
        Ok(Contents { connection, contents, saved: (revision, kept_from), now })
    }

    /// Records the new revision and cuts the history. To be called before the transaction is committed. Answers whether
    /// anything has changed.
    pub(super) fn save(mut self) -> rusqlite::Result<bool> {
        self.contents.bound_history();
        let (revision, kept_from) = (self.contents.revision, self.contents.kept_from);
        if self.saved.1 != kept_from {
            self.connection.prepare_cached("DELETE FROM log WHERE revision < ?1")?.execute([sql(kept_from)])?;
        }
        let moved_on = self.saved != (revision, kept_from);
        if moved_on {
            self.connection
                .prepare_cached("UPDATE meta SET revision = ?1, kept_from = ?2")?
                .execute([sql(revision), sql(kept_from)])?;
        }
        Ok(moved_on || self.contents.rows.leases_changed)
    }

    /// Forgets the history before `revision`.
    pub(super) fn compact(&mut self, revision: Revision) {
        self.contents.compact(revision);
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
    pub(super) fn expire(&mut self) -> Result<(), Failure> {
        let due: Vec<i64> = self
            .connection
            .prepare_cached("SELECT id FROM leases WHERE deadline <= ?1 ORDER BY deadline, nth")?
            .query_map([nanos(self.now)], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        due.into_iter().filter_map(lease_of).try_for_each(|lease| self.contents.end(lease))
    }

    pub(super) fn grant(&mut self, asked: Duration) -> Result<(LeaseId, Duration), Failure> {
        let (ttl, lease) = (rules::ttl(asked)?, new_lease());
        self.connection.prepare_cached("INSERT INTO leases (id, ttl, deadline) VALUES (?1, ?2, ?3)")?.execute([
            lease_sql(lease),
            ttl.as_nanos() as i64,
            nanos(self.now.plus(ttl)),
        ])?;
        self.contents.rows.leases_changed = true;
        Ok((lease, ttl))
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId) -> Result<Duration, Failure> {
        let ttl: Option<i64> = self
            .connection
            .prepare_cached("UPDATE leases SET deadline = ttl + ?2 WHERE id = ?1 RETURNING ttl")?
            .query_row([lease_sql(id), nanos(self.now)], |row| row.get(0))
            .optional()?;
        let ttl = ttl.ok_or(StoreError::LeaseEnded(id))?;
        self.contents.rows.leases_changed = true;
        Ok(Duration::from_nanos(ttl.unsigned_abs()))
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<(), Failure> {
        self.contents.revoke(id)
    }

    pub(super) fn commit(&mut self, txn: &Txn) -> Result<Committed, Failure> {
        self.contents.commit(txn)
    }

    pub(super) fn range(&self, range: &Range) -> Result<Page, Failure> {
        self.contents.range(range)
    }

    /// What changed of `keys` from `from` on.
    pub(super) fn changes(&self, keys: &Keys, from: Revision) -> rusqlite::Result<WatchBatch> {
        if from < self.contents.kept_from {
            return Ok(WatchBatch::Compacted(self.contents.kept_from));
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
        Ok(WatchBatch::Changes(changes, from.max(self.contents.revision.next())))
    }
}

impl Rows for InFile<'_> {
    type Failure = Failure;

    fn holds(&self, keys: &Keys, test: &Test) -> Result<(bool, bool), Failure> {
        let value = if matches!(test, Test::Value(_)) { "value" } else { "x''" };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT key, {value}, created, modified, lease FROM entries WHERE key >= ?1 AND key < ?2"
        ))?;
        let (start, end) = bounds(keys);
        let mut rows = statement.query([start, &end])?;
        let mut any = false;
        while let Some(row) = rows.next()? {
            any = true;
            if !rules::holds(test, Some(&entry(row)?)) {
                return Ok((false, any));
            }
        }
        Ok((true, any))
    }

    fn find(&self, keys: &Keys) -> Result<Vec<Entry>, Failure> {
        let (start, end) = bounds(keys);
        self.entries(
            "SELECT key, value, created, modified, lease FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key",
            &[&start, &end],
        )
    }

    fn held_by(&self, lease: LeaseId) -> Result<Vec<Entry>, Failure> {
        self.entries(
            "SELECT key, value, created, modified, lease FROM entries WHERE lease = ?1 ORDER BY key",
            &[&lease_sql(lease)],
        )
    }

    fn select(&self, range: &Range, at: Option<Revision>) -> Result<Vec<Entry>, Failure> {
        let (start, end) = bounds(&range.keys);
        let value = if range.keys_only { "x''" } else { "value" };
        let order = match range.order {
            Sort::Key => "key",
            Sort::NewestFirst => "modified DESC, key",
        };
        let newest = at.map_or(i64::MAX, sql);
        let before = range.modified_before.map_or(i64::MAX, sql);
        let limit = if range.limit == 0 { -1 } else { i64::try_from(range.limit).unwrap_or(i64::MAX - 1) + 1 };
        self.entries(
            &format!(
                "SELECT key, {value}, created, modified, lease FROM entries
                 WHERE key >= ?1 AND key < ?2 AND modified <= ?3 AND modified < ?4 ORDER BY {order} LIMIT ?5"
            ),
            &[&start, &end, &newest, &before, &limit],
        )
    }

    fn befores(&self, range: &Range, at: Revision) -> Result<Vec<Before>, Failure> {
        let (start, end) = bounds(&range.keys);
        let value = if range.keys_only { "x''" } else { "old_value" };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT key, {value}, old_created, old_modified, old_lease FROM log
             WHERE revision > ?1 AND key >= ?2 AND key < ?3 ORDER BY revision, nth"
        ))?;
        let mut rows = statement.query(params![sql(at), start, end])?;
        let mut befores: BTreeMap<String, Option<Entry>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            if let Slot::Vacant(slot) = befores.entry(row.get(0)?) {
                let existed = row.get::<_, Option<i64>>(3)?.is_some();
                slot.insert(if existed { Some(entry(row)?) } else { None });
            }
        }
        Ok(befores.into_iter().collect())
    }

    fn lease_stands(&self, id: LeaseId) -> Result<bool, Failure> {
        Ok(self.connection.prepare_cached("SELECT 1 FROM leases WHERE id = ?1")?.exists([lease_sql(id)])?)
    }

    fn end_lease(&mut self, lease: LeaseId) -> Result<(), Failure> {
        self.connection.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([lease_sql(lease)])?;
        self.leases_changed = true;
        Ok(())
    }

    fn write(&mut self, change: Written<'_>) -> Result<(), Failure> {
        let Written { at, nth, key, new, old } = change;
        let lease = |entry: &Entry| entry.lease.map(lease_sql);
        match new {
            Some(new) => self
                .connection
                .prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![key, new.value, sql(new.created), sql(new.modified), lease(new)])?,
            None => self.connection.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?,
        };
        self.connection.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?.execute(
            params![
                sql(at),
                nth,
                key,
                new.map(|new| &new.value),
                new.map(|new| sql(new.created)),
                new.and_then(lease),
                old.map(|old| &old.value),
                old.map(|old| sql(old.created)),
                old.map(|old| sql(old.modified)),
                old.and_then(lease),
            ],
        )?;
        Ok(())
    }
}

impl InFile<'_> {
    fn entries(&self, query: &str, given: &[&dyn ToSql]) -> Result<Vec<Entry>, Failure> {
        Ok(self.connection.prepare_cached(query)?.query_map(given, entry)?.collect::<rusqlite::Result<_>>()?)
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        created: revision(row, 2)?,
        modified: revision(row, 3)?,
        lease: row.get::<_, Option<i64>>(4)?.and_then(lease_of),
    })
}

fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    Ok(Revision(row.get::<_, i64>(column)?.unsigned_abs()))
}

fn nanos(at: Boot) -> i64 {
    i64::try_from(at.since_boot().as_nanos()).unwrap_or(i64::MAX)
}
