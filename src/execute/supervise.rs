//! The supervisor: a process beside the node that ends its commands when the node cannot.
//!
//! A node that is killed, stopped or hangs cannot end what it started, and its successor starts the same again. So a
//! second process, the same program in a session of its own, learns of every command **before that runs**: the child
//! itself sends its pidfd to the supervisor's socket, and becomes its program only when that was sent
//! ([`Announcement`]). There is no instant at which the node could be stopped and a command be missed.
//!
//! Until when the commands may live stands in memory that both share ([`page`]), and moves on only with keep-alives that
//! were acknowledged. From there on the supervisor acts alone (`process.rs`).
//!
//! | what | commands with `on_lost_leadership: cancel` |
//! | --- | --- |
//! | the trust in their lease ends, also while their node hangs | TERM at that instant; KILL, to the last process of the session, before the lease can pass |
//! | the node dies | TERM at once; KILL after `kill_after`, and before the lease can pass |
//!
//! Those with `finish` are left alone. The output of all of them is read on when the node is dead, so that no command dies
//! of a broken pipe on the way to its end. It goes on into the file of the whole output where there is
//! one (`keeping.rs`), and is thrown away otherwise.
//!
//! Once a node is dead and nothing of its commands is left, the supervisor has the lease of its session revoked, so that
//! the next node does not wait for the rest of the TTL (`will.rs`).
//!
//! When the supervisor dies, the node starts another and sends it all that runs; meanwhile nothing is started. Should
//! both die at once, the kernel sends TERM to each command itself (not to what that has started).

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::Pid;

mod keeping;
mod message;
mod page;
mod process;
mod will;

pub(super) use self::message::Announcement;
use self::message::{Command, Message, send};
use self::page::{Page, SLOTS, Side};
use crate::lock::{Timing, Trust};
use crate::store::StoreUrl;
use crate::time::{Boot, Clock};

/// The name of the process in `ps`, by which a program learns that it is a supervisor.
const NAME: &str = "fencron-supervisor";

/// How long a supervisor may take to say that it is there. It is a matter of milliseconds.
const READY_WITHIN_MS: u16 = 10_000;

/// How long a start waits for a supervisor in the place of one that was killed.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);

/// How long a start waits for a supervisor that does not read its messages.
const HEARD_WITHIN_SECONDS: i64 = 2;

/// The pause after a supervisor could not be started.
const PAUSE: Duration = Duration::from_millis(500);

/// How often a start is tried that finds the supervisor gone.
const START_ATTEMPTS: u32 = 3;

/// Whether `main` checks for the name.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Which program the supervisor of an [`super::Executor`] is.
#[derive(Clone, Debug)]
pub struct SupervisorProgram(PathBuf);

impl SupervisorProgram {
    /// This program itself. Its `main` has to call [`supervise_if_asked`] before anything else.
    ///
    /// # Errors
    ///
    /// Where `main` does not: the program would be started again and again in place of a supervisor.
    pub fn this() -> io::Result<SupervisorProgram> {
        // Also right when the file was replaced by a new version meanwhile.
        if ASKED.load(Ordering::Relaxed) {
            Ok(SupervisorProgram("/proc/self/exe".into()))
        } else {
            Err(io::Error::other("the program's main does not call fencron::execute::supervise_if_asked() first"))
        }
    }

    /// The `fencron` program of the same version, or another whose `main` calls [`supervise_if_asked`].
    pub fn at(path: impl Into<PathBuf>) -> SupervisorProgram {
        SupervisorProgram(path.into())
    }
}

/// Makes this process a supervisor, where a node started it as one, and does not return then. To be called first of all
/// in the `main` of a program that runs commands through an [`super::Executor`].
pub fn supervise_if_asked() {
    ASKED.store(true, Ordering::Relaxed);
    match std::env::args_os().next() {
        Some(name) if name == NAME => std::process::exit(process::main()),
        Some(name) if name == will::NAME => std::process::exit(will::main()),
        _ => {}
    }
}

