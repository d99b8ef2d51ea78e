//! The handlers: one for streams, with its four modes, and one for datagrams.

use std::collections::HashMap;
use std::io::Write;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard};

use clap::ValueEnum;
use socket2::Socket;
use socketserver::{
    DatagramRequest, DatagramRequestHandler, HandlerResult, StreamRequest, StreamRequestHandler,
};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Send back every byte as it comes
    Echo,
    /// Send back one line, and close
    Line,
    /// Count the bytes, and answer the count at the end
    Sink,
    /// Send every line to all the others
    Chat,
}

pub struct Echo {
    mode: Mode,
    room: Room,
}

impl Echo {
    pub fn new(mode: Mode, room: &Room) -> Self {
        Self { mode, room: room.clone() }
    }
}

impl StreamRequestHandler for Echo {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        match self.mode {
            Mode::Echo => {
                while let Some(chunk) = request.chunk()? {
                    request.write_all(&chunk)?;
                    // Every byte is answered: after each the server may stop.
                    request.between_requests();
                }
            }
            Mode::Line => {
                let mut line = Vec::new();
                if let Some(text) = request.next_line(&mut line)? {
                    request.write_all(&[text, b"\n"].concat())?;
                }
            }
            Mode::Sink => {
                let mut count = 0;
                while let Some(chunk) = request.chunk()? {
                    count += chunk.len() as u64;
                }
                writeln!(request, "{count}")?;
            }
            Mode::Chat => {
                let id = request.id();
                self.room.join(request)?;
                let mut line = Vec::new();
                while let Some(text) = request.next_line(&mut line)? {
                    self.room.say(id, &[text, b"\n"].concat());
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        self.room.leave(request.id());
        Ok(())
    }
}

pub struct EchoPacket;

impl DatagramRequestHandler for EchoPacket {
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        request.reply(request.packet())?;
        Ok(())
    }
}

/// The members of a chat, by the numbers of their requests; each with a duplicate of its socket, to
/// which the others write.
#[derive(Clone, Default)]
pub struct Room {
    members: Arc<Mutex<HashMap<u64, Arc<Socket>>>>,
}

impl Room {
    fn members(&self) -> MutexGuard<'_, HashMap<u64, Arc<Socket>>> {
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn join(&self, request: &StreamRequest) -> HandlerResult {
        let fd = request.fileno().ok_or("a member needs a socket")?;
        let socket = Socket::from(fd.try_clone_to_owned()?);
        self.members().insert(request.id(), Arc::new(socket));
        Ok(())
    }

    fn leave(&self, id: u64) {
        self.members().remove(&id);
    }

    /// Sends a line to everyone but `from`. A member that does not take all of it at once is dropped:
    /// half a line cannot be taken back, and waiting would make everyone wait.
    fn say(&self, from: u64, line: &[u8]) {
        let others: Vec<_> = self
            .members()
            .iter()
            .filter(|(id, _)| **id != from)
            .map(|(_, socket)| Arc::clone(socket))
            .collect();
        for socket in others {
            let sent = socket.send_with_flags(line, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
            if !matches!(sent, Ok(count) if count == line.len()) {
                // Its own handler sees the end, and leaves.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}
