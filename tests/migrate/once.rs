//! `fencron once`: the same promises for any command.

use crate::scene::{MANY, Process, Ran, Scene};
use crate::support::{over_both, until};

const SHELL: &str =
    "echo hello; echo $FENCRON_RUN_ID >> effects; while [ -e after ]; do sleep 0.02; done; exit $(cat code)";

fn args<'a>(options: &[&'a str]) -> Vec<&'a str> {
    [&["once", "deploy/7"], options, &["--", "sh", "-c", SHELL]].concat()
}

fn others(scene: &Scene, options: &[&str]) -> Vec<Process> {
    (1..MANY).map(|number| scene.start(&format!("n{number}"), &args(options))).collect()
}

fn end(all: Vec<Process>) -> Vec<Ran> {
    all.into_iter().map(Process::end).collect()
}

async fn fifty_at_once_run_it_once_and_all_see_what_it_wrote(scene: Scene) {
    scene.write("code", "0");
    for ran in scene.many(&args(&[])) {
        ran.ends(0, &[]);
        assert_eq!(ran.stdout(), "hello\n");
    }
    assert_eq!(scene.lines("effects"), ["once/deploy/7"]);
    let later = scene.start("later", &args(&[])).end();
    later.ends(0, &["was run before: done on"]);
    assert_eq!(later.stdout(), "hello\n");
}

async fn all_end_with_the_exit_code_of_the_command(scene: Scene) {
    scene.write("code", "42");
    for ran in scene.many(&args(&[])) {
        ran.ends(42, &[]);
    }
    assert_eq!(scene.lines("effects").len(), 1);
    scene.write("code", "0");
    scene.start("later", &args(&[])).end().ends(42, &["was run before: failed on"]);
    scene.start("later", &args(&["--retry-failed"])).end().ends(0, &[]);
    assert_eq!(scene.lines("effects").len(), 2);
    scene.run(&["once", "deploy/7", "--forget"]).ends(0, &["forgotten"]);
    scene.start("later", &args(&[])).end().ends(0, &[]);
    assert_eq!(scene.lines("effects").len(), 3);
}

async fn killed_in_the_middle_nobody_knows_until_somebody_says(scene: Scene) {
    scene.write("code", "0");
    scene.write("after", "");
    let mut first = scene.start("first", &args(&[]));
    scene.wait_for_lines("effects", 1).await;
    let others = others(&scene, &[]);
    scene.run(&["once", "deploy/7", "--forget"]).ends(1, &["is under way: first runs it"]);
    first.kill();
    scene.remove("after");
    for ran in end(others) {
        ran.ends(6, &["holder lost: first", "did not say how it ended", "--resolve done"]);
    }
    assert_eq!(scene.lines("effects").len(), 1);
    scene.run(&["once", "deploy/7", "--resolve", "done"]).ends(0, &[]);
    scene.start("later", &args(&[])).end().ends(0, &["was run before: done"]);
    assert_eq!(scene.lines("effects").len(), 1);
}

async fn killed_in_the_middle_the_probe_tells(scene: Scene) {
    scene.write("code", "0");
    scene.write("after", "");
    let mut first = scene.start("first", &args(&[]));
    scene.wait_for_lines("effects", 1).await;
    let others = others(&scene, &["--verify", "test -s effects"]);
    first.kill();
    scene.remove("after");
    for ran in end(others) {
        ran.ends(0, &[]);
    }
    assert_eq!(scene.lines("effects").len(), 1);
}

async fn who_may_not_wait_is_told_who_is_at_it(scene: Scene) {
    scene.write("code", "0");
    scene.write("after", "");
    let first = scene.start("first", &args(&[]));
    scene.wait_for_lines("effects", 1).await;
    scene
        .start("second", &args(&["--wait", "1s"]))
        .end()
        .ends(3, &["first was at work for longer than the wait of 1s"]);
    scene.remove("after");
    first.end().ends(0, &[]);
}

async fn stopped_in_the_middle_it_has_failed(scene: Scene) {
    scene.write("code", "0");
    scene.write("after", "");
    let first = scene.start("first", &args(&[]));
    scene.wait_for_lines("effects", 1).await;
    first.terminate();
    first.end().ends(1, &["failed: cancelled by request"]);
    let later = scene.start("later", &args(&[])).end();
    later.ends(1, &["was run before: failed"]);
}

async fn stopped_while_it_waits_it_ends_as_by_the_signal(scene: Scene) {
    scene.write("code", "0");
    scene.write("after", "");
    let first = scene.start("first", &args(&[]));
    scene.wait_for_lines("effects", 1).await;
    let second = scene.start("second", &args(&[]));
    until("the second waits", async || {
        let locks: serde_json::Value = serde_json::from_str(&scene.run(&["locks", "-o", "json"]).stdout()).unwrap();
        let waits = |lock: &serde_json::Value| lock["waiting"].as_u64().is_some_and(|waiting| waiting > 0);
        locks.as_array().unwrap().iter().any(waits).then_some(())
    })
    .await;
    second.terminate();
    second.end().ends(128 + 15, &["stopped before it was done"]);
    scene.remove("after");
    first.end().ends(0, &[]);
}

