//! An event made of a pair of sockets.
//!
//! ```text
//! notify: a byte into ends.1 ---> ends.0 is readable      clear: reads ends.0 until it is empty
//! ```
//!
//! It takes two descriptors where Linux's eventfd takes one, and the pair's buffer bounds the bytes: a `notify` that finds
//! it full changes nothing, because the reader's end is readable already.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// The reader's end and the writer's.
pub(crate) type Ends = (UnixStream, UnixStream);

/// See the form for Linux, in `sys/event.rs`. Neither end ever waits.
pub(crate) fn new() -> io::Result<Ends> {
    let ends = UnixStream::pair()?;
    ends.0.set_nonblocking(true)?;
    ends.1.set_nonblocking(true)?;
    Ok(ends)
}

/// See the form for Linux, in `sys/event.rs`. Both numbers are kept.
pub(crate) fn renew(ends: &Ends) -> io::Result<()> {
    let (reader, writer) = new()?;
    super::replace(&ends.0, reader.into())?;
    super::replace(&ends.1, writer.into())
}

/// The descriptor to wait for. Only this end ever becomes readable.
pub(crate) fn reader(ends: &Ends) -> BorrowedFd<'_> {
    ends.0.as_fd()
}

/// See the form for Linux, in `sys/event.rs`. std's write is one system call here as well.
pub(crate) fn notify(ends: &Ends) {
    let _full_is_readable_too = (&ends.1).write(&[1]);
}

/// See the form for Linux, in `sys/event.rs`. A pair holds one byte for each `notify`, so this reads until a read comes
/// back short.
pub(crate) fn clear(ends: &Ends) {
    let mut bytes = [0u8; 64];
    while matches!((&ends.0).read(&mut bytes), Ok(64)) {}
}
