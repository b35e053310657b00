//! Reads the store's own history: what keys came to hold becomes facts. It reads the records as they are documented, as
//! JSON, and shares no code with the program.

use fencron::store::{Change, Entry};
use serde_json::Value;

use super::record::{Claimant, Fact, Many, State};

/// What a change of the namespace with this prefix says; `None` for keys that the referee has no opinion on.
pub fn fact(prefix: &str, change: &Change) -> Option<Fact> {
    let rest = change.key().strip_prefix(prefix)?.to_owned();
    let revision = change.revision().0;
    match change {
        Change::Put(entry) => put(&rest, entry, revision),
        Change::Deleted { .. } => gone(&rest, revision),
    }
}

fn put(rest: &str, entry: &Entry, revision: u64) -> Option<Fact> {
    let value: Value = serde_json::from_slice(&entry.value).ok()?;
    let record = &value["r"];
    if rest == "lock/leader/owner" {
        let base = value["base"].as_u64()?;
        let lease = entry.lease.map_or(0, |lease| lease.0.get());
        return Some(Fact::Owner { revision, fence: base + entry.created.0, node: text(&value["node"])?, lease });
    }
    if let Some(lock) = lock_of(rest) {
        let fence = value["base"].as_u64()? + entry.created.0;
        return Some(Fact::Granted { revision, lock, fence, node: text(&value["node"])? });
    }
    if let Some(place) = rest.strip_prefix("claimed/") {
        let job = place.split_once('/')?.1.to_owned();
        return Some(Fact::Claimed { revision, job, instant: instant(&value["at"])?, fence: value["fence"].as_u64()? });
    }
    if let Some(key) = rest.strip_prefix("~once/").and_then(|place| place.strip_suffix("/at")) {
        return Some(Fact::Once { revision, key: key.to_owned(), state: text(&record["state"])? });
    }
    if rest == "watermark" {
        let fence = record["batch"].as_str()?.split('-').next()?.parse().ok()?;
        return Some(Fact::Decided { revision, instant: instant(&record["instant"])?, fence });
    }
    if rest == "ask/step-down" {
        return Some(Fact::Drains);
    }
    if let Some(job) = rest.strip_prefix("job/") {
        return Some(Fact::Registered { revision, job: job.to_owned(), since: instant(&record["since"])? });
    }
    if let Some(run) = rest.strip_prefix("open/") {
        return open(run, record, revision);
    }
    if let Some(id) = alert(rest) {
        return Some(Fact::Alerted { revision, id, run: text(&record["run"])? });
    }
    if rest.starts_with("~alert/channel/") {
        let sending = record["sending"].as_array()?.iter().filter_map(|message| text(&message["id"])).collect();
        let kinds = record["counted"]["kinds"].as_object().into_iter().flatten();
        return Some(Fact::Channel { revision, sending, counted: kinds.filter_map(|(_, count)| count.as_u64()).sum() });
    }
    if rest == "pause-all" {
        return Some(Fact::Paused { job: None });
    }
    if let Some(job) = rest.strip_prefix("pause/") {
        return Some(Fact::Paused { job: Some(job.to_owned()) });
    }
    if let Some(hour) = rest.strip_prefix("~stat/") {
        let numbers =
            |of: &Value| -> u64 { of.as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum() };
        let ended = numbers(&record["counts"]["runs"]) + numbers(&record["counts"]["skips"]);
        return Some(Fact::Counted { hour: hour.to_owned(), ended });
    }
    if rest.starts_with("~done/") {
        let many = record.get("many").and_then(|many| {
            Some(Many {
                from: instant(&many["from"])?,
                count: many["count"].as_u64()?,
                at_least: many["at_least"].as_bool().unwrap_or(false),
            })
        });
        let (run, verdict) = (text(&record["id"])?, text(&record["verdict"])?);
        return Some(Fact::Done { revision, run, verdict, attempt: record["attempt"].as_u64()? as u32, many });
    }
    None
}

fn open(run: &str, record: &Value, revision: u64) -> Option<Fact> {
    let claimant = record.get("claimant").map(|claimant| Claimant {
        node: claimant["node"].as_str().unwrap_or_default().to_owned(),
        fence: claimant["fence"].as_u64().unwrap_or_default(),
        lease: claimant["lease"].as_u64().unwrap_or_default(),
    });
    let state = match &record["state"] {
        Value::String(state) if state == "claimed" => State::Claimed,
        Value::Object(state) if state.contains_key("waiting") => State::Waiting,
        Value::Object(state) if state.contains_key("retrying") => State::Retrying,
        _ => return None,
    };
    let attempt = record["attempt"].as_u64()? as u32;
    Some(Fact::Open { revision, run: run.to_owned(), state, claimant, attempt })
}

fn gone(rest: &str, revision: u64) -> Option<Fact> {
    if rest == "lock/leader/owner" {
        return Some(Fact::Vacant { revision });
    }
    if let Some(lock) = lock_of(rest) {
        return Some(Fact::Freed { revision, lock });
    }
    if let Some(job) = rest.strip_prefix("job/") {
        return Some(Fact::Forgotten { revision, job: job.to_owned() });
    }
    if let Some(run) = rest.strip_prefix("open/") {
        return Some(Fact::OpenGone { revision, run: run.to_owned() });
    }
    if let Some(id) = alert(rest) {
        return Some(Fact::AlertGone { revision, id });
    }
    // `~done/<job>/<instant with milliseconds>[~<call>]`, and `#` where it was never begun
    let (job, at) = rest.strip_prefix("~done/")?.split_once('/')?;
    let run = format!("{job}@{}", at.trim_end_matches('#').replacen(".000Z", "Z", 1));
    Some(Fact::DoneGone { revision, run })
}

/// The id of an alert that waits: `~alert/out/<channel>/<instant>/<id>`.
fn alert(rest: &str) -> Option<String> {
    rest.strip_prefix("~alert/out/")?.splitn(3, '/').nth(2).map(str::to_owned)
}

/// The lock that a key is the owner's of.
pub fn lock_of(rest: &str) -> Option<String> {
    Some(rest.strip_prefix("lock/")?.strip_suffix("/owner")?.to_owned())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn instant(value: &Value) -> Option<i64> {
    let at = chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
    Some(at.timestamp_millis())
}
