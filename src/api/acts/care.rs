//! What only an administrator does: step-down, drain, unlock, migrations, and rewind.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sending::Sending;
use super::{Done, Pausing, Reasoned, refused};
use crate::api::problem::{Kind, Problem};
use crate::api::routes::Named;
use crate::api::{Api, in_time, json};
use crate::fence::Fence;
use crate::job::JobName;
use crate::ledger::{Act, Acting, AskError, Deed, OnceKey, OnceState, RewindError, Rewinding};
use crate::lock::{Config, LockError, LockName, SemaphoreError};
use crate::store::{LeaseId, Store, StoreError};
use crate::time::Wall;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "StepDownRequest")]
pub(in crate::api) struct SteppingDown {
    /// The leader that is meant: where another term has begun by now, nothing is done.
    fence: Option<Fence>,
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[schemars(length(max = 500))]
    reason: Option<String>,
}

/// The kinds of locks that can be revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::api) enum Kinds {
    /// One that `lock`, `elect` or a program holds.
    #[default]
    Lock,
    /// That of the migrations.
    Migrations,
    /// That of `once NAME`.
    Once,
    /// The permits of one session.
    Semaphore,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "UnlockRequest")]
pub(in crate::api) struct Unlocking {
    /// The name of the lock or semaphore.
    pub name: String,
    #[serde(default)]
    pub kind: Kinds,
    /// The hold that is meant: where another has begun by now, nothing is done.
    #[serde(default)]
    pub fence: Option<Fence>,
    /// Of a semaphore: the session whose permits are revoked, as `/api/v1/locks` has it.
    #[serde(default)]
    pub session: Option<String>,
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub reason: Option<String>,
}

/// What a migration is settled as.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::api) enum As {
    /// It was made.
    Done,
    /// It has to be made again.
    Retry,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MigrationRequest")]
pub(in crate::api) struct SettlingMigration {
    /// The migration.
    pub id: String,
    pub r#as: As,
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub reason: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "RewindRequest")]
pub(in crate::api) struct RewindingTo {
    /// The instant after which the schedules are decided again; now by default.
    to: Option<Wall>,
    /// Only say what would be done.
    dry_run: bool,
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[schemars(length(max = 500))]
    reason: Option<String>,
}

/// What a rewind does.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RewindView {
    /// Up to where the schedules had been decided; `null`: that could not be read.
    pub from: Option<Wall>,
    pub to: Wall,
    /// The jobs that are due from there on and were said to be due only later.
    pub jobs: Vec<JobName>,
    /// How many verdicts `skipped`, of instants that had not come, are taken back.
    pub taken_back: usize,
    /// The jobs of which verdicts were pruned that lie behind `to`: what may have run is skipped.
    pub pruned: Vec<JobName>,
}

/// What a request to rewind is answered with: what was done, or what would be.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is the shape of two answers, for the description")]
pub(in crate::api) enum RewindAnswer {
    Done(super::DeedView),
    Plan(RewindView),
}

impl From<Rewinding> for RewindView {
    fn from(plan: Rewinding) -> RewindView {
        let Rewinding { from, to, jobs, taken_back, pruned, .. } = plan;
        RewindView { from, to, jobs, taken_back, pruned }
    }
}

fn not_now(why: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::NotNow, why)
}

fn lock_name(name: &str, kind: Kinds) -> Result<LockName, Problem> {
    if kind == Kinds::Lock && name == LockName::leader().as_str() {
        let why = "`leader` is held by the node that leads: step-down asks it to let another one lead";
        return Err(Problem::parameter("name", why));
    }
    let named = match kind {
        Kinds::Migrations => Ok(LockName::migrations()),
        Kinds::Once => LockName::once(name),
        Kinds::Lock | Kinds::Semaphore => LockName::new(name),
    };
    named.map_err(|error| Problem::parameter("name", error))
}

fn of_lock(error: LockError) -> StoreError {
    match error {
        LockError::Store(error) | LockError::OutcomeUnknown { source: error, .. } => error,
        error => StoreError::Unusable(error.to_string()),
    }
}

fn of_semaphore(error: SemaphoreError) -> StoreError {
    match error {
        SemaphoreError::Store(error) => error,
        error => StoreError::Unusable(error.to_string()),
    }
}

