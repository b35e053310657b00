//! That nobody who connects to a node's listener keeps others from hearing whether it is well.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::until;
use crate::{LIMIT, Place};

/// More than there is room for.
const CLIENTS: usize = 300;

/// How often each of them asks, without taking an answer: more than the buffers between them hold.
const QUESTIONS: usize = 200;

/// A job that goes on, and has written more than is kept of what a run writes.
const WORDY: &str = "
version: 1
namespace: shop
jobs:
  wordy: {schedule: '@at 2099-01-01T00:00:00Z', shell: 'seq 1 30000; while :; do sleep 1; done', kill_after: 1s}
";

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    // Little of what is answered is to be on its way.
    socket.set_recv_buffer_size(4096).unwrap();
    timeout(LIMIT, socket.connect(to)).await.expect("it is accepted").unwrap()
}

/// The status of the answer; 0: none came in time.
async fn ask(from: &str, to: SocketAddr, path: &str) -> u16 {
    let asking = async {
        let mut stream = connect(from, to).await;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(Duration::from_secs(20), asking).await;
    answer.ok().and_then(Result::ok).and_then(|answer| answer.get(9..12)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_keep_nobody_from_asking_whether_a_node_is_well() {
    let place = Place::with(WORDY);
    let _node = place.leader("a", &[]);
    let run = place.trigger("wordy");
    place.wait_for_state(&run, "running");
    let address: SocketAddr = place.json(&["status"])["nodes"][0]["address"].as_str().unwrap().parse().unwrap();
    let question = format!("GET /api/v1/runs/{run}/output HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(QUESTIONS);
    let mut stuck = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = connect("127.0.0.1", address).await;
        let question = question.clone();
        stuck.push(tokio::spawn(async move {
            // It ends with an error where the node hangs up, and not at all where nobody reads.
            stream.write_all(question.as_bytes()).await.ok();
            std::future::pending::<()>().await;
        }));
    }
    for path in ["/healthz", "/readyz"].repeat(10) {
        assert_eq!(ask("127.0.0.1", address, path).await, 200, "{path}");
    }
    // Who has another address finds room for everything.
    assert_eq!(ask("127.0.0.2", address, "/api/v1/status").await, 200);
    // And so does everybody when those who take nothing have been given up.
    let room = async || (ask("127.0.0.1", address, "/api/v1/status").await == 200).then_some(());
    until("those who take nothing have been given up", room).await;
    for task in stuck {
        task.abort();
    }
}
