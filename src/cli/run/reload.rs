//! The jobs file as it changes under a running node.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use crate::cli::file;
use crate::config::{Config, Migration};
use crate::job::{Job, JobName};
use crate::lock::Namespace;
use crate::node::Order;

/// A file that is being written changes more than once: it is read when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(300);

/// Reads the jobs file again when it has changed, and on SIGHUP; what is wrong leaves the old one in force.
pub(super) struct Reload {
    path: PathBuf,
    /// The namespace that the file has to go on naming; `None`: an option names it, whatever the file says.
    namespace: Option<Namespace>,
    /// The digest of the last text that was looked at, whether it was taken or refused.
    digest: String,
    stat: Option<Stat>,
    /// The jobs and migrations of the last text that was taken.
    jobs: Arc<BTreeMap<JobName, Arc<Job>>>,
    migrations: Vec<Migration>,
    orders: mpsc::Sender<Order>,
}

/// What tells that a file is another one, or was written to, without reading it.
type Stat = (u64, u64, u64, i64, i64);

fn stat(path: &Path) -> Option<Stat> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

impl Reload {
    pub fn new(path: PathBuf, namespace: Option<Namespace>, config: &Config, orders: mpsc::Sender<Order>) -> Reload {
        let stat = stat(&path);
        let (jobs, migrations) = (Arc::new(config.jobs.clone()), config.migrations.clone());
        Reload { path, namespace, digest: config.digest.clone(), stat, jobs, migrations, orders }
    }

    /// Goes on until the node has ended.
    pub async fn run(mut self, mut hangup: Signal) {
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = watch(&self.path, changed);
        if let Err(error) = &watcher {
            tracing::warn!(%error, "changes of the jobs file are not noticed: send SIGHUP after a change");
        }
        while !self.orders.is_closed() {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                Some(()) = changes.recv() => {
                    tokio::time::sleep(QUIET).await;
                    while changes.try_recv().is_ok() {}
                    false
                }
            };
            if asked || stat(&self.path) != self.stat {
                self.look(asked).await;
            }
        }
    }

    async fn look(&mut self, asked: bool) {
        self.stat = stat(&self.path);
        let path = self.path.clone();
        let before = Arc::clone(&self.jobs);
        let read = tokio::task::spawn_blocking(move || {
            let mut config = file::read(&path)?;
            config.keep_unchanged(&before);
            let jobs = Arc::new(config.jobs.clone());
            // The same text makes other jobs where a file that it names by `${file:…}` has changed.
            let same = jobs.len() == before.len() && jobs.values().zip(before.values()).all(|(a, b)| Arc::ptr_eq(a, b));
            anyhow::Ok((config, jobs, same))
        });
        let (config, jobs, same) = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                tracing::error!(file = %self.path.display(), "the jobs file is refused, the old one stays in force:");
                error.to_string().lines().for_each(|line| tracing::error!("{line}"));
                self.digest = String::new();
                return;
            }
            Err(error) => return tracing::error!(%error, "reading the jobs file broke off"),
        };
        if config.digest == self.digest && same && config.migrations == self.migrations {
            if asked {
                tracing::info!(digest = self.digest, "the jobs file has not changed, nor what it names");
            }
            return;
        }
        if let Some(namespace) = self.namespace.as_ref().filter(|old| old.as_str() != config.namespace) {
            tracing::error!(
                was = %namespace, is = config.namespace,
                "the jobs file is refused, the old one stays in force: a node cannot change its namespace"
            );
            self.digest = String::new();
            return;
        }
        for warning in config.warnings.list() {
            tracing::warn!("{}:{}:{}: {}", self.path.display(), warning.line, warning.column, warning.message);
        }
        self.digest.clone_from(&config.digest);
        self.jobs = jobs;
        self.migrations.clone_from(&config.migrations);
        if self.orders.send(Order::Reload(Box::new(config))).await.is_err() {
            tracing::debug!("the node has ended");
        }
    }
}

/// Watches the directory, since files are replaced by renaming and, in Kubernetes, by links to other directories.
fn watch(path: &Path, changed: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let read_only = event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_)));
        // A full channel means that a look is due already.
        if !read_only {
            changed.try_send(()).ok();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
