//! Control messages: what goes with a datagram beside its bytes, each way.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::ptr;

use super::set_int_option;

/// The local address that a datagram was sent to, and that its reply must come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) ip: IpAddr,
    /// The interface, which a link-local address needs; 0 leaves it to the route.
    interface: u32,
}

/// Asks the kernel to tell with each datagram where it was sent to.
///
/// A dual-stack IPv6 socket tells it for IPv4 as well, as a mapped address.
pub(crate) fn tell_local_address(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_int_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        tell_local_ipv4(fd)
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn tell_local_ipv4(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// Elsewhere the reply leaves from the address that the route chooses.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn tell_local_ipv4(_fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(())
}

/// Room for the control messages of one datagram, aligned as `cmsghdr` wants.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([u8; Control::LEN]);

impl Control {
    /// The larger of the two structures for an address, and the length of a burst's datagrams.
    // SAFETY: `CMSG_SPACE` computes with its argument and touches no memory.
    pub(super) const LEN: usize = unsafe {
        libc::CMSG_SPACE(mem::size_of::<libc::in6_pktinfo>() as libc::c_uint)
            + libc::CMSG_SPACE(mem::size_of::<u16>() as libc::c_uint)
    } as usize;

    pub(super) fn new() -> Self {
        Self([0; Self::LEN])
    }

    /// Makes a datagram leave from `local`.
    pub(super) fn leave_from(&mut self, local: Local, header: &mut libc::msghdr) {
        match local.ip {
            #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
            IpAddr::V4(ip) => {
                // SAFETY: all zeros is a valid in_pktinfo.
                let mut info = unsafe { mem::zeroed::<libc::in_pktinfo>() };
                info.ipi_spec_dst.s_addr = u32::from(ip).to_be();
                self.push(header, libc::IPPROTO_IP, libc::IP_PKTINFO, bytes_of(&info));
            }
            #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
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

    /// Has the kernel cut what is sent into datagrams of `len` bytes each; see [`cuts_bursts`](super::datagram::cuts_bursts).
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn cut(&mut self, len: u16, header: &mut libc::msghdr) {
        self.push(header, libc::SOL_UDP, libc::UDP_SEGMENT, &len.to_ne_bytes());
    }

    /// Adds a message to those that the header has.
    fn push(&mut self, header: &mut libc::msghdr, level: i32, kind: i32, bytes: &[u8]) {
        let used: usize = header.msg_controllen as _;
        // SAFETY: they compute with their arguments and touch no memory.
        let (len, space) = unsafe {
            let len = bytes.len() as libc::c_uint;
            (libc::CMSG_LEN(len), libc::CMSG_SPACE(len))
        };
        let room = &mut self.0[used..used + space as usize];
        let message = room.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: the room is as large as the message with its header. It is aligned, because the whole is,
        // and `CMSG_SPACE` gives whole steps of the alignment.
        unsafe {
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = len as _;
            ptr::copy_nonoverlapping(bytes.as_ptr(), libc::CMSG_DATA(message), bytes.len());
        }
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = (used + space as usize) as _;
    }
}

/// Reads the control message that [`tell_local_address`] asked for.
pub(super) fn local_address(header: &libc::msghdr) -> Option<Local> {
    // SAFETY: the header is as the kernel left it; its control buffer is alive, and the length in it
    // is what the kernel filled.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header within the buffer.
        let (level, kind) = unsafe { ((*message).cmsg_level, (*message).cmsg_type) };
        // SAFETY: the data of this message follows its header within the buffer.
        let data = unsafe { libc::CMSG_DATA(message) };
        match (level, kind) {
            #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: a message of this kind carries an in_pktinfo; it may be unaligned.
                let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                let ip = u32::from_be(info.ipi_spec_dst.s_addr);
                return Some(Local { ip: IpAddr::V4(ip.into()), interface: 0 });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: a message of this kind carries an in6_pktinfo; it may be unaligned.
                let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                // A group is not an address that a reply could come from.
                if ip.is_multicast() {
                    return None;
                }
                let link_local = ip.segments()[0] & 0xffc0 == 0xfe80;
                let interface = if link_local { info.ipi6_ifindex as u32 } else { 0 };
                return Some(Local { ip: IpAddr::V6(ip), interface });
            }
            // SAFETY: as for CMSG_FIRSTHDR.
            _ => message = unsafe { libc::CMSG_NXTHDR(header, message) },
        }
    }
    None
}

/// The bytes of a plain C structure without padding.
fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: `in_pktinfo` (three 4-byte fields) and `in6_pktinfo` (16 bytes and 4) have no padding,
    // so that every byte is initialised; the slice borrows from `value`.
    unsafe { std::slice::from_raw_parts(ptr::from_ref(value).cast(), mem::size_of::<T>()) }
}
