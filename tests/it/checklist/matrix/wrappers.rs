//! Row 100: a wrapper around the connection runs in the worker, under a deadline.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use socketserver::hooks::{Failure, Fault, Incoming, Phase};
use socketserver::mixin::Mixin;
use socketserver::request::{Stream, TimedOut, Timeout};
use socketserver::{
    BaseServer, HandlerError, HandlerResult, Limits, Pool, ServerHooks, StreamRequest, TcpServer,
    Threading, ThreadingTcpServer, stream_fn,
};

use crate::handlers::{Echo, OneLine};
use crate::over_tcp::leave_to_inner_stream;
use crate::support::{SOON, connect, exchange, inet, read_to_end, soon};

/// A cipher in place of TLS: the client first sends the key, with which everything after it is combined, in both
/// directions.
struct Xor {
    inner: Box<dyn Stream>,
    key: u8,
}

/// The number of bytes in a handshake: each of them is the key.
const KEY_BYTES: usize = 64;

impl Xor {
    fn accept(mut inner: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        let mut key = [0; KEY_BYTES];
        inner.read_exact(&mut key)?;
        Ok(Box::new(Self { inner, key: key[0] }))
    }
}

impl Read for Xor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        buf[..count].iter_mut().for_each(|byte| *byte ^= self.key);
        Ok(count)
    }
}

impl Write for Xor {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let masked: Vec<u8> = buf.iter().map(|byte| byte ^ self.key).collect();
        self.inner.write(&masked)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Xor {
    leave_to_inner_stream!();
}

/// The client's side of [`Xor`].
struct XorClient {
    stream: std::net::TcpStream,
    key: u8,
}

impl XorClient {
    fn connect(server: &impl BaseServer) -> Self {
        let (mut stream, key) = (connect(inet(server)), 0x5a);
        stream.write_all(&[key; KEY_BYTES]).unwrap();
        Self { stream, key }
    }
}

impl Read for XorClient {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buf)?;
        buf[..count].iter_mut().for_each(|byte| *byte ^= self.key);
        Ok(count)
    }
}

impl Write for XorClient {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let masked: Vec<u8> = buf.iter().map(|byte| byte ^ self.key).collect();
        self.stream.write(&masked)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A failure, as `handle_error` received it.
#[derive(Debug, PartialEq)]
struct Told {
    phase: Phase,
    timeout: Option<Timeout>,
    fault: Fault,
}

/// Wraps every connection in [`Xor`], and tells the test in which thread.
struct Cipher {
    verified_in: Sender<ThreadId>,
    wrapped_in: Sender<ThreadId>,
    told: Sender<Told>,
}

/// The test's side of [`Cipher`].
struct Watch {
    verified_in: Receiver<ThreadId>,
    wrapped_in: Receiver<ThreadId>,
    told: Receiver<Told>,
}

fn cipher() -> (Cipher, Watch) {
    let (verified_in, verifies) = channel();
    let (wrapped_in, wraps) = channel();
    let (told, tells) = channel();
    let watch = Watch { verified_in: verifies, wrapped_in: wraps, told: tells };
    (Cipher { verified_in, wrapped_in, told }, watch)
}

impl ServerHooks<StreamRequest> for Cipher {
    fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        self.verified_in.send(thread::current().id())?;
        Ok(true)
    }

    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        self.wrapped_in.send(thread::current().id())?;
        request.wrap_stream(Xor::accept)?;
        Ok(())
    }

    fn handle_error(&self, failure: &Failure<'_>) {
        let timeout = TimedOut::find(failure.error()).map(TimedOut::which);
        let told = Told { phase: failure.phase(), timeout, fault: failure.fault() };
        self.told.send(told).unwrap();
    }
}

fn handshake(limit: Duration) -> Limits {
    Limits::default().handshake(limit)
}

/// Longer than any test runs.
const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn row_100_a_wrapper_stands_between_the_connection_and_the_handler() {
    let (hooks, watch) = cipher();
    let server = ThreadingTcpServer::builder().hooks(hooks).bind("127.0.0.1:0", || Echo);
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = XorClient::connect(&*server);
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    let long = "x".repeat(60_000);
    assert_eq!(exchange(&mut client, &long), format!("{long}\n"));
    // Nothing goes in the clear.
    client.stream.write_all(&b"hello\n".map(|byte| byte ^ client.key)).unwrap();
    let mut raw = [0; 6];
    client.stream.read_exact(&mut raw).unwrap();
    assert_eq!(raw, b"hello\n".map(|byte| byte ^ client.key));
    // The orderly end goes through the wrapper as well.
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&mut client).is_empty());
    soon("a stop", move || server.stop()).unwrap();
    assert!(watch.told.try_recv().is_err());
}

