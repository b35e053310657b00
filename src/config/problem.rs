//! What is wrong with a configuration: collected by position, shown to people and to programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// How many problems are shown to a person; the rest is counted.
pub const MAX_SHOWN: usize = 50;

/// How many problems are kept; the rest is counted. A file that is wrong everywhere is wrong for one reason.
pub const MAX_KEPT: usize = 1000;

/// How many characters of a line are shown around a problem.
const EXCERPT_WIDTH: usize = 120;

/// How many characters of a text of the file are quoted in a message.
const QUOTE_WIDTH: usize = 60;

/// One thing that is wrong, and where. Serializes as `validate -o json` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file that it is in, where the configuration is in several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Keys and indices from the root: `jobs.report.command[0]`; empty for the file as a whole.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// The line's text, cut to what fits on a screen, and the caret's place in it.
    #[serde(skip)]
    excerpt: Option<(String, usize)>,
}

/// Everything that is wrong with one file, in the order of the file. Serializes as a list of [`Problem`]s.
///
/// Its `Display` is for people: every problem with its line, and a caret under the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// What the file is called; `None`: it is the text of a program, whose lines mean nothing to a reader.
    file: Option<String>,
    list: Vec<Problem>,
    beyond: usize,
}

impl Problems {
    /// The same problems, shown as those of the file `name`.
    #[must_use]
    pub fn of_file(mut self, name: &str) -> Problems {
        self.file = Some(visible(name));
        self
    }

    /// The same problems, shown as those of the jobs of a program: each with the path of its key.
    #[must_use]
    pub(super) fn of_program(mut self) -> Problems {
        self.file = None;
        self
    }

    /// The same problems, without the lines of the file that they are in.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(super) fn without_excerpts(mut self) -> Problems {
        self.list.iter_mut().for_each(|problem| problem.excerpt = None);
        self
    }

    /// The same problems with their texts rewritten.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(super) fn rewritten(mut self, rewrite: impl Fn(&str) -> String) -> Problems {
        for problem in &mut self.list {
            (problem.message, problem.path) = (rewrite(&problem.message), rewrite(&problem.path));
        }
        self
    }

    /// The same problems, as those of one of several files.
    pub(super) fn in_part(mut self, name: &str) -> Problems {
        self.list.iter_mut().for_each(|problem| problem.file = Some(visible(name)));
        self
    }

    /// The problems in the order of the file: the first [`MAX_KEPT`] that were found.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// How many there are, the ones beyond [`MAX_KEPT`] included.
    pub fn count(&self) -> usize {
        self.list.len() + self.beyond
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One problem with a file that cannot be read as text, at `line` and `column`.
    pub(super) fn unreadable((line, column): (usize, usize), message: String) -> Problems {
        let problem = Problem { file: None, line, column, path: String::new(), message, excerpt: None };
        Problems { file: Some(DEFAULT_NAME.to_owned()), list: vec![problem], beyond: 0 }
    }
}

impl Problem {
    /// Where it is: `jobs.yaml:3:5`. `named` is what was read, for a configuration in one file.
    pub fn place(&self, named: impl fmt::Display) -> String {
        let (line, column) = (self.line, self.column);
        match &self.file {
            Some(file) => format!("{file}:{line}:{column}"),
            None => format!("{named}:{line}:{column}"),
        }
    }

    /// As one of the file called so, or of a program.
    fn show(&self, file: Option<&str>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { line, path, message, excerpt, .. } = self;
        match file {
            Some(file) => write!(f, "{}: {message}", self.place(file))?,
            None if path.is_empty() => f.write_str(message)?,
            None => write!(f, "{}: {message}", visible(path))?,
        }
        let Some((text, caret)) = excerpt else { return Ok(()) };
        let number = file.map_or(String::new(), |_| line.to_string());
        let gutter = number.len();
        write!(f, "\n {number} | {text}\n {:gutter$} | {:caret$}^", "", "")?;
        if file.is_some() && !path.is_empty() { write!(f, " {path}") } else { Ok(()) }
    }
}

/// What the file is called until [`Problems::of_file`] says it.
const DEFAULT_NAME: &str = "jobs.yaml";

