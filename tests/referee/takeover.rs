//! Liveness: while nothing new goes wrong and somebody is well, occurrences are decided in time; and in the end
//! everything comes to rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::record::{Fact, Millis, Record, instant, job_of};
use super::{Findings, Rule};

/// Beyond the TTL and the margin: what a successor may take to notice, to win, to catch up and to claim.
const NOTICE: Millis = 6_000;

/// How far behind its own clock a leader's claims may be: the rarest job's interval is not in it, since one job of
/// every record is due each second.
const BEHIND: i64 = 4_000;

/// How long a run may be open with nothing happening to it, when everything is well.
const IDLE: Millis = 30_000;

pub(super) fn judge(record: &Record, found: &mut Findings) {
    decided_in_time(record, found);
    settles(record, found);
}

/// What can be said about who is well.
#[derive(Default)]
struct Health<'a> {
    grace: Millis,
    up: BTreeSet<&'a str>,
    impaired: BTreeMap<&'a str, u32>,
    troubles: u32,
    /// Since when nothing new has gone wrong.
    calm_since: Millis,
}

impl<'a> Health<'a> {
    fn somebody_is_well(&self) -> bool {
        let well = |node: &&str| self.impaired.get(*node).is_none_or(|times| *times == 0);
        self.troubles == 0 && self.up.iter().any(well)
    }

    fn take(&mut self, at: Millis, fact: &'a Fact) {
        match fact {
            Fact::Up(life) => drop(self.up.insert(&life.node)),
            Fact::Down(life) => drop(self.up.remove(life.node.as_str())),
            Fact::Impaired(node) => *self.impaired.entry(node).or_default() += 1,
            Fact::Recovered(node) => *self.impaired.entry(node).or_default() -= 1,
            Fact::TroubleBegins(_) => self.troubles += 1,
            Fact::TroubleEnds(_) => self.troubles -= 1,
            Fact::Shock(_) => {}
            Fact::Drains => return self.calm_since = self.calm_since.max(at + self.grace),
            _ => return,
        }
        self.calm_since = self.calm_since.max(at);
    }
}

fn decided_in_time(record: &Record, found: &mut Findings) {
    let bound = record.ttl + record.margin + NOTICE;
    let mut health = Health { grace: record.grace, ..Health::default() };
    let mut decided = record.wall_start;
    let mut told = false;
    let mut look = |at: Millis, health: &Health, decided: i64, found: &mut Findings| {
        let behind = record.wall_start + at as i64 - decided;
        let late = health.somebody_is_well() && at >= health.calm_since + bound && behind > BEHIND;
        if late && !told {
            let since = health.calm_since;
            let up = &health.up;
            found.add(
                Rule::Takeover,
                at,
                format!("all was calm since {since} ms with {up:?} up, and nothing was decided for {behind} ms"),
            );
        }
        told = late;
    };
    for (at, fact) in &record.facts {
        look(*at, &health, decided, found);
        if let Fact::Decided { instant, .. } = fact {
            decided = decided.max(*instant);
        }
        health.take(*at, fact);
    }
    look(record.end, &health, decided, found);
}

fn settles(record: &Record, found: &mut Findings) {
    let mut open: HashMap<&str, Millis> = HashMap::new();
    let mut running: BTreeSet<&str> = BTreeSet::new();
    // When a run of each job ended last, and the instants of those.
    let mut ended: HashMap<&str, Vec<(Option<i64>, Millis)>> = HashMap::new();
    let (mut leads, mut decided) = (false, 0);
    for (at, fact) in &record.facts {
        match fact {
            // A clock that was ahead has also said when a retry is due: that waits until the time is what it was by it.
            Fact::Open { run, .. } => drop(open.insert(run, decided.max(*at))),
            Fact::Decided { instant, .. } => decided = decided.max((instant - record.wall_start).max(0) as Millis),
            Fact::OpenGone { run, .. } => {
                open.remove(run.as_str());
                ended.entry(job_of(run)).or_default().push((instant(run), *at));
            }
            Fact::Started { attempt, .. } => drop(running.insert(&attempt.run)),
            Fact::Ended { attempt, .. } => drop(running.remove(attempt.run.as_str())),
            Fact::Owner { .. } => leads = true,
            Fact::Vacant { .. } => leads = false,
            _ => {}
        }
    }
    if !leads {
        found.add(Rule::Settles, record.end, "nobody leads in the end");
    }
    // A clock that was ahead has claimed what is due only later: that waits for its time.
    let due = |run: &str| instant(run).map_or(0, |at| (at - record.wall_start).max(0) as Millis);
    // One that waits in its job's queue moves up whenever one before it ends.
    let moved_up = |run: &str| {
        let before = ended.get(job_of(run)).into_iter().flatten().filter(|(at, _)| *at < instant(run));
        before.map(|(_, at)| *at).max().unwrap_or_default()
    };
    let idle = |run: &str, since: Millis| since.max(record.healed).max(due(run)).max(moved_up(run)) + IDLE < record.end;
    let mut stuck: Vec<_> = open.iter().filter(|(run, since)| idle(run, **since)).collect();
    stuck.sort();
    for (run, since) in stuck {
        let runs = if running.contains(*run) { "and runs" } else { "and does not run" };
        found.add(Rule::Settles, record.end, format!("{run} is open since {since} ms {runs}"));
    }
}
