//! Real PostgreSQL and MariaDB servers, started for a test's process and gone with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PATIENCE;
use super::ports::Port;

/// The user and the password of both servers.
pub const USER: &str = "fencron";
pub const PASSWORD: &str = "hunter2-of-the-database";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    Mariadb,
}

/// A server with nothing in it but what a test puts there.
pub struct Server {
    kind: Kind,
    port: Port,
    directory: PathBuf,
    options: Vec<String>,
    /// What stands before its program.
    prefix: Vec<String>,
    running: Option<Running>,
}

/// A server's process, under a shell that kills it as soon as our end of its standard input closes: also when this
/// process dies without a chance to drop anything. The directory goes with it where `$2` says so.
pub struct Running {
    shell: Child,
    server: Pid,
}

const SCRIPT: &str = r#"dir=$1; shift
"$@" </dev/null >>"$dir/log" 2>&1 & echo $!
read -r keep; kill -9 $! 2>/dev/null; wait; [ "$keep" = keep ] || rm -rf "$dir""#;

impl Running {
    /// Starts a program, which writes into `log` of the directory.
    pub fn start(directory: &Path, program: impl IntoIterator<Item = String>) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(directory).args(program);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Running { shell, server: Pid::from_raw(line.trim().parse().unwrap()) }
    }
}

