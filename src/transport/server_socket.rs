//! A server's socket, of any of the four kinds: its descriptor, its address, its file, and the processes that have it.
//!
//! A thread that used the bare number of a descriptor could, after a close, use another socket that has got the same
//! number. So there are two ways to use a server's socket:
//!
//! - [`ServerSocket::with`], for a call that does not wait: a close waits until it has returned.
//! - [`ServerSocket::fileno`], a share of the descriptor, for a wait: the descriptor stays open until the share is dropped.
//!
//! ```text
//! bind("localhost:80")  unbound: looks up [::1]:80 and 127.0.0.1:80, say; a socket for the first, with its options
//! server_bind           binds it to [::1]:80; if that fails: a new socket, bound to 127.0.0.1:80
//! ```
//!
//! The socket is made before the bind, so that a hook can set options that only count then.
//!
//! The file of a Unix socket outlives the process that has bound it, so each server knows whether it has to remove its file:
//!
//! | the socket | removes the file |
//! |---|---|
//! | made here | this process, before the socket closes |
//! | made here, closed in a forked child | the child, if no other process listens any more |
//! | from a service manager, or by `from_fd` | nobody here |
//! | from a predecessor, not taken over yet | the last process to close the socket |
//! | from a predecessor, taken by no server | the last process to close the socket, if the predecessor was to remove the file |
//! | taken over | this process |
//! | handed to a successor that is not ready | the last process to close the socket |
//! | handed to a successor that serves | the successor |
//!
//! A file is removed only if `SocketOptions::unlink_on_close` asks for it, and only if it still is the same file. The
//! options of the process that removes it count: those of a successor may differ from its predecessor's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use socket2::{SockAddr, SockRef, Socket};

use super::inherited::{ActivatedAs, SocketKind};
use super::predecessor_sockets::SocketDescription;
use super::socket_file::SocketFile;
use super::socket_options::SocketOptions;
use super::socket_source::{FoundSocket, Origin};
use super::{BeforeBind, HandoverSocket, Holders};
use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::{Error, Result};
use crate::sys::fork_count::Moment;

/// A server's socket. The loop and other threads borrow its descriptor. A close takes the descriptor out, and the descriptor
/// closes when the last borrower has dropped its share.
#[derive(Debug)]
pub(super) struct ServerSocket {
    /// None after the close. The close waits for the calls of [`with`](Self::with) that use the socket.
    fd: RwLock<Option<Arc<OwnedFd>>>,
    /// The kind of the socket, which decides the transport and the options that count.
    pub(super) kind: SocketKind,
    /// The origin of the socket: it decides whether the socket is bound here, and which processes may have it.
    origin: Origin,
    /// The socket's place among those of the service manager, if the service manager has made it. Then it listens already,
    /// and this server does not set the length of its accept queue.
    pub(super) activated: Option<ActivatedAs>,
    /// The options of this server, for later sockets and for accepted ones.
    pub(super) options: SocketOptions,
    /// The addresses to bind to: those of a host name, tried in order, or else one. For a socket that came bound, the
    /// address that its first server was asked for. Never empty.
    asked: Vec<Address>,
    /// The absolute path of a Unix socket, from the bind on. Empty for all other addresses.
    bound: OnceLock<Address>,
    /// The file of a Unix socket. None for an address without a file, and for a file that another process has to remove. A
    /// close takes the value out, so that only the first close removes the file. It puts the value back if another process
    /// still has the socket: this one may have to remove the file later.
    file: Mutex<Option<SocketFile>>,
    /// The processes that have the socket. Forks of this process and handovers change this.
    sharing: Mutex<Sharing>,
}

/// The processes that have a socket.
#[derive(Debug)]
struct Sharing {
    /// The processes as far as handovers are concerned.
    holders: Holders,
    /// A moment at which this process alone had the socket, if there was one. Until this process forks, no other has the
    /// socket.
    alone: Option<Moment>,
    /// Whether the predecessor that has passed the socket was the only process that had it. If so, this process alone has
    /// the socket once the predecessor has closed it.
    predecessor_was_alone: bool,
}

impl ServerSocket {
    /// See [`Bind::unbound`](super::Bind::unbound): a socket that is open already and fits the address, or else a new one.
    pub(super) fn unbound(
        kind: SocketKind,
        address: &BindAddress,
        options: &SocketOptions,
    ) -> Result<Self> {
        // This check comes first, because a new socket could not be bound to an address that a predecessor still has.
        if let Some(found) = FoundSocket::look_for(kind, address)? {
            return Self::over(found, options);
        }
        let asked = kind.addresses(address)?;
        let socket = make(kind, &asked[0], options)?;
        Ok(Self::new(kind, Origin::Made, socket, asked, options))
    }

