//! When jobs are due: the schedule language, and the instants it names. Pure: no clock, no I/O.
//!
//! A [`Schedule`] is one or more expressions in a time zone, with rules for the days on which clocks are changed and
//! calendars of dates to leave out. `docs/schedules.md` describes the language for people.
//!
//! # When clocks are changed
//!
//! A cron expression is **an interval** when its hour field holds `*` or a step (`*/2`, `8-18/2`, `H/3`) or names all
//! 24 hours; otherwise it is **a fixed time**, however many hours, minutes and seconds it names.
//!
//! - An interval fires at every real instant whose local time it names: through both hours when clocks go back, and
//!   no more often after they went forward.
//! - A fixed time that does not exist ([`Gap`]) fires once, at the first instant after the gap, or is skipped. All
//!   the times of one expression that fall into one gap are that one instant.
//! - A fixed time that comes twice ([`Fold`]) fires the first time, the last time, or both.
//!
//! This follows vixie cron, which calls the first kind wildcard jobs, but looks only at the hour: `*/15 2 * * *` is a
//! fixed time here, so that it is not lost on the night without a two o'clock.
//!
//! **Invariant**: nothing here compares a local time with another to order instants; local time is only matched.

mod calendar;
mod field;
mod jitter;
mod moment;
mod parse;
mod pattern;
mod rule;
mod zone;
mod zone_name;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use calendar::{Calendar, CalendarError, MOST_DATES};
pub use jitter::{Jitter, MAX_JITTER};
pub use zone::Zones;
pub use zone_name::advice as zone_advice;

use crate::time::Wall;
use moment::Moment;
use pattern::{DAY_SECONDS, LocalDay};
use rule::Rule;
use zone::Zone;

/// After so many days (400 years) the Gregorian calendar repeats, weekdays included.
const CALENDAR_CYCLE_DAYS: i64 = 146_097;

/// The most expressions in one schedule.
pub const MOST_EXPRESSIONS: usize = 100;

/// How many of the occurrences that [`Schedule::latest_starts`] does not list it counts.
pub const MOST_COUNTED: u64 = 10_000;

/// What becomes of a fixed time that the clocks leap over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// It is left out.
    Skip,
    /// It fires once, at the first instant after the gap.
    #[default]
    Shift,
}

/// What becomes of a fixed time that comes twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fold {
    #[default]
    First,
    Last,
    Both,
}

/// The rules for days on which clocks are changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dst {
    pub gap: Gap,
    pub fold: Fold,
}

/// The text of a schedule, to be read by [`Schedule::parse`].
#[derive(Clone, Copy, Debug)]
pub struct ScheduleSpec<'a> {
    /// Cron expressions, `@every …`, `@at …`; the schedule is their union.
    pub expressions: &'a [&'a str],
    /// A name of the IANA database, like `Europe/Berlin`.
    pub timezone: &'a str,
    pub dst: Dst,
    /// On the dates of these calendars nothing fires.
    pub except: &'a [Arc<Calendar>],
    /// The job's name, from which `H` is made.
    pub job: &'a str,
}

/// What is wrong with the text of a schedule, by the part of it that has to be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The zone.
    #[error("{message}")]
    Zone { message: String },
    /// One expression.
    #[error("{message}")]
    Expression {
        /// Which of the expressions, from 0.
        index: usize,
        /// Where in it, in bytes.
        offset: usize,
        message: String,
    },
    /// All of it together: no expression, too many, or no instant that the calendars leave.
    #[error("{message}")]
    Whole { message: String },
}

/// One due instant of a job, and when it is to start (jitter included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    pub at: Wall,
    pub starts: Wall,
}

/// What came due in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissedStarts {
    /// The newest, the oldest of them first.
    pub listed: Vec<Occurrence>,
    /// Those before the listed ones, where there are any.
    pub before: Option<Unlisted>,
}

