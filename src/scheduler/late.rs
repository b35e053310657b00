//! When a run is late, by what is expected of its job: one rule for what is shown and what is notified.

use serde::Serialize;

use super::run::{Open, OpenState};
use crate::job::Expect;
use crate::time::Wall;

/// What has not happened in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// An occurrence is due for more than 10 s, and no leader has decided it.
    Undecided,
    /// A run has not started (`expect.start_within`).
    Start,
    /// A run has not ended (`expect.end_within`).
    End,
}

impl Late {
    /// Why a job is late, for a person.
    pub fn why(self) -> &'static str {
        match self {
            Late::Undecided => "it is due, and no leader has decided it",
            Late::Start => "a run has not started within the time that is expected",
            Late::End => "a run has not ended within the time that is expected",
        }
    }
}

/// From when on an open run is late as it stands, and what it is late with; `None`: it is never late. A run that a leader
/// has claimed counts as started: that it was is published a little later.
pub fn late_from(expect: &Expect, open: &Open) -> Option<(Wall, Late)> {
    let waits = matches!(open.state, OpenState::Waiting { .. }) && !open.has_begun();
    let start = expect.start_within.filter(|_| waits).map(|within| (open.starts.plus(within), Late::Start));
    let end = expect.end_within.map(|within| (open.starts.plus(within), Late::End));
    start.into_iter().chain(end).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::{JobName, RunId};

    fn open(state: OpenState, attempt: u32) -> Open {
        let (job, at) = (JobName::new("a").unwrap(), Wall::from_millis(60_000));
        // Jitter has moved it.
        Open { starts: Wall::from_millis(70_000), state, attempt, ..Open::claimed(RunId::of(&job, at)) }
    }

    #[test]
    fn a_run_is_late_from_the_first_bound_on_that_it_has_not_kept() {
        let within = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let expect = |start, end| Expect { start_within: within(start), end_within: within(end) };
        let waiting = OpenState::Waiting { not_before: Wall::from_millis(90_000) };
        let retrying = OpenState::Retrying { not_before: Wall::from_millis(90_000) };
        let at = |seconds: i64, late| Some((Wall::from_millis(seconds * 1_000), late));
        for (state, attempt, expect, from) in [
            (waiting, 0, expect(Some(5), Some(20)), at(75, Late::Start)),
            (waiting, 0, expect(None, Some(20)), at(90, Late::End)),
            (waiting, 0, expect(Some(30), Some(20)), at(90, Late::End)),
            (waiting, 0, expect(None, None), None),
            (OpenState::Claimed, 1, expect(Some(5), None), None),
            (OpenState::Claimed, 1, expect(Some(5), Some(20)), at(90, Late::End)),
            // It had begun before it came to wait once more.
            (waiting, 1, expect(Some(5), None), None),
            (retrying, 1, expect(Some(5), Some(20)), at(90, Late::End)),
        ] {
            assert_eq!(late_from(&expect, &open(state, attempt)), from, "{state:?} {attempt} {expect:?}");
        }
    }
}
