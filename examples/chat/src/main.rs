//! Chat: a room with an operator.
//!
//! ```text
//! cargo run --release --bin chat -- serve --bind 127.0.0.1:8000
//! cargo run --release --bin chat -- connect 127.0.0.1:8000 --name alice
//! nc 127.0.0.1 8000        (begin with an empty line, or with /nick NAME)
//! ```
//!
//! A line that a member types goes to all others and to the operator, at the server's own terminal.
//! `@NAME TEXT` goes to one member; `/who` lists the members, `/nick NAME` takes another name, `/quit` leaves.
//! The operator has `/who`, `/kick NAME`, `/kick #` for connections that have sent nothing (`hall.rs`), and `/quit`,
//! which ends the server.
//!
//! With `--bus redis://HOST:PORT/ROOM` several servers share one room. `--server NAME` names this one: its members
//! are `name@server` at the others. See `bus/mod.rs`.
//!
//! A client becomes a member with its first line. A client that has sent no newline yet (a client without lines) is
//! expected to send none, and gets one answer for each message: see `protocol.rs`.
//!
//! Limits: names are not proven, and without `--tls-cert` nothing is encrypted. A name belongs to the member that has
//! it, and a name that looks the same is refused only while that member is there (`name.rs`). Earlier lines are not kept
//! for later members. A client without lines that sends an empty message has sent nothing; it waits for its answer until
//! the room ends.

mod bus;
mod characters;
mod client;
mod hall;
mod handler;
mod hold_back;
mod members;
mod name;
mod operator;
mod password;
mod protocol;
mod room;
mod screen;
mod stop;
mod suspend;
mod terminal;

use std::cell::Cell;
use std::env;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusArguments, BusOptions};
use clap::{Args, Parser, Subcommand};
use common::Endpoint;
use common::client::ClientTls;
use common::{Failure, FirstWord, MixinName, NoDatagrams, Program, ServeOptions, ServeTls};
use hall::Hall;
use handler::Chat;
use password::hide;
use room::{OUTBOX_BYTES, Room};
use screen::{Lines, Screen};
use socketserver::handler::MakeHandler;
use socketserver::tls::Tls;
use socketserver::{DatagramRequest, Limits, StreamRequest};
use stop::Stop;
use terminal::Terminal;

/// A room with an operator: each line goes to all the others.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Open a room, until Ctrl-C or the operator's /quit
    Serve(Box<Serve>),
    /// Take part; q, exit and /quit leave
    Connect {
        /// The server's address
        #[arg(value_name = "ADDR", value_parser = Endpoint::of_streams)]
        #[arg(default_value = ChatServer::DEFAULT_BIND)]
        address: Endpoint,
        /// The name; without it the server chooses one
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        tls: ClientTls,
    },
    /// Ask a running server, or change it
    Control(common::ControlOptions),
}

#[derive(Args)]
#[command(mut_arg("bind", common::streams::<ChatServer>))]
#[command(mut_arg("max_clients", |clients| clients.default_value("1000").visible_alias("members")))]
// This default is longer than in the other programs: the tutorial's client sends nothing until its user has typed a name.
#[command(mut_arg("first_word", |seconds| seconds.default_value("120")))]
struct Serve {
    #[command(flatten)]
    options: ServeOptions,
    #[command(flatten)]
    tls: ServeTls,
    #[command(flatten)]
    first_word: FirstWord,
    /// How many lines a second one member may say in the long run; 0 is no limit
    #[arg(long, value_name = "LINES", default_value = "20", value_parser = common::rate)]
    pace: u32,
    #[command(flatten)]
    bus: BusArguments,
}

struct ChatServer {
    room: Room,
    hall: Hall,
    first_word: Duration,
    screen: Screen,
    pace: u32,
    tls: Option<Tls>,
    /// The bus that this server joins; `None` if it has the room for itself.
    joins: Option<BusOptions>,
    stop: Arc<Stop>,
    /// The queue of the screen, until `ready` starts the thread that shows it.
    lines: Cell<Option<Lines>>,
    /// Restores the terminal when it is dropped.
    mode: Cell<Option<terminal::Mode>>,
}

