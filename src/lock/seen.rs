//! Fences that survive a store restored from a backup.
//!
//! A restored etcd has the same cluster id, the same raft term and a *lower* revision, and even the leases of the dead
//! are accepted again: nothing inside a store shows that it went back. So every process that takes a hold remembers,
//! outside of the store, the most that it has seen: revision and fence, the mark of the last grant or claim, and links
//! of the store's lineage ([`lineage`](super::lineage)). A store that lacks these is refused, until an operator has
//! decided which state is the right one (`fencron fence repair`).

use serde::{Deserialize, Serialize};

use super::hold::{FENCE_LIMIT, FenceBaseError};
use super::lineage::{Lineage, Link, Past};
use crate::fence::Fence;
use crate::store::Revision;

mod file;

pub use file::{SeenFile, SeenFileError};

/// The most that was seen of one namespace of one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Hash))]
pub struct Seen {
    /// The base that fences were counted from. Only a repair changes it, after which revisions are counted from the start.
    pub base: u64,
    /// The highest revision under that base.
    pub revision: Revision,
    /// The highest fence of any lock; 0: none.
    pub fence: u64,
    /// The store was found older than this. It grows on by all that is written to it, beyond what was seen here, and is
    /// none the truer for it: only a repair, which is another base, makes it good.
    #[serde(default)]
    pub went_back: bool,
    /// When something was last granted or claimed, under that base; 0: not as far as was seen.
    #[serde(default)]
    pub marked: Revision,
    /// The newest link of the store's lineage, under that base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// The newest of those links that a lineage keeps for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milestone: Option<Link>,
    /// The first link of all: it distinguishes an older state of this store from another store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Link>,
}

/// The store is older than it was: it was restored from a backup, or it is another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store went back in time: {why}. It was restored from a backup, recreated, or is not the same store. Nothing is \
     granted, so that no fence and no claim is given out twice: if this is the store you mean, run `fencron fence repair`"
)]
pub struct StoreWentBack {
    pub why: String,
}

impl Seen {
    /// Whether a store that answers with this base and revision, to a question put *after* `self` was seen, can be the
    /// same one and no older, as far as numbers show. A repair that covered everything seen here is recognized as one.
    ///
    /// ```
    /// use fencron::lock::Seen;
    /// use fencron::store::Revision;
    /// let seen = Seen { revision: Revision(24), fence: 20, ..Seen::default() };
    /// assert!(seen.check(0, Revision(24)).is_ok());
    /// assert!(seen.check(0, Revision(4)).is_err(), "restored");
    /// assert!(seen.check(1_700_000_000_000, Revision(4)).is_ok(), "restored and repaired");
    /// ```
    pub fn check(&self, base: u64, revision: Revision) -> Result<(), StoreWentBack> {
        if self.was_repaired(base) {
            return Ok(());
        }
        let Seen { base: own, revision: before, fence, .. } = *self;
        let why = if base != own || revision < before {
            format!(
                "it is at revision {revision} (fence base {base}), and was at revision {before} (fence base {own}, fence \
                 {fence}) before it was set back"
            )
        } else if self.went_back {
            format!(
                "it was found to be older than revision {before}, and what is written to it since makes that no truer"
            )
        } else {
            return Ok(());
        };
        Err(StoreWentBack { why })
    }

    /// The same by all that a look at `revision` shows.
    pub(super) fn check_past(&self, past: &Past, revision: Revision) -> Result<(), StoreWentBack> {
        match &past.base {
            Ok(base) => {
                self.check(base.value, revision)?;
                if !self.was_repaired(base.value) && past.marked < self.marked {
                    let (last, gone) = (past.marked, self.marked);
                    let why = format!(
                        "it is at revision {revision}, but does not know what was granted or claimed at revision {gone}: \
                         the last that it knows of is of revision {last}"
                    );
                    return Err(StoreWentBack { why });
                }
            }
            // Without its base a store that is behind is still behind: say that, rather than that the base is missing.
            Err(base) if revision < self.revision || self.went_back => {
                let missing =
                    if matches!(base, FenceBaseError::Missing { .. }) { ", without a fence base" } else { "" };
                let (before, fence) = (self.revision, self.fence);
                let why =
                    format!("it is at revision {revision}{missing}, and was at revision {before} (fence {fence})");
                return Err(StoreWentBack { why });
            }
            Err(_) => {}
        }
        past.refused.as_ref().map_or(Ok(()), |why| Err(StoreWentBack { why: why.clone() }))
    }

