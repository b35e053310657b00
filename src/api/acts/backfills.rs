//! Backfills: looked at before they are asked for, followed, and stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sending::Sending;
use super::{Done, Reasoned, refused};
use crate::api::access::Caller;
use crate::api::listing::{Applied, Listing, Sent};
use crate::api::problem::{Kind, Problem};
use crate::api::routes::Named;
use crate::api::{Api, in_time, json};
use crate::job::{Job, JobName, RunId};
use crate::ledger::{Acting, AskError, BACKFILLS_KEPT, Backfill, BackfillPlan, BackfillProgress};
use crate::store::{Store, StoreError};
use crate::time::Wall;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BackfillRequest")]
pub(in crate::api) struct Wanted {
    job: JobName,
    /// The first instant, included.
    from: Wall,
    /// The end, not included; not in the future.
    to: Wall,
    /// Ask for all of them again. Without this, instants are left out whose runs have succeeded, are open, or are in
    /// doubt.
    #[serde(default)]
    again: bool,
    /// Only say what would be asked for.
    #[serde(default)]
    dry_run: bool,
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[serde(default)]
    #[schemars(length(max = 500))]
    reason: Option<String>,
}

/// What a backfill asks for.
pub(super) struct Asking {
    pub job: JobName,
    pub stretch: (Wall, Wall),
    /// All of it, and not only what is left.
    pub again: bool,
}

/// What a backfill would ask for.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanView {
    pub job: JobName,
    /// At how many instants the job was due in the stretch.
    pub instants: usize,
    /// The first and the last of them.
    pub first: Option<Wall>,
    pub last: Option<Wall>,
    /// How what would be asked for stands now, in a word, and how often.
    pub asked: BTreeMap<&'static str, usize>,
    /// The same of what would be left out.
    pub left_out: BTreeMap<&'static str, usize>,
    pub runs: Vec<RunId>,
}

/// A backfill, and how far it has come.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct BackfillView {
    pub id: String,
    pub job: JobName,
    pub by: String,
    pub at: Wall,
    pub reason: String,
    /// The first and the last instant.
    pub first: Option<Wall>,
    pub last: Option<Wall>,
    pub runs: usize,
    pub stopped_by: Option<String>,
    pub stopped_at: Option<Wall>,
    /// How many of the runs are in which state; in lists, `null`.
    pub counts: Option<BTreeMap<&'static str, usize>>,
}

impl From<Backfill> for BackfillView {
    fn from(backfill: Backfill) -> BackfillView {
        let (first, last) = backfill.bounds().unzip();
        let (stopped_by, stopped_at) = backfill.stopped.map(|asked| (asked.by, asked.at)).unzip();
        let Backfill { id, job, asked, runs, .. } = backfill;
        let (by, at, reason, runs) = (asked.by, asked.at, asked.reason, runs.len());
        BackfillView { id, job, by, at, reason, first, last, runs, stopped_by, stopped_at, counts: None }
    }
}

impl PlanView {
    fn of(job: &JobName, plan: Option<BackfillPlan>) -> PlanView {
        let job = job.clone();
        let nothing = BTreeMap::new;
        match plan {
            None => PlanView {
                job,
                instants: 0,
                first: None,
                last: None,
                asked: nothing(),
                left_out: nothing(),
                runs: Vec::new(),
            },
            Some(BackfillPlan { runs, first, last, instants, asked, left_out }) => {
                PlanView { job, instants, first: Some(first), last: Some(last), asked, left_out, runs }
            }
        }
    }
}

impl<S: Store> Api<S> {
    /// Goes on with what an earlier request with the same key may have broken off.
    async fn go_on(&self, done: &Done, acting: &Acting) -> Result<(), Problem> {
        let (true, Some(id)) = (done.replayed, &done.deed.backfill) else { return Ok(()) };
        let rest = async { self.ledger.go_on_with(id).await.map(|()| done.deed.clone()) };
        self.make(&acting.part("rest"), rest).await.map(drop)
    }

    /// What a request with the same key asked for before; what it may have broken off goes on.
    pub(super) async fn backfilled_before(&self, acting: &Acting) -> Result<Option<Done>, Problem> {
        let Some(done) = self.before(acting).await? else { return Ok(None) };
        self.go_on(&done, acting).await?;
        Ok(Some(done))
    }

