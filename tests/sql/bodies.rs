//! The job's own statements: their values, their answers, their errors.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fencron::job::Outcome;

use crate::scene::{attempt, attempt_of, each, failed, mariadb, postgres, servers, sqlite};
use crate::support::databases::{Kind, PASSWORD, Server};

#[tokio::test(flavor = "multi_thread")]
async fn values_are_bound_as_what_the_column_is() {
    for db in each() {
        db.ask("CREATE TABLE t (a int, b varchar(50), c timestamp, d double precision, e int, f date, g int, h int)");
        let insert = "INSERT INTO t VALUES (:count, :text, :scheduled_at, :share, :none, :day, :yes, :count)";
        // PostgreSQL takes no truth for a number.
        let yes = if db.name() == "PostgreSQL" { "1" } else { "true" };
        let params = format!(
            ", params: {{count: 42, text: \"it''s; :x \\\"q\\\"\", share: 0.5, none: null, day: '2026-01-02', yes: {yes}}}"
        );
        let ended = attempt(&db.url(), insert, &params).ended().await;
        assert_eq!(ended.outcome, Outcome::Done, "{}: {}", db.name(), ended.output);
        assert_eq!(db.ask("SELECT a, b, d, g, h FROM t"), "42\tit''s; :x \"q\"\t0.5\t1\t42".replace("0.5", &half(&db)));
        assert_eq!(db.ask("SELECT count(*) FROM t WHERE e IS NULL AND f = '2026-01-02'"), "1", "{}", db.name());
        let at = db.ask("SELECT c FROM t");
        assert!(at.starts_with("2026-11-21") && at.contains("02:00:00"), "{}: {at}", db.name());
    }
}

