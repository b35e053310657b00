//! What is read outside of transactions: ranges, and the changes that watches report. Each question is one statement, so
//! that all it answers is of one moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

use super::fault;
use super::link::{ASK_WITHIN, Connected, Link};
use crate::store::contents::{self, REPORT_CHANGES, bounds, lease_of, sql};
use crate::store::watching::WatchBatch;
use crate::store::{Change, Entry, Keys, Page, Range, Revision, Sort, StoreError, rules};

/// Where the store is: the newest revision, from which on history is kept, and whether this server is a standby, which may
/// be behind.
const NOW: &str = "WITH now AS MATERIALIZED (
        SELECT (SELECT max(revision) FROM fencron.log) AS newest, kept_from, pg_catalog.pg_is_in_recovery() AS standby
        FROM fencron.meta
    )";

pub(super) struct Reader {
    pub link: Link,
}

impl Reader {
    pub async fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let value = if range.keys_only { "''::bytea" } else { "value" };
        let old_value = if range.keys_only { "''::bytea" } else { "old_value" };
        let order = match range.order {
            Sort::Key => "key",
            Sort::NewestFirst => "modified DESC, key",
        };
        let mut query = format!(
            "{NOW} SELECT newest, kept_from, standby, e.*, false FROM now LEFT JOIN (
                SELECT key, {value}, created, modified, lease FROM fencron.entries
                WHERE key >= $1 AND key < $2 AND modified <= $3 AND modified < $4 ORDER BY {order} LIMIT $5
            ) e ON true"
        );
        if range.at.is_some() {
            query += &format!(
                " UNION ALL SELECT newest, kept_from, standby, b.*, true FROM now JOIN (
                    SELECT DISTINCT ON (key) key, {old_value}, old_created, old_modified, old_lease FROM fencron.log
                    WHERE revision > $3 AND key >= $1 AND key < $2 ORDER BY key, revision, nth
                ) b ON old_created IS NOT NULL"
            );
        }
        let (start, end) = bounds(&range.keys);
        let at = range.at.map_or(i64::MAX, sql);
        let before = range.modified_before.map_or(i64::MAX, sql);
        let limit = (range.limit > 0).then(|| i64::try_from(range.limit).unwrap_or(i64::MAX - 1) + 1);
        let params: Params<'_> = &[
            (&start.as_bytes(), Type::BYTEA),
            (&end.as_bytes(), Type::BYTEA),
            (&at, Type::INT8),
            (&before, Type::INT8),
            (&limit, Type::INT8),
        ];
        let rows = self.ask(&query, params).await?;
        let read = self.state(&rows)?;
        if let Some(at) = range.at {
            rules::check_at(at, read.kept_from, read.newest)?;
        }
        let (mut found, mut befores) = (Vec::new(), Vec::new());
        for row in &rows {
            match (self.understood(entry(row, 3))?, self.understood(row.try_get::<_, bool>(8))?) {
                (Some(entry), false) => found.push(entry),
                (Some(entry), true) => befores.push((entry.key.clone(), Some(entry))),
                (None, _) => {}
            }
        }
        contents::sort(range.order, &mut found);
        Ok(contents::page(range, contents::as_it_was(range, found, befores), read.newest))
    }

    /// The newest revision.
    pub async fn newest(&self) -> Result<Revision, StoreError> {
        let rows = self.ask(&format!("{NOW} SELECT newest, kept_from, standby FROM now"), &[]).await?;
        Ok(self.state(&rows)?.newest)
    }

    /// What changed of `keys` from `from` on.
    pub async fn changes(&self, keys: &Keys, from: Revision) -> Result<WatchBatch, StoreError> {
        let (start, end) = bounds(keys);
        // The last revision of a report is reported as a whole.
        let last = REPORT_CHANGES - 1;
        let query = format!(
            "{NOW}, listed AS (
                SELECT * FROM fencron.log WHERE revision >= $1 AND key >= $2 AND key < $3
                    AND revision <= coalesce((
                        SELECT revision FROM fencron.log WHERE revision >= $1 AND key >= $2 AND key < $3
                        ORDER BY revision, nth OFFSET {last} LIMIT 1
                    ), 9223372036854775807)
            )
            SELECT newest, kept_from, standby, key, value, created, revision, lease FROM now LEFT JOIN listed ON true
            ORDER BY revision, nth"
        );
        let params: Params<'_> =
            &[(&sql(from), Type::INT8), (&start.as_bytes(), Type::BYTEA), (&end.as_bytes(), Type::BYTEA)];
        let rows = self.ask(&query, params).await?;
        let state = self.state(&rows)?;
        if from < state.kept_from {
            return Ok(WatchBatch::Compacted(state.kept_from));
        }
        let changes: Result<Vec<Change>, Error> = rows.iter().filter_map(|row| change(row).transpose()).collect();
        let changes = self.understood(changes)?;
        let next = match changes.last() {
            Some(last) if changes.len() >= REPORT_CHANGES => last.revision().next(),
            _ => from.max(state.newest.next()),
        };
        Ok(WatchBatch::Changes(changes, next))
    }

    /// Asks one statement.
    pub async fn ask(&self, query: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let connected = self.link.connected().await?;
        let answer = timeout(ASK_WITHIN, connected.client.query_typed(query, params)).await;
        let answer = self.link.judge(&connected, answer).await.map_err(|error| error.not_applied(&self.link.place));
        if let Ok(rows) = &answer {
            self.leave_a_standby(&connected, rows).await?;
        }
        answer
    }

    /// Sends statements as one message, a transaction of their own.
    pub async fn do_all(&self, statements: &str) -> Result<(), StoreError> {
        let connected = self.link.connected().await?;
        let answer = timeout(ASK_WITHIN, connected.client.batch_execute(statements)).await;
        match self.link.judge(&connected, answer).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // A transaction that failed is open still: it must not meet the next message.
                self.link.give_up(&connected).await;
                Err(error.not_applied(&self.link.place))
            }
        }
    }

    /// Has the present connection listen to the channel, where it does not yet. What refuses that is done without.
    pub async fn listen(&self, channel: &str) -> Result<(), StoreError> {
        let connected = self.link.connected().await?;
        if connected.listens.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        match timeout(ASK_WITHIN, connected.client.batch_execute(&format!("LISTEN {channel}"))).await {
            Ok(Err(error)) if fault::is_an_answer(&error) => {
                tracing::debug!(%error, "it is looked for what others have committed");
                Ok(())
            }
            answer => {
                let answer = self.link.judge(&connected, answer).await;
                answer.map_err(|error| error.not_applied(&self.link.place))
            }
        }
    }

    /// A server may have become a standby while its connections stayed open: what it says may be old.
    async fn leave_a_standby(&self, connected: &Arc<Connected>, rows: &[Row]) -> Result<(), StoreError> {
        let is_standby = rows.first().is_some_and(|row| row.try_get("standby").unwrap_or(false));
        if is_standby {
            self.link.give_up(connected).await;
            return Err(self.link.place.unavailable("this server has become a standby: looking for the primary"));
        }
        Ok(())
    }

    fn state(&self, rows: &[Row]) -> Result<State, StoreError> {
        let Some(row) = rows.first() else { return Err(self.emptied()) };
        match (self.understood(revision(row, 0))?, self.understood(revision(row, 1))?) {
            (Some(newest), Some(kept_from)) => Ok(State { newest, kept_from }),
            _ => Err(self.emptied()),
        }
    }

    fn emptied(&self) -> StoreError {
        emptied(&self.link.place.name)
    }

    fn understood<T>(&self, answer: Result<T, Error>) -> Result<T, StoreError> {
        answer.map_err(|error| self.link.place.not_applied(&error))
    }
}

