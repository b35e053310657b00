//! **Store**: what the store is, how full it is, and what it warns of.

use maud::{Markup, html};

use super::frame::{Depth, Frame, Screen, page};
use super::words::{Look, bytes, command, fact, foreign, instant_or, spoken, state, took};
use crate::store::About;

/// What the screen shows.
pub(super) struct StoreView {
    pub frame: Frame,
    /// What the store says of itself, and how long that took.
    pub about: Result<(About, std::time::Duration), String>,
}

pub(super) fn markup(view: &StoreView) -> Markup {
    let frame = &view.frame;
    let body = html! {
        section.head id="head" {
            h1 { "Store " @match &view.about {
                Ok((about, _)) if about.warnings.is_empty() => (state("answers", Look::Good)),
                Ok(_) => (state("answers, with warnings", Look::Late)),
                Err(_) => (state("does not answer", Look::Bad)),
            } }
            @if let Err(why) = &view.about { p.notice.bad { (spoken(why)) } }
            dl.facts {
                (fact("URL", &html! { (foreign(&frame.store)) }))
                @if let Ok((about, within)) = &view.about {
                    (fact("Kind", &html! { (about.kind) " " (foreign(&about.version)) }))
                    (fact("Answered in", &html! { (took(*within)) }))
                    @if let Some(size) = about.size {
                        (fact("Size", &html! {
                            (bytes(size))
                            @if let Some(quota) = about.quota { " of " (bytes(quota)) " (" (share(size, quota)) " %)" }
                        }))
                    }
                }
                (fact("Last answer noticed", &instant_or("never", frame.heard_at, frame.view())))
                (fact("Trust of this node's session", &html! {
                    @if let Some(left) = frame.trusted_for { "for " (took(left)) } @else { b { "none" } }
                }))
            }
            @if let Ok((about, _)) = &view.about {
                @if about.warnings.is_empty() { p.empty { "It warns of nothing." } }
                @for warning in &about.warnings { p.notice.warn { (foreign(warning)) } }
            }
            p.do { (command("status")) " " (command("fence show")) }
        }
    };
    page(frame, (Screen::Store, Depth::Top), "Store", 2, &body)
}

fn share(size: u64, quota: u64) -> u64 {
    size.saturating_mul(100) / quota.max(1)
}
