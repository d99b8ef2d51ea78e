//! An edge-triggered epoll loop on one thread: the best that a server can do with these calls.
//! A connection is read straight after accept, and registered only if it goes on after that.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::http::Http;
use super::{Mode, announce, unsupported};
use crate::sys::{EDGE, ENDED, Epoll, READABLE, WRITABLE, accept, events};

const LISTENER: usize = usize::MAX;
/// Connections accepted in one turn, so that new ones do not starve those that are open.
const ACCEPTS: usize = 64;

pub fn serve(mode: Mode) -> io::Result<()> {
    if !matches!(mode, Mode::Echo | Mode::Line | Mode::Web) {
        return unsupported();
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?)?;
    serve_at(&listener, mode)
}

/// Serves at a listener, without announcing its address.
pub fn serve_at(listener: &TcpListener, mode: Mode) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.add(listener, READABLE, LISTENER)?;
    let (connections, free, http) = (Vec::new(), Vec::new(), Http::default());
    Loop { mode, epoll, connections, free, http, buffer: vec![0; 65_536] }.run(listener)
}

struct Loop {
    mode: Mode,
    epoll: Epoll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    http: Http,
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// Whether the end of the peer's output was reported. Bytes may come with the same event, so that a short read
    /// no longer means that nothing is left.
    ended: bool,
    registered: bool,
    /// The beginning of a line, or bytes that the socket did not accept.
    kept: Vec<u8>,
    /// The beginning of the head of an HTTP request.
    head: Vec<u8>,
    writing: bool,
}

/// Whether a connection goes on.
#[derive(PartialEq)]
enum Next {
    Wait,
    Close,
}

impl Loop {
    fn run(&mut self, listener: &TcpListener) -> io::Result<()> {
        let mut events = events();
        loop {
            for event in self.epoll.wait(&mut events, None)? {
                match event.u64 as usize {
                    LISTENER => self.accept(listener)?,
                    token => self.turn(token, event.events),
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            match accept(listener) {
                Ok(socket) => self.begin(socket.into())?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn begin(&mut self, stream: TcpStream) -> io::Result<()> {
        if self.mode != Mode::Line {
            stream.set_nodelay(true)?;
        }
        let mut connection = Connection {
            stream,
            ended: false,
            registered: false,
            kept: Vec::new(),
            head: Vec::new(),
            writing: false,
        };
        if self.step(&mut connection) == Next::Close {
            return Ok(());
        }
        let token = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.watch(&mut connection, token)?;
        self.connections[token] = Some(connection);
        Ok(())
    }

    /// Registers a connection, or adds writing to its events. After the first partial write it stays registered for both.
    fn watch(&self, connection: &mut Connection, token: usize) -> io::Result<()> {
        let events = READABLE | ENDED | EDGE | if connection.writing { WRITABLE } else { 0 };
        if connection.registered {
            return self.epoll.modify(&connection.stream, events, token);
        }
        connection.registered = true;
        self.epoll.add(&connection.stream, events, token)
    }

    fn turn(&mut self, token: usize, events: u32) {
        let Some(mut connection) = self.connections[token].take() else { return };
        connection.ended |= events & ENDED != 0;
        let was_writing = connection.writing;
        let mut next = self.step(&mut connection);
        if next == Next::Wait && connection.writing && !was_writing {
            next = self.watch(&mut connection, token).map_or(Next::Close, |()| Next::Wait);
        }
        match next {
            Next::Wait => self.connections[token] = Some(connection),
            Next::Close => self.free.push(token),
        }
    }

    fn step(&mut self, connection: &mut Connection) -> Next {
        let done = match self.mode {
            Mode::Echo => connection.echo(&mut self.buffer),
            Mode::Web => connection.web(&mut self.buffer, &mut self.http),
            _ => connection.line(&mut self.buffer),
        };
        done.unwrap_or(Next::Close)
    }
}

impl Connection {
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        if self.writing && !self.flush()? {
            return Ok(Next::Wait);
        }
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Ok(Next::Close),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
                Err(error) => return Err(error),
            };
            if !self.send(&buffer[..count])? || count < buffer.len() && !self.ended {
                return Ok(Next::Wait);
            }
        }
    }

    fn web(&mut self, buffer: &mut [u8], http: &mut Http) -> io::Result<Next> {
        if self.writing && !self.flush()? {
            return Ok(Next::Wait);
        }
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Ok(Next::Close),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
                Err(error) => return Err(error),
            };
            http.take(&mut self.head, &buffer[..count])?;
            if !self.send(&http.out)? || count < buffer.len() && !self.ended {
                return Ok(Next::Wait);
            }
        }
    }

    /// Writes bytes, keeps those that the socket does not accept, and returns whether it accepted all of them.
    fn send(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if bytes.is_empty() {
            return Ok(true);
        }
        let sent = match self.stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        self.kept.extend_from_slice(&bytes[sent..]);
        self.writing = sent < bytes.len();
        Ok(!self.writing)
    }

    /// Writes the kept bytes, and returns whether the socket accepted all of them.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.kept.is_empty() {
            match self.stream.write(&self.kept) {
                Ok(count) => drop(self.kept.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.writing = false;
        Ok(true)
    }

    fn line(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Ok(Next::Close),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
                Err(error) => return Err(error),
            };
            let got = &buffer[..count];
            let end = got.iter().position(|&byte| byte == b'\n');
            if self.kept.is_empty()
                && let Some(end) = end
            {
                self.stream.write_all(&got[..=end])?;
                return Ok(Next::Close);
            }
            self.kept.extend_from_slice(&got[..end.map_or(count, |end| end + 1)]);
            if end.is_some() {
                self.stream.write_all(&self.kept)?;
                return Ok(Next::Close);
            }
        }
    }
}
