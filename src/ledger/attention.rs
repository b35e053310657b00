//! What went wrong lately: a small record beside each bad verdict, so that the latest are found among however many that
//! are not bad. The record goes with its verdict.

use std::time::Duration;

use super::Ledger;
use super::record::{AttentionRecord, decode, encode};
use crate::job::{Code, RunId, Verdict};
use crate::lock::Hold;
use crate::scheduler::run::Done;
use crate::store::{Entry, Keys, Op, PAGE, Range, Revision, Sort, Store, StoreError, Txn};
use crate::time::Wall;

/// How many such records are kept.
pub const ATTENTION_KEPT: usize = 10_000;

/// After so many bad verdicts of one leader their list is bounded at once, and not first when it is time: between two
/// times, the jobs of a node can fail a million times.
pub const ATTENTION_BETWEEN: usize = ATTENTION_KEPT / 10;

/// For how long they are kept.
pub const ATTENTION_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// How much of the reason they have, in bytes.
pub(super) const REASON_MOST: usize = 200;

/// How many are read at once: the verdicts of one transaction share a revision, and a page holds more than one
/// transaction writes.
const READ_AT_ONCE: usize = 200;

/// A run that ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    pub run: RunId,
    /// When it ended.
    pub at: Wall,
    /// `Failed`, `TimedOut`, or `Unknown`.
    pub verdict: Verdict,
    pub code: Option<Code>,
    /// The beginning of the reason.
    pub reason: String,
}

/// A page of the runs that ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionPage {
    /// The last recorded first.
    pub runs: Vec<Attention>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<Revision>,
}

impl<S: Store> Ledger<S> {
    /// Puts the record of a verdict, where that is a bad one.
    pub(super) fn put_attention(&self, txn: Txn, done: &Done) -> Txn {
        if !done.verdict.is_bad() {
            return txn;
        }
        txn.then(Op::put(self.keys.attention(done), encode(AttentionRecord::from(done))))
    }

    /// The runs that ended badly, the last recorded first, from before `before` on, at most `limit` of them and a few
    /// more: those that were recorded together are reported together.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn attention(&self, before: Option<Revision>, limit: usize) -> Result<AttentionPage, StoreError> {
        let (mut runs, mut before, limit) = (Vec::new(), before, limit.max(1));
        loop {
            let range = Range {
                limit: READ_AT_ONCE,
                order: Sort::NewestFirst,
                modified_before: before,
                ..Range::of(self.keys.all_attention())
            };
            let page = self.store.range(range).await?;
            let mut seen = before;
            for same in page.entries.chunk_by(|a, b| a.modified == b.modified) {
                let oldest = same[0].modified;
                let is_cut = page.more && page.entries.last().is_some_and(|last| last.modified == oldest);
                if is_cut && same.len() < page.entries.len() {
                    break;
                }
                if runs.len() >= limit {
                    return Ok(AttentionPage { runs, next: seen });
                }
                runs.extend(same.iter().filter_map(|entry| self.attention_of(entry)));
                seen = Some(oldest);
            }
            if !page.more {
                return Ok(AttentionPage { runs, next: None });
            }
            before = seen;
        }
    }

    /// Records that bad verdicts are on the list from now on. Each term does: until then, a node of an older version may
    /// have led, which lists none.
    pub(super) async fn begin_attention(&self, hold: &Hold) -> Result<(), StoreError> {
        let key = self.keys.attention_begun();
        self.write_as_leader(hold, &[], &[Op::put(key, "")]).await.map(drop)
    }

    /// Since which revision bad verdicts are on the list; `None`: that has not begun.
    pub(super) async fn attention_since(&self) -> Result<Option<Revision>, StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.attention_begun()))).await?;
        Ok(page.entries.first().map(|entry| entry.modified))
    }

    fn attention_of(&self, entry: &Entry) -> Option<Attention> {
        let (at, run) = self.keys.run_of_attention(&entry.key)?;
        let AttentionRecord { verdict, code, reason } = decode(&entry.value)?;
        Some(Attention { run, at, verdict, code, reason })
    }

    /// Deletes the records beyond [`ATTENTION_KEPT`] and [`ATTENTION_AGE`]. Answers how many were too many.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn bound_attention(&self, hold: &Hold, now: Wall) -> Result<usize, StoreError> {
        let old = self.keys.attention_before(now.minus(ATTENTION_AGE));
        self.bound_list(hold, self.keys.all_attention(), (old, ATTENTION_KEPT)).await
    }

    /// Deletes of a list whose keys sort by time those before the key `old`, and the oldest of more than `kept`. Answers
    /// how many were too many.
    pub(super) async fn bound_list(
        &self,
        hold: &Hold,
        list: Keys,
        (old, kept): (String, usize),
    ) -> Result<usize, StoreError> {
        let Keys::Range { start, end } = list else { return Ok(0) };
        let mut bound = old;
        let (mut keys, mut from) = (std::collections::VecDeque::new(), start.clone());
        let (mut beyond, mut oldest) = (0, None);
        loop {
            let range = Range::of(Keys::Range { start: from, end: end.clone() });
            let page = self.store.range(Range { keys_only: true, limit: PAGE, ..range }).await?;
            let Some(last) = page.entries.last().map(|entry| entry.key.clone()) else { break };
            oldest = oldest.or_else(|| page.entries.first().map(|entry| entry.key.clone()));
            for entry in page.entries {
                keys.push_back(entry.key);
                if keys.len() > kept {
                    beyond += 1;
                    bound = bound.max(keys.pop_front().map_or(String::new(), |key| super::prune::behind(&key)));
                }
            }
            if !page.more {
                break;
            }
            from = super::prune::behind(&last);
        }
        if oldest.is_some_and(|oldest| oldest < bound) {
            self.write_as_leader(hold, &[], &[Op::Delete(Keys::Range { start, end: bound })]).await?;
        }
        Ok(beyond)
    }
}
