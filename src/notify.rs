//! Sending alerts, by the node that leads: what the ledger holds for each channel, under the fence, and the heartbeat.
//!
//! A message is taken from the outbox in a fenced transaction, sent, and marked as sent in another one. What a leader has
//! sent and not marked, its successor sends again, with the same id. Before each sending the store is asked whether the
//! term still stands: a leader that was replaced, and has not noticed, sends nothing from then on.

mod payload;
mod send;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use payload::{About, bodies};
pub use send::Sender;

use crate::job::{Channel, Heartbeat, Notices, Retry};
use crate::ledger::{Ledger, Outbox};
use crate::lock::Hold;
use crate::metrics::Metrics;
use crate::scheduler::outbox::{GIVEN_UP_AFTER, Message, Step};
use crate::store::{Store, StoreError};
use crate::time::Clock;

/// How often a channel's outbox is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The pauses before a message is sent again that a channel did not take.
const AGAIN: Retry = Retry { attempts: u32::MAX, initial: Duration::from_secs(1), max: Duration::from_secs(300) };

/// Sends the alerts and the heartbeats of one namespace while this node leads.
#[derive(Clone, Debug)]
pub struct Notifier<S> {
    pub ledger: Ledger<S>,
    pub node: String,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub sender: Sender,
}

/// What came of a turn of a channel.
enum Turn {
    /// There may be more to do at once.
    Again,
    /// The channel took a message, or it was given up. There may be more to do at once.
    Sent,
    /// Nothing for now.
    Idle,
    /// The channel did not take the message.
    Refused,
}

impl<S: Store> Notifier<S> {
    /// Goes on until the node has ended. `leads`: the hold of the term under which this node acts.
    pub async fn run(self, mut leads: watch::Receiver<Option<Hold>>, mut notices: watch::Receiver<Arc<Notices>>) {
        loop {
            let (hold, wanted) = (leads.borrow_and_update().clone(), Arc::clone(&notices.borrow_and_update()));
            let mut channels = JoinSet::new();
            if let Some(hold) = hold {
                for (name, channel) in wanted.channels.clone() {
                    channels.spawn(self.clone().serve(hold.clone(), name, channel));
                }
                if let Some(heartbeat) = wanted.heartbeat.clone() {
                    channels.spawn(self.clone().beat(hold, heartbeat));
                }
            }
            let changed = tokio::select! {
                changed = leads.changed() => changed,
                changed = notices.changed() => changed,
            };
            // What is cut off while it is being sent is sent again, with the same id.
            channels.shutdown().await;
            if changed.is_err() {
                return;
            }
        }
    }

    /// Sends what one channel has to send, until it is dropped.
    async fn serve(self, hold: Hold, name: String, channel: Channel) {
        let mut refusals = 0;
        loop {
            match self.turn(&hold, &name, &channel).await {
                Ok(Turn::Again) => {}
                Ok(Turn::Sent) => refusals = 0,
                Ok(Turn::Idle) => tokio::time::sleep(LOOK_EVERY).await,
                Ok(Turn::Refused) => {
                    refusals += 1;
                    tokio::time::sleep(AGAIN.pause(refusals)).await;
                }
                Err(error) => {
                    tracing::warn!(channel = name, %error, "the alerts of a channel cannot be read or marked as sent");
                    refusals += 1;
                    tokio::time::sleep(AGAIN.pause(refusals)).await;
                }
            }
        }
    }

    async fn turn(&self, hold: &Hold, name: &str, channel: &Channel) -> Result<Turn, StoreError> {
        let Some(mut outbox) = self.ledger.outbox(name).await? else { return Ok(Turn::Idle) };
        let now = self.clock.wall();
        let taken = match outbox.outgoing.step(outbox.waiting.len(), now) {
            Step::Nothing | Step::Wait(_) if outbox.is_damaged() => false,
            Step::Nothing | Step::Wait(_) => return Ok(Turn::Idle),
            Step::Send => return self.send(hold, name, channel, outbox).await,
            Step::Count => {
                outbox.outgoing.count(&outbox.waiting);
                true
            }
            Step::Take => {
                outbox.outgoing.take(&outbox.waiting, now);
                true
            }
            Step::Summarize => {
                outbox.outgoing.summarize(name, now);
                false
            }
        };
        let put = self.ledger.put_outbox(hold, name, &outbox, taken).await?;
        Ok(if put { Turn::Again } else { Turn::Idle })
    }

    /// Sends the first message of the outbox, and marks it as sent.
    async fn send(&self, hold: &Hold, name: &str, channel: &Channel, mut outbox: Outbox) -> Result<Turn, StoreError> {
        let Some(message) = outbox.outgoing.sending.first().cloned() else { return Ok(Turn::Idle) };
        if !self.ledger.stands(hold).await? {
            return Ok(Turn::Idle);
        }
        let result = match self.sender.send(channel, &message, &self.about(hold)).await {
            Ok(_) => {
                outbox.outgoing.sent();
                "sent"
            }
            Err(why) if self.is_given_up(&message) => {
                tracing::error!(channel = name, id = message.id, %why, "an alert is given up: the channel did not take it");
                outbox.outgoing.give_up();
                "given_up"
            }
            Err(why) => {
                tracing::warn!(channel = name, id = message.id, %why, "an alert was not sent: it is sent again");
                self.metrics.alerts.add(&(channel.kind(), "failed"), 1);
                return Ok(Turn::Refused);
            }
        };
        self.metrics.alerts.add(&(channel.kind(), result), 1);
        let marked = self.ledger.put_outbox(hold, name, &outbox, false).await?;
        Ok(if marked { Turn::Sent } else { Turn::Idle })
    }

    fn is_given_up(&self, message: &Message) -> bool {
        self.clock.wall().since(message.since) >= GIVEN_UP_AFTER
    }

    fn about(&self, hold: &Hold) -> About {
        let namespace = self.ledger.namespace().to_string();
        About { namespace, node: self.node.clone(), fence: Some(hold.fence()), now: self.clock.wall() }
    }

    /// Makes the request of the heartbeat again and again, each time after a fenced transaction: where the store does not
    /// answer, or the term is over, it is silent.
    async fn beat(self, hold: Hold, heartbeat: Heartbeat) {
        loop {
            let result = match self.ledger.stands(&hold).await {
                Ok(true) => match self.sender.beat(&heartbeat, &self.about(&hold)).await {
                    Ok(()) => "sent",
                    Err(why) => {
                        tracing::warn!(%why, "the heartbeat was not sent");
                        "failed"
                    }
                },
                Ok(false) => "failed",
                Err(error) => {
                    tracing::warn!(%error, "no heartbeat: the store does not confirm the leadership");
                    "failed"
                }
            };
            self.metrics.heartbeats.add(&result, 1);
            tokio::time::sleep(heartbeat.every).await;
        }
    }
}

#[cfg(test)]
mod tests;

/// The channels that a message about them names.
pub fn names(channels: &BTreeMap<String, Channel>) -> String {
    let names: Vec<&str> = channels.keys().map(String::as_str).collect();
    names.join(", ")
}
