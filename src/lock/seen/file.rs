//! What was seen of a store, in a file.
//!
//! On Windows, where a lock on a file keeps its own holder from reading it, writers take no turns: of two that save at the
//! same moment, one may be forgotten. Files there have the rights of their directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
#[cfg(unix)]
use std::fs::{Permissions, TryLockError};
use std::io::{self, Write};
#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Seen;
use crate::lock::keys::Namespace;

/// The version of the file.
const RECORD: u32 = 1;

/// How long a save waits for the save of another process. After that it is written all the same, since something else
/// holds the file: at worst, what another process adds at this very moment is forgotten.
#[cfg(unix)]
const LOCK_WITHIN: Duration = Duration::from_secs(5);
#[cfg(unix)]
const LOCK_EVERY: Duration = Duration::from_millis(10);

/// A file that was to replace the old one, and is so old, was left by a crash.
const LEFT_AFTER: Duration = Duration::from_secs(60);

/// How many entries of the directory are looked at for such files, and for memories of stores that are gone.
const SWEPT_MOST: usize = 10_000;

/// A memory that has not changed for so long is removed: a store in use adds to it all the time.
const KEPT_FOR: Duration = Duration::from_secs(400 * 24 * 3600);

/// How many memories a directory keeps: beyond that the oldest go, but none that was added to within [`YOUNG`].
const KEPT_MOST: usize = 1000;
const YOUNG: Duration = Duration::from_secs(30 * 24 * 3600);

/// Only for the user that runs the program, under any umask.
#[cfg(unix)]
const DIRECTORY_MODE: u32 = 0o700;
#[cfg(unix)]
const FILE_MODE: u32 = 0o600;

/// Where a node keeps what it has [`Seen`] across its restarts. Its calls block on the disk.
#[derive(Clone, Debug)]
pub struct SeenFile {
    path: PathBuf,
    /// Where earlier versions kept it; read where there is nothing at `path`.
    earlier: Vec<PathBuf>,
    /// What crashes have left was looked for.
    swept: Arc<AtomicBool>,
}

