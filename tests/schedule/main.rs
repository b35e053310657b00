//! Schedules: hard cases by hand, other implementations as second opinions, and properties.

mod cases;
mod messages;
mod oracle;
mod properties;

use fencron::schedule::{Dst, Fold, Gap, Schedule, ScheduleError, ScheduleSpec, Zones};
use fencron::time::Wall;

const DEFAULT: Dst = Dst { gap: Gap::Shift, fold: Fold::First };

fn parse(expressions: &[&str], timezone: &str, dst: Dst) -> Result<Schedule, Vec<ScheduleError>> {
    let spec = ScheduleSpec { expressions, timezone, dst, except: &[], job: "job" };
    Schedule::parse(&spec, &mut Zones::new())
}

fn schedule(expression: &str, timezone: &str, dst: Dst) -> Schedule {
    parse(&[expression], timezone, dst).unwrap_or_else(|errors| panic!("{expression}: {errors:?}"))
}

fn wall(text: &str) -> Wall {
    text.parse().unwrap()
}
