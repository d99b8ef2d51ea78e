//! [`ClientTls`]: a client's options for TLS.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_native_certs::CertificateResult;

use socketserver::tls::read_small_file;

use super::verifier::Verifier;
use crate::{Endpoint, Failure, variable};

/// The options of a client for TLS.
#[derive(Clone, Debug, Default, Args)]
pub struct ClientTls {
    /// Talk TLS to the server
    #[arg(long)]
    pub tls: bool,
    /// A file with the certificates to trust, in PEM: those of authorities, or the server's own [default: those that
    /// this system trusts, or those of SSL_CERT_FILE in the environment]
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub ca: Option<PathBuf>,
    /// The name that the server's certificate must have [default: the host of the address, and localhost for a Unix
    /// socket]
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub tls_name: Option<String>,
    /// This client's own certificate and those of its issuers, in PEM, for a server that asks for one
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl ClientTls {
    /// Makes the session with the server at an address, before its handshake.
    ///
    /// # Errors
    ///
    /// If a file that the options name cannot be used, or if the name is not one that a certificate can have.
    pub fn session(&self, endpoint: &Endpoint) -> Result<ClientConnection, Failure> {
        let name = self.name(endpoint)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let given = self.ca.as_deref().map(certificates).transpose()?;
        let roots = match &given {
            Some(given) => roots_of(given, self.ca.as_deref()),
            None => system_roots(),
        }?;
        let rules =
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                .build()
                .map_err(|error| Failure::Other(format!("cannot verify servers: {error}")))?;
        let verifier = Verifier::new(rules, given.unwrap_or_default());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| own(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => builder
                .with_client_auth_cert(certificates(chain)?, private_key(key)?)
                .map_err(|error| {
                    let files = format!("{} and {}", chain.display(), key.display());
                    Failure::Other(format!("{files} do not belong together: {error}"))
                })?,
            _ => builder.with_no_client_auth(),
        };
        ClientConnection::new(Arc::new(config), name).map_err(|error| own(&error))
    }

    /// The name that the server's certificate must have.
    fn name(&self, endpoint: &Endpoint) -> Result<ServerName<'static>, Failure> {
        let text = match (&self.tls_name, endpoint) {
            (Some(name), _) => name,
            (None, Endpoint::Tcp(text)) => {
                let host = text.rsplit_once(':').map_or(&**text, |(host, _)| host);
                host.trim_start_matches('[').trim_end_matches(']')
            }
            (None, _) => "localhost",
        };
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ServerName::from(ip));
        }
        ServerName::try_from(text.to_owned()).map_err(|_| {
            Failure::Usage(format!(
                "{text:?} is not a name that a certificate can have: give --tls-name"
            ))
        })
    }
}

/// The failure for an error on this side that is not the user's fault.
fn own(error: &rustls::Error) -> Failure {
    Failure::Other(format!("cannot prepare TLS: {error}"))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let all: Result<Vec<_>, _> =
        read(file).and_then(|text| CertificateDer::pem_slice_iter(&text).collect());
    match all {
        Ok(all) if all.is_empty() => Err(pem::Error::NoItemsFound),
        all => all,
    }
    .map_err(|error| unreadable(file, "certificate", "", &error))
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let advice =
        "; one with a passphrase has to be decrypted first (openssl pkey -in FILE -out NEW)";
    let key = read(file).and_then(|text| PrivateKeyDer::from_pem_slice(&text));
    key.map_err(|error| unreadable(file, "key", advice, &error))
}

/// The largest file of certificates, in bytes. All public authorities together take a quarter of a mebibyte.
const MOST_BYTES: u64 = 16 << 20;

fn read(file: &Path) -> Result<Vec<u8>, pem::Error> {
    read_small_file(file, MOST_BYTES).map_err(pem::Error::Io)
}

fn unreadable(file: &Path, what: &str, advice: &str, error: &pem::Error) -> Failure {
    let file = file.display();
    Failure::Other(match error {
        pem::Error::Io(error) => format!("cannot read the {what} in {file}: {error}"),
        pem::Error::NoItemsFound => format!("there is no {what} in PEM in {file}{advice}"),
        error => format!("cannot read the {what} in {file}: {error:?}"),
    })
}

fn roots_of(
    given: &[CertificateDer<'static>],
    file: Option<&Path>,
) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in given {
        roots.add(certificate.clone()).map_err(|error| {
            let file = file.unwrap_or(Path::new("")).display();
            Failure::Other(format!("a certificate in {file} cannot be used: {error}"))
        })?;
    }
    Ok(roots)
}

/// The roots that the system trusts, or those that the environment names. Individual certificates that cannot be read
/// are left out, as other programs do.
fn system_roots() -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let mut found = CertificateResult::default();
    let file = variable("SSL_CERT_FILE").map(PathBuf::from);
    let folders = variable("SSL_CERT_DIR");
    if let Some(file) = &file {
        let text = read(file).map_err(|error| unreadable(file, "certificates", "", &error))?;
        found.certs.extend(CertificateDer::pem_slice_iter(&text).flatten());
    }
    for folder in folders.iter().flat_map(std::env::split_paths) {
        let more = rustls_native_certs::load_certs_from_paths(None, Some(&folder));
        found.certs.extend(more.certs);
        found.errors.extend(more.errors);
    }
    if file.is_none() && folders.is_none() {
        found = of_the_system();
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or(String::new(), |error| format!(" ({error})"));
        let text = format!(
            "this system has no certificates to trust{why}: give --ca FILE, or install ca-certificates"
        );
        return Err(Failure::Other(text));
    }
    Ok(roots)
}

/// Loads the certificates from the usual places of a system. A variable of the environment that is set and empty counts
/// as unset; `load_native_certs` would take it for a path, so this function finds the places itself in that case.
fn of_the_system() -> CertificateResult {
    let is_set = |name| std::env::var_os(name).is_some();
    if !is_set("SSL_CERT_FILE") && !is_set("SSL_CERT_DIR") {
        return rustls_native_certs::load_native_certs();
    }
    let places = openssl_probe::probe();
    let mut found = CertificateResult::default();
    let folders = places.cert_dir.iter().map(|folder| (None, Some(&**folder)));
    for (file, folder) in folders.chain([(places.cert_file.as_deref(), None)]) {
        let more = rustls_native_certs::load_certs_from_paths(file, folder);
        found.certs.extend(more.certs);
        found.errors.extend(more.errors);
    }
    found
}
