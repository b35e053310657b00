//! What is counted of the runs that end in one hour, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::run::Done;
use crate::job::{Code, Verdict};
use crate::time::Wall;

/// Upper bounds of the lateness of starts, in milliseconds. Counts are kept by their bounds, so that those of a version
/// with others can be added.
pub const LATENESS_MS: [u64; 14] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000];

/// The reason of a skipped occurrence that has no code, or one that is not counted by itself.
pub const OTHER: &str = "other";

/// The beginning of the hour of this instant, in UTC.
pub fn hour_of(at: Wall) -> Wall {
    const HOUR: i64 = 3_600_000;
    Wall::from_millis(at.as_millis() - at.as_millis().rem_euclid(HOUR))
}

/// What ended in one hour. Words are kept as text: a newer version may count by others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HourCounts {
    /// Runs, by their verdict; what was skipped is in `skips` instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub runs: BTreeMap<String, u64>,
    /// Skipped occurrences, by the code of the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skips: BTreeMap<String, u64>,
    /// How late the runs were started.
    #[serde(default)]
    pub late: Lateness,
}

/// How late runs were started: a histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// How many were as late as this many milliseconds, and later than the bound before ([`LATENESS_MS`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub most_ms: BTreeMap<u64, u64>,
    /// How many were later than the last bound.
    #[serde(default)]
    pub beyond: u64,
    /// All of it together, in milliseconds.
    #[serde(default)]
    pub sum_ms: u64,
}

impl HourCounts {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.skips.is_empty()
    }

    /// Counts the verdict on a run.
    pub fn ended(&mut self, done: &Done) {
        if done.verdict == Verdict::Skipped {
            let code = done.code.map_or(OTHER, Code::as_str);
            return self.skipped(code, done.many.map_or(1, |many| many.count));
        }
        add(&mut self.runs, done.verdict.as_str().to_owned(), 1);
        if let Some(late) = done.lateness.filter(|_| done.source.has_lateness()) {
            self.late.observe(late);
        }
    }

    /// Counts occurrences that were skipped for a reason of this code.
    pub fn skipped(&mut self, code: &str, count: u64) {
        add(&mut self.skips, code.to_owned(), count);
    }

    /// Adds what others are.
    pub fn merge(&mut self, others: &HourCounts) {
        others.runs.iter().for_each(|(verdict, count)| add(&mut self.runs, verdict.clone(), *count));
        others.skips.iter().for_each(|(code, count)| add(&mut self.skips, code.clone(), *count));
        others.late.most_ms.iter().for_each(|(bound, count)| add(&mut self.late.most_ms, *bound, *count));
        self.late.beyond = self.late.beyond.saturating_add(others.late.beyond);
        self.late.sum_ms = self.late.sum_ms.saturating_add(others.late.sum_ms);
    }

    /// How many runs ended.
    pub fn ran(&self) -> u64 {
        self.runs.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

impl Lateness {
    fn observe(&mut self, late: Duration) {
        let millis = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        match LATENESS_MS.into_iter().find(|bound| millis <= *bound) {
            Some(bound) => add(&mut self.most_ms, bound, 1),
            None => self.beyond = self.beyond.saturating_add(1),
        }
        self.sum_ms = self.sum_ms.saturating_add(millis);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.most_ms.values().fold(self.beyond, |sum, count| sum.saturating_add(*count))
    }

    /// How late they were, for a person: the bound that 99 of 100 have not exceeded, or of fewer than 100 the bound that
    /// all have not, and how many of them that is; `None` as the bound: beyond the last one. `None`: there are none.
    pub fn punctual(&self) -> Option<(String, Option<u64>)> {
        match self.count() {
            0 => None,
            1 => Some(("the one run".to_owned(), self.quantile(1.0))),
            few @ 2..100 => Some((format!("all {few}"), self.quantile(1.0))),
            _ => Some(("99 of 100".to_owned(), self.quantile(0.99))),
        }
    }

    /// The bound, in milliseconds, that this share of them has not exceeded; `None`: there are none, or it is beyond the
    /// last bound.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = (self.count() as f64 * share).ceil();
        let mut so_far = 0;
        self.most_ms.iter().find_map(|(bound, count)| {
            so_far += count;
            (so_far as f64 >= wanted && so_far > 0).then_some(*bound)
        })
    }
}

fn add<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, by: u64) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add(by);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobName, RunId};
    use crate::scheduler::run::{Many, Open, Source};

    fn done(verdict: Verdict, code: Option<Code>, late_ms: u64) -> Done {
        let (job, at) = (JobName::new("a").unwrap(), Wall::EPOCH);
        let open = Open { lateness: Some(Duration::from_millis(late_ms)), ..Open::claimed(RunId::of(&job, at)) };
        Done { code, ..Done::of(&open, verdict, "", at) }
    }

    #[test]
    fn an_hour_begins_where_the_clock_shows_none_of_its_minutes() {
        let at = |text: &str| text.parse::<Wall>().unwrap();
        assert_eq!(hour_of(at("2026-11-27T15:59:59.999Z")), at("2026-11-27T15:00:00Z"));
        assert_eq!(hour_of(at("2026-11-27T15:00:00Z")), at("2026-11-27T15:00:00Z"));
        assert_eq!(hour_of(Wall::from_millis(-1)), Wall::from_millis(-3_600_000));
    }

    #[test]
    fn runs_are_counted_by_verdict_and_what_was_skipped_by_code() {
        let mut counts = HourCounts::default();
        assert!(counts.is_empty());
        counts.ended(&done(Verdict::Succeeded, None, 5));
        counts.ended(&done(Verdict::Failed, Some(Code::ExitCode), 6));
        let many = Some(Many { from: Wall::EPOCH, count: 40, at_least: false });
        counts.ended(&Done { many, ..done(Verdict::Skipped, Some(Code::MissedMany), 0) });
        let backfill = Source::Backfill { by: "eve".into() };
        counts.ended(&Done { source: backfill, ..done(Verdict::Succeeded, None, 999_999) });
        counts.ended(&done(Verdict::Unknown, None, 400_000));
        let other = counts.clone();
        counts.merge(&other);
        assert_eq!(Vec::from_iter(&counts.runs).len(), 3);
        assert_eq!((counts.runs["succeeded"], counts.runs["failed"], counts.ran()), (4, 2, 8));
        assert_eq!(Vec::from_iter(counts.skips), [("missed_many".to_owned(), 80)]);
        assert_eq!(Vec::from_iter(&counts.late.most_ms), [(&5, &2), (&10, &2)]);
        assert_eq!((counts.late.beyond, counts.late.sum_ms, counts.late.count()), (2, 800_022, 6));
        assert_eq!((counts.late.quantile(0.5), counts.late.quantile(0.99)), (Some(10), None));
        assert_eq!(Lateness::default().quantile(0.5), None);
        assert_eq!(Lateness::default().punctual(), None);
        assert_eq!(counts.late.punctual(), Some(("all 6".to_owned(), None)));
        let late = |counts| Lateness { most_ms: BTreeMap::from(counts), ..Lateness::default() };
        assert_eq!(late([(5, 1), (50, 0)]).punctual(), Some(("the one run".to_owned(), Some(5))));
        assert_eq!(late([(5, 99), (50, 1)]).punctual(), Some(("99 of 100".to_owned(), Some(5))));
    }
}
