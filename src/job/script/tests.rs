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
    let bodies = [
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END",
        "CREATE FUNCTION f(begin int) RETURNS int BEGIN ATOMIC SELECT 1 AS end; SELECT t.end FROM t; SELECT $1; END",
        "create procedure begin() BEGIN ATOMIC SELECT 1; END",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO u VALUES (1); INSERT INTO v VALUES (2))",
        "PREPARE p AS SELECT $1",
    ];
    for body in bodies {
        assert_eq!(texts(&format!("{body}; SELECT 1"), Postgres), [body, "SELECT 1"]);
    }
    assert!(fault("CREATE FUNCTION f(a int) RETURNS int RETURN $1 + :fence", Postgres).2.contains("write `:name`"));
    let procedure = "CREATE PROCEDURE p() BEGIN DELETE FROM a; DELETE FROM b; END";
    let script = format!("delimiter //\n{procedure}//\nDELIMITER ;\nSELECT 1;");
    assert_eq!(texts(&script, Mysql), [procedure, "SELECT 1"]);
    // Its own client would cut it up, too: the server says what is wrong.
    assert_eq!(texts(procedure, Mysql).len(), 3);
    assert!(Script::read(procedure, Mysql).unwrap().statements[0].looks_cut_up());
}

#[test]
fn a_delimiter_ends_a_statement_wherever_it_stands() {
    let shown = "CREATE PROCEDURE p() BEGIN SELECT 1; END";
    for delimiter in ["$$", "//", ";;", "'$$' -- from here on", "end_of_it"] {
        let word = delimiter.split(' ').next().unwrap().trim_matches('\'');
        let script =
            format!("DELIMITER {delimiter}\n{shown}{word}\nDROP PROCEDURE q{word}\nDELIMITER ;\nSELECT 'a$$b';");
        assert_eq!(texts(&script, Mysql), [shown, "DROP PROCEDURE q", "SELECT 'a$$b'"], "{delimiter}");
    }
    assert_eq!(texts("DELIMITER$$\nSELECT 1$$SELECT 2;$$", Mysql), ["SELECT 1", "SELECT 2;"]);
    assert!(fault("DELIMITER \nSELECT 1", Mysql).2.contains("names none"));
    assert_eq!(texts("SELECT delimiter FROM t; SELECT 2", Mysql).len(), 2);
}

#[test]
fn names_are_no_routines() {
    let plain = "CREATE TABLE t (id int, function text, begin time, event int, trigger int, procedure int)";
    for kind in [Postgres, Mysql, Sqlite] {
        let script = format!("{plain};\nINSERT INTO t (id) VALUES (1);\nCOMMIT;\nSELECT 1");
        let found = Script::read(&script, kind).unwrap().statements;
        assert_eq!(found.len(), 4, "{kind:?}");
        assert!(found[2].why_not_in_transaction(kind).is_some_and(|why| why.contains("COMMIT")), "{kind:?}");
    }
}

#[test]
fn a_script_ends_where_sqlite_ends_it() {
    use rusqlite::fallible_iterator::FallibleIterator;
    let database = rusqlite::Connection::open_in_memory().unwrap();
    database.execute_batch("CREATE TABLE a (x, trigger, [b;c]); CREATE TABLE log (x)").unwrap();
    let script = "
        CREATE TABLE trigger_of (\"end;\" int, `c;d`, [e;f]); /* ; */ -- ; '
        CREATE TRIGGER one AFTER INSERT ON a BEGIN
            INSERT INTO log SELECT CASE WHEN new.x THEN 1 ELSE ';' END; /* END; */
            DELETE FROM log WHERE x = 'END;' -- END;
            ;
        END;;
        EXPLAIN QUERY PLAN CREATE TEMP TRIGGER two AFTER DELETE ON a BEGIN SELECT 1; END;
        create /* a */ trigger -- b
            if not exists three update on a when new.x begin select raise(ignore); select 2; end ;
        SELECT trigger, 'it''s; ' FROM a; SELECT \"b;c\" FROM a WHERE x NOT IN (';', \";\");
        DROP TABLE a";
    let mut theirs = rusqlite::Batch::new(&database, script);
    let mut texts_of_theirs = Vec::new();
    while let Some(statement) = theirs.next().unwrap() {
        texts_of_theirs.push(statement.expanded_sql().unwrap());
    }
    let theirs: Vec<&str> = texts_of_theirs.iter().map(|text| text.trim_end_matches([';', ' ', '\n'])).collect();
    let ours = texts(script, Sqlite);
    assert_eq!(ours.len(), theirs.len(), "{theirs:#?}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        // Comments before a statement are part of it to SQLite.
        assert!(theirs.trim_end().ends_with(ours.trim_end()), "{ours}\n{theirs}");
    }
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
        ("/* x */ EXPLAIN /* y */ COMMIT", Sqlite),
        ("ATTACH 'x' AS y", Sqlite),
        ("DETACH y", Sqlite),
        ("PRAGMA main.journal_mode = wal", Sqlite),
        ("pragma synchronous(off)", Sqlite),
        ("PRAGMA wal_checkpoint", Sqlite),
        ("PRAGMA page_size = 8192", Sqlite),
        ("ALTER TABLE t ADD c int", Mysql),
        ("TRUNCATE t", Mysql),
        ("SET @@autocommit = 1", Mysql),
        ("ROLLBACK", Mysql),
        ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", Mysql),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Postgres),
    ];
    for (text, kind) in bad {
        assert!(why(text, kind).is_some_and(|why| why.contains("transaction: false")), "{text}");
    }
    let good = [
        ("CREATE INDEX i ON t (a)", Postgres),
        ("ROLLBACK TO SAVEPOINT s", Postgres),
        ("CREATE TEMPORARY TABLE t (a int)", Mysql),
        ("ALTER TABLE t ADD c int", Sqlite),
        ("PRAGMA journal_mode", Sqlite),
        ("PRAGMA user_version = 4", Sqlite),
        ("PRAGMA defer_foreign_keys = ON", Sqlite),
        ("PRAGMA foreign_keys = OFF", Sqlite),
        ("PRAGMA foreign_key_check", Sqlite),
        ("INSERT INTO none_such VALUES ('COMMIT; VACUUM')", Sqlite),
        ("BEGIN NOT ATOMIC SELECT 1", Mysql),
        ("SAVEPOINT s", Mysql),
    ];
    for (text, kind) in good {
        assert_eq!(why(text, kind), None, "{text}");
    }
}

