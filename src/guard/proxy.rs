//! The guard in front of an HTTP service, which need not know of it.
//!
//! A request that is let in is sent on once, as it came: without the headers that belong to the connection, and with
//! those that say where it came from. Where the service cannot be reached, the request was not done, and its key is
//! free. When the answer breaks off, it is unknown.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use reqwest::{Client, Url, redirect};
use serde::Serialize;
use tower::{Layer as _, Service, ServiceExt as _};

use super::layer::{AnswerBody, BoxError, GuardLayer, Guarded};
use super::{Guard, layer};
use crate::fence::header as names;

/// How long a connection to the service may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection to the service is kept for the next request: less than services keep theirs, since what is
/// sent while the service closes it is in doubt.
const IDLE_MOST: Duration = Duration::from_secs(3);

/// Headers that are between two neighbours, and are not passed on (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A service that guards another one, which is reached at a URL.
#[derive(Clone, Debug)]
pub struct GuardProxy {
    forward: Guarded<Forward>,
}

/// A URL that is no service to be guarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service behind the guard is written like http://127.0.0.1:8080, with no more than a path behind it")]
pub struct NotAnUpstream;

impl GuardProxy {
    /// A proxy in front of `upstream`, whose path is put before that of every request. An answer has to begin and end
    /// within `timeout`.
    ///
    /// # Errors
    ///
    /// [`NotAnUpstream`] where the URL cannot be put before a path.
    pub fn new(guard: Guard, upstream: &str, timeout: Duration) -> Result<GuardProxy, NotAnUpstream> {
        let url = Url::parse(upstream).map_err(|_| NotAnUpstream)?;
        let plain = ["http", "https"].contains(&url.scheme()) && url.query().is_none() && url.fragment().is_none();
        let plain = plain && url.username().is_empty() && url.password().is_none();
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .pool_idle_timeout(IDLE_MOST)
            .timeout(timeout);
        let client = client.build().ok().filter(|_| plain).ok_or(NotAnUpstream)?;
        let forward = Forward { client, base: url.as_str().trim_end_matches('/').to_owned() };
        Ok(GuardProxy { forward: GuardLayer::new(guard).layer(forward) })
    }

    /// The answer to what there is no room for.
    pub fn busy() -> Response<AnswerBody> {
        problem(StatusCode::SERVICE_UNAVAILABLE, "busy", "there are too many connections: nothing was done")
    }

    /// Answers a request that came from `peer`.
    pub async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<AnswerBody> {
        let mut request = request.map(Sent::Passing);
        if request.method() == Method::CONNECT || !request.uri().path().starts_with('/') {
            return problem(StatusCode::BAD_REQUEST, "no-path", "only what has a path is passed on");
        }
        if !stays_below(request.uri().path()) {
            let why = "the path may lead out of what is guarded: send it without `..`, and without a backslash";
            return problem(StatusCode::BAD_REQUEST, "path-leads-out", why);
        }
        if asks_for_another_protocol(request.headers()) {
            let why = "no other protocol is spoken here, such as WebSocket: nothing in it could be guarded. Let callers \
                       that need it reach the service itself";
            return problem(StatusCode::NOT_IMPLEMENTED, "no-upgrade", why);
        }
        // Before anything is added here, so that nothing removes that again.
        take_off_named(request.headers_mut());
        name_the_sender(request.headers_mut(), peer);
        match self.forward.clone().oneshot(request).await {
            Ok(response) => response,
            Err(error) if timed_out(&error) => problem(
                StatusCode::GATEWAY_TIMEOUT,
                "no-answer",
                "the service did not answer in time: it may have been done",
            ),
            Err(_) => problem(StatusCode::BAD_GATEWAY, "broke-off", "the service broke off: it may have been done"),
        }
    }
}

/// The body of a request: as it comes, or held whole where it was compared.
enum Sent {
    Passing(Incoming),
    Whole(Full<Bytes>),
}

impl From<Bytes> for Sent {
    fn from(bytes: Bytes) -> Sent {
        Sent::Whole(Full::new(bytes))
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Sent::Passing(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Sent::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Sent::Passing(body) => body.is_end_stream(),
            Sent::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Sent::Passing(body) => body.size_hint(),
            Sent::Whole(body) => body.size_hint(),
        }
    }
}

fn timed_out(error: &BoxError) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout)
}

