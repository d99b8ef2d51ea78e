//! [`Builder`]: the settings of a server.
//!
//! A setter only keeps its value, or the nearest possible one. All checks are made when the server is made
//! (`builder/assembly.rs`), so that the order of the setters does not matter and `bind` returns every error.

mod assembly;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::hooks::{DefaultHooks, ServerHooks};
use super::overridden_hooks::OverriddenHooks;
use super::spans::Spans;
use crate::error::HandlerResult;
use crate::events::ServerEvent;
use crate::limits::Limits;
use crate::mixin::Mixin;
use crate::proxy_protocol::ProxyProtocol;
use crate::request::{PrefacePlace, Prefaces, ProxyHeader, StreamRequest};
use crate::server_context::{Reloads, ServerContext};
use crate::sys;
use crate::transport::{SocketOptions, Transport};

/// Settings for a server. Each has a default: `builder().bind(..)` does the same as `bind(..)`.
///
/// | setting | default |
/// |---|---|
/// | [`mixin`](Self::mixin) | that of the alias, with its own defaults |
/// | [`limits`](Self::limits) | [`Limits::default`] |
/// | [`hooks`](Self::hooks), [`observer`](Self::observer) | none |
/// | [`time_accept_queue`](Self::time_accept_queue) | false |
/// | `tls`: feature of this name | no TLS |
/// | `metrics`, `tracing`: features of these names | figures and spans go nowhere |
/// | [`on_reload`](Self::on_reload) | nothing: SIGHUP stops the server |
/// | [`socket_options`](Self::socket_options) | [`SocketOptions::default`] |
/// | [`timeout`](Self::timeout), [`poll_interval`](Self::poll_interval) | none: no timeout, no ticks |
/// | [`stop_when_idle`](Self::stop_when_idle) | never |
/// | [`proxy_protocol`](Self::proxy_protocol) | no PROXY header is read |
/// | [`workers_accept`](Self::workers_accept) | true |
///
/// ```no_run
/// use std::time::Duration;
/// use socketserver::{stream_fn, Pool, SocketOptions, TcpServer};
///
/// # fn main() -> socketserver::Result<()> {
/// let server = TcpServer::builder()
///     .mixin(Pool::new(8))
///     .socket_options(SocketOptions::default().request_queue_size(512))
///     .timeout(Duration::from_secs(5))
///     .bind("[::]:9999", stream_fn(|_request| Ok(())))?;
/// # drop(server); Ok(())
/// # }
/// ```
pub struct Builder<T: Transport, M> {
    /// The mixin, which is checked when the server is made, and not by its setter.
    mixin: M,
    /// All other settings, kept apart from the mixin so that `mixin` can change the type of the builder and keep the
    /// settings.
    settings: Settings<T>,
}

/// Makes an observer when the server is made.
pub(super) type MakeObserver = Box<dyn FnOnce(&Arc<ServerContext>) -> super::Observer + Send>;

/// All settings but the mixin, whose type may change.
struct Settings<T: Transport> {
    /// The hooks, boxed at once: their type is not part of the server's type.
    hooks: Box<dyn ServerHooks<T::Request>>,
    /// The facts that follow from the type of the hooks, which is lost in the box.
    overridden_hooks: OverriddenHooks,
    /// Whether workers may accept. Takes effect only if the mixin allows it too.
    workers_accept: bool,
    /// The makers of the observers, in the order in which these are called. Observers are made late, because some need
    /// the server's context.
    observers: Vec<MakeObserver>,
    /// Whether requests have spans: the feature `tracing`.
    spans: Spans,
    times_accept_queue: bool,
    /// The PROXY header and TLS, each at most once.
    prefaces: Prefaces<T::Request>,
    reloads: Reloads,
    limits: Limits,
    /// How long `handle_request` waits; `serve_forever` ignores it.
    timeout: Option<Duration>,
    /// The time between two ticks of `serve_forever`. `handle_request` ignores this and `idle_limit`.
    poll_interval: Option<Duration>,
    idle_limit: Option<Duration>,
    /// The options of the socket, for `T::unbound` and `T::from_fd`; `with_transport` ignores them.
    options: SocketOptions,
}

impl<T: Transport, M: Mixin> Builder<T, M> {
    /// Settings for a server with this mixin; `Server::builder` is the shorter way.
    #[must_use]
    pub fn new(mixin: M) -> Self {
        // Done before any event or socket is made, which could get the number of a closed standard stream.
        sys::fill_standard_descriptors();
        let settings = Settings {
            hooks: Box::new(DefaultHooks),
            overridden_hooks: OverriddenHooks::of::<DefaultHooks>(),
            workers_accept: true,
            observers: Vec::new(),
            spans: Spans::default(),
            times_accept_queue: false,
            prefaces: Prefaces::default(),
            reloads: Reloads::default(),
            limits: Limits::default(),
            timeout: None,
            poll_interval: None,
            idle_limit: None,
            options: SocketOptions::default(),
        };
        Self { mixin, settings }
    }

