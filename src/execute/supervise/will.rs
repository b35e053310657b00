//! The will of a node: how the session of one that has died ends at once, and not only when its lease has run out.
//!
//! A process that is killed cannot revoke its lease, so its successor waits for the rest of the TTL, although the machine
//! is well and the supervisor has seen the process end. So each node leaves a sealed file of memory with its supervisor:
//! the store, and what is needed to reach it. Once the node is dead **and nothing of its commands is left**, the
//! supervisor starts this program again under the name [`NAME`], which revokes the one lease and ends.
//!
//! What safety rests on stays the TTL. This only moves the end of a lease forward, to when nothing hangs on it any more;
//! and whatever the dead process has sent is compared by the store as before. A supervisor that was killed too, a store
//! that does not answer, a password that was changed: then the lease runs out, as it would without a will.
//!
//! | what the supervisor sees | what it does with the lease |
//! | --- | --- |
//! | its node has exited (the pidfd says so), and no command is left | revokes it |
//! | its node has exited, and a command is left, perhaps until it is killed | waits for it |
//! | its node stands still, hangs, or has closed the socket | nothing |

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::store::{AnyStore, LeaseId, Store as _, StoreError, StoreUrl};
use crate::threads;
use crate::time::{Boot, Clock};

/// The name of the process in `ps`, by which a program learns that it has to execute a will.
pub(super) const NAME: &str = "fencron-will";

/// The largest will that is read, in bytes.
const MOST: usize = 64 * 1024;

/// For how long the store is asked at most: a lease of an hour whose store is away then runs out by itself.
const WITHIN: Duration = Duration::from_secs(60);

/// The pause before the store is asked again; it doubles up to [`AGAIN_LAST`].
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_LAST: Duration = Duration::from_secs(1);

/// The store, and what is needed to reach it from another process of this machine.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Will {
    /// Its URL without user and password, and with absolute paths: certificates are read by the process that needs them.
    store: String,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
}

impl Will {
    fn of(url: &StoreUrl) -> io::Result<Will> {
        let mut will = Will { store: url.for_others()?, user: None, password: None, password_file: None };
        if let StoreUrl::Etcd(config) = url {
            will.user = config.user().map(str::to_owned);
            will.password = config.credentials().map(|(_, password)| password);
            will.password_file = config.password_file().map(std::path::absolute).transpose()?;
        }
        if let StoreUrl::Postgres(config) = url {
            let (user, password) = config.credentials();
            (will.user, will.password) = (user.map(str::to_owned), password.map(str::to_owned));
        }
        Ok(will)
    }

    fn url(self) -> io::Result<StoreUrl> {
        let url: StoreUrl = self.store.parse().map_err(io::Error::other)?;
        let mut config = match url {
            StoreUrl::Etcd(config) => config,
            StoreUrl::Postgres(mut config) => {
                config = self.user.into_iter().fold(config, |config, user| config.with_user(user));
                config = self.password.into_iter().fold(config, |config, password| config.with_password(password));
                return Ok(StoreUrl::Postgres(config));
            }
            url => return Ok(url),
        };
        if let Some(user) = self.user {
            config = config.with_user(user);
        }
        if let Some(password) = self.password {
            config = config.with_password(password);
        }
        if let Some(path) = self.password_file {
            config = config.with_password_file(path);
        }
        Ok(StoreUrl::Etcd(config))
    }
}

/// Writes the will of a process that works with the store at `url`. `None`: the store is gone with the process.
///
/// No process can change the file. It is read by no other than the one that executes it: those of this program cannot be
/// looked into ([`super::hide`]).
pub(super) fn write(url: &StoreUrl) -> io::Result<Option<OwnedFd>> {
    if *url == StoreUrl::Memory {
        return Ok(None);
    }
    let file = memfd_create(c"fencron-will", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(&serde_json::to_vec(&Will::of(url)?)?)?;
    let seals = [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_SEAL];
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals.into_iter().collect()))?;
    Ok(Some(file.into()))
}

