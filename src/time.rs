//! Time as the project uses it: [`Wall`] for when jobs are due, [`Boot`] for how long a lease may be trusted.
//!
//! This is the only module that reads real clocks. Everything else is handed a [`Clock`] or an instant, which is
//! what lets the core be tested by moving time by hand, and lets the simulation give each node a clock of its own.

mod duration;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use duration::{NotADuration, parse_duration, written};

/// A wall-clock instant: whole milliseconds since the Unix epoch, in UTC.
///
/// Wall clocks jump. A `Wall` says when something is due or was seen to happen; it never decides whether a lease
/// still holds (that is [`Boot`]'s work).
///
/// ```
/// use fencron::time::Wall;
/// let at: Wall = "2026-11-21T02:00:00Z".parse().unwrap();
/// assert_eq!(at.to_string(), "2026-11-21T02:00:00Z");
/// assert_eq!(Wall::from_millis(at.as_millis() + 5).to_string(), "2026-11-21T02:00:00.005Z");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(i64);

impl Wall {
    /// The Unix epoch.
    pub const EPOCH: Wall = Wall(0);
    /// Later than every instant a schedule can name (the end of the year 9999).
    pub const MAX: Wall = Wall(253_402_300_799_999);

    /// The instant `millis` milliseconds after the epoch, held within what RFC 3339 can write.
    pub const fn from_millis(millis: i64) -> Wall {
        const MIN: i64 = -62_135_596_800_000;
        if millis > Self::MAX.0 {
            Self::MAX
        } else if millis < MIN {
            Wall(MIN)
        } else {
            Wall(millis)
        }
    }

    /// Milliseconds since the epoch; negative before it.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This instant moved forward, stopping at [`Wall::MAX`].
    #[must_use]
    pub fn plus(self, by: Duration) -> Wall {
        Wall::from_millis(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This instant moved back.
    #[must_use]
    pub fn minus(self, by: Duration) -> Wall {
        Wall::from_millis(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How far this instant lies after `earlier`; zero when it does not.
    pub fn since(self, earlier: Wall) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same instant for chrono, which the schedules compute with.
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).expect("Wall is held within chrono's range")
    }
}

impl<Tz: chrono::TimeZone> From<DateTime<Tz>> for Wall {
    /// Drops what is finer than a millisecond (toward the past).
    fn from(at: DateTime<Tz>) -> Wall {
        Wall::from_millis(at.timestamp_millis())
    }
}

impl fmt::Display for Wall {
    /// RFC 3339 in UTC, with milliseconds only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = if self.0.rem_euclid(1000) == 0 { SecondsFormat::Secs } else { SecondsFormat::Millis };
        f.write_str(&self.to_utc().to_rfc3339_opts(format, true))
    }
}

impl fmt::Debug for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an RFC 3339 instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an instant: write it like 2026-11-21T02:00:00Z or 2026-11-21T02:00:00+01:00")]
pub struct NotAnInstant(String);

impl std::str::FromStr for Wall {
    type Err = NotAnInstant;

    fn from_str(text: &str) -> Result<Wall, NotAnInstant> {
        DateTime::parse_from_rfc3339(text.trim()).map(Wall::from).map_err(|_| NotAnInstant(text.to_owned()))
    }
}

impl Serialize for Wall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wall, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An instant of one machine's boot clock (`CLOCK_BOOTTIME`): it never jumps and it goes on through suspend.
///
/// Rust's `Instant` is `CLOCK_MONOTONIC`, which stands still while a laptop or a virtual machine sleeps; a lease
/// does not. Instants of two machines, or of two boots of one, mean nothing to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Boot(Duration);

impl Boot {
    /// The instant `since_boot` after the machine started.
    pub const fn from_duration(since_boot: Duration) -> Boot {
        Boot(since_boot)
    }

    /// How long after the machine's start this instant lies.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// This instant moved forward.
    #[must_use]
    pub fn plus(self, by: Duration) -> Boot {
        Boot(self.0.saturating_add(by))
    }

    /// This instant moved back, stopping at the machine's start.
    #[must_use]
    pub fn minus(self, by: Duration) -> Boot {
        Boot(self.0.saturating_sub(by))
    }

