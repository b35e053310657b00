//! Advice about a state that lasts until a person changes it: printed once a day, and not by every command.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;

use super::handover::passing_dir;
use crate::time::{Clock, Wall};

/// After how long the advice is printed again.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Whether the advice was printed for this user within the last day. If not, the caller prints it now.
pub(super) fn was_given_today(clock: &Clock) -> bool {
    was_given(&passing_dir().join(format!("fencron-advised-{}", geteuid())), clock.wall())
}

fn was_given(path: &Path, now: Wall) -> bool {
    let noted = fs::symlink_metadata(path).ok();
    let ours = noted.filter(|noted| noted.is_file() && noted.uid() == geteuid().as_raw());
    let given = ours.map(|noted| Wall::from_millis(noted.mtime().saturating_mul(1000)));
    if given.is_some_and(|given| given <= now && now.since(given) < AGAIN_AFTER) {
        return true;
    }
    let flags = O_NOFOLLOW | O_NONBLOCK;
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(path);
    // If that cannot be recorded, the advice is printed again.
    file.and_then(|mut file| file.write_all(b"\n")).ok();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("advised");
        let now = Clock::system().wall();
        assert!(!was_given(&path, now));
        let soon = now.plus(Duration::from_secs(3600));
        assert!(was_given(&path, soon));
        assert!(!was_given(&path, now.plus(Duration::from_secs(25 * 3600))), "another day");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("another"), &path).unwrap();
        assert!(!was_given(&path, soon) && !dir.path().join("another").exists(), "a link is not followed");
    }
}
