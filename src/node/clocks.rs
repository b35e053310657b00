//! Which clock is wrong, as far as the nodes can see from each other's, and whether this one was set. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::{Boot, Wall, written};

/// By how much a wall clock has to leave the boot clock, from one look to the next, to have been set.
const SET_BY: Duration = Duration::from_secs(1);

/// How much two measurements of one clock may differ.
const ALIKE: i64 = 1_000;

/// How long a clock has to be measured alike that delay alone may make look behind.
const CONFIRMED_AFTER: Duration = Duration::from_secs(2);

/// For how long a node that was outvoted stands back while it hears of fewer nodes than outvoted it. All sessions may end
/// at once, as after an outage of the store, and the first node that is heard again has no majority.
const OUTVOTED_FOR: Duration = Duration::from_secs(60);

/// Looks at this machine's two clocks, for a wall clock that is set.
#[derive(Debug, Default)]
pub struct Steps {
    last: Option<(Boot, Wall)>,
}

impl Steps {
    /// By how many milliseconds the wall clock was set since the last look, where it was: forward (positive) or back.
    pub fn look(&mut self, boot: Boot, wall: Wall) -> Option<i64> {
        let (boot_before, wall_before) = self.last.replace((boot, wall))?;
        let passed = i64::try_from(boot.since(boot_before).as_millis()).unwrap_or(i64::MAX);
        let by = wall.as_millis().saturating_sub(wall_before.as_millis()).saturating_sub(passed);
        (u128::from(by.unsigned_abs()) >= SET_BY.as_millis()).then_some(by)
    }
}

/// How far the other nodes' clocks are from this one's, by what they published and when it was received.
///
/// A record may be delayed before it is written, and before it is received. Each delay makes the other clock look
/// further behind than it is, never further ahead. So what looks ahead is believed at once; what looks behind is
/// believed as far as no delay explains it, and whole where it was measured alike for [`CONFIRMED_AFTER`].
#[derive(Debug, Default)]
pub struct Clocks {
    theirs: BTreeMap<u64, Offset>,
    outvoted: Option<Outvoted>,
}

/// That this node's clock was found off by most of the nodes.
#[derive(Debug)]
struct Outvoted {
    /// By how many milliseconds theirs are ahead.
    theirs: i64,
    /// How many nodes agreed on that.
    by: usize,
    /// Since when fewer nodes than that are heard; `None`: they still say so.
    unheard_since: Option<Boot>,
}

/// How far one clock is from this node's, in milliseconds: positive is ahead.
#[derive(Debug, Default)]
struct Offset {
    believed: i64,
    /// What was measured and delay may explain, and since when it is measured alike.
    doubted: Option<(i64, Boot)>,
}

/// What another node said of its clock.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub theirs: Wall,
    pub ours: Wall,
    pub heard_at: Boot,
    /// The longest that it can have been on its way; `None`: that is unknown.
    pub delay_most: Option<Duration>,
}

impl Clocks {
    /// The node of this session published what its clock says.
    pub fn observed(&mut self, lease: u64, said: Said) {
        let measured = said.theirs.as_millis().saturating_sub(said.ours.as_millis());
        let offset = self.theirs.entry(lease).or_default();
        if measured >= offset.believed {
            *offset = Offset { believed: measured, doubted: None };
            return;
        }
        if let Some(delay) = said.delay_most {
            let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            offset.believed = offset.believed.min(measured.saturating_add(delay));
        }
        match offset.doubted {
            Some((doubted, since)) if measured.abs_diff(doubted) <= ALIKE.unsigned_abs() => {
                if said.heard_at.since(since) >= CONFIRMED_AFTER {
                    offset.believed = measured;
                }
            }
            _ => offset.doubted = Some((measured, said.heard_at)),
        }
    }