fn half(db: &crate::scene::Target) -> String {
    if db.name() == "SQLite" { "Real(0.5)".to_owned() } else { "0.5".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_is_given_takes_the_place_of_the_values_of_the_job() {
    for db in each() {
        let insert = "INSERT INTO effects VALUES (:n, :note)";
        let job = || attempt(&db.url(), insert, ", params: {n: 1, note: usual}");
        assert_eq!(job().outcome().await, Outcome::Done, "{}", db.name());
        let given = job().at("2026-11-22T02:00:00Z").given(&[("n", "7"), ("note", "it's")]);
        assert_eq!(given.outcome().await, Outcome::Done, "{}", db.name());
        assert_eq!(db.ask("SELECT n, note FROM effects ORDER BY n"), "1\tusual\n7\tit's", "{}", db.name());
        let outcome = job().at("2026-11-23T02:00:00Z").given(&[("n", "7 or 1")]).outcome().await;
        assert!(failed(&outcome).0.contains("has to be a whole number"), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_the_stamp_stands_for_its_value() {
    for db in each() {
        let insert = "INSERT INTO effects VALUES (:fence, :scope); INSERT INTO effects VALUES (:attempt, :run_id)";
        assert_eq!(attempt(&db.url(), insert, "").outcome().await, Outcome::Done, "{}", db.name());
        let expected = "1\tpay@2026-11-21T02:00:00Z\n7\tshop/leader";
        assert_eq!(db.ask("SELECT n, note FROM effects ORDER BY n"), expected, "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_says_what_each_statement_came_to() {
    for db in each() {
        let script = "INSERT INTO effects VALUES (1, 'x');\nSELECT id, NULL AS none FROM locks ORDER BY id;\n\
                      SELECT id FROM locks WHERE id = :one";
        let ended = attempt(&db.url(), script, ", params: {one: 1}").ended().await;
        let expected = "line 1, column 1 of the statement: 1 row changed\n\
                        line 2, column 1 of the statement: 2 rows\nid | none\n1 | NULL\n2 | NULL\n\
                        line 3, column 1 of the statement: 1 row\nid\n1\n";
        assert_eq!(ended.output, expected, "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_undoes_the_rest_and_names_its_place() {
    for db in each() {
        let script = "INSERT INTO effects VALUES (1, 'x');\n\n  INSERT INTO efects\n  VALUES (:fence, 'y')";
        let outcome = attempt(&db.url(), script, "").outcome().await;
        let (why, again) = failed(&outcome);
        assert!(why.starts_with("line 3, column ") && why.contains("efects") && !again, "{}: {why}", db.name());
        assert_eq!(db.effects(), "", "{}", db.name());
        // The guard's row stays, the occurrence's does not: it can be made again.
        assert_eq!(db.ask("SELECT count(*) FROM fencron_done"), "0", "{}", db.name());
        let outcome = attempt(&db.url(), "INSERT INTO locks VALUES (1, 1)", "").outcome().await;
        assert!(failed(&outcome).1, "{}: what depends on the rows may go well later", db.name());
    }
    let outcome = attempt(&postgres().url(), "SELECT 1;\nSELECT *\n  FROM none_such", "").outcome().await;
    assert!(failed(&outcome).0.starts_with("line 3, column 8 of the statement: "), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_lock_in_opposite_orders_both_end_well() {
    for db in servers() {
        let pause = if db.name() == "PostgreSQL" { "SELECT pg_sleep(0.5)" } else { "DO sleep(0.5)" };
        let update = |id| format!("UPDATE locks SET n = n + 1 WHERE id = {id}");
        let one = attempt(&db.url(), &[update(1), pause.into(), update(2)].join("; "), "").start();
        let two = attempt(&db.url(), &[update(2), pause.into(), update(1)].join("; "), "").at("2026-11-22T00:00:00Z");
        let (one, two) = (one, two.start());
        let (one, two) = (one.ended().await, two.ended().await);
        assert_eq!((&one.outcome, &two.outcome), (&Outcome::Done, &Outcome::Done), "{}", db.name());
        assert_eq!(db.ask("SELECT n FROM locks ORDER BY id"), "2\n2", "{}", db.name());
        let told = format!("{}{}", one.output, two.output);
        assert!(told.contains("the transaction is made once more"), "{}: there was a deadlock: {told}", db.name());
    }
}

/// Where everything goes that is logged, by us and by what we use. It is looked at, not kept.
struct Log;

static LINES: AtomicUsize = AtomicUsize::new(0);
static LEAKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        LINES.fetch_add(1, Ordering::Relaxed);
        if text.contains("s3cr3t") || text.contains(PASSWORD) {
            LEAKS.lock().unwrap().push(text.into_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_shown() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Log).init();
    let variables = HashMap::from([("TOKEN", "s3cr3t-token")]);
    for db in each() {
        db.ask("CREATE TABLE tokens (token varchar(50) PRIMARY KEY)");
        let script = "INSERT INTO tokens VALUES (:token); SELECT token FROM tokens; INSERT INTO tokens VALUES (:token)";
        let job = format!("sql: {{database: '{}', statement: '{script}', params: {{token: '${{TOKEN}}'}}}}", db.url());
        let ended = attempt_of(&job, &variables).ended().await;
        let (why, _) = failed(&ended.outcome);
        let told = format!("{why}\n{}", ended.output);
        assert!(told.contains("***") && !told.contains("s3cr3t") && !told.contains("hunter2"), "{}: {told}", db.name());
    }
    assert!(LINES.load(Ordering::Relaxed) > 100, "the log is looked at");
    let leaks = LEAKS.lock().unwrap();
    assert!(leaks.is_empty(), "{leaks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_the_transaction_by_itself_leaves_no_success() {
    let db = mariadb();
    let early = "DELIMITER //\nCREATE PROCEDURE early() BEGIN INSERT INTO effects VALUES (1, 'x'); COMMIT; END//";
    let made = attempt(&db.url(), early, ", transaction: false").at("2026-11-20T00:00:00Z").outcome().await;
    assert_eq!(made, Outcome::Done);
    let outcome = attempt(&db.url(), "CALL early(); INSERT INTO effects VALUES (2, 'y')", "").outcome().await;
    let Outcome::Partial(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("line 1, column 1") && why.contains("transaction: false"), "{why}");
    let chained =
        "DELIMITER //\nCREATE PROCEDURE chained() BEGIN INSERT INTO effects VALUES (3, 'x'); COMMIT AND CHAIN; END//";
    let made = attempt(&db.url(), chained, ", transaction: false").at("2026-11-19T00:00:00Z").outcome().await;
    assert_eq!(made, Outcome::Done);
    let script = "CALL chained(); INSERT INTO effects VALUES (4, 'y')";
    let outcome = attempt(&db.url(), script, "").at("2026-11-22T00:00:00Z").outcome().await;
    let Outcome::Partial(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("began another one"), "{why}");
    let db = postgres();
    let outcome = attempt(&db.url(), "ALTER TABLE locks DETACH PARTITION x CONCURRENTLY", "").outcome().await;
    assert!(failed(&outcome).0.contains("transaction: false"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_transaction_each_statement_lasts_whatever_the_server_defaults_to() {
    // A server of its own: others would lose what they write.
    let server = Server::start_with(Kind::Mariadb, |_| vec!["--autocommit=0".to_owned()]);
    let database = server.database();
    server.ask(&database.name, "CREATE TABLE effects (n int)");
    let outcome = attempt(&database.url, "INSERT INTO effects VALUES (1)", ", transaction: false").outcome().await;
    assert_eq!((outcome, server.ask(&database.name, "SELECT n FROM effects")), (Outcome::Done, "1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_transaction_all_that_the_database_can_do_may_be_done() {
    let cases = [
        (postgres(), "CREATE INDEX CONCURRENTLY i ON effects (n); VACUUM effects"),
        (
            mariadb(),
            "ALTER TABLE effects ADD extra int; DELIMITER //\nCREATE PROCEDURE p() BEGIN DELETE FROM effects; END//",
        ),
        (
            sqlite(),
            "VACUUM; CREATE TRIGGER t AFTER INSERT ON effects BEGIN DELETE FROM locks; DELETE FROM effects; END",
        ),
    ];
    for (db, script) in cases {
        let ended = attempt(&db.url(), script, ", transaction: false").ended().await;
        assert_eq!(ended.outcome, Outcome::Done, "{}: {}", db.name(), ended.output);
    }
}
