//! How much address space the process has left.
//!
//! `ulimit -v` bounds it. If none is left for a thread, or for the stack of a coroutine, that is an error, and one request is
//! refused. If none is left for anything else (an allocation, the signal stack of a new thread), the process ends. So threads
//! and stacks must leave some for the rest.
//!
//! The room is computed from the limit and from what is mapped. To map memory as a trial, and unmap it again, would take it from
//! the other threads for a moment.

use std::fs;
use std::io;

use super::check;

/// The bytes that threads and stacks leave for everything else: a thousand times as many as this crate allocates for a request.
pub(crate) const RESERVE: u64 = 8 << 20;

/// Checks that there is room for this many bytes and for [`RESERVE`]. Another thread may take the room in the next moment; the
/// reserve is large enough for several threads. Succeeds also if nothing bounds the process, or if the system does not tell
/// how much it has mapped.
///
/// # Errors
///
/// `OutOfMemory`, with a text that says what bounds the room.
pub(crate) fn check_room(bytes: usize) -> io::Result<()> {
    let Some(most) = most_bytes() else { return Ok(()) };
    let Some(mapped) = mapped_bytes() else { return Ok(()) };
    let needed = (bytes as u64).saturating_add(RESERVE);
    if needed <= most.saturating_sub(mapped) {
        return Ok(());
    }
    let text = format!(
        "of {most} bytes (ulimit -v) {mapped} are in use, and {RESERVE} are kept for other memory"
    );
    Err(io::Error::new(io::ErrorKind::OutOfMemory, text))
}

/// The limit of the process, in bytes. None if nothing bounds it, and under Miri, which does not have the call.
fn most_bytes() -> Option<u64> {
    if cfg!(miri) {
        return None;
    }
    let limit = limit().ok()?;
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as u64)
}

/// RLIMIT_AS. [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html)
fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure.
    check(unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) })?;
    Ok(limit)
}

/// How much the process has mapped, as the limit counts it. None without `/proc`, or without a free descriptor for it.
/// [proc_pid_statm(5)](https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html)
fn mapped_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').next()?.parse().ok()?;
    // SAFETY: no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.checked_mul(u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_limit_has_room_for_everything() {
        // A test runner may have a limit; the tests of `tests/it/address_space.rs` set their own.
        assert!(most_bytes().is_some() || check_room(usize::MAX).is_ok());
        if cfg!(linux_kernel) && !cfg!(miri) {
            assert!(mapped_bytes().unwrap() > 1 << 20);
        }
    }
}
