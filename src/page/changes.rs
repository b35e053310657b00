//! What changed in the last hour, as far as records say it: who led, which node started or took another jobs file, what
//! people did, which job is paused, which began to fail.

use std::time::Duration;

use maud::{Markup, html};

use super::frame::Frame;
use super::tables::{job_link, run_link};
use super::words::{command, foreign, shown, verdict, verdict_word};
use crate::board::{Board, Filter, FindJobs, Gone, JobRow, Order, PAGE_MOST};
use crate::fence::Fence;
use crate::job::{JobName, RunId, Verdict};
use crate::ledger::{Act, AuditRow, TermEnd, TermRow};
use crate::time::Wall;

/// How far back changes are shown.
const SINCE: Duration = Duration::from_secs(3_600);

/// How many are shown.
const ROWS: usize = 12;

/// How many of the last terms are looked at.
pub(crate) const TERMS: usize = ROWS;

/// How many of the last acts are looked at. Most acts may be triggers, which are runs of their jobs and not shown.
pub(crate) const ACTS: usize = 100;

/// How many characters of a digest of a jobs file are shown.
const DIGEST_SHOWN: usize = 12;

/// What the store has recorded, for those who see all jobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// The last terms, the latest first.
    pub terms: Vec<TermRow>,
    /// What people did last, the last first.
    pub acts: Vec<AuditRow>,
}

/// Something that happened lately.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub at: Wall,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Led { node: String, fence: Option<Fence> },
    Ended { node: String, fence: Fence, end: Option<TermEnd> },
    Joined { node: String },
    Went { node: String },
    Took { node: String, digest: String },
    Paused { job: JobName, by: String },
    Did(Box<AuditRow>),
    Broke { job: JobName, verdict: Verdict, run: RunId },
}

/// The changes, the last first.
pub(super) fn changes(board: &Board, frame: &Frame, recorded: &Result<Recorded, String>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |at: Wall, what: What| changes.push(Change { at, what });
    let (terms, acts) = match recorded {
        Ok(Recorded { terms, acts }) => (&terms[..], &acts[..]),
        Err(_) => (&[][..], &[][..]),
    };
    for row in acts.iter().filter(|row| row.deed.act != Act::Trigger) {
        add(row.asked.at, What::Did(Box::new(row.clone())));
    }
    for term in terms {
        add(term.from, What::Led { node: term.node.clone(), fence: Some(term.fence) });
        if let Some(to) = term.to {
            add(to, What::Ended { node: term.node.clone(), fence: term.fence, end: term.end });
        }
    }
    if let Some(leader) = &frame.leader
        && !terms.iter().any(|term| Some(term.fence) == leader.fence)
    {
        add(leader.since, What::Led { node: leader.node.clone().unwrap_or_default(), fence: leader.fence });
    }
    // Nodes are for those who see all jobs.
    for (_, node) in board.nodes().filter(|_| frame.looker.sees_all_jobs()) {
        add(node.started_at, What::Joined { node: node.node.clone() });
        if let Some(since) = node.config_since {
            let digest = node.config_digest.chars().take(DIGEST_SHOWN).collect();
            add(since, What::Took { node: node.node.clone(), digest });
        }
    }
    let is_back = |gone: &Gone| {
        let mut there = board.nodes().map(|(_, node)| (&node.node, node.started_at));
        there.any(|node| node == (&gone.node, gone.started_at))
    };
    for gone in board.gone().filter(|gone| frame.looker.sees_all_jobs() && !is_back(gone)) {
        add(gone.at, What::Went { node: gone.node.clone() });
    }
    let list = |state| {
        let find = FindJobs { state: Some(state), order: Order::Name, limit: PAGE_MOST, ..FindJobs::default() };
        board.jobs_of(&find, frame.now, |job| frame.looker.sees(job)).jobs
    };
    for JobRow { name, paused, .. } in list(Filter::Paused) {
        let is_recorded = |at: Wall| acts.iter().any(|row| row.asked.at == at && row.deed.job.as_ref() == Some(&name));
        if let Some(paused) = paused.filter(|paused| !is_recorded(paused.at)) {
            add(paused.at, What::Paused { job: name, by: paused.by });
        }
    }
    for JobRow { name, last, .. } in list(Filter::Failing) {
        if let Some(last) = last.filter(|last| last.bad_in_a_row == 1) {
            add(last.finished_at, What::Broke { job: name, verdict: last.verdict, run: last.run });
        }
    }
    changes.retain(|change| frame.now.since(change.at) < SINCE);
    changes.sort_by_key(|change| std::cmp::Reverse(change.at));
    changes.truncate(ROWS);
    changes
}

