//! A proxy that lets everything pass until a request with certain words in it: from there on it holds either that
//! request, so that it never arrives, or every answer, so that nobody learns what became of it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::soon;

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Catch {
    /// The request with the words, and every one after it.
    Request,
    /// All answers from when the request with the words came.
    Answers,
}

/// Stands between one process and a server. Ends when it is dropped.
pub struct Snare {
    address: SocketAddr,
    caught: watch::Receiver<bool>,
    accepting: JoinHandle<()>,
}

struct Rule {
    words: Vec<u8>,
    catch: Catch,
    caught: watch::Sender<bool>,
}

impl Snare {
    pub async fn set(upstream: &str, words: &str, catch: Catch) -> Snare {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, caught) = watch::channel(false);
        let rule = Arc::new(Rule { words: words.into(), catch, caught: sender });
        let upstream = upstream.to_owned();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Ok(server) = TcpStream::connect(&upstream).await else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let (requests, answers) = (Arc::clone(&rule), Arc::clone(&rule));
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry_requests(from_client, to_server, requests) => {}
                        () = carry_answers(from_server, to_client, answers) => {}
                    }
                });
            }
        });
        Snare { address, caught, accepting }
    }

    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Waits until the words came.
    pub async fn caught(&mut self) {
        soon("the words come", self.caught.wait_for(|caught| *caught)).await.unwrap();
    }
}

impl Drop for Snare {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry_requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, rule: Arc<Rule>) {
    let mut buffer = vec![0; 64 << 10];
    // The end of what was carried: the words may come in two pieces.
    let mut seen = Vec::new();
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        seen.extend_from_slice(&buffer[..read]);
        if seen.windows(rule.words.len()).any(|window| window == rule.words) {
            rule.caught.send_replace(true);
        }
        if *rule.caught.borrow() && rule.catch == Catch::Request {
            std::future::pending::<()>().await;
        }
        seen.drain(..seen.len().saturating_sub(rule.words.len()));
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn carry_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, rule: Arc<Rule>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if *rule.caught.borrow() && rule.catch == Catch::Answers {
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
