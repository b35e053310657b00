//! The HTTP API of real nodes: runs, and what they write, here and on another node.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::{LIMIT, Place};

/// Jobs that write, one of them until it may end.
const JOBS: &str = r#"
version: 1
namespace: shop
defaults: {kill_after: 1s}
jobs:
  fine: {schedule: "@at 2099-01-01T00:00:00Z", shell: 'printf "one\rtwo\n"'}
  wrong: {schedule: "@at 2099-01-01T00:00:00Z", shell: "echo oops; exit 3"}
  lasting:
    schedule: "@at 2099-01-01T00:00:00Z"
    shell: "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done"
  again:
    schedule: "@at 2099-01-01T00:00:00Z"
    shell: "echo attempt $FENCRON_ATTEMPT; while [ ! -e go$FENCRON_ATTEMPT ]; do sleep 0.05; done; [ -e go2 ]"
    retry: {attempts: 3, backoff: {initial: 10ms, max: 10ms}}
"#;

/// An answer that has been begun.
struct Answer {
    head: String,
    body: String,
    stream: TcpStream,
}

fn begin(address: &str, path: &str, headers: &[&str]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    // Without chunks, so that what is read is what was written.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n").unwrap();
    let mut answer = Answer { head: String::new(), body: String::new(), stream };
    answer.read_until("\r\n\r\n");
    let (head, body) = answer.body.split_once("\r\n\r\n").unwrap();
    (answer.head, answer.body) = (head.to_ascii_lowercase(), body.to_owned());
    answer
}

impl Answer {
    fn read_until(&mut self, text: &str) {
        let mut piece = [0; 4096];
        while !self.body.contains(text) {
            let length = self.stream.read(&mut piece).unwrap();
            assert!(length > 0, "`{text}` never came: {}", self.body);
            self.body += &String::from_utf8_lossy(&piece[..length]);
        }
    }

    fn whole(mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).unwrap();
        self.body + &rest
    }
}

fn get(address: &str, path: &str) -> Value {
    let answer = begin(address, path, &[]);
    let head = answer.head.clone();
    let body = answer.whole();
    assert!(head.starts_with("http/1.0 200"), "{path}: {head} {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn address_of(place: &Place, node: &str) -> String {
    place.wait_for(&["status"], |status| {
        let node = status["nodes"].as_array()?.iter().find(|row| row["node"] == node)?.clone();
        node["address"].as_str().map(str::to_owned)
    })
}

const EVENTS: &str = "Accept: text/event-stream";

#[test]
fn runs_are_listed_in_pages_and_read_one_by_one() {
    let place = Place::with(JOBS);
    let _node = place.leader("a", &[]);
    let address = address_of(&place, "a");
    for (job, state) in [("fine", "succeeded"), ("wrong", "failed"), ("fine", "succeeded")] {
        let run = place.trigger(job);
        place.wait_for_state(&run, state);
    }
    let page = get(&address, "/api/v1/runs?limit=2");
    let listed = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|run| run["job"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&page), ["fine", "wrong"], "the last one first");
    assert!(page["items"][1]["output"] == "" && page["items"][1]["exit_code"] == 3, "{page:#}");
    let next = page["next"].as_str().unwrap();
    let page = get(&address, &format!("/api/v1/runs?limit=2&after={next}"));
    assert_eq!((listed(&page), &page["next"]), (vec!["fine".to_owned()], &Value::Null));
    assert_eq!(listed(&get(&address, "/api/v1/runs?state=failed")), ["wrong"]);
    assert_eq!(listed(&get(&address, "/api/v1/jobs/fine/runs?since=2026-01-01T00:00:00Z")), ["fine", "fine"]);
    assert_eq!(listed(&get(&address, "/api/v1/runs?until=2026-01-01T00:00:00Z")), Vec::<String>::new());

    let run = get(&address, "/api/v1/runs?state=failed")["items"][0]["run_id"].as_str().unwrap().to_owned();
    let one = begin(&address, &format!("/api/v1/runs/{run}"), &[]);
    let tag = one.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert!(!tag.starts_with("w/"), "{tag}");
    assert!(one.whole().contains("\"output\": \"oops\\n\""));
    let again = begin(&address, &format!("/api/v1/runs/{run}"), &[&format!("If-None-Match: {tag}")]);
    assert!(again.head.starts_with("http/1.0 304"), "{}", again.head);
    // What the command prints and what the node answers are of one shape.
    let printed = &place.json(&["runs", "--state", "failed"])[0];
    assert_eq!(&get(&address, &format!("/api/v1/runs/{run}")), printed);
    let printed = place.json(&["jobs", "--job", "fine"])[0].as_object().unwrap().clone();
    let answered = get(&address, "/api/v1/jobs/fine");
    for member in printed.keys() {
        assert!(
            answered.get(member).is_some(),
            "/api/v1/jobs has no `{member}`, and `fencron jobs` does: {answered:#}"
        );
    }
    assert_eq!(get(&address, "/api/v1/locks?all=1")["items"], place.json(&["locks", "--all"]));
    let status = get(&address, "/api/v1/status");
    for member in place.json(&["status"]).as_object().unwrap().keys() {
        assert!(
            status.get(member).is_some(),
            "/api/v1/status has no `{member}`, and `fencron status` does: {status:#}"
        );
    }
    assert_eq!((&status["store_answers"], &status["leader"]["node"]), (&true.into(), &"a".into()));
    assert_eq!(get(&address, "/api/v1/store")["kind"], "sqlite");
    let terms = get(&address, "/api/v1/terms");
    assert_eq!((&terms["items"][0]["node"], &terms["items"][0]["fence"]), (&"a".into(), &status["leader"]["fence"]));
    assert_eq!(terms["items"][0]["end"], Value::Null, "it goes on");
}

