//! Zombies: a leader is stopped in the middle of an effect, behind its own last check and before the effect arrives; a
//! successor makes the same effect under a greater fence; then the first one wakes, and its effect arrives.
//!
//! With a guard where the effect arrives, the late one is turned away. Each scenario runs without a guard as well, to
//! show that it would have been accepted: otherwise the test would prove nothing.

#[path = "../cluster/node.rs"]
#[expect(dead_code, reason = "the whole clusters do more to their nodes")]
mod node;
mod service;
#[path = "../support/mod.rs"]
mod support;

mod command;
mod http;
mod sql;

use std::time::Duration;

use nix::sys::signal::Signal;
use node::Node;
use support::proxy::{Flow, Proxy};
use support::until;
use tempfile::TempDir;

/// How long a leadership outlives a node that is stopped.
const TTL: Duration = Duration::from_secs(2);

/// Two nodes over one file, with one job that is due when it is asked for.
struct Stage {
    old: Node,
    new: Node,
    _directory: TempDir,
}

impl Stage {
    /// The first node leads, and the second follows. `task` are the lines of the job.
    async fn set(task: &str) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let (file, store) = (directory.path().join("jobs.yaml"), directory.path().join("store.db"));
        let task: String = task.lines().map(|line| format!("    {line}\n")).collect();
        let text = format!(
            "version: 1\njobs:\n  effect:\n    schedule: \"@at 2099-01-01T00:00:00Z\"\n    \
             guarantee: at_least_once\n    on_lost_leadership: finish\n    timeout: 60s\n{task}"
        );
        std::fs::write(&file, text).unwrap();
        let store = format!("sqlite:{}", store.display());
        let mut old = Node::new("old", directory.path(), &file, store.clone());
        let mut new = Node::new("new", directory.path(), &file, store);
        old.start(TTL);
        old.says(old.begin(), "leading").await;
        new.start(TTL);
        Stage { old, new, _directory: directory }
    }

    /// The effect is asked for, and its first node stopped once something of it waits at `gate`; then the gate lets the
    /// successor's pass. Returns the two fences.
    async fn replace_in_the_middle(&self, gate: &Proxy, hold: Flow) -> (u64, u64) {
        gate.requests(hold);
        self.trigger();
        gate.holds_something().await;
        let fences = self.stop_old_until_replaced(|| {
            gate.detain();
            gate.requests(Flow::Pass);
        });
        fences.await
    }

    fn trigger(&self) {
        let (code, _, said) = self.new.fencron(&["trigger", "effect", "--file", "../jobs.yaml"]);
        assert_eq!(code, Some(0), "{said}");
    }

    /// Stops the first node, and waits until the second leads.
    async fn stop_old_until_replaced(&self, meanwhile: impl FnOnce()) -> (u64, u64) {
        let (_, before) = leader(&self.new).expect("somebody leads");
        self.old.freeze().await;
        meanwhile();
        let (_, after) =
            until("the second node leads", async || leader(&self.new).filter(|leader| leader.0 == "new")).await;
        assert!(before < after);
        (before, after)
    }

    /// The first node wakes, and what it had under way goes on.
    fn wake(&self, gate: &Proxy) {
        self.old.signal(Signal::SIGCONT);
        gate.release();
    }

    /// The verdict of the only run, once it has one.
    async fn verdict(&self) -> String {
        until("the run has a verdict", async || {
            let runs = self.new.json(&["runs"]);
            let state = runs[0]["state"].as_str()?.to_owned();
            (!["claimed", "running", "retrying"].contains(&state.as_str())).then_some(state)
        })
        .await
    }
}

/// Who leads, and under which fence.
fn leader(asking: &Node) -> Option<(String, u64)> {
    let status = asking.json(&["status"]);
    let leader = &status["leader"];
    Some((leader["node"].as_str()?.to_owned(), leader["fence"].as_u64()?))
}
