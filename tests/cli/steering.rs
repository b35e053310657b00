//! Commands that change something.

use std::io::Read;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::commands::get;
use crate::{JOBS, NodeProcess, Place, lines_of};

#[test]
fn trigger_wait_exits_as_the_run_ended() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    place.run(&["trigger", "fine", "--wait"]).fails(0, &["succeeded"]);
    place.run(&["trigger", "wrong", "--wait"]).fails(1, &["failed: exit code 3"]);
    place.run(&["trigger", "lasting", "--wait", "--timeout", "10ms"]).fails(6, &["has not ended in 10ms", "logs -f"]);
}

#[test]
fn a_parameter_reaches_the_command_and_is_refused_where_it_is_none() {
    let place = Place::with(&JOBS.replace("echo $FENCRON_SCHEDULED_AT", "echo $FENCRON_PARAM_REGION $FENCRON_PARAM_N"));
    let _node = place.leader("a", &[]);
    let run = place.json(&["trigger", "daily", "--param", "region=a=b c", "--param", "n=1", "--wait"]);
    assert_eq!(place.run(&["logs", run["run_id"].as_str().unwrap()]).stdout(), "a=b c 1\n");
    for (params, says) in [
        (["--param", "region"], "NAME=VALUE"),
        (["--param", "Region=eu"], "small letters"),
        (["--param=a=1", "--param=a=2"], "given twice"),
    ] {
        place.run(&[&["trigger", "daily"], &params[..]].concat()).fails(2, &[says]);
    }
}

#[test]
fn what_is_asked_for_before_the_first_node_runs_once_there_is_one() {
    let place = Place::new();
    place.write("other.yaml", &JOBS.replace("namespace: shop", "namespace: other"));
    let mut other = place.leader("o", &["other.yaml"]);
    other.signal(Signal::SIGTERM);
    other.ended();

    let run = place.json(&["trigger", "fine", "--file", "jobs.yaml"])["run_id"].as_str().unwrap().to_owned();
    assert_eq!(place.run(&["pause", "daily", "--file", "jobs.yaml"]).code(), 0);
    let _node = place.leader("a", &[]);
    let ended = |runs: &Value| {
        runs.as_array()?.iter().any(|row| row["run_id"] == run && row["state"] == "succeeded").then_some(())
    };
    place.wait_for(&["runs", "--namespace", "shop"], ended);
}

#[test]
fn a_job_that_is_not_there_is_named_with_the_nearest() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    for command in ["trigger", "pause", "resume"] {
        place.run(&[command, "dayly"]).fails(1, &["no job `dayly` in the namespace shop", "did you mean `daily`?"]);
    }
    let days = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"];
    place.run(&[&["backfill", "dayly"], &days[..]].concat()).fails(1, &["did you mean `daily`?"]);
    place.run(&["trigger", "a job"]).fails(2, &["is not a name"]);
}

#[test]
fn a_job_that_follows_another_can_be_triggered_by_itself() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    place.run(&["trigger", "follower", "--wait"]).fails(0, &["succeeded"]);
}

#[test]
fn a_paused_job_is_skipped_until_it_is_resumed() {
    let place = Place::with("version: 1\nnamespace: shop\njobs:\n  tick: {schedule: '@every 1s', command: ['true']}\n");
    let _node = place.leader("a", &[]);
    place.run(&["pause", "tick"]).fails(0, &["is paused"]);
    place.run(&["pause", "tick"]).fails(0, &["is paused already"]);
    let skipped =
        |runs: &Value| runs[0]["reason"].as_str().filter(|reason| reason.contains("paused")).map(str::to_owned);
    place.wait_for(&["runs", "--state", "skipped", "--limit", "1"], skipped);
    assert_eq!(place.json(&["jobs"])[0]["paused"], true);
    let status = place.json(&["status"]);
    assert_eq!((&status["paused"], &status["pauses"][0]["job"]), (&json!(["tick"]), &json!("tick")));
    let status = place.run(&["status"]).stdout();
    assert!(status.contains("\npaused     tick by ") && status.contains("until `fencron resume tick`"), "{status}");
    let skipped = place.json(&["runs", "--state", "skipped"])[0]["run_id"].as_str().unwrap().to_owned();
    place.run(&["logs", &skipped]).fails(0, &["It never started: ", "paused"]);
    place.run(&["resume", "tick"]).fails(0, &["is resumed"]);
    place.wait_for(&["runs", "--limit", "1"], |runs| (runs[0]["state"] == "succeeded").then_some(()));
    place.run(&["resume", "tick"]).fails(0, &["is not paused"]);
}

