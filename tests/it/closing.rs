//! Servers that are closed by their own hooks, observers or handlers, or by several threads at once; and the fate of the
//! requests that they have accepted.

use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use socketserver::hooks::{AcceptFailure, Failure, Incoming};
use socketserver::mixin::{Job, Mixin, Refused};
use socketserver::monitor::ServerEvent;
use socketserver::transport::{Bind, CloseWhen, Tcp, Transport, Udp};
use socketserver::{
    Address, BackgroundServer, BaseServer, Builder, DatagramRequest, HandlerError, HandlerResult,
    Inline, Limits, Pool, Server, ServerHooks, SocketOptions, StreamRequest, TcpServer, Threading,
    ThreadingUdpServer, datagram_fn, join, run_all, stream_fn,
};

use crate::handlers::stuck;
use crate::over_tcp::{leave_connections_to_tcp, leave_to_tcp};
use crate::support::{
    SOON, alone, connect, eventually, exchange, inet, read_to_end, receive, serve, soon, udp_client,
};

/// A place where user code runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Started,
    Ended,
    LimitReached,
    AcceptFailed,
    AcceptError,
    HandleError,
    Overflow,
    Verify,
    ServiceActions,
    Handler,
}

/// TCP that can lose a client while accepting it.
struct Losing {
    inner: Tcp,
    loses: Arc<AtomicBool>,
}

impl Transport for Losing {
    leave_to_tcp!();
    leave_connections_to_tcp!();

    fn get_request(&self) -> io::Result<(Self::Raw, Address)> {
        let request = self.inner.get_request()?;
        if self.loses.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ECONNABORTED));
        }
        Ok(request)
    }

    fn waits_first(&self) -> bool {
        true
    }

    fn refuse_new(&self) -> bool {
        self.inner.refuse_new()
    }

    fn close_when(&self) -> CloseWhen {
        self.inner.close_when()
    }
}

/// Closes its server whenever user code runs at one [`Place`].
struct Closes<M: Mixin> {
    place: Place,
    armed: AtomicBool,
    closed: AtomicUsize,
    server: OnceLock<Weak<Server<Losing, M>>>,
    /// The threads that have accepted a request.
    accepted_by: Mutex<Vec<ThreadId>>,
}

impl<M: Mixin> Closes<M> {
    fn at(&self, place: Place) {
        if place == self.place && self.armed.load(Ordering::SeqCst) {
            let server = self.server.get().and_then(Weak::upgrade);
            server.expect("it is served").server_close();
            self.closed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn observe(&self, event: &ServerEvent<'_>) {
        match event {
            ServerEvent::RequestStarted { .. } => {
                self.accepted_by.lock().unwrap().push(thread::current().id());
                self.at(Place::Started);
            }
            ServerEvent::RequestEnded { .. } => self.at(Place::Ended),
            ServerEvent::LimitReached { .. } => self.at(Place::LimitReached),
            ServerEvent::AcceptFailed { .. } => self.at(Place::AcceptFailed),
            _ => {}
        }
    }
}

/// Hooks that the loop does not call for each request, so that workers may accept connections.
struct Reports<M: Mixin>(Arc<Closes<M>>);

impl<M: Mixin + 'static> ServerHooks<StreamRequest> for Reports<M> {
    fn accept_error(&self, _failure: &AcceptFailure<'_>) {
        self.0.at(Place::AcceptError);
    }

    fn handle_error(&self, _failure: &Failure<'_>) {
        self.0.at(Place::HandleError);
    }

    fn overflow(&self, _request: &mut StreamRequest, _why: &Refused) -> HandlerResult {
        self.0.at(Place::Overflow);
        Ok(())
    }
}

/// Hooks that the loop calls, so that it alone accepts.
struct InLoop<M: Mixin>(Arc<Closes<M>>);

impl<M: Mixin + 'static> ServerHooks<StreamRequest> for InLoop<M> {
    fn verify_request(&self, _incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        self.0.at(Place::Verify);
        Ok(true)
    }

    fn service_actions(&self) {
        self.0.at(Place::ServiceActions);
    }
}

const PER_PEER: usize = 2;

