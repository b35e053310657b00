//! With a synchronous standby, nothing that was answered is lost.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use fencron::store::{Revision, Store};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::pair::{Pair, adopt, claim, is_there, refused_until_adopted};
use crate::support::program::fencron;
use crate::support::{PATIENCE, soon};

const WRITERS: usize = 4;

/// How many claims are answered before the primary is killed.
const ANSWERED: usize = 60;

impl Pair {
    async fn synchronous(self) -> Pair {
        self.change(|pair| {
            pair.primary.ask("", "ALTER SYSTEM SET synchronous_standby_names = '*'");
            pair.primary.ask("", "SELECT pg_reload_conf()");
            pair.primary.wait_for("", "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "1");
        })
        .await
    }

    /// The primary dies, and its standby takes over.
    async fn fail_over(self) -> Pair {
        self.change(|pair| {
            pair.primary.kill();
            pair.standby.promote();
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_claim_is_there_after_the_failover_of_a_synchronous_pair() {
    let pair = Pair::start().await.synchronous().await;
    let store = pair.open().await;
    store.grant(crate::pair::TTL).await.unwrap();
    let (answers, mut answered) = mpsc::unbounded_channel();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, answers) = (store.clone(), answers.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    let key = format!("claims/{writer}/{n}");
                    match store.commit(claim(&key)).await {
                        Ok(committed) => answers.send((key, committed.revision)).unwrap(),
                        Err(error) => return error,
                    }
                }
                unreachable!("the primary is killed before")
            })
        })
        .collect();
    let mut all: Vec<(String, Revision)> = Vec::new();
    while all.len() < ANSWERED {
        all.push(soon("an answer", answered.recv()).await.unwrap());
    }
    let _pair = pair.fail_over().await;
    for writer in writers {
        let error = soon("the end of a writer", writer).await.unwrap();
        assert!(error.is_passing() || error.to_string().contains("adopt"), "{error}");
    }
    drop(answers);
    while let Some(more) = answered.recv().await {
        all.push(more);
    }
    refused_until_adopted(&store).await;
    for (key, _) in &all {
        assert!(is_there(&store, key).await, "{key} was answered, and is lost");
    }
    let (left_at, begins_at) = adopt(&store).await;
    let last = all.iter().map(|(_, revision)| *revision).max().unwrap();
    assert!(left_at >= last && begins_at > left_at, "{last}, {left_at}, {begins_at}");
}

/// A node as a process, killed when it is dropped.
struct Node {
    child: Child,
    lines: Receiver<String>,
}

impl Node {
    fn start(mut command: Command) -> Node {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (send, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Node { child, lines }
    }

    fn wait_for(&self, words: &str) {
        let mut before = String::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return,
                Ok(line) => before += &(line + "\n"),
                Err(_) => panic!("`{words}` never came; before:\n{before}"),
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const JOBS: &str = "
version: 1
namespace: shop
jobs:
  fine: {schedule: '@at 2099-01-01T00:00:00Z', command: [echo, hello]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_runs_jobs_again_after_the_failover_and_every_verdict_is_there() {
    let pair = Pair::start().await.synchronous().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("jobs.yaml"), JOBS).unwrap();
    let (path, url) = (directory.path().to_owned(), pair.url.clone());
    let json = move |args: &[&str]| -> Value {
        let output = fencron(&path).args(args).args(["-o", "json", "--store", &url]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let run = || json(&["trigger", "fine"])["run_id"].as_str().unwrap().to_owned();
    let mut command = fencron(directory.path());
    command.args(["run", "--node", "a", "--ttl", "2s", "--store", &pair.url]);
    let node = Node::start(command);
    node.wait_for(" leading ");
    let before = run();
    node.wait_for("verdict=succeeded");
    let pair = pair.fail_over().await;
    node.wait_for("fencron store adopt");
    json(&["store", "adopt", "--yes"]);
    let after = run();
    node.wait_for("verdict=succeeded");
    let runs = json(&["runs", "--job", "fine"]);
    let ended =
        |run: &str| runs.as_array().unwrap().iter().any(|row| row["run_id"] == run && row["state"] == "succeeded");
    assert!(ended(&before) && ended(&after), "{runs:#}");
    drop(pair);
}
