//! Ctrl-C at the client's end.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// A descriptor that is readable after Ctrl-C.
pub struct Interrupts {
    heard: UnixStream,
    other: UnixStream,
}

impl Interrupts {
    /// Until [`hear`](Self::hear) is called, Ctrl-C ends the program as usual.
    pub fn new() -> io::Result<Self> {
        let (heard, other) = UnixStream::pair()?;
        heard.set_nonblocking(true)?;
        Ok(Self { heard, other })
    }

    /// From here on Ctrl-C only makes this value readable.
    pub fn hear(&self) -> io::Result<()> {
        let other = self.other.try_clone()?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, other)?;
        Ok(())
    }

    /// Forgets earlier presses of Ctrl-C.
    pub fn take(&self) {
        while matches!((&self.heard).read(&mut [0; 64]), Ok(1..)) {}
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }
}
