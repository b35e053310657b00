//! The referee: judges a [`Record`] of what happened by what fencron promises, and knows nothing of how it is done.
//!
//! Each promise is one [`Rule`]; each rule has a deliberately broken build or a doctored record that it catches (in
//! `tests/sim/broken.rs`), so that none of them is silent for want of an ear.

mod alerts;
mod coverage;
mod ledger;
mod restore;
mod runs;
mod takeover;

pub mod holders;
pub mod record;
pub mod witness;

use std::collections::BTreeMap;
use std::fmt;

use record::{Fact, Millis, Record};

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Fences only grow, in the order of the grants.
    FencesGrow,
    /// Every occurrence is decided once, by a claim, whoever leads.
    OneClaim,
    /// Nobody writes on the authority of a term that is over.
    NoStaleWrite,
    /// A verdict is about a run that was open, and stays, unless it is `unknown` and a person resolves it.
    OneVerdict,
    /// Every due occurrence has a verdict or is open.
    NothingLost,
    /// Nothing is counted that was not recorded, and nothing twice.
    CountsHold,
    /// What guards itself never takes an effect with a lower fence than one it took.
    GuardHolds,
    /// Nothing is started after the starter's own deadline, by its own clock.
    NoStartPastTrust,
    /// An attempt is started at most once; an `at_most_once` run only again after a known failure or by a person.
    NoDoubleStart,
    /// No more runs of a job at once than it allows.
    Overlap,
    /// When a node leads in the place of one whose lease was revoked for it since it died, that one is dead, and nothing is
    /// left of what it had started, unless that may go on.
    NothingLeftAtTakeover,
    /// A healthy node leads within bounds, and occurrences are decided in time.
    Takeover,
    /// What is open comes to its end once everything is well again.
    Settles,
    /// No node ends by itself.
    NodesLast,
    /// Nobody acts under a hold of a lock once somebody has acted under a later one.
    OneHolder,
    /// An occurrence is claimed once, and handed to one elected instance.
    ClaimedOnce,
    /// What may not be repeated is begun once, and nothing is begun that is done.
    DoneOnce,
    /// Once all is well, everybody who waits for a lock, an election or an end has it.
    Served,
    /// Each bad end of a run has an alert in its transaction, each alert is sent or counted in a summary, with the same id
    /// each time, and a leader that was replaced sends nothing more, but for one message that was on its way.
    AlertsTold,
    /// In a store that was restored from a backup nobody acts under a fence that may have been given out before, nor
    /// decides what was decided, until it is repaired; then somebody leads, under a greater fence.
    Restored,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub rule: Rule,
    pub at: Millis,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms: {}", self.rule, self.at, self.what)
    }
}

/// Every promise that `record` shows broken.
pub fn judge(record: &Record) -> Vec<Violation> {
    let mut found = Findings::default();
    fences(record, &mut found);
    guard(record, &mut found);
    nodes_last(record, &mut found);
    counts_hold(record, &mut found);
    ledger::judge(record, &mut found);
    coverage::judge(record, &mut found);
    runs::judge(record, &mut found);
    takeover::judge(record, &mut found);
    found.0
}

/// Every promise about alerts that `record` shows broken, beside all others.
pub fn judge_alerts(record: &Record) -> Vec<Violation> {
    let mut found = Findings(judge(record));
    alerts::judge(record, &mut found);
    found.0
}

/// Whether what follows a restore of the store, to which the other promises do not extend, shows this one broken.
pub fn judge_restore(record: &Record) -> Vec<Violation> {
    let mut found = Findings::default();
    restore::judge(record, &mut found);
    found.0
}

/// Every promise to those who hold locks, stand for election and do things once that `record` shows broken.
pub fn judge_holders(record: &Record) -> Vec<Violation> {
    let mut found = Findings::default();
    nodes_last(record, &mut found);
    holders::judge(record, &mut found);
    found.0
}

/// The same of what follows a restore of the store.
pub fn judge_holders_restored(record: &Record) -> Vec<Violation> {
    let mut found = Findings::default();
    nodes_last(record, &mut found);
    holders::judge_restore(record, &mut found);
    found.0
}

