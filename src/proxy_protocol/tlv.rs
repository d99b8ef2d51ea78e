//! [`Tlv`], [`Tlvs`] and [`Ssl`]: the fields in which a proxy says more than the addresses.
//!
//! ```text
//! type: 1 byte   length: 2 bytes   value: `length` bytes        0x20 SSL, whose value is
//!                                                               client: 1 byte   verify: 4 bytes   TLVs 0x21 to 0x27
//! ```
//!
//! All bytes are checked once, when the header is whole ([`check`]). So the getters can find no mistake any more: they
//! return options, and no errors.

use std::fmt;

use super::crc32c::crc32c;
use super::invalid::InvalidHeader;

// The types that the specification names, except for 0x04, which is padding and may come often.
pub(super) const ALPN: u8 = 0x01;
pub(super) const AUTHORITY: u8 = 0x02;
pub(super) const CRC32C: u8 = 0x03;
pub(super) const UNIQUE_ID: u8 = 0x05;
pub(super) const SSL: u8 = 0x20;
pub(super) const NETNS: u8 = 0x30;

/// The longest unique ID that the specification allows.
const MAX_UNIQUE_ID: usize = 128;

/// One field: a type, and a value that the type explains. Types from 0xe0 on are for each site's own use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tlv<'a> {
    /// The type of the field.
    pub kind: u8,
    /// The value of the field, of about 4,000 bytes at most.
    pub value: &'a [u8],
}

/// The fields of a header, in its order.
#[derive(Clone)]
pub struct Tlvs<'a> {
    /// Whole fields, one after the other.
    rest: &'a [u8],
}

impl<'a> Tlvs<'a> {
    /// The fields in bytes that have been checked. An end in the middle of a field ends the list.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The value of the first field of this type.
    #[must_use]
    pub fn find(mut self, kind: u8) -> Option<&'a [u8]> {
        self.find_map(|tlv| (tlv.kind == kind).then_some(tlv.value))
    }

    /// The first field of this type, if it is text.
    pub(super) fn text(self, kind: u8) -> Option<&'a str> {
        self.find(kind).and_then(|value| std::str::from_utf8(value).ok())
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let ([kind, high, low], rest) = self.rest.split_first_chunk()?;
        // A length that points beyond the header ends the list, and `check` sees that bytes are left.
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Tlv { kind: *kind, value })
    }
}

impl fmt::Debug for Tlvs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The TLS connection between the client and the proxy.
///
/// Only the proxy knows whether this is true, so believe it as far as you trust the networks of the proxies.
#[derive(Clone, Debug)]
pub struct Ssl<'a> {
    /// The specification's field `client`: a set of bits.
    client: u8,
    /// The specification's field `verify`: zero after a successful check of a certificate.
    verify: u32,
    /// The fields within the field, checked with the header.
    tlvs: Tlvs<'a>,
}

impl<'a> Ssl<'a> {
    /// Reads the value of an SSL field. None if the value is too short.
    pub(super) fn new(value: &'a [u8]) -> Option<Self> {
        let ([client, verify @ ..], tlvs) = value.split_first_chunk::<5>()?;
        Some(Self { client: *client, verify: u32::from_be_bytes(*verify), tlvs: Tlvs::new(tlvs) })
    }

    /// Whether the client has connected over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.client & 1 != 0
    }

    /// Whether the client has presented a certificate, on this connection or on an earlier one of its session.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.client & 6 != 0
    }

    /// Whether the client has presented a certificate, and the proxy has verified it.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.has_certificate() && self.verify == 0
    }

    /// The version, as `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> Option<&'a str> {
        self.tlvs.clone().text(0x21)
    }

    /// The common name of the client's certificate. It is the client's own claim, unless the certificate [is
    /// verified](Self::is_verified).
    #[must_use]
    pub fn common_name(&self) -> Option<&'a str> {
        self.tlvs.clone().text(0x22)
    }

    /// The cipher, as `TLS_AES_256_GCM_SHA384`.
    #[must_use]
    pub fn cipher(&self) -> Option<&'a str> {
        self.tlvs.clone().text(0x23)
    }

    /// All fields within this one.
    #[must_use]
    pub fn tlvs(&self) -> Tlvs<'a> {
        self.tlvs.clone()
    }
}

/// Checks the fields from `start` on. Each must end where the next one begins, and the last one with the header. No
/// known field may come twice, known values must have their form, and a checksum must fit. Returns whether there is a
/// checksum.
pub(super) fn check(whole: &[u8], start: usize) -> Result<bool, InvalidHeader> {
    let mut checksum = None;
    let mut seen = Vec::new();
    let mut tlvs = Tlvs::new(&whole[start..]);
    while let Some(tlv) = tlvs.next() {
        let Tlv { kind, value } = tlv;
        // Fields of other types may come several times: sites give them their own meaning.
        if matches!(kind, ALPN | AUTHORITY | CRC32C | UNIQUE_ID | SSL | NETNS) {
            // If two values of one kind differed, one reader might take the first and another the last.
            if seen.contains(&kind) {
                return Err(InvalidHeader::TlvTwice(kind));
            }
            seen.push(kind);
        }
        if !has_its_form(tlv)? {
            return Err(InvalidHeader::TlvValue(kind));
        }
        if kind == CRC32C {
            // The place in the header at which the four bytes of the checksum begin.
            checksum = Some(whole.len() - tlvs.rest.len() - value.len());
        }
    }
    if !tlvs.rest.is_empty() {
        return Err(InvalidHeader::TlvLength);
    }
    let Some(at) = checksum else { return Ok(false) };
    let (before, from) = whole.split_at(at);
    let (sum, after) = from.split_at(4);
    // The sum is of the header with zeros in the place of the sum.
    let right = crc32c(&[before, &[0; 4], after]);
    if sum == right.to_be_bytes() { Ok(true) } else { Err(InvalidHeader::Checksum) }
}

/// Whether a field that this module knows has the form that the specification gives it.
fn has_its_form(tlv: Tlv<'_>) -> Result<bool, InvalidHeader> {
    let value = tlv.value;
    Ok(match tlv.kind {
        AUTHORITY => std::str::from_utf8(value).is_ok(),
        CRC32C => value.len() == 4,
        UNIQUE_ID => value.len() <= MAX_UNIQUE_ID,
        NETNS => value.is_ascii(),
        // The fields within this one have lengths of their own, and must fill it exactly.
        SSL => {
            let Some(mut ssl) = Ssl::new(value) else { return Ok(false) };
            for inner in &mut ssl.tlvs {
                let is_text = (0x21..=0x27).contains(&inner.kind);
                if is_text && std::str::from_utf8(inner.value).is_err() {
                    return Err(InvalidHeader::TlvValue(inner.kind));
                }
            }
            if !ssl.tlvs.rest.is_empty() {
                return Err(InvalidHeader::TlvLength);
            }
            true
        }
        _ => true,
    })
}
