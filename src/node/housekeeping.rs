//! The leader's own chores, which tokio-cron-scheduler drives. It decides nothing about users' jobs: it looks at the
//! clock twice a second and knows no occurrences, which is right for chores (each is harmless to miss or to repeat) and
//! wrong for the promises to users.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job as CronJob, JobScheduler, JobSchedulerError};

use crate::board::Board;
use crate::job::{History, Job, JobName, Verdict};
use crate::ledger::{ATTENTION_BETWEEN, AskError, Ledger, NodeRecord};
use crate::lock::Hold;
use crate::store::{Store, StoreError};
use crate::time::{Wall, written};

/// Something that a leader does now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Delete history that is beyond its job's bounds.
    Prune,
    /// Add a link to the lineage, by which a restored store is known.
    RenewLineage,
    /// Add what was counted of runs to the record of the hour.
    AddCounts,
    /// Delete the oldest terms, bad verdicts and hours from their lists.
    BoundRecords,
    /// Look at the store's version, size and alarms.
    CheckStore,
    /// Look whether the nodes have the same configuration.
    CompareConfigs,
    /// Look whether something is due for long and not decided.
    LookForOverdue,
    /// End the pauses, and the drains of nodes, whose end has come.
    EndPauses,
    /// Go on with backfills whose asking or stopping has broken off.
    FinishBackfills,
}

/// The chores, by when they are done (six fields, seconds first; UTC).
const CHORES: [(&str, Chore); 9] = [
    ("57 * * * * *", Chore::AddCounts),
    ("17 * * * * *", Chore::Prune),
    ("27 */10 * * * *", Chore::RenewLineage),
    ("7 */10 * * * *", Chore::BoundRecords),
    ("37 */10 * * * *", Chore::CheckStore),
    ("47 * * * * *", Chore::CompareConfigs),
    ("*/30 * * * * *", Chore::LookForOverdue),
    ("*/5 * * * * *", Chore::EndPauses),
    ("22,52 * * * * *", Chore::FinishBackfills),
];

/// What is kept of the history of a job that is not configured any more.
const FORGOTTEN: History = History { keep: 100, age: Duration::from_secs(30 * 24 * 3600) };

/// How late an occurrence may be decided before it is worth a warning.
const OVERDUE: Duration = Duration::from_secs(10);

/// For how long a backfill is left to the request that it came with.
const BACKFILL_LEFT: Duration = Duration::from_secs(20);

/// How many jobs the sweep over all of them visits in one pruning.
const SLICE: usize = 200;

/// How many jobs with new verdicts are noted between two prunings.
const TOUCHED_MOST: usize = 10_000;

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

/// When the records that have a bound are bounded: when it is time, and after many bad verdicts. Once at a time.
#[derive(Debug, Default)]
pub(super) struct Bounding {
    under_way: bool,
    /// The bad verdicts since it last began.
    bad: usize,
}

impl Bounding {
    /// This verdict was recorded. Says whether there were so many bad ones that their list has to be bounded.
    pub(super) fn ended(&mut self, verdict: Verdict) -> bool {
        self.bad += usize::from(verdict.is_bad());
        self.bad >= ATTENTION_BETWEEN
    }

    /// `false`: it is under way.
    pub(super) fn begin(&mut self) -> bool {
        if self.under_way {
            return false;
        }
        *self = Bounding { under_way: true, bad: 0 };
        true
    }

    pub(super) fn is_over(&mut self) {
        self.under_way = false;
    }
}

/// The jobs whose history has to be pruned: those that got verdicts since they were last pruned, and slice by slice
/// that of all others, gone jobs among them. One pruning at a time.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    under_way: bool,
    touched: BTreeSet<JobName>,
    /// The slice that comes next, as the pruning before found it.
    slice: Vec<JobName>,
    /// The last job of it; `None`: the sweep begins again.
    after: Option<JobName>,
    /// The last job that was looked at of those that are not configured any more; `None`: they are begun with anew.
    left_over: Option<JobName>,
}