#[test]
fn output_is_followed_as_events_over_all_attempts_to_the_verdict() {
    let place = Place::with(JOBS);
    let _node = place.leader("a", &[]);
    let address = address_of(&place, "a");
    let run = place.trigger("again");
    let path = format!("/api/v1/runs/{run}/output");
    let mut events = begin(&address, &path, &[EVENTS]);
    assert!(events.head.contains("text/event-stream"), "{}", events.head);
    events.read_until("data: attempt 1\n");
    // What an open run waits for changes without its record, so its tag is of the answer.
    let head = begin(&address, &format!("/api/v1/runs/{run}"), &[]).head;
    assert!(head.contains("\netag: w/"), "{head}");
    place.write("go1", "");
    events.read_until("data: 2\nevent: attempt\n");
    events.read_until("data: attempt 2\n");
    place.write("go2", "");
    let text = events.whole();
    assert!(text.starts_with("retry: 1000\n"), "{text}");
    assert!(text.contains("data: attempt 1\ndata: \nid: 1.10\n"), "{text}");
    let (before, _) = text.split_once("\nevent: end\n").unwrap();
    let end: Value = serde_json::from_str(before.lines().last().unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&end["run_id"], &end["state"]), (&run.as_str().into(), &"succeeded".into()));
    // It has ended: what is kept comes, and its end.
    let text = begin(&address, &path, &[EVENTS]).whole();
    assert!(text.contains("data: … attempt 1:\n") && text.contains("event: end\n"), "{text}");
    let text = begin(&address, &path, &[EVENTS, "Last-Event-ID: 1.10"]).whole();
    assert!(text.contains("event: gap\n") && text.contains("event: end\n"), "{text}");
    let wrong = begin(&address, &path, &[EVENTS, "Last-Event-ID: x"]);
    assert!(wrong.head.starts_with("http/1.0 400"), "{}", wrong.head);

    // A carriage return arrives as what a terminal takes for it.
    let run = place.trigger("fine");
    place.wait_for_state(&run, "succeeded");
    let text = begin(&address, &format!("/api/v1/runs/{run}/output"), &[EVENTS]).whole();
    assert!(text.contains("data: one\u{1b}[Gtwo\n"), "{text:?}");
    assert_eq!(begin(&address, &format!("/api/v1/runs/{run}/output?offset=4"), &[]).whole(), "two\n");
}