/// Asserts that `serve_forever` returns when its server is closed at this place, however often.
fn closes_at<M: Mixin + 'static>(mixin: M, place: Place) {
    let closes = Arc::new(Closes {
        place,
        armed: AtomicBool::new(false),
        closed: AtomicUsize::new(0),
        server: OnceLock::new(),
        accepted_by: Mutex::default(),
    });
    let workers_accept = mixin.workers_accept();
    let (handles, observes) = (Arc::clone(&closes), Arc::clone(&closes));
    let handler = stream_fn(move |request: &mut StreamRequest| {
        let mut line = String::new();
        let Some(line) = request.next_line(&mut line)? else { return Ok(()) };
        handles.at(Place::Handler);
        if line == "fail" {
            return Err("as asked".into());
        }
        Ok(writeln!(request, "{line}")?)
    });
    let limits = Limits::default().per_peer(PER_PEER);
    let builder = Builder::<Losing, M>::new(mixin)
        .limits(limits)
        .observer(move |event: &ServerEvent<'_>| observes.observe(event));
    let in_loop = matches!(place, Place::Verify | Place::ServiceActions);
    let builder = if in_loop {
        builder.hooks(InLoop(Arc::clone(&closes)))
    } else {
        builder.hooks(Reports(Arc::clone(&closes)))
    };
    let loses = Arc::new(AtomicBool::new(false));
    let inner = Tcp::unbound(&"127.0.0.1:0".into(), &SocketOptions::default()).unwrap();
    let transport = Losing { inner, loses: Arc::clone(&loses) };
    let server = Arc::new(builder.with_transport(transport, handler).unwrap());
    closes.server.set(Arc::downgrade(&server)).unwrap();
    let serving = serve(&server);
    let address = inet(&*server);
    if workers_accept && !in_loop {
        eventually("a worker accepts", || {
            assert_eq!(exchange(&mut connect(address), "hello"), "hello\n");
            let by = closes.accepted_by.lock().unwrap();
            by.first() != by.last()
        });
    }
    eventually("all have ended", || server.context().live_count() == 0);
    let mut held = Vec::new();
    if matches!(place, Place::LimitReached | Place::Overflow) {
        held.extend((0..PER_PEER).map(|_| connect(address)));
        eventually("they are held", || server.context().live_count() == PER_PEER);
    }
    closes.armed.store(true, Ordering::SeqCst);
    let loses_one = matches!(place, Place::AcceptError | Place::AcceptFailed);
    loses.store(loses_one, Ordering::SeqCst);
    // Clients that connect after the close are refused.
    let mut clients: Vec<_> = (0..5).filter_map(|_| TcpStream::connect(address).ok()).collect();
    for client in &mut clients {
        let _ = client.write_all(b"fail\n");
    }
    let ended = serving.recv_timeout(SOON);
    ended.unwrap_or_else(|_| panic!("closed at {place:?}, it goes on")).unwrap();
    eventually("the close returns", || closes.closed.load(Ordering::SeqCst) > 0);
    assert!(TcpStream::connect(address).is_err(), "{place:?}: nothing keeps the port");
}

const PLACES: [Place; 8] = [
    Place::Started,
    Place::Ended,
    Place::AcceptFailed,
    Place::AcceptError,
    Place::HandleError,
    Place::Verify,
    Place::ServiceActions,
    Place::Handler,
];

#[test]
fn a_server_may_be_closed_wherever_code_of_its_user_runs_inline() {
    // `Inline` serves one client at a time, so that no peer ever has too many requests.
    for place in PLACES {
        closes_at(Inline, place);
    }
}

fn closes_at_every_place<M: Mixin + 'static>(mixin: impl Fn() -> M) {
    for place in PLACES.into_iter().chain([Place::LimitReached, Place::Overflow]) {
        closes_at(mixin(), place);
    }
}

#[test]
fn a_server_may_be_closed_wherever_code_of_its_user_runs_threading() {
    closes_at_every_place(Threading::new);
}

#[test]
fn a_server_may_be_closed_wherever_code_of_its_user_runs_pool() {
    closes_at_every_place(|| Pool::new(4));
}

