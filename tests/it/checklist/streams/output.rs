//! Rows 83 to 85 and 88: output arrives whole and at once; the descriptor and its options.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::request::{TimedOut, Timeout};
use socketserver::{
    HandlerResult, StreamRequest, StreamRequestHandler, TcpServer, UnixStreamServer, stream_fn,
};

use super::{Count, SIXTEEN_MIB_AND_ONE, counting, patient, pattern, serve};
use crate::reports::reports;
use crate::support::{
    SOON, connect, connect_any, folder, inet, read_line, read_to_end, uninterrupted,
};

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
    // Bytes that arrive before the server runs are received together.
    let mut client = connect(inet(&server));
    client.write_all(b"abcdef\nlast line\n").unwrap();
    let _serving = server.serve_in_background().unwrap();
    assert_eq!(read_line(&mut client), "done\n");
    assert_eq!(traffic.receives.load(Ordering::SeqCst), 1);
}

/// The value of TCP_NODELAY at the server's end of a connection.
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
    // The signal gets a handler that does next to nothing, so that it interrupts calls and does not kill the process.
    let arrived = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGUSR1, Arc::clone(&arrived)).unwrap();
    let (threads, thread) = channel();
    let (server, reported) = serve(patient(), move |request| {
        let _ = threads.send(this_thread());
        request.write_all(&pattern(SIXTEEN_MIB_AND_ONE))?;
        request.shutdown_write()?;
        // The handler stays until here, for the signals that come last.
        request.read_exact(&mut [0])?;
        Ok(())
    });
    let mut client = connect(inet(&*server));
    let writer = thread.recv_timeout(SOON).unwrap();
    let (mut received, mut block) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        // The writer is mostly asleep, because this thread does not read while it sends the signal.
        signal(writer);
        let count = uninterrupted(|| client.read(&mut block)).unwrap();
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
        // This is more than the buffers of both ends take, for a client that takes nothing.
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
        // This crate has no method for this option.
        socket.set_keepalive(true)?;
        assert!(socket.keepalive()?);
        Ok(writeln!(request, "{}", peer.unwrap())?)
    });
    let mut client = connect(inet(&*server));
    let me = client.local_addr().unwrap();
    assert_eq!(read_line(&mut client), format!("{me}\n"));
}

/// Chooses whether Nagle's algorithm is off, and tells its client whether it is.
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
