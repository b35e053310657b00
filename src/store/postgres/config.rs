//! The address of the database, the login, and what a connection checks.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::passfile;
use crate::store::url::{self, NotAHost, encoded};
use crate::tls::{self, Checks, Encryption};

/// The port of a host that names none.
const DEFAULT_PORT: u16 = 5432;

/// How long connecting to one host may take.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection may stay silent before the kernel checks that its other end is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);

/// How to reach a PostgreSQL database.
///
/// Neither `Display` nor `Debug` shows the user or the password.
///
/// ```
/// use fencron::store::postgres::PostgresConfig;
/// let config: PostgresConfig = "postgres://fencron@10.0.0.5/ops?sslmode=verify-full".parse()?;
/// let config = config.with_password("s3cret");
/// assert!(!format!("{config:?}").contains("s3cret"));
/// assert_eq!(config.to_string(), "postgres://10.0.0.5:5432/ops");
/// # Ok::<(), fencron::store::postgres::NotAPostgresUrl>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// Hosts with their ports, as a URL has them.
    hosts: Vec<String>,
    database: String,
    user: Option<String>,
    password: Option<String>,
    /// The file that the password is in.
    passfile: Option<PathBuf>,
    encryption: Encryption,
    roots: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    /// What else stands behind the `?`, for the driver.
    rest: Vec<String>,
}

/// A text that does not say how to reach a PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PostgreSQL URL: {0} (write it like postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full)")]
pub struct NotAPostgresUrl(String);

fn problem<T>(what: impl Into<String>) -> Result<T, NotAPostgresUrl> {
    Err(NotAPostgresUrl(what.into()))
}

impl PostgresConfig {
    /// Asks as this user.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> PostgresConfig {
        self.user = Some(user.into());
        self
    }

    /// The user's password, for where it is not to stand in the URL. It is never shown.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> PostgresConfig {
        self.password = Some(password.into());
        self
    }

    /// A file of passwords, as PostgreSQL's own clients have it (`.pgpass`), which no other user may read. It is read for
    /// every new connection: a password that is changed, there and in the database, is no outage.
    #[must_use]
    pub fn with_passfile(mut self, path: impl Into<PathBuf>) -> PostgresConfig {
        self.passfile = Some(path.into());
        self
    }

    /// The file of passwords, where one was named.
    pub fn passfile(&self) -> Option<&Path> {
        self.passfile.as_deref()
    }

    /// The user and the password, where they were given. What is shown or logged is not to hold them.
    pub fn credentials(&self) -> (Option<&str>, Option<&str>) {
        (self.user.as_deref(), self.password.as_deref())
    }

    /// Hosts with their ports.
    #[cfg(feature = "cli")]
    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The files of certificates that it names.
    #[cfg(feature = "cli")]
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &PathBuf> {
        self.roots.iter().chain(self.identity.iter().map(|(certificate, _)| certificate))
    }

    /// Whether a connection checks that the certificate of the server names the host.
    #[cfg(feature = "cli")]
    pub(crate) fn names_its_server(&self) -> bool {
        self.encryption == Encryption::VerifyFull
    }

    /// The same database, reached at other hosts. A password in a file is read now, as the one of the hosts in the URL.
    #[cfg(feature = "cli")]
    pub(crate) fn through(self, hosts: impl IntoIterator<Item = String>) -> Result<PostgresConfig, String> {
        let password = match self.password_in_file()? {
            Some(password) => Some(password),
            None => self.password.clone(),
        };
        Ok(PostgresConfig { hosts: hosts.into_iter().collect(), password, passfile: None, ..self })
    }

    /// The URL with absolute paths, and without user and password.
    pub(in crate::store) fn for_others(&self) -> io::Result<String> {
        let mut pairs = self.rest.clone();
        let default = if self.roots.is_some() { Encryption::VerifyFull } else { Encryption::Prefer };
        if self.encryption != default {
            pairs.push(format!("sslmode={}", word(self.encryption)));
        }
        let (certificate, key) = self.identity.as_ref().map(|(certificate, key)| (certificate, key)).unzip();
        let named = [("sslrootcert", self.roots.as_ref()), ("sslcert", certificate), ("sslkey", key)];
        for (name, path) in named.into_iter().chain([("passfile", self.passfile.as_ref())]) {
            if let Some(path) = path {
                let path = std::path::absolute(path)?;
                let text = path.to_str().ok_or_else(|| io::Error::other(format!("the path of `{name}` is no text")))?;
                pairs.push(format!("{name}={}", encoded(text)));
            }
        }
        let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
        Ok(format!("{self}{query}"))
    }

    /// What the driver connects with.
    pub(super) fn driver(&self) -> Result<Config, NotAPostgresUrl> {
        let query = if self.rest.is_empty() { String::new() } else { format!("?{}", self.rest.join("&")) };
        let url = format!("postgresql://{}/{}{query}", self.hosts.join(","), self.database);
        let mut config: Config = match url.parse() {
            Ok(config) => config,
            // What it says may quote a part of the URL, in which there is no secret.
            Err(error) => return problem(std::error::Error::source(&error).unwrap_or(&error).to_string()),
        };
        if let Some(user) = &self.user {
            config.user(user);
        }
        if let Some(password) = &self.password {
            config.password(password);
        }
        if config.get_application_name().is_none() {
            config.application_name("fencron");
        }
        let within = config.get_connect_timeout().map_or(CONNECT_WITHIN, |given| CONNECT_WITHIN.min(*given));
        config.connect_timeout(within).keepalives_idle(TCP_KEEPALIVE);
        // Of several hosts, the one that takes writes; and none that has become a standby.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.ssl_mode(match self.encryption {
            Encryption::Disable => SslMode::Disable,
            Encryption::Prefer => SslMode::Prefer,
            Encryption::Require | Encryption::VerifyCa | Encryption::VerifyFull => SslMode::Require,
        });
        Ok(config)
    }

    /// The password in the file that was named, as it is now; or why there is none.
    pub(super) fn password_in_file(&self) -> Result<Option<String>, String> {
        let (None, Some(path)) = (&self.password, &self.passfile) else { return Ok(None) };
        let user = self.user.as_deref().ok_or("the URL names no user, whose password is in the passfile")?;
        passfile::password(path, &self.hosts, &self.database, user).map(Some)
    }

    /// What the connection checks. The files are read for every new connection, so that renewed ones are used.
    pub(super) fn tls(&self) -> Result<MakeRustlsConnect, String> {
        let (roots, identity) = (self.roots.as_deref(), self.identity.as_ref());
        tls::config(&Checks { encryption: self.encryption, roots, identity }).map(MakeRustlsConnect::new)
    }
}

