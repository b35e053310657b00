//! Sending alerts, by the node that leads: what the ledger holds for each channel, under the fence, and the heartbeat.
//!
//! A message is taken from the outbox in a fenced transaction, sent, and marked as sent in another one. What a leader has
//! sent and not marked, its successor sends again, with the same id. Before each sending the store is asked whether the
//! term still stands: a leader that was replaced, and has not noticed, sends nothing from then on.

mod cluster;
mod late;
mod mail;
mod payload;
mod pings;
mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use payload::quoted;
pub use payload::{About, Part, parts};
pub use pings::{PINGS_MOST, Pings};
pub use send::{Fault, NotTaken, Sender};

use crate::board::Shared;
use crate::job::{Channel, Heartbeat, Notices, Retry};
use crate::ledger::{Ledger, Next, Outbox, RunRow};
use crate::lock::Hold;
use crate::metrics::{Metrics, Queued};
use crate::scheduler::outbox::{Content, GIVEN_UP_AFTER, Message, Outgoing};
use crate::store::{Store, StoreError};
use crate::time::{Clock, Wall, written};

/// How often a channel's outbox is read in which nothing is known to wait: what comes is followed, and this is for what a
/// store may fail to report.
const READ_EVERY: Duration = Duration::from_secs(60);

/// How long it takes until an outbox is read again that was not as it had been read, and until alerts are followed again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// How often what waits for channels is brought within its bounds.
const BOUND_EVERY: Duration = Duration::from_secs(600);

/// How long the store has at most to confirm the term before a heartbeat.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);

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
    /// What the node knows of the jobs and their open runs.
    pub board: Shared,
}

/// A channel, as it is served.
struct Served {
    name: String,
    channel: Channel,
    /// Alerts have the end of what their runs wrote.
    with_output: bool,
}

/// What came of a turn of a channel.
enum Turn {
    /// There may be more to do at once.
    Again,
    /// The channel took a message, or it was given up. There may be more to do at once.
    Sent,
    /// Nothing for now; what waits is due then.
    Idle(Option<Wall>),
    /// The outbox is not as it was read, or the term is over.
    Moved,
    /// The channel did not take the message, and asks to be left alone for so long.
    Refused(Duration),
}

/// By channel: that an alert was put for it.
type Bells = BTreeMap<String, Arc<Notify>>;

impl<S: Store> Notifier<S> {
    /// Goes on until the node has ended. `leads`: the hold of the term under which this node acts. `vacant_after`: how long
    /// no node leads before a follower notifies that.
    pub async fn run(
        self,
        mut leads: watch::Receiver<Option<Hold>>,
        mut notices: watch::Receiver<Arc<Notices>>,
        vacant_after: Duration,
    ) {
        loop {
            let (hold, wanted) = (leads.borrow_and_update().clone(), Arc::clone(&notices.borrow_and_update()));
            let mut channels = JoinSet::new();
            if let Some(hold) = hold {
                let mut bells = Bells::new();
                for (name, channel) in wanted.channels.clone() {
                    let bell = Arc::clone(bells.entry(name.clone()).or_default());
                    let with_output = wanted.with_output.contains(&name);
                    let served = Served { name, channel, with_output };
                    channels.spawn(self.clone().serve(hold.clone(), served, bell));
                }
                if !bells.is_empty() {
                    channels.spawn(self.clone().listen(bells));
                    channels.spawn(self.clone().watch_late(hold.clone()));
                    channels.spawn(self.clone().watch_troubles(hold.clone(), Arc::clone(&wanted)));
                }
                channels.spawn(self.clone().bound(hold.clone(), Arc::clone(&wanted)));
                if let Some(heartbeat) = wanted.heartbeat.clone() {
                    channels.spawn(self.clone().beat(hold, heartbeat));
                }
            } else if !wanted.troubles.is_empty() {
                channels.spawn(self.clone().watch_vacancy(Arc::clone(&wanted), vacant_after));
            }
            let changed = tokio::select! {
                changed = leads.changed() => changed,
                changed = notices.changed() => changed,
            };
            // What is cut off while it is being sent is sent again, with the same id.
            channels.shutdown().await;
            self.metrics.nothing_queued();
            if changed.is_err() {
                return;
            }
        }
    }

