//! [`HalfClose`]: outputs that end without their input.
//!
//! [`Write`] has no method that ends an output, and `TcpStream::shutdown` belongs to one type. A relay has to write to
//! outputs of any kind and to end them: sockets, TLS, and halves of either.

use std::io::{self, Write};

/// An output that can end before its input does: a connection that a handler has made or serves, or the output half of
/// one. For code that moves bytes from any connection to any other.
///
/// ```
/// use std::io::{self, Read};
/// use socketserver::outgoing::HalfClose;
///
/// /// Passes on all input, and then its end. If either side fails, the failure reaches the other side's user as well.
/// fn pass_on(mut from: impl Read, mut to: impl HalfClose) -> io::Result<u64> {
///     let moved = io::copy(&mut from, &mut to).and_then(|count| to.shutdown_write().map(|()| count));
///     if moved.is_err() {
///         to.close();
///     }
///     moved
/// }
/// # fn pass(to: socketserver::outgoing::OutgoingStream) { let _ = pass_on(io::empty(), to); }
/// ```
pub trait HalfClose: Write {
    /// Ends the output: the peer reads what was written, and then the end. Reading goes on.
    ///
    /// # Errors
    ///
    /// If output that was held back cannot be sent, or the peer is gone.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Ends both directions at once. A read or write of either half that waits, on any thread, fails.
    fn close(&mut self);
}
