//! Backfills: looked at before they are asked for, followed, and stopped.

use std::collections::BTreeMap;

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
use crate::job::{JobName, RunId};
use crate::ledger::{Acting, AskError, BACKFILLS_KEPT, Backfill, BackfillPlan, BackfillProgress};
use crate::store::Store;
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

    /// A backfill that the caller may know of.
    async fn backfill_of(&self, id: &str, caller: &Caller) -> Result<BackfillProgress, Problem> {
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
    if let Some(done) = api.before(&acting).await? {
        api.go_on(&done, &acting).await?;
        return Ok(done.answer());
    }
    let definition = api.board.read().definition(&job).cloned().ok_or_else(|| Problem::no_such_job(&job))?;
    let call = again.then(|| acting.call('b'));
    let plan = async {
        match api.ledger.plan_backfill(&definition, (from, to), call.as_deref(), api.clock.wall()).await {
            Err(AskError::Store(error)) => Err(error),
            answer => Ok(answer),
        }
    };
    if dry_run {
        let plan = in_time(plan).await?.map_err(|error| refused(error, &acting))?;
        return Ok(json(StatusCode::OK, &PlanView::of(&job, plan)));
    }
    let made = async {
        let runs = plan.await??.map(|plan| plan.runs).unwrap_or_default();
        if runs.is_empty() {
            let why = format!("nothing of {job} is left to ask for from {from} to {to}: `again` asks for all of it");
            return Err(AskError::WrongStretch(why));
        }
        api.ledger.backfill(&acting, &job, runs).await
    };
    let done = api.make(&acting, made).await?;
    api.go_on(&done, &acting).await?;
    Ok(done.answer())
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
    let done = api.make(&acting, api.ledger.stop_backfill(&acting, &id)).await?;
    api.go_on(&done, &acting).await?;
    Ok(done.answer())
}
