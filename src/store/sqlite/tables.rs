//! The tables of a store, and whose boot its leases belong to.

use std::path::Path;

use rusqlite::Connection;

use super::file::{File, Kind};
use crate::store::{StoreError, boot};

/// `fenc` stands in the header.
pub(super) const KIND: Kind =
    Kind { application_id: 0x6665_6e63, schema_version: 1, schema: SCHEMA, with_directory: true };

/// The tables. `log` keeps what each change made of a key (`value` is null: deleted) and what the key was before it.
const SCHEMA: &str = "
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        revision INTEGER NOT NULL,
        kept_from INTEGER NOT NULL,
        boot TEXT NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        key TEXT PRIMARY KEY, value BLOB NOT NULL,
        created INTEGER NOT NULL, modified INTEGER NOT NULL, lease INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE leases (
        nth INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE, ttl INTEGER NOT NULL, deadline INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX leases_by_deadline ON leases (deadline);
    CREATE TABLE log (
        revision INTEGER NOT NULL, nth INTEGER NOT NULL, key TEXT NOT NULL,
        value BLOB, created INTEGER, lease INTEGER,
        old_value BLOB, old_created INTEGER, old_modified INTEGER, old_lease INTEGER,
        PRIMARY KEY (revision, nth)
    ) STRICT, WITHOUT ROWID;
";

/// Opens the file as a store's, and ends what another boot left: a lease cannot outlive its machine's boot. Answers whose
/// boot clock the leases are measured by, too.
pub(super) fn open(path: &Path) -> Result<(File, Connection, String), StoreError> {
    let boot = boot::identity()?;
    let (file, connection) = File::open(path, &KIND, |connection, ours| begin(connection, ours, &boot))?;
    Ok((file, connection, boot))
}

/// The next transaction finds the leases of another boot due, and ends them with their keys. The history goes as well:
/// no watcher of it is left.
fn begin(connection: &Connection, ours: bool, boot: &str) -> rusqlite::Result<()> {
    if !ours {
        connection.execute("INSERT INTO meta VALUES (1, 1, 0, ?1)", [boot])?;
    }
    let of: String = connection.query_row("SELECT boot FROM meta", [], |row| row.get(0))?;
    if of != boot {
        connection.execute_batch("UPDATE leases SET deadline = 0; DELETE FROM log;")?;
        connection.execute("UPDATE meta SET boot = ?1, kept_from = revision", [boot])?;
    }
    Ok(())
}
