//! Every transport under `Forking`, from Rust and by CPython's own clients.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use test_support::passed::Passed;

use test_support::receive;

use crate::support::{SOON, Server, ask_datagram, ask_unix};

tests![
    row_098_echo_tcp_forking,
    row_098_echo_udp_forking,
    row_098_echo_unix_stream_forking,
    row_098_echo_unix_datagram_forking,
    every_limit_may_be_the_largest_and_the_smallest_number_of_children,
    descriptors_that_come_with_a_datagram_reach_neither_parent_nor_child,
    cpython_clients_get_their_echo_from_forking_servers,
];

fn row_098_echo_tcp_forking() {
    let mut server = Server::tcp(&[]);
    for _ in 0..3 {
        assert_eq!(server.connect().ask("echo hello world"), "hello world");
    }
    server.stop();
}

fn row_098_echo_udp_forking() {
    let mut server = Server::start("udp", "127.0.0.1:0", &[]);
    for _ in 0..3 {
        let answer = ask_datagram("udp", &server.address, "".as_ref(), "hello world");
        assert_eq!(answer, "hello world");
    }
    server.stop();
}

fn row_098_echo_unix_stream_forking() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut server = Server::start("unix", path.to_str().unwrap(), &[]);
    for _ in 0..3 {
        assert_eq!(ask_unix(&server.address, "echo hello world"), "hello world");
    }
    server.stop();
}

fn row_098_echo_unix_datagram_forking() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut server = Server::start("unixgram", path.to_str().unwrap(), &[]);
    for _ in 0..3 {
        let own = folder.path().join("c");
        let answer = ask_datagram("unixgram", &server.address, &own, "hello world");
        assert_eq!(answer, "hello world");
    }
    server.stop();
}

fn every_limit_may_be_the_largest_and_the_smallest_number_of_children() {
    for max in ["max=0", "max=1", "max=18446744073709551615"] {
        let mut server = Server::tcp(&["most", max]);
        let mut client = server.connect();
        assert_eq!(client.ask("echo hello world"), "hello world");
        // The child waits for the next line, without a limit.
        assert_eq!(client.ask("echo again"), "again");
        drop(client);
        server.stop();
    }
}

fn descriptors_that_come_with_a_datagram_reach_neither_parent_nor_child() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = Server::start("unixgram", path.to_str().unwrap(), &[]);
    let client = UnixDatagram::bind(folder.path().join("c")).unwrap();
    client.connect(&path).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    // The child of this datagram lives on, and would keep the descriptors open if it had inherited them.
    let passed = Passed::with("stubborn", client.as_fd());
    assert_eq!(receive(&client).len(), 4);
    passed.are_closed();
    assert_eq!(server.children().len(), 1);
}

/// CPython's `dgram_examine` and `stream_examine` send a line and read it back.
fn cpython_clients_get_their_echo_from_forking_servers() {
    const SCRIPT: &str = "
import socket, sys
from test.test_socketserver import SocketServerTest
tests = SocketServerTest('test_TCPServer')
tests.setUp()
kind, address = sys.argv[1:]
family = socket.AF_UNIX if kind.startswith('unix') else socket.AF_INET
examine = tests.stream_examine if kind in ('tcp', 'unix') else tests.dgram_examine
if family == socket.AF_INET:
    host, port = address.rsplit(':', 1)
    address = host, int(port)
for _ in range(3):
    examine(family, address)
tests.tearDown()
";
    let available = Command::new("python3").args(["-c", "import test.test_socketserver"]).status();
    if !available.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("SOCKETSERVER_NO_SKIP").is_none(), "CPython's tests are missing");
        println!("skipped: CPython's own tests are not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for kind in ["tcp", "udp", "unix", "unixgram"] {
        let path = folder.path().join(kind);
        let is_unix = kind.starts_with("unix");
        let address = if is_unix { path.to_str().unwrap() } else { "127.0.0.1:0" };
        let mut server = Server::start(kind, address, &[]);
        let run = Command::new("python3")
            .args(["-c", SCRIPT, kind, &server.address])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{kind}: {}", String::from_utf8_lossy(&run.stderr));
        server.stop();
    }
}
