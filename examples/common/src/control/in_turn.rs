//! The control socket under `forking`. The parent has only one thread, which must not wait for an operator.
//!
//! The loop calls [`InTurn::turn`] ten times a second and after each request. A turn accepts connections, reads the
//! bytes that have come, obeys whole lines, and sends what the kernel takes; everything else is left for the next turn.
//! A forked child has copies of these connections' descriptors and uses none of them. So a connection is ended by
//! `shutdown`, which works in spite of the copies.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with};
use socketserver::request::Request;
use socketserver::{ServerHooks, UnixStreamServer};

use super::{IDLE, LINE_BYTES, MOST, NOT_YOURS, Operator, Then, WRITE, may_control};
use crate::status::Status;

/// The control socket of a forking program, shared with the hook that serves it. `None` before it is served, and after
/// its end.
#[derive(Default)]
pub(crate) struct InTurn(Mutex<Option<State>>);

/// The time between two turns.
pub(crate) const EVERY: Duration = Duration::from_millis(100);

/// The hook of the program's server.
pub(crate) struct TurnHook(pub(crate) Arc<InTurn>);

impl<R: Request> ServerHooks<R> for TurnHook {
    fn service_actions(&self) {
        self.0.turn();
    }
}

struct State {
    /// This server is bound and never run: its connections are accepted here.
    server: UnixStreamServer,
    operator: Arc<Operator>,
    connections: Vec<Connection>,
    last_turn: Instant,
}

impl InTurn {
    /// Begins the turns: from here on the socket is served.
    pub(crate) fn start(&self, server: UnixStreamServer, operator: Arc<Operator>) {
        let state = State { server, operator, connections: Vec::new(), last_turn: Instant::now() };
        *self.lock() = Some(state);
    }

    /// Ends the connections and removes the file. The [`Operator`] holds the servers, and their hook holds this value:
    /// without this call none of them would ever be dropped.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one turn: serves all connections, and waits for none.
    fn turn(&self) {
        let mut state = self.lock();
        let Some(state) = &mut *state else { return };
        // `service_actions` also runs after each request, so most calls come too early.
        if state.last_turn.elapsed() >= EVERY / 2 {
            state.last_turn = Instant::now();
            state.accept();
            let State { operator, connections, .. } = state;
            connections.retain_mut(|connection| connection.turn(operator));
        }
    }
}

impl State {
    fn accept(&mut self) {
        // This process has handed over: its successor accepts at the socket now.
        if self.server.shutdown_handle().is_shutdown() {
            return;
        }
        // The descriptor is asked for at each turn and given back at once, because a child that is forked in between
        // closes the listener.
        let Some(listener) = self.server.fileno() else { return };
        for _ in 0..MOST {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // Usually no operator is there. Other errors are ignored too: the next turn tries again.
            let Ok(fd) = accept_with(&listener, flags) else { return };
            let mut connection = Connection::new(UnixStream::from(fd));
            if rustix::net::sockopt::socket_peercred(&connection.stream)
                .is_ok_and(|peer| may_control(peer.uid.as_raw()))
            {
                if self.connections.len() >= MOST {
                    // Turns away the oldest connection that waits for a command or, if all of them watch, the oldest of
                    // all.
                    let oldest = self.connections.iter().position(|other| other.watch.is_none());
                    self.connections.remove(oldest.unwrap_or(0));
                }
            } else {
                connection.say(NOT_YOURS.as_bytes());
                connection.ends = true;
            }
            self.connections.push(connection);
        }
    }
}

/// One operator's connection.
struct Connection {
    stream: UnixStream,
    /// Input that is not a whole line yet.
    input: Vec<u8>,
    /// Answers that the kernel has not taken yet.
    output: Vec<u8>,
    /// The interval of the figures, and the moment of the next ones.
    watch: Option<(Duration, Instant)>,
    /// Whether the connection ends when its output is sent. Then no more input is read.
    ends: bool,
    /// The moment of the last read or send.
    last: Instant,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self { stream, input, output, watch: None, ends: false, last: Instant::now() }
    }

    fn say(&mut self, text: &[u8]) {
        self.output.extend_from_slice(text);
    }

    /// Does everything that is possible without waiting. Returns false if the connection is over.
    fn turn(&mut self, operator: &Operator) -> bool {
        // Output is sent first: as long as some is left, no command is obeyed that would add to it.
        let turned = self.send().and_then(|()| {
            self.receive()?;
            self.obey(operator);
            self.show();
            self.send()
        });
        let patience = if self.output.is_empty() { IDLE } else { WRITE };
        let is_late = self.watch.is_none() || !self.output.is_empty();
        turned.is_ok()
            && !(self.ends && self.output.is_empty())
            && !(is_late && self.last.elapsed() > patience)
    }

    fn receive(&mut self) -> io::Result<()> {
        if self.ends || !self.output.is_empty() || self.input.contains(&b'\n') {
            return Ok(());
        }
        let mut bytes = [0; LINE_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ends = true,
            Ok(count) => {
                self.last = Instant::now();
                self.input.extend_from_slice(&bytes[..count]);
                self.watch = None;
            }
            Err(error) if may_be_later(&error) => {}
            Err(error) => return Err(error),
        }
        // A last line may have no newline.
        if self.ends && !self.input.is_empty() {
            self.input.push(b'\n');
        }
        Ok(())
    }

    /// Obeys whole lines, until one has an answer that has to be sent first.
    fn obey(&mut self, operator: &Operator) {
        while self.output.is_empty() && self.watch.is_none() {
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else { break };
            let answer = operator.obey(&self.input[..end]);
            self.input.drain(..=end);
            self.say(answer.text.as_bytes());
            match answer.then {
                Then::Next => {}
                Then::End => self.ends = true,
                Then::Watch(every) => self.watch = Some((every, Instant::now() + every)),
            }
            // Most answers are taken at once, and the next command is obeyed in the same turn.
            if self.send().is_err() || self.ends {
                break;
            }
        }
        if self.input.len() > LINE_BYTES && !self.input.contains(&b'\n') {
            self.say(format!("error a command has {LINE_BYTES} bytes at most\n").as_bytes());
            self.ends = true;
        }
    }

    /// Sends the figures, if they are due. Figures that could not be sent in time are left out.
    fn show(&mut self) {
        let now = Instant::now();
        if let Some((every, next)) = self.watch.filter(|(_, next)| now >= *next) {
            if self.output.is_empty() {
                self.say((Status::now().lines() + "ok\n").as_bytes());
            }
            self.watch = Some((every, (next + every).max(now)));
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.last = Instant::now();
                    self.output.drain(..count);
                }
                Err(error) if may_be_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The peer may have gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn may_be_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
