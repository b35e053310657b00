//! A cron pattern as sets of bits, matched against local calendar time. It knows no time zone.
//!
//! Small on purpose (under 100 bytes): a configuration may hold 100,000 patterns that all differ.

use std::ops::Range;

use chrono::{Datelike, NaiveDate};

/// A second of local time, counted from 1970-01-01T00:00:00 on the local calendar.
pub(super) type LocalSecond = i64;
/// A day of the local calendar, counted from 1970-01-01.
pub(super) type LocalDay = i64;

pub(super) const DAY_SECONDS: i64 = 86_400;

/// The years a year field can name.
pub(super) const FIRST_YEAR: u32 = 1970;
pub(super) const LAST_YEAR: u32 = 2199;

const YEAR_WORDS: usize = 4;
const _: () = assert!(((LAST_YEAR - FIRST_YEAR) as usize) < YEAR_WORDS * 64, "every year has its bit");

/// The years of a pattern that restricts them: bit 0 is [`FIRST_YEAR`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Years([u64; YEAR_WORDS]);

impl Years {
    pub(super) fn insert(&mut self, year: u32) {
        let bit = (year - FIRST_YEAR) as usize;
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn contains(&self, year: i32) -> bool {
        let Some(bit) = u32::try_from(year).ok().and_then(|year| year.checked_sub(FIRST_YEAR)) else {
            return false;
        };
        self.0.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}

/// Which days of which months. A date is bit 1 to 31; a weekday is bit 0 (Sunday) to 6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Days {
    /// The day-of-month field begins with `*`.
    pub starred_date: bool,
    pub dates: u32,
    /// `L` is bit 0, `L-3` bit 3.
    pub before_last: u32,
    /// `15W`: the working day nearest to the date, within its month.
    pub nearest_workday: u32,
    /// `LW`
    pub last_workday: bool,
    /// The weekday field begins with `*`.
    pub starred_weekday: bool,
    pub weekdays: u8,
    /// `MON#2` is in the set at index 1.
    pub nth_weekdays: [u8; 5],
    /// `5L`
    pub last_weekdays: u8,
}

/// Every so many days from one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cycle {
    pub first: i32,
    /// At least 1.
    pub days: u32,
}

impl Cycle {
    /// Of the dates `fitting` of `month`, those that are days of the cycle.
    fn keep(self, fitting: u32, month: &Month) -> u32 {
        let is_its_own = |date: &u32| {
            let since = month.day(*date) - i64::from(self.first);
            since >= 0 && since % i64::from(self.days) == 0
        };
        bits(fitting).filter(is_its_own).fold(0, |kept, date| kept | 1 << date)
    }
}

/// One cron pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pattern {
    pub seconds: u64,
    pub minutes: u64,
    pub hours: u32,
    pub days: Days,
    pub months: u16,
    /// `None`: every year.
    pub years: Option<Box<Years>>,
    /// Only these of its days: `@every 14d from` a day.
    pub cycle: Option<Cycle>,
    /// It means "every so often" rather than "at these times of day": see the rule in the module `schedule`.
    pub interval: bool,
}

impl Pattern {
    /// The first local second in `within` that the pattern names.
    pub(super) fn first_in(&self, within: Range<LocalSecond>) -> Option<LocalSecond> {
        if within.is_empty() {
            return None;
        }
        let (day, second) = split(within.start);
        let last_day = split(within.end - 1).0;
        let mut found_day = self.next_day(day, last_day)?;
        let mut time = self.time_from(if found_day == day { second } else { 0 });
        if time.is_none() {
            found_day = self.next_day(found_day + 1, last_day)?;
            time = self.time_from(0);
        }
        let found = found_day * DAY_SECONDS + i64::from(time?);
        within.contains(&found).then_some(found)
    }

    /// The last local second in `within` that the pattern names.
    pub(super) fn last_in(&self, within: Range<LocalSecond>) -> Option<LocalSecond> {
        if within.is_empty() {
            return None;
        }
        let (day, second) = split(within.end - 1);
        let first_day = split(within.start).0;
        const LAST: u32 = DAY_SECONDS as u32 - 1;
        let mut found_day = self.previous_day(day, first_day)?;
        let mut time = self.time_until(if found_day == day { second } else { LAST });
        if time.is_none() {
            found_day = self.previous_day(found_day - 1, first_day)?;
            time = self.time_until(LAST);
        }
        let found = found_day * DAY_SECONDS + i64::from(time?);
        within.contains(&found).then_some(found)
    }

