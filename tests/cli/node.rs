//! A node as a process: its first minute, its signals, and its jobs file as it changes.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::{JOBS, LIMIT, Place};

#[test]
fn the_example_fires_and_tells_about_it() {
    let place = Place::new();
    place.write("jobs.example.yaml", include_str!("../../jobs.example.yaml"));
    let node = place.starting("a", &["jobs.example.yaml"]);
    let first = node.wait_for("fencron starts");
    assert!(first.contains("namespace=example") && first.contains("store=sqlite:.fencron/state.db"), "{first}");
    node.wait_for("read jobs.example.yaml");
    node.wait_for("tick is due next at");
    let listening = node.wait_for("listening on http://127.0.0.1:");
    assert!(listening.contains(" (the page; /healthz, "), "{listening}");
    node.wait_for("tick | ");
    let fired = |runs: &Value| (runs[0]["state"] == "succeeded").then(|| runs[0]["scheduled_at"].clone());
    place.wait_for(&["runs", "--job", "tick"], fired);
}

#[test]
fn a_node_says_that_it_shows_other_machines_its_health_alone() {
    let place = Place::new();
    place.write("jobs.yaml", JOBS);
    for (more, says) in [
        (&[][..], " (other machines get only /healthz and /readyz)"),
        (&["--insecure-read"][..], " (the page; /healthz, "),
    ] {
        let node = place.starting("a", &[&["--listen", "0.0.0.0:0"], more].concat());
        let listening = node.wait_for("listening on http://");
        assert!(listening.contains(says), "{listening}");
    }
}

#[test]
fn a_terminated_node_lets_a_run_end_and_resigns() {
    let place = Place::new();
    let mut node = place.leader("a", &[]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    node.signal(Signal::SIGTERM);
    node.wait_for("asked to stop");
    place.write("go", "");
    node.wait_for("resigned");
    assert_eq!(node.ended().code(), Some(0));
    assert_eq!(place.wait_for_state(&run, "succeeded")["output"], "begun\ndone\n");
    assert_eq!(place.json(&["status"])["leader"], Value::Null);
}

#[test]
fn what_runs_beyond_the_grace_is_cancelled() {
    let place = Place::new();
    let mut node = place.leader("a", &["--shutdown-grace", "100ms"]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    node.signal(Signal::SIGINT);
    assert_eq!(node.ended().code(), Some(0));
    assert_eq!(place.wait_for_state(&run, "cancelled")["reason"], "node shut down");
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let place = Place::new();
    let mut node = place.leader("a", &["--shutdown-grace", "10m"]);
    place.trigger("lasting");
    node.wait_for("lasting | begun");
    node.signal(Signal::SIGTERM);
    node.wait_for("asked to stop");
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().code(), Some(1));
}

#[test]
fn a_changed_file_is_taken_and_a_wrong_one_refused() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    let digest = |status: &Value| status["nodes"][0]["config_digest"].clone();
    let before = digest(&place.json(&["status"]));

    place.write("jobs.yaml", "version: 1\nnamespace: shop\njobs: {fine: {schedule: '@hourly'}}\n");
    node.wait_for("the jobs file is refused");
    node.wait_for("jobs.yaml:3:");
    assert_eq!(digest(&place.json(&["status"])), before);

    place.write("jobs.yaml", &JOBS.replace("namespace: shop", "namespace: other"));
    node.wait_for("a node cannot change its namespace");

    place.write("jobs.yaml", &JOBS.replace("hello", "hello again"));
    node.wait_for("took a new configuration");
    place.wait_for(&["status"], |status| (digest(status) != before).then_some(()));
    let run = place.trigger("fine");
    assert_eq!(place.wait_for_state(&run, "succeeded")["output"], "hello again\n");
}

#[test]
fn a_file_that_is_replaced_by_renaming_is_noticed() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    place.write("new", &JOBS.replace("hello", "renamed"));
    std::fs::rename(place.path("new"), place.path("jobs.yaml")).unwrap();
    node.wait_for("took a new configuration");
}

#[test]
fn a_hangup_has_the_file_read_again() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    node.signal(Signal::SIGHUP);
    node.wait_for("the jobs file has not changed");
}

#[test]
fn a_second_node_follows_and_takes_over() {
    let place = Place::new();
    let mut first = place.leader("a", &[]);
    let second = place.node("b", &[]);
    let roles = |status: &Value| {
        let nodes = status["nodes"].as_array()?.iter().map(|node| (node["node"].clone(), node["leader"].clone()));
        Some(nodes.collect::<Vec<_>>()).filter(|nodes| nodes.len() == 2)
    };
    assert_eq!(place.wait_for(&["status"], roles), [(json!("a"), json!(true)), (json!("b"), json!(false))]);
    first.signal(Signal::SIGTERM);
    second.wait_for(" leading ");
    assert_eq!(first.ended().code(), Some(0));
}

