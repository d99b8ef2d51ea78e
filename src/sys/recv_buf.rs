//! Memory to receive into.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::socket::Mode;

/// Memory to receive into. Only what has been received is ever looked at, so that nobody has to clear it
/// before: to clear a kilobyte for each receive costs a thread among a thousand a twentieth of a request, most
/// of it to bring memory near that the kernel then does not write to.
pub(crate) struct RecvBuf<'a> {
    memory: &'a mut [MaybeUninit<u8>],
    /// How much of it, from the beginning, is known to have been written.
    written: usize,
}

impl<'a> RecvBuf<'a> {
    /// Memory that nobody has written to yet.
    pub(crate) fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { memory, written: 0 }
    }

    /// The first `count` bytes, which have been received.
    ///
    /// # Panics
    ///
    /// If so many have not been.
    pub(crate) fn received(&self, count: usize) -> &[u8] {
        assert!(count <= self.written, "only what has been received can be looked at");
        // SAFETY: the first `written` bytes have been written, and there are as many.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), count) }
    }

    /// All of it, for whoever must have bytes to read into: what has not been written is cleared.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        for byte in &mut self.memory[self.written..] {
            byte.write(0);
        }
        self.written = self.memory.len();
        // SAFETY: every byte has been written.
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.memory.len())
        }
    }

    /// Receives once.
    #[inline]
    pub(crate) fn recv(&mut self, fd: BorrowedFd<'_>, mode: Mode) -> io::Result<usize> {
        if mode == Mode::Block {
            // Most likely the thread is about to leave the processor.
            super::registers::empty();
        }
        let (into, len) = (self.memory.as_mut_ptr().cast(), self.memory.len());
        // SAFETY: the pointer and the length are those of one live, writable slice.
        let received = unsafe { libc::recv(fd.as_raw_fd(), into, len, mode.flag()) };
        let count = super::check_len(received)?;
        self.written = self.written.max(count);
        Ok(count)
    }
}

impl<'a> From<&'a mut [u8]> for RecvBuf<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        let (first, len) = (bytes.as_mut_ptr().cast(), bytes.len());
        // SAFETY: the same memory for the same time, and nothing here ever makes a written byte unwritten.
        let memory = unsafe { std::slice::from_raw_parts_mut(first, len) };
        Self { memory, written: len }
    }
}
