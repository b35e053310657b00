//! Fences that survive a store restored from a backup.
//!
//! A restored etcd has the same cluster id, the same raft term and a *lower* revision, and even the leases of the dead
//! are accepted again: nothing inside a store tells that it went back. So every node remembers, outside of it, the
//! highest it has seen, and refuses a store that is behind that, until a person has decided what the present is
//! (`fencron fence repair`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::keys::Namespace;
use crate::fence::Fence;
use crate::store::Revision;

/// The highest that was seen of one namespace of one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// What fences were counted from. It only changes by a repair, after which revisions are counted anew.
    pub base: u64,
    /// The highest revision under that base.
    pub revision: Revision,
    /// The highest fence of any lock; 0: none.
    pub fence: u64,
    /// The store was found older than this. It grows on by all that is written to it, beyond what was seen here, and is
    /// none the truer for it: only a repair, which is another base, makes it good.
    #[serde(default)]
    pub went_back: bool,
}

/// The store is older than it was: it was restored from a backup, or it is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store went back in time: it is at revision {} (fence base {}), and was at revision {} (fence base {}, fence \
     {}) before it was set back. It was restored from a backup, or is not the same store. Nothing is granted, so that no fence and no \
     claim is given out twice: if this is the store you mean, run `fencron fence repair`",
    found.revision, found.base, seen.revision, seen.base, seen.fence
)]
pub struct StoreWentBack {
    pub seen: Seen,
    pub found: Seen,
}

impl Seen {
    /// Whether a store that answers with this base and revision, to a question put *after* `self` was seen, can be the
    /// same one, no older. A repair that knew of everything seen here is taken for what it is.
    ///
    /// ```
    /// use fencron::lock::Seen;
    /// use fencron::store::Revision;
    /// let seen = Seen { revision: Revision(24), fence: 20, ..Seen::default() };
    /// assert!(seen.check(0, Revision(24)).is_ok());
    /// assert!(seen.check(0, Revision(4)).is_err(), "restored");
    /// assert!(seen.check(1_700_000_000_000, Revision(4)).is_ok(), "restored and repaired");
    /// ```
    pub fn check(&self, base: u64, revision: Revision) -> Result<(), StoreWentBack> {
        let goes_on = base == self.base && revision >= self.revision && !self.went_back;
        let was_repaired = base > self.base && base >= self.fence;
        if goes_on || was_repaired {
            return Ok(());
        }
        Err(StoreWentBack { seen: *self, found: Seen { base, revision, ..Seen::default() } })
    }

    /// Adds what was seen. What is older than the rest is left out: answers may come in any order.
    pub fn note(&mut self, base: u64, revision: Revision, fence: Option<Fence>) {
        if base > self.base {
            (self.base, self.revision, self.went_back) = (base, revision, false);
        } else if base == self.base {
            self.revision = self.revision.max(revision);
        }
        self.fence = self.fence.max(fence.map_or(0, Fence::get));
    }

    /// Whether nothing has ever been seen.
    pub fn is_nothing(&self) -> bool {
        *self == Seen::default()
    }
}

/// Where a node keeps what it has [`Seen`] across its restarts. Its calls block on the disk.
#[derive(Clone, Debug)]
pub struct SeenFile {
    path: PathBuf,
}

/// The file cannot be read or written.
#[derive(Debug, thiserror::Error)]
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

/// The version of the file.
const RECORD: u32 = 1;

impl SeenFile {
    /// The file for one namespace of the store at `store_url`, in the directory `state`, which is created when first
    /// needed. The URL is only hashed: it may carry a password.
    pub fn new(state: &Path, store_url: &str, namespace: &Namespace) -> SeenFile {
        let hash = Sha256::digest(format!("{store_url}\n{namespace}"));
        let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        SeenFile { path: state.join(format!("seen-{namespace}-{hash}.json")) }
    }

