//! The operations of every database: one statement at a time, its values bound, its answer bounded.

use std::future::Future;
use std::time::Duration;

use crate::guard::sql::Dialect;
use crate::job::{Quoting, Script, Statement, Target};

/// How long making a connection may take, logging in included.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a server is to keep a session whose client says nothing: a node that is stopped in the middle of its
/// transaction holds up its successor no longer than this. In what unit depends on the server; whole seconds.
pub const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// How many rows of an answer are kept to be shown.
pub const ROWS_SHOWN: usize = 20;
/// How many bytes of one value are shown.
pub const VALUE_SHOWN: usize = 200;

/// A value to bind.
#[derive(Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(String),
}

/// What came back for a statement.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub columns: Vec<String>,
    /// The first [`ROWS_SHOWN`] rows; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// How many rows there were.
    pub row_count: u64,
    /// How many rows were changed.
    pub affected: u64,
}

impl Answer {
    /// Takes one row of the answer.
    pub fn push(&mut self, row: impl FnOnce() -> Vec<Option<String>>) {
        if self.rows.len() < ROWS_SHOWN {
            self.rows.push(row());
        }
        self.row_count += 1;
    }
}

/// `text` cut to what is shown of one value.
pub fn cut(mut text: String) -> String {
    if text.len() > VALUE_SHOWN {
        text.truncate(text.floor_char_boundary(VALUE_SHOWN));
        text.push('…');
    }
    text
}

/// Why there is no answer, or another one than was hoped for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    /// What the database says.
    pub message: String,
    /// SQLSTATE, or the database's own number or name for it; empty where there is none.
    pub code: String,
    /// The byte of the statement that it is about.
    pub at: Option<usize>,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The connection is gone: the statement may have had its effect or not.
    Lost,
    /// It lost against another transaction, and may win when the whole transaction is repeated.
    Conflict,
    /// A table that it names is not there.
    NoTable,
    /// The user may not do this.
    NoRight,
    /// It cannot be part of a transaction.
    NotInTransaction,
    /// It is a row that is there already.
    Duplicate,
    /// It would fail again.
    Never,
    /// The transaction that was begun is not open any more, although fencron has not ended it: what was done in it may
    /// be committed.
    Gone,
    /// It may go well at another time.
    Later,
}

impl Failure {
    pub fn lost(why: impl Into<String>) -> Failure {
        Failure { kind: Kind::Lost, message: why.into(), code: String::new(), at: None }
    }

    pub fn never(why: impl Into<String>) -> Failure {
        Failure { kind: Kind::Never, message: why.into(), code: String::new(), at: None }
    }

    pub fn gone(why: impl Into<String>) -> Failure {
        Failure { kind: Kind::Gone, ..Failure::never(why) }
    }

    /// What the database says, with its code.
    pub fn shown(&self) -> String {
        if self.code.is_empty() { self.message.clone() } else { format!("{} ({})", self.message, self.code) }
    }
}

/// The statement of a script that is performed now.
pub struct CurrentStatement<'a> {
    pub script: &'a Script,
    pub statement: &'a Statement,
    pub next: Option<&'a Statement>,
    pub values: Vec<Value>,
    pub in_transaction: bool,
}

/// Fails where quotes are read as in `now`, by the session's setting `setting`, and the script is another one then.
pub fn check_quoting(script: &Script, now: Quoting, setting: &str) -> Result<(), Failure> {
    let Some(place) = script.differs(now) else { return Ok(()) };
    Err(Failure::never(format!(
        "with {setting} the server would read the script otherwise than it was read, from {} on: write the quotes and \
         backslashes there so that they mean the same with and without it, or change the setting",
        script.at(place)
    )))
}

/// A connection to a database. When it is dropped, what it did not commit is undone.
pub trait Driver: Sized + Send {
    /// Stops what its connection is doing.
    type Canceller: Clone + Send + Sync;

    const DIALECT: Dialect;
    /// Begins a transaction that is to write.
    const BEGIN: &'static str;
    /// A statement may end the transaction and not look like it, since what it calls does.
    const HIDES_COMMITS: bool;

    fn connect(target: &Target) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// Runs one statement, with `values` for its placeholders in their order.
    fn ask(&mut self, text: &str, values: &[Value]) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// Makes the session ready for `script`, before the transaction begins that it runs in, if it runs in one.
    fn enter(&mut self, script: &Script, in_transaction: bool) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Remembers which transaction this is: the one in which the guard's rows were written.
    fn mark(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Runs a statement of the script, after which the session's bounds are what they were. In a transaction it fails
    /// with [`Kind::Gone`] where the one that was marked is seen to be over.
    fn perform(&mut self, current: &CurrentStatement<'_>) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// Whether the transaction is still the one that was marked, and may be committed; asks for what is not known.
    fn confirm(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Asks whether a transaction is open.
    fn is_open(&mut self) -> impl Future<Output = Result<bool, Failure>> + Send;

    fn canceller(&self) -> Self::Canceller;

    /// Requests the stop of the statement that runs now. Only its answer says whether it was stopped.
    fn cancel(canceller: &Self::Canceller) -> impl Future<Output = ()> + Send;

    /// Says goodbye.
    fn close(self) -> impl Future<Output = ()> + Send;
}
