//! Sockets that this process has from another: a service manager that has opened them before it started the program
//! (socket activation), or a predecessor that hands them over.
//!
//! ```text
//! the environment, once:  LISTEN_PID is this process?  LISTEN_FDS, LISTEN_FDNAMES  -> sys::take_passed -+
//! a predecessor's sockets, with their names and numbers there        ------------------------------ add -+-> the table
//! take(which, kind): the socket is of this kind and listens?  -> its only owner: a server
//! ```
//!
//! So each successor finds its sockets by the same names and numbers as the process that the service manager has started.
//! Sockets that the predecessor has not taken are not handed over.
//!
//! Other processes may have such a socket too. So a server on it never calls shutdown(2) for it, removes no file,
//! leaves its accept queue alone when it closes, and keeps the length of that queue.
//!
//! The variables stay in the environment, because removing one is a race with any other thread that reads it. So this
//! table, and not the environment, knows which sockets are taken. `sys` marks each descriptor to be closed in started
//! programs, and `handler/spawned_programs.rs` takes the variables out of a program's environment.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use socket2::{Domain, SockRef, Type};

use crate::address::Address;
use crate::bind_address::{Activated, BindAddress};
use crate::error::{Error, Result};
use crate::process::variable;
use crate::sys;

/// The kind of a socket, which decides the transport that can serve on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketKind {
    /// A listening socket of TCP: [`Tcp`](crate::transport::Tcp).
    TcpListener,
    /// A socket of UDP: [`Udp`](crate::transport::Udp).
    UdpSocket,
    /// A listening Unix stream socket: [`UnixStream`](crate::transport::UnixStream).
    UnixListener,
    /// A Unix datagram socket: [`UnixDatagram`](crate::transport::UnixDatagram).
    UnixDatagram,
    /// A connection and no listener: from a unit with `Accept=yes`.
    Connection,
    /// A stream socket that does not listen.
    NotListening,
    /// Another kind of socket, or no socket.
    Other,
}

impl SocketKind {
    /// Returns the kind of socket that a descriptor is.
    ///
    /// Never fails: a descriptor that is no socket at all is [`Other`](Self::Other).
    fn of(fd: impl AsFd) -> Self {
        // Three calls are needed: for the type, for the family (that of the socket's own address), and for whether the
        // socket is an end of a connection.
        let socket = SockRef::from(&fd);
        // The descriptor is no socket, but a file that the manager keeps for the program (`FDSTORE`), for example.
        let (Ok(kind), Ok(address)) = (socket.r#type(), socket.local_addr()) else {
            return Self::Other;
        };
        let is_inet = matches!(address.domain(), Domain::IPV4 | Domain::IPV6);
        if !is_inet && address.domain() != Domain::UNIX {
            return Self::Other;
        }
        match (kind, is_inet) {
            // A connection does not listen either, but the message for it says more, so this case comes first.
            (Type::STREAM, _) if socket.peer_addr().is_ok() => Self::Connection,
            (Type::STREAM, _) if !sys::is_listener(fd.as_fd()).unwrap_or(false) => {
                Self::NotListening
            }
            (Type::STREAM, true) => Self::TcpListener,
            (Type::STREAM, false) => Self::UnixListener,
            (Type::DGRAM, true) => Self::UdpSocket,
            (Type::DGRAM, false) => Self::UnixDatagram,
            _ => Self::Other,
        }
    }

    /// Whether a server on such a socket has a path or an abstract name. (Only for the four kinds that a server takes.)
    pub(super) fn is_unix(self) -> bool {
        matches!(self, Self::UnixListener | Self::UnixDatagram)
    }

    /// The type of the socket: streams or datagrams. (Only for the four kinds that a server takes.)
    pub(super) fn socket_type(self) -> Type {
        match self {
            Self::UdpSocket | Self::UnixDatagram => Type::DGRAM,
            _ => Type::STREAM,
        }
    }

    /// The addresses that a program has asked such a server to bind to: those of a host name, or else one. Never empty.
    pub(super) fn addresses(self, asked: &BindAddress) -> Result<Vec<Address>> {
        if self.is_unix() {
            return Ok(vec![asked.to_unix()?]);
        }
        Ok(asked.to_inet()?.into_iter().map(Address::from).collect())
    }

