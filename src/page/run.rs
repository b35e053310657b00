//! **Run**: what became of one occurrence, when and under which leader, and what it wrote.

use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};

use super::act::{self, Ask, Field};
use super::ansi;
use super::draw::{self, Span};
use super::frame::{Depth, Frame, Screen, page};
use super::job::asked;
use super::words::{
    Look, Viewpoint, bytes, command, exact, foreign, instant, nothing_kept, open_state, spoken, took, verdict,
};
use crate::board::{Board, Wait};
use crate::job::{Job, RunId, Trigger, Verdict};
use crate::ledger::RunRow;
use crate::scheduler::run::{Claimant, Done, Open, OpenState, Source};
use crate::time::Wall;

/// How much of what a run wrote is shown at once, in bytes; what came before is a link away.
pub(super) const SHOWN_AT_ONCE: usize = 64 * 1024;

/// What the screen shows.
pub(super) struct RunView {
    pub frame: Frame,
    pub id: RunId,
    pub row: RunRow,
    /// What it waits for; `None`: it does not.
    pub waits_for: Option<Wait>,
    pub output: Output,
    /// The file with all of it, where there may be one.
    pub file: Option<WholeFile>,
    /// Each instant of the run in the zone of its job, where that has one.
    pub zone: Option<Zone>,
    /// The job that it is of, where the jobs file of this node has it.
    pub job: Option<Arc<Job>>,
}

/// The zone of a job's schedule, for instants.
pub(super) struct Zone(Arc<Job>);

impl Zone {
    fn local(&self, at: Wall, view: Viewpoint) -> Option<String> {
        match &self.0.trigger {
            Trigger::Schedule { schedule, .. } => view.beside(at, schedule),
            Trigger::After { .. } | Trigger::Disabled => None,
        }
    }
}

/// What a run wrote, as far as this node has it.
pub(super) enum Output {
    /// Who looks may not read it.
    Hidden,
    /// It runs here: what is kept of it now.
    Live(Written),
    /// It runs, or waits, and not here.
    Elsewhere,
    /// It has ended, and this is the end of what it wrote.
    Kept(Written),
}

/// The file in which all is that the last attempt of a run wrote.
pub(super) enum WholeFile {
    /// On this node, of so many bytes, with the part that was asked for.
    Here { size: u64, part: Option<FilePart> },
    /// On the node of this name, where it is anywhere.
    On(String),
    /// Why it cannot be read.
    Unreadable(String),
}

/// A part of the file, and its bytes.
pub(super) struct FilePart {
    pub from: u64,
    pub end: u64,
    pub text: String,
}

/// A part of what a run wrote.
pub(super) struct Written {
    pub text: String,
    /// How many bytes came before the text and are kept no longer; `None`: that is not known.
    pub forgotten: Option<u64>,
    /// From which byte of all that the run wrote on it is asked for.
    pub from: Option<u64>,
}

impl Written {
    /// The part that is shown: from `from` on where that is asked for, otherwise the last of it, from the beginning of a
    /// line. With the bytes that are kept and come before it.
    fn part(&self) -> (&str, usize) {
        let begin = match self.from {
            Some(from) => usize::try_from(from.saturating_sub(self.forgotten.unwrap_or(0))).unwrap_or(usize::MAX),
            None => self.text.len().saturating_sub(SHOWN_AT_ONCE),
        };
        if begin == 0 || begin >= self.text.len() {
            return (&self.text, 0);
        }
        let begin = self.text.ceil_char_boundary(begin);
        // From the beginning of a line, where one begins soon.
        let line = self.text[begin..].find('\n').map(|end| begin + end + 1);
        let begin = line.filter(|line| *line < self.text.len()).unwrap_or(begin);
        (&self.text[begin..], begin)
    }

    fn end(&self) -> u64 {
        self.forgotten.unwrap_or(0) + self.text.len() as u64
    }
}

impl RunView {
    pub(super) fn of(board: &Board, frame: Frame, id: RunId, row: RunRow, output: Output) -> RunView {
        let waits_for = match &row {
            RunRow::Open(open) => board.waits_for(open, frame.now),
            RunRow::Done(_) => None,
        };
        let zone = board.definition(&id.job()).filter(|_| frame.view().has_zones_of_jobs()).cloned().map(Zone);
        let job = board.definition(&id.job()).cloned();
        RunView { zone, frame, id, row, waits_for, output, file: None, job }
    }
}

/// One step of a run's way.
pub(crate) struct Step {
    pub what: &'static str,
    pub at: Wall,
    pub more: String,
    /// How it ended, of the last step of a run that has.
    pub verdict: Option<Verdict>,
}