async fn those_who_wait_see_the_output_while_it_is_written(scene: Scene) {
    scene.write("code", "0");
    scene.write("after", "");
    let first = scene.start("first", &args(&[]));
    scene.wait_for_lines("effects", 1).await;
    let mut second = scene.start("second", &args(&[]));
    let heard = second.stdout();
    until("the output of the first", async || heard.try_iter().next().filter(|line| line == "hello")).await;
    scene.remove("after");
    first.end().ends(0, &[]);
}

/// Also where it writes without a pause.
async fn those_who_wait_see_what_is_written_without_a_pause(scene: Scene) {
    scene.write("go on", "");
    let chatters = ["once", "chat", "--", "sh", "-c", "while [ -e 'go on' ]; do echo hello; sleep 0.02; done"];
    let mut first = scene.start("first", &chatters);
    let heard = first.stdout();
    until("the first writes", async || heard.try_iter().next()).await;
    let mut second = scene.start("second", &chatters);
    let shown = second.stdout();
    until("the output of the first", async || shown.try_iter().next().filter(|line| line == "hello")).await;
    scene.remove("go on");
    first.end().ends(0, &[]);
    second.end().ends(0, &["was run elsewhere"]);
}

async fn who_runs_it_misses_nothing_of_its_output(scene: Scene) {
    let ran = scene.run(&["once", "much", "--", "seq", "1", "600000"]);
    ran.ends(0, &[]);
    let numbers: Vec<u32> = ran.stdout().lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.into_iter().eq(1..=600_000), "all of it, in order");
}

over_both!(
    fifty_at_once_run_it_once_and_all_see_what_it_wrote,
    all_end_with_the_exit_code_of_the_command,
    killed_in_the_middle_nobody_knows_until_somebody_says,
    killed_in_the_middle_the_probe_tells,
    who_may_not_wait_is_told_who_is_at_it,
    stopped_in_the_middle_it_has_failed,
    stopped_while_it_waits_it_ends_as_by_the_signal,
    those_who_wait_see_the_output_while_it_is_written,
    those_who_wait_see_what_is_written_without_a_pause,
    who_runs_it_misses_nothing_of_its_output,
);

#[test]
fn keys_that_cannot_be_kept_or_shown_are_wrong_usage() {
    let scene = Scene::over_sqlite();
    let long = "x".repeat(196);
    for (key, why) in [
        ("", "1 to 195 bytes long; this one has 0"),
        (long.as_str(), "this one has 196"),
        ("two\nlines", "this one has '\\n'"),
        ("\u{1b}[31mred", "this one has '\\u{1b}'"),
    ] {
        scene.run(&["once", key, "--", "touch", "made"]).ends(2, &[why]);
    }
    assert!(!scene.path("made").exists());
}

/// Runs `once` with this on its stdin, and its stdout there.
fn once_with(scene: &Scene, args: &[&str], input: &str, out: std::process::Stdio) -> std::process::Output {
    scene.write("input", input);
    let input = std::fs::File::open(scene.path("input")).unwrap();
    let mut command = scene.command(&scene.store_url(), &[&["once"], args].concat());
    command.stdin(input).stdout(out).output().unwrap()
}

#[test]
fn the_command_reads_what_was_given_to_whoever_runs_it() {
    let scene = Scene::over_sqlite();
    let args = ["seed", "--", "sh", "-c", "cat > seeded; echo done"];
    let first = once_with(&scene, &args, "one\ntwo\n", std::process::Stdio::piped());
    assert_eq!((first.status.code(), scene.lines("seeded")), (Some(0), vec!["one".to_owned(), "two".to_owned()]));
    let second = once_with(&scene, &args, "three\n", std::process::Stdio::piped());
    assert_eq!((second.status.code(), scene.lines("seeded").len()), (Some(0), 2));
    assert_eq!(second.stdout, b"done\n");
}

#[test]
fn what_cannot_be_written_is_an_error_and_the_command_was_run_all_the_same() {
    let scene = Scene::over_sqlite();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    let args = ["key", "--", "sh", "-c", "echo x >> effects; echo hello"];
    for _ in 0..2 {
        let ran = once_with(&scene, &args, "", full());
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{said}");
        assert!(said.contains("key has ended, and what it wrote could not be written"), "{said}");
        assert_eq!(scene.lines("effects"), ["x"]);
    }
    let fails = once_with(&scene, &["other", "--", "sh", "-c", "echo hello; exit 7"], "", full());
    assert_eq!(fails.status.code(), Some(7), "as it did");
}
