//! Lines and ends of input: their limits, and their behaviour in a drain.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use socketserver::mixin::Mixin;
use socketserver::request::{LineTooLong, Stopping};
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, HandlerResult, Inline, StreamRequest, TcpServer, Threading, stream_fn,
};

use super::{patient, pattern, serve};
use crate::support::{
    SOON, StopOnPanic, connect, eventually, exchange, inet, read_line, read_to_end,
};

/// Reads lines, and sends each of them and the end to the test.
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
    let limits = patient().line_bytes(16);
    (serve(limits, lines_to(rbufsize, to)).0, lines)
}

#[test]
fn lines_come_without_their_ends_and_the_last_one_needs_none() {
    // The lines come whole, and in pieces that end anywhere, also between the two bytes of an ending.
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
            live.iter().any(|request| request.activity == socketserver::monitor::Activity::Idle)
        });
        let report = server.server_close_within(SOON);
        assert!(report.is_clean(), "{report}");
        let error = lines.try_iter().last().unwrap().unwrap_err();
        assert!(Stopping::find(&error).is_some(), "{error}");
        // The handler may still send a last word.
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
        let _stop = StopOnPanic(&*server);
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
