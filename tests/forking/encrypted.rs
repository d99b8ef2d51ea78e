//! TLS under `Forking`: a handshake in each child, tickets that every child can read, and new files by the parent.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use socketserver::tls::rustls::HandshakeKind;
use test_support::{exchange, read_to_end};

use crate::support::{SOON, Server};
use client::{Client, VERSIONS, pem};

#[path = "../it/tls/client.rs"]
mod client;

tests![
    tls_children_speak_and_resume_each_others_sessions,
    tls_files_are_read_by_the_parent_and_later_children_have_them,
    tls_silence_is_one_childs_concern,
];

fn files(name: &str, folder: &Path) {
    for ending in ["pem", "key"] {
        fs::copy(pem(&format!("{name}.{ending}")), folder.join(format!("own.{ending}"))).unwrap();
    }
}

fn start(folder: &Path, more: &[&str]) -> (Server, SocketAddr) {
    files("server", folder);
    let option = format!("files={}", folder.display());
    let options: Vec<&str> = more.iter().copied().chain([&*option]).collect();
    let server = Server::start("tcp-tls", "127.0.0.1:0", &options);
    let address = server.address.parse().unwrap();
    (server, address)
}

fn tls_children_speak_and_resume_each_others_sessions() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &[]);
    for version in VERSIONS {
        let client = Client::speaking(&[version]);
        for round in 0..3 {
            let mut connection = client.connect(address);
            assert_eq!(exchange(&mut connection, "echo hello"), "hello\n");
            let is_resumed =
                connection.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(is_resumed, round > 0, "{version:?}");
            connection.end_output();
            assert!(read_to_end(&mut connection).is_empty(), "the child says that it ends");
        }
    }
    server.stop();
}

fn tls_files_are_read_by_the_parent_and_later_children_have_them() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &[]);
    let accepts = |name| Client::new().asking_for(name).connect(address).handshake().is_ok();
    let mut old = Client::new().connect(address);
    assert_eq!(exchange(&mut old, "echo hello"), "hello\n");
    assert!(accepts("localhost") && !accepts("other.example"));
    files("other", folder.path());
    server.signal(libc::SIGHUP);
    let began = Instant::now();
    while !accepts("other.example") {
        assert!(began.elapsed() < SOON, "it never reads them");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!accepts("localhost"));
    assert_eq!(exchange(&mut old, "echo as before"), "as before\n");
    old.end_output();
    server.stop();
}

fn tls_silence_is_one_childs_concern() {
    let folder = test_support::folder();
    let (mut server, address) = start(folder.path(), &["events"]);
    let silent = test_support::connect(address);
    let mut client = Client::new().connect(address);
    assert_eq!(exchange(&mut client, "echo hello"), "hello\n");
    client.end_output();
    drop(silent);
    server.stop();
}
