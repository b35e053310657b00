//! A snapshot of the whole cluster, as etcd's own tools make and restore it: what a backup is made of.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::members::Nature;
use super::{EtcdStore, Subject};
use crate::store::StoreError;

/// etcd ends a snapshot with the SHA-256 of all before it.
const SUM: u64 = 32;

/// The database before the sum is whole sectors.
const SECTOR: u64 = 512;

impl EtcdStore {
    /// Writes a snapshot of one member into `file`, syncs it, and reads it back.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] where the user is not an administrator of etcd; [`StoreError::Unavailable`] where the member
    /// stops in the middle: begin again.
    pub(crate) async fn snapshot_to(&self, file: &File) -> Result<(), StoreError> {
        let asked = self.asked(Nature::Read, Subject::default());
        let begun =
            self.members.call(asked, |client| async move { client.maintenance_client().snapshot().await }).await;
        let mut snapshot = begun.map_err(needs_root)?;
        let broken = |why: String| StoreError::Unavailable { store: "etcd".to_owned(), why };
        let lost = |error: io::Error| broken(format!("the snapshot cannot be kept: {error}"));
        let mut into = tokio::fs::File::from_std(file.try_clone().map_err(lost)?);
        let patience = self.members.config().timeouts().call;
        loop {
            let part = timeout(patience, snapshot.message()).await;
            let part = part.map_err(|_| broken("the snapshot stands still: begin again".to_owned()))?;
            match part.map_err(|error| needs_root(broken(format!("the snapshot broke off: {error}"))))? {
                Some(part) => into.write_all(part.blob()).await.map_err(lost)?,
                None => break,
            }
        }
        into.sync_all().await.map_err(lost)?;
        match whole(file) {
            Ok(true) => Ok(()),
            Ok(false) => Err(broken("the snapshot is not whole: its sum is another one. Begin again".to_owned())),
            Err(error) => Err(lost(error)),
        }
    }
}

/// etcd says no more than "permission denied".
fn needs_root(error: StoreError) -> StoreError {
    match error {
        StoreError::Denied { store, .. } => {
            let why = "a snapshot holds every key, and only a user with etcd's role `root` may have it".to_owned();
            StoreError::Denied { store, why }
        }
        StoreError::Unavailable { store, why } if why.contains("permission denied") => {
            needs_root(StoreError::Denied { store, why })
        }
        other => other,
    }
}

/// Whether the sum at the end of the file is that of what is before it.
fn whole(mut file: &File) -> io::Result<bool> {
    let size = file.metadata()?.len();
    if size <= SUM || size % SECTOR != SUM {
        return Ok(false);
    }
    file.rewind()?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut left = size - SUM;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        file.read_exact(&mut buffer[..most])?;
        sum.update(&buffer[..most]);
        left -= most as u64;
    }
    let mut end = [0; SUM as usize];
    file.read_exact(&mut end)?;
    Ok(sum.finalize().as_slice() == end)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_snapshot_that_was_cut_or_changed_is_not_whole() {
        let database = vec![7; 200_000 / 512 * 512];
        let mut snapshot = database.clone();
        snapshot.extend(Sha256::digest(&database));
        assert!(whole(&file(&snapshot)).unwrap());
        let mut changed = snapshot.clone();
        changed[100_000] = 8;
        for bytes in [&changed[..], &snapshot[..snapshot.len() - 512], &snapshot[..512 * 3], &[], &[0; 32]] {
            assert!(!whole(&file(bytes)).unwrap(), "{} bytes", bytes.len());
        }
    }
}
