//! Standard input, output and error: open in this process, and the only descriptors that a program inherits.
//!
//! The numbers 0 to 2 have a meaning to every program, and the system gives the lowest free number to each new file.
//! So these numbers are filled before the first socket is made.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::rlimit::descriptor_limit;

/// Makes a program begin with the first three descriptors of this process and no others.
///
/// The other descriptors are marked as close-on-exec in the child, between fork and exec, where only calls that
/// signal-safety(7) allows may be made: other threads of the parent may have held any lock.
pub(crate) fn inherit_only_stdio(command: &mut Command) {
    // SAFETY: the closure only makes system calls. It closes nothing, but marks descriptors to be closed by the exec, in a
    // child that has its own table of descriptors and does nothing else before that exec.
    unsafe { command.pre_exec(close_on_exec_from_3) };
}

/// The first descriptor after the standard ones.
const FIRST_AFTER_STDIO: libc::c_int = 3;

/// Marks all descriptors from 3 on as close-on-exec, by
/// [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html) if the kernel can do so (Linux 5.11).
#[cfg(target_os = "linux")]
fn close_on_exec_from_3() -> io::Result<()> {
    // SAFETY: three numbers; nothing is closed now. A kernel without the call or without the flag refuses it, and so may a
    // filter. Then each descriptor is marked by itself.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_AFTER_STDIO,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if marked == 0 { Ok(()) } else { mark_each() }
}

#[cfg(not(target_os = "linux"))]
fn close_on_exec_from_3() -> io::Result<()> {
    mark_each()
}

/// Marks one number after the other, up to the limit. If the limit was lowered, descriptors above it are not marked.
fn mark_each() -> io::Result<()> {
    /// Bounds the time that this takes, where the limit is very high.
    const MAX_SCANNED_FDS: libc::rlim_t = 1 << 20;
    let limit = descriptor_limit()?.rlim_cur.min(MAX_SCANNED_FDS);
    for fd in FIRST_AFTER_STDIO..libc::c_int::try_from(limit).unwrap_or(libc::c_int::MAX) {
        // SAFETY: numbers alone; one that is no descriptor is an error, which changes nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Opens `/dev/null` for each of standard input, output and error that is closed, as std does when a program starts.
/// A program may have closed them since, to become a daemon. Without this a listener or a connection could get such a
/// number, and every `println!` would write to it.
pub(crate) fn fill_standard_descriptors() {
    for number in 0..3 {
        // SAFETY: no pointers.
        // It fails for a closed descriptor alone (EBADF).
        if unsafe { libc::fcntl(number, libc::F_GETFD) } != -1 {
            continue;
        }
        // The file gets the lowest free number, which is this one. It stays open across `exec`, as the standard descriptors
        // do. Where there is no such file, the standard descriptors stay closed.
        // SAFETY: the path is a string with a NUL at its end.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if fd > 2 {
            // Another thread has taken the number in the meantime.
            drop(super::owned(fd));
        }
    }
}
