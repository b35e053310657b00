//! A node whose clock is wrong.

use std::path::PathBuf;

use super::scene::Scene;
use super::support::until;

/// The library that lies to a process about the time. It leaves the boot clock alone where it is told to, and this
/// scene would show it otherwise: in a SQLite store, a node that takes it to be minutes later ends everybody's leases.
fn libfaketime() -> PathBuf {
    let directories = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let places = directories.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    let found = places.map(|directory| directory.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("libfaketime is needed for this: `tests/run` installs it (Debian: libfaketime)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_ahead_says_so_and_does_not_lead() {
    let mut scene = Scene::over_sqlite(&[]).await;
    scene.start(0);
    scene.start(1);
    let (leader, fence) = scene.leader_after(0).await;
    scene.nodes[2].variables = vec![
        ("LD_PRELOAD".into(), libfaketime().display().to_string()),
        ("FAKETIME".into(), "+300s".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
    ];
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
