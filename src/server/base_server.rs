//! [`BaseServer`]: a server without its types.
//!
//! The trait has the methods that do not depend on transport, mixin and handler. `run_all` and handovers use servers
//! through it. They claim a server's runs through its shutdown handle, so that a program may implement `BaseServer` by
//! passing the calls on to a server of this crate.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{AcceptOutcome, DrainReport, Server};
use crate::address::Address;
use crate::error::Result;
use crate::mixin::Mixin;
use crate::server_context::ServerContext;
use crate::shutdown::ShutdownHandle;
use crate::transport::Transport;

/// A server without its types, for a `Vec<Box<dyn BaseServer>>` of different servers.
///
/// The methods are those of [`Server`], which has them without this trait. An [`Arc`] or a [`Box`] of a server is a
/// `BaseServer` as well, so that a program can keep a clone of the `Arc` while the server runs beside others:
///
/// ```no_run
/// use std::sync::Arc;
/// use std::time::Duration;
/// use socketserver::{BaseServer, TcpServer, run_all, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// let server = Arc::new(TcpServer::bind("127.0.0.1:9999", stream_fn(|_request| Ok(())))?);
/// let servers: Vec<Box<dyn BaseServer>> = vec![Box::new(Arc::clone(&server))];
/// run_all(&servers, Duration::from_secs(10), || ())?;
/// println!("{} served", server.context().counts().completed);
/// # Ok(())
/// # }
/// ```
pub trait BaseServer: Send + Sync {
    /// See [`Server::serve_forever`].
    ///
    /// # Errors
    ///
    /// Those of [`Server::serve_forever`].
    fn serve_forever(&self) -> Result<()>;

    /// See [`Server::handle_request`].
    ///
    /// # Errors
    ///
    /// Those of [`Server::handle_request`].
    fn handle_request(&self) -> Result<AcceptOutcome>;

    /// See [`Server::shutdown`].
    fn shutdown(&self);

    /// See [`Server::server_close`].
    fn server_close(&self) -> DrainReport;

    /// See [`Server::server_close_within`].
    fn server_close_within(&self, grace: Duration) -> DrainReport;

    /// See [`Server::reload`]. The default does nothing.
    fn reload(&self) {}

    /// See [`Server::server_address`].
    fn server_address(&self) -> Address;

    /// See [`Server::fileno`].
    fn fileno(&self) -> Option<Arc<OwnedFd>>;

    /// See [`Server::shutdown_handle`].
    fn shutdown_handle(&self) -> ShutdownHandle;

    /// See [`Server::context`].
    fn context(&self) -> &ServerContext;

    /// Whether the server's mixin forks, so that the server has to run in a process with a single thread.
    fn forks(&self) -> bool;
}

/// Passes every method on to a server. In the implementation for `Server`, each call finds the method of the type
/// itself, which takes precedence over the trait's. The other implementations dereference: otherwise each method would
/// call itself.
macro_rules! pass_on {
    ($this:ident => $server:expr, $forks:expr) => {
        fn serve_forever(&$this) -> Result<()> {
            $server.serve_forever()
        }

        fn handle_request(&$this) -> Result<AcceptOutcome> {
            $server.handle_request()
        }

        fn shutdown(&$this) {
            $server.shutdown();
        }

        fn server_close(&$this) -> DrainReport {
            $server.server_close()
        }

        fn server_close_within(&$this, grace: Duration) -> DrainReport {
            $server.server_close_within(grace)
        }

        fn reload(&$this) {
            $server.reload();
        }

        fn server_address(&$this) -> Address {
            $server.server_address()
        }

        fn fileno(&$this) -> Option<Arc<OwnedFd>> {
            $server.fileno()
        }

        fn shutdown_handle(&$this) -> ShutdownHandle {
            $server.shutdown_handle()
        }

        fn context(&$this) -> &ServerContext {
            $server.context()
        }

        fn forks(&$this) -> bool {
            $forks
        }
    };
}

impl<T: Transport, M: Mixin> BaseServer for Server<T, M> {
    pass_on!(self => self, self.mixin().forks());
}

impl<S: BaseServer + ?Sized> BaseServer for Arc<S> {
    pass_on!(self => (**self), (**self).forks());
}

impl<S: BaseServer + ?Sized> BaseServer for &S {
    pass_on!(self => (**self), (**self).forks());
}

impl<S: BaseServer + ?Sized> BaseServer for Box<S> {
    pass_on!(self => (**self), (**self).forks());
}
