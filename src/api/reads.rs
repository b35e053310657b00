//! What is answered from the board, with a store that says nothing; and the pages of what is answered from the store.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use serde_json::Value;

use super::tests::{LOCAL, Silent, api_over};
use super::*;
use crate::config::{Sources, parse};
use crate::fence::Fence;
use crate::job::JobName;
use crate::ledger::NodeRecord;
use crate::scheduler::run::{Claimant, Known, Open, OpenState, Watermark};
use crate::time::Wall;

const NOW: &str = "2026-11-27T01:00:30Z";

fn at(text: &str) -> Wall {
    text.parse().unwrap()
}

/// A clock that stands still.
fn clock() -> Clock {
    Clock::from_fn(|| (Boot::from_duration(Duration::from_secs(100)), at(NOW)))
}

fn silent(jobs: &str) -> Api<Silent> {
    let api = api_over(Silent, &clock());
    let config = parse(&format!("version: 1\njobs:\n{jobs}"), &Sources::none()).unwrap();
    let mut board = api.board.write();
    board.configured(&config.jobs);
    for job in config.jobs.keys() {
        board.known(job, Some(&Known { fingerprint: String::new(), since: at("2026-11-27T00:00:00Z") }));
    }
    board.decided(Watermark { instant: at("2026-11-27T00:59:30Z"), job: None });
    while board.plan(at(NOW), 10_000) {}
    board.is_current(at(NOW));
    drop(board);
    api
}

async fn ask_with<S: Store>(api: &Api<S>, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Value) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = api.router_for(LOCAL).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (parts.status.as_u16(), parts.headers, serde_json::from_slice(&body).unwrap_or_default())
}

async fn ask<S: Store>(api: &Api<S>, path: &str) -> (u16, HeaderMap, Value) {
    ask_with(api, path, &[]).await
}

fn names(page: &Value, member: &str) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|row| row[member].as_str().unwrap().to_owned()).collect()
}

/// All pages of a list, one after the other, as `Link` leads from the one to the next.
async fn pages<S: Store>(api: &Api<S>, path: &str, member: &str) -> Vec<String> {
    let (mut all, mut asked) = (Vec::new(), path.to_owned());
    loop {
        let (code, headers, page) = ask(api, &asked).await;
        assert_eq!(code, 200, "{page:#}");
        all.extend(names(&page, member));
        let Some(link) = headers.get("link") else {
            assert_eq!(page["next"], Value::Null);
            return all;
        };
        let (query, _) = link.to_str().unwrap().strip_prefix('<').unwrap().split_once('>').unwrap();
        asked = format!("{}{query}", path.split('?').next().unwrap());
    }
}

fn open_run(run: &str, state: OpenState) -> Open {
    let claimant = Claimant { node: "b".into(), fence: Fence::new(7).unwrap(), lease: 2 };
    Open { state, claimant: (state == OpenState::Claimed).then_some(claimant), ..Open::claimed(run.parse().unwrap()) }
}

#[tokio::test]
async fn pages_of_200_000_jobs_are_answered_without_the_store() {
    let mut text = String::new();
    for nth in 0..199_999 {
        writeln!(text, "  j{nth:06}: {{schedule: '{} * * * *', shell: 'true'}}", nth % 60).unwrap();
    }
    writeln!(text, "  last: {{schedule: '@at 2026-11-27T01:00:45Z', shell: 'true'}}").unwrap();
    let api = silent(&text);
    let (_, _, fires) = ask(&api, "/api/v1/fires?limit=3").await;
    assert_eq!(names(&fires, "job"), ["last", "j000001", "j000061"], "the first by time, not by name");
    assert_eq!(fires["cut"], true);
    let (_, _, fires) = ask(&api, "/api/v1/fires?from=2026-11-27T03:30:30Z&limit=2").await;
    assert_eq!(names(&fires, "scheduled_at"), ["2026-11-27T03:31:00Z", "2026-11-27T03:31:00Z"]);
    // The search has an index, which the first one makes.
    ask(&api, "/api/v1/jobs?q=none").await;
    let clock = Clock::system();
    for query in ["", "?sort=name", "?sort=next", "?q=j1999", "?state=late", "?limit=500", "?state=running"] {
        let asked = clock.boot();
        let (code, headers, page) = ask(&api, &format!("/api/v1/jobs{query}")).await;
        let took = clock.boot().since(asked);
        assert_eq!(code, 200, "{page:#}");
        println!("{query:12} {took:?}, {} rows", page["items"].as_array().unwrap().len());
        // Twenty milliseconds are promised of a build that is optimised, on a machine that is not busy.
        assert!(took < Duration::from_secs(2), "{query}: {took:?}");
        let tag = headers["etag"].to_str().unwrap();
        let again = ask_with(&api, &format!("/api/v1/jobs{query}"), &[("if-none-match", tag)]).await;
        assert_eq!((again.0, &again.1["etag"], &again.2), (304, &headers["etag"], &Value::Null));
    }
}