/// There always are one row of `meta`, and one of the log.
pub(super) fn emptied(store: &str) -> StoreError {
    StoreError::Unusable(format!(
        "{store}: a table of the schema `fencron` was emptied by hand: restore the tables from a backup, or drop the \
         schema to begin anew"
    ))
}

/// The values of a statement, with their types.
pub(super) type Params<'a> = &'a [(&'a (dyn tokio_postgres::types::ToSql + Sync), Type)];

struct State {
    newest: Revision,
    kept_from: Revision,
}

pub(super) fn revision(row: &Row, column: usize) -> Result<Option<Revision>, Error> {
    Ok(row.try_get::<_, Option<i64>>(column)?.map(|revision| Revision(revision.unsigned_abs())))
}

/// The entry in the columns from `first` on: key, value, created, modified, lease. `None` where they are null.
pub(super) fn entry(row: &Row, first: usize) -> Result<Option<Entry>, Error> {
    let (Some(key), Some(created)) = (row.try_get::<_, Option<&[u8]>>(first)?, revision(row, first + 2)?) else {
        return Ok(None);
    };
    Ok(Some(Entry {
        key: text(key),
        value: row.try_get(first + 1)?,
        created,
        modified: revision(row, first + 3)?.unwrap_or_default(),
        lease: row.try_get::<_, Option<i64>>(first + 4)?.and_then(lease_of),
    }))
}

fn change(row: &Row) -> Result<Option<Change>, Error> {
    let Some(key) = row.try_get::<_, Option<&[u8]>>(3)? else { return Ok(None) };
    Ok(Some(match row.try_get::<_, Option<&[u8]>>(4)? {
        None => Change::Deleted { key: text(key), revision: revision(row, 6)?.unwrap_or_default() },
        Some(value) => Change::Put(Entry {
            key: text(key),
            value: value.to_vec(),
            created: revision(row, 5)?.unwrap_or_default(),
            modified: revision(row, 6)?.unwrap_or_default(),
            lease: row.try_get::<_, Option<i64>>(7)?.and_then(lease_of),
        }),
    }))
}

/// Only texts are written.
pub(super) fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
