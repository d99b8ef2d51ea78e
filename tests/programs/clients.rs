//! What all clients that show something have in common: what becomes of them when nobody reads it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use crate::program::*;
use crate::support::process::{Ended, Process};

/// Clients that are sent something as soon as they have connected or asked, and the servers that they talk to.
fn clients() -> Vec<(&'static str, Process, String)> {
    ["tcp", "udp"]
        .into_iter()
        .flat_map(|kind| [("echo", kind), ("time", kind), ("chat", kind)])
        .filter(|client| *client != ("chat", "udp"))
        .map(|(name, kind)| {
            let (server, listening) = serve(name, &[&format!("{kind}:127.0.0.1:0")], &[]);
            (name, server, listening[0].clone())
        })
        .collect()
}

/// Runs a client with this as its stdout, and one line of input.
fn shows_on(name: &str, address: &str, stdout: Stdio) -> Ended {
    // There before it starts: it may end before it reads all of it.
    let (input, mut typed) = UnixStream::pair().unwrap();
    typed.write_all(b"hello\n").unwrap();
    drop(typed);
    Process::start(command(name, &["connect", address]).stdin(OwnedFd::from(input)).stdout(stdout))
        .end()
}

#[test]
fn a_client_whose_reader_has_had_enough_ends_without_a_word() {
    for (name, _server, address) in clients() {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let ended = shows_on(name, &address, OwnedFd::from(writer).into());
        // As a program that SIGPIPE ends: nothing is wrong with the server or the connection.
        assert_ends(&ended, 141);
        assert_eq!(ended.err, "", "{name} {address}");
    }
}

#[test]
fn a_client_that_cannot_write_says_so_and_does_not_blame_the_connection() {
    for (name, _server, address) in clients() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ended = shows_on(name, &address, full.into());
        assert_fails_in_one_line(&ended, 1, &["cannot write to stdout: No space left on device"]);
    }
}

#[test]
fn a_connection_that_breaks_is_told_with_its_server() {
    for name in ["echo", "time", "chat"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let mut client = command(name, &["connect", &address.to_string()]);
        let client = Process::start(client.stdin(Stdio::piped()));
        let (mut stream, _) = listener.accept().unwrap();
        // Not before the client has its connection: it speaks, or takes more than the kernel's buffers hold.
        if name == "time" {
            stream.write_all(&vec![b'.'; 32 << 20]).unwrap();
        } else {
            client.ask("hello");
            stream.read_exact(&mut [0]).unwrap();
        }
        // A reset in the place of an end.
        let socket = socket2::Socket::from(stream);
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(socket);
        let ended = client.end();
        let told = format!("the connection to {address} broke: ");
        assert_fails_in_one_line(&ended, 1, &[&told]);
    }
}
