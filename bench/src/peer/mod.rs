//! The peers that are part of this program, each as its own users would write it, and no worse.

mod epoll;
mod fork;
mod http;
mod hyper;
mod inline;
mod may;
mod mmsg;
mod nginx;
mod pool;
pub mod store;
mod threads;
mod tls;
mod tokio;

pub use nginx::is_there as has_nginx;

use std::fmt;
use std::io::{self, Write};

use clap::ValueEnum;

/// A server's job; the words are those of our own program's `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Send back every byte as it comes
    Echo,
    /// Send back one line, and close
    Line,
    /// Count the bytes, and answer the count at the end
    Sink,
    /// Send every line to all the others
    Chat,
    /// Send back every datagram
    Datagram,
    /// Answer HTTP requests
    Web,
    /// Store files
    Store,
    /// Send back every byte through TLS
    TlsEcho,
    /// Send one line through TLS, and close
    TlsLine,
}

/// The peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Edge-triggered epoll on one thread
    Epoll,
    /// recvmmsg and sendmmsg on one thread
    Mmsg,
    /// A std thread per connection
    Threads,
    /// Four threads that share accept
    Pool,
    /// A process per connection
    Fork,
    /// Accept and serve, one after the other
    Inline,
    /// tokio, runtime with as many threads as processors
    Tokio,
    /// tokio, runtime on one thread
    TokioCurrent,
    /// hyper on tokio
    Hyper,
    /// may, and may_minihttp
    May,
    /// nginx with one worker
    Nginx,
}

/// Serves until it is killed.
pub fn serve(peer: Peer, mode: Mode) -> io::Result<()> {
    match peer {
        Peer::Epoll => epoll::serve(mode),
        Peer::Mmsg => mmsg::serve(mode),
        Peer::Threads if mode == Mode::Store => store::serve(),
        Peer::Threads if matches!(mode, Mode::TlsEcho | Mode::TlsLine) => tls::serve(mode),
        Peer::Threads => threads::serve(mode),
        Peer::Pool => pool::serve(mode),
        Peer::Fork => fork::serve(mode),
        Peer::Inline => inline::serve(mode),
        Peer::Tokio => tokio::serve(mode, true),
        Peer::TokioCurrent => tokio::serve(mode, false),
        Peer::Hyper => hyper::serve(mode),
        Peer::May => may::serve(mode),
        Peer::Nginx => nginx::serve(mode),
    }
}

/// The line of a server that speaks first, as long as that of the program `time`.
const GREETING: &[u8; 40] = b"a line of forty bytes, as time's is....\n";

/// Prints the first line of a server, which says where it listens.
fn announce(address: impl fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {address}")?;
    stdout.flush()
}

/// The error of a peer for a mode that it does not have.
fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this peer does not have this mode"))
}
