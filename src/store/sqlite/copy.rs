//! A copy of the file as of one moment, which is checked: what a backup is made of.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::file::File;
use super::tables::KIND;
use crate::store::{Keys, Revision, StoreError};

/// A copy that was made and read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub revision: Revision,
    /// How many there are of each of the keys that were asked about.
    pub keys: Vec<u64>,
}

/// `VACUUM INTO` reads in one transaction, which keeps no writer waiting and never starts over, however much is written;
/// and what it writes is one file, without a log beside it.
pub(super) fn copy(file: &File, to: &Path, keys: &[Keys]) -> Result<Copied, StoreError> {
    let failed = |why: String| {
        StoreError::Unusable(format!("{} could not be copied to {}: {why}", file.path().display(), to.display()))
    };
    let path = to.to_str().ok_or_else(|| failed("its path is no text".to_owned()))?;
    let from = file.connect()?;
    from.execute("VACUUM INTO ?1", [path]).map_err(|error| failed(error.to_string()))?;
    check(to, keys).map_err(|error| failed(error.to_string()))?.map_err(failed)
}

/// Reads the copy; the inner error says what is wrong with it.
fn check(copy: &Path, keys: &[Keys]) -> rusqlite::Result<Result<Copied, String>> {
    let connection =
        Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let found: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if found != "ok" {
        return Ok(Err(format!("the copy is damaged, and so is the store it is of: {found}")));
    }
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if application != KIND.application_id {
        return Ok(Err("the copy is not recognized as a store".to_owned()));
    }
    let revision: i64 = connection.query_row("SELECT revision FROM meta", [], |row| row.get(0))?;
    let count = |keys: &Keys| -> rusqlite::Result<u64> {
        let (start, end) = match keys {
            Keys::One(key) => (key.clone(), format!("{key}\0")),
            Keys::Range { start, end } => (start.clone(), end.clone()),
        };
        let sql = "SELECT count(*) FROM entries WHERE key >= ?1 AND key < ?2";
        connection.query_row(sql, [start, end], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    };
    let keys = keys.iter().map(count).collect::<rusqlite::Result<_>>()?;
    Ok(Ok(Copied { revision: Revision(revision.unsigned_abs()), keys }))
}
