//! What a node does while many look at it: they learn what they ask for, or when to come again, and nothing else suffers.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fencron::time::{Clock, Wall};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{LIMIT, Place};

/// How many follow the output of a run, and how many have a page open.
const FOLLOWERS: usize = 300;
const PAGES: usize = 100;

/// How many of the followers a node serves at once.
const STREAMS_MOST: usize = 64;

/// How long a follower is content with.
const FOLLOWED_FOR: Duration = Duration::from_secs(6);

/// How often the script of an open page asks whether something has changed.
const PAGE_EVERY: Duration = Duration::from_secs(2);

/// For how long all of them look.
const LASTS: Duration = Duration::from_secs(18);

/// How soon a node says whether it is well.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);

/// How much memory the node may have had at most, in KiB: far more than it takes, and far less than a leak would.
const MEMORY_MOST: u64 = 200 << 10;

const TICKS: usize = 5;

fn jobs() -> String {
    let tick = |nth| {
        format!(
            "  tick-{nth}: {{schedule: '@every 1s', shell: 'true', overlap: queue, missed: {{run: all, limit: 100}}}}\n"
        )
    };
    let ticks: String = (0..TICKS).map(tick).collect();
    let chatty = "schedule: '@at 2099-01-01T00:00:00Z', shell: 'while :; do echo something; sleep 0.1; done'";
    format!("version: 1\nnamespace: shop\njobs:\n{ticks}  chatty: {{{chatty}, kill_after: 1s}}\n")
}

/// What came of the questions.
#[derive(Debug, Default)]
struct Counts {
    followed: AtomicUsize,
    events: AtomicUsize,
    told_to_come_again: AtomicUsize,
    pages: AtomicUsize,
    unchanged: AtomicUsize,
}

impl Counts {
    fn count(&self, what: impl Fn(&Counts) -> &AtomicUsize) {
        what(self).fetch_add(1, Ordering::Relaxed);
    }
}

/// A client that answers are read from.
struct Client(BufReader<TcpStream>);

/// The beginning of an answer: its status, and its headers by their names in lower case.
struct Head {
    status: u16,
    headers: HashMap<String, String>,
}

impl Client {
    async fn connect(from: &str, to: SocketAddr) -> io::Result<Client> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(format!("{from}:0").parse().unwrap())?;
        Ok(Client(BufReader::new(socket.connect(to).await?)))
    }

    async fn get(&mut self, path: &str, headers: &str) -> io::Result<Head> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes()).await?;
        let (mut status, mut headers) = (String::new(), HashMap::new());
        self.0.read_line(&mut status).await?;
        let status = status.get(9..12).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { return Ok(Head { status, headers }) };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
    }

    async fn body(&mut self, head: &Head) -> io::Result<String> {
        let length = head.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(String::from_utf8(body).unwrap())
    }
}

