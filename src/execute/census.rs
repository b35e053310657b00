//! Which processes a command's session has, from `/proc`: for the few questions that signals cannot answer.
//!
//! A look at all processes costs some microseconds for each. When a node that ran a thousand commands loses its
//! leadership, all of them ask at once; so one thread looks, and one look answers everybody who asked before it began.

use std::collections::HashMap;
use std::sync::mpsc;
use std::{fs, io, thread};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use tokio::sync::oneshot;

/// A living process (a zombie is not) of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pid: libc::pid_t,
    group: libc::pid_t,
    session: libc::pid_t,
}

struct Question {
    session: libc::pid_t,
    answer: oneshot::Sender<Vec<Member>>,
}

/// The thread that looks. It ends with the last of these.
#[derive(Clone, Debug)]
pub(super) struct Census(mpsc::Sender<Question>);

impl Census {
    /// Starts the thread.
    pub(super) fn new() -> io::Result<Census> {
        let (questions, inbox) = mpsc::channel::<Question>();
        thread::Builder::new().name("fencron-census".into()).spawn(move || {
            while let Ok(first) = inbox.recv() {
                answer([first].into_iter().chain(inbox.try_iter()).collect());
            }
        })?;
        Ok(Census(questions))
    }

    /// The living members of the session that `leader` began. `None`: nobody could look.
    pub(super) async fn of(&self, leader: Pid) -> Option<Vec<Member>> {
        let (answer, members) = oneshot::channel();
        self.0.send(Question { session: leader.as_raw(), answer }).ok()?;
        members.await.ok()
    }
}

fn answer(questions: Vec<Question>) {
    let Sessions(Some(found)) = look(questions.iter().map(|asked| asked.session)) else {
        // An unreadable /proc answers nobody: the questions are dropped.
        return;
    };
    for asked in questions {
        // Whoever asked may have stopped waiting.
        asked.answer.send(found.get(&asked.session).cloned().unwrap_or_default()).ok();
    }
}

/// The living members of some sessions, by the numbers of their leaders. `None`: `/proc` cannot be read.
#[derive(Debug, Default)]
pub(super) struct Sessions(Option<HashMap<libc::pid_t, Vec<Member>>>);

impl Sessions {
    /// The members of the session that `leader` began, as far as they are known.
    pub(super) fn of(&self, leader: libc::pid_t) -> impl Iterator<Item = &Member> {
        self.0.as_ref().and_then(|found| found.get(&leader)).into_iter().flatten()
    }

    /// Whether nobody is what it looks like where [`Sessions::of`] has nobody.
    pub(super) fn are_known(&self) -> bool {
        self.0.is_some()
    }
}

/// Looks at all processes once, for the members of the sessions that `leaders` began.
pub(super) fn look(leaders: impl IntoIterator<Item = libc::pid_t>) -> Sessions {
    let mut found: HashMap<_, Vec<Member>> = leaders.into_iter().map(|leader| (leader, Vec::new())).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Sessions(None) };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(Stat { state, member }) = pid.and_then(stat)
            && !matches!(state, 'Z' | 'X')
            && let Some(members) = found.get_mut(&member.session)
        {
            members.push(member);
        }
    }
    Sessions(Some(found))
}

impl Member {
    /// Whether it is in the group that the session's leader leads.
    pub(super) fn is_in_group(&self) -> bool {
        self.group == self.session
    }

    /// Whether it began the session.
    pub(super) fn is_leader(&self) -> bool {
        self.pid == self.session
    }

    /// Signals this process, unless it is gone: it is made sure that its number has not become a stranger's.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        // SAFETY: system calls without pointers; the descriptor is new, and ours.
        let fd = unsafe {
            let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, self.pid, 0))?;
            OwnedFd::from_raw_fd(i32::try_from(fd).expect("descriptors are ints"))
        };
        // From here on the descriptor stands for one process. It is the right one if it is of this session still.
        if stat(self.pid).is_none_or(|now| now.member.session != self.session) {
            return Err(Errno::ESRCH);
        }
        let no_info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: a system call on an open descriptor and no pointer.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal as i32, no_info, 0) };
        Errno::result(sent).map(drop)
    }
}

/// Whether a child that was not reaped has exited.
pub(super) fn has_exited(child: Pid) -> bool {
    stat(child.as_raw()).is_none_or(|stat| stat.state == 'Z')
}

struct Stat {
    state: char,
    member: Member,
}

/// From `/proc/PID/stat`, see proc(5): `PID (NAME) STATE PPID PGRP SESSION …`, and the name may hold anything.
fn stat(pid: libc::pid_t) -> Option<Stat> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = bytes.iter().rposition(|byte| *byte == b')')?;
    let mut fields = str::from_utf8(&bytes[name_end + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse().ok();
    let (_parent, group, session): (libc::pid_t, _, _) = (number()?, number()?, number()?);
    Some(Stat { state, member: Member { pid, group, session } })
}
