//! Cases known to go wrong, each with its instants and the reason.

use std::sync::Arc;

use fencron::schedule::{Calendar, Dst, Fold, Gap, Schedule, ScheduleSpec, Zones};

use crate::{DEFAULT, parse, schedule, wall};

const SKIP: Dst = Dst { gap: Gap::Skip, fold: Fold::First };
const LAST: Dst = Dst { gap: Gap::Shift, fold: Fold::Last };
const BOTH: Dst = Dst { gap: Gap::Shift, fold: Fold::Both };

/// The local times (`09-27T03:00+02:00`) that `expression` fires in the days from `from` to `until` (local dates of
/// the zone, the last excluded).
#[track_caller]
fn fires(expression: &str, zone: &str, dst: Dst, after: &str, until: &str, expected: &[&str]) {
    let schedule = schedule(expression, zone, dst);
    let found = local(&schedule, after, until);
    assert_eq!(found, expected, "{expression} in {zone}");
}

fn local(schedule: &Schedule, after: &str, until: &str) -> Vec<String> {
    schedule.between(wall(after), wall(until)).map(|at| schedule.explain(at).local).collect()
}

#[test]
fn a_fixed_time_in_a_gap_fires_once_right_after_it() {
    // Berlin 2026-03-29: 02:00 CET is followed by 03:00 CEST.
    fires(
        "30 2 * * *",
        "Europe/Berlin",
        DEFAULT,
        "2026-03-28T00:00:00Z",
        "2026-03-30T12:00:00Z",
        &["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
    );
    // New York 2026-03-08.
    fires(
        "15 2 * * *",
        "America/New_York",
        DEFAULT,
        "2026-03-08T00:00:00Z",
        "2026-03-09T00:00:00Z",
        &["2026-03-08T03:00:00-04:00"],
    );
    // Lord Howe 2026-10-04: 02:00+10:30 is followed by 02:30+11:00, so 02:30 exists and 02:15 does not.
    fires(
        "15 2 * * *",
        "Australia/Lord_Howe",
        DEFAULT,
        "2026-10-03T00:00:00Z",
        "2026-10-04T00:00:00Z",
        &["2026-10-04T02:30:00+11:00"],
    );
    fires(
        "30 2 * * *",
        "Australia/Lord_Howe",
        DEFAULT,
        "2026-10-03T00:00:00Z",
        "2026-10-04T00:00:00Z",
        &["2026-10-04T02:30:00+11:00"],
    );
}

#[test]
fn times_of_one_gap_are_one_instant() {
    fires(
        "0,30 2,3 * * *",
        "Europe/Berlin",
        DEFAULT,
        "2026-03-28T22:00:00Z",
        "2026-03-29T10:00:00Z",
        &["2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"],
    );
    fires(
        "*/15 2 * * *",
        "Europe/Berlin",
        DEFAULT,
        "2026-03-28T22:00:00Z",
        "2026-03-29T10:00:00Z",
        &["2026-03-29T03:00:00+02:00"],
    );
}

#[test]
fn a_fixed_time_in_a_gap_can_be_skipped() {
    fires(
        "30 2 * * *",
        "Europe/Berlin",
        SKIP,
        "2026-03-28T12:00:00Z",
        "2026-03-30T12:00:00Z",
        &["2026-03-30T02:30:00+02:00"],
    );
    fires(
        "0 3 * * *",
        "Europe/Berlin",
        SKIP,
        "2026-03-28T12:00:00Z",
        "2026-03-29T12:00:00Z",
        &["2026-03-29T03:00:00+02:00"],
    );
}

#[test]
fn the_hours_beside_a_gap_fire_as_ever() {
    // croner 3 fires `30 1` twice on this day.
    fires(
        "30 1 * * *",
        "Europe/Berlin",
        DEFAULT,
        "2026-03-28T22:00:00Z",
        "2026-03-29T22:00:00Z",
        &["2026-03-29T01:30:00+01:00"],
    );
    fires(
        "0 3 * * *",
        "Europe/Berlin",
        DEFAULT,
        "2026-03-28T22:00:00Z",
        "2026-03-29T22:00:00Z",
        &["2026-03-29T03:00:00+02:00"],
    );
}

#[test]
fn a_fixed_time_that_comes_twice_fires_as_told() {
    // Berlin 2026-10-25: 03:00 CEST is followed by 02:00 CET.
    let day = ("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
    let (first, second) = ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00");
    fires("30 2 * * *", "Europe/Berlin", DEFAULT, day.0, day.1, &[first]);
    fires("30 2 * * *", "Europe/Berlin", LAST, day.0, day.1, &[second]);
    fires("30 2 * * *", "Europe/Berlin", BOTH, day.0, day.1, &[first, second]);
    // Lord Howe 2026-04-05 repeats 01:30 to 02:00 only.
    let day = ("2026-04-04T00:00:00Z", "2026-04-05T00:00:00Z");
    let (first, second) = ("2026-04-05T01:45:00+11:00", "2026-04-05T01:45:00+10:30");
    fires("45 1 * * *", "Australia/Lord_Howe", DEFAULT, day.0, day.1, &[first]);
    fires("45 1 * * *", "Australia/Lord_Howe", BOTH, day.0, day.1, &[first, second]);
    fires("15 1 * * *", "Australia/Lord_Howe", BOTH, day.0, day.1, &["2026-04-05T01:15:00+11:00"]);
    // The first instant of the second pass is in it, the instant of the change back is not ambiguous any more.
    let day = ("2026-11-01T00:00:00Z", "2026-11-01T12:00:00Z");
    fires(
        "0 1,2 * * *",
        "America/New_York",
        LAST,
        day.0,
        day.1,
        &["2026-11-01T01:00:00-05:00", "2026-11-01T02:00:00-05:00"],
    );
}

#[test]
fn an_interval_goes_on_through_both_hours_and_does_not_burst() {
    fires(
        "*/30 * * * *",
        "Europe/Berlin",
        DEFAULT,
        "2026-10-24T23:45:00Z",
        "2026-10-25T02:15:00Z",
        &[
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-25T03:00:00+01:00",
        ],
    );
    fires(
        "5 * * * *",
        "Europe/Berlin",
        DEFAULT,
        "2026-03-28T23:45:00Z",
        "2026-03-29T02:15:00Z",
        &["2026-03-29T01:05:00+01:00", "2026-03-29T03:05:00+02:00", "2026-03-29T04:05:00+02:00"],
    );
    // Lord Howe's half hour: 01:30 comes twice, 30 minutes apart.
    fires(
        "*/30 * * * *",
        "Australia/Lord_Howe",
        DEFAULT,
        "2026-04-04T14:01:00Z",
        "2026-04-04T15:59:00Z",
        &["2026-04-05T01:30:00+11:00", "2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30"],
    );
    // A step of the hour is an interval: nothing at all in the night's missing hour.
    fires(
        "0 */2 * * *",
        "Europe/Berlin",
        DEFAULT,
        "2026-03-28T22:30:00Z",
        "2026-03-29T03:00:00Z",
        &["2026-03-29T00:00:00+01:00", "2026-03-29T04:00:00+02:00"],
    );
}

#[test]
fn a_zone_may_skip_a_whole_day() {
    // Samoa went over the date line: 2011-12-29T24:00-10:00 is 2011-12-31T00:00+14:00.
    fires(
        "0 12 * * *",
        "Pacific/Apia",
        DEFAULT,
        "2011-12-29T12:00:00Z",
        "2011-12-31T09:59:59Z",
        &["2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"],
    );
    fires(
        "0 12 * * *",
        "Pacific/Apia",
        SKIP,
        "2011-12-29T12:00:00Z",
        "2011-12-31T09:59:59Z",
        &["2011-12-29T12:00:00-10:00", "2011-12-31T12:00:00+14:00"],
    );
    fires(
        "0 */12 * * *",
        "Pacific/Apia",
        DEFAULT,
        "2011-12-29T12:00:00Z",
        "2011-12-31T09:59:59Z",
        &["2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"],
    );
}

#[test]
fn negative_summer_time_is_only_another_change() {
    // Morocco is an hour ahead but for Ramadan: back on 2026-02-15 at 03:00, forward on 2026-03-22 at 02:00.
    fires(
        "30 2 * * *",
        "Africa/Casablanca",
        BOTH,
        "2026-02-14T12:00:00Z",
        "2026-02-15T12:00:00Z",
        &["2026-02-15T02:30:00+01:00", "2026-02-15T02:30:00+00:00"],
    );
    fires(
        "30 2 * * *",
        "Africa/Casablanca",
        DEFAULT,
        "2026-03-21T12:00:00Z",
        "2026-03-23T12:00:00Z",
        &["2026-03-22T03:00:00+01:00", "2026-03-23T02:30:00+01:00"],
    );
}

#[test]
fn a_gap_may_take_midnight() {
    // Santiago 2026-09-06: 00:00 is followed by 01:00.
    fires(
        "@daily",
        "America/Santiago",
        DEFAULT,
        "2026-09-05T12:00:00Z",
        "2026-09-07T12:00:00Z",
        &["2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"],
    );
    // And in April 23:00 comes twice, so that a date does too.
    fires(
        "30 23 * * *",
        "America/Santiago",
        BOTH,
        "2026-04-04T12:00:00Z",
        "2026-04-05T12:00:00Z",
        &["2026-04-04T23:30:00-03:00", "2026-04-04T23:30:00-04:00"],
    );
}

#[test]
fn the_29th_of_february_waits_for_its_year() {
    fires(
        "0 0 29 2 *",
        "UTC",
        DEFAULT,
        "2026-01-01T00:00:00Z",
        "2033-01-01T00:00:00Z",
        &["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"],
    );
    // 2100 is no leap year.
    fires(
        "0 0 29 2 *",
        "UTC",
        DEFAULT,
        "2093-01-01T00:00:00Z",
        "2105-01-01T00:00:00Z",
        &["2096-02-29T00:00:00+00:00", "2104-02-29T00:00:00+00:00"],
    );
    // A fifth Monday in February comes every 28 years.
    fires(
        "0 0 ? 2 MON#5",
        "UTC",
        DEFAULT,
        "2026-01-01T00:00:00Z",
        "2060-01-01T00:00:00Z",
        &["2044-02-29T00:00:00+00:00"],
    );
}

#[test]
fn a_restricted_day_of_month_and_a_restricted_weekday_mean_either() {
    // 2026-11-13 is a Friday; so are the 6th, the 20th and the 27th.
    fires(
        "0 0 13 11 FRI",
        "UTC",
        DEFAULT,
        "2026-10-31T12:00:00Z",
        "2026-11-30T00:00:00Z",
        &[
            "2026-11-06T00:00:00+00:00",
            "2026-11-13T00:00:00+00:00",
            "2026-11-20T00:00:00+00:00",
            "2026-11-27T00:00:00+00:00",
        ],
    );
    // `?` and `*` do not restrict.
    fires(
        "0 0 13 11 ?",
        "UTC",
        DEFAULT,
        "2026-10-31T12:00:00Z",
        "2026-11-30T00:00:00Z",
        &["2026-11-13T00:00:00+00:00"],
    );
}

/// The days of November 2026, which begins on a Sunday, on which `day month weekday` fires.
fn november(days: &str) -> Vec<u32> {
    let schedule = schedule(&format!("0 9 {days}"), "UTC", DEFAULT);
    let fires = local(&schedule, "2026-10-31T12:00:00Z", "2026-12-01T00:00:00Z");
    fires.iter().map(|at| at[8..10].parse().unwrap()).collect()
}

#[test]
fn a_day_must_fit_both_fields_where_one_begins_with_a_star() {
    let weekdays: Vec<u32> = (1..=30).filter(|day| !matches!(day % 7, 0 | 1)).collect();
    let all: Vec<u32> = (1..=30).collect();
    // Every day of the month, however it is written, leaves the weekdays.
    for days in ["* * 1-5", "*/1 * 1-5", "? * 1-5", "*,15 * 1-5", "*/1 * MON,TUE,WED,THU,FRI"] {
        assert_eq!(november(days), weekdays, "{days}");
    }
    let odd_weekdays: Vec<u32> = weekdays.iter().copied().filter(|day| day % 2 == 1).collect();
    assert_eq!(november("*/2 * 1-5"), odd_weekdays);
    assert_eq!(november("1-15 * */1"), (1..=15).collect::<Vec<_>>());
    // Sunday, Tuesday, Thursday and Saturday of the first week.
    assert_eq!(november("1-7 * */2"), [1, 3, 5, 7]);
    // What begins with no star restricts, be it ever so much.
    for days in ["1-31 * 1-5", "15,* * 1-5", "1-31/1 * 1-5", "13 * 0-6"] {
        assert_eq!(november(days), all, "{days}");
    }
}

#[test]
fn what_an_expression_probably_does_not_mean_is_said() {
    use fencron::schedule::surprise;
    for (expression, said) in [
        ("0 0 13 * FRI", "fit either"),
        ("0 0 0 13 * FRI", "fit either"),
        ("0 0 0 13 * FRI 2027", "fit either"),
        ("0 0 1-31 * 1-5", "fit either"),
        ("0 0 */2 * 1-5", "fit both"),
        ("0 0 L * */2", "fit both"),
        ("* */5 * * * *", "60 times"),
        ("* 0 2 * * *", "60 times"),
        ("*/1 30 2 1 1 * 2027", "60 times"),
    ] {
        let message = surprise(expression).unwrap_or_else(|| panic!("{expression}: nothing is said"));
        assert!(message.contains(said), "{expression}: {message}");
        schedule(expression, "UTC", DEFAULT);
    }
    for expression in [
        "0 0 * * FRI",
        "0 0 13 * ?",
        "0 9 */1 * 1-5",
        "0 0 13 * */1",
        "0 0 */2 * *",
        "* * * * * *",
        "0 */5 * * * *",
        "0-59 */5 * * * *",
        "* * 2 * * *",
        "@daily",
        "@every 15m",
        "* 5 * * *",
    ] {
        assert_eq!(surprise(expression), None, "{expression}");
    }
}

#[test]
fn days_counted_from_the_end_and_working_days_stay_in_their_month() {
    let year = ("2025-12-31T12:00:00Z", "2026-12-31T12:00:00Z");
    fires("0 0 L 2,4 *", "UTC", DEFAULT, year.0, year.1, &["2026-02-28T00:00:00+00:00", "2026-04-30T00:00:00+00:00"]);
    fires("0 0 L-3 2 *", "UTC", DEFAULT, year.0, year.1, &["2026-02-25T00:00:00+00:00"]);
    // 2026-01-31 is a Saturday, 2026-05-31 a Sunday.
    fires("0 0 LW 1,5 *", "UTC", DEFAULT, year.0, year.1, &["2026-01-30T00:00:00+00:00", "2026-05-29T00:00:00+00:00"]);
    // 2026-08-01 is a Saturday: its working day is Monday the 3rd, not in July. 2026-11-15 is a Sunday.
    fires("0 0 1W 8 *", "UTC", DEFAULT, year.0, year.1, &["2026-08-03T00:00:00+00:00"]);
    fires("0 0 15W 11 *", "UTC", DEFAULT, year.0, year.1, &["2026-11-16T00:00:00+00:00"]);
    // 2026-05-31 is a Sunday, and Monday is June's: Friday the 29th. There is no 31 June.
    fires("0 0 31W 5,6 *", "UTC", DEFAULT, year.0, year.1, &["2026-05-29T00:00:00+00:00"]);
    fires("0 0 * 11 5L", "UTC", DEFAULT, year.0, year.1, &["2026-11-27T00:00:00+00:00"]);
    fires("0 0 * 11 7#2", "UTC", DEFAULT, year.0, year.1, &["2026-11-08T00:00:00+00:00"]);
}

#[test]
fn ranges_wrap_around_and_a_start_takes_a_step() {
    fires(
        "0 22-2/2 * * *",
        "UTC",
        DEFAULT,
        "2026-01-01T12:00:00Z",
        "2026-01-02T12:00:00Z",
        &["2026-01-01T22:00:00+00:00", "2026-01-02T00:00:00+00:00", "2026-01-02T02:00:00+00:00"],
    );
    fires(
        "0 0 1 NOV-JAN *",
        "UTC",
        DEFAULT,
        "2026-06-01T00:00:00Z",
        "2027-06-01T00:00:00Z",
        &["2026-11-01T00:00:00+00:00", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"],
    );
    // 2026-11-01 is a Sunday.
    fires(
        "0 0 * * sat-mon",
        "UTC",
        DEFAULT,
        "2026-11-03T00:00:00Z",
        "2026-11-10T00:00:00Z",
        &["2026-11-07T00:00:00+00:00", "2026-11-08T00:00:00+00:00", "2026-11-09T00:00:00+00:00"],
    );
    fires(
        "5/20 12 * * *",
        "UTC",
        DEFAULT,
        "2026-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
        &["2026-01-01T12:05:00+00:00", "2026-01-01T12:25:00+00:00", "2026-01-01T12:45:00+00:00"],
    );
}

#[test]
fn a_year_ends_and_a_schedule_with_it() {
    fires(
        "59 59 23 31 12 * 2026-2027",
        "UTC",
        DEFAULT,
        "2026-01-01T00:00:00Z",
        "2030-01-01T00:00:00Z",
        &["2026-12-31T23:59:59+00:00", "2027-12-31T23:59:59+00:00"],
    );
    let over = schedule("0 0 0 1 1 * 2020", "UTC", DEFAULT);
    assert_eq!(over.next_after(wall("2026-01-01T00:00:00Z")), None);
    assert_eq!(over.previous_before(wall("2026-01-01T00:00:00Z")), Some(wall("2020-01-01T00:00:00Z")));
    let once = schedule("@at 2026-12-01T03:00:00+01:00", "UTC", DEFAULT);
    assert_eq!(once.next_after(wall("2026-11-01T00:00:00Z")), Some(wall("2026-12-01T02:00:00Z")));
    assert_eq!(once.next_after(wall("2026-12-01T02:00:00Z")), None);
}

#[test]
fn every_is_anchored_to_the_epoch() {
    fires(
        "@every 25m",
        "Asia/Kathmandu",
        DEFAULT,
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T01:00:00Z",
        &["1970-01-01T05:30:00+05:30", "1970-01-01T05:55:00+05:30", "1970-01-01T06:20:00+05:30"],
    );
}

#[test]
fn a_list_is_a_union_in_which_each_instant_comes_once() {
    let union = parse(&["0 12 * * *", "0 */12 * * *", "@at 2026-01-01T13:00:00.5Z"], "UTC", DEFAULT).unwrap();
    assert_eq!(
        local(&union, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ["2026-01-01T12:00:00+00:00", "2026-01-01T13:00:00.500+00:00", "2026-01-02T00:00:00+00:00",]
    );
}

#[test]
fn calendars_leave_out_local_dates() {
    let christmas = Arc::new(Calendar::parse(&["12-25", "2026-12-30..2027-01-02"]).unwrap());
    let read = |expression, zone| {
        let except = [Arc::clone(&christmas)];
        let spec = ScheduleSpec { expressions: &[expression], timezone: zone, dst: DEFAULT, except: &except, job: "j" };
        Schedule::parse(&spec, &mut Zones::new())
    };
    // In Auckland the 25th begins when it is still the 24th in London.
    let nightly = read("30 0 * * *", "Pacific/Auckland").unwrap();
    assert_eq!(
        local(&nightly, "2026-12-23T00:00:00Z", "2026-12-26T00:00:00Z"),
        ["2026-12-24T00:30:00+13:00", "2026-12-26T00:30:00+13:00",]
    );
    let seconds = read("* * * * * *", "UTC").unwrap();
    assert_eq!(seconds.next_after(wall("2026-12-29T23:59:59Z")), Some(wall("2027-01-03T00:00:00Z")));
    assert_eq!(seconds.previous_before(wall("2027-01-03T00:00:00Z")), Some(wall("2026-12-29T23:59:59Z")));
    let never = read("0 0 25 12 *", "UTC").unwrap_err();
    assert!(never[0].to_string().contains("except"), "{never:?}");
}

#[test]
fn h_is_the_same_for_a_job_for_ever_and_keeps_to_its_range() {
    let read = |expression, job| {
        let spec = ScheduleSpec { expressions: &[expression], timezone: "UTC", dst: DEFAULT, except: &[], job };
        Schedule::parse(&spec, &mut Zones::new()).unwrap()
    };
    let day = |schedule: &Schedule| {
        schedule.between(wall("2026-01-01T00:00:00Z"), wall("2026-01-02T00:00:00Z")).collect::<Vec<_>>()
    };
    let jobs: Vec<String> = (0..50).map(|number| format!("job-{number}")).collect();
    let at: Vec<_> = jobs.iter().map(|job| day(&read("H H(1-4) * * *", job))).collect();
    assert!(at.iter().all(|at| at.len() == 1 && (1..5).contains(&(at[0].as_millis() / 3_600_000 % 24))));
    assert!(at.iter().collect::<std::collections::HashSet<_>>().len() > 40, "50 jobs in 240 minutes move apart");
    for job in &jobs {
        let quarter = day(&read("H/15 * * * *", job));
        assert_eq!(quarter.len(), 96);
        assert!(quarter.windows(2).all(|two| two[1].since(two[0]).as_secs() == 900));
    }
    assert_eq!(
        local(&read("H H * * *", "nightly-report"), "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ["2026-01-01T01:15:00+00:00"]
    );
}

#[test]
fn a_fingerprint_changes_with_the_rule_and_with_nothing_else() {
    let holidays = Arc::new(Calendar::parse(&["12-25"]).unwrap());
    let read = |expression, zone, dst, except: &[Arc<Calendar>], job| {
        let spec = ScheduleSpec { expressions: &[expression], timezone: zone, dst, except, job };
        Schedule::parse(&spec, &mut Zones::new()).unwrap().fingerprint()
    };
    let rule = read("0 2 * * *", "Europe/Berlin", DEFAULT, &[], "a");
    assert_eq!(rule, read("  0  2 * * * ", "Europe/Berlin", DEFAULT, &[], "b"));
    let others = [
        read("0 3 * * *", "Europe/Berlin", DEFAULT, &[], "a"),
        read("0 2 * * *", "Europe/Vienna", DEFAULT, &[], "a"),
        read("0 2 * * *", "Europe/Berlin", SKIP, &[], "a"),
        read("0 2 * * *", "Europe/Berlin", DEFAULT, std::slice::from_ref(&holidays), "a"),
        read("0 H * * *", "Europe/Berlin", DEFAULT, &[], "a"),
        read("0 H * * *", "Europe/Berlin", DEFAULT, &[], "b"),
    ];
    let different: std::collections::HashSet<_> = others.iter().chain([&rule]).collect();
    assert_eq!(different.len(), 7);
    // A fingerprint is kept with the job for years: it may not change with the program.
    assert_eq!(rule, "342f933833db9073");
}

#[test]
fn a_note_says_what_the_clocks_did() {
    let note = |expression: &str, dst, at: &str| schedule(expression, "Europe/Berlin", dst).explain(wall(at)).note;
    assert_eq!(
        note("30 2 * * *", DEFAULT, "2026-10-25T00:30:00Z").unwrap(),
        "02:30 comes twice (clocks go back from 03:00 to 02:00): fires the first time, not the second"
    );
    assert_eq!(
        note("30 2 * * *", LAST, "2026-10-25T01:30:00Z").unwrap(),
        "02:30 comes twice (clocks go back from 03:00 to 02:00): fires the second time, not the first"
    );
    assert_eq!(
        note("*/30 * * * *", DEFAULT, "2026-10-25T01:30:00Z").unwrap(),
        "02:30 comes twice (clocks go back from 03:00 to 02:00): this is the second time"
    );
    assert_eq!(note("30 2 * * *", DEFAULT, "2026-10-26T01:30:00Z"), None);
    assert_eq!(note("0 3 * * *", DEFAULT, "2026-10-25T02:00:00Z"), None);
    assert_eq!(note("0 3 * * *", DEFAULT, "2026-03-29T01:00:00Z"), None);
}
