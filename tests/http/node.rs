//! Requests of a node, as people see them: real processes on a SQLite file.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::LIMIT;
use crate::server::{Answer, Server, answer, nobody};
use crate::support::program::fencron;

const SECRET: &str = "hunter2";

/// A node that is killed when it is dropped.
struct Node {
    dir: TempDir,
    child: Child,
}

impl Node {
    fn start(jobs: &str, variables: &[(&str, String)]) -> Node {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("jobs.yaml"), jobs).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = command(&dir, &["run", "--ttl", "2s"]);
        command.env("FENCRON_LOG", "trace").envs(variables.iter().map(|(name, value)| (*name, value)));
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let node = Node { dir, child };
        node.wait("it does not lead", || node.log().contains(" leading "));
        node
    }

    fn wait(&self, else_says: &str, until: impl Fn() -> bool) {
        for _ in 0..LIMIT.as_millis() / 50 {
            if until() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("{else_says}; the log:\n{}", self.log());
    }

    /// Waits until the run of `job` has ended.
    fn ended(&self, job: &str) -> Value {
        let run = || {
            let output = command(&self.dir, &["runs", "--job", job, "-o", "json"]).output().unwrap();
            if !output.status.success() {
                eprintln!("runs: {}", String::from_utf8_lossy(&output.stderr));
            }
            let runs: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            runs.get(0).cloned().unwrap_or_default()
        };
        let open = [Value::Null, "waiting".into(), "claimed".into(), "running".into(), "retrying".into()];
        self.wait(&format!("{job} does not end"), || !open.contains(&run()["state"]));
        run()
    }

    fn trigger(&self, job: &str) {
        const UNREACHABLE: i32 = 5;
        self.wait(&format!("{job} cannot be triggered"), || {
            let ran = command(&self.dir, &["trigger", job]).output().unwrap();
            let says = String::from_utf8_lossy(&ran.stderr);
            // On a machine that is very busy, another process may hold the file for longer than is waited for it.
            assert!(ran.status.success() || ran.status.code() == Some(UNREACHABLE), "{says}");
            ran.status.success()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = fencron(dir.path());
    command.args(args);
    command
}

#[test]
fn a_node_makes_requests_and_tells_how_they_ended() {
    let server = Server::start(|request| match request.line.split(' ').nth(1).unwrap() {
        "/fenced" => answer(412, "fencing-token-seen: 1000000\r\n", ""),
        "/wrong" => answer(400, "", "no such customer"),
        "/busy" if request.header("fencron-attempt") == Some("1") => answer(503, "retry-after: 0\r\n", ""),
        "/broken" => Answer::Bytes(Vec::new()),
        _ => answer(200, "", "fine"),
    });
    let url = format!("http://{}", server.address);
    let never = "schedule: '@at 2099-01-01T00:00:00Z'";
    let node = Node::start(
        &format!(
            "version: 1\nnamespace: shop\njobs:\n\
             \x20 fine: {{{never}, http: {{url: '{url}/fine', json: {{a: [1, x]}}}}}}\n\
             \x20 wrong: {{{never}, http: {{url: '{url}/wrong', method: POST}}}}\n\
             \x20 busy: {{{never}, http: {{url: '{url}/busy'}}, retry: {{attempts: 3, backoff: {{initial: 10ms}}}}}}\n\
             \x20 broken: {{{never}, http: {{url: '{url}/broken', body: x}}, retry: {{attempts: 3}}}}\n\
             \x20 fenced: {{{never}, http: {{url: '{url}/fenced', method: PUT}}, retry: {{attempts: 3}}}}\n"
        ),
        &[],
    );
    for (job, state, attempts, reason) in [
        ("fine", "succeeded", 1, ""),
        ("wrong", "failed", 1, "was answered with 400 Bad Request, not 2xx"),
        ("busy", "succeeded", 2, ""),
        ("broken", "unknown", 1, "only the receiver knows"),
        ("fenced", "cancelled", 1, "fence"),
    ] {
        node.trigger(job);
        let run = node.ended(job);
        assert_eq!((run["state"].as_str(), run["attempt"].as_u64()), (Some(state), Some(attempts)), "{run:#}");
        assert!(run["reason"].as_str().unwrap_or_default().contains(reason), "{run:#}");
        let asked: Vec<_> = (0..attempts).map(|_| server.request()).collect();
        for request in &asked {
            assert_eq!(request.header("idempotency-key"), run["run_id"].as_str());
            assert_eq!(request.header("fencing-token"), Some(run["fence"].to_string().as_str()));
            assert_eq!(request.header("fencing-scope"), Some("shop/leader"));
        }
        match job {
            "fine" => {
                assert_eq!(run["output"], "HTTP/1.1 200 OK\nfine\n");
                assert_eq!(asked[0].body, r#"{"a":[1,"x"]}"#);
            }
            "wrong" => assert!(run["output"].as_str().unwrap().contains("no such customer")),
            _ => {}
        }
    }
    assert!(!server.was_asked());
}

#[test]
fn no_secret_of_a_request_is_shown_anywhere() {
    let server = Server::with(500, "", "");
    let never = "schedule: '@at 2099-01-01T00:00:00Z'";
    let jobs = format!(
        "version: 1\njobs:\n\
         \x20 answered: {{{never}, http: {{url: '${{URL}}', headers: {{x-key: '${{KEY}}'}}, json: {{t: '${{KEY}}'}}}}}}\n\
         \x20 refused: {{{never}, http: {{url: '${{NOBODY}}', headers: {{authorization: '${{KEY}}'}}, body: x}}}}\n\
         \x20 unknown: {{{never}, http: {{url: 'https://u:${{KEY}}@${{KEY}}.invalid/${{KEY}}'}}}}\n"
    );
    let variables = [
        ("URL", format!("http://u:{SECRET}@{}/{SECRET}?{SECRET}", server.address)),
        ("NOBODY", format!("http://u:{SECRET}@{}/{SECRET}?{SECRET}", nobody())),
        ("KEY", SECRET.to_owned()),
    ];
    let node = Node::start(&jobs, &variables);
    for job in ["answered", "refused", "unknown"] {
        node.trigger(job);
        let run = node.ended(job);
        assert_eq!(run["state"], "failed", "{run:#}");
        assert!(run["reason"].as_str().unwrap().contains(" *** "), "{run:#}");
        assert!(!run.to_string().contains(SECRET), "{run:#}");
    }
    let got = server.request();
    assert_eq!((got.header("x-key"), got.body.as_str()), (Some(SECRET), r#"{"t":"hunter2"}"#));
    let log = node.log();
    assert!(log.contains("run ended"), "the log is there");
    if let Some(line) = log.lines().find(|line| line.contains(SECRET)) {
        panic!("the log shows it: {line}");
    }
}
