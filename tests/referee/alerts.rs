//! Alerts: each bad end has one, each is sent, and none by a leader that was replaced before it decided to.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Fact, Millis, Record, instant, job_of};
use super::{Findings, Rule};

pub(super) fn judge(record: &Record, found: &mut Findings) {
    each_bad_end_has_its_alert(record, found);
    each_alert_is_sent(record, found);
    no_replaced_leader_sends(record, found);
}

/// An end of a run, as the transaction of a revision has it.
struct End<'a> {
    at: Millis,
    run: &'a str,
    verdict: &'a str,
}

/// What a node writes has its alert in the same transaction: what is in doubt, always; what failed or took too long,
/// where it is the job's latest run, and the job was never paused.
fn each_bad_end_has_its_alert(record: &Record, found: &mut Findings) {
    let (mut ends, mut alerted, mut by_node) = (BTreeMap::<u64, Vec<End>>::new(), BTreeSet::new(), BTreeSet::new());
    let mut paused = BTreeSet::new();
    for (at, fact) in &record.facts {
        match fact {
            Fact::Done { revision, run, verdict, many: None, .. } => {
                ends.entry(*revision).or_default().push(End { at: *at, run, verdict });
            }
            Fact::Alerted { revision, run, .. } => drop(alerted.insert((*revision, run.as_str()))),
            Fact::Wrote { revision, by: Some(_) } => drop(by_node.insert(*revision)),
            Fact::Paused { job } => drop(paused.insert(job.as_deref())),
            _ => {}
        }
    }
    let mut latest: BTreeMap<&str, i64> = BTreeMap::new();
    for (revision, ends) in &ends {
        for End { at, run, verdict } in ends {
            let (job, of_run) = (job_of(run), instant(run).unwrap_or(i64::MAX));
            let is_alone = ends.iter().filter(|end| job_of(end.run) == job).count() == 1;
            let is_latest = latest.get(job).is_none_or(|latest| *latest < of_run) && is_alone;
            let speaks = !paused.contains(&None) && !paused.contains(&Some(job));
            let wants = match *verdict {
                "unknown" => true,
                "failed" | "timed_out" => is_latest && speaks,
                _ => false,
            };
            if wants && by_node.contains(revision) && !alerted.contains(&(*revision, *run)) {
                found.add(Rule::AlertsTold, *at, format!("{run} ended as {verdict} without an alert"));
            }
        }
        for End { run, .. } in ends {
            let (latest, of_run) = (latest.entry(job_of(run)).or_insert(i64::MIN), instant(run).unwrap_or(i64::MAX));
            *latest = (*latest).max(of_run);
        }
    }
}

/// What was put for the channel is sent by itself, or counted in a summary that is sent, or waits to be counted in one.
fn each_alert_is_sent(record: &Record, found: &mut Findings) {
    let (mut waiting, mut put, mut told) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    let (mut sending, mut counted) = (BTreeSet::new(), 0);
    for (at, fact) in &record.facts {
        match fact {
            Fact::Alerted { id, .. } => {
                put.insert(id.as_str());
                waiting.insert(id.as_str(), *at);
            }
            Fact::AlertGone { id, .. } => drop(waiting.remove(id.as_str())),
            Fact::Channel { sending: ids, counted: alerts, .. } => {
                sending = ids.iter().map(String::as_str).collect();
                counted = *alerts;
            }
            Fact::Told { id, alerts, .. } => {
                let is_one = put.contains(id.as_str());
                if !is_one && !id.starts_with("summary:") {
                    found.add(Rule::AlertsTold, *at, format!("{id} was sent, and is no alert that was put"));
                }
                told.insert(id.as_str(), if is_one { 0 } else { *alerts });
            }
            _ => {}
        }
    }
    for (id, at) in waiting.iter().filter(|(_, at)| **at < record.healed) {
        found.add(Rule::AlertsTold, *at, format!("{id} waits still, though all is well again"));
    }
    let is_missing = |id: &&&str| !told.contains_key(**id) && !waiting.contains_key(**id) && !sending.contains(**id);
    let (missing, summarized) = (put.iter().filter(is_missing).count() as u64, told.values().sum::<u64>() + counted);
    if missing > summarized {
        let what = format!("{missing} alerts were not sent, and summaries count {summarized}");
        found.add(Rule::AlertsTold, record.end, what);
    }
}

/// One message may be on its way when its leader is replaced: no sender can take that back.
fn no_replaced_leader_sends(record: &Record, found: &mut Findings) {
    let (mut newest, mut late) = (0, BTreeMap::<u64, u32>::new());
    for (at, fact) in &record.facts {
        match fact {
            Fact::Owner { fence, .. } => newest = newest.max(*fence),
            Fact::Told { life, fence, id, .. } if *fence < newest => {
                let late = late.entry(*fence).or_default();
                *late += 1;
                if *late > 1 {
                    let what = format!("{life} sent {id} under fence {fence}, which {newest} had replaced before");
                    found.add(Rule::AlertsTold, *at, what);
                }
            }
            _ => {}
        }
    }
}
