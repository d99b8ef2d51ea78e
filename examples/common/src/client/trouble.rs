//! Errors of TLS, in words for the user of a program.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use super::CONNECT;
use super::verifier::is_ca_as_server;

/// Why a handshake has failed, and what to do.
pub fn of_handshake(error: &io::Error) -> String {
    if let Some(error) = cause(error) {
        return match error {
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. } => {
                "it does not speak TLS: leave --tls out, or ask another port".to_owned()
            }
            error => of(error),
        };
    }
    let what = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("it did not answer the handshake within {} s", CONNECT.as_secs())
        }
        io::ErrorKind::UnexpectedEof => "it has ended the connection in the handshake".to_owned(),
        _ => format!("the connection broke in the handshake: {error}"),
    };
    format!("{what}; does it speak TLS there?")
}

/// The error of a session, in words for its user.
pub(super) fn explain(error: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, of(error))
}

/// The error of a session that has ended without the server's close_notify.
pub(super) fn truncated() -> io::Error {
    let text = "it ended without a close_notify of TLS: something may be missing, because the server crashed or \
                somebody cut it off";
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// Fails if `first`, the beginning of the answer to input in the clear, is one alert of TLS and nothing else.
pub(super) fn answers_with_tls(first: &[u8]) -> io::Result<()> {
    match first {
        // A record of the type alert, with a version from SSL 3.0 to TLS 1.3 and two bytes: the level fatal, and any
        // description.
        [21, 3, 0..=4, 0, 2, 2, _] => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks TLS: give --tls"))
        }
        _ => Ok(()),
    }
}

fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn of(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => of_certificate(why),
        Error::NoCertificatesPresented => "it has no certificate".to_owned(),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(why) => {
            format!("it speaks a version of TLS, or ciphers, that this program does not ({why:?})")
        }
        Error::InvalidMessage(_) => "it sent something that is not TLS".to_owned(),
        error => error.to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "its certificate is signed by itself, or by an authority that is not \
            trusted here; if you know that it is the right one, give --ca FILE with it or with its authority"
            .to_owned(),
        CertificateError::Expired => "its certificate has expired".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("its certificate has expired {} ago", between(*not_after, *time))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its certificate is valid in {} only; is the clock of this machine right?",
            between(*time, *not_before)
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = match &presented[..] {
                [] => "no name at all (it has to be a subjectAltName)".to_owned(),
                names => names.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", "),
            };
            format!(
                "its certificate is for {names}, and not for {}; if that is right, give one of its names with --tls-name",
                expected.to_str()
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not made for servers".to_owned()
        }
        error if is_ca_as_server(error) => {
            "its certificate is signed by itself; if you know that it is the right one, give --ca FILE with it"
                .to_owned()
        }
        CertificateError::Other(other) => match other.source() {
            Some(source) => format!("its certificate cannot be used: {source}"),
            None => format!("its certificate cannot be used: {other:?}"),
        },
        error => format!("its certificate cannot be used: {error}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    let words = match alert {
        Alert::CertificateRequired => {
            "it wants a certificate of this client: give --tls-cert and --tls-key"
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => "it does not accept the certificate of this client",
        Alert::HandshakeFailure => {
            "it refused: it wants a certificate of this client (--tls-cert and --tls-key), or no cipher is common to both"
        }
        Alert::ProtocolVersion => "it speaks an older TLS than 1.2, which is not safe",
        Alert::UnrecognisedName => {
            "it has no certificate for that name; give another with --tls-name"
        }
        _ => "it refused",
    };
    format!("{words} (alert {alert:?})")
}

/// Takes a name out of the form in which rustls shows it: `DnsName("localhost")`.
fn plain(name: &str) -> &str {
    match name.split_once('(') {
        Some((_, rest)) => rest.trim_end_matches(')').trim_matches('"'),
        None => name,
    }
}

/// The time between two moments, in days; a shorter one in hours or in minutes.
fn between(from: UnixTime, to: UnixTime) -> String {
    let time = Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()));
    let (count, unit) = match time.as_secs() {
        ..7_200 => (time.as_secs() / 60, "minute"),
        7_200..172_800 => (time.as_secs() / 3_600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_says_something() {
        let since = |seconds| {
            between(UnixTime::since_unix_epoch(Duration::ZERO), {
                UnixTime::since_unix_epoch(Duration::from_secs(seconds))
            })
        };
        assert_eq!([61, 7_200, 172_800].map(since), ["1 minute", "2 hours", "2 days"]);
    }

    #[test]
    fn only_an_alert_alone_is_taken_for_one() {
        assert!(answers_with_tls(&[21, 3, 3, 0, 2, 2, 10]).is_err());
        for bytes in [&b""[..], b"hello\n", &[21, 3, 3, 0, 2, 2, 10, 0], &[22, 3, 3, 0, 2, 2, 10]] {
            assert!(answers_with_tls(bytes).is_ok());
        }
    }
}
