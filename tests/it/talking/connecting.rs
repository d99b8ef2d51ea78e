//! `connect` and the connection that it gives, on plain threads.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::outgoing::{HalfClose, connect};
use socketserver::{
    Address, Limits, StreamRequest, TcpServer, ThreadingTcpServer, ThreadingUnixStreamServer,
    stream_fn,
};

use crate::handlers::Echo;
use crate::support::{SOON, connect as client_of, folder, inet, read_to_end, soon};

fn names(error: &io::Error, parts: &[&str]) {
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn every_form_of_an_address_reaches_its_server() {
    let folder = folder();
    let tcp = ThreadingTcpServer::bind("127.0.0.1:0", || Echo).unwrap();
    let tcp = tcp.serve_in_background().unwrap();
    let unix = ThreadingUnixStreamServer::bind(folder.path().join("s"), || Echo).unwrap();
    let unix = unix.serve_in_background().unwrap();
    let by_name = format!("@socketserver.test.{}", std::process::id());
    let abstract_one = ThreadingUnixStreamServer::bind(&*by_name, || Echo).unwrap();
    let abstract_one = abstract_one.serve_in_background().unwrap();
    let inet = inet(&*tcp);
    let path = folder.path().join("s");
    let streams = [
        connect(inet, SOON),
        connect(inet.to_string(), SOON),
        connect(("localhost", inet.port()), SOON),
        connect(format!("localhost:{}", inet.port()), SOON),
        connect(tcp.server_address(), Duration::MAX),
        connect(&*path, SOON),
        connect(path.to_str().unwrap(), SOON),
        connect(unix.server_address(), SOON),
        connect(&*by_name, SOON),
        connect(abstract_one.server_address(), SOON),
    ];
    for stream in streams {
        let mut stream = BufReader::new(stream.unwrap());
        writeln!(stream.get_mut(), "to {}", 1).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "to 1\n");
        let stream = stream.into_inner();
        assert!(stream.peer_address().is_local(), "{}", stream.peer_address());
        stream.set_nodelay(false).unwrap();
        if stream.peer_address().as_inet().is_some() {
            assert!(stream.local_address().as_inet().is_some());
        } else {
            assert_eq!(stream.local_address(), Address::Unnamed);
        }
    }
}

#[test]
fn errors_name_the_operation_the_address_and_the_cause() {
    let nothing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = connect(nothing, SOON).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    names(&refused, &["cannot connect to 127.0.0.1:", "refused"]);

    let by_name = connect(("localhost", nothing.port()), SOON).unwrap_err();
    assert_eq!(by_name.kind(), io::ErrorKind::ConnectionRefused);
    names(&by_name, &["cannot connect to localhost:", ":", "refused"]);

    let folder = folder();
    let no_file = connect(folder.path().join("none"), SOON).unwrap_err();
    assert_eq!(no_file.kind(), io::ErrorKind::NotFound);
    names(&no_file, &["cannot connect to /", "/none"]);

    for text in ["localhost", "tcp://127.0.0.1:80", "[::1:80", "127.0.0.1:x"] {
        let error = connect(text, SOON).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        names(&error, &["cannot understand the address", text]);
    }
    let too_long = connect("/x".repeat(200), SOON).unwrap_err();
    names(&too_long, &["cannot connect to /x", "107 bytes"]);
    // A host that no name server knows: RFC 6761.
    let unknown = connect("host.invalid:80", SOON).unwrap_err();
    names(&unknown, &["cannot look up host.invalid:80"]);
}

#[test]
fn a_unix_socket_with_a_full_accept_queue_is_waited_for() {
    let folder = folder();
    let path = folder.path().join("s");
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let listener = listener.unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let queued = connect(&path, SOON).unwrap();
    let time = Duration::from_millis(100);
    let began = Instant::now();
    let late = connect(&path, time).unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    names(&late, &["cannot connect to /", "no answer within 100ms"]);
    assert!(began.elapsed() >= time);
    let waiting = thread::spawn(move || connect(&path, SOON));
    drop(listener.accept().unwrap());
    waiting.join().unwrap().unwrap();
    drop(queued);
}

#[test]
fn a_silent_peer_and_one_that_takes_nothing_end_the_call_and_not_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = connect(listener.local_addr().unwrap(), SOON).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    let time = Duration::from_millis(50);
    stream.set_timeout(Some(time));
    let silent = stream.read(&mut [0]).unwrap_err();
    assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
    names(&silent, &["cannot read from 127.0.0.1:", "nothing came within 50ms"]);
    let stalled = loop {
        if let Err(error) = stream.write(&[0; 65_536]) {
            break error;
        }
    };
    assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
    names(&stalled, &["cannot write to 127.0.0.1:", "nothing was taken within 50ms"]);
    stream.set_timeout(None);
    stream.deadline_in(time);
    let due = stream.read(&mut [0]).unwrap_err();
    names(&due, &["cannot read from", "the handler's deadline of 50ms has passed"]);
    stream.deadline_in(None);
    peer.write_all(b"still here").unwrap();
    let mut text = [0; 10];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"still here");
    // A timeout of zero does not wait, and takes what is there.
    stream.set_timeout(Some(Duration::ZERO));
    peer.write_all(b"x").unwrap();
    let began = Instant::now();
    while stream_read(&mut stream) != Some(b'x') {
        assert!(began.elapsed() < SOON);
    }
    assert_eq!(stream.read(&mut []).unwrap(), 0);
}