    /// The settings of a `.socket` unit that make such a socket.
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
    /// The socket's place among the passed ones, counted from 0.
    /// [`BindAddress::activated_number`](super::BindAddress::activated_number) takes it.
    pub number: usize,
    /// The socket's name: `FileDescriptorName=` of the unit, or the unit's own name. Several sockets may have the same
    /// name. `unknown` if the service manager has given no names.
    pub name: String,
    /// The socket's kind, which decides the transport.
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

/// The sockets that a service manager has passed to this process, or to the first of its predecessors. Those of a predecessor
/// are listed if they were handed over, and have the same names and numbers as there. Empty if neither was started by a
/// service manager.
///
/// In a process that [takes another one's place](crate::handover) they are known as soon as it has its
/// [`Handover`](crate::handover::Handover). A successor gets the sockets on which its predecessor has served.
///
/// This is for programs that choose their transports by the sockets that they get. A program that knows its sockets binds
/// to [`BindAddress::activated`](super::BindAddress::activated).
///
/// # Errors
///
/// If the variables contradict each other, or name descriptors that are not there.
pub fn activated_sockets() -> Result<Vec<ActivatedSocket>> {
    // The lock is held while the environment is read, so that two threads do not both take the descriptors
    // that it names.
    let mut table = SOCKET_TABLE.lock();
    table.ask().map_err(|why| cannot_take(&"the activated sockets", why))?;
    Ok(table.entries.iter().map(|entry| entry.shown.clone()).collect())
}

/// All sockets that were passed to this process, those that servers have taken included.
static SOCKET_TABLE: Mutex<SocketTable> =
    Mutex::new(SocketTable { asked: None, entries: Vec::new() });

/// The sockets by the numbers and names that the service manager has given them.
struct SocketTable {
    /// The result of reading the environment, once it was read. An error stays.
    asked: Option<Result<(), String>>,
    /// The sockets of the environment first, in the order of their numbers. An entry stays when its socket is taken.
    entries: Vec<PassedSocket>,
}

/// One line of the table.
struct PassedSocket {
    /// The facts that `activated_sockets` lists. They stay when a server has taken the socket, for the error messages of
    /// servers that ask for it later.
    shown: ActivatedSocket,
    /// None once a server has it.
    fd: Option<OwnedFd>,
    /// See [`TakenSocket::inherited_as`].
    inherited_as: Option<usize>,
}

/// A socket's place among those that a service manager has passed. A handover keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActivatedAs {
    /// See [`ActivatedSocket::number`].
    pub(crate) number: usize,
    /// See [`ActivatedSocket::name`].
    pub(crate) name: String,
}

/// A socket that a server has taken.
#[derive(Debug)]
pub(super) struct TakenSocket {
    /// The taker owns it from here on.
    pub(super) fd: OwnedFd,
    /// The socket's place, which the next handover passes on.
    pub(super) activated: ActivatedAs,
    /// The socket's number in the predecessor's list, if it comes from a predecessor.
    pub(super) inherited_as: Option<usize>,
}

/// Makes a predecessor's socket known, as if the service manager had passed it to this process. If the service
/// manager has passed the same socket itself, because it has started this process too, that copy is closed.
pub(super) fn add(activated: &ActivatedAs, fd: OwnedFd, inherited_as: usize) {
    let mut table = SOCKET_TABLE.lock();
    // The descriptors of the environment are taken first: theirs are the lowest numbers. An error among them is
    // reported to the servers that ask for them.
    let _ = table.ask();
    table.add(activated, fd, inherited_as);
}

/// Takes a predecessor's socket of this kind that is bound to one of these addresses. Called for a server that does not ask
/// for an activated socket.
pub(super) fn take_at(kind: SocketKind, addresses: &[Address]) -> Option<(TakenSocket, Address)> {
    let mut table = SOCKET_TABLE.lock();
    let is_there = |entry: &&mut PassedSocket| {
        let shown = &entry.shown;
        entry.inherited_as.is_some() && shown.kind == kind && addresses.contains(&shown.address)
    };
    // Several sockets may share one address (SO_REUSEPORT). This takes the first that is still there.
    let mut found = table.entries.iter_mut().filter(is_there);
    found.find_map(|entry| Some((entry.take()?, entry.shown.address.clone())))
}

/// Whether there is a predecessor's socket of this kind.
pub(super) fn has_predecessors(kind: SocketKind) -> bool {
    let is_one = |entry: &PassedSocket| entry.inherited_as.is_some() && entry.shown.kind == kind;
    SOCKET_TABLE.lock().entries.iter().any(is_one)
}

/// Closes the predecessor's sockets that no server has taken, and returns their addresses.
pub(super) fn close_those_of_predecessor() -> Vec<Address> {
    let mut left = Vec::new();
    // The entries are removed as well: a server that binds later must not find the entry of a closed socket.
    SOCKET_TABLE.lock().entries.retain(|entry| {
        let is_left = entry.inherited_as.is_some() && !entry.shown.is_taken;
        left.extend(is_left.then(|| entry.shown.address.clone()));
        !is_left
    });
    left
}

