//! When a source fires a job, by its own rules.

use chrono::{
    DateTime, Datelike as _, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset as _, TimeZone as _,
};
use chrono_tz::Tz;

use crate::time::Wall;

const DAY: i64 = 86_400;

/// cron makes up for fixed times only after a leap of the clocks up to this long, in seconds, and repeats none after a
/// step back up to this long.
const CATCHES_UP: i64 = 3 * 3600 - 60;
const HOLDS_BACK: i64 = 3 * 3600;

/// How far it is looked ahead for one schedule.
const DAYS_MOST: i64 = 366 * 60;

/// When the source fires.
#[derive(Clone, Debug)]
pub(crate) enum Rule {
    /// By expressions in a zone; the instants of all of them.
    Cron(Vec<Cron>, Tz),
    /// Nothing can be computed; why, as the end of "not compared: …".
    Unknown(String),
}

/// What an expression means to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    pub seconds: u64,
    pub minutes: u64,
    pub hours: u64,
    pub dates: u64,
    pub months: u64,
    /// Bit 0 is Sunday.
    pub weekdays: u64,
    /// The date and the weekday must both match.
    pub both: bool,
    pub clocks: Clocks,
}

/// What happens when the clocks are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// Jobs with a star as the first character of the minute or the hour follow the clocks. The others run once for each
    /// of their times that were leapt over, right after it, and not again when the clocks were put back.
    Vixie { wild: bool },
    /// Every minute that the clocks show: none in a gap, and those that come twice twice. cronie with `CRON_TZ`.
    Shown,
    /// The same, and of those that come twice only the first. systemd.
    FirstShown,
    /// robfig/cron's search for the next instant.
    Robfig,
}

impl Cron {
    fn is_day(&self, date: NaiveDate) -> bool {
        let weekday = date.weekday().num_days_from_sunday();
        let (by_date, by_weekday) = (self.dates >> date.day() & 1 == 1, self.weekdays >> weekday & 1 == 1);
        let fits = if self.both { by_date && by_weekday } else { by_date || by_weekday };
        fits && self.months >> date.month() & 1 == 1
    }

    /// The seconds of a day.
    fn times(&self) -> impl Iterator<Item = i64> {
        let (hours, minutes, seconds) = (self.hours, self.minutes, self.seconds);
        let of = |set: u64, most: i64| (0..most).filter(move |value| set >> value & 1 == 1);
        of(hours, 24).flat_map(move |hour| {
            of(minutes, 60)
                .flat_map(move |minute| of(seconds, 60).map(move |second| hour * 3600 + minute * 60 + second))
        })
    }
}

/// The instants after `after` and up to `until`, in order, at most `most`; one that comes several times is there several
/// times. `None`: they cannot be computed.
pub(crate) fn fires(rule: &Rule, after: Wall, until: Option<Wall>, most: usize) -> Option<Vec<Wall>> {
    let Rule::Cron(crons, zone) = rule else { return None };
    let after = after.as_millis().div_euclid(1000);
    let until = until.map_or(i64::MAX, |until| until.as_millis().div_euclid(1000));
    let mut all = Vec::new();
    for cron in crons {
        all.extend(match cron.clocks {
            Clocks::Robfig => by_search(cron, *zone, (after, until), most),
            _ => by_days(cron, *zone, (after, until), most),
        });
    }
    all.sort_unstable();
    all.truncate(most);
    Some(all.into_iter().map(|second| Wall::from_millis(second * 1000)).collect())
}

/// Seconds that the zone is ahead of UTC at a UTC second.
pub(super) fn offset(zone: Tz, at: i64) -> i64 {
    let utc = DateTime::from_timestamp(at, 0).unwrap_or_default();
    i64::from(zone.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc())
}

fn local(zone: Tz, at: i64) -> NaiveDateTime {
    DateTime::from_timestamp(at + offset(zone, at), 0).unwrap_or_default().naive_utc()
}

/// Day for day, each time of the day in its place.
fn by_days(cron: &Cron, zone: Tz, (after, until): (i64, i64), most: usize) -> Vec<i64> {
    let mut found = Vec::new();
    let mut date = local(zone, after).date() - chrono::Days::new(1);
    for _ in 0..DAYS_MOST {
        let midnight = date.and_time(NaiveTime::MIN).and_utc().timestamp();
        // What a day holds may move into the next, but no farther.
        let is_full = found.len() > most && found.iter().filter(|at| **at < midnight - 2 * DAY).count() >= most;
        if is_full || midnight - 2 * DAY > until {
            break;
        }
        if cron.is_day(date) {
            let (before, behind) = (offset(zone, midnight - DAY), offset(zone, midnight + 2 * DAY));
            let is_even =
                before == behind && before == offset(zone, midnight) && before == offset(zone, midnight + DAY);
            for time in cron.times() {
                let local = midnight + time;
                let instants = if is_even { [Some(local - before), None] } else { instants(cron.clocks, zone, local) };
                found.extend(instants.into_iter().flatten().filter(|at| *at > after && *at <= until));
            }
        }
        let Some(next) = date.succ_opt() else { break };
        date = next;
    }
    found
}

