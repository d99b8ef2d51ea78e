//! Rows 31 and 32: the printed report of a failure, and the arguments of `handle_error`.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use socketserver::hooks::{Failure, Fault, Phase};
use socketserver::request::Timeout;
use socketserver::{
    Address, HandlerResult, Limits, ServerHooks, StreamRequest, TcpServer, ThreadingTcpServer,
    stream_fn,
};

use super::reset;
use crate::child::{child, is_child, writes_to_stderr};
use crate::handlers::Echo;
use crate::reports::{Report, Reports, reports};
use crate::support::{SOON, connect, exchange, inet, read_line, read_to_end};

/// Fails on "fail", answers everything else.
fn fail_or_echo(request: &mut StreamRequest) -> HandlerResult {
    let mut line = String::new();
    match request.next_line(&mut line)? {
        Some("fail") => Err("cannot \x1b[2J do that".into()),
        Some(text) => Ok(writeln!(request, "{text}")?),
        None => Ok(()),
    }
}

#[test]
fn row_031_the_default_report_is_one_block_that_names_the_client() {
    if is_child() {
        let server = ThreadingTcpServer::bind("127.0.0.1:0", stream_fn(fail_or_echo)).unwrap();
        let server = server.serve_in_background().unwrap();
        for _ in 0..2 {
            let mut client = connect(inet(&*server));
            println!("\nclient {}", client.local_addr().unwrap());
            assert_eq!(exchange(&mut client, "fail"), "");
        }
        // Serving continues.
        assert_eq!(exchange(&mut connect(inet(&*server)), "fine"), "fine\n");
        server.stop().unwrap();
        return;
    }
    let test = "row_031_the_default_report_is_one_block_that_names_the_client";
    let (output, writes) = writes_to_stderr(child(module_path!(), test));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}\n{writes:?}");
    let clients: Vec<&str> =
        stdout.lines().filter_map(|line| line.strip_prefix("client ")).collect();
    assert_eq!(clients.len(), 2, "{stdout}");
    assert_eq!(writes.len(), 2, "each report is one write: {writes:?}");
    for (client, report) in clients.into_iter().zip(&writes) {
        let lines: Vec<&str> = report.lines().collect();
        let [rule, headline, cause, end] = lines[..] else { panic!("a block of four: {report}") };
        assert_eq!((rule, end), ("-".repeat(40).as_str(), rule));
        assert!(headline.starts_with(&format!("handle failed for {client} (handler ")));
        assert!(headline.contains("fail_or_echo"), "{headline}");
        assert_eq!(cause, "cannot \\u{1b}[2J do that", "no bytes that steer a terminal");
        assert!(report.ends_with('\n'));
    }
}

/// A handler's own error, with a value that a hook may want.
#[derive(Debug, PartialEq)]
struct OutOfStock {
    article: u32,
}

impl std::fmt::Display for OutOfStock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "article {} is out of stock", self.article)
    }
}

impl std::error::Error for OutOfStock {}

#[test]
fn row_032_handle_error_gets_the_handlers_own_error() {
    struct Stock {
        articles: Sender<(u32, Phase, Fault, bool)>,
    }

    impl<R> ServerHooks<R> for Stock {
        fn handle_error(&self, failure: &Failure<'_>) {
            let error = failure.error().downcast_ref::<OutOfStock>().expect("the very error");
            let about = (failure.phase(), failure.fault(), failure.is_disconnect());
            let _ = self.articles.send((error.article, about.0, about.1, about.2));
        }
    }

    let (articles, ordered) = channel();
    let handler = stream_fn(|_request| Err(OutOfStock { article: 7 }.into()));
    let server =
        TcpServer::builder().hooks(Stock { articles }).bind("127.0.0.1:0", handler).unwrap();
    let server = server.serve_in_background().unwrap();
    let _client = connect(inet(&*server));
    let expected = (7, Phase::Handle, Fault::Handler, false);
    assert_eq!(ordered.recv_timeout(SOON).unwrap(), expected);
}

