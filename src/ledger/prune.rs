//! Keeping the history within its bounds.

use std::time::Duration;

use super::Ledger;
use super::history::done_entry;
use super::record::encode;
use crate::job::{History, JobName, Verdict};
use crate::lock::Hold;
use crate::scheduler::run::{Done, Source};
use crate::store::{Compare, Entry, Keys, Op, Order, Range, Store, StoreError, Test};
use crate::time::Wall;

/// How many verdicts are read, and deleted, at a time.
const PRUNE_PAGE: usize = 200;

/// How many keys are looked through at a time, beside those that are kept.
const LOOKED_THROUGH: usize = 10_000;

/// How many of the failures that are more than is kept stay all the same, the last ones: what ran well since is not to
/// push them out.
pub const FAILURES_KEPT: usize = 10;

/// How long the verdict on a run that a person requested is safe: a backfill is about instants of long ago, and that
/// person wants to see how it ended.
const ASKED_FOR_SAFE: Duration = Duration::from_secs(3600);

/// How many verdicts of a job are safe for that reason, where `keep` are kept.
fn safe_most(keep: usize) -> usize {
    keep.saturating_mul(10).saturating_add(1000)
}

/// How a pruning went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// So many verdicts were deleted.
    pub deleted: u64,
    /// The store refused to delete more: the term is over (or a verdict came in between).
    pub refused: bool,
}

/// Which of a job's verdicts are to go.
struct Cut {
    /// Those on runs whose keys are before this one are more than are kept.
    surplus: Option<String>,
    /// The same of those on what was never begun.
    surplus_unbegun: Option<String>,
    /// Those on runs that were asked for, and whose keys are before this one, are more than are safe.
    unsafe_before: Option<String>,
    /// Those on runs that ended before this are too old.
    too_old: Wall,
    /// Those on runs that were asked for are safe if they ended after this.
    safe_after: Wall,
}

impl Cut {
    /// Whether it takes this verdict. `spared`: how many failures may still be spared; the newest have to be asked
    /// about first.
    fn takes(&self, entry: &Entry, unbegun: bool, spared: &mut usize) -> bool {
        let before = |bound: &Option<String>| bound.as_ref().is_some_and(|bound| entry.key < *bound);
        // What cannot be read was written by a newer version, which knows what it is worth.
        let Some(done) = done_entry(entry).filter(|done| done.verdict != Verdict::Unknown) else { return false };
        let asked_for = done.id.as_str().contains('~');
        if asked_for && done.finished_at > self.safe_after && !before(&self.unsafe_before) {
            return false;
        }
        if done.finished_at < self.too_old {
            return true;
        }
        if unbegun {
            return before(&self.surplus_unbegun);
        }
        let failed = matches!(done.verdict, Verdict::Failed | Verdict::TimedOut);
        let surplus = before(&self.surplus);
        if surplus && failed && *spared > 0 {
            *spared -= 1;
            return false;
        }
        surplus
    }
}

