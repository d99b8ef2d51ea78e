//! Certificates and keys from PEM files, and errors that say which file, what is wrong with it, and what helps.
//!
//! Files are read when settings are made and at a reload, on the thread that asks for it, never for a connection.
//! The checks are those that would otherwise fail in the first handshake, far from the operator: a key of another
//! certificate, an encrypted key, an empty file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::small_file::read_small_file;
use crate::error::{Error, Result};

/// A certificate with its chain and its key.
///
/// Fails with an error that names one of the two files, and the mistake in it. Nothing is kept of a failed attempt.
pub(super) fn certified_key(
    certificates: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>> {
    let chain = read_certificates(certificates, "read the certificates in")?;
    let private = read_key(key)?;
    // Each error names one file. If the two files do not fit together, it names that of the key.
    let wrong_key = |why: String| bad("use the private key in", key, why);
    let signing = provider.key_provider.load_private_key(private).map_err(|error| {
        wrong_key(format!(
            "{error}; keys are RSA (2048 bits or more), ECDSA (P-256, P-384) or Ed25519"
        ))
    })?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        // The provider cannot compare key and certificate; the first handshake would show a mismatch.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let own = certificates.display();
            return Err(wrong_key(format!(
                "it does not belong to the first certificate in {own}; the server's own certificate comes first there, \
                 then those that signed it"
            )));
        }
        Err(error) => return Err(bad("use the certificates in", certificates, error.to_string())),
    }
    Ok(Arc::new(certified))
}

/// The authorities that sign clients' certificates.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let unfit = |error: rustls::Error| bad("use the authorities in", path, error.to_string());
    for certificate in read_certificates(path, "read the authorities in")? {
        roots.add(certificate).map_err(unfit)?;
    }
    Ok(roots)
}

/// All certificates of a file, in its order; at least one.
fn read_certificates(path: &Path, operation: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(path, operation)?;
    // Sections of other kinds, such as a key in the same file, are passed over.
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| bad(operation, path, explain(&error)))?;
    if found.is_empty() {
        let why = "there is none; a PEM file has -----BEGIN CERTIFICATE----- before each";
        return Err(bad(operation, path, why));
    }
    Ok(found)
}

/// The first key of a file, of any of the three forms.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let operation = "read the private key in";
    let text = read(path, operation)?;
    // `from_pem_slice` passes over sections that it does not know, such as an encrypted key. So the text is searched
    // for the header of an encrypted key.
    let is_encrypted = || text.windows(17).any(|part| part == b"ENCRYPTED PRIVATE");
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if is_encrypted() => {
            let why = "it is encrypted; decrypt it with `openssl pkey -in FILE -out NEW`";
            bad(operation, path, why)
        }
        pem::Error::NoItemsFound => {
            let why = "there is none; a PEM file has -----BEGIN PRIVATE KEY----- before it";
            bad(operation, path, why)
        }
        error => bad(operation, path, explain(&error)),
    })
}

/// The longest file, in bytes. All public authorities together take a quarter of a mebibyte.
const MAX_PEM_BYTES: u64 = 16 << 20;

/// Reads a file. An error begins with `operation`.
fn read(path: &Path, operation: &'static str) -> Result<Vec<u8>> {
    read_small_file(path, MAX_PEM_BYTES)
        .map_err(|error| Error::io(operation, path.display(), error))
}

/// The error's text without the Rust code that rustls puts into it.
fn explain(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "a section has no -----END line: the file is cut short".to_owned()
        }
        pem::Error::Base64Decode(_) => "a section is not base64: the file is damaged".to_owned(),
        other => format!("it is no PEM file: {other}"),
    }
}

/// The error for a file with this mistake in it.
fn bad(operation: &'static str, path: &Path, why: impl Into<String>) -> Error {
    Error::io(operation, path.display(), io::Error::new(io::ErrorKind::InvalidData, why.into()))
}
