//! The HTTP listener of a node: whether it is well, what the cluster looks like, and what runs write.
//!
//! | path | answers |
//! | --- | --- |
//! | `/healthz` | 200 while the process answers |
//! | `/readyz` | the node's [`Status`]: 200 when it can take part, 503 with the reasons when not |
//! | `/api/v1/status` | the cluster, as `fencron status -o json` ([`view::Overview`]) |
//! | `/api/v1/runs/{run}/output` | what a run wrote so far; with `?follow=1`, also what it goes on to write |
//!
//! Everything is read-only. Whoever reaches the listener may read the output of jobs, so it listens on the machine
//! itself unless told otherwise.

mod output;
pub mod view;

use std::fmt::Display;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::execute::Outputs;
use crate::ledger::Ledger;
use crate::listen;
use crate::lock::Locks;
use crate::node::Status;
use crate::store::{Store, StoreError};
use crate::time::Clock;
use view::Overview;

/// How large the body of a request may be, in bytes. None is needed.
pub const BODY_MOST: usize = 16 * 1024;

/// What the listener answers from.
#[derive(Clone, Debug)]
pub struct Api<S> {
    pub status: watch::Receiver<Status>,
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub outputs: Outputs,
    pub clock: Clock,
}

/// Answers requests until `ending` is cancelled and those that are under way have been answered, within the bounds of
/// [`listen`].
pub async fn serve<S: Store>(listener: TcpListener, api: Api<S>, ending: CancellationToken) {
    let router = router(api);
    listen::serve(listener, |_| TowerToHyperService::new(router.clone()), ending).await;
}

fn router<S: Store>(api: Api<S>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<S>))
        .route("/api/v1/status", get(status::<S>))
        .route("/api/v1/runs/{run}/output", get(output::output::<S>))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, &"there is nothing here: see /readyz and /api/v1/status") })
        .layer(DefaultBodyLimit::max(BODY_MOST))
        .with_state(api)
}

async fn ready<S: Store>(State(api): State<Api<S>>) -> Response {
    let status = api.status.borrow().clone();
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(code, &status)
}

async fn status<S: Store>(State(api): State<Api<S>>) -> Response {
    match Overview::look(&api.ledger, &api.locks, api.clock.wall()).await {
        Ok(overview) => json(StatusCode::OK, &overview),
        Err(error) => store_error(&error),
    }
}

#[derive(Serialize)]
struct Message {
    message: String,
}

fn store_error(error: &StoreError) -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, error)
}

fn refuse(code: StatusCode, message: &impl Display) -> Response {
    json(code, &Message { message: message.to_string() })
}

fn json<T: Serialize>(code: StatusCode, body: &T) -> Response {
    let text = serde_json::to_string_pretty(body).expect("what is answered has only text keys") + "\n";
    (code, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
