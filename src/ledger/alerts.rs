//! Alerts as an outbox: rows that the transaction of their cause puts, and what each channel has taken of them.
//!
//! | change | condition, in the same transaction |
//! | --- | --- |
//! | a row of an alert | those of the verdict that it is about |
//! | rows counted or taken, and what the channel makes of them | the owner key of the leader; the record of the channel is unmoved |
//! | a message sent, or given up | the same |
//! | a run is late, or no more, with the rows of that | the owner key of the leader; the run's mark is absent, or present |
//! | troubles of the cluster, with the messages of that | the owner key of the leader; the records are unmoved |
//! | that no node leads | the record of troubles is unmoved |
//!
//! So a leader that was replaced takes nothing and marks nothing. One that is lost between sending and marking leaves the
//! message in the record: its successor sends it again, with the same id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::record::{decode, encode, is_newer};
use super::{Ledger, keys};
use crate::job::{Notify, RunId};
use crate::lock::Hold;
use crate::scheduler::alert::Alert;
use crate::scheduler::outbox::{LOOKED_AT, Outgoing, Step};
use crate::scheduler::trouble::Troubles;
use crate::store::{Change, Compare, Keys, Op, Range, Revision, Store, StoreError, Txn, Watch, Watched};
use crate::time::Wall;

/// How many rows of alerts of one channel are kept that it does not take: those of channels that the jobs file does not
/// have any more, and those of a channel whose record cannot be read.
pub const ALERTS_KEPT: usize = 10_000;

/// How long the alerts are kept of a channel that the jobs file does not have any more.
pub const GONE_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// How many channels, and how many rows of each, are listed.
pub const ALERTS_LISTED: usize = 1_000;

/// What the transaction of a verdict puts of alerts.
pub type Alerts = Vec<(Arc<Notify>, Alert)>;

/// A channel's outbox, as it was read.
#[derive(Clone, Debug)]
pub struct Outbox {
    pub outgoing: Outgoing,
    /// The oldest alerts that wait: at most [`LOOKED_AT`].
    pub waiting: Vec<Alert>,
    /// The keys of those, in the same order.
    rows: Vec<String>,
    /// Rows of alerts that do not wait any more: they go with the next change of the outbox.
    settled: Vec<String>,
    /// Rows that cannot be read. They are counted as given up, and go with the next change of the outbox.
    damaged: Vec<String>,
    version: Revision,
}

impl Outbox {
    /// Whether there were rows that cannot be read.
    pub fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Does what is next for the channel of this name, and says what has to become of that.
    pub fn advance(&mut self, channel: &str, now: Wall) -> Next {
        match self.outgoing.step(&self.waiting, now) {
            Step::Nothing | Step::Wait(_) if self.is_damaged() => {}
            Step::Nothing => return Next::Idle(None),
            Step::Wait(due) => return Next::Idle(Some(due)),
            Step::Send => return Next::Send,
            Step::Count => {
                self.outgoing.count(&self.waiting);
                self.settle(|_| true);
            }
            Step::Hold => {
                let held = self.outgoing.hold(&self.waiting, now);
                self.settle(|nth| held[nth]);
            }
            Step::Take => {
                self.outgoing.take(&self.waiting, now);
                self.settle(|_| true);
            }
            Step::Summarize => self.outgoing.summarize(channel, now),
        }
        Next::Changed
    }

    fn settle(&mut self, is_settled: impl Fn(usize) -> bool) {
        let rows = std::mem::take(&mut self.waiting).into_iter().zip(std::mem::take(&mut self.rows));
        for (nth, (alert, row)) in rows.enumerate() {
            if is_settled(nth) {
                self.settled.push(row);
            } else {
                self.waiting.push(alert);
                self.rows.push(row);
            }
        }
    }
}

/// What is next for an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing for now; what waits is due then.
    Idle(Option<Wall>),
    /// It is not as it was read, and has to be put.
    Changed,
    /// The first message has to be sent, marked as sent, and put.
    Send,
}

/// How many rows of alerts went that were not sent, by channel.
pub type Lost = BTreeMap<String, u64>;

/// What waits in the channels.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// By name.
    pub channels: BTreeMap<String, (Outgoing, Vec<Alert>)>,
    /// There is more than [`ALERTS_LISTED`].
    pub more: bool,
}

/// The alerts that are put from some moment on.
#[derive(Debug)]
pub struct AlertsPut {
    watch: Watch,
    keys: keys::LedgerKeys,
}

impl AlertsPut {
    /// The channels for which alerts were put next; `None`: it is not known any more for which they are.
    pub async fn next(&mut self) -> Option<BTreeSet<String>> {
        let Watched::Changes(changes) = self.watch.next().await? else { return None };
        let put = changes.iter().filter(|change| matches!(change, Change::Put(_)));
        Some(put.filter_map(|change| self.keys.channel_of_alert(change.key()).map(str::to_owned)).collect())
    }
}

