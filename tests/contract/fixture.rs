//! The stores under test, and waiting for what they do.

use std::future::Future;
use std::time::Duration;

use fencron::store::etcd::EtcdStore;
use fencron::store::memory::MemoryStore;
use fencron::store::postgres::PostgresStore;
use fencron::store::sqlite::SqliteStore;
use fencron::store::{Change, Committed, Entry, Keys, Op, Range, Revision, Store, StoreError, Txn, Watch, Watched};
use fencron::time::Clock;

use crate::support::databases::{Kind, Server};
use crate::support::pooler::Pooler;

/// How long anything may take before the test fails. Far beyond what it does take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A fresh store, at revision 1.
pub trait Fixture: Send + Sync {
    type Store: Store;
    /// A TTL that is short for this store, and which it grants as it is.
    const TTL: Duration;
    fn start() -> impl Future<Output = Self> + Send;
    fn store(&self) -> Self::Store;
    fn compact(&self, revision: Revision) -> impl Future<Output = ()> + Send;
}

pub struct Memory(MemoryStore);

impl Fixture for Memory {
    type Store = MemoryStore;
    const TTL: Duration = Duration::from_secs(1);

    async fn start() -> Memory {
        Memory(MemoryStore::new(Clock::system()))
    }

    fn store(&self) -> MemoryStore {
        self.0.clone()
    }

    async fn compact(&self, revision: Revision) {
        self.0.compact(revision);
    }
}

pub struct Sqlite {
    store: SqliteStore,
    _directory: tempfile::TempDir,
}

impl Fixture for Sqlite {
    type Store = SqliteStore;
    const TTL: Duration = Duration::from_secs(1);

    async fn start() -> Sqlite {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("state.db"), Clock::system()).await.unwrap();
        Sqlite { store, _directory: directory }
    }

    fn store(&self) -> SqliteStore {
        self.store.clone()
    }

    async fn compact(&self, revision: Revision) {
        self.store.compact(revision).await.unwrap();
    }
}

/// A server of its own for each test, so that its revisions are known.
pub struct Etcd {
    server: crate::support::etcd::Etcd,
    store: EtcdStore,
}

impl Fixture for Etcd {
    type Store = EtcdStore;
    const TTL: Duration = Duration::from_secs(2);

    async fn start() -> Etcd {
        let server = crate::support::etcd::Etcd::start(Default::default()).await;
        let store = server.store().await;
        Etcd { server, store }
    }

    fn store(&self) -> EtcdStore {
        self.store.clone()
    }

    async fn compact(&self, revision: Revision) {
        self.server.client().await.compact(revision.0.try_into().unwrap(), None).await.unwrap();
    }
}

/// A database of its own for each test, on a server that they share.
pub struct Postgres(PostgresStore);

impl Fixture for Postgres {
    type Store = PostgresStore;
    const TTL: Duration = Duration::from_secs(1);

    async fn start() -> Postgres {
        let database = tokio::task::spawn_blocking(|| Server::shared(Kind::Postgres).database()).await.unwrap();
        Postgres(PostgresStore::connect(database.url.parse().unwrap(), Clock::system()).await.unwrap())
    }

    fn store(&self) -> PostgresStore {
        self.0.clone()
    }

    async fn compact(&self, revision: Revision) {
        self.0.compact(revision).await.unwrap();
    }
}

/// The same through a pooler in transaction mode.
pub struct Pooled(PostgresStore);

impl Fixture for Pooled {
    type Store = PostgresStore;
    const TTL: Duration = Duration::from_secs(3);

    async fn start() -> Pooled {
        let url = tokio::task::spawn_blocking(|| Pooler::shared().url(&Server::shared(Kind::Postgres).database()));
        Pooled(PostgresStore::connect(url.await.unwrap().parse().unwrap(), Clock::system()).await.unwrap())
    }

    fn store(&self) -> PostgresStore {
        self.0.clone()
    }

    async fn compact(&self, revision: Revision) {
        self.0.compact(revision).await.unwrap();
    }
}

/// The same where transactions are REPEATABLE READ unless they say otherwise, beside one that keeps an old snapshot.
pub struct RepeatableRead {
    store: PostgresStore,
    _pinning: tokio_postgres::Client,
}

impl Fixture for RepeatableRead {
    type Store = PostgresStore;
    const TTL: Duration = Duration::from_secs(3);

    async fn start() -> RepeatableRead {
        let database = tokio::task::spawn_blocking(|| {
            let server = Server::shared(Kind::Postgres);
            let database = server.database();
            let isolation = "SET default_transaction_isolation = 'repeatable read'";
            server.ask("", &format!("ALTER DATABASE {} {isolation}", database.name));
            database
        });
        let url = database.await.unwrap().url;
        let store = PostgresStore::connect(url.parse().unwrap(), Clock::system()).await.unwrap();
        let (pinning, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        pinning.batch_execute("BEGIN; SELECT * FROM fencron.log").await.unwrap();
        RepeatableRead { store, _pinning: pinning }
    }

    fn store(&self) -> PostgresStore {
        self.store.clone()
    }

    async fn compact(&self, revision: Revision) {
        self.store.compact(revision).await.unwrap();
    }
}

/// What comes of it, which must come.
pub async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("it does not take that long")
}

/// The changes of the next report.
pub async fn next_changes(watch: &mut Watch) -> Vec<Change> {
    match soon(watch.next()).await {
        Some(Watched::Changes(changes)) => changes,
        other => panic!("no changes: {other:?}"),
    }
}

/// The next `count` changes, in however many reports.
pub async fn next_many(watch: &mut Watch, count: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < count {
        changes.extend(next_changes(watch).await);
    }
    assert_eq!(changes.len(), count, "more changes than expected: {changes:?}");
    changes
}

pub async fn put(store: &impl Store, key: &str, value: &str) -> Revision {
    commit(store, Txn::new().then(Op::put(key, value))).await.revision
}

pub async fn delete(store: &impl Store, key: &str) -> Revision {
    commit(store, Txn::new().then(Op::delete(key))).await.revision
}

pub async fn commit(store: &impl Store, txn: Txn) -> Committed {
    store.commit(txn).await.unwrap()
}

pub async fn get(store: &impl Store, key: &str) -> Option<Entry> {
    store.range(Range::of(Keys::one(key))).await.unwrap().entries.pop()
}

/// The keys of a range, as they are now.
pub async fn keys(store: &impl Store, range: Range) -> Vec<String> {
    store.range(range).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

pub fn everything() -> Keys {
    Keys::Range { start: "\u{1}".into(), end: "\u{10ffff}".into() }
}

/// Holds that the store refused, and that nothing of it was done.
pub async fn assert_refused(store: &impl Store, txn: Txn) {
    let before = store.range(Range::of(everything())).await.unwrap();
    let answer = store.commit(txn).await;
    assert!(matches!(answer, Err(StoreError::Refused(_))), "not refused: {answer:?}");
    assert_eq!(store.range(Range::of(everything())).await.unwrap(), before);
}
