//! **Week**: what fires when in the seven days from today on, hour by hour, and one day's fires one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{Datelike as _, Days, NaiveDate, NaiveTime, TimeZone as _, Timelike as _, Weekday};
use chrono_tz::Tz;
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::{Depth, Frame, Screen, page};
use super::looker::{Zones, zone};
use super::now::schedule_of;
use super::tables::job_link;
use super::words::{Viewpoint, command, count, foreign, grouped, instant, took};
use crate::board::Board;
use crate::job::{Job, JobName, Trigger};
use crate::time::Wall;

/// How many days are shown, and how many jobs are looked at: those that fire next.
const DAYS: usize = 7;
const JOBS_MOST: usize = 2_000;

/// How many fires a job may have in the week to be counted hour by hour: beyond, it fires so often that it would hide all
/// others.
const OF_ONE_JOB_MOST: usize = 7 * 24 * 4;

/// How many fires of all jobs together are counted.
const FIRES_MOST: usize = 100_000;

/// How many fires of a day are listed.
const LISTED_MOST: usize = 300;

/// How many zones can be chosen.
const ZONES_MOST: usize = 8;

/// What is asked for in the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    /// A name of the IANA database; none: the zone of most jobs.
    zone: Option<String>,
    /// The day whose fires are listed.
    day: Option<NaiveDate>,
}

/// What the screen is made from, copied from the board so that nothing waits while it is counted.
pub(super) struct Plan {
    frame: Frame,
    jobs: Vec<Arc<Job>>,
    /// How many jobs with a schedule are not looked at.
    beyond: usize,
    zones: Vec<&'static str>,
    wanted: Wanted,
}

impl Plan {
    pub(super) fn of(board: &Board, frame: Frame, wanted: Wanted) -> Plan {
        let mut zones: BTreeMap<&'static str, usize> = BTreeMap::new();
        let mut jobs = Vec::new();
        let mut beyond = 0;
        for (_, name) in board.next_fires().filter(|(_, name)| frame.looker.sees(name)) {
            let (Some(job), Some(schedule)) = (board.definition(name), schedule_of(board, name)) else { continue };
            if jobs.len() == JOBS_MOST {
                beyond += 1;
                continue;
            }
            *zones.entry(schedule.timezone()).or_default() += 1;
            jobs.push(Arc::clone(job));
        }
        let mut zones: Vec<(&'static str, usize)> = zones.into_iter().collect();
        zones.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let zones = zones.into_iter().map(|(zone, _)| zone).take(ZONES_MOST).collect();
        Plan { frame, jobs, beyond, zones, wanted }
    }
}

/// What the screen shows.
pub(super) struct Week {
    frame: Frame,
    zone: Tz,
    zones: Vec<&'static str>,
    days: Vec<Day>,
    /// The jobs that fire too often to be counted hour by hour.
    often: Vec<Arc<Job>>,
    beyond: usize,
    is_cut: bool,
    /// The day that is looked at, with its fires, and whether there are more.
    listed: Option<(NaiveDate, Vec<Fire>, bool)>,
}

struct Day {
    date: NaiveDate,
    hours: [u32; 24],
    /// What the clocks do on it.
    note: Option<String>,
}

struct Fire {
    at: Wall,
    job: JobName,
    /// In the zone of its schedule.
    local: Option<String>,
    note: Option<String>,
}

/// When a day begins.
fn begin(zone: Tz, date: NaiveDate) -> Wall {
    // Where the clocks leap over midnight, the day begins after the gap.
    let tries = (0..=3).filter_map(|hour| NaiveTime::from_hms_opt(hour, 0, 0));
    let found = tries.filter_map(|time| zone.from_local_datetime(&date.and_time(time)).earliest()).next();
    found.map_or_else(|| Wall::from(zone.from_utc_datetime(&date.and_time(NaiveTime::MIN))), Wall::from)
}

fn day_after(date: NaiveDate, days: u64) -> NaiveDate {
    date.checked_add_days(Days::new(days)).unwrap_or(date)
}

impl Week {
    /// Counts. It takes a while: not to be done between other things.
    ///
    /// # Errors
    ///
    /// Where the zone that is asked for is none.
    pub(super) fn of(plan: Plan) -> Result<Week, String> {
        let Plan { frame, jobs, beyond, zones, wanted } = plan;
        let usual = match frame.looker.zones {
            Zones::Jobs => zones.first().copied().unwrap_or("UTC"),
            Zones::Utc | Zones::Mine(_) => frame.looker.zones.name(),
        };
        let zone: Tz = zone(wanted.zone.as_deref().unwrap_or(usual))?;
        let today = frame.now.to_utc().with_timezone(&zone).date_naive();
        let day = |index: usize| day_after(today, index as u64);
        let mut days: Vec<Day> =
            (0..DAYS).map(|index| Day { date: day(index), hours: [0; 24], note: change(zone, day(index)) }).collect();
        let (from, until) = (begin(zone, today), begin(zone, day(DAYS)));
        let (from, until) = (Wall::from_millis(from.as_millis() - 1), Wall::from_millis(until.as_millis() - 1));
        let (mut often, mut counted, mut is_cut) = (Vec::new(), 0, false);
        for job in &jobs {
            let Trigger::Schedule { schedule, .. } = &job.trigger else { continue };
            let fires: Vec<Wall> = schedule.between(from, until).take(OF_ONE_JOB_MOST + 1).collect();
            if fires.len() > OF_ONE_JOB_MOST {
                often.push(Arc::clone(job));
                continue;
            }
            if counted + fires.len() > FIRES_MOST {
                is_cut = true;
                break;
            }
            counted += fires.len();
            for at in fires {
                let local = at.to_utc().with_timezone(&zone);
                let index = local.date_naive().signed_duration_since(today).num_days();
                if let Some(day) = usize::try_from(index).ok().and_then(|index| days.get_mut(index)) {
                    day.hours[local.hour() as usize % 24] += 1;
                }
            }
        }
        let listed = wanted.day.map(|date| {
            let (fires, more) = list(&jobs, (begin(zone, date), begin(zone, day_after(date, 1))), frame.view());
            (date, fires, more)
        });
        Ok(Week { frame, zone, zones, days, often, beyond, is_cut, listed })
    }
}

/// What the clocks do on a day.
fn change(zone: Tz, date: NaiveDate) -> Option<String> {
    const DAY: Duration = Duration::from_secs(86_400);
    let long = begin(zone, day_after(date, 1)).since(begin(zone, date));
    let (by, way) = match long.cmp(&DAY) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Less => (DAY.saturating_sub(long), "forward"),
        std::cmp::Ordering::Greater => (long.saturating_sub(DAY), "back"),
    };
    Some(format!("clocks go {way} by {}", took(by)))
}

