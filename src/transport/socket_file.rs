//! The file of a Unix socket: creating it, its permissions, replacing a stale one, and removing it.
//!
//! A socket's file outlives its server, so a file at the path need not mean that a server runs. A server may replace it only
//! if it is a socket file, and only if no socket is bound to it any more. Two servers that start at the same time could both
//! find a stale file, and the slower one would remove the new file of the faster one. So a lock on the directory is
//! held from the look at the path until after the bind:
//!
//! ```text
//! flock(directory) -> is it a socket's file? -> connect: ECONNREFUSED? -> unlink -> fchmod(fd) -> bind -> chmod -> unlock
//! ```
//!
//! All steps use one open directory, and one file in it. If a path were looked up twice, it could lead to two
//! different files.

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
use crate::sys::directory::{self, Directory, MODE_BITS};

/// How long to wait for another server that starts in the same directory.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A socket file that this process has made or taken over.
#[derive(Debug)]
pub(super) struct SocketFile {
    /// The place of the file. The directory is held open, so that the program may change its working directory.
    entry: DirectoryEntry,
    /// Device and inode: if a file at the path has others, it belongs to another server.
    identity: (u64, u64),
    /// The process that has made it or taken it over.
    pub(super) owner: OwnerProcess,
    /// [`SocketOptions::unlink_on_close`].
    removed_at_close: bool,
}

/// The file of another process's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescribedFile {
    /// Device and inode.
    pub(crate) identity: (u64, u64),
    /// Whether that process removes the file. A successor that takes the socket goes by its own options; for a socket that
    /// no successor takes, this value counts.
    pub(crate) removed_at_close: bool,
}

impl SocketFile {
    /// Binds `fd` at `path`. Returns the absolute path; and the file, if the system tells which file it is.
    pub(super) fn bind(
        fd: BorrowedFd<'_>,
        path: &Path,
        options: &SocketOptions,
    ) -> io::Result<(Option<Self>, PathBuf)> {
        if let Some(mode) = options.unix_mode.filter(|mode| *mode > MODE_BITS) {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "0o7777 is the most");
            return Err(name_option("unix_mode", format_args!("{mode:#o}"), &error));
        }
        // This comes first, so that a path that is too long fails before anything in the file system is touched.
        let (whole, address) = whole_path(path)?;
        let entry = DirectoryEntry::new(&whole);
        // The lock is held until the bind: no other server takes the path between the look and the bind.
        let _lock = entry.lock();
        if options.replace_stale {
            // An error stops the bind: it says why the old file cannot go (no right to write, say), and EADDRINUSE would
            // hide that.
            entry.remove_if_stale()?;
        }
        if let Some(mode) = options.unix_mode {
            // The file is created with these permissions at the most: the umask only takes some away.
            sys::set_mode_before_bind(fd, mode)?;
        }
        socket2::SockRef::from(&fd).bind(&address).map_err(|error| explain(error, &whole))?;
        if let Some(mode) = options.unix_mode {
            // The umask may have taken permissions away, which this adds again. Where the call above has no effect,
            // this sets all of them.
            directory::set_mode_of_socket_file(fd, &entry.file(), mode)?;
        }
        // Without the identity the file could not be removed safely, so the server must not start as if it could.
        let removed_at_close = options.unlink_on_close;
        // The lock is still held, so this is the file that the bind has made.
        let found = match fs::symlink_metadata(entry.file()) {
            Ok(found) => found,
            Err(error) if removed_at_close => return Err(error),
            Err(_) => return Ok((None, whole)),
        };
        let identity = (found.dev(), found.ino());
        let owner = OwnerProcess::this_process();
        Ok((Some(Self { entry, identity, owner, removed_at_close }), whole))
    }

    /// The file of a predecessor's socket. From now on this process removes it, if its own options say so.
    pub(super) fn of_predecessors(
        path: &Path,
        file: DescribedFile,
        options: &SocketOptions,
    ) -> Self {
        Self {
            entry: DirectoryEntry::new(path),
            identity: file.identity,
            owner: OwnerProcess::this_process(),
            removed_at_close: options.unlink_on_close,
        }
    }

    /// The description of the file that a successor needs.
    pub(super) fn describe(&self) -> DescribedFile {
        DescribedFile { identity: self.identity, removed_at_close: self.removed_at_close }
    }

    /// Removes the file, if it is still ours and is to be removed.
    pub(super) fn close(self) {
        if self.removed_at_close && self.is_there() {
            // An error is ignored: if another process has removed the file, nothing is left to do.
            let _ = fs::remove_file(self.entry.file());
        }
    }

    /// As [`close`](Self::close), in a process that has closed its copy of the socket. Removes the file only if
    /// no other process has a copy; otherwise returns it.
    pub(super) fn close_as_the_last(self) -> Option<Self> {
        if !self.removed_at_close {
            return None;
        }
        // Because of the lock, no other server can bind this path between the look and the removal.
        let is_left = {
            let _lock = self.entry.lock();
            self.is_there() && self.entry.remove_if_stale().is_ok() && self.is_there()
        };
        is_left.then_some(self)
    }

    /// Whether the path still leads to this file. A link at the path, wherever it leads, is another file.
    fn is_there(&self) -> bool {
        let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        fs::symlink_metadata(self.entry.file()).is_ok_and(is_it)
    }
}

