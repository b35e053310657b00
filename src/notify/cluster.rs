//! Troubles of the cluster, notified: those that the leader sees, and by a follower that no node leads.
//!
//! The leader puts what is known of troubles and the messages of all channels in one transaction, under its fence. That no
//! node leads cannot wait for a leader: the follower that is first to record it sends it, each message a few times at most.

use std::sync::Arc;
use std::time::Duration;

use super::{AGAIN, Notifier};
use crate::job::Notices;
use crate::lock::Hold;
use crate::scheduler::outbox::{Content, Message};
use crate::scheduler::trouble::{Found, NOBODY_LEADS, Trouble, Troubles};
use crate::store::{Store, StoreError};

/// How often the leader looks; a trouble is notified that is there at two looks.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// How often a follower looks whether a node leads.
const FOLLOWER_LOOKS_EVERY: Duration = Duration::from_secs(1);

/// How often a follower tries a message that is not taken.
const TRIES: u32 = 5;

impl<S: Store> Notifier<S> {
    /// Looks again and again for troubles, until it is dropped.
    pub(super) async fn watch_troubles(self, hold: Hold, wanted: Arc<Notices>) {
        let (mut before, mut known) = (Found::default(), None);
        loop {
            match self.look_for_troubles(&hold, &wanted, &before, &mut known).await {
                Ok(Some(seen)) => before = seen,
                Ok(None) => tracing::debug!("the channels were busy: troubles are notified after the next look"),
                Err(error) => tracing::warn!(%error, "troubles of the cluster cannot be notified"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Notifies what has lasted since the look before, and what is over. Answers what it has seen; `None`: it could not be
    /// put, and is as new at the next look. `known`: what is recorded, so that nothing is read where there is no news.
    pub(super) async fn look_for_troubles(
        &self,
        hold: &Hold,
        wanted: &Notices,
        before: &Found,
        known: &mut Option<Troubles>,
    ) -> Result<Option<Found>, StoreError> {
        let (seen, now) = (self.seen().await?, self.clock.wall());
        if known.as_ref().is_some_and(|known| known.clone().look(&seen, before, now).is_empty()) {
            return Ok(Some(seen));
        }
        *known = None;
        let (mut troubles, version) = self.ledger.troubles().await?;
        let news = troubles.look(&seen, before, now);
        if news.is_empty() {
            *known = Some(troubles);
            return Ok(Some(seen));
        }
        let mut outboxes = Vec::new();
        for name in &wanted.troubles {
            // What a newer version wrote is left alone.
            let Some(mut outbox) = self.ledger.outbox(name).await? else { continue };
            if !outbox.outgoing.report(&news, now) {
                return Ok(None);
            }
            outboxes.push((name.as_str(), outbox));
        }
        let put = self.ledger.put_troubles(hold, (&troubles, version), &outboxes).await?;
        *known = put.then_some(troubles);
        Ok(put.then_some(seen))
    }

    async fn seen(&self) -> Result<Found, StoreError> {
        let mut seen = Found::default();
        for warning in self.ledger.store().about().await?.warnings {
            seen.add("the store", &warning);
        }
        let board = self.board.read();
        let mut digests = board.nodes().map(|(_, record)| &record.config_digest);
        let first = digests.next();
        if digests.any(|digest| Some(digest) != first) {
            seen.add("", "the nodes have different configurations, so what fires depends on which node leads");
        }
        for (_, record) in board.nodes() {
            record.stands_back.iter().for_each(|why| seen.add(&record.node, &format!("stands back, since {why}")));
            record.troubles.iter().for_each(|what| seen.add(&record.node, what));
        }
        Ok(seen)
    }

    /// Sends that no node leads, where this follower is the first to record it.
    pub(super) async fn watch_vacancy(self, wanted: Arc<Notices>, after: Duration) {
        let mut vacant_since = None;
        loop {
            tokio::time::sleep(FOLLOWER_LOOKS_EVERY).await;
            // Until the ledger was read, no node is known.
            let is_vacant = {
                let board = self.board.read();
                board.leader().is_none() && board.nodes().next().is_some()
            };
            if !is_vacant {
                vacant_since = None;
                continue;
            }
            let now = self.clock.boot();
            if now.since(*vacant_since.get_or_insert(now)) < after {
                continue;
            }
            match self.record_vacancy().await {
                Ok(Some(trouble)) => self.send_as_follower(&trouble, &wanted).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "it cannot be recorded that no node leads"),
            }
            // It is recorded once, until a leader notifies that it is over.
            vacant_since = None;
        }
    }

    /// Records that no node leads. `None`: that is recorded already.
    pub(super) async fn record_vacancy(&self) -> Result<Option<Trouble>, StoreError> {
        let (mut troubles, version) = self.ledger.troubles().await?;
        let mut seen = Found::default();
        seen.add("", NOBODY_LEADS);
        let mut news = troubles.begin(&seen, self.clock.wall());
        let Some(trouble) = news.pop() else { return Ok(None) };
        Ok(self.ledger.put_troubles_as_follower(&troubles, version).await?.then_some(trouble))
    }

    async fn send_as_follower(&self, trouble: &Trouble, wanted: &Notices) {
        let content = Content::Trouble(Box::new(trouble.clone()));
        let message = Message::new(trouble.id(), trouble.since, content);
        let about = self.about(None);
        for (name, channel) in wanted.channels.iter().filter(|(name, _)| wanted.troubles.contains(*name)) {
            for attempt in 1..=TRIES {
                let answer = self.sender.send(channel, &message, &about).await;
                let result = if answer.is_ok() { "sent" } else { "failed" };
                self.metrics.alerts.add(&(channel.kind(), result), 1);
                let Err(why) = answer else { break };
                tracing::warn!(channel = name, %why, attempt, "it was not sent that no node leads");
                if attempt < TRIES {
                    tokio::time::sleep(AGAIN.pause(attempt)).await;
                }
            }
        }
    }
}
