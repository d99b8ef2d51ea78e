//! The servers that are compared: how they are started, and which loads they can take.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::load::{self, Load};
use crate::peer::{self, Mode, Peer, has_nginx};
use crate::process::Trouble;
use crate::tls;

/// A server in the tables.
#[derive(Debug)]
pub struct Server {
    pub name: &'static str,
    program: Program,
    modes: &'static [Mode],
    /// Connections that it can serve at the same time, if that is bounded.
    at_once: usize,
}

#[derive(Debug)]
enum Program {
    /// Our own programs, under a mixin.
    Ours(&'static str),
    /// Our own programs under Green, with two workers.
    GreenOfTwo,
    /// This program, as a peer.
    Peer(Peer),
    /// CPython's socketserver, under a mixin.
    Python(&'static str),
    /// Go's net.
    Go,
}

const PYTHON: &str = include_str!("../peers/sockets.py");
/// This server needs a processor for each worker, so that it is measured with `--unpinned` only.
pub const TWO_WORKERS: &str = "Green, 2 workers";
const UNBOUNDED: usize = usize::MAX;
/// The mixins that our programs have. Rows of others are skipped.
const MIXINS: [&str; 5] = ["inline", "threading", "pool", "forking", "green"];

/// All modes of streams.
const STREAMS: &[Mode] = &[Mode::Echo, Mode::Line, Mode::Sink, Mode::Chat, Mode::Web, Mode::Store];
const ALL: &[Mode] = &[Mode::Echo, Mode::Line, Mode::Sink, Mode::Chat, Mode::Datagram];
const EVERY: &[Mode] = &[
    Mode::Echo,
    Mode::Line,
    Mode::Sink,
    Mode::Chat,
    Mode::Datagram,
    Mode::Web,
    Mode::Store,
    Mode::TlsEcho,
    Mode::TlsLine,
];
/// The modes of servers that have a process for each connection, in which chat members could not see each other.
/// `TlsEcho` is not among them: handshakes of more connections than there may be children would wait for each other.
const APART: &[Mode] = &[Mode::Echo, Mode::Line, Mode::Sink, Mode::TlsLine];
const TLS: &[Mode] = &[Mode::TlsEcho, Mode::TlsLine];

const fn ours(
    name: &'static str,
    mixin: &'static str,
    modes: &'static [Mode],
    at_once: usize,
) -> Server {
    Server { name, program: Program::Ours(mixin), modes, at_once }
}

const fn peer(name: &'static str, peer: Peer, modes: &'static [Mode], at_once: usize) -> Server {
    Server { name, program: Program::Peer(peer), modes, at_once }
}

const fn python(
    name: &'static str,
    mixin: &'static str,
    modes: &'static [Mode],
    at_once: usize,
) -> Server {
    Server { name, program: Program::Python(mixin), modes, at_once }
}

/// All servers, in the order of the tables: ours first.
pub const SERVERS: &[Server] = &[
    ours(
        "Inline",
        "inline",
        &[Mode::Echo, Mode::Line, Mode::Sink, Mode::Datagram, Mode::TlsEcho, Mode::TlsLine],
        1,
    ),
    ours("Threading", "threading", EVERY, UNBOUNDED),
    ours(
        "Pool",
        "pool",
        &[
            Mode::Echo,
            Mode::Line,
            Mode::Sink,
            Mode::Datagram,
            Mode::Web,
            Mode::Store,
            Mode::TlsEcho,
            Mode::TlsLine,
        ],
        4,
    ),
    ours("Forking", "forking", APART, 64),
    ours("Prefork", "prefork", APART, 1),
    ours("Green", "green", EVERY, UNBOUNDED),
    Server { name: TWO_WORKERS, program: Program::GreenOfTwo, modes: ALL, at_once: UNBOUNDED },
    peer("epoll", Peer::Epoll, &[Mode::Echo, Mode::Line, Mode::Web], UNBOUNDED),
    peer("mmsg", Peer::Mmsg, &[Mode::Datagram], UNBOUNDED),
    peer("std threads", Peer::Threads, STREAMS, UNBOUNDED),
    peer("pool of 4", Peer::Pool, &[Mode::Line], 4),
    peer("bare fork", Peer::Fork, &[Mode::Line], UNBOUNDED),
    peer("accept inline", Peer::Inline, &[Mode::Line], 1),
    peer("tokio", Peer::Tokio, ALL, UNBOUNDED),
    peer("tokio current", Peer::TokioCurrent, ALL, UNBOUNDED),
    peer("may", Peer::May, &[Mode::Echo, Mode::Line], UNBOUNDED),
    peer("hyper", Peer::Hyper, &[Mode::Web], UNBOUNDED),
    peer("may_minihttp", Peer::May, &[Mode::Web], UNBOUNDED),
    peer("nginx", Peer::Nginx, &[Mode::Web], UNBOUNDED),
    peer("std threads + rustls", Peer::Threads, TLS, UNBOUNDED),
    peer("tokio-rustls", Peer::Tokio, TLS, UNBOUNDED),
    peer("tokio-rustls current", Peer::TokioCurrent, TLS, UNBOUNDED),
    peer("nginx stream", Peer::Nginx, TLS, UNBOUNDED),
    Server { name: "Go", program: Program::Go, modes: ALL, at_once: UNBOUNDED },
    python("Python serial", "serial", &[Mode::Line, Mode::Sink, Mode::Datagram], 1),
    python("Python threading", "threading", ALL, UNBOUNDED),
    // More than 40 children wait for each other.
    python("Python forking", "forking", &[Mode::Line], 40),
];

impl Server {
    /// Whether it is one of ours.
    pub fn is_ours(&self) -> bool {
        matches!(self.program, Program::Ours(_) | Program::GreenOfTwo)
    }

    /// Whether it is made for this load. If not, it is not even mentioned.
    pub fn can(&self, load: Load) -> bool {
        self.modes.contains(&load.mode()) && load.at_once() <= self.at_once
    }

    /// The command that starts it.
    pub fn command(&self, load: Load) -> Result<Command, Trouble> {
        let skipped = |why: &str| Trouble::Skipped(why.to_owned());
        let mode = load.mode();
        if mode == Mode::Web && !load::has_wrk() {
            return Err(skipped("wrk is not installed"));
        }
        // The upload program is the client of all servers as well.
        if mode == Mode::Store && !beside("upload").is_file() {
            return Err(skipped("not built: cargo build --release --bin upload"));
        }
        match self.program {
            Program::Ours(mixin) => ours_command(mixin, 1, mode),
            Program::GreenOfTwo => ours_command("green", 2, mode),
            Program::Peer(Peer::Nginx) if !has_nginx() => Err(skipped("nginx is not installed")),
            Program::Peer(peer) => {
                let mut command = Command::new(beside("bench"));
                command.args(["peer", &word(&peer), &word(&mode)]);
                command.env(peer::store::FOLDER, load::store::folder());
                Ok(command)
            }
            Program::Python(mixin) => {
                let there = Command::new("python3").arg("--version").output().is_ok();
                let mut command = Command::new("python3");
                command.args(["-c", PYTHON, mixin, &word(&mode)]);
                there.then_some(command).ok_or_else(|| skipped("Python is not installed"))
            }
            Program::Go => {
                let program = beside("sockets-go");
                let mut command = Command::new(&program);
                command.arg(word(&mode));
                program.is_file().then_some(command).ok_or_else(|| {
                    skipped(
                        "not built: go build -o target/release/sockets-go bench/peers/sockets.go",
                    )
                })
            }
        }
    }
}

/// A file in the folder of this program, where Cargo puts our own programs as well.
pub fn beside(name: &str) -> PathBuf {
    env::current_exe().unwrap_or_default().with_file_name(name)
}

/// The word for a value on the command line.
fn word(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

/// The command of one of our own programs. Only Green has a choice of `workers`.
fn ours_command(mixin: &str, workers: u8, mode: Mode) -> Result<Command, Trouble> {
    let name = match mode {
        Mode::Web => "web",
        Mode::Store => "upload",
        Mode::Chat => "chat",
        // The server of `time` speaks first.
        Mode::TlsLine => "time",
        _ => "echo",
    };
    if !MIXINS.contains(&mixin) {
        return Err(Trouble::Skipped("this version has no such mixin".to_owned()));
    }
    let program = beside(name);
    if !program.is_file() {
        let why = format!("not built: cargo build --release --bin {name}");
        return Err(Trouble::Skipped(why));
    }
    let bind = if mode == Mode::Datagram { "udp:127.0.0.1:0" } else { "127.0.0.1:0" };
    let mut command = Command::new(program);
    command.args(["serve", "--bind", bind, "--mixin", mixin]);
    if mixin == "green" {
        command.args(["--workers", &workers.to_string()]);
    }
    // All clients come from one address.
    command.args(["--max-per-peer", "10000"]);
    match mode {
        Mode::Datagram | Mode::Web => {}
        Mode::Store => {
            command.arg("--dir").arg(load::store::folder());
        }
        // The members of this load say more than a person would.
        Mode::Chat => {
            command.args(["--pace", "0"]);
        }
        Mode::TlsEcho | Mode::TlsLine => {
            command.args(["--tls-cert", tls::CERTIFICATE, "--tls-key", tls::KEY]);
        }
        _ => {
            command.args(["--mode", &word(&mode)]);
        }
    }
    Ok(command)
}
