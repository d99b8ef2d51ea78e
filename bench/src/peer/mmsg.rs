//! Datagrams in batches, by recvmmsg and sendmmsg, on one thread and without epoll.

use std::io;
use std::net::UdpSocket;

use super::{Mode, announce, unsupported};
use crate::sys::Batch;

pub fn serve(mode: Mode) -> io::Result<()> {
    if mode != Mode::Datagram {
        return unsupported();
    }
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    announce(socket.local_addr()?)?;
    let mut batch = Batch::new();
    loop {
        // Waits for the first datagram, and takes the others that have come.
        let count = batch.receive(&socket, true, libc::MSG_WAITFORONE)?;
        batch.send(&socket, count)?;
    }
}
