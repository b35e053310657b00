//! The alert rules: what promtool says of them, and that each leads to a page that helps.

use std::collections::BTreeSet;
use std::process::Command;

use serde_yaml::Value;

use crate::{file, text};

fn rules() -> Vec<Value> {
    let rules: Value = serde_yaml::from_str(&text("deploy/alerts.yml")).unwrap();
    let groups = rules["groups"].as_sequence().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_sequence().unwrap()).cloned().collect()
}

fn names(alerts: &[Value], key: &str) -> BTreeSet<String> {
    alerts.iter().map(|alert| alert[key].as_str().unwrap().to_owned()).collect()
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    for (what, path) in [
        (["check", "rules"], "deploy/alerts.yml"),
        (["test", "rules"], "deploy/alerts.test.yml"),
        (["check", "config"], "deploy/prometheus.yml"),
    ] {
        let told = Command::new("promtool").args(what).arg(file(path)).output();
        let told = told.expect("promtool is installed: it is in Debian's prometheus");
        let said = [told.stdout, told.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(told.status.success(), "{path}: {said}");
    }
    let tested: Value = serde_yaml::from_str(&text("deploy/alerts.test.yml")).unwrap();
    let tested = tested["tests"].as_sequence().unwrap().iter().flat_map(|test| {
        let tests = test["alert_rule_test"].as_sequence().unwrap().iter();
        tests.filter(|test| !test["exp_alerts"].as_sequence().unwrap().is_empty())
    });
    let tested: Vec<Value> = tested.cloned().collect();
    assert_eq!(names(&rules(), "alert"), names(&tested, "alertname"), "each is seen to fire");
}

#[test]
fn every_alert_leads_to_what_to_do() {
    let operations = text("docs/operations.md");
    let anchor = |heading: &str| heading.to_lowercase().replace(' ', "-").replace([',', '.', '`'], "");
    let anchors: BTreeSet<String> =
        operations.lines().filter_map(|line| Some(anchor(line.strip_prefix("## ")?))).collect();
    for rule in rules() {
        let annotations = &rule["annotations"];
        let url = annotations["runbook_url"].as_str().unwrap();
        let there = url.strip_prefix("docs/operations.md#").unwrap();
        assert!(anchors.contains(there), "{url} leads nowhere: {anchors:?}");
        assert!(annotations["summary"].as_str().is_some() && rule["labels"]["severity"].as_str().is_some(), "{rule:?}");
    }
}
