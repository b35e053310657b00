//! The URL of a database, read into its parts.
//!
//! No message quotes it: there may be a password in it.

use std::path::PathBuf;

use crate::config::keys;
use crate::job::{Database, Encryption, Server, Target, Text};

const POSTGRES_PORT: u16 = 5432;
const MYSQL_PORT: u16 = 3306;

/// The parameters that a URL may have, under PostgreSQL's names and under MySQL's.
const PARAMETERS: [&str; 6] = ["sslmode", "sslrootcert", "ssl-mode", "ssl-ca", "host", "socket"];

const FORMS: &str = "write `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, `mysql://…` or `sqlite:PATH`";

/// Reads `url`. The error follows the words "this URL".
pub fn parse(url: &Text) -> Result<(Database, Target), String> {
    let text = url.expose();
    let Some((scheme, rest)) = text.split_once(':') else { return Err(format!("names no kind of database: {FORMS}")) };
    let kind = match scheme.to_ascii_lowercase().as_str() {
        "postgres" | "postgresql" => Database::Postgres,
        "mysql" | "mariadb" => Database::Mysql,
        "sqlite" => return sqlite(url, rest).map(|target| (Database::Sqlite, target)),
        _ => return Err(format!("is of no kind of database that is known here: {FORMS}")),
    };
    let rest = rest.strip_prefix("//").ok_or_else(|| format!("lacks `//` behind its scheme: {FORMS}"))?;
    server(url, kind, rest).map(|server| (kind, Target::Server(Box::new(server))))
}

fn sqlite(url: &Text, rest: &str) -> Result<Target, String> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    match path {
        "" => Err("names no file: write `sqlite:PATH`".to_owned()),
        ":memory:" => Err("names no file: what is in memory is gone after each run".to_owned()),
        _ if path.contains('?') => Err("has parameters, of which SQLite has none here: write `sqlite:PATH`".to_owned()),
        _ => Ok(Target::File(like(url, path.to_owned()))),
    }
}

/// A part of `url`, as secret as that is.
fn like(url: &Text, part: String) -> Text {
    if url.is_secret() { Text::secret(part) } else { Text::plain(part) }
}

fn server(url: &Text, kind: Database, rest: &str) -> Result<Server, String> {
    if rest.contains('#') {
        return Err("has a `#` in it: write `%23` for one in a name or password".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if database.contains('/') {
        return Err("has more than a database behind its host: write `%2F` for a `/` in a name or password".to_owned());
    }
    let (who, place) = match authority.rsplit_once('@') {
        Some((who, place)) => (who, place),
        None => ("", authority),
    };
    let (user, password) = who.split_once(':').map_or((who, None), |(user, password)| (user, Some(password)));
    let (host, port) = host_and_port(kind, place)?;
    let given = |part: &str| decoded(part).map(|part| Some(part).filter(|part| !part.is_empty()));
    let mut server = Server {
        host: like(url, decoded(host)?),
        port,
        user: given(user)?.map(|user| like(url, user)),
        // A password is one wherever it stands.
        password: password.map(decoded).transpose()?.map(Text::secret),
        database: given(database)?.map(|database| like(url, database)),
        encryption: Encryption::Prefer,
        roots: None,
    };
    let mut encryption = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value)?;
        match name {
            "sslmode" | "ssl-mode" => encryption = Some(mode(&value)?),
            "sslrootcert" | "ssl-ca" if value == "system" => server.roots = None,
            "sslrootcert" | "ssl-ca" => server.roots = Some(PathBuf::from(value)),
            "host" | "socket" if value.starts_with('/') => server.host = like(url, value),
            "host" | "socket" => return Err(format!("has a `{name}` that is no path: the host stands behind `//`")),
            _ => return Err(unknown(name, url)),
        }
    }
    // Who names a root wants it to count.
    let default = if server.roots.is_some() { Encryption::VerifyFull } else { Encryption::Prefer };
    server.encryption = encryption.unwrap_or(default);
    // Its client library compares names by the words of an error that are others by now.
    if kind == Database::Mysql && server.encryption == Encryption::VerifyCa {
        return Err("asks for `verify-ca`, which there is for PostgreSQL alone: use `verify-full`".to_owned());
    }
    if server.roots.is_some() && server.encryption < Encryption::VerifyCa {
        return Err("names root certificates that its `sslmode` does not look at: use `verify-full`".to_owned());
    }
    if server.host.expose().is_empty() {
        return Err(format!("names no host: {FORMS}"));
    }
    Ok(server)
}