impl std::error::Error for Problems {}

impl Serialize for Problems {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list.serialize(serializer)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().take(MAX_SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.show(self.file.as_deref(), f)?;
        }
        match self.count().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// One of several files whose texts stand one after the other.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub name: String,
    /// The byte of the whole text at which it begins.
    pub begin: usize,
}

impl Part {
    /// The file that the byte `at` is in; `None`: there is only one.
    pub fn of(parts: &[Part], at: usize) -> Option<&Part> {
        parts.get(parts.partition_point(|part| part.begin <= at).checked_sub(1)?)
    }
}

/// Problems while they are being found: by place, each once, however many aliases lead to it.
#[derive(Default)]
pub(super) struct Findings {
    found: BTreeMap<(usize, String), String>,
    beyond: usize,
}

impl Findings {
    /// Records `message` about the byte `at` of the text.
    pub fn add(&mut self, at: usize, path: String, message: String) {
        if self.found.len() < MAX_KEPT {
            self.found.entry((at, message)).or_insert(path);
        } else if !self.found.contains_key(&(at, message)) {
            self.beyond += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many were recorded: it shows whether a step found something.
    pub fn count(&self) -> usize {
        self.found.len() + self.beyond
    }

    /// Whether something was recorded for the line of the byte `at`.
    pub fn touches_line_of(&self, text: &str, at: usize) -> bool {
        let lines = Lines::of(text);
        self.found.keys().any(|(other, _)| lines.number(*other) == lines.number(at))
    }

    /// Takes those of one of several files, which begins at the byte `begin` and has so many bytes.
    pub fn take(&mut self, others: Findings, begin: usize, length: usize) {
        for ((at, message), path) in others.found {
            self.add(begin + at.min(length.saturating_sub(1)), path, message);
        }
        self.beyond += others.beyond;
    }

    /// The problems with their lines and columns in `text`.
    pub fn locate(self, text: &str) -> Problems {
        self.locate_in(text, &[])
    }

    /// The problems with their lines and columns in these files, whose texts are `text`.
    pub fn locate_in(self, text: &str, parts: &[Part]) -> Problems {
        let lines = if self.found.is_empty() { Lines(Vec::new()) } else { Lines::of(text) };
        let mut counted = Place { line: 0, at: 0, column: 0 };
        let mut list = Vec::with_capacity(self.found.len());
        for ((at, message), path) in self.found {
            counted = lines.place(text, text.floor_char_boundary(at.min(text.len())), counted);
            let line = lines.text(text, counted.line);
            let excerpt = Some(excerpt(line, counted.at - lines.0[counted.line]));
            let part = Part::of(parts, at);
            let line = counted.line + 1 - part.map_or(0, |part| lines.number(part.begin));
            let file = part.map(|part| visible(&part.name));
            list.push(Problem { file, line, column: counted.column + 1, path, message, excerpt });
        }
        Problems { file: Some(DEFAULT_NAME.to_owned()), list, beyond: self.beyond }
    }
}

/// A byte of the text, its line and its column in characters, from 0.
#[derive(Clone, Copy)]
struct Place {
    line: usize,
    at: usize,
    column: usize,
}

/// Where lines begin: after `\n`, and after a `\r` that no `\n` follows, as YAML has it.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        let bytes = text.as_bytes();
        let ends =
            (0..bytes.len()).filter(|&i| bytes[i] == b'\n' || (bytes[i] == b'\r' && bytes.get(i + 1) != Some(&b'\n')));
        Lines(std::iter::once(0).chain(ends.map(|end| end + 1)).collect())
    }

    /// The line of the byte `at`, from 0.
    fn number(&self, at: usize) -> usize {
        self.0.partition_point(|&start| start <= at).saturating_sub(1)
    }

    /// The text of a line, from 0, without its end.
    fn text<'t>(&self, text: &'t str, line: usize) -> &'t str {
        let end = self.0.get(line + 1).copied().unwrap_or(text.len());
        text[self.0[line]..end].trim_end_matches(['\n', '\r'])
    }

    /// The place of the byte `at`, which is not before `last`: a line of a whole file is not counted again each time.
    fn place(&self, text: &str, at: usize, last: Place) -> Place {
        let line = self.number(at);
        let (from, column) = if line == last.line { (last.at, last.column) } else { (self.0[line], 0) };
        Place { line, at, column: column + text[from..at].chars().count() }
    }
}

