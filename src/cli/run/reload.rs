//! The jobs file as it changes under a running node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};

use super::service::Service;
use crate::cli::file::{self, Footprint, Pipe, Reading};
use crate::config::{Config, Migration};
use crate::job::{Job, JobName, Notices};
use crate::lock::Namespace;
use crate::node::Order;

/// How often it is looked whether the file, and those that it names, are still the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How many of those looks are by what filesystems say of files; the next one is by all that is in them.
const LOOKS_FROM_OUTSIDE: u32 = 4;

/// A file that is being written changes more than once: it counts when it has been the same for so long.
const QUIET: Duration = Duration::from_millis(300);

/// How often a file that goes on changing is read before it counts as it is.
const READS_MOST: u32 = 10;

/// Reads the jobs file again when it, or a file that it names, has changed, and on SIGHUP; what is wrong leaves the old
/// one in force.
pub(super) struct Reload {
    paths: Vec<PathBuf>,
    /// The namespace that the file has to go on naming; `None`: an option names it, and the file's does not count.
    namespace: Option<Namespace>,
    /// The digest of the last text that was looked at, whether it was taken or refused.
    digest: String,
    /// What was read when it was last looked at.
    files: Arc<Footprint>,
    /// The jobs and migrations of the last text that was taken.
    jobs: Arc<BTreeMap<JobName, Arc<Job>>>,
    migrations: Vec<Migration>,
    /// Where alerts go, by the last text that was taken.
    notices: watch::Sender<Arc<Notices>>,
    orders: mpsc::Sender<Order>,
    service: Service,
}

impl Reload {
    pub fn new(
        paths: Vec<PathBuf>,
        namespace: Option<Namespace>,
        read: (&Config, Footprint),
        orders: mpsc::Sender<Order>,
    ) -> Reload {
        let (config, files) = read;
        let (jobs, migrations) = (Arc::new(config.jobs.clone()), config.migrations.clone());
        let notices = watch::Sender::new(Arc::clone(&config.notices));
        Reload {
            paths,
            namespace,
            digest: config.digest.clone(),
            files: Arc::new(files),
            jobs,
            migrations,
            notices,
            orders,
            service: Service::default(),
        }
    }

    /// Passes on where alerts go, whenever that changes.
    pub fn noticing(self, notices: watch::Sender<Arc<Notices>>) -> Reload {
        Reload { notices, ..self }
    }

    /// Notifies the service manager when a read that was asked for begins and ends.
    pub fn reporting(self, service: Service) -> Reload {
        Reload { service, ..self }
    }

    /// Goes on until the node has ended.
    pub async fn run(mut self, mut hangup: Signal) {
        let mut looks = 0;
        while !self.orders.is_closed() {
            tokio::select! {
                _ = hangup.recv() => {
                    self.service.reloading();
                    self.look(true).await;
                    self.service.reloaded();
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    looks = (looks + 1) % (LOOKS_FROM_OUTSIDE + 1);
                    if self.has_changed(looks == 0).await {
                        self.look(false).await;
                    }
                }
            }
        }
    }

    /// What a filesystem does not answer keeps a thread of its own waiting, and nothing else.
    async fn has_changed(&self, whole: bool) -> bool {
        let files = Arc::clone(&self.files);
        tokio::task::spawn_blocking(move || files.has_changed(whole)).await.unwrap_or(true)
    }

    /// What the file says once it is not written to any more.
    async fn read(&mut self, asked: bool) -> anyhow::Result<Compared> {
        let mut reads = 1;
        loop {
            let (paths, before) = (self.paths.clone(), Arc::clone(&self.jobs));
            let read = move || {
                let Reading { config, files, .. } = file::look(&paths, Pipe::Refuse);
                (config.map(|config| Compared::with(&before, config)), files)
            };
            let (compared, files) = tokio::task::spawn_blocking(read).await?;
            self.files = Arc::new(files);
            if asked || reads == READS_MOST {
                return compared;
            }
            tokio::time::sleep(QUIET).await;
            if !self.has_changed(false).await {
                return compared;
            }
            reads += 1;
        }
    }

    /// What comes next is looked at whole, even if it is as it was; the node reports it meanwhile.
    async fn refuse(&mut self, why: String) {
        self.digest = String::new();
        if self.orders.send(Order::Refused(why)).await.is_err() {
            tracing::debug!("the node has ended");
        }
    }

    async fn look(&mut self, asked: bool) {
        let Compared { config, jobs, same } = match self.read(asked).await {
            Ok(compared) => compared,
            Err(error) => {
                tracing::error!(
                    file = file::shown(&self.paths),
                    "the jobs file is refused, the old one stays in force:"
                );
                error.to_string().lines().for_each(|line| tracing::error!("{line}"));
                return self.refuse(error.to_string()).await;
            }
        };
        let same = same && config.migrations == self.migrations && config.notices == *self.notices.borrow();
        if config.digest == self.digest && same {
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
            let why = format!("a node cannot change its namespace, from {namespace} to {}", config.namespace);
            return self.refuse(why).await;
        }
        for warning in config.warnings.list() {
            tracing::warn!("{}: {}", warning.place(file::shown(&self.paths)), warning.message);
        }
        self.digest.clone_from(&config.digest);
        self.jobs = jobs;
        self.migrations.clone_from(&config.migrations);
        // Where nothing of it has changed, what is being sent is not cut off.
        let notices = Arc::clone(&config.notices);
        self.notices.send_if_modified(|before| {
            *before != notices && {
                *before = notices;
                true
            }
        });
        if self.orders.send(Order::Reload(Box::new(config))).await.is_err() {
            tracing::debug!("the node has ended");
        }
    }
}

/// A configuration, compared with the jobs that are in force.
struct Compared {
    config: Config,
    jobs: Arc<BTreeMap<JobName, Arc<Job>>>,
    /// The same text makes other jobs where a file that it names has changed.
    same: bool,
}

impl Compared {
    fn with(before: &BTreeMap<JobName, Arc<Job>>, mut config: Config) -> Compared {
        config.keep_unchanged(before);
        let jobs = Arc::new(config.jobs.clone());
        let same = jobs.len() == before.len() && jobs.values().zip(before.values()).all(|(a, b)| Arc::ptr_eq(a, b));
        Compared { config, jobs, same }
    }
}
