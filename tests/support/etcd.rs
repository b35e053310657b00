//! Real etcd servers, started for a test and gone with it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use fencron::store::etcd::{EtcdConfig, EtcdStore};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::certificates::Certificates;
use super::ports::Port;
use super::{soon, until};

/// How a server is to be run.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// More arguments for the server.
    pub arguments: Vec<String>,
    /// Clients talk TLS, and must show a certificate of the same authority. The files are those of [`Certificates`].
    pub tls: Option<PathBuf>,
}

impl EtcdOptions {
    pub fn with(arguments: &[&str]) -> EtcdOptions {
        EtcdOptions { arguments: arguments.iter().map(|&argument| argument.into()).collect(), tls: None }
    }

    pub fn tls(certificates: &Certificates) -> EtcdOptions {
        let directory = certificates.path("ca.pem").parent().unwrap().to_owned();
        EtcdOptions { arguments: Vec::new(), tls: Some(directory) }
    }
}

/// One server, alone or a member of a cluster. Killed when it is dropped, and when the test's process ends.
pub struct Etcd {
    name: String,
    client_port: Port,
    peer_port: Port,
    /// `name=url` of every member.
    cluster: String,
    options: EtcdOptions,
    directory: tempfile::TempDir,
    running: Option<Running>,
}

/// A server's process, under a shell that kills it as soon as our end of its standard input closes: when it is
/// dropped, and also when this process dies without a chance to drop anything.
struct Running {
    shell: Child,
    server: Pid,
}

