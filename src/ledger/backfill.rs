//! Backfills: runs that a person asks for, for instants of the past. What was asked for is kept beside the runs, so that
//! a backfill can be looked at and stopped. What is left to do about it is a record too, which is deleted with the last
//! of it: where the asking or the stopping breaks off, the same request goes on with it, or the leader does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::act::{Act, Acted, Acting, Deed};
use super::keys::sortable;
use super::record::{Asked, CancelRecord, decode, encode};
use super::request::{AskError, CALL_DIGITS};
use super::{Ledger, RunRow};
use crate::job::{Job, JobName, RunId, Trigger, Verdict};
use crate::lock::Hold;
use crate::scheduler::run::OpenState;
use crate::store::{Compare, Entry, Keys, Op, Range, Revision, Sort, Store, StoreError, Txn};
use crate::time::Wall;

/// How many backfills are kept.
pub const BACKFILLS_KEPT: usize = 200;

/// The most instants that one backfill may ask for.
pub const BACKFILL_MOST: usize = 1000;

/// How many runs one transaction withdraws.
const WITHDRAWN_AT_ONCE: usize = 40;

/// A backfill, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfill {
    pub id: String,
    pub asked: Asked,
    pub job: JobName,
    /// In the order of their instants.
    pub runs: Vec<RunId>,
    /// The person that stopped what had not begun by then.
    pub stopped: Option<Asked>,
}

/// What a backfill would ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillPlan {
    pub runs: Vec<RunId>,
    /// The first and the last instant of the stretch at which the job was due.
    pub first: Wall,
    pub last: Wall,
    /// At how many it was due.
    pub instants: usize,
    /// How what is asked for stands now, in a word, and how often.
    pub asked: BTreeMap<&'static str, usize>,
    /// The same of what is left out: what has succeeded, is open, or is in doubt.
    pub left_out: BTreeMap<&'static str, usize>,
}

/// How far a backfill has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillProgress {
    pub backfill: Backfill,
    /// How many of its runs are in which state: a verdict, `waiting`, `running`, `not_asked` as long as the asking goes on,
    /// or `gone` where the run was pruned, or the backfill was stopped before it was asked for.
    pub counts: BTreeMap<&'static str, usize>,
}

#[derive(Serialize, Deserialize)]
struct BackfillRecord {
    asked: Asked,
    job: JobName,
    /// What the runs are called behind the job and the `@`.
    runs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped: Option<Asked>,
}

/// What is left to do about a backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Left {
    /// To ask for its runs.
    Asking,
    /// To withdraw those that have not begun.
    Withdrawing,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct LeftRecord {
    left: Left,
    /// Since when. The request that made it so is at work for a while.
    since: Wall,
}

/// The id of a backfill that was asked for then.
pub(super) fn id_at(at: Wall, call: &str) -> String {
    format!("{}{call}", sortable(at))
}

impl BackfillRecord {
    fn of(backfill: &Backfill) -> BackfillRecord {
        let name = |run: &RunId| run.as_str().split_once('@').map_or(String::new(), |(_, rest)| rest.to_owned());
        BackfillRecord {
            asked: backfill.asked.clone(),
            job: backfill.job.clone(),
            runs: backfill.runs.iter().map(name).collect(),
            stopped: backfill.stopped.clone(),
        }
    }

    fn into_backfill(self, id: &str) -> Backfill {
        let BackfillRecord { asked, job, runs, stopped } = self;
        let runs = runs.iter().filter_map(|run| format!("{job}@{run}").parse().ok()).collect();
        Backfill { id: id.to_owned(), asked, job, runs, stopped }
    }
}

impl Backfill {
    /// Of which instants the first and the last run are.
    pub fn bounds(&self) -> Option<(Wall, Wall)> {
        Some((self.runs.first()?.at(), self.runs.last()?.at()))
    }
}

/// The run of a backfill for one instant: the same for each call as long as nothing else is known of that instant, so
/// that a backfill that broke off and is asked for again requests nothing twice. A part of the SHA-256 of what is known.
fn run_for(job: &JobName, at: Wall, known: &[&RunRow]) -> RunId {
    let mut ids: Vec<&str> = known.iter().map(|row| row.id().as_str()).collect();
    ids.sort_unstable();
    let hash = Sha256::digest(format!("{job} {at} {}", ids.join(" ")));
    let id: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    RunId::asked_for(job, at, &format!("b-{}", &id[..CALL_DIGITS]))
}

