//! Bytes between the socket and the handler: the read buffer, and chunks of it.
//!
//! How a receive asks for bytes depends on what the peer has sent before ([`Appetite`]):
//!
//! ```text
//! at first, and while the peer sends little   recv(512 bytes of the stack), then a copy into a block of 8 KiB
//! the two receives after 512 bytes or more    recv(a block of 8 KiB)
//! once chunks have filled a block             recv(a block of 64 KiB)
//! a coroutine that has waited for the bytes   recv(a block of its thread's)
//! ```
//!
//! A connection whose peer is silent holds no block. A block goes back to the pool (`block_pool.rs`) when its last byte
//! is consumed, or with the chunk.

use std::fmt;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ops::Deref;

use super::block_pool::{Block, LARGE, SMALL, give_block, take_block};
use crate::sys::RecvBuf;

/// The most that `rbufsize` gives. No socket has more at once, and a failed allocation would end the process.
const MAX_BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// A receive that may wait has this much room, on the stack, so that a silent connection holds no block. Most
/// requests are shorter. The rest of a longer one comes with the next receive, into a block. With twice as much room
/// a waiting thread would touch one more page of its stack, which costs 5 % with a thousand threads.
const FIRST_RECEIVE_BYTES: usize = 512;

/// How much one receive asks for: little at first, and more when the peer sends much.
pub(crate) struct Appetite {
    /// The size of a block; see [`size`](Self::size). [`MAX_BUFFER_BYTES`] fits into half a word, and so all fields
    /// that a receive uses lie in three cache lines.
    size: u32,
    /// How many of the next receives use a block at once, because the peer has filled [`FIRST_RECEIVE_BYTES`] or more. A
    /// large receive sets it to two: the receive after it may find only the rest.
    much: u8,
}

impl Appetite {
    /// The appetite of a new request: small receives, into blocks of 8 KiB.
    pub(crate) fn new() -> Self {
        Self { size: SMALL as u32, much: 0 }
    }

    /// The size of a block: `rbufsize`, or [`LARGE`] for a peer that sends a stream.
    pub(crate) fn size(&self) -> usize {
        self.size as usize
    }

    /// Sets `rbufsize`, at least 1 and at most [`MAX_BUFFER_BYTES`].
    pub(crate) fn set_size(&mut self, bytes: usize) {
        // The cast cuts nothing off: `MAX_BUFFER_BYTES` fits.
        self.size = bytes.clamp(1, MAX_BUFFER_BYTES) as u32;
    }

    /// Receives a chunk, which is empty at the end of input.
    #[inline]
    pub(super) fn receive(
        &mut self,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<Chunk> {
        // If the peer sends much, a receive into memory on the stack would need a second one for the rest. A block that
        // is no larger than this memory saves the copy.
        if self.much > 0 || self.size() <= FIRST_RECEIVE_BYTES {
            return self.receive_much(receive);
        }
        // Not initialised: only bytes that the kernel has written are read.
        let mut memory = [MaybeUninit::uninit(); FIRST_RECEIVE_BYTES];
        let mut buf = RecvBuf::new(&mut memory);
        let count = receive(&mut buf)?;
        if count == 0 {
            return Ok(Chunk::default());
        }
        // The receive was full, so more is probably there.
        if count == FIRST_RECEIVE_BYTES {
            self.much = 2;
        }
        // The bytes have come, so a block is needed now; the copy is of at most 512 bytes.
        let mut block = take_block(self.size());
        block[..count].copy_from_slice(buf.received(count));
        Ok(Chunk { block, start: 0, end: count })
    }

    /// Not inlined, so that the usual receive has no second copy of `receive` in its frame.
    #[inline(never)]
    fn receive_much(
        &mut self,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<Chunk> {
        self.receive_into_block(receive)
    }

    /// Receives into a block at once. Without bytes, or after an error, the block goes back to the pool. Always
    /// inlined: for a coroutine that has waited this is the whole way to recv(2).
    #[inline(always)]
    fn receive_into_block(
        &mut self,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<Chunk> {
        let mut chunk = Chunk { block: take_block(self.size()), start: 0, end: 0 };
        // The block may be longer than `rbufsize`.
        chunk.end = receive(&mut RecvBuf::from(&mut chunk.block[..self.size()]))?;
        // A full block counts even if `rbufsize` is small.
        let is_much = chunk.end == self.size() || chunk.end > FIRST_RECEIVE_BYTES;
        self.much = if is_much { 2 } else { self.much.saturating_sub(1) };
        Ok(chunk)
    }
}

/// Bytes that were received and not yet taken by the handler. It owns memory only while it holds bytes. It is filled
/// only when it is empty, so its bytes are never moved, and it never grows. A line that spans several receives is put
/// together in the handler's own buffer.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    /// The rest of the last receive.
    held: Chunk,
}

impl ReadBuffer {
    /// Whether the next read has to receive.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.start == self.held.end
    }

    /// The bytes, which stay here until they are consumed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.held
    }