#[test]
fn a_wrong_file_that_nobody_named_does_not_keep_a_job_from_being_paused() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    place.write("jobs.yaml", "nonsense");
    place.run(&["pause", "daily"]).fails(0, &["wrong and left aside", "daily is paused"]);
    place.run(&["pause", "daily", "--file", "jobs.yaml"]).fails(2, &["jobs.yaml:1:1"]);
}

#[test]
fn a_running_run_is_cancelled() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    place.run(&["cancel", &run]).fails(0, &["asked for"]);
    let row = place.wait_for_state(&run, "cancelled");
    assert!(row["reason"].as_str().unwrap().starts_with("cancelled by request, of "), "{row}");
    assert_eq!(row["output"], "begun\n");
    place.run(&["cancel", &run]).fails(1, &["has ended already: cancelled"]);
    place.run(&["cancel", "fine@2026-01-01T00:00:00Z"]).fails(1, &["there is no run", "fencron runs"]);
    place.run(&["cancel", "fine"]).fails(2, &["is not a run"]);
}

#[test]
fn a_run_whose_node_was_killed_is_in_doubt_until_it_is_resolved() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    drop(node);
    let _next = place.leader("b", &[]);
    place.wait_for_state(&run, "unknown");
    place.run(&["logs", "-f", &run]).fails(0, &["unknown", &format!("fencron resolve {run} --as")]);
    place.run(&["logs", &run]).fails(0, &["nothing that it wrote is kept"]);
    place.run(&["resolve", &run, "--as", "succeeded"]).fails(0, &["it succeeded"]);
    let row = place.wait_for_state(&run, "succeeded");
    assert!(row["reason"].as_str().unwrap().starts_with("resolved by"), "{row}");
    place.run(&["resolve", &run, "--as", "retry"]).fails(1, &["is not in doubt"]);
}

/// A file in which `lasting` is followed by `then`, and one without either.
fn with_a_follower() -> (String, String) {
    let lasting = JOBS.split_once("  lasting:").unwrap().1.split_once("  daily:").unwrap().0;
    let then = "  then: {after: {job: lasting, on: success}, command: [echo, then]}\n";
    (format!("{JOBS}{then}"), JOBS.replace(&format!("  lasting:{lasting}"), ""))
}

