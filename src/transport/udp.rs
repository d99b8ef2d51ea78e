//! UDP: Python's `UDPServer`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::datagram_socket::{Packet, PacketSocket};
use super::server_socket::adopt;
use super::socket_options::SocketOptions;
use super::tcp::{bind_first, inet_address, prepare_inet};
use super::{BeforeBind, Bind, CloseWhen, Transport};
use crate::address::{Address, BindAddress};
use crate::error::{Error, Result};
use crate::request::{DatagramRequest, Ticket};
use crate::sys::send_cmsg::tell_local_address;

/// UDP datagrams. A reply leaves from the address that was asked, also on a server that is bound to every
/// interface.
///
/// The address of a sender is only what the datagram says: who can send with an address that is made up has the reply
/// sent there. That is the protocol's to bear in mind:
///
/// - A reply that is longer than its question is a means to flood others. Answer with no more than was sent, or only who
///   has shown that it receives at its address (by a number that it was sent, say), or count replies per address.
/// - Two servers that answer everything answer each other for ever, when one datagram tells one of them that it comes from
///   the other. A protocol is safe from that if no answer is a question: `echo` and `time` of the old internet are not,
///   and are for closed networks.
/// - What seems to come from the server's own address is dropped, so that none answers itself: its own port with the
///   address that it is bound to, or with any of the machine's if that is every interface. What was sent to a multicast
///   group is heard, because several members of a group may share one address and port.
#[derive(Debug)]
pub struct Udp {
    packets: Arc<PacketSocket>,
    candidates: Vec<SocketAddr>,
    options: SocketOptions,
}

/// More than a datagram of UDP can carry, whose length is a number of 16 bits.
const MOST_BYTES: usize = 65_535;

impl Udp {
    fn socket(address: &SocketAddr, options: &SocketOptions) -> Result<Socket> {
        let make = || {
            let kind = Type::DGRAM;
            let socket = Socket::new(Domain::for_address(*address), kind, Some(Protocol::UDP))?;
            prepare_inet(&socket, address, options)?;
            Ok(socket)
        };
        make().map_err(|error| Error::io("make a socket for", address, error))
    }
}

impl Bind for Udp {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        let candidates = address.to_inet()?;
        let socket = Self::socket(&candidates[0], options)?;
        let packets = PacketSocket::new(socket, options.max_packet_size.min(MOST_BYTES));
        Ok(Self { packets, candidates, options: options.clone() })
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        let (socket, _address) = adopt(fd, Type::DGRAM, false)?;
        let packets = PacketSocket::new(socket, options.max_packet_size.min(MOST_BYTES));
        Ok(Self { packets, candidates: Vec::new(), options: options.clone() })
    }
}

impl Transport for Udp {
    type Raw = Box<Packet>;
    type Request = DatagramRequest;

    fn server_bind(&self, before_bind: BeforeBind<'_>) -> Result<()> {
        bind_first(&self.packets.socket, &self.candidates, before_bind, |address| {
            Self::socket(address, &self.options)
        })
    }

    /// There is nothing to listen for; but from here on the kernel tells where a datagram was sent
    /// to, if there is more than one answer.
    fn server_activate(&self) -> Result<()> {
        let address = self.server_address();
        let Some(ip) = address.ip() else { return Ok(()) };
        if !ip.is_unspecified() {
            return Ok(());
        }
        self.packets
            .socket
            .with(|fd| {
                let ipv6 = SockRef::from(fd).domain()? == Domain::IPV6;
                tell_local_address(fd.as_fd(), ipv6)
            })
            .map_err(|error| Error::io("ask for the addresses of", address, error))
    }

    fn server_address(&self) -> Address {
        inet_address(&self.packets.socket, &self.candidates)
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.packets.socket.fileno()
    }

    fn get_request(&self) -> io::Result<(Box<Packet>, Address)> {
        let packet = self.packets.get_request()?;
        let peer = packet.client_address();
        Ok((packet, peer))
    }

    fn received(raw: &Box<Packet>) -> Instant {
        raw.taken
    }

    fn make_request(&self, raw: Box<Packet>, ticket: Ticket) -> DatagramRequest {
        let local = raw.local_address();
        raw.into_request(local, ticket)
    }

    fn refuse_new(&self) -> bool {
        self.packets.refuse_new()
    }

    fn close_when(&self) -> CloseWhen {
        CloseWhen::RequestsHaveEnded
    }

    fn close_in_others_child(&self) {
        self.packets.socket.close();
    }

    fn server_close(&self) {
        self.packets.server_close();
    }
}
