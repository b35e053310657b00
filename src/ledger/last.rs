//! How the last run of each job ended, beside the history: a list of jobs reads one small record of each.
//!
//! The record is put by the transaction of the verdict, on the condition that it is as its writer knows it. So it never
//! moves back, though verdicts come from several nodes and out of order.

use std::collections::BTreeMap;

use super::alerts::Alerts;
use super::history::done_entry;
use super::record::{LastRecord, decode, encode};
use super::{Ledger, keys};
use crate::job::JobName;
use crate::lock::Hold;
use crate::scheduler::run::{Done, Last, STRIP_MOST, Version};
use crate::scheduler::{Transition, alert};
use crate::store::{Committed, Compare, Entry, Keys, Op, Range, Revision, Sort, Store, StoreError, Txn};

/// How many verdicts are looked at for the last run of a job that has no record yet.
const LOOKED_AT: usize = 2 * STRIP_MOST;

/// What a writer knows of the records of some jobs.
#[derive(Clone, Debug, Default)]
pub struct LastRuns(BTreeMap<JobName, Known>);

#[derive(Clone, Debug)]
enum Known {
    /// The record, and the version of its key; `None` and 0: there is none.
    Is(Option<Last>, Version),
    /// A newer version of fencron wrote it: it is left alone.
    Newer,
}

impl LastRuns {
    /// The record of a job is this, at this version; `None` and 0: there is none.
    pub fn note(&mut self, job: JobName, last: Option<Last>, version: Version) {
        self.0.insert(job, Known::Is(last, version));
    }

    /// What is known, with the versions.
    pub fn known(&self) -> impl Iterator<Item = (&JobName, Option<&Last>, Version)> {
        self.0.iter().filter_map(|(job, known)| match known {
            Known::Is(last, version) => Some((job, last.as_ref(), *version)),
            Known::Newer => None,
        })
    }

    /// What these changes make of the records, each with the version that it is to replace. A job has one record,
    /// however many of its runs end together.
    pub(super) fn after(&self, changes: &[Transition]) -> BTreeMap<JobName, (Last, Version)> {
        self.after_with_alerts(changes).0
    }

    /// The same, and the alerts that they are worth.
    pub(super) fn after_with_alerts(&self, changes: &[Transition]) -> (BTreeMap<JobName, (Last, Version)>, Alerts) {
        let mut after: BTreeMap<JobName, (Last, Version)> = BTreeMap::new();
        let mut alerts = Alerts::new();
        for (done, notify) in changes.iter().filter_map(|change| Some((verdict_of(change)?, &change.notify))) {
            let (before, version) = match (after.remove(&done.job), self.0.get(&done.job)) {
                (Some((before, version)), _) => (Some(before), version),
                (None, Some(Known::Is(before, version))) => (before.clone(), *version),
                (None, Some(Known::Newer)) => continue,
                (None, None) => (None, 0),
            };
            let (last, alert) = alert::after(before.as_ref(), done, notify.as_deref());
            alerts.extend(notify.clone().zip(alert));
            after.insert(done.job.clone(), (last, version));
        }
        (after, alerts)
    }

    /// These records were put, at this version.
    pub(super) fn put(&mut self, records: BTreeMap<JobName, (Last, Version)>, version: Version) {
        self.0.extend(records.into_iter().map(|(job, (last, _))| (job, Known::Is(Some(last), version))));
    }

    /// The record of this job was found to be this.
    fn found(&mut self, job: JobName, entry: Option<&Entry>) {
        let known = match entry {
            None => Known::Is(None, 0),
            Some(entry) => read(&job, entry).map_or(Known::Newer, |last| Known::Is(Some(last), entry.modified.0)),
        };
        self.0.insert(job, known);
    }

    /// Takes what a transaction that was not applied answers from its `first` answer on: a record of each of these.
    pub(super) fn learn(&mut self, first: usize, committed: &Committed, of: BTreeMap<JobName, (Last, Version)>) {
        for ((job, _), nth) in of.into_iter().zip(first..) {
            self.found(job, committed.got(nth).and_then(<[Entry]>::first));
        }
    }
}

/// The verdict of the change, if it is one that the record of a job's last run shows.
pub(super) fn verdict_of(change: &Transition) -> Option<&Done> {
    change.to.verdict().filter(|done| done.was_begun())
}

pub(super) fn read(job: &JobName, entry: &Entry) -> Option<Last> {
    decode::<LastRecord>(&entry.value)?.into_last(job)
}

impl<S: Store> Ledger<S> {
    /// Puts these records, where they are as they were known to be.
    pub(super) fn put_last(&self, txn: Txn, records: &BTreeMap<JobName, (Last, Version)>) -> Txn {
        records.iter().fold(txn, |txn, (job, (last, version))| {
            let key = self.keys.last(job);
            txn.when(Compare::modified_at(&key, Revision(*version)))
                .then(Op::put(&key, encode(LastRecord::from(last))))
                .otherwise(Op::get(key))
        })
    }

    /// How the last run of each job ended, as far as nodes of this version have recorded it, by name.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn last_runs(&self) -> Result<BTreeMap<JobName, Last>, StoreError> {
        let (entries, _) = self.store.range_all(self.keys.lasts()).await?;
        let last = |entry: &Entry| match self.keys.about(&entry.key)? {
            keys::About::Last(job) => read(&job, entry).map(|last| (job, last)),
            _ => None,
        };
        Ok(entries.iter().filter_map(last).collect())
    }

    /// How the last run of one job ended, as far as a node of this version has recorded it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn last_run(&self, job: &JobName) -> Result<Option<Last>, StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.last(job)))).await?;
        Ok(page.entries.first().and_then(|entry| read(job, entry)))
    }

    /// What is known of the last run of one job.
    pub(super) async fn known_last(&self, job: &JobName) -> Result<LastRuns, StoreError> {
        let page = self.read(Range::of(Keys::one(self.keys.last(job)))).await?;
        let mut known = LastRuns::default();
        known.found(job.clone(), page.entries.first());
        Ok(known)
    }

    /// Makes the record of a job that has none, from its history: nodes of an older version wrote that. Says whether it
    /// did.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn make_last(&self, hold: &Hold, job: &JobName) -> Result<bool, StoreError> {
        let range = Range { limit: LOOKED_AT, order: Sort::NewestFirst, ..Range::of(self.keys.history_of(job)) };
        // A job of which all is skipped has no record, and each sweep comes by it again: its keys say so.
        let keys = self.store.range(Range { keys_only: true, ..range.clone() }).await?;
        if keys.entries.iter().all(|entry| self.keys.is_unbegun(&entry.key)) {
            return Ok(false);
        }
        let page = self.store.range(range).await?;
        let verdicts = page.entries.iter().rev().filter_map(done_entry).filter(Done::was_begun);
        let Some(last) = verdicts.fold(None, |before: Option<Last>, done| Some(Last::after(before.as_ref(), &done)))
        else {
            return Ok(false);
        };
        let key = self.keys.last(job);
        let absent = Compare::absent(Keys::one(&key));
        self.write_as_leader(hold, &[absent], &[Op::put(key, encode(LastRecord::from(&last)))]).await
    }

    /// Deletes the record of a job of which there is no run any more. Says whether it did: a run may have come in
    /// between, or the term is over.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn forget_last(&self, hold: &Hold, job: &JobName) -> Result<bool, StoreError> {
        let nothing = [self.keys.history_of(job), self.keys.opens_of(job)].map(Compare::absent);
        self.write_as_leader(hold, &nothing, &[Op::delete(self.keys.last(job))]).await
    }
}
