//! Jobs files that differ from node to node, and that change while everything runs.

use nix::sys::signal::Signal;

use super::scene::{Job, Scene, TICK};
use super::support::until;

/// How often the files are replaced.
const RELOADS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_different_files_are_told_of_and_lose_no_job_of_both() {
    let mut scene = Scene::over_sqlite(&[]).await;
    let extra = Job { name: "extra", every: 1, steps: 0, more: &[] };
    scene.write_file(1, &[TICK, extra.clone()]);
    scene.write_file(2, &[TICK, extra]);
    scene.start(1);
    let (_, fence) = scene.leader_after(0).await;
    scene.begins("extra", fence).await;
    scene.start(0);
    scene.joined(0).await;
    let node = &scene.nodes[0];
    let told = async || node.json(&["status"]).to_string().contains("different configurations").then_some(());
    until("the status tells that the files differ", told).await;

    scene.kill(1);
    let (_, fence) = scene.leader_after(fence).await;
    scene.claims(3).await;
    let begun = scene.effects.first_under("extra", fence);
    assert_eq!(begun, None, "who leads has no such job");
    scene.start(2);
    scene.joined(2).await;
    scene.stop(0).await;
    let (_, fence) = scene.leader_after(fence).await;
    scene.begins("extra", fence).await;
    scene.judge(&[("failovers", 2), ("starts", 5)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_loses_no_occurrence() {
    let crowd = |n: usize| Job { name: String::leak(format!("crowd-{n}")), every: 2, steps: 1, more: &[] };
    let crowd: Vec<Job> = (0..20).map(crowd).collect();
    let mut scene = Scene::over_sqlite(&crowd).await;
    scene.play().await;
    for round in 0..RELOADS {
        // A job comes and goes, and the others are defined otherwise, with the same schedules.
        let more: &[&str] = if round % 2 == 0 { &["timeout: 1m"] } else { &["kill_after: 2s"] };
        let mut jobs = vec![TICK];
        jobs.extend(crowd.iter().map(|job| Job { more, ..*job }));
        if round % 2 == 0 {
            jobs.push(Job { name: "guest", every: 1, steps: 0, more: &[] });
        }
        for node in 0..3 {
            let since = scene.nodes[node].now();
            scene.write_file(node, &jobs);
            scene.nodes[node].signal(Signal::SIGHUP);
            scene.nodes[node].says(since, "took a new configuration").await;
        }
        scene.claims(2).await;
    }
    scene.judge(&[("claims", 10), ("starts", 100)]).await;
}
