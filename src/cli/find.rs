//! The store of one machine when no store is named: in this directory, or in one above, as git finds its own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::store::StoreUrl;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In the directory itself.
    Here,
    /// In a directory above, at this path.
    Above(PathBuf),
    /// The nearest one above belongs to another user, who could read and change it; it is not used without being named.
    Foreign(PathBuf),
    Nothing,
}

/// Looks in the directory where this runs and in those above: up to the home directory, and not beyond the file system
/// that it is on.
pub(super) fn find() -> io::Result<Found> {
    look(&std::env::current_dir()?, home().as_deref(), geteuid().as_raw())
}

/// The nearest store in `from` or above, whosever it is.
pub(super) fn nearest(from: &Path) -> Option<PathBuf> {
    match look(from, home().as_deref(), geteuid().as_raw()).ok()? {
        Found::Here => Some(from.join(file())),
        Found::Above(path) | Found::Foreign(path) => Some(path),
        Found::Nothing => None,
    }
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).and_then(|home| home.canonicalize().ok())
}

fn look(from: &Path, home: Option<&Path>, user: u32) -> io::Result<Found> {
    let device = fs::metadata(from)?.dev();
    for dir in from.ancestors() {
        // A directory that cannot be looked into has nothing for this user.
        if !fs::metadata(dir).is_ok_and(|found| found.dev() == device) {
            break;
        }
        let path = dir.join(file());
        if let Ok(found) = fs::metadata(&path) {
            return Ok(match () {
                () if dir == from => Found::Here,
                () if found.uid() == user => Found::Above(path),
                () => Found::Foreign(path),
            });
        }
        if home == Some(dir) {
            break;
        }
    }
    Ok(Found::Nothing)
}

/// Where the file is, seen from the directory that it serves.
pub(super) fn file() -> &'static Path {
    let path = StoreUrl::DEFAULT.strip_prefix("sqlite:");
    Path::new(path.expect("the store where none is named is a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_store_is_found_and_none_beyond_the_home_directory() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let below = top.join("home/project/sub");
        fs::create_dir_all(&below).unwrap();
        let make = |dir: &Path| {
            fs::create_dir_all(dir.join(".fencron")).unwrap();
            fs::write(dir.join(file()), "").unwrap();
            dir.join(file())
        };
        let user = geteuid().as_raw();
        let (home, project) = (top.join("home"), top.join("home/project"));
        let outer = make(&top);
        assert_eq!(look(&below, Some(&home), user).unwrap(), Found::Nothing, "it is above the home directory");
        assert_eq!(look(&below, None, user).unwrap(), Found::Above(outer));
        let inner = make(&project);
        assert_eq!(look(&below, Some(&home), user).unwrap(), Found::Above(inner.clone()));
        assert_eq!(look(&below, Some(&home), user + 1).unwrap(), Found::Foreign(inner));
        assert_eq!(look(&project, Some(&home), user + 1).unwrap(), Found::Here);
    }
}
