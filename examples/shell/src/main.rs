//! Shell: runs commands for clients that have the secret, and shows their output.
//!
//! ```text
//! cargo run --release --bin shell -- serve --bind 127.0.0.1:8000
//! cargo run --release --bin shell -- connect 127.0.0.1:8000
//! cargo run --release --bin shell -- connect 127.0.0.1:8000 -- 'echo hello; exit 3'
//! ```
//!
//! Over a network the wire is a session of Noise with a pre-shared key: encrypted, authenticated, and with new keys each
//! time. The key is a file that the server makes at its first start. A client of the same user finds it; for any other
//! user it has to be copied. Over a Unix socket the proof is the client's user, as the kernel reports it. Output arrives
//! as it is printed, stdout and stderr apart, and the exit status becomes the client's. If a client was given a command,
//! its stdin is the command's. Ctrl-C ends the command, and a second one the client. At the prompt Ctrl-C discards the
//! typed line, and `exit` or Ctrl-D ends the client.
//!
//! A command is ended when its connection or its server ends, when it runs for longer than `--timeout`, or when it prints
//! more than `--max-output`. When a command ends, all its processes end with it: those in the background, and those that
//! have left its process group. They get SIGTERM, and a second later SIGKILL.
//!
//! `--wire document` speaks the wire of the tutorial's programs, which is a length and then the output: `document.rs` says
//! what cannot be known on it.
//!
//! Limits: the command has no terminal, so that editors do not work, and the input of a command that is typed at the
//! prompt is empty. Each line is a shell of its own: `cd` and variables end with it. Some processes cannot be ended and
//! are left: those of another user (`sudo`), those that leave their session and kill their supervisor, and on
//! systems other than Linux those that leave their process group. Commands have the server's folder and environment, and the
//! rights of its user. Only `--allow` protects the server from its clients, and only as far as the allowed programs
//! start no others, as `find` does. A shell that is starting a program when Ctrl-C arrives may react only when that
//! program has ended, as at any terminal. If a client's machine disappears, the server notices it within a quarter of an
//! hour, and ends the command. A connection has one command at a time. `inline` serves one client after the other, and
//! under `pool` silent clients occupy the workers for the ten seconds that a login may take.

mod answer;
mod client;
mod command;
mod document;
mod document_client;
mod encoding;
mod foreign;
mod handler;
mod handover;
mod input;
mod interrupts;
mod link;
mod login;
mod penalty;
mod processes;
mod prompt;
mod protocol;
mod ready;
mod run;
mod screen;
mod seal;
mod secret;
mod server;
mod settings;
mod signals;
mod supervise;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use client::{Client, Leave};
use common::Endpoint;
use common::{Failure, Program};
use document_client::DocumentClient;
use encoding_rs::Encoding;
use server::{Serve, ShellServer};
use settings::WireName;
use socket2::Socket;

/// Runs commands for clients that have the secret.
///
/// The processes that a command leaves in the background end with it, on Linux also those that have left its process
/// group by setsid. Processes of another user, as by sudo, cannot be ended and are left, and so are those that leave
/// their session and kill their supervisor, the process between the command and the server.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until Ctrl-C
    Serve(Box<Serve>),
    /// Run commands: those that are typed, or the one that is given, whose exit status is then the client's
    Connect(Connect),
    /// Ask a running server, or change it
    Control(common::ControlOptions),
    /// Start one command and end all its processes; the server starts this itself
    #[command(hide = true)]
    Supervise {
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Keep the connections of failed logins for a while; the server starts this itself
    #[command(hide = true)]
    Keep,
}

