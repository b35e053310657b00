//! PURE: what the record of a drill shows.
//!
//! The judge knows neither how leaders are elected nor how effects are made. It recomputes what is promised from what was
//! seen from outside: what the store came to hold, what arrived at the sink, what its guard let in, and which faults were
//! seen to have happened. A drill in which nothing happened is no proof, and fails.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use crate::job::{JobName, RunId};
use crate::time::Wall;

/// Since the drill began.
pub(super) type Millis = u64;

/// What was seen, and when.
pub(super) type Record = Vec<(Millis, Fact)>;

/// Something that was seen. Facts of the store are in the order of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// The store granted the leadership.
    Led { fence: u64, node: String },
    /// An occurrence was claimed.
    Claimed { run: String, fence: u64 },
    /// A run has ended.
    Verdict { run: String, verdict: String },
    /// A request arrived.
    Arrived { run: String, attempt: u32, fence: u64 },
    /// It was answered, or its sender has closed the connection.
    Answered { run: String, attempt: u32, fence: u64 },
    /// A request was given to the guard. The network may have held it back before.
    Judged { run: String, fence: u64 },
    /// The guard let it in.
    Accepted { run: String, fence: u64 },
    /// A fault of the node that leads under this fence: whether it was seen to have happened.
    Fault { fence: u64, happened: Result<(), String> },
    /// A node has ended by itself.
    Ended { node: String, how: String },
    /// A part of what happened was not seen.
    Blind { why: String },
    /// The drill waited for what did not come.
    Stuck { why: String },
}

/// What a drill has to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// The job that is due each second.
    pub canary: JobName,
    /// Its first and its last occurrence that are judged.
    pub first: Wall,
    pub last: Wall,
    pub faults: usize,
    pub gap_most: Millis,
    /// Each fault has to bring a stale effect to the sink.
    pub with_stale: bool,
    /// How long after a fault its leader may begin attempts. `None`: nothing can be said of that, since a process that
    /// stood still sends what it was about to send when it goes on.
    pub begins_until: Option<Millis>,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Rule {
    Lost,
    ClaimedTwice,
    /// By a leader that had been replaced.
    ClaimedLate,
    /// A verdict that stood was written over.
    VerdictChanged,
    StartedTwice,
    /// By a leader that had been replaced, after its lease could last.
    StartedLate,
    /// Two runs of a job at the same time, under one leader.
    Overlapping,
    AcceptedTwice,
    StaleAccepted,
    FenceFell,
    GapTooLong,
    NoFault,
    NoTakeOver,
    /// Nothing stale arrived at the sink, so that nothing is known of its guard.
    NoStale,
    NodeEnded,
    Blind,
    Stuck,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub rule: Rule,
    pub what: String,
}

/// What the faults did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TakeOver {
    /// From the fault until the store granted the leadership again.
    pub leaderless: Millis,
    /// From the fault until the guard let in the first effect of the new leader.
    pub gap: Millis,
}

/// What the record comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    pub due: usize,
    pub lost: usize,
    pub claimed_twice: usize,
    pub accepted_twice: usize,
    pub stale_sent: usize,
    pub stale_accepted: usize,
    pub take_overs: Vec<TakeOver>,
    pub findings: Vec<Finding>,
}

impl Judgement {
    pub fn has_passed(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, rule: Rule, what: impl Into<String>) {
        self.findings.push(Finding { rule, what: what.into() });
    }
}

/// Judges a drill.
pub(super) fn judge(record: &Record, expected: &Expected) -> Judgement {
    let mut judgement = Judgement::default();
    claims(record, &mut judgement);
    verdicts(record, expected, &mut judgement);
    starts(record, &mut judgement);
    guard(record, &mut judgement);
    occurrences(record, expected, &mut judgement);
    faults(record, expected, &mut judgement);
    for (_, fact) in record {
        match fact {
            Fact::Ended { node, how } => judgement.add(Rule::NodeEnded, format!("the node {node} has ended: {how}")),
            Fact::Blind { why } => judgement.add(Rule::Blind, format!("not all was seen that happened: {why}")),
            Fact::Stuck { why } => judgement.add(Rule::Stuck, why.clone()),
            _ => {}
        }
    }
    judgement
}

fn job_of(run: &str) -> &str {
    run.split_once('@').map_or(run, |(job, _)| job)
}

