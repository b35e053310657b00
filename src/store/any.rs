//! The store that a URL names.

use std::fmt;
use std::io;
#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

#[cfg(feature = "etcd")]
use super::etcd::{EtcdConfig, EtcdStore, NotAnEtcdUrl};
use super::memory::MemoryStore;
#[cfg(feature = "postgres")]
use super::postgres::{NotAPostgresUrl, PostgresConfig, PostgresStore};
#[cfg(feature = "sqlite")]
use super::sqlite::SqliteStore;
use super::{About, Committed, Keys, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch};
use crate::time::Clock;

/// Where a store is.
///
/// Neither `Display` nor `Debug` shows a password.
///
/// ```
/// use fencron::store::StoreUrl;
/// let url: StoreUrl = StoreUrl::DEFAULT.parse().unwrap();
/// assert_eq!(url, StoreUrl::Sqlite(".fencron/state.db".into()));
/// assert_eq!(url.to_string(), "sqlite:.fencron/state.db");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(
    all(
        not(feature = "sqlite"),
        any(all(feature = "etcd", not(feature = "postgres")), all(feature = "postgres", not(feature = "etcd")))
    ),
    expect(clippy::large_enum_variant, reason = "a program has a handful of them")
)]
pub enum StoreUrl {
    /// `memory:` — a store of this process, empty at first and gone with it.
    Memory,
    /// `sqlite:PATH` — a file shared by the processes of one machine.
    #[cfg(feature = "sqlite")]
    Sqlite(PathBuf),
    /// `etcd://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]`, or `etcds://…` for TLS: a cluster's members.
    #[cfg(feature = "etcd")]
    Etcd(EtcdConfig),
    /// `postgres://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE[?sslmode=…]`.
    #[cfg(feature = "postgres")]
    Postgres(PostgresConfig),
}

impl StoreUrl {
    /// The store where none is named.
    pub const DEFAULT: &'static str = "sqlite:.fencron/state.db";

    /// What distinguishes the store from others, for processes in any directory: of a file, its absolute path.
    pub(crate) fn identity(&self) -> String {
        match self {
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) => {
                let path = path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.clone());
                format!("sqlite:{}", path.display())
            }
            other => other.to_string(),
        }
    }

    /// The URL for other processes of this machine, in whichever directory they are: with absolute paths, and without user
    /// and password.
    ///
    /// ```
    /// use fencron::store::StoreUrl;
    /// let url: StoreUrl = "etcds://shop:s3cret@10.0.0.1?ca=/etc/ca.pem".parse().unwrap();
    /// assert_eq!(url.for_others().unwrap(), "etcds://10.0.0.1:2379?ca=/etc/ca.pem");
    /// ```
    ///
    /// # Errors
    ///
    /// Where the directory of this process is gone, or a path is no text.
    pub fn for_others(&self) -> io::Result<String> {
        match self {
            StoreUrl::Memory => Ok(self.to_string()),
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) => match std::path::absolute(path)?.to_str() {
                Some(path) => Ok(format!("sqlite:{path}")),
                None => Err(io::Error::other("the path of the store is no text")),
            },
            #[cfg(feature = "etcd")]
            StoreUrl::Etcd(config) => config.for_others(),
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(config) => config.for_others(),
        }
    }
}

/// A text that does not say where a store is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAStore {
    #[error("`sqlite:` needs the path of a file, like {}", StoreUrl::DEFAULT)]
    NoPath,
    #[error("`sqlite::memory:` cannot be shared by processes, which a SQLite store is for: write `memory:`")]
    SqliteInMemory,
    #[error("`sqlite://` is followed by a host, which a file has not: write sqlite:PATH, like {}", StoreUrl::DEFAULT)]
    SqliteHost,
    #[error("`memory:` takes nothing behind the colon")]
    MemoryNamed,
    #[cfg(feature = "etcd")]
    #[error(transparent)]
    Etcd(#[from] NotAnEtcdUrl),
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] NotAPostgresUrl),
    /// The store exists, but not in this program.
    #[error("this program was built without the store of `{scheme}:`: build it with fencron's feature `{feature}`")]
    NotBuilt { scheme: &'static str, feature: &'static str },
    /// What was given is not repeated beyond its scheme: there may be a password in it.
    #[error("{0} is no store: write sqlite:PATH, etcd://HOST:PORT[,…], etcds://…, postgres://HOST/DATABASE or memory:")]
    Scheme(String),
}

