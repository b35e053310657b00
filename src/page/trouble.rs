//! **Trouble**: what is in doubt, what fails, and what is late, each with the command that deals with it.

use maud::{Markup, html};

use super::frame::{Depth, Frame, Screen, page};
use super::tables::{self, all_jobs, run_link};
use super::words::{command, instant_and_distance, spoken, verdict};
use crate::board::{Board, Filter, FindJobs, JobRow};
use crate::job::RunId;
use crate::ledger::Attention;

/// How many rows a list has.
const ROWS: usize = 100;

/// What the screen shows.
pub(super) struct Trouble {
    pub frame: Frame,
    /// The runs that ended as `unknown`, and whether there are more.
    pub unknown: Result<(Vec<RunId>, bool), String>,
    pub failing: Vec<JobRow>,
    pub late: Vec<JobRow>,
    /// What ended badly lately, the last first, and whether there is more.
    pub ended: Result<(Vec<Attention>, bool), String>,
}

/// How many runs in doubt, and how many that ended badly, are asked for.
pub(super) const ASKED_FOR: usize = ROWS;

impl Trouble {
    pub(super) fn of(
        board: &Board,
        frame: Frame,
        unknown: Result<(Vec<RunId>, bool), String>,
        ended: Result<(Vec<Attention>, bool), String>,
    ) -> Trouble {
        let list = |state| {
            let find = FindJobs { state: Some(state), limit: ROWS, ..FindJobs::default() };
            board.jobs_of(&find, frame.now, |job| frame.looker.sees(job)).jobs
        };
        Trouble { unknown, ended, failing: list(Filter::Failing), late: list(Filter::Late), frame }
    }
}

pub(super) fn markup(view: &Trouble) -> Markup {
    let body = html! {
        h1 { "Trouble" }
        (unknown(view))
        (failing(view))
        (late(view))
        (unsent(view))
        (ended(view))
    };
    page(&view.frame, (Screen::Trouble, Depth::Top), "Trouble", 2, &body)
}

fn unknown(view: &Trouble) -> Markup {
    html! {
        section id="unknown" aria-labelledby="unknown-h" {
            h2 id="unknown-h" { "In doubt" }
            @match &view.unknown {
                Err(why) => p.notice.unk {
                    "Which runs are in doubt is not known now: " (spoken(why)) ". " (command("runs --state unknown"))
                },
                Ok((runs, _)) if runs.is_empty() => p.empty {
                    "None. A run is in doubt when its leader was lost before it said how the run ended."
                },
                Ok((runs, more)) => {
                    p.muted { "Nothing says how these runs ended, and nothing repeats them before a person does." }
                    (tables::in_doubt(&view.frame, runs))
                    @if *more { p { "There are more: " (command("runs --state unknown --limit 10000")) } }
                }
            }
        }
    }
}

/// Nothing is said where this is not known: as for what is wrong with the store, only those who see all jobs are shown it.
fn unsent(view: &Trouble) -> Markup {
    html! {
        @if !view.frame.unsent.is_empty() {
            section id="unsent" aria-labelledby="unsent-h" {
                h2 id="unsent-h" { "Alerts that are not sent" }
                p.muted {
                    "What a channel does not take is sent again, for a day. What is beyond the messages of an hour is \
                     counted, and in a summary at the beginning of the next one. "
                    (command("notify list"))
                }
                ul.plain { @for what in &view.frame.unsent { li { (spoken(what)) } } }
            }
        }
    }
}

fn failing(view: &Trouble) -> Markup {
    html! {
        section id="failing" aria-labelledby="failing-h" {
            h2 id="failing-h" { "Failing jobs" }
            @if view.failing.is_empty() { p.empty { "None: the last run of each job ended well, or was skipped." } } @else {
                (tables::failing(&view.failing, view.frame.view()))
                (all_jobs(Filter::Failing, view.failing.len(), view.frame.counts.failing))
            }
        }
    }
}

fn late(view: &Trouble) -> Markup {
    html! {
        section id="late" aria-labelledby="late-h" {
            h2 id="late-h" { "Late jobs" }
            @if view.late.is_empty() { p.empty { "None: each occurrence that is due has been decided." } } @else {
                (tables::late(&view.late, &[], view.frame.view()))
                (all_jobs(Filter::Late, view.late.len(), view.frame.counts.late))
            }
        }
    }
}

fn ended(view: &Trouble) -> Markup {
    html! {
        section id="ended" aria-labelledby="ended-h" {
            h2 id="ended-h" { "What ended badly, the last first" }
            @match &view.ended {
                Err(why) => p.notice.unk { "What ended badly is not known now: " (spoken(why)) "." },
                Ok((runs, _)) if runs.is_empty() => p.empty { "No run that is recorded ended badly." },
                Ok((runs, more)) => {
                    table.rows {
                        thead { tr { th { "Run" } th { "Verdict" } th { "Why" } th { "Ended" } th { "Read it" } } }
                        tbody {
                            @for run in runs {
                                tr {
                                    td { (run_link("", &run.run)) }
                                    td { (verdict(run.verdict)) }
                                    td { (spoken(&run.reason)) }
                                    td data-l="ended" { (instant_and_distance(run.at, view.frame.view())) }
                                    td { (command(&format!("logs {}", run.run))) }
                                }
                            }
                        }
                    }
                    @if *more { p { "There are more: " (command("runs --state failed --limit 500")) } }
                }
            }
        }
    }
}
