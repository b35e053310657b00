//! Whole outputs of runs, as people and programs get them.

use crate::access::ask;
use crate::{NodeProcess, Place};

/// Each run writes far more than the history has: 5,000 lines of ten bytes.
const JOBS: &str = r#"
version: 1
namespace: shop
jobs:
  long:
    schedule: "@at 2099-01-01T00:00:00Z"
    shell: seq -f %09.0f 1 5000
    output: {dir: "${OUT:-out}", max_bytes: 1MiB}
  short: {schedule: "@at 2099-01-01T00:00:00Z", command: [echo, hello]}
"#;

/// The run, once it has ended.
fn ended(place: &Place, job: &str) -> String {
    let run = place.trigger(job);
    place.wait_for_state(&run, "succeeded");
    run
}

fn all() -> String {
    (1..=5_000).map(|number| format!("{number:09}\n")).collect()
}

fn address_of(place: &Place, node: &str) -> String {
    let row = |status: &serde_json::Value| {
        let row = status["nodes"].as_array()?.iter().find(|row| row["node"] == node)?;
        row["address"].as_str().map(str::to_owned)
    };
    place.wait_for(&["status"], row)
}

#[test]
fn the_whole_output_of_a_run_is_printed_from_its_node_and_from_the_disk() {
    let place = Place::with(JOBS);
    let node = place.leader("a", &[]);
    let run = ended(&place, "long");
    assert!(place.run(&["logs", &run]).stdout().len() < 10_000, "the history has the end of it");
    assert_eq!(place.run(&["output", &run]).stdout(), all());
    assert_eq!(place.run(&["output", &run, "--dir", "out", "--namespace", "shop"]).stdout(), all());
    place.run(&["output", &run, "--attempt", "2"]).fails(1, &["the node a has no whole output", "`output.dir`"]);
    place.run(&["output", &run, "--dir", "out", "--namespace", "other"]).fails(1, &["--namespace"]);
    let short = ended(&place, "short");
    place.run(&["output", &short]).fails(1, &["the node a has no whole output"]);
    place.run(&["output", "long@2026-01-01T00:00:00Z"]).fails(1, &["there is no run"]);

    // A node that was started again has the files of before.
    drop(node);
    place.run(&["output", &run]).fails(1, &["on the node a", "fencron output --dir DIR"]);
    let node = place.leader("a", &[]);
    assert_eq!(place.run(&["output", &run]).stdout(), all());
    drop(node);
}

#[test]
fn the_whole_output_is_served_in_parts_by_every_node() {
    let place = Place::with(JOBS);
    let _first = place.leader("a", &[]);
    let run = ended(&place, "long");
    let mut second = place.command(&["run", "--node", "b", "--ttl", "2s"]);
    second.env("OUT", "elsewhere");
    let second = NodeProcess::spawn(second);
    second.wait_for("opened a session");
    let all = all();
    for node in ["a", "b"] {
        let address = address_of(&place, node);
        let part = |query: &str| ask(&address, &format!("/api/v1/runs/{run}/output?{query}"), "");
        assert_eq!(part("whole=1"), (200, all.clone()), "by {node}");
        assert_eq!(part("whole=1&attempt=1&offset=100&limit=20").1, all[100..120]);
        assert_eq!(part("whole=1&offset=49990").1, all[49_990..]);
        assert_eq!(part("whole=1&offset=70000"), (200, String::new()));
        assert!(part("whole=1&attempt=2").1.contains("/problems/no-such-output"));
        assert_eq!(part("whole=1&follow=1").0, 400);
        assert_eq!(part("limit=20").0, 400);
    }
    let page = ask(&address_of(&place, "a"), &format!("/runs/{run}?whole=0"), "").1;
    assert!(page.contains("000000001\n") && page.contains("in a file of this node"), "{page}");
    let page = ask(&address_of(&place, "a"), &format!("/runs/{run}"), "").1;
    assert!(page.contains("Load earlier") && page.contains("?whole=0#whole"), "{page}");
    let page = ask(&address_of(&place, "b"), &format!("/runs/{run}"), "").1;
    assert!(page.contains("in a file of the node"), "{page}");
}
