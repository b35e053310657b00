//! Reading jobs files, in the same way for every command, and noticing that what was read has changed.

mod gather;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sha2::{Digest as _, Sha256};

use super::Failure;
use crate::config::auth::{self, Rules};
use crate::config::{self, Config, MAX_FILE_BYTES, MAX_MIGRATIONS, Problems, Sources};
use crate::job::MAX_SCRIPT_BYTES;
use crate::store::sqlite::file::is_opened_here;
pub(super) use gather::Texts;

/// The default jobs file.
pub(super) const DEFAULT: &str = "jobs.yaml";

/// How often it is looked whether files that belong to the listener are still the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Files that are being written change more than once: they count when they have been the same for so long. A certificate
/// and its key are two files, and fit only when both are new.
const QUIET: Duration = Duration::from_millis(500);

/// How long a pipe in the place of a jobs file may be silent, in milliseconds.
const PIPE_WITHIN: u16 = 10_000;

/// How much of a pipe is read at once.
const CHUNK: usize = 64 << 10;

/// What is done when the jobs file is a pipe, such as `<(envsubst < jobs.template)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pipe {
    /// The reader waits for its writer.
    Wait,
    /// The pipe is refused.
    Refuse,
}

/// A jobs file as it was read.
pub(super) struct Reading {
    /// Its configuration: a [`Failure`] if it cannot be read, [`Problems`] if it is wrong.
    pub config: anyhow::Result<Config>,
    /// The jobs files that it is made of, as far as they could be read.
    pub names: Vec<String>,
    /// All that was read for it, also when it is wrong.
    pub files: Footprint,
}

/// The paths, for people.
pub(super) fn shown(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

/// Reads and checks the jobs files at `paths`, all of those in it where one is a directory, and what they include.
///
/// # Errors
///
/// A [`Failure`] if one cannot be read, [`Problems`] if it is wrong.
pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Config> {
    look(paths, Pipe::Wait).config
}

/// Reads and checks the jobs files at `paths`, and remembers all that was read for them.
pub(super) fn look(paths: &[PathBuf], pipe: Pipe) -> Reading {
    let files = RefCell::default();
    let texts = gather::texts(paths, pipe, &files);
    let names = texts.iter().flat_map(|texts| texts.files()).map(|(name, _)| name.clone()).collect();
    let config = texts
        .map_err(anyhow::Error::new)
        .and_then(|texts| parse_noting(&texts, false, &files).map_err(anyhow::Error::new));
    Reading { config, names, files: files.into_inner() }
}

/// Reads the jobs files, or those of directories, at `paths`.
pub(super) fn texts(paths: &[PathBuf]) -> Result<Texts, Failure> {
    gather::texts(paths, Pipe::Wait, &RefCell::default())
}

/// Checks what was read; with `open`, as far as that goes without what comes from outside of the files.
pub(super) fn parse(texts: &Texts, open: bool) -> Result<Config, Problems> {
    parse_noting(texts, open, &RefCell::default())
}

fn parse_noting(texts: &Texts, open: bool, files: &RefCell<Footprint>) -> Result<Config, Problems> {
    let file = |path: &Path| {
        let stat = Stat::of(path);
        let read = secret(path);
        files.borrow_mut().note(path, stat, Content::of(read.as_deref().map(str::as_bytes)));
        read
    };
    let dir = |path: &Path| {
        let stat = Stat::of(path);
        let listed = directory(path);
        if let Ok(Some(names)) = &listed {
            files.borrow_mut().note(path, stat, Content::Directory(sorted(names.clone())));
        }
        listed
    };
    let sources = Sources { env: &|name| std::env::var(name).ok(), file: &file, dir: &dir, open };
    match texts.alone() {
        Some((name, bytes)) => config::from_bytes(bytes, &sources).map_err(|problems| problems.of_file(name)),
        None => config::from_files(texts.files(), &sources),
    }
}

/// Whether any of what was read is another one now. What a filesystem does not answer keeps a thread of its own waiting,
/// and nothing else.
pub(super) async fn has_changed(files: &Arc<Footprint>) -> bool {
    let files = Arc::clone(files);
    tokio::task::spawn_blocking(move || files.has_changed(false)).await.unwrap_or(true)
}

/// Reads files again when one has changed and has then been the same for a moment, and passes on what came of it. What they
/// were is `files`. Goes on until it is dropped.
pub(super) async fn read_again<T: Send + 'static>(
    files: Footprint,
    read: impl Fn() -> (anyhow::Result<T>, Footprint) + Clone + Send + 'static,
    take: impl Fn(anyhow::Result<T>),
) {
    let mut files = Arc::new(files);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !has_changed(&files).await {
            continue;
        }
        tokio::time::sleep(QUIET).await;
        // What a filesystem does not answer keeps a thread of its own waiting, and nothing else.
        let Ok((read, now)) = tokio::task::spawn_blocking(read.clone()).await else { continue };
        files = Arc::new(now);
        take(read);
    }
}

