//! Starting a process: from one lasting thread, without copying the node's memory.
//!
//! Every command must end with the node, even with one that is killed. So its supervisor has to know of it before it
//! runs ([`super::supervise`]), and should that be dead too, the kernel has to signal it: `PR_SET_PDEATHSIG`. That has
//! two consequences.
//!
//! - Both must be done in the child, before `exec`. The standard library can do that only by `fork`, which copies the
//!   page tables of the node: measured here 0.06 ms a start at 1 MB resident, 0.4 ms at 50 MB, 3.2 ms at 400 MB, where a
//!   child that borrows the memory takes 0.03 ms at any size. So the child is made by
//!   `clone(CLONE_VM | CLONE_VFORK)`, the way glibc's `posix_spawn` makes its own
//!   (<https://sourceware.org/git/?p=glibc.git;a=blob;f=sysdeps/unix/sysv/linux/spawni.c>), and reports what failed
//!   through that memory. `CLONE_PIDFD` gives a handle of it that no later process can be mistaken for.
//! - The signal comes when the *thread* ends that started the child (prctl(2)). So one [`Starter`] thread starts them
//!   all, and lives as long as anything it started is held. A start blocks that thread until the `exec`, never the
//!   runtime, and one after another is fast enough: some thousands in a second.
//!
//! The death signal is TERM, as KILL would leave no time to end in order, and the supervisor leaves the leader to it.
//! Known limits: the kernel sends it again for each thread of the node that had become the parent meanwhile, as they
//! end. It forgets it at the `exec` of a program that is set-user-ID or has file capabilities (which is then only
//! killed by the supervisor), and it is not inherited by what the command itself starts.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::PipeWriter;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;
use std::{io, thread};

use nix::errno::Errno;
use nix::libc::{self, c_char, c_int, c_void};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Pid, getpid};
use tokio::sync::oneshot;

use super::Gate;
use super::bounds::{Bound, Kept};
use super::census::Census;
use super::group::Leader;
use super::room::is_lacking;
use super::supervise::{Announcement, LaunchError, Life, Supervision, SupervisorProgram};
use crate::job::StopReason;
use crate::time::Wall;

/// How soon the thread looks again at commands that were killed because no caller holds them any longer.
const BURY_EVERY: Duration = Duration::from_millis(20);

/// The stack of the child until its `exec`. It calls a handful of system calls, none of them deep.
const CHILD_STACK: usize = 64 * 1024;

/// What a process is made of, in the form that `exec` takes it.
pub(super) struct Image {
    /// Where the program may be, in the order to try.
    pub candidates: Vec<CString>,
    pub args: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    pub dir: Option<CString>,
    pub ties: Ties,
    pub life: Life,
    pub bound: Bound,
}

/// What a process has in common with this one.
pub(super) enum Ties {
    /// Nothing but what it reads, if anything: it begins a session, and writes into these.
    None { stdin: Option<OwnedFd>, stdout: PipeWriter, stderr: PipeWriter },
    /// The open files; and it begins a session.
    Files,
    /// The open files and the session, in which it leads a group; the foreground group of `terminal`, where there is one.
    Session { terminal: Option<OwnedFd> },
}

/// Where a start failed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartError {
    /// The system makes no further process or thread, or the node may open no further file.
    NoRoom(Errno),
    /// One of its bounds cannot be kept.
    Bound(Kept, Errno),
    /// The working directory cannot be entered.
    Dir(Errno),
    /// The program cannot be executed.
    Program(Errno),
    /// The supervisor cannot be informed of it.
    Unsupervised(Errno),
}

impl StartError {
    pub(super) fn errno(self) -> Errno {
        match self {
            StartError::NoRoom(errno)
            | StartError::Bound(_, errno)
            | StartError::Dir(errno)
            | StartError::Program(errno)
            | StartError::Unsupervised(errno) => errno,
        }
    }

    /// Whether it failed for lack of a resource of which there may be more later. No program was begun, at any step.
    pub(super) fn is_lack_of_room(self) -> bool {
        match self {
            // A supervisor that does not read its messages is no lack of room.
            StartError::Unsupervised(Errno::EAGAIN) => false,
            StartError::Bound(kept, _) => kept == Kept::User && is_lacking(self.errno()),
            _ => is_lacking(self.errno()),
        }
    }
}

/// Why a process was not started.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// It was not to be started any more.
    Refused(StopReason),
    Failed(StartError),
}

