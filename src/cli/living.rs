//! Files that live as long as the program that made them: they inform other programs of this user on this machine.
//!
//! A lock on the file says that the program lives, and ends with the program, however that ends. No clock and no process
//! number can say so wrongly.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;

/// How many names of a directory are looked at.
const LOOKED_AT_MOST: usize = 10_000;

/// How often a file is made that another program took for one that was left, before this one had locked it.
const MAKE_TRIES: u32 = 5;

/// How much of a file is read, in bytes.
const TEXT_MOST: u64 = 64 * 1024;

/// A file that is removed with this value, or with the next one in its directory where this program is killed.
#[derive(Debug)]
pub(super) struct LivingFile {
    path: PathBuf,
    /// Locked for as long as the program lives.
    _file: File,
}

impl LivingFile {
    /// Makes a file in `dir` that this user alone can read. `prefix` is what the names of such files begin with.
    pub fn make(dir: &Path, prefix: &str, text: &[u8]) -> io::Result<LivingFile> {
        let dir = std::path::absolute(dir)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        sweep(&dir, prefix);
        let mut tries = 1;
        loop {
            let made = LivingFile::make_one(&dir, prefix)?;
            // Another program may have swept it between the two steps.
            if made.is_there() {
                (&made._file).write_all(text)?;
                return Ok(made);
            }
            if tries == MAKE_TRIES {
                return Err(io::Error::other("it was removed as soon as it was made"));
            }
            tries += 1;
        }
    }

    fn make_one(dir: &Path, prefix: &str) -> io::Result<LivingFile> {
        let path = dir.join(format!("{prefix}{:016x}", RandomState::new().hash_one(std::process::id())));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(O_NOFOLLOW).open(&path)?;
        let made = LivingFile { path, _file: file };
        made._file.lock()?;
        made._file.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok(made)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was left alone.
    pub fn is_there(&self) -> bool {
        self._file.metadata().is_ok_and(|file| file.nlink() > 0)
    }
}

impl Drop for LivingFile {
    fn drop(&mut self) {
        // Another program may have removed it.
        fs::remove_file(&self.path).ok();
    }
}

/// The texts of those files in `dir` whose programs live. A file that its program is still writing may be read in part.
pub(super) fn texts(dir: &Path, prefix: &str) -> Vec<String> {
    let living = named(dir, prefix).into_iter().filter_map(|path| {
        let file = own(&path)?;
        // Shared, so that two programs that look at once do not take each other for the one that made it.
        if file.try_lock_shared().is_ok() {
            return None;
        }
        let mut text = String::new();
        file.take(TEXT_MOST).read_to_string(&mut text).ok()?;
        Some(text)
    });
    living.collect()
}

/// Removes the files of programs that were killed.
fn sweep(dir: &Path, prefix: &str) {
    for path in named(dir, prefix) {
        if own(&path).is_some_and(|file| file.try_lock().is_ok()) {
            fs::remove_file(&path).ok();
        }
    }
}

fn named(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(LOOKED_AT_MOST);
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()).collect()
}

/// The file, where it is one and belongs to this user.
fn own(path: &Path) -> Option<File> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOFOLLOW).open(path).ok()?;
    let about = file.metadata().ok()?;
    (about.is_file() && about.uid() == geteuid().as_raw()).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_while_its_program_lives_and_swept_after_that() {
        let dir = tempfile::tempdir().unwrap();
        // What a program leaves that is killed.
        let left = dir.path().join("of-0");
        fs::write(&left, "left").unwrap();
        fs::write(dir.path().join("another"), "").unwrap();
        assert!(texts(dir.path(), "of-").is_empty());
        let first = LivingFile::make(dir.path(), "of-", b"first").unwrap();
        assert!(!left.exists());
        assert_eq!(fs::metadata(first.path()).unwrap().mode() & 0o777, 0o600);
        let second = LivingFile::make(dir.path(), "of-", b"second").unwrap();
        let mut found = texts(dir.path(), "of-");
        found.sort();
        assert_eq!(found, ["first", "second"]);
        drop((first, second));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
