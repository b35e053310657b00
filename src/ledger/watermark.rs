//! A watermark that cannot be used: unreadable, or gone although it was there.

use super::Ledger;
use super::keys::About;
use super::prune::behind;
use super::record::{WatermarkRecord, decode, is_newer};
use crate::scheduler::run::Watermark;
use crate::store::{Entry, Keys, PAGE, Range, Store, StoreError};

/// The way out, for a person.
const WAY_OUT: &str = "Nothing is fired, so that nothing is fired twice: say from when on things are due with \
                       `fencron rewind --to T --yes`";

impl<S: Store> Ledger<S> {
    /// How far the schedules have been decided, and why they cannot be decided on from there, for a person.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn look_at_watermark(&self) -> Result<(Option<Watermark>, Option<String>), StoreError> {
        let page = self.store.range(Range::of(Keys::one(self.keys.watermark()))).await?;
        let Some(entry) = page.entries.first() else {
            let is_missing = self.was_decided_before().await?;
            return Ok((None, is_missing.then(|| self.missing_watermark())));
        };
        let mark = decode::<WatermarkRecord>(&entry.value).map(WatermarkRecord::watermark);
        Ok((mark, self.damage_of(entry)))
    }

    /// Why the schedules cannot be decided from where they were left, for a person; `None`: they can.
    pub async fn watermark_damage(&self) -> Result<Option<String>, StoreError> {
        Ok(self.look_at_watermark().await?.1)
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

    /// Whether an occurrence of a schedule was claimed: since then there has been a watermark.
    async fn was_decided_before(&self) -> Result<bool, StoreError> {
        let is_scheduled =
            |key: &str| matches!(self.keys.about(key), Some(About::Open(run)) if !run.as_str().contains('~'));
        Ok(self.has_key(self.keys.opens(), is_scheduled).await?
            || self.has_key(self.keys.history(), |key| !self.keys.is_asked_for(key)).await?)
    }

    /// Whether one of these keys is such a one.
    async fn has_key(&self, of: Keys, is_such: impl Fn(&str) -> bool) -> Result<bool, StoreError> {
        let Keys::Range { mut start, end } = of else { return Ok(false) };
        loop {
            let keys = Keys::Range { start, end: end.clone() };
            let page = self.store.range(Range { keys_only: true, limit: PAGE, ..Range::of(keys) }).await?;
            if page.entries.iter().any(|entry| is_such(&entry.key)) {
                return Ok(true);
            }
            match page.entries.last() {
                Some(last) if page.more => start = behind(&last.key),
                _ => return Ok(false),
            }
        }
    }
}
