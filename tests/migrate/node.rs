//! Nodes: no job fires before the migrations of its file are made.

use std::time::Duration;

use serde_json::Value;

use crate::scene::{Process, Scene};
use crate::support::{over_both, until};

fn jobs(migrations: &str) -> String {
    format!(
        "version: 1\nmigrations:\n{migrations}jobs:\n  tick: {{schedule: '* * * * * *', shell: 'echo tick >> effects'}}\n"
    )
}

fn node(scene: &Scene, name: &str) -> Process {
    scene.start(name, &["run", "--state-dir", name])
}

/// What the nodes say that they stand back for.
fn stands_back(scene: &Scene) -> Vec<String> {
    let ran = scene.run(&["status", "-o", "json"]);
    let Ok(status) = serde_json::from_str::<Value>(&ran.stdout()) else { return Vec::new() };
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().filter_map(|node| node["stands_back"].as_str().map(str::to_owned)).collect()
}

async fn wait_for_reason(scene: &Scene, words: &str, nodes: usize) {
    until(&format!("`{words}` in the status"), async || {
        let all = stands_back(scene);
        (all.iter().filter(|why| why.contains(words)).count() >= nodes).then_some(())
    })
    .await;
}

async fn jobs_fire_when_the_migrations_are_made_and_not_before(scene: Scene) {
    scene.write("hold", "");
    scene
        .write("jobs.yaml", &jobs("  - {id: a, shell: 'echo a >> effects; while [ -e hold ]; do sleep 0.02; done'}\n"));
    let _nodes = [node(&scene, "x"), node(&scene, "y"), node(&scene, "z")];
    scene.wait_for_lines("effects", 1).await;
    wait_for_reason(&scene, "the migrations are being made", 3).await;
    // Instants pass at which the job would have been due.
    let clock = fencron::time::Clock::system();
    let since = clock.boot();
    until("two instants pass", async || (clock.boot().since(since) > Duration::from_secs(2)).then_some(())).await;
    assert_eq!(scene.lines("effects"), ["a"]);
    scene.remove("hold");
    scene.wait_for_lines("effects", 3).await;
    assert_eq!(scene.lines("effects")[..2], ["a", "tick"]);
}

async fn a_failed_migration_keeps_jobs_from_firing_until_it_is_resolved(scene: Scene) {
    scene.write("jobs.yaml", &jobs("  - {id: a, shell: 'echo a >> effects; exit 7'}\n"));
    let _nodes = [node(&scene, "x"), node(&scene, "y")];
    wait_for_reason(&scene, "migration a failed: exit code 7", 2).await;
    assert_eq!(scene.lines("effects"), ["a"], "one of them made it, once");
    let shown = scene.run(&["status"]).stdout();
    assert_eq!(shown.matches("migration a failed").count(), 1, "said once for both: {shown}");
    assert!(shown.contains("x, y: no jobs are fired yet") || shown.contains("y, x: no jobs"), "{shown}");
    scene.run(&["migrate", "resolve", "a", "--as", "done"]).ends(0, &[]);
    scene.wait_for_lines("effects", 2).await;
    assert_eq!(scene.lines("effects")[..2], ["a", "tick"]);
}

async fn a_new_file_is_in_force_when_its_migrations_are_made(scene: Scene) {
    scene.write("jobs.yaml", &jobs("  - {id: a, shell: 'echo a >> effects'}\n"));
    let _node = node(&scene, "x");
    scene.wait_for_lines("effects", 2).await;
    let two = |second: &str| {
        jobs(&format!("  - {{id: a, shell: 'echo a >> effects'}}\n  - {{id: b, shell: '{second}'}}\n"))
            .replace("echo tick", "echo tock")
    };
    scene.write("jobs.yaml", &two("exit 5"));
    wait_for_reason(&scene, "the new jobs file is not in force, the old one is: migration b failed", 1).await;
    let before = scene.lines("effects").len();
    scene.wait_for_lines("effects", before + 1).await;
    assert!(scene.lines("effects").iter().all(|line| line != "tock"), "the old file goes on");
    scene.write("jobs.yaml", &two("echo b >> effects"));
    until("the new file is in force", async || scene.lines("effects").contains(&"tock".to_owned()).then_some(())).await;
    let lines = scene.lines("effects");
    let at = |line: &str| lines.iter().position(|other| other == line).unwrap();
    assert!(at("b") < at("tock"), "{lines:?}");
}

async fn a_node_that_leaves_leaves_what_may_be_repeated_to_the_next(scene: Scene) {
    scene.write("hold", "");
    let shell = "echo a >> effects; while [ -e hold ]; do sleep 0.02; done";
    scene.write("jobs.yaml", &jobs(&format!("  - {{id: a, idempotent: true, shell: '{shell}'}}\n")));
    let first = scene.start("x", &["run", "--state-dir", "x", "--shutdown-grace", "500ms"]);
    scene.wait_for_lines("effects", 1).await;
    let second = node(&scene, "y");
    wait_for_reason(&scene, "the migrations are being made", 2).await;
    first.terminate();
    scene.wait_for_lines("effects", 2).await;
    scene.remove("hold");
    scene.wait_for_lines("effects", 3).await;
    assert_eq!(scene.lines("effects")[..3], ["a", "a", "tick"]);
    second.terminate();
    for ran in [first.end(), second.end()] {
        let log = ran.stderr();
        assert!(!log.contains("migration a failed"), "to be stopped is no failure: {log}");
    }
}

over_both!(
    jobs_fire_when_the_migrations_are_made_and_not_before,
    a_failed_migration_keeps_jobs_from_firing_until_it_is_resolved,
    a_new_file_is_in_force_when_its_migrations_are_made,
    a_node_that_leaves_leaves_what_may_be_repeated_to_the_next,
);
