//! What holds for every schedule, every jitter and every text.

use std::sync::Arc;
use std::time::Duration;

use fencron::schedule::{Calendar, Dst, Jitter, MOST_COUNTED, Occurrence, Schedule, ScheduleSpec, Zones};
use fencron::time::{Boot, Clock, Wall};
use proptest::prelude::*;

use crate::{DEFAULT, schedule, wall};

/// Schedules of every kind: dense and rare, fixed and interval, ending, and lists.
const EXPRESSIONS: [&[&str]; 14] = [
    &["* * * * * *"],
    &["*/15 * * * *"],
    &["30 2 * * *"],
    &["0,20,40 1-3 * * *"],
    &["0 0 29 2 *"],
    &["0 12 LW * *"],
    &["H H * * *"],
    &["@every 7s"],
    &["@every 36h"],
    &["@at 2026-03-29T01:00:00Z"],
    &["0 0 0 1 1 * 2026-2030"],
    &["*/10 * * 31 12 *", "5 4 3 2 *"],
    &["30 2 * * *", "0 3 * * *", "@hourly", "@every 25m"],
    &["0 0 13 * FRI", "@at 2026-06-01T00:00:00.250Z"],
];
const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"];

prop_compose! {
    fn any_schedule()(
        expressions in prop::sample::select(&EXPRESSIONS[..]),
        timezone in prop::sample::select(&ZONES[..]),
        dst in dst(),
        excepts: bool,
    ) -> Schedule {
        let calendar = [Arc::new(Calendar::parse(&["03-29", "2026-10-20..2026-10-25", "2026-12-31"]).unwrap())];
        let except: &[_] = if excepts { &calendar } else { &[] };
        let spec = ScheduleSpec { expressions, timezone, dst, except, job: "job" };
        // The one instant of `@at` may be excepted.
        let plain = ScheduleSpec { except: &[], ..spec };
        Schedule::parse(&spec, &mut Zones::new()).or_else(|_| Schedule::parse(&plain, &mut Zones::new())).unwrap()
    }
}

fn dst() -> impl Strategy<Value = Dst> {
    use fencron::schedule::{Fold, Gap};
    let fold = prop::sample::select(&[Fold::First, Fold::Last, Fold::Both][..]);
    (prop::sample::select(&[Gap::Shift, Gap::Skip][..]), fold).prop_map(|(gap, fold)| Dst { gap, fold })
}

fn elapsed(begun: Boot) -> Duration {
    Clock::system().boot().since(begun)
}

/// Any instant, often near a change of the clocks.
fn instant() -> impl Strategy<Value = Wall> {
    let change = prop::sample::select(
        &["2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z", "2026-04-04T15:00:00Z", "2011-12-30T10:00:00Z"][..],
    );
    let near = (change, -90_000_000i64..90_000_000).prop_map(|(at, by)| Wall::from_millis(wall(at).as_millis() + by));
    let (any, usual) = (any::<i64>(), 0..4_000_000_000_000i64);
    prop_oneof![3 => near, 1 => any.prop_map(Wall::from_millis), 2 => usual.prop_map(Wall::from_millis)]
}

