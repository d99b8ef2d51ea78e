//! Control messages that come with a datagram. Every length in them is checked: the kernel cuts a message short if
//! the buffer is too small, and only the message's length shows that.
//!
//! This file uses nothing of the crate, so that the fuzz target `control` can include it.
//!
//! ```text
//! [cmsghdr: length, level, kind][data, padded]  [cmsghdr ..][data, padded]  ..
//! ```
//!
//! The lengths are the kernel's, and are checked all the same. The reader does without CMSG_NXTHDR: it takes a slice,
//! copies each number out of it, and so needs no alignment and no pointers. Bytes that cannot be a message end the list,
//! without an error: the destination is then unknown, and a reply leaves from the address that the route chooses.

use std::mem::offset_of;
#[cfg(any(linux_kernel, target_vendor = "apple"))]
use std::net::Ipv4Addr;
use std::net::{IpAddr, Ipv6Addr};

/// The local address that a datagram was sent to, and that its reply must come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    /// One of this machine's addresses.
    pub(crate) ip: IpAddr,
    /// The interface, which a link-local address needs. Zero: the route chooses it.
    pub(crate) interface: u32,
}

/// The address that a datagram was sent to, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The address, if it belongs to this machine.
    pub(crate) local: Option<LocalAddress>,
    /// The datagram was sent to a multicast group, which may have other members.
    pub(crate) group: bool,
}

/// The destination of a datagram with these control messages.
pub(crate) fn destination(control: &[u8]) -> Destination {
    ControlMessages { rest: control }.find_map(|message| message.destination()).unwrap_or_default()
}

/// One control message, which may have been cut short.
struct ControlMessage<'a> {
    /// The protocol of the message, such as IPPROTO_IP.
    level: libc::c_int,
    /// The message's number within its protocol, such as IP_PKTINFO.
    kind: libc::c_int,
    /// The bytes after the header, without the padding.
    data: &'a [u8],
}

impl ControlMessage<'_> {
    /// The destination, if this message has it: [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html), IP_PKTINFO, and
    /// [ipv6(7)](https://man7.org/linux/man-pages/man7/ipv6.7.html), IPV6_PKTINFO. None for any other message, and for one
    /// that is too short.
    fn destination(&self) -> Option<Destination> {
        match (self.level, self.kind) {
            #[cfg(any(linux_kernel, target_vendor = "apple"))]
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The kernel sets `ipi_spec_dst` to the address to reply from, also for a datagram to a group;
                // `ipi_addr` is the destination as the header had it.
                let ip: [u8; 4] = self.field(offset_of!(libc::in_pktinfo, ipi_spec_dst))?;
                let header: [u8; 4] = self.field(offset_of!(libc::in_pktinfo, ipi_addr))?;
                let local = LocalAddress { ip: Ipv4Addr::from(ip).into(), interface: 0 };
                let group = Ipv4Addr::from(header).is_multicast();
                Some(Destination { local: Some(local), group })
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip: [u8; 16] = self.field(offset_of!(libc::in6_pktinfo, ipi6_addr))?;
                let interface = self.field(offset_of!(libc::in6_pktinfo, ipi6_ifindex))?;
                let (ip, interface) = (Ipv6Addr::from(ip), u32::from_ne_bytes(interface));
                // A reply cannot leave from a group's address.
                let group = ip.is_multicast();
                // No other address needs an interface: the route chooses it.
                let interface = if ip.is_unicast_link_local() { interface } else { 0 };
                let local = (!group).then_some(LocalAddress { ip: ip.into(), interface });
                Some(Destination { local, group })
            }
            _ => None,
        }
    }

    /// `LEN` bytes of the data, from `at` on. None if the data is too short.
    fn field<const LEN: usize>(&self, at: usize) -> Option<[u8; LEN]> {
        self.data.get(at..at + LEN)?.try_into().ok()
    }
}

/// The messages of one datagram, one after the other, up to the first bytes that cannot be a message.
struct ControlMessages<'a> {
    /// The bytes from the next message's header on.
    rest: &'a [u8],
}

/// The offset of a message's data, and the alignment of the next message.
// SAFETY: `CMSG_SPACE` computes with its argument and touches no memory.
const DATA: usize = unsafe { libc::CMSG_SPACE(0) } as usize;
// SAFETY: as above.
const ALIGNMENT: usize = unsafe { libc::CMSG_SPACE(1) } as usize - DATA;

/// The offsets of the two numbers in a header. The length before them has 4 or 8 bytes, depending on the system.
const LEVEL: usize = offset_of!(libc::cmsghdr, cmsg_level);
const KIND: usize = offset_of!(libc::cmsghdr, cmsg_type);

impl<'a> Iterator for ControlMessages<'a> {
    type Item = ControlMessage<'a>;

