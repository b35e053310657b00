//! **Jobs**: the list of all jobs, filtered, searched and sorted, in pages.

use maud::{Markup, html};
use serde::Deserialize;

use super::act;
use super::draw;
use super::frame::{Depth, Frame, Screen, page};
use super::tables::job_link;
use super::words::{command, foreign, grouped, instant, instant_and_distance, job_state, verdict};
use crate::board::{Board, Cursor, Filter, FindJobs, JobRow, NotACursor, Order};
use crate::config::auth::Role;
use crate::job::Trigger;
use crate::scheduler::run::STRIP_MOST;

/// How many jobs a page has.
pub(super) const JOBS_SHOWN: usize = 50;

/// The longest text that is searched for, in characters.
const TEXT_MOST: usize = 100;

/// What is asked for in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    pub q: String,
    pub state: Option<Filter>,
    pub sort: Order,
    /// From behind this row on.
    pub after: Option<String>,
}

impl Wanted {
    /// The address of the same list with a change; pages begin anew unless `after` says where.
    fn link(&self, state: Option<Filter>, sort: Order, after: Option<&Cursor>) -> String {
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        if !self.q.is_empty() {
            pairs.append_pair("q", &self.q);
        }
        if let Some(state) = state {
            pairs.append_pair("state", word_of(state));
        }
        if sort != Order::default() {
            pairs.append_pair("sort", word_of_order(sort));
        }
        if let Some(after) = after {
            pairs.append_pair("after", &after.to_string());
        }
        let query = pairs.finish();
        if query.is_empty() { "jobs".to_owned() } else { format!("jobs?{query}") }
    }
}

pub(super) fn word_of(state: Filter) -> &'static str {
    match state {
        Filter::Failing => "failing",
        Filter::Late => "late",
        Filter::Running => "running",
        Filter::Paused => "paused",
        Filter::OnDemand => "on_demand",
        Filter::Unconfigured => "unconfigured",
    }
}

fn word_of_order(order: Order) -> &'static str {
    match order {
        Order::Attention => "attention",
        Order::Name => "name",
        Order::Next => "next",
    }
}

/// What the screen shows.
pub(super) struct Jobs {
    pub frame: Frame,
    pub wanted: Wanted,
    pub rows: Vec<Row>,
    pub next: Option<Cursor>,
}

/// A job, with what its row needs of its definition.
pub(super) struct Row {
    pub job: JobRow,
    /// Its next fire in its zone.
    pub local: Option<String>,
}

impl Jobs {
    /// # Errors
    ///
    /// Where `wanted.after` is no place in a list.
    pub(super) fn of(board: &Board, frame: Frame, mut wanted: Wanted) -> Result<Jobs, NotACursor> {
        wanted.q = wanted.q.trim().chars().take(TEXT_MOST).collect();
        let find = FindJobs {
            state: wanted.state,
            order: wanted.sort,
            after: wanted.after.as_deref().map(str::parse).transpose()?,
            limit: JOBS_SHOWN,
            ..FindJobs::asked(&wanted.q)
        };
        let found = board.jobs_of(&find, frame.now, |job| frame.looker.sees(job));
        let row = |job: JobRow| {
            let local = match board.definition(&job.name).map(|job| &job.trigger) {
                Some(Trigger::Schedule { schedule, .. }) => {
                    job.next_fire.and_then(|at| frame.view().beside_short(at, schedule))
                }
                _ => None,
            };
            Row { job, local }
        };
        Ok(Jobs { rows: found.jobs.into_iter().map(row).collect(), next: found.next, frame, wanted })
    }
}

pub(super) fn markup(view: &Jobs) -> Markup {
    let body = html! {
        h1 { "Jobs" }
        (filters(view))
        section id="list" aria-label="The jobs" {
            @if view.rows.is_empty() { (nothing(view)) } @else { (table(view)) }
            @if let Some(next) = &view.next {
                p.pages {
                    a rel="next" href=(view.wanted.link(view.wanted.state, view.wanted.sort, Some(next))) {
                        "Next " (JOBS_SHOWN) " jobs"
                    }
                }
            }
            @if view.wanted.after.is_some() {
                p.pages {
                    a href=(view.wanted.link(view.wanted.state, view.wanted.sort, None)) { "Back to the first page" }
                }
            }
        }
    };
    page(&view.frame, (Screen::Jobs, Depth::Top), "Jobs", 2, &body)
}

/// The orders, and how they are called.
const ORDERS: [(Order, &str); 3] = [(Order::Attention, "attention"), (Order::Next, "next fire"), (Order::Name, "name")];

