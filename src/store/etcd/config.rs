//! The addresses of the members, the login, and how long to wait.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::store::url::{self, NotAHost, encoded};
use crate::store::{StoreError, secret};

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// How long a connection may stay silent before the kernel checks that its other end is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);

/// How to reach an etcd cluster.
///
/// ```
/// use fencron::store::etcd::EtcdConfig;
/// let config: EtcdConfig = "etcds://shop@10.0.0.1:2379,10.0.0.2:2379?ca=/etc/ca.pem".parse()?;
/// let config = config.with_password("s3cret");
/// assert!(!format!("{config:?}").contains("s3cret"));
/// assert_eq!(config.to_string(), "etcds://10.0.0.1:2379,10.0.0.2:2379");
/// # Ok::<(), fencron::store::etcd::NotAnEtcdUrl>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    endpoints: Vec<String>,
    tls: Option<Tls>,
    user: Option<String>,
    password: Password,
    timeouts: Timeouts,
}

/// Where a password is.
#[derive(Clone, PartialEq, Eq)]
enum Password {
    Given(String),
    /// In this file, which is read whenever it is needed: it may be another one by then.
    In(PathBuf),
}

/// What a TLS connection is made with. The files are read for every new connection, so that renewed ones are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM certificates of the authorities to trust; without it, the system's.
    pub ca: Option<PathBuf>,
    /// The PEM certificate (chain) and PEM key with which this client identifies itself.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name the members' certificates bear, where it is not the endpoint's host.
    pub domain: Option<String>,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a TCP connection to one member.
    pub connect: Duration,
    /// For one member's answer to one request (a keep-alive waits half as long before it asks another).
    pub attempt: Duration,
    /// For how long new attempts are begun: a call ends after this and one attempt more. (Connecting and renewing a
    /// token may each take as long as an attempt.)
    pub call: Duration,
}

impl Default for Timeouts {
    /// A member that hangs costs a keep-alive one second and another request two; an election (one to two seconds
    /// with etcd's defaults) is waited for.
    fn default() -> Timeouts {
        Timeouts { connect: Duration::from_secs(1), attempt: Duration::from_secs(2), call: Duration::from_secs(5) }
    }
}

/// A text that does not say how to reach an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an etcd URL: {0} (write it like etcd://10.0.0.1:2379,10.0.0.2:2379 or etcds://user@host?ca=/path/ca.pem)")]
pub struct NotAnEtcdUrl(String);

impl EtcdConfig {
    /// The members at these endpoints (`host` or `host:port`), in the order in which they are tried.
    pub fn new<E: AsRef<str>>(endpoints: impl IntoIterator<Item = E>) -> Result<EtcdConfig, NotAnEtcdUrl> {
        let endpoints = endpoints.into_iter().map(|one| endpoint(one.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(NotAnEtcdUrl("it names no endpoint".into()));
        }
        Ok(EtcdConfig {
            endpoints,
            tls: None,
            user: None,
            password: Password::Given(String::new()),
            timeouts: Timeouts::default(),
        })
    }

    /// Talks TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> EtcdConfig {
        self.tls = Some(tls);
        self
    }