fn host_and_port(kind: Database, place: &str) -> Result<(&str, u16), String> {
    let default = if kind == Database::Mysql { MYSQL_PORT } else { POSTGRES_PORT };
    if place.contains(',') {
        return Err("names several hosts: name one, or a name that always leads to the primary".to_owned());
    }
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("has a `[` without a `]`")?;
            (host, rest.strip_prefix(':'))
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    match port {
        None | Some("") => Ok((host, default)),
        Some(port) => match port.parse::<u16>() {
            Ok(port @ 1..) => Ok((host, port)),
            _ => Err("has a port that is none: use 1 to 65535 (in a password, write `%3A`, `%40` and `%2F` for `:`, \
                      `@` and `/`)"
                .to_owned()),
        },
    }
}

fn mode(value: &str) -> Result<Encryption, String> {
    Ok(match value.to_ascii_lowercase().replace('_', "-").as_str() {
        "disable" | "disabled" => Encryption::Disable,
        "prefer" | "preferred" => Encryption::Prefer,
        "require" | "required" => Encryption::Require,
        "verify-ca" => Encryption::VerifyCa,
        "verify-full" | "verify-identity" => Encryption::VerifyFull,
        _ => {
            let modes = "`disable`, `prefer`, `require`, `verify-ca` or `verify-full`";
            return Err(format!("has an `sslmode` that is none: use {modes}"));
        }
    })
}

fn unknown(name: &str, url: &Text) -> String {
    let known = keys::list(PARAMETERS.into_iter());
    if url.is_secret() {
        return format!("has a parameter that is not known here: there are {known}");
    }
    match keys::nearest(name, PARAMETERS.into_iter()) {
        Some(meant) => format!("has a parameter that is not known here: did you mean `{meant}`?"),
        None => format!("has a parameter that is not known here: there are {known}"),
    }
}

/// `text` with every `%41` replaced.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "has a `%` in it that two hexadecimal digits do not follow: write `%25` for one".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(wrong)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 once its `%` are replaced".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Server, String> {
        match parse(&Text::plain(url))?.1 {
            Target::Server(server) => Ok(*server),
            Target::File(_) => Err("a file".into()),
        }
    }

    #[test]
    fn a_url_is_read_into_its_parts() {
        let server = read("postgres://me:p%40ss@[::1]:5433/shop?sslmode=verify-full&sslrootcert=/ca.pem").unwrap();
        assert_eq!((server.host.expose(), server.port), ("::1", 5433));
        assert_eq!(server.user.unwrap().expose(), "me");
        assert_eq!(server.password.as_ref().unwrap().expose(), "p@ss");
        assert!(server.password.unwrap().is_secret());
        assert_eq!(server.database.unwrap().expose(), "shop");
        assert_eq!((server.encryption, server.roots), (Encryption::VerifyFull, Some("/ca.pem".into())));
        let server = read("mariadb://db").unwrap();
        assert_eq!((server.port, server.user, server.encryption), (MYSQL_PORT, None, Encryption::Prefer));
        assert_eq!(read("mysql://db?ssl-ca=/ca.pem").unwrap().encryption, Encryption::VerifyFull);
        assert_eq!(read("postgresql:///shop?host=/run/postgresql").unwrap().host.expose(), "/run/postgresql");
        for url in ["sqlite:/a/b.db", "sqlite:///a/b.db"] {
            assert_eq!(parse(&Text::plain(url)).unwrap().1, Target::File(Text::plain("/a/b.db")), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        let urls = [
            "postgres://me:hunter2@db:port/shop",
            "postgres://me:hunter2@db/shop?sslmod=require",
            "postgres://me:hunter2@db/shop?sslmode=full",
            "postgres://me:hunter2@db/shop?sslmode=require&sslrootcert=/ca.pem",
            "postgres://me:hunter2@a,b/shop",
            "postgres://me:hun/ter2@db/shop",
            "postgres://me:hunter2%zz@db/shop",
            "postgres:me:hunter2@db/shop",
            "oracle://me:hunter2@db/shop",
            "me:hunter2@db",
            "hunter2",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:a.db?mode=ro",
            "mysql://",
            "mysql://me:hunter2@db/shop?sslmode=verify-ca",
        ];
        for url in urls {
            let why = parse(&Text::plain(url)).unwrap_err();
            assert!(!why.contains("hunter2"), "{url}: {why}");
        }
    }
}
