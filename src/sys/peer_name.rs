//! The name of a datagram's sender, as the kernel writes it and takes it back.
//!
//! A reply passes the bytes back as they came, port and address in network order. They are turned into a `SocketAddr`
//! only when a handler, a hook or a limit asks ([`PeerName::to_inet`]).

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

use super::socket::socklen;

/// The sender of a datagram, as the kernel names it, so that a reply needs no conversion. Internet addresses take at
/// most 28 bytes, while the kernel's buffer for any name has 128.
#[derive(Clone, Debug)]
pub(crate) enum PeerName {
    /// An IPv4 address: 16 bytes, as they were received.
    V4(libc::sockaddr_in),
    /// An IPv6 address: 28 bytes, with the flow and the interface that a reply needs.
    V6(libc::sockaddr_in6),
    /// A Unix socket's name, or no name at all. In a box, because it is long and rare.
    Other(Box<SockAddr>),
}

impl PeerName {
    /// The name that the kernel has written, in `len` bytes.
    ///
    /// A sender without a name (an unbound Unix socket) has a length of zero, and a reply to it fails.
    pub(super) fn new(name: &libc::sockaddr_storage, len: libc::socklen_t) -> Self {
        let name = ptr::from_ref(name);
        // SAFETY: a storage has the size and the alignment of every kind of address, any bytes are a valid address, and the
        // family says which kind the kernel has written. `len` is the length that the kernel has written with it.
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

    /// A name to send to.
    pub(crate) fn of(address: &SockAddr) -> Self {
        match address.as_socket() {
            // SAFETY: the address has a whole `sockaddr_storage`, and its family says that it is one of IPv4.
            Some(SocketAddr::V4(_)) => Self::V4(unsafe { *address.as_ptr().cast() }),
            // SAFETY: as above, for IPv6.
            Some(SocketAddr::V6(_)) => Self::V6(unsafe { *address.as_ptr().cast() }),
            None => Self::Other(Box::new(address.clone())),
        }
    }

    /// A pointer for a system call, together with [`len`](Self::len). Valid as long as `self` is neither moved nor
    /// dropped.
    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        match self {
            Self::V4(name) => ptr::from_ref(name).cast(),
            Self::V6(name) => ptr::from_ref(name).cast(),
            Self::Other(name) => name.as_ptr().cast(),
        }
    }

    /// The length of the name, as a send takes it.
    pub(super) fn len(&self) -> libc::socklen_t {
        match self {
            Self::V4(_) => socklen::<libc::sockaddr_in>(),
            Self::V6(_) => socklen::<libc::sockaddr_in6>(),
            // Linux reports one byte too many for a name that fills the structure, and does not accept that length.
            Self::Other(name) => name.len().min(socklen::<libc::sockaddr_un>()),
        }
    }

    /// Whether both are the same internet address. False for names of other kinds, which are not compared.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::V4(one), Self::V4(other)) => {
                one.sin_port == other.sin_port && one.sin_addr.s_addr == other.sin_addr.s_addr
            }
            (Self::V6(_), Self::V6(_)) => self.to_inet() == other.to_inet(),
            _ => false,
        }
    }

    /// The port, if the name is an internet address.
    #[inline]
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::V4(name) => Some(u16::from_be(name.sin_port)),
            Self::V6(name) => Some(u16::from_be(name.sin6_port)),
            Self::Other(_) => None,
        }
    }

    /// The internet address, or else the name as it is.
    ///
    /// A Unix socket's name, for one, is no internet address.
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
