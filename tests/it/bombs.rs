//! User code that panics in unusual places: when an error is inspected or dropped, in the value of a panic, in a
//! transport. The request ends as panicked, and the server serves the next one.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use socketserver::hooks::{Failure, Incoming, Panicked, Phase};
use socketserver::mixin::{Mixin, Refused};
use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::transport::{BeforeBind, Bind, Tcp, Ticket, Transport};
use socketserver::{
    Address, BackgroundServer, Builder, Fatal, HandlerError, HandlerResult, Inline, Limits, Pool,
    Server, ServerHooks, SocketOptions, StreamRequest, Threading, ThreadingTcpServer, stream_fn,
};

use crate::handlers::{Echo, held};
use crate::support::process::in_a_process;
use crate::support::system::limit_descriptors;
use crate::support::{
    SOON, StopOnPanic, connect, eventually, exchange, inet, read_line, read_to_end,
};

/// Panics when it is dropped; used as an error and as the value of a panic.
#[derive(Debug)]
struct BadDrop;

impl fmt::Display for BadDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bad drop")
    }
}

impl Error for BadDrop {}

impl Drop for BadDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Panics in `source`.
#[derive(Debug)]
struct BadCause;

impl fmt::Display for BadCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bad cause")
    }
}

impl Error for BadCause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        panic!("asked for the cause");
    }
}

/// Fails in the way that its client names.
fn fail(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    while let Some(text) = request.next_line(&mut line)? {
        match text {
            "drop" => return Err(BadDrop.into()),
            "cause" => return Err(BadCause.into()),
            "value" => std::panic::panic_any(BadDrop),
            text => writeln!(request, "{text}")?,
        }
    }
    Ok(())
}

/// Sends the test each panic that `handle_error` receives.
struct Told {
    panics: Mutex<Sender<(Phase, String)>>,
}

impl Told {
    fn new() -> (Self, Receiver<(Phase, String)>) {
        let (panics, told) = channel();
        (Self { panics: Mutex::new(panics) }, told)
    }
}

impl ServerHooks<StreamRequest> for Told {
    fn handle_error(&self, failure: &Failure<'_>) {
        if let Some(panicked) = failure.error().downcast_ref::<Panicked>() {
            let what = (failure.phase(), panicked.message().to_owned());
            let _ = self.panics.lock().unwrap().send(what);
        }
    }
}

/// How many requests have begun, and how many have ended as panicked.
#[derive(Default)]
struct Seen {
    started: AtomicUsize,
    panicked: AtomicUsize,
}

