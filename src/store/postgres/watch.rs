//! The task that serves the watches.
//!
//! While one is open it asks for the newest revision every [`POLL`], at once after a commit of this handle, and when
//! another handle notifies it of one. A notification may be lost, or never come (behind a pooler in transaction mode), so
//! that nothing but speed depends on it. Revisions become visible in the order of their numbers (`postgres/writer.rs`), so
//! that what is newer than the newest one that was reported is all that there is to report.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_postgres::Notification;

use super::leases::Leases;
use super::reader::Reader;
use crate::store::watching::{Progress, Watching};
use crate::store::{Revision, StoreError, Watched};

/// How often a handle with an open watch looks for what others have committed.
const POLL: Duration = Duration::from_millis(50);

/// The pause after a failure, which doubles up to the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LAST: Duration = Duration::from_secs(2);

/// What handles notify each other by, in one database.
const CHANNEL: &str = "fencron";

/// The least pause between two notifications of one handle: each has the server wake all that listen, one after another.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(10);

/// Wakes a task; rung while the task is at work, it wakes the task once more.
#[derive(Clone, Debug, Default)]
pub(super) struct Bell(Arc<Notify>);

impl Bell {
    pub fn ring(&self) {
        self.0.notify_one();
    }

    async fn rung(&self) {
        self.0.notified().await;
    }
}

/// Whether a notification is of a commit of another handle than that of this name.
pub(super) fn is_of_another(notification: &Notification, name: &str) -> bool {
    notification.channel() == CHANNEL && notification.payload() != name
}

/// Notifies the other handles that something was committed, after the commit: a notification within a transaction has all
/// commits of the server wait for each other until they are on disk.
pub(super) async fn announce(reader: Arc<Reader>, committed: Bell) {
    loop {
        committed.rung().await;
        let message = format!(
            "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '500ms'; NOTIFY {CHANNEL}, '{}'; COMMIT",
            reader.link.place.handle
        );
        if let Err(error) = reader.do_all(&message).await {
            tracing::debug!(%error, "other handles find out by themselves what was committed");
        }
        tokio::time::sleep(ANNOUNCE_EVERY).await;
    }
}

/// What the task owns.
pub(super) struct Watcher {
    pub reader: Arc<Reader>,
    pub leases: Arc<Leases>,
    pub requests: mpsc::UnboundedReceiver<Watching>,
    pub bell: Bell,
    pub open: VecDeque<Watching>,
    /// The newest revision when the watches were last served; `None`: serve them in any case.
    pub served: Option<Revision>,
    /// The newest revision that was ever seen.
    pub newest: Revision,
}

impl Watcher {
    pub async fn run(mut self) {
        let mut pause = POLL;
        loop {
            let request = if self.open.is_empty() {
                self.leases.watched.send_replace(0);
                self.requests.recv().await.map(Some)
            } else {
                tokio::select! {
                    biased;
                    request = self.requests.recv() => request.map(Some),
                    () = self.bell.rung() => Some(None),
                    () = tokio::time::sleep(pause) => Some(None),
                }
            };
            match request {
                Some(Some(watching)) => {
                    self.open.push_back(watching);
                    self.served = None;
                }
                Some(None) => {}
                None => return,
            }
            self.open.retain(|watching| !watching.reports.is_closed());
            self.leases.watched.send_if_modified(|watched| {
                let was = std::mem::replace(watched, self.open.len());
                (was == 0) != (*watched == 0)
            });
            pause = match self.serve().await {
                Ok(()) => POLL,
                Err(error) => {
                    tracing::debug!(%error, "watches are served later");
                    self.served = None;
                    (pause * 2).clamp(AGAIN_FIRST, AGAIN_LAST)
                }
            };
        }
    }

    async fn serve(&mut self) -> Result<(), StoreError> {
        if self.open.is_empty() {
            return Ok(());
        }
        // What is committed from here on is notified of, and the rest is seen now.
        self.reader.listen(CHANNEL).await?;
        let newest = self.reader.newest().await?;
        if newest < self.newest {
            // It was restored, or lost its last commits in a failover: what was reported may not have been.
            self.newest = newest;
            return self.end_all(newest).await;
        }
        self.newest = newest;
        if self.served != Some(newest) {
            self.served = self.report().await?.then_some(newest);
        }
        Ok(())
    }

    async fn end_all(&mut self, newest: Revision) -> Result<(), StoreError> {
        for watching in self.open.drain(..) {
            // A reader that is behind would not get it: its watch ends without.
            watching.reports.try_send(Watched::Compacted(newest)).ok();
        }
        Ok(())
    }

    /// Sends every watch what is new to it. `false`: one has no room for it now.
    async fn report(&mut self) -> Result<bool, StoreError> {
        let mut all = true;
        for _ in 0..self.open.len() {
            let Some(watching) = self.open.front_mut() else { break };
            let progress = report(watching, &self.reader).await?;
            let watching = self.open.pop_front();
            if progress != Progress::Ended {
                self.open.extend(watching);
            }
            all &= progress != Progress::Full;
        }
        Ok(all)
    }
}

/// Sends one watch what is new to it.
async fn report(watching: &mut Watching, reader: &Reader) -> Result<Progress, StoreError> {
    loop {
        if let Some(held_up) = watching.is_held_up() {
            return Ok(held_up);
        }
        let batch = reader.changes(&watching.keys, watching.from).await?;
        if let Some(progress) = watching.report(batch) {
            return Ok(progress);
        }
    }
}
