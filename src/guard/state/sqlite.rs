//! A state in one SQLite file in WAL mode, shared by the guards of one machine, and synced before it is answered.
//!
//! One thread works on it, and takes what has queued up into one transaction: what a sync costs is shared.
//!
//! The system shows which guards live: each holds a lock on a file of its own beside the state (`…-guard-…`), which
//! ends with the process, however it ends. No clock and no heartbeat can wrongly count a guard as dead that was only
//! stopped for a while.

use std::fmt;
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{Bounds, KEY_OVERHEAD, SWEEP, StateError};
use crate::fence::Fence;
use crate::guard::{Answer, Answered, Asked, Decision, End, Entry, Found, InDoubt, Progress, SCOPES_MOST, decide};
use crate::store::StoreError;
use crate::store::sqlite::file::{File, Kind};
use crate::time::{Clock, Wall};

/// `fgrd` stands in the header.
pub(in crate::guard) const KIND: Kind =
    Kind { application_id: 0x6667_7264, schema_version: 1, schema: SCHEMA, with_directory: false };

const SCHEMA: &str = "
    CREATE TABLE scopes (name TEXT PRIMARY KEY, fence INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE entries (
        nth INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, scope TEXT NOT NULL, key TEXT, fence INTEGER NOT NULL,
        digest BLOB NOT NULL, progress INTEGER NOT NULL, guard TEXT NOT NULL, expires INTEGER NOT NULL,
        size INTEGER NOT NULL, answer BLOB
    ) STRICT;
    CREATE UNIQUE INDEX entries_by_key ON entries (scope, key) WHERE key IS NOT NULL;
    CREATE INDEX entries_in_flight ON entries (scope, fence) WHERE progress = 0;
    CREATE INDEX entries_by_expiry ON entries (expires) WHERE progress <> 0;
    CREATE TABLE totals (id INTEGER PRIMARY KEY CHECK (id = 1), keys INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
    INSERT INTO totals VALUES (1, 0, 0);
    CREATE TRIGGER entries_count AFTER INSERT ON entries WHEN new.key IS NOT NULL
        BEGIN UPDATE totals SET keys = keys + 1, bytes = bytes + new.size; END;
    CREATE TRIGGER entries_discount AFTER DELETE ON entries WHEN old.key IS NOT NULL
        BEGIN UPDATE totals SET keys = keys - 1, bytes = bytes - old.size; END;
    CREATE TRIGGER entries_recount AFTER UPDATE OF size ON entries WHEN new.key IS NOT NULL
        BEGIN UPDATE totals SET bytes = bytes + new.size - old.size; END;
";

/// What stands in the column `progress`.
const IN_FLIGHT: i64 = 0;
const DONE: i64 = 1;
const IN_DOUBT: i64 = 2;

/// How many questions wait for the thread, and how many it takes into one transaction.
const QUEUE: usize = 1024;
const BATCH: usize = 256;

enum Job {
    Ask(Asked, InDoubt, oneshot::Sender<Result<Answered, StateError>>),
    End(Uuid, End, oneshot::Sender<Result<(), StateError>>),
}

impl Job {
    fn fail(self, error: &StateError) {
        match self {
            Job::Ask(_, _, reply) => drop(reply.send(Err(error.clone()))),
            Job::End(_, _, reply) => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// What is answered when the transaction stands.
enum Reply {
    Ask(Answered, oneshot::Sender<Result<Answered, StateError>>),
    End(oneshot::Sender<Result<(), StateError>>),
}

pub(in crate::guard) struct Sqlite {
    jobs: mpsc::Sender<Job>,
    life: Arc<Life>,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.life.state).finish_non_exhaustive()
    }
}

impl Sqlite {
    pub(super) async fn open(path: &Path, bounds: Bounds, clock: Clock) -> Result<Sqlite, StateError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (opened, opening) = oneshot::channel();
        let named = path.to_owned();
        let work = move || match Worker::open(&named, bounds, clock) {
            Ok(worker) => {
                drop(opened.send(Ok(Arc::clone(&worker.life))));
                worker.run(queue);
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let started = thread::Builder::new().name("fencron-guard".to_owned()).spawn(work);
        started.map_err(|error| unavailable(path, &error))?;
        let life = opening.await.map_err(|_| unavailable(path, &"its thread ended"))??;
        Ok(Sqlite { jobs, life })
    }

    pub(super) async fn ask(&self, asked: &Asked, in_doubt: InDoubt) -> Result<Answered, StateError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Ask(asked.clone(), in_doubt, reply), answer).await
    }

    pub(super) async fn end(&self, id: Uuid, end: &End) -> Result<(), StateError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::End(id, end.clone(), reply), answer).await
    }

    async fn send<T>(&self, job: Job, answer: oneshot::Receiver<Result<T, StateError>>) -> Result<T, StateError> {
        self.jobs.send(job).await.map_err(|_| unavailable(&self.life.state, &"its thread ended"))?;
        answer.await.map_err(|_| unavailable(&self.life.state, &"it did not answer"))?
    }

    pub(super) fn inherit(&self) -> io::Result<()> {
        fcntl(&self.life.lock, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    }
}

fn unavailable(path: &Path, why: &dyn fmt::Display) -> StateError {
    StateError::Unavailable { state: format!("sqlite:{}", path.display()), why: why.to_string() }
}

pub(in crate::guard) fn cannot_use(path: &Path, error: StoreError) -> StateError {
    match error {
        StoreError::Unavailable { why, .. } | StoreError::Unknown { why, .. } => unavailable(path, &why),
        StoreError::Denied { why, .. } | StoreError::Unusable(why) => {
            StateError::Unusable { state: format!("sqlite:{}", path.display()), why }
        }
        other => unavailable(path, &other),
    }
}

/// The file whose lock says that a guard lives.
struct Life {
    state: PathBuf,
    name: String,
    lock: fs::File,
}

impl Life {
    fn begin(state: &Path) -> io::Result<Life> {
        loop {
            let name = Uuid::new_v4().simple().to_string();
            let path = Life::path(state, &name);
            let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            // One that looks for dead guards may have found the file before it was locked, and removes it then. Once it
            // is locked and still there, no guard does.
            match lock.try_lock() {
                Ok(()) if path.exists() => return Ok(Life { state: state.to_owned(), name, lock }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn path(state: &Path, name: &str) -> PathBuf {
        let mut path = state.as_os_str().to_owned();
        path.push(format!("-guard-{name}"));
        path.into()
    }

    /// Whether the guard `name` lives. One that is asked about by two at once may be said to live though it is dead.
    fn lasts(&self, name: &str) -> bool {
        if name == self.name {
            return true;
        }
        let path = Life::path(&self.state, name);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) => return error.kind() != io::ErrorKind::NotFound,
        };
        match file.try_lock() {
            Ok(()) => {
                fs::remove_file(&path).ok();
                false
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        fs::remove_file(Life::path(&self.state, &self.name)).ok();
    }
}

/// Works on the file, in its thread.
struct Worker {
    file: File,
    connection: Connection,
    bounds: Bounds,
    clock: Clock,
    life: Arc<Life>,
}

impl Worker {
    fn open(path: &Path, bounds: Bounds, clock: Clock) -> Result<Worker, StateError> {
        let (file, connection) = File::open(path, &KIND, |_, _| Ok(())).map_err(|error| cannot_use(path, error))?;
        // Beside the file itself, also when links led to it: all guards look for each other there.
        let life = Life::begin(file.path()).map_err(|error| unavailable(path, &error))?;
        let mut worker = Worker { file, connection, bounds, clock, life: Arc::new(life) };
        worker.bury().map_err(|error| unavailable(path, &error))?;
        Ok(worker)
    }

    /// Puts in doubt what guards had in flight that died, and removes what they left on disk.
    fn bury(&mut self) -> rusqlite::Result<()> {
        let file = self.life.state.file_name().unwrap_or_default().to_string_lossy().into_owned() + "-guard-";
        let directory = self.life.state.parent().filter(|parent| !parent.as_os_str().is_empty());
        for entry in fs::read_dir(directory.unwrap_or(Path::new("."))).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_string_lossy().strip_prefix(&file) {
                self.life.lasts(name);
            }
        }
        let expires = self.clock.wall().plus(self.bounds.keep);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let guards: Vec<String> = transaction
            .prepare("SELECT DISTINCT guard FROM entries WHERE progress = 0")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for guard in guards.iter().filter(|guard| !self.life.lasts(guard)) {
            transaction.execute("DELETE FROM entries WHERE guard = ?1 AND progress = 0 AND key IS NULL", [guard])?;
            let doubt = "UPDATE entries SET progress = ?2, expires = ?3 WHERE guard = ?1 AND progress = 0";
            transaction.execute(doubt, params![guard, IN_DOUBT, expires.as_millis()])?;
        }
        transaction.commit()
    }

    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < BATCH
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
            self.work(jobs);
        }
    }

    /// Does all of `jobs` in one transaction, and answers when it stands.
    fn work(&mut self, jobs: Vec<Job>) {
        // No process that opens the path will see what is written to a file that was replaced.
        if let Err(error) = self.file.check_in_place() {
            let error = cannot_use(&self.life.state, error);
            return jobs.into_iter().for_each(|job| job.fail(&error));
        }
        let mut replies = Vec::with_capacity(jobs.len());
        let done = self.transact(jobs, &mut replies);
        // The caller may have gone. Callers whose jobs were not reached see that no answer comes.
        let failed = done.err().map(|error: rusqlite::Error| unavailable(&self.life.state, &error));
        for reply in replies {
            match reply {
                Reply::Ask(answered, reply) => drop(reply.send(failed.clone().map_or(Ok(answered), Err))),
                Reply::End(reply) => drop(reply.send(failed.clone().map_or(Ok(()), Err))),
            }
        }
    }

    fn transact(&mut self, jobs: Vec<Job>, replies: &mut Vec<Reply>) -> rusqlite::Result<()> {
        let now = self.clock.wall();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let contents = Contents { transaction: &transaction, bounds: &self.bounds, life: &self.life, now };
        contents.sweep()?;
        for job in jobs {
            replies.push(match job {
                Job::Ask(asked, in_doubt, reply) => Reply::Ask(contents.ask(&asked, in_doubt)?, reply),
                Job::End(id, end, reply) => {
                    contents.end(id, &end)?;
                    Reply::End(reply)
                }
            });
        }
        transaction.commit()
    }
}

/// The tables, within a transaction.
struct Contents<'a> {
    transaction: &'a Transaction<'a>,
    bounds: &'a Bounds,
    life: &'a Life,
    now: Wall,
}

/// A row of a key.
struct Row {
    digest: Vec<u8>,
    progress: i64,
    guard: String,
    expires: i64,
    answer: Option<Vec<u8>>,
}

impl Contents<'_> {
    fn ask(&self, asked: &Asked, in_doubt: InDoubt) -> rusqlite::Result<Answered> {
        let request = &asked.request;
        let seen = self.seen(&asked.scope)?;
        if seen.is_none() && self.count("SELECT count(*) FROM scopes")? >= SCOPES_MOST {
            return Ok(Answered::Decided(Decision::Full));
        }
        let row = match &request.key {
            Some(key) => self.row(&asked.scope, key)?,
            None => None,
        };
        let entry = row.as_ref().map(|row| Entry {
            payload: request.digest.stands_to(&row.digest),
            progress: match row.progress {
                IN_FLIGHT if self.life.lasts(&row.guard) => Progress::InFlight,
                DONE => Progress::Done,
                _ => Progress::InDoubt,
            },
        });
        let found = Found {
            seen,
            entry,
            older_in_flight: self.older_in_flight(&asked.scope, request.fence)?,
            full: request.key.is_some() && self.full()?,
        };
        let decision = decide(&found, request.fence, in_doubt);
        if decision.has_seen() && seen != Some(request.fence) {
            let see = "INSERT INTO scopes VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET fence = excluded.fence";
            self.execute(see, params![asked.scope, number(request.fence)])?;
        }
        match decision {
            Decision::Replay => {
                let stored = row.and_then(|row| row.answer).and_then(Answer::decode);
                return Ok(Answered::Replay(stored.unwrap_or_else(Answer::lost)));
            }
            Decision::Admit => self.admit(asked)?,
            _ => {}
        }
        Ok(Answered::Decided(decision))
    }

    fn seen(&self, scope: &str) -> rusqlite::Result<Option<Fence>> {
        let mut statement = self.transaction.prepare_cached("SELECT fence FROM scopes WHERE name = ?1")?;
        let fence: Option<i64> = statement.query_row([scope], |row| row.get(0)).optional()?;
        Ok(fence.and_then(|fence| u64::try_from(fence).ok()).and_then(Fence::new))
    }

    fn row(&self, scope: &str, key: &str) -> rusqlite::Result<Option<Row>> {
        let text = "SELECT digest, progress, guard, expires, answer FROM entries WHERE scope = ?1 AND key = ?2";
        let row = self.transaction.prepare_cached(text)?.query_row([scope, key], |row| {
            let (digest, progress, guard) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Row { digest, progress, guard, expires: row.get(3)?, answer: row.get(4)? })
        });
        Ok(row.optional()?.filter(|row| row.progress == IN_FLIGHT || row.expires > self.now.as_millis()))
    }

    fn older_in_flight(&self, scope: &str, fence: Fence) -> rusqlite::Result<bool> {
        let text = "SELECT DISTINCT guard FROM entries WHERE scope = ?1 AND progress = 0 AND fence < ?2";
        let mut statement = self.transaction.prepare_cached(text)?;
        let mut guards = statement.query_map(params![scope, number(fence)], |row| row.get::<_, String>(0))?;
        let living = guards.find_map(|guard| match guard {
            Ok(guard) => self.life.lasts(&guard).then_some(Ok(true)),
            Err(error) => Some(Err(error)),
        });
        living.unwrap_or(Ok(false))
    }

    fn admit(&self, asked: &Asked) -> rusqlite::Result<()> {
        let request = &asked.request;
        if let Some(key) = &request.key {
            self.execute("DELETE FROM entries WHERE scope = ?1 AND key = ?2", [&asked.scope, key])?;
        }
        let size = KEY_OVERHEAD + (asked.scope.len() + request.key.as_ref().map_or(0, String::len)) as u64;
        let insert = "INSERT INTO entries (id, scope, key, fence, digest, progress, guard, expires, size) \
                      VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8)";
        let expires = self.now.plus(self.bounds.keep).as_millis();
        let (id, fence, digest) = (asked.id.as_bytes(), number(request.fence), request.digest.as_bytes());
        self.execute(
            insert,
            params![id, asked.scope, request.key, fence, digest, self.life.name, expires, size.cast_signed()],
        )
    }

    fn end(&self, id: Uuid, end: &End) -> rusqlite::Result<()> {
        let id = id.as_bytes();
        let expires = self.now.plus(self.bounds.keep).as_millis();
        self.execute("DELETE FROM entries WHERE id = ?1 AND key IS NULL", [id])?;
        match end {
            End::Again => self.execute("DELETE FROM entries WHERE id = ?1 AND progress <> 1", [id]),
            End::Unknown => {
                let doubt = "UPDATE entries SET progress = ?2, expires = ?3 WHERE id = ?1 AND progress = 0";
                self.execute(doubt, params![id, IN_DOUBT, expires])
            }
            End::Done(answer) => {
                let answer = answer.encode();
                let done = "UPDATE entries SET progress = ?2, expires = ?3, answer = ?4, size = size + ?5 \
                            WHERE id = ?1 AND progress <> 1";
                self.execute(done, params![id, DONE, expires, answer, answer.len().cast_signed() as i64])
            }
        }
    }

    fn sweep(&self) -> rusqlite::Result<()> {
        let expired = "DELETE FROM entries WHERE nth IN \
                       (SELECT nth FROM entries WHERE progress <> 0 AND expires <= ?1 LIMIT ?2)";
        self.execute(expired, params![self.now.as_millis(), (SWEEP * BATCH).cast_signed() as i64])
    }

    fn full(&self) -> rusqlite::Result<bool> {
        let mut statement = self.transaction.prepare_cached("SELECT keys, bytes FROM totals")?;
        let (keys, bytes) = statement.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        Ok(self.bounds.full(keys.cast_unsigned(), bytes.cast_unsigned()))
    }

    fn count(&self, statement: &str) -> rusqlite::Result<u64> {
        self.transaction.prepare_cached(statement)?.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    }

    fn execute(&self, statement: &str, values: impl rusqlite::Params) -> rusqlite::Result<()> {
        self.transaction.prepare_cached(statement)?.execute(values).map(|_| ())
    }
}

/// A fence as a column holds it.
fn number(fence: Fence) -> i64 {
    i64::try_from(fence.get()).unwrap_or(i64::MAX)
}
