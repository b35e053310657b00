//! What people ask for: transactions that the leader sees through its watch.

use super::act::{Act, Acted, Acting, Deed, found};
use super::backfill::{Backfill, under};
use super::record::{CancelRecord, DoneRecord, OpenRecord, Pause, StepDownRecord, WatermarkRecord, decode, encode};
use super::{Ledger, Pauses};
use crate::fence::Fence;
use crate::job::{Code, Job, JobName, NotGiven, Params, RunId, Task, Verdict};
use crate::lock::{HeldBy, Hold, LockName, PermitsHeld};
use crate::scheduler::run::{Done, Open, OpenState, Source, Watermark};
use crate::scheduler::{To, Transition};
use crate::store::{Committed, Compare, Entry, FULL, Keys, Op, Range, Revision, Store, StoreError, Txn};
use crate::time::Wall;

/// What stands in the place of a batch's name in a watermark that was moved by hand.
const SKIP: &str = "skip";

/// How often what a person asks for is sent that gets no answer.
pub(super) const TRIES: u32 = 5;

/// How many holds of permits one act revokes.
pub const HOLDS_TAKEN_MOST: usize = 40;

/// How many runs one transaction asks for.
const ASKED_AT_ONCE: usize = 59;

/// How many bytes are kept of why a run was in doubt that is run once more.
const DOUBT_KEPT: usize = 500;

/// How many digits of the identity of an act are in the names of the runs that it asks for.
pub const CALL_DIGITS: usize = 12;

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("there is no run {0}: `fencron runs` lists those that are kept")]
    NoSuchRun(RunId),
    #[error("{run} has ended already: {verdict}")]
    Ended { run: RunId, verdict: Verdict },
    #[error("{run} is not in doubt: it ended as `{verdict}`, and only what ended as `unknown` can be resolved")]
    NotInDoubt { run: RunId, verdict: String },
    #[error("{what} {so} already")]
    AlreadySo { what: String, so: &'static str },
    #[error("{what} {so}")]
    NotSo { what: String, so: &'static str },
    #[error("there is no node {0}: `fencron status` lists those that are there")]
    NoSuchNode(String),
    #[error("{run} is asked to be cancelled already, by {by}: `fencron logs -f {run}` shows its end")]
    CancelAsked { run: RunId, by: String },
    #[error("{0} has not ended: it waits, or is under way. Only what ended as `unknown` can be resolved")]
    NotEnded(RunId),
    #[error("{run} was changed by another process meanwhile: check it and try again")]
    Changed { run: RunId },
    #[error("{0}")]
    WrongStretch(String),
    #[error("{job} cannot be given that: {why}")]
    NotGiven { job: JobName, why: NotGiven },
    #[error("{0} is not in the jobs file any more: its run would be cancelled. Put the job back, then run it")]
    Unconfigured(JobName),
    #[error("there is no backfill {0}: it was never asked for, or it is kept no longer")]
    NoSuchBackfill(String),
    #[error("{name} is under way: {node} runs it. Wait for it to end, or stop it there")]
    UnderWay { name: String, node: String },
    #[error("{0} is done: there is nothing to resolve")]
    IsDone(String),
    #[error("{what} was changed by another process meanwhile: check it and try again")]
    Moved { what: String },
    /// Another leads than the one that was meant, or none does.
    #[error("{0}: `fencron status` shows which node leads, and under which fence")]
    NotLed(String),
    #[error("another request had this key, and did something else: give each request a key of its own")]
    OtherRequest,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// That a run of this job can be given these parameters.
///
/// # Errors
///
/// [`AskError::NotGiven`].
pub fn check_params(job: &Job, params: &Params) -> Result<(), AskError> {
    let given = match &job.task {
        Task::Http(http) => http.given(params).map(drop),
        Task::Sql(sql) => sql.given(params).map(drop),
        Task::Command(_) | Task::Call => Ok(()),
    };
    given.map_err(|why| AskError::NotGiven { job: job.name.clone(), why })
}

/// What is said of all jobs where one could be named.
pub const ALL_JOBS: &str = "all jobs";

/// How what is paused is said to be so, or not.
fn paused_or_not(job: Option<&JobName>) -> [&'static str; 2] {
    match job {
        Some(_) => ["is paused", "is not paused: there is nothing to resume"],
        None => ["are paused", "are not paused: there is nothing to resume"],
    }
}

/// What a person decides about a run that ended as `unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It was done.
    Succeeded,
    /// It was not done, and is not to be.
    Failed,
    /// It runs again: the same occurrence, under the fence of the leader.
    Retry,
}

impl Resolution {
    fn as_str(self) -> &'static str {
        match self {
            Resolution::Succeeded => "succeeded",
            Resolution::Failed => "failed",
            Resolution::Retry => "retry",
        }
    }
}

