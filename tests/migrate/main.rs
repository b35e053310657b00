//! Migrations and `fencron once`, as deploys meet them: fifty processes at once, of which the one that is at it is killed
//! at every step in turn. Real processes, over a SQLite file and over etcd.

mod commands;
mod directories;
mod http;
mod node;
mod once;
mod order;
mod scene;
mod snare;
mod sql;
#[path = "../support/mod.rs"]
mod support;
mod taken;
