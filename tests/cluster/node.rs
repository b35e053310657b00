//! One `fencron run` process, life after life.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::support::program::{FENCRON, within};
use super::support::until;

/// A node that can be started, killed and started again. Killed when it is dropped, and with the test's thread.
pub struct Node {
    pub name: String,
    pub file: PathBuf,
    pub store: String,
    pub lives: u32,
    /// More arguments and variables for the next start.
    pub arguments: Vec<String>,
    pub variables: Vec<(String, String)>,
    directory: PathBuf,
    child: Option<Child>,
}

/// A place in a node's log: what stands behind it has been said since.
#[derive(Clone, Copy, Debug)]
pub struct Since(usize);

impl Node {
    pub fn new(name: &str, directory: &Path, file: &Path, store: String) -> Node {
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        Node {
            name: name.to_owned(),
            file: file.to_owned(),
            store,
            lives: 0,
            arguments: Vec::new(),
            variables: Vec::new(),
            directory,
            child: None,
        }
    }

    /// A `fencron` with the node's store and memory, and a command of the caller.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // The kernel kills what setpriv starts when the thread ends that started it, however that ends.
        let mut command = within(&self.directory, Command::new("setpriv"));
        command.args(["--pdeathsig", "KILL", "--", FENCRON, "--store", &self.store]).args(arguments);
        command
    }

    pub fn start(&mut self, ttl: Duration) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        self.lives += 1;
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let ttl = format!("{}ms", ttl.as_millis());
        let file = self.file.display().to_string();
        let fixed = ["run", &file, "--node", &self.name, "--ttl", &ttl];
        let mut command = self.command(&fixed);
        command.args(&self.arguments).envs(self.variables.iter().cloned());
        command.env("FENCRON_LOG", "info,fencron=debug").stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("setpriv is there: it is in Debian's util-linux, which is essential"));
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        Pid::from_raw(child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Has it stand still, between two writes: a process that is stopped amid a commit to a file keeps all others from
    /// writing to it until it goes on.
    pub async fn freeze(&self) {
        until(&format!("{} is stopped between two writes", self.name), async || {
            self.signal(Signal::SIGSTOP);
            until(&format!("{} is stopped", self.name), async || self.stands_still().then_some(())).await;
            if self.lets_others_write() {
                return Some(());
            }
            self.signal(Signal::SIGCONT);
            None
        })
        .await;
    }

    /// Whether each of its threads is stopped: they stop one after the other, after the signal is sent.
    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat"));
            stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
        })
    }

    fn lets_others_write(&self) -> bool {
        let Some(file) = self.store.strip_prefix("sqlite:") else { return true };
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
            Ok(()) => true,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => false,
            Err(error) => panic!("{file}: {error}"),
        }
    }

    /// Fails the test where it has ended though it should not have.
    pub fn expect_running(&self) {
        assert!(!ended(self.pid()), "{} has ended: {}", self.name, self.log());
    }

    /// Kills it, as the out-of-memory killer would.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let pid = self.pid();
        until(&format!("{} ends", self.name), async || ended(pid).then_some(())).await;
        self.child.take().expect("it has a process id").wait().unwrap()
    }

    /// Whether it has ended though it should not have.
    pub fn broke(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub fn log(&self) -> String {
        let mut text = Vec::new();
        File::open(self.log_path()).unwrap().read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The beginning of the log.
    pub fn begin(&self) -> Since {
        Since(0)
    }

    /// The present end of the log.
    pub fn now(&self) -> Since {
        Since(self.log().len())
    }

    pub fn said(&self, since: Since, what: &str) -> Option<String> {
        self.log()[since.0..].lines().find(|line| line.contains(what)).map(str::to_owned)
    }

    /// Runs a command of `fencron` with the node's store and memory, and answers how it ended, and what it printed and
    /// said.
    pub fn fencron(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Asks for data.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let (code, printed, said) = self.fencron(&[arguments, &["-o", "json"]].concat());
        assert_eq!(code, Some(0), "fencron {arguments:?}: {said}");
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("fencron {arguments:?}: {error}: {printed}"))
    }

    /// Waits until the log says it.
    pub async fn says(&self, since: Since, what: &str) -> String {
        until(&format!("{} says `{what}`", self.name), async || self.said(since, what)).await
    }

    /// What the listener of the present life answers: status and body.
    pub async fn http(&self, path: &str) -> (u16, String) {
        until(&format!("{} answers {path}", self.name), async || self.ask(path)).await
    }

    fn ask(&self, path: &str) -> Option<(u16, String)> {
        let log = self.log();
        let address = log.rsplit_once("listening on http://")?.1.split(' ').next()?;
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }
}

/// Whether a process of ours has ended. Leaves it to be reaped.
fn ended(pid: Pid) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    waitid(Id::Pid(pid), look).is_ok_and(|status| status != WaitStatus::StillAlive)
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
