//! Clients that fail in the handshake or after it: the fault is the client's own, an alert says so where one can be sent,
//! and nobody is delayed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::hooks::Failure;
use socketserver::monitor::{CloseReason, ServerEvent};
use socketserver::tls::Tls;
use socketserver::tls::rustls::version;
use socketserver::transport::Tcp;
use socketserver::{
    BackgroundServer, Limits, ServerHooks, StreamRequest, Threading, ThreadingTcpServer,
};

use super::client::{Client, localhost, pem};
use crate::handlers::Echo;
use crate::support::{SOON, connect, exchange, inet};

/// How a request has ended: its reason, and the cause if its handshake has failed, or the report if one would be printed.
type End = (CloseReason, Option<String>);

/// The cause of the failure of the request that ends next: requests come one at a time.
#[derive(Clone, Default)]
struct Cause(Arc<Mutex<Option<String>>>);

impl ServerHooks<StreamRequest> for Cause {
    fn handle_error(&self, failure: &Failure<'_>) {
        if !failure.is_quiet() {
            *self.0.lock().unwrap() = Some(format!("printed: {failure}"));
        }
    }
}

fn server(tls: Tls, limits: Limits) -> (BackgroundServer<Tcp, Threading>, Receiver<End>) {
    let (tell, ends) = channel();
    let cause = Cause::default();
    let hooks = cause.clone();
    let server = ThreadingTcpServer::builder()
        .tls(tls)
        .limits(limits)
        .hooks(hooks)
        .observer(move |event| match event {
            ServerEvent::HandshakeFailed { error, .. } => {
                *cause.0.lock().unwrap() = Some(error.to_string());
            }
            ServerEvent::RequestEnded { reason, .. } => {
                let _ = tell.send((*reason, cause.0.lock().unwrap().take()));
            }
            _ => {}
        })
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap();
    (server, ends)
}

/// The end of a request.
fn end(ends: &Receiver<End>) -> End {
    ends.recv_timeout(SOON).expect("the request ends")
}

/// The description of the alert that comes, if one comes.
fn alert(stream: &mut TcpStream) -> Option<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    // Content type 21; version; length 2; level; description.
    bytes.windows(7).find(|part| part[0] == 21 && part[3..5] == [0, 2]).map(|part| part[6])
}

const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
const UNEXPECTED_MESSAGE: u8 = 10;
const HANDSHAKE_FAILURE: u8 = 40;

/// A hello of a TLS version that nobody should speak any more, with one cipher suite.
fn old_hello(version: u8, suite: [u8; 2]) -> Vec<u8> {
    let mut hello = vec![3, version];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2]);
    hello.extend(suite);
    hello.extend([1, 0]);
    // Signature algorithms and groups that everybody knows, so that they are not the cause.
    hello.extend([0, 16, 0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23]);
    let mut message = vec![1, 0, 0, hello.len() as u8];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, message.len() as u8];
    record.extend(message);
    record
}

#[test]
fn bytes_that_are_no_tls_are_garbled_and_are_told_by_an_alert() {
    let (server, ends) = server(localhost(), Limits::default());
    let garbage: Vec<u8> = (0..200).map(|at: u32| (at * 7 + 3) as u8).collect();
    let mut oversized = vec![22, 3, 1, 0xff, 0xff];
    oversized.extend([1; 70_000]);
    for (what, bytes, wanted) in [
        ("plaintext HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), None),
        ("garbage", garbage, None),
        ("an oversized record", oversized, None),
        (
            "a record of application data",
            [&[23, 3, 3, 0, 4][..], &[0; 4]].concat(),
            Some(UNEXPECTED_MESSAGE),
        ),
        ("an empty handshake message of no kind", vec![22, 3, 1, 0, 4, 99, 0, 0, 0], None),
        ("a hello that is cut short", vec![22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3], Some(DECODE_ERROR)),
        // SSLv2's hello has no record around it.
        (
            "a hello of SSLv2",
            vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80, 3, 0],
            None,
        ),
    ] {
        let mut client = connect(inet(&*server));
        // The server may give up before all of it is sent.
        let _ = client.write_all(&bytes);
        let told = alert(&mut client);
        assert!(told.is_some(), "{what}: no alert");
        assert!(wanted.is_none() || told == wanted, "{what}: {told:?}");
        let (reason, cause) = end(&ends);
        assert_eq!(reason, CloseReason::Garbled, "{what}: {cause:?}");
        assert!(cause.unwrap().contains("cannot be read"), "{what}");
    }
    let mut client = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut client, "others are served"), "others are served\n");
}

