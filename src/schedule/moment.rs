//! An instant as people write it: with its offset from UTC, or by the clocks of a zone.

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};

use super::pattern::{DAY_SECONDS, LocalSecond};
use super::zone::Zone;
use crate::time::Wall;

/// The forms, for messages.
pub(super) const FORMS: &str = "2026-12-01, 2026-12-01T09:00 or 2026-12-01T09:00:00+01:00";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// `2026-12-01T09:00:00+01:00`
    Instant(Wall),
    /// `2026-12-01T09:00`, by the clocks of a zone.
    Local(LocalSecond),
    /// `2026-12-01`: the whole day, whose first second this is.
    Day(LocalSecond),
}

impl Moment {
    pub(super) fn read(text: &str) -> Option<Moment> {
        let local = |time: NaiveDateTime| time.and_utc().timestamp();
        if let Ok(day) = text.parse::<NaiveDate>() {
            return Some(Moment::Day(local(day.and_time(NaiveTime::MIN))));
        }
        let time = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"].iter();
        if let Some(time) = time.filter_map(|form| NaiveDateTime::parse_from_str(text, form).ok()).next() {
            return Some(Moment::Local(local(time)));
        }
        text.parse().ok().map(Moment::Instant)
    }

    /// The first instant of it.
    pub(super) fn first(self, zone: &Zone) -> Wall {
        match self {
            Moment::Instant(at) => at,
            Moment::Local(second) | Moment::Day(second) => from_seconds(zone.first_at(second)),
        }
    }

    /// The last instant of it: of a day its last millisecond, of a time that comes twice the second one.
    pub(super) fn last(self, zone: &Zone) -> Wall {
        match self {
            Moment::Instant(at) => at,
            Moment::Local(second) => from_seconds(zone.last_at(second)),
            Moment::Day(second) => Wall::from_millis(from_seconds(zone.first_at(second + DAY_SECONDS)).as_millis() - 1),
        }
    }
}

fn from_seconds(second: i64) -> Wall {
    Wall::from_millis(second.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Zones;

    fn bounds(text: &str, zone: &str) -> (String, String) {
        let (moment, zone) = (Moment::read(text).unwrap(), Zones::new().named(zone).unwrap());
        (moment.first(&zone).to_string(), moment.last(&zone).to_string())
    }

    #[test]
    fn a_day_is_that_of_the_zone() {
        let berlin = bounds("2026-12-01", "Europe/Berlin");
        assert_eq!(berlin, ("2026-11-30T23:00:00Z".into(), "2026-12-01T22:59:59.999Z".into()));
        // On 2026-10-25 the day has 25 hours.
        let longer = bounds("2026-10-25", "Europe/Berlin");
        assert_eq!(longer, ("2026-10-24T22:00:00Z".into(), "2026-10-25T22:59:59.999Z".into()));
    }

    #[test]
    fn a_day_without_a_midnight_begins_after_the_gap() {
        // In Beirut clocks went from 00:00 to 01:00.
        assert_eq!(bounds("2026-03-29", "Asia/Beirut").0, "2026-03-28T22:00:00Z");
    }

    #[test]
    fn a_time_that_comes_twice_lasts_from_the_first_to_the_second() {
        let twice = bounds("2026-10-25T02:30", "Europe/Berlin");
        assert_eq!(twice, ("2026-10-25T00:30:00Z".into(), "2026-10-25T01:30:00Z".into()));
    }

    #[test]
    fn an_instant_is_itself_in_every_zone() {
        let instant = bounds("2026-12-01T09:00:00+01:00", "Asia/Tokyo");
        assert_eq!(instant, ("2026-12-01T08:00:00Z".into(), "2026-12-01T08:00:00Z".into()));
        for text in ["", "2026-13-01", "2026-02-30", "tomorrow", "09:00", "2026-12-01T09", "2026-12-01 09:00"] {
            assert_eq!(Moment::read(text), None, "{text}");
        }
    }
}
