//! The bounds of a command: names become numbers before there is a child, and the child keeps to them before `exec`.
//!
//! None of them is ever left out: what cannot be kept is why the command is not started.

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc::{self, c_int, c_long};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Gid, Group, Uid, User, fchown, getegid, geteuid, getgrouplist};

use crate::job::{Bounds, IoClass, Ionice, Limits, Stdin, Text};

/// From the kernel's `include/uapi/linux/ioprio.h`; the C library does not have it.
const IOPRIO_WHO_PROCESS: c_int = 1;
const IOPRIO_CLASS_SHIFT: u32 = 13;

/// The calls that take whole user and group numbers: on some machines of 32 bits those have another name.
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SET_IDS: [c_long; 3] = [libc::SYS_setgroups, libc::SYS_setresgid, libc::SYS_setresuid];
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SET_IDS: [c_long; 3] = [libc::SYS_setgroups32, libc::SYS_setresgid32, libc::SYS_setresuid32];

/// What could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    OpenFiles,
    Core,
    FileSize,
    Stack,
    CpuTime,
    Nice,
    Ionice,
    User,
    NoNewPrivileges,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kept::OpenFiles => "limits.open_files",
            Kept::Core => "limits.core",
            Kept::FileSize => "limits.file_size",
            Kept::Stack => "limits.stack",
            Kept::CpuTime => "limits.cpu_time",
            Kept::Nice => "nice",
            Kept::Ionice => "ionice",
            Kept::User => "user",
            Kept::NoNewPrivileges => "no_new_privileges",
        })
    }
}

/// The bounds of one start, as numbers: what the child reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bound {
    limits: Vec<(Kept, Resource, libc::rlimit)>,
    nice: Option<c_int>,
    ioprio: Option<c_int>,
    umask: Option<libc::mode_t>,
    ids: Option<Ids>,
    no_new_privileges: bool,
    /// What the node's own limit of open files must become at the last step.
    pub open_files: Option<libc::rlim_t>,
}

/// Another user.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ids {
    user: libc::uid_t,
    group: libc::gid_t,
    others: Vec<libc::gid_t>,
}

/// The user that a command runs as, for its environment. `None`: as the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub name: String,
    pub home: OsString,
    pub shell: OsString,
}

/// What was found out about the bounds of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    pub bound: Bound,
    pub account: Option<Account>,
}

/// Finds the numbers of users and groups. May take its time: a directory service may be asked.
pub(super) fn resolve(bounds: &Bounds) -> Result<Resolved, String> {
    let (ids, account) = ids(bounds)?;
    let Limits { open_files, .. } = bounds.limits;
    let bound = Bound {
        limits: limits(&bounds.limits),
        nice: bounds.nice.map(|nice| nice.0),
        ioprio: bounds.ionice.map(priority),
        umask: bounds.umask.map(|umask| umask.0),
        ids,
        no_new_privileges: bounds.no_new_privileges,
        open_files: open_files.map(u64::from),
    };
    Ok(Resolved { bound, account })
}

fn ids(bounds: &Bounds) -> Result<(Option<Ids>, Option<Account>), String> {
    let user = bounds.user.as_ref().map(user).transpose()?;
    let group = bounds.group.as_ref().map(group).transpose()?;
    let (uid, account) = match user {
        None => (geteuid(), None),
        Some(Found::Known(user)) => (user.uid, Some(user)),
        Some(Found::Number(number)) => (Uid::from_raw(number), None),
    };
    let Some(gid) = group.or(account.as_ref().map(|user| user.gid)).or(bounds.user.is_none().then(getegid)) else {
        return Err(format!("the user {uid} is not known here and has no group: give it a `group`"));
    };
    let is_own = uid == geteuid() && gid == getegid();
    if is_own && (!geteuid().is_root() || (bounds.user.is_none() && bounds.group.is_none())) {
        return Ok((None, account.map(Account::of)));
    }
    let others = match &account {
        None => vec![gid],
        Some(user) => {
            let name = CString::new(user.name.as_str()).map_err(|error| error.to_string())?;
            getgrouplist(&name, gid)
                .map_err(|errno| format!("the groups of `{}` cannot be read: {errno}", user.name))?
        }
    };
    let others = others.into_iter().map(Gid::as_raw).collect();
    Ok((Some(Ids { user: uid.as_raw(), group: gid.as_raw(), others }), account.map(Account::of)))
}

