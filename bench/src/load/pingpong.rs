//! Connections that each send 64 bytes, wait for the echo, and repeat: in the clear, or through TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::ClientConnection;

use super::connect::{connect, connect_all};
use super::session::{Session, TURN, Tally, unexpected};
use crate::sys::{Epoll, Event, READABLE, events};
use crate::{interrupt, tls};

const REQUEST: [u8; 64] = [b'p'; 64];
/// How long one handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub struct Pingpong<W> {
    epoll: Epoll,
    events: Vec<Event>,
    connections: Vec<Connection<W>>,
}

struct Connection<W> {
    wire: W,
    sent: Instant,
    got: usize,
}

/// A connection in non-blocking mode.
pub trait Wire {
    fn stream(&self) -> &TcpStream;

    /// Sends a request, which always fits: nothing else is under way.
    fn send(&mut self, request: &[u8]) -> io::Result<()>;

    /// Receives once. Returns 0 if no byte of an answer has come.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl Pingpong<TcpStream> {
    pub fn new(address: SocketAddr, count: usize) -> io::Result<Self> {
        Self::over(connect_all(address, count)?.into_iter().map(Ok), count)
    }
}

impl Pingpong<TlsWire> {
    pub fn new_tls(address: SocketAddr, count: usize) -> io::Result<Self> {
        let config = tls::client_config(false)?;
        let shake_hands = |_| {
            interrupt::check()?;
            let mut stream = connect(address)?;
            stream.set_read_timeout(Some(HANDSHAKE))?;
            let mut tls = tls::client(&config)?;
            while tls.is_handshaking() {
                tls.complete_io(&mut stream)?;
            }
            Ok(TlsWire { stream, tls })
        };
        Self::over((0..count).map(shake_hands), count)
    }
}

impl<W: Wire> Pingpong<W> {
    fn over(wires: impl Iterator<Item = io::Result<W>>, count: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut connections = Vec::with_capacity(count);
        for (token, wire) in wires.enumerate() {
            let wire = wire?;
            wire.stream().set_nonblocking(true)?;
            epoll.add(wire.stream(), READABLE, token)?;
            connections.push(Connection { wire, sent: Instant::now(), got: 0 });
        }
        for connection in &mut connections {
            connection.send(Instant::now())?;
        }
        Ok(Self { epoll, events: events(), connections })
    }
}

impl<W: Wire> Connection<W> {
    fn send(&mut self, now: Instant) -> io::Result<()> {
        (self.sent, self.got) = (now, 0);
        self.wire.send(&REQUEST)
    }
}

impl<W: Wire> Session for Pingpong<W> {
    fn turn(&mut self, tally: &mut Tally) -> io::Result<()> {
        // One byte more than is due, to see an answer that is too long.
        let mut buffer = [0; REQUEST.len() + 1];
        for event in self.epoll.wait(&mut self.events, Some(TURN))? {
            let connection = &mut self.connections[event.u64 as usize];
            connection.got += connection.wire.receive(&mut buffer)?;
            if connection.got > REQUEST.len() {
                return Err(unexpected("an answer was too long"));
            }
            if connection.got == REQUEST.len() {
                let now = Instant::now();
                tally.add_timed(now - connection.sent);
                connection.send(now)?;
            }
        }
        Ok(())
    }
}

impl Wire for TcpStream {
    fn stream(&self) -> &TcpStream {
        self
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.write_all(request)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.read(buffer) {
            Ok(0) => Err(unexpected("the server closed a connection")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            received => received,
        }
    }
}

pub struct TlsWire {
    stream: TcpStream,
    tls: ClientConnection,
}

impl Wire for TlsWire {
    fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(request)?;
        self.tls.write_tls(&mut self.stream).map(drop)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.tls.read_tls(&mut self.stream) {
            Ok(0) => return Err(unexpected("the server closed a connection")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            received => drop(received?),
        }
        self.tls.process_new_packets().map_err(io::Error::other)?;
        match self.tls.reader().read(buffer) {
            Ok(0) => Err(unexpected("the server ended a session")),
            // Only a ticket has come, or a part of a record.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            received => received,
        }
    }
}
