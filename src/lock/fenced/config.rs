//! What is chosen about a lock.

use std::num::NonZeroU32;
use std::time::Duration;

/// How a lock behaves for those who use this configuration. It is not kept in the store: others may use another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How often a context may lock what it holds already.
    pub reentrancy: Reentrancy,
    /// After this time a hold ends by itself, though its session lives: it is released, and its holder is told.
    /// The holder's own process sees to that; one that stands still is bound by its session's TTL.
    pub max_hold: Option<Duration>,
    /// For how long nobody is granted the lock after its holder's lease has run out (not after a release): time for what
    /// the holder may still have under way to arrive, at a resource that checks no fence. It is at least this, and at
    /// most one and a third TTL longer.
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