    /// The same by the lineage, which stands under `base`.
    pub(super) fn check_lineage(&self, base: u64, lineage: &Lineage) -> Result<(), StoreWentBack> {
        if self.was_repaired(base) {
            return Ok(());
        }
        let missing = [self.link, self.milestone].into_iter().flatten().find(|link| lineage.has(*link) == Some(false));
        let Some(Link { number, .. }) = missing else { return Ok(()) };
        let newest = lineage.newest().map_or(0, |link| link.number);
        let why = format!(
            "its lineage has {newest} links, and not the one that was seen as number {number}: it was set back, and has \
             been written to since"
        );
        Err(StoreWentBack { why })
    }

    /// Whether that lineage belongs to this very store, at any time.
    pub(super) fn is_of_same_store(&self, lineage: &Lineage) -> bool {
        self.origin.is_some() && self.origin == lineage.first()
    }

    fn was_repaired(&self, base: u64) -> bool {
        base > self.base && base >= self.fence && base < FENCE_LIMIT
    }

    /// Adds what was seen. What is older than the rest is left out: answers may come in any order.
    pub fn note(&mut self, base: u64, revision: Revision, fence: Option<Fence>) {
        self.add(&Seen { base, revision, fence: fence.map_or(0, Fence::get), ..Seen::default() });
    }

    /// Adds when the mark was put, under that base.
    pub(super) fn note_mark(&mut self, base: u64, marked: Revision) {
        if base == self.base {
            self.marked = self.marked.max(marked);
        }
    }

    /// Adds what a lineage shows that was found to be right, under that base.
    pub(super) fn note_lineage(&mut self, base: u64, lineage: &Lineage) {
        let newest = lineage.newest();
        if base == self.base && newest.map(|link| link.number) >= self.link.map(|link| link.number) {
            (self.link, self.milestone, self.origin) = (newest, lineage.milestone(), lineage.first());
        }
    }

    /// Adds all that `other` has seen of the same store.
    pub(super) fn add(&mut self, other: &Seen) {
        let fence = self.fence.max(other.fence);
        if other.base > self.base {
            *self = Seen { origin: other.origin.or(self.origin), ..*other };
        } else if other.base == self.base {
            self.revision = self.revision.max(other.revision);
            self.marked = self.marked.max(other.marked);
            self.went_back |= other.went_back;
            if other.link.map(|link| link.number) >= self.link.map(|link| link.number) {
                (self.link, self.milestone) = (other.link, other.milestone);
                self.origin = other.origin.or(self.origin);
            }
        }
        self.fence = fence;
    }

