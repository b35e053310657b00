//! The guard around a service of [`tower`]: of axum, hyper, tonic, or any other that takes requests of HTTP.
//!
//! A request with a fence is held in memory whole, and compared; one without is passed on as it is. What was let in
//! runs to its end in a task of its own, also when its caller has gone: its answer is kept, and the repetition gets it.
//! An answer is passed on when it is complete, or when it has become larger than what is kept of answers.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use serde::Serialize;
use tokio::sync::mpsc;
use tower::{Layer, Service};

use super::{Answer, Digest, Guard, Refusal, Ticket, Verdict};
use crate::fence::{Fence, header as names};

/// What may go wrong in bodies.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The body of an answer: the service's own, a stored one, or a refusal.
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// Headers that belong to the connection or to the moment, and not to the answer.
const NOT_KEPT: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Headers that identify the caller. With [`Options::caller_headers`](super::Options), `Host`, and [`Caller`] they are
/// part of a key: a stranger that knows a key gets no answer of another caller.
pub const OF_THE_CALLER: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    // What proxies that end TLS write of a client's certificate.
    HeaderName::from_static("client-cert"),
    HeaderName::from_static("client-cert-chain"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-client-cert"),
    HeaderName::from_static("x-ssl-client-cert"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-auth-token"),
];

/// Headers that say what a body means.
const OF_THE_PAYLOAD: [HeaderName; 2] = [header::CONTENT_TYPE, header::CONTENT_ENCODING];

/// What a service knows of the caller beside the headers, such as the digest of the certificate of a client: put it
/// into the extensions of a request before the guard gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub Bytes);

/// How long a caller may take nothing of a large answer: one that stands still must not delay newer fences.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Wraps services in a [`Guard`]. See [`super`] for an example.
#[derive(Clone, Debug)]
pub struct GuardLayer {
    guard: Guard,
}

impl GuardLayer {
    /// A layer that asks `guard`.
    pub fn new(guard: Guard) -> GuardLayer {
        GuardLayer { guard }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.guard.clone() }
    }
}

/// A service behind a [`Guard`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready, and not its clone, is the one to call.
        let other = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, other);
        let guard = self.guard.clone();
        match Marks::read(request.headers()) {
            Err(refusal) => Box::pin(async move { Ok(refuse(&refusal)) }),
            Ok(None) if guard.options().require_fence => Box::pin(async { Ok(refuse(&Refusal::NoFence)) }),
            Ok(None) => {
                let mut inner = inner;
                let answering = inner.call(request);
                Box::pin(async move { answering.await.map(|response| response.map(boxed)) })
            }
            Ok(Some(marks)) => Box::pin(guarded(guard, inner, marks, request)),
        }
    }
}

/// What the headers of a request say.
#[derive(Debug, PartialEq, Eq)]
struct Marks {
    scope: String,
    fence: Fence,
    key: Option<String>,
}

impl Marks {
    /// `None`: the request bears no fence.
    fn read(headers: &HeaderMap) -> Result<Option<Marks>, Refusal> {
        let one = |name: &'static str| {
            let mut values = headers.get_all(name).iter();
            let (first, more) = (values.next(), values.next());
            let malformed = |why: &str| Refusal::Malformed(format!("{name} {why}"));
            match (first, more) {
                (None, _) => Ok(None),
                (_, Some(_)) => Err(malformed("is there more than once")),
                (Some(value), None) => match std::str::from_utf8(value.as_bytes()) {
                    Ok(text) => Ok(Some(text.to_owned())),
                    Err(_) => Err(malformed("is not UTF-8")),
                },
            }
        };
        let (token, scope) = (one(names::FENCING_TOKEN)?, one(names::FENCING_SCOPE)?);
        let (token, scope) = match (token, scope) {
            (None, None) => return Ok(None),
            (Some(token), Some(scope)) => (token, scope),
            (Some(_), None) => return Err(malformed("Fencing-Token means nothing without Fencing-Scope")),
            (None, Some(_)) => return Err(malformed("Fencing-Scope is there without Fencing-Token")),
        };
        let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit()) && !token.starts_with('0');
        let fence = digits.then(|| token.parse().ok().and_then(Fence::new)).flatten();
        let Some(fence) = fence else {
            return Err(malformed("Fencing-Token is not a whole number from 1 on, in decimal digits"));
        };
        Ok(Some(Marks { scope, fence, key: one(names::IDEMPOTENCY_KEY)? }))
    }
}

fn malformed(why: &str) -> Refusal {
    Refusal::Malformed(why.to_owned())
}

