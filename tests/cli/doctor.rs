//! `fencron doctor`: what it finds, with the store and without.

use std::os::unix::fs::PermissionsExt as _;

use fencron::store::{AnyStore, Keys, Store as _};
use fencron::time::Clock;
use serde_json::Value;

use super::Place;
use super::support::certificates::Certificates;
use super::support::databases::{Kind, PASSWORD, Server, USER};
use super::support::etcd::{Etcd, EtcdCluster};
use super::support::until;

fn doctor(place: &Place, code: i32, args: &[&str]) -> Value {
    let ran = place.run(&[&["doctor", "jobs.yaml", "-o", "json"], args].concat());
    assert_eq!(ran.code(), code, "{}\n{}", ran.stdout(), ran.stderr());
    serde_json::from_str(&ran.stdout()).unwrap()
}

fn check<'a>(view: &'a Value, name: &str) -> &'a Value {
    let checks = view["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name} in {view}"))
}

const FINE: &str = "version: 1\njobs:\n  fine: {schedule: '@at 2099-01-01T00:00:00Z', command: [echo, hello]}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_examined_and_left_as_it_was() {
    let place = Place::with(FINE);
    let node = place.starting("a", &["jobs.yaml", "--listen", "127.0.0.1:0"]);
    node.wait_for("leading");
    let view = doctor(&place, 0, &[]);
    assert_eq!(view["ok"], true, "{view}");
    let fine = ["store-answers", "leadership", "state-directory", "jobs-file", "jobs-file-mode", "jobs-file-agrees"];
    let also = ["programs", "hosts", "certificates", "addresses", "runs-in-doubt", "paused", "never-fired", "versions"];
    for name in fine.iter().chain(&also) {
        assert_eq!(check(&view, name)["state"], "ok", "{view}");
    }
    assert_ne!(check(&view, "store-latency")["state"], "skipped");
    assert_eq!(check(&view, "nodes")["findings"][0]["what"], "a is the only node: when it is lost no other takes over");
    assert_eq!(check(&view, "channels")["state"], "skipped");
    assert_eq!(doctor(&place, 1, &["--strict"])["ok"], true, "a warning breaks nothing");
    let url = format!("sqlite:{}", place.path(".fencron/state.db").display());
    let store = AnyStore::open(&url.parse().unwrap(), Clock::system()).await.unwrap();
    let (entries, _) = store.range_all(Keys::prefix("/fencron/v1/")).await.unwrap();
    assert!(!entries.is_empty() && entries.iter().all(|entry| !entry.key.contains("~doctor")));
}

