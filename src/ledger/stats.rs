//! How many runs ended in each hour, and how late they were started: the last month is read without the history.
//!
//! The leader adds what it has counted since it last did to the record of the hour, about once a minute: it reads the
//! record, and puts the sum on the condition that its hold stands and that the record is as it was read. So the counts of
//! all terms are in one record; a successor goes on from what is there, and a leader that was replaced adds nothing. Each
//! verdict is counted by the one node that the store has acknowledged it to, so that no two leaders count the same one.
//!
//! The record names its last addition, by fence and number. That settles an addition whose answer was lost; one that
//! arrives late finds another version of the record and changes nothing. Where a term is over before an answer came, the
//! addition is not made again. So a count may be too low, by what a lost leader counted in its last minute, and never too
//! high.

use std::fmt;

use super::record::{StatsRecord, decode, encode};
use super::transition::owns;
use super::{Ledger, Pauses, prune};
use crate::fence::Fence;
use crate::lock::Hold;
use crate::scheduler::hour::{HourCounts, hour_of};
use crate::store::{Compare, Entry, Keys, Op, Range, Revision, Store, StoreError, Txn};
use crate::time::Wall;

/// For how many hours counts are kept.
pub const STATS_KEPT: usize = 720;

/// What a leader has counted of one hour, and adds to its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The beginning of the hour.
    pub hour: Wall,
    pub counts: HourCounts,
    pub name: AdditionName,
}

/// Which addition it is: a term numbers its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdditionName {
    pub fence: Fence,
    pub number: u64,
}

impl fmt::Display for AdditionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.fence, self.number)
    }
}

/// What was counted of one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HourRow {
    /// The beginning of the hour.
    pub hour: Wall,
    pub counts: HourCounts,
}

impl<S: Store> Ledger<S> {
    /// Adds to the record of an hour, once, however often it is called with the same addition by the same term. `false`:
    /// the term is over.
    ///
    /// # Errors
    ///
    /// The store's, where the error does not pass: whether it was added is settled by calling again.
    pub async fn add_to_hour(&self, hold: &Hold, addition: &Addition) -> Result<bool, StoreError> {
        let (key, name) = (self.keys.stats(addition.hour), addition.name.to_string());
        let mut found = self.read(Range::of(Keys::one(&key))).await?.entries.into_iter().next();
        let mut pause = Pauses::new();
        loop {
            let (record, version) = match &found {
                None => (StatsRecord::default(), Revision(0)),
                Some(entry) => match decode::<StatsRecord>(&entry.value) {
                    Some(record) => (record, entry.modified),
                    // A newer version wrote it: it is left alone.
                    None => return Ok(true),
                },
            };
            if record.is_by(&name) {
                return Ok(true);
            }
            let txn = hold.still_held().into_iter().fold(Txn::new(), Txn::when);
            let txn = txn
                .when(Compare::modified_at(&key, version))
                .then(Op::put(&key, encode(record.plus(&addition.counts, &name))))
                .otherwise(Op::get(hold.owner_key()))
                .otherwise(Op::get(&key));
            match self.store.commit(txn).await {
                Ok(committed) if committed.succeeded => return Ok(true),
                Ok(committed) => {
                    let is_leader = owns(hold, &committed);
                    found = committed.got(1).and_then(<[Entry]>::first).cloned();
                    let is_there = found.as_ref().and_then(|entry| decode::<StatsRecord>(&entry.value));
                    if is_there.is_some_and(|record| record.is_by(&name)) {
                        return Ok(true);
                    }
                    if !is_leader {
                        return Ok(false);
                    }
                }
                Err(error) if error.is_passing() => pause.wait(&error, "count of runs").await,
                Err(error) => return Err(error),
            }
        }
    }

    /// What was counted in the hours from that of `since` to that of `until`, the earliest first; hours in which nothing
    /// was counted are left out.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn hours(&self, since: Wall, until: Wall) -> Result<Vec<HourRow>, StoreError> {
        let (start, end) = (self.keys.stats(hour_of(since)), prune::behind(&self.keys.stats(hour_of(until))));
        if start >= end {
            return Ok(Vec::new());
        }
        let (entries, _) = self.store.range_all(Keys::Range { start, end }).await?;
        let row = |entry: &Entry| {
            let hour = self.keys.hour_of_stats(&entry.key)?;
            decode::<StatsRecord>(&entry.value).map(|record| HourRow { hour, counts: record.into_counts() })
        };
        Ok(entries.iter().filter_map(row).collect())
    }

    /// Deletes the hours that are more than [`STATS_KEPT`], the earliest.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn bound_hours(&self, hold: &Hold) -> Result<(), StoreError> {
        self.keep_last(hold, self.keys.all_stats(), STATS_KEPT).await.map(drop)
    }
}
