//! Children of this process: how one has ended, and signals to one. Each of these calls touches only the child that
//! it was asked about; `waitpid(-1)` would take the statuses of `std::process::Command`. All of it is POSIX, and the same on
//! every system. A handover needs it even where `Forking` is refused, to end a failed successor.
//!
//! ```text
//! runs -> has ended: a waitid(2) with WNOWAIT says so each time -> reaped: the number is free for another process
//! ```

use std::io;

use super::{check, uninterrupted};

/// The state of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildState {
    /// The child has not ended, or is stopped.
    Running,
    /// The child has ended by itself, with this status (0 to 255).
    Exited(i32),
    /// The signal of this number has ended the child.
    Killed(i32),
    /// There is no such child any more (ECHILD): another part of the program has reaped it, or the kernel has.
    Gone,
}

/// Reaps a child, if it has ended. [waitpid(2)](https://man7.org/linux/man-pages/man2/waitpid.2.html)
///
/// The call names one child by its number, and so takes no other child's status. After `Exited` or `Killed` the number
/// must not be used any more.
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

/// A child that has ended, whether this server or another part of the program has started it. None if no child has ended.
/// This call does not reap.
///
/// The answer stays the same until that child is reaped. So a caller that leaves the child alone must not ask again
/// in a loop.
pub(crate) fn ended_child() -> Option<i32> {
    ended(libc::P_ALL, 0).ok().filter(|pid| *pid != 0)
}

/// Sends a signal to a child. False if the child has been reaped: its number may belong to another process by then.
///
/// [kill(2)](https://man7.org/linux/man-pages/man2/kill.2.html). A child keeps its number until it is reaped, also when it
/// ends between the check and the signal.
pub(crate) fn signal(child: i32, signal: libc::c_int) -> bool {
    let is_running = |id| ended(libc::P_PID, id).is_ok_and(|pid| pid == 0);
    libc::id_t::try_from(child).is_ok_and(is_running) && {
        // SAFETY: no pointers.
        unsafe { libc::kill(child, signal) == 0 }
    }
}

/// The number of one child that has ended, among the children that `of` and `id` select. Zero if all of them run.
/// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html)
///
/// WNOWAIT leaves the child to [`reap`], and WNOHANG makes the call return at once. If there are no such children, it fails
/// (ECHILD).
fn ended(of: libc::idtype_t, id: libc::id_t) -> io::Result<i32> {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a valid siginfo_t, and the pointer is to a live one. The call fills it in if such a child has ended,
    // and otherwise leaves it as it is.
    unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        check(libc::waitid(of, id, &raw mut info, how))?;
        Ok(info.si_pid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_signal_reaches_a_child_until_it_is_reaped() {
        let mut command = Command::new("cat");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let number = i32::try_from(child.id()).unwrap();
        assert_eq!(reap(number), ChildState::Running);
        assert!(signal(number, libc::SIGTERM));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(!signal(number, libc::SIGTERM) && reap(number) == ChildState::Gone);
    }
}
