//! The HTTP listener of a node: whether it is well, what the cluster looks like, and what runs write.
//!
//! | path | answers |
//! | --- | --- |
//! | `/healthz` | 200 while the node's loop turns, 503 when it has not for [`HANGS_AFTER`] |
//! | `/readyz` | the node's [`Status`]: 200 when it can take part, 503 with the reasons when not |
//! | `/api/v1/status` | the cluster, as `fencron status -o json` ([`view::Overview`]) |
//! | `/api/v1/runs/{run}/output` | what a run wrote so far; with `?follow=1`, also what it goes on to write |
//!
//! Everything is read-only. Whoever reaches the listener may read the output of jobs, so it listens on the machine
//! itself unless told otherwise.

mod output;
pub mod view;

use std::fmt::Display;
use std::time::Duration;

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
use crate::time::{Boot, Clock};
use view::Overview;

/// How large the body of a request may be, in bytes. None is needed.
pub const BODY_MOST: usize = 16 * 1024;

/// How long the node's loop may not have turned before the node counts as hanging. It turns once in a second, but for
/// the end, when the last verdicts are written.
pub const HANGS_AFTER: Duration = Duration::from_secs(30);

/// What the listener answers from.
#[derive(Clone, Debug)]
pub struct Api<S> {
    pub status: watch::Receiver<Status>,
    /// When the node's loop last turned.
    pub turned: watch::Receiver<Boot>,
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
        .route("/healthz", get(healthy::<S>))
        .route("/readyz", get(ready::<S>))
        .route("/api/v1/status", get(status::<S>))
        .route("/api/v1/runs/{run}/output", get(output::output::<S>))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, &"there is nothing here: see /readyz and /api/v1/status") })
        .layer(DefaultBodyLimit::max(BODY_MOST))
        .with_state(api)
}

async fn healthy<S: Store>(State(api): State<Api<S>>) -> Response {
    let still = api.clock.boot().since(*api.turned.borrow());
    if still < HANGS_AFTER {
        return "ok\n".into_response();
    }
    let message = format!("the node hangs: its loop has not turned for {} s", still.as_secs());
    refuse(StatusCode::SERVICE_UNAVAILABLE, &message)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::{Sources, parse};
    use crate::lock::{Namespace, Seen};
    use crate::store::memory::MemoryStore;
    use crate::time::Wall;

    #[tokio::test]
    async fn a_node_whose_loop_does_not_turn_is_not_healthy() {
        let millis = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&millis);
        let boot = move || Boot::from_duration(Duration::from_millis(read.load(Ordering::Relaxed)));
        let clock = Clock::from_fn(move || (boot(), Wall::EPOCH));
        let (store, namespace) = (MemoryStore::new(clock.clone()), Namespace::new("test").unwrap());
        let config = parse("version: 1\njobs: {}\n", &Sources::none()).unwrap();
        let (turned, turns) = watch::channel(clock.boot());
        let router = router(Api {
            status: watch::channel(Status::starting("a", &config)).1,
            turned: turns,
            ledger: Ledger::new(store.clone(), namespace.clone()),
            locks: Locks::new(store, clock.clone(), namespace, Seen::default()),
            outputs: Outputs::new(clock.clone()),
            clock: clock.clone(),
        });
        let ask = async || {
            let request = Request::get("/healthz").body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status()
        };
        millis.store(29_999, Ordering::Relaxed);
        assert_eq!(ask().await, StatusCode::OK);
        millis.store(30_000, Ordering::Relaxed);
        assert_eq!(ask().await, StatusCode::SERVICE_UNAVAILABLE);
        turned.send_replace(clock.boot());
        assert_eq!(ask().await, StatusCode::OK);
    }
}