    /// This node's clock was set by so many milliseconds.
    pub fn own_was_set(&mut self, by: i64) {
        for offset in self.theirs.values_mut() {
            offset.believed = offset.believed.saturating_sub(by);
            offset.doubted = offset.doubted.map(|(doubted, since)| (doubted.saturating_sub(by), since));
        }
        if let Some(outvoted) = &mut self.outvoted {
            outvoted.theirs = outvoted.theirs.saturating_sub(by);
        }
    }

    /// Whether the node of this session has said what its clock shows.
    pub fn has_heard(&self, lease: u64) -> bool {
        self.theirs.contains_key(&lease)
    }

    /// How far the clock that is furthest away is from this node's, ahead or behind.
    pub fn furthest(&self, own: u64) -> Duration {
        let others = self.theirs.iter().filter(|(lease, _)| **lease != own);
        Duration::from_millis(others.map(|(_, offset)| offset.believed.unsigned_abs()).max().unwrap_or(0))
    }

    /// The session is gone.
    pub fn gone(&mut self, lease: u64) {
        self.theirs.remove(&lease);
    }

    /// Only these sessions are there; what is known of the others is forgotten.
    pub fn keep(&mut self, there: impl Fn(u64) -> bool) {
        self.theirs.retain(|lease, _| there(*lease));
    }

    /// By how many milliseconds the other clocks are ahead of this node's, or (negative) behind, where it should not lead
    /// for that: most of the nodes, without it, agree with each other within
    /// `most`, and its clock is off theirs by more. Without such a majority, it is unknown which clock is wrong; of two
    /// nodes the one that leads is believed.
    ///
    /// So a wrong clock among three or more stands back alone, and never all nodes do. A node that was outvoted goes on
    /// standing back where the others are gone, for [`OUTVOTED_FOR`] at most.
    pub fn off(&mut self, own: u64, leader: Option<u64>, most: Duration, now: Boot) -> Option<i64> {
        let most = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
        let mut others: Vec<i64> =
            self.theirs.iter().filter(|(lease, _)| **lease != own).map(|(_, offset)| offset.believed).collect();
        others.sort_unstable();
        let agreeing = largest_agreement(&others, most);
        let outvoted = agreeing.len() * 2 > others.len() + 1;
        let other_leads = others.len() == 1 && leader.is_some_and(|leader| leader != own);
        let theirs = agreeing.get(agreeing.len() / 2).copied().filter(|theirs| theirs.abs() > most);
        if let Some(theirs) = theirs.filter(|_| outvoted) {
            self.outvoted = Some(Outvoted { theirs, by: agreeing.len(), unheard_since: None });
            return Some(theirs);
        }
        if let Some(before) = &mut self.outvoted {
            let since = *before.unheard_since.get_or_insert(now);
            if others.len() < before.by && before.theirs.abs() > most && now.since(since) < OUTVOTED_FOR {
                return Some(before.theirs);
            }
        }
        self.outvoted = None;
        theirs.filter(|_| other_leads)
    }
}

/// Why a node should not lead whose clock is so many milliseconds off.
pub(super) fn stands_back(theirs: i64) -> String {
    let (off, way) = (rounded(theirs), if theirs < 0 { "ahead of" } else { "behind" });
    format!("its clock is {off} {way} the other nodes' (more than --max-clock-skew): set the clock")
}

/// How far that is, for a person: what is far is given in whole seconds.
pub(super) fn rounded(millis: i64) -> String {
    let millis = millis.unsigned_abs();
    let shown = if millis < 10_000 { millis } else { millis.saturating_add(500) / 1000 * 1000 };
    written(Duration::from_millis(shown))
}

