//! The jobs of a service while they run: the node in the background, and the handle of the service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::JobsError;
use super::builder::JobsBuilder;
use super::calls::{Body, Calls, panicked};
use crate::board::Shared;
use crate::config::Config;
use crate::execute::{MAX_RUNNING, Outputs};
use crate::fence::Fence;
use crate::job::{JobName, Params, RunId};
use crate::ledger::{Acting, AskError, Asked, Find, Ledger, RunRow, Via};
use crate::lock::{Driver, Locks, Namespace, Timing};
use crate::node::housekeeping::Housekeeping;
use crate::node::{Ends, Node, Options, Order, Status};
use crate::scheduler::run::Done;
use crate::store::{AnyStore, StoreError};

/// How many orders and chores may wait for the node.
const QUEUE: usize = 16;

/// How far this machine's clock may be from the others' for the instance to lead.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2);

/// What the jobs of a service run on.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub store: AnyStore,
    pub locks: Locks<AnyStore>,
    /// The instance's name: unique among them.
    pub node: String,
    pub timing: Timing,
    /// Whether jobs of it are running.
    pub runs: Arc<AtomicBool>,
}

impl Service {
    pub fn namespace(&self) -> &Namespace {
        self.locks.namespace()
    }
}

/// The running jobs of a service: looked at, steered and stopped by it. Dropping it stops them, in the background, with the
/// grace of [`JobsBuilder::grace`]: nothing new begins, what runs may end, and the leadership is handed over.
///
/// Everything that is asked for here is written to the store, and seen to by whichever instance leads; the commands of
/// `fencron` show and do the same.
#[derive(Debug)]
#[must_use = "dropped, the jobs stop: keep it for as long as they are to run"]
pub struct Jobs {
    ledger: Ledger<AnyStore>,
    locks: Locks<AnyStore>,
    node: String,
    names: Vec<JobName>,
    calls: Calls,
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
    terms: watch::Receiver<Option<Fence>>,
    ended: watch::Receiver<Option<Result<(), JobsError>>>,
    _dropped: DropGuard,
}

impl Jobs {
    pub(super) async fn start(
        service: Service,
        config: Config,
        bodies: BTreeMap<JobName, Body>,
        grace: Duration,
    ) -> Result<Jobs, JobsError> {
        for warning in config.warnings.list() {
            tracing::warn!("{}: {}", warning.path, warning.message);
        }
        let Service { store, locks, node: name, timing, runs } = service;
        let clock = locks.clock().clone();
        let calls = Calls::new(clock.clone(), timing.killed_after(), bodies);
        let (orders, ordered) = mpsc::channel(QUEUE);
        let (chore, chores) = mpsc::channel(QUEUE);
        let housekeeping = Housekeeping::start(chore).await.map_err(|error| JobsError::Chores(error.to_string()))?;
        if runs.swap(true, Ordering::SeqCst) {
            housekeeping.stop().await;
            return Err(JobsError::Running);
        }
        let status = watch::Sender::new(Status::starting(&name, &config));
        let ledger = Ledger::new(store, locks.namespace().clone());
        let node = Node {
            ledger: ledger.clone(),
            locks: locks.clone(),
            execute: calls.clone(),
            outputs: Outputs::new(clock.clone()),
            board: Shared::default(),
            metrics: Arc::default(),
            options: Options {
                name: name.clone(),
                timing,
                room: MAX_RUNNING,
                shutdown_grace: grace,
                max_clock_skew: MAX_CLOCK_SKEW,
                address: None,
                driver: Driver::Thread,
                clock: clock.clone(),
            },
        };
        let names = config.jobs.keys().cloned().collect();
        let shown = status.subscribe();
        let ends = Ends {
            orders: ordered,
            chores,
            status,
            turned: watch::Sender::new(clock.boot()),
            leads: watch::Sender::default(),
            pings: None,
        };
        let dropped = CancellationToken::new();
        let (terms, of_terms) = watch::channel(None);
        let (end, ended) = watch::channel(None);
        let background = Background {
            running: tokio::spawn(async move { node.run(config, ends).await }),
            status: shown.clone(),
            terms,
            orders: orders.clone(),
            dropped: dropped.clone(),
        };
        let kept = locks.clone();
        tokio::spawn(async move {
            let result = background.attend().await;
            housekeeping.stop().await;
            kept.save_seen().await;
            runs.store(false, Ordering::SeqCst);
            end.send_replace(Some(result));
        });
        let _dropped = dropped.drop_guard();
        Ok(Jobs { ledger, locks, node: name, names, calls, orders, status: shown, terms: of_terms, ended, _dropped })
    }

