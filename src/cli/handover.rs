//! Passes the store of the program that runs a command on to that command, so that a `fencron` in it works with the
//! same one.
//!
//! The address goes into the environment, which everything that the command starts inherits, and which is shown and logged
//! by many a tool. User and password do not: they are in a file for this user only, with the store that they are for, and
//! the environment names the file.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file;
use super::living::LivingFile;
use super::place::{ETCD_PASSWORD_FILE, ETCD_USER};
use crate::store::StoreUrl;

/// The store, without what is secret.
pub(super) const STORE: &str = "FENCRON_STORE";

/// The file with the user and the password for it.
pub(super) const ACCESS: &str = "FENCRON_STORE_ACCESS";

/// What the names of these files begin with.
const PREFIX: &str = "fencron-access-";

/// User and password, and the store that they are for: they are sent to no other.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Access {
    store: String,
    user: String,
    password: String,
}

/// What is passed on to commands, for as long as this lives.
#[derive(Debug)]
pub(super) struct Handover {
    variables: Vec<(OsString, OsString)>,
    file: Option<LivingFile>,
}

impl Handover {
    /// For the commands of a program that works with `url`. A file is made in `dir` where there is a password.
    pub fn new(url: &StoreUrl, dir: &Path) -> io::Result<Handover> {
        let store = url.for_others()?;
        let mut handover = Handover { variables: vec![(STORE.into(), store.clone().into())], file: None };
        let config = match url {
            StoreUrl::Etcd(config) => config,
            StoreUrl::Postgres(config) => {
                if let (Some(user), password) = config.credentials() {
                    let password = password.unwrap_or_default().to_owned();
                    handover.make(dir, Access { store, user: user.to_owned(), password })?;
                }
                return Ok(handover);
            }
            _ => return Ok(handover),
        };
        if let (Some(user), Some(path)) = (config.user(), config.password_file()) {
            // What would be written down could be another one soon.
            handover.variables.push((ETCD_USER.into(), user.into()));
            handover.variables.push((ETCD_PASSWORD_FILE.into(), path.into()));
            return Ok(handover);
        }
        let Some((user, password)) = config.credentials() else { return Ok(handover) };
        handover.make(dir, Access { store, user, password })?;
        Ok(handover)
    }

    /// The file for a command, or the one that this program was given, where it holds the same.
    fn make(&mut self, dir: &Path, access: Access) -> io::Result<()> {
        let path = match inherited().filter(|path| read(path).is_ok_and(|inherited| inherited == access)) {
            Some(path) => path,
            None => {
                let file = LivingFile::make(dir, PREFIX, &serde_json::to_vec(&access)?)?;
                self.file.insert(file).path().to_owned()
            }
        };
        self.variables.push((ACCESS.into(), path.into()));
        Ok(())
    }

    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        self.variables.clone()
    }

    /// Whether user and password are in a file that the command can read, so that it needs them nowhere else.
    pub fn has_access(&self) -> bool {
        self.variables.iter().any(|(name, _)| name == ACCESS)
    }
}

/// The file that was handed to this program.
fn inherited() -> Option<PathBuf> {
    std::env::var_os(ACCESS).map(PathBuf::from)
}

/// User and password for the store at `url`, where this program was handed them.
///
/// # Errors
///
/// Where `url` is the store that was handed over, and the file cannot be read.
pub(super) fn credentials(url: &StoreUrl) -> io::Result<Option<(String, String)>> {
    let Some(path) = inherited() else { return Ok(None) };
    let store = url.for_others()?;
    match read(&path) {
        Ok(access) => Ok((access.store == store).then_some((access.user, access.password))),
        Err(_) if std::env::var_os(STORE).is_none_or(|handed| handed != *store) => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))),
    }
}

fn read(path: &Path) -> io::Result<Access> {
    let text = file::secret(path)?;
    // What serde says may repeat a part of it.
    serde_json::from_str(&text).map_err(|_| io::Error::other("it is not what a program of this version writes"))
}

/// Where a program keeps it that has no directory of its own.
pub(super) fn passing_dir() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.filter(|dir| dir.is_absolute() && dir.is_dir()).unwrap_or_else(std::env::temp_dir)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn files(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_is_secret_is_in_a_file_for_this_user_that_goes_with_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let url: StoreUrl = "etcds://shop:p%40ss@a?ca=certs/ca.pem".parse().unwrap();
        let handover = Handover::new(&url, dir.path()).unwrap();
        let shown = format!("{:?}", handover.variables());
        assert!(!shown.contains("p@ss") && !shown.contains("p%40ss") && !shown.contains("shop"), "{shown}");
        let store = handover.variables()[0].1.to_str().unwrap().to_owned();
        let ca = std::path::absolute("certs/ca.pem").unwrap();
        assert_eq!(store, format!("etcds://a:2379?ca={}", ca.display()));
        let [path] = &files(dir.path())[..] else { panic!("one file") };
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
        let access = read(path).unwrap();
        assert_eq!((access.store, access.user, access.password), (store, "shop".into(), "p@ss".into()));
        drop(handover);
        assert!(files(dir.path()).is_empty());
    }

    #[test]
    fn what_a_killed_program_left_is_swept_and_what_is_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(format!("{PREFIX}0"));
        fs::write(&left, "{}").unwrap();
        fs::write(dir.path().join("another"), "").unwrap();
        let url: StoreUrl = "etcd://shop:s3cret@a".parse().unwrap();
        let first = Handover::new(&url, dir.path()).unwrap();
        assert!(!left.exists());
        let _second = Handover::new(&url, dir.path()).unwrap();
        assert!(first.file.as_ref().unwrap().path().exists());
        assert_eq!(files(dir.path()).len(), 3);
    }

    #[test]
    fn a_store_without_a_password_needs_no_file() {
        let dir = tempfile::tempdir().unwrap();
        for (url, told) in [
            ("sqlite:/a/b.db", "sqlite:/a/b.db"),
            ("memory:", "memory:"),
            ("etcd://a,[::1]:1", "etcd://a:2379,[::1]:1"),
        ] {
            let handover = Handover::new(&url.parse().unwrap(), dir.path()).unwrap();
            assert_eq!(handover.variables(), [(STORE.into(), told.into())]);
            assert!(!handover.has_access());
        }
        assert!(files(dir.path()).is_empty());
    }
}
