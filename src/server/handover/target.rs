//! [`Target`]: names one of the sockets that a process hands over.

/// One of this process's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// That of a server, by its place among those of the run and those beside it.
    Server(usize),
    /// The one at which successors ask.
    Listener,
}