/// The most of the sorted `offsets` that are within `most` of each other.
fn largest_agreement(offsets: &[i64], most: i64) -> &[i64] {
    let within = |start: usize| {
        let end = offsets.partition_point(|offset| offset.saturating_sub(offsets[start]) <= most);
        &offsets[start..end]
    };
    (0..offsets.len()).map(within).max_by_key(|agreeing| agreeing.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(2);

    const HERE: i64 = 1_000_000;

    fn at(seconds: u64) -> Boot {
        Boot::from_duration(Duration::from_secs(seconds))
    }

    /// What a node says whose clock is so far off, observed at this instant, after a delay of at most so long.
    fn said(offset: i64, heard_ms: u64, delay_most: Option<u64>) -> Said {
        Said {
            theirs: Wall::from_millis(HERE + offset),
            ours: Wall::from_millis(HERE),
            heard_at: Boot::from_duration(Duration::from_millis(heard_ms)),
            delay_most: delay_most.map(Duration::from_millis),
        }
    }

    fn clocks(offsets: &[(u64, i64)]) -> Clocks {
        let mut clocks = Clocks::default();
        offsets.iter().for_each(|(lease, offset)| clocks.observed(*lease, said(*offset, 0, Some(0))));
        clocks
    }

    /// Which of nodes with these clocks stand back, where nobody leads.
    fn standing_back(nodes: &[i64]) -> Vec<usize> {
        let stands_back = |own: usize| {
            let offsets: Vec<(u64, i64)> = (0..).zip(nodes).map(|(lease, clock)| (lease, clock - nodes[own])).collect();
            clocks(&offsets).off(own as u64, None, MOST, at(0)).is_some()
        };
        (0..nodes.len()).filter(|own| stands_back(*own)).collect()
    }

    /// What is believed of a clock that says these offsets, each observed at its instant after at most its delay.
    fn believed(observed: &[(i64, u64, Option<u64>)]) -> i64 {
        let mut clocks = Clocks::default();
        observed.iter().for_each(|(offset, at, delay)| clocks.observed(1, said(*offset, *at, *delay)));
        clocks.theirs[&1].believed
    }

    #[test]
    fn a_record_that_may_have_come_late_makes_no_clock_look_behind() {
        let in_time = (0, 0, Some(20));
        // Three records that were written during a cut of 17 s come together, then one in time.
        let late = [(-17_000, 17_000, Some(18_000)), (-12_000, 17_001, Some(18_001)), (-7_000, 17_002, Some(18_002))];
        assert_eq!(believed(&[&[in_time], &late[..]].concat()), 0);
        assert_eq!(believed(&[&late[..], &[(-3, 20_000, Some(4_000))]].concat()), 0, "nothing was observed before");
        assert_eq!(believed(&[in_time, (-17_000, 17_000, None), (0, 22_000, Some(20))]), 0);
    }

    #[test]
    fn a_clock_that_no_delay_makes_look_behind_is_believed_at_once() {
        assert_eq!(believed(&[(-300_000, 0, Some(20))]), -299_980);
    }

    #[test]
    fn a_clock_that_goes_on_looking_behind_is_behind() {
        let observed: Vec<_> = (0..3).map(|nth| (-3_000, nth * 5_000, Some(4_500))).collect();
        assert_eq!(believed(&observed[..1]), 0);
        assert_eq!(believed(&observed), -3_000);
        let unknown = [(-3_000, 0, None), (-3_010, 5_000, None)];
        assert_eq!(believed(&unknown), -3_010);
    }

    #[test]
    fn a_clock_that_looks_ahead_is_believed_at_once() {
        assert_eq!(believed(&[(0, 0, Some(20)), (60_000, 5_000, None)]), 60_000);
    }

    #[test]
    fn a_wall_clock_that_is_set_leaves_the_boot_clock() {
        let at = |boot: u64, wall: i64| (Boot::from_duration(Duration::from_millis(boot)), Wall::from_millis(wall));
        let mut steps = Steps::default();
        let mut look = |boot, wall| {
            let (boot, wall) = at(boot, wall);
            steps.look(boot, wall)
        };
        assert_eq!(look(1_000, 50_000), None);
        assert_eq!(look(2_000, 51_010), None, "it runs a little fast");
        assert_eq!(look(62_000, 111_000), None, "the process stood still, or the machine slept");
        assert_eq!(look(63_000, 3_712_000), Some(3_600_000));
        assert_eq!(look(64_000, 3_713_000), None);
        assert_eq!(look(65_000, 114_000), Some(-3_600_000));
    }

    #[test]
    fn a_clock_that_was_set_is_off_the_others_at_once() {
        let mut clocks = clocks(&[(1, 0), (2, 10), (3, -10)]);
        assert_eq!(clocks.off(1, Some(1), MOST, at(0)), None);
        clocks.own_was_set(86_400_000);
        assert!(stands_back(clocks.off(1, Some(1), MOST, at(0)).unwrap()).contains("1d ahead"), "though it leads");
    }

    #[test]
    fn a_clock_that_is_ahead_of_two_others_stands_back() {
        let off = clocks(&[(1, 0), (2, -180_000), (3, -181_000)]).off(1, None, MOST, at(0));
        let why = stands_back(off.unwrap());
        assert!(why.contains("3m ahead"), "{why}");
    }

    #[test]
    fn the_clock_that_is_furthest_away_is_another_nodes() {
        let clocks = clocks(&[(1, -90_000), (2, 150), (3, -400)]);
        assert_eq!(clocks.furthest(1), Duration::from_millis(400));
        assert_eq!(Clocks::default().furthest(1), Duration::ZERO);
    }

    #[test]
    fn a_wrong_clock_stands_back_alone() {
        assert_eq!(standing_back(&[0, 0, 180_000]), [2]);
        assert_eq!(standing_back(&[0, 1_500, -90_000, 900]), [2]);
        assert_eq!(standing_back(&[0, 10, 20, 60_000, -60_000]), [3, 4]);
    }

    #[test]
    fn where_no_majority_agrees_nobody_stands_back() {
        for clocks in [&[0, 0, 10_000, 10_000][..], &[0, 5_000, 10_000], &[0, 60_000], &[0]] {
            assert_eq!(standing_back(clocks), [0_usize; 0], "{clocks:?}");
        }
    }

    #[test]
    fn a_node_that_was_outvoted_stands_back_while_the_others_come_again() {
        let outvoted = || {
            let mut clocks = clocks(&[(1, 0), (2, -3_600_000), (3, -3_600_010)]);
            assert!(clocks.off(1, None, MOST, at(0)).is_some());
            clocks.keep(|lease| lease == 1);
            clocks
        };
        let mut clocks = outvoted();
        assert_eq!(
            clocks.off(1, None, MOST, at(600)),
            Some(-3_600_000),
            "all sessions ended in an outage of the store"
        );
        clocks.observed(12, said(-3_600_000, 0, Some(0)));
        assert!(clocks.off(1, None, MOST, at(601)).is_some(), "one alone is no majority");
        clocks.observed(13, said(-3_600_000, 0, Some(0)));
        assert!(clocks.off(1, None, MOST, at(602)).is_some());
        let mut clocks = outvoted();
        assert!(clocks.off(1, None, MOST, at(600)).is_some());
        assert_eq!(clocks.off(1, None, MOST, at(660)), None, "no other node is left that could lead");
        let mut clocks = outvoted();
        clocks.own_was_set(-3_600_000);
        assert_eq!(clocks.off(1, None, MOST, at(600)), None, "the clock was set right");
        let mut clocks = outvoted();
        (12..14).for_each(|lease| clocks.observed(lease, said(0, 0, Some(0))));
        assert_eq!(clocks.off(1, None, MOST, at(600)), None, "the others' clocks were set");
    }

    #[test]
    fn of_two_nodes_the_one_that_leads_is_believed() {
        let mut two = clocks(&[(1, 0), (2, 60_000)]);
        assert!(stands_back(two.off(1, Some(2), MOST, at(0)).unwrap()).contains("behind"));
        assert_eq!(two.off(1, Some(1), MOST, at(0)), None);
    }
}
