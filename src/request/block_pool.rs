//! Free blocks of memory for what is received, shared by all threads.
//!
//! ```text
//! take_block    a coroutine: the small block that its thread keeps, if one is left
//!               else the pool, if its lock is free; else the allocator
//! give_block    the same way back; a shelf that is full, or a pool that is locked, frees the block
//! ```
//!
//! A block is taken when bytes have come and given back when the last of them is consumed, so the number of blocks
//! follows the requests that are in the middle of a read, and not the connections.

use std::cell::Cell;
use std::sync::Once;

use parking_lot::Mutex;

use crate::wait;

/// The usual block: the size of Python's `makefile('rb')` buffer.
pub(crate) const SMALL: usize = 8 * 1024;
/// The block for a peer that has filled a small one. Measured as the best size for a stream: 4.7 GiB/s, against 2.9
/// with 256 KiB, which do not fit the cache.
pub(crate) const LARGE: usize = 64 * 1024;

/// How many free blocks of each size are kept: at most 512 KiB of small blocks, and 1 MiB of large ones. That many
/// requests may be in the middle of a read or a write without a call of the allocator.
const KEPT: [usize; 2] = [64, 16];

/// Free blocks, small and large. All threads share one pool, because a pool of each thread would keep a block for
/// every idle connection.
///
/// No thread waits for this lock: if it is taken, the thread asks the allocator. Among a thousand threads the holder
/// of the lock may have lost the processor, and all others would queue behind it.
static POOL: Mutex<[Shelf; 2]> = Mutex::new([const { Shelf { first: None, more: Vec::new() } }; 2]);

thread_local! {
    /// A free small block of a thread that runs coroutines. One block is nearly always enough, because a coroutine
    /// answers its request before the next coroutine runs.
    static THREAD_BLOCK: Cell<Option<Block>> = const { Cell::new(None) };
}

/// Free blocks of one size. The first block is in the shelf itself. So a forked child, which takes one block and gives
/// it back, writes to one page fewer, and each page that it writes to has to be copied.
struct Shelf {
    /// The block that is taken first and given back first.
    first: Option<Block>,
    /// The other blocks. The one given back last is taken first.
    more: Vec<Block>,
}

impl Shelf {
    /// A free block; none if all are in use.
    fn take(&mut self) -> Option<Block> {
        self.first.take().or_else(|| self.more.pop())
    }

    /// Keeps a block, if fewer than `kept` are there. Otherwise it is freed, so that a burst of requests does not
    /// hold its memory for ever.
    fn give(&mut self, block: Block, kept: usize) {
        if self.first.is_none() {
            self.first = Some(block);
        } else if self.more.len() + 1 < kept {
            self.more.push(block);
        }
    }
}

/// Initialised bytes.
pub(super) type Block = Box<[u8]>;

/// A block of `size` or more. Its bytes may be those of an earlier use, so a caller reads only bytes that it has
/// written. A block larger than [`LARGE`], by `rbufsize`, comes from the allocator each time.
#[inline]
pub(super) fn take_block(size: usize) -> Block {
    if size <= SMALL && wait::is_parked_here() {
        if let Some(block) = THREAD_BLOCK.take() {
            return block;
        }
    }
    take_from_pool(size)
}

/// Not inlined, so that the usual call of a coroutine is short.
#[inline(never)]
fn take_from_pool(size: usize) -> Block {
    let class = usize::from(size > SMALL);
    // A larger block, by `rbufsize`, never comes from the pool: it would be kept for a size that nobody else asks for.
    if size <= LARGE {
        // A pool that is locked is as good as an empty one.
        if let Some(block) = POOL.try_lock().and_then(|mut pool| pool[class].take()) {
            return block;
        }
    }
    new_block([SMALL, LARGE][class].max(size))
}

/// A block from the allocator, zeroed, so that safe code may read all of it.
fn new_block(size: usize) -> Block {
    vec![0; size].into_boxed_slice()
}

/// Gives a block back. A block of an unusual size (by `rbufsize`) is freed.
#[inline]
pub(super) fn give_block(block: Block) {
    if block.len() == SMALL && wait::is_parked_here() {
        // While a thread ends, its thread-locals are gone.
        if let Ok(Some(second)) = THREAD_BLOCK.try_with(|own| own.replace(Some(block))) {
            give_to_pool(second);
        }
        return;
    }
    // A chunk without bytes has an empty block.
    if !block.is_empty() {
        give_to_pool(block);
    }
}

#[inline(never)]
fn give_to_pool(block: Block) {
    // The length of a block never changes, and says which shelf it belongs to. A block of another length is freed.
    let class = match block.len() {
        SMALL => 0,
        LARGE => 1,
        _ => return,
    };
    // If the pool is locked, the block is freed: nobody waits for this lock.
    if let Some(mut pool) = POOL.try_lock() {
        pool[class].give(block, KEPT[class]);
    }
}

/// Makes sure, once, that there is a free block. Called before a fork, so that the child need not allocate one.
pub(crate) fn keep_block() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| give_block(new_block(SMALL)));
}
