//! One rule of a schedule on the line of real time: where a pattern's local times fall when clocks are changed.

use std::ops::Range;

use super::pattern::{DAY_SECONDS, LocalSecond, Pattern};
use super::zone::{Span, Zone};
use super::{CALENDAR_CYCLE_DAYS, Dst, Fold, Gap};
use crate::time::Wall;

/// How far from an instant its neighbour is looked for: what does not come within one cycle of the calendar never does.
const SEARCH: i64 = CALENDAR_CYCLE_DAYS * DAY_SECONDS;
const SECOND: i64 = 1_000;

/// One expression, read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    Pattern(Pattern),
    /// `@every`: the instants since the epoch that this many seconds divide, or those so far apart from one on.
    Every {
        seconds: i64,
        from: Option<i64>,
    },
    /// `@at`
    At(Wall),
}

impl Rule {
    /// The first instant after `after`.
    pub(super) fn next(&self, zone: &Zone, dst: Dst, after: Wall) -> Option<Wall> {
        let after_second = after.as_millis().div_euclid(SECOND);
        let found = match self {
            Rule::At(at) => return Some(*at).filter(|at| *at > after),
            Rule::Every { from: Some(from), .. } if after_second < *from => *from,
            Rule::Every { seconds, from } => {
                let from = from.unwrap_or(0);
                from + ((after_second - from).div_euclid(*seconds) + 1) * seconds
            }
            Rule::Pattern(pattern) => first_after(pattern, zone, dst, after_second)?,
        };
        at_second(found)
    }

    /// The last instant before `before`.
    pub(super) fn previous(&self, zone: &Zone, dst: Dst, before: Wall) -> Option<Wall> {
        let last_second = (before.as_millis() - 1).div_euclid(SECOND);
        let found = match self {
            Rule::At(at) => return Some(*at).filter(|at| *at < before),
            Rule::Every { from: Some(from), .. } if last_second < *from => return None,
            Rule::Every { seconds, from } => {
                let from = from.unwrap_or(0);
                from + (last_second - from).div_euclid(*seconds) * seconds
            }
            Rule::Pattern(pattern) => last_until(pattern, zone, dst, last_second)?,
        };
        at_second(found)
    }

    /// How a change of the clocks bears on the instant `at` of this rule, for people.
    pub(super) fn note(&self, zone: &Zone, dst: Dst, at: Wall) -> Option<String> {
        let Rule::Pattern(pattern) = self else { return None };
        let second = at.as_millis().div_euclid(SECOND);
        let span = zone.span_at(second);
        if let Some(missing) = reach(pattern, dst, &span).gap
            && span.begin == second
            && let Some(local) = pattern.first_in(missing.clone())
        {
            let (from, to) = (time_of_day(missing.start), time_of_day(missing.end));
            return Some(format!(
                "{} does not exist (clocks go forward from {from} to {to}): fires right after the gap",
                time_of_day(local)
            ));
        }
        if second - span.begin.max(second - DAY_SECONDS) < span.repeats() {
            return Some(doubled(pattern, dst, second + span.offset, span.begin + span.offset, span.repeats(), false));
        }
        if span.end.min(second + DAY_SECONDS) - second <= span.repeated() {
            let back_to = span.end + span.offset - span.repeated();
            return Some(doubled(pattern, dst, second + span.offset, back_to, span.repeated(), true));
        }
        None
    }
}

fn at_second(second: i64) -> Option<Wall> {
    let millis = second.checked_mul(SECOND)?;
    Some(Wall::from_millis(millis)).filter(|at| at.as_millis() == millis)
}

/// What of a span belongs to a pattern.
struct Reach {
    /// The UTC seconds in which its local times count.
    counts: Range<i64>,
    /// The local times that the clocks leapt over at the span's beginning and that its first instant stands for.
    gap: Option<Range<LocalSecond>>,
}

/// The one place that knows what the `dst` rules mean; an interval pattern counts whenever it really comes.
fn reach(pattern: &Pattern, dst: Dst, span: &Span) -> Reach {
    if pattern.interval {
        return Reach { counts: span.begin..span.end, gap: None };
    }
    let begin = if dst.fold == Fold::First { span.begin.saturating_add(span.repeats()) } else { span.begin };
    let end = if dst.fold == Fold::Last { span.end.saturating_sub(span.repeated()) } else { span.end };
    let leapt = span.begin.saturating_add(span.offset - span.gap())..span.begin.saturating_add(span.offset);
    Reach { counts: begin..end, gap: (dst.gap == Gap::Shift && !leapt.is_empty()).then_some(leapt) }
}

fn first_after(pattern: &Pattern, zone: &Zone, dst: Dst, after: i64) -> Option<i64> {
    let from = after + 1;
    let horizon = from.max(0) + SEARCH;
    let mut span = zone.span_at(from);
    loop {
        let reach = reach(pattern, dst, &span);
        if span.begin >= from && reach.gap.is_some_and(|gap| pattern.first_in(gap).is_some()) {
            return Some(span.begin);
        }
        let within = reach.counts.start.max(from)..reach.counts.end.min(horizon);
        let found = pattern.first_in(within.start + span.offset..within.end + span.offset);
        if let Some(local) = found {
            return Some(local - span.offset);
        }
        if span.end >= horizon {
            return None;
        }
        span = zone.span(span.index + 1)?;
    }
}

fn last_until(pattern: &Pattern, zone: &Zone, dst: Dst, until: i64) -> Option<i64> {
    let horizon = until - SEARCH;
    let mut span = zone.span_at(until);
    loop {
        let reach = reach(pattern, dst, &span);
        let within = reach.counts.start.max(horizon)..reach.counts.end.min(until + 1);
        let found = pattern.last_in(within.start + span.offset..within.end + span.offset);
        if let Some(local) = found {
            return Some(local - span.offset);
        }
        if reach.gap.is_some_and(|gap| pattern.first_in(gap).is_some()) {
            return Some(span.begin);
        }
        if span.begin <= horizon {
            return None;
        }
        span = zone.span(span.index.checked_sub(1)?)?;
    }
}

fn doubled(pattern: &Pattern, dst: Dst, local: LocalSecond, back_to: LocalSecond, length: i64, first: bool) -> String {
    let (which, other) = if first { ("first", "second") } else { ("second", "first") };
    let only = if pattern.interval || dst.fold == Fold::Both {
        format!("this is the {which} time")
    } else {
        format!("fires the {which} time, not the {other}")
    };
    let (from, to) = (time_of_day(back_to + length), time_of_day(back_to));
    format!("{} comes twice (clocks go back from {from} to {to}): {only}", time_of_day(local))
}

/// As it stands on a clock: `02:30`, with the seconds only where there are any.
fn time_of_day(local: LocalSecond) -> String {
    let second = local.rem_euclid(DAY_SECONDS);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    if s == 0 { format!("{h:02}:{m:02}") } else { format!("{h:02}:{m:02}:{s:02}") }
}
