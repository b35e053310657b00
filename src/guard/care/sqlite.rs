//! What guards have seen, in a file of SQLite: in a guard's own, or in that of any application.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use super::{SHOWN_MOST, SeenScope, Table};
use crate::guard::StateError;
use crate::guard::state::sqlite::{KIND, cannot_use};
use crate::store::StoreError;
use crate::store::sqlite::file::File;

/// The first in a file whose header says that it is a guard's, the second in a file of any application.
const SQLITE: [Table; 2] = [
    Table {
        of_guards: true,
        is_there: "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'scopes'",
        select: "SELECT name, fence FROM scopes ORDER BY name LIMIT ?1",
        delete: "DELETE FROM scopes WHERE name = ?1",
        insert: "INSERT INTO scopes VALUES (?1, ?2)",
    },
    Table {
        of_guards: false,
        is_there: "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'fencron_guard'",
        select: "SELECT scope, fence FROM fencron_guard ORDER BY scope LIMIT ?1",
        delete: "DELETE FROM fencron_guard WHERE scope = ?1",
        insert: "INSERT INTO fencron_guard (scope, fence) VALUES (?1, ?2)",
    },
];

/// A file that is there, a guard's or one of an application that asks the table of transactions.
pub(super) struct SqliteFile {
    path: PathBuf,
    file: File,
    connection: Connection,
}

impl SqliteFile {
    /// Opens the file and makes none: where nothing is there, no guard has kept anything.
    pub fn open(path: &Path) -> Result<SqliteFile, StateError> {
        let (file, connection) = File::open_existing(path).map_err(|error| cannot_use(path, error))?;
        Ok(SqliteFile { path: path.to_owned(), file, connection })
    }

    pub fn scopes(mut self) -> Result<Vec<SeenScope>, StateError> {
        let path = self.path.clone();
        let scopes = self.within(TransactionBehavior::Deferred, |tables, connection| {
            if tables.is_empty() {
                return Ok(None);
            }
            let mut all = Vec::new();
            for table in tables {
                let mut statement = connection.prepare(table.select)?;
                let rows = statement.query_map([SHOWN_MOST as i64], |row| Ok(table.seen(row.get(0)?, row.get(1)?)))?;
                all.extend(rows.collect::<Result<Vec<_>, _>>()?);
            }
            Ok(Some(all))
        })?;
        let why = "it has no table of fencron's: no guard has kept anything in it. Is this the file?";
        scopes.ok_or_else(|| cannot_use(&path, StoreError::Unusable(why.to_owned())))
    }

    pub fn reset(mut self, seen: &SeenScope, to: Option<i64>) -> Result<bool, StateError> {
        self.within(TransactionBehavior::Immediate, |tables, connection| {
            let Some(table) = tables.iter().find(|table| table.has(seen)) else { return Ok(false) };
            let name = table.name_of(seen);
            let delete = format!("{} AND fence = ?2", table.delete);
            if connection.execute(&delete, rusqlite::params![name, seen.fence.cast_signed()])? == 0 {
                return Ok(false);
            }
            if let Some(to) = to {
                connection.execute(table.insert, rusqlite::params![name, to])?;
            }
            Ok(true)
        })
    }

    /// Does `work` in a transaction, with the tables of fencron's that the file has. Another application's table that
    /// has one of their names is none of them.
    fn within<T>(
        &mut self,
        behavior: TransactionBehavior,
        work: impl FnOnce(&[&Table], &Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        let SqliteFile { path, file, connection } = self;
        let done = (|| {
            let explain = |error: rusqlite::Error| file.explain(&error);
            let transaction = connection.transaction_with_behavior(behavior).map_err(explain)?;
            let is_of_a_guard = KIND.is_in(file, &transaction)?;
            let mut tables = Vec::new();
            for table in SQLITE.iter().filter(|table| is_of_a_guard || !table.of_guards) {
                if transaction.query_row(table.is_there, [], |row| row.get::<_, i64>(0)).map_err(explain)? > 0 {
                    tables.push(table);
                }
            }
            let done = work(&tables, &transaction).map_err(explain)?;
            transaction.commit().map_err(|error| file.explain_commit(&error))?;
            Ok::<T, StoreError>(done)
        })();
        done.map_err(|error| cannot_use(path, error))
    }
}
