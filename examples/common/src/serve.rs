//! Serving: what a program has to say about itself, and what is done with it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use socketserver::handler::DatagramFn;
use socketserver::{
    BaseServer, Builder, DatagramRequest, HandlerResult, Limits, MakeHandler, Pool, SocketOptions,
    StreamRequest, Tcp, Udp, UnixDatagram, UnixStream, run_all,
};

use crate::{Endpoint, Failure, MixinName, ServeOptions, log, warn};

/// A program: its handlers, its limits, and what it refuses.
pub trait Program {
    /// The address when there is no `--bind`.
    const DEFAULT_BIND: &'static str;

    /// The rights of a client, for the warning at the start on an address that other machines can reach.
    fn exposure(&self) -> String;

    /// Makes the handlers of connections.
    fn stream(&self) -> impl MakeHandler<StreamRequest>;

    /// Makes the handlers of datagrams; none if the program needs connections.
    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>>;

    /// The reason why it does not run under a mixin; none if it does.
    fn refuses(&self, mixin: MixinName) -> Option<String> {
        let _ = mixin;
        None
    }

    /// The limits. The command line sets `live`, `per_peer`, `peer_rate` and `drain`.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Called once, after the lines that say where it listens and before anything is served. Threads beside the servers
    /// are started here; not under `forking`, which needs a process of one thread.
    fn ready(&self) {}
}

/// After this silence the kernel asks whether the peer's machine is still there. A silent peer may be welcome for hours;
/// one whose machine has lost its power never ends the connection by itself.
pub const KEEPALIVE: Duration = Duration::from_secs(60);

/// The type for a program without datagrams: it returns `None::<NoDatagrams>`.
pub type NoDatagrams = DatagramFn<fn(&mut DatagramRequest) -> HandlerResult>;

/// Serves until Ctrl-C or SIGTERM.
pub fn serve<P: Program>(program: &P, options: &ServeOptions) -> Result<(), Failure> {
    if let Some(why) = program.refuses(options.mixin) {
        return Err(Failure::Usage(why));
    }
    if options.mixin == MixinName::Forking && options.bind.len() > 1 {
        let why = "a forking server has to run alone in its process: give one --bind";
        return Err(Failure::Usage(why.to_owned()));
    }
    let mut servers = Vec::new();
    let mut listening = String::new();
    for endpoint in &options.bind {
        let server = bind(program, endpoint, options)?;
        let address = server.server_address();
        listening += &format!("listening on {}\n", endpoint.at(&address));
        if !address.is_local() {
            warn(&format!("{address} can be reached from other machines: {}", program.exposure()));
        }
        servers.push(server);
    }
    if options.mixin == MixinName::Pool {
        let workers = Pool::default().workers();
        let share = options.max_per_peer();
        listening += &format!(
            "a pool: each address serves {workers} at once, more have to wait; of one client's address {share} at most\n"
        );
    }
    let ready = || {
        // From here on no line waits for a reader.
        let writers = match options.mixin {
            MixinName::Forking => log::Writers::None,
            _ => log::Writers::Threads,
        };
        log::start(listening.trim_end(), writers);
        program.ready();
    };
    let reports = run_all(&servers, options.grace, ready)?;
    // At a terminal the report answers the Ctrl-C. In a log only a stop that cut something off is of interest.
    let is_watched = io::stderr().is_terminal();
    for report in reports.iter().filter(|report| is_watched || !report.is_clean()) {
        warn(&report.to_string());
    }
    Ok(())
}

fn bind<P: Program>(
    program: &P,
    endpoint: &Endpoint,
    options: &ServeOptions,
) -> Result<Box<dyn BaseServer>, Failure> {
    let mixin = options.mixin.make();
    let limits = options.limits(endpoint, program.limits());
    let no_datagrams = || {
        Failure::Usage(format!(
            "cannot serve {endpoint}: this program needs a stream; give --bind HOST:PORT or unix:PATH"
        ))
    };
    let at = endpoint.address();
    Ok(match endpoint {
        Endpoint::Tcp(_) => {
            let builder = Builder::<Tcp, _>::new(mixin).limits(limits);
            Box::new(
                builder
                    .socket_options(SocketOptions::default().keepalive(KEEPALIVE))
                    .bind(at, program.stream())?,
            )
        }
        Endpoint::Unix(_) => {
            let builder = Builder::<UnixStream, _>::new(mixin).limits(limits);
            Box::new(
                builder
                    .socket_options(SocketOptions::default().unlink_on_close(true))
                    .bind(at, program.stream())?,
            )
        }
        Endpoint::Udp(_) => {
            let handler = program.datagram().ok_or_else(no_datagrams)?;
            Box::new(Builder::<Udp, _>::new(mixin).limits(limits).bind(at, handler)?)
        }
        Endpoint::Unixgram(_) => {
            let handler = program.datagram().ok_or_else(no_datagrams)?;
            let builder = Builder::<UnixDatagram, _>::new(mixin).limits(limits);
            Box::new(
                builder
                    .socket_options(SocketOptions::default().unlink_on_close(true))
                    .bind(at, handler)?,
            )
        }
    })
}
