//! Tables on a terminal of 80 columns, which script(1) makes, and where there is none.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Place;

/// Names as people give them, and a sentence that is longer than a line.
const LONG: &str = r#"
version: 1
namespace: shop
defaults: {timezone: America/Argentina/Buenos_Aires}
jobs:
  nightly-report-of-the-shop: {schedule: "30 2 * * 1-5", shell: "exit 0"}
  import-of-orders:
    schedule: ["15 4,16 1-7 * *", "0 12 24 12 *"]
    shell: "exit 3"
  spring-forward: {schedule: "30 2 29 3 *", timezone: Europe/Berlin, shell: "true"}
"#;

const COLUMNS: usize = 80;

/// What the program writes to a terminal.
fn on_a_terminal(place: &Place, args: &str) -> String {
    let fencron = place.command(&[]);
    let program = fencron.get_program().to_str().unwrap();
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty cols {COLUMNS} rows 24; {program} {args}"), "/dev/null"]);
    for (name, value) in fencron.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let ran = script.env("SHELL", "/bin/sh").env("NO_COLOR", "1").current_dir(place.path("")).stdin(Stdio::null());
    let ran = ran.output().unwrap();
    assert!(ran.status.success(), "{args}: {ran:?}");
    String::from_utf8(ran.stdout).unwrap().replace('\r', "")
}

/// Each text of a JSON value that stands in a table; those that are sentences are left out.
fn words(value: &Value, keys: &[&str]) -> Vec<String> {
    let rows = value.as_array().unwrap().iter();
    let found = rows.flat_map(|row| keys.iter().filter_map(|key| row[*key].as_str()).map(str::to_owned));
    found.collect()
}

#[track_caller]
fn fits(shown: &str, words: &[String]) {
    for line in shown.lines() {
        assert!(line.chars().count() <= COLUMNS, "too wide: {line}\n{shown}");
    }
    assert!(!words.is_empty());
    for word in words {
        assert!(shown.lines().any(|line| line.contains(word.as_str())), "{word} is broken:\n{shown}");
    }
}

/// How long a run took, as the table writes it.
fn took(run: &Value) -> Option<String> {
    let at = |key: &str| run[key].as_str().map(|at| at.parse::<fencron::time::Wall>().unwrap());
    Some(format!("{} ms", at("finished_at")?.since(at("started_at")?).as_millis()))
}

#[test]
fn tables_fit_a_terminal_of_80_columns() {
    let place = Place::with(LONG);
    let _node = place.leader("node-7.rack-12.example.org", &[]);
    for (job, state) in [("nightly-report-of-the-shop", "succeeded"), ("import-of-orders", "failed")] {
        let run = place.trigger(job);
        place.wait_for_state(&run, state);
    }
    let runs = place.json(&["runs"]);
    let mut of_runs = words(&runs, &["run_id", "state", "node"]);
    of_runs.extend(runs.as_array().unwrap().iter().filter_map(took));
    fits(&on_a_terminal(&place, "runs"), &of_runs);
    let of_jobs =
        words(&place.json(&["jobs"]), &["name", "timezone", "next_fire", "last_verdict", "last_scheduled_at"]);
    fits(&on_a_terminal(&place, "jobs"), &of_jobs);
    let next = place.json(&["next"]);
    let mut of_next = words(&next, &["job", "timezone"]);
    of_next.extend(next.as_array().unwrap().iter().flat_map(|job| words(&job["fires"], &["scheduled_at", "local"])));
    fits(&on_a_terminal(&place, "next"), &of_next);
    fits(&on_a_terminal(&place, "locks"), &words(&place.json(&["locks"]), &["name", "holder", "since"]));
    let status = place.json(&["status"]);
    fits(&on_a_terminal(&place, "status"), &words(&status["nodes"], &["node", "started_at", "address"]));

    // For scripts each row is one line, whatever its width.
    let wide = place.run(&["runs"]).stdout();
    assert_eq!(wide.lines().count(), 1 + runs.as_array().unwrap().len(), "{wide}");
    assert!(wide.lines().any(|line| line.chars().count() > COLUMNS), "{wide}");
}
