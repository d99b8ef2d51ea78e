//! What users write: [`StreamRequestHandler`] for connections, [`DatagramRequestHandler`] for packets,
//! and [`BaseRequestHandler`], which the server calls.

mod factory;

use std::time::Duration;

use crate::error::HandlerResult;
use crate::request::{DatagramRequest, StreamRequest};

#[doc(alias = "RequestHandlerClass")]
pub use factory::MakeHandler;
pub(crate) use factory::boxed;
pub use factory::{DatagramFn, StreamFn, datagram_fn, stream_fn};

/// Serves one connection: what most users implement.
///
/// ```
/// use std::io::Write;
/// use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler};
///
/// struct Upper;
///
/// impl StreamRequestHandler for Upper {
///     fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
///         let mut line = String::new();
///         while let Some(text) = request.next_line(&mut line)? {
///             writeln!(request, "{}", text.to_uppercase())?;
///         }
///         Ok(())
///     }
/// }
/// ```
///
/// The server makes a new handler for every request, in the worker that runs it, and calls:
///
/// 1. `setup`; if it fails, nothing more is called;
/// 2. `handle`;
/// 3. `finish`, also when `handle` has failed or panicked.
///
/// Then it reports what failed (to `handle_error`), ends the connection in order, and closes it. A handler
/// never closes anything itself.
///
/// State of one connection is a field of the handler; state of all of them is an `Arc` that the closure
/// which makes handlers has captured. A handler is made and dropped in the worker that runs it, and need
/// not be `Send`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle connections",
    label = "not a handler of streams",
    note = "TCP and Unix stream servers need `impl StreamRequestHandler for {Self}`; \
            datagram servers need `DatagramRequestHandler`"
)]
pub trait StreamRequestHandler {
    /// Runs first. Default: nothing.
    ///
    /// # Errors
    ///
    /// Any; then neither `handle` nor `finish` is called.
    fn setup(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Serves the connection, from its first byte to its last. The connection is closed when it
    /// returns.
    ///
    /// # Errors
    ///
    /// Any: it is reported to `handle_error`, unless the peer has been idle for too long; that the peer has just gone
    /// away is told and not printed ([`PeerFault`](crate::request::PeerFault) says how that is known). A
    /// [`Fatal`](crate::Fatal) ends the server.
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult;

    /// Runs last, also after a `handle` that failed or panicked. Default: nothing. What is still held
    /// back by `wbufsize` is sent after it.
    ///
    /// # Errors
    ///
    /// Any: it is reported to `handle_error`.
    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Python's `timeout`: how long one read or write may take, instead of the server's idle, read and
    /// write limits. Default: none, the server's limits hold.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Python's `rbufsize`: bytes to ask the connection for at once, 16 MiB at the most. Default: none, which is 8,192.
    fn rbufsize(&self) -> Option<usize> {
        None
    }

    /// Python's `wbufsize`: bytes of output to hold back at most. Default: 0, nothing is held back.
    ///
    /// Worth setting for a handler that answers once and returns: see
    /// [`StreamRequest::set_wbufsize`].
    fn wbufsize(&self) -> usize {
        0
    }

    /// Python's `disable_nagle_algorithm`, for TCP. Default: true (Python: false), because Nagle's
    /// algorithm together with delayed acknowledgements costs 40 ms for every second small write.
    fn disable_nagle_algorithm(&self) -> bool {
        true
    }
}

/// Serves one datagram.
///
/// ```
/// use socketserver::{DatagramRequest, DatagramRequestHandler, HandlerResult};
///
/// struct Length;
///
/// impl DatagramRequestHandler for Length {
///     fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
///         let answer = request.packet().len().to_string();
///         request.reply(answer.as_bytes())?;
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle datagrams",
    label = "not a handler of datagrams",
    note = "UDP and Unix datagram servers need `impl DatagramRequestHandler for {Self}`; \
            stream servers need `StreamRequestHandler`"
)]
pub trait DatagramRequestHandler {
    /// Runs first. Default: nothing.
    ///
    /// # Errors
    ///
    /// Any; then neither `handle` nor `finish` is called.
    fn setup(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Serves the packet. Replies leave at once; what is written leaves when it has returned without
    /// an error.
    ///
    /// # Errors
    ///
    /// Any: it is reported to `handle_error`, and what was written is not sent. A
    /// [`Fatal`](crate::Fatal) ends the server.
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult;

    /// Runs last, also after a `handle` that failed or panicked. Default: nothing.
    ///
    /// # Errors
    ///
    /// Any: it is reported to `handle_error`.
    fn finish(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }
}

/// What a server calls. It is implemented for every [`StreamRequestHandler`] and every
/// [`DatagramRequestHandler`]; implement it directly only for a request type of one's own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle a `{R}`",
    label = "not a handler of this server's requests",
    note = "implement `StreamRequestHandler` for TCP and Unix stream servers, \
            `DatagramRequestHandler` for UDP and Unix datagram servers"
)]
pub trait BaseRequestHandler<R> {
    /// See [`StreamRequestHandler`] for the order of the three.
    ///
    /// # Errors
    ///
    /// Those of the handler.
    fn setup(&mut self, request: &mut R) -> HandlerResult;

    /// See [`StreamRequestHandler`] for the order of the three.
    ///
    /// # Errors
    ///
    /// Those of the handler.
    fn handle(&mut self, request: &mut R) -> HandlerResult;

    /// See [`StreamRequestHandler`] for the order of the three.
    ///
    /// # Errors
    ///
    /// Those of the handler.
    fn finish(&mut self, request: &mut R) -> HandlerResult;
}

impl<H: StreamRequestHandler> BaseRequestHandler<StreamRequest> for H {
    fn setup(&mut self, request: &mut StreamRequest) -> HandlerResult {
        request.set_timeout(self.timeout());
        request.set_wbufsize(self.wbufsize())?;
        if let Some(bytes) = self.rbufsize() {
            request.set_rbufsize(bytes);
        }
        // On is how the transport hands connections over.
        if !self.disable_nagle_algorithm() {
            request.set_nodelay(false)?;
        }
        StreamRequestHandler::setup(self, request)
    }

    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        StreamRequestHandler::handle(self, request)
    }

    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let result = StreamRequestHandler::finish(self, request);
        request.finish_output();
        result
    }
}

impl<H: DatagramRequestHandler> BaseRequestHandler<DatagramRequest> for H {
    fn setup(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        DatagramRequestHandler::setup(self, request)
    }

    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        DatagramRequestHandler::handle(self, request)?;
        request.complete();
        Ok(())
    }

    fn finish(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        DatagramRequestHandler::finish(self, request)?;
        request.send_written()?;
        Ok(())
    }
}
