//! What the proxy lets through to the service, and what nobody can make it leave out.

use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;

use super::answers::raw_service;
use super::door::Place;
use super::proxy::ProxyProcess;
use crate::support::soon;

struct Scene {
    proxy: ProxyProcess,
    requests: UnboundedReceiver<String>,
    _place: Place,
}

impl Scene {
    async fn with_path(path: &str) -> Scene {
        let (url, requests) = raw_service("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let place = Place::memory();
        Scene { proxy: ProxyProcess::start(&format!("{url}{path}"), &place.url, &[]), requests, _place: place }
    }

    /// Sends it as it is, which clients of HTTP would not, and answers with the status and all that came.
    async fn send(&self, target: &str, headers: &str) -> (StatusCode, String) {
        let mut stream = TcpStream::connect(self.proxy.url.trim_start_matches("http://")).await.unwrap();
        let request = format!("POST {target} HTTP/1.1\r\nhost: shop.example\r\n{headers}content-length: 2\r\n\r\ndo");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    async fn request(&mut self) -> String {
        soon("the request", self.requests.recv()).await.unwrap()
    }
}

const CLOSE: &str = "connection: close\r\n";

#[tokio::test]
async fn a_path_that_leads_out_of_what_is_guarded_is_refused() {
    for base in ["/app", "/app/", ""] {
        let mut scene = Scene::with_path(base).await;
        for target in [
            "/../admin",
            "/..",
            "/x/../../admin",
            "/%2e%2e/admin",
            "/.%2E/admin",
            "/%2e./admin",
            "/..;/admin",
            "/..;a=b/admin",
            "/%2e%2e;/admin",
            "/..%3b/admin",
            "/x/..;/y",
            "/..%2fadmin",
            "/..%2Fadmin",
            "/x%2f..%2f..%2fadmin",
            "/..%5cadmin",
            "/x%5C..%5c..%5Cadmin",
            "/..\\admin",
            "/\\..\\admin",
            "/a%2fb/../../../x",
            "/a%2fb/../x",
            "//../../admin",
        ] {
            let (status, answer) = scene.send(target, CLOSE).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{base} {target}: {answer}");
            assert!(answer.contains("urn:fencron:guard:path-leads-out"), "{answer}");
        }
        assert!(scene.requests.try_recv().is_err(), "something of it arrived");
        let base = base.trim_end_matches('/');
        for (target, arrives) in [
            ("/orders/1?to=../x", "/orders/1?to=../x"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a%2fb/c", "/a%2fb/c"),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("/a..b/...;v=1/..c", "/a..b/...;v=1/..c"),
            ("//x", "//x"),
        ] {
            let (status, answer) = scene.send(target, CLOSE).await;
            assert_eq!(status, StatusCode::OK, "{base} {target}: {answer}");
            let request = scene.request().await;
            assert!(request.starts_with(&format!("post {base}{arrives} http/1.1\r\n")), "{target}: {request}");
        }
    }
}

#[tokio::test]
async fn what_the_guard_adds_and_goes_by_cannot_be_taken_off() {
    let mut scene = Scene::with_path("").await;
    let names = "X-Forwarded-For, x-forwarded-host, X-Forwarded-Proto, Fencing-Token, fencing-scope, Idempotency-Key, \
                 Authorization, Host, X-Mine";
    let headers = format!(
        "connection: close, {names}\r\nx-forwarded-for: 10.0.0.1\r\nfencing-token: 7\r\nfencing-scope: s\r\n\
         idempotency-key: a\r\nauthorization: good\r\nx-mine: 1\r\n"
    );
    let (status, answer) = scene.send("/", &headers).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let request = scene.request().await;
    for line in [
        "x-forwarded-for: 10.0.0.1, 127.0.0.1",
        "x-forwarded-host: shop.example",
        "x-forwarded-proto: http",
        "fencing-token: 7",
        "fencing-scope: s",
        "idempotency-key: a",
        "authorization: good",
        "host: shop.example",
    ] {
        assert!(request.contains(&format!("\r\n{line}\r\n")), "{line}: {request}");
    }
    assert!(!request.contains("x-mine"), "{request}");
    // The guard saw the fence as well.
    let older = headers.replace("fencing-token: 7", "fencing-token: 6");
    assert_eq!(scene.send("/", &older).await.0, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn another_protocol_is_refused_and_not_dropped_in_silence() {
    let mut scene = Scene::with_path("").await;
    let upgrade = |protocol: &str| format!("connection: close, upgrade\r\nupgrade: {protocol}\r\n");
    for protocol in ["websocket", "WebSocket", "h2c, websocket", "tls/1.0"] {
        let (status, answer) = scene.send("/", &upgrade(protocol)).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{answer}");
        assert!(answer.contains("urn:fencron:guard:no-upgrade") && answer.contains("WebSocket"), "{answer}");
    }
    assert!(scene.requests.try_recv().is_err(), "something of it arrived");
    // An offer that HTTP/1.1 may pass over.
    assert_eq!(scene.send("/", &upgrade("h2c")).await.0, StatusCode::OK);
    assert!(!scene.request().await.contains("upgrade"));
    assert_eq!(
        scene.proxy.post("/").headers(HeaderMap::new()).body("do").send().await.unwrap().status(),
        StatusCode::OK
    );
}
