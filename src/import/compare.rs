//! Fires by the rules of the source held against those of the job here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use serde::Serialize;

use super::draft::Draft;
use super::emit;
use super::fires::{Rule, fires, offset};
use crate::config::{self, Sources};
use crate::job::{JobName, Trigger};
use crate::schedule::Schedule;
use crate::time::Wall;

/// How many fires are compared from now on.
pub(crate) const COMPARED: usize = 100;

/// How far around a change of the clocks all fires are compared.
const AROUND: Duration = Duration::from_secs(4 * 3600);

/// At how many changes of the clocks.
const CHANGES: usize = 2;

/// The most fires around one of them.
const AROUND_MOST: usize = 40_000;

/// How many differences are listed for one job.
const LISTED: usize = 20;

/// One instant at which the two do not fire equally often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// RFC 3339, in the zone of the job.
    pub at: String,
    /// How often the source fires it then, and how often it is due here.
    pub source: usize,
    pub here: usize,
}

/// What came of the comparison of one job.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    pub job: String,
    pub zone: Option<&'static str>,
    /// What was asked instead of the rules in `fires`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'static str>,
    /// How many fires of the source were compared, those around the next changes of the clocks included.
    pub compared: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<String>,
    pub differences: Vec<Difference>,
    /// How many differences are not listed.
    pub more: usize,
    /// What systemd can be asked about.
    #[serde(skip)]
    pub calendars: Vec<String>,
    /// The one of the job here.
    #[serde(skip)]
    schedule: Option<Arc<Schedule>>,
}

impl Comparison {
    /// Compares with what the source itself answers: its next fires after `now`, `there` at most [`COMPARED`] of them.
    pub fn ask(&mut self, by: &'static str, now: Wall, there: Vec<Wall>) {
        let Some(schedule) = self.schedule.clone() else { return };
        let zone: Tz = self.zone.and_then(|zone| zone.parse().ok()).unwrap_or(Tz::UTC);
        let until = (there.len() >= COMPARED).then(|| there[COMPARED - 1]);
        (self.by, self.not_compared, self.compared) = (Some(by), None, there.len());
        (self.differences, self.more) = differences(&schedule, zone, vec![(now, until, there)]);
    }

    /// What is different, for the line of the job.
    pub fn summary(&self) -> Option<String> {
        let first = self.differences.first()?;
        let times = |count: usize| match count {
            0 => "not at all".to_owned(),
            1 => "once".to_owned(),
            count => format!("{count} times"),
        };
        let more = match self.differences.len() + self.more - 1 {
            0 => String::new(),
            more => format!(", and {more} more like it: `--check` lists them"),
        };
        let (at, there, here) = (&first.at, times(first.source), times(first.here));
        Some(format!("at {at} it fires {there} there and {here} here{more}"))
    }
}

/// Compares each of the drafts, in their order.
pub(super) fn all(drafts: &[Draft], now: Wall) -> Vec<Comparison> {
    // What its source has switched off has no schedule here, and would have this one.
    let enabled: Vec<Draft> = drafts.iter().map(|draft| Draft { held: false, ..draft.clone() }).collect();
    let yaml = emit::file(&enabled, true, &[]);
    let config = config::parse(&yaml, &Sources { open: true, ..Sources::none() });
    let jobs = config.map(|config| config.jobs).unwrap_or_default();
    let mut changes = BTreeMap::new();
    let compare = |draft: &Draft| {
        let job = JobName::new(&draft.name).ok().and_then(|name| jobs.get(&name).cloned());
        match (&draft.rule, job.as_ref().map(|job| &job.trigger)) {
            (Rule::Unknown(why), trigger) => {
                let schedule = match trigger {
                    Some(Trigger::Schedule { schedule, .. }) => Some(schedule.clone()),
                    _ => None,
                };
                let zone = schedule.as_ref().map(|schedule| schedule.timezone());
                Comparison { schedule, zone, ..not_compared(draft, why.clone()) }
            }
            (rule @ Rule::Cron(_, zone), Some(Trigger::Schedule { schedule, .. })) => {
                let changes = changes.entry(zone.name()).or_insert_with(|| next_changes(*zone, now));
                one(draft, (rule, *zone), schedule, (now, changes))
            }
            _ => not_compared(draft, "it has no schedule here".to_owned()),
        }
    };
    drafts.iter().map(compare).collect()
}