impl Account {
    fn of(user: User) -> Account {
        Account { name: user.name, home: user.dir.into(), shell: user.shell.into() }
    }

    /// The variables by which programs know whose they are.
    pub fn variables(self) -> [(OsString, OsString); 4] {
        let name = OsString::from(self.name);
        [
            ("HOME".into(), self.home),
            ("SHELL".into(), self.shell),
            ("USER".into(), name.clone()),
            ("LOGNAME".into(), name),
        ]
    }
}

/// A user as the system knows it, or a number that it has no name for.
enum Found {
    Known(User),
    Number(libc::uid_t),
}

fn user(wanted: &Text) -> Result<Found, String> {
    let (text, number) = (wanted.expose(), wanted.expose().parse().ok());
    let found = match number {
        Some(number) => User::from_uid(Uid::from_raw(number)),
        None => User::from_name(text),
    };
    match (found, number) {
        (Ok(Some(user)), _) => Ok(Found::Known(user)),
        (Ok(None), Some(number)) => Ok(Found::Number(number)),
        (Ok(None), None) => Err(format!("there is no user `{wanted}` here: create it, or correct `user`")),
        (Err(errno), _) => Err(format!("the user `{wanted}` cannot be looked up: {errno}")),
    }
}

fn group(wanted: &Text) -> Result<Gid, String> {
    if let Ok(number) = wanted.expose().parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(wanted.expose()) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!("there is no group `{wanted}` here: create it, or correct `group`")),
        Err(errno) => Err(format!("the group `{wanted}` cannot be looked up: {errno}")),
    }
}

fn limits(limits: &Limits) -> Vec<(Kept, Resource, libc::rlimit)> {
    let same = |most: u64| libc::rlimit { rlim_cur: most, rlim_max: most };
    let mut all = Vec::new();
    let sizes = [
        (Kept::Core, Resource::RLIMIT_CORE, limits.core),
        (Kept::FileSize, Resource::RLIMIT_FSIZE, limits.file_size),
        (Kept::Stack, Resource::RLIMIT_STACK, limits.stack),
    ];
    all.extend(sizes.into_iter().filter_map(|(kept, of, most)| Some((kept, of, same(most?)))));
    if let Some(time) = limits.cpu_time {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        // XCPU, by which the verdict knows it, and a second later KILL; not above what this process may give.
        let hard = getrlimit(Resource::RLIMIT_CPU).map_or(seconds, |(_, hard)| hard);
        let rlim_max = if geteuid().is_root() { seconds + 1 } else { (seconds + 1).min(hard).max(seconds) };
        all.push((Kept::CpuTime, Resource::RLIMIT_CPU, libc::rlimit { rlim_cur: seconds, rlim_max }));
    }
    if let Some(files) = limits.open_files.map(u64::from)
        && getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(_, hard)| files > hard)
    {
        // While it still has the rights of the node. Fewer are set at the last step, which needs some files itself.
        all.push((Kept::OpenFiles, Resource::RLIMIT_NOFILE, same(files)));
    }
    all
}

fn priority(Ionice { class, level }: Ionice) -> c_int {
    let class = match class {
        IoClass::Realtime => 1,
        IoClass::BestEffort => 2,
        IoClass::Idle => 3,
    };
    // Both are small.
    ((class << IOPRIO_CLASS_SHIFT) | level).cast_signed()
}

impl Bound {
    /// Keeps the calling process to all of it, in an order in which no step takes the rights that the next one needs.
    ///
    /// # Safety
    ///
    /// It makes raw system calls only, and so may be called between `clone` and `exec`: the C library's functions for
    /// users would have all threads of the node change theirs.
    pub(super) unsafe fn keep(&self) -> Result<(), (Kept, Errno)> {
        // SAFETY: system calls on valid arguments.
        unsafe {
            for (kept, resource, limit) in &self.limits {
                Errno::result(libc::setrlimit(*resource as _, limit)).map_err(|errno| (*kept, errno))?;
            }
            if let Some(nice) = self.nice {
                Errno::result(libc::setpriority(libc::PRIO_PROCESS, 0, nice)).map_err(|errno| (Kept::Nice, errno))?;
            }
            if let Some(priority) = self.ioprio {
                let set = libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority);
                Errno::result(set).map_err(|errno| (Kept::Ionice, errno))?;
            }
            if let Some(umask) = self.umask {
                libc::umask(umask);
            }
            if let Some(ids) = &self.ids {
                ids.take().map_err(|errno| (Kept::User, errno))?;
            }
            if self.no_new_privileges {
                let set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                Errno::result(set).map_err(|errno| (Kept::NoNewPrivileges, errno))?;
            }
            Ok(())
        }
    }

    /// Gives a file of this process to the user of the command, which otherwise could not open it again (`/dev/stdout`).
    pub(super) fn give(&self, file: impl AsFd) {
        if let Some(ids) = &self.ids {
            // Where it fails, the command can write to what it was given all the same.
            fchown(file, Some(Uid::from_raw(ids.user)), Some(Gid::from_raw(ids.group))).ok();
        }
    }
}

