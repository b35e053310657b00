//! A request that acts, as it arrives: who sends it, with which key, and what it asks for.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::api::access::{Caller, Peer};
use crate::api::problem::{Kind, Problem};
use crate::api::{Api, BODY_MOST};
use crate::job::Word as _;
use crate::ledger::{Acting, Asked, OnceAsked, REASON_MOST, Via};
use crate::listen::HEAD_WITHIN;
use crate::store::Store;
use crate::time::{Wall, written};

/// The header by which two requests are one act.
pub(in crate::api) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How long that may be, in bytes.
pub const KEY_MOST: usize = 255;

/// What a request that acts carries. A request without a body asks for what is usual.
#[derive(Debug)]
pub(in crate::api) struct Sending<T> {
    body: T,
    sender: Sender,
}

/// Who sends it.
#[derive(Clone, Debug)]
pub(in crate::api) struct Sender {
    asked: Asked,
    once: Option<OnceAsked>,
    /// Which jobs it is narrowed to, among the rest.
    pub caller: Caller,
}

impl<T> Sending<T> {
    pub fn parts(self) -> (T, Sender) {
        (self.body, self.sender)
    }
}

impl Sender {
    pub fn new(caller: Caller, peer: &Peer, via: Via, now: Wall) -> Sender {
        let by = caller.name.clone().unwrap_or_else(|| "a caller without a name".to_owned());
        let address = Some(peer.address.ip().to_canonical().to_string());
        let asked = Asked { role: Some(caller.role.word().to_owned()), via, address, ..Asked::new(by, now) };
        Sender { asked, once: None, caller }
    }

    /// With the key of a request, and all that decides what it does.
    pub fn once(self, key: Option<&str>, request: &[u8]) -> Sender {
        let once = key.map(|key| OnceAsked::new(&self.asked.by, key, request));
        Sender { once, ..self }
    }

    /// The name under which it is counted how often it acts.
    pub fn name(&self) -> &str {
        &self.asked.by
    }

    /// Its act, for this reason.
    pub fn acting(&self, reason: Option<String>) -> Result<Acting, Problem> {
        let reason = reason.unwrap_or_default().trim().to_owned();
        if reason.chars().nth(REASON_MOST).is_some() {
            return Err(Problem::parameter("reason", format!("at most {REASON_MOST} characters")));
        }
        if reason.contains(|c: char| c.is_control() && c != '\n') {
            return Err(Problem::parameter("reason", "has no control characters but line breaks"));
        }
        Ok(Acting::fresh(self.asked.clone().because(reason)).once(self.once.clone()))
    }
}

/// The key that the headers name.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = key.to_str().unwrap_or_default();
    let is_right = (1..=KEY_MOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = || Problem::parameter("Idempotency-Key", format!("1 to {KEY_MOST} visible ASCII characters"));
    is_right.then(|| Some(text.to_owned())).ok_or_else(wrong)
}

impl<S: Store, T: DeserializeOwned> FromRequest<Api<S>> for Sending<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api<S>) -> Result<Sending<T>, Problem> {
        let known = request.extensions().get::<Caller>().cloned().zip(request.extensions().get::<Peer>().cloned());
        let Some((caller, peer)) = known else {
            return Err(Problem::new(Kind::Unauthenticated, "the caller is not known"));
        };
        let sender = Sender::new(caller, &peer, Via::Api, api.clock.wall());
        api.access.may_act(sender.name(), api.clock.boot())?;
        let key = key(request.headers())?;
        let media = request.headers().get(header::CONTENT_TYPE).map(|media| media.to_str().unwrap_or("?").to_owned());
        let path = format!("{} {}\0", request.method(), request.uri().path());
        let body = read(request).await?;
        let is_json = media.as_deref().is_none_or(|media| {
            media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
        });
        if !is_json && !body.is_empty() {
            return Err(Problem::new(Kind::NotJson, "send the body as `Content-Type: application/json`"));
        }
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        // An array would do as well for the members in their order.
        let body =
            serde_json::from_slice(text).and_then(|members: Map<String, Value>| T::deserialize(Value::from(members)));
        let body = body.map_err(|error| Problem::new(Kind::BadParameter, format!("the body is wrong: {error}")))?;
        Ok(Sending { body, sender: sender.once(key.as_deref(), &[path.as_bytes(), text].concat()) })
    }
}

/// The body of a request. One that does not arrive holds its connection no longer than a head does.
async fn read(request: Request) -> Result<Bytes, Problem> {
    let body = tokio::time::timeout(HEAD_WITHIN, Bytes::from_request(request, &())).await;
    let late = || Problem::new(Kind::BadParameter, format!("the body did not arrive within {}", written(HEAD_WITHIN)));
    body.map_err(|_| late())?.map_err(|error| match error.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Kind::TooLarge, format!("a body has at most {} KiB", BODY_MOST / 1024))
        }
        _ => Problem::new(Kind::BadParameter, error.body_text()),
    })
}
