//! Doing something once, however many start to do it: migrations, and what `fencron once` runs under a key.
//!
//! Whoever wants it done calls [`Runner::run`]. All of them contend for one lock; who holds it does what is not done
//! yet, and the others watch: they see what it writes, and end with its verdict as soon as that is recorded, whether or
//! not their turn has come.
//!
//! # What makes it once
//!
//! 1. A **claim** is recorded before anything is started, in a transaction that compares the hold of the lock and the
//!    record as it was read. So there is one claimant at a time, and a record that says `done` is final.
//! 2. How it **ended** is recorded where the claim still stands.
//! 3. Who holds the lock and finds a claim without an end knows that its claimant was **lost in the middle**: holds end
//!    with their sessions. What becomes of it is what its kind allows, and never more:
//!
//! | it is | then |
//! | --- | --- |
//! | SQL in a transaction | it is made again: the target database knows whether it was done |
//! | declared `idempotent: true` | it is made again |
//! | given a probe, `verify:` | the probe says whether it was done |
//! | anything else | it is `unknown`, until a person resolves it |
//!
//! A failure is no end: what is harmless to repeat is made again by whoever comes next, the rest when somebody asks
//! for it. Those who were waiting meanwhile end with the failure: ten replicas do not fail ten times.

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

mod order;
mod turn;
mod wait;

pub use order::{Difference, differences, has_order};
pub use turn::OUTPUT_SHOWN_EVERY;

/// How long what is told to end has before it is ended by force, where a key has no setting for it.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// What the session of somebody who only waits for a lock says of it: it is no node.
const NO_NODE: &[u8] = b"{}";

/// Something that is to be done once.
#[derive(Clone, Debug)]
pub struct Step {
    pub key: OnceKey,
    /// The SHA-256 of what it does, in hexadecimal digits.
    pub checksum: String,
    /// The checksums that earlier versions gave the same.
    pub checksums_before: Vec<String>,
    /// What it does. Its schedule, overlap and history say nothing here.
    pub job: Arc<Job>,
    /// Tells, by succeeding, that it was done; by exit code 1 or an answer that was not expected, that it was not.
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
    /// What is done under a key by `task`, which may take so long.
    pub fn of_key(key: OnceKey, checksum: String, task: Task, timeout: Option<Duration>, repeatable: bool) -> Step {
        let job = Arc::new(job_of_key(task, timeout, repeatable));
        Step { key, checksum, checksums_before: Vec::new(), job, verify: None, reads: Reads::Nothing }
    }

    /// Has `task` tell whether it was done, where somebody was lost in the middle of it.
    #[must_use]
    pub fn verified_by(self, task: Task) -> Step {
        let verify = job_of_key(task, self.job.timeout, true);
        Step { verify: Some(Arc::new(verify)), ..self }
    }

    /// Whether it may be made again when nobody can say how far it came.
    pub fn is_repeatable(&self) -> bool {
        self.job.guarantee.may_repeat()
    }

    /// Whether what has this checksum is the same.
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

/// How something is to be done once.
#[derive(Clone, Debug)]
pub struct How {
    /// What has failed is made again, though that may do harm.
    pub retry_failed: bool,
    /// How long to wait for others; `None`: as long as it takes.
    pub wait: Option<Duration>,
    /// Ends it.
    pub stop: Stop,
}

/// How it stands in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// All of it is done.
    Done,
    /// This one has failed, and those behind it were not begun.
    Failed(Box<Once>),
    /// Of this one nobody can say whether it was done.
    Unknown(Box<Once>),
}

/// What is told while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Somebody else holds the lock.
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
    /// How one of them ended, here or elsewhere.
    Ended { once: Box<Once>, here: bool },
}

/// Who is told. It is called in between, and must be quick.
pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// Why it did not come to an end.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// The migrations asked for are not those that were made.
    #[error("{}", order::listed(.0))]
    Different(Vec<Difference>),
    #[error("{holder} was at it for longer than the {} that were to be waited", written(*.waited))]
    NotInTime { holder: String, waited: Duration },
    /// Nothing of it is left running, and what was claimed is recorded as far as that is known.
    #[error("stopped before it was done: {}", .0.as_str())]
    Stopped(StopReason),
    /// The hold ended in the middle. Whoever holds the lock next decides what became of it.
    #[error("the lock was lost in the middle of {name} ({why}): whoever comes next decides what became of it")]
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
    /// Who it is, for others to read.
    pub node: String,
    pub timing: Timing,
    pub driver: Driver,
}

/// What was asked for, and since when.
struct Call<'a> {
    steps: &'a [Step],
    how: How,
    tell: &'a Tell,
    /// What was recorded up to here was there before the call: what comes after is somebody else's verdict.
    began_at: Revision,
}

/// What is to be done about a step, by whoever holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Make,
    /// Somebody was lost in the middle of it, or is in the middle of it now.
    FindOut,
    Stop(Settled),
}