#[test]
fn foreign_keys_are_off_from_one_statement_to_another() {
    let off = |text: &str| -> Vec<bool> {
        Script::read(text, Sqlite).unwrap().statements.iter().map(|statement| statement.without_keys).collect()
    };
    assert_eq!(off("SELECT 1; PRAGMA foreign_keys=OFF; SELECT 2; PRAGMA foreign_keys(yes); SELECT 3").len(), 5);
    let text = "SELECT 1; PRAGMA foreign_keys=0; SELECT 2; PRAGMA foreign_keys; PRAGMA foreign_keys('true'); SELECT 3";
    assert_eq!(off(text), [false, true, true, true, false, false]);
    // A number, whose low byte alone counted in earlier versions, is what the SQLite takes it for that runs it.
    for value in ["no", "false", "'off'", "on", "7", "256", "-256", "0x100", "257", "00", "'256'", "2.0", "full"] {
        let sqlite = rusqlite::Connection::open_in_memory().unwrap();
        let pragma = format!("PRAGMA foreign_keys = {value}");
        sqlite.execute_batch(&format!("PRAGMA foreign_keys = ON; {pragma}")).unwrap();
        let is_on: bool = sqlite.query_row("PRAGMA foreign_keys", [], |row| row.get(0)).unwrap();
        let is_off = !is_on;
        let script = Script::read(&format!("PRAGMA main.foreign_keys = {value}"), Sqlite).unwrap();
        assert_eq!(script.switches_keys_off(), is_off, "{value}");
    }
}

#[test]
fn what_another_setting_would_read_otherwise_is_found() {
    let old = Quoting { backslash: true, double_is_name: true };
    let differs =
        |text: &str, kind, quoting| Script::read(text, kind).unwrap().differs(quoting).map(|place| place.line);
    assert_eq!(differs("SELECT 'a\\b', E'\\'';\nSELECT 2", Postgres, old), None);
    assert_eq!(differs("SELECT 1;\nSELECT 'a\\';\nSELECT 'b'", Postgres, old), Some(2));
    let strict = Quoting { backslash: false, double_is_name: false };
    assert_eq!(differs("SELECT 'a\\nb', \"c;\"", Mysql, strict), None);
    assert_eq!(differs("SELECT 1;\nSELECT 'it\\'s; here'", Mysql, strict), Some(2));
    let ansi = Quoting { backslash: true, double_is_name: true };
    assert_eq!(differs("SELECT 'it\\'s', \"a\"", Mysql, ansi), None);
    assert_eq!(differs("SELECT 1;\n\nSELECT \"a\\\"; b\"", Mysql, ansi), Some(3));
}

#[test]
fn comments_and_quotes_end_where_the_database_ends_them() {
    // To PostgreSQL a carriage return ends a line, and what goes on in another line escapes as its beginning does.
    assert_eq!(texts("SELECT 1 -- x\r; COMMIT", Postgres), ["SELECT 1", "COMMIT"]);
    assert_eq!(texts("SELECT 1 -- x\r; COMMIT", Sqlite).len(), 1);
    assert_eq!(texts("SELECT E'a' -- c\n 'b\\'; c'; SELECT 2", Postgres).len(), 2);
    assert_eq!(texts("SELECT E'a' 'b\\'; SELECT 2", Postgres).len(), 2);
    assert_eq!(texts("SELECT 1$$; COMMIT; $$; SELECT 2", Postgres), ["SELECT 1$$; COMMIT; $$", "SELECT 2"]);
    assert_eq!(texts("SELECT U&\"a;b\", N'c;', B'1'; SELECT 2", Postgres).len(), 2);
    for kind in [Postgres, Mysql, Sqlite] {
        assert!(fault("SELECT 1;\n\0DROP TABLE t", kind).2.contains("NUL"), "{kind:?}");
    }
}

#[test]
fn the_shield_of_a_dump_says_nothing() {
    let dump = "\\restrict AbC\n\nSET statement_timeout = 0;\n\\unrestrict AbC\n";
    assert_eq!(texts(dump, Postgres), ["SET statement_timeout = 0"]);
    assert!(fault("\\connect x", Postgres).2.contains("psql"));
}

#[test]
fn slices_and_labels_are_no_names() {
    let slices = "SELECT a[1:n], a[i:j][x:y], f(x)[1:(n)], ARRAY[:one, :two], a[:three], (:four)";
    assert_eq!(names(slices, Postgres), ["one", "two", "three", "four"]);
    let body = "DELIMITER //\nCREATE PROCEDURE p() again:LOOP LEAVE again; END LOOP//";
    assert_eq!(names(body, Mysql), [""; 0]);
    assert_eq!(names("SELECT CONCAT(:a,:b), c=:d", Mysql), ["a", "b", "d"]);
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