    /// Asks as this user.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> EtcdConfig {
        self.user = Some(user.into());
        self
    }

    /// The user's password, for where it is not to stand in the URL. It is never shown.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> EtcdConfig {
        self.password = Password::Given(password.into());
        self
    }

    /// The file that the user's password is in, without the line end. It is read again for every token, so that a password
    /// that is changed, there and in etcd, is no outage.
    #[must_use]
    pub fn with_password_file(mut self, path: impl Into<PathBuf>) -> EtcdConfig {
        self.password = Password::In(path.into());
        self
    }

    /// The file that the password is in.
    pub fn password_file(&self) -> Option<&Path> {
        match &self.password {
            Password::In(path) => Some(path),
            Password::Given(_) => None,
        }
    }

    /// Waits differently long.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> EtcdConfig {
        self.timeouts = timeouts;
        self
    }

    /// Whether the URL, or the program, named a user and gave a password.
    pub fn has_credentials(&self) -> (bool, bool) {
        (self.user.is_some(), self.password != Password::Given(String::new()))
    }

    /// Whether both name one and the same member, and so mean one cluster.
    #[cfg(feature = "cli")]
    pub(crate) fn has_a_member_of(&self, other: &EtcdConfig) -> bool {
        self.endpoints.iter().any(|endpoint| other.endpoints.contains(endpoint))
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The same cluster, reached at other endpoints.
    #[cfg(feature = "cli")]
    pub(crate) fn through<E: AsRef<str>>(
        self,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<EtcdConfig, NotAnEtcdUrl> {
        let EtcdConfig { endpoints, .. } = EtcdConfig::new(endpoints)?;
        Ok(EtcdConfig { endpoints, ..self })
    }

    /// The files of certificates that it names.
    #[cfg(feature = "cli")]
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &PathBuf> {
        self.tls.iter().flat_map(|tls| tls.ca.iter().chain(tls.identity.iter().map(|(certificate, _)| certificate)))
    }

    #[cfg(feature = "cli")]
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// The URL with absolute paths, and without user and password.
    pub(in crate::store) fn for_others(&self) -> io::Result<String> {
        let mut url = self.to_string();
        let Some(tls) = &self.tls else { return Ok(url) };
        let (cert, key) = tls.identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path())).unzip();
        let mut between = '?';
        for (name, path) in [("ca", tls.ca.as_deref()), ("cert", cert), ("key", key)] {
            if let Some(path) = path {
                let path = std::path::absolute(path)?;
                let text = path.to_str().ok_or_else(|| io::Error::other(format!("the path of `{name}` is no text")))?;
                url += &format!("{between}{name}={}", encoded(text));
                between = '&';
            }
        }
        if let Some(domain) = &tls.domain {
            url += &format!("{between}domain={}", encoded(domain));
        }
        Ok(url)
    }

    /// User and password, where a user is given, and the password is in no file. What is shown or logged is not to hold
    /// them.
    pub fn credentials(&self) -> Option<(String, String)> {
        match &self.password {
            Password::Given(password) => self.user.clone().map(|user| (user, password.clone())),
            Password::In(_) => None,
        }
    }

    /// The user.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// User and password, where a user is given, as they are now; or why the password cannot be read.
    pub(super) async fn present_credentials(&self) -> Result<Option<(String, String)>, String> {
        let (Some(user), Password::In(path)) = (&self.user, &self.password) else { return Ok(self.credentials()) };
        let path = path.clone();
        let read = tokio::task::spawn_blocking(move || {
            read_password(&path)
                .map_err(|error| format!("the password's file {} cannot be read: {error}", path.display()))
        });
        let password = read.await.map_err(|error| error.to_string())??;
        Ok(Some((user.clone(), password)))
    }

    /// The endpoint as the client wants it.
    pub(super) fn uri(&self, endpoint: &str) -> String {
        format!("{}://{endpoint}", if self.tls.is_some() { "https" } else { "http" })
    }

    /// The client's options, with the certificates read again.
    ///
    /// No HTTP/2 keep-alive: members close connections that are pinged more often than every 5 s, or while idle
    /// (see docs/decisions/0005-etcd.md). Requests have time-outs, watches ask for signs of life.
    pub(super) async fn options(&self) -> Result<ConnectOptions, StoreError> {
        let options = ConnectOptions::new()
            .with_connect_timeout(self.timeouts.connect)
            .with_tcp_keepalive(TCP_KEEPALIVE)
            .with_require_leader(true);
        match &self.tls {
            None => Ok(options),
            Some(tls) => Ok(options.with_tls(self.tls_options(tls).await?)),
        }
    }

    async fn tls_options(&self, tls: &Tls) -> Result<TlsOptions, StoreError> {
        let read = async |what: &str, path: &PathBuf| {
            tokio::fs::read(path).await.map_err(|error| StoreError::Denied {
                store: self.to_string(),
                why: format!("the {what} {} cannot be read: {error}", path.display()),
            })
        };
        let mut options = TlsOptions::new();
        options = match &tls.ca {
            Some(ca) => options.ca_certificate(Certificate::from_pem(read("CA certificate", ca).await?)),
            None => options.with_native_roots(),
        };
        if let Some((certificate, key)) = &tls.identity {
            let certificate = read("client certificate", certificate).await?;
            options = options.identity(Identity::from_pem(certificate, read("client key", key).await?));
        }
        if let Some(domain) = &tls.domain {
            options = options.domain_name(domain);
        }
        Ok(options)
    }
}

