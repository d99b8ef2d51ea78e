//! Serving: a program describes itself, and this file runs it.

use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socketserver::handler::{DatagramFn, MakeHandler};
use socketserver::mixin::Mixin;
use socketserver::monitor::{AcceptOutcome, DrainReport};
use socketserver::proxy_protocol::{Network, ProxyProtocol};
use socketserver::request::Request;
use socketserver::tls::Tls;
use socketserver::transport::{BindAddress, Tcp, Transport, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, BaseServer, Builder, DatagramRequest, HandlerResult, Limits, ServerContext,
    ServerHooks, ShutdownHandle, SocketOptions, StreamRequest,
};

use crate::control::{self, InTurn, Operator, TurnHook};
use crate::serve_tls::encrypted;
use crate::{Endpoint, Failure, Level, MixinName, Places, ServeOptions, log, status, warn};

/// A program: its handlers, its limits, and what it refuses.
pub trait Program {
    /// The address when there is no `--bind`.
    const DEFAULT_BIND: &'static str;

    /// The powers of a client, as a clause. It is a part of the warning that is printed at the start for each address that
    /// other machines can reach.
    fn exposure(&self) -> String;

    /// Makes the handlers of connections.
    fn stream(&self) -> impl MakeHandler<StreamRequest>;

    /// Makes the handlers of datagrams. `None` if the program needs connections.
    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>>;

    /// Why the program does not run under a mixin. `None` if it does.
    fn refuses(&self, mixin: MixinName) -> Option<String> {
        let _ = mixin;
        None
    }

    /// The limits. The command line sets `live`, `per_peer`, `peer_rate`, `drain` and `lame_duck`.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// TLS for all connections of the program. `None` if they are in the clear. See [`ServeTls`](crate::ServeTls).
    fn tls(&self) -> Option<&Tls> {
        None
    }

    /// The words after `listening on` at the start, for each address.
    fn address(&self, at: &Endpoint) -> String {
        if self.tls().is_some() { format!("{at} with TLS") } else { at.to_string() }
    }

    /// Called once, before anything is bound. With `takes_over`, another process of this program serves at the
    /// same addresses, and goes on until this one is ready. An error ends the program.
    fn prepare(&self, takes_over: bool) -> Result<(), Failure> {
        let _ = takes_over;
        Ok(())
    }

    /// Called once, after the lines that say where the program listens and before anything is served. A program starts
    /// threads of its own here, but not under `forking`, which needs a process of one thread.
    fn ready(&self) {}

    /// The work to be done at a stop before the connections end, for a program that has to tell its clients something. It
    /// runs once for each address, in several threads at once. While it runs, new clients are still accepted; the grace
    /// period begins afterwards. It does not run under `forking`.
    fn stopping(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        None
    }
}

/// The hook for [`Program::stopping`].
struct BeforeTheEnd(Box<dyn Fn() + Send + Sync>);

impl<R: Request> ServerHooks<R> for BeforeTheEnd {
    fn stopping(&self, _server: &ServerContext) {
        (self.0)();
    }
}

/// After this silence the kernel asks whether the peer's machine is still there. A silent peer may be welcome for
/// hours, but a machine that has lost its power never ends its connection by itself.
pub const KEEPALIVE: Duration = Duration::from_secs(60);

/// The type for a program without datagrams, whose [`Program::datagram`] returns `None::<NoDatagrams>`.
pub type NoDatagrams = DatagramFn<fn(&mut DatagramRequest) -> HandlerResult>;

/// Serves until Ctrl-C or SIGTERM.
pub fn serve<P: Program>(program: &P, options: &ServeOptions) -> Result<(), Failure> {
    if let Some(why) = refusal(program, options) {
        return Err(Failure::Usage(why));
    }
    serve_at(program, Places::of(options)?, options)
}

/// Why the program cannot be served with these options. `None` if it can.
fn refusal<P: Program>(program: &P, options: &ServeOptions) -> Option<String> {
    program.refuses(options.mixin).or_else(|| options.contradiction())
}

