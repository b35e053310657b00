//! The settings of a lock.

use std::num::NonZeroU32;
use std::time::Duration;

/// How a lock behaves for the callers that use this configuration. The store does not keep it: other callers may use
/// another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How often a context may lock what it holds already.
    pub reentrancy: Reentrancy,
    /// After this time a hold ends by itself, although its session lives: it is released, and its holder learns so by
    /// its signal. The holder's own process does that; a process that stands still is bound by the TTL of its session.
    pub max_hold: Option<Duration>,
    /// For how long the lock is granted to no caller after its holder's lease has run out (not after a release). In
    /// that time, writes that the holder has already sent arrive at a resource that checks no fence. The pause is at
    /// least this long, and at most one and a third TTL longer.
    pub lock_delay: Option<Duration>,
}

/// How often a context may lock what it holds already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reentrancy {
    #[default]
    Unlimited,
    /// So often altogether: with a limit of 2, the third lock is refused.
    Limit(NonZeroU32),
    /// Not at all.
    No,
}

impl Reentrancy {
    pub(super) fn limit(self) -> u32 {
        match self {
            Reentrancy::Unlimited => u32::MAX,
            Reentrancy::Limit(limit) => limit.get(),
            Reentrancy::No => 1,
        }
    }
}