impl<S: Store> Ledger<S> {
    /// Puts the rows of these alerts, one for each of their channels.
    pub(super) fn put_alerts(&self, txn: Txn, alerts: &Alerts) -> Txn {
        let rows = alerts.iter().flat_map(|(notify, alert)| notify.to.iter().map(move |channel| (channel, alert)));
        rows.fold(txn, |txn, (channel, alert)| txn.then(Op::put(self.keys.alert(channel, alert), encode(alert))))
    }

    /// Notifies that a run is late, and marks that: each time that it is late with something else is notified once.
    /// `before`: what it was late with until now. `false`: it is marked already, or the term is over.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn put_late(
        &self,
        hold: &Hold,
        (notify, alert): &(Arc<Notify>, Alert),
        before: Option<&Alert>,
    ) -> Result<bool, StoreError> {
        let mark = Keys::one(self.keys.late(&alert.run));
        let unmarked = if before.is_none() { Compare::absent(mark) } else { Compare::present(mark) };
        let put = Txn::new().then(Op::put(self.keys.late(&alert.run), encode(alert)));
        let txn = self.put_alerts(put, &vec![(Arc::clone(notify), alert.clone())]);
        self.write_as_leader(hold, &[unmarked], &txn.then).await
    }

    /// A run is late no more: takes its mark away, and notifies that.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn end_late(&self, hold: &Hold, run: &RunId, alerts: &Alerts) -> Result<bool, StoreError> {
        let mark = self.keys.late(run);
        let txn = self.put_alerts(Txn::new().then(Op::delete(&mark)), alerts);
        self.write_as_leader(hold, &[Compare::present(Keys::one(mark))], &txn.then).await
    }

    /// The runs of which it was notified that they are late, and with what.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn late(&self) -> Result<BTreeMap<RunId, Alert>, StoreError> {
        let mut late = BTreeMap::new();
        let Keys::Range { mut start, end } = Keys::prefix(self.keys.late_prefix()) else { return Ok(late) };
        loop {
            let left = Keys::Range { start, end: end.clone() };
            let page = self.read(Range { limit: ALERTS_LISTED, ..Range::of(left) }).await?;
            let Some(last) = page.entries.last() else { return Ok(late) };
            start = super::prune::behind(&last.key);
            let alerts = page.entries.iter().filter_map(|entry| decode::<Alert>(&entry.value));
            late.extend(alerts.map(|alert| (alert.run.clone(), alert)));
        }
    }

    /// The troubles of the cluster that were notified, and the version of that. One that a newer version wrote is begun
    /// anew: at worst, a trouble is notified once more.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn troubles(&self) -> Result<(Troubles, Revision), StoreError> {
        let record = self.read(Range::of(Keys::one(self.keys.troubles()))).await?.entries.into_iter().next();
        let version = record.as_ref().map_or(Revision(0), |entry| entry.modified);
        Ok((record.and_then(|entry| decode(&entry.value)).unwrap_or_default(), version))
    }

    /// Puts the troubles of the cluster, with what these channels make of them. `false`: the term is over, or something is
    /// not as it was read.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn put_troubles(
        &self,
        hold: &Hold,
        (troubles, version): (&Troubles, Revision),
        outboxes: &[(&str, Outbox)],
    ) -> Result<bool, StoreError> {
        let mut unmoved = vec![Compare::modified_at(self.keys.troubles(), version)];
        let mut ops = vec![Op::put(self.keys.troubles(), encode(troubles))];
        for (channel, outbox) in outboxes {
            let key = self.keys.channel(channel);
            unmoved.push(Compare::modified_at(&key, outbox.version));
            ops.push(Op::put(key, encode(&outbox.outgoing)));
            ops.extend(outbox.damaged.iter().chain(&outbox.settled).map(Op::delete));
        }
        self.write_as_leader(hold, &unmoved, &ops).await
    }

    /// The same of a follower, which has no channel. `false`: another node has put them, or an attempt of this one whose
    /// answer was lost did.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn put_troubles_as_follower(&self, troubles: &Troubles, version: Revision) -> Result<bool, StoreError> {
        let key = self.keys.troubles();
        let put = Txn::new().when(Compare::modified_at(&key, version)).then(Op::put(key, encode(troubles)));
        Ok(self.store.commit(put).await?.succeeded)
    }

    /// An alert waits for a channel, whatever its cause.
    #[cfg(test)]
    pub(crate) async fn put_alert(&self, channel: &str, alert: &Alert) {
        let put = Op::put(self.keys.alert(channel, alert), encode(alert));
        self.store.commit(Txn::new().then(put)).await.unwrap();
    }

    /// Follows the alerts that are put. What was put before this is answered is in the outboxes that are read afterwards.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn alerts_put(&self) -> Result<AlertsPut, StoreError> {
        let newest = Range { limit: 1, keys_only: true, ..Range::of(self.keys.alerts()) };
        let from = self.store.range(newest).await?.revision.next();
        Ok(AlertsPut { watch: self.store.watch(self.keys.alerts(), from).await?, keys: self.keys.clone() })
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
        Ok(Some(Outbox { outgoing, waiting, rows: read, settled: Vec::new(), damaged, version }))
    }

    /// Puts what became of a channel's outbox since it was read, and deletes the rows that do not wait any more. `false`:
    /// the term is over, or the outbox is not as it was read (an earlier sending of this may have changed it).
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn put_outbox(&self, hold: &Hold, channel: &str, outbox: &Outbox) -> Result<bool, StoreError> {
        let key = self.keys.channel(channel);
        let unmoved = Compare::modified_at(&key, outbox.version);
        let mut ops = vec![Op::put(key, encode(&outbox.outgoing))];
        ops.extend(outbox.damaged.iter().chain(&outbox.settled).map(Op::delete));
        self.write_as_leader(hold, &[unmoved], &ops).await
    }

    /// What the channels have taken of their alerts, by name, the first [`ALERTS_LISTED`] of them: those that the jobs file
    /// does not have any more among them. Whether there are more.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn channels(&self) -> Result<(BTreeMap<String, Outgoing>, bool), StoreError> {
        let records = self.store.range(Range { limit: ALERTS_LISTED, ..Range::of(self.keys.channels()) }).await?;
        let channels = records.entries.iter().filter_map(|entry| {
            let channel = self.keys.channel_of(&entry.key)?;
            Some((channel.to_owned(), decode::<Outgoing>(&entry.value)?))
        });
        Ok((channels.collect(), records.more))
    }

    /// The alerts that wait in all channels, those of channels that the jobs file does not have any more among them.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn alerts_waiting(&self) -> Result<Waiting, StoreError> {
        let mut waiting = Waiting::default();
        let (channels, more) = self.channels().await?;
        waiting.channels.extend(channels.into_iter().map(|(channel, outgoing)| (channel, (outgoing, Vec::new()))));
        let rows = Range { limit: ALERTS_LISTED, ..Range::of(self.keys.alerts()) };
        let rows = self.store.range(rows).await?;
        for entry in rows.entries {
            if let (Some(channel), Some(alert)) = (self.keys.channel_of_alert(&entry.key), decode(&entry.value)) {
                waiting.channels.entry(channel.to_owned()).or_default().1.push(alert);
            }
        }
        waiting.more = more || rows.more;
        Ok(waiting)
    }

    /// Keeps what waits within its bounds: the rows of channels that are not `live` for [`GONE_KEPT`], and of each channel
    /// at most [`ALERTS_KEPT`]. A channel whose record can be read takes its rows before they are as many. Answers how
    /// many rows of live channels went, by channel.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn bound_alerts(&self, hold: &Hold, live: &BTreeSet<String>, now: Wall) -> Result<Lost, StoreError> {
        let (mut lost, too_old) = (Lost::new(), now.minus(GONE_KEPT));
        let Keys::Range { mut start, end } = self.keys.alerts() else { return Ok(lost) };
        loop {
            let left = Keys::Range { start, end: end.clone() };
            let page = self.store.range(Range { keys_only: true, limit: 1, ..Range::of(left) }).await?;
            let Some(channel) = page.entries.first().and_then(|entry| self.keys.channel_of_alert(&entry.key)) else {
                break;
            };
            let of_channel = self.keys.alerts_of(channel);
            let went = self.keep_last(hold, of_channel.clone(), ALERTS_KEPT).await?;
            let Keys::Range { start: first, end: behind } = of_channel else { break };
            if live.contains(channel) {
                lost.extend((went > 0).then(|| (channel.to_owned(), went)));
            } else {
                let old = Keys::Range { end: format!("{first}{}", keys::sortable(too_old)), start: first };
                self.write_as_leader(hold, &[], &[Op::Delete(old)]).await?;
            }
            start = behind;
        }
        self.forget_channels(hold, live, too_old).await?;
        Ok(lost)
    }

    /// Deletes the records of channels that are not `live` and have had nothing to do since then.
    async fn forget_channels(&self, hold: &Hold, live: &BTreeSet<String>, since: Wall) -> Result<(), StoreError> {
        let page = self.store.range(Range { limit: ALERTS_LISTED, ..Range::of(self.keys.channels()) }).await?;
        let is_over = |outgoing: Outgoing| outgoing.last_used().is_none_or(|at| at < since);
        let gone = page.entries.iter().filter(|entry| {
            let is_live = self.keys.channel_of(&entry.key).is_some_and(|channel| live.contains(channel));
            !is_live && decode(&entry.value).is_some_and(is_over)
        });
        for entry in gone {
            let unmoved = Compare::modified_at(&entry.key, entry.modified);
            self.write_as_leader(hold, &[unmoved], &[Op::delete(&entry.key)]).await?;
        }
        Ok(())
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

    /// That it was notified that a run is late.
    fn late(&self, run: &RunId) -> String {
        format!("{}{run}", self.late_prefix())
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
