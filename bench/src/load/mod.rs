//! The loads: each does something to a server, and counts operations.

mod chat;
mod churn;
mod connect;
mod handshakes;
mod http;
mod idle;
mod pingpong;
mod session;
pub mod store;
mod udp;
mod upload;

pub use http::is_there as has_wrk;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use crate::figures::{Figure, Figures};
use crate::peer::Mode;
use crate::process::Process;

/// A load with its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Connections that each send 64 bytes, wait for the echo, and repeat.
    Pingpong(usize),
    /// Clients that connect anew for every line.
    Churn(usize),
    /// Sockets, and datagrams outstanding on each.
    Udp(usize, usize),
    /// GiB through one connection.
    Upload(usize),
    /// GiB of a file through one connection, stored by the upload program.
    Store(usize),
    /// Connections that say nothing.
    Idle(usize),
    /// Members, and lines outstanding among them all.
    Chat(usize, usize),
    /// A chat with one more member, which reads nothing.
    Stalled(usize, usize),
    /// Connections, and requests outstanding on each.
    Http(usize, usize),
    /// Connections that each send 64 bytes through TLS, wait for the echo, and repeat.
    TlsPingpong(usize),
    /// Clients that connect anew, with a whole handshake, for every line.
    TlsHandshakes(usize),
    /// As `TlsHandshakes`, but a client resumes the session of its previous connection.
    TlsResumed(usize),
}

/// Settings of all measurements of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub warm_up: Duration,
    pub time: Duration,
}

impl Load {
    /// All loads that the goals are about.
    pub const ALL: [Self; 25] = [
        Self::Pingpong(1),
        Self::Pingpong(64),
        Self::Pingpong(1_000),
        Self::Pingpong(10_000),
        Self::Churn(1),
        Self::Churn(64),
        Self::Udp(1, 1),
        Self::Udp(16, 16),
        Self::Upload(4),
        Self::Store(1),
        Self::Idle(1_000),
        Self::Idle(10_000),
        Self::Chat(10, 1),
        Self::Chat(10, 8),
        Self::Chat(100, 1),
        Self::Chat(100, 8),
        Self::Stalled(100, 8),
        Self::Http(4, 1),
        Self::Http(4, 16),
        Self::Http(64, 1),
        Self::Http(64, 16),
        Self::TlsPingpong(1),
        Self::TlsPingpong(64),
        Self::TlsHandshakes(64),
        Self::TlsResumed(64),
    ];