impl<S: Store> Ledger<S> {
    /// Deletes of a job's history what is beyond its bounds: all but the last `keep` runs by instant, as many verdicts
    /// on what was never begun, and the last 10 failures among the rest; and what ended longer ago than `age`. Left are
    /// verdicts that are not resolved yet, those that a newer version wrote, and for an hour those on runs that a
    /// person requested.
    pub async fn prune(&self, hold: &Hold, job: &JobName, bounds: History, now: Wall) -> Result<Pruned, StoreError> {
        let keep = bounds.keep as usize;
        let most = safe_most(keep).saturating_add(2 * keep).saturating_add(LOOKED_THROUGH);
        let old_by_instant = self.keys.history_before(job, now.minus(bounds.age));
        let Keys::Range { mut start, end } = self.keys.history_of(job) else { return Ok(Pruned::default()) };
        let mut pruned = Pruned::default();
        loop {
            let (keys, more) = self.oldest_keys(Keys::Range { start, end: end.clone() }, most).await?;
            let old = keys.iter().take_while(|key| old_by_instant.contains(key)).count();
            let (unbegun, ran): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| self.keys.is_unbegun(key));
            let (surplus, surplus_unbegun) = (surplus(&ran, keep), surplus(&unbegun, keep));
            let last_surplus = surplus.as_ref().max(surplus_unbegun.as_ref());
            let beyond = keys.iter().take_while(|key| last_surplus.is_some_and(|last| *key < last)).count();
            let looked_at = &keys[..old.max(beyond)];
            let Some(last) = looked_at.last() else { return Ok(pruned) };
            let asked_for: Vec<&String> = keys.iter().filter(|key| self.keys.is_asked_for(key)).collect();
            let unsafe_count = asked_for.len().saturating_sub(safe_most(keep));
            let cut = Cut {
                surplus,
                surplus_unbegun,
                unsafe_before: unsafe_count.checked_sub(1).map(|last| behind(asked_for[last])),
                too_old: now.minus(bounds.age),
                safe_after: now.minus(ASKED_FOR_SAFE),
            };
            let mut spared = FAILURES_KEPT;
            for page in looked_at.chunks(PRUNE_PAGE).rev() {
                let Some(deleted) = self.delete_cut(hold, page, &cut, &mut spared).await? else {
                    return Ok(Pruned { refused: true, ..pruned });
                };
                pruned.deleted += deleted;
            }
            if !more {
                return Ok(pruned);
            }
            start = behind(last);
        }
    }

    /// Deletes the first of these keys, in their order, which are more than `most`; answers how many.
    pub(super) async fn keep_last(&self, hold: &Hold, of: Keys, most: usize) -> Result<u64, StoreError> {
        let (keys, _) = self.oldest_keys(of.clone(), most + LOOKED_THROUGH).await?;
        let Some(last) = keys.len().checked_sub(most + 1) else { return Ok(0) };
        let Keys::Range { start, .. } = of else { return Ok(0) };
        let end = behind(&keys[last]);
        let deleted = self.write_as_leader(hold, &[], &[Op::Delete(Keys::Range { start, end })]).await?;
        Ok(if deleted { last as u64 + 1 } else { 0 })
    }

    /// The first `most` of these keys, and whether there are more.
    async fn oldest_keys(&self, of: Keys, most: usize) -> Result<(Vec<String>, bool), StoreError> {
        let Keys::Range { mut start, end } = of else { return Ok((Vec::new(), false)) };
        let mut keys: Vec<String> = Vec::new();
        loop {
            let range = Keys::Range { start, end: end.clone() };
            let limit = crate::store::PAGE.min(most - keys.len());
            let page = self.store.range(Range { keys_only: true, limit, ..Range::of(range) }).await?;
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            match keys.last() {
                Some(last) if page.more && keys.len() < most => start = behind(last),
                _ => return Ok((keys, page.more)),
            }
        }
    }

    /// Deletes what the cut takes of the verdicts from the first to the last of these keys; answers how many. `None`:
    /// the term is over, or one of them was written in between.
    async fn delete_cut(
        &self,
        hold: &Hold,
        page: &[String],
        cut: &Cut,
        spared: &mut usize,
    ) -> Result<Option<u64>, StoreError> {
        let [first, ..] = page else { return Ok(Some(0)) };
        let keys = Keys::Range { start: first.clone(), end: behind(&page[page.len() - 1]) };
        let (entries, read_at) = self.store.range_all(keys.clone()).await?;
        let mut takes: Vec<(bool, &str)> = Vec::with_capacity(entries.len());
        for entry in entries.iter().rev() {
            takes.push((cut.takes(entry, self.keys.is_unbegun(&entry.key), spared), entry.key.as_str()));
        }
        takes.reverse();
        let (mut ops, mut deleted) = (Vec::new(), 0);
        let taken: Vec<Done> = entries
            .iter()
            .zip(&takes)
            .filter(|(_, (takes, _))| *takes)
            .filter_map(|(entry, _)| done_entry(entry))
            .collect();
        let gone: Vec<Wall> = taken
            .iter()
            .filter(|done| done.source == Source::Schedule && done.verdict != Verdict::Skipped)
            .map(|done| done.at)
            .collect();
        for stretch in takes.chunk_by(|a, b| a.0 == b.0) {
            if let ([(true, first), ..], [.., (_, last)]) = (stretch, stretch) {
                deleted += stretch.len() as u64;
                ops.push(Op::Delete(Keys::Range { start: (*first).to_owned(), end: behind(last) }));
            }
        }
        let bad = taken.iter().filter(|done| done.verdict.is_bad());
        ops.extend(bad.map(|done| Op::delete(self.keys.attention(done))));
        // Where a person brings the watermark back, these may have run, although no record shows how they ended.
        if let Some(job) = self.keys.job_of_done(&page[0]).filter(|_| !gone.is_empty()) {
            let mut pruned = self.pruned(&job).await?.unwrap_or_default();
            gone.iter().for_each(|at| pruned.add(*at, *at));
            ops.insert(0, Op::put(self.keys.pruned(&job), encode(pruned)));
        }
        // A verdict that came in between may be one to resolve: the next pruning looks again.
        let unchanged = Compare { keys, test: Test::Modified(Order::Less, read_at.next()) };
        for ops in ops.chunks(super::REGISTERED_AT_ONCE) {
            if !self.write_as_leader(hold, std::slice::from_ref(&unchanged), ops).await? {
                return Ok(None);
            }
        }
        Ok(Some(deleted))
    }
}

/// The key before which these, which are in order, are more than `keep`.
fn surplus(keys: &[&String], keep: usize) -> Option<String> {
    let more = keys.len().checked_sub(keep + 1)?;
    Some(behind(keys[more]))
}

/// The first key after this one.
pub(super) fn behind(key: &str) -> String {
    format!("{key}\0")
}
