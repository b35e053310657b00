//! That what a guard keeps is bounded, and is forgotten when it was said to be.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use fencron::fence::Fence;
use fencron::guard::{Answer, Digest, Guard, Options, Refusal, Request, Verdict};
use fencron::time::{Clock, Wall};
use futures_util::future::join_all;

use super::door::Place;
use super::proxy::{ProxyDoor, ProxyProcess};
use crate::support::PATIENCE;
use crate::support::databases::{Kind, Server};

/// A clock whose wall moves by hand.
fn by_hand() -> (Arc<AtomicI64>, Clock) {
    let now = Arc::new(AtomicI64::new(1_700_000_000_000));
    let read = now.clone();
    let system = Clock::system();
    (now, Clock::from_fn(move || (system.boot(), Wall::from_millis(read.load(Ordering::Relaxed)))))
}

fn asked(key: &str) -> Request {
    Request::new("shop/leader", Fence::new(7).unwrap(), Some(key), Digest::of([])).unwrap()
}

/// Whether it was done now, and not before.
async fn done(guard: &Guard, key: &str) -> bool {
    match guard.ask(asked(key)).await {
        Verdict::Admitted(ticket) => {
            ticket.done(Answer::new(200, vec![b'x'; 100])).await;
            true
        }
        Verdict::Replay(_) => false,
        Verdict::Refused(refusal) => panic!("{refusal}"),
    }
}

async fn full(guard: &Guard, key: &str) -> bool {
    matches!(guard.ask(asked(key)).await, Verdict::Refused(Refusal::Full))
}

#[tokio::test]
async fn an_answer_is_replayed_for_as_long_as_was_said() {
    for place in [Place::memory(), Place::sqlite()] {
        let (now, clock) = by_hand();
        let options = Options { keep: Duration::from_secs(60), ..Options::default() };
        let guard = Guard::open(&place.state(), options, clock).await.unwrap();
        assert!(done(&guard, "a").await);
        now.fetch_add(59_999, Ordering::Relaxed);
        assert!(!done(&guard, "a").await);
        now.fetch_add(1, Ordering::Relaxed);
        assert!(done(&guard, "a").await);
    }
}

#[tokio::test]
async fn in_postgres_what_has_expired_is_unknown() {
    let database = Server::shared(Kind::Postgres).database();
    let guard = Guard::open(&database.url.parse().unwrap(), Options::default(), Clock::system()).await.unwrap();
    assert!(done(&guard, "a").await);
    assert!(!done(&guard, "a").await);
    let age = "UPDATE fencron_guard_entries SET expires = now() - interval '1 ms'";
    Server::shared(Kind::Postgres).ask(&database.name, age);
    assert!(done(&guard, "a").await);
}

#[tokio::test]
async fn beyond_the_bound_new_keys_are_turned_away_and_none_is_forgotten() {
    for place in [Place::memory(), Place::sqlite(), Place::postgres()] {
        let (now, clock) = by_hand();
        let options = Options { keys_most: 3, ..Options::default() };
        let guard = Guard::open(&place.state(), options.clone(), clock).await.unwrap();
        for key in ["a", "b", "c"] {
            assert!(done(&guard, key).await);
        }
        assert!(full(&guard, "d").await, "{}", place.state());
        assert!(!done(&guard, "a").await);
        if !place.url.starts_with("postgres") {
            now.fetch_add(i64::try_from(options.keep.as_millis()).unwrap(), Ordering::Relaxed);
            assert!(done(&guard, "d").await, "{}", place.state());
        }
    }
}

#[tokio::test]
async fn beyond_the_bound_of_bytes_new_keys_are_turned_away() {
    for place in [Place::memory(), Place::sqlite(), Place::postgres()] {
        let options = Options { bytes_most: 1000, ..Options::default() };
        let guard = Guard::open(&place.state(), options, Clock::system()).await.unwrap();
        let mut keys = 0;
        while let Verdict::Admitted(ticket) = guard.ask(asked(&format!("key {keys}"))).await {
            ticket.done(Answer::new(200, vec![b'x'; 100])).await;
            keys += 1;
        }
        assert!((2..=4).contains(&keys), "{}: {keys}", place.state());
        assert!(full(&guard, "another").await && !done(&guard, "key 0").await, "{}", place.state());
    }
}

