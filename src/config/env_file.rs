//! `env_file`: files of `NAME=value` lines, as `docker run --env-file` and systemd read them.

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use super::problem::quoted;
use super::tables::{MAX_TEXT_BYTES, MAX_VARIABLES};
use super::values::check_variable;
use super::walk::{Spot, Walk};
use crate::job::Text;

/// The variables of the files that `spot` names; a later file wins over an earlier one. All of them are secret: such
/// files are where secrets are kept.
pub fn read(walk: &mut Walk, spot: Spot) -> BTreeMap<String, Text> {
    let mut env = BTreeMap::new();
    for item in walk.items("a file, or a list of files", &spot).unwrap_or_default() {
        let Some(named) = walk.text(item) else { continue };
        // Where secrets are not to be had, neither is the file.
        if walk.sources.open {
            walk.left_open += 1;
            continue;
        }
        let shown = quoted(&named.to_string());
        match (walk.sources.file)(FilePath::new(named.expose())) {
            Err(error) => walk.wrong(item, format!("the file {shown} cannot be read: {error}")),
            Ok(text) => match parse(&text) {
                Ok(variables) => env.extend(variables),
                Err((line, why)) => walk.wrong(item, format!("line {line} of {shown} {why}")),
            },
        }
    }
    if env.len() > MAX_VARIABLES {
        walk.wrong(spot, format!("{} variables are too many: a job sets at most {MAX_VARIABLES}", env.len()));
        return BTreeMap::new();
    }
    env
}

/// The variables of one file; otherwise the first line that is none, without its text: it may be a secret.
fn parse(text: &str) -> Result<BTreeMap<String, Text>, (usize, String)> {
    let mut env = BTreeMap::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let Some((name, value)) = line.split_once('=') else {
            return Err((number, "is not `NAME=value`".to_owned()));
        };
        check_variable(name.trim_end()).map_err(|_| {
            let why = "does not begin with a name that a job may set: letters, digits and `_`, and not `FENCRON_…`";
            (number, why.to_owned())
        })?;
        let value = unquoted(value.trim_start()).map_err(|why| (number, why))?;
        if value.contains('\0') || value.len() > MAX_TEXT_BYTES {
            return Err((number, format!("has a NUL character or more than {MAX_TEXT_BYTES} bytes")));
        }
        env.insert(name.trim_end().to_owned(), Text::secret(value));
    }
    Ok(env)
}

/// Quotes around the whole value are taken off; nothing in it is replaced.
fn unquoted(value: &str) -> Result<&str, String> {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            let inner = rest.strip_suffix(quote).filter(|inner| !inner.contains(quote));
            return inner.ok_or_else(|| format!("has a {quote} that does not end the value: a value is one line"));
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
        Ok(parse(text)?.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect())
    }

    #[test]
    fn lines_are_variables() {
        let text =
            "\u{feff}# where it writes\r\nHOST=db\r\n\n export USER = me \nPASSWORD='a b # $c'\nEMPTY=\nURL=\"x=y\"\n";
        let found = exposed(text).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, [("EMPTY", ""), ("HOST", "db"), ("PASSWORD", "a b # $c"), ("URL", "x=y"), ("USER", "me")]);
    }

    #[test]
    fn what_is_none_is_told_by_its_line_and_not_shown() {
        for (text, line) in [("A=1\nhunter2", 2), ("FENCRON_X=hunter2", 1), ("A='hunter2", 1), ("a b=hunter2", 1)] {
            let (found, why) = exposed(text).unwrap_err();
            assert!(found == line && !why.contains("hunter2"), "{text}: {why}");
        }
    }
}
