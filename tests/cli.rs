//! The program as people and scripts use it: real processes on a SQLite file.

#[path = "cli/access.rs"]
mod access;
#[path = "cli/acts.rs"]
mod acts;
#[path = "cli/adopting.rs"]
mod adopting;
#[path = "cli/alerts.rs"]
mod alerts;
#[path = "cli/care.rs"]
mod care;
#[path = "cli/chains.rs"]
mod chains;
#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/drill.rs"]
mod drill;
#[path = "cli/fuzz.rs"]
mod fuzz;
#[path = "cli/importing.rs"]
mod importing;
#[path = "cli/listener.rs"]
mod listener;
#[path = "cli/load.rs"]
mod load;
#[path = "cli/node.rs"]
mod node;
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/process.rs"]
mod process;
#[path = "cli/reading.rs"]
mod reading;
#[path = "cli/reload.rs"]
mod reload;
#[path = "cli/steering.rs"]
mod steering;
mod support;
#[path = "cli/tables.rs"]
mod tables;
#[path = "cli/tls.rs"]
mod tls;
#[path = "cli/top.rs"]
mod top;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::program::fencron;
use tempfile::TempDir;

/// How long anything is waited for: far more than it takes, so that a busy machine does not fail a test.
const LIMIT: Duration = Duration::from_secs(60);

/// Jobs that do nothing until they are asked to.
const JOBS: &str = r#"
version: 1
namespace: shop
defaults: {kill_after: 2s}
jobs:
  fine: {schedule: "@at 2099-01-01T00:00:00Z", command: [echo, hello]}
  wrong: {schedule: "@at 2099-01-01T00:00:00Z", shell: "echo oops; exit 3"}
  lasting:
    schedule: "@at 2099-01-01T00:00:00Z"
    shell: "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done"
  daily: {schedule: "0 0 * * *", shell: "echo $FENCRON_SCHEDULED_AT"}
  follower: {after: {job: fine, on: success}, command: [echo, followed]}
"#;

/// A directory with a jobs file and a store.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        Place::with(JOBS)
    }

    fn with(jobs: &str) -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        place.write("jobs.yaml", jobs);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = fencron(self.dir.path());
        command.args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran(self.command(args).output().unwrap())
    }

    /// The JSON that a command prints, which has to succeed.
    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["-o", "json"]].concat());
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        serde_json::from_str(&ran.stdout()).unwrap()
    }

    /// Waits until `there` finds something in what a command prints as JSON.
    fn wait_for<T>(&self, args: &[&str], there: impl Fn(&Value) -> Option<T>) -> T {
        let mut last = Value::Null;
        for _ in 0..LIMIT.as_millis() / 50 {
            last = self.json(args);
            if let Some(found) = there(&last) {
                return found;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("it never came: {args:?} says {last:#}");
    }

    fn wait_for_state(&self, run: &str, state: &str) -> Value {
        let job = run.split('@').next().unwrap();
        self.wait_for(&["runs", "--job", job], |runs| {
            runs.as_array()?.iter().find(|row| row["run_id"] == run && row["state"] == state).cloned()
        })
    }

    /// Starts a node that has to become the leader, or to follow one.
    fn node(&self, name: &str, args: &[&str]) -> NodeProcess {
        let node = self.starting(name, args);
        node.wait_for("opened a session");
        node
    }

    fn leader(&self, name: &str, args: &[&str]) -> NodeProcess {
        let node = self.node(name, args);
        node.wait_for(" leading ");
        node
    }

    fn starting(&self, name: &str, args: &[&str]) -> NodeProcess {
        NodeProcess::spawn(self.command(&[&["run", "--node", name, "--ttl", "2s"], args].concat()))
    }

    fn trigger(&self, job: &str) -> String {
        self.json(&["trigger", job])["run_id"].as_str().unwrap().to_owned()
    }
}

/// A command that has ended.
struct Ran(Output);

impl Ran {
    fn code(&self) -> i32 {
        self.0.status.code().expect("it ended by itself")
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    fn fails(&self, code: i32, says: &[&str]) {
        let stderr = self.stderr();
        assert_eq!(self.code(), code, "{stderr}");
        for words in says {
            assert!(stderr.contains(words), "`{words}` is not in: {stderr}");
        }
    }
}

/// A process whose lines can be waited for; killed when dropped.
struct NodeProcess {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl NodeProcess {
    /// Reads the stderr of `command`.
    fn spawn(mut command: Command) -> NodeProcess {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        NodeProcess { child, lines }
    }

    /// The next line with `words` in it.
    #[track_caller]
    fn wait_for(&self, words: &str) -> String {
        let mut before = String::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => before += &(line + "\n"),
                Err(_) => panic!("`{words}` never came; before:\n{before}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        for _ in 0..LIMIT.as_millis() / 20 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end");
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lines_of(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
