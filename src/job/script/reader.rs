//! Where a statement ends: where the database's own client would send it off.
//!
//! - PostgreSQL: at a `;` outside of parentheses and of the body of a routine that begins with `BEGIN ATOMIC`, as psql
//!   does it (`psqlscan.l`).
//! - MySQL: at each `;`, or at what `DELIMITER` says, as `mysql` does it. It knows nothing of bodies.
//! - SQLite: at each `;`, and that of a trigger at `; END ;`: the rule of `sqlite3_complete`, by which the shell goes.

use super::Meaning;
use super::lexer::{Lexer, Quoting, Token};
use super::{Database, Fault, MAX_STATEMENTS, Name, Place, Statement};

/// How many of a statement's first words are looked at to know what it does.
const WORDS: usize = 24;
/// The commands of psql by which `pg_dump` shields a dump: to other readers they mean nothing.
const SHIELDS: [&str; 2] = ["\\restrict ", "\\unrestrict "];

/// A statement while it is read.
#[derive(Default)]
struct Open {
    /// The bytes of the script that it is made of.
    start: Option<usize>,
    end: usize,
    words: Vec<String>,
    names: Vec<(usize, usize)>,
    /// The first placeholder that is not a name.
    placeholder: Option<(usize, usize)>,
    /// The piece before this one, blanks left out.
    before: (usize, usize),
    /// How many parentheses are open.
    parentheses: usize,
    /// How deep `BEGIN ATOMIC … END` and `CASE … END` are nested.
    depth: usize,
    /// Of a trigger's end: a `;`, then `END`.
    semicolon: bool,
    ended: bool,
}

pub struct Reader<'t> {
    kind: Database,
    text: &'t str,
    lexer: Lexer<'t>,
    /// How far lines were counted, and what was found.
    counted: (usize, Place),
}

