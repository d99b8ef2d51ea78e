//! An error is the peer's fault only if the request's own reads or writes returned it. An error of an upstream, a file
//! or another request is a failure, and is printed.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::hooks::{Failure, Fault};
use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::request::{LineTooLong, PeerFault, Stopping, TimedOut};
use socketserver::{
    DatagramRequest, HandlerError, HandlerResult, Limits, Outbox, ServerHooks, StreamRequest,
    TcpServer, ThreadingTcpServer, UdpServer, UnixDatagramServer, datagram_fn, stream_fn,
};

use crate::support::{SOON, connect, eventually, folder, hear, inet, read_line};

/// How a request has ended, and its report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) reason: CloseReason,
    pub(crate) fault: Option<Fault>,
    pub(crate) quiet: bool,
}

pub(crate) const GONE: End =
    End { reason: CloseReason::Disconnected, fault: Some(Fault::Peer), quiet: true };
const GARBLED: End = End { reason: CloseReason::Garbled, fault: Some(Fault::Peer), quiet: true };
const FAILED: End = End { reason: CloseReason::Failed, fault: Some(Fault::Handler), quiet: false };

/// Notes the arguments of `handle_error`, and how the request ends.
#[derive(Clone, Default)]
pub(crate) struct Ends {
    told: Arc<Mutex<Option<(Fault, bool)>>>,
    ends: Arc<Mutex<Vec<End>>>,
}

