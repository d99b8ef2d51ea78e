//! The monotonic clock as a number, which std does not give out.

/// Microseconds of CLOCK_MONOTONIC. [clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html)
///
/// For signal handlers, which may not rely on `Instant`, for an atomic that holds a time, and for the messages to
/// systemd, which wants this number. The clock stands still while the machine is suspended.
pub(crate) fn monotonic_micros() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live structure. The call cannot fail for this clock; if it did, the time would be zero.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1_000
}