/// Occurrences that are reported together, not one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// The first of them and the last, by their instants.
    pub first: Wall,
    pub last: Wall,
    /// How many, at most [`MOST_COUNTED`].
    pub count: u64,
    /// There are more than `count`.
    pub capped: bool,
}

/// An instant as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Fire {
    pub scheduled_at: Wall,
    /// RFC 3339, in the schedule's zone.
    pub local: String,
    /// What a change of the clocks did to it.
    pub note: Option<String>,
}

/// What an expression that can be read probably does not mean, for a person: both fields of a day restricted, or every
/// second of some minutes.
pub fn surprise(expression: &str) -> Option<String> {
    parse::surprise(expression)
}

/// When a job is due.
///
/// ```
/// use fencron::schedule::{Dst, Schedule, ScheduleSpec, Zones};
/// let spec = ScheduleSpec {
///     expressions: &["30 2 * * *"],
///     timezone: "Europe/Berlin",
///     dst: Dst::default(),
///     except: &[],
///     job: "report",
/// };
/// let schedule = Schedule::parse(&spec, &mut Zones::new()).unwrap();
///
/// // On 2026-03-29 there is no 02:30 in Berlin.
/// let next = schedule.next_after("2026-03-28T12:00:00Z".parse().unwrap()).unwrap();
/// assert_eq!(next.to_string(), "2026-03-29T01:00:00Z");
/// let fire = schedule.explain(next);
/// assert_eq!(fire.local, "2026-03-29T03:00:00+02:00");
/// assert_eq!(
///     fire.note.unwrap(),
///     "02:30 does not exist (clocks go forward from 02:00 to 03:00): fires right after the gap"
/// );
/// ```
#[derive(Clone, PartialEq)]
pub struct Schedule {
    rules: Box<[Rule]>,
    zone: Arc<Zone>,
    dst: Dst,
    except: Box<[Arc<Calendar>]>,
    /// Nothing fires before the first, nor after the last.
    within: (Option<Wall>, Option<Wall>),
    text: Box<str>,
    fingerprint: u64,
}

/// A text that says from when on, or until when, a schedule counts, and is no instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WithinError {
    /// The text of the start, or else of the end.
    #[error("is no time: write it like {forms}", forms = moment::FORMS)]
    NotAMoment { start: bool },
    #[error("lies before the start: nothing would ever fire")]
    EndsBeforeItStarts,
    #[error("leaves no instant at which it fires")]
    NeverFires,
}

impl Schedule {
    /// Reads a schedule. Schedules read with the same `zones` share what they know of a zone.
    ///
    /// # Errors
    ///
    /// All that is wrong with it. An expression that can never fire, such as one for 30 February, is wrong; one
    /// whose last instant has passed is not, or a job that is done would keep its node from starting again.
    pub fn parse(spec: &ScheduleSpec<'_>, zones: &mut Zones) -> Result<Schedule, Vec<ScheduleError>> {
        let mut errors = Vec::new();
        let zone = zones.named(spec.timezone).map_err(|message| errors.push(ScheduleError::Zone { message })).ok();
        let mut rules = Vec::with_capacity(spec.expressions.len());
        for (index, text) in spec.expressions.iter().take(MOST_EXPRESSIONS).enumerate() {
            match parse::expression(text, spec.job) {
                Ok(rule) => match zone.as_deref().and_then(|zone| why_never(&rule, zone, spec.dst)) {
                    None => rules.push(rule),
                    Some(why) => {
                        let message = format!("`{}` can never fire: {why}", field::shorten(text.trim()));
                        errors.push(ScheduleError::Expression { index, offset: 0, message });
                    }
                },
                Err(field::Wrong { text: part, message }) => {
                    // `part` is a piece of `text`.
                    let offset = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
                    errors.push(ScheduleError::Expression { index, offset, message });
                }
            }
        }
        errors.extend(wrong_number(spec.expressions.len()));
        let Some(zone) = zone.filter(|_| errors.is_empty()) else { return Err(errors) };
        let (rules, except) = (rules.into_boxed_slice(), spec.except.to_vec().into_boxed_slice());
        let text = spec.expressions.iter().map(|text| spaced_once(text)).collect::<Vec<_>>().join("; ").into();
        let (fingerprint, within) = (fingerprint(spec), (None, None));
        let schedule = Schedule { rules, zone, dst: spec.dst, except, within, text, fingerprint };
        if schedule.next_after(BEFORE_ALL).is_none() {
            let message = "it can never fire: every instant is on a date of its `except` calendars".to_owned();
            return Err(vec![ScheduleError::Whole { message }]);
        }
        Ok(schedule)
    }

