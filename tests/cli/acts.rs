//! Acts over HTTP by real nodes: a request that two of them get at once, and whose answer is cut, is one act.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::access::{token, write_rules};
use crate::support::databases::{Kind, Server};
use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::proxy::{Flow, Proxy};
use crate::{LIMIT, Place};

/// A request that acts, with the key that makes it one act.
#[derive(Clone)]
struct Request {
    head: String,
    body: &'static str,
}

impl Request {
    /// As a client sends it that has found the node at `host`.
    fn new((method, path, body): (&str, &str, &'static str), token: &str, key: &str, host: &str) -> Request {
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Request { head, body }
    }

    /// The status and the body of the answer.
    async fn send(&self, address: &str) -> io::Result<(u16, Value)> {
        let (own, address) = (self.clone(), address.to_owned());
        spawn_blocking(move || {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all((own.head + own.body).as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
            let code = head.get(9..12).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
            Ok((code, serde_json::from_str(body)?))
        })
        .await
        .unwrap()
    }
}

/// The acts, each with its request.
const ACTS: [(&str, (&str, &str, &str)); 6] = [
    ("trigger", ("POST", "/api/v1/jobs/fine/runs", "{}")),
    ("pause", ("PUT", "/api/v1/jobs/fine/pause", r#"{"reason": "it moves"}"#)),
    ("resume", ("DELETE", "/api/v1/jobs/fine/pause", "{}")),
    ("pause_all", ("PUT", "/api/v1/pause", "{}")),
    ("resume_all", ("DELETE", "/api/v1/pause", "{}")),
    ("drain", ("PUT", "/api/v1/nodes/b/drain", r#"{"reason": "a new disk"}"#)),
];

async fn a_request_whose_answer_is_cut_is_one_act(store: &[&str]) {
    let place = Place::new();
    let (token, row) = token(&place, "root", "admin");
    write_rules(&place, &format!("tokens:\n{row}"));
    let with = |args: &[&'static str]| -> Vec<&str> { [args, store].concat() };
    let (_one, _other) =
        (place.leader("a", &with(&["--auth", "auth.yaml"])), place.node("b", &with(&["--auth", "auth.yaml"])));
    let addresses = place.wait_for(&with(&["status"]), |status| {
        let nodes = status["nodes"].as_array().filter(|nodes| nodes.len() == 2)?;
        nodes.iter().map(|node| node["address"].as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    });
    let proxy = Proxy::start(&addresses[0]).await;
    for (act, request) in ACTS {
        let to = |nth: usize| Request::new(request, &token, act, &addresses[nth]);
        proxy.answers(Flow::Hold);
        let (cut, whole) = (to(0), to(1));
        let endpoint = proxy.endpoint();
        let (cut, whole, ()) = tokio::join!(cut.send(&endpoint), whole.send(&addresses[1]), async {
            proxy.holds_something().await;
            proxy.cut();
        });
        assert!(cut.is_err(), "{act}: its answer was cut: {cut:?}");
        proxy.pass();
        let (code, whole) = whole.unwrap();
        assert!((200..300).contains(&code), "{act}: {code} {whole:#}");
        for nth in [0, 1] {
            let again = to(nth).send(&addresses[nth]).await.unwrap();
            assert_eq!(again, (code, whole.clone()), "{act}");
        }
    }
    let audit = place.json(&with(&["audit"]));
    let made: Vec<&str> = audit.as_array().unwrap().iter().rev().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(made, ACTS.map(|(act, _)| act), "{audit:#}");
    assert!(audit.as_array().unwrap().iter().all(|act| act["by"] == json!("root")), "{audit:#}");
    let runs = place.json(&with(&["runs", "--job", "fine"]));
    assert_eq!(runs.as_array().unwrap().len(), 1, "{runs:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_answer_is_cut_is_one_act_in_a_file() {
    a_request_whose_answer_is_cut_is_one_act(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_answer_is_cut_is_one_act_in_etcd() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    a_request_whose_answer_is_cut_is_one_act(&["--store", &format!("etcd://{}", etcd.endpoint())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_answer_is_cut_is_one_act_in_postgres() {
    let url = Server::shared(Kind::Postgres).database().url;
    a_request_whose_answer_is_cut_is_one_act(&["--store", &url]).await;
}