fn wraps_in_the_worker(mixin: impl Mixin + 'static) {
    let (hooks, watch) = cipher();
    let (handled_in, handles) = channel();
    let handler = stream_fn(move |_request| {
        handled_in.send(thread::current().id())?;
        Ok(())
    });
    let server = TcpServer::builder().mixin(mixin).hooks(hooks).bind("127.0.0.1:0", handler);
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = XorClient::connect(&*server);
    assert!(read_to_end(&mut client).is_empty());
    let loops = watch.verified_in.recv_timeout(SOON).unwrap();
    let wraps = watch.wrapped_in.recv_timeout(SOON).unwrap();
    assert_ne!(loops, wraps);
    assert_eq!(handles.recv_timeout(SOON).unwrap(), wraps);
    soon("a stop", move || server.stop()).unwrap();
}

#[test]
#[cfg_attr(under_green, ignore = "the loop is a coroutine of a worker")]
fn row_100_wrap_request_runs_in_the_worker_threading() {
    wraps_in_the_worker(Threading::new());
}

#[test]
fn row_100_wrap_request_runs_in_the_worker_pool() {
    wraps_in_the_worker(Pool::new(2));
}

#[test]
fn row_100_a_stalled_handshake_stops_nobody_else() {
    let (hooks, watch) = cipher();
    let server = ThreadingTcpServer::builder().hooks(hooks).limits(handshake(HOUR));
    let server = server.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let stalled = connect(inet(&*server));
    watch.wrapped_in.recv_timeout(SOON).unwrap();
    for _ in 0..3 {
        assert_eq!(exchange(&mut XorClient::connect(&*server), "hello"), "hello\n");
    }
    assert!(watch.told.try_recv().is_err(), "the stalled client is still in its handshake");
    drop(stalled);
    let told = watch.told.recv_timeout(SOON).unwrap();
    assert_eq!((told.phase, told.timeout), (Phase::Wrap, None));
    soon("a stop", move || server.stop()).unwrap();
}

#[test]
fn row_100_a_stalled_handshake_is_ended_by_its_limit() {
    let (hooks, watch) = cipher();
    let limits = handshake(Duration::from_millis(100));
    let server = ThreadingTcpServer::builder().hooks(hooks).limits(limits);
    let handler = stream_fn(|_request| panic!("there is nothing to handle"));
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let mut stalled = connect(inet(&*server));
    assert!(read_to_end(&mut stalled).is_empty());
    let expected =
        Told { phase: Phase::Wrap, timeout: Some(Timeout::Handshake), fault: Fault::Peer };
    assert_eq!(watch.told.recv_timeout(SOON).unwrap(), expected);
    soon("a stop", move || server.stop()).unwrap();
}

#[test]
fn row_100_a_byte_now_and_then_does_not_extend_the_handshake() {
    let (hooks, watch) = cipher();
    let limits = handshake(Duration::from_millis(200));
    let server = ThreadingTcpServer::builder().hooks(hooks).limits(limits);
    let server = server.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let mut slow = connect(inet(&*server));
    for _ in 0..KEY_BYTES {
        if slow.write_all(&[1]).is_err() {
            break;
        }
        // The pace is the point: five times the limit for the whole, a tenth of it for each byte.
        thread::sleep(Duration::from_millis(20));
    }
    let told = watch.told.recv_timeout(SOON).unwrap();
    assert_eq!((told.phase, told.timeout), (Phase::Wrap, Some(Timeout::Handshake)));
    soon("a stop", move || server.stop()).unwrap();
}

/// A wrapper that changes nothing and tells which deadlines it is given.
struct Probe {
    inner: Box<dyn Stream>,
    deadlines: Sender<Option<Instant>>,
}

impl Read for Probe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl Write for Probe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Probe {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        let _ = self.deadlines.send(deadline);
        self.inner.set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }
}

#[test]
fn row_100_the_handshake_limit_ends_with_the_handshake() {
    struct Probes(Sender<Option<Instant>>);
    impl ServerHooks<StreamRequest> for Probes {
        fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
            let deadlines = self.0.clone();
            request.wrap_stream(|inner| Ok(Box::new(Probe { inner, deadlines })))?;
            Ok(())
        }
    }
    let (deadlines, seen) = channel();
    let limits = handshake(SOON).idle(HOUR).read(HOUR).write(HOUR);
    let server = ThreadingTcpServer::builder().hooks(Probes(deadlines)).limits(limits);
    let server = server.bind("127.0.0.1:0", || OneLine).unwrap().serve_in_background().unwrap();
    let began = Instant::now();
    let mut client = connect(inet(&*server));
    client.write_all(b"hello\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"hello\n");
    soon("a stop", move || server.stop()).unwrap();
    let seen: Vec<_> = seen.iter().collect();
    assert!(seen.len() >= 2, "one for the read and one for the write: {seen:?}");
    // The waits are bounded by the limits on reading and writing, and not by that on the handshake. (The stream below
    // keeps the limit on writing, which is about progress, by itself.)
    assert!(seen.iter().any(|at| at.is_some_and(|at| at >= began + HOUR)), "{seen:?}");
    assert!(seen.iter().all(|at| at.is_none_or(|at| at >= began + HOUR)), "{seen:?}");
}
