//! A real PgBouncer in transaction mode, which gives a connection another server process for each transaction.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use super::PATIENCE;
use super::databases::{Database, Kind, PASSWORD, Running, Server, USER, own, program, user_prefix};
use super::ports::Port;

/// A pooler before the PostgreSQL that the tests of this process share.
pub struct Pooler {
    port: Port,
    _running: Running,
}

/// How many server processes those who use one database share.
const POOL: u32 = 6;

impl Pooler {
    pub fn shared() -> &'static Pooler {
        static POOLER: OnceLock<Pooler> = OnceLock::new();
        POOLER.get_or_init(Pooler::start)
    }

    fn start() -> Pooler {
        let (port, server) = (Port::free(), Server::shared(Kind::Postgres).port());
        let directory = tempfile::Builder::new().prefix("fencron-pool-").tempdir().unwrap().keep();
        let settings = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={server} user={USER} password={PASSWORD}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {POOL}\nmax_client_conn = 500\n",
            port.number()
        );
        let file: PathBuf = directory.join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        own(&directory, Kind::Postgres);
        let started = [program("pgbouncer"), file.display().to_string()];
        let running = Running::start(&directory, user_prefix(Kind::Postgres).into_iter().chain(started));
        let pooler = Pooler { port, _running: running };
        pooler.wait_until_ready(&directory.join("log"));
        pooler
    }

    fn wait_until_ready(&self, log: &PathBuf) {
        const PAUSE: Duration = Duration::from_millis(20);
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            if std::net::TcpStream::connect(("127.0.0.1", self.port.number())).is_ok() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        panic!("the pooler does not begin to serve: {}", fs::read_to_string(log).unwrap_or_default());
    }

    /// The URL of a database through this.
    pub fn url(&self, database: &Database) -> String {
        let direct = format!(":{}/", Server::shared(Kind::Postgres).port());
        database.url.replace(&direct, &format!(":{}/", self.port.number()))
    }
}
