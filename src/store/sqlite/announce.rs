//! How a process learns at once that another one has committed to the same file.
//!
//! SQLite does not notify other processes. The kernel reports writes to the write-ahead log (inotify), but reports them
//! before the commit can be seen: SQLite publishes a commit through shared memory, after the log has been synced. So
//! the writer sets the database's times when it has committed ([`announce`]), which is an event of its own
//! (`IN_ATTRIB`), and listeners take that event alone. (Setting the log's times would make its next sync dearer: a sync
//! writes them down.) The directory is watched, since a watch of the file would end where the file is replaced.
//!
//! A process has one inotify instance and one thread for all its stores, since the kernel allows a user only some 128
//! instances. An announcement is a hint, as a watch is: the reader looks now and then without one (`sqlite/reader.rs`).

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::reader::ToReader;

#[cfg(target_os = "linux")]
use linux as kernel;
#[cfg(not(target_os = "linux"))]
use other as kernel;

pub(super) use kernel::Subscription;

/// Wakes the reader of one store, because something was committed that the reader may not have seen.
#[derive(Clone)]
pub(super) struct Bell {
    /// It was rung and the reader has not looked since, or the reader serves no watch: ringing would wake it for nothing.
    rung: Arc<AtomicBool>,
    reader: mpsc::Sender<ToReader>,
}

impl Bell {
    pub(super) fn new(reader: mpsc::Sender<ToReader>) -> Bell {
        Bell { rung: Arc::new(AtomicBool::new(true)), reader }
    }

    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) && self.reader.send(ToReader::Changed).is_err() {
            tracing::debug!("the store's reader has stopped");
        }
    }

    /// Has the bell rung at the next commit. The reader calls this before it looks for its watches, so that no later commit
    /// goes unnoticed.
    pub(super) fn listen(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }
}

/// Notifies the processes that listen of a commit. It opens nothing: a process that closes any descriptor of the file
/// loses SQLite's locks on it.
pub(super) fn announce(database: &Path) {
    // The mode that a writer needs is enough for the present time, which is why both times are set.
    let now = TimeSpec::UTIME_NOW;
    if let Err(error) = utimensat(AT_FDCWD, database, &now, &now, UtimensatFlags::FollowSymlink) {
        tracing::debug!(%error, path = %database.display(), "other processes notice a commit later");
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread;
    use std::time::Duration;

    use nix::errno::Errno;
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

    use super::*;

    /// How long the thread pauses after it has passed on what was announced. What is announced meanwhile the kernel
    /// makes one event of: a store that is written to all the time wakes no process more often than this.
    const PAUSE: Duration = Duration::from_millis(1);

    /// The listening thread's, one for the process. `None`: nothing has listened yet.
    static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

    /// Numbers subscriptions, also past the end of a listener: one that was to an earlier listener is none of the next.
    static SUBSCRIPTIONS: AtomicU64 = AtomicU64::new(0);

    struct Listener {
        inotify: Arc<Inotify>,
        /// By the number of their subscription.
        subscribers: BTreeMap<u64, Subscriber>,
    }

    struct Subscriber {
        directory: WatchDescriptor,
        database: OsString,
        bell: Bell,
        /// No more events will come of the directory.
        is_deaf: Arc<AtomicBool>,
    }

    fn listener() -> MutexGuard<'static, Option<Listener>> {
        LISTENER.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a bell rung at every announcement, until it is dropped.
    pub(in crate::store::sqlite) struct Subscription {
        number: u64,
        is_deaf: Arc<AtomicBool>,
    }

    impl Subscription {
        /// Rings `bell` whenever a commit to this database is announced.
        ///
        /// # Errors
        ///
        /// Where the kernel has no inotify, or no instance or watch left for this user.
        pub(in crate::store::sqlite) fn to(database: &Path, bell: Bell) -> Result<Subscription, Errno> {
            let (Some(directory), Some(name)) = (database.parent(), database.file_name()) else {
                return Err(Errno::EINVAL);
            };
            let mut listener = listener();
            let listener = match &mut *listener {
                Some(listener) => listener,
                none => none.insert(Listener::start()?),
            };
            let flags = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_ONLYDIR;
            let directory = listener.inotify.add_watch(directory, flags)?;
            let number = SUBSCRIPTIONS.fetch_add(1, Ordering::Relaxed);
            let is_deaf = Arc::<AtomicBool>::default();
            let subscriber = Subscriber { directory, database: name.to_owned(), bell, is_deaf: Arc::clone(&is_deaf) };
            listener.subscribers.insert(number, subscriber);
            Ok(Subscription { number, is_deaf })
        }

        /// Whether announcements still arrive.
        pub(in crate::store::sqlite) fn is_listening(&self) -> bool {
            !self.is_deaf.load(Ordering::Acquire)
        }
    }

    impl Drop for Subscription {
        fn drop(&mut self) {
            let mut listener = listener();
            let Some(listener) = &mut *listener else { return };
            let Some(gone) = listener.subscribers.remove(&self.number) else { return };
            // One watch stands for all subscribers of a directory. The kernel may have removed it with the directory.
            if listener.subscribers.values().all(|one| one.directory != gone.directory)
                && let Err(error) = listener.inotify.rm_watch(gone.directory)
            {
                tracing::debug!(%error, "a watch of a directory had ended");
            }
        }
    }

    impl Listener {
        fn start() -> Result<Listener, Errno> {
            let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
            let events = Arc::clone(&inotify);
            let thread = thread::Builder::new().name("fencron-sqlite-events".to_owned());
            // It ends with the process.
            thread.spawn(move || listen(&events)).map_err(|_| Errno::EAGAIN)?;
            Ok(Listener { inotify, subscribers: BTreeMap::new() })
        }

        fn pass_on(&self, events: &[InotifyEvent]) {
            let overflowed = events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
            for subscriber in self.subscribers.values() {
                let mut of_directory = events.iter().filter(|event| event.wd == subscriber.directory).peekable();
                if of_directory.clone().any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED)) {
                    subscriber.is_deaf.store(true, Ordering::Release);
                    subscriber.bell.ring();
                } else if overflowed || of_directory.any(|event| event.name.as_ref() == Some(&subscriber.database)) {
                    subscriber.bell.ring();
                }
            }
        }

        fn fail(&self) {
            for subscriber in self.subscribers.values() {
                subscriber.is_deaf.store(true, Ordering::Release);
                subscriber.bell.ring();
            }
        }
    }

    fn listen(inotify: &Inotify) {
        loop {
            match inotify.read_events() {
                Ok(events) => listener().iter().for_each(|listener| listener.pass_on(&events)),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "SQLite stores look for commits of other processes at intervals from now on");
                    // The next store that listens begins again.
                    return listener().take().iter().for_each(Listener::fail);
                }
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Elsewhere there is no inotify.
#[cfg(not(target_os = "linux"))]
mod other {
    use nix::errno::Errno;

    use super::*;

    pub(in crate::store::sqlite) enum Subscription {}

    impl Subscription {
        pub(in crate::store::sqlite) fn to(_database: &Path, _bell: Bell) -> Result<Subscription, Errno> {
            Err(Errno::ENOSYS)
        }

        pub(in crate::store::sqlite) fn is_listening(&self) -> bool {
            match *self {}
        }
    }
}
