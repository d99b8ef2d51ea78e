//! Datagrams by the batch: `recvmmsg` and `sendmmsg`, with the local address of each datagram.
//!
//! The local address is what std cannot tell: on a socket bound to every interface, a reply that
//! leaves by the route's own choice of address may come from one that the client never asked, and is
//! then thrown away by it.

use std::io;
use std::iter;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

use super::check;
use super::recv_cmsg::{self, Destination, Local};
use super::send_cmsg::Control;
use super::socket::{SEND_FLAGS, socklen};

#[cfg(any(target_os = "linux", target_os = "android"))]
use libc::mmsghdr;

/// Where the system knows no batches, a header of one is our own.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
struct mmsghdr {
    msg_hdr: libc::msghdr,
    msg_len: libc::c_uint,
}

/// Who has sent a datagram, as the kernel names it, so that a reply finds its way without a conversion.
/// Small for those that a busy server has: the kernel's room for a name is 128 bytes.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
    Other(Box<SockAddr>),
}

impl Peer {
    fn new(name: &libc::sockaddr_storage, len: libc::socklen_t) -> Self {
        let name = ptr::from_ref(name);
        // SAFETY: a storage has room for every kind of address and the alignment that it needs, any bytes
        // are valid in one, and its family says which one the kernel has written, of the length `len`.
        unsafe {
            match libc::c_int::from((*name).ss_family) {
                libc::AF_INET => Self::V4(*name.cast()),
                libc::AF_INET6 => Self::V6(*name.cast()),
                _ => {
                    Self::Other(Box::new(SockAddr::new(name.cast::<SockAddrStorage>().read(), len)))
                }
            }
        }
    }

    fn name(&self) -> *const libc::sockaddr {
        match self {
            Self::V4(name) => ptr::from_ref(name).cast(),
            Self::V6(name) => ptr::from_ref(name).cast(),
            Self::Other(name) => name.as_ptr().cast(),
        }
    }

    fn name_len(&self) -> libc::socklen_t {
        match self {
            Self::V4(_) => socklen::<libc::sockaddr_in>(),
            Self::V6(_) => socklen::<libc::sockaddr_in6>(),
            // Linux says one more of a name that takes all of the room, and does not take it back like that.
            Self::Other(name) => name.len().min(socklen::<libc::sockaddr_un>()),
        }
    }

    /// Whether it is the same, as far as that costs little to say: another kind than the two never is.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::V4(one), Self::V4(other)) => {
                one.sin_port == other.sin_port && one.sin_addr.s_addr == other.sin_addr.s_addr
            }
            (Self::V6(_), Self::V6(_)) => self.to_inet() == other.to_inet(),
            _ => false,
        }
    }

    /// Its port, if it is an internet address.
    #[inline]
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::V4(name) => Some(u16::from_be(name.sin_port)),
            Self::V6(name) => Some(u16::from_be(name.sin6_port)),
            Self::Other(_) => None,
        }
    }

    /// The internet address, or what it is otherwise.
    pub(crate) fn to_inet(&self) -> Result<SocketAddr, &SockAddr> {
        match self {
            Self::V4(name) => {
                let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
                Ok((ip, u16::from_be(name.sin_port)).into())
            }
            Self::V6(name) => {
                let (ip, port) = (name.sin6_addr.s6_addr.into(), u16::from_be(name.sin6_port));
                Ok(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id).into())
            }
            Self::Other(name) => Err(name),
        }
    }
}

/// One datagram of a [`Receiver`].
pub(crate) struct Received<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) peer: Peer,
    /// Where it was sent to, if the kernel tells.
    pub(crate) destination: Destination,
    /// The datagram was longer than the buffer, and its end is lost.
    pub(crate) truncated: bool,
}

/// The longest datagram that a [`Receiver`] takes whole: what is longer, nothing sends. A sender of Unix datagrams
/// would need a send buffer as large, for which the system's usual limit (`net.core.wmem_max`) is a fiftieth of this.
pub(crate) const MOST_BYTES: usize = 16 * 1024 * 1024;

