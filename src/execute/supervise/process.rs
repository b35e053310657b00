//! What the supervisor does. One thread that sleeps until a packet, the death of its node, or the next deadline.
//!
//! It owns no session, no store and no log. Its three standard descriptors are the socket and the shared memory; it has
//! no others but a pidfd of its node, the [will](super::will) of that, and those of the commands. Only once its node is
//! dead are there further threads: those that [keep](super::keeping) what commands still write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use super::keeping::{self, Ending, Keeping};
use super::message::{Command, Message, Received, receive, send_now};
use super::page::{Page, Side};
use super::will;
use crate::execute::census::{self, Found, Member};
use crate::execute::group;
use crate::time::{Boot, Clock};

/// How soon what was killed is looked at again, at first: the pauses double up to [`AGAIN_LAST`].
const AGAIN_FIRST: Duration = Duration::from_millis(2);
const AGAIN_LAST: Duration = Duration::from_millis(256);

/// How much output of a dead node's commands is thrown away at once.
const DRAIN_AT_ONCE: usize = 64 * 1024;

/// Other signals that are sent to a node, by a terminal or by its process group, are not meant for this process; and a file
/// that is larger than the process may make one is no reason to end.
const IGNORED: [Signal; 11] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGPIPE,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGXFSZ,
];

/// Supervises until the node is gone and nothing is left to hold. Returns how the program ends.
pub(super) fn main() -> i32 {
    match settle().and_then(Supervisor::run) {
        Ok(()) => 0,
        // Only the process that started it can learn of this, by the exit code.
        Err(_) => 2,
    }
}

/// Separates this process from the one that started it: session, terminal, files, signals.
fn settle() -> Result<Supervisor, Errno> {
    super::hide().map_err(|_| Errno::EPERM)?;
    for ignored in IGNORED {
        // SAFETY: no handler of ours is installed, this has it ignored.
        unsafe { signal(ignored, SigHandler::SigIgn)? };
    }
    // Fails only where it leads a group already.
    nix::unistd::setsid().ok();
    nix::sys::prctl::set_name(c"fencron-supervi")?;
    // SAFETY: nothing in this process has opened anything yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let take = |standard: BorrowedFd<'_>| standard.try_clone_to_owned().map_err(|_| Errno::EBADF);
    let socket = take(std::io::stdin().as_fd())?;
    let files = [take(std::io::stdout().as_fd())?, take(std::io::stderr().as_fd())?];
    let page = Page::map(files).map_err(|_| Errno::EBADF)?;
    let parent = nix::unistd::getppid();
    let node = super::pidfd_open(parent.as_raw())?;
    // Had the node died before that, the number might be another's by now, and this process another's child.
    if nix::unistd::getppid() != parent || parent.as_raw() != node_of(std::env::args()).ok_or(Errno::EINVAL)? {
        return Err(Errno::ESRCH);
    }
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    send_now(socket.as_fd(), Message::Look, &[])?;
    Ok(Supervisor {
        page,
        socket: Some(socket),
        node,
        timer,
        clock: Clock::system(),
        node_gone: None,
        will: None,
        commands: BTreeMap::new(),
        keeping: Vec::new(),
    })
}

/// The process that started this one, as it says itself.
fn node_of(mut args: impl Iterator<Item = String>) -> Option<libc::pid_t> {
    args.find_map(|arg| arg.strip_prefix("node=")?.parse().ok())
}

struct Supervisor {
    page: Page,
    /// `None`: no sender is left.
    socket: Option<OwnedFd>,
    /// A pidfd.
    node: OwnedFd,
    timer: TimerFd,
    clock: Clock,
    /// Since when there is no node.
    node_gone: Option<Boot>,
    /// The lease of the node's session, where that stands, and how it is revoked.
    will: Option<((u32, u64), OwnedFd)>,
    /// By their slots.
    commands: BTreeMap<u32, Charge>,
    /// The ends of the threads that keep outputs.
    keeping: Vec<Ending>,
}

/// A command that is held.
struct Charge {
    command: Command,
    /// `None` where the system had no descriptor left for it.
    pidfd: Option<OwnedFd>,
    /// From which its output can be read, while a process can write to it.
    outputs: Vec<File>,
    /// Where all of that is kept.
    whole: Option<File>,
    /// What keeps it, instead of this thread.
    keeping: Option<Keeping>,
    /// When it was first seen to have been asked to end.
    asked_at: Option<Boot>,
    /// What was there then outside of its group: those that descend from it are not found again once it has ended.
    strays: Vec<Member>,
    /// It has been killed so often.
    kills: u32,
    /// When to look again at what is left of it.
    look_at: Option<Boot>,
    /// Nothing is left of it.
    empty: bool,
}

