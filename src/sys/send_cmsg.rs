//! Control messages that are sent with a datagram: the address that it leaves from, and the length of the datagrams
//! in a burst. `recv_cmsg.rs` reads the messages that are received.
//!
//! ```text
//! header.msg_control -> [cmsghdr: length, level, kind][data, padded]  [cmsghdr ..][data, padded]
//! header.msg_controllen  all of it, each message with its padding: CMSG_SPACE
//! cmsg_len               one header and its data without the padding: CMSG_LEN
//! ```
//!
//! [cmsg(3)](https://man7.org/linux/man-pages/man3/cmsg.3.html). The kernel checks each length, and answers EINVAL for
//! the whole send.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::ptr;

use socket2::{Domain, SockRef};

use super::recv_cmsg::LocalAddress;
use super::socket::set_int_option;

/// Asks the kernel to tell, with each datagram, the address that it was sent to.
///
/// A dual-stack IPv6 socket also tells it for IPv4, as a mapped address.
pub(crate) fn tell_local_address(fd: BorrowedFd<'_>) -> io::Result<()> {
    if SockRef::from(&fd).domain()? == Domain::IPV6 {
        set_int_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        tell_local_ipv4(fd)
    }
}

#[cfg(any(linux_kernel, target_vendor = "apple"))]
/// [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html), IP_PKTINFO
fn tell_local_ipv4(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// On other systems a reply leaves from the address that the route chooses.
#[cfg(not(any(linux_kernel, target_vendor = "apple")))]
fn tell_local_ipv4(_fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(())
}

/// Room for the control messages of one datagram to send, aligned as `cmsghdr` wants.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct ControlBuf([u8; ControlBuf::LEN]);

impl ControlBuf {
    /// Room for the larger of the two structures for an address, and for the length of the datagrams in a burst.
    // SAFETY: `CMSG_SPACE` computes with its argument and touches no memory.
    pub(super) const LEN: usize = unsafe {
        libc::CMSG_SPACE(mem::size_of::<libc::in6_pktinfo>() as libc::c_uint)
            + libc::CMSG_SPACE(mem::size_of::<u16>() as libc::c_uint)
    } as usize;

    /// A buffer without messages.
    pub(super) fn new() -> Self {
        Self([0; Self::LEN])
    }

    /// Makes a datagram leave from `local`.
    pub(super) fn leave_from(&mut self, local: LocalAddress, header: &mut libc::msghdr) {
        match local.ip {
            #[cfg(any(linux_kernel, target_vendor = "apple"))]
            IpAddr::V4(ip) => {
                // SAFETY: all zeros is a valid in_pktinfo.
                let mut info = unsafe { mem::zeroed::<libc::in_pktinfo>() };
                // The source address, by ip(7). The interface stays zero: the route chooses it.
                info.ipi_spec_dst.s_addr = u32::from(ip).to_be();
                self.push(header, libc::IPPROTO_IP, libc::IP_PKTINFO, bytes_of(&info));
            }
            #[cfg(not(any(linux_kernel, target_vendor = "apple")))]
            IpAddr::V4(_) => {}
            IpAddr::V6(ip) => {
                // SAFETY: all zeros is a valid in6_pktinfo.
                let mut info = unsafe { mem::zeroed::<libc::in6_pktinfo>() };
                info.ipi6_addr.s6_addr = ip.octets();
                info.ipi6_ifindex = local.interface as _;
                self.push(header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, bytes_of(&info));
            }
        }
    }

    /// Makes the kernel cut the sent bytes into datagrams of `len` bytes each; see [`Gso`](super::send_batch::Gso).
    #[cfg(linux_kernel)]
    pub(super) fn cut(&mut self, len: u16, header: &mut libc::msghdr) {
        self.push(header, libc::SOL_UDP, libc::UDP_SEGMENT, &len.to_ne_bytes());
    }

    /// Adds a message after those that the header has.
    ///
    /// # Panics
    ///
    /// If there is no room: [`LEN`](Self::LEN) has room for one message of each kind.
    fn push(&mut self, header: &mut libc::msghdr, level: i32, kind: i32, bytes: &[u8]) {
        let used: usize = header.msg_controllen as _;
        // SAFETY: both functions compute with their argument and touch no memory.
        let (len, space) = unsafe {
            let len = bytes.len() as libc::c_uint;
            (libc::CMSG_LEN(len), libc::CMSG_SPACE(len))
        };
        let room = &mut self.0[used..used + space as usize];
        let message = room.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `room` is as large as the message with its header (it is a checked slice). It is aligned, because the whole
        // is, and `CMSG_SPACE` returns multiples of the alignment.
        unsafe {
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = len as _;
            ptr::copy_nonoverlapping(bytes.as_ptr(), libc::CMSG_DATA(message), bytes.len());
        }
        // The pointer is set again for each message: the first one makes it valid.
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = (used + space as usize) as _;
    }
}

/// Structures of the system that can be sent byte by byte.
///
/// # Safety
///
/// An implementor has no padding, so that each of its bytes is initialised.
unsafe trait NoPadding {}

// SAFETY: three fields of 4 bytes, which are 12.
#[cfg(any(linux_kernel, target_vendor = "apple"))]
unsafe impl NoPadding for libc::in_pktinfo {}
// SAFETY: fields of 16 and 4 bytes with an alignment of 4, which are 20.
unsafe impl NoPadding for libc::in6_pktinfo {}

/// The bytes of a structure, as they are sent.
fn bytes_of<T: NoPadding>(value: &T) -> &[u8] {
    // SAFETY: every byte of `value` is initialised (`NoPadding`), and the slice borrows from it.
    unsafe { std::slice::from_raw_parts(ptr::from_ref(value).cast(), mem::size_of::<T>()) }
}
