//! Protection against reply loops: datagrams that claim to come from the server itself are dropped.
//!
//! A server that answers such a datagram sends the answer to itself, answers that, and goes on for ever; one datagram with
//! a forged sender is enough. (Two servers that answer each other cannot be protected here: see [`Udp`](super::Udp).)
//!
//! ```text
//! attacker -> server:7   from server:7 (forged)
//! server   -> server:7   the answer: a datagram from server:7, which is answered, and so on
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockAddr;

use crate::address::Address;
use crate::sys::peer_name::PeerName;
use crate::sys::recv_batch::Received;

/// The address of a socket, and the answers of the system to the question which other addresses are this machine's.
pub(super) struct ReplyLoopGuard {
    /// The port of the socket; none for a Unix socket.
    port: Option<u16>,
    /// Unspecified if the server is bound to every interface: then each address of the machine is its own address.
    ip: IpAddr,
    /// The name of a Unix socket. No other socket can send from this name. But a peer may have replaced its own file
    /// with a link to ours, and an answer to that peer then comes here.
    name: Option<SockAddr>,
    /// The addresses that were looked up since `since`, and whether each is one of this machine's.
    asked: HashMap<SocketAddr, bool>,
    /// When the oldest of the look-ups was made. All of them expire together.
    since: Option<Instant>,
}

/// How long an answer of the system is used again, and how many answers are kept. A machine's addresses change
/// rarely, and few peers send from the server's own port: mostly other servers of the same kind.
const ANSWER_HOLDS: Duration = Duration::from_secs(1);
const MAX_ANSWERS: usize = 1_024;

impl ReplyLoopGuard {
    /// A guard for a socket that is bound to `name`.
    pub(super) fn new(name: Option<SockAddr>) -> Self {
        let address = name.as_ref().map_or(Address::Unnamed, Address::from_socket);
        // `None` is no peer's port, so a Unix socket never comes to the checks of internet addresses.
        let (ip, port) = match address.as_inet() {
            Some(inet) => (inet.ip(), Some(inet.port())),
            None => (Ipv4Addr::UNSPECIFIED.into(), None),
        };
        // An unnamed socket cannot be answered, so it cannot loop.
        let name = name.filter(|_| matches!(address, Address::Unix(_) | Address::Abstract(_)));
        Self { port, ip, name, asked: HashMap::new(), since: None }
    }

    /// Whether this datagram seems to come from the server itself. A datagram to a multicast group never does: other
    /// members may have the same address and port, and an answer reaches only one of them.
    #[inline]
    pub(super) fn is_from_self(&mut self, received: &Received<'_>) -> bool {
        match &received.peer {
            PeerName::Other(name) => self.name.as_ref() == Some(&**name),
            // This is one comparison for every other datagram: clients have ports of their own.
            inet if inet.port() == self.port => self.is_from_self_inet(received),
            _ => false,
        }
    }

    /// The check for a client that has the server's port, which is rare.
    #[cold]
    fn is_from_self_inet(&mut self, received: &Received<'_>) -> bool {
        // On a socket for both versions an IPv4 peer has a mapped address.
        let Ok(peer) = received.peer.to_inet().map(canonical) else { return false };
        // See `is_from_self`.
        if received.destination.group {
            return false;
        }
        // Usually the server is bound to one address. The machine's other addresses then do not matter.
        if !self.ip.is_unspecified() {
            return peer.ip() == self.ip;
        }
        // The server is bound to every address of the machine.
        if peer.ip().is_loopback() {
            return true;
        }
        let now = Instant::now();
        let is_fresh = self.since.is_some_and(|since| now - since < ANSWER_HOLDS);
        // A sender that forges many addresses costs a few system calls for each, and no more memory than this.
        if !is_fresh || self.asked.len() >= MAX_ANSWERS {
            self.asked.clear();
            self.since = Some(now);
        }
        *self.asked.entry(peer).or_insert_with(|| is_of_this_machine(peer))
    }
}

/// The address in a form that can be compared: an IPv4-mapped address becomes an IPv4 one, and a link-local address
/// keeps its scope.
fn canonical(address: SocketAddr) -> SocketAddr {
    Address::from(address).as_inet().unwrap_or(address)
}

/// Whether an address is this machine's. When a socket is connected, the system chooses its source address, and it chooses
/// the address of the destination only if that belongs to the machine. Nothing is sent. (A bind to the address proves less:
/// the system may allow it for addresses that do not exist.)
fn is_of_this_machine(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Without a descriptor it cannot be found out. A lost datagram is better than an endless loop.
    let Ok(socket) = UdpSocket::bind((any, 0)) else { return true };
    // An address without a route is not ours, and an answer to it goes nowhere.
    let chosen = socket.connect(address).and_then(|()| socket.local_addr());
    chosen.is_ok_and(|chosen| chosen.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_this_machine_are_told_from_others() {
        let with_port = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 9);
        assert!(is_of_this_machine(with_port("127.0.0.1")));
        // Reserved for documentation.
        assert!(!is_of_this_machine(with_port("198.51.100.1")));
        assert!(!is_of_this_machine(with_port("2001:db8::1")));
    }
}
