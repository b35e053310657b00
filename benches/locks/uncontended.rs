//! A lock that nobody else wants: locked and unlocked, one after the other.

use std::process::{Command, Stdio};

use etcd_client::{Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};
use fencron::store::Store;
use fencron::store::memory::MemoryStore;
use fencron::store::sqlite::SqliteStore;
use fencron::time::Clock;

use crate::figures::{Figures, Spread, millis};
use crate::support::etcd::{Etcd, EtcdOptions};
use crate::{calls, door, node, timed};

/// How many calls of one kind are made before the next has its turn.
const TURN: usize = 20;

pub async fn measure(figures: &mut Figures) {
    etcd(figures).await;
    sqlite(figures).await;
    let memory = MemoryStore::new(Clock::system());
    let mut times = Vec::new();
    turn(&memory, &mut times, calls()).await;
    figures.note("lock and unlock, in memory", Spread::of(times).to_string());
}

/// So many locks and unlocks, in a session of their own.
async fn turn<S: Store>(store: &S, times: &mut Vec<std::time::Duration>, many: usize) {
    let (locks, session) = node(store).await;
    let (lock, mut context) = (door(&locks, "door"), session.context());
    for _ in 0..many {
        times.push(
            timed(async {
                lock.lock(&mut context).await.unwrap();
                lock.unlock(&mut context).await.unwrap();
            })
            .await,
        );
    }
    session.close().await.unwrap();
}

fn ratio(ours: &Spread, theirs: &Spread) -> f64 {
    ours.percent(50).as_secs_f64() / theirs.percent(50).as_secs_f64()
}

async fn etcd(figures: &mut Figures) {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let (store, mut client) = (etcd.store().await, etcd.client().await);
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let (mut ours, mut plain, mut recipe) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..calls().div_ceil(TURN) {
        turn(&store, &mut ours, TURN).await;
        for _ in 0..TURN {
            // What a lock cannot do with less: read how it stands, take it if it is free, give it back.
            plain.push(
                timed(async {
                    client.get("plain", None).await.unwrap();
                    let put = TxnOp::put("plain", "1", Some(PutOptions::new().with_lease(lease)));
                    let free = Compare::create_revision("plain", CompareOp::Equal, 0);
                    client.txn(Txn::new().when([free]).and_then([put])).await.unwrap();
                    let ours = Compare::lease("plain", CompareOp::Equal, lease);
                    client.txn(Txn::new().when([ours]).and_then([TxnOp::delete("plain", None)])).await.unwrap();
                })
                .await,
            );
        }
        for _ in 0..TURN {
            recipe.push(
                timed(async {
                    let options = LockOptions::new().with_lease(lease);
                    let held = client.lock("recipe", Some(options)).await.unwrap();
                    client.unlock(held.key()).await.unwrap();
                })
                .await,
            );
        }
    }
    let [ours, plain, recipe] = [ours, plain, recipe].map(Spread::of);
    figures.note("lock and unlock, etcd", ours.to_string());
    figures.note("a read and two conditional writes, etcd", plain.to_string());
    figures.note("lock and unlock by etcd's own recipe, inside the server", recipe.to_string());
    let (to_plain, to_recipe) = (ratio(&ours, &plain), ratio(&ours, &recipe));
    figures.judge(
        "a lock, to those three requests",
        format!("{to_plain:.2} times"),
        "at most 2 times",
        to_plain <= 2.0,
    );
    figures.note("a lock, to etcd's own recipe", format!("{to_recipe:.2} times"));
    etcdctl(&etcd, figures);
}

/// Processes: most of what they take is to start and to connect, so one that only reads is measured beside.
fn etcdctl(etcd: &Etcd, figures: &mut Figures) {
    const PROCESSES: usize = 30;
    let clock = Clock::system();
    let run = |arguments: &[&str]| {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &etcd.endpoint()]).args(arguments);
        let begun = clock.boot();
        assert!(command.stdout(Stdio::null()).status().expect("etcdctl is installed").success());
        clock.boot().since(begun)
    };
    let (mut lock, mut get) = (Vec::new(), Vec::new());
    for _ in 0..PROCESSES {
        lock.push(run(&["lock", "ctl", "true"]));
        get.push(run(&["get", "ctl"]));
    }
    let [lock, get] = [lock, get].map(Spread::of);
    let by_itself = lock.percent(50).saturating_sub(get.percent(50));
    figures.note("`etcdctl lock NAME true`, from its start to its end", lock.to_string());
    figures.note("`etcdctl get NAME`, the same; and what that leaves", format!("{get}; {}", millis(by_itself)));
}

async fn sqlite(figures: &mut Figures) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("state.db"), Clock::system()).await.unwrap();
    let connection = rusqlite::Connection::open(directory.path().join("plain.db")).unwrap();
    let mode =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE locks (name TEXT PRIMARY KEY, owner INT)";
    connection.execute_batch(mode).unwrap();
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..calls().div_ceil(TURN) {
        turn(&store, &mut ours, TURN).await;
        for _ in 0..TURN {
            plain.push(
                timed(async {
                    let held = "SELECT count(*) FROM locks WHERE name = 'door'";
                    let held: i64 = connection.query_row(held, [], |row| row.get(0)).unwrap();
                    assert_eq!(held, 0);
                    let take = "BEGIN IMMEDIATE; INSERT INTO locks VALUES ('door', 1); COMMIT";
                    connection.execute_batch(take).unwrap();
                    let free = "BEGIN IMMEDIATE; DELETE FROM locks WHERE name = 'door' AND owner = 1; COMMIT";
                    connection.execute_batch(free).unwrap();
                })
                .await,
            );
        }
    }
    let [ours, plain] = [ours, plain].map(Spread::of);
    figures.note("lock and unlock, SQLite", ours.to_string());
    figures.note("a read and two writes in SQLite itself", plain.to_string());
    figures.note("a lock, to those", format!("{:.2} times", ratio(&ours, &plain)));
}
