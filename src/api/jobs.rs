//! Jobs: lists from the board, one job with its definition, and when they fire.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Api;
use super::access::Caller;
use super::listing::{Listing, Sent, applied, cursor, limit, place};
use super::problem::Problem;
use super::routes::{Named, Query};
use crate::board::{Board, Cursor, Filter, FindJobs, JobRow, JobState, LateJob, Order};
use crate::fence::Fence;
use crate::job::definition::Definition;
use crate::job::{Code, JobName, RunId, Trigger, Word as _};
use crate::scheduler::run::Last;
use crate::store::Store;
use crate::time::Wall;

/// A job as lists show it: the members of `jobs -o json`, and more.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct JobView {
    pub name: JobName,
    /// What the jobs file says that it is for.
    pub description: Option<String>,
    /// The people who answer for it.
    pub owner: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// The URL of what people do when it fails.
    pub runbook: Option<String>,
    /// The most pressing of its states.
    pub state: JobState,
    /// Why it is late; `null`: it is not.
    pub late: Option<LateJob>,
    /// Its expressions, or what it follows; `null` where the jobs file of this node does not have the job.
    pub schedule: Option<String>,
    pub timezone: Option<&'static str>,
    /// The job whose runs it follows.
    pub after: Option<JobName>,
    /// The instant of the occurrence that is decided next; where the job is late, it is in the past.
    pub next_fire: Option<Wall>,
    /// When that is to start, jitter included.
    pub next_start: Option<Wall>,
    /// How its last run ended.
    pub last_verdict: Option<&'static str>,
    /// The instant of that run.
    pub last_scheduled_at: Option<Wall>,
    /// Why, in a word for programs, where it did not end well as usual.
    pub last_code: Option<&'static str>,
    pub last_finished_at: Option<Wall>,
    /// How many of its runs in a row have ended badly, up to the last.
    pub bad_in_a_row: Option<u32>,
    /// More of that run, and of those before it.
    pub last: Option<LastView>,
    pub paused: bool,
    pub paused_by: Option<String>,
    pub paused_at: Option<Wall>,
    /// When the pause ends by itself.
    pub paused_until: Option<Wall>,
    /// Why it is paused, as the person wrote it.
    pub paused_reason: Option<String>,
    /// The first of its open runs.
    pub open: Vec<RunId>,
    /// How many runs of it are open.
    pub open_count: usize,
    /// Since when it is due, for the leader; `null`: no leader has seen it, or it has no schedule.
    pub due_since: Option<Wall>,
}

/// The last run of a job, and what is kept of those before it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LastView {
    pub run_id: RunId,
    pub verdict: &'static str,
    /// Why, in a word for programs, where it did not end well as usual.
    pub code: Option<&'static str>,
    pub started_at: Option<Wall>,
    pub finished_at: Wall,
    pub lateness_ms: Option<u64>,
    pub fence: Option<Fence>,
    /// How many runs in a row have ended badly, up to this one.
    pub bad_in_a_row: u32,
    /// When a run last ended well.
    pub succeeded_at: Option<Wall>,
    /// How the last runs ended, the newest last, a letter each: `s`ucceeded, `f`ailed, `t`imed out, `c`ancelled,
    /// s`k`ipped, `u`nknown.
    pub strip: String,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct JobDetail {
    #[serde(flatten)]
    pub job: JobView,
    /// As the jobs file of this node has it, what came from outside of the file left out; `null`: it does not have it.
    pub definition: Option<Definition>,
}

impl From<Last> for LastView {
    fn from(last: Last) -> LastView {
        LastView {
            run_id: last.run,
            verdict: last.verdict.as_str(),
            code: last.code.map(Code::as_str),
            started_at: last.started_at,
            finished_at: last.finished_at,
            lateness_ms: last.lateness_ms,
            fence: last.fence,
            bad_in_a_row: last.bad_in_a_row,
            succeeded_at: last.succeeded_at,
            strip: last.strip,
        }
    }
}

impl JobView {
    /// A row of the board.
    pub fn of(board: &Board, row: JobRow) -> JobView {
        let job = board.definition(&row.name);
        let trigger = job.map(|job| &job.trigger);
        let paused = row.paused;
        JobView {
            schedule: row.schedule.or_else(|| trigger.and_then(without_schedule)),
            name: row.name,
            description: row.description,
            owner: row.owner,
            labels: row.labels,
            runbook: job.and_then(|job| job.about.shown_runbook()),
            state: row.state,
            late: row.late,
            timezone: row.timezone,
            after: row.after,
            next_fire: row.next_fire,
            next_start: row.next_start,
            last_verdict: row.last.as_ref().map(|last| last.verdict.as_str()),
            last_scheduled_at: row.last.as_ref().map(|last| last.run.at()),
            last_code: row.last.as_ref().and_then(|last| last.code).map(Code::as_str),
            last_finished_at: row.last.as_ref().map(|last| last.finished_at),
            bad_in_a_row: row.last.as_ref().map(|last| last.bad_in_a_row),
            last: row.last.map(LastView::from),
            paused: paused.is_some(),
            paused_at: paused.as_ref().map(|paused| paused.at),
            paused_until: paused.as_ref().and_then(|paused| paused.until),
            paused_reason: paused.as_ref().map(|paused| paused.reason.clone()).filter(|why| !why.is_empty()),
            paused_by: paused.map(|paused| paused.by).filter(|by| !by.is_empty()),
            open: row.open,
            open_count: row.open_count,
            due_since: row.due_since,
        }
    }
}

