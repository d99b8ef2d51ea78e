//! The host of a request, as RFC 9110, 7.2 and RFC 3986, 3.2.2 define it. This server has one site for all hosts, but a
//! host that two servers read differently can poison a cache between them.

use std::net::Ipv6Addr;
use std::str;

/// Whether it is a host with or without a port. An empty one is valid: a client sends it for an address without a host.
pub fn is_host(value: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(value) else { return false };
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if !is_ip_literal(address) {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => ("", port),
                None if port.is_empty() => ("", ""),
                None => return false,
            }
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    // The grammar allows a port without a host, but no address has that form.
    let is_whole = !text.starts_with(':');
    is_whole && is_name(name.as_bytes()) && is_port(port)
}

/// Whether this may stand between brackets: an IPv6 address, or the form reserved for future versions.
fn is_ip_literal(text: &str) -> bool {
    let is_future = || {
        let rest = text.strip_prefix(['v', 'V'])?;
        let (version, address) = rest.split_once('.')?;
        let is_version =
            !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_address =
            !address.is_empty() && address.bytes().all(|byte| is_plain(byte) || byte == b':');
        Some(is_version && is_address)
    };
    text.parse::<Ipv6Addr>().is_ok() || is_future().unwrap_or(false)
}

/// Letters, digits, the signs that a name may have, and percent codes.
fn is_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'%', [one, two, after @ ..])
                if one.is_ascii_hexdigit() && two.is_ascii_hexdigit() =>
            {
                after
            }
            (byte, after) if is_plain(*byte) => after,
            _ => return false,
        };
    }
    true
}

/// RFC 3986: unreserved and sub-delims.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok())
}
