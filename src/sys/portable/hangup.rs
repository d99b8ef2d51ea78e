//! SIGHUP, on systems where this crate does not ask who has sent it: there it is always an order.
//!
//! The fields that name the sender differ among systems, and a wrong guess would end a server that was only told to read
//! its certificates again. A server there that has something to reload outlives its terminal; it ends by SIGTERM, or by
//! SIGINT.

use std::io;

use super::signal::{SignalGuard, on_signal};

/// The terminal of the start, of which nothing is known here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartTerminal;

impl StartTerminal {
    /// Does not look.
    pub(crate) fn look() -> Self {
        Self
    }
}

/// Runs `action` at each SIGHUP. Its argument is always false, because nothing shows here that the terminal has ended.
pub(crate) fn on_hangup(
    _terminal: StartTerminal,
    action: impl Fn(bool) + Send + Sync + 'static,
) -> io::Result<SignalGuard> {
    on_signal(libc::SIGHUP, move || action(false))
}