#[test]
fn clients_without_a_common_version_or_cipher_are_told_so() {
    let (server, ends) = server(localhost(), Limits::default());
    for (what, hello, wanted) in [
        ("TLS 1.0", old_hello(1, [0x00, 0x2f]), PROTOCOL_VERSION),
        ("TLS 1.1", old_hello(2, [0x00, 0x2f]), PROTOCOL_VERSION),
        ("RC4", old_hello(3, [0x00, 0x05]), HANDSHAKE_FAILURE),
    ] {
        let mut client = connect(inet(&*server));
        client.write_all(&hello).unwrap();
        let told = alert(&mut client);
        let (reason, cause) = end(&ends);
        assert_eq!(
            (reason, told),
            (CloseReason::HandshakeFailed, Some(wanted)),
            "{what}: {cause:?}"
        );
        assert!(cause.unwrap().starts_with("the handshake failed: "), "{what}");
    }
    // The client itself fails: it does not accept this side's certificate.
    let mut client = Client::new().asking_for("elsewhere.example").connect(inet(&*server));
    assert!(client.handshake().is_err());
    let (reason, cause) = end(&ends);
    assert_eq!(reason, CloseReason::HandshakeFailed, "{cause:?}");
    let protocols = server_with_alpn();
    let mut client = Client::new().alpn(&["other"]).connect(inet(&*protocols.0));
    assert!(client.handshake().is_err());
    assert_eq!(end(&protocols.1).0, CloseReason::HandshakeFailed);
}

fn server_with_alpn() -> (BackgroundServer<Tcp, Threading>, Receiver<End>) {
    server(localhost().alpn(["echo/1"]), Limits::default())
}

#[test]
fn only_clients_with_a_certificate_of_the_authority_are_served_where_one_is_required() {
    for version in [&version::TLS13, &version::TLS12] {
        for required in [true, false] {
            let tls = if required {
                localhost().require_client_certificates(pem("ca.pem")).unwrap()
            } else {
                localhost().request_client_certificates(pem("ca.pem")).unwrap()
            };
            let (server, ends) = server(tls, Limits::default());
            let mut known = Client::showing("client", &[version]).connect(inet(&*server));
            assert_eq!(exchange(&mut known, "hello"), "hello\n");
            known.end_output();
            assert_eq!(end(&ends), (CloseReason::Completed, None));
            let served = |client: &mut super::client::TlsClient| -> std::io::Result<usize> {
                client.handshake()?;
                client.write_all(b"hello\n")?;
                client.read(&mut [0; 10])
            };
            let mut rogue = Client::showing("rogue", &[version]).connect(inet(&*server));
            assert!(served(&mut rogue).is_err());
            let (reason, cause) = end(&ends);
            assert_eq!(reason, CloseReason::HandshakeFailed, "{cause:?}");
            let mut nobody = Client::speaking(&[version]).connect(inet(&*server));
            assert_eq!(served(&mut nobody).is_ok(), !required);
            drop(nobody);
            let (reason, cause) = end(&ends);
            if required {
                assert_eq!(reason, CloseReason::HandshakeFailed, "{cause:?}");
            } else {
                assert_eq!((reason, cause), (CloseReason::Disconnected, None));
            }
        }
    }
}

#[test]
fn a_hello_may_come_byte_by_byte_and_in_records_of_one_byte() {
    let (server, ends) = server(localhost(), Limits::default());
    let mut client = Client::new().connect(inet(&*server));
    let mut hello = Vec::new();
    client.stream.conn.write_tls(&mut hello).unwrap();
    client.stream.sock.set_nodelay(true).unwrap();
    for byte in &hello {
        client.stream.sock.write_all(std::slice::from_ref(byte)).unwrap();
    }
    assert_eq!(exchange(&mut client, "in bytes"), "in bytes\n");
    client.end_output();
    assert_eq!(end(&ends), (CloseReason::Completed, None));

    let mut client = Client::new().connect(inet(&*server));
    let mut hello = Vec::new();
    client.stream.conn.write_tls(&mut hello).unwrap();
    for byte in &hello[5..] {
        client.stream.sock.write_all(&[22, 3, 1, 0, 1, *byte]).unwrap();
    }
    assert_eq!(exchange(&mut client, "in records"), "in records\n");
    client.end_output();
    assert_eq!(end(&ends), (CloseReason::Completed, None));
}