/// Hides the memory, the environment and the open files of this process from others of its user: there are passwords among
/// them, and the means to keep a command alive that is to end. Commands run as the same user. (Those of root are not kept
/// out by this.) It leaves no core dump then.
///
/// # Errors
///
/// No known one: the system refuses it to all programs.
pub fn hide() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// What the supervisor has to know of a command that is about to start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub lease: Option<NonZeroU64>,
    pub kill_after: Duration,
    pub finish: bool,
    /// How large the file may become in which all of its output is kept; 0: there is none.
    pub keeps: u64,
}

/// Why something was not started.
#[derive(Debug)]
pub(super) enum LaunchError<E> {
    /// The supervisor could not be informed of it.
    Unsupervised(Errno),
    Other(E),
}

/// The node's side: the supervisor, and all commands that it knows. Clones share it; the supervisor ends with the last
/// one.
#[derive(Clone, Debug)]
pub(super) struct Supervision(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    program: SupervisorProgram,
    page: Arc<Page>,
    link: Mutex<Link>,
    linked: Condvar,
    /// Slots of which nothing is left. A lock of its own, which is never held for long: a command must be able to end
    /// while the start of another hangs.
    gone: Mutex<Vec<u32>>,
    /// Whether there is a supervisor at the moment.
    is_up: Arc<AtomicBool>,
    bequest: Mutex<Bequest>,
}

/// What the supervisor has to do once this process is dead.
#[derive(Debug, Default)]
struct Bequest {
    /// `None`: nothing.
    will: Option<OwnedFd>,
    /// The lease of the present session, and the cell where that stands.
    lease: Option<(u32, u64)>,
    /// The supervisor does not know it yet.
    is_news: bool,
}

/// The way to the supervisor. Locked while a command is started, so that each is known to whichever supervisor comes.
#[derive(Debug, Default)]
struct Link {
    /// `None`: it has ended, and another is being started.
    socket: Option<OwnedFd>,
    held: BTreeMap<u32, Held>,
    free: Vec<u32>,
    /// Slots from this one on were never taken.
    unused: u32,
    /// The supervisor does not know yet that these are gone.
    unsent: Vec<u32>,
}

/// What a new supervisor receives about a command that runs.
#[derive(Debug)]
struct Held {
    command: Command,
    pidfd: Arc<OwnedFd>,
    outputs: Vec<OwnedFd>,
}

impl Supervision {
    /// Starts a supervisor, and sees to it that there always is one.
    pub(super) fn start(program: SupervisorProgram) -> io::Result<Supervision> {
        let page = Arc::new(Page::new()?);
        let (socket, child) = spawn(&program, &page)?;
        let link = Mutex::new(Link { socket: Some(socket), ..Link::default() });
        let shared = Arc::new(Shared {
            program,
            page,
            link,
            linked: Condvar::new(),
            gone: Mutex::default(),
            is_up: Arc::new(AtomicBool::new(true)),
            bequest: Mutex::default(),
        });
        let watched = Arc::downgrade(&shared);
        thread::Builder::new().name("fencron-watch".into()).spawn(move || watch(&watched, child))?;
        Ok(Supervision(shared))
    }

