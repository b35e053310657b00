//! Second opinions: a walk through every minute of real time, croner 4, and cronexpr where it can be trusted.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, Days, LocalResult, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use fencron::schedule::{Dst, Fold, Gap};
use fencron::time::Wall;
use proptest::prelude::*;

use crate::{DEFAULT, schedule};

/// Gaps and folds of one hour, of half an hour, of two, at midnight, of a whole day, and none.
const ZONES: [Tz; 13] = [
    Tz::Europe__Berlin,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::Africa__Casablanca,
    Tz::Pacific__Apia,
    Tz::Pacific__Kwajalein,
    Tz::Antarctica__Troll,
    Tz::America__Santiago,
    Tz::America__Caracas,
    Tz::Asia__Pyongyang,
    Tz::Asia__Gaza,
    Tz::Asia__Kathmandu,
    Tz::UTC,
];

#[derive(Clone, Debug)]
enum Item {
    Whole(u32),
    Range(u32, u32, u32),
    Last,
    BeforeLast(u32),
    LastWorkday,
    NearestWorkday(u32),
    Nth(u32, u32),
    LastWeekday(u32),
}

impl Item {
    fn text(&self) -> String {
        match self {
            Item::Whole(1) => "*".to_owned(),
            Item::Whole(step) => format!("*/{step}"),
            Item::Range(from, to, 1) if from == to => from.to_string(),
            Item::Range(from, to, 1) => format!("{from}-{to}"),
            Item::Range(from, to, step) => format!("{from}-{to}/{step}"),
            Item::Last => "L".to_owned(),
            Item::BeforeLast(days) => format!("L-{days}"),
            Item::LastWorkday => "LW".to_owned(),
            Item::NearestWorkday(date) => format!("{date}W"),
            Item::Nth(weekday, nth) => format!("{weekday}#{nth}"),
            Item::LastWeekday(weekday) => format!("{weekday}L"),
        }
    }

