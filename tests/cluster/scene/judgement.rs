//! From what was seen to a record, and from the record to a judgement.

use std::collections::{BTreeMap, HashMap};

use super::{Scene, TTL};
use crate::effects::{Line, Step};
use crate::referee::record::{Attempt, Fact, Life, Millis, Record, State};
use crate::referee::{count, judge};

/// How much earlier than the store a node stops trusting its lease, in parts of a thousand of the TTL.
const MARGIN_PERMILLE: Millis = 110;

impl Scene {
    /// Waits until everything has been well for a while, and judges all that happened. `happened` is what must have,
    /// and how often at least.
    pub async fn judge(&mut self, happened: &[(&str, u64)]) -> Record {
        let healed = self.now();
        self.claims(3).await;
        let record = self.record(healed);
        let counts = count(&record);
        println!("{counts:?}");
        let violations: Vec<String> = judge(&record).iter().map(ToString::to_string).collect();
        assert!(violations.is_empty(), "{}\nin {}", violations.join("\n"), self.directory.path().display());
        let lines = self.effects.lines();
        let fallen = fallen(&lines);
        assert!(fallen.is_empty(), "begun under a fence below one that had begun before: {fallen:?}");
        for (what, times) in happened {
            let found = counts.get(what).copied().unwrap_or(0);
            assert!(found >= *times, "{found} {what}, which is no proof of anything: {counts:?}");
        }
        record
    }

    /// All facts, in the order of their time. The store's own keep the order of its revisions.
    pub fn record(&mut self, healed: Millis) -> Record {
        for node in 0..self.nodes.len() {
            if let Some(status) = self.nodes[node].broke() {
                self.mark(Fact::Broke(self.life(node), status.to_string()));
            }
        }
        let history = self.witness.history.borrow().clone();
        assert_eq!(history.broken, None);
        let end = self.now();
        let mut facts = self.marks.clone();
        facts.extend(terms(&history.facts, &self.marks, end));
        facts.extend(with_writers(history.facts));
        let lines = self.effects.lines();
        facts.extend(started(&lines, &self.marks, self.began.since_boot().as_millis() as Millis));
        facts.sort_by_key(|(at, _)| *at);
        let ttl = TTL.as_millis() as Millis;
        let margin = ttl * MARGIN_PERMILLE / 1000;
        Record { rules: self.rules(), ttl, margin, grace: 30_000, wall_start: self.wall_start, facts, healed, end }
    }
}

/// The life that a node lived at a time.
fn life(marks: &[(Millis, Fact)], node: &str, at: Millis) -> Life {
    let up = |(since, fact): &(Millis, Fact)| match fact {
        Fact::Up(life) if life.node == node && *since <= at => Some(life.clone()),
        _ => None,
    };
    marks.iter().rev().find_map(up).unwrap_or_else(|| Life { node: node.to_owned(), life: 0 })
}

/// From outside nobody sees until when a node trusts its term. It may for no longer than the term lasts in the store,
/// so that is what is told to the referee: as if the term's lease had been acknowledged until then, and never more.
fn terms(facts: &[(Millis, Fact)], marks: &[(Millis, Fact)], end: Millis) -> Vec<(Millis, Fact)> {
    let mut terms = Vec::new();
    let mut term: Option<(Life, u64)> = None;
    let mut close = |term: Option<(Life, u64)>, until: Millis| {
        let Some((life, lease)) = term else { return };
        let ttl = TTL.as_millis() as Millis;
        let sent = (until + ttl * MARGIN_PERMILLE / 1000).saturating_sub(ttl);
        terms.push((0, Fact::Acknowledged { life, lease, sent, ttl }));
    };
    for (at, fact) in facts {
        match fact {
            Fact::Owner { fence, node, .. } => close(term.replace((life(marks, node, *at), *fence)), *at),
            Fact::Vacant { .. } => close(term.take(), *at),
            _ => {}
        }
    }
    close(term, end + TTL.as_millis() as Millis);
    terms
}