/// Takes a socket for a server. Each socket is taken once.
///
/// # Errors
///
/// If there is no such socket, if it is of another kind, or if it is taken. The error says which sockets there are,
/// and what to write into the unit. The socket can then still be taken.
pub(super) fn take(which: &Activated, kind: SocketKind) -> Result<TakenSocket> {
    let mut table = SOCKET_TABLE.lock();
    let taken = table.ask().and_then(|()| table.take(which, kind));
    taken.map_err(|why| cannot_take(which, why))
}

/// The error of a bind or of a list. `what` names the sockets that the program has asked for.
fn cannot_take(what: &dyn fmt::Display, why: String) -> Error {
    Error::io("take", what, io::Error::new(io::ErrorKind::InvalidInput, why))
}

impl SocketTable {
    /// Takes over the sockets that the environment names, at the first call.
    fn ask(&mut self) -> Result<(), String> {
        // The environment is read once: at a second reading the descriptors that were taken would be errors.
        if self.asked.is_none() {
            let passed = passed_by_environment();
            self.asked = Some(passed.map(|all| {
                for (number, (name, fd)) in all.into_iter().enumerate() {
                    self.entries.push(PassedSocket::new(ActivatedAs { number, name }, fd, None));
                }
            }));
        }
        self.asked.clone().unwrap_or(Ok(()))
    }

    /// See [`add`]. The name stays. If another socket has the number already, the new one gets the next after the highest.
    fn add(&mut self, activated: &ActivatedAs, fd: OwnedFd, inherited_as: usize) {
        let mut entry = PassedSocket::new(activated.clone(), fd, Some(inherited_as));
        let known = || self.entries.iter().map(|entry| &entry.shown);
        let ActivatedSocket { name, kind, address, .. } = &entry.shown;
        let is_same = |shown: &ActivatedSocket| {
            (&shown.name, &shown.kind, &shown.address) == (name, kind, address)
        };
        // Compared with the sockets of the environment alone: two that a predecessor passes are different sockets, even if they
        // look alike (SO_REUSEPORT).
        let is_of_environment = |entry: &&PassedSocket| entry.inherited_as.is_none();
        if self.entries.iter().filter(is_of_environment).any(|entry| is_same(&entry.shown)) {
            return;
        }
        // If another socket has this number already, take the next after the highest.
        if known().any(|shown| shown.number == activated.number) {
            entry.shown.number =
                known().map(|shown| shown.number.saturating_add(1)).max().unwrap_or_default();
        }
        self.entries.push(entry);
    }

    /// See [`take`]. An error is a sentence: what there is, and what to write into the unit.
    fn take(&mut self, which: &Activated, kind: SocketKind) -> Result<TakenSocket, String> {
        // Several sockets may have one name: a unit with two `Listen..=` lines gives both the same.
        let is_named = |entry: &&mut PassedSocket| match which {
            Activated::Only => true,
            Activated::Number(number) => entry.shown.number == *number,
            Activated::Name(name) => entry.shown.name == *name,
        };
        let fits = |entry: &&mut PassedSocket| entry.shown.kind == kind && entry.fd.is_some();
        // Listed before the entries are borrowed mutably.
        let all: Vec<_> = self.entries.iter().map(|entry| entry.shown.to_string()).collect();
        let all = all.join("; ");
        let mut named: Vec<_> = self.entries.iter_mut().filter(is_named).collect();
        if *which == Activated::Only && named.iter().filter(|entry| fits(entry)).count() > 1 {
            return Err(format!("there are several: {all}; take one by its name or number"));
        }
        if let Some(taken) = named.iter_mut().find(|entry| fits(entry)).and_then(|e| e.take()) {
            return Ok(taken);
        }
        // The cases go from no socket at all to one that nearly fits, so that the reader learns the nearest mistake.
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
}

impl PassedSocket {
    /// Makes the entry of a descriptor, whose kind and address the system tells here, once.
    fn new(activated: ActivatedAs, fd: OwnedFd, inherited_as: Option<usize>) -> Self {
        let ActivatedAs { number, name } = activated;
        let address = SockRef::from(&fd).local_addr();
        let address = address.map_or(Address::Unnamed, |address| Address::from_socket(&address));
        // The system is asked also about a predecessor's socket: the table shows its real kind, and not the one that the
        // predecessor has named.
        let kind = SocketKind::of(&fd);
        let shown = ActivatedSocket { number, name, kind, address, is_taken: false };
        Self { shown, fd: Some(fd), inherited_as }
    }

