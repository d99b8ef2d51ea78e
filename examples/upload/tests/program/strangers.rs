//! Silent clients, and a log without a reader: neither keeps other clients out.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use super::*;
use test_support::folder;

/// Whether the server has ended a connection without sending anything, or does so soon.
fn is_ended(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn silent_connections_of_one_address_keep_nobody_else_out() {
    for mixin in ["threading", "forking"] {
        let folder = folder();
        let options = ["--max-clients", "20", "--max-per-peer", "10", "--mixin", mixin];
        let (_server, address) = serve_in(folder.path(), &options);
        let mut silent: Vec<_> = (0..30).map(|_| connect(address.parse().unwrap())).collect();
        // Twenty are turned away, and the others are left to say nothing.
        let turned_away = silent.iter_mut().rev().take(20).all(is_ended);
        assert!(turned_away, "{mixin}: they have more places than they may");
        fs::write(folder.path().join("file"), "file").unwrap();
        let ended = send(folder.path(), &address, &["file"]);
        assert_fails_in_one_line(&ended, 1, &["closed the connection at once", "too many clients"]);
        let mut other = Peer { stream: connect_from([127, 0, 0, 2], address.parse().unwrap()) };
        other.say(&Message::Hello { version: VERSION });
        assert_eq!(other.hear(), Some(Message::Hello { version: VERSION }), "{mixin}");
        assert_eq!(other.store("a", b"a"), "a");
    }
}

#[test]
fn a_client_has_so_long_for_its_first_word_and_then_more() {
    let folder = folder();
    let (server, address) = serve_in(folder.path(), &["--first-word", "0.5"]);
    let mut greeted = Peer::connect(&address);
    let mut silent = connect(address.parse().unwrap());
    let mut slow = connect(address.parse().unwrap());
    slow.write_all(b"H\0\0\0").unwrap();
    let mut in_a_header = connect(address.parse().unwrap());
    in_a_header.write_all(b"post|a").unwrap();
    for stream in [&mut silent, &mut slow, &mut in_a_header] {
        assert!(is_ended(stream), "it is waited for");
    }
    // The client that has greeted has been silent for as long, and is served.
    assert_eq!(greeted.store("a", b"a"), "a");
    server.send_signal(libc::SIGTERM);
    assert_eq!(server.end().err, "", "it is no failure of the server");
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    for mixin in MIXINS {
        let folder = folder();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = UPLOAD.command(&["serve", "--bind", "127.0.0.1:0"]);
        command.args(["--mixin", mixin, "--dir"]).arg(folder.path().join("model"));
        let server = Process::start(command.stdout(writer));
        drop(command);
        let mut first = String::new();
        let mut reader = BufReader::with_capacity(1, reader);
        reader.read_line(&mut first).unwrap();
        let address = first.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        // Each refusal is logged with its path, and together they are more than any pipe holds.
        let mut peer = Peer::connect(&address);
        peer.stream.set_nodelay(true).unwrap();
        let long: Vec<&[u8]> = [&[b'n'; 250][..]; 31].into_iter().chain([&b".."[..]]).collect();
        for _ in 0..300 {
            peer.put(&long, b"", false);
            peer.expect_refusal(Code::Name);
            peer.say(&Message::Abort);
        }
        drop(peer);
        assert_eq!(Peer::connect(&address).store("a", b"a"), "a", "{mixin}");
        server.send_signal(libc::SIGTERM);
        assert_ends(&server.end(), 0);
        drop(reader);
    }
}
