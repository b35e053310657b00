//! **Job**: when it fires next, how its runs went and how long they took, and what it is.

use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};

use super::draw::{self, Bar};
use super::frame::{Depth, Frame, Screen, page};
use super::now::run_link;
use super::words::{
    command, distance, fact, foreign, instant, instant_and_distance, instant_or, job_state, local, open_state, took,
    verdict,
};
use crate::board::{Board, JobRow};
use crate::job::{
    Database, Guarantee, Job, JobName, MissedRun, On, OnLostLeadership, Overlap, Target, Task, Text, Trigger, Verdict,
};
use crate::ledger::RunRow;
use crate::scheduler::run::{Done, Source};
use crate::time::{Wall, written};

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
    pub local: String,
    pub zone: &'static str,
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
        let fires = definition.as_deref().map_or_else(Vec::new, |job| fires(job, frame.now));
        Some(JobView { row, fires, definition, runs, frame })
    }
}

fn fires(job: &Job, now: Wall) -> Vec<Fire> {
    let Trigger::Schedule { schedule, jitter } = &job.trigger else { return Vec::new() };
    let mut fires = Vec::new();
    let mut after = now;
    while fires.len() < FIRES
        && let Some(next) = schedule.next_start(*jitter, after)
    {
        let explained = schedule.explain(next.at);
        fires.push(Fire {
            at: next.at,
            local: local(next.at, schedule),
            zone: schedule.timezone(),
            starts: next.starts,
            note: explained.note,
        });
        after = next.starts;
    }
    fires
}

pub(super) fn markup(view: &JobView) -> Markup {
    let JobView { row, frame, .. } = view;
    let now = frame.now;
    let body = html! {
        section.head id="head" {
            h1 { (row.name) " " (job_state(row.state)) }
            @if let Some(description) = &row.description { p { (foreign(description)) } }
            dl.facts {
                (fact("Fires", &when(row)))
                @if row.next_fire.is_some() { (fact("Next fire", &instant_or("none", row.next_fire, now))) }
                @if let Some(last) = &row.last {
                    (fact("Last run", &html! {
                        a.quiet href={ "../runs/" (last.run) } { (verdict(last.verdict)) }
                        " " (instant_and_distance(last.finished_at, now))
                    }))
                    @if last.bad_in_a_row > 0 { (fact("Bad in a row", &html! { b { (last.bad_in_a_row) } })) }
                    (fact("Last success", &instant_or("none that is known", last.succeeded_at, now)))
                }
                @if let Some(paused) = &row.paused {
                    (fact("Paused", &html! {
                        (instant_and_distance(paused.at, now))
                        @if !paused.by.is_empty() { " by " (foreign(&paused.by)) }
                    }))
                }
            }
            p.do {
                (command(&format!("trigger {}", row.name))) " "
                @if row.paused.is_some() {
                    (command(&format!("resume {}", row.name)))
                } @else {
                    (command(&format!("pause {}", row.name)))
                }
                " " (command(&format!("runs --job {}", row.name)))
            }
        }
        (coming(view))
        (charts(view))
        (runs(view))
        (definition(view))
    };
    page(frame, (Screen::Jobs, Depth::Below), row.name.as_str(), 2, &body)
}

fn when(row: &JobRow) -> Markup {
    html! {
        @match (&row.schedule, row.timezone, &row.after) {
            (Some(schedule), Some(zone), _) => { span.cron { (foreign(schedule)) } ", " (zone) },
            (_, _, Some(after)) => { "after " a href=(after) { (after) } },
            _ => "only when a person asks for it",
        }
    }
}

fn coming(view: &JobView) -> Markup {
    let now = view.frame.now;
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
                    thead { tr { th { "UTC" } th { "In its zone" } th { "In" } th { "Note" } } }
                    tbody {
                        @for fire in &view.fires {
                            tr {
                                td {
                                    (instant(fire.at, now))
                                    @if fire.starts != fire.at {
                                        small { "starts " (instant(fire.starts, now)) " (jitter)" }
                                    }
                                }
                                td { (fire.local) " " span.muted { (fire.zone) } }
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
                    (foreign(why))
                    ". Try again, or ask the store: "
                    (command(&format!("runs --job {}", view.row.name)))
                },
                Ok(runs) if runs.is_empty() => {
                    p.empty {
                        "It never ran."
                        @if let Some(fire) = view.fires.first() {
                            " First due " (instant_and_distance(fire.at, view.frame.now)) "."
                        }
                    }
                }
                Ok(runs) => (table(runs, view.frame.now, view.row.name.as_str())),
            }
        }
    }
}

fn table(runs: &[RunRow], now: Wall, job: &str) -> Markup {
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
                            td { (asked(&done.source)) (foreign(&done.reason)) }
                            td.num data-l="attempt" { @if done.attempt > 0 { (done.attempt) } }
                            td data-l="on" { @if let Some(claimant) = &done.claimant { (foreign(&claimant.node)) } }
                            td.num data-l="fence" { @if let Some(claimant) = &done.claimant { (claimant.fence) } }
                            td.num data-l="late" { @if let Some(late) = done.lateness { (took(late)) } }
                            td.num data-l="took" { @if let Some(length) = length(done) { (took(length)) } }
                            td.do { (command(&act(done))) }
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

/// What a person does next about a run that has ended.
pub(super) fn act(done: &Done) -> String {
    match done.verdict {
        Verdict::Unknown => format!("resolve {} --as succeeded", done.id),
        _ => format!("logs {}", done.id),
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
                        "As the jobs file of this node has it. Values that came from outside the file are shown as ***."
                    }
                    dl.definition {
                        @for (name, value) in said(job) { div { dt { (name) } dd { (foreign(&cut(&value))) } } }
                    }
                },
            }
        }
    }
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(TASK_MOST).collect();
    if text.chars().nth(TASK_MOST).is_some() {
        cut.push('…');
    }
    cut
}

