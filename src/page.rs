//! The operator's page: what this node knows of its cluster, for people, at `/` of its listener.
//!
//! Each screen is a pure function of what it shows: a module builds its view from the [`Board`] (and, for one run or one
//! job's history, from the ledger), and writes it as HTML. The handlers here fetch, within [`STORE_WITHIN`], and where the
//! store says nothing they show what the board knows, how old it is, and why.
//!
//! The HTML is all there is: it works without script. The script asks for the same page again each two seconds and puts
//! what differs in its place, and it follows the output of a run. There is no markup, style or script from anywhere else,
//! so that a policy that allows none holds; and links are relative, so that any prefix may stand before them.
//!
//! [`Board`]: crate::board::Board

mod act;
pub(crate) mod ansi;
mod audit;
pub(crate) mod backfill;
pub(crate) mod changes;
mod day;
mod draw;
pub(crate) mod frame;
mod job;
mod jobs;
pub(crate) mod leadership;
mod locks;
mod looker;
mod migrations;
pub(crate) mod now;
pub(crate) mod rewind;
pub(crate) mod run;
mod store;
pub(crate) mod tables;
mod trouble;
mod week;
pub(crate) mod words;

use std::collections::hash_map::DefaultHasher;
use std::future::Future;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use maud::{Markup, html};
use serde::Deserialize;
use tokio::sync::watch;

use crate::board::Shared;
use crate::execute::{FOLLOW_KEPT, Heard, Outputs, Place};
use crate::job::{JobName, RunId};
use crate::ledger::{Attention, AuditRow, Find, FindAudit, Ledger, RunRow};
use crate::lock::{LockName, Locks};
use crate::node::Status;
use crate::once::{Step, standings};
use crate::store::{Store, StoreError};
use crate::time::{Clock, written};
use changes::Recorded;
pub(crate) use frame::plain;
use frame::{ASSETS, Depth, Frame, Screen};
pub(crate) use looker::{Looker, Theme, Zones, up};
use run::{FilePart, Output, SHOWN_AT_ONCE, WholeFile, Written};
pub(crate) use words::{shown, spoken};

/// How long the store may take to say what a screen asks of it.
pub const STORE_WITHIN: Duration = Duration::from_secs(1);

/// How many runs in doubt the first screen names.
pub(crate) const UNKNOWN_NAMED: usize = 10;

/// How many pages of what ended badly are looked through for the jobs of one person.
const ATTENTION_PAGES_MOST: usize = 20;

/// How many of the last terms are shown.
pub(crate) const TERMS_SHOWN: usize = 50;

/// What the page is answered from.
#[derive(Clone, Debug)]
pub struct Page<S> {
    pub board: Shared,
    pub ledger: Ledger<S>,
    pub locks: Locks<S>,
    pub outputs: Outputs,
    pub status: watch::Receiver<Status>,
    /// The URL of the store, without its user and password.
    pub store: Arc<str>,
    pub clock: Clock,
    /// What the node saw when it last looked at the store; `None`: it has not yet.
    pub noticed: Option<Noticed>,
}

/// What a node sees of the store beside what it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// How many runs are in doubt, in the whole namespace.
    pub in_doubt: usize,
    /// What is wrong with the store, for people.
    pub defects: Vec<String>,
    /// The channels that take no alerts, for people.
    pub unsent: Vec<String>,
}

impl<S: Store> Page<S> {
    /// What every screen says to this person.
    fn frame(&self, looker: Looker) -> Frame {
        let status = self.status.borrow().clone();
        // Only the forms of those who may act have a key.
        let key = if looker.may_act() { uuid::Uuid::new_v4().simple().to_string() } else { String::new() };
        let namespace = self.ledger.namespace().to_string();
        let frame = Frame::of(&self.board.read(), Some(&status), &namespace, self.clock.both(), looker);
        Frame { key, store: self.store.to_string(), ..frame.noticing(self.noticed.as_ref()) }
    }

    /// The runs in doubt that this person sees, at most `limit`, and whether there are more.
    async fn in_doubt(&self, looker: &Looker, limit: usize) -> Result<(Vec<RunId>, bool), String> {
        in_time(self.ledger.unknown_runs_of(limit, |job| looker.sees(job))).await
    }

