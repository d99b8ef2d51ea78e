//! Sockets that this process has from another one: a service manager that has opened them before it started the program
//! (socket activation), or a predecessor that hands them over.
//!
//! ```text
//! the environment, once:  LISTEN_PID is this process?  LISTEN_FDS, LISTEN_FDNAMES  -> sys::take_passed -+
//! add(name, fd)  ---------------------------------------------------------------------------------------+-> the table
//! take(which, kind): the socket is of this kind and listens?  -> its only owner: a server
//! ```
//!
//! Others may have such a socket too: a server on it never calls shutdown(2) for it, removes no file, leaves its accept
//! queue alone when it closes, and keeps the length of that queue.
//!
//! The variables stay in the environment: to remove one is a race with any other thread that reads it. So this table, and
//! not the environment, knows what is taken; `sys` marks each descriptor to be closed in started programs; and the helpers
//! of `command` take the variables out of a program's environment.

use std::env;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use socket2::{Domain, SockRef, Type};

use crate::address::{Activated, Address};
use crate::error::{Error, Result};
use crate::sys;

/// The kind of a socket, which decides the transport that can serve on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketKind {
    /// A listening socket of TCP: [`Tcp`](crate::Tcp).
    TcpListener,
    /// A socket of UDP: [`Udp`](crate::Udp).
    UdpSocket,
    /// A listening Unix stream socket: [`UnixStream`](crate::UnixStream).
    UnixListener,
    /// A Unix datagram socket: [`UnixDatagram`](crate::UnixDatagram).
    UnixDatagram,
    /// A connection, and no listener: of a unit with `Accept=yes`.
    Connection,
    /// A stream socket that does not listen.
    NotListening,
    /// Another kind of socket, or no socket.
    Other,
}

impl SocketKind {
    /// Finds out the kind of a descriptor.
    fn of(fd: impl AsFd) -> Self {
        let socket = SockRef::from(&fd);
        let (Ok(kind), Ok(address)) = (socket.r#type(), socket.local_addr()) else {
            return Self::Other;
        };
        let is_inet = matches!(address.domain(), Domain::IPV4 | Domain::IPV6);
        if !is_inet && address.domain() != Domain::UNIX {
            return Self::Other;
        }
        match (kind, is_inet) {
            (Type::STREAM, _) if socket.peer_addr().is_ok() => Self::Connection,
            (Type::STREAM, _) if !socket.is_listener().unwrap_or(false) => Self::NotListening,
            (Type::STREAM, true) => Self::TcpListener,
            (Type::STREAM, false) => Self::UnixListener,
            (Type::DGRAM, true) => Self::UdpSocket,
            (Type::DGRAM, false) => Self::UnixDatagram,
            _ => Self::Other,
        }
    }

    /// The line of a `.socket` unit that makes one.
    fn line(self) -> &'static str {
        match self {
            Self::UnixListener => "ListenStream=/PATH and Accept=no",
            Self::UdpSocket => "ListenDatagram=HOST:PORT",
            Self::UnixDatagram => "ListenDatagram=/PATH",
            _ => "ListenStream=HOST:PORT and Accept=no",
        }
    }
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcpListener => "a TCP socket",
            Self::UdpSocket => "a UDP socket",
            Self::UnixListener => "a Unix stream socket",
            Self::UnixDatagram => "a Unix datagram socket",
            Self::Connection => "a single connection",
            Self::NotListening => "a stream socket that does not listen",
            Self::Other => "no socket of TCP, UDP or Unix",
        })
    }
}

/// A socket that a service manager has passed to this process, as [`activated_sockets`] lists it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ActivatedSocket {
    /// Its place among those that were passed, from 0 on: for
    /// [`BindAddress::activated_number`](super::BindAddress::activated_number).
    pub number: usize,
    /// Its name: `FileDescriptorName=` of the unit, or the unit's own name. Several may have one name. `unknown` if the
    /// service manager has given no names.
    pub name: String,
    /// Its kind, which decides the transport.
    pub kind: SocketKind,
    /// The address that it is bound to.
    pub address: Address,
    /// Whether a server of this process has it.
    pub is_taken: bool,
}

impl fmt::Display for ActivatedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, name, kind, address, is_taken } = self;
        write!(f, "{number} ({name:?}): {kind} at {address}")?;
        if *is_taken { f.write_str(", taken by a server already") } else { Ok(()) }
    }
}

/// The sockets that a service manager has passed to this process, or that a predecessor has handed over; none if it was
/// started without.
///
/// For programs whose transports follow from what they are given. A program that knows its sockets binds to
/// [`BindAddress::activated`](super::BindAddress::activated).
///
/// # Errors
///
/// If the variables contradict each other, or name descriptors that are not there.
pub fn activated_sockets() -> Result<Vec<ActivatedSocket>> {
    let mut table = TABLE.lock();
    table.ask().map_err(|why| cannot_take(&"the activated sockets", why))?;
    Ok(table.entries.iter().map(|entry| entry.shown.clone()).collect())
}

/// All sockets of this kind that the process has or had.
static TABLE: Mutex<Table> = Mutex::new(Table { asked: None, entries: Vec::new() });

struct Table {
    /// The answer of the environment, once it was asked: an error stays one.
    asked: Option<Result<(), String>>,
    entries: Vec<Entry>,
}

struct Entry {
    shown: ActivatedSocket,
    /// None once a server has it.
    fd: Option<OwnedFd>,
}