impl FromStr for StoreUrl {
    type Err = NotAStore;

    fn from_str(text: &str) -> Result<StoreUrl, NotAStore> {
        let text = text.trim();
        match text.split_once(':') {
            Some(("memory", "")) => Ok(StoreUrl::Memory),
            Some(("memory", _)) => Err(NotAStore::MemoryNamed),
            #[cfg(feature = "sqlite")]
            Some(("sqlite", path)) => sqlite_path(path).map(StoreUrl::Sqlite),
            #[cfg(not(feature = "sqlite"))]
            Some(("sqlite", _)) => Err(NotAStore::NotBuilt { scheme: "sqlite", feature: "sqlite" }),
            #[cfg(feature = "etcd")]
            Some(("etcd" | "etcds", _)) => Ok(StoreUrl::Etcd(text.parse()?)),
            #[cfg(not(feature = "etcd"))]
            Some(("etcd" | "etcds", _)) => Err(NotAStore::NotBuilt { scheme: "etcd", feature: "etcd" }),
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => Ok(StoreUrl::Postgres(text.parse()?)),
            #[cfg(not(feature = "postgres"))]
            Some(("postgres" | "postgresql", _)) => {
                Err(NotAStore::NotBuilt { scheme: "postgres", feature: "postgres" })
            }
            Some((scheme, _)) => Err(NotAStore::Scheme(format!("a URL that begins with `{scheme}:`"))),
            None => Err(NotAStore::Scheme("a text without a scheme".into())),
        }
    }
}

/// The path of `sqlite:PATH` or `sqlite:///PATH`.
#[cfg(feature = "sqlite")]
fn sqlite_path(path: &str) -> Result<PathBuf, NotAStore> {
    match path {
        "" => Err(NotAStore::NoPath),
        ":memory:" => Err(NotAStore::SqliteInMemory),
        _ => match path.strip_prefix("//") {
            Some(absolute) if absolute.starts_with('/') => Ok(absolute.into()),
            Some(_) => Err(NotAStore::SqliteHost),
            None => Ok(path.into()),
        },
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Memory => f.write_str("memory:"),
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            #[cfg(feature = "etcd")]
            StoreUrl::Etcd(config) => config.fmt(f),
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(config) => config.fmt(f),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One of the stores there are.
#[derive(Clone, Debug)]
pub enum AnyStore {
    Memory(MemoryStore),
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteStore),
    #[cfg(feature = "etcd")]
    Etcd(EtcdStore),
    #[cfg(feature = "postgres")]
    Postgres(PostgresStore),
}

impl From<MemoryStore> for AnyStore {
    fn from(store: MemoryStore) -> AnyStore {
        AnyStore::Memory(store)
    }
}

#[cfg(feature = "sqlite")]
impl From<SqliteStore> for AnyStore {
    fn from(store: SqliteStore) -> AnyStore {
        AnyStore::Sqlite(store)
    }
}

#[cfg(feature = "etcd")]
impl From<EtcdStore> for AnyStore {
    fn from(store: EtcdStore) -> AnyStore {
        AnyStore::Etcd(store)
    }
}

#[cfg(feature = "postgres")]
impl From<PostgresStore> for AnyStore {
    fn from(store: PostgresStore) -> AnyStore {
        AnyStore::Postgres(store)
    }
}

impl AnyStore {
    /// Opens the store that `url` names. `clock` times the leases of the embedded ones, and what is seen of those in
    /// PostgreSQL.
    ///
    /// ```
    /// use fencron::store::{AnyStore, Store};
    /// use fencron::time::Clock;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let store = AnyStore::open(&"memory:".parse().unwrap(), Clock::system()).await.unwrap();
    /// assert_eq!(store.about().await.unwrap().kind, "memory");
    /// # });
    /// ```
    pub async fn open(url: &StoreUrl, clock: Clock) -> Result<AnyStore, StoreError> {
        match url {
            StoreUrl::Memory => Ok(AnyStore::Memory(MemoryStore::new(clock))),
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) => SqliteStore::open(path, clock).await.map(AnyStore::Sqlite),
            #[cfg(feature = "etcd")]
            StoreUrl::Etcd(config) => EtcdStore::connect(config.clone()).await.map(AnyStore::Etcd),
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(config) => {
                Box::pin(PostgresStore::connect(config.clone(), clock)).await.map(AnyStore::Postgres)
            }
        }
    }
}

