//! A node whose clock is wrong.

use std::path::PathBuf;

use super::referee::record::Fact;
use super::scene::Scene;
use super::support::{program, until};

/// The variables of a node whose clock is another one, and these.
fn other_clock<const N: usize>(more: [(&str, String); N]) -> Vec<(String, String)> {
    program::other_clock().into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A node's clock, which can be set while the node runs.
struct FakedClock(PathBuf);

impl FakedClock {
    /// The clock that `node` will have from its next start on.
    fn of(scene: &mut Scene, node: usize) -> FakedClock {
        let file = scene.path(&format!("clock-{node}"));
        scene.nodes[node].variables = other_clock([
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
        ]);
        let clock = FakedClock(file);
        clock.set(0);
        clock
    }

    /// Sets it so many seconds off the truth, at once.
    fn set(&self, seconds: i64) {
        let beside = self.0.with_extension("new");
        std::fs::write(&beside, format!("{seconds:+}s\n")).unwrap();
        std::fs::rename(&beside, &self.0).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_set_steps_down() {
    let mut scene = Scene::over_sqlite(&[]).await;
    let clock = FakedClock::of(&mut scene, 0);
    scene.start(0);
    let (leader, fence) = scene.leader_after(0).await;
    assert_eq!(leader, 0);
    scene.start(1);
    scene.start(2);
    for node in [1, 2] {
        scene.joined(node).await;
    }
    scene.nodes[0].says(scene.nodes[0].begin(), "leading").await;
    let heard = async || {
        let nodes = scene.nodes[1].json(&["status"])["nodes"].as_array()?.len();
        let waiting = scene.nodes[1].json(&["status"])["waiting"].as_array()?.len();
        (nodes == 3 && waiting == 2).then_some(())
    };
    until("both others wait", heard).await;
    // Both have published what their clocks say, and the leader has heard it.
    scene.claims(6).await;

    let since = scene.nodes[0].now();
    scene.shock("its clock is set");
    scene.mark(Fact::Drains);
    clock.set(86_400);
    scene.nodes[0].says(since, "its clock was set forward by 1d").await;
    scene.nodes[0].says(since, "this node steps down: its clock is 1d ahead of the other nodes'").await;
    let (next, fence) = scene.leader_after(fence).await;
    assert_ne!(next, 0, "the one with the wrong clock");
    scene.claims(3).await;
    let status = scene.nodes[next].json(&["status"]);
    assert!(status.get("behind_ms").is_none(), "nothing was decided by the clock that is ahead: {status}");
    clock.set(0);
    scene.nodes[0].says(since, "its clock was set back by 1d").await;
    scene.nodes[0].says(since, "agrees with the others' again").await;
    assert_eq!(scene.leader_after(fence - 1).await, (next, fence), "nobody took the leadership over");
    scene.judge(&[("failovers", 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_ahead_says_so_and_does_not_lead() {
    let mut scene = Scene::over_sqlite(&[]).await;
    scene.start(0);
    scene.start(1);
    let (leader, fence) = scene.leader_after(0).await;
    scene.nodes[2].variables = other_clock([("FAKETIME", "+300s".to_owned())]);
    scene.start(2);
    let since = scene.nodes[2].begin();
    scene.joined(2).await;
    scene.nodes[2].says(since, "does not campaign: its clock is").await;
    let node = &scene.nodes[2];
    let unready = async || {
        let (status, body) = node.http("/readyz").await;
        (status == 503 && body.contains("its clock is")).then_some(())
    };
    until("it says that it is not ready", unready).await;
    let sound = &scene.nodes[leader];
    let told = async || sound.json(&["status"])["nodes"].to_string().contains("its clock is").then_some(());
    until("the status tells of it", told).await;

    scene.kill(leader);
    let (next, fence) = scene.leader_after(fence).await;
    assert_ne!(next, 2, "the one with the wrong clock");
    scene.claims(3).await;
    scene.start(leader);
    let (leads, same) = scene.leader_after(fence - 1).await;
    assert_eq!((leads, same), (next, fence), "nobody took the leadership over");
    scene.judge(&[("failovers", 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_that_a_clock_stopped_goes_on_after_a_rewind() {
    let mut scene = Scene::over_sqlite(&[]).await;
    // A node alone, before its clock is set right.
    let clock = FakedClock::of(&mut scene, 0);
    clock.set(86_400);
    scene.start(0);
    scene.leader_after(0).await;
    scene.claims(5).await;
    let node = &scene.nodes[0];
    let (code, _, said) = node.fencron(&["rewind", "--yes"]);
    assert_eq!(code, Some(1), "its clock is still ahead: {said}");
    assert!(said.contains("the clock of node a is") && said.contains("ahead of the one here"), "{said}");

    let since = node.now();
    clock.set(0);
    node.says(since, "its clock was set back by 1d").await;
    node.says(since, "up to which the schedules have been decided: nothing is due until then").await;
    let unready = async || {
        let (status, body) = node.http("/readyz").await;
        (status == 503 && body.contains("`fencron rewind` brings the schedules back")).then_some(())
    };
    until("it says that nothing is due", unready).await;
    let behind = async || node.json(&["status"])["behind_ms"].as_u64().filter(|behind| *behind > 80_000_000);
    until("the status tells by how much", behind).await;

    let (code, _, said) = node.fencron(&["rewind"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("brings the schedules back from") && said.contains("--yes"), "{said}");
    assert!(node.json(&["status"])["behind_ms"].is_u64(), "nothing was changed");
    let fired = scene.effects.lines().len();
    let done = node.json(&["rewind", "--yes"]);
    let goes_on = async || (scene.effects.lines().len() > fired + 2).then_some(());
    until("jobs are fired again", goes_on).await;
    let ready = async || (node.http("/readyz").await.0 == 200).then_some(());
    until("it is ready again", ready).await;
    let status = node.json(&["status"]);
    assert!(status.get("behind_ms").is_none(), "{status}");
    assert_eq!(status["rewound"]["to"], done["to"]);
    let (code, _, said) = node.fencron(&["rewind", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("rewound before") && said.contains("nothing to bring back"), "{said}");

    // The same with nobody there.
    scene.kill(0);
    clock.set(7_200);
    scene.start(0);
    scene.claims(3).await;
    scene.kill(0);
    clock.set(0);
    // Until its session has ended, what it said of its clock stands in the way.
    let rewound = async || (scene.nodes[1].fencron(&["rewind", "--yes"]).0 == Some(0)).then_some(());
    until("the schedules are brought back", rewound).await;
    let fired = scene.effects.lines().len();
    scene.start(1);
    let goes_on = async || (scene.effects.lines().len() > fired + 2).then_some(());
    until("jobs are fired again", goes_on).await;
    let begun = scene.effects.begun();
    assert!(begun.values().all(|lines| lines.len() == 1), "nothing is fired twice: {begun:?}");
}
