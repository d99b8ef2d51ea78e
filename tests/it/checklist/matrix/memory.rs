//! Row 99: a transport of one's own, without a socket.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use socketserver::mixin::Mixin;
use socketserver::monitor::{CloseReason, Cut, ServerEvent};
use socketserver::park::Event;
use socketserver::request::{Stream, TimedOut, Timeout};
use socketserver::transport::{BeforeBind, Ticket, Transport};
use socketserver::{Address, Builder, Inline, Limits, Pool, StreamRequest, Threading, stream_fn};

use crate::handlers::{Diary, OneLine};
use crate::support::{SOON, read_to_end, soon};

/// One end of a connection in memory.
pub struct MemoryStream {
    input: Receiver<Vec<u8>>,
    /// Bytes that have arrived and were not read yet.
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
pub struct Memory {
    wire: Arc<Wire>,
}

struct Wire {
    diary: Diary,
    /// Clients that wait to be accepted, and errors for accepts.
    arrivals: Mutex<VecDeque<io::Result<MemoryStream>>>,
    event: Event,
    fileno: Mutex<Option<Arc<OwnedFd>>>,
    /// The threads that have closed the transport.
    closed_by: Mutex<Vec<ThreadId>>,
}

impl Memory {
    pub fn new() -> Self {
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
    pub fn diary(&self) -> &Diary {
        &self.wire.diary
    }

    pub fn closed_by(&self) -> Vec<ThreadId> {
        self.wire.closed_by.lock().unwrap().clone()
    }

    pub fn connect(&self) -> MemoryStream {
        let (mut client, server) = MemoryStream::pair();
        client.set_deadline(Some(Instant::now() + SOON));
        self.arrive(Ok(server));
        client
    }

    /// Makes the next `get_request` fail with this error.
    pub fn fail(&self, error: io::Error) {
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

/// Serves three clients of an echo server over memory. Returns the calls that the transport has seen.
pub fn over_memory(mixin: impl Mixin + 'static) -> Vec<String> {
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
    // The loop may look for clients as often as it likes.
    calls.retain(|call| call != "get_request");
    calls
}

/// A drain cannot shut a stream down that has no descriptor. So the request's next read and write fail, and the report and the
/// reason of its end are those of a request that was cut off.
#[test]
fn row_099_a_request_without_a_descriptor_is_cut_off_at_the_deadline() {
    let ((runs, ran), (goes_on, hold), (ends, ended)) = (channel(), channel::<()>(), channel());
    let (hold, runs, ends) = (Mutex::new(hold), Mutex::new(runs), Mutex::new(ends));
    let handler = stream_fn(move |request: &mut StreamRequest| {
        runs.lock().unwrap().send("runs".to_owned())?;
        hold.lock().unwrap().recv()?;
        let (read, written) = (request.read(&mut [0; 8]), request.write_all(b"x"));
        runs.lock().unwrap().send(format!("{:?}, {:?}", read.is_err(), written.is_err()))?;
        Ok(())
    });
    let memory = Memory::new();
    let server = Builder::<Memory, _>::new(Threading::new())
        .limits(Limits::default().drain(Duration::from_millis(50)))
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::RequestEnded { reason, .. } = event {
                ends.lock().unwrap().send(*reason).unwrap();
            }
        })
        .with_transport(memory.clone(), handler)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let _client = memory.connect();
    assert_eq!(ran.recv_timeout(SOON).unwrap(), "runs");
    let report = soon("a stop", move || server.stop()).unwrap();
    assert_eq!((report.forced.len(), report.left_running.len()), (1, 1), "{report}");
    assert_eq!(report.left_running[0].cut, Some(Cut::Forced));
    goes_on.send(()).unwrap();
    assert_eq!(ran.recv_timeout(SOON).unwrap(), "true, true");
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Forced);
}

#[test]
fn row_099_a_transport_of_ones_own_inline() {
    let one = ["make_request", "shutdown_request", "close_request"];
    let mut calls = vec!["server_bind", "server_activate"];
    calls.extend(one.iter().cycle().take(9));
    calls.push("server_close");
    let mut seen = over_memory(Inline);
    // The transport may be closed more than once, but only at the end.
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

pub fn assert_every_request_is_ended(calls: &[String]) {
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
