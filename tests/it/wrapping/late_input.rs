//! A request that begins just when a drain ends the input of its connection, over a stream of a user's transport: it gets
//! the rest of its input, and is at its end when its peer is.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use socketserver::monitor::{Activity, CloseReason, LiveRequest, ServerEvent};
use socketserver::park::Event;
use socketserver::request::Stream;
use socketserver::transport::{BeforeBind, Ticket, Transport};
use socketserver::{Address, Builder, Limits, StreamRequest, Threading, stream_fn};

use crate::over_tcp::leave_to_inner_stream;
use crate::support::{Duplex, SOON, StopOnPanic, eventually};

/// A connection whose first read begins when the test says so.
struct Held {
    socket: Box<dyn Duplex>,
    go: Option<Receiver<()>>,
    /// The descriptor that a drain shuts down. Without it a drain cannot end the input.
    shut_by_drain: Option<Arc<OwnedFd>>,
}

impl Read for Held {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(go) = self.go.take() {
            go.recv().map_err(io::Error::other)?;
        }
        self.socket.read(buf)
    }
}

impl Write for Held {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Held {
    fn set_deadline(&mut self, _deadline: Option<Instant>) {}

    fn shutdown(&mut self, _how: Shutdown) -> io::Result<()> {
        Ok(())
    }
}

/// A wrapper that passes everything on.
struct Through {
    inner: Box<dyn Stream>,
}

impl Read for Through {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl Write for Through {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Through {
    leave_to_inner_stream!();
}

/// A transport whose clients the test has connected beforehand.
struct Connected {
    clients: Mutex<VecDeque<Held>>,
    /// Ready for as long as the transport is.
    listener: Arc<OwnedFd>,
}

impl Connected {
    fn with(client: Held) -> Self {
        let listener = Event::new().unwrap();
        listener.notify();
        let listener = Arc::new(listener.as_fd().try_clone_to_owned().unwrap());
        Self { clients: Mutex::new([client].into()), listener }
    }
}

impl Transport for Connected {
    type Raw = Held;
    type Request = StreamRequest;

    fn server_bind(&self, _before_bind: BeforeBind<'_>) -> socketserver::Result<()> {
        Ok(())
    }

    fn server_activate(&self) -> socketserver::Result<()> {
        Ok(())
    }

    fn server_address(&self) -> Address {
        Address::Other("a test".into())
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.listener))
    }

    fn get_request(&self) -> io::Result<(Held, Address)> {
        let client = self.clients.lock().unwrap().pop_front();
        let client = client.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
        Ok((client, Address::Other("a client".into())))
    }

    fn connection(raw: &Held) -> Option<Arc<OwnedFd>> {
        raw.shut_by_drain.clone()
    }

    fn make_request(&self, raw: Held, ticket: Ticket) -> StreamRequest {
        StreamRequest::new(Box::new(raw), self.server_address(), ticket)
    }

    fn server_close(&self) {}
}

/// Whether a drain can end the input of the connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Drain {
    ShutsDown,
    OnlyNotes,
}

