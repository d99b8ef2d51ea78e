//! The stacks of coroutines: [`StackSlab`], the stacks of one worker, and [`SlabStack`], one of them.
//!
//! Many stacks share one mapping (`chunk.rs`), each with a guard at its low end (`guard.rs`). A stack whose coroutine has
//! ended is used again, the last one first, and memory goes back to the system after a peak (`ledger.rs`).
//!
//! The slab belongs to its worker's thread, which takes a stack when it starts a request and gives it back when the
//! request's coroutine has ended. A used stack costs no system call; a fresh one costs one, for its guard; and a new
//! chunk costs four more (a few more still under `ulimit -v`), which the doubling of chunks makes rare.
//!
//! Two errors of the system are possible here. Both refuse one request and leave the worker as it is: no address space for
//! another chunk (ENOMEM of mmap), and no mapping left for a guard (ENOMEM of mprotect). Memory itself is not asked for:
//! pages come when the coroutine touches them, and if none is left, the system ends a process, as with all memory that
//! Linux has promised.

use std::fmt;
use std::io;
use std::mem;
use std::ops::Range;
use std::rc::Rc;

use corosensei::stack::{MIN_STACK_SIZE, Stack, StackPointer};

use super::chunk::{Layout, StackChunk};
#[cfg(test)]
use super::guard::GuardKind;
use super::ledger::{Ledger, StackId, Taken, WARM_STACKS};
use crate::sys::address_space;

/// The default size of a stack.
///
/// Address space is free, and only pages that are touched take memory; so the size is for the deepest user, with a margin.
/// A TLS handshake takes 64 KiB in a debug build (24 in a release build), a panic with `RUST_BACKTRACE=1` 28: there is
/// room for a handler three times as deep as the deepest of them.
pub(crate) const DEFAULT_STACK_BYTES: usize = 256 * 1024;

/// The smallest stack. On a smaller one a panic with a backtrace, or a signal's handler of the program's on a processor with
/// large registers, would not fit; and it would save page tables only, 0.1 KiB for each stack.
pub(crate) const SMALLEST_STACK: usize = 64 * 1024;

/// The largest stack: 1 GiB, and 16 MiB where addresses have 32 bits.
pub(crate) const LARGEST_STACK: usize = if usize::BITS > 32 { 1 << 30 } else { 1 << 24 };

/// The most stacks of one chunk.
///
/// More would save nothing: at 1,024 stacks the calls for a chunk are spread so thin that only the guards' are left.
const LARGEST_CHUNK: usize = 1_024;

/// The stacks of the first chunk. Each further one has as many as there are so far, up to [`LARGEST_CHUNK`]: a server with
/// few connections reserves little, and one with many makes few calls.
const FIRST_CHUNK: usize = 16;

/// The most address space of one chunk that has more than one stack.
///
/// A chunk has 960 stacks of 1 MiB, or 1,024 of the default size. A larger mapping might find no gap in the address space;
/// and one long-lived stack keeps its whole chunk mapped.
const LARGEST_MAPPING: usize = if usize::BITS > 32 { 1 << 30 } else { 1 << 25 };

/// The stacks of one worker. See the [module](self).
///
/// When it is dropped, the memory of stacks that are in use stays, and that of chunks without one is unmapped.
pub(crate) struct StackSlab {
    /// The size that was asked for, for messages.
    stack_bytes: usize,
    /// How chunks are divided. None: no stack can be so large.
    layout: Option<Layout>,
    /// The chunks, in the order in which they were mapped. None is taken out while the slab lives, so that a [`StackId`]
    /// stays right.
    chunks: Vec<Rc<StackChunk>>,
    /// The states of the stacks. The ledger names a stack of `chunks` by its two indices.
    ledger: Ledger,
    /// The kind of guard that a test has asked for, whatever the kernel has.
    #[cfg(test)]
    guards: Option<GuardKind>,
}

impl StackSlab {
    /// Makes a slab for stacks of this many bytes, rounded up to [`SMALLEST_STACK`] and to whole pages. The guards are extra. The
    /// slab takes no memory yet.
    pub(crate) fn new(stack_bytes: usize) -> Self {
        let layout = Layout::new(stack_bytes.max(SMALLEST_STACK));
        Self {
            stack_bytes,
            layout: layout.filter(|layout| layout.stack_bytes <= LARGEST_STACK),
            chunks: Vec::new(),
            ledger: Ledger::new(WARM_STACKS),
            #[cfg(test)]
            guards: None,
        }
    }

