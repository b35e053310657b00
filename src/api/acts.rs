//! What people did.

use schemars::JsonSchema;
use serde::Serialize;

use crate::job::{JobName, RunId};
use crate::ledger::{Act, Asked, AuditRow, Deed, Via};
use crate::time::Wall;

/// What a person did.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AuditView {
    pub at: Wall,
    pub act: Act,
    /// What it was done to, for people: a job, a run, a node, a lock, a migration, or `all jobs`.
    pub on: String,
    pub job: Option<JobName>,
    pub run_id: Option<RunId>,
    /// The backfill that it is about.
    pub backfill: Option<String>,
    /// The rest, for people; empty where there is nothing to say.
    pub detail: String,
    /// The caller, as the rules of the node name it; of a command, its user and host.
    pub by: String,
    /// The role of a caller over HTTP.
    pub role: Option<String>,
    pub via: Via,
    /// From where a request over HTTP came.
    pub address: Option<String>,
    /// Why, as the person wrote it.
    pub reason: String,
}

impl From<AuditRow> for AuditView {
    fn from(AuditRow { asked, deed }: AuditRow) -> AuditView {
        let Asked { by, at, role, via, address, reason } = asked;
        let Deed { act, on, job, run, backfill, detail } = deed;
        AuditView { at, act, on, job, run_id: run, backfill, detail, by, role, via, address, reason }
    }
}
