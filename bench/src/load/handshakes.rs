//! Clients that connect, make a TLS handshake, read a line up to its end, and connect anew. The server speaks first, as
//! the program `time` does.

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use socket2::{Domain, SockAddr, Socket, Type};

use super::session::{Session, TURN, Tally, unexpected};
use crate::sys::{Epoll, Event, READABLE, WRITABLE, events};
use crate::tls;

pub struct Handshakes {
    address: SockAddr,
    epoll: Epoll,
    events: Vec<Event>,
    clients: Vec<Client>,
    /// The handshake of a client's second connection, and of all that follow.
    kind: HandshakeKind,
}

/// A client, which opens one connection after the other.
struct Client {
    /// Each client has settings of its own, because tickets are kept in them.
    config: Arc<ClientConfig>,
    /// The handshake that this connection has to make.
    kind: HandshakeKind,
    socket: Socket,
    tls: ClientConnection,
    begun: Instant,
    connected: bool,
    /// The last byte that has come so far.
    last: Option<u8>,
}

impl Handshakes {
    pub fn new(address: SocketAddr, count: usize, resumes: bool) -> io::Result<Self> {
        let (address, epoll) = (address.into(), Epoll::new()?);
        let clients = (0..count)
            .map(|token| {
                let config = tls::client_config(resumes)?;
                Client::begin(&epoll, &address, token, config, HandshakeKind::Full)
            })
            .collect::<io::Result<_>>()?;
        let kind = if resumes { HandshakeKind::Resumed } else { HandshakeKind::Full };
        Ok(Self { address, epoll, events: events(), clients, kind })
    }
}

impl Client {
    fn begin(
        epoll: &Epoll,
        address: &SockAddr,
        token: usize,
        config: Arc<ClientConfig>,
        kind: HandshakeKind,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        // The close is a reset, which frees the port at once on both sides, so that ports never run out.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        let (tls, begun) = (tls::client(&config)?, Instant::now());
        match socket.connect(address) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            done => done?,
        }
        epoll.add(&socket, WRITABLE, token)?;
        Ok(Self { config, kind, socket, tls, begun, connected: false, last: None })
    }

    /// Sends the messages of TLS that are due; they always fit.
    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Reads the available bytes, and returns whether the connection has ended as it should.
    fn receive(&mut self) -> io::Result<bool> {
        loop {
            let count = match self.tls.read_tls(&mut self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                received => received?,
            };
            self.tls.process_new_packets().map_err(io::Error::other)?;
            self.send()?;
            let mut buffer = [0; 256];
            match self.tls.reader().read(&mut buffer) {
                // close_notify has come; the end of the connection has to follow.
                Ok(0) if count > 0 => {}
                Ok(0) => return self.check().map(|()| true),
                Ok(count) => self.last = Some(buffer[count - 1]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(unexpected("a connection ended without close_notify"));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.last != Some(b'\n') {
            return Err(unexpected("a connection ended before its line"));
        }
        if self.tls.handshake_kind() != Some(self.kind) {
            return Err(unexpected("a session was not resumed, or not made anew"));
        }
        Ok(())
    }
}

impl Session for Handshakes {
    fn turn(&mut self, tally: &mut Tally) -> io::Result<()> {
        for event in self.epoll.wait(&mut self.events, Some(TURN))? {
            let token = event.u64 as usize;
            let client = &mut self.clients[token];
            if !client.connected {
                client.connected = true;
                client.send()?;
                self.epoll.modify(&client.socket, READABLE, token)?;
            } else if client.receive()? {
                tally.add_timed(client.begun.elapsed());
                let config = Arc::clone(&client.config);
                *client = Client::begin(&self.epoll, &self.address, token, config, self.kind)?;
            }
        }
        Ok(())
    }
}
