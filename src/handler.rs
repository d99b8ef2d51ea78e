//! What users write: [`StreamRequestHandler`] for connections, [`DatagramRequestHandler`] for packets,
//! and [`BaseRequestHandler`], which the server calls.

use std::any::type_name;
use std::fmt;
use std::time::Duration;

use crate::error::HandlerResult;
use crate::request::{DatagramRequest, StreamRequest};

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
    /// away is told and not printed ([`PeerFault`](crate::PeerFault) says how that is known). A
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

/// Makes the handlers of a server: what `bind` takes, Python's `RequestHandlerClass`.
///
/// It is implemented for closures that make a handler (`|| Echo`) and for functions and closures
/// wrapped by [`stream_fn`] and [`datagram_fn`]. `Kind` tells those apart and is always inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make handlers for a `{R}`",
    label = "expected a closure that makes a handler, as in `|| Echo`",
    note = "`|| Echo` needs `impl StreamRequestHandler for Echo` on TCP and Unix stream servers, \
            `impl DatagramRequestHandler for Echo` on UDP and Unix datagram servers",
    note = "a function becomes a handler by `stream_fn(function)` or `datagram_fn(function)`"
)]
#[doc(alias = "RequestHandlerClass")]
pub trait MakeHandler<R, Kind>: Send + Sync + 'static {
    /// The name by which messages and the live list speak of its handlers.
    fn handler_name(&self) -> &'static str;

    /// Makes a handler and lends it to `run`. That it is lent, and not returned, lets a handler stay
    /// on the worker's stack.
    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<R>));
}

/// A closure that makes a handler and takes nothing: the half of [`MakeHandler`] that has nothing to do with
/// requests. It stands apart for the sake of the compiler's words: it has a second implementation, which
/// applies to nothing, so that the compiler does not take the first one for the only way there is, and says
/// our sentence instead of its own ("expected function that takes 0 arguments").
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make handlers",
    label = "expected a closure that makes a handler, as in `|| Echo`",
    note = "a function becomes a handler by `stream_fn(function)` or `datagram_fn(function)`"
)]
pub trait Makes<How>: Send + Sync + 'static {
    /// What it makes.
    type Handler;

    /// Makes one.
    fn make(&self) -> Self::Handler;
}

/// How a closure makes: by being called.
#[derive(Debug)]
pub struct ByCall(());

/// How nothing makes; see [`Makes`].
#[derive(Debug)]
pub struct ByNothing(());

/// Is implemented by nothing; see [`Makes`].
#[doc(hidden)]
pub trait Nothing {}

impl<F, H> Makes<ByCall> for F
where
    F: Fn() -> H + Send + Sync + 'static,
{
    type Handler = H;

    fn make(&self) -> H {
        self()
    }
}

impl<F: Nothing + Send + Sync + 'static> Makes<ByNothing> for F {
    type Handler = std::convert::Infallible;

    fn make(&self) -> std::convert::Infallible {
        unreachable!("nothing implements `Nothing`")
    }
}

/// The kind of [`MakeHandler`] that a closure is which makes handlers.
#[derive(Debug)]
pub struct ByClosure<How = ByCall>(std::marker::PhantomData<fn() -> How>);

/// The kind of [`MakeHandler`] that a function is which handles requests itself.
#[derive(Debug)]
pub struct ByFunction(());

impl<F, How, R> MakeHandler<R, ByClosure<How>> for F
where
    F: Makes<How>,
    F::Handler: BaseRequestHandler<R>,
{
    fn handler_name(&self) -> &'static str {
        type_name::<F::Handler>()
    }

    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<R>)) {
        run(&mut self.make());
    }
}

/// Makes a handler of connections from a function or a closure.
///
/// It serves as it is, the same closure for every request; or inside a closure that makes it, where every
/// request is to have one of its own: `|| stream_fn(..)`.
///
/// ```no_run
/// use std::io::Write;
/// use socketserver::{stream_fn, HandlerResult, StreamRequest, ThreadingTcpServer};
///
/// fn greet(request: &mut StreamRequest) -> HandlerResult {
///     writeln!(request, "hello, {}", request.client_address())?;
///     Ok(())
/// }
///
/// # fn main() -> socketserver::Result<()> {
/// ThreadingTcpServer::bind("127.0.0.1:9999", stream_fn(greet))?.serve_forever()
/// # }
/// ```
pub fn stream_fn<F>(function: F) -> StreamFn<F>
where
    F: Fn(&mut StreamRequest) -> HandlerResult,
{
    StreamFn { function }
}

/// Makes a handler of datagrams from a function or a closure; see [`stream_fn`].
///
/// ```no_run
/// use socketserver::{datagram_fn, UdpServer};
///
/// # fn main() -> socketserver::Result<()> {
/// let echo = datagram_fn(|request| {
///     request.reply(request.packet())?;
///     Ok(())
/// });
/// UdpServer::bind("127.0.0.1:9999", echo)?.serve_forever()
/// # }
/// ```
pub fn datagram_fn<F>(function: F) -> DatagramFn<F>
where
    F: Fn(&mut DatagramRequest) -> HandlerResult,
{
    DatagramFn { function }
}

/// A function as a handler of connections: see [`stream_fn`].
#[derive(Clone)]
pub struct StreamFn<F> {
    function: F,
}

/// A function as a handler of datagrams: see [`datagram_fn`].
#[derive(Clone)]
pub struct DatagramFn<F> {
    function: F,
}

impl<F> StreamRequestHandler for StreamFn<F>
where
    F: Fn(&mut StreamRequest) -> HandlerResult,
{
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        (self.function)(request)
    }
}

impl<F> DatagramRequestHandler for DatagramFn<F>
where
    F: Fn(&mut DatagramRequest) -> HandlerResult,
{
    fn handle(&mut self, request: &mut DatagramRequest) -> HandlerResult {
        (self.function)(request)
    }
}

impl<F> MakeHandler<StreamRequest, ByFunction> for StreamFn<F>
where
    F: Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
{
    fn handler_name(&self) -> &'static str {
        type_name::<F>()
    }

    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<StreamRequest>)) {
        run(&mut StreamFn { function: &self.function });
    }
}

impl<F> MakeHandler<DatagramRequest, ByFunction> for DatagramFn<F>
where
    F: Fn(&mut DatagramRequest) -> HandlerResult + Send + Sync + 'static,
{
    fn handler_name(&self) -> &'static str {
        type_name::<F>()
    }

    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<DatagramRequest>)) {
        run(&mut DatagramFn { function: &self.function });
    }
}

impl<F> fmt::Debug for StreamFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream_fn({})", type_name::<F>())
    }
}

impl<F> fmt::Debug for DatagramFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "datagram_fn({})", type_name::<F>())
    }
}
