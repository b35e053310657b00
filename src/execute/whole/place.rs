//! The names of files with whole outputs, and how they are opened and deleted.
//!
//! A file is `DIR/NAMESPACE/JOB/OCCURRENCE.ATTEMPT.out`, so that names sort by job, occurrence and attempt. Each part of
//! the name was checked where it came in (a name has no `/`, and begins with a letter or a digit), and each directory below
//! `DIR` is opened from the one above it without following a symbolic link: no name and no link leads out of `DIR`.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::job::{JobName, KeepOutputs, RunId, WholeOutput};
use crate::time::Wall;

/// What the names of the files end with.
const END: &str = ".out";

/// The least digits of the attempt in a name.
const ATTEMPT_DIGITS: usize = 3;

/// How many entries of a directory are looked at.
const LISTED_MOST: usize = 200_000;

/// The file of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    dir: PathBuf,
    namespace: String,
    run: RunId,
    attempt: u32,
}

impl Place {
    /// That of this attempt of `run`, counted from 1.
    pub fn of(whole: &WholeOutput, namespace: &str, run: &RunId, attempt: u32) -> Place {
        Place::below(Path::new(whole.dir.expose()), namespace, run, attempt)
    }

    /// The same, below `dir`.
    pub fn below(dir: &Path, namespace: &str, run: &RunId, attempt: u32) -> Place {
        Place { dir: dir.to_owned(), namespace: namespace.to_owned(), run: run.clone(), attempt }
    }

    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The path, for people.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.namespace).join(self.run.job().as_str()).join(self.name())
    }

    fn name(&self) -> String {
        format!("{}.{:0ATTEMPT_DIGITS$}{END}", occurrence(&self.run), self.attempt)
    }

    /// Opens the file for writing at its end, and makes it and its directories where they are not there.
    ///
    /// # Errors
    ///
    /// It cannot be made, or what is in its place is not one that only this user can read.
    pub(super) fn create(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let job = self.run.job();
        let directory =
            || enter_or_make(enter_or_make(root(&self.dir)?.as_fd(), &self.namespace)?.as_fd(), job.as_str());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | CAREFULLY;
        let make = || Ok(openat(directory()?, self.name().as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        // Between the two, another node may have removed a directory that was empty.
        let file = make().or_else(|error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => make(),
            _ => Err(error),
        })?;
        let file = own_file(file)?;
        // For as long as this node, or its supervisor, has it open, no other deletes it. Where the file system has no
        // locks, one that is not written to for long may be deleted.
        file.try_lock().ok();
        Ok(file)
    }

    /// Opens the file for reading; `None`: it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn open(&self) -> io::Result<Option<File>> {
        let Some(directory) = job_directory(&self.dir, &self.namespace, &self.run.job())? else { return Ok(None) };
        let opened = openat(directory, self.name().as_str(), OFlag::O_RDONLY | CAREFULLY, Mode::empty());
        found(opened)?.map(own_file).transpose()
    }

    /// Reads at most `most` bytes from `offset` on, and how many bytes the file has; `None`: it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(&self, offset: u64, most: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
        let Some(mut file) = self.open()? else { return Ok(None) };
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.by_ref().take(most as u64).read_to_end(&mut bytes)?;
        Ok(Some((bytes, file.metadata()?.len())))
    }

    /// The last attempt of a run of which a file is there.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn last_attempt(dir: &Path, namespace: &str, run: &RunId) -> io::Result<Option<u32>> {
        let Some(directory) = job_directory(dir, namespace, &run.job())? else { return Ok(None) };
        let attempt = |name: &String| parse(&run.job(), name).filter(|(of, _)| of == run).map(|(_, attempt)| attempt);
        Ok(names(directory.as_fd())?.iter().filter_map(attempt).max())
    }
}

/// A link in the place of what is meant is an error, and no pipe or device keeps the opener waiting.
const CAREFULLY: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// The occurrence in a run's name, with the call that asked for it.
fn occurrence(run: &RunId) -> &str {
    run.as_str().split_once('@').map_or("", |(_, occurrence)| occurrence)
}

