//! A stream below TLS that passes EINTR on, as those of std do.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use socketserver::request::Stream;
use socketserver::{ThreadingTcpServer, stream_fn};

use super::client::{Client, VERSIONS, localhost};
use crate::support::{inet, read_to_end};

/// Every second call fails as if a signal had interrupted it.
struct Interrupted {
    below: Box<dyn Stream>,
    now: bool,
}

impl Interrupted {
    fn interrupts(&mut self) -> io::Result<()> {
        self.now = !self.now;
        if self.now { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

impl Read for Interrupted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupts()?;
        self.below.read(buf)
    }
}

impl Write for Interrupted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.interrupts()?;
        self.below.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.below.flush()
    }
}

impl Stream for Interrupted {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.below.set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        self.below.shutdown(how)
    }
}

#[test]
fn signals_fail_no_handshake_and_repeat_no_bytes() {
    for version in VERSIONS {
        let tls = localhost();
        let handler = stream_fn(move |request| {
            request.wrap_stream(|below| Ok(Box::new(Interrupted { below, now: false })))?;
            request.start_tls(&tls)?;
            let mut line = String::new();
            while let Some(text) = request.next_line(&mut line)? {
                writeln!(request, "got {text}")?;
            }
            Ok(())
        });
        let server = ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap();
        let server = server.serve_in_background().unwrap();
        let mut client = Client::speaking(&[version]).connect(inet(&*server));
        client.write_all(b"one\ntwo\nthree\n").unwrap();
        client.end_output();
        assert_eq!(read_to_end(&mut client), b"got one\ngot two\ngot three\n");
    }
}
