//! Requests, made for real to servers that the tests start.
#![cfg(target_os = "linux")]

mod support;

#[path = "http/attempt.rs"]
mod attempt;
#[path = "http/ending.rs"]
mod ending;
#[path = "http/node.rs"]
mod node;
#[path = "http/secure.rs"]
mod secure;
#[path = "http/sending.rs"]
mod sending;
#[path = "http/server.rs"]
mod server;

/// How long anything is waited for: far more than it takes, so that a busy machine does not fail a test.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);