    /// What is recorded of the last changes, where this person sees all jobs.
    async fn recorded(&self, looker: &Looker) -> Result<Recorded, String> {
        if !looker.sees_all_jobs() {
            return Ok(Recorded::default());
        }
        let find = FindAudit { limit: changes::ACTS, ..FindAudit::default() };
        let (terms, acts) =
            tokio::join!(in_time(self.ledger.last_terms(changes::TERMS)), in_time(self.ledger.audit(&find, |_| true)));
        Ok(Recorded { terms: terms?, acts: acts?.rows })
    }

    /// What ended badly lately of what this person sees, and whether there is more.
    async fn ended_badly(&self, looker: &Looker) -> Result<(Vec<Attention>, bool), StoreError> {
        let (mut runs, mut before) = (Vec::new(), None);
        for _ in 0..ATTENTION_PAGES_MOST {
            let page = self.ledger.attention(before, trouble::ASKED_FOR).await?;
            runs.extend(page.runs.into_iter().filter(|run| looker.sees(&run.run.job())));
            before = page.next;
            if before.is_none() || runs.len() >= trouble::ASKED_FOR {
                break;
            }
        }
        Ok((runs, before.is_some()))
    }
}

/// What the store answers in time; otherwise why there is none, for people.
async fn in_time<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(STORE_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the store has not answered within {}", written(STORE_WITHIN))),
    }
}

pub(crate) async fn now<S: Store>(State(page): State<Page<S>>, looker: Looker, headers: HeaderMap) -> Response {
    let frame = page.frame(looker);
    let silent = || "the store does not answer".to_owned();
    let (unknown, recorded, hours) = match frame.store_answers() {
        true => tokio::join!(
            page.in_doubt(&frame.looker, UNKNOWN_NAMED),
            page.recorded(&frame.looker),
            in_time(page.ledger.hours(frame.now.minus(day::DAY), frame.now)),
        ),
        false => (Err(silent()), Err(silent()), Err(silent())),
    };
    let frame = frame.listing(&unknown);
    // They count the runs of all jobs.
    let hours = frame.looker.sees_all_jobs().then_some(hours);
    let view = now::Now::of(&page.board.read(), frame, unknown, recorded).with_hours(hours);
    answer(&headers, StatusCode::OK, &now::markup(&view))
}

