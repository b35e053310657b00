//! That metrics say what happened.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::scene::{Place, until};
use crate::text;

const JOBS: &str = "
version: 1
namespace: shop
jobs:
  fine: {schedule: '@at 2099-01-01T00:00:00Z', shell: 'echo hello', env: {PASSWORD: hunter2}}
  wrong: {schedule: '@at 2099-01-01T00:00:00Z', shell: 'exit 3'}
  tick: {schedule: '@every 1s', command: ['true']}
";

const WITHOUT_WRONG: &str = "
version: 1
namespace: shop
jobs:
  fine: {schedule: '@at 2099-01-01T00:00:00Z', shell: 'echo hello'}
  tick: {schedule: '@every 1s', command: ['true']}
";

#[test]
fn what_happened_is_what_the_metrics_say() {
    let place = Place::with(JOBS);
    let node = place.node("a", &[]);
    node.comes_to("fencron_leader", |leads| leads == 1.0);
    let begun = node.metrics();
    assert_eq!(begun[r#"fencron_runs_total{executor="command",verdict="failed",source="trigger"}"#], 0.0);
    assert!(begun["fencron_trust_remaining_seconds"] > 0.0 && begun["fencron_fence"] > 0.0, "{begun:?}");
    for (series, value) in [
        (r#"fencron_build_info{version="0.1.0",node="a"}"#, 1.0),
        ("fencron_ready", 1.0),
        ("fencron_leader_known", 1.0),
        ("fencron_store_up", 1.0),
        ("fencron_supervisor_up", 1.0),
        ("fencron_http_streams", 0.0),
        (r#"fencron_http_denied_total{reason="wrong-host"}"#, 0.0),
        ("fencron_terms_lost_total", 0.0),
        ("fencron_jobs", 3.0),
        (r#"fencron_job_failing{job_name="wrong"}"#, 0.0),
    ] {
        assert_eq!(begun.get(series), Some(&value), "{series}");
    }

    node.comes_to(r#"fencron_takeovers_total{end="none"}"#, |count| count == 1.0);
    node.comes_to("fencron_runs_unknown", |count| count == 0.0);
    let requests = |route: &str, code: u16| format!(r#"fencron_http_requests_total{{route="{route}",code="{code}"}}"#);
    assert_eq!(begun[&requests("/api/v1/runs/{run}", 200)], 0.0);
    node.ask("/api/v1/runs/fine@2026-01-01T00:00:00Z", "*/*").unwrap();
    node.ask("/api/v1/jobs?odd=1", "*/*").unwrap();
    node.ask_as("evil.example", "/api/v1/jobs").unwrap();
    let asked = node.metrics();
    for (series, count) in [
        (requests("/api/v1/runs/{run}", 404), 1.0),
        (requests("/api/v1/jobs", 400), 1.0),
        (requests("", 421), 1.0),
        (r#"fencron_http_denied_total{reason="wrong-host"}"#.to_owned(), 1.0),
    ] {
        assert_eq!(asked.get(&series), Some(&count), "{series}");
    }
    assert!(asked[&requests("/metrics", 200)] > 1.0, "{asked:?}");

    place.fencron(&["trigger", "wrong"]);
    node.comes_to(r#"fencron_runs_total{executor="command",verdict="failed",source="trigger"}"#, |count| count == 1.0);
    node.comes_to(r#"fencron_job_failing{job_name="wrong"}"#, |failing| failing == 1.0);
    node.comes_to("fencron_jobs_failing", |failing| failing == 1.0);
    place.fencron(&["trigger", "fine"]);
    node.comes_to(r#"fencron_runs_total{executor="command",verdict="succeeded",source="trigger"}"#, |count| {
        count == 1.0
    });
    node.comes_to(r#"fencron_runs_total{executor="command",verdict="succeeded",source="schedule"}"#, |count| {
        count >= 2.0
    });
    node.comes_to(r#"fencron_occurrences_total{decision="run",reason=""}"#, |count| count >= 2.0);
    node.comes_to("fencron_run_lateness_seconds_count", |count| count >= 4.0);
    node.comes_to(r#"fencron_run_duration_seconds_count{executor="command"}"#, |count| count >= 4.0);
    node.comes_to(r#"fencron_store_request_seconds_count{op="keep_alive",outcome="ok"}"#, |count| count >= 1.0);

    place.fencron(&["pause", "tick"]);
    node.comes_to(r#"fencron_job_paused{job_name="tick"}"#, |paused| paused == 1.0);
    node.comes_to(r#"fencron_occurrences_total{decision="skip",reason="paused"}"#, |count| count >= 1.0);

    assert!(!node.page().contains("hunter2"));
    assert!(node.page().contains(r#"job_name="wrong""#));
    place.write(WITHOUT_WRONG);
    node.comes_to(r#"fencron_config_reloads_total{result="taken"}"#, |count| count == 1.0);
    let page = until(
        "the job leaves",
        || node.log(),
        || Some(node.page()).filter(|page| !page.contains(r#"job_name="wrong""#)),
    );
    assert!(page.contains(r#"job_name="fine""#), "the others stay");
    place.write("version: 1\njobs: {a: {}}\n");
    node.comes_to(r#"fencron_config_reloads_total{result="refused"}"#, |count| count == 1.0);
    node.comes_to(r#"fencron_file_refused{file="jobs"}"#, |is_refused| is_refused == 1.0);
    place.write(JOBS);
    node.comes_to(r#"fencron_file_refused{file="jobs"}"#, |is_refused| is_refused == 0.0);
}

#[test]
fn a_node_that_takes_over_says_so() {
    let place = Place::with(JOBS);
    let mut first = place.node("a", &[]);
    first.comes_to("fencron_leader", |leads| leads == 1.0);
    let second = place.node("b", &["--metrics-jobs-most", "2"]);
    second.comes_to("fencron_nodes", |nodes| nodes == 2.0);
    second.comes_to("fencron_leader_known", |known| known == 1.0);
    let before = second.metrics();
    assert_eq!((before["fencron_leader"], before[r#"fencron_takeovers_total{end="lapsed"}"#]), (0.0, 0.0));
    assert_eq!((before["fencron_jobs_without_series"], before["fencron_trust_remaining_seconds"]), (1.0, 0.0));
    assert_eq!(before["fencron_fence"], first.metrics()["fencron_fence"], "both know the same leader");
    second.comes_to(r#"fencron_locks_held{kind="leader"}"#, |held| held == 1.0);
    second.comes_to(r#"fencron_lock_waiters{kind="leader"}"#, |waiting| waiting == 1.0);
    second.comes_to(r#"fencron_lock_oldest_wait_seconds{kind="leader"}"#, |waited| waited > 0.0);
    first.kill();
    second.comes_to("fencron_leader", |leads| leads == 1.0);
    second.comes_to(r#"fencron_takeovers_total{end="lapsed"}"#, |count| count == 1.0);
    let after = second.metrics();
    assert!(after["fencron_fence"] > before["fencron_fence"]);
    assert_eq!(after["fencron_takeover_gap_seconds_count"], 1.0);
    assert!(after["fencron_takeover_gap_seconds_sum"] < 30.0, "{after:?}");
}

/// The names of the metrics of a page, as they are described there.
pub fn described(page: &str) -> BTreeSet<String> {
    let names = page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn names_and_units_are_as_prometheus_wants_them_and_all_are_documented() {
    let place = Place::with(JOBS);
    let node = place.node("a", &[]);
    node.comes_to("fencron_leader", |leads| leads == 1.0);
    node.comes_to(r#"fencron_job_last_duration_seconds{job_name="tick"}"#, |_| true);
    node.comes_to("fencron_runs_unknown", |_| true);
    node.comes_to(r#"fencron_lock_waiters{kind="semaphore"}"#, |waiting| waiting == 0.0);
    let page = node.page();
    let mut promtool = Command::new("promtool");
    let promtool =
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool is installed: it is in Debian's prometheus");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said = [checked.stdout, checked.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(checked.status.success() && said.is_empty(), "{said}");

    let documented = text("docs/metrics.md");
    let documented = documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<String> =
        documented.filter(|name| name.starts_with("fencron_")).map(str::to_owned).collect();
    // The size of a store is known once the leader has asked, every ten minutes, and only etcd has a quota. Only a listener
    // with TLS has a certificate.
    let certificate = "fencron_tls_certificate_not_after_timestamp_seconds";
    let later = ["fencron_store_size_bytes", "fencron_store_quota_bytes", certificate].map(str::to_owned);
    assert_eq!(documented, &described(&page) | &later.into());

    let (head, open) = node.ask("/metrics", "application/openmetrics-text;version=1.0.0").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("# EOF\n"));
    let of_lateness = |line: &&str| line.starts_with("fencron_run_lateness_seconds_bucket{");
    let has_exemplar = |line: &str| line.contains(r#" # {trace_id=""#);
    assert!(open.lines().filter(of_lateness).any(has_exemplar), "{open}");
    assert!(!page.contains("trace_id"), "Prometheus' own format has no exemplars");
}