/// The filters as links, each with how many it finds; the search; and the order.
fn filters(view: &Jobs) -> Markup {
    let counts = view.frame.counts;
    let tiles = [
        (None, "All", Some(counts.jobs)),
        (Some(Filter::Failing), "Failing", Some(counts.failing)),
        (Some(Filter::Late), "Late", Some(counts.late)),
        (Some(Filter::Running), "Running", Some(counts.running)),
        (Some(Filter::Paused), "Paused", Some(counts.paused)),
        (Some(Filter::OnDemand), "On demand", None),
        (Some(Filter::Unconfigured), "Not in the file", None),
    ];
    let wanted = &view.wanted;
    html! {
        div.filters id="filters" {
            nav.tiles aria-label="Jobs by state" {
                @for (state, name, count) in tiles {
                    @let here = (state == wanted.state).then_some("true");
                    a href=(wanted.link(state, wanted.sort, None)) aria-current=[here] {
                        (name) @if let Some(count) = count { " " b { (grouped(count)) } }
                    }
                }
            }
            nav.tiles.sort aria-label="Order" {
                span.muted { "by" }
                @for (order, name) in ORDERS {
                    @let here = (order == wanted.sort).then_some("true");
                    a href=(wanted.link(wanted.state, order, None)) aria-current=[here] {
                        (name)
                    }
                }
            }
            form.search action="jobs" {
                input type="search" name="q" value=(wanted.q) aria-label="Name, description, owner:… or label:…"
                    placeholder="Name, description, owner:… or label:…" maxlength=(TEXT_MOST);
                @if let Some(state) = wanted.state { input type="hidden" name="state" value=(word_of(state)); }
                @if wanted.sort != Order::default() {
                    input type="hidden" name="sort" value=(word_of_order(wanted.sort));
                }
                button { "Find" }
            }
        }
    }
}

fn nothing(view: &Jobs) -> Markup {
    html! {
        p.empty {
            @if !view.wanted.q.is_empty() || view.wanted.state.is_some() {
                "No job matches"
                @if !view.wanted.q.is_empty() { " “" (foreign(&view.wanted.q)) "”" }
                @if let Some(state) = view.wanted.state { ", " (word_of(state).replace('_', " ")) }
                ". " a href="jobs" { "Show all jobs" }
            } @else {
                "This node knows no job: its jobs file has none, and the store has none."
            }
        }
    }
}

fn table(view: &Jobs) -> Markup {
    let (now, may_act) = (view.frame.view(), view.frame.looker.may(Role::Operator));
    html! {
        (act::bulk(&view.frame))
        table.rows.jobs {
            thead {
                tr {
                    @if may_act { th.tick { span.away { "Tick" } } }
                    th { "Job" }
                    th { "State" }
                    th { "Last " (STRIP_MOST) }
                    th { "Last run" }
                    th { "Schedule" }
                    th { "Next fire" }
                    th { "Run it now" }
                }
            }
            tbody {
                @for Row { job, local } in &view.rows {
                    tr {
                        @if may_act { td.tick { (act::tick(&view.frame, job.name.as_str())) } }
                        td {
                            (job_link("", &job.name))
                            @if let Some(description) = &job.description { small { (foreign(description)) } }
                            (sorted_by("", job))
                        }
                        td { (job_state(job.state)) }
                        td { @if let Some(last) = &job.last { (draw::strip(&last.strip, STRIP_MOST)) } }
                        td.l {
                            @if let Some(last) = &job.last {
                                (verdict(last.verdict)) " "
                                a href={ "runs/" (last.run) } { (instant(last.finished_at, now)) }
                            }
                        }
                        td { (when(job)) }
                        td.n {
                            @if let Some(at) = job.next_fire { (instant_and_distance(at, now)) }
                            @if let Some(local) = local { small { (local) } }
                        }
                        td { (command(&format!("trigger {}", job.name))) }
                    }
                }
            }
        }
    }
}

/// What makes a job due, in short.
pub(super) fn when(job: &JobRow) -> Markup {
    html! {
        @match (&job.schedule, job.timezone, &job.after) {
            (Some(schedule), Some(zone), _) => { (schedule) small { (zone) } },
            (_, _, Some(after)) => { "after " (job_link("", after)) },
            _ => span.muted { "on demand" },
        }
    }
}

/// A link to the jobs that a term finds, like `owner` or `label` with a value.
fn found_by(up: &str, kind: &str, value: &str) -> Markup {
    let blank = if value.contains(char::is_whitespace) { "\"" } else { "" };
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("q", &format!("{kind}:{blank}{value}{blank}"))
        .finish();
    html! { a.quiet href={ (up) "jobs?" (query) } { (foreign(value)) } }
}

/// The owner of a job as a link to all of its jobs.
pub(super) fn owner(up: &str, owner: &str) -> Markup {
    found_by(up, "owner", owner)
}

/// The labels of a job, each as a link to all jobs that have it.
pub(super) fn labels(up: &str, job: &JobRow) -> Markup {
    html! {
        @for (name, value) in &job.labels { (found_by(up, "label", &format!("{name}={value}"))) " " }
    }
}

/// The owner and the labels of a job, in short.
fn sorted_by(up: &str, job: &JobRow) -> Markup {
    html! {
        @if job.owner.is_some() || !job.labels.is_empty() {
            small {
                @if let Some(name) = &job.owner { "of " (owner(up, name)) " " }
                (labels(up, job))
            }
        }
    }
}
