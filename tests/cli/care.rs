//! What an operator does to keep a cluster: a service under systemd, backups, restores, and what a package holds.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::etcd::{Etcd, EtcdOptions};
use crate::{JOBS, LIMIT, NodeProcess, Place};

/// The end of a service manager, and what a node says to it.
struct Manager(UnixDatagram);

impl Manager {
    /// The next message with `words` in it; any before it are passed over.
    #[track_caller]
    fn hears(&self, words: &str) -> String {
        let mut before = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let Ok(size) = self.0.recv(&mut buffer) else { panic!("`{words}` never came; before: {before:?}") };
            let message = String::from_utf8(buffer[..size].to_vec()).unwrap();
            if message.contains(words) {
                return message;
            }
            before.push(message);
        }
    }
}

#[test]
fn systemd_is_notified_of_what_a_node_does() {
    let place = Place::with(
        &JOBS.replace("command: [echo, hello]", "shell: 'env | grep -c -e NOTIFY_SOCKET -e WATCHDOG_USEC; true'"),
    );
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let manager = Manager(socket);
    let mut command = place.command(&["run", "--node", "a", "--ttl", "2s"]);
    command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "6000000");
    let mut node = NodeProcess::spawn(command);
    manager.hears("READY=1\nSTATUS=");
    manager.hears("STATUS=leader, fence ");
    manager.hears("WATCHDOG=1");
    let run = place.trigger("fine");
    assert_eq!(place.wait_for_state(&run, "succeeded")["output"], "0\n", "a command does not speak for its node");

    node.signal(Signal::SIGHUP);
    let reloading = manager.hears("RELOADING=1");
    let micros = reloading.split_once("\nMONOTONIC_USEC=").unwrap().1.parse::<u64>().unwrap();
    assert!(micros > 0);
    assert_eq!(manager.hears("READY=1"), "READY=1");
    node.signal(Signal::SIGTERM);
    assert_eq!(manager.hears("STOPPING=1"), "STOPPING=1");
    assert_eq!(node.ended().code(), Some(0));
}

#[test]
fn a_machine_that_trusts_no_authority_runs_nodes() {
    let place = Place::new();
    let mut command = place.command(&["run", "--node", "a", "--ttl", "2s"]);
    command.env("SSL_CERT_FILE", place.path("gone")).env("SSL_CERT_DIR", place.path("gone"));
    let node = NodeProcess::spawn(command);
    node.wait_for("this machine trusts no authority");
    node.wait_for(" leading ");
    place.run(&["trigger", "fine", "--wait"]).fails(0, &["succeeded"]);
}

#[test]
fn a_backup_that_is_made_while_a_node_runs_is_restored_and_leads_above_all_that_was() {
    let place = Place::new();
    let mut node = place.leader("a", &[]);
    let before = place.trigger("fine");
    place.wait_for_state(&before, "succeeded");
    let made = place.json(&["backup", "copy.db"]);
    assert_eq!(
        (&made["namespaces"][0]["namespace"], &made["store"]),
        (&"shop".into(), &"sqlite:.fencron/state.db".into())
    );
    assert!(made["namespaces"][0]["keys"].as_u64().unwrap() > 5 && made["revision"].as_u64().unwrap() > 5, "{made}");
    let found = fs::metadata(place.path("copy.db")).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.len()), (0o600, made["bytes"].as_u64().unwrap()));
    for beside in ["copy.db-wal", "copy.db-shm", "copy.db.partial"] {
        assert!(!place.path(beside).exists(), "the copy is one file: {beside}");
    }

    let after = place.trigger("fine");
    place.wait_for_state(&after, "succeeded");
    let fence = place.json(&["fence", "show"])["fence"].as_u64().unwrap();
    node.signal(Signal::SIGTERM);
    node.ended();
    // As docs/care.md says: the log that lies beside the file belongs to what is replaced.
    for log in ["state.db-wal", "state.db-shm"] {
        fs::remove_file(place.path(".fencron").join(log)).ok();
    }
    fs::copy(place.path("copy.db"), place.path(".fencron/state.db")).unwrap();
    let node = place.starting("a", &[]);
    node.wait_for("the store went back");
    place.json(&["fence", "repair", "--yes"]);
    node.wait_for(" leading ");
    let later = place.wait_for(&["fence", "show"], |shown| shown["fence"].as_u64());
    assert!(later > fence, "{later} is above {fence}");
    let runs = place.json(&["runs", "--job", "fine"]);
    let ids: Vec<&Value> = runs.as_array().unwrap().iter().map(|run| &run["run_id"]).collect();
    assert_eq!(ids, [&Value::from(before)], "what was done after the backup is forgotten");
    place.run(&["trigger", "fine", "--wait"]).fails(0, &["succeeded"]);
}

#[test]
fn a_backup_is_written_over_nothing() {
    let place = Place::new();
    place.run(&["backup", "copy.db"]).fails(5, &["there is no store"]);
    let _node = place.leader("a", &[]);
    place.write("copy.db", "precious");
    place.run(&["backup", "copy.db"]).fails(2, &["copy.db exists", "--force"]);
    assert_eq!(fs::read_to_string(place.path("copy.db")).unwrap(), "precious");
    place.run(&["backup", "copy.db", "--force"]).fails(0, &[]);
    assert!(fs::read(place.path("copy.db")).unwrap().starts_with(b"SQLite format 3"));
    for store in [".fencron/state.db", ".fencron/../.fencron/state.db-wal"] {
        place.run(&["backup", store, "--force"]).fails(2, &["is the store itself"]);
    }
    place.run(&["backup", ".", "--force"]).fails(2, &["is a directory"]);
    place.run(&["backup", "gone/copy.db"]).fails(1, &["cannot write gone/copy.db.partial"]);
    place.run(&["status"]).fails(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_etcd_is_a_snapshot_that_etcd_restores() {
    let mut etcd = Etcd::start(EtcdOptions::default()).await;
    let place = Place::new();
    let url = format!("etcd://{}", etcd.endpoint());
    let mut node = place.leader("a", &["--store", &url]);
    let run = place.json(&["trigger", "fine", "--wait", "--store", &url])["run_id"].clone();
    let made = place.json(&["backup", "copy.snapshot", "--store", &url]);
    assert_eq!((made["namespaces"][0]["namespace"].as_str(), made["store"].as_str()), (Some("shop"), Some(&*url)));
    place.json(&["trigger", "fine", "--wait", "--store", &url]);
    node.signal(Signal::SIGTERM);
    node.ended();
    etcd.restore_snapshot(&place.path("copy.snapshot"));
    etcd.restart();
    etcd.ready().await;
    let runs = place.json(&["runs", "--job", "fine", "--store", &url]);
    assert_eq!(runs.as_array().unwrap().iter().map(|run| &run["run_id"]).collect::<Vec<_>>(), [&run]);
    place.run(&["fence", "show", "--store", &url]).fails(1, &[]);
}

#[test]
fn each_command_has_a_manual_page() {
    let place = Place::new();
    place.run(&["man", "--to", "share/man1"]).fails(0, &[]);
    let page = fs::read_to_string(place.path("share/man1/fencron-lock.1")).unwrap();
    assert!(page.contains(".TH fencron-lock 1") && page.contains("\\-\\-wait"), "{page}");
    assert!(place.path("share/man1/fencron-guard-exec.1").exists());
    let printed = place.run(&["man"]).stdout();
    assert!(printed.contains(".TH fencron 1") && printed.contains("step\\-down"), "{printed}");
    place.run(&["man", "--to", "jobs.yaml"]).fails(1, &["cannot write manual pages into jobs.yaml"]);
}