/// The request, and its caller.
fn digest(head: &Parts, body: &[u8], more: &[String]) -> Digest {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut parts = vec![head.method.as_str().as_bytes(), target.as_bytes(), body];
    let (payload, caller) = (OF_THE_PAYLOAD, OF_THE_CALLER);
    let names = payload.iter().chain(&caller).map(HeaderName::as_str);
    for name in names.chain(more.iter().map(String::as_str)) {
        for value in head.headers.get_all(name) {
            parts.extend([name.as_bytes(), value.as_bytes()]);
        }
    }
    // HTTP/2 has the host in the target. The port is the guard's, and may be another one where several share a state.
    let named = head.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let target = head.uri.authority().map(|host| host.as_str().as_bytes());
    let target = target.filter(|_| !head.headers.contains_key(header::HOST));
    for host in named.chain(target) {
        parts.extend([header::HOST.as_str().as_bytes(), without_port(host)]);
    }
    if let Some(Caller(caller)) = head.extensions.get() {
        parts.extend([&b""[..], caller]);
    }
    Digest::with_caller(parts)
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        _ => host,
    }
}

/// Asks the guard, and does what it says.
async fn guarded<S, B, R>(
    guard: Guard,
    inner: S,
    marks: Marks,
    request: Request<B>,
) -> Result<Response<AnswerBody>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (head, body) = request.into_parts();
    let (most, within) = (guard.options().body_most, guard.options().body_within);
    let body = match tokio::time::timeout(within, Limited::new(body, most).collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Ok(refuse(&Refusal::TooLarge { most })),
        Ok(Err(_)) => return Ok(refuse(&malformed("its body broke off"))),
        Err(_) => return Ok(refuse(&Refusal::TooSlow { within })),
    };
    let digest = digest(&head, &body, &guard.options().caller_headers);
    let asked = super::Request::new(&marks.scope, marks.fence, marks.key.as_deref(), digest);
    let asked = match asked {
        Ok(asked) => asked,
        Err(refusal) => return Ok(refuse(&refusal)),
    };
    let ticket = match guard.ask(asked).await {
        Verdict::Admitted(ticket) => ticket,
        Verdict::Replay(answer) => return Ok(replay(answer)),
        Verdict::Refused(refusal) => return Ok(refuse(&refusal)),
    };
    let request = Request::from_parts(head, B::from(body));
    // From here on it goes to its end, whether or not its caller still waits.
    let mut inner = inner;
    let doing = tokio::spawn(async move { inner.call(request).await });
    let most = guard.options().answer_most;
    let finishing = tokio::spawn(async move {
        match doing.await {
            Ok(Ok(response)) => Ok(finish(ticket, response, most).await),
            failed => {
                ticket.unknown().await;
                Err(failed)
            }
        }
    });
    match finishing.await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(Ok(Err(error)))) => Err(error),
        Ok(Err(Err(error))) | Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        _ => Ok(refuse(&Refusal::InDoubt)),
    }
}

/// Whether an answer with this status says that the request was not done, and may be when it is sent again, by another
/// caller or later: it is not kept.
fn invites_repetition(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 407 | 408 | 425 | 429) || status.is_server_error()
}

/// Reports to the guard how it ended, and answers when that is recorded.
async fn finish<R>(ticket: Ticket, response: Response<R>, most: usize) -> Response<AnswerBody>
where
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let mut body = boxed(body);
    let mut kept = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => kept.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => {
                ticket.unknown().await;
                return Response::from_parts(head, broken(kept.freeze(), error));
            }
        }
        if kept.len() > most {
            return Response::from_parts(head.clone(), pass_on(ticket, head.status, kept.freeze(), body));
        }
    }
    let kept = kept.freeze();
    if invites_repetition(head.status) {
        ticket.again().await;
    } else {
        let headers = head.headers.iter().filter(|(name, _)| !NOT_KEPT.contains(name));
        let headers = headers.map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        let headers = headers.collect();
        ticket.done(Answer { status: head.status.as_u16(), headers, body: kept.clone(), whole: true }).await;
    }
    let body = Full::new(kept).map_err(|never| match never {});
    let body = match trailers {
        Some(trailers) => body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync(),
        None => body.boxed_unsync(),
    };
    Response::from_parts(head, body)
}

/// Passes on an answer that is too large to be kept, and reads it to its end even if it is not taken any more: a caller
/// that has gone, or takes nothing for [`TAKEN_WITHIN`], gets no more of it.
fn pass_on(ticket: Ticket, status: StatusCode, begun: Bytes, mut rest: AnswerBody) -> AnswerBody {
    let (sender, frames) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut taker = Some(sender);
        give(&mut taker, Ok(Some(Frame::data(begun)))).await;
        while let Some(frame) = rest.frame().await {
            match frame {
                Ok(frame) => give(&mut taker, Ok(Some(frame))).await,
                Err(error) => {
                    ticket.unknown().await;
                    give(&mut taker, Err(error)).await;
                    return;
                }
            }
        }
        if invites_repetition(status) {
            ticket.again().await;
        } else {
            ticket.done(Answer::too_large(status.as_u16())).await;
        }
        give(&mut taker, Ok(None)).await;
    });
    Frames(frames).boxed_unsync()
}