impl Call<'_> {
    fn next(&self, step: &Step, recorded: Option<&Recorded>) -> Next {
        let Some(Recorded { once, modified, .. }) = recorded else { return Next::Make };
        let is_news = *modified > self.began_at;
        match once.state {
            OnceState::Done => Next::Nothing,
            OnceState::Pending => Next::Make,
            OnceState::Claimed => Next::FindOut,
            OnceState::Failed => {
                // A migration that was changed since is another one; a key stays what it is.
                let changed = step.key.kind() == OnceKind::Migration && !step.is_same(&once.checksum);
                let again = self.how.retry_failed || step.is_repeatable();
                if changed || (again && !is_news) {
                    Next::Make
                } else {
                    Next::Stop(Settled::Failed(Box::new(once.clone())))
                }
            }
            OnceState::Unknown => {
                let can_find_out = step.is_repeatable() || step.verify.is_some();
                if can_find_out && !is_news {
                    Next::FindOut
                } else {
                    Next::Stop(Settled::Unknown(Box::new(once.clone())))
                }
            }
        }
    }

    /// How it stands for the holder of the lock, where nothing is left to be done.
    fn settled(&self, records: &[Recorded]) -> Result<Option<Settled>, OnceError> {
        match differences(self.steps, records) {
            none if none.is_empty() => Ok(self.verdict(records)),
            differences => Err(OnceError::Different(differences)),
        }
    }

    /// How it stands for everybody else: what somebody is at may yet fail, and then it may have been changed.
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
                Next::Nothing => {}
                Next::Stop(settled) => return Some(settled),
                Next::Make | Next::FindOut => return None,
            }
        }
        Some(Settled::Done)
    }
}

/// Tells that the store is waited for.
fn outage(tell: &Tell) -> Outage<impl Fn(Option<String>)> {
    Outage::new(|why| {
        tell(match why {
            Some(why) => Told::Away { why },
            None => Told::Back,
        });
    })
}

fn find<'r>(records: &'r [Recorded], step: &Step) -> Option<&'r Recorded> {
    records.iter().find(|recorded| recorded.once.name == step.key.name())
}

impl<S: Store, E: Execute> Runner<S, E> {
    /// Has `steps` done, in their order, once: here, or wherever else it was or is being done. They are all migrations,
    /// or one of another kind.
    ///
    /// # Errors
    ///
    /// See [`OnceError`]; what was done until then is recorded.
    pub async fn run(&self, steps: &[Step], how: How, tell: &Tell) -> Result<Settled, OnceError> {
        if steps.is_empty() {
            return Ok(Settled::Done);
        }
        let give_up_at = how.wait.map(|wait| self.clock.boot().plus(wait));
        let (records, began_at) = self.recorded(steps, (&how, tell), give_up_at).await?;
        let call = Call { steps, how, tell, began_at };
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

    /// What is recorded of the steps, however long the store is away, up to `give_up_at`.
    async fn recorded(
        &self,
        steps: &[Step],
        (how, tell): (&How, &Tell),
        give_up_at: Option<Boot>,
    ) -> Result<(Vec<Recorded>, Revision), OnceError> {
        let (mut away, mut backoff, mut stop) = (outage(tell), Backoff::new(), how.stop.clone());
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

    /// Waits for the lock, and does under it what is left to be done, however many sessions and terms that takes.
    async fn take_part(
        &self,
        candidate: &mut Candidate<S>,
        call: &Call<'_>,
        give_up_at: Option<Boot>,
    ) -> Result<Settled, OnceError> {
        let election = self.locks.election(call.steps[0].key.lock());
        let (mut stop, mut heard) = (call.how.stop.clone(), wait::Heard::default());
        loop {
            let term = tokio::select! {
                biased;
                reason = stop.requested() => return Err(OnceError::Stopped(reason)),
                term = self.win(candidate, call, give_up_at) => term?,
                settled = Box::pin(self.look_on(call, &mut heard)) => return settled,
                () = self.reached(give_up_at) => {
                    let holder = election.observe().await?.leader.map_or("somebody".to_owned(), |leader| leader.node);
                    return Err(OnceError::NotInTime { holder, waited: call.how.wait.unwrap_or_default() });
                }
            };
            match Box::pin(self.take_turn(candidate, &term, call, &mut heard)).await {
                Err(OnceError::Campaign(CampaignError::SessionEnded(_) | CampaignError::TrustLapsed)) => {
                    candidate.give_up();
                }
                settled => return settled,
            }
        }
    }

    /// Wins the lock, however long the store is away, up to `give_up_at`.
    async fn win(
        &self,
        candidate: &mut Candidate<S>,
        call: &Call<'_>,
        give_up_at: Option<Boot>,
    ) -> Result<Term, OnceError> {
        let mut away = outage(call.tell);
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

    async fn reached(&self, at: Option<Boot>) {
        /// Timers stand still while the machine is suspended; the boot clock does not.
        const RECHECK: Duration = Duration::from_secs(1);
        let Some(at) = at else { return std::future::pending().await };
        loop {
            let left = at.since(self.clock.boot());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(RECHECK)).await;
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
