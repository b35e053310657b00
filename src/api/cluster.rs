//! The cluster: its status, its nodes, who leads, its store, and who asks.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::{Caller, Role};
use super::glance::Seen;
use super::listing::{Applied, Listing, Sent, applied, cursor, limit, place};
use super::problem::Problem;
use super::routes::Query;
use super::view::{FailingView, LeaderView, NodeView, Overview, PausedJob, StoreView, node_view};
use super::{Api, in_time};
use crate::board::{Board, Counts, Paused};
use crate::fence::Fence;
use crate::job::JobName;
use crate::ledger::{TermEnd, TermRow};
use crate::store::Store;
use crate::time::Wall;

/// How many paused jobs the status names: `counts` has how many there are.
pub const PAUSED_NAMED: usize = 1_000;

/// The cluster at a glance, as the answering node knows it without a question to the store.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct StatusView {
    #[serde(flatten)]
    pub overview: Overview,
    /// The node that answers.
    pub node: String,
    /// Why it cannot take part, and what else keeps it from leading: as `/readyz` says it.
    pub reasons: Vec<String>,
    /// Whether the store answers this node.
    pub store_answers: bool,
    /// Why not, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_silent: Option<String>,
    /// When this node last received news of the ledger, which is what `leader`, `nodes`, `watermark`, `paused` and `counts`
    /// are from; `null`: it has not read it yet.
    pub as_of: Option<Wall>,
    /// When it last looked at the rest of the store, which is what the other members are from.
    pub looked_at: Option<Wall>,
    /// How many jobs there are, and in which states.
    pub counts: Counts,
}

impl StatusView {
    fn of<S: Store>(api: &Api<S>, caller: &Caller) -> StatusView {
        let (boot, now) = api.clock.both();
        let Seen { last, silent, .. } = api.glance.seen();
        let (seen, looked_at) = last.map_or((None, None), |(overview, at)| (Some(overview), Some(at)));
        let status = api.status.borrow().clone();
        let board = api.board.read();
        let store_answers = board.this_node().trusted_until.is_some_and(|until| until > boot);
        let rest = seen.unwrap_or_else(|| Overview::unseen(api.ledger.namespace().to_string()));
        let watermark = board.watermark().map(|mark| mark.instant);
        let mut unknown = rest.unknown;
        unknown.runs.retain(|run| caller.sees(&run.job()));
        let failing = FailingView::of(board.failing().filter(|job| caller.sees(job)));
        let pauses = board.paused_jobs().filter(|(job, _)| caller.sees(job)).take(PAUSED_NAMED);
        let paused = |(job, paused): (&JobName, &Paused)| PausedJob { job: job.clone(), pause: paused.into() };
        let pauses: Vec<PausedJob> = pauses.map(paused).collect();
        let overview = Overview {
            leader: leader(&board, now),
            nodes: nodes(&board, now),
            store: StoreView { healthy: rest.store.healthy && silent.is_none(), ..rest.store },
            watermark,
            behind_ms: super::view::behind(watermark, now),
            paused: pauses.iter().map(|paused| paused.job.clone()).collect(),
            pauses,
            all_paused: board.are_all_paused().map(super::view::PauseView::from),
            unknown,
            failing,
            // An answer of a receiver may say what the job is.
            alerts: if caller.jobs.is_none() { rest.alerts } else { Vec::new() },
            ..rest
        };
        StatusView {
            overview,
            node: status.node,
            reasons: status.reasons.iter().map(ToString::to_string).collect(),
            store_answers,
            store_silent: silent.filter(|_| !store_answers),
            as_of: board.current_at(),
            looked_at,
            counts: board.counts(now),
        }
    }
}

fn leader(board: &Board, now: Wall) -> Option<LeaderView> {
    let (leader, fence) = (board.leader()?, board.fence()?);
    let record = board.nodes().find(|(lease, _)| *lease == leader.lease).map(|(_, record)| record);
    Some(LeaderView {
        // What a newer version wrote of itself is not read.
        node: record.map_or_else(String::new, |record| record.node.clone()),
        fence,
        since: leader.since,
        address: record.and_then(|record| record.address.clone()),
        last_sign_ms: record.map(|record| super::view::leads_on(record, leader.since, now)),
    })
}

fn nodes(board: &Board, now: Wall) -> Vec<NodeView> {
    let leads = board.leader().map(|leader| leader.lease);
    let view = |(lease, record): (u64, &_)| node_view(Clone::clone(record), leads == Some(lease), now);
    let mut nodes: Vec<NodeView> = board.nodes().map(view).collect();
    nodes.sort_by(|a, b| (&a.node, a.started_at).cmp(&(&b.node, b.started_at)));
    nodes
}

/// Answers with the cluster at a glance.
pub(super) async fn status<S: Store>(
    State(api): State<Api<S>>,
    Extension(caller): Extension<Caller>,
    sent: Sent,
) -> Response {
    sent.answer(&StatusView::of(&api, &caller))
}

