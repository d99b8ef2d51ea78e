//! [`TlsInfo`]: what a handshake has agreed on.
//!
//! The facts are taken once, when the handshake ends, and cost a copy of the names and certificates. A later renewal of
//! keys changes none of them.

use std::fmt;

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};

/// The TLS of a connection, as its handshake has left it: [`StreamRequest::tls`](crate::StreamRequest::tls). It prints as
/// one line for a log.
#[derive(Clone)]
pub struct TlsInfo {
    /// These values are copied out of the session, which belongs to the stream, so that a handler may read them while it
    /// writes.
    version: ProtocolVersion,
    cipher_suite: CipherSuite,
    alpn: Option<Vec<u8>>,
    server_name: Option<String>,
    /// The client's certificates, its own first. Empty if the client has sent none.
    certificates: Vec<CertificateDer<'static>>,
    resumed: bool,
}

impl TlsInfo {
    /// The facts of a session whose handshake has ended.
    pub(super) fn of(tls: &ServerConnection) -> Self {
        let suite = tls.negotiated_cipher_suite();
        Self {
            // Both are known after a handshake. The fallbacks spare an `expect`.
            version: tls.protocol_version().unwrap_or(ProtocolVersion::Unknown(0)),
            cipher_suite: suite.map_or(CipherSuite::Unknown(0), |suite| suite.suite()),
            alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
            server_name: tls.server_name().map(str::to_owned),
            certificates: tls.peer_certificates().unwrap_or_default().to_vec(),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// The version: `TLSv1_2` or `TLSv1_3`.
    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// The cipher suite.
    #[must_use]
    pub fn cipher_suite(&self) -> CipherSuite {
        self.cipher_suite
    }

    /// The protocol that was agreed on by ALPN, if both sides offered any.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// The name that the client asked for (SNI), in lower case. This is the client's claim: nothing proves that it is
    /// allowed to use the name.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The client's certificates, its own first, each as DER. They were checked against the authorities of
    /// [`require_client_certificates`](crate::tls::Tls::require_client_certificates) or
    /// [`request_client_certificates`](crate::tls::Tls::request_client_certificates). A resumed session has those of its
    /// first handshake. Empty if none was asked for, or the client has given none.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whether an earlier session was resumed, which saves the client a signature to check and this side one to make.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }
}

/// `TLSv1_3, TLS13_AES_256_GCM_SHA384, localhost, h2, 1 certificate, resumed`
impl fmt::Display for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {:?}", self.version, self.cipher_suite)?;
        if let Some(name) = &self.server_name {
            write!(f, ", {name}")?;
        }
        if let Some(alpn) = &self.alpn {
            // A client may offer any bytes, and a log is read at a terminal.
            write!(f, ", {}", alpn.escape_ascii())?;
        }
        match self.certificates.len() {
            0 => {}
            1 => f.write_str(", 1 certificate")?,
            more => write!(f, ", {more} certificates")?,
        }
        f.write_str(if self.resumed { ", resumed" } else { "" })
    }
}

impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsInfo({self})")
    }
}
