//! Each rule finds what is wrong, and is silent where nothing is.

use super::*;
use crate::api::view::{LeaderView, StoreView};
use crate::config::{Sources, parse};
use crate::ledger::Asked;

const NOW: &str = "2026-10-20T00:00:00Z";

fn now() -> Wall {
    NOW.parse().unwrap()
}

fn jobs(lines: &str) -> Config {
    parse(&format!("version: 1\njobs:\n{lines}"), &Sources::none()).unwrap()
}

fn node(name: &str) -> NodeView {
    NodeView {
        node: name.into(),
        version: "1.0.0".into(),
        config_digest: "d1".into(),
        started_at: now(),
        address: None,
        leader: false,
        stands_back: None,
        hands_over: None,
        drained: false,
        last_sign_ms: 0,
        troubles: Vec::new(),
    }
}

/// How bad what was found is, and that it says this.
#[track_caller]
fn says(found: &[Found], level: Level, what: &str) {
    assert!(found.iter().any(|found| found.level == level && found.what.contains(what)), "{found:?}");
}

fn overview() -> Overview {
    let leader = LeaderView {
        node: "a".into(),
        fence: crate::fence::Fence::new(7).unwrap(),
        since: now(),
        address: None,
        last_sign_ms: None,
    };
    let store =
        StoreView { kind: "sqlite", version: "3".into(), healthy: true, size: None, quota: None, warnings: Vec::new() };
    let nodes = vec![node("a"), node("b")];
    Overview { leader: Some(leader), nodes, store, ..Overview::unseen("shop".into()) }
}

#[test]
fn what_keeps_jobs_from_being_fired_is_found() {
    assert_eq!(leadership(&overview()), []);
    let free = Overview { leader: None, ..overview() };
    says(&leadership(&free), Level::Broken, "none of the nodes leads in shop");
    assert_eq!(leadership(&Overview { nodes: Vec::new(), ..free }), [], "that is found by `nodes`");
    let blocked = Overview { obstacles: vec!["the fence base is damaged".into()], ..overview() };
    says(&leadership(&blocked), Level::Broken, "the fence base is damaged");
    let behind = Overview { behind_ms: Some(61_000), ..overview() };
    says(&leadership(&behind), Level::Broken, "the clock is 1m 1s behind");
}

#[test]
fn latency_is_judged_by_the_ttl() {
    let timing = |seconds| Timing::from_ttl(Duration::from_secs(seconds)).unwrap();
    let spread = |millis| Spread::of(vec![millis]);
    assert_eq!(latency(spread(10.0), &timing(10)), []);
    says(&latency(spread(1000.0), &timing(10)), Level::Warning, "up to 1000 ms, and with a TTL of 10s");
    says(&latency(spread(1000.0), &timing(3)), Level::Broken, "leaderships will be lost");
    assert_eq!(latency(None, &timing(3)), []);
}

#[test]
fn what_a_store_warns_of_is_passed_on() {
    assert_eq!(defects(&[]), []);
    says(&defects(&["etcd 3.5.1 loses data".into()]), Level::Warning, "loses data");
}

#[test]
fn a_clock_that_is_not_synchronised_is_found() {
    assert_eq!(clock(Some(KernelClock { is_synchronised: true })), []);
    assert_eq!(clock(None), []);
    says(&clock(Some(KernelClock { is_synchronised: false })), Level::Warning, "does not know the clock");
}

#[test]
fn a_job_that_a_change_of_the_clocks_touches_soon_is_named() {
    let config = jobs(
        "  nightly: {schedule: '30 2 * * *', timezone: Europe/Berlin, command: [a]}\n  \
         noon: {schedule: '0 12 * * *', timezone: Europe/Berlin, command: [a]}\n",
    );
    let found = clock_changes(config.jobs.values(), now());
    says(&found, Level::Warning, "the clocks change for nightly: ");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(clock_changes(config.jobs.values(), "2026-11-01T00:00:00Z".parse().unwrap()), []);
}