/// The run of this job and the attempt that a file is of, by its name; `None`: it is none of these files.
fn parse(job: &JobName, name: &str) -> Option<(RunId, u32)> {
    let (occurrence, attempt) = name.strip_suffix(END)?.rsplit_once('.')?;
    let is_attempt = attempt.len() >= ATTEMPT_DIGITS && attempt.bytes().all(|digit| digit.is_ascii_digit());
    let attempt = attempt.parse().ok().filter(|_| is_attempt)?;
    Some((format!("{job}@{occurrence}").parse().ok()?, attempt))
}

/// The directory that was configured: a link in its place is the operator's.
fn root(dir: &Path) -> io::Result<OwnedFd> {
    Ok(open(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn enter(above: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    openat(above, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | CAREFULLY, Mode::empty())
}

fn enter_or_make(above: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(above, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = enter(above, name)?;
    check(&File::from(directory.try_clone()?).metadata()?)?;
    Ok(directory)
}

/// What others could exchange, or made, is not written to.
fn check(meta: &fs::Metadata) -> io::Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    if meta.uid() != own || meta.mode() & 0o022 != 0 {
        let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
        let why =
            format!("it belongs to the user {owner} with the mode {mode:04o}: it has to be this user's ({own}) alone");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

fn own_file(file: OwnedFd) -> io::Result<File> {
    let file = File::from(file);
    let meta = file.metadata()?;
    check(&meta)?;
    if !meta.is_file() || meta.nlink() > 1 {
        return Err(io::Error::other("it is no regular file, or has a second name"));
    }
    Ok(file)
}

/// What was opened; `None`: it is not there.
fn found(opened: Result<OwnedFd, Errno>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn namespace_directory(dir: &Path, namespace: &str) -> io::Result<Option<OwnedFd>> {
    match root(dir) {
        Ok(root) => found(enter(root.as_fd(), namespace)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn job_directory(dir: &Path, namespace: &str, job: &JobName) -> io::Result<Option<OwnedFd>> {
    match namespace_directory(dir, namespace)? {
        Some(namespace) => found(enter(namespace.as_fd(), job.as_str())),
        None => Ok(None),
    }
}

/// The names in a directory, in no order.
fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    // By its descriptor: the path could lead elsewhere by now.
    let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    let names = entries.take(LISTED_MOST).map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// The jobs that have a directory below `dir`, sorted.
///
/// # Errors
///
/// The directory cannot be read.
pub(super) fn jobs(dir: &Path, namespace: &str) -> io::Result<Vec<JobName>> {
    let Some(directory) = namespace_directory(dir, namespace)? else { return Ok(Vec::new()) };
    let mut jobs: Vec<JobName> = names(directory.as_fd())?.iter().filter_map(|name| JobName::new(name).ok()).collect();
    jobs.sort();
    Ok(jobs)
}

/// Deletes the files of a job that are beyond its bounds, and its directory where that is empty then. Answers how many
/// files it deleted.
///
/// # Errors
///
/// The directory cannot be read, or a file not be deleted.
pub(super) fn prune(dir: &Path, namespace: &str, job: &JobName, keep: KeepOutputs, now: Wall) -> io::Result<usize> {
    let Some(directory) = job_directory(dir, namespace, job)? else { return Ok(0) };
    let names = names(directory.as_fd())?;
    let mut files = Vec::new();
    for name in &names {
        let Some((run, _)) = parse(job, name) else { continue };
        // One that is gone by now was deleted by another node.
        let Ok(stat) = fstatat(&directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        files.push(Listed { written: stat.st_mtime, name, run, bytes });
    }
    files.sort_by(|a, b| (b.written, b.name).cmp(&(a.written, a.name)));
    let beyond = beyond(&files, keep, now);
    let mut deleted = 0;
    for file in &beyond {
        if is_written(&directory, file.name) {
            continue;
        }
        deleted += 1;
        match unlinkat(&directory, file.name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if files.is_empty() && names.is_empty() {
        let namespace = namespace_directory(dir, namespace)?;
        // Where something has come to be in it meanwhile, it stays.
        namespace.map(|above| unlinkat(&above, job.as_str(), UnlinkatFlags::RemoveDir).ok());
    }
    Ok(deleted)
}

/// Whether an attempt that is under way writes to this file: it may be silent for long.
fn is_written(directory: &OwnedFd, name: &str) -> bool {
    let opened = found(openat(directory, name, OFlag::O_RDONLY | CAREFULLY, Mode::empty()));
    // A link, or what may not be read, is no file of an attempt.
    let Ok(Some(file)) = opened.map(|file| file.map(File::from)) else { return false };
    // Shared, since a network's file system locks a file that is open for reading no other way.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => true,
        // A file system without locks.
        Ok(()) | Err(TryLockError::Error(_)) => false,
    }
}

/// A file as the directory has it.
struct Listed<'a> {
    name: &'a String,
    run: RunId,
    /// When it was last written to, in seconds since 1970.
    written: i64,
    bytes: u64,
}

/// Those that are beyond the bounds, of files from the newest to the oldest. The newest is kept.
fn beyond<'f, 'a>(files: &'f [Listed<'a>], keep: KeepOutputs, now: Wall) -> Vec<&'f Listed<'a>> {
    let oldest = now.minus(keep.age).to_utc().timestamp();
    let (mut runs, mut bytes, mut last) = (0, 0_u64, None);
    let is_beyond = |(index, file): (usize, &Listed)| {
        if last.as_ref() != Some(&file.run) {
            runs += 1;
            last = Some(file.run.clone());
        }
        bytes = bytes.saturating_add(file.bytes);
        index > 0 && (runs > keep.runs || bytes > keep.bytes || file.written < oldest)
    };
    let marks: Vec<bool> = files.iter().enumerate().map(is_beyond).collect();
    files.iter().zip(marks).filter_map(|(file, beyond)| beyond.then_some(file)).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::Duration;

    use super::*;

    const NOW: &str = "2026-11-21T02:00:00Z";

    fn place(dir: &Path, run: &str, attempt: u32) -> Place {
        Place::below(dir, "shop", &run.parse().unwrap(), attempt)
    }

    #[test]
    fn names_sort_by_job_occurrence_and_attempt_and_read_back() {
        let runs = ["a@2026-11-21T02:00:00Z", "a@2026-11-21T02:00:00Z~t-1f", "a@2026-11-22T02:00:00Z"];
        let places = runs.iter().flat_map(|run| [1, 2, 10, 100].map(|attempt| place(Path::new("/o"), run, attempt)));
        let places: Vec<Place> = places.collect();
        assert_eq!(places[0].path(), Path::new("/o/shop/a/2026-11-21T02:00:00Z.001.out"));
        let mut sorted: Vec<String> = places.iter().map(Place::name).collect();
        sorted.sort();
        assert_eq!(sorted, places.iter().map(Place::name).collect::<Vec<_>>());
        for place in &places {
            assert_eq!(parse(&place.run.job(), &place.name()), Some((place.run.clone(), place.attempt)));
        }
        let job = JobName::new("a").unwrap();
        for other in
            ["notes.txt", "2026-11-21T02:00:00Z.1.out", "2026-11-21T02:00:00Z.x01.out", "../b.001.out", ".001.out"]
        {
            assert_eq!(parse(&job, other), None, "{other}");
        }
    }

    #[test]
    fn files_and_directories_are_their_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(&dir.path().join("new/outputs"), "a..b@2026-11-21T02:00:00Z", 1);
        place.create().unwrap().write_all(b"hello\n").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place.path()), 0o600);
        assert!(place.path().ancestors().skip(1).take(4).all(|above| mode(above) == 0o700));
        place.create().unwrap().write_all(b"again\n").unwrap();
        let read = io::read_to_string(place.open().unwrap().unwrap()).unwrap();
        assert_eq!(read, "hello\nagain\n", "what was there is not lost");
        assert_eq!(Place::last_attempt(&dir.path().join("new/outputs"), "shop", &place.run).unwrap(), Some(1));
    }

    #[test]
    fn no_link_is_followed_and_nothing_of_others_is_written_to() {
        let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = place(dir.path(), "a@2026-11-21T02:00:00Z", 1);
        for link in [dir.path().join("shop"), dir.path().join("shop/a"), place.path()] {
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            fs::set_permissions(link.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
            symlink(target.path().join("x"), &link).unwrap();
            place.create().unwrap_err();
            fs::remove_file(&link).unwrap();
            symlink(target.path(), &link).unwrap();
            place.create().unwrap_err();
            assert!(place.open().is_err() || place.open().unwrap().is_none(), "{}", link.display());
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
        fs::hard_link(fs::write(target.path().join("x"), "").map(|()| target.path().join("x")).unwrap(), place.path())
            .unwrap();
        place.create().unwrap_err();
        fs::remove_file(place.path()).unwrap();
        fs::set_permissions(dir.path().join("shop/a"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(place.create().unwrap_err().to_string().contains("mode 0777"));
    }

    /// The file of each run `age` days before now, with so many bytes.
    fn filled(dir: &Path, files: &[(&str, u64, u64)]) {
        let now: Wall = NOW.parse().unwrap();
        for (run, days, bytes) in files {
            let file = place(dir, run, 1).create().unwrap();
            file.set_len(*bytes).unwrap();
            file.set_modified((now.minus(Duration::from_secs(days * 86_400))).to_utc().into()).unwrap();
        }
    }

    #[test]
    fn files_beyond_either_bound_are_deleted_but_for_the_newest_and_those_of_people() {
        let job = JobName::new("a").unwrap();
        let keep = KeepOutputs { runs: 3, age: Duration::from_secs(10 * 86_400), bytes: 1_000 };
        let files =
            [("a@2026-11-20T02:00:00Z", 1, 10), ("a@2026-11-19T02:00:00Z", 2, 10), ("a@2026-11-18T02:00:00Z", 3, 10)];
        for (more, left) in [
            (("a@2026-11-17T02:00:00Z", 4, 10), 3),
            (("a@2026-11-17T02:00:00Z", 0, 995), 1),
            (("a@2026-11-17T02:00:00Z", 0, 5_000), 1),
        ] {
            let dir = tempfile::tempdir().unwrap();
            filled(dir.path(), &files);
            filled(dir.path(), &[more]);
            fs::write(dir.path().join("shop/a/notes.txt"), "mine").unwrap();
            prune(dir.path(), "shop", &job, keep, NOW.parse().unwrap()).unwrap();
            assert_eq!(fs::read_dir(dir.path().join("shop/a")).unwrap().count(), left + 1, "{more:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), &[("a@2026-10-01T02:00:00Z", 50, 1), ("a@2026-10-02T02:00:00Z", 40, 1)]);
        assert_eq!(prune(dir.path(), "shop", &job, keep, NOW.parse().unwrap()).unwrap(), 1, "the newest stays");
        fs::remove_file(place(dir.path(), "a@2026-10-02T02:00:00Z", 1).path()).unwrap();
        prune(dir.path(), "shop", &job, keep, NOW.parse().unwrap()).unwrap();
        assert!(!dir.path().join("shop/a").exists(), "an empty directory goes");
        assert_eq!(jobs(dir.path(), "shop").unwrap(), []);
    }

    #[test]
    fn the_file_of_an_attempt_that_is_under_way_stays_however_long_it_is_silent() {
        let (job, now): (JobName, Wall) = (JobName::new("a").unwrap(), NOW.parse().unwrap());
        let keep = KeepOutputs { runs: 1, age: Duration::from_secs(86_400), bytes: 1_000 };
        let dir = tempfile::tempdir().unwrap();
        let silent = place(dir.path(), "a@2026-11-01T02:00:00Z", 1).create().unwrap();
        silent.set_modified(now.minus(Duration::from_secs(20 * 86_400)).to_utc().into()).unwrap();
        filled(dir.path(), &[("a@2026-11-20T02:00:00Z", 1, 10)]);
        // As the supervisor has it, after its node is gone.
        let shared = silent.try_clone().unwrap();
        drop(silent);
        assert_eq!(prune(dir.path(), "shop", &job, keep, now).unwrap(), 0);
        drop(shared);
        assert_eq!(prune(dir.path(), "shop", &job, keep, now).unwrap(), 1);
    }
}
