//! What is written: JSON, each record with its version, so that nodes of two versions can distinguish each other's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::act::Via;
use super::attention::REASON_MOST;
use super::terms::{NewTerm, TermEnd, TermRow};
use crate::fence::Fence;
use crate::job::{Code, JobName, Params, RunId, Verdict};
use crate::scheduler::hour::HourCounts;
use crate::scheduler::run::{
    CatchUp, Claimant, Done, End, Known, Last, Many, Open, OpenState, Predecessor, Source, Watermark,
};
use crate::time::Wall;

/// The version of the records that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// What a node publishes with its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub node: String,
    /// The version of its program.
    pub version: String,
    pub config_digest: String,
    /// When it took that jobs file, where it started with another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_since: Option<Wall>,
    pub started_at: Wall,
    /// Where its HTTP listener is reached; `None`: it has none.
    pub address: Option<String>,
    /// What its clock said when it published this.
    pub clock: Wall,
    /// Why it does not campaign, for people; `None`: it does.
    pub stands_back: Option<String>,
    /// It does not campaign because a person has drained it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// Up to which version it had seen the ledger when it read its clock: that was after all that the version holds.
    #[serde(default)]
    pub heard: u64,
    /// What else a person ought to know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// It starts nothing new, and waits for what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hands_over: Option<HandOver>,
}

/// What a node waits for that steps down, or shuts down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// How many runs it lets end; what it has not begun of the migrations is none of them.
    pub runs: usize,
    /// When it stops those that still run (`--shutdown-grace`).
    pub until: Wall,
    /// It ends; otherwise it steps down, and stays as a follower.
    pub leaves: bool,
}

impl HandOver {
    /// The same for a person.
    pub fn text(&self) -> String {
        let how = if self.leaves { "shuts down" } else { "steps down" };
        let runs = if self.runs == 1 { "run" } else { "runs" };
        format!("{how}: waits for {} {runs} until {}, and starts nothing meanwhile", self.runs, self.until)
    }
}

impl NodeRecord {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The record, where the bytes are one.
    pub fn decode(bytes: &[u8]) -> Option<NodeRecord> {
        decode(bytes)
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    #[serde(rename = "r")]
    record: T,
}

pub(super) fn encode<T: Serialize>(record: T) -> Vec<u8> {
    serde_json::to_vec(&Envelope { v: VERSION, record }).expect("records have string keys and no failing parts")
}

/// The record, or `None` where the bytes are none of this version's.
pub(super) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let envelope: Envelope<T> = serde_json::from_slice(bytes).ok()?;
    (envelope.v <= VERSION).then_some(envelope.record)
}

