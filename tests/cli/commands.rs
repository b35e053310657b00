//! Commands that look, and how they fail.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{JOBS, LIMIT, Place, Ran};

#[track_caller]
fn has_exactly(object: &Value, fields: &[&str]) {
    let mut found: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let mut wanted = fields.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}

#[test]
fn a_file_without_problems_validates_as_an_empty_array() {
    let place = Place::new();
    assert_eq!(place.json(&["validate"]), json!([]));
    let said = place.run(&["validate", "jobs.yaml"]).stdout();
    let digest = said.strip_prefix("jobs.yaml: nothing is wrong with its 5 jobs (digest ").expect(&said);
    let _node = place.leader("a", &[]);
    let running = place.json(&["status"])["nodes"][0]["config_digest"].as_str().unwrap().to_owned();
    assert_eq!(digest, format!("{running})\n"), "it is the one that the nodes show");
}

#[test]
fn every_problem_of_a_file_is_told_with_its_place_and_exit_2() {
    let place =
        Place::with("version: 1\njobs:\n  a: {schedule: '@hourly', comand: [x]}\n  b: {schedule: nope, shell: x}\n");
    let ran = place.run(&["validate", "-o", "json"]);
    ran.fails(2, &["jobs.yaml has 2 problems"]);
    let problems: Value = serde_json::from_str(&ran.stdout()).unwrap();
    has_exactly(&problems[0], &["line", "column", "path", "message"]);
    assert_eq!(problems[0]["line"], 3);
    assert!(place.run(&["validate"]).stdout().contains("did you mean `command`?"));
}

#[test]
fn a_wrong_file_keeps_a_node_from_starting() {
    let place = Place::with("version: 1\njobs: 3\n");
    place.run(&["run"]).fails(2, &["jobs.yaml:2:7"]);
    assert!(!place.path(".fencron").exists(), "nothing was touched");
}

#[test]
fn a_file_that_is_not_there_is_wrong_usage() {
    let place = Place::new();
    for command in ["run", "validate", "next"] {
        place.run(&[command, "none.yaml"]).fails(2, &["cannot read none.yaml", "fencron run jobs.example.yaml"]);
    }
}

#[test]
fn options_take_the_durations_of_the_file_and_no_other_unit() {
    let place = Place::new();
    for option in [
        &["run", "--ttl", "5M"][..],
        &["run", "--shutdown-grace", "1y"],
        &["lock", "a", "--wait", "5S", "--", "true"],
        &["lock", "a", "--max-hold", "2days", "--", "true"],
        &["once", "a", "--timeout", "1month", "--", "true"],
        &["trigger", "a", "--wait", "--timeout", "5M"],
    ] {
        place
            .run(option)
            .fails(2, &["it has an unknown unit: the units are `ms`, `s`, `m` (minutes), `h`, `d` and `w`"]);
    }
}

#[test]
fn next_tells_utc_and_local_time_and_what_the_clocks_do() {
    let zone = "{schedule: '30 2 * * *', timezone: Europe/Berlin, shell: x}";
    let place =
        Place::with(&format!("version: 1\njobs:\n  a: {zone}\n  b: {{after: {{job: a, on: end}}, shell: x}}\n"));
    let next = place.json(&["next", "jobs.yaml", "--count", "2", "--from", "2026-03-28T01:30:00Z"]);
    let note = "02:30 does not exist (clocks go forward from 02:00 to 03:00): fires right after the gap";
    let expected = json!([
        {"job": "a", "timezone": "Europe/Berlin", "fires": [
            {"scheduled_at": "2026-03-29T01:00:00Z", "local": "2026-03-29T03:00:00+02:00", "note": note},
            {"scheduled_at": "2026-03-30T00:30:00Z", "local": "2026-03-30T02:30:00+02:00", "note": null},
        ]},
        {"job": "b", "timezone": null, "fires": [], "after": "a (end)"},
    ]);
    assert_eq!(next, expected);
    place.run(&["next", "--job", "bb"]).fails(1, &["the file has no job `bb`"]);
    place.run(&["next", "--job", "daly", "--from", "yesterday"]).fails(2, &["is not an instant"]);
}