#[test]
fn files_that_differ_are_found() {
    let mut nodes = [node("a"), node("b")];
    assert_eq!(files_agree(&nodes, None), []);
    let config = jobs("  a: {schedule: '@hourly', command: [a]}\n");
    says(&files_agree(&nodes, Some(&config)), Level::Warning, "another jobs file (d1) than the one here");
    nodes.iter_mut().for_each(|node| node.config_digest.clone_from(&config.digest));
    assert_eq!(files_agree(&nodes, Some(&config)), []);
    nodes[1].config_digest = "d2".into();
    says(&files_agree(&nodes, None), Level::Warning, "d2 on b");
}

#[test]
fn programs_hosts_addresses_and_channels_that_fail_are_broken() {
    let job = JobName::new("a").unwrap();
    says(
        &programs(vec![(job, "there is no file x".into())]),
        Level::Broken,
        "a cannot be started here: there is no file x",
    );
    let unresolved = [("h".to_owned(), (vec!["a".to_owned()], "no".to_owned()))];
    says(&hosts(unresolved.into()), Level::Broken, "h is not found (no), which a ask");
    says(&addresses(vec![("b at 1:2".into(), "no answer".into())]), Level::Warning, "b at 1:2 is not reached");
    says(&channels(vec![("ops".into(), "404".into())]), Level::Broken, "ops did not take a trial: 404");
    assert_eq!((programs(vec![]), hosts(BTreeMap::new()), addresses(vec![]), channels(vec![])), Default::default());
}

#[test]
fn certificates_are_renewed_three_weeks_before_they_end() {
    let judged = |end: Result<&str, &str>| {
        let end = end.map(|end| end.parse().unwrap()).map_err(str::to_owned);
        certificates([("c.pem".to_owned(), end)].into(), now())
    };
    assert_eq!(judged(Ok("2026-11-11T00:00:00Z")), []);
    says(&judged(Ok("2026-11-09T00:00:00Z")), Level::Warning, "c.pem ends in 20 days");
    says(&judged(Ok("2026-10-19T00:00:00Z")), Level::Broken, "c.pem has ended");
    says(&judged(Err("no such file")), Level::Broken, "no such file");
}

#[test]
fn nodes_that_are_missing_or_held_back_are_found() {
    assert_eq!(nodes(&[node("a"), node("b")]), []);
    says(&nodes(&[]), Level::Broken, "no node runs");
    says(&nodes(&[node("a")]), Level::Warning, "a is the only node");
    let held = NodeView { stands_back: Some("its clock is off".into()), ..node("a") };
    says(&nodes(&[held, node("b")]), Level::Broken, "a does not contend for the leadership: its clock is off");
    let drained = |name| {
        let why = Some("drained by eve: a new disk".to_owned());
        NodeView { stands_back: why, drained: true, ..node(name) }
    };
    says(&nodes(&[drained("a"), node("b")]), Level::Warning, "a is drained by eve: a new disk");
    let troubled = NodeView { troubles: vec!["the clock was set".into()], ..node("a") };
    says(&nodes(&[troubled, node("b")]), Level::Warning, "a: the clock was set");
}

#[test]
fn limits_are_judged_by_the_runs_at_once() {
    let enough = Limits { files: Some(10_000), processes: None };
    assert_eq!(limits(&enough, 100), []);
    says(&limits(&enough, 10_000), Level::Warning, "10000 open files (NOFILE), and 10000 runs at once");
    says(&limits(&Limits { processes: Some(100), ..enough }, 100), Level::Warning, "100 processes (NPROC)");
}

#[test]
fn runs_in_doubt_are_named() {
    let runs = vec!["a@2026-10-19T00:00:00Z".parse().unwrap()];
    says(&in_doubt(&UnknownView { count: 1, runs }), Level::Warning, "1 run in doubt: a@2026-10-19T00:00:00Z");
    assert_eq!(in_doubt(&UnknownView { count: 0, runs: vec![] }), []);
}

