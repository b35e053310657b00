//! What runs and the cluster look like from outside: the shapes of `-o json` and of `/api/v1`. They are a contract:
//! fields are added, not renamed.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::board::{Board, Paused, Wait};
use crate::fence::Fence;
use crate::job::{Code, JobName, RunId, Verdict};
use crate::ledger::{self, HandOver, Ledger, NodeRecord, Pause, RunRow};
use crate::lock::{ElectionState, LockName, Locks};
use crate::scheduler::outbox::{HOURLY_MOST, JOB_HOURLY_MOST, Outgoing};
use crate::scheduler::run::{Claimant, Done, Open, OpenState};
use crate::store::{About, Store, StoreError};
use crate::time::Wall;

/// A run.
/// A pause: what starts in it is skipped.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PauseView {
    pub by: String,
    pub at: Wall,
    /// When it ends by itself; `null`: it lasts until a person ends it.
    pub until: Option<Wall>,
    /// Why, as the person wrote it.
    pub reason: String,
}

/// A paused job.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PausedJob {
    pub job: JobName,
    pub pause: PauseView,
}

impl From<Pause> for PauseView {
    fn from(Pause { asked, until }: Pause) -> PauseView {
        PauseView { by: asked.by, at: asked.at, until, reason: asked.reason }
    }
}

impl From<&Paused> for PauseView {
    fn from(paused: &Paused) -> PauseView {
        let Paused { by, at, until, reason } = paused.clone();
        PauseView { by, at, until, reason }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunView {
    pub run_id: RunId,
    pub job: JobName,
    pub scheduled_at: Wall,
    /// A verdict, or `claimed`, `running`, `retrying`, `waiting`.
    pub state: &'static str,
    /// Why, for a person; empty where there is nothing to say.
    pub reason: String,
    /// Why, in a word for programs, for a run that did not end well as usual (`docs/cli.md` has the words).
    pub code: Option<&'static str>,
    /// What a run waits for that a node answers of: `instant`, `turn` (another run of its job goes first), `room`
    /// (`--max-running`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<&'static str>,
    pub fence: Option<Fence>,
    /// The node that claimed it.
    pub node: Option<String>,
    /// From 1; 0: none was begun.
    pub attempt: u32,
    pub claimed_at: Wall,
    pub started_at: Option<Wall>,
    pub finished_at: Option<Wall>,
    pub lateness_ms: Option<u64>,
    pub exit_code: Option<i32>,
    /// The end of what it wrote, once it has ended.
    pub output: String,
    /// Where this stands for many occurrences that were skipped together: how many, at least, and from which on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Wall>,
}

/// A state that runs are looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum RunState {
    Waiting,
    Claimed,
    Running,
    Retrying,
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Skipped,
    Unknown,
}

impl RunState {
    /// The verdict that it is; `None`: it is a state of open runs.
    pub fn verdict(self) -> Option<Verdict> {
        Some(match self {
            RunState::Waiting | RunState::Claimed | RunState::Running | RunState::Retrying => return None,
            RunState::Succeeded => Verdict::Succeeded,
            RunState::Failed => Verdict::Failed,
            RunState::TimedOut => Verdict::TimedOut,
            RunState::Cancelled => Verdict::Cancelled,
            RunState::Skipped => Verdict::Skipped,
            RunState::Unknown => Verdict::Unknown,
        })
    }

    /// As [`state_of`] writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Waiting => "waiting",
            RunState::Claimed => "claimed",
            RunState::Running => "running",
            RunState::Retrying => "retrying",
            _ => self.verdict().map_or("", Verdict::as_str),
        }
    }

    /// Whether a run is in this state.
    pub fn is_of(self, row: &RunRow) -> bool {
        match row {
            RunRow::Done(done) => self.verdict() == Some(done.verdict),
            RunRow::Open(open) => self.as_str() == state_of(open),
        }
    }
}

