//! The input of a command, from its client to its stdin.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::protocol::{INPUT_WINDOW, Malformed};

/// Input that the command has not read. The client sends at most as much as the server has allowed (a window). So the
/// input is bounded, and the connection can always be read: a Ctrl-C may follow the input.
pub struct Input {
    /// `None` if the command gets no input, has closed its input, or has been sent all of it.
    pipe: Option<File>,
    waiting: Vec<u8>,
    /// Whether the client has sent the end of the input.
    ended: bool,
    /// How many bytes have gone into the pipe since the client was last allowed to send more.
    taken: usize,
}

impl Input {
    /// Makes the input of a command that reads the other end of this pipe. Without a pipe the command gets no input.
    pub fn new(pipe: Option<File>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, waiting: Vec::new(), ended: false, taken: 0 })
    }

    /// Adds received input.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if self.waiting.len() + self.taken + bytes.len() > INPUT_WINDOW {
            return Err(Malformed::NoRoom);
        }
        if self.pipe.is_some() {
            self.waiting.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Closes the input.
    pub fn close(&mut self) {
        self.pipe = None;
    }

    /// Marks the end of the input.
    pub fn end(&mut self) {
        self.ended = true;
        self.close_if_done();
    }

    /// The pipe, if bytes wait for room in it.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| !self.waiting.is_empty()).map(AsFd::as_fd)
    }

    /// Writes as much as the pipe accepts now.
    pub fn write(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        match pipe.write(&self.waiting) {
            Ok(count) => {
                self.waiting.drain(..count);
                self.taken += count;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The command has closed its input. The client gets no more room, and sends no more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                (self.pipe, self.waiting) = (None, Vec::new());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.close_if_done();
        Ok(())
    }

    /// How many more bytes the client may send, once the number is worth a message.
    pub fn room(&mut self) -> Option<usize> {
        let is_worth_it = self.pipe.is_some() && self.taken >= INPUT_WINDOW / 2;
        is_worth_it.then(|| std::mem::take(&mut self.taken))
    }

    fn close_if_done(&mut self) {
        if self.ended && self.waiting.is_empty() {
            self.pipe = None;
        }
    }
}
