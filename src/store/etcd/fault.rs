//! What an error says about the request: whether it was applied, and which member to ask next.
//!
//! The client hands everything over as a gRPC status. What is certain is listed here, by the texts of etcd's
//! `rpctypes/error.go` (the codes are shared by errors that mean different things); a request with any other error may
//! have been applied. The reasons, with where etcd's sources show them, are in `docs/decisions/0005-etcd.md`.

use std::error::Error;

use etcd_client::Error as ClientError;

use super::defects;
use crate::store::{FULL, LeaseId, Revision, StoreError};

/// What is known of a request that failed, and so what comes next.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// It never left this machine: the connection was not made.
    NotSent(String),
    /// The member said that it cannot serve now, and did nothing.
    TurnedAway(String),
    /// No answer that settles it: it may have been applied, or may yet be.
    Lost(String),
    /// The member does not accept the token, and did nothing.
    Token(String),
    /// The answer. Another member would give the same.
    Final(StoreError),
}

/// What the errors of a request are about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Subject {
    /// The lease that the request names.
    pub lease: Option<LeaseId>,
    /// The revision it asks for.
    pub at: Option<Revision>,
}

/// What the member said, where it did: a status's text, or the reason of a cancelled watch.
fn said(error: &ClientError) -> &str {
    match error {
        ClientError::GRpcStatus(status) => status.message(),
        ClientError::WatchError(reason) | ClientError::LeaseKeepAliveError(reason) => reason,
        _ => "",
    }
}

/// Sorts an error of a request about `subject` to `store`.
pub(super) fn sort(error: &ClientError, subject: Subject, store: &str) -> Fault {
    let denied = |why: &str| Fault::Final(StoreError::Denied { store: store.to_owned(), why: why.to_owned() });
    let refused = |why: &str| Fault::Final(StoreError::Refused(why.to_owned()));
    let text = said(error);
    // A watch that is refused has its reason wrapped: "rpc error: code = … desc = etcdserver: …".
    match text.rsplit_once("desc = ").map_or(text, |(_, text)| text) {
        "etcdserver: no leader"
        | "etcdserver: too many requests"
        | "etcdserver: rpc not supported for learner"
        | "etcdserver: not capable" => Fault::TurnedAway(text.to_owned()),
        "etcdserver: invalid auth token"
        | "etcdserver: revision of auth store is old"
        | "etcdserver: user name is empty" => Fault::Token(text.to_owned()),
        // A watch with an expired token gets this error; a new token shows which it was.
        "etcdserver: permission denied" if matches!(error, ClientError::WatchError(_)) => Fault::Token(text.to_owned()),
        "etcdserver: permission denied" => denied(
            "the user has no right to these keys (a namespace's are below /fencron/v1/NAMESPACE/): is --namespace right?",
        ),
        "etcdserver: authentication failed, invalid user ID or password" => denied("wrong user or password"),
        "etcdserver: requested lease not found" | "lease not found" => match subject.lease {
            Some(lease) => Fault::Final(StoreError::LeaseEnded(lease)),
            None => refused("it names a lease that has ended"),
        },
        "etcdserver: mvcc: required revision has been compacted" => {
            Fault::Final(StoreError::Compacted { asked: subject.at.unwrap_or_default(), kept_from: Revision(0) })
        }
        "etcdserver: mvcc: required revision is a future revision" => refused(&format!(
            "it asks for revision {}, which the store has not reached: was the store restored from a backup?",
            subject.at.unwrap_or_default()
        )),
        "etcdserver: too many operations in txn request" => {
            refused("too many operations in one transaction: split it, or start etcd with a larger --max-txn-ops")
        }
        "etcdserver: duplicate key given in txn request" => refused("the transaction changes one key twice"),
        "etcdserver: key is not provided" => refused("a key is empty"),
        "etcdserver: request is too large" => refused(TOO_LARGE),
        "etcdserver: too large lease TTL" => refused("the lease's TTL is too long for etcd"),
        "etcdserver: mvcc: database space exceeded" => {
            Fault::Final(StoreError::Unknown { store: store.to_owned(), why: FULL.to_owned() })
        }
        "etcdserver: corrupt cluster" => Fault::Final(StoreError::Unusable(format!(
            "{store}: etcd has found its members' data to differ (alarm CORRUPT): repair the cluster before it is used"
        ))),
        text if text.starts_with("grpc: received message larger than max") => refused(TOO_LARGE),
        _ => unsaid(error, store),
    }
}