/// The state of an open run, in one word.
pub fn state_of(open: &Open) -> &'static str {
    match open.state {
        OpenState::Waiting { .. } => "waiting",
        OpenState::Retrying { .. } => "retrying",
        OpenState::Claimed if open.started_at.is_some() => "running",
        OpenState::Claimed => "claimed",
    }
}

fn node_of(claimant: Option<&Claimant>) -> (Option<Fence>, Option<String>) {
    claimant.map_or((None, None), |claimant| (Some(claimant.fence), Some(claimant.node.clone())))
}

fn millis(lateness: std::time::Duration) -> u64 {
    u64::try_from(lateness.as_millis()).unwrap_or(u64::MAX)
}

impl From<RunRow> for RunView {
    fn from(row: RunRow) -> RunView {
        match row {
            RunRow::Open(open) => open.into(),
            RunRow::Done(done) => done.into(),
        }
    }
}

impl RunView {
    /// An open run, as the board knows it at `now`.
    pub(crate) fn on(board: &Board, open: Open, now: Wall) -> RunView {
        let wait = board.waits_for(&open, now);
        let view = RunView::from(open);
        match wait {
            None => view,
            Some(Wait::Instant) => RunView { waits_for: Some(Wait::Instant.as_str()), ..view },
            Some(wait) => {
                RunView { waits_for: Some(wait.as_str()), reason: format!("it waits {}", wait.text()), ..view }
            }
        }
    }
}

impl From<Open> for RunView {
    fn from(open: Open) -> RunView {
        let (fence, node) = node_of(open.claimant.as_ref());
        let reason = match open.state {
            // Its instant has come when it was claimed: what it waits for is another.
            OpenState::Waiting { not_before } if not_before <= open.claimed_at => {
                "it waits for its turn among the runs of its job (`overlap`), for room (`--max-running`), or for a leader"
                    .to_owned()
            }
            OpenState::Waiting { not_before } => format!("not before {not_before}"),
            OpenState::Retrying { not_before } => format!("attempt {} not before {not_before}", open.attempt + 1),
            OpenState::Claimed => String::new(),
        };
        RunView {
            state: state_of(&open),
            run_id: open.id,
            job: open.job,
            scheduled_at: open.at,
            reason,
            code: None,
            waits_for: None,
            fence,
            node,
            attempt: open.attempt,
            claimed_at: open.claimed_at,
            started_at: open.started_at,
            finished_at: None,
            lateness_ms: open.lateness.map(millis),
            exit_code: None,
            output: String::new(),
            count: None,
            from: None,
        }
    }
}

impl From<Done> for RunView {
    fn from(done: Done) -> RunView {
        let (fence, node) = node_of(done.claimant.as_ref());
        RunView {
            run_id: done.id,
            job: done.job,
            scheduled_at: done.at,
            state: done.verdict.as_str(),
            reason: done.reason,
            code: done.code.map(Code::as_str),
            waits_for: None,
            fence,
            node,
            attempt: done.attempt,
            claimed_at: done.claimed_at,
            started_at: done.started_at,
            finished_at: Some(done.finished_at),
            lateness_ms: done.lateness.map(millis),
            exit_code: done.exit_code,
            output: done.output,
            count: done.many.map(|many| many.count),
            from: done.many.map(|many| many.from),
        }
    }
}

/// The cluster at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Overview {
    pub namespace: String,
    pub leader: Option<LeaderView>,
    pub nodes: Vec<NodeView>,
    /// The nodes that wait to lead, the next first.
    pub waiting: Vec<String>,
    pub store: StoreView,
    /// Up to when the schedules have been decided.
    pub watermark: Option<Wall>,
    /// By how much the clock is behind that: until it has caught up nothing is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
    pub paused: Vec<JobName>,
    /// The same jobs, with the person that paused each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pauses: Vec<PausedJob>,
    /// All jobs are paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_paused: Option<PauseView>,
    /// What keeps jobs from being fired as they should be.
    pub obstacles: Vec<String>,
    /// The runs that ended as `unknown` and wait for `fencron resolve`.
    pub unknown: UnknownView,
    /// The jobs whose last run ended badly.
    pub failing: FailingView,
    /// The channels in which alerts wait, or that have sent as many messages as they may in this hour, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<ChannelView>,
    /// The last time that the schedules were brought back by hand, while that is still to be caught up with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewound: Option<RewoundView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct UnknownView {
    /// At least so many, where it is [`UNKNOWN_COUNTED`].
    pub count: usize,
    /// The first of them, by name.
    pub runs: Vec<RunId>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct FailingView {
    pub count: usize,
    /// The first of them, by name.
    pub jobs: Vec<JobName>,
}