    /// A stack that nobody else has, with its guard.
    ///
    /// # Errors
    ///
    /// If the memory of the process has run out, or with classic guards its mappings; the error says which.
    ///
    /// A fresh stack that gets no guard is not lost: the next call tries the same one again. The caller reports the
    /// error as the reason why the request was not started.
    pub(crate) fn take(&mut self) -> io::Result<SlabStack> {
        let taken = match self.ledger.take() {
            Some(taken) => taken,
            None => {
                self.add_chunk()?;
                self.ledger.take().expect("a new chunk has fresh stacks")
            }
        };
        let id = match taken {
            Taken::Used(id) => id,
            Taken::Fresh(id) => {
                if let Err(error) = self.chunks[id.chunk].install_guard(id.index) {
                    self.ledger.not_taken(id);
                    return Err(error);
                }
                id
            }
        };
        Ok(SlabStack::new(&self.chunks[id.chunk], id))
    }

    /// Maps the next chunk: as many stacks as there are, within the bounds, or fewer if the system refuses so many.
    ///
    /// The system may refuse many stacks and still have room for a few: address space may be bounded (`ulimit -v`). So the
    /// number is halved until the chunk fits, and only the refusal of a single stack is an error. A chunk fits only if it
    /// leaves some address space: without any left an allocation ends the process, while a stack that is refused costs one
    /// request.
    #[cold]
    fn add_chunk(&mut self) -> io::Result<()> {
        let layout = self.layout.ok_or_else(|| check_stack_bytes(self.stack_bytes).unwrap_err())?;
        let most = layout.fit_in(LARGEST_MAPPING).clamp(1, LARGEST_CHUNK);
        let mut count = self.ledger.stacks().max(FIRST_CHUNK).min(most);
        let chunk = loop {
            match self.map_beside_reserve(count, layout) {
                Ok(chunk) => break chunk,
                Err(_) if count > 1 => count /= 2,
                Err(error) => return Err(out_of_memory(&layout, &error)),
            }
        };
        self.ledger.add_chunk(chunk.count());
        self.chunks.push(Rc::new(chunk));
        Ok(())
    }

    /// Maps a chunk, if it leaves enough address space for everything that is not a stack.
    fn map_beside_reserve(&self, count: usize, layout: Layout) -> io::Result<StackChunk> {
        // The room is checked before the chunk is mapped, so that other threads find some at every moment. An eighth is added
        // for the memory that the requests on these stacks allocate.
        let bytes = layout.mapped_bytes(count).ok_or(io::ErrorKind::OutOfMemory)?;
        address_space::check_room(bytes.saturating_add(bytes / 8))?;
        self.map(count, layout)
    }

    #[cfg(not(test))]
    fn map(&self, count: usize, layout: Layout) -> io::Result<StackChunk> {
        StackChunk::map(count, layout)
    }

    #[cfg(test)]
    fn map(&self, count: usize, layout: Layout) -> io::Result<StackChunk> {
        let forced = super::guard::FORCED_BOUND.get().map(|_| GuardKind::Classic);
        match self.guards.or(forced) {
            Some(guards) => StackChunk::map_with(count, layout, guards),
            None => StackChunk::map(count, layout),
        }
    }

    /// Takes the stack of a coroutine that has ended, for the next one. After a peak it gives memory back to the system, by
    /// two calls at most, so that a worker with many requests to end never stops for long.
    ///
    /// A stack of another slab is not used again.
    #[inline]
    pub(crate) fn give_back(&mut self, stack: SlabStack) {
        let own = self.chunks.get(stack.id().chunk);
        if !own.is_some_and(|own| Rc::ptr_eq(own, &stack.chunk)) {
            return;
        }
        self.ledger.give_back(stack.into_id());
        // Two calls are enough: with each stack that is given back one more is free, and one fewer may be warm.
        for _ in 0..2 {
            let Some((chunk, stacks)) = self.ledger.next_release() else { break };
            // SAFETY: the ledger releases free stacks only, and a stack is free when its `SlabStack` has come back: nobody
            // has a stack pointer into it any more.
            unsafe { self.chunks[chunk].release(&stacks) };
        }
    }
}

