//! What people do over HTTP, and what people did.
//!
//! Each act is the transaction of the ledger that the commands make. A request may bear an `Idempotency-Key`, and then it
//! is one act however often it is sent, to whatever node. What the store did not answer is a problem that says so.

mod backfills;
mod bulk;
mod care;
mod forms;
mod rows;
mod sending;

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::Caller;
use super::listing::{Listing, Sent, applied, cursor, limit, place};
use super::problem::{Kind, Problem};
use super::routes::{Named, Query};
use super::{Api, in_time};
use crate::job::{JobName, Params, RunId};
use crate::ledger::{
    ALL_JOBS, Act, Acting, AskError, Asked, AuditPage, AuditRow, Before, Deed, FindAudit, Resolution, Via, check_params,
};
use crate::store::{Revision, Store, StoreError};
use crate::time::{Wall, written};
pub(super) use forms::{administer, operate};
pub(super) use rows::of_acts;
pub(super) use sending::{KEY_MOST, Sending};

/// How long the store may take for an act. Longer than for a question: what may have been done is not given up early.
pub const ACT_WITHIN: Duration = Duration::from_secs(10);

/// That an answer is the one of an earlier request with the same key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What a person did.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AuditView {
    pub at: Wall,
    pub act: Act,
    /// What it was done to, for people: a job, a run, a node, a lock, a migration, or `all jobs`.
    pub on: String,
    pub job: Option<JobName>,
    pub run_id: Option<RunId>,
    /// The backfill that it is about.
    pub backfill: Option<String>,
    /// The rest, for people; empty where there is nothing to say.
    pub detail: String,
    /// The caller, as the rules of the node name it; of a command, its user and host.
    pub by: String,
    /// The role of a caller over HTTP.
    pub role: Option<String>,
    pub via: Via,
    /// From where a request over HTTP came.
    pub address: Option<String>,
    /// Why, as the person wrote it.
    pub reason: String,
}

impl From<AuditRow> for AuditView {
    fn from(AuditRow { asked, deed }: AuditRow) -> AuditView {
        let Asked { by, at, role, via, address, reason } = asked;
        let Deed { act, on, job, run, backfill, detail } = deed;
        AuditView { at, act, on, job, run_id: run, backfill, detail, by, role, via, address, reason }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DeedView {
    pub act: Act,
    /// What it was done to, for people: a job, a run, a node, a lock, a migration, or `all jobs`.
    pub on: String,
    pub job: Option<JobName>,
    pub run_id: Option<RunId>,
    pub backfill: Option<String>,
    /// The rest, for people; empty where there is nothing to say.
    pub detail: String,
    /// Whether it was so already, and nothing was changed.
    pub already: bool,
}

impl DeedView {
    fn of(deed: Deed, already: bool) -> DeedView {
        let Deed { act, on, job, run, backfill, detail } = deed;
        DeedView { act, on, job, run_id: run, backfill, detail, already }
    }
}

/// What became of a request to act.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Done {
    pub deed: Deed,
    /// A request with the same key did it before.
    replayed: bool,
    /// It was so already.
    already: bool,
}

impl Done {
    fn before(Before { deed, already }: Before) -> Done {
        Done { deed, replayed: true, already }
    }

    pub fn view(self) -> DeedView {
        DeedView::of(self.deed, self.already)
    }

