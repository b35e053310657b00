//! Directories of other tools: what leads on is made, in the order of the tool, and nothing that leads back.

use std::fs;

use crate::scene::{Ran, Scene};

const GOLANG: [(&str, &str); 4] = [
    ("000001_users.down.sql", "DROP TABLE IF EXISTS users;\n"),
    ("000001_users.up.sql", "CREATE TABLE IF NOT EXISTS users (id int);\n"),
    ("000010_more.up.sql", "INSERT INTO users VALUES (10);\n"),
    ("9_first.up.sql", "INSERT INTO users VALUES (9);\n"),
];

const GOOSE: &str = "-- +goose Up\nCREATE TABLE users (id int);\n-- +goose Down\nDROP TABLE users;\n";

/// A directory of migrations for a SQLite file. One is there at a time.
struct Place {
    scene: Scene,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Place {
        Place::with("", files)
    }

    fn with(setting: &str, files: &[(&str, &str)]) -> Place {
        let mut scene = Scene::over_sqlite();
        scene.database = format!("sqlite:{}", scene.path("target.db").display());
        let sql = format!("sql: {{database: \"${{DATABASE_URL}}\", file: m{setting}}}");
        scene.write("jobs.yaml", &format!("version: 1\nmigrations:\n  - id: schema\n    {sql}\n"));
        fs::create_dir(scene.path("m")).unwrap();
        let place = Place { scene };
        files.iter().for_each(|(name, text)| place.write(name, text));
        place
    }

    fn write(&self, name: &str, text: &str) {
        self.scene.write(&format!("m/{name}"), text);
    }

    fn migrate(&self) -> Ran {
        self.scene.run(&["migrate"])
    }

    fn validate(&self) -> Ran {
        self.scene.run(&["validate", "jobs.yaml"])
    }

    /// The names of the migrations, in their order.
    fn ids(&self) -> Vec<String> {
        let name = |row: &serde_json::Value| row["id"].as_str().unwrap().trim_start_matches("schema/").to_owned();
        self.scene.status().iter().map(name).collect()
    }

