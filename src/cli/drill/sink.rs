//! The sink of the effects: a service with a guard, in the process of the drill. What arrives at its door can be held back,
//! as a network may do, until a later leader has acted.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

use super::judge::Fact;
use super::log::Log;
use crate::fence::header;
use crate::guard::layer::GuardLayer;
use crate::guard::{Guard, Options};

/// The largest body of an effect, in bytes: that of a drill is a word.
const BODY_MOST: usize = 1024;

/// What is held back at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holding {
    Nothing,
    /// The next request of this job under this fence.
    Next {
        job: &'static str,
        fence: u64,
    },
    /// This run's.
    Held {
        run: String,
    },
}

/// The service. It ends when this is dropped.
pub(super) struct Sink {
    pub address: SocketAddr,
    holding: watch::Sender<Holding>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Door {
    log: Log,
    holding: watch::Sender<Holding>,
    guarded: Router,
}

impl Sink {
    /// Listens on loopback, and records what arrives and what is accepted.
    pub async fn open(log: Log) -> std::io::Result<Sink> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let guard = Guard::in_memory(Options { require_fence: true, ..Options::default() }, log.clock().clone());
        let guarded = Router::new().route("/", post(accept)).with_state(log.clone()).layer(GuardLayer::new(guard));
        let holding = watch::Sender::new(Holding::Nothing);
        let door = Door { log, holding: holding.clone(), guarded };
        let app = Router::new().route("/", post(arrive)).with_state(door);
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::warn!(%error, "the sink has ended");
            }
        });
        Ok(Sink { address, holding, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Holds back the next request of `job` under `fence`, and answers which run's it is; `None`: none came in time.
    pub async fn hold(&self, job: &'static str, fence: u64, within: Duration) -> Option<String> {
        let mut seen = self.holding.subscribe();
        self.holding.send_replace(Holding::Next { job, fence });
        let held = seen.wait_for(|holding| matches!(holding, Holding::Held { .. }));
        match tokio::time::timeout(within, held).await {
            Ok(Ok(holding)) => match &*holding {
                Holding::Held { run } => Some(run.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// What was held back arrives.
    pub fn release(&self) {
        self.holding.send_replace(Holding::Nothing);
    }
}

/// What a request says that it is.
#[derive(Clone)]
struct Mark {
    run: String,
    attempt: u32,
    fence: u64,
}

impl Mark {
    fn read(headers: &HeaderMap) -> Option<Mark> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        Some(Mark {
            run: text(header::IDEMPOTENCY_KEY)?.to_owned(),
            attempt: text(header::ATTEMPT)?.parse().ok()?,
            fence: text(header::FENCING_TOKEN)?.parse().ok()?,
        })
    }
}

/// A request that is at work, until its answer is on its way or its connection is closed.
struct AtWork {
    log: Log,
    mark: Mark,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let Mark { run, attempt, fence } = self.mark.clone();
        self.log.add(Fact::Answered { run, attempt, fence });
    }
}

async fn arrive(State(door): State<Door>, request: Request) -> Response {
    let Some(mark) = Mark::read(request.headers()) else {
        return (StatusCode::BAD_REQUEST, "only effects of the drill are taken here\n").into_response();
    };
    // Whole, so that it can be held back for longer than its connection lasts.
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_MOST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let Mark { run, attempt, fence } = mark.clone();
    door.log.add(Fact::Arrived { run, attempt, fence });
    let _at_work = AtWork { log: door.log.clone(), mark: mark.clone() };
    let judging = tokio::spawn(door.judge(mark, Request::from_parts(parts, Body::from(body))));
    judging.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

impl Door {
    async fn judge(self, mark: Mark, request: Request) -> Response {
        let is_next = |holding: &Holding| match holding {
            Holding::Next { job, fence } => *fence == mark.fence && mark.run.starts_with(&format!("{job}@")),
            _ => false,
        };
        let is_held = self.holding.send_if_modified(|holding| {
            let is_next = is_next(holding);
            if is_next {
                *holding = Holding::Held { run: mark.run.clone() };
            }
            is_next
        });
        if is_held {
            self.holding.subscribe().wait_for(|holding| *holding == Holding::Nothing).await.ok();
        }
        self.log.add(Fact::Judged { run: mark.run, fence: mark.fence });
        match self.guarded.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The service behind the guard.
async fn accept(State(log): State<Log>, headers: HeaderMap) -> &'static str {
    if let Some(Mark { run, fence, .. }) = Mark::read(&headers) {
        log.add(Fact::Accepted { run, fence });
    }
    "done\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;

    async fn send(address: SocketAddr, run: &str, fence: u64) -> u16 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("http://{address}/")).body("effect");
        let request = request.header(header::FENCING_TOKEN, fence).header(header::FENCING_SCOPE, "drill/leader");
        let request = request.header(header::IDEMPOTENCY_KEY, run).header(header::ATTEMPT, "1");
        request.send().await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn what_is_held_back_until_a_later_leader_has_acted_is_turned_away() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let log = Log::new(Clock::system());
        let sink = Sink::open(log.clone()).await.unwrap();
        let address = sink.address;
        let stale = tokio::spawn(async move { send(address, "late@1", 5).await });
        assert_eq!(sink.hold("late", 5, Duration::from_secs(60)).await.as_deref(), Some("late@1"));
        assert_eq!(send(address, "canary@1", 9).await, 200);
        sink.release();
        assert_eq!(stale.await.unwrap(), 412);
        let facts: Vec<Fact> = log.record().into_iter().map(|(_, fact)| fact).collect();
        let at = |fact: &Fact| facts.iter().position(|other| other == fact);
        let accepted = at(&Fact::Accepted { run: "canary@1".into(), fence: 9 }).unwrap();
        assert!(at(&Fact::Judged { run: "late@1".into(), fence: 5 }).unwrap() > accepted);
        assert!(at(&Fact::Arrived { run: "late@1".into(), attempt: 1, fence: 5 }).unwrap() < accepted);
        assert!(at(&Fact::Answered { run: "late@1".into(), attempt: 1, fence: 5 }).unwrap() > accepted);
        assert_eq!(at(&Fact::Accepted { run: "late@1".into(), fence: 5 }), None);
    }
}
