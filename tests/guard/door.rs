//! What the suite sees of a form of the guard: something is sent, and is done or not.

use std::future::Future;
use std::path::{Path, PathBuf};

use fencron::guard::StateUrl;
use tempfile::TempDir;

use crate::support::databases::{Kind, Server};

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub scope: &'a str,
    pub fence: u64,
    pub key: Option<&'a str>,
    pub payload: &'a str,
}

/// Something that is to be done at once, without a key.
pub fn under(fence: u64) -> Sent<'static> {
    Sent { scope: "shop/leader", fence, key: None, payload: "do" }
}

pub fn keyed(fence: u64, key: &'static str) -> Sent<'static> {
    Sent { key: Some(key), ..under(fence) }
}

impl Sent<'_> {
    /// The effect goes on until it is released.
    pub fn held(self) -> Self {
        Sent { payload: "hold", ..self }
    }

    /// What the effect leaves behind.
    pub fn mark(&self) -> String {
        format!("{} {} {} {}", self.scope, self.fence, self.key.unwrap_or("-"), self.payload)
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Done(String),
    Replayed(String),
    Failed,
    Stale,
    OtherPayload,
    InFlight,
    OlderInFlight,
    InDoubt,
    Other(String),
}

impl Got {
    #[track_caller]
    pub fn done(self) -> String {
        match self {
            Got::Done(answer) => answer,
            other => panic!("{other:?}"),
        }
    }
}

/// A form of the guard with an effect behind it.
pub trait Door {
    fn send(&self, sent: Sent<'_>) -> impl Future<Output = Got>;

    /// What the effects have left behind, in their order.
    fn effects(&self) -> impl Future<Output = Vec<String>>;

    /// Waits until this many effects have begun.
    fn begun(&self, count: usize) -> impl Future<Output = ()>;

    /// Lets those that are held end.
    fn release(&self);

    /// Whether effects fail, without leaving anything behind.
    fn fail(&self, failing: bool);

    /// Ends the guard, and starts it again with what it kept.
    fn restart(&mut self) -> impl Future<Output = ()>;
}

/// Where the guard of one test keeps its state.
pub struct Place {
    pub directory: TempDir,
    pub url: String,
}

impl Place {
    pub fn memory() -> Place {
        Place { directory: tempfile::tempdir().unwrap(), url: "memory".to_owned() }
    }

    pub fn sqlite() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("guard.db").display());
        Place { directory, url }
    }

    pub fn postgres() -> Place {
        let url = Server::shared(Kind::Postgres).database().url;
        Place { directory: tempfile::tempdir().unwrap(), url }
    }

    pub fn state(&self) -> StateUrl {
        self.url.parse().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        Path::join(self.directory.path(), name)
    }
}
