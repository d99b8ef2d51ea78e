//! Clients that connect, send a line, read the answer up to its end, and connect anew.

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::session::{Session, TURN, Tally, unexpected};
use crate::sys::{Epoll, Event, READABLE, WRITABLE, events};

const LINE: &[u8; 64] = b"a line of sixty-four bytes, the last of which is a newline.....\n";

pub struct Churn {
    address: SockAddr,
    epoll: Epoll,
    events: Vec<Event>,
    clients: Vec<Client>,
}

struct Client {
    socket: Socket,
    begun: Instant,
    sent: bool,
    got: usize,
}

impl Churn {
    pub fn new(address: SocketAddr, count: usize) -> io::Result<Self> {
        let (address, epoll) = (address.into(), Epoll::new()?);
        let clients = (0..count)
            .map(|token| Client::begin(&epoll, &address, token))
            .collect::<io::Result<_>>()?;
        Ok(Self { address, epoll, events: events(), clients })
    }
}

impl Client {
    fn begin(epoll: &Epoll, address: &SockAddr, token: usize) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        // The close is a reset, which frees the port at once on both sides, so that ports never run out.
        socket.set_linger(Some(Duration::ZERO))?;
        let mut client = Self { socket, begun: Instant::now(), sent: false, got: 0 };
        match client.socket.connect(address) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            done => done?,
        }
        // Over loopback the connection is there already, unless the queue is full.
        client.send()?;
        epoll.add(&client.socket, if client.sent { READABLE } else { WRITABLE }, token)?;
        Ok(client)
    }

    fn send(&mut self) -> io::Result<()> {
        match self.socket.send(LINE) {
            Ok(count) if count == LINE.len() => self.sent = true,
            Ok(_) => return Err(unexpected("a line did not fit")),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads the available bytes, and returns whether the connection has ended.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 256];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) if self.got == LINE.len() => return Ok(true),
                Ok(0) => return Err(unexpected("a connection ended before its answer")),
                Ok(count) => self.got += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Session for Churn {
    fn turn(&mut self, tally: &mut Tally) -> io::Result<()> {
        for event in self.epoll.wait(&mut self.events, Some(TURN))? {
            let token = event.u64 as usize;
            let client = &mut self.clients[token];
            if !client.sent {
                client.send()?;
                if client.sent {
                    self.epoll.modify(&client.socket, READABLE, token)?;
                }
            } else if client.read()? {
                tally.add_timed(client.begun.elapsed());
                *client = Client::begin(&self.epoll, &self.address, token)?;
            }
        }
        Ok(())
    }
}