/// The file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeenFileError {
    #[error("cannot {what} {path}, which remembers the highest fence seen: {source}", path = path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path}, which remembers the highest fence seen, is damaged ({why}): delete it if you know that the store was \
         not restored from a backup; otherwise run `fencron fence repair` where the file of another node is whole",
        path = path.display()
    )]
    Damaged { path: PathBuf, why: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenRecord {
    v: u32,
    seen: Seen,
}

impl SeenFile {
    /// The file for one namespace of a store, in the directory `state`, which is created when first needed. `store`
    /// distinguishes the store from others; it is only hashed, since a URL may carry a password.
    pub fn new(state: &Path, store: &str, namespace: &Namespace) -> SeenFile {
        let path = state.join(file_name(store, namespace));
        SeenFile { path, earlier: Vec::new(), swept: Arc::default() }
    }

    /// Reads what was kept in `state` under `store` for as long as nothing is kept in this file.
    #[must_use]
    pub fn or_earlier(mut self, state: &Path, store: &str, namespace: &Namespace) -> SeenFile {
        self.earlier.push(state.join(file_name(store, namespace)));
        self
    }

    /// Where it is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved; nothing, where nothing ever was.
    pub fn load(&self) -> Result<Seen, SeenFileError> {
        for path in [&self.path].into_iter().chain(&self.earlier) {
            match fs::read(path) {
                Ok(text) => return parse(path, &text),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(SeenFileError::Io { what: "read", path: path.clone(), source: error }),
            }
        }
        Ok(Seen::default())
    }

    /// Adds `seen` to what was saved, by this node or by another that keeps its state here, so that a crash at any
    /// moment leaves the old file or the new one.
    pub fn save(&self, seen: &Seen) -> Result<(), SeenFileError> {
        let directory = self.path.parent().expect("the path was joined to a directory");
        make_private(directory).map_err(|error| self.failed("create the directory of", error))?;
        #[cfg(unix)]
        let opened = File::open(directory).map_err(|error| self.failed("open the directory of", error))?;
        // One at a time, whichever process they are of: what one adds must not be lost by another's replacing it.
        let alone = self.lock(&self.load()?).map_err(|error| self.failed("lock", error))?;
        if alone.is_none() {
            tracing::debug!(path = %self.path.display(), "another process keeps it locked: saving all the same");
        }
        let mut all = self.load()?;
        all.add(seen);
        self.put(&all, |beside| fs::rename(beside, &self.path)).map_err(|error| self.failed("replace", error))?;
        drop(alone);
        if !self.swept.swap(true, Ordering::Relaxed) {
            self.sweep(directory);
        }
        // The new name is only safe once the directory is.
        #[cfg(unix)]
        opened.sync_all().map_err(|error| self.failed("sync the directory of", error))?;
        Ok(())
    }

    /// Locks the file, which others replace by another one while it is waited for; made to hold `before` where there is
    /// none. `None`: it is held for too long.
    #[cfg(unix)]
    fn lock(&self, before: &Seen) -> io::Result<Option<File>> {
        let mut left = LOCK_WITHIN;
        loop {
            match File::open(&self.path) {
                Ok(file) => match file.try_lock() {
                    Ok(()) if is_still(&file, &self.path)? => return Ok(Some(file)),
                    Ok(()) | Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(_)) => return Ok(None),
                },
                Err(error) if is_absent(&error) => {
                    match self.put(before, |beside| first(beside, &self.path, hard_link)) {
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                        _ => {}
                    }
                }
                Err(error) => return Err(error),
            }
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(LOCK_EVERY.min(left));
            left = left.saturating_sub(LOCK_EVERY);
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as it is elsewhere")]
    fn lock(&self, _before: &Seen) -> io::Result<Option<File>> {
        Ok(None)
    }

    /// Writes it beside, and has that put in its place; nothing stays beside.
    fn put(&self, seen: &Seen, place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let text = serde_json::to_vec(&SeenRecord { v: RECORD, seen: *seen }).expect("numbers can be written");
        let beside = self.beside();
        let placed = write_through(&beside, &text).and_then(|()| place(&beside));
        match fs::remove_file(&beside) {
            Err(error) if !is_absent(&error) => placed.and(Err(error)),
            _ => placed,
        }
    }

    /// A name that no other writer uses.
    fn beside(&self) -> PathBuf {
        // A process number is the same for every process that is the first of a container.
        self.path.with_extension(format!("tmp-{}", Uuid::new_v4().simple()))
    }

    /// Removes the remains of writers that were killed, and the memories of stores that are not used any more: by the
    /// clock of the disk, by which this file was written just now.
    fn sweep(&self, directory: &Path) {
        let Ok(now) = fs::metadata(&self.path).and_then(|about| about.modified()) else { return };
        let stem = self.path.file_stem().map(|stem| format!("{}.tmp-", stem.to_string_lossy())).unwrap_or_default();
        let (mut left, mut memories) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(directory).into_iter().flatten().take(SWEPT_MOST).flatten() {
            let written = entry.metadata().and_then(|about| about.modified());
            let age = written.ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&stem) {
                left.push((age, entry.path()));
            } else if name.starts_with(MEMORY) && name.ends_with(".json") && entry.path() != self.path {
                memories.push((age, entry.path()));
            }
        }
        left.retain(|(age, _)| *age > LEFT_AFTER);
        memories.sort();
        let mut nth = 1..;
        memories.retain(|(age, _)| {
            let is_beyond = nth.next().is_some_and(|nth| nth >= KEPT_MOST);
            *age > KEPT_FOR || (is_beyond && *age > YOUNG)
        });
        for (_, path) in left.into_iter().chain(memories) {
            match fs::remove_file(&path) {
                Ok(()) => tracing::debug!(path = %path.display(), "removed a memory that was not used for long"),
                Err(error) => {
                    tracing::debug!(%error, path = %path.display(), "cannot remove a memory that is not used any more")
                }
            }
        }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> SeenFileError {
        SeenFileError::Io { what, path: self.path.clone(), source }
    }
}

/// What the names of all memories begin with.
const MEMORY: &str = "seen-";

fn file_name(store: &str, namespace: &Namespace) -> String {
    let hash = Sha256::digest(format!("{store}\n{namespace}"));
    let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MEMORY}{namespace}-{hash}.json")
}

fn parse(path: &Path, text: &[u8]) -> Result<Seen, SeenFileError> {
    let damaged = |why: String| SeenFileError::Damaged { path: path.to_owned(), why };
    let record: SeenRecord = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
    if record.v == RECORD { Ok(record.seen) } else { Err(damaged(format!("version {} is not known", record.v))) }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Creates the directory, where it is not there, for its owner alone. One that is there is left as it is.
fn make_private(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(DIRECTORY_MODE);
    builder.create(directory)?;
    #[cfg(unix)]
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))?;
    Ok(())
}

