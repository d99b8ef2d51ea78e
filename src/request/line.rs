//! Lines and text: the buffers that a line is read into, and its errors.
//!
//! Lines are found in `bounded_read.rs`. Here they become text, for connections and datagrams alike. Bytes that are no
//! text are the peer's fault, and their error carries the request's mark.

use std::io;
use std::mem;
use std::str::Utf8Error;

use crate::peer_fault::{PeerFault, RequestId, owned_error};

/// A buffer for a line: a `String`, if the line has to be UTF-8, or a `Vec<u8>`, if it may be any bytes. Each
/// [`next_line`](crate::StreamRequest::next_line) empties it and uses its memory again. Other types cannot implement
/// this trait.
///
/// ```
/// use socketserver::{HandlerResult, StreamRequest, stream_fn};
///
/// fn handle(request: &mut StreamRequest) -> HandlerResult {
///     // The name is text: anything else is the peer's fault. The password may be any bytes.
///     let (mut name, mut password) = (String::new(), Vec::new());
///     let Some(_name) = request.next_line(&mut name)? else { return Ok(()) };
///     let Some(_password) = request.next_line(&mut password)? else { return Ok(()) };
///     Ok(())
/// }
/// # let _handler = stream_fn(handle);
/// ```
pub trait Line: sealed::Sealed {
    /// The line without its newline, borrowed.
    type Text: ?Sized;

    /// Empties the buffer, calls `read` to append a line, and lends the line. None if `read` says that there are no
    /// more lines. `garbled` makes the error for a line that this type cannot hold.
    #[doc(hidden)]
    fn fill(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<bool>,
        garbled: impl FnOnce(Utf8Error) -> io::Error,
    ) -> io::Result<Option<&Self::Text>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for String {}
    impl Sealed for Vec<u8> {}
}

impl Line for Vec<u8> {
    type Text = [u8];

    // Any bytes are a line, so nothing is checked.
    fn fill(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<bool>,
        _garbled: impl FnOnce(Utf8Error) -> io::Error,
    ) -> io::Result<Option<&[u8]>> {
        self.clear();
        Ok(read(self)?.then_some(self))
    }
}

impl Line for String {
    type Text = str;

    fn fill(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<bool>,
        garbled: impl FnOnce(Utf8Error) -> io::Error,
    ) -> io::Result<Option<&str>> {
        // Takes the string's memory, so that it is used again and the whole line is checked at once. After an error
        // the string is empty.
        let mut bytes = mem::take(self).into_bytes();
        bytes.clear();
        let more = read(&mut bytes)?;
        *self = String::from_utf8(bytes).map_err(|error| garbled(error.utf8_error()))?;
        Ok(more.then_some(self))
    }
}

/// Appends the peer's bytes to a text. Bytes that are not UTF-8 are a [`PeerFault`].
pub(crate) fn append_text(text: &mut String, bytes: Vec<u8>, owner: RequestId) -> io::Result<()> {
    // The vector becomes the string, without a copy.
    let more = String::from_utf8(bytes)
        .map_err(|error| PeerFault::garbled(owner, NotText(error.utf8_error())))?;
    if text.is_empty() {
        *text = more;
    } else {
        text.push_str(&more);
    }
    Ok(())
}

/// `Read::read_to_string` of a request. std's own error would not say that the peer is at fault.
pub(crate) fn read_to_string(
    from: &mut impl io::Read,
    text: &mut String,
    owner: RequestId,
) -> io::Result<usize> {
    // Into a vector of its own, because `text` takes nothing but UTF-8.
    let mut bytes = Vec::new();
    let read = from.read_to_end(&mut bytes);
    // As with std, text that came before an error is kept. Of two errors the earlier one counts: cut-off text may end
    // in the middle of a character.
    match append_text(text, bytes, owner) {
        Ok(()) => read,
        Err(garbled) => read.and(Err(garbled)),
    }
}

/// The peer has sent bytes that are not UTF-8.
#[derive(Debug, thiserror::Error)]
#[error("not UTF-8: {0}")]
pub(crate) struct NotText(#[source] pub(crate) Utf8Error);

/// A line was longer than `Limits::line_bytes`: the payload of an [`io::Error`] of kind `InvalidData`. The beginning of
/// the line has been read but not the rest, so handlers usually answer with an error message and close.
///
/// It is the peer's fault ([`Fault::Peer`](crate::hooks::Fault::Peer),
/// [`CloseReason::LineTooLong`](crate::monitor::CloseReason::LineTooLong)), but it is not a [`PeerFault`], and it is reported,
/// because the limit may be too low.
///
/// ```
/// use std::io::Write;
/// use socketserver::request::LineTooLong;
/// use socketserver::{HandlerResult, StreamRequest, stream_fn};
///
/// fn handle(request: &mut StreamRequest) -> HandlerResult {
///     let mut line = String::new();
///     match request.next_line(&mut line) {
///         Ok(_) => Ok(()),
///         Err(error) => {
///             if let Some(long) = LineTooLong::find(&error) {
///                 writeln!(request, "a line has at most {} bytes", long.limit_bytes())?;
///             }
///             // The rest of the line is still unread, so the request has to end.
///             Err(error.into())
///         }
///     }
/// }
/// # let _handler = stream_fn(handle);
/// ```
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the line is longer than {limit_bytes} bytes")]
pub struct LineTooLong {
    /// The request that the line belongs to. A handler may also return the error of another request, or of a client
    /// connection of its own.
    owner: RequestId,
    /// `Limits::line_bytes` of that request.
    limit_bytes: usize,
}

owned_error!(LineTooLong);

impl LineTooLong {
    /// An [`io::Error`] of kind `InvalidData` with this payload.
    pub(crate) fn error(owner: RequestId, limit_bytes: usize) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Self { owner, limit_bytes })
    }

    /// The limit that the line exceeded.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }
}