/// Serves the room. The bus ends before the connections do (`stop.rs`), and the screen after them.
fn serve(options: &Serve) -> Result<(), Failure> {
    let (tls, bus) = (options.tls.load()?, options.bus.read()?);
    let server = ChatServer::new(options, tls, bus);
    let served = common::serve(&server, &options.options);
    let left = server.stop.result();
    server.screen.finish();
    served.and(left)
}

impl ChatServer {
    fn new(options: &Serve, tls: Option<Tls>, joins: Option<BusOptions>) -> Self {
        let (screen, lines) = Screen::new();
        let room = Room::new(screen.clone());
        Self {
            stop: Arc::new(Stop::new(&room)),
            room,
            hall: Hall::new(options.options.max_clients, options.options.max_per_peer()),
            first_word: options.first_word.first_word,
            screen,
            pace: options.pace,
            tls,
            joins,
            lines: Cell::new(Some(lines)),
            mode: Cell::default(),
        }
    }
}

impl Program for ChatServer {
    const DEFAULT_BIND: &'static str = "127.0.0.1:8000";

    fn exposure(&self) -> String {
        let clear = if self.tls.is_some() { "" } else { ", and nothing is encrypted" };
        format!("anyone there may read and write in the room, under any name{clear}")
    }

    fn stream(&self) -> impl MakeHandler<StreamRequest> {
        let (room, hall) = (self.room.clone(), self.hall.clone());
        let (first_word, pace) = (self.first_word, self.pace);
        move || Chat::new(&room, &hall, first_word, pace)
    }

    fn datagram(&self) -> Option<impl MakeHandler<DatagramRequest>> {
        None::<NoDatagrams>
    }

    fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    fn refuses(&self, mixin: MixinName) -> Option<String> {
        let why = match mixin {
            MixinName::Inline => "it serves one client at a time, and a room needs several",
            MixinName::Forking => {
                "its clients are in processes of their own, and a room needs one memory; a bus does \
                 not help, because a process that forks has no second thread for it"
            }
            _ => return None,
        };
        Some(format!("a room cannot be served under --mixin {mixin}: {why}; take threading"))
    }

    fn limits(&self) -> Limits {
        Limits::default()
            .outbox_bytes(OUTBOX_BYTES)
            // Members that only listen are welcome. Keepalive finds members whose machine is gone.
            .idle(Duration::from_secs(30 * 24 * 3600))
    }

    fn prepare(&self, takes_over: bool) -> Result<(), Failure> {
        // In a handover the predecessor has this server's name until this process is ready.
        self.joins.as_ref().filter(|_| !takes_over).map_or(Ok(()), Bus::check_name)
    }

    fn stopping(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let stop = Arc::clone(&self.stop);
        Some(Box::new(move || stop.end_bus()))
    }

    fn ready(&self) {
        let Terminal { input, output, mode } = Terminal::open();
        self.mode.set(Some(mode));
        let started =
            operator::start(self.room.clone(), self.hall.clone(), self.screen.clone(), input)
                .and_then(|typing| {
                    self.lines.take().map_or(Ok(()), |lines| lines.show_on(output, typing))
                });
        if let Err(error) = started {
            common::warn(&format!(
                "cannot start a thread for the operator: {error}; serving without one"
            ));
        }
        let Some(joins) = &self.joins else { return };
        match Bus::start(joins, &self.room) {
            Ok(bus) => self.stop.set_bus(bus),
            Err(error) => {
                common::warn(&format!("cannot start a thread for the bus: {error}; serving alone"));
            }
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_use(&error),
    };
    let result = match cli.command {
        Command::Serve(options) => serve(&options),
        Command::Connect { address, name, tls } => client::run(&address, &tls, name.as_deref()),
        Command::Control(options) => common::control(&options),
    };
    common::exit(result.map_err(|failure| match failure {
        Failure::Usage(text) => Failure::Usage(hide(&text, env::args_os())),
        Failure::Other(text) => Failure::Other(hide(&text, env::args_os())),
        Failure::Unread => Failure::Unread,
    }))
}

/// Prints the help, or clap's complaint without the passwords that may stand in a wrong place of the command line.
fn wrong_use(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.render();
    let text = if io::stderr().is_terminal() { text.ansi().to_string() } else { text.to_string() };
    common::warn(hide(&text, env::args_os()).trim_end());
    ExitCode::from(2)
}
