//! What is refused, and what a person can do about it.

use serde_json::Value;

use crate::scene::Scene;

fn file(migrations: &[(&str, &str)]) -> String {
    let listed = migrations.iter().map(|(id, shell)| format!("  - {{id: {id}, shell: \"{shell}\"}}\n"));
    format!("version: 1\nmigrations:\n{}", listed.collect::<String>())
}

const A: (&str, &str) = ("a", "echo a >> effects");
const B: (&str, &str) = ("b", "echo b >> effects");
const C: (&str, &str) = ("c", "echo c >> effects");

fn with_a_and_b() -> Scene {
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", &file(&[A, B]));
    scene.run(&["migrate"]).ends(0, &[]);
    scene
}

#[test]
fn a_changed_migration_is_refused_with_both_checksums() {
    let scene = with_a_and_b();
    let old = scene.status()[0]["checksum"].as_str().unwrap()[..12].to_owned();
    scene.write("jobs.yaml", &file(&[("a", "echo other"), B, C]));
    scene.run(&["migrate"]).ends(2, &["`a` was changed", &old]);
    assert_eq!(scene.lines("effects"), ["a", "b"], "nothing is made, not even what is new");
}

#[test]
fn a_missing_migration_is_refused() {
    let scene = with_a_and_b();
    scene.write("jobs.yaml", &file(&[B, C]));
    scene.run(&["migrate"]).ends(2, &["`a` is missing: it was made on"]);
}

#[test]
fn a_new_migration_before_a_made_one_is_refused() {
    let scene = with_a_and_b();
    scene.write("jobs.yaml", &file(&[A, C, B]));
    scene.run(&["migrate"]).ends(2, &["`c` is out of order", "stands before `b`"]);
}

#[test]
fn made_migrations_in_another_order_are_refused() {
    let scene = with_a_and_b();
    scene.write("jobs.yaml", &file(&[B, A]));
    scene.run(&["migrate"]).ends(2, &["`b` is out of order", "before `a`"]);
    let status = scene.status();
    assert!(status[0]["difference"].as_str().unwrap().contains("out of order"), "{status:?}");
}

#[test]
fn a_failed_migration_may_be_changed_and_is_made_then() {
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", &file(&[A, ("b", "exit 9"), C]));
    scene.run(&["migrate"]).ends(1, &["b failed: exit code 9"]);
    scene.write("jobs.yaml", &file(&[A, B, C]));
    scene.run(&["migrate"]).ends(0, &[]);
    assert_eq!(scene.lines("effects"), ["a", "b", "c"]);
}

#[test]
fn one_that_waits_with_a_changed_text_makes_it_after_the_old_one_has_failed() {
    let scene = Scene::over_sqlite();
    let a = ("a", "echo begun >> begun; while [ ! -e go ]; do sleep 0.02; done");
    scene.write("jobs.yaml", &file(&[a, ("b", "exit 9")]));
    let first = scene.start("other", &["migrate"]);
    until_there(&scene, "begun");
    scene.write("new.yaml", &file(&[a, B]));
    let mut second = scene.start("second", &["migrate", "new.yaml"]);
    let waits = second.stderr().recv_timeout(crate::support::PATIENCE).unwrap();
    assert!(waits.contains("other makes the migrations"), "{waits}");
    scene.write("go", "");
    first.end().ends(1, &["b failed: exit code 9"]);
    assert_eq!(second.end().code(), 0, "what failed is not what the second was asked for");
    assert_eq!(scene.lines("effects"), ["b"]);
}

#[test]
fn one_that_is_changed_while_it_is_made_is_refused_when_it_was_made() {
    let scene = Scene::over_sqlite();
    let slow = "echo begun >> begun; while [ ! -e go ]; do sleep 0.02; done";
    scene.write("jobs.yaml", &file(&[("b", slow)]));
    let first = scene.start("other", &["migrate"]);
    until_there(&scene, "begun");
    scene.write("new.yaml", &file(&[B]));
    let mut second = scene.start("second", &["migrate", "new.yaml"]);
    let told = second.stderr();
    let waits = told.recv_timeout(crate::support::PATIENCE).unwrap();
    assert!(waits.contains("other makes the migrations"), "it may fail, and then it may be changed: {waits}");
    scene.write("go", "");
    first.end().ends(0, &[]);
    assert_eq!(second.end().code(), 2);
    let told: Vec<String> = told.iter().collect();
    assert!(told.iter().any(|line| line.contains("`b` was changed")), "{told:?}");
    assert_eq!(scene.lines("effects"), [""; 0]);
}