#[test]
fn silence_before_and_in_the_handshake_ends_it_in_time() {
    let limits = Limits::default().handshake(Duration::from_millis(150));
    let (server, ends) = server(localhost(), limits);
    let mut hello = Vec::new();
    Client::new().connect(inet(&*server)).stream.conn.write_tls(&mut hello).unwrap();
    assert_eq!(end(&ends).0, CloseReason::Disconnected, "the hello's own connection has ended");
    for (what, bytes) in [
        ("nothing", &[][..]),
        ("half a record's head", &hello[..3]),
        ("half a record", &hello[..hello.len() / 2]),
        ("a hello", &hello[..]),
    ] {
        let mut client = connect(inet(&*server));
        client.write_all(bytes).unwrap();
        let (reason, cause) = end(&ends);
        assert_eq!(reason, CloseReason::TimedOut, "{what}: {cause:?}");
        assert!(cause.unwrap().contains("handshake"), "{what}");
    }
}

#[test]
fn a_client_that_leaves_early_is_gone_and_nothing_else() {
    let (server, ends) = server(localhost(), Limits::default());
    let mut hello = Vec::new();
    let mut first = Client::new().connect(inet(&*server));
    first.stream.conn.write_tls(&mut hello).unwrap();
    drop(first);
    assert_eq!(end(&ends).0, CloseReason::Disconnected);
    for bytes in [&[][..], &hello[..10], &hello[..]] {
        let mut client = connect(inet(&*server));
        client.write_all(bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end(&ends).0, CloseReason::Disconnected, "{} bytes", bytes.len());
    }
    // The client resets in the middle.
    let client = connect(inet(&*server));
    (&client).write_all(&hello).unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(end(&ends).0, CloseReason::Disconnected);
}

#[test]
fn bad_records_behind_the_handshake_are_the_peers_fault() {
    let limits = Limits::default().read(Duration::from_millis(200)).idle(Duration::from_secs(20));
    for version in [&version::TLS13, &version::TLS12] {
        let (server, ends) = server(localhost(), limits);
        let agreed = || {
            let mut client = Client::speaking(&[version]).connect(inet(&*server));
            assert_eq!(exchange(&mut client, "hello"), "hello\n");
            client
        };
        // A record that nobody has encrypted.
        let mut client = agreed();
        client.stream.sock.write_all(&[23, 3, 3, 0, 20, 1, 2, 3]).unwrap();
        client.stream.sock.write_all(&[9; 17]).unwrap();
        let mut rest = [0; 10];
        assert_eq!(client.read(&mut rest).unwrap_err().kind(), ErrorKind::InvalidData, "an alert");
        assert_eq!(end(&ends), (CloseReason::Garbled, None));
        // A hello after the handshake: an attempt to renegotiate, in the clear.
        let mut client = agreed();
        client.stream.sock.write_all(&old_hello(3, [0x00, 0x05])).unwrap();
        assert!(client.read(&mut rest).is_err());
        assert_eq!(end(&ends), (CloseReason::Garbled, None));
        // Half a line and half a record, then silence: the limit of a read.
        let mut client = agreed();
        client.write_all(b"half a line").unwrap();
        client.stream.sock.write_all(&[23, 3, 3, 0, 200, 1, 2, 3]).unwrap();
        let (reason, report) = end(&ends);
        assert_eq!(reason, CloseReason::TimedOut);
        assert!(report.unwrap().contains("the read timeout"), "printed as without TLS");
    }
}

/// From eight seconds on the limit is kept by the server's reaper, whose time begins anew with each byte. A record that comes
/// a byte at a time is one wait all the same.
#[test]
fn silence_behind_the_handshake_is_idle_and_so_is_a_record_that_trickles_in() {
    let idle = Duration::from_secs(8);
    let (server, ends) = server(localhost(), Limits::default().idle(idle));
    let agreed = || {
        let mut client = Client::new().connect(inet(&*server));
        assert_eq!(exchange(&mut client, "hello"), "hello\n");
        client
    };
    let (_silent, mut trickling) = (agreed(), agreed());
    let (began, mut ended) = (Instant::now(), 0);
    trickling.stream.sock.write_all(&[23, 3, 3, 0, 200]).unwrap();
    while ended < 2 {
        assert!(began.elapsed() < 3 * idle, "{ended} of two have ended");
        // The connection may have ended.
        let _ = trickling.stream.sock.write_all(&[1]);
        for (reason, report) in ends.try_iter() {
            assert_eq!((reason, report), (CloseReason::Idle, None));
            assert!(began.elapsed() >= idle * 7 / 8, "not before its time");
            ended += 1;
        }
        thread::sleep(Duration::from_millis(200));
    }
}
