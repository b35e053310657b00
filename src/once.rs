//! Work that is done only once, although several processes start it: migrations, and what `fencron once` runs under a key.
//!
//! Every process calls [`Runner::run`]. All of them contend for one lock. Its holder does what is not done yet, and the
//! waiters watch: they see what it writes, and end with its verdict as soon as that is recorded, without waiting for
//! the lock.
//!
//! # What makes it once
//!
//! 1. A **claim** is recorded before anything is started, in a transaction that compares the hold of the lock and the
//!    record as it was read. So there is one claimant at a time, and a record that says `done` is final.
//! 2. How it **ended** is recorded if the claim still stands.
//! 3. A holder of the lock that finds a claim without an end knows that its claimant was **lost in the middle**: holds
//!    end with their sessions. What follows is what its kind allows, and never more:
//!
//! | it is | then |
//! | --- | --- |
//! | SQL in a transaction | it is made again: the target database knows whether it was done |
//! | declared `idempotent: true` | it is made again |
//! | given a probe, `verify:` | the probe says whether it was done |
//! | anything else | it is `unknown`, until a person resolves it |
//!
//! A failure is not final: work that is harmless to repeat is done again by the next process, other work when a caller
//! asks for it. The waiters of that moment end with the failure: ten replicas do not fail ten times.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Migration;
use crate::execute::{Execute, Outputs, Reads, Stop};
use crate::fence::Fence;
use crate::job::{Guarantee, Job, JobName, StopReason, Task};
use crate::ledger::{Ledger, Once, OnceKey, OnceKind, OnceState, Recorded};
use crate::lock::{
    Backoff, CampaignError, Candidate, Driver, Locks, News, Outage, Presence, SessionError, Term, Timing,
};
use crate::store::{Revision, Store, StoreError};
use crate::time::{Boot, Clock, written};

mod holder;
mod order;
mod standing;
mod wait;

pub use holder::OUTPUT_SHOWN_EVERY;
pub use order::{Difference, differences, has_order};
pub use standing::{Standing, State, standings};

/// How long work that is asked to end has before it is ended by force, if a key has no setting for it.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// The record of a session that only waits for a lock: it is no node.
const NO_NODE: &[u8] = b"{}";

/// A piece of work that is done once.
#[derive(Clone, Debug)]
pub struct Step {
    pub key: OnceKey,
    /// The SHA-256 of what it does, in hexadecimal digits.
    pub checksum: String,
    /// The checksums that earlier versions gave to the same work.
    pub checksums_before: Vec<String>,
    /// What it does. Its schedule, overlap and history have no meaning here.
    pub job: Arc<Job>,
    /// The probe: success means that it was done; exit code 1, or an answer that was not expected, that it was not.
    pub verify: Option<Arc<Job>>,
    /// What its command reads, where it is made.
    pub reads: Reads,
}

impl From<&Migration> for Step {
    fn from(migration: &Migration) -> Step {
        Step {
            key: OnceKey::migration(&migration.id),
            checksum: migration.checksum.clone(),
            checksums_before: migration.checksums_before.clone(),
            job: Arc::clone(&migration.job),
            verify: migration.verify.clone(),
            reads: Reads::Nothing,
        }
    }
}

impl Step {
    /// The work of `task` under a key, with its time-out.
    pub fn of_key(key: OnceKey, checksum: String, task: Task, timeout: Option<Duration>, repeatable: bool) -> Step {
        let job = Arc::new(job_of_key(task, timeout, repeatable));
        Step { key, checksum, checksums_before: Vec::new(), job, verify: None, reads: Reads::Nothing }
    }

    /// Uses `task` to find out whether it was done, after a process was lost in the middle of it.
    #[must_use]
    pub fn verified_by(self, task: Task) -> Step {
        let verify = job_of_key(task, self.job.timeout, true);
        Step { verify: Some(Arc::new(verify)), ..self }
    }

    /// Whether it may be done again when it is unknown how far it came.
    pub fn is_repeatable(&self) -> bool {
        self.job.guarantee.may_repeat()
    }

    /// Whether work with this checksum is the same work.
    fn is_same(&self, checksum: &str) -> bool {
        self.checksum == checksum || self.checksums_before.iter().any(|before| before == checksum)
    }
}

/// The job of a task that no schedule has.
fn job_of_key(task: Task, timeout: Option<Duration>, repeatable: bool) -> Job {
    let guarantee = if repeatable { Guarantee::AtLeastOnce } else { Guarantee::AtMostOnce };
    let job = Job::new(JobName::new("once").expect("it is a name"), task);
    Job { timeout, kill_after: KILL_AFTER, guarantee, ..job }
}

/// The settings of a call.
#[derive(Clone, Debug)]
pub struct How {
    /// Does failed work again, although that may do harm.
    pub retry_failed: bool,
    /// How long to wait for other processes; `None`: without limit.
    pub wait: Option<Duration>,
    /// Ends it.
    pub stop: Stop,
}

