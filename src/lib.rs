//! fencron: several replicas contend for a leased, fenced lock; the leader fires the jobs of a YAML file.
//!
//! The program is described in `README.md` and `docs`. As a library it offers the parts that the program is made of:
//!
//! - **Sessions, locks and fences over a store**, for programs of any kind: [`fence`], [`time`], [`store`], [`lock`].
//!   They are all there is with `default-features = false`, over the store in memory; the features `sqlite` and `etcd`
//!   add the others. Begin with [`lock`], which has an example; a service of several instances whose work only one is to
//!   do may find all that it needs in [`elected`].
//! - **The scheduler** (feature `jobs`): what decides is pure and can be used and tested without a store, a clock or a
//!   runtime; what acts is built around it.
//! - **The program** (feature `cli`, on by default): its commands, and what runs commands, requests and statements.
//!   Linux only.
//!
//! `docs/library.md` has a table of the features.
//!
//! The modules in the order in which to read them:
//!
//! | module | |
//! | --- | --- |
//! | [`fence`] | the number that grows with every hold of a lock, and the stamp that effects carry |
//! | [`time`] | wall clocks and the boot clock |
//! | [`store`] | the seam: a transactional key-value store with leases; in memory, SQLite and etcd |
//! | [`lock`] | which node may act, under which fence, and for how long |
//! | [`elected`] | programs that do their work on one of their instances; jobs of tokio-cron-scheduler among it |
//! | `job`, `schedule`, `config` | what runs, when, and the file that configures it; pure |
//! | `scheduler` | what becomes of every occurrence; pure |
//! | `ledger` | claims, runs and verdicts, as transactions |
//! | `guard` | the receiving end: turns away stale fences and repeated occurrences (feature `guard`) |
//! | `execute` | attempts, to the end of the last process of a command |
//! | `once` | migrations, and what is run once under a key |
//! | `import` | the jobs of other schedulers as a jobs file; pure
//! | `board` | the read model: what a node knows of its cluster, in pages; pure |
//! | `node` | the loop around all of it |
//! | `jobs` | closures as jobs, for services |
//! | `listen` | listeners of HTTP, and their bounds |
//! | `page`, `api`, `cli` | the operator's page, the listener and the program |
//!
//! `docs/architecture.md` has the invariants, each with the test that holds it.

#![cfg_attr(docsrs, feature(doc_cfg))]
// Of the library alone: tests may. A print panics when its reader is gone (`fencron runs | head`); write instead.
#![deny(clippy::unwrap_used, clippy::let_underscore_must_use, clippy::print_stdout, clippy::print_stderr)]

#[cfg(all(feature = "cli", not(target_os = "linux")))]
compile_error!(
    "fencron's feature `cli` (on by default) is for Linux: elsewhere write `default-features = false` and the features \
     you need of sqlite, etcd, jobs, guard, sql and tokio-cron-scheduler"
);

#[cfg(all(feature = "sqlite", not(unix)))]
compile_error!("fencron's feature `sqlite` is for Linux and macOS: the file is shared by POSIX locks and a boot clock");

pub mod fence;
mod threads;
pub mod time;
#[cfg(any(feature = "jobs", feature = "postgres"))]
mod tls;

#[cfg(feature = "jobs")]
pub mod config;
#[cfg(feature = "jobs")]
pub mod job;
#[cfg(feature = "cli")]
pub mod listen;
#[cfg(feature = "jobs")]
pub mod schedule;
#[cfg(feature = "jobs")]
pub mod scheduler;
pub mod store;

#[cfg(feature = "jobs")]
pub mod execute;
#[cfg(feature = "guard")]
pub mod guard;
#[cfg(feature = "jobs")]
pub mod ledger;
pub mod lock;

pub mod elected;

pub mod client;
pub use client::{Client, Error, isolated};

#[cfg(feature = "jobs")]
pub mod once;

#[cfg(feature = "jobs")]
pub mod board;
#[cfg(feature = "cli")]
mod import;
#[cfg(feature = "jobs")]
pub mod metrics;
#[cfg(feature = "jobs")]
pub mod node;
#[cfg(feature = "cli")]
pub mod notify;
#[cfg(feature = "otlp")]
pub mod traces;

#[cfg(feature = "jobs")]
pub mod jobs;

#[cfg(feature = "cli")]
pub mod api;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
mod page;

/// The examples of the README, so that they compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Those of the page for programs.
#[cfg(all(doctest, feature = "jobs"))]
#[doc = include_str!("../docs/library.md")]
struct Library;
