//! Where it happens: a directory with a jobs file, a store, and processes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::program::fencron;
use crate::support::until;

/// How many start at once.
pub const MANY: usize = 50;

pub struct Scene {
    _alone: Alone,
    dir: TempDir,
    etcd: Option<Etcd>,
    /// `DATABASE_URL` of the processes.
    pub database: String,
}

/// One scene at a time: each starts fifty processes, and what is tested is not how many of them a machine bears.
struct Alone(&'static Semaphore);

static ROOM: Semaphore = Semaphore::const_new(1);

fn alone() -> Alone {
    loop {
        if let Ok(permit) = ROOM.try_acquire() {
            permit.forget();
            return Alone(&ROOM);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl Scene {
    pub fn over_sqlite() -> Scene {
        Scene { _alone: alone(), dir: tempfile::tempdir().unwrap(), etcd: None, database: String::new() }
    }

    pub async fn over_etcd() -> Scene {
        Scene {
            _alone: tokio::task::spawn_blocking(alone).await.unwrap(),
            dir: tempfile::tempdir().unwrap(),
            etcd: Some(Etcd::start(EtcdOptions::default()).await),
            database: String::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// The lines of a file; none where it is not there.
    pub fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub async fn wait_for_lines(&self, name: &str, count: usize) {
        until(&format!("{count} lines in {name}"), async || (self.lines(name).len() >= count).then_some(())).await;
    }

    pub fn store_url(&self) -> String {
        match &self.etcd {
            Some(etcd) => format!("etcd://{}", etcd.endpoint()),
            None => format!("sqlite:{}", self.path("store.db").display()),
        }
    }

    /// The server that is the store.
    pub fn server(&self) -> &Etcd {
        self.etcd.as_ref().expect("only etcd is a server")
    }

    /// Of the server that is the store.
    pub fn store_endpoint(&self) -> String {
        self.etcd.as_ref().expect("only etcd is a server").endpoint()
    }

    pub fn command(&self, store: &str, args: &[&str]) -> Command {
        let mut command = fencron(self.dir.path());
        command.args(["--store", store, "--namespace", "shop"]).args(args);
        command.env("DATABASE_URL", &self.database).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a process that is known by `node`. Its lock does not outlive it for long.
    pub fn start(&self, node: &str, args: &[&str]) -> Process {
        self.start_over(&self.store_url(), node, args)
    }

    pub fn start_over(&self, store: &str, node: &str, args: &[&str]) -> Process {
        self.start_with(store, &self.database, node, args)
    }

    pub fn start_with(&self, store: &str, database: &str, node: &str, args: &[&str]) -> Process {
        let (command, rest) = args.split_first().unwrap();
        let ttl = if node == "first" { TTL_OF_THE_KILLED } else { TTL };
        let args = [&[command, "--node", node, "--ttl", ttl], rest].concat();
        Process(Some(self.command(store, &args).env("DATABASE_URL", database).spawn().unwrap()))
    }

    /// Starts [`MANY`] at once, and waits for all of them.
    pub fn many(&self, args: &[&str]) -> Vec<Ran> {
        let all: Vec<Process> = (0..MANY).map(|number| self.start(&format!("n{number}"), args)).collect();
        all.into_iter().map(Process::end).collect()
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran(self.command(&self.store_url(), args).output().unwrap())
    }

    /// The migrations as `migrate status` shows them.
    pub fn status(&self) -> Vec<Value> {
        let ran = self.run(&["migrate", "status", "-o", "json"]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        serde_json::from_str(&ran.stdout()).unwrap()
    }

    pub fn state(&self, id: &str) -> String {
        let status = self.status();
        let migration = status.iter().find(|migration| migration["id"] == id).expect("it is listed");
        migration["state"].as_str().unwrap().to_owned()
    }
}

/// Long enough for fifty processes on a busy machine; and for how long those wait, at most, when one was killed.
const TTL: &str = "30s";
const TTL_OF_THE_KILLED: &str = "6s";

/// A process, killed when it is dropped.
pub struct Process(Option<Child>);

impl Process {
    pub fn kill(&mut self) {
        let child = self.0.as_mut().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    pub fn terminate(&self) {
        let child = self.0.as_ref().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    }

    /// Waits until none of its children is left but its supervisor, which is there as long as itself.
    pub async fn wait_for_no_children(&self) {
        let pid = self.0.as_ref().unwrap().id();
        let tasks = std::path::PathBuf::from(format!("/proc/{pid}/task"));
        until("it has no children", async || {
            let tasks = fs::read_dir(&tasks).unwrap().flatten();
            let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
            let is_command = |child: &&str| {
                let named = fs::read_to_string(format!("/proc/{child}/cmdline"));
                named.is_ok_and(|name| !name.starts_with("fencron-supervisor"))
            };
            let children = children.collect::<String>();
            children.split_whitespace().find(is_command).is_none().then_some(())
        })
        .await;
    }

    /// The lines that it writes, as they come.
    pub fn stdout(&mut self) -> mpsc::Receiver<String> {
        lines_of(self.0.as_mut().unwrap().stdout.take().unwrap())
    }

    /// Its messages, as they come.
    pub fn stderr(&mut self) -> mpsc::Receiver<String> {
        lines_of(self.0.as_mut().unwrap().stderr.take().unwrap())
    }

    pub fn end(mut self) -> Ran {
        Ran(self.0.take().unwrap().wait_with_output().unwrap())
    }
}

fn lines_of(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let from = BufReader::new(from);
    std::thread::spawn(move || from.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A process that has ended.
pub struct Ran(Output);

impl Ran {
    pub fn code(&self) -> i32 {
        self.0.status.code().expect("it ended by itself")
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    pub fn ends(&self, code: i32, says: &[&str]) {
        let stderr = self.stderr();
        assert_eq!(self.code(), code, "{stderr}");
        for words in says {
            assert!(stderr.contains(words), "`{words}` is not in: {stderr}");
        }
    }
}