/// Gives the file `beside` its name, where none has it. A filesystem without hard links (CIFS, FAT, many of FUSE) moves it
/// there: at worst what another process adds at this very moment is forgotten.
#[cfg(unix)]
fn first(beside: &Path, path: &Path, link: impl Fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    match link(beside, path) {
        Err(error) if is_beyond_the_filesystem(&error) => fs::rename(beside, path),
        linked => linked,
    }
}

#[cfg(unix)]
fn hard_link(beside: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(beside, path)
}

#[cfg(unix)]
fn is_beyond_the_filesystem(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}

/// Whether this is the file that is found under that name.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> io::Result<bool> {
    let found = match fs::metadata(path) {
        Err(error) if is_absent(&error) => return Ok(false),
        found => found?,
    };
    let own = file.metadata()?;
    Ok((own.dev(), own.ino()) == (found.dev(), found.ino()))
}

fn write_through(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(FILE_MODE);
    let mut file = options.open(path)?;
    #[cfg(unix)]
    match file.set_permissions(Permissions::from_mode(FILE_MODE)) {
        Err(error) if !is_beyond_the_filesystem(&error) => return Err(error),
        _ => {}
    }
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;

    fn seen(base: u64, revision: u64, fence: u64) -> Seen {
        Seen { base, revision: Revision(revision), fence, ..Seen::default() }
    }

    fn shop() -> Namespace {
        Namespace::new("shop").unwrap()
    }

    #[test]
    fn that_a_store_went_back_is_remembered_until_it_is_repaired() {
        let state = tempfile::tempdir().unwrap();
        let file = SeenFile::new(state.path(), "memory:", &shop());
        file.save(&Seen { went_back: true, ..seen(0, 10, 5) }).unwrap();
        file.save(&seen(0, 11, 5)).unwrap();
        assert!(file.load().unwrap().went_back, "another node, which has not found out, changes nothing");
        file.save(&seen(1000, 3, 5)).unwrap();
        assert!(!file.load().unwrap().went_back);
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let state = tempfile::tempdir().unwrap();
        let file = SeenFile::new(&state.path().join("new"), "etcd://user:secret@host", &shop());
        assert_eq!(file.load().unwrap(), Seen::default());
        for seen in [seen(1, 2, 3), seen(4, 5, 6)] {
            file.save(&seen).unwrap();
            assert_eq!(file.load().unwrap(), seen);
        }
        let names: Vec<_> =
            fs::read_dir(state.path().join("new")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1, "nothing is left beside it: {names:?}");
    }

    #[test]
    fn what_several_save_at_once_is_all_kept() {
        let state = tempfile::tempdir().unwrap();
        let file = SeenFile::new(state.path(), "memory:", &shop());
        std::thread::scope(|scope| {
            for (first, file) in (1..=4).zip(std::iter::repeat(&file)) {
                scope.spawn(move || {
                    for step in 0..50 {
                        let number = first + 4 * step;
                        file.save(&seen(0, number, number)).unwrap();
                        assert!(file.load().unwrap().fence >= number, "forgotten");
                    }
                });
            }
        });
        assert_eq!(file.load().unwrap(), seen(0, 200, 200));
    }

    #[test]
    fn stores_and_namespaces_have_files_of_their_own() {
        let file =
            |url: &str, namespace: &str| SeenFile::new(Path::new("s"), url, &Namespace::new(namespace).unwrap()).path;
        assert_ne!(file("sqlite:a", "shop"), file("sqlite:b", "shop"));
        assert_ne!(file("sqlite:a", "shop"), file("sqlite:a", "bar"));
    }

    #[test]
    fn a_damaged_file_is_no_reason_to_trust() {
        let state = tempfile::tempdir().unwrap();
        let file = SeenFile::new(state.path(), "memory:", &shop());
        for text in ["", "{}", r#"{"v":2,"seen":{"base":0,"revision":0,"fence":0}}"#] {
            fs::write(&file.path, text).unwrap();
            assert!(matches!(file.load(), Err(SeenFileError::Damaged { .. })), "{text}");
        }
    }
    #[test]
    fn what_an_earlier_version_kept_elsewhere_is_read_until_something_is_kept_here() {
        let (state, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let earlier = SeenFile::new(old.path(), "sqlite:a", &shop());
        earlier.save(&seen(0, 24, 20)).unwrap();
        let file = SeenFile::new(state.path(), "sqlite:/b/a", &shop()).or_earlier(old.path(), "sqlite:a", &shop());
        assert_eq!(file.load().unwrap(), seen(0, 24, 20));
        file.save(&seen(0, 25, 0)).unwrap();
        earlier.save(&seen(0, 100, 100)).unwrap();
        assert_eq!(file.load().unwrap(), seen(0, 25, 20));
    }

    #[test]
    fn a_directory_or_a_file_that_somebody_else_keeps_locked_is_not_waited_for_without_end() {
        let state = tempfile::tempdir().unwrap();
        let file = SeenFile::new(state.path(), "memory:", &shop());
        file.save(&seen(0, 1, 1)).unwrap();
        let (directory, itself) = (File::open(state.path()).unwrap(), File::open(&file.path).unwrap());
        directory.lock().unwrap();
        itself.lock().unwrap();
        file.save(&seen(0, 2, 3)).unwrap();
        assert_eq!(file.load().unwrap(), seen(0, 2, 3));
    }

    #[test]
    fn what_a_crash_has_left_is_removed_and_what_is_being_written_is_not() {
        let state = tempfile::tempdir().unwrap();
        let file = SeenFile::new(state.path(), "memory:", &shop());
        let (left, fresh) = (file.path.with_extension("tmp-1-1"), file.path.with_extension("tmp-1-2"));
        let other = state.path().join("seen-bar-0.tmp-1-1");
        for path in [&left, &fresh, &other] {
            fs::write(path, "half").unwrap();
        }
        let long_ago = fs::metadata(&fresh).unwrap().modified().unwrap() - LEFT_AFTER * 2;
        for path in [&left, &other] {
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        file.save(&seen(0, 2, 3)).unwrap();
        assert!(!left.exists() && fresh.exists() && other.exists());
    }

    fn denied(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn a_filesystem_without_hard_links_moves_the_first_file_to_its_place() {
        let state = tempfile::tempdir().unwrap();
        let (beside, path) = (state.path().join("beside"), state.path().join("seen.json"));
        for (text, link) in
            [("1", denied as fn(&Path, &Path) -> _), ("2", |_, _| Err(io::ErrorKind::Unsupported.into()))]
        {
            fs::write(&beside, text).unwrap();
            first(&beside, &path, link).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        // Where there are links, what another process has put there first is left alone.
        fs::write(&beside, "3").unwrap();
        assert_eq!(first(&beside, &path, hard_link).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
    }

    /// Each of two containers has a process with the number 1, and they may share the directory.
    #[test]
    fn two_writers_with_one_process_number_write_beside_each_other() {
        let file = SeenFile::new(Path::new("s"), "memory:", &shop());
        assert_ne!(file.beside(), file.clone().beside());
    }

    /// Nothing can be linked to such a name, nor opened under it.
    #[test]
    fn a_name_that_can_be_neither_opened_nor_made_is_not_tried_for_ever() {
        let state = tempfile::tempdir().unwrap();
        let file = SeenFile::new(state.path(), "memory:", &shop());
        std::os::unix::fs::symlink("/nowhere/at/all", &file.path).unwrap();
        let (saved, ended) = std::sync::mpsc::channel();
        let saving = file.clone();
        std::thread::spawn(move || saved.send(saving.save(&seen(0, 2, 3)).is_ok()));
        assert_eq!(ended.recv_timeout(LOCK_WITHIN * 12), Ok(true), "it ends");
        assert_eq!(file.load().unwrap(), seen(0, 2, 3));
    }

    #[test]
    fn memories_of_stores_that_nobody_uses_are_bounded_in_age_and_number() {
        let state = tempfile::tempdir().unwrap();
        let memory = |number: usize, age: Duration| {
            let path = state.path().join(format!("seen-bar-{number}.json"));
            fs::write(&path, "{}").unwrap();
            let written = fs::metadata(&path).unwrap().modified().unwrap() - age;
            File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
            path
        };
        let day = Duration::from_secs(24 * 3600);
        let ancient = memory(0, KEPT_FOR + day);
        let old = memory(1, KEPT_FOR - day);
        let other = state.path().join("listener-1");
        fs::write(&other, "").unwrap();
        let save = || SeenFile::new(state.path(), "memory:", &shop()).save(&seen(0, 2, 3)).unwrap();
        save();
        assert!(!ancient.exists() && old.exists() && other.exists());
        // Two more than may be kept, beside the own one: the oldest goes, but for those that are young.
        let many: Vec<_> = (2..=KEPT_MOST).map(|number| memory(number, YOUNG / 2)).collect();
        save();
        assert!(!old.exists() && many.iter().all(|path| path.exists()));
        let next = memory(KEPT_MOST + 1, YOUNG / 3);
        save();
        assert!(next.exists() && many.iter().all(|path| path.exists()), "they are young");
    }
}
