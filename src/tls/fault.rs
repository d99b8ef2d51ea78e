//! The errors of TLS as errors of the request: the peer's fault, or this side's.
//!
//! | the peer | gets | the request ends as |
//! |---|---|---|
//! | sends bytes that are not TLS, or breaks the rules of TLS | an alert | `Garbled` |
//! | has no version, cipher or certificate that suits | an alert | `HandshakeFailed` |
//! | does not accept this side, and says so | | `HandshakeFailed`; later `Disconnected` |
//! | leaves, or ends without close_notify | | `Disconnected` |
//! | is silent | | `TimedOut` |

use std::fmt;
use std::io;

use rustls::Error;

use crate::peer_fault::{PeerFault, RequestId};

/// The part of the connection in which an error came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsStage {
    Handshake,
    Established,
}

/// The error of a session as an error of its request.
pub(super) fn of_session(owner: RequestId, stage: TlsStage, error: Error) -> io::Error {
    // rustls has one list of errors for both sides. Here they are sorted by the side that can do something about them.
    match error {
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::DecryptError
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => PeerFault::garbled(owner, error),
        Error::AlertReceived(_) if stage == TlsStage::Established => {
            // The peer has given the connection up.
            PeerFault::gone(owner, io::Error::new(io::ErrorKind::ConnectionAborted, error))
        }
        Error::AlertReceived(_)
        // An alert in the handshake mostly says that the peer does not accept this side's certificate.
        | Error::PeerIncompatible(_)
        | Error::NoCertificatesPresented
        | Error::InvalidCertificate(_)
        | Error::InvalidCertRevocationList(_)
        | Error::NoApplicationProtocol
        | Error::InvalidEncryptedClientHello(_)
        | Error::UnsupportedNameType => PeerFault::not_agreed(owner, error),
        // Randomness, the clock, a certificate that cannot sign: the fault is this side's.
        _ => io::Error::other(OwnFault(error)),
    }
}

/// An error of TLS that no peer causes.
#[derive(Debug)]
struct OwnFault(Error);

impl fmt::Display for OwnFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS failed on this side: {}", self.0)
    }
}

impl std::error::Error for OwnFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