    /// Sets where requests run. The type of the mixin may differ from the alias, for example a `Box<dyn Mixin>` chosen
    /// by a command-line option.
    #[must_use]
    pub fn mixin<N: Mixin>(self, mixin: N) -> Builder<T, N> {
        Builder { mixin, settings: self.settings }
    }

    /// Overrides steps of the server: see [`ServerHooks`]. Default: none.
    #[must_use]
    pub fn hooks<H: ServerHooks<T::Request>>(mut self, hooks: H) -> Self {
        // The type of the hooks is known only here.
        self.settings.hooks = Box::new(hooks);
        self.settings.overridden_hooks = OverriddenHooks::of::<H>();
        self
    }

    /// Sets whether an idle worker may accept the next request by itself, instead of being woken by the loop. This
    /// saves a fifth of the time of a short connection. Default: true, if the mixin [allows it](Mixin::workers_accept)
    /// and no [hook](ServerHooks::verify_request) has to run in the loop.
    ///
    /// This relies on the order in which Linux wakes the waiters of one listener (`EPOLLEXCLUSIVE`). On a kernel with a
    /// different order no client is lost, but some are accepted later.
    #[must_use]
    pub fn workers_accept(mut self, allow: bool) -> Self {
        self.settings.workers_accept = allow;
        self
    }

    /// Calls a function with every [`ServerEvent`]. Default: none. Each call of this setter adds an observer; the
    /// observers are called in the order in which they were added.
    ///
    /// The loop or a worker calls the function and waits for it, so it has to be quick. Under `Forking` it is called in
    /// the parent and never in a child.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use socketserver::monitor::ServerEvent;
    /// use socketserver::{stream_fn, ThreadingTcpServer};
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let bytes = Arc::new(AtomicU64::new(0));
    /// let sum = Arc::clone(&bytes);
    /// let server = ThreadingTcpServer::builder()
    ///     .observer(move |event| {
    ///         if let ServerEvent::RequestEnded { bytes_out, .. } = event {
    ///             sum.fetch_add(*bytes_out, Ordering::Relaxed);
    ///         }
    ///     })
    ///     .bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
    /// # drop(server); Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn observer(self, observer: impl Fn(&ServerEvent<'_>) + Send + Sync + 'static) -> Self {
        // This observer gets everything with each event, and needs no context.
        self.observer_of(Box::new(|_context| Box::new(observer)))
    }

    /// Gives each request a span.
    #[cfg(feature = "tracing")]
    pub(super) fn with_spans(mut self, spans: Spans) -> Self {
        self.settings.spans = spans;
        self
    }

    /// Adds an observer that needs the server's context, which is made later.
    pub(super) fn observer_of(mut self, make: MakeObserver) -> Self {
        self.settings.observers.push(make);
        self
    }

    /// Asks the kernel how long each TCP connection has waited to be accepted, for
    /// [`RequestTimes::in_accept_queue`](crate::monitor::RequestTimes::in_accept_queue). The time grows when the server
    /// holds clients back (`Limits::live`, a full pool) or has too few processors. Default: false, because it costs a
    /// system call for each connection. Only Linux reports this time, and only for TCP.
    #[must_use]
    pub fn time_accept_queue(mut self, ask: bool) -> Self {
        self.settings.times_accept_queue = ask;
        self
    }

    /// Runs a function for each SIGHUP that comes while [`run`](crate::Server::run) or [`run_all`](fn@super::run_all) serves: to
    /// read a configuration or certificates again, or to open a log anew. Default: none, and then SIGHUP stops the server, as
    /// SIGTERM does. Each call of this setter adds a function; the functions run in the order in which they were added.
    ///
    /// The function runs beside the requests, on the thread that waits for the end of the run, so it may take its time.
    /// (Under [`Forking`](crate::Forking) it runs in the loop, between two requests; children that already run keep what
    /// they have.)
    /// Several SIGHUPs that come while it runs lead to one more call. Once a close has begun there is no call: a SIGHUP
    /// in the [lame duck](field@crate::Limits::lame_duck) or in the drain reloads nothing, and does no harm. (Under
    /// `Forking` the loop still reloads in the lame duck.) [`Server::reload`](crate::Server::reload) does the same
    /// without a signal.
    ///
    /// An error goes to the hook [`warning`](ServerHooks::warning), and the server goes on as it was; an observer gets
    /// [`ServerEvent::Reloaded`]. A SIGHUP that the process ignores when `run` begins (as under `nohup`) stays ignored.
    ///
    /// The end of a terminal also causes a SIGHUP. If the program was started from a terminal that has ended (a closed
    /// window, a lost ssh session), SIGHUP stops the server instead.
    ///
    /// ```no_run
    /// use std::io::Write;
    /// use std::sync::{Arc, RwLock};
    /// use socketserver::{ThreadingTcpServer, stream_fn};
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let greeting = Arc::new(RwLock::new(std::fs::read_to_string("greeting")?));
    /// let shown = Arc::clone(&greeting);
    /// let server = ThreadingTcpServer::builder()
    ///     .on_reload(move |_server| {
    ///         let text = std::fs::read_to_string("greeting")?;
    ///         *greeting.write().unwrap() = text;
    ///         Ok(())
    ///     })
    ///     .bind("127.0.0.1:9999", stream_fn(move |request| {
    ///         Ok(request.write_all(shown.read().unwrap().as_bytes())?)
    ///     }))?;
    /// server.run()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "SIGHUP")]
    pub fn on_reload(
        mut self,
        reload: impl Fn(&ServerContext) -> HandlerResult + Send + Sync + 'static,
    ) -> Self {
        self.settings.reloads.0.push(Box::new(reload));
        self
    }

    /// Sets the limits. Default: [`Limits::default`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Sets Python's `timeout`: how long `handle_request` waits for a request. Zero does not wait. Default: no timeout.
    /// `serve_forever` ignores it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Sets Python's `poll_interval`: the longest time between two `service_actions`, at least 1 ms. Default: none;
    /// `service_actions` then runs only after requests, and an idle server sleeps. A shutdown is noticed at once in any
    /// case.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        // With zero, Python uses a whole processor.
        self.settings.poll_interval = Some(interval.max(Duration::from_millis(1)));
        self
    }

    /// Stops a run when the server has served nobody for this time, as a
    /// [`shutdown`](crate::ShutdownHandle::shutdown) does. For servers that a service manager starts with the first
    /// client ([`systemd`](crate::systemd)). Default: none. At least 100 ms. The stop may come late, by an eighth of
    /// this time at most.
    ///
    /// An open connection counts as served, even if it is silent. No client is lost: a client that comes at the last
    /// moment is served during the close, or stays in the accept queue, and then the service manager starts the
    /// server again. (A server that has bound its own address closes its listener with the stop.)
    ///
    /// Several servers of one [`run_all`](fn@super::run_all) stop together, when all are idle. If one of them has no
    /// such time, none stops. [`handle_request`](crate::Server::handle_request) ignores this setting.
    #[must_use]
    pub fn stop_when_idle(mut self, time: Duration) -> Self {
        // The loop checks eight times within this time. With a shorter one an idle server would wake all the time.
        self.settings.idle_limit = Some(time.max(Duration::from_millis(100)));
        self
    }

    /// Sets the options of the server's socket: backlog, buffers, permissions of a Unix socket's file and others.
    /// [`SocketOptions`] has a setter for each.
    #[must_use]
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.settings.options = options;
        self
    }
}

