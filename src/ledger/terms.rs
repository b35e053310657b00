//! Who led, from when to when, and why each term ended.

use serde::{Deserialize, Serialize};

use super::Ledger;
use super::record::{TermRecord, decode, encode};
use crate::fence::Fence;
use crate::lock::Hold;
use crate::store::{Compare, Entry, Keys, Op, Range, Sort, Store, StoreError, Txn};
use crate::time::Wall;

/// How many terms are kept.
pub const TERMS_KEPT: usize = 1_000;

/// A term of a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermRow {
    pub fence: Fence,
    pub node: String,
    /// When the leader began to act, by its clock.
    pub from: Wall,
    /// When the first occurrence of the term was claimed; `None`: none was.
    pub first_claim: Option<Wall>,
    /// When it ended, by the clock of the node that recorded it; `None`: it goes on, or its end is not recorded yet.
    pub to: Option<Wall>,
    pub end: Option<TermEnd>,
    /// What the clock of a leader that was lost said when it published last, where its successor knew: from then on it may
    /// have done nothing.
    pub last_sign: Option<Wall>,
}

impl TermRow {
    /// Whether it ended after `since` without that its leader had a moment to record what it had counted.
    pub fn ended_abruptly_after(&self, since: Wall) -> bool {
        matches!(self.end, Some(TermEnd::Lost | TermEnd::Lapsed)) && self.to.is_some_and(|to| to > since)
    }
}

/// A term that begins, and what its leader knows of how the one before ended.
#[derive(Clone, Debug)]
pub struct NewTerm {
    pub node: String,
    /// When the leader begins to act, by its clock.
    pub from: Wall,
    /// Since when it knew that there is no leader; `None`: it has seen no term end.
    pub vacant_since: Option<Wall>,
    /// What the clocks of nodes that are gone said when they published last.
    pub last_signs: Vec<(String, Wall)>,
}

/// How a term ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TermEnd {
    /// The leader was stopped, and gave the leadership back.
    Resigned,
    /// The leader gave the leadership back and went on as a follower: a person asked for it, or its clock was off.
    SteppedDown,
    /// The leader lost the leadership and lived to record it.
    Lost,
    /// The lease ended and the leader recorded nothing: its successor recorded the end, as of when it learned of it.
    Lapsed,
}

impl TermEnd {
    pub const ALL: [TermEnd; 4] = [TermEnd::Resigned, TermEnd::SteppedDown, TermEnd::Lost, TermEnd::Lapsed];

    /// The word, as it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            TermEnd::Resigned => "resigned",
            TermEnd::SteppedDown => "stepped_down",
            TermEnd::Lost => "lost",
            TermEnd::Lapsed => "lapsed",
        }
    }
}

/// The terms, the latest first, none of them longer than until the next one begins: a leader that stood still records the
/// end of its term as of when it woke, where its successor had not recorded one yet.
fn one_after_another(mut rows: Vec<TermRow>) -> Vec<TermRow> {
    for at in 1..rows.len() {
        let next = rows[at - 1].from;
        let row = &mut rows[at];
        row.to = row.to.map(|to| to.min(next.max(row.from)));
    }
    rows
}

impl<S: Store> Ledger<S> {
    /// The terms before the one of this fence, or (`None`) all, the latest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn terms(&self, before: Option<Fence>, limit: usize) -> Result<Vec<TermRow>, StoreError> {
        let (entries, _) = self.store.range_all(self.keys.terms()).await?;
        let is_before = |row: &TermRow| before.is_none_or(|before| row.fence < before);
        let rows = entries.iter().rev().filter_map(|entry| self.term_of(entry)).collect();
        Ok(one_after_another(rows).into_iter().filter(is_before).take(limit).collect())
    }

    /// The terms whose records changed last, the latest term first, at most `limit`: without reading the others.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn last_terms(&self, limit: usize) -> Result<Vec<TermRow>, StoreError> {
        let range = Range { limit, order: Sort::NewestFirst, ..Range::of(self.keys.terms()) };
        let page = self.store.range(range).await?;
        let mut rows: Vec<TermRow> = page.entries.iter().filter_map(|entry| self.term_of(entry)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.fence));
        Ok(one_after_another(rows))
    }

    fn term_of(&self, entry: &Entry) -> Option<TermRow> {
        let fence = self.keys.fence_of_term(&entry.key)?;
        decode::<TermRecord>(&entry.value).map(|record| record.into_row(fence))
    }

    /// Records that the term of this hold has begun, and the end of those before it that recorded none. `false`: it is
    /// over already.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn begin_term(&self, hold: &Hold, term: &NewTerm) -> Result<bool, StoreError> {
        let record = TermRecord::new(&term.node, term.from);
        let put = Op::put(self.keys.term(hold.fence()), encode(record));
        if !self.write_as_leader(hold, &[], &[put]).await? {
            return Ok(false);
        }
        self.begin_attention(hold).await?;
        for earlier in self.terms(Some(hold.fence()), TERMS_KEPT).await?.into_iter().filter(|row| row.to.is_none()) {
            self.change_term(earlier.fence, |record| record.lapsed(term)).await?;
        }
        Ok(true)
    }

    /// Records when the first occurrence of a term was claimed.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn first_claim(&self, fence: Fence, at: Wall) -> Result<(), StoreError> {
        self.change_term(fence, |record| record.first_claim(at)).await
    }

    /// Records how a term ended, unless that is recorded. What a leader says of its own term stands in place of what its
    /// successor supposed ([`TermEnd::Lapsed`]).
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn end_term(&self, fence: Fence, to: Wall, end: TermEnd) -> Result<(), StoreError> {
        self.change_term(fence, |record| record.end(to, end)).await
    }

    /// Changes the record of a term, as often as another does at the same time; not one that is gone.
    async fn change_term(
        &self,
        fence: Fence,
        change: impl Fn(TermRecord) -> Option<TermRecord>,
    ) -> Result<(), StoreError> {
        for _ in 0..super::request::TRIES {
            let page = self.store.range(Range::of(Keys::one(self.keys.term(fence)))).await?;
            let Some(entry) = page.entries.first() else { return Ok(()) };
            let Some(changed) = decode::<TermRecord>(&entry.value).and_then(&change) else { return Ok(()) };
            let txn = Txn::new()
                .when(Compare::modified_at(&entry.key, entry.modified))
                .then(Op::put(&entry.key, encode(changed)));
            if self.commit(txn).await?.0.succeeded {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Deletes the terms that are more than [`TERMS_KEPT`], the earliest.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn bound_terms(&self, hold: &Hold) -> Result<(), StoreError> {
        self.keep_last(hold, self.keys.terms(), TERMS_KEPT).await.map(drop)
    }
}
