//! A request that begins just when a drain ends the input of its connection: it gets the rest of its input, and is at its
//! end when its peer is. Under a wrapper, and over a stream of a user's transport.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::monitor::{Activity, CloseReason, LiveRequest, ServerEvent};
use socketserver::park::Event;
use socketserver::request::Stream;
use socketserver::transport::{BeforeBind, Ticket, Transport};
use socketserver::{Address, Builder, HandlerResult, Limits, StreamRequest, Threading, stream_fn};

use super::deaf::wrap_thinly;
use super::{MOMENT, Way, patient, serve_with};
use crate::support::{Duplex, SOON, StopOnPanic, eventually, read_line};

/// A stream whose first read begins when the test says so.
struct HeldStream<S> {
    inner: S,
    go: Option<Receiver<()>>,
}

impl<S: Read> Read for HeldStream<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(go) = self.go.take() {
            go.recv().map_err(io::Error::other)?;
        }
        self.inner.read(buf)
    }
}

impl<S: Write> Write for HeldStream<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// As a wrapper.
impl Stream for HeldStream<Box<dyn Stream>> {
    fn set_deadline(&mut self, _deadline: Option<Instant>) {}

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }
}

/// As the stream of a user's transport. The tests do not look at the end of its output.
impl Stream for HeldStream<Box<dyn Duplex>> {
    fn set_deadline(&mut self, _deadline: Option<Instant>) {}

    fn shutdown(&mut self, _how: Shutdown) -> io::Result<()> {
        Ok(())
    }
}

/// Serves one request, which begins just when a drain cuts its connection; `meanwhile` runs after the cut. The handler has
/// read `hel`, and `rest` goes on.
#[track_caller]
fn begins_under_a_wrapper(
    meanwhile: impl FnOnce(&TcpStream),
    rest: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
    ends_as: CloseReason,
) {
    let (go, gone) = channel();
    let gone = Mutex::new(Some(gone));
    let limits = patient().drain(Duration::from_secs(10));
    let wrap = move |request: &mut StreamRequest| {
        let go = gone.lock().unwrap().take();
        Ok(request.wrap_stream(|inner| Ok(Box::new(HeldStream { inner, go })))?)
    };
    let served = serve_with(Way::Hook, limits, wrap, move |request| {
        request.write_all(b"here\n")?;
        let mut first = [0; 3];
        let count = request.read(&mut first)?;
        assert_eq!(&first[..count], b"hel");
        rest(request)
    });
    let mut client = served.bare();
    client.write_all(b"hel").unwrap();
    assert_eq!(read_line(&mut client), "here\n");
    let began = Instant::now();
    thread::scope(|scope| {
        let closing = scope.spawn(|| served.server.server_close());
        let _stop = StopOnPanic(&*served.server);
        eventually("it is cut", || {
            served.server.context().live().first().is_some_and(|live| live.cut.is_some())
        });
        meanwhile(&client);
        go.send(()).unwrap();
        let report = closing.join().unwrap();
        assert!(report.is_clean(), "{report} after {:?}", began.elapsed());
    });
    served.assert_ends_as(ends_as);
}

#[test]
fn a_request_that_begins_in_the_moment_of_a_drain_waits_no_longer_than_its_handler_has_it_wait() {
    let rest = |request: &mut StreamRequest| {
        request.set_timeout(Some(MOMENT));
        Ok(request.read_exact(&mut [0; 3])?)
    };
    begins_under_a_wrapper(|_client| {}, rest, CloseReason::TimedOut);
}

#[test]
fn a_request_that_begins_in_the_moment_of_a_drain_is_at_its_end_when_its_peer_is() {
    let rest = |request: &mut StreamRequest| {
        assert_eq!(request.read_to_end(&mut Vec::new())?, 0);
        Ok(())
    };
    let peer_ends = |client: &TcpStream| client.shutdown(Shutdown::Write).unwrap();
    begins_under_a_wrapper(peer_ends, rest, CloseReason::Completed);
}

/// A connection of [`Connected`], and the descriptor that a drain shuts down. Without the latter a drain cannot end the
/// input.
type Raw = (HeldStream<Box<dyn Duplex>>, Option<Arc<OwnedFd>>);

