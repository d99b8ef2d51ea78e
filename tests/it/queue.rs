//! Clients in the accept queue of a server that begins to stop, and clients that connect later.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use socketserver::mixin::Mixin;
use socketserver::transport::{Bind, Tcp, Transport, Udp, UnixStream};
use socketserver::{
    Address, BackgroundServer, Builder, DatagramRequest, HandlerResult, Inline, Limits, Pool,
    StreamRequest, TcpServer, Threading, datagram_fn, stream_fn,
};

use crate::support::{
    Duplex, SOON, StopOnPanic, connect, connect_any, eventually, exchange, folder, inet, read_line,
    read_to_end, receive, udp_client,
};

/// Longer than any test runs.
const HOUR: Duration = Duration::from_secs(3_600);

fn limits() -> Limits {
    Limits::default().idle(HOUR).read(HOUR).write(HOUR).drain(HOUR).first_read(HOUR)
}

/// Answers one line.
fn one_line(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    if let Some(text) = request.next_line(&mut line)? {
        writeln!(request, "{text}")?;
    }
    Ok(())
}

/// A server that serves one client after the other, and is in the middle of a request.
fn busy<T: Bind<Request = StreamRequest>>(
    address: &str,
    limits: Limits,
) -> (BackgroundServer<T, Inline>, Box<dyn Duplex>) {
    let server = Builder::<T, _>::new(Inline).limits(limits);
    let server = server.bind(address, stream_fn(one_line)).unwrap().serve_in_background().unwrap();
    let mut first = connect_any(&server.server_address());
    first.write_all(b"half").unwrap();
    let begun = |server: &BackgroundServer<T, Inline>| {
        server.context().live().iter().any(|live| live.bytes_in == 4)
    };
    eventually("it has begun", || begun(&server));
    (server, first)
}

fn finish(first: &mut dyn Duplex) {
    assert_eq!(exchange(first, " and half"), "half and half\n");
    assert!(read_to_end(first).is_empty());
}

fn is_refused(address: &Address) -> bool {
    let result = match address {
        Address::Unix(path) => std::os::unix::net::UnixStream::connect(path).map(drop),
        _ => TcpStream::connect_timeout(&address.as_inet().unwrap(), SOON).map(drop),
    };
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Closes a server, and calls `meanwhile` once new clients are refused. To find that out
/// it connects again and again; it also returns how many of these connections were accepted.
fn while_it_closes<T: Transport, M: Mixin + 'static>(
    server: &BackgroundServer<T, M>,
    meanwhile: impl FnOnce(),
) -> (socketserver::monitor::DrainReport, usize) {
    let (address, let_in) = (server.server_address(), Cell::new(0));
    let is_refused = || {
        is_refused(&address) || {
            let_in.set(let_in.get() + 1);
            false
        }
    };
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close());
        let _stop = StopOnPanic(&**server);
        eventually("new clients are refused", is_refused);
        meanwhile();
        (closing.join().unwrap(), let_in.get())
    })
}

/// Asserts that new clients are refused while the loop is in the middle of a request.
fn refuses_at_once<T: Bind<Request = StreamRequest>>(address: &str) {
    let (server, mut first) = busy::<T>(address, limits());
    let (report, more) = while_it_closes(&server, || finish(&mut *first));
    assert_eq!(report.open_at_start, 1 + more, "{report}");
}

#[test]
fn new_clients_are_refused_in_the_middle_of_a_request_tcp() {
    refuses_at_once::<Tcp>("127.0.0.1:0");
}

#[test]
fn new_clients_are_refused_in_the_middle_of_a_request_unix() {
    let folder = folder();
    refuses_at_once::<UnixStream>(folder.path().join("s").to_str().unwrap());
}

/// Asserts that clients are served whose connections the kernel has completed while the loop was busy with a request.
fn serves_the_queue<T: Bind<Request = StreamRequest>>(address: &str) {
    let (server, mut first) = busy::<T>(address, limits());
    let mut queue: Vec<_> = (0..20).map(|_| connect_any(&server.server_address())).collect();
    // Some have sent their request, and some will only send it when the server is about to stop.
    for client in &mut queue[..10] {
        client.write_all(b"early\n").unwrap();
    }
    let (report, more) = while_it_closes(&server, || {
        finish(&mut *first);
        for client in &mut queue[..10] {
            assert_eq!(read_line(&mut **client), "early\n");
        }
        for client in &mut queue[10..] {
            assert_eq!(exchange(&mut **client, "late"), "late\n");
        }
    });
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.open_at_start, report.stopped), (21 + more, 0), "{report}");
    assert_eq!(server.context().counts().ended(), 21 + more as u64);
}

#[test]
fn the_queue_of_a_server_that_stops_is_served_tcp() {
    serves_the_queue::<Tcp>("127.0.0.1:0");
}

#[test]
fn the_queue_of_a_server_that_stops_is_served_unix() {
    let folder = folder();
    serves_the_queue::<UnixStream>(folder.path().join("s").to_str().unwrap());
}

