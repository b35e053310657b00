//! **Job**: when it fires next, how its runs went and how long they took, and what it is.

use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};

use super::act::{self, Ask, Field};
use super::draw::{self, Bar};
use super::frame::{Depth, Frame, Screen, page};
use super::jobs;
use super::tables::run_link;
use super::words::{
    Viewpoint, bytes, command, count, distance, fact, foreign, instant, instant_and_distance, instant_or, job_state,
    open_state, spoken, took, verdict, visible,
};
use crate::board::{Board, JobRow};
use crate::job::definition::{Definition, EXCEPTED_MOST, HttpView, MissedView, OutputView, SqlView};
use crate::job::{Job, JobName, MissedRun, Trigger, Word as _, is_link};
use crate::ledger::RunRow;
use crate::scheduler::run::{Done, Source};
use crate::time::Wall;

/// How many of the next fires are shown.
const FIRES: usize = 5;

/// How many runs are shown, and drawn.
pub(super) const RUNS: usize = 50;

/// The longest text of a definition that is shown, in characters.
const TASK_MOST: usize = 4_000;

/// What the screen shows.
pub(super) struct JobView {
    pub frame: Frame,
    pub row: JobRow,
    pub fires: Vec<Fire>,
    pub definition: Option<Arc<Job>>,
    /// The last runs, the newest first; or why they are not known.
    pub runs: Result<Vec<RunRow>, String>,
}

/// A fire that comes.
pub(super) struct Fire {
    pub at: Wall,
    /// In the zone of the schedule.
    pub local: Option<String>,
    pub starts: Wall,
    pub note: Option<String>,
}

impl JobView {
    /// `None`: there is no such job.
    pub(super) fn of(
        board: &Board,
        frame: Frame,
        name: &JobName,
        runs: Result<Vec<RunRow>, String>,
    ) -> Option<JobView> {
        let row = board.job(name, frame.now)?;
        let definition = board.definition(name).cloned();
        let fires = definition.as_deref().map_or_else(Vec::new, |job| fires(job, frame.view()));
        Some(JobView { row, fires, definition, runs, frame })
    }
}

fn fires(job: &Job, view: Viewpoint) -> Vec<Fire> {
    let Trigger::Schedule { schedule, jitter } = &job.trigger else { return Vec::new() };
    let mut fires = Vec::new();
    let mut after = view.now;
    while fires.len() < FIRES
        && let Some(next) = schedule.next_start(*jitter, after)
    {
        let explained = schedule.explain(next.at);
        fires.push(Fire {
            at: next.at,
            local: view.beside(next.at, schedule),
            starts: next.starts,
            note: explained.note,
        });
        after = next.starts;
    }
    fires
}

pub(super) fn markup(view: &JobView) -> Markup {
    let JobView { row, frame, .. } = view;
    let now = frame.view();
    let body = html! {
        section.head id="head" {
            h1 { (row.name) " " (job_state(row.state)) }
            @if let Some(description) = &row.description { p { (foreign(description)) } }
            dl.facts {
                (fact("Fires", &when(row, view.definition.is_none())))
                @if row.next_fire.is_some() { (fact("Next fire", &instant_or("none", row.next_fire, now))) }
                @if let Some(last) = &row.last {
                    (fact("Last run", &html! {
                        a.quiet href={ "../runs/" (last.run) } { (verdict(last.verdict)) }
                        " " (instant_and_distance(last.finished_at, now))
                    }))
                    @if last.bad_in_a_row > 0 { (fact("Bad in a row", &html! { b { (last.bad_in_a_row) } })) }
                    (fact("Last success", &instant_or("none that is known", last.succeeded_at, now)))
                }
                @if let Some(late) = &row.late {
                    (fact("Late", &html! { "since " (instant_and_distance(late.since, now)) ": " (late.why.why()) }))
                }
                @if let Some(owner) = &row.owner { (fact("Owner", &jobs::owner("../", owner))) }
                @if !row.labels.is_empty() { (fact("Labels", &jobs::labels("../", row))) }
                @if let Some(url) = view.definition.as_deref().and_then(|job| job.about.shown_runbook()) {
                    (fact("Runbook", &to_page(&url)))
                }
                @if let Some(paused) = &row.paused {
                    (fact("Paused", &html! {
                        (instant_and_distance(paused.at, now))
                        @if !paused.by.is_empty() { " by " (foreign(&paused.by)) }
                        @if let Some(until) = paused.until { ", until " (instant_and_distance(until, now)) }
                        @if !paused.reason.is_empty() { ": " (foreign(&paused.reason)) }
                    }))
                }
            }
            p.do {
                @if view.definition.is_some() { (command(&format!("trigger {}", row.name))) " " }
                @if row.paused.is_some() {
                    (command(&format!("resume {}", row.name)))
                } @else {
                    (command(&format!("pause {}", row.name)))
                }
                " " (command(&format!("runs --job {}", row.name)))
            }
            div.acts { (acts(view)) }
        }
        (coming(view))
        (charts(view))
        (runs(view))
        (definition(view))
    };
    page(frame, (Screen::Jobs, Depth::Below), row.name.as_str(), 2, &body)
}

