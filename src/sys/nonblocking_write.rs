//! Writing to a standard stream without ever waiting for its reader.
//!
//! A log reader that has stopped reading must not stop the server. So text that does not fit is lost, and
//! `console.rs` counts the losses.
//!
//! Callers are `console.rs` and all that prints by it, on any thread and in forked children. A write takes at most a few
//! system calls, no lock that it would wait for, and memory only to open a pipe or a terminal once more.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::{PollFd, check, check_len, poll};

/// The longest write that a pipe takes as a whole or not at all: PIPE_BUF, 4,096 on Linux, and 512 at least by POSIX. A pipe
/// that poll(2) reports as writable takes as much without a wait.
const ATOMIC_WRITE_BYTES: usize = if cfg!(linux_kernel) { 4_096 } else { 512 };

/// Writes as much as fits at once, and returns the number of bytes. A regular file always takes everything.
///
/// O_NONBLOCK is a flag of the open file description, which other processes share (a shell, for one), so it is not
/// set. How a wait is avoided depends on the kind of file:
///
/// | file | how |
/// |---|---|
/// | it has O_NONBLOCK | plain writes |
/// | regular | plain writes, which never wait for a reader |
/// | socket | MSG_DONTWAIT |
/// | pipe, terminal | opened once more by `/proc/self/fd`, which makes a description of our own with O_NONBLOCK |
/// | others, and where that fails | poll(2) before each piece |
pub(crate) fn write_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    if cfg!(miri) {
        // Miri knows no flags of the standard streams.
        return in_pieces(bytes, bytes.len(), |piece| write(fd, piece));
    }
    // SAFETY: no pointers.
    let mode = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // A stream that is closed, or open for reading only, takes nothing; the write would be an error.
    if mode == -1 || mode & libc::O_ACCMODE == libc::O_RDONLY {
        return 0;
    }
    let file = stat(fd);
    match file.map_or(0, |file| file.st_mode & libc::S_IFMT) {
        _ if mode & libc::O_NONBLOCK != 0 => {
            in_pieces(bytes, ATOMIC_WRITE_BYTES, |piece| write(fd, piece))
        }
        libc::S_IFREG => in_pieces(bytes, bytes.len(), |piece| write(fd, piece)),
        libc::S_IFSOCK => in_pieces(bytes, bytes.len(), |piece| super::send(fd, piece)),
        libc::S_IFIFO | libc::S_IFCHR => match own_description::open(fd) {
            Ok(own) => {
                let done = in_pieces(bytes, ATOMIC_WRITE_BYTES, |piece| write(own.as_fd(), piece));
                if fd.is_terminal() {
                    own_description::keep(own, file);
                }
                done
            }
            // A named pipe has no reader.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => 0,
            // The process is out of descriptors. poll(2) does not help: it reports a terminal that has room for one byte, and
            // a longer write would wait.
            Err(_) if own_description::IS_POSSIBLE && fd.is_terminal() => {
                own_description::kept(file).map_or(0, |own| {
                    in_pieces(bytes, ATOMIC_WRITE_BYTES, |piece| write((*own).as_fd(), piece))
                })
            }
            Err(_) => in_pieces(bytes, ATOMIC_WRITE_BYTES, |piece| write_if_ready(fd, piece)),
        },
        _ => in_pieces(bytes, ATOMIC_WRITE_BYTES, |piece| write_if_ready(fd, piece)),
    }
}

/// Writes piece by piece until a piece does not fit. A piece that is not the last ends after its last newline, if it has one.
///
/// So lines of several processes that share a log stay whole, as far as the file allows it. An error ends the loop as a
/// full pipe does: there is nobody to report it to.
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

/// Writes once, possibly not all of the bytes. [write(2)](https://man7.org/linux/man-pages/man2/write.2.html)
fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of one live slice.
    check_len(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

/// Writes once, if poll(2) reports room. The write may still wait if another process fills the same pipe in between.
fn write_if_ready(fd: BorrowedFd<'_>, piece: &[u8]) -> io::Result<usize> {
    let now = Some(std::time::Instant::now());
    if poll(&mut [PollFd::writable(fd)], now)? { write(fd, piece) } else { Ok(0) }
}

/// The file behind a descriptor; none if the system does not tell.
///
/// [fstat(2)](https://man7.org/linux/man-pages/man2/fstat.2.html)
fn stat(fd: BorrowedFd<'_>) -> Option<libc::stat> {
    // SAFETY: all zeros is a valid `stat`, and the pointer is to a live one.
    unsafe {
        let mut found = std::mem::zeroed::<libc::stat>();
        check(libc::fstat(fd.as_raw_fd(), &raw mut found)).ok().map(|_| found)
    }
}

#[cfg(linux_kernel)]
mod own_description {
    use super::{AsRawFd, BorrowedFd, io};
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::Arc;

    use parking_lot::Mutex;

    /// Whether `open` can work at all on this system.
    pub(super) const IS_POSSIBLE: bool = true;

    /// The last description of a terminal that was opened, and which terminal it is: for reports when the process is
    /// out of descriptors. The lock is only tried, because in a forked child its holder may not exist.
    static TERMINAL: Mutex<Option<(Which, Arc<File>)>> = Mutex::new(None);

    /// Device, inode and, for a terminal, the number of the terminal: equal for two descriptors of one terminal.
    type Which = (libc::dev_t, libc::ino_t, libc::dev_t);

    /// Names the terminal behind a descriptor.
    fn which(file: &libc::stat) -> Which {
        (file.st_dev, file.st_ino, file.st_rdev)
    }

    /// Keeps a description for [`kept`], in place of the earlier one. Does nothing while another thread holds the lock.
    pub(super) fn keep(own: File, file: Option<libc::stat>) {
        let now = file.map(|file| (which(&file), Arc::new(own)));
        let before = TERMINAL.try_lock().map(|mut kept| std::mem::replace(&mut *kept, now));
        // The earlier description is closed after the lock is released.
        drop(before);
    }

    /// The kept description, if it is one of this terminal: the descriptor may lead to another file by now.
    pub(super) fn kept(file: Option<libc::stat>) -> Option<Arc<File>> {
        let kept = TERMINAL.try_lock()?;
        let (of, own) = kept.as_ref()?;
        (*of == which(&file?)).then(|| Arc::clone(own))
    }

    /// The same pipe or terminal, opened once more in non-blocking mode.
    ///
    /// [open(2)](https://man7.org/linux/man-pages/man2/open.2.html), O_NONBLOCK: a named pipe without a reader is
    /// refused with ENXIO and not waited for. O_NOCTTY: a terminal does not become the one that controls this
    /// process.
    pub(super) fn open(fd: BorrowedFd<'_>) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
    }
}

#[cfg(not(linux_kernel))]
mod own_description {
    use super::{BorrowedFd, io};
    use std::fs::File;
    use std::sync::Arc;

    pub(super) const IS_POSSIBLE: bool = false;

    pub(super) fn keep(_own: File, _file: Option<libc::stat>) {}

    pub(super) fn kept(_file: Option<libc::stat>) -> Option<Arc<File>> {
        None
    }

    /// Refuses: on other systems such an open would only duplicate the descriptor, with its mode.
    pub(super) fn open(_fd: BorrowedFd<'_>) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