impl Ids {
    unsafe fn take(&self) -> Result<(), Errno> {
        let [set_groups, set_group, set_user] = SET_IDS;
        let (group, user) = (self.group, self.user);
        // SAFETY: as in `keep`; the list outlives the call.
        unsafe {
            Errno::result(libc::syscall(set_groups, self.others.len(), self.others.as_ptr()))?;
            Errno::result(libc::syscall(set_group, group, group, group))?;
            Errno::result(libc::syscall(set_user, user, user, user))?;
        }
        Ok(())
    }
}

/// What of the bounds cannot be kept by this process here, each in a sentence.
pub(crate) fn not_kept(bounds: &Bounds) -> Vec<String> {
    let resolved = match resolve(bounds) {
        Ok(resolved) => resolved,
        Err(why) => return vec![why],
    };
    let mut why: Vec<String> = input(bounds.stdin.as_ref()).err().into_iter().collect();
    if geteuid().is_root() {
        return why;
    }
    if resolved.bound.ids.is_some() {
        why.push("`user` or `group` needs a node that runs as root".to_owned());
    }
    // SAFETY: a system call without pointers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if resolved.bound.nice.is_some_and(|wanted| wanted < nice) {
        why.push(format!("`nice` below {nice}, that of this user's processes, needs a node that runs as root"));
    }
    if bounds.ionice.is_some_and(|ionice| ionice.class == IoClass::Realtime) {
        why.push("`ionice: realtime` needs a node that runs as root".to_owned());
    }
    for (kept, resource, limit) in &resolved.bound.limits {
        if getrlimit(*resource).is_ok_and(|(_, hard)| limit.rlim_cur > hard) {
            why.push(format!("`{kept}` is above what this user may have (ulimit -H)"));
        }
    }
    why
}

/// How a start failed at one of the bounds.
pub(super) fn not_started(kept: Kept, errno: Errno, bounds: &Bounds) -> String {
    let advice = match (kept, errno) {
        (Kept::User, Errno::EPERM) => "a node that is not root cannot change the user: start it as root",
        (Kept::Nice | Kept::Ionice, Errno::EPERM | Errno::EACCES) => "a node that is not root can only yield more",
        (_, Errno::EPERM) => "it is above what the node may have (ulimit -H): raise that, or start the node as root",
        _ => "correct it, or take it out",
    };
    let what = match (kept, &bounds.user) {
        (Kept::User, Some(user)) => format!("`user: {user}`"),
        (Kept::User, None) => "`group`".to_owned(),
        _ => format!("`{kept}`"),
    };
    format!("{what} cannot be kept: {}: {advice}", errno.desc())
}

/// Opens what a command reads.
pub(super) fn input(stdin: Option<&Stdin>) -> Result<Option<OwnedFd>, String> {
    match stdin {
        None => Ok(None),
        Some(Stdin::Text(text)) => {
            sealed(text.expose().as_bytes()).map(Some).map_err(|error| format!("no memory for its input: {error}"))
        }
        Some(Stdin::File(path)) => {
            let cannot = |why: &dyn fmt::Display| format!("its input `{path}` cannot be read: {why}: correct `stdin`");
            // A pipe without a writer would have the start wait for one.
            let mut options = OpenOptions::new();
            let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path.expose());
            let file = file.map_err(|error| cannot(&error))?;
            match file.metadata() {
                Ok(about) if about.is_file() => Ok(Some(file.into())),
                Ok(_) => Err(cannot(&"it is no file")),
                Err(error) => Err(cannot(&error)),
            }
        }
    }
}

/// A file of memory that no process can change.
fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create(c"fencron-stdin", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    file.rewind()?;
    let seals = [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_SEAL];
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals.into_iter().collect()))?;
    Ok(file.into())
}