/// At most [`EXCERPT_WIDTH`] characters of `line` around its byte `at`, and where `at` is among them.
fn excerpt(line: &str, at: usize) -> (String, usize) {
    let at = at.min(line.len());
    let before: usize = line[..at].chars().rev().take(EXCERPT_WIDTH * 2 / 3).map(char::len_utf8).sum();
    let start = if at == before {
        0
    } else {
        at - line[..at].chars().rev().take(EXCERPT_WIDTH / 2).map(char::len_utf8).sum::<usize>()
    };
    let mut rest = line[start..].chars();
    let mut text: String = if start > 0 { "…".to_owned() } else { String::new() };
    text.extend(rest.by_ref().take(EXCERPT_WIDTH).map(tame));
    if rest.next().is_some() {
        text.push('…');
    }
    (text, line[start..at].chars().count() + usize::from(start > 0))
}

/// A control character could move the terminal's cursor, and a tab would put the caret in the wrong place.
fn tame(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() || is_bidi_control(c) => '\u{fffd}',
        c => c,
    }
}

/// Characters that make a terminal show a text in another order than it is in.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// A text that is safe to print.
fn visible(text: &str) -> String {
    text.chars().map(tame).collect()
}

/// A text of the file as messages quote it: between backquotes, cut, and safe to print.
pub(super) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(QUOTE_WIDTH).map(tame).collect();
    let more = if chars.next().is_some() { "…" } else { "" };
    format!("`{start}{more}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str, at: usize) -> Problem {
        let mut findings = Findings::default();
        findings.add(at, "a.b".into(), "is wrong".into());
        findings.locate(text).list[0].clone()
    }

    #[test]
    fn columns_count_characters() {
        let problem = one("ä: 1\nöü: x\n", "ä: 1\nöü: ".len());
        assert_eq!((problem.line, problem.column), (2, 5));
    }

    #[test]
    fn all_line_ends_of_yaml_end_a_line() {
        for text in ["a\nb\nc", "a\r\nb\r\nc", "a\rb\rc"] {
            assert_eq!(one(text, text.len() - 1).line, 3, "{text:?}");
        }
    }

    #[test]
    fn a_problem_at_the_end_of_the_text_has_a_place() {
        assert_eq!((one("ab", 2).line, one("ab", 2).column), (1, 3));
        assert_eq!((one("", 0).line, one("", 99).column), (1, 1));
    }

    #[test]
    fn a_long_line_is_shown_around_the_problem() {
        let text = format!("{}!{}", "x".repeat(500), "y".repeat(500));
        let (shown, caret) = one(&text, 500).excerpt.unwrap();
        assert_eq!(shown.chars().nth(caret), Some('!'));
        assert!(shown.chars().count() <= EXCERPT_WIDTH + 2);
    }

    #[test]
    fn nothing_of_the_file_controls_the_terminal() {
        let (shown, _) = one("a: \u{1b}[31m\u{202e}x", 0).excerpt.unwrap();
        assert_eq!(shown, "a: \u{fffd}[31m\u{fffd}x");
        assert_eq!(quoted("a\u{7}"), "`a\u{fffd}`");
    }

    #[test]
    fn the_same_problem_is_told_once() {
        let mut findings = Findings::default();
        for path in ["a", "b"] {
            findings.add(0, path.into(), "is wrong".into());
        }
        assert_eq!(findings.count(), 1);
    }

    #[test]
    fn problems_beyond_the_most_are_counted() {
        let mut findings = Findings::default();
        for at in 0..MAX_KEPT + 7 {
            findings.add(at, String::new(), "is wrong".into());
        }
        let problems = findings.locate(&"x".repeat(2 * MAX_KEPT));
        assert_eq!((problems.list().len(), problems.count()), (MAX_KEPT, MAX_KEPT + 7));
        assert!(problems.to_string().ends_with(&format!("and {} more", MAX_KEPT + 7 - MAX_SHOWN)));
    }
}
