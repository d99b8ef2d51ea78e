//! [`ServeTls`]: a server's options for TLS.

use std::path::PathBuf;

use clap::Args;
use socketserver::mixin::Mixin;
use socketserver::tls::Tls;
use socketserver::transport::Transport;
use socketserver::{Builder, StreamRequest};

use crate::{Failure, warn};

/// The options of a server for TLS. A program that has them returns their TLS from
/// [`Program::tls`](crate::Program::tls).
#[derive(Clone, Debug, Default, Args)]
pub struct ServeTls {
    /// Talk TLS: the server's certificate and those of its issuers, in PEM. SIGHUP reads all files of TLS again
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM, not encrypted
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve only clients that have a certificate of one of these authorities, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

impl ServeTls {
    /// Reads the files. Returns `None` if the program serves in the clear.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read or used; the failure says which.
    pub fn load(&self) -> Result<Option<Tls>, Failure> {
        let (Some(certificates), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let tls = Tls::from_pem(certificates, key)?;
        Ok(Some(match &self.tls_client_ca {
            Some(authorities) => tls.require_client_certificates(authorities)?,
            None => tls,
        }))
    }
}

/// Adds the server's TLS, if it has any. At SIGHUP the certificates are read again, for later connections, and the
/// program reports that.
pub(crate) fn encrypted<T, M>(builder: Builder<T, M>, tls: Option<&Tls>) -> Builder<T, M>
where
    T: Transport<Request = StreamRequest>,
    M: Mixin,
{
    let Some(tls) = tls else { return builder };
    let reloaded = tls.clone();
    builder.tls(tls.clone()).on_reload(move |server| match reloaded.reload() {
        Ok(()) => {
            warn(&format!("{} has read its certificates again", server.server_address()));
            Ok(())
        }
        // The server prints this error to stderr.
        Err(error) => Err(format!("{error}; the certificates from before stay").into()),
    })
}