#[tokio::test]
async fn a_list_of_jobs_is_whole_over_its_pages_and_says_what_was_applied() {
    let jobs: String = (0..7).map(|nth| format!("  j{nth}: {{schedule: '{nth} * * * *', shell: 'true'}}\n")).collect();
    let api = silent(&(jobs + "  asked: {after: {job: j0, on: success}, shell: 'true'}\n"));
    for sort in ["attention", "name", "next"] {
        let whole = pages(&api, &format!("/api/v1/jobs?sort={sort}"), "name").await;
        assert_eq!(whole.len(), 8, "{sort}");
        assert_eq!(pages(&api, &format!("/api/v1/jobs?sort={sort}&limit=3"), "name").await, whole, "{sort}");
    }
    let (_, _, page) = ask(&api, "/api/v1/jobs?state=late&q=J").await;
    assert_eq!(page["applied"], serde_json::json!({"q": "J", "state": "late", "sort": "attention", "limit": 50}));
    assert_eq!(names(&page, "name"), ["j0"], "it was due at 01:00, and is not decided");
    let labelled = silent(
        "  a: {schedule: '@daily', shell: 'true', owner: Team Ops, labels: {team: a, tier: 1}}\n  b: {schedule: '@daily', \
         shell: 'true', owner: dev, labels: {team: b}}\n",
    );
    for (query, found) in [
        ("label=team", "a b"),
        ("label=team,tier%3D1", "a"),
        ("owner=team%20ops", "a"),
        ("q=label:team%3Db", "b"),
        ("q=owner:dev&label=tier", ""),
    ] {
        let (_, _, page) = ask(&labelled, &format!("/api/v1/jobs?{query}")).await;
        assert_eq!(names(&page, "name").join(" "), found, "{query}: {page:#}");
    }
    let (_, _, page) = ask(&api, "/api/v1/jobs?state=on_demand").await;
    assert_eq!(page["items"][0]["schedule"], "after j0 (success)");
    let (_, _, page) = ask(&api, "/api/v1/jobs?sort=name&limit=1").await;
    let next = page["next"].as_str().unwrap();
    assert_eq!(ask(&api, &format!("/api/v1/jobs?sort=name&after={next}")).await.0, 200);
    let (code, _, problem) = ask(&api, &format!("/api/v1/jobs?sort=next&after={next}")).await;
    assert!(code == 400 && problem["detail"].as_str().unwrap().contains("another `sort`"), "{problem:#}");
    for (query, says) in [
        ("limit=0", "limit: a number from 1 to 500"),
        ("limit=501", "limit: "),
        ("limit=x", "limit: "),
        ("after=zz", "after: "),
        ("state=odd", "state: "),
        ("sort=odd", "sort: "),
    ] {
        let (code, _, problem) = ask(&api, &format!("/api/v1/jobs?{query}")).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(code == 400 && detail.starts_with(says), "{query}: {detail}");
    }
}