#[test]
fn those_for_whom_there_is_no_room_are_turned_away() {
    let (server, mut first) = busy::<Tcp>("127.0.0.1:0", limits().live(3));
    let mut queue: Vec<_> = (0..5).map(|_| connect(inet(&*server))).collect();
    let (report, _) = while_it_closes(&server, || {
        finish(&mut *first);
        for client in &mut queue[..2] {
            assert_eq!(exchange(client, "in"), "in\n");
        }
        for client in &mut queue[2..] {
            let ended = client.read(&mut [0]);
            assert!(ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        }
    });
    assert_eq!(report.open_at_start, 3, "{report}");
}

/// A request that gets no worker in time does not delay the close: it is cut off at the deadline with the others.
#[test]
fn the_queue_is_forced_at_the_deadline_as_all_are() {
    let (server, mut first) = busy::<Tcp>("127.0.0.1:0", limits());
    let mut waits = connect(inet(&*server));
    let report = server.server_close_within(Duration::from_millis(200));
    assert_eq!((report.open_at_start, report.forced.len()), (2, 2), "{report}");
    for client in [&mut *first, &mut waits as &mut dyn Duplex] {
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}

/// Another owner shares the listener, and the waiting clients are left to it.
#[test]
fn the_queue_of_a_listener_that_others_have_is_left_to_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = OwnedFd::from(listener.try_clone().unwrap());
    let server =
        TcpServer::builder().limits(limits().live(1)).from_fd(ours, stream_fn(one_line)).unwrap();
    is_left_to_others(&server.serve_in_background().unwrap(), &listener);
}

#[test]
fn the_queue_of_a_listener_that_was_borrowed_is_left_to_who_has_it() {
    let server = TcpServer::builder().limits(limits().live(1));
    let server = server.bind("127.0.0.1:0", stream_fn(one_line)).unwrap();
    let listener = server.fileno().unwrap().try_clone().unwrap();
    is_left_to_others(&server.serve_in_background().unwrap(), &listener.into());
}

fn is_left_to_others(server: &BackgroundServer<Tcp, impl Mixin>, listener: &TcpListener) {
    let address = inet(&**server);
    let mut first = connect(address);
    first.write_all(b"half").unwrap();
    let begun = || server.context().live().iter().any(|live| live.bytes_in == 4);
    eventually("it has begun", begun);
    let before = connect(address);
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close());
        let _stop = StopOnPanic(&**server);
        eventually("it is closed here", || server.fileno().is_none());
        let after = connect(address);
        listener.set_nonblocking(true).unwrap();
        for client in [before, after] {
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
        finish(&mut first);
        assert_eq!(closing.join().unwrap().open_at_start, 1);
    });
}

/// Connects and asks until connections are refused: every accepted client has to be answered.
fn ask_until_refused(address: SocketAddr, answered: &AtomicUsize, lost: &AtomicUsize) {
    loop {
        let mut stream = match TcpStream::connect_timeout(&address, SOON) {
            Ok(stream) => stream,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                return;
            }
        };
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut answer = String::new();
        let asked = stream.write_all(b"hello\n").and_then(|()| stream.read_to_string(&mut answer));
        let of = if asked.is_ok() && answer == "hello\n" { answered } else { lost };
        of.fetch_add(1, Ordering::SeqCst);
    }
}

fn loses_nobody<M: Mixin + 'static>(mixin: impl Fn() -> M) {
    for round in 0..8 {
        let server = TcpServer::builder().mixin(mixin()).limits(limits());
        let server = server.bind("127.0.0.1:0", stream_fn(one_line)).unwrap();
        let server = server.serve_in_background().unwrap();
        let (address, answered, lost) = (inet(&*server), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| ask_until_refused(address, &answered, &lost));
            }
            eventually("some are served", || answered.load(Ordering::SeqCst) > 3 * round);
            let report = server.server_close();
            assert!(report.is_clean(), "{report}");
        });
        assert_eq!(lost.load(Ordering::SeqCst), 0, "round {round}");
    }
}

#[test]
fn eight_stops_turn_away_nobody_that_was_let_in_threading() {
    loses_nobody(Threading::new);
}

#[test]
fn eight_stops_turn_away_nobody_that_was_let_in_pool() {
    loses_nobody(|| Pool::new(2));
}

#[test]
fn eight_stops_turn_away_nobody_that_was_let_in_inline() {
    loses_nobody(|| Inline);
}

/// Datagrams of one batch wait in the server, and not in its socket.
#[test]
fn datagrams_that_were_received_are_answered() {
    let stops = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&stops);
    let handler = datagram_fn(move |request: &mut DatagramRequest| {
        eventually("the server stops", || waits.load(Ordering::SeqCst));
        request.reply(b"yes")?;
        Ok(())
    });
    let server = Builder::<Udp, _>::new(Inline).bind("127.0.0.1:0", handler).unwrap();
    let client = udp_client();
    for _ in 0..10 {
        client.send_to(b"?", inet(&server)).unwrap();
    }
    let server = server.serve_in_background().unwrap();
    eventually("the first is being served", || server.context().live_count() == 1);
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close());
        let _stop = StopOnPanic(&*server);
        eventually("the others are taken", || server.context().live_count() == 10);
        stops.store(true, Ordering::SeqCst);
        assert!(closing.join().unwrap().is_clean());
    });
    for _ in 0..10 {
        assert_eq!(receive(&client).len(), 3);
    }
}

/// A reply leaves from the server's own socket, which has to stay open for it.
#[test]
fn a_datagram_that_is_being_served_is_answered_in_the_drain() {
    let handler = datagram_fn(|request: &mut DatagramRequest| {
        eventually("the server stops", || request.is_stopping());
        // Longer than the loop needs to end.
        thread::sleep(Duration::from_millis(50));
        request.reply(b"yes")?;
        Ok(())
    });
    let server = Builder::<Udp, _>::new(Threading::new()).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let client = udp_client();
    client.send_to(b"?", inet(&*server)).unwrap();
    eventually("it is being served", || server.context().live_count() == 1);
    let report = server.server_close();
    assert!(report.is_clean(), "{report}");
    assert_eq!(receive(&client).len(), 3);
    assert_eq!(server.context().counts().completed, 1);
    assert!(UdpSocket::bind(inet(&*server)).is_ok(), "its port is free");
}