    /// Starts something by `start`, which is handed what its child has to send before it becomes the program, and may
    /// be called again when the supervisor was found gone. From the first two of `outputs` its output is read; a third is
    /// the file in which all of it is kept.
    pub(super) fn launch<E>(
        &self,
        life: Life,
        outputs: Vec<OwnedFd>,
        mut start: impl FnMut(Announcement) -> Result<(Pid, OwnedFd), LaunchError<E>>,
    ) -> Result<(Pid, Arc<OwnedFd>, Charge), LaunchError<E>> {
        let shared = &self.0;
        let lease = life.lease.map(NonZeroU64::get);
        let lease = lease.and_then(|lease| Some((shared.page.cell_of(lease)?, lease)));
        let mut numbers = [-1; 3];
        let sent = outputs.len().min(numbers.len());
        numbers.iter_mut().zip(&outputs).for_each(|(number, output)| *number = output.as_raw_fd());
        let mut attempt = 1;
        loop {
            let mut link = shared.lock_linked().map_err(LaunchError::Unsupervised)?;
            link.give_back(shared.take_gone());
            let slot = link.take_slot().map_err(LaunchError::Unsupervised)?;
            shared.page.begin(slot);
            let Life { kill_after, finish, keeps, .. } = life;
            let mut command = Command { slot, pid: 0, lease, kill_after, finish, keeps };
            let packet = Message::Runs(command).packet();
            let socket = link.socket.as_ref().expect("it is linked");
            shared.bequeath(socket.as_fd());
            let socket = socket.as_raw_fd();
            match start(Announcement { socket, packet, outputs: numbers, sent }) {
                Ok((pid, pidfd)) => {
                    command.pid = pid.as_raw();
                    let pidfd = Arc::new(pidfd);
                    link.held.insert(slot, Held { command, pidfd: Arc::clone(&pidfd), outputs });
                    return Ok((pid, pidfd, Charge { shared: Arc::clone(shared), slot, lease }));
                }
                Err(error) => {
                    link.give_back(vec![slot]);
                    match error {
                        LaunchError::Unsupervised(Errno::EPIPE | Errno::ECONNRESET) if attempt < START_ATTEMPTS => {
                            link.socket = None;
                            attempt += 1;
                        }
                        error => return Err(error),
                    }
                }
            }
        }
    }

