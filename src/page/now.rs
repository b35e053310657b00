//! **Now**: is it firing, what needs a person, what is late or will not run, and what changed.

use std::time::Duration;

use maud::{Markup, html};

use super::frame::{Depth, Frame, Pill, Screen, page};
use super::words::{
    Look, command, count, distance, fact, foreign, grouped, instant, instant_and_distance, instant_or, job_state,
    local, open_state, state, took, verdict,
};
use crate::board::{Board, Filter, FindJobs, JobRow, Order};
use crate::job::{JobName, RunId, Trigger, Verdict};
use crate::schedule::Schedule;
use crate::scheduler::run::Open;
use crate::time::Wall;

/// How many rows a list of this screen has; the others are a link away.
pub(super) const ROWS: usize = 12;

/// How far back changes are shown.
const CHANGES: Duration = Duration::from_secs(3_600);

/// What the screen shows.
pub(super) struct Now {
    pub frame: Frame,
    /// The runs that ended as `unknown`, and whether there are more; or why that is not known.
    pub unknown: Result<(Vec<RunId>, bool), String>,
    pub failing: Vec<JobRow>,
    pub late: Vec<JobRow>,
    pub paused: Vec<JobRow>,
    pub open: Vec<Open>,
    pub next: Vec<Next>,
    pub changes: Vec<Change>,
    pub nodes: usize,
}

/// A fire that comes.
pub(super) struct Next {
    pub job: JobName,
    pub at: Wall,
    /// In the zone of its schedule.
    pub local: String,
    pub zone: &'static str,
}

/// Something that happened lately.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub at: Wall,
    pub what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Led { node: String, fence: String },
    Joined { node: String },
    Paused { job: JobName, by: String },
    Broke { job: JobName, verdict: Verdict, run: RunId },
}

impl Now {
    pub(super) fn of(board: &Board, frame: Frame, unknown: Result<(Vec<RunId>, bool), String>) -> Now {
        let now = frame.now;
        let list = |state| board.jobs(&FindJobs { state: Some(state), limit: ROWS, ..FindJobs::default() }, now).jobs;
        let next = board.next_fires().filter(|(start, _)| *start >= now).take(ROWS);
        let next = next.filter_map(|(start, job)| {
            let schedule = schedule_of(board, job)?;
            Some(Next { job: job.clone(), at: start, local: local(start, schedule), zone: schedule.timezone() })
        });
        Now {
            unknown,
            failing: list(Filter::Failing),
            late: list(Filter::Late),
            paused: list(Filter::Paused),
            open: board.open_runs().take(ROWS).cloned().collect(),
            next: next.collect(),
            changes: changes(board, &frame),
            nodes: board.nodes().count(),
            frame,
        }
    }
}

/// The schedule of a job, where it has one.
pub(super) fn schedule_of<'a>(board: &'a Board, job: &JobName) -> Option<&'a Schedule> {
    match &board.definition(job)?.trigger {
        Trigger::Schedule { schedule, .. } => Some(schedule),
        Trigger::After { .. } | Trigger::Disabled => None,
    }
}

fn changes(board: &Board, frame: &Frame) -> Vec<Change> {
    let now = frame.now;
    let mut changes = Vec::new();
    if let Some(leader) = &frame.leader {
        let node = leader.node.clone().unwrap_or_default();
        let fence = leader.fence.map_or_else(String::new, |fence| fence.to_string());
        changes.push(Change { at: leader.since, what: What::Led { node, fence } });
    }
    let joined = board.nodes().map(|(_, node)| (node.started_at, What::Joined { node: node.node.clone() }));
    changes.extend(joined.map(|(at, what)| Change { at, what }));
    let list = |state| {
        board.jobs(&FindJobs { state: Some(state), order: Order::Name, limit: 500, ..FindJobs::default() }, now)
    };
    for row in list(Filter::Paused).jobs {
        if let Some(paused) = row.paused {
            changes.push(Change { at: paused.at, what: What::Paused { job: row.name, by: paused.by } });
        }
    }
    for row in list(Filter::Failing).jobs {
        if let Some(last) = row.last.filter(|last| last.bad_in_a_row == 1) {
            let what = What::Broke { job: row.name, verdict: last.verdict, run: last.run };
            changes.push(Change { at: last.finished_at, what });
        }
    }
    changes.retain(|change| now.since(change.at) < CHANGES);
    changes.sort_by_key(|change| std::cmp::Reverse(change.at));
    changes.truncate(ROWS);
    changes
}