/// Whether a later version wrote this.
pub(super) fn is_newer(bytes: &[u8]) -> bool {
    let envelope = serde_json::from_slice::<Envelope<serde_json::Value>>(bytes);
    envelope.is_ok_and(|envelope| envelope.v > VERSION)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateRecord {
    Waiting(Wall),
    Claimed,
    Retrying(Wall),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SourceRecord {
    Schedule,
    After(RunId),
    Trigger(String),
    Backfill(String),
}

#[derive(Serialize, Deserialize)]
struct ClaimantRecord {
    node: String,
    fence: Fence,
    lease: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct OpenRecord {
    starts: Wall,
    #[serde(default = "scheduled", skip_serializing_if = "is_scheduled")]
    source: SourceRecord,
    /// Beside the source, so that nodes that do not know of it still read that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_end: Option<EndRecord>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<String, String>,
    state: StateRecord,
    attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimant: Option<ClaimantRecord>,
    claimed_at: Wall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Wall>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lateness_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doubt: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catch_up: Option<CatchUpRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CatchUpRecord {
    Missed,
    Behind,
}

fn scheduled() -> SourceRecord {
    SourceRecord::Schedule
}

fn is_scheduled(source: &SourceRecord) -> bool {
    matches!(source, SourceRecord::Schedule)
}

impl From<&Claimant> for ClaimantRecord {
    fn from(claimant: &Claimant) -> Self {
        ClaimantRecord { node: claimant.node.clone(), fence: claimant.fence, lease: claimant.lease }
    }
}

impl From<ClaimantRecord> for Claimant {
    fn from(record: ClaimantRecord) -> Self {
        Claimant { node: record.node, fence: record.fence, lease: record.lease }
    }
}

/// How the run ended that another follows.
#[derive(Serialize, Deserialize)]
struct EndRecord {
    verdict: Verdict,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(default, deserialize_with = "known_code", skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
}

/// The code, where this version knows it: a newer one may have more.
fn known_code<'de, D: serde::Deserializer<'de>>(code: D) -> Result<Option<Code>, D::Error> {
    Ok(Option::<String>::deserialize(code)?.and_then(|word| word.parse().ok()))
}

impl EndRecord {
    fn of(source: &Source) -> Option<EndRecord> {
        let Source::After(before) = source else { return None };
        let end = before.end.as_ref()?;
        Some(EndRecord { verdict: end.verdict, reason: end.reason.clone(), exit_code: end.exit_code, code: end.code })
    }
}

impl From<EndRecord> for End {
    fn from(record: EndRecord) -> Self {
        End { verdict: record.verdict, reason: record.reason, exit_code: record.exit_code, code: record.code }
    }
}

impl From<&Source> for SourceRecord {
    fn from(source: &Source) -> Self {
        match source {
            Source::Schedule => SourceRecord::Schedule,
            Source::After(followed) => SourceRecord::After(followed.run.clone()),
            Source::Trigger { by, .. } => SourceRecord::Trigger(by.clone()),
            Source::Backfill { by } => SourceRecord::Backfill(by.clone()),
        }
    }
}

impl SourceRecord {
    fn with(self, end: Option<EndRecord>, params: BTreeMap<String, String>) -> Source {
        match self {
            SourceRecord::Schedule => Source::Schedule,
            SourceRecord::After(run) => Source::After(Box::new(Predecessor { run, end: end.map(End::from) })),
            SourceRecord::Trigger(by) => Source::Trigger { by, params: Params::recorded(params) },
            SourceRecord::Backfill(by) => Source::Backfill { by },
        }
    }
}

/// Beside the source, as how it ended what a run follows.
fn params_of(source: &Source) -> BTreeMap<String, String> {
    source.params().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Open> for OpenRecord {
    fn from(open: &Open) -> Self {
        OpenRecord {
            starts: open.starts,
            source: (&open.source).into(),
            after_end: EndRecord::of(&open.source),
            params: params_of(&open.source),
            state: match open.state {
                OpenState::Waiting { not_before } => StateRecord::Waiting(not_before),
                OpenState::Claimed => StateRecord::Claimed,
                OpenState::Retrying { not_before } => StateRecord::Retrying(not_before),
            },
            attempt: open.attempt,
            claimant: open.claimant.as_ref().map(Into::into),
            claimed_at: open.claimed_at,
            started_at: open.started_at,
            lateness_ms: open.lateness.map(millis),
            doubt: open.doubt.clone(),
            catch_up: open.catch_up.map(|catch_up| match catch_up {
                CatchUp::Missed => CatchUpRecord::Missed,
                CatchUp::Behind => CatchUpRecord::Behind,
            }),
        }
    }
}

impl OpenRecord {
    /// The open run whose key names `id`.
    pub fn into_open(self, id: RunId) -> Open {
        Open {
            job: id.job(),
            at: id.at(),
            id,
            starts: self.starts,
            source: self.source.with(self.after_end, self.params),
            state: match self.state {
                StateRecord::Waiting(not_before) => OpenState::Waiting { not_before },
                StateRecord::Claimed => OpenState::Claimed,
                StateRecord::Retrying(not_before) => OpenState::Retrying { not_before },
            },
            attempt: self.attempt,
            claimant: self.claimant.map(Into::into),
            claimed_at: self.claimed_at,
            started_at: self.started_at,
            lateness: self.lateness_ms.map(Duration::from_millis),
            doubt: self.doubt,
            catch_up: self.catch_up.map(|catch_up| match catch_up {
                CatchUpRecord::Missed => CatchUp::Missed,
                CatchUpRecord::Behind => CatchUp::Behind,
            }),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct DoneRecord {
    id: RunId,
    source: SourceRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_end: Option<EndRecord>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<String, String>,
    verdict: Verdict,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, deserialize_with = "known_code", skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimant: Option<ClaimantRecord>,
    claimed_at: Wall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Wall>,
    finished_at: Wall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lateness_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    output: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    many: Option<ManyRecord>,
}

#[derive(Serialize, Deserialize)]
struct ManyRecord {
    from: Wall,
    count: u64,
    #[serde(default)]
    at_least: bool,
}

impl From<&Done> for DoneRecord {
    fn from(done: &Done) -> Self {
        DoneRecord {
            id: done.id.clone(),
            source: (&done.source).into(),
            after_end: EndRecord::of(&done.source),
            params: params_of(&done.source),
            verdict: done.verdict,
            reason: done.reason.clone(),
            code: done.code,
            attempt: done.attempt,
            claimant: done.claimant.as_ref().map(Into::into),
            claimed_at: done.claimed_at,
            started_at: done.started_at,
            finished_at: done.finished_at,
            lateness_ms: done.lateness.map(millis),
            exit_code: done.exit_code,
            output: done.output.clone(),
            many: done.many.map(|many| ManyRecord { from: many.from, count: many.count, at_least: many.at_least }),
        }
    }
}

impl From<DoneRecord> for Done {
    fn from(record: DoneRecord) -> Self {
        Done {
            job: record.id.job(),
            at: record.id.at(),
            id: record.id,
            source: record.source.with(record.after_end, record.params),
            verdict: record.verdict,
            reason: record.reason,
            code: record.code,
            attempt: record.attempt,
            claimant: record.claimant.map(Into::into),
            claimed_at: record.claimed_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            lateness: record.lateness_ms.map(Duration::from_millis),
            exit_code: record.exit_code,
            output: record.output,
            many: record.many.map(|many| Many { from: many.from, count: many.count, at_least: many.at_least }),
        }
    }
}

/// How the last run of a job ended. The key names the job, so that the run is written without it.
#[derive(Serialize, Deserialize)]
pub(super) struct LastRecord {
    /// What its run is called behind the job and the `@`.
    run: String,
    verdict: Verdict,
    #[serde(default, deserialize_with = "known_code", skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Wall>,
    finished_at: Wall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lateness_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence: Option<Fence>,
    #[serde(default, skip_serializing_if = "is_zero")]
    bad_in_a_row: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notified_at: Option<Wall>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    doubt_notified: bool,
    /// Left out where it is when the last run ended, which did so well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    succeeded_at: Option<Wall>,
    strip: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl From<&Last> for LastRecord {
    fn from(last: &Last) -> Self {
        let implied = (last.verdict == Verdict::Succeeded).then_some(last.finished_at);
        LastRecord {
            run: last.run.as_str().split_once('@').map_or(String::new(), |(_, run)| run.to_owned()),
            verdict: last.verdict,
            code: last.code,
            started_at: last.started_at,
            finished_at: last.finished_at,
            lateness_ms: last.lateness_ms,
            fence: last.fence,
            bad_in_a_row: last.bad_in_a_row,
            notified_at: last.notified_at,
            doubt_notified: last.doubt_notified,
            succeeded_at: last.succeeded_at.filter(|at| Some(*at) != implied),
            strip: last.strip.clone(),
        }
    }
}

impl LastRecord {
    /// The record whose key names `job`; `None`: it was damaged.
    pub fn into_last(self, job: &JobName) -> Option<Last> {
        let implied = (self.verdict == Verdict::Succeeded).then_some(self.finished_at);
        // It is cut at its letters.
        if !self.strip.is_ascii() {
            return None;
        }
        Some(Last {
            run: format!("{job}@{}", self.run).parse().ok()?,
            verdict: self.verdict,
            code: self.code,
            started_at: self.started_at,
            finished_at: self.finished_at,
            lateness_ms: self.lateness_ms,
            fence: self.fence,
            bad_in_a_row: self.bad_in_a_row,
            notified_at: self.notified_at,
            doubt_notified: self.doubt_notified,
            succeeded_at: self.succeeded_at.or(implied),
            strip: self.strip,
        })
    }
}

/// That a run ended badly; the key says which, and when.
#[derive(Serialize, Deserialize)]
pub(super) struct AttentionRecord {
    pub verdict: Verdict,
    #[serde(default, deserialize_with = "known_code", skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl From<&Done> for AttentionRecord {
    fn from(done: &Done) -> Self {
        let reason = done.reason[..done.reason.floor_char_boundary(REASON_MOST)].to_owned();
        AttentionRecord { verdict: done.verdict, code: done.code, reason }
    }
}

/// A term of a leader; the key has its fence.
#[derive(Serialize, Deserialize)]
pub(super) struct TermRecord {
    node: String,
    from: Wall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_claim: Option<Wall>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Wall>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<TermEnd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_sign: Option<Wall>,
}

impl TermRecord {
    pub fn new(node: &str, from: Wall) -> TermRecord {
        TermRecord { node: node.to_owned(), from, first_claim: None, to: None, end: None, last_sign: None }
    }

    /// The same with its first claim; `None`: it has one.
    pub fn first_claim(self, at: Wall) -> Option<TermRecord> {
        self.first_claim.is_none().then_some(TermRecord { first_claim: Some(at), ..self })
    }

    /// The same with its end; `None`: it has one. What the leader itself says is better than what its successor supposed.
    pub fn end(self, to: Wall, end: TermEnd) -> Option<TermRecord> {
        let is_open = self.end.is_none_or(|known| known == TermEnd::Lapsed && end != TermEnd::Lapsed);
        // A leader that stood still learns late that its term is over, and its successor knew it before.
        let to = self.to.map_or(to, |known| known.min(to));
        is_open.then_some(TermRecord { to: Some(to), end: Some(end), ..self })
    }

    /// The same with the end that its successor, `by`, supposes; `None`: it has one.
    pub fn lapsed(self, by: &NewTerm) -> Option<TermRecord> {
        let signs = by.last_signs.iter().filter(|(node, sign)| *node == self.node && *sign >= self.from);
        let last_sign = signs.map(|(_, sign)| *sign).max();
        let to = by.vacant_since.filter(|since| *since >= self.from).unwrap_or(by.from).min(by.from);
        TermRecord { last_sign, ..self }.end(to, TermEnd::Lapsed)
    }

    pub fn into_row(self, fence: Fence) -> TermRow {
        let TermRecord { node, from, first_claim, to, end, last_sign } = self;
        TermRow { fence, node, from, first_claim, to, end, last_sign }
    }
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct StatsRecord {
    counts: HourCounts,
    /// The last addition: what settles one whose answer was lost.
    by: String,
}

impl StatsRecord {
    /// Whether this addition was the last one.
    pub fn is_by(&self, name: &str) -> bool {
        self.by == name
    }

    /// The same with these counts added, by the addition of this name.
    pub fn plus(mut self, counts: &HourCounts, name: &str) -> StatsRecord {
        self.counts.merge(counts);
        StatsRecord { by: name.to_owned(), ..self }
    }

    pub fn into_counts(self) -> HourCounts {
        self.counts
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct WatermarkRecord {
    instant: Wall,
    job: Option<JobName>,
    /// The batch that moved it here: what settles a claim whose answer was lost.
    pub batch: String,
}

impl WatermarkRecord {
    pub fn new(watermark: &Watermark, batch: String) -> WatermarkRecord {
        WatermarkRecord { instant: watermark.instant, job: watermark.job.clone(), batch }
    }

    pub fn watermark(self) -> Watermark {
        Watermark { instant: self.instant, job: self.job }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct KnownRecord {
    rule: String,
    since: Wall,
}

impl From<&Known> for KnownRecord {
    fn from(known: &Known) -> Self {
        KnownRecord { rule: known.fingerprint.clone(), since: known.since }
    }
}

impl From<KnownRecord> for Known {
    fn from(record: KnownRecord) -> Self {
        Known { fingerprint: record.rule, since: record.since }
    }
}

/// How many stretches of a job's pruned history are distinguished.
const SPANS_MOST: usize = 16;

/// Of which stretches of instants verdicts on a job's occurrences were pruned: the first and the last instant of each. What
/// is in none of them and has no verdict was never decided by one of its own.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct PrunedRecord {
    pub spans: Vec<(Wall, Wall)>,
}

impl PrunedRecord {
    /// Verdicts from `first` to `last` are pruned now. Beyond [`SPANS_MOST`] the two nearest stretches become one.
    pub fn add(&mut self, first: Wall, last: Wall) {
        self.spans.push((first, last));
        self.spans.sort_unstable();
        let mut merged: Vec<(Wall, Wall)> = Vec::with_capacity(self.spans.len());
        for (first, last) in self.spans.drain(..) {
            match merged.last_mut().filter(|before| first <= before.1) {
                Some(before) => before.1 = before.1.max(last),
                None => merged.push((first, last)),
            }
        }
        while merged.len() > SPANS_MOST {
            let gap = |at: &usize| merged[at + 1].0.since(merged[*at].1);
            let nearest = (0..merged.len() - 1).min_by_key(gap).expect("there are at least two");
            let (_, last) = merged.remove(nearest + 1);
            merged[nearest].1 = last;
        }
        self.spans = merged;
    }

    pub fn covers(&self, at: Wall) -> bool {
        self.spans.iter().any(|(first, last)| (*first..=*last).contains(&at))
    }
}

/// The person that requests something, and when, through what, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The name of the caller as the rules of a node have it, or the user and the host of a command.
    pub by: String,
    pub at: Wall,
    /// The role of a caller over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(default, skip_serializing_if = "is_cli")]
    pub via: Via,
    /// From where a request over HTTP came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Why, as the person wrote it; empty where nothing was written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_cli(via: &Via) -> bool {
    *via == Via::Cli
}

impl Asked {
    /// By this person, through a command, without a reason.
    pub fn new(by: impl Into<String>, at: Wall) -> Asked {
        Asked { by: by.into(), at, role: None, via: Via::Cli, address: None, reason: String::new() }
    }

    /// With this reason.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Asked {
        Asked { reason: reason.into(), ..self }
    }
}

/// That a person asks for a run to be cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CancelRecord {
    #[serde(flatten)]
    pub asked: Asked,
    /// If the run has begun, it goes on: its backfill was stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unless_begun: bool,
}

/// That the occurrences of jobs are skipped, or that a node is drained, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    #[serde(flatten)]
    pub asked: Asked,
    /// From here on it is not so any more; `None`: it lasts until a person ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Wall>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StepDownRecord {
    /// The term that is meant: a later one is none of it.
    pub fence: Fence,
    pub asked: Asked,
}

impl Pause {
    /// Whether its end has come.
    pub fn is_over(&self, now: Wall) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Why a node does not lead that is drained, for people.
    pub fn of_node(&self) -> String {
        let until = self.until.map_or(String::new(), |until| format!(" until {until}"));
        let why = if self.asked.reason.is_empty() { String::new() } else { format!(": {}", self.asked.reason) };
        format!("drained by {}{until}{why}", self.asked.by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Open {
        let id: RunId = "a@2026-11-21T02:00:00Z~b-1".parse().unwrap();
        Open {
            job: id.job(),
            at: id.at(),
            starts: id.at().plus(Duration::from_millis(7)),
            source: Source::Backfill { by: "eve".into() },
            state: OpenState::Retrying { not_before: id.at().plus(Duration::from_secs(9)) },
            attempt: 3,
            claimant: Some(Claimant { node: "n1".into(), fence: Fence::new(12).unwrap(), lease: 0xfeed }),
            claimed_at: id.at(),
            started_at: Some(id.at()),
            lateness: Some(Duration::from_millis(4)),
            doubt: Some("n0 was lost".into()),
            catch_up: Some(CatchUp::Missed),
            id,
        }
    }

    #[test]
    fn an_open_run_reads_back() {
        let record: OpenRecord = decode(&encode(OpenRecord::from(&open()))).unwrap();
        assert_eq!(record.into_open(open().id), open());
    }

    #[test]
    fn a_verdict_reads_back() {
        let mut done = Done::of(&open(), Verdict::TimedOut, "took too long", open().at);
        done.output = "half\n".into();
        done.exit_code = Some(-1);
        done.code = Some(Code::TimedOut);
        done.many = Some(Many { from: Wall::EPOCH, count: 5, at_least: true });
        let record: DoneRecord = decode(&encode(DoneRecord::from(&done))).unwrap();
        assert_eq!(Done::from(record), done);

        // A newer version may have a word that this one does not know.
        let text = String::from_utf8(encode(DoneRecord::from(&done)))
            .unwrap()
            .replace("timed_out\",\"attempt", "bored\",\"attempt");
        assert!(text.contains("bored"), "{text}");
        assert_eq!(decode::<DoneRecord>(text.as_bytes()).map(Done::from), Some(Done { code: None, ..done }));
    }

    #[test]
    fn how_the_last_run_ended_reads_back() {
        let done = |verdict| Done { finished_at: Wall::from_millis(7), ..Done::of(&open(), verdict, "", open().at) };
        let (good, bad) = (done(Verdict::Succeeded), done(Verdict::Failed));
        let good = Last::after(None, &good);
        let later = Last { succeeded_at: Some(Wall::MAX), ..good.clone() };
        let notified = Last { notified_at: Some(Wall::EPOCH), doubt_notified: true, ..Last::after(None, &bad) };
        for last in [Last::after(Some(&good), &bad), Last::after(None, &bad), later, notified, good] {
            let bytes = encode(LastRecord::from(&last));
            assert_eq!(decode::<LastRecord>(&bytes).unwrap().into_last(&last.run.job()), Some(last));
        }
    }

    #[test]
    fn what_a_run_follows_reads_back_with_how_it_ended_and_without_where_an_older_version_wrote_it() {
        let followed = Done::of(&open(), Verdict::Failed, "x".repeat(399) + "ü", open().at);
        let follows = Open {
            source: Source::After(Box::new(Predecessor::of(&Done { exit_code: Some(3), ..followed }))),
            ..open()
        };
        let bytes = encode(OpenRecord::from(&follows));
        let record: OpenRecord = decode(&bytes).unwrap();
        assert_eq!(record.into_open(open().id), follows);
        let done = Done::of(&follows, Verdict::Succeeded, "", open().at);
        assert_eq!(Done::from(decode::<DoneRecord>(&encode(DoneRecord::from(&done))).unwrap()), done);
        let Source::After(before) = &follows.source else { panic!("{follows:?}") };
        let end = before.end.as_ref().unwrap();
        assert_eq!((end.reason.len(), end.exit_code), (399, Some(3)));

        let mut older: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        older["r"].as_object_mut().unwrap().remove("after_end").unwrap();
        let record: OpenRecord = decode(older.to_string().as_bytes()).unwrap();
        assert_eq!(
            record.into_open(open().id).source,
            Source::After(Box::new(Predecessor { run: open().id, end: None }))
        );
    }

    #[test]
    fn the_parameters_of_a_run_read_back_and_those_of_an_older_version_are_none() {
        let params = Params::new([("region", "eu"), ("empty", "")]).unwrap();
        let asked = Open { source: Source::Trigger { by: "eve".into(), params }, ..open() };
        let bytes = encode(OpenRecord::from(&asked));
        assert_eq!(decode::<OpenRecord>(&bytes).unwrap().into_open(asked.id.clone()), asked);
        let done = Done::of(&asked, Verdict::Succeeded, "", asked.at);
        assert_eq!(Done::from(decode::<DoneRecord>(&encode(DoneRecord::from(&done))).unwrap()), done);

        let mut older: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        older["r"].as_object_mut().unwrap().remove("params").unwrap();
        let record: OpenRecord = decode(older.to_string().as_bytes()).unwrap();
        let nothing = Source::Trigger { by: "eve".into(), params: Params::default() };
        assert_eq!(record.into_open(asked.id).source, nothing);
    }

    #[test]
    fn pruned_stretches_are_told_apart_by_the_widest_gaps() {
        let at = |seconds: u64| Wall::EPOCH.plus(Duration::from_secs(seconds));
        let mut pruned = PrunedRecord::default();
        for nth in 0..100 {
            pruned.add(at(nth * 10), at(nth * 10 + 5));
        }
        // A clock was ahead for a while.
        for nth in 0..100 {
            pruned.add(at(86_400 + nth * 10), at(86_400 + nth * 10 + 5));
        }
        assert_eq!(pruned.spans.len(), SPANS_MOST);
        assert!(pruned.covers(at(505)) && pruned.covers(at(86_905)));
        assert!(!pruned.covers(at(996)) && !pruned.covers(at(50_000)) && !pruned.covers(at(86_399)));
    }

    #[test]
    fn a_record_of_a_later_version_is_not_read() {
        let later = br#"{"v":2,"r":{"by":"x","at":"2026-11-21T02:00:00Z"}}"#;
        assert_eq!(decode::<Asked>(later), None);
    }
}
