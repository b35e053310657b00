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
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::execute::Outputs;
use crate::ledger::Ledger;
use crate::lock::Locks;
use crate::node::Status;
use crate::store::{Store, StoreError};
use crate::time::Clock;
use view::Overview;

/// How large the body of a request may be, in bytes. None is needed.
pub const BODY_MOST: usize = 16 * 1024;

/// How many connections there are at once.
pub const CONNECTIONS_MOST: usize = 256;

/// How long a client may take to send the head of a request, and to begin another one.
pub const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long after a connection that could not be accepted the next one is tried.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What the listener answers from.
#[derive(Clone, Debug)]
pub struct Api<S> {
    pub status: watch::Receiver<Status>,
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub outputs: Outputs,
    pub clock: Clock,
}

/// Answers requests until `ending` is cancelled and those that are under way have been answered. Beyond
/// [`CONNECTIONS_MOST`] connections the next waits for one to end.
///
/// # Errors
///
/// None at present: a connection that cannot be accepted is logged, and the next one tried.
pub async fn serve<S: Store>(listener: TcpListener, api: Api<S>, ending: CancellationToken) -> io::Result<()> {
    let router = router(api);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MOST));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = ending.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let answering = answer(stream, router.clone(), ending.clone());
                connections.spawn(async move {
                    answering.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Of the process's descriptors, none may be left: that passes.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// Answers what comes over one connection.
async fn answer(stream: TcpStream, router: Router, ending: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the listener broke");
    }
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