#[test]
fn a_job_that_is_paused_for_a_month_is_probably_forgotten() {
    let pause = |at: &str, until: Option<Wall>| {
        let asked = Asked::new("ada", at.parse().unwrap());
        paused(&[(JobName::new("a").unwrap(), Pause { asked, until })], now())
    };
    says(&pause("2026-09-01T00:00:00Z", None), Level::Warning, "a has been paused for 49 days, by ada");
    assert_eq!(pause("2026-10-01T00:00:00Z", None), []);
    assert_eq!(pause("2026-09-01T00:00:00Z", Some(Wall::MAX)), [], "that one ends by itself");
}

#[test]
fn a_job_that_was_due_and_never_fired_is_found() {
    let config = jobs("  a: {schedule: '@daily', command: [a]}\n");
    let job = Arc::clone(config.jobs.values().next().unwrap());
    let since =
        |at: &str| never_fired(&[(Arc::clone(&job), at.parse().unwrap())], "2026-10-20T12:00:00Z".parse().unwrap());
    says(&since("2026-10-19T12:00:00Z"), Level::Warning, "never fired or skipped: a");
    assert_eq!(since("2026-10-20T01:00:00Z"), []);
}

#[test]
fn an_upgrade_that_is_not_finished_is_found() {
    assert_eq!(versions(&[node("a"), node("b")]), []);
    let newer = NodeView { version: "1.1.0".into(), ..node("b") };
    says(&versions(&[node("a"), newer]), Level::Warning, "(1.0.0, 1.1.0)");
}

#[test]
fn a_file_that_everyone_may_write_to_is_found() {
    assert_eq!(mode("jobs.yaml", 0o100_664), []);
    says(&mode("jobs.yaml", 0o100_666), Level::Broken, "every user of this machine may write to jobs.yaml (mode 666)");
}

#[test]
fn a_file_that_a_node_refuses_is_no_agreement() {
    let why = format!("{JOBS_FILE} is refused since 2026-10-20T00:00Z, the old one stays in force: jobs.yaml:2");
    let refusing = NodeView { troubles: vec![why], ..node("b") };
    says(&files_agree(&[node("a"), refusing], None), Level::Broken, "an older jobs file stays in force: by b");
}

#[test]
fn a_database_that_would_fail_its_runs_is_found() {
    let examined = |fitness| databases(vec![(vec!["report".to_owned()], fitness)]);
    assert_eq!(examined(Fitness::Fit), []);
    says(&examined(Fitness::WithoutTables), Level::Warning, "the database of report has no tables of the guard");
    says(&examined(Fitness::Unfit("no".into())), Level::Broken, "the database of report would fail their runs: no");
}

fn member(version: &str, warnings: &[&str]) -> Result<About, String> {
    let warnings = warnings.iter().map(ToString::to_string).collect();
    Ok(About { kind: "etcd", version: version.into(), size: None, quota: None, warnings, clock: None })
}

#[test]
fn members_that_are_silent_old_or_full_are_found() {
    let all = |said: [Result<About, String>; 3]| {
        let members: Vec<_> = ["m1", "m2", "m3"].map(str::to_owned).into_iter().zip(said).collect();
        members_of(&members)
    };
    let fine = || member("3.6.9", &[]);
    let silent = || Err("no answer".to_owned());
    assert_eq!(all([fine(), fine(), fine()]), []);
    says(&all([fine(), silent(), fine()]), Level::Warning, "1 of 3 members that --store names do not answer: m2");
    says(&all([fine(), silent(), silent()]), Level::Broken, "2 of 3 members");
    says(&all([fine(), member("3.5.28", &[]), fine()]), Level::Warning, "3.5.28 at m2; 3.6.9 at m1, m3");
    says(&all([fine(), member("3.6.9", &["it is full"]), fine()]), Level::Warning, "m2: it is full");
    assert_eq!(all([fine(), member("3.6.9", &["known"]), fine()]), [], "`store-defects` has said it");
}

