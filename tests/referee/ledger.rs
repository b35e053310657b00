//! Who may write what: claims, changes of runs, verdicts.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::record::{Claimant, Fact, Life, Millis, Record, State, occurrence};
use super::{Findings, Rule};

/// The ledger as it is built up, transaction by transaction.
#[derive(Default)]
struct Ledger<'a> {
    owner: Option<(u64, &'a str)>,
    open: HashMap<&'a str, (State, Option<&'a Claimant>)>,
    done: HashMap<&'a str, &'a str>,
    claimed: HashSet<&'a str>,
    /// The instants, and calls, of runs in doubt of which a person said that they had succeeded.
    resolved: HashSet<&'a str>,
}

pub(super) fn judge(record: &Record, found: &mut Findings) {
    let mut transactions: BTreeMap<u64, Vec<&(Millis, Fact)>> = BTreeMap::new();
    for fact in &record.facts {
        if let Some(revision) = fact.1.revision() {
            transactions.entry(revision).or_default().push(fact);
        }
    }
    let mut ledger = Ledger::default();
    for facts in transactions.values() {
        let by = facts.iter().find_map(|(_, fact)| match fact {
            Fact::Wrote { by, .. } => Some(by.as_ref()),
            _ => None,
        });
        let decided = facts.iter().find_map(|(_, fact)| match fact {
            Fact::Decided { fence, .. } => Some(*fence),
            _ => None,
        });
        for (at, fact) in facts {
            match decided {
                Some(fence) => ledger.check_claim(fact, (*at, fence), found),
                None => ledger.check_change(fact, (*at, by.flatten()), facts, found),
            }
        }
        facts.iter().for_each(|(_, fact)| ledger.take(fact, by.flatten().is_none()));
    }
}

impl<'a> Ledger<'a> {
    /// A batch of claims is made by whoever owns the leadership as it is made, and decides what nobody has decided.
    fn check_claim(&mut self, fact: &'a Fact, (at, fence): (Millis, u64), found: &mut Findings) {
        match fact {
            Fact::Decided { revision, .. } if self.owner.is_none_or(|(owner, _)| owner != fence) => {
                let owner = self.owner;
                found.add(
                    Rule::NoStaleWrite,
                    at,
                    format!("claims under fence {fence} at revision {revision}, while {owner:?} leads"),
                );
            }
            Fact::Open { run, .. } | Fact::Done { run, .. } => {
                if self.open.contains_key(run.as_str()) || self.done.contains_key(run.as_str()) {
                    found.add(Rule::OneClaim, at, format!("{run} was claimed though it is in the ledger"));
                } else if !self.claimed.insert(run) {
                    found.add(Rule::OneClaim, at, format!("{run} was claimed twice"));
                }
                if let Fact::Open { claimant: Some(claimant), .. } = fact
                    && claimant.fence != fence
                {
                    found.add(Rule::NoStaleWrite, at, format!("{run} is claimed under another fence than its batch"));
                }
            }
            _ => {}
        }
    }

    /// Any other change of a run: by its own executor, by the leader, or by a person.
    fn check_change(
        &self,
        fact: &Fact,
        (at, by): (Millis, Option<&Life>),
        facts: &[&(Millis, Fact)],
        found: &mut Findings,
    ) {
        match fact {
            Fact::Open { run, state, claimant, .. } => {
                let Some((before, holder)) = self.open.get(run.as_str()) else {
                    return self.check_new(run, (at, by), facts, found);
                };
                let begun = *state == State::Claimed && *before != State::Claimed;
                if begun {
                    let fence = claimant.as_ref().map_or(0, |claimant| claimant.fence);
                    if self.owner.is_none_or(|(owner, _)| owner != fence) {
                        let owner = self.owner;
                        found.add(
                            Rule::NoStaleWrite,
                            at,
                            format!("{run} was begun under fence {fence}, while {owner:?} leads"),
                        );
                    }
                    return;
                }
                self.check_entitled(run, (*before, *holder), (at, by), found);
            }
            Fact::Done { run, verdict, .. } => {
                if let Some((before, holder)) = self.open.get(run.as_str()) {
                    self.check_entitled(run, (*before, *holder), (at, by), found);
                } else {
                    let was = self.done.get(run.as_str());
                    if by.is_some() || was != Some(&"unknown") {
                        found.add(
                            Rule::OneVerdict,
                            at,
                            format!("{run} became {verdict} by {by:?}, though it is not open and was {was:?}"),
                        );
                    }
                }
            }
            Fact::OpenGone { run, .. } => {
                let ends = facts.iter().any(|(_, fact)| matches!(fact, Fact::Done { run: done, .. } if done == run));
                if !ends {
                    found.add(Rule::NothingLost, at, format!("{run} vanished without a verdict"));
                }
            }
            _ => {}
        }
    }

    /// A run that comes to be without a claim was asked for, follows another, in the same transaction or when a person
    /// says that it had succeeded, or is resolved to run again.
    fn check_new(&self, run: &str, (at, by): (Millis, Option<&Life>), facts: &[&(Millis, Fact)], found: &mut Findings) {
        let resolved = self.done.get(run) == Some(&"unknown")
            && by.is_none()
            && facts.iter().any(|(_, fact)| matches!(fact, Fact::DoneGone { run: gone, .. } if gone == run));
        let follows = facts.iter().any(|(_, fact)| matches!(fact, Fact::Done { .. }));
        let fresh = !self.done.contains_key(run);
        let asked_for = occurrence(run).is_none() && fresh && by.is_none();
        let leads = by.is_some_and(|by| self.owner.is_some_and(|(_, owner)| owner == by.node));
        let follows_resolved = leads && run.split_once('@').is_some_and(|(_, at)| self.resolved.contains(at));
        if !(resolved || asked_for || (follows || follows_resolved) && fresh) {
            found.add(Rule::OneClaim, at, format!("{run} came to be without a claim, by {by:?}"));
        }
    }

    /// A claimed run is changed by whoever has it in its hands, or by the leader; any other by the leader.
    fn check_entitled(
        &self,
        run: &str,
        (before, holder): (State, Option<&Claimant>),
        (at, by): (Millis, Option<&Life>),
        found: &mut Findings,
    ) {
        let Some(by) = by else {
            return found.add(Rule::NoStaleWrite, at, format!("{run} was changed by a hand that may not"));
        };
        let own = before == State::Claimed && holder.is_some_and(|holder| holder.node == by.node);
        let leads = self.owner.is_some_and(|(_, owner)| owner == by.node);
        if !(own || leads) {
            let owner = self.owner;
            found.add(
                Rule::NoStaleWrite,
                at,
                format!("{run} ({before:?} by {holder:?}) was changed by {by}, while {owner:?} leads"),
            );
        }
    }

    fn take(&mut self, fact: &'a Fact, by_a_person: bool) {
        match fact {
            Fact::Owner { fence, node, .. } => self.owner = Some((*fence, node)),
            Fact::Vacant { .. } => self.owner = None,
            Fact::Open { run, state, claimant, .. } => {
                self.open.insert(run, (*state, claimant.as_ref()));
            }
            Fact::OpenGone { run, .. } => {
                self.open.remove(run.as_str());
            }
            Fact::Done { run, verdict, .. } => {
                let was = self.done.insert(run, verdict);
                if by_a_person && was == Some("unknown") && verdict == "succeeded" {
                    self.resolved.extend(run.split_once('@').map(|(_, at)| at));
                }
            }
            Fact::DoneGone { run, .. } => {
                self.done.remove(run.as_str());
            }
            _ => {}
        }
    }
}