impl FailingView {
    /// Of these jobs, in the order of their names.
    pub(crate) fn of<'a>(jobs: impl Iterator<Item = &'a JobName>) -> FailingView {
        jobs.fold(FailingView::default(), |mut view, job| {
            if view.count < FAILING_NAMED {
                view.jobs.push(job.clone());
            }
            FailingView { count: view.count + 1, ..view }
        })
    }
}

/// A channel in which alerts wait, or that is at its bound.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ChannelView {
    pub channel: String,
    /// How many alerts are put for it and not sent yet.
    pub waiting: u64,
    /// Since when the receiver takes none; left out where it took the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Wall>,
    /// Why it takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// It has sent as many messages as it may in this hour: until then, alerts are counted into a summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summarized_until: Option<Wall>,
    /// Jobs that have had their share of the messages of this hour: the alerts of these alone are counted into a summary.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub summarized_jobs: Vec<JobName>,
}

impl ChannelView {
    /// `rows`: how many alerts it has not taken yet.
    fn of(channel: String, outgoing: &Outgoing, rows: usize, now: Wall) -> Option<ChannelView> {
        let (waiting, trouble) = (outgoing.alerts() + rows as u64, outgoing.trouble());
        let (silent_since, why) = (trouble.map(|trouble| trouble.since), trouble.map(|trouble| trouble.why.clone()));
        let summarized_until = outgoing.bound_until(now);
        let summarized_jobs: Vec<JobName> = outgoing.bound_jobs(now).cloned().collect();
        let is_shown = waiting > 0 || summarized_until.is_some() || !summarized_jobs.is_empty();
        is_shown.then_some(ChannelView { channel, waiting, silent_since, why, summarized_until, summarized_jobs })
    }

