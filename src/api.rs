//! The HTTP listener of a node: whether it is well, what the cluster looks like, and what runs write.
//!
//! Everything is read-only. Whoever reaches the listener may read the output of jobs: it listens on the machine itself
//! unless told otherwise.

use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::execute::Outputs;
use crate::ledger::Ledger;
use crate::lock::Locks;
use crate::node::Status;
use crate::store::Store;
use crate::time::Clock;

/// What the listener answers from.
#[derive(Clone, Debug)]
pub struct Api<S> {
    pub status: watch::Receiver<Status>,
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub outputs: Outputs,
}

/// Answers requests until `ending` is cancelled and those that are under way have been answered.
///
/// # Errors
///
/// Those of the listener.
pub async fn serve<S: Store>(
    listener: TcpListener,
    api: Api<S>,
    clock: Clock,
    ending: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(api, clock)).with_graceful_shutdown(ending.cancelled_owned()).await
}

fn router<S: Store>(api: Api<S>, _clock: Clock) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready::<S>)).with_state(api)
}

/// Whether the node can take part; if not, why.
async fn ready<S: Store>(State(api): State<Api<S>>) -> Response {
    let status = api.status.borrow().clone();
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(code, &status)
}

fn json<T: Serialize>(code: StatusCode, body: &T) -> Response {
    let text = serde_json::to_string_pretty(body).expect("what is answered has only text keys") + "\n";
    (code, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