/// What makes a job due that has no schedule.
fn without_schedule(trigger: &Trigger) -> Option<String> {
    match trigger {
        Trigger::Schedule { .. } => None,
        Trigger::After { .. } => follows(trigger).map(|after| format!("after {after}")),
        Trigger::Disabled => Some("not enabled".to_owned()),
    }
}

/// The job that another follows, and after which ends: `fine (success)`.
pub fn follows(trigger: &Trigger) -> Option<String> {
    let Trigger::After { job, on } = trigger else { return None };
    Some(format!("{job} ({})", on.word()))
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    q: Option<String>,
    owner: Option<String>,
    /// Labels, with commas between them.
    label: Option<String>,
    state: Option<Filter>,
    #[serde(default)]
    sort: Order,
    limit: Option<usize>,
    after: Option<String>,
}

/// The longest text that jobs are searched for, in bytes.
const TEXT_MOST: usize = 200;

/// The word of an order, as `sort` takes it.
fn word(order: Order) -> String {
    json!(order).as_str().unwrap_or_default().to_owned()
}

/// The place behind which the page begins. In a list of another order it would pass over rows.
fn behind(after: Option<&str>, order: Order) -> Result<Option<Cursor>, Problem> {
    let Some(text) = place::<String>(after)? else { return Ok(None) };
    let wrong = |what: &str| Problem::parameter("after", format!("{what}: take the `next` of the page before"));
    let (of, rest) = text.split_once('.').ok_or_else(|| wrong("is no place in this list"))?;
    if of != word(order) {
        return Err(wrong("is a place in a list of another `sort`"));
    }
    rest.parse().map(Some).map_err(|_| wrong("is no place in this list"))
}

/// Answers with a page of jobs, from the board alone.
pub(super) async fn list<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
    sent: Sent,
) -> Result<Response, Problem> {
    let limit = limit(wanted.limit)?;
    let [text, owner, labels] = [wanted.q, wanted.owner, wanted.label].map(|text| text.filter(|text| !text.is_empty()));
    for (name, text) in [("q", &text), ("owner", &owner), ("label", &labels)] {
        if text.as_ref().is_some_and(|text| text.len() > TEXT_MOST) {
            return Err(Problem::parameter(name, format!("at most {TEXT_MOST} bytes are searched for")));
        }
    }
    let after = behind(wanted.after.as_deref(), wanted.sort)?;
    let applied = applied([
        ("q", json!(text)),
        ("owner", json!(owner)),
        ("label", json!(labels)),
        ("state", json!(wanted.state)),
        ("sort", json!(wanted.sort)),
        ("limit", json!(limit)),
    ]);
    let asked = text.as_deref().map(FindJobs::asked).unwrap_or_default();
    let labels = labels.iter().flat_map(|labels| labels.split(',')).map(|label| label.trim().to_owned());
    let labels = asked.labels.into_iter().chain(labels.filter(|label| !label.is_empty())).collect();
    let owner = owner.or(asked.owner);
    let find = FindJobs { text: asked.text, owner, labels, state: wanted.state, order: wanted.sort, after, limit };
    let now = api.clock.wall();
    let board = api.board.read();
    let page = board.jobs_of(&find, now, |job| caller.sees(job));
    let next = page.next.as_ref().map(|next| cursor(&format!("{}.{next}", word(wanted.sort))));
    let items = page.jobs.into_iter().map(|row| JobView::of(&board, row)).collect();
    Ok(sent.page(&Listing { next, ..Listing::whole(items, board.version(), applied) }))
}

/// The job of this name, where the caller may know of it; and its problem where there is none.
pub(super) fn named(board: &Board, name: &str, caller: &Caller, now: Wall) -> Result<JobRow, Problem> {
    let name = JobName::new(name)?;
    let row = Some(&name).filter(|name| caller.sees(name)).and_then(|name| board.job(name, now));
    row.ok_or_else(|| Problem::no_such_job(&name))
}

/// Answers with one job.
pub(super) async fn one<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
    sent: Sent,
) -> Result<Response, Problem> {
    let board = api.board.read();
    let row = named(&board, &name, &caller, api.clock.wall())?;
    let definition = board.definition(&row.name).map(|job| Definition::of(job));
    Ok(sent.answer(&JobDetail { job: JobView::of(&board, row), definition }))
}
