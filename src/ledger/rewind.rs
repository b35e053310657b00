//! Bringing the schedules back that were decided by a clock that was ahead.
//!
//! The watermark and what the jobs' records say go back to an instant; what was claimed or has a verdict stays as it is.
//! Up to where that reaches is kept beside the watermark: claims up to there compare that no claim and no verdict is
//! there, and what was pruned is known by the stretches of [`PrunedRecord`].

use serde::{Deserialize, Serialize};

use super::act::{Act, Acted, Acting, Deed};
use super::history::done_entry;
use super::record::{Asked, DoneRecord, KnownRecord, PrunedRecord, WatermarkRecord, decode, encode};
use super::request::AskError;
use super::{Claim, Ledger, keys};
use crate::job::{JobName, RunId, Verdict};
use crate::scheduler::Batch;
use crate::scheduler::run::{Done, Known, Source, Watermark};
use crate::store::{Committed, Compare, Entry, Keys, Op, Range, Revision, Store, StoreError, Txn};
use crate::time::Wall;

/// With what the batch's name in a watermark begins that was brought back by hand.
const REWIND: &str = "rewind-";

/// How far a node's clock may be ahead of the clock of the person that asks for a rewind: what the node published lies in
/// the past. A clock that is ahead would decide again what is brought back, at once.
pub const AHEAD_MOST: std::time::Duration = std::time::Duration::from_secs(2);

/// How many rewinds are remembered.
const REMEMBERED: usize = 20;

/// How often a rewind begins again because a leader moved the watermark meanwhile.
const TRIES_MOST: u32 = 20;

/// How many records one transaction changes.
const CHANGED_AT_ONCE: usize = 40;

/// How many jobs with a history are looked through.
const JOBS_LOOKED_AT: usize = 100_000;

/// A rewind that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewound {
    pub asked: Asked,
    /// Up to where the schedules had been decided; `None`: that is unknown.
    pub from: Option<Wall>,
    /// From where on they are decided again.
    pub to: Wall,
    /// How many jobs are due from there on that were said to be due only later.
    pub jobs: u64,
    /// How many verdicts `skipped`, of instants that had not come, were taken back.
    pub taken_back: u64,
}

impl Rewound {
    /// What is recorded of it as an act.
    pub fn deed(&self) -> Deed {
        let from = self.from.map_or(String::new(), |from| format!("from {from} "));
        Deed::new(Act::Rewind, "the schedules").with(format!("{from}to {}", self.to))
    }
}

/// What is kept of the rewinds.
#[derive(Serialize, Deserialize)]
pub(super) struct RewoundRecord {
    /// Occurrences that start up to here may have been decided before.
    pub upto: Wall,
    /// The newest first.
    rewinds: Vec<Rewound>,
}

/// What a rewind would do.
#[derive(Clone, Debug)]
pub struct Rewinding {
    pub from: Option<Wall>,
    pub to: Wall,
    /// The jobs that would be due from there on.
    pub jobs: Vec<JobName>,
    /// The verdicts that would be taken back.
    pub taken_back: usize,
    /// The jobs of which verdicts were pruned that lie behind `to`: what may have run is skipped.
    pub pruned: Vec<JobName>,
    skips: Vec<Done>,
    known: Vec<(JobName, Known, Revision)>,
    upto: Wall,
    watermark_at: Revision,
    record: (Revision, Vec<Rewound>),
}