    /// Its kind, the first word of its name.
    pub fn family(self) -> &'static str {
        match self {
            Self::Pingpong(_) => "pingpong",
            Self::Churn(_) => "churn",
            Self::Udp(..) => "udp",
            Self::Upload(_) => "upload",
            Self::Store(_) => "store",
            Self::Idle(_) => "idle",
            Self::Chat(..) => "chat",
            Self::Stalled(..) => "stalled",
            Self::Http(..) => "http",
            Self::TlsPingpong(_) => "tls-pingpong",
            Self::TlsHandshakes(_) => "tls-handshakes",
            Self::TlsResumed(_) => "tls-resumed",
        }
    }

    /// The server's job.
    pub fn mode(self) -> Mode {
        match self {
            Self::Pingpong(_) | Self::Idle(_) => Mode::Echo,
            Self::Churn(_) => Mode::Line,
            Self::Udp(..) => Mode::Datagram,
            Self::Upload(_) => Mode::Sink,
            Self::Store(_) => Mode::Store,
            Self::Chat(..) | Self::Stalled(..) => Mode::Chat,
            Self::Http(..) => Mode::Web,
            Self::TlsPingpong(_) => Mode::TlsEcho,
            Self::TlsHandshakes(_) | Self::TlsResumed(_) => Mode::TlsLine,
        }
    }

    /// Connections that are open, and have to be served, at the same time. Those of churn are short,
    /// so that a server may take one after the other.
    pub fn at_once(self) -> usize {
        match self {
            Self::Pingpong(count) | Self::Idle(count) | Self::TlsPingpong(count) => count,
            Self::Chat(members, _) => members,
            Self::Stalled(members, _) => members + 1,
            Self::Http(connections, _) => connections,
            Self::Upload(_) | Self::Store(_) => 1,
            Self::Churn(_) | Self::Udp(..) | Self::TlsHandshakes(_) | Self::TlsResumed(_) => 0,
        }
    }

    /// The name of an operation, in the plural.
    pub fn operations(self) -> &'static str {
        match self {
            Self::Pingpong(_) | Self::Http(..) | Self::TlsPingpong(_) => "requests",
            Self::Churn(_) | Self::Idle(_) => "connections",
            Self::TlsHandshakes(_) | Self::TlsResumed(_) => "handshakes",
            Self::Udp(..) => "replies",
            Self::Upload(_) | Self::Store(_) => "MiB",
            Self::Chat(..) | Self::Stalled(..) => "deliveries",
        }
    }

    /// The most important figure of the load.
    pub fn figure(self) -> Figure {
        match self {
            Self::Churn(_) | Self::TlsHandshakes(_) | Self::TlsResumed(_) => Figure::Cpu,
            Self::Idle(_) => Figure::Pss,
            _ => Figure::Rate,
        }
    }

    /// Measures the load at a server that has just been started.
    pub fn measure(self, process: &Process, plan: Plan) -> io::Result<Figures> {
        let address = process.address();
        match self {
            Self::Pingpong(connections) => {
                session::measure(&mut pingpong::Pingpong::new(address, connections)?, process, plan)
            }
            Self::Churn(clients) => {
                session::measure(&mut churn::Churn::new(address, clients)?, process, plan)
            }
            Self::TlsPingpong(connections) => {
                let mut load = pingpong::Pingpong::new_tls(address, connections)?;
                session::measure(&mut load, process, plan)
            }
            Self::TlsHandshakes(clients) | Self::TlsResumed(clients) => {
                let resumes = matches!(self, Self::TlsResumed(_));
                let mut load = handshakes::Handshakes::new(address, clients, resumes)?;
                session::measure(&mut load, process, plan)
            }
            Self::Udp(sockets, outstanding) => {
                session::measure(&mut udp::Udp::new(address, sockets, outstanding)?, process, plan)
            }
            Self::Chat(members, window) => {
                session::measure(&mut chat::Chat::new(address, members, window)?, process, plan)
            }
            Self::Stalled(members, window) => {
                let mut chat = chat::Chat::new(address, members, window)?;
                chat.stall(address)?;
                session::measure(&mut chat, process, plan)
            }
            Self::Upload(size) => upload::measure(process, size),
            Self::Store(size) => store::measure(process, size, &crate::servers::beside("upload")),
            Self::Idle(connections) => idle::measure(process, connections),
            Self::Http(connections, window) => http::measure(process, connections, window, plan),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.family())?;
        match *self {
            Self::Pingpong(size)
            | Self::Churn(size)
            | Self::Upload(size)
            | Self::Store(size)
            | Self::Idle(size)
            | Self::TlsPingpong(size)
            | Self::TlsHandshakes(size)
            | Self::TlsResumed(size) => {
                write!(f, "-{size}")
            }
            Self::Udp(count, each)
            | Self::Chat(count, each)
            | Self::Stalled(count, each)
            | Self::Http(count, each) => {
                write!(f, "-{count}x{each}")
            }
        }
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no load: write pingpong-64, or udp-16x16");
        let (family, size) = text.rsplit_once('-').ok_or_else(wrong)?;
        let number = |text: &str| {
            text.parse().ok().filter(|number| (1..=1_000_000).contains(number)).ok_or_else(wrong)
        };
        let sized: Option<fn(usize) -> Self> = match family {
            "pingpong" => Some(Self::Pingpong),
            "churn" => Some(Self::Churn),
            "upload" => Some(Self::Upload),
            "store" => Some(Self::Store),
            "idle" => Some(Self::Idle),
            "tls-pingpong" => Some(Self::TlsPingpong),
            "tls-handshakes" => Some(Self::TlsHandshakes),
            "tls-resumed" => Some(Self::TlsResumed),
            _ => None,
        };
        if let Some(sized) = sized {
            return number(size).map(sized);
        }
        let (count, each) = size.split_once('x').ok_or_else(wrong)?;
        let (count, each) = (number(count)?, number(each)?);
        match family {
            "udp" if each <= crate::sys::BATCH => Ok(Self::Udp(count, each)),
            "chat" if count >= 2 => Ok(Self::Chat(count, each)),
            "stalled" if count >= 2 => Ok(Self::Stalled(count, each)),
            "http" => Ok(Self::Http(count, each)),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_read_back_from_its_name() {
        for load in Load::ALL {
            assert_eq!(load.to_string().parse(), Ok(load));
        }
        for wrong in ["pingpong", "pingpong-0", "udp-16", "udp-1x100", "chat-1x1", "tea-1", "-"] {
            assert!(wrong.parse::<Load>().is_err(), "{wrong}");
        }
    }
}
