//! Receiving datagrams by the batch: `recvmmsg`, with the local address of each datagram.
//!
//! std does not tell the local address of a datagram. A server that is bound to every interface needs it: the route
//! may choose another address for the reply than the one that the client has sent to, and the client then drops the
//! reply.
//!
//! ```text
//! headers   [h0][h1][h2] ..        made for each call; point to the three below
//! names     [n0][n1][n2] ..        the senders
//! controls  [c0][c1][c2] ..        the local addresses, if they were asked for
//! buffers   [slot 0  ][slot 1  ]   a datagram each, `stride` bytes apart
//! ```
//!
//! The kernel fills slot 0 first. `take` returns the datagrams in this order, and borrows from the buffers until the
//! next call.
//!
//! A datagram server makes one batch and uses it for as long as it serves (`transport/datagram_socket.rs`). One call takes
//! the datagrams that are there, up to the batch's size, and waits for no more. So a batch delays no datagram, and under load
//! one call takes many. An error that comes after the first datagram is kept by the kernel for the next call.

use std::io;
use std::iter;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::peer_name::PeerName;
use super::recv_cmsg::{self, Destination};
use super::socket::socklen;

#[cfg(linux_kernel)]
use libc::mmsghdr;

/// Other systems have no batches, and no such structure.
#[cfg(not(linux_kernel))]
#[allow(non_camel_case_types, reason = "the name is Linux's")]
struct mmsghdr {
    msg_hdr: libc::msghdr,
    msg_len: libc::c_uint,
}

/// One datagram of a [`RecvBatch`].
pub(crate) struct Received<'a> {
    /// The bytes of the datagram, at most as many as a slot may use. The next batch uses the buffer again.
    pub(crate) bytes: &'a [u8],
    /// The sender: where a reply goes.
    pub(crate) peer: PeerName,
    /// The address that the datagram was sent to, if the kernel tells.
    pub(crate) destination: Destination,
    /// Whether the datagram was longer than the buffer, and its end is lost.
    pub(crate) truncated: bool,
}

/// The longest datagram that a [`RecvBatch`] receives whole. The sender of a longer one would need a send buffer of
/// that size, and the system's usual limit of those (`net.core.wmem_max`) is less than a fiftieth of this.
pub(crate) const MAX_DATAGRAM_BYTES: usize = 16 * 1024 * 1024;

/// The most memory of all slots together, in bytes: that of 64 slots for datagrams of 65,535 bytes. (A single slot may be
/// larger.)
const BATCH_BYTES: usize = 64 * stride(65_535);

/// Room for the control messages of one datagram. The kernel writes those of SOL_SOCKET first, then the address that is
/// asked for, and then the other messages of IP, which may have any length and may be cut off. Before the address there can
/// be a time (32 bytes), hardware times (64) with their interface (32), and six numbers (drops, mark, priority, wireless
/// status, cell, length of a burst; 24 each). With the address (40): 32 + 64 + 32 + 6 x 24 + 40 = 312.
const CONTROL_BYTES: usize = 320;

/// Whether the kernel says where each datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destinations {
    /// The kernel says so, because [`tell_local_address`](super::send_cmsg::tell_local_address) has asked it to.
    Told,
    /// The kernel does not say so: nobody has asked it to.
    Unknown,
}

/// Buffers for a batch of datagrams, made once and used for every batch, and the batch that they hold.
pub(crate) struct RecvBatch {
    // The kernel writes into these by the pointers of one call, which has returned when `receive` returns. No pointer
    // is kept.
    /// One slot of [`stride`] bytes for each datagram.
    buffers: Vec<u8>,
    /// The senders' names, as the kernel writes them; 128 bytes each.
    names: Vec<libc::sockaddr_storage>,
    /// Empty if no addresses are asked for. The kernel then writes no control messages, and closes descriptors that a
    /// sender has passed with a datagram.
    controls: Vec<[u8; CONTROL_BYTES]>,
    /// How many bytes of a slot a datagram may use.
    size: usize,
    /// The facts that the kernel has reported about each datagram of the batch.
    batch: Vec<ReceivedInfo>,
    /// How many datagrams of the batch have been taken.
    taken: usize,
}