    /// What was saved; nothing, where nothing ever was.
    pub fn load(&self) -> Result<Seen, SeenFileError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Seen::default()),
            Err(error) => return Err(self.failed("read", error)),
        };
        let damaged = |why: String| SeenFileError::Damaged { path: self.path.clone(), why };
        let record: SeenRecord = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if record.v == RECORD { Ok(record.seen) } else { Err(damaged(format!("version {} is not known", record.v))) }
    }

    /// Adds `seen` to what was saved, by this node or by another that keeps its state here, so that a crash at any
    /// moment leaves the old file or the new one.
    pub fn save(&self, seen: &Seen) -> Result<(), SeenFileError> {
        static SAVED: AtomicU64 = AtomicU64::new(0);
        let directory = self.path.parent().expect("the path was joined to a directory");
        fs::create_dir_all(directory).map_err(|error| self.failed("create the directory of", error))?;
        // One at a time, whichever process they are of: what one adds must not be lost by another's replacing it.
        let held = File::open(directory).and_then(|dir| dir.lock().map(|()| dir));
        let held = held.map_err(|error| self.failed("lock the directory of", error))?;
        let mut all = self.load()?;
        all.note(seen.base, seen.revision, Fence::new(seen.fence));
        all.went_back |= seen.went_back && seen.base == all.base;
        let beside =
            self.path.with_extension(format!("tmp-{}-{}", std::process::id(), SAVED.fetch_add(1, Ordering::Relaxed)));
        let text = serde_json::to_vec(&SeenRecord { v: RECORD, seen: all }).expect("numbers can be written");
        write_through(&beside, &text).map_err(|error| self.failed("write", error))?;
        fs::rename(&beside, &self.path).map_err(|error| self.failed("replace", error))?;
        // The new name is only safe once the directory is.
        held.sync_all().map_err(|error| self.failed("sync the directory of", error))
    }

    fn failed(&self, what: &'static str, source: io::Error) -> SeenFileError {
        SeenFileError::Io { what, path: self.path.clone(), source }
    }
}

fn write_through(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(base: u64, revision: u64, fence: u64) -> Seen {
        Seen { base, revision: Revision(revision), fence, went_back: false }
    }

    #[test]
    fn a_store_that_is_behind_is_refused() {
        assert!(seen(0, 10, 5).check(0, Revision(10)).is_ok());
        assert!(seen(0, 10, 5).check(0, Revision(9)).is_err());
    }

    #[test]
    fn a_store_that_went_back_is_refused_however_far_it_grows_until_it_is_repaired() {
        let mut went_back = Seen { went_back: true, ..seen(0, 10, 5) };
        went_back.note(0, Revision(11), None);
        assert!(went_back.check(0, Revision(12)).is_err());
        assert!(went_back.check(1000, Revision(12)).is_ok());
        went_back.note(1000, Revision(12), None);
        assert!(went_back.check(1000, Revision(13)).is_ok());
    }

    #[test]
    fn that_a_store_went_back_is_remembered_until_it_is_repaired() {
        let state = tempfile::tempdir().unwrap();
        let file = SeenFile::new(state.path(), "memory:", &Namespace::new("shop").unwrap());
        file.save(&Seen { went_back: true, ..seen(0, 10, 5) }).unwrap();
        file.save(&seen(0, 11, 5)).unwrap();
        assert!(file.load().unwrap().went_back, "another node, which has not found out, changes nothing");
        file.save(&seen(1000, 3, 5)).unwrap();
        assert!(!file.load().unwrap().went_back);
    }

    #[test]
    fn a_store_restored_from_before_a_repair_is_refused() {
        assert!(seen(1000, 10, 1005).check(0, Revision(2000)).is_err());
    }

    #[test]
    fn a_repair_that_knew_less_is_refused() {
        assert!(seen(0, 900, 800).check(500, Revision(3)).is_err());
        assert!(seen(0, 900, 800).check(800, Revision(3)).is_ok());
    }

    #[test]
    fn revisions_are_counted_anew_after_a_repair() {
        let mut seen = seen(0, 900, 800);
        seen.note(1000, Revision(3), None);
        assert_eq!((seen.base, seen.revision, seen.fence), (1000, Revision(3), 800));
        seen.note(0, Revision(901), Fence::new(850));
        assert_eq!(
            (seen.base, seen.revision, seen.fence),
            (1000, Revision(3), 850),
            "a late answer of the time before"
        );
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let state = tempfile::tempdir().unwrap();
        let file =
            SeenFile::new(&state.path().join("new"), "etcd://user:secret@host", &Namespace::new("shop").unwrap());
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
        let file = SeenFile::new(state.path(), "memory:", &Namespace::new("shop").unwrap());
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
        let file = SeenFile::new(state.path(), "memory:", &Namespace::new("shop").unwrap());
        for text in ["", "{}", r#"{"v":2,"seen":{"base":0,"revision":0,"fence":0}}"#] {
            fs::write(&file.path, text).unwrap();
            assert!(matches!(file.load(), Err(SeenFileError::Damaged { .. })), "{text}");
        }
    }
}
