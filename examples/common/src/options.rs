//! The options of the command lines.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Arg, Args, ValueEnum};
use socketserver::mixin::Mixin;
use socketserver::proxy_protocol::ProxyProtocol;
use socketserver::request::{Deadline, Request, Timeout};
use socketserver::{Forking, Inline, Limits, Pool, Rate, StreamRequest, Threading};

use crate::green::{green, no_green};
use crate::values::{count, lame_duck, rate, seconds};
use crate::{Endpoint, Level, Place, Program};

/// The mixins, by their names on the command line.
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
    /// A coroutine for each request, many on each of a few threads
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
    /// Makes the mixin, with this many workers if it has workers.
    fn make(self, workers: Option<usize>) -> Box<dyn Mixin> {
        match self {
            Self::Inline => Box::new(Inline),
            Self::Threading => Box::new(Threading::new()),
            Self::Pool => Box::new(workers.map_or_else(Pool::default, Pool::new)),
            Self::Forking => Box::new(Forking::new().max_children(CHILDREN)),
            // A build without green coroutines has refused the option already.
            Self::Green => green(workers).unwrap_or_else(|| Box::new(Threading::new())),
        }
    }

    /// Whether `--workers` sets the number of its workers.
    fn has_workers(self) -> bool {
        !matches!(self, Self::Inline | Self::Threading | Self::Forking)
    }

    /// Whether only `--max-clients` bounds the clients that it serves at the same time.
    pub fn is_unbounded(self) -> bool {
        !matches!(self, Self::Inline | Self::Pool | Self::Forking)
    }
}

/// The bound of CPython's `ForkingMixIn`.
const CHILDREN: usize = 40;

/// The options that every `serve` has.
#[derive(Clone, Debug, Args)]
pub struct ServeOptions {
    /// Where to listen: HOST:PORT, unix:PATH or unix:@NAME; or the sockets that systemd has opened: systemd, or
    /// systemd:NAME for those of this name. May be given several times
    #[arg(long, value_name = "ADDR")]
    pub bind: Vec<Place>,
    /// How requests are run
    #[arg(long, value_enum, default_value_t = MixinName::Threading)]
    pub mixin: MixinName,
    /// How many threads run the requests under --mixin green and pool [default: as many as there are processors]
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub workers: Option<usize>,
    /// How long running requests may take to end after Ctrl-C, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub grace: Duration,
    /// How long the program goes on serving after a signal to stop, in seconds, while it reports that it is not ready,
    /// so that a balancer that asks for its health notices
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = lame_duck)]
    pub lame_duck: Duration,
    /// Stop when nobody has been served for this time, in seconds: for a program that systemd starts with its first client
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub idle_exit: Option<Duration>,
    /// How many clients each address serves at once; more have to wait
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = count)]
    pub max_clients: usize,
    /// How many clients may come from one address (IPv6: from one network); more are turned away. Behind a proxy,
    /// without --proxy-from, all clients come from one address: raise this limit there. Clients of a Unix socket have no
    /// address and no such limit [default: a tenth of --max-clients; under inline, pool and forking at most half of the
    /// clients that those serve at once, and at least 8]
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub max_per_peer: Option<usize>,
    /// How many connections per second one address may make on average, with bursts of ten times as many; more are
    /// turned away. 0 is no limit
    #[arg(long, value_name = "COUNT", default_value = "0", value_parser = rate)]
    pub rate_per_peer: u32,
    /// The networks of proxies that send a PROXY header, as HAProxy does with send-proxy-v2: 10.0.0.0/8, an address, or
    /// `unix` for a Unix socket. Clients then have their true addresses, and connections from elsewhere are refused
    #[arg(long, value_name = "NET[,NET..]")]
    pub proxy_from: Option<ProxyProtocol>,
    /// A socket through which this user lists and ends requests, changes limits and stops the program, while it serves
    #[arg(long, value_name = "unix:PATH", value_parser = crate::control::path)]
    pub control: Option<PathBuf>,
    /// How much is logged
    #[arg(long, value_enum, default_value_t)]
    pub log_level: Level,
    /// Take over the sockets of the server that answers at this path, and then answer there for the next process.
    /// SIGUSR2 starts the next process, with this option or without it
    #[arg(long, value_name = "PATH")]
    pub handover: Option<PathBuf>,
    /// How long the next process may take to be ready, in seconds; after that this one goes on
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub handover_within: Duration,
}

