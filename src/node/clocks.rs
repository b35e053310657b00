//! Which clock is wrong, as far as the nodes can tell from each other's. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Wall;

/// How far the other nodes' clocks are from this one's, by what they published and when it was heard.
///
/// A record takes a moment to arrive, so an offset is a little too low; what counts is seconds.
#[derive(Debug, Default)]
pub struct Clocks {
    offsets: BTreeMap<u64, i64>,
}

impl Clocks {
    /// The node of this session published that its clock is at `theirs`; ours is at `ours`.
    pub fn heard(&mut self, lease: u64, theirs: Wall, ours: Wall) {
        self.offsets.insert(lease, theirs.as_millis() - ours.as_millis());
    }

    /// Whether the node of this session has said what its clock shows.
    pub fn has_heard(&self, lease: u64) -> bool {
        self.offsets.contains_key(&lease)
    }

    /// The session is gone.
    pub fn gone(&mut self, lease: u64) {
        self.offsets.remove(&lease);
    }

    /// How far ours is from the median of the others', in milliseconds: positive when ours is ahead. `None` when no
    /// other is known.
    pub fn ahead_by(&self, own: u64) -> Option<i64> {
        let mut others: Vec<i64> =
            self.offsets.iter().filter(|(lease, _)| **lease != own).map(|(_, offset)| *offset).collect();
        if others.is_empty() {
            return None;
        }
        others.sort_unstable();
        let (low, high) = (others[(others.len() - 1) / 2], others[others.len() / 2]);
        Some(-(low + high) / 2)
    }

    /// Why this node should not lead, if it should not: its clock is off the others' median by more than `most`. With
    /// one other node nobody can tell which of the two is wrong, so that counts only against a node that leads.
    pub fn stands_back(&self, own: u64, leader: Option<u64>, most: Duration) -> Option<String> {
        let ahead = self.ahead_by(own)?;
        let others = self.offsets.keys().filter(|lease| **lease != own).count();
        let outvoted = others >= 2 || leader.is_some_and(|leader| leader != own);
        if ahead.unsigned_abs() <= u64::try_from(most.as_millis()).unwrap_or(u64::MAX) || !outvoted {
            return None;
        }
        let off = humantime::format_duration(Duration::from_millis(ahead.unsigned_abs()));
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        Some(format!("its clock is {off} {way} the other nodes' (more than --max-clock-skew): set the clock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(2);

    fn clocks(offsets: &[(u64, i64)]) -> Clocks {
        let mut clocks = Clocks::default();
        for (lease, offset) in offsets {
            clocks.heard(*lease, Wall::from_millis(1_000_000 + offset), Wall::from_millis(1_000_000));
        }
        clocks
    }

    #[test]
    fn a_clock_that_is_ahead_of_two_others_stands_back() {
        let why = clocks(&[(1, 0), (2, -180_000), (3, -181_000)]).stands_back(1, None, MOST).unwrap();
        assert!(why.contains("3m 500ms ahead"), "{why}");
    }

    #[test]
    fn one_wrong_clock_among_the_others_does_not_move_their_median() {
        assert_eq!(clocks(&[(1, 0), (2, 100), (3, -100), (4, 900_000)]).stands_back(1, None, MOST), None);
    }

    #[test]
    fn of_two_nodes_the_one_that_leads_is_believed() {
        let two = clocks(&[(1, 0), (2, 60_000)]);
        assert!(two.stands_back(1, Some(2), MOST).unwrap().contains("behind"));
        assert_eq!(two.stands_back(1, Some(1), MOST), None);
        assert_eq!(two.stands_back(1, None, MOST), None);
    }

    #[test]
    fn a_node_alone_is_right() {
        assert_eq!(clocks(&[(1, 5_000_000)]).ahead_by(1), None);
    }
}
