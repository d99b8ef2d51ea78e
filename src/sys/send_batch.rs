//! Sending datagrams by the batch: `sendmmsg`, from a local address, and as bursts where the kernel cuts them (GSO).
//!
//! ```text
//! batch     A A A B A            A: datagrams of one length to one peer; B: another
//! messages  [A A A] [B] [A]      with GSO: one message for datagrams that are alike and stand together
//! sendmmsg  2                    messages taken, before one that does not fit: 4 datagrams
//! ```
//!
//! The datagrams keep the order in which they were pushed.
//!
//! A sender need not know whether the kernel or the route can cut bursts. After an error with [`Gso::On`] (EIO: the interface
//! computes no checksums; EINVAL, EMSGSIZE: the datagrams are longer than the route takes) the caller sends the same
//! datagrams again with [`Gso::Off`]. Nothing is lost, because a burst is taken whole or not at all.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

#[cfg(linux_kernel)]
use libc::mmsghdr;

use super::peer_name::PeerName;
use super::recv_cmsg::LocalAddress;
use super::send_cmsg::ControlBuf;
use super::socket::SEND_FLAGS;

/// One datagram to send: its receiver, the local address that it leaves from, and its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutgoingDatagram<'a> {
    /// The receiver.
    pub(crate) peer: &'a PeerName,
    /// The local address. None leaves it to the route.
    pub(crate) local: Option<LocalAddress>,
    /// All of its bytes: a datagram is sent whole or not at all.
    pub(crate) bytes: &'a [u8],
}

impl OutgoingDatagram<'_> {
    /// Sends it at once; `WouldBlock` if there is no room.
    ///
    /// EMSGSIZE: the datagram is longer than the protocol or the route takes. ENETUNREACH, EHOSTUNREACH, EPERM (a
    /// firewall): the peer cannot be reached. A success says that the datagram has left, not that it has arrived.
    pub(crate) fn send(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut control = ControlBuf::new();
        let mut part = self.part();
        let header = self.header(&mut part, &mut control);
        let flags = SEND_FLAGS | libc::MSG_DONTWAIT;
        // SAFETY: the header points to the peer's name, `part` and `control`, and `part` to the bytes, which all outlive
        // the call.
        let send = || unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
        super::uninterrupted(|| super::check_len(send())).map(drop)
    }

    /// Points to the bytes. The kernel only reads them.
    fn part(&self) -> libc::iovec {
        libc::iovec { iov_base: self.bytes.as_ptr().cast_mut().cast(), iov_len: self.bytes.len() }
    }

    /// A header that points to the peer's name, to `part` and to `control`. The kernel only reads them. The header must not
    /// outlive any of the three.
    fn header(&self, part: &mut libc::iovec, control: &mut ControlBuf) -> libc::msghdr {
        // SAFETY: all zeros is a valid msghdr (null pointers of length zero).
        let mut header = unsafe { mem::zeroed::<libc::msghdr>() };
        header.msg_name = self.peer.as_ptr().cast_mut().cast();
        header.msg_namelen = self.peer.len();
        header.msg_iov = part;
        header.msg_iovlen = 1;
        if let Some(local) = self.local {
            control.leave_from(local, &mut header);
        }
        header
    }
}

/// The longest burst: the kernel takes no more datagrams at once (UDP_MAX_SEGMENTS), and builds the burst as one datagram
/// first, which cannot be longer than 65,507 bytes.
const BURST: usize = 64;
const BURST_BYTES: usize = 60_000;

/// Datagrams that leave together. Their bytes are in one buffer, one datagram after the other, and the next batch
/// uses the buffer again.
#[derive(Debug, Default)]
pub(crate) struct SendBatch {
    /// The bytes of all datagrams, in the order of `heads`.
    bytes: Vec<u8>,
    /// For each datagram: its receiver, the local address that it leaves from, and where its bytes end.
    heads: Vec<(PeerName, Option<LocalAddress>, usize)>,
}

impl SendBatch {
    /// Adds a datagram.
    pub(crate) fn push(&mut self, peer: PeerName, local: Option<LocalAddress>, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.heads.push((peer, local, self.bytes.len()));
    }