/// Sorts an error that is not one of etcd's own, or not one that settles anything.
fn unsaid(error: &ClientError, store: &str) -> Fault {
    match error {
        ClientError::GRpcStatus(status) => {
            let is_unimplemented = status.code() == tonic::Code::Unimplemented;
            if let Some(sign) = defects::error_sign(status.message(), is_unimplemented) {
                Fault::Final(defects::imitation(store, &sign))
            } else if status.code() == tonic::Code::Unauthenticated {
                Fault::Token(status.message().to_owned())
            } else if chain(status).any(|cause| cause.is::<tonic::ConnectError>()) {
                Fault::NotSent(reason(status))
            } else {
                Fault::Lost(reason(status))
            }
        }
        ClientError::InvalidArgs(why) => Fault::Final(StoreError::Refused(why.clone())),
        ClientError::InvalidUri(why) => Fault::Final(StoreError::Refused(why.to_string())),
        // The client makes these before it connects: certificates that cannot be read as such.
        ClientError::TransportError(why) => Fault::Final(StoreError::Refused(format!("TLS: {}", reason(why)))),
        other => Fault::Lost(other.to_string()),
    }
}

const TOO_LARGE: &str = "the request is too large: split it, or start etcd with a larger --max-request-bytes";

/// The error and what caused it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// The error's causes in one line, the ones that repeat what has been said left out.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for cause in chain(error) {
        // A status writes out its code, its metadata and all: only its message is useful.
        let text = match cause.downcast_ref::<tonic::Status>() {
            Some(status) => status.message().to_owned(),
            None => cause.to_string(),
        };
        if !line.contains(&text) {
            line = if line.is_empty() { text } else { format!("{line}: {text}") };
        }
    }
    line
}

/// Whether the server answered that it has no users, so that no login is needed.
pub(super) fn says_authentication_is_off(error: &ClientError) -> bool {
    said(error) == "etcdserver: authentication is not enabled"
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    fn of(code: Code, message: &str) -> Fault {
        sort(&ClientError::GRpcStatus(Status::new(code, message)), Subject::default(), "etcd")
    }

    #[test]
    fn what_the_server_refuses_before_it_proposes_was_not_applied() {
        for text in ["etcdserver: no leader", "etcdserver: too many requests"] {
            assert!(matches!(of(Code::Unavailable, text), Fault::TurnedAway(_)), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_to_be_harmless_may_have_been_applied() {
        for (code, text) in [
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "anything"),
            (Code::Unknown, "transport error"),
            (Code::Cancelled, "operation was canceled"),
            (Code::Internal, "h2 protocol error"),
            (Code::OutOfRange, "Error, decoded message length too large"),
            (Code::ResourceExhausted, "h2 protocol error: too_many_pings"),
        ] {
            assert!(matches!(of(code, text), Fault::Lost(_)), "{text}");
        }
    }

    #[test]
    fn a_full_database_may_have_applied_what_it_complains_of() {
        let fault = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(fault, Fault::Final(error) if error.is_unknown()));
    }

    #[test]
    fn a_connection_that_was_not_made_carried_nothing() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = tonic::ConnectError(refused.into());
        let fault = sort(&ClientError::GRpcStatus(Status::from_error(error.into())), Subject::default(), "etcd");
        assert!(matches!(&fault, Fault::NotSent(why) if why == "connection refused"), "{fault:?}");
    }

    #[test]
    fn a_connection_that_broke_may_have_carried_it() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let fault = sort(&ClientError::GRpcStatus(Status::from_error(reset.into())), Subject::default(), "etcd");
        assert!(matches!(fault, Fault::Lost(_)));
    }

    #[test]
    fn a_token_that_is_not_accepted_is_told_from_a_right_that_is_lacking() {
        let watch = |reason: &str| sort(&ClientError::WatchError(reason.into()), Subject::default(), "etcd");
        assert!(matches!(of(Code::Unauthenticated, "etcdserver: invalid auth token"), Fault::Token(_)));
        assert!(matches!(of(Code::InvalidArgument, "etcdserver: revision of auth store is old"), Fault::Token(_)));
        assert!(matches!(
            of(Code::PermissionDenied, "etcdserver: permission denied"),
            Fault::Final(StoreError::Denied { .. })
        ));
        let wrapped = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert!(matches!(watch(wrapped), Fault::Token(_)));
    }

    #[test]
    fn a_limit_is_refused_with_advice() {
        for text in ["etcdserver: too many operations in txn request", "etcdserver: request is too large"] {
            let fault = of(Code::InvalidArgument, text);
            assert!(matches!(&fault, Fault::Final(StoreError::Refused(why)) if why.contains("--max-")), "{fault:?}");
        }
    }
}