/// The instants of one local second.
fn instants(clocks: Clocks, zone: Tz, local: i64) -> [Option<i64>; 2] {
    let naive = DateTime::from_timestamp(local, 0).unwrap_or_default().naive_utc();
    let is_fixed = clocks == Clocks::Vixie { wild: false };
    match zone.from_local_datetime(&naive) {
        MappedLocalTime::Single(at) => [Some(at.timestamp()), None],
        MappedLocalTime::Ambiguous(first, last) => {
            let (first, last) = (first.timestamp(), last.timestamp());
            let is_held_back = clocks == Clocks::FirstShown || (is_fixed && last - first <= HOLDS_BACK);
            [Some(first), (!is_held_back).then_some(last)]
        }
        MappedLocalTime::None if is_fixed => [gap_end(zone, local), None],
        MappedLocalTime::None => [None, None],
    }
}

/// The instant after the gap that a local second is in, if it is short enough for cron to make up for it.
fn gap_end(zone: Tz, local: i64) -> Option<i64> {
    // Both offsets hold somewhere around it; the change is between.
    let (mut before, mut behind) = (local - offset(zone, local - DAY) - DAY, local - offset(zone, local + DAY) + DAY);
    let old = offset(zone, before);
    while behind - before > 1 {
        let middle = before + (behind - before) / 2;
        if offset(zone, middle) == old { before = middle } else { behind = middle }
    }
    (offset(zone, behind) - old <= CATCHES_UP).then_some(behind)
}

/// robfig/cron's `SpecSchedule.Next`, again and again.
fn by_search(cron: &Cron, zone: Tz, (after, until): (i64, i64), most: usize) -> Vec<i64> {
    let next = |at: i64| Search { cron, zone }.next(at).filter(|next| *next <= until);
    std::iter::successors(next(after), |at| next(*at)).take(most).collect()
}

struct Search<'c> {
    cron: &'c Cron,
    zone: Tz,
}

/// What one look at an instant says.
enum Look {
    Found(i64),
    /// Look again from there: a greater unit has changed.
    Again(i64),
}

impl Search<'_> {
    fn next(&self, after: i64) -> Option<i64> {
        let mut at = after + 1;
        let last_year = local(self.zone, at).year() + 5;
        let mut added = false;
        while local(self.zone, at).year() <= last_year {
            match self.look(at, &mut added) {
                Look::Found(found) => return Some(found),
                Look::Again(from) => at = from,
            }
        }
        None
    }

    fn look(&self, mut at: i64, added: &mut bool) -> Look {
        let zone = self.zone;
        while self.cron.months >> local(zone, at).month() & 1 == 0 {
            if !std::mem::replace(added, true) {
                let now = local(zone, at);
                at = self.at(now.year(), now.month(), 1, 0);
            }
            let now = local(zone, at);
            let (year, month) = if now.month() == 12 { (now.year() + 1, 1) } else { (now.year(), now.month() + 1) };
            at = self.at(year, month, now.day(), second_of(now));
            if local(zone, at).month() == 1 {
                return Look::Again(at);
            }
        }
        while !self.cron.is_day(local(zone, at).date()) {
            let now = local(zone, at);
            if !std::mem::replace(added, true) {
                at = self.at(now.year(), now.month(), now.day(), 0);
            }
            let now = local(zone, at);
            at = self.at(now.year(), now.month(), now.day() + 1, second_of(now));
            let hour = second_of(local(zone, at)) / 3600;
            at += if hour > 12 { (24 - hour) * 3600 } else { -hour * 3600 };
            if local(zone, at).day() == 1 {
                return Look::Again(at);
            }
        }
        self.look_at_time(at, added)
    }

    fn look_at_time(&self, mut at: i64, added: &mut bool) -> Look {
        let zone = self.zone;
        let time = |at: i64| second_of(local(zone, at));
        while self.cron.hours >> (time(at) / 3600) & 1 == 0 {
            let now = local(zone, at);
            if !std::mem::replace(added, true) {
                at = self.at(now.year(), now.month(), now.day(), time(at) / 3600 * 3600);
            }
            at += 3600;
            if time(at) / 3600 == 0 {
                return Look::Again(at);
            }
        }
        while self.cron.minutes >> (time(at) / 60 % 60) & 1 == 0 {
            if !std::mem::replace(added, true) {
                at -= at.rem_euclid(60);
            }
            at += 60;
            if time(at) / 60 % 60 == 0 {
                return Look::Again(at);
            }
        }
        while self.cron.seconds >> (time(at) % 60) & 1 == 0 {
            *added = true;
            at += 1;
            if time(at) % 60 == 0 {
                return Look::Again(at);
            }
        }
        Look::Found(at)
    }

    /// Go's `time.Date`: `day` may be beyond the month's end.
    fn at(&self, year: i32, month: u32, day: u32, second: i64) -> i64 {
        let first = NaiveDate::from_ymd_opt(year, month, 1).unwrap_or_default();
        let local = first.and_time(NaiveTime::MIN).and_utc().timestamp() + (i64::from(day) - 1) * DAY + second;
        local - offset(self.zone, local - offset(self.zone, local))
    }
}

fn second_of(time: NaiveDateTime) -> i64 {
    (time - time.date().and_time(NaiveTime::MIN)).num_seconds()
}