/// The memory of all slots at the most, if there is more than one: what 64 datagrams of 65,535 bytes take.
const BATCH_BYTES: usize = 64 * stride(65_535);

/// Room for the control messages of one datagram. The address that is asked for stands behind what the options of
/// every socket bring, and before those of IP itself, which may have any length. Of the first there are at the most: a
/// time (32 bytes), times of the hardware (64) with their interface (32), and six numbers (drops, mark, priority,
/// wireless status, cell, length of a burst; 24 each). The address takes 40.
const CONTROL_BYTES: usize = 320;

/// Buffers for a batch of datagrams, made once and used for every batch, and the batch that is in them.
pub(crate) struct Receiver {
    // The kernel writes into these through the raw pointers of a call that is over when `receive`
    // returns; no pointer is kept.
    buffers: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    /// None where no address is asked for. The kernel then brings no messages, and what else a sender may have passed
    /// with a datagram, open descriptors above all, it throws away.
    controls: Vec<[u8; CONTROL_BYTES]>,
    size: usize,
    /// What the kernel has said of each datagram of the batch.
    batch: Vec<Said>,
    /// How many of them have been taken.
    taken: usize,
}

#[derive(Clone, Copy)]
struct Said {
    len: usize,
    name_len: libc::socklen_t,
    destination: Destination,
    truncated: bool,
}

impl Receiver {
    /// Room for `count` datagrams of `size` bytes, at most [`MOST_BYTES`]; for fewer if they are long. The pages are not
    /// touched before they are used. `asks`: the kernel is to tell where each was sent to; see
    /// [`tell_local_address`](super::send_cmsg::tell_local_address).
    pub(crate) fn new(count: usize, size: usize, asks: bool) -> Self {
        let size = size.clamp(1, MOST_BYTES);
        let count = count.min(BATCH_BYTES / stride(size)).max(1);
        // SAFETY: all zeros is a valid sockaddr_storage (family unspecified).
        let name = unsafe { mem::zeroed::<libc::sockaddr_storage>() };
        Self {
            buffers: vec![0; count * stride(size)],
            names: vec![name; count],
            controls: vec![[0; CONTROL_BYTES]; if asks { count } else { 0 }],
            size,
            batch: Vec::with_capacity(count),
            taken: 0,
        }
    }

    /// How many datagrams have been received and not yet taken.
    pub(crate) fn len(&self) -> usize {
        self.batch.len() - self.taken
    }

    /// The next datagram of the batch.
    pub(crate) fn take(&mut self) -> Option<Received<'_>> {
        let said = *self.batch.get(self.taken)?;
        let start = self.taken * stride(self.size);
        let name = &self.names[self.taken];
        self.taken += 1;
        Some(Received {
            bytes: &self.buffers[start..start + said.len],
            peer: Peer::new(name, said.name_len),
            destination: said.destination,
            truncated: said.truncated,
        })
    }

    /// Receives what is there, without blocking. WouldBlock if there is nothing. All of the batch before has
    /// to be taken.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        debug_assert_eq!(self.len(), 0, "what is received twice is lost once");
        self.batch.clear();
        self.taken = 0;
        let size = self.size;
        let slots = self.buffers.chunks_exact_mut(stride(size)).map(|slot| &mut slot[..size]);
        let mut parts: Vec<libc::iovec> = slots
            .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() })
            .collect();
        let mut headers: Vec<mmsghdr> = Vec::with_capacity(parts.len());
        let mut controls = self.controls.iter_mut();
        for (part, name) in parts.iter_mut().zip(&mut self.names) {
            // SAFETY: all zeros is a valid msghdr (null pointers of length zero).
            let mut header = unsafe { mem::zeroed::<mmsghdr>() };
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            if let Some(control) = controls.next() {
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = control.len() as _;
            }
            headers.push(header);
        }
        let count = receive_batch(fd, &mut headers)?;
        let controls = self.controls.iter().map(Some).chain(iter::repeat(None));
        self.batch.extend(headers[..count].iter().zip(controls).map(|(header, control)| Said {
            len: (header.msg_len as usize).min(size),
            name_len: header.msg_hdr.msg_namelen,
            destination: control.map_or_else(Destination::default, |control| {
                let filled: usize = header.msg_hdr.msg_controllen as _;
                recv_cmsg::destination(&control[..filled.min(control.len())])
            }),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }));
        Ok(())
    }
}