fn stream_read(stream: &mut socketserver::outgoing::OutgoingStream) -> Option<u8> {
    let mut byte = [0];
    (stream.read(&mut byte).ok()? == 1).then_some(byte[0])
}

#[test]
fn a_half_ends_by_itself_or_with_the_other_and_a_close_is_no_end_of_the_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut stream = connect(address, SOON).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    stream.write_all(b"question").unwrap();
    stream.shutdown_write().unwrap();
    assert_eq!(read_to_end(&mut peer), b"question");
    peer.write_all(b"answer").unwrap();
    drop(peer);
    assert_eq!(read_to_end(&mut stream), b"answer");

    let stream = connect(address, SOON).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    let (mut input, mut output) = stream.into_split();
    let (begins, has_begun) = channel();
    let reader = thread::spawn(move || {
        begins.send(()).unwrap();
        input.read(&mut [0])
    });
    has_begun.recv_timeout(SOON).unwrap();
    output.write_all(b"x").unwrap();
    output.close();
    let closed = reader.join().unwrap().unwrap_err();
    assert_eq!(closed.kind(), io::ErrorKind::ConnectionAborted);
    names(&closed, &["cannot read from 127.0.0.1:", "this side has closed"]);
    let written = output.write_all(b"y").unwrap_err();
    names(&written, &["cannot write to 127.0.0.1:", "this side has closed"]);
    assert_eq!(read_to_end(&mut peer), b"x");

    // As with std, a read returns the end after the program itself has shut its input down.
    let mut stream = connect(address, SOON).unwrap();
    stream.shutdown(Shutdown::Read).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_reset_by_the_other_server_is_no_fault_of_the_client() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream_at = upstream.local_addr().unwrap();
    let (ends, ended) = channel();
    let ends = parking_lot::Mutex::new(ends);
    let (connects, has_connected) = channel();
    let connects = parking_lot::Mutex::new(connects);
    let handler = stream_fn(move |request| {
        let mut upstream = connect(upstream_at, SOON)?;
        connects.lock().send(())?;
        let error = upstream.read(&mut [0]).expect_err("it is reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        request.write_all(b"so it is")?;
        Err(error.into())
    });
    let server = TcpServer::builder()
        .observer(move |event: &ServerEvent<'_>| {
            if let ServerEvent::RequestEnded { reason, .. } = event {
                ends.lock().send(*reason).unwrap();
            }
        })
        .hooks(super::Quiet)
        .bind("127.0.0.1:0", handler)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = client_of(inet(&*server));
    let (peer, _) = upstream.accept().unwrap();
    has_connected.recv_timeout(SOON).unwrap();
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    assert_eq!(read_to_end(&mut client), b"so it is");
    assert_eq!(ended.recv_timeout(SOON).unwrap(), CloseReason::Failed);
}

#[test]
fn a_request_that_is_cut_off_ends_the_connections_that_its_handler_has_made() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream_at = upstream.local_addr().unwrap();
    let (saw, seen) = channel();
    let saw = std::sync::Arc::new(parking_lot::Mutex::new(saw));
    let handle = move |request: &mut StreamRequest| {
        let mut upstream = connect(upstream_at, SOON)?;
        request.end_together(&upstream);
        upstream.set_timeout(Some(Duration::MAX));
        request.write_all(b"waiting\n")?;
        let error = upstream.read(&mut [0]).expect_err("nothing comes");
        saw.lock().send(error.kind()).unwrap();
        Ok(())
    };
    for by_operator in [true, false] {
        let server = ThreadingTcpServer::builder()
            .limits(Limits::default().drain(Duration::from_millis(100)))
            .bind("127.0.0.1:0", stream_fn(handle.clone()))
            .unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = client_of(inet(&*server));
        let mut waiting = [0; 8];
        client.read_exact(&mut waiting).unwrap();
        let _peer = upstream.accept().unwrap();
        if by_operator {
            assert!(server.context().close_live(server.context().live()[0].id));
            assert_eq!(seen.recv_timeout(SOON).unwrap(), io::ErrorKind::ConnectionAborted);
        }
        let report = soon("the server stops", move || server.stop().unwrap());
        if !by_operator {
            assert_eq!(seen.recv_timeout(SOON).unwrap(), io::ErrorKind::ConnectionAborted);
            assert_eq!((report.forced.len(), report.left_running.len()), (1, 0), "{report}");
        }
    }
}

/// The times are zero, one nanosecond, the powers of two from there, and for ever.
#[test]
fn every_time_is_a_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let nanos = (0..63).map(|bit| Duration::from_nanos(1 << bit));
    let secs = (0..64).map(|bit| Duration::from_secs(1 << bit));
    let ends = [Duration::ZERO, Duration::MAX].into_iter();
    for time in ends.chain(nanos).chain(secs) {
        let late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut && time < SOON;
        match connect(address, time) {
            Err(error) => assert!(late(&error), "{time:?}: {error}"),
            Ok(mut stream) => {
                let (mut peer, _) = listener.accept().unwrap();
                peer.write_all(b"x").unwrap();
                stream.set_timeout(Some(time));
                stream.deadline_in(time);
                for done in [stream.write_all(b"y"), stream.read_exact(&mut [0])] {
                    assert!(done.as_ref().err().is_none_or(late), "{time:?}: {done:?}");
                }
            }
        }
    }
}
