//! Nodes that are drained: a person wants them to lead no more for a while, as before maintenance. The record stays when
//! the node goes, and holds when a node of the same name comes back.

use std::collections::BTreeSet;

use super::act::{Act, Acting, Deed};
use super::audit::AUDIT_AGE;
use super::record::{NodeRecord, Pause, decode};
use super::request::AskError;
use super::{Ledger, REGISTERED_AT_ONCE};
use crate::lock::Hold;
use crate::store::{Entry, Op, Store, StoreError};
use crate::time::Wall;

/// How many drains are kept of nodes that are not there.
const KEPT_OF_GONE: usize = 200;

/// What is said where all nodes are drained.
pub const ALL_DRAINED: &str = "all nodes are drained, so that no job fires: `fencron undrain NODE` lets one lead again";

/// Whether there are nodes, and all of them are drained.
pub fn all_drained<'a>(nodes: impl Iterator<Item = &'a NodeRecord>) -> bool {
    let mut nodes = nodes.peekable();
    nodes.peek().is_some() && nodes.all(|node| node.drained)
}

impl<S: Store> Ledger<S> {
    /// Drains a node until then: it hands over the leadership, and does not campaign. A drain that has another end or
    /// another reason takes the place of the one before.
    ///
    /// # Errors
    ///
    /// [`AskError::NoSuchNode`] where no node has this name, and none of it is drained; [`AskError::AlreadySo`]; the
    /// store's.
    pub async fn drain(&self, acting: &Acting, node: &str, until: Option<Wall>) -> Result<Deed, AskError> {
        let is_there = self.nodes().await?.iter().any(|(_, record)| record.node == node);
        if !is_there && !self.drains().await?.iter().any(|(drained, _)| drained == node) {
            return Err(AskError::NoSuchNode(node.to_owned()));
        }
        self.put_pause(acting, self.keys.drain(node), Deed::new(Act::Drain, node), (until, "is drained")).await
    }

    /// Lets a node campaign again that is drained.
    ///
    /// # Errors
    ///
    /// [`AskError::NotSo`] where it is not drained; the store's.
    pub async fn undrain(&self, acting: &Acting, node: &str) -> Result<Deed, AskError> {
        self.end_by_hand(acting, &self.keys.drain(node), Deed::new(Act::Undrain, node), "is not drained").await
    }

    /// Ends the drain of a node whose end has come. One that a person has changed meanwhile stands.
    pub async fn end_drain(&self, hold: &Hold, node: &str, now: Wall) -> Result<(), StoreError> {
        self.end_in_time(hold, &self.keys.drain(node), now).await
    }

    /// The nodes that are drained, by their names, with the person that drained each. Those whose end has come are not
    /// drained any more.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn drains(&self) -> Result<Vec<(String, Pause)>, StoreError> {
        let (entries, _) = self.store.range_all(self.keys.drains()).await?;
        Ok(entries.iter().filter_map(|entry| Some((self.drained(entry)?, decode(&entry.value)?))).collect())
    }

    fn drained(&self, entry: &Entry) -> Option<String> {
        match self.keys.about(&entry.key)? {
            super::keys::About::Drain(node) => Some(node),
            _ => None,
        }
    }

    /// Forgets the drains of nodes that are not there: those that are older than what is kept of acts, and the oldest
    /// where there are too many.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn bound_drains(&self, hold: &Hold, now: Wall) -> Result<(), StoreError> {
        let mut drains = self.drains().await?;
        if drains.is_empty() {
            return Ok(());
        }
        let there: BTreeSet<String> = self.nodes().await?.into_iter().map(|(_, record)| record.node).collect();
        drains.retain(|(node, _)| !there.contains(node));
        drains.sort_by_key(|(_, drain)| std::cmp::Reverse(drain.asked.at));
        let oldest = now.minus(AUDIT_AGE);
        let gone = drains.iter().enumerate();
        let gone = gone.filter(|(nth, (_, drain))| *nth >= KEPT_OF_GONE || drain.asked.at < oldest);
        let gone: Vec<Op> = gone.map(|(_, (node, _))| Op::delete(self.keys.drain(node))).collect();
        for ops in gone.chunks(REGISTERED_AT_ONCE) {
            if !self.write_as_leader(hold, &[], ops).await? {
                break;
            }
        }
        Ok(())
    }
}
