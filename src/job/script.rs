//! A script of SQL as its statements, each with its place, and the names in them that are filled in.
//!
//! What is looked at is what tells where a statement ends and where a name stands for a value: quotes, comments,
//! PostgreSQL's dollar quotes, the bodies of SQLite's triggers, MySQL's `DELIMITER`. All else is the database's matter.

mod lexer;

use super::Database;
use lexer::{Lexer, Token};

/// The longest script, in bytes.
pub const MAX_SCRIPT_BYTES: usize = 1 << 20;
/// The most statements of a script.
pub const MAX_STATEMENTS: usize = 10_000;
/// How many of a statement's first words are looked at to know what it does.
const WORDS: usize = 12;

/// The names that every script may use: what the stamp says.
pub const STAMP_NAMES: [&str; 5] = ["fence", "scope", "run_id", "scheduled_at", "attempt"];

/// The statements of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The file that they came from; `None`: they stand in the configuration.
    pub file: Option<String>,
    pub statements: Vec<Statement>,
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
        if text.len() > MAX_SCRIPT_BYTES {
            let message = format!("the script has more than {MAX_SCRIPT_BYTES} bytes: make several jobs of it");
            return Err(Fault { place: Place { line: 1, column: 1 }, message });
        }
        Reader {
            kind,
            text,
            lexer: Lexer::new(kind, text),
            delimiter: None,
            counted: (0, Place { line: 1, column: 1 }),
        }
        .script()
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
}

/// A statement while it is read.
#[derive(Default)]
struct Open {
    /// The bytes of the script that it is made of.
    start: Option<usize>,
    end: usize,
    words: Vec<String>,
    names: Vec<(usize, usize)>,
    /// How deep `BEGIN … END` is nested, where that may hold statements.
    depth: usize,
    /// Of a trigger's end: a `;`, then `END`.
    semicolon: bool,
    ended: bool,
    begun: bool,
}

struct Reader<'t> {
    kind: Database,
    text: &'t str,
    lexer: Lexer<'t>,
    /// What ends a statement in the place of `;`.
    delimiter: Option<&'t str>,
    /// How far lines were counted, and what was found.
    counted: (usize, Place),
}

