//! Rows 1 to 14: how a server, its socket and its options are made.

mod from_fd;
mod options;
mod steps;
mod unix_paths;

use std::io::{Read, Write};
use std::net::TcpListener;

use socket2::SockRef;
use socketserver::monitor::AcceptOutcome;
use socketserver::{Address, BaseServer};

use crate::support::{read_line, skip};

const LOCAL: &str = "127.0.0.1:0";

/// The address of a server's socket, according to the kernel.
fn getsockname(server: &impl BaseServer) -> Address {
    let fd = server.fileno().expect("an open socket");
    let name = SockRef::from(&*fd).local_addr().unwrap();
    if let Some(inet) = name.as_socket() {
        return Address::Inet(inet);
    }
    match (name.as_pathname(), name.as_abstract_namespace()) {
        (Some(path), _) => Address::Unix(path.to_owned()),
        (None, Some(name)) => Address::Abstract(name.to_owned()),
        (None, None) => Address::Unnamed,
    }
}

fn is_listening(server: &impl BaseServer) -> bool {
    SockRef::from(&*server.fileno().expect("an open socket")).is_listener().unwrap()
}

/// Whether this machine has IPv6; if not, the test is skipped.
fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        skip("there is no IPv6 here");
    }
    has
}

/// Serves one request of a client that sends a line, and returns the answer.
fn serve_one(server: &impl BaseServer, mut client: impl Read + Write) -> String {
    client.write_all(b"hello\n").unwrap();
    assert_eq!(server.handle_request().unwrap(), AcceptOutcome::Handled);
    read_line(&mut client)
}
