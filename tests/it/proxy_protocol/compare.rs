//! One input for two parsers of PROXY headers: ours, and that of the crate `proxy-header`. Where they differ, the
//! difference has a reason that is written here.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use socketserver::Address;
use socketserver::proxy_protocol::{Header, HeaderProgress, InvalidHeader, MAX_BYTES};

/// Compares both parsers, and checks the promises of ours.
pub(crate) fn compare(bytes: &[u8]) {
    let config = ParseConfig { include_tlvs: true, allow_v1: true, allow_v2: true };
    let theirs = ProxyHeader::parse(bytes, config);
    match (Header::parse(bytes), theirs) {
        (Ok(HeaderProgress::Whole { header, length }), Ok((other, other_length))) => {
            assert_eq!(length, other_length);
            same(&header, &other);
            promises(bytes, length);
        }
        // A connection that the proxy makes for itself: the other parser wants addresses of the header's family, which has to be
        // ignored.
        (Ok(HeaderProgress::Whole { header, length }), Err(_)) if header.is_local() => {
            promises(bytes, length);
        }
        (Ok(HeaderProgress::Whole { length, .. }), Err(_)) => {
            assert!(has_bare_return(&bytes[..length - 2]), "valid only here");
            promises(bytes, length);
        }
        (Ok(HeaderProgress::Partial { missing }), Err(Error::BufferTooShort)) => {
            assert!(missing > 0);
        }
        (Ok(HeaderProgress::Partial { .. }), Err(_)) => {
            let is_local = bytes.get(12) == Some(&0x20);
            assert!(is_local || has_bare_return(bytes), "may become valid only here");
        }
        (Ok(HeaderProgress::Partial { .. }), Ok(_)) => panic!("whole only there"),
        (Err(invalid), Ok((_, length))) => assert!(
            is_stricter(invalid, bytes, length),
            "valid only there: {invalid}: {}",
            bytes[..length].escape_ascii()
        ),
        // Our parser notices some faults before the end of the header has come.
        (Err(_), Err(_)) => {}
        // Both enums may grow.
        (other, _) => panic!("{other:?}"),
    }
}

/// Whether the two parsers see different ends: behind `UNKNOWN` the other parser ends the line at the first carriage return, and
/// ours at the first one that a newline follows.
fn has_bare_return(line: &[u8]) -> bool {
    line.starts_with(b"PROXY UNKNOWN") && line.contains(&b'\r')
}

/// Whether the error is that of a check that the other parser does not make.
fn is_stricter(invalid: InvalidHeader, bytes: &[u8], length: usize) -> bool {
    let line = || std::str::from_utf8(&bytes[..length - 2]).unwrap_or_default();
    match invalid {
        // The other parser takes any byte behind `PROXY`.
        InvalidHeader::Unknown => bytes[5] != b' ',
        // The other parser bounds the line only while it has no end.
        InvalidHeader::LineTooLong => length > 107,
        // The other parser takes `UNKNOWNS`, a sign, and zeros before a port.
        InvalidHeader::Line { .. } if bytes[6..].starts_with(b"UNKNOWN") => bytes[13] != b' ',
        InvalidHeader::Line { .. } => line()
            .split(' ')
            .skip(4)
            .any(|port| port.starts_with('+') || (port.starts_with('0') && port.len() > 1)),
        InvalidHeader::TooLong(_) => length > MAX_BYTES,
        // The other parser reads TLVs only when it is asked for them, and computes no checksum.
        InvalidHeader::TlvLength
        | InvalidHeader::TlvValue(_)
        | InvalidHeader::TlvTwice(_)
        | InvalidHeader::Checksum => true,
        _ => false,
    }
}

/// Fails unless both headers have the same addresses and the same TLVs.
fn same(ours: &Header, theirs: &ProxyHeader<'_>) {
    let inet = |address: SocketAddr| Address::from(address);
    match theirs.proxied_address() {
        Some(theirs) => {
            assert_eq!(ours.source(), Some(&inet(theirs.source)));
            assert_eq!(ours.destination(), Some(&inet(theirs.destination)));
        }
        // The other parser does not read the addresses of Unix sockets.
        None => assert!(ours.source().is_none_or(|source| source.as_inet().is_none())),
    }
    // The specification demands that the TLVs of the proxy's own connections are discarded.
    if ours.is_local() {
        assert_eq!(ours.tlvs().count(), 0);
        return;
    }
    assert_eq!(ours.tlvs().count(), theirs.tlvs().count());
    assert_eq!(ours.alpn(), theirs.alpn());
    assert_eq!(ours.authority(), theirs.authority());
    assert_eq!(ours.unique_id(), theirs.unique_id());
    assert_eq!(ours.is_checked(), theirs.crc32c().is_some());
    let (our_ssl, their_ssl) = (ours.ssl(), theirs.ssl());
    assert_eq!(our_ssl.is_some(), their_ssl.is_some());
    if let (Some(ours), Some(theirs)) = (our_ssl, their_ssl) {
        assert_eq!(ours.is_tls(), theirs.client_ssl());
        assert_eq!(ours.is_verified(), ours.has_certificate() && theirs.verify() == 0);
        assert_eq!(ours.tlvs().count(), theirs.tlvs().count());
        assert_eq!(ours.version(), theirs.version());
        assert_eq!(ours.common_name(), theirs.cn());
        assert_eq!(ours.cipher(), theirs.cipher());
    }
}

/// The promises of our parser for a header that is whole.
fn promises(bytes: &[u8], length: usize) {
    // Nothing behind the header matters.
    assert_eq!(Header::parse(bytes), Header::parse(&bytes[..length]));
    // A reader that asks for as much as is missing stops at the end of the header, however little it gets at a time.
    for each in [usize::MAX, 7, 1] {
        let mut have = 0;
        while let Ok(HeaderProgress::Partial { missing }) = Header::parse(&bytes[..have]) {
            assert!(missing > 0 && have + missing <= length, "{missing} missing after {have}");
            have += missing.min(each);
        }
        assert_eq!(have, length);
    }
}
