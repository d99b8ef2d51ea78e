//! Echo: sends back its input. It is the first example of `socketserver`.
//!
//! ```text
//! cargo run --release --bin echo -- serve --bind 127.0.0.1:9999
//! nc 127.0.0.1 9999
//! cargo run --release --bin echo -- connect 127.0.0.1:9999
//! ```
//!
//! `--mode` chooses what a benchmark measures: `echo` sends back every byte as it comes, `line` sends back one line and
//! closes, `sink` counts the bytes and answers the count, and `chat` sends each line to all other clients.
//!
//! Limits: in `chat` a member that is 64 KiB behind is dropped. Over UDP every datagram is answered. If a datagram
//! names another such server as its sender, the two answer each other for ever: use UDP in networks whose members are
//! known.

mod handlers;

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use common::Endpoint;
use common::client::{ClientTls, ask, connect, copy_both_ways, open, show};
use common::{Failure, MixinName, Program, ServeOptions, ServeTls};
use handlers::{Echo, EchoPacket, Mode, Room};
use socketserver::handler::MakeHandler;
use socketserver::tls::Tls;
use socketserver::{DatagramRequest, Limits, StreamRequest};

/// Sends back every byte as it comes; over datagrams, every datagram.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until Ctrl-C
    #[command(mut_arg("bind", common::datagrams_too::<EchoServer>))]
    Serve {
        #[command(flatten)]
        options: ServeOptions,
        #[command(flatten)]
        tls: ServeTls,
        /// How long a client may be silent, from its first moment on, in seconds
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = common::seconds)]
        idle: Duration,
        /// How a connection is answered
        #[arg(long, value_enum, default_value_t = Mode::Echo)]
        mode: Mode,
    },
    /// Send what is typed, and show what comes back
    Connect {
        /// The server's address
        #[arg(value_name = "ADDR", default_value = EchoServer::DEFAULT_BIND)]
        address: Endpoint,
        #[command(flatten)]
        tls: ClientTls,
    },
    /// Ask a running server, or change it
    Control(common::ControlOptions),
}

struct EchoServer {
    mode: Mode,
    idle: Duration,
    room: Room,
    tls: Option<Tls>,
}

impl Program for EchoServer {
    const DEFAULT_BIND: &'static str = "127.0.0.1:9999";

    fn exposure(&self) -> String {
        "anyone there may have bytes sent back".to_owned()
    }

    fn stream(&self) -> impl MakeHandler<StreamRequest> {
        let (mode, room) = (self.mode, self.room.clone());
        move || Echo::new(mode, &room)
    }

    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>> {
        (self.mode == Mode::Echo).then_some(|| EchoPacket)
    }

    fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    fn limits(&self) -> Limits {
        // The rest of a line may take as long as the silence before the line.
        Limits::default().idle(self.idle).read(self.idle)
    }

    fn refuses(&self, mixin: MixinName) -> Option<String> {
        let alone = matches!(mixin, MixinName::Inline | MixinName::Forking);
        let why = "a chat needs several members at a time, in one memory: take --mixin threading";
        (self.mode == Mode::Chat && alone).then(|| why.to_owned())
    }
}

fn main() -> ExitCode {
    common::exit(match Cli::parse().command {
        Command::Serve { options, tls, idle, mode } => tls.load().and_then(|tls| {
            common::serve(&EchoServer { mode, idle, room: Room::default(), tls }, &options)
        }),
        Command::Connect { address, tls } => run_client(&address, &tls),
        Command::Control(options) => common::control(&options),
    })
}

fn run_client(endpoint: &Endpoint, tls: &ClientTls) -> Result<(), Failure> {
    if tls.tls || !endpoint.is_datagram() {
        return copy_both_ways(&open(endpoint, tls)?, endpoint);
    }
    let socket = connect(endpoint)?;
    // The lines are bytes and not text, so that any input is sent as it is.
    for line in io::stdin().lock().split(b'\n') {
        let line = line.map_err(|error| Failure::Other(format!("cannot read stdin: {error}")))?;
        let mut answer = ask(&socket, endpoint, &line)?;
        answer.push(b'\n');
        show(&answer)?;
    }
    Ok(())
}
