//! The thread that writes. It takes all waiting requests, evaluates them one after the other in one SQLite transaction,
//! and answers them when that is on disk: one sync for all (group commit).

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::announce::{Bell, announce};
use super::contents::Contents;
use super::file::{Failure, File};
use crate::store::{Committed, LeaseId, Revision, StoreError, Txn};
use crate::time::Clock;

/// The most requests in one SQLite transaction.
const BATCH: usize = 64;

/// What can be asked of the thread.
pub(super) enum Write {
    Grant(Duration),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    Commit(Txn),
    Compact(Revision),
    /// Ends the leases whose time is up, which every batch begins with.
    Expire,
}

/// What it answers.
pub(super) enum Written {
    Granted(LeaseId, Duration),
    KeptAlive(Duration),
    Committed(Committed),
    /// It is done, and there is nothing to say of it.
    Done,
}

/// The answers to the requests of a batch, in their order.
type Answers = Vec<Result<Written, StoreError>>;

pub(super) struct Request {
    pub(super) write: Write,
    /// `None`: no caller waits for the answer.
    pub(super) reply: Option<oneshot::Sender<Result<Written, StoreError>>>,
    /// Bounds how many requests wait.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

pub(super) enum ToWriter {
    Request(Request),
    Stop,
}

/// What the thread owns.
pub(super) struct Writer {
    pub(super) file: File,
    /// Whose boot clock the leases are measured by.
    pub(super) boot: Arc<str>,
    pub(super) connection: Connection,
    pub(super) clock: Clock,
    pub(super) requests: mpsc::Receiver<ToWriter>,
    /// The reader's, of this store.
    pub(super) bell: Bell,
    /// Notifies the readers of other stores on the file of a commit. `None`: they find out by themselves.
    pub(super) announces: Option<PathBuf>,
}

impl Writer {
    pub(super) fn run(self) {
        while let Ok(ToWriter::Request(first)) = self.requests.recv() {
            let mut batch = vec![first];
            let mut stop = false;
            while batch.len() < BATCH && !stop {
                match self.requests.try_recv() {
                    Ok(ToWriter::Request(request)) => batch.push(request),
                    Ok(ToWriter::Stop) => stop = true,
                    Err(_) => break,
                }
            }
            self.answer(batch);
            if stop {
                return;
            }
        }
    }

    fn answer(&self, mut batch: Vec<Request>) {
        // A caller that has stopped waiting got the error that the outcome is unknown: not applying it is the better of
        // the two.
        batch.retain(|request| request.reply.as_ref().is_none_or(|reply| !reply.is_closed()));
        let writes: Vec<&Write> = batch.iter().map(|request| &request.write).collect();
        let (answers, changed) = match self.transact(&writes) {
            Ok(done) => done,
            // It may stand all the same, where the commit failed.
            Err(error) => (batch.iter().map(|_| Err(error.clone())).collect(), true),
        };
        if changed {
            self.bell.ring();
            self.announces.iter().for_each(|database| announce(database));
        }
        for (request, answer) in batch.into_iter().zip(answers) {
            if let Some(reply) = request.reply {
                // The caller may have gone in the meantime, knowing that the outcome is unknown.
                drop(reply.send(answer));
            }
            drop(request.permit);
        }
    }

    /// Evaluates the requests in one SQLite transaction. An error is the answer to all of them: none was applied, or
    /// (if the commit itself failed) that is unknown.
    fn transact(&self, writes: &[&Write]) -> Result<(Answers, bool), StoreError> {
        let explain = |error: rusqlite::Error| self.file.explain(&error);
        self.file.check_in_place()?;
        self.roll_back();
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(explain)?;
        let evaluated = self.evaluate(writes);
        let outcome = match evaluated {
            Ok(done) => match self.connection.execute_batch("COMMIT") {
                Ok(()) => return Ok(done),
                Err(error) => self.file.explain_commit(&error),
            },
            Err(Failure::Answer(error)) => error,
            Err(Failure::Sqlite(error)) => self.file.explain(&error),
        };
        self.roll_back();
        Err(outcome)
    }

    /// Leaves no transaction open. Where that fails, the result of the requests is as before, and the next ones begin
    /// with it again.
    fn roll_back(&self) {
        // SQLite rolls back by itself after some errors, and refuses to do it again.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(store.path = %self.file.path().display(), %error, "cannot roll back, trying again later");
        }
    }

    /// The answers, and whether anything has changed.
    fn evaluate(&self, writes: &[&Write]) -> Result<(Answers, bool), Failure> {
        // The clock is read under the write lock: no later transaction can have an earlier instant.
        let mut contents = Contents::load(&self.connection, &self.file, &self.boot, self.clock.boot())?;
        contents.expire()?;
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            answers.push(match apply(&mut contents, write) {
                Ok(written) => Ok(written),
                Err(Failure::Answer(error)) => Err(error),
                Err(failure @ Failure::Sqlite(_)) => return Err(failure),
            });
        }
        Ok((answers, contents.save()?))
    }
}

fn apply(contents: &mut Contents<'_>, write: &Write) -> Result<Written, Failure> {
    match write {
        Write::Grant(ttl) => contents.grant(*ttl).map(|(lease, ttl)| Written::Granted(lease, ttl)),
        Write::KeepAlive(lease) => contents.keep_alive(*lease).map(Written::KeptAlive),
        Write::Revoke(lease) => contents.revoke(*lease).map(|()| Written::Done),
        Write::Commit(txn) => contents.commit(txn).map(Written::Committed),
        Write::Compact(revision) => {
            contents.compact(*revision);
            Ok(Written::Done)
        }
        Write::Expire => Ok(Written::Done),
    }
}
