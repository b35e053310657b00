//! **Now**: is it firing, what needs a person, what is late or will not run, and what changed.

use maud::{Markup, html};

use super::changes::{Change, Recorded, changes};
use super::frame::{Depth, Frame, Pill, Screen, page};
use super::tables::{self, all_jobs, job_link};
use super::words::{
    Look, command, count, distance, fact, foreign, instant, instant_and_distance, instant_or, open_state, spoken,
    state, took,
};
use crate::board::{Board, Filter, FindJobs, JobRow};
use crate::job::{JobName, RunId, Trigger};
use crate::ledger::HourRow;
use crate::schedule::Schedule;
use crate::scheduler::run::Open;
use crate::time::Wall;

/// How many rows a list of this screen has; the others are a link away.
pub(super) const ROWS: usize = 12;

/// What stands where a list has nothing.
pub(crate) const NEEDS_NOTHING: &str = "Nothing: no run is in doubt, no job fails, no node reports a trouble.";
pub(crate) const NONE_LATE: &str = "Nothing: no job is late, and none is paused.";
pub(crate) const NONE_OPEN: &str = "No run is open.";
pub(crate) const NONE_FIRES: &str = "No job fires by a schedule.";

/// What the screen shows.
pub(crate) struct Now {
    pub frame: Frame,
    /// The runs that ended as `unknown`, and whether there are more; or why that is not known.
    pub unknown: Result<(Vec<RunId>, bool), String>,
    pub failing: Vec<JobRow>,
    pub late: Vec<JobRow>,
    pub paused: Vec<JobRow>,
    pub open: Vec<Open>,
    pub next: Vec<Next>,
    pub changes: Vec<Change>,
    /// Why the changes are only those that this node knows of itself.
    pub unrecorded: Option<String>,
    pub nodes: usize,
    /// What ended in the last 24 hours, or why that is not known; `None`: this person does not see all jobs.
    pub hours: Option<Result<Vec<HourRow>, String>>,
    /// A leader was lost in these hours that may have counted more.
    counts_least: bool,
}

/// A fire that comes.
pub(crate) struct Next {
    pub job: JobName,
    pub at: Wall,
    /// In the zone of its schedule.
    pub local: Option<String>,
}

impl Now {
    pub(crate) fn of(
        board: &Board,
        frame: Frame,
        unknown: Result<(Vec<RunId>, bool), String>,
        recorded: Result<Recorded, String>,
    ) -> Now {
        let now = frame.now;
        let sees = |job: &JobName| frame.looker.sees(job);
        let find = |state| FindJobs { state: Some(state), limit: ROWS, ..FindJobs::default() };
        let list = |state| board.jobs_of(&find(state), now, sees).jobs;
        let fires = |(start, job): &(Wall, &JobName)| *start >= now && sees(job) && !board.is_paused_at(job, *start);
        let next = board.next_fires().filter(fires).take(ROWS);
        let next = next.filter_map(|(start, job)| {
            let local = frame.view().beside(start, schedule_of(board, job)?);
            Some(Next { job: job.clone(), at: start, local })
        });
        Now {
            unknown,
            failing: list(Filter::Failing),
            late: list(Filter::Late),
            paused: list(Filter::Paused),
            open: board.open_runs().filter(|open| sees(&open.job)).take(ROWS).cloned().collect(),
            next: next.collect(),
            changes: changes(board, &frame, &recorded),
            counts_least: recorded.as_ref().is_ok_and(|known| {
                known.terms.iter().any(|term| term.ended_abruptly_after(now.minus(super::day::DAY)))
            }),
            unrecorded: recorded.err(),
            nodes: board.nodes().count(),
            hours: None,
            frame,
        }
    }

    /// The same, with what ended in the last 24 hours.
    pub(super) fn with_hours(self, hours: Option<Result<Vec<HourRow>, String>>) -> Now {
        Now { hours, ..self }
    }
}

/// The schedule of a job, where it has one.
pub(super) fn schedule_of<'a>(board: &'a Board, job: &JobName) -> Option<&'a Schedule> {
    match &board.definition(job)?.trigger {
        Trigger::Schedule { schedule, .. } => Some(schedule),
        Trigger::After { .. } | Trigger::Disabled => None,
    }
}

