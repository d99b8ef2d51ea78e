//! The content of headers, and the reasons why bytes are no header.

use socketserver::Address;
use socketserver::proxy_protocol::{
    Command, Header, HeaderProgress, InvalidHeader, MAX_BYTES, ProxiedTransport, ProxyProtocol,
    Version,
};

use super::{SIGNATURE, V1, tlv, v2, whole};

fn parse(bytes: &[u8]) -> Header {
    match Header::parse(bytes) {
        Ok(HeaderProgress::Whole { header, length }) if length == bytes.len() => *header,
        other => panic!("{other:?} of {}", bytes.escape_ascii()),
    }
}

fn line(text: &str) -> Result<HeaderProgress, InvalidHeader> {
    Header::parse(text.as_bytes())
}

fn inet(text: &str) -> Address {
    Address::Inet(text.parse().unwrap())
}

#[test]
fn a_line_has_the_addresses_of_both_ends() {
    let header = parse(V1);
    assert_eq!((header.version(), header.command()), (Version::V1, Command::Proxy));
    assert_eq!(header.source(), Some(&inet("203.0.113.9:56324")));
    assert_eq!(header.destination(), Some(&inet("198.51.100.1:443")));
    assert_eq!(header.transport(), ProxiedTransport::Stream);
    assert_eq!(header.tlvs().count(), 0);
    // An IPv4 address counts as one, however it is written.
    let mapped = parse(b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 65535 0\r\n");
    assert_eq!(mapped.source(), Some(&inet("192.0.2.1:65535")));
    assert_eq!(mapped.destination(), Some(&inet("[2001:db8::1]:0")));
}

#[test]
fn the_longest_line_is_taken_and_one_byte_more_is_not() {
    let address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    parse(format!("PROXY TCP6 {address} {address} 65535 65535\r\n").as_bytes());
    let unknown = |fill: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(fill));
    assert_eq!(unknown(91).len(), 107);
    assert_eq!(parse(unknown(91).as_bytes()).source(), None);
    assert_eq!(line(&unknown(92)), Err(InvalidHeader::LineTooLong));
    // The line is too long even before its end has come.
    assert_eq!(line(&unknown(92)[..106]), Err(InvalidHeader::LineTooLong));
}

