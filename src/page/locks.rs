//! **Locks**: what is held, by which node and since when, and how many wait for it.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::act::{self, Ask, Field};
use super::frame::{Depth, Frame, Screen, page};
use super::words::{Look, command, count, foreign, instant_and_distance, shown, spoken, state};
use crate::lock::{Bar, LOCKS_LISTED, Listing, LockKind, LockListed, LockName, SemaphoreListed};

/// How many rows are shown.
const ROWS_MOST: usize = 500;

/// From how many sessions the permits of one semaphore can be taken here.
const SESSIONS_MOST: usize = 20;

/// What the screen shows.
pub(super) struct LocksView {
    pub frame: Frame,
    pub listing: Result<Listing, String>,
}

pub(super) fn markup(view: &LocksView) -> Markup {
    let body = html! {
        h1 { "Locks" }
        section id="locks" aria-label="Locks and semaphores" {
            @match &view.listing {
                Err(why) => p.notice.unk {
                    "What is held is not known now: "
                    (spoken(why))
                    ". Try again, or ask the store: "
                    (command("locks"))
                },
                Ok(listing) if listing.locks.is_empty() && listing.semaphores.is_empty() => p.empty {
                    "Nothing is held, and nothing is waited for."
                },
                Ok(listing) => (table(listing, &view.frame)),
            }
        }
    };
    page(&view.frame, (Screen::Locks, Depth::Top), "Locks", 2, &body)
}

fn table(listing: &Listing, frame: &Frame) -> Markup {
    let semaphores: Vec<&SemaphoreListed> =
        listing.semaphores.iter().filter(|listed| !listed.held.is_empty() || listed.waiting > 0).collect();
    html! {
        table.rows {
            thead {
                tr {
                    th { "Name" }
                    th { "Kind" }
                    th { "Holder" }
                    th.num { "Fence" }
                    th { "Since" }
                    th.num { "Waiting" }
                    th { "Revoke it" }
                }
            }
            tbody {
                @for lock in listing.locks.iter().take(ROWS_MOST) { (lock_row(lock, frame)) }
                @for semaphore in semaphores.into_iter().take(ROWS_MOST) { (semaphore_row(semaphore, frame)) }
            }
        }
        @if listing.more || listing.locks.len() > ROWS_MOST {
            p.notice.warn {
                "There are more than are shown here, up to "
                (LOCKS_LISTED)
                " of each kind by: "
                (command("locks -o json"))
            }
        }
    }
}

fn lock_row(lock: &LockListed, frame: &Frame) -> Markup {
    let now = frame.view();
    html! {
        tr {
            td.name { (foreign(lock.name.as_str())) }
            td { (lock.name.kind_word()) }
            td data-l="holder" {
                @match (&lock.holder, lock.barred) {
                    (Some(holder), _) => (foreign(&holder.node)),
                    (None, Some(Bar::Delay)) => (state("barred: its holder was lost", Look::Late)),
                    (None, Some(Bar::Destroyed)) => (state("barred: it was destroyed", Look::Late)),
                    (None, None) => span.muted { "free" },
                }
            }
            td.num data-l="fence" { @if let Some(holder) = &lock.holder { (holder.fence) } }
            td data-l="since" { @if let Some(holder) = &lock.holder { (instant_and_distance(holder.since, now)) } }
            td.num data-l="waiting" { (lock.waiting) }
            td.do { (command(&revoke(&lock.name))) (revokes(lock, frame)) }
        }
    }
}

/// The form that takes a lock away.
fn revokes(lock: &LockListed, frame: &Frame) -> Markup {
    let Some(holder) = lock.holder.as_ref().filter(|_| lock.name != LockName::leader()) else { return html! {} };
    let kind = match lock.name.kind() {
        LockKind::Named => "lock",
        LockKind::Migrations => "migrations",
        LockKind::Once => "once",
    };
    let (name, fence) = (lock.name.as_str(), holder.fence.to_string());
    let fields = [Field::Hidden("fence", &fence), Field::Hidden("kind", kind), Field::Confirm(name)];
    act::form(frame, "", Ask::admin("unlock", name, "Revoke it", &fields))
}

/// The command that takes a lock away.
fn revoke(name: &LockName) -> String {
    match name.kind() {
        LockKind::Named if *name == LockName::leader() => "step-down".to_owned(),
        LockKind::Named => format!("unlock --force {}", quoted(name.as_str())),
        LockKind::Migrations => "unlock --force migrations --kind migrations".to_owned(),
        LockKind::Once => format!("unlock --force {} --kind once", quoted(name.as_str())),
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn semaphore_row(semaphore: &SemaphoreListed, frame: &Frame) -> Markup {
    let now = frame.view();
    let taken: u32 = semaphore.held.iter().map(|held| held.permits).sum();
    html! {
        tr {
            td.name { (foreign(semaphore.name.as_str())) }
            td { "semaphore" }
            td data-l="holders" {
                (taken) " of " @if let Some(permits) = semaphore.permits { (permits) } @else { "?" } " permits"
                @for held in semaphore.held.iter().take(20) { small { (foreign(&held.node)) " holds " (held.permits) } }
            }
            td.num {}
            td data-l="since" {
                @if let Some(first) = semaphore.held.iter().map(|held| held.since).min() {
                    (instant_and_distance(first, now))
                }
            }
            td.num data-l="waiting" { (semaphore.waiting) }
            td.do {
                (command(&format!("locks {}", quoted(semaphore.name.as_str()))))
                (takes_permits(semaphore, frame))
            }
        }
    }
}

/// The forms that take the permits of one session each.
fn takes_permits(semaphore: &SemaphoreListed, frame: &Frame) -> Markup {
    let mut sessions: BTreeMap<String, (&str, u32)> = BTreeMap::new();
    for held in &semaphore.held {
        let Some(session) = held.session else { continue };
        sessions.entry(session.to_string()).or_insert((&held.node, 0)).1 += held.permits;
    }
    let name = semaphore.name.as_str();
    html! {
        @for (session, (node, permits)) in sessions.iter().take(SESSIONS_MOST) {
            @let fields = [
                Field::Hidden("kind", "semaphore"), Field::Hidden("session", session), Field::Hidden("do", session),
                Field::Confirm(name),
            ];
            @let label = format!("Revoke {} of {}", count(*permits as usize, "permit"), shown(node));
            (act::form(frame, "", Ask::admin("unlock", name, &label, &fields)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_where_a_shell_would_take_it_apart() {
        assert_eq!(quoted("orders/4711"), "orders/4711");
        assert_eq!(quoted("it's; rm -rf"), r"'it'\''s; rm -rf'");
    }
}