fn not_compared(draft: &Draft, why: String) -> Comparison {
    let (job, differences) = (draft.name.clone(), Vec::new());
    let (calendars, not_compared) = (draft.calendars.clone(), Some(why));
    Comparison { job, zone: None, by: None, compared: 0, not_compared, differences, more: 0, calendars, schedule: None }
}

fn one(
    draft: &Draft,
    (rule, zone): (&Rule, Tz),
    schedule: &Arc<Schedule>,
    (now, changes): (Wall, &[Wall]),
) -> Comparison {
    let next = fires(rule, now, None, COMPARED).unwrap_or_default();
    // Beyond the last one, nothing is known of the source.
    let until = (next.len() == COMPARED).then(|| next[COMPARED - 1]);
    let mut stretches = vec![(now, until, next)];
    for change in changes {
        let (after, until) = (now.max(change.minus(AROUND)), change.plus(AROUND));
        stretches.push((after, Some(until), fires(rule, after, Some(until), AROUND_MOST).unwrap_or_default()));
    }
    let compared = stretches.iter().map(|(.., there)| there.len()).sum();
    let (differences, more) = differences(schedule, zone, stretches);
    Comparison {
        job: draft.name.clone(),
        zone: Some(zone.name()),
        by: None,
        compared,
        not_compared: None,
        differences,
        more,
        calendars: draft.calendars.clone(),
        schedule: Some(Arc::clone(schedule)),
    }
}

/// What is different in stretches of time, of each of which the fires of the source are known; and how many differences are
/// not listed.
fn differences(
    schedule: &Schedule,
    zone: Tz,
    stretches: Vec<(Wall, Option<Wall>, Vec<Wall>)>,
) -> (Vec<Difference>, usize) {
    let mut instants: BTreeMap<Wall, (usize, usize)> = BTreeMap::new();
    for (after, until, there) in stretches {
        let mut counts: BTreeMap<Wall, (usize, usize)> = BTreeMap::new();
        there.iter().for_each(|at| counts.entry(*at).or_default().0 += 1);
        let most = if until.is_some() { AROUND_MOST } else { there.len().max(1) };
        let last = until.unwrap_or(Wall::MAX);
        schedule.between(after, last).take(most).for_each(|at| counts.entry(at).or_default().1 += 1);
        // The same instant may be in two stretches.
        instants.extend(counts);
    }
    let mut different: Vec<_> = instants.into_iter().filter(|(_, (there, here))| there != here).collect();
    let more = different.len().saturating_sub(LISTED);
    different.truncate(LISTED);
    let shown = |(at, (source, here)): (Wall, (usize, usize))| {
        let at = at.to_utc().with_timezone(&zone).to_rfc3339();
        Difference { at, source, here }
    };
    (different.into_iter().map(shown).collect(), more)
}

/// The next changes of the clocks of a zone, within the two years after `now`.
pub(super) fn next_changes(zone: Tz, now: Wall) -> Vec<Wall> {
    const DAY: i64 = 86_400;
    let first = now.as_millis().div_euclid(1000);
    let mut found = Vec::new();
    for day in 0..2 * 366 {
        let (mut before, mut behind) = (first + day * DAY, first + (day + 1) * DAY);
        let old = offset(zone, before);
        if offset(zone, behind) == old {
            continue;
        }
        while behind - before > 1 {
            let middle = before + (behind - before) / 2;
            if offset(zone, middle) == old { before = middle } else { behind = middle }
        }
        found.push(Wall::from_millis(behind * 1000));
        if found.len() == CHANGES {
            break;
        }
    }
    found
}