impl fmt::Display for EtcdConfig {
    /// Scheme and endpoints: what an operator recognizes the store by, and nothing that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "etcds" } else { "etcd" };
        write!(f, "{scheme}://{}", self.endpoints.join(","))
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl FromStr for EtcdConfig {
    type Err = NotAnEtcdUrl;

    /// Reads `etcd[s]://[user[:password]@]host[:port][,host[:port]…][?ca=…&cert=…&key=…&domain=…]`. In user, password
    /// and paths, characters that would count as punctuation are percent-encoded.
    fn from_str(url: &str) -> Result<EtcdConfig, NotAnEtcdUrl> {
        let (secure, rest) = match url.split_once("://") {
            Some(("etcd", rest)) => (false, rest),
            Some(("etcds", rest)) => (true, rest),
            _ => return Err(NotAnEtcdUrl("it does not begin with etcd:// or etcds://".into())),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, rest),
        };
        let mut config = EtcdConfig::new(hosts.trim_end_matches('/').split(','))?;
        if let Some(user) = user {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            config = config.with_user(decoded(user)?).with_password(decoded(password)?);
        }
        let tls = tls_of(query)?;
        match (secure, tls == Tls::default()) {
            (true, _) => Ok(config.with_tls(tls)),
            (false, true) => Ok(config),
            (false, false) => Err(NotAnEtcdUrl("certificates are for TLS, which etcds:// asks for".into())),
        }
    }
}

/// The TLS settings of a URL's query.
fn tls_of(query: &str) -> Result<Tls, NotAnEtcdUrl> {
    let mut tls = Tls::default();
    let (mut cert, mut key) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value)?;
        if value.is_empty() {
            return Err(NotAnEtcdUrl(format!("`{name}` has no value")));
        }
        match name {
            "ca" => tls.ca = Some(value.into()),
            "cert" => cert = Some(value.into()),
            "key" => key = Some(value.into()),
            "domain" => tls.domain = Some(value),
            other => return Err(NotAnEtcdUrl(format!("`{other}` is none of ca, cert, key, domain"))),
        }
    }
    tls.identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(NotAnEtcdUrl("a client certificate needs both cert and key".into())),
    };
    Ok(tls)
}

