//! Bytes between the socket and the handler: pooled blocks, the read buffer, lines and chunks.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ops::Deref;
use std::str::Utf8Error;
use std::sync::Once;

use parking_lot::Mutex;

use crate::peer_fault::{Owned, Owner, PeerFault, find};
use crate::sys::RecvBuf;

/// The usual block: what Python's `makefile('rb')` buffers.
pub(crate) const SMALL: usize = 8 * 1024;
/// The block of a connection whose peer has filled a small one: measured as the best size for a
/// stream of bytes (64 KiB 4.7 GiB/s, 256 KiB 2.9 with the same loop, because of the cache).
pub(crate) const LARGE: usize = 64 * 1024;

/// The most that `rbufsize` asks for: no socket has more to give at once, and a block that cannot be had would be the end
/// of the process.
const MOST: usize = 16 * 1024 * 1024;

/// A wait is made with so much room, on the stack of whoever waits: a silent connection then holds no block.
/// Most requests are shorter; what is longer is asked for with a block by the next receive. With twice as much
/// a waiting thread would reach into one more page of its stack, which a thousand threads feel (5 %).
const FIRST: usize = 512;

/// How many free blocks of each size are kept: as many requests may be in the middle of a read or a write
/// at once without asking the allocator. Of small ones 512 KiB in all, of large ones 1 MiB.
const KEPT: [usize; 2] = [64, 16];

/// Free blocks, small and large. One pool for all threads: a pool of each thread would keep a block for every
/// connection that is idle.
///
/// Nobody waits for it: who finds it locked goes to the allocator. Among a thousand threads the one that
/// has it locked may have lost the processor, and all others would come to a stop one behind the other.
static POOL: Mutex<[Shelf; 2]> = Mutex::new([const { Shelf { first: None, more: Vec::new() } }; 2]);

/// Free blocks of one size. The first is found without a look at other memory: a forked child, which takes one
/// block and gives it back, writes to one page less, and each page that it writes to is copied.
struct Shelf {
    first: Option<Block>,
    more: Vec<Block>,
}

impl Shelf {
    fn take(&mut self) -> Option<Block> {
        self.first.take().or_else(|| self.more.pop())
    }

    fn give(&mut self, block: Block, kept: usize) {
        if self.first.is_none() {
            self.first = Some(block);
        } else if self.more.len() + 1 < kept {
            self.more.push(block);
        }
    }
}

/// Initialised bytes.
type Block = Box<[u8]>;

/// A block of `size` or more.
fn take_block(size: usize) -> Block {
    let class = usize::from(size > SMALL);
    if size <= LARGE {
        if let Some(block) = POOL.try_lock().and_then(|mut pool| pool[class].take()) {
            return block;
        }
    }
    new_block([SMALL, LARGE][class].max(size))
}

fn new_block(size: usize) -> Block {
    vec![0; size].into_boxed_slice()
}

/// Gives a block back. One of an unusual size is freed: somebody has asked for it by `rbufsize`.
fn give_block(block: Block) {
    let class = match block.len() {
        SMALL => 0,
        LARGE => 1,
        _ => return,
    };
    if let Some(mut pool) = POOL.try_lock() {
        pool[class].give(block, KEPT[class]);
    }
}

/// Makes sure, once, that there is a free block. Before a fork: what is there already, a child need not make.
pub(crate) fn keep_block() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| give_block(new_block(SMALL)));
}

/// How much is asked for by one receive: little until the peer turns out to send much.
pub(crate) struct Appetite {
    /// The size of a block.
    size: usize,
    /// So many receives from here on wait with a block in their hand, because the peer has sent more than
    /// [`FIRST`] at once. Two: what is left over after the first one may be little, and is no sign.
    much: u8,
}

impl Appetite {
    pub(crate) fn new() -> Self {
        Self { size: SMALL, much: 0 }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn set_size(&mut self, bytes: usize) {
        self.size = bytes.clamp(1, MOST);
    }

    /// Receives, and gives the bytes that have come; none at the end of input.
    #[inline]
    fn receive(
        &mut self,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<Chunk> {
        if self.much > 0 || self.size <= FIRST {
            return self.receive_into_block(receive);
        }
        let mut memory = [MaybeUninit::uninit(); FIRST];
        let mut buf = RecvBuf::new(&mut memory);
        let count = receive(&mut buf)?;
        if count == 0 {
            return Ok(Chunk::default());
        }
        if count == FIRST {
            self.much = 2;
        }
        let mut block = take_block(self.size);
        block[..count].copy_from_slice(buf.received(count));
        Ok(Chunk { block, start: 0, end: count })
    }

    #[inline(never)]
    fn receive_into_block(
        &mut self,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<Chunk> {
        let mut chunk = Chunk { block: take_block(self.size), start: 0, end: 0 };
        // No more than was asked for, though the block may be longer.
        chunk.end = receive(&mut RecvBuf::from(&mut chunk.block[..self.size]))?;
        let is_much = chunk.end == self.size || chunk.end > FIRST;
        self.much = if is_much { 2 } else { self.much.saturating_sub(1) };
        Ok(chunk)
    }
}

/// What has been received and not yet taken by the handler. It owns memory only while it holds bytes.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    held: Chunk,
}

impl ReadBuffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.start == self.held.end
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.held
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.held.consume(count);
        if self.is_empty() {
            self.take();
        }
    }