/// The final state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// All of it is done.
    Done,
    /// This one has failed, and those behind it were not begun.
    Failed(Box<Once>),
    /// It is unknown whether this one was done.
    Unknown(Box<Once>),
}

/// What a call reports while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Another process holds the lock.
    Waits { holder: String },
    /// The store does not answer, and is waited for.
    Away { why: String },
    /// It answers again.
    Back,
    /// It was claimed, here.
    Starts { name: String, attempt: u32, fence: Fence },
    /// What it writes, here or where it is done.
    Output { name: String, text: String },
    /// So many bytes of it are not shown.
    Missed { name: String, bytes: u64 },
    /// How one step ended, here or elsewhere.
    Ended { once: Box<Once>, here: bool },
}

/// Receives the notices of a call. It is called in between, and must return quickly.
pub type Reporter = Arc<dyn Fn(Notice) + Send + Sync>;

/// Why a call did not come to a final state.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// The migrations asked for are not those that were made.
    #[error("{}", order::listed(.0))]
    Different(Vec<Difference>),
    #[error("{holder} was at work for longer than the wait of {}", written(*.waited))]
    NotInTime { holder: String, waited: Duration },
    /// Nothing of it is left running, and what was claimed is recorded as far as that is known.
    #[error("stopped before it was done: {}", .0.as_str())]
    Stopped(StopReason),
    /// The hold ended in the middle. The next holder of the lock finds out whether it was done.
    #[error("the lock was lost in the middle of {name} ({why}): the next holder finds out whether it was done")]
    Lost { name: String, why: String },
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Campaign(#[from] CampaignError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Does things once.
#[derive(Clone, Debug)]
pub struct Runner<S, E> {
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub execute: E,
    pub outputs: Outputs,
    pub clock: Clock,
    /// The name of this process, for people to read.
    pub node: String,
    pub timing: Timing,
    pub driver: Driver,
}

/// What the caller requested, and since when.
struct Call<'a> {
    steps: &'a [Step],
    how: How,
    report: &'a Reporter,
    /// What was recorded up to here was there before the call: what comes after is the verdict of another process.
    began_at: Revision,
}

/// What the holder of the lock does about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StepPlan {
    Nothing,
    Make,
    /// A process was lost in the middle of it, or is in the middle of it now.
    FindOut,
    Stop(Settled),
}

impl Call<'_> {
    fn next(&self, step: &Step, recorded: Option<&Recorded>) -> StepPlan {
        let Some(Recorded { once, modified, .. }) = recorded else { return StepPlan::Make };
        let is_news = *modified > self.began_at;
        match once.state {
            OnceState::Done => StepPlan::Nothing,
            OnceState::Pending => StepPlan::Make,
            OnceState::Claimed => StepPlan::FindOut,
            OnceState::Failed => {
                // A migration that was changed since is another one; a key stays what it is.
                let changed = step.key.kind() == OnceKind::Migration && !step.is_same(&once.checksum);
                let again = self.how.retry_failed || step.is_repeatable();
                if changed || (again && !is_news) {
                    StepPlan::Make
                } else {
                    StepPlan::Stop(Settled::Failed(Box::new(once.clone())))
                }
            }
            OnceState::Unknown => {
                let can_find_out = step.is_repeatable() || step.verify.is_some();
                if can_find_out && !is_news {
                    StepPlan::FindOut
                } else {
                    StepPlan::Stop(Settled::Unknown(Box::new(once.clone())))
                }
            }
        }
    }

    /// The final state for the holder of the lock, if nothing is left to do.
    fn settled(&self, records: &[Recorded]) -> Result<Option<Settled>, OnceError> {
        match differences(self.steps, records) {
            none if none.is_empty() => Ok(self.verdict(records)),
            differences => Err(OnceError::Different(differences)),
        }
    }

    /// The final state for a waiter: work that another process does may still fail, and may then have been changed.
    fn settled_by_others(&self, records: &[Recorded]) -> Result<Option<Settled>, OnceError> {
        let ended = |recorded: &&Recorded| recorded.once.state != OnceState::Claimed;
        let ended: Vec<Recorded> = records.iter().filter(ended).cloned().collect();
        match differences(self.steps, &ended) {
            none if none.is_empty() => Ok(self.verdict(records)),
            differences => Err(OnceError::Different(differences)),
        }
    }

    fn verdict(&self, records: &[Recorded]) -> Option<Settled> {
        for step in self.steps {
            match self.next(step, find(records, step)) {
                StepPlan::Nothing => {}
                StepPlan::Stop(settled) => return Some(settled),
                StepPlan::Make | StepPlan::FindOut => return None,
            }
        }
        Some(Settled::Done)
    }
}

/// Reports that the call waits for the store.
fn outage(report: &Reporter) -> Outage<impl Fn(Option<String>)> {
    Outage::new(|why| {
        report(match why {
            Some(why) => Notice::Away { why },
            None => Notice::Back,
        });
    })
}