    /// The answer; where something came to be by the act, with where that is.
    fn answer(self) -> Response {
        let made = match (&self.deed.act, &self.deed.run, &self.deed.backfill) {
            (Act::Trigger, Some(run), _) => Some(format!("/api/v1/runs/{run}")),
            (Act::Backfill, _, Some(backfill)) => Some(format!("/api/v1/backfills/{backfill}")),
            _ => None,
        };
        let (status, replayed) = (if made.is_some() { StatusCode::CREATED } else { StatusCode::OK }, self.replayed);
        let mut answer = super::json(status, &self.view());
        let headers = answer.headers_mut();
        // Names of jobs and instants are ASCII.
        if let Some(made) = made.and_then(|made| HeaderValue::try_from(made).ok()) {
            headers.insert(header::LOCATION, made);
        }
        if replayed {
            replays(&mut answer);
        }
        answer
    }
}

/// Marks an answer as that to a request which was answered before.
fn replays(answer: &mut Response) {
    answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}

/// Why an act was not made.
fn refused(error: AskError, acting: &Acting) -> Problem {
    let text = error.to_string();
    match error {
        AskError::NoSuchRun(run) => Problem::no_such_run(&run),
        AskError::NoSuchBackfill(_) => Problem::new(Kind::NoSuchBackfill, text),
        AskError::Ended { run, verdict } => Problem::new(Kind::Ended, text).of(&run).with("verdict", verdict.as_str()),
        AskError::NotInDoubt { run, verdict } => Problem::new(Kind::NotInDoubt, text).of(&run).with("verdict", verdict),
        AskError::NotEnded(run) => Problem::new(Kind::NotInDoubt, text).of(&run),
        AskError::Changed { run } => Problem::new(Kind::Changed, text).of(&run),
        AskError::Moved { .. } | AskError::NotLed(_) => Problem::new(Kind::Changed, text),
        AskError::NoSuchNode(_) => Problem::new(Kind::NoSuchNode, text),
        AskError::AlreadySo { .. }
        | AskError::NotSo { .. }
        | AskError::CancelAsked { .. }
        | AskError::UnderWay { .. }
        | AskError::IsDone(_)
        | AskError::Unconfigured(_) => Problem::new(Kind::NotNow, text),
        AskError::WrongStretch(_) | AskError::NotGiven { .. } => Problem::new(Kind::BadParameter, text),
        AskError::OtherRequest => Problem::new(Kind::KeyReused, text),
        AskError::Store(error) if error.is_unknown() => outcome_unknown(&error, acting),
        AskError::Store(error @ StoreError::Refused(_)) => Problem::new(Kind::StoreRefuses, error),
        AskError::Store(error) => Problem::store_away(error),
    }
}

/// It may have been done, and no answer came.
fn outcome_unknown(why: &impl std::fmt::Display, acting: &Acting) -> Problem {
    let again = if acting.has_key() {
        "Send the request again with the same Idempotency-Key: it is done at most once"
    } else {
        "Look whether it was done before you send it again, and send an Idempotency-Key from now on"
    };
    Problem::new(Kind::OutcomeUnknown, format!("it is unknown whether it was done: {why}. {again}"))
}

impl<S: Store> Api<S> {
    /// What a request with the same key did before. It decides before anything else does: what was done is answered the
    /// same also where it could not be done any more.
    async fn before(&self, acting: &Acting) -> Result<Option<Done>, Problem> {
        let known = async {
            match self.ledger.acted(acting).await {
                Err(AskError::Store(error)) => Err(error),
                answer => Ok(answer),
            }
        };
        let before = in_time(known).await?.map_err(|error| refused(error, acting))?;
        Ok(before.map(Done::before))
    }

    /// Makes an act, unless a request with the same key did before.
    async fn make(&self, acting: &Acting, act: impl Future<Output = Result<Deed, AskError>>) -> Result<Done, Problem> {
        self.make_if(acting, Ok(()), act).await
    }

    /// The same for an act that is only made where `allowed`: otherwise nothing is done but what was done before.
    async fn make_if(
        &self,
        acting: &Acting,
        allowed: Result<(), Problem>,
        act: impl Future<Output = Result<Deed, AskError>>,
    ) -> Result<Done, Problem> {
        if let Some(done) = self.before(acting).await? {
            return Ok(done);
        }
        allowed?;
        let why = match self.within(acting, act).await? {
            Ok(deed) => return Ok(Done { deed, replayed: false, already: false }),
            Err(why) => why,
        };
        // The same request to another node may have been quicker, so that nothing was left to do here.
        match self.within(acting, self.ledger.acted(acting)).await? {
            Ok(Some(before)) => Ok(Done::before(before)),
            Ok(None) | Err(_) => Err(why),
        }
    }

    /// Waits for the store, for as long as an act may take. The inner problem is a refusal: nothing was done.
    async fn within<T>(
        &self,
        acting: &Acting,
        act: impl Future<Output = Result<T, AskError>>,
    ) -> Result<Result<T, Problem>, Problem> {
        match tokio::time::timeout(ACT_WITHIN, act).await {
            Ok(Ok(done)) => Ok(Ok(done)),
            Ok(Err(error @ AskError::Store(_))) => Err(refused(error, acting)),
            Ok(Err(error)) => Ok(Err(refused(error, acting))),
            Err(_) => {
                let why = format!("the store has not answered within {}", written(ACT_WITHIN));
                Err(outcome_unknown(&why, acting))
            }
        }
    }

    /// Asks for a run.
    pub(super) async fn trigger(&self, job: &JobName, params: Params, acting: &Acting) -> Result<Done, Problem> {
        let allowed = self.can_run(job, &params, acting);
        self.make_if(acting, allowed, self.ledger.trigger(acting, job, params)).await
    }

