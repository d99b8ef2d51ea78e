//! Rows 86 and 89: output that a handler holds back, and the last flush.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use socketserver::mixin::Mixin;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, HandlerResult, StreamRequest, StreamRequestHandler, TcpServer,
    ThreadingTcpServer, ThreadingUnixStreamServer,
};

use super::super::requests::reset;
use super::{Traffic, counting, patient};
use crate::reports::reports;
use crate::support::{SOON, connect, eventually, folder, inet, read_line, read_to_end};

/// Holds its output back, and runs a function.
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

/// A server whose handler holds up to 64 bytes back, and its traffic.
fn serve_buffered(
    run: impl Fn(&mut StreamRequest, &Traffic) -> HandlerResult + Send + Sync + 'static,
) -> (BackgroundServer<Tcp, impl Mixin>, Arc<Traffic>) {
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
    // The input is in the request's own buffer, or in the system's.
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
        // These bytes arrive before the server runs.
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

/// A handler writes to a Unix client that takes nothing; then the client sees that its connection is really closed.
fn flush_to_nobody(wbufsize: usize) {
    let folder = folder();
    let (reports, reported) = reports();
    let make = move || Buffered {
        wbufsize,
        run: |request: &mut StreamRequest| {
            let mut line = String::new();
            request.next_line(&mut line)?;
            // An unbuffered write fails here, which the handler ignores.
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