    /// Rings the bells of the channels for which alerts are put, and all of them where it is not known for which.
    async fn listen(self, bells: Bells) {
        loop {
            match self.ledger.alerts_put().await {
                Ok(mut put) => {
                    bells.values().for_each(|bell| bell.notify_one());
                    while let Some(channels) = put.next().await {
                        channels.iter().filter_map(|channel| bells.get(channel)).for_each(|bell| bell.notify_one());
                    }
                }
                Err(error) => tracing::debug!(%error, "the alerts that are put cannot be followed"),
            }
            tokio::time::sleep(READ_AGAIN).await;
        }
    }

    /// Keeps what waits within its bounds: nothing else takes the rows of a channel that the file does not have any more.
    async fn bound(self, hold: Hold, wanted: Arc<Notices>) {
        let live: BTreeSet<String> = wanted.channels.keys().cloned().collect();
        loop {
            match self.ledger.bound_alerts(&hold, &live, self.clock.wall()).await {
                Ok(lost) => {
                    for (name, channel) in &wanted.channels {
                        let Some(count) = lost.get(name) else { continue };
                        let why = "alerts are given up: the channel cannot be read, and has too many";
                        tracing::error!(channel = name, count, "{why}");
                        self.metrics.alerts.add(&(channel.kind(), "given_up"), *count);
                    }
                }
                Err(error) => tracing::warn!(%error, "what waits for channels cannot be brought within its bounds"),
            }
            tokio::time::sleep(BOUND_EVERY).await;
        }
    }

