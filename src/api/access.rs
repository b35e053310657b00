//! Who may look at what.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a caller may do. Each role may do all that the roles before it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read the metrics.
    Metrics,
    /// Read everything but what runs write.
    Viewer,
    /// Read also what runs write: it may hold secrets.
    Reader,
    /// Trigger, pause, cancel and resolve.
    Operator,
    /// Step down, unlock, and repair.
    Admin,
}

/// What a route takes for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: every caller gets the answer, whatever the settings and however full the listener is.
    Health,
    /// That the caller may look at this node at all.
    Nothing,
    Role(Role),
}

/// The address of a request's other end: an extension of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Who sent a request, and what the sender may do: an extension of each request that is passed on to a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As the list of tokens names it; `None`: a caller without a name.
    pub name: Option<String>,
    pub role: Role,
}

impl Caller {
    /// Whether the job is there for this caller: answers pass over the others as if they did not exist.
    pub fn sees(&self, _: &crate::job::JobName) -> bool {
        true
    }
}
