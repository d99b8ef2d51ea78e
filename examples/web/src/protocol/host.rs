//! The host of a request, as RFC 9110, 7.2 and RFC 3986, 3.2.2 define it. This server has one site for all hosts, but a
//! host that two servers read differently can poison a cache between them.

use std::net::Ipv6Addr;
use std::str;

/// Whether a value is a host with or without a port. An empty host is valid: a client sends it for an address without a host.
/// Each request has a host, so its bytes are read only once.
pub fn is_host(value: &[u8]) -> bool {
    let rest = match value {
        // The grammar allows a port without a host, but no address has that form.
        [b':', ..] => return false,
        [b'[', rest @ ..] => match rest.iter().position(|byte| *byte == b']') {
            Some(end) if is_ip_literal(&rest[..end]) => &rest[end + 1..],
            _ => return false,
        },
        name => after_name(name),
    };
    match rest {
        [b':', port @ ..] => is_port(port),
        rest => rest.is_empty(),
    }
}

/// Whether this may stand between brackets: an IPv6 address, or the form reserved for future versions.
fn is_ip_literal(text: &[u8]) -> bool {
    let is_future = || {
        let [b'v' | b'V', rest @ ..] = text else { return false };
        let Some(dot) = rest.iter().position(|byte| *byte == b'.') else { return false };
        let (version, address) = (&rest[..dot], &rest[dot + 1..]);
        let is_address = |byte: &u8| IS_PLAIN[usize::from(*byte)] || *byte == b':';
        !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && !address.is_empty()
            && address.iter().all(is_address)
    };
    str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()) || is_future()
}

/// Skips letters, digits, the signs that a name may have, and percent-encoded bytes.
fn after_name(mut name: &[u8]) -> &[u8] {
    loop {
        let plain = name.iter().take_while(|byte| IS_PLAIN[usize::from(**byte)]).count();
        name = match &name[plain..] {
            [b'%', one, two, after @ ..] if one.is_ascii_hexdigit() && two.is_ascii_hexdigit() => {
                after
            }
            rest => return rest,
        };
    }
}

/// The characters that RFC 3986 calls unreserved or sub-delims. This is a table, because a search of the signs for each byte
/// took a quarter of the instructions of a pipelined request.
const IS_PLAIN: [bool; 256] = {
    let (signs, mut table, mut byte) = (b"-._~!$&'()*+,;=", [false; 256], 0);
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut sign = 0;
    while sign < signs.len() {
        table[signs[sign] as usize] = true;
        sign += 1;
    }
    table
};

fn is_port(port: &[u8]) -> bool {
    let number = port.iter().try_fold(0_u16, |number, digit| {
        let digit = u16::from(digit.wrapping_sub(b'0'));
        number.checked_mul(10)?.checked_add(digit).filter(|_| digit < 10)
    });
    number.is_some()
}
