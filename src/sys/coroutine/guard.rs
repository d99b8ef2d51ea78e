//! Guards: at the low end of each stack, memory that cannot be touched, so that an overflow is a fault, and never a
//! write into the stack beside it.
//!
//! | kind | how | costs |
//! |---|---|---|
//! | [`Light`](GuardKind::Light) | MADV_GUARD_INSTALL, Linux 6.13: marks in the page table | 0.4 us once for each stack |
//! | [`Classic`](GuardKind::Classic) | mprotect(PROT_NONE) | two of the process's memory mappings for each stack |
//!
//! The kernel bounds the mappings of a process (`vm.max_map_count`, 65,530 by default), so with classic guards the number
//! of stacks is bounded: see [`StackBound`].
//!
//! A touch of either kind raises SIGSEGV. The signal's information has the address, by which `overflow.rs` finds whose
//! guard it was. A forked child inherits both kinds, and `MADV_DONTNEED`, by which a chunk gives memory back, removes
//! neither.
//!
//! All pages of a mapping have the same rights. So a classic guard in the middle of a chunk cuts one mapping into three
//! (the part below, the guard, and the part above), which is two more for each stack. A light guard changes entries of the
//! page table and cuts nothing.
//!
//! Guards are installed by the worker that has the chunk, and counted for the process: the count is the only state here
//! that threads share.

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::check;

/// The longest guard, and that of all but small stacks. Rust's functions touch each page of a large frame in turn, so a guard
/// of one page would stop them; functions in C may step over it. The threads of glibc have a guard of this length on
/// machines where C has no such probes.
pub(super) const LARGEST_GUARD: usize = 64 * 1024;

/// The kind of a guard: see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuardKind {
    /// Preferred. [`StackChunk::map`](super::chunk::StackChunk::map) tries it first.
    Light,
    /// For a Linux before 6.13, and for a process that has locked its memory.
    Classic,
}

/// The length of a page of this system.
///
/// 4 KiB on x86-64; aarch64 also has systems with 16 and 64.
/// [sysconf(3)](https://man7.org/linux/man-pages/man3/sysconf.3.html)
pub(super) fn page_size() -> usize {
    // SAFETY: no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("the system knows the size of its pages")
}

/// The length of the guard of a stack of this many bytes: a quarter of that, in whole pages.
///
/// A stack of 64 KiB has a guard of 16 KiB; stacks of 256 KiB or more have [`LARGEST_GUARD`]. A guard takes address space only.
pub(super) fn guard_bytes(stack_bytes: usize) -> usize {
    (stack_bytes / 4).clamp(1, LARGEST_GUARD).next_multiple_of(page_size())
}

/// The advice that installs a light guard. Not every version of the C library's headers has it.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Makes pages inaccessible, until they are unmapped. EINVAL: the kernel has no light guards, or none for memory that is
/// locked. [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html)
///
/// # Safety
///
/// The range must be whole pages of memory that the caller owns and nobody uses.
pub(super) unsafe fn install_light(start: usize, bytes: usize) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller promises that nothing uses the memory.
    check(unsafe { libc::madvise(start, bytes, MADV_GUARD_INSTALL) }).map(drop)
}

/// Makes pages inaccessible by a change of their access rights, which takes two mappings.
/// [mprotect(2)](https://man7.org/linux/man-pages/man2/mprotect.2.html)
///
/// # Errors
///
/// `OutOfMemory`, with a text for the operator, when there are as many guards as the bound allows, or when the kernel has
/// no mapping left (ENOMEM): other parts of the program may have taken more mappings than the bound keeps for them.
///
/// # Safety
///
/// As [`install_light`].
pub(super) unsafe fn install_classic(start: usize, bytes: usize) -> io::Result<()> {
    let bound = stack_bound_of_classic_guards();
    let room = |used: usize| (used < bound.stacks).then_some(used + 1);
    if CLASSIC_GUARDS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
        return Err(bound.reached());
    }
    let start = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller promises that nothing uses the memory.
    check(unsafe { libc::mprotect(start, bytes, libc::PROT_NONE) }).map(drop).map_err(|error| {
        forget_classic(1);
        // ENOMEM is the kernel's answer when the mappings of the process have run out.
        if error.raw_os_error() == Some(libc::ENOMEM) { bound.reached() } else { error }
    })
}

/// Counts down the classic guards: this many have been unmapped.
///
/// A chunk calls it when it is unmapped, and `install_classic` for a guard that could not be installed.
pub(super) fn forget_classic(guards: usize) {
    CLASSIC_GUARDS.fetch_sub(guards, Ordering::Relaxed);
}

