//! The thread that reads: ranges, and the watches.
//!
//! While a watch is open the reader asks SQLite whether another connection, of this process or of another, has committed
//! (`PRAGMA data_version`, some microseconds): at once when a writer announces a commit (`sqlite/announce.rs`), and now
//! and then without an announcement. Where announcements do not arrive, or a writer makes none (an older fencron, a
//! hand), the reader asks every [`POLL`]. When the next lease is due, it has the writer end it, so that leases end
//! without traffic.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::announce::{Bell, Subscription};
use super::contents::Contents;
use super::file::{Failure, File};
use super::writer::{Request, ToWriter, Write};
use crate::store::watching::{Progress, Watching};
use crate::store::{Page, Range, StoreError};
use crate::time::{Boot, Clock};

/// How often a reader with an open watch looks for what other processes have committed, if it is not notified.
const POLL: Duration = Duration::from_millis(20);

/// How long the announcement of a commit may take on a busy machine: until then, one that was found is not doubted.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(1);

/// How long a reader goes on polling after a commit that was not announced: its writer may make more.
const DOUBT_FOR: Duration = Duration::from_secs(60);

/// The least time that a reader waits for the instant at which a lease is due.
const LEAST_WAIT: Duration = Duration::from_millis(1);

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
    /// A writer has committed, of this process or of another.
    Changed,
    Stop,
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
    pub(super) bell: Bell,
    pub(super) listening: Listening,
    pub(super) watches: Watches,
}

/// How the reader learns of the commits of other processes.
pub(super) struct Listening {
    /// The database, while it was not listened to yet.
    database: Option<PathBuf>,
    subscription: Option<Subscription>,
    /// How often the reader looks while it is notified.
    look_every: Duration,
    /// When a commit was found that was not announced. Its announcement may be on its way.
    suspects: Option<Boot>,
    /// Until when commits may be made that are not announced.
    doubted_until: Boot,
}

/// The open watches and what is known for them.
#[derive(Default)]
pub(super) struct Watches {
    open: VecDeque<Watching>,
    /// SQLite's count of others' commits when the watches were last served; `None`: serve them in any case.
    served: Option<i64>,
    next_deadline: Option<Boot>,
    expire_asked: Option<Boot>,
}

impl Reader {
    pub(super) fn run(mut self) {
        loop {
            let request = match self.pause() {
                None => self.requests.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(pause) => self.requests.recv_timeout(pause),
            };
            let is_unasked = matches!(request, Err(mpsc::RecvTimeoutError::Timeout));
            match request {
                Ok(ToReader::Range(question)) => self.answer(question),
                Ok(ToReader::Watch(watching)) => {
                    self.listening.listen(&self.bell);
                    self.bell.listen();
                    self.watches.open.push_back(watching);
                    self.watches.served = None;
                }
                Ok(ToReader::Changed) if self.watches.open.is_empty() => {}
                Ok(ToReader::Changed) => {
                    self.bell.listen();
                    self.listening.suspects = None;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Ok(ToReader::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if !self.watches.open.is_empty()
                && let Err(failure) = self.serve_watches(is_unasked)
            {
                // They end: their callers ask the store, and get its error.
                tracing::warn!(store.path = %self.file.path().display(), error = ?failure, "watches ended");
                self.watches = Watches::default();
            }
        }
    }

    /// How long to wait for a request before the next look. `None`: there is no watch.
    fn pause(&self) -> Option<Duration> {
        if self.watches.open.is_empty() {
            return None;
        }
        let now = self.clock.boot();
        // A watch that had no room is served when it may have some.
        let look_every = self.watches.served.map_or(POLL, |_| self.listening.look_every(now));
        let due = match self.watches.expire_asked {
            Some(asked) => Some(asked.plus(EXPIRE_AGAIN)),
            None => self.watches.next_deadline,
        };
        Some(due.map_or(look_every, |due| look_every.min(due.since(now).max(LEAST_WAIT))))
    }

    fn answer(&self, question: Question) {
        let answer = self.read(&question).map_err(|failure| match failure {
            Failure::Answer(error) => error,
            Failure::Sqlite(error) => self.file.explain(&error),
        });
        // The caller may have gone.
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

    /// `is_unasked`: no writer and no other process gave occasion to look.
    fn serve_watches(&mut self, is_unasked: bool) -> Result<(), Failure> {
        let version: i64 = self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        self.watches.open.retain(|watching| !watching.reports.is_closed());
        if is_unasked {
            let is_found = self.watches.served.is_some_and(|served| served != version);
            self.listening.looked(is_found, self.clock.boot());
        }
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
            match report(&mut watching, &contents)? {
                Progress::Reported => self.watches.open.push_back(watching),
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

impl Listening {
    /// `database`: whose commits to listen to; `None`: nothing is listened to.
    pub(super) fn new(database: Option<PathBuf>, look_every: Duration) -> Listening {
        Listening { database, subscription: None, look_every, suspects: None, doubted_until: Boot::default() }
    }

    /// Has `bell` rung from now on when another process commits, where the kernel can do that.
    fn listen(&mut self, bell: &Bell) {
        let Some(database) = self.database.take() else { return };
        /// It was said that the kernel cannot.
        static REPORTED: AtomicBool = AtomicBool::new(false);
        match Subscription::to(&database, bell.clone()) {
            Ok(subscription) => self.subscription = Some(subscription),
            Err(error) if !REPORTED.swap(true, Ordering::Relaxed) => tracing::warn!(
                %error,
                store.path = %database.display(),
                "the kernel does not report changes of files to this process (inotify), so SQLite stores are looked at \
                 every {POLL:?}; where a limit is reached, raise fs.inotify.max_user_instances or max_user_watches"
            ),
            Err(error) => tracing::debug!(%error, store.path = %database.display(), "looking every {POLL:?}"),
        }
    }

    fn look_every(&self, now: Boot) -> Duration {
        let is_listening = self.subscription.as_ref().is_some_and(Subscription::is_listening);
        let relies = is_listening && self.suspects.is_none() && now >= self.doubted_until;
        if relies { self.look_every } else { POLL }
    }

    /// Nothing had given occasion to look; `is_found`: there was a commit all the same.
    fn looked(&mut self, is_found: bool, now: Boot) {
        match self.suspects {
            Some(since) if now.since(since) >= ANNOUNCED_WITHIN => {
                if self.subscription.is_some() && now >= self.doubted_until {
                    tracing::debug!(
                        "a commit to the SQLite store was not announced: looking every {POLL:?} for a while"
                    );
                }
                self.doubted_until = now.plus(DOUBT_FOR);
                self.suspects = None;
            }
            Some(_) => {}
            None => self.suspects = is_found.then_some(now),
        }
    }
}

/// Sends one watch what is new to it.
fn report(watching: &mut Watching, contents: &Contents<'_>) -> Result<Progress, Failure> {
    loop {
        if let Some(held_up) = watching.is_held_up() {
            return Ok(held_up);
        }
        if let Some(progress) = watching.report(contents.changes(&watching.keys, watching.from)?) {
            return Ok(progress);
        }
    }
}
