//! The nodes of a drill: child processes of this program, and what is done to them.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::cli::handover::Handover;
use crate::store::StoreUrl;
use crate::time::written;

/// How long a node has to be gone after it was killed, and to stand still after it was stopped.
const FAULT_WITHIN: Duration = Duration::from_secs(10);

/// How long a node has to end by itself before it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether a process stands still.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How much of the end of a log is shown.
const LAST_LINE_MOST: usize = 300;

/// What the nodes have in common.
pub(super) struct Cast {
    pub directory: PathBuf,
    pub file: PathBuf,
    pub namespace: String,
    pub ttl: Duration,
}

/// A node that can be started, ended and started again. It is killed when this is dropped, or when this process ends.
pub(super) struct Node {
    pub name: &'static str,
    directory: PathBuf,
    arguments: Vec<OsString>,
    /// What it finds the store by. A file with a password lives as long as this.
    store: Handover,
    child: Option<Child>,
}

impl Node {
    /// A node of its own directory. It is not started yet.
    pub fn new(name: &'static str, cast: &Cast, url: &StoreUrl) -> io::Result<Node> {
        let directory = cast.directory.join(name);
        std::fs::create_dir(&directory)?;
        let store = Handover::new(url, &directory)?;
        let fixed = ["--node", name, "--listen", "127.0.0.1:0", "--shutdown-grace", "2s"].map(OsString::from);
        let mut arguments: Vec<OsString> = vec!["run".into(), cast.file.clone().into()];
        arguments.extend(fixed);
        let named = [("--ttl", written(cast.ttl)), ("--namespace", cast.namespace.clone())];
        arguments.extend(named.into_iter().flat_map(|(option, value)| [option.into(), value.into()]));
        arguments.extend(["--state-dir".into(), directory.join("state").into()]);
        Ok(Node { name, directory, arguments, store, child: None })
    }

    /// Starts it. What it says goes to its log.
    pub fn start(&mut self) -> io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("fencron").args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // Settings of this user's nodes, their spans and their supervisor are not those of a drill.
        let is_foreign = |name: &str| {
            let lower = name.to_ascii_lowercase();
            let begins = ["FENCRON_", "OTEL_"].iter().any(|begin| name.starts_with(begin));
            begins || lower.ends_with("_proxy") || ["RUST_LOG", "NOTIFY_SOCKET", "STATE_DIRECTORY"].contains(&name)
        };
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_foreign) {
                command.env_remove(name);
            }
        }
        command.envs(self.store.variables()).env("FENCRON_LOG", "info");
        // Ctrl-C is for the drill, which ends its nodes itself.
        command.process_group(0).kill_on_drop(true);
        die_with_this_process(&mut command);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref()?.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = self.pid().ok_or_else(|| format!("the node {} does not run", self.name))?;
        kill(pid, signal).map_err(|error| format!("{signal} cannot be sent to the node {}: {error}", self.name))
    }

    /// How it has ended, where nothing of the drill ended it.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        Some(format!("{status}: {}", last_line(&self.log())))
    }

    /// Kills it, as the out-of-memory killer would.
    ///
    /// # Errors
    ///
    /// Where it did not end, or not by that.
    pub async fn kill(&mut self) -> Result<(), String> {
        self.signal(Signal::SIGKILL)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        match tokio::time::timeout(FAULT_WITHIN, child.wait()).await {
            Ok(Ok(status)) if status.signal() == Some(Signal::SIGKILL as i32) => Ok(()),
            Ok(Ok(status)) => Err(format!("the node {} ended with {status} when it was killed", self.name)),
            Ok(Err(error)) => Err(format!("the node {} cannot be waited for: {error}", self.name)),
            Err(_) => Err(format!("the node {} did not end when it was killed", self.name)),
        }
    }

    /// Has it stand still.
    ///
    /// # Errors
    ///
    /// Where it does not.
    pub async fn stop(&self) -> Result<(), String> {
        self.signal(Signal::SIGSTOP)?;
        let pid = self.pid().ok_or_else(|| format!("the node {} does not run", self.name))?;
        let standing = async {
            while !stands_still(pid) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let stood = tokio::time::timeout(FAULT_WITHIN, standing).await;
        stood.map_err(|_| format!("the node {} runs on though it was stopped", self.name))
    }

    /// Has it go on.
    pub fn go_on(&self) -> Result<(), String> {
        self.signal(Signal::SIGCONT)
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) {
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            if let Err(error) = self.signal(signal) {
                tracing::debug!(%error, "it is gone");
            }
        }
    }

    /// Waits until it has ended, and kills it where it does not.
    pub async fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err()
            && let Err(error) = child.kill().await
        {
            tracing::warn!(%error, node = self.name, "a node of the drill cannot be killed");
        }
    }
}

/// The kernel kills it when the thread ends that starts it: the main one.
fn die_with_this_process(command: &mut Command) {
    let hook = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: between fork and exec it makes one system call, on no memory.
    #[expect(unsafe_code, reason = "there is no safe way to do anything between fork and exec")]
    unsafe {
        command.pre_exec(hook);
    }
}

/// Whether each thread of the process is stopped: they stop one after the other, after the signal was sent.
fn stands_still(pid: Pid) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat"));
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
    })
}

/// The last line of a log, for a message.
pub(super) fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().chars().take(LAST_LINE_MOST).collect()
}
