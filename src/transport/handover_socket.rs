//! [`HandoverSocket`]: a socket that another process can take over.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::predecessor_sockets::SocketDescription;

/// A server's socket that can be handed over to another process: see
/// [`Transport::handover`](super::Transport::handover). The transports of this crate have such a socket, and a
/// transport that wraps one of them passes it on. Nothing else can be done with this trait.
pub trait HandoverSocket: Send + Sync {
    /// The socket, and everything that the other process has to know of it. None if it is closed.
    #[doc(hidden)]
    fn describe(&self) -> Option<(SocketDescription, Arc<OwnedFd>)>;

    /// The number of the socket in the predecessor's list, if this process has it from a predecessor.
    #[doc(hidden)]
    fn inherited_as(&self) -> Option<usize>;

    /// Notes which processes have the socket from now on.
    #[doc(hidden)]
    fn set_holders(&self, holders: Holders);

    /// Removes the socket's file, if it has one and no process has the socket any more. Called when the socket is closed
    /// here, and the process that shared it has ended.
    #[doc(hidden)]
    fn remove_file_as_the_last(&self);
}

/// The processes that have a server's socket, as far as handovers are concerned.
///
/// ```text
///                passed to a successor                    it is ready
///   Alone ---------------------------------> Both ------------------------> Other
///         <---------------------------------     the old process only closes its descriptor
///           the successor has ended too early
///
///   the successor's own:                     Both ------------------------> Alone
///                                                the old process has closed it, or has ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holders {
    /// This process alone: a close ends the accept queue, and removes the name.
    Alone,
    /// This process and another one. A close may accept clients, but leaves the accept queue open. It removes the name only
    /// if the other process has closed the socket before.
    Both,
    /// The other process is responsible: a close leaves the clients in the queue to it.
    Other,
}
