//! The URL of a database, read into its parts.
//!
//! No message quotes it: there may be a password in it.

use std::path::PathBuf;

use super::libpq;
use crate::config::keys;
use crate::job::{Database, Encryption, Server, Session, Target, Text};

const POSTGRES_PORT: u16 = 5432;
const MYSQL_PORT: u16 = 3306;

/// The parameters that a URL may have, under PostgreSQL's names and under MySQL's.
const PARAMETERS: [&str; 10] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "host", "socket"];

/// What stands before the `?` of a URL, and which PostgreSQL lets stand behind it too.
const PARTS: [&str; 4] = ["user", "password", "dbname", "port"];

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
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (login, place),
        None => ("", authority),
    };
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
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
        identity: None,
        session: Session::default(),
    };
    let (mut encryption, mut certificate, mut private_key) = (None, None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value)?;
        match name {
            "sslmode" | "ssl-mode" => encryption = Some(mode(&value)?),
            "sslrootcert" | "ssl-ca" if value == "system" => server.roots = None,
            "sslrootcert" | "ssl-ca" => server.roots = Some(PathBuf::from(value)),
            "sslcert" | "ssl-cert" => certificate = Some(PathBuf::from(value)),
            "sslkey" | "ssl-key" => private_key = Some(PathBuf::from(value)),
            "host" | "socket" if value.starts_with('/') => server.host = like(url, value),
            "host" if kind == Database::Postgres && server.host.expose().is_empty() => server.host = like(url, value),
            "host" | "socket" => return Err(format!("has a `{name}` that is no path: the host stands behind `//`")),
            _ if kind == Database::Postgres && PARTS.contains(&name) => part(&mut server, url, name, value)?,
            _ if kind == Database::Postgres && libpq::read(&mut server.session, name, &value)? => {}
            _ => return Err(unknown(name, kind, url)),
        }
    }
    server.identity = match (certificate, private_key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err("has one of `sslcert` and `sslkey`: a client shows its certificate, and proves by its key \
                         that it is its own"
                .to_owned());
        }
    };
    if server.identity.is_some() && matches!(encryption, Some(Encryption::Disable)) {
        return Err("has an `sslcert` that is not sent with `sslmode=disable`".to_owned());
    }
    // A root certificate that is named has to count.
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

/// A part that may stand behind the `?` as well, but not twice.
fn part(server: &mut Server, url: &Text, name: &str, value: String) -> Result<(), String> {
    let twice = || format!("has its `{name}` twice: keep one of them");
    let place = match name {
        "user" => &mut server.user,
        "password" => &mut server.password,
        "dbname" => &mut server.database,
        _ if server.port != POSTGRES_PORT => return Err(twice()),
        _ => {
            server.port = read_port(&value)?;
            return Ok(());
        }
    };
    let value = if name == "password" { Text::secret(value) } else { like(url, value) };
    if place.replace(value).is_some() { Err(twice()) } else { Ok(()) }
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
        Some(port) => read_port(port).map(|port| (host, port)),
    }
}

fn read_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("has a port that is none: use 1 to 65535 (in a password, write `%3A`, `%40` and `%2F` for `:`, `@` \
                  and `/`)"
            .to_owned()),
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

fn unknown(name: &str, kind: Database, url: &Text) -> String {
    let of_kind: &[&str] = if kind == Database::Postgres { &libpq::NAMES } else { &[] };
    let parameters = || PARAMETERS.iter().chain(of_kind).copied();
    let known = keys::list(parameters());
    if url.is_secret() {
        return format!("has a parameter that is not known here: there are {known}");
    }
    match keys::nearest(name, parameters()) {
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
    fn what_libpq_knows_is_taken_or_said_to_be_of_no_use() {
        let server = read(
            "postgres:///?host=db&port=5433&user=me&password=p%40ss&dbname=shop&application_name=nightly&\
             options=-c%20search_path%3Da&connect_timeout=3&target_session_attrs=read-write&channel_binding=require&\
             keepalives_idle=30&gssencmode=disable&sslcert=/c.pem&sslkey=/k.pem",
        )
        .unwrap();
        let text = |text: Option<Text>| text.unwrap().expose().to_owned();
        assert_eq!((server.host.expose(), server.port), ("db", 5433));
        assert_eq!(
            (text(server.user), text(server.database), text(server.password)),
            ("me".into(), "shop".into(), "p@ss".into())
        );
        assert_eq!(server.session.options.as_deref(), Some("-c search_path=a"));
        assert_eq!(server.session.connect_timeout, Some(std::time::Duration::from_secs(3)));
        assert_eq!(server.session.server, crate::job::WantedServer::Writable);
        assert_eq!(server.identity, Some(("/c.pem".into(), "/k.pem".into())));
        for (parameters, why) in [
            ("sslcrl=/x.pem", "does not know"),
            ("service=shop", "name the server"),
            ("gssencmode=require", "cannot be had"),
            ("connect_timeout=soon", "whole seconds"),
            ("sslcert=/c.pem", "one of `sslcert` and `sslkey`"),
            ("aplication_name=x", "did you mean `application_name`"),
            ("user=me", "has its `user` twice"),
        ] {
            let refused = read(&format!("postgres://me@db/shop?{parameters}")).unwrap_err();
            assert!(refused.contains(why), "{parameters}: {refused}");
        }
        assert!(read("mysql://db/shop?application_name=x").unwrap_err().contains("not known here"));
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
