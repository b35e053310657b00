//! What a guard costs: the layer, the proxy and the guard in SQL, beside the same calls without them, by turns.
//!
//! `cargo bench --bench guard -- [layer] [proxy] [sql]`; all when none is named. `FENCRON_BENCH_CALLS` is how many
//! calls each figure is made of (default: 2,000).

use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use fencron::guard::layer::GuardLayer;
use fencron::guard::sql::Dialect;
use fencron::guard::{Guard, Options};
use fencron::time::Clock;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio_postgres::NoTls;
use tower::util::BoxCloneService;
use tower::{Layer as _, ServiceExt as _};

#[path = "../tests/support/mod.rs"]
mod support;

use support::databases::{Kind, Server};

/// How many calls of one kind are made before the next has its turn.
const TURN: usize = 100;

fn main() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|named| named == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("| one after the other | p50 | p99 | p50 without, in the same run |\n| --- | --- | --- | --- |");
    if wanted("layer") {
        runtime.block_on(layer());
    }
    if wanted("proxy") {
        runtime.block_on(proxy());
    }
    if wanted("sql") {
        runtime.block_on(sql());
    }
}

fn calls() -> usize {
    std::env::var("FENCRON_BENCH_CALLS").map_or(2_000, |text| text.parse().expect("FENCRON_BENCH_CALLS is a number"))
}

/// Makes both calls by turns, and prints what they took.
async fn compare<A: Future, B: Future>(
    name: &str,
    mut guarded: impl FnMut(usize) -> A,
    mut plain: impl FnMut(usize) -> B,
) {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for turn in 0..calls().div_ceil(TURN) {
        for nth in turn * TURN..(turn + 1) * TURN {
            with.push(timed(guarded(nth)).await);
        }
        for nth in turn * TURN..(turn + 1) * TURN {
            without.push(timed(plain(nth)).await);
        }
    }
    with.sort();
    without.sort();
    let at = |times: &[Duration], percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    let (p50, p99, plain) = (at(&with, 50), at(&with, 99), at(&without, 50));
    println!("| {name} | {p50:.0} µs | {p99:.0} µs | {plain:.0} µs ({:.1} times) |", p50 / plain);
}

async fn timed(call: impl Future) -> Duration {
    let clock = Clock::system();
    let begun = clock.boot();
    call.await;
    clock.boot().since(begun)
}

fn stamp(nth: usize) -> HeaderMap {
    let key = format!("report@{nth}");
    let texts = [("fencing-scope", "shop/leader"), ("fencing-token", "7"), ("idempotency-key", key.as_str())];
    texts.into_iter().map(|(name, text)| (name.parse().unwrap(), text.parse().unwrap())).collect()
}

type Service = BoxCloneService<Request<Full<Bytes>>, Response<Bytes>, std::convert::Infallible>;

fn service() -> Service {
    BoxCloneService::new(tower::service_fn(async |request: Request<Full<Bytes>>| {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(Response::new(body))
    }))
}

fn request(nth: usize) -> Request<Full<Bytes>> {
    let mut request = Request::post("/orders").body(Full::new(Bytes::from(vec![b'x'; 1000]))).unwrap();
    *request.headers_mut() = stamp(nth);
    request
}

/// The layer around a service of this process that only reads the body.
async fn layer() {
    let directory = tempfile::tempdir().unwrap();
    let database = Server::shared(Kind::Postgres).database();
    let sqlite = format!("sqlite:{}", directory.path().join("guard.db").display());
    for (name, url) in [("memory", "memory"), ("SQLite", sqlite.as_str()), ("PostgreSQL", database.url.as_str())] {
        let guard = Guard::open(&url.parse().unwrap(), Options::default(), Clock::system()).await.unwrap();
        let inner = service();
        let inner = tower::service_fn(move |request| {
            let inner = inner.clone();
            async move { inner.oneshot(request).await.map(|response| response.map(Full::new)) }
        });
        let guarded = GuardLayer::new(guard).layer(inner);
        let plain = service();
        compare(
            &format!("layer, {name}"),
            |nth| {
                let answering = guarded.clone().oneshot(request(nth));
                async { answering.await.unwrap().into_body().collect().await.unwrap() }
            },
            |nth| plain.clone().oneshot(request(nth)),
        )
        .await;
    }
}

/// The guard's process.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The proxy in front of a service of this process, both over loopback.
async fn proxy() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(async |body: Bytes| body);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let directory = tempfile::tempdir().unwrap();
    let database = Server::shared(Kind::Postgres).database();
    let sqlite = format!("sqlite:{}", directory.path().join("guard.db").display());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let send = |url: &str, nth: usize| {
        let sending = client.post(url).headers(stamp(nth)).body(vec![b'x'; 1000]).send();
        async move { sending.await.unwrap().error_for_status().unwrap().bytes().await.unwrap() }
    };
    for (name, url) in [("memory", "memory"), ("SQLite", sqlite.as_str()), ("PostgreSQL", database.url.as_str())] {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fencron"));
        command.args(["guard", "proxy", "--upstream", &upstream, "--listen", &format!("127.0.0.1:{port}")]);
        let _process = Process(command.env("FENCRON_GUARD_STATE", url).stderr(Stdio::null()).spawn().unwrap());
        let guarded = format!("http://127.0.0.1:{port}");
        support::until("the guard", async || client.get(&guarded).send().await.ok()).await;
        compare(&format!("proxy, {name}"), |nth| send(&guarded, nth), |nth| send(&upstream, nth)).await;
    }
}

/// A transaction that inserts a row, with the guard's function called first, and without.
async fn sql() {
    let server = Server::shared(Kind::Postgres);
    let database = server.database();
    server.ask(&database.name, &Dialect::Postgres.script());
    server.ask(&database.name, "CREATE TABLE effects (nth bigserial PRIMARY KEY, mark text NOT NULL)");
    let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let ask = client.prepare("SELECT fencron_guard('shop/leader', 7, $1)").await.unwrap();
    let insert = client.prepare("INSERT INTO effects (mark) VALUES ($1)").await.unwrap();
    let (client, ask, insert) = (&client, &ask, &insert);
    let transact = |nth: usize, guarded: bool| async move {
        let mark = format!("report@{nth}");
        client.batch_execute("BEGIN").await.unwrap();
        if guarded {
            assert!(client.query_one(ask, &[&mark]).await.unwrap().get::<_, bool>(0));
        }
        client.execute(insert, &[&mark]).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
    };
    compare("SQL, PostgreSQL", |nth| transact(nth, true), |nth| transact(nth, false)).await;
}
