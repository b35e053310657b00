//! What a statement of the script may do in the transaction that it is part of: SQLite reports each action of it while
//! it prepares it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::ffi;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, Error};

use crate::job::sqlite::refusal;

/// What SQLite has reported of the statement that is being prepared.
#[derive(Default)]
struct Observed {
    /// Otherwise the statement is not the script's.
    watched: bool,
    refused: Option<String>,
    /// The tables whose rows it changes.
    changed: BTreeSet<String>,
}

pub struct Rules(Mutex<Observed>);

impl Rules {
    /// Applies them to `connection`.
    pub fn of(connection: &mut Connection) -> rusqlite::Result<Arc<Rules>> {
        let rules = Arc::new(Rules(Mutex::default()));
        let asked = Arc::clone(&rules);
        connection.authorizer(Some(move |context: AuthContext<'_>| asked.judge(&context.action)))?;
        Ok(rules)
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, action: &AuthAction) -> Authorization {
        let mut observed = self.observed();
        if !observed.watched {
            return Authorization::Allow;
        }
        if let Some(why) = refusal(action) {
            observed.refused.get_or_insert(why);
            return Authorization::Deny;
        }
        if let AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } = action
            && !table_name.starts_with("sqlite_")
        {
            observed.changed.insert((*table_name).to_owned());
        }
        Authorization::Allow
    }

    /// What is prepared from now on is the script's, and part of the transaction.
    pub fn begin(&self) {
        *self.observed() = Observed { watched: true, ..Observed::default() };
    }

    pub fn end(&self) {
        self.observed().watched = false;
    }

    /// Why the last statement was not run, if it was them.
    pub fn refused(&self) -> Option<String> {
        self.observed().refused.take()
    }

    /// Refuses the statement that was prepared if it changes rows that others refer to: without foreign keys, it would
    /// leave those as they are.
    pub fn refuse_parents(&self, connection: &Connection) -> rusqlite::Result<()> {
        let changed = {
            let mut observed = self.observed();
            observed.watched = false;
            std::mem::take(&mut observed.changed)
        };
        let mut refers = connection.prepare(
            "SELECT 1 FROM sqlite_schema AS child, pragma_foreign_key_list(child.name) AS key \
             WHERE child.type = 'table' AND key.\"table\" = ?1 COLLATE NOCASE",
        )?;
        for table in changed {
            if refers.exists([&table])? {
                let why = format!(
                    "others refer to the rows of {table}, and foreign keys are off here too: the script switches them \
                     off, which SQLite does for the whole transaction. Put this statement between `PRAGMA foreign_keys \
                     = OFF` and `PRAGMA foreign_keys = ON`, or into a script of its own"
                );
                self.observed().refused = Some(why.clone());
                return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_AUTH), Some(why)));
            }
        }
        self.observed().watched = true;
        Ok(())
    }
}