    fn next(&mut self) -> Option<ControlMessage<'a>> {
        let header = self.rest.get(..DATA)?;
        let (level, kind) = (number(header, LEVEL)?, number(header, KIND)?);
        let len = match *header.get(..LEVEL)? {
            [a, b, c, d] => usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?,
            ref len => usize::from_ne_bytes(len.try_into().ok()?),
        };
        // None if the length is shorter than the header, or longer than the rest.
        let data = self.rest.get(DATA..len)?;
        let next = len.checked_next_multiple_of(ALIGNMENT);
        self.rest = next.and_then(|next| self.rest.get(next..)).unwrap_or_default();
        Some(ControlMessage { level, kind, data })
    }
}

/// The int at an offset of a header. None if the header is too short.
fn number(header: &[u8], at: usize) -> Option<libc::c_int> {
    header.get(at..)?.first_chunk().copied().map(libc::c_int::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One message, which says that it is `len` bytes long.
    fn message(level: libc::c_int, kind: libc::c_int, data: &[u8], len: usize) -> Vec<u8> {
        let mut bytes = vec![0; DATA];
        let len = len.to_ne_bytes();
        // A length of 4 bytes is written into the low half of a `usize`.
        let low = if cfg!(target_endian = "big") { len.len() - LEVEL } else { 0 };
        bytes[..LEVEL].copy_from_slice(&len[low..][..LEVEL]);
        bytes[LEVEL..][..4].copy_from_slice(&level.to_ne_bytes());
        bytes[KIND..][..4].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn whole(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Vec<u8> {
        message(level, kind, data, DATA + data.len())
    }

    /// The data of an in6_pktinfo.
    fn info(ip: &str, interface: u32) -> Vec<u8> {
        let ip: Ipv6Addr = ip.parse().unwrap();
        [&ip.octets()[..], &interface.to_ne_bytes()].concat()
    }

    fn info_message(ip: &str, interface: u32) -> Vec<u8> {
        whole(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info(ip, interface))
    }

    fn local(ip: &str, interface: u32) -> Destination {
        Destination {
            local: Some(LocalAddress { ip: ip.parse().unwrap(), interface }),
            group: false,
        }
    }

    #[test]
    fn an_address_is_found_alone_and_behind_other_messages() {
        let times = whole(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[7; 16]);
        let drops = whole(libc::SOL_SOCKET, 40, &[7; 4]);
        for before in [&[][..], &times, &drops, &[&times[..], &drops].concat()] {
            let bytes = [before, &info_message("fe80::a", 3)].concat();
            assert_eq!(destination(&bytes), local("fe80::a", 3));
        }
        assert_eq!(destination(&info_message("2001:db8::1", 3)), local("2001:db8::1", 0));
        let group = destination(&info_message("ff02::1", 3));
        assert_eq!(group, Destination { local: None, group: true });
        assert_eq!(destination(&times), Destination::default());
    }

    #[test]
    #[cfg(any(linux_kernel, target_vendor = "apple"))]
    fn an_address_of_ipv4_is_the_one_to_answer_from_and_not_the_group_that_was_sent_to() {
        let ours = [[3, 0, 0, 0], [192, 0, 2, 1], [192, 0, 2, 1]].concat();
        let found = destination(&whole(libc::IPPROTO_IP, libc::IP_PKTINFO, &ours));
        assert_eq!(found, local("192.0.2.1", 0));
        let to_group = [[3, 0, 0, 0], [192, 0, 2, 1], [224, 0, 0, 251]].concat();
        let found = destination(&whole(libc::IPPROTO_IP, libc::IP_PKTINFO, &to_group));
        assert_eq!(found, Destination { group: true, ..local("192.0.2.1", 0) });
    }

    #[test]
    fn what_has_been_cut_short_anywhere_is_no_address() {
        let whole = info_message("fe80::a", 3);
        let data = info("fe80::a", 3);
        for len in 0..DATA + data.len() {
            // The message says that it has `len` bytes, as one that the kernel has cut to the length of the buffer.
            let cut = message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data, len);
            assert_eq!(destination(&cut), Destination::default(), "the length is {len}");
            // The message says that it is whole, and only `len` bytes of it are there.
            assert_eq!(destination(&whole[..len]), Destination::default(), "{len} bytes are there");
        }
    }

    #[test]
    fn a_length_that_cannot_be_one_ends_the_messages() {
        let info = info_message("fe80::a", 3);
        for len in [0, 1, DATA - 1, 1 << 20, usize::MAX / 2, usize::MAX - 1, usize::MAX] {
            let bytes = [&message(0, 0, &[], len)[..], &info].concat();
            assert_eq!(destination(&bytes), Destination::default(), "{len}");
        }
        let empty = whole(0, 0, &[]);
        assert_eq!(destination(&[&empty[..], &info].concat()), local("fe80::a", 3));
    }
}
