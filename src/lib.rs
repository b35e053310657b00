//! fencron: several replicas contend for a leased, fenced lock; the leader fires the jobs of a YAML file.

pub mod fence;
pub mod time;

#[cfg(feature = "scheduler")]
pub mod config;
#[cfg(feature = "scheduler")]
pub mod job;
#[cfg(feature = "scheduler")]
pub mod schedule;
#[cfg(feature = "scheduler")]
pub mod scheduler;
pub mod store;

#[cfg(feature = "scheduler")]
pub mod execute;
#[cfg(feature = "scheduler")]
pub mod ledger;
pub mod lock;

#[cfg(feature = "scheduler")]
pub mod node;