#[test]
fn what_ended_in_an_hour_is_known_to_the_next_leader() {
    let place = Place::with(JOBS);
    let mut first = place.leader("a", &[]);
    let run = place.trigger("fine");
    place.wait_for_state(&run, "succeeded");
    first.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(first.ended().code(), Some(0));
    let _second = place.leader("b", &[]);
    let address = address_of(&place, "b");
    let counted = || {
        let stats = get(&address, "/api/v1/stats");
        let rows = stats["items"].as_array().unwrap().clone();
        let sum = |of: &str, member: &str| rows.iter().map(|row| row[of][member].as_u64().unwrap_or(0)).sum::<u64>();
        (sum("runs", "succeeded"), sum("runs", "failed"), sum("lateness", "count"))
    };
    assert_eq!(counted(), (1, 0, 1));
    let status = place.run(&["status"]).stdout();
    assert!(status.contains("\nlast 24h   1 succeeded; the one run started within "), "{status}");
    let page = begin(&address, "/", &["Accept: text/html"]).whole();
    assert!(page.contains("The last 24 hours") && page.contains("runs --state succeeded"), "{page}");
    assert_eq!(get(&address, "/api/v1/stats?until=2026-01-01T00:00:00Z")["items"], serde_json::json!([]));
    let backwards = "/api/v1/stats?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z";
    let refused = begin(&address, backwards, &[]);
    assert!(refused.head.starts_with("http/1.0 400"), "{}", refused.head);
    assert!(refused.whole().contains("since: an instant that is not after"));
}

#[test]
fn output_of_another_node_is_read_through_any_node() {
    let place = Place::with(JOBS);
    let leader = place.leader("a", &[]);
    let _follower = place.node("b", &[]);
    let (of_leader, address) = (address_of(&place, "a"), address_of(&place, "b"));
    let run = place.trigger("lasting");
    place.wait_for_state(&run, "running");
    let path = format!("/api/v1/runs/{run}/output");
    // The other node hears of it a moment later.
    let mut so_far = begin(&address, &path, &[]);
    for _ in 0..LIMIT.as_millis() / 100 {
        if so_far.head.starts_with("http/1.0 200") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        so_far = begin(&address, &path, &[]);
    }
    assert!(so_far.head.contains("fencron-offset: 0") && !so_far.head.contains("fencron-partial"), "{}", so_far.head);
    assert_eq!(so_far.whole(), "begun\n");
    assert_eq!(begin(&address, &format!("{path}?offset=3"), &[]).whole(), "un\n");
    let mut events = begin(&address, &path, &[EVENTS]);
    events.read_until("data: begun\n");
    let resumed = begin(&address, &path, &[EVENTS, "Last-Event-ID: 1.6"]);
    // What was passed on already is not passed on again: to this node it is as if no other one were there.
    let relayed = begin(&address, &path, &["Fencron-Relayed: 1"]);
    assert!(relayed.head.starts_with("http/1.0 409"), "{}", relayed.head);
    place.write("go", "");
    let text = events.whole();
    assert!(text.contains("data: done\n") && text.contains("event: end\n") && text.contains("succeeded"), "{text}");
    let text = resumed.whole();
    assert!(!text.contains("begun") && text.contains("data: done\n") && text.contains("event: end\n"), "{text}");
    assert_eq!(begin(&of_leader, &path, &[]).whole(), "begun\ndone\n");

    // A node that stands still cannot be asked: the answer says that it is not all.
    std::fs::remove_file(place.path("go")).unwrap();
    let run = place.trigger("lasting");
    place.wait_for_state(&run, "running");
    leader.signal(nix::sys::signal::Signal::SIGSTOP);
    let path = format!("/api/v1/runs/{run}/output");
    let answer = begin(&address, &path, &[]);
    let (head, body) = (answer.head.clone(), answer.whole());
    leader.signal(nix::sys::signal::Signal::SIGCONT);
    // Its lease may have ended meanwhile, and then the run is in doubt and has ended.
    assert!(head.contains("fencron-partial: true") || head.starts_with("http/1.0 200"), "{head}");
    assert_eq!(body, "");
}