pub(super) fn markup(view: &Now) -> Markup {
    let now = view.frame.view();
    let body = html! {
        (headline(view))
        section id="needs" aria-labelledby="needs-h" {
            h2 id="needs-h" { "Needs a person" }
            (unknown(view))
            (failing(view))
            @if !view.frame.troubles.is_empty() {
                ul.plain id="troubles" {
                    @for trouble in &view.frame.troubles {
                        li { (state("trouble", Look::Late)) " " (spoken(trouble)) }
                    }
                }
            }
            @if !view.frame.defects.is_empty() {
                ul.plain id="defects" {
                    @for defect in &view.frame.defects {
                        li { (state("the store", Look::Late)) " " (spoken(defect)) }
                    }
                }
            }
            @if !view.frame.unsent.is_empty() {
                ul.plain id="unsent" {
                    @for what in &view.frame.unsent { li { (state("alerts", Look::Late)) " " (spoken(what)) } }
                }
            }
            @if needs_nothing(view) {
                p.empty { (NEEDS_NOTHING) }
            }
        }
        section id="late" aria-labelledby="late-h" {
            h2 id="late-h" { "Late, or will not run" }
            (late(view))
            @if view.late.is_empty() && view.paused.is_empty() {
                p.empty { (NONE_LATE) }
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
        @if let Some(hours) = &view.hours { (super::day::markup(hours, view.counts_least, view.frame.now)) }
        section id="changed" aria-labelledby="changed-h" {
            h2 id="changed-h" { "Changed in the last hour" }
            @if let Some(why) = &view.unrecorded { p.muted { "What is recorded is not known now: " (spoken(why)) } }
            @if view.changes.is_empty() { p.empty { "Nothing that is recorded, or that this node knows of." } }
            ul.plain {
                @for change in &view.changes {
                    li { (instant_and_distance(change.at, now)) " " (change.sentence()) }
                }
            }
        }
    };
    page(&view.frame, (Screen::Now, Depth::Top), "Now", 2, &body)
}

/// Why jobs are not fired as they should be, unless it is a trouble of a node: that stands below, under what needs a
/// person.
fn why(frame: &Frame) -> Option<&str> {
    let is_below = |why: &&str| frame.troubles.iter().any(|trouble| trouble == why);
    frame.firing.why().map(|why| if is_below(&why) { "a node reports a trouble" } else { why })
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
            h1 id="firing" { (word) @if let Some(why) = why(frame) { ": " span.why { (spoken(why)) } } }
            dl.facts {
                @if let Some(leader) = &frame.leader {
                    (fact("Leader", &html! {
                        b { (foreign(leader.node.as_deref().unwrap_or("gone"))) } @if leader.is_here { " (this node)" }
                    }))
                    (fact("Fence", &html! {
                        b { @if let Some(fence) = leader.fence { (fence) } @else { "not known" } }
                    }))
                    (fact("Leads since", &instant_and_distance(leader.since, frame.view())))
                } @else {
                    (fact("Leader", &html! { b { "none" } }))
                }
                (fact("Trust", &trust(frame)))
                (fact("Decided up to", &instant_or("nothing yet", frame.decided, frame.view())))
                @if frame.looker.may_open("leadership") {
                    (fact("Nodes", &html! { a href="leadership" { (count(view.nodes, "node")) } }))
                }
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
            (false, _, Some(sign)) => { "its last sign was " b { (distance(sign.min(frame.now), frame.view())) } },
            (false, _, None) => { "nothing is known of this leader but its term" },
        }
    }
}

pub(crate) fn needs_nothing(view: &Now) -> bool {
    view.failing.is_empty()
        && view.frame.troubles.is_empty()
        && view.frame.defects.is_empty()
        && view.frame.unsent.is_empty()
        && view.unknown.as_ref().is_ok_and(|(runs, _)| runs.is_empty())
}

fn unknown(view: &Now) -> Markup {
    html! {
        @match &view.unknown {
            Ok((runs, _)) if runs.is_empty() => {},
            Ok((runs, more)) => {
                div id="unknown" {
                p.caption { "Nothing says how these runs ended, and nothing repeats them before a person does" }
                (tables::in_doubt(&view.frame, runs))
            }
                @if *more { p { a href="trouble" { "There are more runs in doubt" } } }
            }
            Err(why) => p.muted { "Which runs are in doubt is not known: " (spoken(why)) },
        }
    }
}

fn failing(view: &Now) -> Markup {
    html! {
        @if !view.failing.is_empty() {
            div id="failing" {
                p.caption { "The last run of these jobs ended badly" }
                (tables::failing(&view.failing, view.frame.view()))
            }
            (all_jobs(Filter::Failing, view.failing.len(), view.frame.counts.failing))
        }
    }
}

fn late(view: &Now) -> Markup {
    let counts = view.frame.counts;
    html! {
        @if !view.late.is_empty() || !view.paused.is_empty() {
            (tables::late(&view.late, &view.paused, view.frame.view()))
            (all_jobs(Filter::Late, view.late.len(), counts.late))
            (all_jobs(Filter::Paused, view.paused.len(), counts.paused))
        }
    }
}

fn open(view: &Now) -> Markup {
    let now = view.frame.view();
    html! {
        @if view.open.is_empty() {
            p.empty { (NONE_OPEN) }
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
            (all_jobs(Filter::Running, view.open.len(), view.frame.counts.running))
        }
    }
}

fn next(view: &Now) -> Markup {
    html! {
        @if view.next.is_empty() {
            p.empty { (NONE_FIRES) }
        } @else {
            table.rows {
                thead { tr { th { "Job" } th { "Fires" } th { "Run it now" } } }
                tbody {
                    @for next in &view.next {
                        tr {
                            td.name { (job_link("", &next.job)) }
                            td {
                                (instant_and_distance(next.at, view.frame.view()))
                                @if let Some(local) = &next.local { small { (local) } }
                            }
                            td.do { (command(&format!("trigger {}", next.job))) }
                        }
                    }
                }
            }
        }
    }
}