impl Reader<'_> {
    fn script(mut self) -> Result<Script, Fault> {
        let mut statements = Vec::new();
        loop {
            let (statement, more) = self.statement()?;
            statements.extend(statement);
            if statements.len() > MAX_STATEMENTS {
                return Err(self.fault(0, format!("the script has more than {MAX_STATEMENTS} statements")));
            }
            if !more {
                return Ok(Script { file: None, statements });
            }
        }
    }

    fn fault(&self, at: usize, message: String) -> Fault {
        Fault { place: Place::of(self.text, at), message }
    }

    /// The next statement, if it is not empty, and whether there may be one after it.
    fn statement(&mut self) -> Result<(Option<Statement>, bool), Fault> {
        let mut open = Open::default();
        loop {
            if let Some(delimiter) = self.delimiter
                && self.lexer.skip(delimiter)
            {
                return self.close(open).map(|statement| (statement, true));
            }
            let at = self.lexer.at();
            let token = self.lexer.next().map_err(|message| self.fault(at, message))?;
            let end = self.lexer.at();
            match token {
                None => return self.close(open).map(|statement| (statement, false)),
                Some(Token::Blank) => continue,
                Some(Token::Semicolon) if self.delimiter.is_none() && self.ends(&mut open) => {
                    self.refuse_bare_routine(&open)?;
                    return self.close(open).map(|statement| (statement, true));
                }
                Some(Token::Word) if open.start.is_none() && self.is_delimiter(at, end) => {
                    let line = self.lexer.rest_of_line();
                    self.delimiter = Some(line.trim()).filter(|delimiter| *delimiter != ";");
                    if line.trim().is_empty() {
                        return Err(self.fault(at, "`DELIMITER` names none: write one behind it".to_owned()));
                    }
                    continue;
                }
                Some(Token::Word) => self.word(&mut open, at, end)?,
                Some(Token::Name) => open.names.push((at, end)),
                Some(Token::Placeholder) => {
                    let message = format!("`{}` stands for no value here: write `:name`", &self.text[at..end]);
                    return Err(self.fault(at, message));
                }
                Some(Token::Backslash) if open.start.is_none() => {
                    let message = "commands of psql (`\\…`) are not SQL: only statements can be run".to_owned();
                    return Err(self.fault(at, message));
                }
                Some(Token::Semicolon | Token::Backslash | Token::Other) => {}
            }
            if !matches!(token, Some(Token::Semicolon)) {
                let is_end = matches!(token, Some(Token::Word)) && self.text[at..end].eq_ignore_ascii_case("END");
                open.ended = open.semicolon && is_end;
                open.semicolon = false;
            }
            open.start.get_or_insert(at);
            open.end = end;
        }
    }

    fn is_delimiter(&self, at: usize, end: usize) -> bool {
        self.kind == Database::Mysql && self.text[at..end].eq_ignore_ascii_case("DELIMITER")
    }

    /// Whether a `;` here is the end of the statement.
    fn ends(&self, open: &mut Open) -> bool {
        let trigger = self.kind == Database::Sqlite && open.makes(&["TRIGGER"]);
        if trigger && !open.ended {
            (open.semicolon, open.ended) = (true, false);
            return false;
        }
        open.depth == 0
    }

    fn word(&self, open: &mut Open, at: usize, end: usize) -> Result<(), Fault> {
        let word = self.text[at..end].to_ascii_uppercase();
        if self.kind == Database::Postgres && open.makes(&["FUNCTION", "PROCEDURE"]) {
            match word.as_str() {
                "BEGIN" => open.depth += 1,
                "CASE" if open.depth > 0 => open.depth += 1,
                "END" => open.depth = open.depth.saturating_sub(1),
                _ => {}
            }
        }
        let copies = open.words.first().is_some_and(|first| first == "COPY");
        if self.kind == Database::Postgres && copies && matches!(word.as_str(), "STDIN" | "STDOUT") {
            let message = format!("there is no {word} here: copy from or to a file of the server, or use INSERT");
            return Err(self.fault(at, message));
        }
        open.begun |= word == "BEGIN";
        if open.words.len() < WORDS {
            open.words.push(word);
        }
        Ok(())
    }

    /// Without a `DELIMITER`, the first `;` of a routine's body would be the end of it.
    fn refuse_bare_routine(&self, open: &Open) -> Result<(), Fault> {
        let routine = open.makes(&["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT"]);
        if self.kind == Database::Mysql && open.begun && routine {
            let message = "where the body ends cannot be told from its `;`: put `DELIMITER //` in a line before the \
                           statement, `//` behind it, and `DELIMITER ;` after that";
            return Err(self.fault(open.start.unwrap_or(0), message.to_owned()));
        }
        Ok(())
    }

    fn close(&mut self, open: Open) -> Result<Option<Statement>, Fault> {
        let Some(start) = open.start else { return Ok(None) };
        let place = self.place(start);
        let mut text = String::with_capacity(open.end - start);
        let mut copied = start;
        let mut names = Vec::new();
        for (index, (from, to)) in open.names.iter().copied().enumerate() {
            text.push_str(&self.text[copied..from]);
            let placeholder = match self.kind {
                Database::Postgres => format!("${}", index + 1),
                Database::Mysql => "?".to_owned(),
                Database::Sqlite => self.text[from..to].to_owned(),
            };
            let width = to - from;
            text.push_str(&format!("{placeholder:width$}"));
            copied = to;
            let inner = Place::within(&self.text[start..open.end], from - start, place);
            names.push(Name { name: self.text[from + 1..to].to_owned(), place: inner });
        }
        text.push_str(&self.text[copied..open.end]);
        Ok(Some(Statement { text, names, place, words: open.words }))
    }

    /// The place of a byte that is not before the last one asked for: lines are not counted again each time.
    fn place(&mut self, at: usize) -> Place {
        let (from, place) = self.counted;
        let found = Place::within(&self.text[from..], at - from, place);
        self.counted = (at, found);
        found
    }
}

