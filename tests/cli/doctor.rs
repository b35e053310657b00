//! `fencron doctor`: what it finds, with the store and without.

use std::os::unix::fs::PermissionsExt as _;

use fencron::store::{AnyStore, Keys, Store as _};
use fencron::time::Clock;
use serde_json::Value;

use super::Place;
use super::support::certificates::Certificates;

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