    /// Gives up the first bytes; a larger number means all. When all are gone, the block goes back to the pool.
    #[inline]
    pub(crate) fn consume(&mut self, count: usize) {
        self.held.consume(count);
        // The block goes back now, and not with the next receive: the peer may be silent until then.
        if self.is_empty() {
            self.take();
        }
    }

    /// Fills the empty buffer with a chunk. Returns the number of bytes; zero is the end of input.
    #[inline]
    pub(crate) fn put(&mut self, chunk: Chunk) -> usize {
        debug_assert!(self.is_empty(), "what is buffered comes before what is received");
        let count = chunk.len();
        // An empty chunk gives its block back by its drop.
        if count > 0 {
            self.held = chunk;
        }
        count
    }

    /// Takes everything, as a chunk. The buffer owns no memory then.
    #[inline]
    pub(crate) fn take(&mut self) -> Chunk {
        mem::take(&mut self.held)
    }
}

/// Bytes as they have come, from [`StreamRequest::chunk`](crate::StreamRequest::chunk). It derefs to `[u8]` and is
/// never empty.
///
/// It owns its bytes, so that the request can be written to while the chunk lives. The memory goes back to a pool when
/// the chunk is dropped, so do not collect many of them.
///
/// ```
/// use std::io::Write;
/// use socketserver::{HandlerResult, StreamRequest, stream_fn};
///
/// /// Echoes whatever comes, without looking for lines.
/// fn echo(request: &mut StreamRequest) -> HandlerResult {
///     while let Some(chunk) = request.chunk()? {
///         request.write_all(&chunk)?;
///     }
///     Ok(())
/// }
/// # let _handler = stream_fn(echo);
/// ```
// The two numbers come first: a request that has nothing buffered reads only them, and `StreamRequest` has them in its first
// cache lines.
#[derive(Default)]
#[repr(C)]
pub struct Chunk {
    /// The first byte that is not consumed.
    start: usize,
    /// The end of the received bytes.
    end: usize,
    /// Memory from the pool; empty in a chunk without bytes.
    block: Block,
}

impl Chunk {
    /// Gives up its first bytes.
    #[inline]
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    /// A copy of bytes that have come already.
    #[cfg(feature = "tls")]
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut block = take_block(bytes.len());
        block[..bytes.len()].copy_from_slice(bytes);
        Self { block, start: 0, end: bytes.len() }
    }

    /// Makes a large chunk by one `receive`: of encrypted bytes, which the handler does not see.
    #[cfg(feature = "tls")]
    pub(crate) fn receive_large(
        receive: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Self> {
        let mut chunk = Self { block: take_block(LARGE), start: 0, end: 0 };
        chunk.end = receive(&mut chunk.block)?;
        Ok(chunk)
    }

    /// A chunk, by one `receive`. A peer that fills a block sends a stream: from then on blocks are larger.
    #[inline]
    pub(crate) fn receive(
        appetite: &mut Appetite,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<Self> {
        let chunk = appetite.receive(receive)?;
        Ok(chunk.grows(appetite))
    }

    /// As [`receive`](Self::receive), after the wait: the bytes go into a block at once.
    #[inline]
    pub(crate) fn receive_awaited(
        appetite: &mut Appetite,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<Self> {
        let chunk = appetite.receive_into_block(receive)?;
        Ok(chunk.grows(appetite))
    }

    /// Makes later blocks larger, if the peer has filled this one.
    #[inline]
    fn grows(self, appetite: &mut Appetite) -> Self {
        if self.end == appetite.size() {
            appetite.size = appetite.size.max(LARGE as u32);
        }
        self
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.block[self.start..self.end]
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Gives the block back to the pool.
impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        give_block(mem::take(&mut self.block));
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}
