//! **Migrations**: what was made once, what was not begun, and what waits for a person.

use maud::{Markup, html};

use super::act::{self, Ask};
use super::ansi;
use super::frame::{Depth, Frame, Screen, page};
use super::words::{Look, command, foreign, instant, spoken, state, took};
use crate::once::{Standing, State};

/// How many recorded migrations are shown, the newest.
pub(super) const ROWS_MOST: usize = 500;

/// What the screen shows.
pub(super) struct Migrations {
    pub frame: Frame,
    /// Those that are recorded, in the order in which they came to be so, and then those that were not begun; and whether
    /// some were left out.
    pub standings: Result<(Vec<Standing>, bool), String>,
}

pub(super) fn markup(view: &Migrations) -> Markup {
    let body = html! {
        h1 { "Migrations" }
        section id="migrations" aria-label="Migrations" {
            @match &view.standings {
                Err(why) => p.notice.unk {
                    "The migrations are not known now: "
                    (spoken(why))
                    ". Try again, or ask the store: "
                    (command("migrate status"))
                },
                Ok((standings, _)) if standings.is_empty() => p.empty {
                    "There is none: none was begun, and the jobs file of this node has none. " (command("migrate status"))
                },
                Ok((standings, is_cut)) => {
                    (table(standings, &view.frame))
                    @if *is_cut {
                        p {
                            "Of those that were begun, these are the last "
                            (ROWS_MOST)
                            ". For all: "
                            (command("migrate status -o json"))
                        }
                    }
                }
            }
        }
    };
    page(&view.frame, (Screen::Migrations, Depth::Top), "Migrations", 2, &body)
}

/// What comes next first, and then what was made, the newest first.
fn table(standings: &[Standing], frame: &Frame) -> Markup {
    let (begun, new): (Vec<&Standing>, Vec<&Standing>) = standings.iter().partition(|standing| standing.once.is_some());
    html! {
        table.rows {
            thead {
                tr {
                    th { "Migration" }
                    th { "State" }
                    th { "Why" }
                    th { "Made by" }
                    th.num { "Fence" }
                    th.num { "Attempts" }
                    th { "Begun" }
                    th.num { "Took" }
                    th { "Do" }
                }
            }
            tbody { @for standing in new.into_iter().chain(begun.into_iter().rev()) { (row(standing, frame)) } }
        }
    }
}

/// How a migration may be settled.
const SETTLED: &[(&str, &str)] = &[("done", "It was made"), ("retry", "Make it again")];

fn row(standing: &Standing, frame: &Frame) -> Markup {
    let view = frame.view();
    let look = match standing.state {
        State::Pending => Look::Waiting,
        State::Running => Look::Running,
        State::Lost => Look::Late,
        State::Done => Look::Good,
        State::Failed => Look::Bad,
        State::Unknown => Look::Unknown,
    };
    let settle = match standing.state {
        State::Failed | State::Unknown => format!("migrate resolve {} --as done", standing.id),
        State::Pending | State::Running | State::Lost | State::Done => "migrate status".to_owned(),
    };
    let once = standing.once.as_ref();
    html! {
        tr {
            td.name { (foreign(&standing.id)) }
            td { (state(standing.state.as_str(), look)) }
            td {
                @if let Some(difference) = &standing.difference { p.notice.warn { (spoken(difference)) } }
                @if let Some(once) = once {
                    (spoken(&once.reason))
                    @if !once.output.is_empty() {
                        details { summary { "What it wrote" } pre.out { (ansi::markup(&once.output)) } }
                    }
                } @else { span.muted { "of the jobs file of this node" } }
            }
            td data-l="by" {
                @if let Some(by) = once.and_then(|once| once.claimed_by.as_ref()) {
                    (foreign(&by.node))
                } @else if once.is_some() { span.muted { "a person" } }
            }
            td.num data-l="fence" { @if let Some(by) = once.and_then(|once| once.claimed_by.as_ref()) { (by.fence) } }
            td.num data-l="attempts" { @if let Some(once) = once { (once.attempts) } }
            td data-l="begun" { @if let Some(once) = once { (instant(once.started_at, view)) } }
            td.num data-l="took" {
                @if let Some((from, to)) = once.and_then(|once| Some((once.started_at, once.finished_at?))) {
                    (took(to.since(from)))
                }
            }
            td.do {
                (command(&settle))
                @if matches!(standing.state, State::Failed | State::Unknown | State::Lost) {
                    (act::choices(frame, "", Ask::admin("resolve_migration", &standing.id, "", &[]), ("as", SETTLED)))
                }
            }
        }
    }
}
