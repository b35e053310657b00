//! Changes of open runs, many in a transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::last::verdict_of;
use super::record::{DoneRecord, OpenRecord, decode, encode};
use super::{LastRuns, Ledger, Pauses};
use crate::job::{CHANNELS_MOST, JobName, MAX_FOLLOWERS, RunId, Verdict};
use crate::lock::Hold;
use crate::scheduler::run::{Done, FOLLOWED_REASON_MOST, Open};
use crate::scheduler::{To, Transition, Transitioned, alert};
use crate::store::{Committed, Compare, Entry, Keys, Op, Range, Store, StoreError, TXN_BYTES, Txn};

/// The most comparisons, and the most operations, of one transaction of changes: below every store's limit.
const WEIGHT_MOST: usize = 120;

/// The most bytes of one transaction of changes: outputs are in it.
const BYTES_MOST: usize = TXN_BYTES / 2;

/// The weight of a hold: two comparisons, and no more operations than that.
const AUTHORITY: usize = 2;

const _: () =
    assert!(AUTHORITY + VERDICT + 2 * MAX_FOLLOWERS <= WEIGHT_MOST, "a verdict and all that follows it fit together");

/// The most operations of a verdict alone: it deletes the open run, and puts the verdict, the record of the job's last
/// run, the mark of a bad verdict, the mark of a run in doubt, and an alert for each channel.
const VERDICT: usize = 5 + CHANNELS_MOST;

/// How many changes are looked at that cannot be made yet, for others behind them that can.
const PASSED_OVER_MOST: usize = 1000;

/// What of the changes one transaction makes.
#[derive(Clone, Copy, Debug)]
enum Part {
    Whole,
    /// At most so many of the following runs, and nothing else: the verdict comes after the last of them, so that none
    /// is lost in between.
    Ahead(usize),
}

/// What became of changes that were sent together.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    pub answers: Vec<(RunId, Transitioned)>,
    /// Those that the store refuses even alone, and why: nothing of them was changed, and they hold up no other.
    pub refused: Vec<(Transition, StoreError)>,
}

impl<S: Store> Ledger<S> {
    /// Takes from `waiting` what fits into one transaction: changes on one authority, in their order. Verdicts of the jobs
    /// that are `busy` are left where they are: a transaction is under way that changes how their last run ended.
    pub fn next_transitions(waiting: &mut VecDeque<Transition>, busy: impl Fn(&JobName) -> bool) -> Vec<Transition> {
        let (mut taken, mut passed_over): (Vec<Transition>, Vec<Transition>) = (Vec::new(), Vec::new());
        let (mut weight, mut bytes, mut ended) = (AUTHORITY, 0, BTreeSet::new());
        while let Some(next) = waiting.pop_front() {
            if verdict_of(&next).is_some_and(|done| busy(&done.job)) {
                passed_over.push(next);
                if passed_over.len() == PASSED_OVER_MOST {
                    break;
                }
                continue;
            }
            let same_authority = taken.first().is_none_or(|first| first.fence == next.fence);
            // How a job's last run ended is put once, however many of its runs end.
            let is_first = verdict_of(&next).is_some_and(|done| ended.insert(done.job.clone()));
            weight += weight_of(&next) + usize::from(is_first);
            bytes += bytes_of(&next);
            if !same_authority || (!taken.is_empty() && (weight > WEIGHT_MOST || bytes > BYTES_MOST)) {
                waiting.push_front(next);
                break;
            }
            taken.push(next);
        }
        passed_over.into_iter().rev().for_each(|change| waiting.push_front(change));
        taken
    }