impl fmt::Display for PostgresConfig {
    /// What an operator recognizes the store by, and nothing that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}/{}", self.hosts.join(","), self.database)
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresConfig({self})")
    }
}

impl FromStr for PostgresConfig {
    type Err = NotAPostgresUrl;

    /// Reads `postgres://[user[:password]@]host[:port][,host[:port]…]/database[?sslmode=…&sslrootcert=…&…]`.
    fn from_str(url: &str) -> Result<PostgresConfig, NotAPostgresUrl> {
        let rest = match url.split_once("://") {
            Some(("postgres" | "postgresql", rest)) => rest,
            _ => return problem("it does not begin with postgres:// or postgresql://"),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if database.is_empty() || database.contains('/') {
            return problem("it names no database behind the host (write %2F for a `/` in a name or password)");
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let mut config = PostgresConfig {
            hosts: hosts.split(',').map(host).collect::<Result<_, _>>()?,
            database: database.to_owned(),
            user: None,
            password: None,
            passfile: None,
            encryption: Encryption::Prefer,
            roots: None,
            identity: None,
            rest: Vec::new(),
        };
        if let Some(login) = login {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
            config.user = Some(decoded(user)?).filter(|user| !user.is_empty());
            config.password = password.map(decoded).transpose()?;
        }
        config.read_parameters(query)?;
        config.driver()?;
        Ok(config)
    }
}

impl PostgresConfig {
    fn read_parameters(&mut self, query: &str) -> Result<(), NotAPostgresUrl> {
        let (mut encryption, mut certificate, mut key) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "user" => self.user = Some(decoded(value)?),
                "password" => self.password = Some(decoded(value)?),
                "sslmode" => encryption = Some(mode(value)?),
                "sslrootcert" if value == "system" => self.roots = None,
                "sslrootcert" => self.roots = Some(decoded(value)?.into()),
                "sslcert" => certificate = Some(PathBuf::from(decoded(value)?)),
                "passfile" => self.passfile = Some(decoded(value)?.into()),
                "sslkey" => key = Some(PathBuf::from(decoded(value)?)),
                "target_session_attrs" | "dbname" | "host" | "port" => {
                    return problem(format!("`{name}` cannot be set behind the `?`"));
                }
                _ => self.rest.push(pair.to_owned()),
            }
        }
        self.identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return problem("a client certificate needs both sslcert and sslkey"),
        };
        // A root certificate that is named has to count.
        let default = if self.roots.is_some() { Encryption::VerifyFull } else { Encryption::Prefer };
        self.encryption = encryption.unwrap_or(default);
        if self.roots.is_some() && self.encryption < Encryption::VerifyCa {
            return problem("it names an sslrootcert that its sslmode does not look at: use verify-full");
        }
        if self.identity.is_some() && self.encryption == Encryption::Disable {
            return problem("it has an sslcert that is not sent with sslmode=disable");
        }
        Ok(())
    }
}

