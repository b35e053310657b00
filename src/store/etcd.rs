//! The store for nodes on several machines: etcd, 3.4 or later (run 3.5.28, 3.6.9 or later).
//!
//! A thin translation onto etcd's own operations, and what its Rust client leaves to its user:
//!
//! - **One member is asked at a time**, the one that answered last. When it fails, the next takes its place and it is
//!   left alone for a while; a cluster with a dead member works as well as one without.
//! - **An error says what became of the request.** What was certainly not applied is asked of another member, within
//!   a bound; a write whose answer was lost is [`StoreError::Unknown`], at once, and is never repeated here.
//! - **Every call ends**, also when the member or the network hangs, and a connection that swallowed a request is not
//!   used again. Watches ask for signs of life, and go on elsewhere where they left off.
//! - **Tokens are renewed** when the member does not accept them any more.
//! - **All endpoints must belong to one cluster**: what answers with another cluster's id is refused.
//!
//! Watches have connections of their own, so that a watch without a reader cannot delay requests.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcd_client::{Client, StatusResponse};

use super::{About, Answer, Committed, Keys, LeaseId, Op, Page, Range, Revision, Store, StoreError, Txn, Watch};

mod config;
mod defects;
mod fault;
mod members;
#[cfg(feature = "cli")]
mod snapshot;
mod translate;
mod watch;

pub use config::{EtcdConfig, NotAnEtcdUrl, Timeouts, Tls};

use fault::Subject;
use members::{Asked, Members, Nature};
use watch::Watcher;

/// How often a cluster that does not answer is asked for its version.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(5);

/// The target of what is logged about a version, and stays so until another one is installed.
pub const ADVICE: &str = "fencron::store::advice";

/// The largest answer that is read: a page of [`PAGE`](super::PAGE) entries may be that large.
const MAX_ANSWER: usize = 256 << 20;

/// From how many hundredths of the quota on its operator is warned.
const NEARLY_FULL_PERCENT: u64 = 80;

/// A store in an etcd cluster.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use fencron::store::etcd::{EtcdConfig, EtcdStore};
/// use fencron::store::{Keys, Range, Store};
///
/// let config: EtcdConfig = "etcd://10.0.0.1,10.0.0.2,10.0.0.3".parse()?;
/// let store = EtcdStore::connect(config).await?;
/// let page = store.range(Range::of(Keys::prefix("shop/"))).await?;
/// println!("{} keys at revision {}", page.entries.len(), page.revision);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EtcdStore {
    /// For requests.
    members: Arc<Members>,
    /// For watches.
    watched: Arc<Members>,
}

impl EtcdStore {
    /// Connects to the first member that answers and accepts the credentials. Logs what is wrong with its version.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] when none answers in time, or none knows a leader; [`StoreError::Denied`] when the
    /// credentials are wrong or a certificate's file cannot be read; [`StoreError::Unusable`] when the endpoints
    /// belong to different clusters, or to something that only looks like etcd.
    pub async fn connect(config: EtcdConfig) -> Result<EtcdStore, StoreError> {
        let store = EtcdStore::of(config, Arc::default());
        let about = store.about().await?;
        let advice = defects::warnings(&about.version);
        for warning in about.warnings {
            // A state that lasts until another version is installed need not be reported by every command.
            if advice.contains(&warning) {
                tracing::warn!(target: ADVICE, "{warning}");
            } else {
                tracing::warn!("{warning}");
            }
        }
        Ok(store)
    }

    /// As [`EtcdStore::connect`], without waiting for a member that answers: every call waits for one. What is wrong with
    /// the version is logged when that is.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn connect_later(config: EtcdConfig) -> EtcdStore {
        let store = EtcdStore::of(config, Arc::default());
        let asked = store.clone();
        tokio::spawn(async move {
            loop {
                match asked.about().await {
                    Ok(about) => return about.warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
                    Err(error) if error.is_passing() => tokio::time::sleep(ASK_AGAIN_EVERY).await,
                    Err(error) => return tracing::error!(%error, "the store cannot be used"),
                }
            }
        });
        store
    }

    /// A store whose connections are made when they are needed.
    fn of(config: EtcdConfig, cluster: Arc<OnceLock<u64>>) -> EtcdStore {
        let members = Arc::new(Members::new(config.clone(), cluster.clone()));
        EtcdStore { members, watched: Arc::new(Members::new(config, cluster)) }
    }

    fn asked(&self, nature: Nature, subject: Subject) -> Asked {
        Asked { nature, subject, patience: self.members.config().timeouts().attempt }
    }

    async fn status(&self) -> Result<StatusResponse, StoreError> {
        let asked = self.asked(Nature::Read, Subject::default());
        self.members.call(asked, |client| async move { client.maintenance_client().status().await }).await
    }

    /// What a transaction that only reads answers, read one after the other as of the revision of the first.
    async fn read_apart(&self, txn: &Txn) -> Result<Committed, StoreError> {
        let (mut revision, mut answers) = (None, Vec::with_capacity(txn.then.len()));
        for op in &txn.then {
            let Op::Get(range) = op else { continue };
            let page = self.range(Range { at: range.at.or(revision), ..range.clone() }).await?;
            let revision = *revision.get_or_insert(page.revision);
            answers.push(Answer::Got(Page { revision, ..page }));
        }
        Ok(Committed { succeeded: true, revision: revision.unwrap_or_default(), answers })
    }

    /// Fills in what etcd's error leaves out: from where on it keeps the history of `key`.
    async fn with_history<T>(&self, result: Result<T, StoreError>, key: &str) -> Result<T, StoreError> {
        let Err(StoreError::Compacted { asked, .. }) = result else { return result };
        let question = self.asked(Nature::Read, Subject::default());
        let kept_from = self.members.call(question, |client| watch::kept_from(client, key, asked)).await?;
        Err(StoreError::Compacted { asked, kept_from })
    }
}