    /// That its receiver takes nothing, and that it is at its bound, for people; empty: what waits is sent in time.
    pub fn defects(&self) -> Vec<String> {
        let ChannelView { channel, waiting, .. } = self;
        let mut defects = Vec::new();
        if let (Some(since), Some(why)) = (self.silent_since, &self.why) {
            defects.push(format!("the channel `{channel}` takes no alerts since {since}, and {waiting} wait: {why}"));
        }
        if let Some(until) = self.summarized_until {
            defects.push(format!(
                "the channel `{channel}` has sent {HOURLY_MOST} messages in this hour: further alerts are in a summary \
                 after {until}"
            ));
        } else if !self.summarized_jobs.is_empty() {
            let jobs: Vec<&str> = self.summarized_jobs.iter().map(JobName::as_str).collect();
            defects.push(format!(
                "the channel `{channel}` has sent {JOB_HOURLY_MOST} messages of each of these jobs in this hour, and \
                 counts their further alerts for a summary after the hour: {}",
                jobs.join(", ")
            ));
        }
        defects
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RewoundView {
    pub by: String,
    pub at: Wall,
    pub from: Option<Wall>,
    pub to: Wall,
}

/// How many runs in doubt are counted, and how many of them are named.
pub const UNKNOWN_COUNTED: usize = 1000;
const UNKNOWN_NAMED: usize = 10;

/// How many failing jobs are named.
const FAILING_NAMED: usize = 10;

/// How old the last sign of life of a node may be, against that of another of its name, for both to be there.
const SIGNS_APART: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LeaderView {
    pub node: String,
    pub fence: Fence,
    pub since: Wall,
    pub address: Option<String>,
    /// How long it is, by the two clocks, since it published that it is there; it does so every 5 s.
    pub last_sign_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NodeView {
    pub node: String,
    pub version: String,
    pub config_digest: String,
    pub started_at: Wall,
    pub address: Option<String>,
    pub leader: bool,
    /// Why it does not contend for the leadership.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stands_back: Option<String>,
    /// It does not contend because a person has drained it.
    pub drained: bool,
    /// How long it is, by the two clocks, since it published that it is there.
    pub last_sign_ms: u64,
    /// What else a person ought to know of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// It starts nothing new, and lets what runs end: it steps down, or shuts down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hands_over: Option<HandOverView>,
}

/// What a node waits for that steps down, or shuts down.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct HandOverView {
    /// How many runs it lets end.
    pub runs: usize,
    /// When it stops those that still run.
    pub until: Wall,
    /// It ends; otherwise it stays as a follower.
    pub leaves: bool,
    /// The same for a person.
    pub text: String,
}

impl From<HandOver> for HandOverView {
    fn from(hand_over: HandOver) -> HandOverView {
        let text = hand_over.text();
        HandOverView { runs: hand_over.runs, until: hand_over.until, leaves: hand_over.leaves, text }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct StoreView {
    pub kind: &'static str,
    pub version: String,
    /// It answers, and has nothing to warn of.
    pub healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Overview {
    /// Before anything was seen of the cluster.
    pub(crate) fn unseen(namespace: String) -> Overview {
        let store = StoreView {
            kind: "unknown",
            version: String::new(),
            healthy: false,
            size: None,
            quota: None,
            warnings: Vec::new(),
        };
        Overview {
            namespace,
            leader: None,
            nodes: Vec::new(),
            waiting: Vec::new(),
            store,
            watermark: None,
            behind_ms: None,
            paused: Vec::new(),
            pauses: Vec::new(),
            all_paused: None,
            obstacles: Vec::new(),
            unknown: UnknownView { count: 0, runs: Vec::new() },
            failing: FailingView::default(),
            alerts: Vec::new(),
            rewound: None,
        }
    }

    /// Looks at the store, `now` being the time here. How the jobs fare is not among it, since that costs a record of each
    /// job: who has them anyway puts that in.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn look<S: Store>(ledger: &Ledger<S>, locks: &Locks<S>, now: Wall) -> Result<Overview, StoreError> {
        let election = locks.election(LockName::leader());
        // One after the other they would take as long as all of them together.
        let (about, standing, nodes, (watermark, damage), pauses, (mut runs, more), (rewinds, alerts)) = tokio::try_join!(
            ledger.store().about(),
            election.observe(),
            ledger.nodes(),
            ledger.look_at_watermark(),
            async { tokio::try_join!(ledger.paused(), ledger.all_paused()) },
            ledger.unknown_runs(UNKNOWN_COUNTED),
            async { tokio::try_join!(ledger.rewinds(), ledger.alerts_waiting()) },
        )?;
        let channels = alerts.channels.into_iter();
        let channels = channels.filter_map(|(name, (of, rows))| ChannelView::of(name, &of, rows.len(), now)).collect();
        let watermark = watermark.map(|mark| mark.instant);
        let (paused, all_paused) = pauses;
        let pauses: Vec<PausedJob> =
            paused.into_iter().map(|(job, pause)| PausedJob { job, pause: pause.into() }).collect();
        let paused = pauses.iter().map(|paused| paused.job.clone()).collect();
        let mut obstacles = obstacles(&standing, &nodes);
        obstacles.extend(damage);
        let count = if more { UNKNOWN_COUNTED } else { runs.len() };
        runs.truncate(UNKNOWN_NAMED);
        let last = rewinds.into_iter().next();
        let is_ahead = |from: Option<Wall>| from.is_none_or(|from| watermark.is_none_or(|mark| mark < from));
        let rewound = last.filter(|last| is_ahead(last.from));
        let waiting = standing.waiting.iter().filter_map(|waiter| waiter.node.clone()).collect();
        let leads = standing.leader.as_ref().map(|leader| leader.session.0.get());
        let leader = standing.leader.map(|leader| LeaderView {
            address: leader.record.as_deref().and_then(NodeRecord::decode).and_then(|record| record.address),
            node: leader.node,
            fence: leader.fence,
            since: leader.since,
            last_sign_ms: nodes
                .iter()
                .find(|(lease, _)| leads == Some(*lease))
                .map(|(_, node)| leads_on(node, leader.since, now)),
        });
        let mut nodes: Vec<NodeView> =
            nodes.into_iter().map(|(lease, record)| node_view(record, leads == Some(lease), now)).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(Overview {
            namespace: ledger.namespace().to_string(),
            leader,
            nodes,
            waiting,
            store: about.into(),
            watermark,
            behind_ms: behind(watermark, now),
            paused,
            pauses,
            all_paused: all_paused.map(PauseView::from),
            obstacles,
            unknown: UnknownView { count, runs },
            failing: FailingView::default(),
            alerts: channels,
            rewound: rewound.map(|last| RewoundView {
                by: last.asked.by,
                at: last.asked.at,
                from: last.from,
                to: last.to,
            }),
        })
    }
}

/// By how much the clock is behind what has been decided, where it is.
pub(super) fn behind(watermark: Option<Wall>, now: Wall) -> Option<u64> {
    watermark.map(|mark| millis(mark.since(now))).filter(|behind| *behind > 0)
}

impl From<About> for StoreView {
    fn from(about: About) -> StoreView {
        StoreView {
            kind: about.kind,
            version: about.version,
            healthy: about.warnings.is_empty(),
            size: about.size,
            quota: about.quota,
            warnings: about.warnings,
        }
    }
}

pub(super) fn age(record: &NodeRecord, now: Wall) -> u64 {
    millis(now.since(record.clock))
}

/// The same of the leader: it was there when it began to lead, which its record may not show yet.
pub(super) fn leads_on(record: &NodeRecord, since: Wall, now: Wall) -> u64 {
    millis(now.since(record.clock.max(since)))
}

pub(super) fn node_view(record: NodeRecord, leader: bool, now: Wall) -> NodeView {
    NodeView {
        last_sign_ms: age(&record, now),
        troubles: record.troubles,
        node: record.node,
        version: record.version,
        config_digest: record.config_digest,
        started_at: record.started_at,
        address: record.address,
        leader,
        stands_back: record.stands_back,
        drained: record.drained,
        hands_over: record.hands_over.map(HandOverView::from),
    }
}

fn obstacles(standing: &ElectionState, nodes: &[(u64, NodeRecord)]) -> Vec<String> {
    let mut found: Vec<String> = standing.obstacles.iter().map(ToString::to_string).collect();
    found.extend(standing.base.as_ref().err().map(ToString::to_string));
    found.extend(standing.age.as_ref().err().map(ToString::to_string));
    if let Some(((_, first), rest)) = nodes.split_first()
        && rest.iter().any(|(_, other)| other.config_digest != first.config_digest)
    {
        found.push("the nodes have different configurations: what fires depends on which node leads".to_owned());
    }
    if ledger::all_drained(nodes.iter().map(|(_, node)| node)) {
        found.push(ledger::ALL_DRAINED.to_owned());
    }
    found.extend(namesakes(nodes));
    found
}

/// The names that several nodes use, each of which has published lately: one that was killed a moment ago has not.
fn namesakes(nodes: &[(u64, NodeRecord)]) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<&NodeRecord>> = BTreeMap::new();
    nodes.iter().for_each(|(_, node)| by_name.entry(&node.node).or_default().push(node));
    let there = |name: &str, nodes: Vec<&NodeRecord>| {
        let last = nodes.iter().map(|node| node.clock).max()?;
        let count = nodes.iter().filter(|node| last.since(node.clock) < SIGNS_APART).count();
        (count > 1).then(|| format!("{count} nodes have the name {name}: give each its own --node"))
    };
    by_name.into_iter().filter_map(|(name, nodes)| there(name, nodes)).collect()
}
