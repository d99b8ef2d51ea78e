//! [`BaseServer`]: a server without its types.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{AcceptOutcome, DrainReport, Server};
use crate::address::Address;
use crate::context::ServerContext;
use crate::error::Result;
use crate::mixin::Mixin;
use crate::shutdown::ShutdownHandle;
use crate::transport::Transport;

/// A server without its types, for a `Vec<Box<dyn BaseServer>>` of different servers.
///
/// The methods are those of [`Server`], which has them without this trait. An [`Arc`] or a [`Box`] of a server is a
/// `BaseServer` as well, so that a program can keep a clone of a server that runs beside others:
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
    /// As there.
    fn serve_forever(&self) -> Result<()>;

    /// See [`Server::handle_request`].
    ///
    /// # Errors
    ///
    /// As there.
    fn handle_request(&self) -> Result<AcceptOutcome>;

    /// See [`Server::shutdown`].
    fn shutdown(&self);

    /// See [`Server::server_close`].
    fn server_close(&self) -> DrainReport;

    /// See [`Server::server_close_within`].
    fn server_close_within(&self, grace: Duration) -> DrainReport;

    /// See [`Server::server_address`].
    fn server_address(&self) -> Address;

    /// See [`Server::fileno`].
    fn fileno(&self) -> Option<Arc<OwnedFd>>;

    /// See [`Server::shutdown_handle`].
    fn shutdown_handle(&self) -> ShutdownHandle;

    /// See [`Server::context`].
    fn context(&self) -> &ServerContext;

    /// Whether its mixin forks, so that it has to run in a process with a single thread.
    fn forks(&self) -> bool;
}

impl<T: Transport, M: Mixin> BaseServer for Server<T, M> {
    fn serve_forever(&self) -> Result<()> {
        self.serve_forever()
    }

    fn handle_request(&self) -> Result<AcceptOutcome> {
        self.handle_request()
    }

    fn shutdown(&self) {
        self.shutdown();
    }

    fn server_close(&self) -> DrainReport {
        self.server_close()
    }

    fn server_close_within(&self, grace: Duration) -> DrainReport {
        self.server_close_within(grace)
    }

    fn server_address(&self) -> Address {
        self.server_address()
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.fileno()
    }

    fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown_handle()
    }

    fn context(&self) -> &ServerContext {
        self.context()
    }

    fn forks(&self) -> bool {
        self.mixin().forks()
    }
}

/// Passes every method on to the server inside.
macro_rules! pass_on {
    ($($pointer:ident),*) => {$(
        impl<S: BaseServer + ?Sized> BaseServer for $pointer<S> {
            fn serve_forever(&self) -> Result<()> {
                (**self).serve_forever()
            }

            fn handle_request(&self) -> Result<AcceptOutcome> {
                (**self).handle_request()
            }

            fn shutdown(&self) {
                (**self).shutdown();
            }

            fn server_close(&self) -> DrainReport {
                (**self).server_close()
            }

            fn server_close_within(&self, grace: Duration) -> DrainReport {
                (**self).server_close_within(grace)
            }

            fn server_address(&self) -> Address {
                (**self).server_address()
            }

            fn fileno(&self) -> Option<Arc<OwnedFd>> {
                (**self).fileno()
            }

            fn shutdown_handle(&self) -> ShutdownHandle {
                (**self).shutdown_handle()
            }

            fn context(&self) -> &ServerContext {
                (**self).context()
            }

            fn forks(&self) -> bool {
                (**self).forks()
            }
        }
    )*};
}

pass_on!(Arc, Box);
