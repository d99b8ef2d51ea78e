//! Forking, on systems that do not tell how many threads a process has: it is refused.

use std::io;

/// See the Linux form.
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

pub(super) fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "forking servers run on Linux only")
}

/// See the Linux form.
pub(crate) struct SignalsHeld;

impl SignalsHeld {
    pub(crate) fn hold() -> Self {
        Self
    }

    pub(crate) fn release_in_child(self) {}
}
