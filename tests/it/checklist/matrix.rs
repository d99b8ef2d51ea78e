//! Rows 98 to 100: every transport under every mixin, a transport and a mixin of one's own, and a
//! wrapper between the connection and its handler.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use socketserver::{
    Address, BaseServer, BeforeBind, BindAddress, Builder, Event, Failure, Fault, Gate,
    HandlerError, HandlerResult, Incoming, Inline, Job, Limits, Mixin, Permit, Phase, Pool,
    PoolTcpServer, PoolUdpServer, PoolUnixDatagramServer, PoolUnixStreamServer, Refused, Server,
    ServerHooks, Stream, StreamRequest, TcpServer, Threading, ThreadingTcpServer,
    ThreadingUdpServer, ThreadingUnixDatagramServer, ThreadingUnixStreamServer, Ticket, TimedOut,
    Timeout, Transport, UdpServer, UnixDatagramServer, UnixStreamServer, stream_fn,
};

use crate::handlers::{Diary, Echo, OneLine, held};
use crate::support::{
    SOON, connect, connect_any, exchange, folder, inet, read_line, read_to_end, soon,
};

// Row 98.

fn loopback(_folder: &Path) -> BindAddress {
    "127.0.0.1:0".into()
}

fn file(folder: &Path) -> BindAddress {
    folder.join("server").into()
}

fn over_a_connection(server: &Address, _folder: &Path) -> Vec<u8> {
    let mut client = connect_any(server);
    client.write_all(b"hello world\n").unwrap();
    read_to_end(&mut *client)
}

fn over_udp(server: &Address, _folder: &Path) -> Vec<u8> {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"hello world\n", server.as_inet().unwrap()).unwrap();
    let mut answer = [0; 64];
    let count = client.recv(&mut answer).unwrap();
    answer[..count].to_vec()
}

fn over_unix_datagrams(server: &Address, folder: &Path) -> Vec<u8> {
    static CLIENTS: AtomicUsize = AtomicUsize::new(0);
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
    let client = unix::UnixDatagram::bind(folder.join(format!("client-{number}"))).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.send_to(b"hello world\n", server.as_path().unwrap()).unwrap();
    let mut answer = [0; 64];
    let count = client.recv(&mut answer).unwrap();
    answer[..count].to_vec()
}

/// One client after the other, and then a stop that nobody has to be forced to.
fn three_echoes<T: Transport, M: Mixin + 'static>(
    server: Server<T, M>,
    folder: &Path,
    client: fn(&Address, &Path) -> Vec<u8>,
) {
    let listener = Arc::downgrade(&server.fileno().unwrap());
    let server = server.serve_in_background().unwrap();
    for _ in 0..3 {
        assert_eq!(client(&server.server_address(), folder), b"hello world\n");
    }
    assert_eq!(server.context().counts().accepted, 3);
    let report = soon("a stop", move || server.stop()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(listener.upgrade().is_none(), "the listener is still open");
}

macro_rules! echoes {
    ($($test:ident: $server:ty, $address:ident, $client:ident;)*) => {$(
        #[test]
        fn $test() {
            let folder = folder();
            let server = <$server>::bind($address(folder.path()), || OneLine).unwrap();
            three_echoes(server, folder.path(), $client);
        }
    )*};
}

echoes! {
    row_098_echo_tcp_inline: TcpServer, loopback, over_a_connection;
    row_098_echo_tcp_threading: ThreadingTcpServer, loopback, over_a_connection;
    row_098_echo_tcp_pool: PoolTcpServer, loopback, over_a_connection;
    row_098_echo_udp_inline: UdpServer, loopback, over_udp;
    row_098_echo_udp_threading: ThreadingUdpServer, loopback, over_udp;
    row_098_echo_udp_pool: PoolUdpServer, loopback, over_udp;
    row_098_echo_unix_stream_inline: UnixStreamServer, file, over_a_connection;
    row_098_echo_unix_stream_threading: ThreadingUnixStreamServer, file, over_a_connection;
    row_098_echo_unix_stream_pool: PoolUnixStreamServer, file, over_a_connection;
    row_098_echo_unix_datagram_inline: UnixDatagramServer, file, over_unix_datagrams;
    row_098_echo_unix_datagram_threading: ThreadingUnixDatagramServer, file, over_unix_datagrams;
    row_098_echo_unix_datagram_pool: PoolUnixDatagramServer, file, over_unix_datagrams;
}

// Row 99: a transport.

/// One end of a connection in memory.
pub(super) struct MemoryStream {
    input: Receiver<Vec<u8>>,
    /// What has come and not been read yet.
    rest: VecDeque<u8>,
    output: Option<Sender<Vec<u8>>>,
    deadline: Option<Instant>,
}

impl MemoryStream {
    fn pair() -> (Self, Self) {
        let ((to_one, one), (to_other, other)) = (channel(), channel());
        let end = |input, output| Self {
            input,
            rest: VecDeque::new(),
            output: Some(output),
            deadline: None,
        };
        (end(one, to_other), end(other, to_one))
    }
}

impl Read for MemoryStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let received = match self.deadline {
                None => self.input.recv().map_err(RecvTimeoutError::from),
                Some(at) => self.input.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(bytes) => self.rest = bytes.into(),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        self.rest.read(buf)
    }
}

