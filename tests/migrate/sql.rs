//! Statements in a transaction: their effect is there exactly once, wherever whoever made it was killed.

use crate::commands::{CLAIM, VERDICT};
use crate::scene::{MANY, Process, Scene};
use crate::snare::{Catch, Snare};
use crate::support::databases::{Database, Kind, Server};
use crate::support::until;

const JOBS: &str = r#"
version: 1
migrations:
  - id: first
    sql: {database: "${DATABASE_URL}", statement: "INSERT INTO effects (run_id) VALUES (:run_id)"}
"#;

/// A database with an empty table for effects.
async fn with_table(kind: Kind) -> (&'static Server, Database) {
    // Starting a server takes its time, and waits.
    tokio::task::spawn_blocking(move || {
        let server = Server::shared(kind);
        let database = server.database();
        server.ask(&database.name, "CREATE TABLE effects (run_id varchar(300))");
        (server, database)
    })
    .await
    .unwrap()
}

fn effects(server: &Server, database: &Database) -> String {
    server.ask(&database.name, "SELECT run_id FROM effects")
}

fn over(mut scene: Scene, url: &str) -> Scene {
    scene.write("jobs.yaml", JOBS);
    scene.database = url.to_owned();
    scene
}

fn others(scene: &Scene) -> Vec<Process> {
    (1..MANY).map(|number| scene.start(&format!("n{number}"), &["migrate"])).collect()
}

/// All come to the verdict that it is done, and its effect is there once.
fn all_done(scene: &Scene, all: Vec<Process>, server: &Server, database: &Database) {
    assert!(!all.is_empty());
    for process in all {
        process.end().ends(0, &[]);
    }
    assert_eq!(scene.state("first"), "done");
    assert_eq!(effects(server, database), "migration/first");
}