/// The text of a file, without its line end.
fn read_password(path: &Path) -> io::Result<String> {
    let text = secret::text(secret::open(path)?)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// `host:port` of `host` or `host:port`.
fn endpoint(text: &str) -> Result<String, NotAnEtcdUrl> {
    let wrong = |wrong| {
        let what = match wrong {
            NotAHost::Empty => "is no host",
            NotAHost::Colons => "has more than one colon: put an IPv6 address in brackets",
            NotAHost::Port => "has no valid port",
        };
        NotAnEtcdUrl(format!("`{text}` {what}"))
    };
    url::endpoint(text, DEFAULT_PORT, "/@?#%").map_err(wrong)
}

fn decoded(text: &str) -> Result<String, NotAnEtcdUrl> {
    url::decoded(text).map_err(|what| NotAnEtcdUrl(what.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> EtcdConfig {
        url.parse().unwrap()
    }

    fn refused(url: &str) -> String {
        url.parse::<EtcdConfig>().unwrap_err().to_string()
    }

    #[test]
    fn a_url_names_endpoints_with_the_usual_port() {
        assert_eq!(parsed("etcd://a,b:1,[::1],[::1]:2/").endpoints(), ["a:2379", "b:1", "[::1]:2379", "[::1]:2"]);
    }

    #[test]
    fn a_url_carries_the_user_and_what_is_percent_encoded() {
        let config = parsed("etcd://shop:p%40ss%3A%25@a");
        assert_eq!(config.credentials(), Some(("shop".into(), "p@ss:%".into())));
    }

    #[test]
    fn what_others_are_told_names_the_same_store_without_who_asks() {
        let url = "etcds://shop:s3cret@a,[::1]:2?ca=/c%26a%20%C3%A9.pem&cert=/c&key=/k&domain=etcd.local";
        let told = parsed(url).for_others().unwrap();
        assert!(!told.contains("s3cret") && !told.contains("shop"), "{told}");
        let (mut meant, again) = (parsed(url), parsed(&told));
        (meant.user, meant.password) = (None, Password::Given(String::new()));
        assert_eq!(again, meant);
        let relative = parsed("etcds://a?ca=ca.pem").for_others().unwrap();
        assert!(relative.ends_with("/ca.pem") && relative.starts_with("etcds://a:2379?ca=/"), "{relative}");
    }

    #[test]
    fn the_password_is_in_no_output_and_in_no_error() {
        let config = parsed("etcd://shop:s3cret@a");
        assert!(!format!("{config:?} {config}").contains("s3cret"));
        for url in ["etcd://shop:s3cret%@a", "etcd://shop:s3cret@a?x=1", "etcd://shop:s3cret@a:b:c"] {
            assert!(!refused(url).contains("s3cret"), "{}", refused(url));
        }
    }

    #[tokio::test]
    async fn a_passwords_file_is_read_anew_without_its_line_end_and_only_where_it_is_a_regular_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let config = parsed("etcd://a").with_user("shop").with_password_file(&path);
        for text in ["one\n", "two", "three\r\n", " f o\tur \n"] {
            std::fs::write(&path, text).unwrap();
            let expected = text.trim_end_matches(['\n', '\r']).to_owned();
            assert_eq!(config.present_credentials().await, Ok(Some(("shop".into(), expected))));
        }
        for other in [dir.path(), Path::new("/dev/zero")] {
            let refused = config.clone().with_password_file(other).present_credentials().await.unwrap_err();
            assert!(refused.contains("no regular file"), "{refused}");
        }
    }

    #[test]
    fn tls_is_asked_for_by_the_scheme() {
        let config = parsed("etcds://a?ca=/ca&cert=/c&key=/k&domain=etcd.local");
        let identity = Some(("/c".into(), "/k".into()));
        assert_eq!(config.tls, Some(Tls { ca: Some("/ca".into()), identity, domain: Some("etcd.local".into()) }));
        assert_eq!(parsed("etcds://a").tls, Some(Tls::default()));
        assert!(refused("etcd://a?ca=/ca").contains("etcds://"));
        assert!(refused("etcds://a?cert=/c").contains("both cert and key"));
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_a_reason() {
        for (url, reason) in [
            ("http://a", "does not begin with"),
            ("etcd://", "is no host"),
            ("etcd://a,,b", "is no host"),
            ("etcd://a:0", "no valid port"),
            ("etcd://a:port", "no valid port"),
            ("etcd://::1", "brackets"),
            ("etcd://a/b", "is no host"),
            ("etcds://a?timeout=1", "none of ca"),
            ("etcds://a?ca=", "has no value"),
        ] {
            assert!(refused(url).contains(reason), "{url}: {}", refused(url));
        }
    }
}