impl Write for MemoryStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let sent = self.output.as_ref().map(|output| output.send(buf.to_vec()));
        match sent {
            Some(Ok(())) => Ok(buf.len()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for MemoryStream {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.output = None;
        }
        Ok(())
    }
}

/// A transport without a socket: clients are in the same process, and an event stands for the
/// listener. Clones are the same transport.
#[derive(Clone)]
pub(super) struct Memory {
    wire: Arc<Wire>,
}

struct Wire {
    diary: Diary,
    /// Clients that wait, and errors that accepting is to meet.
    arrivals: Mutex<VecDeque<io::Result<MemoryStream>>>,
    event: Event,
    fileno: Mutex<Option<Arc<OwnedFd>>>,
    /// The threads that have closed it.
    closed_by: Mutex<Vec<ThreadId>>,
}

impl Memory {
    pub(super) fn new() -> Self {
        let event = Event::new().unwrap();
        let fileno = event.as_fd().try_clone_to_owned().unwrap();
        Self {
            wire: Arc::new(Wire {
                diary: Diary::default(),
                arrivals: Mutex::default(),
                event,
                fileno: Mutex::new(Some(Arc::new(fileno))),
                closed_by: Mutex::default(),
            }),
        }
    }

    /// The calls of the server, in their order.
    pub(super) fn diary(&self) -> &Diary {
        &self.wire.diary
    }

    pub(super) fn closed_by(&self) -> Vec<ThreadId> {
        self.wire.closed_by.lock().unwrap().clone()
    }

    pub(super) fn connect(&self) -> MemoryStream {
        let (mut client, server) = MemoryStream::pair();
        client.set_deadline(Some(Instant::now() + SOON));
        self.arrive(Ok(server));
        client
    }

    /// The next `get_request` gives this error.
    pub(super) fn fail(&self, error: io::Error) {
        self.arrive(Err(error));
    }

    fn arrive(&self, arrival: io::Result<MemoryStream>) {
        let mut arrivals = self.wire.arrivals.lock().unwrap();
        arrivals.push_back(arrival);
        self.wire.event.notify();
    }
}

impl Transport for Memory {
    type Raw = MemoryStream;
    type Request = StreamRequest;

    fn server_bind(&self, _before_bind: BeforeBind<'_>) -> socketserver::Result<()> {
        self.diary().note("server_bind");
        Ok(())
    }

    fn server_activate(&self) -> socketserver::Result<()> {
        self.diary().note("server_activate");
        Ok(())
    }

    fn server_address(&self) -> Address {
        Address::Other("memory".into())
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.wire.fileno.lock().unwrap().clone()
    }

    fn get_request(&self) -> io::Result<(MemoryStream, Address)> {
        self.diary().note("get_request");
        let mut arrivals = self.wire.arrivals.lock().unwrap();
        let arrival = arrivals.pop_front();
        if arrivals.is_empty() {
            self.wire.event.clear();
        }
        let stream = arrival.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))?;
        Ok((stream, Address::Other("a client in memory".into())))
    }

    fn make_request(&self, raw: MemoryStream, ticket: Ticket) -> StreamRequest {
        self.diary().note("make_request");
        StreamRequest::new(Box::new(raw), self.server_address(), ticket)
    }

    fn shutdown_request(&self, request: &mut StreamRequest) {
        self.diary().note("shutdown_request");
        request.shutdown_write().unwrap();
    }

    fn close_request(&self, request: StreamRequest) {
        self.diary().note("close_request");
        drop(request);
    }

    fn server_close(&self) {
        self.diary().note("server_close");
        self.wire.closed_by.lock().unwrap().push(thread::current().id());
        self.wire.fileno.lock().unwrap().take();
    }
}

