//! Why a request is turned away: for people, for programs, and as a status of HTTP.

use std::time::Duration;

use serde::Serialize;

use super::state::StateError;
use super::{Decision, Request};
use crate::fence::Fence;

/// After how long one that is turned away for now may ask again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why a request is turned away.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the request cannot be understood: {0}")]
    Malformed(String),
    #[error("a request without a fence is not let in: send Fencing-Token and Fencing-Scope")]
    NoFence,
    #[error("the body is larger than {most} bytes")]
    TooLarge { most: usize },
    #[error("the body did not come within {} s", within.as_secs_f64())]
    TooSlow { within: Duration },
    #[error("fence {fence} of {scope} is stale: {seen} has been seen. The sender was replaced as leader")]
    Stale { scope: String, fence: Fence, seen: Fence },
    #[error(
        "{fence} is no fence that {scope} can have: at most {most} is expected after what has been seen. Its sender \
         got it elsewhere; if it is a true one, say so with `fencron guard reset {scope} --to {fence}`"
    )]
    TooFar { scope: String, fence: Fence, most: u64 },
    #[error("requests under an older fence of {scope} are still in flight")]
    OlderInFlight { scope: String },
    #[error("the first request with this key is still in flight")]
    InFlight,
    #[error("it is unknown whether the first request with this key was done: check whether it was")]
    InDoubt,
    #[error("this key was used for another payload, or by another caller")]
    OtherPayload,
    #[error("the guard has no room for another key or scope until some expire")]
    Full,
    #[error("the guard has too many requests in flight")]
    Busy,
    #[error("the guard's state does not answer, so nothing is let in: {0}")]
    StateUnavailable(StateError),
}

/// A refusal as RFC 9457 writes it.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Fence>,
}

impl Refusal {
    pub(super) fn of(decision: Decision, request: &Request) -> Refusal {
        let scope = request.scope.clone();
        match decision {
            Decision::Stale { seen } => Refusal::Stale { scope, fence: request.fence, seen },
            Decision::TooFar { most } => Refusal::TooFar { scope, fence: request.fence, most },
            Decision::OtherPayload => Refusal::OtherPayload,
            Decision::InFlight => Refusal::InFlight,
            Decision::InDoubt => Refusal::InDoubt,
            Decision::Full => Refusal::Full,
            Decision::Wait => Refusal::OlderInFlight { scope },
            Decision::Admit | Decision::Replay => unreachable!("what is let in or replayed is not refused"),
        }
    }

    /// The status of HTTP that says it.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Malformed(_) | Refusal::TooFar { .. } => 400,
            Refusal::TooSlow { .. } => 408,
            Refusal::OlderInFlight { .. } | Refusal::InFlight | Refusal::InDoubt => 409,
            Refusal::Stale { .. } => 412,
            Refusal::TooLarge { .. } => 413,
            Refusal::OtherPayload => 422,
            Refusal::NoFence => 428,
            Refusal::Full | Refusal::Busy | Refusal::StateUnavailable(_) => 503,
        }
    }

    /// Its name, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::NoFence => "no-fence",
            Refusal::TooLarge { .. } => "too-large",
            Refusal::TooSlow { .. } => "too-slow",
            Refusal::Stale { .. } => "stale-fence",
            Refusal::TooFar { .. } => "fence-too-far",
            Refusal::OlderInFlight { .. } => "older-in-flight",
            Refusal::InFlight => "in-flight",
            Refusal::InDoubt => "in-doubt",
            Refusal::OtherPayload => "other-payload",
            Refusal::Full => "full",
            Refusal::Busy => "busy",
            Refusal::StateUnavailable(_) => "state-unavailable",
        }
    }

    /// After how long it may be asked again, where that may help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::OlderInFlight { .. } | Refusal::InFlight | Refusal::Busy | Refusal::StateUnavailable(_) => {
                Some(ASK_AGAIN)
            }
            Refusal::Full => Some(ASK_AGAIN * 60),
            _ => None,
        }
    }

    /// The greatest fence that the scope has seen, where that is the reason.
    pub fn seen(&self) -> Option<Fence> {
        match self {
            Refusal::Stale { seen, .. } => Some(*seen),
            _ => None,
        }
    }

    pub(super) fn problem(&self) -> Problem {
        let title = match self {
            Refusal::Malformed(_) => "Malformed request",
            Refusal::NoFence => "Fence required",
            Refusal::TooLarge { .. } => "Body too large",
            Refusal::TooSlow { .. } => "Body too slow",
            Refusal::Stale { .. } => "Stale fence",
            Refusal::TooFar { .. } => "No fence of this scope",
            Refusal::OlderInFlight { .. } => "An older fence is still in flight",
            Refusal::InFlight => "In flight",
            Refusal::InDoubt => "In doubt",
            Refusal::OtherPayload => "Key used for another payload",
            Refusal::Full => "No room",
            Refusal::Busy => "Too many requests in flight",
            Refusal::StateUnavailable(_) => "State unavailable",
        };
        // The address of the state, and its server's message, are not for callers.
        let detail = match self {
            Refusal::StateUnavailable(_) => "the guard's state does not answer, so nothing is let in".to_owned(),
            _ => self.to_string(),
        };
        let r#type = format!("urn:fencron:guard:{}", self.name());
        Problem { r#type, title, status: self.status(), detail, seen: self.seen() }
    }
}
