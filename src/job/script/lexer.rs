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
    /// Anything else: quoted texts, numbers, operators.
    Other,
}

pub struct Lexer<'t> {
    kind: Database,
    text: &'t str,
    at: usize,
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn in_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl<'t> Lexer<'t> {
    pub fn new(kind: Database, text: &'t str) -> Lexer<'t> {
        Lexer { kind, text, at: 0 }
    }

    /// The byte at which the next piece begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Whether the script goes on with `text`, which is then passed over.
    pub fn skip(&mut self, text: &str) -> bool {
        let found = self.text[self.at..].starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// What is left of this line, which is passed over.
    pub fn rest_of_line(&mut self) -> &'t str {
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
        Ok(Some(token))
    }

    fn piece(&self, first: u8, rest: &[u8]) -> Result<(Token, usize), String> {
        let second = rest.get(1).copied().unwrap_or(0);
        let (mysql, sqlite) = (self.kind == Database::Mysql, self.kind == Database::Sqlite);
        let name = || 1 + rest[1..].iter().take_while(|byte| in_word(**byte)).count();
        Ok(match first {
            _ if first.is_ascii_whitespace() => (Token::Blank, 1),
            // Of an editor that marks UTF-8.
            0xef if rest.starts_with(b"\xef\xbb\xbf") => (Token::Blank, 3),
            b'-' if second == b'-' && self.is_comment(rest) => (Token::Blank, line(rest)),
            b'#' if mysql => (Token::Blank, line(rest)),
            b'/' if second == b'*' => self.comment(rest)?,
            b'*' if mysql && second == b'/' => (Token::Other, 2),
            b'\'' => (Token::Other, self.quoted(rest, first, mysql)?),
            b'"' => (Token::Other, self.quoted(rest, first, mysql)?),
            b'`' if mysql || sqlite => (Token::Other, self.quoted(rest, first, false)?),
            b'[' if sqlite => (Token::Other, until(rest, b"]", 1).ok_or("this `[` has no `]`")?),
            b'e' | b'E' if self.kind == Database::Postgres && second == b'\'' => {
                (Token::Other, 1 + self.quoted(&rest[1..], second, true)?)
            }
            b'$' if self.kind == Database::Postgres => self.dollar(rest)?,
            b';' => (Token::Semicolon, 1),
            b':' if matches!(second, b':' | b'=') => (Token::Other, 2),
            b':' if starts_word(second) => (Token::Name, name()),
            b'?' if mysql || sqlite => (Token::Placeholder, name()),
            b'@' | b'$' if sqlite && starts_word(second) => (Token::Placeholder, name()),
            b'\\' => (Token::Backslash, 1),
            _ if starts_word(first) => (Token::Word, name()),
            _ if first.is_ascii_digit() => (Token::Other, name()),
            _ => (Token::Other, 1),
        })
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

/// The length of the line, without its end.
fn line(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
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