impl<S: Store> Ledger<S> {
    /// Asks for a run of `job` now. The answer names the run.
    pub async fn trigger(&self, acting: &Acting, job: &JobName, params: Params) -> Result<Deed, AskError> {
        let asked = &acting.asked;
        let run = RunId::asked_for(job, asked.at, &acting.call('t'));
        let names: Vec<&str> = params.iter().map(|(name, _)| name).collect();
        let with = if names.is_empty() { String::new() } else { format!("with the parameters {}", names.join(", ")) };
        let deed = Deed::of_run(Act::Trigger, &run).with(with);
        let source = Source::Trigger { by: asked.by.clone(), params };
        match self.act(acting, &deed, self.asking(Txn::new(), &[&run], &source, asked.at)).await? {
            Acted::Made => Ok(deed),
            Acted::Before(deed) => Ok(deed),
            Acted::Refused(_) => Err(AskError::Changed { run }),
        }
    }

    /// Asks for the runs of a backfill, but for those that exist, as long as `asking` is as it was, and the hold stands.
    /// `asking` is deleted together with the last request: from then on nothing is asked for again, also where a run was
    /// pruned.
    pub(super) async fn ask_for(
        &self,
        backfill: &Backfill,
        asking: &Entry,
        hold: Option<&Hold>,
    ) -> Result<(), AskError> {
        let (source, now) = (Source::Backfill { by: backfill.asked.by.clone() }, backfill.asked.at);
        let key = asking.key.as_str();
        let chunks: Vec<&[RunId]> = backfill.runs.chunks(ASKED_AT_ONCE).collect();
        for (nth, chunk) in chunks.iter().enumerate() {
            let is_last = nth + 1 == chunks.len();
            let mut left: Vec<&RunId> = chunk.iter().collect();
            let mut tries = 0;
            while !left.is_empty() || is_last {
                let mut txn = self.asking(under(hold), &left, &source, now);
                txn = txn.when(Compare::modified_at(key, asking.modified));
                if is_last {
                    txn = txn.then(Op::delete(key));
                }
                let (committed, _) = self.commit(txn.otherwise(Op::get(key))).await?;
                if committed.succeeded {
                    break;
                }
                let stands = found(&committed, key).is_some_and(|entry| entry.modified == asking.modified);
                if !stands {
                    return Ok(());
                }
                if let Some(hold) = hold
                    && !self.stands(hold).await?
                {
                    return Ok(());
                }
                // Some exist: an earlier sending requested them, or another request for the same.
                let is_there = |at: usize| committed.got(at).is_some_and(|entries| !entries.is_empty());
                let mut nth = 0..;
                left.retain(|_| nth.next().is_some_and(|nth| !is_there(2 * nth) && !is_there(2 * nth + 1)));
                tries += 1;
                if tries > TRIES {
                    let run = left.first().or(chunk.iter().last().as_ref()).map(|run| (*run).clone());
                    return run.map_or(Ok(()), |run| Err(AskError::Changed { run }));
                }
            }
        }
        Ok(())
    }

    /// Puts all of these runs too, where none exists; otherwise looks which do.
    fn asking(&self, mut txn: Txn, runs: &[&RunId], source: &Source, now: Wall) -> Txn {
        for run in runs {
            let open = asked_run(run, source, now);
            for keys in [Keys::one(self.keys.open(run)), self.keys.verdict_on(run)] {
                let there = Range { keys_only: true, ..Range::of(keys.clone()) };
                txn = txn.when(Compare::absent(keys)).otherwise(Op::Get(there));
            }
            txn = txn.then(Op::put(self.keys.open(run), encode(OpenRecord::from(&open))));
        }
        txn
    }

