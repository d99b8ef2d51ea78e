//! [`Tls`]: the settings, their files, and the configuration that new connections get.
//!
//! ```text
//! reload               under `reloading`: reads the files, makes a whole ServerConfig, and exchanges the Arc
//! replace              under `reloading`: exchanges the Arc
//! a new connection     clones the Arc: a handshake that has begun keeps its configuration to its end
//! prepare              in the process that accepts, before each connection: a new key for tickets, if it is due
//! ```
//!
//! Nobody waits for a reload: `config` is locked only to clone or to exchange a pointer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::certificates::ByName;
use super::pem;
use super::tickets::{KEY_PERIOD, Tickets};
use crate::error::{Error, Result};

/// TLS for [`Builder::tls`](crate::Builder::tls): certificates, and what clients have to show. All clones share one
/// configuration: a [`reload`](Self::reload) of one changes it for all. The page of the [module](crate::tls) says more.
///
/// Make the settings first, then clone: each setting returns a value of its own.
///
/// ```no_run
/// use socketserver::tls::Tls;
/// use socketserver::{ThreadingTcpServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// let tls = Tls::from_pem("example.org.pem", "example.org.key")?
///     .certificate("example.net.pem", "example.net.key")?
///     .require_client_certificates("clients-ca.pem")?
///     .alpn(["chat/1"]);
/// let server = ThreadingTcpServer::builder()
///     .tls(tls.clone())
///     .bind("0.0.0.0:9999", stream_fn(|_request| Ok(())))?;
/// // Later, on any thread, when the files are new:
/// if let Err(error) = tls.reload() {
///     eprintln!("{error}; the old certificates stay");
/// }
/// # drop(server); Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tls {
    shared: Arc<SharedConfig>,
}

/// The part that all clones have in common. It lives as long as the last clone or server.
struct SharedConfig {
    /// The configuration of new connections.
    config: RwLock<Arc<ServerConfig>>,
    /// The files that the configuration comes from. None if it was given as a whole.
    source: Option<Source>,
    /// Held by a reload and a replacement, so that two of them do not mix.
    reloading: Mutex<()>,
    /// The keys of session tickets. None if the configuration was given as a whole: then the program has them.
    tickets: RwLock<Option<Arc<Tickets>>>,
}

/// The settings that a configuration is made of.
#[derive(Clone)]
struct Source {
    /// The files of each certificate: the chain and the key.
    certificates: Vec<(PathBuf, PathBuf)>,
    /// How clients' certificates are checked. None: no client is asked for a certificate.
    clients: Option<Clients>,
    /// The protocols of ALPN, the preferred one first. Empty: none is offered.
    alpn: Vec<Vec<u8>>,
    /// The provider that makes the keys usable, and has the cipher suites.
    provider: Arc<CryptoProvider>,
}

/// Clients' certificates: the file of the authorities that sign them, and whether each client needs one.
#[derive(Clone)]
struct Clients {
    authorities: PathBuf,
    required: bool,
}

impl Tls {
    /// Reads a certificate with its chain, and its key, both from PEM files. The server's own certificate comes first
    /// in its file, and then the certificates that signed it. The key is PKCS#8, PKCS#1 or SEC1, not encrypted.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, if it contains no certificate or no key, or if the key does not belong to the
    /// certificate. The error names the file, and says what helps.
    #[doc(alias("load_cert_chain", "SSLContext"))]
    pub fn from_pem(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        let provider = CryptoProvider::get_default().map(Arc::clone);
        Source {
            certificates: vec![(certificates.as_ref().into(), key.as_ref().into())],
            clients: None,
            alpn: Vec::new(),
            provider: provider.unwrap_or_else(|| Arc::new(ring::default_provider())),
        }
        .into_tls()
    }