fn until_there(scene: &Scene, name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(scene.wait_for_lines(name, 1));
}

#[test]
fn a_new_password_changes_no_checksum() {
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", &file(&[("a", "echo ${SECRET} > /dev/null; echo a >> effects")]));
    let run = |secret: &str| {
        let mut command = scene.command(&scene.store_url(), &["migrate"]);
        command.env("SECRET", secret).output().unwrap().status.code()
    };
    assert_eq!((run("one"), run("two")), (Some(0), Some(0)));
    assert_eq!(scene.lines("effects"), ["a"]);
}

#[test]
fn what_was_made_before_fencron_was_there_is_recorded_as_done() {
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", &file(&[A, B]));
    // A store has to be there.
    scene.run(&["once", "x", "--", "true"]).ends(0, &[]);
    scene.run(&["migrate", "resolve", "a", "--as", "done"]).ends(0, &["recorded as done"]);
    scene.run(&["migrate"]).ends(0, &[]);
    assert_eq!(scene.lines("effects"), ["b"]);
    scene.run(&["migrate", "resolve", "a", "--as", "retry"]).ends(1, &["a is done"]);
    scene.run(&["migrate", "resolve", "z", "--as", "done"]).ends(2, &["no migration `z` is known"]);
}

#[test]
fn status_shows_who_when_how_long_and_under_which_fence() {
    let scene = with_a_and_b();
    let status = scene.status();
    let fields = [
        "id",
        "state",
        "reason",
        "difference",
        "checksum",
        "node",
        "fence",
        "attempts",
        "started_at",
        "finished_at",
        "duration_ms",
        "exit_code",
        "output",
    ];
    for field in fields {
        assert!(status[0].get(field).is_some(), "{field}: {status:?}");
    }
    assert_eq!(status[0].as_object().unwrap().len(), fields.len());
    assert_eq!((&status[0]["state"], &status[0]["exit_code"]), (&Value::from("done"), &Value::from(0)));
}

#[test]
fn one_that_failed_was_changed_and_made_by_hand_is_done_as_it_is_now() {
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", &file(&[A, ("b", "exit 9"), C]));
    scene.run(&["migrate"]).ends(1, &["b failed: exit code 9"]);
    scene.write("jobs.yaml", &file(&[A, B, C]));
    scene.run(&["migrate", "resolve", "b", "--as", "done"]).ends(0, &[]);
    scene.run(&["migrate"]).ends(0, &[]);
    assert_eq!(scene.lines("effects"), ["a", "c"]);
}

#[test]
fn migrations_are_recorded_as_done_in_their_order_only() {
    let scene = Scene::over_sqlite();
    scene.write("jobs.yaml", &file(&[("a", "exit 9"), B, C]));
    scene.run(&["migrate"]).ends(1, &["a failed: exit code 9"]);
    let resolve = |id: &str| scene.run(&["migrate", "resolve", id, "--as", "done"]);
    resolve("c").ends(1, &["`a` stands before `c` and is not done"]);
    resolve("a").ends(0, &[]);
    resolve("c").ends(1, &["`b` stands before `c` and is not done"]);
    resolve("b").ends(0, &[]);
    resolve("c").ends(0, &[]);
    scene.write("jobs.yaml", &file(&[("a", "exit 9"), ("new", "true"), B, C]));
    resolve("new").ends(1, &["`new` stands before `b`, which is done already"]);
    scene.write("jobs.yaml", &file(&[("a", "exit 9"), B, C, ("new", "true")]));
    scene.run(&["migrate"]).ends(0, &[]);
    assert_eq!(scene.lines("effects"), [""; 0], "all of them were made by hand");
}