    /// The same schedule, of which only what lies between `start` and `end` counts, both included. Each is a day of the
    /// schedule's zone, a time by its clocks, or an instant with its offset from UTC.
    ///
    /// # Errors
    ///
    /// Where one of them is none of these, or nothing would ever fire.
    ///
    /// ```
    /// # use fencron::schedule::{Dst, Schedule, ScheduleSpec, Zones};
    /// # let spec = ScheduleSpec {
    /// #     expressions: &["@daily"], timezone: "Europe/Berlin", dst: Dst::default(), except: &[], job: "sync",
    /// # };
    /// let daily = Schedule::parse(&spec, &mut Zones::new()).unwrap();
    /// let december = daily.within(Some("2026-12-01"), Some("2026-12-31")).unwrap();
    /// let first = december.next_after("2026-11-21T00:00:00Z".parse().unwrap()).unwrap();
    /// assert_eq!(first.to_string(), "2026-11-30T23:00:00Z");
    /// assert_eq!(december.next_after("2026-12-31T00:00:00Z".parse().unwrap()), None);
    /// ```
    pub fn within(self, start: Option<&str>, end: Option<&str>) -> Result<Schedule, WithinError> {
        let read = |text: Option<&str>, start| match text.map(Moment::read) {
            Some(None) => Err(WithinError::NotAMoment { start }),
            moment => Ok(moment.flatten()),
        };
        let start_at = read(start, true)?.map(|moment| moment.first(&self.zone));
        let end_at = read(end, false)?.map(|moment| moment.last(&self.zone));
        if start_at.zip(end_at).is_some_and(|(start, end)| end < start) {
            return Err(WithinError::EndsBeforeItStarts);
        }
        let mut hash = Sha256::new();
        hash.update(self.fingerprint.to_be_bytes());
        hash.update(format!("{start_at:?} {end_at:?}"));
        let fingerprint = if start.or(end).is_some() { short(hash) } else { self.fingerprint };
        let schedule = Schedule { within: (start_at, end_at), fingerprint, ..self };
        if schedule.next_after(BEFORE_ALL).is_none() {
            return Err(WithinError::NeverFires);
        }
        Ok(schedule)
    }

    /// The first instant after `after`; `None` when none is left (or none within 400 years).
    pub fn next_after(&self, after: Wall) -> Option<Wall> {
        let (start, end) = self.within;
        let just_before = start.map(|start| Wall::from_millis(start.as_millis() - 1));
        let found = self.next_unbounded(just_before.map_or(after, |before| before.max(after)))?;
        Some(found).filter(|found| end.is_none_or(|end| *found <= end))
    }

    fn next_unbounded(&self, mut after: Wall) -> Option<Wall> {
        loop {
            let found = self.rules.iter().filter_map(|rule| rule.next(&self.zone, self.dst, after)).min()?;
            match self.excepted_around(found) {
                None => return Some(found),
                Some((_, last)) => after = last,
            }
        }
    }

    /// The last instant before `before`; `None` when there is none (or none within 400 years).
    pub fn previous_before(&self, before: Wall) -> Option<Wall> {
        let (start, end) = self.within;
        let just_after = end.map(|end| Wall::from_millis(end.as_millis() + 1));
        let found = self.previous_unbounded(just_after.map_or(before, |after| after.min(before)))?;
        Some(found).filter(|found| start.is_none_or(|start| *found >= start))
    }