/// How an instant stands, and whether a backfill leaves it out.
fn standing(known: &[&RunRow]) -> (&'static str, bool) {
    let ended = |verdict| known.iter().any(|row| row.verdict() == Some(verdict));
    if ended(Verdict::Succeeded) {
        ("succeeded", true)
    } else if known.iter().any(|row| row.verdict().is_none()) {
        ("open", true)
    } else if ended(Verdict::Unknown) {
        ("unknown", true)
    } else if [Verdict::Failed, Verdict::TimedOut, Verdict::Cancelled].into_iter().any(ended) {
        ("failed", false)
    } else if ended(Verdict::Skipped) {
        ("skipped", false)
    } else {
        ("not run", false)
    }
}

/// The instants from `from` to before `to` at which the job was due.
fn instants(job: &Job, (from, to): (Wall, Wall), now: Wall) -> Result<Vec<Wall>, AskError> {
    let wrong = |why: String| Err(AskError::WrongStretch(why));
    if from >= to {
        return wrong(format!("from {from} is not before to {to}: no instant lies between them"));
    }
    let Trigger::Schedule { schedule, .. } = &job.trigger else {
        let name = &job.name;
        return wrong(format!("`{name}` has no schedule, so no instants of the past: `fencron trigger` runs it now"));
    };
    if to > now {
        return wrong(format!("to {to} lies in the future: a backfill is for the past"));
    }
    let just_before = |at: Wall| Wall::from_millis(at.as_millis() - 1);
    let instants = schedule.between(just_before(from), just_before(to));
    let instants: Vec<Wall> = instants.take(BACKFILL_MOST + 1).collect();
    match instants.last() {
        Some(last) if instants.len() > BACKFILL_MOST => {
            wrong(format!("that is more than {BACKFILL_MOST} runs: take a shorter stretch (the first ends at {last})"))
        }
        _ => Ok(instants),
    }
}

impl<S: Store> Ledger<S> {
    /// What a backfill of `job` from the one instant to before the other would ask for; `None`: the job was not due in
    /// between. `again`: ask for all of it once more, under this call.
    ///
    /// # Errors
    ///
    /// [`AskError::WrongStretch`], and the store's.
    pub async fn plan_backfill(
        &self,
        job: &Job,
        stretch: (Wall, Wall),
        again: Option<&str>,
        now: Wall,
    ) -> Result<Option<BackfillPlan>, AskError> {
        let instants = instants(job, stretch, now)?;
        let (Some(first), Some(last)) = (instants.first(), instants.last()) else { return Ok(None) };
        let rows = self.runs_between(&job.name, *first, *last).await?;
        let mut known: BTreeMap<Wall, Vec<&RunRow>> = BTreeMap::new();
        for row in &rows {
            known.entry(row.id().at()).or_default().push(row);
        }
        let (mut runs, mut asked, mut left_out) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for at in &instants {
            let known = known.get(at).map_or(&[][..], Vec::as_slice);
            let (stands, leave_out) = standing(known);
            if leave_out && again.is_none() {
                *left_out.entry(stands).or_insert(0) += 1;
                continue;
            }
            *asked.entry(stands).or_insert(0) += 1;
            runs.push(match again {
                Some(call) => RunId::asked_for(&job.name, *at, call),
                None => run_for(&job.name, *at, known),
            });
        }
        Ok(Some(BackfillPlan { runs, first: *first, last: *last, instants: instants.len(), asked, left_out }))
    }

    /// Asks for these runs of a job, but for those that exist. First the backfill is recorded, then the runs are asked
    /// for: where that breaks off, the same request with the same key goes on with it, or else the leader.
    pub async fn backfill(&self, acting: &Acting, job: &JobName, runs: Vec<RunId>) -> Result<Deed, AskError> {
        let id = id_at(acting.asked.at, &format!("-{}", acting.id()));
        let backfill = Backfill { id, asked: acting.asked.clone(), job: job.clone(), runs, stopped: None };
        let bounds = backfill.bounds().map_or(String::new(), |(first, last)| format!(", from {first} to {last}"));
        let detail = format!("{} runs{bounds}", backfill.runs.len());
        let deed = Deed { backfill: Some(backfill.id.clone()), ..Deed::of_job(Act::Backfill, job).with(detail) };
        let txn = Txn::new()
            .then(Op::put(self.keys.backfill(&backfill.id), encode(BackfillRecord::of(&backfill))))
            .then(self.leaving(&backfill.id, Left::Asking, acting));
        let deed = match self.act(acting, &deed, txn).await? {
            Acted::Made => deed,
            Acted::Before(deed) => deed,
            Acted::Refused(_) => return Err(AskError::Moved { what: deed.on }),
        };
        self.go_on_with(deed.backfill.as_deref().unwrap_or_default()).await?;
        Ok(deed)
    }

