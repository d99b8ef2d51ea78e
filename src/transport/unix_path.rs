//! The file of a Unix socket: taking its place, its permissions, and removing it.
//!
//! A socket's file outlives its server, so a path that exists says nothing. Whoever replaces it has to
//! know that nobody listens there, and must not remove anything but a socket. Two servers that start at
//! once would each find the other's fresh socket dead; a lock on the folder keeps them apart from the
//! look at the path until the listener answers.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::socket::{SocketOptions, name_option};
use crate::sys;

/// How long to wait for another server that is starting in the same folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// What chmod can set; the rest of a mode says what kind of file it is.
const MODE_BITS: u32 = 0o7777;

/// A socket file that this process has made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: who finds another one there finds somebody else's.
    identity: (u64, u64),
    unlink_on_close: bool,
    /// Held until the server is activated.
    folder_lock: Option<File>,
    /// For a forked child, to find out whether others still listen at the path: its parent, or other children.
    address: SockAddr,
    kind: Type,
    /// The process that has made it.
    process: u32,
}

impl SocketFile {
    /// Binds `fd` at `path`.
    pub(super) fn bind(
        fd: BorrowedFd<'_>,
        kind: Type,
        path: &Path,
        options: &SocketOptions,
    ) -> io::Result<Self> {
        // Checked first: a path that is too long must not cost a look at the file system.
        let address = SockAddr::unix(path).map_err(|_| {
            let text = "the path is too long for a Unix socket (107 bytes on Linux)";
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        if let Some(mode) = options.unix_mode.filter(|mode| *mode > MODE_BITS) {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "0o7777 is the most");
            return Err(name_option("unix_mode", format_args!("{mode:#o}"), &error));
        }
        let folder_lock = lock_folder(path)?;
        if options.replace_stale {
            remove_if_stale(path, &address, kind)?;
        }
        let socket = socket2::SockRef::from(&fd);
        if let Some(mode) = options.unix_mode {
            // The file is born with these permissions at the most; the umask can only take away.
            sys::set_mode_before_bind(fd, mode)?;
        }
        socket.bind(&address).map_err(|error| explain(error, path))?;
        if let Some(mode) = options.unix_mode {
            // What the umask took away, and the whole of it where the line above does nothing.
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity: (found.dev(), found.ino()),
            unlink_on_close: options.unlink_on_close,
            folder_lock,
            address,
            kind,
            process: std::process::id(),
        })
    }

    /// The server answers from here on: others that look at the path can see that it is alive.
    pub(super) fn activated(&mut self) {
        self.folder_lock = None;
    }

    /// Whether this process has made it, and not one that has forked this one.
    pub(super) fn is_this_processes(&self) -> bool {
        self.process == std::process::id()
    }

    /// Removes the file, if that was asked for and it is still ours.
    pub(super) fn close(self) {
        if self.is_to_go() {
            // Somebody else may have removed it in between; then it is done.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// As [`close`](Self::close), in a forked child that has closed its copy of the socket: only if nobody listens at the
    /// path any more.
    pub(super) fn close_as_the_last(self) {
        let _lock = lock_folder(&self.path);
        if self.is_to_go() {
            let _ = remove_if_stale(&self.path, &self.address, self.kind);
        }
    }

    fn is_to_go(&self) -> bool {
        let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        self.unlink_on_close && fs::symlink_metadata(&self.path).is_ok_and(is_it)
    }
}

/// Locks the folder of `path` against other servers that start there. None if it cannot be opened:
/// then there is no lock to be had, and bind will say what is wrong.
fn lock_folder(path: &Path) -> io::Result<Option<File>> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Ok(folder) = File::open(folder) else { return Ok(None) };
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match sys::try_lock(&folder) {
            Ok(()) => return Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    // Somebody holds it who starts no server. Without the lock two servers that start at
                    // once may both take the path; that is better than none.
                    return Ok(None);
                }
                // flock can wait, but not with a deadline.
                thread::sleep(Duration::from_millis(5));
            }
            // A file system without locks.
            Err(_) => return Ok(None),
        }
    }
}

/// What is in the way of a bind. The system says `EADDRINUSE` of anything that is there, and whoever reads that looks for
/// another server. What has been replaced since then costs a wrong word and nothing else.
fn explain(error: io::Error, path: &Path) -> io::Error {
    let is_there = fs::symlink_metadata(path).is_ok();
    let is_socket = fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if error.kind() != io::ErrorKind::AddrInUse || !is_there || is_socket {
        return error;
    }
    io::Error::new(io::ErrorKind::AlreadyExists, "what is there is no socket, and is not replaced")
}

/// Removes what is at `path` if it is a socket that nobody listens at. Anything else stays, and bind
/// says that the address is in use.
fn remove_if_stale(path: &Path, address: &SockAddr, kind: Type) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        _ => return Ok(()),
    }
    let probe = Socket::new(Domain::UNIX, kind, None)?;
    // Not to wait where the queue of a busy server is full: a full queue (EAGAIN) is a living one.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {
            match fs::remove_file(path) {
                // Whoever left it has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            }
        }
        // It answers; or it is of the other kind (EPROTOTYPE), so that somebody is there; or it cannot
        // be told.
        _ => Ok(()),
    }
}