    fn previous_unbounded(&self, mut before: Wall) -> Option<Wall> {
        loop {
            let found = self.rules.iter().filter_map(|rule| rule.previous(&self.zone, self.dst, before)).max()?;
            match self.excepted_around(found) {
                None => return Some(found),
                Some((first, _)) => before = first,
            }
        }
    }

    /// The instants after `after` up to `until`, which is included.
    pub fn between(&self, after: Wall, until: Wall) -> impl Iterator<Item = Wall> {
        let next = move |at: Wall| self.next_after(at).filter(|next| *next <= until);
        std::iter::successors(next(after), move |at| next(*at))
    }

    /// The first occurrence that starts after `after`.
    ///
    /// ```
    /// # use fencron::schedule::{Dst, Jitter, Schedule, ScheduleSpec, Zones};
    /// # let spec = ScheduleSpec {
    /// #     expressions: &["@hourly"], timezone: "UTC", dst: Dst::default(), except: &[], job: "sync",
    /// # };
    /// let hourly = Schedule::parse(&spec, &mut Zones::new()).unwrap();
    /// let jitter = Jitter::of(std::time::Duration::from_secs(60), "sync");
    /// let next = hourly.next_start(jitter, "2026-11-21T01:30:00Z".parse().unwrap()).unwrap();
    /// assert_eq!(next.at, "2026-11-21T02:00:00Z".parse().unwrap());
    /// assert!(next.starts >= next.at && next.starts.since(next.at).as_secs() < 60);
    /// ```
    pub fn next_start(&self, jitter: Jitter, after: Wall) -> Option<Occurrence> {
        let next = self.next_after(after);
        if jitter.is_none() {
            return next.map(|at| jitter.apply(at, None));
        }
        // What is due already may not have started yet; it starts before `next`, so it comes first.
        let just_after = Wall::from_millis(after.as_millis() + 1);
        let due = self.previous_before(just_after).map(|at| jitter.apply(at, next));
        due.filter(|due| due.starts > after).or_else(|| next.map(|at| jitter.apply(at, self.next_after(at))))
    }

    /// What starts after `after` and up to `until`, the newest `most` one by one and what is before them in sum.
    ///
    /// The work is bounded by `most` and [`MOST_COUNTED`], however long the stretch.
    pub fn latest_starts(&self, jitter: Jitter, after: Wall, until: Wall, most: usize) -> MissedStarts {
        let mut listed = Vec::new();
        let mut unlisted = None;
        let mut next = self.next_after(until);
        let mut at = self.previous_before(Wall::from_millis(until.as_millis() + 1));
        while let Some(due) = at.map(|at| jitter.apply(at, next)).filter(|due| due.starts > after) {
            if due.starts <= until && listed.len() == most {
                unlisted = Some(due.at);
                break;
            }
            if due.starts <= until {
                listed.push(due);
            }
            next = Some(due.at);
            at = self.previous_before(due.at);
        }
        listed.reverse();
        MissedStarts { listed, before: unlisted.and_then(|last| self.count_until(jitter, after, last)) }
    }

    /// The occurrences that start after `after`, up to the instant `last`.
    fn count_until(&self, jitter: Jitter, after: Wall, last: Wall) -> Option<Unlisted> {
        let first = self.next_start(jitter, after)?.at;
        let rest = u64::try_from(self.between(first, last).take(MOST_COUNTED as usize).count()).unwrap_or(MOST_COUNTED);
        let count = (rest + 1).min(MOST_COUNTED);
        Some(Unlisted { first, last, count, capped: rest == MOST_COUNTED })
    }