pub(super) fn markup(view: &RunView) -> Markup {
    let live = match &view.row {
        RunRow::Open(_) => 2,
        RunRow::Done(_) => 0,
    };
    let body = html! {
        section.head id="head" {
            h1 { "Run " span.id { (view.id) } }
            p.verdict { (how(view)) }
            @if let Some(job) = &view.job { (answers_for(job)) }
            p.do { @for act in acts(view) { (command(&act)) " " } }
            div.acts { (forms(view)) }
        }
        (way(view))
        (output(view))
    };
    page(&view.frame, (Screen::Jobs, Depth::Below), view.id.as_str(), live, &body)
}

/// Who answers for the job, and what they do when it fails.
fn answers_for(job: &Job) -> Markup {
    html! {
        @if let Some(owner) = &job.about.owner {
            p.muted { "Owner: " (super::jobs::owner("../", &owner.to_string())) }
        }
        @if let Some(url) = job.about.shown_runbook() { p.muted { "Runbook: " (super::job::to_page(&url)) } }
    }
}

/// How it ended, or stands, and why.
fn how(view: &RunView) -> Markup {
    let job = view.id.job();
    html! {
        @match &view.row {
            RunRow::Open(open) => {
                (open_state(open)) " "
                @if let Some(wait) = view.waits_for.filter(|wait| *wait != Wait::Instant) { "It waits " (wait.text()) ". " }
                @match open.state {
                    OpenState::Waiting { .. } if view.waits_for != Some(Wait::Instant) => {},
                    OpenState::Waiting { not_before } => {
                        "It starts when what it waits for has ended, not before "
                        (instant(not_before, view.frame.view()))
                        "."
                    },
                    OpenState::Retrying { not_before } => {
                        "Attempt "
                        (open.attempt)
                        " ended badly; the next begins not before "
                        (instant(not_before, view.frame.view()))
                        "."
                    },
                    OpenState::Claimed => { "Attempt " (open.attempt.max(1)) "." },
                }
                @if let Some(doubt) = &open.doubt { " How the attempt before ended is in doubt: " (spoken(doubt)) }
            }
            RunRow::Done(done) => {
                (verdict(done.verdict)) " "
                @if done.reason.is_empty() {} @else { b { (spoken(&done.reason)) } ". " }
                @if let Some(code) = done.exit_code && code != 0 && !done.reason.contains("exit code") {
                    "Exit code " (code) ". "
                }
                @if let Some(many) = done.many {
                    "This is one verdict over "
                    (many.count)
                    @if many.at_least { " or more" }
                    " occurrences, the first of them "
                    (instant(many.from, view.frame.view()))
                    ". "
                }
                @if done.verdict == Verdict::Unknown { "Find out how it ended, then settle it: nothing repeats it. " }
            }
        }
        " A run of "
        a href={ "../jobs/" (job) } { (job) }
        @match source(&view.row) {
            Source::Schedule => ".",
            source => { ", " (asked(source)) },
        }
    }
}

fn source(row: &RunRow) -> &Source {
    match row {
        RunRow::Open(open) => &open.source,
        RunRow::Done(done) => &done.source,
    }
}

fn acts(view: &RunView) -> Vec<String> {
    let id = &view.id;
    match &view.row {
        RunRow::Open(_) => vec![format!("logs -f {id}"), format!("cancel {id}")],
        RunRow::Done(done) if done.verdict == Verdict::Unknown => {
            ["succeeded", "failed", "retry"].map(|how| format!("resolve {id} --as {how}")).into()
        }
        RunRow::Done(_) => vec![format!("logs {id}"), format!("trigger {}", id.job())],
    }
}

/// The forms by which a person acts on the run.
fn forms(view: &RunView) -> Markup {
    let (frame, id) = (&view.frame, view.id.as_str());
    let job = view.id.job();
    html! {
        @match &view.row {
            RunRow::Open(_) => {
                @let fields = [Field::Confirm(job.as_str())];
                (act::form(frame, "../", Ask::operator("cancel", id, "Cancel", &fields)))
            }
            RunRow::Done(done) => {
                @if done.verdict == Verdict::Unknown {
                    (act::form(frame, "../", Ask::operator("resolve", id, "Settle it", &[HOW])))
                }
                (act::form(frame, "../", Ask::operator("trigger", job.as_str(), "Run the job again", &[])))
            }
        }
    }
}

/// How a run in doubt may be settled.
const HOW: Field<'static> = Field::One {
    name: "as",
    label: "It",
    of: &[("succeeded", "succeeded"), ("failed", "failed"), ("retry", "has to run again")],
};

fn by(claimant: Option<&Claimant>) -> String {
    claimant.map_or_else(String::new, |claimant| format!("by {}, fence {}", claimant.node, claimant.fence))
}