    /// Makes the value for a socket that has no file and comes from no predecessor; `over` adds these things.
    fn new(
        kind: SocketKind,
        origin: Origin,
        socket: Socket,
        asked: Vec<Address>,
        options: &SocketOptions,
    ) -> Self {
        let alone = (origin == Origin::Made).then(Moment::now);
        let sharing = Sharing { holders: Holders::Alone, alone, predecessor_was_alone: false };
        Self {
            fd: RwLock::new(Some(Arc::new(socket.into()))),
            kind,
            origin,
            activated: None,
            options: options.clone(),
            asked,
            bound: OnceLock::new(),
            file: Mutex::default(),
            sharing: Mutex::new(sharing),
        }
    }

    /// See [`Bind::from_fd`](super::Bind::from_fd).
    pub(super) fn adopted(kind: SocketKind, fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        Self::over(FoundSocket::adopted(kind, fd, Origin::Adopted, None)?, options)
    }

    /// Takes over a socket that came bound, and sets the options that accepted connections inherit. The options that count
    /// before the bind were set by the process that has made the socket.
    pub(super) fn over(found: FoundSocket, options: &SocketOptions) -> Result<Self> {
        let FoundSocket { socket, origin, description } = found;
        let SocketDescription { kind, asked, activated, bound, file, alone } = description;
        // The options are also set on a predecessor's socket, because this program's options may differ.
        if kind == SocketKind::TcpListener {
            options
                .prepare_tcp(&socket)
                .map_err(|error| Error::io("set the options of", &bound, error))?;
        }
        let mut this = Self::new(kind, origin, socket, vec![asked], options);
        this.activated = activated;
        // An internet address is not kept: the kernel is asked for it each time, because a socket that came unbound gets its
        // port only by `listen`.
        if let Address::Unix(path) = bound {
            let file = file.map(|file| SocketFile::of_predecessors(&path, file, options));
            (this.bound, this.file) = (Address::Unix(path).into(), Mutex::new(file));
        }
        if origin.inherited_as().is_some() {
            // Until the predecessor has closed it, the socket and its file belong to both processes.
            let (holders, predecessor_was_alone) = (Holders::Both, alone);
            this.sharing = Mutex::new(Sharing { holders, alone: None, predecessor_was_alone });
        }
        Ok(this)
    }