/// One pruning.
#[derive(Debug)]
pub(super) struct PruneRound {
    bounds: Vec<(JobName, History)>,
    /// Jobs with a history and no record of how their last run ended: nodes of an older version ran them.
    unrecorded: Vec<JobName>,
    /// Jobs that are not configured any more, whose record goes with the last of their history.
    left_over: Vec<JobName>,
    after: Option<JobName>,
}

impl Pruning {
    /// A job got a verdict. One too many to be noted is left to the sweep.
    pub(super) fn touch(&mut self, job: &JobName) {
        if self.touched.len() < TOUCHED_MOST && !self.touched.contains(job) {
            self.touched.insert(job.clone());
        }
    }

    /// The next pruning; `None`: one is under way.
    pub(super) fn begin(&mut self, jobs: &BTreeMap<JobName, Arc<Job>>, board: &Board) -> Option<PruneRound> {
        if std::mem::replace(&mut self.under_way, true) {
            return None;
        }
        let mut names = std::mem::take(&mut self.touched);
        let unrecorded: Vec<JobName> =
            self.slice.iter().filter(|job| board.last_of(job).0.is_none()).cloned().collect();
        names.extend(self.slice.drain(..));
        let left_over: Vec<JobName> = board.left_over(self.left_over.as_ref()).take(SLICE).cloned().collect();
        self.left_over = left_over.last().filter(|_| left_over.len() == SLICE).cloned();
        let bounds_of = |name: JobName| {
            let bounds = jobs.get(&name).map_or(FORGOTTEN, |job| job.history);
            (name, bounds)
        };
        let bounds = names.into_iter().map(bounds_of).collect();
        Some(PruneRound { bounds, unrecorded, left_over, after: self.after.clone() })
    }

    /// A pruning has ended, and found the next slice of the sweep, unless it failed or the term was over.
    pub(super) fn ended(&mut self, next: Option<Vec<JobName>>) {
        self.under_way = false;
        if let Some(next) = next {
            self.after = next.last().cloned();
            self.slice = next;
        }
    }
}

/// Deletes what is beyond the bounds of these jobs' histories, and answers which jobs are next in the sweep; `None`:
/// the store refused, since the term is over.
pub(super) async fn prune<S: Store>(
    ledger: &Ledger<S>,
    hold: &Hold,
    turn: PruneRound,
    now: Wall,
) -> Result<Option<Vec<JobName>>, StoreError> {
    let mut deleted = 0;
    for (name, bounds) in &turn.bounds {
        let pruned = ledger.prune(hold, name, *bounds, now).await?;
        deleted += pruned.deleted;
        if pruned.refused {
            return Ok(None);
        }
    }
    if deleted > 0 {
        tracing::debug!(deleted, "pruned the history");
    }
    for name in &turn.unrecorded {
        ledger.make_last(hold, name).await?;
    }
    for name in &turn.left_over {
        ledger.forget_last(hold, name).await?;
    }
    ledger.jobs_with_history(turn.after.as_ref(), SLICE).await.map(Some)
}

pub(super) async fn bound_records<S: Store>(ledger: &Ledger<S>, hold: &Hold, now: Wall) -> Result<(), StoreError> {
    ledger.bound_terms(hold).await?;
    ledger.bound_acts(hold, now).await?;
    ledger.bound_drains(hold, now).await?;
    ledger.bound_hours(hold).await?;
    let beyond = ledger.bound_attention(hold, now).await?;
    if beyond > 0 {
        tracing::debug!(beyond, "the list of bad verdicts was full: the oldest were taken off it");
    }
    Ok(())
}

