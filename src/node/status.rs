//! The status of a node while it runs.

use std::fmt;

use serde::{Serialize, Serializer};

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
    #[cfg_attr(feature = "cli", schemars(with = "Vec<String>"))]
    pub reasons: Vec<Reason>,
    pub config_digest: String,
    pub jobs: usize,
    pub running: usize,
}

/// One of the reasons. It reads, and serializes, as one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    what: String,
    /// What quotes the jobs file, or what its migrations have answered: only callers that may see the jobs read it.
    detail: Option<String>,
}

impl Reason {
    pub fn new(what: impl Into<String>) -> Reason {
        Reason { what: what.into(), detail: None }
    }

    /// With a text that is not for everyone.
    pub fn with_detail(what: impl Into<String>, detail: impl Into<String>) -> Reason {
        Reason { detail: Some(detail.into()), ..Reason::new(what) }
    }

    /// The same for everyone: where to look, in place of what is not for everyone.
    #[must_use]
    pub fn in_public(self) -> Reason {
        match self.detail {
            Some(_) => Reason::with_detail(self.what, "the log of the node and `fencron status` say why"),
            None => self,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Status {
    /// The same for everyone who reaches the node.
    #[must_use]
    pub fn in_public(self) -> Status {
        Status { reasons: self.reasons.into_iter().map(Reason::in_public).collect(), ..self }
    }
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema), schemars(rename = "NodeRole"))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has no session yet, or again.
    Starting,
    Follower,
    Leader,
    /// It starts nothing new, and leaves when what runs has ended.
    Draining,
}
