//! Statements that arrive late, at real databases.

use super::support::databases::{Kind, Server};
use super::support::proxy::{Flow, Proxy};
use super::support::until;
use super::{Stage, leader};
use nix::sys::signal::Signal;

/// A database behind a gate, with a table in it for the effects.
struct Target {
    server: &'static Server,
    database: String,
    gate: Proxy,
    url: String,
}

impl Target {
    async fn new(kind: Kind) -> Target {
        let server = tokio::task::spawn_blocking(move || Server::shared(kind)).await.unwrap();
        let database = server.database();
        server.ask(&database.name, "CREATE TABLE effects (fence bigint, run varchar(200), place serial)");
        let direct = format!("127.0.0.1:{}", server.port());
        let gate = Proxy::start(&direct).await;
        let url = database.url.replace(&direct, &gate.endpoint());
        Target { server, database: database.name, gate, url }
    }

    fn task(&self, more: &str) -> String {
        let statement = "INSERT INTO effects (fence, run) VALUES (:fence, :run_id)";
        format!("sql:\n  database: \"{}\"\n  statement: {statement}\n{more}", self.url)
    }

    /// The fences of the effects that are there, in their order.
    fn effects(&self) -> Vec<u64> {
        let rows = self.server.ask(&self.database, "SELECT fence FROM effects ORDER BY place");
        rows.lines().map(|fence| fence.parse().unwrap()).collect()
    }
}

async fn a_guarded_statement_is_turned_away(kind: Kind) {
    let target = Target::new(kind).await;
    // `at_least_once` has no row for the occurrence: what turns the late one away is its fence.
    let stage = Stage::set(&target.task("")).await;
    let (_, after) = stage.replace_in_the_middle(&target.gate, Flow::HoldFrom("fencron_guard")).await;
    until("the successor's effect", async || (target.effects() == [after]).then_some(())).await;
    assert_eq!(stage.verdict().await, "succeeded");
    let since = stage.old.now();
    stage.wake(&target.gate);
    stage.old.says(since, "fenced").await;
    assert_eq!(target.effects(), [after]);
}

async fn an_unguarded_statement_is_accepted(kind: Kind) {
    let target = Target::new(kind).await;
    let stage = Stage::set(&target.task("  transaction: false\n")).await;
    let (before, after) = stage.replace_in_the_middle(&target.gate, Flow::HoldFrom("INTO effects")).await;
    until("the successor's effect", async || (target.effects() == [after]).then_some(())).await;
    stage.wake(&target.gate);
    until("the late effect", async || (target.effects() == [after, before]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_turns_away_the_statements_of_a_replaced_leader() {
    a_guarded_statement_is_turned_away(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_turns_away_the_statements_of_a_replaced_leader() {
    a_guarded_statement_is_turned_away(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_guard_postgresql_accepts_the_statements_of_a_replaced_leader() {
    an_unguarded_statement_is_accepted(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_guard_mariadb_accepts_the_statements_of_a_replaced_leader() {
    an_unguarded_statement_is_accepted(Kind::Mariadb).await;
}

/// SQLite has no network to stand in: its file is locked until the first node is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_turns_away_the_statements_of_a_replaced_leader() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("target.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE effects (fence integer, run text)").unwrap();
    let effects = || -> Vec<u64> {
        let mut statement = connection.prepare("SELECT fence FROM effects ORDER BY rowid").unwrap();
        statement
            .query_map([], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    };
    let statement = "INSERT INTO effects (fence, run) VALUES (:fence, :run_id)";
    let stage = Stage::set(&format!("sql:\n  database: \"sqlite:{}\"\n  statement: {statement}", path.display())).await;

    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    stage.trigger();
    until("the run has begun", async || (stage.new.json(&["runs"])[0]["state"] == "running").then_some(())).await;
    let (_, before) = leader(&stage.new).unwrap();
    stage.old.freeze().await;
    connection.execute_batch("COMMIT").unwrap();
    until("the successor's effect", async || (effects().len() == 1).then_some(())).await;
    assert!(effects()[0] > before);
    let since = stage.old.now();
    stage.old.signal(Signal::SIGCONT);
    stage.old.says(since, "fenced").await;
    assert_eq!(effects().len(), 1);
}
