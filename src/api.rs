//! The HTTP listener of a node: whether it is well, what the cluster looks like, and what runs write.
//!
//! | path | answers |
//! | --- | --- |
//! | `/healthz` | 200 while the node's loop turns, 503 when it has not for [`HANGS_AFTER`] |
//! | `/readyz` | the node's [`Status`]: 200 when it can take part, 503 with the reasons when not |
//! | `/api/v1/status` | the cluster, as `fencron status -o json` ([`view::Overview`]); 503 with the node's [`Status`] where the store does not answer in [`STORE_WITHIN`] |
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

use crate::board::Shared;
use crate::execute::Outputs;
use crate::ledger::Ledger;
use crate::listen::{self, Room};
use crate::lock::Locks;
use crate::node::Status;
use crate::store::{Store, StoreError};
use crate::time::{Boot, Clock, written};
use view::Overview;

/// How large the body of a request may be, in bytes. None is needed.
pub const BODY_MOST: usize = 16 * 1024;

/// How long the node's loop may not have turned before the node counts as hanging. It turns once in a second, but for
/// the end, when the last verdicts are written.
pub const HANGS_AFTER: Duration = Duration::from_secs(30);

/// How long the store may take to say what the cluster looks like. People, and what watches over nodes, ask most of all
/// when the store is away, and cannot wait for as long as a store is tried.
pub const STORE_WITHIN: Duration = Duration::from_secs(1);

/// What the listener answers from.
#[derive(Clone, Debug)]
pub struct Api<S> {
    pub status: watch::Receiver<Status>,
    /// When the node's loop last turned.
    pub turned: watch::Receiver<Boot>,
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub outputs: Outputs,
    pub board: Shared,
    pub clock: Clock,
}

/// Answers requests until `ending` is cancelled and those that are under way have been answered, within the bounds of
/// [`listen`].
pub async fn serve<S: Store>(listener: TcpListener, api: Api<S>, ending: CancellationToken) {
    let (router, spare) = (router(api.clone()), spare(api));
    let router = |room| TowerToHyperService::new(if room == Room::Enough { router.clone() } else { spare.clone() });
    listen::serve(listener, |_, room| router(room), ending).await;
}

/// What is answered where there is no room for more.
fn spare<S: Store>(api: Api<S>) -> Router {
    let why = "there are too many connections: only /healthz and /readyz are answered now";
    Router::new()
        .route("/healthz", get(healthy::<S>))
        .route("/readyz", get(ready::<S>))
        .fallback(async move || refuse(StatusCode::SERVICE_UNAVAILABLE, &why))
        .layer(DefaultBodyLimit::max(BODY_MOST))
        .with_state(api)
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

/// What the store says, or what this node knows where it says nothing.
async fn status<S: Store>(State(api): State<Api<S>>) -> Response {
    let looked = Overview::look(&api.ledger, &api.locks, api.clock.wall());
    let why = match tokio::time::timeout(STORE_WITHIN, looked).await {
        Ok(Ok(overview)) => return json(StatusCode::OK, &overview),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the store has not answered within {}", written(STORE_WITHIN)),
    };
    let node = api.status.borrow().clone();
    json(StatusCode::SERVICE_UNAVAILABLE, &Alone { message: why, node })
}

/// The answer of a node whose store says nothing.
#[derive(Serialize)]
struct Alone {
    message: String,
    /// As `/readyz` has it.
    node: Status,
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
    use crate::store::{About, Committed, Keys, LeaseId, Page, Range, Revision, Txn, Watch};
    use crate::time::Wall;

    /// Nothing is ever heard of it.
    #[derive(Clone, Debug)]
    struct Silent;

    impl Store for Silent {
        async fn grant(&self, _: Duration) -> Result<(LeaseId, Duration), StoreError> {
            std::future::pending().await
        }

        async fn keep_alive(&self, _: LeaseId) -> Result<Duration, StoreError> {
            std::future::pending().await
        }

        async fn revoke(&self, _: LeaseId) -> Result<(), StoreError> {
            std::future::pending().await
        }

        async fn commit(&self, _: Txn) -> Result<Committed, StoreError> {
            std::future::pending().await
        }

        async fn range(&self, _: Range) -> Result<Page, StoreError> {
            std::future::pending().await
        }

        async fn watch(&self, _: Keys, _: Revision) -> Result<Watch, StoreError> {
            std::future::pending().await
        }

        async fn about(&self) -> Result<About, StoreError> {
            std::future::pending().await
        }

        async fn apart(&self) -> Result<Silent, StoreError> {
            Ok(Silent)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_nothing_does_not_hold_up_what_the_node_knows() {
        let clock = Clock::system();
        let namespace = Namespace::new("test").unwrap();
        let config = parse("version: 1\njobs: {}\n", &Sources::none()).unwrap();
        let router = router(Api {
            status: watch::channel(Status::starting("a", &config)).1,
            turned: watch::channel(clock.boot()).1,
            ledger: Ledger::new(Silent, namespace.clone()),
            locks: Locks::new(Silent, clock.clone(), namespace, Seen::default()),
            outputs: Outputs::new(clock.clone()),
            board: Shared::default(),
            clock,
        });
        let asked = tokio::time::Instant::now();
        let answer = router.oneshot(Request::get("/api/v1/status").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!((answer.status(), asked.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, STORE_WITHIN));
        let body = axum::body::to_bytes(answer.into_body(), BODY_MOST).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&body["message"], &body["node"]["node"]),
            (&"the store has not answered within 1s".into(), &"a".into())
        );
    }

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
            board: Shared::default(),
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
