//! What people ask for: transactions that the leader sees through its watch.

use super::record::{Asked, DoneRecord, OpenRecord, StepDownRecord, WatermarkRecord, decode, encode};
use super::{Ledger, Pauses};
use crate::fence::Fence;
use crate::job::{Code, JobName, RunId, Verdict};
use crate::lock::Hold;
use crate::scheduler::run::{Done, Open, OpenState, Source, Watermark};
use crate::scheduler::{To, Transition};
use crate::store::{Committed, Compare, Entry, FULL, Keys, Op, Range, Revision, Store, StoreError, Txn};
use crate::time::Wall;

/// The most instants that one backfill may ask for.
pub const BACKFILL_MOST: usize = 1000;

/// What stands in the place of a batch's name in a watermark that was moved by hand.
const SKIP: &str = "skip";

/// How often what a person asks for is sent that gets no answer.
pub(super) const TRIES: u32 = 5;

/// How many runs one transaction asks for.
const ASKED_AT_ONCE: usize = 60;

/// How many bytes are kept of why a run was in doubt that is run once more.
const DOUBT_KEPT: usize = 500;

/// How many hexadecimal digits the identity of a request has.
pub const CALL_DIGITS: usize = 12;

/// The identity of a request, so that asking again because an answer was lost asks only once.
pub fn call(kind: char) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{kind}-{}", &id[..CALL_DIGITS])
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("there is no run {0}: `fencron runs` lists those that are kept")]
    NoSuchRun(RunId),
    #[error("{run} has ended already: {verdict}")]
    Ended { run: RunId, verdict: Verdict },
    #[error("{run} is not in doubt: it ended as `{verdict}`, and only what ended as `unknown` can be resolved")]
    NotInDoubt { run: RunId, verdict: String },
    #[error("{job} is {}", if *.paused { "paused already" } else { "not paused: there is nothing to resume" })]
    AlreadySo { job: JobName, paused: bool },
    #[error("{run} was changed by another process meanwhile: check it and try again")]
    Changed { run: RunId },
    #[error(transparent)]
    Store(#[from] StoreError),
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

impl<S: Store> Ledger<S> {
    /// Asks for runs of `job` for these instants, all of them asked for by the call `call` (ASCII letters, digits,
    /// `-`). Asking twice with the same call is asking once.
    pub async fn ask_for_runs(
        &self,
        job: &JobName,
        at: &[Wall],
        call: &str,
        source: &Source,
        now: Wall,
    ) -> Result<Vec<RunId>, AskError> {
        let runs: Vec<RunId> = at.iter().map(|at| RunId::asked_for(job, *at, call)).collect();
        self.ask_for(&runs, source, now).await?;
        Ok(runs)
    }

    /// Asks for these runs, but for those that exist.
    pub async fn ask_for(&self, runs: &[RunId], source: &Source, now: Wall) -> Result<(), AskError> {
        for chunk in runs.chunks(ASKED_AT_ONCE) {
            let mut left: Vec<&RunId> = chunk.iter().collect();
            let mut tries = 0;
            while !left.is_empty() {
                let (committed, _) = self.commit(self.asking(&left, source, now)).await?;
                if committed.succeeded {
                    break;
                }
                // Some exist: an earlier sending requested them, or another request for the same.
                let is_there = |at: usize| committed.got(at).is_some_and(|entries| !entries.is_empty());
                let mut nth = 0..;
                left.retain(|_| nth.next().is_some_and(|nth| !is_there(2 * nth) && !is_there(2 * nth + 1)));
                tries += 1;
                if let Some(run) = left.first().filter(|_| tries > TRIES) {
                    return Err(AskError::Changed { run: (*run).clone() });
                }
            }
        }
        Ok(())
    }

    /// Puts all of these runs, where none exists; otherwise looks which do.
    fn asking(&self, runs: &[&RunId], source: &Source, now: Wall) -> Txn {
        let mut txn = Txn::new();
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

    /// Pauses or resumes a job: while it is paused its occurrences are skipped, with that reason.
    pub async fn set_paused(&self, job: &JobName, paused: bool, asked: &Asked) -> Result<(), AskError> {
        let key = self.keys.pause(job);
        let absent = Compare::absent(Keys::one(&key));
        let value = encode(asked);
        let txn = if paused {
            Txn::new().when(absent).then(Op::put(&key, value.clone())).otherwise(Op::get(&key))
        } else {
            Txn::new().when(absent).otherwise(Op::delete(&key))
        };
        let (committed, repeated) = self.commit(txn).await?;
        let done = if paused {
            committed.succeeded || committed.got(0).and_then(<[_]>::first).is_some_and(|entry| entry.value == value)
        } else {
            // Where an earlier sending got no answer, that may have been what resumed it.
            !committed.succeeded || repeated
        };
        if done { Ok(()) } else { Err(AskError::AlreadySo { job: job.clone(), paused }) }
    }

    /// Asks for a run to be cancelled.
    pub async fn ask_to_cancel(&self, run: &RunId, asked: &Asked) -> Result<(), AskError> {
        let is_open = Compare {
            keys: Keys::one(self.keys.open(run)),
            test: crate::store::Test::Created(crate::store::Order::Greater, crate::store::Revision(0)),
        };
        let txn = Txn::new()
            .when(is_open)
            .then(Op::put(self.keys.cancel(run), encode(asked)))
            .otherwise(Op::Get(Range::of(self.keys.verdict_on(run))));
        let (committed, _) = self.commit(txn).await?;
        if committed.succeeded {
            return Ok(());
        }
        match committed.got(0).and_then(<[_]>::first).and_then(|entry| decode::<DoneRecord>(&entry.value)) {
            Some(done) => Err(AskError::Ended { run: run.clone(), verdict: Done::from(done).verdict }),
            None => Err(AskError::NoSuchRun(run.clone())),
        }
    }

    /// Takes back a request to cancel that has been seen to, or came too late.
    pub async fn forget_cancel(&self, run: &RunId) -> Result<(), StoreError> {
        self.commit(Txn::new().then(Op::delete(self.keys.cancel(run)))).await.map(drop)
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

    /// Asks the leader of this fence to step down.
    pub async fn ask_to_step_down(&self, fence: Fence, asked: Asked) -> Result<(), StoreError> {
        let record = encode(StepDownRecord { fence, asked });
        self.commit(Txn::new().then(Op::put(self.keys.step_down(), record))).await.map(drop)
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
        let ends = [Transition { run: open.id, expect: entry.modified.0, fence: None, to: ends }];
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
    pub async fn resolve(&self, run: &RunId, resolution: Resolution, asked: &Asked) -> Result<(), AskError> {
        for _ in 0..TRIES {
            // Another run of its job may end at the same time, and then it is asked for once more.
            if self.is_resolved(run, resolution, asked).await? {
                return Ok(());
            }
        }
        Err(AskError::Changed { run: run.clone() })
    }

    /// Settles a run that ended as `unknown`. `false`: how the job's last run ended has changed meanwhile, and the run is
    /// as it was.
    async fn is_resolved(&self, run: &RunId, resolution: Resolution, asked: &Asked) -> Result<bool, AskError> {
        let page = self.read(Range::of(self.keys.verdict_on(run))).await?;
        let Some(entry) = page.entries.first() else { return Err(AskError::NoSuchRun(run.clone())) };
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
                (txn, (self.keys.open(run), encode(OpenRecord::from(&again(&done, asked.at)))))
            }
        };
        let (committed, _) = self.commit(txn.then(Op::put(&key, value.clone())).otherwise(Op::get(&key))).await?;
        // An earlier sending that got no answer left just this.
        let found: Vec<&Entry> = (0..).map_while(|nth| committed.got(nth)).flatten().collect();
        let is_so = found.iter().any(|entry| entry.key == key && entry.value == value);
        let is_unchanged = found.first().is_some_and(|found| found.modified == entry.modified);
        if committed.succeeded || is_so {
            Ok(true)
        } else if is_unchanged && !found.iter().any(|entry| entry.key == self.keys.open(run)) {
            Ok(false)
        } else {
            Err(AskError::Changed { run: run.clone() })
        }
    }

    /// Commits what is harmless to repeat, until there is an answer or the store has been silent for long. Says whether
    /// it was sent more than once.
    pub(super) async fn commit(&self, txn: Txn) -> Result<(Committed, bool), StoreError> {
        let (mut pause, mut only_full) = (Pauses::new(), true);
        loop {
            let answer = self.store.commit(txn.clone()).await;
            only_full &= answer.as_ref().is_err_and(StoreError::is_full);
            match answer {
                // A request without an answer may arrive yet.
                Err(error) if only_full => return Ok((self.in_a_full_store(&txn, error).await?, true)),
                Err(error) if error.is_passing() && pause.tries < TRIES => pause.wait(&error, "request").await,
                answer => return answer.map(|committed| (committed, pause.tries > 0)),
            }
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