/// The forms by which a person acts on the job.
fn acts(view: &JobView) -> Markup {
    let (frame, row) = (&view.frame, &view.row);
    let name = row.name.as_str();
    html! {
        @if view.definition.is_some() {
            (act::form(frame, "../", Ask::operator("trigger", name, "Run now", &[Field::Params])))
            @if row.schedule.is_some() { (super::backfill::asks(frame, "../", name)) }
        }
        @if row.paused.is_some() {
            (act::form(frame, "../", Ask::operator("resume", name, "Resume", &[])))
        } @else {
            (act::form(frame, "../", Ask::operator("pause", name, "Pause", &[Field::For])))
        }
    }
}

fn when(row: &JobRow, is_gone: bool) -> Markup {
    html! {
        @match (&row.schedule, row.timezone, &row.after) {
            (Some(schedule), Some(zone), _) => { span.cron { (foreign(schedule)) } ", " (zone) },
            (_, _, Some(after)) => { "after " a href=(after) { (after) } },
            _ if is_gone => "no more: the jobs file of this node does not have it",
            _ => "only when a person asks for it",
        }
    }
}

fn coming(view: &JobView) -> Markup {
    let now = view.frame.view();
    html! {
        @if !view.fires.is_empty() {
            section id="fires" aria-labelledby="fires-h" {
                h2 id="fires-h" { "Next fires" }
                @if view.row.paused.is_some() {
                    p.notice.warn {
                        "The job is paused: these will be skipped unless it is resumed. "
                        (command(&format!("resume {}", view.row.name)))
                    }
                }
                table.rows.short {
                    thead {
                        tr {
                            th { (now.zones.name()) }
                            @if now.has_zones_of_jobs() { th { "In its zone" } }
                            th { "In" }
                            th { "Note" }
                        }
                    }
                    tbody {
                        @for fire in &view.fires {
                            tr {
                                td {
                                    (instant(fire.at, now))
                                    @if fire.starts != fire.at {
                                        small { "starts " (instant(fire.starts, now)) " (jitter)" }
                                    }
                                }
                                @if let Some(local) = &fire.local { td { (local) } }
                                td { (distance(fire.at, now)) }
                                td { @if let Some(note) = &fire.note { (note) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How long a run took, from the start of its last attempt.
fn length(done: &Done) -> Option<Duration> {
    Some(done.finished_at.since(done.started_at?))
}

fn charts(view: &JobView) -> Markup {
    let done = |row: &RunRow| match row {
        RunRow::Done(done) => Some(done.clone()),
        RunRow::Open(_) => None,
    };
    let mut done: Vec<Done> = view.runs.iter().flatten().filter_map(done).collect();
    done.reverse();
    let bars = |of: fn(&Done) -> Option<Duration>| -> Vec<Bar> {
        let bar = |done: &Done| Bar {
            look: done.verdict.into(),
            length: of(done),
            title: format!("{}: {}, {}", done.at, done.verdict, of(done).map_or_else(String::new, took)),
        };
        done.iter().map(bar).collect()
    };
    html! {
        @if done.iter().any(|done| length(done).is_some()) {
            section id="charts" aria-labelledby="charts-h" {
                h2 id="charts-h" { "The last " (done.len()) " runs" }
                div.charts {
                    (draw::bars("How long each took", &bars(length), RUNS))
                    (draw::bars("How late each started", &bars(|done| done.lateness), RUNS))
                }
            }
        }
    }
}

fn runs(view: &JobView) -> Markup {
    html! {
        section id="runs" aria-labelledby="runs-h" {
            h2 id="runs-h" { "Runs" }
            @match &view.runs {
                Err(why) => p.notice.unk {
                    "The history is not known now: "
                    (spoken(why))
                    ". Try again, or ask the store: "
                    (command(&format!("runs --job {}", view.row.name)))
                },
                Ok(runs) if runs.is_empty() => {
                    p.empty {
                        "It never ran."
                        @if let Some(fire) = view.fires.first() {
                            " First due " (instant_and_distance(fire.at, view.frame.view())) "."
                        }
                    }
                }
                Ok(runs) => (table(runs, view.frame.view(), view.row.name.as_str())),
            }
        }
    }
}

fn table(runs: &[RunRow], now: Viewpoint, job: &str) -> Markup {
    html! {
        table.rows {
            thead {
                tr {
                    th { "Due" }
                    th { "Verdict" }
                    th { "Why" }
                    th.num { "Attempt" }
                    th { "Node" }
                    th.num { "Fence" }
                    th.num { "Late" }
                    th.num { "Took" }
                    th { "Read it" }
                }
            }
            tbody {
                @for row in runs {
                    @match row {
                        RunRow::Open(open) => tr {
                            td.name { a href={ "../runs/" (open.id) } { (instant(open.at, now)) } }
                            td { (open_state(open)) }
                            td { (asked(&open.source)) }
                            td.num data-l="attempt" { (open.attempt) }
                            td data-l="on" { @if let Some(claimant) = &open.claimant { (foreign(&claimant.node)) } }
                            td.num data-l="fence" { @if let Some(claimant) = &open.claimant { (claimant.fence) } }
                            td.num data-l="late" { @if let Some(late) = open.lateness { (took(late)) } }
                            td.num data-l="took" {}
                            td.do { (command(&format!("logs -f {}", open.id))) }
                        },
                        RunRow::Done(done) => tr {
                            td.name {
                                a href={ "../runs/" (done.id) } { (instant(done.at, now)) }
                                @if let Some(many) = done.many {
                                    small {
                                        (many.count)
                                        @if many.at_least { " or more" }
                                        " since "
                                        (instant(many.from, now))
                                    }
                                }
                            }
                            td { (verdict(done.verdict)) }
                            td { (asked(&done.source)) (spoken(&done.reason)) }
                            td.num data-l="attempt" { @if done.attempt > 0 { (done.attempt) } }
                            td data-l="on" { @if let Some(claimant) = &done.claimant { (foreign(&claimant.node)) } }
                            td.num data-l="fence" { @if let Some(claimant) = &done.claimant { (claimant.fence) } }
                            td.num data-l="late" { @if let Some(late) = done.lateness { (took(late)) } }
                            td.num data-l="took" { @if let Some(length) = length(done) { (took(length)) } }
                            td.do { (command(&format!("logs {}", done.id))) }
                        },
                    }
                }
            }
        }
        @if runs.len() >= RUNS {
            p { "These are the last " (RUNS) ". For more: " (command(&format!("runs --job {job} --limit 500"))) }
        }
    }
}

/// Who asked for a run, where it was not its schedule.
pub(super) fn asked(source: &Source) -> Markup {
    html! {
        @match source {
            Source::Schedule => {},
            Source::After(before) => { span.muted { "after " (run_link("../", &before.run)) } " " },
            Source::Trigger { by, .. } => { span.muted { "asked for by " (foreign(by)) } " " },
            Source::Backfill { by } => { span.muted { "backfill by " (foreign(by)) } " " },
        }
    }
}

fn definition(view: &JobView) -> Markup {
    html! {
        section id="definition" aria-labelledby="definition-h" {
            h2 id="definition-h" { "Definition" }
            @match &view.definition {
                None => p.empty { "The jobs file of this node does not have this job: only its history is known." },
                Some(job) => {
                    p.muted {
                        "As the jobs file of this node has it. What came from outside the file, and what is named as a "
                        "secret is, stands here as ***."
                    }
                    dl.definition {
                        @for (name, value) in said(Definition::of(job)) { div { dt { (name) } dd { (text(&value)) } } }
                    }
                },
            }
        }
    }
}

/// A link to a page of others, unless a part of its URL is left out.
pub(super) fn to_page(url: &str) -> Markup {
    html! {
        @if is_link(url) { a href=(url) rel="noreferrer noopener" { (foreign(url)) } } @else { (foreign(url)) }
    }
}

/// A text of a definition: cut, with its lines.
fn text(text: &str) -> Markup {
    let lines = text.chars().map(|c| if c == '\n' { c } else { visible(c) });
    let mut cut: String = lines.take(TASK_MOST).collect();
    if text.chars().nth(TASK_MOST).is_some() {
        cut.push('…');
    }
    html! { bdi { (cut) } }
}

/// What a job's definition says, by the keys of the jobs file.
fn said(definition: Definition) -> Vec<(String, String)> {
    let mut said: Vec<(String, String)> = Vec::new();
    let mut say = |name: &str, value: Option<String>| said.extend(value.map(|value| (name.to_owned(), value)));
    say("owner", definition.owner);
    for (name, value) in definition.labels {
        say(&format!("labels.{name}"), Some(value));
    }
    say("runbook", definition.runbook);
    if let Some(expect) = definition.expect {
        say("expect.start_within", expect.start_within);
        say("expect.end_within", expect.end_within);
    }
    let has_trigger = definition.schedule.is_some() || definition.after.is_some();
    say("schedule", definition.schedule);
    say("schedule", (!has_trigger).then(|| "none: only a person makes it run".to_owned()));
    say("timezone", definition.timezone.map(str::to_owned));
    say("except", excepted(&definition.except));
    say("jitter", definition.jitter.map(|most| format!("up to {most}")));
    say("after", definition.after.map(|after| format!("{}, on {}", after.job, after.on.word())));
    let has_task = definition.command.is_some() || definition.http.is_some() || definition.sql.is_some();
    match definition.command.as_deref() {
        Some([program, flag, script]) if program == "/bin/sh" && flag == "-c" => say("shell", Some(script.clone())),
        command => say("command", command.map(|words| words.join(" "))),
    }
    definition.http.into_iter().for_each(|http| request(http, &mut say));
    definition.sql.into_iter().for_each(|sql| statements(sql, &mut say));
    say("call", (!has_task).then(|| "a closure of the program".to_owned()));
    for (name, value) in definition.env {
        say(&format!("env.{name}"), Some(value));
    }
    say("dir", definition.dir);
    for (name, value) in definition.bounds {
        say(name, Some(value));
    }
    say("timeout", Some(definition.timeout.unwrap_or_else(|| "none".to_owned())));
    say("kill_after", Some(definition.kill_after));
    let most = definition.max_running.map(|most| format!(", up to {most} at once")).unwrap_or_default();
    say("overlap", Some(format!("{}{most}", definition.overlap)));
    say("missed", Some(missed(&definition.missed)));
    let retry = definition.retry;
    say(
        "retry",
        Some(format!("{}, pause {} to {}", count(retry.attempts as usize, "attempt"), retry.initial, retry.max)),
    );
    say("guarantee", Some(definition.guarantee.word().to_owned()));
    say("on_lost_leadership", Some(definition.on_lost_leadership.word().to_owned()));
    let history = definition.history;
    say("history", Some(format!("the last {}, for {}", history.keep, history.age)));
    say("output", definition.output.map(|kept| whole_outputs(&kept)));
    said
}

fn whole_outputs(kept: &OutputView) -> String {
    let [most, all] = [kept.max_bytes, kept.bytes].map(bytes);
    let (dir, runs, age) = (&kept.dir, kept.runs, &kept.age);
    format!("in {dir}, up to {most} of an attempt; {runs} runs, for {age}, up to {all}")
}

/// The dates on which it does not fire; `None`: there are none.
fn excepted(dates: &[String]) -> Option<String> {
    let more = match dates.len() {
        0 => return None,
        EXCEPTED_MOST => ", and perhaps more",
        _ => "",
    };
    Some(format!("{}{more}", dates.join(", ")))
}

fn request(http: HttpView, say: &mut impl FnMut(&str, Option<String>)) {
    say("http", Some(format!("{} {}", http.method, http.url)));
    for (name, value) in http.headers {
        say(&format!("header {name}"), Some(value));
    }
    say("body", http.body);
    say("expect", Some(http.expect));
}

fn statements(sql: SqlView, say: &mut impl FnMut(&str, Option<String>)) {
    let transaction = if sql.transaction { ", in one transaction" } else { "" };
    say("sql", Some(format!("{} {}{transaction}", sql.database, sql.target)));
    say("file", sql.file);
    say("statements", Some(sql.statements.join(";\n")));
}

fn missed(missed: &MissedView) -> String {
    let run = match missed.run {
        MissedRun::Skip => return "skip".to_owned(),
        MissedRun::Latest => "latest".to_owned(),
        MissedRun::All => format!("all, at most {}, one each {}", missed.limit, missed.every),
    };
    missed.within.as_ref().map_or(run.clone(), |within| format!("{run}, not older than {within}"))
}
