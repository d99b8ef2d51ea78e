//! `StackChunk`: the memory of many stacks, side by side in one mapping.
//!
//! ```text
//! start                                                                              start + count * stride
//! |guard|   stack 0   |guard|   stack 1   | ..                          |guard|   stack count-1   |
//!       ^             ^
//!       limit         top: a stack grows down from here
//! ```
//!
//! Only address space is reserved. A page takes memory when it is touched, and a stack has no guard before it is handed out
//! for the first time.
//!
//! The mapping is private and anonymous ([mmap(2)](https://man7.org/linux/man-pages/man2/mmap.2.html)): its pages are
//! zero when they are first read, and a forked child has a copy of those that were written, made page by page when one
//! of the two processes writes. `StackSlab` makes chunks and keeps them alive by an `Rc`, which each stack that is handed out
//! holds as well. So the order in which a slab and its last coroutines end does not matter.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};

use libc::{
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, MAP_STACK, PROT_READ, PROT_WRITE,
};

use super::guard::{self, GuardKind, page_size};

/// The flags of the mapping. Without MAP_NORESERVE Linux counts the whole mapping as promised memory and may refuse it,
/// though most of it is never touched (with `vm.overcommit_memory = 2` Linux counts it all the same). MAP_STACK is only a
/// hint; since Linux 6.7 it also keeps large pages out. Miri knows only MAP_PRIVATE and MAP_ANONYMOUS.
const MMAP_FLAGS: libc::c_int =
    MAP_PRIVATE | MAP_ANONYMOUS | if cfg!(miri) { 0 } else { MAP_NORESERVE | MAP_STACK };

/// How a chunk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The memory that a coroutine can use.
    pub(super) stack_bytes: usize,
    /// From one stack to the next: the memory, and the guard below it.
    stride: usize,
}

impl Layout {
    /// The layout for stacks of this many bytes, rounded up to whole pages. None: such a stack is larger than the address
    /// space.
    ///
    /// The distance between stacks is an odd number of pages. The memory that is in use lies at the top of each stack; at
    /// distances of a power of two all those pages would compete for a few places of the TLB.
    pub(super) fn new(stack_bytes: usize) -> Option<Self> {
        let page = page_size();
        let stack_bytes = stack_bytes.checked_next_multiple_of(page)?;
        let both = stack_bytes.checked_add(guard::guard_bytes(stack_bytes))?;
        // If a page is added to make the number odd, the guard gets it.
        let stride = if both / page % 2 == 1 { both } else { both.checked_add(page)? };
        (stride < isize::MAX as usize).then_some(Self { stack_bytes, stride })
    }

    /// The size of a mapping of this many stacks. None: larger than the address space.
    pub(super) fn mapped_bytes(&self, count: usize) -> Option<usize> {
        count.checked_mul(self.stride)
    }

    /// How many stacks a mapping of this many bytes holds.
    pub(super) fn fit_in(&self, bytes: usize) -> usize {
        bytes / self.stride
    }
}

/// The memory of many stacks: see the [module](self).
///
/// It owns the memory. Dropping it unmaps the memory, so each stack that is in use keeps its chunk alive.
#[derive(Debug)]
pub(super) struct StackChunk {
    /// The lowest address, that of stack 0's guard. The kernel chooses it, at the beginning of a page.
    start: NonNull<u8>,
    count: usize,
    layout: Layout,
    /// The kind of all its guards: light ones, unless the first try has shown that the kernel has none.
    guards: GuardKind,
    /// How many classic guards were installed. The count of the process goes down by this number when the chunk is
    /// unmapped.
    classic: std::cell::Cell<usize>,
}

