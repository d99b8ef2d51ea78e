//! The monotonic clock as a number, which std keeps to itself.

/// Microseconds of CLOCK_MONOTONIC. [clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html)
pub(crate) fn monotonic_micros() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live structure. The call cannot fail for this clock; the time would then be zero.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let micros = now.tv_sec as i64 * 1_000_000 + now.tv_nsec as i64 / 1_000;
    u64::try_from(micros).unwrap_or(0)
}