    /// Whether there is a supervisor: as long as there is none, no command is started.
    pub(super) fn is_up(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.is_up)
    }

    /// Where the limits of leases are published.
    pub(super) fn deadlines(&self) -> Deadlines {
        Deadlines(Arc::new(Published {
            page: Arc::clone(&self.0.page),
            shared: Arc::downgrade(&self.0),
            one_at_a_time: Mutex::new(()),
        }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Link> {
        // What is locked is right at every step.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slots to give back. Only for a caller that has locked the link.
    fn take_gone(&self) -> Vec<u32> {
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is a supervisor, for a while.
    fn lock_linked(&self) -> Result<MutexGuard<'_, Link>, Errno> {
        let waited = self.linked.wait_timeout_while(self.lock(), REPLACED_WITHIN, |link| link.socket.is_none());
        let (link, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if link.socket.is_some() { Ok(link) } else { Err(Errno::ESRCH) }
    }

    /// Sends the will, where the supervisor does not know it and there is room for it: it is sent with the next keep-alive
    /// otherwise.
    fn bequeath(&self, socket: BorrowedFd<'_>) {
        let mut bequest = self.bequest.lock().unwrap_or_else(PoisonError::into_inner);
        if !bequest.is_news {
            return;
        }
        let file: Vec<_> = bequest.will.iter().filter(|_| bequest.lease.is_some()).map(AsRawFd::as_raw_fd).collect();
        match message::send_now(socket, Message::Will(bequest.lease), &file) {
            Ok(()) => bequest.is_news = false,
            Err(error) => tracing::debug!(%error, "the supervisor does not know yet which lease has to be revoked"),
        }
    }

    /// Sends all that runs to a new supervisor. From then on starts use it.
    fn connect(&self, socket: OwnedFd) -> Result<(), Errno> {
        let mut link = self.lock();
        self.bequest.lock().unwrap_or_else(PoisonError::into_inner).is_news = true;
        self.bequeath(socket.as_fd());
        link.give_back(self.take_gone());
        for held in link.held.values() {
            let outputs = held.outputs.iter().map(AsRawFd::as_raw_fd);
            let descriptors: Vec<_> = [held.pidfd.as_raw_fd()].into_iter().chain(outputs).collect();
            send(socket.as_fd(), Message::Runs(held.command), &descriptors)?;
        }
        // It never knew those that are gone.
        let gone = std::mem::take(&mut link.unsent);
        link.free.extend(gone);
        link.socket = Some(socket);
        self.is_up.store(true, Ordering::Relaxed);
        self.linked.notify_all();
        Ok(())
    }
}

impl Link {
    fn take_slot(&mut self) -> Result<u32, Errno> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let slot = self.unused;
        if slot >= SLOTS {
            return Err(Errno::ENOSPC);
        }
        self.unused += 1;
        Ok(slot)
    }

    /// Nothing of what had these slots is left.
    fn give_back(&mut self, slots: Vec<u32>) {
        slots.iter().for_each(|slot| drop(self.held.remove(slot)));
        self.unsent.extend(slots);
        self.send_unsent();
    }

    /// A slot is free again once the supervisor is certain to learn of its end before it learns of the next command in it.
    fn send_unsent(&mut self) {
        let Some(socket) = &self.socket else { return };
        while let Some(slot) = self.unsent.last() {
            if message::send_now(socket.as_fd(), Message::Gone(*slot), &[]).is_err() {
                return;
            }
            self.free.extend(self.unsent.pop());
        }
    }
}

/// Sees to it that there is a supervisor, for as long as there is anything to supervise.
fn watch(shared: &Weak<Shared>, mut child: Child) {
    loop {
        let how = child.wait();
        let Some(shared) = shared.upgrade() else { return };
        shared.lock().socket = None;
        shared.is_up.store(false, Ordering::Relaxed);
        let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::error!(
            supervisor = child.id(),
            how,
            "the supervisor has ended: starting another; until it is there, commands outlive a node that is killed"
        );
        child = loop {
            let started = spawn(&shared.program, &shared.page)
                .and_then(|(socket, child)| shared.connect(socket).map_err(io::Error::from).map(|()| child));
            match started {
                Ok(child) => break child,
                Err(error) => tracing::error!(%error, "cannot start a supervisor: no command is started until it can"),
            }
            thread::sleep(PAUSE);
        };
        tracing::info!(supervisor = child.id(), "another supervisor has taken over");
    }
}

/// Starts the process, and waits until it says that it is there.
fn spawn(program: &SupervisorProgram, page: &Page) -> io::Result<(OwnedFd, Child)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(io::Error::from)?;
    setsockopt(&ours, sockopt::SendTimeout, &TimeVal::seconds(HEARD_WITHIN_SECONDS))?;
    let mut command = std::process::Command::new(&program.0);
    // It knows nothing and can do nothing but what these three are for. The variables may hold passwords.
    command.arg0(NAME).arg(format!("node={}", std::process::id())).env_clear().current_dir("/");
    command.envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
    let [cells, slots] = page.files()?;
    command.stdin(Stdio::from(theirs)).stdout(Stdio::from(cells)).stderr(Stdio::from(slots));
    let mut child = command.spawn().map_err(|error| {
        io::Error::new(error.kind(), format!("the supervisor `{}` cannot be executed: {error}", program.0.display()))
    })?;
    // The descriptors that it was given are closed here, so that its end is noticed.
    drop(command);
    let mut ready = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
    let polled = poll(&mut ready, PollTimeout::from(READY_WITHIN_MS));
    match message::receive(ours.as_fd()) {
        message::Received::Message(..) => Ok((ours, child)),
        _ => {
            child.kill().and_then(|()| child.wait()).map(drop)?;
            let why = format!(
                "`{}` was started as a supervisor and is none ({polled:?}): its main has to call \
                 fencron::execute::supervise_if_asked() first",
                program.0.display()
            );
            Err(io::Error::other(why))
        }
    }
}

fn pidfd_open(pid: libc::pid_t) -> Result<OwnedFd, Errno> {
    // SAFETY: a system call without pointers; the descriptor is new, and ours.
    unsafe {
        let pidfd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(pidfd).expect("descriptors are ints")))
    }
}

/// A command that the supervisor knows. Dropped when nothing of it is left that the node sees to.
#[derive(Debug)]
pub(super) struct Charge {
    shared: Arc<Shared>,
    slot: u32,
    lease: Option<(u32, u64)>,
}

impl Charge {
    /// Claims for the node the task of asking the command to end; false: the supervisor has claimed it.
    pub(super) fn claim_ending(&self) -> bool {
        self.shared.page.claim_ending(self.slot, Side::Node)
    }

