//! `fencron lock`, `semaphore`, `elect`, `locks` and `unlock` as people use them: real processes, over a SQLite file and
//! over etcd.

mod endings;
mod holding;
mod inside;
mod operators;
mod outages;
mod restored;
mod scene;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod threads;
