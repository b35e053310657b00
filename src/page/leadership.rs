//! **Leadership**: who leads, how far that can be trusted, who comes next, and which nodes there are.

use maud::{Markup, html};

use super::act::{self, Ask, Field};
use super::draw::{self, Span};
use super::frame::{Depth, Frame, Leader, Screen, page};
use super::words::{
    Look, Viewpoint, command, distance, fact, foreign, instant, instant_and_distance, instant_or, shown, spoken, state,
    took,
};
use crate::board::Board;
use crate::config::auth::Role;
use crate::ledger::{ALL_DRAINED, NodeRecord, TermEnd, TermRow};
use crate::lock::ElectionState;
use crate::time::Wall;

/// How many nodes are listed.
const NODES_MOST: usize = 200;

/// What the screen shows.
pub(crate) struct Leadership {
    pub frame: Frame,
    pub nodes: Vec<Node>,
    pub queue: Result<Queue, String>,
    /// The last terms, the latest first.
    pub terms: Result<Vec<TermRow>, String>,
}

pub(crate) struct Node {
    pub record: NodeRecord,
    pub leads: bool,
    pub is_here: bool,
}

/// The nodes that wait to lead, the next first, and what keeps all of them from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    pub waiting: Vec<String>,
    pub obstacles: Vec<String>,
}

impl Queue {
    pub(crate) fn of(standing: ElectionState) -> Queue {
        let mut obstacles: Vec<String> = standing.obstacles.iter().map(ToString::to_string).collect();
        obstacles.extend(standing.base.as_ref().err().map(ToString::to_string));
        obstacles.extend(standing.age.as_ref().err().map(ToString::to_string));
        Queue { waiting: standing.waiting.into_iter().filter_map(|waiter| waiter.node).collect(), obstacles }
    }
}

impl Leadership {
    pub(crate) fn of(
        board: &Board,
        frame: Frame,
        queue: Result<Queue, String>,
        terms: Result<Vec<TermRow>, String>,
    ) -> Leadership {
        let leads = board.leader().map(|leader| leader.lease);
        let node = |(lease, record): (u64, &NodeRecord)| Node {
            record: record.clone(),
            leads: leads == Some(lease),
            is_here: board.this_node().lease == Some(lease),
        };
        let mut nodes: Vec<Node> = board.nodes().take(NODES_MOST).map(node).collect();
        nodes.sort_by(|one, other| one.record.node.cmp(&other.record.node));
        Leadership { frame, nodes, queue, terms }
    }
}

pub(super) fn markup(view: &Leadership) -> Markup {
    let body = html! {
        (present(view))
        (queue(view))
        (nodes(view))
        (terms(view))
    };
    page(&view.frame, (Screen::Leadership, Depth::Top), "Leadership", 2, &body)
}

fn present(view: &Leadership) -> Markup {
    let frame = &view.frame;
    html! {
        section.head id="head" {
            @match &frame.leader {
                Some(leader) => {
                    h1 {
                        (foreign(leader.node.as_deref().unwrap_or("A node that is gone"))) " leads"
                        @if let Some(fence) = leader.fence { " under fence " (fence) }
                    }
                    dl.facts {
                        (fact("Since", &instant_and_distance(leader.since, frame.view())))
                        @if leader.is_here {
                            (fact("Trust", &html! {
                                @if let Some(left) = frame.trusted_for {
                                    "may act for " b { (took(left)) } " without asking the store"
                                } @else { b { "over" } ": it starts nothing before the store answers" }
                            }))
                        } @else {
                            (fact("Last sign", &instant_or("none", leader.last_sign, frame.view())))
                        }
                        (fact("Decided up to", &instant_or("nothing yet", frame.decided, frame.view())))
                    }
                    p.do { (command("step-down")) }
                    div.acts { (steps_down(frame, leader)) }
                }
                None => {
                    h1 { "No node leads" }
                    @if frame.all_drained { p.notice.bad { (ALL_DRAINED) "." } }
                    p {
                        "Nothing is fired until one does. When a leader was lost, the next one leads once its lease has "
                        "expired. Below is which nodes wait, and what keeps them."
                    }
                    p.do { (command("status")) }
                }
            }
            div.acts { (pauses(frame)) (super::rewind::asks(frame)) }
        }
    }
}

