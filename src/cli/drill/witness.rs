//! What the store came to hold, as facts. The witness reads the records as JSON and shares no code with the nodes, so that
//! a fault in how they read and write is not one in how they are judged.

use std::collections::HashMap;

use serde_json::Value;

use super::judge::Fact;
use super::log::Log;
use crate::store::{Change, Revision, Watch, Watched};

/// Records what happens in the namespace with this prefix, until the watch ends.
pub(super) async fn look_on(mut watch: Watch, prefix: String, log: Log) {
    loop {
        match watch.next().await {
            Some(Watched::Changes(changes)) => facts(&prefix, &changes).into_iter().for_each(|fact| log.add(fact)),
            Some(Watched::Compacted(revision)) => {
                let why = format!("the store has compacted its history up to revision {}", revision.0);
                return log.add(Fact::Blind { why });
            }
            None => return log.add(Fact::Blind { why: "the watch of the store has ended".to_owned() }),
        }
    }
}

/// What changes say, in their order.
fn facts(prefix: &str, changes: &[Change]) -> Vec<Fact> {
    let values: Vec<(&str, Revision, Revision, Value)> =
        changes.iter().filter_map(|change| put(prefix, change)).collect();
    // A claim moves the watermark in the transaction that opens the runs.
    let claims: HashMap<Revision, u64> = values
        .iter()
        .filter(|(key, ..)| *key == "watermark")
        .filter_map(|(_, at, _, value)| Some((*at, value["r"]["batch"].as_str()?.split('-').next()?.parse().ok()?)))
        .collect();
    let fact = |(key, at, created, value): &(&str, Revision, Revision, Value)| {
        if *key == "lock/leader/owner" {
            let fence = value["base"].as_u64()?.checked_add(created.0)?;
            return Some(Fact::Led { fence, node: value["node"].as_str()?.to_owned() });
        }
        if let Some(run) = key.strip_prefix("open/") {
            return Some(Fact::Claimed { run: run.to_owned(), fence: *claims.get(at)? });
        }
        if key.starts_with("~done/") {
            let text = |name: &str| value["r"][name].as_str().map(str::to_owned);
            return Some(Fact::Verdict { run: text("id")?, verdict: text("verdict")? });
        }
        None
    };
    values.iter().filter_map(fact).collect()
}

fn put<'a>(prefix: &str, change: &'a Change) -> Option<(&'a str, Revision, Revision, Value)> {
    let Change::Put(entry) = change else { return None };
    let key = entry.key.strip_prefix(prefix)?;
    Some((key, entry.modified, entry.created, serde_json::from_slice(&entry.value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entry;

    fn put(key: &str, revision: u64, created: u64, value: &str) -> Change {
        Change::Put(Entry {
            key: format!("/fencron/v1/drill/{key}"),
            value: value.into(),
            created: Revision(created),
            modified: Revision(revision),
            lease: None,
        })
    }

    #[test]
    fn grants_claims_and_verdicts_are_read_and_nothing_else() {
        let changes = [
            put("lock/leader/owner", 7, 7, r#"{"base": 100, "node": "a"}"#),
            put("lock/leader/owner", 8, 7, r#"{"base": 100, "node": "a"}"#),
            put("lock/other/owner", 8, 8, r#"{"base": 100, "node": "a"}"#),
            put("watermark", 9, 3, r#"{"v": 1, "r": {"instant": "2026-11-21T02:00:00Z", "batch": "107-3"}}"#),
            put("open/canary@2026-11-21T02:00:00Z", 9, 9, r#"{"v": 1, "r": {"state": "claimed"}}"#),
            put("open/canary@2026-11-21T02:00:00Z", 10, 9, r#"{"v": 1, "r": {"state": "claimed", "attempt": 1}}"#),
            put("~done/canary/x", 11, 11, r#"{"r": {"id": "canary@2026-11-21T02:00:00Z", "verdict": "succeeded"}}"#),
            put("~stat/1", 11, 11, r#"{"r": {"counts": {}}}"#),
        ];
        let run = "canary@2026-11-21T02:00:00Z".to_owned();
        let led = Fact::Led { fence: 107, node: "a".into() };
        let expected = [
            led.clone(),
            led,
            Fact::Claimed { run: run.clone(), fence: 107 },
            Fact::Verdict { run, verdict: "succeeded".into() },
        ];
        assert_eq!(facts("/fencron/v1/drill/", &changes), expected);
    }
}