/// How often each kind of thing is in the record: a judgement over nothing is none.
pub fn count(record: &Record) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    let mut owners = 0;
    for (_, fact) in &record.facts {
        let what = match fact {
            Fact::Owner { .. } => {
                owners += 1;
                "terms"
            }
            Fact::Decided { .. } => "claims",
            Fact::Counted { .. } => "additions to counts",
            Fact::Done { verdict, many, .. } => match (verdict.as_str(), many) {
                (_, Some(_)) => "verdicts over many",
                ("unknown", _) => "unknown verdicts",
                ("skipped", _) => "skipped verdicts",
                ("cancelled", _) => "cancelled verdicts",
                ("timed_out", _) => "timed out verdicts",
                ("failed", _) => "failed verdicts",
                _ => "succeeded verdicts",
            },
            Fact::Open { state: record::State::Retrying, .. } => "retries",
            Fact::Started { .. } => "starts",
            Fact::WillExecuted { .. } => "wills executed",
            Fact::Held { .. } => "holds",
            Fact::Handed { .. } => "occurrences handed out",
            Fact::TakenAway { .. } => "locks taken by hand",
            Fact::Began { .. } => "keys begun",
            Fact::Answered { how, .. } => match *how {
                "done" => "keys done",
                "failed" => "keys failed",
                "unknown" => "keys unknown",
                "lost" => "keys lost in the middle",
                "locked" => "calls for locks that had it",
                "not locked" => "calls for locks that had it not",
                _ => "calls for a key that failed",
            },
            Fact::Effect { accepted: true, .. } => "effects taken",
            Fact::Effect { accepted: false, .. } => "stale effects, taken by whoever does not look at fences",
            Fact::Alerted { .. } => "alerts put",
            Fact::Told { id, .. } if id.starts_with("summary:") => "summaries sent",
            Fact::Told { .. } => "alerts sent",
            Fact::Shock(_) => "shocks",
            Fact::Restored { .. } => "restores",
            Fact::Repaired => "repairs",
            Fact::Saw(what) => what,
            _ => continue,
        };
        *counts.entry(what).or_default() += 1;
    }
    counts.insert("failovers", u64::saturating_sub(owners, 1));
    counts
}

#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, rule: Rule, at: Millis, what: impl Into<String>) {
        self.0.push(Violation { rule, at, what: what.into() });
    }
}

fn fences(record: &Record, found: &mut Findings) {
    let mut last = (0, 0);
    for (at, fact) in &record.facts {
        let Fact::Owner { revision, fence, node, .. } = fact else { continue };
        if *fence <= last.0 && *revision > last.1 {
            found.add(Rule::FencesGrow, *at, format!("{node} was granted fence {fence} after {}", last.0));
        }
        last = (last.0.max(*fence), *revision);
    }
}

fn guard(record: &Record, found: &mut Findings) {
    let mut highest = 0;
    for (at, fact) in &record.facts {
        let Fact::Effect { attempt, accepted: true } = fact else { continue };
        if attempt.fence < highest {
            found.add(Rule::GuardHolds, *at, format!("{attempt:?} was taken after fence {highest}"));
        }
        highest = highest.max(attempt.fence);
    }
}

/// All hours together never say more than the verdicts that came to be.
fn counts_hold(record: &Record, found: &mut Findings) {
    let (mut recorded, mut counted) = (0, BTreeMap::new());
    for (at, fact) in &record.facts {
        match fact {
            Fact::Done { many, .. } => recorded += many.map_or(1, |many| many.count),
            Fact::Counted { hour, ended } => {
                counted.insert(hour, *ended);
                let all: u64 = counted.values().sum();
                if all > recorded {
                    found.add(Rule::CountsHold, *at, format!("{all} were counted, and {recorded} recorded"));
                }
            }
            _ => {}
        }
    }
}

fn nodes_last(record: &Record, found: &mut Findings) {
    for (at, fact) in &record.facts {
        if let Fact::Broke(life, why) = fact {
            found.add(Rule::NodesLast, *at, format!("{life}: {why}"));
        }
    }
}
