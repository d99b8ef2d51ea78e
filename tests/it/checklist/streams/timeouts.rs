//! Rows 87 and 90: a limit that passes ends a read, a write or a request, and says which limit it was.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use socketserver::hooks::{Failure, Fault, Phase};
use socketserver::request::{TimedOut, Timeout};
use socketserver::{
    HandlerResult, Limits, ServerHooks, StreamRequest, StreamRequestHandler, TcpServer, stream_fn,
};

use super::super::requests::reset;
use super::{MOMENT, SIXTEEN_MIB_AND_ONE, patient, pattern, serve};
use crate::child::{child, is_child, writes_to_stderr};
use crate::reports::{Report, Reports, reports};
use crate::support::{SOON, connect, eventually, exchange, inet, read_line, read_to_end};

/// The report of a request whose handler is `handle`, and whose client sends `hello` without a newline and then waits.
fn ended_by(
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
) -> Report {
    let (server, reported) = serve(limits, handle);
    let mut client = connect(inet(&*server));
    client.write_all(b"hello").unwrap();
    let report = reported.recv_timeout(SOON).unwrap();
    // Only the end matters here, not the bytes.
    while client.read(&mut [0; 65_536]).unwrap_or(0) > 0 {}
    assert_eq!(report.fault, Fault::Peer);
    assert!(!report.is_disconnect);
    report
}

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
    let limits = patient().read(MOMENT);
    assert_eq!(ended_by(limits, read).timeout, Some((Timeout::Read, MOMENT)));

    let limits = patient().write(MOMENT);
    let write =
        |request: &mut StreamRequest| Ok(request.write_all(&pattern(4 * SIXTEEN_MIB_AND_ONE))?);
    assert_eq!(ended_by(limits, write).timeout, Some((Timeout::Write, MOMENT)));

    let limits = patient().request(MOMENT);
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
        .limits(patient().handshake(MOMENT))
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
        // In Python, rfile could never be read again after a timeout.
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
    let limits = patient().idle(MOMENT);
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
    // A silence between two requests ends quietly, and so does the silence of a client that never begins a request.
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
        let limits = patient().idle(MOMENT);
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

/// Sends a byte now and then until the server has reported what ended the request.
fn trickle(client: &mut TcpStream, each: Duration, reported: &Receiver<Report>) -> Report {
    let began = Instant::now();
    loop {
        let _ = client.write_all(b"x");
        match reported.recv_timeout(each) {
            Ok(report) => return report,
            Err(_) => assert!(began.elapsed() < SOON, "it is not cut off"),
        }
    }
}

#[test]
fn a_byte_now_and_then_does_not_extend_the_time_for_a_line() {
    let limits = patient().read(4 * MOMENT);
    let (server, reported) = serve(limits, |request| {
        let mut line = String::new();
        request.next_line(&mut line)?;
        Ok(())
    });
    // The client sends twice as fast as would be needed to stay alive, if each byte were given its own time.
    let report = trickle(&mut connect(inet(&*server)), 2 * MOMENT, &reported);
    assert_eq!(report.timeout, Some((Timeout::Read, 4 * MOMENT)));
}

#[test]
fn an_exact_read_has_one_deadline_as_a_whole_too() {
    let limits = patient().read(4 * MOMENT);
    let (server, reported) =
        serve(limits, |request| Ok(request.read_exact(&mut vec![0; 1_000_000])?));
    let report = trickle(&mut connect(inet(&*server)), 2 * MOMENT, &reported);
    assert_eq!(report.timeout, Some((Timeout::Read, 4 * MOMENT)));
}

#[test]
fn row_090_a_byte_in_half_the_timeout_does_not_extend_the_time_for_a_request() {
    let whole = 8 * MOMENT;
    let limits = patient().request(whole);
    let (server, reported) = serve(limits, |request| {
        let mut byte = [0];
        loop {
            // Each byte is read and answered in time, and the next one may begin a new request.
            request.read_exact(&mut byte)?;
            request.write_all(&byte)?;
            request.between_requests();
        }
    });
    let mut client = connect(inet(&*server));
    let began = Instant::now();
    let report = trickle(&mut client, whole / 2, &reported);
    assert!(began.elapsed() >= whole, "{:?}", began.elapsed());
    assert_eq!(report.timeout, Some((Timeout::Request, whole)));
    assert_eq!(report.fault, Fault::Peer);
}
