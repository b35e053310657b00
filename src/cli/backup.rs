//! `fencron backup`: a copy of the store while nodes use it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::terminal::Terminal;
use super::{Exit, Failure, Global};
use crate::lock::Namespace;
use crate::store::{AnyStore, Keys, Range, Store as _};

#[derive(Args)]
pub(super) struct BackupArgs {
    /// The file to make. Only its owner can read it: the store has the output of jobs
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace FILE where it exists, once the new copy was checked
    #[arg(long)]
    force: bool,
}

/// What `backup` prints.
#[derive(Serialize)]
struct BackupView {
    file: PathBuf,
    bytes: u64,
    store: String,
    /// The copy has all that was committed up to this revision; that of etcd may have more.
    revision: u64,
    namespaces: Vec<Part>,
}

/// A namespace that is in the copy.
#[derive(Serialize)]
struct Part {
    namespace: String,
    /// How many keys of it were counted in the copy; `null`: only etcd's tools can count them.
    keys: Option<u64>,
}

/// Copies the store.
pub(super) async fn backup(args: &BackupArgs, global: &Global, terminal: &mut Terminal) -> anyhow::Result<Exit> {
    let (url, store) = global.open_store().await?;
    let target = Target::of(args, &store)?;
    let namespaces = Namespace::all(&store).await?;
    if namespaces.is_empty() {
        return Err(Failure::new(Exit::Failed, format!("{url} has nothing yet, and nothing was written")).into());
    }
    let partial = target.begin()?;
    let copied = copy(&store, &partial, &namespaces).await;
    let (revision, namespaces) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            partial.discard();
            return Err(error);
        }
    };
    let bytes = partial.file.metadata()?.len();
    partial.keep(&target)?;
    let view = BackupView { file: target.file, bytes, store: url.to_string(), revision, namespaces };
    terminal.show(&view, |view| {
        let names: Vec<&str> = view.namespaces.iter().map(|part| part.namespace.as_str()).collect();
        let (file, bytes, revision) = (view.file.display(), view.bytes, view.revision);
        format!(
            "{file}: {bytes} bytes of {}, as of revision {revision} (namespaces: {})\n",
            view.store,
            names.join(", ")
        )
    })?;
    Ok(Exit::Done)
}

async fn copy(store: &AnyStore, partial: &Partial, namespaces: &[Namespace]) -> anyhow::Result<(u64, Vec<Part>)> {
    let keys = |namespace: &Namespace| Keys::prefix(namespace.prefix());
    let part = |(namespace, keys): (&Namespace, Option<u64>)| Part { namespace: namespace.to_string(), keys };
    match store {
        AnyStore::Sqlite(store) => {
            let copied = store.copy_to(&partial.path, namespaces.iter().map(keys).collect()).await?;
            let parts = namespaces.iter().zip(copied.keys.into_iter().map(Some)).map(part).collect();
            Ok((copied.revision.0, parts))
        }
        AnyStore::Etcd(store) => {
            let page = store.range(Range { keys_only: true, limit: 1, ..Range::of(keys(&namespaces[0])) }).await?;
            store.snapshot_to(&partial.file).await?;
            Ok((page.revision.0, namespaces.iter().map(|namespace| part((namespace, None))).collect()))
        }
        AnyStore::Postgres(_) => Err(Failure::wrong(
            "a store in PostgreSQL is copied with the database that it is in, or alone with `pg_dump --schema=fencron`; \
             docs/care.md says what to do after a restore",
        )
        .into()),
        AnyStore::Memory(_) => Err(Failure::wrong("a store in memory has no backup").into()),
    }
}

/// Where the copy goes.
struct Target {
    file: PathBuf,
    force: bool,
}

impl Target {
    fn of(args: &BackupArgs, store: &AnyStore) -> anyhow::Result<Target> {
        let target = Target { file: args.file.clone(), force: args.force };
        let shown = target.file.display();
        if target.file.file_name().is_none() || target.file.is_dir() {
            return Err(Failure::wrong(format!("{shown} is a directory: name a file to make in it")).into());
        }
        if matches!(store, AnyStore::Sqlite(store) if store.is_its_file(&target.file)) {
            return Err(Failure::wrong(format!("{shown} is the store itself: name another file")).into());
        }
        target.refuse_existing()?;
        Ok(target)
    }

    fn refuse_existing(&self) -> Result<(), Failure> {
        if !self.force && self.file.symlink_metadata().is_ok() {
            let shown = self.file.display();
            return Err(Failure::wrong(format!(
                "{shown} exists, and was left as it is: name another file, or add --force"
            )));
        }
        Ok(())
    }

    /// Opens the file beside the target that becomes the target when it is whole. What a killed backup has left there is
    /// written over.
    fn begin(&self) -> anyhow::Result<Partial> {
        let mut name: OsString = self.file.clone().into();
        name.push(".partial");
        let path = PathBuf::from(name);
        let cannot = || format!("cannot write {}", path.display());
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = format!("another backup is being written to {}", path.display());
                return Err(Failure::new(Exit::NotAcquired, why).into());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        file.set_len(0).with_context(cannot)?;
        Ok(Partial { path, file })
    }
}

/// A copy that is being written. Its lock goes with the open file.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Makes it the target, on disk. A file that has come there meanwhile is replaced by `--force` alone.
    fn keep(&self, target: &Target) -> anyhow::Result<()> {
        let placed = self.file.sync_all().and_then(|()| {
            if target.force { fs::rename(&self.path, &target.file) } else { place(&self.path, &target.file) }
        });
        if placed.is_err() {
            self.discard();
        }
        let shown = target.file.display();
        placed.with_context(|| format!("the copy was made, and cannot be put at {shown}"))?;
        let directory = target.file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let synced = File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all());
        synced.with_context(|| format!("{shown} is written, and may be gone after a power cut"))
    }

    /// The next backup to the same place writes over what cannot be removed.
    fn discard(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "{} was left", self.path.display());
        }
    }
}

/// Gives the file its name where nothing has it. Filesystems without hard links look before they rename.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(_) if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_came_meanwhile_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("copy");
        let target = Target { file: file.clone(), force: false };
        let partial = target.begin().unwrap();
        fs::write(&file, "another").unwrap();
        let error = partial.keep(&target).unwrap_err();
        assert!(format!("{error:#}").contains("exists"), "{error:#}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "another");
        assert!(!partial.path.exists());
    }

    #[test]
    fn two_backups_to_one_file_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target { file: directory.path().join("copy"), force: false };
        let first = target.begin().unwrap();
        let Err(error) = target.begin() else { panic!("both write it") };
        assert!(error.to_string().contains("another backup"), "{error}");
        drop(first);
        assert!(target.begin().is_ok(), "what a killed one has left is written over");
    }
}
