//! Nodes whose metrics are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::ports::Port;
use crate::support::program::fencron;

/// Waits until `ask` has an answer. What went wrong instead is said by `why`.
pub fn until<T>(what: &str, why: impl Fn() -> String, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE.as_millis() / 50 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what}: not within {PATIENCE:?}; {}", why());
}

/// A directory with a jobs file and a store.
pub struct Place(TempDir);

impl Place {
    pub fn with(jobs: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.write(jobs);
        place
    }

    /// Puts another jobs file in the place of the one before.
    pub fn write(&self, jobs: &str) {
        std::fs::write(self.path().join("next.yaml"), jobs).unwrap();
        std::fs::rename(self.path().join("next.yaml"), self.path().join("jobs.yaml")).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs a command of the program, which has to succeed.
    pub fn fencron(&self, arguments: &[&str]) {
        let why = || format!("fencron {arguments:?}");
        until("the command succeeds", why, || {
            let ran = fencron(self.path()).args(arguments).output().unwrap();
            ran.status.success().then_some(())
        });
    }

    pub fn node(&self, name: &str, more: &[&str]) -> Node {
        let port = Port::free();
        let log = File::create(self.path().join(format!("{name}.log"))).unwrap();
        let listen = format!("127.0.0.1:{}", port.number());
        let mut command = fencron(self.path());
        command.args(["run", "--node", name, "--ttl", "2s", "--listen", &listen]).args(more);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Node { child, port, log: self.path().join(format!("{name}.log")) }
    }
}

/// A process with a listener, killed when this is dropped.
pub struct Node {
    child: Child,
    port: Port,
    log: std::path::PathBuf,
}

impl Node {
    pub fn new(command: &mut Command, port: Port, log: &Path) -> Node {
        let file = File::create(log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).stdin(Stdio::null()).spawn().unwrap();
        Node { child, port, log: log.to_owned() }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it answers, head and body; `None`: nothing yet.
    pub fn ask(&self, path: &str, accept: &str) -> Option<(String, String)> {
        self.send(path, &[("Host", &self.address()), ("Accept", accept)])
    }

    /// The same by another name of the node.
    pub fn ask_as(&self, host: &str, path: &str) -> Option<(String, String)> {
        self.send(path, &[("Host", host)])
    }

    fn send(&self, path: &str, headers: &[(&str, &str)]) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number())).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("GET {path} HTTP/1.0\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.to_owned(), body.to_owned()))
    }

    /// Its metrics, as text.
    pub fn page(&self) -> String {
        until(
            "the metrics are answered",
            || self.log(),
            || {
                let (head, body) = self.ask("/metrics", "*/*")?;
                assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
                assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
                Some(body)
            },
        )
    }

    /// Its metrics, by name and labels, without the label that all of them have.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let page = self.page();
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let read = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let series =
                series.replace(r#"fencron_namespace="shop","#, "").replace(r#"{fencron_namespace="shop"}"#, "");
            assert!(!series.contains("fencron_namespace"), "{series}");
            (series, value.parse().unwrap())
        });
        read.collect()
    }

    /// Waits until a metric is as it should be.
    pub fn comes_to(&self, series: &str, should: impl Fn(f64) -> bool) {
        let last = std::cell::Cell::new(None);
        let why = || format!("it is {:?}; the log:\n{}", last.get(), self.log());
        until(series, why, || {
            last.set(self.metrics().get(series).copied());
            last.get().filter(|value| should(*value)).map(drop)
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