/// Fences grow, and an occurrence is claimed once, by the leader at that time.
fn claims(record: &Record, found: &mut Judgement) {
    let (mut leads, mut leader) = (0, "");
    let mut claimed = HashSet::new();
    for (_, fact) in record {
        match fact {
            // A handle that its holder writes again is the same grant.
            Fact::Led { fence, node } if (*fence, node.as_str()) == (leads, leader) => {}
            Fact::Led { fence, node } => {
                if *fence <= leads {
                    found.add(Rule::FenceFell, format!("{node} was granted fence {fence} after {leads}"));
                }
                (leads, leader) = (*fence, node);
            }
            Fact::Claimed { run, fence } => {
                if !claimed.insert(run) {
                    found.claimed_twice += 1;
                    found.add(Rule::ClaimedTwice, format!("{run} was claimed again, under fence {fence}"));
                }
                if *fence != leads {
                    let what = format!("{run} was claimed under fence {fence} while fence {leads} led");
                    found.add(Rule::ClaimedLate, what);
                }
            }
            _ => {}
        }
    }
}

fn verdicts(record: &Record, expected: &Expected, found: &mut Judgement) {
    let mut stands: HashMap<&str, &str> = HashMap::new();
    for (_, fact) in record {
        let Fact::Verdict { run, verdict } = fact else { continue };
        // Skips of another job in a row are one verdict, which is written again with each of them.
        if job_of(run) != expected.canary.as_str() {
            continue;
        }
        if let Some(before) = stands.insert(run, verdict) {
            found.add(Rule::VerdictChanged, format!("{run} became {verdict} after it was {before}"));
        }
    }
}

/// An attempt is started once, and no two runs of a job are at work at once under one leader: no job of a drill allows
/// that.
fn starts(record: &Record, found: &mut Judgement) {
    let mut started = HashSet::new();
    let mut at_work: HashMap<(&str, u64), BTreeSet<(&str, u32)>> = HashMap::new();
    for (_, fact) in record {
        match fact {
            Fact::Arrived { run, attempt, fence } => {
                if !started.insert((run, attempt)) {
                    found.add(Rule::StartedTwice, format!("attempt {attempt} of {run} arrived again"));
                }
                let beside = at_work.entry((job_of(run), *fence)).or_default();
                beside.insert((run, *attempt));
                if beside.len() > 1 {
                    let runs: Vec<&str> = beside.iter().map(|(run, _)| *run).collect();
                    found.add(Rule::Overlapping, format!("at work at once under fence {fence}: {}", runs.join(", ")));
                }
            }
            Fact::Answered { run, attempt, fence } => {
                if let Some(beside) = at_work.get_mut(&(job_of(run), *fence)) {
                    beside.remove(&(run, *attempt));
                }
            }
            _ => {}
        }
    }
}

/// Once an effect of a leader is accepted, no effect of an earlier one is.
fn guard(record: &Record, found: &mut Judgement) {
    let mut highest = 0;
    let mut accepted = HashSet::new();
    for (_, fact) in record {
        match fact {
            Fact::Judged { fence, .. } if *fence < highest => found.stale_sent += 1,
            Fact::Accepted { run, fence } => {
                if *fence < highest {
                    found.stale_accepted += 1;
                    let what = format!("the effect of {run} under fence {fence} was accepted after fence {highest}");
                    found.add(Rule::StaleAccepted, what);
                }
                if !accepted.insert(run) {
                    found.accepted_twice += 1;
                    found.add(Rule::AcceptedTwice, format!("the effect of {run} was accepted again"));
                }
                highest = highest.max(*fence);
            }
            _ => {}
        }
    }
}

/// Each due occurrence has its effect and its verdict.
fn occurrences(record: &Record, expected: &Expected, found: &mut Judgement) {
    let (mut accepted, mut ended, mut claimed) = (HashSet::new(), HashMap::new(), HashSet::new());
    for (_, fact) in record {
        match fact {
            Fact::Accepted { run, .. } => drop(accepted.insert(run.as_str())),
            Fact::Verdict { run, verdict } => drop(ended.insert(run.as_str(), verdict)),
            Fact::Claimed { run, .. } => drop(claimed.insert(run.as_str())),
            _ => {}
        }
    }
    for at in (expected.first.as_millis()..=expected.last.as_millis()).step_by(1000) {
        let run = RunId::of(&expected.canary, Wall::from_millis(at)).to_string();
        found.due += 1;
        let verdict = ended.get(run.as_str());
        let why = match (claimed.contains(run.as_str()), accepted.contains(run.as_str()), verdict) {
            (true, true, Some(_)) => continue,
            (true, true, None) => "had its effect, and never ended".to_owned(),
            (true, false, Some(verdict)) => format!("ended as {verdict} without its effect"),
            (true, false, None) => "was claimed, and never done".to_owned(),
            (false, _, _) => "was never claimed".to_owned(),
        };
        found.lost += 1;
        found.add(Rule::Lost, format!("{run} {why}"));
    }
}