    /// How many datagrams it has.
    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    /// Forgets the datagrams, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.heads.clear();
    }

    /// The datagram at this place.
    ///
    /// # Panics
    ///
    /// If there are fewer datagrams.
    pub(crate) fn get(&self, index: usize) -> OutgoingDatagram<'_> {
        // A datagram begins where the one before it ends.
        let start = index.checked_sub(1).map_or(0, |before| self.heads[before].2);
        let (peer, local, end) = &self.heads[index];
        OutgoingDatagram { peer, local: *local, bytes: &self.bytes[start..*end] }
    }

    /// One message of the batch, and how many datagrams it stands for. That is datagram number `first` alone, or,
    /// with GSO, also the following ones that are as long and go the same way.
    ///
    /// The bytes of a burst need not be copied: datagrams lie one after the other, so the burst is the slice from the first
    /// to the last.
    fn message(&self, first: usize, gso: Gso) -> (OutgoingDatagram<'_>, usize) {
        let one = self.get(first);
        let len = one.bytes.len();
        let is_alike = |next: &usize| {
            let next = self.get(*next);
            next.bytes.len() == len && next.local == one.local && next.peer.is_same(one.peer)
        };
        // Empty datagrams cannot be a burst.
        let most = match gso {
            Gso::On => BURST_BYTES.checked_div(len).unwrap_or(1).min(BURST),
            Gso::Off => 1,
        };
        let behind = (first + 1..self.len()).take(most.saturating_sub(1));
        let count = 1 + behind.take_while(is_alike).count();
        let end = self.heads[first].2 + (count - 1) * len;
        (OutgoingDatagram { bytes: &self.bytes[end - count * len..end], ..one }, count)
    }
}

/// Generic segmentation offload: several datagrams of one length to one peer leave as one message, which the kernel
/// cuts apart as late as it can. [udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html), UDP_SEGMENT
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gso {
    /// The kernel cuts bursts.
    On,
    /// One message is one datagram.
    Off,
}

/// Whether the kernel can cut bursts for the socket. If it cannot (Linux before 4.18), a burst would leave as one long
/// datagram.
#[cfg(linux_kernel)]
pub(crate) fn gso_of(fd: BorrowedFd<'_>) -> Gso {
    let mut value: libc::c_int = 0;
    let asked = super::socket::get_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, &mut value);
    if asked.is_ok() { Gso::On } else { Gso::Off }
}

/// Other systems have no GSO.
#[cfg(not(linux_kernel))]
pub(crate) fn gso_of(_fd: BorrowedFd<'_>) -> Gso {
    Gso::Off
}

/// Sends a batch from datagram number `first` on, without blocking, and returns how many were taken. With [`Gso::On`]
/// consecutive datagrams that go the same way leave as one message, which spares the kernel most of its work for all
/// but the first.
///
/// # Errors
///
/// The error of the first datagram, or of its burst. The datagrams after it were not tried.
///
/// [sendmmsg(2)](https://man7.org/linux/man-pages/man2/sendmmsg.2.html)
#[cfg(linux_kernel)]
pub(crate) fn send_batch(
    fd: BorrowedFd<'_>,
    batch: &SendBatch,
    first: usize,
    gso: Gso,
) -> io::Result<usize> {
    // All messages are made first: so `parts` and `controls` have their final length before a header points into them.
    let mut messages = Vec::with_capacity(batch.len() - first);
    let mut next = first;
    while next < batch.len() {
        let (one, count) = batch.message(next, gso);
        messages.push((one, count));
        next += count;
    }
    let mut parts: Vec<libc::iovec> = messages.iter().map(|(one, _)| one.part()).collect();
    let mut controls = vec![ControlBuf::new(); messages.len()];
    let mut headers: Vec<mmsghdr> = Vec::with_capacity(messages.len());
    for (((one, count), part), control) in messages.iter().zip(&mut parts).zip(&mut controls) {
        let mut header = one.header(part, control);
        if *count > 1 {
            control.cut((one.bytes.len() / count) as u16, &mut header);
        }
        headers.push(mmsghdr { msg_hdr: header, msg_len: 0 });
    }
    // SAFETY: every header points to its own part and control, and to a name in the batch; every part points to bytes of
    // the batch. All of them outlive the call, and the vectors are not changed after the pointers were taken.
    let mut send = || unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            (SEND_FLAGS | libc::MSG_DONTWAIT) as _,
        )
    };
    let sent = super::uninterrupted(|| super::check(send()))?;
    // The kernel counts messages, the caller datagrams. A burst is taken whole or not at all.
    Ok(messages[..sent as usize].iter().map(|(_, count)| count).sum())
}

/// Other systems have no batches: one message is sent.
#[cfg(not(linux_kernel))]
pub(crate) fn send_batch(
    fd: BorrowedFd<'_>,
    batch: &SendBatch,
    first: usize,
    gso: Gso,
) -> io::Result<usize> {
    let (one, count) = batch.message(first, gso);
    one.send(fd)?;
    Ok(count)
}
