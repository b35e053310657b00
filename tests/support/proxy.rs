//! A TCP proxy between a client and a server, which loses things on demand.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of what is sent in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Pass,
    /// Nothing arrives, and nobody is told. When the flow passes again, what was held arrives: TCP sends it anew.
    Hold,
    /// As [`Flow::Hold`], from the first piece on that has this text in it.
    HoldFrom(&'static str),
    /// All arrives this much later.
    Delay(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    requests: Flow,
    answers: Flow,
    /// Connections are reset as soon as they are made.
    refusing: bool,
    /// Connections made before the last cut are over.
    cuts: u64,
    /// On connections made before the last of these nothing passes any more.
    strandings: u64,
    /// On connections made before the last of these nothing passes until they are released.
    detentions: u64,
    detained: bool,
}

/// Stands between clients and one server. Ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    rules: watch::Sender<Rules>,
    /// How many times something was read that may not go on yet.
    holds: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy for the server at `upstream` (`host:port`), passing everything.
    pub async fn start(upstream: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (rules, seen) = watch::channel(Rules {
            requests: Flow::Pass,
            answers: Flow::Pass,
            refusing: false,
            cuts: 0,
            strandings: 0,
            detentions: 0,
            detained: false,
        });
        let holds = watch::Sender::new(0);
        let accepting = tokio::spawn(accept(listener, upstream.to_owned(), seen, holds.clone()));
        Proxy { address, rules, holds, accepting }
    }

    /// Where clients are to connect.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Everything passes, in both directions, also what was held.
    pub fn pass(&self) {
        self.set(|rules| (rules.requests, rules.answers, rules.refusing) = (Flow::Pass, Flow::Pass, false));
    }

    /// Nothing passes in either direction; connections are still taken.
    pub fn hold(&self) {
        self.set(|rules| (rules.requests, rules.answers) = (Flow::Hold, Flow::Hold));
    }

    pub fn requests(&self, flow: Flow) {
        self.set(|rules| rules.requests = flow);
    }

    pub fn answers(&self, flow: Flow) {
        self.set(|rules| rules.answers = flow);
    }

    /// Resets every connection there is. New ones are taken.
    pub fn cut(&self) {
        self.set(|rules| rules.cuts += 1);
    }

    /// Resets every connection, and every new one, until [`Proxy::pass`].
    pub fn refuse(&self) {
        self.set(|rules| {
            rules.cuts += 1;
            rules.refusing = true;
        });
    }

    /// Nothing passes any more on the connections there are, and nobody is told, as when a firewall forgets them. New
    /// ones work.
    pub fn strand(&self) {
        self.set(|rules| rules.strandings += 1);
    }

    /// Nothing passes on the connections there are until [`Proxy::release`]; new ones work meanwhile.
    pub fn detain(&self) {
        self.set(|rules| {
            rules.detentions += 1;
            rules.detained = true;
        });
    }

    /// What was detained goes on.
    pub fn release(&self) {
        self.set(|rules| rules.detained = false);
    }

    /// Waits until something is held back, by whatever rule, that has not been waited for.
    pub async fn holds_something(&self) {
        let mut holds = self.holds.subscribe();
        super::soon("the proxy holds something", holds.wait_for(|holds| *holds > 0)).await.unwrap();
        self.holds.send_replace(0);
    }

    fn set(&self, change: impl FnOnce(&mut Rules)) {
        self.rules.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, upstream: String, rules: watch::Receiver<Rules>, holds: watch::Sender<u64>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (upstream, rules, holds) = (upstream.clone(), rules.clone(), holds.clone());
        tokio::spawn(async move {
            client.set_zero_linger().unwrap();
            client.set_nodelay(true).unwrap();
            let made = *rules.borrow();
            if made.refusing {
                return;
            }
            let Ok(server) = TcpStream::connect(upstream).await else { return };
            server.set_nodelay(true).unwrap();
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let mut watched = rules.clone();
            let stuck = |rules: &Rules, flow| {
                let detained = rules.detained && rules.detentions > made.detentions;
                if detained || rules.strandings > made.strandings { Flow::Hold } else { flow }
            };
            tokio::select! {
                () = pump(from_client, to_server, rules.clone(), &holds, |rules| stuck(rules, rules.requests)) => {}
                () = pump(from_server, to_client, rules.clone(), &holds, |rules| stuck(rules, rules.answers)) => {}
                _ = watched.wait_for(|rules| rules.cuts > made.cuts) => {}
            }
        });
    }
}

/// Carries what is read on, as the flow allows, until one end closes.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut rules: watch::Receiver<Rules>,
    holds: &watch::Sender<u64>,
    flow: impl Fn(&Rules) -> Flow,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let holding = |flow: Flow| match flow {
            Flow::Hold => true,
            Flow::HoldFrom(text) => buffer[..read].windows(text.len()).any(|piece| piece == text.as_bytes()),
            Flow::Pass | Flow::Delay(_) => false,
        };
        if holding(flow(&rules.borrow())) {
            holds.send_modify(|holds| *holds += 1);
        }
        let flowing = match rules.wait_for(|rules| !holding(flow(rules))).await {
            Ok(rules) => flow(&rules),
            Err(_) => return,
        };
        if let Flow::Delay(delay) = flowing {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
