//! Forking, on systems that do not tell how many threads a process has: it is refused.
//!
//! A fork itself would work there. But the child of a process with other threads may hang in a lock that nobody holds any
//! more, and `Forking` promises that this does not happen. So `Forking` is refused, before the first client, with an error
//! that names the system on which it runs.

use std::io;

/// See the form for Linux, in `sys/fork.rs`.
#[expect(dead_code, reason = "nothing is forked")]
pub(crate) enum Forked {
    Parent { child: i32 },
    Child,
}

/// Refuses: only a process that is known to have one thread may be forked.
pub(crate) fn fork() -> io::Result<Forked> {
    Err(unsupported())
}

/// Refuses, as `fork` does.
pub(crate) fn no_other_threads() -> io::Result<()> {
    Err(unsupported())
}

/// The one error of `fork.rs` and `exit_watch.rs` here.
pub(super) fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "forking servers run on Linux only")
}

/// See the form for Linux, in `sys/fork.rs`.
pub(crate) struct SignalsHeld;

impl SignalsHeld {
    /// Holds nothing back: there will be no child.
    pub(crate) fn hold() -> Self {
        Self
    }

    /// Never called.
    pub(crate) fn release_in_child(self) {}
}
