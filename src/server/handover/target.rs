//! [`Target`]: names one of the sockets that a process hands over.

/// One of this process's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The socket of a server, by the server's place among those of the run and those beside it.
    Server(usize),
    /// The socket at which successors ask.
    Listener,
}
