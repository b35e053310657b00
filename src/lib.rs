//! fencron: several replicas contend for a leased, fenced lock; the leader fires the jobs of a YAML file.

// Of the library alone: tests may. A print panics when nobody reads it any more (`fencron runs | head`); write instead.
#![deny(clippy::unwrap_used, clippy::let_underscore_must_use, clippy::print_stdout, clippy::print_stderr)]

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

#[cfg(feature = "scheduler")]
pub mod api;
#[cfg(feature = "scheduler")]
pub mod cli;
