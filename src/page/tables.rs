//! The tables that several screens have: runs in doubt, jobs that fail, jobs that are late or paused.

use maud::{Markup, html};

use super::act::{self, Ask};
use super::frame::Frame;
use super::jobs::word_of;
use super::words::{Viewpoint, command, foreign, grouped, instant_and_distance, instant_or, job_state, verdict};
use crate::board::{Filter, JobRow, JobState};
use crate::job::{JobName, RunId, Verdict};

/// A link to a run.
pub(super) fn run_link(up: &str, run: &RunId) -> Markup {
    html! { a href={ (up) "runs/" (run) } { (run) } }
}

/// A link to a job.
pub(super) fn job_link(up: &str, job: &JobName) -> Markup {
    html! { a href={ (up) "jobs/" (job) } { (job) } }
}

/// A link to the list of jobs in a state, where there are more than are shown.
pub(super) fn all_jobs(state: Filter, shown: usize, all: usize) -> Markup {
    let word = word_of(state);
    html! { @if all > shown { p { a href={ "jobs?state=" (word) } { "All " (grouped(all)) " " (word) " jobs" } } } }
}

/// How a run in doubt may be settled.
const SETTLED: &[(&str, &str)] = &[("succeeded", "It succeeded"), ("failed", "It failed"), ("retry", "Run it again")];

/// Runs in doubt, each with the commands that settle it.
pub(super) fn in_doubt(frame: &Frame, runs: &[RunId]) -> Markup {
    html! {
        table.rows {
            thead { tr { th { "Run" } th { "Verdict" } th { "Settle it" } } }
            tbody {
                @for run in runs {
                    tr {
                        td.name { (run_link("", run)) }
                        td { (verdict(Verdict::Unknown)) }
                        td.do {
                            @for how in ["succeeded", "failed", "retry"] {
                                div { (command(&format!("resolve {run} --as {how}"))) }
                            }
                            (act::choices(frame, "", Ask::operator("resolve", run.as_str(), "", &[]), ("as", SETTLED)))
                        }
                    }
                }
            }
        }
    }
}

/// Jobs whose last run ended badly.
pub(super) fn failing(rows: &[JobRow], view: Viewpoint) -> Markup {
    html! {
        table.rows {
            thead {
                tr {
                    th { "Job" }
                    th { "Last run" }
                    th.num { "In a row" }
                    th { "Ended" }
                    th { "Last success" }
                    th { "Next fire" }
                    th { "Read why" }
                }
            }
            tbody {
                @for row in rows {
                    @if let Some(last) = &row.last {
                        tr {
                            td.name { (job_link("", &row.name)) }
                            td { a.quiet href={ "runs/" (last.run) } { (verdict(last.verdict)) } }
                            td.num data-l="in a row" { (last.bad_in_a_row) }
                            td data-l="ended" { (instant_and_distance(last.finished_at, view)) }
                            td data-l="last success" { (instant_or("none", last.succeeded_at, view)) }
                            td data-l="next" { (instant_or("none", row.next_fire, view)) }
                            td.do { (command(&format!("logs {}", last.run))) }
                        }
                    }
                }
            }
        }
    }
}

/// Jobs that are late, and jobs that are paused.
pub(super) fn late(late: &[JobRow], paused: &[JobRow], view: Viewpoint) -> Markup {
    html! {
        table.rows {
            thead { tr { th { "Job" } th { "State" } th { "Since" } th { "Why" } th { "Do" } } }
            tbody {
                @for row in late {
                    tr {
                        td.name { (job_link("", &row.name)) }
                        td { (job_state(JobState::Late)) }
                        td data-l="since" { (instant_or("", row.late.as_ref().map(|late| late.since), view)) }
                        td { @if let Some(late) = &row.late { (late.why.why()) } }
                        td.do {
                            @match row.late.as_ref().and_then(|late| late.run.as_ref()) {
                                Some(run) => { (run_link("", run)) " " (command(&format!("logs {run}"))) },
                                None => (command("status")),
                            }
                        }
                    }
                }
                @for row in paused {
                    tr {
                        td.name { (job_link("", &row.name)) }
                        td { (job_state(JobState::Paused)) }
                        @if let Some(paused) = &row.paused {
                            td data-l="since" { (instant_and_distance(paused.at, view)) }
                            td { @if paused.by.is_empty() { "paused" } @else { "paused by " (foreign(&paused.by)) } }
                        }
                        td.do { (command(&format!("resume {}", row.name))) }
                    }
                }
            }
        }
    }
}