impl Store for EtcdStore {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        // Granting twice leaves a lease with no keys, which ends by itself.
        let asked = self.asked(Nature::Repeatable, Subject::default());
        let granted =
            self.members.call(asked, |client| async move { client.lease_client().grant(seconds, None).await }).await?;
        if granted.error().is_empty()
            && let Some(sign) = defects::lease_sign(granted.id(), seconds, whole_seconds(granted.ttl()))
        {
            return Err(defects::imitation("this store", &sign));
        }
        match translate::lease(granted.id()) {
            Some(lease) => Ok((lease, whole_seconds(granted.ttl()))),
            None => Err(StoreError::Unusable(format!("etcd granted no lease: {}", granted.error()))),
        }
    }

    /// One question and one answer on a stream of their own, as etcd's own client does for `KeepAliveOnce`: on a stream
    /// that is kept, a late answer could be confused with the answer to a later question, and a lease be trusted for
    /// longer than it lasts.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        let subject = Subject { lease: Some(lease), at: None };
        let mut asked = self.asked(Nature::Repeatable, subject);
        asked.patience /= 2;
        let number = translate::lease_number(lease);
        let kept = |client: Client| async move {
            // The client waits for the first answer by itself and keeps its TTL to itself: a second one is asked for.
            let (mut keeper, mut answers) = client.lease_client().keep_alive(number).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.members.call(asked, kept).await? {
            Some(answer) if answer.ttl() > 0 => Ok(whole_seconds(answer.ttl())),
            _ => Err(StoreError::LeaseEnded(lease)),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let asked = self.asked(Nature::Repeatable, Subject { lease: Some(lease), at: None });
        let number = translate::lease_number(lease);
        match self.members.call(asked, |client| async move { client.lease_client().revoke(number).await }).await {
            Ok(_) | Err(StoreError::LeaseEnded(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        let nature = if translate::writes(&txn) { Nature::Write } else { Nature::Read };
        let (at, key) = translate::history_read(&txn).unzip();
        let subject = Subject { lease: translate::lease_of(&txn), at };
        let request = translate::txn(&txn)?;
        let commit = |client: Client| {
            let request = request.clone();
            async move { client.kv_client().max_decoding_message_size(MAX_ANSWER).txn(request).await }
        };
        let answer = self.members.call(self.asked(nature, subject), commit).await;
        // A full database takes no transaction, not even one that only reads; but it answers questions.
        if nature == Nature::Read
            && txn.when.is_empty()
            && let Err(error) = &answer
            && error.is_full()
        {
            return self.read_apart(&txn).await;
        }
        Ok(translate::committed(&self.with_history(answer, key.unwrap_or_default()).await?))
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let (key, options) = translate::get(&range)?;
        let asked = self.asked(Nature::Read, Subject { lease: None, at: range.at });
        let get = |client: Client| {
            let options = options.clone();
            async move { client.kv_client().max_decoding_message_size(MAX_ANSWER).get(key, Some(options)).await }
        };
        let answer = self.members.call(asked, get).await;
        let found = self.with_history(answer, key).await?;
        Ok(translate::page(&found, translate::header_revision(found.header())))
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        let watcher = Watcher::new(self.watched.clone(), keys, from);
        let opened = watcher.open().await?;
        let (reports, watch) = Watch::channel();
        tokio::spawn(watcher.run(opened.stream, reports));
        Ok(if opened.at < from { watch } else { watch.begun_behind() })
    }

    async fn about(&self) -> Result<About, StoreError> {
        let status = self.status().await?;
        let size = u64::try_from(status.db_size()).ok();
        let mut warnings = defects::warnings(status.version());
        warnings.extend(status.errors().iter().map(|error| alarm(error)));
        let quota = u64::try_from(status.db_size_quota()).ok().filter(|quota| *quota > 0);
        warnings.extend(quota.and_then(|quota| nearly_full(size.unwrap_or(0), quota)));
        Ok(About { kind: "etcd", version: status.version().to_owned(), size, quota, warnings, clock: None })
    }

    async fn apart(&self) -> Result<EtcdStore, StoreError> {
        Ok(EtcdStore::of(self.members.config().clone(), self.members.cluster().clone()))
    }
}

/// A TTL as etcd writes it.
fn whole_seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// What a member complains of, with what to do where that is known.
fn alarm(error: &str) -> String {
    if error.contains("NOSPACE") {
        format!("etcd's database is full and takes no writes ({error}): compact, defragment, `etcdctl alarm disarm`")
    } else if error.contains("CORRUPT") {
        format!("etcd has found its members' data to differ ({error}): repair the cluster")
    } else {
        format!("etcd reports: {error}")
    }
}

/// A warning when the database is near its limit.
fn nearly_full(size: u64, quota: u64) -> Option<String> {
    let percent = size.saturating_mul(100) / quota;
    (percent >= NEARLY_FULL_PERCENT).then(|| {
        format!("etcd's database takes {} MiB, {percent} % of its quota: compact and defragment it", size >> 20)
    })
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("config", self.members.config()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_near_its_quota_is_warned_of() {
        assert_eq!(nearly_full(1 << 29, 1 << 30), None);
        assert!(nearly_full(900 << 20, 1 << 30).unwrap().contains("87 % of its quota"));
    }

    #[test]
    fn a_full_database_says_what_to_do() {
        assert!(alarm("memberID:1 alarm:NOSPACE ").contains("alarm disarm"));
    }
}