/// Three clients of an echo server over memory; the calls that the transport has seen.
fn over_memory(mixin: impl Mixin + 'static) -> Vec<String> {
    let memory = Memory::new();
    let server = Builder::<Memory, _>::new(mixin)
        .with_transport(memory.clone(), || OneLine)
        .unwrap()
        .serve_in_background()
        .unwrap();
    assert_eq!(server.server_address().to_string(), "memory");
    for _ in 0..3 {
        let mut client = memory.connect();
        client.write_all(b"hello ").unwrap();
        client.write_all(b"world\n").unwrap();
        assert_eq!(read_to_end(&mut client), b"hello world\n");
    }
    let report = soon("a stop", move || server.stop()).unwrap();
    assert!(report.is_clean(), "{report}");
    let mut calls = memory.diary().lines();
    // How often the loop finds nothing is its own affair.
    calls.retain(|call| call != "get_request");
    calls
}

#[test]
fn row_099_a_transport_of_ones_own_inline() {
    let one = ["make_request", "shutdown_request", "close_request"];
    let mut calls = vec!["server_bind", "server_activate"];
    calls.extend(one.iter().cycle().take(9));
    calls.push("server_close");
    let mut seen = over_memory(Inline);
    // It may be closed more than once, but only at the end.
    while seen.len() > calls.len() && seen.last().is_some_and(|call| call == "server_close") {
        seen.pop();
    }
    assert_eq!(seen, calls);
}

#[test]
fn row_099_a_transport_of_ones_own_threading() {
    assert_every_request_is_ended(&over_memory(Threading::new()));
}

#[test]
fn row_099_a_transport_of_ones_own_pool() {
    assert_every_request_is_ended(&over_memory(Pool::new(2)));
}

fn assert_every_request_is_ended(calls: &[String]) {
    assert_eq!(calls[..2], ["server_bind", "server_activate"]);
    for call in ["make_request", "shutdown_request", "close_request"] {
        assert_eq!(calls.iter().filter(|seen| *seen == call).count(), 3, "{call}: {calls:?}");
    }
    assert!(calls.iter().any(|call| call == "server_close"));
}

#[test]
fn row_099_a_silent_client_in_memory_meets_the_limits() {
    let memory = Memory::new();
    let (failures, told) = channel();
    let handler = move || {
        let failures = failures.clone();
        stream_fn(move |request| {
            request.set_timeout(Some(Duration::from_millis(50)));
            let error = request.next_line(&mut String::new()).map(|_| ()).unwrap_err();
            failures.send(TimedOut::find(&error).map(TimedOut::which))?;
            Ok(())
        })
    };
    let server = Builder::<Memory, _>::new(Threading::new());
    let _server = server.with_transport(memory.clone(), handler).unwrap().serve_in_background();
    let mut client = memory.connect();
    assert_eq!(told.recv_timeout(SOON).unwrap(), Some(Timeout::Read));
    assert!(read_to_end(&mut client).is_empty());
}

// Row 99: a mixin.

/// Runs requests in one thread of its own, and takes no second one while there is a first.
struct Courier {
    diary: Diary,
    gate: Arc<Gate>,
    to_worker: Mutex<Option<Sender<(Job, Permit)>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Courier {
    fn new(diary: &Diary) -> Self {
        let (to_worker, jobs) = channel::<(Job, Permit)>();
        let worker = thread::spawn(move || {
            for (job, permit) in jobs {
                job.run();
                drop(permit);
            }
        });
        Self {
            diary: diary.clone(),
            gate: Gate::new(1).unwrap(),
            to_worker: Mutex::new(Some(to_worker)),
            worker: Mutex::new(Some(worker)),
        }
    }
}

impl Mixin for Courier {
    fn serve(
        &self,
        accept_loop: &(dyn Fn() -> socketserver::Result<()> + Sync),
    ) -> socketserver::Result<()> {
        self.diary.note("serve");
        let result = accept_loop();
        self.diary.note("served");
        result
    }

    fn process_request(&self, job: Job) {
        self.diary.note("process_request");
        match (self.gate.try_enter(), &*self.to_worker.lock().unwrap()) {
            (Some(permit), Some(to_worker)) => to_worker.send((job, permit)).unwrap(),
            (None, _) => job.refuse(Refused::Busy),
            (_, None) => job.refuse(Refused::Closing),
        }
    }

