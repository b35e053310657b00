//! **Backfill**: what one would ask for, before it is asked for, and how far one has come.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::act::{self, Ask, Field};
use super::frame::{Depth, Frame, Screen, page};
use super::words::{command, count, fact, foreign, instant, instant_and_distance};
use super::{Looker, Page, answer, in_time, refusal};
use crate::config::auth::Role;
use crate::job::JobName;
use crate::ledger::{AskError, BackfillPlan, BackfillProgress};
use crate::store::Store;
use crate::time::Wall;

/// By what call runs are named that are only counted.
const COUNTED: &str = "b-counted";

/// What is asked about.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    job: String,
    from: String,
    to: String,
    /// Not empty: all of it is asked for again.
    again: String,
}

/// What a backfill would ask for.
pub(super) struct Preview {
    pub frame: Frame,
    pub job: JobName,
    pub stretch: (Wall, Wall),
    pub again: bool,
    /// `None`: the job was not due in between.
    pub plan: Option<BackfillPlan>,
}

/// The form that leads to the preview of a backfill of this job.
pub(super) fn asks(frame: &Frame, up: &str, job: &str) -> Markup {
    if !frame.looker.may(Role::Operator) {
        return html! {};
    }
    html! {
        details.act data-keep="" {
            summary { "Backfill…" }
            form.act method="get" action={ (up) "backfill" } {
                input type="hidden" name="job" value=(job);
                @for (name, label) in [("from", "From "), ("to", "To, not included ")] {
                    label {
                        (label)
                        input name=(name) required placeholder="2026-11-01T00:00:00Z" autocomplete="off" maxlength="40";
                    }
                }
                label { input type="checkbox" name="again" value="1"; " also what has succeeded, is open or in doubt" }
                button { "Look at it" }
            }
        }
    }
}

pub(crate) async fn preview<S: Store>(
    State(page): State<Page<S>>,
    looker: Looker,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let frame = page.frame(looker);
    let refuse = |code, why: &str| refusal(&headers, &frame, Depth::Top, code, why);
    let Query(Wanted { job, from, to, again }) = match wanted {
        Ok(wanted) => wanted,
        Err(rejected) => return refuse(StatusCode::BAD_REQUEST, &rejected.body_text()),
    };
    let name = JobName::new(&job).ok().filter(|job| frame.looker.sees(job));
    let definition = name.and_then(|job| page.board.read().definition(&job).cloned());
    let Some(definition) = definition else {
        return refuse(StatusCode::NOT_FOUND, &format!("There is no job {job} in the jobs file of this node."));
    };
    let (from, to) = match (from.parse::<Wall>(), to.parse::<Wall>()) {
        (Ok(from), Ok(to)) => (from, to),
        _ => {
            let why = "A backfill is from one instant to before another, such as 2026-11-01T00:00:00Z.";
            return refuse(StatusCode::BAD_REQUEST, why);
        }
    };
    let again = !again.is_empty();
    let plan = async {
        match page.ledger.plan_backfill(&definition, (from, to), again.then_some(COUNTED), frame.now).await {
            Err(AskError::Store(error)) => Err(error),
            plan => Ok(plan),
        }
    };
    match in_time(plan).await {
        Ok(Ok(plan)) => {
            let view = Preview { frame, job: definition.name.clone(), stretch: (from, to), again, plan };
            answer(&headers, StatusCode::OK, &preview_markup(&view))
        }
        Ok(Err(error)) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("What it would ask for is not known now: {why}.")),
    }
}

pub(super) fn preview_markup(view: &Preview) -> Markup {
    let (frame, job, (from, to)) = (&view.frame, view.job.as_str(), view.stretch);
    let body = html! {
        h1 { "Backfill of " a href={ "jobs/" (job) } { (job) } }
        section id="plan" aria-label="What it would ask for" {
            dl.facts {
                (fact("From", &instant(from, frame.view())))
                (fact("To, not included", &instant(to, frame.view())))
            }
            @match &view.plan {
                None => p.empty { "The job was not due in between." },
                Some(plan) => {
                    p { "It was due at " (count(plan.instants, "instant")) ". Nothing is asked for yet." }
                    (standings(plan))
                    (confirms(view, plan))
                }
            }
            @let again = if view.again { " --again" } else { "" };
            p.do { (command(&format!("backfill {job} --from {from} --to {to}{again}"))) }
        }
    };
    page(frame, (Screen::Jobs, Depth::Top), &format!("Backfill of {job}"), 0, &body)
}

