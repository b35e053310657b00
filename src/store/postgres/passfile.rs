//! The file of passwords of PostgreSQL's own clients: a line `HOST:PORT:DATABASE:USER:PASSWORD` each, of which the first
//! that fits counts. `*` fits everything, and `\\` stands before a `:` or `\\` that belongs to a field.

use std::fs::File;
use std::path::Path;

use crate::store::secret;

/// The password for this user in this database, on any of these hosts (`host:port`); otherwise why there is none. The
/// reason repeats nothing of the file.
pub(super) fn password(path: &Path, hosts: &[String], database: &str, user: &str) -> Result<String, String> {
    let cannot = |why: String| format!("the passwords in {} cannot be used: {why}", path.display());
    let file = secret::open(path).map_err(|error| cannot(error.to_string()))?;
    refuse_shared(&file).map_err(cannot)?;
    let text = secret::text(file).map_err(|error| cannot(error.to_string()))?;
    let found = hosts.iter().find_map(|host| text.lines().find_map(|line| password_in(line, host, database, user)));
    found.ok_or_else(|| cannot(format!("no line is for {user} in {database} on {}", hosts.join(" or "))))
}

/// What other users can read is no secret.
#[cfg(unix)]
fn refuse_shared(file: &File) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = file.metadata().map_err(|error| error.to_string())?.mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(format!("other users may read or write it (mode {mode:o}): run `chmod 600` on it"))
}

#[cfg(not(unix))]
fn refuse_shared(_file: &File) -> Result<(), String> {
    Ok(())
}

fn password_in(line: &str, host: &str, database: &str, user: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let (host, port) = host.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let mut rest = line;
    for expected in [host, port, database, user] {
        let (field, behind) = field(rest);
        if field != "*" && unescaped(field) != expected {
            return None;
        }
        rest = behind?;
    }
    Some(unescaped(rest))
}

/// The first field, and what stands behind its `:`.
fn field(text: &str) -> (&str, Option<&str>) {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b':' if !is_escaped => return (&text[..at], Some(&text[at + 1..])),
            b'\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    (text, None)
}

fn unescaped(field: &str) -> String {
    let (mut text, mut rest) = (String::with_capacity(field.len()), field.chars());
    while let Some(next) = rest.next() {
        text.push(if next == '\\' { rest.next().unwrap_or(next) } else { next });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const LINES: &str = "# of the shop\n\
        other:*:*:*:wrong\n\
        db-1:5433:shop:me:by port\n\
        *:5432:shop:m\\:e:by a name: with a colon\n\
        db-1:5432:*:me:s3cr\\:et\\\\\n\
        ::1:*:shop:me:never\n";

    fn asked(path: &Path, host: &str, user: &str) -> Result<String, String> {
        password(path, &[host.to_owned()], "shop", user)
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, LINES).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(asked(&path, "db-1:5433", "me").unwrap(), "by port");
        assert_eq!(asked(&path, "db-1:5432", "me").unwrap(), "s3cr:et\\");
        assert_eq!(asked(&path, "db-2:5432", "m:e").unwrap(), "by a name: with a colon");
        let none = asked(&path, "db-2:5432", "me").unwrap_err();
        assert!(none.contains("no line is for me in shop on db-2:5432") && !none.contains("s3cr"), "{none}");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:s3cret\n").unwrap();
        for (mode, is_refused) in [(0o640, true), (0o604, true), (0o600, false), (0o400, false)] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let answer = asked(&path, "a:1", "me");
            assert_eq!(answer.is_err(), is_refused, "{mode:o}: {answer:?}");
        }
        let error = asked(directory.path(), "a:1", "me").unwrap_err();
        assert!(error.contains("no regular file"), "{error}");
    }
}
