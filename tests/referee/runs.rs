//! What was started: when, how often, and how many at once.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::record::{Attempt, Fact, JobRule, Life, Millis, Record, State, job_of};
use super::{Findings, Rule};

pub(super) fn judge(record: &Record, found: &mut Findings) {
    trust(record, found);
    starts(record, found);
    overlap(record, found);
    nothing_left(record, found);
}

/// The deadline is recomputed from what was sent and acknowledged, whatever the node believes.
fn trust(record: &Record, found: &mut Findings) {
    let mut leases: HashMap<u64, u64> = HashMap::new();
    let mut deadlines: HashMap<(&Life, u64), Millis> = HashMap::new();
    for (_, fact) in &record.facts {
        if let Fact::Owner { fence, lease, .. } = fact {
            leases.insert(*fence, *lease);
        }
    }
    for (at, fact) in &record.facts {
        match fact {
            Fact::Acknowledged { life, lease, sent, ttl } => {
                let until = sent + ttl.min(&record.ttl).saturating_sub(record.margin);
                let deadline = deadlines.entry((life, *lease)).or_default();
                *deadline = until.max(*deadline);
            }
            Fact::Started { life, attempt, own } => {
                let lease = leases.get(&attempt.fence);
                let deadline = lease.and_then(|lease| deadlines.get(&(life, *lease))).copied().unwrap_or(0);
                // Both were cut down to whole milliseconds.
                if *own > deadline {
                    found.add(
                        Rule::NoStartPastTrust,
                        *at,
                        format!("{life} started {attempt:?} at {own} of its clock, trusted until {deadline}"),
                    );
                }
            }
            _ => {}
        }
    }
}

fn starts(record: &Record, found: &mut Findings) {
    let once: HashSet<&str> =
        record.rules.iter().filter(|rule| rule.at_most_once).map(|rule| rule.name.as_str()).collect();
    let mut started: HashSet<(&str, u32)> = HashSet::new();
    // The last attempt of a run that is neither known to have failed nor resolved by a person.
    let mut last: HashMap<&str, u32> = HashMap::new();
    for (at, fact) in &record.facts {
        match fact {
            Fact::Started { life, attempt, .. } => {
                let run = attempt.run.as_str();
                if !started.insert((run, attempt.number)) {
                    found.add(Rule::NoDoubleStart, *at, format!("{life} started {attempt:?} once more"));
                }
                if let Some(before) = last.insert(run, attempt.number)
                    && once.contains(job_of(run))
                    && before != attempt.number
                {
                    found.add(
                        Rule::NoDoubleStart,
                        *at,
                        format!("{life} started {attempt:?}, with the end of attempt {before} not known"),
                    );
                }
            }
            Fact::Open { run, state: State::Retrying, attempt, .. } if last.get(run.as_str()) == Some(attempt) => {
                last.remove(run.as_str());
            }
            Fact::DoneGone { run, .. } => {
                last.remove(run.as_str());
            }
            _ => {}
        }
    }
}

/// Judged within one term of one node, where everything that runs is in one pair of hands.
fn overlap(record: &Record, found: &mut Findings) {
    let rules: HashMap<&str, &JobRule> = record.rules.iter().map(|rule| (rule.name.as_str(), rule)).collect();
    let mut running: HashMap<(&Life, &str), Vec<&Attempt>> = HashMap::new();
    for (at, fact) in &record.facts {
        match fact {
            Fact::Started { life, attempt, .. } => {
                let job = job_of(&attempt.run);
                let beside = running.entry((life, job)).or_default();
                beside.push(attempt);
                let of_term = beside.iter().filter(|other| other.fence == attempt.fence).count();
                if rules.get(job).is_some_and(|rule| of_term > rule.at_once) {
                    found.add(Rule::Overlap, *at, format!("{life} runs {of_term} of {job} at once: {beside:?}"));
                }
            }
            Fact::Ended { life, attempt } => {
                if let Some(beside) = running.get_mut(&(life, job_of(&attempt.run))) {
                    beside.retain(|other| *other != attempt);
                }
            }
            _ => {}
        }
    }
}

/// A lease that has run out has had its time; one that was revoked for its process has had only what is looked at here.
fn nothing_left(record: &Record, found: &mut Findings) {
    let go_on: HashSet<&str> =
        record.rules.iter().filter(|rule| rule.finishes).map(|rule| rule.name.as_str()).collect();
    let mut running: HashMap<&Life, BTreeSet<&Attempt>> = HashMap::new();
    let mut up: HashSet<&Life> = HashSet::new();
    let mut executed: BTreeSet<&Life> = BTreeSet::new();
    for (at, fact) in &record.facts {
        match fact {
            Fact::Up(life) => drop(up.insert(life)),
            Fact::Down(life) => drop(up.remove(life)),
            Fact::Started { life, attempt, .. } if !go_on.contains(job_of(&attempt.run)) => {
                running.entry(life).or_default().insert(attempt);
            }
            Fact::Ended { life, attempt } => {
                running.entry(life).or_default().remove(attempt);
            }
            Fact::WillExecuted { life } => drop(executed.insert(life)),
            Fact::Owner { node, .. } => {
                for life in std::mem::take(&mut executed) {
                    let left = running.get(life).into_iter().flatten().next();
                    if up.contains(life) || left.is_some() {
                        let is = if up.contains(life) { "lives" } else { "is dead" };
                        let what =
                            format!("{node} leads in the place of {life}, which {is}, and of which runs {left:?}");
                        found.add(Rule::NothingLeftAtTakeover, *at, what);
                    }
                }
            }
            _ => {}
        }
    }
}