/// A frame, the end of the body, or that it broke off.
type Given = Result<Option<Frame<Bytes>>, BoxError>;

/// Hands it to the caller, or gives the caller up.
async fn give(taker: &mut Option<mpsc::Sender<Given>>, given: Given) {
    let Some(sender) = taker else { return };
    if !matches!(tokio::time::timeout(TAKEN_WITHIN, sender.send(given)).await, Ok(Ok(()))) {
        *taker = None;
    }
}

/// A body of what comes through a channel. Where that ends without a word, the body breaks off.
struct Frames(mpsc::Receiver<Given>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(context).map(|given| match given {
            Some(Ok(frame)) => frame.map(Ok),
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err("the rest of the answer was not taken in time".into())),
        })
    }
}

/// A body that breaks off after `begun`, as the service's own did.
fn broken(begun: Bytes, error: BoxError) -> AnswerBody {
    let (sender, frames) = mpsc::channel(2);
    for given in [Ok(Some(Frame::data(begun))), Err(error)] {
        sender.try_send(given).ok();
    }
    Frames(frames).boxed_unsync()
}

pub(super) fn boxed<R>(body: R) -> AnswerBody
where
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

fn whole(body: impl Into<Bytes>) -> AnswerBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The answer that was stored.
fn replay(answer: Answer) -> Response<AnswerBody> {
    let body = if answer.whole {
        answer.body
    } else {
        Bytes::from_static(b"This was done before. Its answer was too large to be kept.\n")
    };
    let mut response = Response::new(whole(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_maybe_shared(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(names::IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response
}

/// The refusal as `application/problem+json` (RFC 9457).
fn refuse(refusal: &Refusal) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(refusal.status()).expect("each has a status of HTTP");
    let mut response = problem(status, &refusal.problem());
    let headers = response.headers_mut();
    headers.insert(names::GUARD, HeaderValue::from_static(refusal.name()));
    if let Some(seen) = refusal.seen() {
        headers.insert(names::FENCING_TOKEN_SEEN, HeaderValue::from(seen.get()));
    }
    if let Some(after) = refusal.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    response
}

pub(super) fn problem<P: Serialize>(status: StatusCode, problem: &P) -> Response<AnswerBody> {
    let text = serde_json::to_string(problem).expect("a problem has only text keys") + "\n";
    let mut response = Response::new(whole(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Result<Option<Marks>, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Marks::read(&map)
    }

    #[test]
    fn headers_that_contradict_themselves_are_malformed() {
        let scope = ("fencing-scope", "s");
        for token in ["", "0", "07", "+7", "-1", "7 ", "7.0", "18446744073709551616", "seven"] {
            let read = read(&[scope, ("fencing-token", token)]);
            assert!(matches!(read, Err(Refusal::Malformed(_))), "{token:?}: {read:?}");
        }
        for headers in [
            &[("fencing-token", "7")][..],
            &[scope],
            &[scope, scope, ("fencing-token", "7")],
            &[scope, ("fencing-token", "7"), ("fencing-token", "7")],
            &[scope, ("fencing-token", "7"), ("idempotency-key", "a"), ("idempotency-key", "b")],
        ] {
            assert!(matches!(read(headers), Err(Refusal::Malformed(_))), "{headers:?}");
        }
        let fence = Fence::new(7).unwrap();
        let marks = Marks { scope: "s".into(), fence, key: None };
        assert_eq!(read(&[scope, ("fencing-token", "7")]).unwrap(), Some(marks));
        assert_eq!(read(&[("idempotency-key", "a")]).unwrap(), None);
    }

    #[test]
    fn a_host_counts_without_its_port() {
        for (host, name) in [("shop:8080", "shop"), ("shop", "shop"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
            assert_eq!(without_port(host.as_bytes()), name.as_bytes());
        }
    }

    #[test]
    fn answers_that_invite_a_repetition_are_not_kept() {
        let invite = |status| invites_repetition(StatusCode::from_u16(status).unwrap());
        assert!([401, 403, 407, 408, 425, 429, 500, 502, 503, 504].into_iter().all(invite));
        assert!(![200, 201, 204, 301, 400, 404, 409, 410, 412, 422].into_iter().any(invite));
    }
}
