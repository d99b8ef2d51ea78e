//! Numbers that no clock and no memory can hold.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::monitor::ServerEvent;
use socketserver::transport::Tcp;
use socketserver::{Builder, Threading, ThreadingTcpServer, stream_fn};

use super::patient;
use crate::handlers::Echo;
use crate::support::{SOON, connect, exchange, inet, read_to_end};

fn one_line_is_answered(builder: Builder<Tcp, Threading>, line: &str) {
    let server = builder.bind("127.0.0.1:0", || Echo).unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    client.write_all(line.as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"hello\n");
}

#[test]
fn a_line_may_be_as_long_as_a_number_can_say() {
    let limits = patient().line_bytes(usize::MAX);
    one_line_is_answered(ThreadingTcpServer::builder().limits(limits), "hello\r\n");
    one_line_is_answered(ThreadingTcpServer::builder().limits(limits), "hello\n");
}

#[test]
fn a_poll_interval_that_no_clock_can_count_is_one_that_never_comes() {
    let builder = ThreadingTcpServer::builder().limits(patient());
    one_line_is_answered(builder.poll_interval(Duration::MAX), "hello\n");
}

#[test]
fn no_live_requests_at_all_are_taken_for_one() {
    let limits = patient().live(0);
    one_line_is_answered(ThreadingTcpServer::builder().limits(limits), "hello\n");
    let server = ThreadingTcpServer::builder().limits(patient()).bind("127.0.0.1:0", || Echo);
    let server = server.unwrap().serve_in_background().unwrap();
    server.context().set_limits(limits);
    assert_eq!(exchange(&mut connect(inet(&*server)), "hello"), "hello\n");
}

#[test]
fn a_linger_that_no_clock_can_count_still_lets_the_answer_arrive() {
    let (told, ended) = channel();
    let server = ThreadingTcpServer::builder()
        .limits(patient().linger(Duration::MAX))
        .observer(move |event| {
            if let ServerEvent::RequestEnded { .. } = event {
                // The test may be over already.
                let _ = told.send(());
            }
        })
        .bind(
            "127.0.0.1:0",
            stream_fn(|request| {
                request.read_exact(&mut [0])?;
                writeln!(request, "too much")?;
                Ok(())
            }),
        );
    let server = server.unwrap().serve_in_background().unwrap();
    let mut client = connect(inet(&*server));
    client.write_all(&[b'x'; 100_000]).unwrap();
    ended.recv_timeout(SOON).expect("the request ends, and its connection lingers");
    // If the server had closed the connection without lingering, these bytes would cause a reset.
    client.write_all(b"and more").unwrap();
    assert_eq!(read_to_end(&mut client), b"too much\n");
}
