//! What follows what: jobs after jobs, and what was missed before what is due now.

use std::time::Duration;

use fencron::time::{Clock, Wall};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::program::other_clock;
use crate::{NodeProcess, Place};

/// How many seconds of schedules are missed, and with them as many occurrences of a job that is due each second.
const MISSED: u64 = 8;

#[test]
fn a_job_is_told_what_it_follows_in_each_attempt_and_by_parameters() {
    let place = Place::with(
        r#"
version: 1
namespace: shop
jobs:
  import: {schedule: "@at 2099-01-01T00:00:00Z", shell: "exit 3"}
  repair:
    after: {job: import, on: failure}
    retry: {attempts: 2, backoff: {initial: 10ms}}
    shell: |
      echo "$FENCRON_AFTER_JOB $FENCRON_AFTER_RUN_ID $FENCRON_AFTER_VERDICT $FENCRON_AFTER_REASON $FENCRON_AFTER_EXIT_CODE"
      test "$FENCRON_ATTEMPT" = 2
  note:
    after: {job: import, on: failure}
    sql:
      database: sqlite:notes.db
      statement: >-
        SELECT :after_job || ' ' || :after_run_id || ' ' || :after_verdict || ' ' || :after_reason || ' ' ||
        (:after_exit_code + 1) AS told
  first: {schedule: "@at 2099-01-01T00:00:00Z", shell: "env | grep -c FENCRON_AFTER || true"}
"#,
    );
    let _node = place.leader("a", &[]);
    let import = place.trigger("import");
    // A job that follows is not known before its first run, so it is not asked for by name.
    let of = |job: &str| {
        let run = import.replacen("import", job, 1);
        place.wait_for(&["runs"], |runs| {
            runs.as_array()?.iter().find(|row| row["run_id"] == run && row["state"] == "succeeded").cloned()
        })
    };
    let told = format!("import {import} failed exit code 3");
    let repair = of("repair");
    assert_eq!(repair["attempt"], 2);
    let output = repair["output"].as_str().unwrap();
    assert_eq!(output.matches(&format!("{told} 3\n")).count(), 2, "in each attempt: {output}");
    let note = of("note");
    assert!(note["output"].as_str().unwrap().contains(&format!("{told} 4")), "{note:#}");
    let first = place.trigger("first");
    assert_eq!(place.wait_for_state(&first, "succeeded")["output"], "0\n");
}

fn instant(row: &Value, field: &str) -> Wall {
    row[field].as_str().unwrap_or_else(|| panic!("{field} of {row:#}")).parse().unwrap()
}

/// The runs of a job that have ended, the earliest occurrence first.
fn ended(runs: &Value) -> Vec<Value> {
    let mut rows: Vec<Value> =
        runs.as_array().unwrap().iter().filter(|row| !row["finished_at"].is_null()).cloned().collect();
    rows.sort_by_key(|row| instant(row, "scheduled_at"));
    rows
}

#[test]
fn missed_ones_are_made_up_for_at_no_cost_of_what_is_due_now() {
    let place = Place::with(
        r#"
version: 1
namespace: shop
jobs:
  queue: {schedule: "@every 1s", shell: "sleep 0.1", overlap: queue, missed: {run: all, limit: 100}}
  skip: {schedule: "@every 1s", shell: "sleep 0.1", missed: {run: all, limit: 100}}
"#,
    );
    // One whose clock is behind: what comes due until the present is missed, once it has stopped.
    let mut command = place.command(&["run", "--node", "a", "--ttl", "2s"]);
    command.envs(other_clock()).env("FAKETIME", format!("-{MISSED}s"));
    let mut node = NodeProcess::spawn(command);
    node.wait_for(" leading ");
    let some = |runs: &Value| (!ended(runs).is_empty()).then_some(());
    place.wait_for(&["runs", "--job", "queue"], some);
    place.wait_for(&["runs", "--job", "skip"], some);
    node.signal(Signal::SIGTERM);
    node.ended();
    let back = Clock::system().wall();
    let _node = place.leader("a", &[]);
    for job in ["queue", "skip"] {
        // Until some that came due well after the missed ones have run as well.
        let rows = place.wait_for(&["runs", "--job", job, "--limit", "200"], |runs| {
            let rows = ended(runs);
            let later =
                rows.iter().filter(|row| instant(row, "scheduled_at") > back.plus(Duration::from_secs(6))).count();
            (later >= 2).then_some(rows)
        });
        let missed: Vec<&Value> =
            rows.iter().filter(|row| row["lateness_ms"].as_u64().is_some_and(|ms| ms >= 2_000)).collect();
        assert!(missed.len() >= 4, "{job} missed too little: {rows:#?}");
        let made_up_for = missed.iter().map(|row| instant(row, "finished_at")).max().unwrap();
        let concerned: Vec<&Value> = rows.iter().filter(|row| instant(row, "scheduled_at") < made_up_for).collect();
        for row in &concerned {
            assert_eq!(row["state"], "succeeded", "{job}: {row:#}");
        }
        for pair in concerned.windows(2) {
            let gap = instant(pair[1], "scheduled_at").since(instant(pair[0], "scheduled_at"));
            assert_eq!(gap.as_secs(), 1, "{job}: one is lost between {:#} and {:#}", pair[0], pair[1]);
            if job == "queue" {
                let in_order = instant(pair[0], "finished_at") <= instant(pair[1], "started_at");
                assert!(in_order, "{:#} began before {:#} had ended", pair[1], pair[0]);
            }
        }
    }
}
