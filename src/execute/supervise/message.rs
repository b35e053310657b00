//! The messages to a supervisor, one packet each. Sent by the node, or by a child that is about to become its program.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The descriptors that come with a command, at most: its pidfd, the ends from which its output is read, and the file in
/// which all of that is kept.
const DESCRIPTORS: usize = 4;

/// A packet, in the machine's own byte order: both sides are the same program.
pub(super) const LENGTH: usize = 40;
pub(in crate::execute) type Packet = [u8; LENGTH];

/// Where the process id stands in the packet of a command: a child fills in its own.
const PID: std::ops::Range<usize> = 8..12;

const RUNS: u32 = 1;
const GONE: u32 = 2;
const LOOK: u32 = 3;
const WILL: u32 = 4;

/// A command, as the supervisor has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub slot: u32,
    /// Also the number of its group and session.
    pub pid: i32,
    /// The lease that it hangs on, and the cell where that stands. `None`: it hangs on its node only.
    pub lease: Option<(u32, u64)>,
    pub kill_after: Duration,
    /// It is left alone when its node is gone or may not be trusted.
    pub finish: bool,
    /// How large the file may become in which its output is kept, the last of its descriptors; 0: there is none.
    pub keeps: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It is about to run.
    Runs(Command),
    /// Nothing of the command in this slot is left that the node still sees to.
    Gone(u32),
    /// A limit has come nearer.
    Look,
    /// Once the node is dead and nothing of its commands is left, this lease, which stands in a cell, has to be revoked by
    /// the will that comes with the message. `None`: no lease any more.
    Will(Option<(u32, u64)>),
}

impl Message {
    pub(super) fn packet(self) -> Packet {
        let (mut kind, mut slot, mut pid, mut lease, mut kill_after, mut finish) = (LOOK, 0, 0, (0, 0), 0, 0);
        let mut keeps = 0;
        match self {
            Message::Runs(command) => {
                (kind, slot, pid) = (RUNS, command.slot, command.pid);
                lease = command.lease.unwrap_or_default();
                kill_after = u64::try_from(command.kill_after.as_millis()).unwrap_or(u64::MAX);
                finish = u32::from(command.finish);
                keeps = command.keeps;
            }
            Message::Gone(gone) => (kind, slot) = (GONE, gone),
            Message::Look => {}
            Message::Will(of) => (kind, lease) = (WILL, of.unwrap_or_default()),
        }
        let mut packet = [0; LENGTH];
        packet[0..4].copy_from_slice(&(kind | finish << 16).to_ne_bytes());
        packet[4..8].copy_from_slice(&slot.to_ne_bytes());
        packet[PID].copy_from_slice(&pid.to_ne_bytes());
        packet[12..16].copy_from_slice(&lease.0.to_ne_bytes());
        packet[16..24].copy_from_slice(&lease.1.to_ne_bytes());
        packet[24..32].copy_from_slice(&kill_after.to_ne_bytes());
        packet[32..40].copy_from_slice(&keeps.to_ne_bytes());
        packet
    }

    fn parse(packet: Packet) -> Option<Message> {
        let four = |at: usize| u32::from_ne_bytes(*packet[at..].first_chunk().expect("within the packet"));
        let eight = |at: usize| u64::from_ne_bytes(*packet[at..].first_chunk().expect("within the packet"));
        let (kind, finish) = (four(0) & 0xffff, four(0) >> 16 != 0);
        let lease = Some((four(12), eight(16))).filter(|(_, lease)| *lease != 0);
        match kind {
            RUNS => Some(Message::Runs(Command {
                slot: four(4),
                pid: four(8).cast_signed(),
                lease,
                kill_after: Duration::from_millis(eight(24)),
                finish,
                keeps: eight(32),
            })),
            GONE => Some(Message::Gone(four(4))),
            LOOK => Some(Message::Look),
            WILL => Some(Message::Will(lease)),
            _ => None,
        }
    }
}

/// Sends a packet, for as long as the socket's own time-out says.
pub(super) fn send(socket: BorrowedFd<'_>, message: Message, descriptors: &[RawFd]) -> Result<(), Errno> {
    send_by(socket, message, descriptors, MsgFlags::MSG_NOSIGNAL)
}

/// Sends a packet, if there is room for it.
pub(super) fn send_now(socket: BorrowedFd<'_>, message: Message, descriptors: &[RawFd]) -> Result<(), Errno> {
    send_by(socket, message, descriptors, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
}

fn send_by(socket: BorrowedFd<'_>, message: Message, descriptors: &[RawFd], flags: MsgFlags) -> Result<(), Errno> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    let packet = message.packet();
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&packet)], control, flags, None).map(drop)
}