    /// `value` is the field's value on `date`; `least` the field's least value.
    fn takes(&self, value: u32, least: u32, date: NaiveDate) -> bool {
        let month: Vec<NaiveDate> =
            date.with_day(1).unwrap().iter_days().take_while(|day| day.month() == date.month()).collect();
        let works = |day: &&NaiveDate| day.weekday().num_days_from_monday() < 5;
        match self {
            Item::Whole(step) => (value - least).is_multiple_of(*step),
            Item::Range(from, to, step) => (*from..=*to).step_by(*step as usize).any(|v| v == value),
            Item::Last => month.last() == Some(&date),
            Item::BeforeLast(days) => month.iter().rev().nth(*days as usize) == Some(&date),
            Item::LastWorkday => month.iter().rfind(works) == Some(&date),
            Item::NearestWorkday(wanted) => {
                let exists = month.iter().any(|day| day.day() == *wanted);
                let nearest = month.iter().filter(works).min_by_key(|day| day.day().abs_diff(*wanted));
                exists && nearest == Some(&date)
            }
            Item::Nth(weekday, nth) => {
                let same: Vec<_> =
                    month.iter().filter(|day| day.weekday().num_days_from_sunday() == *weekday).collect();
                same.get(*nth as usize - 1) == Some(&&date)
            }
            Item::LastWeekday(weekday) => {
                month.iter().rfind(|day| day.weekday().num_days_from_sunday() == *weekday) == Some(&date)
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    minute: Vec<Item>,
    hour: Vec<Item>,
    date: Vec<Item>,
    month: Vec<Item>,
    weekday: Vec<Item>,
}

impl Case {
    fn text(&self) -> String {
        let field = |items: &[Item]| items.iter().map(Item::text).collect::<Vec<_>>().join(",");
        [&self.minute, &self.hour, &self.date, &self.month, &self.weekday].map(|items| field(items)).join(" ")
    }

    fn is_interval(&self) -> bool {
        self.hour.iter().any(|item| item.text().contains(['*', '/']))
            || (0..24).all(|hour| self.hour.iter().any(|item| item.takes(hour, 0, NaiveDate::MIN)))
    }

    /// Whether one of the fields of a day begins with a star, and neither is just that.
    fn has_stars_beside_others(&self) -> bool {
        let days = [&self.date, &self.weekday];
        let is = |test: fn(&[Item]) -> bool| days.iter().any(|items| test(items));
        is(|items| matches!(items, [Item::Whole(_), ..])) && !is(|items| matches!(items, [Item::Whole(1)]))
    }

    fn takes(&self, local: NaiveDateTime) -> bool {
        let day = local.date();
        let any = |items: &[Item], value, least| items.iter().any(|item| item.takes(value, least, day));
        let star = |items: &[Item]| matches!(items, [Item::Whole(_), ..]);
        let date = any(&self.date, day.day(), 1);
        let weekday = any(&self.weekday, day.weekday().num_days_from_sunday(), 0);
        let right_day = if star(&self.date) || star(&self.weekday) { date && weekday } else { date || weekday };
        local.second() == 0
            && any(&self.minute, local.minute(), 0)
            && any(&self.hour, local.hour(), 0)
            && any(&self.month, day.month(), 1)
            && right_day
    }

    /// Every instant of `[from, until]`, by trying every minute.
    fn walk(&self, zone: Tz, dst: Dst, from: DateTime<Utc>, until: DateTime<Utc>) -> BTreeSet<DateTime<Utc>> {
        let minutes = |from: NaiveDateTime, until: NaiveDateTime| {
            std::iter::successors(Some(from), |at| Some(*at + TimeDelta::minutes(1))).take_while(move |at| *at <= until)
        };
        if self.is_interval() {
            let real = minutes(from.naive_utc(), until.naive_utc()).map(|utc| utc.and_utc());
            return real.filter(|at| self.takes(at.with_timezone(&zone).naive_local())).collect();
        }
        // Two days more on both sides than any zone is ahead of UTC or has ever leapt.
        let (first, last) = (from.naive_utc() - Days::new(3), until.naive_utc() + Days::new(3));
        let named = minutes(first, last).filter(|local| self.takes(*local));
        let real = named.flat_map(|local| match zone.from_local_datetime(&local) {
            LocalResult::Single(at) => vec![at],
            LocalResult::Ambiguous(first, last) => match dst.fold {
                Fold::First => vec![first],
                Fold::Last => vec![last],
                Fold::Both => vec![first, last],
            },
            LocalResult::None if dst.gap == Gap::Skip => vec![],
            LocalResult::None => {
                let after = minutes(local, local + Days::new(2));
                after.filter_map(|local| zone.from_local_datetime(&local).earliest()).take(1).collect()
            }
        });
        real.map(|at| at.with_timezone(&Utc)).filter(|at| (from..=until).contains(at)).collect()
    }
}

fn items(
    least: u32,
    greatest: u32,
    special: impl Strategy<Value = Item> + 'static,
) -> impl Strategy<Value = Vec<Item>> {
    let one = (least..=greatest).prop_map(|value| Item::Range(value, value, 1));
    let range =
        (least..=greatest, least..=greatest, 1..5u32).prop_map(|(a, b, step)| Item::Range(a.min(b), a.max(b), step));
    let item = prop_oneof![4 => one, 1 => range, 1 => (2..=greatest - least).prop_map(Item::Whole), 2 => special];
    prop_oneof![1 => Just(vec![Item::Whole(1)]), 2 => prop::collection::vec(item, 1..4)]
}

fn nothing_special() -> impl Strategy<Value = Item> {
    Just(Item::Whole(2))
}

fn case() -> impl Strategy<Value = Case> {
    let date = prop_oneof![
        Just(Item::Last),
        (1..10u32).prop_map(Item::BeforeLast),
        Just(Item::LastWorkday),
        (1..=31u32).prop_map(Item::NearestWorkday),
    ];
    let weekday = prop_oneof![
        (0..7u32, 1..=5u32).prop_map(|(day, nth)| Item::Nth(day, nth)),
        (0..7u32).prop_map(Item::LastWeekday)
    ];
    let month = prop_oneof![3 => Just(vec![Item::Whole(1)]), 1 => items(1, 12, nothing_special())];
    // Half the hours are those at which clocks are changed.
    let night = (0..4u32).prop_map(|hour| vec![Item::Range(hour, hour, 1)]);
    let hour = prop_oneof![1 => night, 1 => items(0, 23, nothing_special())];
    (items(0, 59, nothing_special()), hour, items(1, 31, date), month, items(0, 6, weekday))
        .prop_map(|(minute, hour, date, month, weekday)| Case { minute, hour, date, month, weekday })
}

/// Days in which the zone's clocks are changed, from 1990 to 2040.
fn changes(zone: Tz) -> Vec<DateTime<Utc>> {
    let days = (7_300..25_600).map(|day| DateTime::from_timestamp(day * 86_400, 0).unwrap());
    let offset = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local() - at.naive_utc();
    days.filter(|at| offset(*at) != offset(*at + Days::new(1))).collect()
}

fn dst() -> impl Strategy<Value = Dst> {
    let gap = prop_oneof![Just(Gap::Shift), Just(Gap::Skip)];
    let fold = prop_oneof![Just(Fold::First), Just(Fold::Last), Just(Fold::Both)];
    (gap, fold).prop_map(|(gap, fold)| Dst { gap, fold })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_instant_is_one_that_a_walk_through_all_minutes_finds(
        case in case(),
        dst in dst(),
        zone in prop::sample::select(&ZONES[..]),
        change: prop::sample::Index,
        random_day in 7_300..25_600i64,
    ) {
        let changes = changes(zone);
        let around = if changes.is_empty() {
            DateTime::from_timestamp(random_day * 86_400, 0).unwrap()
        } else {
            changes[change.index(changes.len())]
        };
        let (from, until) = (around - Days::new(1), around + Days::new(2));
        let expected: Vec<Wall> = case.walk(zone, dst, from, until).into_iter().map(Wall::from).collect();
        let spec = crate::parse(&[&case.text()], zone.name(), dst);
        let Ok(schedule) = spec else {
            prop_assert!(expected.is_empty(), "{} was refused: {spec:?}", case.text());
            return Ok(());
        };
        let just_before = Wall::from_millis(Wall::from(from).as_millis() - 1);
        let found: Vec<Wall> = schedule.between(just_before, Wall::from(until)).collect();
        prop_assert_eq!(&found, &expected, "{} in {}", case.text(), zone);

        let just_after = Wall::from_millis(Wall::from(until).as_millis() + 1);
        let back = std::iter::successors(schedule.previous_before(just_after), |at| schedule.previous_before(*at));
        let mut back: Vec<Wall> = back.take_while(|at| *at >= Wall::from(from)).collect();
        back.reverse();
        prop_assert_eq!(back, expected, "backwards: {} in {}", case.text(), zone);
    }

    /// croner agrees where its words are ours: one time of day, or any hour; zones whose gaps keep to one date.
    #[test]
    fn croner_names_the_same_instants(
        case in case(), seconds in prop_oneof![Just(0u32), 0..60u32], fixed: bool, minute in 0..60u32, hour in 0..24u32,
        zone in prop::sample::select(&[0usize, 1, 2, 3, 6, 8, 9, 11, 12][..]), change: prop::sample::Index,
    ) {
        let zone = ZONES[zone];
        let [minutes, hours] = if fixed { [minute.to_string(), hour.to_string()] } else { ["*/7".into(), "*".into()] };
        let text = case.text();
        let (_, days) = text.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).unwrap();
        let days = days.to_owned();
        let text = format!("{seconds} {minutes} {hours} {days}");
        // It has no L-3, and loses the L beside an LW. It takes for a star what is exactly
        // `*`, so that it differs where neither field is that and one of them begins with it.
        let lists = |wanted: &str| days.split([',', ' ']).any(|item| item == wanted);
        prop_assume!(!text.contains("L-"));
        prop_assume!(!lists("L") || !lists("LW"));
        prop_assume!(!case.has_stars_beside_others());
        let Ok(ours) = crate::parse(&[&text], zone.name(), DEFAULT) else { return Ok(()) };
        let theirs: croner::Cron = text.parse().unwrap_or_else(|e| panic!("{text}: {e:?}"));
        let changes = changes(zone);
        let start = if changes.is_empty() { DateTime::UNIX_EPOCH } else { changes[change.index(changes.len())] };
        let start = start - TimeDelta::seconds(1);
        let mut after = Wall::from(start);
        for their in theirs.iter_after(start.with_timezone(&zone)).take(12) {
            let our = ours.next_after(after);
            prop_assert_eq!(our, Some(Wall::from(their)), "{} in {} after {}", text, zone, after);
            after = our.unwrap();
        }
    }

    /// cronexpr leaves out what does not exist and doubles what comes twice. It never ends in Lord Howe.
    #[test]
    fn cronexpr_names_the_same_instants(
        case in case(), fixed: bool, minute in 0..60u32, hour in 0..24u32,
        zone in prop::sample::select(&[0usize, 1, 7, 11, 12][..]), change: prop::sample::Index,
    ) {
        let zone = ZONES[zone];
        let [minutes, hours] = if fixed { [minute.to_string(), hour.to_string()] } else { ["*/7".into(), "*".into()] };
        let text = case.text();
        let (_, days) = text.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).unwrap();
        let text = format!("{minutes} {hours} {days}");
        // It has no LW. It takes `*/2` of a day for a star, as vixie cron does and as we do: both fields must fit.
        prop_assume!(!text.contains(['W', 'L', '#']));
        let dst = Dst { gap: Gap::Skip, fold: Fold::Both };
        let Ok(ours) = crate::parse(&[&text], zone.name(), dst) else { return Ok(()) };
        let theirs = cronexpr::parse_crontab(&format!("{text} {zone}")).unwrap();
        let changes = changes(zone);
        let start = if changes.is_empty() { DateTime::UNIX_EPOCH } else { changes[change.index(changes.len())] };
        let mut after = Wall::from(start);
        let from = cronexpr::MakeTimestamp::from_millisecond(after.as_millis()).unwrap();
        for their in theirs.iter_after(from).unwrap().take(8) {
            let our = ours.next_after(after);
            let their = Wall::from_millis(their.unwrap().timestamp().as_millisecond());
            prop_assert_eq!(our, Some(their), "{} in {} after {}", text, zone, after);
            after = their;
        }
    }
}

#[test]
fn the_walk_meets_gaps_and_folds_of_every_kind() {
    let lengths: BTreeSet<i64> = ZONES
        .iter()
        .flat_map(|zone| {
            let offset = |at: DateTime<Utc>| at.with_timezone(zone).naive_local() - at.naive_utc();
            changes(*zone).into_iter().map(move |at| (offset(at + Days::new(1)) - offset(at)).num_minutes())
        })
        .collect();
    for length in [-120, -60, -30, 30, 60, 120, 1440] {
        assert!(lengths.contains(&length), "no change by {length} minutes in {lengths:?}");
    }
    let berlin = schedule("30 2 * * *", "Europe/Berlin", DEFAULT);
    assert!(berlin.next_after(Wall::EPOCH).is_some());
}
