//! SQLite: a file, and a thread that may wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::ffi::{self, ErrorCode};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error, InterruptHandle, OpenFlags, ToSql};
use tokio::task::spawn_blocking;

use super::driver::{Answer, Driver, Failure, Kind, Value, cut};
use crate::guard::sql::Dialect;
use crate::job::Target;

/// How long one try waits for a lock: SQLite cannot be interrupted while it does.
const BUSY_STEP: Duration = Duration::from_millis(250);
/// How often a statement is tried that finds the database locked.
const BUSY_TRIES: u32 = 240;

pub struct Sqlite {
    /// Not here while a thread has it.
    connection: Option<Connection>,
    interrupt: Arc<Interrupt>,
    in_transaction: bool,
}

/// Ends the statement that runs, and the waiting for a lock, which SQLite itself would go on with.
pub struct Interrupt {
    handle: InterruptHandle,
    told: AtomicBool,
}

impl Driver for Sqlite {
    type Canceller = Arc<Interrupt>;

    const DIALECT: Dialect = Dialect::Sqlite;
    /// Not to find later that another one writes: that could not be waited for.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    async fn connect(target: &Target) -> Result<Sqlite, Failure> {
        let Target::File(path) = target else { unreachable!("a SQLite database is a file") };
        let path = path.expose().to_owned();
        let opened = spawn_blocking(move || {
            let flags =
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY_STEP)?;
            Ok(connection)
        });
        let connection = opened.await.map_err(|_| panicked())?.map_err(|error| failure(&error))?;
        let interrupt = Arc::new(Interrupt { handle: connection.get_interrupt_handle(), told: AtomicBool::new(false) });
        Ok(Sqlite { connection: Some(connection), interrupt, in_transaction: false })
    }

    async fn ask(&mut self, text: &str, values: &[Value]) -> Result<Answer, Failure> {
        let mut tries = 1;
        loop {
            let Some(connection) = self.connection.take() else { return Err(panicked()) };
            let (text, values) = (text.to_owned(), values.to_vec());
            let asked = spawn_blocking(move || {
                let outside = connection.is_autocommit() || text == "COMMIT";
                let answer = ask(&connection, &text, &values);
                (connection, answer, outside)
            });
            let (connection, answer, outside) = asked.await.map_err(|_| panicked())?;
            self.in_transaction = !connection.is_autocommit();
            self.connection = Some(connection);
            match answer {
                // Nothing is held that another one could wait for, or nothing is lost by waiting.
                Err(error) if outside && is_busy(&error) && tries < BUSY_TRIES && !self.is_told() => tries += 1,
                other => return other.map_err(|error| failure(&error)),
            }
        }
    }

    fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    fn canceller(&self) -> Self::Canceller {
        Arc::clone(&self.interrupt)
    }

    async fn cancel(interrupt: &Self::Canceller) {
        interrupt.told.store(true, Ordering::SeqCst);
        interrupt.handle.interrupt();
    }

    async fn close(self) {
        if let Some(connection) = self.connection {
            // Closing writes what is in the WAL to the file.
            spawn_blocking(move || drop(connection)).await.ok();
        }
    }
}

impl Sqlite {
    fn is_told(&self) -> bool {
        self.interrupt.told.load(Ordering::SeqCst)
    }
}

fn panicked() -> Failure {
    Failure::lost("the thread that waits for SQLite is gone")
}

fn is_busy(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

fn ask(connection: &Connection, text: &str, values: &[Value]) -> rusqlite::Result<Answer> {
    let changes = connection.total_changes();
    let mut statement = connection.prepare(text)?;
    // What is not bound would be NULL without a word.
    if statement.parameter_count() != values.len() {
        return Err(Error::InvalidParameterCount(values.len(), statement.parameter_count()));
    }
    for (index, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
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
