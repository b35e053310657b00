//! The examples, as a reader runs them: each ends by itself, and says what it promises to show.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Far longer than any takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where `cargo test` has built the example: beside the directory of this very test.
fn binary(example: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a test has a path");
    let target = me.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/…");
    let binary = target.join("examples").join(example);
    assert!(binary.exists(), "{} is not built: run `cargo build --examples` first", binary.display());
    binary
}

/// What the example prints, from its start to its end.
async fn output(example: &str) -> String {
    let mut command = Command::new(binary(example));
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("it ends by itself").expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{example}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn count(output: &str, what: &str) -> usize {
    output.lines().filter(|line| line.contains(what)).count()
}

#[tokio::test]
async fn queue_item_does_each_item_once() {
    let output = output("queue_item").await;
    assert_eq!(count(&output, " has done "), 9, "{output}");
    assert!(output.ends_with("9 items done, each once\n"), "{output}");
}

#[tokio::test]
async fn config_change_loses_no_update() {
    let output = output("config_change").await;
    assert_eq!(count(&output, "fence "), 4, "three changes, and the fence of the hold that is over: {output}");
    let flags = output.lines().nth(2).expect("three changes");
    assert!(["dark-mode", "new-checkout", "holiday-prices"].iter().all(|flag| flags.contains(flag)), "{output}");
    assert!(output.lines().last().is_some_and(|line| line.contains("is over (the lock was revoked)")), "{output}");
}

#[tokio::test]
async fn fenced_lock_turns_a_late_owner_away() {
    let told: Vec<_> =
        output("fenced_lock").await.lines().map(|line| line.rsplit(' ').next() == Some("true")).collect();
    assert_eq!(told, [true, true, false, true, false]);
}

#[tokio::test]
async fn leader_keeps_its_lease_and_is_followed() {
    let output = output("leader").await;
    assert_eq!(count(&output, ": true"), 2, "{output}");
    assert!(output.ends_with("second leads under a greater fence: true\n"), "{output}");
}

#[tokio::test]
async fn limit_concurrency_runs_two_at_once_and_no_more() {
    let output = output("limit_concurrency").await;
    assert_eq!(count(&output, " runs, with "), 6, "{output}");
    assert!(output.ends_with("6 exports, at most 2 at once\n"), "{output}");
}

#[tokio::test]
async fn axum_leader_is_followed_by_one_after_the_other() {
    let output = output("axum_leader").await;
    for name in ["a", "b", "c"] {
        assert_eq!(count(&output, &format!("{name} is asked to stop")), 1, "{output}");
    }
    // Three instances name the first leader, two the second, one the third.
    assert_eq!(count(&output, r#" says {"fence":"#), 6, "{output}");
    assert_eq!(count(&output, r#""leader":"a""#), 3, "{output}");
    assert!(output.ends_with("all have stopped\n"), "{output}");
}

#[tokio::test]
async fn nightly_job_goes_on_after_its_instance_was_killed() {
    let output = output("nightly_job").await;
    let mut reports: Vec<_> = output.lines().filter_map(|line| line.strip_prefix("the report of ")).collect();
    assert_eq!(reports.len(), 6, "{output}");
    assert!(reports.windows(2).all(|pair| pair[0] < pair[1]), "in order, and none twice: {output}");
    reports.dedup_by_key(|report| report.split_once(" by ").expect("it names its instance").1);
    assert_eq!(reports.len(), 2, "one hand-over: {output}");
    assert!(output.ends_with("the other has gone on\n"), "{output}");
}

#[tokio::test]
async fn closures_fire_on_schedule_and_one_after_the_other() {
    let output = output("closures").await;
    assert!(count(&output, " under fence ") >= 2 && count(&output, " is sent") >= 2, "{output}");
    assert!(output.ends_with("asked for: send succeeded\n"), "{output}");
}