impl Server {
    /// The one server of its kind that the tests of this process share. Each test makes its own [`Server::database`].
    pub fn shared(kind: Kind) -> &'static Server {
        static POSTGRES: OnceLock<Server> = OnceLock::new();
        static MARIADB: OnceLock<Server> = OnceLock::new();
        let shared = match kind {
            Kind::Postgres => &POSTGRES,
            Kind::Mariadb => &MARIADB,
        };
        shared.get_or_init(|| Server::start(kind))
    }

    /// A server for one test, which may do to it what it wants.
    pub fn start(kind: Kind) -> Server {
        Server::start_with(kind, |_| Vec::new())
    }

    /// As [`Server::start`], with more options on its command line. They are asked for once its directory is there,
    /// which the server may read.
    pub fn start_with(kind: Kind, options: impl FnOnce(&Path) -> Vec<String>) -> Server {
        let mut server = Server::new(kind);
        server.initialize();
        server.options = options(&server.directory);
        own(&server.directory, kind);
        server.launch();
        server
    }

    /// As [`Server::start`], with a wall clock that [`Server::set_clock`] sets.
    #[cfg(feature = "cli")]
    pub fn start_with_clock(kind: Kind) -> Server {
        let mut server = Server::new(kind);
        server.set_clock("+0");
        server.initialize();
        let [library, keeping] = super::program::other_clock().map(|(name, value)| format!("{name}={value}"));
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", server.clock().display());
        server.prefix = ["env".to_owned(), library, keeping, file, "FAKETIME_NO_CACHE=1".to_owned()].into();
        server.launch();
        server
    }

    /// By how much its wall clock is off, as `faketime` reads it: `+1h`.
    pub fn set_clock(&self, off_by: &str) {
        fs::write(self.clock(), off_by).unwrap();
    }

    fn clock(&self) -> PathBuf {
        self.directory.join("clock")
    }

    fn new(kind: Kind) -> Server {
        let directory = tempfile::Builder::new().prefix("fencron-db-").tempdir().unwrap().keep();
        Server { kind, port: Port::free(), directory, options: Vec::new(), prefix: Vec::new(), running: None }
    }

    /// A PostgreSQL that follows this one, and can take its place.
    pub fn standby(&self) -> Server {
        assert_eq!(self.kind, Kind::Postgres);
        let mut standby = Server::new(self.kind);
        own(&standby.directory, self.kind);
        let mut command = standby.as_user(&program("pg_basebackup"));
        let port = self.port.number().to_string();
        command.env("PGPASSWORD", PASSWORD).args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            USER,
            "-R",
            "-c",
            "fast",
            "-D",
        ]);
        let output = command.arg(standby.data()).current_dir(&standby.directory).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        standby.launch();
        standby
    }

    /// Makes a primary of a standby.
    pub fn promote(&self) {
        assert_eq!(self.ask("", "SELECT pg_promote()"), "t");
    }

    /// Waits until `sql` is answered so.
    pub fn wait_for(&self, database: &str, sql: &str, expected: &str) {
        const PAUSE: Duration = Duration::from_millis(50);
        let mut last = String::new();
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            last = self.ask(database, sql);
            if last == expected {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        panic!("{sql}: {last}, and never {expected}");
    }

    /// What `pg_dump` writes of the schema of a store.
    pub fn dump(&self, database: &Database) -> String {
        let output = Command::new("pg_dump").args(["-n", "fencron", "-d", &database.url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Restores a dump, whole or not at all.
    pub fn restore(&self, database: &Database, dump: &str) {
        let file = self.directory.join("dump");
        fs::write(&file, dump).unwrap();
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", &database.url, "-f"]).arg(file);
        let output = command.stdout(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn initialize(&self) {
        let (directory, data) = (&self.directory, self.data());
        let mut command = match self.kind {
            Kind::Postgres => {
                let password = directory.join("password");
                fs::write(&password, PASSWORD).unwrap();
                let mut command = self.as_user(&program("initdb"));
                command.arg("-D").arg(&data).args([
                    "-U",
                    USER,
                    "-E",
                    "UTF8",
                    "--locale=C",
                    "-A",
                    "scram-sha-256",
                    "-N",
                ]);
                command.arg(format!("--pwfile={}", password.display()));
                command
            }
            Kind::Mariadb => {
                let sql = format!(
                    "CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
                     GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
                );
                fs::write(directory.join("init.sql"), sql).unwrap();
                let mut command = self.as_user(&program("mariadb-install-db"));
                command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                command.arg(format!("--datadir={}", data.display()));
                // A server that starts deletes what it finds in the place for temporary tables: each has its own.
                command.arg(format!("--tmpdir={}", directory.display()));
                command
            }
        };
        own(directory, self.kind);
        let output = command.current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn launch(&mut self) {
        let (data, port) = (self.data().display().to_string(), self.port.number());
        let mut arguments: Vec<String> = match self.kind {
            Kind::Postgres => {
                let sockets = self.directory.display();
                let settings = [
                    "listen_addresses=127.0.0.1".to_owned(),
                    format!("unix_socket_directories={sockets}"),
                    "fsync=off".to_owned(),
                    "max_connections=300".to_owned(),
                ];
                let settings = settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]);
                let fixed = ["-D".to_owned(), data, "-p".to_owned(), port.to_string()];
                std::iter::once(program("postgres")).chain(fixed).chain(settings).collect()
            }
            Kind::Mariadb => {
                let options = [
                    "--no-defaults".to_owned(),
                    format!("--datadir={data}"),
                    format!("--tmpdir={}", self.directory.display()),
                    format!("--port={port}"),
                    "--bind-address=127.0.0.1".to_owned(),
                    format!("--socket={}", self.directory.join("socket").display()),
                    format!("--init-file={}", self.directory.join("init.sql").display()),
                    "--skip-name-resolve".to_owned(),
                    "--innodb-flush-log-at-trx-commit=2".to_owned(),
                    "--max-connections=300".to_owned(),
                ];
                std::iter::once(program("mariadbd")).chain(options).collect()
            }
        };
        let mut all = user_prefix(self.kind);
        all.extend(self.prefix.iter().cloned());
        all.append(&mut arguments);
        all.extend(self.options.iter().cloned());
        self.running = Some(Running::start(&self.directory, all));
        self.wait_until_ready();
        if self.kind == Kind::Mariadb {
            // Its user exists from the first start on.
            fs::write(self.directory.join("init.sql"), "SELECT 1;\n").unwrap();
        }
    }

    fn wait_until_ready(&self) {
        const PAUSE: Duration = Duration::from_millis(50);
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            if TcpStream::connect(("127.0.0.1", self.port.number())).is_ok() && self.answers() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        panic!("{:?} does not begin to serve: {log}", self.kind);
    }

    fn answers(&self) -> bool {
        self.client("", "SELECT 1").output().is_ok_and(|output| output.status.success())
    }

    /// Its own command-line client, asking `sql` of `database`.
    fn client(&self, database: &str, sql: &str) -> Command {
        let port = self.port.number().to_string();
        match self.kind {
            Kind::Postgres => {
                let database = if database.is_empty() { "postgres" } else { database };
                let mut command = Command::new("psql");
                command.env("PGPASSWORD", PASSWORD).args(["-h", "127.0.0.1", "-p", &port, "-U", USER, "-d", database]);
                command.args(["-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
                command
            }
            Kind::Mariadb => {
                let mut command = Command::new("mariadb");
                command.args(["--no-defaults", "-h", "127.0.0.1", "-P", &port, "-u", USER]);
                command.arg(format!("-p{PASSWORD}")).args(["-N", "-B", "-e", sql]);
                if !database.is_empty() {
                    command.arg(database);
                }
                command
            }
        }
    }

    /// A new, empty database, and the URL by which it is reached.
    pub fn database(&self) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.ask("", &format!("CREATE DATABASE {name}"));
        let scheme = match self.kind {
            Kind::Postgres => "postgres",
            Kind::Mariadb => "mysql",
        };
        let url = format!("{scheme}://{USER}:{PASSWORD}@127.0.0.1:{}/{name}", self.port.number());
        Database { name, url }
    }

    /// What the server's own client prints for `sql`: rows of columns between tabs.
    pub fn ask(&self, database: &str, sql: &str) -> String {
        let output =
            self.client(database, sql).output().expect("the server's client is installed: `tests/run` does it");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Stops the server's main process where it stands; [`Server::thaw`] lets it go on. Of PostgreSQL, connections that
    /// are open already are other processes, and go on.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(self.running.as_ref().expect("it runs").server, signal).unwrap();
    }

    /// Kills it as a power cut does. Its data stays, for [`Server::restart`].
    pub fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        kill(running.server, Signal::SIGSTOP).unwrap(); // so that it starts no more of them
        let connections = children(running.server);
        let mut stdin = running.shell.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"keep\n").unwrap();
        drop(stdin);
        running.shell.wait().unwrap();
        // PostgreSQL has a process for each connection. One in the midst of a statement sees only at its end that the main
        // one is gone, and until then keeps another from starting.
        for process in connections {
            kill(process, Signal::SIGKILL).ok();
            wait_until_gone(process);
        }
        fs::remove_file(self.data().join("postmaster.pid")).ok();
    }

    /// Starts it again, on the same port and data.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match self.running.take() {
            Some(mut running) => {
                drop(running.shell.stdin.take());
                running.shell.wait().unwrap();
            }
            None => fs::remove_dir_all(&self.directory).unwrap(),
        }
    }
}

/// The processes that a process has started.
fn children(parent: Pid) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
}