/// The requests to the thread.
pub(super) enum Order {
    Start {
        image: Box<Image>,
        /// From which the supervisor goes on reading what is written, should the node die.
        readers: Vec<OwnedFd>,
        gate: Gate,
        reply: oneshot::Sender<Result<(Leader, Wall), NotStarted>>,
        /// Held by what is started, and so the thread lives as long as that.
        starter: Starter,
    },
    /// This child was killed, and no caller waits for it any longer.
    Bury(Pid),
}

/// The thread that starts commands. It ends when the last of these, and of the commands started, is gone.
///
/// Its queue is bounded by the number of starts: [`super::Executor`] lets `max_running` of them through.
#[derive(Clone, Debug)]
pub(super) struct Starter {
    orders: mpsc::Sender<Order>,
    census: Census,
    supervision: Supervision,
}

impl Starter {
    /// Starts the thread, and the supervisor.
    pub(super) fn new(program: SupervisorProgram) -> io::Result<Starter> {
        // The supervisor inherits the limit: it holds as many.
        let files = raise_open_files()?;
        let null = File::open("/dev/null")?;
        // Files of outputs may come to the limit of the size of files: that is an error of the write.
        // SAFETY: no handler of ours is installed, this has it ignored.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
        let supervision = Supervision::start(program)?;
        let (orders, inbox) = mpsc::channel();
        thread::Builder::new().name("fencron-start".into()).spawn(move || {
            // A signal handler must never run in a child that still borrows this memory: see `launch`.
            SigSet::all().thread_block().expect("a thread may always block signals");
            Desk { null, files, stack: vec![0; CHILD_STACK], dying: Vec::new() }.serve(&inbox);
        })?;
        Ok(Starter { orders, census: Census::new()?, supervision })
    }

    /// Starts a process, if `gate` lets it. The reply comes from the thread, once the `exec` was done or has failed.
    pub(super) async fn start(
        &self,
        (image, readers): (Image, Vec<OwnedFd>),
        gate: Gate,
    ) -> Result<(Leader, Wall), NotStarted> {
        let (reply, answer) = oneshot::channel();
        let order = Order::Start { image: Box::new(image), readers, gate, reply, starter: self.clone() };
        // Sending fails only with the thread gone, and then the order drops here, and its reply with it.
        self.orders.send(order).ok();
        answer.await.unwrap_or(Err(NotStarted::Failed(StartError::NoRoom(Errno::ECANCELED))))
    }

    /// The thread that looks at processes, for as long as there are commands.
    pub(super) fn census(&self) -> &Census {
        &self.census
    }

    /// The supervisor, which ends commands when this process cannot.
    pub(super) fn supervision(&self) -> &Supervision {
        &self.supervision
    }

    /// Leaves a killed child to the thread, so that it does not stay a zombie.
    pub(super) fn bury(&self, child: Pid) {
        // The thread is gone only when the process is ending, and then init buries.
        self.orders.send(Order::Bury(child)).ok();
    }
}

/// What the thread has at hand.
struct Desk {
    null: File,
    /// How many files the node itself was allowed to open when it was started: what a command is given.
    files: libc::rlimit,
    stack: Vec<u8>,
    dying: Vec<Pid>,
}

