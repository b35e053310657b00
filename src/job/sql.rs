//! Statements that a job runs in a database, as plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Text;
use super::script::Script;
use crate::tls::Encryption;

/// Which database a job writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
    Sqlite,
}

/// Statements, and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    pub kind: Database,
    /// The address of the database, and the login.
    pub target: Target,
    /// The statements.
    pub script: Script,
    /// What the script's names stand for, beside those of the stamp.
    pub params: BTreeMap<String, Scalar>,
    /// In one transaction, with the guard's rows.
    pub transaction: bool,
    /// Of what is applied, kept with its occurrence: an occurrence that was applied with another one is an error.
    pub checksum: Option<String>,
    /// The checksums that earlier versions gave the same content.
    pub checksums_before: Vec<String>,
}

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Server(Box<Server>),
    /// A SQLite file.
    File(Text),
}

/// A database server, and the login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name, an address, or the path of a socket (MySQL) or of the directory that it is in (PostgreSQL).
    pub host: Text,
    pub port: u16,
    pub user: Option<Text>,
    pub password: Option<Text>,
    pub database: Option<Text>,
    pub encryption: Encryption,
    /// The certificates of those that may vouch for the server, in PEM; `None`: those that the system trusts.
    pub roots: Option<PathBuf>,
    /// The files (PEM) of the certificate that is shown to the server, and of its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What else a connection to PostgreSQL asks for.
    pub session: Session,
}

/// What a connection to PostgreSQL asks for. `None` is what the server, or the system, has it be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub application_name: Option<String>,
    /// Settings of the session, as `-c name=value`.
    pub options: Option<String>,
    /// How long connecting may take, where that is less than for every attempt.
    pub connect_timeout: Option<Duration>,
    /// Where to connect to, instead of looking the host's name up.
    pub address: Option<IpAddr>,
    pub server: WantedServer,
    pub binding: Binding,
    /// Whether TCP asks a silent server whether it is there.
    pub keepalives: bool,
    pub keepalives_idle: Option<Duration>,
    pub keepalives_interval: Option<Duration>,
    pub keepalives_count: Option<u32>,
    /// How long what was sent may stay without an answer of TCP.
    pub tcp_user_timeout: Option<Duration>,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            application_name: None,
            options: None,
            connect_timeout: None,
            address: None,
            server: WantedServer::Any,
            binding: Binding::Prefer,
            keepalives: true,
            keepalives_idle: None,
            keepalives_interval: None,
            keepalives_count: None,
            tcp_user_timeout: None,
        }
    }
}

/// Which server is one to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedServer {
    Any,
    /// One that takes writes.
    Writable,
    /// One that takes none.
    ReadOnly,
}

/// Whether a login by password is bound to the encrypted channel, so that no server in between can pass it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    Disable,
    /// Where the server can.
    Prefer,
    Require,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number with a fraction or an exponent, as it is written.
    Real(String),
    Text(Text),
}
