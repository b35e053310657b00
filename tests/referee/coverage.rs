//! Every due occurrence is decided, once: recomputed from what the job's user wrote.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Fact, JobRule, Many, Millis, Record, occurrence};
use super::{Findings, Rule};

/// An occurrence that starts this much before the end of the record, or less, may be undecided.
const JUST_DUE: i64 = 5_000;

/// How many gaps of a job are told of.
const TOLD: usize = 3;

/// What was decided of one job by claims.
#[derive(Default)]
struct Decided {
    since: Option<i64>,
    /// First, last, and how many: one verdict, or one over many.
    spans: Vec<(i64, i64, Option<u64>)>,
}

pub(super) fn judge(record: &Record, found: &mut Findings) {
    let claims: BTreeSet<u64> = record
        .facts
        .iter()
        .filter(|(_, f)| matches!(f, Fact::Decided { .. }))
        .filter_map(|(_, f)| f.revision())
        .collect();
    let mut jobs: BTreeMap<&str, Decided> = BTreeMap::new();
    let mut upto = record.wall_start + record.end as i64 - JUST_DUE;
    for (_, fact) in &record.facts {
        match fact {
            Fact::Registered { job, since, .. } => {
                jobs.entry(job).or_default().since.get_or_insert(*since);
            }
            Fact::Decided { instant, .. } => upto = upto.max(*instant),
            Fact::Open { run, revision, .. } if claims.contains(revision) => add(&mut jobs, run, None),
            Fact::Done { run, revision, many, .. } if claims.contains(revision) => add(&mut jobs, run, *many),
            // A claim that takes a verdict away has to decide the same again, with more.
            Fact::DoneGone { run, revision } if claims.contains(revision) => take_away(&mut jobs, run),
            _ => {}
        }
    }
    for rule in &record.rules {
        let Some(every) = rule.every else { continue };
        match jobs.get_mut(rule.name.as_str()).filter(|decided| decided.since.is_some()) {
            Some(decided) => decided.judge(rule, every, upto - rule.jitter, record.end, found),
            None => found.add(Rule::NothingLost, record.end, format!("{} was never registered", rule.name)),
        }
    }
}

fn add<'a>(jobs: &mut BTreeMap<&'a str, Decided>, run: &'a str, many: Option<Many>) {
    let Some((job, at)) = occurrence(run) else { return };
    let span = match many {
        Some(many) => (many.from, at, Some(many.count).filter(|_| !many.at_least)),
        None => (at, at, Some(1)),
    };
    jobs.entry(job).or_default().spans.push(span);
}

fn take_away<'a>(jobs: &mut BTreeMap<&'a str, Decided>, run: &'a str) {
    let Some((job, at)) = occurrence(run) else { return };
    jobs.entry(job).or_default().spans.retain(|(_, last, _)| *last != at);
}

impl Decided {
    fn judge(&mut self, rule: &JobRule, every: i64, upto: i64, end: Millis, found: &mut Findings) {
        self.spans.sort_unstable();
        let since = self.since.expect("only registered jobs are judged");
        // With jitter, one whose instant lies before may start after.
        let first_due = ((since - rule.jitter).div_euclid(every) + 1) * every;
        let mut next = (since.div_euclid(every) + 1) * every;
        let (mut gaps, mut decided) = (0, i64::MIN);
        for (first, last, count) in &self.spans {
            let name = &rule.name;
            if first.rem_euclid(every) != 0 || last.rem_euclid(every) != 0 || *first < first_due {
                found.add(Rule::NothingLost, end, format!("{name} was decided at {first}..{last}, when it is not due"));
            }
            if *first <= decided {
                found.add(Rule::OneClaim, end, format!("{name} at {first} was decided twice"));
            }
            if *first > next && gaps < TOLD {
                gaps += 1;
                found.add(Rule::NothingLost, end, format!("{name} was not decided from {next} until {first}"));
            }
            let due = (last - first) / every + 1;
            if count.is_some_and(|count| count != due as u64) {
                found.add(Rule::NothingLost, end, format!("a verdict over {count:?} of {name} covers {due}"));
            }
            (next, decided) = (next.max(last + every), *last);
        }
        // What starts at the very end of the decided time may still be to come.
        if next < upto {
            found.add(Rule::NothingLost, end, format!("{} was not decided from {next} until {upto}", rule.name));
        }
    }
}