fn wait_until_gone(process: Pid) {
    const PAUSE: Duration = Duration::from_millis(10);
    let stat = format!("/proc/{process}/stat");
    // What init has not reaped yet has let go of its memory.
    let is_there = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        if !is_there() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("process {process} of a server that was killed does not end");
}

/// A database of a [`Server`].
#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    /// With the user and the password in it.
    pub url: String,
}

/// Neither server runs as root.
fn user_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "postgres",
        Kind::Mariadb => "mysql",
    }
}

pub fn user_prefix(kind: Kind) -> Vec<String> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let user = user_of(kind);
    ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"].map(str::to_owned).into()
}

impl Server {
    fn as_user(&self, program: &str) -> Command {
        match user_prefix(self.kind).split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        }
    }
}

pub fn own(directory: &Path, kind: Kind) {
    if let Ok(Some(user)) = nix::unistd::User::from_name(user_of(kind))
        && nix::unistd::geteuid().is_root()
    {
        nix::unistd::chown(directory, Some(user.uid), Some(user.gid)).unwrap();
        for entry in fs::read_dir(directory).unwrap() {
            nix::unistd::chown(&entry.unwrap().path(), Some(user.uid), Some(user.gid)).unwrap();
        }
    }
}

/// Where a server's program is: Debian keeps PostgreSQL's outside of PATH.
pub fn program(name: &str) -> String {
    let mut places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    places.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
    let found = found.unwrap_or_else(|| {
        panic!("`{name}` is not installed: `tests/run` installs it (Debian: postgresql, mariadb-server)")
    });
    found.display().to_string()
}
