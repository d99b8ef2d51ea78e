//! The input of a command: what its client sends, on its way to the command's stdin.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::protocol::{INPUT_WINDOW, Malformed};

/// What has come and what has not been taken. A client sends no more than it was told that there is room for, so that this
/// holds no more than a window, and the connection can always be read: Ctrl-C may come behind the input.
pub struct Input {
    /// None: the command has no input, has closed it, or has all of it.
    pipe: Option<File>,
    waiting: Vec<u8>,
    /// The client has said that no more comes.
    ended: bool,
    /// The command has taken so much that the client has not been told of.
    taken: usize,
}

impl Input {
    /// For a command that reads the other end of this pipe, if it has any input.
    pub fn new(pipe: Option<File>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, waiting: Vec::new(), ended: false, taken: 0 })
    }

    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if self.waiting.len() + self.taken + bytes.len() > INPUT_WINDOW {
            return Err(Malformed::NoRoom);
        }
        if self.pipe.is_some() {
            self.waiting.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Nothing is written any more.
    pub fn close(&mut self) {
        self.pipe = None;
    }

    /// No more comes.
    pub fn end(&mut self) {
        self.ended = true;
        self.close_if_done();
    }

    /// What has to have room before more can be written.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| !self.waiting.is_empty()).map(AsFd::as_fd)
    }

    /// Writes as much as the command takes now.
    pub fn write(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        match pipe.write(&self.waiting) {
            Ok(count) => {
                self.waiting.drain(..count);
                self.taken += count;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It has closed its input: the client is told of no more room, and sends no more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                (self.pipe, self.waiting) = (None, Vec::new());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.close_if_done();
        Ok(())
    }

    /// How much the client may send more, once it is worth a message.
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
