//! A server whose stdout and stderr have no reader goes on serving.

#![allow(clippy::incompatible_msrv, reason = "tests may need a newer Rust than the library does")]

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use test_support::fill;
use test_support::program::MIXINS;
use test_support::unread::{Server, connect};

use crate::ECHO;

fn full_pipe() -> (io::PipeReader, OwnedFd, usize) {
    let (reader, writer) = io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let filled = fill(&writer);
    (reader, writer, filled)
}

/// Starts a server at an abstract address that is chosen here, because nobody can read the address on the server's stdout.
fn serve_unread(mixin: &str, options: &[&str]) -> (Server, String, [(io::PipeReader, usize); 2]) {
    let at = format!("socketserver-unread-{}-{mixin}", std::process::id());
    let (out, err) = (full_pipe(), full_pipe());
    let child = ECHO
        .command(&["serve", "--bind", &format!("unix:@{at}"), "--mixin", mixin])
        .args(options)
        .stdout(Stdio::from(out.1))
        .stderr(Stdio::from(err.1))
        .spawn()
        .unwrap();
    (Server(child), at, [(out.0, out.2), (err.0, err.2)])
}

/// Reads the bytes after those that filled the pipe.
fn rest((mut reader, filled): (io::PipeReader, usize)) -> String {
    io::copy(&mut (&mut reader).take(filled as u64), &mut io::sink()).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn echo_serves_and_ends_under_every_mixin_when_nobody_reads() {
    for mixin in MIXINS {
        let (server, at, [_out, err]) = serve_unread(mixin, &["--mode", "line"]);
        for _ in 0..20 {
            let mut client = connect(&at);
            // Too long a line is a failure, which is reported. The server may end the connection before all is sent.
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