    /// Sends what one channel has to send, until it is dropped.
    async fn serve(self, hold: Hold, served: Served, bell: Arc<Notify>) {
        let mut refusals = 0;
        loop {
            let pause = match self.turn(&hold, &served).await {
                Ok(Turn::Again) => continue,
                Ok(Turn::Sent) => {
                    refusals = 0;
                    continue;
                }
                Ok(Turn::Idle(due)) => {
                    let due = due.map_or(READ_EVERY, |due| due.since(self.clock.wall()).min(READ_EVERY));
                    tokio::time::timeout(due, bell.notified()).await.ok();
                    continue;
                }
                Ok(Turn::Moved) => READ_AGAIN,
                Ok(Turn::Refused(asked)) => {
                    refusals += 1;
                    AGAIN.pause(refusals).max(asked)
                }
                Err(error) => {
                    let name = &served.name;
                    tracing::warn!(channel = name, %error, "the alerts of a channel cannot be read or marked as sent");
                    refusals += 1;
                    AGAIN.pause(refusals)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn turn(&self, hold: &Hold, served: &Served) -> Result<Turn, StoreError> {
        let name = &*served.name;
        let Some(mut outbox) = self.ledger.outbox(name).await? else { return Ok(Turn::Idle(None)) };
        let now = self.clock.wall();
        self.metrics.queued(name, queued(&outbox, now));
        match outbox.advance(name, now) {
            Next::Idle(due) => return Ok(Turn::Idle(due)),
            Next::Send => return self.send(hold, served, outbox).await,
            Next::Changed => {}
        }
        let put = self.ledger.put_outbox(hold, name, &outbox).await?;
        Ok(if put { Turn::Again } else { Turn::Moved })
    }

    /// Sends the first message of the outbox, and marks it as sent, or what was taken of it.
    async fn send(&self, hold: &Hold, served: &Served, mut outbox: Outbox) -> Result<Turn, StoreError> {
        let (name, channel) = (&*served.name, &served.channel);
        let message = outbox.outgoing.sending[0].clone();
        let answer = self.send_parts(hold, served, &message, &mut outbox.outgoing).await?;
        let Some(answer) = answer else { return Ok(Turn::Moved) };
        let result = match answer {
            Ok(()) => {
                outbox.outgoing.sent();
                "sent"
            }
            Err(NotTaken { why, .. }) if self.is_given_up(&message) => {
                tracing::error!(channel = name, id = message.id, %why, "an alert is given up: the channel did not take it");
                outbox.outgoing.give_up();
                "given_up"
            }
            Err(NotTaken { why, fault: Fault::Message, .. }) if outbox.outgoing.refuse() => {
                tracing::error!(channel = name, id = message.id, %why, "an alert is given up: the channel refuses it");
                "given_up"
            }
            Err(NotTaken { why, after, .. }) => {
                tracing::warn!(channel = name, id = message.id, %why, "an alert was not sent: it is sent again");
                self.metrics.alerts.add(&(channel.kind(), "failed"), 1);
                let was_begun = outbox.outgoing.sending[0] != message;
                // Where another leader has taken over, it is refused: that one sends all of it again.
                if outbox.outgoing.not_taken(&why, self.clock.wall()) || was_begun {
                    self.ledger.put_outbox(hold, name, &outbox).await?;
                }
                return Ok(Turn::Refused(after.unwrap_or_default()));
            }
        };
        self.metrics.alerts.add(&(channel.kind(), result), 1);
        let marked = self.ledger.put_outbox(hold, name, &outbox).await?;
        Ok(if marked { Turn::Sent } else { Turn::Moved })
    }

    /// Sends the parts of the first message, each after the store has confirmed the term, and notes which were taken.
    /// `None`: the term is over.
    async fn send_parts(
        &self,
        hold: &Hold,
        Served { channel, with_output, .. }: &Served,
        message: &Message,
        outgoing: &mut Outgoing,
    ) -> Result<Option<Result<(), NotTaken>>, StoreError> {
        let output = if *with_output { self.output_of(message).await? } else { String::new() };
        let about = About { output, ..self.about(Some(hold)) };
        for part in parts(channel, message, &about) {
            if !self.ledger.stands(hold).await? {
                return Ok(None);
            }
            if let Err(not_taken) = self.sender.send_part(channel, message, &part, &about).await {
                return Ok(Some(Err(not_taken)));
            }
            outgoing.part_sent();
        }
        Ok(Some(Ok(())))
    }

    /// The end of what the run of this message wrote, as the history has it.
    async fn output_of(&self, message: &Message) -> Result<String, StoreError> {
        let Content::Alert(alert) = &message.content else { return Ok(String::new()) };
        Ok(match self.ledger.run(&alert.run).await? {
            Some(RunRow::Done(done)) => quoted(&done.output),
            _ => String::new(),
        })
    }

    fn is_given_up(&self, message: &Message) -> bool {
        self.clock.wall().since(message.since) >= GIVEN_UP_AFTER
    }

    fn about(&self, hold: Option<&Hold>) -> About {
        let namespace = self.ledger.namespace().to_string();
        let (node, fence, now) = (self.node.clone(), hold.map(Hold::fence), self.clock.wall());
        About { namespace, node, fence, now, output: String::new() }
    }

    /// Makes the request of the heartbeat again and again, each time after a fenced transaction: where the store does not
    /// answer, or the term is over, it is silent.
    async fn beat(self, hold: Hold, heartbeat: Heartbeat) {
        loop {
            // Where the store is away, its answer is waited for without end.
            let within = CONFIRMED_WITHIN.min(heartbeat.every);
            let confirmed = tokio::time::timeout(within, self.ledger.stands(&hold)).await;
            let result = match confirmed {
                Ok(Ok(true)) => match self.sender.beat(&heartbeat, &self.about(Some(&hold))).await {
                    Ok(()) => "sent",
                    Err(why) => {
                        tracing::warn!(%why, "the heartbeat was not sent");
                        "failed"
                    }
                },
                Ok(Ok(false)) => "failed",
                Ok(Err(error)) => {
                    tracing::warn!(%error, "no heartbeat: the store does not confirm the leadership");
                    "failed"
                }
                Err(_) => {
                    tracing::warn!("no heartbeat: the store has not confirmed the leadership in {}", written(within));
                    "failed"
                }
            };
            self.metrics.heartbeats.add(&result, 1);
            tokio::time::sleep(heartbeat.every).await;
        }
    }
}

/// What the metrics show of an outbox.
fn queued(outbox: &Outbox, now: Wall) -> Queued {
    let outgoing = &outbox.outgoing;
    Queued {
        alerts: outgoing.alerts() + outbox.waiting.len() as u64,
        bound_channels: u64::from(outgoing.bound_until(now).is_some()),
        bound_jobs: outgoing.bound_jobs(now).count() as u64,
    }
}

#[cfg(test)]
mod tests;

/// The channels that a message about them names.
pub fn names(channels: &BTreeMap<String, Channel>) -> String {
    let names: Vec<&str> = channels.keys().map(String::as_str).collect();
    names.join(", ")
}
