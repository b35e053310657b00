//! What a guard of HTTP answers beside what the rules decide, and what the proxy makes of a service that fails.

use std::time::Duration;

use bytes::Bytes;
use fencron::guard::layer::GuardLayer;
use fencron::guard::{Guard, Options};
use fencron::time::Clock;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _};

use super::door::{Door, Got, Place, Sent, keyed, under};
use super::layer::{LayerDoor, got, headers, request};
use super::proxy::{ProxyDoor, ProxyProcess};
use crate::support::program::fencron;
use crate::support::{soon, until};

async fn door(options: Options) -> LayerDoor {
    LayerDoor::with(Place::memory(), options, Clock::system()).await
}

fn problem(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn a_stale_fence_is_told_what_has_been_seen() {
    let door = door(Options::default()).await;
    door.send(under(7)).await.done();
    let response = door.answer(request(under(6))).await;
    assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(response.headers()["fencing-token-seen"], "7");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem = problem(response.body());
    assert_eq!((&problem["seen"], &problem["status"]), (&7.into(), &412.into()));
    assert!(response.headers().get("retry-after").is_none());
}

#[tokio::test]
async fn what_may_pass_says_when_to_ask_again() {
    let door = door(Options::default()).await;
    let held = keyed(7, "report@02").held();
    let (_, response) = tokio::join!(door.send(held), async {
        door.begun(1).await;
        let response = door.answer(request(held)).await;
        door.release();
        response
    });
    assert_eq!((response.status(), &response.headers()["retry-after"]), (StatusCode::CONFLICT, &"1".parse().unwrap()));
}

#[tokio::test]
async fn an_answer_is_replayed_with_its_status_and_headers() {
    let door = door(Options::default()).await;
    let gone = Sent { payload: "gone", ..keyed(7, "report@02") };
    let first = door.answer(request(gone)).await;
    let second = door.answer(request(gone)).await;
    assert_eq!((first.status(), second.status()), (StatusCode::GONE, StatusCode::GONE));
    assert_eq!(second.headers()["x-made-by"], "the service");
    assert_eq!((first.headers().get("idempotency-replayed"), first.body()), (None, second.body()));
    assert_eq!(second.headers()["idempotency-replayed"], "true");
    assert_eq!(door.effects().await.len(), 1);
}

#[tokio::test]
async fn what_bears_no_fence_is_passed_on_unless_one_is_required() {
    let plain = || Request::post("/orders").header("idempotency-key", "a").body(Full::new(Bytes::from("do"))).unwrap();
    let lenient = door(Options::default()).await;
    for _ in 0..2 {
        assert_eq!(lenient.answer(plain()).await.status(), StatusCode::OK);
    }
    assert_eq!(lenient.effects().await.len(), 2, "a key means nothing without a scope");
    let strict = door(Options { require_fence: true, ..Options::default() }).await;
    assert_eq!(strict.answer(plain()).await.status(), StatusCode::PRECONDITION_REQUIRED);
    let token_alone = Request::post("/orders").header("fencing-token", "7").body(Full::default()).unwrap();
    assert_eq!(lenient.answer(token_alone).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!((lenient.effects().await.len(), strict.effects().await.len()), (2, 0));
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_turned_away() {
    let door = door(Options { body_most: 4, ..Options::default() }).await;
    assert_eq!(
        door.answer(request(Sent { payload: "12345", ..under(7) })).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(door.answer(request(Sent { payload: "1234", ..under(7) })).await.status(), StatusCode::OK);
    assert_eq!(door.effects().await.len(), 1);
}

#[tokio::test]
async fn of_an_answer_beyond_the_bound_only_the_status_is_replayed() {
    let door = door(Options { answer_most: 1000, ..Options::default() }).await;
    let large = Sent { payload: "large 200000", ..keyed(7, "report@02") };
    assert_eq!(door.send(large).await.done().len(), 200_000);
    let replayed = until("the end of the first", async || match door.send(large).await {
        Got::Replayed(text) => Some(text),
        Got::InFlight => None,
        other => panic!("{other:?}"),
    });
    assert!(replayed.await.contains("too large to be kept"));
    assert_eq!(door.effects().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_of_a_large_answer_does_not_hold_up_newer_fences() {
    let guard = Guard::in_memory(Options::default(), Clock::system());
    let service = tower::service_fn(async |_: Request<Full<Bytes>>| {
        let frames = (0..100).map(|_| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![b'x'; 100_000]))));
        Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(futures_util::stream::iter(frames))))
    });
    let ask = |sent| GuardLayer::new(guard.clone()).layer(service).oneshot(request(sent));
    let stopped = ask(keyed(7, "report@02")).await.unwrap();
    let newer = ask(under(8)).await.unwrap();
    assert_eq!(newer.status(), StatusCode::OK);
    assert_eq!(newer.into_body().collect().await.unwrap().to_bytes().len(), 10_000_000);
    assert!(stopped.into_body().collect().await.is_err(), "it does not seem whole");
}

#[tokio::test]
async fn more_in_flight_than_the_bound_are_turned_away() {
    let door = door(Options { in_flight_most: 1, ..Options::default() }).await;
    let (_, response) = tokio::join!(door.send(under(7).held()), async {
        door.begun(1).await;
        let response = door.answer(request(under(7))).await;
        door.release();
        response
    });
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(problem(response.body())["type"], "urn:fencron:guard:busy");
    door.send(under(7)).await.done();
}

#[tokio::test]
async fn who_asks_may_go_and_the_answer_is_kept() {
    for place in [Place::memory(), Place::sqlite()] {
        let door = LayerDoor::open(place).await;
        let held = keyed(7, "report@02").held();
        {
            let mut first = Box::pin(door.send(held));
            tokio::select! {
                got = &mut first => panic!("{got:?}"),
                () = door.begun(1) => {}
            }
        }
        assert_eq!(door.send(held).await, Got::InFlight);
        door.release();
        let replayed = until("the end of the first", async || match door.send(held).await {
            Got::Replayed(text) => Some(text),
            Got::InFlight => None,
            other => panic!("{other:?}"),
        });
        assert!(replayed.await.contains("as number 1"));
    }
}

#[tokio::test]
async fn a_service_that_panics_leaves_doubt() {
    let door = std::sync::Arc::new(door(Options::default()).await);
    let asked = Sent { payload: "panic", ..keyed(7, "report@02") };
    let asking = door.clone();
    assert!(tokio::spawn(async move { asking.send(asked).await }).await.unwrap_err().is_panic());
    assert_eq!(door.send(asked).await, Got::InDoubt);
}

#[tokio::test]
async fn a_ticket_that_is_dropped_leaves_doubt() {
    use fencron::guard::{Digest, Refusal, Request, Verdict};
    let guard = Guard::in_memory(Options::default(), Clock::system());
    let fence = fencron::fence::Fence::new(7).unwrap();
    let asked = || Request::new("s", fence, Some("k"), Digest::of([])).unwrap();
    let Verdict::Admitted(ticket) = guard.ask(asked()).await else { panic!() };
    drop(ticket);
    until("doubt", async || match guard.ask(asked()).await {
        Verdict::Refused(Refusal::InDoubt) => Some(()),
        Verdict::Refused(Refusal::InFlight) => None,
        other => panic!("{other:?}"),
    })
    .await;
}

async fn send(proxy: &ProxyProcess, sent: Sent<'_>) -> (StatusCode, Got) {
    let request = proxy.post("/orders?x=1").headers(headers(sent)).body(sent.payload.to_owned());
    let response = request.send().await.unwrap();
    let (status, map) = (response.status(), response.headers().clone());
    (status, got(status, &map, &response.bytes().await.unwrap()))
}

/// A service that reads the beginning of one request per connection, and answers with these bytes.
pub async fn raw_service(answer: &'static str) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\ndo") {
                let mut chunk = [0; 1024];
                match stream.read(&mut chunk).await.unwrap() {
                    0 => break,
                    length => text.extend_from_slice(&chunk[..length]),
                }
            }
            seen.send(String::from_utf8(text).unwrap().to_lowercase()).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, requests)
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_did_nothing() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = Place::sqlite();
    let proxy = ProxyProcess::start(&format!("http://127.0.0.1:{port}"), &place.url, &[]);
    for _ in 0..2 {
        let (status, got) = send(&proxy, keyed(7, "report@02")).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(matches!(&got, Got::Other(text) if text.contains("unreachable")), "{got:?}");
    }
}

