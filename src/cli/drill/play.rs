//! The rounds of a drill: a leader, a fault of it, its successor, and the leader back again.

use std::time::Duration;

use super::cut::Network;
use super::judge::Fact;
use super::log::Log;
use super::nodes::Node;
use super::room::Room;
use super::sink::Sink;
use super::{How, LATE};
use crate::ledger::{Acting, Asked, Ledger};
use crate::lock::{LockName, Locks, Seen};

/// How long the nodes have to come on, beside two TTLs.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a request of a job that is due each second is waited for.
const HELD_WITHIN: Duration = Duration::from_secs(20);

/// How long the successor of a leader has beyond the bound: the judge says what was too long, and not the patience.
const BEYOND: Duration = Duration::from_secs(30);

/// How long the store has to take a write while a node stands still, and how often a node is stopped until it does: one
/// that is stopped amid a commit to a file keeps all others from writing.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
const STOP_TRIES: u32 = 20;

/// All that takes part.
pub(super) struct Play<'a> {
    pub how: How,
    pub ttl: Duration,
    pub gap_most: Duration,
    pub room: &'a Room,
    pub sink: &'a Sink,
    pub log: Log,
    pub nodes: Vec<Node>,
    /// Of each node, where the store is reached through it.
    pub networks: Vec<Network>,
}

/// What was waited for did not come; as a sentence.
pub(super) struct Stuck(pub String);

