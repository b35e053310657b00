//! When jobs are due. (Skeleton.)
use crate::time::Wall;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Schedule;

/// How far an occurrence's start is moved behind its instant: the same for every leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter {
    /// The most it is moved.
    pub most: Duration,
    /// From the job's name, so that equal schedules of two jobs move apart.
    pub seed: u64,
}

/// One due instant of a job, and when it is to start (jitter included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    pub at: Wall,
    pub starts: Wall,
}

impl Schedule {
    /// The first instant after `after`; `None` when there is none left.
    pub fn next_after(&self, _after: Wall) -> Option<Wall> {
        unimplemented!()
    }
    /// The first occurrence that starts after `after`.
    pub fn next_start(&self, _jitter: Jitter, _after: Wall) -> Option<Occurrence> {
        unimplemented!()
    }
    /// x
    pub fn latest_starts(&self, _j: Jitter, _after: Wall, _until: Wall, _most: usize) -> Past { unimplemented!() }
    /// What identifies the rule: equal for schedules that name the same instants by the same text.
    pub fn fingerprint(&self) -> String {
        unimplemented!()
    }
}

pub struct Past { pub listed: Vec<Occurrence>, pub before: Option<Before> }
pub struct Before { pub first: Wall, pub last: Occurrence, pub count: u64, pub capped: bool }
