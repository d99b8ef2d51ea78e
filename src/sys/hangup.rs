//! SIGHUP, and whether it tells of the end of the terminal that this process was started from.
//!
//! SIGHUP has two meanings. An operator sends it to have a server read its configuration again. The system sends it when a
//! terminal ends: a window is closed, or the network of an ssh session is gone.
//!
//! ```text
//! the terminal ends -> the kernel:  to the first process of the session, and to the group in its foreground
//!                   -> the shell:   passes it on to its jobs, and ends
//!                   -> sudo, say:   passes it on to its program
//! kill -HUP         -> any other process
//! ```
//!
//! Three signs together distinguish the end of a terminal from an order. The process had a controlling
//! terminal at its start; it has none now; and the sender is the kernel, the first process of the session, or the parent.
//! Without the third sign a server that was started from a shell and left to itself (`disown`) could never again be told
//! to read its certificates.

use std::io;

use super::check;
use super::signal::{SignalGuard, on_signal_with_info};

/// The terminal that this process was started from, if there was one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartTerminal {
    /// The first of the three signs: there was a controlling terminal at the start. It never changes: a terminal that is
    /// acquired later has not started this server.
    was_there: bool,
}

impl StartTerminal {
    /// Looks for the terminal. Called when the server begins.
    pub(crate) fn look() -> Self {
        Self { was_there: is_there() == Some(true) }
    }

    /// Whether this signal tells of the terminal's end. For signal handlers.
    fn is_its_end(self, info: &libc::siginfo_t) -> bool {
        self.was_there && is_from_terminal(info) && is_there() == Some(false)
    }
}

/// Runs `action` at each SIGHUP, as [`on_signal`](super::on_signal) does. Its argument is whether the terminal has ended.
pub(crate) fn on_hangup(
    terminal: StartTerminal,
    action: impl Fn(bool) + Send + Sync + 'static,
) -> io::Result<SignalGuard> {
    on_signal_with_info(libc::SIGHUP, move |info| action(terminal.is_its_end(info)))
}

/// Whether this process has a controlling terminal. None: the system does not tell, as when no descriptor is free.
///
/// [tty(4)](https://man7.org/linux/man-pages/man4/tty.4.html), [open(2)](https://man7.org/linux/man-pages/man2/open.2.html)
fn is_there() -> Option<bool> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the path ends with a NUL. Both calls may be made in a signal's handler, and this function owns the descriptor.
    match check(unsafe { libc::open(c"/dev/tty".as_ptr(), flags) }) {
        Ok(fd) => {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
            Some(true)
        }
        // EIO: the terminal is ending at this moment.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::EIO)) => Some(false),
        Err(_) => None,
    }
}

/// Whether a signal comes from the kernel, from the first process of the session, or from the parent.
///
/// SI_KERNEL has no sender. SI_USER is kill(2), for which the kernel notes the sender.
fn is_from_terminal(info: &libc::siginfo_t) -> bool {
    if info.si_code == libc::SI_KERNEL {
        return true;
    }
    // SAFETY: the first call reads a field of `info`, which holds the sender's number if a process has sent the signal. The other
    // two calls have no conditions.
    let (sender, first, parent) = unsafe { (info.si_pid(), libc::getsid(0), libc::getppid()) };
    info.si_code == libc::SI_USER && (sender == first || sender == parent)
}