impl<T: Transport<Request = StreamRequest>, M: Mixin> Builder<T, M> {
    /// Takes the client's true address from the PROXY header of a trusted proxy: see
    /// [`proxy_protocol`](crate::proxy_protocol). Default: no header is read.
    ///
    /// ```
    /// use socketserver::proxy_protocol::ProxyProtocol;
    /// use socketserver::{ThreadingTcpServer, stream_fn};
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let server = ThreadingTcpServer::builder()
    ///     .proxy_protocol(ProxyProtocol::from_networks(["127.0.0.0/8"])?)
    ///     .bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
    /// # drop(server); Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn proxy_protocol(mut self, from: ProxyProtocol) -> Self {
        self.settings.prefaces.set(PrefacePlace::ProxyHeader, ProxyHeader::new(from));
        self
    }

    /// Serves over TLS, and nothing in the clear: see [`tls`](crate::tls). Only with the feature `tls`. Default: in the
    /// clear.
    ///
    /// The handshake runs in the worker, before the hook [`wrap_request`](ServerHooks::wrap_request), and after a
    /// PROXY header if one is expected. The argument is a [`Tls`](crate::tls::Tls) or a `rustls::ServerConfig`.
    ///
    /// ```no_run
    /// use socketserver::tls::Tls;
    /// use socketserver::{ThreadingTcpServer, stream_fn};
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let server = ThreadingTcpServer::builder()
    ///     .tls(Tls::from_pem("cert.pem", "key.pem")?)
    ///     .bind("0.0.0.0:9999", stream_fn(|_request| Ok(())))?;
    /// # drop(server); Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    #[doc(alias("ssl", "https"))]
    pub fn tls(mut self, tls: impl Into<crate::tls::Tls>) -> Self {
        self.settings.prefaces.set(PrefacePlace::Tls, tls.into());
        self
    }
}

impl<T: Transport, M: fmt::Debug> fmt::Debug for Builder<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("mixin", &self.mixin)
            .field("limits", &self.settings.limits)
            .field("options", &self.settings.options)
            .finish_non_exhaustive()
    }
}
