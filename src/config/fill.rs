//! `${NAME}`, `${NAME:-default}` and `${file:PATH}` in the values of a configuration.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use super::problem::quoted;
use super::tables::MAX_TEXT_BYTES;

/// Where the values of `${…}` come from, so that reading a configuration touches nothing by itself.
///
/// ```
/// use fencron::config::Sources;
/// let sources = Sources {
///     env: &|name| std::env::var(name).ok(),
///     file: &|path| std::fs::read_to_string(path),
///     dir: &|_| Ok(None),
///     open: false,
/// };
/// # assert!((sources.env)("FENCRON_NO_SUCH_VARIABLE").is_none());
/// ```
pub struct Sources<'s> {
    /// The environment variable of this name.
    pub env: &'s dyn Fn(&str) -> Option<String>,
    /// The text of this file.
    pub file: &'s dyn Fn(&Path) -> io::Result<String>,
    /// The names of what is in this directory, in any order, those of directories with a `/` at their ends; `None`: it is
    /// no directory.
    pub dir: &'s dyn Fn(&Path) -> io::Result<Option<Vec<String>>>,
    /// Values of `${NAME}` and `${file:PATH}` are left open, and so is all that depends on them: a file is checked on a
    /// machine without the secrets of its nodes. Defaults (`${NAME:-default}`) are filled in all the same.
    pub open: bool,
}

impl Sources<'static> {
    /// No variables and no files: every `${…}` without a default is a problem.
    pub fn none() -> Sources<'static> {
        Sources { env: &|_| None, file: &|_| Err(io::ErrorKind::NotFound.into()), dir: &|_| Ok(None), open: false }
    }
}

/// A text in which every `${…}` has been replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled<'t> {
    pub text: Cow<'t, str>,
    /// Whether something from outside of the file is in it.
    pub secret: bool,
    /// Whether something in it is left open: see [`Sources::open`].
    pub open: bool,
}

impl Filled<'_> {
    /// The text as messages may show it.
    pub fn shown(&self) -> String {
        if self.secret { "what `${…}` stands for here".to_owned() } else { quoted(&self.text) }
    }
}

/// How many faults of one text are reported.
const MAX_FAULTS: usize = 20;

/// What is wrong with one `${…}`: the byte of the text at which it begins, and the message.
pub type Fault = (usize, String);

/// Replaces every `${…}` in `text`; all that cannot be replaced, otherwise.
pub fn fill<'t>(text: &'t str, sources: &Sources) -> Result<Filled<'t>, Vec<Fault>> {
    if !text.contains("${") {
        return Ok(Filled { text: Cow::Borrowed(text), secret: false, open: false });
    }
    let (mut filled, mut secret, mut open) = (String::with_capacity(text.len()), false, false);
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find("${").filter(|_| faults.len() < MAX_FAULTS) {
        let at = text.len() - rest.len() + dollar;
        let before = &rest[..dollar];
        rest = &rest[dollar + 2..];
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            continue;
        }
        filled.push_str(before);
        let Some(end) = rest.find('}') else {
            faults.push((at, "this `${` has no `}`: close it, or write `$${` for a `${` of the shell".to_owned()));
            break;
        };
        match resolve(&rest[..end], sources) {
            Ok(part) => {
                filled.push_str(&part.text);
                secret |= part.secret;
                open |= part.open;
            }
            Err(message) => faults.push((at, message)),
        }
        rest = &rest[end + 1..];
        if filled.len() > MAX_TEXT_BYTES {
            faults.push((at, format!("with what is filled in, this text is longer than {MAX_TEXT_BYTES} bytes")));
            break;
        }
    }
    filled.push_str(rest);
    if faults.is_empty() { Ok(Filled { text: Cow::Owned(filled), secret, open }) } else { Err(faults) }
}