impl Change {
    /// The job that it is about, and the run where it is about one.
    pub(crate) fn about(&self) -> Option<(&JobName, Option<&RunId>)> {
        match &self.what {
            What::Paused { job, .. } => Some((job, None)),
            What::Broke { job, run, .. } => Some((job, Some(run))),
            What::Did(row) => row.deed.job.as_ref().map(|job| (job, row.deed.run.as_ref())),
            What::Led { .. } | What::Ended { .. } | What::Joined { .. } | What::Went { .. } | What::Took { .. } => None,
        }
    }

    /// What happened, as a text for a terminal.
    pub(crate) fn said(&self) -> String {
        match &self.what {
            What::Led { node, fence } => {
                let fence = fence.map_or_else(String::new, |fence| format!(" under fence {fence}"));
                format!("{} became the leader{fence}", shown(node))
            }
            What::Ended { node, fence, end } => format!("{}, fence {fence}, {}", shown(node), ended(*end)),
            What::Joined { node } => format!("Node {} started", shown(node)),
            What::Went { node } => format!("Node {} is gone: it was stopped, or lost", shown(node)),
            What::Took { node, digest } => format!("Node {} took another jobs file, {}", shown(node), shown(digest)),
            What::Paused { job, by } if by.is_empty() => format!("{job} was paused"),
            What::Paused { job, by } => format!("{job} was paused by {}", shown(by)),
            What::Did(row) => {
                let AuditRow { asked, deed } = &**row;
                let on = match (&deed.run, &deed.job) {
                    (Some(run), _) => run.to_string(),
                    (None, Some(job)) => job.to_string(),
                    (None, None) => shown(&deed.on),
                };
                let detail = if deed.detail.is_empty() { String::new() } else { format!(" ({})", shown(&deed.detail)) };
                let reason =
                    if asked.reason.is_empty() { String::new() } else { format!(": {}", shown(&asked.reason)) };
                format!("{} {} {on}{detail}{reason}", shown(&asked.by), verb(deed.act))
            }
            What::Broke { job, verdict, run } => format!("{job} began to fail: {} {run}", verdict_word(*verdict)),
        }
    }

