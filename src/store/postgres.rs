//! A store in a PostgreSQL database, shared by the processes of many machines.
//!
//! It keeps its tables in the schema `fencron` and needs no extension and no superuser. Revisions are numbered under one
//! lock, so that commits become visible in the order of their numbers. Leases are ended by who observes them, on the boot
//! clock of the observer: no step of a wall clock, of the server or of a client, ends one early. The reasons are in
//! `docs/decisions/0050-postgresql.md`.
//!
//! **A failover** to another server may take back answered writes, where no standby is synchronous. So a store refuses to
//! be written by a server that is not the one that wrote it last, until an operator says that it is the one
//! ([`PostgresStore::adopt`]): fences never fall, and no hold is granted twice.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::types::Type;

use super::{About, Committed, Keys, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch, rules};
use crate::store::contents::{lease_sql, sql};
use crate::store::watching::Watching;
use crate::time::Clock;

mod about;
mod adopt;
mod config;
mod fault;
mod leases;
mod link;
mod loaded;
mod passfile;
mod reader;
mod tables;
mod watch;
mod writer;

pub use adopt::Adopted;
pub use config::{NotAPostgresUrl, PostgresConfig};
use leases::Leases;
use link::{Connected, Link, Place};
use reader::Reader;
use watch::{Bell, Watcher, announce};
use writer::{Request, Write, Writer, Written};

/// How long a call waits for its answer. A write that was not answered by then is [`StoreError::Unknown`].
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How many writes may wait in a handle's queue. Further calls wait before they are queued.
const QUEUE: usize = 256;

/// How many rows of history are removed at a time.
const COMPACT_ROWS: i64 = 1000;

/// A handle to a store in PostgreSQL. It has up to three connections: one that writes, one that reads, and one that keeps
/// leases alive; each is made when it is first needed.
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

struct Shared {
    place: Arc<Place>,
    leases: Arc<Leases>,
    reader: Arc<Reader>,
    writer: mpsc::UnboundedSender<Request>,
    watches: mpsc::UnboundedSender<Watching>,
    writes: Arc<Semaphore>,
    /// Tasks without a queue that ends with this.
    tasks: [AbortHandle; 3],
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl PostgresStore {
    /// Connects to the database, and makes the tables where they are not there. `clock` times what is seen of leases.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] where the login is refused, or the tables are not there and this role may not make them;
    /// [`StoreError::Unusable`] where the server is none of PostgreSQL 13 or later, or the tables are from a newer version
    /// or were altered; [`StoreError::Unavailable`] where it cannot be reached.
    pub async fn connect(config: PostgresConfig, clock: Clock) -> Result<PostgresStore, StoreError> {
        let place = Arc::new(Place::new(config, clock));
        let connected = place.connect().await?;
        Ok(PostgresStore::start(place, Some(connected)))
    }

    /// As [`PostgresStore::connect`], but it connects when it is first asked something.
    pub fn connect_later(config: PostgresConfig, clock: Clock) -> PostgresStore {
        PostgresStore::start(Arc::new(Place::new(config, clock)), None)
    }

    fn start(place: Arc<Place>, connected: Option<Connected>) -> PostgresStore {
        let reader = Arc::new(Reader { link: Link::new(Arc::clone(&place)) });
        let leases = Arc::new(Leases::new(Link::new(Arc::clone(&place))));
        let (bell, committed) = (place.bell.clone(), Bell::default());
        let (writer, requests) = mpsc::unbounded_channel();
        let (compacted, compactions) = mpsc::unbounded_channel();
        let write_task = Writer {
            place: Arc::clone(&place),
            connected,
            requests,
            leases: Arc::clone(&leases),
            reader: Arc::clone(&reader),
            bell: bell.clone(),
            committed: committed.clone(),
            compacted,
        };
        let (watches, watch_requests) = mpsc::unbounded_channel();
        let watch_task = Watcher {
            reader: Arc::clone(&reader),
            leases: Arc::clone(&leases),
            requests: watch_requests,
            bell,
            open: Default::default(),
            served: None,
            newest: Revision(0),
        };
        tokio::spawn(write_task.run());
        tokio::spawn(watch_task.run());
        let expire = {
            let writer = writer.clone();
            move || {
                // The writer ends with the handle, and this task too.
                writer.send(Request { write: Write::Expire, reply: None, permit: None }).ok();
            }
        };
        let observe = tokio::spawn(Arc::clone(&leases).observe(Arc::clone(&reader), expire));
        let compact = tokio::spawn(compact(Arc::clone(&reader), compactions));
        let announce = tokio::spawn(announce(Arc::clone(&reader), committed));
        let tasks = [observe.abort_handle(), compact.abort_handle(), announce.abort_handle()];
        let writes = Arc::new(Semaphore::new(QUEUE));
        PostgresStore { shared: Arc::new(Shared { place, leases, reader, writer, watches, writes, tasks }) }
    }

    /// Forgets the history before `revision` (or the current one, where that is less): reads and watches from before
    /// it are answered as compacted.
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.shared.write(Write::Compact(revision)).await.map(drop)
    }
}