/// The hook may wait for the closing thread: no lock that a close needs is held at that time.
#[test]
#[cfg_attr(under_green, ignore = "it is about the threads of `Threading`")]
fn a_close_returns_while_the_loop_is_in_a_hook() {
    let (begins, begun) = mpsc::channel();
    let (goes_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let hears = Arc::new(AtomicBool::new(false));
    let (armed, by) = (Arc::clone(&hears), Arc::new(Mutex::new(Vec::new())));
    let accepted_by = Arc::clone(&by);
    let server = TcpServer::builder()
        .mixin(Threading::new())
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::RequestStarted { .. } = event {
                accepted_by.lock().unwrap().push(thread::current().id());
                if armed.swap(false, Ordering::SeqCst) {
                    begins.send(()).unwrap();
                    let _ = may_go_on.lock().unwrap().recv_timeout(SOON * 2);
                }
            }
        })
        .bind(
            "127.0.0.1:0",
            stream_fn(|request: &mut StreamRequest| {
                let mut line = String::new();
                request.next_line(&mut line)?;
                Ok(writeln!(request, "{line}")?)
            }),
        )
        .unwrap();
    let server = Arc::new(server);
    let serving = serve(&server);
    eventually("a worker accepts", || {
        assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
        let by = by.lock().unwrap();
        by.first() != by.last()
    });
    hears.store(true, Ordering::SeqCst);
    let _client = connect(inet(&*server));
    begun.recv_timeout(SOON).unwrap();
    let closes = Arc::clone(&server);
    soon("the close", move || closes.server_close_within(Duration::from_millis(50)));
    goes_on.send(()).unwrap();
    serving.recv_timeout(SOON).expect("the run ends").unwrap();
}

/// A close that waits for nothing, while another one waits, leaves the socket open for the replies.
#[test]
#[cfg_attr(under_green, ignore = "its handler blocks its thread")]
fn a_handler_that_closes_as_well_takes_no_reply_from_a_close_that_waits() {
    let own: Arc<OnceLock<Weak<Server<Udp, Threading>>>> = Arc::default();
    let (closer, (closed, has_closed)) = (Arc::clone(&own), mpsc::channel());
    let (closed, has_closed) = (Mutex::new(closed), Mutex::new(has_closed));
    let handler = datagram_fn(move |request: &mut DatagramRequest| {
        eventually("the server stops", || request.is_stopping());
        let server = closer.get().and_then(Weak::upgrade).expect("it is served");
        let mut text = String::new();
        request.read_to_string(&mut text)?;
        if text == "close" {
            server.server_close();
            closed.lock().unwrap().send(()).unwrap();
            return Ok(());
        }
        has_closed.lock().unwrap().recv_timeout(SOON)?;
        server.shutdown_handle().wait_timeout(SOON);
        request.reply(b"yes")?;
        Ok(())
    });
    let server = Arc::new(ThreadingUdpServer::bind("127.0.0.1:0", handler).unwrap());
    own.set(Arc::downgrade(&server)).unwrap();
    let serving = serve(&server);
    let client = udp_client();
    for datagram in [b"reply", b"close"] {
        client.send_to(datagram, inet(&*server)).unwrap();
    }
    eventually("both are being served", || server.context().live_count() == 2);
    let report = server.server_close();
    assert!(report.is_clean(), "{report}");
    assert_eq!(receive(&client).len(), 3);
    assert_eq!(server.context().counts().failed, 0);
    serving.recv_timeout(SOON).unwrap().unwrap();
    assert!(UdpSocket::bind(inet(&*server)).is_ok(), "its port is free");
}