    /// That a run of this job can be given these parameters.
    fn can_run(&self, job: &JobName, params: &Params, acting: &Acting) -> Result<(), Problem> {
        let board = self.board.read();
        board.job(job, self.clock.wall()).ok_or_else(|| Problem::no_such_job(job))?;
        let Some(definition) = board.definition(job) else {
            return Err(Problem::new(Kind::NotNow, AskError::Unconfigured(job.clone())));
        };
        check_params(definition, params).map_err(|error| refused(error, acting))
    }

    /// Pauses a job, or (`None`) all.
    pub(super) async fn pause(
        &self,
        job: Option<&JobName>,
        until: Option<Wall>,
        acting: &Acting,
    ) -> Result<Done, Problem> {
        let allowed = self.still_to_come(until).and_then(|()| self.must_know(job));
        let act = if job.is_some() { Act::Pause } else { Act::PauseAll };
        self.unless_so(of_job_or_all(act, job), allowed, acting, self.ledger.pause(acting, job, until)).await
    }

    /// That an end has not come yet.
    pub(super) fn still_to_come(&self, until: Option<Wall>) -> Result<(), Problem> {
        let is_over = until.is_some_and(|until| until <= self.clock.wall());
        if is_over { Err(Problem::parameter("until", "is over already: nothing would change")) } else { Ok(()) }
    }

    /// Resumes a job, or (`None`) all.
    pub(super) async fn resume(&self, job: Option<&JobName>, acting: &Acting) -> Result<Done, Problem> {
        let act = if job.is_some() { Act::Resume } else { Act::ResumeAll };
        self.unless_so(of_job_or_all(act, job), self.must_know(job), acting, self.ledger.resume(acting, job)).await
    }

    fn must_know(&self, job: Option<&JobName>) -> Result<(), Problem> {
        let Some(job) = job else { return Ok(()) };
        self.board.read().job(job, self.clock.wall()).map(drop).ok_or_else(|| Problem::no_such_job(job))
    }

    /// Makes an act, where it is allowed, or answers that it was so already.
    pub(super) async fn unless_so(
        &self,
        so: Deed,
        allowed: Result<(), Problem>,
        acting: &Acting,
        made: impl Future<Output = Result<Deed, AskError>>,
    ) -> Result<Done, Problem> {
        let (mut already, mut before) = (false, None);
        let made = async {
            match made.await {
                Err(AskError::AlreadySo { .. } | AskError::NotSo { .. } | AskError::CancelAsked { .. }) => {
                    already = true;
                    before = self.ledger.keep(acting, &so, true).await?;
                    Ok(so)
                }
                answer => answer,
            }
        };
        let done = self.make_if(acting, allowed, made).await?;
        // The same request to another node made it so.
        Ok(before.map_or(Done { already: already || done.already, ..done }, Done::before))
    }

    /// Asks for a run to be cancelled.
    pub(super) async fn cancel(&self, run: &RunId, acting: &Acting) -> Result<Done, Problem> {
        let so = Deed::of_run(Act::Cancel, run);
        self.unless_so(so, Ok(()), acting, self.ledger.ask_to_cancel(acting, run)).await
    }