    /// What happened, and the command that is about it.
    pub(super) fn sentence(&self) -> Markup {
        html! {
            @match &self.what {
                What::Led { node, fence } => {
                    b { (foreign(node)) }
                    " became the leader"
                    @if let Some(fence) = fence { " under fence " b { (fence) } }
                    ". "
                    (command("status"))
                },
                What::Ended { node, fence, end } => {
                    b { (foreign(node)) } ", fence " b { (fence) } ", " (ended(*end)) ". " (command("status"))
                },
                What::Joined { node } => { "Node " b { (foreign(node)) } " started. " (command("status")) },
                What::Went { node } => {
                    "Node " b { (foreign(node)) } " is gone: it was stopped, or lost. " (command("status"))
                },
                What::Took { node, digest } => {
                    "Node " b { (foreign(node)) } " took another jobs file, " span.mono { (digest) } ". "
                    (command("status"))
                },
                What::Paused { job, by } => {
                    (job_link("", job))
                    " was paused"
                    @if !by.is_empty() { " by " (foreign(by)) }
                    ". "
                    (command(&format!("resume {job}")))
                },
                What::Did(row) => (did(row)),
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
}

/// What a person did, to what, and why.
fn did(row: &AuditRow) -> Markup {
    let AuditRow { asked, deed } = row;
    html! {
        b { (foreign(&asked.by)) }
        " " (verb(deed.act)) " "
        @match (&deed.run, &deed.job) {
            (Some(run), _) => (run_link("", run)),
            (None, Some(job)) => (job_link("", job)),
            (None, None) => (foreign(&deed.on)),
        }
        @if !deed.detail.is_empty() { " (" (foreign(&deed.detail)) ")" }
        @if !asked.reason.is_empty() { ": " (foreign(&asked.reason)) }
        ". "
        (command("audit"))
    }
}

fn verb(act: Act) -> &'static str {
    match act {
        Act::Trigger => "triggered",
        Act::Pause | Act::PauseAll => "paused",
        Act::Resume | Act::ResumeAll => "resumed",
        Act::Cancel => "cancelled",
        Act::Resolve => "settled",
        Act::Backfill => "asked for a backfill of",
        Act::RepairFences => "repaired the fences of",
        Act::StopBackfill => "stopped the backfill of",
        Act::StepDown => "asked for another leader in place of",
        Act::Drain => "drained",
        Act::Undrain => "let lead again",
        Act::Unlock => "took away the lock",
        Act::ResolveMigration => "settled the migration",
        Act::ResolveOnce => "settled the work under the key",
        Act::ForgetOnce => "forgot the work under the key",
        Act::Rewind => "brought back",
    }
}

/// How a leader ceased to lead.
fn ended(end: Option<TermEnd>) -> &'static str {
    match end {
        None => "leads no longer",
        Some(TermEnd::Resigned) => "was stopped and gave the leadership back",
        Some(TermEnd::SteppedDown) => "stepped down",
        Some(TermEnd::Lost) => "lost the leadership",
        Some(TermEnd::Lapsed) => "was lost: its lease ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Asked, Deed, Pause};
    use crate::page::tests::{NOW, at, board, frame};

    #[test]
    fn each_term_of_the_hour_is_there_with_its_end() {
        let term = |fence: u64, node: &str, from: &str, to: Option<&str>| TermRow {
            fence: Fence::new(fence).unwrap(),
            node: node.to_owned(),
            from: at(from),
            first_claim: None,
            to: to.map(at),
            end: to.map(|_| TermEnd::Lapsed),
            last_sign: None,
        };
        let mut board = board("  j: {schedule: '@daily', command: [a]}\n");
        let (lease, record) = board.nodes().map(|(lease, record)| (lease, record.clone())).next().unwrap();
        let since = Some(at("2026-11-27T06:50:00Z"));
        board.node(lease, Some(crate::ledger::NodeRecord { config_since: since, ..record }), at(NOW));
        let terms = vec![
            term(30, "b", "2026-11-27T06:30:00Z", None),
            term(20, "a", "2026-11-27T06:10:00Z", Some("2026-11-27T06:29:50Z")),
            term(10, "b", "2026-11-27T01:00:00Z", Some("2026-11-27T05:59:00Z")),
        ];
        let frame = frame(&board, NOW);
        let found = changes(&board, &frame, &Ok(Recorded { terms, acts: Vec::new() }));
        let texts: Vec<String> = found.iter().map(|change| change.sentence().into_string()).collect();
        let expected = [
            "took another jobs file, <span class=\"mono\">d<",
            "became the leader under fence <b>30</b>",
            "<bdi>a</bdi></b>, fence <b>20</b>, was lost: its lease ended",
            "became the leader under fence <b>20</b>",
        ];
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, words) in texts.iter().zip(expected) {
            assert!(text.contains(words), "`{words}`: {text}");
        }
        // Where the store says nothing, the present term is known all the same.
        assert_eq!(changes(&board, &frame, &Err(String::new())).len(), 2);
        // A node that goes leaves a trace with those who saw it go.
        board.node(lease, None, at("2026-11-27T06:55:00Z"));
        let frame = self::frame(&board, NOW);
        let found = changes(&board, &frame, &Err(String::new()));
        assert_eq!(found[0].said(), "Node a is gone: it was stopped, or lost");
    }

    #[test]
    fn what_people_did_is_there_once_with_who_did_it_and_why() {
        let mut board = board("  nightly: {schedule: '@daily', command: [a]}\n");
        let job = JobName::new("nightly").unwrap();
        let asked =
            |at_text: &str, by: &str, reason: &str| Asked { reason: reason.to_owned(), ..Asked::new(by, at(at_text)) };
        let run: RunId = "nightly@2026-11-27T06:00:00Z".parse().unwrap();
        let paused = asked("2026-11-27T06:50:00Z", "ann", "the <shop> is closed");
        board.paused(&job, Some(Pause { asked: paused.clone(), until: None }.into()));
        let resolved = asked("2026-11-27T06:40:00Z", "bob", "");
        let acts = vec![
            AuditRow { asked: paused, deed: Deed::of_job(Act::Pause, &job) },
            AuditRow { asked: resolved, deed: Deed::of_run(Act::Resolve, &run).with("as succeeded") },
            AuditRow { asked: asked("2026-11-27T06:39:00Z", "eve", ""), deed: Deed::of_job(Act::Trigger, &job) },
            AuditRow { asked: asked("2026-11-27T05:59:00Z", "eve", ""), deed: Deed::of_job(Act::Resume, &job) },
        ];
        let frame = frame(&board, NOW);
        let found = changes(&board, &frame, &Ok(Recorded { terms: Vec::new(), acts }));
        let texts: Vec<String> = found.iter().map(|change| change.sentence().into_string()).collect();
        let expected = [
            "<b><bdi>ann</bdi></b> paused <a href=\"jobs/nightly\">nightly</a>: <bdi>the &lt;shop&gt; is closed</bdi>.",
            "<b><bdi>bob</bdi></b> settled <a href=\"runs/nightly@2026-11-27T06:00:00Z\">",
            "became the leader",
        ];
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, words) in texts.iter().zip(expected) {
            assert!(text.contains(words), "`{words}`: {text}");
        }
    }
}