    fn leaving(&self, id: &str, left: Left, acting: &Acting) -> Op {
        Op::put(self.keys.backfilling(id), encode(LeftRecord { left, since: acting.asked.at }))
    }

    /// Does what is left to do about a backfill: asks for its runs, or withdraws them. Any number of callers may do so at
    /// once.
    ///
    /// # Errors
    ///
    /// [`AskError::Changed`] where runs of these names come and go, and the store's.
    pub async fn go_on_with(&self, id: &str) -> Result<(), AskError> {
        self.go_on(id, None).await
    }

    /// The same, for as long as this hold stands.
    async fn go_on(&self, id: &str, hold: Option<&Hold>) -> Result<(), AskError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.backfilling(id)))).await?;
        let Some(entry) = page.entries.first() else { return Ok(()) };
        let Some((backfill, _)) = self.backfill_of(id).await? else {
            // Only so many backfills are kept.
            return Ok(self.commit(nothing_left(entry, hold)).await.map(drop)?);
        };
        let Some(LeftRecord { left, .. }) = decode(&entry.value) else {
            let why = "what is left of this backfill cannot be read: it is damaged, or of a newer version";
            return Err(StoreError::Unusable(why.to_owned()).into());
        };
        match left {
            Left::Asking => self.ask_for(&backfill, entry, hold).await,
            Left::Withdrawing => {
                self.withdraw(&backfill, hold).await?;
                Ok(self.commit(nothing_left(entry, hold)).await.map(drop)?)
            }
        }
    }

    /// Goes on, as the leader of this hold, with the backfills of which something is left since before `since`, and
    /// answers how many there were. A leader that was replaced changes nothing.
    ///
    /// # Errors
    ///
    /// As [`Ledger::go_on_with`].
    pub async fn finish_backfills(&self, hold: &Hold, since: Wall) -> Result<usize, AskError> {
        let page = self.store.range(Range { limit: BACKFILLS_KEPT, ..Range::of(self.keys.all_backfilling()) }).await?;
        let prefix = self.keys.backfilling("");
        let is_old = |entry: &&Entry| decode::<LeftRecord>(&entry.value).is_some_and(|left| left.since < since);
        let (mut finished, mut failed) = (0, None);
        for entry in page.entries.iter().filter(is_old) {
            match self.go_on(entry.key.strip_prefix(&prefix).unwrap_or_default(), Some(hold)).await {
                _ if !self.stands(hold).await? => return Ok(finished),
                Ok(()) => finished += 1,
                Err(AskError::Store(error)) if error.is_passing() => return Err(error.into()),
                // One that cannot be finished holds up no other.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(finished), Err)
    }

    async fn backfill_of(&self, id: &str) -> Result<Option<(Backfill, Revision)>, StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.backfill(id)))).await?;
        let Some(entry) = page.entries.first() else { return Ok(None) };
        let Some(record) = decode::<BackfillRecord>(&entry.value) else {
            let why = format!("the record of the backfill {id} cannot be read: it is damaged, or of a newer version");
            return Err(StoreError::Unusable(why));
        };
        Ok(Some((record.into_backfill(id), entry.modified)))
    }

    /// The backfills that are kept, the last changed first, at most `limit`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn backfills(&self, limit: usize) -> Result<Vec<Backfill>, StoreError> {
        let range = Range { order: Sort::NewestFirst, limit, ..Range::of(self.keys.backfills()) };
        let page = self.store.range(range).await?;
        let prefix = self.keys.backfill("");
        let one = |entry: &Entry| {
            let record: BackfillRecord = decode(&entry.value)?;
            Some(record.into_backfill(entry.key.strip_prefix(&prefix)?))
        };
        Ok(page.entries.iter().filter_map(one).collect())
    }

    /// How far a backfill has come; `None`: there is none of this id.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn backfill_progress(&self, id: &str) -> Result<Option<BackfillProgress>, StoreError> {
        let Some((backfill, _)) = self.backfill_of(id).await? else { return Ok(None) };
        let left = self.store.range(Range::of(Keys::one(self.keys.backfilling(id)))).await?;
        let left = left.entries.first().and_then(|entry| decode(&entry.value));
        let not_there = match left.map(|LeftRecord { left, .. }| left) {
            Some(Left::Asking) => "not_asked",
            Some(Left::Withdrawing) | None => "gone",
        };
        let rows = match backfill.bounds() {
            Some((first, last)) => self.runs_between(&backfill.job, first, last).await?,
            None => Vec::new(),
        };
        let by_run: BTreeMap<&RunId, &RunRow> = rows.iter().map(|row| (row.id(), row)).collect();
        let mut counts = BTreeMap::new();
        for run in &backfill.runs {
            let state = match by_run.get(run) {
                None => not_there,
                Some(RunRow::Done(done)) => done.verdict.as_str(),
                Some(RunRow::Open(open)) if open.state == OpenState::Claimed => "running",
                Some(RunRow::Open(_)) => "waiting",
            };
            *counts.entry(state).or_insert(0) += 1;
        }
        Ok(Some(BackfillProgress { backfill, counts }))
    }

    /// Withdraws the runs of a backfill that have not begun, also those that are claimed and given back before they
    /// begin. Those that have begun go on.
    pub async fn stop_backfill(&self, acting: &Acting, id: &str) -> Result<Deed, AskError> {
        let Some((backfill, modified)) = self.backfill_of(id).await? else {
            return Err(AskError::NoSuchBackfill(id.to_owned()));
        };
        // The first to stop it stays the one that did.
        let first = backfill.stopped.clone().unwrap_or_else(|| acting.asked.clone());
        let stopped = Backfill { stopped: Some(first), ..backfill };
        let deed = Deed {
            backfill: Some(id.to_owned()),
            ..Deed::of_job(Act::StopBackfill, &stopped.job).with(format!("of {}", stopped.asked.at))
        };
        let key = self.keys.backfill(id);
        let txn = Txn::new()
            .when(Compare::modified_at(&key, modified))
            .then(Op::put(&key, encode(BackfillRecord::of(&stopped))))
            .then(self.leaving(id, Left::Withdrawing, acting));
        let deed = self.act_with(acting, deed, txn).await?;
        self.go_on_with(id).await?;
        Ok(deed)
    }

    /// Asks for the runs of a stopped backfill to be cancelled unless they have begun. Whether one that is claimed has
    /// begun, its node knows. Asking twice is asking once.
    async fn withdraw(&self, backfill: &Backfill, hold: Option<&Hold>) -> Result<(), StoreError> {
        let (open, _) = self.store.range_all(self.keys.opens_of(&backfill.job)).await?;
        let not_begun = |entry: &Entry| {
            let Some(super::keys::About::Open(run)) = self.keys.about(&entry.key) else { return None };
            let open = self.open_of(&run, entry)?;
            (backfill.runs.contains(&run) && !open.has_begun()).then_some(run)
        };
        let runs: Vec<RunId> = open.iter().filter_map(not_begun).collect();
        for some in runs.chunks(WITHDRAWN_AT_ONCE) {
            if self.commit(self.withdrawing(backfill, some, hold)).await?.0.succeeded {
                continue;
            }
            // One of them has ended meanwhile, or is asked to be cancelled already.
            for one in some {
                self.commit(self.withdrawing(backfill, std::slice::from_ref(one), hold)).await?;
            }
        }
        Ok(())
    }

    fn withdrawing(&self, backfill: &Backfill, runs: &[RunId], hold: Option<&Hold>) -> Txn {
        let asked = backfill.stopped.as_ref().unwrap_or(&backfill.asked).clone();
        let record = encode(CancelRecord { asked, unless_begun: true });
        runs.iter().fold(under(hold), |txn, run| {
            let cancel = self.keys.cancel(run);
            txn.when(Compare::present(Keys::one(self.keys.open(run))))
                .when(Compare::absent(Keys::one(&cancel)))
                .then(Op::put(cancel, record.clone()))
        })
    }
}

/// A transaction that is only applied where this hold, if there is one, still stands.
pub(super) fn under(hold: Option<&Hold>) -> Txn {
    hold.into_iter().flat_map(Hold::still_held).fold(Txn::new(), Txn::when)
}

/// Says of a backfill that nothing is left to do about it.
fn nothing_left(left: &Entry, hold: Option<&Hold>) -> Txn {
    under(hold).when(Compare::modified_at(&left.key, left.modified)).then(Op::delete(&left.key))
}