    /// Settles a run that is in doubt.
    pub(super) async fn resolve(&self, run: &RunId, how: Resolution, acting: &Acting) -> Result<Done, Problem> {
        self.make(acting, self.ledger.resolve(acting, run, how)).await
    }
}

fn of_job_or_all(act: Act, job: Option<&JobName>) -> Deed {
    job.map_or_else(|| Deed::new(act, ALL_JOBS), |job| Deed::of_job(act, job))
}

/// A request of which nothing but a reason is said.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Reasoned")]
pub(super) struct Reasoned {
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[schemars(length(max = 500))]
    pub(super) reason: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Trigger {
    /// The parameters of the run, by name.
    params: std::collections::BTreeMap<String, String>,
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[schemars(length(max = 500))]
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PauseRequest")]
pub(super) struct Pausing {
    /// When it ends by itself; without this, it lasts until a person ends it.
    pub(super) until: Option<Wall>,
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[schemars(length(max = 500))]
    pub(super) reason: Option<String>,
}

/// How a run in doubt is settled.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    Succeeded,
    Failed,
    Retry,
}

impl From<How> for Resolution {
    fn from(how: How) -> Resolution {
        match how {
            How::Succeeded => Resolution::Succeeded,
            How::Failed => Resolution::Failed,
            How::Retry => Resolution::Retry,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ResolveRequest")]
pub(super) struct Resolving {
    /// How it ended, or `retry` to run it once more.
    r#as: How,
    /// Why, for others to read: it is kept with the record of the act. At most 500 characters.
    #[serde(default)]
    #[schemars(length(max = 500))]
    reason: Option<String>,
}

async fn trigger<S: Store>(
    State(api): State<Api<S>>,
    Named(job): Named,
    sending: Sending<Trigger>,
) -> Result<Response, Problem> {
    let (Trigger { params, reason }, sender) = sending.parts();
    let params = Params::new(params).map_err(|error| Problem::parameter("params", error))?;
    Ok(api.trigger(&JobName::new(&job)?, params, &sender.acting(reason)?).await?.answer())
}

async fn pause<S: Store>(
    State(api): State<Api<S>>,
    Named(job): Named,
    sending: Sending<Pausing>,
) -> Result<Response, Problem> {
    let (Pausing { until, reason }, sender) = sending.parts();
    Ok(api.pause(Some(&JobName::new(&job)?), until, &sender.acting(reason)?).await?.answer())
}

async fn resume<S: Store>(
    State(api): State<Api<S>>,
    Named(job): Named,
    sending: Sending<Reasoned>,
) -> Result<Response, Problem> {
    let (Reasoned { reason }, sender) = sending.parts();
    Ok(api.resume(Some(&JobName::new(&job)?), &sender.acting(reason)?).await?.answer())
}

async fn pause_all<S: Store>(State(api): State<Api<S>>, sending: Sending<Pausing>) -> Result<Response, Problem> {
    let (Pausing { until, reason }, sender) = sending.parts();
    Ok(api.pause(None, until, &sender.acting(reason)?).await?.answer())
}

async fn resume_all<S: Store>(State(api): State<Api<S>>, sending: Sending<Reasoned>) -> Result<Response, Problem> {
    let (Reasoned { reason }, sender) = sending.parts();
    Ok(api.resume(None, &sender.acting(reason)?).await?.answer())
}

async fn cancel<S: Store>(
    State(api): State<Api<S>>,
    Named(run): Named,
    sending: Sending<Reasoned>,
) -> Result<Response, Problem> {
    let (Reasoned { reason }, sender) = sending.parts();
    Ok(api.cancel(&run.parse()?, &sender.acting(reason)?).await?.answer())
}

async fn resolve<S: Store>(
    State(api): State<Api<S>>,
    Named(run): Named,
    sending: Sending<Resolving>,
) -> Result<Response, Problem> {
    let (Resolving { r#as, reason }, sender) = sending.parts();
    Ok(api.resolve(&run.parse()?, r#as.into(), &sender.acting(reason)?).await?.answer())
}

/// The parameters of the list of acts.
#[derive(Debug, Deserialize)]
struct Wanted {
    job: Option<JobName>,
    act: Option<Act>,
    by: Option<String>,
    since: Option<Wall>,
    limit: Option<usize>,
    after: Option<String>,
}

/// The longest part of a name that is looked for, in bytes.
const NAME_MOST: usize = 200;

/// Answers with a page of what people did, the last first. A caller that is narrowed to jobs sees what was done to them.
async fn audit<S: Store>(
    State(api): State<Api<S>>,
    axum::Extension(caller): axum::Extension<Caller>,
    Query(wanted): Query<Wanted>,
    sent: Sent,
) -> Result<Response, Problem> {
    let (limit, after) = (limit(wanted.limit)?, place::<u64>(wanted.after.as_deref())?);
    let Wanted { job, act, by, since, .. } = wanted;
    if by.as_ref().is_some_and(|by| by.len() > NAME_MOST) {
        return Err(Problem::parameter("by", format!("at most {NAME_MOST} bytes are looked for")));
    }
    let applied = applied([
        ("job", json!(job)),
        ("act", json!(act)),
        ("by", json!(by)),
        ("since", json!(since)),
        ("limit", json!(limit)),
    ]);
    let is_wanted = |row: &AuditRow| {
        let seen = row.deed.job.as_ref().map_or(caller.jobs.is_none(), |job| caller.sees(job));
        seen && job.as_ref().is_none_or(|job| row.deed.job.as_ref() == Some(job))
            && by.as_ref().is_none_or(|by| row.asked.by.contains(by))
            && since.is_none_or(|since| row.asked.at >= since)
    };
    let find = FindAudit { act, before: after.map(Revision), limit };
    let AuditPage { rows, next } = in_time(api.ledger.audit(&find, is_wanted)).await?;
    let next = next.map(|next| cursor(&next.0.to_string()));
    let items = rows.into_iter().map(AuditView::from).collect();
    let revision = api.board.read().version();
    Ok(sent.page(&Listing { next, ..Listing::whole(items, revision, applied) }))
}

#[cfg(test)]
mod tests;
