//! The pieces of a SQL script, as far as a statement's end and the names in it depend on them.

use super::Database;

/// A piece of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// White space or a comment.
    Blank,
    Semicolon,
    /// A word that is not quoted.
    Word,
    /// `:name`
    Name,
    /// What a database takes for a placeholder without a name.
    Placeholder,
    Backslash,
    /// `(`, or a `[` that quotes nothing.
    Open,
    /// `)`, or a `]` that quotes nothing.
    Close,
    /// Anything else: quoted texts, numbers, operators.
    Other,
}

/// How quotes are read, as far as a setting of the session decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoting {
    /// A backslash escapes what comes after it in `'…'`: MySQL without `NO_BACKSLASH_ESCAPES`, PostgreSQL with
    /// `standard_conforming_strings = off`.
    pub backslash: bool,
    /// `"…"` is a name, in which a backslash is one: MySQL only with `ANSI_QUOTES`.
    pub double_is_name: bool,
}

impl Quoting {
    /// How a session reads them by default.
    pub fn usual(kind: Database) -> Quoting {
        let mysql = kind == Database::Mysql;
        Quoting { backslash: mysql, double_is_name: !mysql }
    }
}

pub struct Lexer<'t> {
    kind: Database,
    quoting: Quoting,
    text: &'t str,
    at: usize,
    /// What ends a statement in the place of `;`, wherever it stands outside of quotes and comments.
    pub delimiter: Option<&'t str>,
    /// How many brackets are open.
    brackets: usize,
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn in_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl<'t> Lexer<'t> {
    pub fn new(kind: Database, quoting: Quoting, text: &'t str) -> Lexer<'t> {
        Lexer { kind, quoting, text, at: 0, delimiter: None, brackets: 0 }
    }

    /// The byte at which the next piece begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Whether the delimiter stands here; it is then passed over.
    pub fn skip_delimiter(&mut self) -> bool {
        let found = self.delimiter.filter(|delimiter| self.text[self.at..].starts_with(delimiter));
        self.at += found.map_or(0, str::len);
        found.is_some()
    }

    /// What is left of the line from the byte `at` on, which is passed over.
    pub fn rest_of_line(&mut self, at: usize) -> &'t str {
        self.at = at;
        let rest = &self.text[self.at..];
        let line = rest.split('\n').next().unwrap_or(rest);
        self.at += line.len();
        line
    }

    /// The next piece; `None` at the end. An error is about the place where it begins.
    pub fn next(&mut self) -> Result<Option<Token>, String> {
        let rest = &self.text.as_bytes()[self.at..];
        let Some(&first) = rest.first() else { return Ok(None) };
        let (token, length) = self.piece(first, rest)?;
        self.at += length;
        match (token, first) {
            (Token::Open, b'[') => self.brackets += 1,
            (Token::Close, b']') => self.brackets = self.brackets.saturating_sub(1),
            (Token::Semicolon, _) => self.brackets = 0,
            _ => {}
        }
        Ok(Some(token))
    }

    fn piece(&self, first: u8, rest: &[u8]) -> Result<(Token, usize), String> {
        let second = rest.get(1).copied().unwrap_or(0);
        let (mysql, sqlite) = (self.kind == Database::Mysql, self.kind == Database::Sqlite);
        let name = || self.undelimited(rest, 1 + rest[1..].iter().take_while(|byte| in_word(**byte)).count());
        Ok(match first {
            _ if first.is_ascii_whitespace() => (Token::Blank, 1),
            // Of an editor that marks UTF-8.
            0xef if rest.starts_with(b"\xef\xbb\xbf") => (Token::Blank, 3),
            b'-' if second == b'-' && self.is_comment(rest) => (Token::Blank, self.line(rest)),
            b'#' if mysql => (Token::Blank, self.line(rest)),
            b'/' if second == b'*' => self.comment(rest)?,
            b'*' if mysql && second == b'/' => (Token::Other, 2),
            b'\'' => (Token::Other, self.quoted(rest, first, self.quoting.backslash)?),
            b'"' => (Token::Other, self.quoted(rest, first, self.quoting.backslash && !self.quoting.double_is_name)?),
            b'`' if mysql || sqlite => (Token::Other, self.quoted(rest, first, false)?),
            b'[' if sqlite => (Token::Other, until(rest, b"]", 1).ok_or("this `[` has no `]`")?),
            b'e' | b'E' if self.kind == Database::Postgres && second == b'\'' => (Token::Other, self.escaped(rest)?),
            b'$' if self.kind == Database::Postgres => self.dollar(rest)?,
            b';' => (Token::Semicolon, 1),
            b':' if matches!(second, b':' | b'=') => (Token::Other, 2),
            b':' if starts_word(second) && !self.is_no_name() => (Token::Name, name()),
            b'(' | b'[' => (Token::Open, 1),
            b')' | b']' => (Token::Close, 1),
            b'?' if mysql || sqlite => (Token::Placeholder, name()),
            b'@' | b'$' if sqlite && starts_word(second) => (Token::Placeholder, name()),
            b'\\' => (Token::Backslash, 1),
            _ if starts_word(first) => (Token::Word, name()),
            // `1$$` is a number and a quote to PostgreSQL.
            _ if first.is_ascii_digit() && self.kind == Database::Postgres => {
                (Token::Other, rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count())
            }
            _ if first.is_ascii_digit() => (Token::Other, name()),
            _ => (Token::Other, 1),
        })
    }

    /// The length of a word of `length` bytes, as far as no delimiter stands in it: `END$$`.
    fn undelimited(&self, rest: &[u8], length: usize) -> usize {
        let Some(delimiter) = self.delimiter else { return length };
        (1..length).find(|at| rest[*at..].starts_with(delimiter.as_bytes())).unwrap_or(length)
    }

    /// Whether a colon here belongs to what stands right before it: the slice `a[1:n]` of PostgreSQL, MySQL's label
    /// `again:LOOP`.
    fn is_no_name(&self) -> bool {
        let Some(before) = self.text.as_bytes()[..self.at].last() else { return false };
        match self.kind {
            Database::Postgres => {
                self.brackets > 0 && (in_word(*before) || matches!(before, b')' | b']' | b'\'' | b'"'))
            }
            Database::Mysql => in_word(*before) || *before == b'`',
            Database::Sqlite => false,
        }
    }

    /// The length of what a comment that ends with its line takes, without the line's end.
    fn line(&self, rest: &[u8]) -> usize {
        let ends = |byte: &u8| *byte == b'\n' || (*byte == b'\r' && self.kind == Database::Postgres);
        rest.iter().position(ends).unwrap_or(rest.len())
    }

    /// The length of `E'…'`, and of each `'…'` that goes on with it on another line, in which backslashes escape too.
    fn escaped(&self, rest: &[u8]) -> Result<usize, String> {
        let mut end = 1 + self.quoted(&rest[1..], b'\'', true)?;
        loop {
            let mut next = end;
            let mut on_another_line = false;
            while let Some(byte) = rest.get(next) {
                if rest[next..].starts_with(b"--") {
                    next += self.line(&rest[next..]);
                } else if byte.is_ascii_whitespace() {
                    on_another_line |= matches!(byte, b'\n' | b'\r');
                    next += 1;
                } else {
                    break;
                }
            }
            if !on_another_line || rest.get(next) != Some(&b'\'') {
                return Ok(end);
            }
            end = next + self.quoted(&rest[next..], b'\'', true)?;
        }
    }

    /// MySQL's `--` begins a comment only before a blank: `5--1` is a sum.
    fn is_comment(&self, rest: &[u8]) -> bool {
        self.kind != Database::Mysql
            || rest.get(2).is_none_or(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
    }

    fn comment(&self, rest: &[u8]) -> Result<(Token, usize), String> {
        let unclosed = "this `/*` has no `*/`";
        match self.kind {
            // What stands in `/*! … */` is no comment to MySQL, nor in `/*M! … */` to MariaDB.
            Database::Mysql if rest[2..].starts_with(b"!") || rest[2..].starts_with(b"M!") => {
                let mark = 2 + rest[2..].iter().take_while(|byte| matches!(byte, b'M' | b'!')).count();
                Ok((Token::Other, mark + rest[mark..].iter().take_while(|byte| byte.is_ascii_digit()).count()))
            }
            Database::Postgres => nested(rest).map(|end| (Token::Blank, end)).ok_or_else(|| unclosed.to_owned()),
            _ => until(rest, b"*/", 2).map(|end| (Token::Blank, end)).ok_or_else(|| unclosed.to_owned()),
        }
    }

    /// The length of a quoted text, in which the quote is written twice, or behind a backslash.
    fn quoted(&self, rest: &[u8], quote: u8, backslash: bool) -> Result<usize, String> {
        let mut at = 1;
        while let Some(&byte) = rest.get(at) {
            at += match byte {
                b'\\' if backslash => 2,
                _ if byte == quote && rest.get(at + 1) == Some(&quote) => 2,
                _ if byte == quote => return Ok(at + 1),
                _ => 1,
            };
        }
        Err(format!("this {} is not closed: the rest of the script would be in it", char::from(quote)))
    }

    /// `$$ … $$`, `$tag$ … $tag$`, or a placeholder.
    fn dollar(&self, rest: &[u8]) -> Result<(Token, usize), String> {
        if rest.get(1).is_some_and(u8::is_ascii_digit) {
            return Ok((Token::Placeholder, 1 + rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count()));
        }
        let tag = rest[1..].iter().take_while(|byte| in_word(**byte) && **byte != b'$').count();
        if rest.get(1 + tag) != Some(&b'$') {
            return Ok((Token::Other, 1));
        }
        let tag = &rest[..tag + 2];
        let unclosed = || format!("this {} is not closed by another one", String::from_utf8_lossy(tag));
        until(rest, tag, tag.len()).map(|end| (Token::Other, end)).ok_or_else(unclosed)
    }
}

/// Where the first `end` ends, looked for from the byte `from` on.
fn until(rest: &[u8], end: &[u8], from: usize) -> Option<usize> {
    let found = rest[from..].windows(end.len()).position(|window| window == end)?;
    Some(from + found + end.len())
}

/// Where a comment ends in which there may be others.
fn nested(rest: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (1, 2);
    while depth > 0 {
        match rest.get(at..at + 2)? {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    Some(at)
}
