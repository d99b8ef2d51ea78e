//! [`MakeHandler`]: makes the handlers of a server. Closures implement it (`|| Echo`), and functions wrapped by
//! [`stream_fn`] or [`datagram_fn`].
//!
//! | argument of `bind` | implements | the handler of a request is |
//! |---|---|---|
//! | a closure that returns an `Echo` | `HandlerClosure<ByCall>`, and so `MakeHandler<R, ByCall>` for every `R` that `Echo` handles | the result of a call |
//! | `stream_fn(f)` | `MakeHandler<StreamRequest>` | a reference to `f` |
//! | a box of one of these | `MakeHandler<R>` | that of the value in it |
//!
//! The server stores all of them alike, as `Box<dyn MakeHandler<R>>` ([`boxed`]): one indirect call for each request.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use super::{BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler};
use crate::error::HandlerResult;
use crate::request::{DatagramRequest, StreamRequest};

/// Makes the handlers of a server: the argument of `bind`, Python's `RequestHandlerClass`.
///
/// It is implemented for closures that return a handler (`|| Echo`), for functions and closures wrapped by
/// [`stream_fn`] and [`datagram_fn`], and for a box of any of these. A function of your own can return
/// one without naming its type, and a field can store one:
///
/// ```
/// use std::io::Write;
/// use socketserver::handler::MakeHandler;
/// use socketserver::{StreamRequest, TcpServer, stream_fn};
///
/// fn greeter(name: String) -> impl MakeHandler<StreamRequest> {
///     stream_fn(move |request| Ok(request.write_all(name.as_bytes())?))
/// }
///
/// struct Program {
///     handler: Box<dyn MakeHandler<StreamRequest>>,
/// }
///
/// # fn main() -> socketserver::Result<()> {
/// let program = Program { handler: Box::new(greeter("hello".into())) };
/// let server = TcpServer::bind("127.0.0.1:0", program.handler)?;
/// # drop(server); Ok(())
/// # }
/// ```
///
/// `How` is inferred: leave it out.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make handlers for a `{R}`",
    label = "expected a closure that makes a handler, as in `|| Echo`",
    note = "`|| Echo` needs `impl StreamRequestHandler for Echo` on TCP and Unix stream servers, \
            `impl DatagramRequestHandler for Echo` on UDP and Unix datagram servers",
    note = "a function becomes a handler by `stream_fn(function)` or `datagram_fn(function)`"
)]
pub trait MakeHandler<R, How = ByCall>: Send + Sync + 'static {
    /// The name of the handlers in messages and in the live list. By convention this is the name of their type.
    fn handler_name(&self) -> &'static str;

    /// Makes a handler and lends it to `run`, exactly once: Python's `finish_request`. Because the handler is lent
    /// and not returned, it may have any type and stay on the worker's stack.
    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<R>));
}

/// A closure that takes nothing and returns a handler: the half of [`MakeHandler`] that does not depend on the
/// type of the requests.
///
/// This trait exists for the compiler's messages. If closures were its only implementors, the compiler would answer a
/// function without `stream_fn` with "expected function that takes 0 arguments". With the second implementation
/// below, which applies to no type, it prints the sentences of these attributes.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make handlers",
    label = "expected a closure that makes a handler, as in `|| Echo`",
    note = "a function becomes a handler by `stream_fn(function)` or `datagram_fn(function)`"
)]
pub trait HandlerClosure<How>: Send + Sync + 'static {
    /// The type of the handlers.
    type Handler;

    /// Calls the closure.
    fn make(&self) -> Self::Handler;
}

// The markers have a private field, so that nobody makes a value of them.
/// Marker for the implementation for closures.
#[doc(hidden)]
#[derive(Debug)]
pub struct ByCall(());

/// Marker for the implementation that applies to no type.
#[doc(hidden)]
#[derive(Debug)]
pub struct ByNothing(());

/// No type implements this.
#[doc(hidden)]
pub trait Nothing {}

impl<F, H> HandlerClosure<ByCall> for F
where
    F: Fn() -> H + Send + Sync + 'static,
{
    type Handler = H;

    fn make(&self) -> H {
        self()
    }
}

// With a second implementation to consider, the compiler reports the missing trait and not the wrong closure.
impl<F: Nothing + Send + Sync + 'static> HandlerClosure<ByNothing> for F {
    // A type without a value: the method below cannot return.
    type Handler = std::convert::Infallible;

    fn make(&self) -> std::convert::Infallible {
        unreachable!("nothing implements `Nothing`")
    }
}

impl<F, How, R> MakeHandler<R, How> for F
where
    F: HandlerClosure<How>,
    F::Handler: BaseRequestHandler<R>,
{
    fn handler_name(&self) -> &'static str {
        // The name is that of the handler's type, because a closure's name says only where the closure stands.
        type_name::<F::Handler>()
    }

    #[inline]
    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<R>)) {
        // The handler is on the worker's stack, and is dropped when `run` has returned.
        run(&mut self.make());
    }
}

// This uses the default `How`, as the trait object does, so a box needs no marker of its own.
impl<R: 'static> MakeHandler<R> for Box<dyn MakeHandler<R>> {
    fn handler_name(&self) -> &'static str {
        (**self).handler_name()
    }

    #[inline]
    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<R>)) {
        (**self).finish_request(run);
    }
}

/// Boxes anything that makes handlers, for the server.
pub(crate) fn boxed<R: 'static, How: 'static>(
    handler: impl MakeHandler<R, How>,
) -> Box<dyn MakeHandler<R>> {
    // The box has no `How` any more, so that servers need not name it.
    Box::new(Stored { handler, how: PhantomData::<fn() -> How> })
}

/// Turns a `MakeHandler<R, How>` of any `How` into a `MakeHandler<R>`.
struct Stored<F, How> {
    /// The argument of `bind`, until the server is dropped.
    handler: F,
    /// `How` is only the result of a function type, so `Stored` is `Send` and `Sync` even if `How` is not.
    how: PhantomData<fn() -> How>,
}

impl<R, How: 'static, F: MakeHandler<R, How>> MakeHandler<R> for Stored<F, How> {
    fn handler_name(&self) -> &'static str {
        self.handler.handler_name()
    }

    #[inline]
    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<R>)) {
        self.handler.finish_request(run);
    }
}

/// Makes a handler of connections from a function or a closure.
///
/// All requests call the same function. If every request needs a closure of its own, with state that it
/// changes, return one from a closure: `|| stream_fn(..)`.
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

/// The handler that [`stream_fn`] makes of a function.
#[derive(Clone)]
pub struct StreamFn<F> {
    /// The program's function, or a reference to it for the time of one request.
    function: F,
}

/// The handler that [`datagram_fn`] makes of a function.
#[derive(Clone)]
pub struct DatagramFn<F> {
    /// As in [`StreamFn`].
    function: F,
}

// Written out for streams and for datagrams, without a macro: the compiler shows these lines to a program with a wrong
// handler.
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

impl<F> MakeHandler<StreamRequest> for StreamFn<F>
where
    F: Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
{
    fn handler_name(&self) -> &'static str {
        type_name::<F>()
    }

    #[inline]
    fn finish_request(&self, run: &mut dyn FnMut(&mut dyn BaseRequestHandler<StreamRequest>)) {
        // Each request has a handler of its own, as with every other kind of handler: here it is one reference.
        run(&mut StreamFn { function: &self.function });
    }
}

impl<F> MakeHandler<DatagramRequest> for DatagramFn<F>
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
