//! Cancellation: the end of waits that would go on for longer than the server.
//!
//! A thread cannot be cancelled; only its connection can be closed. A coroutine can: whatever it waits for, its wait
//! fails. The [`Parker`](super::Parker) decides when.
//!
//! | end of | first | then, if it goes on |
//! |---|---|---|
//! | a request, at the deadline of a drain | its wait returns [`Cancelled`] | its waits panic with [`CancelledUnwind`] |
//! | an accept loop that was moved or abandoned | its wait panics with [`RetiredUnwind`] | each further wait does as well |
//!
//! With `panic = "abort"` each of these waits returns an error instead of a panic. Both payloads are private types,
//! raised by `resume_unwind`: no panic hook prints them, and `server/catch_panic.rs` tells them from panics of the
//! program's own.

use std::error::Error;
use std::fmt;
use std::io;

use super::parker;
use crate::on_drop::OnDrop;
use crate::peer_fault;

/// The error of a wait that was cancelled, as the source of an [`io::Error`]: the request has to end, and its handler
/// should return.
///
/// A handler meets this error where it waits for something other than its own connection: another server, or an event;
/// in a closure of [`join`](crate::join) as well. [`sleep`](super::sleep) ends early instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cancelled;

impl Cancelled {
    /// Whether this error, or its cause, is a cancellation.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        // This goes along the sources, because the program or an adapter of std may have wrapped the error.
        peer_fault::find(error)
    }

    /// The error of a wait that a parker cancels.
    #[must_use]
    pub fn error() -> io::Error {
        io::Error::other(Self)
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the wait was cancelled: the server has closed, and the time for requests to end is over")
    }
}

impl Error for Cancelled {}

/// The payload of the panic that ends a handler which goes on waiting after its wait was cancelled. No panic hook
/// sees it.
pub(crate) struct CancelledUnwind;

/// The payload of the panic that ends an accept loop whose run goes on elsewhere, or whose server has closed. Code that
/// has caught this panic passes the payload on as an error, so this type is an error. No panic hook sees it.
#[derive(Debug)]
pub(crate) struct RetiredUnwind;

impl fmt::Display for RetiredUnwind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the accept loop has ended, or goes on in another worker")
    }
}

impl Error for RetiredUnwind {}

/// Runs a section whose waits are not cancelled: a last message to another server, say, or the end of a transaction. The
/// section delays the end of the process, so it should be short, and each of its waits bounded.
///
/// A cancellation that was held off comes with the first wait after the section. On a plain thread this only calls `run`.
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use socketserver::park::shield;
/// use socketserver::outgoing::connect;
/// use socketserver::{HandlerResult, StreamRequest, stream_fn};
///
/// fn handle(request: &mut StreamRequest) -> HandlerResult {
///     let mut store = connect("127.0.0.1:6379", Duration::from_secs(1))?;
///     let result = std::io::copy(request, &mut store);
///     // Also when the copy was cancelled: the store must not wait for more.
///     shield(|| store.write_all(b"QUIT\r\n"))?;
///     result?;
///     Ok(())
/// }
/// # let _ = stream_fn(handle);
/// ```
pub fn shield<R>(run: impl FnOnce() -> R) -> R {
    let Some(parker) = parker() else { return run() };
    parker.begin_shield();
    // The shield ends even if `run` panics, and at the same parker even if `run` installs another one.
    let _end = OnDrop(|| parker.end_shield());
    run()
}
