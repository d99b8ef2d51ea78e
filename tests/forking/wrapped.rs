//! A connection that is wrapped in a child is bounded and ended as elsewhere.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use socketserver::request::Stream;
use socketserver::{HandlerResult, StreamRequest};

use crate::support::{Server, eventually};

/// A wrapper that turns every letter into a capital, and ends with a goodbye.
struct Loud(Box<dyn Stream>);

impl Read for Loud {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Loud {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(&buf.to_ascii_uppercase())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Loud {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.0.set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.0.write_all(b"GOODBYE\n")?;
        self.0.shutdown(how)
    }
}

/// Handles `wrap`.
pub fn wrap(request: &mut StreamRequest) -> HandlerResult {
    request.wrap_stream(|inner| Ok(Box::new(Loud(inner))))?;
    Ok(writeln!(request, "wrapped")?)
}

tests![a_drain_ends_a_wrapped_wait_in_a_child_in_order, a_wrapped_answer_lingers_in_a_child,];

fn a_drain_ends_a_wrapped_wait_in_a_child_in_order() {
    let mut server = Server::tcp(&[]);
    let mut client = server.connect();
    assert_eq!(client.ask("wrap"), "WRAPPED");
    assert_eq!(client.ask("echo hi"), "HI");
    server.stop();
    assert_eq!((client.receive(), client.receive()), ("GOODBYE".into(), String::new()));
}

fn a_wrapped_answer_lingers_in_a_child() {
    let server = Server::tcp(&[]);
    for _ in 0..5 {
        let mut client = server.connect();
        assert_eq!(client.ask("wrap"), "WRAPPED");
        // The line is sent in one piece with bytes that are never read.
        client.send_bytes(&[&b"refuse\n"[..], &[b'x'; 30_000]].concat());
        assert_eq!(
            (client.receive(), client.receive()),
            ("NO, THANK YOU".into(), "GOODBYE".into())
        );
        assert_eq!(client.receive_end(), 0);
    }
    eventually("its children have ended", || server.children().is_empty());
}
