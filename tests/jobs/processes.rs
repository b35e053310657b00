//! Two processes of a service, of which one is killed: each occurrence once, whichever leads.

use std::process::Stdio;
use std::time::Duration;

use fencron::jobs::Run;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::scene::{Scene, connect};
use crate::support::{over_both, soon};

over_both!(a_killed_instance_is_followed_and_each_occurrence_is_called_once);

/// How long it takes at most until an instance that was killed is followed.
const SHORT_TTL: Duration = Duration::from_secs(4);

const PART: &str = "FENCRON_TEST_PART";
const STORE: &str = "FENCRON_TEST_STORE";

/// The part of another process: an instance that tells its calls until it is killed. Run by itself it has none to play.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process() {
    let (Ok(node), Ok(url)) = (std::env::var(PART), std::env::var(STORE)) else { return };
    let client = connect(&url, &node, SHORT_TTL).await;
    let call = async |run: Run| println!("\ncall {} {}", run.fence(), run.id());
    let jobs = client.jobs().job("tick", "* * * * * *", call).done().start().await.unwrap();
    jobs.ended().await.unwrap();
}

struct Call {
    node: &'static str,
    fence: u64,
    run: String,
}

/// Starts another process, and passes on what it tells.
fn process(url: &str, node: &'static str, calls: mpsc::UnboundedSender<Call>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "processes::another_process", "--nocapture"]).env(PART, node).env(STORE, url);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let Some((fence, run)) = line.strip_prefix("call ").and_then(|call| call.split_once(' ')) else { continue };
            // The test may be over.
            calls.send(Call { node, fence: fence.parse().unwrap(), run: run.to_owned() }).ok();
        }
    });
    child
}

async fn a_killed_instance_is_followed_and_each_occurrence_is_called_once(scene: Scene) {
    let (told, mut calls) = mpsc::unbounded_channel();
    let url = scene.url();
    let mut a = process(&url, "a", told.clone());
    let mut seen = vec![soon("a leads", calls.recv()).await.unwrap()];
    let mut b = process(&url, "b", told);
    while seen.len() < 3 {
        seen.push(soon("a runs the job", calls.recv()).await.unwrap());
    }
    a.kill().await.unwrap();
    while seen.iter().filter(|call| call.node == "b").count() < 3 {
        seen.push(soon("b runs the job", calls.recv()).await.unwrap());
    }
    b.kill().await.unwrap();
    let fences: Vec<(&str, u64)> = seen.iter().map(|call| (call.node, call.fence)).collect();
    assert!(fences.is_sorted_by_key(|(_, fence)| *fence), "{fences:?}");
    let (before, after) = (fences[0].1, fences[fences.len() - 1].1);
    assert!(before < after, "the second leader has a greater fence: {fences:?}");
    let mut runs: Vec<&str> = seen.iter().map(|call| call.run.as_str()).collect();
    let called = runs.len();
    runs.sort_unstable();
    runs.dedup();
    assert_eq!(runs.len(), called, "none is called twice: {runs:?}");
    // The record has each of them once. The one in the middle of which `a` was killed may be unknown.
    let shown = scene.json(&["runs", "--job", "tick", "--limit", "100"]);
    for run in runs {
        let states: Vec<&str> = shown
            .as_array()
            .unwrap()
            .iter()
            .filter(|shown| shown["run_id"] == run)
            .map(|shown| shown["state"].as_str().unwrap())
            .collect();
        assert!(matches!(states[..], ["succeeded" | "unknown" | "claimed" | "running"]), "{run}: {states:?}");
    }
}
