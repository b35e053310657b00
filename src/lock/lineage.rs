//! PURE: what a namespace shows of its own past, to recognize a store that was restored from a backup. The revision
//! alone is not enough: other writers, or a repair of etcd, may move it beyond all that was ever seen.
//!
//! | key, without a lease | put | meaning |
//! | --- | --- | --- |
//! | `mark` | by every grant and every claim, in its own transaction | its modification revision never falls: where it is below one that was seen, what was granted or claimed then is gone |
//! | `lineage` | with every term of the leader, and now and then ([`LINK_EVERY`]) | random ids, each after the one before: where a link that was seen is missing, the store went back and has gone on from there |
//! | `refused` | by the process that found that the store went back | nothing is granted while it is there: processes that have seen less do not go on alone |
//!
//! The chain has a bound: the last links, and of those before every [`MILESTONE_EVERY`]th. A remembered link that was
//! left out of it proves nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::hold::{Base, FenceBaseError, json};
use super::keys::Namespace;
use crate::store::{Compare, Entry, Keys, Op, Order, Revision, Test, Txn};
use crate::time::Wall;

/// The version of the records. Another one is not read, and not replaced.
const RECORD: u32 = 1;

/// How old the newest link may become before the next one is added.
pub(crate) const LINK_EVERY: Duration = Duration::from_secs(600);

/// How many of the last links are kept, and how many of the milestones.
const KEPT: u64 = 32;

/// Every so many-th link is a milestone.
const MILESTONE_EVERY: u64 = 32;

/// One link of a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Link {
    /// Counted from 1.
    pub number: u64,
    /// Drawn by chance.
    pub id: u64,
}

impl Link {
    fn is_milestone(self) -> bool {
        self.number.is_multiple_of(MILESTONE_EVERY)
    }
}

/// The links of a namespace, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    v: u32,
    /// When the newest was added, by the clock of the process that added it.
    renewed: Wall,
    links: Vec<Link>,
}

impl Lineage {
    /// The lineage that this entry holds, empty where there is none; `None` where this version cannot read it.
    pub fn read(entry: Option<&Entry>) -> Option<Lineage> {
        let Some(entry) = entry else { return Some(Lineage::default()) };
        serde_json::from_slice(&entry.value).ok().filter(|lineage: &Lineage| lineage.v == RECORD)
    }

    pub fn encoded(&self) -> Vec<u8> {
        json(self)
    }

    /// The first link of all: two stores with the same one were the same store once.
    pub fn first(&self) -> Option<Link> {
        self.links.first().copied()
    }

    pub fn newest(&self) -> Option<Link> {
        self.links.last().copied()
    }

    pub fn milestone(&self) -> Option<Link> {
        self.links.iter().rev().copied().find(|link| link.is_milestone())
    }

    /// Whether the next link is due. A clock that was ahead when the last one was added does not put it off for ever.
    pub fn is_due(&self, now: Wall) -> bool {
        now.since(self.renewed) >= LINK_EVERY || self.renewed.since(now) >= LINK_EVERY
    }

    /// The same with one link more.
    pub fn grown(mut self, id: u64, now: Wall) -> Lineage {
        let newest = self.newest().map_or(1, |link| link.number + 1);
        self.links.push(Link { number: newest, id });
        let is_recent = |link: &Link| link.number + KEPT > newest;
        let is_kept = |link: &Link| link.is_milestone() && link.number + KEPT * MILESTONE_EVERY > newest;
        self.links.retain(|link| link.number == 1 || is_recent(link) || is_kept(link));
        Lineage { v: RECORD, renewed: now, ..self }
    }

    /// Whether the link is one of these; `None` where it may have been left out by now.
    pub fn has(&self, link: Link) -> Option<bool> {
        if self.newest().is_none_or(|newest| newest.number < link.number) {
            return Some(false);
        }
        self.links.iter().find(|kept| kept.number == link.number).map(|kept| *kept == link)
    }
}

/// An id for a new link.
pub(crate) fn random_id() -> u64 {
    Uuid::new_v4().as_u64_pair().1
}

/// The value of `refused`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    v: u32,
    at: Wall,
    why: String,
}

impl Refusal {
    pub fn new(at: Wall, why: &str) -> Refusal {
        Refusal { v: RECORD, at, why: why.to_owned() }
    }

    pub fn encoded(&self) -> Vec<u8> {
        json(self)
    }

    /// Why, for a person. What cannot be read refuses as well.
    fn read(entry: &Entry) -> String {
        let record = serde_json::from_slice(&entry.value).ok().filter(|record: &Refusal| record.v == RECORD);
        record.map_or("it is refused".to_owned(), |record| format!("as was found out at {}: {}", record.at, record.why))
    }
}

/// What a look shows of the past, beside what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Past {
    pub base: Result<Base, FenceBaseError>,
    /// When the mark was last put; 0: never.
    pub marked: Revision,
    /// Why nothing is granted, if a process found that the store went back.
    pub refused: Option<String>,
}

/// The keys in which a namespace records its past.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PastKeys {
    pub base: String,
    pub mark: String,
    pub refused: String,
    pub lineage: String,
}