#[test]
fn schema_and_completions_are_printed() {
    let place = Place::new();
    let schema: Value = serde_json::from_str(&place.run(&["schema"]).stdout()).unwrap();
    assert_eq!(schema["title"], "fencron jobs.yaml");
    assert!(place.run(&["completions", "bash"]).stdout().contains("step-down"));
}

#[test]
fn a_store_that_nobody_has_used_is_not_made_by_looking_at_it() {
    let place = Place::new();
    place.run(&["status"]).fails(5, &["there is no store sqlite:.fencron/state.db", "--store"]);
    assert!(!place.path(".fencron").exists());
}

#[test]
fn a_store_that_does_not_answer_is_exit_5_and_its_password_is_not_told() {
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("etcd://me:s3cret@127.0.0.1:{port}");
    let place = Place::new();
    for args in [vec!["status"], vec!["runs"], vec!["trigger", "fine"]] {
        let ran = place.run(&[args, vec!["--store", &url]].concat());
        ran.fails(5, &[&format!("etcd://127.0.0.1:{port}"), "etcdctl endpoint health"]);
        assert!(!ran.stderr().contains("s3cret"));
    }
}

#[test]
fn a_file_that_cannot_be_made_is_exit_5() {
    let place = Place::new();
    place
        .run(&["run", "--store", "sqlite:/dev/null/state.db"])
        .fails(5, &["cannot use the store sqlite:/dev/null/state.db"]);
}

#[test]
fn a_url_that_is_no_store_is_wrong_usage_and_its_password_is_not_told() {
    let ran = Place::new().run(&["status", "--store", "redis://me:s3cret@host"]);
    ran.fails(2, &["FENCRON_STORE", "`redis:`"]);
    assert!(!ran.stderr().contains("s3cret"));
    Place::new().run(&["status", "--store", "memory:"]).fails(2, &["a store of one process"]);
}

#[test]
fn options_come_from_the_environment_and_arguments_win() {
    let place = Place::new();
    let _node = place.leader("a", &["--store", "sqlite:other.db"]);
    let status = |args: &[&str]| {
        let mut command = place.command(&[&["status"], args].concat());
        command.env("FENCRON_STORE", "sqlite:other.db").env("FENCRON_OUTPUT", "json").output().unwrap()
    };
    let shown: Value = serde_json::from_slice(&status(&[]).stdout).unwrap();
    assert_eq!(shown["leader"]["node"], "a");
    assert_eq!(status(&["--store", "sqlite:none.db"]).status.code(), Some(5));
}

#[test]
fn the_option_names_the_namespace_before_the_file_does() {
    let place = Place::new();
    let _node = place.leader("a", &["--namespace", "other"]);
    assert_eq!(place.json(&["status"])["namespace"], "other", "the only one in the store");
    let _second = place.leader("b", &[]);
    place.run(&["status"]).fails(2, &["several namespaces", "other, shop"]);
    assert_eq!(place.json(&["status", "--namespace", "shop"])["leader"]["node"], "b");
}

#[test]
fn status_runs_and_jobs_keep_their_shapes() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let run = place.trigger("fine");
    place.wait_for_state(&run, "succeeded");

    let status = place.json(&["status"]);
    has_exactly(
        &status,
        &["namespace", "leader", "nodes", "waiting", "store", "watermark", "paused", "obstacles", "unknown", "failing"],
    );
    has_exactly(&status["leader"], &["node", "fence", "since", "address", "last_sign_ms"]);
    let node = &status["nodes"][0];
    has_exactly(
        node,
        &["node", "version", "config_digest", "started_at", "address", "leader", "last_sign_ms", "drained"],
    );
    assert_eq!(
        (&node["node"], &node["leader"], &status["store"]["kind"]),
        (&json!("a"), &json!(true), &json!("sqlite"))
    );
    assert_eq!(status["store"]["healthy"], true);

    let row = place.json(&["runs", "--job", "fine"])[0].clone();
    has_exactly(
        &row,
        &[
            "run_id",
            "job",
            "scheduled_at",
            "state",
            "reason",
            "code",
            "fence",
            "node",
            "attempt",
            "claimed_at",
            "started_at",
            "finished_at",
            "lateness_ms",
            "exit_code",
            "output",
        ],
    );
    assert_eq!((&row["output"], &row["exit_code"], &row["node"]), (&json!("hello\n"), &json!(0), &json!("a")));

    let jobs = place.json(&["jobs"]);
    let names: Vec<&Value> = jobs.as_array().unwrap().iter().map(|job| &job["name"]).collect();
    assert_eq!(names, ["daily", "fine", "follower", "lasting", "wrong"]);
    assert_eq!((&jobs[0]["schedule"], &jobs[1]["last_verdict"]), (&json!("0 0 * * *"), &json!("succeeded")));
    assert_eq!(jobs[2]["schedule"], "after fine (success)");
}

