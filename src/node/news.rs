//! News of the ledger and of the other nodes, and what they mean for this one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Running;
use super::clocks::{self, Clocks, Said};
use crate::execute::Execute;
use crate::ledger::{Followed, News, NodeRecord, Pause};
use crate::scheduler::Event;
use crate::scheduler::run::Version;
use crate::scheduler::view::Change;
use crate::store::{Revision, Store};
use crate::time::{Boot, Wall};

/// What the node has seen of the ledger and of the other nodes, and what that means for it.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Up to where the ledger has been seen.
    position: Option<Revision>,
    nodes: BTreeMap<u64, NodeRecord>,
    clocks: Clocks,
    /// By how much the others' clocks are ahead of this node's, in milliseconds, where that keeps it from leading, and that
    /// in words.
    clock_off: Option<(i64, String)>,
    /// Why the watermark cannot be gone by.
    damage: Option<String>,
    /// The nodes that are drained, by their names.
    drains: BTreeMap<String, Pause>,
    /// Why this node is among them.
    drained: Option<String>,
}

impl Observed {
    pub fn position(&self) -> Option<Revision> {
        self.position
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    pub fn stands_back(&self) -> Option<&str> {
        self.clock_off.as_ref().map(|(_, why)| &**why)
    }

    /// What keeps this node from leading.
    pub fn in_the_way(&self) -> impl Iterator<Item = &str> {
        self.stands_back().into_iter().chain(self.damage.as_deref())
    }

    /// Whether the ledger has been read, and nothing in it keeps this node from leading.
    pub fn is_sound(&self) -> bool {
        self.position.is_some() && self.in_the_way().next().is_none() && self.drained.is_none()
    }

    /// Why this node is drained; `None`: it is not.
    pub fn drained(&self) -> Option<&str> {
        self.drained.as_deref()
    }

    /// The nodes whose drain has come to its end.
    pub fn drains_over(&self, now: Wall) -> Vec<String> {
        self.drains.iter().filter(|(_, drain)| drain.is_over(now)).map(|(node, _)| node.clone()).collect()
    }

    /// Looks whether this node is drained. Says whether that is news.
    pub fn look_at_drains(&mut self, own: &str, now: Wall) -> bool {
        let drain = self.drains.get(own).filter(|drain| !drain.is_over(now));
        let before = std::mem::replace(&mut self.drained, drain.map(Pause::of_node));
        before != self.drained
    }

    fn drain(&mut self, node: String, drain: Option<Pause>) {
        match drain {
            Some(drain) => drop(self.drains.insert(node, drain)),
            None => drop(self.drains.remove(&node)),
        }
    }

    /// Whether some other node has not yet said what its clock shows.
    pub fn has_unknown_clocks(&self, own: Option<u64>) -> bool {
        self.nodes.keys().any(|lease| Some(*lease) != own && !self.clocks.has_heard(*lease))
    }

    /// Compares this node's clock with the others'. Says whether it is news that it is off, or that it is not any more.
    pub fn compare_clocks(&mut self, own: u64, leader: Option<u64>, most: Duration, now: Boot) -> bool {
        let off = self.clocks.off(own, leader, most, now);
        let before = std::mem::replace(&mut self.clock_off, off.map(|ms| (ms, clocks::stands_back(ms))));
        before.is_some() != self.clock_off.is_some()
    }

    /// By how much the others' clocks are ahead of this node's, where that keeps it from leading; otherwise 0.
    pub fn clock_off_ms(&self) -> i64 {
        self.clock_off.as_ref().map_or(0, |(ms, _)| *ms)
    }

    /// How far the clock that is furthest away is from this node's.
    pub fn furthest_clock(&self, own: u64) -> Duration {
        self.clocks.furthest(own)
    }

    pub fn own_clock_was_set(&mut self, by: i64) {
        self.clocks.own_was_set(by);
    }

    /// Says whether that is news.
    fn damaged(&mut self, damage: Option<String>) -> bool {
        let is_news = self.damage != damage;
        self.damage = damage;
        is_news
    }

    /// Another node has published its record.
    fn published(&mut self, lease: u64, record: &NodeRecord, said: Said) {
        self.clocks.observed(lease, said);
        self.nodes.insert(lease, record.clone());
    }

    fn gone(&mut self, lease: u64) {
        self.clocks.gone(lease);
        self.nodes.remove(&lease);
    }

    /// These nodes are there, and no others. What they say of their clocks is of unknown age.
    fn reread(&mut self, nodes: BTreeMap<u64, NodeRecord>, position: Revision) {
        self.clocks.keep(|lease| nodes.contains_key(&lease));
        (self.nodes, self.position) = (nodes, Some(position));
    }
}

/// Until when a pause lasts. One without an end, or that a newer version wrote, lasts until a person ends it.
fn until(pause: Option<&Pause>) -> Wall {
    pause.and_then(|pause| pause.until).unwrap_or(Wall::MAX)
}

impl<S: Store, E: Execute> Running<S, E> {
    pub(super) fn observed(&mut self, news: News) {
        self.show_news(&news);
        match news {
            News::Changed(changes, upto) => {
                for change in changes {
                    self.heard_of(change);
                }
                self.observed.position = Some(upto);
            }
            News::Reread(all, upto) => {
                if let Some(before) = self.observed.position.filter(|before| *before > upto) {
                    self.node.locks.saw_it_go_back();
                    self.lose_term(&format!("the store went back from revision {before} to {upto}"));
                    self.feed(Event::WentBack);
                }
                self.reread(all, upto);
            }
        }
        // Before an election has shown the fence base, what was seen cannot be held against it.
        if self.leadership.has_compared_base()
            && let Some(position) = self.observed.position
        {
            self.node.locks.saw(position);
        }
        self.act_if_caught_up();
    }