/// Serves like [`serve`], for a program that needs to know its places beforehand.
pub fn serve_at<P: Program>(
    program: &P,
    places: Places,
    options: &ServeOptions,
) -> Result<(), Failure> {
    if let Some(why) = refusal(program, options) {
        return Err(Failure::Usage(why));
    }
    let Places { handover, places } = places;
    program.prepare(handover.is_successor())?;
    log::set_level(options.log_level);
    warn_of_proxies_everywhere(options);
    let in_turn = Arc::new(InTurn::default());
    let (servers, mut listening) = bind_all(program, places, options, &in_turn)?;
    status::watch(&servers, handover.is_successor());
    let operator = Arc::new(Operator::new(servers.clone()));
    let control = options.control.as_ref();
    let control = control.map(|path| control::Bound::new(path, options.mixin, &operator));
    let control = control.transpose()?;
    let handover = match &control {
        Some(control) => handover.beside(control.server()),
        None => handover,
    };
    if let Some(path) = &options.control {
        listening += &format!("controlled at unix:{}\n", path.display());
    }
    if options.mixin == MixinName::Pool {
        let workers = options.at_once();
        let share = options.max_per_peer();
        listening += &format!(
            "a pool: each address serves {workers} clients at once, at most {share} of them from one address; more have to wait\n"
        );
    }
    let mut controlled = None;
    let ready = || {
        // From here on no line waits for a reader.
        let writers = match options.mixin {
            MixinName::Forking => log::Writers::None,
            _ => log::Writers::Threads,
        };
        log::start(listening.trim_end(), writers);
        controlled = control.and_then(|control| control.start(&in_turn, &operator));
        program.ready();
    };
    let servers: Vec<Box<dyn BaseServer>> =
        servers.into_iter().map(|server| Box::new(WithinItsLimits(server)) as _).collect();
    let reports = handover.run_all(&servers, options.grace, ready);
    // The control socket ends only now: while requests keep the program from ending, an operator may still end them.
    drop(controlled);
    in_turn.end();
    let reports = reports?;
    // At a terminal the report answers the Ctrl-C. In a log only a stop that cut something off is of interest.
    let is_watched = io::stderr().is_terminal();
    for report in reports.iter().filter(|report| is_watched || !report.is_clean()) {
        warn(&report.to_string());
    }
    Ok(())
}

/// Makes a builder with the mixin and the limits of the command line, with the program's own hook, and, if the command line
/// asks for them, with the observer of the log and the hook of the control socket.
fn operated<T: Transport, P: Program>(
    program: &P,
    endpoint: &Endpoint,
    options: &ServeOptions,
    in_turn: &Arc<InTurn>,
) -> Builder<T, Box<dyn Mixin>> {
    let limits = options.limits(endpoint, program.limits());
    let mut builder = Builder::new(options.make_mixin()).limits(limits);
    // Without a control socket nobody can raise the level later, so no event has to be made.
    if options.control.is_some() || options.log_level == Level::Verbose {
        builder = builder.observer(log::observe).observer(control::observe);
    }
    if options.mixin == MixinName::Forking {
        if options.control.is_some() {
            builder = builder.hooks(TurnHook(Arc::clone(in_turn))).poll_interval(control::EVERY);
        }
    } else if let Some(stopping) = program.stopping() {
        builder = builder.hooks(BeforeTheEnd(stopping));
    }
    if let Some(time) = options.idle_exit {
        builder = builder.stop_when_idle(time);
    }
    builder
}

/// A server that closes within its own `Limits::drain`, which an operator may change. (The grace of `run_all` was
/// fixed at the start.)
struct WithinItsLimits(Arc<dyn BaseServer>);

impl BaseServer for WithinItsLimits {
    fn serve_forever(&self) -> socketserver::Result<()> {
        self.0.serve_forever()
    }

    fn handle_request(&self) -> socketserver::Result<AcceptOutcome> {
        self.0.handle_request()
    }

    fn shutdown(&self) {
        self.0.shutdown();
    }

    fn reload(&self) {
        self.0.reload();
    }

    fn server_close(&self) -> DrainReport {
        self.0.server_close()
    }

    fn server_close_within(&self, _grace: Duration) -> DrainReport {
        self.0.server_close()
    }

    fn server_address(&self) -> Address {
        self.0.server_address()
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.0.fileno()
    }

    fn shutdown_handle(&self) -> ShutdownHandle {
        self.0.shutdown_handle()
    }

    fn context(&self) -> &ServerContext {
        self.0.context()
    }

    fn forks(&self) -> bool {
        self.0.forks()
    }
}

/// Makes a builder for connections: that of [`operated`] with the program's TLS. If the command line names proxies, the
/// server takes the clients' addresses from the PROXY headers.
fn of_streams<T: Transport<Request = StreamRequest>, P: Program>(
    program: &P,
    endpoint: &Endpoint,
    options: &ServeOptions,
    in_turn: &Arc<InTurn>,
) -> Builder<T, Box<dyn Mixin>> {
    let mut builder = operated(program, endpoint, options, in_turn);
    if let Some(from) = &options.proxy_from {
        builder = builder.proxy_protocol(from.clone());
    }
    encrypted(builder, program.tls())
}

