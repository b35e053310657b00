//! Following the ledger: it is read once, then every change is reported.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::Ledger;
use super::keys::About;
use super::last::read as read_last;
use super::record::{
    Asked, CancelRecord, KnownRecord, NodeRecord, OpenRecord, Pause, StepDownRecord, WatermarkRecord, decode,
};
use super::rewind::RewoundRecord;
use crate::job::JobName;
use crate::lock::{Backoff, owned_since};
use crate::scheduler::run::{Last, Version};
use crate::scheduler::view::{Cancel, Change as LedgerChange};
use crate::store::{Change, Entry, Revision, Store, StoreError, Watch, Watched};
use crate::time::Wall;

/// Something that the ledger says, as of a version.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// For the scheduler.
    Ledger(LedgerChange, Version),
    /// A job, or (`None`) all, are paused, or not any more; `pause` is `None` also where a newer version wrote it.
    Paused { job: Option<JobName>, paused: bool, pause: Option<Pause>, version: Version },
    /// A node is drained, or (`drain: None`) not any more. One that a newer version drained is so until a person ends it.
    Drained { node: String, drain: Option<Pause>, version: Version },
    /// A session began, or its node published something new with it; or it is gone, and then nothing that its node
    /// claimed has an owner. `record` is `None` also where a newer version wrote it.
    Node { lease: u64, alive: bool, record: Option<NodeRecord>, version: Version },
    /// How the last run of a job ended; `None`: there is no record of that any more.
    Last { job: JobName, last: Option<Last>, version: Version },
    /// Something was granted or claimed, under fences that are counted from `base`.
    Mark { base: u64, at: Revision },
    /// The lineage of the store has another link.
    Lineage,
    /// The watermark cannot be used: why, for a person. Until it is reported again, nothing may be fired.
    Damaged(String),
    /// Something else changed, such as the key of a lock's owner: it is gone, or came to be at this revision, on this
    /// lease. `since`: when the lock was granted, by the owner's clock.
    Other { key: String, at: Revision, created: Option<(Revision, Option<u64>)>, since: Option<Wall> },
}

/// News of the ledger.
#[derive(Debug)]
pub enum News {
    /// What changed, and the revision up to which that is everything.
    Changed(Vec<Followed>, Revision),
    /// Changes were missed: the whole ledger, as of this revision.
    Reread(Vec<Followed>, Revision),
}

/// A node's ear on the ledger.
#[derive(Debug)]
pub struct Follow<S> {
    ledger: Ledger<S>,
    /// `None`: it has to be read whole and watched again.
    watch: Option<Watch>,
    position: Revision,
    /// What was read at the start and is not reported yet.
    first: VecDeque<News>,
}

/// Passes the ledger's news on for as long as there is a receiver. While the ledger cannot be followed, `report` receives
/// why, at each attempt, and `backoff` says how long the pause is after it.
///
/// Returns with an error that does not pass.
pub(crate) async fn pass_on<S: Store>(
    ledger: Ledger<S>,
    news: mpsc::Sender<News>,
    mut backoff: Backoff,
    report: impl Fn(&StoreError),
) -> StoreError {
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
            Ok(Some(received)) => {
                backoff.reset();
                if news.send(received).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Ok(None) => {}
            Err(error) if !error.is_passing() && !matches!(error, StoreError::Compacted { .. }) => return error,
            Err(error) => {
                report(&error);
                backoff.wait().await;
            }
        }
    }
}

impl<S: Store> Ledger<S> {
    /// Reads the ledger whole and follows it from there. The first news is [`News::Reread`].
    pub async fn follow(&self) -> Result<Follow<S>, StoreError> {
        let mut follow = Follow { ledger: self.clone(), watch: None, position: Revision(0), first: VecDeque::new() };
        let news = follow.reread().await?;
        follow.first.push_back(news);
        Ok(follow)
    }