/// Reads the file of rules of who may look, and remembers what was read.
pub(super) fn rules(path: &Path) -> (anyhow::Result<Rules>, Footprint) {
    let files = RefCell::new(Footprint::default());
    let stat = Stat::of(path);
    let read = open(path).and_then(|file| {
        check_owner(&file.metadata()?)?;
        read_at_most(file, MAX_FILE_BYTES as u64 + 1, Pipe::Refuse)
    });
    files.borrow_mut().note(path, stat, Content::of(read.as_deref()));
    let name = path.display().to_string();
    let rules = match read {
        Ok(bytes) => auth::read(&bytes).map_err(|problems| problems.of_file(&name).into()),
        Err(error) => Err(Failure::wrong(format!("--auth: cannot read {name}: {error}")).into()),
    };
    (rules, files.into_inner())
}

/// A file that others can write to says what they want. The hashes in it are no secrets; that others can read it is
/// refused all the same, since then it was not made with care.
fn check_owner(meta: &fs::Metadata) -> io::Result<()> {
    let (owner, own) = (meta.uid(), nix::unistd::geteuid().as_raw());
    if owner != own && owner != 0 {
        return Err(io::Error::other(format!(
            "it belongs to the user {owner}, and not to this one ({own}) or to root"
        )));
    }
    // Of root's files a group may read one: that is how a secret is mounted in Kubernetes for a user that is not root.
    let others = if owner == 0 { 0o037 } else { 0o077 };
    if meta.mode() & others != 0 {
        let mode = meta.mode() & 0o777;
        return Err(io::Error::other(format!("others may read or write it (mode {mode:03o}): chmod 600 it")));
    }
    Ok(())
}

/// Opens what stands at the path without waiting for anything: opening a pipe would wait for its writer. A database
/// that this process uses is left alone.
fn open(path: &Path) -> io::Result<File> {
    if is_opened_here(path) {
        return Err(io::Error::other("it is a database that this node works with"));
    }
    OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)
}