    /// Takes the socket. None, if a server has it.
    fn take(&mut self) -> Option<TakenSocket> {
        let fd = self.fd.take()?;
        self.shown.is_taken = true;
        let ActivatedSocket { number, name, .. } = &self.shown;
        let activated = ActivatedAs { number: *number, name: name.clone() };
        Some(TakenSocket { fd, activated, inherited_as: self.inherited_as })
    }
}

/// Says how a program gets sockets, and why it has none.
///
/// LISTEN_PID tells the two usual mistakes apart: a program that was started by hand, and one that a shell script of the
/// unit has started. In the second case the variable has the number of the script's process.
fn no_socket() -> String {
    let why = match variable("LISTEN_PID") {
        // The variables are for this process, and name no socket.
        Some(process) if process.to_str() == Some(&std::process::id().to_string()) => {
            "LISTEN_FDS is 0".to_owned()
        }
        Some(process) => {
            let process = process.to_string_lossy();
            format!("LISTEN_PID is {process}, and this is process {}", std::process::id())
        }
        None => "LISTEN_PID is not set".to_owned(),
    };
    format!(
        "this process was started without sockets ({why}); start it by a .socket unit, or for a try by \
         systemd-socket-activate -l PORT PROGRAM"
    )
}

/// Takes over the descriptors that the environment names, with their names, if they are for this process. Every
/// contradiction is an error, because a server on the wrong socket is worse than no server.
fn passed_by_environment() -> Result<Vec<(String, OwnedFd)>, String> {
    // None for an unset or empty variable. A value that is not a number is an error, because somebody meant something by it.
    let number = |name: &str| match variable(name) {
        Some(text) => match text.to_str().and_then(|text| text.parse::<usize>().ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{name} is {text:?}, which is no number")),
        },
        None => Ok(None),
    };
    // Without LISTEN_PID, or with the number of another process in it, the descriptors are not for this process.
    if number("LISTEN_PID")? != usize::try_from(std::process::id()).ok() {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS")?.ok_or("LISTEN_PID is set, and LISTEN_FDS is not")?;
    if count > MAX_PASSED_FDS {
        return Err(format!("LISTEN_FDS is {count}, and no process has so many descriptors"));
    }
    let names = match variable("LISTEN_FDNAMES") {
        Some(names) => names.to_string_lossy().split(':').map(str::to_owned).collect(),
        // An old manager sets no names. sd_listen_fds_with_names(3) then names each `unknown`.
        None => vec!["unknown".to_owned(); count],
    };
    // A name with a colon in it, say, counts as two: the names after it would belong to the wrong sockets.
    if names.len() != count {
        return Err(format!("LISTEN_FDS is {count}, and LISTEN_FDNAMES has {} names", names.len()));
    }
    let fds = sys::take_passed(count).map_err(|(number, error)| {
        format!("LISTEN_FDS is {count}, and descriptor {number} cannot be taken: {error}")
    })?;
    Ok(names.into_iter().zip(fds).collect())
}

/// The most descriptors that Linux allows a process, by default (`fs.nr_open`). A larger LISTEN_FDS is nonsense, and must cost
/// no memory.
const MAX_PASSED_FDS: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn listener() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn named(number: usize, name: &str) -> ActivatedAs {
        ActivatedAs { number, name: name.to_owned() }
    }

    fn table(of_environment: Vec<PassedSocket>) -> SocketTable {
        SocketTable { asked: Some(Ok(())), entries: of_environment }
    }

    #[test]
    fn predecessors_sockets_keep_their_names_and_numbers() {
        let mut table = table(Vec::new());
        table.add(&named(5, "http"), listener(), 0);
        table.add(&named(2, "https"), listener(), 1);
        let kind = SocketKind::TcpListener;
        assert!(table.take(&Activated::Number(0), kind).unwrap_err().contains("of this number"));
        assert!(table.take(&Activated::Only, kind).unwrap_err().contains("several"));
        let taken = table.take(&Activated::Number(2), kind).unwrap();
        assert_eq!((taken.activated, taken.inherited_as), (named(2, "https"), Some(1)));
        let taken = table.take(&Activated::Only, kind).unwrap();
        assert_eq!((taken.activated, taken.inherited_as), (named(5, "http"), Some(0)));
        assert!(table.take(&Activated::Name("http".into()), kind).unwrap_err().contains("taken"));
    }

    #[test]
    fn a_socket_that_comes_from_both_is_there_once_and_numbers_are_unique() {
        let ours = listener();
        let same = ours.try_clone().unwrap();
        let mut table = table(vec![PassedSocket::new(named(0, "http"), ours, None)]);
        table.add(&named(0, "http"), same, 0);
        assert_eq!(table.entries.len(), 1);
        // A second socket of the same name.
        table.add(&named(0, "http"), listener(), 1);
        table.add(&named(usize::MAX, "x"), listener(), 2);
        let numbers: Vec<_> = table.entries.iter().map(|entry| entry.shown.number).collect();
        assert_eq!(numbers, [0, 1, usize::MAX]);
    }
}
