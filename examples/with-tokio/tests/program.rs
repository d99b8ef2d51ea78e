//! The program as its user has it: both sides answer, and one signal ends both.

use std::io::Read;
use std::net::SocketAddr;

use test_support::process::Process;
use test_support::program::{Program, assert_ends, listening};
use test_support::{connect, read_line};

/// The program, and the addresses of its two sides.
fn start() -> (Process, [SocketAddr; 2]) {
    let program = Program(env!("CARGO_BIN_EXE_with-tokio"));
    let process = Process::start(&mut program.command(&["127.0.0.1:0", "127.0.0.1:0"]));
    let line = listening(&process);
    let (server, tokio) = line.split_once(" and ").expect("two addresses");
    let addresses = [server, tokio].map(|address| address.parse().unwrap());
    (process, addresses)
}

#[test]
fn both_sides_answer_and_one_sigterm_ends_both() {
    let (process, [server, tokio]) = start();
    for _ in 0..2 {
        assert_eq!(read_line(&mut connect(tokio)), "hello from tokio\n");
        assert!(read_line(&mut connect(server)).starts_with("hello from a thread"));
    }
    process.send_signal(libc::SIGTERM);
    let report = process.line();
    // A handler that has answered may still be on its way out.
    let is_whole = ["nothing was open", "ended by itself"].iter().any(|end| report.ends_with(end));
    assert!(is_whole, "{report:?}");
    assert_ends(&process.end(), 0);
}

#[test]
fn a_request_that_waits_for_tokio_is_finished_before_the_end() {
    let (process, [server, _]) = start();
    let mut client = connect(server);
    // The answer to a later client shows that the server has accepted the first one before the signal.
    assert!(!read_line(&mut connect(server)).is_empty());
    process.send_signal(libc::SIGTERM);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("hello from a thread"), "{answer:?}");
    assert_ends(&process.end(), 0);
}