    fn definition_of(&self, job: &JobName) -> Result<Arc<Job>, Problem> {
        self.board.read().definition(job).cloned().ok_or_else(|| Problem::no_such_job(job))
    }

    /// The inner error is an answer: nothing of that can be asked for.
    async fn plan(
        &self,
        asked: &Asking,
        definition: &Job,
        acting: &Acting,
    ) -> Result<Result<Option<BackfillPlan>, AskError>, StoreError> {
        let call = asked.again.then(|| acting.call('b'));
        match self.ledger.plan_backfill(definition, asked.stretch, call.as_deref(), self.clock.wall()).await {
            Err(AskError::Store(error)) => Err(error),
            answer => Ok(answer),
        }
    }

    /// Asks for what is left of it.
    pub(super) async fn backfill(&self, asked: &Asking, acting: &Acting) -> Result<Done, Problem> {
        let definition = self.definition_of(&asked.job)?;
        let made = async {
            let runs = self.plan(asked, &definition, acting).await??.map(|plan| plan.runs).unwrap_or_default();
            if runs.is_empty() {
                let (job, (from, to)) = (&asked.job, asked.stretch);
                let why =
                    format!("nothing of {job} is left to ask for from {from} to {to}: `again` asks for all of it");
                return Err(AskError::WrongStretch(why));
            }
            self.ledger.backfill(acting, &asked.job, runs).await
        };
        let done = self.make(acting, made).await?;
        self.go_on(&done, acting).await?;
        Ok(done)
    }

    /// Stops a backfill.
    pub(super) async fn stop_backfill(&self, id: &str, acting: &Acting) -> Result<Done, Problem> {
        let done = self.make(acting, self.ledger.stop_backfill(acting, id)).await?;
        self.go_on(&done, acting).await?;
        Ok(done)
    }

    /// A backfill that the caller may know of.
    pub(super) async fn backfill_of(&self, id: &str, caller: &Caller) -> Result<BackfillProgress, Problem> {
        let progress = in_time(self.ledger.backfill_progress(id)).await?;
        let seen = progress.filter(|progress| caller.sees(&progress.backfill.job));
        seen.ok_or_else(|| Problem::new(Kind::NoSuchBackfill, AskError::NoSuchBackfill(id.chars().take(100).collect())))
    }
}

/// Asks for a backfill, or says what one would ask for.
pub(super) async fn ask<S: Store>(State(api): State<Api<S>>, sending: Sending<Wanted>) -> Result<Response, Problem> {
    let (Wanted { job, from, to, again, dry_run, reason }, sender) = sending.parts();
    let acting = sender.acting(reason)?;
    if !sender.caller.sees(&job) {
        return Err(Problem::no_such_job(&job));
    }
    if let Some(done) = api.backfilled_before(&acting).await? {
        return Ok(done.answer());
    }
    let asked = Asking { job, stretch: (from, to), again };
    if dry_run {
        let definition = api.definition_of(&asked.job)?;
        let plan = in_time(api.plan(&asked, &definition, &acting)).await?.map_err(|error| refused(error, &acting))?;
        return Ok(json(StatusCode::OK, &PlanView::of(&asked.job, plan)));
    }
    Ok(api.backfill(&asked, &acting).await?.answer())
}

pub(super) async fn list<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    sent: Sent,
) -> Result<Response, Problem> {
    let backfills = in_time(api.ledger.backfills(BACKFILLS_KEPT)).await?;
    let seen = backfills.into_iter().filter(|backfill| caller.sees(&backfill.job));
    let items: Vec<BackfillView> = seen.map(BackfillView::from).collect();
    Ok(sent.page(&Listing::whole(items, api.board.read().version(), Applied::new())))
}

pub(super) async fn one<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Named(id): Named,
    sent: Sent,
) -> Result<Response, Problem> {
    let BackfillProgress { backfill, counts } = api.backfill_of(&id, &caller).await?;
    Ok(sent.answer(&BackfillView { counts: Some(counts), ..backfill.into() }))
}

pub(super) async fn stop<S: Store>(
    State(api): State<Api<S>>,
    Named(id): Named,
    sending: Sending<Reasoned>,
) -> Result<Response, Problem> {
    let (Reasoned { reason }, sender) = sending.parts();
    api.backfill_of(&id, &sender.caller).await?;
    let acting = sender.acting(reason)?;
    Ok(api.stop_backfill(&id, &acting).await?.answer())
}