/// Answers with the nodes that are there.
pub(super) async fn list_nodes<S: Store>(State(api): State<Api<S>>, sent: Sent) -> Response {
    let board = api.board.read();
    sent.page(&Listing::whole(nodes(&board, api.clock.wall()), board.version(), Applied::new()))
}

/// The store.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct StoreNow {
    #[serde(flatten)]
    pub store: StoreView,
    /// How long it took to say so.
    pub took_ms: u64,
    /// When this node last received news of the ledger.
    pub as_of: Option<Wall>,
}

/// Asks the store what it is.
pub(super) async fn store<S: Store>(State(api): State<Api<S>>, sent: Sent) -> Result<Response, Problem> {
    let asked = api.clock.boot();
    let about = in_time(api.ledger.store().about()).await?;
    let took = api.clock.boot().since(asked);
    let view = StoreNow {
        store: StoreView::from(about),
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        as_of: api.board.read().current_at(),
    };
    Ok(sent.answer(&view))
}

/// Who leads, and how much longer that is trusted.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LeadershipView {
    /// `null`: no node leads.
    pub leader: Option<LeaderView>,
    /// The nodes that wait to lead, the next first, as of `looked_at`.
    pub waiting: Vec<String>,
    /// What keeps nodes from leading, or jobs from being fired, as of `looked_at`.
    pub obstacles: Vec<String>,
    pub this_node: ThisNode,
    /// When this node last received news of the ledger.
    pub as_of: Option<Wall>,
    pub looked_at: Option<Wall>,
}

/// What the answering node knows of itself.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ThisNode {
    pub node: String,
    /// The fence under which it leads.
    pub fence: Option<Fence>,
    /// For how much longer it trusts its session, and so its leadership; `null`: it has none that it trusts.
    pub trusted_ms: Option<u64>,
    /// The attempts that run here.
    pub running: usize,
}

/// Answers with who leads.
pub(super) async fn leadership<S: Store>(State(api): State<Api<S>>, sent: Sent) -> Response {
    let (boot, now) = api.clock.both();
    let (waiting, obstacles, looked_at) = match api.glance.seen().last {
        Some((seen, at)) => (seen.waiting, seen.obstacles, Some(at)),
        None => (Vec::new(), Vec::new(), None),
    };
    let board = api.board.read();
    let own = board.this_node();
    let trusted = own.trusted_until.map(|until| until.since(boot)).filter(|left| !left.is_zero());
    let this_node = ThisNode {
        node: api.status.borrow().node.clone(),
        fence: own.fence,
        trusted_ms: trusted.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        running: own.running,
    };
    let leader = leader(&board, now);
    sent.answer(&LeadershipView { leader, waiting, obstacles, this_node, as_of: board.current_at(), looked_at })
}

/// A term of a leader.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TermView {
    pub fence: Fence,
    pub node: String,
    /// When the leader began to act, by its clock.
    pub from: Wall,
    /// When it claimed the first occurrence; `null`: it claimed none.
    pub first_claim: Option<Wall>,
    /// When the term ended; `null`: it goes on, or its end is not recorded yet.
    pub to: Option<Wall>,
    /// `resigned`, `stepped_down`, `lost`, or `lapsed`: its successor recorded the end, as of when it learned of it.
    pub end: Option<&'static str>,
    /// Of one that lapsed: what the clock of its leader said when it published last. From then on it may have done nothing.
    pub last_sign: Option<Wall>,
}

impl From<TermRow> for TermView {
    fn from(row: TermRow) -> TermView {
        let TermRow { fence, node, from, first_claim, to, end, last_sign } = row;
        TermView { fence, node, from, first_claim, to, end: end.map(TermEnd::as_str), last_sign }
    }
}

/// The parameters of the list of terms.
#[derive(Debug, Deserialize)]
pub(super) struct WantedTerms {
    limit: Option<usize>,
    after: Option<String>,
}

/// Answers with the terms of leaders, the last one first.
pub(super) async fn terms<S: Store>(
    State(api): State<Api<S>>,
    Query(wanted): Query<WantedTerms>,
    sent: Sent,
) -> Result<Response, Problem> {
    let limit = limit(wanted.limit)?;
    let before = place::<u64>(wanted.after.as_deref())?.and_then(Fence::new);
    let mut rows = in_time(api.ledger.terms(before, limit + 1)).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|last| cursor(&last.fence.to_string()));
    let items = rows.into_iter().map(TermView::from).collect();
    let revision = api.board.read().version();
    Ok(sent.page(&Listing { next, ..Listing::whole(items, revision, applied([("limit", json!(limit))])) }))
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct MeView {
    /// As the list of tokens names the caller; `null`: a caller without a name.
    pub name: Option<String>,
    pub role: Role,
}

/// Answers with who asks.
pub(super) async fn me(Extension(caller): Extension<Caller>, sent: Sent) -> Response {
    sent.answer(&MeView { name: caller.name, role: caller.role })
}
