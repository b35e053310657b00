//! **Migrations**: what was made once, and what waits for a person.

use maud::{Markup, html};

use super::ansi;
use super::frame::{Depth, Frame, Screen, page};
use super::words::{Look, command, foreign, instant, state, took};
use crate::ledger::{Once, OnceState, Recorded};
use crate::time::Wall;

/// How many migrations are shown, the newest first.
const ROWS_MOST: usize = 500;

/// What the screen shows.
pub(super) struct Migrations {
    pub frame: Frame,
    /// In the order in which they came to be as they are.
    pub records: Result<Vec<Recorded>, String>,
}

pub(super) fn markup(view: &Migrations) -> Markup {
    let body = html! {
        h1 { "Migrations" }
        section id="migrations" aria-label="Migrations" {
            @match &view.records {
                Err(why) => p.notice.unk {
                    "The migrations are not known now: "
                    (foreign(why))
                    ". Try again, or ask the store: "
                    (command("migrate status"))
                },
                Ok(records) if records.is_empty() => p.empty { "None was begun. " (command("migrate status")) },
                Ok(records) => (table(records, view.frame.now)),
            }
        }
    };
    page(&view.frame, (Screen::Migrations, Depth::Top), "Migrations", 2, &body)
}

fn table(records: &[Recorded], now: Wall) -> Markup {
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
            tbody { @for recorded in records.iter().rev().take(ROWS_MOST) { (row(&recorded.once, now)) } }
        }
        @if records.len() > ROWS_MOST {
            p { "These are the last " (ROWS_MOST) ". For all: " (command("migrate status -o json")) }
        }
    }
}

fn row(once: &Once, now: Wall) -> Markup {
    let (word, look) = match once.state {
        OnceState::Pending => ("pending", Look::Waiting),
        OnceState::Claimed => ("claimed", Look::Running),
        OnceState::Done => ("done", Look::Good),
        OnceState::Failed => ("failed", Look::Bad),
        OnceState::Unknown => ("unknown", Look::Unknown),
    };
    let act = match once.state {
        OnceState::Failed | OnceState::Unknown => format!("migrate resolve {} --as done", once.name),
        _ => "migrate status".to_owned(),
    };
    html! {
        tr {
            td.name { (foreign(&once.name)) }
            td { (state(word, look)) }
            td {
                (foreign(&once.reason))
                @if !once.output.is_empty() {
                    details { summary { "What it wrote" } pre.out { (ansi::markup(&once.output)) } }
                }
            }
            td data-l="by" {
                @if let Some(by) = &once.claimed_by { (foreign(&by.node)) } @else { span.muted { "a person" } }
            }
            td.num data-l="fence" { @if let Some(by) = &once.claimed_by { (by.fence) } }
            td.num data-l="attempts" { (once.attempts) }
            td data-l="begun" { (instant(once.started_at, now)) }
            td.num data-l="took" {
                @if let Some(finished) = once.finished_at { (took(finished.since(once.started_at))) }
            }
            td.do { (command(&act)) }
        }
    }
}