/// The facts about one datagram that `receive` keeps for `take`.
#[derive(Clone, Copy)]
struct ReceivedInfo {
    /// How many of its bytes are in the slot: its end may be cut off.
    len: usize,
    /// The length of the sender's name, as the kernel has written it.
    name_len: libc::socklen_t,
    destination: Destination,
    truncated: bool,
}

impl RecvBatch {
    /// Buffers for `count` datagrams of `size` bytes, at most [`MAX_DATAGRAM_BYTES`]; for fewer datagrams if they are
    /// long. Pages take memory only when they are used.
    pub(crate) fn new(count: usize, size: usize, destinations: Destinations) -> Self {
        let size = size.clamp(1, MAX_DATAGRAM_BYTES);
        let count = count.min(BATCH_BYTES / stride(size)).max(1);
        // SAFETY: all zeros is a valid sockaddr_storage (family unspecified).
        let name = unsafe { mem::zeroed::<libc::sockaddr_storage>() };
        Self {
            buffers: vec![0; count * stride(size)],
            names: vec![name; count],
            controls: match destinations {
                Destinations::Told => vec![[0; CONTROL_BYTES]; count],
                Destinations::Unknown => Vec::new(),
            },
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
        // Datagrams are in the slots in the order of their arrival.
        let said = *self.batch.get(self.taken)?;
        let start = self.taken * stride(self.size);
        let name = &self.names[self.taken];
        self.taken += 1;
        Some(Received {
            bytes: &self.buffers[start..start + said.len],
            peer: PeerName::new(name, said.name_len),
            destination: said.destination,
            truncated: said.truncated,
        })
    }

    /// Receives the datagrams that have arrived, without blocking; `WouldBlock` if there are none. All datagrams of
    /// the last batch must have been taken.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        debug_assert_eq!(
            self.len(),
            0,
            "a receive would overwrite datagrams that nobody has taken"
        );
        self.batch.clear();
        self.taken = 0;
        let size = self.size;
        let slots = self.buffers.chunks_exact_mut(stride(size)).map(|slot| &mut slot[..size]);
        // These are made for each call and not kept: headers hold pointers, and the buffers may move with their owner.
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
        // The kernel has shortened the lengths in the first `count` headers to those that it has used.
        let count = receive_batch(fd, &mut headers)?;
        let controls = self.controls.iter().map(Some).chain(iter::repeat(None));
        self.batch.extend(headers[..count].iter().zip(controls).map(|(header, control)| {
            ReceivedInfo {
                len: (header.msg_len as usize).min(size),
                name_len: header.msg_hdr.msg_namelen,
                // No peer can cause a longer length than the buffer's; `min` makes a panic impossible all the same.
                destination: control.map_or_else(Destination::default, |control| {
                    let filled: usize = header.msg_hdr.msg_controllen as _;
                    recv_cmsg::destination(&control[..filled.min(control.len())])
                }),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            }
        }));
        Ok(())
    }
}

/// The distance from one slot to the next: whole cache lines, and three more. Slots at a distance of a power of two, as
/// those of 65,535 bytes would be, compete for the same few sets of the cache.
const fn stride(size: usize) -> usize {
    const LINE: usize = 64;
    size.next_multiple_of(LINE) + 3 * LINE
}

/// Receives a batch. [recvmmsg(2)](https://man7.org/linux/man-pages/man2/recvmmsg.2.html)
#[cfg(linux_kernel)]
fn receive_batch(fd: BorrowedFd<'_>, headers: &mut [mmsghdr]) -> io::Result<usize> {
    // SAFETY: every header points to live buffers of the lengths it names, and none of them overlaps another.
    let mut receive = || unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    super::uninterrupted(|| super::check(receive())).map(|count| count as usize)
}

/// Other systems have no batches: a batch is one datagram.
#[cfg(not(linux_kernel))]
fn receive_batch(fd: BorrowedFd<'_>, headers: &mut [mmsghdr]) -> io::Result<usize> {
    let Some(header) = headers.first_mut() else { return Ok(0) };
    // SAFETY: the header points to live buffers of the lengths it names, and none of them overlaps another.
    let mut receive =
        || unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header.msg_hdr, libc::MSG_DONTWAIT) };
    header.msg_len = super::uninterrupted(|| super::check_len(receive()))? as _;
    Ok(1)
}