/// Each fault has happened, and was followed by another leader in time; with a stale effect, where there has to be one.
fn faults(record: &Record, expected: &Expected, found: &mut Judgement) {
    let at_faults: Vec<usize> = (0..record.len()).filter(|at| matches!(record[*at].1, Fact::Fault { .. })).collect();
    if at_faults.len() < expected.faults {
        let (made, meant) = (at_faults.len(), expected.faults);
        found.add(Rule::NoFault, format!("{made} of {meant} faults were made: there was no leader for the others"));
    }
    for (nth, begin) in at_faults.iter().enumerate() {
        let end = at_faults.get(nth + 1).copied().unwrap_or(record.len());
        let (at, Fact::Fault { fence, happened }) = &record[*begin] else { continue };
        if let Err(why) = happened {
            found.add(Rule::NoFault, format!("the fault of the leader under fence {fence} did not happen: {why}"));
        }
        let after = Aftermath::of(&record[*begin..end], *fence);
        match (after.led, after.accepted) {
            (Some(led), Some(accepted)) => {
                let take_over = TakeOver { leaderless: led.saturating_sub(*at), gap: accepted.saturating_sub(*at) };
                if take_over.gap > expected.gap_most {
                    let (gap, most) = (take_over.gap, expected.gap_most);
                    let what = format!("no effect for {gap} ms after the leader under fence {fence}: over {most} ms");
                    found.add(Rule::GapTooLong, what);
                }
                found.take_overs.push(take_over);
            }
            (None, _) => found.add(Rule::NoTakeOver, format!("no node led after the one under fence {fence}")),
            (_, None) => {
                found.add(Rule::NoTakeOver, format!("no effect was accepted of a leader after fence {fence}"));
            }
        }
        if let Some(until) = expected.begins_until {
            begun_late(&record[*begin..], (*fence, at + until), found);
        }
        if expected.with_stale && !after.has_stale {
            let what = format!("no effect of the leader under fence {fence} arrived after one of the next leader");
            found.add(Rule::NoStale, what);
        }
    }
}

/// Once another leads, and no lease from before the fault can last, the leader of before begins nothing.
fn begun_late(facts: &[(Millis, Fact)], (before, until): (u64, Millis), found: &mut Judgement) {
    let mut is_replaced = false;
    for (at, fact) in facts {
        match fact {
            Fact::Led { fence, .. } if *fence > before => is_replaced = true,
            Fact::Arrived { run, attempt, fence } if is_replaced && *fence == before && *at > until => {
                let late = at - until;
                let what = format!(
                    "attempt {attempt} of {run} began under fence {fence}, {late} ms after its lease could last"
                );
                found.add(Rule::StartedLate, what);
            }
            _ => {}
        }
    }
}

/// What came after a fault.
struct Aftermath {
    led: Option<Millis>,
    accepted: Option<Millis>,
    has_stale: bool,
}

impl Aftermath {
    fn of(facts: &[(Millis, Fact)], before: u64) -> Aftermath {
        let mut after = Aftermath { led: None, accepted: None, has_stale: false };
        for (at, fact) in facts {
            match fact {
                Fact::Led { fence, .. } if *fence > before => drop(after.led.get_or_insert(*at)),
                Fact::Accepted { fence, .. } if *fence > before => drop(after.accepted.get_or_insert(*at)),
                Fact::Judged { fence, .. } if *fence <= before => after.has_stale |= after.accepted.is_some(),
                _ => {}
            }
        }
        after
    }
}

/// So many of the findings by each rule are shown, and how many there are of it.
pub(super) const SHOWN: usize = 3;

/// The findings that are shown: the first of each rule, and a line about the others.
pub(super) fn shown(findings: &[Finding]) -> Vec<Finding> {
    let mut by_rule: BTreeMap<Rule, Vec<&Finding>> = BTreeMap::new();
    findings.iter().for_each(|finding| by_rule.entry(finding.rule).or_default().push(finding));
    let mut shown = Vec::new();
    for (rule, findings) in by_rule {
        shown.extend(findings.iter().take(SHOWN).map(|finding| (*finding).clone()));
        let more = findings.len().saturating_sub(SHOWN);
        if more > 0 {
            shown.push(Finding { rule, what: format!("and {more} more like these") });
        }
    }
    shown
}

#[cfg(test)]
#[path = "judge/tests.rs"]
mod tests;
