//! [`SelfSigned`]: a certificate for one run, which no authority has signed.
//!
//! It is encoded here and not by a crate, because it always has the same twelve fields. The key is only in this
//! process's memory and is gone with it. So the certificate needs no end date, and has the date that means "none".

use std::net::IpAddr;
use std::sync::Arc;

use common::{Endpoint, Failure};
use ring::digest::{SHA256, digest};
use ring::error::{KeyRejected, Unspecified};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use socketserver::tls::Tls;
use socketserver::tls::rustls::crypto::ring::{Ticketer, default_provider};
use socketserver::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use socketserver::tls::rustls::{Error, ServerConfig};

/// A certificate, its key, and the part by which a client can recognise it.
pub struct SelfSigned {
    certificate: Vec<u8>,
    /// The part of the certificate that `curl --pinnedpubkey` compares.
    public_key: Vec<u8>,
    key: Vec<u8>,
    names: Vec<String>,
}

impl SelfSigned {
    /// Makes a certificate for this machine's own names and for the hosts that the program is bound to.
    ///
    /// # Errors
    ///
    /// If the system has no randomness.
    pub fn make(addresses: &[Endpoint]) -> Result<Self, Failure> {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
        for address in addresses {
            let Endpoint::Tcp(text) = address else { continue };
            let host = text.rsplit_once(':').map_or(&**text, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let is_any = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
            if !is_any && !names.iter().any(|name| name == host) {
                names.push(host.to_owned());
            }
        }
        let failed = |what: &str| Failure::Other(format!("cannot make a certificate: {what}"));
        let random = SystemRandom::new();
        let no_randomness = |_: Unspecified| failed("the system has no randomness");
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(no_randomness)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random)
            .map_err(|error: KeyRejected| failed(&error.to_string()))?;
        let mut serial = [0; 16];
        random.fill(&mut serial).map_err(no_randomness)?;
        // The number is positive, and none of its bytes can be left out.
        serial[0] = serial[0] & 0x3f | 0x40;
        let public_key = public_key(pair.public_key().as_ref());
        let content = content(&serial, &public_key, &names);
        let signature = pair.sign(&random, &content).map_err(no_randomness)?;
        let signature = der(BIT_STRING, &[&[0], signature.as_ref()]);
        let certificate = der(SEQUENCE, &[&content, &ecdsa_with_sha256(), &signature]);
        Ok(Self { certificate, public_key, key: key.as_ref().to_vec(), names })
    }

    /// The server's settings for TLS.
    ///
    /// # Errors
    ///
    /// If rustls cannot use the certificate.
    pub fn tls(&self) -> Result<Tls, Failure> {
        let chain = vec![CertificateDer::from(self.certificate.clone())];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let failed = |error: Error| Failure::Other(format!("cannot prepare TLS: {error}"));
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(failed)?;
        config.ticketer = Ticketer::new().map_err(failed)?;
        Ok(Tls::from(config))
    }

    /// How a client at this address can be sure of the certificate.
    pub fn advice(&self, url: &str) -> String {
        let fingerprint: Vec<String> = digest(&SHA256, &self.certificate)
            .as_ref()
            .iter()
            .map(|b| format!("{b:02X}"))
            .collect();
        let pin = base64(digest(&SHA256, &self.public_key).as_ref());
        format!(
            "its certificate is made for this run, for {}; a browser warns, and shows its SHA-256 fingerprint:\n  {}\n\
             curl asks for exactly this one: curl --insecure --pinnedpubkey 'sha256//{pin}' {url}/",
            self.names.join(", "),
            fingerprint.join(":"),
        )
    }
}

// The encoding of certificates (X.690): a type, a length, a content.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTF8: u8 = 0x0c;
const TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The names of a subjectAltName: a host, and an address.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

// Object identifiers, encoded.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// Encodes a value of this type. Its content is the parts one after the other, together less than 64 KiB.
fn der(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [.., high, low] = content.len().to_be_bytes();
    let mut value = vec![kind];
    match (high, low) {
        (0, ..0x80) => value.push(low),
        (0, _) => value.extend([0x81, low]),
        _ => value.extend([0x82, high, low]),
    }
    value.extend(content);
    value
}

fn ecdsa_with_sha256() -> Vec<u8> {
    der(SEQUENCE, &[&der(OBJECT, &[ECDSA_WITH_SHA256])])
}

/// A SubjectPublicKeyInfo (RFC 5480).
fn public_key(point: &[u8]) -> Vec<u8> {
    let algorithm = der(SEQUENCE, &[&der(OBJECT, &[EC_PUBLIC_KEY]), &der(OBJECT, &[P256])]);
    der(SEQUENCE, &[&algorithm, &der(BIT_STRING, &[&[0], point])])
}

/// A TBSCertificate (RFC 5280): all that is signed.
fn content(serial: &[u8], public_key: &[u8], names: &[String]) -> Vec<u8> {
    let version_3 = der(0xa0, &[&der(INTEGER, &[&[2]])]);
    let common_name = [der(OBJECT, &[COMMON_NAME]), der(UTF8, &[b"made for one run"])].concat();
    let name = der(SEQUENCE, &[&der(SET, &[&der(SEQUENCE, &[&common_name])])]);
    // RFC 5280, 4.1.2.5: the second date is for certificates without a known end.
    let validity = [der(TIME, &[b"20200101000000Z"]), der(TIME, &[b"99991231235959Z"])].concat();
    let names: Vec<u8> = names.iter().flat_map(|name| alternative_name(name)).collect();
    let names = der(OCTET_STRING, &[&der(SEQUENCE, &[&names])]);
    let extension = der(SEQUENCE, &[&der(OBJECT, &[SUBJECT_ALT_NAME]), &names]);
    let extensions = der(0xa3, &[&der(SEQUENCE, &[&extension])]);
    let validity = der(SEQUENCE, &[&validity]);
    let parts: [&[u8]; 8] = [
        &version_3,
        &der(INTEGER, &[serial]),
        &ecdsa_with_sha256(),
        &name,
        &validity,
        &name,
        public_key,
        &extensions,
    ];
    der(SEQUENCE, &parts)
}

fn alternative_name(name: &str) -> Vec<u8> {
    match name.parse() {
        Ok(IpAddr::V4(ip)) => der(IP_ADDRESS, &[&ip.octets()]),
        Ok(IpAddr::V6(ip)) => der(IP_ADDRESS, &[&ip.octets()]),
        Err(_) => der(DNS_NAME, &[name.as_bytes()]),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three
            .iter()
            .enumerate()
            .fold(0, |sum, (at, byte)| sum | usize::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let digit = (digit <= three.len()).then(|| DIGITS[number >> (18 - 6 * digit) & 63]);
            text.push(digit.map_or('=', char::from));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        assert_eq!(
            ["", "f", "fo", "foo", "foobar"].map(|text| base64(text.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYmFy"]
        );
    }

    #[test]
    fn lengths_have_as_many_bytes_as_they_need() {
        let heads =
            [0x7f, 0x80, 0x100].map(|length| der(INTEGER, &[&vec![0; length]])[1..4].to_vec());
        assert_eq!(heads, [[0x7f, 0, 0], [0x81, 0x80, 0], [0x82, 1, 0]]);
    }
}