/// The number of classic guards of this process, over all its slabs.
///
/// The number is compared with the bound before the call, and the refusal is not left to the kernel: the mapping that fails
/// next might be one of the allocator, and that would end the process. Relaxed, because it counts and orders nothing.
static CLASSIC_GUARDS: AtomicUsize = AtomicUsize::new(0);

/// How many stacks this process can have, where that is bounded. `Display` writes a text for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StackBound {
    /// At most this many stacks, of all workers together.
    pub(crate) stacks: usize,
    /// `vm.max_map_count` of this system.
    mappings: usize,
}

impl StackBound {
    /// Computes the bound. Each stack takes two mappings. An eighth of all mappings is kept for threads, libraries and memory
    /// that come later, and `in_use` are there already: of 65,530 with 100 in use (65,530 - 8,191 - 100) / 2 = 28,619 stacks.
    fn of(mappings: usize, in_use: usize) -> Self {
        Self { stacks: (mappings - mappings / 8).saturating_sub(in_use) / 2, mappings }
    }

    /// How many of the stacks requests may have. A sixteenth is for accept loops, for the halves of `join`, and for a
    /// worker that has more than its share.
    pub(crate) fn requests(&self) -> usize {
        (self.stacks - self.stacks / 16).max(1)
    }

    /// The error when the bound is reached.
    fn reached(self) -> io::Error {
        io::Error::new(io::ErrorKind::OutOfMemory, format!("all stacks are in use: {self}"))
    }
}

impl fmt::Display for StackBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stacks, mappings } = self;
        write!(
            f,
            "this kernel has room for {stacks} coroutines in a process, a sixteenth of them for accept loops and join, because \
             the guard of each stack takes two memory mappings (vm.max_map_count = {mappings}); raise it with sysctl, or use \
             Linux 6.13 or later, which has no such bound"
        )
    }
}

/// If set, this process uses classic guards, whatever the kernel has, and has room for this many stacks. For tests, in a
/// process of their own.
#[cfg(test)]
pub(crate) static FORCED_BOUND: OnceLock<usize> = OnceLock::new();

/// The bound on this kernel. None if the kernel has light guards, which is found out once.
pub(crate) fn stack_bound() -> Option<StackBound> {
    static LIGHT: OnceLock<bool> = OnceLock::new();
    #[cfg(test)]
    if FORCED_BOUND.get().is_some() {
        return Some(stack_bound_of_classic_guards());
    }
    let has_light =
        *LIGHT.get_or_init(|| super::chunk::StackChunk::has_light_guards().unwrap_or(false));
    (!has_light).then(stack_bound_of_classic_guards)
}

/// See [`StackBound::of`]. Counted once, before the first classic guard: later a count would take milliseconds.
///
/// The bound does not follow parts of the program that map memory later: the eighth is kept for them.
fn stack_bound_of_classic_guards() -> StackBound {
    static STACK_BOUND: OnceLock<StackBound> = OnceLock::new();
    *STACK_BOUND.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
        // The kernel's default, where `/proc` is not mounted.
        let mappings = text.trim().parse().unwrap_or(65_530);
        let in_use = std::fs::read("/proc/self/maps").unwrap_or_default();
        let bound = StackBound::of(mappings, in_use.iter().filter(|byte| **byte == b'\n').count());
        #[cfg(test)]
        let bound =
            FORCED_BOUND.get().map_or(bound, |stacks| StackBound { stacks: *stacks, ..bound });
        bound
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_half_of_the_mappings_that_are_left() {
        assert_eq!(StackBound::of(65_530, 100).stacks, 28_619);
        assert_eq!(StackBound::of(65_530, 100).requests(), 26_831);
        assert_eq!(StackBound::of(100, 1_000).stacks, 0);
        assert_eq!(StackBound::of(100, 1_000).requests(), 1);
        assert_eq!(StackBound::of(usize::MAX, 0).stacks, (usize::MAX - usize::MAX / 8) / 2);
        let error = StackBound::of(65_530, 100).reached();
        let text = error.to_string();
        assert!(text.contains("28619") && text.contains("vm.max_map_count = 65530"), "{text}");
    }

    #[test]
    fn a_guard_is_a_quarter_of_its_stack_and_never_nothing() {
        let page = page_size();
        assert_eq!(guard_bytes(0), page);
        assert_eq!(guard_bytes(4 * page + 4), 2 * page);
        assert_eq!(guard_bytes(usize::MAX), LARGEST_GUARD.next_multiple_of(page));
    }
}
