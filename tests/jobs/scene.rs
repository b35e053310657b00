//! Where it happens: a store, services over it, and the stock command beside them.

use std::process::{Command, Output};
use std::time::Duration;

use fencron::Client;
use fencron::job::RunId;
use fencron::jobs::{Jobs, JobsBuilder};
use fencron::scheduler::run::Done;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::etcd::{Etcd, EtcdOptions};
use crate::support::soon;

pub const NAMESPACE: &str = "shop";
/// Nothing here waits for a lease of this length to end.
pub const LONG_TTL: Duration = Duration::from_secs(60);
pub const GRACE: Duration = Duration::from_secs(30);

/// An instance of the service.
pub async fn connect(url: &str, node: &str, ttl: Duration) -> Client {
    Client::builder().namespace(NAMESPACE).node(node).ttl(ttl).connect(url).await.unwrap()
}

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

    pub fn url(&self) -> String {
        match &self.etcd {
            Some(etcd) => format!("etcd://{}", etcd.endpoint()),
            None => format!("sqlite:{}", self.dir.path().join("store.db").display()),
        }
    }

    pub async fn client(&self, node: &str, ttl: Duration) -> Client {
        connect(&self.url(), node, ttl).await
    }

    /// The jobs of an instance of the service, none yet.
    pub async fn service(&self, node: &str) -> JobsBuilder {
        self.client(node, LONG_TTL).await.jobs()
    }

    /// What the stock command prints; it knows the store and the namespace, and nothing of the service.
    pub fn fencron(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "fencron {args:?}: {status}\n{out}\n{err}");
        out.into_owned()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.fencron(&[args, &["-o", "json"]].concat())).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fencron"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FENCRON_") || name == "RUST_LOG") {
            command.env_remove(name);
        }
        command.env("FENCRON_STATE_DIR", self.dir.path().join("state")).current_dir(self.dir.path());
        command.args(["--store", &self.url(), "--namespace", NAMESPACE]).args(args);
        command
    }
}

/// Waits until this instance leads.
pub async fn leads(jobs: &Jobs) {
    let mut terms = jobs.terms();
    soon("it leads", terms.wait_for(Option::is_some)).await.unwrap();
}

pub async fn triggered(jobs: &Jobs, job: &str) -> RunId {
    jobs.trigger(job, &[]).await.unwrap()
}

pub async fn verdict(jobs: &Jobs, run: &RunId) -> Done {
    soon("it ends", jobs.verdict(run)).await.unwrap()
}
