//! [`ByName`]: the certificate for the name that a client asks for.
//!
//! ```text
//! ClientHello   name?   more than one certificate?   the first that has the name, and a key that the client can check
//!               else                                 the first with a key that the client can check
//!               else                                 the first of all: the handshake fails, with rustls' own alert
//! ```

use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates in the order in which they were given. The first is for clients that ask for a name that no
/// certificate has.
#[derive(Debug)]
pub(super) struct ByName {
    /// Never empty. A reload makes a new list, so this one never changes.
    all: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    /// Makes the value of at least one certificate: `all` must not be empty.
    pub(super) fn new(all: Vec<Arc<CertifiedKey>>) -> Self {
        Self { all }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An ECDSA certificate is of no use to a client that knows only RSA, nor an RSA certificate to one that knows only
        // ECDSA.
        let usable =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        // If one certificate serves all names, the name is not parsed for each client.
        let named = name
            .filter(|_| self.all.len() > 1)
            .and_then(|name| self.all.iter().filter(usable).find(|key| has_name(key, &name)));
        // If the client can check none of the keys, rustls tells it so.
        let any = || self.all.iter().find(usable).or(self.all.first());
        named.or_else(any).map(Arc::clone)
    }
}

/// Whether a certificate is for that name, also by a wildcard.
fn has_name(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    // The certificate is parsed for each handshake: rustls keeps no parsed form, and parsing takes a few microseconds,
    // which is little compared with a signature.
    let parsed = key.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok());
    parsed.is_some_and(|parsed| verify_server_name(&parsed, name).is_ok())
}
