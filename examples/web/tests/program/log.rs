//! The log: one line for each request, whether somebody reads the log or not.

#![allow(clippy::incompatible_msrv, reason = "tests may need a newer Rust than the library does")]

use std::io::{self, Read, Write};
use std::process::Stdio;

use test_support::unread::{self, Server};

use super::*;

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
        let mut client = unread::connect(&at);
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
fn the_log_is_one_line_for_each_request_whatever_is_in_it() {
    let (server, address) = web(&["--log"]);
    get(address, "/a\\b\u{9b}31m\"", "");
    let line = server.line();
    assert!(line.ends_with(r#" GMT] "GET /a\\b\xc2\x9b31m\" HTTP/1.1" 200 12"#), "{line}");
    assert!(line.starts_with("127.0.0.1:"), "{line}");
    // Input that is no request is logged too, but not all of it.
    let evil = format!("GET /\x1b[31m\0\r{} HTTP/1.1\r\nHost: here\r\n\r\n", "a".repeat(1_000));
    assert_refused(address, evil, 400);
    let line = server.line();
    assert!(line.contains(r#" "GET /\x1b[31m\x00\x0daaa"#) && line.len() < 400, "{line}");
    assert!(line.contains("aaa\" 400 "), "{line}");
}

#[test]
fn an_answer_that_is_broken_off_is_in_the_log() {
    const SIZE: u64 = 64 * 1024 * 1024;
    let folder = test_support::folder();
    std::fs::File::create(folder.path().join("large")).unwrap().set_len(SIZE).unwrap();
    let (server, address) = web(&["--log", "--dir", folder.path().to_str().unwrap()]);
    let mut client = Client::new(address);
    client.send("GET /large HTTP/1.1\r\nHost: here\r\n\r\n");
    assert_eq!(client.head().status, 200);
    // Unread bytes turn the close into a reset.
    drop(client);
    let line = server.line();
    let sent = line.rsplit(' ').next().unwrap();
    assert!(line.contains("\"GET /large HTTP/1.1\" 200 "), "{line}");
    assert!(sent.parse::<u64>().unwrap() < SIZE, "{line}");
}

#[test]
fn a_log_that_nobody_reads_keeps_nobody_waiting() {
    for mixin in ["inline", "threading", "forking"] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = WEB.command(&["serve", "--bind", "127.0.0.1:0"]);
        command.args(["--log", "--mixin", mixin]).stdout(writer);
        let server = Process::start(&mut command);
        drop(command);
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        // The lines of these requests are several times as much as a pipe and the queue hold.
        let target = "/".repeat(3_000);
        let mut client = Client::new(address);
        for _ in 0..1_000 {
            assert_eq!(client.get(&target, "").status, 200, "{mixin}");
        }
        // The reader is back, and learns how many lines it has missed.
        drop(client);
        let mut told = String::new();
        // The notice comes after the lines that were not lost, which are fewer than a thousand. Each request adds a line,
        // so that no read waits.
        for _ in 0..1_000 {
            get(address, "/", "");
            told.clear();
            reader.read_line(&mut told).unwrap();
            if told.contains(" lost") {
                break;
            }
        }
        assert!(told.contains(" lost"), "{mixin}: nothing is said of what was lost");
        server.send_signal(libc::SIGTERM);
        drop(reader);
        assert_ends(&server.end(), 0);
    }
}

#[test]
fn a_server_whose_words_reach_nobody_serves() {
    let mut command = std::process::Command::new("sh");
    let script = "exec \"$0\" serve --bind 0.0.0.0:0 --log 2>/dev/full";
    command.args(["-c", script]).arg(WEB.path()).stdout(std::process::Stdio::piped());
    let server = Process::start(&mut command);
    let address: SocketAddr = listening(&server).parse().unwrap();
    assert_eq!(get(([127, 0, 0, 1], address.port()).into(), "/", "").status, 200);
    server.send_signal(libc::SIGTERM);
    assert_ends(&server.end(), 0);
}