/// The form that lets another node lead.
fn steps_down(frame: &Frame, leader: &Leader) -> Markup {
    let (Some(node), Some(fence)) = (&leader.node, leader.fence) else { return html! {} };
    let fence = fence.to_string();
    let fields = [Field::Hidden("fence", &fence), Field::Confirm(node)];
    act::form(frame, "", Ask::admin("step_down", node, "Let another node lead", &fields))
}

/// The form that pauses all jobs, or lets them go on.
fn pauses(frame: &Frame) -> Markup {
    if frame.all_paused {
        return act::form(frame, "", Ask::admin("resume_all", "all jobs", "Resume all jobs", &[]));
    }
    let fields = [Field::For, Field::Confirm(&frame.namespace)];
    act::form(frame, "", Ask::admin("pause_all", "all jobs", "Pause all jobs", &fields))
}

fn queue(view: &Leadership) -> Markup {
    html! {
        section id="queue" aria-labelledby="queue-h" {
            h2 id="queue-h" { "Next to lead" }
            @match &view.queue {
                Err(why) => p.notice.unk { "The queue is not known now: " (spoken(why)) "." },
                Ok(queue) => {
                    @for obstacle in &queue.obstacles { p.notice.warn { (spoken(obstacle)) } }
                    @if queue.waiting.is_empty() {
                        p.empty { "No other node waits: if this one is lost, nothing is fired until one is started." }
                    } @else {
                        ol.plain {
                            @for (index, node) in queue.waiting.iter().enumerate() {
                                li { (index + 1) ". " b { (foreign(node)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn nodes(view: &Leadership) -> Markup {
    let now = view.frame.view();
    html! {
        section id="nodes" aria-labelledby="nodes-h" {
            h2 id="nodes-h" { "Nodes" }
            @if view.nodes.is_empty() { p.empty { "This node knows of none, not even of its own session." } } @else {
                table.rows {
                    thead {
                        tr {
                            th { "Node" }
                            th { "Role" }
                            th { "Version" }
                            th { "Jobs file" }
                            th { "Started" }
                            th { "Last sign" }
                            th { "Address" }
                            th { "Remarks" }
                            @if view.frame.looker.may(Role::Admin) { th { "Act" } }
                        }
                    }
                    tbody {
                        @for node in &view.nodes {
                            tr {
                                td.name {
                                    (foreign(&node.record.node)) @if node.is_here { " " span.muted { "(this node)" } }
                                }
                                td { (role(node)) }
                                td data-l="version" { (foreign(&node.record.version)) }
                                td data-l="jobs file" {
                                    @let digest = &node.record.config_digest;
                                    span.mono { (digest.get(..12).unwrap_or(digest)) }
                                }
                                td data-l="started" { (instant_and_distance(node.record.started_at, now)) }
                                td data-l="last sign" { (sign(node.record.clock, now)) }
                                td { @if let Some(address) = &node.record.address { (foreign(address)) } }
                                td { (remarks(&node.record)) }
                                @if view.frame.looker.may(Role::Admin) { td { (drains(&view.frame, &node.record)) } }
                            }
                        }
                    }
                }
                p.do { (command("status")) " " (command("drain NODE")) }
            }
        }
    }
}

/// The form that drains a node, or lets it lead again.
fn drains(frame: &Frame, record: &NodeRecord) -> Markup {
    if record.drained {
        return act::form(frame, "", Ask::admin("undrain", &record.node, "Undrain", &[]));
    }
    let fields = [Field::For, Field::Confirm(&record.node)];
    act::form(frame, "", Ask::admin("drain", &record.node, "Drain", &fields))
}

/// The terms, as a bar from the earliest to now and as a table.
fn terms(view: &Leadership) -> Markup {
    let now = view.frame.view();
    html! {
        section id="terms" aria-labelledby="terms-h" {
            h2 id="terms-h" { "Terms" }
            @match &view.terms {
                Err(why) => p.notice.unk { "The terms are not known now: " (spoken(why)) "." },
                Ok(terms) if terms.is_empty() => p.empty { "None is recorded." },
                Ok(terms) => {
                    (draw::spans("The last terms, the latest at the right, with gaps in gray", &spans(terms, now.now)))
                    table.rows.short {
                        thead {
                            tr {
                                th { "Node" } th.num { "Fence" } th { "From" } th { "To" } th.num { "Led for" }
                                th { "End" } th.num { "First claim after" } th.num { "Gap before it" }
                            }
                        }
                        tbody {
                            @for (index, term) in terms.iter().enumerate() {
                                (term_row(term, terms.get(index + 1), now))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How a term ended, or that it goes on.
pub(crate) fn term_word(term: &TermRow) -> (&'static str, Look) {
    match term.end {
        None if term.to.is_none() => ("leads", Look::Running),
        None => ("not recorded", Look::Idle),
        Some(TermEnd::Resigned) => ("resigned", Look::Good),
        Some(TermEnd::SteppedDown) => ("stepped down", Look::Good),
        Some(TermEnd::Lost) => ("lost", Look::Late),
        Some(TermEnd::Lapsed) => ("lapsed", Look::Bad),
    }
}

fn term_row(term: &TermRow, before: Option<&TermRow>, view: Viewpoint) -> Markup {
    let (word, look) = term_word(term);
    html! {
        tr {
            td { (foreign(&term.node)) }
            td.num data-l="fence" { (term.fence) }
            td data-l="from" { (instant_and_distance(term.from, view)) }
            td data-l="to" { (instant_or("now", term.to, view)) }
            td.num data-l="for" { (took(term.to.unwrap_or(view.now).since(term.from))) }
            td { (state(word, look)) }
            td.num data-l="first claim after" { @if let Some(first) = term.first_claim { (took(first.since(term.from))) } }
            td.num data-l="gap before" {
                @if let Some((before, ended)) = before.and_then(|before| Some((before, before.to?))) {
                    (took(term.from.since(ended)))
                    @if let Some(sign) = before.last_sign.filter(|sign| *sign < ended) {
                        small { "last sign " (took(ended.since(sign))) " before" }
                    }
                }
            }
        }
    }
}

/// The terms, the earliest first, with the gaps between them.
fn spans(terms: &[TermRow], now: Wall) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut ended: Option<Wall> = None;
    for term in terms.iter().rev() {
        if let Some(gap) = ended.map(|ended| term.from.since(ended)).filter(|gap| !gap.is_zero()) {
            spans.push(Span { look: Look::Idle, length: gap, title: format!("no leader for {}", took(gap)) });
        }
        let length = term.to.unwrap_or(now).since(term.from);
        let look = if term.to.is_none() { Look::Running } else { Look::Good };
        spans.push(Span {
            look,
            length,
            title: format!("{} under fence {}: {}", shown(&term.node), term.fence, took(length)),
        });
        ended = term.to;
    }
    spans
}

/// When a node last published what its clock says, by that clock.
fn sign(clock: Wall, view: Viewpoint) -> Markup {
    html! { (instant(clock, view)) " " (distance(clock.min(view.now), view)) }
}

fn role(node: &Node) -> Markup {
    let (word, look) = role_word(node);
    state(word, look)
}

pub(crate) fn role_word(node: &Node) -> (&'static str, Look) {
    match (node.leads, &node.record.stands_back) {
        (false, Some(_)) if node.record.drained => ("drained", Look::Late),
        (true, _) => ("leader", Look::Running),
        (false, Some(_)) => ("stands back", Look::Late),
        (false, None) => ("follower", Look::Idle),
    }
}

fn remarks(record: &NodeRecord) -> Markup {
    html! {
        @for remark in record.stands_back.iter().chain(&record.troubles) { div { (spoken(remark)) } }
        @if let Some(hand_over) = &record.hands_over { div { (hand_over.text()) } }
    }
}
