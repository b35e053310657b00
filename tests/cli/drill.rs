//! `fencron drill`: what it shows of a sound cluster, and of one whose store is tampered with.

use std::time::Duration;

use fencron::lock::Namespace;
use fencron::store::{AnyStore, Keys, Op, Store as _, Txn};
use fencron::time::Clock;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use super::support::databases::{Kind, PASSWORD, Server};
use super::support::etcd::EtcdCluster;
use super::support::until;
use super::{NodeProcess, Place};

fn place() -> Place {
    Place::with("version: 1\njobs: {}\n")
}

/// Runs a drill that has to pass.
fn passed(place: &Place, args: &[&str]) -> Value {
    let ran = place.run(&[&["drill"], args, &["-o", "json"]].concat());
    let printed = ran.stdout();
    assert_eq!(ran.code(), 0, "{}\n{printed}", ran.stderr());
    let view: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(view["passed"], true, "{view}");
    let occurrences = &view["occurrences"];
    assert!(occurrences["due"].as_u64().unwrap() >= 2, "{view}");
    for nothing in ["lost", "claimed_twice", "accepted_twice"] {
        assert_eq!(occurrences[nothing], 0, "{view}");
    }
    assert_eq!(view["stale"]["accepted"], 0, "{view}");
    assert!(view["gap_ms"]["max"].as_f64().unwrap() > 0.0 && view["store_latency_ms"]["p50"].is_number(), "{view}");
    assert!(view["logs"].is_null(), "{view}");
    view
}

async fn open(url: &str) -> AnyStore {
    AnyStore::open(&url.parse().unwrap(), Clock::system()).await.unwrap()
}

async fn namespaces(store: &AnyStore) -> Vec<String> {
    Namespace::all(store).await.unwrap().iter().map(Namespace::to_string).collect()
}

