//! The leader's own chores, which tokio-cron-scheduler drives. It decides nothing about users' jobs: it looks at the
//! clock twice a second and knows no occurrences, which is right for chores (each is harmless to miss or to repeat)
//! and wrong for what is promised to users.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job as CronJob, JobScheduler, JobSchedulerError};

use crate::job::{History, Job, JobName};
use crate::ledger::{Ledger, NodeRecord};
use crate::lock::Hold;
use crate::store::{Store, StoreError};
use crate::time::Wall;

/// Something that a leader does now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Delete history that is beyond its job's bounds.
    Prune,
    /// Look at the store's version, size and alarms.
    CheckStore,
    /// Look whether the nodes have the same configuration.
    CompareConfigs,
    /// Look whether something is due for long and not decided.
    LookForOverdue,
}

/// The chores, by when they are done (six fields, seconds first; UTC).
const CHORES: [(&str, Chore); 4] = [
    ("17 * * * * *", Chore::Prune),
    ("37 */10 * * * *", Chore::CheckStore),
    ("47 * * * * *", Chore::CompareConfigs),
    ("*/30 * * * * *", Chore::LookForOverdue),
];

/// What is kept of the history of a job that is not configured any more.
const FORGOTTEN: History = History { keep: 100, age: Duration::from_secs(30 * 24 * 3600) };

/// How late an occurrence may be decided before it is worth a warning.
const OVERDUE: Duration = Duration::from_secs(10);

/// How many jobs' histories are looked up at a time.
const JOBS_AT_ONCE: usize = 500;

/// The running clock of the chores; they stop with it.
pub struct Housekeeping {
    scheduler: JobScheduler,
}

impl Housekeeping {
    /// Sends each chore to `chores` when it is time. One that finds the channel full is left out: it comes again.
    pub async fn start(chores: mpsc::Sender<Chore>) -> Result<Housekeeping, JobSchedulerError> {
        let scheduler = JobScheduler::new().await?;
        for (when, chore) in CHORES {
            let chores = chores.clone();
            let job = CronJob::new_async(when, move |_, _| {
                let chores = chores.clone();
                Box::pin(async move {
                    if chores.try_send(chore).is_err() {
                        tracing::debug!(?chore, "left out: the node is busy, or stopping");
                    }
                })
            })?;
            scheduler.add(job).await?;
        }
        scheduler.start().await?;
        Ok(Housekeeping { scheduler })
    }

    /// Stops it.
    pub async fn stop(mut self) {
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::debug!(%error, "the housekeeping did not stop cleanly");
        }
    }
}

/// Deletes what is beyond the bounds of each job's history; of jobs that are gone, what is beyond the default's.
pub(super) async fn prune<S: Store>(
    ledger: &Ledger<S>,
    hold: &Hold,
    jobs: &BTreeMap<JobName, Arc<Job>>,
    now: Wall,
) -> Result<(), StoreError> {
    let mut after: Option<JobName> = None;
    let mut pruned = 0;
    loop {
        let names = ledger.jobs_with_history(after.as_ref(), JOBS_AT_ONCE).await?;
        for name in &names {
            let bounds = jobs.get(name).map_or(FORGOTTEN, |job| job.history);
            pruned += ledger.prune(hold, name, bounds, now).await?;
        }
        if names.len() < JOBS_AT_ONCE {
            break;
        }
        after = names.into_iter().next_back();
    }
    if pruned > 0 {
        tracing::debug!(pruned, "pruned the history");
    }
    Ok(())
}

pub(super) async fn check_store<S: Store>(ledger: &Ledger<S>) -> Result<(), StoreError> {
    let about = ledger.store().about().await?;
    tracing::debug!(kind = about.kind, version = about.version, size = about.size, "the store");
    for warning in about.warnings {
        tracing::warn!("the store: {warning}");
    }
    Ok(())
}

pub(super) fn compare_configs<'a>(own: &str, nodes: impl Iterator<Item = &'a NodeRecord>) {
    for other in nodes.filter(|node| node.config_digest != own) {
        tracing::warn!(
            node = other.node,
            theirs = other.config_digest,
            ours = own,
            "a node has another configuration: what fires depends on who leads, until all have the same"
        );
    }
}

pub(super) fn look_for_overdue(overdue: Duration) {
    if overdue > OVERDUE {
        let overdue = humantime::format_duration(Duration::from_secs(overdue.as_secs()));
        tracing::warn!(%overdue, "occurrences are due and not decided: the store is slow, or there are more than it takes");
    }
}