/// From the beginning of one slot to the next one's: whole lines of the cache, and three more. Slots that
/// are a power of two apart compete for the same few places in it, and thus would those of the usual
/// 65,535 bytes.
const fn stride(size: usize) -> usize {
    const LINE: usize = 64;
    size.next_multiple_of(LINE) + 3 * LINE
}

/// [recvmmsg(2)](https://man7.org/linux/man-pages/man2/recvmmsg.2.html)
#[cfg(any(target_os = "linux", target_os = "android"))]
fn receive_batch(fd: BorrowedFd<'_>, headers: &mut [mmsghdr]) -> io::Result<usize> {
    loop {
        // SAFETY: every header points to live buffers of the lengths it names, and none of them
        // overlaps another.
        let received = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        match check(received) {
            Ok(count) => return Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Where the system knows no batches, a batch is one datagram.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn receive_batch(fd: BorrowedFd<'_>, headers: &mut [mmsghdr]) -> io::Result<usize> {
    let Some(header) = headers.first_mut() else { return Ok(0) };
    loop {
        // SAFETY: the header points to live buffers of the lengths it names.
        let received =
            unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header.msg_hdr, libc::MSG_DONTWAIT) };
        match super::check_len(received) {
            Ok(len) => {
                header.msg_len = len as _;
                return Ok(1);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One datagram to send: to whom, from which local address, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) local: Option<Local>,
    pub(crate) bytes: &'a [u8],
}

impl Outgoing<'_> {
    /// Sends it at once; `WouldBlock` if there is no room.
    pub(crate) fn send(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut control = Control::new();
        let mut part = self.part();
        let header = self.header(&mut part, &mut control);
        let flags = SEND_FLAGS | libc::MSG_DONTWAIT;
        loop {
            // SAFETY: the header points to the peer's name, `part` and `control`, and `part` to the bytes,
            // which all outlive the call.
            match super::check_len(unsafe {
                libc::sendmsg(fd.as_raw_fd(), &raw const header, flags)
            }) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn part(&self) -> libc::iovec {
        libc::iovec { iov_base: self.bytes.as_ptr().cast_mut().cast(), iov_len: self.bytes.len() }
    }

    /// A header that points to the peer's name, to `part` and to `control`; the kernel reads them only.
    fn header(&self, part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
        // SAFETY: all zeros is a valid msghdr (null pointers of length zero).
        let mut header = unsafe { mem::zeroed::<libc::msghdr>() };
        header.msg_name = self.peer.name().cast_mut().cast();
        header.msg_namelen = self.peer.name_len();
        header.msg_iov = part;
        header.msg_iovlen = 1;
        if let Some(local) = self.local {
            control.leave_from(local, &mut header);
        }
        header
    }
}

/// The longest burst, in datagrams and in bytes: the kernel takes no more of them at once, and makes the
/// burst as one datagram first, which could not be longer.
const BURST: usize = 64;
const BURST_BYTES: usize = 60_000;

/// Datagrams that are to leave together. Their bytes stand one behind the other, in memory that serves the
/// next batch as well.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// To whom, from where, and where the bytes of each end.
    heads: Vec<(Peer, Option<Local>, usize)>,
}

impl Batch {
    pub(crate) fn push(&mut self, peer: Peer, local: Option<Local>, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.heads.push((peer, local, self.bytes.len()));
    }

    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.heads.clear();
    }

    /// One of them.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub(crate) fn get(&self, index: usize) -> Outgoing<'_> {
        let start = index.checked_sub(1).map_or(0, |before| self.heads[before].2);
        let (peer, local, end) = &self.heads[index];
        Outgoing { peer, local: *local, bytes: &self.bytes[start..*end] }
    }

    /// What may leave as one message: datagram number `first` alone; or, with `bursts`, it and those behind
    /// it that are as long and go the same way. And how many they are.
    fn message(&self, first: usize, bursts: bool) -> (Outgoing<'_>, usize) {
        let one = self.get(first);
        let len = one.bytes.len();
        let is_alike = |next: &usize| {
            let next = self.get(*next);
            next.bytes.len() == len && next.local == one.local && next.peer.is(one.peer)
        };
        // Nothing can be cut into pieces of no length.
        let most = if bursts { BURST_BYTES.checked_div(len).unwrap_or(1).min(BURST) } else { 1 };
        let behind = (first + 1..self.len()).take(most.saturating_sub(1));
        let count = 1 + behind.take_while(is_alike).count();
        let end = self.heads[first].2 + (count - 1) * len;
        (Outgoing { bytes: &self.bytes[end - count * len..end], ..one }, count)
    }
}

/// Whether the kernel takes bursts over this socket: several datagrams of one length to one peer, as one
/// message that it cuts apart as late as it can. To a kernel that has never heard of it (before Linux 4.18)
/// such a message would be one long datagram.
/// [udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html)
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn cuts_bursts(fd: BorrowedFd<'_>) -> bool {
    let mut value: libc::c_int = 0;
    let mut len = socklen::<libc::c_int>();
    // SAFETY: `value` and `len` are live and of the length that is said.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    })
    .is_ok()
}

/// Other systems have nothing of the kind.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn cuts_bursts(_fd: BorrowedFd<'_>) -> bool {
    false
}