fn jitter() -> impl Strategy<Value = Jitter> {
    let most = prop_oneof![Just(0), 1..3000u64, Just(30_000), Just(86_400_000), Just(u64::MAX)];
    (most, any::<u64>()).prop_map(|(most, seed)| Jitter { most: Duration::from_millis(most), seed })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_next_instant_is_after_and_nothing_lies_between(schedule in any_schedule(), after in instant()) {
        if let Some(next) = schedule.next_after(after) {
            prop_assert!(next > after);
            let before_next = schedule.previous_before(next);
            prop_assert!(before_next.is_none_or(|before| before <= after), "{before_next:?} was passed over");
            prop_assert_eq!(schedule.next_after(Wall::from_millis(next.as_millis() - 1)), Some(next));
        }
    }

    #[test]
    fn between_is_next_again_and_again(schedule in any_schedule(), after in instant(), length in 0..200_000_000i64) {
        let until = Wall::from_millis(after.as_millis().saturating_add(length));
        let listed: Vec<Wall> = schedule.between(after, until).take(500).collect();
        let mut at = after;
        for instant in &listed {
            at = schedule.next_after(at).unwrap();
            prop_assert_eq!(at, *instant);
            prop_assert!(at > after && at <= until);
        }
        if listed.len() < 500 {
            prop_assert!(schedule.next_after(at).is_none_or(|next| next > until));
        }
    }

    #[test]
    fn starts_keep_the_order_of_instants_and_their_bounds(
        schedule in any_schedule(),
        jitter in jitter(),
        after in instant(),
    ) {
        let mut start = after;
        let mut last: Option<Occurrence> = None;
        for _ in 0..50 {
            let Some(next) = schedule.next_start(jitter, start) else { break };
            prop_assert!(next.starts > start || next.starts == Wall::MAX);
            let moved = next.starts.since(next.at);
            prop_assert!(next.starts >= next.at && (moved < jitter.most || moved.is_zero()));
            prop_assert!(schedule.next_after(next.at).is_none_or(|following| next.starts < following));
            if let Some(last) = last {
                prop_assert_eq!(schedule.next_after(last.at), Some(next.at), "an occurrence was passed over");
            }
            (start, last) = (next.starts, Some(next));
        }
    }

    #[test]
    fn the_start_of_an_occurrence_does_not_depend_on_who_asks_when(
        schedule in any_schedule(),
        jitter in jitter(),
        after in instant(),
    ) {
        if let Some(first) = schedule.next_start(jitter, after) {
            let earlier = Wall::from_millis(first.starts.as_millis() - 1);
            prop_assert_eq!(schedule.next_start(jitter, earlier), Some(first));
        }
    }

    #[test]
    fn what_was_missed_is_what_starts_between(
        schedule in any_schedule(),
        jitter in jitter(),
        after in instant(),
        length in 0..40_000_000i64,
        most in 0..20usize,
    ) {
        let until = Wall::from_millis(after.as_millis().saturating_add(length));
        prop_assume!(until < Wall::MAX);
        let starts = |after| schedule.next_start(jitter, after).filter(|next| next.starts <= until);
        let all: Vec<_> = std::iter::successors(starts(after), |last| starts(last.starts)).collect();
        let missed = schedule.latest_starts(jitter, after, until, most);
        let (rest, newest) = all.split_at(all.len().saturating_sub(most));
        prop_assert_eq!(&missed.listed[..], newest);
        match missed.before {
            None => prop_assert!(rest.is_empty()),
            Some(before) => {
                prop_assert_eq!(Some(before.first), rest.first().map(|first| first.at));
                prop_assert_eq!(Some(before.last), rest.last().map(|last| last.at));
                prop_assert_eq!(before.count, (rest.len() as u64).min(MOST_COUNTED));
                prop_assert_eq!(before.capped, rest.len() as u64 > MOST_COUNTED);
            }
        }
    }

    #[test]
    fn an_explanation_names_the_same_instant(schedule in any_schedule(), after in instant()) {
        if let Some(next) = schedule.next_after(after) {
            let fire = schedule.explain(next);
            prop_assert_eq!(fire.scheduled_at, next);
            if next > Wall::EPOCH {
                prop_assert_eq!(fire.local.parse::<Wall>().unwrap(), next, "{}", fire.local);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}", zone in "\\PC{0,20}", date in "\\PC{0,25}") {
        let spec = ScheduleSpec { expressions: &[&text], timezone: &zone, dst: DEFAULT, except: &[], job: "job" };
        prop_assert!(Schedule::parse(&spec, &mut Zones::new()).is_err());
        prop_assert!(Calendar::parse(&[date]).is_err());
    }

    #[test]
    fn a_text_that_is_nearly_a_schedule_ends_soon(
        fields in prop::collection::vec(
            "(\\*|\\?|H|L|LW|[0-9]{1,4}|[A-Z]{3}|[0-9]{1,2}[WL])?(-[0-9]{1,4})?([/#][0-9]{1,2})?(,[0-9LWH]{0,3})?",
            4..8,
        ),
        after in instant(),
    ) {
        let text = fields.join(" ");
        if let Ok(schedule) = crate::parse(&[&text], "UTC", DEFAULT) {
            let begun = Clock::system().boot();
            for _ in 0..10 {
                std::hint::black_box((schedule.next_after(after), schedule.previous_before(after)));
            }
            prop_assert!(elapsed(begun) < Duration::from_secs(1), "{text} after {after}: {:?}", elapsed(begun));
        }
    }
}

#[test]
fn a_year_of_seconds_is_answered_for_at_once() {
    let seconds = schedule("* * * * * *", "Europe/Berlin", DEFAULT);
    let jitter = Jitter::of(Duration::from_millis(800), "job");
    let begun = Clock::system().boot();
    let missed = seconds.latest_starts(jitter, wall("2025-01-01T00:00:00Z"), wall("2026-01-01T00:00:00.999Z"), 10);
    assert_eq!(missed.listed.len(), 10);
    assert_eq!(missed.listed[9].at, wall("2026-01-01T00:00:00Z"));
    let before = missed.before.unwrap();
    assert_eq!((before.count, before.capped), (MOST_COUNTED, true));
    assert_eq!(before.last, wall("2025-12-31T23:59:50Z"));
    assert!(elapsed(begun) < Duration::from_secs(2), "{:?}", elapsed(begun));
}
