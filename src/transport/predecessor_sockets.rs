//! Sockets of a predecessor, whose place this process takes. They are kept here until servers bind to their
//! addresses: `bind` looks here first. Sockets of a service manager are kept in `inherited`, under the names that it
//! has given them.
//!
//! ```text
//! server/handover, at the start    keep: all that the predecessor has passed
//! server/handover                  take_numbered: the socket at which successors ask
//! bind of each server              take: by kind and address, once
//! server/handover, when it serves  close_the_rest: the predecessor serves their queues to the end
//! ```
//!
//! The list belongs to the process, because a bind knows nothing of the handover that has filled it. It is locked
//! for moments, and never while a name is looked up.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;

use super::inherited::{self, ActivatedAs, SocketKind};
use super::socket_file::{self, DescribedFile, SocketFile};
use super::socket_options::SocketOptions;
use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::Result;

/// Everything that a process tells another about a socket, besides its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketDescription {
    /// The kind of the socket, which decides which server can take it.
    pub(crate) kind: SocketKind,
    /// The address that its server was asked to bind to: with port 0, if any free port was wanted.
    pub(crate) asked: Address,
    /// The socket's place among those that the service manager has passed, if it is one of them.
    pub(crate) activated: Option<ActivatedAs>,
    /// The address that it is bound to. The path of a Unix socket is absolute.
    pub(crate) bound: Address,
    /// A Unix socket's file, if the server that has described it has made it or has taken it over.
    pub(crate) file: Option<DescribedFile>,
    /// Whether only the process that describes the socket has it.
    pub(crate) alone: bool,
}

/// A socket that a predecessor has passed.
#[derive(Debug)]
pub(crate) struct PredecessorsSocket {
    /// The socket's place in the list of the process that has passed it.
    pub(crate) number: usize,
    /// The predecessor's description of it.
    pub(crate) description: SocketDescription,
    /// This process's copy. It closes with the value; the predecessor's copy stays open.
    pub(crate) fd: OwnedFd,
}

impl PredecessorsSocket {
    /// Closes the socket, and returns its address. Also removes the socket's file, if the predecessor was to remove it and has
    /// closed its copy of the socket already.
    fn close(self) -> Address {
        let Self { fd, description: SocketDescription { bound, file, .. }, .. } = self;
        // This comes first: while a copy is open here, the file never looks stale.
        drop(fd);
        if let (Some(file), Address::Unix(path)) = (file, &bound) {
            let options = SocketOptions::default().unlink_on_close(file.removed_at_close);
            SocketFile::of_predecessors(path, file, &options).close_as_the_last();
        }
        bound
    }
}

/// Sockets that no server has taken yet.
static PASSED: Mutex<Vec<PredecessorsSocket>> = Mutex::new(Vec::new());

/// Keeps sockets for servers that are bound from here on.
pub(crate) fn keep(sockets: Vec<PredecessorsSocket>) {
    for socket in sockets {
        match &socket.description.activated {
            Some(activated) => inherited::add(activated, socket.fd, socket.number),
            None => PASSED.lock().push(socket),
        }
    }
}

/// Takes the socket that a server of this kind would bind to this address.
///
/// That is a socket that is bound to the address; or, if the server asks for any free port, a socket that was bound to any
/// free port of the same address. If several fit, the first is taken. A server that asks for an activated socket finds it in
/// `inherited`.
///
/// # Errors
///
/// If the address cannot be understood or looked up.
pub(super) fn take(kind: SocketKind, address: &BindAddress) -> Result<Option<PredecessorsSocket>> {
    // Usually there is no socket of this kind, and then no name is looked up.
    let is_there = PASSED.lock().iter().any(|socket| socket.description.kind == kind);
    if address.to_activated().is_some() || !(is_there || inherited::has_predecessors(kind)) {
        return Ok(None);
    }
    let mut wanted = kind.addresses(address)?;
    for address in &mut wanted {
        if let Address::Unix(path) = address {
            *path = socket_file::absolute(path);
        }
    }
    // A server that asks for any free port gets one that its predecessor had: clients know that port, and the program does
    // not.
    let is_wanted = |socket: &PredecessorsSocket| {
        let SocketDescription { kind: found, asked, bound, .. } = &socket.description;
        let any_port = asked.port() == Some(0) && wanted.contains(asked);
        *found == kind && (wanted.contains(bound) || any_port)
    };
    // The lock was free during the look-up of a name, which may take seconds, and another server may have taken the
    // socket.
    let mut passed = PASSED.lock();
    if let Some(at) = passed.iter().position(is_wanted) {
        return Ok(Some(passed.remove(at)));
    }
    // A successor's program may ask for the address of a service manager's socket, and no longer for its name.
    Ok(inherited::take_at(kind, &wanted).and_then(|(taken, bound)| {
        // The file of a manager's socket is the manager's, and nobody here removes it.
        let (asked, activated) = (bound.clone(), Some(taken.activated));
        let description =
            SocketDescription { kind, asked, activated, bound, file: None, alone: false };
        Some(PredecessorsSocket { number: taken.inherited_as?, description, fd: taken.fd })
    }))
}

