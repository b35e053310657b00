//! Reading what people did, and keeping what is kept of it within its bounds.

use std::time::Duration;

use super::Ledger;
use super::act::{Act, AuditRecord, Deed, Kept};
use super::record::{Asked, decode};
use crate::lock::Hold;
use crate::store::{Keys, Op, Range, Revision, Sort, Store, StoreError};
use crate::time::Wall;

/// How many records of acts are kept.
pub const AUDIT_KEPT: usize = 10_000;

/// For how long they are kept.
pub const AUDIT_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// For how long a request with the key of one before does nothing.
pub const ONCE_AGE: Duration = Duration::from_secs(24 * 3600);

/// How many keys of requests are kept at most.
pub const ONCE_KEPT: usize = 10_000;

/// How many records are read at once.
const READ_AT_ONCE: usize = 500;

/// What a person did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    pub asked: Asked,
    pub deed: Deed,
}

/// A page of what people did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// The last one first.
    pub rows: Vec<AuditRow>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<Revision>,
}

/// Which records are looked for.
#[derive(Clone, Debug, Default)]
pub struct FindAudit {
    pub act: Option<Act>,
    /// Records from before this place on.
    pub before: Option<Revision>,
    pub limit: usize,
}

impl<S: Store> Ledger<S> {
    /// What people did, the last first.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn audit(&self, find: &FindAudit, wanted: impl Fn(&AuditRow) -> bool) -> Result<AuditPage, StoreError> {
        let (mut rows, mut before, limit) = (Vec::new(), find.before, find.limit.max(1));
        // Mostly all that are read are wanted.
        let mut read = limit.saturating_add(1).min(READ_AT_ONCE);
        loop {
            let range = Range {
                limit: read,
                order: Sort::NewestFirst,
                modified_before: before,
                ..Range::of(self.keys.audits())
            };
            let page = self.store.range(range).await?;
            for entry in &page.entries {
                if rows.len() == limit {
                    return Ok(AuditPage { rows, next: before });
                }
                // Each record has a revision of its own.
                before = Some(entry.modified);
                let record: Option<AuditRecord> = decode(&entry.value);
                let row = record.map(|AuditRecord { asked, deed }| AuditRow { asked, deed });
                let is_wanted = |row: &AuditRow| find.act.is_none_or(|act| act == row.deed.act) && wanted(row);
                rows.extend(row.filter(is_wanted));
            }
            if !page.more {
                return Ok(AuditPage { rows, next: None });
            }
            read = READ_AT_ONCE;
        }
    }

    /// Deletes the records of acts beyond [`AUDIT_KEPT`] and [`AUDIT_AGE`], and the keys of requests beyond
    /// [`ONCE_KEPT`] and [`ONCE_AGE`].
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn bound_acts(&self, hold: &Hold, now: Wall) -> Result<(), StoreError> {
        let old = self.keys.audit(now.minus(AUDIT_AGE), "");
        self.bound_list(hold, self.keys.audits(), (old, AUDIT_KEPT)).await?;
        let old = self.keys.backfill(&super::backfill::id_at(now.minus(AUDIT_AGE), ""));
        self.bound_list(hold, self.keys.backfills(), (old, super::backfill::BACKFILLS_KEPT)).await?;
        let (entries, _) = self.store.range_all(self.keys.all_once_asked()).await?;
        let at = |value: &[u8]| decode::<Kept>(value).map(|record| record.at);
        let mut by_age: Vec<(Option<Wall>, String)> =
            entries.into_iter().map(|entry| (at(&entry.value), entry.key)).collect();
        by_age.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = now.minus(ONCE_AGE);
        let gone: Vec<Op> = by_age
            .into_iter()
            .enumerate()
            .filter(|(nth, (at, _))| *nth >= ONCE_KEPT || at.is_some_and(|at| at < oldest))
            .map(|(_, (_, key))| Op::Delete(Keys::one(key)))
            .collect();
        for ops in gone.chunks(super::REGISTERED_AT_ONCE) {
            if !self.write_as_leader(hold, &[], ops).await? {
                break;
            }
        }
        Ok(())
    }
}