impl fmt::Debug for StackSlab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackSlab")
            .field("stack_bytes", &self.stack_bytes)
            .field("stacks", &self.ledger.stacks())
            .finish_non_exhaustive()
    }
}

/// One stack, for one coroutine at a time.
///
/// [`StackSlab::give_back`] frees it. One that is dropped, or leaked with a coroutine that has never ended, stays mapped for
/// as long as the process lives, and is never used again.
#[derive(Debug)]
pub(crate) struct SlabStack {
    /// Keeps the memory mapped.
    chunk: Rc<StackChunk>,
    /// The [`StackId`] of the stack, in half the memory: no slab has so many chunks, and no chunk so many stacks.
    id: (u32, u32),
    /// The address after its last byte: each switch asks for it.
    top: StackPointer,
}

/// The addresses of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Addresses that fault: the overflow of this stack, and of no other.
    pub(crate) guard: Range<usize>,
    /// The address after the last one of the stack, which begins at the guard's end.
    pub(crate) top: usize,
}

impl Extent {
    /// The size of the stack without its guard.
    pub(crate) fn stack_bytes(&self) -> usize {
        self.top - self.guard.end
    }
}

impl SlabStack {
    /// Makes the value for a stack that was just taken in the ledger of the chunk's slab.
    fn new(chunk: &Rc<StackChunk>, id: StackId) -> Self {
        let half = |number| u32::try_from(number).expect("so many stacks fit into no memory");
        let short = (half(id.chunk), half(id.index));
        Self { chunk: Rc::clone(chunk), id: short, top: address(chunk.top(id.index)) }
    }

    fn id(&self) -> StackId {
        StackId { chunk: self.id.0 as usize, index: self.id.1 as usize }
    }

    /// The addresses of the stack.
    pub(crate) fn extent(&self) -> Extent {
        Extent { guard: self.chunk.guard(self.id().index), top: self.top.get() }
    }

    /// Ends the value without its drop, which would keep the memory for ever.
    ///
    /// This is the one way to the end of a `SlabStack` that lets its chunk be unmapped: `Drop` keeps the chunk for
    /// ever, because it also runs for a stack whose frames somebody may still read.
    fn into_id(self) -> StackId {
        let id = self.id();
        let mut this = mem::ManuallyDrop::new(self);
        // SAFETY: `chunk` is dropped once, because `this` itself is never dropped; and it is not used afterwards.
        unsafe { std::ptr::drop_in_place(&raw mut this.chunk) };
        id
    }
}

impl Drop for SlabStack {
    fn drop(&mut self) {
        // The frames may still be in use, so the chunk is never unmapped.
        mem::forget(Rc::clone(&self.chunk));
    }
}

// SAFETY: the memory from `limit` to `base` stays mapped while this value exists, which keeps the chunk alive. It belongs
// to this value alone, because the ledger hands out each stack once until it comes back. Its low end is a guard that
// faults, as `StackSlab::take` has seen to; and above the guard there are at least `SMALLEST_STACK` bytes.
unsafe impl Stack for SlabStack {
    #[inline]
    fn base(&self) -> StackPointer {
        self.top
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        address(self.chunk.guard(self.id().index).start)
    }
}

const _: () = assert!(SMALLEST_STACK >= MIN_STACK_SIZE, "too small for the switch between stacks");

/// The address as corosensei takes it, which is never zero.
fn address(at: usize) -> StackPointer {
    StackPointer::new(at).expect("no mapping ends at address zero")
}

/// Fails if there can be no stacks of this many bytes.
///
/// # Errors
///
/// An error that names the bounds.
pub(crate) fn check_stack_bytes(stack_bytes: usize) -> io::Result<()> {
    if (SMALLEST_STACK..=LARGEST_STACK).contains(&stack_bytes) {
        return Ok(());
    }
    let text = format!("a stack has between {SMALLEST_STACK} and {LARGEST_STACK} bytes");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// The error when there is no room for one stack and the reserve.
fn out_of_memory(layout: &Layout, error: &io::Error) -> io::Error {
    let text = format!(
        "no address space for another stack of {} bytes: {error}. It is bounded by ulimit -v, vm.overcommit_memory = 2, \
         vm.max_map_count, and the limits of a container",
        layout.stack_bytes
    );
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests;