/// Follows a run for a while, and comes again, as those do who were told to.
async fn follow(to: SocketAddr, run: String, counts: Arc<Counts>) {
    loop {
        match follow_once(to, &run, &counts).await {
            Ok(again) => sleep(again).await,
            // Of connections beyond all bounds the oldest ends without an answer.
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Answers when to come again.
async fn follow_once(to: SocketAddr, run: &str, counts: &Counts) -> io::Result<Duration> {
    let mut client = Client::connect("127.0.0.1", to).await?;
    let path = format!("/api/v1/runs/{run}/output?follow=1");
    let head = client.get(&path, "accept: text/event-stream\r\n").await?;
    if head.status == 503 {
        let again = head.headers.get("retry-after").unwrap_or_else(|| panic!("told to go, and not when to come again"));
        counts.count(|counts| &counts.told_to_come_again);
        return Ok(Duration::from_secs(again.parse().unwrap()));
    }
    assert_eq!(head.status, 200);
    counts.count(|counts| &counts.followed);
    let listen = async {
        let mut line = String::new();
        while client.0.read_line(&mut line).await? > 0 {
            if line.starts_with("data: something") {
                counts.count(|counts| &counts.events);
            }
            line.clear();
        }
        io::Result::Ok(())
    };
    timeout(FOLLOWED_FOR, listen).await.ok();
    Ok(Duration::ZERO)
}

/// Has a page open, as a browser does: over one connection, and with the tag of what it has.
async fn look(to: SocketAddr, path: &str, counts: Arc<Counts>) {
    let mut tag = String::new();
    loop {
        if let Err(error) = look_on(to, path, &mut tag, &counts).await {
            // It connects anew, as a browser does.
            assert!(!matches!(error.kind(), io::ErrorKind::InvalidData), "{error}");
            sleep(PAGE_EVERY).await;
        }
    }
}

async fn look_on(to: SocketAddr, path: &str, tag: &mut String, counts: &Counts) -> io::Result<()> {
    let mut client = Client::connect("127.0.0.2", to).await?;
    loop {
        let head = client.get(path, &format!("accept: text/html\r\nif-none-match: {tag}\r\n")).await?;
        let body = client.body(&head).await?;
        match head.status {
            200 => {
                let is_whole = body.contains("chatty") && body.trim_end().ends_with("</html>");
                assert!(is_whole, "{path}: {body}");
                *tag = head.headers["etag"].clone();
                counts.count(|counts| &counts.pages);
            }
            304 => counts.count(|counts| &counts.unchanged),
            503 => return Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
            status => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{status}: {body}"))),
        }
        sleep(PAGE_EVERY).await;
    }
}

/// Asks whether the node is well until it says so, and answers how long that took.
async fn health(to: SocketAddr, path: &str) -> Duration {
    let began = Clock::system().boot();
    let asking = async {
        loop {
            let answer = async {
                let mut client = Client::connect("127.0.0.3", to).await?;
                client.get(path, "connection: close\r\n").await
            };
            match answer.await {
                Ok(head) => return head.status,
                // Of connections beyond all bounds the oldest ends without an answer, and asks again.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    assert_eq!(timeout(LIMIT, asking).await.expect("it answers"), 200, "{path}");
    Clock::system().boot().since(began)
}

/// How long this machine keeps a process from a question to itself: nothing answers sooner on it.
async fn machine(listener: &tokio::net::TcpListener) -> Duration {
    let began = Clock::system().boot();
    let ask = async {
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stream.write_all(b"?").await.unwrap();
        stream.read_u8().await.unwrap()
    };
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(b"!").await.unwrap();
    };
    tokio::join!(ask, answer);
    Clock::system().boot().since(began)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_followers_and_a_hundred_open_pages_delay_neither_health_nor_jobs() {
    let place = Place::with(&jobs());
    let node = place.leader("a", &[]);
    let run = place.trigger("chatty");
    place.wait_for_state(&run, "running");
    let address: SocketAddr = place.json(&["status"])["nodes"][0]["address"].as_str().unwrap().parse().unwrap();
    let (counts, mut all) = (Arc::<Counts>::default(), JoinSet::new());
    let begin = Clock::system().wall();
    for nth in 0..FOLLOWERS.max(PAGES) {
        if nth < FOLLOWERS {
            all.spawn(follow(address, run.clone(), Arc::clone(&counts)));
        }
        if nth < PAGES {
            all.spawn(look(address, ["/", "/jobs"][nth % 2], Arc::clone(&counts)));
        }
    }
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut asked, mut slow) = (0, Vec::new());
    let over = sleep(LASTS);
    tokio::pin!(over);
    loop {
        for path in ["/healthz", "/readyz"] {
            let took = health(address, path).await;
            asked += 1;
            // What the machine itself holds up says nothing of the node.
            if took > HEALTH_WITHIN && machine(&echo).await < HEALTH_WITHIN / 10 {
                slow.push((path, took));
            }
        }
        tokio::select! {
            () = &mut over => break,
            Some(ended) = all.join_next() => panic!("one of those who look has ended: {ended:?}"),
            () = sleep(Duration::from_millis(100)) => {}
        }
    }
    let end = Clock::system().wall();
    all.abort_all();
    assert!(slow.is_empty() && asked > 20, "of {asked} questions these took too long: {slow:?}");
    came_to_look(&counts);
    for nth in 0..TICKS {
        all_fired(&place, &format!("tick-{nth}"), (begin, end));
    }
    let memory = memory_most(node.child.id());
    assert!(memory < MEMORY_MOST, "{memory} KiB");
    println!("{counts:?}, {asked} questions about health, {memory} KiB at most");
}

/// Those who look have seen something: otherwise it was no load.
fn came_to_look(counts: &Counts) {
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    assert!(of(&counts.told_to_come_again) >= FOLLOWERS - STREAMS_MOST, "{counts:?}");
    assert!(of(&counts.followed) > STREAMS_MOST, "those who come again find room: {counts:?}");
    assert!(of(&counts.events) > of(&counts.followed), "{counts:?}");
    assert!(of(&counts.pages) + of(&counts.unchanged) >= 3 * PAGES, "{counts:?}");
}

/// Each second's occurrence of the job between these instants was run.
fn all_fired(place: &Place, job: &str, (begin, end): (Wall, Wall)) {
    let instant = |row: &Value| row["scheduled_at"].as_str().unwrap().parse::<Wall>().unwrap();
    let mut rows = place.wait_for(&["runs", "--job", job, "--limit", "200"], |runs| {
        let rows = runs.as_array()?.iter().filter(|row| (begin..=end).contains(&instant(row)));
        let rows: Vec<Value> = rows.cloned().collect();
        rows.iter().all(|row| !row["finished_at"].is_null()).then_some(rows)
    });
    rows.sort_by_key(instant);
    assert!(rows.len() as u64 >= LASTS.as_secs() - 1, "{job}: {rows:#?}");
    for pair in rows.windows(2) {
        assert_eq!(instant(&pair[1]).since(instant(&pair[0])), Duration::from_secs(1), "{job}: {pair:#?}");
    }
    assert!(rows.iter().all(|row| row["state"] == "succeeded"), "{job}: {rows:#?}");
}

/// The most memory that a process has had, in KiB.
fn memory_most(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