    fn users(&self) -> Vec<i64> {
        let target = rusqlite::Connection::open(self.scene.path("target.db")).unwrap();
        let mut rows = target.prepare("SELECT id FROM users ORDER BY rowid").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// It is refused with these words before anything is made, by `validate` as by `migrate`.
    #[track_caller]
    fn is_refused(&self, says: &[&str]) {
        let validated = self.validate();
        assert_eq!(validated.code(), 2, "{}", validated.stdout());
        for words in says {
            assert!(validated.stdout().contains(words), "`{words}` is not in: {}", validated.stdout());
        }
        self.migrate().ends(2, says);
        assert!(!self.scene.path("target.db").exists());
    }
}

#[test]
fn golang_migrate_is_made_by_its_numbers_and_without_its_down_files() {
    let place = Place::new(&GOLANG);
    place.validate().ends(0, &["note: ", "these files are left out", "`000001_users.down.sql`"]);
    place.migrate().ends(0, &[]);
    assert_eq!(place.users(), [9, 10]);
    assert_eq!(place.ids(), ["000001_users.up.sql", "9_first.up.sql", "000010_more.up.sql"]);
}

#[test]
fn goose_is_made_without_its_down_sections() {
    let place =
        Place::new(&[("00001_users.sql", GOOSE), ("00002_more.sql", "-- +goose Up\nINSERT INTO users VALUES (1);\n")]);
    let says = ["note: ", "`-- +goose Down` is left out: `00001_users.sql lines 3 to 4`"];
    place.validate().ends(0, &says);
    place.migrate().ends(0, &[]);
    assert_eq!(place.users(), [1]);
    // What leads back may be mended; what was made stays as it is.
    place.write("00001_users.sql", &GOOSE.replace("DROP TABLE users", "DROP TABLE IF EXISTS users"));
    place.migrate().ends(0, &[]);
    place.write("00001_users.sql", &GOOSE.replace("id int", "id bigint"));
    place.migrate().ends(2, &["`schema/00001_users.sql` was changed"]);
}

#[test]
fn a_script_that_is_named_alone_is_made_without_its_down_section() {
    let place = Place::with("/1.sql", &[("1.sql", GOOSE)]);
    place.validate().ends(0, &["left out: lines 3 to 4"]);
    place.migrate().ends(0, &[]);
    assert_eq!(place.users(), [0; 0]);
}

#[test]
fn dbmate_and_sql_migrate_are_made_without_their_down_sections() {
    for (up, down) in [("migrate:up", "migrate:down"), ("+migrate Up", "+migrate Down")] {
        let script = |on: &str, back: &str| format!("-- {up}\n{on}\n\n-- {down}\n{back}\n");
        let place = Place::new(&[
            ("20260101000000_users.sql", &script("CREATE TABLE users (id int);", "DROP TABLE users;")),
            ("20260102000000_more.sql", &script("INSERT INTO users VALUES (1);", "DELETE FROM users;")),
        ]);
        place.migrate().ends(0, &[]);
        assert_eq!(place.users(), [1]);
    }
}

#[test]
fn versions_have_their_own_order_and_what_undoes_them_is_left_out() {
    let place = Place::new(&[
        ("V1__users.sql", "CREATE TABLE users (id int);"),
        ("V10__ten.sql", "INSERT INTO users VALUES (10);"),
        ("V2__two.sql", "INSERT INTO users VALUES (2);"),
        ("V1.1__between.sql", "INSERT INTO users VALUES (11);"),
        ("U1__users.sql", "DROP TABLE users;"),
    ]);
    place.validate().ends(0, &["left out", "`U1__users.sql`"]);
    place.migrate().ends(0, &[]);
    assert_eq!(place.users(), [11, 2, 10]);
}

#[test]
fn numbers_of_any_width_are_an_order() {
    let place = Place::new(&[
        ("1_users.sql", "CREATE TABLE users (id int);"),
        ("10_ten.sql", "INSERT INTO users VALUES (10);"),
        ("2_two.sql", "INSERT INTO users VALUES (2);"),
    ]);
    place.migrate().ends(0, &[]);
    assert_eq!(place.users(), [2, 10]);
}

#[test]
fn a_script_that_is_not_to_be_in_a_transaction_is_not() {
    // In a transaction, it is refused.
    let vacuum = "-- +goose NO TRANSACTION\n-- +goose Up\nVACUUM;\n";
    let place = Place::new(&[("1_users.sql", GOOSE), ("2_vacuum.sql", vacuum)]);
    place.migrate().ends(0, &[]);
    assert_eq!(place.users(), [0; 0]);
    drop(place);
    let place = Place::with(", transaction: true", &[("2_vacuum.sql", vacuum)]);
    place.is_refused(&["`transaction: true` stands here", "`-- +goose NO TRANSACTION`"]);
}

#[test]
fn what_cannot_be_taken_is_refused_before_anything_is_made() {
    let refused = |files: &[(&str, &str)], says: &[&str]| Place::new(files).is_refused(says);
    refused(&[("1_a.sql", GOOSE), ("2_b.sql", "SELECT 1;")], &["mixes conventions", "marks of goose"]);
    refused(&[("1_a.up.sql", GOOSE)], &["mixes conventions", "marks of goose"]);
    refused(&[("1_a.sql", GOOSE), ("01_b.sql", GOOSE)], &["twice"]);
    refused(&[("1_a.sql", "-- +goose ENVSUB ON\n-- +goose Up\nSELECT 1;")], &["`-- +goose ENVSUB ON`"]);
    refused(&[("V1__a.sql", "SELECT 1;"), ("R__b.sql", "SELECT 1;")], &["`R__b.sql`", "a migration of its own"]);
    refused(&[("V1__a.sql", "INSERT INTO a VALUES ('${who}');")], &["Flyway", "`${`"]);
    refused(&[("1_a.sql", "SELECT 1;"), ("2_b.SQL", "SELECT 2;")], &["`2_b.SQL`"]);
    refused(&[("1.do.sql", "SELECT 1;"), ("1.undo.sql", "SELECT 2;")], &["`1.undo.sql`", "lead back"]);
    refused(&[("1_a.sql", "--liquibase formatted sql\n--changeset a:1\nSELECT 1;")], &["m/1_a.sql:1:1", "Liquibase"]);
}

#[test]
fn what_is_passed_over_in_a_directory_is_said() {
    let place = Place::new(&[("1_a.sql", "CREATE TABLE users (id int);"), (".2_b.sql", "SELECT 1;")]);
    fs::create_dir(place.scene.path("m/old")).unwrap();
    place.validate().ends(0, &["warning: ", "`.2_b.sql`", "the directory `old`"]);
}

#[test]
fn a_byte_order_mark_and_line_ends_are_no_change() {
    let script = "CREATE TABLE users (id int);\nINSERT INTO users VALUES (1);\n";
    let place = Place::new(&[("1_a.sql", script)]);
    place.migrate().ends(0, &[]);
    for other in [script.replace('\n', "\r\n"), format!("\u{feff}{script}")] {
        place.write("1_a.sql", &other);
        place.migrate().ends(0, &[]);
    }
    drop(place);
    let place = Place::new(&[("1_a.sql", &format!("\u{feff}{}", script.replace('\n', "\r\n")))]);
    place.migrate().ends(0, &[]);
    place.write("1_a.sql", script);
    place.migrate().ends(0, &[]);
    assert_eq!(place.users(), [1]);
}

/// Two directories, in this order, each with these files.
fn two(scene: &Scene, a: &[&str], b: &[&str]) {
    for (directory, names) in [("a", a), ("b", b)] {
        fs::create_dir_all(scene.path(directory)).unwrap();
        for name in names {
            let text = format!("CREATE TABLE {directory}_{} (id int);", name.trim_end_matches(".sql"));
            scene.write(&format!("{directory}/{name}"), &text);
        }
    }
    let entry = |id| format!("  - {{id: {id}, sql: {{database: \"${{DATABASE_URL}}\", file: {id}}}}}\n");
    scene.write("jobs.yaml", &format!("version: 1\nmigrations:\n{}{}", entry("a"), entry("b")));
}

#[test]
fn each_of_two_directories_grows_at_its_end() {
    let mut scene = Scene::over_sqlite();
    scene.database = format!("sqlite:{}", scene.path("target.db").display());
    two(&scene, &["x1.sql"], &["x1.sql"]);
    scene.run(&["migrate"]).ends(0, &[]);
    two(&scene, &["x2.sql"], &[]);
    scene.run(&["migrate"]).ends(0, &["migration a/x2.sql begins"]);
    two(&scene, &["x3.sql"], &["x2.sql"]);
    scene.run(&["migrate"]).ends(0, &["migration a/x3.sql begins", "migration b/x2.sql begins"]);
    scene.run(&["migrate"]).ends(0, &[]);
    // Within a directory, what is new comes last.
    two(&scene, &["x25.sql"], &[]);
    scene.run(&["migrate"]).ends(2, &["`a/x25.sql` is out of order", "stands before `a/x3.sql`"]);
    scene.remove("a/x25.sql");
    // One that another tool has made is recorded, though the directory behind is ahead of it.
    two(&scene, &["x4.sql"], &[]);
    scene.run(&["migrate", "resolve", "a/x4.sql", "--as", "done"]).ends(0, &["recorded as done"]);
    scene.run(&["migrate"]).ends(0, &[]);
}
