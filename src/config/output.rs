//! `output`: where the whole outputs of a job's runs are kept, and how much of them.

use std::sync::Arc;
use std::time::Duration;

use super::keys::{KIB, SECOND, Shape, TIB, Tables, count, duration, key};
use super::tables::MAX_AGE;
use crate::job::{KeepOutputs, Text, WholeOutput};

/// The largest file of one attempt.
pub const MAX_OUTPUT_BYTES: u64 = TIB;
/// The most runs of one job whose outputs are kept.
pub const MAX_OUTPUTS_KEPT: u32 = 10_000;
/// The most bytes that the outputs of one job may have together.
pub const MAX_BYTES_KEPT: u64 = 64 * TIB;

/// The least of both: less than this the history has anyway.
const LEAST: u64 = 16 * KIB;

/// The directory that is none.
const NONE: &str = "none";

#[rustfmt::skip]
pub static OUTPUT: Tables = &[&[
    key("dir", Shape::Directory,
        "The directory that the files are below, relative to the working directory of the node; `none`: none are made.")
        .also("directory path folder").to(|d| &mut d.output.dir),
    key("max_bytes", Shape::Bytes { least: LEAST, most: MAX_OUTPUT_BYTES },
        "How large the file of one attempt becomes; what comes beyond is not in it.")
        .default("1GiB").also("max_size limit most").to(|d| &mut d.output.max_bytes),
    key("keep", Shape::Map(KEEP), "Which files of the job are kept; the newest is in any case.")
        .also("retention history").in_parts(),
]];

#[rustfmt::skip]
static KEEP: Tables = &[&[
    key("runs", count(1, MAX_OUTPUTS_KEPT), "Those of so many runs.")
        .default("100").also("count number keep").to(|d| &mut d.output.runs),
    key("for", duration(SECOND, MAX_AGE), "Those that were written to within this time.")
        .default("30d").also("age max_age within").to(|d| &mut d.output.age),
    key("bytes", Shape::Bytes { least: LEAST, most: MAX_BYTES_KEPT }, "So many bytes of them in all.")
        .default("10GiB").also("size max_bytes total").to(|d| &mut d.output.bytes),
]];

/// What a job says of its outputs.
#[derive(Clone)]
pub struct Wanted {
    dir: Option<Text>,
    max_bytes: u64,
    runs: u32,
    age: Duration,
    bytes: u64,
}

impl Wanted {
    pub fn blank() -> Wanted {
        Wanted { dir: None, max_bytes: 0, runs: 1, age: Duration::ZERO, bytes: 0 }
    }

    /// What is kept, if anything. Jobs that say the same share it with `before`.
    pub fn settle(self, before: &mut Option<Arc<WholeOutput>>) -> Option<Arc<WholeOutput>> {
        let dir = self.dir.filter(|dir| dir.expose() != NONE)?;
        let keep = KeepOutputs { runs: self.runs, age: self.age, bytes: self.bytes };
        let whole = WholeOutput { dir, max_bytes: self.max_bytes, keep };
        let same = before.take().filter(|before| **before == whole);
        *before = Some(same.unwrap_or_else(|| Arc::new(whole)));
        before.clone()
    }
}