#[tokio::test]
async fn a_service_that_breaks_off_leaves_doubt() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"] {
        let (url, mut requests) = raw_service(answer).await;
        let place = Place::sqlite();
        let proxy = ProxyProcess::start(&url, &place.url, &[]);
        let asked = keyed(7, "report@02");
        let first = proxy.post("/").headers(headers(asked)).body("do").send().await;
        if let Ok(first) = first {
            assert!(first.status() == StatusCode::BAD_GATEWAY || first.bytes().await.is_err());
        }
        let second = proxy.post("/").headers(headers(asked)).body("do").send().await.unwrap();
        assert_eq!(problem(&second.bytes().await.unwrap())["type"], "urn:fencron:guard:in-doubt", "{answer:?}");
        requests.recv().await.unwrap();
        assert!(requests.try_recv().is_err(), "it was sent twice");
    }
}

#[tokio::test]
async fn the_proxy_passes_on_what_is_meant_for_the_service() {
    let answer = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nX-Hop: 1\r\nConnection: close, X-Hop\r\n\
                  Content-Length: 2\r\n\r\nok";
    let (url, mut requests) = raw_service(answer).await;
    let place = Place::sqlite();
    let proxy = ProxyProcess::start(&format!("{url}/base/"), &place.url, &[]);
    let mut more = HeaderMap::new();
    for (name, value) in
        [("connection", "x-mine"), ("x-mine", "1"), ("x-forwarded-for", "10.0.0.1"), ("host", "shop.example")]
    {
        more.insert(name, value.parse().unwrap());
    }
    for sent in [headers(keyed(7, "report@02")), HeaderMap::new()] {
        let response =
            proxy.post("/orders/1?x=%20").headers(sent.clone()).headers(more.clone()).body("do").send().await;
        let response = response.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["location"]),
            (StatusCode::FOUND, &"/elsewhere".parse().unwrap())
        );
        assert!(response.headers().get("x-hop").is_none());
        let request = soon("the request", requests.recv()).await.unwrap();
        assert!(request.starts_with("post /base/orders/1?x=%20 http/1.1\r\n"), "{request}");
        for line in [
            "host: shop.example",
            "x-forwarded-host: shop.example",
            "x-forwarded-for: 10.0.0.1, 127.0.0.1",
            "x-forwarded-proto: http",
            "content-length: 2",
        ] {
            assert!(request.contains(&format!("\r\n{line}\r\n")), "{line}: {request}");
        }
        assert!(!request.contains("x-mine"), "{request}");
        assert_eq!(request.contains("fencing-token: 7"), !sent.is_empty(), "{request}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_told_to_stop_answers_first() {
    let mut door = ProxyDoor::open(Place::sqlite(), &["--health-listen", "127.0.0.1:0"]).await;
    let health = door.process.line("health on");
    let health = health.split(" on ").nth(1).unwrap();
    for path in ["healthz", "readyz"] {
        let answer = super::proxy::client().get(format!("{health}/{path}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    let held = keyed(7, "report@02").held();
    let sending = tokio::spawn(door.process.post("/").headers(headers(held)).body("hold").send());
    door.begun(1).await;
    door.process.signal(Signal::SIGTERM);
    until("the listener's end", async || {
        let next = door.process.post("/").timeout(Duration::from_secs(5)).send().await;
        next.is_err().then_some(())
    })
    .await;
    door.release();
    assert_eq!(sending.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(door.process.child.wait().unwrap().success());
}

#[test]
fn bad_usage_is_said_without_secrets() {
    let run = |args: &[&str]| {
        let output = fencron(&std::env::temp_dir()).arg("guard").args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("other"), "this is no database, but long enough to be seen as none").unwrap();
    let other = format!("sqlite:{}", directory.path().join("other").display());
    let fence = ["--fence", "7", "--scope", "s", "--", "true"];
    for (state, code, says) in [
        (other.as_str(), 5, "not a SQLite database"),
        ("memory", 2, "write sqlite:PATH"),
        ("postgres://u:hunter2@127.0.0.1:1/d", 5, "postgres://127.0.0.1:1/d cannot be used now"),
        ("postgres://127.0.0.1:1/d?user=u&password=p@hunter2", 5, "cannot be used now"),
        ("postgresx://u:hunter2@127.0.0.1:1/d", 2, "this is no state of a guard"),
        ("sqlite:/no/such/directory/guard.db", 5, "it cannot be created"),
    ] {
        let (got, stderr) = run(&[&["exec", "r", "--state", state], &fence[..]].concat());
        assert!(got == code && stderr.contains(says), "{state}: {got} {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
    let (code, stderr) = run(&["proxy", "--listen", "127.0.0.1:0", "--upstream", "ftp://x", "--state", "memory"]);
    assert!(code == 2 && stderr.contains("http://127.0.0.1:8080"), "{stderr}");
    let (code, _) = run(&["exec", "r", "--state", "sqlite:x", "--scope", "s", "--fence", "0", "--", "true"]);
    assert_eq!(code, 2);
}