#[test]
fn what_is_wrong_is_found_without_the_store_too() {
    let place = Place::with(
        "version: 1\njobs:\n  lost: {schedule: '@hourly', command: [no-such-program-of-fencron]}\n  \
         far: {schedule: '@hourly', http: {url: 'http://no-such-host.invalid/', ca: ca.pem}}\n",
    );
    // Valid for two days.
    std::fs::copy(Certificates::make().path("ca.pem"), place.path("ca.pem")).unwrap();
    std::fs::set_permissions(place.path("jobs.yaml"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let view = doctor(&place, 1, &["--store", "sqlite:nothing/here.db"]);
    assert_eq!(view["ok"], false, "{view}");
    for name in ["store-answers", "jobs-file-mode", "programs", "hosts"] {
        assert_eq!(check(&view, name)["state"], "broken", "{name}: {view}");
    }
    let certificate = &check(&view, "certificates")["findings"][0]["what"];
    assert!(certificate.as_str().unwrap().starts_with("ca.pem ends in 1 days"), "{view}");
    for name in ["store-latency", "leadership", "nodes", "never-fired"] {
        assert_eq!(check(&view, name)["why"], "the store does not answer", "{view}");
    }
    let found = &check(&view, "programs")["findings"][0];
    assert!(found["what"].as_str().unwrap().contains("lost cannot be started here"), "{view}");

    place.write("jobs.yaml", "version: 1\njobs: {a: {comand: [x]}}\n");
    let view = doctor(&place, 1, &["--store", "sqlite:nothing/here.db"]);
    assert!(check(&view, "jobs-file")["findings"][0]["what"].as_str().unwrap().starts_with("jobs.yaml:2:"), "{view}");
    assert_eq!(check(&view, "programs")["why"], "the jobs file is wrong");
}

/// Jobs with these addresses of databases, `report` with the first.
fn with_databases(urls: &[(&str, &str)]) -> String {
    let job = |(name, url): &(&str, &str)| {
        format!("  {name}: {{schedule: '@at 2099-01-01T00:00:00Z', sql: {{database: '{url}', statement: SELECT 1}}}}\n")
    };
    format!("version: 1\njobs:\n{}", urls.iter().map(job).collect::<String>())
}

/// What is found of the database of a job.
fn said_of(view: &Value, job: &str) -> Vec<String> {
    let findings = check(view, "databases")["findings"].as_array().unwrap();
    let all = findings.iter().map(|found| format!("{}: {}", found["level"].as_str().unwrap(), found["what"]));
    all.filter(|found| found.contains(&format!("the database of {job} "))).collect()
}

#[test]
fn a_database_is_examined_before_a_run_fails_in_it() {
    let postgres = Server::shared(Kind::Postgres);
    let (ready, new, closed) = (postgres.database(), postgres.database(), postgres.database());
    let maria = Server::shared(Kind::Mariadb).database();
    let place = Place::with("version: 1\njobs: {}\n");
    let printed = place.run(&["guard", "sql", "postgres"]).stdout();
    postgres.ask(&ready.name, &printed);
    // A user who may log in, and neither make tables nor write them.
    postgres.ask(&closed.name, "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE guest LOGIN PASSWORD 'guest'");
    let guest = closed.url.replacen(&format!("{USER}:{PASSWORD}"), "guest:guest", 1);
    let wrong = ready.url.replacen(PASSWORD, "not-this-one", 1);
    let urls = [
        ("ready", ready.url.as_str()),
        ("new", &new.url),
        ("maria", &maria.url),
        ("guest", &guest),
        ("wrong", &wrong),
        ("file", "sqlite:shop.db"),
        ("nowhere", "sqlite:no/such/directory/shop.db"),
    ];
    place.write("jobs.yaml", &with_databases(&urls));
    let view = doctor(&place, 1, &["--store", "sqlite:nothing/here.db"]);
    assert_eq!(said_of(&view, "ready"), [""; 0], "{view}");
    for job in ["new", "maria", "file"] {
        assert!(said_of(&view, job)[0].starts_with("warning"), "{job}: {view}");
    }
    for (job, why) in [("guest", "permission denied"), ("wrong", "refuses logins"), ("nowhere", "directory")] {
        let said = said_of(&view, job);
        assert!(said[0].starts_with("broken") && said[0].contains(why), "{job}: {view}");
    }
    assert!(!view.to_string().contains(PASSWORD) && !view.to_string().contains("not-this-one"), "{view}");
    // What was written is gone, and what was not there is not made.
    assert_eq!(postgres.ask(&ready.name, "SELECT count(*) FROM fencron_guard"), "0");
    assert_eq!(postgres.ask(&new.name, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'fencron%'"), "0");
    assert!(!place.path("shop.db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_of_etcd_is_asked() {
    let mut cluster = EtcdCluster::start(3).await;
    let place = Place::with(FINE);
    let urls: Vec<String> = cluster.members.iter().map(Etcd::endpoint).collect();
    let url = format!("etcd://{}", urls.join(","));
    let node = place.starting("a", &["jobs.yaml", "--store", &url]);
    node.wait_for("leading");
    let view = doctor(&place, 0, &["--store", &url]);
    assert_ne!(check(&view, "etcd-members")["state"], "broken", "{view}");
    assert!(!check(&view, "etcd-members").to_string().contains("do not answer"), "{view}");
    assert_eq!(check(&view, "clocks")["state"], "ok", "{view}");
    cluster.members[2].kill();
    let view = doctor(&place, 0, &["--store", &url]);
    let silent = check(&view, "etcd-members").to_string();
    assert!(silent.contains(&format!("1 of 3 members that --store names do not answer: {}", urls[2])), "{view}");
    // With most of them gone the store is away, and it is said of which members.
    cluster.members[1].kill();
    let view = doctor(&place, 1, &["--store", &url]);
    assert_eq!(check(&view, "etcd-members")["state"], "broken", "{view}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_the_node_refuses_is_found_from_both_sides() {
    let place = Place::with(FINE);
    let node = place.starting("a", &["jobs.yaml", "--listen", "127.0.0.1:0"]);
    node.wait_for("leading");
    place.write("jobs.yaml", "version: 1\njobs: {a: {comand: [x]}}\n");
    node.wait_for("the jobs file is refused");
    let says_so = async || place.run(&["status"]).stdout().contains("the jobs file is refused").then_some(());
    until("the status says so", says_so).await;
    let view = doctor(&place, 1, &[]);
    assert_eq!(check(&view, "jobs-file")["state"], "broken", "{view}");
    let found = &check(&view, "jobs-file-agrees")["findings"][0]["what"];
    assert_eq!(found, "refused, so that an older jobs file stays in force: by a", "{view}");
}

#[test]
fn what_a_node_would_not_start_with_is_found() {
    let place = Place::with(FINE);
    let certificates = Certificates::make();
    let file = |name: &str| certificates.path(name).display().to_string();
    place.write("auth.yaml", "tokens: []\n");
    std::fs::set_permissions(place.path("auth.yaml"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let tls = ["--tls-cert", &file("server.pem"), "--tls-key", &file("client.key")];
    let view = doctor(&place, 1, &[&["--store", "sqlite:nothing/here.db", "--auth", "auth.yaml"], &tls[..]].concat());
    assert_eq!(check(&view, "auth-file")["state"], "broken", "{view}");
    let found = check(&view, "certificates").to_string();
    assert!(found.contains("--tls-cert with --tls-key") && found.contains("ends in 1 days"), "{view}");
}

#[test]
fn the_units_of_systemd_are_judged_by_the_grace() {
    let place = Place::with(FINE);
    let answer =
        "#!/bin/sh\nprintf 'Id=fencron.service\\nLoadState=loaded\\nKillMode=mixed\\nTimeoutStopUSec=1min\\n'\n";
    place.write("systemctl", answer);
    std::fs::set_permissions(place.path("systemctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", place.path("").display(), std::env::var("PATH").unwrap());
    let ask = |grace: &str| {
        let args =
            ["doctor", "jobs.yaml", "-o", "json", "--store", "sqlite:nothing/here.db", "--shutdown-grace", grace];
        let output = place.command(&args).env("PATH", &path).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(check(&ask("30s"), "units")["state"], "ok");
    let view = ask("5m");
    let found = check(&view, "units")["findings"][0]["what"].as_str().unwrap();
    assert!(found.contains("fencron.service is killed 1m after it is asked to stop, and may need 5m 22s"), "{view}");
}
