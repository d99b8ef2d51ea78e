//! [`read_small_file`]: a file that an operator names, such as a certificate, a key or a password, read whole.
//!
//! A path that was given by mistake may lead to anything. So nothing is opened that is neither a file nor a pipe (some
//! devices act when they are opened), no open waits, and no more is read than a given number of bytes.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys::{self, PollFd};

/// Reads a file of at most `most_bytes` whole, for programs that are told the path of a certificate, a key or a password:
/// [`Tls`](super::Tls) reads its own files by it.
///
/// A pipe, such as that of a shell's `<(pass show key)`, is read to its end, which has to come within 30 s. Such a pipe can
/// be read only once. A pipe that no program has open for writing is an error, and not waited for.
///
/// ```no_run
/// use socketserver::tls::read_small_file;
///
/// # fn main() -> std::io::Result<()> {
/// let password = String::from_utf8(read_small_file("/run/secrets/password", 4_096)?);
/// # let _ = password; Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The errors of the system. Also if the path leads to a folder, a device or a socket; if the file is longer than
/// `most_bytes`; and if it is a pipe whose end does not come in time. The text is a sentence without the path, as those of
/// the system are.
pub fn read_small_file(path: impl AsRef<Path>, most_bytes: u64) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    // This comes before the open, because the open alone may act: that of a watchdog device starts the watchdog.
    refuse_others(path.metadata()?.file_type())?;
    // With O_NONBLOCK the open does not wait for the other end of a pipe.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // The name may lead to something else by now.
    let found = file.metadata()?.file_type();
    refuse_others(found)?;
    // One byte more than allowed shows that a file is too long, and no more than that is read of a file without an end.
    let bound = most_bytes.saturating_add(1);
    let text = if found.is_fifo() {
        read_pipe(&file, bound)?
    } else {
        let mut text = Vec::new();
        // The length that the system reports is not used: a file of /proc has none.
        (&mut file).take(bound).read_to_end(&mut text)?;
        text
    };
    if text.len() as u64 > most_bytes {
        return Err(bad(format!("it has more than {}", size(most_bytes))));
    }
    Ok(text)
}

/// Fails for everything but a file and a pipe.
fn refuse_others(found: FileType) -> io::Result<()> {
    let is = if found.is_file() || found.is_fifo() {
        return Ok(());
    } else if found.is_dir() {
        "folder"
    } else if found.is_socket() {
        "socket"
    } else {
        "device"
    };
    Err(bad(format!("it is a {is}, and no file")))
}

/// Reads a pipe that does not block, up to its end or to the bound.
///
/// `bound` is one more than the caller allows. The end has to come within [`PIPE_WAIT`], however fast bytes come.
fn read_pipe(mut pipe: &File, bound: u64) -> io::Result<Vec<u8>> {
    let (mut text, mut block, deadline) = (Vec::new(), [0; 4_096], Instant::now() + PIPE_WAIT);
    // A block at a time, so that the time can be checked in between.
    while (text.len() as u64) < bound {
        match pipe.read(&mut block) {
            Ok(0) if text.is_empty() => {
                // A pipe without a writer is at its end at once. An empty text is no secret either, so it is an
                // error.
                return Err(bad("it is a pipe that no program writes to".to_owned()));
            }
            Ok(0) => break,
            Ok(count) => text.extend(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The result of the poll is not needed: the next read or the clock below says the same.
                sys::poll(&mut [PollFd::readable(pipe.as_fd())], Some(deadline))?;
            }
            Err(error) => return Err(error),
        }
        // The time is also checked after each read, because a writer may go on writing a little at a time.
        if Instant::now() >= deadline && (text.len() as u64) < bound {
            let text =
                format!("it is a pipe, and its end did not come within {} s", PIPE_WAIT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    }
    Ok(text)
}

/// How long the program at the other end of a pipe may take: it may ask its user for a password.
const PIPE_WAIT: Duration = Duration::from_secs(30);

/// A number of bytes as a person writes it.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole =
        units.into_iter().find(|(shift, _)| bytes >> shift << shift == bytes && bytes >> shift > 0);
    whole.map_or(format!("{bytes} bytes"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

/// A mistake of the operator in the file, as a sentence without the path.
fn bad(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;
    use std::thread;

    fn refusal(path: impl AsRef<Path>) -> String {
        read_small_file(path, 1_024).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [7; 1_024]).unwrap();
        assert_eq!(read_small_file(&path, 1_024).unwrap(), [7; 1_024]);
        fs::write(&path, [7; 1_025]).unwrap();
        assert_eq!(refusal(&path), "it has more than 1 KiB");
        assert_eq!(read_small_file(&path, u64::MAX).unwrap().len(), 1_025);
        fs::write(&path, "").unwrap();
        assert_eq!(read_small_file(&path, 0).unwrap(), b"");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(refusal(folder.path()), "it is a folder, and no file");
        assert_eq!(refusal("/dev/zero"), "it is a device, and no file");
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(refusal(&socket), "it is a socket, and no file");
        let missing = read_small_file(folder.path().join("missing"), 1).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_pipe_is_read_if_somebody_writes_to_it() {
        let (read, mut write) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", read.as_raw_fd());
        let writer = thread::spawn(move || {
            write.write_all(b"pass").unwrap();
            thread::sleep(Duration::from_millis(20));
            write.write_all(b"word").unwrap();
        });
        assert_eq!(read_small_file(&path, 8).unwrap(), b"password");
        writer.join().unwrap();
        assert_eq!(refusal(&path), "it is a pipe that no program writes to");
    }
}