/// What a job's definition says, by the keys of the jobs file.
fn said(job: &Job) -> Vec<(String, String)> {
    let mut said: Vec<(String, String)> = Vec::new();
    let mut say = |name: &str, value: String| said.push((name.to_owned(), value));
    match &job.trigger {
        Trigger::Schedule { schedule, jitter } => {
            say("schedule", schedule.text().to_owned());
            say("timezone", schedule.timezone().to_owned());
            if !jitter.most.is_zero() {
                say("jitter", format!("up to {}", written(jitter.most)));
            }
        }
        Trigger::After { job, on } => say("after", format!("{job}, on {}", on_word(*on))),
        Trigger::Disabled => say("schedule", "none: only a person makes it run".to_owned()),
    }
    task(&job.task, &mut say);
    for (name, value) in &job.env {
        say(&format!("env.{name}"), value.to_string());
    }
    if let Some(dir) = &job.dir {
        say("dir", dir.to_string());
    }
    say("timeout", job.timeout.map_or("none".to_owned(), written));
    say("kill_after", written(job.kill_after));
    say("overlap", overlap(job.overlap));
    say("missed", missed(job));
    say(
        "retry",
        format!("{} attempts, pause {} to {}", job.retry.attempts, written(job.retry.initial), written(job.retry.max)),
    );
    let guarantee = match job.guarantee {
        Guarantee::AtMostOnce => "at_most_once",
        Guarantee::AtLeastOnce => "at_least_once",
        Guarantee::ExactlyOnce => "exactly_once",
    };
    say("guarantee", guarantee.to_owned());
    let lost = match job.on_lost_leadership {
        OnLostLeadership::Cancel => "cancel",
        OnLostLeadership::Finish => "finish",
    };
    say("on_lost_leadership", lost.to_owned());
    say("history", format!("the last {}, for {}", job.history.keep, written(job.history.age)));
    said
}

fn on_word(on: On) -> &'static str {
    match on {
        On::Success => "success",
        On::Failure => "failure",
        On::End => "end",
    }
}

fn overlap(overlap: Overlap) -> String {
    match overlap {
        Overlap::Skip => "skip".to_owned(),
        Overlap::Queue => "queue".to_owned(),
        Overlap::Replace => "replace".to_owned(),
        Overlap::Allow { max_running } => format!("allow, up to {max_running} at once"),
    }
}

fn missed(job: &Job) -> String {
    let run = match job.missed.run {
        MissedRun::Skip => return "skip".to_owned(),
        MissedRun::Latest => "latest".to_owned(),
        MissedRun::All => format!("all, at most {}, one each {}", job.missed.limit, written(job.missed.every)),
    };
    job.missed.within.map_or(run.clone(), |within| format!("{run}, not older than {}", written(within)))
}

fn task(task: &Task, say: &mut impl FnMut(&str, String)) {
    match task {
        Task::Command(words) => match &words[..] {
            [program, flag, script] if program.to_string() == "/bin/sh" && flag.to_string() == "-c" => {
                say("shell", script.to_string());
            }
            words => say("command", words.iter().map(Text::to_string).collect::<Vec<_>>().join(" ")),
        },
        Task::Http(http) => {
            say("http", format!("{} {}", http.method, without_secrets(&http.url)));
            for (name, value) in &http.headers {
                say(&format!("header {name}"), header(name, value));
            }
            if let Some(body) = &http.body {
                say("body", body.to_string());
            }
            say("expect", http.expect.to_string());
        }
        Task::Sql(sql) => {
            let kind = match sql.kind {
                Database::Postgres => "postgres",
                Database::Mysql => "mysql",
                Database::Sqlite => "sqlite",
            };
            let place = match &sql.target {
                Target::Server(server) => format!("{}:{}", server.host, server.port),
                Target::File(file) => file.to_string(),
            };
            say("sql", format!("{kind} {place}{}", if sql.transaction { ", in one transaction" } else { "" }));
        }
        Task::Call => say("call", "a closure of the program".to_owned()),
    }
}

/// A URL without its user and password.
fn without_secrets(url: &Text) -> String {
    let text = url.to_string();
    match url::Url::parse(&text) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            let is_changed = url.set_username("***").is_ok() && url.set_password(None).is_ok();
            if is_changed { url.to_string() } else { "***".to_owned() }
        }
        _ => text,
    }
}

/// The value of a header, unless its name says that it is a secret.
fn header(name: &str, value: &Text) -> String {
    const SECRET: [&str; 6] = ["authorization", "cookie", "token", "secret", "key", "password"];
    let name = name.to_ascii_lowercase();
    if SECRET.iter().any(|part| name.contains(part)) { "***".to_owned() } else { value.to_string() }
}
