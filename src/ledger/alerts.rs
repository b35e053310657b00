//! Alerts as an outbox: rows that the transaction of their cause puts, and what each channel has taken of them.
//!
//! | change | condition, in the same transaction |
//! | --- | --- |
//! | a row of an alert | those of the verdict that it is about |
//! | rows counted or taken, and what the channel makes of them | the owner key of the leader; the record of the channel is unmoved |
//! | a message sent, or given up | the same |
//!
//! So a leader that was replaced takes nothing and marks nothing. One that is lost between sending and marking leaves the
//! message in the record: its successor sends it again, with the same id.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::{decode, encode, is_newer};
use super::{Ledger, keys};
use crate::job::Notify;
use crate::lock::Hold;
use crate::scheduler::alert::Alert;
use crate::scheduler::outbox::{LOOKED_AT, Outgoing};
use crate::store::{Compare, Keys, Op, Range, Revision, Store, StoreError, Txn};

/// How many rows of alerts of one channel are kept that it does not take: those of channels that the jobs file does not
/// have any more.
pub const ALERTS_KEPT: usize = 10_000;

/// How many channels, and how many rows of each, are listed.
pub const ALERTS_LISTED: usize = 1_000;

/// What the transaction of a verdict puts of alerts.
pub(super) type Alerts = Vec<(Arc<Notify>, Alert)>;

/// A channel's outbox, as it was read.
#[derive(Clone, Debug)]
pub struct Outbox {
    pub outgoing: Outgoing,
    /// The oldest alerts that wait: at most [`LOOKED_AT`].
    pub waiting: Vec<Alert>,
    rows: Vec<String>,
    /// Rows that cannot be read. They are counted as given up, and go with the next change of the outbox.
    damaged: Vec<String>,
    version: Revision,
}

impl Outbox {
    /// Whether there were rows that cannot be read.
    pub fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }
}

/// What waits in the channels, by name.
pub type Waiting = BTreeMap<String, (Outgoing, Vec<Alert>)>;

impl<S: Store> Ledger<S> {
    /// Puts the rows of these alerts, one for each of their channels.
    pub(super) fn put_alerts(&self, txn: Txn, alerts: &Alerts) -> Txn {
        let rows = alerts.iter().flat_map(|(notify, alert)| notify.to.iter().map(move |channel| (channel, alert)));
        rows.fold(txn, |txn, (channel, alert)| txn.then(Op::put(self.keys.alert(channel, alert), encode(alert))))
    }

    /// The outbox of a channel; `None`: a newer version of fencron wrote it, and it is left alone.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] where what the channel has taken cannot be read: it is not written over, since messages
    /// that were not sent are in it. And the store's.
    pub async fn outbox(&self, channel: &str) -> Result<Option<Outbox>, StoreError> {
        // Rows first: what is taken of them meanwhile changes the record, and so refuses what is made of them.
        let range = Range { limit: LOOKED_AT, ..Range::of(self.keys.alerts_of(channel)) };
        let rows = self.read(range).await?.entries;
        let record = self.read(Range::of(Keys::one(self.keys.channel(channel)))).await?.entries.into_iter().next();
        if rows.iter().chain(&record).any(|entry| is_newer(&entry.value)) {
            return Ok(None);
        }
        let mut outgoing = match &record {
            None => Outgoing::default(),
            Some(entry) => decode::<Outgoing>(&entry.value).ok_or_else(|| {
                let key = &entry.key;
                StoreError::Unusable(format!(
                    "what the channel `{channel}` has to send is damaged: its key is {key}. Until that is deleted, the \
                     channel sends nothing"
                ))
            })?,
        };
        let version = record.map_or(Revision(0), |entry| entry.modified);
        let (mut waiting, mut read, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            match decode::<Alert>(&row.value) {
                Some(alert) => {
                    waiting.push(alert);
                    read.push(row.key);
                }
                None => damaged.push(row.key),
            }
        }
        outgoing.counted.given_up += damaged.len() as u64;
        Ok(Some(Outbox { outgoing, waiting, rows: read, damaged, version }))
    }

    /// Puts what became of a channel's outbox since it was read, and where `taken`, deletes the rows that were read.
    /// `false`: the term is over, or the outbox is not as it was read (an earlier sending of this may have changed it).
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn put_outbox(
        &self,
        hold: &Hold,
        channel: &str,
        outbox: &Outbox,
        taken: bool,
    ) -> Result<bool, StoreError> {
        let key = self.keys.channel(channel);
        let unmoved = Compare::modified_at(&key, outbox.version);
        let mut ops = vec![Op::put(key, encode(&outbox.outgoing))];
        ops.extend(outbox.damaged.iter().map(Op::delete));
        if taken {
            ops.extend(outbox.rows.iter().map(Op::delete));
        }
        self.write_as_leader(hold, &[unmoved], &ops).await
    }

    /// The alerts that wait in all channels, those of channels that the jobs file does not have any more among them.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn alerts_waiting(&self) -> Result<Waiting, StoreError> {
        let mut waiting = Waiting::new();
        let records = Range { limit: ALERTS_LISTED, ..Range::of(self.keys.channels()) };
        for entry in self.store.range(records).await?.entries {
            if let (Some(channel), Some(outgoing)) = (self.keys.channel_of(&entry.key), decode(&entry.value)) {
                waiting.insert(channel.to_owned(), (outgoing, Vec::new()));
            }
        }
        let rows = Range { limit: ALERTS_LISTED, ..Range::of(self.keys.alerts()) };
        for entry in self.store.range(rows).await?.entries {
            if let (Some(channel), Some(alert)) = (self.keys.channel_of_alert(&entry.key), decode(&entry.value)) {
                waiting.entry(channel.to_owned()).or_default().1.push(alert);
            }
        }
        Ok(waiting)
    }

    /// Deletes the oldest rows of alerts of each channel that are more than [`ALERTS_KEPT`].
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn bound_alerts(&self, hold: &Hold) -> Result<(), StoreError> {
        let Keys::Range { mut start, end } = self.keys.alerts() else { return Ok(()) };
        loop {
            let left = Keys::Range { start, end: end.clone() };
            let page = self.store.range(Range { keys_only: true, limit: 1, ..Range::of(left) }).await?;
            let channel = page.entries.first().and_then(|entry| self.keys.channel_of_alert(&entry.key));
            let Some(of_channel) = channel.map(|channel| self.keys.alerts_of(channel)) else { return Ok(()) };
            self.keep_last(hold, of_channel.clone(), ALERTS_KEPT).await?;
            let Keys::Range { end: behind, .. } = of_channel else { return Ok(()) };
            start = behind;
        }
    }
}

impl keys::LedgerKeys {
    /// An alert that waits for a channel. The keys of a channel sort by when its cause was.
    fn alert(&self, channel: &str, alert: &Alert) -> String {
        format!("{}{channel}/{}/{}", self.alerts_prefix(), keys::sortable(alert.finished_at), alert.id())
    }

    fn alerts(&self) -> Keys {
        Keys::prefix(self.alerts_prefix())
    }

    fn alerts_of(&self, channel: &str) -> Keys {
        Keys::prefix(format!("{}{channel}/", self.alerts_prefix()))
    }

    fn channel_of_alert<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.alerts_prefix())?.split_once('/').map(|(channel, _)| channel)
    }

    /// What a channel has taken of its alerts.
    fn channel(&self, channel: &str) -> String {
        format!("{}{channel}", self.channels_prefix())
    }

    fn channels(&self) -> Keys {
        Keys::prefix(self.channels_prefix())
    }

    fn channel_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.channels_prefix())
    }
}