impl Running {
    fn start(mut arguments: Vec<String>, log: &Path) -> Running {
        const SCRIPT: &str = r#"log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!; read -r _; kill -9 $!; wait"#;
        let mut all = vec!["-c".into(), SCRIPT.into(), "etcd".into(), log.display().to_string(), binary()];
        all.append(&mut arguments);
        let mut shell = Command::new("sh")
            .args(all)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Running { shell, server: Pid::from_raw(line.trim().parse().unwrap()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}

/// The server to run: `FENCRON_ETCD_BIN`, or the one that is installed.
fn binary() -> String {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let binary = std::env::var("FENCRON_ETCD_BIN").unwrap_or_else(|_| "etcd".into());
            let works = Command::new(&binary).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(
                works.is_ok_and(|status| status.success()),
                "`{binary}` cannot be run: these tests need a real etcd. `tests/run` installs it (Debian: etcd-server, \
                 etcd-client), or set FENCRON_ETCD_BIN to one"
            );
            binary
        })
        .clone()
}

/// Runs etcdctl, and answers what it printed.
fn etcdctl(arguments: &[&str]) -> String {
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(arguments).output();
    let output = output.expect("etcdctl is installed: `tests/run` installs it (Debian: etcd-client)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "etcdctl {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

impl Etcd {
    /// A cluster of one, ready to serve.
    pub async fn start(options: EtcdOptions) -> Etcd {
        let mut etcd = Etcd::member("alone", options);
        etcd.cluster = format!("alone=http://127.0.0.1:{}", etcd.peer_port.number());
        etcd.launch();
        etcd.ready().await;
        etcd
    }

    fn member(name: &str, options: EtcdOptions) -> Etcd {
        let (client_port, peer_port) = (Port::free(), Port::free());
        let directory = tempfile::tempdir().unwrap();
        Etcd { name: name.into(), client_port, peer_port, cluster: String::new(), options, directory, running: None }
    }

    /// Where clients are to connect.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port.number())
    }

    /// How to reach it, alone.
    pub fn config(&self) -> EtcdConfig {
        EtcdConfig::new([self.endpoint()]).unwrap()
    }

    /// A store in it.
    pub async fn store(&self) -> EtcdStore {
        EtcdStore::connect(self.config()).await.unwrap()
    }

    /// etcd's own client, for what the store does not do. Asks without a user.
    pub async fn client(&self) -> Client {
        Client::connect([self.endpoint()], None).await.unwrap()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn launch(&mut self) {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.client_port.number());
        let peer = format!("http://127.0.0.1:{}", self.peer_port.number());
        let data = self.data().display().to_string();
        let mut arguments: Vec<String> = [
            "--name",
            &self.name,
            "--data-dir",
            &data,
            "--logger",
            "zap",
            "--log-outputs",
            "stderr",
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &self.cluster,
        ]
        .map(String::from)
        .into();
        if let Some(directory) = &self.options.tls {
            let path = |file: &str| directory.join(file).display().to_string();
            arguments.extend(["--client-cert-auth".into(), "--trusted-ca-file".into(), path("ca.pem")]);
            arguments.extend(["--cert-file".into(), path("server.pem"), "--key-file".into(), path("server.key")]);
        }
        arguments.extend(self.options.arguments.iter().cloned());
        self.running = Some(Running::start(arguments, &self.log()));
    }

    /// Waits until it serves: until it knows a leader.
    pub async fn ready(&self) {
        if self.options.tls.is_some() {
            // Who connects has the certificates, and waits with them.
            until("etcd listens", async || std::net::TcpStream::connect(self.endpoint()).ok()).await;
            return;
        }
        let options = ConnectOptions::new().with_require_leader(true);
        until(&format!("etcd serves (its log: {})", self.log().display()), async || {
            let mut client = Client::connect([self.endpoint()], Some(options.clone())).await.ok()?;
            tokio::time::timeout(Duration::from_secs(2), client.status()).await.ok()?.ok()
        })
        .await;
    }

    /// Kills it, and starts another cluster in its place, with no data and an id of its own.
    pub fn rebuild(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.data()).unwrap();
        self.options.arguments.extend(["--initial-cluster-token".into(), "anew".into()]);
        self.launch();
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it again after [`Etcd::kill`], with the same data and ports, without waiting until it serves.
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "it is still running");
        self.launch();
    }

    /// Starts it again after [`Etcd::kill`] with one more argument and its value.
    pub async fn restart_with(&mut self, argument: &str, value: &str) {
        self.options.arguments.extend([argument.to_owned(), value.to_owned()]);
        self.restart();
        self.ready().await;
    }

    fn signal(&self, signal: Signal) {
        kill(self.running.as_ref().expect("it is running").server, signal).unwrap();
    }

    /// Freezes it: its connections stay, and it answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        // Its threads stop one after the other, after the signal is sent: until all have, it may still answer.
        let tasks = format!("/proc/{}/task", self.running.as_ref().expect("it is running").server);
        let stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
            stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
        };
        while !std::fs::read_dir(&tasks).unwrap().all(stopped) {
            std::thread::yield_now();
        }
    }

    /// Lets it go on after [`Etcd::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Runs etcdctl against it.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        etcdctl(&[&["--endpoints", &self.endpoint()], arguments].concat())
    }

    /// Turns authentication on, with `root` (password `root`) and `user` with `password`, who may do everything
    /// under `prefix`.
    pub fn enable_auth(&self, user: &str, password: &str, prefix: &str) {
        for arguments in [
            &["user", "add", "root:root"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "ours"],
            &["role", "grant-permission", "ours", "--prefix=true", "readwrite", prefix],
            &["user", "add", &format!("{user}:{password}")],
            &["user", "grant-role", user, "ours"],
            &["auth", "enable"],
        ] {
            self.etcdctl(arguments);
        }
    }

    /// A backup, as an operator makes it.
    pub fn save_snapshot(&self, file: &Path) {
        self.etcdctl(&["snapshot", "save", &file.display().to_string()]);
    }

    /// Stops it and puts the backup in the place of its data, as an operator does. It has to be restarted.
    pub fn restore_snapshot(&mut self, file: &Path) {
        self.kill();
        std::fs::remove_dir_all(self.data()).unwrap();
        let peer = format!("http://127.0.0.1:{}", self.peer_port.number());
        etcdctl(&[
            "snapshot",
            "restore",
            &file.display().to_string(),
            "--name",
            &self.name,
            "--data-dir",
            &self.data().display().to_string(),
            "--initial-cluster",
            &self.cluster,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
    }
}

/// Several servers that are one cluster.
pub struct EtcdCluster {
    pub members: Vec<Etcd>,
}

impl EtcdCluster {
    /// A cluster of so many members, ready to serve.
    pub async fn start(size: usize) -> EtcdCluster {
        EtcdCluster::start_with(size, EtcdOptions::default()).await
    }

    pub async fn start_with(size: usize, options: EtcdOptions) -> EtcdCluster {
        let mut members: Vec<Etcd> =
            (0..size).map(|index| Etcd::member(&format!("m{index}"), options.clone())).collect();
        let url = |member: &Etcd| format!("{}=http://127.0.0.1:{}", member.name, member.peer_port.number());
        let all = members.iter().map(url).collect::<Vec<_>>().join(",");
        for member in &mut members {
            member.cluster.clone_from(&all);
            member.launch();
        }
        let cluster = EtcdCluster { members };
        cluster.ready().await;
        cluster
    }

    /// Waits until every member serves.
    pub async fn ready(&self) {
        for member in &self.members {
            member.ready().await;
        }
    }

    /// How to reach it, the members in order.
    pub fn config(&self) -> EtcdConfig {
        EtcdConfig::new(self.members.iter().map(Etcd::endpoint)).unwrap()
    }

    /// A store in it, which asks the first member as long as that serves.
    pub async fn store(&self) -> EtcdStore {
        EtcdStore::connect(self.config()).await.unwrap()
    }

    /// The index of the member that leads now.
    pub async fn leader(&self) -> usize {
        until("a member leads", async || {
            for (index, member) in self.members.iter().enumerate() {
                if member.running.is_none() {
                    continue;
                }
                let status = async { Client::connect([member.endpoint()], None).await.ok()?.status().await.ok() };
                let Ok(Some(status)) = tokio::time::timeout(Duration::from_secs(1), status).await else { continue };
                if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// Kills all members and starts them again with their data.
    pub async fn restart(&mut self) {
        self.members.iter_mut().for_each(Etcd::kill);
        self.members.iter_mut().for_each(Etcd::restart);
        soon("the cluster serves again", self.ready()).await;
    }
}
