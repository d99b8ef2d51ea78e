//! A log that cannot be written: it is said, and the server goes on.

#![allow(clippy::incompatible_msrv, reason = "tests may need a newer Rust than the library does")]

use std::io::{self, Read, Write};
use std::process::Stdio;

use test_support::unread::{Server, connect};

use crate::WEB;

#[test]
fn a_log_that_cannot_be_written_is_said_once_on_stderr() {
    let at = format!("socketserver-full-{}", std::process::id());
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let child = WEB
        .command(&["serve", "--bind", &format!("unix:@{at}"), "--log"])
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