fn of_rewind(error: RewindError, acting: &Acting) -> Problem {
    match error {
        RewindError::Store(error) => refused(error.into(), acting),
        RewindError::Asked(error) => refused(error, acting),
        RewindError::ToIsMissing => Problem::parameter("to", RewindError::ToIsMissing),
        error => not_now(error),
    }
}

impl<S: Store> Api<S> {
    /// Asks the leader to step down. `meant`: only if it leads under this fence.
    pub(in crate::api) async fn step_down(&self, meant: Option<Fence>, acting: &Acting) -> Result<Done, Problem> {
        let made = async {
            let standing = self.locks.election(LockName::leader()).observe().await?;
            let Some(leader) = standing.leader else {
                return Err(AskError::NotLed("no node leads, so that none can give the leadership back".to_owned()));
            };
            if let Some(meant) = meant.filter(|meant| *meant != leader.fence) {
                let now = format!("{} leads under fence {}", leader.node, leader.fence);
                return Err(AskError::NotLed(format!("no leader has the fence {meant}, {now}")));
            }
            self.ledger.ask_to_step_down(acting, leader.fence, &leader.node).await
        };
        self.make(acting, made).await
    }

    /// Drains a node.
    pub(in crate::api) async fn drain(
        &self,
        node: &str,
        until: Option<Wall>,
        acting: &Acting,
    ) -> Result<Done, Problem> {
        let (so, made) = (Deed::new(Act::Drain, node), self.ledger.drain(acting, node, until));
        self.unless_so(so, self.still_to_come(until), acting, made).await
    }

    /// Lets a node lead again that is drained.
    pub(in crate::api) async fn undrain(&self, node: &str, acting: &Acting) -> Result<Done, Problem> {
        self.unless_so(Deed::new(Act::Undrain, node), Ok(()), acting, self.ledger.undrain(acting, node)).await
    }

    /// Revokes a lock, or the permits of a session.
    pub(in crate::api) async fn unlock(&self, wanted: &Unlocking, acting: &Acting) -> Result<Done, Problem> {
        let name = lock_name(&wanted.name, wanted.kind)?;
        if wanted.kind == Kinds::Semaphore {
            if wanted.fence.is_some() {
                let why =
                    "is of a lock: of a semaphore, all permits of a session are revoked, in whichever holds they are";
                return Err(Problem::parameter("fence", why));
            }
            let session = wanted.session.as_deref().and_then(|text| u64::from_str_radix(text, 16).ok());
            let session = session.and_then(std::num::NonZeroU64::new).map(LeaseId);
            let session = session.ok_or_else(|| Problem::parameter("session", "a hexadecimal number"))?;
            return self.take_permits(&name, session, acting).await;
        }
        let made = async {
            let lock = self.locks.fenced(name.clone(), Config::default());
            let held = lock.revocation().await.map_err(of_lock)?;
            let held = held.filter(|(holder, _)| wanted.fence.is_none_or(|meant| meant == holder.fence));
            let Some((holder, take)) = held else { return Err(AskError::Moved { what: wanted.name.clone() }) };
            self.ledger.unlock(acting, &name, &holder, take).await
        };
        self.make(acting, made).await
    }

    async fn take_permits(&self, name: &LockName, session: LeaseId, acting: &Acting) -> Result<Done, Problem> {
        let made = async {
            let held = self.locks.semaphore(name.clone(), 1).revocations(session).await.map_err(of_semaphore)?;
            self.ledger.take_permits(acting, name, held).await
        };
        self.make(acting, made).await
    }

    /// That the schedules may be brought back to this instant.
    async fn may_rewind(&self, to: Option<Wall>) -> Result<(), Problem> {
        let now = self.clock.wall();
        if to.is_some_and(|to| to > now) {
            let why = "lies in the future: what was decided ahead of the time is what is brought back";
            return Err(Problem::parameter("to", why));
        }
        let nodes = in_time(self.ledger.nodes()).await?;
        match nodes.iter().find(|(_, node)| node.clock.since(now) > crate::ledger::AHEAD_MOST) {
            None => Ok(()),
            Some((_, node)) => Err(not_now(format!(
                "the clock of node {} is ahead of the one here: set right whichever is wrong",
                node.node
            ))),
        }
    }