/// Keys come and expire, and the file stays as large as what lives at a time needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_in_turn_need_the_disk_of_those_that_live() {
    const KEYS: i64 = 40_000;
    const LIVE: u64 = 5_000;
    const AT_ONCE: i64 = 250;
    let place = Place::sqlite();
    let (now, clock) = by_hand();
    // One key a millisecond.
    let options = Options { keep: Duration::from_millis(LIVE), keys_most: LIVE + 1000, ..Options::default() };
    let guard = Guard::open(&place.state(), options, clock).await.unwrap();
    let size = || {
        let sizes = std::fs::read_dir(place.directory.path()).unwrap();
        sizes.map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let mut early = 0;
    for batch in 0..KEYS / AT_ONCE {
        let keys: Vec<String> = (0..AT_ONCE).map(|nth| format!("report@{:032}", batch * AT_ONCE + nth)).collect();
        let all = join_all(keys.iter().map(|key| done(&guard, key))).await;
        assert!(all.into_iter().all(|done| done));
        now.fetch_add(AT_ONCE, Ordering::Relaxed);
        if batch * AT_ONCE == KEYS / 5 {
            early = size();
        }
    }
    let (late, most) = (size(), LIVE * 2000);
    assert!(late < most && late < early + early / 4, "{early} bytes, then {late}; at most {most}");
    println!("{LIVE} live keys of {KEYS}: {early} bytes on disk early on, {late} at the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_in_time_is_not_waited_for() {
    let door = ProxyDoor::open(Place::memory(), &["--body-within", "100ms"]).await;
    let mut stopped = TcpStream::connect(door.process.url.trim_start_matches("http://")).unwrap();
    let head =
        "POST /orders HTTP/1.1\r\nhost: shop\r\nfencing-scope: s\r\nfencing-token: 7\r\ncontent-length: 5\r\n\r\n";
    stopped.write_all(format!("{head}12").as_bytes()).unwrap();
    let mut answer = String::new();
    stopped.set_read_timeout(Some(PATIENCE)).unwrap();
    stopped.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("urn:fencron:guard:too-slow"), "{answer}");
    assert!(door.service.marks().is_empty());
}

/// More than there is room for.
const CLIENTS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_keep_nobody_from_asking_whether_a_guarded_service_is_well() {
    use tokio::io::AsyncWriteExt as _;
    let large = bytes::Bytes::from(vec![b'x'; 8 << 20]);
    let router = axum::Router::new()
        .route("/large", axum::routing::get(move || std::future::ready(large.clone())))
        .route("/healthz", axum::routing::get(async || "ok"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let service = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let options = ["--health-listen".to_owned(), "127.0.0.1:0".to_owned()];
    let proxy = ProxyProcess::start(&upstream, "memory", &options);
    let health = proxy.line("health on").split(" on ").nth(1).unwrap().to_owned();
    let address = proxy.url.trim_start_matches("http://").parse().unwrap();
    let mut stuck = Vec::new();
    for _ in 0..CLIENTS {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(b"GET /large HTTP/1.1\r\nhost: shop\r\n\r\n").await.unwrap();
        stuck.push(stream);
    }
    let client = super::proxy::client();
    for nth in 0..15 {
        let url = [&format!("{}/healthz", proxy.url), &format!("{health}/healthz"), &format!("{health}/readyz")]
            [nth % 3]
            .clone();
        let answer = client.get(&url).header("connection", "close").timeout(Duration::from_secs(20)).send().await;
        assert_eq!(answer.unwrap().status(), 200, "{url}");
    }
    let room = async || {
        let ordered = client.get(format!("{}/other", proxy.url)).header("connection", "close").send().await;
        ordered.is_ok_and(|answer| answer.status() == 404).then_some(())
    };
    crate::support::until("room when those who take nothing were given up", room).await;
    drop(stuck);
    service.abort();
}
