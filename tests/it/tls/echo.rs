//! A handler over TLS reads and writes as without it, and learns what was agreed on.

use std::io::{Read, Write};
use std::sync::mpsc::channel;

use socketserver::tls::rustls::version;
use socketserver::tls::{Tls, TlsInfo};
use socketserver::{PoolTcpServer, StreamRequest, TcpServer, ThreadingTcpServer, stream_fn};

use super::client::{Client, VERSIONS, localhost, pem};
use crate::handlers::Echo;
use crate::support::{exchange, inet, read_to_end};

#[test]
fn lines_and_large_answers_come_whole_in_both_versions() {
    let server = ThreadingTcpServer::builder()
        .tls(localhost())
        .bind("127.0.0.1:0", stream_fn(echo_sizes))
        .unwrap()
        .serve_in_background()
        .unwrap();
    for version in VERSIONS {
        let mut client = Client::speaking(&[version]).connect(inet(&*server));
        for size in [0, 1, 100, 16_384, 16_385, 70_000, 1_000_000] {
            let sent: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
            client.write_all(format!("{size}\n").as_bytes()).unwrap();
            client.write_all(&sent).unwrap();
            let mut received = vec![0; sent.len()];
            client.read_exact(&mut received).unwrap();
            assert!(received == sent, "{size} bytes by {version:?}");
        }
        client.end_output();
        assert!(read_to_end(&mut client).is_empty(), "the server says that it ends");
    }
}

/// Each line says how many bytes follow it; they are sent back.
fn echo_sizes(request: &mut StreamRequest) -> socketserver::HandlerResult {
    let mut line = String::new();
    while let Some(size) = request.next_line(&mut line)? {
        let mut bytes = vec![0; size.parse()?];
        request.read_exact(&mut bytes)?;
        request.write_all(&bytes)?;
    }
    Ok(())
}

#[test]
fn the_handler_learns_what_was_agreed_on() {
    let (tell, told) = channel();
    let tls = localhost()
        .request_client_certificates(pem("ca.pem"))
        .unwrap()
        .alpn(["second/1", "first/1"]);
    let server = PoolTcpServer::builder()
        .tls(tls)
        .bind(
            "127.0.0.1:0",
            stream_fn(move |request| {
                tell.send(request.tls().cloned())?;
                request.write_all(b"hello\n")?;
                Ok(())
            }),
        )
        .unwrap()
        .serve_in_background()
        .unwrap();
    let ask = |client: Client| -> TlsInfo {
        let mut client = client.connect(inet(&*server));
        assert_eq!(read_to_end(&mut client), b"hello\n");
        told.recv().unwrap().expect("it is TLS")
    };
    let known = ask(Client::showing("client", &[&version::TLS13]).alpn(&["first/1", "third"]));
    assert_eq!(known.version(), version::TLS13.version);
    assert_eq!(known.alpn(), Some(&b"first/1"[..]));
    assert_eq!(known.server_name(), Some("localhost"));
    assert_eq!(known.peer_certificates().len(), 1);
    assert!(!known.is_resumed());
    let text = known.to_string();
    assert!(text.starts_with("TLSv1_3, TLS13_"), "{text}");
    assert!(text.ends_with("localhost, first/1, 1 certificate"), "{text}");
    let unknown = ask(Client::speaking(&[&version::TLS12]));
    assert_eq!(unknown.version(), version::TLS12.version);
    assert_eq!((unknown.alpn(), unknown.peer_certificates().len()), (None, 0));
}

#[test]
fn a_connection_in_the_clear_has_no_tls_and_a_server_takes_a_configuration_of_rustls() {
    let config = localhost().config();
    let server = TcpServer::builder()
        .tls(Tls::from(config))
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    let mut client = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut client, "hello"), "hello\n");
    drop(client);
    let clear = stream_fn(|request| Ok(writeln!(request, "{}", request.tls().is_none())?));
    let server = TcpServer::bind("127.0.0.1:0", clear).unwrap().serve_in_background().unwrap();
    assert_eq!(read_to_end(&mut crate::support::connect(inet(&*server))), b"true\n");
}