impl ServeOptions {
    /// The program's limits, with those of the command line in them.
    pub(crate) fn limits(&self, endpoint: &Endpoint, program: Limits) -> Limits {
        let limits = program.drain(self.grace).lame_duck(self.lame_duck).live(self.max_clients);
        // Datagrams are answered at once, so their senders never reach a limit per peer.
        if endpoint.is_datagram() {
            return limits;
        }
        let rate =
            |per_second: u32| Rate::per_second(per_second).burst(per_second.saturating_mul(10));
        let peer_rate = (self.rate_per_peer > 0).then(|| rate(self.rate_per_peer));
        limits.per_peer(self.max_per_peer()).peer_rate(peer_rate)
    }

    /// Makes the mixin.
    pub(crate) fn make_mixin(&self) -> Box<dyn Mixin> {
        self.mixin.make(self.workers)
    }

    /// The reason why the options contradict each other; `None` if they do not.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let mixin = self.mixin;
        if mixin == MixinName::Green && green(None).is_none() {
            return Some(no_green());
        }
        (self.workers.is_some() && !mixin.has_workers()).then(|| {
            format!(
                "--workers is for --mixin green and pool: under {mixin} the number of workers is not chosen"
            )
        })
    }

    /// How many clients are served at the same time, as far as the mixin bounds them.
    pub(crate) fn at_once(&self) -> usize {
        match self.mixin {
            MixinName::Inline => 1,
            MixinName::Pool => self.workers.unwrap_or_else(|| Pool::default().workers()),
            MixinName::Forking => CHILDREN,
            _ => usize::MAX,
        }
    }

    /// How many clients may come from one address.
    pub fn max_per_peer(&self) -> usize {
        self.max_per_peer
            .unwrap_or((self.max_clients / 10).min(self.at_once() / 2).max(LEAST_PER_PEER))
    }
}

/// The smallest default share of one address: a browser opens six connections at once. If fewer workers than that serve
/// everybody, the clients of one address can occupy all of them. Even so a client of another address waits behind eight
/// clients, and not behind a thousand.
const LEAST_PER_PEER: usize = 8;

/// The option of programs whose clients speak first.
#[derive(Clone, Copy, Debug, Args)]
pub struct FirstWord {
    /// How long a client may take for its first word, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub first_word: Duration,
}

impl FirstWord {
    /// Begins the time for the first word. Bytes from the client do not extend it. When it is over, the next read
    /// ends with the error of `Limits::idle`, which is not reported.
    pub fn expect(self, request: &mut StreamRequest) {
        let (limit, after) = (Timeout::Idle, self.first_word);
        let deadline = Instant::now().checked_add(after).map(|at| Deadline::new(at, limit, after));
        request.set_deadline(deadline);
    }

    /// Ends the time for the first word: the word has arrived, and the server's limits apply again.
    pub fn heard(request: &mut StreamRequest) {
        request.set_deadline(None);
    }
}

/// The `--bind` of a program that serves streams alone, for `mut_arg("bind", ..)`.
pub fn streams<P: Program>(bind: Arg) -> Arg {
    bind.default_value(P::DEFAULT_BIND).value_parser(Place::of_streams)
}

/// The `--bind` of a program that serves datagrams as well, for `mut_arg("bind", ..)`.
pub fn datagrams_too<P: Program>(bind: Arg) -> Arg {
    bind.default_value(P::DEFAULT_BIND).help(
        "Where to listen: HOST:PORT, udp:HOST:PORT, unix:PATH, unixgram:PATH, unix:@NAME or \
         unixgram:@NAME; or the sockets that systemd has opened: systemd, or systemd:NAME for \
         those of this name. May be given several times",
    )
}