#[derive(Args)]
struct Connect {
    /// The server's address
    #[arg(value_name = "ADDR", value_parser = Endpoint::of_streams)]
    #[arg(default_value = ShellServer::DEFAULT_BIND)]
    address: Endpoint,
    #[command(flatten)]
    entry: EntryOptions,
    /// The encoding of the commands' output, if it is not UTF-8: gbk, or any other label that the web uses for an encoding
    #[arg(long, value_name = "LABEL", value_parser = encoding::by_label)]
    encoding: Option<&'static Encoding>,
    /// Give the COMMAND no input, as at a terminal. Without this its input is this program's stdin, as in
    /// `tar c . | .. connect ADDR -- tar x`
    #[arg(short, long)]
    no_input: bool,
    /// One argument is a line for the server's shell; several are a program and its arguments, as they are
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How a client proves that it may run commands; the same on both sides.
#[derive(Args)]
struct EntryOptions {
    /// The secret, 32 bytes in a file that nobody else may read; a server makes it if there is none [default:
    /// socketserver-shell/secret in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Without any proof, and in the open: over loopback and Unix sockets only
    #[arg(long, conflicts_with = "secret_file")]
    no_auth: bool,
    /// The protocol between client and server
    #[arg(long, value_enum, default_value_t = WireName::Frames)]
    wire: WireName,
}

impl EntryOptions {
    fn check(&self) -> Result<(), Failure> {
        if self.wire == WireName::Document && !self.no_auth {
            let why = "--wire document has no login, and so it needs --no-auth";
            return Err(Failure::Usage(why.to_owned()));
        }
        Ok(())
    }

    fn secret_file(&self) -> Result<PathBuf, Failure> {
        self.secret_file.clone().map_or_else(secret::default_path, Ok)
    }
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(options) => common::exit(server::serve(*options)),
        Command::Connect(options) => match connect(&options) {
            Ok(status) | Err(Leave::Silent(status)) => ExitCode::from(status),
            Err(Leave::Failed(failure)) => common::exit(Err(failure)),
        },
        Command::Control(options) => common::exit(common::control(&options)),
        Command::Supervise { arguments } => supervise::supervise(&arguments),
        Command::Keep => common::exit(penalty::keep().map_err(Failure::from)),
    }
}

fn connect(options: &Connect) -> Result<u8, Leave> {
    let Connect { address, entry, encoding, no_input, command } = options;
    entry.check()?;
    if address.is_datagram() {
        return Err(Failure::Usage(format!("{address}: this program needs a stream")).into());
    }
    let secret_file = match address {
        Endpoint::Unix(_) => None,
        _ if entry.no_auth => None,
        _ => Some(entry.secret_file()?),
    };
    let line = match &command[..] {
        [] => None,
        [line] => Some(line.as_bytes().to_vec()),
        several => Some(
            shlex::bytes::try_join(several.iter().map(|word| word.as_bytes()))
                .map_err(|error| Failure::Usage(format!("the command cannot be sent: {error}")))?,
        ),
    };
    let socket = common::client::connect(address)?;
    check_server(&socket, address, entry.no_auth)?;
    if entry.wire == WireName::Document {
        let client = DocumentClient::new(&socket, address, *encoding)?;
        return match line {
            Some(line) => client.run(&line, *no_input),
            None => client.prompt(),
        };
    }
    let mut client = Client::log_in(socket, address, secret_file.as_deref(), *encoding)?;
    match line {
        Some(line) => {
            let input = !no_input && !io::stdin().is_terminal();
            Ok(prompt::show(&client.run(&line, input)?))
        }
        None => prompt::prompt(&mut client),
    }
}

/// Fails if the server at the other end may not be trusted. Commands must not go to a server that another user may have
/// put there, and commands in the clear must not leave this machine.
fn check_server(socket: &Socket, address: &Endpoint, no_auth: bool) -> Result<(), Failure> {
    if let Some(peer) = socket.peer_addr()?.as_socket() {
        if no_auth && !peer.ip().to_canonical().is_loopback() {
            let why = format!("--no-auth is for this machine only, and {address} is another");
            return Err(Failure::Usage(why));
        }
        return Ok(());
    }
    match owner_of(socket)? {
        Some(owner) if !no_auth => {
            let me = rustix::process::geteuid().as_raw();
            if owner != me && owner != 0 && me != 0 {
                let why = "it would read all that is sent; --no-auth connects all the same";
                return Err(Failure::Other(format!(
                    "the server at {address} is run by user {owner}: {why}"
                )));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The user at the other end of a Unix socket, if the system reports it.
#[cfg(target_os = "linux")]
fn owner_of(socket: &Socket) -> Result<Option<u32>, Failure> {
    let owner = rustix::net::sockopt::socket_peercred(socket).map_err(std::io::Error::from)?;
    Ok(Some(owner.uid.as_raw()))
}

#[cfg(not(target_os = "linux"))]
fn owner_of(_: &Socket) -> Result<Option<u32>, Failure> {
    Ok(None)
}
