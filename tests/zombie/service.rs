//! A service that does whatever it is asked to, and remembers on whose authority.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use tokio::net::TcpListener;

use super::support::program::fencron;

/// A service on a port of its own. It ends with the test's runtime.
pub struct Service {
    address: String,
    accepted: Arc<Mutex<Vec<u64>>>,
}

impl Service {
    pub async fn start() -> Service {
        let accepted: Arc<Mutex<Vec<u64>>> = Arc::default();
        let list = accepted.clone();
        let effect = move |headers: HeaderMap| async move {
            let fence = headers["fencing-token"].to_str().unwrap().parse().unwrap();
            list.lock().unwrap().push(fence);
            "done\n"
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().route("/effect", post(effect));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Service { address, accepted }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The fences of the effects that were made, in their order.
    pub fn accepted(&self) -> Vec<u64> {
        self.accepted.lock().unwrap().clone()
    }
}

/// `fencron guard proxy` in front of a service, which knows nothing of it.
pub struct GuardProxy {
    child: Child,
    address: String,
}

impl GuardProxy {
    pub fn start(service: &Service) -> GuardProxy {
        let upstream = format!("http://{}", service.address());
        let mut child = fencron(&std::env::temp_dir())
            .args(["guard", "proxy", "--listen", "127.0.0.1:0", "--upstream", &upstream, "--state", "memory"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "the proxy has ended");
            if let Some((_, address)) = line.split_once(" on http://") {
                break address.split([',', ' ', '\n']).next().unwrap().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        GuardProxy { child, address }
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for GuardProxy {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
