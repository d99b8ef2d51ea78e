//! Members of a chat, with some lines outstanding among all of them, dealt out in turn. A line is done when it has
//! reached all other members; the member that has sent it then sends it again. All lines that one member has to send
//! after a wait go in one write.
//!
//! A server may put a name in front of a line, and may send lines of its own (about members that join, say): these are
//! read and not counted. Each member begins with an empty line, because a server may wait for a first line.
//!
//! There may be one more member that reads nothing. Lines to it are not counted. When the server drops it, it connects
//! again, so that there is always one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::connect::connect;
use super::session::{Session, TURN, Tally, unexpected};
use crate::sys::{ENDED, Epoll, Event, READABLE, WRITABLE, events};

/// Bytes of a line, which begins with its number among the outstanding lines and ends with a newline.
const LINE: usize = 64;
/// Digits of the number.
const DIGITS: usize = 8;
/// The receive buffer of the member that reads nothing. With a smaller one the kernel drops received packets, which
/// costs time that no figure shows.
const ROOM: usize = 65_536;
/// How long the load waits for all members to join: nothing tells a client that it has joined.
const JOIN: Duration = Duration::from_millis(500);

pub struct Chat {
    epoll: Epoll,
    events: Vec<Event>,
    members: Vec<Member>,
    /// For each line, how many members it has not reached yet.
    missing: Vec<u32>,
    /// Members that have something to send.
    senders: Vec<usize>,
    buffer: Vec<u8>,
    stalled: Option<Stalled>,
}

/// A member that reads nothing.
struct Stalled {
    address: SocketAddr,
    // The connection is kept open and never read.
    _stream: TcpStream,
}

/// The number of that member in the epoll set. No other member has it.
const STALLED: usize = usize::MAX;

struct Member {
    stream: TcpStream,
    /// The beginning of a line, the rest of which has not come yet.
    partial: Vec<u8>,
    outgoing: Vec<u8>,
    waiting: bool,
}

impl Chat {
    pub fn new(address: SocketAddr, count: usize, window: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut members = Vec::with_capacity(count);
        for token in 0..count {
            let mut stream = connect(address)?;
            stream.write_all(b"\n")?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, READABLE, token)?;
            let (partial, outgoing) = (Vec::new(), Vec::new());
            members.push(Member { stream, partial, outgoing, waiting: false });
        }
        thread::sleep(JOIN);
        let mut chat = Self {
            epoll,
            events: events(),
            members,
            missing: vec![0; window],
            senders: Vec::new(),
            buffer: vec![0; 65_536],
            stalled: None,
        };
        (0..window).for_each(|line| chat.say(line));
        chat.flush()?;
        Ok(chat)
    }

    /// Adds a member that reads nothing.
    pub fn stall(&mut self, address: SocketAddr) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // A buffer of the kernel's largest size takes ten seconds to fill.
        socket.set_recv_buffer_size(ROOM)?;
        socket.connect(&address.into())?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"\n")?;
        self.epoll.add(&stream, ENDED, STALLED)?;
        self.stalled = Some(Stalled { address, _stream: stream });
        Ok(())
    }

    /// Gives a line to its member, which sends it at the next `flush`.
    fn say(&mut self, line: usize) {
        let number = line % self.members.len();
        self.missing[line] = self.members.len() as u32 - 1;
        let outgoing = &mut self.members[number].outgoing;
        if outgoing.is_empty() {
            self.senders.push(number);
        }
        let text = format!("{line:0DIGITS$}");
        outgoing.extend_from_slice(text.as_bytes());
        outgoing.resize(outgoing.len() + LINE - text.len() - 1, b'.');
        outgoing.push(b'\n');
    }

    /// Sends the members' pending lines, as far as the sockets accept them.
    fn flush(&mut self) -> io::Result<()> {
        for number in std::mem::take(&mut self.senders) {
            self.write(number)?;
        }
        Ok(())
    }

    fn write(&mut self, number: usize) -> io::Result<()> {
        let member = &mut self.members[number];
        match member.stream.write(&member.outgoing) {
            Ok(count) => drop(member.outgoing.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let waiting = !member.outgoing.is_empty();
        if waiting != member.waiting {
            member.waiting = waiting;
            let events = if waiting { READABLE | WRITABLE } else { READABLE };
            self.epoll.modify(&member.stream, events, number)?;
        }
        Ok(())
    }

    fn read(&mut self, number: usize, tally: &mut Tally) -> io::Result<()> {
        let member = &mut self.members[number];
        let kept = member.partial.len();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer[..kept].copy_from_slice(&member.partial);
        let got = match member.stream.read(&mut buffer[kept..]) {
            Ok(0) => return Err(unexpected("the server dropped a member")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            got => got?,
        };
        let mut rest = &buffer[..kept + got];
        while let Some(end) = end_of_line(rest) {
            if let Some(line) = said(&rest[..end]) {
                self.take(line, tally)?;
            }
            rest = &rest[end..];
        }
        let partial = &mut self.members[number].partial;
        partial.clear();
        partial.extend_from_slice(rest);
        self.buffer = buffer;
        Ok(())
    }

    fn take(&mut self, line: usize, tally: &mut Tally) -> io::Result<()> {
        let Some(missing) = self.missing.get_mut(line).filter(|missing| **missing > 0) else {
            return Err(unexpected("a line came that was not sent"));
        };
        *missing -= 1;
        tally.add(1);
        if *missing == 0 {
            self.say(line);
        }
        Ok(())
    }
}

/// The place behind the next newline. A bare line, without a name, has it at a known place, which is tried first.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    let bare = bytes.first().is_some_and(u8::is_ascii_digit) && bytes.get(LINE - 1) == Some(&b'\n');
    if bare { Some(LINE) } else { bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1) }
}

/// The number of a line that a member has said, whatever stands in front of it; `None` for any other line.
fn said(line: &[u8]) -> Option<usize> {
    let text = &line[line.len().checked_sub(LINE)?..];
    let ours = text[..DIGITS].iter().all(u8::is_ascii_digit) && text[DIGITS] == b'.';
    ours.then(|| number(&text[..DIGITS]))
}

fn number(digits: &[u8]) -> usize {
    digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit.wrapping_sub(b'0')))
}

impl Session for Chat {
    fn turn(&mut self, tally: &mut Tally) -> io::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        let count = self.epoll.wait(&mut events, Some(TURN))?.len();
        for event in &events[..count] {
            let (number, events) = (event.u64 as usize, event.events);
            if number == STALLED {
                if let Some(Stalled { address, .. }) = self.stalled.take() {
                    self.stall(address)?;
                }
                continue;
            }
            if events & WRITABLE != 0 {
                self.write(number)?;
            }
            if events & !WRITABLE != 0 {
                self.read(number, tally)?;
            }
        }
        self.events = events;
        self.flush()
    }
}
