//! The first process of a container, to which the system gives every process whose parent has ended. It has to ask how
//! they ended, or each of them stays a zombie and keeps a process id.
//!
//! The system makes them children of the *thread* with which the process began. So that thread does nothing else, and
//! the program runs in another one: what the program has started itself is never a child of this thread, and its exit
//! status is left for the program to read (`__WNOTHREAD`, waitpid(2)).

use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// How often it looks for processes that have ended.
const REAP_EVERY: Duration = Duration::from_secs(1);

/// The stack of the program: as much as the first thread of a process has.
const STACK: usize = 8 << 20;

/// What Rust programs exit with that have panicked.
const PANICKED: u8 = 101;

/// Whether this is the first process of the machine or of a container.
pub(super) fn is_first() -> bool {
    std::process::id() == 1
}

/// Runs the program, and takes care of orphans until it ends.
pub(super) fn run(program: fn() -> ExitCode) -> ExitCode {
    let (ended, end) = mpsc::channel();
    let main = move || ended.send(program()).unwrap_or_default();
    if thread::Builder::new().name("fencron-main".into()).stack_size(STACK).spawn(main).is_err() {
        // There is no room for a thread, and that is for the program to say.
        return program();
    }
    loop {
        reap();
        match end.recv_timeout(REAP_EVERY) {
            Ok(exit) => return exit,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return ExitCode::from(PANICKED),
        }
    }
}

/// Asks for all orphans that have ended.
fn reap() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WNOTHREAD)) {
            // No other process has ended, or there is none.
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
            // EINVAL: one has, by a signal that has no name.
            Ok(_) | Err(Errno::EINVAL | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