/// Starts the process that executes a will, from the supervisor of a node that is dead. Whether it succeeds is its own
/// affair: the lease runs out in any case, and past `until` nothing can be gained.
pub(super) fn execute(will: OwnedFd, lease: NonZeroU64, until: Boot) -> io::Result<()> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(NAME).arg(format!("lease={lease}")).arg(format!("until={}", until.since_boot().as_millis()));
    command.stdin(Stdio::from(will)).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop)
}

/// Executes the will that is the standard input. Returns how the program ends.
pub(super) fn main() -> i32 {
    // No process reads what this one could say: it has no terminal and no log.
    match take().and_then(|(url, lease, until)| revoke(&url, lease, until)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn take() -> io::Result<(StoreUrl, LeaseId, Boot)> {
    super::hide()?;
    let name = CString::new(NAME).map_err(io::Error::other)?;
    nix::sys::prctl::set_name(&name)?;
    let said = |what: &str| {
        let value = std::env::args().find_map(|arg| arg.strip_prefix(what)?.parse::<u64>().ok());
        value.ok_or_else(|| io::Error::other(format!("no {what}")))
    };
    let lease = NonZeroU64::new(said("lease=")?).ok_or_else(|| io::Error::other("lease=0"))?;
    let until = Boot::from_duration(Duration::from_millis(said("until=")?));
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut text = vec![0; MOST];
    // At the beginning, wherever its writer was: they share their place in it.
    let length = file.read_at(&mut text, 0)?;
    let will: Will = serde_json::from_slice(&text[..length])?;
    Ok((will.url()?, LeaseId(lease), until))
}

/// Revokes the lease, for as long as it may still live.
fn revoke(url: &StoreUrl, lease: LeaseId, until: Boot) -> io::Result<()> {
    let runtime = threads::runtime(&mut tokio::runtime::Builder::new_current_thread(), 0)?;
    runtime.block_on(async {
        let clock = Clock::system();
        let until = until.min(clock.boot().plus(WITHIN));
        let mut pause = AGAIN_FIRST;
        loop {
            match revoke_once(url, lease, &clock).await {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_passing() || clock.boot().plus(pause) >= until => {
                    return Err(io::Error::other(error));
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_LAST);
        }
    })
}

async fn revoke_once(url: &StoreUrl, lease: LeaseId, clock: &Clock) -> Result<(), StoreError> {
    if let StoreUrl::Sqlite(path) = url
        && !path.exists()
    {
        // There is nothing to take over, and this is not the program that makes a store.
        return Ok(());
    }
    let store = AnyStore::open(url, clock.clone()).await?;
    store.revoke(lease).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &File) -> Will {
        let mut text = vec![0; MOST];
        let length = file.read_at(&mut text, 0).unwrap();
        serde_json::from_slice(&text[..length]).unwrap()
    }

    #[test]
    fn a_will_leads_to_the_same_store_by_the_same_credentials() {
        for url in [
            "sqlite:/a/b c.db",
            "etcd://shop:p%40ss@a,b:1",
            "etcds://a?ca=/ca&cert=/c&key=/k&domain=x",
            "postgres://shop:p%40ss@a:5433/ops?sslmode=verify-full",
        ] {
            let url: StoreUrl = url.parse().unwrap();
            let file = File::from(write(&url).unwrap().unwrap());
            assert_eq!(read(&file).url().unwrap(), url);
        }
        let StoreUrl::Etcd(config) = "etcd://shop@a".parse().unwrap() else { panic!("it is one") };
        let url = StoreUrl::Etcd(config.with_password_file("/run/password"));
        let file = File::from(write(&url).unwrap().unwrap());
        assert_eq!(read(&file).url().unwrap(), url);
        assert!(write(&StoreUrl::Memory).unwrap().is_none());
    }

    #[test]
    fn a_will_cannot_be_changed() {
        let file = File::from(write(&"sqlite:/a".parse().unwrap()).unwrap().unwrap());
        assert!(file.write_at(b"x", 0).is_err() && file.set_len(0).is_err() && file.set_len(MOST as u64).is_err());
        let more = fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::empty()));
        assert!(more.is_err(), "its seals neither");
    }
}