impl<'t> Reader<'t> {
    pub fn new(kind: Database, quoting: Quoting, text: &'t str) -> Reader<'t> {
        let lexer = Lexer::new(kind, quoting, text);
        Reader { kind, text, lexer, counted: (0, Place { line: 1, column: 1 }) }
    }

    pub fn statements(self) -> Result<Vec<Statement>, Fault> {
        let mut statements = Vec::new();
        self.read_into(&mut statements).map(|()| statements)
    }

    /// The statements before the first fault, if there is one.
    pub fn read_into(mut self, statements: &mut Vec<Statement>) -> Result<(), Fault> {
        loop {
            let (statement, more) = self.statement()?;
            statements.extend(statement);
            if statements.len() > MAX_STATEMENTS {
                return Err(self.fault(0, format!("the script has more than {MAX_STATEMENTS} statements")));
            }
            if !more {
                return Ok(());
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
            if self.lexer.skip_delimiter() {
                return self.close(open).map(|statement| (statement, true));
            }
            let at = self.lexer.at();
            let token = self.lexer.next().map_err(|message| self.fault(at, message))?;
            let end = self.lexer.at();
            match token {
                None => return self.close(open).map(|statement| (statement, false)),
                Some(Token::Blank) => continue,
                Some(Token::Semicolon) if self.ends(&mut open) => {
                    return self.close(open).map(|statement| (statement, true));
                }
                Some(Token::Word) if open.start.is_none() && self.is_delimiter(at) => {
                    self.take_delimiter(at)?;
                    continue;
                }
                Some(Token::Backslash) if open.start.is_none() => {
                    self.pass_shield(at)?;
                    continue;
                }
                Some(Token::Word) => self.word(&mut open, at, end)?,
                Some(Token::Name) => open.names.push((at, end)),
                Some(Token::Placeholder) => {
                    open.placeholder.get_or_insert((at, end));
                }
                Some(Token::Open) if self.text[at..end] == *"(" => open.parentheses += 1,
                Some(Token::Close) if self.text[at..end] == *")" => {
                    open.parentheses = open.parentheses.saturating_sub(1);
                }
                Some(Token::Semicolon | Token::Backslash | Token::Open | Token::Close | Token::Other) => {}
            }
            if token != Some(Token::Semicolon) {
                let is_end = token == Some(Token::Word) && self.text[at..end].eq_ignore_ascii_case("END");
                open.ended = open.semicolon && is_end;
                open.semicolon = false;
            }
            open.start.get_or_insert(at);
            (open.end, open.before) = (end, (at, end));
        }
    }

    fn is_delimiter(&self, at: usize) -> bool {
        let word = &self.text.as_bytes()[at..];
        let other = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        self.kind == Database::Mysql
            && word.get(..9).is_some_and(|word| word.eq_ignore_ascii_case(b"DELIMITER"))
            && !word.get(9).is_some_and(other)
    }

    /// `DELIMITER //`: the first word behind it, in quotes or not.
    fn take_delimiter(&mut self, at: usize) -> Result<(), Fault> {
        let line = self.lexer.rest_of_line(at + 9);
        let delimiter = line.split_whitespace().next().unwrap_or_default().trim_matches(['\'', '"', '`']);
        if delimiter.is_empty() || delimiter.contains('\\') {
            return Err(self.fault(at, "`DELIMITER` names none: write one behind it, without a `\\`".to_owned()));
        }
        self.lexer.delimiter = Some(delimiter).filter(|delimiter| *delimiter != ";");
        Ok(())
    }

    fn pass_shield(&mut self, at: usize) -> Result<(), Fault> {
        let line = self.lexer.rest_of_line(at);
        if self.kind == Database::Postgres && SHIELDS.iter().any(|shield| line.starts_with(shield)) {
            return Ok(());
        }
        let message = "commands of psql (`\\…`) are not SQL: only statements can be run".to_owned();
        Err(self.fault(at, message))
    }

    /// Whether a `;` here is the end of the statement.
    fn ends(&self, open: &mut Open) -> bool {
        match self.kind {
            Database::Mysql => self.lexer.delimiter.is_none(),
            Database::Postgres => open.parentheses == 0 && open.depth == 0,
            Database::Sqlite if open.makes_trigger() && !open.ended => {
                (open.semicolon, open.ended) = (true, false);
                false
            }
            Database::Sqlite => true,
        }
    }

    fn word(&self, open: &mut Open, at: usize, end: usize) -> Result<(), Fault> {
        let word = self.text[at..end].to_ascii_uppercase();
        if self.kind == Database::Postgres && open.parentheses == 0 {
            self.count_body(open, &word);
            let copies = open.words.first().is_some_and(|first| first == "COPY");
            if copies && matches!(word.as_str(), "STDIN" | "STDOUT") {
                let message = format!("there is no {word} here: copy from or to a file of the server, or use INSERT");
                return Err(self.fault(at, message));
            }
        }
        if open.words.len() < WORDS {
            open.words.push(word);
        }
        Ok(())
    }

    /// Counts how deep a routine's body is nested. `END` as a column's new name, or as part of a longer name, ends none.
    fn count_body(&self, open: &mut Open, word: &str) {
        if !open.makes_routine() {
            return;
        }
        let before = &self.text[open.before.0..open.before.1];
        match word {
            "ATOMIC" if open.depth == 0 && before.eq_ignore_ascii_case("BEGIN") => open.depth = 1,
            _ if before.eq_ignore_ascii_case("AS") || before == "." => {}
            "CASE" if open.depth > 0 => open.depth += 1,
            "END" => open.depth = open.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn close(&mut self, open: Open) -> Result<Option<Statement>, Fault> {
        let Some(start) = open.start else { return Ok(None) };
        // In PostgreSQL `$1` may be the argument of a routine or of PREPARE, unless values are bound.
        let first = open.words.first().map_or("", String::as_str);
        let has_arguments = self.kind == Database::Postgres && matches!(first, "CREATE" | "PREPARE");
        if let Some((from, to)) = open.placeholder.filter(|_| !has_arguments || !open.names.is_empty()) {
            let message = format!("`{}` stands for no value here: write `:name`", &self.text[from..to]);
            return Err(self.fault(from, message));
        }
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
        let words = open.words;
        Ok(Some(Statement { text, names, place, words, meaning: Meaning::Plain, without_keys: false }))
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
    fn first_words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    fn makes_trigger(&self) -> bool {
        let words = self.first_words();
        let words = words.strip_prefix(&["EXPLAIN"]).unwrap_or(&words);
        let words = words.strip_prefix(&["QUERY", "PLAN"]).unwrap_or(words);
        matches!(words, ["CREATE", "TRIGGER", ..] | ["CREATE", "TEMP" | "TEMPORARY", "TRIGGER", ..])
    }

    fn makes_routine(&self) -> bool {
        let words = self.first_words();
        let words = words.strip_prefix(&["CREATE"]).unwrap_or_default();
        let words = words.strip_prefix(&["OR", "REPLACE"]).unwrap_or(words);
        matches!(words, ["FUNCTION" | "PROCEDURE", ..])
    }
}
