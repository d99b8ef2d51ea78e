//! Handlers: [`StreamRequestHandler`] for connections and [`DatagramRequestHandler`] for packets, which a program
//! implements, and [`MakeHandler`], which makes them.
//!
//! A server calls [`BaseRequestHandler`], which every handler of the first two kinds implements. Implement that trait
//! directly only for a custom request type, which only a custom [transport](crate::transport) has.
//!
//! A handler that starts another program passes its command through [`restore_limits`] and [`inherit_only_stdio`].

mod factory;
mod spawned_programs;

use std::time::Duration;

use crate::error::HandlerResult;
use crate::request::{DatagramRequest, StreamRequest};

#[doc(alias = "RequestHandlerClass")]
pub use factory::MakeHandler;
pub(crate) use factory::boxed;
pub use factory::{DatagramFn, StreamFn, datagram_fn, stream_fn};
pub use spawned_programs::{inherit_only_stdio, restore_limits};

/// Serves one connection: Python's `StreamRequestHandler`.
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
/// 1. `setup`; if it fails, neither `handle` nor `finish` is called;
/// 2. `handle`;
/// 3. `finish`, also after a `handle` that failed or panicked.
///
/// Then the server reports an error to `handle_error`, shuts the connection down in order and closes it. A handler
/// closes nothing itself.
///
/// The state of one connection is a field of the handler. State shared by all connections is an `Arc` that the closure
/// captures. A handler is made and dropped in the worker that runs it, and need not be `Send`.
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

    /// Serves the connection, from its first byte to its last. The server closes the connection afterwards.
    ///
    /// # Errors
    ///
    /// Any. The error is passed to `handle_error`, unless the server itself has ended the request: by the idle limit, a
    /// drain, or `close_live`. If the peer has gone away ([`PeerFault`](crate::request::PeerFault)), the default of
    /// `handle_error` prints nothing. A [`Fatal`](crate::Fatal) ends the server instead.
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult;

    /// Runs last, also after a `handle` that failed or panicked. Default: nothing. Output that `wbufsize` still holds
    /// back is sent after `finish`.
    ///
    /// # Errors
    ///
    /// Any: it is reported to `handle_error`.
    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Python's `timeout`: how long one read or write may take, instead of the server's idle, read and write limits.
    /// Default: none; the server's limits apply. Zero: no read or write waits. `Duration::MAX`: no limit.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Python's `rbufsize`: how many bytes one receive asks for, at most 16 MiB. Default: none, which means 8,192.
    fn rbufsize(&self) -> Option<usize> {
        None
    }

    /// Python's `wbufsize`: how many bytes of output to hold back at most. Default: 0, which holds back nothing.
    ///
    /// Set it for a handler that writes one answer in pieces and returns: see [`StreamRequest::set_wbufsize`].
    fn wbufsize(&self) -> usize {
        0
    }

    /// Python's `disable_nagle_algorithm`, for TCP. Default: true (Python: false), because Nagle's
    /// algorithm with delayed acknowledgements delays every second small write by 40 ms.
    fn disable_nagle_algorithm(&self) -> bool {
        true
    }
}

/// Serves one datagram: Python's `DatagramRequestHandler`.
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

    /// Serves the packet. `reply` sends at once. Output of `write` is one datagram, which is sent after `finish` if
    /// there was no error.
    ///
    /// # Errors
    ///
    /// Any. It is passed to `handle_error`, and written output is not sent. A [`Fatal`](crate::Fatal) ends the server
    /// instead.
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

/// The interface that a server calls. It is implemented for every [`StreamRequestHandler`] and every
/// [`DatagramRequestHandler`]; implement it directly only for a custom request type.
///
/// `R` is the type of the requests. The server makes the calls in the same order as for [`StreamRequestHandler`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle a `{R}`",
    label = "not a handler of this server's requests",
    note = "implement `StreamRequestHandler` for TCP and Unix stream servers, \
            `DatagramRequestHandler` for UDP and Unix datagram servers"
)]
pub trait BaseRequestHandler<R> {
    /// Runs before `handle`.
    ///
    /// # Errors
    ///
    /// The errors of the handler.
    fn setup(&mut self, request: &mut R) -> HandlerResult;

    /// Serves the request.
    ///
    /// # Errors
    ///
    /// The errors of the handler.
    fn handle(&mut self, request: &mut R) -> HandlerResult;

    /// Runs after `handle`, even if `handle` failed.
    ///
    /// # Errors
    ///
    /// The errors of the handler.
    fn finish(&mut self, request: &mut R) -> HandlerResult;
}

impl<H: StreamRequestHandler> BaseRequestHandler<StreamRequest> for H {
    #[inline]
    fn setup(&mut self, request: &mut StreamRequest) -> HandlerResult {
        // These settings come before the program's `setup`, which may already read and write, and may change them. The
        // defaults are set as well, because the hook `wrap_request` may have changed the settings.
        request.set_timeout(self.timeout());
        // This fails only if that hook has held back more bytes than `wbufsize` allows, and the peer does not take
        // them.
        request.set_wbufsize(self.wbufsize())?;
        if let Some(bytes) = self.rbufsize() {
            request.set_rbufsize(bytes);
        }
        // The transport has set TCP_NODELAY already.
        if !self.disable_nagle_algorithm() {
            request.set_nodelay(false)?;
        }
        StreamRequestHandler::setup(self, request)
    }

    #[inline]
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        StreamRequestHandler::handle(self, request)
    }

    #[inline]
    fn finish(&mut self, request: &mut StreamRequest) -> HandlerResult {
        let result = StreamRequestHandler::finish(self, request);
        // This comes after the program's `finish`, which may still write, and is done even if `finish` has failed.
        request.finish_output();
        result
    }
}

impl<H: DatagramRequestHandler> BaseRequestHandler<DatagramRequest> for H {
    fn setup(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        DatagramRequestHandler::setup(self, request)
    }

    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        // If `handle` fails, the reply is never marked as complete, and `finish` sends nothing.
        DatagramRequestHandler::handle(self, request)?;
        request.complete();
        Ok(())
    }

    fn finish(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        // A `finish` that fails holds the reply back as well.
        DatagramRequestHandler::finish(self, request)?;
        request.send_written()?;
        Ok(())
    }
}
