//! The status of a node while it runs.

use serde::Serialize;

use crate::fence::Fence;

/// A node's state, as `/readyz` answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Status {
    pub node: String,
    pub role: Role,
    /// The fence of its term, where it leads.
    pub fence: Option<Fence>,
    /// Whether it can take part: it has a session that may be trusted and knows the ledger.
    pub ready: bool,
    /// Why it is not ready, and what else keeps it from leading, or from taking a new jobs file.
    pub reasons: Vec<String>,
    pub config_digest: String,
    pub jobs: usize,
    pub running: usize,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has no session yet, or again.
    Starting,
    Follower,
    Leader,
    /// It starts nothing new, and leaves when what runs has ended.
    Draining,
}