/// The service itself.
#[derive(Clone, Debug)]
struct Forward {
    client: Client,
    /// Without a slash at its end.
    base: String,
}

impl Service<Request<Sent>> for Forward {
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Sent>) -> Self::Future {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let url = Url::parse(&format!("{}{target}", self.base));
        let (mut head, body) = request.into_parts();
        let client = self.client.clone();
        Box::pin(async move {
            let Ok(url) = url else {
                return Ok(problem(
                    StatusCode::BAD_REQUEST,
                    "no-path",
                    "the path cannot be put behind the service's URL",
                ));
            };
            end_the_hop(&mut head.headers);
            head.headers.remove(header::EXPECT);
            // How long the body is, the client says itself.
            head.headers.remove(header::CONTENT_LENGTH);
            let sent = client.request(head.method, url).headers(head.headers).body(reqwest::Body::wrap(body)).send();
            match sent.await {
                Ok(response) => {
                    let mut response = Response::from(response);
                    take_off_named(response.headers_mut());
                    end_the_hop(response.headers_mut());
                    Ok(response.map(layer::boxed))
                }
                // Nothing was sent.
                Err(error) if error.is_connect() || error.is_builder() => {
                    tracing::warn!(error = %error.without_url(), "the service behind the guard cannot be reached");
                    Ok(problem(
                        StatusCode::BAD_GATEWAY,
                        "unreachable",
                        "the service cannot be reached: nothing was done",
                    ))
                }
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// Whether the path leads nowhere but below where it begins, however the service reads it. As URLs are read it may go
/// up and down, for so it is sent on; but some services also decode what parts segments, or cut off their parameters,
/// first.
fn stays_below(path: &str) -> bool {
    let path = path.to_ascii_lowercase().replace("%2e", ".");
    let mut depth = 0_usize;
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    let decoded = path.replace("%2f", "/").replace("%5c", "/").replace("%3b", ";");
    let goes_up = |segment: &str| segment.split(';').next() == Some("..") && (decoded != path || segment != "..");
    !path.contains('\\') && !decoded.split('/').any(goes_up)
}

/// Whether the connection shall become another one. HTTP/2 in the clear is only offered: a client that offers it goes
/// on without.
fn asks_for_another_protocol(headers: &HeaderMap) -> bool {
    let protocols =
        headers.get_all(header::UPGRADE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    protocols.map(<[u8]>::trim_ascii).any(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Whether a header is for the service although `Connection` names it: headers that the guard itself uses and adds.
fn is_for_the_service(name: &HeaderName) -> bool {
    let names = [names::FENCING_TOKEN, names::FENCING_SCOPE, names::IDEMPOTENCY_KEY, names::SCHEDULED_AT];
    let names = names.into_iter().chain([names::ATTEMPT, names::TRACEPARENT]);
    let other = [&FORWARDED_FOR, &FORWARDED_HOST, &FORWARDED_PROTO, &header::HOST, &header::CONTENT_TYPE];
    names.chain(other.map(HeaderName::as_str)).any(|for_it| name.as_str() == for_it)
        || *name == header::CONTENT_ENCODING
        || layer::OF_THE_CALLER.contains(name)
}

/// Removes what `Connection` says was meant for this end of it only.
fn take_off_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !is_for_the_service(name))
        .collect();
    for name in &named {
        headers.remove(name);
    }
}

/// Removes what is between two neighbours.
fn end_the_hop(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn name_the_sender(headers: &mut HeaderMap, peer: SocketAddr) {
    let before = headers.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let peer = peer.ip().to_canonical().to_string();
    let all: Vec<&str> = before.chain([peer.as_str()]).collect();
    let all = HeaderValue::from_str(&all.join(", ")).expect("what came in headers may go in one");
    headers.insert(FORWARDED_FOR, all);
    if let Some(host) = headers.get(header::HOST).filter(|_| !headers.contains_key(&FORWARDED_HOST)).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    status: u16,
    detail: &'a str,
}

fn problem(status: StatusCode, name: &'static str, detail: &str) -> Response<AnswerBody> {
    let problem = Problem { r#type: format!("urn:fencron:guard:{name}"), status: status.as_u16(), detail };
    let mut response = layer::problem(status, &problem);
    response.headers_mut().insert(names::GUARD, HeaderValue::from_static(name));
    response
}
