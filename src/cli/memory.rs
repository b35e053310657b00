//! Where this machine remembers what it has seen of stores, so that a store that was restored from a backup is recognized.
//!
//! Not beside the store: a person who restores that directory would restore the memory with it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use anyhow::Context as _;
use nix::unistd::Uid;

use super::Global;
use super::place::Place;
use crate::lock::{Locks, Seen, SeenFile, SeenFileError};
use crate::store::{AnyStore, StoreUrl};

/// Where it was kept by earlier versions, and is kept where there is no better place.
const HERE: &str = ".fencron";

/// Where system services keep files that outlive them.
const OF_SYSTEM: &str = "/var/lib/fencron";

/// How long a directory that was named has to take what is saved there for the first time.
const TRY_WITHIN: Duration = Duration::from_secs(5);

/// What is remembered of one namespace of one store.
pub(super) struct Memory {
    file: SeenFile,
    seen: Seen,
    /// The user named the directory: that it cannot be used is an error.
    is_named: bool,
}

/// The directory that is meant where none is named. `None`: this process has no place of its own.
fn usual_directory(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // systemd names several with colons in between; the first is the unit's own.
    let of_unit = variable("STATE_DIRECTORY").and_then(|all| std::env::split_paths(&all).next());
    let of_unit = of_unit.filter(|path| path.is_absolute());
    let of_home = |home: PathBuf| home.join(".local/state/fencron");
    of_unit
        .or_else(|| absolute("XDG_STATE_HOME").map(|state| state.join("fencron")))
        .or_else(|| is_root.then(|| PathBuf::from(OF_SYSTEM)))
        .or_else(|| absolute("HOME").filter(|home| home.is_dir() && home.parent().is_some()).map(of_home))
}

impl Global {
    /// Where this machine keeps files that outlive a process and are not part of the store.
    pub fn state_directory(&self) -> PathBuf {
        let usual = || usual_directory(Uid::effective().is_root(), |name| std::env::var_os(name));
        self.state_dir.clone().or_else(usual).unwrap_or_else(|| HERE.into())
    }
}

impl Memory {
    /// What is remembered of the place. What is there and cannot be read is no reason to trust the store.
    pub fn of(place: &Place, global: &Global) -> anyhow::Result<Memory> {
        let (directory, is_named) = (global.state_directory(), global.state_dir.is_some());
        if !is_named && directory == Path::new(HERE) {
            tell_once();
        }
        let (namespace, text) = (&place.namespace, place.url.to_string());
        let file = SeenFile::new(&directory, &place.url.identity(), namespace)
            .or_earlier(&directory, &text, namespace)
            .or_earlier(Path::new(HERE), &text, namespace);
        let seen = match file.load() {
            Err(error @ SeenFileError::Io { .. }) if !is_named => {
                tracing::warn!(%error, "what was seen of the store before is not known here");
                Seen::default()
            }
            seen => seen?,
        };
        Ok(Memory { file, seen, is_named })
    }

    /// Where it is kept.
    pub fn directory(&self) -> PathBuf {
        self.file.path().parent().map(Path::to_owned).unwrap_or_default()
    }

    /// Saves it, so that what keeps it from being saved shows at once, and not when it is needed.
    pub async fn try_out(self, place: &Place) -> anyhow::Result<Locks<AnyStore>> {
        let Memory { file, seen, is_named } = self;
        tracing::debug!(path = %file.path().display(), "what is seen of the store is remembered here");
        let locks = place.locks(seen).kept_in(file.clone());
        if is_named {
            // A disk that hangs now may answer when it matters.
            let saved = tokio::time::timeout(TRY_WITHIN, tokio::task::spawn_blocking(move || file.save(&seen))).await;
            saved.map_or(Ok(()), |saved| Ok::<_, anyhow::Error>(saved??)).context("--state-dir (FENCRON_STATE_DIR)")?;
        } else {
            locks.save_seen().await;
        }
        Ok(locks)
    }
}

fn tell_once() {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| {
        tracing::info!(
            "there is no home directory to remember in what was seen of the store: it is kept in {HERE} here. Name a \
             directory that outlives the process with --state-dir or FENCRON_STATE_DIR"
        );
    });
}

impl Place {
    /// The locks for a command that acquires one: what it sees is remembered, and compared with the store.
    pub fn remembering(&self, global: &Global) -> anyhow::Result<Locks<AnyStore>> {
        let Memory { file, seen, .. } = Memory::of(self, global)?;
        let locks = self.locks(seen);
        Ok(if self.url == StoreUrl::Memory { locks } else { locks.kept_in(file) })
    }

    /// The locks for a command that only reads or requests: what was seen is compared with the store, as far as it can
    /// be read.
    pub fn recalling(&self, global: &Global) -> Locks<AnyStore> {
        self.locks(Memory::of(self, global).map(|memory| memory.seen).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(is_root: bool, variables: &[(&str, &str)]) -> Option<PathBuf> {
        let found = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        usual_directory(is_root, found)
    }

    #[test]
    fn it_is_remembered_where_the_system_has_a_place_for_it() {
        let home = ("HOME", "/tmp");
        assert_eq!(directory(false, &[home]), Some("/tmp/.local/state/fencron".into()));
        assert_eq!(directory(true, &[home]), Some(OF_SYSTEM.into()));
        assert_eq!(directory(true, &[home, ("XDG_STATE_HOME", "/x")]), Some("/x/fencron".into()));
        assert_eq!(directory(true, &[("STATE_DIRECTORY", "/s:/t"), ("XDG_STATE_HOME", "/x")]), Some("/s".into()));
    }

    #[test]
    fn who_has_no_home_has_no_place() {
        for variables in [&[][..], &[("HOME", "/")], &[("HOME", "/does/not/exist")], &[("XDG_STATE_HOME", "relative")]]
        {
            assert_eq!(directory(false, variables), None, "{variables:?}");
        }
    }
}