/// Serves one request with this handler and this client, and returns the report of its failure.
fn reported_of(
    limits: Limits,
    handle: impl Fn(&mut StreamRequest) -> HandlerResult + Send + Sync + 'static,
    client: impl FnOnce(std::net::TcpStream),
) -> Report {
    let (reports, reported) = reports();
    let server = TcpServer::builder()
        .hooks(reports)
        .limits(limits)
        .bind("127.0.0.1:0", stream_fn(handle))
        .unwrap();
    let server = server.serve_in_background().unwrap();
    let stream = connect(inet(&*server));
    let me: Address = stream.local_addr().unwrap().into();
    client(stream);
    let report = reported.recv_timeout(SOON).unwrap();
    assert_eq!(report.client_address, me);
    assert!(report.handler.contains("row_032"), "{}", report.handler);
    report
}

#[test]
fn row_032_handle_error_knows_a_peer_that_went_away() {
    let limits = Limits::default();
    let report = reported_of(
        limits,
        |request| {
            let mut line = String::new();
            writeln!(request, "ready")?;
            while request.next_line(&mut line)?.is_some() {}
            Ok(())
        },
        |mut client| {
            assert_eq!(read_line(&mut client), "ready\n");
            reset(client);
        },
    );
    assert!(report.is_disconnect, "{report:?}");
    assert_eq!((report.phase, report.fault), (Phase::Handle, Fault::Peer));
    assert_eq!(report.errno, Some(libc::ECONNRESET));
}

#[test]
fn row_032_handle_error_knows_whose_fault_a_silence_or_a_line_without_end_is() {
    let limits = Limits::default().line_bytes(16).read(Duration::from_millis(50)).idle(SOON);
    let read_lines = |request: &mut StreamRequest| {
        let mut line = String::new();
        while request.next_line(&mut line)?.is_some() {}
        Ok(())
    };

    let long = reported_of(
        limits,
        move |request| read_lines(request),
        |mut client| {
            client.write_all(&[b'a'; 17]).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "closed");
        },
    );
    assert_eq!((long.fault, long.line_limit), (Fault::Peer, Some(16)));
    assert!(!long.is_disconnect);

    let slow = reported_of(
        limits,
        move |request| read_lines(request),
        |mut client| {
            client.write_all(b"half a").unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "closed");
        },
    );
    assert_eq!((slow.fault, slow.timeout), (Fault::Peer, Some((Timeout::Read, limits.read))));
    assert!(!slow.is_disconnect);
}

#[test]
fn row_032_handle_error_knows_a_panic() {
    let report = reported_of(
        Limits::default(),
        |_request| panic!("at the disco"),
        |mut client| {
            assert_eq!(read_to_end(&mut client), b"");
        },
    );
    assert_eq!(report.panic.as_deref(), Some("at the disco"));
    assert_eq!((report.phase, report.fault), (Phase::Handle, Fault::Handler));
}

#[test]
fn row_032_handle_error_knows_an_error_of_wrap_request() {
    struct NoWrapper {
        reports: Reports,
    }

    impl ServerHooks<StreamRequest> for NoWrapper {
        fn wrap_request(&self, request: &mut StreamRequest) -> HandlerResult {
            request.wrap_stream(|_stream| Err(io::Error::other("no certificate")))?;
            Ok(())
        }

        fn handle_error(&self, failure: &Failure<'_>) {
            self.reports.send(failure);
        }
    }

    let (reports, reported) = reports();
    let server =
        TcpServer::builder().hooks(NoWrapper { reports }).bind("127.0.0.1:0", || Echo).unwrap();
    let server = server.serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    assert_eq!(read_to_end(&mut client), b"");
    let report = reported.recv_timeout(SOON).unwrap();
    assert_eq!((report.phase, report.error.as_str()), (Phase::Wrap, "no certificate"));
}
