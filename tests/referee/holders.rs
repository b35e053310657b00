//! What is promised to those who hold locks, stand for election and do things once.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Fact, Life, Millis, Record};
use super::{Findings, Rule};

/// The locks that programs use in the simulation, and the one of the elected instance.
pub const LOCKS: [&str; 2] = ["door", "window"];
pub const ELECTED: &str = "elected";

/// What goes by a signal alone may act for so long after its process stood still: timers stand still as well, so each looks
/// at the clock anew as often as that.
const LOOKS_EVERY: Millis = 1_100;

/// How long after the last trouble everything that was waited for has been had.
const SERVED_WITHIN: Millis = 25_000;

pub(super) fn judge(record: &Record, found: &mut Findings) {
    fences(record, found);
    one_holder(record, found);
    claims(record, found);
    once(record, found);
    served(record, found);
}

/// In a store that was restored from a backup, nothing is granted or done under a fence that may have been given out before
/// that; once it is repaired, an instance is elected again.
pub(super) fn judge_restore(record: &Record, found: &mut Findings) {
    let mut highest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut before: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut repaired, mut elected) = (false, false);
    for (at, fact) in &record.facts {
        match fact {
            Fact::Restored { .. } => before = highest.clone(),
            Fact::Repaired => repaired = true,
            Fact::Granted { lock, fence, node, .. } => {
                if let Some(before) = before.get(lock.as_str()).filter(|before| fence <= before) {
                    let what = format!("{node} was granted fence {fence} of {lock}, after {before}");
                    found.add(Rule::Restored, *at, what);
                }
                let highest = highest.entry(lock).or_default();
                *highest = *fence.max(highest);
            }
            Fact::Acted { life, lock, fence, .. } => {
                if let Some(before) = before.get(lock.as_str()).filter(|before| fence < before) {
                    let what = format!("{life} acts under fence {fence} of {lock}, and {before} had been granted");
                    found.add(Rule::Restored, *at, what);
                }
            }
            Fact::Handed { .. } => elected = repaired,
            _ => {}
        }
    }
    if repaired && !elected {
        found.add(Rule::Restored, record.end, "no instance is handed an occurrence after the repair");
    }
}

fn fences(record: &Record, found: &mut Findings) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for (at, fact) in &record.facts {
        let Fact::Granted { lock, fence, node, .. } = fact else { continue };
        let last = last.entry(lock).or_default();
        if *fence <= *last {
            found.add(Rule::FencesGrow, *at, format!("{node} was granted {lock} with fence {fence} after {last}"));
        }
        *last = *fence.max(last);
    }
}

/// Nobody acts under a hold once somebody has acted under a later one.
fn one_holder(record: &Record, found: &mut Findings) {
    let mut highest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut taken: BTreeSet<(&str, u64)> = BTreeSet::new();
    let mut stood_still: BTreeMap<&str, Millis> = BTreeMap::new();
    for (at, fact) in &record.facts {
        match fact {
            // Its holder hears of it when it does: a fence is what protects.
            Fact::TakenAway { lock, fence } => drop(taken.insert((lock, *fence))),
            Fact::Recovered(node) => drop(stood_still.insert(node, *at)),
            Fact::Acted { life, lock, fence, looked } => {
                let highest = highest.entry(lock).or_default();
                let late = stood_still.get(life.node.as_str()).is_some_and(|until| *at <= until + LOOKS_EVERY);
                let is_excused = taken.contains(&(lock.as_str(), *fence)) || (late && !looked);
                if *fence < *highest && !is_excused {
                    let what =
                        format!("{life} acts under fence {fence} of {lock}, after fence {highest} was acted under");
                    found.add(Rule::OneHolder, *at, what);
                }
                *highest = *fence.max(highest);
            }
            _ => {}
        }
    }
}

/// Each occurrence is claimed once, in the order of the instants, and handed to one instance.
fn claims(record: &Record, found: &mut Findings) {
    let mut decided: BTreeMap<&str, (i64, u64)> = BTreeMap::new();
    let mut handed: BTreeMap<(&str, i64), &Life> = BTreeMap::new();
    for (at, fact) in &record.facts {
        match fact {
            Fact::Claimed { job, instant, fence, .. } => {
                let before = decided.insert(job, (*instant, *fence));
                // A call takes over what it has claimed under an earlier hold of its own.
                if let Some((until, under)) = before.filter(|before| *before >= (*instant, *fence)) {
                    let what = format!("{job} at {instant} under {fence}, after {until} under {under}");
                    found.add(Rule::ClaimedOnce, *at, what);
                }
            }
            Fact::Handed { life, job, at: instant, .. } => {
                if let Some(other) = handed.insert((job, *instant), life) {
                    found.add(Rule::ClaimedOnce, *at, format!("{life} was handed {job} at {instant}, as was {other}"));
                }
            }
            _ => {}
        }
    }
}

/// What one key came to.
#[derive(Default)]
struct Key<'a> {
    began: u32,
    state: &'a str,
}

fn once(record: &Record, found: &mut Findings) {
    let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
    for (at, fact) in &record.facts {
        match fact {
            Fact::Began { life, key, fence } => {
                let of = keys.entry(key).or_default();
                of.began += 1;
                if of.began > 1 && !is_repeatable(key) {
                    let what = format!("{life} begins {key} again under fence {fence}, which may not be repeated");
                    found.add(Rule::DoneOnce, *at, what);
                }
                if of.state == "done" {
                    found.add(Rule::DoneOnce, *at, format!("{life} begins {key} under fence {fence}, which is done"));
                }
            }
            Fact::Once { key, state, .. } => {
                let of = keys.entry(key).or_default();
                if of.state == "done" {
                    found.add(Rule::DoneOnce, *at, format!("{key} was done, and is now {state}"));
                }
                of.state = state;
            }
            Fact::Answered { life, key, how: "done" } => {
                let of = keys.entry(key).or_default();
                if of.state != "done" || of.began == 0 {
                    let what = format!("{life} learns that {key} is done, which is `{}`, begun {}", of.state, of.began);
                    found.add(Rule::DoneOnce, *at, what);
                }
            }
            _ => {}
        }
    }
}

/// As its caller has named it.
fn is_repeatable(key: &str) -> bool {
    key.starts_with("again-")
}

/// Everybody is served in the end.
fn served(record: &Record, found: &mut Findings) {
    let from = record.healed + SERVED_WITHIN;
    let mut idle = true;
    let mut calls: BTreeMap<(&Life, &str), Millis> = BTreeMap::new();
    for (at, fact) in &record.facts {
        match fact {
            Fact::Handed { .. } if *at >= from => idle = false,
            Fact::Called { life, key } => drop(calls.insert((life, key), *at)),
            Fact::Answered { life, key, .. } => drop(calls.remove(&(life, key.as_str()))),
            Fact::Down(life) => calls.retain(|(of, _), _| *of != life),
            _ => {}
        }
    }
    if idle {
        found.add(Rule::Served, record.end, format!("no instance was handed an occurrence since {from} ms"));
    }
    for ((life, key), since) in calls.into_iter().filter(|(_, since)| record.end - since > SERVED_WITHIN) {
        found.add(Rule::Served, record.end, format!("{life} waits for {key} since {since} ms"));
    }
}
