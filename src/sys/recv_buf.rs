//! Memory to receive into.
//!
//! It lives for one read, on the reader's thread, and borrows its memory (`request/read_buffer.rs`). A stream that has only
//! `Read`, such as one of TLS or of the program's own, gets the bytes cleared by [`RecvBuf::bytes`]; a receive from a
//! socket never needs that.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::recv_send;
use super::socket::Mode;

/// Memory to receive into. Only bytes that have been received are ever read, so the memory need not be cleared first.
/// With a thousand threads, clearing a kilobyte for each receive costs a twentieth of a request: most of it is cache
/// misses on memory that the kernel then does not write to.
///
/// Invariant: the first `written` bytes of `memory` are initialised.
pub(crate) struct RecvBuf<'a> {
    /// The caller's memory; nothing is allocated here.
    memory: &'a mut [MaybeUninit<u8>],
    /// How many bytes, from the beginning, are known to have been written.
    written: usize,
}

impl<'a> RecvBuf<'a> {
    /// How many bytes it has room for.
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Memory whose content is unknown.
    pub(crate) fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { memory, written: 0 }
    }

    /// The first `count` bytes, which have been received.
    ///
    /// # Panics
    ///
    /// If fewer bytes have been received.
    pub(crate) fn received(&self, count: usize) -> &[u8] {
        assert!(count <= self.written, "only received bytes can be read");
        // SAFETY: the first `written` bytes have been written and lie within the memory, and `count` is no more.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), count) }
    }

    /// The whole memory as bytes, for [`Read::read`](std::io::Read::read). Clears the bytes that have not been
    /// written.
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
    ///
    /// [recv(2)](https://man7.org/linux/man-pages/man2/recv.2.html). Zero means the end of the input, or that the memory has no
    /// room.
    ///
    /// The receive goes to the beginning of the memory each time: a caller that keeps bytes makes a new `RecvBuf` of the memory
    /// after them. A signal ends the call with `Interrupted`. It is not repeated, because a blocking receive has a timeout,
    /// and the caller counts the time.
    #[inline]
    pub(crate) fn recv(&mut self, fd: BorrowedFd<'_>, mode: Mode) -> io::Result<usize> {
        if mode == Mode::Block {
            // Most likely the thread is about to leave the processor.
            super::registers::empty();
        }
        let (into, len) = (self.memory.as_mut_ptr().cast(), self.memory.len());
        // SAFETY: the pointer and the length are those of one live, writable slice; the kernel writes no more than `len`.
        let received = unsafe { recv_send::recv(fd.as_raw_fd(), into, len, mode.flag()) };
        let count = super::check_len(received)?;
        self.written = self.written.max(count);
        Ok(count)
    }
}

impl<'a> From<&'a mut [u8]> for RecvBuf<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        let (first, len) = (bytes.as_mut_ptr().cast(), bytes.len());
        // SAFETY: the same memory for the same time, and no method here makes an initialised byte uninitialised: `recv`
        // lets the kernel write bytes, and `bytes` writes zeros.
        let memory = unsafe { std::slice::from_raw_parts_mut(first, len) };
        Self { memory, written: len }
    }
}
