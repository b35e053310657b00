//! Attempts that are stopped, cut off, or whose server dies.

use std::time::Duration;

use fencron::job::{Outcome, StopReason};

use crate::scene::{attempt, attempt_of, each, failed, mariadb, postgres, servers};
use crate::support::databases::{Kind, Server};
use crate::support::proxy::{Flow, Proxy};
use crate::support::{soon, until};

/// When a statement that does not answer is given up.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

const SLOW: &str = "INSERT INTO effects VALUES (1, 'x'); UPDATE locks SET n = n + 1 WHERE id = 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_stopped_is_undone() {
    for db in each() {
        let held = db.hold().await;
        let making = attempt(&db.url(), SLOW, "").start();
        making.started.await.unwrap();
        db.somebody_waits().await;
        making.stopper.stop(StopReason::Asked);
        let asked = tokio::time::Instant::now();
        let ended = soon("it stops although the lock is held", making.ended).await.unwrap();
        assert!(asked.elapsed() < CANCEL_LIMIT, "{}: it was cancelled, not given up: {:?}", db.name(), asked.elapsed());
        assert_eq!(ended.outcome, Outcome::Stopped(StopReason::Asked), "{}", db.name());
        if !matches!(db, crate::scene::Target::File(_)) {
            // Its session does not wait any more, while the lock is still held.
            assert_eq!(db.effects(), "", "{}", db.name());
        }
        held.release().await;
        db.everybody_has_left().await;
        assert_eq!(db.effects(), "", "{}", db.name());
        assert_eq!(attempt(&db.url(), SLOW, "").outcome().await, Outcome::Done, "{}: it left no row", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_undone() {
    for db in each() {
        let held = db.hold().await;
        let job = format!("timeout: 1s\n    sql: {{database: '{}', statement: \"{SLOW}\"}}", db.url());
        let outcome = attempt_of(&job, &Default::default()).outcome().await;
        assert_eq!(outcome, Outcome::TimedOut, "{}", db.name());
        held.release().await;
        db.everybody_has_left().await;
        assert_eq!(db.effects(), "", "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_settled_as_done() {
    for db in servers() {
        let proxy = Proxy::start(&db.endpoint()).await;
        let held = db.hold().await;
        let making = attempt(&db.url_at(&proxy.endpoint()), SLOW, "").start();
        db.somebody_waits().await;
        proxy.requests(Flow::Hold);
        held.release().await;
        // The commit has come as far as the proxy.
        proxy.holds_something().await;
        proxy.answers(Flow::Hold);
        proxy.requests(Flow::Pass);
        proxy.holds_something().await;
        // It was committed, and the answer is on its way.
        proxy.cut();
        db.everybody_has_left().await;
        proxy.pass();
        let ended = making.ended().await;
        assert_eq!(ended.outcome, Outcome::Done, "{}", db.name());
        assert_eq!(db.effects(), "1", "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrived_is_settled_as_failed() {
    for db in servers() {
        let proxy = Proxy::start(&db.endpoint()).await;
        let held = db.hold().await;
        let making = attempt(&db.url_at(&proxy.endpoint()), SLOW, "").start();
        db.somebody_waits().await;
        proxy.requests(Flow::Hold);
        held.release().await;
        proxy.holds_something().await;
        proxy.cut();
        db.everybody_has_left().await;
        proxy.pass();
        let ended = making.ended().await;
        let (why, again) = failed(&ended.outcome);
        assert!(again && why.contains("not committed"), "{}: {why}", db.name());
        assert_eq!(db.effects(), "", "{}", db.name());
        assert_eq!(attempt(&db.url(), SLOW, "").outcome().await, Outcome::Done, "{}", db.name());
        assert_eq!(db.effects(), "1", "{}", db.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_nobody_can_ask_after_is_in_doubt() {
    for db in servers() {
        let proxy = Proxy::start(&db.endpoint()).await;
        let held = db.hold().await;
        let making = attempt(&db.url_at(&proxy.endpoint()), SLOW, "").start();
        db.somebody_waits().await;
        proxy.requests(Flow::Hold);
        held.release().await;
        proxy.holds_something().await;
        proxy.refuse();
        making.stopper.stop(StopReason::Shutdown);
        let ended = making.ended().await;
        assert!(matches!(ended.outcome, Outcome::InDoubt(_)), "{}: {:?}", db.name(), ended.outcome);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_row_of_the_occurrence_a_lost_commit_is_in_doubt() {
    for db in servers() {
        let proxy = Proxy::start(&db.endpoint()).await;
        let held = db.hold().await;
        let url = db.url_at(&proxy.endpoint());
        let job = format!("guarantee: at_least_once\n    sql: {{database: '{url}', statement: \"{SLOW}\"}}");
        let making = attempt_of(&job, &Default::default()).start();
        db.somebody_waits().await;
        proxy.requests(Flow::Hold);
        held.release().await;
        proxy.holds_something().await;
        proxy.cut();
        let ended = making.ended().await;
        assert!(matches!(ended.outcome, Outcome::InDoubt(_)), "{}: {:?}", db.name(), ended.outcome);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_in_the_middle_has_had_no_effect() {
    for db in servers() {
        let proxy = Proxy::start(&db.endpoint()).await;
        let held = db.hold().await;
        let making = attempt(&db.url_at(&proxy.endpoint()), SLOW, "").start();
        db.somebody_waits().await;
        proxy.refuse();
        let ended = making.ended().await;
        let (why, again) = failed(&ended.outcome);
        assert!(again && why.contains("before the commit"), "{}: {why}", db.name());
        held.release().await;
        db.everybody_has_left().await;
        assert_eq!(db.effects(), "", "{}", db.name());
        // Without a transaction, nobody knows.
        proxy.pass();
        let held = db.hold().await;
        let loose = attempt(&db.url_at(&proxy.endpoint()), SLOW, ", transaction: false").start();
        db.somebody_waits().await;
        proxy.cut();
        let ended = loose.ended().await;
        assert!(matches!(ended.outcome, Outcome::InDoubt(_)), "{}: {:?}", db.name(), ended.outcome);
        held.release().await;
    }
}

/// A procedure that commits, and then waits for a row that somebody else has.
const HIDES_A_COMMIT: &str = "DELIMITER //\nCREATE PROCEDURE hides_a_commit() BEGIN INSERT INTO effects \
                              VALUES (1, 'x'); COMMIT; UPDATE locks SET n = n + 1 WHERE id = 1; END//";

/// Where no row of the occurrence would tell, a part may stand of what a statement does that may commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_in_a_statement_that_may_have_committed_leaves_it_in_doubt() {
    let unkept = |url: &str, sql: &str| {
        format!("guarantee: at_least_once\n    sql: {{database: '{url}', statement: \"{sql}\"}}")
    };
    for lost in [true, false] {
        let db = mariadb();
        db.ask(HIDES_A_COMMIT);
        let proxy = Proxy::start(&db.endpoint()).await;
        let held = db.hold().await;
        let job = unkept(&db.url_at(&proxy.endpoint()), "CALL hides_a_commit()");
        let making = attempt_of(&job, &Default::default()).start();
        db.somebody_waits().await;
        let stopper = &making.stopper;
        if lost {
            proxy.cut();
        } else {
            // It is told to stop, and nothing of that arrives.
            proxy.hold();
            stopper.stop(StopReason::Asked);
        }
        let ended = making.ended().await;
        assert!(matches!(ended.outcome, Outcome::InDoubt(_)), "{lost}: {:?}", ended.outcome);
        held.release().await;
        assert_eq!(db.effects(), "1", "a part of it is committed");
    }
    // What cannot have committed has left nothing.
    let db = mariadb();
    let proxy = Proxy::start(&db.endpoint()).await;
    let held = db.hold().await;
    let making = attempt_of(&unkept(&db.url_at(&proxy.endpoint()), SLOW), &Default::default()).start();
    db.somebody_waits().await;
    proxy.cut();
    let ended = making.ended().await;
    let (why, again) = failed(&ended.outcome);
    assert!(again && why.contains("before the commit"), "{why}");
    held.release().await;
}

/// What asks after the statement before it has its answer, and the bounds that this one has changed are set again after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_asks_after_the_last_one_does_not_keep_the_bounds_from_being_set_again() {
    let db = mariadb();
    let script = "SET SESSION wait_timeout = 28800, idle_transaction_timeout = 0, sort_buffer_size = 1;
        SHOW WARNINGS;
        INSERT INTO effects VALUES (@@SESSION.wait_timeout, @@SESSION.idle_transaction_timeout)";
    let ended = attempt(&db.url(), script, "").ended().await;
    assert_eq!(ended.outcome, Outcome::Done, "{}", ended.output);
    assert!(ended.output.contains("sort_buffer_size"), "the warning is that of the statement: {}", ended.output);
    let (wait, idle) = (db.ask("SELECT n FROM effects"), db.ask("SELECT note FROM effects"));
    assert_eq!(wait, idle, "both are the bound for a silent session");
    assert!(wait.parse::<u64>().unwrap() < 60, "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_middle_has_done_nothing() {
    for kind in [Kind::Postgres, Kind::Mariadb] {
        let mut server = Server::start(kind);
        let database = server.database();
        let ask = |server: &Server, sql: &str| server.ask(&database.name, sql);
        ask(&server, "CREATE TABLE effects (n int, note varchar(200))");
        let sleep = if kind == Kind::Postgres { "SELECT pg_sleep(600)" } else { "DO sleep(600)" };
        let insert = "INSERT INTO effects VALUES (1, 'x')";
        let making = attempt(&database.url, &format!("{insert}; {sleep}"), "").start();
        let asleep = match kind {
            Kind::Postgres => "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
            Kind::Mariadb => "SELECT count(*) FROM information_schema.processlist WHERE state = 'User sleep'",
        };
        until("the statement sleeps", async || (ask(&server, asleep) == "1").then_some(())).await;
        server.kill();
        if kind == Kind::Postgres {
            // Its connections are other processes, which go on until they look.
            server.restart();
        }
        let ended = making.ended().await;
        let (why, again) = failed(&ended.outcome);
        assert!(again, "{kind:?}: {why}");
        if kind == Kind::Mariadb {
            server.restart();
        }
        assert_eq!(ask(&server, "SELECT count(*) FROM effects"), "0", "{kind:?}");
        assert_eq!(attempt(&database.url, insert, "").outcome().await, Outcome::Done, "{kind:?}");
        assert_eq!(ask(&server, "SELECT count(*) FROM effects"), "1", "{kind:?}");
    }
}

/// What `pg_dump` writes first, and what a script for MariaDB may: none has a say in how long a silent node is waited for.
const HEADER: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET client_connection_check_interval = 0; \
    SELECT pg_catalog.set_config('search_path', '', false); SET default_table_access_method = heap; ";
const HEADER_OF_MARIADB: &str = "SET SESSION wait_timeout = 28800, idle_transaction_timeout = 0; ";

#[tokio::test(flavor = "multi_thread")]
async fn the_server_ends_the_transaction_of_a_node_that_is_silent() {
    silent(postgres(), "", SLOW).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_sets_does_not_keep_the_server_from_ending_a_silent_node() {
    let qualified = "INSERT INTO public.effects VALUES (1, 'x'); UPDATE public.locks SET n = n + 1 WHERE id = 1";
    let bound = "INSERT INTO public.effects VALUES (:attempt, set_config('idle_in_transaction_session_timeout', '0', \
                 false)); UPDATE public.locks SET n = n + 1 WHERE id = 1";
    let ways = [(postgres(), HEADER, qualified), (postgres(), "", bound), (mariadb(), HEADER_OF_MARIADB, SLOW)];
    for way in ways.map(|(db, header, rest)| tokio::spawn(silent(db, header, rest))) {
        way.await.unwrap();
    }
}

/// A node that is silent once its statements are through: the next waits for as long as the server keeps it.
async fn silent(db: crate::scene::Target, header: &str, rest: &str) {
    let proxy = Proxy::start(&db.endpoint()).await;
    let held = db.hold().await;
    let zombie = attempt(&db.url_at(&proxy.endpoint()), &format!("{header}{rest}"), "").start();
    db.somebody_waits().await;
    // Its requests do not arrive, as if it had been stopped: it holds the guard's row.
    proxy.requests(Flow::Hold);
    held.release().await;
    let begun = tokio::time::Instant::now();
    let next = attempt(&db.url(), SLOW, "").fence(8).at("2026-11-22T00:00:00Z").outcome().await;
    assert_eq!(next, Outcome::Done, "{}: the successor gets in", db.name());
    assert!(begun.elapsed() > Duration::from_secs(5), "{}: it had to wait: {:?}", db.name(), begun.elapsed());
    proxy.pass();
    let ended = zombie.ended().await;
    assert!(matches!(ended.outcome, Outcome::Failed { .. } | Outcome::Fenced { .. }), "{:?}", ended.outcome);
    assert_eq!(db.effects(), "1", "{}: only the successor's", db.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_runs_as_it_is() {
    let dump = format!(
        "--\n-- PostgreSQL database dump\n--\n\\restrict x1\n{HEADER}CREATE TABLE public.b (id int);\n\\unrestrict x1\n"
    );
    let db = postgres();
    let ended = attempt(&db.url(), &dump, "").ended().await;
    assert_eq!(ended.outcome, Outcome::Done, "{}", ended.output);
    assert_eq!(db.ask("SELECT count(*) FROM b"), "0");
}
