//! A folder that is kept at hand, and what is done to files in it: always the same folder, whatever becomes of the names
//! on the way to it or of the process's own.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A folder. Where it cannot be kept at hand, it is found anew each time by its name.
#[derive(Debug)]
pub(crate) struct Folder {
    name: PathBuf,
    kept: Option<File>,
}

impl Folder {
    /// One that is not there, or may not be looked into, is no error yet.
    pub(crate) fn new(name: &Path) -> Self {
        let kept = open::without_rights(name, true).ok();
        Self { name: name.to_owned(), kept: kept.filter(|file| of_descriptor(file).exists()) }
    }

    /// Where a file of it is to be found, whatever has become of the folder's name.
    pub(crate) fn file(&self, name: &OsStr) -> PathBuf {
        self.kept.as_ref().map_or_else(|| self.name.clone(), of_descriptor).join(name)
    }

    /// Opened to be locked.
    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(self.file(OsStr::new(".")))
    }
}

/// A kept file once more, by the name that the system has for it.
fn of_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Sets the permissions of a socket that is not bound yet, so that the file its `bind` makes never
/// has more of them, not even for a moment. Linux only: elsewhere the file's mode follows at once.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn set_mode_before_bind(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    super::check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })?;
    Ok(())
}

/// See the Linux form.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn set_mode_before_bind(_fd: BorrowedFd<'_>, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Tries to take an exclusive lock on an open file or directory, until it is closed.
/// [flock(2)](https://man7.org/linux/man-pages/man2/flock.2.html)
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: no pointers.
    super::check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })?;
    Ok(())
}

/// Gives the file of the socket `fd` its permissions. What stands at `path` must be that file: a socket of one name, and
/// of whom `fd` is. It is not looked for a second time, so that nothing else can be changed that somebody has put there
/// meanwhile, by a link above all.
pub(crate) fn set_mode_of_socket_file(
    fd: BorrowedFd<'_>,
    path: &Path,
    mode: u32,
) -> io::Result<()> {
    let file = open::without_rights(path, false);
    let found = match &file {
        Ok(file) => file.metadata()?,
        Err(_) => fs::symlink_metadata(path)?,
    };
    if !is_file_of_socket(fd, &found)? {
        return Err(io::Error::other("somebody has put something else in the place of its file"));
    }
    if found.permissions().mode() & MODE_BITS == mode {
        return Ok(());
    }
    let name = file.as_ref().map_or_else(|_| path.to_owned(), of_descriptor);
    fs::set_permissions(name, Permissions::from_mode(mode))
}

/// What chmod can set; the rest of a mode says what kind of file it is.
pub(crate) const MODE_BITS: u32 = 0o7777;

fn is_file_of_socket(fd: BorrowedFd<'_>, found: &Metadata) -> io::Result<bool> {
    let socket = File::from(fd.try_clone_to_owned()?).metadata()?;
    Ok(found.file_type().is_socket() && found.nlink() == 1 && found.uid() == socket.uid())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod open {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    /// Opens what is there only to keep it and to look at it, which takes no rights on it. A link is not followed, but for
    /// those on the way.
    pub(super) fn without_rights(path: &Path, folder: bool) -> io::Result<File> {
        let kind = if folder { libc::O_DIRECTORY } else { libc::O_NOFOLLOW };
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | kind).open(path)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod open {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    /// Other systems know no such way.
    pub(super) fn without_rights(_path: &Path, _folder: bool) -> io::Result<File> {
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
        let folder = tempfile::tempdir().unwrap();
        let [own, secret, link, other] =
            ["own", "secret", "link", "other"].map(|name| folder.path().join(name));
        let socket = UnixListener::bind(&own).unwrap();
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        set_mode_of_socket_file(socket.as_fd(), &own, 0o666).unwrap();
        assert_eq!(mode_of(&own), 0o666);
        // What may stand there when somebody has been faster.
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
    fn a_folder_is_the_same_when_its_name_leads_elsewhere() {
        let outer = tempfile::tempdir().unwrap();
        let (was, is) = (outer.path().join("was"), outer.path().join("is"));
        fs::create_dir(&was).unwrap();
        let folder = Folder::new(&was);
        fs::rename(&was, &is).unwrap();
        fs::create_dir(&was).unwrap();
        fs::write(folder.file(OsStr::new("file")), "here").unwrap();
        assert_eq!(fs::read_to_string(is.join("file")).unwrap(), "here");
        assert!(!was.join("file").exists() && folder.open().is_ok());
    }
}
