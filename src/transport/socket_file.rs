//! The file of a Unix socket: taking its place, its permissions, and removing it.
//!
//! A socket's file outlives its server, so a path that exists says nothing. Whoever replaces it has to
//! know that no socket is bound to it any more, and must not remove anything but a socket. Two servers that start at
//! once could both find an old one there, and the slower would remove the faster one's new one; a lock on the folder keeps
//! them apart from the look at the path until the bind.
//!
//! Everything is done in the folder that was found first, and to the file that was found there: a path is only a way, which
//! may lead elsewhere when it is gone a second time.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{self, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::socket_options::{SocketOptions, name_option};
use crate::process::OwnerProcess;
use crate::sys;
use crate::sys::directory::{self, Folder, MODE_BITS};

/// How long to wait for another server that is starting in the same folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A socket file that this process has made.
#[derive(Debug)]
pub(super) struct SocketFile {
    place: Place,
    /// Device and inode: who finds another one there finds somebody else's.
    identity: (u64, u64),
    /// The process that has made it.
    owner: OwnerProcess,
}

impl SocketFile {
    /// Binds `fd` at `path`. What is returned is only there to be removed at the close, if that is asked for; and the
    /// path from the root on.
    pub(super) fn bind(
        fd: BorrowedFd<'_>,
        path: &Path,
        options: &SocketOptions,
    ) -> io::Result<(Option<Self>, PathBuf)> {
        if let Some(mode) = options.unix_mode.filter(|mode| *mode > MODE_BITS) {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "0o7777 is the most");
            return Err(name_option("unix_mode", format_args!("{mode:#o}"), &error));
        }
        // Checked first: a path that is too long must not cost a look at the file system.
        let (whole, address) = whole_path(path)?;
        let place = Place::new(&whole);
        let _lock = place.lock();
        if options.replace_stale {
            place.remove_if_stale()?;
        }
        if let Some(mode) = options.unix_mode {
            // The file is born with these permissions at the most; the umask can only take away.
            sys::set_mode_before_bind(fd, mode)?;
        }
        socket2::SockRef::from(&fd).bind(&address).map_err(|error| explain(error, &whole))?;
        if let Some(mode) = options.unix_mode {
            // What the umask took away, and the whole of it where the line above does nothing.
            directory::set_mode_of_socket_file(fd, &place.file(), mode)?;
        }
        if !options.unlink_on_close {
            return Ok((None, whole));
        }
        let found = fs::symlink_metadata(place.file())?;
        let identity = (found.dev(), found.ino());
        Ok((Some(Self { place, identity, owner: OwnerProcess::this_process() }), whole))
    }

    /// Whether this process has made it, and not one that has forked this one.
    pub(super) fn is_this_processes(&self) -> bool {
        self.owner.is_this_process()
    }

    /// Removes the file, if it is still ours.
    pub(super) fn close(self) {
        if self.is_there() {
            // Somebody else may have removed it in between; then it is done.
            let _ = fs::remove_file(self.place.file());
        }
    }

    /// As [`close`](Self::close), in a forked child that has closed its copy of the socket: only if nobody has one any
    /// more.
    pub(super) fn close_as_the_last(self) {
        let _lock = self.place.lock();
        if self.is_there() {
            let _ = self.place.remove_if_stale();
        }
    }

    fn is_there(&self) -> bool {
        let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        fs::symlink_metadata(self.place.file()).is_ok_and(is_it)
    }
}

/// The path from the root on, so that it means the same when the process has gone to another folder; and what to bind
/// to, which is the same unless that is too long for a socket, and the path that was given is not.
fn whole_path(path: &Path) -> io::Result<(PathBuf, SockAddr)> {
    // Who has no folder any more has no whole path.
    let whole = path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let address = SockAddr::unix(&whole).or_else(|_| SockAddr::unix(path)).map_err(|_| {
        let text = "the path is too long for a Unix socket (107 bytes on Linux)";
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    Ok((whole, address))
}

/// A name in a folder.
#[derive(Debug)]
struct Place {
    folder: Folder,
    name: OsString,
}

impl Place {
    fn new(path: &Path) -> Self {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // A path that ends in `..` has no name, and what is there is a folder.
        let name = path.file_name().map_or_else(|| path.as_os_str().to_owned(), OsString::from);
        Self { folder: Folder::new(folder), name }
    }

    fn file(&self) -> PathBuf {
        self.folder.file(&self.name)
    }

    /// Locks the folder against other servers that start there. None if it cannot be opened: then there is no lock to be
    /// had, and bind will say what is wrong.
    fn lock(&self) -> Option<File> {
        let folder = self.folder.open().ok()?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match sys::try_lock(&folder) {
                Ok(()) => return Some(folder),
                // Somebody who holds it for so long starts no server. Without the lock two servers that start at once may
                // both take the path of an old one; that is better than none.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
                {
                    // flock can wait, but not with a deadline.
                    thread::sleep(Duration::from_millis(5));
                }
                // Or it is a file system without locks.
                Err(_) => return None,
            }
        }
    }

    /// Removes what is there if it is a socket's file without a socket. Anything else stays, and bind says that the
    /// address is in use.
    fn remove_if_stale(&self) -> io::Result<()> {
        let file = self.file();
        match fs::symlink_metadata(&file) {
            Ok(found) if found.file_type().is_socket() => {}
            _ => return Ok(()),
        }
        // What cannot be asked stays.
        let Ok(address) = SockAddr::unix(&file) else { return Ok(()) };
        if !is_without_socket(&address)? {
            return Ok(());
        }
        match fs::remove_file(&file) {
            // Whoever left it has removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// Whether no socket of any process is bound to a file. A datagram socket asks, because it is told of any: that it
/// can be sent to, or that it is of another kind (`EPROTOTYPE`), also of one that does not listen yet. A stream socket
/// would be refused by a server that is about to listen, as if there were none; and by one that does listen it would
/// be accepted.
fn is_without_socket(address: &SockAddr) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let refused = probe.connect(address).err().and_then(|error| error.raw_os_error());
    // What else may come of it tells nothing (a file that we may not write to), and what is not known to be stale stays.
    Ok(refused == Some(libc::ECONNREFUSED))
}

/// What is in the way of a bind. The system says `EADDRINUSE` of anything that is there, and whoever reads that looks for
/// another server. What has been replaced since then costs a wrong word and nothing else.
fn explain(error: io::Error, path: &Path) -> io::Error {
    // What a link leads to is not asked: the link itself is in the way, and is never replaced.
    let Ok(found) = fs::symlink_metadata(path) else { return error };
    let kind = found.file_type();
    if error.kind() != io::ErrorKind::AddrInUse || kind.is_socket() {
        return error;
    }
    let what = if kind.is_symlink() { "a link" } else { "no socket" };
    let text = format!("what is there is {what}, and is not replaced");
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}
