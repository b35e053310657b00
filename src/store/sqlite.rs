//! A store in one SQLite file in WAL mode, shared by the processes of one machine.
//!
//! It needs nothing but the file. Revisions come from one counter in the same transaction as what they number. Leases
//! are timed by the boot clock, which all processes of a machine share; a file that was last used under another boot
//! has no lease left. Every write is synced to disk before it is answered (`synchronous = FULL`), so that neither a
//! process nor a machine that dies at any moment takes back what was answered.
//!
//! **One machine.** SQLite's locks and its shared memory do not reach across machines. A file on a network filesystem
//! is refused if it can be recognized; two containers may share a file if they share the kernel and its time namespace,
//! and where they do not, the one that opens it last wins and the other reports it. Copy, move or restore the file only
//! while nothing uses it, and take its `-wal` file along (or remove it with what is replaced).
//!
//! All SQLite work is done on two threads of the store's own, one that writes and one that reads: never on the async
//! runtime. The reasons are in `docs/decisions/0004-sqlite.md`.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::watching::Watching;
use super::{About, Committed, Keys, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch, rules};
use crate::time::Clock;

mod announce;
mod contents;
#[cfg(feature = "cli")]
mod copy;
pub(crate) mod file;
mod reader;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use super::contents::HISTORY;
use announce::Bell;
#[cfg(feature = "cli")]
pub(crate) use copy::Copied;
use file::File;
use reader::{Listening, Question, Read, Reader, ToReader, Watches};
use writer::{Request, ToWriter, Write, Writer, Written};

/// How long a call waits for its answer. A write that was not answered by then is [`StoreError::Unknown`].
///
/// It is longer than the 5 seconds for which a transaction waits for the file's lock.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How many writes, and how many reads, may wait in a handle's queues. Further calls wait before they are queued.
const QUEUE: usize = 256;

/// How often a store with an open watch looks for what other processes have committed without announcing it. After one that
/// was found so, it looks far more often for a while.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A handle to a store in a SQLite file.
///
/// ```
/// use fencron::store::{Compare, Keys, Op, Store, Txn, sqlite::SqliteStore};
/// use fencron::time::Clock;
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("state.db");
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let store = SqliteStore::open(&path, Clock::system()).await.unwrap();
/// let take = Txn::new().when(Compare::absent(Keys::one("lock"))).then(Op::put("lock", "me"));
/// assert!(store.commit(take.clone()).await.unwrap().succeeded);
///
/// let same_file = SqliteStore::open(&path, Clock::system()).await.unwrap();
/// assert!(!same_file.commit(take).await.unwrap().succeeded);
/// # });
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    threads: Arc<Threads>,
}

/// The two threads. They end when the last handle is dropped, and the watches with them.
struct Threads {
    file: File,
    clock: Clock,
    writer: mpsc::Sender<ToWriter>,
    reader: mpsc::Sender<ToReader>,
    writes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

impl SqliteStore {
    /// Opens the file; creates it (mode 0600), and its directory (mode 0700), where they are not there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] where this user may not write there, [`StoreError::Unusable`] where the file is not a
    /// fencron store, is from a newer version, is damaged, or lies on a network filesystem, and
    /// [`StoreError::Unavailable`] where others hold it for longer than 5 seconds.
    pub async fn open(path: impl AsRef<Path>, clock: Clock) -> Result<SqliteStore, StoreError> {
        SqliteStore::open_to_hear(path.as_ref(), clock, Word::default()).await
    }

    async fn open_to_hear(path: &Path, clock: Clock, word: Word) -> Result<SqliteStore, StoreError> {
        let path = path.to_owned();
        let (reply, opened) = oneshot::channel();
        let named = path.clone();
        spawn("fencron-sqlite-open", move || drop(reply.send(open_twice(&named))))?;
        let opened = match timeout(ANSWER_WITHIN, opened).await {
            Ok(Ok(opened)) => opened?,
            _ => return Err(unavailable(&path, "opening it took too long")),
        };
        Threads::start(opened, clock, word).map(|threads| SqliteStore { threads: Arc::new(threads) })
    }

    /// Forgets the history before `revision` (or the current one, where that is less): reads and watches from before
    /// it are answered as compacted.
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.threads.write(Write::Compact(revision)).await.map(|_| ())
    }

