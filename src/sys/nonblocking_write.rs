//! Writing to a standard stream without ever waiting for its reader.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::{PollFd, check, check_len, poll};

/// What a pipe takes as a whole or not at all (PIPE_BUF of Linux and the BSDs' pipes; POSIX asks for 512). Where a
/// descriptor says that it is writable, it takes as much without a wait.
const PIECE: usize =
    if cfg!(any(target_os = "linux", target_os = "android")) { 4_096 } else { 512 };

/// Writes as much as fits now, and says how many bytes that were. A regular file always takes everything.
///
/// The descriptor's mode is left as it is: other processes share it, a shell for one.
pub(crate) fn write_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    // SAFETY: no pointers.
    let mode = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if mode == -1 || mode & libc::O_ACCMODE == libc::O_RDONLY {
        return 0;
    }
    let file = stat(fd);
    match file.map_or(0, |file| file.st_mode & libc::S_IFMT) {
        _ if mode & libc::O_NONBLOCK != 0 => in_pieces(bytes, PIECE, |piece| write(fd, piece)),
        libc::S_IFREG => in_pieces(bytes, bytes.len(), |piece| write(fd, piece)),
        libc::S_IFSOCK => in_pieces(bytes, bytes.len(), |piece| super::send(fd, piece)),
        libc::S_IFIFO | libc::S_IFCHR => match own::description(fd) {
            Ok(own) => {
                let done = in_pieces(bytes, PIECE, |piece| write(own.as_fd(), piece));
                if fd.is_terminal() {
                    own::keep(own, file);
                }
                done
            }
            // A named pipe that nobody has open for reading.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => 0,
            // One that is ready promises room for a byte, and a write of more waits for the rest.
            Err(_) if own::MAY_BE_HAD && fd.is_terminal() => own::kept(file)
                .map_or(0, |own| in_pieces(bytes, PIECE, |piece| write((*own).as_fd(), piece))),
            Err(_) => in_pieces(bytes, PIECE, |piece| write_if_ready(fd, piece)),
        },
        _ => in_pieces(bytes, PIECE, |piece| write_if_ready(fd, piece)),
    }
}

/// Writes piece by piece until one does not fit. A piece ends with a line, if one ends in it.
fn in_pieces(bytes: &[u8], most: usize, write: impl Fn(&[u8]) -> io::Result<usize>) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let mut piece = &rest[..rest.len().min(most)];
        if piece.len() < rest.len() {
            if let Some(end) = piece.iter().rposition(|byte| *byte == b'\n') {
                piece = &piece[..=end];
            }
        }
        match write(piece) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    done
}

fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of one live slice.
    check_len(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

/// Where no description of our own is to be had: asks first. Another process that writes to the same pipe in the
/// moment between may still have us wait.
fn write_if_ready(fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<usize> {
    let now = Some(std::time::Instant::now());
    if poll(&mut [PollFd::writable(fd)], now)? { write(fd, piece) } else { Ok(0) }
}

/// Which file it is; none if that cannot be known.
fn stat(fd: BorrowedFd<'_>) -> Option<libc::stat> {
    // SAFETY: all zeros is a valid `stat`, and the pointer is to a live one.
    unsafe {
        let mut found = std::mem::zeroed::<libc::stat>();
        check(libc::fstat(fd.as_raw_fd(), &raw mut found)).ok().map(|_| found)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod own {
    use super::{AsRawFd, BorrowedFd, io};
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::Arc;

    use parking_lot::Mutex;

    pub(super) const MAY_BE_HAD: bool = true;

    /// The last description of a terminal, and which terminal it is. When descriptors have run out there is something
    /// to say, and none to be opened. The lock is never waited for: in a forked child nobody may be left to release it.
    static KEPT: Mutex<Option<(Which, Arc<File>)>> = Mutex::new(None);

    type Which = (libc::dev_t, libc::ino_t, libc::dev_t);

    fn which(file: &libc::stat) -> Which {
        (file.st_dev, file.st_ino, file.st_rdev)
    }

    pub(super) fn keep(own: File, file: Option<libc::stat>) {
        let now = file.map(|file| (which(&file), Arc::new(own)));
        let before = KEPT.try_lock().map(|mut kept| std::mem::replace(&mut *kept, now));
        // Closed when the lock is released.
        drop(before);
    }

    /// The description that is kept, if it is of this terminal: another one may stand behind the number by now.
    pub(super) fn kept(file: Option<libc::stat>) -> Option<Arc<File>> {
        let kept = KEPT.try_lock()?;
        let (of, own) = kept.as_ref()?;
        (*of == which(&file?)).then(|| Arc::clone(own))
    }

    /// The same pipe or terminal once more, with a mode of its own, in which nothing waits.
    pub(super) fn description(fd: BorrowedFd<'_>) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod own {
    use super::{BorrowedFd, io};
    use std::fs::File;
    use std::sync::Arc;

    pub(super) const MAY_BE_HAD: bool = false;

    pub(super) fn keep(_own: File, _file: Option<libc::stat>) {}

    pub(super) fn kept(_file: Option<libc::stat>) -> Option<Arc<File>> {
        None
    }

    /// Other systems duplicate the descriptor in this place, with the mode that it has.
    pub(super) fn description(_fd: BorrowedFd<'_>) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