impl Ends {
    pub(crate) fn observer(&self) -> impl Fn(&ServerEvent<'_>) + Send + Sync + 'static {
        let ends = self.clone();
        move |event| {
            if let ServerEvent::RequestEnded { reason, .. } = event {
                let told = ends.told.lock().unwrap().take();
                let (fault, quiet) =
                    told.map_or((None, true), |(fault, quiet)| (Some(fault), quiet));
                ends.ends.lock().unwrap().push(End { reason: *reason, fault, quiet });
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<End> {
        self.ends.lock().unwrap().clone()
    }

    pub(crate) fn first(&self) -> End {
        eventually("a request ends", || !self.ends.lock().unwrap().is_empty());
        self.ends.lock().unwrap()[0]
    }
}

impl<R> ServerHooks<R> for Ends {
    fn handle_error(&self, failure: &Failure<'_>) {
        let is_garbled = failure.fault() == Fault::Peer
            && PeerFault::find(failure.error()).is_some_and(|fault| !fault.is_gone());
        let is_quiet = failure.is_disconnect() || is_garbled;
        assert_eq!(failure.is_quiet(), is_quiet, "nothing here is a handshake");
        *self.told.lock().unwrap() = Some((failure.fault(), failure.is_quiet()));
    }
}

/// Serves one client, which waits for a word of the handler, and then leaves by `leave`. Returns the end of its request.
fn end_of(
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
    leave: impl FnOnce(TcpStream),
) -> End {
    let ends = Ends::default();
    let server = TcpServer::builder().hooks(ends.clone()).observer(ends.observer());
    let handler = stream_fn(move |request| {
        request.write_all(b"go\n")?;
        handle(request)
    });
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "go\n");
    leave(client);
    let end = ends.first();
    server.stop().unwrap();
    end
}

/// Closes a connection with a reset.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn half_close(stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    // The other direction stays open.
    std::mem::forget(stream);
}

/// A handler's own error type, with a cause.
#[derive(Debug)]
struct Wrapped(io::Error);

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the work could not be done")
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn read_on(request: &mut StreamRequest) -> io::Result<()> {
    let mut line = Vec::new();
    while request.next_line(&mut line)?.is_some() {}
    Ok(())
}

fn write_on(request: &mut StreamRequest) -> io::Result<()> {
    loop {
        request.write_all(&[b'x'; 4_096])?;
    }
}

#[test]
fn what_the_requests_own_reads_return_is_the_peers() {
    assert_eq!(end_of(|request| Ok(read_on(request)?), reset), GONE);
    assert_eq!(
        end_of(|request| Ok(io::copy(request, &mut io::sink()).map(drop)?), reset),
        GONE,
        "io::copy"
    );
    let buffered = |request: &mut StreamRequest| {
        let mut reader = BufReader::new(request);
        reader.read_line(&mut String::new())?;
        reader.read_line(&mut String::new())?;
        Ok(())
    };
    assert_eq!(end_of(buffered, reset), GONE, "BufReader");
    assert_eq!(end_of(|request| Ok(request.read_exact(&mut [0; 10])?), half_close), GONE, "half");
    assert_eq!(
        end_of(|request| { request.chunk()?.map_or(Ok(()), |_| unreachable!()) }, reset),
        GONE,
        "chunk"
    );
}

#[test]
fn what_the_requests_own_writes_return_is_the_peers() {
    assert_eq!(end_of(|request| Ok(write_on(request)?), reset), GONE);
    let through_an_outbox = |request: &mut StreamRequest| {
        request.outbox()?;
        Ok(write_on(request)?)
    };
    assert_eq!(end_of(through_an_outbox, reset), GONE, "behind an outbox");
    let held_back = |request: &mut StreamRequest| {
        request.set_wbufsize(1 << 16)?;
        Ok(write_on(request)?)
    };
    assert_eq!(end_of(held_back, reset), GONE, "held back");
    let by_its_outbox = |request: &mut StreamRequest| {
        let outbox = request.outbox()?;
        loop {
            outbox.send("x")?;
            outbox.flush();
        }
    };
    assert_eq!(end_of(by_its_outbox, reset), GONE, "its own outbox");
}

#[test]
fn an_own_error_is_found_in_what_is_made_of_it() {
    let wrapped = |request: &mut StreamRequest| Ok(read_on(request).map_err(Wrapped)?);
    assert_eq!(end_of(wrapped, reset), GONE, "with its cause");
    let twice = |request: &mut StreamRequest| {
        Ok(read_on(request).map_err(|error| io::Error::other(Wrapped(error)))?)
    };
    assert_eq!(end_of(twice, reset), GONE, "with its cause, in an io::Error");
    let by_kind = |request: &mut StreamRequest| {
        let context = |error: io::Error| io::Error::new(error.kind(), format!("a line: {error}"));
        Ok(read_on(request).map_err(context)?)
    };
    assert_eq!(end_of(by_kind, reset), GONE, "by its kind");
    let bare_kind = |request: &mut StreamRequest| {
        Ok(read_on(request).map_err(|error| io::Error::from(error.kind()))?)
    };
    assert_eq!(end_of(bare_kind, reset), GONE, "as its kind alone");
}

#[test]
fn an_own_error_keeps_its_kind_and_its_words() {
    let (errors, met) = channel();
    let handle = move |request: &mut StreamRequest| {
        let error = read_on(request).unwrap_err();
        let fault = PeerFault::find(&error).is_some_and(PeerFault::is_gone);
        errors.send((error.kind(), error.to_string(), fault))?;
        Ok(())
    };
    end_of(handle, reset);
    let expected = io::Error::from_raw_os_error(libc::ECONNRESET).to_string();
    assert_eq!(met.recv().unwrap(), (io::ErrorKind::ConnectionReset, expected, true));
}

/// A connection to an upstream that misbehaves in the given way.
fn upstream(treat: impl FnOnce(TcpStream) + Send + 'static) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    treat(accepted);
    stream
}

/// Asserts that the request counts as failed if `fail` returns an error while the client is well and waits.
fn others_fault(fail: impl Fn() -> HandlerResult + Send + Sync + 'static) {
    let (done, wait) = channel::<()>();
    let end = end_of(
        move |_request| {
            let result = fail();
            let _ = &done;
            result
        },
        |client| {
            // The client is there until the request has ended.
            std::thread::spawn(move || {
                let _ = wait.recv();
                drop(client);
            });
        },
    );
    assert_eq!(end, FAILED);
}

#[test]
fn an_upstreams_errors_are_failures() {
    others_fault(|| Ok(upstream(reset).read_exact(&mut [0])?));
    others_fault(|| Ok(upstream(drop).read_exact(&mut [0])?));
    others_fault(|| {
        let mut stream = upstream(reset);
        loop {
            stream.write_all(b"x")?;
        }
    });
    others_fault(|| {
        let (held, _keeps) = channel();
        let mut stream = upstream(move |accepted| held.send(accepted).unwrap());
        stream.set_read_timeout(Some(Duration::from_millis(10)))?;
        Ok(stream.read_exact(&mut [0])?)
    });
    for kind in [
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::NotConnected,
        io::ErrorKind::TimedOut,
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::InvalidData,
    ] {
        others_fault(move || Err(io::Error::from(kind).into()));
        others_fault(move || Err(Wrapped(io::Error::new(kind, "the database")).into()));
    }
}

#[test]
fn an_upstreams_error_is_a_failure_though_the_client_has_gone_as_well() {
    let handle = |request: &mut StreamRequest| {
        let error = read_on(request).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        Ok(upstream(reset).read_exact(&mut [0])?)
    };
    assert_eq!(end_of(handle, reset), FAILED);
}

#[test]
fn what_is_written_behind_ones_own_end_is_ones_own_fault() {
    let handle = |request: &mut StreamRequest| {
        request.shutdown_write()?;
        Ok(write_on(request)?)
    };
    let (done, wait) = channel::<()>();
    let end = end_of(
        move |request| {
            let _ = &done;
            handle(request)
        },
        move |client| {
            std::thread::spawn(move || (wait.recv(), client));
        },
    );
    assert_eq!(end, FAILED);
}

/// Whether a request fails by itself, or because its server stops.
enum Then {
    Wait,
    Stop,
}

/// Serves a request by another server, and returns the error that its handler meets.
fn error_of_another(
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> io::Result<()> + Send + Sync + 'static,
    act: impl FnOnce(&mut TcpStream) -> Then,
) -> io::Error {
    let (errors, error) = channel();
    let handler = stream_fn(move |request: &mut StreamRequest| {
        errors.send(handle(request).unwrap_err())?;
        Ok(())
    });
    let server = ThreadingTcpServer::builder().limits(limits).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    match act(&mut client) {
        Then::Wait => {
            let error = error.recv_timeout(SOON).unwrap();
            server.stop().unwrap();
            error
        }
        Then::Stop => {
            eventually("it is served", || server.context().live_count() == 1);
            server.stop().unwrap();
            error.recv_timeout(SOON).unwrap()
        }
    }
}

fn say(client: &mut TcpStream, bytes: &[u8]) -> Then {
    client.write_all(bytes).unwrap();
    Then::Wait
}

#[test]
fn another_requests_errors_are_failures() {
    let limits = Limits::default().line_bytes(16).read(Duration::from_millis(20));
    let long = error_of_another(limits, read_on, |client| say(client, &[b'x'; 20]));
    assert!(LineTooLong::find(&long).is_some());
    let slow = error_of_another(limits, read_on, |client| say(client, b"x"));
    assert!(TimedOut::find(&slow).is_some());
    let stopping = error_of_another(limits, read_on, |_client| Then::Stop);
    assert!(Stopping::find(&stopping).is_some());
    let gone = error_of_another(
        Limits::default(),
        |request| request.read_exact(&mut [0; 2]),
        |client| {
            client.write_all(b"x").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            Then::Wait
        },
    );
    assert!(PeerFault::find(&gone).is_some());
    let garbled = error_of_another(
        Limits::default(),
        |request| request.next_line(&mut String::new()).map(drop),
        |client| say(client, b"\xff\n"),
    );
    assert!(PeerFault::find(&garbled).is_some());
    for error in [long, slow, stopping, gone, garbled] {
        let error = Mutex::new(Some(error));
        others_fault(move || Err(error.lock().unwrap().take().expect("one request").into()));
    }
}

#[test]
fn another_members_outbox_that_has_ended_is_a_failure() {
    let (outboxes, outbox): (_, Receiver<Outbox>) = channel();
    let ended = ThreadingTcpServer::bind(
        "127.0.0.1:0",
        stream_fn(move |request| Ok(outboxes.send(request.outbox()?)?)),
    );
    let ended = ended.unwrap().serve_in_background().unwrap();
    drop(connect(inet(&*ended)));
    let outbox = outbox.recv_timeout(SOON).unwrap();
    ended.stop().unwrap();
    others_fault(move || Ok(outbox.send("x")?));
}

#[test]
fn a_reply_to_a_sender_that_is_gone_is_the_peers() {
    let folder = folder();
    let (server_path, client_path) = (folder.path().join("s"), folder.path().join("c"));
    for removed in [false, true] {
        let ends = Ends::default();
        let (release, released) = channel();
        let released = Mutex::new(released);
        let handler = datagram_fn(move |request| {
            hear(&released)?;
            Ok(request.reply(b"answer").map(drop)?)
        });
        let server = UnixDatagramServer::builder().hooks(ends.clone()).observer(ends.observer());
        let server = server.bind(&*server_path, handler).unwrap().serve_in_background().unwrap();
        let client = UnixDatagram::bind(&client_path).unwrap();
        client.send_to(b"question", &server_path).unwrap();
        drop(client);
        if removed {
            std::fs::remove_file(&client_path).unwrap();
        }
        release.send(()).unwrap();
        assert_eq!(ends.first(), GONE, "removed: {removed}");
        server.stop().unwrap();
        let _ = std::fs::remove_file(&client_path);
    }
}

#[test]
fn what_cannot_be_read_is_said_by_the_handler() {
    let ends = Ends::default();
    let server = TcpServer::builder().observer(ends.observer());
    let handler = stream_fn(|request: &mut StreamRequest| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        Err(HandlerError::from(request.garbled(format!("{line:?} is no header"))))
    });
    let server = server.bind("127.0.0.1:0", handler).unwrap().serve_in_background().unwrap();
    connect(inet(&*server)).write_all(b"hello\n").unwrap();
    assert_eq!(ends.first().reason, CloseReason::Garbled);
    assert_eq!(server.context().counts().garbled, 1);
    server.stop().unwrap();
}

type Reads<R> = fn(&mut R) -> io::Result<usize>;

/// Every way in which a stream's bytes become text.
const TEXT_OF_A_STREAM: [(&str, Reads<StreamRequest>); 8] = [
    ("next_line", |r| Ok(r.next_line(&mut String::new())?.map_or(0, str::len))),
    ("read_line", |r| r.read_line(&mut String::new())),
    ("read_line, behind a text", |r| r.read_line(&mut String::from("before"))),
    ("lines", |r| Ok(r.lines().next().transpose()?.map_or(0, |line| line.len()))),
    ("read_to_string", |r| r.read_to_string(&mut String::new())),
    ("read_to_string, behind a text", |r| r.read_to_string(&mut String::from("before"))),
    ("by_ref", |r| Read::by_ref(r).read_to_string(&mut String::new())),
    ("io::read_to_string", |r| io::read_to_string(r).map(|text| text.len())),
];

/// Asserts that the error of a read is the peer's fault, and returns the error.
fn peers(name: &str, read: io::Result<usize>, kind: io::ErrorKind) -> HandlerResult {
    let error = read.expect_err(name);
    assert_eq!(error.kind(), kind, "{name}");
    assert!(PeerFault::find(&error).is_some_and(|fault| !fault.is_gone()), "{name}: {error}");
    Err(error.into())
}

#[test]
fn text_that_is_none_is_the_peers_by_whatever_it_is_read() {
    for (name, read) in TEXT_OF_A_STREAM {
        let handle = move |request: &mut StreamRequest| {
            peers(name, read(request), io::ErrorKind::InvalidData)
        };
        let send = |mut client: TcpStream| {
            client.write_all(b"caf\xe9\n").unwrap();
            half_close(client);
        };
        assert_eq!(end_of(handle, send), GARBLED, "{name}");
        let (told, tells) = channel();
        let handle = move |request: &mut StreamRequest| Ok(told.send(read(request)?)?);
        end_of(handle, |mut client| {
            client.write_all("caf\u{e9}\n".as_bytes()).unwrap();
            half_close(client);
        });
        assert!(tells.recv().is_ok_and(|count| count >= 5), "{name}: text is text");
    }
}

#[test]
fn what_had_come_before_a_read_to_string_failed_is_kept_as_std_keeps_it() {
    let (told, tells) = channel();
    let handle = move |request: &mut StreamRequest| {
        request.fill_buf()?;
        request.set_timeout(Some(Duration::from_millis(20)));
        let mut text = String::from("a");
        let error = request.read_to_string(&mut text).unwrap_err();
        Ok(told.send((TimedOut::find(&error).is_some(), text))?)
    };
    end_of(handle, |mut client| {
        client.write_all(b"b").unwrap();
        std::mem::forget(client);
    });
    assert_eq!(tells.recv().unwrap(), (true, "ab".to_owned()));
}

/// The end of a request that is a datagram.
fn end_of_datagram(packet: &[u8], read: fn(&mut DatagramRequest) -> HandlerResult) -> End {
    let ends = Ends::default();
    let server = UdpServer::builder().hooks(ends.clone()).observer(ends.observer());
    let server = server.bind("127.0.0.1:0", datagram_fn(read)).unwrap();
    let server = server.serve_in_background().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(packet, inet(&*server)).unwrap();
    let end = ends.first();
    server.stop().unwrap();
    end
}

#[test]
fn a_datagram_that_cannot_be_read_is_its_senders() {
    let reads: [fn(&mut DatagramRequest) -> HandlerResult; 4] = [
        |r| {
            let read = r.read_to_string(&mut String::new());
            peers("read_to_string", read, io::ErrorKind::InvalidData)
        },
        |r| {
            let read = io::read_to_string(r).map(|text| text.len());
            peers("io::read_to_string", read, io::ErrorKind::InvalidData)
        },
        |r| {
            let read = r.read_exact(&mut [0; 5]).map(|()| 5);
            peers("read_exact", read, io::ErrorKind::UnexpectedEof)
        },
        |r| {
            r.read_exact(&mut [0; 4])?;
            let read = r.read_exact(&mut [0; 1]).map(|()| 1);
            peers("read_exact, behind the end", read, io::ErrorKind::UnexpectedEof)
        },
    ];
    for read in reads {
        assert_eq!(end_of_datagram(b"caf\xe9", read), GARBLED);
    }
    let fits = |r: &mut DatagramRequest| {
        let mut bytes = [0; 2];
        r.read_exact(&mut bytes)?;
        let text = io::read_to_string(r)?;
        assert_eq!((&bytes, &*text), (b"ca", "f"));
        Ok(())
    };
    assert_eq!(end_of_datagram(b"caf", fits).reason, CloseReason::Completed);
}

#[test]
fn a_line_above_its_limit_is_the_peers_and_is_reported() {
    let handle = |request: &mut StreamRequest| {
        let error = request.next_line(&mut String::new()).unwrap_err();
        assert!(LineTooLong::find(&error).is_some() && PeerFault::find(&error).is_none());
        Err(HandlerError::from(error))
    };
    let reported = End { reason: CloseReason::LineTooLong, fault: Some(Fault::Peer), quiet: false };
    let long = vec![b'x'; Limits::default().line_bytes + 1];
    let send = |mut client: TcpStream| {
        // The client may be cut off before the last byte.
        let _ = client.write_all(&long);
        half_close(client);
    };
    assert_eq!(end_of(handle, send), reported);
}

#[test]
fn an_end_in_the_middle_is_said_by_a_handler_that_reads_messages_of_its_own() {
    let handle = |request: &mut StreamRequest| match request.chunk()? {
        Some(_) => Ok(()),
        None => Err(HandlerError::from(request.ended_early())),
    };
    assert_eq!(end_of(handle, half_close), GONE);
}