pub(crate) fn steps(row: &RunRow) -> Vec<Step> {
    let step = |what, at, more| Step { what, at, more, verdict: None };
    let nothing = String::new;
    match row {
        RunRow::Open(open) => {
            let Open { at, starts, claimed_at, started_at, attempt, .. } = open;
            let mut steps = vec![step("due", *at, nothing())];
            if starts != at {
                steps.push(step("to start", *starts, "moved by the job's jitter".to_owned()));
            }
            let what = if open.claimant.is_some() { "claimed" } else { "entered" };
            steps.push(step(what, *claimed_at, by(open.claimant.as_ref())));
            if let Some(started) = started_at {
                steps.push(step("started", *started, format!("attempt {attempt}{}", late(open.lateness))));
            }
            steps
        }
        RunRow::Done(done) => {
            let Done { at, claimed_at, started_at, finished_at, attempt, .. } = done;
            let mut steps = vec![step("due", *at, nothing())];
            let what = if done.verdict == Verdict::Skipped && started_at.is_none() { "decided" } else { "claimed" };
            steps.push(step(what, *claimed_at, by(done.claimant.as_ref())));
            if let Some(started) = started_at {
                steps.push(step("started", *started, format!("attempt {attempt}{}", late(done.lateness))));
            }
            steps.push(Step { verdict: Some(done.verdict), ..step("ended", *finished_at, nothing()) });
            steps
        }
    }
}

fn late(lateness: Option<Duration>) -> String {
    lateness.map_or_else(String::new, |late| format!(", {} late in the first attempt", took(late)))
}

/// The way of a run: from when it was due to its end.
fn way(view: &RunView) -> Markup {
    let steps = steps(&view.row);
    let (now, seen) = (view.frame.now, view.frame.view());
    let before = |index: usize| (index > 0).then(|| steps[index].at.since(steps[index - 1].at));
    html! {
        section id="way" aria-labelledby="way-h" {
            h2 id="way-h" { "Timeline" }
            (draw::spans("From due to ended", &spans(&steps, &view.row, now)))
            table.rows.short {
                thead {
                    tr {
                        th { "Step" }
                        th { (view.frame.looker.zones.name()) }
                        @if view.zone.is_some() { th { "In its zone" } }
                        th.num { "After the step before" }
                        th { "" }
                    }
                }
                tbody {
                    @for (index, Step { what, at, more, verdict: ended }) in steps.iter().enumerate() {
                        tr {
                            td.name { (what) }
                            td { (exact(*at, seen)) }
                            @if let Some(zone) = &view.zone { td { (zone.local(*at, seen).unwrap_or_default()) } }
                            td.num data-l="after" { @if let Some(after) = before(index) { "+" (took(after)) } }
                            td { (spoken(more)) @if let Some(ended) = ended { (verdict(*ended)) } }
                        }
                    }
                    @if let RunRow::Open(open) = &view.row && let Some(started) = open.started_at {
                        tr {
                            td.name { "now" }
                            td { (exact(now, seen)) }
                            @if view.zone.is_some() { td {} }
                            td.num data-l="after" { "+" (took(now.since(started))) }
                            td { "still running" }
                        }
                    }
                }
            }
        }
    }
}

fn spans(steps: &[Step], row: &RunRow, now: Wall) -> Vec<Span> {
    let look = |index: usize| match (steps[index].what, row) {
        ("started", RunRow::Done(done)) => Look::from(done.verdict),
        ("started", RunRow::Open(_)) => Look::Running,
        _ => Look::Waiting,
    };
    let end = |index: usize| match steps.get(index + 1) {
        Some(next) => Some(next.at),
        None => matches!(row, RunRow::Open(_)).then_some(now),
    };
    let span = |index: usize| {
        let (from, to) = (steps[index].at, end(index)?);
        Some(Span {
            look: look(index),
            length: to.since(from),
            title: format!("{}: {}", steps[index].what, took(to.since(from))),
        })
    };
    (0..steps.len()).filter_map(span).collect()
}

fn output(view: &RunView) -> Markup {
    let source = format!("../api/v1/runs/{}/output", view.id);
    html! {
        section id="written" aria-labelledby="written-h" {
            h2 id="written-h" { "Output" }
            @match &view.output {
                Output::Hidden => p.empty {
                    "Your role shows no output, since output may hold secrets: ask for the role " b { "reader" } "."
                },
                Output::Elsewhere => {
                    p.muted { "It does not run on this node. " a href=(source) download="" { "Download the output" } }
                    pre.out id="output" tabindex="0" data-follow=(source) data-from="0" data-keep="" {}
                    noscript {
                        p {
                            "What it writes comes live with scripts, or by " (command(&format!("logs -f {}", view.id)))
                        }
                    }
                }
                Output::Live(written) => (shown(view, written, &source, true)),
                Output::Kept(written) if written.text.is_empty() => p.empty {
                    @if let RunRow::Done(done) = &view.row { (nothing_kept(done)) } @else { "It wrote nothing." }
                },
                Output::Kept(written) => (shown(view, written, &source, false)),
            }
            @if let Some(file) = &view.file { (whole(view, file, &source)) }
        }
    }
}