    /// Copies all that was committed by one moment into the empty file `to`, and reads it back; nodes go on meanwhile.
    /// Counts each of `keys` in the copy.
    #[cfg(feature = "cli")]
    pub(crate) async fn copy_to(&self, to: &Path, keys: Vec<Keys>) -> Result<Copied, StoreError> {
        let (file, to) = (self.threads.file.clone(), to.to_owned());
        let copied = tokio::task::spawn_blocking(move || copy::copy(&file, &to, &keys)).await;
        copied.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Whether `path` is this store's file, or one that lies beside it and belongs to it.
    #[cfg(feature = "cli")]
    pub(crate) fn is_its_file(&self, path: &Path) -> bool {
        let Ok(path) = std::fs::canonicalize(path) else { return false };
        self.threads.file.all().contains(&path)
    }
}

/// How a store and the others on its file learn of each other's commits. Only tests have another than the default.
#[derive(Clone, Copy, Debug)]
struct Word {
    /// The other processes are notified of this store's commits.
    announces: bool,
    /// This store listens to the announcements of others.
    listens: bool,
    /// How often it reads while it listens and receives nothing.
    look_every: Duration,
}

impl Default for Word {
    fn default() -> Word {
        Word { announces: true, listens: true, look_every: LOOK_EVERY }
    }
}

/// The file, and what its two threads work with.
struct Opened {
    file: File,
    boot: Arc<str>,
    to_write: Connection,
    to_read: Connection,
}

fn open_twice(path: &Path) -> Result<Opened, StoreError> {
    let (file, to_write, boot) = tables::open(path)?;
    let to_read = file.connect()?;
    Ok(Opened { file, boot: boot.into(), to_write, to_read })
}

fn unavailable(path: &Path, why: &str) -> StoreError {
    StoreError::Unavailable { store: format!("sqlite:{}", path.display()), why: why.to_owned() }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    match thread::Builder::new().name(name.to_owned()).spawn(run) {
        Ok(_) => Ok(()),
        Err(error) => Err(StoreError::Unavailable { store: "sqlite".into(), why: format!("no thread: {error}") }),
    }
}

impl Threads {
    fn start(opened: Opened, clock: Clock, word: Word) -> Result<Threads, StoreError> {
        let Opened { file, boot, to_write, to_read } = opened;
        let (writer, write_requests) = mpsc::channel();
        let (reader, read_requests) = mpsc::channel();
        let (bell, database) = (Bell::new(reader.clone()), file.path().to_owned());
        let write_thread = Writer {
            file: file.clone(),
            boot: Arc::clone(&boot),
            connection: to_write,
            clock: clock.clone(),
            requests: write_requests,
            bell: bell.clone(),
            announces: word.announces.then(|| database.clone()),
        };
        let read_thread = Reader {
            file: file.clone(),
            boot,
            connection: to_read,
            clock: clock.clone(),
            requests: read_requests,
            writer: writer.clone(),
            bell,
            listening: Listening::new(word.listens.then_some(database), word.look_every),
            watches: Watches::default(),
        };
        spawn("fencron-sqlite-write", move || write_thread.run())?;
        spawn("fencron-sqlite-read", move || read_thread.run())?;
        let queue = || Arc::new(Semaphore::new(QUEUE));
        Ok(Threads { file, clock, writer, reader, writes: queue(), reads: queue() })
    }

    async fn write(&self, write: Write) -> Result<Written, StoreError> {
        let queued = timeout(ANSWER_WITHIN, Arc::clone(&self.writes).acquire_owned()).await;
        let permit = queued.map_err(|_| self.file.unavailable("its queue of writes is full"))?;
        let (reply, answer) = oneshot::channel();
        let permit = Some(permit.expect("the semaphore is never closed"));
        let request = ToWriter::Request(Request { write, reply: Some(reply), permit });
        self.writer.send(request).map_err(|_| self.file.unavailable("its thread has ended"))?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.file.unknown("its thread ended")),
            Err(_) => Err(self.file.unknown("it did not answer in 10 s")),
        }
    }

    async fn read(&self, range: Range, as_it_is: bool) -> Result<Read, StoreError> {
        let queued = timeout(ANSWER_WITHIN, Arc::clone(&self.reads).acquire_owned()).await;
        let permit = queued.map_err(|_| self.file.unavailable("its queue of reads is full"))?;
        let (reply, answer) = oneshot::channel();
        let permit = permit.expect("the semaphore is never closed");
        let request = ToReader::Range(Question { range, as_it_is, reply, permit });
        self.reader.send(request).map_err(|_| self.file.unavailable("its thread has ended"))?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => answer,
            _ => Err(self.file.unavailable("a read was not answered in 10 s")),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Each holds a sender to the other, so that neither would see its queue end. One that has ended needs no word.
        drop(self.writer.send(ToWriter::Stop));
        drop(self.reader.send(ToReader::Stop));
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.threads.file.path()).finish()
    }
}

impl Store for SqliteStore {
    async fn grant(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        match self.threads.write(Write::Grant(ttl)).await? {
            Written::Granted(lease, ttl) => Ok((lease, ttl)),
            _ => unreachable!("a grant is answered as a grant"),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        match self.threads.write(Write::KeepAlive(lease)).await? {
            Written::KeptAlive(ttl) => Ok(ttl),
            _ => unreachable!("a keep-alive is answered as a keep-alive"),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.threads.write(Write::Revoke(lease)).await.map(|_| ())
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        rules::check(&txn)?;
        match self.threads.write(Write::Commit(txn)).await? {
            Written::Committed(committed) => Ok(committed),
            _ => unreachable!("a transaction is answered as a transaction"),
        }
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        rules::check_keys(&range.keys)?;
        if let Read::Page(page) = self.threads.read(range.clone(), false).await? {
            return Ok(page);
        }
        self.threads.write(Write::Expire).await?;
        match self.threads.read(range, true).await? {
            Read::Page(page) => Ok(page),
            Read::LeaseDue => unreachable!("what is read as it is, is read"),
        }
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<Watch, StoreError> {
        rules::check_keys(&keys)?;
        let (reports, watch) = Watch::channel();
        let request = ToReader::Watch(Watching { keys, from, reports });
        self.threads.reader.send(request).map_err(|_| self.threads.file.unavailable("its thread has ended"))?;
        Ok(watch)
    }

    async fn about(&self) -> Result<About, StoreError> {
        self.range(Range { limit: 1, keys_only: true, ..Range::of(Keys::one("/")) }).await?;
        let file = &self.threads.file;
        file.check_in_place()?;
        Ok(About {
            kind: "sqlite",
            version: rusqlite::version().to_owned(),
            size: file.size(),
            quota: None,
            warnings: file.warnings(),
            clock: None,
        })
    }

    async fn apart(&self) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(self.threads.file.path(), self.threads.clock.clone()).await
    }
}