/// The server's end of a connection, and what releases its first read.
fn held<S: AsFd + Duplex + 'static>(socket: S, drain: Drain) -> (Held, Sender<()>) {
    let (go, gone) = channel();
    let shut_by_drain =
        (drain == Drain::ShutsDown).then(|| Arc::new(socket.as_fd().try_clone_to_owned().unwrap()));
    (Held { socket: Box::new(socket), go: Some(gone), shut_by_drain }, go)
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Serves one request, of which `hel` has come when a drain cuts its connection. `before` runs before the handler's first
/// read returns, `after` when the handler waits for the rest. Returns the rest of the input, if the handler has read it to
/// its end, and the reason of the request's end.
#[track_caller]
fn begins_in_the_moment_of_a_drain(
    (client, go): (Held, Sender<()>),
    wrapped: bool,
    before: impl FnOnce(),
    after: impl FnOnce(),
) -> (Option<String>, CloseReason) {
    let ((reads, read), (ends, ended)) = (channel(), channel());
    let (reads, ends) = (Mutex::new(reads), Mutex::new(ends));
    let handler = stream_fn(move |request: &mut StreamRequest| {
        if wrapped {
            request.wrap_stream(|inner| Ok(Box::new(Through { inner })))?;
        }
        let mut first = [0; 3];
        let count = request.read(&mut first)?;
        assert_eq!(&first[..count], b"hel");
        let mut rest = String::new();
        let result = request.read_to_string(&mut rest);
        reads.lock().unwrap().send(result.is_ok().then_some(rest))?;
        Ok(result.map(drop)?)
    });
    // The drain lasts longer than the test waits, so that a request that waits for the drain's deadline fails the test.
    let limits = Limits::default().drain(4 * SOON).idle(4 * SOON).read(4 * SOON);
    let server = Builder::<Connected, _>::new(Threading::new())
        .limits(limits)
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::RequestEnded { reason, .. } = event {
                ends.lock().unwrap().send(*reason).unwrap();
            }
        })
        .with_transport(Connected::with(client), handler)
        .unwrap()
        .serve_in_background()
        .unwrap();
    // Whether this holds for the request; true if it has ended.
    let live = |holds: fn(&LiveRequest) -> bool| server.context().live().iter().all(holds);
    eventually("the request is accepted", || !server.context().live().is_empty());
    eventually("the handler waits", || live(|live| live.activity == Activity::Idle));
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close());
        let _stop = StopOnPanic(&*server);
        eventually("the connection is cut", || live(|live| live.cut.is_some()));
        before();
        go.send(()).unwrap();
        eventually("the handler waits again", || live(|live| live.activity == Activity::Receiving));
        after();
        let rest = read.recv_timeout(SOON).expect("the handler's read does not end");
        let reason = ended.recv_timeout(SOON).unwrap();
        let report = closing.join().unwrap();
        assert!(report.is_clean(), "{report}");
        (rest, reason)
    })
}

/// The ways in which a stream of a user's transport is served.
const WAYS: [(Drain, bool); 4] = [
    (Drain::ShutsDown, false),
    (Drain::ShutsDown, true),
    (Drain::OnlyNotes, false),
    (Drain::OnlyNotes, true),
];

#[test]
fn a_request_over_a_users_transport_is_at_its_end_when_its_peer_is() {
    for (drain, wrapped) in WAYS {
        let (mut client, socket) = tcp_pair();
        client.write_all(b"hel").unwrap();
        let end = || client.shutdown(Shutdown::Write).unwrap();
        let ended = begins_in_the_moment_of_a_drain(held(socket, drain), wrapped, end, || {});
        let rest = Some(String::new());
        assert_eq!(ended, (rest, CloseReason::Completed), "{drain:?}, wrapped: {wrapped}");
    }
}

#[test]
fn a_request_over_a_users_transport_gets_the_rest_that_comes_late() {
    for (drain, wrapped) in WAYS {
        let (mut client, socket) = tcp_pair();
        client.write_all(b"hel").unwrap();
        let go_on = || {
            client.write_all(b"lo").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        };
        let ended = begins_in_the_moment_of_a_drain(held(socket, drain), wrapped, || {}, go_on);
        let rest = Some("lo".to_owned());
        assert_eq!(ended, (rest, CloseReason::Completed), "{drain:?}, wrapped: {wrapped}");
    }
}

#[test]
fn a_unix_socket_of_a_users_transport_whose_input_a_drain_has_ended_gets_no_more() {
    for wrapped in [false, true] {
        let (mut client, socket) = UnixStream::pair().unwrap();
        client.write_all(b"hel").unwrap();
        let held = held(socket, Drain::ShutsDown);
        let ended = begins_in_the_moment_of_a_drain(held, wrapped, || {}, || {});
        assert_eq!(ended, (None, CloseReason::Stopped), "wrapped: {wrapped}");
    }
}
