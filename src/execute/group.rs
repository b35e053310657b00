//! A command's process group: it is asked to end, killed, and waited for until the last of it is gone.
//!
//! The number of a process can be given to another once it is gone, so when is it safe to signal a group by its number?
//!
//! - While its leader is not reaped: a zombie keeps its number. Only [`Leader`] reaps it, and only after the whole
//!   group was asked to end.
//! - From then on the group is addressed through the leader's pidfd (`PIDFD_SIGNAL_PROCESS_GROUP`, Linux 6.9): the
//!   kernel goes from the descriptor to the members, not from the number, so it cannot meet a stranger.
//! - On an older kernel the number is used. It stays taken as long as one member lives, so it is still ours when the
//!   last look, at most [`LOOK_LAST`] ago, found a member that lives on; for a stranger to be met, that member must end
//!   and all other numbers be used up between two looks. Once a look found no member, nothing is ever sent again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_int};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time;

use super::census::{self, Member};
use super::spawn::Starter;
use super::supervise::Charge;

/// How soon after its leader's end a group is looked at for the second time; the pauses double from then on. The kernel
/// informs a parent of its children's end, but no process of the end of a group.
const LOOK_FIRST: Duration = Duration::from_millis(1);
/// The longest pause between two looks.
const LOOK_LAST: Duration = Duration::from_millis(256);
/// From this pause on it is also looked whether what remains is dead, and only not reaped by its parent.
const LOOK_FOR_DEAD: Duration = Duration::from_millis(64);

/// From the kernel's `include/uapi/linux/pidfd.h`; the C library does not have it yet.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// How far the ending of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To its group: for what ended by itself.
    Group,
    /// To all groups of its session, as timeout(1) and shells with job control make them. That takes a look at all
    /// processes of the machine, too much for the end of every command: for what is ended against its will.
    Session,
    /// The same where its session is that of its caller: to what descends from it there. Whose parent has ended is not
    /// found any more, so that they are looked for first.
    Descendants,
}

/// Whether a group has members (a zombie is one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Members {
    Some,
    None,
}

/// The process that a command was started as: the leader of its group, whose number is also the group's.
///
/// Dropped before [`Leader::end`] is through, it kills the group at once.
#[derive(Debug)]
pub(super) struct Leader {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    /// `None` until it was reaped.
    status: Option<ExitStatus>,
    /// The group was found empty.
    gone: bool,
    starter: Starter,
    /// The supervisor, which ends it when this process cannot.
    charge: Charge,
}

impl Leader {
    /// Takes on a child of this process that leads its own group.
    pub(super) fn new(pid: Pid, pidfd: Arc<OwnedFd>, charge: Charge, starter: Starter) -> Leader {
        Leader { pid, pidfd, status: None, gone: false, starter, charge }
    }

    /// Waits until the leader has exited, and leaves it a zombie. May be called again, and dropped.
    pub(super) async fn exited(&self) {
        if self.status.is_some() {
            return;
        }
        // A pidfd is readable once its process has exited. Registered each time, so as to need no runtime before.
        // SAFETY: the descriptor is borrowed, and so stays open and the same while it is registered.
        match unsafe { AsyncFd::register_with_interest(self.pidfd.as_fd(), Interest::READABLE) } {
            Ok(exit) if exit.readable().await.is_ok() => {}
            // The runtime is shutting down, and drops this next.
            Ok(_) => std::future::pending().await,
            Err(error) => self.exited_by_looking(&error.into()).await,
        }
    }

    /// Whether the leader has exited, as far as the system knows.
    pub(super) fn has_exited(&self) -> bool {
        self.status.is_some() || census::has_exited(self.pid)
    }

    /// For when the system cannot watch a further descriptor. The command runs, so giving up is no choice.
    async fn exited_by_looking(&self, why: &io::Error) {
        tracing::warn!(pid = self.pid.as_raw(), error = %why, "cannot watch the command, looking at it now and then");
        while !census::has_exited(self.pid) {
            time::sleep(LOOK_LAST).await;
        }
    }

    /// Ends the whole group: TERM; after `kill_after`, KILL; returns how the leader exited once no member is left.
    ///
    /// To be called too when the leader has already exited, for what it left behind. With [`Reach::Session`] it goes
    /// for the processes of the session that made themselves a group of their own, too.
    pub(super) async fn end(&mut self, kill_after: Duration, reach: Reach) -> ExitStatus {
        let asks = self.charge.claim_ending();
        let early = if asks && reach == Reach::Descendants { self.strays(reach).await } else { Vec::new() };
        if asks {
            self.signal(Signal::SIGTERM);
            // A stopped process would see the TERM only when it is continued.
            self.signal(Signal::SIGCONT);
        }
        // The group may be waiting for its strays: they are asked to end before it is waited for.
        let strays = if asks && reach == Reach::Session { self.strays(reach).await } else { early };
        if time::timeout(kill_after, self.heed(reach, &strays)).await.is_err() {
            self.signal(Signal::SIGKILL);
            for stray in &strays {
                // As in `heed`. Those that descend from what is gone by now are not found again.
                stray.signal(Signal::SIGKILL).ok();
            }
            self.group_left(Some(Signal::SIGKILL)).await;
            self.strays_left(reach, Some(Signal::SIGKILL)).await;
        }
        self.gone = true;
        self.status.expect("reaped before the group can be empty")
    }