    /// Whether the supervisor has asked it to end, since the trust in its lease was over.
    pub(super) fn was_ended_by_supervisor(&self) -> bool {
        self.shared.page.asked_by(self.slot) == Some(Side::Supervisor)
    }

    /// How long what hangs on the lease may go on to live, if it hangs on one.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let (cell, lease) = self.lease?;
        Some(self.shared.page.limits(cell, lease).killed_at.since(Clock::system().boot()))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shared.gone.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
        // Where a start is under way, the next one does this.
        if let Ok(mut link) = self.shared.link.try_lock() {
            link.give_back(self.shared.take_gone());
        }
    }
}

/// The instants until which the leases may be trusted under which an executor starts commands.
///
/// The thread that keeps a lease alive sets them at each acknowledgement, and nothing may starve that thread: without
/// it the commands die. The last value for a lease counts; a lease without a value has no deadline.
#[derive(Clone, Debug)]
pub struct Deadlines(Arc<Published>);

#[derive(Debug)]
struct Published {
    page: Arc<Page>,
    shared: Weak<Shared>,
    one_at_a_time: Mutex<()>,
}

impl Deadlines {
    /// Has the supervisor revoke the lease of the present session in the store at `url`, once this process is dead and
    /// nothing of its commands is left: the next holder then does not wait for the rest of the TTL.
    ///
    /// # Errors
    ///
    /// Where the system gives no memory for it, or the URL cannot be given to another process.
    pub fn bequeath(&self, url: &StoreUrl) -> io::Result<()> {
        let will = will::write(url)?;
        if let Some(shared) = self.0.shared.upgrade() {
            shared.bequest.lock().unwrap_or_else(PoisonError::into_inner).will = will;
        }
        Ok(())
    }

    /// Publishes the trust in a session as it changes: for [`Locks::on_trust`](crate::lock::Locks::on_trust).
    pub fn following(self, timing: Timing) -> impl Fn(&Trust) + Send + Sync + 'static {
        move |trust| {
            self.set(trust.lease.0, trust.trusted_until, timing.killed_after());
            self.leave(trust.lease.0, trust.ended.is_none());
        }
    }

    /// The lease may be trusted until `trusted_until` of the machine's boot clock: then the commands that were started
    /// under it are asked to end. What is left of them `killed_after` later is killed.
    pub fn set(&self, lease: NonZeroU64, trusted_until: Boot, killed_after: Duration) {
        let Published { page, one_at_a_time, .. } = &*self.0;
        let nearer = {
            let _alone = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
            page.set_limits(lease.get(), trusted_until, killed_after)
        };
        if nearer {
            self.inform(|socket| {
                if let Err(error) = message::send_now(socket, Message::Look, &[]) {
                    tracing::debug!(%error, "the supervisor was not informed at once that a deadline came nearer");
                }
            });
        }
    }

    /// Notes whether this lease has to be revoked for this process, should it die.
    fn leave(&self, lease: NonZeroU64, is_there: bool) {
        let Some(shared) = self.0.shared.upgrade() else { return };
        let found = shared.page.cell_of(lease.get()).map(|cell| (cell, lease.get()));
        {
            let mut bequest = shared.bequest.lock().unwrap_or_else(PoisonError::into_inner);
            let lease = if is_there { found } else { bequest.lease.filter(|last| Some(*last) != found) };
            bequest.is_news |= bequest.will.is_some() && bequest.lease != lease;
            bequest.lease = lease;
            if !bequest.is_news {
                return;
            }
        }
        self.inform(|socket| shared.bequeath(socket));
    }

    /// If the supervisor cannot be informed at once, since a start is under way, it looks at the time that was set before,
    /// and knows the lease that it knew.
    fn inform(&self, send: impl FnOnce(BorrowedFd<'_>)) {
        let Some(shared) = self.0.shared.upgrade() else { return };
        if let Ok(link) = shared.link.try_lock()
            && let Some(socket) = &link.socket
        {
            send(socket.as_fd());
        }
    }
}
