//! Clients that speak TLS: rustls, with deadlines.

#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use socketserver::tls::Tls;
use socketserver::tls::rustls::crypto::ring;
use socketserver::tls::rustls::pki_types::pem::PemObject;
use socketserver::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use socketserver::tls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};

use test_support::connect;

/// A file of `tests/support/certificates`.
pub fn pem(name: &str) -> PathBuf {
    test_support::tls::certificate(name).into()
}

/// The usual certificate: localhost.
pub fn localhost() -> Tls {
    Tls::from_pem(pem("server.pem"), pem("server.key")).unwrap()
}

/// Both versions, the newer first.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(pem(name)).unwrap().map(Result::unwrap).collect()
}

/// A client: the authority that it trusts, its versions, and its own certificate.
pub struct Client {
    config: ClientConfig,
    name: &'static str,
}

impl Client {
    /// Trusts the tests' authority, asks for localhost, and shows no certificate.
    pub fn new() -> Self {
        Self::speaking(&VERSIONS)
    }

    pub fn speaking(versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self { config: config(versions).with_no_client_auth(), name: "localhost" }
    }

    /// Shows a certificate.
    pub fn showing(name: &str, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let key = PrivateKeyDer::from_pem_file(pem(&format!("{name}.key"))).unwrap();
        let chain = certificates(&format!("{name}.pem"));
        let config = config(versions).with_client_auth_cert(chain, key).unwrap();
        Self { config, name: "localhost" }
    }

    pub fn asking_for(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().into()).collect();
        self
    }

    /// Connects. The handshake comes with the first read or write.
    pub fn connect(&self, address: SocketAddr) -> TlsClient {
        self.over(connect(address))
    }

    /// Speaks TLS over a connection that exists.
    pub fn over(&self, stream: TcpStream) -> TlsClient {
        TlsClient { stream: StreamOwned::new(self.session(), stream) }
    }

    /// The client's side of TLS, without a connection.
    pub fn session(&self) -> ClientConnection {
        let name = ServerName::try_from(self.name).unwrap();
        ClientConnection::new(Arc::new(self.config.clone()), name).unwrap()
    }
}

fn config(
    versions: &[&'static SupportedProtocolVersion],
) -> socketserver::tls::rustls::ConfigBuilder<
    ClientConfig,
    socketserver::tls::rustls::client::WantsClientCert,
> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca.pem") {
        roots.add(certificate).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
}

/// A client's end of a connection.
pub struct TlsClient {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
}

impl TlsClient {
    /// Makes the handshake, and nothing else.
    pub fn handshake(&mut self) -> io::Result<()> {
        while self.stream.conn.is_handshaking() {
            self.stream.conn.complete_io(&mut self.stream.sock)?;
        }
        Ok(())
    }

    /// Says that nothing more comes: close_notify, and the end of the TCP stream.
    pub fn end_output(&mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().unwrap();
        let _ = self.stream.sock.shutdown(Shutdown::Write);
    }

    /// Ends the TCP stream, as an attacker would who cannot make a close_notify.
    pub fn cut(&mut self) {
        self.stream.flush().unwrap();
        self.stream.sock.shutdown(Shutdown::Write).unwrap();
    }
}

impl Read for TlsClient {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for TlsClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
