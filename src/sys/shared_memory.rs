//! Memory that a process and its children have in common.
//!
//! It is mapped before the first fork, and never grows: a later mapping would belong to the parent or to one child
//! alone.
//!
//! `Forking` keeps in it all that the parent has to know of a request while a child serves it, and that children have
//! to know of each other: counts of bytes, buckets of rates, how many log texts were lost. There is no lock in it. A child may
//! be killed at any instruction, and a lock that it held would stay locked.

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use libc::{MAP_ANON, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE};

/// Rows of numbers, zero at first, that this process shares with the children that it forks from here on: each
/// process sees what the others write. (A fork copies all other memory.)
///
/// Rows take memory only when they are written to.
#[derive(Debug)]
pub(crate) struct Common<const NUMBERS: usize> {
    /// The first of `count` rows, at the beginning of the mapping.
    rows: NonNull<[AtomicU64; NUMBERS]>,
    /// How many rows the mapping has.
    count: usize,
}

// SAFETY: it owns its memory, and gives only shared references to atomics.
unsafe impl<const NUMBERS: usize> Send for Common<NUMBERS> {}
// SAFETY: as above.
unsafe impl<const NUMBERS: usize> Sync for Common<NUMBERS> {}

impl<const NUMBERS: usize> Common<NUMBERS> {
    /// Maps memory for `count` rows. [mmap(2)](https://man7.org/linux/man-pages/man2/mmap.2.html)
    ///
    /// ENOMEM if the address space, or the memory that Linux may promise, is used up. A mapping of no rows is refused
    /// (EINVAL).
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let (bytes, access) = (Self::bytes(count), PROT_READ | PROT_WRITE);
        // Miri has one process, and no memory that several share.
        let sharing = if cfg!(miri) { libc::MAP_PRIVATE } else { MAP_SHARED };
        // SAFETY: new memory of the kernel's choice; nothing that is there is touched.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, access, sharing | MAP_ANON, -1, 0) };
        match NonNull::new(start.cast()) {
            Some(rows) if start != MAP_FAILED => Ok(Self { rows, count }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The length of the mapping.
    fn bytes(count: usize) -> usize {
        count * size_of::<[AtomicU64; NUMBERS]>()
    }

    /// All rows. Only the atomics order the writes of several processes.
    #[inline]
    pub(crate) fn rows(&self) -> &[[AtomicU64; NUMBERS]] {
        // SAFETY: the memory holds this many rows, begins at a page, is zero at first, which is a valid atomic, and is
        // unmapped when this is dropped.
        unsafe { slice::from_raw_parts(self.rows.as_ptr(), self.count) }
    }
}

impl<const NUMBERS: usize> Drop for Common<NUMBERS> {
    fn drop(&mut self) {
        // SAFETY: it is the mapping that `new` has made, and no reference into it is left, because `rows` borrows this.
        unsafe { libc::munmap(self.rows.as_ptr().cast(), Self::bytes(self.count)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn rows_are_zero_and_keep_what_is_written() {
        let common = Common::<3>::new(1_000).unwrap();
        assert_eq!(common.rows().len(), 1_000);
        assert!(common.rows().iter().flatten().all(|number| number.load(Relaxed) == 0));
        common.rows()[999][2].store(7, Relaxed);
        assert_eq!(common.rows()[999][2].load(Relaxed), 7);
    }
}
