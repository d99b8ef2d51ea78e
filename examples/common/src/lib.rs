//! What all example programs share: the command line, the choice of transport and mixin, limits for strangers, the
//! words that a server says at its start and at its end, its log, and the client's side of a connection.

pub mod client;
mod endpoint;
mod log;

use std::fmt;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, Args, ValueEnum};
pub use endpoint::{BadEndpoint, Endpoint};
pub use log::{say, warn};
use socketserver::{
    BaseServer, Builder, DatagramFn, DatagramRequest, Deadline, Forking, HandlerResult, Inline,
    Limits, MakeHandler, Mixin, Pool, Rate, Request, StreamRequest, Tcp, Threading, Timeout, Udp,
    UnixDatagram, UnixStream, run_all,
};

/// The mixins, by the names of the command line. All that the crate has come to have, and those that it
/// will have, so that asking for one of these is told apart from a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MixinName {
    /// One request after the other, in the loop itself
    Inline,
    /// A thread for each request
    Threading,
    /// A fixed number of threads
    Pool,
    /// A process for each request
    Forking,
    /// Several accepting processes (not in this version)
    #[value(hide = true)]
    Prefork,
    /// A coroutine for each request (not in this version)
    #[value(hide = true)]
    Green,
}

impl fmt::Display for MixinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            self.to_possible_value().map_or(String::new(), |name| name.get_name().to_owned());
        f.write_str(&name)
    }
}

impl MixinName {
    /// Makes the mixin.
    ///
    /// # Errors
    ///
    /// A sentence, if this version does not have it.
    pub fn make(self) -> Result<Box<dyn Mixin>, String> {
        match self {
            Self::Inline => Ok(Box::new(Inline)),
            Self::Threading => Ok(Box::new(Threading::new())),
            Self::Pool => Ok(Box::new(Pool::default())),
            Self::Forking => Ok(Box::new(Forking::new().max_children(CHILDREN))),
            Self::Prefork | Self::Green => Err(format!(
                "the mixin '{self}' is not in this version; there are inline, threading, pool and forking"
            )),
        }
    }
}

/// As many as CPython has.
const CHILDREN: usize = 40;

impl MixinName {
    /// How many clients are served at once, where others have to wait for them.
    fn at_once(self) -> usize {
        match self {
            Self::Inline => 1,
            Self::Pool => Pool::default().workers(),
            Self::Forking => CHILDREN,
            Self::Threading | Self::Prefork | Self::Green => usize::MAX,
        }
    }
}

/// The options that every `serve` has.
#[derive(Clone, Debug, Args)]
pub struct ServeOptions {
    /// Where to listen: HOST:PORT, unix:PATH or unix:@NAME. May be given several times
    #[arg(long, value_name = "ADDR")]
    pub bind: Vec<Endpoint>,
    /// How requests are run
    #[arg(long, value_enum, default_value_t = MixinName::Threading)]
    pub mixin: MixinName,
    /// How long running requests may take to end after Ctrl-C, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub grace: Duration,
    /// How many clients each address serves at once; more have to wait
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = count)]
    pub max_clients: usize,
    /// How many of them may come from one address (IPv6: from one network); more are turned away. Raise it behind
    /// a proxy, where all come from one. Clients of a Unix socket have no address and no such limit [default: a tenth of --max-clients, under inline, pool and forking at most half of
    /// what those serve at once, and at least 8]
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub max_per_peer: Option<usize>,
    /// How many connections a second one address may make in the long run, and ten times as many at once; more
    /// are turned away. 0 is no limit
    #[arg(long, value_name = "COUNT", default_value = "0")]
    pub rate_per_peer: u32,
}

impl ServeOptions {
    /// The limits of a program, with what the command line says of all clients and of one.
    fn limits(&self, endpoint: &Endpoint, program: Limits) -> Limits {
        let limits = program.drain(self.grace).live(self.max_clients);
        // A datagram is gone before anybody could have too many of them.
        if endpoint.is_datagram() {
            return limits;
        }
        let rate =
            |per_second: u32| Rate::per_second(per_second).burst(per_second.saturating_mul(10));
        let peer_rate = (self.rate_per_peer > 0).then(|| rate(self.rate_per_peer));
        limits.per_peer(self.max_per_peer()).peer_rate(peer_rate)
    }

    /// How many clients may come from one address.
    pub fn max_per_peer(&self) -> usize {
        self.max_per_peer
            .unwrap_or((self.max_clients / 10).min(self.mixin.at_once() / 2).max(LEAST_PER_PEER))
    }
}

/// A browser opens six connections at once. Where fewer workers serve all, one address may still hold them for as long as
/// a first word may take, twice over: the client of another stands behind eight in the queue, and not behind a thousand.
const LEAST_PER_PEER: usize = 8;

/// The option of programs whose clients speak first; those that have a limit of their own for it do without.
#[derive(Clone, Copy, Debug, Args)]
pub struct FirstWord {
    /// How long a client may take for its first word, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub first_word: Duration,
}

impl FirstWord {
    /// From here on the client has so long to say its first word, whatever it sends meanwhile. If it does not, the
    /// next read ends with a quiet error, as after `Limits::idle`.
    pub fn expect(self, request: &mut StreamRequest) {
        let (limit, after) = (Timeout::Idle, self.first_word);
        let deadline = Instant::now().checked_add(after).map(|at| Deadline::new(at, limit, after));
        request.set_deadline(deadline);
    }