fn find<'r>(records: &'r [Recorded], step: &Step) -> Option<&'r Recorded> {
    records.iter().find(|recorded| recorded.once.name == step.key.name())
}

impl<S: Store, E: Execute> Runner<S, E> {
    /// Does `steps` in their order, each once: here, or another process has done it or does it now. They are all
    /// migrations, or one of another kind.
    ///
    /// # Errors
    ///
    /// See [`OnceError`]; what was done before the error is recorded.
    pub async fn run(&self, steps: &[Step], how: How, report: &Reporter) -> Result<Settled, OnceError> {
        if steps.is_empty() {
            return Ok(Settled::Done);
        }
        let give_up_at = how.wait.map(|wait| self.clock.boot().plus(wait));
        let (records, began_at) = self.recorded(steps, (&how, report), give_up_at).await?;
        let call = Call { steps, how, report, began_at };
        if let Some(settled) = call.settled_by_others(&records)? {
            return Ok(settled);
        }
        let presence = Presence { node: self.node.clone(), record: NO_NODE.to_vec() };
        let mut candidate =
            Candidate::new(&self.locks, presence, self.timing, self.driver).campaigning_for(call.steps[0].key.lock());
        let settled = Box::pin(self.take_part(&mut candidate, &call, give_up_at)).await;
        if let Err(error) = candidate.leave().await {
            tracing::debug!(%error, "could not close the session: it ends by itself");
        }
        settled
    }

    /// The records of the steps. While the store is unavailable, it is tried again up to `give_up_at`.
    async fn recorded(
        &self,
        steps: &[Step],
        (how, report): (&How, &Reporter),
        give_up_at: Option<Boot>,
    ) -> Result<(Vec<Recorded>, Revision), OnceError> {
        let (mut away, mut backoff, mut stop) = (outage(report), Backoff::new(), how.stop.clone());
        loop {
            match self.ledger.once(&steps[0].key).await {
                Err(error) if error.is_passing() && !self.is_reached(give_up_at) => away.goes_on(&error),
                recorded => {
                    away.is_over();
                    return Ok(recorded?);
                }
            }
            tokio::select! {
                biased;
                reason = stop.requested() => return Err(OnceError::Stopped(reason)),
                () = backoff.wait() => {}
            }
        }
    }

    fn is_reached(&self, at: Option<Boot>) -> bool {
        at.is_some_and(|at| self.clock.boot() >= at)
    }

    /// Waits for the lock, and does under it what is left to do, over as many sessions and terms as that takes.
    async fn take_part(
        &self,
        candidate: &mut Candidate<S>,
        call: &Call<'_>,
        give_up_at: Option<Boot>,
    ) -> Result<Settled, OnceError> {
        let election = self.locks.election(call.steps[0].key.lock());
        let (mut stop, mut reported) = (call.how.stop.clone(), wait::Reported::default());
        loop {
            let term = tokio::select! {
                biased;
                reason = stop.requested() => return Err(OnceError::Stopped(reason)),
                term = self.win(candidate, call, give_up_at) => term?,
                settled = Box::pin(self.watch_holder(call, &mut reported)) => return settled,
                () = self.clock.reached(give_up_at) => {
                    let leader = election.observe().await?.leader;
                    let holder = leader.map_or("another process".to_owned(), |leader| leader.node);
                    return Err(OnceError::NotInTime { holder, waited: call.how.wait.unwrap_or_default() });
                }
            };
            match Box::pin(self.act_under(candidate, &term, call, &mut reported)).await {
                Err(OnceError::Campaign(CampaignError::SessionEnded(_) | CampaignError::TrustLapsed)) => {
                    candidate.give_up();
                }
                settled => return settled,
            }
        }
    }

    /// Wins the lock. While the store is unavailable, it is tried again up to `give_up_at`.
    async fn win(
        &self,
        candidate: &mut Candidate<S>,
        call: &Call<'_>,
        give_up_at: Option<Boot>,
    ) -> Result<Term, OnceError> {
        let mut away = outage(call.report);
        loop {
            match candidate.next().await {
                News::Won(term) => return Ok(term),
                News::Session(_) => away.is_over(),
                News::NoSession(error) if error.is_passing() && !self.is_reached(give_up_at) => away.goes_on(&error),
                News::NoSession(error) => return Err(error.into()),
                News::NotWon(CampaignError::TrustLapsed | CampaignError::OtherCall(_)) => {}
                News::NotWon(error) => return Err(error.into()),
                News::SessionOver(_) | News::TermOver(_) | News::Trust => {}
            }
        }
    }
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Settled::Done => f.write_str("done"),
            Settled::Failed(once) => write!(f, "{} failed: {}", once.name, once.reason),
            Settled::Unknown(once) => write!(f, "{} is unknown: {}", once.name, once.reason),
        }
    }
}
