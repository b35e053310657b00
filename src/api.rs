//! The HTTP listener of a node: health, the state of the cluster, and the output of runs.
//!
//! One table, `routes`, has everything that is answered, with what a caller needs for it. What acts is in `acts`.

pub mod access;
pub mod acts;
mod cluster;
pub(crate) mod fires;
mod follow;
mod glance;
pub(crate) mod held;
pub(crate) mod jobs;
mod listing;
mod login;
mod looker;
pub mod metrics;
mod openapi;
mod output;
pub mod problem;
pub(crate) mod relay;
mod routes;
mod rows;
mod runs;
mod schema;
mod screens;
mod stats;
pub mod streams;
pub mod view;
mod whole;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRef, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use maud::html;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

use crate::board::Shared;
use crate::execute::Outputs;
use crate::ledger::Ledger;
use crate::listen::{self, Remote, Room, Tls};
use crate::lock::Locks;
use crate::node::Status;
use crate::page::{Looker, Noticed, Page, plain};
use crate::store::{Store, StoreError};
use crate::time::{Boot, Clock, written};
use access::{Access, Need, Peer, Role};
pub use glance::Glance;
use metrics::Counted;
use problem::{Kind, Problem};
use relay::Relay;
use routes::{Identified, Named};
use streams::Streams;

/// How large the body of a request may be, in bytes.
pub const BODY_MOST: usize = 1024 * 1024;

/// The media type of a stream of events.
const EVENTS: &str = "text/event-stream";

/// How long the node's loop may not have turned before the node counts as hanging. It turns once in a second, but for
/// the end, when the last verdicts are written.
pub const HANGS_AFTER: Duration = Duration::from_secs(30);

/// How long the store may take to say what the cluster looks like. People, and what watches over nodes, ask most of all
/// when the store is away, and cannot wait for as long as a store is tried.
pub const STORE_WITHIN: Duration = Duration::from_secs(1);

/// When a client may come again for which there is no connection to spare.
const ROOM_AGAIN: Duration = Duration::from_secs(5);

/// What the listener answers from.
#[derive(Clone, Debug)]
pub struct Api<S> {
    pub status: watch::Receiver<Status>,
    /// The URL of the store, without its user and password.
    pub store: Arc<str>,
    /// When the node's loop last turned.
    pub turned: watch::Receiver<Boot>,
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub outputs: Outputs,
    pub board: Shared,
    pub counted: Counted,
    /// What was last seen of the store.
    pub glance: Glance,
    pub clock: Clock,
    /// Who may look at what.
    pub access: Access,
    /// What asks other nodes.
    pub relay: Relay,
    pub streams: Streams,
}

impl<S: Store> FromRef<Api<S>> for Page<S> {
    fn from_ref(api: &Api<S>) -> Page<S> {
        Page {
            board: api.board.clone(),
            ledger: api.ledger.clone(),
            locks: api.locks.clone(),
            outputs: api.outputs.clone(),
            status: api.status.clone(),
            store: Arc::clone(&api.store),
            clock: api.clock.clone(),
            noticed: api.glance.seen().last.map(|(seen, _)| Noticed {
                in_doubt: seen.unknown.count,
                defects: seen.store.warnings,
                unsent: seen.alerts.iter().flat_map(view::ChannelView::defects).collect(),
            }),
        }
    }
}

/// Answers requests until `ending` is cancelled and those that are under way have been answered, within the bounds of
/// [`listen`].
pub async fn serve<S: Store>(listener: TcpListener, tls: Option<Tls>, api: Api<S>, ending: CancellationToken) {
    let looking = AbortOnDropHandle::new(tokio::spawn(glance::look(api.clone())));
    let (whole, spare) = (router(api.clone()), spare(api));
    let service = move |remote: Remote, room: Room| {
        let peer = Peer::from(remote);
        let router = if room == Room::Enough { whole.clone() } else { spare.clone() };
        TowerToHyperService::new(tower::service_fn(move |mut request: axum::http::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router.clone().oneshot(request)
        }))
    };
    listen::serve(listener, tls, service, ending).await;
    drop(looking);
}

/// What the store answers in time.
async fn in_time<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
    match tokio::time::timeout(STORE_WITHIN, asked).await {
        Ok(answer) => answer.map_err(Problem::from),
        Err(_) => Err(Problem::store_away(format_args!("the store has not answered within {}", written(STORE_WITHIN)))),
    }
}

