//! A stdout and a stderr that nobody reads stop no program.

#![allow(clippy::incompatible_msrv, reason = "tests may need a newer Rust than the library does")]

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::program::{MIXINS, command};
use crate::support::{SOON, eventually, fill, system};

/// A server that is ended with the test, also with one that panics.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Ends by SIGTERM, whoever reads or does not.
    fn stop(mut self, what: &str) {
        system::send_signal(self.0.id(), libc::SIGTERM);
        let began = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < SOON, "{what} does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn full_pipe() -> (io::PipeReader, OwnedFd, usize) {
    let (reader, writer) = io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let filled = fill(&writer);
    (reader, writer, filled)
}

/// A program at an abstract address, because where it listens cannot be read.
fn serve_unread(
    name: &str,
    mixin: &str,
    options: &[&str],
) -> (Server, String, [(io::PipeReader, usize); 2]) {
    let at = format!("socketserver-unread-{}-{name}-{mixin}", std::process::id());
    let (out, err) = (full_pipe(), full_pipe());
    let child = command(name, &["serve", "--bind", &format!("unix:@{at}"), "--mixin", mixin])
        .args(options)
        .stdout(Stdio::from(out.1))
        .stderr(Stdio::from(err.1))
        .spawn()
        .unwrap();
    (Server(child), at, [(out.0, out.2), (err.0, err.2)])
}

fn connect(at: &str) -> UnixStream {
    let address = SocketAddr::from_abstract_name(at).unwrap();
    eventually("it listens", || UnixStream::connect_addr(&address).is_ok());
    let stream = UnixStream::connect_addr(&address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

/// What is read behind the bytes that were there at first.
fn rest((mut reader, filled): (io::PipeReader, usize)) -> String {
    io::copy(&mut (&mut reader).take(filled as u64), &mut io::sink()).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_log_that_cannot_be_written_is_said_once_on_stderr() {
    let at = format!("socketserver-full-{}", std::process::id());
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let child = command("web", &["serve", "--bind", &format!("unix:@{at}"), "--log"])
        .stdout(Stdio::from(full))
        .stderr(Stdio::from(writer))
        .spawn()
        .unwrap();
    let server = Server(child);
    for _ in 0..20 {
        let mut client = connect(&at);
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
    }
    server.stop("web");
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("cannot write")).collect();
    let [line] = lines[..] else { panic!("{said}") };
    assert!(line.starts_with("cannot write to stdout: No space left"), "{said}");
    assert!(line.ends_with("; lines are lost"), "{said}");
}

#[test]
fn echo_serves_and_ends_under_every_mixin_when_nobody_reads() {
    for mixin in MIXINS {
        let (server, at, [_out, err]) = serve_unread("echo", mixin, &["--mode", "line"]);
        for _ in 0..20 {
            let mut client = connect(&at);
            // What is too long is a failure, which is reported. The server may end the connection before all is sent.
            let _ = client.write_all(&vec![b'x'; 70_000]);
            let _ = client.read_to_end(&mut Vec::new());
        }
        let mut client = connect(&at);
        client.write_all(b"hello\n").unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello\n", "{mixin}");
        server.stop(mixin);
        assert_eq!(rest(err), "", "{mixin}: all of it was lost, and nobody was there to be told");
    }
}