/// Makes a socket known under a name, as if a service manager had passed it. It is closed in programs that this process
/// starts.
#[allow(dead_code, reason = "the handover of a predecessor calls it")]
pub(crate) fn add(name: &str, fd: OwnedFd) -> io::Result<()> {
    SockRef::from(&fd).set_cloexec(true)?;
    let mut table = TABLE.lock();
    // First those of the environment, which have the first numbers. An error of them is for those that want them.
    let _ = table.ask();
    table.push(name, fd);
    Ok(())
}

/// Takes a socket for a server. Each is taken once.
///
/// # Errors
///
/// If there is none, if it is of another kind, or if it is taken. The error says what there is, and what to write into the
/// unit. The socket can then still be taken.
pub(crate) fn take(which: &Activated, kind: SocketKind) -> Result<OwnedFd> {
    let mut table = TABLE.lock();
    let taken = table.ask().and_then(|()| table.take(which, kind));
    taken.map_err(|why| cannot_take(which, why))
}

fn cannot_take(what: &dyn fmt::Display, why: String) -> Error {
    Error::io("take", what, io::Error::new(io::ErrorKind::InvalidInput, why))
}

impl Table {
    /// Takes over what the environment names, at the first call.
    fn ask(&mut self) -> Result<(), String> {
        if self.asked.is_none() {
            let passed = Passed::from_environment();
            self.asked = Some(passed.map(|all| {
                all.into_iter().for_each(|(name, fd)| self.push(&name, fd));
            }));
        }
        self.asked.clone().unwrap_or(Ok(()))
    }

    fn push(&mut self, name: &str, fd: OwnedFd) {
        let address = SockRef::from(&fd).local_addr();
        let shown = ActivatedSocket {
            number: self.entries.len(),
            name: name.to_owned(),
            kind: SocketKind::of(&fd),
            address: address.map_or(Address::Unnamed, |address| Address::from_socket(&address)),
            is_taken: false,
        };
        self.entries.push(Entry { shown, fd: Some(fd) });
    }

    fn take(&mut self, which: &Activated, kind: SocketKind) -> Result<OwnedFd, String> {
        let is_named = |entry: &&mut Entry| match which {
            Activated::Only => true,
            Activated::Number(number) => entry.shown.number == *number,
            Activated::Name(name) => entry.shown.name == *name,
        };
        let fits = |entry: &&mut Entry| entry.shown.kind == kind && entry.fd.is_some();
        let all = self.list();
        let mut named: Vec<_> = self.entries.iter_mut().filter(is_named).collect();
        if *which == Activated::Only && named.iter().filter(|entry| fits(entry)).count() > 1 {
            return Err(format!("there are several: {all}; take one by its name or number"));
        }
        if let Some(entry) = named.iter_mut().find(|entry| fits(entry)) {
            entry.shown.is_taken = true;
            return entry.fd.take().ok_or_else(|| "it is taken".to_owned());
        }
        Err(match (&named[..], which) {
            ([], _) if all.is_empty() => no_socket(),
            ([], Activated::Name(name)) => format!(
                "there is none of this name, only {all}; write FileDescriptorName={name} into the .socket unit"
            ),
            ([], _) => format!("there is none of this number, only {all}"),
            ([one], _) if one.shown.kind == kind => {
                format!("it is {}; a socket is for one server", one.shown)
            }
            ([one, ..], _) => {
                let line = kind.line();
                format!(
                    "it is {}; this server needs {kind}: write {line} into the .socket unit",
                    one.shown
                )
            }
        })
    }

    /// All of them, for a message.
    fn list(&self) -> String {
        let all: Vec<_> = self.entries.iter().map(|entry| entry.shown.to_string()).collect();
        all.join("; ")
    }
}

/// Says how a program gets sockets, and why it has none.
fn no_socket() -> String {
    let why = match env::var("LISTEN_PID") {
        Ok(process) => {
            format!("LISTEN_PID is {process}, and this is process {}", std::process::id())
        }
        Err(_) => "LISTEN_PID is not set".to_owned(),
    };
    format!(
        "this process was started without sockets ({why}); start it by a .socket unit, or for a try by \
         systemd-socket-activate -l PORT PROGRAM"
    )
}

/// The names and descriptors that a service manager has passed.
struct Passed;

impl Passed {
    /// Takes over the descriptors that the environment names, if they are for this process. Every contradiction is an
    /// error, because a server at the wrong socket is worse than none.
    fn from_environment() -> Result<Vec<(String, OwnedFd)>, String> {
        let number = |name: &str| match env::var(name) {
            Ok(text) => match text.parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(format!("{name} is {text:?}, which is no number")),
            },
            Err(_) => Ok(None),
        };
        // Without it, or with another number, they are for the process that has started this one.
        if number("LISTEN_PID")? != usize::try_from(std::process::id()).ok() {
            return Ok(Vec::new());
        }
        let count = number("LISTEN_FDS")?.ok_or("LISTEN_PID is set, and LISTEN_FDS is not")?;
        let names = match env::var("LISTEN_FDNAMES") {
            Ok(names) => names.split(':').map(str::to_owned).collect(),
            // An older manager, or one that was told no names: the word is sd_listen_fds_with_names(3)'s.
            Err(_) => vec!["unknown".to_owned(); count.min(MOST_NAMES)],
        };
        if names.len() != count {
            return Err(format!(
                "LISTEN_FDS is {count}, and LISTEN_FDNAMES has {} names",
                names.len()
            ));
        }
        let fds = sys::take_passed(count).map_err(|(number, error)| {
            format!("LISTEN_FDS is {count}, and descriptor {number} cannot be taken: {error}")
        })?;
        Ok(names.into_iter().zip(fds).collect())
    }
}

/// More than a process may have descriptors: a number that is no number of sockets costs no memory.
const MOST_NAMES: usize = 1 << 20;