/// Warns of a network without a prefix: it contains all clients, and each of them can send a header with any address.
fn warn_of_proxies_everywhere(options: &ServeOptions) {
    let everywhere = ["0.0.0.0/0", "::/0"].map(|text| text.parse::<Network>().ok());
    let networks = options.proxy_from.iter().flat_map(ProxyProtocol::networks);
    for network in networks.filter(|network| everywhere.contains(&Some(**network))) {
        warn(&format!(
            "--proxy-from {network} trusts every client, and each may then name itself by any address: give the \
             addresses of the proxies alone"
        ));
    }
}

/// Why no proxy of the command line could ever reach this address. `None` if one could.
fn out_of_reach(endpoint: &Endpoint, options: &ServeOptions) -> Option<Failure> {
    let from = options.proxy_from.as_ref()?;
    let is_unix = |network: &Network| *network == Network::UNIX;
    let why = match endpoint {
        Endpoint::Udp(_) | Endpoint::Unixgram(_) => "a datagram has no PROXY header",
        Endpoint::Unix(_) if !from.networks().iter().any(is_unix) => {
            "a proxy at a Unix socket belongs to no network; give --proxy-from unix"
        }
        Endpoint::Tcp(_) if from.networks().iter().all(is_unix) => {
            "a proxy comes to this address over a network; give --proxy-from that network"
        }
        _ => return None,
    };
    Some(Failure::Usage(format!("cannot serve {endpoint} behind a proxy: {why}")))
}

/// Binds all servers, and returns the lines that say where they listen. Warns of each address that other machines can
/// reach.
fn bind_all<P: Program>(
    program: &P,
    places: Vec<(Endpoint, BindAddress)>,
    options: &ServeOptions,
    in_turn: &Arc<InTurn>,
) -> Result<(Vec<Arc<dyn BaseServer>>, String), Failure> {
    let mut servers = Vec::new();
    let mut listening = String::new();
    for (endpoint, at) in places {
        let server = bind(program, (&endpoint, at), options, in_turn)?;
        let address = server.server_address();
        listening += &format!("listening on {}\n", program.address(&endpoint.at(&address)));
        if !address.is_local() {
            warn(&format!("{address} can be reached from other machines: {}", program.exposure()));
        }
        servers.push(server);
    }
    Ok((servers, listening))
}

/// Binds a server to one address, by the transport that the address names.
fn bind<P: Program>(
    program: &P,
    (endpoint, at): (&Endpoint, BindAddress),
    options: &ServeOptions,
    in_turn: &Arc<InTurn>,
) -> Result<Arc<dyn BaseServer>, Failure> {
    if let Some(failure) = out_of_reach(endpoint, options) {
        return Err(failure);
    }
    if program.tls().is_some() && endpoint.is_datagram() {
        let why = format!(
            "cannot serve {endpoint} with TLS, which needs connections: serve datagrams by another process"
        );
        return Err(Failure::Usage(why));
    }
    let no_datagrams = || {
        Failure::Usage(format!(
            "cannot serve {endpoint}: this program needs a stream; give --bind HOST:PORT or unix:PATH"
        ))
    };
    let tcp = SocketOptions::default().keepalive(KEEPALIVE);
    let unix = SocketOptions::default().unlink_on_close(true);
    Ok(match endpoint {
        Endpoint::Tcp(_) => {
            let builder = of_streams::<Tcp, P>(program, endpoint, options, in_turn);
            Arc::new(builder.socket_options(tcp).bind(at, program.stream())?)
        }
        Endpoint::Unix(_) => {
            let builder = of_streams::<UnixStream, P>(program, endpoint, options, in_turn);
            Arc::new(builder.socket_options(unix).bind(at, program.stream())?)
        }
        Endpoint::Udp(_) => {
            let handler = program.datagram().ok_or_else(no_datagrams)?;
            let builder = operated::<Udp, P>(program, endpoint, options, in_turn);
            Arc::new(builder.bind(at, handler)?)
        }
        Endpoint::Unixgram(_) => {
            let handler = program.datagram().ok_or_else(no_datagrams)?;
            let builder = operated::<UnixDatagram, P>(program, endpoint, options, in_turn);
            Arc::new(builder.socket_options(unix).bind(at, handler)?)
        }
    })
}