#[test]
fn tables_and_yaml_show_the_same() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let run = place.trigger("fine");
    place.wait_for_state(&run, "succeeded");
    assert!(place.run(&["runs"]).stdout().contains(&run));
    assert!(place.run(&["status"]).stdout().contains("leader     a, fence "));
    assert!(place.run(&["runs", "-o", "yaml"]).stdout().contains(&format!("- run_id: {run}\n")));
}

#[test]
fn runs_are_found_by_state_and_job() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let (fine, wrong) = (place.trigger("fine"), place.trigger("wrong"));
    place.wait_for_state(&fine, "succeeded");
    place.wait_for_state(&wrong, "failed");
    assert_eq!(place.json(&["status"])["failing"], json!({"count": 1, "jobs": ["wrong"]}));
    let status = place.run(&["status"]).stdout();
    assert!(status.contains("!          1 job fails (see `fencron runs --job JOB`): wrong\n"), "{status}");
    let failed = place.json(&["runs", "--state", "failed"]);
    assert_eq!((failed.as_array().unwrap().len(), &failed[0]["run_id"]), (1, &json!(wrong)));
    assert_eq!(place.json(&["runs", "--limit", "1"]).as_array().unwrap().len(), 1);
    place.run(&["runs", "--job", "fin"]).fails(1, &["did you mean `fine`?"]);
    place.run(&["runs", "--state", "bogus"]).fails(2, &["timed_out"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let mut child = place.command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

pub fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_listener_tells_health_readiness_and_status() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let address = place.json(&["status"])["leader"]["address"].as_str().unwrap().to_owned();
    assert!(get(&address, "/healthz").starts_with("HTTP/1.0 200"));
    let ready = get(&address, "/readyz");
    assert!(ready.starts_with("HTTP/1.0 200") && ready.contains("\"role\": \"leader\""), "{ready}");
    assert!(get(&address, "/api/v1/status").contains("\"namespace\": \"shop\""));
    assert!(get(&address, "/api/v1/runs/nonsense/output").starts_with("HTTP/1.0 400"));
    assert!(get(&address, "/api/v1/runs/fine@2026-01-01T00:00:00Z/output").starts_with("HTTP/1.0 404"));
    assert!(get(&address, "/nothing").starts_with("HTTP/1.0 404"));
}

#[test]
fn health_is_what_the_node_itself_says() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    let address = place.json(&["status"])["leader"]["address"].as_str().unwrap().to_owned();
    assert_eq!(place.run(&["health", "--listen", &address]).stdout(), "ok\n");
    let ready = format!("http://{address}/readyz");
    assert!(place.run(&["health", &ready]).stdout().contains("\"ready\": true"));
    place.run(&["health", &format!("http://{address}/nothing")]).fails(1, &["answers 404"]);
    drop(node);
    place.run(&["health", "--listen", &address]).fails(1, &[&address, "cannot be reached"]);
    place.run(&["health", "ftp://a"]).fails(2, &["http://127.0.0.1:8080/readyz"]);
}

