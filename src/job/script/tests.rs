use super::*;
use Database::{Mysql, Postgres, Sqlite};

fn texts(text: &str, kind: Database) -> Vec<String> {
    Script::read(text, kind).unwrap().statements.into_iter().map(|statement| statement.text).collect()
}

fn names(text: &str, kind: Database) -> Vec<String> {
    let statements = Script::read(text, kind).unwrap().statements;
    statements.into_iter().flat_map(|statement| statement.names).map(|name| name.name).collect()
}

fn fault(text: &str, kind: Database) -> (usize, usize, String) {
    let Fault { place, message } = Script::read(text, kind).unwrap_err();
    (place.line, place.column, message)
}

#[test]
fn statements_end_at_semicolons_outside_of_quotes_and_comments() {
    for kind in [Postgres, Mysql, Sqlite] {
        let text = "SELECT ';'; -- one; two\n ;; /* a;b */ SELECT \"x;\" ;";
        assert_eq!(texts(text, kind), ["SELECT ';'", "SELECT \"x;\""], "{kind:?}");
        assert_eq!(texts("  -- nothing\n", kind), [""; 0]);
    }
    assert_eq!(texts("SELECT `a;b`; SELECT 1 # ;\n", Mysql), ["SELECT `a;b`", "SELECT 1"]);
    assert_eq!(texts("SELECT [a;b]; SELECT `c;`", Sqlite), ["SELECT [a;b]", "SELECT `c;`"]);
    assert_eq!(texts("/* a /* b; */ c; */ SELECT 1", Postgres), ["SELECT 1"]);
}

#[test]
fn backslashes_escape_where_the_database_says_so() {
    assert_eq!(texts(r"SELECT 'a\'; b'; SELECT 2", Mysql).len(), 2);
    assert_eq!(texts(r"SELECT 'a\'; SELECT 2", Postgres).len(), 2);
    assert_eq!(texts(r"SELECT E'a\'; b'; SELECT 2", Postgres).len(), 2);
    assert_eq!(texts(r"SELECT 'a\'; SELECT 2", Sqlite).len(), 2);
    assert_eq!(texts("SELECT 5--1; SELECT 2", Mysql).len(), 2);
}

#[test]
fn dollar_quotes_hold_what_they_hold() {
    let body = "DO $x$ BEGIN PERFORM $$a;b$$; END $x$; SELECT 1";
    assert_eq!(texts(body, Postgres), ["DO $x$ BEGIN PERFORM $$a;b$$; END $x$", "SELECT 1"]);
    assert_eq!(texts("SELECT a$b; SELECT 2", Postgres).len(), 2);
}

#[test]
fn the_bodies_of_routines_and_triggers_stay_whole() {
    let trigger =
        "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET x = CASE WHEN 1 THEN 2 END; DELETE FROM c; END";
    assert_eq!(texts(&format!("{trigger}; SELECT 1"), Sqlite), [trigger, "SELECT 1"]);
    let function =
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END";
    assert_eq!(texts(&format!("{function}; SELECT 1"), Postgres), [function, "SELECT 1"]);
    let procedure = "CREATE PROCEDURE p() BEGIN DELETE FROM a; DELETE FROM b; END";
    let script = format!("delimiter //\n{procedure}//\nDELIMITER ;\nSELECT 1;");
    assert_eq!(texts(&script, Mysql), [procedure, "SELECT 1"]);
    let (line, column, message) = fault(&format!("SELECT 1;\n  {procedure}"), Mysql);
    assert_eq!((line, column), (2, 3));
    assert!(message.contains("DELIMITER //"), "{message}");
}

#[test]
fn what_mysql_runs_in_comments_is_no_comment() {
    let script = Script::read("/*!40101 ALTER TABLE t ADD c int */; /* ALTER */ SELECT 1", Mysql).unwrap();
    assert_eq!(script.statements[0].text, "/*!40101 ALTER TABLE t ADD c int */");
    assert!(script.statements[0].why_not_in_transaction(Mysql).is_some());
    assert_eq!(script.statements[1].why_not_in_transaction(Mysql), None);
}

