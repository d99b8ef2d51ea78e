//! Hints to the processor.

/// Fetches the cache line at an address while the program goes on. It is only a hint: any address will do, and on
/// processors without such an instruction nothing happens.
///
/// A worker knows from one wait which coroutines it resumes next. While it runs one, it fetches the cache lines that the next
/// ones begin with; each would otherwise cost them a few hundred cycles (`mixin/green/registrations.rs`).
#[inline(always)]
pub(crate) fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = std::ptr::without_provenance::<i8>(address);
        // SAFETY: the instruction reads nothing for the program, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The size of a cache line, on the processors that have the instruction.
pub(crate) const CACHE_LINE: usize = 64;