    /// A share of the descriptor, which keeps it open. None if the socket is closed.
    pub(super) fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.fd.read().clone()
    }

    /// Uses the socket, if it is open. Otherwise fails with EBADF, as the system would.
    pub(super) fn with<R>(&self, use_it: impl FnOnce(&OwnedFd) -> io::Result<R>) -> io::Result<R> {
        match &*self.fd.read() {
            Some(fd) => use_it(fd),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// The address that it is bound to, as the kernel tells.
    pub(super) fn local_address(&self) -> io::Result<Address> {
        self.with(|fd| Ok(Address::from_socket(&SockRef::from(fd).local_addr()?)))
    }

    /// The address that it is bound to, in the kernel's form. None if the socket is closed.
    pub(super) fn local_name(&self) -> Option<SockAddr> {
        self.with(|fd| SockRef::from(fd).local_addr()).ok()
    }

    /// See [`Transport::server_address`](super::Transport::server_address).
    pub(super) fn server_address(&self) -> Address {
        // Before the bind and after the close only the address that was asked for is known.
        let name = self.bound.get().unwrap_or(&self.asked[0]);
        let told = match name {
            // The kernel may have chosen the port. Port 0: the socket is not bound yet.
            Address::Inet(_) => self.local_address().ok().filter(|told| told.port() != Some(0)),
            _ => None,
        };
        told.unwrap_or_else(|| name.clone())
    }

    /// Binds to the first address that is available. The error is that of the last address. The present socket is for
    /// the first address; each further address gets a new socket. A socket that came bound is left alone.
    pub(super) fn server_bind(&self, before_bind: BeforeBind<'_>) -> Result<()> {
        let mut result = Ok(());
        if self.origin != Origin::Made {
            return result;
        }
        for (index, address) in self.asked.iter().enumerate() {
            // The next address may be of another family, so the socket for it is made anew.
            if index > 0 {
                let socket = make(self.kind, address, &self.options)?;
                *self.fd.write() = Some(Arc::new(socket.into()));
            }
            let bind = self.with(|fd| {
                // The hook of the program runs first: some options of a socket count only before the bind.
                before_bind(fd.as_fd())?;
                self.bind(fd, address)
            });
            result = bind.map_err(|error| Error::io("bind", address, error));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Binds to one address, with everything that belongs to a socket's file.
    fn bind(&self, fd: &OwnedFd, address: &Address) -> io::Result<()> {
        // An abstract name vanishes with its socket: there is nothing to replace or to remove.
        let Address::Unix(path) = address else {
            return SockRef::from(fd).bind(&address.to_socket()?);
        };
        let (file, whole) = SocketFile::bind(fd.as_fd(), path, &self.options)?;
        *self.file.lock() = file;
        // The value is still empty: a second bind of the same socket has failed above.
        let _ = self.bound.set(Address::Unix(whole));
        Ok(())
    }

    /// The processes that have the socket, as far as handovers are concerned.
    pub(super) fn holders(&self) -> Holders {
        self.sharing.lock().holders
    }

    /// Whether no other process can have a copy: this process alone has had it at some moment, and has not forked
    /// since.
    pub(super) fn is_alone(&self) -> bool {
        self.sharing.lock().alone.is_some_and(|alone| alone == Moment::now())
    }

    /// Closes the descriptor alone, as a forked child does with a socket that its parent serves. A call that has a
    /// share of it goes on until it returns.
    pub(super) fn close(&self) {
        self.fd.write().take();
    }

    /// Closes the socket, and removes its file if this server has to. The second call does nothing.
    ///
    /// The process that has made the file removes it before the socket closes: until then no other server takes the
    /// file for a stale one, and its inode is not used again. If this process was forked from the one that has made the
    /// file, that process may still listen; and so may a successor that was never ready. In both cases this process closes
    /// its copy first, and then checks whether another process still listens.
    pub(super) fn server_close(&self) {
        // Of two threads that close at once only one finds the file.
        let mut file = self.file.lock().take();
        let is_shared = self.holders() == Holders::Both;
        if let Some(ours) = file.take_if(|file| file.owner.is_this_process() && !is_shared) {
            // Forked children may still listen, but that is not checked: the process that has made the file decides.
            ours.close();
        }
        self.close();
        // If the file stays, `remove_file_as_the_last` removes it when the other process has ended.
        if let Some(left) = file.and_then(SocketFile::close_as_the_last) {
            *self.file.lock() = Some(left);
        }
    }
}

impl HandoverSocket for ServerSocket {
    fn describe(&self) -> Option<(SocketDescription, Arc<OwnedFd>)> {
        // The description is made before the descriptor is taken: if the socket closes in between, there is no descriptor,
        // and the description is dropped.
        let description = SocketDescription {
            kind: self.kind,
            asked: self.asked[0].clone(),
            activated: self.activated.clone(),
            bound: self.server_address(),
            file: self.file.lock().as_ref().map(SocketFile::describe),
            alone: self.is_alone(),
        };
        Some((description, self.fileno()?))
    }

    fn inherited_as(&self) -> Option<usize> {
        self.origin.inherited_as()
    }

    fn set_holders(&self, holders: Holders) {
        let mut sharing = self.sharing.lock();
        let before = std::mem::replace(&mut sharing.holders, holders);
        // The predecessor has closed the socket. So this process alone has it now, if the predecessor alone had it before.
        let is_taken_over = holders == Holders::Alone && before == Holders::Both;
        if is_taken_over && sharing.predecessor_was_alone {
            // From this moment on a fork of this process shares the socket.
            sharing.alone.get_or_insert_with(Moment::now);
        }
        drop(sharing);
        if holders == Holders::Other {
            // The file now belongs to the successor.
            drop(self.file.lock().take());
        }
    }

    fn remove_file_as_the_last(&self) {
        // A server that is open still needs its file.
        if self.fileno().is_none() {
            let file = self.file.lock().take();
            *self.file.lock() = file.and_then(SocketFile::close_as_the_last);
        }
    }
}

/// A new socket for an address, not bound yet, with its options.
fn make(kind: SocketKind, address: &Address, options: &SocketOptions) -> Result<Socket> {
    options.socket(kind, address).map_err(|error| Error::io("make a socket for", address, error))
}