/// The fires of a day, in their order. Jobs that fire often are left out: they would be all of it.
fn list(jobs: &[Arc<Job>], (from, until): (Wall, Wall), view: Viewpoint) -> (Vec<Fire>, bool) {
    let (from, until) = (Wall::from_millis(from.as_millis() - 1), Wall::from_millis(until.as_millis() - 1));
    let mut fires = Vec::new();
    for job in jobs {
        let Trigger::Schedule { schedule, .. } = &job.trigger else { continue };
        let of_job: Vec<Wall> = schedule.between(from, until).take(LISTED_MOST + 1).collect();
        if of_job.len() <= OF_ONE_JOB_MOST / DAYS {
            fires.extend(of_job.into_iter().map(|at| (at, job)));
        }
        if fires.len() > FIRES_MOST {
            break;
        }
    }
    fires.sort_by(|(at, job), (other_at, other)| (at, &job.name).cmp(&(other_at, &other.name)));
    let more = fires.len() > LISTED_MOST;
    fires.truncate(LISTED_MOST);
    let fire = |(at, job): (Wall, &Arc<Job>)| match &job.trigger {
        Trigger::Schedule { schedule, .. } => {
            Some(Fire { at, job: job.name.clone(), local: view.beside(at, schedule), note: schedule.explain(at).note })
        }
        Trigger::After { .. } | Trigger::Disabled => None,
    };
    (fires.into_iter().filter_map(fire).collect(), more)
}

pub(super) fn markup(view: &Week) -> Markup {
    let body = html! {
        h1 { "Week" }
        p.muted {
            "What the schedules of this node's jobs file name, hour by hour in " b { (view.zone.name()) }
            ". Pauses and overlaps are not taken into account. "
            (command("next --help"))
        }
        nav.tiles aria-label="Time zone" id="zones" {
            span.muted { "in" }
            @for zone in choices(view) {
                @let here = (zone == view.zone.name()).then_some("true");
                a href={ "week?zone=" (zone.replace('+', "%2B")) } aria-current=[here] {
                    (zone)
                }
            }
        }
        section id="grid" aria-label="Fires of each hour" { (grid(view)) (beside(view)) }
        @if let Some((date, fires, more)) = &view.listed { (day(view, *date, fires, *more)) }
    };
    page(&view.frame, (Screen::Week, Depth::Top), "Week", 60, &body)
}

/// The zones that can be chosen: those of most jobs, the one that is shown, and UTC.
fn choices(view: &Week) -> Vec<&'static str> {
    let mut zones = view.zones.clone();
    for zone in [view.zone.name(), view.frame.looker.zones.name(), "UTC"] {
        if !zones.contains(&zone) {
            zones.push(zone);
        }
    }
    zones
}

