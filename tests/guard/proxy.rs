//! `fencron guard proxy`, in front of a service of this process.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;

use axum::Router;
use axum::extract::State;
use http::HeaderMap;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::door::{Door, Got, Place, Sent};
use super::layer::{got, headers};
use super::service::Service;
use crate::support::PATIENCE;
use crate::support::program::fencron;

pub struct ProxyDoor {
    pub place: Place,
    pub service: Service,
    pub upstream: String,
    upstream_task: JoinHandle<()>,
    options: Vec<String>,
    pub process: ProxyProcess,
}

impl ProxyDoor {
    pub async fn open(place: Place, options: &[&str]) -> ProxyDoor {
        let service = Service::new();
        let router = Router::new()
            .fallback(async |State(service): State<Service>, headers: HeaderMap, body: String| {
                service.answer(&headers, &body).await
            })
            .with_state(service.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = format!("http://{}", listener.local_addr().unwrap());
        let upstream_task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let process = ProxyProcess::start(&upstream, &place.url, &options);
        ProxyDoor { place, service, upstream, upstream_task, options, process }
    }

    /// Kills the guard in the middle, and starts another one, told `options` as well.
    pub fn crash(&mut self, options: &[&str]) {
        self.process.signal(Signal::SIGKILL);
        self.process.child.wait().unwrap();
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self.process = ProxyProcess::start(&self.upstream, &self.place.url, &self.options);
    }
}

impl Drop for ProxyDoor {
    fn drop(&mut self) {
        self.upstream_task.abort();
    }
}

/// A client that does not follow redirects, and takes no proxy from the environment.
pub fn client() -> Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder().no_proxy().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// The guard's process; killed when dropped.
pub struct ProxyProcess {
    pub child: Child,
    pub url: String,
    client: Client,
    lines: mpsc::Receiver<String>,
}

impl ProxyProcess {
    pub fn start(upstream: &str, state: &str, options: &[String]) -> ProxyProcess {
        let mut child = fencron(&std::env::temp_dir())
            .args(["guard", "proxy", "--listen", "127.0.0.1:0", "--upstream", upstream])
            .args(options)
            .env("FENCRON_GUARD_STATE", state)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let from = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || from.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut process = ProxyProcess { child, url: String::new(), client: client(), lines };
        let line = process.line("guarding");
        assert!(!line.contains("hunter2"), "{line}");
        let address = line.split(" on ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
        process.url = address.to_owned();
        process
    }

    /// The next line with `words` in it.
    pub fn line(&self, words: &str) -> String {
        let mut before = String::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => before += &line,
                Err(_) => panic!("`{words}` never came; before: {before}"),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Door for ProxyDoor {
    async fn send(&self, sent: Sent<'_>) -> Got {
        let request = self.process.post("/orders?x=1").headers(headers(sent)).body(sent.payload.to_owned());
        match request.send().await {
            Ok(response) => {
                let (status, headers) = (response.status(), response.headers().clone());
                got(status, &headers, &response.bytes().await.unwrap())
            }
            Err(error) => Got::Other(format!("{error:?}")),
        }
    }

    async fn effects(&self) -> Vec<String> {
        self.service.marks()
    }

    async fn begun(&self, count: usize) {
        self.service.begun(count).await;
    }

    fn release(&self) {
        self.service.release();
    }

    fn fail(&self, failing: bool) {
        self.service.fail(failing);
    }

    async fn restart(&mut self) {
        self.process.signal(Signal::SIGTERM);
        assert!(self.process.child.wait().unwrap().success());
        self.process = ProxyProcess::start(&self.upstream, &self.place.url, &self.options);
    }
}
