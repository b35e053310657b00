//! What the ledger tells of itself and of the other nodes, and how the node takes it.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Running, Standing};
use crate::execute::Execute;
use crate::ledger::{Followed, Ledger, News, NodeRecord};
use crate::scheduler::Event;
use crate::scheduler::run::Version;
use crate::scheduler::view::Change;
use crate::store::{Revision, Store, StoreError};

/// Hears the ledger's news for as long as anybody listens. Returns with an error that does not pass.
pub(super) async fn follow<S: Store>(ledger: Ledger<S>, news: mpsc::Sender<News>) -> StoreError {
    const PAUSE: Duration = Duration::from_millis(200);
    let mut follow = None;
    loop {
        let result = match &mut follow {
            None => ledger.follow().await.map(|begun| {
                follow = Some(begun);
                None
            }),
            Some(follow) => follow.next().await.map(Some),
        };
        match result {
            Ok(Some(heard)) => {
                if news.send(heard).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Ok(None) => {}
            Err(error) if !error.is_passing() && !matches!(error, StoreError::Compacted { .. }) => return error,
            Err(error) => {
                tracing::warn!(%error, "the ledger cannot be followed right now; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl<S: Store, E: Execute> Running<S, E> {
    pub(super) fn heard(&mut self, news: News) {
        match news {
            News::Changed(changes, upto) => {
                for change in changes {
                    self.heard_of(change);
                }
                self.position = Some(upto);
            }
            News::Reread(all, upto) => {
                if let Some(before) = self.position.filter(|before| *before > upto) {
                    self.locks.saw_it_go_back();
                    self.lose_term(&format!("the store went back from revision {before} to {upto}"));
                    self.tell(Event::WentBack);
                }
                self.reread(all, upto);
            }
        }
        // Before an election has shown the fence base, what was seen cannot be held against it.
        if matches!(self.standing, Standing::Leading(_) | Standing::Campaigning(_))
            && let Some(position) = self.position
        {
            self.locks.saw(position);
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
                self.tell(Event::Changed(change, version));
            }
            Followed::Mark { base, at } => self.locks.saw_mark(base, at),
            Followed::Lineage => self.verify(),
            Followed::Damaged(why) => self.damaged(Some(why)),
            Followed::Node { lease, alive, record, version } => {
                let is_new = self.heard_of_node(lease, record, version);
                self.tell(Event::Changed(Change::Session { lease, alive }, version));
                if is_new && alive {
                    self.published_at = None; // so that the newcomer hears what the time is here
                }
            }
            Followed::Other { key, at, created } => self.heard_of_owner(&key, at, created),
        }
    }

    /// The ledger was read whole.
    fn reread(&mut self, all: Vec<Followed>, upto: Revision) {
        let (mut changes, mut owner, mut damage) = (Vec::new(), None, None);
        self.nodes.clear();
        for told in all {
            match told {
                Followed::Ledger(change, version) => changes.push((change, version)),
                Followed::Node { lease, alive, record, .. } => {
                    // What it says of its clock is of unknown age; it is asked to say it anew by this node's own record.
                    changes.push((Change::Session { lease, alive }, upto.0));
                    self.nodes.extend(record.map(|record| (lease, record)));
                }
                Followed::Mark { base, at } => self.locks.saw_mark(base, at),
                Followed::Lineage => self.verify(),
                Followed::Damaged(why) => damage = Some(why),
                Followed::Other { key, created, .. } if key == self.election.owner_key() => owner = created,
                Followed::Other { .. } => {}
            }
        }
        for (change, version) in &changes {
            self.heard_of_watermark(change, *version);
        }
        self.tell(Event::Reread { changes, version: upto.0 });
        self.position = Some(upto);
        self.damaged(damage);
        let nodes = &self.nodes;
        self.clocks.keep(|lease| nodes.contains_key(&lease));
        let owner_key = self.election.owner_key().to_owned();
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
        self.rewound_at = version;
        if let Some(claims) = &mut self.claims {
            claims.rewound(version);
        }
    }

    fn heard_of_node(&mut self, lease: u64, record: Option<NodeRecord>, version: u64) -> bool {
        let own = self.session.as_ref().map(|session| session.lease().0.get());
        let is_new = !self.nodes.contains_key(&lease) && own != Some(lease);
        match record {
            Some(record) => {
                if own == Some(lease) {
                    self.publications.heard(record.clock, version);
                } else {
                    self.clocks.heard(lease, self.publications.said(&record, self.options.clock.both()));
                    self.heard_of_namesake(&record);
                }
                self.nodes.insert(lease, record);
            }
            None => {
                self.clocks.gone(lease);
                self.nodes.remove(&lease);
            }
        }
        self.look_at_clocks();
        is_new
    }

    /// Another process that has just published goes by this node's name: what both do is told apart by nothing.
    fn heard_of_namesake(&mut self, record: &NodeRecord) {
        // A former session of this process, of which something is still to be heard, is no other one.
        if record.node != self.options.name || record.started_at == self.started_at {
            return;
        }
        if let Some(what) = self.troubles.namesake(record, self.options.clock.boot()) {
            tracing::error!("{what}");
            self.published_at = None;
        }
    }
}