/// Requests that are cut off at the deadline are not served later, when their clients cannot receive the answer.
#[test]
fn no_handler_begins_when_the_close_has_cut_its_request_off() {
    let (begun, goes_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (begins, may_go_on) = (Arc::clone(&begun), Arc::clone(&goes_on));
    let handler = stream_fn(move |_request: &mut StreamRequest| {
        begins.fetch_add(1, Ordering::SeqCst);
        eventually("the close has returned", || may_go_on.load(Ordering::SeqCst));
        Ok(())
    });
    let server = Arc::new(Builder::<Tcp, _>::new(Inline).bind("127.0.0.1:0", handler).unwrap());
    let serving = serve(&server);
    let _clients: Vec<_> = (0..10).map(|_| connect(inet(&*server))).collect();
    eventually("the first is being served", || begun.load(Ordering::SeqCst) == 1);
    let report = server.server_close_within(Duration::from_millis(50));
    assert_eq!((report.open_at_start, report.forced.len()), (10, 10), "{report}");
    goes_on.store(true, Ordering::SeqCst);
    serving.recv_timeout(SOON).unwrap().unwrap();
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    assert_eq!(server.context().counts().refused, 9);
}

/// A handler closes its own server. The close does not wait, because it would wait for itself; clients in the accept
/// queue are still served.
fn a_handler_closes<M: Mixin + 'static>(mixin: M) {
    let own: Arc<OnceLock<Weak<Server<Tcp, M>>>> = Arc::default();
    let closer = Arc::clone(&own);
    let handler = stream_fn(move |request: &mut StreamRequest| {
        let mut line = String::new();
        let Some(line) = request.next_line(&mut line)? else { return Ok(()) };
        if line == "close" {
            closer.get().and_then(Weak::upgrade).expect("it is served").server_close();
        }
        Ok(writeln!(request, "{line}")?)
    });
    let server = Builder::<Tcp, M>::new(mixin).bind("127.0.0.1:0", handler).unwrap();
    let server = Arc::new(server);
    own.set(Arc::downgrade(&server)).unwrap();
    let serving = serve(&server);
    let mut first = connect(inet(&*server));
    eventually("it is accepted", || server.context().live_count() == 1);
    let mut queue: Vec<_> = (0..5).map(|_| connect(inet(&*server))).collect();
    for client in &mut queue {
        client.write_all(b"queued\n").unwrap();
    }
    assert_eq!(exchange(&mut first, "close"), "close\n");
    for client in &mut queue {
        assert_eq!(read_to_end(client), b"queued\n");
    }
    serving.recv_timeout(SOON).expect("the run ends").unwrap();
    assert_eq!(server.context().counts().refused, 0);
}

#[test]
fn the_queue_of_a_server_that_its_handler_closes_is_served_inline() {
    a_handler_closes(Inline);
}

#[test]
fn the_queue_of_a_server_that_its_handler_closes_is_served_threading() {
    a_handler_closes(Threading::new().max_threads(1));
}

#[test]
fn the_queue_of_a_server_that_its_handler_closes_is_served_pool() {
    a_handler_closes(Pool::new(1).queue(0));
}

/// Lets a handler end the guard of its own server in the way that `how` names.
fn ends_its_guard<M: Mixin + 'static>(mixin: M, how: &'static str) {
    let place: Arc<Mutex<Option<BackgroundServer<Tcp, M>>>> = Arc::default();
    let inside = Arc::clone(&place);
    let (ended, has_ended) = mpsc::channel();
    let handler = stream_fn(move |request: &mut StreamRequest| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        let guard = inside.lock().unwrap().take().unwrap();
        match how {
            "drop" => drop(guard),
            "stop" => drop(guard.stop()?),
            "join" => guard.join()?,
            "stop beside itself" => drop(join(|| (), || guard.stop())?.1?),
            _ => panic!("with the guard in its hand"),
        }
        ended.send(())?;
        Ok(())
    });
    let server = Builder::<Tcp, _>::new(mixin).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    *place.lock().unwrap() = Some(server);
    let mut client = connect(address);
    writeln!(client, "end").unwrap();
    let said = has_ended.recv_timeout(SOON);
    // The sender is dropped only if the handler has panicked.
    assert_eq!(said.is_ok(), how != "panic", "{how}: {said:?}");
    eventually("nobody listens any more", || TcpStream::connect(address).is_err());
}

#[test]
fn a_guard_that_ends_in_its_own_servers_handler_does_not_wait_for_itself() {
    alone("closing::a_guard_that_ends_in_its_own_servers_handler_does_not_wait_for_itself", || {
        for how in ["drop", "stop", "join", "stop beside itself", "panic"] {
            ends_its_guard(Inline, how);
        }
        for how in ["drop", "stop", "stop beside itself", "panic"] {
            ends_its_guard(Threading::new(), how);
            ends_its_guard(Pool::new(2), how);
        }
    });
}