    /// Pauses a job, or (`None`) all: what starts before `until` is skipped, with that reason. A pause that has another
    /// end or another reason takes the place of the one before.
    pub async fn pause(&self, acting: &Acting, job: Option<&JobName>, until: Option<Wall>) -> Result<Deed, AskError> {
        let (key, deed) = match job {
            Some(job) => (self.keys.pause(job), Deed::of_job(Act::Pause, job)),
            None => (self.keys.pause_all(), Deed::new(Act::PauseAll, ALL_JOBS)),
        };
        self.put_pause(acting, key, deed, (until, paused_or_not(job)[0])).await
    }

    /// Puts a pause, or a drain, in place of one that has another end or another reason.
    pub(super) async fn put_pause(
        &self,
        acting: &Acting,
        key: String,
        deed: Deed,
        (until, so): (Option<Wall>, &'static str),
    ) -> Result<Deed, AskError> {
        let deed = deed.with(until.map_or(String::new(), |until| format!("until {until}")));
        let pause = Pause { asked: acting.asked.clone(), until };
        let mut unmoved = Revision(0);
        for _ in 0..TRIES {
            let txn = Txn::new()
                .when(Compare::modified_at(&key, unmoved))
                .then(Op::put(&key, encode(&pause)))
                .otherwise(Op::get(&key));
            let committed = match self.act(acting, &deed, txn).await? {
                Acted::Made => return Ok(deed),
                Acted::Before(deed) => return Ok(deed),
                Acted::Refused(committed) => committed,
            };
            let found = committed.got(0).and_then(<[_]>::first);
            let stands = found.and_then(|entry| decode::<Pause>(&entry.value));
            let says_more = |stands: &Pause| {
                stands.until != until
                    || !matches!(&*pause.asked.reason, reason if reason.is_empty() || reason == stands.asked.reason)
            };
            if stands.is_some_and(|stands| !says_more(&stands)) {
                return Err(AskError::AlreadySo { what: deed.on, so });
            }
            unmoved = found.map_or(Revision(0), |entry| entry.modified);
        }
        Err(AskError::Moved { what: deed.on })
    }

    /// Resumes a job that is paused, or (`None`) all where all are: a job that is paused for itself stays so.
    pub async fn resume(&self, acting: &Acting, job: Option<&JobName>) -> Result<Deed, AskError> {
        let (key, deed) = match job {
            Some(job) => (self.keys.pause(job), Deed::of_job(Act::Resume, job)),
            None => (self.keys.pause_all(), Deed::new(Act::ResumeAll, ALL_JOBS)),
        };
        self.end_by_hand(acting, &key, deed, paused_or_not(job)[1]).await
    }

    /// Ends a pause, or a drain, by a person.
    pub(super) async fn end_by_hand(
        &self,
        acting: &Acting,
        key: &str,
        deed: Deed,
        so: &'static str,
    ) -> Result<Deed, AskError> {
        let txn = Txn::new().when(Compare::present(Keys::one(key))).then(Op::delete(key));
        match self.act(acting, &deed, txn).await? {
            Acted::Made => Ok(deed),
            Acted::Before(deed) => Ok(deed),
            Acted::Refused(_) => Err(AskError::NotSo { what: deed.on, so }),
        }
    }

    /// Ends the pause of a job, or (`None`) of all, whose end has come. One that a person has changed meanwhile stands.
    pub async fn end_pause(&self, hold: &Hold, job: Option<&JobName>, now: Wall) -> Result<(), StoreError> {
        let key = job.map_or_else(|| self.keys.pause_all(), |job| self.keys.pause(job));
        self.end_in_time(hold, &key, now).await
    }

    /// Ends a pause, or a drain, whose end has come.
    pub(super) async fn end_in_time(&self, hold: &Hold, key: &str, now: Wall) -> Result<(), StoreError> {
        let page = self.store.range(Range::of(Keys::one(key))).await?;
        let Some(entry) = page.entries.first() else { return Ok(()) };
        if decode::<Pause>(&entry.value).is_none_or(|pause| !pause.is_over(now)) {
            return Ok(());
        }
        let unmoved = [Compare::modified_at(key, entry.modified)];
        self.write_as_leader(hold, &unmoved, &[Op::delete(key)]).await.map(drop)
    }

    /// Asks for a run to be cancelled. The first person to ask stays the one that did.
    pub async fn ask_to_cancel(&self, acting: &Acting, run: &RunId) -> Result<Deed, AskError> {
        let (open, key) = (self.keys.open(run), self.keys.cancel(run));
        let record = encode(CancelRecord { asked: acting.asked.clone(), unless_begun: false });
        let deed = Deed::of_run(Act::Cancel, run);
        let mut unmoved = Revision(0);
        for _ in 0..TRIES {
            let txn = Txn::new()
                .when(Compare::present(Keys::one(&open)))
                .when(Compare::modified_at(&key, unmoved))
                .then(Op::put(&key, record.clone()))
                .otherwise(Op::Get(Range::of(self.keys.verdict_on(run))))
                .otherwise(Op::get(&key))
                .otherwise(Op::get(&open));
            let committed = match self.act(acting, &deed, txn).await? {
                Acted::Made => return Ok(deed),
                Acted::Before(deed) => return Ok(deed),
                Acted::Refused(committed) => committed,
            };
            let verdict = committed.got(0).and_then(<[_]>::first);
            if let Some(done) = verdict.and_then(|entry| decode::<DoneRecord>(&entry.value)) {
                return Err(AskError::Ended { run: run.clone(), verdict: Done::from(done).verdict });
            }
            if found(&committed, &open).is_none() {
                return Err(AskError::NoSuchRun(run.clone()));
            }
            let before = found(&committed, &key);
            match before.and_then(|entry| decode::<CancelRecord>(&entry.value)) {
                Some(before) if !before.unless_begun => {
                    return Err(AskError::CancelAsked { run: run.clone(), by: before.asked.by });
                }
                // Its backfill was stopped: from now on it is cancelled also where it has begun.
                _ => unmoved = before.map_or(Revision(0), |entry| entry.modified),
            }
        }
        Err(AskError::Changed { run: run.clone() })
    }

    /// Takes back a request to cancel a run that has ended. One that a person has had run once more is another matter.
    pub async fn forget_cancel(&self, run: &RunId) -> Result<(), StoreError> {
        let ended = Compare::absent(Keys::one(self.keys.open(run)));
        self.commit(Txn::new().when(ended).then(Op::delete(self.keys.cancel(run)))).await.map(drop)
    }

    /// Puts the runs that follow one which a person said has succeeded, but for those that exist, and takes the request
    /// back. `false`: the term is over, and the next leader sees to it.
    pub async fn follow_resolved(&self, hold: &Hold, run: &RunId, follow: &[Open]) -> Result<bool, StoreError> {
        for open in follow {
            let keys = [Keys::one(self.keys.open(&open.id)), self.keys.verdict_on(&open.id)];
            let absent = keys.map(Compare::absent);
            let put = Op::put(self.keys.open(&open.id), encode(OpenRecord::from(open)));
            if !self.write_as_leader(hold, &absent, &[put]).await? && !self.stands(hold).await? {
                return Ok(false);
            }
        }
        self.write_as_leader(hold, &[], &[Op::delete(self.keys.resolved(run))]).await
    }

    /// Asks the leader of this fence, which is the node `node`, to step down.
    pub async fn ask_to_step_down(&self, acting: &Acting, fence: Fence, node: &str) -> Result<Deed, AskError> {
        let record = encode(StepDownRecord { fence, asked: acting.asked.clone() });
        let deed = Deed::new(Act::StepDown, node).with(format!("fence {fence}"));
        match self.act(acting, &deed, Txn::new().then(Op::put(self.keys.step_down(), record))).await? {
            Acted::Made => Ok(deed),
            Acted::Before(deed) => Ok(deed),
            Acted::Refused(_) => Err(AskError::Moved { what: deed.on }),
        }
    }

    /// Revokes a lock from its holder, with the transaction that does so.
    pub async fn unlock(&self, acting: &Acting, name: &LockName, holder: &HeldBy, take: Txn) -> Result<Deed, AskError> {
        let detail = format!("from {}, fence {}", holder.node, holder.fence);
        self.act_with(acting, Deed::new(Act::Unlock, name.as_str()).with(detail), take).await
    }

    /// Revokes permits of a semaphore from a session, with the transactions that do so, as one act: all of them, or none.
    /// More than [`HOLDS_TAKEN_MOST`] holds are left, which the answer says.
    pub async fn take_permits(
        &self,
        acting: &Acting,
        name: &LockName,
        held: Vec<(PermitsHeld, Txn)>,
    ) -> Result<Deed, AskError> {
        let Some((first, _)) = held.first() else { return Err(AskError::Moved { what: name.as_str().to_owned() }) };
        let (node, left) = (first.node.clone(), held.len().saturating_sub(HOLDS_TAKEN_MOST));
        let (mut permits, mut all) = (0_u64, Txn::new());
        for (held, take) in held.into_iter().take(HOLDS_TAKEN_MOST) {
            permits += u64::from(held.permits);
            all.when.extend(take.when);
            for op in take.then {
                // Calls share a place in which it is noted that one is over: the later note stands, as it would one by one.
                if let Op::Put { key, .. } = &op {
                    all.then.retain(|before| !matches!(before, Op::Put { key: noted, .. } if noted == key));
                }
                all.then.push(op);
            }
        }
        let more = if left == 0 { String::new() } else { format!("; it has {left} more holds: revoke them too") };
        let detail = format!("{permits} permits from {node}{more}");
        self.act_with(acting, Deed::new(Act::Unlock, name.as_str()).with(detail), all).await
    }

    /// Makes an act that changes what its transaction compares.
    pub(super) async fn act_with(&self, acting: &Acting, deed: Deed, txn: Txn) -> Result<Deed, AskError> {
        match self.act(acting, &deed, txn).await? {
            Acted::Made => Ok(deed),
            Acted::Before(deed) => Ok(deed),
            Acted::Refused(_) => Err(AskError::Moved { what: deed.on }),
        }
    }

    /// Takes back the request to step down that was meant for this fence.
    pub async fn forget_step_down(&self, fence: Fence) -> Result<(), StoreError> {
        let page = self.read(Range::of(Keys::one(self.keys.step_down()))).await?;
        let Some(entry) = page.entries.first() else { return Ok(()) };
        if decode::<StepDownRecord>(&entry.value).is_some_and(|record| record.fence > fence) {
            return Ok(());
        }
        let txn = Txn::new()
            .when(Compare::modified_at(self.keys.step_down(), entry.modified))
            .then(Op::delete(self.keys.step_down()));
        self.commit(txn).await.map(drop)
    }

    /// Moves the watermark up to `now`, where it is not there already: what was due before and is not decided never
    /// will be. For a store that was restored from a backup, where what was claimed since is forgotten. It turns away
    /// the claims of the leader.
    pub async fn skip_to(&self, now: Wall) -> Result<Watermark, StoreError> {
        // What was left of a backfill may have been asked for since the backup, and have run.
        self.commit(Txn::new().then(Op::Delete(self.keys.all_backfilling()))).await?;
        loop {
            let page = self.read(Range::of(Keys::one(self.keys.watermark()))).await?;
            let entry = page.entries.first();
            let stored =
                entry.and_then(|entry| decode::<WatermarkRecord>(&entry.value)).map(WatermarkRecord::watermark);
            let wanted = Watermark { instant: now, job: None };
            if let Some(stored) = stored.filter(|stored| *stored >= wanted) {
                return Ok(stored);
            }
            let unmoved = entry.map_or(Revision(0), |entry| entry.modified);
            let record = encode(WatermarkRecord::new(&wanted, SKIP.to_owned()));
            let txn = Txn::new()
                .when(Compare::modified_at(self.keys.watermark(), unmoved))
                .then(Op::put(self.keys.watermark(), record));
            if self.commit(txn).await?.0.succeeded {
                return Ok(wanted);
            }
        }
    }

    /// Ends every open run as `unknown`, for this reason, for a person to resolve: for a store that was restored from a
    /// backup, where it is unknown how they went on since. Answers how many.
    pub async fn doubt_open_runs(&self, reason: &str, now: Wall) -> Result<usize, StoreError> {
        let (entries, _) = self.store.range_all(self.keys.opens()).await?;
        let mut doubted = 0;
        for entry in &entries {
            let Some(super::keys::About::Open(run)) = self.keys.about(&entry.key) else { continue };
            let Some(open) = self.open_of(&run, entry) else { continue };
            let done = Done::of(&open, Verdict::Unknown, "", now).because(Code::Restored.because(reason));
            doubted += usize::from(self.doubt(entry, open, done).await?);
        }
        Ok(doubted)
    }

    /// Ends an open run with this verdict. Says whether it was still as it was read.
    async fn doubt(&self, entry: &Entry, open: Open, done: Done) -> Result<bool, StoreError> {
        let key = entry.key.as_str();
        let ends = To::Done { done, follow: Vec::new() };
        let ends = [Transition { run: open.id, expect: entry.modified.0, fence: None, to: ends, notify: None }];
        let mut last = self.known_last(&open.job).await?;
        for _ in 0..TRIES {
            let To::Done { done, .. } = &ends[0].to else { return Ok(false) };
            let txn = Txn::new()
                .when(Compare::modified_at(key, entry.modified))
                .then(Op::delete(key))
                .then(Op::put(self.keys.done(&done.id), encode(DoneRecord::from(done))))
                .then(Op::put(self.keys.unknown(&done.id), ""))
                .otherwise(Op::get(key));
            let txn = self.put_attention(txn, done);
            let ended = last.after(&ends);
            let (committed, _) = self.commit(self.put_last(txn, &ended)).await?;
            if committed.succeeded {
                return Ok(true);
            }
            if committed.got(0).and_then(<[_]>::first).is_none_or(|found| found.modified != entry.modified) {
                return Ok(false);
            }
            last.learn(1, &committed, ended);
        }
        Ok(false)
    }

    /// Settles a run that ended as `unknown`.
    pub async fn resolve(&self, acting: &Acting, run: &RunId, resolution: Resolution) -> Result<Deed, AskError> {
        for _ in 0..TRIES {
            // Another run of its job may end at the same time, and then it is asked for once more.
            if let Some(deed) = self.resolved(acting, run, resolution).await? {
                return Ok(deed);
            }
        }
        Err(AskError::Changed { run: run.clone() })
    }

    /// Settles a run that ended as `unknown`. `None`: how the job's last run ended has changed meanwhile, and the run is
    /// as it was.
    async fn resolved(&self, acting: &Acting, run: &RunId, resolution: Resolution) -> Result<Option<Deed>, AskError> {
        let asked = &acting.asked;
        let page = self.read(Range::of(self.keys.verdict_on(run))).await?;
        let Some(entry) = page.entries.first() else {
            let open = self.read(Range::of(Keys::one(self.keys.open(run)))).await?;
            let is_open = !open.entries.is_empty();
            return Err(if is_open { AskError::NotEnded(run.clone()) } else { AskError::NoSuchRun(run.clone()) });
        };
        let Some(done) = decode::<DoneRecord>(&entry.value).map(Done::from) else {
            return Err(StoreError::Unusable(format!(
                "the verdict of {run} cannot be read: it is damaged, or of a newer version"
            ))
            .into());
        };
        if done.verdict != Verdict::Unknown {
            return Err(AskError::NotInDoubt { run: run.clone(), verdict: done.verdict.to_string() });
        }
        let (verdict_key, last) = (self.keys.done(run), self.known_last(&done.job).await?);
        let txn = Txn::new()
            .when(Compare::modified_at(&verdict_key, entry.modified))
            .then(Op::delete(self.keys.unknown(run)))
            .otherwise(Op::get(&verdict_key));
        let settled = |txn: Txn, verdict, done: Done| {
            let reason = format!("resolved by {} on {}; was: {}", asked.by, asked.at, done.reason);
            let done = Done { verdict, ..done.because(Code::Resolved.because(reason)) };
            let value = encode(DoneRecord::from(&done));
            let txn = self.put_attention(txn, &done);
            let is_last = last.known().any(|(_, last, _)| last.is_some_and(|last| last.run == done.id));
            let end = [Transition {
                run: run.clone(),
                expect: entry.modified.0,
                fence: None,
                to: To::Done { done, follow: Vec::new() },
                // The person knows.
                notify: None,
            }];
            (if is_last { self.put_last(txn, &last.after(&end)) } else { txn }, (verdict_key.clone(), value))
        };
        let (txn, (key, value)) = match resolution {
            Resolution::Succeeded => {
                let txn = txn.then(Op::put(self.keys.resolved(run), encode(asked)));
                let txn = txn.then(Op::delete(self.keys.attention(&done)));
                settled(txn, Verdict::Succeeded, done)
            }
            Resolution::Failed => settled(txn, Verdict::Failed, done),
            Resolution::Retry => {
                let absent = Compare::absent(Keys::one(self.keys.open(run)));
                let txn = txn.when(absent).then(Op::delete(&verdict_key)).then(Op::delete(self.keys.attention(&done)));
                // What was asked of the attempts before is not asked of the next.
                let txn = txn.then(Op::delete(self.keys.cancel(run)));
                (txn, (self.keys.open(run), encode(OpenRecord::from(&again(&done, asked.at)))))
            }
        };
        let deed = Deed::of_run(Act::Resolve, run).with(format!("as {}", resolution.as_str()));
        let txn = txn.then(Op::put(&key, value)).otherwise(Op::get(self.keys.open(run)));
        let committed = match self.act(acting, &deed, txn).await? {
            Acted::Made => return Ok(Some(deed)),
            Acted::Before(deed) => return Ok(Some(deed)),
            Acted::Refused(committed) => committed,
        };
        let is_unchanged = found(&committed, &verdict_key).is_some_and(|found| found.modified == entry.modified);
        let is_open = found(&committed, &self.keys.open(run)).is_some();
        if is_unchanged && !is_open { Ok(None) } else { Err(AskError::Changed { run: run.clone() }) }
    }

    /// Commits what is harmless to repeat, until there is an answer or the store has been silent for long. Says whether
    /// it was sent more than once.
    ///
    /// # Errors
    ///
    /// The store's; where one of several sendings got no answer, that, for it may have been applied.
    pub(super) async fn commit(&self, txn: Txn) -> Result<(Committed, bool), StoreError> {
        let (mut pause, mut only_full, mut in_doubt) = (Pauses::new(), true, None);
        loop {
            let answer = self.store.commit(txn.clone()).await;
            only_full &= answer.as_ref().is_err_and(StoreError::is_full);
            let error = match answer {
                Ok(committed) => return Ok((committed, pause.tries > 0)),
                Err(error) => error,
            };
            if only_full {
                // A request without an answer may arrive yet.
                return Ok((self.in_a_full_store(&txn, error).await?, true));
            }
            if error.is_unknown() {
                in_doubt = Some(error.clone());
            }
            if !error.is_passing() || pause.tries >= TRIES {
                return Err(in_doubt.unwrap_or(error));
            }
            pause.wait(&error, "request").await;
        }
    }

    /// What became of a transaction that a full store has answered each time: by the keys that it was to put, for a full
    /// store still says what is in it.
    async fn in_a_full_store(&self, txn: &Txn, answered: StoreError) -> Result<Committed, StoreError> {
        for op in &txn.then {
            let Op::Put { key, value, .. } = op else { continue };
            let one = Keys::one(key);
            let page = self.store.range(Range::of(one.clone())).await?;
            let entry = page.entries.first();
            if let Some(entry) = entry.filter(|entry| entry.value == *value) {
                return Ok(Committed { succeeded: true, revision: entry.modified, answers: Vec::new() });
            }
            // Having been put, it would be another one.
            if txn.when.iter().any(|compare| compare.keys == one && compare.is_undone_by_a_put(entry)) {
                return Err(StoreError::Refused(format!("{FULL}. Nothing was changed")));
            }
        }
        Err(answered)
    }
}

fn asked_run(run: &RunId, source: &Source, now: Wall) -> Open {
    Open {
        id: run.clone(),
        job: run.job(),
        at: run.at(),
        starts: now,
        source: source.clone(),
        state: OpenState::Waiting { not_before: now },
        attempt: 0,
        claimant: None,
        claimed_at: now,
        started_at: None,
        lateness: None,
        doubt: None,
        catch_up: None,
    }
}

/// The run of an unknown verdict, to be run once more.
fn again(done: &Done, now: Wall) -> Open {
    Open {
        starts: done.at,
        source: done.source.clone(),
        attempt: done.attempt,
        claimed_at: done.claimed_at,
        lateness: done.lateness,
        doubt: Some(done.reason[..done.reason.floor_char_boundary(DOUBT_KEPT)].into()),
        ..asked_run(&done.id, &done.source, now)
    }
}