    /// Makes these changes, which are on one authority: that of `hold`, or (`None`) that of the node that executed the
    /// runs. Answers for each. Repeats until there is an answer. `last` is what is known of the last runs of their
    /// jobs, and afterwards what the changes made of them, or found.
    ///
    /// # Errors
    /// What no repetition helps against: send all of them again; what was changed already is found so then.
    pub async fn transition(
        &self,
        hold: Option<&Hold>,
        mut transitions: Vec<Transition>,
        last: &mut LastRuns,
    ) -> Result<Changed, StoreError> {
        let mut changed = Changed::default();
        let answers = &mut changed.answers;
        match self.transition_together(hold, &mut transitions, answers, last).await {
            Ok(()) => return Ok(changed),
            Err(StoreError::Refused(why)) if transitions.len() > 1 => {
                tracing::warn!(%why, "the store refuses these changes together: making them one by one");
            }
            Err(error @ StoreError::Refused(_)) => {
                changed.refused.extend(transitions.pop().map(|one| (one, error)));
                return Ok(changed);
            }
            Err(error) => return Err(error),
        }
        for one in transitions {
            let mut alone = vec![one];
            match self.transition_together(hold, &mut alone, answers, last).await {
                Ok(()) => {}
                Err(error @ StoreError::Refused(_)) => changed.refused.extend(alone.pop().map(|one| (one, error))),
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }

    /// As [`Ledger::transition`]. Where the store refuses the changes, those that are left are in `left`.
    async fn transition_together(
        &self,
        hold: Option<&Hold>,
        left: &mut Vec<Transition>,
        answers: &mut Vec<(RunId, Transitioned)>,
        last: &mut LastRuns,
    ) -> Result<(), StoreError> {
        let (mut existing, mut part) = (BTreeSet::new(), Part::Whole);
        let mut pause = Pauses::new();
        while !left.is_empty() {
            let (ended, alerts) =
                if let Part::Whole = part { last.after_with_alerts(left) } else { (BTreeMap::new(), Vec::new()) };
            let txn = self.put_last(self.transition_txn(hold, left, &existing, part), &ended);
            let txn = self.put_alerts(txn, &alerts);
            match self.store.commit(txn).await {
                Ok(committed) if committed.succeeded => {
                    if let Part::Ahead(_) = part {
                        let made: Vec<RunId> = following(left, &existing, part).map(|open| open.id.clone()).collect();
                        existing.extend(made);
                        if following(left, &existing, Part::Whole).next().is_none() {
                            part = Part::Whole;
                        }
                        continue;
                    }
                    let version = committed.revision.0;
                    last.put(ended, version);
                    answers.extend(left.drain(..).map(|done| (done.run, Transitioned::Applied { version })));
                }
                Ok(committed) => {
                    let first = usize::from(hold.is_some()) + left.len();
                    let sent = following(left, &existing, part).count();
                    last.learn(first + 2 * sent, &committed, ended);
                    existing.extend(following_found(first, &committed, following(left, &existing, part)));
                    self.sort_out(hold, &committed, left, answers).await?;
                }
                Err(error) if error.is_passing() => pause.wait(&error, "change of runs").await,
                Err(error @ StoreError::Refused(_)) => match left.as_mut_slice() {
                    [one] => part = lessen(one, &existing, part).ok_or(error)?,
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// This part of these changes, but for the following runs that exist already. Otherwise: the hold's owner, each of
    /// the runs, and each of the following ones, open and done, as [`following_found`] and [`Ledger::sort_out`] read
    /// them.
    fn transition_txn(
        &self,
        hold: Option<&Hold>,
        transitions: &[Transition],
        existing: &BTreeSet<RunId>,
        part: Part,
    ) -> Txn {
        let mut txn = Txn::new();
        if let Some(hold) = hold {
            txn = hold.still_held().into_iter().fold(txn, Txn::when);
            // An attempt that is begun is as much of a claim as the first one was.
            txn = txn.then(hold.mark()).otherwise(Op::get(hold.owner_key()));
        }
        for transition in transitions {
            let key = self.keys.open(&transition.run);
            txn = txn
                .when(Compare::modified_at(&key, crate::store::Revision(transition.expect)))
                .otherwise(Op::get(&key));
            match (&transition.to, part) {
                (_, Part::Ahead(_)) => {}
                (To::Open(open), Part::Whole) => txn = txn.then(Op::put(key, encode(OpenRecord::from(open)))),
                (To::Done { done, .. }, Part::Whole) => {
                    let record = encode(DoneRecord::from(done));
                    txn = txn.then(Op::delete(key)).then(Op::put(self.keys.verdict(done), record));
                    if done.verdict == Verdict::Unknown {
                        txn = txn.then(Op::put(self.keys.unknown(&done.id), ""));
                    }
                    txn = self.put_attention(txn, done);
                }
            }
        }
        for open in following(transitions, existing, part) {
            txn = self.put_following(txn, open);
            for keys in [Keys::one(self.keys.open(&open.id)), self.keys.verdict_on(&open.id)] {
                txn = txn.otherwise(Op::Get(Range { keys_only: true, ..Range::of(keys) }));
            }
        }
        txn
    }

    fn put_following(&self, txn: Txn, open: &Open) -> Txn {
        let key = self.keys.open(&open.id);
        txn.when(Compare::absent(Keys::one(&key)))
            .when(Compare::absent(self.keys.verdict_on(&open.id)))
            .then(Op::put(key, encode(OpenRecord::from(open))))
    }

    /// The transaction was not applied, or an earlier sending of it was: finds out for each run, and leaves in `left`
    /// what has to be tried again.
    async fn sort_out(
        &self,
        hold: Option<&Hold>,
        committed: &Committed,
        left: &mut Vec<Transition>,
        answers: &mut Vec<(RunId, Transitioned)>,
    ) -> Result<(), StoreError> {
        let held = hold.is_none_or(|hold| owns(hold, committed));
        let offset = usize::from(hold.is_some());
        let found: HashMap<RunId, Entry> = left
            .iter()
            .enumerate()
            .filter_map(|(at, change)| Some((change.run.clone(), committed.got(at + offset)?.first()?.clone())))
            .collect();
        for change in std::mem::take(left) {
            let entry = found.get(&change.run);
            if entry.is_some_and(|entry| entry.modified.0 == change.expect) {
                if held {
                    left.push(change);
                } else {
                    answers.push((change.run, Transitioned::Fenced));
                }
                continue;
            }
            let answer = self.settle(&change, entry, committed.revision.0).await?;
            answers.push((change.run, answer));
        }
        Ok(())
    }

    /// A run is not as a change expected it: either an earlier sending of the change did that, or another process.
    async fn settle(
        &self,
        change: &Transition,
        entry: Option<&Entry>,
        seen_at: u64,
    ) -> Result<Transitioned, StoreError> {
        let open = entry.and_then(|entry| self.open_of(&change.run, entry));
        Ok(match (&change.to, entry, open) {
            (To::Open(wanted), Some(entry), Some(open)) if open == *wanted => {
                Transitioned::Applied { version: entry.modified.0 }
            }
            (To::Done { done, .. }, None, _) => {
                let page = self.read(Range::of(self.keys.verdict_on(&done.id))).await?;
                let entry = page.entries.first();
                let recorded = entry.and_then(|entry| decode::<DoneRecord>(&entry.value)).map(Done::from);
                match entry {
                    Some(entry) if recorded.as_ref() == Some(done) => {
                        Transitioned::Applied { version: entry.modified.0 }
                    }
                    _ => Transitioned::Refused { now: None, version: seen_at },
                }
            }
            (_, Some(entry), open) => Transitioned::Refused { now: open.map(Box::new), version: entry.modified.0 },
            (_, None, _) => Transitioned::Refused { now: None, version: seen_at },
        })
    }

    pub(super) fn open_of(&self, run: &RunId, entry: &Entry) -> Option<Open> {
        decode::<OpenRecord>(&entry.value).map(|record| record.into_open(run.clone()))
    }

    /// Reads, and goes on trying while there is no answer.
    pub(super) async fn read(&self, range: Range) -> Result<crate::store::Page, StoreError> {
        let mut pause = Pauses::new();
        loop {
            match self.store.range(range.clone()).await {
                Err(error) if error.is_passing() => pause.wait(&error, "read").await,
                answer => return answer,
            }
        }
    }
}

/// Whether the hold's owner key, which is the first answer of a transaction that was not applied, is the one of the hold.
pub(super) fn owns(hold: &Hold, committed: &Committed) -> bool {
    let owner = committed.got(0).and_then(<[Entry]>::first);
    owner.is_some_and(|owner| owner.created == hold.created() && owner.lease == Some(hold.lease()))
}

/// The runs that are to come to be with this part of these changes.
fn following<'a>(
    changes: &'a [Transition],
    existing: &'a BTreeSet<RunId>,
    part: Part,
) -> impl Iterator<Item = &'a Open> {
    let follow = changes.iter().flat_map(|change| match &change.to {
        To::Done { follow, .. } => follow.as_slice(),
        To::Open(_) => &[],
    });
    let most = match part {
        Part::Whole => usize::MAX,
        Part::Ahead(most) => most,
    };
    follow.filter(|open| !existing.contains(&open.id)).take(most)
}

/// Which of the following runs that were sent exist, as a transaction found that was not applied, from its `first`
/// answer on: a run that a person had run again has been followed before.
fn following_found<'a>(first: usize, committed: &Committed, sent: impl Iterator<Item = &'a Open>) -> Vec<RunId> {
    let exists = |at: usize| committed.got(at).is_some_and(|entries| !entries.is_empty());
    let found = |(nth, _): &(usize, &Open)| exists(first + 2 * nth) || exists(first + 2 * nth + 1);
    sent.enumerate().filter(found).map(|(_, open)| open.id.clone()).collect()
}

/// The next, smaller thing to try with a change that the store refuses alone: what follows it ahead of it, in ever
/// smaller parts; then the verdict without its output. `None`: it cannot be made smaller.
fn lessen(change: &mut Transition, existing: &BTreeSet<RunId>, refused: Part) -> Option<Part> {
    let waiting = following(std::slice::from_ref(change), existing, Part::Whole).count();
    let To::Done { done, .. } = &mut change.to else { return None };
    if waiting > 0 {
        let fewer = match refused {
            Part::Whole => waiting.div_ceil(2),
            Part::Ahead(most) => most.min(waiting) / 2,
        };
        let run_id = &change.run;
        tracing::warn!(%run_id, waiting, fewer, "the store refuses what follows a verdict with it: making that first");
        return (fewer > 0).then_some(Part::Ahead(fewer));
    }
    if done.output.is_empty() {
        return None;
    }
    tracing::warn!(run_id = %change.run, "the store refuses a verdict with its output: writing it without");
    done.output.clear();
    let join = if done.reason.is_empty() { "" } else { "; " };
    done.reason = format!("{}{join}{OUTPUT_CUT}", done.reason);
    Some(Part::Whole)
}

/// What is said of a verdict whose output the store did not take.
const OUTPUT_CUT: &str = "its output was cut: the store refused it";

/// How much a change takes of [`WEIGHT_MOST`], beside how its job's last run ended.
fn weight_of(transition: &Transition) -> usize {
    match &transition.to {
        To::Open(_) => 1,
        To::Done { done, follow } => {
            let in_doubt = usize::from(done.verdict == Verdict::Unknown);
            2 + usize::from(done.verdict.is_bad()) + in_doubt + channels_of(transition) + 2 * follow.len()
        }
    }
}

/// To how many channels an alert of its verdict may go.
fn channels_of(transition: &Transition) -> usize {
    transition.notify.as_ref().map_or(0, |notify| notify.to.len())
}

fn bytes_of(transition: &Transition) -> usize {
    const RECORD: usize = 600;
    const LAST: usize = 400;
    match &transition.to {
        To::Open(_) => RECORD,
        // JSON may write one byte of output as six (a control character).
        To::Done { done, follow } => {
            let following = (RECORD + FOLLOWED_REASON_MOST) * follow.len();
            let whose = transition.notify.as_ref().map_or(0, |notify| notify.whose.bytes());
            let alerts = (RECORD + 2 * alert::REASON_MOST + whose) * channels_of(transition);
            RECORD + LAST + following + alerts + 2 * done.output.len() + done.reason.len()
        }
    }
}