impl Open {
    /// Whether it is a `CREATE` of one of these.
    fn makes(&self, what: &[&str]) -> bool {
        self.words.first().is_some_and(|first| first == "CREATE")
            && self.words.iter().skip(1).any(|word| what.contains(&word.as_str()))
    }
}

impl Statement {
    /// Why it cannot be part of a transaction that others began; `None`: as far as its words tell, it can.
    pub fn why_not_in_transaction(&self, kind: Database) -> Option<String> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let shown = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        if begins_or_ends(&words, kind) {
            return Some(format!(
                "`{}` is not for the script to say: fencron begins the transaction, and commits it with the guard's \
                 rows. Remove it, or write `transaction: false`",
                words[0]
            ));
        }
        match kind {
            Database::Mysql if commits(&words) => Some(format!(
                "`{shown}` commits by itself in MySQL, and what came before it too: write `transaction: false` (the \
                 job cannot be `exactly_once` then)"
            )),
            Database::Postgres | Database::Sqlite if stands_alone(&words, kind) => Some(format!(
                "`{shown}` cannot run in a transaction here: write `transaction: false` (the job cannot be \
                 `exactly_once` then)"
            )),
            _ => None,
        }
    }

    /// Whether it may run statements that the script does not show, as `CALL` does.
    pub fn may_run_others(&self) -> bool {
        const PLAIN: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES"];
        self.words.first().is_none_or(|word| !PLAIN.contains(&word.as_str()))
    }
}

fn begins_or_ends(words: &[&str], kind: Database) -> bool {
    match words {
        ["ROLLBACK", rest @ ..] => !rest.contains(&"TO"),
        ["BEGIN" | "COMMIT", ..] | ["START", "TRANSACTION", ..] => true,
        ["END" | "ABORT", ..] => kind != Database::Mysql,
        ["PREPARE", "TRANSACTION", ..] => kind == Database::Postgres,
        ["XA", ..] => kind == Database::Mysql,
        ["SET", rest @ ..] => kind == Database::Mysql && rest.iter().take(2).any(|word| *word == "AUTOCOMMIT"),
        _ => false,
    }
}

/// <https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html>, <https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/>
fn commits(words: &[&str]) -> bool {
    match words {
        ["CREATE" | "DROP", "TEMPORARY", "TABLE", ..] => false,
        ["CREATE", "OR", "REPLACE", "TEMPORARY", "TABLE", ..] => false,
        ["ALTER" | "CREATE" | "DROP" | "RENAME" | "TRUNCATE" | "GRANT" | "REVOKE" | "LOCK" | "UNLOCK", ..] => true,
        ["ANALYZE" | "CHECK" | "OPTIMIZE" | "REPAIR" | "FLUSH" | "RESET" | "CACHE" | "INSTALL" | "UNINSTALL", ..] => {
            // MariaDB's `ANALYZE SELECT` only shows a plan.
            !matches!(words, ["ANALYZE", "SELECT" | "UPDATE" | "DELETE" | "INSERT" | "FORMAT", ..])
        }
        ["LOAD", "INDEX", ..] | ["SET", "PASSWORD", ..] | ["SET", "DEFAULT", "ROLE", ..] => true,
        ["START" | "STOP" | "CHANGE", ..] => true,
        _ => false,
    }
}

fn stands_alone(words: &[&str], kind: Database) -> bool {
    if kind == Database::Sqlite {
        return matches!(words, ["VACUUM" | "ATTACH" | "DETACH", ..]);
    }
    match words {
        ["VACUUM", ..] | ["CLUSTER"] | ["ALTER", "SYSTEM", ..] => true,
        ["CREATE" | "DROP", "DATABASE" | "TABLESPACE", ..] => true,
        ["CREATE" | "DROP", "INDEX", rest @ ..] | ["CREATE", "UNIQUE", "INDEX", rest @ ..] => {
            rest.first() == Some(&"CONCURRENTLY")
        }
        ["REINDEX", rest @ ..] => {
            rest.iter().take(4).any(|word| matches!(*word, "CONCURRENTLY" | "DATABASE" | "SYSTEM"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
