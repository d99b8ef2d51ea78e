//! How the parts become a server: over an address, a socket that is bound, or a transport of one's own.
//!
//! ```text
//! bind            unbound transport, make, server_bind, server_activate
//! build_unbound   unbound transport, make; the program calls the other two
//! from_fd         transport over the socket, make, server_activate
//! with_transport  make, server_bind, server_activate
//! ```
//!
//! The socket is made before the server, and owned by it from `make` on: an error in a later step drops both.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use super::{Builder, Settings};
use crate::bind_address::BindAddress;
use crate::console;
use crate::error::{Error, Result};
use crate::handler::{self, MakeHandler};
use crate::mixin::Mixin;
use crate::process::Role;
use crate::server::accept_loop::Timing;
use crate::server::drain_backlog::Backlog;
use crate::server::figure_parts::FigureParts;
use crate::server::parked_listener::ParkedListener;
use crate::server::phase_queue::PhaseQueue;
use crate::server::worker_accept::WorkerAcceptor;
use crate::server::{Core, Server, fork};
use crate::server_context::ServerContext;
use crate::sys;
use crate::transport::{Bind, Transport};

impl<T: Transport, M: Mixin> Builder<T, M> {
    /// Makes the server over a custom transport, binds it and begins to listen.
    ///
    /// # Errors
    ///
    /// The errors of the transport; or if a setting is out of range.
    pub fn with_transport<How: 'static>(
        self,
        transport: T,
        handler: impl MakeHandler<T::Request, How>,
    ) -> Result<Server<T, M>> {
        listening(self.make(transport, handler)?)
    }

    /// Puts the parts together. It binds nothing, and does not listen yet.
    ///
    /// # Errors
    ///
    /// If a setting of the mixin is out of range, or there is no descriptor for the server's events. Nothing of the process
    /// has changed then.
    fn make<How: 'static>(
        self,
        transport: T,
        handler: impl MakeHandler<T::Request, How>,
    ) -> Result<Server<T, M>> {
        let Self { mixin, settings } = self;
        let Settings { hooks, overridden_hooks, prefaces, limits, timeout, .. } = settings;
        // Checked before anything is made that an error would have to undo.
        mixin.check()?;
        let address = transport.server_address();
        // The role holds for the life of the server. It says whether the server may start threads, and whether it has
        // children.
        let role = if mixin.forks() { Role::Parent } else { Role::Alone };
        let waits = mixin.block_on_close();
        let mut context =
            ServerContext::new(address.clone(), limits, role, waits, transport.name())
                .map_err(|error| Error::io("make the events of", address, error))?;
        context.reloads = settings.reloads;
        let context = Arc::new(context);
        let observers = settings.observers.into_iter().map(|make| make(&context)).collect();
        let worker_acceptor =
            WorkerAcceptor::new(mixin.workers_accept() && settings.workers_accept);
        let core = Arc::new(Core {
            transport,
            handler_name: handler.handler_name(),
            factory: handler::boxed(handler),
            hooks,
            overridden_hooks,
            phases: PhaseQueue::default(),
            observers,
            spans: settings.spans,
            times_accept_queue: settings.times_accept_queue,
            prefaces,
            context,
            worker_acceptor,
            parked_listener: ParkedListener::default(),
            backlog: Backlog::default(),
            lent: AtomicBool::new(false),
            lame_duck_is_begun: AtomicBool::new(false),
            closed_late: AtomicBool::new(false),
            mixin_closed_late: AtomicBool::new(false),
            coordinator: OnceLock::new(),
        });
        // From here on a child that another server forks closes this server's sockets. The server is registered before it
        // binds, so that such a child never keeps a port in use.
        fork::register(&core);
        // The console opens its descriptor of a terminal now: reports have to be written even when no descriptor is left.
        console::prepare();
        let mixin = Arc::new(mixin);
        // Weak: the context is a part of the core, and must not keep it.
        let parts = FigureParts { core: Arc::downgrade(&core), mixin: Arc::downgrade(&mixin) };
        core.context.set_figures(Box::new(parts));
        let Settings { idle_limit, poll_interval, .. } = settings;
        Ok(Server { core, mixin, timing: Timing { timeout, idle_limit, poll_interval } })
    }
}

/// The last two steps, which a program may also take by itself. On an error the server is dropped, and with it the socket.
fn listening<T: Transport, M: Mixin>(server: Server<T, M>) -> Result<Server<T, M>> {
    server.server_bind()?;
    server.server_activate()?;
    Ok(server)
}

impl<T: Bind, M: Mixin> Builder<T, M> {
    /// Makes the server, binds it and begins to listen: [`Server::bind`] with these settings.
    ///
    /// # Errors
    ///
    /// If the address cannot be understood or is not available, or if a setting is out of range; the error names that
    /// setting. No descriptor is left open.
    pub fn bind<How: 'static>(
        self,
        address: impl Into<BindAddress>,
        handler: impl MakeHandler<T::Request, How>,
    ) -> Result<Server<T, M>> {
        listening(self.build_unbound(address, handler)?)
    }

    /// Makes the server and its socket, and leaves `server_bind` and `server_activate` to the caller:
    /// Python's `bind_and_activate=False`.
    ///
    /// # Errors
    ///
    /// If the address cannot be understood, if there is no descriptor, or if a setting is out of range.
    #[doc(alias = "bind_and_activate")]
    pub fn build_unbound<How: 'static>(
        self,
        address: impl Into<BindAddress>,
        handler: impl MakeHandler<T::Request, How>,
    ) -> Result<Server<T, M>> {
        // `Builder::new` has done this too, but the program may have closed a standard stream since then.
        sys::fill_standard_descriptors();
        let transport = T::unbound(&address.into(), &self.settings.options)?;
        self.make(transport, handler)
    }

    /// Makes the server over a socket that is already bound: a `std` listener, or a descriptor from another process.
    /// The server owns it, makes it non-blocking, and sets its timeouts and backlog.
    ///
    /// # Errors
    ///
    /// If the descriptor is not a socket of this transport's kind and family, if it cannot listen, or if it is a
    /// datagram socket without an address. (If a TCP socket is not bound, the system gives it a port.)
    pub fn from_fd<How: 'static>(
        self,
        fd: impl Into<OwnedFd>,
        handler: impl MakeHandler<T::Request, How>,
    ) -> Result<Server<T, M>> {
        let transport = T::from_fd(fd.into(), &self.settings.options)?;
        let server = self.make(transport, handler)?;
        // There is no bind, which would set the address.
        server.core.context.set_address(server.core.transport.server_address());
        server.server_activate()?;
        Ok(server)
    }
}
