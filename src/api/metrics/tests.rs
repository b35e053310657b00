//! What a scrape says of a board, without a node.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::config::{Sources, parse};
use crate::fence::Fence;
use crate::job::{JobName, RunId};
use crate::scheduler::run::Watermark;

const NOW: &str = "2026-11-27T08:00:00Z";

fn now() -> Wall {
    NOW.parse().unwrap()
}

fn board(jobs: &[&str]) -> (Shared, Status) {
    let lines: String =
        jobs.iter().map(|name| format!("  {name}: {{schedule: '@every 1m', shell: 'true'}}\n")).collect();
    let config = parse(&format!("version: 1\njobs:\n{lines}"), &Sources::none()).unwrap();
    let board = Shared::default();
    board.write().configured(&config.jobs);
    board.write().plan(now(), usize::MAX);
    (board, Status::starting("a", &config))
}

fn scrape(board: &Shared, status: &Status, jobs_most: usize) -> String {
    let counted = Counted { jobs_most, ..Counted::default() };
    let now = (Boot::from_duration(Duration::from_secs(100)), now());
    written(Scrape::new(status.clone(), board, (counted, Listener::default()), now), "shop", false)
}

/// The values by their series, without the label that all of them have.
fn values(page: &str) -> BTreeMap<String, f64> {
    let series = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(series.contains(r#"fencron_namespace="shop""#), "{series}");
        let series = series.replace(r#"fencron_namespace="shop","#, "").replace(r#"{fencron_namespace="shop"}"#, "");
        (series, value.parse().unwrap())
    });
    series.collect()
}

fn last(verdict: Verdict) -> Last {
    Last {
        run: RunId::of(&JobName::new("b").unwrap(), now()),
        verdict,
        code: None,
        started_at: Some(Wall::from_millis(now().as_millis() - 5_500)),
        finished_at: Wall::from_millis(now().as_millis() - 3_000),
        lateness_ms: None,
        fence: None,
        bad_in_a_row: 1,
        notified_at: None,
        doubt_notified: false,
        succeeded_at: Some(Wall::EPOCH),
        strip: "f".into(),
    }
}

#[test]
fn a_board_is_told_in_numbers() {
    let (board, status) = board(&["b", "c"]);
    let name = JobName::new("b").unwrap();
    board.write().last(&name, Some(last(Verdict::Failed)), 1);
    board.write().led_by(Some(Leader { lease: 7, created: 30, since: Wall::from_millis(1_250) }));
    board.write().base(10);
    let (until, fence) = (Boot::from_duration(Duration::from_millis(106_500)), Fence::new(40));
    board.write().own(Own { trusted_until: Some(until), fence, running: 3, ..Own::default() });
    let values = values(&scrape(&board, &status, 10));
    for (series, expected) in [
        ("fencron_leader", 1.0),
        ("fencron_leader_known", 1.0),
        ("fencron_nodes_drained", 0.0),
        ("fencron_fence", 40.0),
        ("fencron_term_start_timestamp_seconds", 1.25),
        ("fencron_trust_remaining_seconds", 6.5),
        ("fencron_attempts_running", 3.0),
        ("fencron_jobs", 2.0),
        ("fencron_jobs_failing", 1.0),
        ("fencron_decided_lag_seconds", 0.0),
        ("fencron_store_up", 0.0),
        (r#"fencron_runs_total{executor="http",verdict="unknown",source="trigger"}"#, 0.0),
        (r#"fencron_job_failing{job_name="b"}"#, 1.0),
        (r#"fencron_job_failing{job_name="c"}"#, 0.0),
        (r#"fencron_job_last_duration_seconds{job_name="b"}"#, 2.5),
        (r#"fencron_job_last_success_timestamp_seconds{job_name="b"}"#, 0.0),
    ] {
        assert_eq!(values.get(series), Some(&expected), "{series}");
    }
    assert!(!values.contains_key(r#"fencron_job_last_success_timestamp_seconds{job_name="c"}"#), "it never ran");
}

#[test]
fn what_is_due_and_not_decided_is_a_lag() {
    let (board, status) = board(&["b"]);
    let decided = Watermark { instant: Wall::from_millis(now().as_millis() - 200_000), job: None };
    board.write().known(
        &JobName::new("b").unwrap(),
        Some(&crate::scheduler::run::Known { fingerprint: String::new(), since: decided.instant }),
    );
    board.write().decided(decided);
    board.write().plan(now(), usize::MAX);
    let lag = values(&scrape(&board, &status, 10))["fencron_decided_lag_seconds"];
    assert!((100.0..=200.0).contains(&lag), "{lag}");
}

#[test]
fn jobs_beyond_the_bound_are_counted_and_have_no_series() {
    let names: Vec<String> = (0..1_203).map(|nth| format!("job-{nth:04}")).collect();
    let (board, status) = board(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let all = values(&scrape(&board, &status, 1_200));
    let of_jobs = |values: &BTreeMap<String, f64>| values.keys().filter(|name| name.contains("job_name=")).count();
    // Nothing has run yet: no last success and no last duration.
    assert_eq!((of_jobs(&all), all["fencron_jobs_without_series"]), (1_200 * (SERIES_PER_JOB - 2), 3.0));
    let none = values(&scrape(&board, &status, 0));
    assert_eq!((of_jobs(&none), none["fencron_jobs_without_series"]), (0, 1_203.0));
    assert_eq!(all.len() - of_jobs(&all), none.len(), "only what jobs have grows with them");
}

#[test]
fn a_job_that_is_gone_leaves_no_series() {
    let (board, _) = board(&["b", "c"]);
    let gone = JobName::new("b").unwrap();
    board.write().last(&gone, Some(last(Verdict::Succeeded)), 1);
    let config = parse("version: 1\njobs:\n  c: {schedule: '@every 1m', shell: 'true'}\n", &Sources::none()).unwrap();
    board.write().configured(&config.jobs);
    let page = scrape(&board, &Status::starting("a", &config), 10);
    assert!(page.contains(r#"job_name="c""#) && !page.contains(r#"job_name="b""#), "{page}");
}

#[test]
fn both_formats_say_the_same() {
    let (board, status) = board(&["b"]);
    let now = (Boot::default(), now());
    let page = |is_open| written(Scrape::new(status.clone(), &board, Default::default(), now), "shop", is_open);
    // Buckets are written differently: their labels in another order, and their bounds as `1.0` or as `1`.
    let series = |page: String| {
        let (buckets, others): (Vec<_>, Vec<_>) = page
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .partition(|line| line.contains("le="));
        (buckets.len(), others.into_iter().collect::<std::collections::BTreeSet<_>>())
    };
    assert!(page(true).ends_with("# EOF\n"));
    let ((open_buckets, open), (own_buckets, own)) = (series(page(true)), series(page(false)));
    assert_eq!(open_buckets, own_buckets);
    let differing: Vec<_> = open.symmetric_difference(&own).collect();
    assert!(open.len() > 100 && differing.is_empty(), "{differing:#?}");
}

#[test]
fn a_bucket_of_lateness_shows_the_trace_of_its_last_run_in_openmetrics_only() {
    let (board, status) = board(&["b"]);
    let counted = Counted::default();
    for (millis, trace) in [(20, 1), (20, 0xab), (400_000, 2)] {
        let took = Duration::from_millis(millis);
        counted.metrics.lateness.observe(Exemplar { took, trace: u128::to_be_bytes(trace), at: now() });
    }
    let page = |is_open| {
        let listener = Listener::default();
        written(
            Scrape::new(status.clone(), &board, (counted.clone(), listener), (Boot::default(), now())),
            "shop",
            is_open,
        )
    };
    let open = page(true);
    let with: Vec<_> = open.lines().filter(|line| line.contains('#') && line.contains("trace_id")).collect();
    let expected = [
        format!(r#"le="0.025"}} 2 # {{trace_id="{:032x}"}} 0.02 1795766400"#, 0xab),
        format!(r#"le="+Inf"}} 3 # {{trace_id="{:032x}"}} 400 1795766400"#, 2),
    ];
    assert!(with.len() == 2 && expected.iter().zip(&with).all(|(end, line)| line.ends_with(end)), "{with:#?}");
    assert!(!page(false).contains("trace_id"));
}

#[tokio::test]
async fn locks_are_counted_while_metrics_are_scraped() {
    let api = crate::api::tests::api(&crate::time::Clock::system());
    crate::api::glance::look_once(&api).await;
    assert!(api.glance.seen().tally.is_none(), "no scrape has asked for it");
    api.glance.scraped(api.clock.boot());
    crate::api::glance::look_once(&api).await;
    let listener = Listener { locks: api.glance.seen().tally, ..Listener::default() };
    let (board, status) = board(&["b"]);
    let scrape = Scrape::new(status, &board, (Counted::default(), listener), (Boot::default(), now()));
    let values = values(&written(scrape, "shop", false));
    for kind in ["leader", "lock", "migrations", "once", "semaphore"] {
        assert_eq!(values.get(&format!(r#"fencron_locks_held{{kind="{kind}"}}"#)), Some(&0.0), "{kind}");
    }
}
