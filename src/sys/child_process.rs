//! Children of this process: how one has ended, and signals to one. None of these calls touches a child that it was not
//! asked about, as `waitpid(-1)` would: the statuses of `std::process::Command` are for others.
//!
//! ```text
//! runs -> has ended: WNOWAIT tells, as often as it is asked -> reaped: the number is free for another process
//! ```

use std::io;

use super::{check, uninterrupted};

/// The state of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildState {
    /// It has not ended, or is stopped.
    Running,
    /// It has ended by itself, with this status (0 to 255).
    Exited(i32),
    /// A signal, of this number, has ended it.
    Killed(i32),
    /// Another part of the program has waited for it, or the kernel has.
    ///
    /// There is no such child (ECHILD).
    Gone,
}

/// Reaps a child, if it has ended. [waitpid(2)](https://man7.org/linux/man-pages/man2/waitpid.2.html)
pub(crate) fn reap(child: i32) -> ChildState {
    // WNOHANG: the accept loop calls this, and must not wait for a child.
    let mut status = 0;
    // SAFETY: the pointer is to a live int.
    match uninterrupted(|| check(unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) })) {
        Ok(0) => ChildState::Running,
        Ok(_) if libc::WIFEXITED(status) => ChildState::Exited(libc::WEXITSTATUS(status)),
        Ok(_) => ChildState::Killed(libc::WTERMSIG(status)),
        Err(_) => ChildState::Gone,
    }
}

/// A child that has ended, this server's or a foreign one; it is not reaped by this. None, if there is none.
///
/// The answer is the same until that child is reaped, so a caller that leaves it alone must not ask again in a loop.
pub(crate) fn ended_child() -> Option<i32> {
    ended(libc::P_ALL, 0).ok().filter(|pid| *pid != 0)
}

/// Sends a signal to a child. False if it has ended: the number of a child that has been reaped may be a stranger's.
///
/// [kill(2)](https://man7.org/linux/man-pages/man2/kill.2.html). A child keeps its number until it is reaped, also
/// when it ends between the look and the signal.
pub(crate) fn signal(child: i32, signal: libc::c_int) -> bool {
    let is_running = |id| ended(libc::P_PID, id).is_ok_and(|pid| pid == 0);
    libc::id_t::try_from(child).is_ok_and(is_running) && {
        // SAFETY: no pointers.
        unsafe { libc::kill(child, signal) == 0 }
    }
}

/// The number of an ended child among those that are asked for; zero if all run.
/// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html)
///
/// WNOWAIT leaves a child that has ended to [`reap`], WNOHANG leaves the number zero if none has. If there are no such
/// children, it is an error (ECHILD).
fn ended(of: libc::idtype_t, id: libc::id_t) -> io::Result<i32> {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a valid siginfo_t, which the call fills in if there is such a child, and leaves
    // otherwise; the pointer is to a live one.
    unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        check(libc::waitid(of, id, &raw mut info, how))?;
        Ok(info.si_pid())
    }
}
