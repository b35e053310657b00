//! A primary and its standby, and what the tests do to both.

use std::time::Duration;

use fencron::Client;
use fencron::store::postgres::{Adopted, PostgresConfig, PostgresStore};
use fencron::store::{Compare, Keys, Op, Range, Revision, Store, StoreError, Txn};
use fencron::time::Clock;

use crate::support::databases::{Database, Kind, Server};
use crate::support::until;

/// The TTL of the sessions: what an adoption waits for.
pub const TTL: Duration = Duration::from_secs(2);

/// What refuses a server that was not adopted says what to do.
const ADOPT: &str = "fencron store adopt";

/// Servers are started and stopped by calls that block.
pub async fn blocking<T: Send + 'static>(doing: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(doing).await.unwrap()
}

pub struct Pair {
    pub primary: Server,
    pub standby: Server,
    pub database: Database,
    /// Of both servers: the one that takes writes is the one that is used.
    pub url: String,
}

impl Pair {
    pub async fn start() -> Pair {
        let pair = blocking(|| {
            let primary = Server::start(Kind::Postgres);
            let database = primary.database();
            let standby = primary.standby();
            let (one, other) =
                (format!(":{}/", primary.port()), format!(":{},127.0.0.1:{}/", primary.port(), standby.port()));
            let url = database.url.replace(&one, &other);
            Pair { primary, standby, database, url }
        });
        pair.await
    }

    /// Both servers, one of which is to be changed by calls that block.
    pub async fn change(self, doing: impl FnOnce(&mut Pair) + Send + 'static) -> Pair {
        blocking(move || {
            let mut pair = self;
            doing(&mut pair);
            pair
        })
        .await
    }

    /// Waits until the standby has all that the primary has.
    pub async fn in_step(self) -> Pair {
        self.change(|pair| {
            let behind = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()";
            pair.primary.wait_for("", behind, "1");
        })
        .await
    }

    /// The standby takes over without what the primary has answered since it was stopped.
    pub async fn fail_over_to_the_stopped_standby(self) -> Pair {
        self.change(|pair| {
            pair.primary.kill();
            pair.standby.restart();
            pair.standby.promote();
        })
        .await
    }

    pub async fn stop_the_standby(self) -> Pair {
        self.change(|pair| pair.standby.kill()).await
    }

    pub async fn open(&self) -> PostgresStore {
        open(&self.url).await
    }

    /// Where only the standby is reached.
    pub fn standby_url(&self) -> String {
        self.database.url.replace(&format!(":{}/", self.primary.port()), &format!(":{}/", self.standby.port()))
    }

    /// A program with a name of its own.
    pub async fn client(&self, node: &str) -> Client {
        client(&self.url, node).await
    }
}

pub async fn open(url: &str) -> PostgresStore {
    let config: PostgresConfig = url.parse().unwrap();
    PostgresStore::connect(config, Clock::system()).await.unwrap()
}

pub async fn client(url: &str, node: &str) -> Client {
    Client::builder().node(node).ttl(TTL).connect(url).await.unwrap()
}

pub async fn put(store: &PostgresStore, key: &str) -> Revision {
    store.commit(Txn::new().then(Op::put(key, "1"))).await.unwrap().revision
}

/// Takes `key`, where it is free.
pub fn claim(key: &str) -> Txn {
    Txn::new().when(Compare::absent(Keys::one(key))).then(Op::put(key, "claimed"))
}

pub async fn is_there(store: &PostgresStore, key: &str) -> bool {
    !store.range(Range::of(Keys::one(key))).await.unwrap().entries.is_empty()
}

/// Waits until a write is refused since the server was not adopted.
pub async fn refused_until_adopted(store: &PostgresStore) {
    until("the refusal of a server that was not adopted", || async {
        match store.commit(Txn::new().then(Op::put("not-adopted", "1"))).await {
            Err(StoreError::Unusable(why)) if why.contains(ADOPT) => Some(()),
            Err(error) if error.is_passing() => None,
            other => panic!("neither refused nor away: {other:?}"),
        }
    })
    .await;
}

/// Adopts the server, and answers from which revision on it goes on.
pub async fn adopt(store: &PostgresStore) -> (Revision, Revision) {
    let adopted = store.adopt(|longest| assert!(longest >= TTL, "a hold that was lost has run out by then")).await;
    match adopted.unwrap() {
        Adopted::Adopted { left_at, begins_at } => (left_at, begins_at),
        Adopted::Ours => panic!("there was nothing to adopt"),
    }
}
