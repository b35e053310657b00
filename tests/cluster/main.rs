//! Whole clusters: three `fencron` processes over one store, real etcd members or a SQLite file, which are killed,
//! frozen, cut off, restored and misled while jobs run.
//!
//! What happened is read from outside: from the store's own history, and from the lines that the jobs append to a
//! file. Every scenario ends with the judgement of the referee over that record, and with the proof that something
//! happened at all.

mod clocks;
mod crash;
mod disk;
mod effects;
mod files;
mod handover;
mod network;
mod node;
mod operator;
mod pause;
#[path = "../referee/mod.rs"]
#[expect(dead_code, reason = "what cannot be seen from outside is only told by the simulation")]
mod referee;
mod restore;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod witness;
