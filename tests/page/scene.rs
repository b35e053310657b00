//! Nodes for a test of the page.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::browser::client;
use crate::support::program::fencron;
use crate::support::until;

/// One of each: a job that goes well, one that fails, one whose end no store can tell, one that goes on, one that is
/// paused, and one that never ran.
pub const JOBS: &str = r#"
version: 1
namespace: shop
defaults: {kill_after: 1s, timezone: Europe/Berlin}
migrations:
  - {id: 2026-11-create-orders, command: [echo, created]}
jobs:
  tick:
    description: says what time it is
    schedule: "@at 2099-01-01T00:00:00Z"
    command: [echo, hello]
  invoice-export:
    description: sends the invoices of the day to the bookkeeping
    schedule: "@at 2099-01-01T00:00:00Z"
    shell: "echo connecting; printf '\\033[1;31merror\\033[0m: permission denied\\n'; exit 3"
  charge-cards: {schedule: "@at 2099-01-01T00:00:00Z", http: {url: "http://SILENT/charge", method: POST}}
  backup:
    schedule: "15 3 * * SUN"
    shell: "printf '\\033[32mcopied\\033[0m 1 of 400\\n'; while [ ! -e go ]; do sleep 0.1; done; echo all copied"
  stock-count: {schedule: "0 */2 * * *", command: [echo, counted], timezone: America/New_York}
  nightly-report: {schedule: "30 2 * * *", command: [echo, report], description: the report of yesterday}
  cleanup: {after: {job: nightly-report, on: success}, command: [echo, clean]}
"#;

/// A directory with a jobs file, and the nodes that run there.
pub struct Scene {
    pub dir: TempDir,
    /// How all of them reach the store; empty: the file of the directory.
    store: Vec<String>,
}

/// A node; killed when it is dropped.
pub struct Node {
    child: Child,
    /// Where its page is: `http://127.0.0.1:…`.
    pub url: String,
}

impl Scene {
    pub fn with(jobs: &str) -> Scene {
        Scene::over(jobs, &[])
    }

    /// Over a store that all commands are given by these arguments.
    pub fn over(jobs: &str, store: &[&str]) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("jobs.yaml"), jobs.replace("SILENT", &silent())).unwrap();
        Scene { dir, store: store.iter().map(|&part| part.to_owned()).collect() }
    }

    /// With one of everything that can be seen, and a node that leads.
    pub async fn of_everything() -> (Scene, Node) {
        let scene = Scene::with(JOBS);
        let node = scene.node("a").await;
        node.leads().await;
        for job in ["tick", "tick", "invoice-export", "charge-cards"] {
            scene.run(&["trigger", job, "--wait", "--timeout", "60s"]);
        }
        scene.run(&["trigger", "backup"]);
        scene.run(&["pause", "stock-count"]);
        (scene, node)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = fencron(self.dir.path());
        command.args(&self.store).args(arguments);
        command
    }

    /// Runs a command, and answers what it printed, however it ended.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// The id of a run of a job.
    pub fn run_of(&self, job: &str) -> String {
        let runs: serde_json::Value = serde_json::from_str(&self.run(&["runs", "--job", job, "-o", "json"])).unwrap();
        runs[0]["run_id"].as_str().expect("it has a run").to_owned()
    }

    /// Starts a node, and waits until it listens.
    pub async fn node(&self, name: &str) -> Node {
        self.node_with(name, &[]).await
    }

    /// Starts a node with more arguments, and waits until it listens.
    pub async fn node_with(&self, name: &str, more: &[&str]) -> Node {
        let path = self.path(&format!("{name}.log"));
        let mut command = self.command(&["run", "--node", name, "--ttl", "2s", "--listen", "127.0.0.1:0"]);
        command.args(more);
        let log = std::fs::File::create(&path).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let listening = || {
            let log = std::fs::read_to_string(&path).unwrap();
            let address = log.split_once("listening on ").and_then(|(_, rest)| rest.split([' ', '\n']).next());
            std::future::ready(address.map(str::to_owned))
        };
        let url = until("it listens", listening).await;
        Node { child, url }
    }
}

impl Node {
    pub async fn get(&self, path: &str) -> reqwest::Response {
        client().get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub async fn page(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    /// Waits until it knows who leads.
    pub async fn leads(&self) {
        until("it leads", async || self.page("/leadership").await.contains(" under fence ").then_some(())).await;
    }

    /// Has it stand still, or go on.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address of a server that takes requests, and hangs up without an answer.
fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok();
            let _asked = stream.read(&mut [0; 4096]).ok();
            stream.flush().ok();
        }
    });
    address
}