#[test]
fn a_line_that_is_not_exactly_right_is_wrong() {
    for wrong in [
        "PROXY TCP4 203.0.113.9 198.51.100.1 56324 443 \r\n",
        "PROXY TCP4  203.0.113.9 198.51.100.1 56324 443\r\n",
        "PROXY TCP4 203.0.113.9 198.51.100.1 56324\r\n",
        "PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\n",
        "PROXY TCP4 203.0.113.9 198.51.100.1 56324 +443\r\n",
        "PROXY TCP4 203.0.113.9 198.51.100.1 056324 443\r\n",
        "PROXY TCP4 203.0.113.9 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 203.0.113.09 198.51.100.1 1 2\r\n",
        "PROXY TCP4 203.0.113 198.51.100.1 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP5 1.1.1.1 1.1.1.1 1 2\r\n",
        "PROXY UDP4 1.1.1.1 1.1.1.1 1 2\r\n",
        "PROXY tcp4 1.1.1.1 1.1.1.1 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY\r\n",
        "proxy TCP4 1.1.1.1 1.1.1.1 1 2\r\n",
        " PROXY UNKNOWN\r\n",
        "GET / HTTP/1.1\r\n",
        "\r\nPROXY UNKNOWN\r\n",
    ] {
        assert!(line(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_wrong_line_is_noticed_before_its_end() {
    for wrong in
        ["G", "PROXY\t", "PROXY T4", "PROXY TCP4 x", "PROXY TCP4 1.1.1.1.1", "PROXY TCP4 1.1 "]
    {
        assert!(line(wrong).is_err(), "{wrong:?}");
    }
    for right in ["P", "PROXY ", "PROXY T", "PROXY TCP4 1", "PROXY TCP6 :", "PROXY UNKNOWN x\rx"] {
        assert!(matches!(line(right), Ok(HeaderProgress::Partial { .. })), "{right:?}");
    }
}

#[test]
fn a_binary_header_has_its_families() {
    assert_eq!(parse(&v2(b"")).source(), Some(&inet("203.0.113.9:56324")));
    let mut v6 = [0; 36];
    v6[15] = 1;
    v6[26..32].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    v6[32..].copy_from_slice(&[0, 80, 0x01, 0xbb]);
    let header = parse(&whole(0x21, 0x22, &v6));
    assert_eq!(header.source(), Some(&inet("[::1]:80")));
    assert_eq!(header.destination(), Some(&inet("192.0.2.1:443")), "mapped");
    assert_eq!(header.transport(), ProxiedTransport::Datagram);

    let unix = |one: &[u8], other: &[u8]| {
        let mut both = [0; 216];
        both[..one.len()].copy_from_slice(one);
        both[108..108 + other.len()].copy_from_slice(other);
        parse(&whole(0x21, 0x31, &both))
    };
    let header = unix(b"/run/a.sock", b"\0name");
    assert_eq!(header.source(), Some(&Address::Unix("/run/a.sock".into())));
    assert_eq!(header.destination(), Some(&Address::Abstract(b"name".to_vec())));
    assert_eq!(unix(b"", b"").source(), Some(&Address::Unnamed));
    assert!(
        matches!(unix(&[b'/'; 108], b"").source(), Some(Address::Unix(path)) if path.as_os_str().len() == 108)
    );
}

#[test]
fn a_connection_of_the_proxys_own_has_no_addresses_whatever_its_header_says() {
    // This holds also for a family that does not exist, and for bytes that are no TLVs.
    for header in [whole(0x20, 0, b""), whole(0x20, 0x11, b"x"), whole(0x20, 0xff, &[0xff; 40])] {
        let header = parse(&header);
        assert!(header.is_local() && header.source().is_none());
        assert_eq!(header.tlvs().count(), 0);
    }
    let unspecified = parse(&whole(0x21, 0, &tlv(5, b"id")));
    assert!(!unspecified.is_local() && unspecified.source().is_none());
    assert_eq!(unspecified.unique_id(), Some(&b"id"[..]));
}

#[test]
fn tlvs_are_handed_on() {
    let ssl = [
        &[0b111, 0, 0, 0, 0][..],
        &tlv(0x21, b"TLSv1.3"),
        &tlv(0x22, "Zoë".as_bytes()),
        &tlv(0x23, b"TLS_AES_256_GCM_SHA384"),
    ];
    let all = [
        tlv(1, b"h2"),
        tlv(2, "bücher.example".as_bytes()),
        tlv(4, &[0; 9]),
        tlv(5, &[7; 128]),
        tlv(0x20, &ssl.concat()),
        tlv(0x30, b"blue"),
        tlv(0xe4, b"ours"),
        tlv(0xe4, b"ours again"),
    ];
    let header = parse(&v2(&all.concat()));
    assert_eq!(header.alpn(), Some(&b"h2"[..]));
    assert_eq!(header.authority(), Some("bücher.example"));
    assert_eq!(header.unique_id(), Some(&[7; 128][..]));
    assert_eq!(header.netns(), Some("blue"));
    assert!(!header.is_checked());
    let ssl = header.ssl().unwrap();
    assert!(ssl.is_tls() && ssl.has_certificate() && ssl.is_verified());
    assert_eq!((ssl.version(), ssl.common_name()), (Some("TLSv1.3"), Some("Zoë")));
    assert_eq!(ssl.cipher(), Some("TLS_AES_256_GCM_SHA384"));
    let own: Vec<_> = header.tlvs().filter(|tlv| tlv.kind == 0xe4).map(|tlv| tlv.value).collect();
    assert_eq!(own, [&b"ours"[..], b"ours again"]);
    // A certificate that the proxy has not verified, a client without one, and a verified certificate.
    for (bits, verify, is_verified) in [(0b111, 1, false), (0b1, 0, false), (0b11, 0, true)] {
        let header = parse(&v2(&tlv(0x20, &[bits, 0, 0, 0, verify])));
        assert_eq!(header.ssl().unwrap().is_verified(), is_verified);
    }
}

#[test]
fn a_checksum_is_checked() {
    // Another implementation has computed the checksum, which stands in the middle of this header.
    let right = &include_bytes!("../../seeds/proxy-checksum")[..];
    let right = right.strip_suffix(b"GET /").unwrap();
    assert!(parse(right).is_checked());
    for at in SIGNATURE.len() + 4..right.len() {
        let mut wrong = right.to_vec();
        wrong[at] ^= 1;
        assert!(Header::parse(&wrong).is_err(), "a bit of byte {at} is wrong");
    }
}

#[test]
fn binary_headers_that_are_not_exactly_right_are_wrong() {
    use InvalidHeader::{Command, Family, TlvLength, TlvTwice, TlvValue, TooLong, TooShort};
    let long = |length: usize| whole(0x21, 0, &tlv(4, &vec![0; length - 19]));
    parse(&long(MAX_BYTES));
    for (bytes, why) in [
        (whole(0x11, 0x11, &[0; 12]), Command(0x11)),
        (whole(0x22, 0x11, &[0; 12]), Command(0x22)),
        (whole(0x21, 0x10, &[0; 12]), Family(0x10)),
        (whole(0x21, 0x13, &[0; 12]), Family(0x13)),
        (whole(0x21, 0x41, &[0; 12]), Family(0x41)),
        (whole(0x21, 0x01, &[0; 12]), Family(0x01)),
        (whole(0x21, 0x11, &[0; 11]), TooShort),
        (whole(0x21, 0x21, &[0; 35]), TooShort),
        (whole(0x21, 0x31, &[0; 215]), TooShort),
        (long(MAX_BYTES + 1), TooLong(MAX_BYTES + 1)),
        (v2(&[4]), TlvLength),
        (v2(&[4, 0, 2, 0]), TlvLength),
        (v2(&[&tlv(4, b"")[..], b"\0\0"].concat()), TlvLength),
        (v2(&tlv(0x20, b"\x01\0\0\0")), TlvValue(0x20)),
        (v2(&tlv(0x20, b"\x01\0\0\0\0\x21\0\x09TLSv1.3")), TlvLength),
        (v2(&tlv(0x20, b"\x01\0\0\0\0\x22\0\x01\xff")), TlvValue(0x22)),
        (v2(&tlv(2, b"\xff")), TlvValue(2)),
        (v2(&tlv(3, b"\0\0\0")), TlvValue(3)),
        (v2(&tlv(5, &[0; 129])), TlvValue(5)),
        (v2(&tlv(0x30, "ü".as_bytes())), TlvValue(0x30)),
        (v2(&[tlv(2, b"a"), tlv(2, b"a")].concat()), TlvTwice(2)),
    ] {
        assert_eq!(Header::parse(&bytes), Err(why), "{}", bytes.escape_ascii());
    }
}

#[test]
fn networks_are_read_as_operators_write_them() {
    let from: ProxyProtocol = "10.0.0.0/8, ::1,unix".parse().unwrap();
    let shown: Vec<_> = from.networks().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.0/8", "::1", "unix"]);
    for wrong in ["", ",", "10.0.0.0/8,", "10.0.0.1/8", "everywhere"] {
        let error = wrong.parse::<ProxyProtocol>().unwrap_err();
        assert!(error.is_bad_address(), "{error}");
    }
    let error = ProxyProtocol::from_networks([""; 0]).unwrap_err();
    assert!(error.to_string().contains("name a network"), "{error}");
}