pub(super) fn markup(view: &Now) -> Markup {
    let now = view.frame.now;
    let body = html! {
        (headline(view))
        section id="needs" aria-labelledby="needs-h" {
            h2 id="needs-h" { "Needs a person" }
            (unknown(view))
            (failing(view))
            @if !view.frame.troubles.is_empty() {
                ul.plain id="troubles" {
                    @for trouble in &view.frame.troubles {
                        li { (state("trouble", Look::Late)) " " (foreign(trouble)) }
                    }
                }
            }
            @if needs_nothing(view) {
                p.empty { "Nothing: no run is in doubt, no job fails, no node reports a trouble." }
            }
        }
        section id="late" aria-labelledby="late-h" {
            h2 id="late-h" { "Late, or will not run" }
            (late(view))
            @if view.late.is_empty() && view.paused.is_empty() {
                p.empty { "Nothing: no job is late, and none is paused." }
            }
        }
        div.pair {
            section id="open" aria-labelledby="open-h" {
                h2 id="open-h" { "Running and waiting" }
                (open(view))
            }
            section id="next" aria-labelledby="next-h" {
                h2 id="next-h" { "Next" }
                (next(view))
            }
        }
        section id="changed" aria-labelledby="changed-h" {
            h2 id="changed-h" { "Changed in the last hour" }
            @if view.changes.is_empty() { p.empty { "Nothing that this node knows of." } }
            ul.plain {
                @for change in &view.changes {
                    li {
                        (instant(change.at, now)) " " span.muted { (distance(change.at, now)) } " " (sentence(&change.what))
                    }
                }
            }
        }
    };
    page(&view.frame, (Screen::Now, Depth::Top), "Now", 2, &body)
}

fn headline(view: &Now) -> Markup {
    let frame = &view.frame;
    let word = match &frame.firing {
        Pill::Firing => "Firing",
        Pill::Degraded(_) => "Firing, degraded",
        Pill::NotFiring(_) => "NOT firing",
        Pill::Unclear(_) => "It is not known here whether jobs are fired",
    };
    html! {
        section.head id="head" {
            h1 { (word) @if let Some(why) = frame.firing.why() { ": " span.why { (foreign(why)) } } }
            dl.facts {
                @if let Some(leader) = &frame.leader {
                    (fact("Leader", &html! {
                        b { (foreign(leader.node.as_deref().unwrap_or("gone"))) } @if leader.is_here { " (this node)" }
                    }))
                    (fact("Fence", &html! {
                        b { @if let Some(fence) = leader.fence { (fence) } @else { "not known" } }
                    }))
                    (fact("Leads since", &instant_and_distance(leader.since, frame.now)))
                } @else {
                    (fact("Leader", &html! { b { "none" } }))
                }
                (fact("Trust", &trust(frame)))
                (fact("Decided up to", &instant_or("nothing yet", frame.decided, frame.now)))
                (fact("Nodes", &html! { a href="leadership" { (count(view.nodes, "node")) } }))
                (fact("Jobs", &html! { a href="jobs" { (count(frame.counts.jobs, "job")) } }))
            }
        }
    }
}

/// How much longer what is said of the leader can be relied on.
fn trust(frame: &Frame) -> Markup {
    let Some(leader) = &frame.leader else { return html! { "none: no node may start anything" } };
    html! {
        @match (leader.is_here, frame.trusted_for, leader.last_sign) {
            (true, Some(left), _) => { "may act for " b { (took(left)) } " without asking the store" },
            (true, None, _) => { b { "over" } ": it starts nothing before the store answers" },
            (false, _, Some(sign)) => { "its last sign was " b { (distance(sign.min(frame.now), frame.now)) } },
            (false, _, None) => { "nothing is known of this leader but its term" },
        }
    }
}

fn needs_nothing(view: &Now) -> bool {
    view.failing.is_empty()
        && view.frame.troubles.is_empty()
        && view.unknown.as_ref().is_ok_and(|(runs, _)| runs.is_empty())
}

fn unknown(view: &Now) -> Markup {
    html! {
        @match &view.unknown {
            Ok((runs, _)) if runs.is_empty() => {},
            Ok((runs, more)) => {
                table.rows id="unknown" {
                    caption {
                        "Runs in doubt: nothing says how they ended, and nothing repeats them before a person does"
                    }
                    thead { tr { th { "Run" } th { "Verdict" } th { "Settle it" } } }
                    tbody {
                        @for run in runs {
                            tr {
                                td.name { (run_link("", run)) }
                                td { (verdict(Verdict::Unknown)) }
                                td.do {
                                    (command(&format!("resolve {run} --as succeeded")))
                                    " "
                                    span.muted { "or failed, or retry" }
                                }
                            }
                        }
                    }
                }
                @if *more { p { a href="trouble" { "There are more runs in doubt" } } }
            }
            Err(why) => p.muted { "Which runs are in doubt is not known: " (foreign(why)) },
        }
    }
}

/// A link to a run.
pub(super) fn run_link(up: &str, run: &RunId) -> Markup {
    html! { a href={ (up) "runs/" (run) } { (run) } }
}

/// A link to a job.
pub(super) fn job_link(up: &str, job: &JobName) -> Markup {
    html! { a href={ (up) "jobs/" (job) } { (job) } }
}

