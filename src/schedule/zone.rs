//! A time zone as the list of its offsets, which is what the search walks along.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, FixedOffset, Offset, TimeZone};
use chrono_tz::Tz;

use super::pattern::{DAY_SECONDS, LocalSecond};
use super::{field, zone_name};

/// Where the list begins: before it, the offset of that day holds.
const TABLE_FROM: i64 = 0;
/// Where chrono-tz's own table ends (the year 2100): from there on the last offset holds.
const TABLE_TO: i64 = 4_102_444_800;
/// A zone that changes its clocks twice within this and ends where it began would be read as never changed. No zone
/// has done so since 1970; a test holds the list against chrono-tz.
const TABLE_STEP: i64 = DAY_SECONDS;

/// A zone and its offsets from UTC since 1970.
pub(super) struct Zone {
    tz: Tz,
    /// From which UTC second on, and how many seconds local time is ahead of UTC. The first begins before all time.
    offsets: Vec<(i64, i32)>,
}

/// A stretch of real time during which a zone's clocks were not changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub index: usize,
    /// UTC seconds; the end is not part of it.
    pub begin: i64,
    pub end: i64,
    /// Seconds that local time is ahead of UTC.
    pub offset: i64,
    /// The offset of the span before and of the one after.
    pub before: Option<i64>,
    pub after: Option<i64>,
}

impl Span {
    /// How far the clocks were put forward at its beginning.
    pub(super) fn gap(&self) -> i64 {
        self.before.map_or(0, |before| (self.offset - before).max(0))
    }

    /// How far the clocks were put back at its beginning: so long it repeats.
    pub(super) fn repeats(&self) -> i64 {
        self.before.map_or(0, |before| (before - self.offset).max(0))
    }

    /// How far the clocks are put back at its end: so much of its end is repeated by the next.
    pub(super) fn repeated(&self) -> i64 {
        self.after.map_or(0, |after| (self.offset - after).max(0))
    }
}

impl Zone {
    fn new(tz: Tz) -> Zone {
        let offset_at = |second: i64| {
            let utc = DateTime::from_timestamp(second, 0).expect("the table's years are within chrono's");
            tz.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc()
        };
        let mut offsets = vec![(i64::MIN, offset_at(TABLE_FROM))];
        let mut last = offsets[0].1;
        for second in (TABLE_FROM..=TABLE_TO).step_by(TABLE_STEP as usize) {
            let offset = offset_at(second);
            if offset != last {
                let (mut before, mut from) = (second - TABLE_STEP, second);
                while from - before > 1 {
                    let middle = before + (from - before) / 2;
                    if offset_at(middle) == last { before = middle } else { from = middle }
                }
                offsets.push((from, offset));
                last = offset;
            }
        }
        Zone { tz, offsets }
    }

    pub(super) fn name(&self) -> &'static str {
        self.tz.name()
    }

    /// The span in which the UTC second `at` lies.
    pub(super) fn span_at(&self, at: i64) -> Span {
        self.span(self.offsets.partition_point(|(begin, _)| *begin <= at) - 1)
            .expect("the first begins before all time")
    }

    /// The span with this index.
    pub(super) fn span(&self, index: usize) -> Option<Span> {
        let (begin, offset) = *self.offsets.get(index)?;
        let next = self.offsets.get(index + 1);
        Some(Span {
            index,
            begin,
            end: next.map_or(i64::MAX, |(begin, _)| *begin),
            offset: i64::from(offset),
            before: index.checked_sub(1).map(|before| i64::from(self.offsets[before].1)),
            after: next.map(|(_, offset)| i64::from(*offset)),
        })
    }

    /// The first UTC second at which the clocks show `local`, or a later time where they leap over it.
    pub(super) fn first_at(&self, local: LocalSecond) -> i64 {
        let shows = |span: Span| Some((local - span.offset).max(span.begin)).filter(|second| *second < span.end);
        let last = self.offsets.len() - 1;
        (0..=last).find_map(|index| self.span(index).and_then(shows)).expect("the last span does not end")
    }

    /// The last UTC second at which the clocks show `local`, or an earlier time where they leap over it.
    pub(super) fn last_at(&self, local: LocalSecond) -> i64 {
        let shows = |span: Span| Some((local - span.offset).min(span.end - 1)).filter(|second| *second >= span.begin);
        let spans = (0..self.offsets.len()).rev();
        spans.filter_map(|index| self.span(index)).find_map(shows).expect("the first span begins before all time")
    }

    /// The offset for chrono, for writing an instant as local time.
    pub(super) fn offset_at(&self, at: i64) -> FixedOffset {
        FixedOffset::east_opt(self.span_at(at).offset as i32).expect("the offset came from chrono")
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        self.tz == other.tz
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The zones in use, each read once: schedules of one configuration share them.
///
/// Keep one for as long as schedules are read; it holds no schedule.
#[derive(Debug, Default)]
pub struct Zones {
    known: HashMap<Tz, Arc<Zone>>,
}

impl Zones {
    /// None read yet.
    pub fn new() -> Zones {
        Zones::default()
    }

    pub(super) fn named(&mut self, name: &str) -> Result<Arc<Zone>, String> {
        let not_a_zone = |_| format!("{} is not a time zone: {}", field::shorten(name), zone_name::advice(name));
        let tz = Tz::from_str(name).map_err(not_a_zone)?;
        Ok(Arc::clone(self.known.entry(tz).or_insert_with(|| Arc::new(Zone::new(tz)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every zone of the database, each quarter of an hour around every change and each eight days.
    #[test]
    fn the_list_of_offsets_agrees_with_the_database() {
        for tz in chrono_tz::TZ_VARIANTS {
            let zone = Zone::new(tz);
            let changes = zone.offsets.iter().skip(1).flat_map(|(begin, _)| [begin - 1, *begin]);
            for second in changes.chain((TABLE_FROM..TABLE_TO + 1_000_000_000).step_by(8 * 86_400 + 3_607)) {
                let utc = DateTime::from_timestamp(second, 0).unwrap().naive_utc();
                assert_eq!(zone.offset_at(second), tz.offset_from_utc_datetime(&utc).fix(), "{tz} at {utc}");
            }
        }
    }
}
