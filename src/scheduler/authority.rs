//! On whose authority this node decides: its session, its term, and whether it may act on that.

use std::collections::VecDeque;

use super::run::Claimant;
use crate::fence::Fence;
use crate::job::{Job, OnLostLeadership};

/// How many of its own former leases a node remembers: what it claimed on one of them and never started may come to its
/// knowledge after the lease has ended.
const LEASES_REMEMBERED: usize = 16;

#[derive(Debug)]
pub(super) struct Authority {
    node: String,
    lease: u64,
    former_leases: VecDeque<u64>,
    /// The fence of the present term.
    term: Option<Fence>,
    trusted: bool,
    draining: Option<Draining>,
}

#[derive(Clone, Copy, Debug)]
struct Draining {
    /// Wait for runs that may outlive the leadership, too.
    wait_for_finish: bool,
    announced: bool,
}

impl Authority {
    /// That of a node which follows.
    pub fn of(node: String) -> Authority {
        Authority { node, lease: 0, former_leases: VecDeque::new(), term: None, trusted: false, draining: None }
    }

    /// The fence of the present term; `None`: this node does not lead.
    pub fn term(&self) -> Option<Fence> {
        self.term
    }

    pub fn leads(&self) -> bool {
        self.term.is_some()
    }

    /// Whether anything new may be claimed or begun.
    pub fn may_act(&self) -> bool {
        self.leads() && self.trusted && self.draining.is_none()
    }

    /// This node, as it claims runs under `fence`.
    pub fn claimant(&self, fence: Fence) -> Claimant {
        Claimant { node: self.node.clone(), fence, lease: self.lease }
    }

    /// Whether that is this node in its present term.
    pub fn is_present(&self, claimant: &Claimant) -> bool {
        Some(claimant.fence) == self.term && self.holds(claimant.lease)
    }

    /// Whether that is the lease of the present session.
    pub fn holds(&self, lease: u64) -> bool {
        self.lease == lease
    }

    /// Whether what was claimed on this lease was claimed by this process.
    pub fn is_own(&self, lease: u64) -> bool {
        self.holds(lease) || self.former_leases.contains(&lease)
    }

    pub fn session(&mut self, lease: u64) {
        let former = std::mem::replace(&mut self.lease, lease);
        if former != lease {
            self.former_leases.push_front(former);
            self.former_leases.truncate(LEASES_REMEMBERED);
        }
    }

    pub fn elected(&mut self, fence: Fence) {
        self.term = Some(fence);
    }

    pub fn deposed(&mut self) {
        self.term = None;
    }

    /// Takes in whether this node may act on its term. Answers whether it might before.
    pub fn trust(&mut self, trusted: bool) -> bool {
        std::mem::replace(&mut self.trusted, trusted)
    }

    pub fn drain(&mut self, wait_for_finish: bool) {
        self.draining = Some(Draining { wait_for_finish, announced: false });
    }

    pub fn undrain(&mut self) {
        self.draining = None;
    }

    /// Whether it drains, and has not announced that nothing runs any more.
    pub fn is_to_announce_drained(&self) -> bool {
        self.draining.is_some_and(|draining| !draining.announced)
    }

    pub fn announced_drained(&mut self) {
        if let Some(draining) = &mut self.draining {
            draining.announced = true;
        }
    }

    /// Whether a run of this job belongs to what is drained, or stopped when nothing is waited for any longer.
    pub fn waits_for(&self, job: &Job) -> bool {
        self.draining.is_none_or(|draining| draining.wait_for_finish)
            || job.on_lost_leadership == OnLostLeadership::Cancel
    }
}
