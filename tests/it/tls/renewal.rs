//! New certificates on a running server, and sessions that are resumed.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;

use socketserver::tls::Tls;
use socketserver::tls::rustls::HandshakeKind;
use socketserver::transport::Tcp;
use socketserver::{BackgroundServer, Threading, ThreadingTcpServer, stream_fn};

use super::client::{Client, VERSIONS, localhost, pem};
use crate::handlers::Echo;
use crate::support::{exchange, folder, inet, read_to_end};

fn copy(name: &str, folder: &Path) {
    for ending in ["pem", "key"] {
        fs::copy(pem(&format!("{name}.{ending}")), folder.join(format!("own.{ending}"))).unwrap();
    }
}

fn echo(tls: Tls) -> BackgroundServer<Tcp, Threading> {
    ThreadingTcpServer::builder()
        .tls(tls)
        .bind("127.0.0.1:0", || Echo)
        .unwrap()
        .serve_in_background()
        .unwrap()
}

#[test]
fn a_reload_gives_new_connections_the_new_certificate_or_leaves_the_old_one() {
    let files = folder();
    copy("server", files.path());
    let tls = Tls::from_pem(files.path().join("own.pem"), files.path().join("own.key")).unwrap();
    let server = echo(tls.clone());
    let accepts = |name: &'static str| {
        Client::new().asking_for(name).connect(inet(&*server)).handshake().is_ok()
    };
    let mut old = Client::new().connect(inet(&*server));
    assert_eq!(exchange(&mut old, "hello"), "hello\n");
    assert!(accepts("localhost") && !accepts("other.example"));

    copy("other", files.path());
    // The files may be read again on any thread.
    let reloader = tls.clone();
    thread::spawn(move || reloader.reload()).join().unwrap().unwrap();
    assert!(!accepts("localhost") && accepts("other.example"));
    assert_eq!(exchange(&mut old, "as before"), "as before\n");

    // A bad file leaves the certificate and its key as they are, and the error says what to do.
    let own = files.path().join("own.pem");
    fs::copy(pem("server.pem"), &own).unwrap();
    for (break_it, text) in [
        (None, "it does not belong to the first certificate"),
        (Some(&b""[..]), "there is none; a PEM file has -----BEGIN CERTIFICATE-----"),
        (Some(b"-----BEGIN CERTIFICATE-----\nMIIB"), "cut short"),
        (Some(b"-----BEGIN CERTIFICATE-----\n?!\n-----END CERTIFICATE-----\n"), "damaged"),
    ] {
        if let Some(bytes) = break_it {
            fs::write(&own, bytes).unwrap();
        }
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("own."), "{error}");
        assert!(!accepts("localhost") && accepts("other.example"), "{text}");
    }
    fs::remove_file(&own).unwrap();
    let error = tls.reload().unwrap_err();
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::NotFound));
    assert!(error.to_string().starts_with("cannot read the certificates in "), "{error}");

    // A configuration that the program itself has made has no files.
    let given = Tls::from(localhost().config());
    assert!(given.reload().unwrap_err().to_string().contains("Tls::replace"));
    let server = echo(given.clone());
    assert!(Client::new().connect(inet(&*server)).handshake().is_ok());
    given.replace(Tls::from_pem(pem("other.pem"), pem("other.key")).unwrap().config());
    assert!(Client::new().connect(inet(&*server)).handshake().is_err());
}

#[test]
fn errors_of_files_name_the_file_and_what_helps() {
    let files = folder();
    let key = files.path().join("encrypted.key");
    let text = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(&key, text).unwrap();
    let error = Tls::from_pem(pem("server.pem"), &key).unwrap_err().to_string();
    assert!(error.contains("encrypted.key") && error.contains("openssl pkey"), "{error}");
    let error = Tls::from_pem(pem("server.pem"), pem("server.pem")).unwrap_err().to_string();
    assert!(error.contains("server.pem: there is none; "), "{error}");
    let error = Tls::from_pem(pem("server.pem"), pem("client.key")).unwrap_err().to_string();
    assert!(error.contains("client.key: it does not belong to"), "{error}");
    let error = localhost().require_client_certificates(&key).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the authorities in "), "{error}");
}

#[test]
fn a_client_that_comes_again_resumes_its_session_also_after_a_reload() {
    for version in VERSIONS {
        let tls = localhost();
        let told = stream_fn(|request| {
            let resumed = request.tls().is_some_and(socketserver::tls::TlsInfo::is_resumed);
            Ok(request.write_all(if resumed { b"resumed" } else { b"new" })?)
        });
        let server = ThreadingTcpServer::builder()
            .tls(tls.clone())
            .bind("127.0.0.1:0", told)
            .unwrap()
            .serve_in_background()
            .unwrap();
        // The tickets are in the client's configuration.
        let client = Client::speaking(&[version]);
        let mut kinds = Vec::new();
        for round in 0..3 {
            let mut connection = client.connect(inet(&*server));
            let text = String::from_utf8(read_to_end(&mut connection)).unwrap();
            kinds.push(text);
            let is_full = connection.stream.conn.handshake_kind() == Some(HandshakeKind::Full);
            assert_eq!(is_full, round == 0, "{version:?}");
            tls.reload().unwrap();
        }
        assert_eq!(kinds, ["new", "resumed", "resumed"], "{version:?}");
    }
}

#[test]
fn a_reload_ends_resumption_where_clients_have_to_show_certificates() {
    let tls = localhost().require_client_certificates(pem("ca.pem")).unwrap();
    let server = echo(tls.clone());
    let client = Client::showing("client", &VERSIONS);
    let kind = || {
        let mut connection = client.connect(inet(&*server));
        assert_eq!(exchange(&mut connection, "hello"), "hello\n");
        connection.stream.conn.handshake_kind().unwrap()
    };
    assert_eq!((kind(), kind()), (HandshakeKind::Full, HandshakeKind::Resumed));
    tls.reload().unwrap();
    assert_eq!((kind(), kind()), (HandshakeKind::Full, HandshakeKind::Resumed));
}
