//! The dashboard and the alert rules, asked of a real Prometheus that reads from a real node.

use std::process::Command;

use serde_json::Value;

use crate::scene::{Node, Place, until};
use crate::support::ports::Port;
use crate::{file, text};

const JOBS: &str = "
version: 1
namespace: shop
jobs:
  wrong: {schedule: '@every 1s', shell: 'exit 3'}
  tick: {schedule: '@every 1s', command: ['true']}
";

/// What a panel is for is not there while all is well, or is known only later.
const MAY_BE_EMPTY: &[&str] = &["Store size"];

/// The panels with their queries.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            // As Grafana fills in what is chosen.
            let query =
                target["expr"].as_str().unwrap().replace("$__rate_interval", "30s").replace("$namespace", "shop");
            assert!(!query.contains('$'), "{query}");
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    queries
}

fn prometheus(place: &Place, node: &Node) -> Node {
    let config = place.path().join("prometheus.yml");
    let (rules, address) = (file("deploy/alerts.yml"), node.address());
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n\
         - {{job_name: fencron, static_configs: [{{targets: ['{address}']}}]}}\n",
        rules.display()
    );
    std::fs::write(&config, text).unwrap();
    let port = Port::free();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", place.path().join("tsdb").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{}", port.number()));
    Node::new(&mut command, port, &place.path().join("prometheus.log"))
}

/// What Prometheus answers to a query: how many series, or what is wrong with it.
fn ask(prometheus: &Node, query: &str) -> Option<Result<usize, String>> {
    let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let (_, body) = prometheus.ask(&format!("/api/v1/query?query={query}"), "*/*")?;
    let answer: Value = serde_json::from_str(&body).ok()?;
    Some(match answer["status"].as_str()? {
        "success" => Ok(answer["data"]["result"].as_array().unwrap().len()),
        _ => Err(body),
    })
}

#[test]
fn every_query_of_the_dashboard_is_answered_by_a_prometheus_that_reads_a_node() {
    let place = Place::with(JOBS);
    let node = place.node("a", &[]);
    node.comes_to(r#"fencron_job_failing{job_name="wrong"}"#, |failing| failing == 1.0);
    let prometheus = prometheus(&place, &node);
    let queries = queries();
    assert!(queries.len() > 10);
    for (title, query) in &queries {
        let told = std::cell::RefCell::new(String::new());
        let why = || format!("`{query}` of {title}: {}\n{}", told.borrow(), prometheus.log());
        until("the query has data", why, || {
            let answer = ask(&prometheus, query)?;
            *told.borrow_mut() = format!("{answer:?}");
            let series = answer.unwrap_or_else(|wrong| panic!("`{query}` of {title}: {wrong}"));
            (series > 0 || MAY_BE_EMPTY.contains(&title.as_str())).then_some(())
        });
    }
    // And the rules are evaluated over the same.
    until(
        "all rules are evaluated",
        || prometheus.log(),
        || {
            let (_, body) = prometheus.ask("/api/v1/rules", "*/*")?;
            let answer: Value = serde_json::from_str(&body).ok()?;
            let health = |rule: &Value| rule["health"].as_str().unwrap().to_owned();
            let health: Vec<String> = answer["data"]["groups"][0]["rules"].as_array()?.iter().map(health).collect();
            assert!(!health.iter().any(|health| health == "err"), "{body}");
            health.iter().all(|health| health == "ok").then_some(())
        },
    );
}
