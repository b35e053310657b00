//! A script of SQL as its statements, each with its place, and the names in them that are filled in.
//!
//! A statement ends where the database's own client would end it ([`reader`]), and the database is asked whether it
//! agrees. What a statement does is judged by its first words ([`transaction`]), in SQLite by SQLite ([`sqlite`]). That
//! is advice to the author of the script; the database decides when it runs.

mod lexer;
mod reader;
#[cfg(feature = "cli")]
pub mod sqlite;
mod transaction;

use super::Database;
pub use lexer::Quoting;
use reader::Reader;
#[cfg(feature = "cli")]
use sqlite::judge;

/// The longest script, in bytes.
pub const MAX_SCRIPT_BYTES: usize = 1 << 20;
/// The most statements of a script.
pub const MAX_STATEMENTS: usize = 10_000;
/// The names that every script may use: what the stamp says.
pub const STAMP_NAMES: [&str; 10] = {
    let [run_id, job, verdict, reason, exit_code] = crate::fence::AFTER_NAMES;
    ["fence", "scope", "run_id", "scheduled_at", "attempt", run_id, job, verdict, reason, exit_code]
};

/// The statements of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The file that they came from; `None`: they stand in the configuration.
    pub file: Option<String>,
    pub statements: Vec<Statement>,
    kind: Database,
    /// What they were read from.
    source: String,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What the database is sent: placeholders of its own in the place of names, each as long as the name where that
    /// is possible, so that a place in it is the same place in the script.
    pub text: String,
    /// What the placeholders stand for, in their order.
    pub names: Vec<Name>,
    pub place: Place,
    /// Its first words, in upper case, without comments.
    words: Vec<String>,
    /// What SQLite says of it; elsewhere nothing.
    meaning: Meaning,
    /// The script has switched foreign keys off before it, and not on again (SQLite).
    pub without_keys: bool,
}

/// What SQLite says of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "SQLite itself says the others"))]
enum Meaning {
    /// It may be part of a transaction that others began.
    Plain,
    /// It switches on, or off, that foreign keys are enforced: SQLite does that outside of transactions only.
    Keys(bool),
    /// It may not, for this reason.
    Refused(String),
}

/// A name in a statement, without its colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub name: String,
    pub place: Place,
}

/// A place in a script: both from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// The place of the byte `at` of `text`.
    pub fn of(text: &str, at: usize) -> Place {
        let before = &text[..text.floor_char_boundary(at.min(text.len()))];
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        Place { line: before.matches('\n').count() + 1, column: before[start..].chars().count() + 1 }
    }

    /// This place, counted on from `start`: that of the byte `at` of a statement, in the script that it is from.
    #[must_use]
    pub fn within(text: &str, at: usize, start: Place) -> Place {
        let inner = Place::of(text, at);
        let column = if inner.line == 1 { start.column + inner.column - 1 } else { inner.column };
        Place { line: start.line + inner.line - 1, column }
    }
}

/// What is wrong with a script, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub message: String,
}

impl Script {
    /// Takes `text` apart, as the database would.
    ///
    /// ```
    /// use fencron::job::{Database, Script};
    /// let script = Script::read("INSERT INTO t VALUES (:fence, ':no'); -- ;\nDELETE FROM u", Database::Postgres).unwrap();
    /// let texts: Vec<&str> = script.statements.iter().map(|statement| statement.text.as_str()).collect();
    /// assert_eq!(texts, ["INSERT INTO t VALUES ($1    , ':no')", "DELETE FROM u"]);
    /// assert_eq!(script.statements[1].place.line, 2);
    /// ```
    ///
    /// # Errors
    ///
    /// The first thing that keeps it from being taken apart: a quote without an end, a placeholder that is not a
    /// name, more than fits the bounds.
    pub fn read(text: &str, kind: Database) -> Result<Script, Fault> {
        if let Some(at) = text.find('\0') {
            // What comes behind it, a database would pass over without a word.
            let message = "there is a NUL byte here: no database takes one in a statement".to_owned();
            return Err(Fault { place: Place::of(text, at), message });
        }
        if text.len() > MAX_SCRIPT_BYTES {
            let message = format!("the script has more than {MAX_SCRIPT_BYTES} bytes: make several jobs of it");
            return Err(Fault { place: Place { line: 1, column: 1 }, message });
        }
        let mut statements = Reader::new(kind, Quoting::usual(kind), text).statements()?;
        if kind == Database::Sqlite {
            judge(&mut statements)?;
        }
        Ok(Script { file: None, statements, kind, source: text.to_owned() })
    }

    /// The same statements, as those of the file `name`.
    #[must_use]
    pub fn of_file(self, name: &str) -> Script {
        Script { file: Some(name.to_owned()), ..self }
    }

    /// A place as messages name it.
    pub fn at(&self, place: Place) -> String {
        match &self.file {
            Some(file) => format!("{file}:{}:{}", place.line, place.column),
            None => format!("line {}, column {} of the statement", place.line, place.column),
        }
    }

    /// The first statement that is another one where quotes are read so; `None`: they are all the same.
    pub fn differs(&self, quoting: Quoting) -> Option<Place> {
        let mut others = Vec::new();
        let fault = Reader::new(self.kind, quoting, &self.source).read_into(&mut others).err();
        let mut pairs = self.statements.iter().zip(&others);
        let differing = pairs.find(|(ours, other)| ours.text != other.text || ours.place != other.place);
        let one_more = || self.statements.get(others.len()).or_else(|| others.get(self.statements.len()));
        let differing = differing.map(|(ours, _)| ours).or_else(one_more);
        differing.map(|statement| statement.place).or_else(|| fault.map(|fault| fault.place))
    }

    /// Whether it wants foreign keys not to be enforced for a while (SQLite).
    pub fn switches_keys_off(&self) -> bool {
        self.statements.iter().any(|statement| statement.meaning == Meaning::Keys(false))
    }
}

#[cfg(not(feature = "cli"))]
fn judge(statements: &mut [Statement]) -> Result<(), Fault> {
    let place = statements.first().map_or(Place { line: 1, column: 1 }, |statement| statement.place);
    let message = "this program was built without fencron's feature `cli`, which runs the statements of jobs";
    Err(Fault { place, message: message.to_owned() })
}

#[cfg(test)]
mod tests;