    /// Whether any date of the calendar fits, were the clocks never changed.
    pub(super) fn names_a_day(&self) -> bool {
        let first = NaiveDate::from_yo_opt(FIRST_YEAR as i32, 1).expect("1970 has a first day");
        let from = i64::from(first.to_epoch_days());
        self.next_day(from, from + super::CALENDAR_CYCLE_DAYS).is_some()
    }

    /// The first time of day at or after `second`, in seconds from midnight.
    fn time_from(&self, second: u32) -> Option<u32> {
        let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
        let hours = u64::from(self.hours);
        let first = |set: u64| set.trailing_zeros();
        if has(hours, h) {
            if has(self.minutes, m)
                && let Some(s) = at_or_after(self.seconds, s)
            {
                return Some(h * 3600 + m * 60 + s);
            }
            if let Some(m) = at_or_after(self.minutes, m + 1) {
                return Some(h * 3600 + m * 60 + first(self.seconds));
            }
        }
        at_or_after(hours, h + 1).map(|h| h * 3600 + first(self.minutes) * 60 + first(self.seconds))
    }

    /// The last time of day at or before `second`.
    fn time_until(&self, second: u32) -> Option<u32> {
        let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
        let hours = u64::from(self.hours);
        let last = |set: u64| 63 - set.leading_zeros();
        if has(hours, h) {
            if has(self.minutes, m)
                && let Some(s) = below(self.seconds, s + 1)
            {
                return Some(h * 3600 + m * 60 + s);
            }
            if let Some(m) = below(self.minutes, m) {
                return Some(h * 3600 + m * 60 + last(self.seconds));
            }
        }
        below(hours, h).map(|h| h * 3600 + last(self.minutes) * 60 + last(self.seconds))
    }

    /// The first matching day from `day` to `until`, both included.
    fn next_day(&self, day: LocalDay, until: LocalDay) -> Option<LocalDay> {
        if day > until {
            return None;
        }
        let mut month = Month::of(day)?;
        let mut fitting = self.days_in(&month) & (u32::MAX << month.date_of(day));
        while fitting == 0 {
            month = month.next();
            if month.first > until {
                return None;
            }
            fitting = self.days_in(&month);
        }
        Some(month.day(fitting.trailing_zeros())).filter(|found| *found <= until)
    }

    /// The last matching day from `day` back to `since`, both included.
    fn previous_day(&self, day: LocalDay, since: LocalDay) -> Option<LocalDay> {
        if day < since {
            return None;
        }
        let mut month = Month::of(day)?;
        let mut fitting = self.days_in(&month) & (u32::MAX >> (31 - month.date_of(day)));
        while fitting == 0 {
            if month.first <= since {
                return None;
            }
            month = month.previous();
            fitting = self.days_in(&month);
        }
        Some(month.day(31 - fitting.leading_zeros())).filter(|found| *found >= since)
    }

    /// The dates of `month` that fit, as bits 1 to 31.
    fn days_in(&self, month: &Month) -> u32 {
        if self.months >> month.month & 1 == 0 || self.years.as_ref().is_some_and(|years| !years.contains(month.year)) {
            return 0;
        }
        let all = u32::MAX >> (31 - month.length) & !1;
        let days = &self.days;
        let (by_date, by_weekday) = (days.by_date(month), days.by_weekday(month));
        let both = days.starred_date || days.starred_weekday;
        let fitting = all & if both { by_date & by_weekday } else { by_date | by_weekday };
        self.cycle.map_or(fitting, |cycle| cycle.keep(fitting, month))
    }
}

impl Days {
    fn by_date(&self, month: &Month) -> u32 {
        let mut found = self.dates;
        for before in bits(self.before_last) {
            found |= 1u32 << month.length.saturating_sub(before);
        }
        for date in bits(self.nearest_workday).filter(|date| *date <= month.length) {
            found |= 1 << month.nearest_workday(date);
        }
        if self.last_workday {
            found |= 1 << month.nearest_workday_before(month.length);
        }
        found
    }

