//! What a statement of SQLite is, in SQLite's own words: while it prepares a statement, its authorizer receives each
//! action in it.
//!
//! A script is asked about when it is read, of a database in memory that has no tables and runs nothing; that shows
//! what the script may not contain. When it runs, the same rules hold in the true database ([`refusal`]).

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};

use super::transaction::not_for_the_script;
use super::{Fault, Meaning, Statement};

/// What takes effect outside of transactions only, by <https://sqlite.org/pragma.html> and by trying: in one, SQLite
/// passes over it in silence, or fails.
const OUTSIDE_ONLY: [&str; 3] = ["journal_mode", "synchronous", "wal_checkpoint"];
/// What changes a database that has tables by a VACUUM only, for which there is no room in a transaction.
const BY_VACUUM_ONLY: [&str; 3] = ["auto_vacuum", "encoding", "page_size"];
/// What holds what was let in and what was applied: the script's own occurrence among it.
const GUARDS: [&str; 2] = ["fencron_guard", "fencron_done"];
/// The triggers that the guard's own script makes on them.
const GUARD_TRIGGERS: [&str; 3] = ["fencron_guard_stale", "fencron_guard_too_far", "fencron_guard_too_far_at_first"];
/// What is set for the whole process, in which the node and its own store live.
const OF_THE_PROCESS: [&str; 4] =
    ["data_store_directory", "hard_heap_limit", "soft_heap_limit", "temp_store_directory"];

/// Why this may not be done in a transaction that others began; `None`: it may.
pub fn refusal(action: &AuthAction) -> Option<String> {
    let loose = "write `transaction: false` (the job cannot be `exactly_once` then)";
    match action {
        AuthAction::Transaction { operation } => Some(not_for_the_script(match operation {
            TransactionOperation::Begin => "BEGIN",
            TransactionOperation::Rollback => "ROLLBACK",
            _ => "COMMIT",
        })),
        AuthAction::Attach { .. } => {
            Some(format!("`ATTACH` cannot be part of a transaction that has to be whole in every file: {loose}"))
        }
        AuthAction::Detach { .. } => Some(format!("`DETACH` cannot be part of a transaction: {loose}")),
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::CreateTempTrigger { table_name, .. }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::CreateTempIndex { table_name, .. }
            if GUARDS.iter().any(|guard| guard.eq_ignore_ascii_case(table_name)) && !is_of_the_guard(action) =>
        {
            Some(format!(
                "`{table_name}` records which fences were let in and what was applied, this script among it, so that the \
                 script must not write to it, nor change what a write to it does: remove this statement, or {loose}"
            ))
        }
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let name = pragma_name.to_ascii_lowercase();
            let of = |names: &[&str]| names.contains(&name.as_str());
            if pragma_value.is_none() && name != "wal_checkpoint" {
                return None;
            }
            let why = if of(&OUTSIDE_ONLY) {
                "has no effect in a transaction"
            } else if of(&BY_VACUUM_ONLY) {
                "takes effect by `VACUUM` only, which cannot be part of a transaction"
            } else if of(&OF_THE_PROCESS) {
                return Some(format!("`PRAGMA {name}` is for the whole process, and this is fencron's: remove it"));
            } else if name == "writable_schema" {
                "lets a script write to SQLite's own tables, those of the guard among them"
            } else {
                return None;
            };
            Some(format!("`PRAGMA {name}` {why}: remove it, or {loose}"))
        }
        _ => None,
    }
}

/// Whether the action is part of making the guard's tables, as the script of `fencron guard sql` does.
fn is_of_the_guard(action: &AuthAction) -> bool {
    match action {
        AuthAction::CreateTrigger { trigger_name, .. } => GUARD_TRIGGERS.contains(trigger_name),
        // Those of its primary keys.
        AuthAction::CreateIndex { index_name, .. } => index_name.starts_with("sqlite_autoindex_"),
        _ => false,
    }
}

/// Asks SQLite what each of these is.
pub(super) fn judge(statements: &mut [Statement]) -> Result<(), Fault> {
    let mut without_keys = false;
    for statement in statements {
        let asked = SCRATCH.with(|scratch| match scratch {
            Ok(scratch) => scratch.meaning(&statement.text),
            Err(error) => Err(error.clone()),
        });
        statement.meaning = asked.map_err(|error| Fault {
            place: statement.place,
            message: format!("SQLite cannot be asked what this is: {error}"),
        })?;
        if let Meaning::Keys(on) = statement.meaning {
            without_keys = !on;
        }
        statement.without_keys = without_keys;
    }
    Ok(())
}

thread_local! {
    /// Opening one takes longer than asking it about all of a script.
    static SCRATCH: Result<Scratch, String> = Scratch::open().map_err(|error| error.to_string());
}

/// A database in memory that is only asked.
struct Scratch {
    connection: Connection,
    refused: Arc<Mutex<Option<String>>>,
}

impl Scratch {
    fn open() -> rusqlite::Result<Scratch> {
        let mut connection = Connection::open_in_memory()?;
        let refused = Arc::new(Mutex::new(None));
        let found = Arc::clone(&refused);
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(why) = refusal(&context.action) {
                found.get_or_insert(why);
            }
            // SQLite carries out most pragmas while it prepares them.
            match context.action {
                AuthAction::Pragma { pragma_name, .. } if pragma_name.eq_ignore_ascii_case("foreign_keys") => {
                    Authorization::Allow
                }
                AuthAction::Pragma { .. } | AuthAction::Attach { .. } | AuthAction::Transaction { .. } => {
                    Authorization::Deny
                }
                _ => Authorization::Allow,
            }
        }))?;
        Ok(Scratch { connection, refused })
    }

    fn meaning(&self, text: &str) -> Result<Meaning, String> {
        let keys_after = |before: bool| {
            self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, before)?;
            // Of most statements it says that a table is not there.
            self.connection.prepare(text).ok();
            self.connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)
        };
        self.refused().take();
        let after = [true, false].map(keys_after);
        if let Some(why) = self.refused().take() {
            return Ok(Meaning::Refused(why));
        }
        match after {
            [Ok(true), Ok(true)] => Ok(Meaning::Keys(true)),
            [Ok(false), Ok(false)] => Ok(Meaning::Keys(false)),
            [Ok(_), Ok(_)] => Ok(Meaning::Plain),
            [Err(error), _] | [_, Err(error)] => Err(error.to_string()),
        }
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