fn members_of(all: &[(String, Result<About, String>)]) -> Vec<Found> {
    members(all, &["known".to_owned()])
}

#[test]
fn a_clock_is_off_only_where_that_is_certain() {
    let judged = |said: &str, vague: u64| {
        let (before, after) = (now(), now().plus(Duration::from_millis(100)));
        let offset = Offset::between((before, after), said.parse().unwrap(), Duration::from_secs(vague));
        clocks(&[("the node b".to_owned(), offset)], Duration::from_secs(2))
    };
    assert_eq!(judged("2026-10-20T00:00:02Z", 0), []);
    assert_eq!(judged("2026-10-19T23:59:57Z", 2), [], "it may be a second behind");
    says(&judged("2026-10-20T00:00:09Z", 2), Level::Warning, "the node b is 8s or more ahead of the one here");
    says(&judged("2026-10-19T23:59:50Z", 2), Level::Warning, "the node b is 8s or more behind the one here");
}

#[test]
fn units_are_judged_by_what_a_node_needs() {
    let needs = Needs { stop: Duration::from_secs(52), max_running: 1000 };
    let unit = |properties: &str| format!("Id=fencron.service\nLoadState=loaded\n{properties}\n");
    let fine = "KillMode=mixed\nTimeoutStopUSec=1min\nLimitNOFILE=65536\nTasksMax=infinity";
    assert_eq!(units(&unit(fine), needs), Some(vec![]));
    let judged = |from: &str, to: &str| units(&unit(&fine.replace(from, to)), needs).unwrap();
    says(&judged("mixed", "control-group"), Level::Warning, "its commands get SIGTERM as it stops");
    says(&judged("mixed", "process"), Level::Broken, "may outlive it");
    says(&judged("1min", "30s"), Level::Warning, "is killed 30s after it is asked to stop, and may need 52s");
    says(&judged("65536", "1024"), Level::Warning, "LimitNOFILE=1024");
    says(&judged("infinity", "512"), Level::Warning, "TasksMax=512");
    assert_eq!(judged("1min", "infinity"), []);
    assert_eq!(units("Id=fencron.service\nLoadState=not-found\n", needs), None);
    assert_eq!(units("", needs), None);
    let two = format!("{}\n{}", unit(fine), unit(fine).replace("fencron", "fencron@1").replace("mixed", "none"));
    says(&units(&two, needs).unwrap(), Level::Broken, "fencron@1.service has KillMode=none");
}

#[test]
fn zones_that_are_older_than_the_machine_s_are_found() {
    assert_eq!(zones("2026a", Some("2026a"), now()), []);
    assert_eq!(zones("2026a", Some("2025c"), now()), []);
    assert_eq!(zones("2025b", None, now()), []);
    assert_eq!(zones("2026a", Some("unknown"), now()), []);
    says(&zones("2026a", Some("2026b"), now()), Level::Warning, "the time zones of 2026a, and this machine has 2026b");
    says(&zones("2024b", None, now()), Level::Warning, "are 2 years old");
}

#[test]
fn tokens_that_end_soon_are_named() {
    let token = |expires: Option<&str>| TokenRule {
        name: "grafana".into(),
        role: crate::config::auth::Role::Metrics,
        jobs: None,
        sha256: [0; 32],
        expires: expires.map(|at| at.parse().unwrap()),
    };
    let judged = |expires| tokens("auth.yaml", &[token(expires)], now());
    assert_eq!((judged(None), judged(Some("2026-12-20T00:00:00Z"))), Default::default());
    says(&judged(Some("2026-10-25T00:00:00Z")), Level::Warning, "the token grafana is refused from 2026-10-25");
    says(&judged(Some("2026-10-19T00:00:00Z")), Level::Warning, "the token grafana is refused since 2026-10-19");
}
