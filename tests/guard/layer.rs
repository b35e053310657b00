//! The layer, around a service of this process.

use bytes::Bytes;
use fencron::guard::layer::GuardLayer;
use fencron::guard::{Guard, Options};
use fencron::time::Clock;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tower::{Layer as _, ServiceExt as _};

use super::door::{Door, Got, Place, Sent};
use super::service::Service;

pub struct LayerDoor {
    pub place: Place,
    guard: Option<Guard>,
    pub service: Service,
}

impl LayerDoor {
    pub async fn open(place: Place) -> LayerDoor {
        LayerDoor::with(place, Options::default(), Clock::system()).await
    }

    pub async fn with(place: Place, options: Options, clock: Clock) -> LayerDoor {
        let guard = Guard::open(&place.state(), options, clock).await.unwrap();
        LayerDoor { place, guard: Some(guard), service: Service::new() }
    }

    pub async fn answer(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let response = self.begin(request).await;
        let (head, body) = response.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    pub async fn begin(&self, request: Request<Full<Bytes>>) -> Response<fencron::guard::layer::AnswerBody> {
        let service = self.service.clone();
        let inner = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let service = service.clone();
            async move {
                let (head, body) = request.into_parts();
                let payload = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
                let (status, text) = service.answer(&head.headers, &payload).await;
                let text = if let Some(size) = payload.strip_prefix("large ") {
                    "x".repeat(size.parse().unwrap())
                } else {
                    text
                };
                let mut response = Response::new(Full::new(Bytes::from(text)));
                *response.status_mut() = status;
                response.headers_mut().insert("x-made-by", "the service".parse().unwrap());
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let guard = self.guard.clone().unwrap();
        GuardLayer::new(guard).layer(inner).oneshot(request).await.unwrap()
    }
}

/// `sent` as a request of HTTP.
pub fn request(sent: Sent<'_>) -> Request<Full<Bytes>> {
    let mut request = Request::post("/orders?x=1").body(Full::new(Bytes::from(sent.payload.to_owned()))).unwrap();
    *request.headers_mut() = headers(sent);
    request
}

pub fn headers(sent: Sent<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let fence = sent.fence.to_string();
    let texts = [("fencing-scope", Some(sent.scope)), ("fencing-token", Some(&fence)), ("idempotency-key", sent.key)];
    for (name, text) in texts {
        if let Some(text) = text {
            headers.insert(HeaderName::from_static(name), text.parse().unwrap());
        }
    }
    headers
}

/// What an answer of HTTP says.
pub fn got(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Got {
    let text = String::from_utf8_lossy(body).into_owned();
    let problem: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let problem = problem.as_ref().and_then(|problem| problem["type"].as_str()?.strip_prefix("urn:fencron:guard:"));
    let word = headers.get("fencron-guard").map(|word| word.to_str().unwrap());
    assert_eq!(word, problem, "the guard's own answers, and no others, say so in their head");
    match (status.as_u16(), problem) {
        (200, _) if headers.contains_key("idempotency-replayed") => Got::Replayed(text),
        (200, _) => Got::Done(text),
        (500, None) => Got::Failed,
        (412, Some("stale-fence")) => Got::Stale,
        (422, Some("other-payload")) => Got::OtherPayload,
        (409, Some("in-flight")) => Got::InFlight,
        (409, Some("older-in-flight")) => Got::OlderInFlight,
        (409, Some("in-doubt")) => Got::InDoubt,
        _ => Got::Other(format!("{status} {text}")),
    }
}

impl Door for LayerDoor {
    async fn send(&self, sent: Sent<'_>) -> Got {
        let response = self.answer(request(sent)).await;
        got(response.status(), response.headers(), response.body())
    }

    async fn effects(&self) -> Vec<String> {
        self.service.marks()
    }

    async fn begun(&self, count: usize) {
        self.service.begun(count).await;
    }

    fn release(&self) {
        self.service.release();
    }

    fn fail(&self, failing: bool) {
        self.service.fail(failing);
    }

    async fn restart(&mut self) {
        drop(self.guard.take());
        self.guard = Some(Guard::open(&self.place.state(), Options::default(), Clock::system()).await.unwrap());
    }
}
