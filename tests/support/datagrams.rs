//! Clients of datagram servers, and receiving in a process that also starts programs.

use crate::SOON;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;

/// A client of IPv4, with a deadline on every receive.
pub fn udp_client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Makes a system call until it is not interrupted. The end of a child of this process interrupts a receive that has a
/// timeout, if the thread that forked had its signals blocked at that moment.
pub fn uninterrupted<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A socket that receives datagrams.
pub trait Datagrams {
    /// Receives one, as the socket's own method of this name does.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl Datagrams for UdpSocket {
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.recv(buffer)
    }
}

impl Datagrams for UnixDatagram {
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.recv(buffer)
    }
}

/// The next datagram.
#[track_caller]
pub fn receive(socket: &impl Datagrams) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let count = uninterrupted(|| socket.recv(&mut buffer)).expect("a datagram in time");
    buffer.truncate(count);
    buffer
}

/// The next datagram as text.
#[track_caller]
pub fn receive_text(socket: &impl Datagrams) -> String {
    String::from_utf8(receive(socket)).expect("text")
}

/// The next datagram, and its sender.
#[track_caller]
pub fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (count, from) =
        uninterrupted(|| socket.recv_from(&mut buffer)).expect("a datagram in time");
    buffer.truncate(count);
    (buffer, from)
}
