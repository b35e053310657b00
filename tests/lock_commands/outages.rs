//! A store that is away when a command begins, and sessions that end as they begin.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use fencron::lock::Namespace;
use fencron::store::{AnyStore, Op, Store, Txn};
use fencron::time::Clock;
use nix::sys::signal::Signal;

use crate::scene::{Process, Ran, Scene};
use crate::support::{over_both, until};

/// How long it is watched how many sessions are opened.
const WATCHED: Duration = Duration::from_secs(5);
/// More than that are opened in this time only by somebody who does not pause.
const SESSIONS_MOST: usize = 20;

/// Ends every session as it begins, but those that are there already. Answers how many that were.
async fn sessions_ended_at_once(scene: &Scene) -> usize {
    let store = AnyStore::open(&scene.store_url().parse().unwrap(), Clock::system()).await.unwrap();
    let namespace = Namespace::new("shop").unwrap();
    let sessions = async || {
        // A file may be locked for long on a busy machine: it is asked again.
        let entries = store.range_all(namespace.sessions()).await.map_or(Vec::new(), |(entries, _)| entries);
        entries.into_iter().filter_map(|entry| entry.lease).collect::<BTreeSet<_>>()
    };
    let spared = until("the holder has a session", async || Some(sessions().await).filter(|all| !all.is_empty())).await;
    let mut ended = BTreeSet::new();
    let clock = Clock::system();
    let from = clock.boot();
    while clock.boot().since(from) < WATCHED || ended.is_empty() {
        for session in sessions().await.difference(&spared) {
            if store.revoke(*session).await.is_ok() {
                ended.insert(*session);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ended.len()
}

async fn a_session_that_ends_at_once_is_not_opened_again_without_a_pause(scene: Scene) {
    scene.write("go", "");
    let holder = scene.start(&[
        "lock",
        "deploy",
        "--ttl",
        "1m",
        "--",
        "sh",
        "-c",
        "echo x > has; while [ -e go ]; do sleep 0.05; done",
    ]);
    scene.wait_for_lines("has", 1).await;
    scene.write("jobs.yaml", "version: 1\nnamespace: shop\njobs: {}\n");
    for command in
        [&["lock", "deploy", "--", "true"][..], &["semaphore", "s", "--permits", "1", "--", "sleep", "100"], &["run"]]
    {
        let waiting = scene.start(command);
        let sessions = sessions_ended_at_once(&scene).await;
        assert!(sessions <= SESSIONS_MOST, "{command:?}: {sessions} in {WATCHED:?}");
        waiting.signal(Signal::SIGKILL);
    }
    std::fs::remove_file(scene.path("go")).unwrap();
    holder.end().await.ends(0, &[]);
}

over_both!(a_session_that_ends_at_once_is_not_opened_again_without_a_pause);

const AWAY: &str = "waiting for the store, which does not answer";
const BACK: &str = "the store answers again";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_at_the_start_is_waited_for() {
    let mut scene = Scene::over_etcd().await;
    scene.write("jobs.yaml", "version: 1\nnamespace: shop\nmigrations: [{id: m, shell: 'echo m >> ran'}]\njobs: {}\n");
    scene.server().kill();
    let command = ["--", "sh", "-c", "echo $0 >> ran"];
    let with = |args: &[&str], name: &str| scene.start(&[args, &command, &[name]].concat());
    let all = [
        with(&["lock", "l", "--wait", "10m"], "l"),
        with(&["elect", "e", "--again"], "e"),
        with(&["semaphore", "s", "--permits", "1"], "s"),
        with(&["once", "o"], "o"),
        scene.start(&["migrate"]),
    ];
    for process in &all {
        process.wait_for(AWAY).await;
    }
    assert!(!scene.path("ran").exists());
    scene.server().restart();
    for process in all {
        process.end().await.ends(0, &[AWAY, BACK]);
    }
    let mut ran = scene.lines("ran");
    ran.sort();
    assert_eq!(ran, ["e", "l", "m", "o", "s"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stays_away_is_waited_for_as_long_as_was_said() {
    let mut scene = Scene::over_etcd().await;
    scene.server().kill();
    let waits = [
        &["lock", "n", "--wait", "2s"][..],
        &["semaphore", "s", "--permits", "1", "--wait", "2s"],
        &["elect", "n", "--try"],
        &["once", "o", "--wait", "2s"],
    ];
    let all: Vec<Process> =
        waits.iter().map(|args| scene.start(&[args, &["--", "touch", "never"][..]].concat())).collect();
    for process in all {
        process.end().await.ends(5, &["cannot use the store"]);
    }
    assert!(!scene.path("never").exists());
    let waiting = scene.start(&["lock", "n", "--", "touch", "never"]);
    waiting.wait_for(AWAY).await;
    waiting.signal(Signal::SIGINT);
    waiting.end().await.ends(130, &[]);
}

/// The status and the body of what the node at `address` answers.
fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let code = answer.split(' ').nth(1)?.parse().ok()?;
    Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_without_its_store_and_is_ready_when_that_answers() {
    let mut scene = Scene::over_etcd().await;
    scene.write("jobs.yaml", "version: 1\nnamespace: shop\njobs: {}\n");
    scene.server().kill();
    let port = crate::support::ports::Port::free();
    let address = format!("127.0.0.1:{}", port.number());
    let node = scene.start(&["run", "--node", "a", "--listen", &address]);
    node.wait_for("starting without it").await;
    let says = |body: &str| body.contains("no session with the store yet");
    let (code, _) = until("it says so", async || get(&address, "/readyz").filter(|(_, body)| says(body))).await;
    assert_eq!(code, 503);
    assert_eq!(get(&address, "/healthz").unwrap().0, 200);
    let (code, body) = get(&address, "/api/v1/status").unwrap();
    assert!(code == 200 && body.contains("\"store_answers\": false") && says(&body), "{body}");
    scene.server().restart();
    until("it is ready", async || get(&address, "/readyz").filter(|(code, _)| *code == 200)).await;
    node.signal(Signal::SIGTERM);
    node.end().await.ends(0, &[]);
}

/// etcd refuses all writes then, with the same words that it has for one which it has applied.
#[tokio::test]
async fn what_a_full_store_refuses_is_said_to_be_refused() {
    let mut scene = Scene::over_etcd().await;
    let job = "{schedule: '@at 2099-01-01T00:00:00Z', shell: 'true'}";
    scene.write("jobs.yaml", &format!("version: 1\nnamespace: shop\njobs: {{tick: {job}}}\n"));
    scene.run(&["trigger", "tick"]).ends(0, &[]);
    let store = AnyStore::open(&scene.store_url().parse().unwrap(), Clock::system()).await.unwrap();
    for number in 0..3 {
        store.commit(Txn::new().then(Op::put(format!("large/{number}"), vec![b'x'; 1 << 20]))).await.unwrap();
    }
    // It takes more than it may.
    scene.server().kill();
    scene.server().restart_with("--quota-backend-bytes", "1048576").await;
    until("it is full", async || {
        let refused = store.commit(Txn::new().then(Op::put("more", "1"))).await.err()?;
        refused.to_string().contains("is full").then_some(())
    })
    .await;
    for (asked, words) in [(&["trigger", "tick"][..], "disarm"), (&["pause", "tick"], "disarm")] {
        let ran = scene.run(asked);
        ran.ends(5, &["etcd's database is full", words, "Nothing was changed"]);
        assert!(!ran.stderr.contains("may or may not"), "{}", ran.stderr);
    }
    // From where nothing was ever seen of the store, too.
    let mut elsewhere = scene.command(&["trigger", "tick"]);
    let ran = Ran::of(elsewhere.env("FENCRON_STATE_DIR", scene.path("elsewhere")).output().unwrap());
    ran.ends(5, &["Nothing was changed"]);
    let runs: serde_json::Value = serde_json::from_str(&scene.run(&["runs", "-o", "json"]).stdout).unwrap();
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "{runs:#}");
    let jobs: serde_json::Value = serde_json::from_str(&scene.run(&["jobs", "-o", "json"]).stdout).unwrap();
    assert_eq!(jobs[0]["paused"], false);
}