/// How the instants stand now, and which of them are asked for.
fn standings(plan: &BackfillPlan) -> Markup {
    let words: BTreeSet<&str> = plan.asked.keys().chain(plan.left_out.keys()).copied().collect();
    let number = |of: &BTreeMap<&str, usize>, word: &str| of.get(word).copied().unwrap_or_default();
    html! {
        table.rows.short {
            thead { tr { th { "They stand as" } th.num { "Asked for" } th.num { "Left out" } } }
            tbody {
                @for word in words {
                    tr {
                        td.name { (word) }
                        td.num data-l="asked for" { (number(&plan.asked, word)) }
                        td.num data-l="left out" { (number(&plan.left_out, word)) }
                    }
                }
            }
        }
    }
}

fn confirms(view: &Preview, plan: &BackfillPlan) -> Markup {
    if plan.runs.is_empty() {
        return html! { p.empty { "Nothing of it is left to ask for." } };
    }
    let (from, to) = (view.stretch.0.to_string(), view.stretch.1.to_string());
    let label = format!("Ask for {}", count(plan.runs.len(), "run"));
    let again = if view.again { "1" } else { "" };
    // The stretch is part of the key of the form: another stretch is another act.
    let stretch = format!("{from} {to} {again}");
    let fields = [
        Field::Hidden("from", &from),
        Field::Hidden("to", &to),
        Field::Hidden("again", again),
        Field::Hidden("do", &stretch),
    ];
    act::open_form(&view.frame, "", Ask::operator("backfill", view.job.as_str(), &label, &fields))
}

pub(crate) async fn progress<S: Store>(
    State(page): State<Page<S>>,
    Path(id): Path<String>,
    looker: Looker,
    headers: HeaderMap,
) -> Response {
    let frame = page.frame(looker);
    let refuse = |code, why: &str| refusal(&headers, &frame, Depth::Below, code, why);
    match in_time(page.ledger.backfill_progress(&id)).await {
        Ok(Some(progress)) if frame.looker.sees(&progress.backfill.job) => {
            answer(&headers, StatusCode::OK, &progress_markup(&frame, &progress))
        }
        Ok(_) => refuse(StatusCode::NOT_FOUND, "There is no such backfill: it never was, or it is kept no longer."),
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("How far it has come is not known now: {why}.")),
    }
}

pub(super) fn progress_markup(frame: &Frame, progress: &BackfillProgress) -> Markup {
    let BackfillProgress { backfill, counts } = progress;
    let (job, asked) = (backfill.job.as_str(), &backfill.asked);
    let left = |state: &str| counts.get(state).copied().unwrap_or_default();
    let is_left = left("waiting") + left("not_asked") > 0;
    let body = html! {
        h1 { "Backfill of " a href={ "../jobs/" (job) } { (job) } }
        section id="progress" aria-label="How far it has come" {
            dl.facts {
                (fact("Asked for by", &foreign(&asked.by)))
                (fact("Asked for", &instant_and_distance(asked.at, frame.view())))
                @if !asked.reason.is_empty() { (fact("Why", &foreign(&asked.reason))) }
                @if let Some((first, last)) = backfill.bounds() {
                    (fact("First instant", &instant(first, frame.view())))
                    (fact("Last instant", &instant(last, frame.view())))
                }
                (fact("Runs", &html! { (backfill.runs.len()) }))
                @if let Some(stopped) = &backfill.stopped {
                    (fact("Stopped by", &foreign(&stopped.by)))
                    (fact("Stopped", &instant_and_distance(stopped.at, frame.view())))
                }
            }
            table.rows.short {
                thead { tr { th { "State" } th.num { "Runs" } } }
                tbody {
                    @for (state, runs) in counts {
                        tr { td.name { (state.replace('_', " ")) } td.num data-l="runs" { (runs) } }
                    }
                }
            }
            p.do { (command(&format!("runs --job {job}"))) }
            @if is_left && backfill.stopped.is_none() {
                div.acts {
                    (act::form(
                        frame,
                        "../",
                        Ask::operator("stop_backfill", &backfill.id, "Stop it", &[Field::Confirm(job)]),
                    ))
                }
            }
        }
    };
    page(frame, (Screen::Jobs, Depth::Below), &format!("Backfill of {job}"), 2, &body)
}