    /// Fills the empty buffer with what one `receive` gives. Says how many bytes came; zero is the end of
    /// input.
    pub(crate) fn fill(
        &mut self,
        appetite: &mut Appetite,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "what is buffered comes before what is received");
        let chunk = appetite.receive(receive)?;
        let count = chunk.len();
        if count > 0 {
            self.held = chunk;
        }
        Ok(count)
    }

    /// Takes everything, as a chunk.
    pub(crate) fn take(&mut self) -> Chunk {
        mem::take(&mut self.held)
    }
}

/// Bytes as they came, lent by [`StreamRequest::chunk`](crate::StreamRequest::chunk).
///
/// It owns its bytes, so that the request can be written to while it lives; its memory goes back to
/// a pool when it is dropped.
#[derive(Default)]
pub struct Chunk {
    block: Block,
    start: usize,
    end: usize,
}

impl Chunk {
    /// Gives up its first bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// A chunk of what one `receive` gives. A peer that fills a block sends a stream: fewer and larger
    /// receives from there on.
    #[inline]
    pub(crate) fn receive(
        appetite: &mut Appetite,
        receive: impl FnOnce(&mut RecvBuf<'_>) -> io::Result<usize>,
    ) -> io::Result<Self> {
        let chunk = appetite.receive(receive)?;
        if chunk.end == appetite.size {
            appetite.size = appetite.size.max(LARGE);
        }
        Ok(chunk)
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

impl Drop for Chunk {
    fn drop(&mut self) {
        give_block(mem::take(&mut self.block));
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}

/// What a line can be read into: a `String`, if it is text, or a `Vec<u8>`, if it may be anything.
pub trait Line: sealed::Sealed {
    /// The line without its newline, borrowed.
    type Text: ?Sized;

    /// Empties it, has `read` append a line, and lends the line; none if `read` says that there is no
    /// more. A line that it cannot hold is the error that `garbled` makes.
    #[doc(hidden)]
    fn fill(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<bool>,
        garbled: impl FnOnce(Utf8Error) -> io::Error,
    ) -> io::Result<Option<&Self::Text>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for String {}
    impl Sealed for Vec<u8> {}
}

impl Line for Vec<u8> {
    type Text = [u8];

    fn fill(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<bool>,
        _garbled: impl FnOnce(Utf8Error) -> io::Error,
    ) -> io::Result<Option<&[u8]>> {
        self.clear();
        Ok(read(self)?.then_some(self))
    }
}

impl Line for String {
    type Text = str;

    fn fill(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<bool>,
        garbled: impl FnOnce(Utf8Error) -> io::Error,
    ) -> io::Result<Option<&str>> {
        let mut bytes = mem::take(self).into_bytes();
        bytes.clear();
        let more = read(&mut bytes)?;
        *self = String::from_utf8(bytes).map_err(|error| garbled(error.utf8_error()))?;
        Ok(more.then_some(self))
    }
}

/// Appends bytes of a request's peer to a text, if they are text. If not, it is the peer that has sent them.
pub(crate) fn append_text(text: &mut String, bytes: Vec<u8>, owner: Owner) -> io::Result<()> {
    let more = String::from_utf8(bytes)
        .map_err(|error| PeerFault::garbled(owner, NotText(error.utf8_error())))?;
    if text.is_empty() {
        *text = more;
    } else {
        text.push_str(&more);
    }
    Ok(())
}

/// What `Read::read_to_string` is for a request: std's own would not say whose bytes those were.
pub(crate) fn read_to_string(
    from: &mut impl io::Read,
    text: &mut String,
    owner: Owner,
) -> io::Result<usize> {
    let mut bytes = Vec::new();
    let read = from.read_to_end(&mut bytes);
    // As std's: what has come before an error is there, if it is text.
    match append_text(text, bytes, owner) {
        Ok(()) => read,
        Err(garbled) => read.and(Err(garbled)),
    }
}

/// What the peer has sent was to be text and is not.
#[derive(Debug, thiserror::Error)]
#[error("not UTF-8: {0}")]
pub(crate) struct NotText(#[source] pub(crate) Utf8Error);

/// A line was longer than `Limits::line_bytes`: the payload of an [`io::Error`] of kind
/// `InvalidData`. Its beginning has been taken from the stream and its rest has not, so that the usual
/// answer is to say so and to close.
///
/// It is the peer's ([`Fault::Peer`](crate::hooks::Fault::Peer), [`CloseReason::LineTooLong`](crate::CloseReason::LineTooLong)), but
/// no [`PeerFault`] and not quiet: the limit may be what is wrong.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the line is longer than {limit_bytes} bytes")]
pub struct LineTooLong {
    owner: Owner,
    limit_bytes: usize,
}

impl Owned for LineTooLong {
    fn owner(&self) -> Owner {
        self.owner
    }
}

impl LineTooLong {
    pub(crate) fn error(owner: Owner, limit_bytes: usize) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Self { owner, limit_bytes })
    }

    /// Finds it along an error's chain of causes.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// The limit that it was longer than.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Formats into memory of this thread, so that one `writeln!` becomes one send, and hands the bytes on.
pub(crate) fn with_formatted<R>(
    arguments: fmt::Arguments<'_>,
    send: impl FnOnce(&[u8]) -> io::Result<R>,
) -> io::Result<R> {
    // Text without arguments is already there.
    if let Some(text) = arguments.as_str() {
        return send(text.as_bytes());
    }
    // Taken out, not borrowed: `send` may suspend this coroutine, and the next one formats as well.
    let mut bytes = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    bytes.clear();
    let result = match io::Write::write_fmt(&mut bytes, arguments) {
        Ok(()) => send(&bytes),
        Err(error) => Err(error),
    };
    if bytes.capacity() <= LARGE {
        let _ = SCRATCH.try_with(|scratch| scratch.replace(bytes));
    }
    result
}
