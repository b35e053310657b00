//! A store in PostgreSQL whose disk is synced, beside plain transactions of the same server, by turns.

use std::time::Duration;

use fencron::store::postgres::{PostgresConfig, PostgresStore};
use fencron::store::{Compare, Keys, Op, Store, Txn};
use fencron::time::Clock;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls};

use crate::figures::{Figures, Spread};
use crate::support::databases::{Kind, Server};
use crate::uncontended::turn;
use crate::{TURN, calls, ratio, timed};

/// How many claims one transaction of a leader makes at most.
const BATCH: usize = 120;

/// How many bytes a claim has.
const BYTES: usize = 300;

const CALLERS: usize = 64;

/// What a plain program keeps, and a log of it as the store has one.
const PLAIN: &str = "
    CREATE SCHEMA plain;
    CREATE TABLE plain.entries (key bytea PRIMARY KEY, value bytea NOT NULL);
    CREATE TABLE plain.log (revision bigint, nth bigint, key bytea NOT NULL, value bytea, PRIMARY KEY (revision, nth));
    CREATE TABLE plain.locks (name text PRIMARY KEY, owner bigint NOT NULL)";

pub async fn measure(figures: &mut Figures) {
    let started = tokio::task::spawn_blocking(|| {
        let server = Server::start_with(Kind::Postgres, |_| ["-c", "fsync=on"].map(str::to_owned).into());
        let database = server.database();
        (server, database)
    });
    let (_server, database) = started.await.unwrap();
    let config: PostgresConfig = database.url.parse().unwrap();
    let store = PostgresStore::connect(config, Clock::system()).await.unwrap();
    let (plain, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    plain.batch_execute(PLAIN).await.unwrap();
    batches(figures, &store, &plain).await;
    locks(figures, &store, &plain).await;
    callers(figures, &store).await;
}

/// The claims of one batch: none of them is there, and all are put.
fn claims(batch: usize) -> Txn {
    let claim = |txn: Txn, nth| {
        let key = format!("claims/{batch}/{nth:03}");
        txn.when(Compare::absent(Keys::one(&key))).then(Op::put(key, vec![b'x'; BYTES]))
    };
    (0..BATCH).fold(Txn::new(), claim).then(Op::put("watermark", batch.to_string()))
}

/// The same rows, by statements of a plain program.
async fn plain_claims(plain: &Client, batch: usize) {
    let keys: Vec<Vec<u8>> = (0..=BATCH).map(|nth| format!("claims/{batch}/{nth:03}").into_bytes()).collect();
    let values = vec![vec![b'x'; BYTES]; keys.len()];
    let (revision, nths) = (batch as i64, (0..keys.len() as i64).collect::<Vec<_>>());
    let entries = "INSERT INTO plain.entries SELECT * FROM unnest($1::bytea[], $2::bytea[])";
    let log = "INSERT INTO plain.log SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::bytea[])";
    plain.batch_execute("BEGIN").await.unwrap();
    plain.execute_typed(entries, &[(&keys, Type::BYTEA_ARRAY), (&values, Type::BYTEA_ARRAY)]).await.unwrap();
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&revision, Type::INT8), (&nths, Type::INT8_ARRAY), (&keys, Type::BYTEA_ARRAY), (&values, Type::BYTEA_ARRAY)];
    plain.execute_typed(log, params).await.unwrap();
    plain.batch_execute("COMMIT").await.unwrap();
}

async fn batches(figures: &mut Figures, store: &PostgresStore, plain: &Client) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for batch in 0..calls() {
        ours.push(timed(async { assert!(store.commit(claims(batch)).await.unwrap().succeeded) }).await);
        theirs.push(timed(plain_claims(plain, batch)).await);
    }
    let [ours, theirs] = [ours, theirs].map(Spread::of);
    figures.note(format!("a batch of {BATCH} claims, PostgreSQL"), ours.to_string());
    figures.note("a plain transaction with the same rows", theirs.to_string());
    let ratio = ratio(&ours, &theirs);
    figures.judge("the batch, to that", format!("{ratio:.2} times"), "at most 1.5 times", ratio <= 1.5);
}

/// Without a guess: read how it stands, take it if it is free, give it back.
async fn plain_lock(plain: &Client) {
    let free = plain.query_typed("SELECT owner FROM plain.locks WHERE name = 'door'", &[]).await.unwrap();
    assert!(free.is_empty());
    let taken =
        plain.execute_typed("INSERT INTO plain.locks VALUES ('door', 1) ON CONFLICT DO NOTHING", &[]).await.unwrap();
    let given_back =
        plain.execute_typed("DELETE FROM plain.locks WHERE name = 'door' AND owner = 1", &[]).await.unwrap();
    assert_eq!((taken, given_back), (1, 1));
}

async fn locks(figures: &mut Figures, store: &PostgresStore, plain: &Client) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..calls().div_ceil(TURN) {
        turn(store, &mut ours, TURN).await;
        for _ in 0..TURN {
            theirs.push(timed(plain_lock(plain)).await);
        }
    }
    let [ours, theirs] = [ours, theirs].map(Spread::of);
    figures.note("lock and unlock, PostgreSQL", ours.to_string());
    figures.note("a read and two conditional writes, PostgreSQL", theirs.to_string());
    let ratio = ratio(&ours, &theirs);
    figures.judge("a lock, to those three", format!("{ratio:.2} times"), "at most 2 times", ratio <= 2.0);
}

/// How many writes a second so many callers of one handle make.
async fn rate(store: &PostgresStore, callers: usize) -> f64 {
    let each = calls();
    let took: Duration = timed(async {
        let mut all = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let store = store.clone();
            all.spawn(async move {
                for n in 0..each {
                    let put = Op::put(format!("callers/{caller}"), n.to_string());
                    store.commit(Txn::new().then(put)).await.unwrap();
                }
            });
        }
        all.join_all().await;
    })
    .await;
    (callers * each) as f64 / took.as_secs_f64()
}

async fn callers(figures: &mut Figures, store: &PostgresStore) {
    let (one, many) = (rate(store, 1).await, rate(store, CALLERS).await);
    figures.note("writes of one caller, PostgreSQL", format!("{one:.0} a second"));
    figures.note(format!("writes of {CALLERS} callers of one handle"), format!("{many:.0} a second"));
    let ratio = many / one;
    figures.judge("the two", format!("{ratio:.1} times"), "at least 5 times", ratio >= 5.0);
}
