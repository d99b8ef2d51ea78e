//! The client of the tutorial's wire: it compares an answer with each length that it may begin with.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use common::Endpoint;
use encoding_rs::Encoding;
use rustix::event::PollFlags;
use socket2::Socket;

use crate::answer::{Reading, read_answer};
use crate::client::{INTERRUPTED, Leave, cannot_show};
use crate::encoding::Transcoder;
use crate::interrupts::Interrupts;
use crate::prompt::{Session, Waited, prompt};
use crate::ready::wait_for;
use common::Failure;

/// The tutorial's server reads this many bytes at once, and would take a longer command for several.
const LONGEST_COMMAND: usize = 1_024;

/// How many bytes of an answer are kept.
const LONGEST_ANSWER: usize = 256 * 1024 * 1024;

/// The silence after which an answer that may be complete counts as complete: longer than the pause of `serve`.
const QUIET: Duration = Duration::from_millis(300);

/// A connection to a server of this wire, which has no exit status, no Ctrl-C, and no input for a command.
pub struct DocumentClient<'a> {
    socket: &'a Socket,
    endpoint: &'a Endpoint,
    encoding: Option<&'static Encoding>,
    interrupts: Interrupts,
}

impl<'a> DocumentClient<'a> {
    pub fn new(
        socket: &'a Socket,
        endpoint: &'a Endpoint,
        encoding: Option<&'static Encoding>,
    ) -> Result<Self, Leave> {
        let interrupts = Interrupts::new()?;
        Ok(Self { socket, endpoint, encoding, interrupts })
    }

    /// Runs the typed commands, up to the end of stdin.
    pub fn prompt(mut self) -> Result<u8, Leave> {
        self.interrupts.hear()?;
        prompt(&mut self)
    }

    /// Runs one command. Input on stdin cannot be sent on this wire, so it is refused.
    pub fn run(&self, line: &[u8], no_input: bool) -> Result<u8, Leave> {
        let refuse = || {
            let what = "--wire document has no input for a command, and there is some on stdin";
            Err(Failure::Usage(format!("{what}: say so by --no-input")).into())
        };
        if !no_input && has_input() {
            return refuse();
        }
        self.ask(line)?;
        if !no_input && has_input() { refuse() } else { Ok(0) }
    }

    fn ask(&self, line: &[u8]) -> Result<(), Leave> {
        if line.len() > LONGEST_COMMAND {
            let why = format!("on this wire a command may have {LONGEST_COMMAND} bytes");
            return Err(Failure::Usage(why).into());
        }
        let failed = |what: String| Failure::Other(format!("{} {what}", self.endpoint));
        let sent = (&*self.socket).write_all(line);
        sent.map_err(|error| failed(format!("is gone: {error}")))?;
        let answer = self.read().map_err(|error| failed(format!("gave no answer: {error}")))?;
        let Some(answer) = answer else { return Err(Leave::Silent(INTERRUPTED)) };
        let shown = match self.encoding {
            None => answer,
            Some(from) => {
                let mut turn = Transcoder::to_utf8(from);
                let mut text = turn.turn(&answer);
                text.extend(turn.finish());
                text
            }
        };
        let mut stdout = io::stdout();
        stdout.write_all(&shown).and_then(|()| stdout.flush()).map_err(|error| cannot_show(&error))
    }

    /// Reads one answer, and returns its output. Returns `None` after Ctrl-C: the wire has no message that ends the
    /// command alone, so Ctrl-C ends the client, and with it the command.
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        let mut answer = Vec::new();
        let mut piece = vec![0; 65_536];
        loop {
            let begins = match read_answer(&answer) {
                Reading::Whole(at) => return Ok(Some(answer.split_off(at))),
                Reading::Wrong => return Err(invalid("it does not begin with its length")),
                Reading::Perhaps(at) => Some(at),
                Reading::Incomplete => None,
            };
            let sources = [self.interrupts.as_fd(), self.socket.as_fd()];
            let sources = sources.map(|fd| Some((fd, PollFlags::IN)));
            let [interrupt, ready] = wait_for(sources, begins.map(|_| QUIET))?;
            if !interrupt.is_empty() {
                return Ok(None);
            }
            let count =
                if ready.is_empty() { None } else { Some((&*self.socket).read(&mut piece)?) };
            match (count, begins) {
                (None, Some(at)) | (Some(0), Some(at)) => return Ok(Some(answer.split_off(at))),
                (None, None) => {}
                (Some(0), None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                (Some(count), _) => answer.extend_from_slice(&piece[..count]),
            }
            if answer.len() > LONGEST_ANSWER {
                return Err(invalid("it is too long to be kept"));
            }
        }
    }
}

impl Session for DocumentClient<'_> {
    fn run_line(&mut self, line: &[u8]) -> Result<u8, Leave> {
        self.ask(line).map(|()| 0)
    }

    fn was_interrupted(&self) -> bool {
        false
    }

    fn wait_for_input(&mut self, input: BorrowedFd<'_>) -> Result<Waited, Leave> {
        let sources = [self.interrupts.as_fd(), input].map(|fd| Some((fd, PollFlags::IN)));
        loop {
            let [interrupt, ready] = wait_for(sources, None)?.map(|ready| !ready.is_empty());
            if interrupt {
                self.interrupts.take();
                return Ok(Waited::Interrupt);
            }
            if ready {
                return Ok(Waited::Input);
            }
        }
    }
}

/// Whether stdin has input for a command. A terminal does not count: its input is the next command.
fn has_input() -> bool {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return false;
    }
    // This counts the bytes that a pipe or a socket holds now, or those of a file after its position.
    rustix::io::ioctl_fionread(&stdin).is_ok_and(|bytes| bytes > 0)
}