/// The store's facts, with who made each transaction where that shows. A claim says so itself. Of a change of a run the
/// store does not tell: it is put down to whoever has the run in its hands, or to the leader, so for those the
/// simulation has to do what cannot be seen here.
fn with_writers(facts: Vec<(Millis, Fact)>) -> Vec<(Millis, Fact)> {
    let mut holders: HashMap<String, String> = HashMap::new();
    let mut owner: Option<String> = None;
    let mut writers: BTreeMap<u64, (Millis, String)> = BTreeMap::new();
    let mut all = Vec::with_capacity(facts.len());
    for (at, mut fact) in facts {
        let writer = match &fact {
            Fact::Open { run, .. } | Fact::OpenGone { run, .. } | Fact::Done { run, .. } => {
                holders.get(run).or(owner.as_ref()).cloned()
            }
            _ => None,
        };
        if let (Some(revision), Some(writer)) = (fact.revision(), writer) {
            writers.entry(revision).or_insert((at, writer));
        }
        match &mut fact {
            Fact::Owner { node, fence, lease, .. } => {
                // One session may hold several terms, one after the other: told apart by their fences.
                *lease = *fence;
                owner = Some(node.clone());
            }
            Fact::Vacant { .. } => owner = None,
            Fact::Open { run, state: State::Claimed, claimant: Some(claimant), .. } => {
                holders.insert(run.clone(), claimant.node.clone());
            }
            Fact::Open { run, .. } | Fact::OpenGone { run, .. } => drop(holders.remove(run)),
            _ => {}
        }
        all.push((at, fact));
    }
    let wrote = |(revision, (at, node)): (u64, (Millis, String))| {
        (at, Fact::Wrote { revision, by: Some(Life { node, life: 1 }) })
    };
    all.extend(writers.into_iter().map(wrote));
    all
}

/// What the jobs' lines say, read by a sink that is guarded: it takes what is not below the highest fence it saw.
fn started(lines: &[Line], marks: &[(Millis, Fact)], began: Millis) -> Vec<(Millis, Fact)> {
    let mut facts = Vec::new();
    let mut highest = 0;
    for line in lines {
        let at = line.at.saturating_sub(began);
        let (life, attempt) = (life(marks, &line.node, at), line.attempt.clone());
        highest = highest.max(attempt.fence);
        facts.push((at, Fact::Effect { attempt: attempt.clone(), accepted: attempt.fence == highest }));
        match line.step {
            Step::Begins => facts.push((at, Fact::Started { life, attempt, own: at })),
            Step::Ends => facts.push((at, Fact::Ended { life, attempt })),
            Step::GoesOn => {}
        }
    }
    facts
}

#[test]
fn a_begin_under_a_lower_fence_is_found() {
    let line = |step, fence| Line {
        step,
        attempt: Attempt { run: format!("job@{fence}"), number: 1, fence },
        node: "a".to_owned(),
        at: 0,
    };
    let lines = [line(Step::Begins, 5), line(Step::Begins, 9), line(Step::GoesOn, 5), line(Step::Begins, 5)];
    assert_eq!(fallen(&lines), [&lines[3]]);
    let taken = started(&lines, &[], 0).into_iter().filter_map(|(_, fact)| match fact {
        Fact::Effect { accepted, .. } => Some(accepted),
        _ => None,
    });
    assert_eq!(taken.collect::<Vec<_>>(), [true, true, false, false]);
}

/// The runs that were begun under a fence after another had begun under a higher one: two leaders at once.
fn fallen(lines: &[Line]) -> Vec<&Line> {
    let mut highest = 0;
    let begins = lines.iter().filter(|line| line.step == Step::Begins);
    begins
        .filter(|line| {
            let falls = line.attempt.fence < highest;
            highest = highest.max(line.attempt.fence);
            falls
        })
        .collect()
}
