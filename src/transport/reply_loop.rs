//! A datagram socket's own address, and what seems to come from there.
//!
//! Who answers a datagram that claims to come from the server itself, answers itself, and then that answer, for ever: one
//! datagram with a sender that is made up is enough. So what comes from the server's own address is dropped.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockAddr;

use crate::address::Address;
use crate::sys::peer_name::PeerName;
use crate::sys::recv_batch::Received;

/// The address of a socket, and what has been found out about others.
pub(super) struct ReplyLoopGuard {
    port: Option<u16>,
    ip: IpAddr,
    /// A name of a Unix socket. Nobody else can send from there; but a peer may have put a link to it in the place of its
    /// own name, and the answer to that peer then comes here.
    name: Option<SockAddr>,
    /// Whether an address is one of this machine's, as far as it was asked since then.
    asked: HashMap<SocketAddr, bool>,
    since: Option<Instant>,
}

/// For so long an answer of the system's holds, and so many of them are kept. Addresses come and go rarely, and those
/// who send from the server's own port are few: other servers of the same kind.
const ANSWER_HOLDS: Duration = Duration::from_secs(1);
const MAX_ANSWERS: usize = 1_024;

impl ReplyLoopGuard {
    pub(super) fn new(name: Option<SockAddr>) -> Self {
        let address = name.as_ref().map_or(Address::Unnamed, Address::from_socket);
        let (ip, port) = match address.as_inet() {
            Some(inet) => (inet.ip(), Some(inet.port())),
            None => (Ipv4Addr::UNSPECIFIED.into(), None),
        };
        let name = name.filter(|_| matches!(address, Address::Unix(_) | Address::Abstract(_)));
        Self { port, ip, name, asked: HashMap::new(), since: None }
    }

    /// Whether this seems to come from the server itself. What was sent to a group is none of that: other members
    /// may have the same address and port, and an answer to it comes back to one of them alone.
    #[inline]
    pub(super) fn is_from_self(&mut self, received: &Received<'_>) -> bool {
        match &received.peer {
            PeerName::Other(name) => self.name.as_ref() == Some(&**name),
            inet if inet.port() == self.port => self.is_from_self_inet(received),
            _ => false,
        }
    }

    /// Few clients have the server's port, and only of those more has to be known.
    #[cold]
    fn is_from_self_inet(&mut self, received: &Received<'_>) -> bool {
        let Ok(peer) = received.peer.to_inet().map(canonical) else { return false };
        if received.destination.group {
            return false;
        }
        if !self.ip.is_unspecified() {
            return peer.ip() == self.ip;
        }
        // All addresses of the machine are the server's.
        if peer.ip().is_loopback() {
            return true;
        }
        let now = Instant::now();
        let is_fresh = self.since.is_some_and(|since| now - since < ANSWER_HOLDS);
        if !is_fresh || self.asked.len() >= MAX_ANSWERS {
            self.asked.clear();
            self.since = Some(now);
        }
        *self.asked.entry(peer).or_insert_with(|| is_of_this_machine(peer))
    }
}

/// An IPv4 address as one, with the port; and the link of an address that needs one.
fn canonical(address: SocketAddr) -> SocketAddr {
    Address::from(address).as_inet().unwrap_or(address)
}

/// Whether an address is this machine's. To itself the machine sends from the very address that is sent to, and to
/// others never; the system chooses when a socket is connected, and nothing is sent. (To bind to the address tells less:
/// the system may allow that for addresses that are not there.)
fn is_of_this_machine(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Without a descriptor for it nobody can say; then rather one is lost than answered for ever.
    let Ok(socket) = UdpSocket::bind((any, 0)) else { return true };
    // Where no way leads there, no answer does either.
    let chosen = || -> io::Result<IpAddr> {
        socket.connect(address)?;
        Ok(socket.local_addr()?.ip())
    };
    chosen().is_ok_and(|ip| ip == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_this_machine_are_told_from_others() {
        let with_port = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 9);
        assert!(is_of_this_machine(with_port("127.0.0.1")));
        // Kept free for documents: nobody's.
        assert!(!is_of_this_machine(with_port("198.51.100.1")));
        assert!(!is_of_this_machine(with_port("2001:db8::1")));
    }
}