    /// What identifies the rule, in 16 hex digits: it changes when the text, the zone, the DST rules or the dates of
    /// the calendars do, or the job's name where `H` is used, and with nothing else.
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", self.fingerprint)
    }

    /// The expressions as they were written, for people.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of the schedule's zone.
    pub fn timezone(&self) -> &'static str {
        self.zone.name()
    }

    /// An instant of this schedule for people: in local time, and what a change of the clocks did to it.
    pub fn explain(&self, at: Wall) -> Fire {
        let second = at.as_millis().div_euclid(1000);
        let local = at.to_utc().with_timezone(&self.zone.offset_at(second));
        let just_before = Wall::from_millis(at.as_millis() - 1);
        let fires_now = |rule: &&Rule| rule.next(&self.zone, self.dst, just_before) == Some(at);
        let note = self.rules.iter().filter(fires_now).find_map(|rule| rule.note(&self.zone, self.dst, at));
        Fire { scheduled_at: at, local: local.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, false), note }
    }

    /// The dates on which it does not fire, as calendars write them: `2026-12-25`, `2026-12-24..2027-01-01`, and each year
    /// `12-25`.
    pub fn excepted(&self) -> impl Iterator<Item = String> {
        self.except.iter().flat_map(|calendar| calendar.written())
    }

    /// The instants around `at` that are certainly excepted with it, by their ends; `None` when `at` is not excepted.
    fn excepted_around(&self, at: Wall) -> Option<(Wall, Wall)> {
        if self.except.is_empty() {
            return None;
        }
        let span = self.zone.span_at(at.as_millis().div_euclid(1000));
        let offset = span.offset * 1000;
        const DAY: i64 = DAY_SECONDS * 1000;
        let day: LocalDay = (at.as_millis() + offset).div_euclid(DAY);
        let (first, last) = self.except.iter().find_map(|calendar| calendar.block(day))?;
        // Within one span local time only grows, so the block of dates is one stretch of instants there.
        let begin = (first * DAY - offset).max(span.begin.saturating_mul(1000));
        let end = ((last + 1) * DAY - offset).min(span.end.saturating_mul(1000));
        Some((Wall::from_millis(begin), Wall::from_millis(end - 1)))
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = format_args!("{:016x}", self.fingerprint);
        f.debug_struct("Schedule").field("fingerprint", &fingerprint).field("zone", &self.zone).finish_non_exhaustive()
    }
}

/// From here on a schedule is asked whether it ever fires: year fields and `@at` begin in 1970.
const BEFORE_ALL: Wall = Wall::from_millis(-1);

fn wrong_number(expressions: usize) -> Option<ScheduleError> {
    let message = match expressions {
        0 => "the schedule is empty: write an expression like `0 2 * * *`".to_owned(),
        1..=MOST_EXPRESSIONS => return None,
        _ => format!("{expressions} expressions are too many: a schedule holds at most {MOST_EXPRESSIONS}"),
    };
    Some(ScheduleError::Whole { message })
}

fn why_never(rule: &Rule, zone: &Zone, dst: Dst) -> Option<&'static str> {
    if rule.next(zone, dst, BEFORE_ALL).is_some() {
        return None;
    }
    Some(match rule {
        Rule::Pattern(pattern) if !pattern.names_a_day() => {
            "no date of the calendar fits its day, month, weekday and year (for the last day of a month write L)"
        }
        Rule::Pattern(_) => {
            "it names only times that its zone leaps over (write `dst: {gap: shift}` to fire after them)"
        }
        Rule::Every { .. } | Rule::At(_) => "it lies beyond the year 9999",
    })
}

fn spaced_once(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Of the text rather than of what was read from it, so that a change of how it is read is none of the rule.
fn fingerprint(spec: &ScheduleSpec<'_>) -> u64 {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add("schedule 1");
    for text in spec.expressions {
        add(&spaced_once(text));
        add(if parse::uses_hash(text) { spec.job } else { "" });
    }
    add(spec.timezone);
    add(&format!("{:?}", spec.dst));
    let mut calendars: Vec<String> = spec.except.iter().map(|calendar| calendar.canonical()).collect();
    calendars.sort_unstable();
    calendars.iter().for_each(|calendar| add(calendar));
    short(hash)
}

fn short(hash: Sha256) -> u64 {
    let digest: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes(digest[..8].try_into().expect("eight of 32 bytes"))
}
