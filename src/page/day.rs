//! The last 24 hours of **Now**: what ended in each hour, and how late it was started.

use std::time::Duration;

use maud::{Markup, html};

use super::draw::{Column, columns};
use super::words::{Look, command, grouped, spoken, took, verdict};
use crate::job::Verdict;
use crate::ledger::HourRow;
use crate::scheduler::hour::{LATENESS_MS, hour_of};
use crate::time::Wall;

/// How far back it goes.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How many columns that is: the hour that goes on is one of them.
const HOURS: u32 = 25;

const HOUR: Duration = Duration::from_secs(3_600);

/// A row for each verdict that there was, and one for how late runs were started.
/// `is_least`: a leader was lost that may have counted more.
pub(super) fn markup(hours: &Result<Vec<HourRow>, String>, is_least: bool, now: Wall) -> Markup {
    html! {
        section id="day" aria-labelledby="day-h" {
            h2 id="day-h" { "The last 24 hours" }
            @match hours {
                Err(why) => p.muted { "What ended is not known: " (spoken(why)) },
                Ok(hours) if hours.is_empty() => {
                    p.empty { "No run has ended that was counted. The leader counts once a minute." }
                }
                Ok(hours) => {
                    (table(hours, now))
                    @if is_least {
                        p.muted {
                            "At least so many: the leader counts once a minute, and one that was lost in these \
                             hours had no time to."
                        }
                    }
                }
            }
        }
    }
}

fn table(hours: &[HourRow], now: Wall) -> Markup {
    html! {
        table.rows {
            thead { tr { th { "Verdict" } th.num { "Runs" } th { "Hour by hour, UTC" } th { "List them" } } }
            tbody {
                @for how in Verdict::ALL {
                    @let counted = by_hour(hours, now, |row| ended(row, how));
                    @let all = counted.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
                    @if all > 0 {
                        tr {
                            td { (verdict(how)) }
                            td.num data-l="runs" { (number(all)) }
                            td { (columns(how.as_str(), &columns_of(how.into(), &counted))) }
                            td.do { (command(&format!("runs --state {how}"))) }
                        }
                    }
                }
                (lateness(hours, now))
            }
        }
    }
}

/// How many ended so: what was skipped is counted by its reason.
fn ended(row: &HourRow, how: Verdict) -> u64 {
    match how {
        Verdict::Skipped => row.counts.skips.values().fold(0, |sum: u64, count| sum.saturating_add(*count)),
        _ => row.counts.runs.get(how.as_str()).copied().unwrap_or_default(),
    }
}

/// A number for each hour of the day; 0 for those in which nothing was counted.
fn by_hour(hours: &[HourRow], now: Wall, of: impl Fn(&HourRow) -> u64) -> Vec<(Wall, u64)> {
    let first = hour_of(now).minus(HOUR * (HOURS - 1));
    let place = |nth: u32| first.plus(HOUR * nth);
    let number = |hour: Wall| hours.iter().find(|row| row.hour == hour).map_or(0, &of);
    (0..HOURS).map(place).map(|hour| (hour, number(hour))).collect()
}

fn columns_of(look: Look, counted: &[(Wall, u64)]) -> Vec<Column> {
    let title = |hour: &Wall, count: u64| format!("{}: {}", clock(*hour), number(count));
    counted.iter().map(|(hour, count)| Column { look, height: *count, title: title(hour, *count) }).collect()
}

fn lateness(hours: &[HourRow], now: Wall) -> Markup {
    // The height is the place of the bound: from one to the next it about doubles.
    let place = |row: &HourRow| match row.counts.late.quantile(0.99) {
        Some(bound) => LATENESS_MS.iter().position(|known| *known >= bound).map_or(0, |place| place as u64 + 1),
        None if row.counts.late.count() > 0 => LATENESS_MS.len() as u64 + 1,
        None => 0,
    };
    let title = |hour: Wall| match hours.iter().find(|row| row.hour == hour).map(|row| &row.counts.late) {
        Some(late) if late.count() > 0 => {
            let (which, bound) = late.punctual().unwrap_or_default();
            format!("{}: {which} started {}, of {}", clock(hour), within(bound), number(late.count()))
        }
        _ => format!("{}: no run", clock(hour)),
    };
    let places = by_hour(hours, now, place);
    let columns_of: Vec<Column> = places
        .iter()
        .map(|(hour, height)| Column { look: Look::Running, height: *height, title: title(*hour) })
        .collect();
    let mut all = crate::scheduler::hour::HourCounts::default();
    hours.iter().for_each(|row| all.merge(&row.counts));
    html! {
        @if let Some((which, bound)) = all.late.punctual() {
            tr {
                td { "Late by" }
                td.num data-l=(which) { (within(bound)) }
                td { (columns("how late runs started", &columns_of)) }
                td { span.muted { (which) " started so; a log scale" } }
            }
        }
    }
}

fn within(bound: Option<u64>) -> String {
    match bound {
        Some(millis) => format!("within {}", took(Duration::from_millis(millis))),
        None => "more than 5 min late".to_owned(),
    }
}

fn number(count: u64) -> String {
    grouped(usize::try_from(count).unwrap_or(usize::MAX))
}

/// The hour as the clock shows it.
fn clock(hour: Wall) -> String {
    hour.to_utc().format("%H:%MZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::hour::HourCounts;

    fn at(text: &str) -> Wall {
        text.parse().unwrap()
    }

    #[test]
    fn each_verdict_of_the_day_has_a_row_and_its_hours() {
        let mut counts = HourCounts::default();
        counts.runs.insert("succeeded".to_owned(), 1_200);
        counts.skipped("paused", 7);
        counts.late.most_ms.extend([(50, 1_199), (1_000, 1)]);
        let old = HourRow { hour: at("2026-11-26T06:00:00Z"), counts: counts.clone() };
        let hours = Ok(vec![old, HourRow { hour: at("2026-11-27T06:00:00Z"), counts }]);
        let drawn = markup(&hours, false, at("2026-11-27T07:30:00Z")).into_string();
        for words in ["1,200", "06:00Z: 1,200", "runs --state succeeded", ">7<", "runs --state skipped", "within 50 ms"]
        {
            assert!(drawn.contains(words), "{words}: {drawn}");
        }
        assert!(!drawn.contains("At least") && drawn.contains("99 of 100 started so"), "{drawn}");
        assert!(markup(&hours, true, at("2026-11-27T07:30:00Z")).into_string().contains("At least so many"));
        assert!(!drawn.contains("runs --state failed") && !drawn.contains("2,400"), "{drawn}");
        assert!(markup(&Ok(Vec::new()), false, Wall::EPOCH).into_string().contains("No run has ended"));
        let silent = markup(&Err("<away>".to_owned()), false, Wall::EPOCH).into_string();
        assert!(silent.contains("is not known") && silent.contains("&lt;away&gt;"), "{silent}");
    }
}