/// Ends pauses, of jobs and (`None`) of all, and drains of nodes, whose end has come.
pub(super) async fn end_pauses<S: Store>(
    ledger: &Ledger<S>,
    hold: &Hold,
    (over, undrained): (Vec<Option<JobName>>, Vec<String>),
    now: Wall,
) -> Result<(), StoreError> {
    for job in over {
        ledger.end_pause(hold, job.as_ref(), now).await?;
        tracing::info!(job = job.as_ref().map_or("all jobs", JobName::as_str), "a pause has ended by itself");
    }
    for node in undrained {
        ledger.end_drain(hold, &node, now).await?;
        tracing::info!(node, "the drain of a node has ended by itself");
    }
    Ok(())
}

/// Goes on with the backfills that no request goes on with any more.
pub(super) async fn finish_backfills<S: Store>(ledger: &Ledger<S>, hold: &Hold, now: Wall) -> Result<(), StoreError> {
    match ledger.finish_backfills(hold, now.minus(BACKFILL_LEFT)).await {
        Ok(0) => Ok(()),
        Ok(finished) => {
            tracing::info!(finished, "went on with backfills that had broken off");
            Ok(())
        }
        Err(AskError::Store(error)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "cannot go on with a backfill that has broken off");
            Ok(())
        }
    }
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
            "a node has another configuration: what fires depends on which node leads, until all have the same"
        );
    }
}

pub(super) fn look_for_overdue(overdue: Duration) {
    if overdue > OVERDUE {
        let overdue = written(Duration::from_secs(overdue.as_secs()));
        tracing::warn!(%overdue, "occurrences are due and not decided: the store is slow, or there are more than it takes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> JobName {
        JobName::new(name).unwrap()
    }

    fn names(turn: &PruneRound) -> Vec<&str> {
        turn.bounds.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn begin(pruning: &mut Pruning) -> Option<PruneRound> {
        pruning.begin(&BTreeMap::new(), &Board::default())
    }

    #[test]
    fn one_pruning_is_under_way_at_a_time() {
        let mut pruning = Pruning::default();
        assert!(begin(&mut pruning).is_some() && begin(&mut pruning).is_none());
        pruning.ended(None);
        assert!(begin(&mut pruning).is_some());
    }

    #[test]
    fn many_bad_verdicts_have_their_list_bounded_before_it_is_time() {
        let mut bounding = Bounding::default();
        let all = (1..ATTENTION_BETWEEN).filter(|_| bounding.ended(Verdict::Failed)).count();
        assert!(all == 0 && !bounding.ended(Verdict::Succeeded) && bounding.ended(Verdict::TimedOut));
        assert!(bounding.begin() && !bounding.ended(Verdict::Failed) && !bounding.begin());
        bounding.is_over();
        assert!(bounding.begin());
    }

    #[test]
    fn a_pruning_visits_what_got_verdicts_since_the_last_and_the_next_slice_of_all() {
        let mut pruning = Pruning::default();
        pruning.touch(&job("b"));
        assert_eq!(names(&begin(&mut pruning).unwrap()), ["b"]);
        pruning.touch(&job("c"));
        pruning.ended(Some(vec![job("a"), job("c")]));
        let turn = begin(&mut pruning).unwrap();
        assert_eq!((names(&turn), turn.after.clone()), (vec!["a", "c"], Some(job("c"))));
        pruning.ended(Some(Vec::new()));
        let turn = begin(&mut pruning).unwrap();
        assert_eq!((names(&turn), turn.after.clone()), (vec![], None));
    }

    #[test]
    fn a_sweep_goes_on_behind_a_slice_that_failed() {
        let mut pruning = Pruning::default();
        begin(&mut pruning).unwrap();
        pruning.ended(Some(vec![job("a")]));
        begin(&mut pruning).unwrap();
        pruning.ended(None);
        let turn = begin(&mut pruning).unwrap();
        assert_eq!((names(&turn), turn.after.clone()), (vec![], Some(job("a"))));
    }

    #[test]
    fn only_so_many_jobs_are_noted() {
        let mut pruning = Pruning::default();
        (0..=TOUCHED_MOST).for_each(|number| pruning.touch(&job(&format!("j{number}"))));
        assert_eq!(begin(&mut pruning).unwrap().bounds.len(), TOUCHED_MOST);
    }
}