/// Sends a batch from its datagram number `first` on, without blocking, and says how many were taken. With
/// `bursts`, those that go the same way one behind the other leave as one message, which spares the
/// kernel most of its work for all but the first; only if it [`cuts_bursts`].
///
/// An error is that of the first datagram, or of its burst: those behind it were not tried.
/// [sendmmsg(2)](https://man7.org/linux/man-pages/man2/sendmmsg.2.html)
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn send_batch(
    fd: BorrowedFd<'_>,
    batch: &Batch,
    first: usize,
    bursts: bool,
) -> io::Result<usize> {
    let mut messages = Vec::with_capacity(batch.len() - first);
    let mut next = first;
    while next < batch.len() {
        let (one, count) = batch.message(next, bursts);
        messages.push((one, count));
        next += count;
    }
    let mut parts: Vec<libc::iovec> = messages.iter().map(|(one, _)| one.part()).collect();
    let mut controls = vec![Control::new(); messages.len()];
    let mut headers: Vec<mmsghdr> = Vec::with_capacity(messages.len());
    for (((one, count), part), control) in messages.iter().zip(&mut parts).zip(&mut controls) {
        let mut header = one.header(part, control);
        if *count > 1 {
            control.cut((one.bytes.len() / count) as u16, &mut header);
        }
        headers.push(mmsghdr { msg_hdr: header, msg_len: 0 });
    }
    loop {
        // SAFETY: every header points to its own part and control, and to a name in the batch, and every
        // part to bytes of the batch, all alive.
        let sent = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                (SEND_FLAGS | libc::MSG_DONTWAIT) as _,
            )
        };
        match check(sent) {
            Ok(sent) => {
                return Ok(messages[..sent as usize].iter().map(|(_, count)| count).sum());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Where the system knows no batches, a batch is one message.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn send_batch(
    fd: BorrowedFd<'_>,
    batch: &Batch,
    first: usize,
    bursts: bool,
) -> io::Result<usize> {
    let (one, count) = batch.message(first, bursts);
    one.send(fd)?;
    Ok(count)
}
