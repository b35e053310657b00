//! That a key is its caller's: nobody else gets the answer, or spoils it.

use bytes::Bytes;
use fencron::guard::layer::{Caller, GuardLayer};
use fencron::guard::{Guard, Options};
use fencron::time::Clock;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tower::{Layer as _, ServiceExt as _};

use super::door::{Door as _, Got, Place, keyed};
use super::layer::{LayerDoor, got, headers, request};
use super::proxy::ProxyDoor;
use crate::support::databases::{Kind, Server};

fn with(pairs: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    let mut request = request(keyed(7, "report@02"));
    for (name, value) in pairs {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    request
}

async fn answered(door: &LayerDoor, request: Request<Full<Bytes>>) -> Got {
    let response = door.answer(request).await;
    got(response.status(), response.headers(), response.body())
}

#[tokio::test]
async fn an_answer_is_replayed_to_its_caller_and_to_nobody_else() {
    let victims: &[(&str, &str)] = &[
        ("authorization", "Bearer victim"),
        ("cookie", "session=victim"),
        ("proxy-authorization", "Basic victim"),
        ("host", "shop.example"),
        ("content-type", "application/json"),
        ("x-forwarded-client-cert", "Hash=victim"),
        ("x-tenant", "victim"),
    ];
    for (name, value) in victims {
        let options = Options { caller_headers: vec!["x-tenant".to_owned()], ..Options::default() };
        let door = LayerDoor::with(Place::memory(), options, Clock::system()).await;
        let first = answered(&door, with(&[(*name, *value)])).await.done();
        for stranger in [with(&[]), with(&[(*name, "stranger")]), with(&[(*name, *value), (*name, "stranger")])] {
            assert_eq!(answered(&door, stranger).await, Got::OtherPayload, "{name}");
        }
        assert_eq!(answered(&door, with(&[(*name, *value)])).await, Got::Replayed(first), "{name}");
        assert_eq!(door.effects().await.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn what_a_service_knows_of_its_caller_counts() {
    let door = LayerDoor::open(Place::memory()).await;
    let as_of = |who: Option<&'static str>| {
        let mut request = with(&[]);
        if let Some(who) = who {
            request.extensions_mut().insert(Caller(Bytes::from_static(who.as_bytes())));
        }
        request
    };
    let first = answered(&door, as_of(Some("victim"))).await.done();
    for stranger in [None, Some("stranger")] {
        assert_eq!(answered(&door, as_of(stranger)).await, Got::OtherPayload);
    }
    assert_eq!(answered(&door, as_of(Some("victim"))).await, Got::Replayed(first));
}

#[tokio::test]
async fn what_does_not_tell_callers_apart_changes_nothing() {
    let door = LayerDoor::open(Place::memory()).await;
    let first = answered(&door, with(&[("fencron-attempt", "1"), ("user-agent", "a")])).await.done();
    let second = with(&[("fencron-attempt", "2"), ("x-forwarded-for", "10.0.0.1"), ("traceparent", "00-1-1-01")]);
    assert_eq!(answered(&door, second).await, Got::Replayed(first));
}

/// A service that lets one caller do it.
async fn answer_of_a_strict_service(guard: &Guard, refusal: u16, authorization: Option<&'static str>) -> StatusCode {
    let service = tower::service_fn(move |request: Request<Full<Bytes>>| async move {
        let good = request.headers().get("authorization").is_some_and(|value| value == "good");
        let mut response = Response::new(Full::new(Bytes::from_static(b"it")));
        *response.status_mut() = if good { StatusCode::OK } else { StatusCode::from_u16(refusal).unwrap() };
        Ok::<_, std::convert::Infallible>(response)
    });
    let pairs: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
    let response = GuardLayer::new(guard.clone()).layer(service).oneshot(with(&pairs)).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

#[tokio::test]
async fn a_caller_who_was_not_let_in_leaves_nothing_behind() {
    for refusal in [401, 403, 407] {
        let guard = Guard::in_memory(Options::default(), Clock::system());
        for (authorization, status) in
            [(None, refusal), (Some("wrong"), refusal), (None, refusal), (Some("good"), 200), (Some("good"), 200)]
        {
            let got = answer_of_a_strict_service(&guard, refusal, authorization).await;
            assert_eq!(got.as_u16(), status, "{authorization:?}");
        }
        assert_eq!(answer_of_a_strict_service(&guard, refusal, None).await.as_u16(), 422);
    }
}

#[tokio::test]
async fn the_proxy_tells_callers_apart_by_what_it_does_not_pass_on() {
    let door = ProxyDoor::open(Place::memory(), &["--caller-header", "X-Tenant"]).await;
    let send = async |pairs: &[(&'static str, &'static str)]| {
        let mut request = door.process.post("/orders").headers(headers(keyed(7, "report@02"))).body("do");
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        got(status, &headers, &response.bytes().await.unwrap())
    };
    let victim = [("proxy-authorization", "Basic victim"), ("x-tenant", "victim")];
    let first = send(&victim).await.done();
    for stranger in [&victim[..1], &victim[1..]] {
        assert_eq!(send(stranger).await, Got::OtherPayload);
    }
    assert_eq!(send(&victim).await, Got::Replayed(first));
}

/// Of whoever used a key before callers were recorded, nobody knows whether it was this one.
#[tokio::test]
async fn a_key_that_was_kept_without_its_caller_is_in_doubt() {
    for place in [Place::sqlite(), Place::postgres()] {
        let door = LayerDoor::open(place).await;
        door.send(keyed(7, "report@02")).await.done();
        door.cut_digests().await;
        assert_eq!(door.send(keyed(7, "report@02")).await, Got::InDoubt);
        assert_eq!(answered(&door, with(&[("authorization", "stranger")])).await, Got::InDoubt);
        assert_eq!(door.effects().await.len(), 1);
    }
}

impl LayerDoor {
    /// Makes of what is kept what an older version kept: digests of requests without a byte before them.
    async fn cut_digests(&self) {
        match self.place.url.strip_prefix("sqlite:") {
            Some(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                assert_eq!(connection.execute("UPDATE entries SET digest = substr(digest, 2)", []).unwrap(), 1);
            }
            None => {
                let database = self.place.url.rsplit('/').next().unwrap().split('?').next().unwrap();
                let cut = "UPDATE fencron_guard_entries SET digest = substr(digest, 2)";
                Server::shared(Kind::Postgres).ask(database, cut);
            }
        }
    }
}