#[test]
fn names_stand_outside_of_quotes_and_are_no_casts() {
    let text = "SELECT :a::text, ':b', \":c\", x := :d, '10:30' -- :e\n, :a";
    for kind in [Postgres, Mysql, Sqlite] {
        assert_eq!(names(text, kind), ["a", "d", "a"], "{kind:?}");
    }
    assert_eq!(texts("SELECT :ab, :a;", Postgres), ["SELECT $1 , $2"]);
    assert_eq!(texts("SELECT :ab, :a;", Mysql), ["SELECT ?  , ? "]);
    assert_eq!(texts("SELECT :ab, :a;", Sqlite), ["SELECT :ab, :a"]);
    let script = Script::read("SELECT 1;\nSELECT\n  :late", Postgres).unwrap();
    let name = &script.statements[1].names[0];
    assert_eq!((name.place.line, name.place.column), (3, 3));
}

#[test]
fn a_placeholder_without_a_name_is_refused() {
    assert_eq!(fault("SELECT 1;\nSELECT ä, $1", Postgres).0, 2);
    assert_eq!(fault("SELECT 'ä', ?", Mysql), (1, 13, "`?` stands for no value here: write `:name`".to_owned()));
    for text in ["SELECT ?1", "SELECT @a", "SELECT $a"] {
        assert!(fault(text, Sqlite).2.contains("write `:name`"), "{text}");
    }
    assert_eq!(texts("SELECT a ? 'b'", Postgres).len(), 1);
    assert_eq!(texts("SELECT @a", Mysql).len(), 1);
}

#[test]
fn what_is_not_closed_is_told_with_its_place() {
    let cases = [("SELECT 1;\n SELECT 'a", Postgres), ("a;\n /* b", Sqlite), ("a;\n $q$ b", Postgres)];
    for (text, kind) in cases {
        assert_eq!(fault(text, kind).0, 2, "{text}");
    }
    assert!(fault("\\copy t from x", Postgres).2.contains("psql"));
    assert!(fault("COPY t (a) FROM STDIN", Postgres).2.contains("INSERT"));
}

#[test]
fn what_cannot_be_in_a_transaction_is_known_by_its_words() {
    let why = |text: &str, kind| Script::read(text, kind).unwrap().statements[0].why_not_in_transaction(kind);
    let bad = [
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", Postgres),
        ("/* x */ vacuum full t", Postgres),
        ("CREATE DATABASE d", Postgres),
        ("COMMIT", Postgres),
        ("end", Postgres),
        ("BEGIN", Sqlite),
        ("VACUUM", Sqlite),
        ("ALTER TABLE t ADD c int", Mysql),
        ("TRUNCATE t", Mysql),
        ("SET @@autocommit = 1", Mysql),
        ("ROLLBACK", Mysql),
    ];
    for (text, kind) in bad {
        assert!(why(text, kind).is_some_and(|why| why.contains("transaction: false")), "{text}");
    }
    let good = [
        ("CREATE INDEX i ON t (a)", Postgres),
        ("ROLLBACK TO SAVEPOINT s", Postgres),
        ("CREATE TEMPORARY TABLE t (a int)", Mysql),
        ("ALTER TABLE t ADD c int", Sqlite),
        ("SAVEPOINT s", Mysql),
    ];
    for (text, kind) in good {
        assert_eq!(why(text, kind), None, "{text}");
    }
}

#[test]
fn nothing_makes_it_panic() {
    for kind in [Postgres, Mysql, Sqlite] {
        for text in [
            "'",
            "\"\\",
            "/*",
            "/*!",
            "$",
            "$a",
            ":",
            "::",
            ":=",
            "ä:ö",
            "'\\",
            "E'",
            "DELIMITER",
            "-",
            "--",
            "[",
            "\u{feff}x",
        ] {
            Script::read(text, kind).ok();
        }
    }
}