/// Why a rewind was not made.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    #[error("the schedules have been decided up to {0}, which is no later: there is nothing to bring back")]
    NothingToDo(Wall),
    #[error(
        "the watermark cannot be read, so it is unknown up to where the schedules have been decided: name with --to \
         the instant after which they are decided again; what was claimed or has a verdict is not fired again"
    )]
    ToIsMissing,
    #[error("a leader decides on while the schedules are brought back: is its clock right? Look at `fencron status`")]
    Moving,
    #[error(transparent)]
    Asked(AskError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AskError> for RewindError {
    fn from(error: AskError) -> RewindError {
        match error {
            AskError::Store(error) => RewindError::Store(error),
            error => RewindError::Asked(error),
        }
    }
}

impl<S: Store> Ledger<S> {
    /// The rewinds that were made, the newest first.
    pub async fn rewinds(&self) -> Result<Vec<Rewound>, StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.rewound()))).await?;
        let record = page.entries.first().and_then(|entry| decode::<RewoundRecord>(&entry.value));
        Ok(record.map(|record| record.rewinds).unwrap_or_default())
    }

    /// Finds out what a rewind would do; `to` is `now` by default.
    pub async fn look_at_rewind(&self, to: Option<Wall>, now: Wall) -> Result<Rewinding, RewindError> {
        let entry = self.entry(self.keys.watermark()).await?;
        let watermark_at = entry.as_ref().map_or(Revision(0), |entry| entry.modified);
        let from = entry.and_then(|entry| decode::<WatermarkRecord>(&entry.value)).map(|mark| mark.watermark().instant);
        let to = match (from, to) {
            (_, Some(to)) => to,
            (Some(_), None) => now,
            (None, None) => return Err(RewindError::ToIsMissing),
        };
        let known: Vec<(JobName, Known, Revision)> =
            self.known_versions().await?.into_iter().filter(|(_, known, _)| known.since > to).collect();
        let record = self.entry(self.keys.rewound()).await?;
        let record_at = record.as_ref().map_or(Revision(0), |entry| entry.modified);
        let record = record.and_then(|entry| decode::<RewoundRecord>(&entry.value));
        if let Some(from) = from.filter(|from| *from <= to && known.is_empty()) {
            return Err(RewindError::NothingToDo(from));
        }
        let mut upto = known.iter().map(|(_, known, _)| known.since).chain(from).fold(now, Wall::max);
        upto = record.as_ref().map_or(upto, |record| record.upto.max(upto));
        let (mut skips, mut pruned) = (Vec::new(), Vec::new());
        for job in self.jobs_with_history(None, JOBS_LOOKED_AT).await? {
            let last = self.skips_to_come(&job, now, &mut skips).await?;
            upto = last.map_or(upto, |last| upto.max(last));
            if self.pruned(&job).await?.is_some_and(|pruned| pruned.spans.iter().any(|(_, last)| *last > to)) {
                pruned.push(job);
            }
        }
        Ok(Rewinding {
            from,
            to,
            jobs: known.iter().map(|(job, ..)| job.clone()).collect(),
            taken_back: skips.len(),
            pruned,
            skips,
            known,
            upto,
            watermark_at,
            record: (record_at, record.map(|record| record.rewinds).unwrap_or_default()),
        })
    }

    /// Brings the schedules back. A leader that runs plans again from there on.
    pub async fn rewind(&self, acting: &Acting, to: Option<Wall>, now: Wall) -> Result<Rewound, RewindError> {
        let name = format!("{REWIND}{}", acting.call('w'));
        let (mut taken_back, mut jobs, mut upto) = (0, 0, now);
        for _ in 0..TRIES_MOST {
            let plan = self.look_at_rewind(to, now).await?;
            taken_back += self.take_back(&plan.skips, plan.to, now).await?;
            // One whose answer was lost finds in the next round that it has been made.
            jobs = jobs.max(plan.known.len() as u64);
            upto = upto.max(plan.upto);
            // First of all: the jobs' records of now show how far it reaches.
            let Some(marked_at) = self.mark(&plan, upto).await? else { continue };
            if !self.lower(&plan).await? {
                continue;
            }
            let rewound = Rewound { asked: acting.asked.clone(), from: plan.from, to: plan.to, jobs, taken_back };
            let mut rewinds = vec![rewound.clone()];
            rewinds.extend(plan.record.1);
            rewinds.truncate(REMEMBERED);
            let record = RewoundRecord { upto, rewinds };
            let mark = WatermarkRecord::new(&Watermark { instant: plan.to, job: None }, name.clone());
            // A watcher learns first that it has to look at what is there already.
            let txn = Txn::new()
                .when(Compare::modified_at(self.keys.watermark(), plan.watermark_at))
                .when(Compare::modified_at(self.keys.rewound(), marked_at))
                .then(Op::put(self.keys.rewound(), encode(record)))
                .then(Op::put(self.keys.watermark(), encode(mark)));
            match self.act(acting, &rewound.deed(), txn).await? {
                Acted::Made => return Ok(rewound),
                Acted::Before(_) => return Ok(self.rewinds().await?.into_iter().next().unwrap_or(rewound)),
                Acted::Refused(_) => {}
            }
        }
        Err(RewindError::Moving)
    }

    async fn entry(&self, key: String) -> Result<Option<Entry>, StoreError> {
        Ok(self.read(Range::of(Keys::one(key))).await?.entries.into_iter().next())
    }

    async fn known_versions(&self) -> Result<Vec<(JobName, Known, Revision)>, StoreError> {
        let (entries, _) = self.store.range_all(self.keys.jobs()).await?;
        let known = |entry: &Entry| match self.keys.about(&entry.key)? {
            keys::About::Job(job) => Some((job, decode::<KnownRecord>(&entry.value)?.into(), entry.modified)),
            _ => None,
        };
        Ok(entries.iter().filter_map(known).collect())
    }

    /// Finds the verdicts `skipped` on occurrences of `job` that come only after `now`; answers the last instant of all
    /// verdicts of the job.
    async fn skips_to_come(&self, job: &JobName, now: Wall, found: &mut Vec<Done>) -> Result<Option<Wall>, StoreError> {
        let (entries, _) = self.store.range_all(self.keys.history_after(job, now)).await?;
        let dones: Vec<Done> =
            entries.iter().filter_map(done_entry).filter(|done| done.source == Source::Schedule).collect();
        let last = dones.iter().map(|done| done.at).max();
        found.extend(dones.into_iter().filter(|done| done.verdict == Verdict::Skipped && done.attempt == 0));
        Ok(last)
    }

    /// Takes back what was skipped before its time had come. Of a verdict over many, those before it stay skipped.
    async fn take_back(&self, skips: &[Done], to: Wall, now: Wall) -> Result<u64, StoreError> {
        let mut taken_back = 0;
        for skips in skips.chunks(CHANGED_AT_ONCE) {
            let mut txn = Txn::new();
            for done in skips {
                let key = self.keys.verdict(done);
                txn = txn.when(Compare::present(Keys::one(&key))).then(Op::delete(key));
                let Some(many) = done.many.filter(|many| many.from <= now) else { continue };
                let first = Done {
                    id: RunId::of(&done.job, many.from),
                    at: many.from,
                    many: None,
                    reason: format!(
                        "{}; of {} occurrences from here to {}, those after {to} were taken back by a rewind",
                        done.reason, many.count, done.at
                    ),
                    ..done.clone()
                };
                txn = txn.then(Op::put(self.keys.verdict(&first), encode(DoneRecord::from(&first))));
            }
            if self.commit(txn).await?.0.succeeded {
                taken_back += skips.len() as u64;
            }
        }
        Ok(taken_back)
    }

    /// Keeps up to where occurrences may have been decided, and answers as of which version. `None`: another process
    /// did meanwhile, or an answer was lost.
    async fn mark(&self, plan: &Rewinding, upto: Wall) -> Result<Option<Revision>, StoreError> {
        let record = RewoundRecord { upto, rewinds: plan.record.1.clone() };
        let txn = Txn::new()
            .when(Compare::modified_at(self.keys.rewound(), plan.record.0))
            .then(Op::put(self.keys.rewound(), encode(record)));
        let (committed, _) = self.commit(txn).await?;
        Ok(committed.succeeded.then_some(committed.revision))
    }

    /// Has the jobs be due from `to` on. `false`: one of their records changed meanwhile.
    async fn lower(&self, plan: &Rewinding) -> Result<bool, StoreError> {
        for known in plan.known.chunks(CHANGED_AT_ONCE) {
            let mut txn = Txn::new();
            for (job, known, at) in known {
                let record = KnownRecord::from(&Known { since: plan.to, ..known.clone() });
                let key = self.keys.job(job);
                txn = txn.when(Compare::modified_at(&key, *at)).then(Op::put(key, encode(record)));
            }
            if !self.commit(txn).await?.0.succeeded {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Which stretches of the job's history were pruned.
    pub(super) async fn pruned(&self, job: &JobName) -> Result<Option<PrunedRecord>, StoreError> {
        let entry = self.entry(self.keys.pruned(job)).await?;
        Ok(entry.and_then(|entry| decode(&entry.value)))
    }

    /// Of a batch of what may have been decided before: what may have run, and of which no verdict is kept.
    pub(super) async fn forgotten(&self, batch: &Batch) -> Result<Vec<RunId>, StoreError> {
        let mut forgotten = Vec::new();
        for open in &batch.opens {
            let pruned = self.pruned(&open.job).await?;
            let may_have_run = pruned.is_some_and(|pruned| pruned.covers(open.at));
            forgotten.extend(may_have_run.then(|| open.id.clone()));
        }
        Ok(forgotten)
    }

    /// That nothing of the batch has a claim or a verdict; otherwise reads which of it has, as [`found_decided`] finds.
    pub(super) fn compare_undecided(&self, txn: Txn, batch: &Batch) -> Txn {
        runs(batch).fold(txn, |txn, run| {
            [Keys::one(self.keys.open(run)), self.keys.verdict_on(run)].into_iter().fold(txn, |txn, keys| {
                let read = Op::Get(Range { keys_only: true, ..Range::of(keys.clone()) });
                txn.when(Compare::absent(keys)).otherwise(read)
            })
        })
    }

    /// What a claim met that found the watermark other than expected, or something decided already.
    pub(super) fn refused_claim(&self, committed: &Committed, batch: &Batch, expected: Revision) -> Claim {
        let Some(watermark) = committed.got(0).and_then(<[Entry]>::first) else { return Claim::Fenced };
        if watermark.modified == expected {
            let decided = if batch.anew { found_decided(committed, batch) } else { Vec::new() };
            return if decided.is_empty() { Claim::Fenced } else { Claim::Decided { decided, forgotten: Vec::new() } };
        }
        let by_hand = super::batch_of(watermark).is_some_and(|name| name.starts_with(REWIND));
        if by_hand { Claim::Rewound { version: watermark.modified.0 } } else { Claim::Fenced }
    }
}

fn runs(batch: &Batch) -> impl Iterator<Item = &RunId> {
    batch.opens.iter().map(|open| &open.id).chain(batch.dones.iter().map(|done| &done.id))
}

/// What of the batch is in the ledger, behind the first answer.
fn found_decided(committed: &Committed, batch: &Batch) -> Vec<RunId> {
    let exists = |at: usize| committed.got(at).is_some_and(|entries| !entries.is_empty());
    let found = runs(batch).enumerate().filter(|(nth, _)| exists(1 + 2 * nth) || exists(2 + 2 * nth));
    found.map(|(_, run)| run.clone()).collect()
}