/// A run of `lasting` whose node was killed, and nobody leads.
fn in_doubt(place: &Place) -> String {
    let node = place.leader("a", &[]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    run
}

#[test]
fn what_waits_for_success_follows_a_run_that_is_resolved_so() {
    let place = Place::with(&with_a_follower().0);
    let run = in_doubt(&place);
    let _next = place.leader("b", &[]);
    place.wait_for_state(&run, "unknown");
    let then = |runs: &Value| runs.as_array().unwrap().iter().filter(|row| row["job"] == "then").count();
    assert_eq!(then(&place.json(&["runs"])), 0);
    place.run(&["resolve", &run, "--as", "succeeded"]).fails(0, &["it succeeded"]);
    place.wait_for(&["runs"], |runs| (then(runs) == 1).then_some(()));
    let followed = place.wait_for_state(&run.replace("lasting@", "then@"), "succeeded");
    assert_eq!(followed["output"], "then\n");
}

#[test]
fn a_run_in_doubt_whose_job_is_gone_stays_in_doubt_when_it_is_to_be_retried() {
    let place = Place::new();
    let run = in_doubt(&place);
    place.write("jobs.yaml", &with_a_follower().1);
    let _next = place.leader("b", &[]);
    place.wait_for_state(&run, "unknown");
    place.run(&["resolve", &run, "--as", "retry"]).fails(0, &["runs once more"]);
    let is_doubted_again = |runs: &Value| {
        let row = runs.as_array()?.iter().find(|row| row["run_id"] == run)?;
        row["reason"].as_str()?.contains("not configured any more").then(|| row.clone())
    };
    let row = place.wait_for(&["runs", "--job", "lasting"], is_doubted_again);
    assert_eq!(row["state"], "unknown", "{row}");
    assert!(row["reason"].as_str().unwrap().contains("; before: leader lost: a "), "{row}");
    place.run(&["resolve", &run, "--as", "failed"]).fails(0, &["it failed"]);
}

#[test]
fn a_backfill_runs_what_the_schedule_names() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let days = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-04T00:00:00Z"];
    place.run(&[&["backfill", "daily"], &days[..]].concat()).fails(2, &["3 runs of daily", "--yes"]);
    assert_eq!(place.json(&["runs"]), json!([]));
    let asked = place.json(&[&["backfill", "daily", "--yes"], &days[..]].concat());
    for (row, day) in asked.as_array().unwrap().iter().zip(1..) {
        let done = place.wait_for_state(row["run_id"].as_str().unwrap(), "succeeded");
        assert_eq!(done["output"], format!("2026-01-0{day}T00:00:00Z\n"));
    }
    assert_eq!(asked.as_array().unwrap().len(), 3);
    let bad = |args: &[&str], says: &str| place.run(&[&["backfill"], args].concat()).fails(2, &[says]);
    bad(&["daily", "--from", "2026-01-01T00:00:00Z", "--to", "2099-01-01T00:00:00Z"], "lies in the future");
    bad(&["daily", "--from", "2000-01-01T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], "more than 1000 runs");
    bad(&["follower", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"], "has no schedule");
}

#[test]
fn a_backfill_leaves_out_what_has_succeeded_or_is_open_unless_told_otherwise() {
    let place = Place::with(
        "version: 1\nnamespace: shop\njobs:\n  daily:\n    schedule: '0 0 * * *'\n    overlap: allow\n    shell: >-\n      \
         case $FENCRON_SCHEDULED_AT in *-02T*) test -e well;; *-03T*) until test -e go; do sleep 0.05; done;; esac\n",
    );
    let _node = place.leader("a", &[]);
    let backfill = |to: &str, more: &[&str]| {
        let to = format!("2026-01-{to}T00:00:00Z");
        let ran = place.run(&[&["backfill", "daily", "--from", "2026-01-01T00:00:00Z", "--to", &to], more].concat());
        assert_eq!(ran.code(), if more.is_empty() { 2 } else { 0 }, "{}", ran.stderr());
        let runs: Vec<String> = ran.stdout().lines().map(str::to_owned).collect();
        (runs, ran.stderr())
    };
    let (first, said) = backfill("04", &["--yes"]);
    assert!(said.contains("left out: none; asked for: 3 not run"), "{said}");
    let runs = |job: &Value| job.as_array().unwrap().len();
    for (run, state) in first.iter().zip(["succeeded", "failed", "running"]) {
        place.wait_for_state(run, state);
    }
    place.write("well", "");
    // Nothing is asked for without a yes, and what would be is said.
    let (none, said) = backfill("05", &[]);
    assert!(said.contains("4 runs of daily"), "{said}");
    assert!(said.contains("left out: 1 open, 1 succeeded; asked for: 1 failed, 1 not run"), "{said}");
    assert_eq!(none, [""; 0]);
    let (second, _) = backfill("05", &["--yes"]);
    assert_eq!(second.iter().map(|run| &run[..16]).collect::<Vec<_>>(), ["daily@2026-01-02", "daily@2026-01-04"]);
    second.iter().for_each(|run| drop(place.wait_for_state(run, "succeeded")));
    place.write("go", "");
    place.wait_for_state(&first[2], "succeeded");
    let (third, said) = backfill("05", &["--yes"]);
    assert!(said.contains("left out: 4 succeeded; asked for: none") && said.contains("`--again`"), "{said}");
    assert_eq!(third, [""; 0]);
    assert_eq!(runs(&place.json(&["runs"])), 5);
    let (again, said) = backfill("05", &["--yes", "--again"]);
    assert!(said.contains("left out: none; asked for: 4 succeeded"), "{said}");
    assert_eq!(again.len(), 4);
    again.iter().for_each(|run| drop(place.wait_for_state(run, "succeeded")));
    assert_eq!(runs(&place.json(&["runs"])), 9);
}

#[test]
fn a_backfill_goes_forward_in_time() {
    let place = Place::new();
    for (from, to) in [("02", "01"), ("01", "01")] {
        let [from, to] = [from, to].map(|day| format!("2026-01-{day}T00:00:00Z"));
        let ran = place.run(&["backfill", "daily", "--yes", "--from", &from, "--to", &to]);
        ran.fails(2, &["is not before --to"]);
    }
}

#[test]
fn after_stepping_down_another_node_leads_with_a_greater_fence() {
    let place = Place::new();
    let _first = place.leader("a", &[]);
    let second = place.node("b", &[]);
    let before = place.json(&["fence", "show"])["fence"].as_u64().unwrap();
    // A node is there a moment before it waits; until then the first would lead again.
    place.wait_for(&["status"], |status| (status["waiting"] == json!(["b"])).then_some(()));
    place.run(&["step-down"]).fails(0, &["asked a (fence "]);
    second.wait_for(" leading ");
    let leader =
        place.wait_for(&["status"], |status| Some(status["leader"].clone()).filter(|leader| leader["node"] == "b"));
    assert!(leader["fence"].as_u64().unwrap() > before);
}

#[test]
fn a_leader_that_steps_down_says_what_it_waits_for_and_until_when() {
    let place = Place::new();
    let node = place.leader("a", &["--shutdown-grace", "10m"]);
    let lasting = place.trigger("lasting");
    node.wait_for("lasting | begun");
    place.run(&["step-down"]).fails(0, &["asked a (fence ", "--shutdown-grace"]);
    let hand_over = |status: &Value| status["nodes"][0].get("hands_over").cloned();
    let waits = place.wait_for(&["status"], hand_over);
    assert_eq!((&waits["runs"], &waits["leaves"]), (&json!(1), &json!(false)), "{waits}");
    let text = format!("steps down: waits for 1 run until {}", waits["until"].as_str().unwrap());
    assert!(waits["text"].as_str().unwrap().starts_with(&text), "{waits}");
    let status = place.run(&["status"]).stdout();
    assert!(status.contains(&format!("a: {text}")) && status.contains("leader, hands over"), "{status}");
    // What is asked for meanwhile waits for neither its turn nor for room.
    let waiting = place.trigger("fine");
    let address = place.json(&["status"])["leader"]["address"].as_str().unwrap().to_owned();
    let run = get(&address, &format!("/api/v1/runs/{waiting}"));
    assert!(run.contains("\"waits_for\": \"leader\"") && run.contains("it waits for the next leader"), "{run}");
    let page = get(&address, "/leadership");
    assert!(page.contains(&text), "{page}");
    place.write("go", "");
    place.wait_for_state(&lasting, "succeeded");
    place.wait_for_state(&waiting, "succeeded");
    place.wait_for(&["status"], |status| hand_over(status).is_none().then_some(()));
}

#[test]
fn a_run_that_outlasts_a_step_down_says_so_in_its_reason() {
    let place = Place::new();
    let node = place.leader("a", &["--shutdown-grace", "100ms"]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    place.run(&["step-down"]).fails(0, &[]);
    let row = place.wait_for_state(&run, "cancelled");
    assert_eq!((&row["reason"], &row["code"]), (&json!("node stepped down"), &json!("shutdown")));
}

#[test]
fn a_drained_node_does_not_lead_and_it_is_said_loudly_where_none_may() {
    let place = Place::new();
    let _first = place.leader("a", &[]);
    let second = place.node("b", &[]);
    place.wait_for(&["status"], |status| (status["waiting"] == json!(["b"])).then_some(()));
    place.run(&["drain", "c"]).fails(1, &["there is no node c"]);
    place.run(&["drain", "a", "--for", "0s"]).fails(2, &["is over already"]);
    let drained = place.run(&["drain", "a", "--reason", "a new disk"]);
    drained.fails(0, &["a is drained until `fencron undrain a`"]);
    second.wait_for(" leading ");
    place.wait_for(&["status"], |status| (status["nodes"][0]["drained"] == true).then_some(()));
    let status = place.run(&["status"]);
    assert!(status.stdout().contains("drained by") && status.stdout().contains(": a new disk"), "{}", status.stdout());
    place.run(&["drain", "a", "--reason", "a new disk"]).fails(0, &["a is drained already"]);

    place.run(&["drain", "b", "--for", "1h"]).fails(0, &["no other node may lead"]);
    let none_leads = |status: &Value| {
        let says = |text: &Value| text.as_str().unwrap().starts_with("all nodes are drained");
        (status["leader"].is_null() && status["obstacles"].as_array()?.iter().any(says)).then_some(())
    };
    place.wait_for(&["status"], none_leads);
    place.run(&["doctor"]).fails(1, &[]);
    assert!(place.run(&["doctor"]).stdout().contains("all nodes are drained"));
    place.run(&["undrain", "b"]).fails(0, &["b may lead again"]);
    place.run(&["undrain", "b"]).fails(0, &["b is not drained"]);
    place.wait_for(&["status"], |status| (status["leader"]["node"] == "b").then_some(()));
    let acts = place.json(&["audit"]);
    let acts: Vec<&str> = acts.as_array().unwrap().iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["undrain", "drain", "drain"]);
}

#[test]
fn a_drain_is_waited_for_until_nothing_runs_there() {
    let place = Place::with(
        "version: 1\njobs:\n  lasting: {schedule: '@at 2099-01-01T00:00:00Z', on_lost_leadership: finish, shell: 'until \
         test -e go; do sleep 0.05; done'}\n",
    );
    let (_first, second) = (place.leader("a", &[]), place.node("b", &[]));
    let run = place.trigger("lasting");
    place.wait_for_state(&run, "running");
    let soon = place.run(&["drain", "a", "--wait", "--timeout", "1s"]);
    soon.fails(6, &["after 1s, on a there runs still", &run, "the drain stays"]);
    place.run(&["drain", "a", "--timeout", "1s"]).fails(2, &["--wait"]);
    let mut waiting = place.command(&["drain", "a", "--wait"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    assert!(waiting.try_wait().unwrap().is_none());
    place.write("go", "");
    assert!(waiting.wait().unwrap().success());
    second.wait_for(" leading ");
    let done = place.wait_for_state(&run, "succeeded");
    assert_eq!(done["node"], "a");
    place.run(&["drain", "a", "--wait"]).fails(0, &["a is drained already", "nothing runs on a, and it does not lead"]);
}

#[test]
fn nobody_can_step_down_where_nobody_leads() {
    let place = Place::new();
    let mut node = place.leader("a", &[]);
    node.signal(Signal::SIGTERM);
    node.ended();
    place.run(&["step-down"]).fails(1, &["no node leads in the namespace shop"]);
    place.run(&["trigger", "fine"]).fails(0, &["no node leads now"]);
}

#[test]
fn after_a_repair_the_node_leads_again_above_all_fences_seen() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    let before = place.json(&["fence", "show"])["fence"].as_u64().unwrap();
    place.run(&["fence", "repair"]).fails(2, &["1 are there", "--yes"]);
    let repaired = place.json(&["fence", "repair", "--yes", "--reason", "a drill"]);
    let acts = place.json(&["audit", "--act", "repair_fences"]);
    assert_eq!((acts.as_array().unwrap().len(), &acts[0]["reason"]), (1, &"a drill".into()), "{acts}");
    assert!(repaired["base"].as_u64().unwrap() > before);
    node.wait_for(" leading ");
    let after = place.wait_for(&["fence", "show"], |shown| shown["fence"].as_u64());
    assert!(after > repaired["base"].as_u64().unwrap());
    place.run(&["trigger", "fine", "--wait"]).fails(0, &["succeeded"]);
    let watermark = place.json(&["status"])["watermark"].as_str().unwrap().to_owned();
    assert!(watermark.as_str() >= repaired["watermark"].as_str().unwrap());
}

#[test]
fn logs_follow_a_run_of_another_process_live_and_to_its_end() {
    let place = Place::new();
    let node = place.leader("a", &[]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    let mut child = place.command(&["logs", "-f", &run]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    assert_eq!(lines.recv_timeout(crate::LIMIT).unwrap(), "begun", "while it runs");
    assert_eq!(place.run(&["logs", &run]).stdout(), "begun\n");
    place.write("go", "");
    assert_eq!(lines.recv_timeout(crate::LIMIT).unwrap(), "done");
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, format!("fencron: {run} succeeded\n"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(lines.recv().ok(), None, "nothing twice");
    assert_eq!(place.run(&["logs", &run]).stdout(), "begun\ndone\n", "what is kept");
    place.run(&["logs", "fine@2026-01-01T00:00:00Z"]).fails(1, &["there is no run"]);
}

#[test]
fn logs_of_a_node_that_cannot_be_reached_come_when_the_run_has_ended() {
    let place = Place::new();
    let node = place.leader("a", &["--advertise", "127.0.0.1:1"]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    let mut command = place.command(&["logs", "-f", &run]);
    command.stdout(Stdio::piped());
    let mut logs = command.stderr(Stdio::piped()).spawn().map(follow).unwrap();
    logs.0.wait_for("cannot be reached at 127.0.0.1:1");
    place.write("go", "");
    logs.0.wait_for("succeeded");
    logs.0.ended();
    assert_eq!(logs.1.iter().collect::<Vec<_>>(), ["begun", "done"]);
}

#[test]
fn logs_do_not_take_another_node_at_the_same_loopback_address_for_the_one_that_runs_it() {
    let place = Place::new();
    let other = Place::new();
    let _other = other.leader("other", &[]);
    let address = other.json(&["status"])["leader"]["address"].as_str().unwrap().to_owned();
    let node = place.leader("a", &["--advertise", &address]);
    let run = place.trigger("lasting");
    node.wait_for("lasting | begun");
    place.run(&["logs", &run]).fails(0, &["the node a cannot be reached", "its own machine only", "--advertise"]);
}

fn follow(mut child: std::process::Child) -> (NodeProcess, std::sync::mpsc::Receiver<String>) {
    let out = lines_of(child.stdout.take().unwrap());
    let lines = lines_of(child.stderr.take().unwrap());
    (NodeProcess { child, lines }, out)
}

#[test]
fn what_people_do_is_recorded_with_who_and_why_and_a_pause_ends_by_itself() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    place
        .run(&["pause", "fine", "--for", "3s", "--reason", "the disk is full"])
        .fails(0, &["fine is paused", "until 20"]);
    let paused = |place: &Place| place.json(&["jobs", "--job", "fine"])[0].clone();
    assert_eq!(paused(&place)["paused_reason"], "the disk is full");
    assert!(paused(&place)["paused_until"].is_string());
    place.wait_for(&["jobs", "--job", "fine"], |jobs| (jobs[0]["paused"] == false).then_some(()));
    place.run(&["pause", "--all", "--reason", "it moves"]).fails(0, &["all jobs are paused"]);
    place.run(&["pause", "--all"]).fails(0, &["all jobs are paused already"]);
    assert!(place.run(&["status"]).stdout().contains("all jobs are paused by "));
    place.run(&["resume", "--all"]).fails(0, &["all jobs are resumed"]);
    let run = place.trigger("fine");
    place.wait_for_state(&run, "succeeded");
    let acts = place.json(&["audit"]);
    let acts = acts.as_array().unwrap();
    let words: Vec<&str> = acts.iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(words, ["trigger", "resume_all", "pause_all", "pause"]);
    assert_eq!(
        (&acts[0]["run_id"], &acts[3]["reason"], &acts[3]["via"]),
        (&json!(run), &json!("the disk is full"), &json!("cli"))
    );
    assert!(acts[0]["by"].as_str().unwrap().contains(" on "));
    assert_eq!(place.json(&["audit", "--job", "fine", "--act", "pause"]).as_array().unwrap().len(), 1);
    place.run(&["audit", "--act", "x"]).fails(2, &["step_down"]);
    place.run(&["pause", "fine", "--until", "2020-01-01T00:00:00Z"]).fails(2, &["is over already"]);
}

#[test]
fn a_job_that_the_file_does_not_have_any_more_is_not_triggered() {
    let place = Place::new();
    let _node = place.leader("a", &[]);
    let run = place.trigger("daily");
    place.wait_for_state(&run, "succeeded");
    place.write("other.yaml", "version: 1\nnamespace: shop\njobs: {}\n");
    place.run(&["trigger", "daily", "--file", "other.yaml"]).fails(1, &["daily is not in the jobs file any more"]);
    assert_eq!(place.json(&["runs"]).as_array().unwrap().len(), 1);
}