    /// Whether nothing has ever been seen.
    pub fn is_nothing(&self) -> bool {
        *self == Seen::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::hold::Base;
    use crate::time::Wall;

    fn seen(base: u64, revision: u64, fence: u64) -> Seen {
        Seen { base, revision: Revision(revision), fence, ..Seen::default() }
    }

    #[test]
    fn a_store_that_is_behind_is_refused() {
        assert!(seen(0, 10, 5).check(0, Revision(10)).is_ok());
        assert!(seen(0, 10, 5).check(0, Revision(9)).is_err());
    }

    #[test]
    fn a_store_that_went_back_is_refused_however_far_it_grows_until_it_is_repaired() {
        let mut went_back = Seen { went_back: true, ..seen(0, 10, 5) };
        went_back.note(0, Revision(11), None);
        assert!(went_back.check(0, Revision(12)).is_err());
        assert!(went_back.check(1000, Revision(12)).is_ok());
        went_back.note(1000, Revision(12), None);
        assert!(went_back.check(1000, Revision(13)).is_ok());
    }

    #[test]
    fn a_store_restored_from_before_a_repair_is_refused() {
        assert!(seen(1000, 10, 1005).check(0, Revision(2000)).is_err());
    }

    #[test]
    fn a_repair_that_knew_less_is_refused() {
        assert!(seen(0, 900, 800).check(500, Revision(3)).is_err());
        assert!(seen(0, 900, 800).check(800, Revision(3)).is_ok());
    }

    #[test]
    fn revisions_are_counted_anew_after_a_repair() {
        let mut seen = seen(0, 900, 800);
        seen.note(1000, Revision(3), None);
        assert_eq!((seen.base, seen.revision, seen.fence), (1000, Revision(3), 800));
        seen.note(0, Revision(901), Fence::new(850));
        assert_eq!(
            (seen.base, seen.revision, seen.fence),
            (1000, Revision(3), 850),
            "a late answer of the time before"
        );
    }

    fn past(base: u64, marked: u64) -> Past {
        let base = Ok(Base { value: base, modified: Revision(2) });
        Past { base, marked: Revision(marked), refused: None }
    }

    fn lineage(links: u64) -> Lineage {
        (1..=links).fold(Lineage::default(), |lineage, number| lineage.grown(number, Wall::EPOCH))
    }

    #[test]
    fn a_store_that_does_not_know_of_the_last_grant_is_refused_however_far_its_revision_has_grown() {
        let seen = Seen { marked: Revision(8), ..seen(0, 10, 8) };
        assert!(seen.check_past(&past(0, 8), Revision(1000)).is_ok());
        let error = seen.check_past(&past(0, 7), Revision(1000)).unwrap_err();
        assert!(error.to_string().contains("granted or claimed at revision 8"), "{error}");
        assert!(seen.check_past(&past(1000, 3), Revision(12)).is_ok(), "repaired");
    }

    #[test]
    fn what_somebody_refused_is_refused_by_who_has_seen_nothing() {
        let refused = Past { refused: Some("so".into()), ..past(0, 8) };
        assert!(Seen::default().check_past(&refused, Revision(9)).is_err());
    }

    #[test]
    fn a_lineage_without_a_link_that_was_seen_is_refused() {
        let mut seen = seen(0, 10, 5);
        seen.note_lineage(0, &lineage(40));
        assert!(seen.check_lineage(0, &lineage(41)).is_ok());
        assert!(seen.check_lineage(0, &lineage(39)).is_err(), "it went back");
        assert!(seen.check_lineage(0, &lineage(39).grown(99, Wall::EPOCH)).is_err(), "and went on");
        assert!(seen.check_lineage(0, &Lineage::default()).is_err(), "it is gone");
        assert!(seen.check_lineage(1000, &lineage(39)).is_ok(), "repaired");
        assert!(seen.is_of_same_store(&lineage(1)) && !seen.is_of_same_store(&Lineage::default()));
    }

    #[test]
    fn a_link_that_was_left_out_is_vouched_for_by_a_milestone() {
        let mut seen = seen(0, 10, 5);
        seen.note_lineage(0, &lineage(40));
        assert!(seen.check_lineage(0, &lineage(500)).is_ok());
        let other = (32..=500).fold(lineage(31), |lineage, number| lineage.grown(number + 1, Wall::EPOCH));
        assert!(seen.check_lineage(0, &other).is_err());
    }

    #[test]
    fn what_an_older_version_saved_is_read() {
        let text = r#"{"base":0,"revision":24,"fence":20}"#;
        assert_eq!(serde_json::from_str::<Seen>(text).unwrap(), seen(0, 24, 20));
    }

    #[test]
    fn marks_and_links_are_counted_anew_after_a_repair() {
        let mut all = Seen { marked: Revision(8), ..seen(0, 10, 8) };
        all.note_lineage(0, &lineage(3));
        all.note(1000, Revision(4), None);
        assert_eq!((all.marked, all.link, all.fence), (Revision(0), None, 8));
        assert_eq!(all.origin, lineage(1).first(), "it is the same store");
        all.note_mark(0, Revision(11));
        assert_eq!(all.marked, Revision(0), "a late answer of the time before");
    }
}