    /// How far this instant lies after `earlier`; zero when it does not.
    pub fn since(self, earlier: Boot) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where a node takes its time from: the machine, or a test that moves it by hand.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> (Boot, Wall) + Send + Sync>);

/// How often the boot clock is looked at while something waits by a timer, which stands still in suspend.
const RECHECK: Duration = Duration::from_secs(1);

impl Clock {
    /// The machine's own clocks.
    pub fn system() -> Clock {
        Clock(Arc::new(read_system_clocks))
    }

    /// A clock that answers what `read` answers: for simulations and tests.
    pub fn from_fn(read: impl Fn() -> (Boot, Wall) + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(read))
    }

    /// What both clocks say, at one moment.
    pub fn both(&self) -> (Boot, Wall) {
        (self.0)()
    }

    /// What the boot clock says.
    pub fn boot(&self) -> Boot {
        (self.0)().0
    }

    /// What the wall clock says.
    pub fn wall(&self) -> Wall {
        (self.0)().1
    }

    /// Waits until the boot clock says `at`; never, without that. A suspended machine's time counts, which timers do not
    /// count: the clock is looked at again and again.
    pub(crate) async fn reached(&self, at: Option<Boot>) {
        let Some(at) = at else { return std::future::pending().await };
        loop {
            let left = at.since(self.boot());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(RECHECK)).await;
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (boot, wall) = (self.0)();
        f.debug_struct("Clock").field("boot", &boot).field("wall", &wall).finish()
    }
}

fn read_system_clocks() -> (Boot, Wall) {
    let mut tries = 0;
    loop {
        let before = boot_clock();
        let wall = wall_clock();
        // A process that stood still between the two would take its wall clock for one that was set.
        if boot_clock().since(before) < READ_WITHIN || tries == READ_AGAIN_MOST {
            return (before, wall);
        }
        tries += 1;
    }
}

/// The clock by which systemd compares what a service says with what it asked (`CLOCK_MONOTONIC`). Nothing else is timed by
/// it: it stands still in suspend.
#[cfg(all(target_os = "linux", feature = "cli"))]
pub(crate) fn monotonic() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock"))
}

#[cfg(unix)]
fn boot_clock() -> Boot {
    use nix::time::{ClockId, clock_gettime};
    #[cfg(target_os = "linux")]
    const BOOT: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const BOOT: ClockId = ClockId::CLOCK_MONOTONIC; // macOS counts suspend in this one
    Boot(Duration::from(clock_gettime(BOOT).expect("every supported system has a boot clock")))
}

/// Counted from the first call: nothing on Windows compares the instants of two processes. The performance counter, which
/// `Instant` is there, counts suspend.
#[cfg(windows)]
#[expect(clippy::disallowed_methods, reason = "this module reads the clocks")]
fn boot_clock() -> Boot {
    static FIRST: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    Boot(FIRST.elapsed())
}

#[expect(clippy::disallowed_methods, reason = "this module reads the clocks")]
fn wall_clock() -> Wall {
    Wall::from(Utc::now())
}

/// How far apart both clocks may be read, and how often they are read again for it.
const READ_WITHIN: Duration = Duration::from_millis(100);
const READ_AGAIN_MOST: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_reads_back_what_it_writes() {
        for text in ["2026-11-21T02:00:00Z", "1969-12-31T23:59:59.001Z", "9999-12-31T23:59:59.999Z"] {
            assert_eq!(text.parse::<Wall>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wall_arithmetic_stops_at_the_ends() {
        assert_eq!(Wall::MAX.plus(Duration::from_secs(1)), Wall::MAX);
        assert_eq!(Wall::from_millis(i64::MIN).minus(Duration::MAX), Wall::from_millis(i64::MIN));
        assert_eq!(Wall::EPOCH.since(Wall::MAX), Duration::ZERO);
    }

    #[test]
    fn the_system_clocks_advance() {
        let clock = Clock::system();
        let (boot, wall) = (clock.boot(), clock.wall());
        assert!(clock.boot() >= boot);
        assert!(wall > "2024-01-01T00:00:00Z".parse().unwrap());
    }
}
