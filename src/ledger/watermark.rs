//! The watermark that cannot be gone by: unreadable, or gone though it was there.

use super::Ledger;
use super::keys::About;
use super::record::{WatermarkRecord, decode, is_newer};
use crate::store::{Entry, Keys, Range, Sort, Store, StoreError};

/// How many of the last verdicts are looked through for one that only a watermark explains.
const LOOKED_THROUGH: usize = 100;

/// The way out, for a person.
const WAY_OUT: &str = "Nothing is fired, so that nothing is fired twice: say from when on things are due with \
                       `fencron rewind --to T --yes`";

impl<S: Store> Ledger<S> {
    /// Why the schedules cannot be decided from where they were left, for a person; `None`: they can.
    pub async fn watermark_damage(&self) -> Result<Option<String>, StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.watermark()))).await?;
        match page.entries.first() {
            Some(entry) => Ok(self.damage_of(entry)),
            None if self.was_decided_before().await? => Ok(Some(self.missing_watermark())),
            None => Ok(None),
        }
    }

    /// Why this watermark cannot be gone by.
    pub(super) fn damage_of(&self, entry: &Entry) -> Option<String> {
        let key = &entry.key;
        if decode::<WatermarkRecord>(&entry.value).is_some() {
            return None;
        }
        Some(if is_newer(&entry.value) {
            format!(
                "the watermark `{key}`, up to which the schedules are decided, was written by a newer version of fencron: \
                 nothing is fired here. Update this node; or, where no newer version is to run here any more, say from \
                 when on things are due with `fencron rewind --to T --yes`"
            )
        } else {
            format!("the watermark `{key}`, up to which the schedules are decided, cannot be read. {WAY_OUT}")
        })
    }

    pub(super) fn missing_watermark(&self) -> String {
        let key = self.keys.watermark();
        format!("the watermark `{key}`, up to which the schedules were decided, was deleted. {WAY_OUT}")
    }

    /// Whether an occurrence was claimed that nobody had asked for: since then there has been a watermark.
    async fn was_decided_before(&self) -> Result<bool, StoreError> {
        let newest =
            |keys| Range { keys_only: true, limit: LOOKED_THROUGH, order: Sort::NewestFirst, ..Range::of(keys) };
        for entry in self.store.range(newest(self.keys.opens())).await?.entries {
            if matches!(self.keys.about(&entry.key), Some(About::Open(run)) if !run.as_str().contains('~')) {
                return Ok(true);
            }
        }
        let done = self.store.range(newest(self.keys.history())).await?.entries;
        Ok(done.iter().any(|entry| !self.keys.is_asked_for(&entry.key)))
    }
}
