//! The memory that a node shares with its supervisor: until when leases may be trusted, and which side asked a command
//! to end.
//!
//! It is read and written without any message, so that it says what is so even when either of the two stands still.
//!
//! Commands run as the same user, and may look for it in `/proc`. It is two files: the one with the limits can be
//! written through the node's own mapping alone, which is made before it is sealed. A process that opens the other can
//! cause or prevent that a command is asked to end, but cannot make it outlive the lease.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;

use crate::time::Boot;

/// How many commands can be known at once: those that run, and those that are being buried.
pub(super) const SLOTS: u32 = 1 << 16;

/// How many leases are known at once. A node has one at a time; the last ones are kept for commands that are still to
/// end. The oldest is forgotten for a new one, and what hangs on it is then ended at once.
const LEASES: usize = 16;

/// Until when something may be trusted, and until when nothing of it may be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub trusted_until: Boot,
    pub killed_at: Boot,
}

/// One lease. Only the node writes.
#[derive(Debug)]
#[repr(C)]
struct Cell {
    /// 0: none.
    lease: AtomicU64,
    /// In nanoseconds of the boot clock, like all instants here.
    trusted_until: AtomicU64,
    /// How long after that what is left is killed.
    killed_after: AtomicU64,
}

/// The layout that both sides agree on: they are the same program.
type Cells = [Cell; LEASES];

/// Which side asked each command to end: `RUNNING`, `ASKED_BY_NODE` or `ASKED_BY_SUPERVISOR`.
type Slots = [AtomicU32; SLOTS as usize];

const RUNNING: u32 = 0;
const ASKED_BY_NODE: u32 = 1;
const ASKED_BY_SUPERVISOR: u32 = 2;

/// The side that asks a command to end. Only one side asks a command: many commands read a second TERM as "at once".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Node,
    Supervisor,
}

/// A mapping of shared memory that is a `T`, which is made of nothing but atomics.
#[derive(Debug)]
struct Shared<T> {
    memory: NonNull<T>,
    file: OwnedFd,
}

// SAFETY: all that is in it are atomics, and the mapping lasts as long as the value.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// New memory, whose size stays. Pages of it that were not touched cost nothing.
    fn new(name: &CStr) -> io::Result<Shared<T>> {
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&file, i64::try_from(size_of::<T>()).expect("it is small"))?;
        // A file that was made shorter would kill its readers by SIGBUS.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
        Shared::map(file, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// The memory behind a file that [`Shared::new`] made.
    fn map(file: OwnedFd, access: ProtFlags) -> io::Result<Shared<T>> {
        let length = u64::try_from(size_of::<T>()).expect("it is small");
        if nix::sys::stat::fstat(&file)?.st_size.cast_unsigned() < length {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not the memory that a node shares"));
        }
        let size = NonZeroUsize::new(size_of::<T>()).expect("it has fields");
        // SAFETY: a new mapping, of a file that is as long as that and whose bytes may be anything, as atomics may.
        let memory = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Shared { memory: memory.cast(), file })
    }

    fn get(&self) -> &T {
        // SAFETY: mapped until this is dropped, aligned to a page, and only ever touched as atomics.
        unsafe { self.memory.as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.memory.cast(), size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "it was mapped");
    }
}

/// The mapping of it in this process.
#[derive(Debug)]
pub(super) struct Page {
    cells: Shared<Cells>,
    slots: Shared<Slots>,
}