    /// The client has said it: the server's limits hold again.
    pub fn heard(request: &mut StreamRequest) {
        request.set_deadline(None);
    }
}

/// Says where a program listens that serves streams alone; goes to `mut_arg("bind", ..)`.
pub fn streams<P: Program>(bind: Arg) -> Arg {
    bind.default_value(P::DEFAULT_BIND)
}

/// Says where a program listens that serves datagrams as well; goes to `mut_arg("bind", ..)`.
pub fn datagrams_too<P: Program>(bind: Arg) -> Arg {
    streams::<P>(bind).help(
        "Where to listen: HOST:PORT, udp:HOST:PORT, unix:PATH, unixgram:PATH, unix:@NAME or \
         unixgram:@NAME. May be given several times",
    )
}

/// Reads a number of seconds from the command line.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        // Two to the power of 64 seconds are too many.
        if seconds > 0.0 { "it must be at most 1.8e19" } else { "it must be a positive number" }
            .to_owned()
    })
}

/// Reads a number from the command line that is not zero.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("write a number".to_owned()),
    }
}

/// What makes the handlers of a program: one for streams, and one for datagrams if it has one.
pub trait Program {
    /// The address when there is no `--bind`.
    const DEFAULT_BIND: &'static str;

    /// What anyone may do who can reach the server: said when it listens beyond this machine.
    fn exposure(&self) -> String;

    /// A server for streams.
    fn stream(&self) -> impl MakeHandler<StreamRequest>;
    /// A server for datagrams.
    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>>;
    /// Why it does not run under a mixin, if it does not.
    fn refuses(&self, mixin: MixinName) -> Option<String> {
        let _ = mixin;
        None
    }

    /// The limits, but for those that the command line says: `live`, `per_peer`, `peer_rate` and `drain`.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Called when the program has said where it listens, and before anything is served: the moment to
    /// start what runs beside the servers, except under `forking`, which takes a process of one thread.
    fn ready(&self) {}
}

/// After so much silence the kernel asks whether the other machine is still there. Who is silent may be welcome
/// for hours, but one whose machine is gone says no goodbye, and would stay for as long.
pub const KEEPALIVE: Duration = Duration::from_secs(60);

/// What a program gives as its server for datagrams if it has none: `None::<NoDatagrams>`.
pub type NoDatagrams = DatagramFn<fn(&mut DatagramRequest) -> HandlerResult>;

/// Why a program ends, and with which status.
#[derive(Debug)]
pub enum Failure {
    /// It was used wrongly: status 2, as clap's own.
    Usage(String),
    /// Nobody reads its stdout any more, as behind `| head`: no failure to speak of, so it ends without a word, with
    /// the status that SIGPIPE would have given it.
    Unread,
    /// Anything else: status 1.
    Other(String),
}

impl Failure {
    /// A client cannot write to its own stdout: its reader has had enough, or something is wrong with what stdout is
    /// (a full disk, say). The server and the connection are well.
    pub fn of_stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Other(format!("cannot write to stdout: {error}")),
        }
    }
}

impl From<socketserver::Error> for Failure {
    fn from(error: socketserver::Error) -> Self {
        let advice = if error.io_kind() == Some(io::ErrorKind::AlreadyExists) {
            "; choose another --bind"
        } else if error.is_address_in_use() {
            "; another server listens there: stop it, or choose another --bind"
        } else if error.is_permission_denied() {
            "; ports below 1024 and other users' folders need privileges: choose another --bind"
        } else {
            ""
        };
        let text = format!("{error}{advice}");
        if error.is_bad_address() { Self::Usage(text) } else { Self::Other(text) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// The status of a program whose output nobody reads: 128 and the number of SIGPIPE, as shells give it.
const BROKEN_PIPE: u8 = 141;

/// Ends the program with the status that its result asks for, and one line on stderr.
pub fn exit(result: Result<(), Failure>) -> ExitCode {
    let (status, text) = match result {
        Ok(()) => {
            log::finish();
            return ExitCode::SUCCESS;
        }
        Err(Failure::Unread) => return ExitCode::from(BROKEN_PIPE),
        Err(Failure::Usage(text)) => (2, text),
        Err(Failure::Other(text)) => (1, text),
    };
    warn(&format!("error: {text}"));
    log::finish();
    ExitCode::from(status)
}

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
        // Nobody may be reading, and from here on nobody waits for that. Under forking there is one thread.
        log::start(listening.trim_end(), options.mixin != MixinName::Forking);
        program.ready();
    };
    let reports = run_all(&servers, options.grace, ready)?;
    // At a terminal somebody has pressed Ctrl-C and sees what it did. A log is told only of what was cut off.
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
    let mixin = options.mixin.make().map_err(Failure::Usage)?;
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
            Box::new(builder.keepalive(KEEPALIVE).bind(at, program.stream())?)
        }
        Endpoint::Unix(_) => {
            let builder = Builder::<UnixStream, _>::new(mixin).limits(limits);
            Box::new(builder.unlink_on_close(true).bind(at, program.stream())?)
        }
        Endpoint::Udp(_) => {
            let handler = program.datagram().ok_or_else(no_datagrams)?;
            Box::new(Builder::<Udp, _>::new(mixin).limits(limits).bind(at, handler)?)
        }
        Endpoint::Unixgram(_) => {
            let handler = program.datagram().ok_or_else(no_datagrams)?;
            let builder = Builder::<UnixDatagram, _>::new(mixin).limits(limits);
            Box::new(builder.unlink_on_close(true).bind(at, handler)?)
        }
    })
}