impl StackChunk {
    /// Maps memory for `count` stacks, at least one, with guards of the best kind that the system has.
    /// [mmap(2)](https://man7.org/linux/man-pages/man2/mmap.2.html)
    ///
    /// Takes three system calls. ENOMEM is the expected error: the address space of the process is bounded, or
    /// vm.max_map_count is reached. A chunk takes one mapping, and with classic guards two for each stack that was handed
    /// out.
    pub(super) fn map(count: usize, layout: Layout) -> io::Result<Self> {
        let mut chunk = Self::map_with(count, layout, GuardKind::Light)?;
        // The first stack's guard shows whether the kernel knows light guards. Nobody uses the new chunk yet.
        match chunk.install_guard(0) {
            // This is a Linux before 6.13, or the process has locked its memory: there are no light guards.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                chunk.guards = GuardKind::Classic;
            }
            // Any other error comes again when that stack is taken, and is reported then.
            Ok(()) | Err(_) => {}
        }
        Ok(chunk)
    }

    /// Maps memory as [`map`](Self::map) does, with guards of this kind.
    ///
    /// `InvalidInput` for no stacks, or for more than the address space has.
    pub(super) fn map_with(count: usize, layout: Layout, guards: GuardKind) -> io::Result<Self> {
        let bytes = layout.mapped_bytes(count).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel chooses an unused place, so no other memory changes.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), bytes, PROT_READ | PROT_WRITE, MMAP_FLAGS, -1, 0)
        };
        let start = match NonNull::new(start.cast::<u8>()) {
            Some(found) if start != MAP_FAILED => found,
            _ => return Err(io::Error::last_os_error()),
        };
        // A large page would take 2 MiB for a stack that uses 4 KiB. A kernel without large pages refuses the call, which does
        // no harm.
        // SAFETY: the mapping that was just made; the advice changes no content.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE) };
        Ok(Self { start, count, layout, guards, classic: std::cell::Cell::new(0) })
    }

    /// Whether this system has light guards.
    ///
    /// It maps a chunk of one stack to find that out. None: not even that could be mapped.
    pub(super) fn has_light_guards() -> Option<bool> {
        Self::map(1, Layout::new(1)?).ok().map(|chunk| chunk.guards == GuardKind::Light)
    }

    /// How many stacks it has.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Where a stack begins: the address after its last byte, aligned to a page.
    ///
    /// # Panics
    ///
    /// If the chunk has no such stack.
    pub(super) fn top(&self, index: usize) -> usize {
        self.guard_start(index) + self.layout.stride
    }

    /// The lowest address that belongs to a stack. The provenance of the mapping is exposed: the frames of a coroutine are
    /// reached by the stack pointer, and by no Rust pointer that this crate derives from the chunk.
    fn guard_start(&self, index: usize) -> usize {
        assert!(index < self.count, "the chunk has {} stacks, and none {index}", self.count);
        self.start.as_ptr().expose_provenance() + index * self.layout.stride
    }

    /// The addresses of a stack's guard.
    ///
    /// It begins where the stack below ends, so that an overflow cannot reach that stack.
    pub(super) fn guard(&self, index: usize) -> Range<usize> {
        self.guard_start(index)..self.top(index) - self.layout.stack_bytes
    }

    /// Makes the guard below a stack inaccessible.
    ///
    /// Called once for each stack, before it is handed out for the first time. So a stack that is never used costs nothing.
    ///
    /// # Errors
    ///
    /// The errors of `guard.rs`. A kernel that has no light guards answers EINVAL.
    pub(super) fn install_guard(&self, index: usize) -> io::Result<()> {
        let guard = self.guard(index);
        match self.guards {
            // SAFETY: the pages are this chunk's, and below every stack, where nothing is ever written.
            GuardKind::Light => unsafe { guard::install_light(guard.start, guard.len()) },
            GuardKind::Classic => {
                // SAFETY: as above.
                unsafe { guard::install_classic(guard.start, guard.len()) }?;
                self.classic.set(self.classic.get() + 1);
                Ok(())
            }
        }
    }

    /// Gives the memory of adjacent stacks back to the system. Their content is lost, and their guards stay. A failure
    /// (EINVAL: the memory is locked, by mlockall(2) for one) leaves everything as it is, and costs memory only.
    ///
    /// MADV_DONTNEED takes the pages away at once, and the next touch finds zeros. MADV_FREE would wait until the system is
    /// short of memory; until then operators and the limit of a container would see the process as large as at its peak.
    /// [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html)
    ///
    /// # Safety
    ///
    /// Nobody uses these stacks.
    pub(super) unsafe fn release(&self, stacks: &Range<usize>) {
        debug_assert!(!stacks.is_empty());
        let (start, end) = (self.guard_start(stacks.start), self.top(stacks.end - 1));
        // SAFETY: the pages are this chunk's, and the caller says that nobody uses them. Both kinds of guards survive.
        unsafe {
            libc::madvise(
                ptr::with_exposed_provenance_mut(start),
                end - start,
                libc::MADV_DONTNEED,
            );
        }
    }
}

impl Drop for StackChunk {
    fn drop(&mut self) {
        // SAFETY: it is the mapping that `map_with` has made. Stacks that are in use hold their chunk, so no stack is in use.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * self.layout.stride) };
        guard::forget_classic(self.classic.get());
    }
}