#[test]
fn wrong_options_say_what_to_write() {
    let place = Place::new();
    place.run(&["run", "--ttl", "1ms"]).fails(2, &["--ttl", "out of bounds"]);
    place.run(&["run", "--node", "a b"]).fails(2, &["is not a name"]);
    place.run(&["run", "--advertise", "host"]).fails(2, &["HOST:PORT"]);
    place.run(&["run", "--namespace", "a/b"]).fails(2, &["--namespace", "is not a namespace"]);
    let log = place.command(&["schema"]).env("FENCRON_LOG", "a=b=c").output().unwrap();
    assert_eq!(log.status.code(), Some(2), "{}", String::from_utf8_lossy(&log.stderr));
}

#[test]
fn an_address_in_use_says_which_option_changes_it() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.run(&["run", "--listen", &address]).fails(1, &[&address, "--listen"]);
}

#[test]
fn logs_in_json_are_one_object_a_line() {
    let place = Place::new();
    let node = place.starting("a", &["--log-format", "json"]);
    let line: Value = serde_json::from_str(&node.wait_for("fencron starts")).unwrap();
    assert_eq!((&line["level"], &line["namespace"]), (&json!("INFO"), &json!("shop")));
}

#[test]
fn a_node_in_memory_is_a_toy_that_says_so() {
    let place = Place::new();
    let command: Command = place.command(&["run", "--store", "memory:"]);
    let node = crate::NodeProcess::spawn(command);
    node.wait_for("the store is in memory");
    node.wait_for(" leading ");
}

/// A job that writes more in one run than a pipe holds.
const FLOODING: &str = "
version: 1
namespace: shop
jobs:
  flood: {schedule: '@every 1s', shell: 'seq 100000 101999'}
";

#[test]
fn a_leader_whose_stderr_nobody_reads_goes_on_and_stops_when_told() {
    let place = Place::with(FLOODING);
    for format in ["text", "json"] {
        let mut command = place.command(&["run", "--ttl", "2s", "--log-format", format, "--namespace", format]);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stuck = child.stderr.take().unwrap();
        let enough = (0..LIMIT.as_millis() / 100).any(|_| {
            thread::sleep(Duration::from_millis(100));
            let runs = place.run(&["runs", "--state", "succeeded", "--namespace", format, "-o", "json"]);
            serde_json::from_str(&runs.stdout()).is_ok_and(|runs: Value| runs.as_array().is_some_and(|a| a.len() > 4))
        });
        signal(&child, Signal::SIGTERM);
        let ended = ended(&mut child);
        drop(stuck);
        assert!(enough, "{format}: it claims nothing any more");
        assert_eq!(ended.expect("SIGTERM is heard").code(), Some(0), "{format}");
    }
}

#[test]
fn an_error_that_nobody_reads_does_not_keep_a_node_from_ending() {
    let place = Place::new();
    let (_unread, full) = full_pipe();
    let mut child = place.command(&["run", "none.yaml"]).stderr(full).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(ended(&mut child).expect("it ends").code(), Some(2));
}

/// A pipe into which nothing more fits.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'.'; 1024]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// How it ended; killed where it does not.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    for _ in 0..LIMIT.as_millis() / 20 {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
fn a_hangup_before_the_file_is_read_does_not_end_a_node() {
    let place = Place::new();
    std::fs::remove_file(place.path("jobs.yaml")).unwrap();
    nix::unistd::mkfifo(&place.path("jobs.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let node = place.starting("a", &[]);
    // Opening a pipe to write waits until somebody opens it to read: the node reads its file, and has not gone further.
    let mut file = OpenOptions::new().write(true).open(place.path("jobs.yaml")).unwrap();
    node.signal(Signal::SIGHUP);
    // Where it was killed by the signal, nobody reads.
    file.write_all(JOBS.as_bytes()).unwrap();
    drop(file);
    node.wait_for(" leading ");
}

#[test]
fn a_secret_that_was_replaced_is_taken_on_hangup() {
    let place = Place::with(
        "version: 1\nnamespace: shop\njobs:\n  show: {schedule: '@at 2099-01-01T00:00:00Z', \
         shell: 'echo $${#SECRET}', env: {SECRET: '${file:secret}'}}\n",
    );
    place.write("secret", "four");
    let node = place.leader("a", &[]);
    place.write("secret", "longer");
    node.signal(Signal::SIGHUP);
    node.wait_for("took a new configuration");
    let run = place.trigger("show");
    assert_eq!(place.wait_for_state(&run, "succeeded")["output"], "6\n");
    node.signal(Signal::SIGHUP);
    node.wait_for("the jobs file has not changed");
}