impl Seen {
    fn observer(self: &Arc<Self>) -> impl Fn(&ServerEvent<'_>) + Send + Sync + 'static {
        let seen = Arc::clone(self);
        move |event| {
            match event {
                ServerEvent::RequestStarted { .. } => &seen.started,
                ServerEvent::RequestEnded { reason: CloseReason::Panicked, .. } => &seen.panicked,
                _ => return,
            }
            .fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Fails unless all requests have panicked and given back their permits: there were more of them than the server may
/// have at once, and one more request is served all the same.
fn assert_lives_on<T: Transport, M: Mixin>(server: &Server<T, M>, seen: &Seen, panics: usize) {
    assert_eq!(exchange(&mut connect(inet(server)), "still here"), "still here\n");
    eventually("all have ended", || server.context().live_count() == 0);
    let counts = server.context().counts();
    assert_eq!(counts.accepted, counts.ended(), "{counts:?}");
    assert_eq!(counts.panicked, panics as u64, "{counts:?}");
    assert_eq!(seen.started.load(Ordering::SeqCst), panics + 1);
    assert_eq!(seen.panicked.load(Ordering::SeqCst), panics);
}

fn ends_as_panicked<M: Mixin + 'static>(mixin: M, line: &str, said: &str) {
    let ((hooks, told), seen) = (Told::new(), Arc::<Seen>::default());
    let server = Builder::<Tcp, _>::new(mixin)
        .limits(Limits::default().live(2))
        .hooks(hooks)
        .observer(seen.observer())
        .bind("127.0.0.1:0", stream_fn(fail))
        .unwrap();
    let server: BackgroundServer<Tcp, M> = server.serve_in_background().unwrap();
    for _ in 0..4 {
        let mut client = connect(inet(&*server));
        writeln!(client, "{line}").unwrap();
        assert!(read_to_end(&mut client).is_empty());
        assert_eq!(told.recv_timeout(SOON).unwrap(), (Phase::Handle, said.to_owned()));
    }
    assert_lives_on(&server, &seen, 4);
}

fn all_end_as_panicked<M: Mixin + 'static>(mixin: impl Fn() -> M) {
    ends_as_panicked(mixin(), "drop", "dropped");
    ends_as_panicked(mixin(), "cause", "asked for the cause");
    ends_as_panicked(mixin(), "value", "with a value that is not text");
}

#[test]
fn an_error_that_panics_ends_its_request_and_nothing_else_inline() {
    all_end_as_panicked(|| Inline);
}

#[test]
fn an_error_that_panics_ends_its_request_and_nothing_else_threading() {
    all_end_as_panicked(|| Threading::new().max_threads(2));
}

#[test]
fn an_error_that_panics_ends_its_request_and_nothing_else_pool() {
    all_end_as_panicked(|| Pool::new(2));
}

/// Hooks whose errors are dropped without being reported.
struct BadHooks {
    verified: AtomicUsize,
}

impl ServerHooks<StreamRequest> for BadHooks {
    fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        match self.verified.fetch_add(1, Ordering::SeqCst) {
            0 => Err(BadDrop.into()),
            1 => std::panic::panic_any(BadDrop),
            _ => Ok(true),
        }
    }

    fn overflow(&self, _request: &mut StreamRequest, _why: &Refused) -> HandlerResult {
        Err(BadDrop.into())
    }

    fn handle_error(&self, _failure: &Failure<'_>) {}
}

#[test]
fn an_error_of_a_hook_that_panics_when_it_is_dropped_does_not_end_the_loop() {
    let (handler, holder) = held();
    let server = Builder::<Tcp, _>::new(Threading::new())
        .limits(Limits::default().per_peer(1))
        .hooks(BadHooks { verified: AtomicUsize::new(0) })
        .bind("127.0.0.1:0", move || handler.clone())
        .unwrap();
    let server = server.serve_in_background().unwrap();
    for _ in 0..2 {
        assert!(read_to_end(&mut connect(inet(&*server))).is_empty(), "it is rejected");
    }
    let mut first = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    assert!(read_to_end(&mut connect(inet(&*server))).is_empty(), "it is refused");
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut first), "released\n");
    eventually("all have ended", || server.context().live_count() == 0);
    let counts = server.context().counts();
    assert_eq!((counts.rejected, counts.refused, counts.completed), (2, 1, 1), "{counts:?}");
    assert!(server.stop().is_ok(), "the loop has not panicked");
}

/// Hooks that panic over a warning.
struct BadWarnings(Sender<String>);

impl ServerHooks<StreamRequest> for BadWarnings {
    fn warning(&self, text: &str) {
        self.0.send(text.to_owned()).unwrap();
        panic!("a bad warning");
    }
}

#[test]
fn a_warning_that_panics_does_not_end_the_run() {
    let name = "bombs::a_warning_that_panics_does_not_end_the_run";
    in_a_process(name, || {
        limit_descriptors(256);
        let (sent, warnings) = channel();
        let server = ThreadingTcpServer::builder()
            .limits(Limits::default().live(10_000))
            .hooks(BadWarnings(sent))
            .bind("127.0.0.1:0", || Echo)
            .unwrap();
        let server = server.serve_in_background().unwrap();
        let warning = warnings.recv_timeout(SOON).unwrap();
        assert!(warning.contains("not 10000"), "{warning}");
        assert_eq!(exchange(&mut connect(inet(&*server)), "served"), "served\n");
        assert!(server.stop().is_ok(), "the loop has not panicked");
        String::new()
    });
}

/// TCP that panics when it makes the first requests.
struct BadMake {
    inner: Tcp,
    left: AtomicUsize,
}

