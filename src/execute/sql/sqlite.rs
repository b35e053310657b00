//! SQLite: a file, and a thread that may wait for it.

mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::ffi::{self, ErrorCode};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error, InterruptHandle, OpenFlags, ToSql};
use tokio::task::spawn_blocking;

use self::rules::Rules;
use super::driver::{Answer, CurrentStatement, Driver, Failure, Kind, Value, cut};
use crate::guard::sql::Dialect;
use crate::job::{Script, Target};

/// How long one try waits for a lock: SQLite cannot be interrupted while it does.
const BUSY_STEP: Duration = Duration::from_millis(250);
/// How often a statement is tried that finds the database locked.
const BUSY_TRIES: u32 = 240;
/// How many rows are named that refer to what is not there.
const BROKEN_SHOWN: usize = 5;

pub struct Sqlite {
    /// Not here while a thread has it.
    connection: Option<Connection>,
    interrupt: Arc<Interrupt>,
    in_transaction: bool,
    rules: Arc<Rules>,
    /// Foreign keys are not enforced on this connection, since the script wants them off for a while.
    without_keys: bool,
}

/// Ends the statement that runs, and the waiting for a lock, which SQLite itself would go on with.
pub struct Interrupt {
    handle: InterruptHandle,
    requested: AtomicBool,
}

impl Driver for Sqlite {
    type Canceller = Arc<Interrupt>;

    const DIALECT: Dialect = Dialect::Sqlite;
    /// Not to find later that another one writes: that could not be waited for.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const HIDES_COMMITS: bool = false;

    async fn connect(target: &Target) -> Result<Sqlite, Failure> {
        let Target::File(path) = target else { unreachable!("a SQLite database is a file") };
        let path = path.expose().to_owned();
        let opened = spawn_blocking(move || {
            let flags =
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let mut connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY_STEP)?;
            let rules = Rules::of(&mut connection)?;
            Ok((connection, rules))
        });
        let (connection, rules) = opened.await.map_err(|_| panicked())?.map_err(|error| failure(&error))?;
        let interrupt =
            Arc::new(Interrupt { handle: connection.get_interrupt_handle(), requested: AtomicBool::new(false) });
        Ok(Sqlite { connection: Some(connection), interrupt, in_transaction: false, rules, without_keys: false })
    }

    async fn ask(&mut self, text: &str, values: &[Value]) -> Result<Answer, Failure> {
        let (text, values) = (text.to_owned(), values.to_vec());
        let commits = text == "COMMIT";
        self.with(commits, Arc::new(move |connection: &Connection| ask(connection, &text, &values, |_| Ok(())))).await
    }

    /// Before the transaction: in it, SQLite would pass over that in silence. The connection is closed after the run.
    async fn enter(&mut self, script: &Script, in_transaction: bool) -> Result<(), Failure> {
        self.without_keys = in_transaction && script.switches_keys_off();
        if self.without_keys {
            self.ask("PRAGMA foreign_keys = OFF", &[]).await?;
        }
        Ok(())
    }

    /// The authorizer lets nothing end it.
    async fn mark(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn perform(&mut self, current: &CurrentStatement<'_>) -> Result<Answer, Failure> {
        let (text, values) = (current.statement.text.clone(), current.values.clone());
        let rules = Arc::clone(&self.rules);
        // Where the script has not switched them off, they are off all the same.
        let keys_missed = self.without_keys && !current.statement.without_keys;
        let in_transaction = current.in_transaction;
        let performing = move |connection: &Connection| {
            if in_transaction {
                rules.begin();
            }
            let parents = |connection: &Connection| match in_transaction && keys_missed {
                true => rules.refuse_parents(connection),
                false => Ok(()),
            };
            let answer = ask(connection, &text, &values, parents);
            rules.end();
            // A `PRAGMA busy_timeout` of the script would make it deaf.
            connection.busy_timeout(BUSY_STEP)?;
            answer
        };
        let answer = self.with(false, Arc::new(performing)).await;
        if let Some(why) = self.rules.refused() {
            return Err(Failure { at: None, ..Failure::never(why) });
        }
        let answer = answer?;
        match current.in_transaction && !self.in_transaction {
            true => Err(Failure::gone("this statement ended the transaction: write `transaction: false`")),
            false => Ok(answer),
        }
    }

    async fn confirm(&mut self) -> Result<(), Failure> {
        if !self.in_transaction {
            return Err(Failure::gone("the transaction is over, and it is unknown what ended it"));
        }
        if !self.without_keys {
            return Ok(());
        }
        let answer = self.ask("PRAGMA foreign_key_check", &[]).await?;
        if answer.row_count == 0 {
            return Ok(());
        }
        let of = |row: &Vec<Option<String>>| {
            let shown = |index: usize| row.get(index).cloned().flatten().unwrap_or_else(|| "?".to_owned());
            format!("row {} of {} refers to {}", shown(1), shown(0), shown(2))
        };
        let some: Vec<String> = answer.rows.iter().take(BROKEN_SHOWN).map(of).collect();
        Err(Failure::never(format!(
            "`PRAGMA foreign_key_check` finds {} that refer to what is not there ({}), so that nothing was committed: \
             foreign keys were off. Rows that were so before have to be put right too",
            if answer.row_count == 1 { "1 row".to_owned() } else { format!("{} rows", answer.row_count) },
            some.join(", ")
        )))
    }

    async fn is_open(&mut self) -> Result<bool, Failure> {
        Ok(self.in_transaction)
    }

    fn canceller(&self) -> Self::Canceller {
        Arc::clone(&self.interrupt)
    }

    async fn cancel(interrupt: &Self::Canceller) {
        interrupt.requested.store(true, Ordering::SeqCst);
        interrupt.handle.interrupt();
    }

    async fn close(self) {
        if let Some(connection) = self.connection {
            // Closing writes what is in the WAL to the file.
            spawn_blocking(move || drop(connection)).await.ok();
        }
    }
}