    /// What this instance does now: whether it leads, is ready, and why not.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status as it changes.
    pub fn changes(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The fence of this instance's leadership as terms begin and end; `None` while another instance leads, or none.
    ///
    /// To look whether this instance leads and then to act proves nothing: see [`Run::txn`](super::Run::txn).
    pub fn terms(&self) -> watch::Receiver<Option<Fence>> {
        self.terms.clone()
    }

    /// Asks for a run of `job` now, with these parameters, whichever instance leads. Answers the run, for
    /// [`Jobs::verdict`].
    ///
    /// ```
    /// # async fn trigger(jobs: &fencron::jobs::Jobs) -> Result<(), fencron::jobs::JobsError> {
    /// let run = jobs.trigger("nightly", &[("region", "eu")]).await?;
    /// println!("{}", jobs.verdict(&run).await?.verdict);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Where there is no such job, where these are no parameters, and where the store does not answer: the run may
    /// then have been asked for.
    pub async fn trigger(&self, job: &str, params: &[(&str, &str)]) -> Result<RunId, JobsError> {
        let (job, params) = (self.job(job)?, Params::new(params.iter().copied())?);
        let deed = self.ledger.trigger(&self.acting().await?, &job, params).await?;
        deed.run.ok_or_else(|| JobsError::Asked(format!("the run of {job} has no name")))
    }

    /// Pauses a job: its occurrences are skipped, with that reason, until it is resumed.
    ///
    /// # Errors
    ///
    /// Where there is no such job, where it is paused already, and where the store does not answer.
    pub async fn pause(&self, job: &str) -> Result<(), JobsError> {
        self.ledger.pause(&self.acting().await?, Some(&self.job(job)?), None).await?;
        Ok(())
    }

    /// Resumes a job that was paused.
    ///
    /// # Errors
    ///
    /// As [`Jobs::pause`]; where it is not paused.
    pub async fn resume(&self, job: &str) -> Result<(), JobsError> {
        self.ledger.resume(&self.acting().await?, Some(&self.job(job)?)).await?;
        Ok(())
    }

    /// Asks for a run to be cancelled, wherever it runs.
    ///
    /// # Errors
    ///
    /// Where there is no such run, where it has ended, and where the store does not answer.
    pub async fn cancel(&self, run: &RunId) -> Result<(), JobsError> {
        match self.ledger.ask_to_cancel(&self.acting().await?, run).await {
            Ok(_) | Err(AskError::CancelAsked { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The runs of `job`, or of all: the open ones and those that have ended, the last claimed first, at most `limit`.
    ///
    /// # Errors
    ///
    /// Where there is no such job, and where the store does not answer.
    pub async fn runs(&self, job: Option<&str>, limit: usize) -> Result<Vec<RunRow>, JobsError> {
        let job = job.map(|job| self.job(job)).transpose()?;
        Ok(self.ledger.runs(&Find { job, verdict: None, open: true, done: true, limit }, |_| true).await?)
    }

    /// Waits until a run has ended, and answers how. Cancel safe.
    ///
    /// # Errors
    ///
    /// Where there is no such run, and where the store refuses; one that is away is waited for.
    pub async fn verdict(&self, run: &RunId) -> Result<Done, JobsError> {
        Ok(self.ledger.verdict_of(run).await?)
    }

    /// Has these jobs take the place of those that run, from their next occurrence on; what runs goes on. The service's
    /// other instances have to do the same: until then `fencron status` shows that they differ.
    ///
    /// # Errors
    ///
    /// [`JobsError::Wrong`] with everything that is wrong with the jobs, which then stay as they are;
    /// [`JobsError::Stopped`].
    pub async fn replace(&mut self, jobs: JobsBuilder) -> Result<(), JobsError> {
        let (config, bodies) = jobs.into_definitions().made()?;
        self.names = config.jobs.keys().cloned().collect();
        self.calls.replace(bodies);
        self.orders.send(Order::Reload(Box::new(config))).await.map_err(|_| JobsError::Stopped)
    }

    /// Stops: nothing new begins, and runs may end within `grace`. A run that goes on after that is asked to end
    /// ([`Cancelled::Shutdown`](super::Cancelled)) and dropped after its `kill_after`. Every verdict is written, and
    /// the leadership is resigned, so that another instance leads at once. Called again, it waits for the same end.
    ///
    /// # Errors
    ///
    /// As [`Jobs::ended`].
    pub async fn stop(&self, grace: Duration) -> Result<(), JobsError> {
        // Without a receiver of the order, it has ended already.
        self.orders.send(Order::StopWithin(grace)).await.ok();
        self.ended().await
    }

    /// Waits until the jobs have ended: by [`Jobs::stop`], or because the node cannot go on. Await it beside the service's
    /// other work, so that a node that ends by itself is not missed. Cancel safe.
    ///
    /// # Errors
    ///
    /// Why the node could not go on: the store denies access or cannot be used, or the node itself has panicked.
    pub async fn ended(&self) -> Result<(), JobsError> {
        let mut ended = self.ended.clone();
        let result = ended.wait_for(Option::is_some).await;
        // Without a result, the runtime is shutting down.
        result.map_or(Err(JobsError::Stopped), |result| result.clone().unwrap_or(Err(JobsError::Stopped)))
    }

    fn job(&self, name: &str) -> Result<JobName, JobsError> {
        let job = self.names.iter().find(|job| job.as_str() == name);
        job.cloned().ok_or_else(|| JobsError::NoSuchJob(name.chars().take(120).collect()))
    }

    /// The requester, for people to read later. A request may come before the first session of all, which would then
    /// find a namespace with keys, and no base to count fences from.
    async fn acting(&self) -> Result<Acting, JobsError> {
        self.locks.found().await?;
        let asked = Asked::new(format!("the service, as {}", self.node), self.locks.clock().wall());
        Ok(Acting::fresh(Asked { via: Via::Library, ..asked }))
    }
}

/// What attends the node until it has ended.
struct Background {
    running: JoinHandle<Result<(), StoreError>>,
    status: watch::Receiver<Status>,
    terms: watch::Sender<Option<Fence>>,
    orders: mpsc::Sender<Order>,
    dropped: CancellationToken,
}

impl Background {
    async fn attend(mut self) -> Result<(), JobsError> {
        let mut stopping = false;
        let joined = loop {
            tokio::select! {
                biased;
                joined = &mut self.running => break joined,
                () = self.dropped.cancelled(), if !stopping => {
                    stopping = true;
                    self.orders.send(Order::Stop).await.ok();
                }
                Ok(()) = self.status.changed() => {
                    let fence = self.status.borrow_and_update().fence;
                    self.terms.send_if_modified(|shown| std::mem::replace(shown, fence) != fence);
                }
            }
        };
        self.terms.send_replace(None);
        let failed = match joined {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => JobsError::Store(error),
            Err(error) => match error.try_into_panic() {
                Ok(payload) => JobsError::Node(panicked(&*payload)),
                Err(_) => JobsError::Stopped,
            },
        };
        tracing::error!(error = %failed, "the jobs have ended: nothing is due on this instance any more");
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How it ends when the node does so.
    async fn attended(node: impl Future<Output = Result<(), StoreError>> + Send + 'static) -> Result<(), JobsError> {
        let config = crate::config::Program::new("shop").config().unwrap();
        let (_shown, status) = watch::channel(Status::starting("a", &config));
        let background = Background {
            running: tokio::spawn(node),
            status,
            terms: watch::Sender::new(None),
            orders: mpsc::channel(1).0,
            dropped: CancellationToken::new(),
        };
        background.attend().await
    }

    #[tokio::test]
    async fn a_node_that_cannot_go_on_is_reported() {
        assert!(attended(async { Ok(()) }).await.is_ok());
        let denied = StoreError::Denied { store: "etcd".into(), why: "wrong password".into() };
        let error = attended(async move { Err(denied) }).await.unwrap_err();
        assert_eq!(error.to_string(), "etcd denies access: wrong password");
        let error = attended(async { panic!("no luck") }).await.unwrap_err();
        assert!(error.to_string().contains("the node panicked: no luck"), "{error}");
    }
}
