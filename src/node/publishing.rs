//! The node's record: what it publishes about itself, and when.

use std::collections::VecDeque;

use super::clocks::Said;
use super::{Answer, PUBLISH_EVERY, Running};
use crate::execute::Execute;
use crate::ledger::NodeRecord;
use crate::lock::SessionError;
use crate::store::Store;
use crate::time::{Boot, Wall};

/// How many of this node's own publications are remembered.
const REMEMBERED: usize = 8;

/// When this node published its record, with what its clock says: what others wrote after they had seen it is younger.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    /// When it last did; `None`: it is to do so now.
    at: Option<Wall>,
    under_way: bool,
    /// What the clock said, when that was, and at which version it is in the store, once that is known.
    sent: VecDeque<(Wall, Boot, Option<u64>)>,
}

impl Publishing {
    /// The record has changed, or another node is waiting for it.
    pub fn soon(&mut self) {
        self.at = None;
    }

    fn is_due(&self, now: Wall) -> bool {
        !self.under_way && self.at.is_none_or(|at| now.since(at) >= PUBLISH_EVERY || at > now)
    }

    fn begin(&mut self, now: Wall) {
        (self.at, self.under_way) = (Some(now), true);
    }

    fn end(&mut self) {
        self.under_way = false;
    }

    /// A record with this clock was sent.
    pub fn sent(&mut self, clock: Wall, at: Boot) {
        self.sent.push_front((clock, at, None));
        self.sent.truncate(REMEMBERED);
    }

    /// One of them was seen in the store.
    pub fn observed(&mut self, clock: Wall, version: u64) {
        if let Some(sent) = self.sent.iter_mut().find(|(sent, ..)| *sent == clock) {
            sent.2 = Some(version);
        }
    }

    /// What another node said of its clock in this record, received now.
    pub fn said(&self, record: &NodeRecord, (boot, wall): (Boot, Wall)) -> Said {
        let before = |version: &Option<u64>| version.is_some_and(|version| version <= record.heard);
        let answered = self.sent.iter().find(|(_, _, version)| before(version));
        let delay_most = answered.map(|(_, at, _)| boot.since(*at));
        Said { theirs: record.clock, ours: wall, heard_at: boot, delay_most }
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    pub(super) fn record(&self) -> NodeRecord {
        let options = &self.node.options;
        let beside = self.troubles.beside(options.clock.boot()).map(|why| why.to_string());
        NodeRecord {
            node: options.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_digest: self.config_digest.clone(),
            config_since: self.config_since,
            started_at: self.started_at,
            address: options.address.clone(),
            clock: options.clock.wall(),
            stands_back: self
                .observed
                .in_the_way()
                .map(str::to_owned)
                .next()
                .or_else(|| self.observed.drained().map(str::to_owned))
                .or_else(|| self.gate.closed().or_else(|| self.gate.refused()).map(|why| why.to_string())),
            drained: self.observed.drained().is_some(),
            heard: self.observed.position().map_or(0, |position| position.0),
            hands_over: self.hand_over(),
            troubles: self.troubles.in_the_way().cloned().chain(beside).collect(),
        }
    }

    /// Publishes the node's record now and then, and when it has changed.
    pub(super) fn publish_in_time(&mut self) {
        let now = self.node.options.clock.wall();
        let Some(session) = self.leadership.session().cloned().filter(|_| self.publishing.is_due(now)) else { return };
        self.publishing.begin(now);
        let record = self.record();
        self.publishing.sent(record.clock, self.node.options.clock.boot());
        let record = record.encode();
        self.leadership.present(record.clone());
        self.work.spawn(async move { Answer::Published(session.publish(record).await) });
    }

    pub(super) fn published(&mut self, result: Result<(), SessionError>) {
        self.publishing.end();
        let why = match &result {
            Err(SessionError::Store(error)) => Some(error.to_string()),
            Err(_) | Ok(()) => None,
        };
        let takes_writes = why.is_none();
        let is_news = self.troubles.unwritten(why, self.node.options.clock.wall());
        if is_news && takes_writes {
            tracing::info!("the store takes what this node writes again");
            self.publishing.soon();
        }
        match result {
            Ok(()) => {}
            // As long as it lasts, the status of this node says so.
            Err(SessionError::Store(error)) if !is_news => {
                tracing::debug!(%error, "still could not publish this node's record");
            }
            Err(error) => tracing::warn!(%error, "could not publish this node's record"),
        }
    }
}
