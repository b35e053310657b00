//! That a fence which was let in and was none can be taken back, in every place where guards keep what they have seen.

use std::process::Output;

use fencron::guard::sql::Dialect;
use rusqlite::Connection;
use serde_json::Value;

use super::door::{Door as _, Got, Place, Sent, under};
use super::exec::ExecDoor;
use crate::support::databases::{Kind, Server};
use crate::support::program::fencron;

fn guard(state: &str, args: &[&str]) -> Output {
    let mut command = fencron(&std::env::temp_dir());
    command.arg("guard").args(args).env("FENCRON_GUARD_STATE", state).output().unwrap()
}

fn scopes(state: &str) -> Value {
    let shown = guard(state, &["show", "-o", "json"]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    serde_json::from_slice(&shown.stdout).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && stderr.contains(says), "{:?}: {stderr}", output.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_that_is_reset_lets_the_true_leader_in_again() {
    for place in [Place::sqlite(), Place::postgres()] {
        let door = ExecDoor::open(place, &[]).await;
        let state = door.place.url.clone();
        let high = under(1 << 40);
        let keyed = Sent { key: Some("report@02"), ..high };
        let done = door.send(keyed).await.done();
        assert_eq!(door.send(under(7)).await, Got::Stale);
        let shown = scopes(&state);
        let (scope, fence, resource) = (&shown[0]["scope"], &shown[0]["fence"], &shown[0]["resource"]);
        assert_eq!(
            (scope.as_str(), fence.as_u64(), resource.as_str()),
            (Some("shop/leader"), Some(1 << 40), Some("files"))
        );

        fails(&guard(&state, &["reset", "shop/leader"]), 2, "add --yes");
        fails(&guard(&state, &["reset", "shop/lock/x", "--yes"]), 2, "knows no scope");
        fails(&guard(&state, &["reset", "shop/leader", "--resource", "other", "--yes"]), 2, "guard show");
        assert_eq!(door.send(under(7)).await, Got::Stale);

        let reset = guard(&state, &["reset", "shop/leader", "--to", "6", "--yes"]);
        assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
        assert_eq!(door.send(under(5)).await, Got::Stale);
        door.send(under(7)).await.done();
        assert_eq!(scopes(&state)[0]["fence"], 7);
        // What was done is not done again.
        assert_eq!(door.send(Sent { fence: 8, ..keyed }).await, Got::Replayed(done));

        assert!(guard(&state, &["reset", "shop/leader", "--yes"]).status.success());
        assert_eq!(scopes(&state), Value::Array(Vec::new()));
        door.send(under(1)).await.done();
    }
}

/// A database with the tables that transactions ask, and a fence that was let in by an older function.
fn with_tables(kind: Kind) -> String {
    let dialect = if kind == Kind::Postgres { Dialect::Postgres } else { Dialect::Mysql };
    let server = Server::shared(kind);
    let database = server.database();
    for table in dialect.statements().tables {
        server.ask(&database.name, table);
    }
    server.ask(&database.name, "INSERT INTO fencron_guard (scope, fence) VALUES ('shop/leader', 9007199254740991)");
    database.url
}

#[test]
fn what_transactions_ask_is_reset_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop.db");
    let connection = Connection::open(&path).unwrap();
    for table in Dialect::Sqlite.statements().tables {
        connection.execute_batch(table).unwrap();
    }
    let insert = "INSERT INTO fencron_guard (scope, fence) VALUES ('shop/leader', 9007199254740991)";
    connection.execute_batch(insert).unwrap();
    connection.execute_batch(&Dialect::Sqlite.script()).unwrap();
    let sqlite = format!("sqlite:{}", path.display());
    for state in [sqlite, with_tables(Kind::Postgres), with_tables(Kind::Mariadb)] {
        let shown = scopes(&state);
        assert_eq!(shown[0]["fence"].as_u64(), Some(9_007_199_254_740_991));
        assert_eq!(shown[0]["asked_by"], "sql");
        let reset = guard(&state, &["reset", "shop/leader", "--to", "7", "--yes"]);
        let said = String::from_utf8_lossy(&reset.stderr);
        assert!(reset.status.success() && said.contains("has seen 9007199254740991"), "{said}");
        assert_eq!(scopes(&state)[0]["fence"], 7);
        assert!(guard(&state, &["reset", "shop/leader", "--sql", "--yes"]).status.success());
        assert_eq!(scopes(&state), Value::Array(Vec::new()));
    }
}

#[test]
fn a_state_that_is_not_there_is_not_made() {
    let place = Place::sqlite();
    fails(&guard(&place.url, &["show"]), 5, "cannot be used now");
    assert!(!place.path("guard.db").exists());
    fails(&guard("memory", &["show"]), 2, "started again");
    let refused = guard("mysql://u:hunter2@127.0.0.1:1/d", &["show"]);
    fails(&refused, 5, "mysql://127.0.0.1:1/d");
    assert!(!String::from_utf8_lossy(&refused.stderr).contains("hunter2"));
}

/// An application may have tables of the names that a guard's state has, and one of the index by which it was known.
#[test]
fn the_scopes_of_another_application_are_neither_shown_nor_reset() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("oauth.db");
    let connection = Connection::open(&path).unwrap();
    let strangers = "CREATE TABLE scopes (name TEXT PRIMARY KEY, fence INTEGER NOT NULL);
                     CREATE TABLE entries (fence INTEGER);
                     CREATE INDEX entries_in_flight ON entries (fence);
                     INSERT INTO scopes VALUES ('files' || char(10) || 'shop/leader', 7);";
    connection.execute_batch(strangers).unwrap();
    let state = format!("sqlite:{}", path.display());
    for command in [&["show"][..], &["reset", "shop/leader", "--yes"]] {
        fails(&guard(&state, command), 5, "no guard has kept anything in it");
    }

    // Its transactions may ask the guard's table all the same, which is ours.
    for table in Dialect::Sqlite.statements().tables {
        connection.execute_batch(table).unwrap();
    }
    connection.execute_batch("INSERT INTO fencron_guard (scope, fence) VALUES ('shop/leader', 9)").unwrap();
    assert_eq!(scopes(&state)[0]["fence"], 9);
    assert!(guard(&state, &["reset", "shop/leader", "--to", "8", "--yes"]).status.success());
    assert_eq!(scopes(&state)[0]["fence"], 8);
    let fence: i64 = connection.query_row("SELECT fence FROM scopes", [], |row| row.get(0)).unwrap();
    assert_eq!(fence, 7);
}

#[test]
fn the_state_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guard.db");
    let connection = Connection::open(&path).unwrap();
    let newer = "CREATE TABLE scopes (name TEXT PRIMARY KEY, fence INTEGER NOT NULL);
                 PRAGMA application_id = 0x66677264; PRAGMA user_version = 1000;";
    connection.execute_batch(newer).unwrap();
    fails(&guard(&format!("sqlite:{}", path.display()), &["show"]), 5, "a newer fencron");
}