fn grid(view: &Week) -> Markup {
    let most = view.days.iter().flat_map(|day| day.hours).max().unwrap_or_default().max(1);
    html! {
        div.scroll tabindex="0" role="region" aria-label="Fires of each hour of the week" {
            table.week {
                thead { tr { th { "Day" } @for hour in 0..24 { th.num { (format!("{hour:02}")) } } th.num { "All" } } }
                tbody {
                    @for day in &view.days {
                        tr {
                            th scope="row" {
                                a href={ "week?zone=" (view.zone.name().replace('+', "%2B")) "&day=" (day.date) "#day" } {
                                    (name_of(day.date))
                                }
                                @if let Some(note) = &day.note { small.warn { (note) } }
                            }
                            @for fires in day.hours {
                                td.num.heat.{ "h" (heat(fires, most)) } { @if fires > 0 { (fires) } }
                            }
                            td.num { (grouped(day.hours.iter().sum::<u32>() as usize)) }
                        }
                    }
                }
            }
        }
    }
}

/// How strong a colour is, from 0 to 4.
fn heat(fires: u32, most: u32) -> u32 {
    if fires == 0 { 0 } else { 1 + (fires * 3) / most.max(1) }
}

fn name_of(date: NaiveDate) -> String {
    let weekday = match date.weekday() {
        Weekday::Mon => "Mon",
        Weekday::Tue => "Tue",
        Weekday::Wed => "Wed",
        Weekday::Thu => "Thu",
        Weekday::Fri => "Fri",
        Weekday::Sat => "Sat",
        Weekday::Sun => "Sun",
    };
    format!("{weekday} {date}")
}

/// What the grid leaves out.
fn beside(view: &Week) -> Markup {
    html! {
        @if !view.often.is_empty() {
            p.muted {
                "Not counted, since they fire more than four times an hour: "
                @for (index, job) in view.often.iter().take(20).enumerate() {
                    @if index > 0 { ", " }
                    (job_link("", &job.name))
                    @if let Trigger::Schedule { schedule, .. } = &job.trigger { " (" (foreign(schedule.text())) ")" }
                }
                @if view.often.len() > 20 { " and " (count(view.often.len() - 20, "other job")) }
                "."
            }
        }
        @if view.beyond > 0 {
            p.notice.warn {
                "Only the "
                (grouped(JOBS_MOST))
                " jobs that fire next are counted: "
                (grouped(view.beyond))
                " more have a schedule."
            }
        }
        @if view.is_cut {
            p.notice.warn { "There are more than " (grouped(FIRES_MOST)) " fires: not all jobs are counted." }
        }
    }
}

fn day(view: &Week, date: NaiveDate, fires: &[Fire], more: bool) -> Markup {
    let has_zones = view.frame.view().has_zones_of_jobs();
    html! {
        section id="day" aria-labelledby="day-h" {
            h2 id="day-h" { (name_of(date)) @if let Some(note) = change(view.zone, date) { ": " (note) } }
            @if fires.is_empty() {
                p.empty { "No job fires on this day, but for those that fire more than four times an hour." }
            } @else {
                table.rows {
                    thead {
                        tr {
                            th { (view.frame.looker.zones.name()) }
                            @if has_zones { th { "In its zone" } }
                            th { "Job" }
                            th { "Note" }
                            th { "Run it now" }
                        }
                    }
                    tbody {
                        @for fire in fires {
                            tr {
                                td { (instant(fire.at, view.frame.view())) }
                                @if let Some(local) = &fire.local { td { (local) } }
                                td.name { (job_link("", &fire.job)) }
                                td { @if let Some(note) = &fire.note { (note) } }
                                td.do { (command(&format!("trigger {}", fire.job))) }
                            }
                        }
                    }
                }
                @if more { p { "These are the first " (LISTED_MOST) " of the day." } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_on_which_clocks_change_are_marked() {
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        let berlin: Tz = "Europe/Berlin".parse().unwrap();
        assert_eq!(change(berlin, date("2026-03-29")).as_deref(), Some("clocks go forward by 1 h"));
        assert_eq!(change(berlin, date("2026-10-25")).as_deref(), Some("clocks go back by 1 h"));
        assert_eq!(change(berlin, date("2026-11-27")), None);
        // Beirut's clocks leap over midnight.
        let beirut: Tz = "Asia/Beirut".parse().unwrap();
        assert_eq!(begin(beirut, date("2026-03-29")).to_string(), "2026-03-28T22:00:00Z");
        assert_eq!(change(beirut, date("2026-03-29")).as_deref(), Some("clocks go forward by 1 h"));
    }

    #[test]
    fn heat_has_four_steps() {
        assert_eq!([0, 1, 30, 60, 90].map(|fires| heat(fires, 90)), [0, 1, 2, 3, 4]);
    }
}