/// The absolute path, which stays right when the process changes its working directory; and the address to bind to.
/// The address is the absolute path too, unless that is too long for a socket and the given path is not.
fn whole_path(path: &Path) -> io::Result<(PathBuf, SockAddr)> {
    let whole = absolute(path);
    let address = SockAddr::unix(&whole).or_else(|_| SockAddr::unix(path)).map_err(|_| {
        let text = "the path is too long for a Unix socket (107 bytes on Linux)";
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    Ok((whole, address))
}

/// The path from the root. If the system does not tell the working directory, the path as it is.
pub(super) fn absolute(path: &Path) -> PathBuf {
    // `path::absolute` fails if the working directory has been removed.
    path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A name in a directory.
#[derive(Debug)]
struct DirectoryEntry {
    /// The directory. It is held open, if the system can open a directory without rights on it.
    directory: Directory,
    /// The file's name in the directory; for a path without a file name, the whole path.
    name: OsString,
}

impl DirectoryEntry {
    /// Opens the directory. If that fails, the bind fails too, and its error says why.
    fn new(path: &Path) -> Self {
        let directory = match path.parent() {
            // A bare name is in the working directory.
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // A path that ends in `..` has no name, and leads to a directory.
        let name = path.file_name().map_or_else(|| path.as_os_str().to_owned(), OsString::from);
        Self { directory: Directory::new(directory), name }
    }

    /// A path to the file that goes through the open directory.
    fn file(&self) -> PathBuf {
        self.directory.file(&self.name)
    }

    /// Locks the directory against other servers that start there. None if the directory cannot be opened; the bind then
    /// fails, and its error says why.
    ///
    /// The lock ends with the result. It is on the directory, because the file itself may not be there yet, or be
    /// removed meanwhile.
    fn lock(&self) -> Option<File> {
        // flock(2) refuses an O_PATH descriptor, so the directory is opened once more.
        let directory = self.directory.open().ok()?;
        // Several servers of one directory may start together, and each holds the lock for a few milliseconds.
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match sys::try_lock(&directory) {
                Ok(()) => return Some(directory),
                // A process that holds the lock until the deadline is not a starting server. This one then goes on without
                // the lock, and risks that two servers both replace a stale file. An error instead would let any process
                // with read access prevent the start.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
                {
                    // flock(2) has no deadline.
                    thread::sleep(Duration::from_millis(5));
                }
                // A file system without locks, for example.
                Err(_) => return None,
            }
        }
    }

    /// Removes the file if it is the file of a socket that is gone. Any other file stays, and the bind fails with
    /// `EADDRINUSE`.
    fn remove_if_stale(&self) -> io::Result<()> {
        let file = self.file();
        // This looks at a link itself: a link that leads to a socket is never replaced.
        match fs::symlink_metadata(&file) {
            Ok(found) if found.file_type().is_socket() => {}
            _ => return Ok(()),
        }
        // The path is too long for a connect, so the file stays.
        let Ok(address) = SockAddr::unix(&file) else { return Ok(()) };
        if !is_without_socket(&address)? {
            return Ok(());
        }
        match fs::remove_file(&file) {
            // Another process has removed the file in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// Whether no socket of any process is bound to a file. A datagram socket is connected to find that out. The kernel
/// answers with success or `EPROTOTYPE` (another kind of socket) for any bound socket, even one that does not listen
/// yet, and with `ECONNREFUSED` if there is none. A stream socket could not tell: a server that is about to listen
/// would refuse it, and a server that listens would accept it.
fn is_without_socket(address: &SockAddr) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    // The connect cannot block: for a datagram socket it only looks the name up.
    let refused = probe.connect(address).err().and_then(|error| error.raw_os_error());
    // Other errors prove nothing (no permission to write, say), and only a file that is known to be stale is
    // replaced.
    Ok(refused == Some(libc::ECONNREFUSED))
}

/// Names the file that is in the way of a bind. The system says `EADDRINUSE` for any file, and a reader of that error would
/// look for another server. If the file was replaced in the meantime, only the message is wrong.
///
/// Any other error, and that of a socket's file, is returned as it is.
fn explain(error: io::Error, path: &Path) -> io::Error {
    // The link itself is in the way, wherever it leads, and is never replaced.
    let Ok(found) = fs::symlink_metadata(path) else { return error };
    let kind = found.file_type();
    if error.kind() != io::ErrorKind::AddrInUse || kind.is_socket() {
        return error;
    }
    let what = if kind.is_symlink() { "a link" } else { "no socket" };
    let text = format!("what is there is {what}, and is not replaced");
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}