/// Whatever the port is: each node listens on any free one.
#[test]
fn health_finds_the_node_that_runs_here() {
    let place = Place::new();
    let mut node = place.leader("a", &["--listen", "0.0.0.0:0"]);
    assert_eq!(place.run(&["health"]).stdout(), "ok\n");
    assert_eq!(place.run(&["health", "--listen", "127.0.0.1:0"]).stdout(), "ok\n");
    assert_eq!(place.run(&["health", "--store", "sqlite:.fencron/state.db", "--node", "a"]).stdout(), "ok\n");
    place.run(&["health", "--node", "b"]).fails(1, &["no such node runs here, but a of shop"]);
    // A node that runs and does not answer is not well, though another one is.
    let second = place.node("b", &[]);
    place.run(&["health"]).fails(2, &["a of shop (0.0.0.0:", "b of shop (127.0.0.1:", "--node"]);
    node.signal(Signal::SIGSTOP);
    place.run(&["health", "--node", "a"]).fails(1, &["does not answer"]);
    assert_eq!(place.run(&["health", "--node", "b"]).stdout(), "ok\n");
    node.signal(Signal::SIGCONT);
    node.signal(Signal::SIGTERM);
    assert!(node.ended().success());
    // One that was killed takes nothing away with it.
    assert_eq!(place.run(&["health"]).stdout(), "ok\n");
    drop(second);
    let elsewhere = place.path("elsewhere");
    for directory in [place.path("state"), elsewhere] {
        let mut command = place.command(&["health", "--listen", "127.0.0.1:0"]);
        let ran = Ran(command.env("FENCRON_STATE_DIR", directory).output().unwrap());
        ran.fails(1, &["this user runs no node here"]);
    }
}

#[test]
fn the_last_verdicts_of_many_jobs_are_shown() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let run = place.trigger("fine");
    place.wait_for_state(&run, "succeeded");
    let many = |n: usize| format!("  job-{n}: {{schedule: '@at 2099-01-01T00:00:00Z', command: ['true']}}\n");
    place.write("many.yaml", &(JOBS.to_owned() + &(0..1000).map(many).collect::<String>()));
    let jobs = place.json(&["jobs", "--file", "many.yaml"]);
    let fine = jobs.as_array().unwrap().iter().find(|job| job["name"] == "fine").unwrap();
    assert_eq!((jobs.as_array().unwrap().len(), &fine["last_verdict"]), (1005, &json!("succeeded")));
    assert_eq!((&fine["bad_in_a_row"], &fine["last_code"]), (&json!(0), &json!(null)));
    let one = place.json(&["jobs", "--file", "many.yaml", "--job", "fine"]);
    assert_eq!((one.as_array().unwrap().len(), &one[0]["last_verdict"]), (1, &json!("succeeded")));
    place.run(&["jobs", "--job", "fin"]).fails(1, &["did you mean `fine`?"]);
}

#[test]
fn a_client_that_sends_no_request_is_hung_up_on() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let address = place.json(&["status"])["leader"]["address"].as_str().unwrap().to_owned();
    let mut idle: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(&address).unwrap()).collect();
    idle[0].write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    // It is answered once those before it are gone, and not before.
    assert!(get(&address, "/healthz").starts_with("HTTP/1.0 200"));
    idle[0].set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(idle[0].read(&mut [0; 1]).ok(), Some(0));
}

#[test]
fn what_a_guarded_command_writes_and_cannot_be_written_is_an_error() {
    let place = Place::new();
    let args = ["guard", "exec", "machine", "--state", "sqlite:guard.db", "--fence", "1", "--scope", "shop/leader"];
    let command = ["--key", "k", "--", "sh", "-c", "echo x >> effects; echo hello"];
    for _ in 0..2 {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ran = place.command(&[&args[..], &command].concat()).stdout(full).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{said}");
        assert!(said.contains("what it wrote could not be written"), "{said}");
        assert_eq!(std::fs::read_to_string(place.path("effects")).unwrap(), "x\n", "it is kept, and not run again");
    }
    let ran = place.run(&[&args[..], &command].concat());
    assert_eq!((ran.code(), ran.stdout().as_str()), (0, "hello\n"));
}