/// Evaluates the expression with `store` as whichever store it is.
macro_rules! delegate {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            AnyStore::Memory($store) => $call,
            #[cfg(feature = "sqlite")]
            AnyStore::Sqlite($store) => $call,
            // On the heap: those of etcd take 25 KiB, and every future that awaits one would be as large.
            #[cfg(feature = "etcd")]
            AnyStore::Etcd($store) => Box::pin(async move { $call }).await,
            #[cfg(feature = "postgres")]
            AnyStore::Postgres($store) => Box::pin(async move { $call }).await,
        }
    };
}

impl Store for AnyStore {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        delegate!(self, store => store.grant(ttl).await)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        delegate!(self, store => store.keep_alive(lease).await)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        delegate!(self, store => store.revoke(lease).await)
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        delegate!(self, store => store.commit(txn).await)
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        delegate!(self, store => store.range(range).await)
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        delegate!(self, store => store.watch(keys, from).await)
    }

    async fn about(&self) -> Result<About, StoreError> {
        delegate!(self, store => store.about().await)
    }

    async fn apart(&self) -> Result<AnyStore, StoreError> {
        Ok(match self {
            AnyStore::Memory(store) => AnyStore::Memory(store.apart().await?),
            #[cfg(feature = "sqlite")]
            AnyStore::Sqlite(store) => AnyStore::Sqlite(store.apart().await?),
            #[cfg(feature = "etcd")]
            AnyStore::Etcd(store) => AnyStore::Etcd(store.apart().await?),
            #[cfg(feature = "postgres")]
            AnyStore::Postgres(store) => AnyStore::Postgres(store.apart().await?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "sqlite")]
    #[test]
    fn a_file_is_known_by_where_it_lies() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.db");
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(directory.path(), directory.path().join("link")).unwrap();
        let by_link = StoreUrl::Sqlite(directory.path().join("link/a.db"));
        assert_eq!(StoreUrl::Sqlite(file).identity(), by_link.identity());
    }

    fn refused(text: &str) -> String {
        text.parse::<StoreUrl>().unwrap_err().to_string()
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn a_file_is_named_by_its_path() {
        for (text, path) in [("sqlite:a/b.db", "a/b.db"), ("sqlite:/a.db", "/a.db"), ("sqlite:///a.db", "/a.db")] {
            assert_eq!(text.parse(), Ok(StoreUrl::Sqlite(path.into())));
        }
        assert!(refused("sqlite:").contains("sqlite:.fencron/state.db"));
        assert!(refused("sqlite://host/a.db").contains("sqlite:PATH"));
        assert!(refused("sqlite::memory:").contains("`memory:`"));
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn a_cluster_is_named_by_its_members_and_shows_no_password() {
        let url: StoreUrl = "etcds://me:s3cret@a,b:2380".parse().unwrap();
        assert_eq!(url.to_string(), "etcds://a:2379,b:2380");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert!(!refused("etcd://me:s3cret@a?x=1").contains("s3cret"));
    }

    #[test]
    fn what_is_no_store_is_told_what_to_write() {
        assert!(refused("memory:x").contains("nothing behind"));
        assert!(refused("/var/lib/state.db").contains("sqlite:PATH"));
        assert!(refused("redis://me:s3cret@host").contains("`redis:`"));
        assert!(!refused("redis://me:s3cret@host").contains("s3cret"));
    }

    #[cfg(not(feature = "sqlite"))]
    #[test]
    fn a_store_that_was_left_out_names_the_feature_that_adds_it() {
        assert!(refused(StoreUrl::DEFAULT).contains("feature `sqlite`"));
    }
}
