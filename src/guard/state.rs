//! Where a guard keeps its state: in memory, in a SQLite file, in PostgreSQL. Each answers a question, and records the
//! decision, in one transaction; [`super::decide`] decides.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use uuid::Uuid;

use super::{Answered, Asked, End, InDoubt, Options};
use crate::time::Clock;

mod memory;
#[cfg(feature = "sql")]
mod postgres;
#[cfg(feature = "sql")]
pub(super) use postgres::{connect_once as connect_to_postgres, message_of};
#[cfg(feature = "sqlite")]
pub(super) mod sqlite;

/// How many expired keys are forgotten with one request: more than one comes with it.
const SWEEP: usize = 16;

/// What a key is taken to need beside its texts and its answer, in bytes.
const KEY_OVERHEAD: u64 = 300;

/// Where a guard keeps its state.
///
/// Neither `Display` nor `Debug` shows a password.
///
/// ```
/// use fencron::guard::StateUrl;
/// let url: StateUrl = "postgres://guard:secret@db/shop".parse().unwrap();
/// assert_eq!(url.to_string(), "postgres://db/shop");
/// let url: StateUrl = "postgres://db/shop?user=guard&password=sec@ret".parse().unwrap();
/// assert!(!url.to_string().contains("ret"));
/// assert!("mysql://db/shop".parse::<StateUrl>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum StateUrl {
    /// `memory`: forgotten with the process.
    Memory,
    /// `sqlite:PATH`: a file shared by the guards of one machine.
    Sqlite(PathBuf),
    /// `postgres://…`: shared by all guards that reach it.
    Postgres(String),
}

/// A text that does not say where a guard's state is. It is not repeated: there may be a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no state of a guard: write memory, sqlite:PATH or postgres://USER@HOST/DATABASE")]
pub struct NotAState;

impl FromStr for StateUrl {
    type Err = NotAState;

    fn from_str(text: &str) -> Result<StateUrl, NotAState> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("memory", "") => Ok(StateUrl::Memory),
            ("sqlite", path) if !path.is_empty() && !path.starts_with(':') => {
                Ok(StateUrl::Sqlite(path.strip_prefix("//").unwrap_or(path).into()))
            }
            ("postgres" | "postgresql", rest) if rest.starts_with("//") => Ok(StateUrl::Postgres(text.to_owned())),
            _ => Err(NotAState),
        }
    }
}

impl fmt::Display for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateUrl::Memory => f.write_str("memory"),
            StateUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            StateUrl::Postgres(url) => {
                // Without the user, the password, and the parameters, in which a password may stand as well.
                let rest = url.split_once("//").map_or("", |(_, rest)| rest);
                let place = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
                // An `@` behind a `?` may be part of a password, whichever of the two this is.
                let clear = rest.split_once('?').is_none_or(|(_, behind)| !behind.contains('@'));
                let place = if clear { place.split('?').next().unwrap_or_default() } else { "…" };
                write!(f, "postgres://{place}")
            }
        }
    }
}

impl fmt::Debug for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A state that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It does not answer, or not now. Whether what was asked has been recorded is not known.
    #[error("{state} cannot be used now: {why}")]
    Unavailable { state: String, why: String },
    /// It never will, as it is.
    #[error("{state} cannot hold a guard's state: {why}")]
    Unusable { state: String, why: String },
}

#[cfg(not(all(feature = "sqlite", feature = "sql")))]
fn not_built(url: &StateUrl, feature: &str) -> StateError {
    StateError::Unusable { state: url.to_string(), why: format!("fencron was built without its feature `{feature}`") }
}

/// The bounds of what is kept.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    keep: Duration,
    keys_most: u64,
    bytes_most: u64,
}

impl Bounds {
    fn of(options: &Options) -> Bounds {
        Bounds { keep: options.keep, keys_most: options.keys_most, bytes_most: options.bytes_most }
    }

    fn full(&self, keys: u64, bytes: u64) -> bool {
        keys >= self.keys_most || bytes >= self.bytes_most
    }
}

/// One of the states there are.
#[derive(Debug)]
pub(super) enum State {
    Memory(memory::Memory),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::Sqlite),
    #[cfg(feature = "sql")]
    Postgres(postgres::Postgres),
}

impl State {
    pub(super) fn memory(options: &Options, clock: &Clock) -> State {
        State::Memory(memory::Memory::new(Bounds::of(options), clock.clone()))
    }

    pub(super) async fn open(url: &StateUrl, options: &Options, clock: &Clock) -> Result<State, StateError> {
        match url {
            StateUrl::Memory => Ok(State::memory(options, clock)),
            #[cfg(feature = "sqlite")]
            StateUrl::Sqlite(path) => {
                let bounds = Bounds::of(options);
                sqlite::Sqlite::open(path, bounds, clock.clone()).await.map(State::Sqlite)
            }
            #[cfg(not(feature = "sqlite"))]
            StateUrl::Sqlite(_) => Err(not_built(url, "sqlite")),
            #[cfg(feature = "sql")]
            StateUrl::Postgres(text) => {
                let bounds = Bounds::of(options);
                let about = postgres::About { url: text.clone(), named: url.to_string() };
                postgres::Postgres::open(about, bounds, clock.clone()).await.map(State::Postgres)
            }
            #[cfg(not(feature = "sql"))]
            StateUrl::Postgres(_) => Err(not_built(url, "sql")),
        }
    }

    /// Decides about `asked`, and records what was decided.
    pub(super) async fn ask(&self, asked: &Asked, in_doubt: InDoubt) -> Result<Answered, StateError> {
        match self {
            State::Memory(memory) => Ok(memory.ask(asked, in_doubt)),
            #[cfg(feature = "sqlite")]
            State::Sqlite(sqlite) => sqlite.ask(asked, in_doubt).await,
            #[cfg(feature = "sql")]
            State::Postgres(postgres) => postgres.ask(asked, in_doubt).await,
        }
    }

    /// Records how the entry `id` ended. Reported again, it changes nothing.
    pub(super) async fn end(&self, id: Uuid, end: &End) -> Result<(), StateError> {
        match self {
            State::Memory(memory) => {
                memory.end(id, end);
                Ok(())
            }
            #[cfg(feature = "sqlite")]
            State::Sqlite(sqlite) => sqlite.end(id, end).await,
            #[cfg(feature = "sql")]
            State::Postgres(postgres) => postgres.end(id, end).await,
        }
    }

    /// Lets the processes that this one starts from now on stand for its life, where the state can do so.
    pub(super) fn inherit(&self) -> io::Result<bool> {
        match self {
            #[cfg(feature = "sqlite")]
            State::Sqlite(sqlite) => sqlite.inherit().map(|()| true),
            _ => Ok(false),
        }
    }
}
