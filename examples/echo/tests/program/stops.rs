//! How signals end the program, and what becomes of its clients.

use std::io::Write;
use std::net::TcpStream;

use test_support::process::Process;
use test_support::program::*;
use test_support::{connect, exchange, read_to_end};

use super::{echo, next_news, wait_until_heard};

#[test]
fn a_signal_ends_the_server_although_a_client_is_silent() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for mixin in MIXINS {
            let (server, address) = echo(&["--mixin", mixin]);
            let mut silent = connect(address);
            // The client's handler has begun. From here on the client is silent.
            assert_eq!(exchange(&mut silent, "hello"), "hello\n");
            server.send_signal(signal);
            let ended = server.end();
            assert_ends(&ended, 0);
            assert_eq!(ended.err, "", "nothing had to be forced");
            assert_eq!(read_to_end(&mut silent), b"");
        }
    }
}

/// A chat server with two members: one is in the middle of a line and so never idle, and one waits.
fn server_with_a_member_that_never_ends(options: &[&str]) -> (Process, TcpStream, TcpStream) {
    let (server, address) = echo(&[&["--mode", "chat"], options].concat());
    let mut members = [connect(address), connect(address)];
    wait_until_heard(&mut members, 0, 1);
    let [mut busy, mut waiting] = members;
    // When the line is received, the half line that was sent with it has arrived as well.
    busy.write_all(b"a line\nand half a li").unwrap();
    assert_eq!(next_news(&mut waiting), "a line\n");
    (server, busy, waiting)
}

#[test]
fn a_client_that_never_ends_is_named_and_cut_off_after_the_grace() {
    let (server, mut busy, waiting) = server_with_a_member_that_never_ends(&["--grace", "1"]);
    server.send_signal(libc::SIGTERM);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert!(ended.err.contains("did not end within 1.0 s and w"), "{}", ended.err);
    let name = |client: &TcpStream| format!("{}:", client.local_addr().unwrap());
    assert!(ended.err.contains(&name(&busy)), "{}", ended.err);
    assert!(!ended.err.contains(&name(&waiting)), "{}", ended.err);
    assert_eq!(read_to_end(&mut busy), b"");
}

/// timeout(1) signals its program, and then the group that the program is in.
#[test]
fn an_echo_of_the_first_signal_leaves_the_requests_their_time() {
    // The two signals differ, because the kernel would merge equal ones.
    let (server, mut busy, mut waiting) = server_with_a_member_that_never_ends(&["--grace", "2"]);
    server.send_signal(libc::SIGTERM);
    server.send_signal(libc::SIGINT);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert!(ended.err.contains("did not end within 2.0 s and w"), "{}", ended.err);
    assert_eq!((read_to_end(&mut busy), read_to_end(&mut waiting)), (vec![], vec![]));
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let (server, _busy, mut waiting) =
            server_with_a_member_that_never_ends(&["--grace", "600"]);
        server.send_signal(libc::SIGTERM);
        // The drain has begun.
        assert_eq!(read_to_end(&mut waiting), b"");
        server.insist_by(signal);
        assert_ends(&server.end(), status);
    }
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one_signal() {
    let (server, mut busy, _waiting) = server_with_a_member_that_never_ends(&["--grace", "1"]);
    // `timeout` signals its child and then its group. The signals reach a stopped process when it goes on.
    for signal in [libc::SIGSTOP, libc::SIGTERM, libc::SIGINT, libc::SIGCONT] {
        server.send_signal(signal);
    }
    let ended = server.end();
    assert_ends(&ended, 0);
    assert!(ended.err.contains("did not end within 1.0 s"), "{}", ended.err);
    assert_eq!(read_to_end(&mut busy), b"");
}