/// What is due for a command.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    At(Boot),
    AskToEnd,
    Kill,
}

impl Supervisor {
    fn run(mut self) -> Result<(), Errno> {
        loop {
            self.receive();
            let next = self.act();
            // Looked at once for what follows: had it ended between two looks, it would not be waited for any more.
            let node_has_ended = is_readable(self.node.as_fd());
            self.execute_will(node_has_ended);
            let nothing_to_do = self.socket.is_none() && self.commands.is_empty() && self.will.is_none();
            if self.node_gone.is_some() && nothing_to_do {
                keeping::wait(self.keeping);
                return Ok(());
            }
            self.sleep(next, node_has_ended)?;
        }
    }

    /// Takes all packets that are there.
    fn receive(&mut self) {
        while let Some(socket) = &self.socket {
            match receive(socket.as_fd()) {
                Received::Message(Message::Runs(command), descriptors) => self.take_on(command, descriptors),
                Received::Message(Message::Gone(slot), _) => drop(self.commands.remove(&slot)),
                Received::Message(Message::Look, _) => {}
                Received::Message(Message::Will(lease), descriptors) => {
                    self.will = lease.zip(descriptors.into_iter().next());
                }
                Received::Nothing => return,
                Received::End => self.socket = None,
            }
        }
    }

    /// Has the lease of a node revoked that is dead, as soon as nothing hangs on it: no command that ends with its
    /// leadership is left, and none can follow, since no process has the other end of the socket any more (a child has it
    /// until it becomes its program).
    fn execute_will(&mut self, node_has_ended: bool) {
        // A closed socket alone says nothing of the node.
        let may_revoke =
            self.socket.is_none() && self.commands.values().all(|charge| charge.command.finish) && node_has_ended;
        let Some(((cell, lease), file)) = self.will.take_if(|_| may_revoke) else { return };
        let until = self.page.limits(cell, lease).killed_at;
        if let Some(lease) = NonZeroU64::new(lease) {
            // Where it cannot be started, the lease runs out.
            will::execute(file, lease, until).ok();
        }
    }