    fn ready(&self) -> bool {
        let ready = self.gate.is_open();
        self.diary.note(if ready { "ready" } else { "full" });
        ready
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.gate.event_fd())
    }

    fn service_actions(&self) {
        self.gate.settle();
    }

    fn server_close(&self, _deadline: Instant) {
        self.diary.note("server_close");
        drop(self.to_worker.lock().unwrap().take());
        if let Some(worker) = self.worker.lock().unwrap().take() {
            worker.join().unwrap();
        }
    }
}

macro_rules! echoes_by_courier {
    ($($test:ident: $server:ty, $address:ident, $client:ident;)*) => {$(
        #[test]
        fn $test() {
            let (folder, diary) = (folder(), Diary::default());
            let server = <$server>::builder().mixin(Courier::new(&diary));
            let server = server.bind($address(folder.path()), || OneLine).unwrap();
            three_echoes(server, folder.path(), $client);
            assert_eq!(diary.lines()[0], "serve");
            assert_eq!(diary.count("process_request"), 3);
            assert_eq!(diary.count("served"), 1);
            assert!(diary.contains("server_close"));
        }
    )*};
}

echoes_by_courier! {
    row_099_a_mixin_of_ones_own_tcp: TcpServer, loopback, over_a_connection;
    row_099_a_mixin_of_ones_own_udp: UdpServer, loopback, over_udp;
    row_099_a_mixin_of_ones_own_unix_stream: UnixStreamServer, file, over_a_connection;
    row_099_a_mixin_of_ones_own_unix_datagram: UnixDatagramServer, file, over_unix_datagrams;
}

#[test]
fn row_099_both_of_ones_own() {
    let diary = Diary::default();
    assert_every_request_is_ended(&over_memory(Courier::new(&diary)));
    assert_eq!(diary.count("process_request"), 3);
}

#[test]
fn row_099_a_mixin_of_ones_own_holds_the_loop_back() {
    let diary = Diary::default();
    let (handler, holder) = held();
    let server = TcpServer::builder().mixin(Courier::new(&diary));
    let server = server.bind("127.0.0.1:0", move || handler.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut first = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let mut second = connect(inet(&*server));
    crate::support::eventually("the mixin says that it is full", || diary.contains("full"));
    assert_eq!(server.context().counts().accepted, 1);
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut first), "released\n");
    // That there is room again has woken the loop.
    holder.started.recv_timeout(SOON).unwrap();
    holder.release.send(()).unwrap();
    assert_eq!(read_line(&mut second), "released\n");
    soon("a stop", move || server.stop()).unwrap();
}

// Row 100.

/// A cipher that stands for TLS: what the client sends first is the key, and everything after it, in
/// both directions, is combined with it.
struct Xor {
    inner: Box<dyn Stream>,
    key: u8,
}

/// How many bytes the handshake takes, all alike.
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
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.inner.set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fileno()
    }
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

/// What `handle_error` was told.
#[derive(Debug, PartialEq)]
struct Told {
    phase: Phase,
    timeout: Option<Timeout>,
    fault: Fault,
}

/// Wraps every connection in [`Xor`], and says where it does so.
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
    Limits { handshake: limit, ..Limits::default() }
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
    // Nothing of it goes in the clear.
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
        // Its pace is what is tested: five times the limit for the whole, a tenth for each byte.
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
    let limits = Limits { idle: HOUR, read: HOUR, write: HOUR, ..handshake(SOON) };
    let server = ThreadingTcpServer::builder().hooks(Probes(deadlines)).limits(limits);
    let server = server.bind("127.0.0.1:0", || OneLine).unwrap().serve_in_background().unwrap();
    let began = Instant::now();
    let mut client = connect(inet(&*server));
    client.write_all(b"hello\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"hello\n");
    soon("a stop", move || server.stop()).unwrap();
    let seen: Vec<_> = seen.iter().collect();
    assert!(seen.len() >= 2, "one for the read and one for the write: {seen:?}");
    // What bounds them is the limit on reading or writing, and not that on the handshake. (That on writing, which is
    // about progress, the stream below keeps by itself.)
    assert!(seen.iter().any(|at| at.is_some_and(|at| at >= began + HOUR)), "{seen:?}");
    assert!(seen.iter().all(|at| at.is_none_or(|at| at >= began + HOUR)), "{seen:?}");
}