impl Transport for BadMake {
    type Raw = <Tcp as Transport>::Raw;
    type Request = StreamRequest;

    fn server_bind(&self, before_bind: BeforeBind<'_>) -> socketserver::Result<()> {
        self.inner.server_bind(before_bind)
    }

    fn server_activate(&self) -> socketserver::Result<()> {
        self.inner.server_activate()
    }

    fn server_address(&self) -> Address {
        self.inner.server_address()
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.inner.fileno()
    }

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        self.inner.get_request()
    }

    fn make_request(&self, raw: Self::Raw, ticket: Ticket) -> StreamRequest {
        let is_left = |left: usize| left.checked_sub(1);
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left);
        assert!(left.is_err(), "cannot make it");
        self.inner.make_request(raw, ticket)
    }

    fn server_close(&self) {
        self.inner.server_close();
    }
}

fn a_request_that_cannot_be_made<M: Mixin + 'static>(mixin: M) {
    let ((hooks, told), seen) = (Told::new(), Arc::<Seen>::default());
    let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    let server = Builder::<BadMake, M>::new(mixin)
        .limits(Limits::default().live(2))
        .hooks(hooks)
        .observer(seen.observer())
        .with_transport(BadMake { inner, left: AtomicUsize::new(4) }, stream_fn(fail))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    for _ in 0..4 {
        assert!(read_to_end(&mut connect(inet(&*server))).is_empty());
        let (phase, said) = told.recv_timeout(SOON).unwrap();
        assert_eq!((phase, said.as_str()), (Phase::Make, "cannot make it"));
    }
    assert_lives_on(&server, &seen, 4);
}

#[test]
fn a_transport_that_cannot_make_a_request_loses_that_one_alone() {
    a_request_that_cannot_be_made(Inline);
    a_request_that_cannot_be_made(Threading::new().max_threads(2));
    a_request_that_cannot_be_made(Pool::new(2));
}

/// Greets its client, and ends the server by a `Fatal` once the server drains.
fn end_late(request: &mut StreamRequest) -> HandlerResult {
    writeln!(request, "in")?;
    request.server().shutdown_handle().wait();
    eventually("the server drains", || request.is_stopping());
    Err(Fatal::new("the disk is gone").into())
}

#[test]
fn a_fatal_in_the_drain_is_what_a_server_in_the_background_stops_with() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(end_late)).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "in\n");
    let error = server.stop().unwrap_err();
    assert_eq!(error.as_fatal().expect("it is the fatal").to_string(), "the disk is gone");
}

#[test]
fn a_fatal_in_the_drain_is_what_run_ends_with() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(end_late)).unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| server.run());
        let _stop = StopOnPanic(&server);
        let mut client = connect(inet(&server));
        assert_eq!(read_line(&mut client), "in\n");
        server.shutdown_handle().shutdown();
        let error = running.join().unwrap().unwrap_err();
        let fatal = error.as_fatal().expect("it is the fatal").to_string();
        assert_eq!(fatal, "the disk is gone");
    });
    assert_eq!(server.context().counts().fatal, 1);
}

/// Panics when it is printed.
#[derive(Debug)]
struct BadText;

impl fmt::Display for BadText {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("asked for the text");
    }
}

impl Error for BadText {}

#[test]
fn an_error_of_a_reload_that_panics_ends_nothing() {
    let (tell, told) = channel();
    let server = ThreadingTcpServer::builder()
        .on_reload(|_| Err(BadDrop.into()))
        .on_reload(|_| Err(BadText.into()))
        .on_reload(|_| Err(BadDrop.into()))
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::Reloaded { error, .. } = event {
                let _ = tell.send(error.is_some());
            }
        })
        .bind("127.0.0.1:0", stream_fn(fail))
        .unwrap()
        .serve_in_background()
        .unwrap();
    for _ in 0..2 {
        server.reload();
        assert!(told.recv_timeout(SOON).unwrap(), "it has failed");
    }
    assert_eq!(exchange(&mut connect(inet(&*server)), "still here"), "still here\n");
}