impl PastKeys {
    pub fn new(namespace: &Namespace) -> PastKeys {
        PastKeys {
            base: namespace.base_key(),
            mark: namespace.mark_key(),
            refused: namespace.refused_key(),
            lineage: namespace.lineage_key(),
        }
    }

    /// Reads what [`PastKeys::read`] expects.
    pub fn look(&self) -> [Op; 3] {
        [Op::get(&self.base), Op::get(&self.mark), Op::get(&self.refused)]
    }

    /// What the first answers to a look say. `None` where they are not those.
    pub fn read(&self, pages: &mut impl Iterator<Item = Option<Vec<Entry>>>) -> Option<Past> {
        let (base, mark, refused) = (pages.next()??, pages.next()??, pages.next()??);
        Some(Past {
            base: Base::read(&self.base, base.first()),
            marked: mark.first().map_or(Revision(0), |entry| entry.modified),
            refused: refused.first().map(Refusal::read),
        })
    }

    /// What every grant compares: no process has refused the store.
    pub fn trusted(&self) -> Compare {
        Compare::absent(Keys::one(self.refused.as_str()))
    }

    /// What a grant also compares in a process that has seen the mark put at `marked`: it was not put back since.
    pub fn unforgotten(&self, marked: Revision) -> Option<Compare> {
        let before = Revision(marked.0.checked_sub(1)?);
        Some(Compare { keys: Keys::one(self.mark.as_str()), test: Test::Modified(Order::Greater, before) })
    }

    /// Refuses the store with this value, unless it is refused already, or was repaired since its base was read
    /// (`None`: there was none).
    pub fn refuse(&self, base_modified: Option<Revision>, refusal: Vec<u8>) -> Txn {
        let unrepaired = match base_modified {
            Some(modified) => Compare::modified_at(self.base.as_str(), modified),
            None => Compare::absent(Keys::one(self.base.as_str())),
        };
        Txn::new().when(unrepaired).when(self.trusted()).then(Op::put(&self.refused, refusal))
    }

    /// Has fences counted from `base`, and the store trusted again, unless the base has changed since it was last put at
    /// `before` (0: there was none).
    pub fn rebase(&self, before: Revision, base: u64) -> Txn {
        Txn::new()
            .when(Compare::modified_at(self.base.as_str(), before))
            .then(Op::put(&self.base, base.to_string()))
            .then(self.marked(base))
            .then(Op::delete(&self.refused))
    }

    /// What every grant and every claim puts.
    pub fn marked(&self, base: u64) -> Op {
        Op::put(&self.mark, base.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(links: u64) -> Lineage {
        (1..=links).fold(Lineage::default(), |lineage, number| lineage.grown(number * 7, Wall::EPOCH))
    }

    fn link(number: u64) -> Link {
        Link { number, id: number * 7 }
    }

    #[test]
    fn a_link_that_was_seen_is_found_and_another_of_its_number_is_not() {
        let lineage = grown(5);
        assert_eq!(lineage.has(link(5)), Some(true));
        assert_eq!(lineage.has(Link { number: 5, id: 1 }), Some(false), "it went on another way");
        assert_eq!(lineage.has(link(6)), Some(false), "it went back");
        assert_eq!(Lineage::default().has(link(1)), Some(false));
    }

    #[test]
    fn a_long_lineage_keeps_the_last_links_and_milestones_and_the_first() {
        let lineage = grown(5000);
        assert_eq!(lineage.has(link(5000 - 31)), Some(true));
        assert_eq!(lineage.has(link(5000 - 32)), None, "left out");
        assert_eq!(lineage.has(link(4032)), Some(true), "a milestone");
        assert_eq!(lineage.has(link(3968)), None, "an old milestone");
        assert_eq!((lineage.first(), lineage.milestone()), (Some(link(1)), Some(link(4992))));
        assert!(lineage.links.len() <= 2 * 32 + 1 && lineage.encoded().len() < 4096);
    }

    #[test]
    fn a_link_is_due_after_a_while_and_where_the_clock_was_ahead() {
        let lineage = Lineage::default().grown(1, Wall::EPOCH.plus(LINK_EVERY * 2));
        assert!(!lineage.is_due(Wall::EPOCH.plus(LINK_EVERY * 3 - Duration::from_secs(1))));
        assert!(lineage.is_due(Wall::EPOCH.plus(LINK_EVERY * 3)) && lineage.is_due(Wall::EPOCH));
    }

    #[test]
    fn a_lineage_is_read_back_and_that_of_a_newer_version_is_not() {
        let entry = |value: &[u8]| Entry {
            key: "lineage".into(),
            value: value.into(),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        };
        assert_eq!(Lineage::read(Some(&entry(&grown(40).encoded()))), Some(grown(40)));
        assert_eq!(Lineage::read(None), Some(Lineage::default()));
        for text in ["", "{}", r#"{"v":2,"renewed":"2026-11-21T00:00:00Z","links":[]}"#] {
            assert_eq!(Lineage::read(Some(&entry(text.as_bytes()))), None, "{text}");
        }
    }
}
