//! Whole outputs: all that an attempt writes, in a file.
//!
//! Disks stand still and become full, and neither may stop a run. So files are made, written and deleted by threads that do
//! nothing else, as many as [`DISKS`]. The reader of a command's output waits until a piece is written before it takes the
//! next from the pipe, so that at most one piece is lost with a node that is killed; the supervisor goes on with the
//! file then. A disk that does not answer within [`WRITTEN_WITHIN`] is given up for that attempt, and a full one too: the
//! log says so, and the run goes on.

mod place;

use std::fs::File;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub use self::place::Place;
use crate::fence::Stamp;
use crate::job::{JobName, KeepOutputs, WholeOutput};
use crate::time::{Clock, written};

/// How many threads write: the directories of a node are spread over them, so that one that does not answer holds up few
/// others.
const DISKS: usize = 8;

/// How long the start of a command waits for its file.
const MADE_WITHIN: Duration = Duration::from_secs(2);

/// How long a command is held up by a disk that does not answer, once.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// How long a reader waits for a disk.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// How many readers of this process may wait for disks at once: others use the threads of the runtime as well.
const READERS: usize = 16;

/// How long a sweep waits for a disk.
const SWEPT_WITHIN: Duration = Duration::from_secs(600);

/// How many jobs one sweep of a directory visits.
const SLICE: usize = 200;

type Order = Box<dyn FnOnce() + Send>;

/// What writes whole outputs. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Wholes(Arc<[OnceLock<Disk>; DISKS]>);

/// A thread that waits for disks, so that no other has to. It ends with the last of these.
#[derive(Clone, Debug)]
struct Disk {
    orders: mpsc::Sender<Order>,
    /// How many orders it has done.
    done: Arc<AtomicU64>,
    /// How many it had done, and one more, when it was last given up; 0: it never was.
    given_up: Arc<AtomicU64>,
}

/// Why a disk did not do what it was asked to.
#[derive(Debug)]
struct Silent(Duration);

impl Disk {
    fn start() -> io::Result<Disk> {
        let (orders, inbox) = mpsc::channel::<Order>();
        let done = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&done);
        thread::Builder::new().name("fencron-output".into()).spawn(move || {
            while let Ok(order) = inbox.recv() {
                order();
                counted.fetch_add(1, Ordering::SeqCst);
            }
        })?;
        Ok(Disk { orders, done, given_up: Arc::default() })
    }

    /// Has something done, and waits for its answer for so long; not at all while it owes one that was given up.
    async fn ask<T: Send + 'static>(
        &self,
        within: Duration,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Silent> {
        if self.given_up.load(Ordering::SeqCst) == self.done.load(Ordering::SeqCst) + 1 {
            return Err(Silent(Duration::ZERO));
        }
        let (answer, answered) = oneshot::channel();
        // The asker may have stopped waiting.
        let sent = self.orders.send(Box::new(move || drop(answer.send(what()))));
        sent.map_err(|_| Silent(Duration::ZERO))?;
        match timeout(within, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => {
                self.given_up.store(self.done.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
                Err(Silent(within))
            }
        }
    }
}

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Silent(Duration::ZERO) => f.write_str("its disk does not answer"),
            Silent(within) => write!(f, "its disk has not answered within {}", written(*within)),
        }
    }
}

impl Place {
    /// Reads at most `most` bytes of the file from `offset` on, and how many bytes it has; `None`: it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be read, or its disk does not answer for a while.
    pub async fn read_soon(&self, offset: u64, most: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
        static ROOM: Semaphore = Semaphore::const_new(READERS);
        let place = self.clone();
        soon(&ROOM, READ_WITHIN, move || place.read(offset, most)).await
    }
}

/// Does something that may wait for a disk, in a thread of the runtime. It keeps its room until it has been done, however
/// long that takes, so that a disk that does not answer holds up only so many.
async fn soon<T: Send + 'static>(
    room: &'static Semaphore,
    within: Duration,
    what: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = async {
        let permit = room.acquire().await.expect("it is never closed");
        spawn_blocking(move || {
            let _permit = permit;
            what()
        })
        .await
    };
    match timeout(within, done).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "its disk does not answer")),
    }
}

