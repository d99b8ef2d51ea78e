//! Lines and text: what a line is read into, and what is wrong with one.

use std::io;
use std::mem;
use std::str::Utf8Error;

use crate::peer_fault::{Owned, PeerFault, RequestId, find};

/// What a line can be read into: a `String`, if it is text, or a `Vec<u8>`, if it may be anything.
pub trait Line: sealed::Sealed {
    /// The line without its newline, borrowed.
    type Text: ?Sized;

    /// Empties it, has `read` append a line, and lends the line; none if `read` says that there is no
    /// more. A line that it cannot hold is the error that `garbled` makes.
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
        let mut bytes = mem::take(self).into_bytes();
        bytes.clear();
        let more = read(&mut bytes)?;
        *self = String::from_utf8(bytes).map_err(|error| garbled(error.utf8_error()))?;
        Ok(more.then_some(self))
    }
}

/// Appends bytes of a request's peer to a text, if they are text. If not, it is the peer that has sent them.
pub(crate) fn append_text(text: &mut String, bytes: Vec<u8>, owner: RequestId) -> io::Result<()> {
    let more = String::from_utf8(bytes)
        .map_err(|error| PeerFault::garbled(owner, NotText(error.utf8_error())))?;
    if text.is_empty() {
        *text = more;
    } else {
        text.push_str(&more);
    }
    Ok(())
}

/// What `Read::read_to_string` is for a request: std's own would not say whose bytes those were.
pub(crate) fn read_to_string(
    from: &mut impl io::Read,
    text: &mut String,
    owner: RequestId,
) -> io::Result<usize> {
    let mut bytes = Vec::new();
    let read = from.read_to_end(&mut bytes);
    // As std's: what has come before an error is there, if it is text.
    match append_text(text, bytes, owner) {
        Ok(()) => read,
        Err(garbled) => read.and(Err(garbled)),
    }
}

/// What the peer has sent was to be text and is not.
#[derive(Debug, thiserror::Error)]
#[error("not UTF-8: {0}")]
pub(crate) struct NotText(#[source] pub(crate) Utf8Error);

/// A line was longer than `Limits::line_bytes`: the payload of an [`io::Error`] of kind
/// `InvalidData`. Its beginning has been taken from the stream and its rest has not, so that the usual
/// answer is to say so and to close.
///
/// It is the peer's ([`Fault::Peer`](crate::hooks::Fault::Peer), [`CloseReason::LineTooLong`](crate::CloseReason::LineTooLong)), but
/// no [`PeerFault`] and not quiet: the limit may be what is wrong.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the line is longer than {limit_bytes} bytes")]
pub struct LineTooLong {
    owner: RequestId,
    limit_bytes: usize,
}

impl Owned for LineTooLong {
    fn owner(&self) -> RequestId {
        self.owner
    }
}

impl LineTooLong {
    pub(crate) fn error(owner: RequestId, limit_bytes: usize) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Self { owner, limit_bytes })
    }

    /// Finds it along an error's chain of causes.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// The limit that it was longer than.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }
}