    fn take_on(&mut self, command: Command, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        let pidfd = descriptors.next().or_else(|| super::pidfd_open(command.pid).ok());
        let mut outputs: Vec<_> = descriptors.map(File::from).collect();
        let whole = outputs.pop_if(|_| command.keeps > 0);
        for output in &outputs {
            // The node has done so, as it is the same open file: nothing here may ever wait for a pipe.
            fcntl(output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok();
        }
        let charge = Charge {
            command,
            pidfd,
            outputs,
            whole,
            keeping: None,
            asked_at: None,
            strays: Vec::new(),
            kills: 0,
            look_at: None,
            empty: false,
        };
        self.commands.insert(command.slot, charge);
    }

    /// Does what is due, and returns when the next is.
    fn act(&mut self) -> Option<Boot> {
        let now = self.clock.boot();
        if self.node_gone.is_none() {
            // Its files are closed before it has exited. (A node that lives lets go only when it has no commands.)
            let gone = self.socket.is_none() || is_readable(self.node.as_fd());
            self.node_gone = gone.then_some(now);
        }
        let (mut ask, mut kill) = (Vec::new(), Vec::new());
        for (slot, charge) in &mut self.commands {
            match charge.due(&self.page, self.node_gone, now) {
                Due::AskToEnd => ask.push(*slot),
                Due::Kill => kill.push(*slot),
                Due::Nothing | Due::At(_) => {}
            }
        }
        self.ask_to_end(&ask, now);
        self.kill(&kill);
        if self.node_gone.is_some() {
            self.let_go(now);
        }
        let (page, gone) = (&self.page, self.node_gone);
        let next = self.commands.values_mut().filter_map(|charge| {
            let due = match charge.due(page, gone, now) {
                Due::Nothing => None,
                Due::At(at) => Some(at),
                Due::AskToEnd | Due::Kill => Some(now),
            };
            due.into_iter().chain(charge.look_at.filter(|at| *at > now)).min()
        });
        next.min()
    }

    /// Asks commands to end, and what they have started.
    fn ask_to_end(&mut self, slots: &[u32], now: Boot) {
        for slot in slots {
            self.commands.entry(*slot).and_modify(|charge| charge.asked_at = Some(now));
        }
        let members = self.members(slots);
        for slot in slots {
            let Some(charge) = self.commands.get_mut(slot) else { continue };
            charge.strays = members.of(charge.command.pid).filter(|member| !member.is_in_group()).copied().collect();
            // It ended by itself, and its node has to be able to report that.
            charge.empty = members.are_known() && charge.has_ended() && members.of(charge.command.pid).next().is_none();
        }
        let claims = |slot: &u32| {
            let runs = self.commands.get(slot).is_some_and(|charge| !charge.empty);
            runs && self.page.claim_ending(*slot, Side::Supervisor)
        };
        let asked: Vec<u32> = slots.iter().copied().filter(claims).collect();
        for charge in asked.iter().filter_map(|slot| self.commands.get(slot)) {
            charge.ask_to_end(self.node_gone.is_some(), &members);
        }
    }

    /// Kills commands to the last process, or looks at what is left of those that were.
    fn kill(&mut self, slots: &[u32]) {
        // At once, and only then by looking at all processes, which takes its time on a full machine.
        for charge in slots.iter().filter_map(|slot| self.commands.get(slot)) {
            charge.signal_group(Signal::SIGKILL);
        }
        let members = self.members(slots);
        let now = self.clock.boot();
        for slot in slots {
            let Some(charge) = self.commands.get_mut(slot) else { continue };
            for stray in &charge.strays {
                // As below.
                stray.signal(Signal::SIGKILL).ok();
            }
            let found = members.of(charge.command.pid);
            for member in found.filter(|_| charge.owns_number()) {
                // One that has ended meanwhile needs no signal, and one that may not be signalled is tried again.
                member.signal(Signal::SIGKILL).ok();
            }
            charge.kills += 1;
            let pause = AGAIN_FIRST.saturating_mul(1 << charge.kills.min(16)).min(AGAIN_LAST);
            charge.empty = members.are_known() && members.of(charge.command.pid).next().is_none();
            charge.look_at = (!charge.empty).then(|| now.plus(pause));
        }
    }

    /// Lets go of the commands of which nothing is left. Only without a node: it says so itself otherwise.
    fn let_go(&mut self, now: Boot) {
        for charge in self.commands.values_mut() {
            self.keeping.extend(charge.keep());
            charge.drain();
        }
        let ended: Vec<u32> =
            self.commands.iter().filter(|(_, charge)| charge.has_ended()).map(|(slot, _)| *slot).collect();
        if ended.is_empty() {
            return;
        }
        let members = self.members(&ended);
        for slot in ended {
            let Some(charge) = self.commands.get_mut(&slot) else { continue };
            if charge.empty || (members.are_known() && members.of(charge.command.pid).next().is_none()) {
                self.commands.remove(&slot);
            } else if charge.look_at.is_none_or(|at| at <= now) {
                charge.look_at = Some(now.plus(AGAIN_LAST));
            }
        }
    }

    fn members(&self, slots: &[u32]) -> Found {
        let leaders = slots.iter().filter_map(|slot| self.commands.get(slot)).map(|charge| charge.command.pid);
        let leaders: Vec<_> = leaders.collect();
        if leaders.is_empty() { Found::default() } else { census::look(leaders) }
    }

    /// Sleeps until a message can be received, the node ends that had not ended before, or it is `next`.
    fn sleep(&self, next: Option<Boot>, node_has_ended: bool) -> Result<(), Errno> {
        match next {
            // Zero would mean never.
            Some(at) => {
                let at = TimeSpec::from_duration(at.since_boot().max(Duration::from_nanos(1)));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        let mut waited: Vec<_> = vec![PollFd::new(self.timer.as_fd(), PollFlags::POLLIN)];
        waited.extend(self.socket.as_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        if self.node_gone.is_none() || (self.will.is_some() && !node_has_ended) {
            waited.push(PollFd::new(self.node.as_fd(), PollFlags::POLLIN));
        }
        if self.node_gone.is_some() {
            for charge in self.commands.values() {
                let pidfd = charge.pidfd.as_ref().filter(|_| !charge.has_ended());
                waited.extend(pidfd.map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)));
                waited.extend(charge.outputs.iter().map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
            }
        }
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Charge {
    /// What is due at `now`, without a node since `node_gone`.
    fn due(&mut self, page: &Page, node_gone: Option<Boot>, now: Boot) -> Due {
        if self.command.finish || self.empty {
            return Due::Nothing;
        }
        let limits = self.command.lease.map(|(cell, lease)| page.limits(cell, lease));
        let asked_by = page.asked_by(self.command.slot);
        if self.asked_at.is_none() {
            let end = [node_gone, limits.map(|limits| limits.trusted_until)].into_iter().flatten().min();
            match end {
                None => return Due::Nothing,
                Some(end) if now < end => return Due::At(end),
                Some(_) => return Due::AskToEnd,
            }
        }
        // The node sees to `kill_after` itself if it has asked the command to end, as long as there is a node.
        let alone = node_gone.is_some() || asked_by == Some(Side::Supervisor);
        let patience = self.asked_at.filter(|_| alone).map(|asked_at| asked_at.plus(self.command.kill_after));
        let end = [patience, limits.map(|limits| limits.killed_at)].into_iter().flatten().min();
        match (end, self.look_at) {
            (None, _) => Due::Nothing,
            (Some(end), _) if now < end => Due::At(end),
            (Some(_), Some(at)) if self.kills > 0 && now < at => Due::At(at),
            (Some(_), _) => Due::Kill,
        }
    }

    /// TERM to all of it, once for each process: where the node died, the kernel sends it to the leader, unless that
    /// has become another user's since (`setpriv`, `gosu`), which cancels it.
    fn ask_to_end(&self, node_died: bool, members: &Found) {
        if !self.owns_number() {
            return;
        }
        let leader_was_told = node_died && census::runs_as_we_do(self.command.pid) != Some(false);
        let by_group = !leader_was_told || !members.are_known();
        if by_group {
            self.signal_group(Signal::SIGTERM);
        }
        let others = members.of(self.command.pid);
        let others = others.filter(|member| !(by_group && member.is_in_group() || member.is_leader()));
        for member in others {
            // One that has ended meanwhile needs no signal, and one that may not be signalled is killed later.
            member.signal(Signal::SIGTERM).and_then(|()| member.signal(Signal::SIGCONT)).ok();
        }
        // A stopped process would see the TERM only when it is continued.
        self.signal_group(Signal::SIGCONT);
    }

    fn signal_group(&self, signal: Signal) {
        let leader = Pid::from_raw(self.command.pid);
        if self.owns_number() {
            // A group that is gone needs no signal, and one of another user's processes cannot be given any.
            match &self.pidfd {
                Some(pidfd) => group::send(pidfd.as_fd(), leader, Some(signal)).ok(),
                None => killpg(leader, signal).ok(),
            };
        }
    }

    /// Whether the number still stands for this command: its leader is there, if only as a zombie, or no process is.
    fn owns_number(&self) -> bool {
        let exited = self.pidfd.as_ref().is_some_and(|pidfd| is_readable(pidfd.as_fd()));
        // A zombie keeps its number. Once that was reaped, a living process of this number is a stranger.
        !exited || census::has_exited(Pid::from_raw(self.command.pid))
    }

    /// Whether its leader has exited and all its output was read.
    fn has_ended(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => is_readable(pidfd.as_fd()),
            None => census::has_exited(Pid::from_raw(self.command.pid)),
        }
    }

    /// Goes on to keep what was written, from another thread: a disk may not answer, and this one has to.
    fn keep(&mut self) -> Option<Ending> {
        let whole = self.whole.take()?;
        let (keeping, ending) = keeping::begin(&self.outputs, whole, self.command.keeps).ok()?;
        self.outputs.clear();
        self.keeping = Some(keeping);
        Some(ending)
    }

    /// Throws away what was written, so that writing goes on.
    fn drain(&mut self) {
        let mut thrown_away = [0; DRAIN_AT_ONCE];
        self.outputs.retain_mut(|output| match output.read(&mut thrown_away) {
            Ok(read) => read > 0,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        });
    }
}

/// Whether a pidfd stands for a process that has exited.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut look = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut look, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) && look[0].any() == Some(true)
}

#[cfg(test)]
mod tests {
    use std::process::{Command as Program, Stdio};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_node_that_ends_between_two_looks_is_noticed() {
        let mut child = Program::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let node = super::super::pidfd_open(libc::pid_t::try_from(child.id()).unwrap()).unwrap();
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC).unwrap();
        let clock = Clock::system();
        let supervisor = Supervisor {
            page: Page::new().unwrap(),
            socket: None,
            node_gone: Some(clock.boot()),
            will: Some(((0, 1), node.try_clone().unwrap())),
            node,
            timer,
            clock,
            commands: BTreeMap::new(),
            keeping: Vec::new(),
        };
        assert!(!is_readable(supervisor.node.as_fd()), "its socket was closed first");
        drop(child.stdin.take());
        child.wait().unwrap();
        let (woken, wakes) = mpsc::channel();
        thread::spawn(move || woken.send(supervisor.sleep(None, false)));
        wakes.recv_timeout(Duration::from_secs(60)).expect("it does not wait for ever").unwrap();
    }
}