impl Play<'_> {
    /// Starts all nodes, and answers when one leads and has acted.
    pub async fn begin(&mut self) -> Result<(), Stuck> {
        for node in &mut self.nodes {
            node.start().map_err(|error| Stuck(format!("the node {} cannot be started: {error}", node.name)))?;
        }
        self.ready().await.map(drop)
    }

    /// One fault, from a leader that acts to one that does with all nodes there. Answers what happened, for a person.
    pub async fn round(&mut self) -> Result<String, Stuck> {
        let (leader, fence) = self.ready().await?;
        let held = match self.how.brings_stale() {
            true => self.sink.hold(LATE, fence, HELD_WITHIN).await,
            false => None,
        };
        let began = self.log.now();
        let place = self.log.place(Fact::Fault { fence, happened: Err("it was not waited for".to_owned()) });
        let happened = self.make_fault(leader, fence).await;
        self.log.settle(place, happened.clone());
        if let Err(why) = happened {
            self.sink.release();
            self.undo_fault(leader, false)?;
            return Err(Stuck(format!("without the fault there is nothing to wait for: {why}")));
        }
        let followed = self.followed(fence).await;
        self.sink.release();
        if let Some(run) = held.filter(|_| followed.is_some()) {
            let judged =
                |fact: &Fact| matches!(fact, Fact::Judged { run: of, fence: under } if *of == run && *under == fence);
            self.log.wait(HELD_WITHIN, |fact| judged(fact).then_some(())).await;
        }
        self.undo_fault(leader, true)?;
        let name = self.nodes[leader].name;
        let Some((next, led, acted)) = followed else {
            return Err(Stuck(format!("no other node led and acted after {name}, which led under fence {fence}")));
        };
        let (led, acted) = (led.saturating_sub(began), acted.saturating_sub(began));
        let done = self.how.done();
        Ok(format!("{name} (fence {fence}) {done}: {next} led after {led} ms, and acted after {acted} ms"))
    }

    /// Waits until one node leads and has acted, and the others wait to lead; answers its place and its fence.
    pub async fn ready(&mut self) -> Result<(usize, u64), Stuck> {
        let within = READY_WITHIN + self.ttl * 2;
        let room = self.room;
        let locks = Locks::new(room.store.clone(), self.log.clock().clone(), room.namespace.clone(), Seen::default());
        let election = locks.election(LockName::leader());
        let looking = async {
            loop {
                for node in &mut self.nodes {
                    if let Some(how) = node.ended() {
                        let why = format!("the node {} is gone", node.name);
                        self.log.add(Fact::Ended { node: node.name.to_owned(), how });
                        return Err(Stuck(why));
                    }
                }
                if let Ok(state) = election.observe().await
                    && state.waiting.len() + 1 >= self.nodes.len()
                    && let Some(leader) = state.leader
                    && let Some(place) = self.nodes.iter().position(|node| node.name == leader.node)
                {
                    return Ok((place, leader.fence.get()));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let late = |what: &str| Stuck(format!("{what} within {} s", within.as_secs()));
        let found = tokio::time::timeout(within, looking).await;
        let (place, fence) =
            found.map_err(|_| late("the nodes did not come to one that leads and two that wait"))??;
        let acts = |fact: &Fact| matches!(fact, Fact::Accepted { fence: under, .. } if *under == fence);
        let acted = self.log.wait(within, |fact| acts(fact).then_some(())).await;
        acted.ok_or_else(|| late("the leader had no effect"))?;
        Ok((place, fence))
    }

    async fn make_fault(&mut self, leader: usize, fence: u64) -> Result<(), String> {
        match self.how {
            How::Kill => self.nodes[leader].kill().await,
            How::Stop => self.stop(leader).await,
            How::Cut => match self.networks.get(leader) {
                Some(network) => network.cut(self.ttl).await,
                None => Err("there is no network to be cut".to_owned()),
            },
            How::StepDown => self.ask_to_step_down(leader, fence).await,
        }
    }

    /// Has the leader stand still between two writes.
    async fn stop(&self, leader: usize) -> Result<(), String> {
        let node = &self.nodes[leader];
        for _ in 0..STOP_TRIES {
            node.stop().await?;
            if let Ok(Ok(())) = tokio::time::timeout(WRITTEN_WITHIN, self.room.probe()).await {
                return Ok(());
            }
            node.go_on()?;
        }
        Err(format!("the store took no write while the node {} stood still", node.name))
    }

    async fn ask_to_step_down(&self, leader: usize, fence: u64) -> Result<(), String> {
        let node = self.nodes[leader].name;
        let ledger = Ledger::new(self.room.store.clone(), self.room.namespace.clone());
        let acting = Acting::fresh(Asked::new("fencron drill", self.log.clock().wall()));
        let fence = crate::fence::Fence::new(fence).ok_or("a leader has a fence")?;
        ledger.ask_to_step_down(&acting, fence, node).await.map(drop).map_err(|error| error.to_string())
    }

    /// Waits until another leads and acts; answers its name, and when it did.
    async fn followed(&self, before: u64) -> Option<(String, u64, u64)> {
        let within = self.gap_most + BEYOND;
        let led = |fact: &Fact| match fact {
            Fact::Led { fence, node } if *fence > before => Some((node.clone(), self.log.now())),
            _ => None,
        };
        let (node, led) = self.log.wait(within, led).await?;
        let acted = |fact: &Fact| match fact {
            Fact::Accepted { fence, .. } if *fence > before => Some(self.log.now()),
            _ => None,
        };
        let acted = self.log.wait(within, acted).await?;
        Some((node, led, acted))
    }

    fn undo_fault(&mut self, leader: usize, has_happened: bool) -> Result<(), Stuck> {
        let node = &mut self.nodes[leader];
        match self.how {
            How::Kill if has_happened => {
                node.start().map_err(|error| Stuck(format!("the node {} cannot be started again: {error}", node.name)))
            }
            How::Stop => node.go_on().map_err(Stuck),
            How::Cut => {
                self.networks.iter().for_each(Network::mend);
                Ok(())
            }
            How::Kill | How::StepDown => Ok(()),
        }
    }

    /// Ends all nodes.
    pub async fn end(&mut self) {
        self.sink.release();
        self.networks.iter().for_each(Network::mend);
        self.nodes.iter().for_each(Node::ask_to_end);
        for node in &mut self.nodes {
            node.end().await;
        }
    }
}