/// What was received.
pub(super) enum Received {
    /// With the descriptors that came with it.
    Message(Message, Vec<OwnedFd>),
    Nothing,
    /// No sender is left.
    End,
}

/// Takes what is there, without waiting.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Received {
    let mut packet = [0; LENGTH];
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(&mut packet)];
    let (length, descriptors) = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
        Ok(received) => {
            let rights = received.cmsgs().into_iter().flatten();
            let numbers = rights.filter_map(|part| match part {
                ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
            // SAFETY: the kernel has just made these descriptors for us.
            let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
            (received.bytes, numbers.flatten().map(own).collect())
        }
        Err(Errno::EAGAIN | Errno::EINTR) => return Received::Nothing,
        Err(_) => return Received::End,
    };
    match length {
        0 => Received::End,
        LENGTH => Message::parse(packet).map_or(Received::Nothing, |message| Received::Message(message, descriptors)),
        _ => Received::Nothing,
    }
}

/// What a child sends that is about to become its program. Made before there is a child, which then only fills in
/// what it alone knows.
#[derive(Clone, Copy)]
pub(in crate::execute) struct Announcement {
    pub socket: RawFd,
    pub packet: Packet,
    /// From which the command's output is read, and where it is kept: the first `sent` of these.
    pub outputs: [RawFd; DESCRIPTORS - 1],
    pub sent: usize,
}

/// The ancillary data of one message, as cmsg(3) lays it out: a header, then the descriptors. Each part ends on a whole
/// word, also where the header of the C library (musl) asks for less.
#[repr(C, align(8))]
struct Rights {
    header: libc::cmsghdr,
    descriptors: [RawFd; DESCRIPTORS],
}

impl Announcement {
    /// Sends it, from the process that it is about. Nothing is to run whose announcement was not sent.
    ///
    /// # Safety
    ///
    /// None but what system calls need: it allocates nothing and takes no lock, and so may be called between `clone`
    /// and `exec`.
    pub(in crate::execute) unsafe fn send_about_myself(&mut self) -> Result<(), Errno> {
        // SAFETY: system calls on valid arguments; the pointers are to locals that outlive the call.
        unsafe {
            let pid = libc::getpid();
            // Its own pidfd, so that the receiver needs not to look the number up, when it may be another's.
            let pidfd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
            for (at, byte) in self.packet.iter_mut().skip(PID.start).zip(pid.to_ne_bytes()) {
                *at = byte;
            }
            let [stdout, stderr, whole] = self.outputs;
            let size = ((1 + self.sent.min(DESCRIPTORS - 1)) * size_of::<RawFd>()) as u32;
            let mut rights = std::mem::zeroed::<Rights>();
            rights.header.cmsg_len = libc::CMSG_LEN(size) as _;
            rights.header.cmsg_level = libc::SOL_SOCKET;
            rights.header.cmsg_type = libc::SCM_RIGHTS;
            rights.descriptors = [pidfd as RawFd, stdout, stderr, whole];
            let mut part = libc::iovec { iov_base: self.packet.as_mut_ptr().cast(), iov_len: LENGTH };
            let mut message = std::mem::zeroed::<libc::msghdr>();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = (&raw mut rights).cast();
            message.msg_controllen = libc::CMSG_SPACE(size) as _;
            Errno::result(libc::sendmsg(self.socket, &raw const message, libc::MSG_NOSIGNAL)).map(drop)
        }
    }
}

const _: () = assert!(
    // SAFETY: computes a length.
    size_of::<Rights>() >= unsafe { libc::CMSG_SPACE(size_of::<[RawFd; DESCRIPTORS]>() as u32) } as usize,
    "the kernel reads no further than the value goes"
);

const _: () = assert!(align_of::<Rights>() >= size_of::<u64>(), "also with a C library whose header asks for less");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_what_was_written() {
        let command = Command {
            slot: 9,
            pid: 4321,
            lease: Some((3, u64::MAX)),
            kill_after: Duration::from_secs(10),
            finish: true,
            keeps: 1 << 40,
        };
        let others = [Command { lease: None, finish: false, ..command }, command].map(Message::Runs);
        let more = [Message::Gone(65_535), Message::Look, Message::Will(Some((3, u64::MAX))), Message::Will(None)];
        for message in others.into_iter().chain(more) {
            assert_eq!(Message::parse(message.packet()), Some(message));
        }
    }
}