impl<S: Store> Api<S> {
    /// What answers the requests of one peer.
    pub fn router_for(&self, peer: SocketAddr) -> Router {
        router(self.clone()).layer(Extension(Peer::from(peer)))
    }
}

/// What is answered where there is no room for more.
fn spare<S: Store>(api: Api<S>) -> Router {
    let why = "there are too many connections: only /healthz and /readyz are answered now";
    finished(
        routes::router(|row| row.need == Need::Health)
            .fallback(async move || Problem::new(Kind::TooManyConnections, why).again_after(ROOM_AGAIN)),
        api,
    )
}

fn router<S: Store>(api: Api<S>) -> Router {
    let why = "no page and no part of the API has this address";
    finished(routes::router(|_| true).fallback(async move || Problem::new(Kind::NoSuchPage, why)), api)
}

fn finished<S: Store>(router: Router<Api<S>>, api: Api<S>) -> Router {
    let front = from_fn_with_state(api.clone(), front::<S>);
    router.layer(DefaultBodyLimit::max(BODY_MOST)).layer(front).with_state(api)
}

/// What a browser may do with an answer: nothing but show what came from this node.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What every request passes before it is routed, and every answer at the end.
async fn front<S: Store>(State(api): State<Api<S>>, mut request: Request, next: Next) -> Response {
    let wants_page = routes::accepted(request.headers(), &[problem::MEDIA_TYPE, routes::HTML]) == Some(routes::HTML);
    let looker = wants_page.then(|| looker::without_caller(request.headers(), request.uri()));
    let mut answer = match identify(&api, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    api.counted.answered(&answer);
    if let Some(looker) = looker
        && let Some(problem) = answer.extensions().get::<Problem>()
    {
        let page = match answer.extensions().get::<login::Again>() {
            Some(again) => login::markup(&looker, &again.next, Some(&problem.detail)),
            None => problem.page(&looker),
        };
        let page = Html(page.into_string());
        let headers = answer.headers().clone();
        answer = (answer.status(), headers, page).into_response();
        answer.headers_mut().remove(header::CONTENT_LENGTH);
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    // A handler whose answer may be kept says so itself.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// Finds out who sends the request, for the check of its route. Health is answered to everyone.
async fn identify<S: Store>(api: &Api<S>, request: &mut Request) -> Result<(), Problem> {
    if routes::is_health::<S>(request.uri().path()) {
        return Ok(());
    }
    // A connection always has another end; a request without one comes from no listener.
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return Err(Problem::new(Kind::NotProtected, "the other end of the connection is not known"));
    };
    let uri = request.uri().clone();
    let admitted = api.access.admit((&uri, request.headers_mut()), &peer, &api.ledger, &api.clock).await?;
    request.extensions_mut().insert(Identified(admitted));
    Ok(())
}

async fn healthy<S: Store>(State(api): State<Api<S>>) -> Response {
    let still = api.clock.boot().since(*api.turned.borrow());
    if still < HANGS_AFTER {
        return "ok\n".into_response();
    }
    let detail = format!("the node hangs: its loop has not turned for {} s", still.as_secs());
    Problem::new(Kind::Hangs, detail).into_response()
}

/// Readiness is answered to everyone, and what quotes the jobs file to callers that may see all jobs.
async fn ready<S: Store>(State(api): State<Api<S>>, request: Request) -> Response {
    let (uri, headers) = (request.uri(), request.headers().clone());
    let peer = request.extensions().get::<Peer>();
    let caller = peer
        .and_then(|peer| api.access.known_at_once((uri, headers), peer, (api.ledger.namespace(), api.clock.wall())));
    let sees_all = caller.is_some_and(|caller| caller.role >= Role::Viewer && caller.jobs.is_none());
    let status = api.status.borrow().clone();
    let status = if sees_all { status } else { status.in_public() };
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(code, &status)
}

async fn problem_page(looker: Looker, Named(name): Named) -> Result<Html<String>, Problem> {
    let Some(kind) = Kind::named(&name) else {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        return Err(Problem::new(
            Kind::NoSuchPage,
            format!("there is no such problem: there are {}", names.join(", ")),
        ));
    };
    let body = html! {
        h1 { (kind.title()) }
        p.muted { "Status " (kind.status().as_u16()) ", type " code { (kind.name()) } }
        p { (kind.about()) }
    };
    Ok(Html(plain(&looker, kind.title(), &body).into_string()))
}

fn json<T: Serialize>(code: StatusCode, body: &T) -> Response {
    let text = serde_json::to_string_pretty(body).expect("what is answered has only text keys") + "\n";
    (code, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
mod reads;

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::config::{Sources, parse};
    use crate::lock::{Namespace, Seen};
    use crate::store::memory::MemoryStore;
    use crate::store::{About, Committed, Keys, LeaseId, Page, Range, Revision, StoreError, Txn, Watch};
    use crate::time::Wall;
    use axum::body::Body;
    use axum::http::Request;

    pub(super) const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000);

    /// A store that never answers.
    #[derive(Clone, Debug)]
    pub(super) struct Silent;

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

    /// The API of a node that has just begun, over a store in memory.
    pub(crate) fn api(clock: &Clock) -> Api<MemoryStore> {
        api_over(MemoryStore::new(clock.clone()), clock)
    }

    /// The API of a node that has just begun.
    pub(super) fn api_over<S: Store>(store: S, clock: &Clock) -> Api<S> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let namespace = Namespace::new("test").unwrap();
        let config = parse("version: 1\njobs: {}\n", &Sources::none()).unwrap();
        Api {
            status: watch::channel(Status::starting("a", &config)).1,
            store: "memory:".into(),
            turned: watch::channel(clock.boot()).1,
            ledger: Ledger::new(store.clone(), namespace.clone()),
            locks: Locks::new(store, clock.clone(), namespace, Seen::default()),
            outputs: Outputs::new(clock.clone()),
            board: Shared::default(),
            counted: Counted::default(),
            glance: Glance::default(),
            clock: clock.clone(),
            access: Access::default(),
            relay: Relay::new(watch::channel(reqwest::Client::new()).1),
            streams: Streams::default(),
        }
    }

    #[tokio::test]
    async fn what_is_asked_for_wrongly_is_refused_with_a_problem_that_says_what_is_right() {
        let router = api(&Clock::system()).router_for(LOCAL);
        let ask = async |request: axum::http::request::Builder| {
            let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let (parts, body) = answer.into_parts();
            let body = axum::body::to_bytes(body, BODY_MOST).await.unwrap();
            assert_eq!(parts.headers["x-content-type-options"], "nosniff");
            assert!(parts.headers.contains_key("content-security-policy"));
            assert_eq!(parts.headers["cache-control"], "no-store");
            (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
        };
        let (code, headers, body) = ask(Request::get("/api/v1/status?folow=1")).await;
        assert_eq!((code, &headers["content-type"]), (400, &HeaderValue::from_static(problem::MEDIA_TYPE)));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["type"], "/problems/unknown-parameter");
        assert_eq!((&body["status"], &body["message"]), (&400.into(), &body["detail"]));
        assert!(body["detail"].as_str().unwrap().starts_with("folow: "), "{body}");
        let (code, _, body) = ask(Request::get("/api/v1/runs/a@2026-01-01T00:00:00Z/output?follow=x")).await;
        assert!(code == 400 && body.contains("follow: "), "{body}");
        let (code, _, body) = ask(Request::get("/api/v1/status").header("accept", "image/png")).await;
        assert!(code == 406 && body.contains("application/json"), "{body}");
        let (code, headers, _) = ask(Request::post("/api/v1/status")).await;
        assert_eq!((code, &headers["allow"]), (405, &HeaderValue::from_static("GET,HEAD")));
        let (code, headers, body) = ask(Request::head("/api/v1/openapi.json")).await;
        assert_eq!((code, &*body, headers.contains_key("content-length")), (200, "", true));
        assert_eq!(ask(Request::get("/healthz?at=1").header("accept", "image/png")).await.0, 200);
        let (code, headers, _) = ask(Request::get("/problems/store-away")).await;
        assert_eq!((code, &headers["content-type"]), (200, &HeaderValue::from_static("text/html; charset=utf-8")));
        assert_eq!(ask(Request::get("/problems/nothing")).await.0, 404);
    }

    #[tokio::test]
    async fn a_node_whose_loop_does_not_turn_is_not_healthy() {
        let millis = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&millis);
        let boot = move || Boot::from_duration(Duration::from_millis(read.load(Ordering::Relaxed)));
        let clock = Clock::from_fn(move || (boot(), Wall::EPOCH));
        let (turned, turns) = watch::channel(clock.boot());
        let router = Api { turned: turns, ..api(&clock) }.router_for(LOCAL);
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
