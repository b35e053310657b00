//! Named sets of dates, for the `except` of a schedule.

use chrono::{Datelike, NaiveDate};

use super::pattern::LocalDay;

/// The most dates and ranges in one calendar.
pub const MOST_DATES: usize = 10_000;

/// A set of dates of the local calendar.
///
/// ```
/// use fencron::schedule::Calendar;
/// let holidays = Calendar::parse(&["2026-04-03", "2026-12-24..2027-01-01", "05-01"]).unwrap();
/// assert!(holidays.contains("2027-01-01".parse().unwrap()));
/// assert!(holidays.contains("2031-05-01".parse().unwrap()));
/// assert!(!holidays.contains("2026-01-01".parse().unwrap()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// First and last days, in order; they neither overlap nor touch.
    ranges: Vec<(LocalDay, LocalDay)>,
    /// Months and dates, in order: the same in every year.
    yearly: Vec<(u32, u32)>,
}

/// A text that is not a date of a calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CalendarError {
    /// Which of the dates, from 0.
    pub index: usize,
    message: String,
}

impl Calendar {
    /// Reads dates (`2026-12-25`), ranges of dates, the last included (`2026-12-24..2027-01-01`), and dates of
    /// every year (`12-25`).
    ///
    /// # Errors
    ///
    /// One for each text that is none of these, and one if there are more than [`MOST_DATES`].
    pub fn parse<T: AsRef<str>>(dates: &[T]) -> Result<Calendar, Vec<CalendarError>> {
        if dates.len() > MOST_DATES {
            let message = format!("{} dates are too many: a calendar holds at most {MOST_DATES}", dates.len());
            return Err(vec![CalendarError { index: MOST_DATES, message }]);
        }
        let (mut calendar, mut errors) = (Calendar::default(), Vec::new());
        for (index, text) in dates.iter().enumerate() {
            if let Err(message) = calendar.add(text.as_ref().trim()) {
                errors.push(CalendarError { index, message });
            }
        }
        calendar.put_in_order();
        if errors.is_empty() { Ok(calendar) } else { Err(errors) }
    }

    /// Whether `date` is in the set.
    pub fn contains(&self, date: NaiveDate) -> bool {
        self.block(i64::from(date.to_epoch_days())).is_some()
    }

    /// The dates and ranges of dates as they are written, in order, and then those of every year.
    pub(super) fn written(&self) -> impl Iterator<Item = String> {
        let day = |day: LocalDay| i32::try_from(day).ok().and_then(NaiveDate::from_epoch_days);
        let range = move |(first, last): &(LocalDay, LocalDay)| {
            let (first, last) = (day(*first)?, day(*last)?);
            Some(if first == last { first.to_string() } else { format!("{first}..{last}") })
        };
        let yearly = |(month, date): &(u32, u32)| format!("{month:02}-{date:02}");
        self.ranges.iter().filter_map(range).chain(self.yearly.iter().map(yearly))
    }

    /// The days around `day` that are all in the set: the first and the last. `None` when `day` is not.
    ///
    /// It may be less than the longest such stretch, but a range is never split.
    pub(super) fn block(&self, day: LocalDay) -> Option<(LocalDay, LocalDay)> {
        let after = self.ranges.partition_point(|(first, _)| *first <= day);
        let range = after.checked_sub(1).map(|index| self.ranges[index]).filter(|(_, last)| day <= *last);
        range.or_else(|| self.is_yearly(day).then_some((day, day)))
    }

    fn is_yearly(&self, day: LocalDay) -> bool {
        if self.yearly.is_empty() {
            return false;
        }
        let date = i32::try_from(day).ok().and_then(NaiveDate::from_epoch_days);
        date.is_some_and(|date| self.yearly.binary_search(&(date.month(), date.day())).is_ok())
    }

    /// What two equal sets have in common, for a schedule's fingerprint.
    pub(super) fn canonical(&self) -> String {
        format!("{:?}{:?}", self.ranges, self.yearly)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        if let Some((first, last)) = text.split_once("..") {
            let (first, last) = (date(first.trim(), text)?, date(last.trim(), text)?);
            if last < first {
                return Err(format!("the range `{text}` ends before it begins: swap its two dates"));
            }
            self.ranges.push((first, last));
        } else if let Some(month_and_date) = yearly(text) {
            self.yearly.push(month_and_date);
        } else {
            let day = date(text, text)?;
            self.ranges.push((day, day));
        }
        Ok(())
    }

    fn put_in_order(&mut self) {
        self.yearly.sort_unstable();
        self.yearly.dedup();
        self.ranges.sort_unstable();
        let mut merged: Vec<(LocalDay, LocalDay)> = Vec::with_capacity(self.ranges.len());
        for (first, last) in self.ranges.drain(..) {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        self.ranges = merged;
    }
}

fn yearly(text: &str) -> Option<(u32, u32)> {
    let (month, date) = text.split_once('-').filter(|_| text.len() == 5)?;
    const LEAP_YEAR: i32 = 2000;
    let date = NaiveDate::from_ymd_opt(LEAP_YEAR, month.parse().ok()?, date.parse().ok()?)?;
    Some((date.month(), date.day()))
}

fn date(text: &str, whole: &str) -> Result<LocalDay, String> {
    let well_formed = text.len() == 10 && text.starts_with(|c: char| c.is_ascii_digit());
    match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        Ok(date) if well_formed => Ok(i64::from(date.to_epoch_days())),
        _ => {
            let shown: String = whole.chars().take(60).collect();
            Err(format!(
                "`{shown}` is not a date: write 2026-12-25, a range 2026-12-24..2027-01-01, or 12-25 for every year"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let calendar = Calendar::parse(&["2026-01-03..2026-01-05", "2026-01-01", "2026-01-02", "2026-01-04"]).unwrap();
        let first = i64::from(NaiveDate::from_ymd_opt(2026, 1, 1).unwrap().to_epoch_days());
        assert_eq!(calendar.block(first + 2), Some((first, first + 4)));
        assert_eq!(calendar.block(first + 5), None);
    }

    #[test]
    fn every_wrong_date_is_reported_with_its_place() {
        let errors =
            Calendar::parse(&["2026-02-30", "2026-01-01", "13-01", "x", "2026-01-02..2026-01-01"]).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.index).collect::<Vec<_>>(), [0, 2, 3, 4]);
        assert!(errors[3].to_string().contains("swap"), "{}", errors[3]);
    }
}
