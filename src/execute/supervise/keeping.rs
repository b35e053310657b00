//! What the supervisor does for the whole output of a command whose node is dead: it goes on with the file.
//!
//! A disk may not answer, and the supervisor has to end commands in time. So each file has a thread, which nothing waits
//! for but the very end of the process, for a while.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::time::{Boot, Clock};

/// How much is read and written at once.
const AT_ONCE: usize = 64 * 1024;

/// How often a thread looks whether its command is gone, though a process of another session still has its pipes.
const LOOK_EVERY_MS: u8 = 100;

/// How long the process stays for its threads when it has nothing else to do.
const STAYS: Duration = Duration::from_secs(5);

/// The thread ends, with what was written by then, when this is dropped.
pub(super) struct Keeping(Arc<AtomicBool>);

/// The end of the thread.
pub(super) struct Ending(Receiver<()>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Begins to keep what comes of `outputs`, which never keep a reader waiting, in `file`, of at most so many bytes.
pub(super) fn begin(outputs: &[File], file: File, most: u64) -> io::Result<(Keeping, Ending)> {
    let outputs: Vec<File> = outputs.iter().map(File::try_clone).collect::<io::Result<_>>()?;
    let (asked, (end, ended)) = (Arc::new(AtomicBool::new(false)), mpsc::channel::<()>());
    let is_gone = Arc::clone(&asked);
    thread::Builder::new().spawn(move || {
        keep(outputs, file, most, &is_gone);
        drop(end);
    })?;
    Ok((Keeping(asked), Ending(ended)))
}

/// Waits for all of them, for a while.
pub(super) fn wait(all: Vec<Ending>) {
    let clock = Clock::system();
    let until: Boot = clock.boot().plus(STAYS);
    for Ending(ended) in all {
        // Both answers are ends: nothing is ever sent.
        ended.recv_timeout(until.since(clock.boot())).ok();
    }
}

fn keep(mut outputs: Vec<File>, mut file: File, most: u64, is_gone: &AtomicBool) {
    let mut piece = vec![0; AT_ONCE];
    let mut writes = true;
    while !outputs.is_empty() {
        // Looked at first: what was there by then is read.
        let last = is_gone.load(Ordering::SeqCst);
        let mut waited: Vec<_> = outputs.iter().map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut waited, if last { PollTimeout::ZERO } else { PollTimeout::from(LOOK_EVERY_MS) }) {
            Ok(0) if last => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        outputs.retain_mut(|output| match output.read(&mut piece) {
            Ok(0) => false,
            Ok(read) => {
                // What cannot be written is thrown away: the command goes on.
                writes = writes && write(&mut file, &piece[..read], most).is_ok();
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        });
    }
}

/// Adds a piece, as far as the file may grow.
fn write(file: &mut File, piece: &[u8], most: u64) -> io::Result<()> {
    let room = usize::try_from(most.saturating_sub(file.metadata()?.len())).unwrap_or(usize::MAX);
    file.write_all(&piece[..room.min(piece.len())])
}