    /// Adds a certificate for other names, or for the same names with another kind of key. A client gets the first
    /// certificate that has the name that it asks for (SNI; wildcards match) and whose key it can check; if there is none,
    /// the first certificate whose key it can check.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem).
    #[doc(alias("sni", "sni_callback"))]
    pub fn certificate(
        self,
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self> {
        let files = (certificates.as_ref().into(), key.as_ref().into());
        self.change(|source| source.certificates.push(files))
    }

    /// Serves only clients with a certificate that one of these authorities (a PEM file) has signed: the handshake of
    /// any other client fails. [`TlsInfo::peer_certificates`](super::TlsInfo::peer_certificates) has the certificate.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or has no certificate in it.
    #[doc(alias("CERT_REQUIRED", "mtls", "verify_mode"))]
    pub fn require_client_certificates(self, authorities: impl AsRef<Path>) -> Result<Self> {
        let authorities = authorities.as_ref().into();
        self.change(|source| source.clients = Some(Clients { authorities, required: true }))
    }

    /// Asks each client for a certificate, and also serves clients without one. A certificate that no authority of
    /// the file has signed fails the handshake.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or has no certificate in it.
    #[doc(alias = "CERT_OPTIONAL")]
    pub fn request_client_certificates(self, authorities: impl AsRef<Path>) -> Result<Self> {
        let authorities = authorities.as_ref().into();
        self.change(|source| source.clients = Some(Clients { authorities, required: false }))
    }

    /// The protocols to agree on by ALPN, the preferred one first: `["h2", "http/1.1"]`. A client that offers only
    /// others is turned away; a client that offers none is served. Default: none, and then a client's offer is
    /// ignored.
    #[must_use]
    #[doc(alias = "set_alpn_protocols")]
    pub fn alpn<P: AsRef<[u8]>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        // No file is read again, so this setting cannot fail.
        let protocols: Vec<_> = protocols.into_iter().map(|name| name.as_ref().to_vec()).collect();
        let mut config = ServerConfig::clone(&self.config());
        config.alpn_protocols.clone_from(&protocols);
        let source = self.shared.source.clone().map(|source| Source { alpn: protocols, ..source });
        Self::new(config.into(), source, self.shared.tickets.read().clone())
    }

    /// Uses this crypto provider instead of the default. The keys are read again with it.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem), or if the provider has no cipher suite for TLS 1.2 or 1.3.
    pub fn with_provider(self, provider: Arc<CryptoProvider>) -> Result<Self> {
        self.change(|source| source.provider = provider)
    }

    /// Reads all files anew, for connections from now on; running connections keep the old ones. If anything fails,
    /// everything stays as it was. Any thread may call it. Under [`Forking`](crate::Forking) the parent calls it, and
    /// later children have the new files; a child that calls it changes only itself.
    ///
    /// Tickets stay good, unless clients have to show certificates: with an old ticket a client would not be checked
    /// against the new authorities.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem). Also if there are no files, because this was made from a `ServerConfig`: then
    /// use [`replace`](Self::replace).
    pub fn reload(&self) -> Result<()> {
        let why = "it was not read from files, so there are none to read again; a program exchanges it by `Tls::replace`";
        let source = self.shared.source.as_ref().ok_or_else(|| unsupported("reload", why))?;
        // The files are read under this lock alone. Connections go on meanwhile.
        let _one = self.shared.reloading.lock();
        // If clients show certificates, a ticket stands for a check by the old authorities, so its key is dropped.
        let kept = self.shared.tickets.read().clone().filter(|_| source.clients.is_none());
        let (config, tickets) = source.config(kept)?;
        // The order of the two writes does not matter: a configuration has its own keys, and `prepare` only checks whether
        // the present keys are due.
        *self.shared.tickets.write() = Some(tickets);
        *self.shared.config.write() = Arc::new(config);
        Ok(())
    }

    /// Exchanges the configuration for connections from now on. If the settings came from files, a later
    /// [`reload`](Self::reload) brings those back.
    pub fn replace(&self, config: impl Into<Arc<ServerConfig>>) {
        let _one = self.shared.reloading.lock();
        *self.shared.config.write() = without_early_data(config.into());
    }

    /// The configuration of a connection that comes now.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shared.config.read())
    }

    /// Renews the keys of tickets, if they are due. Called when the process that accepts is about to serve a connection, or to
    /// fork for it.
    pub(super) fn prepare(&self) {
        if let Some(tickets) = &*self.shared.tickets.read() {
            tickets.rotate_if_due();
        }
    }

    fn new(
        config: Arc<ServerConfig>,
        source: Option<Source>,
        tickets: Option<Arc<Tickets>>,
    ) -> Self {
        let (config, tickets) = (RwLock::new(config), RwLock::new(tickets));
        let reloading = Mutex::default();
        Self { shared: Arc::new(SharedConfig { config, source, reloading, tickets }) }
    }

    /// New settings, which differ by one change. All files are read again, because rustls' settings cannot be changed once
    /// they are made.
    fn change(self, change: impl FnOnce(&mut Source)) -> Result<Self> {
        let why = "it was made of a ServerConfig, which has this setting itself";
        let mut source = self.shared.source.clone().ok_or_else(|| unsupported("change", why))?;
        // Servers may use clones of the old value, and keep its settings.
        change(&mut source);
        source.into_tls()
    }
}