fn sqlite(place: &Place) -> String {
    format!("sqlite:{}", place.path("store.db").display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_shows_that_a_leader_that_is_killed_is_followed_and_leaves_nothing() {
    let place = place();
    let url = sqlite(&place);
    let view = passed(&place, &["failover", "--runs", "2", "--ttl", "3s", "--gap-most", "60s", "--store", &url]);
    assert_eq!((&view["how"], &view["rounds"], &view["gap_ms"]["count"]), (&"kill".into(), &2.into(), &2.into()));
    assert_eq!(view["stale"]["sent"], 2, "one of each leader that was killed: {view}");
    assert_eq!(namespaces(&open(&url).await).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_shows_that_what_a_leader_sends_that_was_replaced_is_turned_away() {
    let place = place();
    let view =
        passed(&place, &["zombie", "--runs", "1", "--ttl", "2s", "--gap-most", "60s", "--store", &sqlite(&place)]);
    assert_eq!(view["how"], "stop");
    assert!(view["stale"]["sent"].as_u64().unwrap() >= 1, "{view}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_cuts_a_leader_off_from_etcd_and_asks_one_to_step_down() {
    let cluster = EtcdCluster::start(1).await;
    let (place, url) = (place(), format!("etcd://{}", cluster.members[0].endpoint()));
    let more = ["--runs", "1", "--ttl", "2s", "--gap-most", "60s", "--store", &url];
    let cut = passed(&place, &[&["failover", "--how", "cut"], &more[..]].concat());
    assert!(cut["stale"]["sent"].as_u64().unwrap() >= 1, "{cut}");
    passed(&place, &[&["failover", "--how", "step-down"], &more[..]].concat());
    assert_eq!(namespaces(&open(&url).await).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_does_each_fault_over_postgresql() {
    let database = tokio::task::spawn_blocking(|| Server::shared(Kind::Postgres).database()).await.unwrap();
    let place = place();
    let more = ["--runs", "1", "--ttl", "2s", "--gap-most", "60s", "--store", &database.url];
    for how in ["kill", "stop", "cut", "step-down"] {
        let view = passed(&place, &[&["failover", "--how", how], &more[..]].concat());
        let stale = view["stale"]["sent"].as_u64().unwrap();
        assert!(stale >= u64::from(how != "step-down"), "{how}: {view}");
        assert!(!view["store"].as_str().unwrap().contains(PASSWORD), "{view}");
    }
    assert_eq!(namespaces(&open(&database.url).await).await, [""; 0]);
}

#[test]
fn a_network_that_is_not_there_cannot_be_cut() {
    let place = place();
    let ran = place.run(&["drill", "failover", "--how", "cut", "--store", &sqlite(&place)]);
    ran.fails(2, &["--how cut has no meaning for sqlite:", "use --how stop"]);
    assert!(!place.path("store.db").exists());
}

/// A cluster whose watermark jumps passes occurrences over, as one does that drops claims.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_fails_where_occurrences_are_lost() {
    let place = place();
    let url = sqlite(&place);
    let args = ["drill", "failover", "--runs", "2", "--ttl", "2s", "--gap-most", "60s", "--store", &url, "-o", "json"];
    let drill = place.command(&args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn();
    let drill = drill.unwrap();
    until("the store", async || place.path("store.db").exists().then_some(())).await;
    let store = open(&url).await;
    let watermark = until("the first claim", async || {
        let all = namespaces(&store).await;
        let own = all.iter().find(|name| name.starts_with("fencron-drill-") && !name.ends_with("-book"))?;
        let key = format!("/fencron/v1/{own}/watermark");
        let opened = Keys::prefix(format!("/fencron/v1/{own}/~done/canary/"));
        let has_begun = !store.range_all(opened).await.unwrap().0.is_empty();
        store.range_all(Keys::one(key)).await.unwrap().0.pop().filter(|_| has_begun)
    });
    let watermark = watermark.await;
    let mut record: Value = serde_json::from_slice(&watermark.value).unwrap();
    let instant = record["r"]["instant"].as_str().unwrap();
    let later = chrono::DateTime::parse_from_rfc3339(instant).unwrap() + chrono::TimeDelta::seconds(4);
    record["r"]["instant"] = later.format("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    let put = Op::put(watermark.key, serde_json::to_vec(&record).unwrap());
    store.commit(Txn::new().then(put)).await.unwrap();

    let output = tokio::task::spawn_blocking(|| drill.wait_with_output().unwrap()).await.unwrap();
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &view["passed"]), (Some(1), &false.into()), "{view}");
    assert!(view["occurrences"]["lost"].as_u64().unwrap() >= 1, "{view}");
    let findings = view["findings"].as_array().unwrap();
    let is_lost =
        |finding: &Value| finding["rule"] == "lost" && finding["what"].as_str().unwrap().ends_with("was never claimed");
    assert!(findings.iter().any(is_lost), "{view}");
    let logs = std::path::PathBuf::from(view["logs"].as_str().unwrap());
    assert!(std::fs::read_to_string(logs.join("a/log")).unwrap().contains("fencron starts"));
    std::fs::remove_dir_all(logs).unwrap();
    assert_eq!(namespaces(&store).await, [""; 0], "a drill that fails leaves nothing in the store either");
}

/// How often a node that the drill stops is made to go on: the drill looks less often whether it stands still.
const GOES_ON_EVERY: Duration = Duration::from_micros(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_whose_fault_does_not_happen_fails() {
    let place = place();
    let args = ["drill", "zombie", "--runs", "1", "--ttl", "30s", "--gap-most", "1s", "-o", "json"];
    let mut drill = place.command(&[&args[..], &["--store", &sqlite(&place)]].concat());
    let drill = drill.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let (pid, (over, is_over)) = (drill.id(), std::sync::mpsc::channel::<()>());
    let spoiling = std::thread::spawn(move || {
        while is_over.recv_timeout(GOES_ON_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            for node in children(pid) {
                nix::sys::signal::kill(Pid::from_raw(node), Signal::SIGCONT).ok();
            }
        }
    });
    let output = tokio::task::spawn_blocking(|| drill.wait_with_output().unwrap()).await.unwrap();
    drop(over);
    spoiling.join().unwrap();
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &view["passed"]), (Some(1), &false.into()), "{view}");
    let rules: Vec<&str> =
        view["findings"].as_array().unwrap().iter().map(|finding| finding["rule"].as_str().unwrap()).collect();
    assert!(rules.contains(&"no_fault") || rules.contains(&"no_take_over"), "{view}");
    assert_eq!(view["occurrences"]["lost"], 0, "nothing else is wrong: {view}");
    std::fs::remove_dir_all(view["logs"].as_str().unwrap()).unwrap();
}

/// The processes that this one has started.
fn children(of: u32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

async fn are_gone(children: &[i32]) {
    until("its nodes are gone", async || {
        let lives = |pid: &&i32| nix::sys::signal::kill(Pid::from_raw(**pid), None).is_ok();
        let is_dead =
            |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        children.iter().filter(lives).all(is_dead).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_that_is_interrupted_or_killed_takes_its_nodes_with_it() {
    for (signal, code, left) in [(Signal::SIGINT, Some(1), 0), (Signal::SIGKILL, None, 2)] {
        let place = place();
        let url = sqlite(&place);
        let mut drill = place.command(&["drill", "failover", "--runs", "1000", "--store", &url]);
        // One that is killed leaves its directory.
        drill.env("TMPDIR", place.dir.path());
        let mut drill = NodeProcess::spawn(drill);
        drill.wait_for("1/1000 ");
        let nodes =
            until("the third node", async || Some(children(drill.child.id())).filter(|children| children.len() == 3));
        let nodes = nodes.await;
        drill.signal(signal);
        assert_eq!(drill.ended().code(), code);
        are_gone(&nodes).await;
        let found = namespaces(&open(&url).await).await;
        assert_eq!(found.len(), left, "{found:?}");
        let jobs = place.run(&["jobs", "--store", &url]);
        assert_eq!(jobs.code(), 0, "what a drill has left is in no one's way: {}", jobs.stderr());
    }
}