/// A transport whose one client the test has connected beforehand.
struct Connected {
    client: Mutex<Option<Raw>>,
    /// Ready for as long as the transport is.
    listener: Arc<OwnedFd>,
}

impl Connected {
    fn with(client: Raw) -> Self {
        let listener = Event::new().unwrap();
        listener.notify();
        let listener = Arc::new(listener.as_fd().try_clone_to_owned().unwrap());
        Self { client: Mutex::new(Some(client)), listener }
    }
}

impl Transport for Connected {
    type Raw = Raw;
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

    fn get_request(&self) -> io::Result<(Raw, Address)> {
        let client = self.client.lock().unwrap().take();
        let client = client.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
        Ok((client, Address::Other("a client".into())))
    }

    fn connection((_, shut_by_drain): &Raw) -> Option<Arc<OwnedFd>> {
        shut_by_drain.clone()
    }

    fn make_request(&self, (stream, _): Raw, ticket: Ticket) -> StreamRequest {
        StreamRequest::new(Box::new(stream), self.server_address(), ticket)
    }

    fn server_close(&self) {}
}

/// How a drain reaches a connection: it can end its input, or only leaves its note in the live list.
#[derive(Clone, Copy, Debug, PartialEq)]
enum DrainBy {
    ShutsDown,
    OnlyNotes,
}

/// The server's end of a connection, and what releases its first read.
fn held<S: AsFd + Duplex + 'static>(socket: S, drain: DrainBy) -> (Raw, Sender<()>) {
    let (go, gone) = channel();
    let shut_by_drain = (drain == DrainBy::ShutsDown)
        .then(|| Arc::new(socket.as_fd().try_clone_to_owned().unwrap()));
    let inner: Box<dyn Duplex> = Box::new(socket);
    ((HeldStream { inner, go: Some(gone) }, shut_by_drain), go)
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
fn begins_over_a_users_transport(
    (client, go): (Raw, Sender<()>),
    wrapped: bool,
    before: impl FnOnce(),
    after: impl FnOnce(),
) -> (Option<String>, CloseReason) {
    let ((reads, read), (ends, ended)) = (channel(), channel());
    let (reads, ends) = (Mutex::new(reads), Mutex::new(ends));
    let handler = stream_fn(move |request: &mut StreamRequest| {
        if wrapped {
            wrap_thinly(request, true)?;
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

/// The ways in which a stream of a user's transport is served, with and without a wrapper.
const DRAINS: [(DrainBy, bool); 4] = [
    (DrainBy::ShutsDown, false),
    (DrainBy::ShutsDown, true),
    (DrainBy::OnlyNotes, false),
    (DrainBy::OnlyNotes, true),
];

#[test]
fn a_request_over_a_users_transport_is_at_its_end_when_its_peer_is() {
    for (drain, wrapped) in DRAINS {
        let (mut client, socket) = tcp_pair();
        client.write_all(b"hel").unwrap();
        let end = || client.shutdown(Shutdown::Write).unwrap();
        let ended = begins_over_a_users_transport(held(socket, drain), wrapped, end, || {});
        let rest = Some(String::new());
        assert_eq!(ended, (rest, CloseReason::Completed), "{drain:?}, wrapped: {wrapped}");
    }
}

#[test]
fn a_request_over_a_users_transport_gets_the_rest_that_comes_late() {
    for (drain, wrapped) in DRAINS {
        let (mut client, socket) = tcp_pair();
        client.write_all(b"hel").unwrap();
        let go_on = || {
            client.write_all(b"lo").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        };
        let ended = begins_over_a_users_transport(held(socket, drain), wrapped, || {}, go_on);
        let rest = Some("lo".to_owned());
        assert_eq!(ended, (rest, CloseReason::Completed), "{drain:?}, wrapped: {wrapped}");
    }
}

#[test]
fn a_unix_socket_of_a_users_transport_whose_input_a_drain_has_ended_gets_no_more() {
    for wrapped in [false, true] {
        let (mut client, socket) = UnixStream::pair().unwrap();
        client.write_all(b"hel").unwrap();
        let held = held(socket, DrainBy::ShutsDown);
        let ended = begins_over_a_users_transport(held, wrapped, || {}, || {});
        assert_eq!(ended, (None, CloseReason::Stopped), "wrapped: {wrapped}");
    }
}