/// Takes the socket with this number.
pub(crate) fn take_numbered(number: usize) -> Option<PredecessorsSocket> {
    let mut passed = PASSED.lock();
    let at = passed.iter().position(|socket| socket.number == number)?;
    Some(passed.remove(at))
}

/// Closes the sockets that no server has taken, and returns their addresses.
pub(crate) fn close_the_rest() -> Vec<Address> {
    // The close of a file may wait for the lock of its folder, so the list is not locked meanwhile.
    let rest = std::mem::take(&mut *PASSED.lock());
    let passed = rest.into_iter().map(PredecessorsSocket::close);
    passed.chain(inherited::close_those_of_predecessor()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::HandoverSocket;
    use crate::transport::server_socket::ServerSocket;

    fn address(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    fn socket(number: usize, kind: SocketKind, asked: &str, bound: &str) -> PredecessorsSocket {
        let (asked, bound) = (address(asked), address(bound));
        let description =
            SocketDescription { kind, asked, activated: None, bound, file: None, alone: true };
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        PredecessorsSocket { number, description, fd }
    }

    #[test]
    fn a_file_that_no_server_takes_is_kept_or_removed_as_the_predecessor_was_told() {
        for removes in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let options = SocketOptions::default().unlink_on_close(removes);
            let (kind, address) = (SocketKind::UnixListener, BindAddress::from(&path));
            let server = ServerSocket::unbound(kind, &address, &options).unwrap();
            server.server_bind(&|_| Ok(())).unwrap();
            let (description, shared) = server.describe().unwrap();
            let fd = shared.try_clone().unwrap();
            // As if the predecessor were killed: its descriptors close, and nothing else is done.
            drop((server, shared));
            let bound = PredecessorsSocket { number: 0, description, fd }.close();
            assert_eq!(bound, Address::Unix(path.clone()));
            assert_eq!(path.exists(), !removes);
        }
    }

    /// All cases in one test, because the whole process shares the list.
    #[test]
    fn a_socket_is_found_by_its_address_or_by_the_wish_for_any_port() {
        use SocketKind::{TcpListener, UdpSocket};
        let (any, some) = ("127.0.0.1:0", "127.0.0.1:7000");
        keep(vec![
            socket(0, TcpListener, any, "127.0.0.1:5000"),
            socket(1, TcpListener, any, "127.0.0.1:5001"),
            socket(2, UdpSocket, some, some),
            // Bound to the second address of a host name.
            socket(3, TcpListener, "[::1]:80", "127.0.0.1:80"),
        ]);
        let number =
            |kind, wanted: BindAddress| take(kind, &wanted).unwrap().map(|socket| socket.number);
        assert_eq!(number(TcpListener, some.into()), None);
        assert_eq!(number(TcpListener, "[::1]:80".into()), None);
        assert_eq!(number(TcpListener, "127.0.0.1:80".into()), Some(3));
        assert_eq!(number(UdpSocket, some.into()), Some(2));
        assert_eq!(number(TcpListener, any.into()), Some(0));
        assert_eq!(number(TcpListener, "127.0.0.1:5001".into()), Some(1));
        assert_eq!(number(TcpListener, any.into()), None);
        keep(vec![socket(7, TcpListener, any, "127.0.0.1:1")]);
        assert_eq!(take_numbered(7).map(|socket| socket.number), Some(7));
        keep(vec![socket(8, TcpListener, any, "127.0.0.1:1")]);
        close_the_rest();
        assert!(take_numbered(8).is_none());
    }
}
