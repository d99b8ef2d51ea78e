//! Address space that the process still has room for.
//!
//! `ulimit -v` bounds it. A thread or a stack that finds none is an error, and refuses one request. Anything else that finds
//! none ends the process: an allocation, the signal stack of a new thread. So threads and stacks must not take the last of it.
//!
//! The room is computed. To map a piece and unmap it again would tell as much, but for a moment take it from the other threads.

use std::fs;
use std::io;

use super::check;

/// Threads and stacks leave this to everything else: a thousand times as much as a request of this crate allocates by itself.
pub(crate) const RESERVE: u64 = 8 << 20;

/// Whether there is room for so many bytes and [`RESERVE`]. Another thread may take it in the next moment; the reserve is
/// large enough for several. True also where nothing bounds the process, or nobody knows how much it has.
///
/// # Errors
///
/// Of the kind `OutOfMemory`. It says what bounds the room.
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

/// The limit of the process. None: nothing bounds it; or it is under Miri, which does not have the call.
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
        // A test runner may have one; the tests of `tests/it/address_space.rs` set theirs.
        assert!(most_bytes().is_some() || check_room(usize::MAX).is_ok());
        if cfg!(linux_kernel) && !cfg!(miri) {
            assert!(mapped_bytes().unwrap() > 1 << 20);
        }
    }
}
