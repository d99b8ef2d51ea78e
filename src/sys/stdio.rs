//! Standard input, output and error: open in this process, and all that a program inherits.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::rlimit::descriptor_limit;

/// Has a program begin with no descriptor of this process but its first three.
pub(crate) fn inherit_only_stdio(command: &mut Command) {
    // SAFETY: the closure makes system calls alone. It closes nothing, but marks what is to be closed by the exec, in a
    // child that has its own table of descriptors and comes to nothing else than that exec.
    unsafe { command.pre_exec(close_on_exec_from_3) };
}

/// The first descriptor that no program expects.
const FIRST: libc::c_int = 3;

/// [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html), where there is one (Linux 5.11).
#[cfg(target_os = "linux")]
fn close_on_exec_from_3() -> io::Result<()> {
    // SAFETY: three numbers; nothing is closed now.
    let marked = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if marked == 0 { Ok(()) } else { mark_each() }
}

#[cfg(not(target_os = "linux"))]
fn close_on_exec_from_3() -> io::Result<()> {
    mark_each()
}

/// One after the other, as far as the limit says that there may be any. One from before a limit that was lowered
/// since is not met.
fn mark_each() -> io::Result<()> {
    /// More than any process has that has not raised its limit for the sake of it.
    const MOST: libc::rlim_t = 1 << 20;
    let limit = descriptor_limit()?.rlim_cur.min(MOST);
    for fd in FIRST..libc::c_int::try_from(limit).unwrap_or(libc::c_int::MAX) {
        // SAFETY: numbers alone; one that is no descriptor is an error, which changes nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Opens what is closed of standard input, output and error, as std does when a program starts: a listener or a connection
/// that took one of these numbers would be written to by every `println!`. A program may have closed them since, to become
/// a daemon.
pub(crate) fn fill_standard_descriptors() {
    for number in 0..3 {
        // SAFETY: no pointers.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } != -1 {
            continue;
        }
        // It takes the lowest number that is free: those below are not. Without the file they stay closed. They stay
        // open across `exec`, as these three do.
        // SAFETY: the path is a string with a NUL at its end.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if fd > 2 {
            // Somebody else was faster, or has freed a lower one.
            drop(super::owned(fd));
        }
    }
}
