//! Which clock is wrong, as far as the nodes can tell from each other's. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::{Wall, written};

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

    /// Only these sessions are there; what was heard of the others is forgotten.
    pub fn keep(&mut self, there: impl Fn(u64) -> bool) {
        self.offsets.retain(|lease, _| there(*lease));
    }

    /// Why this node should not lead, if it should not: most of the nodes, without it, agree with each other within
    /// `most`, and its clock is off theirs by more. Where no such majority is, nobody can tell who is wrong; of two
    /// nodes the one that leads is believed.
    ///
    /// So a wrong clock among three or more stands back alone, and never does everybody.
    pub fn stands_back(&self, own: u64, leader: Option<u64>, most: Duration) -> Option<String> {
        let most = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
        let mut others: Vec<i64> =
            self.offsets.iter().filter(|(lease, _)| **lease != own).map(|(_, offset)| *offset).collect();
        others.sort_unstable();
        let agreeing = largest_agreement(&others, most);
        let outvoted = agreeing.len() * 2 > others.len() + 1;
        let other_leads = others.len() == 1 && leader.is_some_and(|leader| leader != own);
        let theirs = *agreeing.get(agreeing.len() / 2).filter(|_| outvoted || other_leads)?;
        if theirs.abs() <= most {
            return None;
        }
        let off = written(Duration::from_millis(theirs.unsigned_abs()));
        let way = if theirs < 0 { "ahead of" } else { "behind" };
        Some(format!("its clock is {off} {way} the other nodes' (more than --max-clock-skew): set the clock"))
    }
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

    fn clocks(offsets: &[(u64, i64)]) -> Clocks {
        let mut clocks = Clocks::default();
        for (lease, offset) in offsets {
            clocks.heard(*lease, Wall::from_millis(1_000_000 + offset), Wall::from_millis(1_000_000));
        }
        clocks
    }

    /// Which of nodes with these clocks stand back, where nobody leads.
    fn standing_back(clocks: &[i64]) -> Vec<usize> {
        let stands_back = |own: usize| {
            let mut heard = Clocks::default();
            for (lease, clock) in clocks.iter().enumerate() {
                heard.heard(lease as u64, Wall::from_millis(*clock), Wall::from_millis(clocks[own]));
            }
            heard.stands_back(own as u64, None, MOST).is_some()
        };
        (0..clocks.len()).filter(|own| stands_back(*own)).collect()
    }

    #[test]
    fn a_clock_that_is_ahead_of_two_others_stands_back() {
        let why = clocks(&[(1, 0), (2, -180_000), (3, -181_000)]).stands_back(1, None, MOST).unwrap();
        assert!(why.contains("3m ahead"), "{why}");
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
    fn of_two_nodes_the_one_that_leads_is_believed() {
        let two = clocks(&[(1, 0), (2, 60_000)]);
        assert!(two.stands_back(1, Some(2), MOST).unwrap().contains("behind"));
        assert_eq!(two.stands_back(1, Some(1), MOST), None);
    }
}