/// What stands for the inside of one `${…}`.
fn resolve<'t>(inside: &'t str, sources: &Sources) -> Result<Filled<'t>, String> {
    let outside = |text: String| Filled { text: text.into(), secret: true, open: false };
    let left_open = || Filled { text: Cow::Borrowed(inside), secret: true, open: true };
    if let Some(path) = inside.strip_prefix("file:") {
        return if sources.open { Ok(left_open()) } else { read(path, sources).map(outside) };
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let first_is_good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !first_is_good || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!(
            "{} is none of ${{NAME}}, ${{NAME:-default}} and ${{file:PATH}}: if it is meant for the shell, write \
             $${{…}}",
            quoted(&format!("${{{inside}}}"))
        ));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!("the default of `${{{name}:-…}}` cannot have another `${{…}}` in it"));
    }
    // As in the shell: `:-` also stands in for a variable that is empty.
    match ((!sources.open).then(|| (sources.env)(name)).flatten(), default) {
        (Some(value), None) => Ok(outside(value)),
        (Some(value), Some(_)) if !value.is_empty() => Ok(outside(value)),
        (_, Some(default)) => Ok(Filled { text: default.into(), secret: false, open: false }),
        (None, None) if sources.open => Ok(left_open()),
        (None, None) => Err(format!(
            "the environment variable {} is not set: set it where the node starts, or write ${{{name}:-default}}",
            quoted(name)
        )),
    }
}

/// A file's text without the line end that editors put at its end.
fn read(path: &str, sources: &Sources) -> Result<String, String> {
    if path.is_empty() {
        return Err("`${file:}` names no file: write `${file:/run/secrets/name}`".to_owned());
    }
    match (sources.file)(Path::new(path)) {
        Ok(mut text) => {
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Ok(text)
        }
        Err(error) => Err(format!("the file {} cannot be read: {error}", quoted(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<(String, bool), Vec<Fault>> {
        let sources = Sources {
            env: &|name| match name {
                "HOST" => Some("db".into()),
                "EMPTY" => Some(String::new()),
                _ => None,
            },
            file: &|path| match path.to_str() {
                Some("/run/secrets/key") => Ok("s3cret\n".into()),
                _ => Err(io::ErrorKind::NotFound.into()),
            },
            ..Sources::none()
        };
        fill(text, &sources).map(|Filled { text, secret, .. }| (text.into_owned(), secret))
    }

    #[test]
    fn what_comes_from_outside_is_secret() {
        assert_eq!(filled("http://${HOST}/"), Ok(("http://db/".into(), true)));
        assert_eq!(filled("${file:/run/secrets/key}"), Ok(("s3cret".into(), true)));
        assert_eq!(filled("${EMPTY}"), Ok((String::new(), true)));
    }

    #[test]
    fn a_default_stands_in_and_is_not_secret() {
        assert_eq!(filled("${NONE:-a b}${EMPTY:-c}${NONE:-}"), Ok(("a bc".into(), false)));
        assert_eq!(filled("${HOST:-other}"), Ok(("db".into(), true)));
    }

    #[test]
    fn dollars_that_are_not_ours_are_left_alone() {
        for (text, result) in [("$HOST $$ $(x) 5$", "$HOST $$ $(x) 5$"), ("$${HOST}", "${HOST}"), ("a$${b", "a${b")] {
            assert_eq!(filled(text), Ok((result.into(), false)));
        }
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let faults = filled("${A} ${file:/none} ${x%.*} ${B:-${C}} ${").unwrap_err();
        let places: Vec<usize> = faults.iter().map(|(at, _)| *at).collect();
        assert_eq!(places, [0, 5, 19, 27, 38]);
    }

    #[test]
    fn what_is_filled_in_is_bounded() {
        let sources = Sources { env: &|_| Some("x".repeat(100_000)), ..Sources::none() };
        assert!(fill(&"${A}".repeat(1_000), &sources).unwrap_err()[0].1.contains("longer than 131071 bytes"));
        assert_eq!(filled(&"${A}".repeat(1_000)).unwrap_err().len(), MAX_FAULTS);
    }

    #[test]
    fn what_is_left_open_is_not_looked_up_and_defaults_stand_in() {
        let unread: &dyn Fn(&str) -> Option<String> = &|name| panic!("{name} is asked for");
        let sources = Sources { env: &|_| Some("hunter2".into()), open: true, ..Sources::none() };
        let filled = fill("a ${HOST} ${file:/none}", &sources).unwrap();
        assert!(filled.open && filled.secret && !filled.text.contains("hunter2"), "{filled:?}");
        let filled = fill("${HOST:-db}", &sources).unwrap();
        assert_eq!((filled.text.as_ref(), filled.open, filled.secret), ("db", false, false));
        assert!(
            fill("${file:}${1}", &Sources { env: unread, ..sources }).is_err(),
            "what is no `${{…}}` is still wrong"
        );
    }

    #[test]
    fn a_value_is_not_filled_again() {
        let sources = Sources { env: &|_| Some("${HOST}".into()), ..Sources::none() };
        assert_eq!(fill("${A}", &sources).unwrap().text, "${HOST}");
    }
}
