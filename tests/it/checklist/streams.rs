//! Connections, as their handlers hold them: rows 83 to 89, and what lines, limits and ends of input are.

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::{
    BackgroundServer, Failure, Fault, HandlerResult, Inline, Limits, LineTooLong, Mixin, Phase,
    ServerHooks, Stopping, Stream, StreamRequest, StreamRequestHandler, Tcp, TcpServer, Threading,
    ThreadingTcpServer, ThreadingUnixStreamServer, TimedOut, Timeout, UnixStreamServer, stream_fn,
};

use super::requests::{Reports, child, is_child, reports, reset, writes_to_stderr};
use crate::support::{
    SOON, connect, connect_any, eventually, exchange, folder, inet, read_line, read_to_end,
};

/// What a [`Counting`] stream has seen.
#[derive(Default)]
struct Traffic {
    receives: AtomicUsize,
    /// How many bytes were asked for at once, at the most.
    asked: AtomicUsize,
    /// What each send took.
    sends: Mutex<Vec<Vec<u8>>>,
}

impl Traffic {
    fn sends(&self) -> Vec<String> {
        let sends = self.sends.lock().unwrap();
        sends.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

/// A connection that counts, and that takes only so many bytes at once.
struct Counting {
    inner: Box<dyn Stream>,
    traffic: Arc<Traffic>,
    at_once: usize,
    /// Every other call is interrupted by a signal that never was.
    interrupted: Option<bool>,
}

impl Counting {
    fn interrupts(&mut self) -> io::Result<()> {
        match &mut self.interrupted {
            Some(now) => {
                *now = !*now;
                if *now { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }
}

impl Read for Counting {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupts()?;
        self.traffic.asked.fetch_max(buf.len(), Ordering::SeqCst);
        let most = buf.len().min(self.at_once);
        let count = self.inner.read(&mut buf[..most])?;
        self.traffic.receives.fetch_add(1, Ordering::SeqCst);
        Ok(count)
    }
}

impl Write for Counting {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.interrupts()?;
        let most = buf.len().min(self.at_once);
        let count = self.inner.write(&buf[..most])?;
        self.traffic.sends.lock().unwrap().push(buf[..count].to_vec());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Counting {
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

/// Hooks that put a [`Counting`] stream around every connection.
struct Count {
    traffic: Arc<Traffic>,
    at_once: usize,
    interrupted: bool,
}

impl ServerHooks<StreamRequest> for Count {
    fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
        let (traffic, at_once) = (Arc::clone(&self.traffic), self.at_once);
        let interrupted = self.interrupted.then_some(false);
        request
            .wrap_stream(|inner| Ok(Box::new(Counting { inner, traffic, at_once, interrupted })))?;
        Ok(())
    }

    /// The test sees it by other means.
    fn handle_error(&self, _failure: &Failure<'_>) {}
}

fn counting() -> (Count, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let counted = Arc::clone(&traffic);
    (Count { traffic: counted, at_once: usize::MAX, interrupted: false }, traffic)
}

/// A server whose handler is a function, and the reports of its failures.
fn serve(
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> (BackgroundServer<Tcp, Threading>, Receiver<super::requests::Report>) {
    let (reports, reported) = reports();
    let server = ThreadingTcpServer::builder()
        .hooks(reports)
        .limits(limits)
        .bind("127.0.0.1:0", stream_fn(handle))
        .unwrap();
    (server.serve_in_background().unwrap(), reported)
}

/// Limits that do not end a test before its own patience does.
fn patient() -> Limits {
    Limits { idle: 2 * SOON, read: 2 * SOON, write: 2 * SOON, ..Limits::default() }
}

#[test]
fn row_083_what_is_written_is_visible_without_a_flush() {
    let (server, _reported) = serve(patient(), |request| {
        let mut byte = [0];
        request.write_all(b"no newline, no flush")?;
        request.read_exact(&mut byte)?;
        write!(request, "{}", 42)?;
        request.read_exact(&mut byte)?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    let mut text = [0; 20];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"no newline, no flush");
    client.write_all(b".").unwrap();
    let mut number = [0; 2];
    client.read_exact(&mut number).unwrap();
    assert_eq!(&number, b"42");
    client.write_all(b".").unwrap();
}

#[test]
fn row_083_one_writeln_is_one_send() {
    let (hooks, traffic) = counting();
    let handler = stream_fn(|request| {
        writeln!(request, "{} and {} make {:>3}", 1, 2, 1 + 2)?;
        writeln!(request, "text alone")?;
        request.write_all(b"bytes")?;
        Ok(())
    });
    let server = TcpServer::builder().hooks(hooks).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let text = read_to_end(&mut connect(inet(&*server)));
    assert_eq!(text, b"1 and 2 make   3\ntext alone\nbytes");
    assert_eq!(traffic.sends(), ["1 and 2 make   3\n", "text alone\n", "bytes"]);
}

#[test]
fn row_083_input_is_buffered() {
    let (hooks, traffic) = counting();
    let handler = stream_fn(|request| {
        let (mut byte, mut line) = ([0], String::new());
        for expected in b"abc" {
            request.read_exact(&mut byte)?;
            assert_eq!(byte[0], *expected);
        }
        assert_eq!(request.next_line(&mut line)?, Some("def"));
        assert_eq!(request.fill_buf()?, b"last line\n");
        assert_eq!(request.next_line(&mut line)?, Some("last line"));
        Ok(writeln!(request, "done")?)
    });
    let server = TcpServer::builder().hooks(hooks).bind("127.0.0.1:0", handler).unwrap();
    // What comes before the server runs comes as one.
    let mut client = connect(inet(&server));
    client.write_all(b"abcdef\nlast line\n").unwrap();
    let _serving = server.serve_in_background().unwrap();
    assert_eq!(read_line(&mut client), "done\n");
    assert_eq!(traffic.receives.load(Ordering::SeqCst), 1);
}

/// What the server's end of a connection has for TCP_NODELAY.
fn nodelay(request: &StreamRequest) -> io::Result<bool> {
    let fd = request.fileno().expect("a descriptor");
    socket2::SockRef::from(&fd).tcp_nodelay()
}

#[test]
fn row_083_and_row_088_nagles_algorithm_is_off_by_default() {
    let (server, _reported) =
        serve(patient(), |request| Ok(writeln!(request, "{}", nodelay(request)?)?));
    assert_eq!(read_line(&mut connect(inet(&*server))), "true\n");
}

/// The bytes that a large answer is made of; no two neighbouring pages are alike.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index / 251 + index) as u8).collect()
}

const SIXTEEN_MIB_AND_ONE: usize = 16 * 1024 * 1024 + 1;

/// Sends a signal to a thread.
#[allow(unsafe_code, reason = "the standard library has no pthread_kill")]
fn signal(thread: libc::pthread_t) {
    // SAFETY: the thread lives: its handler waits for a byte that is sent after the last signal.
    let failed = unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
    assert_eq!(failed, 0, "{}", io::Error::from_raw_os_error(failed));
}

#[allow(unsafe_code, reason = "the standard library has no pthread_self")]
fn this_thread() -> libc::pthread_t {
    // SAFETY: it has no preconditions.
    unsafe { libc::pthread_self() }
}

#[test]
fn row_084_write_all_writes_everything_through_signals() {
    // A handler that does next to nothing, so that the signal interrupts and does not kill.
    let arrived = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGUSR1, Arc::clone(&arrived)).unwrap();
    let (threads, thread) = channel();
    let (server, reported) = serve(patient(), move |request| {
        let _ = threads.send(this_thread());
        request.write_all(&pattern(SIXTEEN_MIB_AND_ONE))?;
        request.shutdown_write()?;
        // Until here, for the signals that come last.
        request.read_exact(&mut [0])?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    let writer = thread.recv_timeout(SOON).unwrap();
    let (mut received, mut block) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        // The writer is mostly asleep, because nobody reads while the signal is sent.
        signal(writer);
        let count = client.read(&mut block).unwrap();
        if count == 0 {
            break;
        }
        received.extend_from_slice(&block[..count]);
    }
    client.write_all(b".").unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    assert!(arrived.load(Ordering::SeqCst));
    assert!(received == pattern(SIXTEEN_MIB_AND_ONE), "{} bytes", received.len());
    assert!(reported.try_recv().is_err());
}

#[test]
fn row_084_reads_go_on_after_signals() {
    let arrived = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGUSR1, Arc::clone(&arrived)).unwrap();
    let (threads, thread) = channel();
    let (server, reported) = serve(patient(), move |request| {
        let mut line = String::new();
        let _ = threads.send(this_thread());
        request.next_line(&mut line)?;
        writeln!(request, "{line}")?;
        request.next_line(&mut line)?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    let reader = thread.recv_timeout(SOON).unwrap();
    for byte in b"a line byte by byte\n" {
        for _ in 0..10 {
            signal(reader);
        }
        client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(read_line(&mut client), "a line byte by byte\n");
    client.write_all(b"\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    assert!(reported.try_recv().is_err());
}

#[test]
fn row_084_write_all_writes_everything_through_short_writes_and_interruptions() {
    let (count, traffic) = counting();
    let hooks = Count { at_once: 1_000, interrupted: true, ..count };
    let handler = stream_fn(|request| {
        let mut line = String::new();
        assert_eq!(request.next_line(&mut line)?, Some("begin"));
        Ok(request.write_all(&pattern(100_001))?)
    });
    let server = TcpServer::builder().hooks(hooks).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    client.write_all(b"begin\n").unwrap();
    assert!(read_to_end(&mut client) == pattern(100_001));
    assert_eq!(traffic.sends.lock().unwrap().len(), 101);
}

#[test]
fn row_084_after_a_timeout_the_number_of_bytes_sent_is_known() {
    let (tell, told) = channel();
    let (server, _reported) = serve(patient(), move |request| {
        request.set_timeout(Some(Duration::from_millis(100)));
        request.write_all(b"begin")?;
        // More than the buffers of both ends take, to a client that takes nothing.
        let error = request.write_all(&pattern(4 * SIXTEEN_MIB_AND_ONE)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let which = TimedOut::find(&error).map(TimedOut::which);
        let _ = tell.send((which, request.bytes_sent()));
        Ok(())
    });
    let mut client = connect(inet(&*server));
    let (which, sent) = told.recv_timeout(SOON).unwrap();
    assert_eq!(which, Some(Timeout::Write));
    let received = read_to_end(&mut client);
    assert_eq!(received.len() as u64, sent);
    assert!(sent > 5, "{sent}");
    assert!(received[5..] == pattern(received.len() - 5), "what is sent is the beginning");
}

#[test]
fn row_085_the_descriptor_is_the_connections() {
    let (server, _reported) = serve(patient(), |request| {
        let fd = request.fileno().expect("a descriptor");
        let socket = socket2::SockRef::from(&fd);
        let peer = socket.peer_addr()?.as_socket();
        assert_eq!(peer, request.client_address().as_inet());
        let local = socket.local_addr()?.as_socket();
        assert_eq!(local, request.local_address().as_inet());
        // An option that this crate does not know.
        socket.set_keepalive(true)?;
        assert!(socket.keepalive()?);
        Ok(writeln!(request, "{}", peer.unwrap())?)
    });
    let mut client = connect(inet(&*server));
    let me = client.local_addr().unwrap();
    assert_eq!(read_line(&mut client), format!("{me}\n"));
}

/// Holds its output back, and does what it is made with.
struct Buffered<F> {
    wbufsize: usize,
    run: F,
}

impl<F: FnMut(&mut StreamRequest) -> HandlerResult> StreamRequestHandler for Buffered<F> {
    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        (self.run)(request)
    }

    fn wbufsize(&self) -> usize {
        self.wbufsize
    }
}

/// A server whose handler holds up to 64 bytes back, and what it sends.
fn serve_buffered(
    run: impl Fn(&mut StreamRequest, &Traffic) -> HandlerResult + Send + Sync + 'static,
) -> (BackgroundServer<Tcp, Inline>, Arc<Traffic>) {
    let (hooks, traffic) = counting();
    let (run, seen) = (Arc::new(run), Arc::clone(&traffic));
    let make = move || {
        let (run, seen) = (Arc::clone(&run), Arc::clone(&seen));
        Buffered { wbufsize: 64, run: move |request: &mut StreamRequest| run(request, &seen) }
    };
    let server = TcpServer::builder().hooks(hooks).limits(patient()).bind("127.0.0.1:0", make);
    (server.unwrap().serve_in_background().unwrap(), traffic)
}

#[test]
fn row_086_held_back_output_leaves_at_a_flush() {
    let (server, traffic) = serve_buffered(|request, traffic| {
        write!(request, "one ")?;
        write!(request, "two ")?;
        assert!(traffic.sends().is_empty());
        request.flush()?;
        assert_eq!(traffic.sends(), ["one two "]);
        request.flush()?;
        assert_eq!(traffic.sends().len(), 1, "there is nothing more");
        Ok(())
    });
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"one two ");
    assert_eq!(traffic.sends(), ["one two "]);
    assert_eq!(server.context().counts().completed, 1, "what the handler asserts holds");
}

#[test]
fn row_086_held_back_output_leaves_at_the_end() {
    let (server, traffic) = serve_buffered(|request, traffic| {
        write!(request, "one ")?;
        write!(request, "two")?;
        assert!(traffic.sends().is_empty());
        Ok(())
    });
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"one two");
    assert_eq!(traffic.sends(), ["one two"]);
    assert_eq!(server.context().counts().completed, 1, "what the handler asserts holds");
}

#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn row_086_held_back_output_and_the_end_of_the_connection_leave_in_one_packet() {
    let packets = |wbufsize| {
        let run = |request: &mut StreamRequest| Ok(request.write_all(b"one answer")?);
        let make = move || Buffered { wbufsize, run };
        let server = ThreadingTcpServer::bind("127.0.0.1:0", make).unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = connect(inet(&*server));
        assert_eq!(read_to_end(&mut client), b"one answer");
        crate::support::system::packets_received(&client)
    };
    assert_eq!(packets(0), 3, "the connection, the answer, the end");
    assert_eq!(packets(64), 2, "the connection, the answer with the end");
}

#[test]
fn row_086_held_back_output_leaves_whoever_else_has_the_connection() {
    let to_an_outbox = |request: &mut StreamRequest| {
        request.outbox()?.send(b"by the outbox, ")?;
        Ok(request.write_all(b"and held back")?)
    };
    let make = move || Buffered { wbufsize: 64, run: to_an_outbox };
    let server = ThreadingTcpServer::bind("127.0.0.1:0", make).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"by the outbox, and held back");

    let (to, duplicates) = channel();
    let duplicated = move |request: &mut StreamRequest| {
        to.send(request.fileno().expect("a socket").try_clone_to_owned()?)?;
        Ok(request.write_all(b"held back")?)
    };
    let make = move || Buffered { wbufsize: 64, run: duplicated.clone() };
    let server = ThreadingTcpServer::bind("127.0.0.1:0", make).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"held back", "and the end, though there is a duplicate");
    drop(duplicates.recv_timeout(SOON).unwrap());
}

#[test]
fn row_086_held_back_output_of_a_client_that_still_sends_arrives() {
    let run = |request: &mut StreamRequest| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        Ok(request.write_all(b"enough")?)
    };
    let make = move || Buffered { wbufsize: 64, run };
    let server = ThreadingTcpServer::bind("127.0.0.1:0", make).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    // More than the handler reads stands in the socket, so that a plain close would be a reset.
    client.write_all(b"a line\n").unwrap();
    client.write_all(&[b'x'; 100_000]).unwrap();
    assert_eq!(read_to_end(&mut client), b"enough");
}

#[test]
fn row_086_held_back_output_leaves_after_a_failed_handle_as_well() {
    let (server, _traffic) = serve_buffered(|request, _traffic| {
        write!(request, "sorry")?;
        Err("it did not work".into())
    });
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"sorry");
}

#[test]
fn row_086_held_back_output_leaves_before_a_read_that_would_wait() {
    let (server, traffic) = serve_buffered(|request, traffic| {
        let mut line = String::new();
        write!(request, "name? ")?;
        assert!(traffic.sends().is_empty());
        request.next_line(&mut line)?;
        Ok(writeln!(request, "hello, {line}")?)
    });
    let mut client = connect(inet(&*server));
    let mut question = [0; 6];
    client.read_exact(&mut question).expect("the question, before there is an answer");
    client.write_all(b"Ada\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"hello, Ada\n");
    assert_eq!(traffic.sends(), ["name? ", "hello, Ada\n"]);
}

#[test]
fn row_086_input_that_is_there_does_not_make_output_leave() {
    // In the request's own buffer, and in the system's.
    for rbufsize in [8_192, 4] {
        let (hooks, traffic) = counting();
        let make = move || Buffered {
            wbufsize: 64,
            run: move |request: &mut StreamRequest| {
                request.set_rbufsize(rbufsize);
                let mut line = String::new();
                while let Some(text) = request.next_line(&mut line)? {
                    writeln!(request, "<{text}>")?;
                }
                Ok(())
            },
        };
        let server = TcpServer::builder().hooks(hooks).limits(patient()).bind("127.0.0.1:0", make);
        let server = server.unwrap();
        // What comes before the server runs is there when it does.
        let mut client = connect(inet(&server));
        client.write_all(b"one\ntwo\nthree\n").unwrap();
        let _serving = server.serve_in_background().unwrap();
        for expected in ["<one>\n", "<two>\n", "<three>\n"] {
            assert_eq!(read_line(&mut client), expected);
        }
        client.write_all(b"four\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client), b"<four>\n");
        let expected = ["<one>\n<two>\n<three>\n", "<four>\n"];
        assert_eq!(traffic.sends(), expected, "with rbufsize {rbufsize}");
        assert!(traffic.asked.load(Ordering::SeqCst) <= rbufsize);
    }
}

#[test]
fn row_086_more_than_the_buffer_holds_leaves_in_order() {
    let (server, traffic) = serve_buffered(|request, _traffic| {
        for number in 0..10 {
            writeln!(request, "line number {number}")?;
        }
        request.write_all(&[b'-'; 1_000])?;
        Ok(writeln!(request, "the end")?)
    });
    let text = String::from_utf8(read_to_end(&mut connect(inet(&*server)))).unwrap();
    let lines: String = (0..10).map(|number| format!("line number {number}\n")).collect();
    assert_eq!(text, format!("{lines}{}the end\n", "-".repeat(1_000)));
    let sends = traffic.sends();
    assert!(sends.len() < 10, "fewer sends than writes: {sends:?}");
}

/// What ends a request whose handler is `handle`, and whose client says `hello` without a newline, and
/// then waits.
fn ended_by(
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> super::requests::Report {
    let (server, reported) = serve(limits, handle);
    let mut client = connect(inet(&*server));
    client.write_all(b"hello").unwrap();
    let report = reported.recv_timeout(SOON).unwrap();
    // What was sent is not wanted here: only that it ends.
    while client.read(&mut [0; 65_536]).unwrap_or(0) > 0 {}
    assert_eq!(report.fault, Fault::Peer);
    assert!(!report.is_disconnect);
    report
}

const MOMENT: Duration = Duration::from_millis(50);

#[test]
fn row_087_a_handlers_timeout_ends_reads_and_writes_and_reaches_handle_error() {
    struct Impatient {
        writes: bool,
    }

    impl StreamRequestHandler for Impatient {
        fn timeout(&self) -> Option<Duration> {
            Some(MOMENT)
        }

        fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
            if self.writes {
                request.write_all(&pattern(4 * SIXTEEN_MIB_AND_ONE))?;
            } else {
                request.read_exact(&mut [0])?;
            }
            Ok(())
        }
    }

    for (writes, which) in [(false, Timeout::Read), (true, Timeout::Write)] {
        let (reports, reported) = reports();
        let server = TcpServer::builder()
            .hooks(reports)
            .limits(patient())
            .bind("127.0.0.1:0", move || Impatient { writes })
            .unwrap();
        let server = server.serve_in_background().unwrap();
        let _client = connect(inet(&*server));
        let report = reported.recv_timeout(SOON).unwrap();
        assert_eq!(report.timeout, Some((which, MOMENT)));
        assert_eq!((report.phase, report.fault), (Phase::Handle, Fault::Peer));
    }
}

#[test]
fn row_087_a_timeout_says_which_limit_it_was() {
    let read = |request: &mut StreamRequest| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        Ok(())
    };
    let limits = Limits { read: MOMENT, ..patient() };
    assert_eq!(ended_by(limits, read).timeout, Some((Timeout::Read, MOMENT)));

    let limits = Limits { write: MOMENT, ..patient() };
    let write =
        |request: &mut StreamRequest| Ok(request.write_all(&pattern(4 * SIXTEEN_MIB_AND_ONE))?);
    assert_eq!(ended_by(limits, write).timeout, Some((Timeout::Write, MOMENT)));

    let limits = Limits { request: Some(MOMENT), ..patient() };
    assert_eq!(ended_by(limits, read).timeout, Some((Timeout::Request, MOMENT)));
    assert_eq!(ended_by(limits, write).timeout, Some((Timeout::Request, MOMENT)));
}

#[test]
fn row_087_a_handshake_that_stalls_says_so() {
    struct Handshake {
        reports: Reports,
    }

    impl ServerHooks<StreamRequest> for Handshake {
        fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
            request.wrap_stream(|mut stream| {
                stream.read_exact(&mut [0; 16])?;
                Ok(stream)
            })?;
            Ok(())
        }

        fn handle_error(&self, failure: &Failure<'_>) {
            self.reports.send(failure);
        }
    }

    let (reports, reported) = reports();
    let server = TcpServer::builder()
        .hooks(Handshake { reports })
        .limits(Limits { handshake: MOMENT, ..patient() })
        .bind("127.0.0.1:0", stream_fn(|_request| Ok(())))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    let report = reported.recv_timeout(SOON).unwrap();
    assert_eq!(report.timeout, Some((Timeout::Handshake, MOMENT)));
    assert_eq!((report.phase, report.fault), (Phase::Wrap, Fault::Peer));
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn row_087_a_timeout_leaves_the_request_usable() {
    let (server, reported) = serve(patient(), |request| {
        let mut line = String::new();
        request.set_timeout(Some(MOMENT));
        let error = request.next_line(&mut line).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // Python's rfile could never be read again.
        writeln!(request, "hurry")?;
        request.set_timeout(None);
        request.next_line(&mut line)?;
        Ok(writeln!(request, "{line}")?)
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "hurry\n");
    assert_eq!(exchange(&mut client, "here I am"), "here I am\n");
    assert!(reported.try_recv().is_err());
}

#[test]
fn row_087_an_idle_timeout_is_a_quiet_end() {
    let (kinds, kind) = channel();
    let limits = Limits { idle: MOMENT, ..patient() };
    let (server, reported) = serve(limits, move |request| {
        let mut line = String::new();
        loop {
            match request.next_line(&mut line) {
                Ok(Some(text)) => writeln!(request, "{text}")?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let _ = kinds.send(TimedOut::find(&error).map(|t| (t.which(), t.after())));
                    return Err(error.into());
                }
            }
        }
    });
    let mut client = connect(inet(&*server));
    // Between two requests, and of one that never begins.
    assert_eq!(exchange(&mut client, "one"), "one\n");
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(read_to_end(&mut connect(inet(&*server))), b"");
    for _ in 0..2 {
        assert_eq!(kind.recv_timeout(SOON).unwrap(), Some((Timeout::Idle, MOMENT)));
    }
    eventually("both are counted", || server.context().counts().idle == 2);
    assert_eq!(server.context().counts().failed, 0);
    assert!(reported.try_recv().is_err(), "handle_error is not told");
}

#[test]
fn row_087_nothing_is_printed_of_a_peer_that_is_idle_or_gone() {
    if is_child() {
        let limits = Limits { idle: MOMENT, ..patient() };
        let handler = stream_fn(|request| {
            let mut line = String::new();
            writeln!(request, "ready")?;
            while request.next_line(&mut line)?.is_some() {}
            Ok(())
        });
        let server = TcpServer::builder().limits(limits).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        assert_eq!(read_to_end(&mut connect(inet(&*server))), b"ready\n");
        let mut gone = connect(inet(&*server));
        assert_eq!(read_line(&mut gone), "ready\n");
        reset(gone);
        eventually("both are over", || {
            let counts = server.context().counts();
            (counts.idle, counts.disconnected) == (1, 1)
        });
        server.stop().unwrap();
        return;
    }
    let test = "row_087_nothing_is_printed_of_a_peer_that_is_idle_or_gone";
    let (output, writes) = writes_to_stderr(child(module_path!(), test));
    assert!(output.status.success(), "{writes:?}");
    assert_eq!(writes, [""; 0]);
}

/// Tells whether Nagle's algorithm is off, having asked for it to be on or off.
struct Nagle {
    disable: bool,
}

impl StreamRequestHandler for Nagle {
    fn disable_nagle_algorithm(&self) -> bool {
        self.disable
    }

    fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
        // A Unix socket has no such option.
        let off = nodelay(request).map_or("no such thing".to_owned(), |off| off.to_string());
        request.set_nodelay(self.disable)?;
        Ok(writeln!(request, "{off}")?)
    }
}

#[test]
fn row_088_nagles_algorithm_is_the_handlers_choice() {
    for disable in [true, false] {
        let server = TcpServer::bind("127.0.0.1:0", move || Nagle { disable }).unwrap();
        let server = server.serve_in_background().unwrap();
        assert_eq!(read_line(&mut connect(inet(&*server))), format!("{disable}\n"));
    }
}

#[test]
fn row_088_nagles_algorithm_is_ignored_on_unix_sockets() {
    for disable in [true, false] {
        let folder = folder();
        let (reports, reported) = reports();
        let server = UnixStreamServer::builder()
            .hooks(reports)
            .bind(folder.path().join("socket").as_path(), move || Nagle { disable })
            .unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = connect_any(&server.server_address());
        assert_eq!(read_to_end(&mut client), b"no such thing\n");
        assert!(reported.try_recv().is_err());
    }
}

/// A Unix client that takes nothing, of a handler that writes to it all the same; and then the client
/// sees that its connection is really closed.
fn flush_to_nobody(wbufsize: usize) {
    let folder = folder();
    let (reports, reported) = reports();
    let make = move || Buffered {
        wbufsize,
        run: |request: &mut StreamRequest| {
            let mut line = String::new();
            request.next_line(&mut line)?;
            // Unbuffered it fails here, which the handler does not mind.
            let _ = request.write_all(&[b'x'; 1_000]);
            Ok(())
        },
    };
    let server = ThreadingUnixStreamServer::builder()
        .hooks(reports)
        .limits(patient())
        .bind(folder.path().join("socket").as_path(), make)
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let path = server.server_address().as_path().unwrap().to_owned();
    let mut client = std::os::unix::net::UnixStream::connect(path).unwrap();
    client.shutdown(Shutdown::Read).unwrap();
    client.write_all(b"go\n").unwrap();
    eventually("the client is told that nobody listens", || {
        (&client).write(b"?").is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    });
    eventually("the request is forgotten", || server.context().live_count() == 0);
    assert_eq!(server.context().counts().completed, 1, "and was a success");
    assert!(reported.try_recv().is_err());
    assert!(server.stop().unwrap().is_clean());
}

#[test]
fn row_089_an_error_of_the_last_flush_is_ignored_and_the_connection_closed() {
    flush_to_nobody(4_096);
    // As in Python's own test, where nothing is held back.
    flush_to_nobody(0);
}

#[test]
fn row_089_a_peer_that_has_reset_the_connection_is_no_error_of_the_last_flush() {
    let (reports, reported) = reports();
    let make = || Buffered {
        wbufsize: 4_096,
        run: |request: &mut StreamRequest| {
            writeln!(request, "never read")?;
            request.flush()?;
            let error = request.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            writeln!(request, "never sent")?;
            Ok(())
        },
    };
    let server = TcpServer::builder().hooks(reports).bind("127.0.0.1:0", make).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_line(&mut client), "never read\n");
    reset(client);
    eventually("it is over", || server.context().counts().completed == 1);
    assert!(server.stop().unwrap().is_clean());
    assert!(reported.try_recv().is_err());
}

/// Reads lines, and tells the test of each and of what ends them.
fn lines_to(
    rbufsize: usize,
    to: Sender<io::Result<Option<String>>>,
) -> impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static {
    move |request| {
        request.set_rbufsize(rbufsize);
        let mut line = String::new();
        loop {
            let next = request.next_line(&mut line).map(|text| text.map(str::to_owned));
            let over = !matches!(next, Ok(Some(_)));
            let _ = to.send(next);
            if over {
                return Ok(writeln!(request, "over")?);
            }
        }
    }
}

/// A server that reads lines of up to 16 bytes, in pieces of `rbufsize`.
fn line_server(
    rbufsize: usize,
) -> (BackgroundServer<Tcp, Threading>, Receiver<io::Result<Option<String>>>) {
    let (to, lines) = channel();
    let limits = Limits { line_bytes: 16, ..patient() };
    (serve(limits, lines_to(rbufsize, to)).0, lines)
}

#[test]
fn lines_come_without_their_ends_and_the_last_one_needs_none() {
    // Whole, and in pieces that end anywhere, also between the two bytes of an ending.
    for rbufsize in [8_192, 3, 2, 1] {
        let (server, lines) = line_server(rbufsize);
        let mut client = connect(inet(&*server));
        let text = b"unix\ndos\r\n\n\r\na\rb\n\r\r\nsixteen bytes ok\r\nanother sixteen!\nthe last";
        client.write_all(text).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let next = || lines.recv_timeout(SOON).unwrap().unwrap();
        for expected in [
            "unix",
            "dos",
            "",
            "",
            "a\rb",
            "\r",
            "sixteen bytes ok",
            "another sixteen!",
            "the last",
        ] {
            assert_eq!(next().as_deref(), Some(expected), "with rbufsize {rbufsize}");
        }
        assert_eq!(next(), None);
        assert_eq!(read_to_end(&mut client), b"over\n", "the end of input ends no output");
    }
}

#[test]
fn a_line_that_is_too_long_is_an_error_that_knows_the_limit() {
    let too_long = [&b"seventeen bytes !\n"[..], b"no end to seventeen", &[b'x'; 100_000]];
    for (text, rbufsize) in too_long.into_iter().flat_map(|text| [(text, 8_192), (text, 1)]) {
        let (server, lines) = line_server(rbufsize);
        let mut client = connect(inet(&*server));
        client.write_all(text).unwrap();
        let error = lines.recv_timeout(SOON).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(LineTooLong::find(&error).map(LineTooLong::limit_bytes), Some(16));
        assert_eq!(error.to_string(), "the line is longer than 16 bytes");
    }
}

#[test]
fn a_line_that_is_not_utf8_is_invalid_data_and_fine_as_bytes() {
    let (server, lines) = line_server(8_192);
    let mut client = connect(inet(&*server));
    client.write_all(b"caf\xe9\n").unwrap();
    let error = lines.recv_timeout(SOON).unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(LineTooLong::find(&error).is_none());
    let says = error.to_string();
    assert!(says.starts_with("the peer sent what cannot be read: not UTF-8: "), "{says}");

    let (server, _reported) = serve(patient(), |request| {
        let mut line = Vec::new();
        let bytes = request.next_line(&mut line)?.map(<[u8]>::to_vec);
        Ok(writeln!(request, "{bytes:?}")?)
    });
    let mut client = connect(inet(&*server));
    client.write_all(b"caf\xe9\n").unwrap();
    assert_eq!(read_line(&mut client), "Some([99, 97, 102, 233])\n");
}

#[test]
fn the_end_of_input_does_not_end_the_output() {
    let (server, _reported) = serve(patient(), |request| {
        let mut all = Vec::new();
        request.read_to_end(&mut all)?;
        // More than any buffer holds, so that it is sent while the client reads.
        for _ in 0..100 {
            request.write_all(&all)?;
        }
        Ok(())
    });
    let mut client = connect(inet(&*server));
    let upload = pattern(200_000);
    client.write_all(&upload).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let received = read_to_end(&mut client);
    assert_eq!(received.len(), 100 * upload.len());
    assert!(received.chunks(upload.len()).all(|chunk| chunk == upload));
}

#[test]
fn the_end_of_output_does_not_end_the_input() {
    let (tell, told) = channel();
    let (server, _reported) = serve(patient(), move |request| {
        let mut line = String::new();
        writeln!(request, "I have said all")?;
        request.shutdown_write()?;
        request.next_line(&mut line)?;
        let _ = tell.send(line);
        Ok(())
    });
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"I have said all\n");
    client.write_all(b"and I have not\n").unwrap();
    assert_eq!(told.recv_timeout(SOON).unwrap(), "and I have not");
}

#[test]
fn a_drain_ends_the_wait_for_a_next_request_with_an_error_that_says_so() {
    fn check(begin: impl Fn(&mut TcpStream)) {
        let (server, lines) = line_server(8_192);
        let mut client = connect(inet(&*server));
        begin(&mut client);
        eventually("the handler waits for a request", || {
            let live = server.context().live();
            live.iter().any(|request| request.activity == socketserver::Activity::Idle)
        });
        let report = server.server_close_within(SOON);
        assert!(report.is_clean(), "{report}");
        let error = lines.try_iter().last().unwrap().unwrap_err();
        assert!(Stopping::find(&error).is_some(), "{error}");
        // It may still take its leave.
        assert!(read_to_end(&mut client).ends_with(b"over\n"));
    }

    check(|_client| {});
    check(|client| client.write_all(b"one line\n").unwrap());
}

#[test]
fn a_drain_lets_a_request_that_has_begun_come_to_its_end() {
    let (server, lines) = line_server(8_192);
    let mut client = connect(inet(&*server));
    client.write_all(b"half a ").unwrap();
    eventually("the first half has come", || {
        server.context().live().iter().any(|request| request.bytes_in == 7)
    });
    thread::scope(|scope| {
        let closing = scope.spawn(|| server.server_close_within(SOON));
        eventually("the close has begun", || server.context().is_stopping());
        client.write_all(b"line\n").unwrap();
        let line = lines.recv_timeout(SOON).unwrap().unwrap();
        assert_eq!(line.as_deref(), Some("half a line"));
        let error = lines.recv_timeout(SOON).unwrap().unwrap_err();
        assert!(Stopping::find(&error).is_some(), "{error}");
        assert!(closing.join().unwrap().is_clean());
    });
}

#[test]
fn a_byte_now_and_then_does_not_extend_the_time_for_a_line() {
    let limits = Limits { read: 4 * MOMENT, ..patient() };
    let (server, reported) = serve(limits, |request| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    let began = Instant::now();
    let report = loop {
        // It comes twice as fast as would be needed to stay alive, if each byte were given its own time.
        let _ = client.write_all(b"x");
        match reported.recv_timeout(2 * MOMENT) {
            Ok(report) => break report,
            Err(_) => assert!(began.elapsed() < SOON, "it is not cut off"),
        }
    };
    assert_eq!(report.timeout, Some((Timeout::Read, 4 * MOMENT)));
}

#[test]
fn an_exact_read_has_one_deadline_as_a_whole_too() {
    let limits = Limits { read: 4 * MOMENT, ..patient() };
    let (server, reported) = serve(limits, |request| Ok(request.read_exact(&mut [0; 1_000_000])?));
    let mut client = connect(inet(&*server));
    let began = Instant::now();
    let report = loop {
        let _ = client.write_all(b"x");
        match reported.recv_timeout(2 * MOMENT) {
            Ok(report) => break report,
            Err(_) => assert!(began.elapsed() < SOON, "it is not cut off"),
        }
    };
    assert_eq!(report.timeout, Some((Timeout::Read, 4 * MOMENT)));
}

#[test]
fn a_slow_client_of_a_small_reader_is_served_under_every_mixin() {
    fn check<M: Mixin + 'static>(mixin: M) {
        let handler = stream_fn(|request| {
            request.set_rbufsize(1);
            let mut line = String::new();
            while let Some(text) = request.next_line(&mut line)? {
                writeln!(request, "{text}")?;
            }
            Ok(())
        });
        let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = connect(inet(&*server));
        for text in ["one", "two", "three"] {
            assert_eq!(exchange(&mut client, text), format!("{text}\n"));
        }
    }

    check(Inline);
    check(Threading::new());
    check(socketserver::Pool::new(1));
}

#[test]
fn row_090_a_byte_in_half_the_timeout_does_not_extend_the_time_for_a_request() {
    let whole = 8 * MOMENT;
    let limits = Limits { request: Some(whole), ..patient() };
    let (server, reported) = serve(limits, |request| {
        let mut byte = [0];
        loop {
            // Each byte is read in time, answered in time, and the end of something.
            request.read_exact(&mut byte)?;
            request.write_all(&byte)?;
            request.between_requests();
        }
    });
    let mut client = connect(inet(&*server));
    let began = Instant::now();
    let report = loop {
        let _ = client.write_all(b"x");
        match reported.recv_timeout(whole / 2) {
            Ok(report) => break report,
            Err(_) => assert!(began.elapsed() < SOON, "it is not cut off"),
        }
    };
    assert!(began.elapsed() >= whole, "{:?}", began.elapsed());
    assert_eq!(report.timeout, Some((Timeout::Request, whole)));
    assert_eq!(report.fault, Fault::Peer);
}