impl Page {
    /// New memory that can be shared.
    pub(super) fn new() -> io::Result<Page> {
        let page = Page { cells: Shared::new(c"fencron-trust")?, slots: Shared::new(c"fencron-asked")? };
        match fcntl(&page.cells.file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE)) {
            // Linux before 5.1 does not know it.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        fcntl(&page.cells.file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SEAL))?;
        fcntl(&page.slots.file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SEAL))?;
        Ok(page)
    }

    /// The memory of a node, in its supervisor: the limits can be read only.
    pub(super) fn map([cells, slots]: [OwnedFd; 2]) -> io::Result<Page> {
        let cells = Shared::map(cells, ProtFlags::PROT_READ)?;
        Ok(Page { cells, slots: Shared::map(slots, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)? })
    }

    /// What is handed to the supervisor.
    pub(super) fn files(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.cells.file.as_fd().try_clone_to_owned()?, self.slots.file.as_fd().try_clone_to_owned()?])
    }

    /// Where the limits of `lease` stand; `None`: they were not set.
    pub(super) fn cell_of(&self, lease: u64) -> Option<u32> {
        let found = self.cells.get().iter().position(|cell| cell.lease.load(Ordering::SeqCst) == lease)?;
        u32::try_from(found).ok().filter(|_| lease != 0)
    }

    /// Sets the limits of `lease`, and returns whether they came nearer. Only one call may be made at a time.
    pub(super) fn set_limits(&self, lease: u64, trusted_until: Boot, killed_after: Duration) -> bool {
        let cells = self.cells.get();
        let until = nanos(trusted_until.since_boot());
        let known = cells.iter().find(|cell| cell.lease.load(Ordering::SeqCst) == lease);
        if let Some(cell) = known {
            return cell.trusted_until.swap(until, Ordering::SeqCst) > until;
        }
        let oldest = cells.iter().min_by_key(|cell| cell.trusted_until.load(Ordering::SeqCst));
        let cell = oldest.expect("there are some");
        // In this order a reader, wherever it gets in between, finds the old lease ended or gone.
        cell.trusted_until.store(0, Ordering::SeqCst);
        let replaced = cell.lease.swap(lease, Ordering::SeqCst);
        cell.killed_after.store(nanos(killed_after), Ordering::SeqCst);
        cell.trusted_until.store(until, Ordering::SeqCst);
        replaced != 0
    }

    /// The limits of `lease`, which stood in `cell`. Those of a lease that is forgotten are long past.
    pub(super) fn limits(&self, cell: u32, lease: u64) -> Limits {
        let past = Limits { trusted_until: Boot::default(), killed_at: Boot::default() };
        let Some(cell) = usize::try_from(cell).ok().and_then(|cell| self.cells.get().get(cell)) else { return past };
        let before = cell.lease.load(Ordering::SeqCst);
        let trusted_until = instant(cell.trusted_until.load(Ordering::SeqCst));
        let killed_at = trusted_until.plus(Duration::from_nanos(cell.killed_after.load(Ordering::SeqCst)));
        let after = cell.lease.load(Ordering::SeqCst);
        if before == lease && after == lease { Limits { trusted_until, killed_at } } else { past }
    }

    fn slot(&self, slot: u32) -> Option<&AtomicU32> {
        self.slots.get().get(usize::try_from(slot).ok()?)
    }

    /// A command takes this slot.
    pub(super) fn begin(&self, slot: u32) {
        if let Some(slot) = self.slot(slot) {
            slot.store(RUNNING, Ordering::SeqCst);
        }
    }

    /// Claims for `side` the task of asking the command to end; false: it was asked already.
    pub(super) fn claim_ending(&self, slot: u32, side: Side) -> bool {
        let asked = match side {
            Side::Node => ASKED_BY_NODE,
            Side::Supervisor => ASKED_BY_SUPERVISOR,
        };
        self.slot(slot)
            .is_some_and(|slot| slot.compare_exchange(RUNNING, asked, Ordering::SeqCst, Ordering::SeqCst).is_ok())
    }

    /// The side that asked the command to end, if one did.
    pub(super) fn asked_by(&self, slot: u32) -> Option<Side> {
        match self.slot(slot)?.load(Ordering::SeqCst) {
            ASKED_BY_NODE => Some(Side::Node),
            ASKED_BY_SUPERVISOR => Some(Side::Supervisor),
            _ => None,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn instant(nanos: u64) -> Boot {
    Boot::from_duration(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Boot {
        Boot::from_duration(Duration::from_millis(millis))
    }

    const KILLED_AFTER: Duration = Duration::from_millis(75);

    #[test]
    fn what_the_node_tells_is_read_through_the_other_mapping() {
        let node = Page::new().unwrap();
        let supervisor = Page::map(node.files().unwrap()).unwrap();
        assert!(!node.set_limits(7, ms(1_000), KILLED_AFTER));
        let cell = node.cell_of(7).unwrap();
        assert_eq!(supervisor.limits(cell, 7), Limits { trusted_until: ms(1_000), killed_at: ms(1_075) });
        assert!(!node.set_limits(7, ms(2_000), KILLED_AFTER), "further away");
        assert!(node.set_limits(7, ms(500), KILLED_AFTER), "nearer");
        assert_eq!(supervisor.limits(cell, 7).trusted_until, ms(500));
    }

    /// Opens what a descriptor of this process stands for once more, as others of the same user find it in `/proc`.
    fn open_again(file: &OwnedFd) -> io::Result<std::fs::File> {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        std::fs::OpenOptions::new().read(true).write(true).open(path)
    }

    #[test]
    fn who_opens_the_memory_of_a_node_cannot_prolong_the_trust_in_its_lease() {
        use std::os::unix::fs::FileExt as _;
        let node = Page::new().unwrap();
        node.set_limits(7, ms(1_000), KILLED_AFTER);
        let opened = open_again(&node.cells.file).unwrap();
        assert!(opened.write_at(&[0xff; 16], 0).is_err(), "sealed");
        assert!(opened.set_len(0).is_err(), "whoever reads it would die of that");
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        assert!(Shared::<Cells>::map(opened.into(), writable).is_err(), "sealed");
        assert!(open_again(&node.slots.file).unwrap().set_len(0).is_err());
        let supervisor = Page::map(node.files().unwrap()).unwrap();
        node.set_limits(7, ms(2_000), KILLED_AFTER);
        let cell = node.cell_of(7).unwrap();
        assert_eq!(supervisor.limits(cell, 7).trusted_until, ms(2_000), "the node still writes");
    }

    #[test]
    fn a_lease_that_was_forgotten_for_others_is_past() {
        let page = Page::new().unwrap();
        page.set_limits(1, ms(1), KILLED_AFTER);
        let cell = page.cell_of(1).unwrap();
        for lease in 2..2 + LEASES as u64 {
            page.set_limits(lease, ms(1_000 + lease), KILLED_AFTER);
        }
        assert_eq!(page.cell_of(1), None);
        assert_eq!(page.limits(cell, 1).killed_at, Boot::default());
        assert_eq!(page.cell_of(0), None, "no lease is none");
    }

    #[test]
    fn a_command_is_asked_by_one_side_only() {
        let page = Page::new().unwrap();
        page.begin(3);
        assert!(page.claim_ending(3, Side::Supervisor));
        assert!(!page.claim_ending(3, Side::Node));
        assert_eq!(page.asked_by(3), Some(Side::Supervisor));
        page.begin(3);
        assert_eq!(page.asked_by(3), None);
        assert!(!page.claim_ending(SLOTS, Side::Node), "there is no such slot");
    }
}