/// What a thread does with the connection; more than once, where the database is locked.
type Doing = Arc<dyn Fn(&Connection) -> rusqlite::Result<Answer> + Send + Sync>;

impl Sqlite {
    /// Has a thread do it, again and again for as long as the file is locked and nothing is lost by waiting.
    async fn with(&mut self, commits: bool, doing: Doing) -> Result<Answer, Failure> {
        let mut tries = 1;
        loop {
            let Some(connection) = self.connection.take() else { return Err(panicked()) };
            let doing = Arc::clone(&doing);
            let asked = spawn_blocking(move || {
                let outside = connection.is_autocommit() || commits;
                let answer = doing(&connection);
                (connection, answer, outside)
            });
            let (connection, answer, outside) = asked.await.map_err(|_| panicked())?;
            self.in_transaction = !connection.is_autocommit();
            self.connection = Some(connection);
            match answer {
                // Nothing is held that another one could wait for, or nothing is lost by waiting.
                Err(error) if outside && is_busy(&error) && tries < BUSY_TRIES && !self.is_asked() => tries += 1,
                other => return other.map_err(|error| failure(&error)),
            }
        }
    }

    fn is_asked(&self) -> bool {
        self.interrupt.requested.load(Ordering::SeqCst)
    }
}

fn panicked() -> Failure {
    Failure::lost("the thread that waits for SQLite is gone")
}

fn is_busy(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// Runs one statement, unless `check` says otherwise once it is prepared.
fn ask(
    connection: &Connection,
    text: &str,
    values: &[Value],
    check: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<Answer> {
    let changes = connection.total_changes();
    let mut statement = connection.prepare(text)?;
    check(connection)?;
    // What is not bound would be NULL without a word.
    if statement.parameter_count() != values.len() {
        return Err(Error::InvalidParameterCount(values.len(), statement.parameter_count()));
    }
    for (index, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    // A vector in older versions of rusqlite.
    let names = Vec::from_iter(statement.column_names());
    let columns: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let mut answer = Answer { columns, ..Answer::default() };
    let width = answer.columns.len();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let shown = (0..width).map(|index| row.get_ref(index).map(shown)).collect::<rusqlite::Result<Vec<_>>>()?;
        answer.push(|| shown);
    }
    answer.affected = connection.total_changes() - changes;
    Ok(answer)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Bool(value) => ValueRef::Integer(i64::from(*value)),
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Text(value) => ValueRef::Text(value.as_bytes()),
        }))
    }
}

fn shown(value: ValueRef) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) => Some(cut(String::from_utf8_lossy(text).into_owned())),
        ValueRef::Blob(bytes) => Some(format!("({} bytes)", bytes.len())),
    }
}

fn failure(error: &Error) -> Failure {
    let Some(found) = error.sqlite_error() else { return Failure::never(error.to_string()) };
    let (message, at) = match error {
        Error::SqlInputError { msg, offset, .. } => (msg.clone(), usize::try_from(*offset).ok()),
        Error::SqliteFailure(_, Some(message)) => (message.clone(), None),
        other => (other.to_string(), None),
    };
    let kind = match found.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Kind::Conflict,
        ErrorCode::ConstraintViolation => match found.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => Kind::Duplicate,
            _ => Kind::Later,
        },
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Kind::NoRight,
        ErrorCode::Unknown if message.contains("no such table: ") => Kind::NoTable,
        ErrorCode::Unknown if message.contains("within a transaction") => Kind::NotInTransaction,
        ErrorCode::Unknown | ErrorCode::NotADatabase | ErrorCode::AuthorizationForStatementDenied => Kind::Never,
        _ => Kind::Later,
    };
    Failure { kind, message, code: format!("SQLite error {}", found.extended_code), at }
}