    fn followed(&self, entry: &Entry) -> Option<Followed> {
        let version = entry.modified.0;
        if let Some(lease) = self.namespace.session_of(&entry.key) {
            let record = NodeRecord::decode(&entry.value);
            return Some(Followed::Node { lease: lease.0.get(), alive: true, record, version });
        }
        let Some(about) = self.keys.about(&entry.key) else {
            let lease = entry.lease.map(|lease| lease.0.get());
            return Some(Followed::Other {
                key: entry.key.clone(),
                at: entry.modified,
                created: Some((entry.created, lease)),
                since: owned_since(&entry.value),
            });
        };
        let followed = match about {
            About::Mark => {
                let base = std::str::from_utf8(&entry.value).ok().and_then(|base| base.parse().ok());
                return base.map(|base| Followed::Mark { base, at: entry.modified });
            }
            About::Lineage => return Some(Followed::Lineage),
            About::Watermark => {
                if let Some(damage) = self.damage_of(entry) {
                    return Some(Followed::Damaged(damage));
                }
                decode::<WatermarkRecord>(&entry.value).map(|r| LedgerChange::Watermark(r.watermark()))
            }
            About::Job(job) => decode::<KnownRecord>(&entry.value).map(|r| LedgerChange::Job(job, Some(r.into()))),
            About::Pause(job) => {
                return Some(Followed::Paused { job: Some(job), paused: true, pause: decode(&entry.value), version });
            }
            About::PauseAll => {
                return Some(Followed::Paused { job: None, paused: true, pause: decode(&entry.value), version });
            }
            About::Last(job) => match read_last(&job, entry) {
                Some(last) => return Some(Followed::Last { job, last: Some(last), version }),
                None => None,
            },
            About::Open(run) => {
                decode::<OpenRecord>(&entry.value).map(|r| LedgerChange::Open(run.clone(), Some(r.into_open(run))))
            }
            About::Cancel(run) => decode::<CancelRecord>(&entry.value).map(|CancelRecord { asked, unless_begun }| {
                LedgerChange::Cancel(run, Some(Cancel { by: asked.by, unless_begun }))
            }),
            About::Resolved(run) => Some(LedgerChange::Resolved(run, true)),
            About::Drain(node) => {
                let unread = || Pause { asked: Asked::new("a newer version", Wall::EPOCH), until: None };
                let drain = Some(decode(&entry.value).unwrap_or_else(unread));
                return Some(Followed::Drained { node, drain, version });
            }
            About::StepDown => decode::<StepDownRecord>(&entry.value).map(|r| LedgerChange::StepDown(Some(r.fence))),
            // If it is unknown up to where there may be verdicts, all of them are looked for.
            About::Rewound => Some(LedgerChange::Rewound(
                decode::<RewoundRecord>(&entry.value).map_or(Wall::MAX, |record| record.upto),
            )),
        };
        if followed.is_none() {
            tracing::error!(
                key = entry.key,
                "a record in the store cannot be read: it was damaged, or written by a newer version; it is passed over"
            );
        }
        followed.map(|followed| Followed::Ledger(followed, version))
    }

    fn told_gone(&self, key: &str, revision: Revision) -> Option<Followed> {
        if let Some(lease) = self.namespace.session_of(key) {
            let lease = lease.0.get();
            return Some(Followed::Node { lease, alive: false, record: None, version: revision.0 });
        }
        let Some(about) = self.keys.about(key) else {
            return Some(Followed::Other { key: key.to_owned(), at: revision, created: None, since: None });
        };
        let followed = match about {
            About::Mark | About::Lineage | About::Rewound => return None,
            About::Watermark => return Some(Followed::Damaged(self.missing_watermark())),
            About::Job(job) => LedgerChange::Job(job, None),
            About::Pause(job) => {
                return Some(Followed::Paused { job: Some(job), paused: false, pause: None, version: revision.0 });
            }
            About::PauseAll => {
                return Some(Followed::Paused { job: None, paused: false, pause: None, version: revision.0 });
            }
            About::Last(job) => return Some(Followed::Last { job, last: None, version: revision.0 }),
            About::Open(run) => LedgerChange::Open(run, None),
            About::Cancel(run) => LedgerChange::Cancel(run, None),
            About::Resolved(run) => LedgerChange::Resolved(run, false),
            About::Drain(node) => return Some(Followed::Drained { node, drain: None, version: revision.0 }),
            About::StepDown => LedgerChange::StepDown(None),
        };
        Some(Followed::Ledger(followed, revision.0))
    }
}

impl<S: Store> Follow<S> {
    /// Up to which revision everything has been reported.
    pub fn position(&self) -> Revision {
        self.position
    }

    /// The next news. Where changes were missed, reads the whole ledger again.
    ///
    /// # Errors
    /// The store's; call it again when it may have passed.
    pub async fn next(&mut self) -> Result<News, StoreError> {
        if let Some(news) = self.first.pop_front() {
            return Ok(news);
        }
        let Some(watch) = &mut self.watch else { return self.reread().await };
        match watch.next().await {
            Some(Watched::Changes(changes)) => Ok(self.changed(&changes)),
            Some(Watched::Compacted(_)) | None => {
                self.watch = None;
                self.reread().await
            }
        }
    }

    fn changed(&mut self, changes: &[Change]) -> News {
        let followed = changes.iter().filter_map(|change| match change {
            Change::Put(entry) => self.ledger.followed(entry),
            Change::Deleted { key, revision } => self.ledger.told_gone(key, *revision),
        });
        let followed = followed.collect();
        self.position = changes.last().map_or(self.position, |last| last.revision().max(self.position));
        News::Changed(followed, self.position)
    }

    async fn reread(&mut self) -> Result<News, StoreError> {
        let keys = self.ledger.keys.followed();
        let (entries, revision) = self.ledger.store.range_all(keys.clone()).await?;
        self.watch = Some(self.ledger.store.watch(keys, revision.next()).await?);
        self.position = revision;
        let mut followed: Vec<Followed> = entries.iter().filter_map(|entry| self.ledger.followed(entry)).collect();
        let is_of_watermark = |followed: &Followed| matches!(followed, Followed::Ledger(LedgerChange::Watermark(_), _));
        if !followed.iter().any(|followed| is_of_watermark(followed) || matches!(followed, Followed::Damaged(_))) {
            followed.extend(self.ledger.watermark_damage().await?.map(Followed::Damaged));
        }
        Ok(News::Reread(followed, revision))
    }
}
