//! **Rewind**: what it would bring back, before it does.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::act::{self, Ask, Field};
use super::frame::{Depth, Frame, Screen, page};
use super::words::{command, count, fact, foreign, instant, instant_or};
use super::{Looker, Page, answer, in_time, refusal};
use crate::config::auth::Role;
use crate::job::JobName;
use crate::ledger::{RewindError, Rewinding};
use crate::store::Store;
use crate::time::Wall;

/// How many jobs are named.
const JOBS_NAMED: usize = 50;

/// To where.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Empty: to now.
    to: String,
}

/// The form that leads to the preview of a rewind.
pub(super) fn asks(frame: &Frame) -> Markup {
    if !frame.looker.may(Role::Admin) {
        return html! {};
    }
    html! {
        details.act data-keep="" {
            summary { "Bring the schedules back…" }
            form.act method="get" action="rewind" {
                label {
                    "To "
                    input name="to" placeholder="now, or 2026-11-01T00:00:00Z" autocomplete="off" maxlength="40";
                }
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
    let to = match wanted {
        Ok(Query(Wanted { to })) if to.trim().is_empty() => None,
        Ok(Query(Wanted { to })) => match to.trim().parse::<Wall>() {
            Ok(to) if to <= frame.now => Some(to),
            Ok(_) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "That lies in the future: what was decided ahead of the time is what is brought back.",
                );
            }
            Err(_) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "The schedules are brought back to an instant such as 2026-11-01T00:00:00Z.",
                );
            }
        },
        Err(rejected) => return refuse(StatusCode::BAD_REQUEST, &rejected.body_text()),
    };
    let looked = async {
        match page.ledger.look_at_rewind(to, frame.now).await {
            Err(RewindError::Store(error)) => Err(error),
            looked => Ok(looked),
        }
    };
    match in_time(looked).await {
        Ok(Ok(plan)) => answer(&headers, StatusCode::OK, &markup(&frame, &plan)),
        Ok(Err(error)) => refuse(StatusCode::CONFLICT, &error.to_string()),
        Err(why) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("What it would bring back is not known now: {why}."))
        }
    }
}

pub(super) fn markup(frame: &Frame, plan: &Rewinding) -> Markup {
    let to = plan.to.to_string();
    let fields = [Field::Hidden("to", &to), Field::Hidden("do", &to), Field::Confirm(&frame.namespace)];
    let body = html! {
        h1 { "Bring the schedules back" }
        section id="plan" aria-label="What it would bring back" {
            p {
                "For a clock that was ahead, and is right now. What is due after the instant is decided again, but for "
                "what has run. Nothing is done yet."
            }
            dl.facts {
                (fact("Decided up to", &instant_or("that cannot be read", plan.from, frame.view())))
                (fact("To", &instant(plan.to, frame.view())))
                (fact("Verdicts taken back", &html! {
                    (count(plan.taken_back, "skipped run")) ", of instants that had not come"
                }))
                (fact("Jobs due again", &named(&plan.jobs)))
                @if !plan.pruned.is_empty() {
                    (fact("Pruned behind it", &html! { (named(&plan.pruned)) ": what of them may have run is skipped" }))
                }
            }
            (act::open_form(frame, "", Ask::admin("rewind", &frame.namespace, "Bring them back", &fields)))
            p.do { (command(&format!("rewind --to {to}"))) }
        }
    };
    page(frame, (Screen::Leadership, Depth::Top), "Bring the schedules back", 0, &body)
}

fn named(jobs: &[JobName]) -> Markup {
    let names: Vec<&str> = jobs.iter().take(JOBS_NAMED).map(JobName::as_str).collect();
    html! {
        @if names.is_empty() { "none" } @else { (foreign(&names.join(", "))) }
        @if jobs.len() > JOBS_NAMED { " and " (jobs.len() - JOBS_NAMED) " more" }
    }
}
