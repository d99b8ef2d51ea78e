//! The handlers: one for streams, with its four modes, and one for datagrams.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use clap::ValueEnum;
use socketserver::{
    DatagramRequest, DatagramRequestHandler, HandlerResult, Outbox, StreamRequest,
    StreamRequestHandler,
};

/// How a connection is answered.
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
    /// The client's place in the room; `None` unless the mode is `Chat`.
    membership: Option<Membership>,
}

impl Echo {
    pub fn new(mode: Mode, room: &Room) -> Self {
        Self { mode, membership: (mode == Mode::Chat).then(|| Membership::new(room)) }
    }
}

/// A client's place in a room.
struct Membership {
    room: Room,
    /// Its number in the room. A request's own number is unique only within its server, and the servers of
    /// several addresses share one room.
    number: u64,
}

impl Membership {
    fn new(room: &Room) -> Self {
        Self { room: room.clone(), number: room.next.fetch_add(1, Ordering::Relaxed) }
    }

    #[inline(never)]
    fn chat(&self, request: &mut StreamRequest) -> HandlerResult {
        self.room.join(self.number, request)?;
        let mut line = Vec::new();
        while let Some(text) = request.next_line(&mut line)? {
            self.room.say(self.number, &[text, b"\n"].concat());
        }
        Ok(())
    }
}

fn echo(request: &mut StreamRequest) -> HandlerResult {
    while let Some(chunk) = request.chunk()? {
        request.write_all(&chunk)?;
        // All input so far is answered, so a server that stops may end the connection here.
        request.between_requests();
    }
    Ok(())
}

// `line`, `sink` and `chat` are not inlined: their locals would lie in the frame of each coroutine that echoes, and memory
// is the main cost of a thousand coroutines.
#[inline(never)]
fn line(request: &mut StreamRequest) -> HandlerResult {
    // The answer is held back, so that it leaves together with the end of the connection, in one packet.
    request.set_wbufsize(8_192)?;
    let mut line = Vec::new();
    if request.next_line(&mut line)?.is_some() {
        line.push(b'\n');
        request.write_all(&line)?;
    }
    Ok(())
}

#[inline(never)]
fn sink(request: &mut StreamRequest) -> HandlerResult {
    let mut count = 0;
    while let Some(chunk) = request.chunk()? {
        count += chunk.len() as u64;
    }
    writeln!(request, "{count}")?;
    Ok(())
}

impl StreamRequestHandler for Echo {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        // A match in this form needs no jump table, which each child of a forking server would have to map.
        match (&self.membership, self.mode) {
            (Some(member), _) => member.chat(request),
            (None, Mode::Echo) => echo(request),
            (None, Mode::Line) => line(request),
            (None, _) => sink(request),
        }
    }

    fn finish(&mut self, _request: &mut StreamRequest) -> HandlerResult {
        if let Some(member) = &self.membership {
            member.room.leave(member.number);
        }
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

/// The members of a chat, by their numbers.
#[derive(Clone, Default)]
pub struct Room {
    members: Arc<Mutex<HashMap<u64, Outbox>>>,
    next: Arc<AtomicU64>,
}

impl Room {
    fn members(&self) -> MutexGuard<'_, HashMap<u64, Outbox>> {
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn join(&self, member: u64, request: &mut StreamRequest) -> HandlerResult {
        let outbox = request.outbox()?;
        self.members().insert(member, outbox);
        Ok(())
    }

    fn leave(&self, id: u64) {
        self.members().remove(&id);
    }

    /// Sends a line to all members but `from`. A member whose outbox is full does not read. Its connection is closed here,
    /// and its own handler then leaves the room.
    fn say(&self, from: u64, line: &[u8]) {
        for (_, outbox) in self.members().iter().filter(|(id, _)| **id != from) {
            if outbox.send(line).is_err() {
                outbox.close();
            }
        }
    }
}