    fn by_weekday(&self, month: &Month) -> u32 {
        let mut found = month.dates_of_weekdays(self.weekdays);
        for (index, weekdays) in self.nth_weekdays.iter().enumerate().filter(|(_, set)| **set != 0) {
            let week = (0x7f_u64 << (index * 7 + 1)) as u32;
            found |= month.dates_of_weekdays(*weekdays) & week;
        }
        if self.last_weekdays != 0 {
            found |= month.dates_of_weekdays(self.last_weekdays) & (0x7f << (month.length - 6));
        }
        found
    }
}

/// One month of one year.
struct Month {
    year: i32,
    month: u32,
    length: u32,
    /// The day that is its date 1.
    first: LocalDay,
}

impl Month {
    /// The month of `day`; `None` beyond the calendar's end, which no instant reaches.
    fn of(day: LocalDay) -> Option<Month> {
        let date = NaiveDate::from_epoch_days(i32::try_from(day).ok()?)?;
        let (year, month) = (date.year(), date.month());
        Some(Month { year, month, length: length_of(year, month), first: day - i64::from(date.day0()) })
    }

    fn next(&self) -> Month {
        let (year, month) = if self.month == 12 { (self.year + 1, 1) } else { (self.year, self.month + 1) };
        Month { year, month, length: length_of(year, month), first: self.first + i64::from(self.length) }
    }

    fn previous(&self) -> Month {
        let (year, month) = if self.month == 1 { (self.year - 1, 12) } else { (self.year, self.month - 1) };
        let length = length_of(year, month);
        Month { year, month, length, first: self.first - i64::from(length) }
    }

    fn date_of(&self, day: LocalDay) -> u32 {
        (day - self.first) as u32 + 1
    }

    fn day(&self, date: u32) -> LocalDay {
        self.first + i64::from(date) - 1
    }

    /// 0 is Sunday; 1970-01-01 was a Thursday.
    fn weekday_of(&self, date: u32) -> u32 {
        (self.day(date) + 4).rem_euclid(7) as u32
    }

    /// The dates that fall on one of `weekdays`; also beyond the month's end.
    fn dates_of_weekdays(&self, weekdays: u8) -> u32 {
        let first = self.weekday_of(1);
        let set = u64::from(weekdays);
        // One week with date 1 in bit 0, repeated five times.
        let week = (set >> first | set << (7 - first)) & 0x7f;
        ((week | week << 7 | week << 14 | week << 21 | week << 28) << 1) as u32
    }

    /// Quartz's `W`: Saturday moves to Friday, Sunday to Monday, never into another month.
    fn nearest_workday(&self, date: u32) -> u32 {
        match self.weekday_of(date) {
            6 if date == 1 => 3,
            6 => date - 1,
            0 if date == self.length => date - 2,
            0 => date + 1,
            _ => date,
        }
    }

    fn nearest_workday_before(&self, date: u32) -> u32 {
        match self.weekday_of(date) {
            6 => date - 1,
            0 => date - 2,
            _ => date,
        }
    }
}

fn length_of(year: i32, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn split(second: LocalSecond) -> (LocalDay, u32) {
    (second.div_euclid(DAY_SECONDS), second.rem_euclid(DAY_SECONDS) as u32)
}

fn has(set: u64, value: u32) -> bool {
    set >> value & 1 == 1
}

/// The least member from `value` on.
fn at_or_after(set: u64, value: u32) -> Option<u32> {
    let rest = set & u64::MAX.checked_shl(value).unwrap_or(0);
    (rest != 0).then(|| rest.trailing_zeros())
}

/// The greatest member below `end`.
fn below(set: u64, end: u32) -> Option<u32> {
    let rest = set & !u64::MAX.checked_shl(end).unwrap_or(0);
    (rest != 0).then(|| 63 - rest.leading_zeros())
}

fn bits(mut set: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (set != 0).then(|| set.trailing_zeros())?;
        set &= set - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_small() {
        assert!(size_of::<Pattern>() <= 96, "{} bytes", size_of::<Pattern>());
    }

    #[test]
    fn a_month_before_and_after_has_the_right_first_day() {
        let mut month = Month::of(0).unwrap();
        for _ in 0..5000 {
            let date = NaiveDate::from_ymd_opt(month.year, month.month, 1).unwrap();
            assert_eq!(i64::from(date.to_epoch_days()), month.first);
            assert_eq!(date.weekday().num_days_from_sunday(), month.weekday_of(1));
            assert_eq!(month.next().previous().first, month.first);
            month = month.next();
        }
    }
}
