//! **Audit**: what people did, to what, through what, and why.

use maud::{Markup, html};

use super::frame::{Depth, Frame, Screen, page};
use super::tables::{job_link, run_link};
use super::words::{command, foreign, instant_and_distance, spoken};
use crate::job::Word as _;
use crate::ledger::AuditRow;

/// How many acts are shown.
pub(super) const ROWS: usize = 200;

/// What the screen shows.
pub(super) struct Audit {
    pub frame: Frame,
    /// The last first; and whether there are more.
    pub rows: Result<(Vec<AuditRow>, bool), String>,
}

pub(super) fn markup(view: &Audit) -> Markup {
    let body = html! {
        h1 { "What people did" }
        section id="audit" aria-label="Acts" {
            @match &view.rows {
                Err(why) => p.notice.unk {
                    "What people did is not known now: " (spoken(why)) ". " (command("audit"))
                },
                Ok((rows, _)) if rows.is_empty() => p.empty {
                    "Nothing that is recorded: acts are kept for 90 days, the last 10,000 of them."
                },
                Ok((rows, more)) => {
                    (table(view, rows))
                    @if *more { p { "There are more: " (command("audit --limit 10000")) } }
                },
            }
        }
    };
    page(&view.frame, (Screen::Audit, Depth::Top), "Audit", 5, &body)
}

fn table(view: &Audit, rows: &[AuditRow]) -> Markup {
    html! {
        table.rows {
            thead { tr { th { "When" } th { "Act" } th { "On" } th { "By" } th { "Through" } th { "Why" } } }
            tbody {
                @for AuditRow { asked, deed } in rows {
                    tr {
                        td data-l="when" { (instant_and_distance(asked.at, view.frame.view())) }
                        td.name {
                            @match &deed.backfill {
                                Some(id) => a href={ "backfills/" (id) } { (deed.act.word().replace('_', " ")) },
                                None => (deed.act.word().replace('_', " ")),
                            }
                        }
                        td data-l="on" {
                            @match (&deed.run, &deed.job) {
                                (Some(run), _) => (run_link("", run)),
                                (None, Some(job)) => (job_link("", job)),
                                (None, None) => (foreign(&deed.on)),
                            }
                            @if !deed.detail.is_empty() { small { (foreign(&deed.detail)) } }
                        }
                        td data-l="by" {
                            (foreign(&asked.by))
                            @if let Some(role) = &asked.role { small { (foreign(role)) } }
                        }
                        td data-l="through" {
                            (asked.via.word())
                            @if let Some(address) = &asked.address { small { (foreign(address)) } }
                        }
                        td data-l="why" { (foreign(&asked.reason)) }
                    }
                }
            }
        }
    }
}
