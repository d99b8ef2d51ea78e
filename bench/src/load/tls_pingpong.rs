//! The load of `pingpong` through TLS: connections that each send 64 bytes, wait for the echo, and repeat.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::ClientConnection;

use super::connect::connect;
use super::session::{Session, TURN, unexpected};
use crate::figures::{Figures, Histogram};
use crate::sys::{Epoll, Event, READABLE, events};
use crate::{interrupt, tls};

const REQUEST: [u8; 64] = [b'p'; 64];
/// How long one handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub struct TlsPingpong {
    epoll: Epoll,
    events: Vec<Event>,
    connections: Vec<Connection>,
    times: Histogram,
    done: u64,
}

struct Connection {
    stream: TcpStream,
    tls: ClientConnection,
    sent: Instant,
    got: usize,
}

impl TlsPingpong {
    pub fn new(address: SocketAddr, count: usize) -> io::Result<Self> {
        let (epoll, config) = (Epoll::new()?, tls::client_config(false)?);
        let mut connections = Vec::with_capacity(count);
        for token in 0..count {
            interrupt::check()?;
            let mut stream = connect(address)?;
            stream.set_read_timeout(Some(HANDSHAKE))?;
            let mut tls = tls::client(&config)?;
            while tls.is_handshaking() {
                tls.complete_io(&mut stream)?;
            }
            stream.set_nonblocking(true)?;
            epoll.add(&stream, READABLE, token)?;
            connections.push(Connection { stream, tls, sent: Instant::now(), got: 0 });
        }
        for connection in &mut connections {
            connection.send(Instant::now())?;
        }
        Ok(Self { epoll, events: events(), connections, times: Histogram::new(), done: 0 })
    }
}

impl Connection {
    /// A request always fits: nothing else is under way.
    fn send(&mut self, now: Instant) -> io::Result<()> {
        (self.sent, self.got) = (now, 0);
        self.tls.writer().write_all(&REQUEST)?;
        self.tls.write_tls(&mut self.stream).map(drop)
    }

    /// Decrypts the available bytes, and counts those of the answer.
    fn receive(&mut self) -> io::Result<()> {
        match self.tls.read_tls(&mut self.stream) {
            Ok(0) => return Err(unexpected("the server closed a connection")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            received => drop(received?),
        }
        self.tls.process_new_packets().map_err(io::Error::other)?;
        // One byte more than is due, to see an answer that is too long.
        let mut buffer = [0; REQUEST.len() + 1];
        match self.tls.reader().read(&mut buffer) {
            Ok(0) => Err(unexpected("the server ended a session")),
            Ok(count) => {
                self.got += count;
                Ok(())
            }
            // A ticket, or a part of a record.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Session for TlsPingpong {
    fn turn(&mut self) -> io::Result<()> {
        for event in self.epoll.wait(&mut self.events, Some(TURN))? {
            let connection = &mut self.connections[event.u64 as usize];
            connection.receive()?;
            if connection.got > REQUEST.len() {
                return Err(unexpected("an answer was too long"));
            }
            if connection.got == REQUEST.len() {
                let now = Instant::now();
                self.times.record(now - connection.sent);
                self.done += 1;
                connection.send(now)?;
            }
        }
        Ok(())
    }

    fn done(&self) -> u64 {
        self.done
    }

    fn reset(&mut self) {
        self.times.clear();
    }

    fn report(&self, figures: &mut Figures) {
        self.times.add_to(figures);
    }
}
