//! Where it happens: a directory, a store, and processes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::program::{FENCRON, within};
use crate::support::{PATIENCE, soon, until};

/// Nobody else is to be at it meanwhile. What it starts has the open file too, so that it tells whether anything is left.
pub const ALONE: &str = "exec 9>>witness; flock -n 9 || echo overlap >> overlaps; echo $FENCRON_FENCE >> begun; ";

pub struct Scene {
    dir: TempDir,
    etcd: Option<Etcd>,
}

impl Scene {
    pub fn over_sqlite() -> Scene {
        Scene { dir: tempfile::tempdir().unwrap(), etcd: None }
    }

    pub async fn over_etcd() -> Scene {
        Scene { dir: tempfile::tempdir().unwrap(), etcd: Some(Etcd::start(EtcdOptions::default()).await) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The lines of a file; none where it is not there.
    pub fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub async fn wait_for_lines(&self, name: &str, count: usize) -> Vec<String> {
        until(&format!("{count} lines in {name}"), async || Some(self.lines(name)).filter(|lines| lines.len() >= count))
            .await
    }

    /// The fences under which commands have begun, in their order. There was never more than one at once.
    #[track_caller]
    pub fn fences(&self) -> Vec<u64> {
        assert_eq!(self.lines("overlaps"), [""; 0]);
        let fences: Vec<u64> = self.lines("begun").iter().map(|fence| fence.parse().unwrap()).collect();
        assert!(fences.is_sorted_by(|one, other| one < other), "{fences:?}");
        fences
    }

    pub fn store_url(&self) -> String {
        match &self.etcd {
            Some(etcd) => format!("etcd://{}", etcd.endpoint()),
            None => format!("sqlite:{}", self.path("store.db").display()),
        }
    }

    /// The server that is the store.
    pub fn server(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("only etcd is a server")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.within(Command::new(FENCRON), args)
    }

    /// A command in the scene's directory, that finds its store.
    pub fn within(&self, command: Command, args: &[&str]) -> Command {
        let mut command = within(self.dir.path(), command);
        command.env("FENCRON_STORE", self.store_url()).env("FENCRON_NAMESPACE", "shop");
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn start(&self, args: &[&str]) -> Process {
        Process::spawn(self.command(args))
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// What `locks` says of one of them.
    pub fn listed(&self, name: &str) -> Option<Value> {
        let ran = self.run(&["locks", name, "-o", "json"]);
        ran.ends(0, &[]);
        let all: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
        all.into_iter().find(|listed| listed["name"] == name)
    }

    pub async fn wait_for_waiting(&self, name: &str, count: usize) -> Value {
        until(&format!("{count} wait for {name}"), async || {
            self.listed(name).filter(|listed| listed["waiting"] == count)
        })
        .await
    }
}

/// A process, killed when it is dropped: its supervisor ends what it has started.
pub struct Process {
    child: Child,
    stderr: Arc<Mutex<String>>,
}

impl Process {
    pub fn spawn(mut command: Command) -> Process {
        Process::of(command.spawn().unwrap())
    }

    pub fn of(mut child: Child) -> Process {
        let (stderr, heard) = (child.stderr.take().unwrap(), Arc::new(Mutex::new(String::new())));
        let lines = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *lines.lock().unwrap() += &(line + "\n");
            }
        });
        Process { child, stderr: heard }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits until it has said this on stderr.
    pub async fn wait_for(&self, words: &str) {
        until(words, async || self.stderr.lock().unwrap().contains(words).then_some(())).await;
    }

    /// What it has said on stderr so far.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        until("it ends", async || child.lock().unwrap().try_wait().unwrap()).await
    }

    /// Waits for its end, and for all that it wrote.
    pub async fn end(mut self) -> Ran {
        let mut stdout = self.child.stdout.take().unwrap();
        let (sender, read) = tokio::sync::oneshot::channel();
        // A thread that nobody waits for: what holds the output open may never end.
        std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| sender.send(text)).unwrap()
        });
        let status = self.ended().await;
        let stdout = soon("its output ends", read).await.unwrap();
        let stderr = self.stderr.lock().unwrap().clone();
        Ran { status, stdout, stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub fn ends(&self, code: i32, says: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{}", self.stderr);
        for words in says {
            assert!(self.stderr.contains(words), "`{words}` is not in: {}", self.stderr);
        }
    }
}

/// Waits until a process is gone.
pub async fn gone(pid: &str) {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let dead = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    until(&format!("{pid} is gone within {PATIENCE:?}"), async || {
        fs::read_to_string(&path).map_or(Some(()), |stat| dead(stat).then_some(()))
    })
    .await;
}
