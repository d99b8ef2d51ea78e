//! Connections that each send 64 bytes, wait for the echo, and repeat.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::connect::connect_all;
use super::session::{Session, TURN, unexpected};
use crate::figures::{Figures, Histogram};
use crate::sys::{Epoll, Event, READABLE, events};

const REQUEST: [u8; 64] = [b'p'; 64];

pub struct Pingpong {
    epoll: Epoll,
    events: Vec<Event>,
    connections: Vec<Connection>,
    times: Histogram,
    done: u64,
}

struct Connection {
    stream: TcpStream,
    sent: Instant,
    got: usize,
}

impl Pingpong {
    pub fn new(address: SocketAddr, count: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut connections = Vec::with_capacity(count);
        for (token, stream) in connect_all(address, count)?.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            epoll.add(&stream, READABLE, token)?;
            connections.push(Connection { stream, sent: Instant::now(), got: 0 });
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
        self.stream.write_all(&REQUEST)
    }
}

impl Session for Pingpong {
    fn turn(&mut self) -> io::Result<()> {
        // One byte more than is due, to see an answer that is too long.
        let mut buffer = [0; REQUEST.len() + 1];
        for event in self.epoll.wait(&mut self.events, Some(TURN))? {
            let connection = &mut self.connections[event.u64 as usize];
            match connection.stream.read(&mut buffer) {
                Ok(0) => return Err(unexpected("the server closed a connection")),
                Ok(count) => connection.got += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
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