    /// Says what it would do to bring the schedules back.
    async fn look_at_rewind(&self, to: Option<Wall>, acting: &Acting) -> Result<Rewinding, Problem> {
        self.may_rewind(to).await?;
        let looked = async {
            match self.ledger.look_at_rewind(to, self.clock.wall()).await {
                Err(RewindError::Store(error)) => Err(error),
                answer => Ok(answer),
            }
        };
        in_time(looked).await?.map_err(|error| of_rewind(error, acting))
    }

    /// Brings the schedules back.
    pub(in crate::api) async fn rewind(&self, to: Option<Wall>, acting: &Acting) -> Result<Done, Problem> {
        self.may_rewind(to).await?;
        let mut why = None;
        let made = async {
            match self.ledger.rewind(acting, to, self.clock.wall()).await {
                Ok(rewound) => Ok(rewound.deed()),
                Err(RewindError::Store(error)) => Err(error.into()),
                Err(RewindError::Asked(error)) => Err(error),
                Err(error) => {
                    why = Some(error);
                    Err(AskError::Moved { what: "the watermark".to_owned() })
                }
            }
        };
        match self.make(acting, made).await {
            Ok(done) => Ok(done),
            Err(problem) => Err(why.map_or(problem, |error| of_rewind(error, acting))),
        }
    }

    /// Settles a migration that was begun.
    pub(in crate::api) async fn settle_migration(&self, id: &str, how: As, acting: &Acting) -> Result<Done, Problem> {
        if let Some(done) = self.before(acting).await? {
            return Ok(done);
        }
        let key = OnceKey::migration(id);
        let (records, _) = in_time(self.ledger.once(&key)).await?;
        let Some(recorded) = records.into_iter().find(|recorded| recorded.once.name == id) else {
            let id: String = id.chars().take(100).collect();
            let why = format!("no migration `{id}` was begun: `fencron migrate resolve` records one that never was");
            return Err(Problem::new(Kind::NoSuchMigration, why));
        };
        let state = match how {
            As::Done => OnceState::Done,
            As::Retry => OnceState::Pending,
        };
        self.make(acting, self.ledger.resolve_once(acting, &key, &recorded, state)).await
    }
}

pub(super) async fn step_down<S: Store>(
    State(api): State<Api<S>>,
    sending: Sending<SteppingDown>,
) -> Result<Response, Problem> {
    let (SteppingDown { fence, reason }, sender) = sending.parts();
    Ok(api.step_down(fence, &sender.acting(reason)?).await?.answer())
}

pub(super) async fn drain<S: Store>(
    State(api): State<Api<S>>,
    Named(node): Named,
    sending: Sending<Pausing>,
) -> Result<Response, Problem> {
    let (Pausing { until, reason }, sender) = sending.parts();
    Ok(api.drain(&node, until, &sender.acting(reason)?).await?.answer())
}

pub(super) async fn undrain<S: Store>(
    State(api): State<Api<S>>,
    Named(node): Named,
    sending: Sending<Reasoned>,
) -> Result<Response, Problem> {
    let (Reasoned { reason }, sender) = sending.parts();
    Ok(api.undrain(&node, &sender.acting(reason)?).await?.answer())
}

pub(super) async fn unlock<S: Store>(
    State(api): State<Api<S>>,
    sending: Sending<Unlocking>,
) -> Result<Response, Problem> {
    let (mut wanted, sender) = sending.parts();
    let acting = sender.acting(wanted.reason.take())?;
    Ok(api.unlock(&wanted, &acting).await?.answer())
}

pub(super) async fn settle_migration<S: Store>(
    State(api): State<Api<S>>,
    sending: Sending<SettlingMigration>,
) -> Result<Response, Problem> {
    let (SettlingMigration { id, r#as, reason }, sender) = sending.parts();
    Ok(api.settle_migration(&id, r#as, &sender.acting(reason)?).await?.answer())
}

pub(super) async fn rewind<S: Store>(
    State(api): State<Api<S>>,
    sending: Sending<RewindingTo>,
) -> Result<Response, Problem> {
    let (RewindingTo { to, dry_run, reason }, sender) = sending.parts();
    let acting = sender.acting(reason)?;
    if dry_run {
        return Ok(json(StatusCode::OK, &RewindView::from(api.look_at_rewind(to, &acting).await?)));
    }
    Ok(api.rewind(to, &acting).await?.answer())
}
