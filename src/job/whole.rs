//! Where the whole outputs of a job's runs are kept, as plain data.

use std::time::Duration;

use super::Text;

/// Files with all that the attempts of a job write, on the node that makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeOutput {
    /// The directory that they are below.
    pub dir: Text,
    /// How large one of them becomes, in bytes.
    pub max_bytes: u64,
    pub keep: KeepOutputs,
}

/// Which of the files of a job are kept: those within all three bounds, and the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepOutputs {
    /// Those of so many runs.
    pub runs: u32,
    /// Those that were written to within this time.
    pub age: Duration,
    /// So many bytes in all.
    pub bytes: u64,
}

impl KeepOutputs {
    /// For a job that is not configured any more, or keeps its outputs elsewhere by now.
    pub const FORGOTTEN: KeepOutputs =
        KeepOutputs { runs: 100, age: Duration::from_secs(30 * 24 * 3600), bytes: 10 << 30 };
}
