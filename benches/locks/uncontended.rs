//! A lock that nobody else wants: locked and unlocked, one after the other.

use std::process::{Command, Stdio};

use etcd_client::{Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};
use fencron::store::Store;
use fencron::store::memory::MemoryStore;
use fencron::store::sqlite::SqliteStore;
use fencron::time::Clock;

use crate::figures::{Figures, Spread, millis};
use crate::recipe::Recipe;
use crate::support::etcd::{Etcd, EtcdOptions};
use crate::{TURN, calls, door, node, ratio, timed};

pub async fn measure(figures: &mut Figures) {
    etcd(figures).await;
    sqlite(figures).await;
    let memory = MemoryStore::new(Clock::system());
    let mut times = Vec::new();
    turn(&memory, &mut times, calls()).await;
    figures.note("lock and unlock, in memory", Spread::of(times).to_string());
}

/// So many locks and unlocks, in a session of their own.
pub async fn turn<S: Store>(store: &S, times: &mut Vec<std::time::Duration>, many: usize) {
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

async fn etcd(figures: &mut Figures) {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let (store, mut client) = (etcd.store().await, etcd.client().await);
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let (mut ours, mut plain, mut recipe) = (Vec::new(), Vec::new(), Vec::new());
    let (mut in_go, mut of_go) = (Recipe::start(&etcd), Vec::new());
    for _ in 0..calls().div_ceil(TURN) {
        turn(&store, &mut ours, TURN).await;
        for _ in 0..TURN {
            // Without a guess: read how it stands, take it if it is free, give it back.
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
        in_go.iter_mut().for_each(|program| of_go.extend(program.times("lock", TURN)));
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
    figures.note("a lock, to etcd's own recipe inside the server", format!("{to_recipe:.2} times"));
    if !of_go.is_empty() {
        let of_go = Spread::of(of_go);
        figures.note("lock and unlock by etcd's own recipe, in Go", of_go.to_string());
        let to_go = ratio(&ours, &of_go);
        figures.judge(
            "a lock, to etcd's own recipe in Go",
            format!("{to_go:.2} times"),
            "at most 1.1 times",
            to_go <= 1.1,
        );
    }
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
    let to_plain = ratio(&ours, &plain);
    figures.judge("a lock, to those", format!("{to_plain:.2} times"), "at most 1.5 times", to_plain <= 1.5);
}