fn mode(value: &str) -> Result<Encryption, NotAPostgresUrl> {
    use Encryption::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    match [Disable, Prefer, Require, VerifyCa, VerifyFull].into_iter().find(|mode| word(*mode) == value) {
        Some(mode) => Ok(mode),
        None => problem("its sslmode is none of disable, prefer, require, verify-ca, verify-full"),
    }
}

fn word(encryption: Encryption) -> &'static str {
    match encryption {
        Encryption::Disable => "disable",
        Encryption::Prefer => "prefer",
        Encryption::Require => "require",
        Encryption::VerifyCa => "verify-ca",
        Encryption::VerifyFull => "verify-full",
    }
}

/// `host:port` of `host` or `host:port`. A socket's directory is percent-encoded, as a URL has it.
fn host(text: &str) -> Result<String, NotAPostgresUrl> {
    url::endpoint(text, DEFAULT_PORT, "#@").or_else(|wrong| {
        problem(match wrong {
            NotAHost::Empty => "it names no host",
            NotAHost::Colons => "a host has more than one colon: put an IPv6 address in brackets",
            NotAHost::Port => "a host has no valid port (write %3A, %40 and %2F for `:`, `@` and `/` in a password)",
        })
    })
}

fn decoded(text: &str) -> Result<String, NotAPostgresUrl> {
    url::decoded(text).or_else(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> PostgresConfig {
        url.parse().unwrap()
    }

    fn refused(url: &str) -> String {
        url.parse::<PostgresConfig>().unwrap_err().to_string()
    }

    #[test]
    fn a_url_is_read_into_its_parts() {
        let config = parsed("postgresql://me:p%40ss@a,[::1]:5433/shop?connect_timeout=2");
        assert_eq!(config.credentials(), (Some("me"), Some("p@ss")));
        assert_eq!(config.to_string(), "postgres://a:5432,[::1]:5433/shop");
        let driver = config.driver().unwrap();
        assert_eq!((driver.get_ports(), driver.get_dbname()), (&[5432, 5433][..], Some("shop")));
        assert_eq!(driver.get_connect_timeout(), Some(&Duration::from_secs(2)));
        assert_eq!(driver.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }

    #[test]
    fn what_others_are_given_names_the_same_store_without_who_asks() {
        let url = "postgres://me:s3cret@a/shop?sslmode=verify-ca&sslrootcert=/c%26a.pem&sslcert=/c&sslkey=/k&options=x";
        let (mut meant, others) = (parsed(url), parsed(url).for_others().unwrap());
        assert!(!others.contains("s3cret") && !others.contains("me:"), "{others}");
        (meant.user, meant.password) = (None, None);
        assert_eq!(parsed(&others), meant);
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_database_that_is_reached_at_other_hosts_has_the_password_of_its_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        std::fs::write(&file, "a:5432:shop:me:s3cret\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = parsed("postgres://me@a/shop").with_passfile(&file);
        let through = config.through(["127.0.0.1:7".to_owned()]).unwrap();
        assert_eq!(through.to_string(), "postgres://127.0.0.1:7/shop");
        assert_eq!(through.credentials(), (Some("me"), Some("s3cret")));
        let missing = parsed("postgres://me@a/shop").with_passfile(dir.path().join("none"));
        assert!(missing.through(["127.0.0.1:7".to_owned()]).is_err());
    }

    #[test]
    fn the_password_is_in_no_output_and_in_no_error() {
        let config = parsed("postgres://me:s3cret@a/shop");
        assert!(!format!("{config:?} {config}").contains("s3cret"));
        for url in ["postgres://me:s3cret%@a/b", "postgres://me:s3cret@a/b?x=1", "postgres://me:s3cret@a:b:c/d"] {
            assert!(!refused(url).contains("s3cret"), "{}", refused(url));
        }
    }

    #[test]
    fn what_leads_to_no_database_is_refused_with_a_reason() {
        for (url, reason) in [
            ("postgres://", "names no database"),
            ("postgres://a", "names no database"),
            ("postgres:///shop", "names no host"),
            ("postgres://a:port/shop", "no valid port"),
            ("postgres://::1/shop", "brackets"),
            ("postgres://a/shop?sslmode=most", "sslmode"),
            ("postgres://a/shop?sslcert=/c", "both sslcert and sslkey"),
            ("postgres://a/shop?sslrootcert=/ca&sslmode=require", "does not look at"),
            ("postgres://a/shop?no_such=1", "no_such"),
            ("postgres://a/shop?host=b", "`host`"),
        ] {
            assert!(refused(url).contains(reason), "{url}: {}", refused(url));
        }
        assert_eq!(parsed("postgres://a/shop?sslrootcert=/ca").encryption, Encryption::VerifyFull);
    }
}
