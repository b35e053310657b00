//! Statements, run for real in PostgreSQL, MariaDB and SQLite.
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod bodies;
mod guard;
mod lost;
mod scene;
mod transaction;