/// Removes the rows of the history that is forgotten, outside of the transactions that others wait for.
async fn compact(reader: Arc<Reader>, mut compactions: mpsc::UnboundedReceiver<Revision>) {
    let query = format!(
        "WITH gone AS (
            DELETE FROM fencron.log WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM fencron.log WHERE revision < $1 ORDER BY revision LIMIT {COMPACT_ROWS}
            )) RETURNING 1
        ) SELECT count(*) FROM gone"
    );
    while let Some(kept_from) = compactions.recv().await {
        loop {
            match reader.ask(&query, &[(&sql(kept_from), Type::INT8)]).await {
                Ok(rows)
                    if rows.first().is_some_and(|row| row.try_get(0).is_ok_and(|gone: i64| gone == COMPACT_ROWS)) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%error, "old history is removed later");
                    break;
                }
            }
        }
    }
}

impl Shared {
    async fn write(&self, write: Write) -> Result<Written, StoreError> {
        let queued = timeout(ANSWER_WITHIN, Arc::clone(&self.writes).acquire_owned()).await;
        let permit = queued.map_err(|_| self.place.unavailable("its queue of writes is full"))?;
        let (reply, answer) = oneshot::channel();
        let permit = Some(permit.expect("the semaphore is never closed"));
        let request = Request { write, reply: Some(reply), permit };
        self.writer.send(request).map_err(|_| self.place.unavailable("its task has ended"))?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.place.unknown("its task ended")),
            Err(_) => Err(self.place.unknown("it did not answer in 10 s")),
        }
    }

    async fn in_time<T>(&self, asking: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        timeout(ANSWER_WITHIN, asking).await.unwrap_or_else(|_| Err(self.place.unknown("it did not answer in 10 s")))
    }

    async fn read<T>(&self, asking: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        timeout(ANSWER_WITHIN, asking)
            .await
            .unwrap_or_else(|_| Err(self.place.unavailable("it did not answer in 10 s")))
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.shared.place.name).finish()
    }
}

impl Store for PostgresStore {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.shared.in_time(self.shared.leases.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        // One that this handle has seen unchanged for its TTL is over, though no other has ended it yet.
        if self.shared.leases.due().iter().any(|(due, _)| *due == lease_sql(lease)) {
            self.shared.write(Write::Expire).await?;
        }
        self.shared.in_time(self.shared.leases.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.write(Write::Revoke(lease)).await?;
        self.shared.leases.seen().forget(lease_sql(lease));
        Ok(())
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        rules::check(&txn)?;
        match self.shared.write(Write::Commit(txn)).await? {
            Some(committed) => Ok(committed),
            None => unreachable!("a transaction is answered as a transaction"),
        }
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        rules::check_keys(&range.keys)?;
        if !self.shared.leases.due().is_empty()
            && let Err(error) = self.shared.write(Write::Expire).await
        {
            tracing::debug!(%error, "a lease that is over could not be ended before a read");
        }
        self.shared.read(self.shared.reader.range(&range)).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        rules::check_keys(&keys)?;
        let (reports, watch) = Watch::channel();
        let request = Watching { keys, from, reports };
        self.shared.watches.send(request).map_err(|_| self.shared.place.unavailable("its task has ended"))?;
        Ok(watch)
    }

    async fn about(&self) -> Result<About, StoreError> {
        self.shared.read(about::about(&self.shared.reader)).await
    }

    async fn apart(&self) -> Result<PostgresStore, StoreError> {
        let place = &self.shared.place;
        Ok(PostgresStore::connect_later(place.config.clone(), place.clock.clone()))
    }
}