#[tokio::test]
async fn a_job_is_answered_with_its_definition_and_its_next_fires() {
    let api =
        silent("  report: {schedule: '30 2 * * *', timezone: Europe/Berlin, shell: 'true', description: daily}\n");
    let (code, headers, job) = ask(&api, "/api/v1/jobs/report").await;
    assert_eq!((code, &job["name"], &job["description"]), (200, &"report".into(), &"daily".into()));
    assert_eq!(job["definition"]["schedule"], "30 2 * * *");
    assert_eq!(job["next_fire"], "2026-11-27T01:30:00Z");
    let tag = headers["etag"].to_str().unwrap();
    assert_eq!(ask_with(&api, "/api/v1/jobs/report", &[("if-none-match", tag)]).await.0, 304);
    let (_, _, next) = ask(&api, "/api/v1/jobs/report/next?count=2&from=2027-03-27T12:00:00%2B01:00").await;
    assert_eq!(next["fires"][0]["local"], "2027-03-28T03:00:00+02:00");
    assert!(next["fires"][0]["note"].as_str().unwrap().contains("does not exist"), "{next:#}");
    assert_eq!(next["fires"].as_array().unwrap().len(), 2);
    let (_, _, fires) = ask(&api, "/api/v1/fires?from=2026-11-27T00:00:00Z&until=2026-11-28T12:00:00Z").await;
    assert_eq!(names(&fires, "scheduled_at"), ["2026-11-27T01:30:00Z", "2026-11-28T01:30:00Z"]);
    for (path, code, says) in [
        ("/api/v1/jobs/nothing", 404, "there is no job nothing"),
        ("/api/v1/jobs/a%20b", 400, "job: "),
        ("/api/v1/jobs/report/next?count=101", 400, "count: a number from 1 to 100"),
        ("/api/v1/jobs/report/next?from=now", 400, "from: "),
        ("/api/v1/fires?limit=5001", 400, "limit: a number from 1 to 5000"),
        ("/api/v1/fires?until=2027-11-27T00:00:00Z", 400, "until: an instant at most 32 days after `from`"),
        ("/api/v1/fires?odd=1", 400, "odd: there is no such parameter"),
        ("/api/v1/jobs?state=late&state=late", 400, "state: it is given more than once"),
        ("/api/v1/fires?from=2026-11-27T00:00:00+00:00", 400, "from: "),
    ] {
        let (answered, _, problem) = ask(&api, path).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(answered == code && detail.starts_with(says), "{path}: {detail}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_nothing_holds_up_nothing_that_the_node_knows() {
    let api = silent("  a: {schedule: '@hourly', shell: 'true'}\n");
    {
        let mut board = api.board.write();
        let record = NodeRecord {
            node: "b".into(),
            version: "0.1.0".into(),
            config_digest: "x".into(),
            config_since: None,
            started_at: at("2026-11-27T00:00:00Z"),
            address: Some("127.0.0.1:1".into()),
            clock: at(NOW),
            stands_back: None,
            hands_over: None,
            drained: false,
            heard: 0,
            troubles: Vec::new(),
        };
        board.node(2, Some(record), Wall::EPOCH);
        board.base(3);
        board.led_by(Some(crate::board::Leader { lease: 2, created: 4, since: at("2026-11-27T00:00:01Z") }));
        board.paused(
            &JobName::new("a").unwrap(),
            Some(crate::ledger::Pause { asked: crate::ledger::Asked::new("eve", at(NOW)), until: None }.into()),
        );
        let run = open_run("a@2026-11-27T00:00:00Z", OpenState::Claimed);
        board.open(&run.id.clone(), Some(run));
    }
    let asked = tokio::time::Instant::now();
    let (code, _, status) = ask(&api, "/api/v1/status").await;
    assert_eq!((code, &status["namespace"], &status["store_answers"]), (200, &"test".into(), &false.into()));
    assert_eq!((&status["leader"]["node"], &status["leader"]["fence"]), (&"b".into(), &7.into()));
    assert_eq!((&status["as_of"], &status["paused"]), (&NOW.into(), &serde_json::json!(["a"])));
    assert_eq!((&status["counts"]["jobs"], &status["looked_at"]), (&1.into(), &Value::Null));
    let (_, _, nodes) = ask(&api, "/api/v1/nodes").await;
    assert_eq!((names(&nodes, "node"), &nodes["items"][0]["leader"]), (vec!["b".to_owned()], &true.into()));
    let (_, _, leadership) = ask(&api, "/api/v1/leadership").await;
    assert_eq!(leadership["leader"]["fence"], 7);
    assert_eq!(leadership["this_node"]["trusted_ms"], Value::Null);
    let (_, _, me) = ask(&api, "/api/v1/me").await;
    assert_eq!(me, serde_json::json!({"name": null, "role": "reader"}));
    let (code, _, page) = ask(&api, "/api/v1/runs?state=claimed").await;
    assert_eq!((code, names(&page, "run_id")), (200, vec!["a@2026-11-27T00:00:00Z".to_owned()]));
    assert_eq!(asked.elapsed(), Duration::ZERO, "nothing of this has waited for the store");
    let (code, _, run) = ask(&api, "/api/v1/runs/a@2026-11-27T00:00:00Z").await;
    assert_eq!((code, &run["state"], &run["node"]), (200, &"claimed".into(), &"b".into()));
    for path in ["/api/v1/runs", "/api/v1/store", "/api/v1/locks", "/api/v1/migrations"] {
        let (code, headers, problem) = ask(&api, path).await;
        assert_eq!((code, &problem["type"]), (503, &"/problems/store-away".into()), "{path}");
        assert!(headers.contains_key("retry-after"), "{path}");
    }
}

#[tokio::test]
async fn open_runs_come_in_pages_and_by_their_states() {
    let api = silent("  a: {schedule: '@hourly', shell: 'true'}\n");
    for minute in 10..15 {
        let waits = OpenState::Waiting { not_before: at(NOW) };
        let state = if minute == 12 { OpenState::Claimed } else { waits };
        let run = open_run(&format!("a@2026-11-27T00:{minute}:00Z"), state);
        api.board.write().open(&run.id.clone(), Some(run));
    }
    let whole = pages(&api, "/api/v1/runs?state=waiting", "run_id").await;
    let expected = [14, 13, 11, 10].map(|minute| format!("a@2026-11-27T00:{minute}:00Z"));
    assert_eq!(whole, expected, "the last claimed come first");
    assert_eq!(pages(&api, "/api/v1/runs?state=waiting&limit=1", "run_id").await, expected);
    let since = "/api/v1/runs?state=waiting&since=2026-11-27T00:11:00Z&until=2026-11-27T00:13:00Z";
    assert_eq!(pages(&api, since, "run_id").await, expected[1..3]);
    assert_eq!(pages(&api, "/api/v1/jobs/a/runs?state=claimed", "run_id").await, ["a@2026-11-27T00:12:00Z"]);
}

#[tokio::test]
async fn a_walk_over_pages_has_what_keeps_its_place_once() {
    let jobs: String = (0..4).map(|nth| format!("  j{nth}: {{schedule: '{nth} * * * *', shell: 'true'}}\n")).collect();
    let api = silent(&jobs);
    let claim = |job: &str, minute: u32| {
        let mut run = open_run(&format!("{job}@2026-11-27T00:{minute:02}:00Z"), OpenState::Claimed);
        run.claimed_at = run.at;
        api.board.write().open(&run.id.clone(), Some(run));
    };
    let next = |page: &Value| page["next"].as_str().unwrap().to_owned();
    // Jobs by name keep their places, whatever becomes of them.
    let (_, _, first) = ask(&api, "/api/v1/jobs?sort=name&limit=2").await;
    claim("j0", 10);
    claim("j3", 11);
    let (_, _, second) = ask(&api, &format!("/api/v1/jobs?sort=name&limit=2&after={}", next(&first))).await;
    assert_eq!([names(&first, "name"), names(&second, "name")].concat(), ["j0", "j1", "j2", "j3"]);
    assert_eq!(second["items"][1]["state"], "running", "each page is of its own instant");
    // A run that is claimed while the walk goes on stands before it, and repeats none of the others.
    let (_, _, first) = ask(&api, "/api/v1/runs?state=claimed&limit=1").await;
    claim("j1", 12);
    let (_, _, second) = ask(&api, &format!("/api/v1/runs?state=claimed&limit=1&after={}", next(&first))).await;
    assert_eq!([names(&first, "job"), names(&second, "job")].concat(), ["j3", "j0"]);
    assert_eq!(second["next"], Value::Null);
}

/// What the documents name is there.
#[test]
fn every_path_in_the_documents_is_one_of_the_table() {
    let rows: Vec<routes::Row> = routes::routes::<Silent>().into_iter().map(|route| route.row).collect();
    let known: BTreeMap<&str, Vec<&str>> = rows.iter().map(|row| (row.path, row.names_of_query())).collect();
    let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for part in text.split("/api/v1/").skip(1) {
        let end = part.find(|c: char| c.is_whitespace() || "`\"')|".contains(c)).unwrap_or(part.len());
        let (path, query) = part[..end].split_once('?').unwrap_or((&part[..end], ""));
        let path = format!("/api/v1/{}", path.trim_end_matches('.'));
        let fits = |row: &&str| {
            let (row, path): (Vec<_>, Vec<_>) = (row.split('/').collect(), path.split('/').collect());
            let same = |(row, path): (&&str, &&str)| row == path || (row.starts_with('{') && !path.is_empty());
            row.len() == path.len() && row.iter().zip(&path).all(same)
        };
        let Some(row) = known.keys().copied().find(fits) else { panic!("docs/api.md: there is no {path}") };
        for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
            assert!(known[row].contains(&&*name), "docs/api.md: {row} takes no `{name}`");
        }
        seen.insert(row);
    }
    for row in known.keys().filter(|row| row.starts_with("/api/v1/")) {
        assert!(seen.contains(row), "docs/api.md says nothing of {row}");
    }
}