pub(crate) async fn jobs<S: Store>(
    State(page): State<Page<S>>,
    looker: Looker,
    wanted: Result<Query<jobs::Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let frame = page.frame(looker);
    let Query(wanted) = match wanted {
        Ok(wanted) => wanted,
        Err(rejected) => return refusal(&headers, &frame, Depth::Top, StatusCode::BAD_REQUEST, &rejected.body_text()),
    };
    let view = jobs::Jobs::of(&page.board.read(), frame.clone(), wanted);
    match view {
        Ok(view) => answer(&headers, StatusCode::OK, &jobs::markup(&view)),
        Err(error) => refusal(&headers, &frame, Depth::Top, StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

pub(crate) async fn job<S: Store>(
    State(page): State<Page<S>>,
    Path(name): Path<String>,
    looker: Looker,
    headers: HeaderMap,
) -> Response {
    let frame = page.frame(looker);
    let name = match JobName::new(&name) {
        Ok(name) => name,
        Err(error) => return refusal(&headers, &frame, Depth::Below, StatusCode::NOT_FOUND, &error.to_string()),
    };
    let find = Find { job: Some(name.clone()), verdict: None, open: true, done: true, limit: job::RUNS };
    let runs = in_time(page.ledger.runs(&find, |_| true)).await;
    let view = job::JobView::of(&page.board.read(), frame.clone(), &name, runs);
    match view {
        Some(view) => answer(&headers, StatusCode::OK, &job::markup(&view)),
        None => refusal(&headers, &frame, Depth::Below, StatusCode::NOT_FOUND, &format!("There is no job {name}.")),
    }
}

/// What is asked for of a run.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Part {
    /// The byte of its output from which on it is shown.
    from: Option<u64>,
    /// The byte of the file with all of its output from which on that is shown.
    whole: Option<u64>,
}

pub(crate) async fn run<S: Store>(
    State(page): State<Page<S>>,
    Path(id): Path<String>,
    part: Result<Query<Part>, QueryRejection>,
    looker: Looker,
    headers: HeaderMap,
) -> Response {
    let frame = page.frame(looker);
    let refuse = |code, why: &str| refusal(&headers, &frame, Depth::Below, code, why);
    let id: RunId = match id.parse() {
        Ok(id) => id,
        Err(error) => return refuse(StatusCode::NOT_FOUND, &format!("{error}")),
    };
    let Part { from, whole } = match part {
        Ok(Query(part)) => part,
        Err(rejected) => return refuse(StatusCode::BAD_REQUEST, &rejected.body_text()),
    };
    // The store says what became of it; of an open one the board knows as much.
    let row = match in_time(page.ledger.run(&id)).await {
        Ok(Some(row)) => row,
        Ok(None) => {
            return refuse(
                StatusCode::NOT_FOUND,
                &format!("There is no run {id}: it never was, or its history was pruned."),
            );
        }
        Err(why) => match page.board.read().open_run(&id).cloned() {
            Some(open) => RunRow::Open(open),
            None => {
                return refuse(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &format!("What became of {id} is not known now: {why}."),
                );
            }
        },
    };
    let output = match &row {
        _ if !frame.looker.may_read_output() => Output::Hidden,
        RunRow::Done(done) => Output::Kept(Written { text: done.output.clone(), forgotten: None, from }),
        RunRow::Open(_) => so_far(&page.outputs, &id, from).map_or(Output::Elsewhere, Output::Live),
    };
    let file = file_of(&page, &frame, &row, whole).await;
    let view = run::RunView { file, ..run::RunView::of(&page.board.read(), frame, id, row, output) };
    answer(&headers, StatusCode::OK, &run::markup(&view))
}

/// The file with all that the last attempt of a run wrote, where this node or another has one that this person may read.
async fn file_of<S: Store>(page: &Page<S>, frame: &Frame, row: &RunRow, from: Option<u64>) -> Option<WholeFile> {
    let (claimant, attempt) = row.last_attempt();
    let claimant = claimant.filter(|_| frame.looker.may_read_output())?;
    let place = {
        let board = page.board.read();
        let whole = board.definition(&row.id().job())?.output.clone()?;
        Place::of(&whole, page.ledger.namespace().as_str(), row.id(), attempt)
    };
    match place.read_soon(from.unwrap_or(0), if from.is_some() { SHOWN_AT_ONCE } else { 0 }).await {
        Ok(Some((bytes, size))) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let part = from.map(|from| FilePart { from, end: from.saturating_add(bytes.len() as u64), text });
            Some(WholeFile::Here { size, part })
        }
        Ok(None) if page.status.borrow().node == claimant.node => None,
        Ok(None) => Some(WholeFile::On(claimant.node.clone())),
        Err(error) => Some(WholeFile::Unreadable(error.to_string())),
    }
}

/// What is kept of what a run that runs here has written.
fn so_far(outputs: &Outputs, run: &RunId, from: Option<u64>) -> Option<Written> {
    let mut follow = outputs.follow(run)?;
    let mut written = Written { text: String::new(), forgotten: Some(0), from };
    // At most what is kept of a run, and what it writes while this looks.
    while let Some(Some(heard)) = follow.next().now_or_never() {
        match heard {
            Heard::Text(text) => written.text.push_str(&text),
            Heard::Missed(bytes) => {
                let end = written.forgotten.unwrap_or(0) + written.text.len() as u64;
                written = Written { text: String::new(), forgotten: Some(end + bytes), from };
            }
        }
        if written.text.len() > 4 * FOLLOW_KEPT {
            break;
        }
    }
    Some(written)
}

pub(crate) async fn week<S: Store>(
    State(page): State<Page<S>>,
    looker: Looker,
    wanted: Result<Query<week::Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let frame = page.frame(looker);
    let refuse = |why: &str| refusal(&headers, &frame, Depth::Top, StatusCode::BAD_REQUEST, why);
    let Query(wanted) = match wanted {
        Ok(wanted) => wanted,
        Err(rejected) => return refuse(&rejected.body_text()),
    };
    let plan = week::Plan::of(&page.board.read(), frame.clone(), wanted);
    // It counts up to 100,000 fires: other requests go on meanwhile.
    match tokio::task::spawn_blocking(|| week::Week::of(plan)).await {
        Ok(Ok(view)) => answer(&headers, StatusCode::OK, &week::markup(&view)),
        Ok(Err(why)) => refuse(&why),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(crate) async fn trouble<S: Store>(State(page): State<Page<S>>, looker: Looker, headers: HeaderMap) -> Response {
    let frame = page.frame(looker);
    let (unknown, ended) =
        tokio::join!(page.in_doubt(&frame.looker, trouble::ASKED_FOR), in_time(page.ended_badly(&frame.looker)),);
    let view = trouble::Trouble::of(&page.board.read(), frame.listing(&unknown), unknown, ended);
    answer(&headers, StatusCode::OK, &trouble::markup(&view))
}

pub(crate) async fn leadership<S: Store>(State(page): State<Page<S>>, looker: Looker, headers: HeaderMap) -> Response {
    let frame = page.frame(looker);
    let election = page.locks.election(LockName::leader());
    let (queue, terms) = tokio::join!(in_time(election.observe()), in_time(page.ledger.terms(None, TERMS_SHOWN)));
    let queue = queue.map(leadership::Queue::of);
    let view = leadership::Leadership::of(&page.board.read(), frame, queue, terms);
    answer(&headers, StatusCode::OK, &leadership::markup(&view))
}

pub(crate) async fn locks<S: Store>(State(page): State<Page<S>>, looker: Looker, headers: HeaderMap) -> Response {
    let frame = page.frame(looker);
    let listing = in_time(page.locks.list("")).await;
    answer(&headers, StatusCode::OK, &locks::markup(&locks::LocksView { frame, listing }))
}

pub(crate) async fn migrations<S: Store>(State(page): State<Page<S>>, looker: Looker, headers: HeaderMap) -> Response {
    let frame = page.frame(looker);
    let migrations = page.board.read().migrations().cloned();
    let steps: Option<Vec<Step>> = migrations.map(|migrations| migrations.iter().map(Step::from).collect());
    let mut standings = in_time(standings(&page.ledger, steps.as_deref(), migrations::ROWS_MOST)).await;
    if !frame.looker.may_read_output() {
        let standings = standings.iter_mut().flat_map(|(standings, _)| standings);
        standings.filter_map(|standing| standing.once.as_mut()).for_each(|once| once.output.clear());
    }
    answer(&headers, StatusCode::OK, &migrations::markup(&migrations::Migrations { frame, standings }))
}

pub(crate) async fn audit<S: Store>(State(page): State<Page<S>>, looker: Looker, headers: HeaderMap) -> Response {
    let frame = page.frame(looker);
    let seen =
        |row: &AuditRow| row.deed.job.as_ref().map_or(frame.looker.sees_all_jobs(), |job| frame.looker.sees(job));
    let find = FindAudit { limit: audit::ROWS, ..FindAudit::default() };
    let rows = in_time(page.ledger.audit(&find, seen)).await;
    let rows = rows.map(|page| (page.rows, page.next.is_some()));
    answer(&headers, StatusCode::OK, &audit::markup(&audit::Audit { frame, rows }))
}

pub(crate) async fn store<S: Store>(State(page): State<Page<S>>, looker: Looker, headers: HeaderMap) -> Response {
    let frame = page.frame(looker);
    let asked_at = page.clock.boot();
    let about = in_time(page.ledger.store().about()).await;
    let about = about.map(|about| (about, page.clock.boot().since(asked_at)));
    answer(&headers, StatusCode::OK, &store::markup(&store::StoreView { frame, about }))
}

pub(crate) async fn asset(Path(file): Path<String>) -> Response {
    match ASSETS.iter().find(|asset| asset.name == file) {
        Some(asset) => {
            let headers =
                [(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, asset.text).into_response()
        }
        None => (StatusCode::NOT_FOUND, "There is no such file: load the page again.\n").into_response(),
    }
}

/// A page that says what is wrong with what was asked for.
fn refusal(headers: &HeaderMap, frame: &Frame, depth: Depth, code: StatusCode, why: &str) -> Response {
    let body = html! {
        h1 { (code.canonical_reason().unwrap_or("It cannot be shown")) }
        p.notice.warn { (words::spoken(why)) }
        p { a href={ (depth.up()) "jobs" } { "All jobs" } " · " a href=(depth.up()) { "Now" } }
    };
    answer(headers, code, &frame::page(frame, (Screen::Jobs, depth), "not shown", 0, &body))
}

/// The page; or, where who asks has just this one, that it is unchanged.
fn answer(headers: &HeaderMap, code: StatusCode, page: &Markup) -> Response {
    let mut hasher = DefaultHasher::new();
    page.0.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let tags = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-store".to_owned())];
    if is_known && code == StatusCode::OK {
        return (StatusCode::NOT_MODIFIED, tags).into_response();
    }
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (code, kind, tags, page.0.clone()).into_response()
}

#[cfg(test)]
mod tests;