impl Source {
    /// Reads the files for the first time, and makes new keys of tickets.
    fn into_tls(self) -> Result<Tls> {
        let (config, tickets) = self.config(None)?;
        Ok(Tls::new(config.into(), Some(self), Some(tickets)))
    }

    /// Reads the files, and makes a configuration. `tickets`: the keys to go on with; None makes new ones.
    fn config(&self, tickets: Option<Arc<Tickets>>) -> Result<(ServerConfig, Arc<Tickets>)> {
        let keys: Result<Vec<_>> = self
            .certificates
            .iter()
            .map(|(certificates, key)| pem::certified_key(certificates, key, &self.provider))
            .collect();
        let versions = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::io("use", "the crypto provider", io::Error::other(error)))?;
        // The file of the authorities is read here, so a reload drops those that are no longer in it.
        let builder = match &self.clients {
            None => versions.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(pem::authorities(&clients.authorities)?);
                let provider = Arc::clone(&self.provider);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier =
                    if clients.required { verifier } else { verifier.allow_unauthenticated() };
                versions.with_client_cert_verifier(verifier.build().map_err(|error| {
                    let path = clients.authorities.display();
                    Error::io("use the authorities in", path, io::Error::other(error))
                })?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(keys?)));
        // The keys of tickets are made last, when a mistake in the files can no longer cause an error.
        let tickets = tickets.map_or_else(|| Tickets::new(KEY_PERIOD), Ok)?;
        config.alpn_protocols.clone_from(&self.alpn);
        config.ticketer = Arc::clone(&tickets) as _;
        // Tickets hold the whole session. A store in memory would belong to one child alone.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok((config, tickets))
    }
}

/// A configuration that the program has made. Its tickets, its session storage and the files that it came from are
/// the program's. Under [`Forking`](crate::Forking) a store in memory resumes nothing, because each child has a copy
/// of it. Early data is not accepted, whatever the configuration says.
impl From<Arc<ServerConfig>> for Tls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::new(without_early_data(config), None, None)
    }
}

/// The same as the conversion from an `Arc`.
impl From<ServerConfig> for Tls {
    fn from(config: ServerConfig) -> Self {
        Self::from(Arc::new(config))
    }
}

/// The error for a configuration that was given as a whole.
fn unsupported(operation: &'static str, why: &'static str) -> Error {
    let error = io::Error::new(io::ErrorKind::Unsupported, why);
    Error::io(operation, "the TLS configuration", error)
}

/// Refuses early data. It would reach no handler: rustls keeps it apart, because an attacker may have replayed it.
fn without_early_data(mut config: Arc<ServerConfig>) -> Arc<ServerConfig> {
    // The configuration is copied only if it must be changed and the program has kept a reference.
    if config.max_early_data_size > 0 {
        Arc::make_mut(&mut config).max_early_data_size = 0;
    }
    config
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Tls");
        if let Some(source) = &self.shared.source {
            debug.field("certificates", &source.certificates);
            if let Some(clients) = &source.clients {
                debug.field("authorities", &clients.authorities);
                debug.field("required", &clients.required);
            }
        }
        debug.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, StreamRequest, ThreadingTcpServer, stream_fn};
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use test_support::tls::certificate;

    fn localhost() -> Tls {
        Tls::from_pem(certificate("server.pem"), certificate("server.key")).unwrap()
    }

    #[test]
    fn starttls_makes_the_next_key_of_tickets_when_it_is_due() {
        let tls = localhost();
        let tickets = tls.shared.tickets.read().clone().unwrap();
        tickets.set_due();
        let handle = stream_fn(move |request: &mut StreamRequest| Ok(request.start_tls(&tls)?));
        let server = ThreadingTcpServer::bind("127.0.0.1:0", handle).unwrap();
        let server = server.serve_in_background().unwrap();
        let Address::Inet(address) = server.server_address() else { unreachable!() };
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"no TLS at all, which is known when the handshake has begun").unwrap();
        let _ = client.read(&mut [0]);
        assert!(!tickets.is_due());
    }

    #[test]
    fn a_configuration_of_the_programs_own_accepts_no_early_data() {
        let mut given = ServerConfig::clone(&localhost().config());
        given.max_early_data_size = 1_024;
        let tls = Tls::from(given.clone());
        assert_eq!(tls.config().max_early_data_size, 0);
        tls.replace(given.clone());
        assert_eq!(tls.config().max_early_data_size, 0);
        assert_eq!(Tls::from(Arc::new(given)).config().max_early_data_size, 0);
    }
}