impl Wholes {
    fn disk(&self, dir: &Path) -> io::Result<Disk> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(dir);
        let at = usize::try_from(hash % DISKS as u64).expect("it is less than their number");
        if let Some(disk) = self.0[at].get() {
            return Ok(disk.clone());
        }
        let disk = Disk::start()?;
        Ok(self.0[at].get_or_init(|| disk).clone())
    }

    /// Makes the file of an attempt. `None`: it cannot be made, and the log says why.
    pub(super) async fn begin(&self, whole: &WholeOutput, stamp: &Stamp, clock: &Clock) -> Option<Whole> {
        let run = stamp.run_id.parse().ok()?;
        let place = Place::of(whole, &stamp.namespace, &run, stamp.attempt);
        let making = place.clone();
        let make = move || {
            let file = making.create()?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let made: Result<(Disk, File, u64), String> = async {
            let disk = self.disk(Path::new(whole.dir.expose())).map_err(|error| error.to_string())?;
            let made: io::Result<(File, u64)> =
                disk.ask(MADE_WITHIN, make).await.map_err(|silent| silent.to_string())?;
            let (file, size) = made.map_err(|error| error.to_string())?;
            Ok((disk, file, size))
        }
        .await;
        match made {
            Ok((disk, file, size)) => {
                let (file, clock) = (Arc::new(file), clock.clone());
                let (most, keep, left) = (whole.max_bytes, whole.keep, whole.max_bytes.saturating_sub(size));
                let dir = PathBuf::from(whole.dir.expose());
                Some(Whole {
                    place,
                    dir,
                    file,
                    disk,
                    clock,
                    keep,
                    most,
                    left,
                    pending: Vec::new(),
                    is_open: true,
                    stamp: stamp.clone(),
                })
            }
            Err(why) => {
                // The path may have a secret in it.
                tracing::error!(
                    job = stamp.job, run_id = stamp.run_id, file = %whole.dir,
                    "the whole output of this run is not kept: no file can be made below `output.dir`: {why}"
                );
                None
            }
        }
    }

    /// Deletes what is beyond the bounds of some jobs below `dir`, those after `after`, whether or not they have runs.
    /// Answers the last that it looked at; `None`: it has come to the end.
    pub async fn sweep(
        &self,
        dir: &Path,
        namespace: &str,
        keep_of: impl Fn(&JobName) -> KeepOutputs + Send + 'static,
        after: Option<JobName>,
        clock: &Clock,
    ) -> Option<JobName> {
        let (below, namespace, now) = (dir.to_owned(), namespace.to_owned(), clock.wall());
        let sweep = move || {
            let jobs = place::jobs(&below, &namespace)?;
            let next: Vec<JobName> =
                jobs.into_iter().filter(|job| after.as_ref().is_none_or(|after| job > after)).take(SLICE).collect();
            for job in &next {
                place::prune(&below, &namespace, job, keep_of(job), now)?;
            }
            io::Result::Ok(next.last().filter(|_| next.len() == SLICE).cloned())
        };
        let asked = match self.disk(dir) {
            Ok(disk) => disk.ask(SWEPT_WITHIN, sweep).await.map_err(|silent| silent.to_string()),
            Err(error) => Err(error.to_string()),
        };
        asked.and_then(|swept| swept.map_err(|error| error.to_string())).unwrap_or_else(|why| {
            tracing::warn!(why, "old outputs of runs cannot be deleted");
            None
        })
    }
}

/// The file of an attempt that is being made.
#[derive(Debug)]
pub(super) struct Whole {
    place: Place,
    dir: PathBuf,
    file: Arc<File>,
    disk: Disk,
    clock: Clock,
    keep: KeepOutputs,
    most: u64,
    /// How much more it may hold.
    left: u64,
    /// What has to be written next.
    pending: Vec<u8>,
    /// Whether it is still written to.
    is_open: bool,
    stamp: Stamp,
}

impl Whole {
    /// The open file, and how large it may become: for the supervisor, which goes on with it when this process cannot.
    pub fn share(&self) -> io::Result<(OwnedFd, u64)> {
        Ok((self.file.as_fd().try_clone_to_owned()?, self.most))
    }

    /// Takes what has to be written next.
    pub fn take(&mut self, piece: &[u8]) {
        if !self.is_open {
            return;
        }
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
        self.pending.extend_from_slice(&piece[..room]);
        self.left -= room as u64;
        if room < piece.len() {
            tracing::warn!(
                job = self.stamp.job,
                run_id = self.stamp.run_id,
                max_bytes = self.most,
                "the file of the whole output is full: what comes beyond is not in it; raise `output.max_bytes`"
            );
            self.is_open = false;
        }
    }

    /// Waits until what was taken is written, for a while. Cancel safe: what was begun is written all the same.
    pub async fn settle(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let (file, bytes) = (Arc::clone(&self.file), std::mem::take(&mut self.pending));
        let why = match self.disk.ask(WRITTEN_WITHIN, move || (&*file).write_all(&bytes)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(silent) => silent.to_string(),
        };
        self.is_open = false;
        tracing::error!(
            job = self.stamp.job,
            run_id = self.stamp.run_id,
            "the rest of the output of this run is not kept in its file: {why}; the run goes on. Make room below \
             `output.dir`, or keep less with `output.keep`"
        );
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let (dir, namespace, job) =
            (std::mem::take(&mut self.dir), self.stamp.namespace.clone(), self.place.run().job());
        let (keep, now, file) = (self.keep, self.clock.wall(), Arc::clone(&self.file));
        let prune = move || {
            drop(file);
            if let Err(error) = place::prune(&dir, &namespace, &job, keep, now) {
                tracing::warn!(%job, %error, "old outputs of this job cannot be deleted");
            }
        };
        // Where the thread is gone, the process ends.
        self.disk.orders.send(Box::new(prune)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_was_given_up_is_asked_again_once_it_has_answered() {
        let disk = Disk::start().unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let silent = disk.ask(Duration::from_millis(1), move || wait.recv().is_ok()).await;
        assert!(silent.is_err());
        let asked = disk.ask(Duration::from_secs(60), || ()).await;
        assert!(matches!(asked, Err(Silent(Duration::ZERO))), "nothing waits for it a second time");
        go.send(()).unwrap();
        while disk.done.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        disk.ask(Duration::from_secs(60), || ()).await.unwrap();
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_holds_up_only_so_many_readers() {
        static ROOM: Semaphore = Semaphore::const_new(1);
        let (go, wait) = mpsc::channel::<()>();
        let silent = soon(&ROOM, Duration::from_millis(1), move || Ok(wait.recv().is_ok())).await;
        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // It has its room still: the next one does not begin.
        let next = soon(&ROOM, Duration::from_millis(1), || -> io::Result<()> { panic!("it has no room") }).await;
        assert_eq!(next.unwrap_err().kind(), io::ErrorKind::TimedOut);
        go.send(()).unwrap();
        soon(&ROOM, Duration::from_secs(60), || Ok(())).await.unwrap();
    }
}
