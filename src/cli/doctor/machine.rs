//! What this machine is found to be like: its clock, its limits, its units, its data about time zones.

use std::process::Stdio;
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use tokio::process::Command;

use super::Outcome;
use super::rules::{self, KernelClock, Limits, Needs};
use crate::time::Wall;

/// How long a node may take beside the grace and its jobs' `kill_after`, where the store does not answer.
const LAST_WORDS_MOST: Duration = Duration::from_secs(12);

/// How much of what systemd says of its units is read, in bytes: a few hundred each.
const UNITS_MOST: usize = 1 << 20;

/// Where systems say which version of the data about time zones they have.
const ZONES: &str = "/usr/share/zoneinfo/tzdata.zi";

/// What the kernel knows of its clock; `None`: it does not say.
pub(super) fn kernel_clock() -> Option<KernelClock> {
    #[expect(unsafe_code, reason = "no crate of ours asks the kernel for it")]
    // SAFETY: all fields are numbers, and with no mode the kernel only writes to what it is given.
    let (state, clock) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut clock), clock)
    };
    let is_synchronised = state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0;
    (state >= 0).then_some(KernelClock { is_synchronised })
}

/// What this user may have at once.
pub(super) fn limits() -> Limits {
    let soft = |resource| getrlimit(resource).ok().map(|(soft, _)| soft).filter(|soft| *soft != RLIM_INFINITY);
    // A node raises the first to the hard limit for itself.
    let files = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard).filter(|hard| *hard != RLIM_INFINITY);
    Limits { files, processes: soft(Resource::RLIMIT_NPROC) }
}

/// What systemd says of the units of nodes.
pub(super) async fn units(needs: Needs) -> Outcome {
    let properties = "--property=Id,LoadState,KillMode,TimeoutStopUSec,LimitNOFILE,TasksMax";
    let mut asking = Command::new("systemctl");
    asking.args(["show", "fencron*.service", properties]).stdin(Stdio::null()).kill_on_drop(true);
    let said = match asking.output().await {
        Ok(said) if said.status.success() => said.stdout,
        Ok(_) => return Outcome::Skipped("systemd does not run here".to_owned()),
        Err(error) => return Outcome::Skipped(format!("systemctl cannot be run: {error}")),
    };
    let text = String::from_utf8_lossy(&said[..said.len().min(UNITS_MOST)]);
    match rules::units(&text, needs) {
        Some(found) => Outcome::Looked(found),
        None => Outcome::Skipped("systemd has loaded no unit fencron*.service".to_owned()),
    }
}

/// What the time zones of schedules are taken from.
pub(super) fn zones(now: Wall) -> Outcome {
    let system = std::fs::read_to_string(ZONES).ok();
    let system = system.as_deref().and_then(|text| text.lines().next()?.strip_prefix("# version "));
    Outcome::Looked(rules::zones(chrono_tz::IANA_TZDB_VERSION, system, now))
}

/// How long after SIGTERM a node may be there, where its jobs have this longest `kill_after`.
pub(super) fn longest_stop(grace: Duration, kill_after: Duration) -> Duration {
    grace + kill_after + LAST_WORDS_MOST
}