async fn fifty_at_once(kind: Kind) {
    let (server, database) = with_table(kind).await;
    let scene = over(Scene::over_sqlite(), &database.url);
    let all = (0..MANY).map(|number| scene.start(&format!("n{number}"), &["migrate"])).collect();
    all_done(&scene, all, server, &database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_change_a_postgres_once() {
    fifty_at_once(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_change_a_mariadb_once() {
    fifty_at_once(Kind::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_change_a_sqlite_file_once() {
    let scene = Scene::over_sqlite();
    let file = scene.path("target.db");
    let target = rusqlite::Connection::open(&file).unwrap();
    target.execute_batch("CREATE TABLE effects (run_id TEXT)").unwrap();
    let scene = over(scene, &format!("sqlite:{}", file.display()));
    for ran in scene.many(&["migrate"]) {
        ran.ends(0, &[]);
    }
    let count: u32 = target.query_row("SELECT count(*) FROM effects", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}

/// Killed while its statement waits for a lock that the test holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_inside_the_transaction() {
    let (server, database) = with_table(Kind::Postgres).await;
    let scene = over(Scene::over_sqlite(), &database.url);
    let lock = hold_table(&database).await;
    let mut first = scene.start("first", &["migrate"]);
    until("its statement waits", async || (waiting(server, &database) == "1").then_some(())).await;
    let others = others(&scene);
    first.kill();
    lock.batch_execute("ROLLBACK").await.unwrap();
    all_done(&scene, others, server, &database);
}

/// A connection whose transaction keeps everybody else out of the table.
async fn hold_table(database: &Database) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE effects IN ACCESS EXCLUSIVE MODE").await.unwrap();
    client
}

fn waiting(server: &Server, database: &Database) -> String {
    let name = &database.name;
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'");
    server.ask(name, &sql)
}

/// Killed at a message to the database.
async fn killed_at_the_commit(kind: Kind, catch: Catch) {
    let (server, database) = with_table(kind).await;
    let scene = over(Scene::over_sqlite(), &database.url);
    let address = format!("127.0.0.1:{}", server.port());
    let mut snare = Snare::set(&address, "COMMIT", catch).await;
    let through = database.url.replace(&address, &snare.endpoint());
    let mut first = scene.start_with(&scene.store_url(), &through, "first", &["migrate"]);
    snare.caught().await;
    if catch == Catch::Answers {
        until("it is committed", async || (effects(server, &database) == "migration/first").then_some(())).await;
    }
    let others = others(&scene);
    first.kill();
    all_done(&scene, others, server, &database);
    let reason = scene.status()[0]["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason == "already applied", catch == Catch::Answers, "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_commit_of_a_postgres() {
    killed_at_the_commit(Kind::Postgres, Catch::Request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_commit_of_a_postgres_and_its_answer() {
    killed_at_the_commit(Kind::Postgres, Catch::Answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_commit_of_a_mariadb() {
    killed_at_the_commit(Kind::Mariadb, Catch::Request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_commit_of_a_mariadb_and_its_answer() {
    killed_at_the_commit(Kind::Mariadb, Catch::Answers).await;
}

/// Killed at a message to the store.
async fn killed_at_the_store(words: &str, catch: Catch) {
    let (server, database) = with_table(Kind::Postgres).await;
    let scene = over(Scene::over_etcd().await, &database.url);
    let mut snare = Snare::set(&scene.store_endpoint(), words, catch).await;
    let mut first = scene.start_over(&format!("etcd://{}", snare.endpoint()), "first", &["migrate"]);
    snare.caught().await;
    let others = others(&scene);
    first.kill();
    all_done(&scene, others, server, &database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_claim() {
    killed_at_the_store(CLAIM, Catch::Request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_claim_and_its_answer() {
    killed_at_the_store(CLAIM, Catch::Answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_verdict() {
    killed_at_the_store(VERDICT, Catch::Request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_verdict_and_its_answer() {
    killed_at_the_store(VERDICT, Catch::Answers).await;
}

/// What cannot be in a transaction is not promised once: it is unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_what_is_no_transaction() {
    let (server, database) = with_table(Kind::Postgres).await;
    let scene = over(Scene::over_sqlite(), &database.url);
    scene.write("jobs.yaml", &JOBS.replace("statement:", "transaction: false, statement:"));
    let lock = hold_table(&database).await;
    let mut first = scene.start("first", &["migrate"]);
    until("its statement waits", async || (waiting(server, &database) == "1").then_some(())).await;
    let others = others(&scene);
    first.kill();
    lock.batch_execute("ROLLBACK").await.unwrap();
    for process in others {
        process.end().ends(6, &["migrate resolve first --as done"]);
    }
    assert_eq!(scene.state("first"), "unknown");
    assert!(effects(server, &database).lines().count() <= 1, "never twice");
}

#[test]
fn the_files_of_a_directory_are_a_migration_each_in_the_order_of_their_names() {
    let scene = Scene::over_sqlite();
    std::fs::create_dir(scene.path("changes")).unwrap();
    scene.write("changes/002_two.sql", "INSERT INTO t VALUES (2);\n");
    scene.write("changes/001_one.sql", "CREATE TABLE t (n INT);\r\nINSERT INTO t VALUES (1);\r\n");
    scene.write("changes/README.md", "not one of them");
    let jobs = "version: 1\nmigrations:\n  - {id: schema, sql: {database: 'sqlite:t.db', file: changes}}\n";
    scene.write("jobs.yaml", jobs);
    scene.run(&["migrate"]).ends(0, &["schema/001_one.sql: done"]);
    let made: Vec<String> = scene.status().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(made, ["schema/001_one.sql", "schema/002_two.sql"]);
    scene.write("changes/001_one.sql", "CREATE TABLE t (n INT);\nINSERT INTO t VALUES (1);\n");
    scene.write("changes/003_three.sql", "INSERT INTO t VALUES (3)");
    scene.run(&["migrate"]).ends(0, &["003_three.sql: done"]); // other line ends are no change
    let target = rusqlite::Connection::open(scene.path("t.db")).unwrap();
    let sum: u32 = target.query_row("SELECT sum(n) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, 6);
    scene.write("changes/002_two.sql", "INSERT INTO t VALUES (20);\n");
    scene.run(&["migrate"]).ends(2, &["`schema/002_two.sql` was changed"]);
    scene.write("changes/004 four.sql", "SELECT 1");
    scene.run(&["migrate"]).ends(2, &["the name of the file `004 four.sql` cannot be part of a migration's id"]);
}

/// SQLite's own procedure for changing a table (<https://sqlite.org/lang_altertable.html#otheralter>).
#[test]
fn a_table_is_rebuilt_by_a_migration_as_sqlite_documents_it() {
    let scene = Scene::over_sqlite();
    let target = rusqlite::Connection::open(scene.path("t.db")).unwrap();
    let tables = "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT, old TEXT);
        CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent ON DELETE CASCADE);
        INSERT INTO parent VALUES (1, 'a', 'x'); INSERT INTO child VALUES (10, 1);";
    target.execute_batch(tables).unwrap();
    let rebuild = "PRAGMA foreign_keys=OFF;\nCREATE TABLE n(id INTEGER PRIMARY KEY, name TEXT);\n\
        INSERT INTO n SELECT id, name FROM parent;\nDROP TABLE parent;\nALTER TABLE n RENAME TO parent;\n\
        PRAGMA foreign_keys=ON;\n";
    scene.write("rebuild.sql", rebuild);
    let jobs = "version: 1\nmigrations:\n  - {id: rebuild, sql: {database: 'sqlite:t.db', file: rebuild.sql}}\n";
    scene.write("jobs.yaml", jobs);
    scene.run(&["migrate"]).ends(0, &["rebuild: done"]);
    let count =
        |of: &str| target.query_row(&format!("SELECT count(*) FROM {of}"), [], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!((count("child"), count("pragma_table_info('parent')")), (1, 2));
    scene.write("rebuild.sql", &rebuild.replace("OFF;\n", "OFF;\nPRAGMA journal_mode=WAL;\n"));
    scene.run(&["migrate"]).ends(2, &["rebuild.sql:2:1", "`PRAGMA journal_mode` has no effect in a transaction"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_was_committed_in_part_is_never_done() {
    let (server, database) = with_table(Kind::Mariadb).await;
    let early = "DELIMITER //\nCREATE PROCEDURE early() BEGIN INSERT INTO effects VALUES ('part'); COMMIT; END//";
    server.ask(&database.name, early);
    let scene = over(Scene::over_sqlite(), &database.url);
    scene.write("jobs.yaml", &JOBS.replace("INSERT INTO effects (run_id) VALUES (:run_id)", "CALL early(); SELECT 1"));
    scene.run(&["migrate"]).ends(6, &["this statement ended the transaction", "migrate resolve first --as done"]);
    for _ in 0..2 {
        scene.run(&["migrate", "resolve", "first", "--as", "retry"]).ends(0, &[]);
        scene.run(&["migrate"]).ends(6, &["a part of the script is committed"]);
        assert_eq!(scene.state("first"), "unknown");
    }
    assert_eq!(effects(server, &database), "part");
}

#[test]
fn what_failed_in_a_transaction_is_said_to_have_left_nothing() {
    let scene = Scene::over_sqlite();
    let jobs = |transaction: &str, to: &str| {
        format!(
            "version: 1\nmigrations:\n  - {{id: one, sql: {{database: 'sqlite:t.db', transaction: {transaction}, \
             statement: 'CREATE TABLE t (n); INSERT INTO {to} VALUES (1)'}}}}\n"
        )
    };
    scene.write("jobs.yaml", &jobs("true", "u"));
    let ran = scene.run(&["migrate"]);
    ran.ends(1, &["no such table: u", "It left nothing behind. Put it right, and run this again"]);
    assert!(!ran.stderr().contains("may have done a part"), "{}", ran.stderr());
    scene.write("jobs.yaml", &jobs("true", "t"));
    scene.run(&["migrate"]).ends(0, &["one: done"]);
    drop(scene);
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", &jobs("false", "u"));
    scene.run(&["migrate"]).ends(1, &["with --retry-failed where it is unchanged, for it may have done a part"]);
}
