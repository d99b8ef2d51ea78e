//! A directory that is held open, so that it stays the same one when a name on the way to it, or the process's working
//! directory, changes; and modes and locks of files.
//!
//! It serves the file of a Unix socket, from bind to close: the server may be started in a directory that is renamed
//! or replaced, and must change and remove no file but its own.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A directory. Where it cannot be held open, it is looked up by its name each time.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The name as it was given. Used if `opened` is none.
    name: PathBuf,
    /// The directory, opened with O_PATH. It only serves to build paths through `/proc`, so this is none where `/proc` is not
    /// mounted.
    opened: Option<File>,
}

impl Directory {
    /// Opens a directory, if it can. A directory that does not exist, or that this process may not enter, is no error yet.
    pub(crate) fn new(name: &Path) -> Self {
        let opened = open_path::directory(name).ok();
        Self { name: name.to_owned(), opened: opened.filter(|file| of_descriptor(file).exists()) }
    }

    /// A path to a file in the directory. It stays right when the directory's name changes.
    pub(crate) fn file(&self, name: &OsStr) -> PathBuf {
        self.opened.as_ref().map_or_else(|| self.name.clone(), of_descriptor).join(name)
    }

    /// Opens the directory in order to lock it.
    ///
    /// flock(2) refuses a descriptor that was opened with O_PATH. So this opens the directory once more, which needs
    /// the right to read it.
    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(self.file(OsStr::new(".")))
    }
}

/// The name that the system has for an open file.
///
/// [proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html): a link of `/proc/self/fd` leads to the open file
/// itself, whatever its name is by now. The path holds as long as `file` is open.
fn of_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Sets the permissions of a socket that is not bound yet. The file that `bind` then makes has no permission beyond these, not
/// even for a moment. Linux only: elsewhere the mode is set right after the bind.
///
/// [bind(2)](https://man7.org/linux/man-pages/man2/bind.2.html) on Linux gives the file the mode of the socket's own
/// inode, less the umask.
#[cfg(linux_kernel)]
pub(crate) fn set_mode_before_bind(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    super::check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })?;
    Ok(())
}

/// Does nothing here; see the form for Linux above.
#[cfg(not(linux_kernel))]
pub(crate) fn set_mode_before_bind(_fd: BorrowedFd<'_>, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Tries to take an exclusive lock on a file or directory, for as long as it is open.
/// [flock(2)](https://man7.org/linux/man-pages/man2/flock.2.html)
///
/// `WouldBlock` if another open file description has the lock. Copies of the descriptor, also those in forked
/// children, share the lock, and the last one to be closed releases it.
///
/// Never waits. The lock is advisory: it holds among servers of this crate, which all ask for it before they replace a
/// socket's file.
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: no pointers.
    super::check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })?;
    Ok(())
}

/// Gives the file of the socket `fd` its permissions. The file at `path` must be that file: a socket with one name
/// and the owner of `fd`. It is opened once, checked and then changed, so that a file that another process puts there
/// meanwhile (a link above all) is never changed.
pub(crate) fn set_mode_of_socket_file(
    fd: BorrowedFd<'_>,
    path: &Path,
    mode: u32,
) -> io::Result<()> {
    // An O_PATH descriptor pins the inode: the file that is checked is the one that is changed.
    let file = open_path::file(path);
    let found = match &file {
        Ok(file) => file.metadata()?,
        Err(_) => fs::symlink_metadata(path)?,
    };
    if !is_file_of_socket(fd, &found)? {
        return Err(io::Error::other("another file has taken its place"));
    }
    if found.permissions().mode() & MODE_BITS == mode {
        return Ok(());
    }
    // fchmod(2) refuses a descriptor that was opened with O_PATH; chmod(2) of its link in /proc changes the same inode.
    let name = file.as_ref().map_or_else(|_| path.to_owned(), of_descriptor);
    fs::set_permissions(name, Permissions::from_mode(mode))
}

/// The bits that chmod can set; the others of a mode are the kind of file.
pub(crate) const MODE_BITS: u32 = 0o7777;

/// Whether a file may be the one that this socket's `bind` has made. The file has an inode of its own, and no call leads from
/// the socket to it. So the kind, the number of names and the owner have to be enough.
fn is_file_of_socket(fd: BorrowedFd<'_>, found: &Metadata) -> io::Result<bool> {
    // fstat(2) of a socket names the user that has made it.
    let socket = File::from(fd.try_clone_to_owned()?).metadata()?;
    Ok(found.file_type().is_socket() && found.nlink() == 1 && found.uid() == socket.uid())
}

/// Opens a file only to hold and to inspect it. This needs no rights on the file.
/// [open(2)](https://man7.org/linux/man-pages/man2/open.2.html), O_PATH
#[cfg(linux_kernel)]
mod open_path {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    pub(super) fn directory(path: &Path) -> io::Result<File> {
        open(path, libc::O_DIRECTORY)
    }

    /// A link at the end of the path is not followed; those on the way are.
    pub(super) fn file(path: &Path) -> io::Result<File> {
        open(path, libc::O_NOFOLLOW)
    }

    /// std asks for a mode of access; with O_PATH the kernel ignores it.
    fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path)
    }
}

/// Other systems cannot do this: the functions above then go by the name.
#[cfg(not(linux_kernel))]
mod open_path {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    pub(super) fn directory(_path: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn file(_path: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & MODE_BITS
    }

    #[test]
    fn the_mode_of_nothing_but_the_sockets_own_file_is_changed() {
        let directory = tempfile::tempdir().unwrap();
        let [own, secret, link, other] =
            ["own", "secret", "link", "other"].map(|name| directory.path().join(name));
        let socket = UnixListener::bind(&own).unwrap();
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        set_mode_of_socket_file(socket.as_fd(), &own, 0o666).unwrap();
        assert_eq!(mode_of(&own), 0o666);
        // Another process may have put these files there in the meantime.
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        fs::hard_link(&own, &other).unwrap();
        for path in [&secret, &link, &other] {
            set_mode_of_socket_file(socket.as_fd(), path, 0o640).unwrap_err();
        }
        assert_eq!((mode_of(&own), mode_of(&secret)), (0o666, 0o600));
        fs::remove_file(&other).unwrap();
        std::os::unix::fs::symlink(&own, &other).unwrap();
        set_mode_of_socket_file(socket.as_fd(), &other, 0o640).unwrap_err();
        set_mode_of_socket_file(socket.as_fd(), &own, 0o640).unwrap();
        assert_eq!(mode_of(&own), 0o640);
    }

    #[test]
    fn a_directory_is_the_same_when_its_name_leads_elsewhere() {
        let outer = tempfile::tempdir().unwrap();
        let (was, is) = (outer.path().join("was"), outer.path().join("is"));
        fs::create_dir(&was).unwrap();
        let directory = Directory::new(&was);
        fs::rename(&was, &is).unwrap();
        fs::create_dir(&was).unwrap();
        fs::write(directory.file(OsStr::new("file")), "here").unwrap();
        assert_eq!(fs::read_to_string(is.join("file")).unwrap(), "here");
        assert!(!was.join("file").exists() && directory.open().is_ok());
    }
}
