//! Who says where a statement ends, and whether the transaction still stands: the database.

use fencron::job::Outcome;

use crate::scene::{Target, attempt, attempt_of, failed, mariadb, postgres, problems, sqlite};
use crate::support::databases::{Kind, Server};
use crate::support::until;

const NEXT: &str = "2026-11-22T00:00:00Z";

fn partial(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Partial(why) => why,
        other => panic!("a part of it is committed, and nobody says so: {other:?}"),
    }
}

/// A child that goes with its parent.
fn family(db: &Target) {
    db.ask("CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT, old TEXT)");
    db.ask("CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent ON DELETE CASCADE)");
    db.ask("INSERT INTO parent VALUES (1, 'a', 'x'), (2, 'b', 'y')");
    db.ask("INSERT INTO child VALUES (10, 1), (20, 2)");
}

const REBUILD: &str = "PRAGMA foreign_keys=OFF;
    CREATE TABLE n(id INTEGER PRIMARY KEY, name TEXT);
    INSERT INTO n SELECT id, name FROM parent;
    DROP TABLE parent;
    ALTER TABLE n RENAME TO parent;
    PRAGMA foreign_key_check;
    PRAGMA foreign_keys=ON;";

#[tokio::test(flavor = "multi_thread")]
async fn the_rebuild_of_a_table_keeps_the_rows_that_refer_to_it() {
    for more in ["", ", transaction: false"] {
        let db = sqlite();
        family(&db);
        let ended = attempt(&db.url(), REBUILD, more).ended().await;
        assert_eq!(ended.outcome, Outcome::Done, "{more}: {}", ended.output);
        assert_eq!(db.ask("SELECT id, p FROM child"), "10\t1\n20\t2", "{more}");
        assert_eq!(db.ask("SELECT name FROM parent ORDER BY id"), "a\nb", "{more}");
        assert_eq!(db.ask("SELECT count(*) FROM pragma_table_info('parent')"), "2", "{more}");
    }
    // Definitions may stand around it, and rows that nothing refers to.
    let db = sqlite();
    family(&db);
    let around = format!(
        "CREATE TABLE other (n); {REBUILD} CREATE INDEX i ON parent (name); INSERT INTO effects VALUES (1, 'x')"
    );
    assert_eq!(attempt(&db.url(), &around, "").outcome().await, Outcome::Done);
    assert_eq!((db.ask("SELECT count(*) FROM child"), db.effects()), ("2".to_owned(), "1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_leaves_a_row_behind_is_undone() {
    let db = sqlite();
    family(&db);
    let lossy = REBUILD.replace("FROM parent", "FROM parent WHERE id = 1");
    let outcome = attempt(&db.url(), &lossy, "").outcome().await;
    let (why, again) = failed(&outcome);
    assert!(why.contains("foreign_key_check") && why.contains("row 20 of child refers to parent") && !again, "{why}");
    assert_eq!(db.ask("SELECT count(*) FROM pragma_table_info('parent')"), "3", "nothing of it was committed");
    assert_eq!(db.ask("SELECT count(*) FROM child"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_keys_are_missing_no_row_is_changed_that_others_refer_to() {
    for changes in ["DELETE FROM Parent WHERE id = 1", "UPDATE parent SET id = 7", "DROP TABLE parent"] {
        for script in [format!("{changes};\n{REBUILD}"), format!("{REBUILD}\n{changes}")] {
            let db = sqlite();
            family(&db);
            let outcome = attempt(&db.url(), &script, "").outcome().await;
            let (why, again) = failed(&outcome);
            assert!(why.starts_with("line ") && why.contains("foreign keys are off here too") && !again, "{why}");
            assert_eq!(db.ask("SELECT count(*) FROM child"), "2", "{changes}");
        }
    }
    // With foreign keys, what refers to a row goes with it.
    let db = sqlite();
    family(&db);
    let with = "PRAGMA foreign_keys=ON; DELETE FROM parent WHERE id = 1";
    assert_eq!(attempt(&db.url(), with, "").outcome().await, Outcome::Done);
    assert_eq!(db.ask("SELECT id FROM child"), "20");
}

#[test]
fn what_a_transaction_makes_meaningless_is_refused_with_its_line() {
    for (statement, said) in [
        ("PRAGMA journal_mode = WAL", "`PRAGMA journal_mode` has no effect in a transaction"),
        ("PRAGMA main.synchronous(0)", "`PRAGMA synchronous` has no effect in a transaction"),
        ("PRAGMA auto_vacuum=1", "by `VACUUM` only"),
        ("PRAGMA hard_heap_limit=1", "for the whole process"),
        ("PRAGMA main.writable_schema=ON", "`PRAGMA writable_schema` lets a script write to SQLite's own tables"),
        ("ATTACH 'other.db' AS other", "`ATTACH` cannot be part"),
        ("VACUUM", "`VACUUM` cannot run in a transaction"),
        ("END", "`COMMIT` is not for the script to say"),
        ("ROLLBACK", "`ROLLBACK` is not for the script to say"),
        ("explain begin exclusive", "`BEGIN` is not for the script to say"),
    ] {
        let told = problems("sqlite:x.db", &format!("SELECT 1;\n\n{statement};\nSELECT 2"), "");
        assert!(told.contains("line 3") && told.contains(said), "{statement}: {told}");
        assert_eq!(
            problems("sqlite:x.db", &format!("{statement}; SELECT 2"), ", transaction: false"),
            "",
            "{statement}"
        );
    }
}

/// Otherwise it would be `done` without a row that says so, and would be applied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_does_not_write_to_the_tables_of_the_guard() {
    let trigger = "CREATE TRIGGER t AFTER INSERT ON effects BEGIN DELETE FROM fencron_done; END;\n\
                   INSERT INTO effects VALUES (2, 'x')";
    for statement in [
        "DELETE FROM fencron_done",
        "DELETE FROM main.FENCRON_DONE WHERE 1",
        "UPDATE fencron_guard SET fence = 1",
        "REPLACE INTO fencron_guard (scope, fence) VALUES ('x', 1)",
        "DROP TABLE fencron_done",
        "ALTER TABLE fencron_done RENAME TO mine",
        "CREATE TRIGGER t BEFORE INSERT ON fencron_done BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TEMP TRIGGER t BEFORE UPDATE ON main.fencron_guard BEGIN SELECT RAISE(IGNORE); END",
        "CREATE UNIQUE INDEX i ON fencron_done (scope)",
        trigger,
    ] {
        let db = sqlite();
        let script = format!("INSERT INTO effects VALUES (1, 'x');\n{statement}");
        let outcome = attempt(&db.url(), &script, "").outcome().await;
        let (why, again) = failed(&outcome);
        assert!(why.starts_with("line ") && why.contains("must not write to it") && !again, "{statement}: {why}");
        assert_eq!(db.effects(), "", "{statement}");
        assert_eq!(db.ask("SELECT count(*) FROM fencron_done"), "0", "{statement}: nothing of it was committed");
    }
    // The tables themselves are made by a script that a person may have as a migration.
    let db = sqlite();
    let script = fencron::guard::sql::Dialect::Sqlite.script();
    assert_eq!(attempt(&db.url(), &script, "").outcome().await, Outcome::Done);
    assert_eq!(db.ask("SELECT count(*) FROM fencron_done"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_begin_routines_elsewhere_are_names_in_a_table() {
    let names = "CREATE TABLE calls (id int, function varchar(9), begin timestamp NULL, event int);\n\
                 INSERT INTO calls (id) VALUES (1);\nINSERT INTO calls (id) VALUES (2)";
    for (db, more) in [(postgres(), ""), (mariadb(), ", transaction: false"), (sqlite(), "")] {
        let ended = attempt(&db.url(), names, more).ended().await;
        assert_eq!(ended.outcome, Outcome::Done, "{}: {}", db.name(), ended.output);
        assert_eq!(db.ask("SELECT count(*) FROM calls"), "2", "{}", db.name());
        // A COMMIT behind them is seen.
        let told = problems(&db.url(), &format!("{names};\nCOMMIT;\nSELECT 1/0"), "");
        assert!(told.contains("line 4") && told.contains("`COMMIT` is not for the script to say"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_hold_semicolons_are_one_to_the_server() {
    let db = postgres();
    let script = "CREATE RULE twice AS ON INSERT TO effects DO ALSO (UPDATE locks SET n = n + 1; NOTIFY x);
        CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 AS end; SELECT $1 + $2; END;
        DO $x$ BEGIN PERFORM 1; PERFORM $$;$$; END $x$;
        PREPARE p(int) AS INSERT INTO effects VALUES ($1, 'a;b');
        SAVEPOINT s; EXECUTE p(1); ROLLBACK TO s; EXECUTE p(2); RELEASE s;
        INSERT INTO effects VALUES (add(1, 2), E'it\\'s; ' /* /* ; */ ; */)";
    let ended = attempt(&db.url(), script, "").ended().await;
    assert_eq!(ended.outcome, Outcome::Done, "{}", ended.output);
    assert_eq!((db.effects().as_str(), db.ask("SELECT max(n) FROM locks").as_str()), ("2,3", "2"));
    let db = mariadb();
    let script = "DELIMITER $$\nCREATE PROCEDURE p() again:LOOP INSERT INTO effects VALUES (1, 'x'); LEAVE again; \
                  END LOOP$$\nDROP PROCEDURE IF EXISTS q$$\nDELIMITER ;\nCALL p();\n\
                  INSERT INTO effects VALUES (2, 'it\\'s; x') # ;\n";
    let ended = attempt(&db.url(), script, ", transaction: false").ended().await;
    assert_eq!((ended.outcome, db.effects().as_str()), (Outcome::Done, "1,2"), "{}", ended.output);
    let block = "DELIMITER //\nBEGIN NOT ATOMIC SET @n = 3; INSERT INTO effects VALUES (@n, ';'); END//\nDELIMITER ;\n\
                 UPDATE locks SET n = n + 1; SELECT ROW_COUNT() AS changed";
    let ended = attempt(&db.url(), block, "").at("2026-11-23T00:00:00Z").ended().await;
    assert_eq!((ended.outcome, db.effects().as_str()), (Outcome::Done, "1,2,3"), "{}", ended.output);
    assert!(ended.output.ends_with("changed\n2\n"), "what is asked after the last statement: {}", ended.output);
    let cut = "SELECT 1;\nCREATE PROCEDURE r() BEGIN SELECT 1; SELECT 2; END";
    let outcome = attempt(&db.url(), cut, ", transaction: false").at(NEXT).outcome().await;
    assert!(failed(&outcome).0.contains("DELIMITER //"), "{outcome:?}");
    let db = sqlite();
    let script =
        "CREATE TRIGGER t AFTER INSERT ON effects BEGIN UPDATE locks SET n = CASE WHEN 1 THEN 5 END; SELECT 1; END;
        INSERT INTO effects VALUES (1, ';'); SAVEPOINT s; DELETE FROM effects; ROLLBACK TO s; RELEASE s";
    let ended = attempt(&db.url(), script, "").ended().await;
    assert_eq!((ended.outcome, db.effects().as_str()), (Outcome::Done, "1"), "{}", ended.output);
    assert_eq!(db.ask("SELECT max(n) FROM locks"), "5");
}

/// A procedure in MariaDB that ends the transaction in this way.
async fn procedure(db: &Target, name: &str, ends: &str) {
    let body =
        format!("DELIMITER //\nCREATE PROCEDURE {name}() BEGIN INSERT INTO effects VALUES (1, 'x'); {ends}; END//");
    let at = format!("2026-10-{:02}T00:00:00Z", name.len());
    let made = attempt(&db.url(), &body, ", transaction: false").at(&at).outcome().await;
    assert_eq!(made, Outcome::Done, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_ended_in_the_middle_is_never_taken_for_done() {
    let ways = [
        ("a", "COMMIT"),
        ("bb", "COMMIT AND CHAIN"),
        ("ccc", "COMMIT; SIGNAL SQLSTATE '45000'"),
        ("dddd", "COMMIT; START TRANSACTION; SIGNAL SQLSTATE '45000'"),
        ("eeeee", "TRUNCATE TABLE locks"),
        ("ffffff", "COMMIT; START TRANSACTION; SAVEPOINT s"),
        ("ggggggg", "SET autocommit = 0; SET autocommit = 1"),
    ];
    for (name, ends) in ways {
        let db = mariadb();
        procedure(&db, name, ends).await;
        let at = format!("2026-09-{:02}T00:00:00Z", name.len());
        let again = || attempt(&db.url(), &format!("CALL {name}(); INSERT INTO effects VALUES (2, 'y')"), "").at(&at);
        let outcome = again().outcome().await;
        assert!(partial(&outcome).contains("transaction: false"), "{ends}: {outcome:?}");
        // The occurrence's row was committed with a part of it: that is no proof.
        for fence in [7, 8] {
            let outcome = again().fence(fence).outcome().await;
            let why = partial(&outcome);
            assert!(why.contains("a part of the script is committed") && why.contains("#begun'"), "{ends}: {why}");
        }
        assert_eq!(db.effects(), "1", "{ends}: once, and nothing of what came after it");
        db.ask("DELETE FROM effects");
        // As the message says.
        db.ask(&format!("DELETE FROM fencron_done WHERE run_id LIKE 'pay@2026-09-{:02}%'", name.len()));
        db.ask(&format!("DROP PROCEDURE {name}"));
        db.ask(&format!("CREATE PROCEDURE {name}() INSERT INTO effects VALUES (3, 'z')"));
        assert_eq!(again().fence(8).outcome().await, Outcome::Done, "{ends}");
        assert_eq!(db.ask("SELECT count(*) FROM fencron_done WHERE run_id LIKE '%#begun'"), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_after_a_hidden_commit_leaves_no_success() {
    let db = mariadb();
    procedure(&db, "a", "COMMIT; DO sleep(600)").await;
    let making = attempt(&db.url(), "CALL a()", "").at(NEXT).start();
    let Target::Server(_, database) = &db else { unreachable!() };
    let sleeps = format!(
        "SELECT id FROM information_schema.processlist WHERE state = 'User sleep' AND db = '{}'",
        database.name
    );
    let id = until("it sleeps", async || Some(db.ask(&sleeps)).filter(|id| !id.is_empty())).await;
    making.ended.abort();
    db.ask(&format!("KILL {id}"));
    let outcome = attempt(&db.url(), "CALL a()", "").at(NEXT).fence(8).outcome().await;
    assert!(partial(&outcome).contains("a part of the script is committed"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_only_the_server_sees_is_not_sent() {
    // To a role with the quotes of old, this is a text and a COMMIT; read as usual, a text alone.
    let hides =
        "INSERT INTO effects VALUES (1, 'a');\nINSERT INTO effects VALUES (2, '\\' || '); COMMIT; SELECT (' -- '\n)";
    let db = postgres();
    let Target::Server(_, database) = &db else { unreachable!() };
    db.ask(&format!("ALTER DATABASE {} SET standard_conforming_strings = off", database.name));
    let outcome = attempt(&db.url(), hides, "").outcome().await;
    let (why, again) = failed(&outcome);
    assert!(why.contains("standard_conforming_strings = off") && why.contains("line 2, column 1") && !again, "{why}");
    // What reads the same goes on, and one that switches is seen.
    let same = "INSERT INTO effects VALUES (1, 'a\\\\b')";
    assert_eq!(attempt(&db.url(), same, "").outcome().await, Outcome::Done);
    db.ask(&format!("ALTER DATABASE {} RESET standard_conforming_strings", database.name));
    let switches = format!("SET standard_conforming_strings = off;\n{hides}");
    let outcome = attempt(&db.url(), &switches, "").at(NEXT).outcome().await;
    assert!(failed(&outcome).0.contains("standard_conforming_strings = off"), "{outcome:?}");
    assert_eq!(db.effects(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reads_quotes_otherwise_is_told_from_one_that_does_not() {
    let differs = "INSERT INTO effects VALUES (1, 'x');\nINSERT INTO effects VALUES (2, 'it\\'s')";
    let same = "INSERT INTO effects VALUES (1, 'x')";
    let server = Server::start_with(Kind::Mariadb, |_| vec!["--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES".to_owned()]);
    let database = server.database();
    server.ask(&database.name, "CREATE TABLE effects (n int, note varchar(200))");
    let outcome = attempt(&database.url, differs, "").outcome().await;
    let (why, again) = failed(&outcome);
    assert!(why.contains("NO_BACKSLASH_ESCAPES") && why.contains("line 2, column 1") && !again, "{why}");
    assert_eq!(attempt(&database.url, same, "").outcome().await, Outcome::Done);
    let db = mariadb();
    let switches = format!("SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES';\n{differs}");
    let outcome = attempt(&db.url(), &switches, "").outcome().await;
    assert!(failed(&outcome).0.contains("line 3, column 1"), "{outcome:?}");
    assert_eq!(db.effects(), "");
    let dump = format!("/*!40101 SET @old=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;\n{differs}");
    assert_eq!(attempt(&db.url(), &dump, "").at(NEXT).outcome().await, Outcome::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_routine_of_postgres_ends_the_transaction() {
    let db = postgres();
    db.ask("CREATE PROCEDURE early() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO effects VALUES (1, 'x'); COMMIT; END $$");
    for script in ["CALL early()", "DO $$ BEGIN INSERT INTO effects VALUES (1, 'x'); COMMIT; END $$"] {
        let outcome = attempt(&db.url(), script, "").outcome().await;
        assert!(failed(&outcome).0.contains("invalid transaction termination"), "{outcome:?}");
        assert_eq!((db.effects().as_str(), db.ask("SELECT count(*) FROM fencron_done").as_str()), ("", "0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_the_script_itself_that_is_left_open_is_no_success() {
    for db in crate::scene::each() {
        let begin = if db.name() == "SQLite" { "BEGIN" } else { "START TRANSACTION" };
        let script = format!("{begin}; INSERT INTO effects VALUES (1, 'x')");
        let outcome = attempt(&db.url(), &script, ", transaction: false").outcome().await;
        assert!(failed(&outcome).0.contains("did not end it"), "{}: {outcome:?}", db.name());
        assert_eq!(db.effects(), "", "{}", db.name());
        let whole = format!("{script}; COMMIT");
        let outcome = attempt(&db.url(), &whole, ", transaction: false").at(NEXT).outcome().await;
        assert_eq!((outcome, db.effects().as_str()), (Outcome::Done, "1"), "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_path_that_was_filled_in_is_shown() {
    let variables = std::collections::HashMap::from([("DIR", "/none/such-s3cr3t-place")]);
    let job = "sql: {database: 'sqlite:${DIR}/x.db', statement: 'SELECT 1'}";
    let outcome = attempt_of(job, &variables).outcome().await;
    let (why, _) = failed(&outcome);
    assert!(why.contains("cannot be reached") || why.contains("refuses logins"), "{why}");
    assert!(!why.contains("s3cr3t"), "{why}");
}