/// What is in it, but `most` bytes at most. Only of a regular file, or of a pipe where that is waited for: what is read
/// from a device would be gone, or never end.
fn read_at_most(file: File, most: u64, pipe: Pipe) -> io::Result<Vec<u8>> {
    let kind = file.metadata()?.file_type();
    let mut bytes = Vec::new();
    if kind.is_file() {
        file.take(most).read_to_end(&mut bytes)?;
    } else if kind.is_fifo() && pipe == Pipe::Wait {
        read_pipe(file, most, &mut bytes)?;
    } else {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(bytes)
}

fn read_pipe(mut file: File, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while (bytes.len() as u64) < most {
        let ready = match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PIPE_WITHIN)) {
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        if ready == 0 {
            let why = format!("it is a pipe, and nothing was written to it for {} s", PIPE_WITHIN / 1000);
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The text of a file that `${file:PATH}` names.
pub(super) fn secret(path: &Path) -> io::Result<String> {
    // With its line end.
    let most = MAX_SCRIPT_BYTES as u64 + 2;
    let bytes = read_at_most(open(path)?, most + 1, Pipe::Refuse)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {MAX_SCRIPT_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// The names of what is in a directory, those of directories with a `/` behind; `None`: it is none.
fn directory(path: &Path) -> io::Result<Option<Vec<String>>> {
    if !path.is_dir() {
        return Ok(None);
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        if names.len() > MAX_MIGRATIONS {
            return Err(io::Error::other(format!("more than {MAX_MIGRATIONS} files are in it")));
        }
        // A name that is not UTF-8 cannot be part of an id, and is refused where ids are checked.
        let entry = entry?;
        let slash = if entry.path().is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    Ok(Some(names))
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// The files and directories that a configuration was read from, as they were then.
#[derive(Debug, Default)]
pub(super) struct Footprint(BTreeMap<PathBuf, (Stat, Content)>);

impl Footprint {
    /// What is read more than once counts as it was the first time.
    fn note(&mut self, path: &Path, stat: Stat, content: Content) {
        self.0.entry(path.to_owned()).or_insert((stat, content));
    }

    /// Reads a file of at most 1 MiB, and remembers that it was read.
    pub fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let stat = Stat::of(path);
        let read = secret(path).map(String::into_bytes);
        self.note(path, stat, Content::of(read.as_deref()));
        read
    }

    /// These files belong to it as well.
    pub fn and(&mut self, others: Footprint) {
        others.0.into_iter().for_each(|(path, (stat, content))| self.note(&path, stat, content));
    }

    /// Whether any of it is another one now, or was written to: by what the filesystem says of it, and where `whole` is
    /// asked for, by all that is in it.
    pub fn has_changed(&self, whole: bool) -> bool {
        self.0.iter().any(|(path, (stat, content))| Stat::of(path) != *stat || (whole && content.now(path) != *content))
    }
}

/// Shows that a path leads to another file, or that the file was written to, without reading it. The path is followed
/// each time: a link on the way may lead elsewhere now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stat {
    Is { identity: (u64, u64), size: u64, modified: (i64, i64), changed: (i64, i64) },
    IsNot(io::ErrorKind),
}

impl Stat {
    fn of(path: &Path) -> Stat {
        let meta = fs::metadata(path).and_then(|meta| match meta.is_file() {
            // A network filesystem asks its server again when a file is opened, and may not do so before.
            true => open(path)?.metadata(),
            false => Ok(meta),
        });
        match meta {
            Ok(meta) => Stat::Is {
                identity: (meta.dev(), meta.ino()),
                size: meta.size(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            },
            Err(error) => Stat::IsNot(error.kind()),
        }
    }
}

/// What was in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// The SHA-256 of a file.
    File([u8; 32]),
    Directory(Vec<String>),
    Unreadable,
}

impl Content {
    fn of<E>(read: Result<&[u8], E>) -> Content {
        read.map_or(Content::Unreadable, |bytes| Content::File(Sha256::digest(bytes).into()))
    }

    /// What is in it now, if it is of the same kind.
    fn now(&self, path: &Path) -> Content {
        match self {
            Content::Directory(_) => match directory(path) {
                Ok(Some(names)) => Content::Directory(sorted(names)),
                _ => Content::Unreadable,
            },
            // The reason why it cannot be read is no content: only the filesystem's data about it show a change.
            Content::Unreadable => Content::Unreadable,
            // Longer than any that is accepted: the rest does not count.
            Content::File(_) => Content::of(
                open(path).and_then(|file| read_at_most(file, MAX_FILE_BYTES as u64 + 1, Pipe::Refuse)).as_deref(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_text_of_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert_eq!(secret(&dir.path().join("link")).unwrap(), "hunter2\n");
    }

    /// Closing it again would drop the locks that the store's own connections have on it.
    #[tokio::test]
    async fn a_database_that_this_process_works_with_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let _store = crate::store::sqlite::SqliteStore::open(&path, crate::time::Clock::system()).await.unwrap();
        assert!(secret(&path).unwrap_err().to_string().contains("a database that this node works with"));
    }

    #[test]
    fn what_would_never_end_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [Path::new("/dev/zero"), &fifo, dir.path()] {
            assert!(secret(path).unwrap_err().to_string().contains("no regular file"), "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_is_longer_than_any_text_may_be_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(secret(&path).unwrap_err().to_string().contains("more than 1048576 bytes"));
    }

    /// What is wrong with it is no content: otherwise a file that stays as it is would be read anew without end.
    #[test]
    fn what_cannot_be_read_has_changed_when_the_filesystem_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (path, absent) = (dir.path().join("secret"), dir.path().join("absent"));
        fs::write(&path, b"\xff").unwrap();
        let mut files = Footprint::default();
        for path in [&path, &absent] {
            let (stat, read) = (Stat::of(path), secret(path));
            files.note(path, stat, Content::of(read.as_deref().map(str::as_bytes)));
        }
        assert!(!files.has_changed(true) && !files.has_changed(false));
        fs::write(&absent, "hunter2").unwrap();
        assert!(files.has_changed(true) && files.has_changed(false));
        fs::remove_file(&absent).unwrap();
        assert!(!files.has_changed(true));
        fs::write(&path, "hunter2").unwrap();
        assert!(files.has_changed(false));
    }
}