    /// The number of its group, and of the process that it was started as.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// What may be asked of the supervisor about it.
    pub(super) fn charge(&self) -> &Charge {
        &self.charge
    }

    /// Waits until all that was asked to end has ended.
    async fn heed(&mut self, reach: Reach, strays: &[Member]) {
        for stray in strays {
            // One that has ended meanwhile needs no signal, and one that may not be signalled is waited for.
            stray.signal(Signal::SIGTERM).and_then(|()| stray.signal(Signal::SIGCONT)).ok();
        }
        self.group_left(None).await;
        self.strays_left(reach, None).await;
    }

    /// Waits until no member is left, sending `signal` again at each look: one may have been born meanwhile.
    async fn group_left(&mut self, signal: Option<Signal>) {
        while self.status.is_none() {
            self.exited().await;
            self.status = reap(self.pid);
        }
        let mut pause = LOOK_FIRST;
        while self.send(signal) == Members::Some {
            reap_adopted(self.pid);
            if pause >= LOOK_FOR_DEAD && !self.has_living_members().await {
                return;
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    /// The same for the rest of the session.
    async fn strays_left(&self, reach: Reach, signal: Option<Signal>) {
        let mut pause = LOOK_FIRST;
        loop {
            let strays = self.strays(reach).await;
            if strays.is_empty() {
                return;
            }
            if let Some(signal) = signal {
                // As in `heed`.
                for stray in strays {
                    stray.signal(signal).ok();
                }
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    async fn strays(&self, reach: Reach) -> Vec<Member> {
        match reach {
            Reach::Group => Vec::new(),
            Reach::Session | Reach::Descendants => {
                let mut members = self.starter.census().of(self.pid).await.unwrap_or_default();
                members.retain(|member| !member.is_in_group());
                members
            }
        }
    }

    /// Sends to every member.
    pub(super) fn signal(&self, signal: Signal) {
        self.send(Some(signal));
    }

    /// Sends to every member; `None` only looks whether there are any.
    fn send(&self, signal: Option<Signal>) -> Members {
        let result = send(self.pidfd.as_fd(), self.pid, signal);
        if result == Err(Errno::EPERM) && signal == Some(Signal::SIGTERM) {
            tracing::warn!(group = self.pid.as_raw(), "the command runs as another user and cannot be asked to end");
        }
        if result == Err(Errno::ESRCH) { Members::None } else { Members::Some }
    }

    /// Whether a member is anything but a zombie. In a container whose first process does not reap, the dead stay.
    async fn has_living_members(&self) -> bool {
        let members = self.starter.census().of(self.pid).await;
        members.is_none_or(|members| members.iter().any(Member::is_in_group))
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.gone {
            self.signal(Signal::SIGKILL);
        }
        if self.status.is_none() {
            self.starter.bury(self.pid);
        }
    }
}

/// Sends to every member of the group that the process behind `pidfd` leads, whose number is `leader`; `None` only looks
/// whether there are any.
pub(super) fn send(pidfd: BorrowedFd<'_>, leader: Pid, signal: Option<Signal>) -> Result<(), Errno> {
    let number = signal.map_or(0, |signal| signal as c_int);
    let (fd, group) = (pidfd.as_raw_fd(), PIDFD_SIGNAL_PROCESS_GROUP);
    let no_info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a system call on an open descriptor and no pointer.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, no_info, group) };
    match Errno::result(sent) {
        Err(Errno::EINVAL | Errno::ENOSYS) => killpg(leader, signal),
        other => other.map(drop),
    }
}

/// Reaps this child if it has exited. A child that was reaped elsewhere, against the rule, counts as killed.
pub(super) fn reap(child: Pid) -> Option<ExitStatus> {
    let mut status: c_int = 0;
    // SAFETY: writes to a valid place. Not nix's waitpid, which has no word for real-time signals.
    match unsafe { libc::waitpid(child.as_raw(), &raw mut status, libc::WNOHANG) } {
        0 => None,
        pid if pid == child.as_raw() => Some(ExitStatus::from_raw(status)),
        _ => Some(ExitStatus::from_raw(libc::SIGKILL)),
    }
}

/// Reaps members that have become children of this process because their parent died: where it is a container's first.
fn reap_adopted(group: Pid) {
    let mut status: c_int = 0;
    // SAFETY: writes to a valid place.
    while unsafe { libc::waitpid(-group.as_raw(), &raw mut status, libc::WNOHANG) } > 0 {}
}
