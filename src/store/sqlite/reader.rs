//! The thread that reads: ranges, and the watches.
//!
//! While a watch is open it asks SQLite every [`POLL`] whether another connection, of this process or of another, has
//! committed (`PRAGMA data_version`, some microseconds); the writer of its own process tells it at once. The same beat
//! makes leases end without traffic.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, mpsc as reports, oneshot};

use super::contents::{Contents, Next};
use super::file::{Failure, File};
use super::writer::{Request, ToWriter, Write};
use crate::store::{Keys, Page, Range, Revision, StoreError, Watched};
use crate::time::{Boot, Clock};

/// How often an open watch looks for what other processes have committed.
const POLL: Duration = Duration::from_millis(20);

/// How long the writer has to end the leases whose time is up before it is asked again.
const EXPIRE_AGAIN: Duration = Duration::from_secs(1);

/// What a range is answered with.
pub(super) enum Read {
    Page(Page),
    /// A lease's time is up, and its keys are still there: have the writer end it, and ask again.
    LeaseDue,
}

pub(super) struct Question {
    pub(super) range: Range,
    /// Read what there is, though a lease's time may just have come.
    pub(super) as_it_is: bool,
    pub(super) reply: oneshot::Sender<Result<Read, StoreError>>,
    pub(super) permit: OwnedSemaphorePermit,
}

pub(super) enum ToReader {
    Range(Question),
    Watch(Watching),
    /// The writer has committed.
    Changed,
    Stop,
}

/// An open watch.
pub(super) struct Watching {
    pub(super) keys: Keys,
    pub(super) from: Revision,
    pub(super) reports: reports::Sender<Watched>,
}

/// What the thread owns.
pub(super) struct Reader {
    pub(super) file: File,
    /// Whose boot clock the leases are measured by.
    pub(super) boot: Arc<str>,
    pub(super) connection: Connection,
    pub(super) clock: Clock,
    pub(super) requests: mpsc::Receiver<ToReader>,
    pub(super) writer: mpsc::Sender<ToWriter>,
    pub(super) told: Arc<AtomicBool>,
    pub(super) watches: Watches,
}

/// The open watches and what is known for them.
#[derive(Default)]
pub(super) struct Watches {
    open: VecDeque<Watching>,
    /// SQLite's count of others' commits when the watches were last served; `None`: serve them whatever it says.
    served: Option<i64>,
    next_deadline: Option<Boot>,
    expire_asked: Option<Boot>,
}

impl Reader {
    pub(super) fn run(mut self) {
        loop {
            let request = if self.watches.open.is_empty() {
                self.requests.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                self.requests.recv_timeout(POLL)
            };
            match request {
                Ok(ToReader::Range(question)) => self.answer(question),
                Ok(ToReader::Watch(watching)) => {
                    self.watches.open.push_back(watching);
                    self.watches.served = None;
                }
                Ok(ToReader::Changed) => self.told.store(false, Ordering::Release),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Ok(ToReader::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if !self.watches.open.is_empty()
                && let Err(failure) = self.serve_watches()
            {
                // They end: whoever watches asks the store, and hears what is wrong with it.
                tracing::warn!(store.path = %self.file.path().display(), error = ?failure, "watches ended");
                self.watches = Watches::default();
            }
        }
    }

    fn answer(&self, question: Question) {
        let answer = self.read(&question).map_err(|failure| match failure {
            Failure::Answer(error) => error,
            Failure::Sqlite(error) => self.file.explain(&error),
        });
        // Whoever asked may have gone.
        drop(question.reply.send(answer));
        drop(question.permit);
    }

    fn read(&self, question: &Question) -> Result<Read, Failure> {
        let snapshot = self.connection.unchecked_transaction()?;
        let contents = Contents::load(&snapshot, &self.file, &self.boot, self.clock.boot())?;
        if !question.as_it_is && contents.is_due()? {
            return Ok(Read::LeaseDue);
        }
        contents.range(&question.range).map(Read::Page)
    }

    fn serve_watches(&mut self) -> Result<(), Failure> {
        let version: i64 = self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        self.watches.open.retain(|watching| !watching.reports.is_closed());
        if self.watches.served != Some(version) {
            let all_told = self.report()?;
            self.watches.served = all_told.then_some(version);
        }
        self.expire_due();
        Ok(())
    }

    /// Sends every watch what is new to it. `false`: one has no room for it now.
    fn report(&mut self) -> Result<bool, Failure> {
        let snapshot = self.connection.unchecked_transaction()?;
        let contents = Contents::load(&snapshot, &self.file, &self.boot, self.clock.boot())?;
        self.watches.next_deadline = contents.next_deadline()?;
        let mut all_told = true;
        for _ in 0..self.watches.open.len() {
            let mut watching = self.watches.open.pop_front().expect("as many as were counted");
            match watching.report(&contents)? {
                Progress::Told => self.watches.open.push_back(watching),
                Progress::Full => {
                    all_told = false;
                    self.watches.open.push_back(watching);
                }
                Progress::Ended => {}
            }
        }
        Ok(all_told)
    }

    /// Has the writer end the leases whose time is up.
    fn expire_due(&mut self) {
        let now = self.clock.boot();
        let due = self.watches.next_deadline.is_some_and(|deadline| deadline <= now);
        let asked = self.watches.expire_asked.is_some_and(|asked| now.since(asked) < EXPIRE_AGAIN);
        if !due {
            self.watches.expire_asked = None;
        } else if !asked {
            self.watches.expire_asked = Some(now);
            let request = Request { write: Write::Expire, reply: None, permit: None };
            if self.writer.send(ToWriter::Request(request)).is_err() {
                tracing::debug!("the store's writer has stopped");
            }
        }
    }
}

enum Progress {
    Told,
    Full,
    Ended,
}

impl Watching {
    fn report(&mut self, contents: &Contents<'_>) -> Result<Progress, Failure> {
        loop {
            let slot = match self.reports.try_reserve() {
                Ok(slot) => slot,
                Err(reports::error::TrySendError::Full(())) => return Ok(Progress::Full),
                Err(reports::error::TrySendError::Closed(())) => return Ok(Progress::Ended),
            };
            match contents.changes(&self.keys, self.from)? {
                Next::Compacted(revision) => {
                    slot.send(Watched::Compacted(revision));
                    return Ok(Progress::Ended);
                }
                Next::Changes(changes, next) => {
                    self.from = next;
                    if changes.is_empty() {
                        return Ok(Progress::Told);
                    }
                    slot.send(Watched::Changes(changes));
                }
            }
        }
    }
}
