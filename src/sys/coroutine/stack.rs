//! The stacks of coroutines.

use std::io;

use corosensei::stack::{Stack, StackPointer};

/// The stacks of one worker.
#[derive(Debug)]
pub(crate) struct StackSlab {
    bytes: usize,
    free: Vec<SlabStack>,
}

/// One stack.
#[derive(Debug)]
pub(crate) struct SlabStack {
    base: usize,
    limit: usize,
}

// SAFETY: the memory from `limit` to `base` is mapped for as long as the process lives, with an inaccessible page at its
// low end, and belongs to this value alone.
unsafe impl Stack for SlabStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.base).expect("a mapping is not at zero")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit).expect("a mapping is not at zero")
    }
}

impl StackSlab {
    /// Of stacks of so many bytes, rounded up to whole pages.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes: bytes.max(16 * 4096).next_multiple_of(4096), free: Vec::new() }
    }

    /// A stack for a new coroutine.
    pub(crate) fn take(&mut self) -> io::Result<SlabStack> {
        if let Some(stack) = self.free.pop() {
            return Ok(stack);
        }
        // SAFETY: new anonymous memory.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                self.bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the first page of the new mapping.
        unsafe { libc::mprotect(at, 4096, libc::PROT_NONE) };
        let limit = at as usize;
        Ok(SlabStack { base: limit + self.bytes, limit })
    }

    /// For the next coroutine.
    pub(crate) fn give_back(&mut self, stack: SlabStack) {
        self.free.push(stack);
    }
}
