//! UDP: Python's `UDPServer`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::packets::{Packet, PacketSocket};
use super::socket::{SocketOptions, adopt};
use super::tcp::{bind_first, inet_address, prepare_inet};
use super::{BeforeBind, Bind, Transport};
use crate::address::{Address, BindAddress};
use crate::error::{Error, Result};
use crate::request::{DatagramRequest, Ticket};
use crate::sys::control::tell_local_address;

/// UDP datagrams. A reply leaves from the address that was asked, also on a server that is bound to every
/// interface.
#[derive(Debug)]
pub struct Udp {
    packets: Arc<PacketSocket>,
    candidates: Vec<SocketAddr>,
    options: SocketOptions,
}

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
        let packets = PacketSocket::new(socket, options.max_packet_size);
        Ok(Self { packets, candidates, options: options.clone() })
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        let (socket, _address) = adopt(fd, Type::DGRAM, false)?;
        let packets = PacketSocket::new(socket, options.max_packet_size);
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

    fn server_close(&self) {
        self.packets.server_close();
    }
}
