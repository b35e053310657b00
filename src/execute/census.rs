//! Which processes belong to a command, from `/proc`: for the few questions that signals cannot answer.
//!
//! Those of the session that it began; or, where it has the session of its caller, those of its group, and what descends
//! from it in that session, as long as the line is not broken by the end of a parent.
//!
//! A look at all processes costs some microseconds for each. When a node that ran a thousand commands loses its
//! leadership, all of them ask at once; so one thread looks, and one look answers all questions that were asked before
//! it began.

use std::collections::HashMap;
use std::sync::mpsc;
use std::{fs, io, thread};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getegid, geteuid};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use tokio::sync::oneshot;

/// A living process (a zombie is not) of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pid: libc::pid_t,
    group: libc::pid_t,
    session: libc::pid_t,
    leader: libc::pid_t,
}

struct Question {
    leader: libc::pid_t,
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

    /// The living members of the command that `leader` leads. `None`: the look failed.
    pub(super) async fn of(&self, leader: Pid) -> Option<Vec<Member>> {
        let (answer, members) = oneshot::channel();
        self.0.send(Question { leader: leader.as_raw(), answer }).ok()?;
        members.await.ok()
    }
}

fn answer(questions: Vec<Question>) {
    let Found(Some(found)) = look(questions.iter().map(|asked| asked.leader)) else {
        // An unreadable /proc gives no answer: the questions are dropped.
        return;
    };
    for asked in questions {
        // The caller may have stopped waiting.
        asked.answer.send(found.get(&asked.leader).cloned().unwrap_or_default()).ok();
    }
}

/// The living members of some commands, by the numbers of their leaders. `None`: `/proc` cannot be read.
#[derive(Debug, Default)]
pub(super) struct Found(Option<HashMap<libc::pid_t, Vec<Member>>>);

impl Found {
    /// The members of the command that `leader` leads, as far as they are known.
    pub(super) fn of(&self, leader: libc::pid_t) -> impl Iterator<Item = &Member> {
        self.0.as_ref().and_then(|found| found.get(&leader)).into_iter().flatten()
    }

    /// Whether an empty answer of [`Found::of`] means that there is no member.
    pub(super) fn are_known(&self) -> bool {
        self.0.is_some()
    }
}

/// Looks at all processes once, for the members of the commands that `leaders` lead.
pub(super) fn look(leaders: impl IntoIterator<Item = libc::pid_t>) -> Found {
    let mut found: HashMap<_, Vec<Member>> = leaders.into_iter().map(|leader| (leader, Vec::new())).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Found(None) };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: HashMap<libc::pid_t, Stat> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    for (pid, stat) in all.iter().filter(|(_, stat)| !matches!(stat.state, 'Z' | 'X')) {
        if let Some(leader) = leader_of(*pid, *stat, &all, &found)
            && let Some(members) = found.get_mut(&leader)
        {
            members.push(Member { pid: *pid, group: stat.group, session: stat.session, leader });
        }
    }
    Found(Some(found))
}

/// How far up a process is looked for that it descends from.
const GENERATIONS: usize = 32;

/// Which of the leaders, the keys of `found`, a process belongs to.
fn leader_of(
    pid: libc::pid_t,
    stat: Stat,
    all: &HashMap<libc::pid_t, Stat>,
    found: &HashMap<libc::pid_t, Vec<Member>>,
) -> Option<libc::pid_t> {
    if let Some(leader) = [stat.session, stat.group].into_iter().find(|leader| found.contains_key(leader)) {
        return Some(leader);
    }
    let parent = |pid: &libc::pid_t| Some(all.get(pid).filter(|above| above.session == stat.session)?.parent);
    let line = std::iter::successors(Some(pid), parent).take(GENERATIONS);
    line.into_iter()
        .find(|above| found.contains_key(above) && all.get(above).is_some_and(|it| it.session == stat.session))
}

/// Whether a process has the user and group of this one. `None`: it is gone, or cannot be read.
pub(super) fn runs_as_we_do(pid: libc::pid_t) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // Real, effective, saved, and that of the file system.
    let effective = |name| status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().nth(1);
    let is = |name, own: u32| Some(effective(name)? == own.to_string());
    Some(is("Uid:", geteuid().as_raw())? && is("Gid:", getegid().as_raw())?)
}

impl Member {
    /// Whether it is in the group that the leader leads.
    pub(super) fn is_in_group(&self) -> bool {
        self.group == self.leader
    }

    /// Whether it is the process that the command was started as.
    pub(super) fn is_leader(&self) -> bool {
        self.pid == self.leader
    }

    /// Signals this process, unless it is gone: it is made sure that its number has not become a stranger's.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        // SAFETY: system calls without pointers; the descriptor is new, and ours.
        let fd = unsafe {
            let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, self.pid, 0))?;
            OwnedFd::from_raw_fd(i32::try_from(fd).expect("descriptors are ints"))
        };
        // From here on the descriptor stands for one process. It is the right one if it is where it was seen: in the
        // session that the command began, where that is its own, otherwise in the same group of its caller's.
        let began_session = self.session == self.leader;
        let is_it = |now: Stat| now.session == self.session && (began_session || now.group == self.group);
        if !stat(self.pid).is_some_and(is_it) {
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

#[derive(Clone, Copy, Debug)]
struct Stat {
    state: char,
    parent: libc::pid_t,
    group: libc::pid_t,
    session: libc::pid_t,
}

/// From `/proc/PID/stat`, see proc(5): `PID (NAME) STATE PPID PGRP SESSION …`, and the name may hold anything.
fn stat(pid: libc::pid_t) -> Option<Stat> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = bytes.iter().rposition(|byte| *byte == b')')?;
    let mut fields = str::from_utf8(&bytes[name_end + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse().ok();
    Some(Stat { state, parent: number()?, group: number()?, session: number()? })
}