/// The file with all of it, and the part of that which was asked for.
fn whole(view: &RunView, file: &WholeFile, source: &str) -> Markup {
    let download = html! {
        a href={ (source) "?whole=1" } download={ (view.id) ".txt" } { "Download all of it" }
    };
    let at = |from: u64, what: &str| html! { a href={ (view.id) "?whole=" (from) "#whole" } { (what) } };
    html! {
        @match file {
            WholeFile::Here { size: 0, .. } => {},
            WholeFile::Here { size, part } => {
                p.muted id="whole" {
                    "All of it, " (bytes(*size)) ", is in a file of this node. "
                    @match part {
                        None => {
                            (at(0, "Show it from the beginning")) " · " (at(last_part(*size), "the end of it")) " · "
                        }
                        Some(FilePart { from, end, .. }) => {
                            "From byte " (from) " to " (end) ": "
                            @if *from > 0 { (at(from.saturating_sub(SHOWN_AT_ONCE as u64), "Load earlier")) " · " }
                            @if end < size { (at(*end, "Load later")) " · " }
                        }
                    }
                    (download)
                }
                @if let Some(part) = part { pre.out tabindex="0" { (ansi::markup(&part.text)) } }
            }
            WholeFile::On(node) => p.muted id="whole" {
                "All of it may be in a file of the node " (foreign(node)) ". " (download)
            },
            WholeFile::Unreadable(why) => p.muted id="whole" {
                "All of it may be in a file of this node, which cannot be read now: " (spoken(why)) "."
            },
        }
    }
}

/// The byte with which the last part of a file begins.
fn last_part(size: u64) -> u64 {
    size.saturating_sub(SHOWN_AT_ONCE as u64)
}

fn shown(view: &RunView, written: &Written, source: &str, is_live: bool) -> Markup {
    let (part, before) = written.part();
    let forgotten = written.forgotten.unwrap_or(0);
    let earlier = forgotten + before.saturating_sub(SHOWN_AT_ONCE) as u64;
    html! {
        p.muted {
            @if before > 0 {
                a href={ (view.id) "?from=" (earlier) } { "Load earlier" } " (" (bytes(before as u64)) " before this). "
            }
            @if before == 0 && let Some(WholeFile::Here { size, part: None }) = &view.file && *size > part.len() as u64 {
                a href={ (view.id) "?whole=" (last_part(size - part.len() as u64)) "#whole" } { "Load earlier" } ". "
            } @else if before == 0 && forgotten > 0 { (bytes(forgotten)) " before this are kept no longer. " }
            @if !is_live && written.forgotten.is_none() { (bytes(part.len() as u64)) " are kept. " }
            a href=(source) download={ (view.id) ".txt" } { "Download as plain text" }
        }
        @if is_live {
            pre.out id="output" tabindex="0" data-follow=(source) data-from=(written.end()) data-keep="" {
                (ansi::markup(part))
            }
        } @else {
            pre.out id="output" tabindex="0" { (ansi::markup(part)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::{NOW, at, board, frame};

    #[test]
    fn how_long_a_run_has_been_running_is_shown_to_its_seconds() {
        let board = board("  nightly: {schedule: '30 2 * * *', shell: 'true'}\n");
        let id: RunId = "nightly@2026-11-27T02:30:00Z".parse().unwrap();
        let open = Open { started_at: Some(at("2026-11-27T06:59:52.500Z")), ..Open::claimed(id.clone()) };
        let view = RunView::of(&board, frame(&board, NOW), id, RunRow::Open(open), Output::Elsewhere);
        let shown = way(&view).0;
        assert!(shown.contains("+7.5 s</td><td>still running"), "{shown}");
    }

    #[test]
    fn long_output_is_cut_at_a_line_and_earlier_parts_are_asked_for_by_their_byte() {
        let text: String = (0..30_000).map(|n| format!("{n}\n")).collect();
        let mut written = Written { forgotten: Some(1_000), text, from: None };
        let (part, before) = written.part();
        assert!(
            part.len() <= SHOWN_AT_ONCE
                && part.len() > SHOWN_AT_ONCE - 10
                && part.starts_with(|c: char| c.is_ascii_digit())
        );
        assert_eq!(before + part.len(), written.text.len());
        written.from = Some(0);
        assert_eq!(written.part().1, 0);
        written.from = Some(1_003);
        assert!(written.part().0.starts_with("2\n"), "{}", &written.part().0[..9]);
    }
}