impl Desk {
    fn serve(&mut self, inbox: &mpsc::Receiver<Order>) {
        loop {
            let order = if self.dying.is_empty() {
                inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(BURY_EVERY)
            };
            match order {
                // The caller has gone: an abandoned start is not begun.
                Ok(Order::Start { reply, .. }) if reply.is_closed() => {}
                Ok(Order::Start { image, readers, gate, reply, starter }) => {
                    // The caller may have gone away meanwhile: then the leader drops here, which kills it.
                    drop(reply.send(self.start(&image, readers, &gate, starter)));
                }
                Ok(Order::Bury(child)) => self.dying.push(child),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) if self.dying.is_empty() => return,
                Err(mpsc::RecvTimeoutError::Disconnected) => thread::sleep(BURY_EVERY),
            }
            self.dying.retain(|child| super::group::reap(*child).is_none());
        }
    }

    fn start(
        &mut self,
        image: &Image,
        readers: Vec<OwnedFd>,
        gate: &Gate,
        starter: Starter,
    ) -> Result<(Leader, Wall), NotStarted> {
        let mut started_at = Wall::default();
        let launched = starter.supervision().launch(image.life, readers, |announcement| {
            started_at = gate.ask().map_err(|reason| LaunchError::Other(NotStarted::Refused(reason)))?;
            self.launch(image, announcement).map_err(|error| match error {
                StartError::Unsupervised(errno) => LaunchError::Unsupervised(errno),
                error => LaunchError::Other(NotStarted::Failed(error)),
            })
        });
        match launched {
            Ok((pid, pidfd, charge)) => Ok((Leader::new(pid, pidfd, charge, starter), started_at)),
            Err(LaunchError::Unsupervised(errno)) => Err(NotStarted::Failed(StartError::Unsupervised(errno))),
            Err(LaunchError::Other(error)) => Err(error),
        }
    }

    /// Makes the child, and returns once it has become the program, or could not.
    fn launch(&mut self, image: &Image, announcement: Announcement) -> Result<(Pid, OwnedFd), StartError> {
        let (argv, envp) = (pointers(&image.args), pointers(&image.env));
        let candidates = pointers(&image.candidates);
        let (fds, terminal) = match &image.ties {
            Ties::None { stdin, stdout, stderr } => {
                let stdin = stdin.as_ref().map_or(self.null.as_raw_fd(), AsRawFd::as_raw_fd);
                ([stdin, stdout.as_raw_fd(), stderr.as_raw_fd()], None)
            }
            Ties::Files => ([0, 1, 2], None),
            Ties::Session { terminal } => ([0, 1, 2], terminal.as_ref()),
        };
        let mut plan = Plan {
            candidates: candidates.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            dir: image.dir.as_ref().map_or(ptr::null(), |dir| dir.as_ptr()),
            fds,
            keeps_files: !matches!(image.ties, Ties::None { .. }),
            keeps_session: matches!(image.ties, Ties::Session { .. }),
            terminal: terminal.map_or(-1, AsRawFd::as_raw_fd),
            parent: getpid().as_raw(),
            death_signal: if image.life.finish { 0 } else { libc::SIGTERM },
            announcement,
            bound: &raw const image.bound,
            files: image.bound.open_files.map_or(self.files, |most| libc::rlimit { rlim_cur: most, rlim_max: most }),
            failed: None,
        };
        let plan = &raw mut plan;
        let mut pidfd: c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        // The ABIs ask for 16 bytes of alignment; stacks grow down on every architecture that Rust supports on Linux.
        let top = self.stack.as_mut_ptr_range().end.map_addr(|end| end & !15);
        // SAFETY: with CLONE_VFORK this thread stands still until the child has called `exec` or `_exit`, so that the
        // stack, `plan` and what it points to outlive the child's use of them and are touched by one side at a time.
        // The child shares memory with the other threads too, so it takes no lock, allocates nothing and calls only
        // what signal-safety(7) allows; every signal is blocked here, so no handler runs in it.
        let pid = unsafe { libc::clone(become_the_program, top.cast(), flags, plan.cast::<c_void>(), &raw mut pidfd) };
        if pid < 0 {
            return Err(StartError::NoRoom(Errno::last()));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        // SAFETY: the child is done with it; volatile, as the compiler cannot see that it was written.
        match unsafe { ptr::read_volatile(&raw const (*plan).failed) } {
            None => Ok((Pid::from_raw(pid), pidfd)),
            Some(error) => {
                self.dying.push(Pid::from_raw(pid));
                Err(error)
            }
        }
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// What the child reads, and the one thing it writes.
struct Plan {
    candidates: *const *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    /// Null: where the node is.
    dir: *const c_char,
    /// Become 0, 1 and 2. They are these, or all greater: the standard library sees to it that those are always open.
    fds: [RawFd; 3],
    keeps_files: bool,
    keeps_session: bool,
    /// Whose foreground group it becomes; -1: none.
    terminal: RawFd,
    parent: libc::pid_t,
    /// What the kernel sends when the node dies; 0: nothing.
    death_signal: c_int,
    announcement: Announcement,
    bound: *const Bound,
    files: libc::rlimit,
    failed: Option<StartError>,
}

/// Runs in the child, on borrowed memory: no allocation, no lock, no panic.
extern "C" fn become_the_program(plan: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a valid plan, and waits while it is used.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: system calls on valid arguments, all allowed here by signal-safety(7).
    unsafe {
        default_signals();
        if plan.keeps_session {
            libc::setpgid(0, 0);
        } else {
            libc::setsid();
        }
        if let Err((kept, errno)) = (*plan.bound).keep() {
            plan.failed = Some(StartError::Bound(kept, errno));
            libc::_exit(127);
        }
        // Not before that: another user has it forgotten.
        libc::prctl(libc::PR_SET_PDEATHSIG, plan.death_signal);
        // The node may have died before that was set, and then no signal would come.
        if libc::getppid() != plan.parent {
            libc::_exit(127);
        }
        if !plan.dir.is_null() && libc::chdir(plan.dir) != 0 {
            plan.failed = Some(StartError::Dir(Errno::last()));
            libc::_exit(127);
        }
        for (target, fd) in (0..).zip(plan.fds) {
            if libc::dup2(fd, target) < 0 {
                plan.failed = Some(StartError::NoRoom(Errno::last()));
                libc::_exit(127);
            }
        }
        // Nothing runs that could not be ended.
        if let Err(errno) = plan.announcement.send_about_myself() {
            plan.failed = Some(StartError::Unsupervised(errno));
            libc::_exit(127);
        }
        // Not before that, which takes a descriptor, and as many on their way as the limit says.
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const plan.files) != 0 && (*plan.bound).open_files.is_some() {
            plan.failed = Some(StartError::Bound(Kept::OpenFiles, Errno::last()));
            libc::_exit(127);
        }
        if !plan.keeps_files {
            // Rust opens everything close-on-exec. Should a library not: an inherited connection to the store would keep
            // it open beyond the node's death. Where the kernel is older than 5.11 this does nothing.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        }
        if plan.terminal >= 0 {
            // Every signal is blocked, so SIGTTOU does not stop it. Where it fails, the terminal is asked for by reading.
            libc::tcsetpgrp(plan.terminal, libc::getpid());
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        plan.failed = Some(StartError::Program(execute_first(plan)));
        libc::_exit(127)
    }
}

/// Handlers of the node must not run in the child once it lets signals in, and a command expects SIGPIPE to kill it
/// (Rust programs ignore it), and SIGXFSZ too (which a node ignores that writes whole outputs). Signals that the
/// node was started to ignore, like SIGHUP by nohup(1), stay ignored.
unsafe fn default_signals() {
    // SAFETY: as in `become_the_program`. The table of handlers is the child's own (no CLONE_SIGHAND). Numbers that are
    // no signal, or the C library's own, answer EINVAL.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &raw mut action) != 0 {
                continue;
            }
            let handled = action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN;
            if handled || signal == libc::SIGPIPE || signal == libc::SIGXFSZ {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
    }
}

/// Becomes the first candidate that can be; returns why none could. Goes on and gives up where execvp(3) does.
unsafe fn execute_first(plan: &Plan) -> Errno {
    let mut why = Errno::ENOENT;
    let mut next = plan.candidates;
    // SAFETY: the three lists end in a null pointer.
    unsafe {
        while !(*next).is_null() {
            libc::execve(*next, plan.argv, plan.envp);
            match Errno::last() {
                Errno::EACCES => why = Errno::EACCES,
                Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV | Errno::ETIMEDOUT => {}
                other => return other,
            }
            next = next.add(1);
        }
    }
    why
}

/// Lets the node open as many files as it may (a running command takes five), and returns what it could before.
fn raise_open_files() -> io::Result<libc::rlimit> {
    static AT_FIRST: OnceLock<(u64, u64)> = OnceLock::new();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let (rlim_cur, rlim_max) = *AT_FIRST.get_or_init(|| (soft, hard));
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(libc::rlimit { rlim_cur, rlim_max })
}

/// Where `program` may be: itself where it is a path, otherwise in each directory of `path`, as execvp(3) has it.
pub(super) fn candidates(program: impl AsRef<OsStr>, path: Option<&OsStr>) -> Vec<OsString> {
    let program = program.as_ref();
    // Nothing is the name of no program, and not of the directories either.
    if program.is_empty() || program.as_bytes().contains(&b'/') {
        return vec![program.into()];
    }
    let path = path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    let in_dir = |dir: &[u8]| Path::new(OsStr::from_bytes(if dir.is_empty() { b"." } else { dir })).join(program);
    path.as_bytes().split(|byte| *byte == b':').map(|dir| in_dir(dir).into_os_string()).collect()
}

const _: () = assert!(Signal::SIGKILL as c_int == libc::SIGKILL);