    fn heard_of(&mut self, change: Followed) {
        match change {
            Followed::Ledger(change, version) => {
                if matches!(change, Change::Watermark(_)) {
                    self.damaged(None);
                }
                self.heard_of_watermark(&change, version);
                self.feed(Event::Changed(change, version));
            }
            Followed::Paused { job, paused, pause, version } => {
                let change = Change::Paused(job, paused.then(|| until(pause.as_ref())));
                self.feed(Event::Changed(change, version));
            }
            Followed::Drained { node, drain, .. } => self.observed.drain(node, drain),
            // For the board alone.
            Followed::Last { .. } => {}
            Followed::Mark { base, at } => self.node.locks.saw_mark(base, at),
            Followed::Lineage => self.verify(),
            Followed::Damaged(why) => self.damaged(Some(why)),
            Followed::Node { lease, alive, record, version } => {
                let is_new = self.heard_of_node(lease, record, version);
                self.feed(Event::Changed(Change::Session { lease, alive }, version));
                if is_new && alive {
                    self.publishing.soon(); // so that the newcomer learns what the time is here
                }
            }
            Followed::Other { key, at, created, .. } => self.heard_of_owner(&key, at, created),
        }
    }

    /// The ledger was read whole.
    fn reread(&mut self, all: Vec<Followed>, upto: Revision) {
        let (mut changes, mut nodes, mut owner, mut damage) = (Vec::new(), BTreeMap::new(), None, None);
        self.observed.drains.clear();
        for followed in all {
            match followed {
                Followed::Ledger(change, version) => changes.push((change, version)),
                Followed::Paused { job, paused, pause, version } => {
                    changes.push((Change::Paused(job, paused.then(|| until(pause.as_ref()))), version));
                }
                Followed::Node { lease, alive, record, .. } => {
                    // What it says of its clock is of unknown age; this node's own record asks it to publish it again.
                    changes.push((Change::Session { lease, alive }, upto.0));
                    nodes.extend(record.map(|record| (lease, record)));
                }
                Followed::Drained { node, drain, .. } => self.observed.drain(node, drain),
                Followed::Mark { base, at } => self.node.locks.saw_mark(base, at),
                Followed::Lineage => self.verify(),
                Followed::Damaged(why) => damage = Some(why),
                Followed::Other { key, created, .. } if key == self.leadership.owner_key() => owner = created,
                Followed::Last { .. } | Followed::Other { .. } => {}
            }
        }
        for (change, version) in &changes {
            self.heard_of_watermark(change, *version);
        }
        self.feed(Event::Reread { changes, version: upto.0 });
        self.observed.reread(nodes, upto);
        self.damaged(damage);
        let owner_key = self.leadership.owner_key().to_owned();
        self.heard_of_owner(&owner_key, upto, owner);
    }

    /// A watermark that went back was brought back by a person: claims go on from there.
    fn heard_of_watermark(&mut self, change: &Change, version: Version) {
        let Change::Watermark(mark) = change else { return };
        let view = self.scheduler.view();
        if version <= view.watermark_version || view.watermark.as_ref().is_none_or(|before| mark >= before) {
            return;
        }
        tracing::warn!(to = %mark.instant, "the schedules were brought back: what is due from there on is decided again");
        self.leadership.rewound(version);
    }

    /// The watermark cannot be gone by (`None`: it can): this node does not lead, or it would fire again what was fired.
    fn damaged(&mut self, damage: Option<String>) {
        if !self.observed.damaged(damage.clone()) {
            return;
        }
        self.publishing.soon();
        let Some(why) = damage else { return tracing::info!("the watermark can be gone by again") };
        tracing::error!("this node does not lead: {why}");
        self.lose_term(&why);
    }

    fn heard_of_node(&mut self, lease: u64, record: Option<NodeRecord>, version: u64) -> bool {
        let own = self.leadership.lease() == Some(lease);
        let is_new = !own && !self.observed.nodes.contains_key(&lease);
        match record {
            Some(record) if own => {
                self.publishing.observed(record.clock, version);
                self.observed.nodes.insert(lease, record);
            }
            Some(record) => {
                let said = self.publishing.said(&record, self.node.options.clock.both());
                self.observed.published(lease, &record, said);
                self.heard_of_namesake(&record);
            }
            None => self.observed.gone(lease),
        }
        self.look_at_clocks();
        is_new
    }

    /// Another process that has just published uses this node's name: the work of both cannot be distinguished.
    fn heard_of_namesake(&mut self, record: &NodeRecord) {
        // A former session of this process, of which news may still come, is no other one.
        if record.node != self.node.options.name || record.started_at == self.started_at {
            return;
        }
        if let Some(what) = self.troubles.namesake(record, self.node.options.clock.boot()) {
            tracing::error!("{what}");
            self.publishing.soon();
        }
    }
}