fn failing(view: &Now) -> Markup {
    let now = view.frame.now;
    html! {
        @if !view.failing.is_empty() {
            table.rows id="failing" {
                caption { "Jobs whose last run ended badly" }
                thead {
                    tr {
                        th { "Job" }
                        th { "Last run" }
                        th.num { "In a row" }
                        th { "Ended" }
                        th { "Next fire" }
                        th { "Read why" }
                    }
                }
                tbody {
                    @for row in &view.failing {
                        tr {
                            td.name { (job_link("", &row.name)) }
                            @if let Some(last) = &row.last {
                                td { a.quiet href={ "runs/" (last.run) } { (verdict(last.verdict)) } }
                                td.num data-l="in a row" { (last.bad_in_a_row) }
                                td data-l="ended" { (instant_and_distance(last.finished_at, now)) }
                                td data-l="next" { (instant_or("none", row.next_fire, now)) }
                                td.do { (command(&format!("logs {}", last.run))) }
                            }
                        }
                    }
                }
            }
            @if view.frame.counts.failing > view.failing.len() {
                p { a href="jobs?state=failing" { "All " (grouped(view.frame.counts.failing)) " failing jobs" } }
            }
        }
    }
}

fn late(view: &Now) -> Markup {
    let now = view.frame.now;
    let counts = view.frame.counts;
    html! {
        @if !view.late.is_empty() || !view.paused.is_empty() {
            table.rows {
                thead { tr { th { "Job" } th { "State" } th { "Since" } th { "Why" } th { "Do" } } }
                tbody {
                    @for row in &view.late {
                        tr {
                            td.name { (job_link("", &row.name)) }
                            td { (job_state(crate::board::JobState::Late)) }
                            td data-l="since" { @if let Some(at) = row.next_start { (instant_and_distance(at, now)) } }
                            td { "it is due, and no leader has decided it" }
                            td.do { (command("status")) }
                        }
                    }
                    @for row in &view.paused {
                        tr {
                            td.name { (job_link("", &row.name)) }
                            td { (job_state(crate::board::JobState::Paused)) }
                            @if let Some(paused) = &row.paused {
                                td data-l="since" { (instant_and_distance(paused.at, now)) }
                                td {
                                    @if paused.by.is_empty() { "paused" } @else { "paused by " (foreign(&paused.by)) }
                                }
                            }
                            td.do { (command(&format!("resume {}", row.name))) }
                        }
                    }
                }
            }
            @if counts.late > view.late.len() {
                p { a href="jobs?state=late" { "All " (grouped(counts.late)) " late jobs" } }
            }
            @if counts.paused > view.paused.len() {
                p { a href="jobs?state=paused" { "All " (grouped(counts.paused)) " paused jobs" } }
            }
        }
    }
}

fn open(view: &Now) -> Markup {
    let now = view.frame.now;
    html! {
        @if view.open.is_empty() {
            p.empty { "No run is open." }
        } @else {
            table.rows {
                thead { tr { th { "Run" } th { "State" } th { "Since" } th { "Node" } th { "Follow" } } }
                tbody {
                    @for open in &view.open {
                        tr {
                            td.name { a href={ "runs/" (open.id) } { (open.job) } small { "due " (instant(open.at, now)) } }
                            td { (open_state(open)) @if open.attempt > 1 { " attempt " (open.attempt) } }
                            td data-l="since" {
                                (instant_and_distance(open.started_at.unwrap_or(open.claimed_at), now))
                            }
                            td data-l="on" { @if let Some(claimant) = &open.claimant { (foreign(&claimant.node)) } }
                            td.do { (command(&format!("logs -f {}", open.id))) }
                        }
                    }
                }
            }
            @if view.frame.counts.running > view.open.len() {
                p { a href="jobs?state=running" { "All " (count(view.frame.counts.running, "job")) " with open runs" } }
            }
        }
    }
}

fn next(view: &Now) -> Markup {
    html! {
        @if view.next.is_empty() {
            p.empty { "No job fires by a schedule." }
        } @else {
            table.rows {
                thead { tr { th { "Job" } th { "Fires" } th { "Run it now" } } }
                tbody {
                    @for next in &view.next {
                        tr {
                            td.name { (job_link("", &next.job)) }
                            td { (instant_and_distance(next.at, view.frame.now)) small { (next.local) " " (next.zone) } }
                            td.do { (command(&format!("trigger {}", next.job))) }
                        }
                    }
                }
            }
        }
    }
}

fn sentence(what: &What) -> Markup {
    html! {
        @match what {
            What::Led { node, fence } => {
                b { (foreign(node)) } " became the leader under fence " b { (fence) } ". " (command("status"))
            },
            What::Joined { node } => { "Node " b { (foreign(node)) } " started. " (command("status")) },
            What::Paused { job, by } => {
                (job_link("", job))
                " was paused"
                @if !by.is_empty() { " by " (foreign(by)) }
                ". "
                (command(&format!("resume {job}")))
            },
            What::Broke { job, verdict: how, run } => {
                (job_link("", job))
                " began to fail: "
                (verdict(*how))
                " "
                (run_link("", run))
                " "
                (command(&format!("logs {run}")))
            },
        }
    }
}