/// Ends a guard whose server has a request that goes on after it was cut off.
fn ends_a_guard_with_a_stuck_request<M: Mixin + 'static>(mixin: M, how: &'static str) {
    const GRACE: Duration = Duration::from_secs(1);
    let (handler, holder) = stuck();
    let server = Builder::<Tcp, _>::new(mixin).limits(Limits::default().drain(GRACE));
    let server = server.bind("127.0.0.1:0", move || handler.clone()).unwrap();
    let server = server.serve_in_background().unwrap();
    let _client = connect(inet(&*server));
    holder.started.recv_timeout(SOON).unwrap();
    let began = Instant::now();
    soon("the guard is gone", move || match how {
        "stop" => assert_eq!(server.stop().unwrap().left_running.len(), 1),
        "close and drop" => assert_eq!(server.server_close().left_running.len(), 1),
        _ => drop(server),
    });
    let took = began.elapsed();
    assert!((GRACE..GRACE * 2).contains(&took), "{how}: one grace, and not {took:?}");
    drop(holder.release);
}

#[test]
fn a_guard_waits_one_grace_for_a_request_that_ignores_its_cut() {
    for how in ["stop", "drop", "close and drop"] {
        ends_a_guard_with_a_stuck_request(Inline, how);
        ends_a_guard_with_a_stuck_request(Threading::new(), how);
        ends_a_guard_with_a_stuck_request(Pool::new(1), how);
    }
}

/// A mixin that panics when it is closed.
struct BadClose;

impl Mixin for BadClose {
    fn process_request(&self, job: Job) {
        job.run();
    }

    fn server_close(&self, _deadline: Instant) {
        panic!("a mixin's close");
    }
}

#[test]
fn a_mixin_that_panics_in_the_close_ends_stop_and_not_the_process() {
    let handler = stream_fn(|request: &mut StreamRequest| Ok(writeln!(request, "hello")?));
    let server = Builder::<Tcp, _>::new(BadClose).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let address = inet(&*server);
    assert_eq!(read_to_end(&mut connect(address)), b"hello\n");
    let panic = catch_unwind(AssertUnwindSafe(|| server.stop())).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"a mixin's close"));
    eventually("nobody listens any more", || TcpStream::connect(address).is_err());
}

#[test]
fn a_second_run_is_an_error_and_closes_nothing_of_the_first() {
    for second in ["run", "run_all", "run_all of two"] {
        let handler = || {
            stream_fn(|request: &mut StreamRequest| {
                let mut line = String::new();
                while let Some(line) = request.next_line(&mut line)? {
                    writeln!(request, "{line}")?;
                }
                Ok(())
            })
        };
        let server = TcpServer::bind("127.0.0.1:0", handler()).unwrap();
        let server = Arc::new(server);
        let free = Arc::new(TcpServer::bind("127.0.0.1:0", handler()).unwrap());
        let serving = serve(&server);
        let mut client = connect(inet(&*server));
        assert_eq!(exchange(&mut client, "before"), "before\n");
        let (again, other) = (Arc::clone(&server), Arc::clone(&free));
        let result = soon("the second run", move || match second {
            "run" => again.run().map(drop),
            "run_all" => {
                let servers: [Box<dyn BaseServer>; 1] = [Box::new(again)];
                run_all(&servers, SOON, || ()).map(drop)
            }
            _ => {
                let servers: [Box<dyn BaseServer>; 2] = [Box::new(other), Box::new(again)];
                run_all(&servers, SOON, || ()).map(drop)
            }
        });
        let error = result.expect_err(second).to_string();
        assert!(error.contains("is serving already"), "{second}: {error}");
        assert_eq!(exchange(&mut client, "after"), "after\n");
        drop(client);
        assert_eq!(exchange(&mut connect(inet(&*server)), "another"), "another\n", "{second}");
        server.shutdown();
        serving.recv_timeout(SOON).unwrap().unwrap();
        // The failed run has closed no server. The first call was `serve_forever` and not `run`, so that its server may be
        // served again.
        for server in [server, free] {
            let serving = serve(&server);
            assert_eq!(exchange(&mut connect(inet(&*server)), "again"), "again\n", "{second}");
            server.server_close();
            serving.recv_timeout(SOON).unwrap().unwrap();
        }
    }
}
